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
        COSTS.iter().chain(&TIMES).filter_map(said).collect::<Vec<_>>().join(", ")
    }
}

/// A figure of a run: its name, how it is had, its digits.
type Figure = (&'static str, fn(&Run) -> Option<f64>, usize);

/// What records cost, and how soon they are there.
const COSTS: [Figure; 7] = [
    ("cpu_s_per_million", |r| r.cpu_s_per_million, 3),
    ("events_per_s", |r| r.events_per_s, 0),
    ("peak_rss_mib", |r| r.peak_rss_mib, 0),
    ("wal_bytes_per_record", |r| r.wal_bytes_per_record, 2),
    ("p50_ms", |r| r.p50_ms, 2),
    ("p99_ms", |r| r.p99_ms, 2),
    ("seconds", |r| Some(r.seconds), 1),
];

/// What happens once, or over a long time.
const TIMES: [Figure; 7] = [
    ("seconds_to_ready", |r| r.seconds_to_ready, 3),
    ("seconds_to_commit", |r| r.seconds_to_commit, 3),
    ("records_replayed", |r| r.records_replayed, 0),
    ("seconds_to_close", |r| r.seconds_to_close, 2),
    ("beat_gap_ms", |r| r.beat_gap_ms, 0),
    ("peak_rss_mib_at_half", |r| r.peak_rss_mib_at_half, 0),
    ("state_bytes_ratio", |r| r.state_bytes_ratio, 2),
];

/// A row with its runs.
pub type Row = (String, Vec<Run>);

/// Minimum, median and maximum.
fn spread(runs: &[Run], figure: &Figure) -> Option<(f64, f64, f64)> {
    let mut values: Vec<f64> = runs.iter().filter_map(figure.1).collect();
    values.sort_by(f64::total_cmp);
    Some((*values.first()?, values[values.len() / 2], *values.last()?))
}

/// The tables: the median, and the extremes in brackets.
pub fn tables(rows: &[Row]) -> String {
    let has_time = |(_, runs): &&Row| TIMES.iter().any(|figure| spread(runs, figure).is_some());
    let timed: Vec<&Row> = rows.iter().filter(has_time).collect();
    let costs = table(&rows.iter().collect::<Vec<_>>(), &COSTS);
    if timed.is_empty() { costs } else { format!("{costs}\n\n{}", table(&timed, &TIMES)) }
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
        for figure in COSTS.iter().chain(&TIMES) {
            object.insert(figure.0.to_string(), json!(spread(runs, figure).map(|(_, median, _)| median)));
        }
        Value::Object(object)
    };
    Value::Array(rows.iter().map(row).collect())
}
