//! librdkafka's batch call, bare: what the floor is measured with.

#![allow(unsafe_code)]

use std::ffi::CString;

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka_sys as sys;

/// Messages taken at a time.
const BATCH: usize = 10_000;

/// Reads partitions `0..partitions` from their start until `records` have come; hands each payload to `take`, and calls
/// `batch` after each batch, before its payloads go.
pub fn read(
    brokers: &str,
    topic: &str,
    partitions: i32,
    records: u64,
    mut take: impl FnMut(&[u8]),
    mut batch: impl FnMut(),
) -> Result<(), String> {
    let told = |error: rdkafka::error::KafkaError| error.to_string();
    let client: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "bench")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "error")
        .set("check.crcs", "true")
        .set("fetch.queue.backoff.ms", "1")
        .create()
        .map_err(told)?;
    let mut list = TopicPartitionList::new();
    for partition in 0..partitions {
        list.add_partition_offset(topic, partition, Offset::Offset(0)).map_err(told)?;
    }
    client.assign(&list).map_err(told)?;
    let name = CString::new(topic).map_err(|error| error.to_string())?;
    let mut messages: Vec<*mut sys::rd_kafka_message_t> = Vec::with_capacity(BATCH);
    let mut seen = 0;
    // SAFETY: the queue and every message are destroyed here, before the client that they came from.
    unsafe {
        let queue = sys::rd_kafka_queue_new(client.client().native_ptr());
        for partition in 0..partitions {
            let own = sys::rd_kafka_queue_get_partition(client.client().native_ptr(), name.as_ptr(), partition);
            sys::rd_kafka_queue_forward(own, queue);
            sys::rd_kafka_queue_destroy(own);
        }
        while seen < records {
            let _ = client.poll(std::time::Duration::ZERO);
            let count = sys::rd_kafka_consume_batch_queue(queue, 100, messages.as_mut_ptr(), BATCH);
            messages.set_len(usize::try_from(count).unwrap_or(0));
            for message in &messages {
                let message = &**message;
                if message.err == sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR && !message.payload.is_null() {
                    take(std::slice::from_raw_parts(message.payload.cast::<u8>(), message.len));
                    seen += 1;
                }
            }
            batch();
            for message in messages.drain(..) {
                sys::rd_kafka_message_destroy(message);
            }
        }
        sys::rd_kafka_queue_destroy(queue);
    }
    Ok(())
}
