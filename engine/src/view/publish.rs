//! A view's output: what an epoch has changed, as rows of its table.
//!
//! ```text
//!  panes ─► groups that changed, or all of a window that closes ─► plan above ─► upserts
//!     └─ windows of several panes: merged when they are due           └─ dropped by HAVING ─► deletes
//! ```

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int16Array, RecordBatch, TimestampMicrosecondArray, UInt32Array};
use arrow::compute::{cast, concat_batches, take};
use arrow::datatypes::{DataType, Field, Schema, UInt32Type};

use super::groups::{Evaluated, Groups};
use super::merge::{self, Wanted};
use super::{Changes, End, Outcome, Several, View};
use crate::error::{Error, Result};
use crate::sql::planned::{CONSTANT_KEY, Emit, Group, Shape};
use crate::sql::window::{Kind, Span, Windows};

impl View {
    /// Whether windows of several panes wait to be published.
    pub fn is_waiting(&self) -> bool {
        self.is_waiting
    }

    /// Ends an epoch: what changed is evaluated, and windows close.
    pub fn finish(&mut self, end: End) -> Result<Outcome> {
        let mut outcome = Outcome { counts: std::mem::take(&mut self.counts), ..Outcome::default() };
        if self.plan.shape == Shape::Stateless {
            outcome.changes = self.pass()?;
            return Ok(outcome);
        }
        let (seq, emit) = (end.seq, self.plan.emit);
        let mut evaluated: Vec<(Span, Evaluated)> = Vec::new();
        let windows = self.windows();
        for (start, open) in &mut self.open {
            let Some(groups) = open.groups.finish(&self.plan.name, seq)? else { continue };
            match windows {
                Some(windows) if windows.kind != Kind::Tumble => {
                    for window in windows.of_pane(*start) {
                        if let Some(several) = self.several.get_mut(&window) {
                            // Before it is published for the first time, all of it is dirty anyway.
                            several.dirty = true;
                            if several.begun {
                                several.keys.push(groups.keys.clone());
                            }
                        }
                    }
                }
                _ if emit == Emit::Update => evaluated.push((span_of(windows, *start), groups)),
                _ => {}
            }
        }
        let mut deletes_all = false;
        if let Some(windows) = self.paned() {
            self.evaluate_several(windows, end, &mut evaluated)?;
            deletes_all = emit == Emit::Update;
        } else if let (Some(windows), Emit::Close) = (windows, emit) {
            for (start, open) in &self.open {
                let span = Span { start: *start, end: start + windows.size_us };
                if span.end > end.frontier {
                    break;
                }
                evaluated.push((span, open.groups.evaluate_all(&self.plan.name)?));
            }
        }
        outcome.evaluated = evaluated.iter().map(|(_, groups)| groups.groups.len()).sum();
        if !evaluated.is_empty() {
            let (rows, survivors) = self.run_above(&evaluated)?;
            let deletes = match (self.plan.filters_groups, emit) {
                (true, Emit::Update) => self.gone(&evaluated, &survivors, deletes_all)?,
                _ => None,
            };
            if rows.num_rows() > 0 || deletes.is_some() {
                outcome.changes = Some(Changes { upserts: rows, deletes });
            }
        }
        self.close(end.frontier, &mut outcome);
        Ok(outcome)
    }

    /// The rows of a stateless view.
    fn pass(&mut self) -> Result<Option<Changes>> {
        let passed = std::mem::take(&mut self.passed);
        let Some(first) = passed.first() else { return Ok(None) };
        Ok(Some(Changes { upserts: concat_batches(&first.schema(), &passed)?, deletes: None }))
    }

    /// Evaluates windows of several panes that are due.
    fn evaluate_several(&mut self, windows: Windows, end: End, evaluated: &mut Vec<(Span, Evaluated)>) -> Result<()> {
        let emit = self.plan.emit;
        self.is_waiting = false;
        for (window, several) in &mut self.several {
            let closes = window.end <= end.frontier;
            let reached = window.end - windows.pane_us() <= end.greatest;
            let due = match emit {
                Emit::Close => closes,
                Emit::Update => several.dirty && (closes || reached && end.emit),
            };
            if !closes && !reached {
                // They are in the order of their ends: later ones are not reached either.
                break;
            }
            if !due {
                self.is_waiting |= emit == Emit::Update && several.dirty;
                continue;
            }
            let panes: Vec<&Groups> =
                windows.panes(*window).filter_map(|pane| self.open.get(&pane).map(|open| &open.groups)).collect();
            let wanted = if several.begun && !several.keys.is_empty() {
                Wanted::Keys(std::mem::take(&mut several.keys))
            } else {
                Wanted::All
            };
            *several = Several { begun: true, ..Several::default() };
            let groups = merge::evaluate(&self.plan.name, &self.layout, &panes, &wanted)?;
            if !groups.groups.is_empty() {
                evaluated.push((*window, groups));
            }
        }
        Ok(())
    }

