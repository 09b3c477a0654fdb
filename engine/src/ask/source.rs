//! A source as a table of DataFusion: the rows of its recent batches up to the committed offsets.
//!
//! What a condition says of time, of `_ingested_at`, `_partition` and `_offset` decides which files are read at all; a
//! column that is not asked for is not touched. Conditions are judged again above.

use std::fmt;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, FieldRef, Schema, SchemaRef, TimeUnit};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{ColumnStatistics, DFSchema, Statistics};
use datafusion::datasource::TableType;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{BinaryExpr, Expr, Operator, TableProviderFilterPushDown};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::statistics::StatisticsArgs;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::union::UnionExec;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties, ReplaceChildrenOptions,
};
use datafusion::scalar::ScalarValue;
use object_store::ObjectMeta;
use object_store::path::Path;
use tokio::sync::OnceCell;

use crate::archive::Archived;
use crate::batch::{HIDDEN, INGESTED, TIME_RANGE_US};
use crate::error::Error;
use crate::recent::{Facts, HIDDEN_OF_TABLE, Reader, Slice, absent, table_schema};
use crate::sql::PlannedSource;
use crate::sql::window::{Kind, WINDOW_UDF, called};
use crate::store::Moment;

/// A source that may be asked about.
#[derive(Clone)]
pub struct Source {
    /// Its name.
    pub name: String,
    /// Its event time.
    pub time_column: String,
    /// The files of its recent batches.
    pub reader: Arc<Reader>,
    /// Whether there are files of an archive before them.
    pub archive: bool,
}

impl Source {
    /// Of a source that is declared, below the path where engines write.
    pub fn new(source: &PlannedSource, path: &std::path::Path) -> Self {
        let name = source.source.name.clone();
        let reader = Arc::new(Reader::new(path, &name, table_schema(&source.schema)));
        Self { name, time_column: source.source.time_column.clone(), reader, archive: source.source.options.archive }
    }
}

/// A source's rows as of a moment.
pub struct SourceTable {
    source: Source,
    moment: Arc<dyn Moment>,
    schema: SchemaRef,
    /// Once they were looked for: all scans of a query read the same.
    slices: OnceCell<Vec<Slice>>,
}

impl fmt::Debug for SourceTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SourceTable({})", self.source.name)
    }
}

impl SourceTable {
    /// With or without the columns that are hidden.
    pub fn new(source: &Source, moment: &Arc<dyn Moment>, hidden: bool) -> Self {
        let all = source.reader.schema();
        let shown = if hidden { all.fields().len() } else { all.fields().len() - HIDDEN_OF_TABLE.len() };
        // A file of the archive may be older than a column.
        let of = |field: &FieldRef| field.as_ref().clone().with_nullable(source.archive || field.is_nullable());
        let schema = Arc::new(Schema::new(all.fields()[..shown].iter().map(of).collect::<Vec<_>>()));
        Self { source: source.clone(), moment: moment.clone(), schema, slices: OnceCell::new() }
    }

    /// The files of everything that is committed.
    async fn slices(&self) -> crate::error::Result<&[Slice]> {
        let look = || async {
            match self.moment.committed(&self.source.name).await? {
                Some(committed) => {
                    let reader = self.source.reader.clone();
                    let looking = tokio::task::spawn_blocking(move || reader.slices(&committed)).await;
                    looking.unwrap_or_else(|_| Err(Error::bug("looking for recent batches panicked")))
                }
                // Without a pipeline nothing was committed.
                None => Ok(Vec::new()),
            }
        };
        Ok(self.slices.get_or_try_init(look).await?)
    }

