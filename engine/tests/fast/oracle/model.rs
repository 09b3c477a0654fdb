//! What becomes of each record, by the documents alone: it reads payloads with `serde_json`, keeps watermarks in plain
//! integers, and shares no code with the engine.
//!
//! ```text
//!   record ─ decode ─► rejected, or a row ─ each view ─► filtered │ failed │ late │ accepted
//!                                                                     what a check must find
//! ```

use std::collections::BTreeMap;

use serde_json::Value as Json;

use super::case::*;

/// No watermark yet.
pub const NONE: i64 = i64::MIN;

/// A value of a row.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Null,
    Int(i64),
    /// In hundredths.
    Decimal(i128),
    Double(f64),
    Text(String),
    Bool(bool),
    /// In microseconds.
    Time(i64),
}

/// A record that could be read: the columns of the payload, then those of [`METADATA`], then the computed one.
#[derive(Debug, Clone)]
pub struct Row {
    pub partition: usize,
    pub offset: usize,
    pub values: Vec<Value>,
}

impl Row {
    pub fn get(&self, column: &str) -> &Value {
        let names = COLUMNS.iter().map(|(name, _)| *name).chain(METADATA.iter().map(|(name, ..)| *name)).chain(["c"]);
        names.zip(&self.values).find(|(name, _)| *name == column).map_or(&Value::Null, |(_, value)| value)
    }

    pub fn time(&self) -> i64 {
        match self.values[0] {
            Value::Time(us) => us,
            _ => panic!("a row has an event time"),
        }
    }

    fn int(&self, column: &str) -> Option<i64> {
        match self.get(column) {
            Value::Int(value) => Some(*value),
            _ => None,
        }
    }

