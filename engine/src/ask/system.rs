//! The tables of schema `tidegate`: where everything stands, as rows that join with all others.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::DataType;

use crate::error::{Error, Result};
use crate::sql::planned::{Shape, Table, TableColumn};
use crate::sql::source::event_time_type;
use crate::sql::window::{Edge, Span, Windows};
use crate::sql::{Catalog, PlannedView, ending};
use crate::store::status::{DeadLetterRow, PipelineStatus, Status};
use crate::store::{BoundValue, Comparison, Letters, Snapshot, Wanted};
use crate::time::NONE;

/// The schema that they are in.
pub const SCHEMA: &str = "tidegate";

/// The most dead letters of an answer: of those whose payloads are asked for, and of all others.
const LETTERS_MAX: [usize; 2] = [20_000, 200_000];

/// What is known of the declarations, beside what the database says of them.
#[derive(Debug)]
pub struct System {
    views: Vec<View>,
}

#[derive(Debug)]
struct View {
    name: String,
    source: String,
    fingerprint: String,
    text: String,
    /// The column that tells a window from others, which of its times that is, and how windows lie.
    window: Option<(usize, Edge, Windows)>,
    table: Table,
}

impl View {
    fn of(view: &PlannedView) -> Self {
        let windows = match view.shape {
            Shape::Windowed(windows) => Some(windows),
            Shape::Running | Shape::Stateless => None,
        };
        Self {
            name: view.name.clone(),
            source: view.source.clone(),
            fingerprint: view.fingerprint.clone(),
            text: view.text.clone(),
            window: view.window_column().zip(windows).map(|((at, edge), windows)| (at, edge, windows)),
            table: view.table.clone(),
        }
    }
}

/// The window that has this time as its edge.
fn window_of(windows: &Windows, edge: Edge, time: i64) -> Span {
    match edge {
        Edge::Start => Span { start: time, end: time.saturating_add(windows.size_us) },
        Edge::End => ending(*windows, time),
        Edge::Time => ending(*windows, time.saturating_add(1)),
    }
}

fn table(name: &str, columns: &[(&str, DataType, bool)]) -> Table {
    let column = |(name, data_type, nullable): &(&str, DataType, bool)| TableColumn {
        name: (*name).to_string(),
        data_type: data_type.clone(),
        key_of: None,
        nullable: *nullable,
    };
    Table { name: format!("{SCHEMA}.{name}"), columns: columns.iter().map(column).collect() }
}

/// The name in schema `tidegate` of a table that is one of them.
pub fn name_of(table: &Table) -> Option<&str> {
    table.name.strip_prefix(SCHEMA)?.strip_prefix('.')
}

/// The time by which rows of a table come, the newest first, if they do.
pub fn newest_first(table: &Table) -> Option<&'static str> {
    (table.name == "tidegate.dead_letters").then_some("recorded_at")
}

/// All of them.
pub fn tables() -> Vec<Table> {
    let (text, whole, small, flag) = (DataType::Utf8, DataType::Int64, DataType::Int32, DataType::Boolean);
    let time = event_time_type();
    let of = |data_type: &DataType| data_type.clone();
    vec![
        table(
            "progress",
            &[
                ("source", of(&text), false),
                ("topic", of(&text), false),
                ("partition", of(&small), false),
                ("start_offset", of(&whole), false),
                ("committed_offset", of(&whole), false),
                ("high_watermark", of(&whole), false),
                ("lag", of(&whole), false),
                ("watermark", of(&time), true),
                ("idle", of(&flag), false),
                ("committed_at", of(&time), true),
            ],
        ),
        table(
            "windows",
            &[
                ("view", of(&text), false),
                ("window_start", of(&time), false),
                ("window_end", of(&time), false),
                ("closed", of(&flag), false),
                ("rows", of(&whole), false),
                ("changed_at", of(&time), true),
            ],
        ),
        table(
            "queries",
            &[
                ("name", of(&text), false),
                ("source", of(&text), false),
                ("closed_until", of(&time), true),
                ("decoded", of(&whole), true),
                ("filtered", of(&whole), true),
                ("accepted", of(&whole), true),
                ("late", of(&whole), true),
                ("failed", of(&whole), true),
                ("fingerprint", of(&text), false),
                ("sql", of(&text), false),
            ],
        ),
        table(
            "dead_letters",
            &[
                ("source", of(&text), false),
                ("view", of(&text), true),
                ("topic", of(&text), false),
                ("partition", of(&small), false),
                ("offset", of(&whole), false),
                ("count", of(&whole), false),
                ("reason", of(&text), false),
                ("detail", of(&text), false),
                ("recorded_at", of(&time), false),
                ("payload", of(&text), true),
                ("payload_size", of(&whole), true),
            ],
        ),
    ]
}

