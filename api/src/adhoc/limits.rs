//! What a query worker takes from itself before it hears anything. The one unsafe place of this crate.

#![allow(unsafe_code, reason = "two calls of the system that have no safe face")]

use std::io;

/// Behind everything else that wants the processor.
const NICENESS: i32 = 10;

/// Lowers this process: no more address space than this, no core dump with other people's rows, low priority.
pub fn lower(address_space: u64) -> io::Result<()> {
    let limits = [(libc::RLIMIT_AS, address_space), (libc::RLIMIT_CORE, 0)];
    for (resource, most) in limits {
        let limit = libc::rlimit { rlim_cur: most, rlim_max: most };
        // SAFETY: the pointer is to a value that outlives the call, which keeps nothing of it.
        if unsafe { libc::setrlimit(resource, &raw const limit) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    // SAFETY: takes numbers only.
    if unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICENESS) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
