//! `tidegate smoke`: proof on a running stack, from the outside, that records arrive in their windows, once.
//!
//! It needs the addresses and nothing else: no shell inside of a container, no other program. What it writes and where that must
//! show stands in the file of made-up events. With `--start` it brings its own engine, api and load.

mod around;
mod probe;
mod started;
mod steps;
mod told;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use sqlx::{Connection, PgConnection};
use tidegate_engine::engine;
use tidegate_engine::kafka::Kafka;
use tidegate_engine::kafka::producer::{Producer, end_of, ensure_topic};
use tidegate_engine::log::Log;
use tidegate_engine::settings::Settings;
use tidegate_engine::sql::planned::PlannedView;
use tidegate_engine::sql::{Catalog, PlannedSource};
use tokio::signal::unix::{SignalKind, signal};

use crate::generate::template::Template;
use crate::neighbour::Neighbour;
use probe::Probing;
use started::{Started, free_address};
use steps::Steps;

/// Options of `tidegate smoke`.
#[derive(Debug, Args)]
pub struct Options {
    /// Start an engine, an api and a load, and stop them at the end; else they must be running.
    #[arg(long)]
    start: bool,
    /// How long the load lasts, in seconds.
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    duration: u64,
    /// Events a second of the load.
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
    /// Where the engine's metrics listen, if it is not started here.
    #[arg(long, value_name = "ADDRESS")]
    engine: Option<String>,
    /// How long something may take to show, in seconds.
    #[arg(long, env = "SMOKE_PATIENCE", default_value_t = 30, value_name = "SECONDS")]
    patience: u64,
    /// Look at Prometheus and Grafana as well.
    #[arg(long)]
    full: bool,
    /// Where Prometheus is.
    #[arg(long, value_name = "URL")]
    prometheus: Option<String>,
    /// Where Grafana is.
    #[arg(long, value_name = "URL")]
    grafana: Option<String>,
    /// Who may look at Grafana.
    #[arg(long, env = "GRAFANA_USER", default_value = "admin", hide_env_values = true)]
    grafana_user: String,
    /// And the password.
    #[arg(long, env = "GRAFANA_PASSWORD", default_value = "admin", hide_env_values = true)]
    grafana_password: String,
}

type Checked<T = ()> = Result<T, String>;

/// Runs the steps; the exit code says whether all hold.
pub fn run(config: Option<&Path>, options: &Options) -> ExitCode {
    let mut steps = Steps::default();
    let checked = (|| {
        let settings = Settings::load(config).map_err(|error| error.to_string())?;
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())?;
        runtime.block_on(async {
            let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| error.to_string())?;
            tokio::select! {
                checked = smoke(config, &settings, options, &mut steps) => checked,
                _ = interrupt.recv() => Err("interrupted".to_string()),
            }
        })
    })();
    println!("smoke: {}", steps.end(checked.is_err()));
    match checked {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("smoke: FAILED: {error}");
            ExitCode::FAILURE
        }
    }
}

const SMOKE: &str = "smoke-tests-failing";
const ENGINE: &str = "engine-not-producing-rows";
const API: &str = "api-unhealthy";
const AROUND: &str = "prometheus-or-grafana-issues";

