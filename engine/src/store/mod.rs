//! The one transaction: rows, dead letters, offsets, state and the fence move together or not at all.
//!
//! ```text
//!   Store ─ lease: who is alive ─► Lease ─ claim: who may write ─► Writer ─ commit
//!     └─ status, rows, dead letters: what people ask               └─ what recovery reads
//! ```
//!
//! The seam has three sides: [`postgres`], [`sqlite`] and [`memory`]. What must hold of a commit is written at
//! [`Commit`]; what is the same on every side stands here, in [`pieces`] and in [`dead_letters`].

pub mod dead_letters;
pub mod memory;
pub mod pieces;
pub mod postgres;
pub mod sqlite;
pub mod status;

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{AsArray, BooleanArray, RecordBatch};
use arrow::compute::{cast, filter_record_batch};
use arrow::datatypes::{DataType, TimeUnit};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::archive::{Archived, Before};
use crate::batch::{Committed, OffsetRange};
use crate::error::{Error, Result};
use crate::sink::{Write, quoted};
use crate::sql::planned::{Table, TableColumn};
use crate::time;
use crate::view::Counts;
use dead_letters::DeadLetter;
use status::{DeadLetterRow, Status};

/// Asks whether the process shall end.
pub type Stop<'a> = &'a (dyn Fn() -> bool + Send + Sync);

/// A database with the results and with all that makes them exact.
///
/// The promises: a commit's effects are there all together or not at all; a commit is taken only from the owner of the
/// newest epoch, right after the one before it; what `commit` answers is what is in the database, or it does not answer.
#[async_trait]
pub trait Store: Send + Sync {
    /// Creates our tables where they are missing.
    async fn migrate(&self) -> Result<()>;
    /// Waits until this engine may own a pipeline; `None` when it was told to stop before.
    async fn lease(&self, pipeline: &str, stop: Stop<'_>) -> Result<Option<Box<dyn Lease>>>;
    /// Where everything stands, as of one commit of each pipeline.
    async fn status(&self) -> Result<Status>;
    /// The newest commit of each pipeline, each named as no other commit is. As long as they are the same, so are the rows,
    /// but for those that [`Store::expire`] deletes.
    async fn commits(&self) -> Result<Vec<String>>;
    /// The newest dead letters.
    async fn dead_letters(&self, newest: usize) -> Result<Vec<DeadLetterRow>>;
    /// Rows of a view's table in the order of its key, all of them or the last ones; none if there is no such table.
    async fn rows(&self, table: &Table, newest: Option<usize>) -> Result<RecordBatch>;
    /// The database as it is now, for an answer that asks more than once.
    /// Each question to it may take `limit`.
    async fn snapshot(&self, limit: Duration) -> Result<Arc<dyn Snapshot>>;
    /// Deletes rows of windows that have ended long ago, a slice of them; how many.
    async fn expire(&self, table: &Table, expired: Expired<'_>) -> Result<u64>;
    /// Names files of the archive that are about to be written; only for the owner of the newest epoch.
    async fn begin_archiving(&self, pipeline: &str, epoch: i64, files: &[Archived]) -> Result<()>;
    /// They are whole: what was committed from `first` to `last`, right behind what is archived, is archived too, up to these
    /// offsets.
    async fn end_archiving(
        &self,
        pipeline: &str,
        epoch: i64,
        (first, last): (i64, i64),
        until: &[(i32, i64)],
    ) -> Result<()>;
    /// The last commit that is archived.
    async fn archived_until(&self, pipeline: &str) -> Result<i64>;
    /// The files that owners of earlier epochs have named, and that are not known to be whole: they never will be.
    async fn archiving(&self, pipeline: &str, epoch: i64) -> Result<Vec<String>>;
    /// They are deleted. Those that were named within the last hour stay named: whoever was to write them may still do so.
    async fn forget_archiving(&self, pipeline: &str, epoch: i64, paths: &[String]) -> Result<()>;
    /// Removes a view: its table, its state, its progress. The pipeline's owner is fenced. Whether there was one.
    async fn drop_view(&self, view: &str) -> Result<bool>;
}

/// What a query needs of one moment of the database.
#[async_trait]
pub trait Moment: Send + Sync {
    /// Rows of a view's table, in any order; none if there is no such table. A store may give more than is wanted, but
    /// for the columns.
    async fn rows(&self, table: &Table, wanted: &Wanted) -> Result<RecordBatch>;
    /// The least and the greatest value of a time column in microseconds, unless there is none or it is no quick look.
    async fn extent(&self, table: &Table, column: usize) -> Result<Option<(i64, i64)>>;
    /// Where a pipeline stands; none if it was never begun.
    async fn committed(&self, pipeline: &str) -> Result<Option<Committed>>;
    /// What of its archive lies before commit `oldest`.
    async fn archived(&self, pipeline: &str, oldest: i64, times: (i64, i64)) -> Result<Before>;
}

/// The database as it was at one moment.
#[async_trait]
pub trait Snapshot: Moment {
    /// Where everything stands.
    async fn status(&self) -> Result<Status>;
    /// The newest dead letters.
    async fn dead_letters(&self, asked: Letters) -> Result<Vec<DeadLetterRow>>;
    /// How many rows a view's table has for each value of a time column, in microseconds; none if there is no such table.
    /// An error where the values are too many.
    async fn counts(&self, table: &Table, column: usize) -> Result<Vec<(i64, i64)>>;
    /// When which of a view's windows were last changed: the time that tells a window from others, and that of the commit, in
    /// microseconds; the newest of them.
    async fn changes(&self, view: &str) -> Result<Vec<(i64, i64)>>;
    /// Ends it. One that is dropped instead costs its session.
    async fn done(&self) -> Result<()>;
}

/// Which dead letters are wanted.
#[derive(Debug, Clone, Copy)]
pub struct Letters {
    /// At most so many.
    pub newest: usize,
    /// Those that were recorded at this time or later, in microseconds; more may come.
    pub since: Option<i64>,
    /// With their payloads.
    pub payloads: bool,
}

impl Letters {
    /// All of the newest.
    pub fn newest(newest: usize) -> Self {
        Self { newest, since: None, payloads: true }
    }
}

/// What is wanted of a table.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Wanted {
    /// Positions of columns, in the order in which they are wanted.
    pub columns: Vec<usize>,
    /// Conditions, all of which must hold.
    pub bounds: Vec<Bound>,
    /// At most so many rows. A store that judges no conditions has no limit either.
    pub limit: Option<usize>,
    /// Which rows a limit lets pass: the first ones in this order. They may come in any.
    pub order: Vec<Order>,
}

/// A column that rows are ordered by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// The column's position.
    pub column: usize,
    /// Whether the greatest is the first.
    pub descending: bool,
    /// Whether NULL is before all others.
    pub nulls_first: bool,
}

