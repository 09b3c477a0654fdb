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

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DataFusionError};
use datafusion::datasource::provider_as_source;
use datafusion::execution::context::SessionState;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{
    Aggregate as LogicalAggregate, Expr, LogicalPlan, LogicalPlanBuilder, Operator, SubqueryAlias, col, lit,
};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::aggregate::LoweredAggregateBuilder;
use datafusion::physical_expr::expressions::{BinaryExpr, Literal, NegativeExpr};
use datafusion::physical_plan::filter::{FilterExec, FilterExecBuilder};
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::prelude::SessionContext;
use datafusion::scalar::ScalarValue;
use futures::executor::block_on;

use super::aggregates::{Lowered, lower};
use super::explain::{Relation, explain, refuse_expressions};
use super::names;
use super::planned::{
    Aggregate, CONSTANT_KEY, Distinct, Emit, Function, Group, Inputs, PlannedSource, PlannedView, Shape, TableColumn,
};
use super::recognise::{holds_panes, recognise};
use super::stateless;
use super::table::{check_key_type, column_name, retention, table};
use super::view::ViewText;
use super::window::{Edge, Kind, Windows};
use crate::batch::HIDDEN;
use crate::error::{Error, Result};
use crate::view::plan::{Plan, leaf_table};

/// The column that numbers the rows given to the plan above.
pub const ROW: &str = "__row";

/// Plans one view; all its faults, as far as one does not hide the others.
pub fn plan(session: &SessionContext, sources: &[PlannedSource], view: &ViewText) -> Result<PlannedView, Vec<Error>> {
    let state = session.state();
    let what = format!("view {}", view.name);
    let (at, relation) = ((view.line, view.column), Relation::Source);
    let named = names::Named { what: &what, file: &view.file, at, query: &view.query, relation };
    let (raw, mut faults) = names::resolve(&state, named);
    match raw.and_then(|raw| split(&state, sources, view, raw)) {
        Ok(planned) if faults.is_empty() => return Ok(planned),
        Ok(_) => {}
        Err(fault) => faults.push(fault.at(&view.file, view.line, view.column)),
    }
    Err(faults)
}

fn split(state: &SessionState, sources: &[PlannedSource], view: &ViewText, raw: LogicalPlan) -> Result<PlannedView> {
    let name = &view.name;
    let what = format!("view {name}");
    let told = |error: DataFusionError| explain(error, &view.file, view.line, view.column, &what, Relation::Source);
    if view.query.with.as_ref().is_some_and(|with| with.recursive) {
        return Err(not_yet(name, "WITH RECURSIVE", "write it without"));
    }
    let analyzed = state.analyzer().execute_and_check(raw, state.config_options(), |_, _| {}).map_err(told)?;
    refuse_expressions(&analyzed).map_err(told)?;
    let Some(aggregate) = lowest_aggregate(name, &analyzed)? else {
        return stateless::plan(state, sources, view, &analyzed);
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
        lowered.push(lower(view, shape, index, (expr, aggregate.input.schema()), &mut exprs)?);
    }
    let input = carry(name, &aggregate.input, &HIDDEN, &leaf)?;
    for hidden in HIDDEN {
        let (qualifier, field) = input.schema().qualified_field_with_unqualified_name(hidden)?;
        exprs.push(Expr::Column(Column::from((qualifier, field))).alias(hidden));
    }
    let below_logical = LogicalPlanBuilder::from(input).project(exprs)?.build().map_err(told)?;
    let below = physical(state, &below_logical, leaf.slot.clone()).map_err(told)?;
    let below_schema = below.schema();
    let mut aggregates = Vec::new();
    for (index, lowered) in lowered.iter().enumerate() {
        let Lowered::Function { text, expr, grows, narrow } = lowered else {
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
            narrow: narrow.clone(),
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
    let above = physical(state, &above_logical, group_leaf.slot.clone()).map_err(told)?;
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
        text: view.text.clone(),
    })
}

