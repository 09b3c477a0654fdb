//! What people may ask ad hoc, decided before anything is planned.
//!
//! ```text
//!  text ─ look ─► size · tokens: one statement, read only, how deep ─ check ─► tree: forms, functions, tables, size ─► Asked
//!         └ in the api                                                └ in a worker: the parser itself can be made to run for ever
//! ```
//!
//! A plain SELECT can abort a process or plan for hours (`docs/decisions/0012-workers-for-ad-hoc-sql.md`). What is
//! known to do so is refused here, by the name of the limit; what is not known ends with the worker that runs it.
//! The tree is walked on a thread whose stack holds the deepest one that its tokens allow.

mod hidden;
mod tokens;
mod tree;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::ControlFlow;

use arrow::datatypes::{DataType, TimeUnit};
use datafusion::execution::context::SessionState;
use datafusion::logical_expr::LogicalPlan;
use datafusion::sql::parser::Statement;
use futures::executor::block_on;
use serde::{Deserialize, Serialize};
use sqlparser::ast::{self, Expr, LimitClause, Query, Value, VisitMut, VisitorMut};
use sqlparser::keywords::Keyword;
use sqlparser::parser::{Parser, ParserError};
use sqlparser::tokenizer::{Token, TokenWithSpan};

use super::expand;
use super::explain::{self, Relation};
use super::names;
use super::names::Named;
use super::pg;
use super::source::event_time_type;
use super::text::{DIALECT, drop_table_keyword};
use super::view;
use crate::error::{Error, Result};
use tokens::one_statement;

pub(super) use tokens::tokens;

pub use tokens::TEXT_MAX;

/// Bytes of the values that are put where parameters stand.
const FILLED_MAX: usize = 4 << 20;

/// Enough for a tree as deep as there may be operators.
const STACK_BYTES: usize = 64 << 20;

/// A value of a parameter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Given {
    /// `NULL`.
    Null,
    /// `TRUE` or `FALSE`.
    Boolean(bool),
    /// A number as it was written.
    Number(String),
    /// A text, which may stand for a time or a decimal as well.
    Text(String),
    /// A value of a type, as a text; NULL without one.
    Of(Type, Option<String>),
    /// A list of them, which stands behind `= ANY`.
    List(Vec<Given>),
}

/// The type of a value that says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Type {
    /// `BOOLEAN`.
    Boolean,
    /// `BIGINT`.
    BigInt,
    /// `DOUBLE`.
    Double,
    /// `DECIMAL(38, s)`.
    Decimal(u8),
    /// `TIMESTAMP WITH TIME ZONE`.
    Instant,
    /// `TIMESTAMP`.
    Timestamp,
    /// `DATE`.
    Date,
    /// `TIME`.
    Time,
    /// `VARCHAR`.
    Text,
}

impl Type {
    /// As the query engine has it.
    pub fn data_type(self) -> DataType {
        match self {
            Self::Boolean => DataType::Boolean,
            Self::BigInt => DataType::Int64,
            Self::Double => DataType::Float64,
            Self::Decimal(scale) => DataType::Decimal128(38, scale as i8),
            Self::Instant => event_time_type(),
            Self::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, None),
            Self::Date => DataType::Date32,
            Self::Time => DataType::Time64(TimeUnit::Microsecond),
            Self::Text => DataType::Utf8,
        }
    }

    /// Of a type as it is written.
    fn of_sql(written: &ast::DataType) -> Option<Self> {
        use ast::DataType as Sql;
        Some(match written {
            Sql::Boolean | Sql::Bool => Self::Boolean,
            Sql::SmallInt(_)
            | Sql::Int(_)
            | Sql::Integer(_)
            | Sql::BigInt(_)
            | Sql::Int2(_)
            | Sql::Int4(_)
            | Sql::Int8(_) => Self::BigInt,
            Sql::Real | Sql::Float4 | Sql::Float8 | Sql::Float(_) | Sql::Double(_) | Sql::DoublePrecision => {
                Self::Double
            }
            Sql::Decimal(_) | Sql::Numeric(_) | Sql::Dec(_) => Self::Decimal(10),
            Sql::Timestamp(_, ast::TimezoneInfo::None | ast::TimezoneInfo::WithoutTimeZone) => Self::Timestamp,
            Sql::Timestamp(..) => Self::Instant,
            Sql::Date => Self::Date,
            Sql::Time(..) => Self::Time,
            Sql::Varchar(_) | Sql::Text | Sql::String(_) | Sql::Char(_) | Sql::Character(_) => Self::Text,
            _ => return None,
        })
    }

    fn sql(self) -> ast::DataType {
        match self {
            Self::Boolean => ast::DataType::Boolean,
            Self::BigInt => ast::DataType::BigInt(None),
            Self::Double => ast::DataType::Double(ast::ExactNumberInfo::None),
            Self::Decimal(scale) => ast::DataType::Decimal(ast::ExactNumberInfo::PrecisionAndScale(38, scale.into())),
            Self::Instant => ast::DataType::Timestamp(None, ast::TimezoneInfo::WithTimeZone),
            Self::Timestamp => ast::DataType::Timestamp(None, ast::TimezoneInfo::None),
            Self::Date => ast::DataType::Date,
            Self::Time => ast::DataType::Time(None, ast::TimezoneInfo::None),
            Self::Text => ast::DataType::Varchar(None),
        }
    }
}

