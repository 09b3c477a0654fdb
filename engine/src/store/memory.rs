//! The store in memory: what a commit means, in as few lines as it takes. Golden files run on it, and users' own tests.
//!
//! It keeps every promise of [`Store`] but durability: a test's crash drops the pipeline's memory and not this.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type, TimeUnit};
use arrow::row::{OwnedRow, RowConverter, SortField};
use async_trait::async_trait;
use uuid::Uuid;

use super::pieces::{STATE_VERSION, unpack};
use super::status::{DeadLetterRow, PartitionStatus, PipelineStatus, Status, ViewStatus};
use super::{
    Commit, Expired, FoundPiece, GIVEN_REASONS, GivenReject, Lease, Letters, Moment, Settled, Snapshot, Stop, Store,
    Stored, StoredPartition, StoredView, ViewStart, Wanted, Writer, expired_rows,
};
use crate::archive::{Archived, Before};
use crate::batch::Committed;
use crate::error::{Error, Result};
use crate::sql::planned::Table;
use crate::time::{NONE, clock};
use crate::view::Counts;

/// Everything that was committed.
#[derive(Clone, Default)]
pub struct MemoryStore {
    held: Arc<Mutex<Held>>,
}

#[derive(Default)]
struct Held {
    pipelines: BTreeMap<String, Pipeline>,
    tables: BTreeMap<String, Rows>,
}

struct Pipeline {
    life: Uuid,
    committed_at: i64,
    /// Files, and whether they are whole.
    archive: Vec<(Archived, bool)>,
    archived: Option<(i64, Vec<(i32, i64)>)>,
    /// By partition.
    high_watermarks: BTreeMap<i32, i64>,
    epoch: i64,
    seq: i64,
    id: Uuid,
    topic: String,
    topic_id: String,
    frontier: i64,
    checkpoint_seq: i64,
    state_version: String,
    read: i64,
    decoded: i64,
    rejected: i64,
    partitions: BTreeMap<i32, StoredPartition>,
    views: BTreeMap<String, View>,
    /// By view and window.
    changes: BTreeMap<(String, i64), i64>,
    dead_letters: Vec<DeadLetterRow>,
    state: BTreeMap<PieceKey, PieceBytes>,
}

/// View, part, pane and commit.
type PieceKey = (String, i32, i64, i64);

/// Groups, digest and data.
type PieceBytes = (i64, Vec<u8>, Vec<u8>);

struct View {
    stored: StoredView,
    closed_until: i64,
    counts: Counts,
}

/// The rows of one table by key, both encoded so that they compare.
struct Rows {
    table: Table,
    keys: RowConverter,
    values: RowConverter,
    rows: BTreeMap<OwnedRow, OwnedRow>,
}

impl Rows {
    fn new(table: &Table) -> Result<Self> {
        let fields = |columns: Vec<&crate::sql::planned::TableColumn>| {
            RowConverter::new(columns.iter().map(|c| SortField::new(c.data_type.clone())).collect())
        };
        Ok(Self {
            table: table.clone(),
            keys: fields(table.key().collect())?,
            values: fields(table.columns.iter().collect())?,
            rows: BTreeMap::new(),
        })
    }

    fn upsert(&mut self, batch: &RecordBatch) -> Result<()> {
        let key: Vec<_> = self.table.columns.iter().zip(batch.columns()).filter(|(c, _)| c.key_of.is_some()).collect();
        let key: Vec<_> = key.into_iter().map(|(_, array)| array.clone()).collect();
        let (keys, values) = (self.keys.convert_columns(&key)?, self.values.convert_columns(batch.columns())?);
        for (key, value) in keys.iter().zip(values.iter()) {
            self.rows.insert(key.owned(), value.owned());
        }
        Ok(())
    }

    fn delete(&mut self, keys: &RecordBatch) -> Result<()> {
        for key in &self.keys.convert_columns(keys.columns())? {
            self.rows.remove(&key.owned());
        }
        Ok(())
    }

