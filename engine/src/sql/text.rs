//! Text to statements' tokens: variables, tokens with places, and the cuts at `;`.
//!
//! Knows nothing of what a statement means. Every token keeps its place in the file as the user wrote it, so that each
//! later message can name file, line and column.

use sqlparser::dialect::GenericDialect;
use sqlparser::keywords::Keyword;
use sqlparser::tokenizer::{Location, Token, TokenWithSpan, Tokenizer, Word};

use crate::error::{Error, Result};

/// The dialect of every statement: the one that DataFusion parses by default.
pub static DIALECT: GenericDialect = GenericDialect {};

/// The tokens of one statement, without the `;` and without white space.
#[derive(Debug, Clone)]
pub struct Tokens {
    /// The file that they stand in.
    pub file: String,
    /// The tokens.
    pub tokens: Vec<TokenWithSpan>,
    /// Them as they stand in the file.
    pub text: String,
}

impl Tokens {
    /// An error at the `index`th token, or at the last one.
    pub fn error(&self, index: usize, code: &'static str, message: impl Into<String>) -> Error {
        let token = self.tokens.get(index).or_else(|| self.tokens.last());
        let (line, column) = token.map_or((1, 1), |token| (token.span.start.line, token.span.start.column));
        Error::query(code, message).at(&self.file, line, column)
    }

    /// Whether the words from `index` on are these, in any case.
    pub fn words_at(&self, index: usize, words: &[&str]) -> bool {
        words.iter().enumerate().all(|(i, word)| {
            matches!(self.tokens.get(index + i).map(|t| &t.token),
                Some(Token::Word(w)) if w.quote_style.is_none() && w.value.eq_ignore_ascii_case(word))
        })
    }
}

/// Cuts a file into statements; and its faults. `variable` answers for `${NAME}`.
pub fn statements(file: &str, text: &str, variable: impl Fn(&str) -> Option<String>) -> (Vec<Tokens>, Vec<Error>) {
    let original = text;
    let (text, edits, mut faults) = substitute(file, text, variable);
    let mut tokens = Vec::new();
    if let Err(error) = Tokenizer::new(&DIALECT, &text).tokenize_with_location_into_buf(&mut tokens) {
        let (line, column) = edits.original(error.location.line, error.location.column);
        faults.push(Error::query("TG-SQL-SYNTAX", error.message).at(file, line, column));
        // What was begun there is not read.
        let whole = tokens.iter().rposition(|token| token.token == Token::SemiColon).map_or(0, |end| end + 1);
        tokens.truncate(whole);
    }
    for token in &mut tokens {
        for location in [&mut token.span.start, &mut token.span.end] {
            (location.line, location.column) = edits.original(location.line, location.column);
        }
    }
    let mut found = Vec::new();
    let mut current = Vec::new();
    for token in tokens {
        match token.token {
            Token::Whitespace(_) | Token::EOF => {}
            Token::SemiColon => found.push(std::mem::take(&mut current)),
            _ => current.push(token),
        }
    }
    found.push(current);
    let whole = found.into_iter().filter(|tokens: &Vec<_>| !tokens.is_empty());
    let statements = whole.map(|tokens| {
        let (first, last) = (tokens.first().map(|token| token.span.start), tokens.last().map(|token| token.span.end));
        let at = |location: Option<Location>| location.map_or(0, |location| offset(original, location));
        let text = original.get(at(first)..at(last)).unwrap_or_default().to_string();
        Tokens { file: file.to_string(), tokens: drop_table_keyword(tokens), text }
    });
    (statements.collect(), faults)
}

/// The byte at which a place of a text is.
pub(super) fn offset(text: &str, location: Location) -> usize {
    let before = usize::try_from(location.line.saturating_sub(1)).unwrap_or_default();
    let column = usize::try_from(location.column.saturating_sub(1)).unwrap_or_default();
    let line: usize = text.split_inclusive('\n').take(before).map(str::len).sum();
    text[line..].char_indices().nth(column).map_or(text.len(), |(at, _)| line + at)
}