impl Given {
    fn len(&self) -> usize {
        match self {
            Self::Null | Self::Boolean(_) | Self::Of(_, None) => 0,
            Self::Number(text) | Self::Text(text) | Self::Of(_, Some(text)) => text.len(),
            // Each is an expression, whatever is in it.
            Self::List(values) => values.iter().map(|value| 32 + value.len()).sum(),
        }
    }

    fn expr(&self) -> Expr {
        let value = |value: Value| Expr::Value(value.with_empty_span());
        match self {
            Self::Null => value(Value::Null),
            Self::Boolean(given) => value(Value::Boolean(*given)),
            Self::Text(text) => value(Value::SingleQuotedString(text.clone())),
            // LIMIT takes nothing but a number.
            Self::Of(Type::BigInt, Some(number)) => Self::Number(number.clone()).expr(),
            Self::Of(data_type, text) => Expr::Cast {
                kind: ast::CastKind::Cast,
                expr: Box::new(text.as_ref().map_or(Self::Null, |text| Self::Text(text.clone())).expr()),
                data_type: data_type.sql(),
                array: false,
                format: None,
            },
            Self::List(values) => {
                Expr::Array(ast::Array { elem: values.iter().map(Self::expr).collect(), named: true })
            }
            // A sign is an operator.
            Self::Number(number) => match number.strip_prefix('-') {
                Some(number) => Expr::UnaryOp {
                    op: ast::UnaryOperator::Minus,
                    expr: Box::new(value(Value::Number(number.to_string(), false))),
                },
                None => value(Value::Number(number.clone(), false)),
            },
        }
    }
}

/// Values by the names of their parameters: `1` for `$1`.
pub type Parameters = HashMap<String, Given>;

/// Types by the numbers of their parameters, as far as they are known.
pub type Types = BTreeMap<usize, Type>;

/// What stands for parameters.
#[derive(Debug, Clone, Copy)]
pub enum Filled<'a> {
    /// Values.
    Values(&'a Parameters),
    /// None yet: only `$1`, `$2`, … may stand there, some of known types.
    Open(&'a Types),
}

/// A statement that may be planned.
#[derive(Debug, Clone)]
pub struct Asked {
    query: Box<Query>,
    explain: bool,
    hidden: bool,
    open: Open,
    of_catalog: bool,
}

/// Parameters that have no value yet.
#[derive(Debug, Clone, Default)]
struct Open {
    /// The greatest number.
    count: usize,
    /// Those that stand behind `= ANY`.
    lists: BTreeSet<usize>,
    /// The types of those that are cast, or stand where only a number can.
    types: Types,
}

impl Asked {
    /// Whether it asks for what stands in the catalog of Postgres.
    pub fn is_of_catalog(&self) -> bool {
        self.of_catalog
    }

    /// How many parameters have no value yet.
    pub fn open(&self) -> usize {
        self.open.count
    }

    /// The type that the text gives to an open parameter.
    pub fn open_type(&self, parameter: usize) -> Option<Type> {
        self.open.types.get(&parameter).copied()
    }

    /// Whether an open parameter is a list: it was put as one of its values.
    pub fn is_list(&self, parameter: usize) -> bool {
        self.open.lists.contains(&parameter)
    }

    /// Whether its plan is asked for, and no rows.
    pub fn is_explain(&self) -> bool {
        self.explain
    }

    /// Whether it names a column that is hidden unless it is named.
    pub fn names_hidden(&self) -> bool {
        self.hidden
    }

    /// Its plan; or the first column that is not there, and the like.
    pub fn plan(&self, state: &SessionState) -> Result<LogicalPlan> {
        let named = Named { what: "the query", file: FILE, at: (1, 1), query: &self.query, relation: Relation::View };
        let (plan, faults) = names::resolve(state, named);
        // What planning refuses has the codes of views elsewhere.
        let told =
            |error: Error| Error { code: if error.code == "TG-SQL-VIEW" { "TG-QUERY" } else { error.code }, ..error };
        let plan = faults.into_iter().next().map_or(plan, Err).map_err(told)?;
        if !self.explain {
            return Ok(plan);
        }
        let explained = block_on(state.statement_to_plan(self.explained()));
        explained.map_err(|error| told(explain::explain(error, FILE, 1, 1, "the query", Relation::View)))
    }

    /// The statement that asks for its plan.
    fn explained(&self) -> Statement {
        Statement::Statement(Box::new(ast::Statement::Explain {
            describe_alias: ast::DescribeAlias::Explain,
            analyze: false,
            verbose: false,
            query_plan: false,
            estimate: false,
            statement: Box::new(ast::Statement::Query(self.query.clone())),
            format: None,
            options: None,
        }))
    }
}

/// Looks at a text of which nothing is known, in a time that its length bounds.
pub fn look(text: &str) -> Result<()> {
    one_statement(text).map(drop)
}

/// The catalog of Postgres.
#[derive(Clone, Copy)]
pub struct Catalog<'a>(pub &'a dyn pg::Names);

