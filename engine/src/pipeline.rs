//! One source's loop, from top to bottom as the data flows.
//!
//! ```text
//!   gather: read ─ decode ─ stamp watermarks          while the last commit is under way
//!   settle: what became of the last commit?           aborted: drop memory, recover
//!   aggregate: views absorb the rows, windows close
//!   send: one commit with everything                  goes on by itself; gather the next
//! ```
//!
//! Memory runs ahead of the database by one epoch at most, and only by what gather does: views change only when the
//! commit before is known to be there. Whatever does not fit ends in `Ended::Recover`, never in a partial roll-back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::archive::Archiver;
use crate::batch::{OffsetRange, Record, Reject};
use crate::decode::{CHUNK_RECORDS_MAX, Decoder, Future};
use crate::error::{Error, Kind, Result};
use crate::failpoint;
use crate::log::{Event, Log, Messages, Reader};
use crate::metrics::{CommitTimes, EpochSize, PipelineMetrics};
use crate::recent::Keeper;
use crate::recovery;
use crate::settings::{ArchiveSettings, RecentSettings, Settings};
use crate::sink::Write;
use crate::sql::{PlannedSource, PlannedView};
use crate::store::pieces::pack;
use crate::store::{Commit, Expired, Move, Settled, Store, ViewCommit, Writer, dead_letters};
use crate::time::clock::Clock;
use crate::time::{self, Quiet, Watermarks};
use crate::view::{End, Needs, View};

/// How long a read waits for the first record of an epoch.
const FIRST_RECORD_WAIT: Duration = Duration::from_millis(20);

/// How often the topic is compared with what we hold of it.
const VERIFY_EVERY: Duration = Duration::from_secs(30);

/// How often rows of long closed windows are looked for, and how many go at a time.
const EXPIRE_EVERY: Duration = Duration::from_secs(60);
const EXPIRE_ROWS_MAX: usize = 10_000;

/// How often people are told how far it is behind.
const TELL_EVERY: Duration = Duration::from_millis(500);

/// How long a commit waits for its recent batch.
const RECENT_PATIENCE: Duration = Duration::from_secs(1);

/// And where it is to be archived.
const ARCHIVE_PATIENCE: Duration = Duration::from_secs(60);

/// A source with its views, and what they need to run.
pub struct Pipeline {
    /// The source.
    pub source: PlannedSource,
    /// Its views.
    pub views: Vec<Arc<PlannedView>>,
    /// What the operator tunes.
    pub settings: Settings,
    /// Where the topics are.
    pub log: Arc<dyn Log>,
    /// The database.
    pub store: Arc<dyn Store>,
    /// What decisions go by.
    pub clock: Clock,
    /// Where the asynchronous part runs.
    pub runtime: Handle,
    /// Set once the process shall end.
    pub stop: Arc<AtomicBool>,
    /// End once everything that was there at the start is committed.
    pub until_caught_up: bool,
    /// What people see of it.
    pub metrics: PipelineMetrics,
    /// How recent batches are kept, if they are.
    pub recent: Option<RecentSettings>,
    /// Where sources are archived that want it.
    pub archive: Option<ArchiveSettings>,
}

/// How a run of the loop ended.
enum Ended {
    /// On purpose.
    Stopped,
    /// Memory does not fit the database.
    Recover,
}

/// A partition as the loop sees it.
#[derive(Debug, Clone, Copy)]
pub struct Partition {
    /// Its number.
    pub id: i32,
    /// Up to here its records are committed, or in the commit under way.
    pub committed: i64,
    /// Up to here they are read.
    pub position: i64,
    /// What the database has of it besides.
    pub stored: (bool, i64),
    /// Its silence.
    pub quiet: Quiet,
    /// Whether it is read to its end.
    pub at_end: bool,
    /// Whether it waits for slower ones.
    pub paused: bool,
    /// With `until_caught_up`: where it may end.
    pub target: i64,
}