    fn text(&self, column: &str) -> Option<&str> {
        match self.get(column) {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    fn bool(&self, column: &str) -> Option<bool> {
        match self.get(column) {
            Value::Bool(value) => Some(*value),
            _ => None,
        }
    }

    /// One of [`PREDICATES`], in three values.
    pub fn holds(&self, predicate: usize) -> Option<bool> {
        match PREDICATES[predicate] {
            "n > 1" => self.int("n").map(|n| n > 1),
            "n <> 0" => self.int("n").map(|n| n != 0),
            "n IS NOT NULL" => Some(self.int("n").is_some()),
            "g = 'a'" => self.text("g").map(|g| g == "a"),
            "b" => self.bool("b"),
            "NOT b" => self.bool("b").map(|b| !b),
            "p >= 1.5" => match self.get("p") {
                Value::Decimal(p) => Some(*p >= 150),
                _ => None,
            },
            "d < 0.5" => match self.get("d") {
                Value::Double(d) => Some(*d < 0.5),
                _ => None,
            },
            "n % 2 = 0 OR t IS NULL" => {
                let even = self.int("n").map(|n| n % 2 == 0);
                if self.text("t").is_none() { Some(true) } else { even }
            }
            "big <> 0 AND t <> 'x'" => match (self.int("big").map(|n| n != 0), self.text("t").map(|t| t != "x")) {
                (Some(false), _) | (_, Some(false)) => Some(false),
                (Some(true), Some(true)) => Some(true),
                _ => None,
            },
            other => panic!("the model does not know {other}"),
        }
    }

    /// Whether one of a view's keys is a text that no index takes.
    fn has_long_key(&self, view: &View) -> bool {
        let text = |key: &str| match key {
            "g" | "coalesce(g, '-')" => self.text("g"),
            "t" | "c" | "k" => self.text(key),
            _ => None,
        };
        view.keys.iter().any(|key| text(key).is_some_and(|text| text.len() > 1_024))
    }
}

/// Reads a record as its source says, or tells why it cannot be: the first reason, in the order of the checks.
pub fn decode(source: &Source, record: &Record, offset: usize, wall_us: Option<i64>) -> Result<Row, &'static str> {
    let bytes = record.bytes().ok_or("null-payload")?;
    let Ok(Json::Object(object)) = serde_json::from_slice::<Json>(bytes) else { return Err("malformed") };
    let mut values = Vec::new();
    for (name, column_type) in COLUMNS {
        let value = object.get(name).unwrap_or(&Json::Null);
        values.push(convert(value, column_type).ok_or("malformed")?);
    }
    values.push(record.key.map_or(Value::Null, |key| Value::Text(key.to_string())));
    values.push(Value::Int(record.partition as i64));
    values.push(Value::Int(offset as i64));
    let mut row = Row { partition: record.partition, offset, values };
    if let Some(computed) = source.computed {
        let value = compute(&row, computed).ok_or("computed-error")?;
        row.values.push(value);
    }
    let is_missing = |index: usize| source.required[index] && row.values[index] == Value::Null;
    if (1..COLUMNS.len()).any(is_missing) {
        return Err("missing");
    }
    if row.values.iter().any(|value| matches!(value, Value::Text(text) if text.contains('\0'))) {
        return Err("nul-character");
    }
    let Value::Time(time) = row.values[0] else { return Err("null-time") };
    if wall_us.is_some_and(|wall| time > wall + SKEW * 1_000_000) {
        return Err("future");
    }
    Ok(row)
}

/// A JSON value as a column's; nothing if it does not fit.
fn convert(value: &Json, column_type: Type) -> Option<Value> {
    if value.is_null() {
        return Some(Value::Null);
    }
    // A number in quotes is the number.
    let number = match value {
        Json::Number(number) => Some(number.to_string()),
        Json::String(text) => Some(text.clone()),
        _ => None,
    };
    let whole = |from: i64, until: i64| {
        let text = number.as_ref()?;
        let value = match text.parse::<i64>() {
            Ok(value) => value,
            // 42.7 is 42, and what lies beyond 64 bits is nothing.
            Err(_) => text.parse::<f64>().ok().filter(|v| v.is_finite() && v.abs() < 9e18)?.trunc() as i64,
        };
        (from..=until).contains(&value).then_some(Value::Int(value))
    };
    match column_type {
        Type::Time => value.as_str().and_then(time_us).map(Value::Time),
        Type::Text => value.as_str().map(|text| Value::Text(text.to_string())),
        Type::Int => whole(i32::MIN.into(), i32::MAX.into()),
        Type::BigInt => whole(i64::MIN, i64::MAX),
        Type::Decimal => hundredths(number.as_ref()?).map(Value::Decimal),
        Type::Double => number?.parse().ok().filter(|v: &f64| v.is_finite()).map(Value::Double),
        Type::Bool => value.as_bool().map(Value::Bool),
    }
}

fn time_us(text: &str) -> Option<i64> {
    chrono::DateTime::parse_from_rfc3339(text).ok().map(|time| time.timestamp_micros())
}

/// A decimal of at most two places and ten digits.
fn hundredths(text: &str) -> Option<i128> {
    let (sign, digits) = text.strip_prefix('-').map_or((1, text), |digits| (-1, digits));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let fraction = format!("{fraction:0<2}");
    let value: i128 = whole.parse::<i128>().ok()? * 100 + fraction.parse::<i128>().ok()?;
    (fraction.len() == 2 && value < 10_000_000_000).then_some(sign * value)
}

/// One of [`COMPUTED`]; nothing if it fails.
fn compute(row: &Row, computed: usize) -> Option<Value> {
    let text = |text: Option<String>| text.map_or(Value::Null, Value::Text);
    Some(match COMPUTED[computed].1 {
        "n * 2" => row.int("n").map_or(Value::Null, |n| Value::Int(n * 2)),
        "upper(t)" => text(row.text("t").map(str::to_uppercase)),
        "CASE WHEN b THEN p END" => {
            if row.bool("b") == Some(true) {
                row.get("p").clone()
            } else {
                Value::Null
            }
        }
        "coalesce(t, g, '-')" => text(row.text("t").or(row.text("g")).or(Some("-")).map(str::to_string)),
        "100 / n" => match row.int("n") {
            Some(n) => Value::Int(100i64.checked_div(n)?),
            None => Value::Null,
        },
        other => panic!("the model does not know {other}"),
    })
}

/// `[start, end)`, in microseconds.
pub type Span = (i64, i64);

impl Windows {
    pub fn is_windowed(self) -> bool {
        !matches!(self, Self::Running | Self::Stateless)
    }

