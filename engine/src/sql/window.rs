//! Windows: which panes they are made of, and the scalar function by which queries name them.
//!
//! ```text
//!  TUMBLE   |─────|─────|        a pane is a window
//!  HOP      |──|──|──|──|        panes of gcd(slide, size); a window is size / gcd of them, every slide
//!  CUMULATE |─|─|─|─|            panes of the step; windows begin with the first and end with each
//! ```
//!
//! A row is aggregated once, into its pane, whatever the number of windows that hold it.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, TimeUnit, TimestampMicrosecondType};
use datafusion::common::{Result, exec_err, plan_err};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};
use datafusion::scalar::ScalarValue;

/// `tidegate_window(time, kind, size_us, step_us, offset_us, edge)`.
pub const WINDOW_UDF: &str = "tidegate_window";

/// The longest window: a hundred years, so that no sum with a time of the years 1 to 9999 overflows.
pub const SIZE_MAX_US: i64 = 36_525 * 86_400_000_000;

/// The panes of a window are merged each time it is published: a day by the minute is the most.
pub const PANES_MAX: i64 = 1440;

/// How windows lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Side by side.
    Tumble,
    /// One begins every `step_us`.
    Hop,
    /// They begin every `size_us` and grow by `step_us`.
    Cumulate,
}

/// All windows of a view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Windows {
    /// How they lie.
    pub kind: Kind,
    /// The length of the longest.
    pub size_us: i64,
    /// The slide of HOP, the step of CUMULATE, the size of TUMBLE.
    pub step_us: i64,
    /// Where they begin, beside the multiples of what they begin every.
    pub offset_us: i64,
}

/// `[start, end)`, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    /// First, so that windows sort by when they close.
    pub end: i64,
    /// The start.
    pub start: i64,
}

/// Which time of a window a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edge {
    /// `window_start`.
    Start,
    /// `window_end`.
    End,
    /// `window_time`: its last microsecond.
    Time,
}

impl Edge {
    /// This time of a window.
    pub fn of(self, window: Span) -> i64 {
        match self {
            Self::Start => window.start,
            Self::End => window.end,
            Self::Time => window.end - 1,
        }
    }
}

/// The start of the window of `size` that holds `time`; windows start at `offset` plus multiples of `size`.
///
/// Saturates at the ends of time, which decode keeps records away from.
pub const fn window_start(time: i64, size: i64, offset: i64) -> i64 {
    time.saturating_sub(time.saturating_sub(offset).rem_euclid(size))
}

