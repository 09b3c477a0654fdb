//! A view's table as a table of DataFusion: columns, simple conditions and limits are left to the store.
//!
//! What is left to it may only save work. Conditions are judged again above, so that a store may ignore them.

use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch, RecordBatchOptions, TimestampMicrosecondArray};
use arrow::compute::cast;
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
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType, SchedulingType};
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    ChildrenPropertiesMode, DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties,
    ReplaceChildrenOptions,
};
use datafusion::scalar::ScalarValue;

use super::system;
use crate::sql::planned::{Table, TableColumn};
use crate::store::{Bound, BoundValue, Comparison, Moment, Wanted};

/// The longest text that a condition of the store compares with.
const TEXT_BOUND_MAX: usize = 4 << 10;

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
        let wanted = Wanted { columns, bounds, limit };
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
    let column = table.columns.iter().position(|column| column.name == *name)?;
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
                ScalarValue::TimestampMicrosecond(Some(us), _) if same => Some(BoundValue::Time(us)),
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

/// Lets a minimum or maximum of the time that leads a table's key look at the ends of its index, and the newest dead
/// letters be those that the store gives first.
pub fn look_at_ends(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    let looked = plan.transform_up(|node| {
        let scan = node.downcast_ref::<AggregateExec>().and_then(ends_of);
        let scan = scan.or_else(|| node.downcast_ref::<SortExec>().and_then(newest_of));
        match scan {
            Some(scan) => {
                let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
                Ok(Transformed::yes(node.replace_children(vec![Arc::new(scan)], options)?))
            }
            None => Ok(Transformed::no(node)),
        }
    })?;
    Ok(looked.data)
}

/// The scan that gives a sort's input with no more rows than it lets pass, if it gives the newest first.
fn newest_of(sort: &SortExec) -> Option<Scan> {
    let scan = sort.input().downcast_ref::<Scan>()?;
    let newest = system::newest_first(&scan.table)?;
    let [by] = sort.expr().iter().collect::<Vec<_>>()[..] else { return None };
    let is_newest = by.options.descending && by.expr.downcast_ref::<Column>()?.name() == newest;
    let limit = sort.fetch().filter(|_| is_newest && scan.wanted.bounds.is_empty())?;
    Some(Scan { wanted: Wanted { limit: Some(limit), ..scan.wanted.clone() }, ..scan.clone() })
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
