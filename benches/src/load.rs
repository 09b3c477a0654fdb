//! A steady load of events of now, over 1,000 keys.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rdkafka::producer::Producer;

use crate::topic::{event, partition, producer, send};

/// The time, in microseconds since 1970.
pub fn now_us() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as i64)
}

/// So many records a second, for so many seconds.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// Records a second.
    pub rate: u64,
    /// How long.
    pub seconds: u64,
}

impl Load {
    /// All its records.
    pub fn total(self) -> u64 {
        self.rate * self.seconds
    }

    /// Sends it in steps of two milliseconds. Event times are what `at_ms` says of the records' numbers.
    pub fn send(self, brokers: &str, topic: &str, at_ms: impl Fn(u64) -> i64) -> Result<(), String> {
        let producer = producer(brokers)?;
        let mut rng = ChaCha8Rng::seed_from_u64(self.rate);
        let started = Instant::now();
        let mut sent = 0;
        while sent < self.total() {
            let due = ((started.elapsed().as_secs_f64() * self.rate as f64) as u64).min(self.total());
            while sent < due {
                let stream = rng.random_range(0..1000u32);
                let payload = event(&mut rng, sent, stream, at_ms(sent));
                send(&producer, topic, partition(stream), &payload)?;
                sent += 1;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        producer.flush(Duration::from_secs(30)).map_err(|error| error.to_string())
    }
}
