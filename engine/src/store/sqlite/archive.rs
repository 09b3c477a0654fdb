//! What the file knows of the archive, as in store/postgres/archive.rs.

use sqlx::sqlite::SqliteRow;
use sqlx::{Connection, Row, SqliteConnection};

use super::{SqliteStore, Told};
use crate::archive::{Archived, Before, FILES_MAX, check_files};
use crate::error::Result;
use crate::store::over;
use crate::time::clock;

impl SqliteStore {
    /// A connection whose commits are on the disk: what they say of files must not be lost when the files are not.
    async fn durable(&self) -> Result<SqliteConnection, Told> {
        let mut connection = self.connect().await?;
        sqlx::query("PRAGMA synchronous = FULL").execute(&mut connection).await?;
        Ok(connection)
    }

    /// Names files that are about to be written.
    pub(super) async fn archive_begins(&self, pipeline: &str, epoch: i64, files: &[Archived]) -> Result<(), Told> {
        let mut connection = self.durable().await?;
        let mut writing = connection.begin_with("BEGIN IMMEDIATE").await?;
        owned(&mut writing, pipeline, epoch).await?;
        for file in files {
            sqlx::query("INSERT INTO tidegate_archive (pipeline, path, first_seq, last_seq, rows, bytes, first_time, last_time, epoch, begun_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING")
                .bind(pipeline)
                .bind(&file.path)
                .bind(file.first)
                .bind(file.last)
                .bind(file.rows)
                .bind(file.bytes)
                .bind(file.times.0)
                .bind(file.times.1)
                .bind(epoch)
                .bind(clock::wall_us())
                .execute(&mut *writing)
                .await?;
        }
        Ok(writing.commit().await?)
    }

    /// They are whole.
    pub(super) async fn archive_ends(
        &self,
        pipeline: &str,
        epoch: i64,
        (first, last): (i64, i64),
        until: &[(i32, i64)],
    ) -> Result<(), Told> {
        let mut connection = self.durable().await?;
        let mut writing = connection.begin_with("BEGIN IMMEDIATE").await?;
        owned(&mut writing, pipeline, epoch).await?;
        let moved =
            sqlx::query("UPDATE tidegate_pipelines SET archived_seq = ? WHERE pipeline = ? AND archived_seq = ?");
        if moved.bind(last).bind(pipeline).bind(first - 1).execute(&mut *writing).await?.rows_affected() != 1 {
            return Err(over(pipeline, epoch).into());
        }
        for (partition, offset) in until {
            let moved = sqlx::query("UPDATE tidegate_progress SET archived_offset = ? WHERE pipeline = ? AND part = ?");
            moved.bind(offset).bind(pipeline).bind(partition).execute(&mut *writing).await?;
        }
        let whole =
            sqlx::query("UPDATE tidegate_archive SET whole = 1 WHERE pipeline = ? AND last_seq = ? AND epoch = ?");
        whole.bind(pipeline).bind(last).bind(epoch).execute(&mut *writing).await?;
        Ok(writing.commit().await?)
    }

    /// The last commit that is archived.
    pub(super) async fn archive_reaches(&self, pipeline: &str) -> Result<i64, Told> {
        let mut connection = self.connect().await?;
        let last = sqlx::query("SELECT coalesce(max(archived_seq), 0) FROM tidegate_pipelines WHERE pipeline = ?");
        Ok(last.bind(pipeline).fetch_one(&mut connection).await?.get(0))
    }

    /// The files that owners of earlier epochs have named, and that are not known to be whole.
    pub(super) async fn archive_begun(&self, pipeline: &str, epoch: i64) -> Result<Vec<String>, Told> {
        let mut connection = self.connect().await?;
        let rows = sqlx::query("SELECT path FROM tidegate_archive WHERE pipeline = ? AND epoch < ? AND NOT whole");
        let rows = rows.bind(pipeline).bind(epoch);
        Ok(rows.fetch_all(&mut connection).await?.iter().map(|row| row.get(0)).collect())
    }

    /// They are deleted.
    pub(super) async fn archive_forgets(&self, pipeline: &str, epoch: i64, paths: &[String]) -> Result<(), Told> {
        let mut connection = self.durable().await?;
        let mut writing = connection.begin_with("BEGIN IMMEDIATE").await?;
        owned(&mut writing, pipeline, epoch).await?;
        for path in paths {
            let forget = sqlx::query(
                "DELETE FROM tidegate_archive WHERE pipeline = ? AND path = ? AND NOT whole AND begun_at < ?",
            );
            forget.bind(pipeline).bind(path).bind(clock::wall_us() - 3_600_000_000).execute(&mut *writing).await?;
        }
        Ok(writing.commit().await?)
    }
}

