//! `CREATE MATERIALIZED VIEW`: the text, parsed, with its window functions made plain.
//!
//! `TUMBLE` in FROM, in its short and in its SQL:2016 spelling, becomes a subquery that adds `window_start`,
//! `window_end` and `window_time` by the scalar function of [`super::window`]. It is done on the parsed text, since
//! the planner does not resolve a table that is named only as an argument; and so a view's text needs no hook at all.

use std::ops::ControlFlow;

use sqlparser::ast::{
    self, Expr, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, ObjectName, Query, Spanned, TableAlias,
    TableFactor, VisitMut, VisitorMut,
};
use sqlparser::parser::Parser;

use super::statement::{Cursor, interval_us, normal};
use super::text::DIALECT;
use super::window::TUMBLE_UDF;
use crate::error::{Error, Result};

/// A view as it was written.
#[derive(Debug)]
pub struct ViewText {
    /// Its name, and that of its table.
    pub name: String,
    /// The file that declares it.
    pub file: String,
    /// The line of its name.
    pub line: u64,
    /// The column of its name.
    pub column: u64,
    /// The query, with its window functions made plain.
    pub query: Box<Query>,
    /// The query as it was, in a normal form, for the fingerprint.
    pub normal: String,
}

/// Parses from behind `CREATE MATERIALIZED VIEW`.
pub fn parse(cursor: &mut Cursor<'_>) -> Result<ViewText> {
    let (line, column) = cursor.place();
    let name_place = cursor.index();
    let name = cursor.name()?;
    if name.len() > 63 || name.starts_with("tidegate") {
        return Err(cursor
            .error_at(name_place, "TG-SQL-VIEW", format!("view name {name:?} is not possible"))
            .hint("a name has at most 63 bytes and does not begin with tidegate"));
    }
    let with_place = cursor.index();
    if cursor.words(&["with"]) {
        let given = cursor.options()?;
        let key = given.keys().next().cloned().unwrap_or_default();
        let code = if key == "retention" { "TG-SQL-NOT-YET" } else { "TG-SQL-VIEW" };
        return Err(cursor
            .error_at(with_place, code, format!("view {name}: option {key} is not supported yet"))
            .hint("leave it out"));
    }
    cursor.expect_words(&["as"])?;
    let emit = cursor.find(&["emit", "on"]);
    let mut query = cursor.parse_until(emit, |parser| parser.parse_query())?;
    if cursor.index() < emit {
        return Err(cursor.error("TG-SQL-SYNTAX", "the query should end here"));
    }
    let emit_place = cursor.index();
    if cursor.words(&["emit", "on"]) && !cursor.words(&["update"]) {
        return Err(cursor
            .error_at(emit_place, "TG-SQL-NOT-YET", format!("view {name}: only EMIT ON UPDATE is supported yet"))
            .hint("leave EMIT out: ON UPDATE is the default"));
    }
    cursor.end()?;
    let normal = query.to_string();
    let mut rewrite = Rewrite { file: cursor.file().to_string() };
    if let ControlFlow::Break(error) = VisitMut::visit(&mut query, &mut rewrite) {
        return Err(error);
    }
    Ok(ViewText { name, file: cursor.file().to_string(), line, column, query, normal })
}

struct Rewrite {
    file: String,
}

impl VisitorMut for Rewrite {
    type Break = Error;

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<Error> {
        match self.rewrite(factor) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => ControlFlow::Break(error),
        }
    }
}

impl Rewrite {
    fn rewrite(&self, factor: &mut TableFactor) -> Result<()> {
        let place = factor.span().start;
        let error =
            |code, message: String| Error::query(code, message).at(&self.file, place.line.max(1), place.column.max(1));
        let (name, args, alias) = match factor {
            TableFactor::Table { name, args: Some(args), alias, .. } => {
                (name.clone(), args.args.clone(), alias.clone())
            }
            TableFactor::Function { name, args, alias, .. } => (name.clone(), args.clone(), alias.clone()),
            TableFactor::TableFunction { expr: Expr::Function(function), alias } => match &function.args {
                FunctionArguments::List(list) => (function.name.clone(), list.args.clone(), alias.clone()),
                _ => (function.name.clone(), Vec::new(), alias.clone()),
            },
            _ => return Ok(()),
        };
        let function = name.to_string().to_lowercase();
        match function.as_str() {
            "tumble" => {}
            "hop" | "cumulate" | "session" => {
                return Err(error(
                    "TG-SQL-NOT-YET",
                    format!("the window function {} is not supported yet", function.to_uppercase()),
                )
                .hint("use TUMBLE"));
            }
            _ => {
                return Err(error("TG-SQL-WINDOW", format!("there is no table function {function}"))
                    .hint("the window function is TUMBLE(source, time_column, INTERVAL '1 minute')"));
            }
        }
        let tumble = tumble_args(&args).map_err(|message| {
            error("TG-SQL-WINDOW", message)
                .hint("write TUMBLE(source, time_column, INTERVAL '1 minute'[, offset]) or TABLE(TUMBLE(TABLE source, DESCRIPTOR(time_column), INTERVAL '1' MINUTE))")
        })?;
        let alias = alias.unwrap_or_else(|| TableAlias {
            explicit: true,
            name: tumble.table.clone(),
            columns: Vec::new(),
            at: None,
        });
        *factor = plain(&tumble, alias)?;
        Ok(())
    }
}

