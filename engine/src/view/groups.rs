//! The groups of one pane: an index, immutable segments of their state, and one epoch's work on them.
//!
//! ```text
//!  keys of a row ─ intern ─► group id ─ located ─► (segment, row) of its kept state
//!                                │
//!  epoch:  touched groups, dense ids ─► fresh accumulators: merge_batch(kept state), then update_batch(rows)
//!  finish: state() = a new segment; a second fresh set: merge_batch + evaluate = the rows to publish
//! ```
//!
//! State comes first and rows follow one by one, so a sum does not depend on where epochs end. A segment is never
//! changed; one without a live row is dropped, and many small ones are merged. What `count(DISTINCT x)` counts is kept
//! beside the segments, in [`Set`]s.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, UInt32Array, new_empty_array, new_null_array,
};
use arrow::compute::{CastOptions, cast, cast_with_options, concat, interleave, take};
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::logical_expr::{EmitTo, GroupsAccumulator};
use datafusion::physical_expr::GroupsAccumulatorAdapter;
use datafusion::physical_plan::aggregates::group_values::{GroupValues, new_group_values};
use datafusion::physical_plan::aggregates::order::GroupOrdering;

use super::distinct::Set;
use super::layout::Layout;
use crate::error::{Error, Result};
use crate::sql::planned::{Aggregate, Function};

/// Segments of a pane beyond which the small ones are merged.
const SEGMENTS_MAX: usize = 64;

const NOWHERE: (u32, u32) = (u32::MAX, u32::MAX);
const UNTOUCHED: u32 = u32::MAX;
/// Touched, and about to have a dense id.
const NUMBERED: u32 = u32::MAX - 1;

/// The most that a group may keep for one aggregate whose state grows with its rows.
pub const STATE_PER_GROUP_MAX: usize = 64 * 1024;

/// The inputs of one aggregate for some rows.
#[derive(Debug)]
pub struct Arguments {
    /// Its arguments.
    pub values: Vec<ArrayRef>,
    /// Its FILTER.
    pub filter: Option<BooleanArray>,
}

/// The inputs of all aggregates for some rows.
#[derive(Debug)]
pub struct Inputs {
    /// Of the functions.
    pub functions: Vec<Arguments>,
    /// Of the sets.
    pub sets: Vec<Arguments>,
}

/// Groups whose rows an epoch has changed, evaluated.
#[derive(Debug)]
pub struct Evaluated {
    /// Their ids.
    pub groups: Vec<usize>,
    /// Their keys.
    pub keys: Vec<ArrayRef>,
    /// The values of the aggregates.
    pub values: Vec<ArrayRef>,
}

struct Segment {
    batch: RecordBatch,
    live: usize,
}

/// One epoch's work.
struct Epoch {
    accumulators: Vec<Box<dyn GroupsAccumulator>>,
    groups: Vec<usize>,
    keys: Vec<Vec<ArrayRef>>,
}

/// The groups of one pane.
pub struct Groups {
    layout: Arc<Layout>,
    /// `None` when the pane itself is the only group.
    index: Option<Box<dyn GroupValues>>,
    located: Vec<(u32, u32)>,
    /// The commit that last changed each group.
    changed: Vec<i64>,
    /// Whether each group's row is in the table; kept only where the plan above may drop rows.
    published: Vec<bool>,
    segments: Vec<Option<Segment>>,
    /// Dense id of each group in the running epoch.
    touched: Vec<u32>,
    epoch: Option<Epoch>,
    sets: Vec<Set>,
}

/// A fresh accumulator for each function.
pub fn accumulators(functions: &[Function]) -> Result<Vec<Box<dyn GroupsAccumulator>>> {
    let mut made = Vec::with_capacity(functions.len());
    for function in functions {
        let function = function.function.clone();
        made.push(if function.groups_accumulator_supported() {
            function.create_groups_accumulator()?
        } else {
            Box::new(GroupsAccumulatorAdapter::new(move || function.create_accumulator())) as Box<dyn GroupsAccumulator>
        });
    }
    Ok(made)
}

/// An index over keys; none where there are no key columns, and so one group.
pub fn key_index(keys: &SchemaRef) -> Result<Option<Box<dyn GroupValues>>> {
    if keys.fields().is_empty() {
        return Ok(None);
    }
    Ok(Some(new_group_values(keys.clone(), &GroupOrdering::None)?))
}