impl std::fmt::Debug for Catalog<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Catalog")
    }
}

/// The relations that there are.
#[derive(Debug, Clone, Default)]
pub struct Known<'a> {
    /// Tables.
    pub tables: Vec<&'a str>,
    /// Sources.
    pub sources: Vec<&'a str>,
    /// The catalog, where it may be asked.
    pub catalog: Option<Catalog<'a>>,
}

impl Known<'_> {
    fn has(&self, name: &str) -> bool {
        let of_catalog = |Catalog(catalog): Catalog<'_>| {
            name.split_once('.').is_some_and(|(schema, table)| catalog.table(schema, table).is_some())
        };
        self.tables.contains(&name) || self.sources.contains(&name) || self.catalog.is_some_and(of_catalog)
    }

    /// Whether a function may be called beside those of all queries.
    fn has_function(&self, name: &str) -> bool {
        self.catalog.is_some() && pg::FUNCTIONS.contains(&name)
    }

    fn all(&self) -> impl Iterator<Item = &str> {
        self.tables.iter().chain(&self.sources).copied()
    }
}

/// Reads a text, with values for its parameters. `known` are the relations that there are. It may take for ever: the process must
/// be one that can be ended.
pub fn check(text: &str, filled: Filled<'_>, known: &Known<'_>) -> Result<Asked> {
    let tokens = one_statement(text)?;
    let walk = || read(tokens, filled, known);
    let walked = std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("guard".to_string()).stack_size(STACK_BYTES);
        thread.spawn_scoped(scope, walk).map(std::thread::ScopedJoinHandle::join)
    });
    match walked {
        Ok(Ok(asked)) => asked,
        Ok(Err(_)) => Err(Error::bug("the thread that reads queries panicked")),
        Err(error) => Err(Error::wait("TG-QUERY-BUSY", format!("no thread could be started: {error}"))),
    }
}

/// What places are told of: people see line and column of their own text.
const FILE: &str = "query";

fn complex(message: String) -> Error {
    Error::query("TG-QUERY-COMPLEX", message).hint("split it into several queries")
}

fn read_only(message: String) -> Error {
    Error::query("TG-QUERY-READ-ONLY", message).hint("only SELECT, WITH, VALUES and EXPLAIN are answered here")
}

/// Whether a word is a function that only stands for a window.
fn is_window_call(token: &TokenWithSpan) -> bool {
    matches!(&token.token, Token::Word(word) if expand::is_ours(&word.value.to_lowercase()))
}

