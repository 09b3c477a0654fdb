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

pub mod adhoc;
pub mod catalog;
pub mod source;
pub mod system;
mod table;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, AsArray, RecordBatch};
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
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder};
use datafusion::physical_plan::collect;
use datafusion::prelude::SessionContext;
use datafusion::scalar::ScalarValue;

use crate::error::{Error, Result};
use crate::show;
use crate::sql::endpoint::{Endpoint, Gauge};
use crate::sql::physical_rules;
use crate::sql::planned::Table;
use crate::sql::question::{Question, Values, session_config};
use crate::store::{Moment, Snapshot, Store};
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

    /// An endpoint's answer as of one commit, and as of this time. The database has `limit` for each of its queries.
    pub async fn answer(&self, endpoint: &Endpoint, values: &Values, now_us: i64, limit: Duration) -> Result<Answer> {
        let snapshot = self.store.snapshot(limit).await?;
        let answer = self.answer_of(&snapshot, endpoint, values, now_us).await;
        snapshot.done().await.and(answer)
    }

    async fn answer_of(
        &self,
        snapshot: &Arc<dyn Snapshot>,
        endpoint: &Endpoint,
        values: &Values,
        now_us: i64,
    ) -> Result<Answer> {
        let moment: Arc<dyn Moment> = snapshot.clone();
        let state = self.session(&moment, now_us)?;
        let mut fields = Vec::new();
        for (name, question) in &endpoint.fields {
            let rows = run(&state, question, values).await?;
            if rows.num_rows() > 1 {
                return Err(Error::query("TG-ENDPOINT", format!("{}: field {name} has several rows", question.what))
                    .hint("select one value"));
            }
            fields.push((name.clone(), value_json(&rows)?));
        }
        Ok(Answer { fields, rows: run(&state, &endpoint.rows, values).await? })
    }

    /// A gauge's numbers; rows whose number is NULL say nothing.
    pub async fn samples(&self, gauge: &Gauge, now_us: i64, limit: Duration) -> Result<Vec<Sample>> {
        let snapshot = self.store.snapshot(limit).await?;
        let moment: Arc<dyn Moment> = snapshot.clone();
        let rows = async { run(&self.session(&moment, now_us)?, &gauge.rows, &Values::new()).await }.await;
        let rows = snapshot.done().await.and(rows)?;
        let number = gauge.number(&rows.schema())?;
        let values = cast(rows.column(number), &DataType::Float64)?;
        let values = values.as_primitive::<Float64Type>();
        let mut samples: BTreeMap<BTreeMap<String, String>, f64> = BTreeMap::new();
        for row in (0..rows.num_rows()).filter(|row| values.is_valid(*row)) {
            let labels = labels(&rows, number, row)?;
            if let Some((twice, _)) = samples.get_key_value(&labels) {
                return Err(Error::query(
                    "TG-GAUGE",
                    format!("{}: two rows have the labels {twice:?}", gauge.rows.what),
                )
                .hint("group by the labels, or narrow it to one window"));
            }
            samples.insert(labels, values.value(row));
        }
        Ok(samples.into_iter().map(|(labels, value)| Sample { labels, value }).collect())
    }

    /// A session in which every view is a table of this snapshot.
    fn session(&self, snapshot: &Arc<dyn Moment>, now_us: i64) -> Result<SessionState> {
        let runtime =
            RuntimeEnvBuilder::new().with_memory_pool(Arc::new(GreedyMemoryPool::new(BYTES_MAX))).build_arc()?;
        let context = SessionContext::new_with_config_rt(session_config(), runtime);
        for table in &self.tables {
            let provider = Arc::new(ViewTable::new(table, snapshot));
            context.register_table(TableReference::bare(table.name.as_str()), provider)?;
        }
        Ok(pinned(&context, now_us))
    }
}

/// The context's state, in which it is this time, and in which nothing is computed that a filter drops.
fn pinned(context: &SessionContext, now_us: i64) -> SessionState {
    let now = chrono::DateTime::from_timestamp_micros(now_us).unwrap_or_default();
    let props = ExecutionProps::new().with_query_execution_start_time(now);
    let builder = SessionStateBuilder::new_from_existing(context.state()).with_execution_props(props);
    builder.with_physical_optimizer_rules(physical_rules()).build()
}

/// The labels of a row: its texts; NULL is an empty one, as Prometheus has it.
fn labels(rows: &RecordBatch, number: usize, row: usize) -> Result<BTreeMap<String, String>> {
    let mut labels = BTreeMap::new();
    for (index, column) in rows.columns().iter().enumerate().filter(|(index, _)| *index != number) {
        let text = if column.is_null(row) { String::new() } else { show::cell(column, row)? };
        labels.insert(rows.schema().field(index).name().clone(), text);
    }
    Ok(labels)
}

