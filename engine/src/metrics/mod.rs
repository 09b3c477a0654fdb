//! What Prometheus sees of the engine.

pub mod names;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

use crate::disk;
use crate::error::{Error, Result};
use crate::store::{Commit, Move};
use crate::time::{NONE, clock};
use names::{Kind, Metric};

/// All metrics of a process.
#[derive(Clone)]
pub struct Metrics {
    registry: Registry,
    records: IntCounterVec,
    bytes: IntCounterVec,
    view_records: IntCounterVec,
    dead_letters: IntCounterVec,
    lag_records: IntGaugeVec,
    lag_seconds: IntGaugeVec,
    committed_offset: IntGaugeVec,
    partition_watermark: IntGaugeVec,
    partition_idle: IntGaugeVec,
    watermark: IntGaugeVec,
    ready: IntGaugeVec,
    standby: IntGaugeVec,
    recoveries: IntCounterVec,
    commits: IntCounterVec,
    commit_seconds: HistogramVec,
    commit_time: IntGaugeVec,
    stage_seconds: HistogramVec,
    epoch_records: HistogramVec,
    changed_groups: IntCounterVec,
    rows_written: IntCounterVec,
    closed: IntCounterVec,
    open_panes: IntGaugeVec,
    state_bytes: IntGaugeVec,
    state_groups: IntGaugeVec,
    checkpoint_time: IntGaugeVec,
    checkpoint_bytes: IntGaugeVec,
    recent_bytes: IntGaugeVec,
    recent_failures: IntCounterVec,
    disk_free: IntGaugeVec,
    disk_size: IntGaugeVec,
    behind: Arc<Mutex<BTreeMap<String, Arc<Behind>>>>,
    /// Settings that name a folder, whose disk is looked at when somebody asks.
    disks: Arc<Vec<(&'static str, PathBuf)>>,
}

/// How far a pipeline is behind.
struct Behind {
    /// When its newest committed record was written to Kafka, in microseconds.
    newest: AtomicI64,
    /// Offsets that wait.
    waiting: AtomicI64,
}

/// Registers metrics of the table.
pub struct Registrar<'a>(pub &'a Registry);

impl Registrar<'_> {
    fn add<T: Collector + Clone + 'static>(&self, made: prometheus::Result<T>) -> prometheus::Result<T> {
        let made = made?;
        self.0.register(Box::new(made.clone()))?;
        Ok(made)
    }

    /// A counter.
    pub fn counter(&self, metric: &Metric) -> prometheus::Result<IntCounterVec> {
        self.add(IntCounterVec::new(Opts::new(metric.name, metric.help), metric.labels))
    }

    /// A gauge.
    pub fn gauge(&self, metric: &Metric) -> prometheus::Result<IntGaugeVec> {
        self.add(IntGaugeVec::new(Opts::new(metric.name, metric.help), metric.labels))
    }

    /// A histogram.
    pub fn histogram(&self, metric: &Metric) -> prometheus::Result<HistogramVec> {
        let Kind::Histogram(buckets) = metric.kind else {
            return Err(prometheus::Error::Msg(format!("{} is no histogram", metric.name)));
        };
        let options = HistogramOpts::new(metric.name, metric.help).buckets(buckets.to_vec());
        self.add(HistogramVec::new(options, metric.labels))
    }
}

