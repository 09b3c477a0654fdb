//! The embedded store: one SQLite file, in WAL mode, written in immediate transactions.
//!
//! The same rows, the same fence, the same commit as on Postgres, so that what runs on a laptop is what runs in
//! production. One process writes; any number may read. `synchronous = NORMAL` may lose the newest commits when the
//! machine loses power, but only whole ones: results, offsets and state go back together, and the log is read again.

mod archive;
mod commit;
mod snapshot;
mod table;
mod values;

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, RecordBatch};
use async_trait::async_trait;
use sqlx::query::Query;
use sqlx::sqlite::{SqliteArguments, SqliteConnectOptions, SqliteJournalMode, SqliteRow, SqliteSynchronous};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Row, Sqlite, SqliteConnection};

use uuid::Uuid;

use super::status::{DeadLetterRow, Status};
use super::{
    Expired, Lease, Letters, SCHEMA_ADDED_TO, SCHEMA_VERSION, Snapshot, Stop, Store, Stored, StoredPartition,
    StoredView, Writer, holder, other_schema, same_topic,
};
use crate::archive::Archived;
use crate::batch::file_name;
use crate::error::{Error, Result};
use crate::sink::quoted;
use crate::sql::planned::Table;
use crate::time::NONE;
use commit::SqliteWriter;
use snapshot::SqliteSnapshot;
use table::TableSql;
use values::Value;

const SCHEMA: &str = include_str!("schema.sql");

/// How long a statement waits for another writer.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// How often a standby asks for the lock.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// A database file.
#[derive(Debug, Clone)]
pub struct SqliteStore {
    path: PathBuf,
}

/// Why a statement failed.
#[derive(Debug)]
pub struct Told(Error);

impl From<sqlx::Error> for Told {
    fn from(error: sqlx::Error) -> Self {
        let Some(told) = error.as_database_error() else {
            return Self(match error {
                sqlx::Error::Io(_) => Error::wait("TG-DATABASE-UNREACHABLE", format!("SQLite: {error}")),
                _ => Error::configuration("TG-DATABASE", format!("SQLite: {error}"))
                    .hint("is the file a Tidegate database of this version, and may we write it?"),
            });
        };
        // The primary code: busy, locked, I/O, corrupt, full, cannot open, read-only.
        let code = told.code().and_then(|code| code.parse::<i32>().ok()).unwrap_or_default() & 0xff;
        Self(match code {
            5 | 6 | 10 | 13 | 14 => Error::wait("TG-DATABASE-UNREACHABLE", format!("SQLite: {}", told.message())),
            _ => Error::configuration("TG-DATABASE", format!("SQLite refuses a statement: {}", told.message()))
                .hint("is the file a Tidegate database of this version, and may we write it?"),
        })
    }
}

impl From<Error> for Told {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

impl From<Told> for Error {
    fn from(told: Told) -> Self {
        told.0
    }
}

/// A statement with its values.
fn bound<'q>(
    mut query: Query<'q, Sqlite, SqliteArguments>,
    values: impl IntoIterator<Item = Value>,
) -> Query<'q, Sqlite, SqliteArguments> {
    for value in values {
        query = match value {
            Value::Null => query.bind(None::<i64>),
            Value::Integer(value) => query.bind(value),
            Value::Real(value) => query.bind(value),
            Value::Text(value) => query.bind(value),
        };
    }
    query
}

/// A time as it is stored.
fn time(us: i64) -> Option<i64> {
    (us != NONE).then_some(us)
}

/// A time as it was stored.
fn us(row: &SqliteRow, column: usize) -> i64 {
    row.get::<Option<i64>, _>(column).unwrap_or(NONE)
}

