//! A query that somebody asks ad hoc: over one snapshot, as a stream, within limits.
//!
//! Runs in a process that may be ended (`tidegate query-worker`): what it costs to plan is not bounded by anything here.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::catalog::MemorySchemaProvider;
use datafusion::common::TableReference;
use datafusion::error::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::execution::context::SessionState;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::GreedyMemoryPool;
use datafusion::execution::object_store::ObjectStoreRegistry;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::logical_expr::LogicalPlanBuilder;
use datafusion::physical_plan::execute_stream;
use datafusion::prelude::SessionContext;
use futures::StreamExt;
use object_store::ObjectStore;
use url::Url;

use super::source::{ARCHIVE_URL, Source, SourceTable};
use super::system;
use super::table::{self, ViewTable};
use super::{pinned, settled};
use crate::archive::{Files, ReadOnly};
use crate::error::{Error, Result};
use crate::sql::guard::{Asked, Known};
use crate::sql::planned::Table;
use crate::sql::question::session_config;
use crate::sql::{window, window_udfs};
use crate::store::Moment;

/// What a query may use.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Rows of its answer.
    pub rows: usize,
    /// Bytes that its sorts, joins and groups may hold.
    pub memory: usize,
}

/// An answer that comes in batches.
pub struct Rows {
    stream: SendableRecordBatchStream,
    left: usize,
    memory: usize,
    archive: Arc<ReadOnly>,
    /// Whether there were more rows than the limit.
    pub truncated: bool,
}

/// What may be read.
#[derive(Clone, Default)]
pub struct Relations {
    /// Tables of the database, and those of schema `tidegate`.
    pub tables: Vec<Table>,
    /// Sources, by their recent batches.
    pub sources: Vec<Source>,
}

impl Relations {
    /// As the guard wants to know them.
    pub fn known(&self) -> Known<'_> {
        Known {
            tables: self.tables.iter().map(|table| table.name.as_str()).collect(),
            sources: self.sources.iter().map(|source| source.name.as_str()).collect(),
        }
    }
}

/// Plans a query over these relations as of a moment and a time, and begins it.
pub async fn query(
    relations: &Relations,
    (moment, files): (&Arc<dyn Moment>, &Arc<dyn Files>),
    asked: &Asked,
    limits: Limits,
    now_us: i64,
) -> Result<Rows> {
    let archive = Arc::new(ReadOnly::new(files));
    let state = session(relations, (moment, &archive), asked.names_hidden(), limits.memory, now_us)?;
    let plan = asked.plan(&state)?;
    let told = |error| failed(&error, limits.memory, &archive);
    // More than the limit by one, which tells that there are more.
    let plan = if asked.is_explain() {
        plan
    } else {
        let plan = settled(&state, plan).await.map_err(told)?;
        let limited = LogicalPlanBuilder::from(plan).limit(0, Some(limits.rows.saturating_add(1)));
        limited.and_then(LogicalPlanBuilder::build).map_err(told)?
    };
    let physical = state.create_physical_plan(&plan).await.and_then(table::look_at_ends).map_err(told)?;
    let stream = execute_stream(physical, state.task_ctx()).map_err(told)?;
    Ok(Rows { stream, left: limits.rows, memory: limits.memory, archive, truncated: false })
}

impl Rows {
    /// The columns.
    pub fn schema(&self) -> SchemaRef {
        self.stream.schema()
    }

    /// The next rows, up to the limit.
    pub async fn next(&mut self) -> Result<Option<RecordBatch>> {
        while !self.truncated {
            let Some(batch) = self.stream.next().await else { return Ok(None) };
            let batch = batch.map_err(|error| failed(&error, self.memory, &self.archive))?;
            self.truncated = batch.num_rows() > self.left;
            let batch = batch.slice(0, batch.num_rows().min(self.left));
            self.left -= batch.num_rows();
            if batch.num_rows() > 0 {
                return Ok(Some(batch));
            }
        }
        Ok(None)
    }
}

/// A session that knows these relations, and no way to anything else.
fn session(
    relations: &Relations,
    (moment, archive): (&Arc<dyn Moment>, &Arc<ReadOnly>),
    hidden: bool,
    memory: usize,
    now_us: i64,
) -> Result<SessionState> {
    let runtime = RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(GreedyMemoryPool::new(memory)))
        .with_disk_manager_builder(DiskManagerBuilder::default().with_mode(DiskManagerMode::Disabled))
        .with_object_store_registry(Arc::new(OneStore(archive.clone())))
        .build_arc()?;
    let context = SessionContext::new_with_config_rt(session_config(), runtime);
    context.register_udf(window::udf());
    window_udfs().into_iter().for_each(|function| context.register_udf(function));
    if let Some(catalog) = context.catalog(DEFAULT_CATALOG) {
        catalog.register_schema(system::SCHEMA, Arc::new(MemorySchemaProvider::new()))?;
    }
    for table in &relations.tables {
        let provider = Arc::new(ViewTable::new(table, moment));
        let name = match system::name_of(table) {
            Some(name) => TableReference::partial(system::SCHEMA, name),
            None => TableReference::bare(table.name.as_str()),
        };
        context.register_table(name, provider)?;
    }
    for source in &relations.sources {
        let provider = Arc::new(SourceTable::new(source, moment, hidden));
        context.register_table(TableReference::bare(source.name.as_str()), provider)?;
    }
    Ok(pinned(&context, now_us))
}

