//! One moment of the database, for an answer that asks more than once.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::DataType;
use async_trait::async_trait;
use tokio::sync::Mutex;
use tokio_postgres::types::ToSql;

use super::read::{as_text, text_rows};
use super::readers::Reader;
use super::{Postgres, time};
use crate::error::{Error, Result};
use crate::sink::quoted;
use crate::sql::planned::{Table, TableColumn};
use crate::store::{Bound, BoundValue, Snapshot, Wanted, check_scan, scan_limit};

/// A session in a transaction that sees one moment.
pub struct PostgresSnapshot {
    /// Until it is done.
    reader: Mutex<Option<Reader>>,
}

impl PostgresSnapshot {
    /// Begins it.
    pub async fn begin(store: &Postgres) -> Result<Self> {
        let reader = store.reader().await?;
        let ms = store.timeout.as_millis();
        // What nobody waits for any more must end on the server too.
        let begin = format!("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL statement_timeout = {ms}");
        reader.session.batch(&begin).await?;
        Ok(Self { reader: Mutex::new(Some(reader)) })
    }

    /// Rows of a query over a table; none if there is no such table.
    async fn ask(&self, table: &Table, sql: &str, values: &[BoundValue]) -> Result<Vec<tokio_postgres::Row>> {
        let held = self.reader.lock().await;
        let session = &held.as_ref().ok_or_else(|| Error::bug("a snapshot was asked after its end"))?.session;
        let exists = session.one("SELECT to_regclass($1) IS NOT NULL", &[&quoted(&table.name)]).await?;
        if !exists.get::<_, bool>(0) {
            return Ok(Vec::new());
        }
        let parameter = |value: &BoundValue| -> Box<dyn ToSql + Sync + Send> {
            match value {
                BoundValue::Integer(value) | BoundValue::Time(value) => Box::new(*value),
                BoundValue::Text(text) => Box::new(text.clone()),
            }
        };
        let parameters: Vec<Box<dyn ToSql + Sync + Send>> = values.iter().map(parameter).collect();
        let parameters: Vec<&(dyn ToSql + Sync)> =
            parameters.iter().map(|p| p.as_ref() as &(dyn ToSql + Sync)).collect();
        session.all(sql, &parameters).await
    }
}

/// A condition; its value is the parameter of this number.
fn condition(table: &Table, bound: &Bound, number: usize) -> String {
    let column = &table.columns[bound.column];
    let value = match bound.value {
        BoundValue::Integer(_) => format!("${number}::bigint"),
        BoundValue::Text(_) => format!("${number}::text"),
        BoundValue::Time(_) => time_of(column, &format!("${number}")),
    };
    format!("{} {} {value}", quoted(&column.name), bound.comparison.sql())
}

/// Microseconds as the type of a time column.
fn time_of(column: &TableColumn, parameter: &str) -> String {
    match column.data_type {
        DataType::Timestamp(_, None) => format!("({} AT TIME ZONE 'UTC')", time(parameter)),
        _ => time(parameter),
    }
}

#[async_trait]
impl Snapshot for PostgresSnapshot {
    async fn rows(&self, table: &Table, wanted: &Wanted) -> Result<RecordBatch> {
        let columns: Vec<String> = wanted.columns.iter().map(|column| as_text(&table.columns[*column])).collect();
        let conditions: Vec<String> =
            wanted.bounds.iter().enumerate().map(|(index, bound)| condition(table, bound, index + 1)).collect();
        let filter = if conditions.is_empty() { String::new() } else { format!(" WHERE {}", conditions.join(" AND ")) };
        let (list, name, limit) = (columns.join(", "), quoted(&table.name), scan_limit(wanted));
        let values: Vec<BoundValue> = wanted.bounds.iter().map(|bound| bound.value.clone()).collect();
        let rows = self.ask(table, &format!("SELECT {list} FROM {name}{filter} LIMIT {limit}"), &values).await?;
        check_scan(table, rows.len())?;
        text_rows(&rows, &Arc::new(table.schema().project(&wanted.columns)?))
    }

    async fn extent(&self, table: &Table, column: usize) -> Result<Option<(i64, i64)>> {
        let (name, column) = (quoted(&table.name), &table.columns[column]);
        let us = |what: &str| format!("(extract(epoch FROM {what}({})) * 1000000)::bigint", quoted(&column.name));
        let rows = self.ask(table, &format!("SELECT {}, {} FROM {name}", us("min"), us("max")), &[]).await?;
        let found = rows.first().map(|row| (row.get::<_, Option<i64>>(0), row.get::<_, Option<i64>>(1)));
        Ok(match found {
            Some((Some(least), Some(greatest))) => Some((least, greatest)),
            _ => None,
        })
    }

    async fn done(&self) -> Result<()> {
        let Some(reader) = self.reader.lock().await.take() else { return Ok(()) };
        reader.session.batch("COMMIT").await?;
        reader.done();
        Ok(())
    }
}
