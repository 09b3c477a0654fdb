//! The archive: what a source has decoded, for good, as Parquet on a path or in an S3-compatible store.
//!
//! ```text
//!  <archive.url>/<source>/date=2026-01-31/hour=07/000000000041-000000000960-0000000007-3fa85f64.parquet
//!                                                  └ what commits 41 to 960 read of that hour of event time, by the owner of epoch 7, in
//!                                                    this life of the pipeline
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
use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use object_store::aws::AmazonS3ConfigKey;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{ObjectStore, ObjectStoreExt, parse_url_opts};
use serde::{Deserialize, Serialize};
use url::{Host, Url};

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

/// What of an archive lies before a commit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Before {
    /// The last commit of the last run that begins before it; none where none does.
    pub until: Option<i64>,
    /// The offsets up to which it reaches, by partition, if nothing is archived behind it.
    pub offsets: Option<Vec<(i32, i64)>>,
    /// Those of its files that may hold rows of the event times that were asked for, both included.
    pub files: Vec<Archived>,
}

/// The most files of an archive that one query reads.
pub const FILES_MAX: usize = 10_000;

/// Refuses a question that reads too many.
pub fn check_files(source: &str, files: usize) -> Result<()> {
    if files <= FILES_MAX {
        return Ok(());
    }
    let why = format!("the question reads more than {FILES_MAX} files of the archive of {source}");
    Err(Error::query("TG-SCAN-FILES", why).hint("narrow it by a condition on the event time"))
}

/// Where files of the archive are.
#[derive(Clone)]
pub enum Archive {
    /// A folder of this machine; it need not be there now.
    Folder(PathBuf),
    /// A store.
    Store(Arc<dyn ObjectStore>),
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
            Error::configuration("TG-ARCHIVE", format!("archive.url: {why}"))
                .hint("name a folder, or s3://bucket/path with archive.options or AWS_… variables")
        };
        if !settings.url.contains("://") {
            // A relative one is of the directory that we are in now.
            let folder = std::path::absolute(&settings.url).map_err(|error| refuse(error.to_string()))?;
            return Ok(Self::Folder(folder));
        }
        let url = Url::parse(&settings.url).map_err(|error| refuse(error.to_string()))?;
        if !matches!(url.scheme(), "s3" | "s3a") {
            return Err(refuse(format!("{}:// is not supported", url.scheme())));
        }
        if let Some(unknown) = settings.options.keys().find(|name| name.parse::<AmazonS3ConfigKey>().is_err()) {
            return Err(refuse(format!("there is no option {unknown}")));
        }
        let of_environment = std::env::vars_os().filter_map(|(name, value)| {
            let name = name.into_string().ok().filter(|name| name.starts_with("AWS_"))?;
            Some((name.to_lowercase(), value.into_string().ok()?))
        });
        let text = |value: &serde_json::Value| value.as_str().map_or_else(|| value.to_string(), str::to_string);
        let set = settings.options.iter().map(|(name, value)| (name.to_lowercase(), text(value)));
        let options: BTreeMap<String, String> = of_environment.chain(set).collect();
        if !url.username().is_empty() || url.password().is_some() {
            return Err(refuse("it has credentials in it".to_string()));
        }
        let is_endpoint = |name: &str| {
            use AmazonS3ConfigKey::{Endpoint, S3Endpoint, StsEndpoint};
            matches!(name.parse(), Ok(Endpoint | S3Endpoint | StsEndpoint))
        };
        for (name, endpoint) in options.iter().filter(|(name, _)| is_endpoint(name)) {
            check_endpoint(endpoint).map_err(|why| refuse(format!("option {name}: {why}")))?;
        }
        // What it says may quote an option.
        let (store, path) =
            parse_url_opts(&url, options).map_err(|_| refuse("its options are not right".to_string()))?;
        Ok(Self::Store(Arc::new(PrefixStore::new(store, path))))
    }

    fn store(&self) -> object_store::Result<Arc<dyn ObjectStore>> {
        match self {
            Self::Store(store) => Ok(store.clone()),
            Self::Folder(folder) => {
                let store = LocalFileSystem::new_with_prefix(folder)?;
                Ok(Arc::new(store.with_automatic_cleanup(true)))
            }
        }
    }

    /// Writes a file, whole or not at all, so that a machine that loses its power does not lose it.
    pub async fn put(&self, path: &str, bytes: Bytes) -> Result<()> {
        if let Self::Folder(folder) = self {
            std::fs::create_dir_all(folder).map_err(|error| unwritten(&error))?;
        }
        let store = self.store().map_err(|error| unanswered("written", &error))?;
        let put = store.put(&location(path)?, bytes.into()).await;
        put.map_err(|error| unanswered("written", &error))?;
        let Self::Folder(folder) = self.clone() else { return Ok(()) };
        let path = folder.join(path);
        let sync = move || -> std::io::Result<()> {
            // The file, and the name that each folder above has for it.
            std::fs::File::open(&path)?.sync_all()?;
            for parent in path.ancestors().skip(1).take_while(|parent| parent.starts_with(&folder)) {
                std::fs::File::open(parent)?.sync_all()?;
            }
            Ok(())
        };
        let synced = tokio::task::spawn_blocking(sync).await;
        synced.map_err(|_| Error::bug("writing a file of the archive panicked"))?.map_err(|error| unwritten(&error))
    }

    /// Deletes a file; one that is not there is deleted already.
    pub async fn delete(&self, path: &str) -> Result<()> {
        let store = self.store().map_err(|error| unanswered("deleted", &error))?;
        match store.delete(&location(path)?).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(unanswered("deleted", &error)),
        }
    }

    /// Parts of a file.
    pub async fn parts(&self, path: &str, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let location = location(path)?;
        let read = async { self.store()?.get_ranges(&location, ranges).await };
        read.await.map_err(|error| unanswered("read", &error))
    }
}