/// Everything that a running pipeline holds. Dropped whole when it does not fit the database.
pub struct Running {
    /// Reads the topic.
    pub reader: Box<dyn Reader>,
    /// Makes rows of it.
    pub decoder: Decoder,
    /// The watermarks, as far as records are read.
    pub watermarks: Watermarks,
    /// The views, as far as records are committed.
    pub views: Vec<View>,
    /// The partitions, by number.
    pub partitions: Vec<Partition>,
    /// The frontier.
    pub frontier: i64,
    /// The epoch that we own.
    pub owned: i64,
    /// The last commit.
    pub seq: i64,
    /// When windows of several panes were published.
    pub emitted_at: Instant,
    /// Views whose state in the database is of no use.
    pub rebuilt: Vec<String>,
    /// What the next checkpoint will save.
    pub unsaved: Unsaved,
    /// Writes recent batches, where there are any.
    pub keeper: Option<Arc<Keeper>>,
    /// Archives them.
    pub archiver: Option<Arc<Archiver>>,
    /// The writer, unless a commit is under way.
    pub writer: Option<Box<dyn Writer>>,
}

/// What commits have done since the last checkpoint.
#[derive(Debug)]
pub struct Unsaved {
    since: Instant,
    commits: i64,
    records: i64,
}

impl Unsaved {
    /// As of a checkpoint; `records` are behind it already.
    pub fn new(now: Instant, records: i64) -> Self {
        Self { since: now, commits: i64::from(records > 0), records }
    }
}

/// A commit under way.
pub type InFlight = JoinHandle<(Box<dyn Writer>, Result<Settled>)>;

/// What was gathered for one epoch.
pub struct Epoch {
    rows: Arc<Vec<RecordBatch>>,
    rejects: Vec<Reject>,
    read: i64,
    bytes: usize,
    since: Option<Instant>,
    /// How long its records took to become rows.
    decode: Duration,
    /// When the newest of them was written to Kafka, in microseconds.
    newest: i64,
}

impl Default for Epoch {
    fn default() -> Self {
        let (rows, rejects) = (Arc::default(), Vec::new());
        Self { rows, rejects, read: 0, bytes: 0, since: None, decode: Duration::ZERO, newest: time::NONE }
    }
}

impl Pipeline {
    /// Runs until told to stop, or until something needs a person.
    pub fn run(&self) -> Result<()> {
        let name = &self.source.source.name;
        let mut pause = Duration::from_millis(100);
        while !self.stopped() {
            let ended = self.own();
            self.metrics.ready.set(0);
            self.metrics.standby.set(0);
            match ended {
                Ok(()) => return Ok(()),
                Err(error) if error.kind == Kind::Fenced => {
                    self.metrics.let_go();
                    tracing::error!(pipeline = name, "{error}; standing by");
                }
                Err(error) if error.kind == Kind::Wait => {
                    tracing::warn!(pipeline = name, "{error}; trying again");
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(Duration::from_secs(2));
                    continue;
                }
                Err(error) => return Err(error),
            }
            pause = Duration::from_millis(100);
        }
        Ok(())
    }

    /// Whether the process shall end.
    pub fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn own(&self) -> Result<()> {
        let name = &self.source.source.name;
        self.runtime.block_on(self.store.migrate())?;
        self.metrics.standby.set(1);
        let Some(lease) = self.runtime.block_on(self.store.lease(name, &|| self.stopped()))? else {
            return Ok(());
        };
        self.metrics.standby.set(0);
        loop {
            let mut running = recovery::recover(self, lease.as_ref())?;
            self.metrics.recoveries.inc();
            for moved in moves(&running, true) {
                self.metrics.partition(moved.range.partition, &moved);
            }
            self.metrics.ready.set(1);
            let ended = self.work(&mut running);
            if let Some(archiver) = running.archiver.take() {
                self.runtime.block_on(archiver.end());
            }
            if let Some(keeper) = running.keeper.take() {
                keeper.end();
            }
            match ended? {
                Ended::Stopped => return Ok(()),
                Ended::Recover => {
                    tracing::warn!(pipeline = name, "memory does not fit the database any more; recovering from it")
                }
            }
        }
    }

