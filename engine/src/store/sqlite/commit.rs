//! The owner's hand in the file: fence, rows, dead letters, state, progress between BEGIN IMMEDIATE and COMMIT.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::{AssertSqlSafe, Connection, Row, SqliteConnection};

use super::table::TableSql;
use super::{SqliteStore, Told, archive, time};
use crate::error::{Error, Kind, Result};
use crate::failpoint;
use crate::sql::planned::Table;
use crate::store::pieces::{STATE_VERSION, unpack};
use crate::store::{Commit, FoundPiece, GivenReject, Settled, Stop, ViewCommit, ViewStart, Writer, fenced, over};
use crate::time::clock;

/// A pipeline's writer.
pub struct SqliteWriter {
    store: SqliteStore,
    connection: Option<SqliteConnection>,
    /// Which file that is.
    file: Option<(u64, u64)>,
    pipeline: String,
    /// Of the views, in the order in which commits count them.
    tables: Vec<(String, TableSql)>,
}

/// What became of one attempt.
enum Attempt {
    Committed,
    /// The fence or a count does not fit, and nothing was written.
    Misfit,
}

impl SqliteWriter {
    /// A writer with its first connection.
    pub fn new(store: SqliteStore, connection: SqliteConnection, pipeline: &str) -> Self {
        Self {
            file: store.file(),
            store,
            connection: Some(connection),
            pipeline: pipeline.to_string(),
            tables: Vec::new(),
        }
    }

    async fn connection(&mut self) -> Result<&mut SqliteConnection, Told> {
        if self.connection.is_none() {
            self.connection = Some(self.store.connect().await?);
        }
        self.connection.as_mut().ok_or_else(|| Error::bug("a connection vanished").into())
    }

    async fn attempt(&mut self, commit: &Commit) -> Result<Attempt, Told> {
        let tables = self.tables.clone();
        // Dropped without a commit, it is rolled back.
        let mut writing = self.connection().await?.begin_with("BEGIN IMMEDIATE").await?;
        failpoint::hit("begun")?;
        if !fence(&mut writing, commit).await? {
            return Ok(Attempt::Misfit);
        }
        failpoint::hit("fenced")?;
        for view in &commit.views {
            write_view(&mut writing, &tables[view.view], view, commit).await?;
        }
        failpoint::hit("upserted")?;
        dead_letters(&mut writing, commit).await?;
        failpoint::hit("dead-letters")?;
        state(&mut writing, &tables, commit).await?;
        if !progress(&mut writing, commit).await? {
            return Ok(Attempt::Misfit);
        }
        failpoint::hit("progress")?;
        failpoint::hit("commit-unsent")?;
        writing.commit().await?;
        failpoint::hit("commit-sent")?;
        failpoint::hit("commit-acked")?;
        Ok(Attempt::Committed)
    }

    /// What the file says of the last commit.
    async fn resolve(&mut self, commit: &Commit) -> Result<Settled, Told> {
        let pipeline = self.pipeline.clone();
        let row = sqlx::query("SELECT epoch, commit_id FROM tidegate_pipelines WHERE pipeline = ?")
            .bind(pipeline)
            .fetch_one(self.connection().await?)
            .await?;
        if row.get::<String, _>(1) == commit.id.to_string() {
            return Ok(Settled::Committed);
        }
        if row.get::<i64, _>(0) != commit.epoch {
            return Err(fenced(commit, row.get(0)).into());
        }
        Ok(Settled::Aborted)
    }
}

#[async_trait]
impl Writer for SqliteWriter {
    async fn topic_id(&mut self, epoch: i64) -> Result<String> {
        // A file that is open lives on when its name is gone, and with it what is committed to it.
        if self.store.file() != self.file {
            let path = self.store.path().display();
            return Err(Error::decide(
                "TG-DATABASE-CHANGED",
                format!("{path} was removed or replaced while it was written to"),
            )
            .hint(
                "what was committed to the old file goes with this process; put the right file there and start again",
            ));
        }
        let pipeline = self.pipeline.clone();
        let connection = self.connection().await?;
        let row = sqlx::query("SELECT topic_id, epoch FROM tidegate_pipelines WHERE pipeline = ?").bind(&pipeline);
        let row = row.fetch_one(connection).await.map_err(Told::from)?;
        if row.get::<i64, _>(1) == epoch { Ok(row.get(0)) } else { Err(over(&pipeline, epoch)) }
    }

