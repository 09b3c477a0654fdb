//! `tidegate view`: which views a database has, and the end of one.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use tidegate_engine::engine;
use tidegate_engine::settings::Settings;
use tidegate_engine::time::{NONE, clock};

/// Options of `tidegate view`.
#[derive(Debug, Args)]
pub struct Options {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// The views of the database, and whether they are declared.
    List {
        /// The directory of .sql files.
        #[arg(long, value_name = "DIR", default_value = "queries")]
        queries: PathBuf,
    },
    /// Remove a view's table, its state and its progress. Declared again, it begins anew at the committed offsets.
    Drop {
        /// The view.
        name: String,
    },
}

/// Runs the command.
pub fn run(config: Option<&Path>, options: &Options) -> ExitCode {
    match view(config, options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn view(config: Option<&Path>, options: &Options) -> Result<(), String> {
    let told = |error: tidegate_engine::error::Error| error.to_string();
    let settings = Settings::load(config).map_err(told)?;
    let store = engine::store(&settings).map_err(told)?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())?;
    match &options.what {
        What::List { queries } => {
            // A directory with faults must not hide what the database has.
            let declared = engine::catalog(queries).ok();
            let status = runtime.block_on(store.status()).map_err(told)?;
            println!("{:<32} {:<24} {:<26} {:>12} {:>8}  state", "view", "pipeline", "final until", "accepted", "late");
            for view in &status.views {
                let found = declared.as_ref().map(|c| c.views.iter().find(|plan| plan.name == view.view));
                let state = match found {
                    None => "?",
                    Some(None) => "not declared",
                    Some(Some(plan)) if plan.fingerprint != view.fingerprint => "changed",
                    Some(Some(_)) => "declared",
                };
                let until = if view.closed_until == NONE { "-".to_string() } else { clock::rfc3339(view.closed_until) };
                let counts = &view.counts;
                println!(
                    "{:<32} {:<24} {until:<26} {:>12} {:>8}  {state}",
                    view.view, view.pipeline, counts.accepted, counts.late
                );
            }
            Ok(())
        }
        What::Drop { name } => {
            if !runtime.block_on(store.drop_view(name)).map_err(told)? {
                return Err(format!("TG-VIEW: there is no view {name} (tidegate view list shows them)"));
            }
            println!("view {name} is gone: its table, its state and its progress");
            println!(
                "an engine that runs takes its pipeline over again, and begins the view anew if it is still declared"
            );
            Ok(())
        }
    }
}