    fn work(&self, running: &mut Running) -> Result<Ended> {
        let mut in_flight: Option<InFlight> = None;
        let (mut verified_at, mut expired_at) = (self.clock.now(), self.clock.now());
        let mut told_at: Option<Instant> = None;
        let mut expiring: Option<JoinHandle<()>> = None;
        let mut ending = false;
        loop {
            // Once it is to end nothing more is read, however fast the topic grows.
            ending |= self.caught_up(running);
            let epoch = if ending { Epoch::default() } else { self.gather(running, in_flight.as_ref())? };
            ending |= self.stopped();
            if let Some(commit) = in_flight.take()
                && self.settle(running, commit)? == Settled::Aborted
            {
                return Ok(Ended::Recover);
            }
            self.tend(running);
            if told_at.is_none_or(|told| self.clock.now().duration_since(told) > TELL_EVERY) {
                told_at = Some(self.clock.now());
                self.tell(running);
            }
            if running.archiver.as_ref().is_some_and(|archiver| archiver.has_lost()) {
                return Err(Error::wait("TG-RECENT-GONE", "recent batches that are to be archived have gone")
                    .hint("they are read from Kafka once more"));
            }
            let expired = expiring.as_ref().is_none_or(JoinHandle::is_finished);
            if expired && self.clock.now().duration_since(expired_at) > EXPIRE_EVERY {
                expired_at = self.clock.now();
                let (name, expire) = (self.source.source.name.clone(), self.expire(running.frontier));
                expiring = Some(self.runtime.spawn(async move {
                    if let Err(error) = expire.await {
                        tracing::warn!(pipeline = name, "retention: {error}; trying again in {EXPIRE_EVERY:?}");
                    }
                }));
            }
            if self.clock.now().duration_since(verified_at) > VERIFY_EVERY {
                verified_at = self.clock.now();
                recovery::verify(self, running)?;
            }
            // The last commit before an end carries the state, so that the next start has nothing to replay.
            in_flight = self.turn(running, epoch, ending)?;
            if in_flight.is_none() && ending {
                failpoint::hit("shutdown")?;
                self.tell_digest(running)?;
                return Ok(Ended::Stopped);
            }
        }
    }

    /// Has old and small recent batches looked after, if it is time to; no commit is under way.
    fn tend(&self, running: &Running) {
        let Some(keeper) = running.keeper.clone().filter(|keeper| keeper.is_due()) else { return };
        let (seq, metrics, archiver) = (running.seq, self.metrics.clone(), running.archiver.clone());
        self.runtime.spawn(async move {
            if let Some(archiver) = archiver
                && let Err(error) = archiver.run(seq).await
            {
                metrics.recent_failed();
                tracing::warn!("archiving: {error}; trying again");
            }
        });
        let metrics = self.metrics.clone();
        self.runtime.spawn_blocking(move || {
            if let Err(error) = keeper.tidy(seq) {
                metrics.recent_failed();
                tracing::warn!("recent batches are not merged: {error}");
            }
            metrics.recent_bytes(keeper.bytes());
        });
    }

    /// Tells people how far it is behind, and what the views hold.
    fn tell(&self, running: &Running) {
        self.metrics.lag(running.partitions.iter().map(|p| {
            let end = running.reader.high_watermark(p.id).unwrap_or(0).max(p.position);
            (p.id, end - p.committed)
        }));
        for view in &running.views {
            self.metrics.state(&view.plan().name, view.panes(), view.size());
        }
    }

    /// Waits for the commit under way.
    pub fn settle(&self, running: &mut Running, commit: InFlight) -> Result<Settled> {
        let (writer, settled) =
            self.runtime.block_on(commit).map_err(|error| Error::bug(format!("the commit's task ended: {error}")))?;
        running.writer = Some(writer);
        let settled = settled?;
        if settled == Settled::Committed {
            failpoint::hit("memory-advanced")?;
        }
        Ok(settled)
    }

    /// Turns what was gathered into a commit and sends it off; none if nothing has changed.
    pub fn turn(&self, running: &mut Running, epoch: Epoch, checkpoint: bool) -> Result<Option<InFlight>> {
        self.decide_idle(running);
        running.unsaved.records += epoch.read;
        let checkpoint = checkpoint || self.checkpoint_is_due(running);
        let (rows, newest) = (epoch.rows.clone(), epoch.newest);
        let Some(commit) = self.aggregate(running, epoch, checkpoint)? else { return Ok(None) };
        let in_flight = self.send(running, commit, rows, newest)?;
        self.balance(running)?;
        Ok(Some(in_flight))
    }