    /// Whether a window has several panes.
    pub fn is_paned(self) -> bool {
        matches!(self, Self::Hop { .. } | Self::Cumulate { .. })
    }

    /// Where windows and panes lie: the size, the distance of their beginnings, a pane, an offset, in microseconds.
    fn lengths(self) -> (i64, i64, i64, i64) {
        let gcd = |mut a: i64, mut b: i64| {
            while b != 0 {
                (a, b) = (b, a % b);
            }
            a
        };
        let seconds = match self {
            Self::Tumble { size, offset } => (size, size, size, offset),
            Self::Hop { slide, size, offset } => (size, slide, gcd(slide, size), offset),
            Self::Cumulate { step, size, offset } => (size, size, step, offset),
            Self::DateBin { size } => (size, size, size, 0),
            Self::DateTrunc => (60, 60, 60, 0),
            Self::Running | Self::Stateless => (0, 0, 0, 0),
        };
        let us = |seconds: i64| seconds * 1_000_000;
        (us(seconds.0), us(seconds.1), us(seconds.2), us(seconds.3))
    }

    /// The pane that holds a time.
    pub fn pane(self, time: i64) -> Span {
        let (_, _, pane, offset) = self.lengths();
        let start = (time - offset).div_euclid(pane) * pane + offset;
        (start, start + pane)
    }

    /// The windows that hold a time, found by asking each that could.
    pub fn holding(self, time: i64) -> Vec<Span> {
        let (size, every, pane, offset) = self.lengths();
        let last = (time - offset).div_euclid(every);
        let mut found = Vec::new();
        for number in last - size / every - 1..=last {
            let start = number * every + offset;
            let ends: Vec<i64> = match self {
                Self::Cumulate { .. } => (1..=size / pane).map(|n| start + n * pane).collect(),
                _ => vec![start + size],
            };
            found.extend(
                ends.into_iter().map(|end| (start, end)).filter(|(from, until)| (*from..*until).contains(&time)),
            );
        }
        found
    }

    /// Whether event time has reached the last pane of a window.
    fn has_reached(self, window: Span, greatest: i64) -> bool {
        window.1 - self.lengths().2 <= greatest
    }
}

/// Where the records of a view went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub decoded: usize,
    pub filtered: usize,
    pub accepted: usize,
    pub late: usize,
    pub failed: usize,
}

/// A dead letter; of the source if it has no view.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Letter {
    pub view: String,
    pub partition: usize,
    pub offset: usize,
    pub reason: &'static str,
}

/// A view as the model has it.
#[derive(Debug, Default)]
struct Held {
    is_declared: bool,
    accepted: Vec<Row>,
    counts: Counts,
    /// Windows that start at or before this began before the view.
    floor: i64,
    /// Whether the frontier has moved since the view was declared.
    is_told: bool,
}

#[derive(Debug, Default)]
struct Partition<'a> {
    log: Vec<&'a Record>,
    /// What is read and not yet committed, from the committed offset on.
    pending: Vec<Result<Row, &'static str>>,
    committed: usize,
    mark: i64,
    /// Since when it has been read to its end.
    quiet_since: Option<i64>,
    is_idle: bool,
    was_idle: bool,
}

/// What a model may get wrong on purpose, so that a test can see that it is noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lie {
    /// Nothing.
    None,
    /// A window holds its end, and not its start.
    WindowEdge,
    /// A pane that ends at the watermark takes records.
    LateEdge,
    /// Any partition's watermark makes a record late.
    SharedWatermark,
    /// A partition that was idle may bring records of closed windows.
    NeverLateAfterIdle,
    /// Rejected records are not counted.
    LosesReject,
    /// A window is published before event time has reached its last pane.
    PublishesEarly,
}

/// All of it.
pub struct Model<'a> {
    case: &'a Case,
    lie: Lie,
    partitions: Vec<Partition<'a>>,
    views: Vec<Held>,
    letters: Vec<Letter>,
    /// Seconds passed, in microseconds.
    passed: i64,
    has_committed: bool,
    frontier: i64,
    greatest: i64,
    read: usize,
    rejected: usize,
}

