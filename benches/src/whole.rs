//! The whole pipeline: the real binary on a filled topic, into a fresh database.

use tidegate_bench::local::process::measure;
use tidegate_bench::local::{Kafka, Postgres};

use crate::engine;
use crate::queries::Queries;
use crate::report::Run;

/// One run, with or without recent batches; fails unless every record of the topic is in the tables.
pub fn run(
    kafka: &Kafka,
    postgres: &Postgres,
    database: &str,
    queries: &Queries,
    records: u64,
    recent: bool,
) -> Result<Run, String> {
    let url = postgres.create_database(database)?;
    postgres.psql(database, "CHECKPOINT")?;
    let before = postgres.psql(database, "SELECT pg_current_wal_lsn()")?;
    let mut command = engine::command(queries, &url, kafka)?;
    command.env("TIDEGATE__RECENT__ENABLED", recent.to_string());
    let usage = measure(command.args(["--until-caught-up", "--listen", "127.0.0.1:0"]))?;
    let wal = postgres.psql(database, &format!("SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '{before}')::bigint"))?;
    queries.prove(postgres, database, records)?;
    postgres.psql("postgres", &format!("DROP DATABASE {database}"))?;
    let wal: f64 = wal.parse().map_err(|_| format!("WAL: {wal:?}"))?;
    Ok(Run { wal_bytes_per_record: Some(wal / records as f64), ..Run::of(usage, records) })
}