    fn checkpoint_is_due(&self, running: &Running) -> bool {
        let settings = &self.settings.engine;
        !running.rebuilt.is_empty()
            || running.unsaved.records >= settings.checkpoint_records_max
            || self.clock.now().duration_since(running.unsaved.since) >= settings.checkpoint_interval()
    }

    /// Reads and decodes everything that is there now.
    pub fn drain(&self, running: &mut Running, epoch: &mut Epoch) -> Result<()> {
        loop {
            let messages = running.reader.read(Duration::ZERO, CHUNK_RECORDS_MAX)?;
            if messages.is_empty() {
                return Ok(());
            }
            self.take(running, messages.as_ref(), epoch)?;
        }
    }

    fn caught_up(&self, running: &Running) -> bool {
        self.until_caught_up && running.partitions.iter().all(|p| p.committed >= p.target)
    }

    /// Reads and decodes until the epoch's time is over and the commit under way has ended, or the epoch is full.
    fn gather(&self, running: &mut Running, in_flight: Option<&InFlight>) -> Result<Epoch> {
        let settings = &self.settings.engine;
        let mut epoch = Epoch::default();
        loop {
            let landed = in_flight.is_none_or(JoinHandle::is_finished);
            let full = epoch.read as usize >= settings.epoch_records_max || epoch.bytes >= settings.epoch_bytes_max;
            if full || self.stopped() {
                return Ok(epoch);
            }
            let messages = match epoch.since {
                // For the first record a short wait with room for one: the call waits for a full buffer.
                None => running.reader.read(if landed { FIRST_RECORD_WAIT } else { Duration::from_millis(2) }, 1)?,
                Some(since) => {
                    let left = settings.epoch().saturating_sub(self.clock.now().duration_since(since));
                    if left.is_zero() && landed {
                        return Ok(epoch);
                    }
                    let wait =
                        if left.is_zero() { Duration::from_millis(1) } else { left.min(Duration::from_millis(10)) };
                    running.reader.read(wait, CHUNK_RECORDS_MAX)?
                }
            };
            if !messages.is_empty() {
                self.take(running, messages.as_ref(), &mut epoch)?;
            } else if epoch.since.is_none() && landed {
                return Ok(epoch);
            }
        }
    }

    /// Decodes what was read.
    fn take(&self, running: &mut Running, messages: &dyn Messages, epoch: &mut Epoch) -> Result<()> {
        let mut records: Vec<Record<'_>> = Vec::with_capacity(messages.len());
        for event in messages.events() {
            match event {
                Event::Record(record) => {
                    let partition = partition(&mut running.partitions, record.partition)?;
                    if record.offset < partition.position {
                        return Err(Error::bug(format!(
                            "offset {} of partition {} was read before",
                            record.offset, record.partition
                        )));
                    }
                    partition.position = record.offset + 1;
                    partition.at_end = false;
                    partition.quiet.woken();
                    epoch.newest = epoch.newest.max(record.timestamp_us.unwrap_or(time::NONE));
                    epoch.bytes += record.payload.map_or(0, <[u8]>::len);
                    records.push(record);
                }
                Event::End { partition: id, offset } => {
                    let partition = partition(&mut running.partitions, id)?;
                    // Markers of transactions have offsets and are no records: the end may lie behind the last one.
                    partition.position = partition.position.max(offset);
                    partition.at_end = true;
                    partition.quiet.at_end(self.clock.now());
                }
                Event::Failed { partition, why } => return Err(self.unreadable(running, partition, &why)),
            }
        }
        failpoint::hit("read")?;
        if records.is_empty() {
            return Ok(());
        }
        let started = self.clock.now();
        epoch.since.get_or_insert(started);
        epoch.read += records.len() as i64;
        let decoded = running.decoder.decode(&records, Future::Judge { wall_us: self.clock.wall_us() })?;
        epoch.rejects.extend(decoded.rejects);
        if let Some(rows) = decoded.rows {
            Arc::make_mut(&mut epoch.rows).push(running.watermarks.stamp(
                rows,
                running.decoder.time_column(),
                &self.source.schema,
            )?);
        }
        epoch.decode += self.clock.now().duration_since(started);
        failpoint::hit("decoded")
    }

