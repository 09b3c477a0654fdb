//! The example's events: the same seed gives the same events.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// A late event is at least so much older than the newest.
pub const LATE_MS: i64 = 180_000;

/// What the events are like.
#[derive(Debug, Clone)]
pub struct Shape {
    /// Streams.
    pub streams: u32,
    /// Users.
    pub users: u32,
    /// An event may be this much older than the newest.
    pub disorder_ms: i64,
    /// How many of a thousand are older than any watermark allows.
    pub late_per_mille: u32,
    /// How many of a thousand cannot be decoded.
    pub broken_per_mille: u32,
    /// The seed.
    pub seed: u64,
}

/// An event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The record's key: the stream.
    pub key: String,
    /// The record's payload.
    pub payload: Vec<u8>,
    /// What it should become.
    pub fate: Fate,
}

/// What an event should become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// A row in its window.
    Counted,
    /// A late row, once newer events of its partition have been read.
    Late,
    /// A reject.
    Broken,
}

/// An endless row of events.
#[derive(Debug)]
pub struct Events {
    shape: Shape,
    rng: ChaCha8Rng,
    next_id: u64,
}

impl Events {
    /// The first.
    pub fn new(shape: Shape) -> Self {
        Self { rng: ChaCha8Rng::seed_from_u64(shape.seed), shape, next_id: 0 }
    }

    /// The next event, around this event time.
    pub fn next(&mut self, now_ms: i64) -> Event {
        let rng = &mut self.rng;
        let stream = format!("stream-{:04}", rng.random_range(0..self.shape.streams.max(1)));
        let user = rng.random_range(0..self.shape.users.max(1));
        let dice = rng.random_range(0..1000u32);
        let fate = if dice < self.shape.broken_per_mille {
            Fate::Broken
        } else if dice < self.shape.broken_per_mille + self.shape.late_per_mille {
            Fate::Late
        } else {
            Fate::Counted
        };
        let behind = match fate {
            Fate::Late => rng.random_range(LATE_MS..600_000),
            _ if self.shape.disorder_ms > 0 => rng.random_range(0..=self.shape.disorder_ms),
            _ => 0,
        };
        let ts = time(now_ms - behind);
        let id = format!("{:x}-{}", self.shape.seed, self.next_id);
        self.next_id += 1;
        let (kind, len, cents) = match rng.random_range(0..100u32) {
            0 => ("stream_start", None, None),
            1 => ("stream_stop", None, None),
            2..20 => ("viewer_join", None, None),
            20..35 => ("viewer_leave", None, None),
            35..95 => ("chat_message", Some(rng.random_range(1..280u32)), None),
            _ => ("donation", None, Some(rng.random_range(100..50_000u32))),
        };
        let payload = match fate {
            Fate::Broken => broken(rng.random_range(0..7u32), &id, &ts, &stream),
            _ => donation_or_other(&id, &ts, kind, &stream, &format!("user-{user}"), len, cents),
        };
        Event { key: stream, payload: payload.into_bytes(), fate }
    }
}

/// An event's JSON. Money is cents, so that no float rounds it.
pub fn donation_or_other(
    id: &str,
    ts: &str,
    kind: &str,
    stream: &str,
    user: &str,
    len: Option<u32>,
    cents: Option<u32>,
) -> String {
    let len = len.map_or("null".to_string(), |len| len.to_string());
    let amount = cents.map_or("null".to_string(), |cents| format!("{}.{:02}", cents / 100, cents % 100));
    format!(
        r#"{{"event_id":"{id}","ts":"{ts}","event_type":"{kind}","stream_id":"{stream}","user_id":"{user}","message_len":{len},"amount_usd":{amount}}}"#
    )
}

/// A time as the events carry it.
pub fn time(ms: i64) -> String {
    chrono::DateTime::from_timestamp_millis(ms).unwrap_or_default().format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}

fn broken(class: u32, id: &str, ts: &str, stream: &str) -> String {
    match class {
        0 => "this is no JSON".to_string(),
        1 => format!(r#"{{"event_id":"{id}","ts":"{ts}","stream_id":"#),
        2 => format!(
            r#"{{"event_id":"{id}","ts":"{ts}","event_type":"donation","stream_id":"{stream}","amount_usd":"much"}}"#
        ),
        3 => format!(r#"{{"event_id":"{id}","ts":"{ts}","event_type":"chat_message","message_len":3}}"#),
        4 => format!(r#"{{"event_id":"{id}","ts":null,"event_type":"chat_message","stream_id":"{stream}"}}"#),
        5 => String::new(),
        _ => format!(
            r#"{{"event_id":"{id}","ts":"{ts}","stream_id":"{stream}"}} {{"event_id":"{id}-2","ts":"{ts}","stream_id":"{stream}"}}"#
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_events() {
        let shape =
            Shape { streams: 5, users: 9, disorder_ms: 1000, late_per_mille: 100, broken_per_mille: 100, seed: 7 };
        let some = |shape: &Shape| {
            let mut events = Events::new(shape.clone());
            (0..1000).map(|i| events.next(1_700_000_000_000 + i)).collect::<Vec<_>>()
        };
        let events = some(&shape);
        assert_eq!(events, some(&shape));
        assert_ne!(events, some(&Shape { seed: 8, ..shape }));
        for fate in [Fate::Counted, Fate::Late, Fate::Broken] {
            assert!(events.iter().filter(|event| event.fate == fate).count() > 50, "{fate:?}");
        }
    }
}
