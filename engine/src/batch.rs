//! The nouns that travel between the stages.

use arrow::array::RecordBatch;
use serde::{Deserialize, Serialize};

/// Hidden columns that decode adds to every row, in this order, after the source's own.
pub const HIDDEN: [&str; 3] = ["_partition", "_offset", "_wm"];

/// When a row was written to a recent batch; the last column of what people may ask of a source.
pub const INGESTED: &str = "_ingested_at";

/// 0001-01-01 and 10000-01-01: years that every client can show.
pub const TIME_RANGE_US: std::ops::Range<i64> = -62_135_596_800_000_000..253_402_300_800_000_000;

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

/// Where a pipeline stands in a moment of the database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Committed {
    /// Names the pipeline's life.
    pub pipeline: String,
    /// By partition: where it began, and the next offset.
    pub partitions: Vec<(i32, i64, i64)>,
}

/// A name as that of a file: no two names may share one.
pub fn file_name(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    let of = |byte: u8| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02x}") };
    name.bytes().map(of).collect()
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
