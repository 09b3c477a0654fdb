//! A case as a golden file: what is done, what is asked, and what the answers must be.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use tokio::runtime::Handle;

use super::batch;
use super::case::*;
use super::model::{Lie, Model, NONE};
use super::seen::Seen;

/// A block of a golden file.
pub enum Block {
    Do { text: String, state_lost: bool },
    Ask(Ask),
}

/// A query, and its answer.
pub struct Ask {
    pub columns: Vec<Selected>,
    pub from: String,
    pub rows: Vec<Vec<String>>,
}

impl Ask {
    fn of(columns: &[&str], keys: usize, from: &str, rows: Vec<Vec<String>>) -> Self {
        let column = |(index, sql): (usize, &&str)| Selected {
            name: sql.to_string(),
            sql: sql.to_string(),
            class: Class::Exact,
            is_key: index < keys,
            is_written: true,
        };
        Self { columns: columns.iter().enumerate().map(column).collect(), from: from.to_string(), rows }
    }

    /// The query as it is asked.
    pub fn text(&self) -> String {
        let names: Vec<&str> = self.columns.iter().map(|column| column.name.as_str()).collect();
        format!("SELECT {} FROM {}", names.join(", "), self.from)
    }

    /// What is different; nothing if the answer is right.
    pub fn difference(&self, found: &[Vec<String>]) -> Option<String> {
        let by_key = |rows: &[Vec<String>]| -> BTreeMap<Vec<String>, Vec<String>> {
            let key = |row: &Vec<String>| {
                row.iter().zip(&self.columns).filter(|(_, c)| c.is_key).map(|(cell, _)| cell.clone()).collect()
            };
            rows.iter().map(|row| (key(row), row.clone())).collect()
        };
        let (expected, actual) = (by_key(&self.rows), by_key(found));
        let mut text = String::new();
        for key in expected.keys().chain(actual.keys()).collect::<BTreeSet<_>>() {
            match (expected.get(key), actual.get(key)) {
                (Some(expected), Some(actual)) if self.equal(expected, actual) => {}
                (expected, actual) => {
                    let shown = |row: Option<&Vec<String>>| row.map_or("nothing".to_string(), |row| row.join(" | "));
                    let _ = writeln!(text, "  expected {}\n  found    {}", shown(expected), shown(actual));
                }
            }
        }
        if found.len() != self.rows.len() {
            let _ = writeln!(text, "  {} rows instead of {}", found.len(), self.rows.len());
        }
        (!text.is_empty()).then(|| format!("{}\n{text}", self.text()))
    }

    fn equal(&self, expected: &[String], actual: &[String]) -> bool {
        self.columns.iter().zip(expected).zip(actual).all(|((column, expected), actual)| match column.class {
            Class::Exact => expected == actual,
            _ => expected == actual || nearly(expected, actual),
        })
    }

    /// As a golden file has it, where floats are rounded.
    fn golden(&self) -> String {
        let is_exact = |column: &Selected| column.class == Class::Exact;
        let shown = |column: &Selected| match is_exact(column) {
            true => column.name.clone(),
            // What is nearly zero may be so from either side: a sum makes one zero of both.
            false => format!("round(CAST({} AS DOUBLE), 6) + 0", column.name),
        };
        let list: Vec<String> = self.columns.iter().map(shown).collect();
        let mut text =
            format!("query {} rowsort\nSELECT {} FROM {}\n----", "T".repeat(list.len()), list.join(", "), self.from);
        let mut lines: Vec<String> = Vec::new();
        for row in &self.rows {
            let cell = |(column, cell): (&Selected, &String)| match (is_exact(column), cell.parse::<f64>()) {
                (false, Ok(number)) => ((number * 1e6).round() / 1e6 + 0.0).to_string(),
                _ => cell.clone(),
            };
            lines.push(self.columns.iter().zip(row).map(cell).collect::<Vec<_>>().join(" "));
        }
        lines.sort();
        for line in lines {
            text.push('\n');
            text.push_str(&line);
        }
        text
    }
}

/// Whether two floats differ in their last bits at most.
fn nearly(expected: &str, actual: &str) -> bool {
    let (Ok(expected), Ok(actual)) = (expected.parse::<f64>(), actual.parse::<f64>()) else { return false };
    (expected - actual).abs() <= 1e-9 * expected.abs().max(actual.abs()).max(1.0)
}