/// The tree of the tokens, with values for its parameters.
fn read(tokens: Vec<TokenWithSpan>, filled: Filled<'_>, known: &Known<'_>) -> Result<Asked> {
    let mut tokens = drop_table_keyword(tokens);
    // Tables about the pipelines have a column of that name, and no query is LATERAL VIEW.
    for token in &mut tokens {
        if let Token::Word(word) = &mut token.token
            && word.keyword == Keyword::VIEW
        {
            word.keyword = Keyword::NoKeyword;
        }
    }
    if let Some(ours) = tokens.iter().find(|token| is_window_call(token)) {
        let (at, name) = (ours.span.start, &ours.token);
        let error = Error::query("TG-QUERY-FUNCTION", format!("there is no function {name}"));
        return Err(error.hint("write TUMBLE, HOP or CUMULATE in FROM").at(FILE, at.line, at.column));
    }
    let hidden = hidden::named(&tokens);
    let of_catalog = known.catalog.is_some_and(|Catalog(names)| pg::mentions(&tokens, names));
    let mut opened = Open::default();
    let places: Vec<(u64, u64)> = tokens.iter().map(|token| (token.span.start.line, token.span.start.column)).collect();
    let mut parser = Parser::new(&DIALECT).with_tokens_with_locations(tokens);
    let parsed = parser.parse_statement();
    let (line, column) = places.get(parser.index().saturating_sub(1)).or(places.last()).copied().unwrap_or_default();
    let statement = match parsed {
        Ok(statement) if parser.index() >= places.len() => statement,
        Ok(_) => {
            let (line, column) = places.get(parser.index()).copied().unwrap_or((line, column));
            return Err(Error::query("TG-SQL-SYNTAX", "the query should end here").at(FILE, line, column));
        }
        Err(ParserError::RecursionLimitExceeded) => {
            return Err(complex("the query is nested too deeply; the limit is 50 levels".to_string()));
        }
        Err(ParserError::ParserError(message) | ParserError::TokenizerError(message)) => {
            let message = message.split(" at Line:").next().unwrap_or(&message).to_string();
            return Err(Error::query("TG-SQL-SYNTAX", message).at(FILE, line, column));
        }
    };
    let (mut query, explain) = match statement {
        ast::Statement::Query(query) => (query, false),
        ast::Statement::Explain { statement, analyze: false, verbose: false, options: None, .. } => match *statement {
            ast::Statement::Query(query) => (query, true),
            _ => return Err(read_only("only queries are explained".to_string())),
        },
        ast::Statement::Explain { .. } => return Err(read_only("EXPLAIN has no options here".to_string())),
        _ => return Err(read_only("this statement is not answered".to_string())),
    };
    let catalog = known.catalog.filter(|_| of_catalog);
    if let Some(Catalog(names)) = catalog {
        // A statement of a client has its own parameters, which say what is asked for.
        opened = fill(&mut query, filled)?;
        pg::make_plain(&mut query, names)?;
    }
    let known = &Known { catalog, ..known.clone() };
    if hidden {
        hidden::keep_hidden(&mut query, &known.sources);
    }
    view::plain_windows(&mut query, FILE, view::Windowing::Rows)?;
    tree::walk(&query, known)?;
    let mut open = fill(&mut query, filled)?;
    open.count = open.count.max(opened.count);
    open.lists.extend(opened.lists);
    open.types.extend(opened.types);
    Ok(Asked { query, explain, hidden, open, of_catalog: catalog.is_some() })
}

/// Puts values where parameters stand; how many stay open.
fn fill(query: &mut Query, with: Filled<'_>) -> Result<Open> {
    let mut filling = Filling { with, bytes: 0, open: Open::default() };
    match VisitMut::visit(query, &mut filling) {
        ControlFlow::Break(error) => Err(error),
        ControlFlow::Continue(()) => Ok(filling.open),
    }
}

/// Whether a value is one of these, or none of them.
fn one_of(left: Box<Expr>, list: Vec<Expr>, negated: bool) -> Expr {
    if list.is_empty() { Given::Boolean(negated).expr() } else { Expr::InList { expr: left, list, negated } }
}

/// The values of a list that is written as a text: `'{a,b}'`.
fn written_list(expr: &Expr) -> Option<Vec<String>> {
    match expr {
        Expr::Nested(inner) | Expr::Cast { expr: inner, .. } => written_list(inner),
        Expr::Value(value) => match &value.value {
            Value::SingleQuotedString(text) => {
                let inner = text.trim().strip_prefix('{')?.strip_suffix('}')?;
                let parts = inner.split(',').map(|part| part.trim().trim_matches('"').to_string());
                Some(if inner.trim().is_empty() { Vec::new() } else { parts.collect() })
            }
            _ => None,
        },
        _ => None,
    }
}

/// The number of a parameter.
fn parameter(expr: &Expr) -> Option<usize> {
    match expr {
        Expr::Nested(inner) | Expr::Cast { expr: inner, .. } => parameter(inner),
        Expr::Value(value) => match &value.value {
            Value::Placeholder(name) => name.strip_prefix('$')?.parse().ok(),
            _ => None,
        },
        _ => None,
    }
}

