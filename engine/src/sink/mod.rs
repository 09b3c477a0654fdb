//! Changes of a view to statements over its table. The one place that builds SQL and quotes identifiers.

pub mod columns;
pub mod types;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::compute::{SortColumn, lexsort_to_indices, take_record_batch};
use arrow::datatypes::DataType;

use crate::error::Result;
use crate::sql::planned::Table;
use crate::view::Changes;
use columns::ColumnParameter;
use types::sql_type;

/// Rows handed over in one statement.
const STATEMENT_ROWS_MAX: usize = 20_000;

/// Quotes an identifier.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Statements over one view's table.
#[derive(Debug, Clone)]
pub struct TableSql {
    /// The table, quoted.
    pub name: String,
    /// Creates it.
    pub create: Vec<String>,
    /// Inserts or updates rows given as one array for each column.
    pub upsert: String,
    /// Deletes rows given as one array for each column of the key.
    pub delete: String,
}

impl TableSql {
    /// The statements for this table.
    pub fn new(table: &Table) -> Self {
        let name = quoted(&table.name);
        let typed = |data_type: &DataType| sql_type(data_type).unwrap_or_default();
        let list = |names: Vec<String>| names.join(", ");
        let columns = list(table.columns.iter().map(|c| quoted(&c.name)).collect());
        let key: Vec<String> = table.key().map(|c| quoted(&c.name)).collect();
        let mut declared: Vec<String> = table
            .columns
            .iter()
            .map(|c| {
                format!(
                    "{} {}{}",
                    quoted(&c.name),
                    typed(&c.data_type),
                    if c.key_of.is_some() && !c.nullable { " NOT NULL" } else { "" }
                )
            })
            .collect();
        let nullable_key = table.key().any(|c| c.nullable);
        let unique = if nullable_key { "UNIQUE NULLS NOT DISTINCT" } else { "PRIMARY KEY" };
        declared.push(format!("{unique} ({})", list(key.clone())));
        // Rows of open windows change often: room on their pages keeps the updates off the index.
        let create = vec![format!("CREATE TABLE {name} ({}) WITH (fillfactor = 70)", list(declared))];
        let parameters = |columns: Vec<&crate::sql::planned::TableColumn>| {
            columns
                .iter()
                .enumerate()
                .map(|(i, c)| format!("${}::{}[]", i + 1, typed(&c.data_type)))
                .collect::<Vec<_>>()
        };
        let values: Vec<String> = table.values().map(|c| quoted(&c.name)).collect();
        let conflict = if values.is_empty() {
            "DO NOTHING".to_string()
        } else {
            let row = |prefix: &str| format!("({})", list(values.iter().map(|v| format!("{prefix}.{v}")).collect()));
            format!(
                "DO UPDATE SET {} WHERE {} IS DISTINCT FROM {}",
                list(values.iter().map(|v| format!("{v} = excluded.{v}")).collect()),
                row("t"),
                row("excluded")
            )
        };
        let upsert = format!(
            "INSERT INTO {name} AS t ({columns}) SELECT * FROM unnest({}) ON CONFLICT ({}) {conflict}",
            list(parameters(table.columns.iter().collect())),
            list(key.clone())
        );
        let matches: Vec<String> = table
            .key()
            .enumerate()
            .map(|(i, c)| {
                let (own, given) = (format!("t.{}", quoted(&c.name)), format!("d.c{i}"));
                if c.nullable {
                    format!("({own} = {given} OR ({own} IS NULL AND {given} IS NULL))")
                } else {
                    format!("{own} = {given}")
                }
            })
            .collect();
        let delete = format!(
            "DELETE FROM {name} AS t USING unnest({}) AS d({}) WHERE {}",
            list(parameters(table.key().collect())),
            list((0..key.len()).map(|i| format!("c{i}")).collect()),
            matches.join(" AND ")
        );
        Self { name, create, upsert, delete }
    }
}

/// Rows as parameters of one statement.
#[derive(Debug, Clone)]
pub struct Rows {
    /// A parameter for each column.
    pub columns: Vec<ColumnParameter>,
    /// The rows themselves, to be halved where the database refuses one.
    pub batch: RecordBatch,
}

impl Rows {
    /// These rows, as they are.
    pub fn new(batch: RecordBatch) -> Result<Self> {
        Ok(Self { columns: batch.columns().iter().map(ColumnParameter::new).collect::<Result<_>>()?, batch })
    }
}

/// A view's changes, ready for the database.
#[derive(Debug, Default)]
pub struct Write {
    /// For the statement `upsert`.
    pub upserts: Vec<Rows>,
    /// For the statement `delete`.
    pub deletes: Vec<Rows>,
}

impl Write {
    /// Sorts rows by key, so that writers of a table meet them in one order and the index is walked forward.
    pub fn new(table: &Table, changes: Changes) -> Result<Self> {
        let key: Vec<usize> = (0..table.columns.len()).filter(|index| table.columns[*index].key_of.is_some()).collect();
        let upserts = cut(&sorted(changes.upserts, &key)?)?;
        let deletes = match changes.deletes {
            Some(keys) => {
                let all: Vec<usize> = (0..keys.num_columns()).collect();
                cut(&sorted(keys, &all)?)?
            }
            None => Vec::new(),
        };
        Ok(Self { upserts, deletes })
    }

    /// Rows that it writes or deletes.
    pub fn rows(&self) -> usize {
        self.upserts.iter().chain(&self.deletes).map(|rows| rows.batch.num_rows()).sum()
    }
}

fn sorted(batch: RecordBatch, key: &[usize]) -> Result<RecordBatch> {
    if batch.num_rows() < 2 {
        return Ok(batch);
    }
    let column =
        |index: &usize| -> SortColumn { SortColumn { values: ArrayRef::clone(batch.column(*index)), options: None } };
    let order = lexsort_to_indices(&key.iter().map(column).collect::<Vec<_>>(), None)?;
    Ok(take_record_batch(&batch, &order)?)
}

fn cut(batch: &RecordBatch) -> Result<Vec<Rows>> {
    (0..batch.num_rows())
        .step_by(STATEMENT_ROWS_MAX)
        .map(|start| Rows::new(batch.slice(start, STATEMENT_ROWS_MAX.min(batch.num_rows() - start))))
        .collect()
}
