//! `tidegate check` and `tidegate explain`: what the statements of a directory say, without a connection.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use tidegate_engine::engine;

/// Options of `tidegate check`.
#[derive(Debug, Args)]
pub struct Options {
    /// The directory of .sql files, or one of them.
    #[arg(value_name = "DIR", default_value = "queries")]
    queries: PathBuf,
}

/// Options of `tidegate explain`.
#[derive(Debug, Args)]
pub struct Explain {
    /// Only this view.
    #[arg(value_name = "VIEW")]
    view: Option<String>,
    /// The directory of .sql files, or one of them.
    #[arg(long, value_name = "DIR", default_value = "queries")]
    queries: PathBuf,
}

fn told(errors: &[tidegate_engine::error::Error]) -> ExitCode {
    for error in errors {
        eprintln!("{error}");
    }
    let s = if errors.len() == 1 { "" } else { "s" };
    eprintln!("{} fault{s}", errors.len());
    ExitCode::FAILURE
}

/// Plans everything; every fault of every file at once.
pub fn run(options: &Options) -> ExitCode {
    match engine::catalog(&options.queries) {
        Err(errors) => told(&errors),
        Ok(catalog) => {
            for source in &catalog.sources {
                println!("source {} reads topic {}", source.source.name, source.source.options.topic);
                for view in catalog.views.iter().filter(|view| view.source == source.source.name) {
                    println!("  view {}: {}", view.name, view.summary());
                }
            }
            for endpoint in &catalog.endpoints {
                println!("endpoint {}", endpoint.path);
            }
            for gauge in &catalog.gauges {
                println!("gauge {}: {}", gauge.name, gauge.help);
            }
            let (sources, views) = (catalog.sources.len(), catalog.views.len());
            let (endpoints, gauges) = (catalog.endpoints.len(), catalog.gauges.len());
            println!("{sources} sources, {views} views, {endpoints} endpoints and {gauges} gauges are in order");
            ExitCode::SUCCESS
        }
    }
}

/// Says what runs for each batch, what is kept, and what is published when.
pub fn explain(options: &Explain) -> ExitCode {
    let catalog = match engine::catalog(&options.queries) {
        Err(errors) => return told(&errors),
        Ok(catalog) => catalog,
    };
    let wanted = |name: &str| options.view.as_deref().is_none_or(|view| view == name);
    let mut found = false;
    for view in catalog.views.iter().filter(|view| wanted(&view.name)) {
        found = true;
        println!("{}", view.explain());
    }
    if found {
        return ExitCode::SUCCESS;
    }
    let names: Vec<&str> = catalog.views.iter().map(|view| view.name.as_str()).collect();
    eprintln!("there is no view {}; there are: {}", options.view.as_deref().unwrap_or_default(), names.join(", "));
    ExitCode::FAILURE
}
