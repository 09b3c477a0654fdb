//! How full a disk is.

use std::path::Path;

/// A disk, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disk {
    /// What we may still write.
    pub free: u64,
    /// All of it.
    pub size: u64,
}

/// The disk that a folder is on, or will be; none where nothing of its path is there.
pub fn of(path: &Path) -> Option<Disk> {
    let path = std::path::absolute(path).ok()?;
    let there = path.ancestors().find(|path| path.exists())?;
    let told = rustix::fs::statvfs(there).ok()?;
    let bytes = |blocks: u64| blocks.saturating_mul(told.f_frsize);
    Some(Disk { free: bytes(told.f_bavail), size: bytes(told.f_blocks) })
}
