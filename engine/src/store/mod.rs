//! The one transaction: rows, dead letters, offsets, state and the fence move together or not at all.
//!
//! [`postgres`] holds the session that commits, [`lease`] says who is alive, [`dead_letters`] folds rejects into rows.
//! What must hold of a commit is written at [`Commit`].

pub mod dead_letters;
pub mod lease;
pub mod postgres;

use arrow::array::RecordBatch;
use uuid::Uuid;

use crate::batch::OffsetRange;
use crate::sink::Write;
use crate::view::Counts;
use dead_letters::DeadLetter;

/// An engine, as it names itself: host and process.
pub fn holder() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}:{}", host.trim(), std::process::id())
}

/// One epoch's effects.
///
/// - It is valid only for the owner of `epoch`, and only right after commit `seq - 1`.
/// - `moves` names every partition of which anything changed; each range begins where the last commit ended.
/// - It is kept until its outcome is known, so that what was surely aborted can be sent again as it was.
#[derive(Debug)]
pub struct Commit {
    /// The pipeline.
    pub pipeline: String,
    /// The owner's epoch.
    pub epoch: i64,
    /// This commit's number.
    pub seq: i64,
    /// This commit's name.
    pub id: Uuid,
    /// Partitions that moved.
    pub moves: Vec<Move>,
    /// The frontier after it; [`crate::time::NONE`] before the first.
    pub frontier: i64,
    /// Where the source's records went.
    pub read: i64,
    /// Records that became rows.
    pub decoded: i64,
    /// Records that did not.
    pub rejected: i64,
    /// Each view's part; empty ones are left out.
    pub views: Vec<ViewCommit>,
    /// Rejects and late rows.
    pub dead_letters: Vec<DeadLetter>,
    /// The state that changed, if this commit carries a checkpoint.
    pub checkpoint: Option<Vec<StatePiece>>,
    /// Whether the state in the database is of no use, and the checkpoint replaces all of it.
    pub resets_state: bool,
}

/// One partition's part of a commit.
#[derive(Debug, Clone, Copy)]
pub struct Move {
    /// What was read.
    pub range: OffsetRange,
    /// The partition's watermark after it.
    pub watermark: i64,
    /// Whether it no longer holds the frontier.
    pub idle: bool,
    /// The lowest offset that an open window depends on.
    pub rebuild_from: i64,
    /// The watermark before that offset.
    pub rebuild_watermark: i64,
}

/// One view's part of a commit.
#[derive(Debug)]
pub struct ViewCommit {
    /// The view, by its position among the pipeline's.
    pub view: usize,
    /// Where its rows went.
    pub counts: Counts,
    /// Rows of its table.
    pub write: Write,
    /// Windows that start before this have closed and had state in the database.
    pub drop_state_before: Option<i64>,
    /// How many pieces of its state the database has after this commit.
    pub pieces: i64,
}

/// A piece of state, ready to be stored.
#[derive(Debug)]
pub struct StatePiece {
    /// The view.
    pub view: String,
    /// The window.
    pub window_start: i64,
    /// How many groups.
    pub groups: i64,
    /// The digest of `data`.
    pub digest: Vec<u8>,
    /// An Arrow IPC stream.
    pub data: Vec<u8>,
    /// Earlier pieces that it replaces.
    pub replaces: Vec<i64>,
}

/// A view's row of `tidegate.view_progress`.
#[derive(Debug, Clone)]
pub struct StoredView {
    /// The view.
    pub view: String,
    /// What it was when it was first started.
    pub fingerprint: String,
    /// Windows that start at or before this had begun before the view was added.
    pub floor: i64,
    /// How many pieces of its state there must be.
    pub pieces: i64,
}

/// A partition's row of `tidegate.progress`.
#[derive(Debug, Clone, Copy)]
pub struct StoredPartition {
    /// The partition.
    pub partition: i32,
    /// Where to go on.
    pub next_offset: i64,
    /// Where the state ends.
    pub checkpoint_offset: i64,
    /// Where a rebuild begins.
    pub rebuild_from: i64,
    /// Watermarks at the three.
    pub watermark: i64,
    /// At `checkpoint_offset`.
    pub checkpoint_watermark: i64,
    /// At `rebuild_from`.
    pub rebuild_watermark: i64,
    /// Whether it was idle.
    pub idle: bool,
}

/// What the database knows of a pipeline, read by the owner of a new epoch.
#[derive(Debug)]
pub struct Stored {
    /// The new epoch.
    pub epoch: i64,
    /// The last commit.
    pub seq: i64,
    /// The frontier.
    pub frontier: i64,
    /// The topic's identity when the pipeline was made.
    pub topic_id: String,
    /// The commit that wrote the last checkpoint.
    pub checkpoint_seq: i64,
    /// What wrote the state.
    pub state_version: String,
    /// Its partitions.
    pub partitions: Vec<StoredPartition>,
    /// Its views.
    pub views: Vec<StoredView>,
}

/// A piece of state, as it was found.
#[derive(Debug)]
pub struct FoundPiece {
    /// The view.
    pub view: String,
    /// The window.
    pub window_start: i64,
    /// The commit that wrote it.
    pub seq: i64,
    /// Its groups, unless it is damaged.
    pub groups: Result<RecordBatch, String>,
}

/// How a commit ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Settled {
    /// It is in the database.
    Committed,
    /// It is not, and memory can no longer be trusted to fit: recover.
    Aborted,
}
