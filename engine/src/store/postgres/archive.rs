//! What the database knows of the archive.

use super::read::has_tables;
use super::{Postgres, Session, time};
use crate::archive::{Archived, Before, FILES_MAX, check_files};
use crate::error::Result;
use crate::store::over;

impl Postgres {
    /// Names files that are about to be written.
    pub(super) async fn archive_begins(&self, pipeline: &str, epoch: i64, files: &[Archived]) -> Result<()> {
        let session = self.connect("archive").await?;
        session.batch("BEGIN").await?;
        let owner = session.run(OWNER, &[&pipeline, &epoch]).await?;
        let paths: Vec<&str> = files.iter().map(|file| file.path.as_str()).collect();
        let column = |get: fn(&Archived) -> i64| files.iter().map(get).collect::<Vec<i64>>();
        let sql = format!(
            "INSERT INTO tidegate.archive (pipeline, path, first_seq, last_seq, rows, bytes, first_time, last_time, epoch) \
             SELECT $1::text, n.path, n.first, n.last, n.rows, n.bytes, {}, {}, $9::bigint FROM unnest($2::text[], $3::bigint[], $4::bigint[], $5::bigint[], \
             $6::bigint[], $7::bigint[], $8::bigint[]) AS n(path, first, last, rows, bytes, least, greatest) ON CONFLICT DO NOTHING",
            time("n.least"),
            time("n.greatest")
        );
        let (first, last) = (column(|file| file.first), column(|file| file.last));
        let (rows, bytes) = (column(|file| file.rows), column(|file| file.bytes));
        let (least, greatest) = (column(|file| file.times.0), column(|file| file.times.1));
        session.run(&sql, &[&pipeline, &paths, &first, &last, &rows, &bytes, &least, &greatest, &epoch]).await?;
        finish(&session, owner, pipeline, epoch).await
    }

    /// They are whole.
    pub(super) async fn archive_ends(
        &self,
        pipeline: &str,
        epoch: i64,
        (first, last): (i64, i64),
        until: &[(i32, i64)],
    ) -> Result<()> {
        let session = self.connect("archive").await?;
        session.batch("BEGIN").await?;
        // In the order in which a commit takes its locks.
        let owner = session
            .run(
                "UPDATE tidegate.pipelines SET archived_seq = $3::bigint WHERE pipeline = $1 AND epoch = $2 AND archived_seq = $4::bigint - 1",
                &[&pipeline, &epoch, &last, &first],
            )
            .await?;
        if owner != 1 {
            return Err(over(pipeline, epoch));
        }
        let (parts, offsets): (Vec<i32>, Vec<i64>) = until.iter().copied().unzip();
        let moved = "UPDATE tidegate.progress p SET archived_offset = n.until FROM unnest($2::integer[], $3::bigint[]) AS n(part, until) \
             WHERE p.pipeline = $1 AND p.part = n.part";
        session.run(moved, &[&pipeline, &parts, &offsets]).await?;
        let whole = "UPDATE tidegate.archive SET whole = true WHERE pipeline = $1 AND last_seq = $2 AND epoch = $3 AND NOT whole";
        session.run(whole, &[&pipeline, &last, &epoch]).await?;
        finish(&session, owner, pipeline, epoch).await
    }

    /// The last commit that is archived.
    pub(super) async fn archive_reaches(&self, pipeline: &str) -> Result<i64> {
        let session = self.connect("archive").await?;
        let sql = "SELECT coalesce(max(archived_seq), 0) FROM tidegate.pipelines WHERE pipeline = $1";
        Ok(session.one(sql, &[&pipeline]).await?.get(0))
    }