/// Puts values where parameters stand.
struct Filling<'a> {
    with: Filled<'a>,
    /// Bytes that have been put in: a value may stand in many places.
    bytes: usize,
    open: Open,
}

/// The most parameters of a statement.
pub const PARAMETERS_MAX: usize = 1_000;

impl VisitorMut for Filling<'_> {
    type Break = Error;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<Error> {
        let Filled::Open(_) = self.with else { return ControlFlow::Continue(()) };
        // Only a number is planned there.
        let (limit, offset) = match &mut query.limit_clause {
            Some(LimitClause::LimitOffset { limit, offset, .. }) => {
                (limit.as_mut(), offset.as_mut().map(|offset| &mut offset.value))
            }
            Some(LimitClause::OffsetCommaLimit { limit, offset }) => (Some(limit), Some(offset)),
            None => (None, None),
        };
        let fetch = query.fetch.as_mut().and_then(|fetch| fetch.quantity.as_mut());
        for expr in [limit, offset, fetch].into_iter().flatten() {
            if let Some(number) = parameter(expr) {
                self.open.count = self.open.count.max(number);
                self.open.types.insert(number, Type::BigInt);
                *expr = Given::Number("1".to_string()).expr();
            }
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Error> {
        if let (Filled::Open(_), Expr::Cast { expr: inner, data_type, .. }) = (self.with, &*expr)
            && let (Some(number), Some(data_type)) = (parameter(inner), Type::of_sql(data_type))
        {
            self.open.types.entry(number).or_insert(data_type);
        }
        let (Expr::AnyOp { left, compare_op: op, right, .. } | Expr::AllOp { left, compare_op: op, right }) = &*expr
        else {
            return ControlFlow::Continue(());
        };
        let of_list = matches!(
            (&*expr, op),
            (Expr::AnyOp { .. }, ast::BinaryOperator::Eq) | (Expr::AllOp { .. }, ast::BinaryOperator::NotEq)
        );
        let (left, op, negated) = (left.clone(), op.clone(), matches!(expr, Expr::AllOp { .. }));
        match (self.with, parameter(right)) {
            // What is compared with each of its values has their type.
            (Filled::Open(_), Some(number)) => {
                self.open.lists.insert(number);
                let placeholder = Value::Placeholder(format!("${number}")).with_empty_span();
                *expr = Expr::BinaryOp { left, op, right: Box::new(Expr::Value(placeholder)) };
            }
            (Filled::Values(parameters), Some(number)) if of_list => {
                if let Some(Given::List(values)) = parameters.get(&number.to_string()) {
                    self.bytes += 32 * values.len();
                    *expr = one_of(left, values.iter().map(Given::expr).collect(), negated);
                }
            }
            _ if of_list => {
                if let Some(values) = written_list(right) {
                    *expr = one_of(left, values.into_iter().map(|value| Given::Text(value).expr()).collect(), negated);
                }
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Error> {
        let Expr::Value(value) = expr else { return ControlFlow::Continue(()) };
        let Value::Placeholder(written) = &value.value else { return ControlFlow::Continue(()) };
        let place = value.span.start;
        let refuse = |error: Error| ControlFlow::Break(error.at(FILE, place.line, place.column));
        let name = written.trim_start_matches(['$', ':', '@']);
        match self.with {
            Filled::Values(parameters) => {
                let Some(given) = parameters.get(name).or_else(|| parameters.get(&name.to_lowercase())) else {
                    let error = Error::query("TG-SQL-PARAMETER", format!("parameter {written} has no value"));
                    return refuse(error.hint("send params: a list for $1, $2, …, or an object by name"));
                };
                self.bytes += given.len();
                if self.bytes > FILLED_MAX {
                    let why = format!("the parameters put more than {} MiB into the query", FILLED_MAX >> 20);
                    return ControlFlow::Break(complex(why));
                }
                *expr = given.expr();
            }
            Filled::Open(types) => {
                let Some(number) = name.parse().ok().filter(|number| (1..=PARAMETERS_MAX).contains(number)) else {
                    let error = Error::query("TG-SQL-PARAMETER", format!("{written} is no parameter"));
                    return refuse(error.hint(format!("write $1, $2, … up to ${PARAMETERS_MAX}")));
                };
                self.open.count = self.open.count.max(number);
                if let Some(data_type) = types.get(&number) {
                    *expr = Expr::Cast {
                        kind: ast::CastKind::Cast,
                        expr: Box::new(expr.clone()),
                        data_type: data_type.sql(),
                        array: false,
                        format: None,
                    };
                }
            }
        }
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> Known<'static> {
        Known { tables: vec!["minutes", "levels", "tidegate.progress"], sources: vec!["records"], catalog: None }
    }

    fn code(text: &str) -> String {
        // The api looks only; a worker looks and reads.
        if let Err(error) = look(text) {
            return error.code.to_string();
        }
        match check(text, Filled::Values(&Parameters::new()), &known()) {
            Ok(_) => "ok".to_string(),
            Err(error) => error.code.to_string(),
        }
    }

    fn told(text: &str) -> String {
        check(text, Filled::Values(&Parameters::new()), &known()).expect_err(text).to_string()
    }

    #[test]
    fn what_reads_may_be_asked() {
        for text in [
            "SELECT 1",
            "select * from minutes;",
            "(SELECT 1) UNION ALL (SELECT 2)",
            "VALUES (1), (2)",
            "EXPLAIN SELECT count(*) FROM minutes",
            "WITH a AS (SELECT * FROM minutes) SELECT * FROM a JOIN levels v ON v.id = a.id",
            "SELECT * FROM public.minutes WHERE x IN (SELECT y FROM levels) -- and so on",
            "SELECT * FROM tidegate.progress p JOIN TIDEGATE.progress USING (part)",
            "SELECT window_start, count(*) FROM TUMBLE(records, ts, INTERVAL '1 minute') GROUP BY window_start",
            "SELECT * FROM TABLE(HOP(TABLE records, DESCRIPTOR(ts), INTERVAL '1' MINUTE, INTERVAL '5' MINUTE)) h",
            "WITH r AS (SELECT * FROM records) SELECT * FROM CUMULATE(r, ts, INTERVAL '1 hour', INTERVAL '1 day')",
            "SELECT a, view FROM levels WHERE view = 'x' GROUP BY a, view",
            "SELECT row_number() OVER (PARTITION BY a ORDER BY b), extract(hour FROM ts), trim(a), a::int FROM minutes",
        ] {
            assert_eq!(code(text), "ok", "{text}");
        }
    }

    #[test]
    fn what_writes_or_reads_elsewhere_is_refused_by_name() {
        for (text, expected) in [
            ("CREATE EXTERNAL TABLE p STORED AS CSV LOCATION '/etc/passwd'", "TG-QUERY-READ-ONLY"),
            ("COPY minutes TO '/tmp/x'", "TG-QUERY-READ-ONLY"),
            ("EXPLAIN ANALYZE COPY minutes TO '/tmp/x'", "TG-QUERY-READ-ONLY"),
            ("EXPLAIN ANALYZE SELECT 1", "TG-QUERY-READ-ONLY"),
            ("EXPLAIN VERBOSE SELECT 1", "TG-QUERY-READ-ONLY"),
            ("EXPLAIN (ANALYZE) SELECT 1", "TG-QUERY-READ-ONLY"),
            ("EXPLAIN INSERT INTO minutes VALUES (1)", "TG-QUERY-READ-ONLY"),
            ("INSERT INTO minutes VALUES (1)", "TG-QUERY-READ-ONLY"),
            ("WITH a AS (INSERT INTO minutes VALUES (1)) SELECT * FROM a", "TG-QUERY-READ-ONLY"),
            ("SET datafusion.runtime.memory_limit = '100G'", "TG-QUERY-READ-ONLY"),
            ("SHOW ALL", "TG-QUERY-READ-ONLY"),
            ("SELECT * INTO x FROM minutes", "TG-QUERY-READ-ONLY"),
            ("SELECT * FROM minutes FOR UPDATE", "TG-QUERY-READ-ONLY"),
            ("SELECT 1; DROP TABLE minutes", "TG-QUERY-STATEMENTS"),
            ("SELECT 1;;;", "TG-QUERY-STATEMENTS"),
            ("SELECT * FROM '/etc/passwd'", "TG-QUERY-TABLE"),
            ("SELECT * FROM \"/etc/passwd\"", "TG-QUERY-TABLE"),
            ("SELECT * FROM information_schema.df_settings", "TG-QUERY-TABLE"),
            ("SELECT * FROM progress", "TG-QUERY-TABLE"),
            ("SELECT * FROM tidegate.pipelines", "TG-QUERY-TABLE"),
            ("SELECT * FROM tidegate.records", "TG-QUERY-TABLE"),
            ("SELECT * FROM TUMBLE(recods, ts, INTERVAL '1 minute')", "TG-QUERY-TABLE"),
            ("SELECT * FROM TUMBLE(records, ts, INTERVAL '1 month')", "TG-SQL-WINDOW"),
            ("SELECT * FROM HOP(records, ts, INTERVAL '1 second', INTERVAL '1 day')", "TG-SQL-WINDOW"),
            ("SELECT * FROM TUMBLE(records, ts, INTERVAL '1 minute') TABLESAMPLE BERNOULLI (1)", "TG-SQL-NOT-YET"),
            ("SELECT tidegate_windows(now(), 1, 60000000, 7000000, 0, 1)", "TG-QUERY-FUNCTION"),
            ("SELECT \"tidegate_window\"(now(), 1, 60000000, 7000000, 0, 1)", "TG-QUERY-FUNCTION"),
            ("SELECT * FROM SESSION(records, ts, INTERVAL '1 minute')", "TG-SQL-NOT-YET"),
            ("SELECT * FROM read_csv('/etc/passwd')", "TG-QUERY-FUNCTION"),
            ("SELECT * FROM generate_series(1, 1000000000)", "TG-QUERY-FUNCTION"),
            ("SELECT repeat('x', 1500000000)", "TG-QUERY-FUNCTION"),
            ("SELECT version()", "TG-QUERY-FUNCTION"),
            ("SELECT pg_catalog.version()", "TG-QUERY-FUNCTION"),
            ("WITH RECURSIVE a AS (SELECT 1 UNION ALL SELECT * FROM a) SELECT * FROM a", "TG-QUERY-UNSUPPORTED"),
            ("SELECT * FROM minutes TABLESAMPLE BERNOULLI (1)", "TG-QUERY-UNSUPPORTED"),
            ("SELECT count(*) FROM minutes PREWHERE x > 5", "TG-QUERY-UNSUPPORTED"),
            ("SELECT a FROM minutes GROUP BY a WITH ROLLUP", "TG-QUERY-UNSUPPORTED"),
            ("WITH \"public.minutes\" AS (SELECT 1) SELECT * FROM public.minutes", "TG-QUERY-UNSUPPORTED"),
            ("", "TG-SQL-SYNTAX"),
            ("SELECT 1 FROM", "TG-SQL-SYNTAX"),
            ("SELECT 1 2", "TG-SQL-SYNTAX"),
            ("SELECT $1", "TG-SQL-PARAMETER"),
        ] {
            assert_eq!(code(text), expected, "{text}");
        }
    }

    #[test]
    fn a_refusal_has_its_place_and_the_way_out() {
        assert_eq!(
            told("SELECT *\n  FROM minuts"),
            "query:2:8: TG-QUERY-TABLE: there is no table minuts (did you mean minutes?)"
        );
        assert_eq!(
            told("SELECT summ(x)"),
            "query:1:8: TG-QUERY-FUNCTION: there is no function summ (did you mean sum?)"
        );
        assert_eq!(told("SELCT 1"), "query:1:1: TG-SQL-SYNTAX: a query cannot begin with selct (did you mean SELECT?)");
    }

    #[test]
    fn what_would_not_plan_in_time_is_too_complex() {
        let chain = |count: usize, operator: &str| vec!["1"; count].join(operator);
        let doubled = |levels: usize| {
            let ctes: Vec<String> = (1..=levels)
                .map(|n| format!("c{n} AS (SELECT a.x FROM c{} a JOIN c{} b ON a.x = b.x)", n - 1, n - 1))
                .collect();
            format!("WITH c0 AS (SELECT x FROM minutes), {} SELECT * FROM c{levels}", ctes.join(", "))
        };
        for (text, expected) in [
            (format!("SELECT {}", chain(400, "+")), "ok"),
            (format!("SELECT {}", chain(600, "+")), "TG-QUERY-COMPLEX"),
            (format!("SELECT {}", chain(20_000, "+")), "TG-QUERY-COMPLEX"),
            (format!("SELECT {}", chain(600, " OR ")), "TG-QUERY-COMPLEX"),
            (format!("SELECT {}", chain(600, " AND ")), "TG-QUERY-COMPLEX"),
            (format!("SELECT {}", chain(600, "||")), "TG-QUERY-COMPLEX"),
            (format!("SELECT 1{}", "::int".repeat(1_900)), "TG-QUERY-COMPLEX"),
            (format!("SELECT 1{}", " IS NULL".repeat(1_900)), "TG-QUERY-COMPLEX"),
            (format!("SELECT x{}", "[1]".repeat(1_900)), "TG-QUERY-COMPLEX"),
            (format!("SELECT x{}", "[1]".repeat(100)), "TG-QUERY-COMPLEX"),
            (format!("SELECT {}1{}", "(".repeat(30_000), ")".repeat(30_000)), "TG-QUERY-COMPLEX"),
            (format!("SELECT {} true", "NOT ".repeat(1_900)), "TG-QUERY-COMPLEX"),
            (format!("SELECT {}1{}", "CASE WHEN true THEN ".repeat(100), " END".repeat(100)), "TG-QUERY-COMPLEX"),
            (format!("SELECT {}1{}", "CASE WHEN true THEN ".repeat(20), " END".repeat(20)), "ok"),
            // What the parser reads twice at each level.
            (format!("SELECT {}", "CAST(".repeat(45)), "TG-QUERY-COMPLEX"),
            (format!("SELECT {}", "NOT(".repeat(45)), "TG-QUERY-COMPLEX"),
            (format!("SELECT {})", "INTERVAL ".repeat(40)), "TG-QUERY-COMPLEX"),
            (format!("SELECT {}'a'{}", "position(".repeat(30), ", 'b')".repeat(30)), "TG-QUERY-COMPLEX"),
            (format!("SELECT * FROM minutes MATCH_RECOGNIZE(PATTERN({}", "(".repeat(60_000)), "TG-QUERY-COMPLEX"),
            (format!("SELECT CAST(1 AS {}", "Map(".repeat(10_000)), "TG-QUERY-COMPLEX"),
            (format!("SELECT * FROM {}minutes{}", "(".repeat(65), ")".repeat(65)), "TG-QUERY-COMPLEX"),
            (format!("SELECT {}1{}", "abs(".repeat(3_000), ")".repeat(3_000)), "TG-QUERY-COMPLEX"),
            (vec!["SELECT 1"; 200].join(" UNION ALL "), "ok"),
            (vec!["SELECT 1"; 201].join(" UNION ALL "), "TG-QUERY-COMPLEX"),
            (vec!["SELECT 1"; 3_000].join(" UNION "), "TG-QUERY-COMPLEX"),
            (format!("SELECT {}", vec!["x"; 1_001].join(", ")), "TG-QUERY-COMPLEX"),
            (format!("SELECT * FROM minutes WHERE x IN ({})", vec!["1"; 9_000].join(",")), "ok"),
            (format!("SELECT * FROM minutes WHERE x IN ({})", vec!["1"; 11_000].join(",")), "TG-QUERY-COMPLEX"),
            (format!("SELECT * FROM {}", vec!["minutes"; 60].join(", ")), "TG-QUERY-COMPLEX"),
            (format!("SELECT * FROM minutes WHERE x IN ({})", vec!["-1"; 9_000].join(",")), "TG-QUERY-COMPLEX"),
            (format!("SELECT * FROM minutes WHERE x IN ({})", vec!["-1"; 3_000].join(",")), "ok"),
            (doubled(7), "ok"),
            (doubled(9), "TG-QUERY-COMPLEX"),
            (doubled(22), "TG-QUERY-COMPLEX"),
            (format!("SELECT '{}'", "x".repeat(TEXT_MAX)), "TG-QUERY-TEXT"),
        ] {
            assert_eq!(code(&text), expected, "{}", &text[..text.len().min(80)]);
        }
    }

    #[test]
    fn values_that_stand_in_many_places_are_counted() {
        let given = Parameters::from([("1".to_string(), Given::Text("x".repeat(1 << 20)))]);
        let text = format!("SELECT 1 IN ({})", ["$1"; 5].join(","));
        assert_eq!(
            check(&text, Filled::Values(&given), &Known::default()).expect_err("5 MiB").code,
            "TG-QUERY-COMPLEX"
        );
    }

    #[test]
    fn parameters_are_values_and_never_sql() {
        let mut given = Parameters::new();
        given.insert("1".to_string(), Given::Text("'; DROP TABLE minutes; --".to_string()));
        given.insert("n".to_string(), Given::Number("-3".to_string()));
        let asked =
            check("SELECT * FROM minutes WHERE a = $1 AND b > $n", Filled::Values(&given), &known()).expect("it reads");
        assert_eq!(asked.query.to_string(), "SELECT * FROM minutes WHERE a = '''; DROP TABLE minutes; --' AND b > -3");
    }
}
