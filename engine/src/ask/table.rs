//! A view's table as a table of DataFusion: columns, simple conditions and limits are left to the store.
//!
//! What is left to it may only save work. Conditions are judged again above, so that a store may ignore them.

use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch, RecordBatchOptions, TimestampMicrosecondArray};
use arrow::compute::{SortOptions, cast};
use arrow::datatypes::{DataType, SchemaRef, TimeUnit, TimestampMicrosecondType};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::utils::memory::get_record_batch_memory_size;
use datafusion::datasource::TableType;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::memory_pool::MemoryConsumer;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{BinaryExpr, Expr, Operator, TableProviderFilterPushDown};
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use datafusion::physical_expr::expressions::{BinaryExpr as PhysicalBinaryExpr, Column, Literal};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr, PhysicalSortExpr, split_conjunction};
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType, SchedulingType};
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    ChildrenPropertiesMode, DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties,
    ReplaceChildrenOptions,
};
use datafusion::scalar::ScalarValue;

use super::system;
use crate::sql::planned::{Table, TableColumn};
use crate::store::{Bound, BoundValue, Comparison, Moment, Order, Wanted};

/// The longest text that a condition of the store compares with.
const TEXT_BOUND_MAX: usize = 4 << 10;

/// The earliest time that it compares with, in microseconds: Postgres has none before 24 November 4714 BC.
const TIME_BOUND_MIN: i64 = -210_866_803_200_000_000;

/// The most digits of a decimal that every store keeps as a number.
const DECIMAL_ORDERED_MAX: u8 = 18;

/// A view's table in a snapshot.
pub struct ViewTable {
    table: Table,
    snapshot: Arc<dyn Moment>,
}

impl fmt::Debug for ViewTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ViewTable({})", self.table.name)
    }
}

impl ViewTable {
    /// This table as it is in this snapshot.
    pub fn new(table: &Table, snapshot: &Arc<dyn Moment>) -> Self {
        Self { table: table.clone(), snapshot: snapshot.clone() }
    }
}

fn external(error: crate::error::Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

#[async_trait]
impl TableProvider for ViewTable {
    fn schema(&self) -> SchemaRef {
        self.table.schema()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        let told = |filter: &&Expr| match bound(&self.table, filter) {
            Some(_) => TableProviderFilterPushDown::Inexact,
            None => TableProviderFilterPushDown::Unsupported,
        };
        Ok(filters.iter().map(told).collect())
    }

    async fn scan(
        &self,
        _: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let columns = projection.cloned().unwrap_or_else(|| (0..self.table.columns.len()).collect());
        let bounds: Vec<Bound> = filters.iter().filter_map(|filter| bound(&self.table, filter)).collect();
        // Rows that a condition above drops must not count.
        let limit = limit.filter(|_| filters.is_empty());
        let wanted = Wanted { columns, bounds, limit, order: Vec::new() };
        let schema = Arc::new(self.table.schema().project(&wanted.columns)?);
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Final,
            Boundedness::Bounded,
        )
        // It gives one batch, and waits for it: nothing has to be put around it to make it yield.
        .with_scheduling_type(SchedulingType::Cooperative);
        let (table, snapshot) = (self.table.clone(), self.snapshot.clone());
        Ok(Arc::new(Scan { table, snapshot, wanted, ends: false, properties: Arc::new(properties) }))
    }
}

/// A condition that every store judges as DataFusion does: an integer or a time against a literal, or equal texts.
fn bound(table: &Table, filter: &Expr) -> Option<Bound> {
    let Expr::BinaryExpr(BinaryExpr { left, op, right }) = filter else { return None };
    let (name, value, op) = match (left.as_ref(), right.as_ref()) {
        (Expr::Column(column), Expr::Literal(value, _)) => (&column.name, value, *op),
        (Expr::Literal(value, _), Expr::Column(column)) => (&column.name, value, op.swap()?),
        _ => return None,
    };
    compared(table, table.columns.iter().position(|column| column.name == *name)?, op, value)
}

