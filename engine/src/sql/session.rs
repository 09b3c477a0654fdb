//! What clients of the Postgres protocol say beside queries: transactions, settings, cursors.
//!
//! Nothing of it reaches the planner. A transaction is only counted, since nobody writes here; a cursor is a query whose
//! rows are fetched in parts.

use sqlparser::tokenizer::{Location, Token, TokenWithSpan};

use super::guard;
use super::text::offset;
use crate::error::{Error, Result};

/// One of the statements of a text.
#[derive(Debug, Clone, PartialEq)]
pub struct Spoken {
    /// It alone.
    pub text: String,
    /// Where it begins in the whole, in bytes.
    pub at: usize,
    /// What it is.
    pub kind: Kind,
}

/// How many rows are fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    /// So many.
    Rows(usize),
    /// All that are left.
    All,
}

/// What a statement is.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// A query, or what the guard refuses.
    Query,
    /// `BEGIN`, `START TRANSACTION`.
    Begin,
    /// `COMMIT`, `END`.
    Commit,
    /// `ROLLBACK`, `ABORT`.
    Rollback,
    /// `SAVEPOINT`.
    Savepoint,
    /// `RELEASE`.
    Release,
    /// `ROLLBACK TO`.
    RollbackTo,
    /// `SET name = value`; without a value `RESET`, and of nothing `RESET ALL`.
    Set {
        /// The setting, if it is one of a name.
        name: Option<String>,
        /// Its value; the default without one.
        value: Option<String>,
        /// What is said when it is done.
        tag: &'static str,
    },
    /// `SHOW name`.
    Show(String),
    /// `DISCARD`.
    Discard,
    /// `DEALLOCATE name`, or of all.
    Deallocate(Option<String>),
    /// `CLOSE name`, or of all.
    Close(Option<String>),
    /// `DECLARE name CURSOR FOR query`.
    Declare {
        /// The cursor.
        name: String,
        /// Where its query begins in the statement, in bytes.
        query: usize,
        /// Whether it outlives its transaction.
        hold: bool,
    },
    /// `FETCH count FROM name`.
    Fetch {
        /// The cursor.
        name: String,
        /// Of its rows.
        count: Count,
        /// Whether they are passed over.
        skips: bool,
    },
    /// `UNLISTEN`, of which there is nothing.
    Unlisten,
}

/// The most statements of a text.
const STATEMENTS_MAX: usize = 500;

/// The statements of a text.
pub fn statements(text: &str) -> Result<Vec<Spoken>> {
    let tokens = guard::tokens(text)?;
    let count = tokens.iter().filter(|token| token.token == Token::SemiColon).count();
    if count > STATEMENTS_MAX {
        let why = format!("the text has more than {STATEMENTS_MAX} statements");
        return Err(Error::query("TG-QUERY-STATEMENTS", why).hint("send them in several texts"));
    }
    let of = tokens.split(|token| token.token == Token::SemiColon).filter(|tokens| !tokens.is_empty());
    of.map(|tokens| {
        let place = |location: Option<Location>| location.map_or(0, |location| offset(text, location));
        let at = place(tokens.first().map(|token| token.span.start));
        let end = place(tokens.last().map(|token| token.span.end));
        let kind = Words { tokens, text, begin: at }.kind()?;
        Ok(Spoken { text: text.get(at..end).unwrap_or_default().to_string(), at, kind })
    })
    .collect()
}

/// Whether a text ends with the end of a statement, which no quote or comment holds.
pub fn is_whole(text: &str) -> bool {
    guard::tokens(text).is_ok_and(|tokens| tokens.last().is_none_or(|token| token.token == Token::SemiColon))
}

struct Words<'a> {
    tokens: &'a [TokenWithSpan],
    text: &'a str,
    begin: usize,
}

