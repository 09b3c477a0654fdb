//! The only room that names the Kafka client.
//!
//! A reader reads partitions from given offsets, in batches, from one queue. It belongs to no group and commits
//! nothing to Kafka: who may read, and from where, is decided in the database.

pub mod embedded;
mod native;
pub mod producer;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{Consumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::RDKafkaErrorCode;

use crate::error::{Error, Result};
use crate::log::{Bounds, Log, Messages, Reader};
use crate::sql::source::Source;
use crate::time::clock::Clock;
use native::{Client, Queue};

/// How long a question to the broker may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Bytes that the client may fetch ahead, all partitions together.
const FETCH_AHEAD_KIB: usize = 16 * 1024;

/// The client says the same thousands of times while its brokers are away; we do so once in this time.
const SAY_AGAIN: Duration = Duration::from_secs(5);

/// Sends the client's log lines to ours.
pub struct Context {
    source: String,
    /// What it has said, each of few errors, and when.
    said: Mutex<HashMap<String, Instant>>,
}

impl Context {
    fn new(source: &str) -> Self {
        Self { source: source.to_string(), said: Mutex::default() }
    }

    /// Whether this is news.
    fn is_news(&self, text: &str) -> bool {
        let (mut said, now) = (self.said.lock().unwrap_or_else(PoisonError::into_inner), Clock::System.now());
        match said.get_mut(text) {
            Some(at) if now.duration_since(*at) < SAY_AGAIN => return false,
            Some(at) => *at = now,
            None => _ = said.insert(text.to_string(), now),
        }
        true
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        match level {
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical | RDKafkaLogLevel::Error => {
                tracing::warn!(pipeline = self.source, "kafka client: {facility}: {message}");
            }
            _ => tracing::debug!(pipeline = self.source, "kafka client: {facility}: {message}"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if self.is_news(&error.to_string()) {
            tracing::warn!(pipeline = self.source, "kafka client: {error}: {reason}");
        }
    }
}

impl ConsumerContext for Context {}

/// The topics of real brokers.
#[derive(Debug, Clone)]
pub struct Kafka {
    brokers: String,
    /// The identity of every topic, where the brokers cannot tell it.
    identity: Option<String>,
}

impl Kafka {
    /// The topics of these brokers, `host:port` separated by commas.
    pub fn new(brokers: &str) -> Self {
        Self { brokers: brokers.to_string(), identity: None }
    }
}

impl Log for Kafka {
    /// Connects in the background.
    fn open(&self, source: &Source, partitions: usize) -> Result<Box<dyn Reader>> {
        let mut reader = KafkaReader::open(&self.brokers, source, partitions)?;
        reader.identity.clone_from(&self.identity);
        Ok(Box::new(reader))
    }
}

/// Reads one topic.
struct KafkaReader {
    // The queue goes before its client.
    queue: Queue,
    client: Client,
    topic: String,
    source: String,
    identity: Option<String>,
    assigned: bool,
}

impl KafkaReader {
    fn open(brokers: &str, source: &Source, partitions: usize) -> Result<Self> {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", brokers)
            .set("client.id", format!("tidegate-{}", source.name))
            .set("group.id", format!("tidegate-{}", source.name))
            .set("queued.max.messages.kbytes", (FETCH_AHEAD_KIB / partitions.max(1)).max(1024).to_string())
            .set("fetch.queue.backoff.ms", "1")
            .set("fetch.wait.max.ms", "50")
            .set("reconnect.backoff.max.ms", "1000")
            .set("topic.metadata.refresh.interval.ms", "30000");
        for (key, value) in &source.options.kafka {
            config.set(key, value);
        }
        // What exactly-once rests on comes last, so that nothing overrides it.
        config
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "error")
            .set("isolation.level", "read_committed")
            .set("check.crcs", "true")
            .set("allow.auto.create.topics", "false")
            .set("enable.partition.eof", "true");
        let client: Client = Arc::new(config.create_with_context(Context::new(&source.name)).map_err(|error| {
            Error::configuration(
                "TG-KAFKA-SETTING",
                format!("source {}: the Kafka client refuses its settings: {error}", source.name),
            )
            .hint("correct the kafka.* options of its WITH")
        })?);
        let queue = Queue::new(&client).ok_or_else(|| Error::bug("the Kafka client made no queue"))?;
        Ok(Self {
            queue,
            client,
            topic: source.options.topic.clone(),
            source: source.name.clone(),
            identity: None,
            assigned: false,
        })
    }

    fn unanswered(&self, what: &str, error: &impl std::fmt::Display) -> Error {
        Error::wait("TG-KAFKA-UNREACHABLE", format!("source {}: {what} of topic {}: {error}", self.source, self.topic))
    }
}

impl Reader for KafkaReader {
    fn partitions(&self) -> Result<i32> {
        let metadata = self
            .client
            .fetch_metadata(Some(&self.topic), ANSWER_TIMEOUT)
            .map_err(|error| self.unanswered("the partitions", &error))?;
        let topic = metadata.topics().iter().find(|topic| topic.name() == self.topic);
        let missing = topic.is_none_or(|topic| {
            topic.partitions().is_empty()
                || topic.error().is_some_and(|e| RDKafkaErrorCode::from(e) == RDKafkaErrorCode::UnknownTopicOrPartition)
        });
        if missing {
            return Err(Error::wait(
                "TG-KAFKA-TOPIC",
                format!("source {}: there is no topic {}", self.source, self.topic),
            )
            .hint("create it; Tidegate does not create the topics that it reads"));
        }
        let count = topic.map_or(0, |topic| topic.partitions().len());
        i32::try_from(count).map_err(|_| Error::bug("more partitions than an i32 counts"))
    }