    /// Runs the plan above; which of the rows it was given are among its output.
    pub(super) fn run_above(&self, evaluated: &[(Span, Evaluated)]) -> Result<(RecordBatch, Vec<bool>)> {
        let mut batches = Vec::new();
        let mut next = 0u32;
        for (window, groups) in evaluated {
            batches.push(self.above_rows(*window, groups, next)?);
            next += groups.groups.len() as u32;
        }
        let schema = self.plan.above.schema();
        let output = self.plan.above.run(batches).map_err(|error| Error::of_group(&self.plan.name, error))?;
        let output = concat_batches(&schema, &output)?;
        let row = schema.index_of(crate::sql::ROW)?;
        let mut survivors = vec![false; next as usize];
        for index in output.column(row).as_primitive::<UInt32Type>().values() {
            survivors[*index as usize] = true;
        }
        let kept: Vec<usize> = (0..output.num_columns()).filter(|index| *index != row).collect();
        let output = output.project(&kept)?;
        if self.plan.table.columns[0].key_of != Some(CONSTANT_KEY) {
            return Ok((output, survivors));
        }
        let mut columns: Vec<ArrayRef> = vec![Arc::new(Int16Array::from_value(0, output.num_rows()))];
        columns.extend(output.columns().iter().cloned());
        Ok((RecordBatch::try_new(self.plan.table.schema(), columns)?, survivors))
    }

    pub(super) fn above_rows(&self, window: Span, groups: &Evaluated, first: u32) -> Result<RecordBatch> {
        let rows = groups.groups.len();
        let mut columns: Vec<ArrayRef> = Vec::new();
        for group in &self.plan.groups {
            columns.push(match group {
                Group::Key(key) => groups.keys[*key].clone(),
                Group::Window { edge, data_type } => constant_time(edge.of(window), data_type, rows)?,
            });
        }
        columns.extend(groups.values.iter().cloned());
        columns.push(Arc::new(UInt32Array::from_iter_values(first..first + rows as u32)));
        Ok(RecordBatch::try_new(self.above_schema.clone(), columns)?)
    }

    /// The keys of rows that HAVING has dropped: those that were published and are no more; or simply all of them,
    /// where that is not known.
    pub(super) fn gone(
        &mut self,
        evaluated: &[(Span, Evaluated)],
        survivors: &[bool],
        all: bool,
    ) -> Result<Option<RecordBatch>> {
        let mut gone = Vec::new();
        let mut next = 0;
        for (window, groups) in evaluated {
            let mut rows = Vec::new();
            let mut open = self.open.get_mut(&window.start).filter(|_| !all);
            for (row, group) in groups.groups.iter().enumerate() {
                let survives = survivors[next + row];
                let was = open.as_mut().is_none_or(|open| open.groups.publish(*group, survives));
                if was && !survives {
                    rows.push(row as u32);
                }
            }
            next += groups.groups.len();
            if !rows.is_empty() {
                gone.push(self.keys_of(*window, groups, &UInt32Array::from(rows))?);
            }
        }
        match gone.first() {
            None => Ok(None),
            Some(first) => Ok(Some(concat_batches(&first.schema(), &gone)?)),
        }
    }

    fn keys_of(&self, window: Span, groups: &Evaluated, rows: &UInt32Array) -> Result<RecordBatch> {
        let (mut fields, mut columns) = (Vec::new(), Vec::new());
        for column in self.plan.table.key() {
            let array = match column.key_of.and_then(|group| self.plan.groups.get(group)) {
                Some(Group::Key(key)) => take(&groups.keys[*key], rows, None)?,
                Some(Group::Window { edge, data_type }) => constant_time(edge.of(window), data_type, rows.len())?,
                None => Arc::new(Int16Array::from_value(0, rows.len())),
            };
            fields.push(Field::new(&column.name, array.data_type().clone(), true));
            columns.push(array);
        }
        Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?)
    }
}

/// The window that is a pane.
pub(super) fn span_of(windows: Option<Windows>, start: i64) -> Span {
    Span { start, end: start + windows.map_or(0, |windows| windows.size_us) }
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
