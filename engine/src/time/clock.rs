//! The only file that asks what time it is.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

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
