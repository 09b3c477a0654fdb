//! The only file that asks what time it is.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// What a pipeline's decisions go by: the machine's clocks, or one that a test moves.
#[derive(Debug, Clone, Default)]
pub enum Clock {
    /// The machine's.
    #[default]
    System,
    /// A test's.
    Manual(Arc<Manual>),
}

/// A clock that stands still until it is moved.
#[derive(Debug)]
pub struct Manual {
    start: Instant,
    passed_us: AtomicI64,
    wall_us: AtomicI64,
}

impl Manual {
    /// A clock whose wall shows this time.
    pub fn at(wall_us: i64) -> Self {
        Self { start: now(), passed_us: AtomicI64::new(0), wall_us: AtomicI64::new(wall_us) }
    }

    /// Sets the wall clock; the monotonic one does not move.
    pub fn set_wall(&self, wall_us: i64) {
        self.wall_us.store(wall_us, Ordering::Relaxed);
    }

    /// Moves both.
    pub fn advance(&self, us: i64) {
        self.passed_us.fetch_add(us, Ordering::Relaxed);
        self.wall_us.fetch_add(us, Ordering::Relaxed);
    }
}

impl Clock {
    /// The monotonic clock.
    pub fn now(&self) -> Instant {
        match self {
            Self::System => now(),
            Self::Manual(manual) => {
                manual.start + Duration::from_micros(manual.passed_us.load(Ordering::Relaxed).unsigned_abs())
            }
        }
    }

    /// The wall clock, in microseconds since 1970-01-01 UTC.
    pub fn wall_us(&self) -> i64 {
        match self {
            Self::System => wall_us(),
            Self::Manual(manual) => manual.wall_us.load(Ordering::Relaxed),
        }
    }
}

/// The wall clock, in microseconds since 1970-01-01 UTC. Never used to decide an answer, but for a future event time.
pub fn wall_us() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

/// The monotonic clock.
pub fn now() -> Instant {
    Instant::now()
}

/// A time for a person.
pub fn rfc3339(us: i64) -> String {
    chrono::DateTime::from_timestamp_micros(us)
        .map_or_else(|| format!("{us} µs"), |time| time.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true))
}
