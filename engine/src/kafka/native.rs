//! The only unsafe code of the data path: librdkafka's batch call and topic description, which rdkafka does not wrap.
//!
//! Invariants, each upheld here and nowhere else:
//! - a queue and a message batch live no longer than the client that they came from: both hold a handle to it;
//! - every message that `rd_kafka_consume_batch_queue` hands out is destroyed exactly once, by [`Batch`]'s drop;
//! - payloads are lent for as long as their batch is borrowed.

#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char};
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka_sys as sys;

use super::Context;
use crate::batch::Record;
use crate::log::{Event, Messages};

/// A client that queues and messages keep alive.
pub type Client = Arc<BaseConsumer<Context>>;

/// A queue to which partitions are forwarded.
pub struct Queue {
    queue: NonNull<sys::rd_kafka_queue_t>,
    client: Client,
}

// SAFETY: librdkafka's queues may be used from any thread; ours is used by one at a time, as its methods take &mut self.
unsafe impl Send for Queue {}

impl Queue {
    /// A new queue of this client.
    pub fn new(client: &Client) -> Option<Self> {
        // SAFETY: the client's pointer is valid while `client` lives, and the queue keeps it alive.
        let queue = unsafe { sys::rd_kafka_queue_new(client.client().native_ptr()) };
        Some(Self { queue: NonNull::new(queue)?, client: client.clone() })
    }

    /// Sends what arrives for a partition to this queue. To be called before it is assigned.
    pub fn forward(&mut self, topic: &str, partition: i32) -> bool {
        let Ok(topic) = CString::new(topic) else { return false };
        // SAFETY: all pointers are valid for the calls; the partition's queue is a counted reference that we give back.
        unsafe {
            let own = sys::rd_kafka_queue_get_partition(self.client.client().native_ptr(), topic.as_ptr(), partition);
            if own.is_null() {
                return false;
            }
            sys::rd_kafka_queue_forward(own, self.queue.as_ptr());
            sys::rd_kafka_queue_destroy(own);
        }
        true
    }

    /// Takes up to `max` messages; returns when there are so many or when the time is over.
    pub fn consume(&mut self, timeout: Duration, max: usize) -> Batch {
        let mut messages: Vec<*mut sys::rd_kafka_message_t> = Vec::with_capacity(max);
        let timeout = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: the buffer has room for `max` pointers, and the call tells how many it wrote.
        unsafe {
            let count = sys::rd_kafka_consume_batch_queue(self.queue.as_ptr(), timeout, messages.as_mut_ptr(), max);
            messages.set_len(usize::try_from(count).unwrap_or(0).min(max));
        }
        Batch { messages, _client: self.client.clone() }
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: the queue was made by rd_kafka_queue_new and is destroyed once, before its client.
        unsafe { sys::rd_kafka_queue_destroy(self.queue.as_ptr()) }
    }
}

/// The high watermark of a partition, as the last answer to a fetch told it.
pub fn high_watermark(client: &Client, topic: &str, partition: i32) -> Option<i64> {
    let topic = CString::new(topic).ok()?;
    let (mut low, mut high) = (-1, -1);
    // SAFETY: the pointers are valid for the call, which writes two numbers.
    let told = unsafe {
        let client = client.client().native_ptr();
        sys::rd_kafka_get_watermark_offsets(client, topic.as_ptr(), partition, &raw mut low, &raw mut high)
    };
    (told == sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR && high >= 0).then_some(high)
}

/// Messages that were consumed; their payloads live as long as this.
pub struct Batch {
    messages: Vec<*mut sys::rd_kafka_message_t>,
    _client: Client,
}

// SAFETY: messages are plain memory owned by this value; librdkafka allows to destroy them on any thread.
unsafe impl Send for Batch {}

impl Messages for Batch {
    fn len(&self) -> usize {
        self.messages.len()
    }

    fn events(&self) -> Box<dyn Iterator<Item = Event<'_>> + '_> {
        Box::new(self.messages.iter().map(|message| {
            // SAFETY: each pointer came from consume and is destroyed only by drop, which needs &mut self.
            let message = unsafe { &**message };
            event(message)
        }))
    }
}

