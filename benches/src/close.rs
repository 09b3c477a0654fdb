//! A window of a million groups closes: how long that takes, and whether its owner is heard all the while.

use std::time::{Duration, Instant};

use tidegate_bench::local::{Kafka, Postgres, wait_until};

use crate::engine::Engine;
use crate::eye::{CHECKPOINTED, Eye};
use crate::queries::Queries;
use crate::report::Run;
use crate::topic::{HOUR_ENDS_S, PARTITIONS, append, hour_later, in_turn, producer, send};

/// Groups of the window; each has one record.
pub const GROUPS: u32 = 1_000_000;

/// After so long without a beat a standby would take over.
const SILENT_MS_MAX: i64 = 1_600;

const LIMIT: Duration = Duration::from_secs(180);

/// Makes the topic of a run.
pub fn topic(kafka: &Kafka, name: &str) -> Result<(), String> {
    kafka.create_topic(name, PARTITIONS, &[])?;
    append(kafka, name, in_turn(GROUPS, u64::from(GROUPS)))
}

/// One run: from the record that closes the window until the database has all of it, and says that it is final.
pub fn run(kafka: &Kafka, postgres: &Postgres, database: &str, queries: &Queries) -> Result<Run, String> {
    let url = postgres.create_database(database)?;
    let mut engine = Engine::start(queries, &url, kafka)?;
    if !wait_until(LIMIT, || engine.is_ready()) {
        return Err(format!("the engine does not start:\n{}", engine.log()));
    }
    let mut eye = Eye::open(&url)?;
    let told = |error: String, engine: &Engine| format!("{error}\n{}", engine.log());
    eye.wait(CHECKPOINTED, i64::from(GROUPS), LIMIT).map_err(|error| told(error, &engine))?;
    let epoch = eye.number("SELECT epoch FROM tidegate.pipelines")?;

    let (producer, begun) = (producer(&kafka.brokers())?, Instant::now());
    for (partition, payload) in hour_later() {
        send(&producer, queries.topic(), partition, &payload)?;
    }
    let closed =
        format!("SELECT count(*) FROM tidegate.view_progress WHERE closed_until >= to_timestamp({HOUR_ENDS_S})");
    eye.wait(&closed, 1, LIMIT).map_err(|error| told(error, &engine))?;
    let seconds = begun.elapsed().as_secs_f64();
    let used = engine.used();
    if eye.number("SELECT epoch FROM tidegate.pipelines")? != epoch {
        return Err(format!("the pipeline has another owner:\n{}", engine.log()));
    }
    if let Some(line) = engine.complaint() {
        return Err(format!("the engine complains: {line}"));
    }
    if eye.silent_ms() > SILENT_MS_MAX {
        return Err(format!("the owner was silent for {} ms", eye.silent_ms()));
    }
    engine.stop();
    queries.prove(postgres, database, u64::from(GROUPS) + PARTITIONS as u64)?;
    let rows = format!("SELECT count(*), sum(records) FROM bench WHERE window_end = to_timestamp({HOUR_ENDS_S})");
    let rows = postgres.psql(database, &rows)?;
    if rows != format!("{GROUPS}|{GROUPS}") {
        return Err(format!("Postgres has {rows} groups|records instead of {GROUPS}"));
    }
    Ok(Run {
        seconds_to_close: Some(seconds),
        beat_gap_ms: Some(eye.silent_ms() as f64),
        peak_rss_mib: Some(used.peak_mib),
        seconds: used.seconds,
        ..Run::default()
    })
}
