//! Values of Arrow as values of SQLite, and back, without loss.
//!
//! Times are microseconds and dates days, as integers. Decimals of up to 18 digits are integers of their last decimal
//! place, longer ones are text. A float column is of type ANY, since SQLite would make NULL of a NaN: it is text.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int64Array, StringArray,
    TimestampMicrosecondArray,
};
use arrow::compute::{CastOptions, cast, cast_with_options};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Float64Type, Int64Type, TimeUnit, TimestampMicrosecondType,
};
use arrow::util::display::array_value_to_string;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, ValueRef};

use crate::error::{Error, Result};

/// The longest decimal that is an integer.
const INTEGER_DIGITS_MAX: u8 = 18;

/// One value.
#[derive(Debug, Clone)]
pub enum Value {
    Null,
    Integer(i64),
    Real(f64),
    Text(String),
}

/// The column type for values of this type.
pub fn column_type(data_type: &DataType) -> &'static str {
    match data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "TEXT",
        DataType::Decimal128(precision, _) if *precision > INTEGER_DIGITS_MAX => "TEXT",
        DataType::Float32 | DataType::Float64 => "ANY",
        _ => "INTEGER",
    }
}

/// A column's values.
pub fn values(array: &ArrayRef) -> Result<Vec<Value>> {
    let strict = CastOptions { safe: false, ..CastOptions::default() };
    let to = |data_type: &DataType| cast_with_options(array, data_type, &strict);
    let all = |get: &dyn Fn(usize) -> Value| -> Vec<Value> {
        (0..array.len()).map(|row| if array.is_null(row) { Value::Null } else { get(row) }).collect()
    };
    Ok(match array.data_type() {
        DataType::Boolean => {
            let array = array.as_boolean();
            all(&|row| Value::Integer(i64::from(array.value(row))))
        }
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
            let text = to(&DataType::Utf8)?;
            all(&|row| Value::Text(text.as_string::<i32>().value(row).to_string()))
        }
        DataType::Float32 | DataType::Float64 => {
            let floats = to(&DataType::Float64)?;
            let floats = floats.as_primitive::<Float64Type>();
            all(&|row| match floats.value(row) {
                nan if nan.is_nan() => Value::Text("NaN".to_string()),
                float => Value::Real(float),
            })
        }
        DataType::Decimal128(precision, _) if *precision > INTEGER_DIGITS_MAX => {
            let texts: Vec<String> =
                (0..array.len()).map(|row| array_value_to_string(array, row)).collect::<Result<_, _>>()?;
            all(&|row| Value::Text(texts[row].clone()))
        }
        DataType::Decimal128(..) => {
            let decimals = array.as_primitive::<Decimal128Type>();
            all(&|row| Value::Integer(decimals.value(row) as i64))
        }
        DataType::Date32 => {
            let dates = array.as_primitive::<Date32Type>();
            all(&|row| Value::Integer(i64::from(dates.value(row))))
        }
        DataType::Timestamp(..) => {
            let times = to(&DataType::Timestamp(TimeUnit::Microsecond, None))?;
            let times = times.as_primitive::<TimestampMicrosecondType>();
            all(&|row| Value::Integer(times.value(row)))
        }
        _ => {
            let integers = to(&DataType::Int64)?;
            let integers = integers.as_primitive::<Int64Type>();
            all(&|row| Value::Integer(integers.value(row)))
        }
    })
}

/// A column of rows as an array of this type.
pub fn array(rows: &[SqliteRow], column: usize, data_type: &DataType) -> Result<ArrayRef> {
    let told = |error: sqlx::Error| Error::bug(format!("column {column} is not what was written: {error}"));
    let integers = || -> Result<Vec<Option<i64>>> {
        rows.iter().map(|row| row.try_get(column)).collect::<Result<_, _>>().map_err(told)
    };
    let texts = || -> Result<ArrayRef> {
        let texts: Vec<Option<String>> =
            rows.iter().map(|row| row.try_get(column)).collect::<Result<_, _>>().map_err(told)?;
        Ok(Arc::new(StringArray::from(texts)))
    };
    Ok(match data_type {
        DataType::Boolean => {
            Arc::new(BooleanArray::from_iter(integers()?.into_iter().map(|value| value.map(|v| v != 0))))
        }
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => cast(&texts()?, data_type)?,
        DataType::Float32 | DataType::Float64 => {
            let mut floats = Vec::with_capacity(rows.len());
            for row in rows {
                let is_null = row.try_get_raw(column).map_err(told)?.is_null();
                // The only text that is written is NaN.
                floats.push((!is_null).then(|| row.try_get::<f64, _>(column).unwrap_or(f64::NAN)));
            }
            let floats: ArrayRef = Arc::new(Float64Array::from(floats));
            cast(&floats, data_type)?
        }
        DataType::Decimal128(precision, _) if *precision > INTEGER_DIGITS_MAX => cast(&texts()?, data_type)?,
        DataType::Decimal128(precision, scale) => {
            let decimals: Decimal128Array = integers()?.into_iter().map(|value| value.map(i128::from)).collect();
            Arc::new(decimals.with_precision_and_scale(*precision, *scale)?)
        }
        DataType::Date32 => {
            let days = integers()?.into_iter().map(|value| value.and_then(|days| i32::try_from(days).ok()));
            Arc::new(Date32Array::from_iter(days))
        }
        DataType::Timestamp(_, zone) => {
            let times = TimestampMicrosecondArray::from(integers()?).with_timezone_opt(zone.clone());
            let times: ArrayRef = Arc::new(times);
            cast(&times, data_type)?
        }
        _ => {
            let integers: ArrayRef = Arc::new(Int64Array::from(integers()?));
            cast(&integers, data_type)?
        }
    })
}
