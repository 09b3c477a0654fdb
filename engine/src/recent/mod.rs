//! Recent batches: the decoded rows of each epoch as files, for whoever wants to ask about them.
//!
//! ```text
//!  <path>/<source>/<pipeline's id>/<boot's id>/<owner's epoch>/
//!     000000000001-000000000040.arrow      what commits 1 to 40 read
//!     000000000041-000000000041.arrow      what commit 41 reads, written before it
//! ```
//!
//! A file holds what one or several consecutive commits read, `[from, until)` of each partition, as an Arrow IPC file
//! whose footer says so. Together they tile: no gap, no overlap. What lies above the committed offsets is not there yet
//! for readers. Files are written under another name and renamed, never changed after, and deleted whole: a reader that
//! maps one keeps what it has mapped.
//!
//! Each owner of the pipeline has a folder of its own, named by its epoch. A new owner takes into it what was committed
//! before, and deletes the rest. So what an owner still writes whose epoch is over is nobody's.
//!
//! They are a cache. Nothing is forced to the disk; what was written before the machine last started is not read again.
//! When they cannot be written they go, and the pipeline goes on. Those that are to be archived stay until they are, and
//! when they cannot be written the pipeline waits.

mod keeper;
mod map;
mod reader;
mod segment;

pub use keeper::{Begin, Due, Keeper};
pub use reader::{Reader, Slice, absent};
pub use segment::{Facts, GONE};

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};

use crate::batch::{HIDDEN, INGESTED, file_name};
use crate::sql::source::event_time_type;

/// The columns of a source that people do not see unless they name them.
pub const HIDDEN_OF_TABLE: [&str; 3] = [HIDDEN[0], HIDDEN[1], INGESTED];

/// The columns of recent batches, from those of decoded rows: without the watermark, and with the time of writing.
pub fn table_schema(decoded: &Schema) -> SchemaRef {
    let kept = decoded.fields().iter().filter(|field| field.name() != HIDDEN[2]);
    let ingested = Arc::new(Field::new(INGESTED, event_time_type(), false));
    Arc::new(Schema::new(kept.cloned().chain([ingested]).collect::<Vec<_>>()))
}

/// Where the folders of a pipeline's owners are.
fn home(path: &Path, source: &str, pipeline: &str) -> PathBuf {
    path.join(file_name(source)).join(file_name(pipeline)).join(boot())
}

/// The folder of an owner.
fn owner_name(epoch: i64) -> String {
    format!("{epoch:010}")
}

/// Names this run of the machine.
fn boot() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let id = id.trim();
    if id.is_empty() { "boot".to_string() } else { id.to_string() }
}

#[cfg(test)]
mod tests;
