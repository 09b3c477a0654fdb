//! One view at work: chunks of rows in, changed rows of its table out.
//!
//! ```text
//!  rows ─ plan below ─► late? ─► split by window ─► Window::update     (each chunk)
//!                        │                              │
//!                     rejects                   Window::finish ─ plan above ─► upserts, deletes   (each epoch)
//! ```
//!
//! Promises: an accepted row changes exactly one window, and never a closed one; the rows of [`Changes`] are what the
//! view's query returns for the rows accepted so far; no row is dropped without being counted.

pub mod plan;
mod window;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, TimestampMicrosecondArray, UInt32Array};
use arrow::compute::{cast, concat_batches, filter_record_batch, take, take_record_batch};
use arrow::datatypes::{DataType, Field, Int32Type, Int64Type, Schema, SchemaRef, UInt32Type};
use arrow::row::{RowConverter, SortField};

use crate::batch::Reject;
use crate::error::{Error, Result};
use crate::sql::planned::{Group, PlannedView};
use crate::time;
use crate::time::clock::rfc3339;
use window::{Evaluated, Layout, Window, arguments};

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
    /// Rows that WHERE dropped.
    pub filtered: i64,
    /// Rows that were aggregated.
    pub accepted: i64,
    /// Rows that came after their window had closed.
    pub late: i64,
    /// Rows on which an expression of the view failed.
    pub failed: i64,
}

/// The first offset of a partition that an open window depends on, and the watermark before it.
pub type Needs = BTreeMap<i32, (i64, i64)>;

struct Open {
    window: Window,
    needs: Needs,
    pieces: Vec<Piece>,
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
    /// The window's start.
    pub window_start: i64,
    /// Its groups.
    pub groups: RecordBatch,
    /// Pieces of the same window that it replaces.
    pub replaces: Vec<i64>,
}

/// A view at work.
pub struct View {
    plan: Arc<PlannedView>,
    layout: Arc<Layout>,
    open: BTreeMap<i64, Open>,
    counts: Counts,
    above_schema: SchemaRef,
    /// Windows that start at or before this had begun before the view was added: their rows count as filtered.
    floor: i64,
}

impl View {
    /// A view without any open window; `floor` is the greatest event time that was read before it was added.
    pub fn new(plan: Arc<PlannedView>, floor: i64) -> Result<Self> {
        let below = plan.below.schema();
        let keys: Vec<Field> = plan.inputs.keys.iter().map(|index| below.field(*index).clone()).collect();
        let layout = Arc::new(Layout::new(keys, &plan.aggregates)?);
        let mut fields = Vec::new();
        for (index, group) in plan.groups.iter().enumerate() {
            let data_type = match group {
                Group::Window { data_type, .. } => data_type.clone(),
                Group::Key(key) => layout.keys.field(*key).data_type().clone(),
            };
            fields.push(Field::new(format!("c{index}"), data_type, true));
        }
        for (index, aggregate) in plan.aggregates.iter().enumerate() {
            fields.push(Field::new(
                format!("c{}", plan.groups.len() + index),
                aggregate.function.field().data_type().clone(),
                true,
            ));
        }
        fields.push(Field::new(crate::sql::ROW, DataType::UInt32, false));
        Ok(Self {
            plan,
            layout,
            open: BTreeMap::new(),
            counts: Counts::default(),
            above_schema: Arc::new(Schema::new(fields)),
            floor,
        })
    }

    /// Its plan.
    pub fn plan(&self) -> &Arc<PlannedView> {
        &self.plan
    }

    /// The greatest event time that was read before it was added.
    pub fn floor(&self) -> i64 {
        self.floor
    }

    /// The schema of its state.
    pub fn state_schema(&self) -> &SchemaRef {
        &self.layout.schema
    }

