//! What somebody types: several lines until a semicolon, what was typed before, names that are completed.

use std::path::PathBuf;

use rustyline::completion::{Completer, Pair};
use rustyline::error::ReadlineError;
use rustyline::history::{FileHistory, History};
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{CompletionType, Config, Context, Editor, Helper, Highlighter, Hinter};
use tidegate_engine::sql::session::is_whole;

/// Words of SQL that are completed beside names.
const WORDS: &str = "SELECT FROM WHERE GROUP BY ORDER BY LIMIT HAVING JOIN LEFT JOIN ON USING AND OR NOT NULL IS IN BETWEEN LIKE \
    CASE WHEN THEN ELSE END AS DISTINCT COUNT( SUM( AVG( MIN( MAX( CAST( INTERVAL TIMESTAMP TUMBLE( HOP( CUMULATE( WITH UNION ALL \
    EXPLAIN VALUES DESC ASC";

/// What was read.
pub enum Read {
    /// Some text, whole.
    Text(String),
    /// Nothing, or what was broken off.
    Nothing,
    /// There is no more.
    End,
}

/// A line that is edited.
pub struct Line {
    editor: Editor<Names, FileHistory>,
    history: Option<PathBuf>,
}

impl Line {
    /// With what was typed before, if somebody has a home.
    pub fn new() -> rustyline::Result<Self> {
        let config =
            Config::builder().completion_type(CompletionType::List).auto_add_history(false).max_history_size(1_000)?;
        let mut editor: Editor<Names, FileHistory> = Editor::with_config(config.build())?;
        editor.set_helper(Some(Names(WORDS.split_whitespace().map(str::to_string).collect())));
        let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from);
        let state = state.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".local/state")));
        let history = state.map(|state| state.join("tidegate/history"));
        if let Some(history) = &history {
            // One that is not there, or not ours to read, is an empty one.
            let _ = editor.load_history(history);
        }
        Ok(Self { editor, history })
    }

    /// Completes these names as well.
    pub fn know(&mut self, names: Vec<String>) {
        if let Some(known) = self.editor.helper_mut() {
            known.0.extend(names);
        }
    }

    /// The next text.
    pub fn read(&mut self) -> rustyline::Result<Read> {
        let text = match self.editor.readline("tidegate> ") {
            Ok(text) => text,
            Err(ReadlineError::Interrupted) => return Ok(Read::Nothing),
            Err(ReadlineError::Eof) => return Ok(Read::End),
            Err(error) => return Err(error),
        };
        if text.trim().is_empty() {
            return Ok(Read::Nothing);
        }
        self.editor.add_history_entry(text.trim())?;
        if let Some(history) = &self.history {
            // What cannot be kept is typed again.
            let _ = history.parent().map(std::fs::create_dir_all);
            let _ = self.editor.history_mut().save(history);
        }
        Ok(Read::Text(text))
    }
}

/// Names that are completed; a text is whole once a semicolon ends it.
#[derive(Helper, Highlighter, Hinter)]
struct Names(Vec<String>);

/// Where the word begins that ends here, and it.
fn word(line: &str, at: usize) -> (usize, &str) {
    let before = &line[..at];
    let start = before
        .rfind(|c: char| !(c.is_alphanumeric() || c == '_' || c == '.'))
        .map_or(0, |found| found + before[found..].chars().next().map_or(1, char::len_utf8));
    (start, &before[start..])
}

impl Completer for Names {
    type Candidate = Pair;

    fn complete(&self, line: &str, at: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<Pair>)> {
        let (start, begun) = word(line, at);
        if begun.is_empty() {
            return Ok((start, Vec::new()));
        }
        let lower = begun.to_lowercase();
        let fits = self.0.iter().filter(|name| name.to_lowercase().starts_with(&lower));
        let pair = |name: &String| Pair { display: name.clone(), replacement: name.clone() };
        Ok((start, fits.map(pair).collect()))
    }
}

impl Validator for Names {
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        let text = context.input().trim();
        let whole =
            text.is_empty() || text.starts_with('\\') || matches!(text, "exit" | "quit" | "help") || is_whole(text);
        Ok(if whole { ValidationResult::Valid(None) } else { ValidationResult::Incomplete })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_before_the_cursor_is_completed() {
        assert_eq!(word("SELECT sho", 10), (7, "sho"));
        assert_eq!(word("SELECT count(tidegate.pr", 24), (13, "tidegate.pr"));
        assert_eq!(word("é, a", 5), (4, "a"));
        let names = Names(vec!["shop_orders".to_string(), "shop_id".to_string(), "SELECT".to_string()]);
        let history = FileHistory::new();
        let (start, found) = names.complete("select Shop", 11, &Context::new(&history)).unwrap();
        let found: Vec<&str> = found.iter().map(|pair| pair.replacement.as_str()).collect();
        assert_eq!((start, found.as_slice()), (7, ["shop_orders", "shop_id"].as_slice()));
    }
}