impl Words<'_> {
    /// A word that stands there, in small letters.
    fn word(&self, index: usize) -> String {
        match self.tokens.get(index).map(|token| &token.token) {
            Some(Token::Word(word)) if word.quote_style.is_none() => word.value.to_lowercase(),
            _ => String::new(),
        }
    }

    fn is(&self, index: usize, words: &[&str]) -> bool {
        words.iter().enumerate().all(|(after, word)| self.word(index + after) == *word)
    }

    fn error(&self, index: usize, message: &str) -> Error {
        let error = Error::query("TG-SQL-SYNTAX", message);
        match self.tokens.get(index).or(self.tokens.last()) {
            Some(token) => error.at("query", token.span.start.line, token.span.start.column),
            None => error,
        }
    }

    fn name(&self, index: usize) -> Result<String> {
        match self.tokens.get(index).map(|token| &token.token) {
            Some(Token::Word(word)) if word.quote_style.is_none() => Ok(word.value.to_lowercase()),
            Some(Token::Word(word)) => Ok(word.value.clone()),
            _ => Err(self.error(index, "a name should stand here")),
        }
    }

    /// What stands there, as a value.
    fn value(&self, index: usize) -> Option<String> {
        let token = self.tokens.get(index)?;
        Some(match &token.token {
            Token::SingleQuotedString(text) | Token::EscapedStringLiteral(text) => text.clone(),
            Token::Number(number, _) => number.clone(),
            Token::Word(word) => word.value.clone(),
            Token::Minus => format!("-{}", self.value(index + 1)?),
            other => other.to_string(),
        })
    }

    fn kind(&self) -> Result<Kind> {
        let set = |name: Option<String>, value: Option<String>, tag| Ok(Kind::Set { name, value, tag });
        match self.word(0).as_str() {
            "begin" => Ok(Kind::Begin),
            "start" if self.word(1) == "transaction" => Ok(Kind::Begin),
            "commit" | "end" => Ok(Kind::Commit),
            "rollback" if self.word(1) == "to" || self.is(1, &["transaction", "to"]) => Ok(Kind::RollbackTo),
            "rollback" | "abort" => Ok(Kind::Rollback),
            "savepoint" => Ok(Kind::Savepoint),
            "release" => Ok(Kind::Release),
            "discard" => Ok(Kind::Discard),
            "unlisten" => Ok(Kind::Unlisten),
            "deallocate" => {
                let at = if self.word(1) == "prepare" { 2 } else { 1 };
                Ok(Kind::Deallocate(if self.word(at) == "all" { None } else { Some(self.name(at)?) }))
            }
            "close" => Ok(Kind::Close(if self.word(1) == "all" { None } else { Some(self.name(1)?) })),
            "reset" if self.word(1) == "all" => set(None, None, "RESET"),
            "reset" => set(Some(self.name(1)?.to_lowercase()), None, "RESET"),
            "show" if self.is(1, &["transaction", "isolation", "level"]) => {
                Ok(Kind::Show("transaction_isolation".to_string()))
            }
            "show" if self.is(1, &["time", "zone"]) => Ok(Kind::Show("timezone".to_string())),
            "show" => Ok(Kind::Show(self.name(1)?.to_lowercase())),
            "set" => self.set(),
            "declare" => self.declare(),
            "fetch" => self.fetch(false),
            "move" => self.fetch(true),
            _ => Ok(Kind::Query),
        }
    }

    fn set(&self) -> Result<Kind> {
        let at = if matches!(self.word(1).as_str(), "session" | "local") { 2 } else { 1 };
        let (name, at) = match self.word(at).as_str() {
            // Of a transaction there is one kind: it reads.
            "transaction" | "characteristics" => {
                return Ok(Kind::Set { name: None, value: Some(String::new()), tag: "SET" });
            }
            "time" if self.word(at + 1) == "zone" => ("timezone".to_string(), at + 2),
            "authorization" | "role" => {
                let name = self.word(at);
                return Err(Error::query("TG-QUERY-READ-ONLY", format!("SET {name} is not answered"))
                    .hint("connect as the other user"));
            }
            _ => (self.name(at)?.to_lowercase(), at + 1),
        };
        let has_sign = self.word(at) == "to" || self.tokens.get(at).is_some_and(|token| token.token == Token::Eq);
        let at = if has_sign { at + 1 } else { at };
        let default = matches!(self.word(at).as_str(), "default" | "local") && self.tokens.len() == at + 1;
        let values: Vec<String> = (at..self.tokens.len())
            .filter(|index| self.tokens[*index].token != Token::Comma)
            .filter_map(|index| self.value(index))
            .collect();
        if values.is_empty() {
            return Err(self.error(at, "a value should stand here"));
        }
        Ok(Kind::Set { name: Some(name), value: (!default).then(|| values.join(", ")), tag: "SET" })
    }

    fn declare(&self) -> Result<Kind> {
        let name = self.name(1)?;
        let query = (2..self.tokens.len()).find(|index| self.word(*index) == "for").map(|index| index + 1);
        let token = query.and_then(|index| self.tokens.get(index));
        let token = token.ok_or_else(|| self.error(2, "CURSOR FOR and a query should stand here"))?;
        let hold = (2..self.tokens.len())
            .take_while(|index| self.word(*index) != "for")
            .any(|index| self.is(index, &["with", "hold"]));
        Ok(Kind::Declare { name, hold, query: offset(self.text, token.span.start) - self.begin })
    }

    fn fetch(&self, skips: bool) -> Result<Kind> {
        let mut at = 1;
        let mut count = Count::Rows(1);
        if matches!(self.word(at).as_str(), "prior" | "first" | "last" | "absolute" | "relative" | "backward") {
            return Err(Error::query("TG-QUERY-UNSUPPORTED", "a cursor only goes forward").hint("FETCH FORWARD n"));
        }
        if matches!(self.word(at).as_str(), "next" | "forward") {
            at += 1;
        }
        if self.word(at) == "all" {
            (count, at) = (Count::All, at + 1);
        } else if let Some(Token::Number(number, _)) = self.tokens.get(at).map(|token| &token.token) {
            let rows = number.parse().map_err(|_| self.error(at, "that is no number of rows"))?;
            (count, at) = (Count::Rows(rows), at + 1);
        }
        if matches!(self.word(at).as_str(), "from" | "in") {
            at += 1;
        }
        Ok(Kind::Fetch { name: self.name(at)?, count, skips })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(text: &str) -> Vec<Kind> {
        statements(text).unwrap().into_iter().map(|spoken| spoken.kind).collect()
    }

    #[test]
    fn what_clients_say_is_known() {
        let set = |name: Option<&str>, value: Option<&str>, tag| Kind::Set {
            name: name.map(str::to_string),
            value: value.map(str::to_string),
            tag,
        };
        let fetch = |name: &str, count, skips| Kind::Fetch { name: name.to_string(), count, skips };
        for (text, expected) in [
            ("", vec![]),
            (";", vec![]),
            ("-- ping", vec![]),
            ("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; COMMIT", vec![Kind::Begin, Kind::Commit]),
            ("SELECT ';' AS a, 2; begin;", vec![Kind::Query, Kind::Begin]),
            ("SAVEPOINT \"_pg3_2\"", vec![Kind::Savepoint]),
            ("rollback to savepoint x", vec![Kind::RollbackTo]),
            (
                "SET application_name = 'PostgreSQL JDBC Driver'",
                vec![set(Some("application_name"), Some("PostgreSQL JDBC Driver"), "SET")],
            ),
            (
                "SET SESSION search_path TO 'public', tidegate",
                vec![set(Some("search_path"), Some("public, tidegate"), "SET")],
            ),
            ("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY", vec![set(None, Some(""), "SET")]),
            (
                "SET default_transaction_read_only TO DEFAULT",
                vec![set(Some("default_transaction_read_only"), None, "SET")],
            ),
            ("SET TIME ZONE 'UTC'", vec![set(Some("timezone"), Some("UTC"), "SET")]),
            ("RESET ALL", vec![set(None, None, "RESET")]),
            ("show transaction isolation level", vec![Kind::Show("transaction_isolation".to_string())]),
            ("CLOSE ALL; UNLISTEN *", vec![Kind::Close(None), Kind::Unlisten]),
            ("FETCH FORWARD 100 FROM _psql_cursor", vec![fetch("_psql_cursor", Count::Rows(100), false)]),
            ("FETCH FORWARD ALL FROM \"c_1F\"", vec![fetch("c_1F", Count::All, false)]),
            ("MOVE 1 FROM c", vec![fetch("c", Count::Rows(1), true)]),
            ("DEALLOCATE ALL", vec![Kind::Deallocate(None)]),
        ] {
            assert_eq!(kinds(text), expected, "{text}");
        }
        let declared = statements(" DECLARE \"named\" NO SCROLL CURSOR WITH HOLD FOR\nselect 1").unwrap();
        let Kind::Declare { name, query, hold: true } = &declared[0].kind else { panic!("{declared:?}") };
        assert_eq!((name.as_str(), &declared[0].text[*query..]), ("named", "select 1"));
        assert_eq!(statements("FETCH PRIOR FROM c").unwrap_err().code, "TG-QUERY-UNSUPPORTED");
        assert_eq!(statements("SET ROLE postgres").unwrap_err().code, "TG-QUERY-READ-ONLY");
        assert_eq!(statements("SELECT 'open").unwrap_err().code, "TG-SQL-SYNTAX");
    }
}
