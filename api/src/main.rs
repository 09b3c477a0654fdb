//! The `tidegate` binary: its commands, and nothing else. What they do stands in the modules.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod adhoc;
mod admit;
mod cache;
mod check;
mod child;
mod console;
mod declared;
mod demo;
mod doctor;
mod engine;
mod generate;
mod golden;
mod listen;
mod neighbour;
mod openapi;
mod page;
mod postgres;
mod router;
mod run;
mod serve;
mod smoke;
mod sql;
mod stream;
mod view;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};

/// Streaming SQL from Kafka to Postgres, exactly once.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Arguments {
    /// Settings; tidegate.toml is read if it is there.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// How lines are logged.
    #[arg(long, global = true, env = LOG_FORMAT, value_enum, default_value = "text", value_name = "FORMAT")]
    log_format: LogFormat,
    /// End when standard input closes, as it does when the process ends that started this one.
    #[arg(long, global = true, hide = true)]
    child: bool,
    #[command(subcommand)]
    command: Command,
}

/// The variable that says how lines are logged; query workers hear it too.
pub const LOG_FORMAT: &str = "TIDEGATE_LOG_FORMAT";

/// How lines are logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    /// For people.
    Text,
    /// A JSON document each, for programs.
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The engine, and the api beside it.
    Run(run::Options),
    /// The whole of it on the example, without a server: broker, generator, engine, SQLite, api.
    Demo(demo::Options),
    /// Answer questions over HTTP.
    Api(serve::Options),
    /// Read Kafka, run the views, commit to Postgres.
    Engine(engine::Options),
    /// Plan every statement and report every fault, without a connection.
    Check(check::Options),
    /// Say what runs for each batch, what is kept, and what is published when.
    Explain(check::Explain),
    /// Run golden files beside the views: feed records, state the rows; in memory, without a server.
    Test(golden::Options),
    /// List or drop views of the database.
    View(view::Options),
    /// Write made-up events to a topic.
    Generate(generate::Options),
    /// Prove on a running engine that records arrive in their windows, once.
    Smoke(smoke::Options),
    /// Say what is wrong with a deployment, and what to do.
    Doctor(doctor::Options),
    /// Ask the api: a console, or statements from -c, -f or standard input.
    Sql(console::Options),
    /// Run ad-hoc queries for the api, which starts it.
    #[command(hide = true)]
    QueryWorker(adhoc::worker::Options),
}

impl Command {
    /// What is logged if nobody says otherwise: commands that answer on the terminal are quiet.
    fn filter(&self) -> &'static str {
        match self {
            Self::Check(_) | Self::Explain(_) | Self::Test(_) | Self::View(_) | Self::Sql(_) | Self::Doctor(_) => {
                "error"
            }
            // What it shows is drawn over and over; only what is wrong may stand in between.
            Self::Demo(_) => "error",
            _ => "info",
        }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // Lines go to standard error: standard output belongs to what a command answers.
    let filter = tracing_subscriber::EnvFilter::try_from_env("TIDEGATE_LOG")
        .unwrap_or_else(|_| arguments.command.filter().into());
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false);
    match arguments.log_format {
        LogFormat::Text => lines.init(),
        LogFormat::Json => lines.json().flatten_event(true).init(),
    }
    let (config, child) = (arguments.config.as_deref(), arguments.child);
    match arguments.command {
        Command::Engine(options) => engine::run(config, &options, child),
        Command::Run(options) => run::run(config, &options),
        Command::Demo(options) => demo::run(&options),
        Command::Api(options) => serve::run(config, &options, child),
        Command::Check(options) => check::run(&options),
        Command::Explain(options) => check::explain(&options),
        Command::Test(options) => golden::run(&options),
        Command::View(options) => view::run(config, &options),
        Command::Generate(options) => generate::run(&options, child),
        Command::Smoke(options) => smoke::run(config, &options),
        Command::Doctor(options) => doctor::run(config, &options),
        Command::Sql(options) => console::run(config, &options),
        Command::QueryWorker(options) => adhoc::worker::run(&options),
    }
}
