//! Medians of several runs, as a table and as JSON.

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
    /// WAL that Postgres wrote.
    pub wal_bytes_per_record: Option<f64>,
    /// Median latency.
    pub p50_ms: Option<f64>,
    /// 99th percentile.
    pub p99_ms: Option<f64>,
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
}

/// A figure of a run.
type Figure = fn(&Run) -> Option<f64>;

const FIGURES: [(&str, Figure, usize); 7] = [
    ("cpu_s_per_million", |r| r.cpu_s_per_million, 3),
    ("events_per_s", |r| r.events_per_s, 0),
    ("peak_rss_mib", |r| r.peak_rss_mib, 0),
    ("wal_bytes_per_record", |r| r.wal_bytes_per_record, 2),
    ("p50_ms", |r| r.p50_ms, 2),
    ("p99_ms", |r| r.p99_ms, 2),
    ("seconds", |r| Some(r.seconds), 1),
];

/// Minimum, median and maximum.
fn spread(runs: &[Run], figure: Figure) -> Option<(f64, f64, f64)> {
    let mut values: Vec<f64> = runs.iter().filter_map(figure).collect();
    values.sort_by(f64::total_cmp);
    Some((*values.first()?, values[values.len() / 2], *values.last()?))
}

/// The table: the median, and the extremes in brackets.
pub fn table(rows: &[(String, Vec<Run>)]) -> String {
    let mut text = format!("{:<32}", "name");
    for (name, _, _) in FIGURES {
        text.push_str(&format!(" {name:>26}"));
    }
    for (name, runs) in rows {
        text.push_str(&format!("\n{name:<32}"));
        for (_, figure, digits) in FIGURES {
            let cell = spread(runs, figure).map_or("-".to_string(), |(min, median, max)| {
                format!("{median:.digits$} [{min:.digits$}..{max:.digits$}]")
            });
            text.push_str(&format!(" {cell:>26}"));
        }
    }
    text
}

/// The medians as a list.
pub fn json(rows: &[(String, Vec<Run>)]) -> Value {
    let row = |(name, runs): &(String, Vec<Run>)| {
        let mut object = serde_json::Map::from_iter([("name".to_string(), json!(name))]);
        for (key, figure, _) in FIGURES {
            object.insert(key.to_string(), json!(spread(runs, figure).map(|(_, median, _)| median)));
        }
        Value::Object(object)
    };
    Value::Array(rows.iter().map(row).collect())
}