/// What a view's table must be made of.
pub struct Published {
    /// Each accepted row with a window that is published; without windows, once.
    pub rows: Vec<(Row, Span)>,
}

impl<'a> Model<'a> {
    pub fn new(case: &'a Case, lie: Lie) -> Self {
        let at_first = case.views.len() - usize::from(case.adds_view());
        let held = |index| Held { is_declared: index < at_first, floor: NONE, is_told: true, ..Held::default() };
        Self {
            case,
            lie,
            partitions: (0..case.partitions).map(|_| Partition { mark: NONE, ..Partition::default() }).collect(),
            views: (0..case.views.len()).map(held).collect(),
            letters: Vec::new(),
            passed: 0,
            has_committed: false,
            frontier: NONE,
            greatest: NONE,
            read: 0,
            rejected: 0,
        }
    }

    /// Takes a step.
    pub fn step(&mut self, step: &'a Step) {
        match step {
            Step::Feed(record) => self.partitions[record.partition].log.push(record),
            Step::Commit { .. } => self.commit(),
            Step::Crash { .. } => self.recover(true),
            Step::Restart => self.recover(self.has_committed),
            Step::Advance(seconds) => self.passed += seconds * 1_000_000,
            Step::AddView => {
                let floor = self.greatest_now();
                let added = self.views.last_mut().expect("a case has a view");
                *added = Held { is_declared: true, floor, is_told: false, ..Held::default() };
                // It begins at what is committed, and what is pending is read again.
                self.recover(self.has_committed);
            }
            Step::Check => {}
        }
    }

    fn greatest_now(&self) -> i64 {
        let mark = self.partitions.iter().map(|p| p.mark).max().unwrap_or(NONE);
        if mark == NONE { NONE } else { mark + self.case.source.bound * 1_000_000 }
    }

    /// Reads every partition to its end. What lies in the future is judged by the clock now.
    fn drain(&mut self) {
        let wall = self.case.source.wall.map(|wall| START_US + wall * 1_000_000 + self.passed);
        for partition in &mut self.partitions {
            let from = partition.committed + partition.pending.len();
            for (offset, record) in partition.log.iter().enumerate().skip(from) {
                partition.pending.push(decode(&self.case.source, record, offset, wall));
            }
            if from < partition.log.len() {
                (partition.is_idle, partition.quiet_since) = (false, None);
            }
            partition.quiet_since.get_or_insert(self.passed);
        }
    }

    /// Memory is lost: what was committed stays.
    fn recover(&mut self, goes_on_reading: bool) {
        for partition in &mut self.partitions {
            partition.pending.clear();
            (partition.is_idle, partition.quiet_since) = (partition.was_idle, None);
        }
        if goes_on_reading {
            self.drain();
        }
    }

    fn commit(&mut self) {
        self.has_committed = true;
        self.drain();
        let idle_us = IDLE * 1_000_000;
        for partition in &mut self.partitions {
            partition.is_idle |= partition.quiet_since.is_some_and(|since| self.passed - since >= idle_us);
            partition.was_idle = partition.is_idle;
        }
        for number in 0..self.partitions.len() {
            let pending = std::mem::take(&mut self.partitions[number].pending);
            for (index, record) in pending.into_iter().enumerate() {
                let offset = self.partitions[number].committed + index;
                self.read += 1;
                match record {
                    Ok(row) => {
                        let mark = self.partitions[number].mark;
                        self.judge(&row, mark);
                        let bound = self.case.source.bound * 1_000_000;
                        self.partitions[number].mark = mark.max(row.time() - bound);
                    }
                    Err(_) if self.lie == Lie::LosesReject => self.read -= 1,
                    Err(reason) => {
                        self.rejected += 1;
                        self.letters.push(Letter { view: String::new(), partition: number, offset, reason });
                    }
                }
            }
            self.partitions[number].committed = self.partitions[number].log.len();
        }
        let active = self.partitions.iter().filter(|p| !p.is_idle).map(|p| p.mark).min();
        let next = active.or(self.partitions.iter().map(|p| p.mark).max()).unwrap_or(NONE);
        if next > self.frontier {
            self.frontier = next;
            self.views.iter_mut().for_each(|view| view.is_told = true);
        }
        self.greatest = self.greatest_now();
    }

