//! One run after the other: some recent batches become files of the archive.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use super::parquet::{Made, make};
use super::{Archive, Archived};
use crate::batch::file_name;
use crate::error::{Error, Result};
use crate::failpoint;
use crate::recent::{Due, GONE, Keeper};
use crate::settings::ArchiveSettings;
use crate::store::Store;
use crate::time::clock::Clock;

/// How often it is looked for what earlier owners have begun and not ended.
const DELETE_EVERY: Duration = Duration::from_secs(60);

/// How long an end waits for a run: what comes later of it is not counted, since the next owner has another epoch.
const END_PATIENCE: Duration = Duration::from_secs(3);

/// How long nothing is tried after a run has failed: twice as long each time.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// Archives a pipeline that this engine owns.
pub struct Archiver {
    archive: Archive,
    settings: ArchiveSettings,
    store: Arc<dyn Store>,
    keeper: Arc<Keeper>,
    clock: Clock,
    begin: Begin,
    at_work: Mutex<Work>,
    ending: AtomicBool,
    lost: AtomicBool,
}

/// Where an owner begins to archive.
#[derive(Debug, Clone)]
pub struct Begin {
    /// Its pipeline.
    pub pipeline: String,
    /// Names the pipeline's life.
    pub life: String,
    /// The event time of its source.
    pub time_column: String,
    /// Its epoch.
    pub epoch: i64,
    /// The last commit that is archived.
    pub archived: i64,
    /// The offsets up to which that is.
    pub offsets: Vec<(i32, i64)>,
}

struct Work {
    /// The last commit that is archived, and the offsets up to which that is.
    archived: i64,
    offsets: Vec<(i32, i64)>,
    /// A run that was begun and has not ended: it is tried again as it was.
    pending: Option<Pending>,
    not_before: Instant,
    pause: Duration,
    delete_at: Instant,
}

struct Pending {
    due: Due,
    /// Whether the database names its files.
    named: bool,
    /// Whether its end was asked for, and no answer came.
    unsure: bool,
}

impl Archiver {
    /// Goes on behind what is archived.
    pub fn begin(
        settings: &ArchiveSettings,
        store: Arc<dyn Store>,
        keeper: Arc<Keeper>,
        begin: Begin,
        clock: Clock,
    ) -> Result<Self> {
        let archive = Archive::open(settings)?;
        let (archived, offsets) = (begin.archived, begin.offsets.clone());
        let now = clock.now();
        let work = Work { archived, offsets, pending: None, not_before: now, pause: PAUSE, delete_at: now };
        let (ending, lost) = (AtomicBool::new(false), AtomicBool::new(false));
        let (settings, at_work) = (settings.clone(), Mutex::new(work));
        Ok(Self { archive, settings, store, keeper, clock, begin, at_work, ending, lost })
    }

    /// Archives what has become old or large enough, of commits up to `seq`.
    pub async fn run(&self, seq: i64) -> Result<()> {
        let Ok(mut work) = self.at_work.try_lock() else { return Ok(()) };
        if self.clock.now() < work.not_before {
            return Ok(());
        }
        let ran = self.runs(&mut work, seq).await;
        if ran.as_ref().is_err_and(|error| error.code == GONE) {
            self.lost.store(true, Ordering::Relaxed);
        }
        work.pause = if ran.is_ok() { PAUSE } else { (work.pause * 2).min(PAUSE_MAX) };
        work.not_before = self.clock.now() + if ran.is_ok() { Duration::ZERO } else { work.pause };
        ran
    }

