//! Statements over a view's table. The one place that builds SQL for SQLite from names.

use arrow::array::RecordBatch;
use sqlx::{AssertSqlSafe, SqliteConnection};

use super::values::{Value, column_type, values};
use super::{Told, bound};
use crate::error::{Error, Result};
use crate::sink::quoted;
use crate::sink::types::sql_type;
use crate::sql::planned::{Table, TableColumn};

/// Rows of one statement: few enough for its parameters, enough to make each crossing worth it.
const STATEMENT_ROWS_MAX: usize = 64;

/// Statements over one view's table.
#[derive(Debug, Clone)]
pub struct TableSql {
    table: Table,
}

fn names<'a>(columns: impl Iterator<Item = &'a TableColumn>) -> Vec<String> {
    columns.map(|column| quoted(&column.name)).collect()
}

impl TableSql {
    /// The statements for this table.
    pub fn new(table: &Table) -> Self {
        Self { table: table.clone() }
    }

    /// Whether two rows may have the same key as far as SQLite can tell: it takes NULLs for different.
    fn key_has_nulls(&self) -> bool {
        self.table.key().any(|column| column.nullable)
    }

    /// Creates the table. Each column says what its values mean: a table of another meaning is another table.
    pub fn create(&self) -> String {
        let declared = self.table.columns.iter().map(|c| {
            let not_null = if c.key_of.is_some() && !c.nullable { " NOT NULL" } else { "" };
            let meaning = sql_type(&c.data_type).unwrap_or_default();
            format!("{} {}{not_null} /* {meaning} */", quoted(&c.name), column_type(&c.data_type))
        });
        let mut declared: Vec<String> = declared.collect();
        if !self.key_has_nulls() {
            declared.push(format!("PRIMARY KEY ({})", names(self.table.key()).join(", ")));
        }
        format!("CREATE TABLE {} ({}) STRICT", quoted(&self.table.name), declared.join(", "))
    }

    /// Creates the index over a key that may have NULLs, which SQLite would not take for unique.
    pub fn create_index(&self) -> Option<String> {
        let (name, index) = (quoted(&self.table.name), quoted(&format!("tidegate_key_{}", self.table.name)));
        let key = names(self.table.key()).join(", ");
        self.key_has_nulls().then(|| format!("CREATE INDEX IF NOT EXISTS {index} ON {name} ({key})"))
    }

    fn upsert(&self, rows: usize) -> String {
        let columns = names(self.table.columns.iter());
        let row = format!("({})", vec!["?"; columns.len()].join(", "));
        let insert = format!(
            "INSERT INTO {} ({}) VALUES {}",
            quoted(&self.table.name),
            columns.join(", "),
            vec![row; rows].join(", ")
        );
        if self.key_has_nulls() {
            return insert;
        }
        let set: Vec<String> = names(self.table.values()).iter().map(|c| format!("{c} = excluded.{c}")).collect();
        let action = if set.is_empty() { "NOTHING".to_string() } else { format!("UPDATE SET {}", set.join(", ")) };
        format!("{insert} ON CONFLICT ({}) DO {action}", names(self.table.key()).join(", "))
    }

    /// Inserts or updates rows.
    pub async fn write(&self, connection: &mut SqliteConnection, rows: &RecordBatch) -> Result<(), Told> {
        if self.key_has_nulls() {
            let key: Vec<usize> =
                (0..self.table.columns.len()).filter(|c| self.table.columns[*c].key_of.is_some()).collect();
            self.delete(connection, &rows.project(&key).map_err(Error::from)?).await?;
        }
        let columns: Vec<Vec<Value>> = rows.columns().iter().map(values).collect::<Result<_>>()?;
        let all: Vec<usize> = (0..rows.num_rows()).collect();
        for chunk in all.chunks(STATEMENT_ROWS_MAX) {
            let cells = chunk.iter().flat_map(|row| columns.iter().map(|column| column[*row].clone()));
            bound(sqlx::query(AssertSqlSafe(self.upsert(chunk.len()))), cells).execute(&mut *connection).await?;
        }
        Ok(())
    }

    /// Deletes rows by their keys.
    pub async fn delete(&self, connection: &mut SqliteConnection, keys: &RecordBatch) -> Result<(), Told> {
        let matches: Vec<String> = names(self.table.key()).iter().map(|c| format!("{c} IS ?")).collect();
        let sql = format!("DELETE FROM {} WHERE {}", quoted(&self.table.name), matches.join(" AND "));
        let columns: Vec<Vec<Value>> = keys.columns().iter().map(values).collect::<Result<_>>()?;
        for row in 0..keys.num_rows() {
            let cells = columns.iter().map(|column| column[row].clone());
            bound(sqlx::query(AssertSqlSafe(sql.clone())), cells).execute(&mut *connection).await?;
        }
        Ok(())
    }

    /// Reads rows in the order of the key, the last ones if not all.
    pub fn select(&self, newest: Option<usize>) -> String {
        let key = names(self.table.key());
        let order: Vec<String> = key.iter().map(|c| format!("{c} DESC")).collect();
        let limit = newest.map_or_else(String::new, |newest| format!(" LIMIT {newest}"));
        format!(
            "SELECT {} FROM {} ORDER BY {}{limit}",
            names(self.table.columns.iter()).join(", "),
            quoted(&self.table.name),
            order.join(", ")
        )
    }
}
