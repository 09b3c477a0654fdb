//! One view at work: chunks of rows in, changed rows of its table out.
//!
//! ```text
//!  rows ─ plan below ─► late? ─► split by pane ─► Groups::update       (each chunk)
//!                        │                              │
//!                     rejects      panes ─ merge ─► windows ─ plan above ─► upserts, deletes   (each epoch)
//! ```
//!
//! Promises: an accepted row changes exactly one pane, and never one of which a window has closed; the rows of
//! [`Changes`] are what the view's query returns for the rows accepted so far; no row is dropped without being counted.
//!
//! Where a pane is a window (TUMBLE, and running aggregates, whose one pane never ends) the touched groups are
//! published as they are. Where a window has several, it is published from the moment at which event time reaches its
//! last pane, with the groups that have changed since. `EMIT ON WINDOW CLOSE` publishes nothing before the close.

mod distinct;
mod groups;
mod keep;
mod layout;
mod merge;
pub mod plan;
mod publish;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::AddAssign;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, UInt32Array};
use arrow::compute::{filter_record_batch, take_record_batch};
use arrow::datatypes::{DataType, Field, Int32Type, Int64Type, Schema, SchemaRef};

use crate::batch::Reject;
use crate::error::{Error, Result};
use crate::sql::planned::{Group, PlannedView, Shape};
use crate::sql::window::{Kind, Span, Windows};
use crate::store::Start;
use crate::time;
use crate::time::clock::rfc3339;
use groups::{Groups, inputs};
use layout::Layout;

/// The longest text key, in bytes: an index of Postgres takes no more than a few of these.
pub const KEY_BYTES_MAX: usize = 1024;

/// What a view's table must undergo for one epoch.
#[derive(Debug)]
pub struct Changes {
    /// Rows of the table, each key once.
    pub upserts: RecordBatch,
    /// Keys of rows that must go.
    pub deletes: Option<RecordBatch>,
}

/// Where the rows of one epoch went: decoded = filtered + accepted + late + failed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Rows that the source gave.
    pub decoded: i64,
    /// Rows that WHERE dropped, that lie in no window, or that were there before the view.
    pub filtered: i64,
    /// Rows that were aggregated, or published as they are.
    pub accepted: i64,
    /// Rows that came after their pane had closed.
    pub late: i64,
    /// Rows on which an expression of the view failed, or whose key is too long.
    pub failed: i64,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.decoded += other.decoded;
        self.filtered += other.filtered;
        self.accepted += other.accepted;
        self.late += other.late;
        self.failed += other.failed;
    }
}

/// The first offset of a partition that an open pane depends on, and the watermark before it.
pub type Needs = BTreeMap<i32, (i64, i64)>;

/// Where an epoch ends.
#[derive(Debug, Clone, Copy)]
pub struct End {
    /// The commit that will carry it.
    pub seq: i64,
    /// The frontier after it: windows that end at or before it close.
    pub frontier: i64,
    /// The greatest event time of all rows so far.
    pub greatest: i64,
    /// Whether windows of several panes shall be published, if they have changed.
    pub emit: bool,
}

/// What an epoch leaves to be committed.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Of the table.
    pub changes: Option<Changes>,
    /// Where the rows went.
    pub counts: Counts,
    /// Windows that closed.
    pub closed: usize,
    /// Groups that were evaluated anew.
    pub evaluated: usize,
    /// State of panes that start before this may go, and some of it is in the database.
    pub drop_state_before: Option<i64>,
}

/// A pane.
struct Open {
    groups: Groups,
    needs: Needs,
    /// In the database, by part.
    pieces: Vec<Vec<Piece>>,
}

/// A piece of state in the database.
#[derive(Debug, Clone, Copy)]
struct Piece {
    /// The commit that wrote it.
    seq: i64,
    /// It holds what changed after this commit.
    since: i64,
    bytes: usize,
}

/// A piece of state to be written, and the earlier ones that it replaces.
#[derive(Debug)]
pub struct PieceWritten {
    /// 0 for groups, n for the n-th set of distinct values.
    pub part: i32,
    /// The pane's start.
    pub window_start: i64,
    /// Its groups.
    pub groups: RecordBatch,
    /// Pieces of the same pane and part that it replaces.
    pub replaces: Vec<i64>,
}

/// A window of several panes.
#[derive(Default)]
struct Several {
    /// Whether it has been published.
    begun: bool,
    /// Whether any of its groups must be published again; without keys, all of them.
    dirty: bool,
    keys: Vec<Vec<ArrayRef>>,
}

