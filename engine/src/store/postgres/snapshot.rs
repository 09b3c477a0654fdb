//! One moment of the database, for an answer that asks more than once.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::DataType;
use async_trait::async_trait;
use tokio::sync::Mutex;
use tokio_postgres::types::ToSql;

use super::read::{self, as_text, text_rows};
use super::readers::Reader;
use super::{Postgres, Session, deadline, time};
use crate::archive::Before;
use crate::batch::Committed;
use crate::error::{Error, Result};
use crate::sink::quoted;
use crate::sql::planned::{Table, TableColumn};
use crate::store::status::{DeadLetterRow, Status};
use crate::store::{Bound, BoundValue, Letters, Moment, SCAN_ROWS_MAX, Snapshot, Wanted, check_scan, scan_sql};

/// A session in a transaction that sees one moment.
pub struct PostgresSnapshot {
    /// Until it is done.
    reader: Mutex<Option<Reader>>,
    limit: Duration,
}

impl PostgresSnapshot {
    /// Begins it.
    pub async fn begin(store: &Postgres, limit: Duration) -> Result<Self> {
        // Between its questions an answer may compute for as long as it has.
        let idle = limit.as_millis() + 5_000;
        let limit = limit.min(store.timeout);
        let begun = async {
            let reader = store.reader().await?;
            // What nobody waits for any more must end on the server too.
            let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL client_connection_check_interval = 1000; \
                SET LOCAL statement_timeout =";
            let limit = limit.as_millis().max(1);
            let begin = format!("{begin} {limit}; SET LOCAL idle_in_transaction_session_timeout = {idle}");
            reader.session.batch(&begin).await?;
            Ok::<Reader, Error>(reader)
        };
        let reader = deadline(limit, begun).await??;
        Ok(Self { reader: Mutex::new(Some(reader)), limit })
    }

    /// Rows of a query over a table; none if there is no such table.
    async fn ask(&self, table: &Table, sql: &str, values: &[BoundValue]) -> Result<Vec<tokio_postgres::Row>> {
        let parameter = |value: &BoundValue| -> Box<dyn ToSql + Sync + Send> {
            match value {
                BoundValue::Integer(value) | BoundValue::Time(value) => Box::new(*value),
                BoundValue::Text(text) => Box::new(text.clone()),
            }
        };
        let parameters: Vec<Box<dyn ToSql + Sync + Send>> = values.iter().map(parameter).collect();
        let parameters: Vec<&(dyn ToSql + Sync)> =
            parameters.iter().map(|p| p.as_ref() as &(dyn ToSql + Sync)).collect();
        self.asked(async |session: &Session| {
            let exists = session.one("SELECT to_regclass($1) IS NOT NULL", &[&quoted(&table.name)]).await?;
            if exists.get::<_, bool>(0) { session.all(sql, &parameters).await } else { Ok(Vec::new()) }
        })
        .await
    }

    /// What a question to the session answers, in the time that there is.
    async fn asked<T>(&self, question: impl AsyncFnOnce(&Session) -> Result<T>) -> Result<T> {
        let held = self.reader.lock().await;
        let session = &held.as_ref().ok_or_else(|| Error::bug("a snapshot was asked after its end"))?.session;
        deadline(self.limit, question(session)).await?
    }
}

/// The value of a condition: the parameter of its position.
fn value(table: &Table, index: usize, bound: &Bound) -> String {
    let parameter = format!("${}", index + 1);
    match bound.value {
        BoundValue::Integer(_) => format!("{parameter}::bigint"),
        BoundValue::Text(_) => format!("{parameter}::text"),
        BoundValue::Time(_) => time_of(&table.columns[bound.column], &parameter),
    }
}

/// Microseconds as the type of a time column.
fn time_of(column: &TableColumn, parameter: &str) -> String {
    match column.data_type {
        DataType::Timestamp(_, None) => format!("({} AT TIME ZONE 'UTC')", time(parameter)),
        _ => time(parameter),
    }
}

#[async_trait]
impl Moment for PostgresSnapshot {
    async fn rows(&self, table: &Table, wanted: &Wanted) -> Result<RecordBatch> {
        let sql = scan_sql(table, wanted, " COLLATE \"C\"", as_text, |index, bound| value(table, index, bound));
        let values: Vec<BoundValue> = wanted.bounds.iter().map(|bound| bound.value.clone()).collect();
        let rows = self.ask(table, &sql, &values).await?;
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

    async fn committed(&self, pipeline: &str) -> Result<Option<Committed>> {
        self.asked(async |session: &Session| read::committed(session, pipeline).await).await
    }

    async fn archived(&self, pipeline: &str, oldest: i64, times: (i64, i64)) -> Result<Before> {
        self.asked(async |session: &Session| session.archived(pipeline, oldest, times).await).await
    }
}

#[async_trait]
impl Snapshot for PostgresSnapshot {
    async fn status(&self) -> Result<Status> {
        self.asked(read::status).await
    }

    async fn dead_letters(&self, asked: Letters) -> Result<Vec<DeadLetterRow>> {
        self.asked(async |session: &Session| read::dead_letters(session, asked).await).await
    }

    async fn counts(&self, table: &Table, column: usize) -> Result<Vec<(i64, i64)>> {
        let (name, column) = (quoted(&table.name), quoted(&table.columns[column].name));
        let time = format!("(extract(epoch FROM {column}) * 1000000)::bigint");
        let sql = format!(
            "SELECT {time}, count(*) FROM {name} WHERE {column} IS NOT NULL GROUP BY {column} LIMIT {}",
            SCAN_ROWS_MAX + 1
        );
        let rows = self.ask(table, &sql, &[]).await?;
        check_scan(table, rows.len())?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    async fn changes(&self, view: &str) -> Result<Vec<(i64, i64)>> {
        let us = |column: &str| format!("(extract(epoch FROM {column}) * 1000000)::bigint");
        let sql = format!(
            "SELECT {}, {} FROM tidegate.window_changes WHERE view = $1 ORDER BY window_time DESC LIMIT {SCAN_ROWS_MAX}",
            us("window_time"),
            us("changed_at")
        );
        self.asked(async |session: &Session| {
            // An api may be newer than the engine that makes the tables, and than what it was granted.
            let there = "SELECT coalesce(has_table_privilege(to_regclass('tidegate.window_changes'), 'SELECT'), false)";
            let there = session.one(there, &[]).await?;
            let rows = if there.get(0) { session.all(&sql, &[&view]).await? } else { Vec::new() };
            Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
        })
        .await
    }

    async fn done(&self) -> Result<()> {
        let Some(reader) = self.reader.lock().await.take() else { return Ok(()) };
        reader.session.batch("COMMIT").await?;
        reader.done();
        Ok(())
    }
}
