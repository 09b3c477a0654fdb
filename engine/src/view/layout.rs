//! The layout of a view's state: the columns that a group keeps, and the sets beside them.
//!
//! | aggregate | columns |
//! | --- | --- |
//! | count | records |
//! | sum, min, max, bool_*, bit_* | the value so far |
//! | avg | records, sum |
//! | var, stddev | records, mean, m2 |
//! | covar | records, means, co-moment |
//! | corr | records, sums of both, of their products, of the squares of each |
//! | regr | records, means and m2 of both, co-moment |
//! | count(DISTINCT x) | a set of its own: group, value |
//!
//! These are ours: a running aggregate is kept for ever, longer than any log and any version of DataFusion. A DataFusion
//! that keeps other columns is noticed when a view starts, and must be converted to and from them here. The layouts of
//! approximate and growing aggregates are DataFusion's: pieces that hold them name its version, windows are rebuilt from
//! the log under another one, and running aggregates may not use them.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::{DECIMAL128_MAX_PRECISION, DECIMAL256_MAX_PRECISION, DataType, Field, Schema, SchemaRef};
use datafusion::DATAFUSION_VERSION;
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;

use crate::error::{Error, Result};
use crate::sql::planned::{Aggregate, Function};

/// The layout of a view's state: its keys, then the state columns of each function in turn; and its sets.
#[derive(Debug, Clone)]
pub struct Layout {
    /// Types of the keys.
    pub keys: SchemaRef,
    /// Keys and state.
    pub schema: SchemaRef,
    /// How many state columns each function has.
    pub widths: Vec<usize>,
    /// The functions.
    pub functions: Vec<Function>,
    /// Of each set of distinct values, the type.
    pub sets: Vec<DataType>,
    /// For each aggregate of the view: a function, or a set.
    order: Vec<Slot>,
}

/// Where an aggregate's value comes from.
#[derive(Debug, Clone, Copy)]
enum Slot {
    Function(usize),
    Set(usize),
}

impl Layout {
    /// The layout for these keys and aggregates over the columns of the plan below.
    pub fn new(keys: Vec<Field>, aggregates: &[Aggregate], below: &Schema) -> Result<Self> {
        let mut fields: Vec<Field> = keys.iter().map(|key| key.clone().with_nullable(true)).collect();
        let keys = Arc::new(Schema::new(fields.clone()));
        let (mut widths, mut functions, mut sets, mut order) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut metadata = HashMap::new();
        for (index, aggregate) in aggregates.iter().enumerate() {
            match aggregate {
                Aggregate::Function(function) => {
                    let kept = kept(&function.function, below)?;
                    if !kept.ours {
                        metadata.insert("datafusion".to_string(), DATAFUSION_VERSION.to_string());
                    }
                    widths.push(kept.columns.len());
                    let columns = kept.columns.into_iter().enumerate();
                    fields.extend(columns.map(|(part, kept)| Field::new(format!("s{index}_{part}"), kept, true)));
                    order.push(Slot::Function(functions.len()));
                    functions.push(function.clone());
                }
                Aggregate::Distinct(distinct) => {
                    order.push(Slot::Set(sets.len()));
                    sets.push(below.field(distinct.value).data_type().clone());
                }
            }
        }
        if fields.is_empty() {
            // Batches without a column do not know how many rows they have.
            fields.push(Field::new("__group", DataType::Boolean, true));
        }
        let schema = Arc::new(Schema::new_with_metadata(fields, metadata));
        Ok(Self { keys, schema, widths, functions, sets, order })
    }

    /// The schema of a part of the state: 0 for the groups, n for the entries of the n-th set.
    pub fn part(&self, part: i32) -> Option<SchemaRef> {
        match usize::try_from(part).ok()? {
            0 => Some(self.schema.clone()),
            set => {
                let mut fields: Vec<_> = self.keys.fields().to_vec();
                fields.push(Arc::new(Field::new("__value", self.sets.get(set - 1)?.clone(), true)));
                Some(Arc::new(Schema::new(fields)))
            }
        }
    }

    /// Values of functions and counts of sets in the order of the view's aggregates.
    pub fn ordered(&self, values: &[ArrayRef], counts: &[ArrayRef]) -> Vec<ArrayRef> {
        let pick = |slot: &Slot| match slot {
            Slot::Function(index) => values[*index].clone(),
            Slot::Set(index) => counts[*index].clone(),
        };
        self.order.iter().map(pick).collect()
    }

