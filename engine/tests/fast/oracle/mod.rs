//! Streaming equals batch, for random sources, views, records and accidents.
//!
//! ```text
//!   seed ─► case ─┬─► script: a golden file, whose answers are one batch run over the rows that the model accepts
//!                 └─► stage: the engine, as golden files run it       └─► must be equal at every check
//! ```
//!
//! A case that differs is made smaller and written as a golden file, to be kept in `engine/tests/golden/found`.

mod batch;
mod case;
mod drive;
mod generate;
mod model;
mod script;
mod seen;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use proptest::strategy::Strategy;
use tidegate_engine::golden::{self, Options, Stage, Variation};
use tidegate_engine::store::memory::MemoryStore;
use tokio::runtime::{Handle, Runtime};

use case::Case;
use drive::{Failure, Plan};
use model::Lie;
use script::{Block, golden_file, script};
use seen::{EXPECTED, Seen};

/// Cases of a run that says nothing else.
const CASES: u64 = 2_000;

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// Plays a script on the engine; the error is the first difference.
fn play(blocks: &[Block], runtime: &Handle) -> Result<(), String> {
    let store = MemoryStore::default();
    let (damaged, loses) = (store.clone(), Arc::new(AtomicBool::new(false)));
    let lost = loses.clone();
    let damage = move || {
        if lost.swap(false, Ordering::Relaxed) {
            damaged.lose_state();
        }
    };
    let options = Options {
        queries: Vec::new(),
        variation: Variation::AsWritten,
        store: Arc::new(store),
        damage: Some(Arc::new(damage)),
        runtime: runtime.clone(),
    };
    let told = |error: tidegate_engine::error::Error| error.to_string();
    let text = golden_file("", blocks);
    let mut stage = Stage::new(Path::new("oracle.slt"), &text, &options).map_err(told)?;
    for block in blocks {
        match block {
            Block::Do { text, state_lost } => {
                loses.store(*state_lost, Ordering::Relaxed);
                stage.run(text).map_err(|error| format!("{text}: {error}"))?;
            }
            Block::Ask(ask) => {
                let text = ask.text();
                let found = stage.run(&text).map_err(|error| format!("{text}: {error}"))?;
                if let Some(difference) = ask.difference(&found.unwrap_or_default()) {
                    return Err(difference);
                }
            }
        }
    }
    Ok(())
}

fn any_case() -> impl Strategy<Value = Case> {
    generate::case(|_| true)
}

fn check(case: &Case, lie: Lie, runtime: &Handle) -> Result<Seen, String> {
    let mut seen = Seen::default();
    let blocks = script(case, lie, runtime, &mut seen);
    play(&blocks, runtime)?;
    Ok(seen)
}

/// Writes the case as a golden file, and fails with its path.
fn fail(failure: &Failure<Case>, runtime: &Handle) -> ! {
    let Failure { seed, case, why } = failure;
    let head = format!("found: the oracle's case of seed {seed}");
    let file = std::env::temp_dir().join(format!("tidegate-oracle-{seed}.slt"));
    let text = golden_file(&head, &script(case, Lie::None, runtime, &mut Seen::default()));
    std::fs::write(&file, text).unwrap();
    panic!(
        "{why}\nthe case is written to {}; TIDEGATE_TEST_SEED={seed} TIDEGATE_TEST_CASES=1 repeats it",
        file.display()
    );
}

#[test]
fn streaming_equals_batch() {
    let (plan, runtime) = (Plan::of_environment(CASES), runtime());
    println!("{} cases from TIDEGATE_TEST_SEED={}", plan.cases, plan.seed);
    let found = match drive::run(plan, &any_case, &Case::smaller, &|case| check(case, Lie::None, runtime.handle())) {
        Ok(found) => found,
        Err(failure) => fail(&failure, runtime.handle()),
    };
    let mut seen = Seen::default();
    found.iter().for_each(|other| seen.merge(other));
    println!("{seen:#?}");
    if plan.cases >= CASES {
        let expected = EXPECTED.iter().copied().chain(case::AGGREGATES.iter().map(|aggregate| aggregate.sql));
        let missing: Vec<&str> = expected.filter(|what| seen.0.get(*what).is_none_or(|times| *times == 0)).collect();
        assert!(missing.is_empty(), "{} cases had none of {missing:?}", plan.cases);
    }
}

#[test]
fn a_case_is_a_golden_file() {
    // given
    let (plan, runtime) = (Plan { cases: 60, ..Plan::of_environment(0) }, runtime());
    println!("{} cases from TIDEGATE_TEST_SEED={}", plan.cases, plan.seed);
    let directory = std::env::temp_dir().join(format!("tidegate-cases-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let number = AtomicU64::new(0);
    let as_file = |case: &Case| {
        let file = directory.join(format!("{}.slt", number.fetch_add(1, Ordering::Relaxed)));
        let blocks = script(case, Lie::None, runtime.handle(), &mut Seen::default());
        std::fs::write(&file, golden_file("a random case", &blocks)).unwrap();
        let options = Options {
            queries: Vec::new(),
            variation: Variation::AsWritten,
            store: Arc::new(MemoryStore::default()),
            damage: None,
            runtime: runtime.handle().clone(),
        };
        // when
        golden::run(&file, &options)
    };
    // then
    if let Err(failure) = drive::run(plan, &any_case, &Case::smaller, &as_file) {
        panic!("seed {}: {}", failure.seed, failure.why);
    }
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn a_model_that_is_wrong_is_noticed_and_the_case_is_made_small() {
    let (plan, runtime) = (Plan { cases: CASES, ..Plan::of_environment(0) }, runtime());
    println!("from TIDEGATE_TEST_SEED={}", plan.seed);
    for lie in [
        Lie::WindowEdge,
        Lie::LateEdge,
        Lie::SharedWatermark,
        Lie::NeverLateAfterIdle,
        Lie::LosesReject,
        Lie::PublishesEarly,
    ] {
        let found = drive::run(plan, &any_case, &Case::smaller, &|case| check(case, lie, runtime.handle()));
        let failure = found.err().unwrap_or_else(|| panic!("nobody notices {lie:?}"));
        let (views, steps) = (failure.case.views.len(), failure.case.steps.len());
        println!("{lie:?}: seed {}, {views} views, {steps} steps", failure.seed);
        assert!(views == 1 && steps <= 12, "{lie:?}: {:#?}", failure.case);
    }
}
