//! `CREATE MATERIALIZED VIEW`: the text, parsed, with its window functions made plain.
//!
//! `TUMBLE`, `HOP` and `CUMULATE` in FROM, in their short and SQL:2016 spelling, become a subquery that adds `window_start`,
//! `window_end` and `window_time` by the scalar function of [`super::window`]. It is done on the parsed text, since
//! the planner does not resolve a table that is named only as an argument; and so a view's text needs no hook at all.

use std::ops::ControlFlow;

use sqlparser::ast::{
    self, Expr, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, ObjectName, Query, Spanned, TableAlias,
    TableFactor, VisitMut, VisitorMut,
};
use sqlparser::parser::Parser;

use super::expand;
use super::planned::Emit;
use super::statement::parse_interval_us;
use super::statement::{Cursor, interval_us, normal};
use super::text::DIALECT;
use super::window::{Edge, Kind, PANES_MAX, SIZE_MAX_US, Windows, call};
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
    /// When its rows are published.
    pub emit: Emit,
    /// How long rows of closed windows are kept, in microseconds; for ever if nothing is said.
    pub retention_us: Option<i64>,
    /// The query as it was, in a normal form, for the fingerprint.
    pub normal: String,
    /// The whole statement as it stands in its file, variables and all.
    pub text: String,
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
    let mut retention_us = None;
    if cursor.words(&["with"]) {
        for (key, (value, at)) in cursor.options()? {
            if key != "retention" {
                return Err(cursor
                    .error_at(at, "TG-SQL-VIEW", format!("view {name}: unknown option {key}"))
                    .hint("the option is retention = '30 days'"));
            }
            let us = parse_interval_us(&value).filter(|us| *us > 0).ok_or_else(|| {
                cursor
                    .error_at(at, "TG-SQL-VIEW", format!("view {name}: retention = '{value}' is not a duration"))
                    .hint("write it as '30 days'")
            })?;
            retention_us = Some(us);
        }
    }
    cursor.expect_words(&["as"])?;
    let emit = cursor.find(&["emit", "on"]);
    let query_text = cursor.normal(cursor.index(), emit);
    let mut query = cursor.parse_until(emit, |parser| parser.parse_query())?;
    if cursor.index() < emit {
        return Err(cursor.error("TG-SQL-SYNTAX", "the query should end here"));
    }
    let mut emit = Emit::Update;
    if cursor.words(&["emit", "on"]) && !cursor.words(&["update"]) {
        cursor.expect_words(&["window", "close"])?;
        emit = Emit::Close;
    }
    cursor.end()?;
    let normal = match emit {
        Emit::Update => query_text,
        Emit::Close => format!("{query_text} emit on window close"),
    };
    plain_windows(&mut query, cursor.file(), Windowing::Panes)?;
    Ok(ViewText {
        name,
        file: cursor.file().to_string(),
        line,
        column,
        query,
        emit,
        retention_us,
        normal,
        text: cursor.text().to_string(),
    })
}

/// What becomes of a row that is in several windows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Windowing {
    /// It stays one, in its pane: a view merges panes. Whatever else stands in FROM is refused here.
    Panes,
    /// It becomes one in each of them. Whatever else stands in FROM is left for others to judge.
    Rows,
}

/// Writes the window functions of a query as subqueries.
pub fn plain_windows(query: &mut Query, file: &str, windowing: Windowing) -> Result<()> {
    let mut rewrite = Rewrite { file: file.to_string(), windowing };
    match VisitMut::visit(query, &mut rewrite) {
        ControlFlow::Break(error) => Err(error),
        ControlFlow::Continue(()) => Ok(()),
    }
}

struct Rewrite {
    file: String,
    windowing: Windowing,
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
        let strict = self.windowing == Windowing::Panes;
        let unheard = unheard(factor)
            .map(|what| error("TG-SQL-NOT-YET", format!("{what} is not supported yet")).hint("leave it out"));
        if let (true, Some(unheard)) = (strict, &unheard) {
            return Err(unheard.clone());
        }
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
        let kind = match function.as_str() {
            "tumble" => Kind::Tumble,
            "hop" => Kind::Hop,
            "cumulate" => Kind::Cumulate,
            "session" => {
                return Err(error("TG-SQL-NOT-YET", "the window function SESSION is not supported yet".to_string())
                    .hint("use TUMBLE, HOP or CUMULATE"));
            }
            _ if !strict => return Ok(()),
            _ => {
                return Err(error("TG-SQL-WINDOW", format!("there is no table function {function}"))
                    .hint("window functions are TUMBLE, HOP and CUMULATE, as in TUMBLE(source, time_column, INTERVAL '1 minute')"));
            }
        };
        let given = arguments(kind, &args).map_err(|message| error("TG-SQL-WINDOW", message).hint(spelling(kind)))?;
        let alias = alias.unwrap_or_else(|| TableAlias {
            explicit: true,
            name: given.table.clone(),
            columns: Vec::new(),
            at: None,
        });
        if let Some(unheard) = unheard {
            return Err(unheard);
        }
        *factor = plain(&given, alias, self.windowing)?;
        Ok(())
    }
}

