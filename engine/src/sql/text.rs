//! Text to statements' tokens: variables, tokens with places, and the cuts at `;`.
//!
//! Knows nothing of what a statement means. Every token keeps its place in the file as the user wrote it, so that each
//! later message can name file, line and column.

use sqlparser::dialect::GenericDialect;
use sqlparser::keywords::Keyword;
use sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer, Word};

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

/// Cuts a file into statements. `variable` answers for `${NAME}`.
pub fn statements(file: &str, text: &str, variable: impl Fn(&str) -> Option<String>) -> Result<Vec<Tokens>> {
    let (text, edits) = substitute(file, text, variable)?;
    let mut tokens = Tokenizer::new(&DIALECT, &text).tokenize_with_location().map_err(|error| {
        let (line, column) = edits.original(error.location.line, error.location.column);
        Error::query("TG-SQL-SYNTAX", error.message).at(file, line, column)
    })?;
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
    Ok(found
        .into_iter()
        .filter(|tokens| !tokens.is_empty())
        .map(|tokens| Tokens { file: file.to_string(), tokens: drop_table_keyword(tokens) })
        .collect())
}

/// A statement as it stands in a text.
#[derive(Debug, Clone)]
pub struct StatementText {
    /// The name that it declares; of one that declares nothing, its own text.
    pub name: String,
    /// It, without the `;`.
    pub text: String,
    /// Where it begins.
    pub line: u64,
    /// Where it begins.
    pub column: u64,
}

/// The statements of a text, uninterpreted.
pub fn statements_of(file: &str, text: &str) -> Result<Vec<StatementText>> {
    let tokens = Tokenizer::new(&DIALECT, text).tokenize_with_location().map_err(|error| {
        Error::query("TG-SQL-SYNTAX", error.message).at(file, error.location.line, error.location.column)
    })?;
    let mut found = Vec::new();
    for tokens in tokens.split(|token| token.token == Token::SemiColon) {
        let is_blank = |token: &&TokenWithSpan| matches!(token.token, Token::Whitespace(_) | Token::EOF);
        let Some(first) = tokens.iter().find(|token| !is_blank(token)) else { continue };
        let text: String = tokens.iter().skip_while(is_blank).map(|token| token.token.to_string()).collect();
        let text = text.trim_end().to_string();
        let declares = |word: &Word| {
            word.quote_style.is_some()
                || !["create", "source", "table", "materialized", "view"].contains(&word.value.to_lowercase().as_str())
        };
        let name = tokens.iter().find_map(|token| match &token.token {
            Token::Word(word) if declares(word) => {
                Some(if word.quote_style.is_some() { word.value.clone() } else { word.value.to_lowercase() })
            }
            _ => None,
        });
        let start = first.span.start;
        found.push(StatementText {
            name: name.unwrap_or_else(|| text.clone()),
            text,
            line: start.line,
            column: start.column,
        });
    }
    Ok(found)
}

/// `TUMBLE(TABLE t, …)` names its table as SQL:2016 does; the parser knows only `TUMBLE(t, …)`.
fn drop_table_keyword(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
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

/// Replaces `${NAME}` and `${NAME:-default}`. A value may not hold a line break: it would move every later place.
fn substitute(file: &str, text: &str, variable: impl Fn(&str) -> Option<String>) -> Result<(String, Edits)> {
    let mut out = String::with_capacity(text.len());
    let mut edits = Edits::default();
    for (index, line) in text.split('\n').enumerate() {
        let number = index as u64 + 1;
        if index > 0 {
            out.push('\n');
        }
        let (mut rest, mut column, mut shift) = (line, 1u64, 0i64);
        while let Some(start) = rest.find("${") {
            let place = |offset: usize| column.saturating_add_signed(shift) + rest[..offset].chars().count() as u64;
            let Some(end) = rest[start..].find('}').map(|end| start + end) else {
                return Err(Error::query("TG-SQL-VARIABLE", "${ without a closing }").at(file, number, place(start)));
            };
            let inner = &rest[start + 2..end];
            let (name, default) = inner.split_once(":-").map_or((inner, None), |(name, text)| (name, Some(text)));
            let value = variable(name).or_else(|| default.map(str::to_string)).ok_or_else(|| {
                Error::query("TG-SQL-VARIABLE", format!("variable {name} is not set"))
                    .hint(format!("set it in the environment, or write ${{{name}:-default}}"))
                    .at(file, number, place(start))
            })?;
            if value.contains('\n') {
                return Err(Error::query("TG-SQL-VARIABLE", format!("the value of variable {name} has a line break"))
                    .at(file, number, place(start)));
            }
            out.push_str(&rest[..start]);
            out.push_str(&value);
            column += (rest[..start].chars().count() + value.chars().count()) as u64;
            shift += inner.chars().count() as i64 + 3 - value.chars().count() as i64;
            edits.0.push(Edit { line: number, end: column, shift });
            rest = &rest[end + 1..];
        }
        out.push_str(rest);
    }
    Ok((out, edits))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(text: &str) -> Result<Vec<Tokens>> {
        statements("q.sql", text, |name| (name == "TOPIC").then(|| "stream.events.of.all".to_string()))
    }

    #[test]
    fn statements_end_at_semicolons_outside_of_strings() -> Result<()> {
        let found = cut("select ';' ; -- a; comment\n select 2;\n;")?;
        assert_eq!(found.len(), 2);
        Ok(())
    }

    #[test]
    fn places_are_those_of_the_users_text_behind_a_variable() -> Result<()> {
        let found = cut("a '${TOPIC}' b ${X:-1} c")?;
        let columns: Vec<u64> = found[0].tokens.iter().map(|t| t.span.start.column).collect();
        assert_eq!(columns, [1, 3, 14, 16, 24]);
        Ok(())
    }

    #[test]
    fn an_unset_variable_is_named_with_its_place() {
        let error = cut("select\n  ${NOPE}").expect_err("must fail");
        assert_eq!(
            error.to_string(),
            "q.sql:2:3: TG-SQL-VARIABLE: variable NOPE is not set (set it in the environment, or write ${NOPE:-default})"
        );
    }
}