/// Runs a question; at most [`ROWS_MAX`] rows, and an error where there are more.
async fn run(state: &SessionState, question: &Question, values: &Values) -> Result<RecordBatch> {
    let told = |error: DataFusionError| failed(question, error);
    let plan = state.statement_to_plan(question.statement(values)?).await.map_err(told)?;
    let plan = settled(state, plan).await.map_err(told)?;
    let rows = rows(state, plan, ROWS_MAX + 1).await.map_err(told)?;
    if rows.num_rows() > ROWS_MAX {
        return Err(Error::query("TG-ENDPOINT-ROWS", format!("{}: it has more than {ROWS_MAX} rows", question.what))
            .hint("put a LIMIT or a narrower WHERE into its query"));
    }
    Ok(rows)
}

/// The rows of a plan, at most so many.
async fn rows(state: &SessionState, plan: LogicalPlan, most: usize) -> datafusion::error::Result<RecordBatch> {
    let plan = LogicalPlanBuilder::from(plan).limit(0, Some(most))?.build()?;
    let physical = table::look_at_ends(state.create_physical_plan(&plan).await?)?;
    let schema = physical.schema();
    Ok(concat_batches(&schema, &collect(physical, state.task_ctx()).await?)?)
}

/// Why a question could not be answered: with its name, and what the store said as it said it.
fn failed(question: &Question, error: DataFusionError) -> Error {
    let root = error.find_root();
    let ours = match root {
        DataFusionError::External(inner) => inner.downcast_ref::<Error>().cloned(),
        DataFusionError::ResourcesExhausted(_) => Some(
            Error::query("TG-ENDPOINT-MEMORY", format!("it needs more than {} MiB", BYTES_MAX >> 20))
                .hint("read fewer rows or columns, say by a narrower WHERE"),
        ),
        _ => None,
    };
    let ours = ours.unwrap_or_else(|| {
        Error::query("TG-ENDPOINT", root.strip_backtrace())
            .hint("guard the expression, say by nullif(x, 0), or bound its parameters by BETWEEN or IN")
            .at(&question.file, question.line, question.column)
    });
    Error { message: format!("{}: {}", question.what, ours.message), ..ours }
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
    let found = rows(state, plan.clone(), 2).await?;
    match found.num_rows() {
        0 => ScalarValue::try_from(found.schema().field(0).data_type()),
        1 => ScalarValue::try_from_array(found.column(0), 0),
        _ => Err(DataFusionError::Execution("a subquery that stands for one value has several rows".to_string())),
    }
}

