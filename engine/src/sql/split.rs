//! A view's query, cut in three at its aggregate.
//!
//! ```text
//!   Projection, Filter (HAVING) …            above: a plan over changed groups
//!     Aggregate(groups, aggregates)          middle: our own state
//!       Projection, Filter (WHERE) …         below: a plan over each chunk of rows
//!         TableScan(source)
//! ```
//!
//! The cut is made on the analysed logical plan, where every column still has its name, and each half is optimised on
//! its own. `_partition`, `_offset` and `_wm` are carried through every projection below, `__row` through those above.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DataFusionError};
use datafusion::datasource::provider_as_source;
use datafusion::execution::context::SessionState;
use datafusion::logical_expr::expr::{AggregateFunction, NullTreatment};
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{
    Aggregate as LogicalAggregate, Expr, LogicalPlan, LogicalPlanBuilder, SubqueryAlias, col, lit,
};
use datafusion::physical_expr::aggregate::LoweredAggregateBuilder;
use datafusion::prelude::SessionContext;
use datafusion::sql::parser::Statement;
use futures::executor::block_on;
use sqlparser::ast;

use super::explain::{explain, refuse_expressions};
use super::planned::{Aggregate, Group, Inputs, PlannedSource, PlannedView, Table, TableColumn};
use super::recognise::{Window, recognise};
use super::view::ViewText;
use crate::batch::HIDDEN;
use crate::error::{Error, Result};
use crate::sink::types::sql_type;
use crate::view::plan::{Plan, leaf_table};

/// The column that numbers the rows given to the plan above.
pub const ROW: &str = "__row";

