//! `tidegate smoke`: proof on a running engine, from the outside, that records arrive in their windows, once.
//!
//! What it writes and where that must show stands in the file of made-up events. With `--start` it brings its own engine,
//! api and load, and at the end it checks that every record is accounted for.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};
use tidegate_engine::engine;
use tidegate_engine::kafka::producer::{Producer, end_of, ensure_topic};
use tidegate_engine::settings::Settings;
use tidegate_engine::sql::PlannedSource;
use tokio::signal::unix::{SignalKind, signal};

use crate::child::Running;
use crate::generate::events::time;
use crate::generate::template::{Drawn, Probe, Template};
use crate::neighbour::Neighbour;

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
    /// The directory of .sql files.
    #[arg(long, default_value = "queries", value_name = "DIR")]
    queries: PathBuf,
    /// What is written, and where it must show.
    #[arg(long, value_name = "FILE", default_value = "queries/stream_events.toml")]
    events: PathBuf,
    /// The topic that is written to.
    #[arg(long, env = "STREAM_EVENTS_TOPIC", default_value = "stream.events")]
    topic: String,
    /// Where the api listens, if it is not started here.
    #[arg(long, value_name = "ADDRESS")]
    api: Option<String>,
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
                checked = smoke(config, &settings, options) => checked,
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

async fn smoke(config: Option<&Path>, settings: &Settings, options: &Options) -> Checked {
    let brokers = &settings.kafka.brokers;
    if brokers.is_empty() || settings.store.url.is_empty() {
        return Err("set KAFKA_BROKERS and DATABASE_URL".to_string());
    }
    let catalog = engine::catalog(&options.queries)
        .map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))?;
    let template = Template::read(&options.events, false)?;
    let probe = template.probe().ok_or(format!("{} has no [probe]", options.events.display()))?;
    let mut api = options.api.clone().unwrap_or_else(|| settings.api.listen.clone());
    let mut started = None;
    if options.start {
        ensure_topic(brokers, &options.topic, 8).map_err(|error| error.to_string())?;
        api = free_address()?;
        started = Some(Started::begin(config, options, brokers, &api)?);
    }
    let api = Neighbour::at(&api, &settings.api.token);
    let mut database =
        PgConnection::connect(&settings.store.url).await.map_err(|error| format!("no database: {error}"))?;
    let of_topic = |source: &&PlannedSource| source.source.options.topic == options.topic;
    let pipelines: Vec<String> = catalog.sources.iter().filter(of_topic).map(|s| s.source.name.clone()).collect();
    if pipelines.is_empty() {
        return Err(format!("no source of {} reads topic {}", options.queries.display(), options.topic));
    }
    offsets_move(&mut database, &pipelines, started.as_mut()).await?;
    let producer = Producer::open(brokers, &options.topic).map_err(|error| error.to_string())?;
    let probing = Probing { template: &template, probe, producer: &producer };
    for _ in 0..3 {
        probing.arrives_once(&mut database).await?;
    }
    if let Some(started) = &mut started {
        println!("smoke: letting {} events/s run for {} s", options.rate, options.duration);
        started.wait_for_load().await?;
        probing.arrives_once(&mut database).await?;
        let end = end_of(brokers, &options.topic).map_err(|error| error.to_string())?;
        let waiting = Instant::now();
        while committed(&mut database, &pipelines).await? < end {
            if waiting.elapsed() > PATIENCE {
                return Err(format!("the engine does not catch up with the topic's {end} records"));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        println!("smoke: all {end} records of the topic are committed");
    }
    if !api.is_ready() {
        return Err("the api is not ready (GET /readyz says why; --api names its address)".to_string());
    }
    for told in api.ask_all(&catalog)? {
        println!("smoke: {told}");
    }
    if let Some(mut started) = started {
        started.end()?;
    }
    accounting(&mut database).await
}

/// An address on which nobody listens.
fn free_address() -> Checked<String> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    listener.map(|address| address.to_string()).map_err(|error| format!("no free port: {error}"))
}

/// What smoke has started itself.
struct Started {
    engine: Running,
    api: Running,
    load: Running,
}

impl Started {
    fn begin(config: Option<&Path>, options: &Options, brokers: &str, api: &str) -> Checked<Self> {
        let config = config.map(|config| ["--config".to_string(), config.display().to_string()]);
        let config: Vec<&str> = config.iter().flatten().map(String::as_str).collect();
        let (queries, events) = (options.queries.display().to_string(), options.events.display().to_string());
        let engine = {
            let arguments = ["engine", "--queries", &queries, "--listen", "127.0.0.1:0"];
            Running::start("engine", &[&arguments[..], &config].concat(), &[])?
        };
        let api = {
            let arguments = ["api", "--queries", &queries, "--listen", api];
            // It asks by HTTP alone.
            Running::start("api", &[&arguments[..], &config].concat(), &[("TIDEGATE__PGWIRE__LISTEN", "")])?
        };
        let (rate, duration) = (options.rate.to_string(), options.duration.to_string());
        let to = ["generate", "--brokers", brokers, "--topic", &options.topic, "--events", &events];
        let how = ["--rate", &rate, "--duration", &duration, "--quiet"];
        let load = Running::start("generator", &[&to[..], &how].concat(), &[])?;
        Ok(Self { engine, api, load })
    }

