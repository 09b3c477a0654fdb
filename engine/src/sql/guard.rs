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

use std::collections::HashMap;
use std::ops::ControlFlow;

use datafusion::execution::context::SessionState;
use datafusion::logical_expr::LogicalPlan;
use datafusion::sql::parser::Statement;
use futures::executor::block_on;
use serde::{Deserialize, Serialize};
use sqlparser::ast::{self, Expr, Ident, ObjectName, Query, Select, SetExpr, TableFactor, Visit, VisitMut, Visitor};
use sqlparser::ast::{Value, VisitorMut};
use sqlparser::parser::{Parser, ParserError};
use sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer};

use super::explain::{self, Relation};
use super::names::Named;
use super::statement::normal;
use super::text::DIALECT;
use super::{functions, names};
use crate::error::{Error, Result};

/// The longest text.
pub const TEXT_MAX: usize = 64 << 10;

/// Operators and words that may nest, such as + or AND.
const OPERATORS_MAX: usize = 2_000;
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

/// Brackets within each other.
const BRACKETS_MAX: usize = 64;
/// Brackets within each other behind words such as CAST, which the parser reads twice where it cannot read them once.
const FORMS_MAX: usize = 8;
/// CASE within each other.
const CASES_MAX: usize = 24;
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
}

impl Given {
    fn len(&self) -> usize {
        match self {
            Self::Null | Self::Boolean(_) => 0,
            Self::Number(text) | Self::Text(text) => text.len(),
        }
    }

