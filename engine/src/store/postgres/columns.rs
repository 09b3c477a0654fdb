//! Columns of Arrow as array parameters of Postgres, in its binary format.
//!
//! A whole column is one parameter: a statement has at most 65,535 of them, and a column has more rows.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type, TimeUnit,
    TimestampMicrosecondType,
};
use bytes::{BufMut, BytesMut};
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};

use crate::error::{Error, Result};
use crate::sink::types::wire_type;

/// 2000-01-01, where Postgres counts from.
const EPOCH_US: i64 = 946_684_800_000_000;
const EPOCH_DAYS: i32 = 10_957;

/// A column as a parameter.
#[derive(Debug, Clone)]
pub struct ColumnParameter {
    array: ArrayRef,
    element: Type,
}

impl ColumnParameter {
    /// Wraps a column; types without a counterpart become the next wider one.
    pub fn new(array: &ArrayRef) -> Result<Self> {
        let wire =
            wire_type(array.data_type()).ok_or_else(|| Error::bug(format!("no column holds {}", array.data_type())))?;
        let array = if wire == *array.data_type() { array.clone() } else { cast(array, &wire)? };
        let element = match wire {
            DataType::Boolean => Type::BOOL,
            DataType::Int16 => Type::INT2,
            DataType::Int32 => Type::INT4,
            DataType::Int64 => Type::INT8,
            DataType::Float32 => Type::FLOAT4,
            DataType::Float64 => Type::FLOAT8,
            DataType::Decimal128(..) => Type::NUMERIC,
            DataType::Utf8View => Type::TEXT,
            DataType::Date32 => Type::DATE,
            DataType::Timestamp(TimeUnit::Microsecond, Some(_)) => Type::TIMESTAMPTZ,
            DataType::Timestamp(TimeUnit::Microsecond, None) => Type::TIMESTAMP,
            other => return Err(Error::bug(format!("{other} is not written to Postgres"))),
        };
        Ok(Self { array, element })
    }

    fn write(&self, out: &mut BytesMut) {
        let array = &self.array;
        macro_rules! fixed {
            ($arrow:ty, $size:literal, $put:ident, $map:expr) => {{
                let values = array.as_primitive::<$arrow>();
                self.elements(out, |row, out| {
                    out.put_i32($size);
                    out.$put($map(values.value(row)));
                });
            }};
        }
        match array.data_type() {
            DataType::Boolean => {
                let values = array.as_boolean();
                self.elements(out, |row, out| {
                    out.put_i32(1);
                    out.put_u8(u8::from(values.value(row)));
                });
            }
            DataType::Int16 => fixed!(Int16Type, 2, put_i16, |v| v),
            DataType::Int32 => fixed!(Int32Type, 4, put_i32, |v| v),
            DataType::Int64 => fixed!(Int64Type, 8, put_i64, |v| v),
            DataType::Float32 => fixed!(Float32Type, 4, put_f32, |v| v),
            DataType::Float64 => fixed!(Float64Type, 8, put_f64, |v| v),
            DataType::Date32 => fixed!(Date32Type, 4, put_i32, |v: i32| v.saturating_sub(EPOCH_DAYS)),
            DataType::Timestamp(..) => {
                fixed!(TimestampMicrosecondType, 8, put_i64, |v: i64| v.saturating_sub(EPOCH_US))
            }
            DataType::Decimal128(_, scale) => {
                let values = array.as_primitive::<Decimal128Type>();
                let scale = u16::try_from(*scale).unwrap_or_default();
                self.elements(out, |row, out| numeric(values.value(row), scale, out));
            }
            _ => {
                let values = array.as_string_view();
                self.elements(out, |row, out| {
                    let text = values.value(row).as_bytes();
                    out.put_i32(i32::try_from(text.len()).unwrap_or(i32::MAX));
                    out.put_slice(text);
                });
            }
        }
    }

    fn elements(&self, out: &mut BytesMut, mut write: impl FnMut(usize, &mut BytesMut)) {
        for row in 0..self.array.len() {
            if self.array.is_null(row) {
                out.put_i32(-1);
            } else {
                write(row, out);
            }
        }
    }
}

impl ToSql for ColumnParameter {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        let len = self.array.len();
        out.put_i32(i32::from(len > 0));
        out.put_i32(i32::from(self.array.null_count() > 0));
        out.put_u32(self.element.oid());
        if len > 0 {
            out.put_i32(i32::try_from(len)?);
            out.put_i32(1);
            self.write(out);
        }
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        // The statement casts each parameter to the column's own type, which chose the format here.
        true
    }

    to_sql_checked!();
}

/// `numeric`: digits to the base of 10,000, the weight of the first, a sign, and how many decimals to show.
fn numeric(value: i128, scale: u16, out: &mut BytesMut) {
    const BASE: u128 = 10_000;
    let mut rest = value.unsigned_abs();
    let mut digits: Vec<i16> = Vec::with_capacity(12);
    // The decimals fill whole digits from the left, so the last digit may need zeros.
    let padding = (4 - scale % 4) % 4;
    let pad = 10u128.pow(u32::from(padding));
    if padding > 0 {
        let unit = BASE / pad;
        digits.push(((rest % unit) * pad) as i16);
        rest /= unit;
    }
    while rest > 0 {
        digits.push((rest % BASE) as i16);
        rest /= BASE;
    }
    digits.reverse();
    let fraction = i32::from(scale.div_ceil(4));
    let mut weight = digits.len() as i32 - fraction - 1;
    let leading = digits.iter().take_while(|digit| **digit == 0).count();
    digits.drain(..leading);
    weight -= leading as i32;
    while digits.last() == Some(&0) {
        digits.pop();
    }
    if digits.is_empty() {
        weight = 0;
    }
    out.put_i32(8 + 2 * digits.len() as i32);
    out.put_i16(digits.len() as i16);
    out.put_i16(weight as i16);
    out.put_u16(if value < 0 { 0x4000 } else { 0 });
    out.put_u16(scale);
    for digit in digits {
        out.put_i16(digit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(value: i128, scale: u16) -> (i16, u16, u16, Vec<i16>) {
        let mut out = BytesMut::new();
        numeric(value, scale, &mut out);
        let int = |at: usize| i16::from_be_bytes([out[at], out[at + 1]]);
        assert_eq!(out.len() as i32 - 4, i32::from_be_bytes([out[0], out[1], out[2], out[3]]));
        (int(6), int(8) as u16, int(10) as u16, (12..out.len()).step_by(2).map(int).collect())
    }

    #[test]
    fn numerics_are_written_as_postgres_reads_them() {
        assert_eq!(written(0, 2), (0, 0, 2, vec![]));
        assert_eq!(written(1234, 2), (0, 0, 2, vec![12, 3400]));
        assert_eq!(written(-1234, 2), (0, 0x4000, 2, vec![12, 3400]));
        assert_eq!(written(5, 2), (-1, 0, 2, vec![500]));
        assert_eq!(written(5, 6), (-2, 0, 6, vec![500]));
        assert_eq!(written(10_000, 0), (1, 0, 0, vec![1]));
        assert_eq!(written(123_456_789, 4), (1, 0, 4, vec![1, 2345, 6789]));
        assert_eq!(written(100_000_000, 4), (1, 0, 4, vec![1]));
        assert_eq!(written(123_456_789_012, 5), (1, 0, 5, vec![123, 4567, 8901, 2000]));
    }
}