    /// The types of the aggregates' values.
    pub fn value_types(&self, aggregates: &[Aggregate]) -> Vec<DataType> {
        let of = |aggregate: &Aggregate| match aggregate {
            Aggregate::Function(function) => {
                function.narrow.clone().unwrap_or_else(|| function.function.field().data_type().clone())
            }
            Aggregate::Distinct(_) => DataType::Int64,
        };
        aggregates.iter().map(of).collect()
    }

    /// The parts of the state.
    pub fn parts(&self) -> i32 {
        1 + self.sets.len() as i32
    }
}

/// What a group keeps for a function.
struct Kept {
    columns: Vec<DataType>,
    /// Whether the layout is ours.
    ours: bool,
}

fn kept(function: &AggregateFunctionExpr, below: &Schema) -> Result<Kept> {
    let theirs: Vec<DataType> = function.state_fields()?.iter().map(|field| field.data_type().clone()).collect();
    match ours(function, below)? {
        None => Ok(Kept { columns: theirs, ours: false }),
        Some(columns) if columns == theirs => Ok(Kept { columns, ours: true }),
        Some(columns) => Err(Error::bug(format!(
            "DataFusion {DATAFUSION_VERSION} keeps {theirs:?} for {}, and our layout has {columns:?}",
            function.fun().name()
        ))),
    }
}

/// The columns of our own layout; none where it is DataFusion's.
fn ours(function: &AggregateFunctionExpr, below: &Schema) -> Result<Option<Vec<DataType>>> {
    let value = function.field().data_type().clone();
    let moments = |count: usize| [vec![DataType::UInt64], vec![DataType::Float64; count]].concat();
    Ok(Some(match function.fun().name() {
        "count" => vec![DataType::Int64],
        "sum" | "min" | "max" | "bool_and" | "bool_or" | "bit_and" | "bit_or" | "bit_xor" => vec![value],
        "avg" => match function.expressions().first() {
            Some(argument) => vec![DataType::UInt64, average_sum(argument.data_type(below)?)],
            None => return Ok(None),
        },
        "var" | "var_pop" | "stddev" | "stddev_pop" => moments(2),
        "covar_samp" | "covar_pop" => moments(3),
        "corr" | "regr_slope" | "regr_intercept" | "regr_count" | "regr_r2" | "regr_avgx" | "regr_avgy"
        | "regr_sxx" | "regr_syy" | "regr_sxy" => moments(5),
        _ => return Ok(None),
    }))
}