    /// A scan of the files of the archive that lie before these recent batches, unless there are none; and those of the
    /// recent batches that lie behind them.
    async fn archived(
        &self,
        session: &dyn Session,
        slices: Vec<Slice>,
        columns: &[usize],
        filters: &[Expr],
        bounds: &[(Of, Range)],
    ) -> Result<(Option<Arc<dyn ExecutionPlan>>, Vec<Slice>)> {
        if !self.source.archive {
            return Ok((None, slices));
        }
        let all = (TIME_RANGE_US.start, TIME_RANGE_US.end);
        let times = bounds.iter().filter(|(of, _)| *of == Of::Time);
        let times = times.fold(all, |all, (_, range)| (all.0.max(range.0), all.1.min(range.1)));
        let times = (times.0.clamp(all.0, all.1), times.1.clamp(all.0, all.1));
        // The file with which an owner begins has nothing of its commit.
        let has_some = |slice: &&Slice| slice.facts().ranges.iter().any(|(_, from, until)| from < until);
        let oldest = slices.iter().find(has_some).map_or(i64::MAX, |slice| slice.name().first);
        let before = self.moment.archived(&self.source.name, oldest, times).await.map_err(external)?;
        let until = before.until;
        let is_behind = |slice: &Slice| until.is_none_or(|until| slice.name().first > until);
        let slices: Vec<Slice> = slices.into_iter().filter(is_behind).collect();
        // Since this moment some may have been archived and deleted.
        if let (Some(first), Some(offsets)) = (slices.first(), &before.offsets) {
            let of = |partition: i32| offsets.iter().find(|known| known.0 == partition).map(|known| known.1);
            let missing = first.facts().ranges.iter().find(|(p, from, _)| of(*p).is_some_and(|offset| offset < *from));
            if let Some((partition, from, _)) = missing {
                let offset = of(*partition).unwrap_or_default();
                return Err(external(absent(&self.source.name, *partition, offset, *from)));
            }
        }
        if before.files.is_empty() {
            return Ok((None, slices));
        }
        let mut source = ParquetSource::new(self.schema.clone());
        if let Some(condition) = conjunction(filters.iter().cloned()) {
            let schema = DFSchema::try_from(self.schema.as_ref().clone())?;
            source =
                source.with_predicate(session.create_physical_expr(condition, &schema)?).with_enable_page_index(true);
        }
        let file = |file: Archived| {
            Ok(PartitionedFile::new_from_meta(ObjectMeta {
                location: Path::parse(&file.path).map_err(|error| DataFusionError::External(Box::new(error)))?,
                last_modified: chrono::DateTime::UNIX_EPOCH,
                size: file.bytes.unsigned_abs(),
                e_tag: None,
                version: None,
            }))
        };
        let files = before.files.into_iter().map(file).collect::<Result<Vec<_>>>()?;
        let scan = FileScanConfigBuilder::new(ObjectStoreUrl::parse(ARCHIVE_URL)?, Arc::new(source))
            .with_file_group(FileGroup::new(files))
            .with_projection_indices(Some(columns.to_vec()))?;
        Ok((Some(DataSourceExec::from_data_source(scan.build())), slices))
    }

    /// What a condition says of the files in which there may be rows, if anything.
    fn bound(&self, filter: &Expr) -> Option<(Of, Range)> {
        let Expr::BinaryExpr(BinaryExpr { left, op, right }) = filter else { return None };
        let (expr, value, op) = match (left.as_ref(), right.as_ref()) {
            (expr, Expr::Literal(value, _)) => (expr, value, *op),
            (Expr::Literal(value, _), expr) => (expr, value, op.swap()?),
            _ => return None,
        };
        let of = |name: &str| match name {
            name if name == self.source.time_column => Some(Of::Time),
            INGESTED => Some(Of::Ingested),
            name if name == HIDDEN[0] => Some(Of::Partition),
            name if name == HIDDEN[1] => Some(Of::Offset),
            _ => None,
        };
        let (what, low, high) = match expr {
            Expr::Column(column) => {
                let what = of(&column.name)?;
                let (low, high) = ends(what, value)?;
                (what, low, high)
            }
            // An edge of a window says where its rows are.
            Expr::ScalarFunction(function) if function.func.name() == WINDOW_UDF => {
                let [Expr::Column(column), constants @ ..] = function.args.as_slice() else { return None };
                let constants = constants.iter().map(|constant| match constant {
                    Expr::Literal(ScalarValue::Int64(value), _) => *value,
                    _ => None,
                });
                let (windows, edge) = called(&constants.collect::<Option<Vec<i64>>>()?)?;
                if windows.kind != Kind::Tumble || of(&column.name)? != Of::Time {
                    return None;
                }
                let shift = edge.of(crate::sql::window::Span { start: 0, end: windows.size_us });
                let (low, high) = ends(Of::Time, value)?;
                let high = high.saturating_sub(shift).saturating_add(windows.size_us);
                (Of::Time, low.saturating_sub(shift), high)
            }
            _ => return None,
        };
        // Times are compared with a microsecond to spare on both sides.
        let exact = i64::from(low == high);
        let range = match op {
            Operator::Eq => (low, high),
            Operator::Lt => (i64::MIN, high.saturating_sub(exact)),
            Operator::LtEq => (i64::MIN, high),
            Operator::Gt => (low.saturating_add(exact), i64::MAX),
            Operator::GtEq => (low, i64::MAX),
            _ => return None,
        };
        Some((what, range))
    }
}