    /// What to say when a partition cannot be read.
    fn unreadable(&self, running: &mut Running, partition: i32, why: &str) -> Error {
        if let Err(named) = recovery::verify(self, running)
            && named.kind != Kind::Wait
        {
            return named;
        }
        let source = &self.source.source;
        Error::wait(
            "TG-KAFKA-READ",
            format!("source {}: partition {partition} of {} cannot be read: {why}", source.name, source.options.topic),
        )
    }

    /// Takes quiet partitions out of the frontier, once the broker confirms that there is nothing to read.
    fn decide_idle(&self, running: &mut Running) {
        let timeout = self.source.source.options.idle_timeout;
        for partition in &mut running.partitions {
            if !partition.paused && partition.quiet.is_due(self.clock.now(), timeout) {
                match running.reader.bounds(partition.id) {
                    Ok(bounds) if bounds.high <= partition.position => partition.quiet.decide(),
                    // An open transaction, or a broker that does not answer: silence that says nothing.
                    Ok(_) => partition.quiet.not_confirmed(self.clock.now()),
                    Err(error) => {
                        tracing::debug!(pipeline = self.source.source.name, "{error}; asking again");
                        partition.quiet.not_confirmed(self.clock.now());
                    }
                }
            }
        }
    }

    /// Lets views absorb the epoch and builds its commit; none if nothing has changed.
    fn aggregate(&self, running: &mut Running, mut epoch: Epoch, checkpoint: bool) -> Result<Option<Commit>> {
        let started = self.clock.now();
        let decoded: usize = epoch.rows.iter().map(RecordBatch::num_rows).sum();
        let rejected = epoch.rejects.len();
        for rows in epoch.rows.iter() {
            for view in &mut running.views {
                view.absorb(rows, running.frontier, Some(&mut epoch.rejects))?;
            }
        }
        let marks = running.partitions.iter().map(|p| (running.watermarks.of(p.id), !p.quiet.is_idle()));
        let frontier = time::frontier(running.frontier, marks.clone());
        let greatest = time::greatest(marks.map(|(mark, _)| mark), self.source.source.bound_us);
        // What is committed last before an end must not wait for a next time.
        let emit =
            checkpoint || self.clock.now().duration_since(running.emitted_at) >= self.settings.engine.emit_every();
        let moved = running.partitions.iter().any(|p| p.position != p.committed || p.quiet.is_idle() != p.stored.0);
        let waiting = emit && running.views.iter().any(View::is_waiting);
        // A topic may fall silent for longer than it keeps its records: what was committed last must not need them.
        let unsaved = checkpoint && running.unsaved.commits > 0;
        if !moved && !waiting && !unsaved && frontier == running.frontier {
            return Ok(None);
        }
        if emit {
            running.emitted_at = self.clock.now();
        }
        let seq = running.seq + 1;
        let mut views = Vec::new();
        for (index, view) in running.views.iter_mut().enumerate() {
            let outcome = view.finish(End { seq, frontier, greatest, emit })?;
            let write = match outcome.changes {
                Some(changes) => Write::new(&view.plan().table, changes)?,
                None => Write::default(),
            };
            let (counts, drop_state_before) = (outcome.counts, outcome.drop_state_before);
            self.metrics.view(&view.plan().name, outcome.closed, outcome.evaluated);
            if counts != Default::default() || write.rows() > 0 || frontier != running.frontier || checkpoint {
                let (windows, thinned) = match view.plan().window_column() {
                    Some((column, _)) => write.times(&view.plan().table, column)?,
                    None => Default::default(),
                };
                views.push(ViewCommit { view: index, counts, write, windows, thinned, drop_state_before, pieces: 0 });
            }
        }
        failpoint::hit("aggregated")?;
        let pieces =
            if checkpoint { Some(checkpoint_pieces(&mut running.views, seq, &running.rebuilt)?) } else { None };
        for view in &mut views {
            view.pieces = running.views[view.view].pieces();
        }
        let moves = moves(running, checkpoint);
        let size = EpochSize {
            read: epoch.read,
            decoded: decoded as i64,
            rejected: rejected as i64,
            bytes: epoch.bytes,
            decode: epoch.decode,
            aggregate: self.clock.now().duration_since(started),
        };
        self.metrics.epoch(size, frontier);
        Ok(Some(Commit {
            pipeline: self.source.source.name.clone(),
            epoch: running.owned,
            seq,
            id: Uuid::new_v4(),
            moves,
            frontier,
            read: epoch.read,
            decoded: decoded as i64,
            rejected: rejected as i64,
            views,
            dead_letters: dead_letters::fold(epoch.rejects),
            checkpoint: pieces,
            rebuilt: if checkpoint { running.rebuilt.clone() } else { Vec::new() },
        }))
    }

