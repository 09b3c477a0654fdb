//! What people ask of Postgres, and what is done outside of commits.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, StringArray};
use arrow::compute::cast;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use tokio_postgres::Row;

use super::lease::PostgresLease;
use super::snapshot::PostgresSnapshot;
use super::{Postgres, Session, time};
use crate::archive::Archived;
use crate::batch::Committed;
use crate::error::Result;
use crate::sink::quoted;
use crate::sql::planned::{Table, TableColumn};
use crate::store::status::{DeadLetterRow, PartitionStatus, PipelineStatus, Status, ViewStatus};
use crate::store::{Expired, Lease, Letters, Snapshot, Stop, Store};
use crate::time::NONE;
use crate::view::Counts;

/// A time column in microseconds.
fn us(column: &str) -> String {
    format!("coalesce((extract(epoch FROM {column}) * 1000000)::bigint, {NONE})")
}

/// Whether an engine has made our tables: before its first start there is nothing to tell.
pub(super) async fn has_tables(session: &Session) -> Result<bool> {
    Ok(session.one("SELECT to_regclass('tidegate.leases') IS NOT NULL", &[]).await?.get(0))
}

/// A column as text, which the server writes and Arrow reads exactly, so that no second set of binary formats is needed.
pub(super) fn as_text(column: &TableColumn) -> String {
    format!("{}::text", quoted(&column.name))
}

/// Rows of columns that came as text.
pub(super) fn text_rows(rows: &[Row], schema: &SchemaRef) -> Result<RecordBatch> {
    let mut arrays: Vec<ArrayRef> = Vec::with_capacity(schema.fields().len());
    for (index, field) in schema.fields().iter().enumerate() {
        let text: StringArray = rows.iter().map(|row| row.get::<_, Option<&str>>(index)).collect();
        let text: ArrayRef = Arc::new(text);
        arrays.push(cast(&text, field.data_type())?);
    }
    let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
    Ok(RecordBatch::try_new_with_options(schema.clone(), arrays, &options)?)
}