/// The same of a condition over the columns of a scan.
fn physical_bound(scan: &Scan, filter: &Arc<dyn PhysicalExpr>) -> Option<Bound> {
    let filter = filter.downcast_ref::<PhysicalBinaryExpr>()?;
    let literal = |side: &Arc<dyn PhysicalExpr>| Some(side.downcast_ref::<Literal>()?.value().clone());
    let (column, value, op) = match (filter.left().downcast_ref::<Column>(), filter.right().downcast_ref::<Column>()) {
        (Some(column), None) => (column, literal(filter.right())?, *filter.op()),
        (None, Some(column)) => (column, literal(filter.left())?, filter.op().swap()?),
        _ => return None,
    };
    compared(&scan.table, *scan.wanted.columns.get(column.index())?, op, &value)
}

fn compared(table: &Table, column: usize, op: Operator, value: &ScalarValue) -> Option<Bound> {
    let comparison = match op {
        Operator::Eq => Comparison::Equal,
        Operator::Lt => Comparison::Less,
        Operator::LtEq => Comparison::LessOrEqual,
        Operator::Gt => Comparison::Greater,
        Operator::GtEq => Comparison::GreaterOrEqual,
        _ => return None,
    };
    let value = bound_value(&table.columns[column], value)?;
    if matches!(value, BoundValue::Text(_)) && comparison != Comparison::Equal {
        return None;
    }
    Some(Bound { column, comparison, value })
}

fn bound_value(column: &TableColumn, value: &ScalarValue) -> Option<BoundValue> {
    if value.is_null() {
        return None;
    }
    match &column.data_type {
        DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64 => match value.cast_to(&DataType::Int64) {
            Ok(ScalarValue::Int64(Some(value))) => Some(BoundValue::Integer(value)),
            _ => None,
        },
        DataType::Timestamp(..) => {
            // Finer literals would be cut.
            let micros = DataType::Timestamp(TimeUnit::Microsecond, None);
            let cut = value.cast_to(&micros).ok()?;
            let same = cut.cast_to(&value.data_type()).ok()? == *value;
            match cut {
                ScalarValue::TimestampMicrosecond(Some(us), _) if same && us >= TIME_BOUND_MIN => {
                    Some(BoundValue::Time(us))
                }
                _ => None,
            }
        }
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
            let text = value.try_as_str().flatten().filter(|text| !text.contains('\0') && text.len() <= TEXT_BOUND_MAX);
            text.map(|text| BoundValue::Text(text.into()))
        }
        _ => None,
    }
}

/// Whether every store orders values of this type as DataFusion does. Floats are not among them, whose zeros and NaNs have
/// other places, nor what a store keeps as text and is none.
fn is_ordered_alike(data_type: &DataType) -> bool {
    match data_type {
        DataType::Boolean | DataType::Date32 | DataType::Timestamp(..) => true,
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
        DataType::Decimal128(precision, _) => *precision <= DECIMAL_ORDERED_MAX,
        other => other.is_signed_integer() || (other.is_unsigned_integer() && *other != DataType::UInt64),
    }
}

/// Has the store look for less: a minimum or maximum of the time that leads a table's key is at the ends of its index, and
/// where a limit lets only the first rows pass, of an order or of none, no others are read.
pub fn look_at_ends(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    let looked = plan.transform_down(|node| {
        let less = match node.downcast_ref::<AggregateExec>() {
            Some(aggregate) => ends_of(aggregate).map(|scan| Arc::new(scan) as Arc<dyn ExecutionPlan>),
            None => first_of(&node)?,
        };
        match less {
            Some(less) => Ok(Transformed::yes(with_input(node, less)?)),
            None => Ok(Transformed::no(node)),
        }
    })?;
    Ok(looked.data)
}