/// Aggregates whose state has a bounded size and whose answer is exact, or exact up to the last bits of a float.
const AGGREGATES: [&str; 29] = [
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

/// Plans one view.
pub fn plan(session: &SessionContext, sources: &mut [PlannedSource], view: &ViewText) -> Result<PlannedView> {
    let place = |error: Error| error.at(&view.file, view.line, view.column);
    split(session, sources, view).map_err(place)
}

fn split(session: &SessionContext, sources: &mut [PlannedSource], view: &ViewText) -> Result<PlannedView> {
    let state = session.state();
    let name = &view.name;
    let what = format!("view {name}");
    let told = |error: DataFusionError| explain(error, &view.file, view.line, view.column, &what);
    if view.query.with.as_ref().is_some_and(|with| with.recursive) {
        return Err(not_yet(name, "WITH RECURSIVE", "write it without"));
    }
    let statement = Statement::Statement(Box::new(ast::Statement::Query(view.query.clone())));
    let raw = block_on(state.statement_to_plan(statement)).map_err(told)?;
    let analyzed = state.analyzer().execute_and_check(raw, state.config_options(), |_, _| {}).map_err(told)?;
    refuse_expressions(&analyzed).map_err(told)?;
    let aggregate = lowest_aggregate(name, &analyzed)?;
    let (scan, leaf) = scanned(name, &aggregate.input)?;
    let source = sources
        .iter_mut()
        .find(|source| source.source.name == scan)
        .ok_or_else(|| Error::query("TG-SQL-VIEW", format!("view {name} reads {scan}, which is not a source")))?;

    // The groups: one window, and keys.
    let mut windows: Vec<(usize, Window)> = Vec::new();
    let (mut groups, mut keys) = (Vec::new(), Vec::new());
    for (index, expr) in aggregate.group_expr.iter().enumerate() {
        let base = resolve(&aggregate.input, expr.clone())?;
        let field = aggregate.schema.field(index);
        if let Some(window) = recognise(&base, &source.source.time_column).map_err(|e| prefixed(name, e))? {
            groups.push(Group::Window { shift_us: window.shift_us, data_type: field.data_type().clone() });
            windows.push((index, window));
            continue;
        }
        if base.column_refs().iter().any(|column| column.name == source.source.time_column) {
            return Err(Error::query("TG-SQL-WINDOW", format!("view {name} groups by {expr}, which is not a window"))
                .hint("use TUMBLE, date_bin or date_trunc over the watermark's column"));
        }
        check_key_type(name, field)?;
        if let Expr::Column(column) = &base {
            let position = source.schema.index_of(&column.name)?;
            if *source.schema.field(position).data_type() == DataType::Utf8View
                && !source.key_columns.contains(&position)
            {
                source.key_columns.push(position);
            }
        }
        groups.push(Group::Key(keys.len()));
        keys.push(expr.clone());
    }
    let Some((window_index, window)) = windows.first().cloned() else {
        return Err(not_yet(name, "an aggregate without a window", "group by window_start of TUMBLE(…)"));
    };
    if windows.iter().any(|(_, other)| (other.size_us, other.offset_us) != (window.size_us, window.offset_us)) {
        return Err(Error::query("TG-SQL-WINDOW", format!("view {name} groups by two different windows"))
            .hint("group by one window"));
    }

    // Below: window start, keys, arguments, filters, hidden columns.
    let micros = DataType::Timestamp(TimeUnit::Microsecond, None);
    let window_expr = cast(cast(aggregate.group_expr[window_index].clone(), micros), DataType::Int64);
    let mut exprs = vec![(window_expr - lit(window.shift_us)).alias("__window")];
    exprs.extend(keys.iter().enumerate().map(|(i, key)| key.clone().alias(format!("__k{i}"))));
    let mut lowered = Vec::new();
    for (index, expr) in aggregate.aggr_expr.iter().enumerate() {
        lowered.push(lower(name, index, expr, &mut exprs)?);
    }
    let input = carry(name, &aggregate.input, &HIDDEN, &leaf)?;
    for hidden in HIDDEN {
        let (qualifier, field) = input.schema().qualified_field_with_unqualified_name(hidden)?;
        exprs.push(Expr::Column(Column::from((qualifier, field))).alias(hidden));
    }
    let below_logical = LogicalPlanBuilder::from(input).project(exprs)?.build().map_err(told)?;
    let below = physical(&state, &below_logical, leaf.slot.clone()).map_err(told)?;
    let below_schema = below.schema();
    let mut aggregates = Vec::new();
    for (index, expr) in lowered.iter().enumerate() {
        let context = PhysicalPlanningContext::default();
        let lowered = LoweredAggregateBuilder::new(
            expr,
            below_logical.schema(),
            &below_schema,
            state.execution_props(),
            &context,
        )
        .with_name(format!("__agg{index}"))
        .build()
        .map_err(told)?;
        aggregates.push(Aggregate { function: lowered.aggregate, filter: lowered.filter });
    }
    let at = |column: &str| below_schema.index_of(column);
    let inputs = Inputs {
        window: at("__window")?,
        keys: (0..keys.len()).map(|i| at(&format!("__k{i}"))).collect::<Result<_, _>>()?,
        partition: at(HIDDEN[0])?,
        offset: at(HIDDEN[1])?,
        watermark: at(HIDDEN[2])?,
    };

    // Above.
    let group_leaf = Leaf::of(groups_schema(&aggregate));
    let above_logical = carry(name, &analyzed, &[ROW], &group_leaf)?;
    let above = physical(&state, &above_logical, group_leaf.slot.clone()).map_err(told)?;
    let table = table(name, &analyzed, &aggregate, &groups)?;
    let fingerprint =
        blake3::hash(format!("view 1\n{}\n{}", source.source.normal, view.normal).as_bytes()).to_hex().to_string();
    Ok(PlannedView {
        name: name.clone(),
        source: scan,
        size_us: window.size_us,
        below,
        inputs,
        groups,
        aggregates,
        above,
        filters_groups: has_filter(&analyzed),
        table,
        fingerprint,
    })
}

fn cast(expr: Expr, data_type: DataType) -> Expr {
    Expr::Cast(datafusion::logical_expr::Cast::new(Box::new(expr), data_type))
}

fn physical(
    state: &SessionState,
    logical: &LogicalPlan,
    slot: crate::view::plan::Slot,
) -> datafusion::error::Result<Plan> {
    Ok(Plan::new(block_on(state.create_physical_plan(logical))?, slot, state.task_ctx()))
}

fn not_yet(view: &str, what: &str, way_out: &str) -> Error {
    Error::query("TG-SQL-NOT-YET", format!("view {view}: {what} is not supported yet")).hint(way_out)
}

fn prefixed(view: &str, (message, way_out): (String, &str)) -> Error {
    Error::query("TG-SQL-WINDOW", format!("view {view}: {message}")).hint(way_out)
}

/// A replacement for a node: a table that the pipeline fills before each run.
struct Leaf {
    slot: crate::view::plan::Slot,
    plan: LogicalPlan,
}

impl Leaf {
    fn of(
        (schema, plan): (Arc<Schema>, impl FnOnce(LogicalPlanBuilder) -> datafusion::error::Result<LogicalPlan>),
    ) -> Self {
        Self::named("__groups", &schema, plan)
            .unwrap_or_else(|error| unreachable!("a scan of a known schema plans: {error}"))
    }

    fn named(
        table: &str,
        schema: &Arc<Schema>,
        plan: impl FnOnce(LogicalPlanBuilder) -> datafusion::error::Result<LogicalPlan>,
    ) -> datafusion::error::Result<Self> {
        let (provider, slot) = leaf_table(schema);
        let scan = LogicalPlanBuilder::scan(table, provider_as_source(provider), None)?;
        Ok(Self { slot, plan: plan(scan)? })
    }
}

/// The leaf that stands for the aggregate: its columns under their own names, and the row number.
fn groups_schema(
    aggregate: &LogicalAggregate,
) -> (Arc<Schema>, impl FnOnce(LogicalPlanBuilder) -> datafusion::error::Result<LogicalPlan>) {
    let mut fields = Vec::new();
    let mut exprs = Vec::new();
    for (index, (qualifier, field)) in aggregate.schema.iter().enumerate() {
        let name = format!("c{index}");
        exprs.push(col(format!("__groups.{name}")).alias_qualified(qualifier.cloned(), field.name()));
        fields.push(Field::new(name, field.data_type().clone(), field.is_nullable()));
    }
    fields.push(Field::new(ROW, DataType::UInt32, false));
    exprs.push(col(format!("__groups.{ROW}")).alias(ROW));
    (Arc::new(Schema::new(fields)), move |scan: LogicalPlanBuilder| scan.project(exprs)?.build())
}

/// The name of the scanned source, and a leaf in its place.
fn scanned(view: &str, plan: &LogicalPlan) -> Result<(String, Leaf)> {
    match plan {
        LogicalPlan::TableScan(scan) => {
            let name = scan.table_name.to_string();
            let schema = scan.source.schema();
            Ok((scan.table_name.table().to_string(), Leaf::named(&name, &schema, LogicalPlanBuilder::build)?))
        }
        other => match other.inputs().as_slice() {
            [input] => scanned(view, input),
            [] => Err(Error::query("TG-SQL-VIEW", format!("view {view} reads no source"))),
            _ => Err(refused(view, other)),
        },
    }
}

/// Rebuilds a plan over another leaf, with `names` carried to its top.
fn carry(view: &str, plan: &LogicalPlan, names: &[&str], leaf: &Leaf) -> Result<LogicalPlan> {
    match plan {
        LogicalPlan::TableScan(_) | LogicalPlan::Aggregate(_) => Ok(leaf.plan.clone()),
        LogicalPlan::Filter(filter) => {
            let input = carry(view, &filter.input, names, leaf)?;
            Ok(LogicalPlanBuilder::from(input).filter(filter.predicate.clone())?.build()?)
        }
        LogicalPlan::SubqueryAlias(alias) => {
            let input = carry(view, &alias.input, names, leaf)?;
            Ok(LogicalPlan::SubqueryAlias(SubqueryAlias::try_new(Arc::new(input), alias.alias.clone())?))
        }
        LogicalPlan::Projection(projection) => {
            let input = carry(view, &projection.input, names, leaf)?;
            let mut exprs = projection.expr.clone();
            for name in names {
                if projection.schema.fields().iter().all(|field| field.name() != name) {
                    let (qualifier, field) = input.schema().qualified_field_with_unqualified_name(name)?;
                    exprs.push(Expr::Column(Column::from((qualifier, field))));
                }
            }
            Ok(LogicalPlanBuilder::from(input).project(exprs)?.build()?)
        }
        other => Err(refused(view, other)),
    }
}

/// Names what a view may not hold.
fn refused(view: &str, plan: &LogicalPlan) -> Error {
    let (what, way_out) = match plan {
        LogicalPlan::Sort(_) => ("ORDER BY", "a table has no order; sort where you read it"),
        LogicalPlan::Limit(_) => ("LIMIT", "limit where you read the table"),
        LogicalPlan::Window(_) => ("OVER", "use a window function where you read the table"),
        LogicalPlan::Distinct(_) => ("SELECT DISTINCT", "write GROUP BY"),
        LogicalPlan::Join(_) => ("a join", "write one view for each source and join the tables where you read them"),
        LogicalPlan::Union(_) => ("UNION", "write one view for each part"),
        LogicalPlan::Aggregate(_) => {
            ("a second aggregate", "write one view, and aggregate its table where you read it")
        }
        LogicalPlan::Unnest(_) => ("UNNEST", "leave it out"),
        LogicalPlan::Subquery(_) => ("a subquery in an expression", "leave it out"),
        _ => ("this kind of query", "write SELECT … FROM TUMBLE(…) WHERE … GROUP BY … HAVING …"),
    };
    not_yet(view, what, way_out)
}

/// The one aggregate, below projections and filters only.
fn lowest_aggregate(view: &str, plan: &LogicalPlan) -> Result<LogicalAggregate> {
    match plan {
        LogicalPlan::Projection(p) => lowest_aggregate(view, &p.input),
        LogicalPlan::Filter(f) => lowest_aggregate(view, &f.input),
        LogicalPlan::SubqueryAlias(s) => lowest_aggregate(view, &s.input),
        LogicalPlan::Aggregate(aggregate) => {
            if aggregate.group_expr.iter().any(|expr| matches!(expr, Expr::GroupingSet(_))) {
                return Err(not_yet(view, "GROUPING SETS", "write one view for each set"));
            }
            let mut inner = aggregate.input.as_ref();
            while let LogicalPlan::Projection(_) | LogicalPlan::Filter(_) | LogicalPlan::SubqueryAlias(_) = inner {
                inner = inner.inputs()[0];
            }
            if !matches!(inner, LogicalPlan::TableScan(_)) {
                return Err(refused(view, inner));
            }
            Ok(aggregate.clone())
        }
        LogicalPlan::TableScan(_) => Err(not_yet(view, "a query without an aggregate", "group by a window")),
        other => Err(refused(view, other)),
    }
}

fn has_filter(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Filter(_) => true,
        LogicalPlan::Aggregate(_) => false,
        other => other.inputs().iter().any(|input| has_filter(input)),
    }
}

