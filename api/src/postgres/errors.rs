//! Errors as clients of the protocol know them: five characters, and a place in the text.

use pgwire::messages::response::ErrorResponse;

use crate::adhoc::wire::{Blame, Told};

/// What our codes are there. The rest goes by whose turn it is.
const STATES: [(&str, &str); 26] = [
    ("TG-API-PARAMETER", "22023"),
    ("TG-PG-CURSOR", "34000"),
    ("TG-PG-DATABASE", "3D000"),
    ("TG-PG-DUPLICATE", "42P05"),
    ("TG-PG-LIMIT", "53400"),
    ("TG-PG-PASSWORD", "28P01"),
    ("TG-PG-PLAINTEXT", "28000"),
    ("TG-PG-PROTOCOL", "08P01"),
    ("TG-PG-RESULT", "0A000"),
    ("TG-PG-SETTING", "42704"),
    ("TG-PG-STATEMENT", "26000"),
    ("TG-PG-TRANSACTION", "25P02"),
    ("TG-QUERY-BUSY", "53300"),
    ("TG-QUERY-CANCELLED", "57014"),
    ("TG-QUERY-COMPLEX", "54001"),
    ("TG-QUERY-FUNCTION", "42883"),
    ("TG-QUERY-MEMORY", "53200"),
    ("TG-QUERY-READ-ONLY", "25006"),
    ("TG-QUERY-TABLE", "42P01"),
    ("TG-QUERY-TEXT", "54000"),
    ("TG-QUERY-TIMEOUT", "57014"),
    ("TG-QUERY-UNSUPPORTED", "0A000"),
    ("TG-QUERY-WORKER", "57P01"),
    ("TG-SQL-COLUMN", "42703"),
    ("TG-SQL-PARAMETER", "22P02"),
    ("TG-SQL-SYNTAX", "42601"),
];

/// The state of an error.
pub fn state(told: &Told) -> &'static str {
    let known = STATES.iter().find(|(code, _)| *code == told.code).map(|(_, state)| *state);
    known.unwrap_or(match told.blame {
        Blame::Query if told.code.starts_with("TG-SQL") => "42601",
        Blame::Query if told.code == "TG-QUERY-DATA" => "22000",
        Blame::Query if told.code.ends_with("-BYTES") || told.code.ends_with("-ROWS") => "54000",
        Blame::Query => "42000",
        Blame::Wait => "58030",
        Blame::Us => "XX000",
    })
}

/// The characters before a place, counted from one.
fn position(text: &str, (line, column): (u64, u64)) -> usize {
    let before = usize::try_from(line.saturating_sub(1)).unwrap_or_default();
    let lines: usize = text.split_inclusive('\n').take(before).map(|line| line.chars().count()).sum();
    lines + usize::try_from(column).unwrap_or_default()
}

/// An error of a severity, in a text where it is about one.
pub fn response(told: &Told, severity: &str, text: Option<&str>) -> ErrorResponse {
    let message = format!("{}: {}", told.code, told.message);
    let mut fields = vec![
        (b'S', severity.to_string()),
        (b'V', severity.to_string()),
        (b'C', state(told).to_string()),
        (b'M', message.replace('\0', " ")),
    ];
    if let Some(hint) = &told.hint {
        fields.push((b'H', hint.replace('\0', " ")));
    }
    if let (Some(place), Some(text)) = (told.place, text) {
        fields.push((b'P', position(text, place).to_string()));
    }
    ErrorResponse::new(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_told_in_characters() {
        let text = "SELECT 'é',\n  summ(x)";
        assert_eq!(position(text, (2, 3)), 15);
        assert_eq!(text.chars().nth(14), Some('s'));
        let told =
            Told { place: Some((2, 3)), ..Told::new(Blame::Query, "TG-QUERY-FUNCTION", "there is no function summ") };
        let fields = response(&told, "ERROR", Some(text)).fields;
        assert!(
            fields.contains(&(b'P', "15".to_string())) && fields.contains(&(b'C', "42883".to_string())),
            "{fields:?}"
        );
    }
}