    /// Whether recent batches have gone that were to be archived.
    pub fn has_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }

    /// Lets no run begin any more, and waits for one that is under way, for a while.
    pub async fn end(&self) {
        self.ending.store(true, Ordering::Relaxed);
        if tokio::time::timeout(END_PATIENCE, self.at_work.lock()).await.is_err() {
            tracing::warn!(pipeline = self.begin.pipeline, "a run of the archive does not end; it is not waited for");
        }
    }

    /// An error once this is to end.
    fn goes_on(&self) -> Result<()> {
        if self.ending.load(Ordering::Relaxed) {
            return Err(Error::wait("TG-ARCHIVE", "the engine gives the pipeline up"));
        }
        Ok(())
    }

    async fn runs(&self, work: &mut Work, seq: i64) -> Result<()> {
        self.goes_on()?;
        if self.clock.now() >= work.delete_at {
            work.delete_at = self.clock.now() + DELETE_EVERY;
            self.delete_unended().await?;
        }
        loop {
            self.goes_on()?;
            if work.pending.is_none() {
                let (bytes, every_us) = (self.settings.bytes, self.settings.every_us());
                let due = self.keeper.due(work.archived, &work.offsets, seq, bytes, every_us)?;
                let Some(due) = due else { return Ok(()) };
                work.pending = Some(Pending { due, named: false, unsure: false });
            }
            let Some(pending) = &mut work.pending else { return Ok(()) };
            let (last, until) = (pending.due.last(), pending.due.until());
            let rows = self.one(pending, work.archived + 1).await?;
            tracing::info!(pipeline = self.begin.pipeline, rows, "archived commits {} to {last}", work.archived + 1);
            (work.archived, work.offsets, work.pending) = (last, until, None);
            self.keeper.archived(last);
        }
    }

    /// One run; how many rows.
    async fn one(&self, pending: &mut Pending, first: i64) -> Result<i64> {
        let Begin { pipeline, epoch, .. } = &self.begin;
        let last = pending.due.last();
        if pending.unsure && self.store.archived_until(pipeline).await? == last {
            return Ok(0);
        }
        let (keeper, due, time_column) = (self.keeper.clone(), pending.due.clone(), self.begin.time_column.clone());
        let making = move || make(keeper.schema(), &keeper.read(&due)?, &time_column);
        let made = tokio::task::spawn_blocking(making).await;
        let made = made.unwrap_or_else(|_| Err(Error::bug("making a file of the archive panicked")))?;
        let files: Vec<Archived> = made.iter().map(|made| self.named(made, (first, last))).collect();
        if !pending.named {
            // Tried again they have the same names.
            self.store.begin_archiving(pipeline, *epoch, &files).await?;
            pending.named = true;
        }
        failpoint::hit("archive-begun")?;
        for (file, made) in files.iter().zip(made) {
            self.goes_on()?;
            self.archive.put(&file.path, made.bytes).await?;
        }
        failpoint::hit("archive-written")?;
        pending.unsure = true;
        self.store.end_archiving(pipeline, *epoch, (first, last), &pending.due.until()).await?;
        failpoint::hit("archive-ended")?;
        Ok(files.iter().map(|file| file.rows).sum())
    }

    fn named(&self, made: &Made, (first, last): (i64, i64)) -> Archived {
        let Begin { pipeline, life, epoch, .. } = &self.begin;
        let life: String = life.chars().take(8).collect();
        let (source, hour) = (file_name(pipeline), &made.hour);
        Archived {
            path: format!("{source}/{hour}/{first:012}-{last:012}-{epoch:010}-{life}.parquet"),
            first,
            last,
            rows: made.rows as i64,
            bytes: made.bytes.len() as i64,
            times: made.times,
        }
    }

    /// Deletes what earlier owners have begun and not ended: it cannot become whole any more.
    async fn delete_unended(&self) -> Result<()> {
        let Begin { pipeline, epoch, .. } = &self.begin;
        failpoint::hit("archive-look")?;
        let (mut deleted, begun) = (Vec::new(), self.store.archiving(pipeline, *epoch).await?);
        for path in begun {
            self.goes_on()?;
            match self.archive.delete(&path).await {
                Ok(()) => deleted.push(path),
                // It is in nobody's way.
                Err(error) => tracing::warn!(pipeline, "a file that was not finished stays in the archive: {error}"),
            }
        }
        self.store.forget_archiving(pipeline, *epoch, &deleted).await
    }
}
