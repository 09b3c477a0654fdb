//! What a view's expressions may not hold, DataFusion's refusals in our words, and what a view will do.

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{DataFusionError, SchemaError};
use datafusion::logical_expr::{Expr, LogicalPlan, Volatility};

use super::names;
use super::planned::{Aggregate, Emit, PlannedView, Shape};
use super::window::Kind;
use crate::batch::HIDDEN;
use crate::error::Error;

/// Refuses what would give another answer the next time.
pub fn refuse_unrepeatable(expr: &Expr) -> datafusion::error::Result<()> {
    expr.apply(|e| match e {
        Expr::ScalarFunction(f) if f.func.signature().volatility != Volatility::Immutable => Err(DataFusionError::Plan(format!(
            "{}() gives another answer each time it is asked, so a replay after a crash would too; use the event time or a column",
            f.func.name()
        ))),
        Expr::Exists(_)
        | Expr::InSubquery(_)
        | Expr::ScalarSubquery(_)
        | Expr::SetComparison(_)
        | Expr::OuterReferenceColumn(..) => {
            Err(DataFusionError::Plan("a subquery in an expression is not supported yet; leave it out".to_string()))
        }
        Expr::Placeholder(p) => Err(DataFusionError::Plan(format!("parameter {} has no value; use ${{NAME}}", p.id))),
        _ => Ok(TreeNodeRecursion::Continue),
    })?;
    Ok(())
}

/// The same for every expression of a plan; and names that hide columns of ours.
pub fn refuse_expressions(plan: &LogicalPlan) -> datafusion::error::Result<()> {
    plan.apply(|node| {
        for expr in node.expressions() {
            refuse_unrepeatable(&expr)?;
        }
        refuse_names(node)?;
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(())
}

/// `_partition` and its like say where a record was; whatever else is called so would be taken for it.
fn refuse_names(node: &LogicalPlan) -> datafusion::error::Result<()> {
    let [input] = node.inputs()[..] else { return Ok(()) };
    let renamed = |index: usize, name: &str| match node {
        LogicalPlan::Projection(projection) => {
            !matches!(projection.expr[index].clone().unalias_nested().data, Expr::Column(column) if column.name == name)
        }
        LogicalPlan::SubqueryAlias(_) => input.schema().field(index).name() != name,
        _ => false,
    };
    for (index, field) in node.schema().fields().iter().enumerate() {
        let name = field.name().as_str();
        if (HIDDEN.contains(&name) || name == super::ROW) && renamed(index, name) {
            return Err(DataFusionError::Plan(format!("the name {name} is reserved; give the column another name")));
        }
    }
    Ok(())
}

/// DataFusion's refusal as one of ours: place, fact, and the nearest name.
/// `relation` is what its tables are.
pub fn explain(error: DataFusionError, file: &str, line: u64, column: u64, what: &str, relation: Relation) -> Error {
    let (line, column) = match error.diagnostic().and_then(|d| d.span) {
        Some(span) if span.start.line > 0 => (span.start.line, span.start.column),
        _ => (line, column),
    };
    let told = match error.find_root() {
        DataFusionError::SchemaError(schema, _) => match schema.as_ref() {
            SchemaError::FieldNotFound { field, valid_fields } => {
                let names = valid_fields.iter().map(|c| c.name.as_str());
                let error = Error::query("TG-SQL-COLUMN", format!("{what}: there is no column {}", field.name));
                match names::nearest(&field.name, names) {
                    Some(name) => error.hint(format!("did you mean {name}?")),
                    None => error,
                }
            }
            other => Error::query("TG-SQL-VIEW", format!("{what}: {other}")),
        },
        DataFusionError::Plan(message) if missing_table(message).is_some() => {
            let name = missing_table(message).unwrap_or_default();
            Error::query("TG-SQL-VIEW", format!("{what}: {}", relation.missing(name)))
                .hint(format!("declare it with CREATE {}, or correct its name", relation.keyword()))
        }
        DataFusionError::Plan(message) => match message.split_once("; ") {
            Some((fact, way_out)) => Error::query("TG-SQL-VIEW", format!("{what}: {fact}")).hint(way_out),
            None => Error::query("TG-SQL-VIEW", format!("{what}: {message}")),
        },
        other => Error::query("TG-SQL-VIEW", format!("{what}: {}", other.strip_backtrace())),
    };
    told.at(file, line, column)
}

/// The table that the planner misses.
fn missing_table(message: &str) -> Option<&str> {
    message.strip_prefix("table '")?.strip_suffix("' not found")?.rsplit('.').next()
}

/// What the tables of a query are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relation {
    /// Of a view.
    Source,
    /// Of an endpoint or a gauge.
    View,
}

impl Relation {
    /// What is said of one that is not there.
    pub fn missing(self, name: &str) -> String {
        match self {
            Self::Source => format!("there is no source {name}"),
            Self::View => format!("there is no view {name}"),
        }
    }

    fn keyword(self) -> &'static str {
        match self {
            Self::Source => "SOURCE",
            Self::View => "MATERIALIZED VIEW",
        }
    }
}

