//! What Prometheus sees of the engine.

use std::time::Duration;

use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

use crate::error::{Error, Result};
use crate::store::Commit;

/// All metrics of a process.
#[derive(Clone)]
pub struct Metrics {
    registry: Registry,
    records: IntCounterVec,
    view_records: IntCounterVec,
    closed: IntCounterVec,
    commits: IntCounterVec,
    commit_seconds: HistogramVec,
    watermark: IntGaugeVec,
    ready: IntGaugeVec,
    recent_bytes: IntGaugeVec,
    recent_failures: IntCounterVec,
}

impl Metrics {
    /// Registered, and all at zero.
    pub fn new() -> Result<Self> {
        let registry = Registry::new();
        let counter = |name: &str, help: &str, labels: &[&str]| {
            let made = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(made.clone()))?;
            Ok::<_, prometheus::Error>(made)
        };
        let gauge = |name: &str, help: &str| {
            let made = IntGaugeVec::new(Opts::new(name, help), &["pipeline"])?;
            registry.register(Box::new(made.clone()))?;
            Ok::<_, prometheus::Error>(made)
        };
        let buckets = vec![0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
        let seconds =
            HistogramOpts::new("tidegate_commit_seconds", "Time from sending a commit until its outcome was known.")
                .buckets(buckets);
        let make = || {
            let commit_seconds = HistogramVec::new(seconds, &["pipeline"])?;
            registry.register(Box::new(commit_seconds.clone()))?;
            Ok::<_, prometheus::Error>(Self {
                records: counter(
                    "tidegate_records_total",
                    "Records of a source by this process: read = decoded + rejected.",
                    &["pipeline", "outcome"],
                )?,
                view_records: counter(
                    "tidegate_view_records_total",
                    "Rows of a view, committed by this process: decoded = filtered + accepted + late + failed.",
                    &["view", "outcome"],
                )?,
                closed: counter("tidegate_windows_closed_total", "Windows that became final.", &["view"])?,
                commits: counter("tidegate_commits_total", "Commits that were sent.", &["pipeline"])?,
                commit_seconds,
                watermark: gauge(
                    "tidegate_watermark_timestamp_seconds",
                    "The frontier: windows that end at or before it are final.",
                )?,
                recent_bytes: gauge("tidegate_recent_bytes", "Bytes of the files with recent batches.")?,
                recent_failures: counter(
                    "tidegate_recent_failures_total",
                    "Times that recent batches could not be written or merged.",
                    &["pipeline"],
                )?,
                ready: gauge("tidegate_pipeline_ready", "1 while this process owns the pipeline and reads.")?,
                registry: registry.clone(),
            })
        };
        make().map_err(|error| Error::bug(format!("metrics are not registered: {error}")))
    }

    /// In the text format.
    pub fn text(&self) -> String {
        let mut out = Vec::new();
        // Writing to memory does not fail; what is there is what is told.
        let _ = TextEncoder::new().encode(&self.registry.gather(), &mut out);
        String::from_utf8_lossy(&out).into_owned()
    }

    /// Those of one pipeline.
    pub fn pipeline(&self, pipeline: &str) -> PipelineMetrics {
        let records = |outcome: &str| self.records.with_label_values(&[pipeline, outcome]);
        PipelineMetrics {
            all: self.clone(),
            read: records("read"),
            decoded: records("decoded"),
            rejected: records("rejected"),
            commits: self.commits.with_label_values(&[pipeline]),
            commit_seconds: self.commit_seconds.with_label_values(&[pipeline]),
            watermark: self.watermark.with_label_values(&[pipeline]),
            ready: self.ready.with_label_values(&[pipeline]),
            recent_bytes: self.recent_bytes.with_label_values(&[pipeline]),
            recent_failures: self.recent_failures.with_label_values(&[pipeline]),
        }
    }
}

/// The metrics of one pipeline.
#[derive(Clone)]
pub struct PipelineMetrics {
    all: Metrics,
    read: IntCounter,
    decoded: IntCounter,
    rejected: IntCounter,
    commits: IntCounter,
    commit_seconds: Histogram,
    watermark: IntGauge,
    /// Whether it runs.
    pub ready: IntGauge,
    recent_bytes: IntGauge,
    recent_failures: IntCounter,
}

impl PipelineMetrics {
    /// An epoch was aggregated.
    pub fn epoch(&self, read: i64, decoded: i64, rejected: i64, frontier: i64) {
        self.read.inc_by(read.unsigned_abs());
        self.decoded.inc_by(decoded.unsigned_abs());
        self.rejected.inc_by(rejected.unsigned_abs());
        if frontier != crate::time::NONE {
            self.watermark.set(frontier.div_euclid(1_000_000));
        }
    }

    /// So many bytes of recent batches are there.
    pub fn recent_bytes(&self, bytes: u64) {
        self.recent_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// They could not be written, or not be merged.
    pub fn recent_failed(&self) {
        self.recent_failures.inc();
    }

    /// Windows of a view were closed.
    pub fn windows_closed(&self, view: &str, count: usize) {
        self.all.closed.with_label_values(&[view]).inc_by(count as u64);
    }

    /// A commit's outcome is known.
    pub fn committed(&self, took: Duration, commit: &Commit, views: &[String]) {
        self.commits.inc();
        self.commit_seconds.observe(took.as_secs_f64());
        for view in &commit.views {
            let Some(name) = views.get(view.view) else { continue };
            let counts = &view.counts;
            for (outcome, count) in [
                ("decoded", counts.decoded),
                ("filtered", counts.filtered),
                ("accepted", counts.accepted),
                ("late", counts.late),
                ("failed", counts.failed),
            ] {
                self.all.view_records.with_label_values(&[name, outcome]).inc_by(count.unsigned_abs());
            }
        }
    }
}
