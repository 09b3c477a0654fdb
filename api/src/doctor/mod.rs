//! `tidegate doctor`: what is wrong with a deployment, and what to do about it, by its addresses alone.
//!
//! ```text
//!  settings, queries ─► postgres ─► kafka ─► what both say together ─► engine, api ─► disks, clocks
//! ```
//!
//! It changes nothing. What cannot be looked at, since what it stands on is down, is left out: the cause is told once.

mod clocks;
mod database;
mod finding;
mod services;
mod topic;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use tidegate_engine::settings::Settings;
use tidegate_engine::sql::Catalog;
use tidegate_engine::{disk, engine};

use finding::Findings;

/// Options of `tidegate doctor`.
#[derive(Debug, Args)]
pub struct Options {
    /// The directory of .sql files.
    #[arg(long, default_value = "queries", value_name = "DIR")]
    queries: PathBuf,
    /// Where the api listens.
    #[arg(long, value_name = "ADDRESS")]
    api: Option<String>,
    /// Where the engine's metrics listen.
    #[arg(long, value_name = "ADDRESS")]
    engine: Option<String>,
    /// One JSON document.
    #[arg(long)]
    json: bool,
}

/// Looks at everything; the exit code is 1 where there is a fault.
pub fn run(config: Option<&Path>, options: &Options) -> ExitCode {
    let mut findings = Findings::new(options.json);
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(examine(config, options, &mut findings)),
        Err(error) => findings.fault("config", format!("there is no runtime: {error}"), "look at the machine's limits"),
    }
    findings.end()
}

async fn examine(config: Option<&Path>, options: &Options, findings: &mut Findings) {
    let mut settings = match Settings::load(config) {
        Ok(settings) => settings,
        Err(error) => {
            let todo =
                error.hint.clone().unwrap_or_else(|| "correct it; docs/configuration.md has all settings".to_string());
            return findings.fault("config", error.message, todo);
        }
    };
    findings.ok("config", "the settings can be read");
    let catalog = match engine::catalog(&options.queries) {
        Ok(catalog) => {
            let (sources, views) = (catalog.sources.len(), catalog.views.len());
            findings.ok("queries", format!("{}: {sources} sources, {views} views", options.queries.display()));
            catalog
        }
        Err(errors) => {
            for error in errors {
                findings.fault("queries", error.to_string(), "correct the statement: tidegate check");
            }
            Catalog::default()
        }
    };
    if let Some(api) = &options.api {
        settings.api.listen.clone_from(api);
    }
    if let Some(engine) = &options.engine {
        settings.engine.listen.clone_from(engine);
    }
    let known = database::look(&settings, &catalog, findings).await;
    topic::look(&settings, &catalog, known.as_ref(), findings);
    services::look(&settings, known.as_ref(), findings);
    disks(&settings, &catalog, findings);
    clocks::look(&settings, known.as_ref(), findings);
}

/// Below this share of a disk there is a warning, and below so many bytes a fault.
const FREE_SHARE: f64 = 0.1;
const FREE_BYTES: u64 = 64 << 20;

fn disks(settings: &Settings, catalog: &Catalog, findings: &mut Findings) {
    let archives = catalog.sources.iter().any(|source| source.source.options.archive);
    let folders = [
        ("recent.path", settings.recent.enabled.then(|| settings.recent.path.clone())),
        (
            "archive.url",
            (archives && !settings.archive.url.contains("://")).then(|| settings.archive.url.clone().into()),
        ),
    ];
    for (setting, path) in folders.into_iter().filter_map(|(setting, path)| Some((setting, path?))) {
        let Some(disk) = disk::of(&path) else {
            findings.warning(
                "disk",
                format!("{setting}: {} cannot be looked at", path.display()),
                "look at its rights",
            );
            continue;
        };
        let (free, size) = (disk.free >> 20, disk.size >> 20);
        let told = format!("{setting}: {free} of {size} MiB are free at {}", path.display());
        if disk.free < FREE_BYTES {
            findings.fault(
                "disk",
                told,
                "make room, or set recent.bytes_max lower; commits go on without recent batches",
            );
        } else if (disk.free as f64) < FREE_SHARE * disk.size as f64 {
            findings.warning("disk", told, "make room before it is full");
        } else {
            findings.ok("disk", told);
        }
    }
}
