//! Which group expressions are windows: the window function's own, `date_bin` and `date_trunc` over the event time.

use arrow::datatypes::{DataType, TimeUnit};
use datafusion::logical_expr::{Expr, lit};
use datafusion::scalar::ScalarValue;

use super::window::TUMBLE_UDF;

/// A group expression that is a tumbling window.
#[derive(Debug, Clone)]
pub struct Window {
    /// Its length.
    pub size_us: i64,
    /// Where windows begin, beside the multiples of their length.
    pub offset_us: i64,
    /// What is added to the start.
    pub shift_us: i64,
}

const DAY_US: i64 = 86_400_000_000;

/// Recognises a window over the watermark's column; the error is a message and the way out.
pub fn recognise(expr: &Expr, time_column: &str) -> Result<Option<Window>, (String, &'static str)> {
    let Expr::ScalarFunction(function) = expr else { return Ok(None) };
    let args = &function.args;
    let (kind, time) = match function.func.name() {
        TUMBLE_UDF => (TUMBLE_UDF, args.first()),
        "date_bin" => ("date_bin", args.get(1)),
        "date_trunc" => ("date_trunc", args.get(1)),
        _ => return Ok(None),
    };
    let mut time = time.cloned().unwrap_or_else(|| lit(0));
    while let Expr::Cast(cast) = time {
        time = *cast.expr;
    }
    if !matches!(&time, Expr::Column(column) if column.name == time_column) {
        return if kind == TUMBLE_UDF {
            Err((
                format!("the window is over {time}, which is not the watermark's column"),
                "use the column of WATERMARK FOR",
            ))
        } else {
            Ok(None)
        };
    }
    let fixed = "use a window of fixed length: seconds, minutes, hours, days, weeks";
    let (size_us, offset_us, shift_us) = match kind {
        TUMBLE_UDF => match (int(args.get(1)), int(args.get(2)), int(args.get(3))) {
            (Some(size), Some(offset), Some(shift)) => (size, offset, shift),
            _ => return Ok(None),
        },
        "date_bin" => {
            let size =
                interval(args.first()).ok_or_else(|| (format!("the stride of {expr} has no fixed length"), fixed))?;
            let origin = match args.get(2) {
                None => 0,
                Some(origin) => timestamp(origin)
                    .ok_or_else(|| (format!("the origin of {expr} is not a constant"), "write a timestamp"))?,
            };
            (size, origin.rem_euclid(size), 0)
        }
        _ => match args.first().and_then(string).map(|unit| unit.to_lowercase()).as_deref() {
            Some("millisecond") => (1_000, 0, 0),
            Some("second") => (1_000_000, 0, 0),
            Some("minute") => (60_000_000, 0, 0),
            Some("hour") => (3_600_000_000, 0, 0),
            Some("day") => (DAY_US, 0, 0),
            Some("week") => (7 * DAY_US, 4 * DAY_US, 0),
            _ => return Err((format!("{expr} is a window without a fixed length"), fixed)),
        },
    };
    Ok(Some(Window { size_us, offset_us, shift_us }))
}

fn int(expr: Option<&Expr>) -> Option<i64> {
    match expr? {
        Expr::Literal(ScalarValue::Int64(value), _) => *value,
        _ => None,
    }
}

fn string(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::Literal(value, _) => value.try_as_str().flatten(),
        _ => None,
    }
}

fn interval(expr: Option<&Expr>) -> Option<i64> {
    match expr? {
        Expr::Literal(ScalarValue::IntervalMonthDayNano(Some(value)), _)
            if value.months == 0 && value.nanoseconds % 1_000 == 0 =>
        {
            let us = i64::from(value.days).checked_mul(DAY_US)?.checked_add(value.nanoseconds / 1_000)?;
            (us > 0).then_some(us)
        }
        _ => None,
    }
}

fn timestamp(expr: &Expr) -> Option<i64> {
    match expr {
        Expr::Cast(cast) => timestamp(&cast.expr),
        Expr::Literal(value, _) => match value.cast_to(&DataType::Timestamp(TimeUnit::Microsecond, None)).ok()? {
            ScalarValue::TimestampMicrosecond(value, _) => value,
            _ => None,
        },
        _ => None,
    }
}