/// The address by which the query engine knows the archive.
pub const ARCHIVE_URL: &str = "tidegate-archive://files";

fn external(error: Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

/// The least and the greatest value, both included.
type Range = (i64, i64);

/// What files are chosen by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Of {
    Time,
    Ingested,
    Partition,
    Offset,
}

/// The whole numbers, microseconds of times, that a literal lies between.
fn ends(of: Of, value: &ScalarValue) -> Option<Range> {
    if value.is_null() {
        return None;
    }
    if matches!(of, Of::Partition | Of::Offset) {
        return match value.cast_to(&DataType::Int64).ok()? {
            ScalarValue::Int64(Some(value)) => Some((value, value)),
            _ => None,
        };
    }
    if !matches!(value.data_type(), DataType::Timestamp(..)) {
        return None;
    }
    match value.cast_to(&DataType::Timestamp(TimeUnit::Microsecond, None)).ok()? {
        // A finer one lies within a microsecond.
        ScalarValue::TimestampMicrosecond(Some(us), _) => Some((us.saturating_sub(1), us.saturating_add(1))),
        _ => None,
    }
}

/// Whether a file may have rows within all of these.
fn may_hold(facts: &Facts, bounds: &[(Of, Range)]) -> bool {
    let meet = |a: Range, b: Range| a.0 <= b.1 && b.0 <= a.1;
    let numbers = |of: Of| bounds.iter().filter(move |(what, _)| *what == of).map(|(_, range)| *range);
    let by_time = numbers(Of::Time).all(|range| facts.times.is_some_and(|times| meet(times, range)));
    let by_writing = numbers(Of::Ingested).all(|range| meet(facts.ingested, range));
    let by_offset = facts.ranges.iter().filter(|(_, from, until)| from < until).any(|(partition, from, until)| {
        let partition = i64::from(*partition);
        numbers(Of::Partition).all(|range| meet((partition, partition), range))
            && numbers(Of::Offset).all(|range| meet((*from, until - 1), range))
    });
    facts.rows > 0 && by_time && by_writing && by_offset
}

#[async_trait]
impl TableProvider for SourceTable {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        // A file of the archive can be looked into for anything.
        let told = |filter: &&Expr| match self.source.archive || self.bound(filter).is_some() {
            true => TableProviderFilterPushDown::Inexact,
            false => TableProviderFilterPushDown::Unsupported,
        };
        Ok(filters.iter().map(told).collect())
    }

    async fn scan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        _: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let columns = projection.cloned().unwrap_or_else(|| (0..self.schema.fields().len()).collect());
        let bounds: Vec<(Of, Range)> = filters.iter().filter_map(|filter| self.bound(filter)).collect();
        let slices = self.slices().await.map_err(external)?;
        let (archived, slices) = self.archived(session, slices.to_vec(), &columns, filters, &bounds).await?;
        let all = slices.len();
        let slices: Vec<Slice> = slices.into_iter().filter(|slice| may_hold(slice.facts(), &bounds)).collect();
        let schema = Arc::new(self.schema.project(&columns)?);
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema.clone()),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        let (source, properties) = (self.source.name.clone(), Arc::new(properties));
        let recent = Arc::new(RecentScan { source, slices: slices.into(), all, columns, schema, properties });
        match archived {
            Some(archived) => UnionExec::try_new(vec![archived, recent]),
            None => Ok(recent),
        }
    }
}