const fn gcd(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

impl Windows {
    /// Side by side.
    pub const fn tumble(size_us: i64, offset_us: i64) -> Self {
        Self { kind: Kind::Tumble, size_us, step_us: size_us, offset_us }
    }

    /// The length of a pane.
    pub const fn pane_us(&self) -> i64 {
        match self.kind {
            Kind::Tumble => self.size_us,
            Kind::Hop => gcd(self.size_us, self.step_us),
            Kind::Cumulate => self.step_us,
        }
    }

    /// The start of the pane that holds a time.
    pub const fn pane_of(&self, time: i64) -> i64 {
        window_start(time, self.pane_us(), self.offset_us)
    }

    /// The windows that hold a pane, by their end.
    pub fn of_pane(&self, pane: i64) -> Vec<Span> {
        match self.kind {
            Kind::Tumble => vec![Span { start: pane, end: pane + self.size_us }],
            Kind::Hop => {
                let last = window_start(pane, self.step_us, self.offset_us);
                let starts = (0..).map(|n| last - n * self.step_us).take_while(|start| start + self.size_us > pane);
                let mut windows: Vec<Span> = starts.map(|start| Span { start, end: start + self.size_us }).collect();
                windows.reverse();
                windows
            }
            Kind::Cumulate => {
                let start = window_start(pane, self.size_us, self.offset_us);
                let ends = (1..).map(|n| pane + n * self.step_us).take_while(|end| *end <= start + self.size_us);
                ends.map(|end| Span { start, end }).collect()
            }
        }
    }

    /// The starts of the panes of a window.
    pub fn panes(&self, window: Span) -> impl Iterator<Item = i64> {
        (window.start..window.end).step_by(usize::try_from(self.pane_us()).unwrap_or(usize::MAX))
    }

    /// When the last window that holds a pane ends: then the pane may go.
    pub fn pane_ends(&self, pane: i64) -> i64 {
        match self.kind {
            Kind::Tumble => pane + self.size_us,
            Kind::Hop => {
                let last = window_start(pane, self.step_us, self.offset_us) + self.size_us;
                last.max(pane + self.pane_us())
            }
            Kind::Cumulate => window_start(pane, self.size_us, self.offset_us) + self.size_us,
        }
    }
}

/// The function, to be registered with a session.
pub fn udf() -> ScalarUDF {
    ScalarUDF::from(WindowFunction { signature: Signature::any(6, Volatility::Immutable) })
}

/// The numbers by which the function's constant arguments name kind and edge.
const KINDS: [Kind; 3] = [Kind::Tumble, Kind::Hop, Kind::Cumulate];
const EDGES: [Edge; 3] = [Edge::Start, Edge::End, Edge::Time];

/// The call that stands for an edge of a window, as text over the column `time`.
pub fn call(time: &str, windows: Windows, edge: Edge) -> String {
    call_of(WINDOW_UDF, time, windows, edge)
}

/// The same of another function with these arguments.
pub fn call_of(function: &str, time: &str, windows: Windows, edge: Edge) -> String {
    let place = |found: Option<usize>| found.unwrap_or_default();
    let kind = place(KINDS.iter().position(|kind| *kind == windows.kind));
    let edge = place(EDGES.iter().position(|other| *other == edge));
    let Windows { size_us, step_us, offset_us, .. } = windows;
    format!("{function}({time}, {kind}, {size_us}, {step_us}, {offset_us}, {edge})")
}

/// What a call's constant arguments, those behind the time, say.
pub fn called(constants: &[i64]) -> Option<(Windows, Edge)> {
    let [kind, size_us, step_us, offset_us, edge] = *constants else { return None };
    let kind = *KINDS.get(usize::try_from(kind).ok()?)?;
    let edge = *EDGES.get(usize::try_from(edge).ok()?)?;
    let length = 1..=SIZE_MAX_US;
    // No call means more than a window function could ask for, wherever it comes from.
    let sound = length.contains(&size_us) && length.contains(&step_us) && offset_us.saturating_abs() <= SIZE_MAX_US;
    let windows = Windows { kind, size_us, step_us, offset_us };
    (sound && size_us / windows.pane_us() <= PANES_MAX).then_some((windows, edge))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct WindowFunction {
    signature: Signature,
}

impl ScalarUDFImpl for WindowFunction {
    fn name(&self) -> &str {
        WINDOW_UDF
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, args: &[DataType]) -> Result<DataType> {
        match args.first() {
            Some(time @ DataType::Timestamp(TimeUnit::Microsecond, _)) => Ok(time.clone()),
            other => plan_err!("a window needs a timestamp column, not {other:?}"),
        }
    }

    /// The edge of a row's window; where a row has several windows, the start of its pane, which only groups.
    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let mut constants = Vec::new();
        for argument in &args.args[1..] {
            match argument {
                ColumnarValue::Scalar(ScalarValue::Int64(Some(value))) => constants.push(*value),
                other => return exec_err!("{WINDOW_UDF} needs constants, not {other:?}"),
            }
        }
        let Some((windows, edge)) = called(&constants) else { return exec_err!("{WINDOW_UDF}({constants:?})") };
        let shift = match windows.kind {
            Kind::Tumble => edge.of(Span { start: 0, end: windows.size_us }),
            Kind::Hop | Kind::Cumulate => 0,
        };
        let time = args.args[0].to_array(args.number_rows)?;
        let times = time.as_primitive::<TimestampMicrosecondType>();
        let result: TimestampMicrosecondArray = times.unary(|time| windows.pane_of(time).saturating_add(shift));
        let result: ArrayRef = Arc::new(result.with_data_type(time.data_type().clone()));
        Ok(ColumnarValue::Array(result))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_closed_below_and_open_above() {
        assert_eq!([59, 60, 61, 119, 120].map(|t| window_start(t, 60, 0)), [0, 60, 60, 60, 120]);
        assert_eq!([-1, 0, -60, -61].map(|t| window_start(t, 60, 0)), [-60, 0, -60, -120]);
        assert_eq!([14, 15, 75].map(|t| window_start(t, 60, 15)), [-45, 15, 75]);
        assert_eq!([14, 15, 75].map(|t| window_start(t, 60, -45)), [-45, 15, 75]);
    }

    /// Every window that holds a time, by asking each of them.
    fn holding(windows: Windows, time: i64) -> Vec<(i64, i64)> {
        let every = if windows.kind == Kind::Cumulate { windows.size_us } else { windows.step_us };
        let mut found = Vec::new();
        for n in -50..50 {
            let start = windows.offset_us + n * every;
            let ends: Vec<i64> = match windows.kind {
                Kind::Cumulate => {
                    (1..=windows.size_us / windows.step_us).map(|k| start + k * windows.step_us).collect()
                }
                _ => vec![start + windows.size_us],
            };
            found.extend(ends.into_iter().filter(|end| start <= time && time < *end).map(|end| (end, start)));
        }
        found.sort_unstable();
        found.into_iter().map(|(end, start)| (start, end)).collect()
    }

    #[test]
    fn a_pane_lies_in_exactly_the_windows_that_hold_its_times() {
        for (kind, size_us, step_us) in [
            (Kind::Tumble, 6, 6),
            (Kind::Hop, 6, 2),
            (Kind::Hop, 6, 4),
            (Kind::Hop, 5, 5),
            (Kind::Hop, 4, 6),
            (Kind::Cumulate, 12, 3),
        ] {
            for offset_us in [0, 1, -5] {
                let windows = Windows { kind, size_us, step_us, offset_us };
                for time in -30..30 {
                    let pane = windows.pane_of(time);
                    let found = windows.of_pane(pane);
                    let told: Vec<(i64, i64)> = found.iter().map(|w| (w.start, w.end)).collect();
                    assert_eq!(told, holding(windows, time), "{windows:?} at {time}");
                    assert!(found.iter().all(|window| windows.panes(*window).any(|other| other == pane)));
                    let ends = found.last().map_or(pane + windows.pane_us(), |window| window.end);
                    assert_eq!(windows.pane_ends(pane), ends, "{windows:?} at {time}");
                }
            }
        }
    }
}
