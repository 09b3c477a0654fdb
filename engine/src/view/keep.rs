//! What outlives a crash of a view: its state in pieces, what they depend on, and the way back.

use arrow::array::{Array, RecordBatch};
use arrow::row::{RowConverter, SortField};

use super::groups::Evaluated;
use super::publish::span_of;
use super::{Counts, Needs, Outcome, Piece, PieceWritten, Replay, Several, View};
use crate::error::{Error, Result};
use crate::sql::planned::Emit;
use crate::sql::window::Span;

impl View {
    /// Lowers `needs` to what the open windows depend on. What is kept for ever depends on every record, and is not
    /// rebuilt from where windows are.
    pub fn needs(&self, needs: &mut Needs) {
        if self.windows().is_none() {
            return;
        }
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
        self.open.values().flat_map(|open| &open.pieces).map(|pieces| pieces.len() as i64).sum()
    }

    /// How many panes have state.
    pub fn panes(&self) -> usize {
        self.open.len()
    }

    /// Bytes of its state, roughly; and its groups.
    pub fn size(&self) -> (usize, usize) {
        self.open
            .values()
            .fold((0, 0), |(bytes, groups), open| (bytes + open.groups.bytes(), groups + open.groups.len()))
    }

    /// State that changed since the last checkpoint, as pieces of commit `seq`.
    ///
    /// A piece also takes in the newest earlier ones while they are not much larger than itself, so that a pane has
    /// few pieces, each at least twice the size of the next.
    pub fn checkpoint(&mut self, seq: i64) -> Result<Vec<PieceWritten>> {
        let mut written = Vec::new();
        for (start, open) in &mut self.open {
            for (part, pieces) in (0..).zip(&mut open.pieces) {
                let since = pieces.last().map_or(0, |piece| piece.seq);
                let Some(mut groups) = open.groups.changed_since(part, since)? else { continue };
                let mut size = groups.get_array_memory_size();
                let (mut replaces, mut from) = (Vec::new(), since);
                while let Some(piece) = pieces.last().copied().filter(|piece| piece.bytes <= 2 * size) {
                    pieces.pop();
                    replaces.push(piece.seq);
                    size += piece.bytes;
                    from = piece.since;
                }
                if from != since {
                    groups = open.groups.changed_since(part, from)?.unwrap_or(groups);
                }
                pieces.push(Piece { seq, since: from, bytes: groups.get_array_memory_size() });
                written.push(PieceWritten { part, window_start: *start, groups, replaces });
            }
        }
        Ok(written)
    }

    /// Takes in a piece that a checkpoint wrote; pieces come in the order of their commits, groups before sets.
    pub fn load(&mut self, part: i32, window_start: i64, groups: RecordBatch, seq: i64) -> Result<()> {
        let open = self.pane(window_start)?;
        let pieces = usize::try_from(part).ok().and_then(|part| open.pieces.get_mut(part));
        let pieces = pieces.ok_or_else(|| Error::bug(format!("there is no part {part} of the state")))?;
        let since = pieces.last().map_or(0, |piece| piece.seq);
        pieces.push(Piece { seq, since, bytes: groups.get_array_memory_size() });
        open.groups.load(part, groups, seq)
    }

    /// After a load, every open pane is taken to depend on these offsets: they are at or below its true ones.
    pub fn assume_needs(&mut self, needs: &Needs) {
        for open in self.open.values_mut() {
            open.needs = needs.clone();
        }
    }

    /// Forgets which pieces are in the database, so that the next checkpoint writes everything.
    pub fn forget_pieces(&mut self) {
        for pieces in self.open.values_mut().flat_map(|open| &mut open.pieces) {
            pieces.clear();
        }
    }

    /// Ends recovery: what was replayed becomes kept state without being emitted, and what is published is known again.
    pub fn recovered(&mut self, seq: i64, frontier: i64) -> Result<()> {
        for open in self.open.values_mut() {
            open.groups.finish(&self.plan.name, seq)?;
        }
        self.counts = Counts::default();
        self.replay = Replay::default();
        if self.paned().is_none() && self.plan.filters_groups && self.plan.emit == Emit::Update {
            // Which rows HAVING had let through is not known for sure: the last bits of a float may differ now. A DELETE of
            // a row that is not there does no harm.
            for open in self.open.values_mut() {
                open.groups.publish_all();
            }
        }
        self.close(frontier, &mut Outcome::default());
        // How much of these was published is not known: once more, all of it.
        self.is_waiting = self.plan.emit == Emit::Update && !self.several.is_empty();
        for several in self.several.values_mut() {
            *several = Several { dirty: true, ..Several::default() };
        }
        Ok(())
    }

    pub(super) fn evaluate_all(&self) -> Result<Vec<(Span, Evaluated)>> {
        let mut evaluated = Vec::new();
        for (start, open) in &self.open {
            if open.groups.len() > 0 {
                evaluated.push((span_of(self.windows(), *start), open.groups.evaluate_all(&self.plan.name)?));
            }
        }
        Ok(evaluated)
    }

    /// Adds the groups of every open pane to a digest. It does not depend on how the state came to be.
    pub fn digest(&self, hasher: &mut blake3::Hasher) -> Result<()> {
        for (window, groups) in self.evaluate_all()? {
            let rows = self.above_rows(window, &groups, 0)?;
            // Without the number of the row, which is that of the group.
            let columns = &rows.columns()[..rows.num_columns() - 1];
            let fields = columns.iter().map(|column| SortField::new(column.data_type().clone())).collect();
            let encoded = RowConverter::new(fields)?.convert_columns(columns)?;
            let mut sorted: Vec<_> = encoded.iter().collect();
            sorted.sort();
            hasher.update(self.plan.name.as_bytes());
            hasher.update(&window.start.to_le_bytes());
            for row in sorted {
                hasher.update(row.as_ref());
            }
        }
        Ok(())
    }
}
