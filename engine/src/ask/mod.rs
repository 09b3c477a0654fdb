//! What people ask of the views' tables: endpoints, gauges, and queries of golden files.
//!
//! ```text
//!  question + values ─► plan ─ scalar subqueries first ─► plan with literals ─► rows
//!                                │                          │
//!                                └───────── table ──────────┴─► one snapshot of the store
//! ```
//!
//! All queries of one answer read one [`Snapshot`], so that an answer never mixes two commits. What a subquery says is put
//! into the plan as a literal, so that `WHERE window_start = (SELECT max(window_start) …)` reads one window and no more.

mod table;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::{cast, concat_batches};
use arrow::datatypes::{DataType, Float64Type};
use datafusion::common::TableReference;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::error::DataFusionError;
use datafusion::execution::context::{ExecutionProps, SessionState};
use datafusion::execution::memory_pool::GreedyMemoryPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::physical_plan::collect;
use datafusion::prelude::{SessionConfig, SessionContext};
use datafusion::scalar::ScalarValue;

use crate::error::{Error, Result};
use crate::show;
use crate::sql::endpoint::{Endpoint, Gauge};
use crate::sql::planned::Table;
use crate::sql::question::{Question, Values};
use crate::store::{Snapshot, Store};
use table::ViewTable;

/// The most rows of an answer.
pub const ROWS_MAX: usize = 10_000;

/// Memory that one answer may use.
const BYTES_MAX: usize = 256 << 20;

/// Answers over one store.
pub struct Asker {
    store: Arc<dyn Store>,
    tables: Vec<Table>,
}

/// An endpoint's answer.
#[derive(Debug)]
pub struct Answer {
    /// The values beside the rows, as JSON.
    pub fields: Vec<(String, Vec<u8>)>,
    /// The rows.
    pub rows: RecordBatch,
}

/// One number of a gauge.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its value.
    pub value: f64,
}

impl Answer {
    /// As one JSON object: the fields, then the rows.
    pub fn json(&self) -> Result<Vec<u8>> {
        let mut text = b"{".to_vec();
        for (name, value) in &self.fields {
            text.extend(serde_json::Value::from(name.as_str()).to_string().into_bytes());
            text.push(b':');
            text.extend(value);
            text.push(b',');
        }
        text.extend(b"\"rows\":");
        text.extend(show::json(&self.rows)?);
        text.push(b'}');
        Ok(text)
    }
}

impl Asker {
    /// Answers over these tables of a store.
    pub fn new(store: Arc<dyn Store>, tables: Vec<Table>) -> Self {
        Self { store, tables }
    }

    /// An endpoint's answer as of one commit, and as of this time.
    pub async fn answer(&self, endpoint: &Endpoint, values: &Values, now_us: i64) -> Result<Answer> {
        let snapshot = self.store.snapshot().await?;
        let state = self.session(&snapshot, now_us)?;
        let mut fields = Vec::new();
        for (name, question) in &endpoint.fields {
            let rows = run(&state, question, values).await?;
            if rows.num_rows() > 1 {
                return Err(Error::query("TG-ENDPOINT", format!("{}: field {name} has several rows", question.what))
                    .hint("select one value"));
            }
            fields.push((name.clone(), value_json(&rows)?));
        }
        let rows = run(&state, &endpoint.rows, values).await?;
        snapshot.done().await?;
        Ok(Answer { fields, rows })
    }

    /// A gauge's numbers; rows whose number is NULL say nothing.
    pub async fn samples(&self, gauge: &Gauge, now_us: i64) -> Result<Vec<Sample>> {
        let snapshot = self.store.snapshot().await?;
        let state = self.session(&snapshot, now_us)?;
        let rows = run(&state, &gauge.rows, &Values::new()).await?;
        snapshot.done().await?;
        let number = gauge.number(&rows.schema())?;
        let values = cast(rows.column(number), &DataType::Float64)?;
        let values = values.as_primitive::<Float64Type>();
        let mut samples = Vec::new();
        for row in (0..rows.num_rows()).filter(|row| values.is_valid(*row)) {
            let label = |(index, column): (usize, &ArrayRef)| -> Result<Option<(String, String)>> {
                let name = rows.schema().field(index).name().clone();
                Ok((index != number).then_some((name, show::cell(column, row)?)))
            };
            let labels = rows.columns().iter().enumerate().map(label).collect::<Result<Vec<_>>>()?;
            samples.push(Sample { labels: labels.into_iter().flatten().collect(), value: values.value(row) });
        }
        Ok(samples)
    }

