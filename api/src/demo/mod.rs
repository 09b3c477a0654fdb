//! `tidegate demo`: the whole of it on the example, without a server.
//!
//! ```text
//!  generator ─► embedded broker ─► engine ─► SQLite ─► api (a process of its own)
//!                (a real socket)                │
//!                                    the table on the terminal
//! ```
//!
//! Everything is real but for the size: the Kafka protocol, the commits, the files. Nothing of it survives the end.

mod account;
mod generator;
mod screen;

use std::collections::HashSet;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use tidegate_engine::engine::{self, Engine};
use tidegate_engine::kafka::embedded::Broker;
use tidegate_engine::settings::Settings;
use tidegate_engine::sql::Catalog;
use tidegate_engine::sql::planned::{PlannedSource, Shape, Table};
use tidegate_engine::sql::window::Windows;
use tokio::signal::unix::{SignalKind, signal};

use crate::child::Running;
use crate::generate::events::LATE_MS;
use crate::generate::template::Template;
use crate::neighbour::Neighbour;
use generator::{Committed, Generator, Written};
use screen::Watch;

/// Options of `tidegate demo`.
#[derive(Debug, Args)]
pub struct Options {
    /// End after so many seconds, and check that every record is accounted for.
    #[arg(long, value_name = "SECONDS")]
    duration: Option<u64>,
    /// Events a second, once it is live.
    #[arg(long, default_value_t = 200)]
    rate: u64,
    /// Minutes of event time that are written first.
    #[arg(long, default_value_t = 10, value_name = "MINUTES")]
    history: u64,
    /// The directory of .sql files.
    #[arg(long, value_name = "DIR", default_value = "queries")]
    queries: PathBuf,
    /// The source that is written to. What its records look like says SOURCE.toml in that directory.
    #[arg(long, value_name = "NAME", default_value = "stream_events")]
    source: String,
    /// Where the api listens.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8000")]
    listen: String,
}

const PARTITIONS: i32 = 4;

/// How long the end may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs until it is interrupted or its time is over.
pub fn run(options: &Options) -> ExitCode {
    match demo(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo: FAILED: {error}");
            ExitCode::FAILURE
        }
    }
}

fn told(error: tidegate_engine::error::Error) -> String {
    error.to_string()
}