/// A condition on a column.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bound {
    /// The column's position.
    pub column: usize,
    /// How it compares with the value.
    pub comparison: Comparison,
    /// The value.
    pub value: BoundValue,
}

/// How a column compares with a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Comparison {
    /// `=`
    Equal,
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterOrEqual,
}

impl Comparison {
    /// As SQL writes it.
    pub fn sql(self) -> &'static str {
        match self {
            Self::Equal => "=",
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
        }
    }
}

/// A value that every store compares in the same way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum BoundValue {
    /// Of an integer column.
    Integer(i64),
    /// Of a time column, in microseconds.
    Time(i64),
    /// Of a text column.
    Text(String),
}

/// The most rows that one question reads of a table.
const SCAN_ROWS_MAX: usize = 1_000_000;

/// A column by which rows are ordered, in SQL. It names the table: `ORDER BY n` alone would mean what stands behind SELECT
/// under that name, which may be its text.
fn order_sql(table: &Table, order: Order, collation: &str) -> String {
    let column = &table.columns[order.column];
    let is_text = matches!(column.data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    let collation = if is_text { collation } else { "" };
    let direction = if order.descending { " DESC" } else { "" };
    // Where there is no NULL, nothing is said of it: an index says nothing either.
    let nulls = match order.nulls_first {
        _ if !column.nullable => "",
        true => " NULLS FIRST",
        false => " NULLS LAST",
    };
    format!("{}.{}{collation}{direction}{nulls}", quoted(&table.name), quoted(&column.name))
}

/// The query for what is wanted of a table. It asks for one row more than may come, so that it shows. Texts are ordered by
/// this collation, which must be that of their bytes.
fn scan_sql(
    table: &Table,
    wanted: &Wanted,
    collation: &str,
    column: impl Fn(&TableColumn) -> String,
    value: impl Fn(usize, &Bound) -> String,
) -> String {
    let condition = |(index, bound): (usize, &Bound)| {
        let column = quoted(&table.columns[bound.column].name);
        format!("{column} {} {}", bound.comparison.sql(), value(index, bound))
    };
    let conditions: Vec<String> = wanted.bounds.iter().enumerate().map(condition).collect();
    let filter = if conditions.is_empty() { String::new() } else { format!(" WHERE {}", conditions.join(" AND ")) };
    // A table has rows even where none of its columns is wanted.
    let columns = wanted.columns.iter().map(|index| column(&table.columns[*index]));
    let columns: Vec<String> = columns.chain(["1".to_string()]).collect();
    let order: Vec<String> = wanted.order.iter().map(|order| order_sql(table, *order, collation)).collect();
    let order = if order.is_empty() { String::new() } else { format!(" ORDER BY {}", order.join(", ")) };
    let limit = wanted.limit.unwrap_or(SCAN_ROWS_MAX + 1).min(SCAN_ROWS_MAX + 1);
    format!("SELECT {} FROM {}{filter}{order} LIMIT {limit}", columns.join(", "), quoted(&table.name))
}

/// Refuses a question that reads too much.
fn check_scan(table: &Table, rows: usize) -> Result<()> {
    if rows <= SCAN_ROWS_MAX {
        return Ok(());
    }
    Err(Error::query("TG-SCAN-ROWS", format!("the question reads more than {SCAN_ROWS_MAX} rows of {}", table.name))
        .hint("narrow it, say to WHERE window_start >= now() - INTERVAL '1 day'"))
}

/// While it is held, this engine is the one that should own the pipeline.
///
/// It only saves work and makes a takeover quick. What keeps two writers apart is the fence in each commit.
#[async_trait]
pub trait Lease: Send + Sync {
    /// Makes this engine the owner: a new epoch, from which on every older one is fenced.
    async fn claim(&self, topic: &str, topic_id: &str) -> Result<(Box<dyn Writer>, Stored)>;
}

/// The owner's hand in the database. Whatever it changes, it changes only while `epoch` is the newest.
#[async_trait]
pub trait Writer: Send {
    /// The topic's identity, as it was when the pipeline was made; an owner whose epoch is over hears it here.
    async fn topic_id(&mut self, epoch: i64) -> Result<String>;
    /// Notes where partitions begin that were never read.
    async fn begin_partitions(&mut self, epoch: i64, starts: &[(i32, i64)]) -> Result<()>;
    /// Where the archive goes on: the last commit that it has, and the next offset of each partition. It begins behind what
    /// is committed where there is none yet; where there is to be none, what was known of it is forgotten.
    async fn open_archive(&mut self, epoch: i64, archive: bool) -> Result<(i64, Vec<(i32, i64)>)>;
    /// Notes a view that is new.
    async fn begin_view(&mut self, epoch: i64, start: &ViewStart<'_>) -> Result<()>;
    /// Notes as of which commit a view is not declared any more; the first such note stands until it is taken back.
    async fn set_absent(&mut self, epoch: i64, view: &str, since: Option<i64>) -> Result<()>;
    /// Creates a view's table, or checks that it is the one that the query needs. The views are opened in the order in
    /// which commits count them.
    async fn open_table(&mut self, table: &Table) -> Result<()>;
    /// The state pieces, verified one by one, in the order of their commits.
    async fn load_state(&mut self) -> Result<Vec<FoundPiece>>;
    /// Rejects of these offsets and above that the log alone does not explain: a replay takes them as given.
    async fn given_rejects(&mut self, from: &[(i32, i64)]) -> Result<Vec<GivenReject>>;
    /// Commits, however long it takes: retries what was surely aborted, resolves what is unknown.
    async fn commit(&mut self, commit: &Commit, stop: Stop<'_>) -> Result<Settled>;
}

/// Reasons for which the state of the world at that moment decided, and not the log.
pub const GIVEN_REASONS: [&str; 2] = ["future", "late-after-idle"];

/// A reject for one of [`GIVEN_REASONS`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GivenReject {
    /// The view, or nothing where the whole source rejected the record.
    pub view: String,
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
}

/// A view that begins.
#[derive(Debug, Clone, Copy)]
pub struct ViewStart<'a> {
    /// Its name.
    pub view: &'a str,
    /// What it is.
    pub fingerprint: &'a str,
    /// The greatest event time read before it.
    pub floor: i64,
    /// Where it begins in each partition.
    pub starts: &'a [Start],
}

/// Where a view begins in a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// The partition.
    pub partition: i32,
    /// The first offset that the view takes in.
    pub offset: i64,
    /// The watermark before it.
    pub watermark: i64,
}

