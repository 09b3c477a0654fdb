//! The archive: what a source has decoded, for good, as Parquet on a path or in an S3-compatible store.
//!
//! ```text
//!  <archive.url>/<source>/date=2026-01-31/hour=07/000000000041-000000000960-0000000007.parquet
//!                                                  └ what commits 41 to 960 read of that hour of event time, by the owner of epoch 7
//! ```
//!
//! Recent batches become files of the archive before they go. The database names a file before it is written, and says
//! when it is whole; together with that `archived_offset` of each partition moves on. So a crash leaves nothing that
//! is counted twice: the next owner deletes what was begun and not ended, and begins where the database says, from its recent
//! batches or, where it has none, from Kafka.

mod files;
mod parquet;
mod refill;
mod run;

pub use files::{Files, ReadOnly};
pub use parquet::Made;
pub use refill::refill;
pub use run::{Archiver, Begin};

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::Path as FilePath;
use std::sync::Arc;

use bytes::Bytes;
use object_store::aws::AmazonS3ConfigKey;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{ObjectStore, ObjectStoreExt, parse_url_opts};
use serde::{Deserialize, Serialize};
use url::Url;

use crate::error::{Error, Result};
use crate::settings::ArchiveSettings;

/// A file of the archive, as the database names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Archived {
    /// Below the archive's address.
    pub path: String,
    /// The first commit whose rows it may hold.
    pub first: i64,
    /// The last one.
    pub last: i64,
    /// How many rows.
    pub rows: i64,
    /// How many bytes.
    pub bytes: i64,
    /// The least and the greatest event time, in microseconds.
    pub times: (i64, i64),
}

/// Where files of the archive are.
#[derive(Clone)]
pub struct Archive {
    store: Arc<dyn ObjectStore>,
}

impl fmt::Debug for Archive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Its own text may hold credentials.
        f.write_str("Archive")
    }
}

impl Archive {
    /// The one that the settings name; credentials also come from the variables `AWS_…`.
    pub fn open(settings: &ArchiveSettings) -> Result<Self> {
        let refuse = |why: String| {
            Error::configuration("TG-ARCHIVE", format!("archive.url {:?}: {why}", settings.url))
                .hint("name a folder, or s3://bucket/path with archive.options or AWS_… variables")
        };
        if !settings.url.contains("://") {
            std::fs::create_dir_all(&settings.url).map_err(|error| refuse(error.to_string()))?;
            let path = FilePath::new(&settings.url);
            let store = LocalFileSystem::new_with_prefix(path).map_err(|error| refuse(error.to_string()))?;
            return Ok(Self { store: Arc::new(store.with_automatic_cleanup(true)) });
        }
        let url = Url::parse(&settings.url).map_err(|error| refuse(error.to_string()))?;
        if !matches!(url.scheme(), "s3" | "s3a") {
            return Err(refuse(format!("{}:// is not supported", url.scheme())));
        }
        if let Some(unknown) = settings.options.keys().find(|name| name.parse::<AmazonS3ConfigKey>().is_err()) {
            return Err(refuse(format!("there is no option {unknown}")));
        }
        let of_environment = std::env::vars().filter(|(name, _)| name.starts_with("AWS_"));
        let options: BTreeMap<String, String> =
            of_environment.map(|(name, value)| (name.to_lowercase(), value)).chain(settings.options.clone()).collect();
        // What it says may quote an option.
        let (store, path) =
            parse_url_opts(&url, options).map_err(|_| refuse("its options are not right".to_string()))?;
        Ok(Self { store: Arc::new(PrefixStore::new(store, path)) })
    }

    /// Writes a file, whole or not at all.
    pub async fn put(&self, path: &str, bytes: Bytes) -> Result<()> {
        self.store.put(&location(path)?, bytes.into()).await.map(drop).map_err(|error| unanswered("written", &error))
    }

    /// Deletes a file; one that is not there is deleted already.
    pub async fn delete(&self, path: &str) -> Result<()> {
        match self.store.delete(&location(path)?).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(unanswered("deleted", &error)),
        }
    }

    /// Parts of a file.
    pub async fn parts(&self, path: &str, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.store.get_ranges(&location(path)?, ranges).await.map_err(|error| unanswered("read", &error))
    }
}

fn location(path: &str) -> Result<Path> {
    Path::parse(path).map_err(|_| Error::bug("a file of the archive has an odd name"))
}

/// The store has failed; what it says in full may name a host or a path, and goes to the log.
fn unanswered(what: &str, error: &object_store::Error) -> Error {
    tracing::warn!("archive: {error}");
    Error::wait("TG-ARCHIVE", format!("a file of the archive could not be {what}"))
        .hint("the log says why; is archive.url right, and may we write there?")
}
