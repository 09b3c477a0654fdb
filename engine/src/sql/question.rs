//! A query over the views' tables that is asked again and again: the text of endpoints and gauges.
//!
//! Its parameters (`$name`) are replaced in the parsed text by literals of their declared types, so that a value is never
//! read as SQL and every plan knows it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::common::TableReference;
use datafusion::datasource::empty::EmptyTable;
use datafusion::prelude::{SessionConfig, SessionContext};
use datafusion::sql::parser::Statement;
use futures::executor::block_on;
use sqlparser::ast::{self, CastKind, Expr, Query, Value, VisitMut, VisitorMut};

use super::explain::{Relation, explain};
use super::names;
use super::planned::Table;
use super::statement::Cursor;
use crate::error::{Error, Result};

/// A query, where it stands, and what it belongs to.
#[derive(Debug, Clone)]
pub struct Question {
    /// What it belongs to, such as `endpoint /streams/top`.
    pub what: String,
    /// The file that declares it.
    pub file: String,
    /// The line of its first word.
    pub line: u64,
    /// The column of its first word.
    pub column: u64,
    query: Box<Query>,
    /// The parameters that it uses.
    pub parameters: BTreeSet<String>,
}

/// Values of parameters, by name.
pub type Values = BTreeMap<String, Literal>;

/// A value as SQL has it.
#[derive(Debug, Clone)]
pub struct Literal {
    /// Its text; NULL without one.
    pub text: Option<String>,
    /// Its type.
    pub sql_type: ast::DataType,
}

impl Literal {
    fn expr(&self) -> Expr {
        let plain = |value: Value| Expr::Value(value.with_empty_span());
        let value = match &self.text {
            None => plain(Value::Null),
            // LIMIT takes nothing but a number.
            Some(text) if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) && self.is_integer() => {
                return plain(Value::Number(text.clone(), false));
            }
            Some(text) => plain(Value::SingleQuotedString(text.clone())),
        };
        let data_type = self.sql_type.clone();
        Expr::Cast { kind: CastKind::Cast, expr: Box::new(value), data_type, array: false, format: None }
    }

    fn is_integer(&self) -> bool {
        matches!(self.sql_type, ast::DataType::Int(_) | ast::DataType::Integer(_) | ast::DataType::BigInt(_))
    }
}

/// A parameter's name as it was declared: unquoted names fold.
fn parameter_name(written: &str) -> String {
    written.trim_start_matches('$').to_lowercase()
}

/// The session in which questions are planned, and in which they are answered.
pub fn session_config() -> SessionConfig {
    let mut config = SessionConfig::new().with_target_partitions(1);
    let options = config.options_mut();
    options.execution.time_zone = Some("+00:00".to_string());
    options.sql_parser.collect_spans = true;
    options.optimizer.enable_dynamic_filter_pushdown = false;
    config
}

/// A name that two columns have.
fn twice(schema: &SchemaRef) -> Option<&String> {
    let names: Vec<&String> = schema.fields().iter().map(|field| field.name()).collect();
    names.iter().enumerate().find(|(index, name)| names[..*index].contains(name)).map(|(_, name)| *name)
}

/// Collects the parameters of a query.
#[derive(Default)]
struct Using(BTreeSet<String>);

impl VisitorMut for Using {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Expr::Value(value) = expr
            && let Value::Placeholder(written) = &value.value
        {
            self.0.insert(parameter_name(written));
        }
        ControlFlow::Continue(())
    }
}

/// Puts values where parameters stand.
struct Filling<'a> {
    values: &'a Values,
    missing: Option<String>,
}

impl VisitorMut for Filling<'_> {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Expr::Value(value) = expr
            && let Value::Placeholder(written) = &value.value
        {
            match self.values.get(&parameter_name(written)) {
                Some(literal) => *expr = literal.expr(),
                None => {
                    self.missing.get_or_insert(written.clone());
                }
            }
        }
        ControlFlow::Continue(())
    }
}

impl Question {
    /// Reads a query from here to the token at `end`.
    pub fn parse(cursor: &mut Cursor<'_>, what: &str, end: usize) -> Result<Self> {
        let (line, column) = cursor.place();
        let mut query = cursor.parse_until(end, |parser| parser.parse_query())?;
        if cursor.index() < end {
            return Err(cursor.error("TG-SQL-SYNTAX", "the query should end here"));
        }
        let mut used = Using::default();
        let _: ControlFlow<()> = VisitMut::visit(&mut query, &mut used);
        let (what, file) = (what.to_string(), cursor.file().to_string());
        Ok(Self { what, file, line, column, query, parameters: used.0 })
    }

    fn filled(&self, values: &Values) -> Result<Box<Query>> {
        let mut query = self.query.clone();
        let mut filling = Filling { values, missing: None };
        let _: ControlFlow<()> = VisitMut::visit(&mut query, &mut filling);
        let Some(missing) = filling.missing else { return Ok(query) };
        let known: Vec<String> = values.keys().map(|name| format!("${name}")).collect();
        let error = Error::query("TG-SQL-PARAMETER", format!("{}: {missing} is not declared", self.what)).at(
            &self.file,
            self.line,
            self.column,
        );
        Err(if known.is_empty() {
            error.hint("declare it in parentheses behind the path, such as (minutes INT DEFAULT 60)")
        } else {
            error.hint(format!("there are {}", known.join(", ")))
        })
    }

    /// The statement with these values.
    pub fn statement(&self, values: &Values) -> Result<Statement> {
        Ok(Statement::Statement(Box::new(ast::Statement::Query(self.filled(values)?))))
    }

    /// Plans it over empty tables; what its answer looks like, or every misspelt column.
    pub fn check(&self, tables: &[&Table], values: &Values) -> Result<SchemaRef, Vec<Error>> {
        let query = self.filled(values).map_err(|error| vec![error])?;
        let session = SessionContext::new_with_config(session_config());
        for table in tables {
            let empty = Arc::new(EmptyTable::new(table.schema()));
            session.register_table(TableReference::bare(table.name.as_str()), empty).map_err(|e| vec![e.into()])?;
        }
        let state = session.state();
        let at = (self.line, self.column);
        let relation = Relation::View;
        let named = names::Named { what: &self.what, file: &self.file, at, query: &query, relation };
        let (plan, mut faults) = names::resolve(&state, named);
        let planned = plan.and_then(|plan| {
            let planned = block_on(state.create_physical_plan(&plan));
            planned.map_err(|error| self.told(error))
        });
        match planned {
            Ok(plan) if faults.is_empty() => match twice(&plan.schema()) {
                None => return Ok(plan.schema()),
                Some(name) => faults.push(
                    Error::query("TG-SQL-ENDPOINT", format!("{}: it has two columns {name}", self.what))
                        .hint("rename one with AS")
                        .at(&self.file, self.line, self.column),
                ),
            },
            Ok(_) => {}
            Err(fault) => faults.push(fault),
        }
        Err(faults)
    }

    /// DataFusion's refusal, with our names and place.
    pub fn told(&self, error: datafusion::error::DataFusionError) -> Error {
        explain(error, &self.file, self.line, self.column, &self.what, Relation::View)
    }
}
