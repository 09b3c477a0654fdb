//! What a view's expressions may not hold, and DataFusion's refusals in our words.

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{DataFusionError, SchemaError};
use datafusion::logical_expr::{Expr, LogicalPlan, Volatility};

use crate::error::Error;

/// Refuses what would give another answer the next time.
pub fn refuse_unrepeatable(expr: &Expr) -> datafusion::error::Result<()> {
    expr.apply(|e| match e {
        Expr::ScalarFunction(f) if f.func.signature().volatility != Volatility::Immutable => Err(DataFusionError::Plan(format!(
            "{}() gives another answer each time it is asked, so a replay after a crash would too; use the event time or a column",
            f.func.name()
        ))),
        Expr::Exists(_) | Expr::InSubquery(_) | Expr::ScalarSubquery(_) => {
            Err(DataFusionError::Plan("a subquery in an expression is not supported yet; leave it out".to_string()))
        }
        Expr::Placeholder(p) => Err(DataFusionError::Plan(format!("parameter {} has no value; use ${{NAME}}", p.id))),
        _ => Ok(TreeNodeRecursion::Continue),
    })?;
    Ok(())
}

/// The same for every expression of a plan.
pub fn refuse_expressions(plan: &LogicalPlan) -> datafusion::error::Result<()> {
    plan.apply(|node| {
        for expr in node.expressions() {
            refuse_unrepeatable(&expr)?;
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(())
}

/// DataFusion's refusal as one of ours: place, fact, and the nearest name.
pub fn explain(error: DataFusionError, file: &str, line: u64, column: u64, what: &str) -> Error {
    let (line, column) = match error.diagnostic().and_then(|d| d.span) {
        Some(span) if span.start.line > 0 => (span.start.line, span.start.column),
        _ => (line, column),
    };
    let told = match error.find_root() {
        DataFusionError::SchemaError(schema, _) => match schema.as_ref() {
            SchemaError::FieldNotFound { field, valid_fields } => {
                let names = valid_fields.iter().map(|c| c.name.as_str()).filter(|name| !name.starts_with('_'));
                let error = Error::query("TG-SQL-COLUMN", format!("{what}: there is no column {}", field.name));
                match nearest(&field.name, names) {
                    Some(name) => error.hint(format!("did you mean {name}?")),
                    None => error,
                }
            }
            other => Error::query("TG-SQL-VIEW", format!("{what}: {other}")),
        },
        DataFusionError::Plan(message) => match message.split_once("; ") {
            Some((fact, way_out)) => Error::query("TG-SQL-VIEW", format!("{what}: {fact}")).hint(way_out),
            None => Error::query("TG-SQL-VIEW", format!("{what}: {message}")),
        },
        other => Error::query("TG-SQL-VIEW", format!("{what}: {}", other.strip_backtrace())),
    };
    told.at(file, line, column)
}

fn nearest<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> Option<String> {
    let distance = |other: &str| datafusion::common::utils::datafusion_strsim::levenshtein(name, other);
    names.map(|other| (distance(other), other)).filter(|(d, _)| *d <= 3).min().map(|(_, other)| other.to_string())
}
