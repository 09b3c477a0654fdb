//! `tidegate smoke`: proof on a running engine, from the outside, that records arrive in their windows, once.
//!
//! It knows the example's topic and table. With `--start` it brings its own engine and load, and at the end it checks
//! that every record is accounted for.

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use sqlx::{Connection, PgConnection, Row};
use tidegate_engine::kafka::producer::{Producer, end_of, ensure_topic};
use tidegate_engine::settings::Settings;
use tokio::signal::unix::{SignalKind, signal};

use crate::child::Running;
use crate::generate::events::{donation_or_other, time};

/// Options of `tidegate smoke`.
#[derive(Debug, Args)]
pub struct Options {
    /// Start an engine and a load, and stop them at the end; else an engine must be running.
    #[arg(long)]
    start: bool,
    /// How long the load lasts, in seconds.
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    duration: u64,
    /// Events a second.
    #[arg(long, default_value_t = 5000)]
    rate: u64,
    /// The directory of .sql files for the engine.
    #[arg(long, default_value = "queries", value_name = "DIR")]
    queries: String,
    /// The example's topic.
    #[arg(long, env = "STREAM_EVENTS_TOPIC", default_value = "stream.events")]
    topic: String,
}

/// How long something may take to show.
const PATIENCE: Duration = Duration::from_secs(30);

type Checked<T = ()> = Result<T, String>;

