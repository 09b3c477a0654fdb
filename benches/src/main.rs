//! `make bench`: what a record costs, how soon it is in Postgres, and how long what happens seldom takes.
//!
//! `consume`, `decode` and `floor` use the libraries alone; all others run the real binary. Each run is a process of its
//! own, and the system tells what it used. Runs are interleaved, so that a noisy minute hits all rows.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod ask;
mod close;
mod commit;
mod dashboards;
mod engine;
mod eye;
mod floor;
mod harm;
mod lab;
mod latency;
mod load;
mod native;
mod queries;
mod report;
mod restart;
mod rows;
mod serve;
mod steady;
mod topic;
mod whole;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use lab::{Lab, Sizes};
use rows::{Often, Work};
use topic::Topic;

/// Benchmarks against a real Kafka and a real Postgres.
#[derive(Debug, Parser)]
struct Arguments {
    /// Records of each topic.
    #[arg(long, default_value_t = 5_000_000)]
    records: u64,
    /// Runs of each row.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Only rows whose names begin so; several, separated by commas.
    #[arg(long, value_name = "PREFIX", default_value = "", value_delimiter = ',')]
    only: Vec<String>,
    /// Length of a latency run.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Runs of the latency rows, of the steady one, and of questions and requests.
    #[arg(long, default_value_t = 1)]
    latency_runs: usize,
    /// Length of the steady run.
    #[arg(long, default_value_t = 300)]
    steady_seconds: u64,
    /// Runs of restarts and closes, at most.
    #[arg(long, default_value_t = 3)]
    slow_runs: usize,
    /// Rows that questions are asked about.
    #[arg(long, default_value_t = 10_000_000)]
    asked_rows: u64,
    /// Where the example is; `queries` here, or that of the sources, if it is not named.
    #[arg(long, value_name = "DIR")]
    queries: Option<PathBuf>,
    #[command(subcommand)]
    child: Option<Child>,
}

/// What a child process measures.
#[derive(Debug, Subcommand)]
enum Child {
    #[command(hide = true)]
    Consume { brokers: String, topic: String, records: u64 },
    #[command(hide = true)]
    Floor { brokers: String, topic: String, records: u64 },
    #[command(hide = true)]
    Decode { topic: String, records: u64 },
    #[command(hide = true)]
    DecodeSetup { topic: String, records: u64 },
    #[command(hide = true)]
    Memtable { recent: PathBuf, questions: Vec<String> },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match &arguments.child {
        None => bench(&arguments),
        Some(child) => measured(child),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn measured(child: &Child) -> Result<(), String> {
    match child {
        Child::Consume { brokers, topic, records } => floor::consume(brokers, Topic::named(topic)?, *records),
        Child::Floor { brokers, topic, records } => floor::floor(brokers, Topic::named(topic)?, *records),
        Child::Decode { topic, records } => floor::decode(Topic::named(topic)?, *records),
        Child::DecodeSetup { topic, records } => floor::decode_setup(Topic::named(topic)?, *records),
        Child::Memtable { recent, questions } => ask::memtable(recent, questions),
    }
}

impl Arguments {
    fn rows(&self) -> Result<Vec<(String, Work)>, String> {
        let mut rows = rows::all();
        rows.retain(|(name, _)| self.only.iter().any(|prefix| name.starts_with(prefix)));
        if rows.is_empty() { Err(format!("no row begins with {:?}", self.only.join(", "))) } else { Ok(rows) }
    }

    fn runs_of(&self, work: Work) -> usize {
        match work.often() {
            Often::Usual => self.runs,
            Often::Slow => self.runs.min(self.slow_runs),
            Often::Once => self.latency_runs,
        }
    }

    /// Where the example is.
    fn shipped(&self) -> PathBuf {
        let here = || Some(PathBuf::from("queries")).filter(|dir| dir.is_dir());
        self.queries.clone().or_else(here).unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../queries"))
    }
}

fn bench(arguments: &Arguments) -> Result<(), String> {
    let rows = arguments.rows()?;
    let Arguments { records, seconds, steady_seconds, asked_rows, .. } = *arguments;
    let sizes = Sizes { records, seconds, steady_seconds, asked_rows };
    eprintln!("starting Postgres and Kafka …");
    let lab = Lab::start(sizes, &arguments.shipped())?;
    let mut filled: Vec<Topic> = Vec::new();
    for topic in rows.iter().filter_map(|(_, work)| work.topic()) {
        if !filled.contains(&topic) {
            lab.fill(topic)?;
            filled.push(topic);
        }
    }
    let mut table: Vec<report::Row> = rows.iter().map(|(name, _)| (name.clone(), Vec::new())).collect();
    let mut failed = Vec::new();
    let rounds = rows.iter().map(|(_, work)| arguments.runs_of(*work)).max().unwrap_or(0);
    for number in 0..rounds {
        for ((name, work), (_, runs)) in rows.iter().zip(&mut table) {
            if number >= arguments.runs_of(*work) {
                continue;
            }
            match lab.run(name, *work, number) {
                Ok(run) => {
                    eprintln!("{name} run {}: {}", number + 1, run.said());
                    runs.push(run);
                }
                Err(error) => {
                    eprintln!("{name} run {} FAILED: {error}", number + 1);
                    failed.push(name.as_str());
                }
            }
        }
    }
    println!("{}", report::tables(&table));
    println!(
        "\nmedian [min..max] of interleaved runs over {} records; whole/keys is\n{}",
        arguments.records,
        queries::QUERY
    );
    if let Some(file) = std::env::var_os("BENCH_JSON") {
        std::fs::write(&file, format!("{:#}\n", report::json(&table)))
            .map_err(|error| format!("{}: {error}", Path::new(&file).display()))?;
    }
    if failed.is_empty() { Ok(()) } else { Err(format!("runs have failed: {}", failed.join(", "))) }
}