    async fn begin_partitions(&mut self, epoch: i64, starts: &[(i32, i64)]) -> Result<()> {
        let pipeline = self.pipeline.clone();
        let told = Told::from;
        let mut writing = self.connection().await?.begin_with("BEGIN IMMEDIATE").await.map_err(told)?;
        let owns = sqlx::query("SELECT 1 FROM tidegate_pipelines WHERE pipeline = ? AND epoch = ?")
            .bind(&pipeline)
            .bind(epoch);
        if owns.fetch_optional(&mut *writing).await.map_err(told)?.is_none() {
            return Err(over(&pipeline, epoch));
        }
        for (part, at) in starts {
            sqlx::query("INSERT INTO tidegate_progress (pipeline, part, next_offset, checkpoint_offset, rebuild_from, start_offset) VALUES (?1, ?2, ?3, ?3, ?3, ?3)")
                .bind(&pipeline)
                .bind(part)
                .bind(at)
                .execute(&mut *writing)
                .await
                .map_err(told)?;
        }
        writing.commit().await.map_err(told)?;
        Ok(())
    }

    async fn open_archive(&mut self, epoch: i64, on: bool) -> Result<(i64, Vec<(i32, i64)>)> {
        let pipeline = self.pipeline.clone();
        Ok(archive::open(self.connection().await?, &pipeline, epoch, on).await?)
    }

    async fn begin_view(&mut self, epoch: i64, start: &ViewStart<'_>) -> Result<()> {
        let pipeline = self.pipeline.clone();
        let starts = serde_json::to_string(start.starts).map_err(|error| Error::bug(error.to_string()))?;
        let made = sqlx::query(
            "INSERT INTO tidegate_view_progress (view, pipeline, fingerprint, floor, starts) \
             SELECT ?1, ?2, ?3, ?4, ?5 FROM tidegate_pipelines WHERE pipeline = ?2 AND epoch = ?6",
        )
        .bind(start.view)
        .bind(&pipeline)
        .bind(start.fingerprint)
        .bind(time(start.floor))
        .bind(starts)
        .bind(epoch)
        .execute(self.connection().await?)
        .await
        .map_err(Told::from)?;
        if made.rows_affected() == 1 { Ok(()) } else { Err(over(&pipeline, epoch)) }
    }

    async fn set_absent(&mut self, epoch: i64, view: &str, since: Option<i64>) -> Result<()> {
        let pipeline = self.pipeline.clone();
        let noted = sqlx::query(
            "UPDATE tidegate_view_progress SET absent_since = CASE WHEN ?1 IS NOT NULL THEN coalesce(absent_since, ?1) END WHERE view = ?2 \
             AND EXISTS (SELECT 1 FROM tidegate_pipelines WHERE pipeline = ?3 AND epoch = ?4)",
        )
        .bind(since)
        .bind(view)
        .bind(&pipeline)
        .bind(epoch)
        .execute(self.connection().await?)
        .await
        .map_err(Told::from)?;
        if noted.rows_affected() == 1 { Ok(()) } else { Err(over(&pipeline, epoch)) }
    }

    async fn open_table(&mut self, table: &Table) -> Result<()> {
        let sql = TableSql::new(table);
        let connection = self.connection().await?;
        match SqliteStore::declared(connection, &table.name).await? {
            Some(declared) if declared == sql.create() => {}
            Some(_) => {
                return Err(Error::configuration(
                    "TG-SINK-SCHEMA",
                    format!("table {} is not the one that this query makes: {}", table.name, sql.create()),
                )
                .hint("on SQLite a view's table is Tidegate's own: drop or rename it, or give the view another name"));
            }
            None => _ = sqlx::query(AssertSqlSafe(sql.create())).execute(&mut *connection).await.map_err(Told::from)?,
        }
        // Apart from the table, so that a crash between the two leaves nothing undone.
        if let Some(index) = sql.create_index() {
            sqlx::query(AssertSqlSafe(index)).execute(&mut *connection).await.map_err(Told::from)?;
        }
        self.tables.push((table.name.clone(), sql));
        Ok(())
    }

    async fn load_state(&mut self) -> Result<Vec<FoundPiece>> {
        let pipeline = self.pipeline.clone();
        let rows = sqlx::query("SELECT view, part, window_start, piece, groups, digest, data FROM tidegate_state WHERE pipeline = ? ORDER BY piece, part")
            .bind(pipeline)
            .fetch_all(self.connection().await?)
            .await
            .map_err(Told::from)?;
        Ok(rows
            .iter()
            .map(|row| FoundPiece {
                view: row.get(0),
                part: row.get(1),
                window_start: row.get(2),
                seq: row.get(3),
                groups: unpack(row.get(4), row.get(5), row.get(6)),
            })
            .collect())
    }

