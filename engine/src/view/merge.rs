//! A window of several panes: the groups of its panes, merged and evaluated.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, Int64Array, UInt32Array};
use arrow::compute::{filter, take};
use datafusion::logical_expr::EmitTo;

use super::distinct::Set;
use super::groups::{Evaluated, Groups, accumulators, key_index, merge, values};
use super::layout::Layout;
use crate::error::Result;

/// Which groups of a window are wanted.
pub enum Wanted {
    /// All.
    All,
    /// Those with these keys, which may repeat.
    Keys(Vec<Vec<ArrayRef>>),
}

/// Evaluates the wanted groups of the window that these panes make up. The ids in the result are its own.
pub fn evaluate(view: &str, layout: &Layout, panes: &[&Groups], wanted: &Wanted) -> Result<Evaluated> {
    let mut index = key_index(&layout.keys)?;
    let mut intern = |keys: &[ArrayRef], rows: usize| -> Result<Vec<usize>> {
        let mut ids = Vec::with_capacity(rows);
        match &mut index {
            Some(index) => index.intern(keys, &mut ids)?,
            None => ids.resize(rows, 0),
        }
        Ok(ids)
    };
    let after = |ids: &[usize], before: usize| ids.iter().map(|id| id + 1).fold(before, usize::max);
    // The groups in the order in which panes bring them: none may be counted before it has had a value.
    let mut order: Vec<usize> = Vec::new();
    let mut dense: Vec<usize> = Vec::new();
    // The wanted keys come first, so that an id tells whether its group is one of them.
    let mut limit = usize::MAX;
    if let Wanted::Keys(keys) = wanted {
        limit = 0;
        for keys in keys {
            let ids = intern(keys, keys.first().map_or(1, |key| key.len()))?;
            limit = after(&ids, limit);
        }
    }
    let mut fresh = accumulators(&layout.functions)?;
    let mut sets: Vec<Set> = layout.sets.iter().map(Set::new).collect::<Result<_>>()?;
    for pane in panes {
        let (groups, columns, own_sets) = pane.all()?;
        let (keys, state) = columns.split_at(layout.keys.fields().len());
        let ids = intern(keys, groups.len())?;
        let (state, mut kept) = only(state, &ids, limit)?;
        dense.resize(after(&kept, dense.len()), usize::MAX);
        for id in &mut kept {
            if dense[*id] == usize::MAX {
                dense[*id] = order.len();
                order.push(*id);
            }
            *id = dense[*id];
        }
        merge(&mut fresh, &layout.widths, &state, &kept, order.len())?;
        let dense_of = |id: &usize| dense.get(*id).copied().unwrap_or(usize::MAX);
        let id_of: HashMap<u32, usize> =
            groups.iter().zip(&ids).map(|(group, id)| (*group as u32, dense_of(id))).collect();
        for (set, own) in sets.iter_mut().zip(own_sets) {
            for (groups, values) in own.all() {
                let ids: Vec<usize> = groups.iter().map(|g| id_of.get(g).copied().unwrap_or(usize::MAX)).collect();
                let (values, kept) = only(std::slice::from_ref(values), &ids, order.len())?;
                set.insert(&kept, &values[0], None)?;
            }
        }
    }
    let total = order.len();
    let rows: UInt32Array = order.iter().map(|id| *id as u32).collect();
    let keys = match &mut index {
        Some(index) => index.emit(EmitTo::All)?.iter().map(|key| take(key, &rows, None)).collect::<Result<_, _>>()?,
        None => Vec::new(),
    };
    let values = values(view, layout, &mut fresh)?;
    let counts: Vec<ArrayRef> = sets
        .iter()
        .map(|set| Arc::new(Int64Array::from_iter_values((0..total).map(|id| set.count(id)))) as ArrayRef)
        .collect();
    Ok(Evaluated { groups: (0..total).collect(), keys, values: layout.ordered(&values, &counts) })
}

/// The rows whose id is below the limit, with their ids.
fn only(columns: &[ArrayRef], ids: &[usize], limit: usize) -> Result<(Vec<ArrayRef>, Vec<usize>)> {
    if ids.iter().all(|id| *id < limit) {
        return Ok((columns.to_vec(), ids.to_vec()));
    }
    let keep: BooleanArray = ids.iter().map(|id| Some(*id < limit)).collect();
    let columns = columns.iter().map(|column| filter(column, &keep)).collect::<Result<_, _>>()?;
    Ok((columns, ids.iter().copied().filter(|id| *id < limit).collect()))
}
