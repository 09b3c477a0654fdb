//! A view's query, cut in three at its aggregate; one without an aggregate is all below.
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
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
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
use super::planned::{
    Aggregate, CONSTANT_KEY, Distinct, Emit, Function, Group, Inputs, PlannedSource, PlannedView, Retention, Shape,
    Table, TableColumn,
};
use super::recognise::{holds_panes, recognise};
use super::view::ViewText;
use super::window::{Edge, Kind, Windows};
use crate::batch::HIDDEN;
use crate::error::{Error, Result};
use crate::sink::types::sql_type;
use crate::view::plan::{Plan, leaf_table};

/// The column that numbers the rows given to the plan above.
pub const ROW: &str = "__row";

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
    let Some(aggregate) = lowest_aggregate(name, &analyzed)? else {
        return stateless(&state, sources, view, &analyzed);
    };
    let (scan, leaf) = scanned(name, &aggregate.input)?;
    let source = source_of(sources, name, &scan)?;
    refuse_panes(name, &aggregate)?;

    // The groups: one window or none, and keys.
    let mut windows: Vec<(usize, Windows, Edge)> = Vec::new();
    let (mut groups, mut keys) = (Vec::new(), Vec::new());
    for (index, expr) in aggregate.group_expr.iter().enumerate() {
        let base = resolve(&aggregate.input, expr.clone())?;
        let field = aggregate.schema.field(index);
        if let Some((window, edge)) = recognise(&base, &source.source.time_column).map_err(|e| prefixed(name, e))? {
            groups.push(Group::Window { edge, data_type: field.data_type().clone() });
            windows.push((index, window, edge));
            continue;
        }
        if base.column_refs().iter().any(|column| column.name == source.source.time_column) {
            return Err(Error::query("TG-SQL-WINDOW", format!("view {name} groups by {expr}, which is not a window"))
                .hint("use TUMBLE, HOP, CUMULATE, date_bin or date_trunc over the watermark's column"));
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
    if windows.iter().any(|(_, other, _)| *other != windows[0].1) {
        return Err(Error::query("TG-SQL-WINDOW", format!("view {name} groups by two different windows"))
            .hint("group by one window"));
    }
    let shape = windows.first().map_or(Shape::Running, |(_, windows, _)| Shape::Windowed(*windows));
    if shape == Shape::Running && view.emit == Emit::Close {
        return Err(Error::query("TG-SQL-EMIT", format!("view {name} has no window that could close"))
            .hint("leave EMIT out, or group by a window"));
    }
    if matches!(shape, Shape::Windowed(w) if w.kind == Kind::Cumulate)
        && windows.iter().all(|(_, _, edge)| *edge == Edge::Start)
    {
        return Err(Error::query(
            "TG-SQL-WINDOW",
            format!("view {name} groups by window_start of CUMULATE, where several windows begin"),
        )
        .hint("group by window_start, window_end"));
    }

    // Below: window start, keys, arguments, filters, hidden columns.
    let micros = DataType::Timestamp(TimeUnit::Microsecond, None);
    let pane = match windows.first() {
        None => lit(0i64),
        Some((index, windows, edge)) => {
            let time = cast(cast(aggregate.group_expr[*index].clone(), micros), DataType::Int64);
            // Where a row has several windows, every edge is the start of its pane.
            let shift = match windows.kind {
                Kind::Tumble => edge.of(super::window::Span { start: 0, end: windows.size_us }),
                Kind::Hop | Kind::Cumulate => 0,
            };
            time - lit(shift)
        }
    };
    let mut exprs = vec![pane.alias("__window")];
    exprs.extend(keys.iter().enumerate().map(|(i, key)| key.clone().alias(format!("__k{i}"))));
    let mut lowered = Vec::new();
    for (index, expr) in aggregate.aggr_expr.iter().enumerate() {
        lowered.push(lower(view, shape, index, expr, &mut exprs)?);
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
    for (index, lowered) in lowered.iter().enumerate() {
        let Lowered::Function { text, expr, grows } = lowered else {
            let filter = below_schema.index_of(&format!("__f{index}")).ok();
            let value = below_schema.index_of(&format!("__a{index}_0"))?;
            aggregates.push(Aggregate::Distinct(Distinct { value, filter }));
            continue;
        };
        let context = PhysicalPlanningContext::default();
        let made = LoweredAggregateBuilder::new(
            expr,
            below_logical.schema(),
            &below_schema,
            state.execution_props(),
            &context,
        )
        .with_name(format!("__agg{index}"))
        .build()
        .map_err(told)?;
        aggregates.push(Aggregate::Function(Function {
            text: text.clone(),
            function: made.aggregate,
            filter: made.filter,
            grows: *grows,
        }));
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
    let ends_matter = matches!(shape, Shape::Windowed(w) if w.kind == Kind::Cumulate);
    let mut table = table(name, &analyzed, &aggregate, &groups, ends_matter)?;
    if groups.is_empty() {
        let name = column_name(name, 0, "_key", &table.columns)?;
        let key = TableColumn { name, data_type: DataType::Int16, key_of: Some(CONSTANT_KEY), nullable: false };
        table.columns.insert(0, key);
    }
    let retention = retention(view, shape, &groups, &table)?;
    let fingerprint = fingerprint(source, view);
    Ok(PlannedView {
        name: name.clone(),
        source: scan,
        shape,
        emit: view.emit,
        retention,
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

fn fingerprint(source: &PlannedSource, view: &ViewText) -> String {
    blake3::hash(format!("view 1\n{}\n{}", source.source.normal, view.normal).as_bytes()).to_hex().to_string()
}

fn source_of<'a>(sources: &'a mut [PlannedSource], view: &str, scan: &str) -> Result<&'a mut PlannedSource> {
    sources
        .iter_mut()
        .find(|source| source.source.name == scan)
        .ok_or_else(|| Error::query("TG-SQL-VIEW", format!("view {view} reads {scan}, which is not a source")))
}

/// A view without an aggregate: each row of the plan is a row of the table, whose key is the record's place.
fn stateless(
    state: &SessionState,
    sources: &mut [PlannedSource],
    view: &ViewText,
    analyzed: &LogicalPlan,
) -> Result<PlannedView> {
    let name = &view.name;
    let told = |error: DataFusionError| explain(error, &view.file, view.line, view.column, &format!("view {name}"));
    if view.emit == Emit::Close || view.retention_us.is_some() {
        let what = if view.emit == Emit::Close { "EMIT ON WINDOW CLOSE" } else { "retention" };
        return Err(Error::query("TG-SQL-EMIT", format!("view {name} has no windows, and so no {what}"))
            .hint("leave it out, or group by a window"));
    }
    let (scan, leaf) = scanned(name, analyzed)?;
    let source = source_of(sources, name, &scan)?;
    let mut panes = false;
    analyzed.apply(|node| {
        panes |= node.expressions().iter().any(holds_panes);
        Ok(TreeNodeRecursion::Continue)
    })?;
    if panes {
        return Err(Error::query("TG-SQL-WINDOW", format!("view {name} has HOP or CUMULATE without an aggregate"))
            .hint("group by window_start, window_end; or use TUMBLE"));
    }
    let carried = carry(name, analyzed, &HIDDEN, &leaf)?;
    let mut columns = vec![
        TableColumn { name: HIDDEN[0].to_string(), data_type: DataType::Int32, key_of: Some(0), nullable: false },
        TableColumn { name: HIDDEN[1].to_string(), data_type: DataType::Int64, key_of: Some(1), nullable: false },
    ];
    let mut exprs = vec![hidden(&carried, HIDDEN[0])?, hidden(&carried, HIDDEN[1])?];
    for (index, (qualifier, field)) in analyzed.schema().iter().enumerate() {
        if HIDDEN.contains(&field.name().as_str()) {
            continue;
        }
        let column = TableColumn {
            name: column_name(name, index, field.name(), &columns)?,
            data_type: field.data_type().clone(),
            key_of: None,
            nullable: true,
        };
        check_storable(name, &column)?;
        columns.push(column);
        exprs.push(Expr::Column(Column::from((qualifier, field))));
    }
    if columns.len() == 2 {
        return Err(Error::query("TG-SQL-VIEW", format!("view {name} selects no column")).hint("select some"));
    }
    let logical = LogicalPlanBuilder::from(carried).project(exprs)?.build().map_err(told)?;
    let below = physical(state, &logical, leaf.slot.clone()).map_err(told)?;
    let nothing = LogicalPlanBuilder::empty(false).build()?;
    Ok(PlannedView {
        name: name.clone(),
        shape: Shape::Stateless,
        emit: view.emit,
        retention: None,
        below,
        inputs: Inputs { window: 0, keys: Vec::new(), partition: 0, offset: 1, watermark: 0 },
        groups: Vec::new(),
        aggregates: Vec::new(),
        above: physical(state, &nothing, leaf.slot).map_err(told)?,
        filters_groups: false,
        table: Table { name: name.clone(), columns },
        fingerprint: fingerprint(source, view),
        source: scan,
    })
}

fn hidden(plan: &LogicalPlan, name: &str) -> Result<Expr> {
    let (qualifier, field) = plan.schema().qualified_field_with_unqualified_name(name)?;
    Ok(Expr::Column(Column::from((qualifier, field))))
}

/// Which column of the table tells when a row's window was, and how far behind the frontier it may be.
fn retention(view: &ViewText, shape: Shape, groups: &[Group], table: &Table) -> Result<Option<Retention>> {
    let Some(retention_us) = view.retention_us else { return Ok(None) };
    let Shape::Windowed(windows) = shape else {
        return Err(Error::query("TG-SQL-VIEW", format!("view {} has no windows, and so no retention", view.name))
            .hint("leave it out, or group by a window"));
    };
    let found = table.columns.iter().find_map(|column| match column.key_of.and_then(|group| groups.get(group)) {
        Some(Group::Window { edge, .. }) => Some((column.name.clone(), *edge)),
        _ => None,
    });
    let (column, edge) = found.ok_or_else(|| Error::bug(format!("view {} has no window in its key", view.name)))?;
    // Of the longest window that has this edge, the one that may go last.
    let edge_us = edge.of(super::window::Span { start: -windows.size_us, end: 0 });
    Ok(Some(Retention { column, behind_us: retention_us.saturating_sub(edge_us) }))
}

/// Refuses expressions over `window_start` and its like where a row has several windows.
fn refuse_panes(view: &str, aggregate: &LogicalAggregate) -> Result<()> {
    let mut used = None;
    let mut look = |plan: &LogicalPlan, expr: &Expr| -> Result<()> {
        if holds_panes(&resolve(plan, expr.clone())?) {
            used.get_or_insert_with(|| expr.schema_name().to_string());
        }
        Ok(())
    };
    for expr in &aggregate.aggr_expr {
        look(&aggregate.input, expr)?;
    }
    for expr in &aggregate.group_expr {
        // As a group it is what it should be; inside of another expression it is not.
        let base = resolve(&aggregate.input, expr.clone())?;
        let is_call = matches!(&base, Expr::ScalarFunction(f) if f.func.name() == super::window::WINDOW_UDF);
        if !is_call {
            look(&aggregate.input, expr)?;
        }
    }
    let mut node = aggregate.input.as_ref();
    loop {
        if let LogicalPlan::Filter(filter) = node {
            look(&filter.input, &filter.predicate)?;
        }
        match node.inputs().as_slice() {
            [input] => node = input,
            _ => break,
        }
    }
    match used {
        None => Ok(()),
        Some(what) => Err(Error::query(
            "TG-SQL-WINDOW",
            format!(
                "view {view} uses the window's times in {what}, and a record of HOP or CUMULATE has several windows"
            ),
        )
        .hint("use them as group columns, in HAVING or in the select list")),
    }
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

/// The one aggregate, below projections and filters only; none in a query that has none.
fn lowest_aggregate(view: &str, plan: &LogicalPlan) -> Result<Option<LogicalAggregate>> {
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
            Ok(Some(aggregate.clone()))
        }
        LogicalPlan::TableScan(_) => Ok(None),
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

/// An aggregate whose arguments are columns of the plan below.
enum Lowered {
    Function { text: String, expr: Expr, grows: bool },
    Distinct,
}

/// Replaces an aggregate's arguments by columns of the plan below, which are added to `exprs`.
fn lower(view: &ViewText, shape: Shape, index: usize, expr: &Expr, exprs: &mut Vec<Expr>) -> Result<Lowered> {
    let shown = expr.schema_name().to_string();
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
    let within_group = name.contains("percentile_cont");
    if params.null_treatment == Some(NullTreatment::IgnoreNulls) || !(params.order_by.is_empty() || within_group) {
        return Err(not_yet(view_name, &format!("ORDER BY or IGNORE NULLS in {shown}"), "leave it out"));
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
    Ok(Lowered::Function { text: shown, expr: Expr::AggregateFunction(AggregateFunction { func, params }), grows })
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
fn table(
    view: &str,
    root: &LogicalPlan,
    aggregate: &LogicalAggregate,
    groups: &[Group],
    ends_matter: bool,
) -> Result<Table> {
    let mut columns: Vec<TableColumn> = Vec::new();
    let mut keyed = HashSet::new();
    for (index, (qualifier, field)) in root.schema().iter().enumerate() {
        let name = column_name(view, index, field.name(), &columns)?;
        let base = resolve(root, Expr::Column(Column::from((qualifier, field))))?;
        let group = match &base {
            Expr::Column(column) => aggregate.schema.index_of_column(column).ok().filter(|index| *index < groups.len()),
            _ => None,
        };
        // window_end beside window_start adds nothing to the key, unless windows of several ends begin together.
        let is_window = |group: usize| matches!(groups[group], Group::Window { .. });
        let key_of = group.filter(|group| {
            !(keyed.contains(group) || !ends_matter && is_window(*group) && keyed.iter().any(|other| is_window(*other)))
        });
        keyed.extend(key_of);
        let nullable = field.is_nullable() && !group.is_some_and(is_window);
        let column = TableColumn { name, data_type: field.data_type().clone(), key_of, nullable };
        check_storable(view, &column)?;
        columns.push(column);
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

/// A column's name, unless it cannot be one or is taken.
fn column_name(view: &str, index: usize, name: &str, others: &[TableColumn]) -> Result<String> {
    if name.contains('(') || name.len() > 63 {
        return Err(Error::query("TG-SQL-VIEW", format!("view {view}: column {} needs a name", index + 1))
            .hint(format!("write {name} AS some_name")));
    }
    if others.iter().any(|column| column.name == name) {
        return Err(
            Error::query("TG-SQL-VIEW", format!("view {view} has two columns {name}")).hint("rename one with AS")
        );
    }
    Ok(name.to_string())
}

fn check_storable(view: &str, column: &TableColumn) -> Result<()> {
    if sql_type(&column.data_type).is_some() {
        return Ok(());
    }
    Err(Error::query(
        "TG-SQL-TYPE",
        format!("view {view}: column {} of type {} cannot be stored", column.name, column.data_type),
    )
    .hint("cast it to text, a number, a boolean, a date or a timestamp"))
}