impl Groups {
    /// A pane without groups.
    pub fn new(layout: Arc<Layout>) -> Result<Self> {
        let index = key_index(&layout.keys)?;
        let sets = layout.sets.iter().map(Set::new).collect::<Result<_>>()?;
        Ok(Self {
            layout,
            index,
            sets,
            located: Vec::new(),
            changed: Vec::new(),
            published: Vec::new(),
            segments: Vec::new(),
            touched: Vec::new(),
            epoch: None,
        })
    }

    /// How many groups it has.
    pub fn len(&self) -> usize {
        self.located.len()
    }

    /// Bytes of its state, roughly.
    pub fn bytes(&self) -> usize {
        let segments: usize = self.segments.iter().flatten().map(|s| s.batch.get_array_memory_size()).sum();
        let sets: usize = self.sets.iter().map(Set::bytes).sum();
        segments + sets + self.index.as_ref().map_or(0, |index| index.size()) + self.located.len() * 21
    }

    fn intern(&mut self, keys: &[ArrayRef], rows: usize) -> Result<Vec<usize>> {
        let mut ids = Vec::with_capacity(rows);
        let groups = match &mut self.index {
            Some(index) => {
                index.intern(keys, &mut ids)?;
                index.len()
            }
            None => {
                ids.resize(rows, 0);
                1
            }
        };
        self.located.resize(groups, NOWHERE);
        self.changed.resize(groups, 0);
        self.published.resize(groups, false);
        self.touched.resize(groups, UNTOUCHED);
        Ok(ids)
    }

    /// Aggregates rows of this pane, in their order.
    pub fn update(&mut self, keys: &[ArrayRef], inputs: &Inputs, rows: usize) -> Result<()> {
        let mut ids = self.intern(keys, rows)?;
        for (set, input) in self.sets.iter_mut().zip(&inputs.sets) {
            set.insert(&ids, &input.values[0], input.filter.as_ref())?;
        }
        let mut epoch = match self.epoch.take() {
            Some(epoch) => epoch,
            None => Epoch {
                accumulators: accumulators(&self.layout.functions)?,
                groups: Vec::new(),
                keys: vec![Vec::new(); keys.len()],
            },
        };
        // Dense ids: those with kept state before those without. An accumulator takes every group below the total that it
        // is told for one that has had a value, so none may be counted before its turn.
        let first_new = epoch.groups.len();
        let (mut kept, mut fresh) = (Vec::new(), Vec::new());
        for (row, id) in ids.iter().enumerate() {
            if self.touched[*id] == UNTOUCHED {
                self.touched[*id] = NUMBERED;
                if self.located[*id] == NOWHERE { &mut fresh } else { &mut kept }.push((*id, row as u32));
            }
        }
        let with_kept = first_new + kept.len();
        if kept.len() + fresh.len() > 0 {
            let places: Vec<(u32, u32)> = kept.iter().map(|(group, _)| self.located[*group]).collect();
            kept.append(&mut fresh);
            for (dense, (group, _)) in (first_new..).zip(&kept) {
                self.touched[*group] = dense as u32;
                epoch.groups.push(*group);
            }
            let first_rows: UInt32Array = kept.iter().map(|(_, row)| *row).collect();
            for (pieces, key) in epoch.keys.iter_mut().zip(keys) {
                pieces.push(apart(&take(key, &first_rows, None)?));
            }
            if !places.is_empty() {
                let state = self.gather(&places, keys.len()..self.layout.schema.fields().len())?;
                let dense: Vec<usize> = (first_new..with_kept).collect();
                merge(&mut epoch.accumulators, &self.layout.widths, &state, &dense, with_kept)?;
            }
        }
        for id in &mut ids {
            *id = self.touched[*id] as usize;
        }
        let total = epoch.groups.len();
        for (accumulator, argument) in epoch.accumulators.iter_mut().zip(&inputs.functions) {
            accumulator.update_batch(&argument.values, &ids, argument.filter.as_ref(), total)?;
        }
        self.epoch = Some(epoch);
        Ok(())
    }

