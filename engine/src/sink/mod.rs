//! Changes of a view to rows of its table, in the order in which they are written. What a store makes of them stands in
//! its own room.

pub mod types;

use arrow::array::{ArrayRef, AsArray, RecordBatch};
use arrow::compute::{SortColumn, cast, lexsort_to_indices, take_record_batch};
use arrow::datatypes::{DataType, TimeUnit, TimestampMicrosecondType};

use crate::error::Result;
use crate::sql::planned::Table;
use crate::view::Changes;

/// Rows handed over in one statement.
const STATEMENT_ROWS_MAX: usize = 20_000;

/// Quotes an identifier.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A view's changes, ready for the database.
#[derive(Debug, Default)]
pub struct Write {
    /// Rows of the table, each key once, sorted by key.
    pub upserts: Vec<RecordBatch>,
    /// Keys of rows that must go, sorted.
    pub deletes: Vec<RecordBatch>,
}

impl Write {
    /// Sorts rows by key, so that writers of a table meet them in one order and the index is walked forward.
    pub fn new(table: &Table, changes: Changes) -> Result<Self> {
        let key: Vec<usize> = (0..table.columns.len()).filter(|index| table.columns[*index].key_of.is_some()).collect();
        let upserts = cut(&sorted(changes.upserts, &key)?);
        let deletes = match changes.deletes {
            Some(keys) => {
                let all: Vec<usize> = (0..keys.num_columns()).collect();
                cut(&sorted(keys, &all)?)
            }
            None => Vec::new(),
        };
        Ok(Self { upserts, deletes })
    }

    /// The values of a time of the key, in microseconds, each once: of rows that it writes, and those of rows that it deletes
    /// alone.
    pub fn times(&self, table: &Table, column: usize) -> Result<(Vec<i64>, Vec<i64>)> {
        // Of what is deleted, there is the key alone.
        let of_key = table.columns.iter().take(column).filter(|other| other.key_of.is_some()).count();
        let written = times(self.upserts.iter().map(|rows| rows.column(column)))?;
        let mut deleted = times(self.deletes.iter().map(|keys| keys.column(of_key)))?;
        deleted.retain(|time| written.binary_search(time).is_err());
        Ok((written, deleted))
    }

    /// Rows that it writes or deletes.
    pub fn rows(&self) -> usize {
        self.upserts.iter().chain(&self.deletes).map(RecordBatch::num_rows).sum()
    }
}

/// The times of these columns, in their order, each once.
fn times<'a>(columns: impl Iterator<Item = &'a ArrayRef>) -> Result<Vec<i64>> {
    let mut times: Vec<i64> = Vec::new();
    for column in columns {
        let column = cast(column, &DataType::Timestamp(TimeUnit::Microsecond, None))?;
        for time in column.as_primitive::<TimestampMicrosecondType>().iter().flatten() {
            // They come sorted by key.
            if times.last() != Some(&time) {
                times.push(time);
            }
        }
    }
    times.sort_unstable();
    times.dedup();
    Ok(times)
}

fn sorted(batch: RecordBatch, key: &[usize]) -> Result<RecordBatch> {
    if batch.num_rows() < 2 {
        return Ok(batch);
    }
    let column =
        |index: &usize| -> SortColumn { SortColumn { values: ArrayRef::clone(batch.column(*index)), options: None } };
    let order = lexsort_to_indices(&key.iter().map(column).collect::<Vec<_>>(), None)?;
    Ok(take_record_batch(&batch, &order)?)
}

fn cut(batch: &RecordBatch) -> Vec<RecordBatch> {
    let rows = batch.num_rows();
    (0..rows)
        .step_by(STATEMENT_ROWS_MAX)
        .map(|start| batch.slice(start, STATEMENT_ROWS_MAX.min(rows - start)))
        .collect()
}
