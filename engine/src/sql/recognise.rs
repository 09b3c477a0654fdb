//! Which group expressions are windows: the window function's own, `date_bin` and `date_trunc` over the event time.

use arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::tree_node::TreeNode;
use datafusion::logical_expr::{Expr, lit};
use datafusion::scalar::ScalarValue;

use super::window::{Edge, Kind, SIZE_MAX_US, WINDOW_UDF, Windows, called};

const DAY_US: i64 = 86_400_000_000;

/// Recognises a window over the watermark's column; the error is a message and the way out.
pub fn recognise(expr: &Expr, time_column: &str) -> Result<Option<(Windows, Edge)>, (String, &'static str)> {
    let Expr::ScalarFunction(function) = expr else { return Ok(None) };
    let args = &function.args;
    let (kind, time) = match function.func.name() {
        WINDOW_UDF => (WINDOW_UDF, args.first()),
        "date_bin" => ("date_bin", args.get(1)),
        "date_trunc" => ("date_trunc", args.get(1)),
        _ => return Ok(None),
    };
    let mut time = time.cloned().unwrap_or_else(|| lit(0));
    while let Expr::Cast(cast) = &time
        && keeps_time(cast.field.data_type())
    {
        time = cast.expr.as_ref().clone();
    }
    if !matches!(&time, Expr::Column(column) if column.name == time_column) {
        return if kind == WINDOW_UDF {
            Err((
                format!("the window is over {time}, which is not the watermark's column"),
                "use the column of WATERMARK FOR",
            ))
        } else {
            Ok(None)
        };
    }
    let fixed = "use a window of fixed length: seconds, minutes, hours, days, weeks";
    let (size_us, offset_us) = match kind {
        WINDOW_UDF => {
            let constants: Option<Vec<i64>> = args[1..].iter().map(int).collect();
            return Ok(constants.and_then(|constants| called(&constants)));
        }
        "date_bin" => {
            let size =
                interval(args.first()).ok_or_else(|| (format!("the stride of {expr} has no fixed length"), fixed))?;
            let origin = match args.get(2) {
                None => 0,
                Some(origin) => timestamp(origin)
                    .ok_or_else(|| (format!("the origin of {expr} is not a constant"), "write a timestamp"))?,
            };
            (size, origin.rem_euclid(size))
        }
        _ => match args.first().and_then(string).map(|unit| unit.to_lowercase()).as_deref() {
            Some("millisecond") => (1_000, 0),
            Some("second") => (1_000_000, 0),
            Some("minute") => (60_000_000, 0),
            Some("hour") => (3_600_000_000, 0),
            Some("day") => (DAY_US, 0),
            Some("week") => (7 * DAY_US, 4 * DAY_US),
            _ => return Err((format!("{expr} is a window without a fixed length"), fixed)),
        },
    };
    Ok(Some((Windows::tumble(size_us, offset_us), Edge::Start)))
}

/// Whether a cast to this type leaves a time of the watermark's column what it is: another zone or a coarser type would
/// make windows of another length, or several of one.
fn keeps_time(to: &DataType) -> bool {
    let fine = matches!(to, DataType::Timestamp(TimeUnit::Microsecond | TimeUnit::Nanosecond, _));
    let utc = |zone: &str| matches!(zone, "+00:00" | "UTC" | "Z");
    fine && matches!(to, DataType::Timestamp(_, zone) if zone.as_deref().is_none_or(utc))
}

/// Whether an expression holds a window of several panes, whose value is not known below the aggregate.
pub fn holds_panes(expr: &Expr) -> bool {
    expr.exists(|e| {
        let Expr::ScalarFunction(function) = e else { return Ok(false) };
        let constants: Option<Vec<i64>> = function.args.iter().skip(1).map(int).collect();
        let called = (function.func.name() == WINDOW_UDF).then(|| constants.and_then(|c| called(&c))).flatten();
        Ok(called.is_some_and(|(windows, _)| windows.kind != Kind::Tumble))
    })
    .unwrap_or(true)
}

fn int(expr: &Expr) -> Option<i64> {
    match expr {
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
            (1..=SIZE_MAX_US).contains(&us).then_some(us)
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
