//! The values that `count(DISTINCT x)` counts: entries of (group, value) in one index, and a count for each group.
//!
//! An epoch costs its new entries, and so does a checkpoint; the set itself is never written again.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, UInt32Array};
use arrow::compute::{concat, take};
use arrow::datatypes::{DataType, Field, Schema};
use datafusion::physical_plan::aggregates::group_values::{GroupValues, new_group_values};
use datafusion::physical_plan::aggregates::order::GroupOrdering;

use super::groups::apart;
use crate::error::Result;

/// One set of distinct values.
pub struct Set {
    index: Box<dyn GroupValues>,
    counts: Vec<i64>,
    /// Entries in the order in which they came, by the commit that made them.
    entries: Vec<Entries>,
    fresh: (Vec<u32>, Vec<ArrayRef>),
}

struct Entries {
    seq: i64,
    groups: Vec<u32>,
    values: ArrayRef,
}

impl Set {
    /// A set of values of this type.
    pub fn new(data_type: &DataType) -> Result<Self> {
        let fields = vec![Field::new("group", DataType::UInt32, false), Field::new("value", data_type.clone(), true)];
        let index = new_group_values(Arc::new(Schema::new(fields)), &GroupOrdering::None)?;
        Ok(Self { index, counts: Vec::new(), entries: Vec::new(), fresh: (Vec::new(), Vec::new()) })
    }

    /// Takes in a value for each group named; NULLs and rows that the filter does not pass are no values.
    pub fn insert(&mut self, groups: &[usize], values: &ArrayRef, filter: Option<&BooleanArray>) -> Result<()> {
        // An array of NULLs without a type has no mask that says so.
        let nulls = values.logical_nulls();
        let is_value = |row: usize| nulls.as_ref().is_none_or(|nulls| nulls.is_valid(row));
        let passes = |row: &usize| is_value(*row) && filter.is_none_or(|f| f.is_valid(*row) && f.value(*row));
        let rows: Vec<u32> = (0..groups.len()).filter(passes).map(|row| row as u32).collect();
        let of: Vec<u32> = rows.iter().map(|row| groups[*row as usize] as u32).collect();
        let values = take(values, &UInt32Array::from(rows), None)?;
        let (groups, values) = self.add(of, &values)?;
        if !groups.is_empty() {
            self.fresh.0.extend(groups);
            self.fresh.1.push(values);
        }
        Ok(())
    }

    /// Adds entries; those that were not there.
    fn add(&mut self, groups: Vec<u32>, values: &ArrayRef) -> Result<(Vec<u32>, ArrayRef)> {
        let known = self.index.len();
        let mut ids = Vec::with_capacity(groups.len());
        let of: ArrayRef = Arc::new(UInt32Array::from(groups.clone()));
        self.index.intern(&[of, values.clone()], &mut ids)?;
        // New ids are dense, but where hashes collide not in the order of the rows.
        let mut seen = vec![false; self.index.len() - known];
        let (mut new_groups, mut rows) = (Vec::new(), Vec::new());
        for (row, id) in ids.into_iter().enumerate() {
            if id >= known && !std::mem::replace(&mut seen[id - known], true) {
                let group = groups[row];
                if self.counts.len() <= group as usize {
                    self.counts.resize(group as usize + 1, 0);
                }
                self.counts[group as usize] += 1;
                new_groups.push(group);
                rows.push(row as u32);
            }
        }
        Ok((new_groups, apart(&take(values, &UInt32Array::from(rows), None)?)))
    }

    /// Ends the epoch that commit `seq` carries.
    pub fn finish(&mut self, seq: i64) -> Result<()> {
        let (groups, values) = std::mem::take(&mut self.fresh);
        if !groups.is_empty() {
            let values: Vec<&dyn Array> = values.iter().map(AsRef::as_ref).collect();
            self.entries.push(Entries { seq, groups, values: concat(&values)? });
        }
        Ok(())
    }

    /// How many values a group has.
    pub fn count(&self, group: usize) -> i64 {
        self.counts.get(group).copied().unwrap_or(0)
    }

    /// Entries that are newer than commit `since`: groups and values.
    pub fn changed_since(&self, since: i64) -> Result<Option<(Vec<usize>, ArrayRef)>> {
        let newer: Vec<&Entries> = self.entries.iter().filter(|entries| entries.seq > since).collect();
        if newer.is_empty() {
            return Ok(None);
        }
        let groups = newer.iter().flat_map(|entries| entries.groups.iter().map(|group| *group as usize)).collect();
        let values: Vec<&dyn Array> = newer.iter().map(|entries| entries.values.as_ref()).collect();
        Ok(Some((groups, concat(&values)?)))
    }

    /// Takes in entries that commit `seq` made.
    pub fn load(&mut self, groups: &[usize], values: &ArrayRef, seq: i64) -> Result<()> {
        let (groups, values) = self.add(groups.iter().map(|group| *group as u32).collect(), values)?;
        if !groups.is_empty() {
            self.entries.push(Entries { seq, groups, values });
        }
        Ok(())
    }

    /// Every entry: its group and its value.
    pub fn all(&self) -> impl Iterator<Item = (&[u32], &ArrayRef)> {
        self.entries.iter().map(|entries| (entries.groups.as_slice(), &entries.values))
    }

    /// Bytes, roughly.
    pub fn bytes(&self) -> usize {
        let entries = |e: &Entries| e.values.get_array_memory_size() + e.groups.len() * 4;
        self.index.size() + self.counts.len() * 8 + self.entries.iter().map(entries).sum::<usize>()
    }
}
