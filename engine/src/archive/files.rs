//! Files of the archive as the query engine reads them: by parts, from whoever may.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use object_store::path::Path;
use object_store::{
    Attributes, CopyOptions, GetOptions, GetRange, GetResult, GetResultPayload, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

use super::Archive;
use crate::error::Error;

/// Who reads parts of files: a process that knows where they are.
#[async_trait]
pub trait Files: Send + Sync {
    /// Parts of a file, each whole.
    async fn parts(&self, path: &str, ranges: &[Range<u64>]) -> crate::error::Result<Vec<Bytes>>;
}

#[async_trait]
impl Files for Archive {
    async fn parts(&self, path: &str, ranges: &[Range<u64>]) -> crate::error::Result<Vec<Bytes>> {
        self.parts(path, ranges).await
    }
}

/// An object store that only reads parts of files whose names and sizes are known.
pub struct ReadOnly {
    files: Arc<dyn Files>,
    /// Why a part could not be read: libraries make a text of it.
    failed: Mutex<Option<Error>>,
}

impl ReadOnly {
    /// Over these files.
    pub fn new(files: &Arc<dyn Files>) -> Self {
        Self { files: files.clone(), failed: Mutex::default() }
    }

    /// Why a part could not be read, if one could not.
    pub fn failed(&self) -> Option<Error> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl fmt::Debug for ReadOnly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReadOnly")
    }
}

impl fmt::Display for ReadOnly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("archive")
    }
}

fn refused<T>(operation: &str) -> Result<T> {
    let (operation, implementer) = (operation.to_string(), "archive".to_string());
    Err(object_store::Error::NotImplemented { operation, implementer })
}

#[async_trait]
impl ObjectStore for ReadOnly {
    async fn put_opts(&self, _: &Path, _: PutPayload, _: PutOptions) -> Result<PutResult> {
        refused("put")
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        refused("put")
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let Some(GetRange::Bounded(range)) = options.range else { return refused("reading a whole file") };
        let parts = self.get_ranges(location, std::slice::from_ref(&range)).await?;
        let meta = ObjectMeta {
            location: location.clone(),
            last_modified: chrono::DateTime::UNIX_EPOCH,
            size: range.end,
            e_tag: None,
            version: None,
        };
        let payload = GetResultPayload::Stream(stream::iter(parts.into_iter().map(Ok)).boxed());
        Ok(GetResult { payload, meta, range, attributes: Attributes::new() })
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let parts = self.files.parts(location.as_ref(), ranges).await;
        parts.map_err(|error| {
            *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.clone());
            object_store::Error::Generic { store: "archive", source: Box::new(error) }
        })
    }

    fn delete_stream(&self, _: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        stream::once(async { refused("delete") }).boxed()
    }

    fn list(&self, _: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        stream::once(async { refused("list") }).boxed()
    }

    async fn list_with_delimiter(&self, _: Option<&Path>) -> Result<ListResult> {
        refused("list")
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        refused("copy")
    }
}
