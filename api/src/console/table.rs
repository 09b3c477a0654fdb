//! An answer as columns under their names.

use std::fmt::Write;

use serde_json::Value;

/// The longest cell that is shown whole.
const CELL_MAX: usize = 200;

/// A cell as it is shown.
fn cell(value: &Value) -> String {
    let text = match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    // What moves the cursor is somebody's data.
    let shown: String = text.chars().take(CELL_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if shown.len() < text.len() && text.chars().count() > CELL_MAX { format!("{shown}…") } else { shown }
}

/// Columns that it takes on a terminal, as nearly as characters tell.
fn width(text: &str) -> usize {
    text.chars().count()
}

/// The answer of the api, whose form is JSON.
pub fn of(answer: &Value) -> String {
    let list = |name: &str| answer.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
    let columns = list("columns");
    let text = |column: &Value, name: &str| column.get(name).and_then(Value::as_str).unwrap_or_default().to_string();
    let names: Vec<String> = columns.iter().map(|column| cell(&Value::String(text(column, "name")))).collect();
    // Numbers stand at the right, however they are sent.
    let is_number = |column: &Value| {
        let of = text(column, "type").to_lowercase();
        ["int", "float", "double", "decimal", "uint"].iter().any(|number| of.starts_with(number))
    };
    let right: Vec<bool> = columns.iter().map(is_number).collect();
    let rows: Vec<Vec<String>> = list("rows")
        .iter()
        .map(|row| row.as_array().map(|cells| cells.iter().map(cell).collect()).unwrap_or_default())
        .collect();
    let mut widths: Vec<usize> = names.iter().map(|name| width(name)).collect();
    for row in &rows {
        for (most, cell) in widths.iter_mut().zip(row) {
            *most = (*most).max(width(cell));
        }
    }
    let line = |cells: &[String], right: &[bool]| {
        let padded = cells.iter().zip(&widths).zip(right).map(|((cell, most), right)| {
            let space = " ".repeat(most.saturating_sub(width(cell)));
            if *right { format!(" {space}{cell} ") } else { format!(" {cell}{space} ") }
        });
        format!("{}\n", padded.collect::<Vec<_>>().join("|").trim_end())
    };
    let rule = widths.iter().map(|most| "-".repeat(most + 2)).collect::<Vec<_>>().join("+");
    let mut body = format!("{}{rule}\n", line(&names, &vec![false; names.len()]));
    body.extend(rows.iter().map(|row| line(row, &right)));
    let cut =
        if answer.get("truncated") == Some(&Value::Bool(true)) { ", and more: the answer was cut here" } else { "" };
    // Writing to a text does not fail.
    let _ = writeln!(body, "({} row{}{cut})", rows.len(), if rows.len() == 1 { "" } else { "s" });
    body
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_answer_is_shown_under_its_names() {
        let answer = json!({
            "columns": [{"name": "stream", "type": "Utf8"}, {"name": "n", "type": "Int64"}],
            "rows": [["a\u{1b}[2J", 5], ["bcd", "12345678901234567890"], [null, null]],
            "truncated": true,
        });
        assert_eq!(
            of(&answer),
            " stream | n\n\
             --------+----------------------\n \
             a [2J  |                    5\n \
             bcd    | 12345678901234567890\n        |\n\
             (3 rows, and more: the answer was cut here)\n"
        );
    }
}
