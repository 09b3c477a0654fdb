//! One run: some recent batches become files of the archive.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use tokio::sync::Mutex;

use super::parquet::make;
use super::{Archive, Archived};
use crate::batch::file_name;
use crate::error::{Error, Result};
use crate::failpoint;
use crate::recent::Keeper;
use crate::settings::ArchiveSettings;
use crate::store::Store;

/// Archives a pipeline that this engine owns.
pub struct Archiver {
    archive: Archive,
    settings: ArchiveSettings,
    store: Arc<dyn Store>,
    keeper: Arc<Keeper>,
    pipeline: String,
    time_column: String,
    epoch: i64,
    /// The last commit that is archived.
    archived: AtomicI64,
    one_at_a_time: Mutex<()>,
}

/// Where an owner begins to archive.
#[derive(Debug)]
pub struct Begin {
    /// Its pipeline.
    pub pipeline: String,
    /// The event time of its source.
    pub time_column: String,
    /// Its epoch.
    pub epoch: i64,
    /// The last commit that is archived.
    pub archived: i64,
}

impl Archiver {
    /// Goes on behind what is archived; first it deletes what was begun and not ended.
    pub async fn begin(
        settings: &ArchiveSettings,
        store: Arc<dyn Store>,
        keeper: Arc<Keeper>,
        begin: Begin,
    ) -> Result<Self> {
        let archive = Archive::open(settings)?;
        let begun = store.archiving(&begin.pipeline).await?;
        for path in &begun {
            archive.delete(path).await?;
        }
        store.forget_archiving(&begin.pipeline, begin.epoch, &begun).await?;
        let Begin { pipeline, time_column, epoch, archived } = begin;
        let (archived, one_at_a_time) = (AtomicI64::new(archived), Mutex::new(()));
        Ok(Self {
            archive,
            settings: settings.clone(),
            store,
            keeper,
            pipeline,
            time_column,
            epoch,
            archived,
            one_at_a_time,
        })
    }

    /// Archives what has become old or large enough, of commits up to `seq`; all of it if it is to be `all`.
    pub async fn run(&self, seq: i64, all: bool) -> Result<()> {
        let Ok(_one) = self.one_at_a_time.try_lock() else { return Ok(()) };
        loop {
            let archived = self.archived.load(Ordering::Relaxed);
            let keeper = self.keeper.clone();
            let (bytes, every_us) = (self.settings.bytes, if all { 0 } else { self.settings.every_us() });
            let time_column = self.time_column.clone();
            let making = move || {
                let Some(due) = keeper.due(archived, seq, bytes, every_us) else { return Ok(None) };
                let rows = keeper.read(&due)?;
                Ok(Some((due.last(), due.until(), make(keeper.schema(), &rows, &time_column)?)))
            };
            let made = tokio::task::spawn_blocking(making).await;
            let Some((last, until, made)) =
                made.unwrap_or_else(|_| Err(Error::bug("making a file of the archive panicked")))?
            else {
                return Ok(());
            };
            let first = archived + 1;
            let file = |made: &super::Made| Archived {
                path: format!(
                    "{}/{}/{first:012}-{last:012}-{:010}.parquet",
                    file_name(&self.pipeline),
                    made.hour,
                    self.epoch
                ),
                first,
                last,
                rows: made.rows as i64,
                bytes: made.bytes.len() as i64,
                times: made.times,
            };
            let files: Vec<Archived> = made.iter().map(file).collect();
            self.store.begin_archiving(&self.pipeline, self.epoch, &files).await?;
            failpoint::hit("archive-begun")?;
            for (file, made) in files.iter().zip(made) {
                self.archive.put(&file.path, made.bytes).await?;
            }
            failpoint::hit("archive-written")?;
            self.store.end_archiving(&self.pipeline, self.epoch, last, &until).await?;
            failpoint::hit("archive-ended")?;
            self.archived.store(last, Ordering::Relaxed);
            self.keeper.archived(last);
            let rows: i64 = files.iter().map(|file| file.rows).sum();
            tracing::info!(pipeline = self.pipeline, files = files.len(), rows, "archived commits {first} to {last}");
        }
    }
}