    fn expr(&self) -> Expr {
        let value = |value: Value| Expr::Value(value.with_empty_span());
        match self {
            Self::Null => value(Value::Null),
            Self::Boolean(given) => value(Value::Boolean(*given)),
            Self::Text(text) => value(Value::SingleQuotedString(text.clone())),
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

/// A statement that may be planned.
#[derive(Debug, Clone)]
pub struct Asked {
    query: Box<Query>,
    explain: bool,
}

impl Asked {
    /// Whether its plan is asked for, and no rows.
    pub fn is_explain(&self) -> bool {
        self.explain
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
        let explained = block_on(state.statement_to_plan(self.statement()));
        explained.map_err(|error| told(explain::explain(error, FILE, 1, 1, "the query", Relation::View)))
    }

    /// As DataFusion plans it.
    fn statement(&self) -> Statement {
        let query = ast::Statement::Query(self.query.clone());
        let statement = if self.explain {
            let (statement, describe_alias) = (Box::new(query), ast::DescribeAlias::Explain);
            let (analyze, verbose, query_plan, estimate) = (false, false, false, false);
            ast::Statement::Explain {
                describe_alias,
                analyze,
                verbose,
                query_plan,
                estimate,
                statement,
                format: None,
                options: None,
            }
        } else {
            query
        };
        Statement::Statement(Box::new(statement))
    }
}

/// Looks at a text of which nothing is known, in a time that its length bounds.
pub fn look(text: &str) -> Result<()> {
    one_statement(text).map(drop)
}

/// Reads a text, with values for its parameters. `tables` are those that there are. It may take for ever: the process must
/// be one that can be ended.
pub fn check(text: &str, parameters: &Parameters, tables: &[&str]) -> Result<Asked> {
    let tokens = one_statement(text)?;
    let walk = || read(tokens, parameters, tables);
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

fn complex(message: String) -> Error {
    Error::query("TG-QUERY-COMPLEX", message).hint("split it into several queries")
}

fn read_only(message: String) -> Error {
    Error::query("TG-QUERY-READ-ONLY", message).hint("only SELECT, WITH, VALUES and EXPLAIN are answered here")
}

fn at(error: Error, token: &TokenWithSpan) -> Error {
    error.at(FILE, token.span.start.line, token.span.start.column)
}

/// What places are told of: people see line and column of their own text.
const FILE: &str = "query";

/// The words with which a statement begins that may be answered.
const READS: [&str; 3] = ["select", "with", "values"];

/// The words with which others begin, so that they are told from misspelt ones.
const OTHERS: &str = "abort alter analyze attach backup begin call cancel checkpoint close cluster comment commit copy create \
    deallocate declare delete describe desc detach discard do drop end execute export fetch flush grant import insert install \
    kill listen load lock merge move notify optimize pragma prepare refresh reindex release rename repair replace reset \
    restore revoke rollback savepoint set show start truncate uncache unlisten unload unlock update upsert use vacuum";

/// The tokens of the one statement of a text, if it is one that reads.
fn one_statement(text: &str) -> Result<Vec<TokenWithSpan>> {
    if text.len() > TEXT_MAX {
        let why = format!("the query has {} bytes; the limit is {TEXT_MAX}", text.len());
        let hint = "send long lists of values as a join with VALUES, or in several queries";
        return Err(Error::query("TG-QUERY-TEXT", why).hint(hint));
    }
    let mut all = Vec::new();
    if let Err(error) = Tokenizer::new(&DIALECT, text).tokenize_with_location_into_buf(&mut all) {
        let place = error.location;
        return Err(Error::query("TG-SQL-SYNTAX", error.message).at(FILE, place.line, place.column));
    }
    let mut tokens: Vec<TokenWithSpan> =
        all.into_iter().filter(|token| !matches!(token.token, Token::Whitespace(_) | Token::EOF)).collect();
    if let Some(end) = tokens.iter().position(|token| token.token == Token::SemiColon) {
        if let Some(second) = tokens.get(end + 1) {
            let error = Error::query("TG-QUERY-STATEMENTS", "there is more than one statement");
            return Err(at(error.hint("send them one by one"), second));
        }
        tokens.truncate(end);
    }
    let Some(first) = tokens.iter().find(|token| token.token != Token::LParen) else {
        return Err(Error::query("TG-SQL-SYNTAX", "there is no statement").hint("send a SELECT"));
    };
    let (mut first, mut next) = (first, 1);
    if is_word(first, "explain") {
        for option in ["analyze", "verbose"] {
            if let Some(token) = tokens.get(1).filter(|token| is_word(token, option)) {
                let error = read_only(format!("EXPLAIN {} is not answered", option.to_uppercase()));
                return Err(at(error.hint("leave the word out"), token));
            }
        }
        first = tokens[1..].iter().find(|token| token.token != Token::LParen).unwrap_or(first);
        next = 2;
    }
    let word = match &first.token {
        Token::Word(word) if word.quote_style.is_none() => word.value.to_lowercase(),
        other => {
            return Err(at(Error::query("TG-SQL-SYNTAX", format!("a query cannot begin with {other}")), first));
        }
    };
    if !READS.contains(&word.as_str()) {
        let other = OTHERS.split_whitespace().any(|other| other == word);
        let error = if other {
            read_only(format!("{} is not answered", word.to_uppercase()))
        } else {
            let meant = names::nearest(&word, READS.into_iter());
            let hint = meant
                .map_or("begin with SELECT".to_string(), |meant| format!("did you mean {}?", meant.to_uppercase()));
            Error::query("TG-SQL-SYNTAX", format!("a query cannot begin with {word}")).hint(hint)
        };
        return Err(at(error, first));
    }
    // The sign of a literal in a list is none of them.
    let is_sign = |index: usize| {
        matches!(tokens[index].token, Token::Minus | Token::Plus)
            && matches!(tokens[index - 1].token, Token::LParen | Token::Comma)
            && matches!(tokens.get(index + 1).map(|token| &token.token), Some(Token::Number(..)))
    };
    let operators = (next..tokens.len()).filter(|index| nests(&tokens[*index].token) && !is_sign(*index)).count();
    if operators > OPERATORS_MAX {
        return Err(complex(format!("the query has {operators} operators; the limit is {OPERATORS_MAX}")));
    }
    check_brackets(&tokens)?;
    Ok(tokens)
}

/// Words behind which a bracket is read in a way of its own, and then again as that of a function.
const FORMS: &str = "array case cast ceil convert exists extract floor interval map match not nullable overlay position \
    safe_cast struct substr substring trim try_cast tuple";

/// Refuses brackets that the parser would take too deep a stack or too long for.
fn check_brackets(tokens: &[TokenWithSpan]) -> Result<()> {
    let is_form = |token: Option<&TokenWithSpan>| {
        token.is_some_and(|token| FORMS.split_whitespace().any(|form| is_word(token, form)))
    };
    // Whether each open bracket stands behind such a word.
    let (mut open, mut forms, mut cases): (Vec<bool>, usize, usize) = (Vec::new(), 0, 0);
    for (index, token) in tokens.iter().enumerate() {
        let before = index.checked_sub(1).and_then(|before| tokens.get(before));
        match token.token {
            Token::LParen | Token::LBracket | Token::LBrace => {
                let form = is_form(before);
                forms += usize::from(form);
                open.push(form);
            }
            Token::RParen | Token::RBracket | Token::RBrace => {
                forms -= usize::from(open.pop().unwrap_or_default());
            }
            _ if is_word(token, "case") => cases += 1,
            _ if is_word(token, "end") => cases = cases.saturating_sub(1),
            // Without a bracket, for as long as they follow each other.
            _ if is_form(Some(token)) && is_form(before) && !is_word(token, "exists") => {
                let many = tokens[index..].iter().take_while(|token| is_form(Some(token))).count();
                if many > FORMS_MAX {
                    return Err(at(complex(format!("more than {FORMS_MAX} words in a row begin a form")), token));
                }
            }
            _ => {}
        }
        if open.len() > BRACKETS_MAX {
            let why = format!("there are more than {BRACKETS_MAX} brackets within each other");
            return Err(at(complex(why), token));
        }
        if cases > CASES_MAX {
            return Err(at(complex(format!("there are more than {CASES_MAX} CASE within each other")), token));
        }
        if forms > FORMS_MAX {
            let why = format!("there are more than {FORMS_MAX} forms such as CAST within each other");
            return Err(at(complex(why), token));
        }
    }
    Ok(())
}

fn is_word(token: &TokenWithSpan, word: &str) -> bool {
    matches!(&token.token, Token::Word(found) if found.quote_style.is_none() && found.value.eq_ignore_ascii_case(word))
}

/// Words that make one expression part of another without a parenthesis.
const NESTING: &str = "and at between collate div escape except glob ilike in intersect is isnull join like match minus not \
    notnull or overlaps regexp rlike similar union xor";

/// Whether a tree may be one deeper for this token. Parentheses and their like are counted by the parser itself.
fn nests(token: &Token) -> bool {
    match token {
        Token::Word(word) if word.quote_style.is_none() => {
            NESTING.split_whitespace().any(|other| word.value.eq_ignore_ascii_case(other))
        }
        Token::Word(_)
        | Token::Number(..)
        | Token::SingleQuotedString(_)
        | Token::EscapedStringLiteral(_)
        | Token::NationalStringLiteral(_)
        | Token::HexStringLiteral(_)
        | Token::Placeholder(_)
        | Token::Comma
        | Token::Period
        | Token::LParen
        | Token::RParen => false,
        _ => true,
    }
}

/// The tree of the tokens, with values for its parameters.
fn read(tokens: Vec<TokenWithSpan>, parameters: &Parameters, tables: &[&str]) -> Result<Asked> {
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
    let mut walk = Walk { tables, queries: Vec::new(), nodes: 0, literals: 0, depth: 0 };
    if let ControlFlow::Break(error) = Visit::visit(&query, &mut walk) {
        return Err(error);
    }
    let mut filling = Filling { parameters, filled: 0 };
    if let ControlFlow::Break(error) = VisitMut::visit(&mut query, &mut filling) {
        return Err(error);
    }
    Ok(Asked { query, explain })
}

/// Puts values where parameters stand.
struct Filling<'a> {
    parameters: &'a Parameters,
    /// Bytes that have been put in: a value may stand in many places.
    filled: usize,
}

impl VisitorMut for Filling<'_> {
    type Break = Error;

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Error> {
        if let Expr::Value(value) = expr
            && let Value::Placeholder(written) = &value.value
        {
            let name = written.trim_start_matches(['$', ':', '@']);
            match self.parameters.get(name).or_else(|| self.parameters.get(&name.to_lowercase())) {
                Some(given) => {
                    self.filled += given.len();
                    if self.filled > FILLED_MAX {
                        let why = format!("the parameters put more than {} MiB into the query", FILLED_MAX >> 20);
                        return ControlFlow::Break(complex(why));
                    }
                    *expr = given.expr();
                }
                None => {
                    let place = value.span.start;
                    let error = Error::query("TG-SQL-PARAMETER", format!("parameter {written} has no value"))
                        .hint("send params: a list for $1, $2, …, or an object by name");
                    return ControlFlow::Break(error.at(FILE, place.line, place.column));
                }
            }
        }
        ControlFlow::Continue(())
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
    tables: &'a [&'a str],
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
            _ => &relation.to_string(),
        };
        if self.tables.contains(&name.as_str()) {
            return self.reads(1);
        }
        let error = Error::query("TG-QUERY-TABLE", format!("there is no table {name}"));
        let error = match names::nearest(name, self.tables.iter().copied()) {
            Some(meant) => error.hint(format!("did you mean {meant}?")),
            None if self.tables.is_empty() => error.hint("no view is declared"),
            None => error.hint(format!("there are {}", self.tables.join(", "))),
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
            if parts.len() != 1 || !functions::is_allowed(&name) {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn code(text: &str) -> String {
        // The api looks only; a worker looks and reads.
        if let Err(error) = look(text) {
            return error.code.to_string();
        }
        match check(text, &Parameters::new(), &["minutes", "levels"]) {
            Ok(_) => "ok".to_string(),
            Err(error) => error.code.to_string(),
        }
    }

    fn told(text: &str) -> String {
        check(text, &Parameters::new(), &["minutes", "levels"]).expect_err(text).to_string()
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
        assert_eq!(check(&text, &given, &[]).expect_err("5 MiB").code, "TG-QUERY-COMPLEX");
    }

    #[test]
    fn parameters_are_values_and_never_sql() {
        let mut given = Parameters::new();
        given.insert("1".to_string(), Given::Text("'; DROP TABLE minutes; --".to_string()));
        given.insert("n".to_string(), Given::Number("-3".to_string()));
        let asked = check("SELECT * FROM minutes WHERE a = $1 AND b > $n", &given, &["minutes"]).expect("it reads");
        assert_eq!(asked.query.to_string(), "SELECT * FROM minutes WHERE a = '''; DROP TABLE minutes; --' AND b > -3");
    }
}