    /// What each view makes of a row that this watermark judges.
    fn judge(&mut self, row: &Row, mark: i64) {
        let lie = self.lie;
        let greatest = self.partitions.iter().map(|p| p.mark).max().unwrap_or(mark);
        let mark = if lie == Lie::SharedWatermark { greatest } else { mark };
        let frontier = if lie == Lie::NeverLateAfterIdle { NONE } else { self.frontier };
        for (view, held) in self.case.views.iter().zip(&mut self.views) {
            if !held.is_declared {
                continue;
            }
            held.counts.decoded += 1;
            let mut letter = |reason: &'static str| {
                let (view, partition, offset) = (view.name.clone(), row.partition, row.offset);
                self.letters.push(Letter { view, partition, offset, reason });
            };
            if view.filter.is_some_and(|filter| row.holds(filter) != Some(true)) {
                held.counts.filtered += 1;
                continue;
            }
            if view.fails_on_zero() && row.int("n") == Some(0) {
                held.counts.failed += 1;
                letter("query-error");
                continue;
            }
            if view.windows.is_windowed() {
                if !view.windows.holding(row.time()).iter().any(|window| window.0 > held.floor) {
                    held.counts.filtered += 1;
                    continue;
                }
                let (_, end) = view.windows.pane(row.time());
                let end = if lie == Lie::LateEdge { end + 1 } else { end };
                if end <= mark.max(frontier) {
                    held.counts.late += 1;
                    letter(if end <= mark { "late" } else { "late-after-idle" });
                    continue;
                }
            }
            if view.windows != Windows::Stateless && row.has_long_key(view) {
                held.counts.failed += 1;
                letter("key-too-long");
                continue;
            }
            held.counts.accepted += 1;
            held.accepted.push(row.clone());
        }
    }

    /// What a view's table must be made of now.
    pub fn published(&self, index: usize) -> Published {
        let (view, held) = (&self.case.views[index], &self.views[index]);
        let mut rows = Vec::new();
        for row in &held.accepted {
            if !view.windows.is_windowed() {
                rows.push((row.clone(), (0, 0)));
                continue;
            }
            let time = if self.lie == Lie::WindowEdge { row.time() - 1 } else { row.time() };
            for window in view.windows.holding(time) {
                let is_closed = window.1 <= self.frontier;
                let is_reached = view.windows.has_reached(window, self.greatest) || self.lie == Lie::PublishesEarly;
                let is_open_to_see = !view.on_close && (!view.windows.is_paned() || is_reached);
                if window.0 > held.floor && (is_closed || is_open_to_see) {
                    rows.push((row.clone(), window));
                }
            }
        }
        Published { rows }
    }

    pub fn is_declared(&self, index: usize) -> bool {
        self.views[index].is_declared
    }

    pub fn counts(&self, index: usize) -> Counts {
        self.views[index].counts
    }

    /// The frontier, if it is known what the view's progress says of it.
    pub fn closed_until(&self, index: usize) -> Option<i64> {
        self.views[index].is_told.then_some(self.frontier)
    }

    pub fn letters(&self) -> &[Letter] {
        &self.letters
    }

    /// Read, decoded, rejected.
    pub fn totals(&self) -> (usize, usize, usize) {
        (self.read, self.read - self.rejected, self.rejected)
    }

    /// Of each partition: the next offset, the watermark, whether it is idle.
    pub fn progress(&self) -> Vec<(usize, i64, bool)> {
        self.partitions.iter().map(|p| (p.committed, p.mark, p.was_idle)).collect()
    }

    pub fn frontier(&self) -> i64 {
        self.frontier
    }

    /// How many dead letters each reason has.
    pub fn reasons(&self) -> BTreeMap<&'static str, usize> {
        let mut reasons = BTreeMap::new();
        for letter in &self.letters {
            *reasons.entry(letter.reason).or_default() += 1;
        }
        reasons
    }
}
