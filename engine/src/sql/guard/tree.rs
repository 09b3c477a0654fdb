//! What a parsed query may hold: forms, functions and tables that are known, and not too many of anything.

use std::collections::HashMap;
use std::ops::ControlFlow;

use sqlparser::ast::{self, Expr, Ident, ObjectName, Query, Select, SetExpr, TableFactor, Visit, Visitor};

use super::tokens::BRACKETS_MAX;
use super::{FILE, Known, complex, read_only};
use crate::error::{Error, Result};
use crate::sql::statement::normal;
use crate::sql::{expand, functions, names};

/// Expressions, but for literals.
const NODES_MAX: usize = 4_000;
/// Expressions within each other: a chain of operators counts as one within the other.
const DEPTH_MAX: usize = 500;
const LITERALS_MAX: usize = 10_000;
const COLUMNS_MAX: usize = 1_000;
const JOINS_MAX: usize = 16;
const ARMS_MAX: usize = 200;
/// Tables read, where each use of a CTE counts what it reads.
const TABLES_MAX: u64 = 256;

/// Refuses a query that goes beyond; `known` are the relations that there are.
pub fn walk(query: &Query, known: &Known<'_>) -> Result<()> {
    let mut walk = Walk { known, queries: Vec::new(), nodes: 0, literals: 0, depth: 0 };
    match Visit::visit(query, &mut walk) {
        ControlFlow::Break(error) => Err(error),
        ControlFlow::Continue(()) => Ok(()),
    }
}

/// A query whose parts are being walked.
struct Open {
    /// The bodies of its CTEs, which are told from other queries by their address, with their names.
    bodies: Vec<(*const Query, String)>,
    /// What each CTE that has been walked reads.
    ctes: HashMap<String, u64>,
    /// The tables that it reads.
    tables: u64,
}

struct Walk<'a> {
    known: &'a Known<'a>,
    queries: Vec<Open>,
    nodes: usize,
    literals: usize,
    depth: usize,
}

type Walked = ControlFlow<Error>;

fn stop<T>(error: Error) -> ControlFlow<Error, T> {
    ControlFlow::Break(error)
}

fn at_ident(error: Error, ident: Option<&Ident>) -> Error {
    match ident {
        Some(ident) => error.at(FILE, ident.span.start.line, ident.span.start.column),
        None => error,
    }
}

impl Walk<'_> {
    /// Counts a table that is read.
    fn reads(&mut self, tables: u64) -> Walked {
        let Some(open) = self.queries.last_mut() else { return ControlFlow::Continue(()) };
        open.tables = open.tables.saturating_add(tables);
        if open.tables > TABLES_MAX {
            return stop(complex(format!(
                "the query reads more than {TABLES_MAX} tables, where each use of a CTE counts what it reads"
            )));
        }
        ControlFlow::Continue(())
    }

    /// What a CTE of this name reads.
    fn cte(&self, name: &str) -> Option<u64> {
        self.queries.iter().rev().find_map(|open| open.ctes.get(name).copied())
    }
}

/// The forms of a query's body that read, and how many there are.
fn arms(body: &SetExpr) -> Result<usize> {
    let (mut left, mut count) = (vec![body], 0);
    while let Some(body) = left.pop() {
        match body {
            SetExpr::SetOperation { left: first, right: second, .. } => left.extend([first.as_ref(), second.as_ref()]),
            SetExpr::Select(_) | SetExpr::Query(_) | SetExpr::Values(_) => count += 1,
            SetExpr::Table(_) => {
                return Err(Error::query("TG-SQL-SYNTAX", "TABLE t is not answered").hint("write SELECT * FROM t"));
            }
            SetExpr::Insert(_) | SetExpr::Update(_) | SetExpr::Delete(_) | SetExpr::Merge(_) => {
                return Err(read_only("a query that changes rows is not answered".to_string()));
            }
        }
    }
    Ok(count)
}

