//! A hand on the tokens of one statement, and which statement it is.

use std::collections::BTreeMap;

use arrow::compute::kernels::cast_utils::parse_interval_month_day_nano;
use sqlparser::ast;
use sqlparser::parser::{Parser, ParserError};
use sqlparser::tokenizer::Token;

use super::endpoint::{self, Endpoint, Gauge};
use super::source::{self, Source};
use super::text::{DIALECT, Tokens};
use super::view::{self, ViewText};
use crate::error::{Error, Result};

/// A parsed statement of `queries/`.
#[derive(Debug)]
pub enum Statement {
    /// `CREATE SOURCE`.
    Source(Source),
    /// `CREATE MATERIALIZED VIEW`.
    View(ViewText),
    /// `CREATE ENDPOINT`.
    Endpoint(Endpoint),
    /// `CREATE GAUGE`.
    Gauge(Gauge),
}

/// Parses one statement; every fault of it, as far as it can be read.
pub fn parse(tokens: &Tokens) -> Result<Statement, Vec<Error>> {
    let mut cursor = Cursor { tokens, index: 0 };
    if cursor.words(&["create", "source"]) || cursor.words(&["create", "table"]) {
        return source::parse(&mut cursor).map(Statement::Source);
    }
    other(&mut cursor).map_err(|error| vec![error])
}

/// Parses what is no source.
fn other(cursor: &mut Cursor<'_>) -> Result<Statement> {
    if !cursor.words(&["create"]) {
        return Err(cursor
            .error(
                "TG-SQL-STATEMENT",
                "a statement must begin with CREATE SOURCE, CREATE MATERIALIZED VIEW, CREATE ENDPOINT or CREATE GAUGE",
            )
            .hint("ad-hoc queries do not belong in the directory of views"));
    }
    if cursor.words(&["materialized", "view"]) {
        return view::parse(cursor).map(Statement::View);
    }
    if cursor.words(&["endpoint"]) {
        return endpoint::parse(cursor).map(Statement::Endpoint);
    }
    if cursor.words(&["gauge"]) {
        return endpoint::parse_gauge(cursor).map(Statement::Gauge);
    }
    if cursor.peek_words(&["view"]) {
        return Err(cursor
            .error("TG-SQL-STATEMENT", "CREATE VIEW is not supported")
            .hint("write CREATE MATERIALIZED VIEW"));
    }
    Err(cursor.error("TG-SQL-STATEMENT", format!("only {KNOWN} are supported")))
}

const KNOWN: &str = "CREATE SOURCE, CREATE MATERIALIZED VIEW, CREATE ENDPOINT and CREATE GAUGE";

/// The name of the source that a statement is to declare, as far as it can be read.
pub fn source_name(tokens: &Tokens) -> Option<String> {
    let mut cursor = Cursor { tokens, index: 0 };
    let declares = cursor.words(&["create", "source"]) || cursor.words(&["create", "table"]);
    declares.then(|| cursor.name().ok()).flatten()
}

/// A position in a statement's tokens.
#[derive(Debug)]
pub struct Cursor<'a> {
    tokens: &'a Tokens,
    index: usize,
}

/// Options with the place of each, for messages.
pub type Given = BTreeMap<String, (String, usize)>;

