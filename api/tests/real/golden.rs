//! Every golden file on a real Postgres: as written, with a crash after each commit, and with
//! commits, checkpoints and crashes that it does not ask for.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tidegate_engine::golden::{Options, Variation, files, run};
use tidegate_engine::store::postgres::Postgres;

use crate::world::{repository, shared};

fn all_pass(variation: Variation, prefix: &str) {
    let servers = shared();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let files = files(&repository().join("engine/tests/golden")).unwrap();
    let mut failed = Vec::new();
    for (number, file) in files.iter().enumerate() {
        let url = servers.postgres.create_database(&format!("{prefix}_{number}")).unwrap();
        let store = Arc::new(Postgres::new(&url, Duration::from_secs(20)).unwrap());
        let options =
            Options { queries: Vec::new(), variation, store, damage: None, runtime: runtime.handle().clone() };
        if let Err(difference) = run(Path::new(file), &options) {
            failed.push(difference);
        }
    }
    assert!(failed.is_empty(), "{} of {} differ:\n\n{}", failed.len(), files.len(), failed.join("\n\n"));
}

#[test]
fn golden_files_on_postgres() {
    all_pass(Variation::AsWritten, "golden");
}

#[test]
fn golden_files_on_postgres_with_a_crash_after_each_commit() {
    all_pass(Variation::CrashEachCheckpoint, "golden_crash");
}

#[test]
fn golden_files_on_postgres_with_crashes_and_checkpoints_at_random_places() {
    all_pass(Variation::Shaken(0x9E37_79B9_7F4A_7C15), "golden_shaken");
}