impl Metrics {
    /// Registered, and all at zero; with the disks of these settings.
    pub fn new(disks: Vec<(&'static str, PathBuf)>) -> Result<Self> {
        let registry = Registry::new();
        let add = Registrar(&registry);
        let make = || {
            let build = add.gauge(&names::BUILD_INFO)?;
            build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
            Ok::<_, prometheus::Error>(Self {
                records: add.counter(&names::RECORDS)?,
                bytes: add.counter(&names::BYTES)?,
                view_records: add.counter(&names::VIEW_RECORDS)?,
                dead_letters: add.counter(&names::DEAD_LETTERS)?,
                lag_records: add.gauge(&names::LAG_RECORDS)?,
                lag_seconds: add.gauge(&names::LAG_SECONDS)?,
                committed_offset: add.gauge(&names::COMMITTED_OFFSET)?,
                partition_watermark: add.gauge(&names::PARTITION_WATERMARK)?,
                partition_idle: add.gauge(&names::PARTITION_IDLE)?,
                watermark: add.gauge(&names::WATERMARK)?,
                ready: add.gauge(&names::READY)?,
                standby: add.gauge(&names::STANDBY)?,
                recoveries: add.counter(&names::RECOVERIES)?,
                commits: add.counter(&names::COMMITS)?,
                commit_seconds: add.histogram(&names::COMMIT_SECONDS)?,
                commit_time: add.gauge(&names::COMMIT_TIME)?,
                stage_seconds: add.histogram(&names::STAGE_SECONDS)?,
                epoch_records: add.histogram(&names::EPOCH_RECORDS)?,
                changed_groups: add.counter(&names::CHANGED_GROUPS)?,
                rows_written: add.counter(&names::ROWS_WRITTEN)?,
                closed: add.counter(&names::WINDOWS_CLOSED)?,
                open_panes: add.gauge(&names::OPEN_PANES)?,
                state_bytes: add.gauge(&names::STATE_BYTES)?,
                state_groups: add.gauge(&names::STATE_GROUPS)?,
                checkpoint_time: add.gauge(&names::CHECKPOINT_TIME)?,
                checkpoint_bytes: add.gauge(&names::CHECKPOINT_BYTES)?,
                recent_bytes: add.gauge(&names::RECENT_BYTES)?,
                recent_failures: add.counter(&names::RECENT_FAILURES)?,
                disk_free: add.gauge(&names::DISK_FREE)?,
                disk_size: add.gauge(&names::DISK_SIZE)?,
                behind: Arc::default(),
                disks: Arc::new(disks),
                registry: registry.clone(),
            })
        };
        make().map_err(|error| Error::bug(format!("metrics are not registered: {error}")))
    }

    /// In the text format.
    pub fn text(&self) -> String {
        self.look();
        let mut out = Vec::new();
        // Writing to memory does not fail; what is there is what is told.
        let _ = TextEncoder::new().encode(&self.registry.gather(), &mut out);
        String::from_utf8_lossy(&out).into_owned()
    }

    /// Takes in what goes on by itself: time, and what others write to our disks.
    fn look(&self) {
        let now = clock::wall_us();
        for (pipeline, behind) in self.behind().iter() {
            let newest = behind.newest.load(Ordering::Relaxed);
            let waits = behind.waiting.load(Ordering::Relaxed) > 0 && newest != NONE;
            let seconds = if waits { now.saturating_sub(newest).max(0) / 1_000_000 } else { 0 };
            self.lag_seconds.with_label_values(&[pipeline]).set(seconds);
        }
        for (setting, path) in self.disks.iter() {
            if let Some(disk) = disk::of(path) {
                let bytes = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
                self.disk_free.with_label_values(&[setting]).set(bytes(disk.free));
                self.disk_size.with_label_values(&[setting]).set(bytes(disk.size));
            }
        }
    }

    fn behind(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Arc<Behind>>> {
        self.behind.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those of one pipeline.
    pub fn pipeline(&self, pipeline: &str) -> PipelineMetrics {
        let records = |outcome: &str| self.records.with_label_values(&[pipeline, outcome]);
        let stage = |stage: &str| self.stage_seconds.with_label_values(&[pipeline, stage]);
        let new = || Arc::new(Behind { newest: AtomicI64::new(NONE), waiting: AtomicI64::new(0) });
        PipelineMetrics {
            all: self.clone(),
            name: pipeline.into(),
            behind: self.behind().entry(pipeline.to_string()).or_insert_with(new).clone(),
            read: records("read"),
            decoded: records("decoded"),
            rejected: records("rejected"),
            bytes: self.bytes.with_label_values(&[pipeline]),
            commits: self.commits.with_label_values(&[pipeline]),
            commit_seconds: self.commit_seconds.with_label_values(&[pipeline]),
            commit_time: self.commit_time.with_label_values(&[pipeline]),
            decode: stage("decode"),
            aggregate: stage("aggregate"),
            recent: stage("recent"),
            commit: stage("commit"),
            epoch_records: self.epoch_records.with_label_values(&[pipeline]),
            watermark: self.watermark.with_label_values(&[pipeline]),
            ready: self.ready.with_label_values(&[pipeline]),
            standby: self.standby.with_label_values(&[pipeline]),
            recoveries: self.recoveries.with_label_values(&[pipeline]),
            checkpoint_time: self.checkpoint_time.with_label_values(&[pipeline]),
            checkpoint_bytes: self.checkpoint_bytes.with_label_values(&[pipeline]),
            recent_bytes: self.recent_bytes.with_label_values(&[pipeline]),
            recent_failures: self.recent_failures.with_label_values(&[pipeline]),
        }
    }
}

/// The metrics of one pipeline.
#[derive(Clone)]
pub struct PipelineMetrics {
    all: Metrics,
    name: Arc<str>,
    behind: Arc<Behind>,
    read: IntCounter,
    decoded: IntCounter,
    rejected: IntCounter,
    bytes: IntCounter,
    commits: IntCounter,
    commit_seconds: Histogram,
    commit_time: IntGauge,
    decode: Histogram,
    aggregate: Histogram,
    recent: Histogram,
    commit: Histogram,
    epoch_records: Histogram,
    watermark: IntGauge,
    /// Whether it runs.
    pub ready: IntGauge,
    /// Whether it waits for another process.
    pub standby: IntGauge,
    /// How often it was taken from the database.
    pub recoveries: IntCounter,
    checkpoint_time: IntGauge,
    checkpoint_bytes: IntGauge,
    recent_bytes: IntGauge,
    recent_failures: IntCounter,
}

/// What an epoch was.
#[derive(Debug, Clone, Copy)]
pub struct EpochSize {
    /// Records that were read.
    pub read: i64,
    /// Those that became rows.
    pub decoded: i64,
    /// Those that did not.
    pub rejected: i64,
    /// Bytes of the payloads.
    pub bytes: usize,
    /// How long they took to become rows.
    pub decode: Duration,
    /// How long the views took to absorb them.
    pub aggregate: Duration,
}

/// What a commit was, beside what it says itself.
#[derive(Debug, Clone, Copy)]
pub struct CommitTimes {
    /// From being sent until its outcome was known.
    pub whole: Duration,
    /// Of it, until the recent batch was written.
    pub recent: Duration,
    /// When the newest of its records was written to Kafka, in microseconds; [`NONE`] without any.
    pub newest: i64,
}

impl PipelineMetrics {
    /// An epoch was aggregated.
    pub fn epoch(&self, size: EpochSize, frontier: i64) {
        self.read.inc_by(size.read.unsigned_abs());
        self.decoded.inc_by(size.decoded.unsigned_abs());
        self.rejected.inc_by(size.rejected.unsigned_abs());
        self.bytes.inc_by(size.bytes as u64);
        if size.read > 0 {
            self.epoch_records.observe(size.read as f64);
            self.decode.observe(size.decode.as_secs_f64());
            self.aggregate.observe(size.aggregate.as_secs_f64());
        }
        if frontier != NONE {
            self.watermark.set(frontier.div_euclid(1_000_000));
        }
    }

    /// A partition as it is now.
    pub fn partition(&self, partition: i32, moved: &Move) {
        let partition = partition.to_string();
        let labels = [self.name.as_ref(), &partition];
        let all = &self.all;
        all.committed_offset.with_label_values(&labels).set(moved.range.until);
        all.partition_idle.with_label_values(&labels).set(i64::from(moved.idle));
        if moved.watermark != NONE {
            all.partition_watermark.with_label_values(&labels).set(moved.watermark.div_euclid(1_000_000));
        }
    }

    /// How many offsets of each partition wait.
    pub fn lag(&self, lags: impl Iterator<Item = (i32, i64)>) {
        let mut waiting = 0;
        for (partition, lag) in lags {
            waiting += lag;
            self.all.lag_records.with_label_values(&[self.name.as_ref(), &partition.to_string()]).set(lag);
        }
        self.behind.waiting.store(waiting, Ordering::Relaxed);
    }

    /// The pipeline is another's: how far it is behind is not ours to tell.
    pub fn let_go(&self) {
        self.behind.waiting.store(0, Ordering::Relaxed);
        // Other pipelines tell theirs again at once.
        self.all.lag_records.reset();
    }

    /// So many bytes of recent batches are there.
    pub fn recent_bytes(&self, bytes: u64) {
        self.recent_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// They could not be written, or not be merged.
    pub fn recent_failed(&self) {
        self.recent_failures.inc();
    }

    /// An epoch has ended for a view: windows that closed, and groups that were evaluated.
    pub fn view(&self, view: &str, closed: usize, evaluated: usize) {
        self.all.closed.with_label_values(&[view]).inc_by(closed as u64);
        self.all.changed_groups.with_label_values(&[view]).inc_by(evaluated as u64);
    }

    /// What a view holds.
    pub fn state(&self, view: &str, panes: usize, (bytes, groups): (usize, usize)) {
        let set = |gauge: &IntGaugeVec, value: usize| {
            gauge.with_label_values(&[view]).set(i64::try_from(value).unwrap_or(i64::MAX));
        };
        set(&self.all.open_panes, panes);
        set(&self.all.state_bytes, bytes);
        set(&self.all.state_groups, groups);
    }

    /// A commit is in the database.
    pub fn committed(&self, times: CommitTimes, commit: &Commit, views: &[String]) {
        let now = clock::wall_us().div_euclid(1_000_000);
        self.commits.inc();
        self.commit_time.set(now);
        self.commit_seconds.observe(times.whole.as_secs_f64());
        self.recent.observe(times.recent.as_secs_f64());
        self.commit.observe(times.whole.saturating_sub(times.recent).as_secs_f64());
        if times.newest != NONE {
            self.behind.newest.store(times.newest, Ordering::Relaxed);
        }
        for moved in &commit.moves {
            self.partition(moved.range.partition, moved);
        }
        for letter in &commit.dead_letters {
            let letters = self.all.dead_letters.with_label_values(&[self.name.as_ref(), letter.reason]);
            letters.inc_by(letter.count.unsigned_abs());
        }
        if let Some(pieces) = &commit.checkpoint {
            self.checkpoint_time.set(now);
            let bytes: usize = pieces.iter().map(|piece| piece.data.len()).sum();
            self.checkpoint_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        }
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
            let (upserts, deletes) = (&view.write.upserts, &view.write.deletes);
            for (operation, rows) in [("upsert", upserts), ("delete", deletes)] {
                let rows: usize = rows.iter().map(|rows| rows.num_rows()).sum();
                self.all.rows_written.with_label_values(&[name, operation]).inc_by(rows as u64);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_has_a_name_of_its_kind_and_says_what_it_is() {
        let mut seen = std::collections::BTreeSet::new();
        for metric in names::ENGINE.iter().chain(names::API) {
            let Metric { name, kind, help, .. } = metric;
            assert!(seen.insert(name), "{name} is there twice");
            assert!(matches!(kind, Kind::Counter) == name.ends_with("_total"), "{name}");
            assert!(help.ends_with('.') && !help.is_empty(), "{name}: {help}");
        }
    }

    #[test]
    fn what_is_behind_is_told_by_the_second_even_if_nothing_is_committed() {
        let metrics = Metrics::new(Vec::new()).unwrap();
        let pipeline = metrics.pipeline("p");
        let seconds = || {
            let text = metrics.text();
            let line = text.lines().find(|line| line.starts_with("tidegate_lag_seconds{")).unwrap();
            line.rsplit(' ').next().unwrap().parse::<i64>().unwrap()
        };
        pipeline.lag([(0, 5), (1, 0)].into_iter());
        assert_eq!(seconds(), 0, "nobody knows since when");
        pipeline.behind.newest.store(clock::wall_us() - 90_000_000, Ordering::Relaxed);
        assert!((90..95).contains(&seconds()), "{}", seconds());
        pipeline.lag([(0, 0), (1, 0)].into_iter());
        assert_eq!(seconds(), 0);
    }
}
