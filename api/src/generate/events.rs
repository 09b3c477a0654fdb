//! Made-up events: the same seed gives the same ones.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::template::{Drawn, Template};

/// A late event is at least so much older than the newest.
pub const LATE_MS: i64 = 180_000;

/// What the events are like.
#[derive(Debug, Clone)]
pub struct Shape {
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
    /// The record's key.
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
    template: Template,
    shape: Shape,
    rng: ChaCha8Rng,
    next_id: u64,
}

impl Events {
    /// The first.
    pub fn new(template: Template, shape: Shape) -> Self {
        Self { template, rng: ChaCha8Rng::seed_from_u64(shape.seed), shape, next_id: 0 }
    }

    /// The next event, around this event time.
    pub fn next(&mut self, now_ms: i64) -> Event {
        let rng = &mut self.rng;
        let dice = rng.random_range(0..1000u32);
        let mut fate = if dice < self.shape.broken_per_mille {
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
        let (id, time) = (format!("{:x}-{}", self.shape.seed, self.next_id), time(now_ms - behind));
        self.next_id += 1;
        let drawn = Drawn { id: &id, time: &time, amount: "" };
        let broken = (fate == Fate::Broken).then(|| self.template.broken(rng, &drawn)).flatten();
        let (key, payload) = broken.unwrap_or_else(|| {
            if fate == Fate::Broken {
                fate = Fate::Counted;
            }
            self.template.record(rng, &drawn)
        });
        Event { key, payload: payload.into_bytes(), fate }
    }
}

/// A time as the events carry it.
pub fn time(ms: i64) -> String {
    chrono::DateTime::from_timestamp_millis(ms).unwrap_or_default().format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_events() {
        let file = std::path::Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").unwrap())
            .join("../queries/stream_events.toml");
        let template = Template::read(&file, false).unwrap();
        let shape = Shape { disorder_ms: 1000, late_per_mille: 100, broken_per_mille: 100, seed: 7 };
        let some = |shape: &Shape| {
            let mut events = Events::new(template.clone(), shape.clone());
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
