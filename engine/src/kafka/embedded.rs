//! A broker in the process, for `tidegate demo`: a real socket and the real protocol, kept in memory.
//!
//! It is librdkafka's mock cluster. It keeps about 5 MiB of each partition, drops the oldest beyond that without a word,
//! and nothing survives its end: whoever writes to it must wait for what is committed.

use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;

use super::Kafka;
use crate::error::{Error, Result};

/// A running broker; it ends when this is dropped.
pub struct Broker {
    cluster: MockCluster<'static, DefaultProducerContext>,
}

impl Broker {
    /// Starts one with these topics and their partitions.
    pub fn start(topics: &[(&str, i32)]) -> Result<Self> {
        let failed = |what: &str, error: &dyn std::fmt::Display| {
            Error::configuration("TG-BROKER", format!("the embedded broker {what}: {error}"))
        };
        let cluster = MockCluster::new(1).map_err(|error| failed("does not start", &error))?;
        for (topic, partitions) in topics {
            cluster
                .create_topic(topic, *partitions, 1)
                .map_err(|error| failed(&format!("makes no topic {topic}"), &error))?;
        }
        Ok(Self { cluster })
    }

    /// Its topics, for an engine in the same process. It knows no topic identities, and needs none: no topic of it can
    /// be made again.
    pub fn log(&self) -> Kafka {
        Kafka { brokers: self.address(), identity: Some("embedded".to_string()) }
    }

    /// Its address.
    pub fn address(&self) -> String {
        self.cluster.bootstrap_servers()
    }
}
