//! A start after a crash: 100,000 groups in an open window, and records that came after the last checkpoint.

use std::time::{Duration, Instant};

use tidegate_bench::local::{Kafka, Postgres, wait_until};

use crate::engine::Engine;
use crate::eye::{CHECKPOINTED, COMMITTED, Eye};
use crate::queries::Queries;
use crate::report::Run;
use crate::topic::{PARTITIONS, append, in_turn};

const GROUPS: u32 = 100_000;

/// Records that the checkpoint holds, those that came after it, and those that come while no engine runs.
const SAVED: u64 = 1_000_000;
const TAIL: u64 = 50_000;
const NEW: u64 = 1_000;

const LIMIT: Duration = Duration::from_secs(120);

/// What a start finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// The state, to which the records after it are added.
    Checkpoint,
    /// State of which a piece is missing: the window is read again from its first record.
    Rebuild,
}

/// Makes the topic of a run.
pub fn topic(kafka: &Kafka, name: &str) -> Result<(), String> {
    kafka.create_topic(name, PARTITIONS, &[])?;
    append(kafka, name, records().take(SAVED as usize))
}

fn records() -> impl Iterator<Item = (i32, Vec<u8>)> {
    in_turn(GROUPS, SAVED + TAIL + NEW)
}

/// One run: from the start of the process until new records are committed.
pub fn run(kafka: &Kafka, postgres: &Postgres, database: &str, queries: &Queries, found: Found) -> Result<Run, String> {
    let url = postgres.create_database(database)?;
    crash(kafka, queries, &url)?;
    if found == Found::Rebuild {
        postgres
            .psql(database, "DELETE FROM tidegate.state WHERE ctid IN (SELECT ctid FROM tidegate.state LIMIT 1)")?;
    }
    append(kafka, queries.topic(), records().skip((SAVED + TAIL) as usize))?;

    let eye = Eye::open(&url)?;
    let begun = Instant::now();
    let mut engine = Engine::start(queries, &url, kafka)?;
    let (mut ready, mut committed) = (None, None);
    while ready.is_none() || committed.is_none() {
        let now = begun.elapsed().as_secs_f64();
        if ready.is_none() && engine.is_ready() {
            ready = Some(now);
        }
        if committed.is_none() && eye.number(COMMITTED)? > (SAVED + TAIL) as i64 {
            committed = Some(now);
        }
        if begun.elapsed() > LIMIT {
            return Err(format!("the engine does not go on:\n{}", engine.log()));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let all = (SAVED + TAIL + NEW) as i64;
    let whole = wait_until(LIMIT, || eye.number(COMMITTED).is_ok_and(|number| number == all));
    let (log, used) = (engine.log(), engine.used());
    engine.stop();
    if !whole || log.contains("rebuilding it from the log") != (found == Found::Rebuild) {
        return Err(format!("not the start that was to be measured:\n{log}"));
    }
    queries.prove(postgres, database, SAVED + TAIL + NEW)?;
    groups_are_there(postgres, database)?;
    Ok(Run {
        seconds_to_ready: ready,
        seconds_to_commit: committed,
        records_replayed: replayed(&log),
        peak_rss_mib: Some(used.peak_mib),
        seconds: begun.elapsed().as_secs_f64(),
        ..Run::default()
    })
}

/// Runs an engine until its state is stored, gives it more, and kills it before that is stored too.
fn crash(kafka: &Kafka, queries: &Queries, url: &str) -> Result<(), String> {
    let mut engine = Engine::start(queries, url, kafka)?;
    if !wait_until(LIMIT, || engine.is_ready()) {
        return Err(format!("the engine does not start:\n{}", engine.log()));
    }
    let mut eye = Eye::open(url)?;
    eye.wait(CHECKPOINTED, SAVED as i64, LIMIT)?;
    append(kafka, queries.topic(), records().skip(SAVED as usize).take(TAIL as usize))?;
    eye.wait(COMMITTED, (SAVED + TAIL) as i64, LIMIT)?;
    engine.kill9();
    match eye.number(CHECKPOINTED)? {
        checkpointed if checkpointed == SAVED as i64 => Ok(()),
        other => Err(format!("the checkpoint holds {other} records instead of {SAVED}")),
    }
}

fn groups_are_there(postgres: &Postgres, database: &str) -> Result<(), String> {
    let groups = postgres.psql(database, "SELECT count(*) FROM bench")?;
    if groups == GROUPS.to_string() { Ok(()) } else { Err(format!("{groups} groups instead of {GROUPS}")) }
}

/// What the log says of the records that were read again.
fn replayed(log: &str) -> Option<f64> {
    log.split("replaying ").nth(1)?.split_whitespace().next()?.parse().ok()
}