/// Rows that may go: those whose time in this column is at or before `until`.
#[derive(Debug, Clone, Copy)]
pub struct Expired<'a> {
    /// A time column of the table.
    pub column: &'a str,
    /// In microseconds.
    pub until: i64,
    /// At most so many rows at a time.
    pub rows_max: usize,
}

/// Names the form of our tables. One that only lacks tables is made into it; a database of another form is refused.
pub const SCHEMA_VERSION: i64 = 5;

/// The form that lacks tables, and nothing else.
const SCHEMA_ADDED_TO: i64 = 4;

/// What a database of another form hears.
fn other_schema(found: i64) -> Error {
    Error::configuration(
        "TG-SCHEMA-VERSION",
        format!("Tidegate's tables in this database are of version {found}, and this binary needs {SCHEMA_VERSION}"),
    )
    .hint("use the binary that made them; or drop them together with the views' tables, and begin anew")
}

/// The keys of expired rows, for stores that hold rows as batches.
pub fn expired_rows(table: &Table, rows: &RecordBatch, expired: &Expired<'_>) -> Result<RecordBatch> {
    let position = table.columns.iter().position(|column| column.name == expired.column);
    let position =
        position.ok_or_else(|| Error::bug(format!("table {} has no column {}", table.name, expired.column)))?;
    let times =
        cast(&cast(rows.column(position), &DataType::Timestamp(TimeUnit::Microsecond, None))?, &DataType::Int64)?;
    let times = times.as_primitive::<arrow::datatypes::Int64Type>();
    let mut left = expired.rows_max;
    let old: BooleanArray = times
        .iter()
        .map(|time| {
            let old = left > 0 && time.is_some_and(|time| time <= expired.until);
            left -= usize::from(old);
            Some(old)
        })
        .collect();
    let keys: Vec<usize> = (0..table.columns.len()).filter(|index| table.columns[*index].key_of.is_some()).collect();
    Ok(filter_record_batch(&rows.project(&keys)?, &old)?)
}

