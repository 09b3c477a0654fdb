//! Columns that are not there: each at its place, with the nearest that is.
//!
//! The planner stops at the first. Here it is read as the column that was probably meant, and planned again, so that one
//! misspelt word does not hide the next.

use std::ops::ControlFlow;

use datafusion::common::{DataFusionError, SchemaError};
use datafusion::execution::context::SessionState;
use datafusion::logical_expr::LogicalPlan;
use datafusion::sql::parser::Statement;
use futures::executor::block_on;
use sqlparser::ast::{self, Expr, Ident, Query, VisitMut, VisitorMut};
use sqlparser::tokenizer::Location;

use super::explain::{Relation, explain};
use super::statement::normal;
use crate::error::{Error, Result};

/// The most misspelt columns of one view that are told at once.
const FAULTS_MAX: usize = 20;

/// A query of a statement, as messages name it.
#[derive(Debug, Clone, Copy)]
pub struct Named<'a> {
    /// What it belongs to, such as `view v`.
    pub what: &'a str,
    /// The file that it stands in.
    pub file: &'a str,
    /// Where faults are placed whose own place is not known.
    pub at: (u64, u64),
    /// The query.
    pub query: &'a Query,
    /// What its tables are.
    pub relation: Relation,
}

/// The plan of a query, in which misspelt columns are read as what was probably meant; and those faults.
pub fn resolve(state: &SessionState, named: Named<'_>) -> (Result<LogicalPlan>, Vec<Error>) {
    let Named { what, file, at: (line, column), query, relation } = named;
    let (mut query, mut faults) = (Box::new(query.clone()), Vec::new());
    loop {
        let statement = Statement::Statement(Box::new(ast::Statement::Query(query.clone())));
        let error = match block_on(state.statement_to_plan(statement)) {
            Ok(plan) => return (Ok(plan), faults),
            Err(error) => error,
        };
        let at = place(&mut query, &error).unwrap_or(Location { line, column });
        let mended = faults.len() + 1 < FAULTS_MAX && mend(&mut query, &error, at);
        let fault = explain(error, file, at.line, at.column, what, relation);
        if !mended {
            return (Err(fault), faults);
        }
        faults.push(fault);
    }
}

/// Where the planner found a fault: it does not always say so of a column.
fn place(query: &mut Query, error: &DataFusionError) -> Option<Location> {
    if let Some(span) = error.diagnostic().and_then(|diagnostic| diagnostic.span).filter(|span| span.start.line > 0) {
        return Some(Location { line: span.start.line, column: span.start.column });
    }
    let DataFusionError::SchemaError(schema, _) = error.find_root() else { return None };
    let SchemaError::FieldNotFound { field, .. } = schema.as_ref() else { return None };
    match VisitMut::visit(query, &mut Finding { name: field.name.clone() }) {
        ControlFlow::Break(at) => Some(at),
        ControlFlow::Continue(()) => None,
    }
}

/// Looks for a column of this name.
struct Finding {
    name: String,
}

impl VisitorMut for Finding {
    type Break = Location;

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Location> {
        match column(expr) {
            Some((at, ident)) if normal(ident) == self.name => ControlFlow::Break(at),
            _ => ControlFlow::Continue(()),
        }
    }
}

/// The column that an expression is: where it begins, and its own name.
fn column(expr: &mut Expr) -> Option<(Location, &mut Ident)> {
    match expr {
        Expr::Identifier(ident) => Some((ident.span.start, ident)),
        Expr::CompoundIdentifier(idents) => Some((idents.first()?.span.start, idents.last_mut()?)),
        _ => None,
    }
}

/// Writes the nearest column where the planner found none; whether it could.
fn mend(query: &mut Query, error: &DataFusionError, at: Location) -> bool {
    let DataFusionError::SchemaError(schema, _) = error.find_root() else { return false };
    let SchemaError::FieldNotFound { field, valid_fields } = schema.as_ref() else { return false };
    let Some(meant) = nearest(&field.name, valid_fields.iter().map(|column| column.name.as_str())) else {
        return false;
    };
    let mut mending = Mending { at, written: field.name.clone(), meant, mended: false };
    let _: ControlFlow<()> = VisitMut::visit(query, &mut mending);
    mending.mended
}

/// Writes another name at a place; a window's column stands there several times.
struct Mending {
    at: Location,
    written: String,
    meant: String,
    mended: bool,
}

impl VisitorMut for Mending {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Some((first, ident)) = column(expr)
            && (first == self.at || ident.span.start == self.at)
            && normal(ident) == self.written
        {
            ident.value.clone_from(&self.meant);
            ident.quote_style = Some('"');
            self.mended = true;
        }
        ControlFlow::Continue(())
    }
}

/// The name that is nearest to one that is not there, unless it is far from all; hidden columns are nobody's meaning.
pub fn nearest<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> Option<String> {
    let distance = |other: &str| datafusion::common::utils::datafusion_strsim::levenshtein(name, other);
    let visible = names.filter(|other| !other.starts_with('_'));
    let far = (name.chars().count() / 2).clamp(1, 3);
    visible.map(|other| (distance(other), other)).filter(|(d, _)| *d <= far).min().map(|(_, other)| other.to_string())
}