/// Where everything stands; to be asked in a transaction that sees one moment.
pub(super) async fn status(session: &Session) -> Result<Status> {
    if !has_tables(session).await? {
        return Ok(Status::default());
    }
    let pipelines = session
        .all(
            &format!(
                "SELECT pipeline, topic, commit_seq, {}, records_read, records_decoded, records_rejected, pipeline_id::text, {} \
                 FROM tidegate.pipelines ORDER BY 1",
                us("watermark"),
                us("committed_at")
            ),
            &[],
        )
        .await?;
    let partitions = session
        .all(
            &format!(
                "SELECT pipeline, part, start_offset, next_offset, high_watermark, {}, idle FROM tidegate.progress ORDER BY 1, 2",
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
    let pipeline = |row: &Row| PipelineStatus {
        pipeline: row.get(0),
        id: row.get(7),
        topic: row.get(1),
        commits: row.get(2),
        watermark: row.get(3),
        read: row.get(4),
        decoded: row.get(5),
        rejected: row.get(6),
        committed_at: row.get(8),
    };
    let partition = |row: &Row| PartitionStatus {
        pipeline: row.get(0),
        partition: row.get(1),
        start_offset: row.get(2),
        next_offset: row.get(3),
        high_watermark: row.get(4),
        watermark: row.get(5),
        idle: row.get(6),
    };
    let counts = |row: &Row| Counts {
        decoded: row.get(4),
        filtered: row.get(5),
        accepted: row.get(6),
        late: row.get(7),
        failed: row.get(8),
    };
    let view = |row: &Row| ViewStatus {
        view: row.get(0),
        pipeline: row.get(1),
        fingerprint: row.get(2),
        closed_until: row.get(3),
        counts: counts(row),
    };
    Ok(Status {
        pipelines: pipelines.iter().map(pipeline).collect(),
        partitions: partitions.iter().map(partition).collect(),
        views: views.iter().map(view).collect(),
    })
}

/// Where a pipeline stands.
pub(super) async fn committed(session: &Session, pipeline: &str) -> Result<Option<Committed>> {
    if !has_tables(session).await? {
        return Ok(None);
    }
    let sql = "SELECT pipeline_id::text, part, start_offset, next_offset FROM tidegate.pipelines LEFT JOIN tidegate.progress USING (pipeline) \
               WHERE pipeline = $1 ORDER BY part";
    let rows = session.all(sql, &[&pipeline]).await?;
    let partition = |row: &Row| Some((row.get::<_, Option<i32>>(1)?, row.get(2), row.get(3)));
    Ok(rows
        .first()
        .map(|first| Committed { pipeline: first.get(0), partitions: rows.iter().filter_map(partition).collect() }))
}

/// The newest dead letters.
pub(super) async fn dead_letters(session: &Session, asked: Letters) -> Result<Vec<DeadLetterRow>> {
    if !has_tables(session).await? {
        return Ok(Vec::new());
    }
    let sql = format!(
        "SELECT pipeline, view, part, \"offset\", reason, topic, count, more_offsets, detail, CASE WHEN $2 THEN payload END, payload_size, {} \
         FROM tidegate.dead_letters WHERE recorded_at >= {} ORDER BY recorded_at DESC, part, \"offset\" LIMIT $1",
        us("recorded_at"),
        time("$3")
    );
    let newest = i64::try_from(asked.newest).unwrap_or(i64::MAX);
    let rows = session.all(&sql, &[&newest, &asked.payloads, &asked.since.unwrap_or(0)]).await?;
    let letter = |row: &Row| DeadLetterRow {
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
        payload_size: row.get(10),
        recorded_at: row.get(11),
    };
    Ok(rows.iter().map(letter).collect())
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
        reader.session.batch("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
        let status = status(&reader.session).await?;
        reader.session.batch("COMMIT").await?;
        reader.done();
        Ok(status)
    }

    async fn commits(&self) -> Result<Vec<String>> {
        let reader = self.look().await?;
        let session = &reader.session;
        let rows = if has_tables(session).await? {
            // A view that is dropped ends an epoch.
            session.all("SELECT commit_id::text || '/' || epoch FROM tidegate.pipelines ORDER BY pipeline", &[]).await?
        } else {
            Vec::new()
        };
        reader.done();
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    async fn dead_letters(&self, newest: usize) -> Result<Vec<DeadLetterRow>> {
        let reader = self.reader().await?;
        let letters = dead_letters(&reader.session, Letters::newest(newest)).await?;
        reader.done();
        Ok(letters)
    }

    async fn rows(&self, table: &Table, newest: Option<usize>) -> Result<RecordBatch> {
        let reader = self.reader().await?;
        let session = &reader.session;
        let exists = session.one("SELECT to_regclass($1) IS NOT NULL", &[&quoted(&table.name)]).await?;
        if !exists.get::<_, bool>(0) {
            return Ok(RecordBatch::new_empty(table.schema()));
        }
        let columns: Vec<String> = table.columns.iter().map(as_text).collect();
        let name = quoted(&table.name);
        let order = |direction: &str| {
            // Of the table, and not the text of the same name that is selected.
            table.key().map(|c| format!("{name}.{} {direction}", quoted(&c.name))).collect::<Vec<_>>().join(", ")
        };
        let limit = newest.map_or_else(String::new, |newest| format!("LIMIT {newest}"));
        let list = columns.join(", ");
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
        let gone = session.run(&sql, &[&expired.until]).await?;
        let changes = format!(
            "DELETE FROM tidegate.window_changes WHERE view = $2 AND window_time <= {until} AND NOT EXISTS (SELECT 1 FROM {name} WHERE {column} <= {until})",
            until = time("$1")
        );
        session.run(&changes, &[&expired.until, &table.name]).await?;
        Ok(gone)
    }

    async fn begin_archiving(&self, pipeline: &str, epoch: i64, files: &[Archived]) -> Result<()> {
        self.archive_begins(pipeline, epoch, files).await
    }

    async fn end_archiving(&self, pipeline: &str, epoch: i64, span: (i64, i64), until: &[(i32, i64)]) -> Result<()> {
        self.archive_ends(pipeline, epoch, span, until).await
    }

    async fn archived_until(&self, pipeline: &str) -> Result<i64> {
        self.archive_reaches(pipeline).await
    }

    async fn archiving(&self, pipeline: &str, epoch: i64) -> Result<Vec<String>> {
        self.archive_begun(pipeline, epoch).await
    }

    async fn forget_archiving(&self, pipeline: &str, epoch: i64, paths: &[String]) -> Result<()> {
        self.archive_forgets(pipeline, epoch, paths).await
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
