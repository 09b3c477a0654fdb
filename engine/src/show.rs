//! Rows for people: values as text, rows as JSON.

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Float32Type, Float64Type, TimeUnit, TimestampMicrosecondType};
use arrow::json::WriterBuilder;
use arrow::json::writer::JsonArray;
use arrow::util::display::array_value_to_string;

use crate::error::Result;
use crate::time::clock;

/// A value as text: times as RFC 3339, NULL as NULL.
pub fn cell(column: &ArrayRef, row: usize) -> Result<String> {
    if column.is_null(row) {
        return Ok("NULL".to_string());
    }
    Ok(match column.data_type() {
        DataType::Timestamp(..) => {
            let micros = arrow::compute::cast(column, &DataType::Timestamp(TimeUnit::Microsecond, None))?;
            clock::rfc3339(micros.as_primitive::<TimestampMicrosecondType>().value(row))
        }
        DataType::Float64 => column.as_primitive::<Float64Type>().value(row).to_string(),
        DataType::Float32 => column.as_primitive::<Float32Type>().value(row).to_string(),
        DataType::Binary => String::from_utf8_lossy(column.as_binary::<i32>().value(row)).into_owned(),
        _ => array_value_to_string(column, row)?,
    })
}

/// The rows of a batch as text, and the names of the columns.
pub fn table(batch: &RecordBatch) -> Result<(Vec<String>, Vec<Vec<String>>)> {
    let names = batch.schema().fields().iter().map(|field| field.name().clone()).collect();
    let row = |row: usize| batch.columns().iter().map(|column| cell(column, row)).collect();
    Ok((names, (0..batch.num_rows()).map(row).collect::<Result<_>>()?))
}

/// The rows of a batch as a JSON array of objects.
pub fn json(batch: &RecordBatch) -> Result<Vec<u8>> {
    let mut writer = WriterBuilder::new().with_explicit_nulls(true).build::<_, JsonArray>(Vec::new());
    writer.write(batch)?;
    writer.finish()?;
    let text = writer.into_inner();
    Ok(if text.is_empty() { b"[]".to_vec() } else { text })
}