    fn batch(&self) -> Result<RecordBatch> {
        let columns = self.values.convert_rows(self.rows.values().map(OwnedRow::row))?;
        Ok(RecordBatch::try_new(self.table.schema(), columns)?)
    }
}

impl MemoryStore {
    /// Loses every piece of state, as a disk might.
    pub fn lose_state(&self) {
        for pipeline in self.held().pipelines.values_mut() {
            pipeline.state.clear();
        }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    fn status(&self) -> Status {
        let mut status = Status::default();
        for (name, p) in &self.pipelines {
            status.pipelines.push(PipelineStatus {
                pipeline: name.clone(),
                id: p.life.to_string(),
                committed_at: p.committed_at,
                topic: p.topic.clone(),
                commits: p.seq,
                watermark: p.frontier,
                read: p.read,
                decoded: p.decoded,
                rejected: p.rejected,
            });
            status.partitions.extend(p.partitions.values().map(|partition| PartitionStatus {
                pipeline: name.clone(),
                partition: partition.partition,
                start_offset: partition.start_offset,
                high_watermark: p.high_watermarks.get(&partition.partition).copied().unwrap_or_default(),
                next_offset: partition.next_offset,
                watermark: partition.watermark,
                idle: partition.idle,
            }));
            status.views.extend(p.views.values().map(|view| ViewStatus {
                view: view.stored.view.clone(),
                pipeline: name.clone(),
                fingerprint: view.stored.fingerprint.clone(),
                closed_until: view.closed_until,
                counts: view.counts,
            }));
        }
        status
    }

    fn dead_letters(&self, newest: usize) -> Vec<DeadLetterRow> {
        self.pipelines.values().flat_map(|p| p.dead_letters.iter().rev().take(newest).cloned()).collect()
    }

    /// A pipeline, while this epoch is its newest.
    fn owned(&mut self, name: &str, epoch: i64) -> Result<&mut Pipeline> {
        let pipeline = self.pipeline(name)?;
        if pipeline.epoch == epoch { Ok(pipeline) } else { Err(super::over(name, epoch)) }
    }

    fn pipeline(&mut self, name: &str) -> Result<&mut Pipeline> {
        self.pipelines.get_mut(name).ok_or_else(|| Error::bug(format!("pipeline {name} was never claimed")))
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn migrate(&self) -> Result<()> {
        Ok(())
    }

    async fn lease(&self, pipeline: &str, _: Stop<'_>) -> Result<Option<Box<dyn Lease>>> {
        Ok(Some(Box::new(MemoryLease { store: self.clone(), pipeline: pipeline.to_string() })))
    }

    async fn status(&self) -> Result<Status> {
        Ok(self.held().status())
    }

    async fn commits(&self) -> Result<Vec<String>> {
        Ok(self.held().pipelines.values().map(|pipeline| format!("{}/{}", pipeline.id, pipeline.epoch)).collect())
    }

    async fn dead_letters(&self, newest: usize) -> Result<Vec<DeadLetterRow>> {
        Ok(self.held().dead_letters(newest))
    }

    async fn rows(&self, table: &Table, newest: Option<usize>) -> Result<RecordBatch> {
        let held = self.held();
        let batch = match held.tables.get(&table.name) {
            Some(rows) => rows.batch()?,
            None => RecordBatch::new_empty(table.schema()),
        };
        let from = newest.map_or(0, |newest| batch.num_rows().saturating_sub(newest));
        Ok(batch.slice(from, batch.num_rows() - from))
    }

    async fn snapshot(&self, _: Duration) -> Result<Arc<dyn Snapshot>> {
        let held = self.held();
        let tables = held.tables.iter().map(|(name, rows)| Ok((name.clone(), rows.batch()?)));
        let tables = tables.collect::<Result<_>>()?;
        let whole = |(name, p): (&String, &Pipeline)| {
            let files = p.archive.iter().filter(|(_, whole)| *whole);
            files.map(|(file, _)| (name.clone(), file.clone())).collect::<Vec<_>>()
        };
        let archive = held.pipelines.iter().flat_map(whole).collect();
        let (status, dead_letters) = (held.status(), held.dead_letters(usize::MAX));
        let changes = held.pipelines.values().flat_map(|p| p.changes.clone()).collect();
        Ok(Arc::new(MemorySnapshot { tables, status, dead_letters, archive, changes }))
    }

    async fn expire(&self, table: &Table, expired: Expired<'_>) -> Result<u64> {
        let mut held = self.held();
        let Some(rows) = held.tables.get_mut(&table.name) else { return Ok(0) };
        let keys = expired_rows(table, &rows.batch()?, &expired)?;
        rows.delete(&keys)?;
        Ok(keys.num_rows() as u64)
    }

    async fn begin_archiving(&self, pipeline: &str, epoch: i64, files: &[Archived]) -> Result<()> {
        let mut held = self.held();
        held.owned(pipeline, epoch)?.archive.extend(files.iter().map(|file| (file.clone(), false)));
        Ok(())
    }

    async fn end_archiving(
        &self,
        pipeline: &str,
        epoch: i64,
        (first, last): (i64, i64),
        until: &[(i32, i64)],
    ) -> Result<()> {
        let mut held = self.held();
        let owned = held.owned(pipeline, epoch)?;
        if owned.archived.as_ref().map(|(last, _)| last + 1) != Some(first) {
            return Err(super::over(pipeline, epoch));
        }
        if let Some((seq, offsets)) = &mut owned.archived {
            *seq = last;
            for (partition, offset) in offsets {
                *offset = until.iter().find(|(moved, _)| moved == partition).map_or(*offset, |(_, until)| *until);
            }
        }
        owned.archive.iter_mut().filter(|(file, _)| file.last == last).for_each(|(_, whole)| *whole = true);
        Ok(())
    }

    async fn archived_until(&self, pipeline: &str) -> Result<i64> {
        let mut held = self.held();
        Ok(held.pipeline(pipeline)?.archived.as_ref().map_or(0, |(last, _)| *last))
    }

    async fn archiving(&self, _: &str, _: i64) -> Result<Vec<String>> {
        // All of it goes with its owner.
        Ok(Vec::new())
    }

    async fn forget_archiving(&self, pipeline: &str, epoch: i64, paths: &[String]) -> Result<()> {
        self.held().owned(pipeline, epoch)?.archive.retain(|(file, whole)| *whole || !paths.contains(&file.path));
        Ok(())
    }

    async fn drop_view(&self, view: &str) -> Result<bool> {
        let mut held = self.held();
        let mut found = false;
        for pipeline in held.pipelines.values_mut() {
            if pipeline.views.remove(view).is_some() {
                found = true;
                pipeline.epoch += 1;
                pipeline.state.retain(|(of, ..), _| of != view);
                pipeline.changes.retain(|(of, _), _| of != view);
            }
        }
        if found {
            held.tables.remove(view);
        }
        Ok(found)
    }
}

/// Every table as it was.
struct MemorySnapshot {
    tables: BTreeMap<String, RecordBatch>,
    status: Status,
    dead_letters: Vec<DeadLetterRow>,
    archive: Vec<(String, Archived)>,
    /// By view and window.
    changes: BTreeMap<(String, i64), i64>,
}

#[async_trait]
impl Moment for MemorySnapshot {
    async fn rows(&self, table: &Table, wanted: &Wanted) -> Result<RecordBatch> {
        let rows = self.tables.get(&table.name).cloned();
        let rows = rows.unwrap_or_else(|| RecordBatch::new_empty(table.schema()));
        Ok(rows.project(&wanted.columns)?)
    }

    async fn extent(&self, _: &Table, _: usize) -> Result<Option<(i64, i64)>> {
        Ok(None)
    }

    async fn committed(&self, pipeline: &str) -> Result<Option<Committed>> {
        Ok(Snapshot::status(self).await?.committed(pipeline))
    }

    async fn archived(&self, pipeline: &str, oldest: i64, times: (i64, i64)) -> Result<Before> {
        let own = || self.archive.iter().filter(|(of, _)| of == pipeline).map(|(_, file)| file);
        let until = own().filter(|file| file.first < oldest).map(|file| file.last).max();
        let is_before = |file: &&Archived| until.is_some_and(|until| file.last <= until);
        let files = own().filter(is_before).filter(|file| file.times.1 >= times.0 && file.times.0 <= times.1);
        Ok(Before { until, offsets: None, files: files.cloned().collect() })
    }
}

#[async_trait]
impl Snapshot for MemorySnapshot {
    async fn status(&self) -> Result<Status> {
        Ok(self.status.clone())
    }

    async fn dead_letters(&self, asked: Letters) -> Result<Vec<DeadLetterRow>> {
        Ok(self.dead_letters.iter().take(asked.newest).cloned().collect())
    }

    async fn changes(&self, view: &str) -> Result<Vec<(i64, i64)>> {
        let of_view = self.changes.range((view.to_string(), i64::MIN)..=(view.to_string(), i64::MAX));
        Ok(of_view.map(|((_, window), at)| (*window, *at)).collect())
    }

    async fn counts(&self, table: &Table, column: usize) -> Result<Vec<(i64, i64)>> {
        let Some(rows) = self.tables.get(&table.name) else { return Ok(Vec::new()) };
        let times =
            cast(&cast(rows.column(column), &DataType::Timestamp(TimeUnit::Microsecond, None))?, &DataType::Int64)?;
        let mut counts = BTreeMap::new();
        for time in times.as_primitive::<Int64Type>().iter().flatten() {
            *counts.entry(time).or_insert(0) += 1;
        }
        Ok(counts.into_iter().collect())
    }

    async fn done(&self) -> Result<()> {
        Ok(())
    }
}

struct MemoryLease {
    store: MemoryStore,
    pipeline: String,
}

#[async_trait]
impl Lease for MemoryLease {
    async fn claim(&self, topic: &str, topic_id: &str) -> Result<(Box<dyn Writer>, Stored)> {
        let mut held = self.store.held();
        let others = held.pipelines.iter().filter(|(name, _)| **name != self.pipeline);
        let elsewhere =
            others.flat_map(|(name, p)| p.views.keys().map(move |view| (view.clone(), name.clone()))).collect();
        let pipeline = held.pipelines.entry(self.pipeline.clone()).or_insert_with(|| Pipeline {
            life: Uuid::new_v4(),
            committed_at: NONE,
            archive: Vec::new(),
            archived: None,
            high_watermarks: BTreeMap::new(),
            epoch: 0,
            seq: 0,
            id: Uuid::nil(),
            topic: topic.to_string(),
            topic_id: topic_id.to_string(),
            frontier: NONE,
            checkpoint_seq: 0,
            state_version: String::new(),
            read: 0,
            decoded: 0,
            rejected: 0,
            partitions: BTreeMap::new(),
            views: BTreeMap::new(),
            dead_letters: Vec::new(),
            changes: BTreeMap::new(),
            state: BTreeMap::new(),
        });
        super::same_topic(&self.pipeline, &pipeline.topic, topic)?;
        pipeline.epoch += 1;
        let stored = Stored {
            pipeline_id: pipeline.life.to_string(),
            epoch: pipeline.epoch,
            seq: pipeline.seq,
            frontier: pipeline.frontier,
            topic_id: pipeline.topic_id.clone(),
            checkpoint_seq: pipeline.checkpoint_seq,
            state_version: pipeline.state_version.clone(),
            partitions: pipeline.partitions.values().copied().collect(),
            views: pipeline.views.values().map(|view| view.stored.clone()).collect(),
            elsewhere,
        };
        let writer = MemoryWriter { store: self.store.clone(), pipeline: self.pipeline.clone(), tables: Vec::new() };
        Ok((Box::new(writer), stored))
    }
}

struct MemoryWriter {
    store: MemoryStore,
    pipeline: String,
    tables: Vec<Table>,
}

#[async_trait]
impl Writer for MemoryWriter {
    async fn topic_id(&mut self, epoch: i64) -> Result<String> {
        Ok(self.store.held().owned(&self.pipeline, epoch)?.topic_id.clone())
    }

    async fn begin_partitions(&mut self, epoch: i64, starts: &[(i32, i64)]) -> Result<()> {
        let mut held = self.store.held();
        let pipeline = held.owned(&self.pipeline, epoch)?;
        for (partition, start) in starts {
            pipeline.partitions.insert(*partition, StoredPartition::beginning(*partition, *start));
        }
        Ok(())
    }

    async fn open_archive(&mut self, epoch: i64, archive: bool) -> Result<(i64, Vec<(i32, i64)>)> {
        let mut held = self.store.held();
        let owned = held.owned(&self.pipeline, epoch)?;
        let (seq, partitions) = (owned.seq, owned.partitions.values());
        let now: Vec<(i32, i64)> = partitions.map(|p| (p.partition, p.next_offset)).collect();
        let (last, mut offsets) = owned.archived.take().unwrap_or((seq, now.clone()));
        offsets.extend(
            now.into_iter().filter(|(new, _)| !offsets.iter().any(|(known, _)| known == new)).collect::<Vec<_>>(),
        );
        owned.archived = archive.then(|| (last, offsets.clone()));
        Ok((last, offsets))
    }

    async fn begin_view(&mut self, epoch: i64, start: &ViewStart<'_>) -> Result<()> {
        let mut held = self.store.held();
        let owned = held.owned(&self.pipeline, epoch)?;
        let stored = StoredView {
            view: start.view.to_string(),
            fingerprint: start.fingerprint.to_string(),
            floor: start.floor,
            starts: start.starts.to_vec(),
            pieces: 0,
            absent_since: None,
        };
        let view = View { stored, closed_until: NONE, counts: Counts::default() };
        owned.views.insert(start.view.to_string(), view);
        Ok(())
    }

    async fn set_absent(&mut self, epoch: i64, view: &str, since: Option<i64>) -> Result<()> {
        let mut held = self.store.held();
        if let Some(view) = held.owned(&self.pipeline, epoch)?.views.get_mut(view) {
            view.stored.absent_since = since.map(|since| view.stored.absent_since.unwrap_or(since));
        }
        Ok(())
    }

    async fn open_table(&mut self, table: &Table) -> Result<()> {
        self.tables.push(table.clone());
        let mut held = self.store.held();
        if !held.tables.contains_key(&table.name) {
            let rows = Rows::new(table)?;
            held.tables.insert(table.name.clone(), rows);
        }
        Ok(())
    }

    async fn load_state(&mut self) -> Result<Vec<FoundPiece>> {
        let mut held = self.store.held();
        let pieces =
            held.pipeline(&self.pipeline)?.state.iter().map(|((view, part, window_start, seq), held)| FoundPiece {
                view: view.clone(),
                part: *part,
                window_start: *window_start,
                seq: *seq,
                groups: unpack(held.0, &held.1, &held.2),
            });
        Ok(pieces.collect())
    }

    async fn given_rejects(&mut self, from: &[(i32, i64)]) -> Result<Vec<GivenReject>> {
        let mut held = self.store.held();
        let letters = &held.pipeline(&self.pipeline)?.dead_letters;
        let given = letters.iter().filter(|letter| GIVEN_REASONS.contains(&letter.reason.as_str()));
        let all = given.flat_map(|letter| {
            let (view, partition) = (&letter.view, letter.partition);
            letter.all_offsets().into_iter().map(move |offset| GivenReject { view: view.clone(), partition, offset })
        });
        Ok(all.filter(|r| from.iter().any(|(part, start)| *part == r.partition && r.offset >= *start)).collect())
    }

    async fn commit(&mut self, commit: &Commit, _: Stop<'_>) -> Result<Settled> {
        let mut held = self.store.held();
        let Held { pipelines, tables } = &mut *held;
        let pipeline = pipelines
            .get_mut(&self.pipeline)
            .ok_or_else(|| Error::bug(format!("pipeline {} vanished", self.pipeline)))?;
        if pipeline.epoch != commit.epoch {
            return Err(super::fenced(commit, pipeline.epoch));
        }
        let fits = |pipeline: &Pipeline| {
            let starts = |moved: &super::Move| {
                pipeline.partitions.get(&moved.range.partition).is_some_and(|p| p.next_offset == moved.range.from)
            };
            pipeline.seq + 1 == commit.seq && commit.moves.iter().all(starts)
        };
        if !fits(pipeline) {
            return Ok(if pipeline.id == commit.id { Settled::Committed } else { Settled::Aborted });
        }
        for view in &commit.views {
            let rows = tables.get_mut(&self.tables[view.view].name).ok_or_else(|| Error::bug("a view has no table"))?;
            for keys in &view.write.deletes {
                rows.delete(keys)?;
            }
            for batch in &view.write.upserts {
                rows.upsert(batch)?;
            }
        }
        pipeline.apply(commit, &self.tables);
        Ok(Settled::Committed)
    }
}

impl Pipeline {
    /// What cannot fail.
    fn apply(&mut self, commit: &Commit, tables: &[Table]) {
        (self.seq, self.id, self.frontier) = (commit.seq, commit.id, commit.frontier);
        self.committed_at = clock::wall_us();
        for view in &commit.views {
            let named = |window: &i64| (tables[view.view].name.clone(), *window);
            self.changes.extend(view.windows.iter().map(|window| (named(window), self.committed_at)));
            for window in &view.thinned {
                self.changes.entry(named(window)).and_modify(|at| *at = self.committed_at);
            }
        }
        self.read += commit.read;
        self.decoded += commit.decoded;
        self.rejected += commit.rejected;
        let topic = self.topic.clone();
        self.dead_letters
            .extend(commit.dead_letters.iter().map(|letter| DeadLetterRow::of(letter, &commit.pipeline, &topic)));
        for view in &commit.views {
            let name = &tables[view.view].name;
            if let Some(bound) = view.drop_state_before {
                self.state.retain(|(of, _, start, _), _| of != name || *start >= bound);
            }
            if let Some(held) = self.views.get_mut(name) {
                held.counts += view.counts;
                held.closed_until = commit.frontier;
                held.stored.pieces = view.pieces;
            }
        }
        if let Some(pieces) = &commit.checkpoint {
            (self.checkpoint_seq, self.state_version) = (commit.seq, STATE_VERSION.to_string());
            self.state.retain(|(view, ..), _| !commit.rebuilt.contains(view));
            for piece in pieces {
                let key = |seq| (piece.view.clone(), piece.part, piece.window_start, seq);
                for replaced in &piece.replaces {
                    self.state.remove(&key(*replaced));
                }
                self.state.insert(key(commit.seq), (piece.groups, piece.digest.clone(), piece.data.clone()));
            }
        }
        for moved in &commit.moves {
            if let Some(partition) = self.partitions.get_mut(&moved.range.partition) {
                partition.advance(moved, commit.checkpoint.is_some());
                self.high_watermarks.insert(moved.range.partition, moved.high_watermark);
            }
        }
    }
}