    async fn wait_for_load(&mut self) -> Checked {
        loop {
            match self.load.ended()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => return Err(format!("the generator ended with {status}")),
                None => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }

    fn end(&mut self) -> Checked {
        self.engine.stop(PATIENCE)?;
        self.api.stop(PATIENCE)
    }
}

async fn committed(database: &mut PgConnection, pipelines: &[String]) -> Checked<i64> {
    let sql = "SELECT coalesce(sum(next_offset), 0)::bigint FROM tidegate.progress WHERE pipeline = ANY($1)";
    let row = sqlx::query(sql).bind(pipelines).fetch_one(database).await;
    Ok(row.map_err(|error| error.to_string())?.get(0))
}

async fn offsets_move(database: &mut PgConnection, pipelines: &[String], mut started: Option<&mut Started>) -> Checked {
    let began = Instant::now();
    let mut first = None;
    loop {
        // At the very first start the tables are not there yet.
        if let Ok(now) = committed(database, pipelines).await {
            match first {
                Some(first) if now > first => {
                    println!("smoke: offsets move: {first} -> {now}");
                    return Ok(());
                }
                Some(_) => {}
                None => first = Some(now),
            }
        }
        if let Some(status) = started.as_mut().and_then(|started| started.engine.ended().transpose()) {
            return Err(format!("the engine ended with {}", status?));
        }
        if began.elapsed() > PATIENCE {
            return Err(format!("no offset was committed within {PATIENCE:?}: is an engine running, and a producer?"));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Millionths of a decimal, which are exact.
fn millionths(text: &str) -> Checked<i128> {
    let (sign, digits) = text.strip_prefix('-').map_or((1, text), |rest| (-1, rest));
    let (whole, behind) = digits.split_once('.').unwrap_or((digits, ""));
    let number = format!("{whole}{behind:0<6}").parse::<i128>().ok().filter(|_| behind.len() <= 6);
    number.map(|number| sign * number).ok_or_else(|| format!("{text:?} is no decimal of at most 6 digits"))
}

/// Records of which the arrival can be told.
struct Probing<'a> {
    template: &'a Template,
    probe: &'a Probe,
    producer: &'a Producer,
}

impl Probing<'_> {
    /// The count and the sum that the probe's query tells now.
    async fn told(&self, database: &mut PgConnection) -> Checked<(i128, i128)> {
        let row = sqlx::query(AssertSqlSafe(self.probe.sql.clone())).fetch_one(database).await;
        let row = row.map_err(|error| format!("the probe's query fails: {error}"))?;
        let number = |column: usize| -> Checked<i128> {
            let text: String = row.try_get(column).map_err(|error| format!("the probe's query: {error}"))?;
            millionths(&text)
        };
        Ok((number(0)?, number(1)?))
    }

    async fn arrives_once(&self, database: &mut PgConnection) -> Checked {
        let id = uuid::Uuid::new_v4();
        let cents = 100 + i128::from(id.as_bytes()[0]) * 7;
        let amount = format!("{}.{:02}", cents / 100, cents % 100);
        let before = self.told(database).await?;
        let (now, id) = (time(chrono::Utc::now().timestamp_millis()), id.to_string());
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        let drawn = Drawn { id: &id, time: &now, amount: &amount };
        let record = self.template.probe_record(self.probe, &mut rng, &drawn);
        let (sent, expected) = (Instant::now(), (before.0 + 1_000_000, before.1 + cents * 10_000));
        self.producer.send(self.probe.key.as_bytes(), record.as_bytes()).map_err(|error| error.to_string())?;
        self.producer.flush(PATIENCE).map_err(|error| error.to_string())?;
        let wrong = |what: &str, found: (i128, i128)| {
            format!("record {id} {what}: expected {expected:?} (millionths of count and sum), found {found:?}")
        };
        loop {
            let found = self.told(database).await?;
            if found == expected {
                break;
            }
            if found != before {
                return Err(wrong("is not told as it should", found));
            }
            if sent.elapsed() > PATIENCE {
                return Err(format!("record {id} did not arrive within {PATIENCE:?}"));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let took = sent.elapsed();
        // Long enough for many commits: it must not be added again.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let later = self.told(database).await?;
        if later != expected {
            return Err(wrong("was counted again", later));
        }
        println!("smoke: a record worth {amount} arrived in its window after {took:?}, once");
        Ok(())
    }
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
