//! One moment of the file, for an answer that asks more than once.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use async_trait::async_trait;
use sqlx::sqlite::SqliteRow;
use sqlx::{AssertSqlSafe, Row, SqliteConnection};
use tokio::sync::Mutex;

use super::values::{self, Value};
use super::{SqliteStore, Told, archive, bound, us};
use crate::archive::Before;
use crate::batch::Committed;
use crate::error::Result;
use crate::sink::quoted;
use crate::sql::planned::Table;
use crate::store::status::{DeadLetterRow, PartitionStatus, PipelineStatus, Status, ViewStatus};
use crate::store::{BoundValue, Letters, Moment, SCAN_ROWS_MAX, Snapshot, Wanted, check_scan, scan_sql};
use crate::view::Counts;

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

    /// The newest commit of each pipeline, by a name of its own.
    pub async fn commits(&self) -> Result<Vec<String>> {
        let mut held = self.connection.lock().await;
        let Some(connection) = ours(&mut held).await? else { return Ok(Vec::new()) };
        let sql = "SELECT commit_id || '/' || epoch FROM tidegate_pipelines ORDER BY pipeline";
        let rows = sqlx::query(sql).fetch_all(connection).await.map_err(Told::from)?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
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

/// The connection, if an engine has made our tables: before its first start there is nothing to tell.
async fn ours(held: &mut Option<SqliteConnection>) -> Result<Option<&mut SqliteConnection>> {
    let Some(connection) = held.as_mut() else { return Ok(None) };
    Ok(if SqliteStore::has_table(connection, "tidegate_state").await? { Some(connection) } else { None })
}

#[async_trait]
impl Moment for SqliteSnapshot {
    async fn rows(&self, table: &Table, wanted: &Wanted) -> Result<RecordBatch> {
        let sql = scan_sql(table, wanted, "", |column| quoted(&column.name), |_, _| "?".to_string());
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

    async fn committed(&self, pipeline: &str) -> Result<Option<Committed>> {
        Ok(Snapshot::status(self).await?.committed(pipeline))
    }

    async fn archived(&self, pipeline: &str, oldest: i64, times: (i64, i64)) -> Result<Before> {
        let mut held = self.connection.lock().await;
        let Some(connection) = ours(&mut held).await? else { return Ok(Before::default()) };
        Ok(archive::archived(connection, pipeline, oldest, times).await?)
    }
}

#[async_trait]
impl Snapshot for SqliteSnapshot {
    async fn status(&self) -> Result<Status> {
        let mut held = self.connection.lock().await;
        let mut status = Status::default();
        let Some(connection) = ours(&mut held).await? else { return Ok(status) };
        let told = Told::from;
        let sql = "SELECT pipeline, topic, commit_seq, watermark, records_read, records_decoded, records_rejected, pipeline_id, committed_at \
             FROM tidegate_pipelines ORDER BY 1";
        for row in sqlx::query(sql).fetch_all(&mut *connection).await.map_err(told)? {
            status.pipelines.push(PipelineStatus {
                pipeline: row.get(0),
                id: row.get(7),
                topic: row.get(1),
                commits: row.get(2),
                watermark: us(&row, 3),
                read: row.get(4),
                decoded: row.get(5),
                rejected: row.get(6),
                committed_at: us(&row, 8),
            });
        }
        let sql = "SELECT pipeline, part, start_offset, next_offset, high_watermark, watermark, idle FROM tidegate_progress ORDER BY 1, 2";
        for row in sqlx::query(sql).fetch_all(&mut *connection).await.map_err(told)? {
            status.partitions.push(PartitionStatus {
                pipeline: row.get(0),
                partition: row.get(1),
                start_offset: row.get(2),
                next_offset: row.get(3),
                high_watermark: row.get(4),
                watermark: us(&row, 5),
                idle: row.get(6),
            });
        }
        let sql = "SELECT view, pipeline, fingerprint, closed_until, decoded, filtered, accepted, late, failed FROM tidegate_view_progress ORDER BY 2, 1";
        for row in sqlx::query(sql).fetch_all(&mut *connection).await.map_err(told)? {
            status.views.push(ViewStatus {
                view: row.get(0),
                pipeline: row.get(1),
                fingerprint: row.get(2),
                closed_until: us(&row, 3),
                counts: Counts {
                    decoded: row.get(4),
                    filtered: row.get(5),
                    accepted: row.get(6),
                    late: row.get(7),
                    failed: row.get(8),
                },
            });
        }
        Ok(status)
    }

    async fn dead_letters(&self, asked: Letters) -> Result<Vec<DeadLetterRow>> {
        let mut held = self.connection.lock().await;
        let Some(connection) = ours(&mut held).await? else { return Ok(Vec::new()) };
        let sql = "SELECT pipeline, view, part, \"offset\", reason, topic, count, more_offsets, detail, CASE WHEN ?2 THEN payload END, payload_size, recorded_at \
             FROM tidegate_dead_letters WHERE recorded_at >= ?3 ORDER BY rowid DESC LIMIT ?1";
        let newest = i64::try_from(asked.newest).unwrap_or(i64::MAX);
        let rows = sqlx::query(sql).bind(newest).bind(asked.payloads).bind(asked.since.unwrap_or(0));
        let rows = rows.fetch_all(connection).await.map_err(Told::from)?;
        let letter = |row: &SqliteRow| DeadLetterRow {
            pipeline: row.get(0),
            view: row.get(1),
            partition: row.get(2),
            offset: row.get(3),
            reason: row.get(4),
            topic: row.get(5),
            count: row.get(6),
            offsets: row.get::<Option<String>, _>(7).and_then(|text| serde_json::from_str(&text).ok()),
            detail: row.get(8),
            payload: row.get(9),
            payload_size: row.get(10),
            recorded_at: row.get(11),
        };
        Ok(rows.iter().map(letter).collect())
    }

    async fn counts(&self, table: &Table, column: usize) -> Result<Vec<(i64, i64)>> {
        let (name, column) = (quoted(&table.name), quoted(&table.columns[column].name));
        let sql = format!(
            "SELECT {column}, count(*) FROM {name} WHERE {column} IS NOT NULL GROUP BY {column} LIMIT {}",
            SCAN_ROWS_MAX + 1
        );
        let rows = self.ask(table, sql, Vec::new()).await?;
        check_scan(table, rows.len())?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    async fn changes(&self, view: &str) -> Result<Vec<(i64, i64)>> {
        let mut held = self.connection.lock().await;
        let Some(connection) = ours(&mut held).await? else { return Ok(Vec::new()) };
        // An api may be newer than the engine that makes the tables.
        if !SqliteStore::has_table(connection, "tidegate_window_changes").await? {
            return Ok(Vec::new());
        }
        let sql = "SELECT window_time, changed_at FROM tidegate_window_changes WHERE view = ? ORDER BY window_time DESC LIMIT ?";
        let rows = sqlx::query(sql).bind(view).bind(i64::try_from(SCAN_ROWS_MAX).unwrap_or(i64::MAX));
        let rows = rows.fetch_all(connection).await.map_err(Told::from)?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    async fn done(&self) -> Result<()> {
        // A connection in a read transaction has nothing to say at its end.
        drop(self.connection.lock().await.take());
        Ok(())
    }
}
