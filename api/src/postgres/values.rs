//! Values on the wire: rows of batches to clients, parameters from them, each as a text or in Postgres' binary form.

use std::fmt::Write;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Decimal256Type, DecimalType, Float32Type, Float64Type, Int16Type, Int32Type,
    Int64Type, IntervalMonthDayNano, IntervalMonthDayNanoType, Time64MicrosecondType, TimestampMicrosecondType,
};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use bytes::{BufMut, BytesMut};
use chrono::{DateTime, Datelike, NaiveDate, NaiveDateTime, NaiveTime, Timelike};
use tidegate_engine::sql::guard::{Given, Type};

use super::types::{self, oid, pg_type};
use crate::adhoc::wire::{Blame, Told};

/// Microseconds and days from 1970 to 2000, from which Postgres counts.
const EPOCH_US: i64 = 946_684_800_000_000;
const EPOCH_DAYS: i32 = 10_957;

/// The most dimensions and values of a list.
const LIST_MAX: usize = 10_000;

fn unreadable(error: impl std::fmt::Display) -> Told {
    Told::new(Blame::Us, "TG-INTERNAL", error.to_string())
}

/// Writes a row: the length and the bytes of each value.
pub fn write_row(batch: &RecordBatch, row: usize, binary: &[bool], to: &mut BytesMut) -> Result<(), Told> {
    for (column, binary) in batch.columns().iter().zip(binary) {
        write_value(column, row, *binary, to)?;
    }
    Ok(())
}

/// A value with its length before it; -1 is NULL.
fn write_value(column: &ArrayRef, row: usize, binary: bool, to: &mut BytesMut) -> Result<(), Told> {
    let begin = to.len();
    to.put_i32(-1);
    if column.is_null(row) || column.data_type() == &DataType::Null {
        return Ok(());
    }
    if binary {
        write_binary(column, row, to)?
    } else {
        write_text(column, row, to)?
    }
    let length = i32::try_from(to.len() - begin - 4).map_err(unreadable)?;
    to[begin..begin + 4].copy_from_slice(&length.to_be_bytes());
    Ok(())
}

/// Writes into bytes what is formatted.
struct Text<'a>(&'a mut BytesMut);

impl Write for Text<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0.put_slice(text.as_bytes());
        Ok(())
    }
}

fn write_text(column: &ArrayRef, row: usize, to: &mut BytesMut) -> Result<(), Told> {
    let mut text = Text(to);
    let written = match column.data_type() {
        DataType::Boolean => text.write_str(if column.as_boolean().value(row) { "t" } else { "f" }),
        DataType::Int16 => write!(text, "{}", column.as_primitive::<Int16Type>().value(row)),
        DataType::Int32 => write!(text, "{}", column.as_primitive::<Int32Type>().value(row)),
        DataType::Int64 => write!(text, "{}", column.as_primitive::<Int64Type>().value(row)),
        DataType::Float32 => float(&mut text, column.as_primitive::<Float32Type>().value(row)),
        DataType::Float64 => float(&mut text, column.as_primitive::<Float64Type>().value(row)),
        DataType::Utf8 => text.write_str(column.as_string::<i32>().value(row)),
        DataType::Binary => {
            let bytes = column.as_binary::<i32>().value(row);
            text.write_str("\\x").and_then(|()| bytes.iter().try_for_each(|byte| write!(text, "{byte:02x}")))
        }
        DataType::Date32 => match Date32Type::to_naive_date_opt(column.as_primitive::<Date32Type>().value(row)) {
            Some(day) => date(&mut text, day),
            None => return Err(unreadable("a day beyond all calendars")),
        },
        DataType::Time64(_) => time(&mut text, column.as_primitive::<Time64MicrosecondType>().value(row)),
        DataType::Timestamp(_, zone) => {
            let us = column.as_primitive::<TimestampMicrosecondType>().value(row);
            let Some(at) = DateTime::from_timestamp_micros(us) else {
                return Err(unreadable("a time beyond all calendars"));
            };
            let at = at.naive_utc();
            let of_day = i64::from(at.num_seconds_from_midnight()) * 1_000_000 + i64::from(at.nanosecond() / 1_000);
            // The era stands behind all else.
            let era = if at.year() > 0 { "" } else { " BC" };
            let zone = if zone.is_some() { "+00" } else { "" };
            day(&mut text, at.date())
                .and_then(|()| text.write_char(' '))
                .and_then(|()| time(&mut text, of_day))
                .and_then(|()| write!(text, "{zone}{era}"))
        }
        DataType::Decimal128(..) | DataType::Decimal256(..) => text.write_str(&decimal(column, row)),
        DataType::Interval(_) => interval(&mut text, column.as_primitive::<IntervalMonthDayNanoType>().value(row)),
        DataType::List(_) => return list(&column.as_list::<i32>().value(row), text.0),
        // Structures and maps, as the engine shows them.
        _ => {
            let formatter = ArrayFormatter::try_new(column, &FormatOptions::default()).map_err(unreadable)?;
            write!(text, "{}", formatter.value(row))
        }
    };
    written.map_err(unreadable)
}