/// An error unless this epoch is the newest, which it stays until the transaction ends.
async fn owned(writing: &mut SqliteConnection, pipeline: &str, epoch: i64) -> Result<(), Told> {
    let owner = sqlx::query("SELECT 1 FROM tidegate_pipelines WHERE pipeline = ? AND epoch = ?");
    match owner.bind(pipeline).bind(epoch).fetch_optional(writing).await? {
        Some(_) => Ok(()),
        None => Err(over(pipeline, epoch).into()),
    }
}

/// Where the archive goes on.
pub(super) async fn open(
    connection: &mut SqliteConnection,
    pipeline: &str,
    epoch: i64,
    archive: bool,
) -> Result<(i64, Vec<(i32, i64)>), Told> {
    let mut writing = connection.begin_with("BEGIN IMMEDIATE").await?;
    owned(&mut writing, pipeline, epoch).await?;
    // What stays as it is is not written.
    let begins = sqlx::query(
        "UPDATE tidegate_pipelines SET archived_seq = CASE WHEN ?2 THEN commit_seq END WHERE pipeline = ?1 AND (archived_seq IS NULL) = ?2",
    );
    begins.bind(pipeline).bind(archive).execute(&mut *writing).await?;
    let last = sqlx::query("SELECT coalesce(archived_seq, 0) FROM tidegate_pipelines WHERE pipeline = ?");
    let last = last.bind(pipeline).fetch_one(&mut *writing).await?.get(0);
    let begins = sqlx::query(
        "UPDATE tidegate_progress SET archived_offset = CASE WHEN ?2 THEN next_offset END WHERE pipeline = ?1 AND (archived_offset IS NULL) = ?2",
    );
    begins.bind(pipeline).bind(archive).execute(&mut *writing).await?;
    let offsets = sqlx::query("SELECT part, coalesce(archived_offset, 0) FROM tidegate_progress WHERE pipeline = ?");
    let rows = offsets.bind(pipeline).fetch_all(&mut *writing).await?;
    let mut offsets: Vec<(i32, i64)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    offsets.sort_unstable();
    writing.commit().await?;
    Ok((last, offsets))
}

/// What of the archive lies before commit `oldest`.
pub(super) async fn archived(
    connection: &mut SqliteConnection,
    pipeline: &str,
    oldest: i64,
    times: (i64, i64),
) -> Result<Before, Told> {
    let reaches = sqlx::query(
        "SELECT max(CASE WHEN first_seq < ?2 THEN last_seq END), max(last_seq) FROM tidegate_archive WHERE pipeline = ?1 AND whole",
    );
    let reaches = reaches.bind(pipeline).bind(oldest).fetch_one(&mut *connection).await?;
    let (until, all): (Option<i64>, Option<i64>) = (reaches.get(0), reaches.get(1));
    let sql = "SELECT part, archived_offset FROM tidegate_progress WHERE pipeline = ? AND archived_offset IS NOT NULL";
    let offsets = sqlx::query(sql).bind(pipeline).fetch_all(&mut *connection).await?;
    let offsets = (until == all).then(|| offsets.iter().map(|row| (row.get(0), row.get(1))).collect());
    let rows = sqlx::query(
        "SELECT path, first_seq, last_seq, rows, bytes, first_time, last_time FROM tidegate_archive \
         WHERE pipeline = ? AND whole AND last_seq <= ? AND last_time >= ? AND first_time <= ? ORDER BY first_seq, path LIMIT ?",
    );
    let rows = rows.bind(pipeline).bind(until.unwrap_or_default()).bind(times.0).bind(times.1);
    let rows = rows.bind(FILES_MAX as i64 + 1).fetch_all(connection).await?;
    check_files(pipeline, rows.len())?;
    let file = |row: &SqliteRow| Archived {
        path: row.get(0),
        first: row.get(1),
        last: row.get(2),
        rows: row.get(3),
        bytes: row.get(4),
        times: (row.get(5), row.get(6)),
    };
    Ok(Before { until, offsets, files: rows.iter().map(file).collect() })
}
