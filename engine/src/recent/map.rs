//! Files mapped into memory, so that a query touches only the columns that it reads. The one unsafe place of this room.

#![allow(unsafe_code, reason = "a map has no safe face: another process could change the file")]

use std::fs::File;
use std::io;
use std::path::Path;

use arrow::buffer::Buffer;
use bytes::Bytes;
use memmap2::Mmap;

/// A file's bytes, for as long as they are used: deleting the file does not take them away.
pub fn map(path: &Path) -> io::Result<Buffer> {
    let file = File::open(path)?;
    // SAFETY: a segment has its name only once it is whole, and is never written to or cut after that: its owner, who
    // alone writes to its folder, makes it under another name, renames it, and deletes it whole. What others do to the
    // folder by hand is not guarded against, nor a disk that fails: only query workers map, which may end.
    let mapped = unsafe { Mmap::map(&file)? };
    Ok(Buffer::from(Bytes::from_owner(mapped)))
}