fn check_query(query: &Query) -> Result<()> {
    if query.with.as_ref().is_some_and(|with| with.recursive) {
        return Err(
            Error::query("TG-QUERY-UNSUPPORTED", "WITH RECURSIVE is not answered").hint("it has no end to wait for")
        );
    }
    if !query.locks.is_empty() {
        return Err(read_only("FOR UPDATE and FOR SHARE are not answered".to_string()));
    }
    let odd = query.for_clause.is_some() || query.settings.is_some() || query.format_clause.is_some();
    if odd || !query.pipe_operators.is_empty() {
        return Err(Error::query("TG-QUERY-UNSUPPORTED", "FOR, SETTINGS, FORMAT and |> are not supported in a query"));
    }
    let arms = arms(&query.body)?;
    if arms > ARMS_MAX {
        return Err(complex(format!("a query has {arms} arms of UNION and its like; the limit is {ARMS_MAX}")));
    }
    if let SetExpr::Values(values) = query.body.as_ref()
        && values.rows.len() > LITERALS_MAX
    {
        return Err(complex(format!("VALUES has {} rows; the limit is {LITERALS_MAX}", values.rows.len())));
    }
    Ok(())
}

fn joins(from: &[ast::TableWithJoins]) -> usize {
    let (mut left, mut count) = (from.iter().collect::<Vec<_>>(), from.len().saturating_sub(1));
    while let Some(table) = left.pop() {
        count += table.joins.len();
        let factors = table.joins.iter().map(|join| &join.relation).chain([&table.relation]);
        left.extend(factors.filter_map(|factor| match factor {
            TableFactor::NestedJoin { table_with_joins, .. } => Some(table_with_joins.as_ref()),
            _ => None,
        }));
    }
    count
}