/// Runs the checks; the exit code says whether all hold.
pub fn run(config: Option<&Path>, options: &Options) -> ExitCode {
    let checked = || {
        let settings = Settings::load(config).map_err(|error| error.to_string())?;
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())?;
        runtime.block_on(async {
            let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| error.to_string())?;
            tokio::select! {
                checked = smoke(&settings, options) => checked,
                _ = interrupt.recv() => Err("interrupted".to_string()),
            }
        })
    };
    match checked() {
        Ok(()) => {
            println!("smoke: passed");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("smoke: FAILED: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn smoke(settings: &Settings, options: &Options) -> Checked {
    let brokers = &settings.kafka.brokers;
    if brokers.is_empty() || settings.store.url.is_empty() {
        return Err("set KAFKA_BROKERS and DATABASE_URL".to_string());
    }
    let mut started = None;
    if options.start {
        ensure_topic(brokers, &options.topic, 8).map_err(|error| error.to_string())?;
        let engine =
            Running::start("engine", &["engine", "--queries", &options.queries, "--listen", "127.0.0.1:0"], &[])?;
        let (rate, duration) = (options.rate.to_string(), options.duration.to_string());
        let arguments = ["generate", "--brokers", brokers, "--topic", &options.topic, "--rate", &rate];
        let generator =
            Running::start("generator", &[&arguments[..], &["--duration", &duration, "--quiet"]].concat(), &[])?;
        started = Some((engine, generator));
    }
    let mut database =
        PgConnection::connect(&settings.store.url).await.map_err(|error| format!("no database: {error}"))?;
    offsets_move(&mut database).await?;
    let producer = Producer::open(brokers, &options.topic).map_err(|error| error.to_string())?;
    for _ in 0..3 {
        donation_arrives_once(&mut database, &producer).await?;
    }
    if let Some((mut engine, mut generator)) = started {
        println!("smoke: letting {} events/s run for {} s", options.rate, options.duration);
        loop {
            match generator.ended()? {
                Some(status) if status.success() => break,
                Some(status) => return Err(format!("the generator ended with {status}")),
                None => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
        donation_arrives_once(&mut database, &producer).await?;
        let end = end_of(brokers, &options.topic).map_err(|error| error.to_string())?;
        let waiting = Instant::now();
        while committed(&mut database).await? < end {
            if waiting.elapsed() > PATIENCE {
                return Err(format!("the engine does not catch up with the topic's {end} records"));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        engine.stop(PATIENCE)?;
        println!("smoke: all {end} records of the topic are committed");
    }
    accounting(&mut database).await
}

async fn committed(database: &mut PgConnection) -> Checked<i64> {
    let row =
        sqlx::query("SELECT coalesce(sum(next_offset), 0)::bigint FROM tidegate.progress").fetch_one(database).await;
    Ok(row.map_err(|error| error.to_string())?.get(0))
}

async fn offsets_move(database: &mut PgConnection) -> Checked {
    let started = Instant::now();
    let mut first = None;
    loop {
        // At the very first start the tables are not there yet.
        if let Ok(now) = committed(database).await {
            match first {
                Some(first) if now > first => {
                    println!("smoke: offsets move: {first} -> {now}");
                    return Ok(());
                }
                Some(_) => {}
                None => first = Some(now),
            }
        }
        if started.elapsed() > PATIENCE {
            return Err(format!("no offset was committed within {PATIENCE:?}: is an engine running, and a producer?"));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Donations and their sum, in cents, of one stream in all windows.
async fn donations(database: &mut PgConnection, stream: &str) -> Checked<(i64, i64)> {
    let row = sqlx::query(
        "SELECT coalesce(sum(donations), 0)::bigint, (coalesce(sum(donations_usd), 0) * 100)::bigint \
         FROM stream_metrics_minute WHERE stream_id = $1",
    )
    .bind(stream)
    .fetch_one(database)
    .await
    .map_err(|error| format!("the example's table cannot be read: {error}"))?;
    Ok((row.get(0), row.get(1)))
}

async fn donation_arrives_once(database: &mut PgConnection, producer: &Producer) -> Checked {
    let (stream, id) = ("smoke", uuid::Uuid::new_v4());
    let cents = 100 + u32::from(id.as_bytes()[0]) * 7;
    let before = donations(database, stream).await?;
    let now = chrono::Utc::now().timestamp_millis();
    let event = donation_or_other(&id.to_string(), &time(now), "donation", stream, "smoke", None, Some(cents));
    let (sent, expected) = (Instant::now(), (before.0 + 1, before.1 + i64::from(cents)));
    producer.send(stream.as_bytes(), event.as_bytes()).map_err(|error| error.to_string())?;
    producer.flush(PATIENCE).map_err(|error| error.to_string())?;
    loop {
        let found = donations(database, stream).await?;
        if found == expected {
            break;
        }
        if found != before {
            return Err(format!("donation {id}: expected {expected:?} (count, cents), found {found:?}"));
        }
        if sent.elapsed() > PATIENCE {
            return Err(format!("donation {id} did not arrive within {PATIENCE:?}"));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let took = sent.elapsed();
    // Long enough for many commits: it must not be added again.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let later = donations(database, stream).await?;
    if later != expected {
        return Err(format!("donation {id} was counted again: expected {expected:?} (count, cents), found {later:?}"));
    }
    println!("smoke: a donation of {}.{:02} arrived in its window after {took:?}, once", cents / 100, cents % 100);
    Ok(())
}

/// Prints and checks the equations: read = decoded + rejected; decoded = filtered + accepted + late + failed.
async fn accounting(database: &mut PgConnection) -> Checked {
    let told = |error: sqlx::Error| error.to_string();
    let mut wrong = Vec::new();
    let mut snapshot = database.begin().await.map_err(told)?;
    sqlx::query("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ").execute(&mut *snapshot).await.map_err(told)?;
    let sources = sqlx::query(
        "SELECT p.pipeline, p.records_read, p.records_decoded, p.records_rejected, p.commit_seq, \
         (SELECT sum(next_offset - start_offset) FROM tidegate.progress g WHERE g.pipeline = p.pipeline)::bigint \
         FROM tidegate.pipelines p ORDER BY 1",
    )
    .fetch_all(&mut *snapshot)
    .await
    .map_err(told)?;
    for row in sources {
        let name: String = row.get(0);
        let [read, decoded, rejected, commits, offsets] = [1, 2, 3, 4, 5].map(|column| row.get::<i64, _>(column));
        println!("source {name}: read {read} = decoded {decoded} + rejected {rejected} ({commits} commits)");
        // Markers of transactions have offsets and are no records.
        if read != decoded + rejected || read > offsets {
            wrong.push(format!("source {name} does not add up ({offsets} offsets are committed)"));
        }
    }
    let views =
        sqlx::query("SELECT view, decoded, filtered, accepted, late, failed FROM tidegate.view_progress ORDER BY 1")
            .fetch_all(&mut *snapshot)
            .await
            .map_err(told)?;
    for row in views {
        let name: String = row.get(0);
        let [decoded, filtered, accepted, late, failed] = [1, 2, 3, 4, 5].map(|column| row.get::<i64, _>(column));
        println!(
            "view {name}: decoded {decoded} = filtered {filtered} + accepted {accepted} + late {late} + failed {failed}"
        );
        if decoded != filtered + accepted + late + failed {
            wrong.push(format!("view {name} does not add up"));
        }
    }
    let letters =
        sqlx::query("SELECT reason, view, sum(count)::bigint FROM tidegate.dead_letters GROUP BY 1, 2 ORDER BY 1, 2")
            .fetch_all(&mut *snapshot)
            .await
            .map_err(told)?;
    for row in letters {
        let (reason, view, count): (String, String, i64) = (row.get(0), row.get(1), row.get(2));
        println!(
            "dead letters {reason}{}: {count}",
            if view.is_empty() { String::new() } else { format!(" ({view})") }
        );
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("; ")) }
}