/// Where AWS hands out the credentials of a machine that has IPv6 alone.
const METADATA_6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);

/// Refuses an address that no store has. One without TLS needs `aws_allow_http` as well.
fn check_endpoint(endpoint: &str) -> Result<(), &'static str> {
    let url = Url::parse(endpoint).map_err(|_| "it is no URL")?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err("it is neither https:// nor http://");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("it has credentials in it");
    }
    let is_local_4 = |address: Ipv4Addr| address.is_link_local() || address.is_unspecified();
    let is_local = match url.host() {
        // Where clouds hand out the credentials of a machine.
        Some(Host::Ipv4(address)) => is_local_4(address),
        Some(Host::Ipv6(address)) => match address.to_ipv4_mapped() {
            Some(address) => is_local_4(address),
            None => address.is_unicast_link_local() || address.is_unspecified() || address == METADATA_6,
        },
        Some(Host::Domain(name)) => name.trim_end_matches('.').ends_with(".internal") && name.starts_with("metadata"),
        None => return Err("it has no host"),
    };
    if is_local { Err("it is the address of a machine's own metadata") } else { Ok(()) }
}

fn location(path: &str) -> Result<Path> {
    Path::parse(path).map_err(|_| Error::bug("a file of the archive has an odd name"))
}

fn unwritten(error: &std::io::Error) -> Error {
    tracing::warn!("archive: {error}");
    Error::wait("TG-ARCHIVE", "a file of the archive could not be written").hint("the log says why")
}

/// The store has failed; what it says in full may name a host or a path, and goes to the log.
fn unanswered(what: &str, error: &object_store::Error) -> Error {
    tracing::warn!("archive: {error}");
    Error::wait("TG-ARCHIVE", format!("a file of the archive could not be {what}"))
        .hint("the log says why; is archive.url right, and may we write there?")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_is_no_store_is_refused_without_its_secrets() {
        let refused = |url: &str, options: serde_json::Value| {
            let options = serde_json::from_value(options).unwrap();
            let settings = ArchiveSettings { url: url.to_string(), options, ..ArchiveSettings::default() };
            Archive::open(&settings).map(|_| ()).unwrap_err().to_string()
        };
        let none = || serde_json::json!({});
        let endpoint = |endpoint: &str| serde_json::json!({"aws_endpoint": endpoint});
        for (url, options, why) in [
            ("http://bucket/x", none(), "http:// is not supported"),
            ("file:///etc", none(), "file:// is not supported"),
            ("s3://key:canary@bucket/x", none(), "it has credentials in it"),
            ("s3://bucket/x", endpoint("http://169.254.169.254/latest"), "a machine's own metadata"),
            ("s3://bucket/x", endpoint("https://[fe80::1]"), "a machine's own metadata"),
            ("s3://bucket/x", endpoint("http://0.0.0.0"), "a machine's own metadata"),
            ("s3://bucket/x", endpoint("https://metadata.google.internal"), "a machine's own metadata"),
            ("s3://bucket/x", endpoint("https://metadata.google.internal."), "a machine's own metadata"),
            ("s3://bucket/x", endpoint("http://[::ffff:169.254.169.254]"), "a machine's own metadata"),
            ("s3://bucket/x", endpoint("http://[fd00:ec2::254]"), "a machine's own metadata"),
            ("s3://bucket/x", serde_json::json!({"aws_endpoint_url_s3": "http://169.254.169.254"}), "own metadata"),
            ("s3://bucket/x", serde_json::json!({"endpoint_url_sts": "http://169.254.169.254"}), "own metadata"),
            ("s3://bucket/x", endpoint("https://u:canary@host"), "it has credentials in it"),
            ("s3://bucket/x", endpoint("ftp://host"), "neither https:// nor http://"),
            ("s3://bucket/x", endpoint("canary"), "it is no URL"),
        ] {
            let told = refused(url, options);
            assert!(told.contains(why) && !told.contains("canary"), "{url}: {told}");
        }
    }

    #[test]
    fn the_address_of_the_metadata_may_be_what_it_is() {
        let options = serde_json::json!({"aws_metadata_endpoint": "http://169.254.169.254"});
        let options = serde_json::from_value(options).unwrap();
        let settings = ArchiveSettings { url: "s3://bucket/x".to_string(), options, ..ArchiveSettings::default() };
        assert!(Archive::open(&settings).is_ok());
    }
}