/// A length of time for a person.
fn length(us: i64) -> String {
    let (seconds, rest) = (us / 1_000_000, us % 1_000_000);
    match seconds {
        _ if rest != 0 => format!("{} ms", us as f64 / 1_000.0),
        s if s % 86_400 == 0 => format!("{} d", s / 86_400),
        s if s % 3_600 == 0 => format!("{} h", s / 3_600),
        s if s % 60 == 0 => format!("{} min", s / 60),
        s => format!("{s} s"),
    }
}

impl PlannedView {
    /// In one line: its windows and when it publishes.
    pub fn summary(&self) -> String {
        let windows = match self.shape {
            Shape::Stateless => return "each row as it comes, keyed by partition and offset".to_string(),
            Shape::Running => return "running groups, kept for ever, published with every commit".to_string(),
            Shape::Windowed(windows) => windows,
        };
        let (size, step) = (length(windows.size_us), length(windows.step_us));
        let windows = match windows.kind {
            Kind::Tumble => format!("windows of {size}"),
            Kind::Hop => format!("windows of {size} every {step}"),
            Kind::Cumulate => format!("windows of up to {size}, growing by {step}"),
        };
        let emit = match self.emit {
            Emit::Update => "published as they fill",
            Emit::Close => "published when they close",
        };
        format!("{windows}, {emit}")
    }

    /// What runs for each batch, what is kept, and what is published when.
    pub fn explain(&self) -> String {
        let mut text = format!(
            "view {} on source {}: {}\n\nfor each batch of decoded rows:\n",
            self.name,
            self.source,
            self.summary()
        );
        let plan = |plan: &crate::view::plan::Plan| {
            format!("{plan:?}").lines().map(|line| format!("    {line}\n")).collect::<String>()
        };
        text.push_str(&plan(&self.below));
        text.push_str("\nkept:\n");
        if self.shape == Shape::Stateless {
            text.push_str("    nothing\n");
        } else {
            if let Shape::Windowed(windows) = self.shape {
                let pane = length(windows.pane_us());
                text.push_str(&format!("    by pane of {pane}, until the last window that holds it has closed:\n"));
            }
            for aggregate in &self.aggregates {
                text.push_str(&match aggregate {
                    Aggregate::Function(function) => format!("    the state of {} for each group\n", function.text),
                    Aggregate::Distinct(_) => "    each group's distinct values, counted\n".to_string(),
                });
            }
        }
        if self.shape != Shape::Stateless {
            text.push_str("\nfor changed groups, before they are published:\n");
            text.push_str(&plan(&self.above));
        }
        text.push_str(&format!("\npublished in table {}:\n", self.table.name));
        for column in &self.table.columns {
            let key = if column.key_of.is_some() { ", key" } else { "" };
            let sql = crate::sink::types::sql_type(&column.data_type).unwrap_or_default();
            text.push_str(&format!("    {} {sql}{key}\n", column.name));
        }
        text.push_str(&match (self.shape, self.emit) {
            (Shape::Windowed(_), Emit::Close) => "    each row once, in the commit that closes its window\n".to_string(),
            (Shape::Windowed(windows), Emit::Update) if windows.kind != Kind::Tumble => {
                "    a window from the moment at which event time reaches its last pane, at most once a second, and when it closes\n".to_string()
            }
            _ => "    with every commit, the rows that have changed\n".to_string(),
        });
        if let Some(retention) = &self.retention {
            text.push_str(&format!(
                "    deleted once {} is {} behind the frontier\n",
                retention.column,
                length(retention.behind_us)
            ));
        }
        text
    }
}