    async fn given_rejects(&mut self, from: &[(i32, i64)]) -> Result<Vec<GivenReject>> {
        let pipeline = self.pipeline.clone();
        let lowest = from.iter().map(|(_, offset)| *offset).min().unwrap_or_default();
        let rows = sqlx::query(
            "SELECT view, part, \"offset\", more_offsets FROM tidegate_dead_letters \
             WHERE pipeline = ? AND reason IN ('future', 'late-after-idle') AND (\"offset\" >= ? OR more_offsets IS NOT NULL)",
        )
        .bind(pipeline)
        .bind(lowest)
        .fetch_all(self.connection().await?)
        .await
        .map_err(Told::from)?;
        let mut found = Vec::new();
        for row in &rows {
            let (view, partition, offset): (String, i32, i64) = (row.get(0), row.get(1), row.get(2));
            let more: Option<Vec<i64>> =
                row.get::<Option<String>, _>(3).and_then(|text| serde_json::from_str(&text).ok());
            let offsets = more.unwrap_or_else(|| vec![offset]);
            found.extend(offsets.into_iter().map(|offset| GivenReject { view: view.clone(), partition, offset }));
        }
        found.retain(|reject| from.iter().any(|(part, start)| *part == reject.partition && reject.offset >= *start));
        Ok(found)
    }

    async fn commit(&mut self, commit: &Commit, stop: Stop<'_>) -> Result<Settled> {
        let mut pause = Duration::from_millis(20);
        loop {
            match self.attempt(commit).await {
                Ok(Attempt::Committed) => return Ok(Settled::Committed),
                Ok(Attempt::Misfit) => return Ok(self.resolve(commit).await?),
                Err(Told(error)) if error.kind == Kind::Wait => {
                    tracing::warn!(
                        pipeline = commit.pipeline,
                        seq = commit.seq,
                        "commit not made, trying again: {error}"
                    );
                    self.connection = None;
                    // It may be there all the same.
                    if let Ok(Settled::Committed) = self.resolve(commit).await {
                        return Ok(Settled::Committed);
                    }
                    if stop() {
                        return Ok(Settled::Aborted);
                    }
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(1));
                }
                Err(told) => return Err(told.into()),
            }
        }
    }
}

async fn fence(writing: &mut SqliteConnection, commit: &Commit) -> Result<bool, Told> {
    let checkpoint = commit.checkpoint.as_ref().map(|_| commit.seq);
    let done = sqlx::query(
        "UPDATE tidegate_pipelines SET commit_seq = ?1, commit_id = ?2, watermark = ?3, records_read = records_read + ?4, \
         records_decoded = records_decoded + ?5, records_rejected = records_rejected + ?6, checkpoint_seq = coalesce(?7, checkpoint_seq), \
         state_version = CASE WHEN ?7 IS NULL THEN state_version ELSE ?8 END, committed_at = ?11 WHERE pipeline = ?9 AND epoch = ?10 AND commit_seq = ?1 - 1",
    )
    .bind(commit.seq)
    .bind(commit.id.to_string())
    .bind(time(commit.frontier))
    .bind(commit.read)
    .bind(commit.decoded)
    .bind(commit.rejected)
    .bind(checkpoint)
    .bind(STATE_VERSION)
    .bind(&commit.pipeline)
    .bind(commit.epoch)
    .bind(clock::wall_us())
    .execute(writing)
    .await?;
    Ok(done.rows_affected() == 1)
}

async fn write_view(
    writing: &mut SqliteConnection,
    (name, table): &(String, TableSql),
    view: &ViewCommit,
    commit: &Commit,
) -> Result<(), Told> {
    for keys in &view.write.deletes {
        table.delete(&mut *writing, keys).await?;
    }
    for rows in &view.write.upserts {
        table.write(&mut *writing, rows).await?;
    }
    let counts = &view.counts;
    sqlx::query(
        "UPDATE tidegate_view_progress SET decoded = decoded + ?, filtered = filtered + ?, accepted = accepted + ?, late = late + ?, \
         failed = failed + ?, closed_until = coalesce(?, closed_until), state_pieces = ? WHERE view = ?",
    )
    .bind(counts.decoded)
    .bind(counts.filtered)
    .bind(counts.accepted)
    .bind(counts.late)
    .bind(counts.failed)
    .bind(time(commit.frontier))
    .bind(view.pieces)
    .bind(name)
    .execute(&mut *writing)
    .await?;
    let now = clock::wall_us();
    let written = "INSERT OR REPLACE INTO tidegate_window_changes (changed_at, view, window_time) VALUES (?, ?, ?)";
    let thinned = "UPDATE tidegate_window_changes SET changed_at = ? WHERE view = ? AND window_time = ?";
    for (sql, windows) in [(written, &view.windows), (thinned, &view.thinned)] {
        for window in windows {
            sqlx::query(sql).bind(now).bind(name).bind(window).execute(&mut *writing).await?;
        }
    }
    Ok(())
}