/// The one value of an answer as JSON.
fn value_json(rows: &RecordBatch) -> Result<Vec<u8>> {
    if rows.num_rows() == 0 {
        return Ok(b"null".to_vec());
    }
    let value = RecordBatch::try_from_iter_with_nullable([("v", rows.column(0).clone(), true)])?;
    let text = show::json(&value)?;
    Ok(text.strip_prefix(b"[{\"v\":").and_then(|rest| rest.strip_suffix(b"}]")).unwrap_or(b"null").to_vec())
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use async_trait::async_trait;

    use super::*;
    use crate::archive::Before;
    use crate::batch::Committed;
    use crate::sql::Catalog;
    use crate::store::memory::MemoryStore;
    use crate::store::{Order, Wanted};

    /// Tells the ends of every table, and notes what else is wanted.
    #[derive(Default)]
    struct Ends(Mutex<Vec<String>>);

    #[async_trait]
    impl Moment for Ends {
        async fn rows(&self, table: &Table, wanted: &Wanted) -> Result<RecordBatch> {
            let column = |index: usize| table.columns[index].name.as_str();
            let mut told = format!("{:?} {:?}", wanted.columns, wanted.bounds);
            if let Some(limit) = wanted.limit {
                let by = |by: &Order| {
                    let (down, nulls) =
                        (if by.descending { " down" } else { "" }, if by.nulls_first { "" } else { " last" });
                    format!(" {}{down}{nulls}", column(by.column))
                };
                told.push_str(&format!(", first {limit}{}", wanted.order.iter().map(by).collect::<String>()));
            }
            self.0.lock().unwrap().push(told);
            Ok(RecordBatch::new_empty(table.schema()).project(&wanted.columns)?)
        }

        async fn extent(&self, _: &Table, column: usize) -> Result<Option<(i64, i64)>> {
            self.0.lock().unwrap().push(format!("ends of {column}"));
            Ok(Some((0, 60_000_000)))
        }

        async fn committed(&self, _: &str) -> Result<Option<Committed>> {
            Ok(None)
        }

        async fn archived(&self, _: &str, _: i64, _: (i64, i64)) -> Result<Before> {
            Ok(Before::default())
        }
    }

    /// What is wanted of the store to answer a query, and the answer.
    fn asked(query: &str) -> (Vec<String>, String) {
        let text = format!(
            "CREATE SOURCE s (ts TIMESTAMP WITH TIME ZONE, k VARCHAR, WATERMARK FOR ts AS ts)
             WITH (connector = 'kafka', topic = 't', format = 'json', scan.startup.mode = 'earliest');
             CREATE MATERIALIZED VIEW v AS SELECT window_start, k, count(*) AS n FROM TUMBLE(s, ts, INTERVAL '1 minute') GROUP BY window_start, k;
             CREATE ENDPOINT '/x' AS {query};"
        );
        let catalog = Catalog::of_texts(&[("q.sql".to_string(), text)], |_| None).unwrap();
        let tables = catalog.views.iter().map(|view| view.table.clone()).collect();
        let asker = Asker::new(Arc::new(MemoryStore::default()), tables);
        let ends = Arc::new(Ends::default());
        let snapshot: Arc<dyn Moment> = ends.clone();
        let state = asker.session(&snapshot, 0).unwrap();
        let values = Values::new();
        let rows = run(&state, &catalog.endpoints[0].rows, &values);
        let rows = tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(rows).unwrap();
        let told = ends.0.lock().unwrap().clone();
        (told, String::from_utf8(show::json(&rows).unwrap()).unwrap())
    }

    #[test]
    fn the_newest_window_needs_no_scan_of_all() {
        let (wanted, answer) = asked("SELECT max(window_start) AS newest, min(window_start) AS oldest FROM v");
        assert_eq!(wanted, ["ends of 0"]);
        assert_eq!(answer, r#"[{"newest":"1970-01-01T00:01:00Z","oldest":"1970-01-01T00:00:00Z"}]"#);
        let (wanted, _) = asked("SELECT n FROM v WHERE window_start = (SELECT max(window_start) FROM v)");
        assert_eq!(wanted[0], "ends of 0");
        let bounded = "[0, 2] [Bound { column: 0, comparison: Equal, value: Time(60000000) }], first 10001";
        assert_eq!(wanted[1], bounded);
        // All that asks for more than the ends reads more.
        for query in [
            "SELECT count(window_start) AS n FROM v",
            "SELECT max(window_start) AS a, count(*) AS n FROM v",
            "SELECT max(window_start) AS a FROM v WHERE k = 'a'",
            "SELECT k, max(window_start) AS a FROM v GROUP BY k",
            "SELECT max(window_start) FILTER (WHERE n > 1) AS a FROM v",
            "SELECT max(n) AS a FROM v",
        ] {
            let (wanted, _) = asked(query);
            assert!(wanted.len() == 1 && wanted[0].starts_with('['), "{query}: {wanted:?}");
        }
    }

    #[test]
    fn no_more_rows_are_read_than_a_limit_lets_pass() {
        for (query, wanted) in [
            ("SELECT * FROM v LIMIT 3", "0 bounds, first 3"),
            ("SELECT n FROM v ORDER BY window_start DESC LIMIT 3", "0 bounds, first 3 window_start down"),
            ("SELECT n FROM v ORDER BY window_start DESC LIMIT 3 OFFSET 4", "0 bounds, first 7 window_start down"),
            ("SELECT n FROM v ORDER BY n DESC, k LIMIT 3", "0 bounds, first 3 n down k last"),
            ("SELECT n FROM v ORDER BY k DESC NULLS LAST LIMIT 3", "0 bounds, first 3 k down last"),
            ("SELECT n + 1 AS m, k AS c FROM v ORDER BY c NULLS FIRST LIMIT 3", "0 bounds, first 3 k"),
            (
                "SELECT k FROM v WHERE n > 4 AND k = 'a' ORDER BY window_start LIMIT 3",
                "2 bounds, first 3 window_start last",
            ),
            ("SELECT * FROM v WHERE 4 < n LIMIT 3", "1 bounds, first 3"),
            // All that the whole answer may have.
            ("SELECT n FROM v ORDER BY n", "0 bounds, first 10001 n last"),
        ] {
            let told = asked(query).0;
            let first = told[0].rsplit_once("], ").map_or("", |(_, first)| first);
            let bounds = told[0].matches("Bound {").count();
            assert_eq!((told.len(), format!("{bounds} bounds, {first}").as_str()), (1, wanted), "{query}");
        }
        // A row that something above may drop, or that another may stand before, does not count.
        for query in [
            "SELECT k FROM v WHERE n > 4 AND k <> 'a' ORDER BY window_start LIMIT 3",
            "SELECT k FROM v WHERE k > 'a' LIMIT 3",
            "SELECT k FROM v WHERE n > 4 OR k = 'a' ORDER BY window_start LIMIT 3",
            "SELECT k FROM v ORDER BY lower(k) LIMIT 3",
            "SELECT k, n + 1 AS m FROM v ORDER BY m LIMIT 3",
            "SELECT k, CAST(n AS DOUBLE) AS m FROM v ORDER BY m LIMIT 3",
            "SELECT k, max(n) AS m FROM v GROUP BY k ORDER BY m LIMIT 3",
            "SELECT DISTINCT k FROM v ORDER BY k LIMIT 3",
            "SELECT k, row_number() OVER (ORDER BY n) AS m FROM v ORDER BY k LIMIT 3",
        ] {
            let (wanted, _) = asked(query);
            assert!(wanted.iter().all(|wanted| !wanted.contains(", first")), "{query}: {wanted:?}");
        }
    }

    #[test]
    fn now_has_the_zone_of_all_times() {
        assert_eq!(asked("SELECT now() AS now").1, r#"[{"now":"1970-01-01T00:00:00Z"}]"#);
    }
}