/// A statement as it stands in a text.
#[derive(Debug, Clone)]
pub struct StatementText {
    /// The name that it declares; without one, its own text.
    pub name: String,
    /// It, without the `;`.
    pub text: String,
    /// Where it begins.
    pub line: u64,
    /// Where it begins.
    pub column: u64,
}

/// The declarations at the head of a text, uninterpreted, and what follows them.
pub fn declarations<'a>(file: &str, text: &'a str) -> Result<(Vec<StatementText>, &'a str)> {
    let mut tokens = Vec::new();
    // What follows the declarations need not be SQL.
    let broken = Tokenizer::new(&DIALECT, text).tokenize_with_location_into_buf(&mut tokens).err();
    let offset = |location: Location| offset(text, location);
    let is_blank = |token: &&TokenWithSpan| matches!(token.token, Token::Whitespace(_) | Token::EOF);
    let (mut found, mut rest) = (Vec::new(), tokens.as_slice());
    while let Some(first) = rest.iter().find(|token| !is_blank(token)) {
        let start = first.span.start;
        if !matches!(&first.token, Token::Word(word) if word.keyword == Keyword::CREATE) {
            return Ok((found, &text[offset(start)..]));
        }
        let end = rest.iter().position(|token| token.token == Token::SemiColon);
        if let (None, Some(error)) = (end, &broken) {
            return Err(Error::query("TG-SQL-SYNTAX", &error.message).at(
                file,
                error.location.line,
                error.location.column,
            ));
        }
        let (own, after) = rest.split_at(end.unwrap_or(rest.len()));
        let until = after.first().map_or(text.len(), |semicolon| offset(semicolon.span.start));
        let statement = text[offset(start)..until].trim_end();
        let name = own.iter().find_map(|token| match &token.token {
            Token::Word(word) => declared(word),
            // The path of an endpoint.
            Token::SingleQuotedString(path) => Some(path.clone()),
            _ => None,
        });
        found.push(StatementText {
            name: name.unwrap_or_else(|| statement.to_string()),
            text: statement.to_string(),
            line: start.line,
            column: start.column,
        });
        rest = after.get(1..).unwrap_or_default();
    }
    Ok((found, ""))
}

/// The words before the name that a statement declares.
const KINDS: [&str; 7] = ["create", "source", "table", "materialized", "view", "endpoint", "gauge"];

/// A word as the name that a statement declares, unless it says what is declared.
fn declared(word: &Word) -> Option<String> {
    let folded = word.value.to_lowercase();
    match word.quote_style {
        Some(_) => Some(word.value.clone()),
        None if KINDS.contains(&folded.as_str()) => None,
        None => Some(folded),
    }
}

/// `TUMBLE(TABLE t, …)` names its table as SQL:2016 does; the parser knows only `TUMBLE(t, …)`.
pub fn drop_table_keyword(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let is_table = |i: usize| {
        let word = |i: usize| tokens.get(i).map(|t| &t.token);
        matches!(word(i), Some(Token::Word(w)) if w.keyword == Keyword::TABLE)
            && matches!(word(i + 1), Some(Token::Word(_)))
            && i > 0
            && matches!(word(i - 1), Some(Token::LParen | Token::RArrow))
    };
    let kept: Vec<bool> = (0..tokens.len()).map(|i| !is_table(i)).collect();
    tokens.into_iter().zip(kept).filter_map(|(token, keep)| keep.then_some(token)).collect()
}

/// Where substituted text stands, so that places can be told in the user's own text.
#[derive(Debug, Default)]
struct Edits(Vec<Edit>);

#[derive(Debug)]
struct Edit {
    line: u64,
    /// Column of the first character after the new text.
    end: u64,
    /// What to add to a column at or behind `end`.
    shift: i64,
}

impl Edits {
    fn original(&self, line: u64, column: u64) -> (u64, u64) {
        let shift =
            self.0.iter().rev().find(|edit| edit.line == line && column >= edit.end).map_or(0, |edit| edit.shift);
        (line, column.saturating_add_signed(shift))
    }
}