impl SqliteStore {
    /// The database in this file, which is made when it is first used.
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_path_buf() }
    }

    /// Its file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    async fn connect(&self) -> Result<SqliteConnection, Told> {
        let options = SqliteConnectOptions::new()
            .filename(&self.path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal)
            .busy_timeout(BUSY_TIMEOUT)
            .disable_statement_logging();
        Ok(SqliteConnection::connect_with(&options).await?)
    }

    /// Which file its name leads to now.
    fn file(&self) -> Option<(u64, u64)> {
        std::fs::metadata(&self.path).ok().map(|file| (file.dev(), file.ino()))
    }

    /// The statement that made a table; SQLite keeps it as it was written.
    async fn declared(connection: &mut SqliteConnection, name: &str) -> Result<Option<String>, Told> {
        let found = sqlx::query("SELECT sql FROM sqlite_master WHERE type = 'table' AND name = ? COLLATE NOCASE");
        Ok(found.bind(name).fetch_optional(connection).await?.map(|row| row.get(0)))
    }

    async fn has_table(connection: &mut SqliteConnection, name: &str) -> Result<bool, Told> {
        let found = sqlx::query("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?").bind(name);
        Ok(found.fetch_optional(connection).await?.is_some())
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn migrate(&self) -> Result<()> {
        let mut connection = self.connect().await?;
        let told = Told::from;
        // In one transaction: pipelines begin together, and a process may end anywhere.
        let mut making = connection.begin_with("BEGIN IMMEDIATE").await.map_err(told)?;
        let there = Self::has_table(&mut making, "tidegate_state").await?;
        let found = sqlx::query("PRAGMA user_version").fetch_one(&mut *making).await.map_err(told)?.get::<i64, _>(0);
        if there && found != SCHEMA_VERSION && found != SCHEMA_ADDED_TO {
            return Err(other_schema(found.max(1)));
        }
        if !there || found != SCHEMA_VERSION {
            sqlx::raw_sql(SCHEMA).execute(&mut *making).await.map_err(told)?;
            let note = AssertSqlSafe(format!("PRAGMA user_version = {SCHEMA_VERSION}"));
            sqlx::query(note).execute(&mut *making).await.map_err(told)?;
        }
        making.commit().await.map_err(told)?;
        Ok(())
    }

    async fn lease(&self, pipeline: &str, stop: Stop<'_>) -> Result<Option<Box<dyn Lease>>> {
        let mut path = self.path.clone().into_os_string();
        path.push(format!("-lease-{}", file_name(pipeline)));
        let cannot = |error: std::io::Error| {
            Error::configuration("TG-DATABASE-ACCESS", format!("cannot lock {}: {error}", Path::new(&path).display()))
        };
        let lock = File::options().create(true).truncate(false).write(true).open(&path).map_err(cannot)?;
        let mut said = false;
        loop {
            match lock.try_lock() {
                Ok(()) => break,
                Err(std::fs::TryLockError::Error(error)) => return Err(cannot(error)),
                Err(std::fs::TryLockError::WouldBlock) if stop() => return Ok(None),
                Err(std::fs::TryLockError::WouldBlock) => {
                    if !std::mem::replace(&mut said, true) {
                        tracing::info!(pipeline, "standing by: another engine owns the pipeline");
                    }
                    tokio::time::sleep(LOOK_EVERY).await;
                }
            }
        }
        Ok(Some(Box::new(SqliteLease { store: self.clone(), pipeline: pipeline.to_string(), _lock: lock })))
    }

    async fn status(&self) -> Result<Status> {
        let snapshot = SqliteSnapshot::begin(self).await?;
        snapshot.status().await
    }

    async fn commits(&self) -> Result<Vec<String>> {
        SqliteSnapshot::begin(self).await?.commits().await
    }

    async fn dead_letters(&self, newest: usize) -> Result<Vec<DeadLetterRow>> {
        let snapshot = SqliteSnapshot::begin(self).await?;
        snapshot.dead_letters(Letters::newest(newest)).await
    }

    async fn rows(&self, table: &Table, newest: Option<usize>) -> Result<RecordBatch> {
        if !self.path.exists() {
            return Ok(RecordBatch::new_empty(table.schema()));
        }
        let mut connection = self.connect().await?;
        if !Self::has_table(&mut connection, &table.name).await? {
            return Ok(RecordBatch::new_empty(table.schema()));
        }
        let select = TableSql::new(table).select(newest);
        let mut rows = sqlx::query(AssertSqlSafe(select)).fetch_all(&mut connection).await.map_err(Told::from)?;
        rows.reverse();
        let columns = table.columns.iter().enumerate();
        let arrays: Vec<ArrayRef> =
            columns.map(|(index, column)| values::array(&rows, index, &column.data_type)).collect::<Result<_>>()?;
        Ok(RecordBatch::try_new(table.schema(), arrays)?)
    }

    async fn snapshot(&self, _: Duration) -> Result<Arc<dyn Snapshot>> {
        Ok(Arc::new(SqliteSnapshot::begin(self).await?))
    }

    async fn expire(&self, table: &Table, expired: Expired<'_>) -> Result<u64> {
        let mut connection = self.connect().await?;
        let (name, column) = (quoted(&table.name), quoted(expired.column));
        let sql = format!(
            "DELETE FROM {name} WHERE rowid IN (SELECT rowid FROM {name} WHERE {column} <= ? LIMIT {})",
            expired.rows_max
        );
        let done =
            sqlx::query(AssertSqlSafe(sql)).bind(expired.until).execute(&mut connection).await.map_err(Told::from)?;
        let changes = format!(
            "DELETE FROM tidegate_window_changes WHERE view = ?1 AND window_time <= ?2 AND NOT EXISTS (SELECT 1 FROM {name} WHERE {column} <= ?2)"
        );
        let changes = sqlx::query(AssertSqlSafe(changes)).bind(&table.name).bind(expired.until);
        changes.execute(&mut connection).await.map_err(Told::from)?;
        Ok(done.rows_affected())
    }

    async fn begin_archiving(&self, pipeline: &str, epoch: i64, files: &[Archived]) -> Result<()> {
        Ok(self.archive_begins(pipeline, epoch, files).await?)
    }

    async fn end_archiving(&self, pipeline: &str, epoch: i64, span: (i64, i64), until: &[(i32, i64)]) -> Result<()> {
        Ok(self.archive_ends(pipeline, epoch, span, until).await?)
    }

    async fn archived_until(&self, pipeline: &str) -> Result<i64> {
        Ok(self.archive_reaches(pipeline).await?)
    }

    async fn archiving(&self, pipeline: &str, epoch: i64) -> Result<Vec<String>> {
        Ok(self.archive_begun(pipeline, epoch).await?)
    }

    async fn forget_archiving(&self, pipeline: &str, epoch: i64, paths: &[String]) -> Result<()> {
        Ok(self.archive_forgets(pipeline, epoch, paths).await?)
    }

    async fn drop_view(&self, view: &str) -> Result<bool> {
        if !self.path.exists() {
            return Ok(false);
        }
        let mut connection = self.connect().await?;
        let told = Told::from;
        if !Self::has_table(&mut connection, "tidegate_state").await? {
            return Ok(false);
        }
        let mut changing = connection.begin_with("BEGIN IMMEDIATE").await.map_err(told)?;
        sqlx::query("UPDATE tidegate_pipelines SET epoch = epoch + 1 WHERE pipeline IN (SELECT pipeline FROM tidegate_view_progress WHERE view = ?)")
            .bind(view)
            .execute(&mut *changing)
            .await
            .map_err(told)?;
        let found =
            sqlx::query("DELETE FROM tidegate_view_progress WHERE view = ?").bind(view).execute(&mut *changing).await;
        let found = found.map_err(told)?.rows_affected() > 0;
        if found {
            let changes = sqlx::query("DELETE FROM tidegate_window_changes WHERE view = ?").bind(view);
            changes.execute(&mut *changing).await.map_err(told)?;
            sqlx::query("DELETE FROM tidegate_state WHERE view = ?")
                .bind(view)
                .execute(&mut *changing)
                .await
                .map_err(told)?;
            let drop = format!("DROP TABLE IF EXISTS {}", quoted(view));
            sqlx::query(AssertSqlSafe(drop)).execute(&mut *changing).await.map_err(told)?;
        }
        changing.commit().await.map_err(told)?;
        Ok(found)
    }
}

