//! The topics that are read: events of the example, in order, a known number of them.

use std::time::Duration;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rdkafka::config::ClientConfig;
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use rdkafka::types::RDKafkaErrorCode;
use tidegate_bench::local::Kafka;

/// Partitions of every topic.
pub const PARTITIONS: i32 = 8;

/// Event time of the first record, and the span of all: old enough not to lie in the future.
const FIRST_MS: i64 = 1_790_000_000_000;
const SPAN_MS: u64 = 20 * 60 * 1000;

/// One event as JSON, about 190 bytes.
pub fn event(rng: &mut ChaCha8Rng, number: u64, stream: u32, ms: i64) -> Vec<u8> {
    let kinds = ["chat_message", "viewer_join", "viewer_leave", "donation"];
    let kind = kinds[rng.random_range(0..kinds.len())];
    format!(
        r#"{{"event_id":"evt-{number:016x}","ts":"{}","event_type":"{kind}","stream_id":"stream-{stream:06}","user_id":"user-{:06}","message_len":{},"amount_usd":{}.{:02}}}"#,
        time(ms),
        rng.random_range(0..1_000_000u32),
        rng.random_range(0..300u32),
        rng.random_range(0..500u32),
        rng.random_range(0..100u32)
    )
    .into_bytes()
}

/// RFC 3339 without a library: the bench must fill topics fast.
fn time(ms: i64) -> String {
    let (days, rest) = (ms.div_euclid(86_400_000), ms.rem_euclid(86_400_000));
    // Days to a date, by the 400-year cycle that begins on the first of March.
    let shifted = days + 719_468;
    let (cycle, day) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_cycle = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year_of_cycle + year_of_cycle / 4 - year_of_cycle / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_cycle + cycle * 400 + i64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day_of_month:02}T{:02}:{:02}:{:02}.{:03}Z",
        rest / 3_600_000,
        rest / 60_000 % 60,
        rest / 1000 % 60,
        rest % 1000
    )
}

/// The records of a topic with so many keys: partition and payload.
pub fn payloads(keys: u32, records: u64) -> impl Iterator<Item = (i32, Vec<u8>)> {
    let mut rng = ChaCha8Rng::seed_from_u64(u64::from(keys));
    (0..records).map(move |number| {
        let stream = rng.random_range(0..keys);
        let disorder = rng.random_range(0..1500i64);
        let ms = FIRST_MS + (number * SPAN_MS / records) as i64 - disorder;
        ((stream % PARTITIONS as u32) as i32, event(&mut rng, number, stream, ms))
    })
}

/// A producer for filling topics.
pub fn producer(brokers: &str) -> Result<ThreadedProducer<DefaultProducerContext>, String> {
    ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("compression.type", "lz4")
        .set("linger.ms", "5")
        .set("batch.size", "262144")
        .set("queue.buffering.max.messages", "1000000")
        .create()
        .map_err(|error| error.to_string())
}

/// Sends one record, waiting while the buffer is full.
pub fn send(
    producer: &ThreadedProducer<DefaultProducerContext>,
    topic: &str,
    partition: i32,
    payload: &[u8],
) -> Result<(), String> {
    let mut record: BaseRecord<'_, (), [u8]> = BaseRecord::to(topic).partition(partition).payload(payload);
    loop {
        match producer.send(record) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), again)) => {
                record = again;
                std::thread::sleep(Duration::from_millis(1));
            }
            Err((error, _)) => return Err(error.to_string()),
        }
    }
}

/// Makes and fills a topic; its name.
pub fn fill(kafka: &Kafka, keys: u32, records: u64) -> Result<String, String> {
    let topic = format!("events-{keys}");
    kafka.create_topic(&topic, PARTITIONS, &[])?;
    let producer = producer(&kafka.brokers())?;
    for (partition, payload) in payloads(keys, records) {
        send(&producer, &topic, partition, &payload)?;
    }
    producer.flush(Duration::from_secs(120)).map_err(|error| error.to_string())?;
    let total: i64 = kafka.end_offsets(&topic)?.iter().sum();
    if total == records as i64 {
        Ok(topic)
    } else {
        Err(format!("topic {topic} has {total} records instead of {records}"))
    }
}

#[cfg(test)]
mod tests {
    use super::time;

    #[test]
    fn times_are_those_of_the_calendar() {
        assert_eq!(time(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(time(1_709_164_800_123), "2024-02-29T00:00:00.123Z");
        assert_eq!(time(1_790_000_000_000), "2026-09-21T14:13:20.000Z");
    }
}