    /// Sends a commit off, behind the recent batch of its rows, the newest of which was written to Kafka then; memory is what
    /// it will be once it has landed.
    fn send(
        &self,
        running: &mut Running,
        commit: Commit,
        rows: Arc<Vec<RecordBatch>>,
        newest: i64,
    ) -> Result<InFlight> {
        let all = running.partitions.iter();
        let ranges = all.map(|p| OffsetRange { partition: p.id, from: p.committed, until: p.position }).collect();
        let archiver = running.archiver.clone();
        let batch = running.keeper.clone().map(|keeper| RecentBatch { keeper, archiver, ranges, rows });
        running.seq = commit.seq;
        running.frontier = commit.frontier;
        if commit.checkpoint.is_some() {
            running.rebuilt.clear();
            running.unsaved = Unsaved::new(self.clock.now(), 0);
        } else {
            running.unsaved.commits += 1;
        }
        for moved in &commit.moves {
            let partition = partition(&mut running.partitions, moved.range.partition)?;
            partition.committed = moved.range.until;
            partition.stored = (moved.idle, moved.rebuild_from);
        }
        let mut writer = running.writer.take().ok_or_else(|| Error::bug("two commits at once"))?;
        let (stop, metrics, clock) = (self.stop.clone(), self.metrics.clone(), self.clock.clone());
        let names: Vec<String> = self.views.iter().map(|view| view.name.clone()).collect();
        Ok(self.runtime.spawn(async move {
            let started = clock.now();
            if let Some(batch) = &batch {
                // What is not written is not archived: then it is not committed either.
                if let Err(error) = batch.write(&commit, &metrics).await {
                    return (writer, Err(error));
                }
            }
            let recent = clock.now().duration_since(started);
            let settled = writer.commit(&commit, &|| stop.load(Ordering::Relaxed)).await;
            if matches!(settled, Ok(Settled::Committed)) {
                let whole = clock.now().duration_since(started);
                metrics.committed(CommitTimes { whole, recent, newest }, &commit, &names);
            }
            (writer, settled)
        }))
    }

    /// Pauses partitions that lead too far, so that catching up opens few windows. Those at their end hold nobody up.
    fn balance(&self, running: &mut Running) -> Result<()> {
        let drift = i64::try_from(self.source.source.options.max_drift.as_micros()).unwrap_or(i64::MAX);
        let marks =
            running.partitions.iter().filter(|p| !p.quiet.is_idle() && !p.at_end).map(|p| running.watermarks.of(p.id));
        let slowest = marks.min().unwrap_or(time::NONE);
        let (mut pause, mut resume) = (Vec::new(), Vec::new());
        for partition in &mut running.partitions {
            let leads = slowest != time::NONE && running.watermarks.of(partition.id) > slowest.saturating_add(drift);
            // At its end it must not be paused: the client counts the end as a record that was read, and would resume
            // behind the next one (docs/decisions/0005-batch-consumption.md).
            if leads != partition.paused && !(leads && partition.at_end) {
                partition.paused = leads;
                partition.quiet.not_polled();
                if leads { &mut pause } else { &mut resume }.push(partition.id);
            }
        }
        if !pause.is_empty() {
            running.reader.pause(&pause, true)?;
        }
        if !resume.is_empty() {
            running.reader.pause(&resume, false)?;
        }
        Ok(())
    }

    /// Deletes rows of windows that ended longer ago than their view's retention, in slices and outside of commits:
    /// the windows are closed, so nobody will write them again.
    pub fn expire(&self, frontier: i64) -> impl std::future::Future<Output = Result<()>> + Send + use<> {
        let (store, views, stop) = (self.store.clone(), self.views.clone(), self.stop.clone());
        async move {
            for view in &views {
                let Some(retention) = view.retention.as_ref().filter(|_| frontier != time::NONE) else { continue };
                let until = frontier.saturating_sub(retention.behind_us);
                let expired = Expired { column: &retention.column, until, rows_max: EXPIRE_ROWS_MAX };
                while store.expire(&view.table, expired).await? == EXPIRE_ROWS_MAX as u64
                    && !stop.load(Ordering::Relaxed)
                {}
            }
            Ok(())
        }
    }

