//! The nouns that travel between the stages.

use arrow::array::RecordBatch;

/// Hidden columns that decode adds to every row, in this order, after the source's own.
pub const HIDDEN: [&str; 3] = ["_partition", "_offset", "_wm"];

/// Offsets of one partition, `[from, until)`. Ranges of consecutive epochs tile: no gap, no overlap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OffsetRange {
    /// The partition.
    pub partition: i32,
    /// The first offset of the range.
    pub from: i64,
    /// The first offset after it.
    pub until: i64,
}

/// A record that did not become a row, or a row that a view did not take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reject {
    /// The view, or `None` where the record was rejected for the whole source.
    pub view: Option<String>,
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
    /// Why, in one of the documented words.
    pub reason: &'static str,
    /// Why, for a person.
    pub detail: String,
    /// The first bytes of the payload, or the decoded row as JSON.
    pub payload: Option<Vec<u8>>,
    /// The payload's whole size.
    pub payload_size: Option<i64>,
}

/// At most this much of a payload is kept in a dead letter.
pub const PAYLOAD_BYTES_MAX: usize = 4096;

/// Rows and rejects of one chunk of records, in the order in which they were read.
#[derive(Debug, Default)]
pub struct Decoded {
    /// The rows, with the hidden columns; `None` when every record was rejected.
    pub rows: Option<RecordBatch>,
    /// The others.
    pub rejects: Vec<Reject>,
}

/// A record as it was read; its bytes belong to the Kafka client.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
    /// The record's timestamp in microseconds, if it has one.
    pub timestamp_us: Option<i64>,
    /// Whether the broker wrote the timestamp.
    pub append_time: bool,
    /// The key.
    pub key: Option<&'a [u8]>,
    /// The payload.
    pub payload: Option<&'a [u8]>,
}
