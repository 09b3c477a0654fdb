//! Every metric by name: what it counts, and by which labels. What registers a metric takes it from here, and
//! `docs/observability.md` is held against this table.
//!
//! Labels have few values: names that `queries/` declares, partitions, words of this code. Nothing that a record or a client
//! sends becomes one.

/// A metric.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// Its labels.
    pub labels: &'static [&'static str],
    /// What it says, for a person.
    pub help: &'static str,
}

/// What a metric is.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// It only grows, from the start of the process on.
    Counter,
    /// It is as it is now.
    Gauge,
    /// How often a value was at most so great.
    Histogram(&'static [f64]),
}

const fn counter(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Metric {
    Metric { name, kind: Kind::Counter, labels, help }
}

const fn gauge(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Metric {
    Metric { name, kind: Kind::Gauge, labels, help }
}

const fn histogram(
    name: &'static str,
    buckets: &'static [f64],
    labels: &'static [&'static str],
    help: &'static str,
) -> Metric {
    Metric { name, kind: Kind::Histogram(buckets), labels, help }
}

const SECONDS: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
const RECORDS_OF_AN_EPOCH: &[f64] = &[1.0, 10.0, 100.0, 1_000.0, 10_000.0, 50_000.0, 100_000.0];

const PIPELINE: &[&str] = &["pipeline"];
const PARTITION: &[&str] = &["pipeline", "partition"];
const VIEW: &[&str] = &["view"];

macro_rules! table {
    ($(#[$doc:meta])* $list:ident: $($name:ident = $metric:expr;)*) => {
        $(
            #[allow(missing_docs, reason = "its help is its documentation")]
            pub const $name: Metric = $metric;
        )*
        $(#[$doc])*
        pub const $list: &[Metric] = &[$($name),*];
    };
}

table! {
    /// Those of an engine, at `/metrics`.
    ENGINE:
    BUILD_INFO = gauge("tidegate_build_info", &["version"], "1; the label says which version runs.");
    RECORDS = counter("tidegate_records_total", &["pipeline", "outcome"], "Records of a source by this process: read = decoded + rejected.");
    BYTES = counter("tidegate_read_bytes_total", PIPELINE, "Bytes of the payloads that were read.");
    VIEW_RECORDS = counter("tidegate_view_records_total", &["view", "outcome"], "Rows of a view, committed by this process: decoded = filtered + accepted + late + failed.");
    DEAD_LETTERS = counter("tidegate_dead_letters_total", &["pipeline", "reason"], "Records that were rejected, and rows that views did not take, by reason, once they are committed.");
    LAG_RECORDS = gauge("tidegate_lag_records", PARTITION, "Offsets between what is committed and the partition's end.");
    LAG_SECONDS = gauge("tidegate_lag_seconds", PIPELINE, "Seconds since the newest committed record was written to Kafka, while others wait; else 0.");
    COMMITTED_OFFSET = gauge("tidegate_committed_offset", PARTITION, "Every record below has had its effect.");
    PARTITION_WATERMARK = gauge("tidegate_partition_watermark_timestamp_seconds", PARTITION, "The watermark of a partition; the least of those that are not idle is the pipeline's.");
    PARTITION_IDLE = gauge("tidegate_partition_idle", PARTITION, "1 while a partition is so long at its end that it no longer holds the watermark.");
    WATERMARK = gauge("tidegate_watermark_timestamp_seconds", PIPELINE, "The watermark: windows that end at or before it are final.");
    READY = gauge("tidegate_pipeline_ready", PIPELINE, "1 while this process owns the pipeline and reads.");
    STANDBY = gauge("tidegate_pipeline_standby", PIPELINE, "1 while this process waits for another to let go of the pipeline.");
    RECOVERIES = counter("tidegate_recoveries_total", PIPELINE, "Times that the state was taken from the database: once at the start, and after each commit whose outcome memory did not fit.");
    COMMITS = counter("tidegate_commits_total", PIPELINE, "Commits that are in the database.");
    COMMIT_SECONDS = histogram("tidegate_commit_seconds", SECONDS, PIPELINE, "Time from sending a commit until its outcome was known, recent batches included.");
    COMMIT_TIME = gauge("tidegate_commit_timestamp_seconds", PIPELINE, "When the last commit was made.");
    STAGE_SECONDS = histogram("tidegate_stage_seconds", SECONDS, &["pipeline", "stage"], "Time that an epoch took in a stage: decode, aggregate, recent, commit (without recent).");
    EPOCH_RECORDS = histogram("tidegate_epoch_records", RECORDS_OF_AN_EPOCH, PIPELINE, "Records of an epoch.");
    CHANGED_GROUPS = counter("tidegate_changed_groups_total", VIEW, "Groups that were evaluated anew.");
    ROWS_WRITTEN = counter("tidegate_rows_written_total", &["view", "operation"], "Rows that commits have sent to a view's table, as upsert or delete; the database leaves alone those that are the same.");
    WINDOWS_CLOSED = counter("tidegate_windows_closed_total", VIEW, "Windows that became final.");
    OPEN_PANES = gauge("tidegate_open_panes", VIEW, "Panes with state: open windows, where each is one pane.");
    STATE_BYTES = gauge("tidegate_state_bytes", VIEW, "Memory that a view's state takes, roughly.");
    STATE_GROUPS = gauge("tidegate_state_groups", VIEW, "Groups of a view's state.");
    CHECKPOINT_TIME = gauge("tidegate_checkpoint_timestamp_seconds", PIPELINE, "When the last checkpoint was committed; a start replays what came since.");
    CHECKPOINT_BYTES = gauge("tidegate_checkpoint_bytes", PIPELINE, "Bytes of state that the last checkpoint wrote.");
    RECENT_BYTES = gauge("tidegate_recent_bytes", PIPELINE, "Bytes of the files with recent batches.");
    RECENT_FAILURES = counter("tidegate_recent_failures_total", PIPELINE, "Times that recent batches could not be written, merged or archived.");
    DISK_FREE = gauge("tidegate_disk_free_bytes", &["path"], "Bytes that are free where the setting of this name points.");
    DISK_SIZE = gauge("tidegate_disk_size_bytes", &["path"], "Bytes of the whole of it.");
}

table! {
    /// Those of an api, at `/prometheus`, beside the gauges that `queries/` declares.
    API:
    API_BUILD_INFO = gauge("tidegate_api_build_info", &["version"], "1; the label says which version runs.");
    API_SECONDS = histogram("tidegate_api_request_seconds", SECONDS, &["path", "status"], "Time to answer a request, by the template of its path.");
    API_ANSWERS = counter("tidegate_api_answers_total", &["how"], "Answers of endpoints and of rows, by whether they were computed or kept from the same commit.");
    API_ADHOC = counter("tidegate_api_adhoc_queries_total", &["outcome"], "Ad-hoc queries by how they ended.");
    API_WORKER_RESTARTS = counter("tidegate_api_worker_restarts_total", &[], "Query workers that ended and were replaced.");
    API_DB_OK = gauge("api_db_ok", &[], "1 while the database answers, else 0; then the declared gauges are missing.");
}
