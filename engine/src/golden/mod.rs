//! Golden files: unit tests for streaming SQL. `tidegate test` runs users' own, and our behaviour is pinned by them.
//!
//! A file is a sqllogictest file whose statements may be our verbs (`docs/testing.md`):
//!
//! ```text
//!  feed · trim · commit · checkpoint · advance · now · crash · restart · forget · drop · check · expire
//!     │       │                                │
//!     ▼       ▼                                ▼
//!  log in memory ─► the pipeline itself ─► a store: memory, or any other ─► queries by DataFusion
//! ```
//!
//! Only the log, the clock and the order of things are the test's. What runs between them is the code that runs in
//! production: the same recovery, the same loop's turn, the same commit. So a file may be run again with a crash after
//! each commit, or with more commits than it asks for, and must give the same answers ([`Variation`]).

mod stage;
mod tables;
mod verbs;

use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};

use sqllogictest::{
    DBOutput, DefaultColumnType, QueryExpect, Record, Runner, StatementExpect, default_column_validator,
    default_normalizer, default_validator, parse_file,
};

use crate::error::{Error, Result};
use crate::store::Store;
pub use stage::{Stage, Variation};

/// How a file is run.
#[derive(Clone)]
pub struct Options {
    /// `.sql` files, or directories of them, whose statements every file starts with.
    pub queries: Vec<PathBuf>,
    /// What the harness does besides.
    pub variation: Variation,
    /// Where results go; nothing may be in it.
    pub store: Arc<dyn Store>,
    /// What happens to the store before each crash, such as a loss of its state.
    pub damage: Option<Arc<dyn Fn() + Send + Sync>>,
    /// Runs what is asynchronous.
    pub runtime: tokio::runtime::Handle,
}

/// Runs one file. The error is the first difference, with the file, the line and both sides.
pub fn run(file: &Path, options: &Options) -> Result<(), String> {
    if !outcomes(file)?.iter().any(|(_, outcome)| *outcome != "statement ok") {
        return Err(format!(
            "{}: it asks nothing, and so proves nothing: write a query, or statement error",
            file.display()
        ));
    }
    let mut runner = runner(file, options)?;
    runner.run_file(file).map_err(|error| error.display(false).to_string())
}

/// Runs one file and writes what comes out as what is expected. What should succeed and fails, or the reverse, is a fault
/// and no new expectation: then the file stays as it was.
pub fn accept(file: &Path, options: &Options) -> Result<(), String> {
    let cannot = |error: std::io::Error| format!("cannot read {}: {error}", file.display());
    let before = std::fs::read_to_string(file).map_err(cannot)?;
    let expected = outcomes(file)?;
    let mut runner = runner(file, options)?;
    let update = runner.update_test_file(file, " ", default_validator, default_normalizer, default_column_validator);
    futures::executor::block_on(update).map_err(|error| error.to_string())?;
    let found = outcomes(file)?;
    if expected.iter().map(|(_, outcome)| outcome).eq(found.iter().map(|(_, outcome)| outcome)) {
        return Ok(());
    }
    std::fs::write(file, before).map_err(|error| format!("cannot write {}: {error}", file.display()))?;
    let differs = expected.iter().zip(&found).find(|((_, one), (_, other))| one != other);
    let ((line, one), other) = differs.map_or(((1, "…"), "…"), |((line, one), (_, other))| ((*line, *one), *other));
    Err(format!(
        "{}:{line}: {other}, where the file has: {one}; nothing is written (run it without --accept to see why)",
        file.display()
    ))
}

/// Of each statement and query of a file: its line, and how it is to end.
fn outcomes(file: &Path) -> Result<Vec<(u32, &'static str)>, String> {
    let records = parse_file::<DefaultColumnType>(file).map_err(|error| error.to_string())?;
    let outcome = |record: &Record<DefaultColumnType>| match record {
        Record::Statement { loc, expected: StatementExpect::Error(_), .. } => Some((loc.line(), "statement error")),
        Record::Statement { loc, .. } => Some((loc.line(), "statement ok")),
        Record::Query { loc, expected: QueryExpect::Error(_), .. } => Some((loc.line(), "query error")),
        Record::Query { loc, .. } => Some((loc.line(), "query")),
        _ => None,
    };
    Ok(records.iter().filter_map(outcome).collect())
}

/// The `.slt` files at or below a path, sorted.
pub fn files(path: &Path) -> Result<Vec<PathBuf>> {
    let cannot = |error: std::io::Error| {
        Error::configuration("TG-TEST-FILES", format!("cannot read {}: {error}", path.display()))
            .hint("name a .slt file, or a directory of them")
    };
    let mut found = Vec::new();
    if std::fs::metadata(path).map_err(cannot)?.is_file() {
        found.push(path.to_path_buf());
    } else {
        for entry in std::fs::read_dir(path).map_err(cannot)? {
            let entry = entry.map_err(cannot)?.path();
            if entry.is_dir() {
                found.extend(files(&entry)?);
            } else if entry.extension().is_some_and(|extension| extension == "slt") {
                found.push(entry);
            }
        }
    }
    found.sort();
    Ok(found)
}

type Made = Runner<Hand, Box<dyn FnMut() -> std::future::Ready<Result<Hand>>>>;

fn runner(file: &Path, options: &Options) -> Result<Made, String> {
    let text = std::fs::read_to_string(file).map_err(|error| format!("cannot read {}: {error}", file.display()))?;
    // What `skipif` and `onlyif` of a file may name.
    let labels = [
        ("state-lost", options.damage.is_some()),
        ("extra-commits", options.variation.seed().is_some()),
        ("crashes", options.variation.crashes()),
    ];
    let (file, options) = (file.to_path_buf(), options.clone());
    let make: Box<dyn FnMut() -> std::future::Ready<Result<Hand>>> =
        Box::new(move || std::future::ready(Hand::new(file.clone(), text.clone(), options.clone())));
    let mut runner = Runner::new(make);
    labels.iter().filter(|(_, holds)| *holds).for_each(|(label, _)| runner.add_label(label));
    Ok(runner)
}

type Answer = Result<Option<Vec<Vec<String>>>>;

/// The runner's hand on the stage, which has a thread of its own: the runner is an executor, and so is the engine.
struct Hand {
    texts: mpsc::Sender<String>,
    answers: mpsc::Receiver<Answer>,
}

impl Hand {
    fn new(file: PathBuf, text: String, options: Options) -> Result<Self> {
        let (texts, asked) = mpsc::channel::<String>();
        let (answer, answers) = mpsc::channel::<Answer>();
        let play = move || {
            let mut stage = Stage::new(&file, &text, &options);
            while let Ok(text) = asked.recv() {
                let answered = match &mut stage {
                    Ok(stage) => stage.run(&text),
                    Err(error) => Err(error.clone()),
                };
                if answer.send(answered).is_err() {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("stage".to_string()).spawn(play);
        thread.map_err(|error| Error::bug(format!("no thread: {error}")))?;
        Ok(Self { texts, answers })
    }
}

impl sqllogictest::DB for Hand {
    type Error = Error;
    type ColumnType = DefaultColumnType;

    fn run(&mut self, text: &str) -> Result<DBOutput<DefaultColumnType>> {
        let gone = |_| Error::bug("the stage has ended");
        self.texts.send(text.to_string()).map_err(|_| gone(()))?;
        Ok(match self.answers.recv().map_err(|_| gone(()))?? {
            None => DBOutput::StatementComplete(0),
            Some(rows) => {
                let columns = rows.first().map_or(0, Vec::len);
                DBOutput::Rows { types: vec![DefaultColumnType::Any; columns], rows }
            }
        })
    }
}