/// What may stand beside a table's name, and what the planner would pass over in silence.
fn unheard(factor: &TableFactor) -> Option<&'static str> {
    match factor {
        TableFactor::Table { sample: Some(_), .. } | TableFactor::Derived { sample: Some(_), .. } => {
            Some("TABLESAMPLE")
        }
        TableFactor::Table { version: Some(_), .. } => Some("FOR SYSTEM_TIME"),
        TableFactor::Table { with_ordinality: true, .. } => Some("WITH ORDINALITY"),
        TableFactor::Table { partitions, .. } if !partitions.is_empty() => Some("PARTITION"),
        TableFactor::Table { with_hints, .. } if !with_hints.is_empty() => Some("a hint"),
        _ => None,
    }
}

struct Given {
    table: Ident,
    time: Ident,
    windows: Windows,
}

fn spelling(kind: Kind) -> &'static str {
    match kind {
        Kind::Tumble => {
            "write TUMBLE(source, time_column, INTERVAL '1 minute'[, offset]) or TABLE(TUMBLE(TABLE source, DESCRIPTOR(time_column), INTERVAL '1' MINUTE))"
        }
        Kind::Hop => {
            "write HOP(source, time_column, slide, size[, offset]), such as HOP(events, ts, INTERVAL '30 seconds', INTERVAL '5 minutes')"
        }
        Kind::Cumulate => {
            "write CUMULATE(source, time_column, step, size[, offset]), such as CUMULATE(events, ts, INTERVAL '1 hour', INTERVAL '1 day')"
        }
    }
}

/// The arguments of a window function, by place or by Flink's names.
fn arguments(kind: Kind, args: &[FunctionArg]) -> Result<Given, String> {
    let (function, names): (_, &[&str]) = match kind {
        Kind::Tumble => ("TUMBLE", &["data", "timecol", "size", "offset"]),
        Kind::Hop => ("HOP", &["data", "timecol", "slide", "size", "offset"]),
        Kind::Cumulate => ("CUMULATE", &["data", "timecol", "step", "size", "offset"]),
    };
    let (mut table, mut time, mut size, mut step, mut offset) = (None, None, None, None, 0);
    for (index, arg) in args.iter().enumerate() {
        let (name, value) = match arg {
            FunctionArg::Unnamed(value) => (names.get(index).copied().unwrap_or("?").to_string(), value),
            FunctionArg::Named { name, arg, .. } => (normal(name), arg),
            FunctionArg::ExprNamed { name, arg, .. } => (name.to_string().to_lowercase(), arg),
        };
        let FunctionArgExpr::Expr(value) = value else { return Err(format!("{function}: {arg} is not an argument")) };
        let length = |what: &str| {
            let length = interval_us(value).filter(|us| (1..=SIZE_MAX_US).contains(us));
            length.ok_or(format!("{function}: {value} is not a {what} of fixed length, of at most a hundred years"))
        };
        match name.as_str() {
            name if !names.contains(&name) => return Err(format!("{function} has no argument {name}: {arg}")),
            "data" => {
                table = Some(identifier(value).ok_or(format!("{function}: {value} is not the name of a source"))?)
            }
            "timecol" => time = Some(descriptor(value).ok_or(format!("{function}: {value} is not a time column"))?),
            "size" => size = Some(length("window size")?),
            "offset" => {
                offset = interval_us(value).filter(|us| us.saturating_abs() <= SIZE_MAX_US).ok_or(format!(
                    "{function}: {value} is not an offset of fixed length, of at most a hundred years"
                ))?;
            }
            name => step = Some(length(name)?),
        }
    }
    let missing = |what: &str| format!("{function} lacks its {what}");
    let size_us = size.ok_or(missing("size"))?;
    let step_us = if kind == Kind::Tumble { size_us } else { step.ok_or(missing(names[2]))? };
    if kind == Kind::Cumulate && size_us % step_us != 0 {
        return Err("CUMULATE: its size is not a multiple of its step".to_string());
    }
    let windows = Windows { kind, size_us, step_us, offset_us: offset };
    if size_us / windows.pane_us() > PANES_MAX {
        return Err(format!(
            "{function}: a window of {} panes; there are at most {PANES_MAX}",
            size_us / windows.pane_us()
        ));
    }
    Ok(Given { table: table.ok_or(missing("source"))?, time: time.ok_or(missing("time column"))?, windows })
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

/// The subquery that stands for a window function; the time column's name keeps its place.
fn plain(given: &Given, alias: TableAlias, windowing: Windowing) -> Result<TableFactor> {
    let column = |edge| call("tg_time", given.windows, edge);
    let text = match (windowing, given.windows.kind) {
        (Windowing::Rows, Kind::Hop | Kind::Cumulate) => expand::text(given.windows),
        _ => format!(
            "SELECT *, {} AS window_start, {} AS window_end, {} AS window_time FROM tg_table",
            column(Edge::Start),
            column(Edge::End),
            column(Edge::Time)
        ),
    };
    let mut query = Parser::new(&DIALECT)
        .try_with_sql(&text)
        .and_then(|mut parser| parser.parse_query())
        .map_err(|error| Error::bug(format!("the window's subquery does not parse: {error}")))?;
    let (mut time, mut name) = (Place(&given.time), TableName(&given.table));
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
