//! Statements over a view's table. The one place that builds SQL for Postgres from names.

use arrow::array::RecordBatch;
use arrow::datatypes::DataType;
use tokio_postgres::types::ToSql;

use super::columns::ColumnParameter;
use crate::error::Result;
use crate::sink::quoted;
use crate::sink::types::sql_type;
use crate::sql::planned::{Table, TableColumn};

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
        let parameters = |columns: Vec<&TableColumn>| {
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

/// Rows as parameters of one statement, a whole column each.
pub(super) struct Parameters(Vec<ColumnParameter>);

impl Parameters {
    /// These rows.
    pub(super) fn new(rows: &RecordBatch) -> Result<Self> {
        Ok(Self(rows.columns().iter().map(ColumnParameter::new).collect::<Result<_>>()?))
    }

    /// As the client takes them.
    pub(super) fn all(&self) -> Vec<&(dyn ToSql + Sync)> {
        self.0.iter().map(|column| column as &(dyn ToSql + Sync)).collect()
    }
}
