//! What planning leaves for the pipeline: sources and views, ready to run.

use std::sync::Arc;

use arrow::datatypes::{DataType, SchemaRef};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;

use super::source::Source;
use crate::view::plan::Plan;

/// A source, ready to decode.
#[derive(Debug, Clone)]
pub struct PlannedSource {
    /// The declaration.
    pub source: Source,
    /// The columns of a decoded row: the declared ones, then [`crate::batch::HIDDEN`].
    pub schema: SchemaRef,
    /// Expressions of the computed columns: index in `schema`, and the value over the columns before the hidden ones.
    pub computed: Vec<(usize, Arc<dyn PhysicalExpr>)>,
    /// Text columns by which some view groups: their values are bounded.
    pub key_columns: Vec<usize>,
}

/// A view, ready to run.
#[derive(Debug)]
pub struct PlannedView {
    /// Its name, and that of its table.
    pub name: String,
    /// The source that it reads.
    pub source: String,
    /// The length of its windows, in microseconds.
    pub size_us: i64,
    /// The plan below the aggregate: source rows in, the columns that [`Inputs`] names out.
    pub below: Plan,
    /// Where the aggregate finds its inputs in the output of `below`.
    pub inputs: Inputs,
    /// The group columns, in the order in which the plan above expects them.
    pub groups: Vec<Group>,
    /// The aggregates, in the order in which the plan above expects them, behind the groups.
    pub aggregates: Vec<Aggregate>,
    /// The plan above the aggregate: groups, aggregates and `__row` in; the table's columns and `__row` out.
    pub above: Plan,
    /// Whether the plan above may drop rows.
    pub filters_groups: bool,
    /// The table that the rows go to.
    pub table: Table,
    /// Names everything that decides an answer; a view with another fingerprint is another view.
    pub fingerprint: String,
}

/// Columns of the output of the plan below.
#[derive(Debug, Clone)]
pub struct Inputs {
    /// The window's start, in microseconds.
    pub window: usize,
    /// The other group columns.
    pub keys: Vec<usize>,
    /// `_partition`.
    pub partition: usize,
    /// `_offset`.
    pub offset: usize,
    /// `_wm`.
    pub watermark: usize,
}

/// A group column.
#[derive(Debug, Clone)]
pub enum Group {
    /// The window's start plus a shift, as this type.
    Window {
        /// In microseconds.
        shift_us: i64,
        /// A timestamp.
        data_type: DataType,
    },
    /// The key of this position in [`Inputs::keys`].
    Key(usize),
}

/// An aggregate over columns of the plan below.
#[derive(Debug, Clone)]
pub struct Aggregate {
    /// The function with its arguments.
    pub function: Arc<AggregateFunctionExpr>,
    /// Its FILTER.
    pub filter: Option<Arc<dyn PhysicalExpr>>,
}

/// A view's table.
#[derive(Debug, Clone)]
pub struct Table {
    /// Its name.
    pub name: String,
    /// Its columns, in the order of the projection.
    pub columns: Vec<TableColumn>,
}

/// A column of a view's table.
#[derive(Debug, Clone)]
pub struct TableColumn {
    /// Its name.
    pub name: String,
    /// The type of its values.
    pub data_type: DataType,
    /// The group column that it is, if it belongs to the key.
    pub key_of: Option<usize>,
    /// Whether it may be NULL.
    pub nullable: bool,
}

impl Table {
    /// The key's columns.
    pub fn key(&self) -> impl Iterator<Item = &TableColumn> {
        self.columns.iter().filter(|column| column.key_of.is_some())
    }

    /// The other columns.
    pub fn values(&self) -> impl Iterator<Item = &TableColumn> {
        self.columns.iter().filter(|column| column.key_of.is_none())
    }
}
