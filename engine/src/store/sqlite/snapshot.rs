//! One moment of the file, for an answer that asks more than once.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use async_trait::async_trait;
use sqlx::sqlite::SqliteRow;
use sqlx::{AssertSqlSafe, Row, SqliteConnection};
use tokio::sync::Mutex;

use super::values::{self, Value};
use super::{SqliteStore, Told, bound};
use crate::error::Result;
use crate::sink::quoted;
use crate::sql::planned::Table;
use crate::store::{BoundValue, Snapshot, Wanted, check_scan, scan_sql};

/// A connection in a transaction that sees one moment; none where there is no file yet.
pub struct SqliteSnapshot {
    connection: Mutex<Option<SqliteConnection>>,
}

impl SqliteSnapshot {
    /// Begins it.
    pub async fn begin(store: &SqliteStore) -> Result<Self> {
        let mut connection = None;
        if store.path.exists() {
            let mut opened = store.connect().await?;
            sqlx::query("BEGIN").execute(&mut opened).await.map_err(Told::from)?;
            connection = Some(opened);
        }
        Ok(Self { connection: Mutex::new(connection) })
    }

    /// Rows of a query over a table; none if there is no such table.
    async fn ask(&self, table: &Table, sql: String, values: Vec<Value>) -> Result<Vec<SqliteRow>> {
        let mut held = self.connection.lock().await;
        let Some(connection) = held.as_mut() else { return Ok(Vec::new()) };
        if !SqliteStore::has_table(connection, &table.name).await? {
            return Ok(Vec::new());
        }
        Ok(bound(sqlx::query(AssertSqlSafe(sql)), values).fetch_all(connection).await.map_err(Told::from)?)
    }
}

#[async_trait]
impl Snapshot for SqliteSnapshot {
    async fn rows(&self, table: &Table, wanted: &Wanted) -> Result<RecordBatch> {
        let sql = scan_sql(table, wanted, |column| quoted(&column.name), |_, _| "?".to_string());
        let values = wanted.bounds.iter().map(|bound| match &bound.value {
            BoundValue::Integer(value) | BoundValue::Time(value) => Value::Integer(*value),
            BoundValue::Text(text) => Value::Text(text.clone()),
        });
        let rows = self.ask(table, sql, values.collect()).await?;
        check_scan(table, rows.len())?;
        let schema = Arc::new(table.schema().project(&wanted.columns)?);
        let fields = schema.fields().iter().enumerate();
        let arrays: Vec<ArrayRef> =
            fields.map(|(index, field)| values::array(&rows, index, field.data_type())).collect::<Result<_>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
        Ok(RecordBatch::try_new_with_options(schema, arrays, &options)?)
    }

    async fn extent(&self, table: &Table, column: usize) -> Result<Option<(i64, i64)>> {
        let (name, column) = (quoted(&table.name), quoted(&table.columns[column].name));
        // Two questions, each a look at an end of the index; one for both would read all of it.
        let sql = format!("SELECT (SELECT min({column}) FROM {name}), (SELECT max({column}) FROM {name})");
        let rows = self.ask(table, sql, Vec::new()).await?;
        let found = rows.first().map(|row| (row.get::<Option<i64>, _>(0), row.get::<Option<i64>, _>(1)));
        Ok(match found {
            Some((Some(least), Some(greatest))) => Some((least, greatest)),
            _ => None,
        })
    }

    async fn done(&self) -> Result<()> {
        // A connection in a read transaction has nothing to say at its end.
        drop(self.connection.lock().await.take());
        Ok(())
    }
}