/// As Postgres writes it, which has words where Rust has others.
fn float<T: std::fmt::Display + Into<f64> + Copy>(text: &mut Text<'_>, value: T) -> std::fmt::Result {
    let wide: f64 = value.into();
    match wide {
        _ if wide.is_nan() => text.write_str("NaN"),
        _ if wide.is_infinite() => text.write_str(if wide > 0.0 { "Infinity" } else { "-Infinity" }),
        _ if wide != 0.0 && !(1e-5..1e15).contains(&wide.abs()) => {
            // Such as 1e+300.
            let scientific = format!("{wide:e}");
            let scientific = if scientific.contains("e-") { scientific } else { scientific.replace('e', "e+") };
            text.write_str(&scientific)
        }
        _ => write!(text, "{value}"),
    }
}

fn day(text: &mut Text<'_>, day: NaiveDate) -> std::fmt::Result {
    let year = if day.year() > 0 { day.year() } else { 1 - day.year() };
    write!(text, "{year:04}-{:02}-{:02}", day.month(), day.day())
}

fn date(text: &mut Text<'_>, of: NaiveDate) -> std::fmt::Result {
    day(text, of)?;
    text.write_str(if of.year() > 0 { "" } else { " BC" })
}

/// Microseconds of a day, without zeros at the end.
fn time(text: &mut Text<'_>, us: i64) -> std::fmt::Result {
    let (seconds, us) = (us / 1_000_000, us % 1_000_000);
    write!(text, "{:02}:{:02}:{:02}", seconds / 3_600, seconds / 60 % 60, seconds % 60)?;
    if us == 0 { Ok(()) } else { text.write_str(format!(".{us:06}").trim_end_matches('0')) }
}

fn interval(text: &mut Text<'_>, value: IntervalMonthDayNano) -> std::fmt::Result {
    let mut parts = Vec::new();
    let mut part = |count: i32, unit: &str| {
        if count != 0 {
            parts.push(format!("{count} {unit}{}", if count == 1 { "" } else { "s" }));
        }
    };
    part(value.months / 12, "year");
    part(value.months % 12, "mon");
    part(value.days, "day");
    text.write_str(&parts.join(" "))?;
    let us = value.nanoseconds / 1_000;
    if us == 0 && !parts.is_empty() {
        return Ok(());
    }
    text.write_str(if parts.is_empty() { "" } else { " " })?;
    text.write_str(if us < 0 { "-" } else { "" })?;
    time(text, us.abs())
}

fn decimal(column: &ArrayRef, row: usize) -> String {
    match column.data_type() {
        DataType::Decimal256(precision, scale) => {
            Decimal256Type::format_decimal(column.as_primitive::<Decimal256Type>().value(row), *precision, *scale)
        }
        DataType::Decimal128(precision, scale) => {
            Decimal128Type::format_decimal(column.as_primitive::<Decimal128Type>().value(row), *precision, *scale)
        }
        _ => String::new(),
    }
}