/// A view at work.
pub struct View {
    plan: Arc<PlannedView>,
    layout: Arc<Layout>,
    open: BTreeMap<i64, Open>,
    /// The open windows, unless each is its pane.
    several: BTreeMap<Span, Several>,
    /// Whether one of them is due, and was not published for want of time.
    is_waiting: bool,
    /// What a stateless view will publish.
    passed: Vec<RecordBatch>,
    counts: Counts,
    above_schema: SchemaRef,
    /// Windows that start at or before this had begun before the view was added: their rows count as filtered.
    floor: i64,
    /// Where the view begins in each partition.
    starts: BTreeMap<i32, Start>,
    /// During a replay.
    replay: Replay,
}

/// What a view must know to take in again what it took in once, and nothing else.
#[derive(Debug, Default)]
pub struct Replay {
    /// The first offset of each partition that its state does not hold, and that came after the view.
    pub from: BTreeMap<i32, i64>,
    /// Records that were late after an idle time, which only the frontier of that moment explains.
    pub late: HashSet<(i32, i64)>,
}

impl View {
    /// A view without any state; `floor` is the greatest event time that was read before it was added, and `starts`
    /// the offsets at which it was.
    pub fn new(plan: Arc<PlannedView>, floor: i64, starts: &[Start]) -> Result<Self> {
        let below = plan.below.schema();
        let keys: Vec<Field> = plan.inputs.keys.iter().map(|index| below.field(*index).clone()).collect();
        let layout = Arc::new(Layout::new(keys, &plan.aggregates, &below)?);
        let mut fields = Vec::new();
        for (index, group) in plan.groups.iter().enumerate() {
            let data_type = match group {
                Group::Window { data_type, .. } => data_type.clone(),
                Group::Key(key) => layout.keys.field(*key).data_type().clone(),
            };
            fields.push(Field::new(format!("c{index}"), data_type, true));
        }
        for (index, data_type) in layout.value_types(&plan.aggregates).into_iter().enumerate() {
            fields.push(Field::new(format!("c{}", plan.groups.len() + index), data_type, true));
        }
        fields.push(Field::new(crate::sql::ROW, DataType::UInt32, false));
        Ok(Self {
            plan,
            layout,
            open: BTreeMap::new(),
            several: BTreeMap::new(),
            is_waiting: false,
            passed: Vec::new(),
            counts: Counts::default(),
            above_schema: Arc::new(Schema::new(fields)),
            floor,
            starts: starts.iter().map(|start| (start.partition, *start)).collect(),
            replay: Replay::default(),
        })
    }

    /// Where it begins in a partition, if not with the pipeline.
    pub fn start(&self, partition: i32) -> Option<Start> {
        self.starts.get(&partition).copied()
    }

    /// Its plan.
    pub fn plan(&self) -> &Arc<PlannedView> {
        &self.plan
    }

    /// The schema of a part of its state.
    pub fn state_schema(&self, part: i32) -> Option<SchemaRef> {
        self.layout.part(part)
    }

    /// A replay begins.
    pub fn replays(&mut self, replay: Replay) {
        self.replay = replay;
    }

    /// Its windows; none if it is not windowed.
    fn windows(&self) -> Option<Windows> {
        match self.plan.shape {
            Shape::Windowed(windows) => Some(windows),
            Shape::Running | Shape::Stateless => None,
        }
    }

    /// Its windows, if they are made of several panes.
    fn paned(&self) -> Option<Windows> {
        self.windows().filter(|windows| windows.kind != Kind::Tumble)
    }

    /// Takes in decoded rows. `frontier` is that of the last commit; a replay, whose rejects are known, hands in none.
    pub fn absorb(&mut self, rows: &RecordBatch, frontier: i64, mut rejects: Option<&mut Vec<Reject>>) -> Result<()> {
        let replays = rejects.is_none();
        if replays && self.plan.shape == Shape::Stateless {
            return Ok(());
        }
        let decoded = rows.num_rows();
        let failed_before = self.counts.failed;
        let mut passed = Vec::new();
        self.run_below(rows, &mut passed, &mut rejects)?;
        let left: usize = passed.iter().map(RecordBatch::num_rows).sum();
        self.counts.decoded += decoded as i64;
        self.counts.filtered += (decoded - left) as i64 - (self.counts.failed - failed_before);
        for batch in passed {
            let batch = if replays { self.as_it_was(batch)? } else { batch };
            if batch.num_rows() > 0 {
                match self.windows() {
                    Some(windows) => self.accept(rows, batch, windows, frontier, &mut rejects)?,
                    None => self.take_in(rows, batch, &mut rejects)?,
                }
            }
        }
        Ok(())
    }

