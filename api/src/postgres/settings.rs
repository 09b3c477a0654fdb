//! What a session is told of the server, and what it may set: names, mostly, which change no answer.

use std::collections::BTreeMap;

use tidegate_engine::sql::pg::VERSION;

use super::refused;
use crate::adhoc::wire::{Blame, Told};

/// Settings, with what they are at first, and whether a client is told whenever one changes.
const KNOWN: [(&str, &str, bool); 26] = [
    ("application_name", "", true),
    ("client_encoding", "UTF8", true),
    ("client_min_messages", "notice", false),
    ("datestyle", "ISO, MDY", true),
    ("default_transaction_isolation", "read committed", false),
    ("default_transaction_read_only", "on", true),
    ("extra_float_digits", "1", false),
    ("idle_in_transaction_session_timeout", "0", false),
    ("in_hot_standby", "off", true),
    ("integer_datetimes", "on", true),
    ("intervalstyle", "postgres", true),
    ("is_superuser", "off", true),
    ("lock_timeout", "0", false),
    ("max_identifier_length", "63", false),
    ("max_index_keys", "32", false),
    ("search_path", "public", false),
    ("server_encoding", "UTF8", true),
    ("server_version", VERSION, true),
    ("server_version_num", "150000", false),
    ("session_authorization", "", true),
    ("standard_conforming_strings", "on", true),
    ("statement_timeout", "0", false),
    ("synchronous_commit", "on", false),
    ("timezone", "UTC", true),
    ("transaction_isolation", "read committed", false),
    ("transaction_read_only", "on", false),
];

/// Those that have another spelling where they are told of.
const SPELT: [(&str, &str); 3] =
    [("datestyle", "DateStyle"), ("intervalstyle", "IntervalStyle"), ("timezone", "TimeZone")];

/// Those of which there is one value.
const FIXED: [&str; 12] = [
    "client_encoding",
    "in_hot_standby",
    "integer_datetimes",
    "is_superuser",
    "max_identifier_length",
    "max_index_keys",
    "server_encoding",
    "server_version",
    "server_version_num",
    "session_authorization",
    "standard_conforming_strings",
    "timezone",
];

/// Characters of a value that are kept: the longest name has fewer.
const VALUE_MAX: usize = 200;

/// The settings of a session.
#[derive(Debug, Clone)]
pub struct SessionSettings {
    first: BTreeMap<String, String>,
    now: BTreeMap<String, String>,
}

impl SessionSettings {
    /// At first, of this user.
    pub fn new(user: &str) -> Self {
        let mut first: BTreeMap<String, String> =
            KNOWN.iter().map(|(name, value, _)| ((*name).to_string(), (*value).to_string())).collect();
        first.insert("session_authorization".to_string(), user.to_string());
        Self { now: first.clone(), first }
    }

    /// What a client begins with.
    pub fn begin(&mut self, name: &str, value: &str) -> Result<(), Told> {
        self.set(name, Some(value))?;
        let name = name.to_lowercase();
        if let Some(value) = self.now.get(&name) {
            self.first.insert(name, value.clone());
        }
        Ok(())
    }

    /// Sets one, or back to what it was at first; it and its value, if clients are told of it.
    pub fn set(&mut self, name: &str, value: Option<&str>) -> Result<Option<(String, String)>, Told> {
        let name = name.to_lowercase();
        let told = KNOWN.iter().find(|(known, ..)| *known == name).map(|(_, _, told)| *told);
        // Those of an extension have a dot, and are nobody's here.
        if told.is_none() && name.contains('.') {
            return Ok(None);
        }
        let Some(told) = told else {
            let error = refused("TG-PG-SETTING", format!("there is no setting {name}"));
            return Err(error.hint("SHOW ALL is not answered; what changes an answer is in docs/configuration.md"));
        };
        let first = self.first.get(&name).cloned().unwrap_or_default();
        let value: String = value.map_or(first, str::to_string).chars().take(VALUE_MAX).collect();
        self.check(&name, &value)?;
        let value =
            if FIXED.contains(&name.as_str()) { self.now.get(&name).cloned().unwrap_or_default() } else { value };
        self.now.insert(name.clone(), value.clone());
        Ok(told.then(|| (spelt(&name), value)))
    }

    fn check(&self, name: &str, value: &str) -> Result<(), Told> {
        let plain = value.to_lowercase().replace(['-', '_', ' ', '\''], "");
        let fits = match name {
            "client_encoding" => matches!(plain.as_str(), "utf8" | "unicode" | "sqlascii"),
            // A client is told which zone it gets.
            "timezone" => true,
            "datestyle" => plain.starts_with("iso"),
            "intervalstyle" => plain == "postgres",
            "standard_conforming_strings" => matches!(plain.as_str(), "on" | "true" | "1"),
            name => !FIXED.contains(&name) || self.now.get(name).is_some_and(|now| now == value),
        };
        if fits {
            return Ok(());
        }
        let why = format!("{name} cannot be {value}");
        let now = self.now.get(name).cloned().unwrap_or_default();
        Err(Told::new(Blame::Query, "TG-API-PARAMETER", why).hint(format!("it is {now}")))
    }

    /// How long a statement may take, in milliseconds, if less than for ever.
    pub fn statement_timeout_ms(&self) -> Option<u64> {
        let value = self.now.get("statement_timeout")?;
        let digits = value.find(|c: char| !c.is_ascii_digit()).unwrap_or(value.len());
        let (number, unit) = value.split_at(digits);
        let factor = match unit.trim() {
            "" | "ms" => 1,
            "s" => 1_000,
            "min" => 60_000,
            _ => return None,
        };
        number.parse::<u64>().ok().map(|number| number.saturating_mul(factor)).filter(|ms| *ms > 0)
    }

    /// All of them as at first; those of which clients are told.
    pub fn reset(&mut self) -> Vec<(String, String)> {
        self.now = self.first.clone();
        self.told()
    }

    /// Those of which clients are told.
    pub fn told(&self) -> Vec<(String, String)> {
        let told = KNOWN.iter().filter(|(.., told)| *told);
        told.map(|(name, ..)| (spelt(name), self.now.get(*name).cloned().unwrap_or_default())).collect()
    }

    /// The value of one, by the name that it is shown by.
    pub fn show(&self, name: &str) -> Result<(String, String), Told> {
        match self.now.get(name) {
            Some(value) => Ok((spelt(name), value.clone())),
            None => Err(refused("TG-PG-SETTING", format!("there is no setting {name}"))),
        }
    }
}

fn spelt(name: &str) -> String {
    SPELT.iter().find(|(known, _)| *known == name).map_or(name, |(_, spelt)| *spelt).to_string()
}