impl Visitor for Walk<'_> {
    type Break = Error;

    fn pre_visit_query(&mut self, query: &Query) -> Walked {
        if let Err(error) = check_query(query) {
            return stop(error);
        }
        let ctes = query.with.iter().flat_map(|with| &with.cte_tables);
        // The planner would find it under the name of a table of a schema.
        if let Some(dotted) = ctes.clone().find(|cte| cte.alias.name.value.contains('.')) {
            let error = Error::query("TG-QUERY-UNSUPPORTED", format!("the name {} has a dot", dotted.alias.name));
            return stop(at_ident(error.hint("give it another name"), Some(&dotted.alias.name)));
        }
        let bodies = ctes.map(|cte| (std::ptr::from_ref(cte.query.as_ref()), normal(&cte.alias.name))).collect();
        self.queries.push(Open { bodies, ctes: HashMap::new(), tables: 0 });
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, query: &Query) -> Walked {
        let Some(done) = self.queries.pop() else { return ControlFlow::Continue(()) };
        let Some(around) = self.queries.last_mut() else { return ControlFlow::Continue(()) };
        match around.bodies.iter().find(|(body, _)| std::ptr::eq(*body, query)) {
            Some((_, name)) => {
                around.ctes.insert(name.clone(), done.tables.max(1));
                ControlFlow::Continue(())
            }
            None => self.reads(done.tables),
        }
    }

    fn pre_visit_select(&mut self, select: &Select) -> Walked {
        // Every clause by its name: what the planner passes over in silence would make a wrong answer.
        let Select {
            select_token: _,
            optimizer_hints,
            distinct: _,
            select_modifiers,
            top,
            top_before_distinct: _,
            projection,
            exclude,
            into,
            from: _,
            lateral_views,
            prewhere,
            selection: _,
            connect_by,
            group_by,
            cluster_by,
            distribute_by,
            sort_by,
            having: _,
            named_window: _,
            qualify: _,
            window_before_qualify: _,
            value_table_mode,
            flavor,
        } = select;
        if into.is_some() {
            return stop(read_only("SELECT INTO is not answered".to_string()));
        }
        let modified = match group_by {
            ast::GroupByExpr::All(modifiers) | ast::GroupByExpr::Expressions(_, modifiers) => !modifiers.is_empty(),
        };
        let odd = [
            (!optimizer_hints.is_empty(), "a hint"),
            (select_modifiers.as_ref().is_some_and(ast::SelectModifiers::is_any_set), "a modifier of SELECT"),
            (top.is_some(), "TOP"),
            (exclude.is_some(), "EXCLUDE"),
            (!lateral_views.is_empty(), "LATERAL VIEW"),
            (prewhere.is_some(), "PREWHERE"),
            (!connect_by.is_empty(), "CONNECT BY"),
            (modified, "GROUP BY … WITH"),
            (!cluster_by.is_empty(), "CLUSTER BY"),
            (!distribute_by.is_empty(), "DISTRIBUTE BY"),
            (!sort_by.is_empty(), "SORT BY"),
            (value_table_mode.is_some(), "AS STRUCT"),
            (!matches!(flavor, ast::SelectFlavor::Standard), "FROM before SELECT"),
        ];
        if let Some((_, what)) = odd.iter().find(|(found, _)| *found) {
            return stop(Error::query("TG-QUERY-UNSUPPORTED", format!("{what} is not supported in a query")));
        }
        if projection.len() > COLUMNS_MAX {
            let why = format!("the query selects {} columns; the limit is {COLUMNS_MAX}", projection.len());
            return stop(complex(why));
        }
        let joins = joins(&select.from);
        if joins > JOINS_MAX {
            return stop(complex(format!("the query has {joins} joins; the limit is {JOINS_MAX}")));
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> Walked {
        let unsupported =
            |what: &str| stop(Error::query("TG-QUERY-UNSUPPORTED", format!("{what} is not supported in a query")));
        match factor {
            TableFactor::Table { name, args: Some(_), .. } | TableFactor::Function { name, .. } => {
                let error = Error::query("TG-QUERY-FUNCTION", format!("there is no table function {name}"));
                let error = error.hint("there are TUMBLE, HOP and CUMULATE");
                stop(at_ident(error, name.0.first().and_then(|part| part.as_ident())))
            }
            TableFactor::Table {
                with_hints,
                version,
                partitions,
                json_path,
                sample,
                index_hints,
                with_ordinality,
                ..
            } => {
                let plain = with_hints.is_empty() && partitions.is_empty() && index_hints.is_empty();
                if plain && version.is_none() && json_path.is_none() && sample.is_none() && !with_ordinality {
                    ControlFlow::Continue(())
                } else {
                    unsupported("a table with hints, a version or a sample")
                }
            }
            TableFactor::Derived { sample: None, .. } | TableFactor::NestedJoin { .. } => ControlFlow::Continue(()),
            TableFactor::UNNEST { .. } => unsupported("UNNEST in FROM"),
            TableFactor::TableFunction { .. } => unsupported("TABLE(…)"),
            TableFactor::Pivot { .. } | TableFactor::Unpivot { .. } => unsupported("PIVOT"),
            _ => unsupported("this form of a table"),
        }
    }

    fn pre_visit_relation(&mut self, relation: &ObjectName) -> Walked {
        let parts: Vec<&Ident> = relation.0.iter().filter_map(|part| part.as_ident()).collect();
        let names: Vec<String> = parts.iter().map(|part| normal(part)).collect();
        let name = match names.as_slice() {
            [name] => match self.cte(name) {
                Some(tables) => return self.reads(tables),
                None => name,
            },
            [schema, name] if schema == "public" => name,
            [schema, name] => &format!("{schema}.{name}"),
            _ => &relation.to_string(),
        };
        if self.known.has(name) {
            return self.reads(1);
        }
        let error = Error::query("TG-QUERY-TABLE", format!("there is no table {name}"));
        let error = match names::nearest(name, self.known.all()) {
            Some(meant) => error.hint(format!("did you mean {meant}?")),
            None => error.hint(format!("there are {}", self.known.all().collect::<Vec<_>>().join(", "))),
        };
        stop(at_ident(error, parts.first().copied()))
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> Walked {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return stop(complex(format!("an expression is a chain of more than {DEPTH_MAX} operators")));
        }
        if matches!(expr, Expr::Value(_)) {
            self.literals += 1;
        } else {
            self.nodes += 1;
        }
        if self.nodes > NODES_MAX {
            return stop(complex(format!("the query has more than {NODES_MAX} expressions")));
        }
        if self.literals > LITERALS_MAX {
            return stop(complex(format!("the query has more than {LITERALS_MAX} literals")));
        }
        // Flat here, and one within the other in a plan.
        if let Expr::CompoundFieldAccess { access_chain, .. } = expr
            && access_chain.len() > BRACKETS_MAX
        {
            return stop(complex(format!("more than {BRACKETS_MAX} fields of fields are read")));
        }
        if let Expr::Function(function) = expr {
            let parts: Vec<&Ident> = function.name.0.iter().filter_map(|part| part.as_ident()).collect();
            let name = parts.last().map(|part| normal(part)).unwrap_or_default();
            if parts.len() != 1
                || !(functions::is_allowed(&name) || expand::is_ours(&name) || self.known.has_function(&name))
            {
                let error = Error::query("TG-QUERY-FUNCTION", format!("there is no function {}", function.name));
                let error = match functions::nearest(&name) {
                    Some(meant) => error.hint(format!("did you mean {meant}?")),
                    None => error,
                };
                return stop(at_ident(error, parts.first().copied()));
            }
        }
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, _: &Expr) -> Walked {
        self.depth -= 1;
        ControlFlow::Continue(())
    }
}