/// `{a,"b c",NULL}`.
fn list(values: &ArrayRef, to: &mut BytesMut) -> Result<(), Told> {
    to.put_u8(b'{');
    for row in 0..values.len() {
        if row > 0 {
            to.put_u8(b',');
        }
        if values.is_null(row) {
            to.put_slice(b"NULL");
            continue;
        }
        let mut value = BytesMut::new();
        write_text(values, row, &mut value)?;
        let nested = matches!(values.data_type(), DataType::List(_));
        let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"+-._:".contains(byte);
        if nested || !value.is_empty() && value.iter().all(plain) && !value.eq_ignore_ascii_case(b"null") {
            to.put_slice(&value);
            continue;
        }
        to.put_u8(b'"');
        for byte in value {
            if byte == b'"' || byte == b'\\' {
                to.put_u8(b'\\');
            }
            to.put_u8(byte);
        }
        to.put_u8(b'"');
    }
    to.put_u8(b'}');
    Ok(())
}

fn write_binary(column: &ArrayRef, row: usize, to: &mut BytesMut) -> Result<(), Told> {
    match column.data_type() {
        DataType::Boolean => to.put_u8(u8::from(column.as_boolean().value(row))),
        DataType::Int16 => to.put_i16(column.as_primitive::<Int16Type>().value(row)),
        DataType::Int32 => to.put_i32(column.as_primitive::<Int32Type>().value(row)),
        DataType::Int64 => to.put_i64(column.as_primitive::<Int64Type>().value(row)),
        DataType::Float32 => to.put_f32(column.as_primitive::<Float32Type>().value(row)),
        DataType::Float64 => to.put_f64(column.as_primitive::<Float64Type>().value(row)),
        DataType::Binary => to.put_slice(column.as_binary::<i32>().value(row)),
        DataType::Date32 => to.put_i32(column.as_primitive::<Date32Type>().value(row).wrapping_sub(EPOCH_DAYS)),
        DataType::Time64(_) => to.put_i64(column.as_primitive::<Time64MicrosecondType>().value(row)),
        DataType::Timestamp(..) => {
            to.put_i64(column.as_primitive::<TimestampMicrosecondType>().value(row).saturating_sub(EPOCH_US));
        }
        DataType::Decimal128(..) | DataType::Decimal256(..) => numeric(&decimal(column, row), to),
        DataType::Interval(_) => {
            let value = column.as_primitive::<IntervalMonthDayNanoType>().value(row);
            to.put_i64(value.nanoseconds / 1_000);
            to.put_i32(value.days);
            to.put_i32(value.months);
        }
        // A list whose values have a number; others are texts.
        DataType::List(field) if pg_type(column.data_type()).oid != oid::TEXT => {
            let values = column.as_list::<i32>().value(row);
            to.put_i32(i32::from(!values.is_empty()));
            to.put_i32(i32::from(values.null_count() > 0));
            to.put_u32(pg_type(field.data_type()).oid);
            if !values.is_empty() {
                to.put_i32(i32::try_from(values.len()).map_err(unreadable)?);
                to.put_i32(1);
            }
            for value in 0..values.len() {
                write_value(&values, value, true, to)?;
            }
        }
        _ => write_text(column, row, to)?,
    }
    Ok(())
}

/// A decimal number in groups of four digits, with its weight, sign and scale.
fn numeric(text: &str, to: &mut BytesMut) {
    let (negative, text) = text.strip_prefix('-').map_or((false, text), |text| (true, text));
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let whole = whole.trim_start_matches('0');
    let padded = format!(
        "{:0>width$}{fraction:0<after$}",
        whole,
        width = whole.len().div_ceil(4) * 4,
        after = fraction.len().div_ceil(4) * 4
    );
    let mut groups: Vec<i16> = padded
        .as_bytes()
        .chunks(4)
        .map(|group| group.iter().fold(0, |sum, digit| sum * 10 + i16::from(digit - b'0')))
        .collect();
    let mut weight = whole.len().div_ceil(4) as i16 - 1;
    while groups.last() == Some(&0) {
        groups.pop();
    }
    let leading = groups.iter().take_while(|group| **group == 0).count();
    groups.drain(..leading);
    weight -= leading as i16;
    to.put_i16(groups.len() as i16);
    to.put_i16(if groups.is_empty() { 0 } else { weight });
    to.put_u16(if negative && !groups.is_empty() { 0x4000 } else { 0 });
    to.put_i16(fraction.len() as i16);
    groups.iter().for_each(|group| to.put_i16(*group));
}

