//! What a pipeline reads: a topic as a log of records by partition.
//!
//! The seam has two sides: [`crate::kafka`], which is what runs, and [`memory`], on which views are tested without a
//! server. Promises of a [`Reader`]: the records of a partition come in the order of their offsets, each once; nothing
//! is skipped without an [`Event::Failed`]; the end of a partition is told once each time it is reached.

pub mod memory;

use std::time::Duration;

use crate::batch::Record;
use crate::error::Result;
use crate::sql::source::Source;

/// Where topics are.
pub trait Log: Send + Sync {
    /// A reader of a source's topic; `partitions` only sizes its buffers.
    fn open(&self, source: &Source, partitions: usize) -> Result<Box<dyn Reader>>;
}

/// What a topic holds of a partition: `[low, high)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// The oldest offset that is still there.
    pub low: i64,
    /// The next offset to be written.
    pub high: i64,
}

/// Reads one topic.
pub trait Reader: Send {
    /// The number of partitions.
    fn partitions(&self) -> Result<i32>;
    /// The topic's identity: one that was deleted and made again has another.
    fn topic_id(&self) -> Result<String>;
    /// What there is of a partition, asked anew.
    fn bounds(&self, partition: i32) -> Result<Bounds>;
    /// Where a partition ended when it was last read, without asking; none before.
    fn high_watermark(&self, partition: i32) -> Option<i64>;
    /// Reads these partitions from these offsets, for the reader's whole life.
    fn assign(&mut self, positions: &[(i32, i64)]) -> Result<()>;
    /// Takes what has arrived: waits up to `timeout` for `max` events.
    fn read(&mut self, timeout: Duration, max: usize) -> Result<Box<dyn Messages>>;
    /// Stops or goes on reading some partitions.
    fn pause(&mut self, partitions: &[i32], pause: bool) -> Result<()>;
}

/// What one read has brought; payloads live as long as this.
pub trait Messages {
    /// How many events.
    fn len(&self) -> usize;
    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// The events, in the order of each partition.
    fn events(&self) -> Box<dyn Iterator<Item = Event<'_>> + '_>;
}

/// What a partition has to say.
#[derive(Debug)]
pub enum Event<'a> {
    /// A record.
    Record(Record<'a>),
    /// The partition has been read up to this offset, which is the next to be written.
    End {
        /// The partition.
        partition: i32,
        /// The offset.
        offset: i64,
    },
    /// The partition cannot be read.
    Failed {
        /// The partition.
        partition: i32,
        /// Why.
        why: String,
    },
}