/// A directory that goes with us.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // Best effort: it lies among temporary files.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn demo(options: &Options) -> Result<(), String> {
    let catalog = engine::catalog(&options.queries)
        .map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))?;
    let source = written_to(&catalog, options)?;
    let (name, topic) = (source.source.name.clone(), source.source.options.topic.clone());
    let template = Template::read(&options.queries.join(format!("{name}.toml")), true)?;
    let tables: Vec<Table> =
        catalog.views.iter().filter(|view| view.source == name).map(|view| view.table.clone()).collect();
    if tables.is_empty() {
        return Err(format!("source {name} has no view"));
    }
    // A late event is older than this; longer windows may still be open.
    let open_us = |windows: Windows| windows.size_us + source.source.bound_us;
    let is_lateable = |shape| matches!(shape, Shape::Windowed(windows) if open_us(windows) < LATE_MS * 1_000);
    let lateable: HashSet<String> =
        catalog.views.iter().filter(|view| is_lateable(view.shape)).map(|view| view.name.clone()).collect();

    let scratch = Scratch(std::env::temp_dir().join(format!("tidegate-demo-{}", std::process::id())));
    // One of a process that had our number and was killed would be taken for ours.
    let _ = std::fs::remove_dir_all(&scratch.0);
    std::fs::create_dir_all(&scratch.0).map_err(|error| format!("{}: {error}", scratch.0.display()))?;
    let topics: Vec<(&str, i32)> =
        catalog.sources.iter().map(|source| (source.source.options.topic.as_str(), PARTITIONS)).collect();
    let broker = Broker::start(&topics).map_err(told)?;
    let mut settings = Settings::default();
    settings.kafka.brokers = broker.address();
    settings.store.url = format!("sqlite:{}", scratch.0.join("tidegate.db").display());
    settings.recent.path = scratch.0.join("recent");
    settings.archive.url = scratch.0.join("archive").display().to_string();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|e| e.to_string())?;
    let store = engine::store(&settings).map_err(told)?;
    runtime.block_on(store.migrate()).map_err(told)?;
    let ending = Arc::new(AtomicBool::new(false));
    runtime.spawn({
        let ending = ending.clone();
        async move {
            let Ok(mut terminate) = signal(SignalKind::terminate()) else { return };
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
            ending.store(true, Ordering::Relaxed);
        }
    });
    let log = Arc::new(broker.log());
    introduce(&settings, options, (&name, &topic), &catalog);
    let asked = Catalog { endpoints: catalog.endpoints.clone(), gauges: catalog.gauges.clone(), ..Catalog::default() };
    let running = Engine::start_on(log, store.clone(), catalog, &settings, runtime.handle(), false).map_err(told)?;
    let queries = options.queries.display().to_string();
    let url = settings.store.url.as_str();
    // Whoever tries it out need not know a token of elsewhere.
    let recent = settings.recent.path.display().to_string();
    let variables = [
        ("TIDEGATE__STORE__URL", url),
        ("TIDEGATE__RECENT__PATH", &recent),
        ("TIDEGATE__API__TOKEN", ""),
        ("TIDEGATE_LOG", "error"),
    ];
    let mut api = Running::start("api", &["api", "--queries", &queries, "--listen", &options.listen], &variables)?;

    let written = Arc::new(Written::default());
    let committed = || Committed { store: store.clone(), runtime: runtime.handle().clone(), source: name.clone() };
    let generator = std::thread::spawn({
        let (written, ending, committed) = (written.clone(), ending.clone(), committed());
        let brokers = settings.kafka.brokers.clone();
        let generator = Generator { template, brokers, topic, rate: options.rate, history: options.history };
        move || {
            if let Err(error) = generator.run(&written, &ending, &committed) {
                eprintln!("demo: the generator stopped: {error}");
                written.failed.store(true, Ordering::Relaxed);
            }
        }
    });
    let watch = Watch { store: &store, runtime: &runtime, tables: &tables, written: &written, source: &name };
    let watched = watch.until(options, &ending, &running, &mut api);
    ending.store(true, Ordering::Relaxed);
    generator.join().map_err(|_| "the generator panicked")?;
    watched?;
    let all = written.records.load(Ordering::Relaxed);
    let since = Instant::now();
    while committed().count()? < all {
        if since.elapsed() > PATIENCE {
            return Err(format!("the engine has not committed all {all} records within {PATIENCE:?}"));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    // While the engine still runs, as its users ask.
    for told in Neighbour::at(&options.listen, "").ask_all(&asked)? {
        println!("{told}");
    }
    running.stop();
    if let Some(error) = running.join().into_iter().next() {
        return Err(error.to_string());
    }
    api.stop(PATIENCE)?;
    let status = runtime.block_on(store.status()).map_err(told)?;
    account::account(&status, &lateable, &name, &written)
}

/// The source of which the demo makes the events.
fn written_to<'a>(catalog: &'a Catalog, options: &Options) -> Result<&'a PlannedSource, String> {
    catalog.sources.iter().find(|source| source.source.name == options.source).ok_or_else(|| {
        let (wanted, queries) = (&options.source, options.queries.display());
        format!("the demo writes events of source {wanted}, and {queries} does not declare it (--source names another)")
    })
}

fn introduce(settings: &Settings, options: &Options, (source, topic): (&str, &str), catalog: &Catalog) {
    let listen = &options.listen;
    println!("Tidegate demo: a live stream of events, in windows, exactly once.");
    println!("  EPHEMERAL: the broker and the database last as long as this command.");
    println!("  broker   {}   (try: kcat -b {0} -C -t {topic} -c 3)", settings.kafka.brokers);
    println!("  database {}", settings.store.url);
    println!("  api      http://{listen}");
    println!("Try, in another terminal:");
    for endpoint in &catalog.endpoints {
        let example = endpoint.parameters.iter().map(|parameter| {
            let default = || parameter.default.clone().flatten();
            let value = parameter.choices.last().cloned().or_else(default).unwrap_or_else(|| "…".to_string());
            format!("{}={value}", parameter.name)
        });
        let example = example.collect::<Vec<_>>().join("&");
        let question = if example.is_empty() { "" } else { "?" };
        println!("  curl -s 'http://{listen}{}{question}{example}'", endpoint.path);
    }
    println!(
        "  curl -s 'http://{listen}/api/v1/sql?format=csv' -H 'content-type: text/plain' -d 'SELECT * FROM {source} LIMIT 3'"
    );
    println!(
        "  curl -s 'http://{listen}/api/v1/sql?format=csv' -H 'content-type: text/plain' -d 'SELECT * FROM tidegate.progress'"
    );
    println!("  curl -s http://{listen}/api/v1/queries");
    println!("  curl -s 'http://{listen}/api/v1/dead-letters?limit=3'");
    println!("  curl -s http://{listen}/prometheus");
    println!("Writing {} minutes of history first; Ctrl-C ends.\n", options.history);
}
