//! Bytes to rows and rejects. Pure: the same records give the same rows, but for the clock that is handed in.
//!
//! Promises: each record becomes exactly one row or exactly one reject; rows keep the order of the records; what the
//! stores cannot hold (NUL characters, years that Postgres does not know) does not pass. Nothing here depends on views: a
//! replay decodes as the first reading did, whatever views there are by then.

mod json;

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, BooleanArray, Int32Array, Int64Array, RecordBatch, StringViewArray,
    TimestampMicrosecondArray, new_null_array,
};
use arrow::compute::{concat_batches, filter_record_batch};
use arrow::datatypes::{
    DataType, Field, Float32Type, Float64Type, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType,
};
use datafusion::physical_expr::PhysicalExpr;

use crate::batch::{Decoded, PAYLOAD_BYTES_MAX, Record, Reject, TIME_RANGE_US};
use crate::error::{Error, Result};
use crate::sql::PlannedSource;
use crate::sql::source::{Metadata, Origin};
use json::JsonDecoder;

/// Records decoded at a time.
pub const CHUNK_RECORDS_MAX: usize = 10_000;

/// How an event time far ahead is recognised.
#[derive(Debug, Clone, Copy)]
pub enum Future<'a> {
    /// First read: by the broker's timestamp or this wall clock.
    Judge {
        /// In microseconds.
        wall_us: i64,
    },
    /// Replay: as it was decided then.
    Given(&'a HashSet<(i32, i64)>),
}

/// Decodes the records of one source.
pub struct Decoder {
    schema: SchemaRef,
    time_column: usize,
    json: JsonDecoder,
    columns: Vec<From>,
    computed: Vec<(usize, Arc<dyn PhysicalExpr>)>,
    base_schema: SchemaRef,
    max_future_skew_us: i64,
}

/// Where a declared column comes from.
enum From {
    /// A column of the JSON decoder's batch.
    Payload(usize),
    Metadata(Metadata),
    Computed,
}

/// Marks of rejected rows, the first reason of each.
struct Marks {
    reasons: Vec<Option<(&'static str, String)>>,
    any: bool,
}

impl Marks {
    fn reject(&mut self, row: usize, reason: &'static str, detail: impl FnOnce() -> String) {
        self.any = true;
        let mark = &mut self.reasons[row];
        if mark.is_none() {
            *mark = Some((reason, detail()));
        }
    }
}

impl Decoder {
    /// A decoder for a planned source.
    pub fn new(source: &PlannedSource) -> Result<Self> {
        let (mut payload, mut columns, mut base) = (Vec::new(), Vec::new(), Vec::new());
        for (index, column) in source.source.columns.iter().enumerate() {
            let field = source.schema.field(index).clone();
            columns.push(match &column.origin {
                Origin::Payload => {
                    payload.push(field.clone());
                    From::Payload(payload.len() - 1)
                }
                Origin::Metadata(metadata) => From::Metadata(*metadata),
                Origin::Computed { .. } => From::Computed,
            });
            if !matches!(column.origin, Origin::Computed { .. }) {
                base.push(field.with_nullable(true));
            }
        }
        // Without _wm, which the watermarks add.
        let visible = source.schema.fields().len() - 1;
        Ok(Self {
            schema: Arc::new(Schema::new(source.schema.fields()[..visible].to_vec())),
            time_column: source.schema.index_of(&source.source.time_column)?,
            json: JsonDecoder::new(&Schema::new(payload), CHUNK_RECORDS_MAX)?,
            columns,
            computed: source.computed.clone(),
            base_schema: Arc::new(Schema::new(base)),
            max_future_skew_us: i64::try_from(source.source.options.max_future_skew.as_micros()).unwrap_or(i64::MAX),
        })
    }

    /// The index of the event time in the rows.
    pub fn time_column(&self) -> usize {
        self.time_column
    }

