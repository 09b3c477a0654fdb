//! What a golden file may ask: the views' tables and ours, as tables of DataFusion, and values as text.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use datafusion::catalog::{MemorySchemaProvider, SchemaProvider};
use datafusion::common::config::Dialect;
use datafusion::datasource::MemTable;
use datafusion::prelude::{SessionConfig, SessionContext};

use crate::error::{Error, Result};
use crate::show;
use crate::sql::planned::Table;
use crate::store::Store;
use crate::time;

fn times(values: Vec<i64>) -> ArrayRef {
    let values = values.into_iter().map(|us| (us != time::NONE).then_some(us));
    Arc::new(TimestampMicrosecondArray::from_iter(values).with_timezone("+00:00"))
}

fn ints(values: Vec<i64>) -> ArrayRef {
    Arc::new(Int64Array::from(values))
}

fn texts<'a>(values: impl Iterator<Item = &'a str>) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(values))
}

/// Runs a query over a store.
pub async fn query(store: &dyn Store, views: &[Table], text: &str) -> Result<Vec<Vec<String>>> {
    let mut config = SessionConfig::new().with_target_partitions(1);
    // Whose keywords leave `view` to be a column.
    config.options_mut().sql_parser.dialect = Dialect::PostgreSQL;
    let context = SessionContext::new_with_config(config);
    for view in views {
        let rows = store.rows(view, None).await?;
        let table = MemTable::try_new(rows.schema(), vec![vec![rows]])?;
        context.register_table(datafusion::common::TableReference::bare(view.name.as_str()), Arc::new(table))?;
    }
    register_ours(store, &context).await?;
    let told = |error: datafusion::error::DataFusionError| Error::query("TG-TEST-QUERY", error.strip_backtrace());
    let batches = context.sql(text).await.map_err(told)?.collect().await.map_err(told)?;
    let mut rows = Vec::new();
    for batch in &batches {
        for row in 0..batch.num_rows() {
            rows.push(batch.columns().iter().map(|column| cell(column, row)).collect::<Result<_>>()?);
        }
    }
    Ok(rows)
}

async fn register_ours(store: &dyn Store, context: &SessionContext) -> Result<()> {
    let schema = Arc::new(MemorySchemaProvider::new());
    let register = |name: &str, columns: Vec<(&str, ArrayRef)>| -> Result<()> {
        let batch = RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, c)| (name, c, true)))?;
        schema.register_table(name.to_string(), Arc::new(MemTable::try_new(batch.schema(), vec![vec![batch]])?))?;
        Ok(())
    };
    let status = store.status().await?;
    let (p, q, v) = (&status.pipelines, &status.partitions, &status.views);
    register(
        "pipelines",
        vec![
            ("pipeline", texts(p.iter().map(|p| p.pipeline.as_str()))),
            ("topic", texts(p.iter().map(|p| p.topic.as_str()))),
            ("commits", ints(p.iter().map(|p| p.commits).collect())),
            ("watermark", times(p.iter().map(|p| p.watermark).collect())),
            ("read", ints(p.iter().map(|p| p.read).collect())),
            ("decoded", ints(p.iter().map(|p| p.decoded).collect())),
            ("rejected", ints(p.iter().map(|p| p.rejected).collect())),
        ],
    )?;
    register(
        "progress",
        vec![
            ("pipeline", texts(q.iter().map(|q| q.pipeline.as_str()))),
            ("part", Arc::new(Int32Array::from_iter_values(q.iter().map(|q| q.partition)))),
            ("next_offset", ints(q.iter().map(|q| q.next_offset).collect())),
            ("watermark", times(q.iter().map(|q| q.watermark).collect())),
            ("idle", Arc::new(BooleanArray::from_iter(q.iter().map(|q| Some(q.idle))))),
        ],
    )?;
    register(
        "view_progress",
        vec![
            ("view", texts(v.iter().map(|v| v.view.as_str()))),
            ("pipeline", texts(v.iter().map(|v| v.pipeline.as_str()))),
            ("closed_until", times(v.iter().map(|v| v.closed_until).collect())),
            ("decoded", ints(v.iter().map(|v| v.counts.decoded).collect())),
            ("filtered", ints(v.iter().map(|v| v.counts.filtered).collect())),
            ("accepted", ints(v.iter().map(|v| v.counts.accepted).collect())),
            ("late", ints(v.iter().map(|v| v.counts.late).collect())),
            ("failed", ints(v.iter().map(|v| v.counts.failed).collect())),
        ],
    )?;
    let d = store.dead_letters(1_000_000).await?;
    register(
        "dead_letters",
        vec![
            ("pipeline", texts(d.iter().map(|d| d.pipeline.as_str()))),
            ("view", texts(d.iter().map(|d| d.view.as_str()))),
            ("part", Arc::new(Int32Array::from_iter_values(d.iter().map(|d| d.partition)))),
            ("offset", ints(d.iter().map(|d| d.offset).collect())),
            ("reason", texts(d.iter().map(|d| d.reason.as_str()))),
            ("topic", texts(d.iter().map(|d| d.topic.as_str()))),
            ("count", ints(d.iter().map(|d| d.count).collect())),
            ("detail", texts(d.iter().map(|d| d.detail.as_str()))),
            ("payload", Arc::new(BinaryArray::from_iter(d.iter().map(|d| d.payload.as_deref())))),
        ],
    )?;
    let catalog = context.catalog("datafusion").ok_or_else(|| Error::bug("there is no catalog"))?;
    catalog.register_schema("tidegate", schema)?;
    Ok(())
}

/// A value as golden files show it.
fn cell(column: &ArrayRef, row: usize) -> Result<String> {
    let text = show::cell(column, row)?;
    Ok(if text.is_empty() { "(empty)".to_string() } else { text })
}
