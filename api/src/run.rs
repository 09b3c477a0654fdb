//! `tidegate run`: the engine in this process, and the api as a child that is kept alive.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use tidegate_engine::settings::Settings;

use crate::child::Running;
use crate::engine;

/// Options of `tidegate run`.
#[derive(Debug, Args)]
pub struct Options {
    /// The directory of .sql files.
    #[arg(long, value_name = "DIR", default_value = "queries")]
    queries: PathBuf,
    /// Where the api listens.
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
}

/// Where results go when no database is named.
const DEFAULT_STORE: &str = "sqlite:tidegate.db";

/// How long the api may take to end: longer than it gives to what it was asked before.
const END_PATIENCE: Duration = Duration::from_secs(8);

/// How long the api rests after it has ended by itself: longer each time, unless it had lived for so long.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Runs until a signal, or until every pipeline has stopped.
pub fn run(config: Option<&Path>, options: &Options) -> ExitCode {
    let mut settings = match Settings::load(config) {
        Ok(settings) => settings,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    if settings.store.url.is_empty() {
        settings.store.url = DEFAULT_STORE.to_string();
        tracing::info!(
            "no database is named: results go to SQLite, in tidegate.db of this directory (DATABASE_URL names another)"
        );
    }
    let ending = Arc::new(AtomicBool::new(false));
    let listen = options.listen.clone().unwrap_or_else(|| settings.api.listen.clone());
    let mut arguments = vec!["api".to_string(), "--queries".to_string(), options.queries.display().to_string()];
    arguments.extend(["--listen".to_string(), listen]);
    if let Some(config) = config {
        arguments.extend(["--config".to_string(), config.display().to_string()]);
    }
    let keeper = std::thread::spawn({
        let (ending, url) = (ending.clone(), settings.store.url.clone());
        move || keep(&ending, &arguments, &url)
    });
    let engine = engine::Options { queries: options.queries.clone(), listen: None, until_caught_up: false };
    let code = engine::start(settings, &engine, false);
    ending.store(true, Ordering::Relaxed);
    if keeper.join().is_err() {
        eprintln!("TG-INTERNAL: the thread of the api panicked");
    }
    code
}

/// Keeps the api alive.
fn keep(ending: &AtomicBool, arguments: &[String], url: &str) {
    let mut pause = PAUSE;
    while !ending.load(Ordering::Relaxed) {
        let started = Instant::now();
        let mut api = match Running::start("api", arguments, &[("TIDEGATE__STORE__URL", url)]) {
            Ok(api) => api,
            Err(error) => {
                tracing::error!("{error}");
                return;
            }
        };
        loop {
            if ending.load(Ordering::Relaxed) {
                if let Err(error) = api.stop(END_PATIENCE) {
                    tracing::warn!("{error}");
                }
                return;
            }
            match api.ended() {
                Ok(None) => std::thread::sleep(Duration::from_millis(100)),
                Ok(Some(status)) => {
                    pause = if started.elapsed() > PAUSE_MAX { PAUSE } else { pause };
                    tracing::warn!("the api ended with {status}; starting it again in {pause:?}");
                    break;
                }
                Err(error) => {
                    tracing::error!("{error}");
                    return;
                }
            }
        }
        let rested = Instant::now();
        while rested.elapsed() < pause && !ending.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(100));
        }
        pause = (pause * 2).min(PAUSE_MAX);
    }
}