    /// Ends the epoch: keeps the new state as of commit `seq` and evaluates the touched groups of the view so named.
    pub fn finish(&mut self, view: &str, seq: i64) -> Result<Option<Evaluated>> {
        let Some(mut epoch) = self.epoch.take() else { return Ok(None) };
        let mut keys = Vec::with_capacity(epoch.keys.len());
        for pieces in &epoch.keys {
            let pieces: Vec<&dyn Array> = pieces.iter().map(AsRef::as_ref).collect();
            keys.push(concat(&pieces)?);
        }
        let mut columns = keys.clone();
        for accumulator in &mut epoch.accumulators {
            columns.extend(accumulator.state(EmitTo::All)?.iter().map(apart));
        }
        if columns.is_empty() {
            columns.push(new_null_array(&DataType::Boolean, epoch.groups.len()));
        }
        self.check_growth(&columns[keys.len()..]).map_err(|error| error.of_view(view))?;
        let values = evaluate(view, &self.layout, &columns[keys.len()..], epoch.groups.len())?;
        for set in &mut self.sets {
            set.finish(seq)?;
        }
        let values = self.layout.ordered(&values, &self.counts(&epoch.groups));
        for group in &epoch.groups {
            self.touched[*group] = UNTOUCHED;
            self.changed[*group] = seq;
        }
        self.keep(RecordBatch::try_new(self.layout.schema.clone(), columns)?, &epoch.groups)?;
        Ok(Some(Evaluated { groups: epoch.groups, keys, values }))
    }

    fn counts(&self, groups: &[usize]) -> Vec<ArrayRef> {
        let counted =
            |set: &Set| -> ArrayRef { Arc::new(Int64Array::from_iter_values(groups.iter().map(|g| set.count(*g)))) };
        self.sets.iter().map(counted).collect()
    }

    /// Fails when a group keeps more than it may.
    fn check_growth(&self, state: &[ArrayRef]) -> Result<()> {
        let mut column = 0;
        for (function, width) in self.layout.functions.iter().zip(&self.layout.widths) {
            let own = &state[column..column + width];
            column += width;
            if !function.grows {
                continue;
            }
            let rows = own.first().map_or(0, |array| array.len());
            for row in 0..rows {
                let mut bytes = 0;
                for array in own {
                    bytes += array.slice(row, 1).to_data().get_slice_memory_size()?;
                }
                if bytes > STATE_PER_GROUP_MAX {
                    return Err(Error::decide(
                        "TG-STATE-BUDGET",
                        format!(
                            "a group keeps {bytes} bytes for {}, and may keep {STATE_PER_GROUP_MAX}",
                            function.text
                        ),
                    )
                    .hint("use an approx_ aggregate or smaller groups, under a new view name"));
                }
            }
        }
        Ok(())
    }

    /// Adds a segment whose rows are these groups.
    fn keep(&mut self, batch: RecordBatch, groups: &[usize]) -> Result<()> {
        let segment = self.segments.len() as u32;
        for (row, group) in groups.iter().enumerate() {
            let old = std::mem::replace(&mut self.located[*group], (segment, row as u32));
            if old != NOWHERE {
                let slot = &mut self.segments[old.0 as usize];
                if let Some(held) = slot {
                    held.live -= 1;
                    if held.live == 0 {
                        *slot = None;
                    }
                }
            }
        }
        self.segments.push(Some(Segment { batch, live: groups.len() }));
        self.compact()
    }

