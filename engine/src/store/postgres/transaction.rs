//! What stands between BEGIN and COMMIT: fence, rows, dead letters, state, progress, in this order.

use arrow::array::RecordBatch;
use tokio_postgres::error::SqlState;

use super::table::{Parameters, TableSql};
use super::{Failed, Session, deadline, is_data, time};
use crate::failpoint;
use crate::store::pieces::STATE_VERSION;
use crate::store::{Commit, Move, ViewCommit};

/// Everything between BEGIN and COMMIT.
pub(super) async fn transact(
    session: &mut Session,
    tables: &[(String, TableSql)],
    commit: &Commit,
    apart: bool,
) -> Result<(), Failed> {
    deadline(session.timeout, session.client.batch_execute("BEGIN")).await?.map_err(Failed::Answered)?;
    failpoint::hit("begun")?;
    fence(session, commit).await?;
    failpoint::hit("fenced")?;
    for view in &commit.views {
        write_view(session, &tables[view.view], view, commit, apart).await?;
    }
    failpoint::hit("upserted")?;
    dead_letters(session, commit).await?;
    failpoint::hit("dead-letters")?;
    state(session, tables, commit).await?;
    progress(session, commit).await?;
    failpoint::hit("progress")?;
    Ok(())
}

async fn fence(session: &mut Session, commit: &Commit) -> Result<(), Failed> {
    let checkpoint = commit.checkpoint.as_ref().map(|_| commit.seq);
    let sql = format!(
        "UPDATE tidegate.pipelines SET commit_seq = $2::bigint, commit_id = $3::text::uuid, watermark = {}, records_read = records_read + $5::bigint, \
         records_decoded = records_decoded + $6::bigint, records_rejected = records_rejected + $7::bigint, checkpoint_seq = coalesce($8::bigint, checkpoint_seq), \
         state_version = CASE WHEN $8::bigint IS NULL THEN state_version ELSE $9 END, committed_at = now() \
         WHERE pipeline = $1 AND epoch = $10 AND commit_seq = $2::bigint - 1",
        time("$4")
    );
    let id = commit.id.to_string();
    let moved = session
        .often(
            &sql,
            &[
                &commit.pipeline,
                &commit.seq,
                &id,
                &commit.frontier,
                &commit.read,
                &commit.decoded,
                &commit.rejected,
                &checkpoint,
                &STATE_VERSION,
                &commit.epoch,
            ],
        )
        .await?;
    if moved == 1 { Ok(()) } else { Err(Failed::Misfit) }
}

async fn write_view(
    session: &mut Session,
    table: &(String, TableSql),
    view: &ViewCommit,
    commit: &Commit,
    apart: bool,
) -> Result<(), Failed> {
    let (name, sql) = table;
    for keys in &view.write.deletes {
        if apart {
            // A key that the database refuses cannot be in its table.
            run_apart(session, &sql.delete, keys).await?;
        } else {
            session.often(&sql.delete, &Parameters::new(keys)?.all()).await?;
        }
    }
    for rows in &view.write.upserts {
        if apart {
            for (row, error) in run_apart(session, &sql.upsert, rows).await? {
                refused_row(session, name, &row, commit, &error).await?;
            }
        } else {
            session.often(&sql.upsert, &Parameters::new(rows)?.all()).await?;
        }
    }
    let counts = &view.counts;
    session
        .often(
            &format!(
                "WITH changed AS (INSERT INTO tidegate.window_changes (view, window_time, changed_at) \
                 SELECT $1::text, {}, now() FROM unnest($9::bigint[]) AS n(window_time) \
                 ON CONFLICT (view, window_time) DO UPDATE SET changed_at = excluded.changed_at), \
                 thinned AS (UPDATE tidegate.window_changes SET changed_at = now() \
                 WHERE view = $1 AND window_time IN (SELECT {} FROM unnest($10::bigint[]) AS n(window_time))) \
                 UPDATE tidegate.view_progress SET decoded = decoded + $2::bigint, filtered = filtered + $3::bigint, accepted = accepted + $4::bigint, late = late + $5::bigint, \
                 failed = failed + $6::bigint, closed_until = coalesce({}, closed_until), state_pieces = $8::bigint WHERE view = $1",
                time("n.window_time"),
                time("n.window_time"),
                time("$7")
            ),
            &[
                name,
                &counts.decoded,
                &counts.filtered,
                &counts.accepted,
                &counts.late,
                &counts.failed,
                &commit.frontier,
                &view.pieces,
                &view.windows,
                &view.thinned,
            ],
        )
        .await?;
    Ok(())
}