struct Tumble {
    table: Ident,
    time: Ident,
    size_us: i64,
    offset_us: i64,
}

fn tumble_args(args: &[FunctionArg]) -> Result<Tumble, String> {
    let (mut table, mut time, mut size, mut offset) = (None, None, None, None);
    for (index, arg) in args.iter().enumerate() {
        let (name, value) = match arg {
            FunctionArg::Unnamed(value) => {
                (["data", "timecol", "size", "offset"].get(index).copied().unwrap_or("?").to_string(), value)
            }
            FunctionArg::Named { name, arg, .. } => (normal(name), arg),
            FunctionArg::ExprNamed { name, arg, .. } => (name.to_string().to_lowercase(), arg),
        };
        let FunctionArgExpr::Expr(value) = value else { return Err(format!("TUMBLE: {arg} is not an argument")) };
        match name.as_str() {
            "data" => table = Some(identifier(value).ok_or(format!("TUMBLE: {value} is not the name of a source"))?),
            "timecol" => time = Some(descriptor(value).ok_or(format!("TUMBLE: {value} is not a time column"))?),
            "size" => {
                size = Some(
                    interval_us(value)
                        .filter(|us| *us > 0)
                        .ok_or(format!("TUMBLE: {value} is not a window size of fixed length"))?,
                )
            }
            "offset" => {
                offset = Some(interval_us(value).ok_or(format!("TUMBLE: {value} is not an offset of fixed length"))?)
            }
            other => return Err(format!("TUMBLE has no argument {other}: {arg}")),
        }
    }
    let missing = |what: &str| format!("TUMBLE lacks its {what}");
    Ok(Tumble {
        table: table.ok_or(missing("source"))?,
        time: time.ok_or(missing("time column"))?,
        size_us: size.ok_or(missing("size"))?,
        offset_us: offset.unwrap_or(0),
    })
}

fn identifier(expr: &Expr) -> Option<Ident> {
    match expr {
        Expr::Identifier(ident) => Some(ident.clone()),
        _ => None,
    }
}

fn descriptor(expr: &Expr) -> Option<Ident> {
    let Expr::Function(function) = expr else { return identifier(expr) };
    let (true, FunctionArguments::List(list)) = (is_named(&function.name, "descriptor"), &function.args) else {
        return None;
    };
    match list.args.as_slice() {
        [FunctionArg::Unnamed(FunctionArgExpr::Expr(column))] => identifier(column),
        _ => None,
    }
}

fn is_named(name: &ObjectName, expected: &str) -> bool {
    name.to_string().eq_ignore_ascii_case(expected)
}

/// The subquery that stands for `TUMBLE(…)`; the time column's name keeps its place.
fn plain(tumble: &Tumble, alias: TableAlias) -> Result<TableFactor> {
    let Tumble { table, size_us, offset_us, .. } = tumble;
    let column = |shift: i64, name: &str| format!("{TUMBLE_UDF}(tg_time, {size_us}, {offset_us}, {shift}) AS {name}");
    let text = format!(
        "SELECT *, {}, {}, {} FROM tg_table",
        column(0, "window_start"),
        column(*size_us, "window_end"),
        column(size_us - 1, "window_time")
    );
    let mut query = Parser::new(&DIALECT)
        .try_with_sql(&text)
        .and_then(|mut parser| parser.parse_query())
        .map_err(|error| Error::bug(format!("the window's subquery does not parse: {error}")))?;
    let (mut time, mut name) = (Place(&tumble.time), TableName(table));
    let _: ControlFlow<()> = VisitMut::visit(&mut query, &mut time);
    let _: ControlFlow<()> = VisitMut::visit(&mut query, &mut name);
    Ok(TableFactor::Derived { lateral: false, subquery: query, alias: Some(alias), sample: None })
}

struct Place<'a>(&'a Ident);

impl VisitorMut for Place<'_> {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if matches!(expr, Expr::Identifier(ident) if ident.value == "tg_time") {
            *expr = Expr::Identifier(self.0.clone());
        }
        ControlFlow::Continue(())
    }
}

struct TableName<'a>(&'a Ident);

impl VisitorMut for TableName<'_> {
    type Break = ();

    fn pre_visit_relation(&mut self, relation: &mut ObjectName) -> ControlFlow<()> {
        *relation = ObjectName(vec![ast::ObjectNamePart::Identifier(self.0.clone())]);
        ControlFlow::Continue(())
    }
}
