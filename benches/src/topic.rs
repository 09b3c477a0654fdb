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
const FIRST_MS: i64 = 1_700_000_000_000;
const SPAN_MS: u64 = 20 * 60 * 1000;

/// The end of the hour in which all of them are, in seconds since 1970.
pub const HOUR_ENDS_S: i64 = (FIRST_MS / 3_600_000 + 1) * 3_600;

/// By how much the sources' watermarks let an event time fall back.
const BOUND_MS: i64 = 10_000;

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
pub fn time(ms: i64) -> String {
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

/// What a topic is filled with: partition and payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Topic {
    /// So many keys.
    Keys(u32),
    /// A thousand keys; one record in twenty is late, by all that the watermark's bound allows at most.
    Disorder,
    /// A thousand keys, forty fields.
    Wide,
}

impl Topic {
    /// Its name.
    pub fn name(self) -> String {
        match self {
            Self::Keys(keys) => format!("events-{keys}"),
            Self::Disorder => "disorder".to_string(),
            Self::Wide => "wide".to_string(),
        }
    }

    /// That of this name.
    pub fn named(name: &str) -> Result<Self, String> {
        let keys = || name.strip_prefix("events-")?.parse().ok().map(Self::Keys);
        let named = match name {
            "disorder" => Some(Self::Disorder),
            "wide" => Some(Self::Wide),
            _ => keys(),
        };
        named.ok_or_else(|| format!("there is no topic {name}"))
    }

    /// How many records it has where the others have so many. Wide ones are five times as long.
    pub fn count(self, records: u64) -> u64 {
        if self == Self::Wide { records / 5 } else { records }
    }

    /// Its records, in their order.
    pub fn records(self, count: u64) -> impl Iterator<Item = (i32, Vec<u8>)> {
        let keys = if let Self::Keys(keys) = self { keys } else { 1_000 };
        let mut rng = ChaCha8Rng::seed_from_u64(u64::from(keys));
        (0..count).map(move |number| {
            let stream = rng.random_range(0..keys);
            let mut behind = rng.random_range(0..1500i64);
            if self == Self::Disorder && rng.random_range(0..20) == 0 {
                behind = rng.random_range(0..BOUND_MS);
            }
            let event = event(&mut rng, number, stream, FIRST_MS + (number * SPAN_MS / count) as i64 - behind);
            (partition(stream), if self == Self::Wide { widened(&mut rng, &event) } else { event })
        })
    }

    /// Makes and fills it.
    pub fn fill(self, kafka: &Kafka, records: u64) -> Result<(), String> {
        kafka.create_topic(&self.name(), PARTITIONS, &[])?;
        append(kafka, &self.name(), self.records(self.count(records)))
    }
}

/// Records of every key in turn, within one hour.
pub fn in_turn(keys: u32, count: u64) -> impl Iterator<Item = (i32, Vec<u8>)> {
    let mut rng = ChaCha8Rng::seed_from_u64(count);
    (0..count).map(move |number| {
        let stream = (number % u64::from(keys)) as u32;
        (partition(stream), event(&mut rng, number, stream, FIRST_MS + (number * SPAN_MS / count) as i64))
    })
}

/// One record for each partition, an hour later: no window of an hour with a record of [`in_turn`] stays open.
pub fn hour_later() -> impl Iterator<Item = (i32, Vec<u8>)> {
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    (0..PARTITIONS as u32)
        .map(move |stream| (partition(stream), event(&mut rng, u64::from(stream), stream, FIRST_MS + 60 * 60 * 1000)))
}

/// Where a stream's records are.
pub fn partition(stream: u32) -> i32 {
    (stream % PARTITIONS as u32) as i32
}

/// The same event among 33 other fields, such as players send.
fn widened(rng: &mut ChaCha8Rng, event: &[u8]) -> Vec<u8> {
    let mut number = |below: u32| rng.random_range(0..below);
    let before = format!(
        r#"{{"session_id":"{:08x}{:08x}","device_id":"{:08x}","device":"phone","os":"Android","os_version":"{}.{}","app_version":"4.{}.{}","country":"NO","city":"Bodø","timezone":"Europe/Oslo","ip":"10.{}.{}.{}","user_agent":"Mozilla/5.0 (Linux; Android 15; Pixel 9) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/141.0 Mobile","referrer":null,"campaign":"autumn-{}","plan":"basic","is_subscriber":{},"is_moderator":false,"#,
        number(u32::MAX),
        number(u32::MAX),
        number(u32::MAX),
        number(16),
        number(10),
        number(30),
        number(10),
        number(256),
        number(256),
        number(256),
        number(40),
        number(2) == 0,
    );
    let after = format!(
        r#","latency_ms":{},"buffer_ms":{},"bitrate":{},"fps":60,"dropped_frames":{},"resolution":"1920x1080","codec":"av1","cdn":"edge-{}","edge":{{"pop":"OSL{}","hit":true}},"retries":{},"is_muted":{},"is_fullscreen":true,"volume":0.{},"screen_w":1080,"screen_h":2424,"tags":["live","game-{}"],"trace_id":"{:08x}{:08x}"}}"#,
        number(400),
        number(9_000),
        number(8_000_000),
        number(50),
        number(12),
        number(4),
        number(3),
        number(2) == 0,
        number(100),
        number(300),
        number(u32::MAX),
        number(u32::MAX),
    );
    [before.as_bytes(), &event[1..event.len() - 1], after.as_bytes()].concat()
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

/// Sends these and waits until the broker has all of them.
pub fn append(kafka: &Kafka, topic: &str, records: impl Iterator<Item = (i32, Vec<u8>)>) -> Result<(), String> {
    let end = || Ok::<i64, String>(kafka.end_offsets(topic)?.iter().sum());
    let (producer, before) = (producer(&kafka.brokers())?, end()?);
    let mut sent = 0;
    for (partition, payload) in records {
        send(&producer, topic, partition, &payload)?;
        sent += 1;
    }
    producer.flush(Duration::from_secs(120)).map_err(|error| error.to_string())?;
    let arrived = end()? - before;
    if arrived == sent { Ok(()) } else { Err(format!("topic {topic} has {arrived} new records instead of {sent}")) }
}

#[cfg(test)]
mod tests {
    use super::{Topic, time};

    #[test]
    fn wide_records_have_forty_fields() {
        let (_, payload) = Topic::Wide.records(1).next().unwrap();
        let value: serde_json::Value = serde_json::from_slice(&payload).unwrap();
        assert_eq!(value.as_object().unwrap().len(), 40);
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        assert_eq!(time(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(time(1_709_164_800_123), "2024-02-29T00:00:00.123Z");
        assert_eq!(time(1_790_000_000_000), "2026-09-21T14:13:20.000Z");
    }
}