    /// Writes the digest of what is open into the log.
    pub fn tell_digest(&self, running: &Running) -> Result<()> {
        let digest = running.digest()?;
        tracing::info!(pipeline = self.source.source.name, seq = running.seq, "state digest={digest}");
        Ok(())
    }
}

impl Running {
    /// A digest of what is open: equal states have equal digests, however they came to be.
    pub fn digest(&self) -> Result<String> {
        let mut hasher = blake3::Hasher::new();
        for view in &self.views {
            view.digest(&mut hasher)?;
        }
        Ok(hasher.finalize().to_hex().to_string())
    }
}

/// The rows of a commit, for those who ask about them.
struct RecentBatch {
    keeper: Arc<Keeper>,
    archiver: Option<Arc<Archiver>>,
    ranges: Vec<OffsetRange>,
    rows: Arc<Vec<RecordBatch>>,
}

impl RecentBatch {
    /// Writes them, before the commit. Without an archive it is no reason to stop if that fails: readers are told that
    /// there are none.
    async fn write(&self, commit: &Commit, metrics: &PipelineMetrics) -> Result<()> {
        if self.ranges.iter().all(|range| range.from == range.until) {
            return Ok(());
        }
        let (keeper, ranges, rows, seq) = (self.keeper.clone(), self.ranges.clone(), self.rows.clone(), commit.seq);
        let writing = tokio::task::spawn_blocking(move || keeper.write(seq, &ranges, &rows));
        let patience = if self.archiver.is_some() { ARCHIVE_PATIENCE } else { RECENT_PATIENCE };
        let why = match tokio::time::timeout(patience, writing).await {
            Ok(Ok(Ok(()))) => return Ok(()),
            Ok(Ok(Err(error))) => error,
            Ok(Err(_)) => Error::bug("writing a recent batch panicked"),
            Err(_) => Error::wait("TG-RECENT-DISK", format!("a recent batch was not written within {patience:?}")),
        };
        metrics.recent_failed();
        if self.archiver.is_some() {
            return Err(why);
        }
        tracing::warn!(pipeline = commit.pipeline, seq, "{why}; there are none until it takes them again");
        let keeper = self.keeper.clone();
        tokio::task::spawn_blocking(move || keeper.give_up());
        Ok(())
    }
}

fn checkpoint_pieces(views: &mut [View], seq: i64, rebuilt: &[String]) -> Result<Vec<crate::store::StatePiece>> {
    let mut pieces = Vec::new();
    for view in views {
        let name = view.plan().name.clone();
        if rebuilt.contains(&name) {
            view.forget_pieces();
        }
        for piece in view.checkpoint(seq)? {
            pieces.push(pack(&name, piece.part, piece.window_start, &piece.groups, piece.replaces)?);
        }
    }
    Ok(pieces)
}

/// The partitions of which anything has changed; all of them with a checkpoint.
fn moves(running: &Running, checkpoint: bool) -> Vec<Move> {
    let mut needs = Needs::new();
    for view in &running.views {
        view.needs(&mut needs);
    }
    let mut moves = Vec::new();
    for partition in &running.partitions {
        let watermark = running.watermarks.of(partition.id);
        let (rebuild_from, rebuild_watermark) =
            needs.get(&partition.id).copied().unwrap_or((partition.position, watermark));
        let idle = partition.quiet.is_idle();
        if checkpoint || partition.position != partition.committed || (idle, rebuild_from) != partition.stored {
            moves.push(Move {
                range: OffsetRange { partition: partition.id, from: partition.committed, until: partition.position },
                watermark,
                idle,
                rebuild_from,
                rebuild_watermark,
                high_watermark: running.reader.high_watermark(partition.id).unwrap_or(0).max(partition.position),
            });
        }
    }
    moves
}

fn partition(partitions: &mut [Partition], id: i32) -> Result<&mut Partition> {
    let count = partitions.len();
    usize::try_from(id)
        .ok()
        .and_then(|index| partitions.get_mut(index))
        .ok_or_else(|| Error::bug(format!("partition {id} is not among {count}")))
}
