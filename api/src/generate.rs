//! `tidegate generate`: seeded made-up events at a steady rate, every one confirmed by the broker.

pub mod events;
pub mod template;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Args;
use events::{Events, Shape};
use template::Template;
use tidegate_engine::kafka::producer::{Producer, ensure_topic};

/// Options of `tidegate generate`.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// The brokers.
    #[arg(long, env = "KAFKA_BROKERS", value_name = "HOST:PORT")]
    pub brokers: String,
    /// The topic.
    #[arg(long, default_value = "stream.events")]
    pub topic: String,
    /// Partitions, if the topic must be made.
    #[arg(long, default_value_t = 8)]
    pub partitions: i32,
    /// Events a second; 0 for as fast as possible.
    #[arg(long, default_value_t = 1000)]
    pub rate: u64,
    /// Stop after so many events.
    #[arg(long)]
    pub count: Option<u64>,
    /// Stop after so many seconds.
    #[arg(long, value_name = "SECONDS")]
    pub duration: Option<u64>,
    /// What the events look like.
    #[arg(long, value_name = "FILE", default_value = "queries/stream_events.toml")]
    pub events: PathBuf,
    /// Draw names from fewer, where the file says so.
    #[arg(long)]
    pub few: bool,
    /// Events may be this many milliseconds behind the newest.
    #[arg(long, default_value_t = 2000, value_name = "MS")]
    pub disorder: i64,
    /// Share of events that are older than any watermark allows.
    #[arg(long, default_value_t = 0.001)]
    pub late: f64,
    /// Share of records that cannot be decoded.
    #[arg(long, default_value_t = 0.001)]
    pub broken: f64,
    /// The seed.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Event time of the first event; without it events happen now.
    #[arg(long, value_name = "RFC3339")]
    pub start_time: Option<chrono::DateTime<chrono::Utc>>,
    /// Event time advances so many times as fast as the clock, or by this many milliseconds an event when the rate is 0.
    #[arg(long, default_value_t = 1.0)]
    pub speed: f64,
    /// No progress line.
    #[arg(long)]
    pub quiet: bool,
}

/// What was sent.
#[derive(Debug, Default, Clone, Copy)]
struct Report {
    /// Records that the broker has.
    sent: u64,
    /// Records that it will never have.
    failed: u64,
}

/// Generates, and tells how it went.
pub fn run(options: &Options, child: bool) -> ExitCode {
    let gone = Arc::new(AtomicBool::new(false));
    if child {
        let gone = gone.clone();
        crate::child::when_parent_is_gone(move || gone.store(true, Ordering::Relaxed));
    }
    match generate(options, || gone.load(Ordering::Relaxed)) {
        Ok(report) if report.failed == 0 => ExitCode::SUCCESS,
        Ok(report) => {
            eprintln!(
                "TG-KAFKA-WRITE: {} of {} records were not delivered",
                report.failed,
                report.sent + report.failed
            );
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Generates until there are enough events, or until `stopped` says so.
fn generate(options: &Options, stopped: impl Fn() -> bool) -> Result<Report, String> {
    let told = |error: tidegate_engine::error::Error| error.to_string();
    let template = Template::read(&options.events, options.few)?;
    ensure_topic(&options.brokers, &options.topic, options.partitions).map_err(told)?;
    let producer = Producer::open(&options.brokers, &options.topic).map_err(told)?;
    let per_mille = |share: f64| (share * 1000.0).round() as u32;
    let shape = Shape {
        disorder_ms: options.disorder,
        late_per_mille: per_mille(options.late),
        broken_per_mille: per_mille(options.broken),
        seed: options.seed,
    };
    let mut events = Events::new(template, shape);
    let started = Instant::now();
    let first_ms = options.start_time.map_or_else(now_ms, |time| time.timestamp_millis());
    let mut made = 0u64;
    let mut shown = started;
    while options.count.is_none_or(|count| made < count) && !stopped() {
        let elapsed = started.elapsed();
        if options.duration.is_some_and(|seconds| elapsed >= Duration::from_secs(seconds)) {
            break;
        }
        if options.rate > 0 && made as f64 >= elapsed.as_secs_f64() * options.rate as f64 {
            std::thread::sleep(Duration::from_millis(2));
            continue;
        }
        let passed = if options.rate > 0 { elapsed.as_millis() as f64 } else { made as f64 };
        let event_time = if options.start_time.is_none() && options.rate > 0 {
            now_ms()
        } else {
            first_ms + (passed * options.speed) as i64
        };
        let event = events.next(event_time);
        producer.send(event.key.as_bytes(), &event.payload).map_err(told)?;
        made += 1;
        if !options.quiet && shown.elapsed() >= Duration::from_secs(1) {
            shown = Instant::now();
            let (sent, failed) = producer.delivered();
            eprintln!(
                "{made} events, {:.0}/s, {sent} confirmed, {failed} failed",
                made as f64 / elapsed.as_secs_f64().max(0.001)
            );
        }
    }
    producer.flush(Duration::from_secs(60)).map_err(told)?;
    let (sent, failed) = producer.delivered();
    if !options.quiet {
        eprintln!("{made} events in {:.1} s, {sent} confirmed, {failed} failed", started.elapsed().as_secs_f64());
    }
    Ok(Report { sent, failed })
}

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}