/// Replaces `${NAME}` and `${NAME:-default}`. A value may not hold a line break: it would move every later place. A
/// variable with a fault is replaced by nothing.
fn substitute(file: &str, text: &str, variable: impl Fn(&str) -> Option<String>) -> (String, Edits, Vec<Error>) {
    let mut out = String::with_capacity(text.len());
    let (mut edits, mut faults) = (Edits::default(), Vec::new());
    for (index, line) in text.split('\n').enumerate() {
        let number = index as u64 + 1;
        if index > 0 {
            out.push('\n');
        }
        let (mut rest, mut column, mut shift) = (line, 1u64, 0i64);
        while let Some(start) = rest.find("${") {
            let place = column.saturating_add_signed(shift) + rest[..start].chars().count() as u64;
            let mut fault = |error: Error| faults.push(error.at(file, number, place));
            let Some(end) = rest[start..].find('}').map(|end| start + end) else {
                fault(Error::query("TG-SQL-VARIABLE", "${ without a closing }"));
                break;
            };
            let inner = &rest[start + 2..end];
            let (name, default) = inner.split_once(":-").map_or((inner, None), |(name, text)| (name, Some(text)));
            let value = match variable(name).or_else(|| default.map(str::to_string)) {
                None => {
                    fault(
                        Error::query("TG-SQL-VARIABLE", format!("variable {name} is not set"))
                            .hint(format!("set it in the environment, or write ${{{name}:-default}}")),
                    );
                    String::new()
                }
                Some(value) if value.contains('\n') => {
                    fault(Error::query("TG-SQL-VARIABLE", format!("the value of variable {name} has a line break")));
                    String::new()
                }
                Some(value) => value,
            };
            out.push_str(&rest[..start]);
            out.push_str(&value);
            column += (rest[..start].chars().count() + value.chars().count()) as u64;
            shift += inner.chars().count() as i64 + 3 - value.chars().count() as i64;
            edits.0.push(Edit { line: number, end: column, shift });
            rest = &rest[end + 1..];
        }
        out.push_str(rest);
    }
    (out, edits, faults)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(text: &str) -> (Vec<Tokens>, Vec<Error>) {
        statements("q.sql", text, |name| (name == "TOPIC").then(|| "stream.events.of.all".to_string()))
    }

    #[test]
    fn statements_end_at_semicolons_outside_of_strings() {
        let (found, faults) = cut("select ';' ; -- a; comment\n select 2;\n;");
        assert_eq!((found.len(), faults.len()), (2, 0));
    }

    #[test]
    fn places_are_those_of_the_users_text_behind_a_variable() {
        let (found, _) = cut("a '${TOPIC}' b ${X:-1} c");
        let columns: Vec<u64> = found[0].tokens.iter().map(|t| t.span.start.column).collect();
        assert_eq!(columns, [1, 3, 14, 16, 24]);
    }

    #[test]
    fn each_unset_variable_is_named_with_its_place_and_what_cannot_be_read_hides_nothing_before_it() {
        let (found, faults) = cut("select\n  ${NOPE};\nselect ${MORE};\nselect 'open");
        let told: Vec<String> = faults.iter().map(ToString::to_string).collect();
        let unset = |place: &str, name: &str| {
            format!(
                "q.sql:{place}: TG-SQL-VARIABLE: variable {name} is not set (set it in the environment, or write ${{{name}:-default}})"
            )
        };
        assert_eq!(told[..2], [unset("2:3", "NOPE"), unset("3:8", "MORE")]);
        assert!(told[2].starts_with("q.sql:4:8: TG-SQL-SYNTAX: Unterminated string"), "{told:?}");
        assert_eq!(found.len(), 2);
    }

    #[test]
    fn declarations_end_where_something_else_begins() -> Result<()> {
        let text = "-- one\nCREATE VIEW \"A\" AS 'it''s; so';\n  create source b (x);\nfeed b {\"k\":\"a;b\"} it's";
        let (found, rest) = declarations("q.slt", text)?;
        let told: Vec<_> = found.iter().map(|s| (s.name.as_str(), s.text.as_str(), s.line, s.column)).collect();
        assert_eq!(told, [("A", "CREATE VIEW \"A\" AS 'it''s; so'", 2, 1), ("b", "create source b (x)", 3, 3)]);
        assert_eq!(rest, "feed b {\"k\":\"a;b\"} it's");
        Ok(())
    }
}
