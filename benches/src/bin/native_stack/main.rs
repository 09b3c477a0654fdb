//! `native-stack`: the topology of docker-compose.yml as plain processes of this machine, for where there is no Docker.
//!
//! ```text
//!  .run/<service>/   data, settings          kafka, postgres ─► event-generator, engine ─► metrics-api ─► prometheus
//!  .run/<service>.pid  .run/<service>.log
//! ```
//!
//! What it has started is known by pid and by when that began, and nothing else is ever stopped. `make help` lists the verbs.

mod service;
mod settings;
mod stack;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use settings::Settings;
use stack::Stack;

/// The stack as plain processes.
#[derive(Debug, Parser)]
struct Arguments {
    /// Where its data, pids and logs are.
    #[arg(long, env = "RUN_DIR", default_value = ".run")]
    dir: PathBuf,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Starts what does not run, and waits until it is ready.
    Up {
        /// With Prometheus.
        #[arg(long)]
        full: bool,
        /// Do not wait for Prometheus.
        #[arg(long)]
        no_wait: bool,
    },
    /// Stops what runs, and keeps its data.
    Down,
    /// Stops what runs and deletes its data.
    Reset {
        /// Without asking.
        #[arg(long)]
        force: bool,
    },
    /// Lists the services.
    Ps {
        /// With Prometheus and Grafana.
        #[arg(long)]
        full: bool,
    },
    /// Shows the logs, and what is added to them.
    Logs {
        /// Of this service; of all without one.
        service: Option<String>,
        /// Of Prometheus as well.
        #[arg(long)]
        full: bool,
        /// End with what there is.
        #[arg(long)]
        no_follow: bool,
    },
    /// Prints what a shell must know to ask the stack.
    Env,
    /// Runs a command of tidegate with the stack's addresses.
    Run {
        /// The command and its arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<String>,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = Settings::read().and_then(|settings| Stack::new(&arguments.dir, settings)).and_then(|stack| {
        match arguments.verb {
            Verb::Up { full, no_wait } => stack.up(full, !no_wait).map(|()| 0),
            Verb::Down => stack.down().map(|()| 0),
            Verb::Reset { force } => stack.reset(force).map(|()| 0),
            Verb::Ps { full } => stack.ps(full).map(|()| 0),
            Verb::Logs { service, full, no_follow } => stack.logs(service.as_deref(), full, !no_follow),
            Verb::Env => stack.env().map(|()| 0),
            Verb::Run { command } => stack.run(&command),
        }
    });
    match done {
        Ok(code) => ExitCode::from(code),
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}
