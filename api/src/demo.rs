//! `tidegate demo`: the whole of it on the example, without a server.
//!
//! ```text
//!  generator ─► embedded broker ─► engine ─► SQLite ─► api (a process of its own)
//!                (a real socket)                │
//!                                    the table on the terminal
//! ```
//!
//! Everything is real but for the size: the Kafka protocol, the commits, the files. Nothing of it survives the end.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Args;
use tidegate_engine::engine::{self, Engine};
use tidegate_engine::kafka::embedded::Broker;
use tidegate_engine::kafka::producer::Producer;
use tidegate_engine::settings::Settings;
use tidegate_engine::show;
use tidegate_engine::sql::planned::{Shape as ViewShape, Table};
use tidegate_engine::store::Store;
use tidegate_engine::store::status::Status;
use tokio::signal::unix::{SignalKind, signal};

use crate::child::Running;
use crate::generate::events::{Events, Shape};

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
    /// Where the api listens.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8000")]
    listen: String,
}

/// Few streams, so that the newest windows fit on a screen.
const STREAMS: u32 = 6;

const PARTITIONS: i32 = 4;

/// Records that may wait in the broker, which would drop them beyond 5 MiB a partition.
const LAG_MAX: u64 = 20_000;

/// Rows of the table on the screen.
const ROWS: usize = 12;

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

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}

/// A directory that goes with us.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // Best effort: it lies among temporary files.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What the generator has done so far.
#[derive(Default)]
struct Written {
    records: AtomicU64,
    failed: AtomicBool,
}