/// The sum that an average keeps: of decimals, one with room for 10^9 records.
fn average_sum(argument: DataType) -> DataType {
    match argument {
        DataType::Decimal128(precision, scale) if precision + 13 <= DECIMAL128_MAX_PRECISION => {
            DataType::Decimal128(DECIMAL128_MAX_PRECISION, scale)
        }
        DataType::Decimal128(_, scale) => DataType::Decimal256(DECIMAL256_MAX_PRECISION, scale),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Array, Decimal128Array, Float64Array, Int64Array, RecordBatch, StringArray, UInt64Array};
    use arrow::util::display::array_value_to_string;

    use super::*;
    use crate::sql::Catalog;
    use crate::view::View;

    const SOURCE: &str = "CREATE SOURCE s (ts TIMESTAMP, k VARCHAR, i BIGINT, x DOUBLE, y DOUBLE, d DECIMAL(12,2), b BOOLEAN, WATERMARK FOR ts AS ts) WITH (connector = 'kafka', topic = 't', format = 'json', scan.startup.mode = 'earliest');";

    fn view(select: &str, rest: &str) -> View {
        let text = format!("{SOURCE} CREATE MATERIALIZED VIEW v AS SELECT k, {select} AS a FROM {rest};");
        let mut catalog = Catalog::of_texts(&[("q.sql".to_string(), text)], |_| None).unwrap();
        View::new(Arc::new(catalog.views.remove(0)), crate::time::NONE, &[]).unwrap()
    }

    fn numbers(records: u64, rest: &[f64]) -> Vec<ArrayRef> {
        let floats = rest.iter().map(|x| Arc::new(Float64Array::from(vec![*x])) as ArrayRef);
        [Arc::new(UInt64Array::from(vec![records])) as ArrayRef].into_iter().chain(floats).collect()
    }

    /// State that was written down by hand, and what it must mean: whatever DataFusion does, a kept row keeps its sense.
    #[test]
    fn kept_rows_keep_their_meaning() {
        let int = |n: i64| vec![Arc::new(Int64Array::from(vec![n])) as ArrayRef];
        let decimal = |n: i128, precision: u8, scale: i8| -> ArrayRef {
            Arc::new(Decimal128Array::from(vec![n]).with_precision_and_scale(precision, scale).unwrap())
        };
        let sum = |n: u64, sum: ArrayRef| vec![Arc::new(UInt64Array::from(vec![n])) as ArrayRef, sum];
        // Of x = 1, 2, 6: mean 3, m2 14; of y = 2, 4, 9: mean 5, m2 26; their co-moment 19.
        let sums = || numbers(3, &[9.0, 15.0, 64.0, 41.0, 101.0]);
        let regr = || numbers(3, &[5.0, 3.0, 26.0, 14.0, 19.0]);
        let rows: Vec<(&str, Vec<ArrayRef>, &str)> = vec![
            ("count(i)", int(3), "3"),
            ("sum(i)", vec![decimal(12, 30, 0)], "12"),
            ("sum(d)", vec![decimal(1234, 22, 2)], "12.34"),
            ("min(i)", int(-4), "-4"),
            ("max(i)", int(9), "9"),
            ("bit_and(i)", int(6), "6"),
            ("bit_or(i)", int(7), "7"),
            ("bit_xor(i)", int(5), "5"),
            ("bool_and(b)", vec![Arc::new(arrow::array::BooleanArray::from(vec![true]))], "true"),
            ("bool_or(b)", vec![Arc::new(arrow::array::BooleanArray::from(vec![false]))], "false"),
            ("avg(x)", sum(4, Arc::new(Float64Array::from(vec![10.0]))), "2.5"),
            ("avg(d)", sum(4, decimal(1000, 38, 2)), "2.500000"),
            ("var_pop(x)", numbers(3, &[3.0, 14.0]), "4.666666666666667"),
            ("var(x)", numbers(3, &[3.0, 14.0]), "7.0"),
            ("stddev(x)", numbers(3, &[3.0, 14.0]), "2.6457513110645907"),
            ("stddev_pop(x)", numbers(4, &[3.0, 16.0]), "2.0"),
            ("covar_pop(x, y)", numbers(2, &[3.0, 5.0, 19.0]), "9.5"),
            ("covar(x, y)", numbers(2, &[3.0, 5.0, 19.0]), "19.0"),
            ("corr(x, y)", sums(), "0.9958705948858224"),
            ("regr_count(x, y)", regr(), "3"),
            ("regr_avgx(x, y)", regr(), "5.0"),
            ("regr_avgy(x, y)", regr(), "3.0"),
            ("regr_sxx(x, y)", regr(), "26.0"),
            ("regr_syy(x, y)", regr(), "14.0"),
            ("regr_sxy(x, y)", regr(), "19.0"),
            ("regr_slope(x, y)", regr(), "0.7307692307692307"),
            ("regr_intercept(x, y)", regr(), "-0.653846153846154"),
            ("regr_r2(x, y)", regr(), "0.9917582417582418"),
        ];
        for (select, state, expected) in rows {
            let mut view = view(select, "s GROUP BY k");
            let key: ArrayRef = Arc::new(StringArray::from(vec!["a"]));
            let schema = view.state_schema(0).unwrap();
            let key = arrow::compute::cast(&key, schema.field(0).data_type()).unwrap();
            let piece = RecordBatch::try_new(schema, [vec![key], state].concat()).unwrap();
            view.load(0, 0, piece, 1).unwrap();
            let evaluated = view.evaluate_all().unwrap();
            let value = &evaluated[0].1.values[0];
            assert_eq!(value.len(), 1);
            let value = array_value_to_string(value, 0).unwrap();
            // Of a float all but the last bits.
            let near = |a: f64, b: f64| (a - b).abs() <= 1e-12 * b.abs();
            let same = value == expected
                || matches!((value.parse(), expected.parse()), (Ok(a), Ok(b)) if expected.len() > 12 && near(a, b));
            assert!(same, "{select}: {value} instead of {expected}");
        }
    }

    #[test]
    fn layouts_of_datafusion_name_its_version() {
        let close = "TUMBLE(s, ts, INTERVAL '1 minute') GROUP BY k, window_start EMIT ON WINDOW CLOSE";
        for (select, version) in
            [("median(x)", Some(DATAFUSION_VERSION)), ("avg(x)", None), ("count(DISTINCT i)", None)]
        {
            let schema = view(&format!("window_start, {select}"), close).state_schema(0).unwrap();
            assert_eq!(schema.metadata().get("datafusion").map(String::as_str), version, "{select}");
        }
    }
}