fn event(message: &sys::rd_kafka_message_t) -> Event<'_> {
    let (partition, offset) = (message.partition, message.offset);
    if message.err == sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
        let mut kind = sys::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        // SAFETY: the message is valid and `kind` is written by the call.
        let timestamp = unsafe { sys::rd_kafka_message_timestamp(message, &mut kind) };
        return Event::Record(Record {
            partition,
            offset,
            timestamp_us: (timestamp >= 0).then(|| timestamp.saturating_mul(1_000)),
            append_time: kind == sys::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_LOG_APPEND_TIME,
            key: bytes(message, message.key, message.key_len),
            payload: bytes(message, message.payload, message.len),
        });
    }
    if message.err == sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__PARTITION_EOF {
        return Event::End { partition, offset };
    }
    let code = rdkafka::types::RDKafkaErrorCode::from(message.err);
    let text = bytes(message, message.payload, message.len).map(String::from_utf8_lossy);
    Event::Failed { partition, why: format!("{code}: {}", text.unwrap_or_default()) }
}

/// Bytes that a message owns, lent for as long as the message is.
fn bytes(_owner: &sys::rd_kafka_message_t, start: *mut std::ffi::c_void, len: usize) -> Option<&[u8]> {
    // SAFETY: librdkafka gives null for an absent field, else `len` bytes that live as long as the message.
    (!start.is_null()).then(|| unsafe { std::slice::from_raw_parts(start.cast::<u8>(), len) })
}

impl Drop for Batch {
    fn drop(&mut self) {
        for message in &self.messages {
            // SAFETY: each message is owned by this value and destroyed here only.
            unsafe { sys::rd_kafka_message_destroy(*message) }
        }
    }
}

/// The identity of a topic: one that was deleted and made again has another.
pub fn topic_id(client: &Client, topic: &str, timeout: Duration) -> Result<String, String> {
    let name = CString::new(topic).map_err(|_| "the topic's name has a NUL".to_string())?;
    let mut names = [name.as_ptr()];
    let timeout = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: every object made here is destroyed here, and those that the event lends are used before it goes.
    unsafe {
        let native = client.client().native_ptr();
        let queue = sys::rd_kafka_queue_new(native);
        let topics = sys::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), 1);
        let options =
            sys::rd_kafka_AdminOptions_new(native, sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS);
        let mut error = [0 as c_char; 256];
        sys::rd_kafka_AdminOptions_set_request_timeout(options, timeout, error.as_mut_ptr(), error.len());
        sys::rd_kafka_DescribeTopics(native, topics, options, queue);
        let event = sys::rd_kafka_queue_poll(queue, timeout.saturating_add(500));
        let answer = described(event);
        if !event.is_null() {
            sys::rd_kafka_event_destroy(event);
        }
        sys::rd_kafka_AdminOptions_destroy(options);
        sys::rd_kafka_TopicCollection_destroy(topics);
        sys::rd_kafka_queue_destroy(queue);
        answer
    }
}

/// # Safety
/// `event` is null or an event of a describe-topics request.
unsafe fn described(event: *mut sys::rd_kafka_event_t) -> Result<String, String> {
    // SAFETY: as promised by the caller; strings are copied before anything is destroyed.
    unsafe {
        if event.is_null() {
            return Err("the broker did not answer in time".to_string());
        }
        if sys::rd_kafka_event_error(event) != sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
            return Err(text(sys::rd_kafka_event_error_string(event)));
        }
        let result = sys::rd_kafka_event_DescribeTopics_result(event);
        let mut count = 0;
        let topics = if result.is_null() {
            std::ptr::null_mut()
        } else {
            sys::rd_kafka_DescribeTopics_result_topics(result, &mut count)
        };
        if topics.is_null() || count == 0 {
            return Err("the broker described no topic".to_string());
        }
        let topic = *topics;
        let error = sys::rd_kafka_TopicDescription_error(topic);
        if !error.is_null() && sys::rd_kafka_error_code(error) != sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
            return Err(text(sys::rd_kafka_error_string(error)));
        }
        let id = sys::rd_kafka_TopicDescription_topic_id(topic);
        Ok(if id.is_null() { String::new() } else { text(sys::rd_kafka_Uuid_base64str(id)) })
    }
}

/// # Safety
/// `start` is null or a string that ends with a NUL.
unsafe fn text(start: *const c_char) -> String {
    // SAFETY: as promised by the caller.
    if start.is_null() { String::new() } else { unsafe { CStr::from_ptr(start) }.to_string_lossy().into_owned() }
}