    /// Merges small segments when there are many, everything when most of it is dead.
    fn compact(&mut self) -> Result<()> {
        let held = || self.segments.iter().flatten();
        let (count, live, rows) =
            (held().count(), self.located.len(), held().map(|s| s.batch.num_rows()).sum::<usize>());
        let mostly_dead = rows - live.min(rows) > live + 4096;
        if count <= SEGMENTS_MAX && !mostly_dead {
            // Positions of dropped segments are never used again; do not let them pile up either.
            if self.segments.len() < 4096 {
                return Ok(());
            }
        }
        let largest = held().map(|s| s.live).max().unwrap_or(0);
        let merged = |segment: &Segment| mostly_dead || segment.live < largest || largest < live / 2;
        let keep: Vec<bool> = self.segments.iter().map(|s| s.as_ref().is_some_and(|s| !merged(s))).collect();
        let groups: Vec<usize> = (0..self.located.len())
            .filter(|g| self.located[*g] != NOWHERE && !keep[self.located[*g].0 as usize])
            .collect();
        let places: Vec<(u32, u32)> = groups.iter().map(|g| self.located[*g]).collect();
        let batch = if places.is_empty() {
            None
        } else {
            Some(RecordBatch::try_new(
                self.layout.schema.clone(),
                self.gather(&places, 0..self.layout.schema.fields().len())?,
            )?)
        };
        let mut moved = vec![u32::MAX; self.segments.len()];
        let mut kept = Vec::new();
        for (old, segment) in std::mem::take(&mut self.segments).into_iter().enumerate() {
            if keep[old] {
                moved[old] = kept.len() as u32;
                kept.push(segment);
            }
        }
        for place in &mut self.located {
            if *place != NOWHERE {
                place.0 = moved[place.0 as usize];
            }
        }
        if let Some(batch) = batch {
            for (row, group) in groups.iter().enumerate() {
                self.located[*group] = (kept.len() as u32, row as u32);
            }
            kept.push(Some(Segment { batch, live: groups.len() }));
        }
        self.segments = kept;
        Ok(())
    }

    /// Columns of these places, in their order.
    fn gather(&self, places: &[(u32, u32)], columns: std::ops::Range<usize>) -> Result<Vec<ArrayRef>> {
        let mut position = vec![usize::MAX; self.segments.len()];
        let mut batches = Vec::new();
        let mut picks = Vec::with_capacity(places.len());
        for (segment, row) in places {
            let index = *segment as usize;
            if position[index] == usize::MAX
                && let Some(held) = &self.segments[index]
            {
                position[index] = batches.len();
                batches.push(&held.batch);
            }
            picks.push((position[index], *row as usize));
        }
        let mut gathered = Vec::with_capacity(columns.len());
        for column in columns {
            let arrays: Vec<&dyn Array> = batches.iter().map(|batch| batch.column(column).as_ref()).collect();
            gathered.push(if arrays.is_empty() {
                new_empty_array(self.layout.schema.field(column).data_type())
            } else {
                apart(&interleave(&arrays, &picks)?)
            });
        }
        Ok(gathered)
    }

    /// What changed of a part of the state after commit `since`.
    pub fn changed_since(&self, part: i32, since: i64) -> Result<Option<RecordBatch>> {
        let (groups, values) = if part == 0 {
            let changed = |g: &usize| self.changed[*g] > since && self.located[*g] != NOWHERE;
            ((0..self.located.len()).filter(changed).collect(), None)
        } else {
            match self.sets[part as usize - 1].changed_since(since)? {
                Some((groups, values)) => (groups, Some(values)),
                None => (Vec::new(), None),
            }
        };
        let places: Vec<(u32, u32)> = groups.iter().map(|g| self.located[*g]).collect();
        let Some(schema) = self.layout.part(part).filter(|_| !places.is_empty()) else { return Ok(None) };
        let own = if part == 0 { self.layout.schema.fields().len() } else { self.layout.keys.fields().len() };
        let mut columns = self.gather(&places, 0..own)?;
        columns.extend(values);
        Ok(Some(RecordBatch::try_new(schema, columns)?))
    }

    /// Takes in a piece of a part of the state; a later piece wins over an earlier one.
    pub fn load(&mut self, part: i32, piece: RecordBatch, seq: i64) -> Result<()> {
        let keys: Vec<ArrayRef> = piece.columns()[..self.layout.keys.fields().len()].to_vec();
        let groups = self.intern(&keys, piece.num_rows())?;
        if part > 0 {
            let values = piece.column(self.layout.keys.fields().len());
            return self.sets[part as usize - 1].load(&groups, values, seq);
        }
        for group in &groups {
            self.changed[*group] = seq;
        }
        self.keep(piece, &groups)
    }

    /// Keys and state of every group, with its id; and the sets.
    pub fn all(&self) -> Result<(Vec<usize>, Vec<ArrayRef>, &[Set])> {
        let groups: Vec<usize> = (0..self.located.len()).filter(|g| self.located[*g] != NOWHERE).collect();
        let places: Vec<(u32, u32)> = groups.iter().map(|g| self.located[*g]).collect();
        let columns = self.gather(&places, 0..self.layout.schema.fields().len())?;
        Ok((groups, columns, &self.sets))
    }

