//! What people ask of Postgres, and what is done outside of commits.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, StringArray};
use arrow::compute::cast;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;

use super::lease::PostgresLease;
use super::snapshot::PostgresSnapshot;
use super::{Postgres, Session, time};
use crate::error::Result;
use crate::sink::quoted;
use crate::sql::planned::{Table, TableColumn};
use crate::store::status::{DeadLetterRow, PartitionStatus, PipelineStatus, Status, ViewStatus};
use crate::store::{Expired, Lease, Snapshot, Stop, Store};
use crate::time::NONE;
use crate::view::Counts;

/// A time column in microseconds.
fn us(column: &str) -> String {
    format!("coalesce((extract(epoch FROM {column}) * 1000000)::bigint, {NONE})")
}

/// Whether an engine has made our tables: before its first start there is nothing to tell.
async fn has_tables(session: &Session) -> Result<bool> {
    Ok(session.one("SELECT to_regclass('tidegate.leases') IS NOT NULL", &[]).await?.get(0))
}

/// A column as text, which the server writes and Arrow reads exactly, so that no second set of binary formats is needed.
pub(super) fn as_text(column: &TableColumn) -> String {
    format!("{}::text", quoted(&column.name))
}

/// Rows of columns that came as text.
pub(super) fn text_rows(rows: &[tokio_postgres::Row], schema: &SchemaRef) -> Result<RecordBatch> {
    let mut arrays: Vec<ArrayRef> = Vec::with_capacity(schema.fields().len());
    for (index, field) in schema.fields().iter().enumerate() {
        let text: StringArray = rows.iter().map(|row| row.get::<_, Option<&str>>(index)).collect();
        let text: ArrayRef = Arc::new(text);
        arrays.push(cast(&text, field.data_type())?);
    }
    let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
    Ok(RecordBatch::try_new_with_options(schema.clone(), arrays, &options)?)
}

#[async_trait]
impl Store for Postgres {
    async fn migrate(&self) -> Result<()> {
        self.create_tables().await
    }

    async fn lease(&self, pipeline: &str, stop: Stop<'_>) -> Result<Option<Box<dyn Lease>>> {
        let lease = PostgresLease::acquire(self, pipeline, stop).await?;
        Ok(lease.map(|lease| Box::new(lease) as Box<dyn Lease>))
    }

