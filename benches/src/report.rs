//! Medians of several runs, as tables and as JSON.

use serde_json::{Value, json};
use tidegate_bench::local::process::Usage;

/// One run of one row.
#[derive(Debug, Clone, Copy, Default)]
pub struct Run {
    /// CPU seconds of the process for a million records.
    pub cpu_s_per_million: Option<f64>,
    /// Records a second.
    pub events_per_s: Option<f64>,
    /// Peak memory.
    pub peak_rss_mib: Option<f64>,
    /// Peak memory up to the middle of the run.
    pub peak_rss_mib_at_half: Option<f64>,
    /// WAL that Postgres wrote.
    pub wal_bytes_per_record: Option<f64>,
    /// Bytes of the state's table with its indexes, for each byte of state.
    pub state_bytes_ratio: Option<f64>,
    /// Median latency.
    pub p50_ms: Option<f64>,
    /// 99th percentile.
    pub p99_ms: Option<f64>,
    /// From the start of the process until it says that it is ready.
    pub seconds_to_ready: Option<f64>,
    /// From the start of the process until new records are committed.
    pub seconds_to_commit: Option<f64>,
    /// From the record that closes a window until all of it is final in the database.
    pub seconds_to_close: Option<f64>,
    /// Records that a start has read again.
    pub records_replayed: Option<f64>,
    /// Requests that were answered in a second.
    pub requests_per_s: Option<f64>,
    /// How soon records were committed meanwhile.
    pub commit_p99_ms: Option<f64>,
    /// Median of what the answers themselves say of their time.
    pub stats_ms: Option<f64>,
    /// Median of DataFusion over the same rows in memory.
    pub memtable_ms: Option<f64>,
    /// Our median by that one.
    pub by_memtable: Option<f64>,
    /// Median of DuckDB over the same rows as Parquet.
    pub duckdb_ms: Option<f64>,
    /// Our median by that one.
    pub by_duckdb: Option<f64>,
    /// The longest time between two beats of the owner's lease, as the database saw it.
    pub beat_gap_ms: Option<f64>,
    /// Length of the run.
    pub seconds: f64,
}

impl Run {
    /// A run over so many records.
    pub fn of(usage: Usage, records: u64) -> Self {
        let millions = records as f64 / 1e6;
        Self {
            cpu_s_per_million: Some(usage.cpu_seconds / millions),
            events_per_s: Some(records as f64 / usage.seconds),
            peak_rss_mib: Some(usage.peak_mib),
            seconds: usage.seconds,
            ..Self::default()
        }
    }

    /// Its figures in a line.
    pub fn said(&self) -> String {
        let said = |figure: &Figure| Some(format!("{} {:.*}", figure.0, figure.2, figure.1(self)?));
        figures().filter_map(said).collect::<Vec<_>>().join(", ")
    }
}