/// Runs a statement for all rows that the database takes, and returns the others. Halves until a row is alone.
async fn run_apart(
    session: &mut Session,
    sql: &str,
    rows: &RecordBatch,
) -> Result<Vec<(RecordBatch, tokio_postgres::Error)>, Failed> {
    let mut refused = Vec::new();
    let mut todo = vec![rows.clone()];
    while let Some(rows) = todo.pop() {
        savepoint(session, "SAVEPOINT apart").await?;
        match session.often(sql, &Parameters::new(&rows)?.all()).await {
            Ok(_) => savepoint(session, "RELEASE apart").await?,
            Err(Failed::Answered(error)) if error.as_db_error().is_some_and(|db| is_data(db.code())) => {
                savepoint(session, "ROLLBACK TO apart").await?;
                let count = rows.num_rows();
                if count == 1 {
                    refused.push((rows, error));
                } else {
                    for (start, len) in [(count / 2, count - count / 2), (0, count / 2)] {
                        todo.push(rows.slice(start, len));
                    }
                }
            }
            Err(other) => return Err(other),
        }
    }
    Ok(refused)
}

async fn savepoint(session: &Session, sql: &str) -> Result<(), Failed> {
    deadline(session.timeout, session.client.batch_execute(sql)).await?.map_err(Failed::Answered)
}

async fn refused_row(
    session: &mut Session,
    view: &str,
    rows: &RecordBatch,
    commit: &Commit,
    error: &tokio_postgres::Error,
) -> Result<(), Failed> {
    let mut writer = arrow::json::LineDelimitedWriter::new(Vec::new());
    let written = writer.write(rows).and_then(|()| writer.finish());
    written.map_err(|error| Failed::Hangs(error.into()))?;
    let row = String::from_utf8_lossy(&writer.into_inner()).trim().to_string();
    let reason = format!("sink-{}", error.code().map_or("unknown", SqlState::code));
    let detail = error.as_db_error().map_or_else(|| error.to_string(), |db| db.message().to_string());
    let payload = row.clone().into_bytes();
    session
        .often(
            "INSERT INTO tidegate.dead_letters (pipeline, view, part, \"offset\", reason, topic, detail, payload, payload_size, row_key) \
             SELECT $1::text, $2::text, -1, $3::bigint, $4::text, topic, $5::text, $6::bytea, $7::bigint, md5($8::text) FROM tidegate.pipelines WHERE pipeline = $1 ON CONFLICT DO NOTHING",
            &[&commit.pipeline, &view, &commit.seq, &reason, &detail, &payload, &(payload.len() as i64), &row],
        )
        .await?;
    Ok(())
}

async fn dead_letters(session: &mut Session, commit: &Commit) -> Result<(), Failed> {
    for letter in &commit.dead_letters {
        session
            .often(
                "INSERT INTO tidegate.dead_letters (pipeline, view, part, \"offset\", reason, topic, count, more_offsets, detail, payload, payload_size) \
                 SELECT $1::text, $2::text, $3::integer, $4::bigint, $5::text, topic, $6::bigint, $7::bigint[], $8::text, $9::bytea, $10::bigint FROM tidegate.pipelines WHERE pipeline = $1",
                &[
                    &commit.pipeline,
                    &letter.view,
                    &letter.partition,
                    &letter.offset,
                    &letter.reason,
                    &letter.count,
                    &letter.offsets,
                    &letter.detail,
                    &letter.payload,
                    &letter.payload_size,
                ],
            )
            .await?;
    }
    Ok(())
}