    /// The files that owners of earlier epochs have named, and that are not known to be whole.
    pub(super) async fn archive_begun(&self, pipeline: &str, epoch: i64) -> Result<Vec<String>> {
        let session = self.connect("archive").await?;
        let sql = "SELECT path FROM tidegate.archive WHERE pipeline = $1 AND epoch < $2 AND NOT whole";
        let rows = session.all(sql, &[&pipeline, &epoch]).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// They are deleted.
    pub(super) async fn archive_forgets(&self, pipeline: &str, epoch: i64, paths: &[String]) -> Result<()> {
        if paths.is_empty() {
            return Ok(());
        }
        let session = self.connect("archive").await?;
        session.batch("BEGIN").await?;
        let owner = session.run(OWNER, &[&pipeline, &epoch]).await?;
        let forget = "DELETE FROM tidegate.archive WHERE pipeline = $1 AND path = ANY ($2) AND NOT whole AND begun_at < now() - interval '1 hour'";
        session.run(forget, &[&pipeline, &paths]).await?;
        finish(&session, owner, pipeline, epoch).await
    }
}

/// Counts one row while an epoch is the newest, which it keeps so until the transaction ends.
const OWNER: &str = "SELECT 1 FROM tidegate.pipelines WHERE pipeline = $1 AND epoch = $2 FOR SHARE";

/// Commits, unless the owner's epoch is over.
async fn finish(session: &Session, owner: u64, pipeline: &str, epoch: i64) -> Result<()> {
    if owner != 1 {
        return Err(over(pipeline, epoch));
    }
    session.batch("COMMIT").await
}

impl Session {
    /// Where the archive goes on.
    pub async fn open_archive(&self, pipeline: &str, epoch: i64, archive: bool) -> Result<(i64, Vec<(i32, i64)>)> {
        self.batch("BEGIN").await?;
        // What stays as it is is not written.
        let sql = "UPDATE tidegate.pipelines SET archived_seq = CASE WHEN $3 THEN commit_seq END \
             WHERE pipeline = $1 AND epoch = $2 AND (archived_seq IS NULL) = $3";
        self.run(sql, &[&pipeline, &epoch, &archive]).await?;
        let sql =
            "SELECT coalesce(archived_seq, 0) FROM tidegate.pipelines WHERE pipeline = $1 AND epoch = $2 FOR SHARE";
        let owner = self.all(sql, &[&pipeline, &epoch]).await?;
        let Some(owner) = owner.first() else { return Err(over(pipeline, epoch)) };
        let sql = "UPDATE tidegate.progress SET archived_offset = CASE WHEN $2 THEN next_offset END \
             WHERE pipeline = $1 AND (archived_offset IS NULL) = $2";
        self.run(sql, &[&pipeline, &archive]).await?;
        let sql = "SELECT part, coalesce(archived_offset, 0) FROM tidegate.progress WHERE pipeline = $1";
        let rows = self.all(sql, &[&pipeline]).await?;
        self.batch("COMMIT").await?;
        let mut offsets: Vec<(i32, i64)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        offsets.sort_unstable();
        Ok((owner.get(0), offsets))
    }

    /// What of the archive lies before commit `oldest`.
    pub async fn archived(&self, pipeline: &str, oldest: i64, times: (i64, i64)) -> Result<Before> {
        if !has_tables(self).await? {
            return Ok(Before::default());
        }
        let sql = "SELECT max(last_seq) FILTER (WHERE whole AND first_seq < $2), max(last_seq) FILTER (WHERE whole) FROM tidegate.archive WHERE pipeline = $1";
        let reaches = self.one(sql, &[&pipeline, &oldest]).await?;
        let (until, all): (Option<i64>, Option<i64>) = (reaches.get(0), reaches.get(1));
        let sql =
            "SELECT part, archived_offset FROM tidegate.progress WHERE pipeline = $1 AND archived_offset IS NOT NULL";
        let offsets = self.all(sql, &[&pipeline]).await?;
        let offsets = (until == all).then(|| offsets.iter().map(|row| (row.get(0), row.get(1))).collect());
        let us = |column: &str| format!("(extract(epoch FROM {column}) * 1000000)::bigint");
        let sql = format!(
            "SELECT path, first_seq, last_seq, rows, bytes, {least}, {greatest} FROM tidegate.archive \
             WHERE pipeline = $1 AND whole AND last_seq <= $4 AND last_time >= {} AND first_time <= {} ORDER BY first_seq, path LIMIT {}",
            time("$2"),
            time("$3"),
            FILES_MAX + 1,
            least = us("first_time"),
            greatest = us("last_time")
        );
        let rows = self.all(&sql, &[&pipeline, &times.0, &times.1, &until.unwrap_or_default()]).await?;
        check_files(pipeline, rows.len())?;
        let file = |row: &tokio_postgres::Row| Archived {
            path: row.get(0),
            first: row.get(1),
            last: row.get(2),
            rows: row.get(3),
            bytes: row.get(4),
            times: (row.get(5), row.get(6)),
        };
        Ok(Before { until, offsets, files: rows.iter().map(file).collect() })
    }
}