/// A figure of a run: its name, how it is had, its digits.
type Figure = (&'static str, fn(&Run) -> Option<f64>, usize);

const P50: Figure = ("p50_ms", |r| r.p50_ms, 2);
const P99: Figure = ("p99_ms", |r| r.p99_ms, 2);

/// What records cost, and how soon they are there.
static COSTS: [Figure; 7] = [
    ("cpu_s_per_million", |r| r.cpu_s_per_million, 3),
    ("events_per_s", |r| r.events_per_s, 0),
    ("peak_rss_mib", |r| r.peak_rss_mib, 0),
    ("wal_bytes_per_record", |r| r.wal_bytes_per_record, 2),
    P50,
    P99,
    ("seconds", |r| Some(r.seconds), 1),
];

/// What happens once, or over a long time.
static TIMES: [Figure; 7] = [
    ("seconds_to_ready", |r| r.seconds_to_ready, 3),
    ("seconds_to_commit", |r| r.seconds_to_commit, 3),
    ("records_replayed", |r| r.records_replayed, 0),
    ("seconds_to_close", |r| r.seconds_to_close, 2),
    ("beat_gap_ms", |r| r.beat_gap_ms, 0),
    ("peak_rss_mib_at_half", |r| r.peak_rss_mib_at_half, 0),
    ("state_bytes_ratio", |r| r.state_bytes_ratio, 2),
];

/// How fast questions are answered, behind the percentiles; and others, to the same questions.
static ANSWERS: [Figure; 5] = [
    ("stats_ms", |r| r.stats_ms, 2),
    ("memtable_ms", |r| r.memtable_ms, 2),
    ("by_memtable", |r| r.by_memtable, 2),
    ("duckdb_ms", |r| r.duckdb_ms, 2),
    ("by_duckdb", |r| r.by_duckdb, 2),
];

/// How many are, behind the percentiles.
static REQUESTS: [Figure; 2] = [("requests_per_s", |r| r.requests_per_s, 0), ("commit_p99_ms", |r| r.commit_p99_ms, 2)];

/// Every figure, once.
fn figures() -> impl Iterator<Item = &'static Figure> {
    COSTS.iter().chain(&TIMES).chain(&ANSWERS).chain(&REQUESTS)
}

/// The value below which such a part of these lies.
pub fn at(values: &[f64], share: f64) -> Option<f64> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values.get((values.len().saturating_sub(1) as f64 * share) as usize).copied()
}

/// A row with its runs.
pub type Row = (String, Vec<Run>);

/// Minimum, median and maximum.
fn spread(runs: &[Run], figure: &Figure) -> Option<(f64, f64, f64)> {
    let mut values: Vec<f64> = runs.iter().filter_map(figure.1).collect();
    values.sort_by(f64::total_cmp);
    Some((*values.first()?, values[values.len() / 2], *values.last()?))
}

/// Whether a row has any of these.
fn has((_, runs): &Row, figures: &[Figure]) -> bool {
    figures.iter().any(|figure| spread(runs, figure).is_some())
}

/// The tables: the median, and the extremes in brackets.
pub fn tables(rows: &[Row]) -> String {
    let with = |figures: &[Figure]| rows.iter().filter(|row| has(row, figures)).collect::<Vec<_>>();
    let (asked, requested) = (with(&ANSWERS), with(&REQUESTS));
    let others = rows.iter().filter(|row| !has(row, &ANSWERS) && !has(row, &REQUESTS)).collect::<Vec<_>>();
    let percentiles = |figures: &[Figure]| [&[P50, P99][..], figures].concat();
    let tables = [
        (others, COSTS.to_vec()),
        (with(&TIMES), TIMES.to_vec()),
        (asked, percentiles(&ANSWERS)),
        (requested, percentiles(&REQUESTS)),
    ];
    let tables = tables.iter().filter(|(rows, _)| !rows.is_empty()).map(|(rows, figures)| table(rows, figures));
    tables.collect::<Vec<_>>().join("\n\n")
}

fn table(rows: &[&Row], figures: &[Figure]) -> String {
    let mut text = format!("{:<32}", "name");
    for (name, _, _) in figures {
        text.push_str(&format!(" {name:>26}"));
    }
    for (name, runs) in rows {
        text.push_str(&format!("\n{name:<32}"));
        for figure in figures {
            let digits = figure.2;
            let cell = spread(runs, figure).map_or("-".to_string(), |(min, median, max)| {
                format!("{median:.digits$} [{min:.digits$}..{max:.digits$}]")
            });
            text.push_str(&format!(" {cell:>26}"));
        }
    }
    text
}

/// The medians as a list.
pub fn json(rows: &[Row]) -> Value {
    let row = |(name, runs): &Row| {
        let mut object = serde_json::Map::from_iter([("name".to_string(), json!(name))]);
        for figure in figures() {
            object.insert(figure.0.to_string(), json!(spread(runs, figure).map(|(_, median, _)| median)));
        }
        Value::Object(object)
    };
    Value::Array(rows.iter().map(row).collect())
}