    async fn status(&self) -> Result<Status> {
        let reader = self.reader().await?;
        let session = &reader.session;
        if !has_tables(session).await? {
            return Ok(Status::default());
        }
        session.batch("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
        let pipelines = session
            .all(
                &format!(
                    "SELECT pipeline, topic, commit_seq, {}, records_read, records_decoded, records_rejected FROM tidegate.pipelines ORDER BY 1",
                    us("watermark")
                ),
                &[],
            )
            .await?;
        let partitions = session
            .all(
                &format!(
                    "SELECT pipeline, part, next_offset, {}, idle FROM tidegate.progress ORDER BY 1, 2",
                    us("watermark")
                ),
                &[],
            )
            .await?;
        let views = session
            .all(
                &format!(
                    "SELECT view, pipeline, fingerprint, {}, decoded, filtered, accepted, late, failed FROM tidegate.view_progress ORDER BY pipeline, view",
                    us("closed_until")
                ),
                &[],
            )
            .await?;
        session.batch("COMMIT").await?;
        reader.done();
        Ok(Status {
            pipelines: pipelines
                .iter()
                .map(|row| PipelineStatus {
                    pipeline: row.get(0),
                    topic: row.get(1),
                    commits: row.get(2),
                    watermark: row.get(3),
                    read: row.get(4),
                    decoded: row.get(5),
                    rejected: row.get(6),
                })
                .collect(),
            partitions: partitions
                .iter()
                .map(|row| PartitionStatus {
                    pipeline: row.get(0),
                    partition: row.get(1),
                    next_offset: row.get(2),
                    watermark: row.get(3),
                    idle: row.get(4),
                })
                .collect(),
            views: views
                .iter()
                .map(|row| ViewStatus {
                    view: row.get(0),
                    pipeline: row.get(1),
                    fingerprint: row.get(2),
                    closed_until: row.get(3),
                    counts: Counts {
                        decoded: row.get(4),
                        filtered: row.get(5),
                        accepted: row.get(6),
                        late: row.get(7),
                        failed: row.get(8),
                    },
                })
                .collect(),
        })
    }

    async fn dead_letters(&self, newest: usize) -> Result<Vec<DeadLetterRow>> {
        let reader = self.reader().await?;
        let session = &reader.session;
        if !has_tables(session).await? {
            return Ok(Vec::new());
        }
        let newest = i64::try_from(newest).unwrap_or(i64::MAX);
        let rows = session
            .all(
                "SELECT pipeline, view, part, \"offset\", reason, topic, count, more_offsets, detail, payload FROM tidegate.dead_letters \
                 ORDER BY recorded_at DESC, part, \"offset\" LIMIT $1",
                &[&newest],
            )
            .await?;
        reader.done();
        Ok(rows
            .iter()
            .map(|row| DeadLetterRow {
                pipeline: row.get(0),
                view: row.get(1),
                partition: row.get(2),
                offset: row.get(3),
                reason: row.get(4),
                topic: row.get(5),
                count: row.get(6),
                offsets: row.get(7),
                detail: row.get(8),
                payload: row.get(9),
            })
            .collect())
    }

    async fn rows(&self, table: &Table, newest: Option<usize>) -> Result<RecordBatch> {
        let reader = self.reader().await?;
        let session = &reader.session;
        let exists = session.one("SELECT to_regclass($1) IS NOT NULL", &[&quoted(&table.name)]).await?;
        if !exists.get::<_, bool>(0) {
            return Ok(RecordBatch::new_empty(table.schema()));
        }
        let columns: Vec<String> = table.columns.iter().map(as_text).collect();
        let order = |direction: &str| {
            table.key().map(|c| format!("{} {direction}", quoted(&c.name))).collect::<Vec<_>>().join(", ")
        };
        let limit = newest.map_or_else(String::new, |newest| format!("LIMIT {newest}"));
        let (name, list) = (quoted(&table.name), columns.join(", "));
        let mut rows =
            session.all(&format!("SELECT {list} FROM {name} ORDER BY {} {limit}", order("DESC")), &[]).await?;
        reader.done();
        rows.reverse();
        text_rows(&rows, &table.schema())
    }

    async fn snapshot(&self, limit: Duration) -> Result<Arc<dyn Snapshot>> {
        Ok(Arc::new(PostgresSnapshot::begin(self, limit).await?))
    }

    async fn expire(&self, table: &Table, expired: Expired<'_>) -> Result<u64> {
        let session = self.connect("retention").await?;
        let (name, column) = (quoted(&table.name), quoted(expired.column));
        let sql = format!(
            "DELETE FROM {name} WHERE ctid = ANY (ARRAY(SELECT ctid FROM {name} WHERE {column} <= {} LIMIT {}))",
            time("$1"),
            expired.rows_max
        );
        session.run(&sql, &[&expired.until]).await
    }

    async fn drop_view(&self, view: &str) -> Result<bool> {
        let session = self.connect("drop").await?;
        if !has_tables(&session).await? {
            return Ok(false);
        }
        session.batch("BEGIN").await?;
        session
            .run(
                "UPDATE tidegate.pipelines SET epoch = epoch + 1 WHERE pipeline = (SELECT pipeline FROM tidegate.view_progress WHERE view = $1)",
                &[&view],
            )
            .await?;
        let found = session.run("DELETE FROM tidegate.view_progress WHERE view = $1", &[&view]).await? > 0;
        if found {
            session.run("DELETE FROM tidegate.state WHERE view = $1", &[&view]).await?;
            session.batch(&format!("DROP TABLE IF EXISTS {}", quoted(view))).await?;
        }
        session.batch("COMMIT").await?;
        Ok(found)
    }
}
