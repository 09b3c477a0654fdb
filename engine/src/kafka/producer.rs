//! Writes records and makes topics: for the generator, for smoke, and for whoever tests against a real broker.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::{ClientContext, DefaultClientContext};
use rdkafka::config::ClientConfig;
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer as _, ProducerContext, ThreadedProducer};
use rdkafka::types::RDKafkaErrorCode;

use crate::error::{Error, Result};

/// What became of the records that were sent.
#[derive(Debug, Default)]
pub struct Deliveries {
    acknowledged: AtomicU64,
    failed: AtomicU64,
}

struct Counting(Arc<Deliveries>);

impl ClientContext for Counting {}

impl ProducerContext for Counting {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let counter = if result.is_ok() { &self.0.acknowledged } else { &self.0.failed };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// Writes to one topic. Every record is confirmed by the broker, or counted as failed.
pub struct Producer {
    producer: ThreadedProducer<Counting>,
    deliveries: Arc<Deliveries>,
    topic: String,
}

impl Producer {
    /// A producer that does not duplicate.
    pub fn open(brokers: &str, topic: &str) -> Result<Self> {
        let deliveries = Arc::<Deliveries>::default();
        let producer = ClientConfig::new()
            .set("bootstrap.servers", brokers)
            .set("enable.idempotence", "true")
            .set("compression.type", "lz4")
            .set("linger.ms", "5")
            .set("queue.buffering.max.messages", "500000")
            .create_with_context(Counting(deliveries.clone()))
            .map_err(|error| Error::configuration("TG-KAFKA-SETTING", format!("no producer: {error}")))?;
        Ok(Self { producer, deliveries, topic: topic.to_string() })
    }

    /// Hands a record over; waits while the client's buffer is full.
    pub fn send(&self, key: &[u8], payload: &[u8]) -> Result<()> {
        let mut record = BaseRecord::to(&self.topic).key(key).payload(payload);
        loop {
            match self.producer.send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), again)) => {
                    record = again;
                    std::thread::sleep(Duration::from_millis(2));
                }
                Err((error, _)) => {
                    return Err(Error::configuration(
                        "TG-KAFKA-WRITE",
                        format!("a record for topic {} is refused: {error}", self.topic),
                    ));
                }
            }
        }
    }

    /// Records that the broker has confirmed, and records that it will never have.
    pub fn delivered(&self) -> (u64, u64) {
        (self.deliveries.acknowledged.load(Ordering::Relaxed), self.deliveries.failed.load(Ordering::Relaxed))
    }

    /// Waits until everything is confirmed.
    pub fn flush(&self, timeout: Duration) -> Result<()> {
        self.producer.flush(timeout).map_err(|error| {
            Error::wait("TG-KAFKA-WRITE", format!("records for topic {} are not confirmed: {error}", self.topic))
        })
    }
}

/// Makes a topic, unless it is there.
pub fn ensure_topic(brokers: &str, topic: &str, partitions: i32) -> Result<()> {
    let refused =
        |error: &dyn std::fmt::Display| Error::wait("TG-KAFKA-TOPIC", format!("topic {topic} cannot be made: {error}"));
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", brokers).create().map_err(|error| refused(&error))?;
    let wanted = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
    let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(10)));
    let made =
        futures::executor::block_on(admin.create_topics([&wanted], &options)).map_err(|error| refused(&error))?;
    match made.into_iter().next() {
        Some(Err((_, code))) if code != RDKafkaErrorCode::TopicAlreadyExists => Err(refused(&code)),
        _ => Ok(()),
    }
}

/// The next offset of all partitions of a topic, added up.
pub fn end_of(brokers: &str, topic: &str) -> Result<i64> {
    let unanswered =
        |error: &dyn std::fmt::Display| Error::wait("TG-KAFKA-UNREACHABLE", format!("topic {topic}: {error}"));
    let client: BaseProducer =
        ClientConfig::new().set("bootstrap.servers", brokers).create().map_err(|e| unanswered(&e))?;
    let limit = Duration::from_secs(5);
    let metadata = client.client().fetch_metadata(Some(topic), limit).map_err(|error| unanswered(&error))?;
    let partitions = metadata.topics().first().map_or(0, |topic| topic.partitions().len());
    let mut end = 0;
    for partition in 0..partitions {
        end += client.client().fetch_watermarks(topic, partition as i32, limit).map_err(|error| unanswered(&error))?.1;
    }
    Ok(end)
}
