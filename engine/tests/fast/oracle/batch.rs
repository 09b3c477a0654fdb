//! One batch run in plain DataFusion: the view's own expressions, over the rows that the model published. What a window
//! is has been decided there; nothing of the engine's planner takes part.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Decimal128Array, Float64Array, Int32Array, Int64Array, RecordBatch, StringViewArray,
    TimestampMicrosecondArray,
};
use datafusion::datasource::MemTable;
use datafusion::prelude::{SessionConfig, SessionContext};
use tidegate_engine::show;

use super::case::*;
use super::model::{Published, Row, Value};

/// The rows of a view's table, as text, by a batch run over `published`.
pub async fn rows(case: &Case, view: &View, published: &Published) -> Vec<Vec<String>> {
    // A group is there once a row is: without one there is none, also without keys.
    if published.rows.is_empty() {
        return Vec::new();
    }
    let context = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(1));
    let batch = table(case, published);
    let accepted = MemTable::try_new(batch.schema(), vec![vec![batch]]).expect("a table");
    context.register_table("accepted", Arc::new(accepted)).expect("a name");
    let mut query = view.query("accepted", false);
    if view.windows == Windows::Stateless {
        query = query.replacen("SELECT ", "SELECT _partition, _offset, ", 1);
    }
    let frame = context.sql(&query).await.unwrap_or_else(|error| panic!("{query}: {error}"));
    let batches = frame.collect().await.unwrap_or_else(|error| panic!("{query}: {error}"));
    let mut rows = Vec::new();
    for batch in &batches {
        for row in 0..batch.num_rows() {
            let cell = |column| match show::cell(column, row).expect("a text") {
                text if text.is_empty() => "(empty)".to_string(),
                text => text,
            };
            rows.push(batch.columns().iter().map(cell).collect());
        }
    }
    rows
}

fn table(case: &Case, published: &Published) -> RecordBatch {
    let rows = &published.rows;
    let mut columns: Vec<(&str, ArrayRef)> = Vec::new();
    let declared = COLUMNS.iter().copied().chain(METADATA.iter().map(|(name, column_type, _)| (*name, *column_type)));
    for (name, column_type) in declared.chain(case.source.computed.map(|computed| ("c", COMPUTED[computed].0))) {
        columns.push((name, column(column_type, rows.iter().map(|(row, _)| row.get(name)))));
    }
    let place = |of: fn(&Row) -> usize| rows.iter().map(move |(row, _)| of(row));
    columns.push(("_partition", Arc::new(Int32Array::from_iter_values(place(|row| row.partition).map(|p| p as i32)))));
    columns.push(("_offset", Arc::new(Int64Array::from_iter_values(place(|row| row.offset).map(|o| o as i64)))));
    let times = |of: fn((i64, i64)) -> i64| -> ArrayRef {
        let times = TimestampMicrosecondArray::from_iter_values(rows.iter().map(|(_, window)| of(*window)));
        Arc::new(times.with_timezone("+00:00"))
    };
    columns.push(("window_start", times(|window| window.0)));
    columns.push(("window_end", times(|window| window.1)));
    columns.push(("window_time", times(|window| window.1 - 1)));
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true)))
        .expect("columns of one length")
}

fn column<'a>(column_type: Type, values: impl Iterator<Item = &'a Value>) -> ArrayRef {
    macro_rules! take {
        ($variant:ident) => {
            values.map(|value| match value {
                Value::$variant(value) => Some(value.clone()),
                _ => None,
            })
        };
    }
    match column_type {
        Type::Time => Arc::new(TimestampMicrosecondArray::from_iter(take!(Time)).with_timezone("+00:00")),
        Type::Text => Arc::new(StringViewArray::from_iter(take!(Text))),
        Type::Int => Arc::new(Int32Array::from_iter(take!(Int).map(|value| value.map(|value| value as i32)))),
        Type::BigInt => Arc::new(Int64Array::from_iter(take!(Int))),
        Type::Decimal => {
            Arc::new(Decimal128Array::from_iter(take!(Decimal)).with_precision_and_scale(10, 2).expect("fits"))
        }
        Type::Double => Arc::new(Float64Array::from_iter(take!(Double))),
        Type::Bool => Arc::new(BooleanArray::from_iter(take!(Bool))),
    }
}
