//! `make bench`: what a record costs, and how soon it is in Postgres.
//!
//! `consume`, `decode` and `floor` use the libraries alone; `whole` and `latency` run the real binary. Each run is a
//! process of its own, and the system tells what it used. Runs are interleaved, so that a noisy minute hits all rows.

mod commit;
mod floor;
mod latency;
mod native;
mod report;
mod topic;
mod whole;

use std::collections::HashMap;
use std::process::{Command, ExitCode};

use clap::{Parser, Subcommand};
use report::Run;
use tidegate_bench::local::process::measure;
use tidegate_bench::local::{Kafka, Postgres};

const KEYS: [u32; 3] = [10, 1_000, 100_000];

/// Benchmarks against a real Kafka and a real Postgres.
#[derive(Debug, Parser)]
struct Arguments {
    /// Records of each topic.
    #[arg(long, default_value_t = 5_000_000)]
    records: u64,
    /// Runs of each row.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Only rows whose names begin so.
    #[arg(long, value_name = "PREFIX", default_value = "")]
    only: String,
    /// Length of a latency run.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Runs of the latency row.
    #[arg(long, default_value_t = 1)]
    latency_runs: usize,
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
    Decode { keys: u32, records: u64 },
    #[command(hide = true)]
    DecodeSetup { keys: u32, records: u64 },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match &arguments.child {
        None => bench(&arguments),
        Some(Child::Consume { brokers, topic, records }) => floor::consume(brokers, topic, *records),
        Some(Child::Floor { brokers, topic, records }) => floor::floor(brokers, topic, *records),
        Some(Child::Decode { keys, records }) => floor::decode(*keys, *records),
        Some(Child::DecodeSetup { keys, records }) => floor::decode_setup(*keys, *records),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn bench(arguments: &Arguments) -> Result<(), String> {
    let records = arguments.records;
    let mut names: Vec<String> = ["consume", "decode", "floor"].map(String::from).to_vec();
    names.extend(KEYS.map(|keys| format!("whole/keys={keys}")));
    names.push("latency/rate=20000".to_string());
    for rows in [0, 1_000, 10_000] {
        names.extend(["sqlx", "tokio-postgres"].map(|client| format!("commit/{client}/rows={rows}")));
    }
    names.retain(|name| name.starts_with(&arguments.only));
    if names.is_empty() {
        return Err(format!("no row begins with {:?}", arguments.only));
    }
    eprintln!("starting Postgres and Kafka …");
    let (postgres, kafka) = (Postgres::start()?, Kafka::start("1g")?);
    let mut topics: HashMap<u32, String> = HashMap::new();
    for keys in KEYS {
        let wanted = |name: &String| {
            name.ends_with(&format!("keys={keys}")) || (keys == 1_000 && ["consume", "floor"].contains(&name.as_str()))
        };
        if names.iter().any(wanted) {
            eprintln!("filling a topic with {records} records of {keys} keys …");
            topics.insert(keys, topic::fill(&kafka, keys, records)?);
        }
    }
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let child = |arguments: &[&str]| measure(Command::new(&own).args(arguments));
    let (brokers, count) = (kafka.brokers(), records.to_string());
    let mut rows: Vec<(String, Vec<Run>)> = names.iter().map(|name| (name.clone(), Vec::new())).collect();
    for number in 0..arguments.runs {
        for (name, runs) in &mut rows {
            let run = match name.as_str() {
                "consume" | "floor" => Run::of(child(&[name, &brokers, &topics[&1_000], &count])?, records),
                "decode" => {
                    // Less what it takes to make the payloads.
                    let (all, setup) = (child(&["decode", "1000", &count])?, child(&["decode-setup", "1000", &count])?);
                    let mut usage = all;
                    usage.cpu_seconds -= setup.cpu_seconds;
                    usage.seconds -= setup.seconds;
                    Run::of(usage, records)
                }
                commit if commit.starts_with("commit/") => {
                    let (client, rows) = commit["commit/".len()..].split_once("/rows=").ok_or("a row without rows")?;
                    commit::run(&postgres, client, rows.parse().map_err(|_| format!("{commit}: no rows"))?)?
                }
                latency if latency.starts_with("latency") => {
                    if number >= arguments.latency_runs {
                        continue;
                    }
                    latency::run(&kafka, &postgres, 20_000, arguments.seconds, number)?
                }
                whole => {
                    let keys: u32 =
                        whole.rsplit('=').next().and_then(|keys| keys.parse().ok()).ok_or("a row without keys")?;
                    whole::run(&kafka, &postgres, &topics[&keys], records, number)?
                }
            };
            eprintln!("{name} run {}: {run:?}", number + 1);
            runs.push(run);
        }
    }
    println!("{}", report::table(&rows));
    println!(
        "\nmedian [min..max] of {} interleaved runs over {records} records; whole is\n{}",
        arguments.runs,
        whole::QUERY
    );
    if let Some(file) = std::env::var_os("BENCH_JSON") {
        std::fs::write(&file, format!("{:#}\n", report::json(&rows)))
            .map_err(|error| format!("{}: {error}", file.display()))?;
    }
    Ok(())
}
