//! JSON payloads to columns, one record one row, proven for each record.
//!
//! Payloads go straight into arrow's decoder. After each of them it must hold exactly one more row and no part of
//! another, else that payload is the culprit: so neither `{"a":1} {"a":2}` nor `{"a":1` can shift a neighbour. A
//! type error shows only when the whole batch is made; it is found by halving, so it costs one record and no other.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::json::ReaderBuilder;
use arrow::json::reader::Decoder;

use crate::error::Result;

/// Rows of the payloads that could be read, in order, and the others by index.
#[derive(Debug, Default)]
pub struct Rows {
    /// Consecutive batches.
    pub batches: Vec<RecordBatch>,
    /// Index of the payload, and what was wrong with it.
    pub bad: Vec<(usize, String)>,
}

/// Decodes payloads of one schema.
pub struct JsonDecoder {
    schema: SchemaRef,
    rows_max: usize,
    decoder: Decoder,
}

impl JsonDecoder {
    /// A decoder of at most `rows_max` payloads at a time. Every field is nullable here: what must not be missing is
    /// the caller's to check, row by row.
    pub fn new(schema: &Schema, rows_max: usize) -> Result<Self> {
        let fields: Vec<Field> = schema.fields().iter().map(|f| f.as_ref().clone().with_nullable(true)).collect();
        let schema = Arc::new(Schema::new(fields));
        let decoder = build(&schema, rows_max)?;
        Ok(Self { schema, rows_max, decoder })
    }

    /// The schema of its batches.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Decodes payloads, at most `rows_max` of them.
    pub fn decode(&mut self, payloads: &[&[u8]]) -> Result<Rows> {
        let mut rows = Rows::default();
        self.decode_from(payloads, 0, &mut rows)?;
        Ok(rows)
    }

    fn decode_from(&mut self, payloads: &[&[u8]], base: usize, rows: &mut Rows) -> Result<()> {
        let mut start = 0;
        while start < payloads.len() {
            match self.feed(&payloads[start..]) {
                None => return self.flush(&payloads[start..], base + start, rows),
                Some((good, why)) => {
                    // What was fed is spoilt; what stands before the culprit is known to be sound JSON.
                    self.decoder = build(&self.schema, self.rows_max)?;
                    self.decode_from(&payloads[start..start + good], base + start, rows)?;
                    rows.bad.push((base + start + good, why));
                    start += good + 1;
                }
            }
        }
        Ok(())
    }

    /// Feeds payloads; the index of the first that is not exactly one JSON value, with the reason.
    fn feed(&mut self, payloads: &[&[u8]]) -> Option<(usize, String)> {
        for (index, payload) in payloads.iter().enumerate() {
            let why = match self.decoder.decode(payload) {
                Err(error) => plain(&error),
                Ok(_) if self.decoder.has_partial_record() => "the JSON ends too early".to_string(),
                Ok(read) if read < payload.len() || self.decoder.len() > index + 1 => {
                    "there is more than one JSON value".to_string()
                }
                Ok(_) if self.decoder.len() < index + 1 => "the payload is empty".to_string(),
                Ok(_) => continue,
            };
            return Some((index, why));
        }
        None
    }

    fn flush(&mut self, payloads: &[&[u8]], base: usize, rows: &mut Rows) -> Result<()> {
        match self.decoder.flush() {
            Ok(batch) => rows.batches.extend(batch),
            Err(error) => {
                self.decoder = build(&self.schema, self.rows_max)?;
                if payloads.len() == 1 {
                    rows.bad.push((base, plain(&error)));
                } else {
                    let half = payloads.len() / 2;
                    self.decode_from(&payloads[..half], base, rows)?;
                    self.decode_from(&payloads[half..], base + half, rows)?;
                }
            }
        }
        Ok(())
    }
}

fn build(schema: &SchemaRef, rows_max: usize) -> Result<Decoder> {
    // One more than we feed: a second value in the last payload must be seen and not left over.
    Ok(ReaderBuilder::new(schema.clone()).with_batch_size(rows_max + 1).build_decoder()?)
}

fn plain(error: &ArrowError) -> String {
    match error {
        ArrowError::JsonError(message) | ArrowError::ParseError(message) => message.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::AsArray;
    use arrow::datatypes::{DataType, Int64Type};

    fn decode(payloads: &[&str]) -> (Vec<Option<i64>>, Vec<usize>) {
        let schema = Schema::new(vec![Field::new("a", DataType::Int64, true)]);
        let bytes: Vec<&[u8]> = payloads.iter().map(|p| p.as_bytes()).collect();
        let rows = JsonDecoder::new(&schema, 100).expect("builds").decode(&bytes).expect("decodes");
        let values =
            rows.batches.iter().flat_map(|b| b.column(0).as_primitive::<Int64Type>().iter().collect::<Vec<_>>());
        (values.collect(), rows.bad.iter().map(|(index, _)| *index).collect())
    }

    #[test]
    fn a_poison_record_costs_itself_and_not_its_neighbours() {
        let poison = [
            "",
            " ",
            "{\"a\":1",
            "{\"a\":1} {\"a\":2}",
            "{\"a\":1}x",
            "[1]",
            "1",
            "null",
            "\"a\"",
            "{a:1}",
            "{\"a\":{}}",
            "{\"a\":[1]}",
            "{\"a\":\"x\"}",
            "{\"a\":true}",
            "\u{feff}{\"a\":1}",
            "{\"a\":99999999999999999999}",
            "// c",
            "{\"a\":NaN}",
            "{\"a\":1e400}",
            "nul",
            "}",
            "{\"a\":1}}",
            "{\"a\":\"\\ud800\"}",
        ];
        for bad in poison {
            assert_eq!(decode(&["{\"a\":1}", bad, "{\"a\":3}"]), (vec![Some(1), Some(3)], vec![1]), "{bad:?}");
            assert_eq!(decode(&[bad]), (vec![], vec![0]), "{bad:?} alone");
            assert_eq!(decode(&[bad, bad, "{\"a\":3}"]), (vec![Some(3)], vec![0, 1]), "{bad:?} twice");
        }
    }

    #[test]
    fn white_space_around_a_value_missing_and_extra_fields_are_fine() {
        assert_eq!(
            decode(&[" {\"a\":1}\n", "{}", "{\"b\":[{\"c\":1}]}", "{\"a\":null}"]).0,
            [Some(1), None, None, None]
        );
    }
}