pub(super) fn fingerprint(source: &PlannedSource, view: &ViewText) -> String {
    blake3::hash(format!("view 1\n{}\n{}", source.source.normal, view.normal).as_bytes()).to_hex().to_string()
}

pub(super) fn source_of<'a>(sources: &'a [PlannedSource], view: &str, scan: &str) -> Result<&'a PlannedSource> {
    sources
        .iter()
        .find(|source| source.source.name == scan)
        .ok_or_else(|| Error::query("TG-SQL-VIEW", format!("view {view} reads {scan}, which is not a source")))
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

pub(super) fn physical(
    state: &SessionState,
    logical: &LogicalPlan,
    slot: crate::view::plan::Slot,
) -> datafusion::error::Result<Plan> {
    let plan = block_on(state.create_physical_plan(logical))?;
    let plan = plan.transform_up(|node| {
        if let Some(project) = node.downcast_ref::<ProjectionExec>() {
            let input = project.input().schema();
            let exprs = project.expr().iter().map(|p| Ok((never_wrapping(&p.expr, &input)?, p.alias.clone())));
            let exprs = exprs.collect::<datafusion::error::Result<Vec<_>>>()?;
            return Ok(Transformed::yes(Arc::new(ProjectionExec::try_new(exprs, project.input().clone())?) as _));
        }
        if let Some(filter) = node.downcast_ref::<FilterExec>() {
            let predicate = never_wrapping(filter.predicate(), &filter.input().schema())?;
            let filter = FilterExecBuilder::from(filter).with_predicate(predicate).build()?;
            return Ok(Transformed::yes(Arc::new(filter) as _));
        }
        Ok(Transformed::no(node))
    })?;
    Ok(Plan::new(plan.data, slot, state.task_ctx()))
}

/// The expression with sums, differences, products and negations that fail where they would wrap around.
pub(super) fn never_wrapping(
    expr: &Arc<dyn PhysicalExpr>,
    input: &Schema,
) -> datafusion::error::Result<Arc<dyn PhysicalExpr>> {
    let checked = |left: Arc<dyn PhysicalExpr>, op: Operator, right: Arc<dyn PhysicalExpr>| {
        Transformed::yes(Arc::new(BinaryExpr::new(left, op, right).with_fail_on_overflow(true)) as Arc<dyn PhysicalExpr>)
    };
    let strict = expr.clone().transform_up(|e| {
        if let Some(binary) = e.downcast_ref::<BinaryExpr>() {
            return Ok(checked(binary.left().clone(), *binary.op(), binary.right().clone()));
        }
        if let Some(negative) = e.downcast_ref::<NegativeExpr>()
            && let data_type = negative.arg().data_type(input)?
            && data_type.is_signed_integer()
        {
            let zero: Arc<dyn PhysicalExpr> = Arc::new(Literal::new(ScalarValue::new_zero(&data_type)?));
            return Ok(checked(zero, Operator::Minus, negative.arg().clone()));
        }
        Ok(Transformed::no(e))
    })?;
    Ok(strict.data)
}

pub(super) fn not_yet(view: &str, what: &str, way_out: &str) -> Error {
    Error::query("TG-SQL-NOT-YET", format!("view {view}: {what} is not supported yet")).hint(way_out)
}

fn prefixed(view: &str, (message, way_out): (String, &str)) -> Error {
    Error::query("TG-SQL-WINDOW", format!("view {view}: {message}")).hint(way_out)
}

/// A replacement for a node: a table that the pipeline fills before each run.
pub(super) struct Leaf {
    pub(super) slot: crate::view::plan::Slot,
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
pub(super) fn scanned(view: &str, plan: &LogicalPlan) -> Result<(String, Leaf)> {
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
pub(super) fn carry(view: &str, plan: &LogicalPlan, names: &[&str], leaf: &Leaf) -> Result<LogicalPlan> {
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
pub(super) fn resolve(plan: &LogicalPlan, expr: Expr) -> Result<Expr> {
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