    /// Of replayed rows those that the state lacks: they came after the view and after its state, and were not late for a
    /// frontier that is past.
    fn as_it_was(&self, batch: RecordBatch) -> Result<RecordBatch> {
        let partitions = batch.column(self.plan.inputs.partition).as_primitive::<Int32Type>().values();
        let offsets = batch.column(self.plan.inputs.offset).as_primitive::<Int64Type>().values();
        let start = |partition: i32| self.replay.from.get(&partition).copied().unwrap_or(i64::MIN);
        let keep = |p: i32, offset: i64| offset >= start(p) && !self.replay.late.contains(&(p, offset));
        let keep: BooleanArray = partitions.iter().zip(offsets).map(|(p, offset)| Some(keep(*p, *offset))).collect();
        Ok(filter_record_batch(&batch, &keep)?)
    }

    /// Runs the plan below. Where an expression fails, the row is found by halving and rejected for this view.
    fn run_below(
        &mut self,
        rows: &RecordBatch,
        passed: &mut Vec<RecordBatch>,
        rejects: &mut Option<&mut Vec<Reject>>,
    ) -> Result<()> {
        match self.plan.below.run(vec![rows.clone()]) {
            Ok(batches) => passed.extend(batches),
            Err(error) if rows.num_rows() == 1 => {
                self.counts.failed += 1;
                if let Some(rejects) = rejects {
                    rejects.push(self.reject(rows, 0, "query-error", error.strip_backtrace()));
                }
            }
            Err(_) => {
                let half = rows.num_rows() / 2;
                self.run_below(&rows.slice(0, half), passed, rejects)?;
                self.run_below(&rows.slice(half, rows.num_rows() - half), passed, rejects)?;
            }
        }
        Ok(())
    }

    /// Takes out rows that have no window, since their time cannot be told in its function's type.
    fn without_window(
        &mut self,
        source: &RecordBatch,
        batch: RecordBatch,
        rejects: &mut Option<&mut Vec<Reject>>,
    ) -> Result<RecordBatch> {
        let window = batch.column(self.plan.inputs.window);
        let told = || ("query-error", "the window of its event time cannot be computed".to_string());
        let wrong = (0..batch.num_rows()).filter(|row| window.is_null(*row)).map(|row| (row, told())).collect();
        self.take_out(source, batch, wrong, rejects)
    }