/// Who holds the lock of the pipeline's file. It goes with the process.
struct SqliteLease {
    store: SqliteStore,
    pipeline: String,
    _lock: File,
}

#[async_trait]
impl Lease for SqliteLease {
    async fn claim(&self, topic: &str, topic_id: &str) -> Result<(Box<dyn Writer>, Stored)> {
        let mut connection = self.store.connect().await?;
        let (stored, was_topic) = claim(&mut connection, &self.pipeline, topic, topic_id).await?;
        same_topic(&self.pipeline, &was_topic, topic)?;
        Ok((Box::new(SqliteWriter::new(self.store.clone(), connection, &self.pipeline)), stored))
    }
}

async fn claim(
    connection: &mut SqliteConnection,
    pipeline: &str,
    topic: &str,
    topic_id: &str,
) -> Result<(Stored, String), Told> {
    let mut claiming = connection.begin_with("BEGIN IMMEDIATE").await?;
    sqlx::query("INSERT INTO tidegate_pipelines (pipeline, epoch, commit_seq, commit_id, holder, topic, topic_id, pipeline_id) VALUES (?, 0, 0, '', ?, ?, ?, ?) ON CONFLICT DO NOTHING")
        .bind(pipeline)
        .bind(holder())
        .bind(topic)
        .bind(topic_id)
        .bind(Uuid::new_v4().to_string())
        .execute(&mut *claiming)
        .await?;
    let row = sqlx::query("UPDATE tidegate_pipelines SET epoch = epoch + 1, holder = ? WHERE pipeline = ? RETURNING epoch, commit_seq, watermark, topic_id, checkpoint_seq, state_version, topic, pipeline_id")
        .bind(holder())
        .bind(pipeline)
        .fetch_one(&mut *claiming)
        .await?;
    let partitions = sqlx::query("SELECT part, next_offset, checkpoint_offset, rebuild_from, watermark, checkpoint_watermark, rebuild_watermark, idle, start_offset FROM tidegate_progress WHERE pipeline = ? ORDER BY part")
        .bind(pipeline)
        .fetch_all(&mut *claiming)
        .await?;
    let views = sqlx::query(
        "SELECT view, fingerprint, floor, state_pieces, starts, absent_since FROM tidegate_view_progress WHERE pipeline = ?",
    )
    .bind(pipeline)
    .fetch_all(&mut *claiming)
    .await?;
    let elsewhere = sqlx::query("SELECT view, pipeline FROM tidegate_view_progress WHERE pipeline <> ?")
        .bind(pipeline)
        .fetch_all(&mut *claiming)
        .await?;
    claiming.commit().await?;
    let partition = |row: &SqliteRow| StoredPartition {
        partition: row.get(0),
        next_offset: row.get(1),
        checkpoint_offset: row.get(2),
        rebuild_from: row.get(3),
        watermark: us(row, 4),
        checkpoint_watermark: us(row, 5),
        rebuild_watermark: us(row, 6),
        idle: row.get(7),
        start_offset: row.get(8),
    };
    let view = |row: &SqliteRow| StoredView {
        view: row.get(0),
        fingerprint: row.get(1),
        floor: us(row, 2),
        pieces: row.get(3),
        starts: serde_json::from_str(row.get(4)).unwrap_or_default(),
        absent_since: row.get(5),
    };
    let stored = Stored {
        pipeline_id: row.get(7),
        epoch: row.get(0),
        seq: row.get(1),
        frontier: us(&row, 2),
        topic_id: row.get(3),
        checkpoint_seq: row.get(4),
        state_version: row.get(5),
        partitions: partitions.iter().map(partition).collect(),
        views: views.iter().map(view).collect(),
        elsewhere: elsewhere.iter().map(|row| (row.get(0), row.get(1))).collect(),
    };
    Ok((stored, row.get(6)))
}
