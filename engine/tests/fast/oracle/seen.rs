//! What the cases had of everything: a generator that no longer makes late records would prove nothing about them.

use std::collections::BTreeMap;

use super::case::*;
use super::model::Model;

/// How often each thing was in a case.
#[derive(Debug, Default, Clone)]
pub struct Seen(pub BTreeMap<String, usize>);

impl Seen {
    fn note(&mut self, what: impl Into<String>, times: usize) {
        *self.0.entry(what.into()).or_default() += times;
    }

    /// Adds another's.
    pub fn merge(&mut self, other: &Self) {
        for (what, times) in &other.0 {
            self.note(what.clone(), *times);
        }
    }

    pub fn step(&mut self, step: &Step) {
        match step {
            Step::Commit { checkpoint } => self.note(if *checkpoint { "checkpoints" } else { "commits" }, 1),
            Step::Crash { state_lost } => self.note(if *state_lost { "state lost" } else { "crashes" }, 1),
            Step::Restart => self.note("restarts", 1),
            Step::AddView => self.note("views added later", 1),
            _ => {}
        }
    }

    /// A view's rows at a check, and how many that were there before are gone.
    pub fn rows(&mut self, view: &View, rows: usize, gone: usize) {
        let kind = match view.windows {
            Windows::Tumble { .. } => "tumble",
            Windows::Hop { .. } => "hop",
            Windows::Cumulate { .. } => "cumulate",
            Windows::DateBin { .. } | Windows::DateTrunc => "native windows",
            Windows::Running => "running",
            Windows::Stateless => "stateless",
        };
        self.note(format!("rows of {kind}"), rows);
        if view.on_close {
            self.note("rows on window close", rows);
        }
        if view.having.is_some() {
            self.note("rows that HAVING took away again", gone);
        }
        if rows > 0 {
            for (aggregate, filter) in &view.aggregates {
                self.note(aggregate.sql, 1);
                self.note("aggregates with a FILTER", usize::from(filter.is_some()));
            }
        }
    }

    /// The end of a case.
    pub fn end(&mut self, case: &Case, model: &Model<'_>) {
        for (reason, times) in model.reasons() {
            self.note(format!("dead letters: {reason}"), times);
        }
        self.note("idle partitions", model.progress().iter().filter(|(.., is_idle)| *is_idle).count());
        for index in 0..case.views.len() {
            self.note("filtered", model.counts(index).filtered);
            self.note("accepted", model.counts(index).accepted);
        }
        self.note("cases", 1);
    }
}

/// What every run must have.
pub const EXPECTED: [&str; 28] = [
    "commits",
    "checkpoints",
    "crashes",
    "state lost",
    "restarts",
    "views added later",
    "rows of tumble",
    "rows of hop",
    "rows of cumulate",
    "rows of native windows",
    "rows of running",
    "rows of stateless",
    "rows on window close",
    "rows that HAVING took away again",
    "aggregates with a FILTER",
    "dead letters: late",
    "dead letters: late-after-idle",
    "dead letters: future",
    "dead letters: malformed",
    "dead letters: missing",
    "dead letters: null-payload",
    "dead letters: null-time",
    "dead letters: nul-character",
    "dead letters: computed-error",
    "dead letters: query-error",
    "dead letters: key-too-long",
    "idle partitions",
    "filtered",
];