    /// A session in which every view is a table of this snapshot.
    fn session(&self, snapshot: &Arc<dyn Snapshot>, now_us: i64) -> Result<SessionState> {
        let mut config = SessionConfig::new().with_target_partitions(1);
        config.options_mut().optimizer.enable_dynamic_filter_pushdown = false;
        let runtime =
            RuntimeEnvBuilder::new().with_memory_pool(Arc::new(GreedyMemoryPool::new(BYTES_MAX))).build_arc()?;
        let now = chrono::DateTime::from_timestamp_micros(now_us);
        let context = SessionContext::new_with_config_rt(config, runtime);
        for table in &self.tables {
            let provider = Arc::new(ViewTable::new(table, snapshot));
            context.register_table(TableReference::bare(table.name.as_str()), provider)?;
        }
        let props = match now {
            Some(now) => ExecutionProps::new().with_query_execution_start_time(now),
            None => ExecutionProps::new(),
        };
        Ok(SessionStateBuilder::new_from_existing(context.state()).with_execution_props(props).build())
    }
}

/// Runs a question; at most [`ROWS_MAX`] rows, and an error where there are more.
async fn run(state: &SessionState, question: &Question, values: &Values) -> Result<RecordBatch> {
    let told = |error: DataFusionError| failed(question, error);
    let plan = state.statement_to_plan(question.statement(values)?).await.map_err(told)?;
    let plan = settled(state, plan).await.map_err(told)?;
    let physical = state.create_physical_plan(&plan).await.map_err(told)?;
    let schema = physical.schema();
    let batches = collect(physical, state.task_ctx()).await.map_err(told)?;
    let rows = concat_batches(&schema, &batches)?;
    if rows.num_rows() > ROWS_MAX {
        return Err(Error::query("TG-ENDPOINT-ROWS", format!("{}: it has more than {ROWS_MAX} rows", question.what))
            .hint("put a LIMIT or a narrower WHERE into its query"));
    }
    Ok(rows)
}

/// Why a question could not be answered: what the store said is handed on as it is.
fn failed(question: &Question, error: DataFusionError) -> Error {
    match error.find_root() {
        DataFusionError::External(inner) => match inner.downcast_ref::<Error>() {
            Some(ours) => ours.clone(),
            None => question.told(error),
        },
        DataFusionError::ResourcesExhausted(_) => {
            Error::query("TG-ENDPOINT-MEMORY", format!("{}: it needs more than {} MiB", question.what, BYTES_MAX >> 20))
                .hint("read fewer rows or columns, say by a narrower WHERE")
        }
        _ => question.told(error),
    }
}

/// The plan with the value of each scalar subquery that stands for itself.
async fn settled(state: &SessionState, plan: LogicalPlan) -> datafusion::error::Result<LogicalPlan> {
    let mut inner: Vec<Arc<LogicalPlan>> = Vec::new();
    plan.apply(|node| {
        node.apply_expressions(|expr| {
            expr.apply(|expr| {
                if let Some(plan) = own_subquery(expr) {
                    inner.push(plan.clone());
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    })?;
    if inner.is_empty() {
        return Ok(plan);
    }
    let mut values = Vec::with_capacity(inner.len());
    for subquery in &inner {
        // As deep as people nest them.
        let subquery = Box::pin(settled(state, subquery.as_ref().clone())).await?;
        values.push(scalar(state, &subquery).await?);
    }
    let known = |plan: &Arc<LogicalPlan>| inner.iter().position(|other| Arc::ptr_eq(other, plan));
    let replaced = plan.transform_up(|node| {
        let names = NamePreserver::new(&node);
        node.map_expressions(|expr| {
            let name = names.save(&expr);
            let replaced = expr.transform_up(|expr| match own_subquery(&expr).and_then(known) {
                Some(index) => Ok(Transformed::yes(Expr::Literal(values[index].clone(), None))),
                None => Ok(Transformed::no(expr)),
            })?;
            Ok(replaced.update_data(|expr| name.restore(expr)))
        })?
        .map_data(LogicalPlan::recompute_schema)
    })?;
    Ok(replaced.data)
}

/// The plan of a scalar subquery that uses nothing of what is around it.
fn own_subquery(expr: &Expr) -> Option<&Arc<LogicalPlan>> {
    match expr {
        Expr::ScalarSubquery(subquery) if subquery.outer_ref_columns.is_empty() => Some(&subquery.subquery),
        _ => None,
    }
}

async fn scalar(state: &SessionState, plan: &LogicalPlan) -> datafusion::error::Result<ScalarValue> {
    let physical = state.create_physical_plan(plan).await?;
    let schema = physical.schema();
    let rows = concat_batches(&schema, &collect(physical, state.task_ctx()).await?)?;
    match rows.num_rows() {
        0 => ScalarValue::try_from(schema.field(0).data_type()),
        1 => ScalarValue::try_from_array(rows.column(0), 0),
        _ => Err(DataFusionError::Execution("a subquery that stands for one value has several rows".to_string())),
    }
}

/// The one value of an answer as JSON.
fn value_json(rows: &RecordBatch) -> Result<Vec<u8>> {
    if rows.num_rows() == 0 {
        return Ok(b"null".to_vec());
    }
    // Of `[{"name":value}]`, what stands behind the name.
    let (name, text) = (rows.schema().field(0).name().clone(), show::json(rows)?);
    let head = format!("[{{{}:", serde_json::Value::from(name)).len();
    Ok(text.get(head..text.len().saturating_sub(2)).unwrap_or(b"null").to_vec())
}