async fn dead_letters(writing: &mut SqliteConnection, commit: &Commit) -> Result<(), Told> {
    for letter in &commit.dead_letters {
        let offsets = letter.offsets.as_ref().and_then(|offsets| serde_json::to_string(offsets).ok());
        sqlx::query(
            "INSERT INTO tidegate_dead_letters (pipeline, view, part, \"offset\", reason, topic, count, more_offsets, detail, payload, payload_size, recorded_at) \
             SELECT ?1, ?2, ?3, ?4, ?5, topic, ?6, ?7, ?8, ?9, ?10, ?11 FROM tidegate_pipelines WHERE pipeline = ?1",
        )
        .bind(&commit.pipeline)
        .bind(&letter.view)
        .bind(letter.partition)
        .bind(letter.offset)
        .bind(letter.reason)
        .bind(letter.count)
        .bind(offsets)
        .bind(&letter.detail)
        .bind(letter.payload.as_deref())
        .bind(letter.payload_size)
        .bind(clock::wall_us())
        .execute(&mut *writing)
        .await?;
    }
    Ok(())
}

async fn state(writing: &mut SqliteConnection, tables: &[(String, TableSql)], commit: &Commit) -> Result<(), Told> {
    for view in &commit.views {
        if let Some(bound) = view.drop_state_before {
            sqlx::query("DELETE FROM tidegate_state WHERE pipeline = ? AND view = ? AND window_start < ?")
                .bind(&commit.pipeline)
                .bind(&tables[view.view].0)
                .bind(bound)
                .execute(&mut *writing)
                .await?;
        }
    }
    let Some(pieces) = &commit.checkpoint else { return Ok(()) };
    failpoint::hit("state")?;
    for view in &commit.rebuilt {
        sqlx::query("DELETE FROM tidegate_state WHERE pipeline = ? AND view = ?")
            .bind(&commit.pipeline)
            .bind(view)
            .execute(&mut *writing)
            .await?;
    }
    for piece in pieces {
        for replaced in &piece.replaces {
            sqlx::query("DELETE FROM tidegate_state WHERE pipeline = ? AND view = ? AND part = ? AND window_start = ? AND piece = ?")
                .bind(&commit.pipeline)
                .bind(&piece.view)
                .bind(piece.part)
                .bind(piece.window_start)
                .bind(replaced)
                .execute(&mut *writing)
                .await?;
            failpoint::hit("checkpoint-merged")?;
        }
        sqlx::query("INSERT INTO tidegate_state (pipeline, view, part, window_start, piece, groups, digest, data) VALUES (?, ?, ?, ?, ?, ?, ?, ?)")
            .bind(&commit.pipeline)
            .bind(&piece.view)
            .bind(piece.part)
            .bind(piece.window_start)
            .bind(commit.seq)
            .bind(piece.groups)
            .bind(piece.digest.as_slice())
            .bind(piece.data.as_slice())
            .execute(&mut *writing)
            .await?;
    }
    Ok(())
}

/// Moves the partitions, as [`crate::store::StoredPartition::advance`] does; whether each stood where it should.
async fn progress(writing: &mut SqliteConnection, commit: &Commit) -> Result<bool, Told> {
    let checkpoint = commit.checkpoint.is_some();
    for moved in &commit.moves {
        let done = sqlx::query(
            "UPDATE tidegate_progress SET next_offset = ?1, watermark = ?2, idle = ?3, rebuild_from = ?4, rebuild_watermark = ?5, \
             checkpoint_offset = CASE WHEN ?6 THEN ?1 ELSE checkpoint_offset END, \
             checkpoint_watermark = CASE WHEN ?6 THEN ?2 ELSE checkpoint_watermark END, high_watermark = ?10 \
             WHERE pipeline = ?7 AND part = ?8 AND next_offset = ?9",
        )
        .bind(moved.range.until)
        .bind(time(moved.watermark))
        .bind(moved.idle)
        .bind(moved.rebuild_from)
        .bind(time(moved.rebuild_watermark))
        .bind(checkpoint)
        .bind(&commit.pipeline)
        .bind(moved.range.partition)
        .bind(moved.range.from)
        .bind(moved.high_watermark)
        .execute(&mut *writing)
        .await?;
        if done.rows_affected() != 1 {
            return Ok(false);
        }
    }
    Ok(true)
}