fn demo(options: &Options) -> Result<(), String> {
    let catalog = engine::catalog(&options.queries)
        .map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))?;
    let source = catalog.sources.first().ok_or("no source is declared")?;
    let topic = source.source.options.topic.clone();
    let shown = catalog.views.iter().find(|view| matches!(view.shape, ViewShape::Windowed(_)));
    let table = shown.ok_or("no view has windows")?.table.clone();

    let scratch = Scratch(std::env::temp_dir().join(format!("tidegate-demo-{}", std::process::id())));
    std::fs::create_dir_all(&scratch.0).map_err(|error| format!("{}: {error}", scratch.0.display()))?;
    let broker = Broker::start(&[(&topic, PARTITIONS)]).map_err(told)?;
    let mut settings = Settings::default();
    settings.kafka.brokers = broker.address();
    settings.store.url = format!("sqlite:{}", scratch.0.join("tidegate.db").display());
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
    let running = Engine::start_on(log, store.clone(), catalog, &settings, runtime.handle(), false).map_err(told)?;
    let queries = options.queries.display().to_string();
    let variables = [("TIDEGATE__STORE__URL", settings.store.url.as_str()), ("TIDEGATE_LOG", "error")];
    let mut api = Running::start("api", &["api", "--queries", &queries, "--listen", &options.listen], &variables)?;

    introduce(&settings, options, &table);
    let written = Arc::new(Written::default());
    let generator = std::thread::spawn({
        let (written, ending) = (written.clone(), ending.clone());
        let committed = Committed { store: store.clone(), runtime: runtime.handle().clone() };
        let (brokers, rate, history) = (settings.kafka.brokers.clone(), options.rate, options.history);
        move || {
            if let Err(error) = generate(&brokers, &topic, rate, history, &written, &ending, &committed) {
                eprintln!("demo: the generator stopped: {error}");
                written.failed.store(true, Ordering::Relaxed);
            }
        }
    });
    let watch = Watch { store: &store, runtime: &runtime, table: &table, written: &written };
    let watched = watch.until(options, &ending, &running, &mut api);
    ending.store(true, Ordering::Relaxed);
    generator.join().map_err(|_| "the generator panicked")?;
    watched?;
    let all = written.records.load(Ordering::Relaxed);
    let since = Instant::now();
    while (Committed { store: store.clone(), runtime: runtime.handle().clone() }).count()? < all {
        if since.elapsed() > PATIENCE {
            return Err(format!("the engine has not committed all {all} records within {PATIENCE:?}"));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    running.stop();
    if let Some(error) = running.join().into_iter().next() {
        return Err(error.to_string());
    }
    api.stop(PATIENCE)?;
    let status = runtime.block_on(store.status()).map_err(told)?;
    account(&status, all)
}

fn introduce(settings: &Settings, options: &Options, table: &Table) {
    let (listen, name) = (&options.listen, &table.name);
    println!("Tidegate demo: a live stream of events, in minute windows, exactly once.");
    println!("  EPHEMERAL: the broker and the database last as long as this command.");
    println!("  broker   {}   (try: kcat -b {0} -C -t stream.events -c 3)", settings.kafka.brokers);
    println!("  database {}", settings.store.url);
    println!("  api      http://{listen}");
    println!("Try, in another terminal:");
    println!("  curl -s http://{listen}/api/v1/queries");
    println!("  curl -s 'http://{listen}/api/v1/queries/{name}/rows?limit=5'");
    println!("  curl -s 'http://{listen}/api/v1/dead-letters?limit=3'");
    println!("Writing {} minutes of history first; Ctrl-C ends.\n", options.history);
}

/// How far the engine has come.
struct Committed {
    store: Arc<dyn Store>,
    runtime: tokio::runtime::Handle,
}

impl Committed {
    fn count(&self) -> Result<u64, String> {
        let status = self.runtime.block_on(self.store.status()).map_err(told)?;
        Ok(status.partitions.iter().map(|partition| partition.next_offset.unsigned_abs()).sum())
    }
}

/// Writes the history as fast as the engine takes it, then goes live.
fn generate(
    brokers: &str,
    topic: &str,
    rate: u64,
    history: u64,
    written: &Written,
    ending: &AtomicBool,
    committed: &Committed,
) -> Result<(), String> {
    let producer = Producer::open(brokers, topic).map_err(told)?;
    let mut events = Events::new(Shape {
        streams: STREAMS,
        users: 500,
        disorder_ms: 2_000,
        late_per_mille: 1,
        broken_per_mille: 1,
        seed: now_ms().unsigned_abs(),
    });
    let mut send = |at_ms: i64| -> Result<(), String> {
        let event = events.next(at_ms);
        producer.send(event.key.as_bytes(), &event.payload).map_err(told)?;
        written.records.fetch_add(1, Ordering::Relaxed);
        Ok(())
    };
    let (start, past) = (now_ms(), (history * 60_000) as i64);
    let total = rate * history * 60;
    for number in 0..total {
        if ending.load(Ordering::Relaxed) {
            break;
        }
        if number % 1_000 == 0 {
            while number.saturating_sub(committed.count()?) > LAG_MAX && !ending.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        send(start - past + (number as i64 * past) / total as i64)?;
    }
    let (live, mut made) = (Instant::now(), 0);
    while !ending.load(Ordering::Relaxed) {
        if made >= live.elapsed().as_millis() as u64 * rate / 1_000 {
            std::thread::sleep(Duration::from_millis(5));
            continue;
        }
        send(now_ms())?;
        made += 1;
    }
    producer.flush(PATIENCE).map_err(told)?;
    match producer.delivered() {
        (_, 0) => Ok(()),
        (_, failed) => Err(format!("{failed} records were not delivered")),
    }
}

/// What is on the screen.
struct Watch<'a> {
    store: &'a Arc<dyn Store>,
    runtime: &'a tokio::runtime::Runtime,
    table: &'a Table,
    written: &'a Written,
}

impl Watch<'_> {
    fn until(&self, options: &Options, ending: &AtomicBool, engine: &Engine, api: &mut Running) -> Result<(), String> {
        let terminal = std::io::stdout().is_terminal();
        let every = if terminal { Duration::from_secs(1) } else { Duration::from_secs(5) };
        let (started, mut drawn, mut before) = (Instant::now(), Instant::now(), (0, Instant::now()));
        let mut lines = 0;
        loop {
            let over = options.duration.is_some_and(|seconds| started.elapsed() >= Duration::from_secs(seconds));
            if over || ending.load(Ordering::Relaxed) {
                return Ok(());
            }
            if engine.has_ended() {
                return Err("the engine has stopped".to_string());
            }
            if let Some(status) = api.ended()? {
                return Err(format!(
                    "the api ended with {status}; is {} taken? --listen chooses another",
                    options.listen
                ));
            }
            if self.written.failed.load(Ordering::Relaxed) {
                return Err("the generator has stopped".to_string());
            }
            if drawn.elapsed() >= every {
                drawn = Instant::now();
                let text = self.draw(&mut before)?;
                let mut out = std::io::stdout().lock();
                let up = if terminal && lines > 0 { format!("\x1b[{lines}A\x1b[J") } else { String::new() };
                lines = text.lines().count();
                write!(out, "{up}{text}").and_then(|()| out.flush()).map_err(|error| error.to_string())?;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn draw(&self, before: &mut (u64, Instant)) -> Result<String, String> {
        let status = self.runtime.block_on(self.store.status()).map_err(told)?;
        let rows = self.runtime.block_on(self.store.rows(self.table, Some(ROWS))).map_err(told)?;
        let (names, rows) = show::table(&rows).map_err(told)?;
        let written = self.written.records.load(Ordering::Relaxed);
        let committed: u64 = status.partitions.iter().map(|p| p.next_offset.unsigned_abs()).sum();
        let rate = (committed - before.0) as f64 / before.1.elapsed().as_secs_f64().max(0.001);
        *before = (committed, Instant::now());
        let rejected: i64 = status.pipelines.iter().map(|p| p.rejected).sum();
        let late: i64 = status.views.iter().map(|v| v.counts.late).sum();
        let mut text = columns(&names, &rows);
        text.push_str(&format!(
            "{committed} events committed, {rate:.0}/s, lag {}, late {late}, rejected {rejected}\n\n",
            written.saturating_sub(committed)
        ));
        Ok(text)
    }
}

/// Names and rows below each other.
fn columns(names: &[String], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([names[column].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..names.len()).map(width).collect();
    let line = |cells: &[String]| {
        let padded = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        format!("{}\n", padded.collect::<Vec<_>>().join("  ").trim_end())
    };
    let mut text = line(names);
    for row in rows {
        text.push_str(&line(row));
    }
    text
}

/// Prints where every record went, and fails if one is missing or nothing moved.
fn account(status: &Status, written: u64) -> Result<(), String> {
    let mut wrong = Vec::new();
    println!("accounting, {written} records written:");
    for p in &status.pipelines {
        println!("  source {}: read {} = decoded {} + rejected {}", p.pipeline, p.read, p.decoded, p.rejected);
        if p.read != p.decoded + p.rejected || p.read.unsigned_abs() != written {
            wrong.push(format!("source {}: {} records were written, and the terms do not add up", p.pipeline, written));
        }
        if p.decoded == 0 || p.rejected == 0 {
            wrong.push(format!("source {}: a term that should move is zero", p.pipeline));
        }
        for view in status.views.iter().filter(|view| view.pipeline == p.pipeline) {
            let c = &view.counts;
            println!(
                "  view {}: decoded {} = filtered {} + accepted {} + late {} + failed {}",
                view.view, c.decoded, c.filtered, c.accepted, c.late, c.failed
            );
            if c.decoded != c.filtered + c.accepted + c.late + c.failed || c.decoded != p.decoded {
                wrong.push(format!("view {}: the terms do not add up", view.view));
            }
            if c.accepted == 0 || c.late == 0 {
                wrong.push(format!("view {}: a term that should move is zero", view.view));
            }
        }
    }
    if status.pipelines.is_empty() {
        wrong.push("nothing was committed".to_string());
    }
    if wrong.is_empty() {
        println!("demo: every record is accounted for");
        return Ok(());
    }
    Err(wrong.join("; "))
}