async fn smoke(config: Option<&Path>, settings: &Settings, options: &Options, steps: &mut Steps) -> Checked {
    let (brokers, patience) = (&settings.kafka.brokers, Duration::from_secs(options.patience));
    if brokers.is_empty() || settings.store.url.is_empty() {
        return Err("set KAFKA_BROKERS and DATABASE_URL".to_string());
    }
    let catalog = engine::catalog(&options.queries)
        .map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))?;
    let template = Template::read(&options.events, false)?;
    let probe = template.probe().ok_or(format!("{} has no [probe]", options.events.display()))?;
    let of_topic = |source: &&PlannedSource| source.source.options.topic == options.topic;
    let sources: Vec<&PlannedSource> = catalog.sources.iter().filter(of_topic).collect();
    let Some(source) = sources.first() else {
        return Err(format!("no source of {} reads topic {}", options.queries.display(), options.topic));
    };
    let pipelines: Vec<String> = sources.iter().map(|source| source.source.name.clone()).collect();
    let views: Vec<&PlannedView> = catalog.views.iter().filter(|view| pipelines.contains(&view.source)).collect();

    let mut api = options.api.clone().unwrap_or_else(|| settings.api.listen.clone());
    let mut started = None;
    if options.start {
        ensure_topic(brokers, &options.topic, 8).map_err(|error| error.to_string())?;
        api = free_address()?;
        started = Some(Started::begin(config, options, brokers, &api)?);
    }
    let api = Neighbour::at(&api, &settings.api.token);

    steps.run("topic", SMOKE, topic(brokers, source)).await?;
    let mut database = None;
    let connect = async {
        let connected =
            PgConnection::connect(&settings.store.url).await.map_err(|error| format!("no database: {error}"))?;
        let connected = database.insert(connected);
        told::offsets_move(connected, &pipelines, started.as_mut(), patience).await.map(|line| vec![line])
    };
    steps.run("offsets", ENGINE, connect).await?;
    let mut database = database.ok_or("no database")?;
    if started.is_none() {
        let listen = options.engine.as_ref().unwrap_or(&settings.engine.listen);
        steps.run("engine", ENGINE, engine_ready(listen)).await?;
    }
    let producer = Producer::open(brokers, &options.topic).map_err(|error| error.to_string())?;
    let probing = Probing { template: &template, probe, producer: &producer, patience };
    let arrives = async { probing.arrives_once(&mut database).await.map(|line| vec![line]) };
    steps.run("probe", ENGINE, arrives).await?;
    if let Some(started) = &mut started {
        let load = async {
            started.wait_for_load().await?;
            probing.arrives_once(&mut database).await?;
            let end = end_of(brokers, &options.topic).map_err(|error| error.to_string())?;
            let waiting = Instant::now();
            while told::committed(&mut database, &pipelines).await? < end {
                if waiting.elapsed() > patience {
                    return Err(format!("the engine does not catch up with the topic's {end} records"));
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            let (rate, duration) = (options.rate, options.duration);
            Ok(vec![format!("{rate} events/s for {duration} s; all {end} records of the topic are committed")])
        };
        steps.run("load", ENGINE, load).await?;
    }
    steps.run("windows", ENGINE, told::recent_windows(&mut database, &views)).await?;
    steps.run("endpoints", API, endpoints(&api, &catalog)).await?;
    if let Some(mut started) = started {
        started.end()?;
    }
    steps.run("accounting", SMOKE, told::accounting(&mut database)).await?;
    match &options.prometheus {
        Some(url) => steps.run("prometheus", AROUND, around::prometheus(url, patience)).await?,
        None if options.full => steps.absent("prometheus"),
        None => {}
    }
    match &options.grafana {
        Some(url) => {
            let who = (options.grafana_user.as_str(), options.grafana_password.as_str());
            steps.run("grafana", AROUND, around::grafana(url, who, patience)).await
        }
        None if options.full => {
            steps.absent("grafana");
            Ok(())
        }
        None => Ok(()),
    }
}

async fn topic(brokers: &str, source: &PlannedSource) -> Checked<Vec<String>> {
    let reader = Kafka::new(brokers).open(&source.source, 1).map_err(|error| error.to_string())?;
    let partitions = reader.partitions().map_err(|error| error.to_string())?;
    Ok(vec![format!("{} is there, with {partitions} partitions", source.source.options.topic)])
}

async fn engine_ready(listen: &str) -> Checked<Vec<String>> {
    match Neighbour::at(listen, "").get("/readyz")? {
        (200, _) => Ok(vec![format!("ready at {listen}")]),
        (_, text) => Err(format!("it is not ready: {}", text.trim())),
    }
}

async fn endpoints(api: &Neighbour, catalog: &Catalog) -> Checked<Vec<String>> {
    let (status, text) = api.get("/readyz")?;
    if status != 200 {
        return Err(format!("the api is not ready: {text}"));
    }
    let told = api.ask_all(catalog)?;
    let mut lines = vec![format!("all answer as declared, {} of them, and the gauges", catalog.endpoints.len())];
    lines.extend(told);
    Ok(lines)
}
