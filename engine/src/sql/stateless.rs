//! A view without an aggregate: filter and project, each record once.

use arrow::datatypes::DataType;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DataFusionError};
use datafusion::execution::context::SessionState;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder};

use super::explain::{Relation, explain};
use super::planned::{Emit, Inputs, PlannedSource, PlannedView, Shape, Table, TableColumn};
use super::recognise::holds_panes;
use super::split::{carry, fingerprint, physical, scanned, source_of};
use super::table::{check_storable, column_name};
use super::view::ViewText;
use crate::batch::HIDDEN;
use crate::error::{Error, Result};

/// A view without an aggregate: each row of the plan is a row of the table, whose key is the record's place.
pub(super) fn plan(
    state: &SessionState,
    sources: &[PlannedSource],
    view: &ViewText,
    analyzed: &LogicalPlan,
) -> Result<PlannedView> {
    let name = &view.name;
    let what = format!("view {name}");
    let told = |error: DataFusionError| explain(error, &view.file, view.line, view.column, &what, Relation::Source);
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
        text: view.text.clone(),
        source: scan,
    })
}

fn hidden(plan: &LogicalPlan, name: &str) -> Result<Expr> {
    let (qualifier, field) = plan.schema().qualified_field_with_unqualified_name(name)?;
    Ok(Expr::Column(Column::from((qualifier, field))))
}
