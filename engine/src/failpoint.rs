//! Named points at which a test may kill, delay or fail the process.
//!
//! They are always compiled in, so that what is tested is what ships; a point that is not armed costs one relaxed
//! load. [`arm`] is called only when the test settings are on. The `fail` crate compiles its points out of ordinary
//! builds and takes a lock at each; this page is smaller than its adapter would be.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::error::{Error, Result};

/// Every point, in the order in which an epoch and a recovery pass them.
pub const POINTS: [&str; 24] = [
    "takeover",
    "recover-loaded",
    "replay-mid",
    "read",
    "decoded",
    "aggregated",
    "recent-written",
    "begun",
    "fenced",
    "upserted",
    "dead-letters",
    "state",
    "checkpoint-merged",
    "progress",
    "commit-unsent",
    "commit-sent",
    "commit-acked",
    "recent-merged",
    "archive-look",
    "archive-begun",
    "archive-written",
    "archive-ended",
    "memory-advanced",
    "shutdown",
];

static ARMED: AtomicBool = AtomicBool::new(false);
static RULES: Mutex<Vec<Rule>> = Mutex::new(Vec::new());

#[derive(Debug, Clone, Copy)]
enum Action {
    Kill,
    Sleep(Duration),
    Error,
}

#[derive(Debug)]
struct Rule {
    point: &'static str,
    action: Action,
    hit: u64,
    seen: u64,
}

/// Arms points from a text such as `commit-sent=kill@2;decoded=sleep(50)@1`.
pub fn arm(spec: &str) -> Result<()> {
    let mut rules = Vec::new();
    for part in spec.split(';').map(str::trim).filter(|part| !part.is_empty()) {
        rules.push(parse(part).ok_or_else(|| {
            Error::configuration("TG-SETTING", format!("failpoint {part:?} is not NAME=ACTION@HIT"))
                .hint(format!("names are {}; actions are kill, sleep(MS), error", POINTS.join(", ")))
        })?);
    }
    ARMED.store(!rules.is_empty(), Ordering::Relaxed);
    if let Ok(mut held) = RULES.lock() {
        *held = rules;
    }
    Ok(())
}

fn parse(part: &str) -> Option<Rule> {
    let (name, rest) = part.split_once('=')?;
    let (action, hit) = rest.split_once('@').unwrap_or((rest, "1"));
    let action = match action {
        "kill" => Action::Kill,
        "error" => Action::Error,
        other => {
            let ms = other.strip_prefix("sleep(")?.strip_suffix(')')?.parse().ok()?;
            Action::Sleep(Duration::from_millis(ms))
        }
    };
    let point = POINTS.iter().find(|point| **point == name)?;
    Some(Rule { point, action, hit: hit.parse().ok().filter(|hit| *hit > 0)?, seen: 0 })
}

/// Whether any point is armed.
pub fn armed() -> bool {
    ARMED.load(Ordering::Relaxed)
}

/// Passes a point.
pub fn hit(point: &'static str) -> Result<()> {
    if !armed() {
        return Ok(());
    }
    match fire(point) {
        None => Ok(()),
        Some(Action::Sleep(time)) => {
            std::thread::sleep(time);
            Ok(())
        }
        Some(Action::Error) => Err(Error::wait("TG-FAILPOINT", format!("failpoint {point} was told to fail"))),
        Some(Action::Kill) => {
            kill();
            Ok(())
        }
    }
}

fn fire(point: &'static str) -> Option<Action> {
    let mut rules = RULES.lock().ok()?;
    let rule = rules.iter_mut().find(|rule| rule.point == point)?;
    rule.seen += 1;
    if rule.seen != rule.hit {
        return None;
    }
    eprintln!("failpoint {point} hit {}", rule.seen);
    Some(rule.action)
}

/// Ends the process as `kill -9` would: no destructor, no flush, no goodbye.
#[allow(unsafe_code)]
fn kill() {
    // SAFETY: raise has no memory effects of its own; the process does not survive it.
    unsafe { libc::raise(libc::SIGKILL) };
}
