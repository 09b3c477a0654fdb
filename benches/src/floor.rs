//! The floor: consuming and decoding with the libraries alone. No engine code, and never replaced by it.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use arrow::json::ReaderBuilder;
use arrow::json::reader::Decoder;

use crate::native;
use crate::topic::{PARTITIONS, Topic};

/// Rows of one batch.
const FLUSH_ROWS: usize = 8192;

/// Payloads that `decode` keeps in memory and goes over again and again.
const IN_MEMORY: u64 = 500_000;

/// A decoder of all fields of an event, or of the six that the source of wide records names.
fn decoder(topic: Topic) -> Result<Decoder, String> {
    let mut fields = vec![
        Field::new("event_id", DataType::Utf8View, true),
        Field::new("ts", DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into())), true),
        Field::new("event_type", DataType::Utf8View, true),
        Field::new("stream_id", DataType::Utf8View, true),
        Field::new("user_id", DataType::Utf8View, true),
        Field::new("message_len", DataType::Int32, true),
        Field::new("amount_usd", DataType::Decimal128(12, 2), true),
    ];
    if topic == Topic::Wide {
        fields.remove(0);
    }
    ReaderBuilder::new(Arc::new(Schema::new(fields)))
        .with_batch_size(FLUSH_ROWS)
        .build_decoder()
        .map_err(|error| error.to_string())
}

/// Decodes, flushes when a batch is full, counts rows.
struct Rows {
    decoder: Decoder,
    pending: usize,
    rows: u64,
    error: Option<String>,
}

impl Rows {
    fn new(topic: Topic) -> Result<Self, String> {
        Ok(Self { decoder: decoder(topic)?, pending: 0, rows: 0, error: None })
    }

    fn take(&mut self, payload: &[u8]) {
        if let Err(error) = self.decoder.decode(payload) {
            self.error.get_or_insert(error.to_string());
        }
        self.pending += 1;
        if self.pending == FLUSH_ROWS {
            self.flush();
        }
    }

    fn flush(&mut self) {
        self.pending = 0;
        match self.decoder.flush() {
            Ok(Some(batch)) => self.rows += batch.num_rows() as u64,
            Ok(None) => {}
            Err(error) => {
                self.error.get_or_insert(error.to_string());
            }
        }
    }

    fn finish(mut self, expected: u64) -> Result<(), String> {
        self.flush();
        match self.error {
            Some(error) => Err(error),
            None if self.rows == expected => Ok(()),
            None => Err(format!("{} rows instead of {expected}", self.rows)),
        }
    }
}

/// `consume`: a bare batch loop.
pub fn consume(brokers: &str, topic: Topic, records: u64) -> Result<(), String> {
    let mut bytes = 0;
    native::read(brokers, &topic.name(), PARTITIONS, records, |payload| bytes += payload.len(), || {})?;
    if bytes == 0 { Err("no bytes came".to_string()) } else { Ok(()) }
}

fn in_memory(topic: Topic, records: u64) -> Vec<Vec<u8>> {
    topic.records(IN_MEMORY.min(records)).map(|(_, payload)| payload).collect()
}

/// `decode`: stock arrow-json from memory.
pub fn decode(topic: Topic, records: u64) -> Result<(), String> {
    let payloads = in_memory(topic, records);
    let mut rows = Rows::new(topic)?;
    for index in 0..records {
        rows.take(&payloads[index as usize % payloads.len()]);
    }
    rows.finish(records)
}

/// The cost of making the payloads that `decode` keeps, to be taken off.
pub fn decode_setup(topic: Topic, records: u64) -> Result<(), String> {
    if in_memory(topic, records).is_empty() { Err("no payload".to_string()) } else { Ok(()) }
}

/// `floor`: both in one process.
pub fn floor(brokers: &str, topic: Topic, records: u64) -> Result<(), String> {
    let rows = std::cell::RefCell::new(Rows::new(topic)?);
    // Rows are copied out of the payloads by the decoder itself; a batch's messages may go once they are fed.
    native::read(brokers, &topic.name(), PARTITIONS, records, |payload| rows.borrow_mut().take(payload), || {})?;
    rows.into_inner().finish(records)
}