async fn state(session: &mut Session, tables: &[(String, TableSql)], commit: &Commit) -> Result<(), Failed> {
    for view in &commit.views {
        if let Some(bound) = view.drop_state_before {
            session
                .often(
                    "DELETE FROM tidegate.state WHERE pipeline = $1 AND view = $2 AND window_start < $3",
                    &[&commit.pipeline, &tables[view.view].0, &bound],
                )
                .await?;
        }
    }
    let Some(pieces) = &commit.checkpoint else { return Ok(()) };
    failpoint::hit("state")?;
    if !commit.rebuilt.is_empty() {
        let sql = "DELETE FROM tidegate.state WHERE pipeline = $1 AND view = ANY ($2)";
        session.often(sql, &[&commit.pipeline, &commit.rebuilt]).await?;
    }
    for piece in pieces {
        if !piece.replaces.is_empty() {
            session
                .often(
                    "DELETE FROM tidegate.state WHERE pipeline = $1 AND view = $2 AND window_start = $3 AND piece = ANY ($4) AND part = $5",
                    &[&commit.pipeline, &piece.view, &piece.window_start, &piece.replaces, &piece.part],
                )
                .await?;
            failpoint::hit("checkpoint-merged")?;
        }
        session
            .often(
                "INSERT INTO tidegate.state (pipeline, view, part, window_start, piece, groups, digest, data) VALUES ($1, $2, $8, $3, $4, $5, $6, $7)",
                &[&commit.pipeline, &piece.view, &piece.window_start, &commit.seq, &piece.groups, &piece.digest, &piece.data, &piece.part],
            )
            .await?;
    }
    Ok(())
}

/// Moves the partitions, as [`crate::store::StoredPartition::advance`] does; each must stand where it should.
async fn progress(session: &mut Session, commit: &Commit) -> Result<(), Failed> {
    if commit.moves.is_empty() {
        return Ok(());
    }
    let column = |get: fn(&Move) -> i64| commit.moves.iter().map(get).collect::<Vec<i64>>();
    let parts: Vec<i32> = commit.moves.iter().map(|m| m.range.partition).collect();
    let idle: Vec<bool> = commit.moves.iter().map(|m| m.idle).collect();
    let (from, until) = (column(|m| m.range.from), column(|m| m.range.until));
    let (watermark, rebuild, rebuild_watermark) =
        (column(|m| m.watermark), column(|m| m.rebuild_from), column(|m| m.rebuild_watermark));
    let sql = format!(
        "UPDATE tidegate.progress p SET next_offset = n.until, watermark = {wm}, idle = n.idle, rebuild_from = n.rebuild, rebuild_watermark = {rebuild_wm}, \
         high_watermark = n.high, checkpoint_offset = CASE WHEN $9::boolean THEN n.until ELSE p.checkpoint_offset END, \
         checkpoint_watermark = CASE WHEN $9::boolean THEN {wm} ELSE p.checkpoint_watermark END \
         FROM unnest($2::integer[], $3::bigint[], $4::bigint[], $5::bigint[], $6::boolean[], $7::bigint[], $8::bigint[], $10::bigint[]) \
         AS n(part, from_, until, wm, idle, rebuild, rebuild_wm, high) WHERE p.pipeline = $1 AND p.part = n.part AND p.next_offset = n.from_",
        wm = time("n.wm"),
        rebuild_wm = time("n.rebuild_wm")
    );
    let checkpoint = commit.checkpoint.is_some();
    let moved = session
        .often(
            &sql,
            &[
                &commit.pipeline,
                &parts,
                &from,
                &until,
                &watermark,
                &idle,
                &rebuild,
                &rebuild_watermark,
                &checkpoint,
                &column(|m| m.high_watermark),
            ],
        )
        .await?;
    if moved == parts.len() as u64 { Ok(()) } else { Err(Failed::Misfit) }
}
