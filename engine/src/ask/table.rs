//! A view's table as a table of DataFusion: columns, simple conditions and limits are left to the store.
//!
//! What is left to it may only save work. Conditions are judged again above, so that a store may ignore them.

use std::fmt;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::cast;
use arrow::datatypes::{DataType, SchemaRef, TimeUnit};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{ColumnStatistics, Statistics};
use datafusion::datasource::TableType;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{BinaryExpr, Expr, Operator, TableProviderFilterPushDown};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::statistics::StatisticsArgs;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties, ReplaceChildrenOptions,
};
use datafusion::scalar::ScalarValue;

use crate::sql::planned::{Table, TableColumn};
use crate::store::{Bound, BoundValue, Comparison, Snapshot, Wanted};

/// A view's table in a snapshot.
pub struct ViewTable {
    table: Table,
    snapshot: Arc<dyn Snapshot>,
}

impl fmt::Debug for ViewTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ViewTable({})", self.table.name)
    }
}

impl ViewTable {
    /// This table as it is in this snapshot.
    pub fn new(table: &Table, snapshot: &Arc<dyn Snapshot>) -> Self {
        Self { table: table.clone(), snapshot: snapshot.clone() }
    }

    /// The least and the greatest time, where these are all that may be asked of a scan: they cost a look at an index.
    async fn extent(&self, wanted: &Wanted) -> Result<Option<(ScalarValue, ScalarValue)>> {
        let [column] = wanted.columns[..] else { return Ok(None) };
        let declared = &self.table.columns[column];
        let leads = self.table.key().next().is_some_and(|first| first.name == declared.name);
        if !(leads && wanted.bounds.is_empty() && matches!(declared.data_type, DataType::Timestamp(..))) {
            return Ok(None);
        }
        let extent = self.snapshot.extent(&self.table, column).await.map_err(external)?;
        let Some((least, greatest)) = extent else { return Ok(None) };
        let value = |us: i64| -> Result<ScalarValue> {
            ScalarValue::TimestampMicrosecond(Some(us), None).cast_to(&declared.data_type)
        };
        Ok(Some((value(least)?, value(greatest)?)))
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
        let extent = self.extent(&wanted).await?;
        let schema = Arc::new(self.table.schema().project(&wanted.columns)?);
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Final,
            Boundedness::Bounded,
        );
        let (table, snapshot) = (self.table.clone(), self.snapshot.clone());
        Ok(Arc::new(Scan { table, snapshot, wanted, extent, properties: Arc::new(properties) }))
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
            value.try_as_str().flatten().filter(|text| !text.contains('\0')).map(|text| BoundValue::Text(text.into()))
        }
        _ => None,
    }
}

/// A scan of a table.
struct Scan {
    table: Table,
    snapshot: Arc<dyn Snapshot>,
    wanted: Wanted,
    extent: Option<(ScalarValue, ScalarValue)>,
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

    fn execute(&self, _: usize, _: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let (table, snapshot, wanted) = (self.table.clone(), self.snapshot.clone(), self.wanted.clone());
        let schema = self.schema();
        let rows = {
            let schema = schema.clone();
            async move {
                let rows = snapshot.rows(&table, &wanted).await.map_err(external)?;
                let columns = rows.columns().iter().zip(schema.fields());
                let columns =
                    columns.map(|(column, field)| cast(column, field.data_type())).collect::<Result<_, _>>()?;
                let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
                Ok(RecordBatch::try_new_with_options(schema, columns, &options)?)
            }
        };
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, futures::stream::once(rows))))
    }

    fn statistics_from_inputs(&self, _: &[Arc<Statistics>], _: &StatisticsArgs) -> Result<Arc<Statistics>> {
        let mut statistics = Statistics::new_unknown(&self.schema());
        if let Some((least, greatest)) = &self.extent {
            statistics.column_statistics = vec![ColumnStatistics {
                min_value: Precision::Exact(least.clone()),
                max_value: Precision::Exact(greatest.clone()),
                ..ColumnStatistics::new_unknown()
            }];
        }
        Ok(Arc::new(statistics))
    }
}
