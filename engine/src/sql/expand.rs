//! A row in each of its windows: what HOP and CUMULATE mean in a query that is asked ad hoc.
//!
//! A view aggregates each row once, into its pane, and so needs no more than [`super::window`]. A query that runs once has
//! no panes: `tidegate_windows` lists the ends of a row's windows, which are unnested, and `tidegate_window_edge`
//! gives the other times of each.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, ListBuilder, TimestampMicrosecondArray, TimestampMicrosecondBuilder};
use arrow::datatypes::{DataType, Field, TimestampMicrosecondType};
use datafusion::common::{Result, exec_err, plan_err};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};
use datafusion::scalar::ScalarValue;

use crate::batch::TIME_RANGE_US;

use super::window::{Edge, Kind, Span, WINDOW_UDF, Windows, call_of, called, window_start};

/// The ends of a row's windows, as a list.
const WINDOWS_UDF: &str = "tidegate_windows";

/// A time of the window that ends then.
const EDGE_UDF: &str = "tidegate_window_edge";

/// Whether a function is one of those that stand for windows, which nobody writes by hand.
pub fn is_ours(name: &str) -> bool {
    [WINDOW_UDF, WINDOWS_UDF, EDGE_UDF].contains(&name)
}

/// The functions, to be registered with a session.
pub fn udfs() -> [ScalarUDF; 2] {
    let of = |name| ScalarUDF::from(Expand { name, signature: Signature::any(6, Volatility::Immutable) });
    [of(WINDOWS_UDF), of(EDGE_UDF)]
}

/// The query that stands for a window function over `tg_table` by its column `tg_time`.
pub fn text(windows: Windows) -> String {
    let edge = |edge| call_of(EDGE_UDF, "tg_end", windows, edge);
    format!(
        "SELECT * EXCLUDE (tg_end), {} AS window_start, {} AS window_end, {} AS window_time \
         FROM (SELECT *, unnest({}) AS tg_end FROM tg_table)",
        edge(Edge::Start),
        edge(Edge::End),
        edge(Edge::Time),
        call_of(WINDOWS_UDF, "tg_time", windows, Edge::End)
    )
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Expand {
    name: &'static str,
    signature: Signature,
}

impl ScalarUDFImpl for Expand {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, args: &[DataType]) -> Result<DataType> {
        match args.first() {
            Some(time @ DataType::Timestamp(arrow::datatypes::TimeUnit::Microsecond, _)) => Ok(match self.name {
                WINDOWS_UDF => DataType::List(Arc::new(Field::new_list_field(time.clone(), true))),
                _ => time.clone(),
            }),
            other => plan_err!("a window needs a timestamp column, not {other:?}"),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let constants = args.args[1..].iter().map(|argument| match argument {
            ColumnarValue::Scalar(ScalarValue::Int64(value)) => *value,
            _ => None,
        });
        let Some((windows, edge)) = constants.collect::<Option<Vec<i64>>>().and_then(|c| called(&c)) else {
            return exec_err!("{} needs the constants of a window", self.name);
        };
        let time = args.args[0].to_array(args.number_rows)?;
        let times = time.as_primitive::<TimestampMicrosecondType>();
        let result: ArrayRef = if self.name == WINDOWS_UDF {
            let values = TimestampMicrosecondBuilder::new().with_data_type(time.data_type().clone());
            let mut ends = ListBuilder::new(values);
            for row in 0..times.len() {
                if times.is_valid(row) {
                    let time = times.value(row);
                    if !TIME_RANGE_US.contains(&time) {
                        return exec_err!("a window needs a time of the years 1 to 9999");
                    }
                    let spans = windows.of_pane(windows.pane_of(time));
                    spans.into_iter().for_each(|span| ends.values().append_value(span.end));
                }
                ends.append(times.is_valid(row));
            }
            Arc::new(ends.finish())
        } else {
            let edges: TimestampMicrosecondArray = times.unary(|end| edge.of(ending(windows, end)));
            Arc::new(edges.with_data_type(time.data_type().clone()))
        };
        Ok(ColumnarValue::Array(result))
    }
}

/// The window that ends then.
pub fn ending(windows: Windows, end: i64) -> Span {
    let start = match windows.kind {
        Kind::Tumble | Kind::Hop => end.saturating_sub(windows.size_us),
        Kind::Cumulate => window_start(end.saturating_sub(1), windows.size_us, windows.offset_us),
    };
    Span { start, end }
}