fn with_input(node: Arc<dyn ExecutionPlan>, input: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    node.replace_children(vec![input], ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
}

/// The input of a sort or filter that lets only so many rows pass, with no more of them; none where it stays as it is.
fn first_of(node: &Arc<dyn ExecutionPlan>) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    if let Some(sort) = node.downcast_ref::<SortExec>() {
        let column = |by: &PhysicalSortExpr| Some((by.expr.downcast_ref::<Column>()?.index(), by.options));
        let order: Option<Vec<(usize, SortOptions)>> = sort.expr().iter().map(column).collect();
        return match (order, sort.fetch()) {
            (Some(order), Some(limit)) if !sort.preserve_partitioning() => first(sort.input(), &order, limit),
            _ => Ok(None),
        };
    }
    match node.downcast_ref::<FilterExec>() {
        Some(filter) if filter.fetch().is_some() && judged_below(filter) => {
            first(filter.input(), &[], filter.fetch().unwrap_or_default())
        }
        _ => Ok(None),
    }
}

/// A plan that gives the first rows in this order of its columns, if its scan can.
fn first(
    plan: &Arc<dyn ExecutionPlan>,
    order: &[(usize, SortOptions)],
    limit: usize,
) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    if let Some(scan) = plan.downcast_ref::<Scan>() {
        return Ok(scan.first(order, limit).map(|scan| Arc::new(scan) as Arc<dyn ExecutionPlan>));
    }
    // What its columns are in its input.
    let (input, below): (_, Option<Vec<usize>>) = if let Some(projection) = plan.downcast_ref::<ProjectionExec>() {
        let column = |index: &usize| Some(projection.expr().get(*index)?.expr.downcast_ref::<Column>()?.index());
        (projection.input(), order.iter().map(|(index, _)| column(index)).collect())
    } else if let Some(filter) = plan.downcast_ref::<FilterExec>()
        && filter.fetch().is_none()
        && judged_below(filter)
    {
        let column = |index: usize| match filter.projection() {
            Some(projection) => projection.get(index).copied(),
            None => Some(index),
        };
        (filter.input(), order.iter().map(|(index, _)| column(*index)).collect())
    } else {
        return Ok(None);
    };
    let Some(below) = below else { return Ok(None) };
    let order: Vec<(usize, SortOptions)> = below.into_iter().zip(order.iter().map(|(_, options)| *options)).collect();
    match first(input, &order, limit)? {
        Some(input) => Ok(Some(with_input(plan.clone(), input)?)),
        None => Ok(None),
    }
}

/// Whether the scan below a filter has been told all that it asks for, so that it drops no row of those that come.
fn judged_below(filter: &FilterExec) -> bool {
    let Some(scan) = filter.input().downcast_ref::<Scan>() else { return false };
    let told = |condition: &Arc<dyn PhysicalExpr>| {
        physical_bound(scan, condition).is_some_and(|bound| scan.wanted.bounds.contains(&bound))
    };
    // The tables of ours take conditions for hints.
    system::name_of(&scan.table).is_none() && split_conjunction(filter.predicate()).into_iter().all(told)
}

/// The scan that gives an aggregate's input by its ends alone, if they are all that it asks for.
fn ends_of(aggregate: &AggregateExec) -> Option<Scan> {
    let is_end = |function: &AggregateFunctionExpr| {
        let columns = function.expressions().iter().all(|expr| expr.downcast_ref::<Column>().is_some());
        matches!(function.fun().name(), "min" | "max") && columns
    };
    let plain = aggregate.group_expr().is_empty() && aggregate.filter_expr().iter().all(Option::is_none);
    if !plain || !aggregate.aggr_expr().iter().all(|function| is_end(function)) {
        return None;
    }
    let scan = aggregate.input().downcast_ref::<Scan>()?;
    let [column] = scan.wanted.columns[..] else { return None };
    let declared = &scan.table.columns[column];
    let leads = scan.table.key().next().is_some_and(|first| first.name == declared.name);
    let whole = scan.wanted.bounds.is_empty() && scan.wanted.limit.is_none();
    (leads && whole && matches!(declared.data_type, DataType::Timestamp(..)))
        .then(|| Scan { ends: true, ..scan.clone() })
}

