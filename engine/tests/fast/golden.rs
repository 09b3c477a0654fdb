//! Every golden file, as it is written and with crashes and commits that it does not ask for; on memory and on SQLite.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tidegate_engine::golden::{Options, Variation, accept, files, run};
use tidegate_engine::store::Store;
use tidegate_engine::store::memory::MemoryStore;
use tidegate_engine::store::sqlite::SqliteStore;

fn golden() -> PathBuf {
    Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").expect("run by cargo")).join("tests/golden")
}

type Damage = Arc<dyn Fn() + Send + Sync>;

fn all_pass(variation: Variation, store: impl Fn() -> Arc<dyn Store>) {
    all_pass_on(variation, || (store(), None));
}

fn all_pass_on(variation: Variation, store: impl Fn() -> (Arc<dyn Store>, Option<Damage>)) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let only = std::env::var("GOLDEN").unwrap_or_default();
    let files: Vec<PathBuf> = files(&golden()).unwrap();
    let chosen: Vec<&PathBuf> = files.iter().filter(|file| file.to_string_lossy().contains(&only)).collect();
    assert!(!chosen.is_empty(), "no golden file is named like {only}");
    let mut failed = Vec::new();
    for file in &chosen {
        let (store, damage) = store();
        let options = Options { queries: Vec::new(), variation, store, damage, runtime: runtime.handle().clone() };
        if let Err(difference) = run(file, &options) {
            failed.push(difference);
        }
    }
    assert!(failed.is_empty(), "{} of {} differ:\n\n{}", failed.len(), chosen.len(), failed.join("\n\n"));
}

/// A new file each time, in a directory that goes with the test.
fn sqlite(name: &str) -> (PathBuf, impl Fn() -> Arc<dyn Store>) {
    let directory = std::env::temp_dir().join(format!("tidegate-golden-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let (next, held) = (AtomicU32::new(0), directory.clone());
    let make = move || -> Arc<dyn Store> {
        Arc::new(SqliteStore::new(&held.join(format!("{}.db", next.fetch_add(1, Ordering::Relaxed)))))
    };
    (directory, make)
}

fn memory() -> Arc<dyn Store> {
    Arc::new(MemoryStore::default())
}

/// A file as it is written, on memory.
fn as_written(runtime: &tokio::runtime::Runtime) -> Options {
    let (variation, runtime) = (Variation::AsWritten, runtime.handle().clone());
    Options { queries: Vec::new(), variation, store: memory(), damage: None, runtime }
}

/// Which commits are extra.
const SEEDS: [u64; 3] = [0x9E37_79B9_7F4A_7C15, 0xD1B5_4A32_D192_ED03, 0x2545_F491_4F6C_DD1D];

#[test]
fn golden_files_as_written() {
    all_pass(Variation::AsWritten, memory);
}

#[test]
fn golden_files_with_a_crash_after_each_commit() {
    all_pass(Variation::CrashEachCommit, memory);
}

#[test]
fn golden_files_with_a_crash_after_each_commit_and_checkpoints() {
    all_pass(Variation::CrashEachCheckpoint, memory);
}

#[test]
fn golden_files_with_commits_at_random_places() {
    for seed in SEEDS {
        all_pass(Variation::ExtraCommits(seed), memory);
    }
}

#[test]
fn golden_files_with_crashes_and_checkpoints_at_random_places() {
    for seed in SEEDS {
        all_pass(Variation::Shaken(seed), memory);
    }
}

#[test]
fn golden_files_on_sqlite() {
    let (directory, store) = sqlite("plain");
    all_pass(Variation::AsWritten, store);
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn golden_files_on_sqlite_with_a_crash_after_each_commit() {
    let (directory, store) = sqlite("crash");
    all_pass(Variation::CrashEachCheckpoint, store);
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn golden_files_on_sqlite_with_crashes_and_checkpoints_at_random_places() {
    let (directory, store) = sqlite("commits");
    all_pass(Variation::Shaken(SEEDS[0]), store);
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn golden_files_with_the_state_lost_before_each_crash() {
    for variation in [Variation::CrashEachCheckpoint, Variation::Shaken(SEEDS[0])] {
        all_pass_on(variation, || {
            let store = MemoryStore::default();
            let damaged = store.clone();
            (Arc::new(store), Some(Arc::new(move || damaged.lose_state())))
        });
    }
}

#[test]
fn the_examples_own_golden_files() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let queries = golden().join("../../../queries");
    let found = files(&queries).unwrap();
    assert!(!found.is_empty());
    for file in found {
        let options = Options {
            queries: vec![queries.clone()],
            variation: Variation::AsWritten,
            store: memory(),
            damage: None,
            runtime: runtime.handle().clone(),
        };
        run(&file, &options).unwrap_or_else(|difference| panic!("{difference}"));
    }
}

#[test]
fn a_difference_is_shown_and_accept_writes_what_comes_out() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let directory = std::env::temp_dir().join(format!("tidegate-accept-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let file = directory.join("wrong.slt");
    let right = std::fs::read_to_string(golden().join("aggregates/count.slt")).unwrap();
    std::fs::write(&file, right.replace("\n3 2\n", "\n3 1\n")).unwrap();
    let options = || as_written(&runtime);
    let difference = run(&file, &options()).expect_err("it differs");
    assert!(difference.contains("-   3 1") && difference.contains("+   3 2"), "{difference}");
    assert!(difference.contains("wrong.slt:"), "{difference}");
    accept(&file, &options()).unwrap();
    assert_eq!(std::fs::read_to_string(&file).unwrap(), right);
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn what_fails_is_never_accepted_as_expected() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let directory = std::env::temp_dir().join(format!("tidegate-unacceptable-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let file = directory.join("wrong.slt");
    let right = std::fs::read_to_string(golden().join("aggregates/count.slt")).unwrap();
    let options = || as_written(&runtime);
    let misspelt = right.replace("FROM v\n", "FROM vv\n");
    assert_ne!(misspelt, right);
    std::fs::write(&file, &misspelt).unwrap();
    let refused = accept(&file, &options()).expect_err("a query that fails");
    assert!(refused.contains("wrong.slt:") && refused.contains("query error, where the file has: query"), "{refused}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), misspelt);
    std::fs::write(&file, "# nothing is asked\n\nstatement ok\nadvance 1 second\n").unwrap();
    let refused = run(&file, &options()).expect_err("a file that asks nothing");
    assert!(refused.contains("it asks nothing"), "{refused}");
    std::fs::remove_dir_all(directory).unwrap();
}