fn texts<'a>(values: impl Iterator<Item = &'a str>) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(values))
}

fn numbers(values: impl Iterator<Item = i64>) -> ArrayRef {
    Arc::new(Int64Array::from_iter_values(values))
}

fn flags(values: impl Iterator<Item = bool>) -> ArrayRef {
    Arc::new(BooleanArray::from_iter(values.map(Some)))
}

/// Times in microseconds; [`NONE`] is NULL.
fn times(values: impl Iterator<Item = i64>) -> ArrayRef {
    let times = TimestampMicrosecondArray::from_iter(values.map(|time| (time != NONE).then_some(time)));
    Arc::new(times.with_timezone("+00:00"))
}

impl System {
    /// Of what is declared.
    pub fn new(catalog: &Catalog) -> Self {
        Self { views: catalog.views.iter().map(View::of).collect() }
    }

    /// Rows of one of the tables, with the columns that are wanted; more of them than are wanted, maybe.
    pub async fn rows(&self, table: &Table, wanted: &Wanted, snapshot: &dyn Snapshot) -> Result<RecordBatch> {
        let columns = match name_of(table) {
            Some("progress") => progress(&snapshot.status().await?),
            Some("windows") => self.windows(table, wanted, snapshot).await?,
            Some("queries") => self.queries(&snapshot.status().await?),
            Some("dead_letters") => dead_letters(&letters(table, wanted, snapshot).await?),
            _ => return Err(Error::bug(format!("{} is asked for, which there is not", table.name))),
        };
        Ok(RecordBatch::try_new(table.schema(), columns)?.project(&wanted.columns)?)
    }

    async fn windows(&self, table: &Table, wanted: &Wanted, snapshot: &dyn Snapshot) -> Result<Vec<ArrayRef>> {
        let status = snapshot.status().await?;
        let mut rows: Vec<(&str, Span, bool, i64, i64)> = Vec::new();
        let changed = wanted.columns.iter().any(|column| table.columns[*column].name == "changed_at");
        let is_wanted = |view: &&View| {
            wanted.bounds.iter().all(|bound| match &bound.value {
                BoundValue::Text(name) if table.columns[bound.column].name == "view" => *name == view.name,
                _ => true,
            })
        };
        for view in self.views.iter().filter(is_wanted) {
            let Some((column, edge, windows)) = &view.window else { continue };
            let known = status.views.iter().find(|known| known.view == view.name);
            let closed_until = known.map_or(NONE, |known| known.closed_until);
            let changes = if changed { snapshot.changes(&view.name).await? } else { Vec::new() };
            let changes: HashMap<i64, i64> = changes.into_iter().collect();
            for (time, count) in snapshot.counts(&view.table, *column).await? {
                let window = window_of(windows, *edge, time);
                let changed_at = changes.get(&time).copied().unwrap_or(NONE);
                rows.push((&view.name, window, window.end <= closed_until, count, changed_at));
            }
        }
        rows.sort_unstable_by_key(|(view, window, ..)| (*view, *window));
        Ok(vec![
            texts(rows.iter().map(|row| row.0)),
            times(rows.iter().map(|row| row.1.start)),
            times(rows.iter().map(|row| row.1.end)),
            flags(rows.iter().map(|row| row.2)),
            numbers(rows.iter().map(|row| row.3)),
            times(rows.iter().map(|row| row.4)),
        ])
    }

    fn queries(&self, status: &Status) -> Vec<ArrayRef> {
        let known: Vec<_> =
            self.views.iter().map(|view| status.views.iter().find(|known| known.view == view.name)).collect();
        let number = |get: fn(&crate::view::Counts) -> i64| -> ArrayRef {
            Arc::new(Int64Array::from_iter(known.iter().map(|view| view.map(|view| get(&view.counts)))))
        };
        vec![
            texts(self.views.iter().map(|view| view.name.as_str())),
            texts(self.views.iter().map(|view| view.source.as_str())),
            times(known.iter().map(|view| view.map_or(NONE, |view| view.closed_until))),
            number(|counts| counts.decoded),
            number(|counts| counts.filtered),
            number(|counts| counts.accepted),
            number(|counts| counts.late),
            number(|counts| counts.failed),
            texts(self.views.iter().map(|view| view.fingerprint.as_str())),
            texts(self.views.iter().map(|view| view.text.as_str())),
        ]
    }
}