fn wrong(number: usize, what: &str) -> Told {
    Told::new(Blame::Query, "TG-SQL-PARAMETER", format!("parameter ${number} is no {what}"))
}

/// Reads the parts of a binary value.
struct Parts<'a>(&'a [u8]);

impl Parts<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*first)
    }

    fn i16(&mut self) -> Option<i16> {
        self.take().map(i16::from_be_bytes)
    }

    fn i32(&mut self) -> Option<i32> {
        self.take().map(i32::from_be_bytes)
    }

    fn i64(&mut self) -> Option<i64> {
        self.take().map(i64::from_be_bytes)
    }

    fn end<T>(&self, value: T) -> Option<T> {
        self.0.is_empty().then_some(value)
    }
}

/// A parameter's value, of the type with this number.
pub fn given(number: usize, type_oid: u32, binary: bool, bytes: Option<&[u8]>) -> Result<Given, Told> {
    if let Some(of) = types::of_list(type_oid) {
        let Some(bytes) = bytes else { return Ok(Given::Null) };
        let values = if binary { binary_list(bytes) } else { text_list(bytes) };
        let values = values.ok_or_else(|| wrong(number, "list"))?;
        let values = values.iter().map(|value| given(number, of, binary, value.as_deref()));
        return Ok(Given::List(values.collect::<Result<_, _>>()?));
    }
    let Some(known) = types::known(type_oid) else {
        // Nothing says what it is.
        let Some(bytes) = bytes else { return Ok(Given::Null) };
        let text = std::str::from_utf8(bytes).ok().filter(|_| !binary);
        return text.map(|text| Given::Text(text.to_string())).ok_or_else(|| wrong(number, "text of a known type"));
    };
    let Some(bytes) = bytes else { return Ok(Given::Of(known, None)) };
    if !binary {
        let text = std::str::from_utf8(bytes).map_err(|_| wrong(number, "UTF-8"))?;
        return of_text(known, text).ok_or_else(|| wrong(number, name(known)));
    }
    of_binary(type_oid, known, bytes).ok_or_else(|| wrong(number, name(known)))
}

fn name(known: Type) -> &'static str {
    match known {
        Type::Boolean => "boolean",
        Type::BigInt => "whole number of 64 bits",
        Type::Double => "number",
        Type::Decimal(_) => "decimal number of 38 digits",
        Type::Instant | Type::Timestamp => "time",
        Type::Date => "date",
        Type::Time => "time of day",
        Type::Text => "text",
    }
}

fn of_text(known: Type, text: &str) -> Option<Given> {
    let trimmed = text.trim();
    Some(match known {
        Type::Boolean => match trimmed.to_ascii_lowercase().as_str() {
            "t" | "true" | "y" | "yes" | "on" | "1" => Given::Boolean(true),
            "f" | "false" | "n" | "no" | "off" | "0" => Given::Boolean(false),
            _ => return None,
        },
        Type::BigInt => Given::Of(known, Some(trimmed.parse::<i64>().ok()?.to_string())),
        Type::Double => Given::Of(known, Some(trimmed.parse::<f64>().ok()?.to_string())),
        Type::Decimal(_) => decimal_of(trimmed)?,
        // The rest is what casts make of it.
        Type::Instant | Type::Timestamp | Type::Date | Type::Time => Given::Of(known, Some(trimmed.to_string())),
        Type::Text => Given::Of(known, Some(text.to_string())),
    })
}

/// A decimal number with as many digits behind its point as it is written with.
fn decimal_of(text: &str) -> Option<Given> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let plain = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if !plain(whole) || !plain(fraction) || whole.is_empty() && fraction.is_empty() {
        // Such as 1e3; and NaN, which no decimal is.
        let number = text.parse::<f64>().ok().filter(|number| number.is_finite())?;
        return Some(Given::Of(Type::Double, Some(number.to_string())));
    }
    let scale = u8::try_from(fraction.len()).ok().filter(|scale| *scale <= 38)?;
    (whole.trim_start_matches('0').len() + fraction.len() <= 38)
        .then(|| Given::Of(Type::Decimal(scale), Some(text.to_string())))
}