/// The expression over the columns of the lowest node that is no projection, filter or alias.
fn resolve(plan: &LogicalPlan, expr: Expr) -> Result<Expr> {
    let substituted = |with: &dyn Fn(usize) -> Expr| {
        // From the leaves up: what takes a column's place has columns of the input, which must stay.
        expr.clone().transform_up(|e| match &e {
            Expr::Column(column) => Ok(Transformed::yes(with(plan.schema().index_of_column(column)?))),
            _ => Ok(Transformed::no(e)),
        })
    };
    match plan {
        LogicalPlan::Projection(p) => {
            let inner = substituted(&|index| p.expr[index].clone().unalias_nested().data)?;
            resolve(&p.input, inner.data)
        }
        LogicalPlan::SubqueryAlias(s) => {
            let inner = substituted(&|index| Expr::Column(Column::from(s.input.schema().qualified_field(index))))?;
            resolve(&s.input, inner.data)
        }
        LogicalPlan::Filter(f) => resolve(&f.input, expr),
        _ => Ok(expr.unalias()),
    }
}

/// Replaces an aggregate's arguments by columns of the plan below, which are added to `exprs`.
fn lower(view: &str, index: usize, expr: &Expr, exprs: &mut Vec<Expr>) -> Result<Expr> {
    let shown = expr.schema_name().to_string();
    let expr = expr.clone().unalias_nested().data;
    let Expr::AggregateFunction(AggregateFunction { func, mut params }) = expr else {
        return Err(Error::bug(format!("view {view}: {shown} is not an aggregate")));
    };
    let name = func.name().to_lowercase();
    if params.distinct && !matches!(name.as_str(), "min" | "max") {
        return Err(not_yet(view, &format!("DISTINCT in {shown}"), "leave DISTINCT out"));
    }
    params.distinct = false;
    if !AGGREGATES.contains(&name.as_str()) {
        return Err(not_yet(
            view,
            &format!("the aggregate {shown}"),
            "use count, sum, min, max, avg, bool_and, bool_or, bit_and, bit_or, bit_xor, stddev, var, corr, covar or regr_*",
        ));
    }
    if !params.order_by.is_empty() || params.null_treatment == Some(NullTreatment::IgnoreNulls) {
        return Err(not_yet(view, &format!("ORDER BY or IGNORE NULLS in {shown}"), "leave it out"));
    }
    for (position, arg) in params.args.iter_mut().enumerate() {
        if !matches!(arg, Expr::Literal(..)) {
            let column = format!("__a{index}_{position}");
            exprs.push(std::mem::replace(arg, col(&column)).alias(column));
        }
    }
    if let Some(filter) = &mut params.filter {
        let column = format!("__f{index}");
        exprs.push(std::mem::replace(filter.as_mut(), col(&column)).alias(column));
    }
    Ok(Expr::AggregateFunction(AggregateFunction { func, params }))
}

