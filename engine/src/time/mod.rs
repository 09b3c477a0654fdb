//! Event time: watermarks, the frontier of closed windows, idleness. Pure but for [`clock`].
//!
//! `wm_p`, the watermark of partition `p` at an offset, is the greatest event time of that partition's earlier records
//! less the source's bound. It follows from the log alone, and it alone decides what is late. The frontier `W` is the
//! least `wm_p` over the active partitions (of all, the greatest, when none is active) and never falls; a window is closed when its end is at or below `W`.

pub mod clock;

use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::datatypes::{Int32Type, Schema, SchemaRef, TimestampMicrosecondType};
use std::sync::Arc;

use crate::error::Result;

/// No watermark yet.
pub const NONE: i64 = i64::MIN;

/// The watermarks of one source's partitions.
#[derive(Debug, Clone)]
pub struct Watermarks {
    bound_us: i64,
    /// By partition.
    marks: Vec<i64>,
}

impl Watermarks {
    /// Watermarks that stay `bound_us` behind the greatest event time.
    pub fn new(bound_us: i64) -> Self {
        Self { bound_us, marks: Vec::new() }
    }

    /// The watermark of a partition.
    pub fn of(&self, partition: i32) -> i64 {
        usize::try_from(partition).ok().and_then(|p| self.marks.get(p)).copied().unwrap_or(NONE)
    }

    /// Sets the watermark of a partition, as recovery found it.
    pub fn set(&mut self, partition: i32, mark: i64) {
        let index = usize::try_from(partition).unwrap_or_default();
        if self.marks.len() <= index {
            self.marks.resize(index + 1, NONE);
        }
        self.marks[index] = mark;
    }

    /// Adds `_wm` to decoded rows: the watermark that judges each row. Advances with every row.
    pub fn stamp(&mut self, rows: RecordBatch, time_column: usize, schema: &SchemaRef) -> Result<RecordBatch> {
        let partition_column = rows.num_columns() - 2;
        let partitions = rows.column(partition_column).as_primitive::<Int32Type>().values();
        let times = rows.column(time_column).as_primitive::<TimestampMicrosecondType>().values();
        if let Some(greatest) = partitions.iter().max()
            && self.marks.len() <= *greatest as usize
        {
            self.marks.resize(*greatest as usize + 1, NONE);
        }
        let judged: Vec<i64> = partitions
            .iter()
            .zip(times)
            .map(|(partition, time)| {
                let mark = &mut self.marks[*partition as usize];
                let before = *mark;
                *mark = before.max(time.saturating_sub(self.bound_us));
                before
            })
            .collect();
        let mut columns: Vec<ArrayRef> = rows.columns().to_vec();
        columns.push(Arc::new(Int64Array::from(judged)));
        debug_assert_eq!(columns.len(), Schema::fields(schema).len());
        Ok(RecordBatch::try_new(schema.clone(), columns)?)
    }
}

/// The greatest event time behind these watermarks, which stay `bound_us` behind it.
pub fn greatest(marks: impl Iterator<Item = i64>, bound_us: i64) -> i64 {
    let mark = marks.max().unwrap_or(NONE);
    if mark == NONE { NONE } else { mark.saturating_add(bound_us) }
}

/// The next frontier, from each partition's watermark and whether it is active: the least watermark of the active ones,
/// but never less than before.
///
/// Without an active partition it is the greatest watermark of all, since partitions fall idle in no order that means
/// anything: had the one that leads been the last, it alone would have been the least.
pub fn frontier(previous: i64, partitions: impl Iterator<Item = (i64, bool)> + Clone) -> i64 {
    let active = partitions.clone().filter(|(_, active)| *active).map(|(mark, _)| mark).min();
    let next = active.or_else(|| partitions.map(|(mark, _)| mark).max());
    next.map_or(previous, |next| previous.max(next))
}

/// Since when a partition has been read to its end.
#[derive(Debug, Clone, Copy, Default)]
pub struct Quiet {
    since: Option<Instant>,
    idle: bool,
}

impl Quiet {
    /// As recovery found it.
    pub fn restored(idle: bool) -> Self {
        Self { since: None, idle }
    }

    /// A record came: the partition is active.
    pub fn woken(&mut self) {
        *self = Self::default();
    }

    /// The end was reached.
    pub fn at_end(&mut self, now: Instant) {
        self.since.get_or_insert(now);
    }

    /// The partition is not being polled, so its silence says nothing.
    pub fn not_polled(&mut self) {
        self.since = None;
    }

    /// Asked, and the broker did not confirm it: the silence counts from here. The end itself is told only once.
    pub fn not_confirmed(&mut self, now: Instant) {
        self.since = self.since.map(|_| now);
    }

    /// Whether it no longer holds the frontier.
    pub fn is_idle(&self) -> bool {
        self.idle
    }

    /// Whether it has been quiet for long enough to be asked about.
    pub fn is_due(&self, now: Instant, timeout: Duration) -> bool {
        !self.idle && self.since.is_some_and(|since| now.duration_since(since) >= timeout)
    }

    /// The decision, once the broker has confirmed that there is nothing to read.
    pub fn decide(&mut self) {
        self.idle = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_frontier_is_the_slowest_active_partition_and_never_falls() {
        let (on, off) = (|mark| (mark, true), |mark| (mark, false));
        assert_eq!(frontier(NONE, [on(5), on(3)].into_iter()), 3);
        assert_eq!(frontier(4, [on(5), on(3)].into_iter()), 4);
        assert_eq!(frontier(4, [on(NONE), on(9)].into_iter()), 4);
        assert_eq!(frontier(4, [off(NONE), on(9), off(20)].into_iter()), 9);
        assert_eq!(frontier(4, std::iter::empty()), 4);
    }

    #[test]
    fn the_order_in_which_partitions_fall_idle_does_not_matter() {
        let marks = [NONE, 9, 5];
        for order in [[0, 1, 2], [1, 2, 0], [2, 1, 0], [1, 0, 2]] {
            let (mut active, mut reached) = ([true; 3], 4);
            for partition in order {
                active[partition] = false;
                reached = frontier(reached, marks.into_iter().zip(active));
            }
            assert_eq!(reached, 9, "in the order {order:?}");
        }
        assert_eq!(frontier(4, marks.into_iter().zip([false; 3])), 9, "all at once");
    }

    #[test]
    fn a_partition_is_idle_only_after_its_whole_timeout_at_the_end() {
        let (start, timeout) = (Instant::now(), Duration::from_secs(60));
        let mut quiet = Quiet::default();
        assert!(!quiet.is_due(start + timeout, timeout));
        quiet.at_end(start);
        quiet.at_end(start + Duration::from_secs(30));
        assert!(!quiet.is_due(start + Duration::from_secs(59), timeout));
        assert!(quiet.is_due(start + timeout, timeout));
        quiet.woken();
        assert!(!quiet.is_due(start + timeout * 9, timeout));
    }

    #[test]
    fn a_question_that_the_broker_did_not_answer_is_asked_again() {
        let (start, timeout) = (Instant::now(), Duration::from_secs(60));
        let mut quiet = Quiet::default();
        quiet.at_end(start);
        quiet.not_confirmed(start + timeout);
        assert!(!quiet.is_due(start + timeout, timeout));
        assert!(quiet.is_due(start + timeout * 2, timeout));
        quiet.woken();
        quiet.not_confirmed(start + timeout * 2);
        assert!(!quiet.is_due(start + timeout * 9, timeout));
    }
}
