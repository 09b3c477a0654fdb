//! What planning leaves for the pipeline: sources and views, ready to run.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;

use super::source::Source;
use super::window::{Edge, Windows};
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
}

/// A view, ready to run.
#[derive(Debug)]
pub struct PlannedView {
    /// Its name, and that of its table.
    pub name: String,
    /// The source that it reads.
    pub source: String,
    /// What it keeps.
    pub shape: Shape,
    /// When its rows are published.
    pub emit: Emit,
    /// Which of its rows go when.
    pub retention: Option<Retention>,
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
    /// The statement as it stands in its file.
    pub text: String,
}

impl PlannedView {
    /// Whether its answers are equal bit for bit wherever epochs end: neither estimates nor sums of floats are.
    pub fn repeats(&self) -> bool {
        self.aggregates.iter().all(|aggregate| match aggregate {
            Aggregate::Distinct(_) => true,
            Aggregate::Function(function) => {
                let name = function.function.fun().name();
                let is_float = function.function.field().data_type().is_floating();
                matches!(name, "min" | "max") || !(is_float || name.starts_with("approx_"))
            }
        })
    }

    /// The column of the table that a key is.
    pub fn key_name(&self, key: usize) -> &str {
        let group = self.groups.iter().position(|group| matches!(group, Group::Key(other) if *other == key));
        let column = self.table.columns.iter().find(|column| column.key_of.is_some() && column.key_of == group);
        column.map_or("a key", |column| column.name.as_str())
    }
}

/// What a view keeps between epochs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Groups by pane, until the windows that hold it have closed.
    Windowed(Windows),
    /// Groups, for ever.
    Running,
    /// Nothing: each row is published as it comes.
    Stateless,
}

/// When rows are published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Emit {
    /// With every commit that changes them.
    Update,
    /// Once, when their window closes.
    Close,
}

/// Rows of windows that ended so long before the frontier may go.
#[derive(Debug, Clone)]
pub struct Retention {
    /// The table's column that tells when a window was.
    pub column: String,
    /// What to take from the frontier to have the latest time that may go.
    pub behind_us: i64,
}

/// Columns of the output of the plan below.
#[derive(Debug, Clone)]
pub struct Inputs {
    /// The pane's start, in microseconds; 0 where there are no windows.
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
    /// A time of the window, as this type.
    Window {
        /// Which.
        edge: Edge,
        /// A timestamp.
        data_type: DataType,
    },
    /// The key of this position in [`Inputs::keys`].
    Key(usize),
}

/// An aggregate over columns of the plan below.
#[derive(Debug, Clone)]
pub enum Aggregate {
    /// One whose state DataFusion keeps in a few columns of a row.
    Function(Function),
    /// `count(DISTINCT x)`, whose state are the values.
    Distinct(Distinct),
}

/// An aggregate function.
#[derive(Debug, Clone)]
pub struct Function {
    /// As it was written, for messages.
    pub text: String,
    /// The function with its arguments.
    pub function: Arc<AggregateFunctionExpr>,
    /// Its FILTER.
    pub filter: Option<Arc<dyn PhysicalExpr>>,
    /// Whether its state grows with the rows of a group.
    pub grows: bool,
    /// The type of its values, where it is computed in a wider one.
    pub narrow: Option<DataType>,
}

/// The distinct values of a column.
#[derive(Debug, Clone)]
pub struct Distinct {
    /// The column of the plan below.
    pub value: usize,
    /// The column of its FILTER.
    pub filter: Option<usize>,
}

/// A view's table.
#[derive(Debug, Clone)]
pub struct Table {
    /// Its name.
    pub name: String,
    /// Its columns, in the order of the projection.
    pub columns: Vec<TableColumn>,
}

/// What [`TableColumn::key_of`] says of the key of a table that has one row: it is no group, and always 0.
pub const CONSTANT_KEY: usize = usize::MAX;

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

impl PlannedView {
    /// The column of its table that tells a window from others, and which of the window's times that is.
    pub fn window_column(&self) -> Option<(usize, Edge)> {
        let edge_of = |column: &TableColumn| match self.groups.get(column.key_of?)? {
            Group::Window { edge, data_type: DataType::Timestamp(..) } => Some(*edge),
            _ => None,
        };
        let columns = self.table.columns.iter().enumerate().filter_map(|(at, column)| Some((at, edge_of(column)?)));
        // Where several windows begin at a time, only their ends tell them apart.
        columns.max_by_key(|(_, edge)| *edge != Edge::Start)
    }
}

impl Table {
    /// The schema of its rows.
    pub fn schema(&self) -> SchemaRef {
        let field = |column: &TableColumn| Field::new(&column.name, column.data_type.clone(), true);
        Arc::new(Schema::new(self.columns.iter().map(field).collect::<Vec<_>>()))
    }

    /// The key's columns.
    pub fn key(&self) -> impl Iterator<Item = &TableColumn> {
        self.columns.iter().filter(|column| column.key_of.is_some())
    }

    /// The other columns.
    pub fn values(&self) -> impl Iterator<Item = &TableColumn> {
        self.columns.iter().filter(|column| column.key_of.is_none())
    }
}