    /// Takes out rows that no group can hold.
    fn without_group(
        &mut self,
        source: &RecordBatch,
        batch: RecordBatch,
        rejects: &mut Option<&mut Vec<Reject>>,
    ) -> Result<RecordBatch> {
        let plan = self.plan.clone();
        let mut wrong: BTreeMap<usize, (&'static str, String)> = BTreeMap::new();
        for (key, column) in plan.inputs.keys.iter().enumerate() {
            for row in longer_than(batch.column(*column), KEY_BYTES_MAX) {
                let detail = format!("{} has more than {KEY_BYTES_MAX} bytes, and is a key", plan.key_name(key));
                wrong.entry(row).or_insert(("key-too-long", detail));
            }
        }
        self.take_out(source, batch, wrong, rejects)
    }

    /// Takes out these rows, with the reason of each.
    fn take_out(
        &mut self,
        source: &RecordBatch,
        batch: RecordBatch,
        wrong: BTreeMap<usize, (&'static str, String)>,
        rejects: &mut Option<&mut Vec<Reject>>,
    ) -> Result<RecordBatch> {
        if wrong.is_empty() {
            return Ok(batch);
        }
        self.counts.failed += wrong.len() as i64;
        let keep: BooleanArray = (0..batch.num_rows()).map(|row| Some(!wrong.contains_key(&row))).collect();
        for (row, (reason, detail)) in wrong {
            if let Some(rejects) = rejects {
                rejects.push(self.reject(source, self.place(source, &batch, row)?, reason, detail));
            }
        }
        Ok(filter_record_batch(&batch, &keep)?)
    }

    /// Judges rows, and gives each to its pane.
    fn accept(
        &mut self,
        source: &RecordBatch,
        batch: RecordBatch,
        windows: Windows,
        frontier: i64,
        rejects: &mut Option<&mut Vec<Reject>>,
    ) -> Result<()> {
        let size = windows.pane_us();
        let inputs = self.plan.inputs.clone();
        let batch = self.without_window(source, batch, rejects)?;
        let batch = self.in_windows(batch, windows)?;
        // A replay's frontier is that of its end. Where a pane is a window, what lies below it is over; where open windows
        // need panes below it, only what the rows themselves say counts, and what is given.
        let frontier = if rejects.is_none() && self.paned().is_some() { time::NONE } else { frontier };
        let starts = batch.column(inputs.window).as_primitive::<Int64Type>().values();
        let marks = batch.column(inputs.watermark).as_primitive::<Int64Type>().values();
        let too_late = |start: i64, mark: i64| start + size <= mark.max(frontier);
        let batch = if starts.iter().zip(marks).any(|(start, mark)| too_late(*start, *mark)) {
            let keep: BooleanArray =
                starts.iter().zip(marks).map(|(start, mark)| Some(!too_late(*start, *mark))).collect();
            for row in (0..batch.num_rows()).filter(|row| !keep.value(*row)) {
                let own = starts[row] + size <= marks[row];
                self.counts.late += 1;
                if let Some(rejects) = rejects {
                    rejects.push(self.late(source, &batch, row, own, if own { marks[row] } else { frontier })?);
                }
            }
            filter_record_batch(&batch, &keep)?
        } else {
            batch
        };
        let batch = self.without_group(source, batch, rejects)?;
        if batch.num_rows() == 0 {
            return Ok(());
        }
        self.counts.accepted += batch.num_rows() as i64;
        let starts = batch.column(inputs.window).as_primitive::<Int64Type>().values();
        let first = starts[0];
        if starts.iter().all(|start| *start == first) {
            return self.update(first, &batch);
        }
        let mut by_window: BTreeMap<i64, Vec<u32>> = BTreeMap::new();
        for (row, start) in starts.iter().enumerate() {
            by_window.entry(*start).or_default().push(row as u32);
        }
        for (start, rows) in by_window {
            self.update(start, &take_record_batch(&batch, &UInt32Array::from(rows))?)?;
        }
        Ok(())
    }

    /// Rows of views without windows.
    fn take_in(
        &mut self,
        source: &RecordBatch,
        batch: RecordBatch,
        rejects: &mut Option<&mut Vec<Reject>>,
    ) -> Result<()> {
        let batch = self.without_group(source, batch, rejects)?;
        if batch.num_rows() == 0 {
            return Ok(());
        }
        self.counts.accepted += batch.num_rows() as i64;
        if self.plan.shape == Shape::Stateless {
            self.passed.push(batch);
            return Ok(());
        }
        self.update(0, &batch)
    }

    /// Rows of windows that began after the view was added; where windows leave gaps, rows that lie in one.
    fn in_windows(&mut self, batch: RecordBatch, windows: Windows) -> Result<RecordBatch> {
        let has_gaps = windows.kind == Kind::Hop && windows.step_us > windows.size_us;
        let floor = self.floor;
        let inside = |pane: i64| match windows.kind {
            Kind::Tumble => pane > floor,
            Kind::Hop | Kind::Cumulate => windows.of_pane(pane).iter().any(|window| window.start > floor),
        };
        let starts = batch.column(self.plan.inputs.window).as_primitive::<Int64Type>().values();
        if (floor == time::NONE && !has_gaps) || starts.iter().all(|start| inside(*start)) {
            return Ok(batch);
        }
        let keep: BooleanArray = starts.iter().map(|start| Some(inside(*start))).collect();
        self.counts.filtered += (batch.num_rows() - keep.true_count()) as i64;
        Ok(filter_record_batch(&batch, &keep)?)
    }

    fn pane(&mut self, start: i64) -> Result<&mut Open> {
        match self.open.entry(start) {
            std::collections::btree_map::Entry::Occupied(entry) => Ok(entry.into_mut()),
            std::collections::btree_map::Entry::Vacant(entry) => {
                let pieces = vec![Vec::new(); self.layout.parts() as usize];
                let open =
                    entry.insert(Open { groups: Groups::new(self.layout.clone())?, needs: Needs::new(), pieces });
                if let Shape::Windowed(windows) = self.plan.shape
                    && windows.kind != Kind::Tumble
                {
                    for window in windows.of_pane(start).into_iter().filter(|window| window.start > self.floor) {
                        self.several.entry(window).or_default();
                    }
                }
                Ok(open)
            }
        }
    }

    fn update(&mut self, start: i64, batch: &RecordBatch) -> Result<()> {
        let plan = self.plan.clone();
        let open = self.pane(start)?;
        let partitions = batch.column(plan.inputs.partition).as_primitive::<Int32Type>().values();
        let mut last = i32::MIN;
        for (row, partition) in partitions.iter().enumerate() {
            if *partition != last {
                last = *partition;
                open.needs.entry(last).or_insert_with(|| {
                    let int = |column: usize| batch.column(column).as_primitive::<Int64Type>().value(row);
                    (int(plan.inputs.offset), int(plan.inputs.watermark))
                });
            }
        }
        let keys: Vec<ArrayRef> = plan.inputs.keys.iter().map(|index| batch.column(*index).clone()).collect();
        open.groups.update(&keys, &inputs(&plan.aggregates, batch)?, batch.num_rows())
    }

    fn late(&self, source: &RecordBatch, batch: &RecordBatch, row: usize, own: bool, judge: i64) -> Result<Reject> {
        let inputs = &self.plan.inputs;
        let start = batch.column(inputs.window).as_primitive::<Int64Type>().value(row);
        let (reason, by) = if own {
            ("late", "its partition's watermark")
        } else {
            ("late-after-idle", "the closed windows' frontier")
        };
        let detail = format!("the window that starts at {} had ended by {by} {}", rfc3339(start), rfc3339(judge));
        Ok(self.reject(source, self.place(source, batch, row)?, reason, detail))
    }

    /// Where the source has a row that passed the plan below.
    fn place(&self, source: &RecordBatch, batch: &RecordBatch, row: usize) -> Result<usize> {
        let inputs = &self.plan.inputs;
        let partition = batch.column(inputs.partition).as_primitive::<Int32Type>().value(row);
        let offset = batch.column(inputs.offset).as_primitive::<Int64Type>().value(row);
        let partitions = source.column(source.num_columns() - 3).as_primitive::<Int32Type>().values();
        let offsets = source.column(source.num_columns() - 2).as_primitive::<Int64Type>().values();
        let place = partitions.iter().zip(offsets).position(|(p, o)| (*p, *o) == (partition, offset));
        place.ok_or_else(|| Error::bug(format!("row {partition}/{offset} is not in its chunk")))
    }

    fn reject(&self, source: &RecordBatch, row: usize, reason: &'static str, detail: String) -> Reject {
        let visible = source.num_columns() - crate::batch::HIDDEN.len();
        let int = |column: usize| source.column(column).as_primitive::<Int64Type>().value(row);
        Reject {
            view: Some(self.plan.name.clone()),
            partition: source.column(visible).as_primitive::<Int32Type>().value(row),
            offset: int(visible + 1),
            reason,
            detail,
            payload: as_json(source, row, visible),
            payload_size: None,
        }
    }

    /// Drops windows that end at or before the frontier, and panes that no open window holds.
    fn close(&mut self, frontier: i64, outcome: &mut Outcome) {
        let Some(windows) = self.windows() else { return };
        let mut dropped: BTreeSet<i64> = BTreeSet::new();
        let over: Vec<Span> = self.several.keys().copied().take_while(|window| window.end <= frontier).collect();
        for window in &over {
            self.several.remove(window);
        }
        let mut stored = false;
        while let Some(pane) = self.open.first_entry() {
            if windows.pane_ends(*pane.key()) > frontier {
                break;
            }
            let (start, open) = pane.remove_entry();
            stored |= open.pieces.iter().any(|pieces| !pieces.is_empty());
            dropped.insert(start);
        }
        outcome.closed += if windows.kind == Kind::Tumble { dropped.len() } else { over.len() };
        outcome.drop_state_before = dropped.last().filter(|_| stored).map(|last| last + 1);
    }
}

/// The rows whose text is longer.
fn longer_than(texts: &ArrayRef, bytes: usize) -> Vec<usize> {
    let rows = |is_longer: &dyn Fn(usize) -> bool| (0..texts.len()).filter(|row| is_longer(*row)).collect();
    match texts.data_type() {
        DataType::Utf8View => {
            let texts = texts.as_string_view();
            if texts.views().iter().all(|view| *view as u32 as usize <= bytes) {
                return Vec::new();
            }
            rows(&|row| texts.is_valid(row) && texts.value(row).len() > bytes)
        }
        DataType::Utf8 => rows(&|row| texts.is_valid(row) && texts.as_string::<i32>().value(row).len() > bytes),
        DataType::LargeUtf8 => rows(&|row| texts.is_valid(row) && texts.as_string::<i64>().value(row).len() > bytes),
        _ => Vec::new(),
    }
}

fn as_json(rows: &RecordBatch, row: usize, columns: usize) -> Option<Vec<u8>> {
    let visible: Vec<usize> = (0..columns).collect();
    let one = rows.project(&visible).ok()?.slice(row, 1);
    let mut writer = arrow::json::LineDelimitedWriter::new(Vec::new());
    writer.write(&one).ok()?;
    writer.finish().ok()?;
    let mut text = writer.into_inner();
    text.truncate(
        text.iter().rposition(|byte| *byte != b'\n').map_or(0, |end| end + 1).min(crate::batch::PAYLOAD_BYTES_MAX),
    );
    Some(text)
}