    /// Evaluates every group.
    pub fn evaluate_all(&self, view: &str) -> Result<Evaluated> {
        let (groups, mut columns, _) = self.all()?;
        let state = columns.split_off(self.layout.keys.fields().len());
        let values = evaluate(view, &self.layout, &state, groups.len())?;
        let values = self.layout.ordered(&values, &self.counts(&groups));
        Ok(Evaluated { groups, keys: columns, values })
    }

    /// Notes that every group's row may be in the table.
    pub fn publish_all(&mut self) {
        self.published.fill(true);
    }

    /// Notes whether a group's row is in the table; answers whether it was before.
    pub fn publish(&mut self, group: usize, published: bool) -> bool {
        std::mem::replace(&mut self.published[group], published)
    }
}

/// Merges rows of state into accumulators. Every group below `total` must be among `ids`, or have been in a call before.
pub fn merge(
    accumulators: &mut [Box<dyn GroupsAccumulator>],
    widths: &[usize],
    state: &[ArrayRef],
    ids: &[usize],
    total: usize,
) -> Result<()> {
    let mut rest = state;
    for (accumulator, width) in accumulators.iter_mut().zip(widths) {
        let (own, others) = rest.split_at(*width);
        accumulator.merge_batch(own, ids, total)?;
        rest = others;
    }
    Ok(())
}

/// The values of the functions for rows of state.
fn evaluate(view: &str, layout: &Layout, state: &[ArrayRef], groups: usize) -> Result<Vec<ArrayRef>> {
    let ids: Vec<usize> = (0..groups).collect();
    let mut fresh = accumulators(&layout.functions)?;
    merge(&mut fresh, &layout.widths, state, &ids, groups)?;
    values(view, layout, &mut fresh)
}

/// The values of all groups, in the types that the functions have in the view.
pub fn values(view: &str, layout: &Layout, fresh: &mut [Box<dyn GroupsAccumulator>]) -> Result<Vec<ArrayRef>> {
    let checked = CastOptions { safe: false, ..CastOptions::default() };
    let mut values = Vec::with_capacity(fresh.len());
    for (accumulator, function) in fresh.iter_mut().zip(&layout.functions) {
        let failed = |error| Error::of_group(view, error);
        let value = accumulator.evaluate(EmitTo::All).map_err(failed)?;
        values.push(match &function.narrow {
            Some(narrow) => cast_with_options(&value, narrow, &checked).map_err(|error| failed(error.into()))?,
            None => value,
        });
    }
    Ok(values)
}

/// Evaluates the arguments of every aggregate over the output of the plan below.
pub fn inputs(aggregates: &[Aggregate], rows: &RecordBatch) -> Result<Inputs> {
    let (mut functions, mut sets) = (Vec::new(), Vec::new());
    for aggregate in aggregates {
        match aggregate {
            Aggregate::Function(Function { function, filter, .. }) => {
                let mut values = Vec::new();
                for expr in function.expressions() {
                    values.push(expr.evaluate(rows)?.into_array(rows.num_rows())?);
                }
                let filter = match filter {
                    Some(expr) => Some(booleans(&expr.evaluate(rows)?.into_array(rows.num_rows())?)?),
                    None => None,
                };
                functions.push(Arguments { values, filter });
            }
            Aggregate::Distinct(distinct) => sets.push(Arguments {
                values: vec![rows.column(distinct.value).clone()],
                filter: distinct.filter.map(|filter| booleans(rows.column(filter))).transpose()?,
            }),
        }
    }
    Ok(Inputs { functions, sets })
}

/// A FILTER's values; one that is NULL everywhere has no type.
fn booleans(filter: &ArrayRef) -> Result<BooleanArray> {
    Ok(cast(filter, &DataType::Boolean)?.as_boolean().clone())
}

/// The same values without the rest of the buffers that they came from: a text that is kept would keep its whole chunk.
pub fn apart(column: &ArrayRef) -> ArrayRef {
    match column.as_string_view_opt() {
        Some(texts) if !texts.data_buffers().is_empty() => Arc::new(texts.gc()),
        _ => column.clone(),
    }
}