/// A scan of a table.
#[derive(Clone)]
struct Scan {
    table: Table,
    snapshot: Arc<dyn Moment>,
    wanted: Wanted,
    /// Whether the least and the greatest value of its one column are enough.
    ends: bool,
    properties: Arc<PlanProperties>,
}

impl fmt::Debug for Scan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Scan({}, {:?})", self.table.name, self.wanted)
    }
}

impl DisplayAs for Scan {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ViewScan: {} {:?}", self.table.name, self.wanted)
    }
}

impl ExecutionPlan for Scan {
    fn name(&self) -> &'static str {
        "ViewScan"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        _: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn with_new_children(self: Arc<Self>, _: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn execute(&self, _: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let (scan, schema) = (self.clone(), self.schema());
        let memory = MemoryConsumer::new("ViewScan").register(context.memory_pool());
        // The rows are accounted for until the stream is asked again, or dropped.
        let stream = futures::stream::try_unfold((Some(scan), memory), |(scan, memory)| async move {
            let Some(scan) = scan else { return Ok(None) };
            let rows = scan.read().await?;
            // Columns that came over a socket share one allocation.
            memory.try_grow(get_record_batch_memory_size(&rows))?;
            Ok(Some((rows, (None, memory))))
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, stream)))
    }
}

impl Scan {
    /// The same with the first rows in this order of its columns alone, if every store finds those.
    fn first(&self, order: &[(usize, SortOptions)], limit: usize) -> Option<Self> {
        let ordered = |(index, options): &(usize, SortOptions)| {
            let column = *self.wanted.columns.get(*index)?;
            let order = Order { column, descending: options.descending, nulls_first: options.nulls_first };
            is_ordered_alike(&self.table.columns[column].data_type).then_some(order)
        };
        let order: Vec<Order> = order.iter().map(ordered).collect::<Option<_>>()?;
        if self.ends || self.wanted.limit.is_some() {
            return None;
        }
        if system::name_of(&self.table).is_some() {
            // They come as they come: their one order is that of the newest.
            let newest = system::newest_first(&self.table)?;
            let is_newest = |order: &Order| order.descending && self.table.columns[order.column].name == newest;
            if !(self.wanted.bounds.is_empty() && order.len() == 1 && order.iter().all(is_newest)) {
                return None;
            }
        }
        Some(Self { wanted: Wanted { limit: Some(limit), order, ..self.wanted.clone() }, ..self.clone() })
    }

    async fn read(&self) -> Result<RecordBatch> {
        let ends = if self.ends { self.ends().await? } else { None };
        let rows = match ends {
            Some(ends) => ends,
            None => self.snapshot.rows(&self.table, &self.wanted).await.map_err(external)?,
        };
        let schema = self.schema();
        let columns = rows.columns().iter().zip(schema.fields());
        let columns = columns.map(|(column, field)| cast(column, field.data_type())).collect::<Result<_, _>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
        Ok(RecordBatch::try_new_with_options(schema, columns, &options)?)
    }

    /// The two ends as rows.
    async fn ends(&self) -> Result<Option<RecordBatch>> {
        let Some(column) = self.wanted.columns.first() else { return Ok(None) };
        let extent = self.snapshot.extent(&self.table, *column).await.map_err(external)?;
        let Some((least, greatest)) = extent else { return Ok(None) };
        let times: ArrayRef = Arc::new(TimestampMicrosecondArray::from_iter_values([least, greatest]));
        let times = match &self.table.columns[*column].data_type {
            // Of the same moment, and not of the same clock.
            DataType::Timestamp(_, Some(zone)) => {
                let micros = times.as_primitive::<TimestampMicrosecondType>().clone();
                Arc::new(micros.with_timezone(zone.clone())) as ArrayRef
            }
            _ => times,
        };
        Ok(Some(RecordBatch::try_from_iter([("end", times)])?))
    }
}
