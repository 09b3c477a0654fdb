//! Rows as Parquet files, one for each hour of event time, sorted by it.

use arrow::array::{ArrayRef, AsArray, RecordBatch};
use arrow::compute::{SortColumn, concat_batches, lexsort_to_indices, take};
use arrow::datatypes::{SchemaRef, TimestampMicrosecondType};
use bytes::Bytes;
use chrono::DateTime;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::metadata::SortingColumn;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;

use crate::batch::HIDDEN;
use crate::error::{Error, Result};

const HOUR_US: i64 = 3_600_000_000;

/// Rows of a page at most: what a reader skips is at least as many.
const PAGE_ROWS: usize = 20_000;

/// Rows of a row group at most.
const GROUP_ROWS: usize = 1 << 20;

/// A file that was made, and is to be written.
#[derive(Debug)]
pub struct Made {
    /// Its folders: the hour.
    pub hour: String,
    /// What is in it.
    pub bytes: Bytes,
    /// How many rows.
    pub rows: usize,
    /// The least and the greatest event time.
    pub times: (i64, i64),
}

/// Makes the files of these rows.
pub fn make(schema: &SchemaRef, rows: &[RecordBatch], time_column: &str) -> Result<Vec<Made>> {
    let rows = concat_batches(schema, rows)?;
    if rows.num_rows() == 0 {
        return Ok(Vec::new());
    }
    let time = schema.index_of(time_column)?;
    // By time; of one time in the order of the log.
    let by = [time, schema.index_of(HIDDEN[0])?, schema.index_of(HIDDEN[1])?];
    let columns = by.map(|index| SortColumn { values: rows.column(index).clone(), options: None });
    let order = lexsort_to_indices(&columns, None)?;
    let columns = rows.columns().iter().map(|column| Ok(take(column, &order, None)?));
    let rows = RecordBatch::try_new(schema.clone(), columns.collect::<Result<Vec<ArrayRef>>>()?)?;
    let times = rows.column(time).as_primitive::<TimestampMicrosecondType>().clone();
    let (mut made, mut start) = (Vec::new(), 0);
    while start < times.len() {
        let hour = times.value(start).div_euclid(HOUR_US);
        let count = times.values()[start..].partition_point(|time| time.div_euclid(HOUR_US) == hour);
        let part = rows.slice(start, count);
        made.push(Made {
            hour: folders(hour)?,
            bytes: written(&part, time)?,
            rows: count,
            times: (times.value(start), times.value(start + count - 1)),
        });
        start += count;
    }
    Ok(made)
}

fn folders(hour: i64) -> Result<String> {
    let time = DateTime::from_timestamp_micros(hour.saturating_mul(HOUR_US));
    let time = time.ok_or_else(|| Error::bug(format!("there is no hour {hour}")))?;
    Ok(time.format("date=%Y-%m-%d/hour=%H").to_string())
}

fn written(rows: &RecordBatch, time: usize) -> Result<Bytes> {
    let failed = |error: parquet::errors::ParquetError| Error::bug(format!("Parquet is not written: {error}"));
    let by_time =
        SortingColumn { column_idx: i32::try_from(time).unwrap_or_default(), descending: false, nulls_first: true };
    let mut properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(3).map_err(failed)?))
        .set_statistics_enabled(EnabledStatistics::Page)
        .set_data_page_row_count_limit(PAGE_ROWS)
        .set_max_row_group_row_count(Some(GROUP_ROWS))
        .set_sorting_columns(Some(vec![by_time]))
        .set_created_by(concat!("tidegate ", env!("CARGO_PKG_VERSION")).to_string());
    // The greatest of a page leaves NaN out, which we order above all numbers.
    for field in rows.schema().fields().iter().filter(|field| field.data_type().is_floating()) {
        let column = ColumnPath::from(field.name().as_str());
        properties = properties.set_column_statistics_enabled(column, EnabledStatistics::None);
    }
    let mut writer = ArrowWriter::try_new(Vec::new(), rows.schema(), Some(properties.build())).map_err(failed)?;
    writer.write(rows).map_err(failed)?;
    Ok(writer.into_inner().map_err(failed)?.into())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Float64Array, Int32Array, Int64Array, TimestampMicrosecondArray};
    use arrow::datatypes::{DataType, Field, Int64Type, Schema, TimeUnit};
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    use super::*;

    #[test]
    fn each_hour_has_a_file_that_is_sorted_by_time() {
        let utc = DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into()));
        let field = |name: &str, data_type| Field::new(name, data_type, false);
        let fields = [
            field("ts", utc),
            field("_partition", DataType::Int32),
            field("_offset", DataType::Int64),
            field("ratio", DataType::Float64),
        ];
        let schema = Arc::new(Schema::new(fields.to_vec()));
        let rows = |times: &[i64], first: i64| {
            let (count, times) = (times.len(), TimestampMicrosecondArray::from(times.to_vec()));
            let columns: Vec<ArrayRef> = vec![
                Arc::new(times.with_timezone("+00:00")),
                Arc::new(Int32Array::from_value(0, count)),
                Arc::new(Int64Array::from_iter_values(first..first + count as i64)),
                Arc::new(Float64Array::from_iter_values((0..count).map(|n| if n == 0 { f64::NAN } else { 1.0 }))),
            ];
            RecordBatch::try_new(schema.clone(), columns).unwrap()
        };
        let batches = [rows(&[HOUR_US + 5, 3, -1], 10), rows(&[HOUR_US, 3, HOUR_US + 1], 13)];
        let made = make(&schema, &batches, "ts").unwrap();
        let told: Vec<(&str, usize, (i64, i64))> = made.iter().map(|m| (m.hour.as_str(), m.rows, m.times)).collect();
        assert_eq!(
            told,
            [
                ("date=1969-12-31/hour=23", 1, (-1, -1)),
                ("date=1970-01-01/hour=00", 2, (3, 3)),
                ("date=1970-01-01/hour=01", 3, (HOUR_US, HOUR_US + 5)),
            ]
        );
        let read = ParquetRecordBatchReaderBuilder::try_new(made[2].bytes.clone()).unwrap();
        assert_eq!(*read.schema(), schema);
        // A greatest that left NaN out would hide it.
        let columns = read.metadata().row_group(0).columns();
        let told: Vec<bool> = columns.iter().map(|column| column.statistics().is_some()).collect();
        assert_eq!(told, [true, true, true, false]);
        let read: Vec<RecordBatch> = read.build().unwrap().map(Result::unwrap).collect();
        assert_eq!(read[0].column(2).as_primitive::<Int64Type>().values(), &[13, 15, 10]);
        assert!(make(&schema, &[], "ts").unwrap().is_empty());
    }
}