/// The catalog that names without one are looked for in.
const DEFAULT_CATALOG: &str = "datafusion";

/// Why a query failed, by what somebody can do about it.
fn failed(error: &DataFusionError, memory: usize, archive: &ReadOnly) -> Error {
    if let Some(unread) = archive.failed() {
        return unread;
    }
    let root = error.find_root();
    match root {
        DataFusionError::External(inner) => match inner.downcast_ref::<Error>() {
            Some(ours) => ours.clone(),
            None => Error::query("TG-QUERY-DATA", inner.to_string()),
        },
        DataFusionError::ResourcesExhausted(_) => {
            Error::query("TG-QUERY-MEMORY", format!("the query needs more than {} MiB", memory >> 20))
                .hint("read fewer rows or columns, say by a narrower WHERE")
        }
        DataFusionError::Internal(_) => Error::bug(root.strip_backtrace()),
        DataFusionError::NotImplemented(what) => Error::query("TG-QUERY-UNSUPPORTED", what.clone()),
        DataFusionError::ArrowError(inner, _) => Error::query("TG-QUERY-DATA", inner.to_string())
            .hint("guard the expression, say by nullif(x, 0), try_cast or a wider type"),
        _ => Error::query("TG-QUERY-DATA", root.strip_backtrace()),
    }
}

/// Serves files of the archive and no other URL at all: the default one serves the files of this machine.
#[derive(Debug)]
struct OneStore(Arc<dyn ObjectStore>);

impl ObjectStoreRegistry for OneStore {
    fn register_store(&self, _: &Url, _: Arc<dyn ObjectStore>) -> Option<Arc<dyn ObjectStore>> {
        None
    }

    fn get_store(&self, url: &Url) -> datafusion::error::Result<Arc<dyn ObjectStore>> {
        if ARCHIVE_URL.strip_prefix(url.scheme()).is_some_and(|rest| rest.starts_with("://")) {
            return Ok(self.0.clone());
        }
        datafusion::common::plan_err!("no URL is read here")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use arrow::array::RecordBatch;
    use async_trait::async_trait;

    use super::*;
    use crate::archive::Before;
    use crate::batch::Committed;
    use crate::sql::guard::{Parameters, check};
    use crate::store::Wanted;

    /// Notes what is wanted of tables that are empty.
    #[derive(Default)]
    struct Asking(Mutex<Vec<Option<usize>>>);

    #[async_trait]
    impl Moment for Asking {
        async fn rows(&self, table: &Table, wanted: &Wanted) -> Result<RecordBatch> {
            self.0.lock().unwrap().push(wanted.limit);
            Ok(RecordBatch::new_empty(table.schema()).project(&wanted.columns)?)
        }

        async fn extent(&self, _: &Table, _: usize) -> Result<Option<(i64, i64)>> {
            Ok(None)
        }

        async fn committed(&self, _: &str) -> Result<Option<Committed>> {
            Ok(None)
        }

        async fn archived(&self, _: &str, _: i64, _: (i64, i64)) -> Result<Before> {
            Ok(Before::default())
        }
    }

    struct NoFiles;

    #[async_trait]
    impl Files for NoFiles {
        async fn parts(&self, _: &str, _: &[std::ops::Range<u64>]) -> Result<Vec<bytes::Bytes>> {
            Err(Error::bug("there are none"))
        }
    }

    /// The limits of the scans of a query.
    fn limits(sql: &str) -> Vec<Option<usize>> {
        let relations = Relations { tables: system::tables(), sources: Vec::new() };
        let asking = Arc::new(Asking::default());
        let moment: Arc<dyn Moment> = asking.clone();
        let asked = check(sql, &Parameters::new(), &relations.known()).unwrap();
        let run = async {
            let limits = Limits { rows: 100, memory: 1 << 20 };
            let files: Arc<dyn Files> = Arc::new(NoFiles);
            let mut rows = query(&relations, (&moment, &files), &asked, limits, 0).await.unwrap();
            while rows.next().await.unwrap().is_some() {}
        };
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(run);
        asking.0.lock().unwrap().clone()
    }

    #[test]
    fn only_the_newest_dead_letters_are_read_where_no_more_are_asked_for() {
        let newest = "SELECT * FROM tidegate.dead_letters ORDER BY recorded_at DESC LIMIT 3";
        assert_eq!(limits(newest), [Some(3)]);
        // All that asks for others reads all.
        for sql in [
            "SELECT * FROM tidegate.dead_letters ORDER BY recorded_at LIMIT 3",
            "SELECT * FROM tidegate.dead_letters ORDER BY recorded_at DESC, reason LIMIT 3",
            "SELECT * FROM tidegate.dead_letters WHERE reason = 'late' ORDER BY recorded_at DESC LIMIT 3",
            "SELECT reason FROM tidegate.dead_letters ORDER BY \"offset\" DESC LIMIT 3",
            "SELECT committed_at FROM tidegate.progress ORDER BY committed_at DESC LIMIT 3",
        ] {
            assert_eq!(limits(sql), [None], "{sql}");
        }
    }
}