/// Refuses a source that now names another topic.
fn same_topic(pipeline: &str, was: &str, is: &str) -> Result<()> {
    if was == is {
        return Ok(());
    }
    Err(Error::decide(
        "TG-TOPIC-CHANGED",
        format!("pipeline {pipeline} has read topic {was}, and its source now names {is}"),
    )
    .hint("restore the topic, or give the source and its views new names"))
}

/// What an owner hears that would change something after its epoch.
fn over(pipeline: &str, epoch: i64) -> Error {
    Error::fenced(format!("pipeline {pipeline}: epoch {epoch} is over"))
}

/// What an owner hears whose commit comes after its epoch.
fn fenced(commit: &Commit, epoch: i64) -> Error {
    Error::fenced(format!(
        "pipeline {}: this engine owned epoch {}, and epoch {epoch} has begun",
        commit.pipeline, commit.epoch
    ))
}

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
    /// Views whose state in the database is of no use: the checkpoint replaces all of it.
    pub rebuilt: Vec<String>,
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
    /// What the broker told last of where the partition ends.
    pub high_watermark: i64,
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
    /// The windows that rows to be written are of, by the time that tells them apart, in microseconds.
    pub windows: Vec<i64>,
    /// Those that only lose rows, if they ever had any.
    pub thinned: Vec<i64>,
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
    /// 0 for the groups, n for the n-th set of distinct values.
    pub part: i32,
    /// The pane.
    pub window_start: i64,
    /// How many groups, or entries of the set.
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
    /// Where it begins in each partition; at the pipeline's own start where none is named.
    pub starts: Vec<Start>,
    /// How many pieces of its state there must be.
    pub pieces: i64,
    /// The last commit before an engine ran without it.
    pub absent_since: Option<i64>,
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
    /// Where a rebuild of open windows begins.
    pub rebuild_from: i64,
    /// Where the pipeline began to read.
    pub start_offset: i64,
    /// Watermarks at the three.
    pub watermark: i64,
    /// At `checkpoint_offset`.
    pub checkpoint_watermark: i64,
    /// At `rebuild_from`.
    pub rebuild_watermark: i64,
    /// Whether it was idle.
    pub idle: bool,
}

impl StoredPartition {
    /// A partition that is read from `start`.
    pub fn beginning(partition: i32, start: i64) -> Self {
        Self {
            partition,
            next_offset: start,
            checkpoint_offset: start,
            rebuild_from: start,
            start_offset: start,
            watermark: time::NONE,
            checkpoint_watermark: time::NONE,
            rebuild_watermark: time::NONE,
            idle: false,
        }
    }

    /// What it is after a commit.
    pub fn advance(&mut self, moved: &Move, checkpoint: bool) {
        self.next_offset = moved.range.until;
        self.watermark = moved.watermark;
        self.idle = moved.idle;
        (self.rebuild_from, self.rebuild_watermark) = (moved.rebuild_from, moved.rebuild_watermark);
        if checkpoint {
            (self.checkpoint_offset, self.checkpoint_watermark) = (moved.range.until, moved.watermark);
        }
    }
}

/// What the database knows of a pipeline, read by the owner of a new epoch.
#[derive(Debug)]
pub struct Stored {
    /// Names the pipeline's life: one that is made anew has another.
    pub pipeline_id: String,
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
    /// Views of other pipelines, with the name of each.
    pub elsewhere: Vec<(String, String)>,
}

/// A piece of state, as it was found.
#[derive(Debug)]
pub struct FoundPiece {
    /// The view.
    pub view: String,
    /// 0 for the groups, n for the n-th set of distinct values.
    pub part: i32,
    /// The pane.
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
