//! What the database tells: offsets, windows, and the equations of the accounting.

use std::time::{Duration, Instant};

use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};
use tidegate_engine::sink::quoted;
use tidegate_engine::sql::planned::{PlannedView, Shape};
use tidegate_engine::time::clock;

use super::Checked;
use super::started::Started;

/// How many offsets of these pipelines are committed.
pub async fn committed(database: &mut PgConnection, pipelines: &[String]) -> Checked<i64> {
    let sql = "SELECT coalesce(sum(next_offset), 0)::bigint FROM tidegate.progress WHERE pipeline = ANY($1)";
    let row = sqlx::query(sql).bind(pipelines).fetch_one(database).await;
    Ok(row.map_err(|error| error.to_string())?.get(0))
}

/// Waits until more offsets are committed.
pub async fn offsets_move(
    database: &mut PgConnection,
    pipelines: &[String],
    mut started: Option<&mut Started>,
    patience: Duration,
) -> Checked<String> {
    let began = Instant::now();
    let mut first = None;
    loop {
        // At the very first start the tables are not there yet.
        if let Ok(now) = committed(database, pipelines).await {
            match first {
                Some(first) if now > first => {
                    return Ok(format!("they move: {first} -> {now}"));
                }
                Some(_) => {}
                None => first = Some(now),
            }
        }
        if let Some(status) = started.as_mut().and_then(|started| started.engine.ended().transpose()) {
            return Err(format!("the engine ended with {}", status?));
        }
        if began.elapsed() > patience {
            return Err(format!("no offset was committed within {patience:?}: is an engine running, and a producer?"));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// How long after its end a window may be the newest: a producer may rest, and a watermark stays behind.
const WINDOW_AGE_MAX_US: i64 = 5 * 60_000_000;

/// The newest window of each windowed view.
pub async fn recent_windows(database: &mut PgConnection, views: &[&PlannedView]) -> Checked<Vec<String>> {
    let mut told = Vec::new();
    for view in views {
        let (Shape::Windowed(windows), Some((column, _))) = (view.shape, view.window_column()) else { continue };
        let (table, column) = (quoted(&view.table.name), quoted(&view.table.columns[column].name));
        let sql = format!("SELECT (extract(epoch FROM max({column})) * 1000000)::bigint FROM {table}");
        let row = sqlx::query(AssertSqlSafe(sql)).fetch_one(&mut *database).await;
        let newest: Option<i64> = row.map_err(|error| format!("table {table}: {error}"))?.get(0);
        let newest = newest.ok_or_else(|| format!("table {table} has no window"))?;
        let age_us = clock::wall_us() - newest;
        let line = format!("{}: the newest window is of {} s ago", view.name, age_us / 1_000_000);
        if age_us > windows.size_us + WINDOW_AGE_MAX_US {
            return Err(line);
        }
        told.push(line);
    }
    match told.is_empty() {
        true => Ok(vec!["no view has windows".to_string()]),
        false => Ok(told),
    }
}

/// The equations: read = decoded + rejected; decoded = filtered + accepted + late + failed.
pub async fn accounting(database: &mut PgConnection) -> Checked<Vec<String>> {
    let told = |error: sqlx::Error| error.to_string();
    let (mut lines, mut wrong) = (vec!["every record is accounted for".to_string()], Vec::new());
    let mut snapshot = database.begin().await.map_err(told)?;
    sqlx::query("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ").execute(&mut *snapshot).await.map_err(told)?;
    let sources = sqlx::query(
        "SELECT p.pipeline, p.records_read, p.records_decoded, p.records_rejected, p.commit_seq, \
         (SELECT sum(next_offset - start_offset) FROM tidegate.progress g WHERE g.pipeline = p.pipeline)::bigint \
         FROM tidegate.pipelines p ORDER BY 1",
    )
    .fetch_all(&mut *snapshot)
    .await
    .map_err(told)?;
    for row in sources {
        let name: String = row.get(0);
        let [read, decoded, rejected, commits, offsets] = [1, 2, 3, 4, 5].map(|column| row.get::<i64, _>(column));
        lines.push(format!("source {name}: read {read} = decoded {decoded} + rejected {rejected} ({commits} commits)"));
        // Markers of transactions have offsets and are no records.
        if read != decoded + rejected || read > offsets {
            wrong.push(format!("source {name} does not add up ({offsets} offsets are committed)"));
        }
    }
    let views =
        sqlx::query("SELECT view, decoded, filtered, accepted, late, failed FROM tidegate.view_progress ORDER BY 1")
            .fetch_all(&mut *snapshot)
            .await
            .map_err(told)?;
    for row in views {
        let name: String = row.get(0);
        let [decoded, filtered, accepted, late, failed] = [1, 2, 3, 4, 5].map(|column| row.get::<i64, _>(column));
        lines.push(format!(
            "view {name}: decoded {decoded} = filtered {filtered} + accepted {accepted} + late {late} + failed {failed}"
        ));
        if decoded != filtered + accepted + late + failed {
            wrong.push(format!("view {name} does not add up"));
        }
    }
    let letters =
        sqlx::query("SELECT reason, view, sum(count)::bigint FROM tidegate.dead_letters GROUP BY 1, 2 ORDER BY 1, 2")
            .fetch_all(&mut *snapshot)
            .await
            .map_err(told)?;
    for row in letters {
        let (reason, view, count): (String, String, i64) = (row.get(0), row.get(1), row.get(2));
        let of = if view.is_empty() { String::new() } else { format!(" ({view})") };
        lines.push(format!("dead letters {reason}{of}: {count}"));
    }
    if wrong.is_empty() { Ok(lines) } else { Err(wrong.join("; ")) }
}
