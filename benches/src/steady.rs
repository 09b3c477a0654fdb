//! The example under a steady load for minutes: does memory grow, and does the table of its state?
//!
//! Event time goes twenty times as fast as the clock, so that every window has filled and closed many times over.

use std::time::Duration;

use tidegate_bench::local::{Kafka, Postgres, wait_until};

use crate::engine::Engine;
use crate::eye::{COMMITTED, Eye};
use crate::load::{Load, now_us};
use crate::queries::Queries;
use crate::report::Run;
use crate::topic::PARTITIONS;

/// How much faster event time goes.
const TIMES: i64 = 20;

/// Makes the topic of a run.
pub fn topic(kafka: &Kafka, name: &str) -> Result<(), String> {
    kafka.create_topic(name, PARTITIONS, &[])
}

/// One run under a load.
pub fn run(kafka: &Kafka, postgres: &Postgres, database: &str, queries: &Queries, load: Load) -> Result<Run, String> {
    let url = postgres.create_database(database)?;
    let mut engine = Engine::start(queries, &url, kafka)?;
    if !wait_until(Duration::from_secs(30), || engine.is_ready()) {
        return Err(format!("the engine does not start:\n{}", engine.log()));
    }
    let mut eye = Eye::open(&url)?;
    let half = Load { seconds: load.seconds / 2, ..load };
    let first_ms = now_us() / 1000 - TIMES * load.seconds as i64 * 1000;
    let at_ms = |number: u64| first_ms + number as i64 * 1000 * TIMES / load.rate as i64;
    half.send(&kafka.brokers(), queries.topic(), at_ms)?;
    let middle = engine.used();
    half.send(&kafka.brokers(), queries.topic(), |number| at_ms(number + half.total()))?;
    let sent = half.total() * 2;
    eye.wait(COMMITTED, sent as i64, Duration::from_secs(30))?;
    let used = engine.used();
    if let Some(line) = engine.complaint() {
        return Err(format!("the engine complains: {line}"));
    }
    engine.stop();
    // An engine that ends has stored all of its state.
    let ratio = postgres.psql(
        database,
        "SELECT pg_total_relation_size('tidegate.state')::float8 / sum(octet_length(data)) FROM tidegate.state",
    )?;
    queries.prove(postgres, database, sent)?;
    Ok(Run {
        events_per_s: Some(load.rate as f64),
        peak_rss_mib_at_half: Some(middle.peak_mib),
        state_bytes_ratio: Some(ratio.parse().map_err(|_| format!("no state: {ratio:?}"))?),
        ..Run::of(used, sent)
    })
}