fn of_binary(type_oid: u32, known: Type, bytes: &[u8]) -> Option<Given> {
    let mut parts = Parts(bytes);
    let of = |text: String| Some(Given::Of(known, Some(text)));
    match type_oid {
        oid::BOOL => match bytes {
            [byte] => Some(Given::Boolean(*byte != 0)),
            _ => None,
        },
        oid::INT2 => parts.i16().and_then(|value| parts.end(value)).and_then(|value| of(value.to_string())),
        oid::INT4 => parts.i32().and_then(|value| parts.end(value)).and_then(|value| of(value.to_string())),
        oid::OID => {
            parts.take().map(u32::from_be_bytes).and_then(|value| parts.end(value)).and_then(|v| of(v.to_string()))
        }
        oid::INT8 => parts.i64().and_then(|value| parts.end(value)).and_then(|value| of(value.to_string())),
        oid::FLOAT4 => {
            parts.take().map(f32::from_be_bytes).and_then(|value| parts.end(value)).and_then(|v| of(v.to_string()))
        }
        oid::FLOAT8 => {
            parts.take().map(f64::from_be_bytes).and_then(|value| parts.end(value)).and_then(|v| of(v.to_string()))
        }
        oid::NUMERIC => decimal_of(&of_numeric(&mut parts)?),
        oid::DATE => {
            let days = parts.i32().and_then(|value| parts.end(value))?;
            of(Date32Type::to_naive_date_opt(days.checked_add(EPOCH_DAYS)?)?.format("%Y-%m-%d").to_string())
        }
        oid::TIME => {
            let us = parts.i64().and_then(|value| parts.end(value))?;
            let seconds = u32::try_from(us / 1_000_000).ok()?;
            let nanos = u32::try_from(us % 1_000_000 * 1_000).ok()?;
            of(NaiveTime::from_num_seconds_from_midnight_opt(seconds, nanos)?.to_string())
        }
        oid::TIMESTAMP | oid::TIMESTAMPTZ => {
            let us = parts.i64().and_then(|value| parts.end(value))?;
            let at: NaiveDateTime = DateTime::from_timestamp_micros(us.checked_add(EPOCH_US)?)?.naive_utc();
            let zone = if type_oid == oid::TIMESTAMPTZ { "+00:00" } else { "" };
            of(format!("{}{zone}", at.format("%Y-%m-%dT%H:%M:%S%.6f")))
        }
        oid::UUID => {
            let bytes = parts.take::<16>().and_then(|value| parts.end(value))?;
            of(uuid::Uuid::from_bytes(bytes).to_string())
        }
        _ => std::str::from_utf8(bytes).ok().and_then(|text| of(text.to_string())),
    }
}

/// A NUMERIC as a text; none for NaN and the like.
fn of_numeric(parts: &mut Parts<'_>) -> Option<String> {
    let (count, weight) = (parts.i16()?, parts.i16()?);
    let (sign, scale) = (parts.i16()? as u16, usize::try_from(parts.i16()?).ok()?);
    if !matches!(sign, 0 | 0x4000) || !(0..=32).contains(&count) || !(-20..=20).contains(&weight) || scale > 76 {
        return None;
    }
    let groups = (0..count).map(|_| parts.i16().filter(|group| (0..10_000).contains(group)));
    let groups: Vec<i16> = groups.collect::<Option<_>>()?;
    parts.end(())?;
    let group = |at: i16| usize::try_from(at).ok().and_then(|at| groups.get(at)).copied().unwrap_or(0);
    let whole: String = (0..=weight).map(|at| format!("{:04}", group(at))).collect();
    let fraction: String = (0..scale.div_ceil(4) as i16).map(|at| format!("{:04}", group(weight + 1 + at))).collect();
    let whole = whole.trim_start_matches('0');
    let whole = if whole.is_empty() { "0" } else { whole };
    let point = if scale > 0 { "." } else { "" };
    Some(format!("{}{whole}{point}{}", if sign == 0 { "" } else { "-" }, &fraction[..scale]))
}

