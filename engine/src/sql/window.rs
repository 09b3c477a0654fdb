//! The window's scalar function: where the window of an event time starts, ends, or has its last instant.
//!
//! One function with a shift serves all three columns; it is also the mark by which the planner recognises them.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, TimeUnit, TimestampMicrosecondType};
use datafusion::common::{Result, exec_err, plan_err};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};
use datafusion::scalar::ScalarValue;

/// `tidegate_tumble(time, size_us, offset_us, shift_us)`.
pub const TUMBLE_UDF: &str = "tidegate_tumble";

/// The start of the window of `size` that holds `time`; windows start at `offset` plus multiples of `size`.
///
/// Saturates at the ends of time, which decode keeps records away from.
pub const fn window_start(time: i64, size: i64, offset: i64) -> i64 {
    time.saturating_sub(time.saturating_sub(offset).rem_euclid(size))
}

/// The function, to be registered with a session.
pub fn udf() -> ScalarUDF {
    ScalarUDF::from(Tumble { signature: Signature::any(4, Volatility::Immutable) })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Tumble {
    signature: Signature,
}

impl ScalarUDFImpl for Tumble {
    fn name(&self) -> &str {
        TUMBLE_UDF
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

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let int = |index: usize| match args.args.get(index) {
            Some(ColumnarValue::Scalar(ScalarValue::Int64(Some(value)))) => Ok(*value),
            other => exec_err!("{TUMBLE_UDF} needs constant lengths, not {other:?}"),
        };
        let (size, offset, shift) = (int(1)?, int(2)?, int(3)?);
        let time = args.args[0].to_array(args.number_rows)?;
        let times = time.as_primitive::<TimestampMicrosecondType>();
        let result: TimestampMicrosecondArray =
            times.unary(|time| window_start(time, size, offset).saturating_add(shift));
        let result: ArrayRef = Arc::new(result.with_data_type(time.data_type().clone()));
        Ok(ColumnarValue::Array(result))
    }
}

#[cfg(test)]
mod tests {
    use super::window_start;

    #[test]
    fn windows_are_closed_below_and_open_above() {
        assert_eq!([59, 60, 61, 119, 120].map(|t| window_start(t, 60, 0)), [0, 60, 60, 60, 120]);
        assert_eq!([-1, 0, -60, -61].map(|t| window_start(t, 60, 0)), [-60, 0, -60, -120]);
        assert_eq!([14, 15, 75].map(|t| window_start(t, 60, 15)), [-45, 15, 75]);
        assert_eq!([14, 15, 75].map(|t| window_start(t, 60, -45)), [-45, 15, 75]);
    }
}
