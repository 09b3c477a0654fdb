//! `tidegate engine`: the pipelines, and the page that Prometheus reads.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use clap::Args;
use tidegate_engine::engine::{self, Engine};
use tidegate_engine::failpoint;
use tidegate_engine::settings::Settings;
use tokio::signal::unix::{SignalKind, signal};

use crate::child::parent_gone;

/// How long an engine that is told to end may commit what it has. Whatever it is doing then is in the database or is not: nothing is
/// lost by an end at any moment.
const END_PATIENCE: Duration = Duration::from_secs(8);

/// Options of `tidegate engine`.
#[derive(Debug, Args)]
pub struct Options {
    /// The directory of .sql files.
    #[arg(long, value_name = "DIR", default_value = "queries")]
    pub queries: PathBuf,
    /// Where /metrics, /healthz and /readyz listen; port 0 takes any.
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<String>,
    /// End once everything that was in the topics at the start is committed.
    #[arg(long)]
    pub until_caught_up: bool,
}

/// Runs until a signal, or until every pipeline has stopped.
pub fn run(config: Option<&Path>, options: &Options, child: bool) -> ExitCode {
    let settings = match Settings::load(config).and_then(|s| failpoint::arm(&s.test.failpoints).map(|()| s)) {
        Ok(settings) => settings,
        Err(error) => return failed(&[error.to_string()]),
    };
    start(settings, options, child)
}

/// The same with settings that are known.
pub fn start(mut settings: Settings, options: &Options, child: bool) -> ExitCode {
    if let Some(listen) = &options.listen {
        settings.engine.listen.clone_from(listen);
    }
    let catalog = match engine::catalog(&options.queries) {
        Ok(catalog) => catalog,
        Err(errors) => return failed(&errors.iter().map(ToString::to_string).collect::<Vec<_>>()),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&[format!("TG-INTERNAL: no runtime: {error}")]),
    };
    let running = match Engine::start(catalog, &settings, runtime.handle(), options.until_caught_up) {
        Ok(running) => Arc::new(running),
        Err(error) => return failed(&[error.to_string()]),
    };
    if let Err(error) = runtime.block_on(supervise(&running, &settings.engine.listen, child)) {
        running.stop();
        return failed(&[error]);
    }
    runtime.shutdown_timeout(Duration::from_millis(100));
    match Arc::into_inner(running).map(Engine::join) {
        Some(errors) if errors.is_empty() => ExitCode::SUCCESS,
        Some(errors) => failed(&errors.iter().map(ToString::to_string).collect::<Vec<_>>()),
        None => failed(&["TG-INTERNAL: the engine is still in use".to_string()]),
    }
}

fn failed(errors: &[String]) -> ExitCode {
    for error in errors {
        eprintln!("{error}");
    }
    ExitCode::FAILURE
}

async fn supervise(engine: &Arc<Engine>, listen: &str, child: bool) -> Result<(), String> {
    let listener = tokio::net::TcpListener::bind(listen).await.map_err(|error| {
        format!("TG-PORT: cannot listen on {listen}: {error} (choose another with --listen or engine.listen)")
    })?;
    if let Ok(address) = listener.local_addr() {
        tracing::info!("metrics at http://{address}/metrics");
    }
    let weak = Arc::downgrade(engine);
    let routes = Router::new()
        .route(
            "/metrics",
            get(|State(engine): State<Shared>| async move {
                engine.upgrade().map_or_else(String::new, |e| e.metrics().text())
            }),
        )
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .with_state(weak);
    let server = tokio::spawn(async move { axum::serve(listener, routes).await });
    let (mut terminate, mut interrupt) = match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
        (Ok(terminate), Ok(interrupt)) => (terminate, interrupt),
        (Err(error), _) | (_, Err(error)) => return Err(format!("TG-INTERNAL: no signals: {error}")),
    };
    let mut look = tokio::time::interval(Duration::from_millis(50));
    let gone = parent_gone();
    tokio::pin!(gone);
    let (mut alone, mut told): (bool, Option<Instant>) = (!child, None);
    loop {
        tokio::select! {
            () = &mut gone, if !alone => {
                alone = true;
                engine.stop();
                told.get_or_insert_with(Instant::now);
            }
            _ = terminate.recv() => {
                engine.stop();
                told.get_or_insert_with(Instant::now);
            }
            // A terminal interrupts the parent as well, which ends its child when it is done itself.
            _ = interrupt.recv(), if alone => {
                engine.stop();
                told.get_or_insert_with(Instant::now);
            }
            _ = look.tick() => {
                if engine.has_ended() {
                    break;
                }
                if told.is_some_and(|told| told.elapsed() > END_PATIENCE) {
                    tracing::warn!(
                        "the database or the brokers do not answer; ending without what is not committed, which the next start reads again"
                    );
                    std::process::exit(1);
                }
            }
        }
    }
    server.abort();
    // Ends the last use of the engine but ours.
    let _ = server.await;
    Ok(())
}

type Shared = std::sync::Weak<Engine>;

/// Ready means: every pipeline is owned by this process, and none has stopped.
async fn readyz(State(engine): State<Shared>) -> (StatusCode, String) {
    let Some(engine) = engine.upgrade() else { return (StatusCode::SERVICE_UNAVAILABLE, "ending\n".to_string()) };
    let waiting: Vec<String> = engine.waiting();
    if waiting.is_empty() {
        (StatusCode::OK, "ready\n".to_string())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", waiting.join("\n")))
    }
}