    /// Decodes at most [`CHUNK_RECORDS_MAX`] records.
    pub fn decode(&mut self, records: &[Record<'_>], future: Future<'_>) -> Result<Decoded> {
        let mut rejects = Vec::new();
        let (mut kept, mut payloads) = (Vec::with_capacity(records.len()), Vec::with_capacity(records.len()));
        for record in records {
            match record.payload {
                Some(payload) => {
                    kept.push(record);
                    payloads.push(payload);
                }
                None => rejects.push(reject(record, "null-payload", "the record has no payload".to_string())),
            }
        }
        let decoded = self.json.decode(&payloads)?;
        for (index, why) in &decoded.bad {
            rejects.push(reject(kept[*index], "malformed", why.clone()));
        }
        if !decoded.bad.is_empty() {
            let bad: HashSet<usize> = decoded.bad.iter().map(|(index, _)| *index).collect();
            kept = kept
                .into_iter()
                .enumerate()
                .filter(|(index, _)| !bad.contains(index))
                .map(|(_, record)| record)
                .collect();
        }
        let payload = match decoded.batches.len() {
            0 => return Ok(Decoded { rows: None, rejects }),
            1 => decoded.batches.into_iter().next().ok_or_else(|| Error::bug("a batch vanished"))?,
            _ => concat_batches(self.json.schema(), &decoded.batches)?,
        };
        if payload.num_rows() != kept.len() {
            return Err(Error::bug(format!("{} records decoded to {} rows", kept.len(), payload.num_rows())));
        }
        let rows = self.check(payload, &mut kept, future, &mut rejects)?;
        Ok(Decoded { rows: (rows.num_rows() > 0).then_some(rows), rejects })
    }

    /// Completes the columns and takes out the rows that may not pass.
    fn check(
        &self,
        payload: RecordBatch,
        kept: &mut Vec<&Record<'_>>,
        future: Future<'_>,
        rejects: &mut Vec<Reject>,
    ) -> Result<RecordBatch> {
        let mut marks = Marks { reasons: vec![None; kept.len()], any: false };
        let columns = self.complete(&payload, kept, &mut marks)?;
        self.judge(&columns, kept, future, &mut marks);
        if !marks.any {
            return Ok(RecordBatch::try_new(self.schema.clone(), columns)?);
        }
        let keep: BooleanArray = marks.reasons.iter().map(|mark| Some(mark.is_none())).collect();
        for (record, mark) in kept.iter().zip(marks.reasons) {
            if let Some((reason, detail)) = mark {
                rejects.push(reject(record, reason, detail));
            }
        }
        let loose: Vec<Field> = self.schema.fields().iter().map(|f| f.as_ref().clone().with_nullable(true)).collect();
        let rows = filter_record_batch(&RecordBatch::try_new(Arc::new(Schema::new(loose)), columns)?, &keep)?;
        Ok(RecordBatch::try_new(self.schema.clone(), rows.columns().to_vec())?)
    }

    /// Payload, metadata and computed columns in the order of the declaration, then partition and offset.
    fn complete(&self, payload: &RecordBatch, records: &[&Record<'_>], marks: &mut Marks) -> Result<Vec<ArrayRef>> {
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.columns.len() + 2);
        for (index, from) in self.columns.iter().enumerate() {
            columns.push(match from {
                From::Payload(position) => {
                    let column = payload.column(*position);
                    for row in not_finite(column) {
                        marks.reject(row, "malformed", || {
                            format!("{} is no finite number", self.schema.field(index).name())
                        });
                    }
                    column.clone()
                }
                From::Metadata(metadata) => metadata_column(*metadata, records, marks),
                From::Computed => new_null_array(self.schema.field(index).data_type(), 0),
            });
        }
        if !self.computed.is_empty() {
            let given = self.columns.iter().zip(&columns).filter(|(from, _)| !matches!(from, From::Computed));
            let base =
                RecordBatch::try_new(self.base_schema.clone(), given.map(|(_, column)| column.clone()).collect())?;
            for (index, expr) in &self.computed {
                columns[*index] = computed_column(expr, &base, self.schema.field(*index), marks)?;
            }
        }
        columns.push(Arc::new(Int32Array::from_iter_values(records.iter().map(|record| record.partition))));
        columns.push(Arc::new(Int64Array::from_iter_values(records.iter().map(|record| record.offset))));
        Ok(columns)
    }

    fn judge(&self, columns: &[ArrayRef], records: &[&Record<'_>], future: Future<'_>, marks: &mut Marks) {
        for (index, column) in columns.iter().enumerate() {
            let field = self.schema.field(index);
            if !field.is_nullable() && column.null_count() > 0 && index != self.time_column {
                for row in (0..column.len()).filter(|row| column.is_null(*row)) {
                    marks.reject(row, "missing", || {
                        format!("{} is NULL or missing, and declared NOT NULL", field.name())
                    });
                }
            }
            if let DataType::Timestamp(TimeUnit::Microsecond, _) = field.data_type() {
                let times = column.as_primitive::<TimestampMicrosecondType>();
                if times.values().iter().any(|time| !TIME_RANGE_US.contains(time)) {
                    for row in (0..times.len())
                        .filter(|row| times.is_valid(*row) && !TIME_RANGE_US.contains(&times.value(*row)))
                    {
                        marks.reject(row, "time-out-of-range", || {
                            format!("{} lies outside of the years 1 to 9999", field.name())
                        });
                    }
                }
            }
        }
        // JSON can hold a NUL only as an escape; so only payloads with a backslash, or with the byte itself, are looked at.
        for (row, record) in records.iter().enumerate() {
            let suspicious =
                |bytes: Option<&[u8]>| bytes.is_some_and(|bytes| memchr::memchr2(b'\\', 0, bytes).is_some());
            if suspicious(record.payload) || suspicious(record.key) {
                self.judge_text(row, columns, marks);
            }
        }
        self.judge_time(&columns[self.time_column], records, future, marks);
    }

    fn judge_text(&self, row: usize, columns: &[ArrayRef], marks: &mut Marks) {
        for (index, column) in columns.iter().enumerate() {
            if let Some(text) = column.as_string_view_opt()
                && text.is_valid(row)
                && text.value(row).contains('\0')
            {
                marks.reject(row, "nul-character", || {
                    format!("{} holds a NUL character, which Postgres text cannot", self.schema.field(index).name())
                });
            }
        }
    }

    fn judge_time(&self, column: &ArrayRef, records: &[&Record<'_>], future: Future<'_>, marks: &mut Marks) {
        let times = column.as_primitive::<TimestampMicrosecondType>();
        for (row, record) in records.iter().enumerate() {
            if times.is_null(row) {
                marks.reject(row, "null-time", || {
                    format!("the event time {} is NULL or missing", self.schema.field(self.time_column).name())
                });
                continue;
            }
            let ahead = match future {
                Future::Given(known) => !known.is_empty() && known.contains(&(record.partition, record.offset)),
                Future::Judge { wall_us } => {
                    let read = record.timestamp_us.filter(|_| record.append_time).unwrap_or(wall_us);
                    times.value(row) > read.saturating_add(self.max_future_skew_us)
                }
            };
            if ahead {
                marks.reject(row, "future", || {
                    "the event time is further ahead than max_future_skew allows".to_string()
                });
            }
        }
    }
}

/// The rows whose float is none: the decoder takes a number beyond all floats for infinity.
fn not_finite(column: &ArrayRef) -> Vec<usize> {
    fn rows<T: ArrowPrimitiveType>(column: &ArrayRef, is_finite: impl Fn(T::Native) -> bool) -> Vec<usize> {
        let values = column.as_primitive::<T>();
        (0..values.len()).filter(|row| values.is_valid(*row) && !is_finite(values.value(*row))).collect()
    }
    match column.data_type() {
        DataType::Float32 => rows::<Float32Type>(column, f32::is_finite),
        DataType::Float64 => rows::<Float64Type>(column, f64::is_finite),
        _ => Vec::new(),
    }
}

fn metadata_column(metadata: Metadata, records: &[&Record<'_>], marks: &mut Marks) -> ArrayRef {
    match metadata {
        Metadata::Partition => Arc::new(Int32Array::from_iter_values(records.iter().map(|r| r.partition))),
        Metadata::Offset => Arc::new(Int64Array::from_iter_values(records.iter().map(|r| r.offset))),
        Metadata::Timestamp => Arc::new(
            TimestampMicrosecondArray::from_iter(records.iter().map(|r| r.timestamp_us)).with_timezone("+00:00"),
        ),
        Metadata::Key => {
            let texts: Vec<Option<&str>> =
                records.iter().map(|r| r.key.and_then(|key| std::str::from_utf8(key).ok())).collect();
            for (row, record) in records.iter().enumerate() {
                if record.key.is_some() && texts[row].is_none() {
                    marks.reject(row, "malformed-key", || "the record's key is not UTF-8".to_string());
                }
            }
            Arc::new(StringViewArray::from_iter(texts))
        }
    }
}

/// Evaluates a computed column; rows on which it fails are rejected one by one.
fn computed_column(
    expr: &Arc<dyn PhysicalExpr>,
    base: &RecordBatch,
    field: &Field,
    marks: &mut Marks,
) -> Result<ArrayRef> {
    let evaluate = |rows: &RecordBatch| expr.evaluate(rows).and_then(|value| value.into_array(rows.num_rows()));
    if let Ok(column) = evaluate(base) {
        return Ok(column);
    }
    let mut parts = Vec::with_capacity(base.num_rows());
    for row in 0..base.num_rows() {
        parts.push(evaluate(&base.slice(row, 1)).unwrap_or_else(|error| {
            marks.reject(row, "computed-error", || format!("computing {}: {}", field.name(), error.strip_backtrace()));
            new_null_array(field.data_type(), 1)
        }));
    }
    let parts: Vec<&dyn Array> = parts.iter().map(AsRef::as_ref).collect();
    Ok(arrow::compute::concat(&parts)?)
}

fn reject(record: &Record<'_>, reason: &'static str, detail: String) -> Reject {
    Reject {
        view: None,
        partition: record.partition,
        offset: record.offset,
        reason,
        detail,
        payload: record.payload.map(|payload| payload[..payload.len().min(PAYLOAD_BYTES_MAX)].to_vec()),
        payload_size: record.payload.and_then(|payload| i64::try_from(payload.len()).ok()),
    }
}
