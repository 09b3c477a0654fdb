//! The forms in which columns are written, and the types of parameters.

use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, IntervalUnit, Schema, SchemaRef, TimeUnit};
use tidegate_engine::sql::guard::Type;
pub use tidegate_engine::sql::pg::types::{of_list, oid, pg_type};

use crate::adhoc::wire::{Blame, Told};

/// The few forms of a column that are written, one for each type of clients.
fn written(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Int8 | DataType::UInt8 => DataType::Int16,
        DataType::UInt16 => DataType::Int32,
        DataType::UInt32 => DataType::Int64,
        DataType::Float16 => DataType::Float32,
        // Counts, which are not that great.
        DataType::UInt64 => DataType::Int64,
        DataType::Decimal32(precision, scale) | DataType::Decimal64(precision, scale) => {
            DataType::Decimal128(*precision, *scale)
        }
        DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => DataType::Binary,
        DataType::LargeUtf8 | DataType::Utf8View | DataType::Null => DataType::Utf8,
        DataType::Dictionary(_, values) => written(values),
        DataType::Date64 => DataType::Date32,
        DataType::Time32(_) | DataType::Time64(_) => DataType::Time64(TimeUnit::Microsecond),
        DataType::Timestamp(_, zone) => DataType::Timestamp(TimeUnit::Microsecond, zone.clone()),
        DataType::Interval(_) | DataType::Duration(_) => DataType::Interval(IntervalUnit::MonthDayNano),
        DataType::List(field) | DataType::LargeList(field) | DataType::FixedSizeList(field, _) => {
            DataType::List(Arc::new(field.as_ref().clone().with_data_type(written(field.data_type()))))
        }
        other => other.clone(),
    }
}

/// The columns in those forms.
pub fn written_schema(schema: &Schema) -> SchemaRef {
    let of = |field: &Arc<Field>| field.as_ref().clone().with_data_type(written(field.data_type())).with_nullable(true);
    Arc::new(Schema::new(schema.fields().iter().map(of).collect::<Vec<_>>()))
}

/// Rows in the forms of such a schema, but for the digits of decimals, which are those that they have: an error where the types
/// have changed, or a value does not fit.
pub fn as_written(batch: &RecordBatch, schema: &mut SchemaRef) -> Result<RecordBatch, Told> {
    let own = written_schema(&batch.schema());
    let same = |told: &DataType, own: &DataType| {
        told == own || pg_type(told).oid == oid::NUMERIC && pg_type(own).oid == oid::NUMERIC
    };
    let differs = own.fields().iter().zip(schema.fields()).any(|(own, told)| !same(told.data_type(), own.data_type()));
    if differs || own.fields().len() != schema.fields().len() {
        let why = Told::new(Blame::Query, "TG-PG-RESULT", "the columns of a prepared statement have changed");
        return Err(why.hint("prepare it again"));
    }
    *schema = own.clone();
    let strict = CastOptions { safe: false, ..CastOptions::default() };
    let columns = batch.columns().iter().zip(own.fields());
    let columns = columns.map(|(column, field)| cast_with_options(column, field.data_type(), &strict));
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    let written = columns.collect::<Result<Vec<_>, _>>();
    let written = written.and_then(|columns| RecordBatch::try_new_with_options(own, columns, &options));
    written.map_err(|error| Told::new(Blame::Query, "TG-QUERY-DATA", error.to_string()))
}

/// The type of a parameter as the guard knows it, by its number.
pub fn known(oid: u32) -> Option<Type> {
    Some(match oid {
        oid::BOOL => Type::Boolean,
        oid::INT2 | oid::INT4 | oid::INT8 | oid::OID => Type::BigInt,
        oid::FLOAT4 | oid::FLOAT8 => Type::Double,
        // How many digits there will be behind its point is not known.
        oid::NUMERIC => Type::Decimal(DESCRIBED_SCALE),
        oid::TEXT | oid::VARCHAR | oid::BPCHAR | oid::NAME | oid::UUID => Type::Text,
        oid::DATE => Type::Date,
        oid::TIME => Type::Time,
        oid::TIMESTAMP => Type::Timestamp,
        oid::TIMESTAMPTZ => Type::Instant,
        _ => return None,
    })
}

/// With which a NUMERIC is planned before there is one.
const DESCRIBED_SCALE: u8 = 10;
