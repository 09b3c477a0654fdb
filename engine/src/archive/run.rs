//! One run after the other: some recent batches become files of the archive.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use super::parquet::{Made, make};
use super::{Archive, Archived};
use crate::batch::file_name;
use crate::error::{Error, Result};
use crate::failpoint;
use crate::recent::{Due, Keeper};
use crate::settings::ArchiveSettings;
use crate::store::Store;
use crate::time::clock::Clock;

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
        let work = Work { archived, offsets, pending: None, not_before: clock.now(), pause: PAUSE };
        Ok(Self { archive, settings: settings.clone(), store, keeper, clock, begin, at_work: Mutex::new(work) })
    }

    /// Archives what has become old or large enough, of commits up to `seq`.
    pub async fn run(&self, seq: i64) -> Result<()> {
        let Ok(mut work) = self.at_work.try_lock() else { return Ok(()) };
        if self.clock.now() < work.not_before {
            return Ok(());
        }
        let ran = self.runs(&mut work, seq).await;
        work.pause = if ran.is_ok() { PAUSE } else { (work.pause * 2).min(PAUSE_MAX) };
        work.not_before = self.clock.now() + if ran.is_ok() { Duration::ZERO } else { work.pause };
        ran
    }

    /// Waits until no run is under way any more, and none will be.
    pub async fn end(&self) {
        let mut work = self.at_work.lock().await;
        work.not_before += Duration::from_secs(365 * 86_400);
    }

    async fn runs(&self, work: &mut Work, seq: i64) -> Result<()> {
        self.delete_unended(work).await?;
        loop {
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

    /// Deletes what earlier owners have begun and not ended.
    async fn delete_unended(&self, work: &Work) -> Result<()> {
        if work.pending.is_some() {
            return Ok(());
        }
        let begun = self.store.archiving(&self.begin.pipeline).await?;
        if begun.is_empty() {
            return Ok(());
        }
        for path in &begun {
            self.archive.delete(path).await?;
        }
        self.store.forget_archiving(&self.begin.pipeline, self.begin.epoch, &begun).await
    }
}