fn progress(status: &Status) -> Vec<ArrayRef> {
    let rows = &status.partitions;
    let of = |name: &str| status.pipelines.iter().find(|pipeline| pipeline.pipeline == name);
    let pipelines: Vec<Option<&PipelineStatus>> = rows.iter().map(|row| of(&row.pipeline)).collect();
    vec![
        texts(rows.iter().map(|row| row.pipeline.as_str())),
        texts(pipelines.iter().map(|pipeline| pipeline.map_or("", |pipeline| pipeline.topic.as_str()))),
        Arc::new(Int32Array::from_iter_values(rows.iter().map(|row| row.partition))),
        numbers(rows.iter().map(|row| row.start_offset)),
        numbers(rows.iter().map(|row| row.next_offset)),
        numbers(rows.iter().map(|row| row.high_watermark.max(row.next_offset))),
        numbers(rows.iter().map(|row| (row.high_watermark - row.next_offset).max(0))),
        times(rows.iter().map(|row| row.watermark)),
        flags(rows.iter().map(|row| row.idle)),
        times(pipelines.iter().map(|pipeline| pipeline.map_or(NONE, |pipeline| pipeline.committed_at))),
    ]
}

/// The dead letters that are wanted; an error where they are too many.
async fn letters(table: &Table, wanted: &Wanted, snapshot: &dyn Snapshot) -> Result<Vec<DeadLetterRow>> {
    let is = |column: usize, name: &str| table.columns[column].name == name;
    let since = wanted.bounds.iter().filter_map(|bound| match bound.value {
        BoundValue::Time(time) if is(bound.column, "recorded_at") => match bound.comparison {
            Comparison::Equal | Comparison::Greater | Comparison::GreaterOrEqual => Some(time),
            Comparison::Less | Comparison::LessOrEqual => None,
        },
        _ => None,
    });
    let payloads = wanted.columns.iter().any(|column| is(*column, "payload"));
    let most = if payloads { LETTERS_MAX[0] } else { LETTERS_MAX[1] };
    let newest = wanted.limit.unwrap_or(most + 1).min(most + 1);
    let found = snapshot.dead_letters(Letters { newest, since: since.max(), payloads }).await?;
    if found.len() > most {
        return Err(Error::query("TG-SCAN-ROWS", format!("the question reads more than {most} dead letters"))
            .hint("narrow it, say to WHERE recorded_at >= now() - INTERVAL '1 hour', or leave payload out"));
    }
    Ok(found)
}

fn dead_letters(rows: &[DeadLetterRow]) -> Vec<ArrayRef> {
    let view = |row: &DeadLetterRow| (!row.view.is_empty()).then(|| row.view.clone());
    let payload = |row: &DeadLetterRow| row.payload.as_ref().map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    vec![
        texts(rows.iter().map(|row| row.pipeline.as_str())),
        Arc::new(StringArray::from_iter(rows.iter().map(view))),
        texts(rows.iter().map(|row| row.topic.as_str())),
        Arc::new(Int32Array::from_iter_values(rows.iter().map(|row| row.partition))),
        numbers(rows.iter().map(|row| row.offset)),
        numbers(rows.iter().map(|row| row.count)),
        texts(rows.iter().map(|row| row.reason.as_str())),
        texts(rows.iter().map(|row| row.detail.as_str())),
        times(rows.iter().map(|row| row.recorded_at)),
        Arc::new(StringArray::from_iter(rows.iter().map(payload))),
        Arc::new(Int64Array::from_iter(rows.iter().map(|row| row.payload_size))),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::window::Kind;

    #[test]
    fn a_window_is_known_by_any_of_its_times() {
        let hop = Windows { kind: Kind::Hop, size_us: 60, step_us: 10, offset_us: 0 };
        for (edge, time) in [(Edge::Start, 30), (Edge::End, 90), (Edge::Time, 89)] {
            assert_eq!(window_of(&hop, edge, time), Span { start: 30, end: 90 });
        }
        let cumulate = Windows { kind: Kind::Cumulate, size_us: 60, step_us: 20, offset_us: 5 };
        assert_eq!(window_of(&cumulate, Edge::End, 85), Span { start: 65, end: 85 });
        assert_eq!(window_of(&cumulate, Edge::Time, 124), Span { start: 65, end: 125 });
    }
}