fn check_key_type(view: &str, field: &Field) -> Result<()> {
    let refused = match field.data_type() {
        DataType::Float16 | DataType::Float32 | DataType::Float64 => "equal floats are not a reliable key",
        DataType::Timestamp(TimeUnit::Nanosecond, _) => "Postgres keeps microseconds",
        DataType::Null => "it has no type",
        other if sql_type(other).is_none() => "it cannot be stored",
        _ => return Ok(()),
    };
    Err(Error::query(
        "TG-SQL-KEY",
        format!("view {view}: {} of type {} cannot be a key: {refused}", field.name(), field.data_type()),
    )
    .hint("group by a text, integer, decimal, boolean, date or timestamp expression"))
}

/// The table of the query's own schema; its key is its projected group columns.
fn table(view: &str, root: &LogicalPlan, aggregate: &LogicalAggregate, groups: &[Group]) -> Result<Table> {
    let mut columns: Vec<TableColumn> = Vec::new();
    let mut keyed = HashSet::new();
    for (index, (qualifier, field)) in root.schema().iter().enumerate() {
        let name = field.name().clone();
        if name.contains('(') || name.len() > 63 {
            return Err(Error::query("TG-SQL-VIEW", format!("view {view}: column {} needs a name", index + 1))
                .hint(format!("write {name} AS some_name")));
        }
        if columns.iter().any(|column| column.name == name) {
            return Err(
                Error::query("TG-SQL-VIEW", format!("view {view} has two columns {name}")).hint("rename one with AS")
            );
        }
        let base = resolve(root, Expr::Column(Column::from((qualifier, field))))?;
        let group = match &base {
            Expr::Column(column) => aggregate.schema.index_of_column(column).ok().filter(|index| *index < groups.len()),
            _ => None,
        };
        // window_end beside window_start adds nothing to the key.
        let is_window = |group: usize| matches!(groups[group], Group::Window { .. });
        let key_of = group.filter(|group| {
            !(keyed.contains(group) || is_window(*group) && keyed.iter().any(|other| is_window(*other)))
        });
        keyed.extend(key_of);
        if sql_type(field.data_type()).is_none() {
            return Err(Error::query(
                "TG-SQL-TYPE",
                format!("view {view}: column {name} of type {} cannot be stored", field.data_type()),
            )
            .hint("cast it to text, a number, a boolean, a date or a timestamp"));
        }
        let nullable = field.is_nullable() && !group.is_some_and(is_window);
        columns.push(TableColumn { name, data_type: field.data_type().clone(), key_of, nullable });
    }
    let has_window = keyed.iter().any(|group| matches!(groups[*group], Group::Window { .. }));
    for (index, group) in groups.iter().enumerate() {
        let projected = keyed.contains(&index) || (has_window && matches!(group, Group::Window { .. }));
        if !projected {
            let missing = aggregate.group_expr[index].schema_name().to_string();
            return Err(Error::query("TG-SQL-KEY", format!("view {view} groups by {missing} but does not select it"))
                .hint("select it as it is: the table's key is its group columns"));
        }
    }
    Ok(Table { name: view.to_string(), columns })
}
