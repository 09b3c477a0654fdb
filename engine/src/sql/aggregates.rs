//! Which aggregates a view may have, and each as one over columns of the plan below.

use arrow::datatypes::DataType;
use datafusion::common::DFSchema;
use datafusion::logical_expr::expr::{AggregateFunction, NullTreatment};
use datafusion::logical_expr::{Expr, ExprSchemable, cast, col};

use super::planned::{Emit, Shape};
use super::split::not_yet;
use super::view::ViewText;
use crate::error::{Error, Result};

/// Aggregates whose state has a bounded size and whose answer is exact, or exact up to the last bits of a float.
const EXACT: [&str; 29] = [
    "count",
    "sum",
    "min",
    "max",
    "avg",
    "bool_and",
    "bool_or",
    "bit_and",
    "bit_or",
    "bit_xor",
    "stddev",
    "stddev_pop",
    "var",
    "var_pop",
    "var_samp",
    "stddev_samp",
    "corr",
    "covar_samp",
    "covar_pop",
    "covar",
    "regr_slope",
    "regr_intercept",
    "regr_count",
    "regr_r2",
    "regr_avgx",
    "regr_avgy",
    "regr_sxx",
    "regr_syy",
    "regr_sxy",
];

/// Aggregates of a bounded size whose answer is an estimate.
const APPROXIMATE: [&str; 4] =
    ["approx_distinct", "approx_median", "approx_percentile_cont", "approx_percentile_cont_with_weight"];

/// Aggregates that keep every value of a group.
const GROWING: [&str; 4] = ["array_agg", "median", "percentile_cont", "string_agg"];

/// An aggregate whose arguments are columns of the plan below.
pub(super) enum Lowered {
    /// `narrow` is the type of its values, where it is computed in a wider one.
    Function {
        text: String,
        expr: Expr,
        grows: bool,
        narrow: Option<DataType>,
    },
    Distinct,
}

/// The type in which sums over this one cannot overflow, where its own could: a sum that wraps around is a wrong number
/// that nobody sees.
fn wide(argument: &DataType) -> Option<DataType> {
    match argument {
        DataType::Int64 | DataType::UInt64 => Some(DataType::Decimal128(20, 0)),
        DataType::Decimal128(precision, scale) if *precision > 28 => Some(DataType::Decimal256(*precision, *scale)),
        _ => None,
    }
}

/// Replaces an aggregate's arguments by columns of the plan below, which are added to `exprs`.
pub(super) fn lower(
    view: &ViewText,
    shape: Shape,
    index: usize,
    (expr, input): (&Expr, &DFSchema),
    exprs: &mut Vec<Expr>,
) -> Result<Lowered> {
    let shown = expr.schema_name().to_string();
    let expr_type = expr.get_type(input)?;
    let expr = expr.clone().unalias_nested().data;
    let view_name = &view.name;
    let Expr::AggregateFunction(AggregateFunction { func, mut params }) = expr else {
        return Err(Error::bug(format!("view {view_name}: {shown} is not an aggregate")));
    };
    let name = func.name().to_lowercase();
    let distinct = std::mem::take(&mut params.distinct)
        && !matches!(name.as_str(), "min" | "max" | "bool_and" | "bool_or" | "bit_and" | "bit_or");
    if distinct && (name != "count" || params.args.len() != 1) {
        return Err(not_yet(
            view_name,
            &format!("DISTINCT in {shown}"),
            "leave DISTINCT out, or use count(DISTINCT x)",
        ));
    }
    let known = |list: &[&str]| list.contains(&name.as_str());
    let grows = known(&GROWING);
    if !known(&EXACT) && !known(&APPROXIMATE) && !grows {
        return Err(not_yet(
            view_name,
            &format!("the aggregate {shown}"),
            "use count, sum, min, max, avg, bool_and, bool_or, bit_and, bit_or, bit_xor, stddev, var, corr, covar, regr_*, approx_*; or median, percentile_cont, string_agg, array_agg on window close",
        ));
    }
    if grows && (view.emit != Emit::Close || shape == Shape::Running) {
        return Err(Error::query(
            "TG-SQL-AGGREGATE",
            format!("view {view_name}: {shown} keeps every value, and would be written anew with each of them"),
        )
        .hint("group by a window and add EMIT ON WINDOW CLOSE; or use an approx_ aggregate"));
    }
    if known(&APPROXIMATE) && shape == Shape::Running {
        return Err(Error::query(
            "TG-SQL-AGGREGATE",
            format!("view {view_name}: {shown} keeps a sketch whose form may change, and a running aggregate is kept for ever"),
        )
        .hint("group by a window; or use count(DISTINCT x), min, max, avg"));
    }
    let within_group = name.contains("percentile_cont");
    if params.null_treatment == Some(NullTreatment::IgnoreNulls) || !(params.order_by.is_empty() || within_group) {
        return Err(not_yet(view_name, &format!("ORDER BY or IGNORE NULLS in {shown}"), "leave it out"));
    }
    let mut narrow = None;
    if name == "sum"
        && let Some(wide) = wide(&params.args[0].get_type(input)?)
    {
        narrow = Some(expr_type);
        params.args[0] = cast(params.args[0].clone(), wide);
    }
    for (position, arg) in params.args.iter_mut().enumerate() {
        if distinct || !matches!(arg, Expr::Literal(..)) {
            let column = format!("__a{index}_{position}");
            exprs.push(std::mem::replace(arg, col(&column)).alias(column));
        }
    }
    for (position, sort) in params.order_by.iter_mut().enumerate() {
        let column = format!("__o{index}_{position}");
        exprs.push(std::mem::replace(&mut sort.expr, col(&column)).alias(column));
    }
    if let Some(filter) = &mut params.filter {
        let column = format!("__f{index}");
        exprs.push(std::mem::replace(filter.as_mut(), col(&column)).alias(column));
    }
    if distinct {
        return Ok(Lowered::Distinct);
    }
    Ok(Lowered::Function {
        text: shown,
        expr: Expr::AggregateFunction(AggregateFunction { func, params }),
        grows,
        narrow,
    })
}