    fn topic_id(&self) -> Result<String> {
        if let Some(identity) = &self.identity {
            return Ok(identity.clone());
        }
        native::topic_id(&self.client, &self.topic, ANSWER_TIMEOUT)
            .map_err(|error| self.unanswered("the identity", &error))
    }

    fn bounds(&self, partition: i32) -> Result<Bounds> {
        let (low, high) = self
            .client
            .fetch_watermarks(&self.topic, partition, ANSWER_TIMEOUT)
            .map_err(|error| self.unanswered(&format!("the bounds of partition {partition}"), &error))?;
        Ok(Bounds { low, high })
    }

    fn high_watermark(&self, partition: i32) -> Option<i64> {
        native::high_watermark(&self.client, &self.topic, partition)
    }

    /// Only once: a second assignment takes effect behind our back, after the old one is gone, and would then send
    /// records to the client's own queue instead of ours.
    fn assign(&mut self, positions: &[(i32, i64)]) -> Result<()> {
        if std::mem::replace(&mut self.assigned, true) {
            return Err(Error::bug("a reader was assigned twice"));
        }
        let mut list = TopicPartitionList::new();
        for (partition, offset) in positions {
            list.add_partition_offset(&self.topic, *partition, Offset::Offset(*offset))
                .map_err(|error| self.unanswered("the assignment", &error))?;
            // Before the assignment: what arrives in between would go to the client's own queue. A partition that is
            // forwarded already stays so when it is assigned.
            if !self.queue.forward(&self.topic, *partition) {
                return Err(Error::bug(format!("partition {partition} of {} has no queue", self.topic)));
            }
        }
        self.client.assign(&list).map_err(|error| self.unanswered("the assignment", &error))
    }

    fn read(&mut self, timeout: Duration, max: usize) -> Result<Box<dyn Messages>> {
        // Serves the client's callbacks. Every partition's messages go to our queue; one here would be lost to us.
        match self.client.poll(Duration::ZERO) {
            None => {}
            Some(Err(KafkaError::PartitionEOF(_))) => {
                return Err(self.unanswered("a partition's end", &"it came by the wrong queue; reading again"));
            }
            Some(Err(error)) => tracing::warn!(pipeline = self.source, "kafka client: {error}"),
            Some(Ok(_)) => return Err(self.unanswered("a record", &"it came by the wrong queue; reading again")),
        }
        Ok(Box::new(self.queue.consume(timeout, max)))
    }

    fn pause(&mut self, partitions: &[i32], pause: bool) -> Result<()> {
        let mut list = TopicPartitionList::new();
        for partition in partitions {
            list.add_partition(&self.topic, *partition);
        }
        let done = if pause { self.client.pause(&list) } else { self.client.resume(&list) };
        done.map_err(|error| self.unanswered("pausing", &error))
    }
}
