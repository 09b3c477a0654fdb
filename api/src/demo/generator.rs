//! The demo's generator: ten minutes of history as fast as the engine takes it, then live.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tidegate_engine::kafka::producer::Producer;
use tidegate_engine::store::Store;

use super::{PATIENCE, told};
use crate::generate::events::{Events, Fate, Shape};
use crate::generate::template::Template;

/// Records that may wait in the broker, which would drop them beyond 5 MiB a partition.
const LAG_MAX: u64 = 20_000;

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}

/// What the generator has done so far.
#[derive(Default)]
pub struct Written {
    /// Records that were written.
    pub records: AtomicU64,
    /// Of them, those that cannot be decoded.
    pub broken: AtomicU64,
    /// Those that will be late once their partition's newest events have been read.
    pub late: AtomicU64,
    /// Whether it has stopped for a fault.
    pub failed: AtomicBool,
}

/// How far the engine has come with a source.
pub struct Committed {
    /// The database.
    pub store: Arc<dyn Store>,
    /// Where it is asked.
    pub runtime: tokio::runtime::Handle,
    /// The source.
    pub source: String,
}

impl Committed {
    /// Records that are committed.
    pub fn count(&self) -> Result<u64, String> {
        let status = self.runtime.block_on(self.store.status()).map_err(told)?;
        let own = status.partitions.iter().filter(|partition| partition.pipeline == self.source);
        Ok(own.map(|partition| partition.next_offset.unsigned_abs()).sum())
    }
}

/// What is written, where and how fast.
pub struct Generator {
    /// What the events look like.
    pub template: Template,
    /// The brokers.
    pub brokers: String,
    /// The topic.
    pub topic: String,
    /// Events a second, once it is live.
    pub rate: u64,
    /// Minutes of event time that are written first.
    pub history: u64,
}

impl Generator {
    /// Writes until it shall end.
    pub fn run(&self, written: &Written, ending: &AtomicBool, committed: &Committed) -> Result<(), String> {
        let producer = Producer::open(&self.brokers, &self.topic).map_err(told)?;
        let shape = Shape { disorder_ms: 2_000, late_per_mille: 1, broken_per_mille: 1, seed: now_ms().unsigned_abs() };
        let mut events = Events::new(self.template.clone(), shape);
        let mut send = |at_ms: i64| -> Result<(), String> {
            let event = events.next(at_ms);
            producer.send(event.key.as_bytes(), &event.payload).map_err(told)?;
            written.records.fetch_add(1, Ordering::Relaxed);
            match event.fate {
                Fate::Counted => {}
                Fate::Late => _ = written.late.fetch_add(1, Ordering::Relaxed),
                Fate::Broken => _ = written.broken.fetch_add(1, Ordering::Relaxed),
            }
            Ok(())
        };
        let (start, past) = (now_ms(), (self.history * 60_000) as i64);
        let total = self.rate * self.history * 60;
        for number in 0..total {
            if ending.load(Ordering::Relaxed) {
                break;
            }
            if number % 1_000 == 0 {
                while number.saturating_sub(committed.count()?) > LAG_MAX && !ending.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
            send(start - past + (number as i64 * past) / total as i64)?;
        }
        let (live, mut made) = (Instant::now(), 0);
        while !ending.load(Ordering::Relaxed) {
            if made >= live.elapsed().as_millis() as u64 * self.rate / 1_000 {
                std::thread::sleep(Duration::from_millis(5));
                continue;
            }
            send(now_ms())?;
            made += 1;
        }
        producer.flush(PATIENCE).map_err(told)?;
        match producer.delivered() {
            (_, 0) => Ok(()),
            (_, failed) => Err(format!("{failed} records were not delivered")),
        }
    }
}
