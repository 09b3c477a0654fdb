//! The engine: one pipeline for each source, each on its own thread; the stop of one leaves the others running.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::Handle;

use crate::error::{Error, Result};
use crate::kafka::Kafka;
use crate::log::Log;
use crate::metrics::Metrics;
use crate::pipeline::Pipeline;
use crate::settings::Settings;
use crate::sql::{Catalog, PlannedSource, PlannedView};
use crate::store::Store;
use crate::store::postgres::Postgres;
use crate::store::sqlite::SqliteStore;
use crate::time::clock::Clock;

/// Running pipelines.
pub struct Engine {
    threads: Vec<(String, JoinHandle<Result<()>>)>,
    stop: Arc<AtomicBool>,
    metrics: Metrics,
}

impl Engine {
    /// Starts a pipeline for each source that has a view, on the brokers and the store that the settings name.
    pub fn start(catalog: Catalog, settings: &Settings, runtime: &Handle, until_caught_up: bool) -> Result<Self> {
        if settings.kafka.brokers.is_empty() {
            return Err(
                Error::configuration("TG-KAFKA-BROKERS", "no brokers are named").hint("set KAFKA_BROKERS=host:9092")
            );
        }
        let log = Arc::new(Kafka::new(&settings.kafka.brokers));
        Self::start_on(log, store(settings)?, catalog, settings, runtime, until_caught_up)
    }

    /// The same on this log and this store.
    pub fn start_on(
        log: Arc<dyn Log>,
        store: Arc<dyn Store>,
        catalog: Catalog,
        settings: &Settings,
        runtime: &Handle,
        until_caught_up: bool,
    ) -> Result<Self> {
        let mut disks = Vec::new();
        if settings.recent.enabled {
            disks.push(("recent.path", settings.recent.path.clone()));
        }
        if !settings.archive.url.contains("://") && catalog.sources.iter().any(|source| source.source.options.archive) {
            disks.push(("archive.url", settings.archive.url.clone().into()));
        }
        let mut engine = Self { threads: Vec::new(), stop: Arc::default(), metrics: Metrics::new(disks)? };
        let mut views: Vec<Arc<PlannedView>> = catalog.views.into_iter().map(Arc::new).collect();
        for source in catalog.sources {
            let (own, others) = views.into_iter().partition(|view| view.source == source.source.name);
            views = others;
            engine.spawn(source, own, settings, (&log, &store), runtime, until_caught_up)?;
        }
        if engine.threads.is_empty() {
            return Err(
                Error::configuration("TG-QUERIES", "no view is declared").hint("add a CREATE MATERIALIZED VIEW")
            );
        }
        Ok(engine)
    }

    fn spawn(
        &mut self,
        source: PlannedSource,
        views: Vec<Arc<PlannedView>>,
        settings: &Settings,
        (log, store): (&Arc<dyn Log>, &Arc<dyn Store>),
        runtime: &Handle,
        until_caught_up: bool,
    ) -> Result<()> {
        let name = source.source.name.clone();
        if views.is_empty() {
            tracing::warn!(source = name, "has no view and is not read");
            return Ok(());
        }
        let metrics = self.metrics.pipeline(&name);
        let pipeline = Pipeline {
            source,
            views,
            settings: settings.clone(),
            log: log.clone(),
            store: store.clone(),
            clock: Clock::System,
            runtime: runtime.clone(),
            stop: self.stop.clone(),
            until_caught_up,
            metrics,
            recent: settings.recent.enabled.then(|| settings.recent.clone()),
            archive: Some(settings.archive.clone()),
        };
        let thread = std::thread::Builder::new().name(format!("pipeline {name}")).spawn({
            let name = name.clone();
            move || {
                let ended = pipeline.run();
                if let Err(error) = &ended {
                    tracing::error!(pipeline = name, "stopped: {error}");
                }
                ended
            }
        });
        let thread = thread.map_err(|error| Error::bug(format!("no thread for pipeline {name}: {error}")))?;
        self.threads.push((name, thread));
        Ok(())
    }

    /// Asks every pipeline to commit what it has decoded and to end.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Whether every pipeline has ended.
    pub fn has_ended(&self) -> bool {
        self.threads.iter().all(|(_, thread)| thread.is_finished())
    }

    /// The pipelines that do not run here, with the reason.
    pub fn waiting(&self) -> Vec<String> {
        let mut waiting = Vec::new();
        for (name, thread) in &self.threads {
            if thread.is_finished() {
                waiting.push(format!("pipeline {name} has stopped; its last log line says why"));
            } else if self.metrics.pipeline(name).ready.get() == 0 {
                waiting.push(format!("pipeline {name} stands by, recovers or waits"));
            }
        }
        waiting
    }

    /// The metrics.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Waits for the end of all; every error.
    pub fn join(self) -> Vec<Error> {
        let mut errors = Vec::new();
        for (name, thread) in self.threads {
            match thread.join() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => errors.push(error),
                Err(_) => errors.push(Error::bug(format!("pipeline {name} panicked"))),
            }
        }
        errors
    }
}

/// The store that the settings name.
pub fn store(settings: &Settings) -> Result<Arc<dyn Store>> {
    let url = &settings.store.url;
    if url.is_empty() {
        return Err(Error::configuration("TG-DATABASE-URL", "no database is named")
            .hint("set DATABASE_URL=postgres://user:password@host:5432/database, or sqlite:tidegate.db"));
    }
    if let Some(path) = url.strip_prefix("sqlite:") {
        let path = path.strip_prefix("//").unwrap_or(path);
        if path.is_empty() || path.contains('?') || path == ":memory:" {
            return Err(Error::configuration("TG-DATABASE-URL", format!("{url} names no file"))
                .hint("write sqlite:tidegate.db, or sqlite:///var/lib/tidegate/tidegate.db"));
        }
        return Ok(Arc::new(SqliteStore::new(Path::new(path))));
    }
    Ok(Arc::new(Postgres::new(url, Duration::from_millis(settings.store.timeout_ms))?))
}

/// Reads the settings' and the queries' faults before anything is connected.
pub fn catalog(queries: &Path) -> Result<Catalog, Vec<Error>> {
    Catalog::load(queries)
}
