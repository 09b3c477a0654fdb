//! What was found: well, worth a thought, or wrong; with what to do.

use std::process::ExitCode;

use serde_json::{Value, json};

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    Ok,
    Warning,
    Fault,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Fault => "fault",
        }
    }
}

/// Everything that was found, told as it comes.
pub struct Findings {
    json: bool,
    all: Vec<(Level, &'static str, String, Option<String>)>,
}

impl Findings {
    /// None yet; as lines, or as one document at the end.
    pub fn new(json: bool) -> Self {
        Self { json, all: Vec::new() }
    }

    fn add(&mut self, level: Level, check: &'static str, found: String, todo: Option<String>) {
        if !self.json {
            println!("{:<8} {check:<18} {found}", level.name());
            if let Some(todo) = &todo {
                println!("{:<27} -> {todo}", "");
            }
        }
        self.all.push((level, check, found, todo));
    }

    /// As it should be.
    pub fn ok(&mut self, check: &'static str, found: impl Into<String>) {
        self.add(Level::Ok, check, found.into(), None);
    }

    /// Nothing stands still, and somebody should know.
    pub fn warning(&mut self, check: &'static str, found: impl Into<String>, todo: impl Into<String>) {
        self.add(Level::Warning, check, found.into(), Some(todo.into()));
    }

    /// Something does not work.
    pub fn fault(&mut self, check: &'static str, found: impl Into<String>, todo: impl Into<String>) {
        self.add(Level::Fault, check, found.into(), Some(todo.into()));
    }

    fn count(&self, level: Level) -> usize {
        self.all.iter().filter(|(other, ..)| *other == level).count()
    }

    /// How it went.
    pub fn end(&self) -> ExitCode {
        let [well, warnings, faults] = [Level::Ok, Level::Warning, Level::Fault].map(|level| self.count(level));
        if self.json {
            let findings: Vec<Value> = self
                .all
                .iter()
                .map(|(level, check, found, todo)| {
                    json!({"level": level.name(), "check": check, "found": found, "todo": todo})
                })
                .collect();
            println!("{}", json!({"ok": well, "warnings": warnings, "faults": faults, "findings": findings}));
        } else {
            println!("doctor: {well} ok, {warnings} warnings, {faults} faults");
        }
        if faults == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}
