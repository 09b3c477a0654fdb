//! The whole pipeline: the real binary on a filled topic, into a fresh database.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use tidegate_bench::local::process::measure;
use tidegate_bench::local::{Kafka, Postgres, TempDir};

use crate::report::Run;

/// The view that is measured.
pub const QUERY: &str = "SELECT window_start, window_end, stream_id, count(*) AS records, sum(amount_usd) AS amount, max(message_len) AS longest
FROM TUMBLE(events, ts, INTERVAL '1 minute') GROUP BY window_start, window_end, stream_id";

/// The binary, beside ours unless `TIDEGATE_BIN` names it.
pub fn binary() -> Result<PathBuf, String> {
    if let Some(path) = std::env::var_os("TIDEGATE_BIN") {
        return Ok(path.into());
    }
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let found = own.with_file_name("tidegate");
    if found.exists() { Ok(found) } else { Err(format!("there is no {}; build the workspace", found.display())) }
}

/// Writes the queries for a topic.
pub fn queries(topic: &str) -> Result<TempDir, String> {
    let dir = TempDir::new("bench-queries")?;
    let text = format!(
        "CREATE SOURCE events (event_id VARCHAR, ts TIMESTAMP WITH TIME ZONE, event_type VARCHAR, stream_id VARCHAR, user_id VARCHAR,
  message_len INT, amount_usd DECIMAL(12,2), WATERMARK FOR ts AS ts - INTERVAL '10 seconds')
WITH (connector = 'kafka', topic = '{topic}', format = 'json', scan.startup.mode = 'earliest');
CREATE MATERIALIZED VIEW bench AS {QUERY};"
    );
    std::fs::write(dir.path().join("bench.sql"), text).map_err(|error| error.to_string())?;
    Ok(dir)
}

/// One run; fails unless every record of the topic is counted in the database.
pub fn run(kafka: &Kafka, postgres: &Postgres, topic: &str, records: u64, number: usize) -> Result<Run, String> {
    let database = format!("bench_{}_{number}", topic.replace('-', "_"));
    let url = postgres.create_database(&database)?;
    postgres.psql(&database, "CHECKPOINT")?;
    let dir = queries(topic)?;
    let before = postgres.psql(&database, "SELECT pg_current_wal_lsn()")?;
    let usage = measure(
        Command::new(binary()?)
            .args(["engine", "--until-caught-up", "--listen", "127.0.0.1:0", "--queries"])
            .arg(dir.path())
            .env("DATABASE_URL", url)
            .env("KAFKA_BROKERS", kafka.brokers())
            .env("TIDEGATE_LOG", "warn")
            .stdin(Stdio::null()),
    )?;
    let wal = postgres.psql(&database, &format!("SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '{before}')::bigint"))?;
    let counted = postgres.psql(&database, "SELECT sum(records) FROM bench")?;
    if counted != records.to_string() {
        return Err(format!("{topic}: Postgres counts {counted} records, and the topic has {records}"));
    }
    postgres.psql("postgres", &format!("DROP DATABASE {database}"))?;
    let wal: f64 = wal.parse().map_err(|_| format!("WAL: {wal:?}"))?;
    Ok(Run { wal_bytes_per_record: Some(wal / records as f64), ..Run::of(usage, records) })
}