    /// Takes in decoded rows. `frontier` is that of the last commit; a replay, whose rejects are known, hands in none.
    pub fn absorb(&mut self, rows: &RecordBatch, frontier: i64, mut rejects: Option<&mut Vec<Reject>>) -> Result<()> {
        let decoded = rows.num_rows();
        let failed_before = self.counts.failed;
        let mut passed = Vec::new();
        self.run_below(rows, &mut passed, &mut rejects)?;
        let left: usize = passed.iter().map(RecordBatch::num_rows).sum();
        self.counts.decoded += decoded as i64;
        self.counts.filtered += (decoded - left) as i64 - (self.counts.failed - failed_before);
        for batch in passed {
            if batch.num_rows() > 0 {
                self.accept(rows, batch, frontier, &mut rejects)?;
            }
        }
        Ok(())
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

    /// Judges rows, and gives each to its window.
    fn accept(
        &mut self,
        source: &RecordBatch,
        batch: RecordBatch,
        frontier: i64,
        rejects: &mut Option<&mut Vec<Reject>>,
    ) -> Result<()> {
        let size = self.plan.size_us;
        let inputs = self.plan.inputs.clone();
        let batch = self.above_floor(batch)?;
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

    fn above_floor(&mut self, batch: RecordBatch) -> Result<RecordBatch> {
        let starts = batch.column(self.plan.inputs.window).as_primitive::<Int64Type>().values();
        if self.floor == time::NONE || starts.iter().all(|start| *start > self.floor) {
            return Ok(batch);
        }
        let keep: BooleanArray = starts.iter().map(|start| Some(*start > self.floor)).collect();
        self.counts.filtered += (batch.num_rows() - keep.true_count()) as i64;
        Ok(filter_record_batch(&batch, &keep)?)
    }

    fn update(&mut self, start: i64, batch: &RecordBatch) -> Result<()> {
        let inputs = &self.plan.inputs;
        let open = match self.open.entry(start) {
            std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::btree_map::Entry::Vacant(entry) => entry.insert(Open {
                window: Window::new(self.layout.clone())?,
                needs: Needs::new(),
                pieces: Vec::new(),
            }),
        };
        let partitions = batch.column(inputs.partition).as_primitive::<Int32Type>().values();
        let mut last = i32::MIN;
        for (row, partition) in partitions.iter().enumerate() {
            if *partition != last {
                last = *partition;
                open.needs.entry(last).or_insert_with(|| {
                    let int = |column: usize| batch.column(column).as_primitive::<Int64Type>().value(row);
                    (int(inputs.offset), int(inputs.watermark))
                });
            }
        }
        let keys: Vec<ArrayRef> = inputs.keys.iter().map(|index| batch.column(*index).clone()).collect();
        open.window.update(&self.plan.aggregates, &keys, &arguments(&self.plan.aggregates, batch)?, batch.num_rows())
    }

    fn late(&self, source: &RecordBatch, batch: &RecordBatch, row: usize, own: bool, judge: i64) -> Result<Reject> {
        let inputs = &self.plan.inputs;
        let start = batch.column(inputs.window).as_primitive::<Int64Type>().value(row);
        let partition = batch.column(inputs.partition).as_primitive::<Int32Type>().value(row);
        let offset = batch.column(inputs.offset).as_primitive::<Int64Type>().value(row);
        let partitions = source.column(source.num_columns() - 3).as_primitive::<Int32Type>().values();
        let offsets = source.column(source.num_columns() - 2).as_primitive::<Int64Type>().values();
        let position = partitions.iter().zip(offsets).position(|(p, o)| (*p, *o) == (partition, offset));
        let position = position.ok_or_else(|| Error::bug(format!("row {partition}/{offset} is not in its chunk")))?;
        let (reason, by) = if own {
            ("late", "its partition's watermark")
        } else {
            ("late-after-idle", "the closed windows' frontier")
        };
        let detail = format!("the window that starts at {} had ended by {by} {}", rfc3339(start), rfc3339(judge));
        Ok(self.reject(source, position, reason, detail))
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

    /// Ends the epoch that commit `seq` will carry.
    pub fn finish(&mut self, seq: i64) -> Result<(Option<Changes>, Counts)> {
        let mut evaluated = Vec::new();
        for (start, open) in &mut self.open {
            if let Some(groups) = open.window.finish(&self.plan.aggregates, seq)? {
                evaluated.push((*start, groups));
            }
        }
        let counts = std::mem::take(&mut self.counts);
        if evaluated.is_empty() {
            return Ok((None, counts));
        }
        let (rows, survivors) = self.run_above(&evaluated)?;
        let deletes = if self.plan.filters_groups { self.note_published(&evaluated, &survivors)? } else { None };
        Ok((Some(Changes { upserts: rows, deletes }), counts))
    }

    /// Runs the plan above; which of the rows it was given are among its output.
    fn run_above(&self, evaluated: &[(i64, Evaluated)]) -> Result<(RecordBatch, Vec<bool>)> {
        let mut batches = Vec::new();
        let mut next = 0u32;
        for (start, groups) in evaluated {
            batches.push(self.above_rows(*start, groups, next)?);
            next += groups.groups.len() as u32;
        }
        let schema = self.plan.above.schema();
        let output = concat_batches(&schema, &self.plan.above.run(batches)?)?;
        let row = schema.index_of(crate::sql::ROW)?;
        let mut survivors = vec![false; next as usize];
        for index in output.column(row).as_primitive::<UInt32Type>().values() {
            survivors[*index as usize] = true;
        }
        let kept: Vec<usize> = (0..output.num_columns()).filter(|index| *index != row).collect();
        Ok((output.project(&kept)?, survivors))
    }

    fn above_rows(&self, start: i64, groups: &Evaluated, first: u32) -> Result<RecordBatch> {
        let rows = groups.groups.len();
        let mut columns: Vec<ArrayRef> = Vec::new();
        for group in &self.plan.groups {
            columns.push(match group {
                Group::Key(key) => groups.keys[*key].clone(),
                Group::Window { shift_us, data_type } => constant_time(start + shift_us, data_type, rows)?,
            });
        }
        columns.extend(groups.values.iter().cloned());
        columns.push(Arc::new(UInt32Array::from_iter_values(first..first + rows as u32)));
        Ok(RecordBatch::try_new(self.above_schema.clone(), columns)?)
    }

    /// Notes what is published now; the keys of rows that were and are no more.
    fn note_published(&mut self, evaluated: &[(i64, Evaluated)], survivors: &[bool]) -> Result<Option<RecordBatch>> {
        let mut gone = Vec::new();
        let mut next = 0;
        for (start, groups) in evaluated {
            let mut rows = Vec::new();
            if let Some(open) = self.open.get_mut(start) {
                for (row, group) in groups.groups.iter().enumerate() {
                    if open.window.publish(*group, survivors[next + row]) && !survivors[next + row] {
                        rows.push(row as u32);
                    }
                }
            }
            next += groups.groups.len();
            if !rows.is_empty() {
                gone.push(self.keys_of(*start, groups, &UInt32Array::from(rows))?);
            }
        }
        match gone.first() {
            None => Ok(None),
            Some(first) => Ok(Some(concat_batches(&first.schema(), &gone)?)),
        }
    }

    fn keys_of(&self, start: i64, groups: &Evaluated, rows: &UInt32Array) -> Result<RecordBatch> {
        let (mut fields, mut columns) = (Vec::new(), Vec::new());
        for column in self.plan.table.key() {
            let array = match column.key_of.map(|group| &self.plan.groups[group]) {
                Some(Group::Key(key)) => take(&groups.keys[*key], rows, None)?,
                Some(Group::Window { shift_us, data_type }) => constant_time(start + shift_us, data_type, rows.len())?,
                None => continue,
            };
            fields.push(Field::new(&column.name, array.data_type().clone(), true));
            columns.push(array);
        }
        Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?)
    }

    /// Drops the windows that end at or before the frontier; how many there were, and whether one had state in the database.
    pub fn close(&mut self, frontier: i64) -> (usize, bool) {
        let closed: Vec<i64> =
            self.open.keys().copied().take_while(|start| start + self.plan.size_us <= frontier).collect();
        let dropped = closed.iter().filter_map(|start| self.open.remove(start));
        let stored = dropped.filter(|open| !open.pieces.is_empty()).count() > 0;
        (closed.len(), stored)
    }

    /// Whether a window would close at this frontier.
    pub fn would_close(&self, frontier: i64) -> bool {
        self.open.first_key_value().is_some_and(|(start, _)| start + self.plan.size_us <= frontier)
    }

    /// Lowers `needs` to what the open windows depend on.
    pub fn needs(&self, needs: &mut Needs) {
        for open in self.open.values() {
            for (partition, need) in &open.needs {
                let lowest = needs.entry(*partition).or_insert(*need);
                if need.0 < lowest.0 {
                    *lowest = *need;
                }
            }
        }
    }

    /// How many pieces of its state the database has.
    pub fn pieces(&self) -> i64 {
        self.open.values().map(|open| open.pieces.len() as i64).sum()
    }

    /// Bytes of its state, roughly; and its groups.
    pub fn size(&self) -> (usize, usize) {
        self.open
            .values()
            .fold((0, 0), |(bytes, groups), open| (bytes + open.window.bytes(), groups + open.window.len()))
    }

    /// State that changed since the last checkpoint, as pieces of commit `seq`.
    ///
    /// A piece also takes in the newest earlier ones while they are not much larger than itself, so that a window has
    /// few pieces, each at least twice the size of the next.
    pub fn checkpoint(&mut self, seq: i64) -> Result<Vec<PieceWritten>> {
        let mut written = Vec::new();
        for (start, open) in &mut self.open {
            let since = open.pieces.last().map_or(0, |piece| piece.seq);
            let Some(mut groups) = open.window.changed_since(since)? else { continue };
            let mut size = groups.get_array_memory_size();
            let (mut replaces, mut from) = (Vec::new(), since);
            while let Some(piece) = open.pieces.last().copied().filter(|piece| piece.bytes <= 2 * size) {
                open.pieces.pop();
                replaces.push(piece.seq);
                size += piece.bytes;
                from = piece.since;
            }
            if from != since {
                groups = open.window.changed_since(from)?.unwrap_or(groups);
            }
            open.pieces.push(Piece { seq, since: from, bytes: groups.get_array_memory_size() });
            written.push(PieceWritten { window_start: *start, groups, replaces });
        }
        Ok(written)
    }

    /// Takes in a piece that a checkpoint wrote; pieces of a window come in the order of their commits.
    pub fn load(&mut self, window_start: i64, groups: RecordBatch, seq: i64) -> Result<()> {
        let open = match self.open.entry(window_start) {
            std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::btree_map::Entry::Vacant(entry) => entry.insert(Open {
                window: Window::new(self.layout.clone())?,
                needs: Needs::new(),
                pieces: Vec::new(),
            }),
        };
        let since = open.pieces.last().map_or(0, |piece| piece.seq);
        open.pieces.push(Piece { seq, since, bytes: groups.get_array_memory_size() });
        open.window.load(groups, seq)
    }

    /// After a load, every open window is taken to depend on these offsets: they are at or below its true ones.
    pub fn assume_needs(&mut self, needs: &Needs) {
        for open in self.open.values_mut() {
            open.needs = needs.clone();
        }
    }

    /// Forgets which pieces are in the database, so that the next checkpoint writes everything.
    pub fn forget_pieces(&mut self) {
        for open in self.open.values_mut() {
            open.pieces.clear();
        }
    }

    /// Ends recovery: what was replayed becomes kept state without being emitted, and what is published is known again.
    pub fn recovered(&mut self, seq: i64) -> Result<()> {
        for open in self.open.values_mut() {
            open.window.finish(&self.plan.aggregates, seq)?;
        }
        self.counts = Counts::default();
        if self.plan.filters_groups {
            let evaluated = self.evaluate_all()?;
            let (_, survivors) = self.run_above(&evaluated)?;
            self.note_published(&evaluated, &survivors)?;
        }
        Ok(())
    }

    fn evaluate_all(&self) -> Result<Vec<(i64, Evaluated)>> {
        let mut evaluated = Vec::new();
        for (start, open) in &self.open {
            if open.window.len() > 0 {
                evaluated.push((*start, open.window.evaluate_all(&self.plan.aggregates)?));
            }
        }
        Ok(evaluated)
    }

    /// Adds the rows of every open window to a digest. It does not depend on how the state came to be.
    pub fn digest(&self, hasher: &mut blake3::Hasher) -> Result<()> {
        let evaluated = self.evaluate_all()?;
        if evaluated.is_empty() {
            return Ok(());
        }
        let (rows, _) = self.run_above(&evaluated)?;
        let fields = rows.schema().fields().iter().map(|field| SortField::new(field.data_type().clone())).collect();
        let converter = RowConverter::new(fields)?;
        let encoded = converter.convert_columns(rows.columns())?;
        let mut sorted: Vec<_> = encoded.iter().collect();
        sorted.sort();
        hasher.update(self.plan.name.as_bytes());
        for row in sorted {
            hasher.update(row.as_ref());
        }
        Ok(())
    }
}

fn constant_time(us: i64, data_type: &DataType, rows: usize) -> Result<ArrayRef> {
    let array: ArrayRef = Arc::new(TimestampMicrosecondArray::from_value(us, rows));
    // First the zone, which changes no value, then the unit.
    let zoned = match data_type {
        DataType::Timestamp(_, Some(zone)) => Arc::new(
            array.as_primitive::<arrow::datatypes::TimestampMicrosecondType>().clone().with_timezone(zone.clone()),
        ),
        _ => array,
    };
    Ok(cast(&zoned, data_type)?)
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