/// A scan of files.
#[derive(Debug)]
struct RecentScan {
    source: String,
    slices: Arc<[Slice]>,
    /// How many there would be without conditions.
    all: usize,
    columns: Vec<usize>,
    schema: SchemaRef,
    properties: Arc<PlanProperties>,
}

impl RecentScan {
    /// How many rows there are, which the footers tell.
    fn rows(&self) -> Precision<usize> {
        let of = |rows: u64| usize::try_from(rows).unwrap_or(usize::MAX);
        match self.slices.iter().map(|slice| slice.exact_rows().map(of)).sum() {
            Some(rows) => Precision::Exact(rows),
            None => Precision::Inexact(self.slices.iter().map(|slice| of(slice.facts().rows)).sum()),
        }
    }
}

impl DisplayAs for RecentScan {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (read, columns) = (self.slices.len(), &self.columns);
        write!(
            f,
            "RecentScan: {}, {read} of {} files, {} rows, columns {columns:?}",
            self.source,
            self.all,
            self.rows()
        )
    }
}

impl ExecutionPlan for RecentScan {
    fn name(&self) -> &'static str {
        "RecentScan"
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

    /// To count rows no file is read.
    fn statistics_from_inputs(&self, _: &[Arc<Statistics>], _: &StatisticsArgs) -> Result<Arc<Statistics>> {
        Ok(Arc::new(Statistics {
            num_rows: self.rows(),
            total_byte_size: Precision::Absent,
            column_statistics: vec![ColumnStatistics::new_unknown(); self.columns.len()],
        }))
    }

    fn execute(&self, _: usize, _: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let (slices, columns, schema) = (self.slices.clone(), self.columns.clone(), self.schema.clone());
        let of_slice = move |index: usize| -> Vec<Result<RecordBatch>> {
            match slices[index].rows(&columns, &schema) {
                Ok(batches) => batches.into_iter().map(Ok).collect(),
                Err(error) => vec![Err(DataFusionError::External(Box::new(error)))],
            }
        };
        let batches = (0..self.slices.len()).flat_map(of_slice);
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema.clone(), futures::stream::iter(batches))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        Facts { ranges: vec![(0, 10, 20), (1, 5, 5)], rows: 10, times: Some((1_000, 2_000)), ingested: (3_000, 3_000) }
    }

    #[test]
    fn a_file_is_left_out_only_if_nothing_in_it_can_fit() {
        for (bounds, held) in [
            (vec![], true),
            (vec![(Of::Time, (2_000, i64::MAX))], true),
            (vec![(Of::Time, (2_001, i64::MAX))], false),
            (vec![(Of::Time, (i64::MIN, 999))], false),
            (vec![(Of::Ingested, (3_000, 3_000))], true),
            (vec![(Of::Partition, (0, 0))], true),
            // It names the partition, and has nothing of it.
            (vec![(Of::Partition, (1, 1))], false),
            (vec![(Of::Offset, (19, 25))], true),
            (vec![(Of::Offset, (20, 25))], false),
            (vec![(Of::Partition, (1, 1)), (Of::Offset, (12, 12))], false),
        ] {
            assert_eq!(may_hold(&facts(), &bounds), held, "{bounds:?}");
        }
    }

    #[test]
    fn literals_are_taken_for_what_they_are() {
        let ns = |value| ScalarValue::TimestampNanosecond(Some(value), None);
        assert_eq!(ends(Of::Time, &ns(5_500)), Some((4, 6)));
        assert_eq!(ends(Of::Time, &ScalarValue::Int64(Some(5))), None);
        assert_eq!(ends(Of::Time, &ScalarValue::TimestampNanosecond(None, None)), None);
        assert_eq!(ends(Of::Offset, &ScalarValue::Int64(Some(5))), Some((5, 5)));
        assert_eq!(ends(Of::Offset, &ScalarValue::Utf8(Some("x".to_string()))), None);
    }
}
