//! A view's table: its columns, its key, and which of its rows may go.

use std::collections::HashSet;

use arrow::datatypes::{DataType, Field, TimeUnit};
use datafusion::common::Column;
use datafusion::logical_expr::{Aggregate as LogicalAggregate, Expr, LogicalPlan};

use super::planned::{Group, Retention, Shape, Table, TableColumn};
use super::split::resolve;
use super::view::ViewText;
use super::window::{Edge, Span};
use crate::error::{Error, Result};
use crate::sink::types::sql_type;

/// Which column of the table tells when a row's window was, and how far behind the frontier it may be.
pub(super) fn retention(view: &ViewText, shape: Shape, groups: &[Group], table: &Table) -> Result<Option<Retention>> {
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
    let edge_us = edge.of(Span { start: -windows.size_us, end: 0 });
    Ok(Some(Retention { column, behind_us: retention_us.saturating_sub(edge_us) }))
}

/// Refuses types by which rows cannot be told apart on every store.
pub(super) fn check_key_type(view: &str, field: &Field) -> Result<()> {
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
pub(super) fn table(
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
    let tells_end =
        |group: &usize| matches!(groups[*group], Group::Window { edge, .. } if edge != Edge::Start || !ends_matter);
    let has_end = keyed.iter().any(tells_end);
    for (index, group) in groups.iter().enumerate() {
        // Beside a time of the window its others add nothing; but windows that begin together differ in their ends.
        let implied = matches!(group, Group::Window { edge, .. } if has_end || has_window && *edge == Edge::Start);
        let projected = keyed.contains(&index) || implied;
        if !projected {
            let missing = aggregate.group_expr[index].schema_name().to_string();
            return Err(Error::query("TG-SQL-KEY", format!("view {view} groups by {missing} but does not select it"))
                .hint("select it as it is: the table's key is its group columns"));
        }
    }
    Ok(Table { name: view.to_string(), columns })
}

/// A column's name, unless it cannot be one or is taken.
pub(super) fn column_name(view: &str, index: usize, name: &str, others: &[TableColumn]) -> Result<String> {
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

/// Refuses types that no store holds.
pub(super) fn check_storable(view: &str, column: &TableColumn) -> Result<()> {
    if sql_type(&column.data_type).is_some() {
        return Ok(());
    }
    Err(Error::query(
        "TG-SQL-TYPE",
        format!("view {view}: column {} of type {} cannot be stored", column.name, column.data_type),
    )
    .hint("cast it to text, a number, a boolean, a date or a timestamp"))
}
