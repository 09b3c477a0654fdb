//! What a query worker takes from itself before it hears anything. The one unsafe place of this crate.

#![allow(unsafe_code, reason = "a few calls of the system that have no safe face")]

use std::io;
use std::time::Duration;

/// How nice a session may be at most.
const NICEST: &[u8] = b"19";
/// Where Linux is told how nice the session of a process is, if it shares the processor between sessions.
const AUTOGROUP: &str = "/proc/self/autogroup";
/// It hears everybody but root once in a tenth of a second.
const AUTOGROUP_PAUSE: Duration = Duration::from_millis(110);
const AUTOGROUP_TRIES: usize = 5;

/// Lowers this process: no more address space than this, no core dump with other people's rows, and only the processor that
/// nobody else wants.
///
/// Being nice is not enough for that: a dozen threads that are nice still outweigh one of the engine. And where Linux shares the
/// processor between sessions first (autogroups), whatever a thread says of itself counts within its session alone, while
/// the database is in another. So this process begins a session of its own, and has that one be nice. It must not lead a
/// group of processes before: then it would stay in the session of the api, and the nice one would be that of the engine.
pub fn lower(address_space: u64) -> io::Result<()> {
    let limits = [(libc::RLIMIT_AS, address_space), (libc::RLIMIT_CORE, 0)];
    for (resource, most) in limits {
        let limit = libc::rlimit { rlim_cur: most, rlim_max: most };
        // SAFETY: the pointer is to a value that outlives the call, which keeps nothing of it.
        if unsafe { libc::setrlimit(resource, &raw const limit) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    let idle = libc::sched_param { sched_priority: 0 };
    // SAFETY: the pointer is to a value that outlives the call, which keeps nothing of it.
    if unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const idle) } != 0 {
        // A sandbox may not know it; a query that is less modest is better than none.
        tracing::warn!("query workers share the processor as others do: {}", io::Error::last_os_error());
    }
    // SAFETY: it takes nothing, and changes nothing where it fails.
    if unsafe { libc::setsid() } == -1 {
        return Err(io::Error::last_os_error());
    }
    for _ in 0..AUTOGROUP_TRIES {
        match std::fs::write(AUTOGROUP, NICEST) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::sleep(AUTOGROUP_PAUSE),
            // Where there are no autogroups, the line above is all that is needed.
            _ => break,
        }
    }
    Ok(())
}