impl Cursor<'_> {
    /// The file.
    pub fn file(&self) -> &str {
        &self.tokens.file
    }

    /// The whole statement as it stands in its file.
    pub fn text(&self) -> &str {
        &self.tokens.text
    }

    /// The index of the next token, to name its place later.
    pub fn index(&self) -> usize {
        self.index
    }

    /// The place of the next token.
    pub fn place(&self) -> (u64, u64) {
        let token = self.tokens.tokens.get(self.index).or_else(|| self.tokens.tokens.last());
        token.map_or((1, 1), |token| (token.span.start.line, token.span.start.column))
    }

    /// An error at the next token.
    pub fn error(&self, code: &'static str, message: impl Into<String>) -> Error {
        self.error_at(self.index, code, message)
    }

    /// An error at an earlier token.
    pub fn error_at(&self, index: usize, code: &'static str, message: impl Into<String>) -> Error {
        self.tokens.error(index, code, message)
    }

    /// The next token.
    pub fn peek(&self) -> Option<&Token> {
        self.tokens.tokens.get(self.index).map(|token| &token.token)
    }

    /// Whether the next words are these.
    pub fn peek_words(&self, words: &[&str]) -> bool {
        self.tokens.words_at(self.index, words)
    }

    /// Takes these words, if they are next.
    pub fn words(&mut self, words: &[&str]) -> bool {
        let found = self.peek_words(words);
        if found {
            self.index += words.len();
        }
        found
    }

    /// Takes these words, or fails.
    pub fn expect_words(&mut self, words: &[&str]) -> Result<()> {
        if self.words(words) {
            return Ok(());
        }
        Err(self.expected(&words.join(" ").to_uppercase()))
    }

    /// Takes this token, if it is next.
    pub fn take(&mut self, token: &Token) -> bool {
        let found = self.peek() == Some(token);
        self.index += usize::from(found);
        found
    }

    /// Takes this token, or fails.
    pub fn expect(&mut self, token: &Token) -> Result<()> {
        if self.take(token) {
            return Ok(());
        }
        Err(self.expected(&token.to_string()))
    }

    fn expected(&self, what: &str) -> Error {
        let found = self.peek().map_or("the end of the statement".to_string(), ToString::to_string);
        self.error("TG-SQL-SYNTAX", format!("expected {what}, found {found}"))
    }

    /// Takes a name; unquoted ones are folded to lower case, as in Postgres.
    pub fn name(&mut self) -> Result<String> {
        match self.peek() {
            Some(Token::Word(word)) => {
                let name = if word.quote_style.is_some() { word.value.clone() } else { word.value.to_lowercase() };
                self.index += 1;
                Ok(name)
            }
            _ => Err(self.expected("a name")),
        }
    }

    /// Takes a string in single quotes.
    pub fn string(&mut self) -> Result<String> {
        match self.peek() {
            Some(Token::SingleQuotedString(text)) => {
                let text = text.clone();
                self.index += 1;
                Ok(text)
            }
            _ => Err(self.expected("a string in single quotes")),
        }
    }

    /// Runs one of the parser's own rules from here.
    pub fn parse<T>(&mut self, rule: impl FnOnce(&mut Parser<'_>) -> Result<T, ParserError>) -> Result<T> {
        self.parse_until(self.tokens.tokens.len(), rule)
    }

    /// The same, over the tokens before `end` only.
    pub fn parse_until<T>(
        &mut self,
        end: usize,
        rule: impl FnOnce(&mut Parser<'_>) -> Result<T, ParserError>,
    ) -> Result<T> {
        let mut parser = Parser::new(&DIALECT).with_tokens_with_locations(self.tokens.tokens[self.index..end].to_vec());
        let outcome = rule(&mut parser);
        let read = parser.index();
        match outcome {
            Ok(value) => {
                self.index += read;
                Ok(value)
            }
            Err(ParserError::RecursionLimitExceeded) => {
                Err(self.error("TG-SQL-SYNTAX", "the expression is nested too deeply"))
            }
            Err(ParserError::ParserError(message) | ParserError::TokenizerError(message)) => {
                let message = message.split(" at Line:").next().unwrap_or(&message).to_string();
                Err(self.error_at((self.index + read).saturating_sub(1).min(end), "TG-SQL-SYNTAX", message))
            }
        }
    }

    /// The index of the first of these words outside of parentheses, or of the end.
    pub fn find(&self, words: &[&str]) -> usize {
        let mut depth = 0i32;
        for (index, token) in self.tokens.tokens.iter().enumerate().skip(self.index) {
            match token.token {
                Token::LParen => depth += 1,
                Token::RParen => depth -= 1,
                _ if depth == 0 && self.tokens.words_at(index, words) => return index,
                _ => {}
            }
        }
        self.tokens.tokens.len()
    }

    /// How many tokens the statement has.
    pub fn len(&self) -> usize {
        self.tokens.tokens.len()
    }

    /// The index of the parenthesis that closes the one before the next token, or of the end.
    pub fn closing(&self) -> usize {
        let mut depth = 0;
        for (index, token) in self.tokens.tokens.iter().enumerate().skip(self.index) {
            match token.token {
                Token::LParen => depth += 1,
                Token::RParen if depth == 0 => return index,
                Token::RParen => depth -= 1,
                _ => {}
            }
        }
        self.len()
    }

    /// Takes `(key = 'value', …)`; a key is words joined by dots, or a string.
    pub fn options(&mut self) -> Result<Given> {
        self.expect(&Token::LParen)?;
        let mut given = Given::new();
        loop {
            let place = self.index;
            let mut key =
                if matches!(self.peek(), Some(Token::SingleQuotedString(_))) { self.string()? } else { self.name()? };
            while self.take(&Token::Period) {
                key = format!("{key}.{}", self.name()?);
            }
            self.expect(&Token::Eq)?;
            let value = match self.peek() {
                Some(Token::Number(number, _)) => {
                    let number = number.clone();
                    self.index += 1;
                    number
                }
                _ => self.string()?,
            };
            if given.insert(key.clone(), (value, place)).is_some() {
                return Err(self.error_at(place, "TG-SQL-SYNTAX", format!("option {key} is given twice")));
            }
            if !self.take(&Token::Comma) {
                break;
            }
        }
        self.expect(&Token::RParen)?;
        Ok(given)
    }

    /// The tokens between two indexes in a form that white space, comments and the case of words do not change. It is made
    /// of the text alone, so that another version of the parser reads the same.
    pub fn normal(&self, from: usize, until: usize) -> String {
        let words = self.tokens.tokens[from..until].iter().map(|token| match &token.token {
            Token::Word(word) if word.quote_style.is_none() => word.value.to_lowercase(),
            Token::Word(word) => format!("\"{}\"", word.value.replace('"', "\"\"")),
            Token::SingleQuotedString(text) => format!("'{}'", text.replace('\'', "''")),
            other => other.to_string(),
        });
        words.collect::<Vec<_>>().join(" ")
    }

    /// Fails unless the statement ends here.
    pub fn end(&self) -> Result<()> {
        if self.peek().is_none() {
            return Ok(());
        }
        Err(self.expected("the end of the statement"))
    }
}

/// A name as Postgres and DataFusion read it.
pub fn normal(ident: &ast::Ident) -> String {
    if ident.quote_style.is_some() { ident.value.clone() } else { ident.value.to_lowercase() }
}

/// The length of `INTERVAL '…' [unit]` in microseconds; months have no length.
pub fn interval_us(expr: &ast::Expr) -> Option<i64> {
    let ast::Expr::Interval(interval) = expr else { return None };
    let ast::Expr::Value(value) = interval.value.as_ref() else { return None };
    let text = match &value.value {
        ast::Value::SingleQuotedString(text) => text.clone(),
        ast::Value::Number(number, _) => number.to_string(),
        _ => return None,
    };
    match &interval.leading_field {
        Some(unit) => parse_interval_us(&format!("{text} {unit}")),
        None => parse_interval_us(&text),
    }
}

/// The length of a duration such as `90 seconds` in microseconds.
pub fn parse_interval_us(text: &str) -> Option<i64> {
    let parsed = parse_interval_month_day_nano(text).ok()?;
    if parsed.months != 0 || parsed.nanoseconds % 1_000 != 0 {
        return None;
    }
    i64::from(parsed.days).checked_mul(86_400_000_000)?.checked_add(parsed.nanoseconds / 1_000)
}
