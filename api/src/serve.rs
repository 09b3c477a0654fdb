//! `tidegate api`: people's questions over HTTP, in a process of its own.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use tidegate_engine::engine;
use tidegate_engine::settings::Settings;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::child::parent_gone;
use crate::listen;
use crate::postgres::{self, DATABASE, Door};
use crate::router::{Doors, Threads, router};

/// Options of `tidegate api`.
#[derive(Debug, Args)]
pub struct Options {
    /// The directory of .sql files.
    #[arg(long, value_name = "DIR", default_value = "queries")]
    pub queries: PathBuf,
    /// Where it listens.
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<String>,
}

/// Serves until a signal.
pub fn run(config: Option<&Path>, options: &Options, child: bool) -> ExitCode {
    match serve(config, options, child) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(config: Option<&Path>, options: &Options, child: bool) -> Result<(), String> {
    let settings = Settings::load(config).map_err(|error| error.to_string())?;
    let catalog = engine::catalog(&options.queries)
        .map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))?;
    let store = engine::store(&settings).map_err(|error| error.to_string())?;
    let listen = options.listen.as_ref().unwrap_or(&settings.api.listen);
    let threads = |name: &str| {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(2).thread_name(name).enable_all().build().map_err(|error| error.to_string())
    };
    let (runtime, answers, scans) = (threads("api")?, threads("answers")?, threads("scans")?);
    let threads = Threads { answers: answers.handle().clone(), scans: scans.handle().clone() };
    let served = runtime.block_on(async {
        let pg = pgwire(&settings).await?;
        let listener = TcpListener::bind(listen).await.map_err(|error| {
            format!("TG-PORT: cannot listen on {listen}: {error} (choose another with --listen or api.listen)")
        })?;
        let address = listener.local_addr().map_err(|error| error.to_string())?;
        tracing::info!("api at http://{address}");
        let mut terminate = signal(SignalKind::terminate()).map_err(|error| error.to_string())?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| error.to_string())?;
        let ended = async move {
            tokio::select! {
                _ = terminate.recv() => {}
                // A terminal interrupts the parent as well, which ends its child when it is done itself.
                _ = interrupt.recv(), if !child => {}
                () = parent_gone(), if child => {}
            }
        };
        if settings.api.token.is_empty() && !address.ip().is_loopback() {
            tracing::warn!("whoever reaches {address} may ask everything: api.token is not set");
        }
        let Doors { router, adhoc, streams } = router(store, catalog, &settings, &threads)?;
        let (end, mut ending) = watch::channel(false);
        let answering = match pg {
            Some(pg) => {
                let door = Arc::new(Door::new(adhoc, &settings)?);
                let ended = async move { drop(ending.wait_for(|ended| *ended).await) };
                Some(tokio::spawn(postgres::serve(pg, door, ended)))
            }
            None => None,
        };
        listen::serve(listener, router, async {
            ended.await;
            streams.end();
            // Whoever still listens ends as well.
            let _ = end.send(true);
        })
        .await;
        if let Some(answering) = answering {
            // What it panicked about is in the log.
            let _ = answering.await;
        }
        Ok(())
    });
    // One that still computes is not waited for.
    answers.shutdown_background();
    scans.shutdown_background();
    served
}

/// Where the Postgres protocol is spoken, if it is.
async fn pgwire(settings: &Settings) -> Result<Option<TcpListener>, String> {
    let (listen, users) = (&settings.pgwire.listen, !settings.pgwire.users.is_empty());
    if listen.is_empty() {
        return Ok(None);
    }
    if !users && !settings.api.token.is_empty() {
        tracing::warn!("the Postgres protocol is not spoken: api.token is set, and pgwire.users is not");
        return Ok(None);
    }
    let listener = TcpListener::bind(listen).await.map_err(|error| {
        format!("TG-PORT: cannot listen on {listen}: {error} (choose another with pgwire.listen, or none)")
    })?;
    let address = listener.local_addr().map_err(|error| error.to_string())?;
    match (users, address.ip().is_loopback()) {
        (true, _) => tracing::info!("Postgres protocol at postgres://USER@{address}/{DATABASE}"),
        (false, true) => {
            tracing::info!(
                "Postgres protocol at postgres://{address}/{DATABASE}, for whoever is on this machine: pgwire.users is not set"
            );
        }
        (false, false) => {
            return Err(format!(
                "TG-SETTING: pgwire.listen is {address}, and pgwire.users is not set: without users only this machine is answered"
            ));
        }
    }
    Ok(Some(listener))
}
