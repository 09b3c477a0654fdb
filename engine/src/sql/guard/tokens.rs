//! One statement that reads, and how deep its tree may become: what its tokens alone say.

use sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer};

use super::{FILE, complex, read_only};
use crate::error::{Error, Result};
use crate::sql::names;
use crate::sql::text::DIALECT;

/// The longest text.
pub const TEXT_MAX: usize = 64 << 10;
/// Operators and words that may nest, such as + or AND.
const OPERATORS_MAX: usize = 2_000;
/// Brackets within each other.
pub const BRACKETS_MAX: usize = 64;
/// Brackets within each other behind words such as CAST, which the parser reads twice where it cannot read them once.
const FORMS_MAX: usize = 8;
/// CASE within each other.
const CASES_MAX: usize = 24;

fn at(error: Error, token: &TokenWithSpan) -> Error {
    error.at(FILE, token.span.start.line, token.span.start.column)
}

/// The words with which a statement begins that may be answered.
const READS: [&str; 3] = ["select", "with", "values"];

/// The words with which others begin, so that they are told from misspelt ones.
const OTHERS: &str = "abort alter analyze attach backup begin call cancel checkpoint close cluster comment commit copy create \
    deallocate declare delete describe desc detach discard do drop end execute export fetch flush grant import insert install \
    kill listen load lock merge move notify optimize pragma prepare refresh reindex release rename repair replace reset \
    restore revoke rollback savepoint set show start truncate uncache unlisten unload unlock update upsert use vacuum";

/// The tokens of a text, without what stands between them.
pub fn tokens(text: &str) -> Result<Vec<TokenWithSpan>> {
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
    Ok(all.into_iter().filter(|token| !matches!(token.token, Token::Whitespace(_) | Token::EOF)).collect())
}

/// The tokens of the one statement of a text, if it is one that reads.
pub fn one_statement(text: &str) -> Result<Vec<TokenWithSpan>> {
    let mut tokens = tokens(text)?;
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

/// Whether a tree may be one deeper for this token. Brackets are counted by [`check_brackets`].
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