/// The whole file as blocks; what the case has of everything is noted in `seen`.
pub fn script(case: &Case, lie: Lie, runtime: &Handle, seen: &mut Seen) -> Vec<Block> {
    let done = |text: String, state_lost| Block::Do { text, state_lost };
    let mut blocks = vec![done(case.declarations(), false), done(case.preparations(), false)];
    let mut model = Model::new(case, lie);
    let mut keys_before: BTreeMap<usize, BTreeSet<Vec<String>>> = BTreeMap::new();
    for step in &case.steps {
        model.step(step);
        if !matches!(step, Step::Check) {
            blocks.push(done(case.statement(step), matches!(step, Step::Crash { state_lost: true })));
            seen.step(step);
            continue;
        }
        for (index, view) in case.views.iter().enumerate().filter(|(index, _)| model.is_declared(*index)) {
            let published = model.published(index);
            let rows = runtime.block_on(batch::rows(case, view, &published));
            let ask = Ask { columns: classes(case, view), from: view.name.clone(), rows };
            let keys: BTreeSet<Vec<String>> = ask.rows.iter().map(|row| key_of(&ask, row)).collect();
            let before = keys_before.insert(index, keys.clone()).unwrap_or_default();
            seen.rows(view, ask.rows.len(), before.difference(&keys).count());
            blocks.push(Block::Ask(ask));
        }
        blocks.extend(accounts(case, &model).map(Block::Ask));
    }
    seen.end(case, &model);
    blocks
}

fn key_of(ask: &Ask, row: &[String]) -> Vec<String> {
    row.iter().zip(&ask.columns).filter(|(_, column)| column.is_key).map(|(cell, _)| cell.clone()).collect()
}

/// The columns of a view, each as exact as it must be.
fn classes(case: &Case, view: &View) -> Vec<Selected> {
    let mut columns = view.columns();
    let has_key = columns.iter().any(|column| column.is_key);
    // Beside a DISTINCT, DataFusion adds up the sums of each value: a batch run, too, has its order then.
    let is_distinct = view.query("s", true).contains("DISTINCT");
    let in_one_order = case.partitions == 1 && !view.windows.is_paned() && has_key && !is_distinct;
    for column in &mut columns {
        if column.class == Class::Folded && in_one_order {
            column.class = Class::Exact;
        }
    }
    columns
}

fn time(us: i64) -> String {
    if us == NONE { "NULL".to_string() } else { rfc3339(us) }
}

/// What the tables of the engine itself must say.
fn accounts<'a>(case: &'a Case, model: &'a Model<'a>) -> impl Iterator<Item = Ask> + 'a {
    let declared = || (0..case.views.len()).filter(|index| model.is_declared(*index));
    let counts = declared().map(|index| {
        let counts = model.counts(index);
        let numbers = [counts.decoded, counts.filtered, counts.accepted, counts.late, counts.failed];
        let closed = model.closed_until(index).map_or("NULL".to_string(), time);
        let numbers = numbers.iter().map(usize::to_string);
        [case.views[index].name.clone()].into_iter().chain(numbers).chain([closed]).collect()
    });
    let untold = declared().find(|index| model.closed_until(*index).is_none());
    let closed = untold.map_or("closed_until".to_string(), |index| {
        format!("CASE WHEN view <> '{}' THEN closed_until END", case.views[index].name)
    });
    let columns = ["view", "decoded", "filtered", "accepted", "late", "failed", closed.as_str()];
    let views = Ask::of(&columns, 1, "tidegate.view_progress", counts.collect());

    let progress = model.progress().into_iter().enumerate().map(|(partition, (next, mark, is_idle))| {
        vec![partition.to_string(), next.to_string(), time(mark), is_idle.to_string()]
    });
    let columns = ["part", "next_offset", "watermark", "idle"];
    let progress = Ask::of(&columns, 1, "tidegate.progress", progress.collect());

    let (read, decoded, rejected) = model.totals();
    let totals = vec![read.to_string(), decoded.to_string(), rejected.to_string(), time(model.frontier())];
    let totals = Ask::of(&["read", "decoded", "rejected", "watermark"], 4, "tidegate.pipelines", vec![totals]);

    let letters = model.letters().iter().map(|letter| {
        let view = if letter.view.is_empty() { "(empty)".to_string() } else { letter.view.clone() };
        vec![view, letter.partition.to_string(), letter.offset.to_string(), letter.reason.to_string()]
    });
    let columns = ["view", "part", "\"offset\"", "reason"];
    let letters = Ask::of(&columns, 3, "tidegate.dead_letters", letters.collect());
    [views, progress, totals, letters].into_iter()
}

/// The blocks as a golden file.
pub fn golden_file(head: &str, blocks: &[Block]) -> String {
    let mut text = head.lines().map(|line| format!("# {line}\n")).collect::<String>();
    let mut lines: Vec<&str> = Vec::new();
    let flush = |lines: &mut Vec<&str>, text: &mut String| {
        if !lines.is_empty() {
            let _ = write!(text, "\nstatement ok\n{}\n", std::mem::take(lines).join("\n"));
        }
    };
    for block in blocks {
        match block {
            Block::Do { text: done, state_lost } => {
                if done.starts_with("CREATE") {
                    flush(&mut lines, &mut text);
                }
                if *state_lost {
                    flush(&mut lines, &mut text);
                    text.push_str("\n# the state is lost before this crash\n");
                }
                lines.push(done);
            }
            Block::Ask(ask) => {
                flush(&mut lines, &mut text);
                let _ = write!(text, "\n{}\n", ask.golden());
            }
        }
    }
    flush(&mut lines, &mut text);
    text
}