type Values = Option<Vec<Option<Vec<u8>>>>;

fn binary_list(bytes: &[u8]) -> Values {
    let mut parts = Parts(bytes);
    let (dimensions, _has_nulls, _of) = (parts.i32()?, parts.i32()?, parts.i32()?);
    if dimensions == 0 {
        return parts.end(Vec::new());
    }
    let (count, _first) = (usize::try_from(parts.i32()?).ok()?, parts.i32()?);
    if dimensions != 1 || count > LIST_MAX {
        return None;
    }
    let mut values = Vec::new();
    for _ in 0..count {
        let length = parts.i32()?;
        values.push(match usize::try_from(length) {
            Ok(length) => {
                let (value, rest) = parts.0.split_at_checked(length)?;
                parts.0 = rest;
                Some(value.to_vec())
            }
            Err(_) => None,
        });
    }
    parts.end(values)
}

/// The values of `{a,"b c",NULL}`.
fn text_list(bytes: &[u8]) -> Values {
    let inner = bytes.trim_ascii().strip_prefix(b"{")?.strip_suffix(b"}")?;
    let (mut values, mut value, mut quoted, mut was_quoted) = (Vec::new(), Vec::new(), false, false);
    let mut rest = inner.iter();
    let mut push = |value: &mut Vec<u8>, was_quoted: &mut bool| {
        let word = std::mem::take(value);
        let is_null = !std::mem::take(was_quoted) && word.eq_ignore_ascii_case(b"null");
        values.push((!is_null).then_some(word));
    };
    while let Some(byte) = rest.next() {
        match byte {
            b'\\' => value.push(*rest.next()?),
            b'"' => (quoted, was_quoted) = (!quoted, true),
            b',' if !quoted => push(&mut value, &mut was_quoted),
            b'{' | b'}' if !quoted => return None,
            byte => value.push(*byte),
        }
    }
    if !inner.is_empty() {
        push(&mut value, &mut was_quoted);
    }
    (!quoted && values.len() <= LIST_MAX).then_some(values)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{
        BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int64Array, IntervalMonthDayNanoArray,
        ListArray, StringArray, TimestampMicrosecondArray,
    };

    use super::*;

    /// A value as a text, and its binary form as hex.
    fn both(column: impl Array + 'static, row: usize) -> (String, String) {
        let column: ArrayRef = Arc::new(column);
        let written = |binary| {
            let mut to = BytesMut::new();
            write_value(&column, row, binary, &mut to).unwrap();
            to
        };
        let hex = written(true)[4..].iter().map(|byte| format!("{byte:02x}")).collect();
        (String::from_utf8(written(false)[4..].to_vec()).unwrap(), hex)
    }

    #[test]
    fn values_are_written_as_postgres_writes_them() {
        let times = |us: i64| TimestampMicrosecondArray::from(vec![us]).with_timezone("+00:00");
        let told = [
            both(BooleanArray::from(vec![true]), 0),
            both(Int64Array::from(vec![-2]), 0),
            both(Float64Array::from(vec![1.5, f64::NAN, 1e300, 1e-7, 100.0]), 2),
            both(Float64Array::from(vec![100.0]), 0),
            both(times(1_714_557_720_123_400), 0),
            both(times(-62_198_755_200_000_000), 0),
            both(Date32Array::from(vec![19_844]), 0),
            both(Decimal128Array::from(vec![1_234_567_890]).with_precision_and_scale(38, 2).unwrap(), 0),
            both(Decimal128Array::from(vec![-5]).with_precision_and_scale(38, 3).unwrap(), 0),
            both(Decimal128Array::from(vec![0]).with_precision_and_scale(38, 2).unwrap(), 0),
            both(BinaryArray::from(vec![b"\x00\xff".as_slice()]), 0),
            both(IntervalMonthDayNanoArray::from(vec![IntervalMonthDayNano::new(14, 3, 4_500_000_000)]), 0),
            both(ListArray::from_iter_primitive::<Int64Type, _, _>(vec![Some(vec![Some(1), None])]), 0),
        ];
        let told: Vec<(&str, &str)> = told.iter().map(|(text, hex)| (text.as_str(), hex.as_str())).collect();
        assert_eq!(
            told,
            [
                ("t", "01"),
                ("-2", "fffffffffffffffe"),
                ("1e+300", "7e37e43c8800759c"),
                ("100", "4059000000000000"),
                ("2024-05-01 10:02:00.1234+00", "0002ba6058a2f808"),
                ("0002-01-01 00:00:00+00 BC", "ff1fa98e8f9d4000"),
                ("2024-05-01", "000022b7"),
                ("12345678.90", "000300010000000204d2162e2328"),
                ("-0.005", "0001ffff400000030032"),
                ("0.00", "0000000000000002"),
                ("\\x00ff", "00ff"),
                ("1 year 2 mons 3 days 00:00:04.5", "000000000044aa20000000030000000e"),
                ("{1,NULL}", "0000000100000001000000140000000200000001000000080000000000000001ffffffff"),
            ]
        );
        let texts = ListArray::new(
            Arc::new(arrow::datatypes::Field::new("item", DataType::Utf8, true)),
            arrow::buffer::OffsetBuffer::from_lengths([4]),
            Arc::new(StringArray::from(vec!["a", "b \"c\"", "null", ""])),
            None,
        );
        assert_eq!(both(texts, 0).0, r#"{a,"b \"c\"","null",""}"#);
    }

    #[test]
    fn parameters_are_read_in_both_forms() {
        let of = |known, text: &str| Ok(Given::Of(known, Some(text.to_string())));
        for (type_oid, binary, bytes, expected) in [
            (oid::INT4, true, b"\xff\xff\xff\xfe".as_slice(), of(Type::BigInt, "-2")),
            (oid::INT8, false, b" 12 ", of(Type::BigInt, "12")),
            (
                oid::NUMERIC,
                true,
                b"\x00\x03\x00\x01\x00\x00\x00\x02\x04\xd2\x16\x2e\x23\x28",
                of(Type::Decimal(2), "12345678.90"),
            ),
            (oid::NUMERIC, true, b"\x00\x01\xff\xff\x40\x00\x00\x03\x00\x32", of(Type::Decimal(3), "-0.005")),
            (oid::NUMERIC, false, b"1.50", of(Type::Decimal(2), "1.50")),
            (
                oid::TIMESTAMPTZ,
                true,
                b"\x00\x02\xba\x60\x58\xa2\xf8\x08",
                of(Type::Instant, "2024-05-01T10:02:00.123400+00:00"),
            ),
            (oid::BOOL, false, b"TRUE", Ok(Given::Boolean(true))),
            (oid::TEXT, true, b"it's", of(Type::Text, "it's")),
            (0, false, b"x", Ok(Given::Text("x".to_string()))),
            (
                1009,
                false,
                br#"{a,"b \"c",NULL}"#,
                Ok(Given::List(vec![
                    Given::Of(Type::Text, Some("a".to_string())),
                    Given::Of(Type::Text, Some("b \"c".to_string())),
                    Given::Of(Type::Text, None),
                ])),
            ),
        ] {
            assert_eq!(given(1, type_oid, binary, Some(bytes)), expected, "{type_oid} {bytes:?}");
        }
        for (type_oid, binary, bytes) in [
            (oid::INT4, true, b"\xff".as_slice()),
            (oid::INT8, false, b"12a"),
            (oid::NUMERIC, true, b"\x7f\xff\x7f\xff\x00\x00\x00\x02"),
            (oid::NUMERIC, false, b"NaN"),
            (oid::TIMESTAMPTZ, true, b"\x7f\xff\xff\xff\xff\xff\xff\xff"),
            (oid::TEXT, false, b"\xff"),
            (1009, true, b"\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x19\x7f\xff\xff\xff\x00\x00\x00\x01"),
            (1009, false, b"{a"),
            (0, true, b"\x01"),
        ] {
            assert_eq!(given(7, type_oid, binary, Some(bytes)).unwrap_err().code, "TG-SQL-PARAMETER", "{bytes:?}");
        }
    }
}
