//! Answers as people and programs read them.

use std::fmt;
use std::io::Write;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{
    DataType, Decimal32Type, Decimal64Type, Decimal128Type, Decimal256Type, FieldRef, Int64Type, SchemaRef, TimeUnit,
    TimestampMicrosecondType, UInt64Type,
};
use arrow::error::ArrowError;
use arrow::ipc::writer::StreamWriter;
use arrow::json::writer::{LineDelimited, NullableEncoder, make_encoder};
use arrow::json::{Encoder, EncoderFactory, EncoderOptions, WriterBuilder};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use serde_json::{Value, json};

use super::wire::{Blame, Told};

/// A form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One object: columns, rows as lists, how many, whether there were more.
    Json,
    /// An object on each line, sent as it comes.
    JsonLines,
    /// With a line of names.
    Csv,
    /// An Arrow IPC stream.
    Arrow,
    /// A Parquet file.
    Parquet,
}

const NAMES: [(Format, &str, &str); 5] = [
    (Format::Json, "json", "application/json"),
    (Format::JsonLines, "jsonl", "application/x-ndjson"),
    (Format::Csv, "csv", "text/csv"),
    (Format::Arrow, "arrow", "application/vnd.apache.arrow.stream"),
    (Format::Parquet, "parquet", "application/vnd.apache.parquet"),
];

impl Format {
    /// By its name.
    pub fn named(name: &str) -> Result<Self, Told> {
        NAMES.iter().find(|(_, known, _)| *known == name).map(|(format, ..)| *format).ok_or_else(|| {
            let names: Vec<&str> = NAMES.iter().map(|(_, name, _)| *name).collect();
            let why = format!("there is no format {name}");
            Told::new(Blame::Query, "TG-API-PARAMETER", why).hint(format!("there are {}", names.join(", ")))
        })
    }

    /// The first of an Accept header that we have; JSON without one.
    pub fn accepted(accept: &str) -> Self {
        let wanted = accept.split(',').map(|part| part.split(';').next().unwrap_or_default().trim());
        let known = |wanted: &str| NAMES.iter().find(|(_, _, media)| *media == wanted).map(|(format, ..)| *format);
        let known = |wanted| if wanted == "application/jsonl" { Some(Self::JsonLines) } else { known(wanted) };
        wanted.into_iter().find_map(known).unwrap_or(Self::Json)
    }

    /// Its media type.
    pub fn media(self) -> &'static str {
        NAMES.iter().find(|(format, ..)| *format == self).map_or("application/octet-stream", |(_, _, media)| *media)
    }

    /// Whether it has names for values, so that each column needs one of its own.
    fn names_values(self) -> bool {
        matches!(self, Self::JsonLines | Self::Parquet)
    }

    /// Refuses columns that it cannot hold.
    pub fn check(self, schema: &SchemaRef) -> Result<(), Told> {
        let names: Vec<&String> = schema.fields().iter().map(|field| field.name()).collect();
        let twice = names.iter().enumerate().find(|(index, name)| names[..*index].contains(name));
        match twice {
            Some((_, name)) if self.names_values() => {
                let why = format!("the answer has two columns {name}");
                Err(Told::new(Blame::Query, "TG-QUERY-COLUMN", why).hint("rename one with AS"))
            }
            _ => Ok(()),
        }
    }
}

/// The whole of an answer, but for the forms that have a head of their own; at most so many bytes.
pub fn whole(format: Format, schema: &SchemaRef, batches: &[RecordBatch], bytes_max: usize) -> Result<Vec<u8>, Told> {
    let mut out = Capped { bytes: Vec::new(), most: bytes_max, full: false };
    let written = match format {
        Format::Json => lists(batches, &mut out),
        Format::JsonLines => objects(batches, &mut out),
        Format::Csv => csv(schema, batches, &mut out),
        Format::Arrow => ipc(schema, batches, &mut out),
        Format::Parquet => parquet(schema, batches, &mut out),
    };
    match written {
        Ok(()) if !out.full => Ok(out.bytes),
        _ if out.full => {
            let why = format!("the answer has more than {} MiB as {format}", bytes_max >> 20);
            let told = Told::new(Blame::Query, "TG-QUERY-BYTES", why);
            Err(told.hint("select fewer columns, set limit, or take another format"))
        }
        Ok(()) => Ok(out.bytes),
        Err(error) => {
            let why = format!("the answer cannot be written as {format}: {error}");
            Err(Told::new(Blame::Query, "TG-QUERY-FORMAT", why).hint("cast the column, or take another format"))
        }
    }
}

/// Takes so many bytes and no more.
struct Capped {
    bytes: Vec<u8>,
    most: usize,
    full: bool,
}

impl Write for Capped {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.bytes.len() + bytes.len() > self.most {
            self.full = true;
            return Err(std::io::Error::other("the answer is too long"));
        }
        self.bytes.extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The columns of an answer, by name and type.
pub fn columns(schema: &SchemaRef) -> Vec<Value> {
    schema.fields().iter().map(|field| json!({"name": field.name(), "type": field.data_type().to_string()})).collect()
}

/// Rows as lists, in a list.
fn lists(batches: &[RecordBatch], out: &mut Capped) -> Result<(), ArrowError> {
    let options = EncoderOptions::default().with_explicit_nulls(true).with_encoder_factory(Arc::new(ExactNumbers));
    let mut text = vec![b'['];
    for batch in batches {
        let schema = batch.schema();
        let columns = schema.fields().iter().zip(batch.columns());
        let encoders = columns.map(|(field, column)| make_encoder(field, column.as_ref(), &options));
        let mut encoders = encoders.collect::<Result<Vec<_>, _>>()?;
        for row in 0..batch.num_rows() {
            if text.len() > 1 || !out.bytes.is_empty() {
                text.push(b',');
            }
            text.push(b'[');
            for (index, encoder) in encoders.iter_mut().enumerate() {
                if index > 0 {
                    text.push(b',');
                }
                if encoder.is_null(row) {
                    text.extend(b"null");
                } else {
                    encoder.encode(row, &mut text);
                }
            }
            text.push(b']');
            if text.len() > 64 << 10 {
                out.write_all(&text)?;
                text.clear();
            }
        }
    }
    text.push(b']');
    Ok(out.write_all(&text)?)
}

/// Rows as objects, each on a line.
fn objects(batches: &[RecordBatch], out: &mut Capped) -> Result<(), ArrowError> {
    let builder = WriterBuilder::new().with_explicit_nulls(true).with_encoder_factory(Arc::new(ExactNumbers));
    let mut writer = builder.build::<_, LineDelimited>(out);
    for batch in batches {
        // The writer holds what it has written until the end of a batch.
        for from in (0..batch.num_rows()).step_by(64) {
            writer.write(&batch.slice(from, (batch.num_rows() - from).min(64)))?;
        }
    }
    writer.finish()
}

fn csv(schema: &SchemaRef, batches: &[RecordBatch], out: &mut Capped) -> Result<(), ArrowError> {
    let mut writer = arrow::csv::WriterBuilder::new().with_header(true).build(out);
    if batches.is_empty() {
        writer.write(&RecordBatch::new_empty(schema.clone()))?;
    }
    batches.iter().try_for_each(|batch| writer.write(batch))
}

fn ipc(schema: &SchemaRef, batches: &[RecordBatch], out: &mut Capped) -> Result<(), ArrowError> {
    let mut writer = StreamWriter::try_new(out, schema)?;
    batches.iter().try_for_each(|batch| writer.write(batch))?;
    writer.finish()
}

fn parquet(schema: &SchemaRef, batches: &[RecordBatch], out: &mut Capped) -> Result<(), ArrowError> {
    let compression = Compression::ZSTD(ZstdLevel::default());
    let properties = WriterProperties::builder().set_compression(compression).build();
    let mut file = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut file, schema.clone(), Some(properties))?;
    for batch in batches {
        writer.write(batch)?;
    }
    writer.close()?;
    Ok(out.write_all(&file)?)
}

/// Integers that a JSON reader can hold exactly.
const EXACT_MAX: u64 = 1 << 53;
/// Digits that it can hold exactly.
pub const EXACT_DIGITS: usize = 15;

/// Writes numbers that a reader would round as texts, and times as RFC 3339 with microseconds where they have any.
#[derive(Debug)]
struct ExactNumbers;

impl EncoderFactory for ExactNumbers {
    fn make_default_encoder<'a>(
        &self,
        _: &'a FieldRef,
        array: &'a dyn Array,
        _: &'a EncoderOptions,
    ) -> Result<Option<NullableEncoder<'a>>, ArrowError> {
        let write: Box<dyn Encoder + 'a> = match array.data_type() {
            DataType::Int64 => {
                let values = array.as_primitive::<Int64Type>();
                number(move |row| (values.value(row).to_string(), values.value(row).unsigned_abs() <= EXACT_MAX))
            }
            DataType::UInt64 => {
                let values = array.as_primitive::<UInt64Type>();
                number(move |row| (values.value(row).to_string(), values.value(row) <= EXACT_MAX))
            }
            DataType::Decimal32(..) => {
                let values = array.as_primitive::<Decimal32Type>();
                number(move |row| exact(values.value_as_string(row)))
            }
            DataType::Decimal64(..) => {
                let values = array.as_primitive::<Decimal64Type>();
                number(move |row| exact(values.value_as_string(row)))
            }
            DataType::Decimal128(..) => {
                let values = array.as_primitive::<Decimal128Type>();
                number(move |row| exact(values.value_as_string(row)))
            }
            DataType::Decimal256(..) => {
                let values = array.as_primitive::<Decimal256Type>();
                number(move |row| exact(values.value_as_string(row)))
            }
            DataType::Timestamp(TimeUnit::Microsecond, Some(_)) => {
                let values = array.as_primitive::<TimestampMicrosecondType>();
                number(move |row| (tidegate_engine::time::clock::rfc3339(values.value(row)), false))
            }
            _ => return Ok(None),
        };
        Ok(Some(NullableEncoder::new(write, array.nulls().cloned())))
    }
}

fn exact(text: String) -> (String, bool) {
    let digits = text.bytes().filter(u8::is_ascii_digit).count();
    (text, digits <= EXACT_DIGITS)
}

fn number<'a, F: FnMut(usize) -> (String, bool) + 'a>(text: F) -> Box<dyn Encoder + 'a> {
    Box::new(Number(text))
}

/// Writes a value's text, in quotes where it is not to be read as a number.
struct Number<F>(F);

impl<F: FnMut(usize) -> (String, bool)> Encoder for Number<F> {
    fn encode(&mut self, row: usize, out: &mut Vec<u8>) {
        let (text, bare) = (self.0)(row);
        if bare {
            out.extend(text.as_bytes());
        } else {
            out.push(b'"');
            out.extend(text.as_bytes());
            out.push(b'"');
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(NAMES.iter().find(|(format, ..)| format == self).map_or("", |(_, name, _)| name))
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Decimal128Array, Int64Array, StringArray};

    use super::*;

    #[test]
    fn numbers_that_a_reader_would_round_are_texts() {
        let decimals = Decimal128Array::from(vec![Some(1234), Some(12_345_678_901_234_567_890), None]);
        let decimals = decimals.with_precision_and_scale(38, 2).unwrap();
        let batch = RecordBatch::try_from_iter([
            ("n", Arc::new(Int64Array::from(vec![1 << 53, (1 << 53) + 1, -((1 << 53) + 1)])) as ArrayRef),
            ("d", Arc::new(decimals) as ArrayRef),
            ("t", Arc::new(StringArray::from(vec!["a", "\"", ""])) as ArrayRef),
        ])
        .unwrap();
        let written = whole(Format::Json, &batch.schema(), &[batch], 1_000).unwrap();
        let expected = r#"[[9007199254740992,12.34,"a"],["9007199254740993","123456789012345678.90","\""],["-9007199254740993",null,""]]"#;
        assert_eq!(String::from_utf8(written).unwrap(), expected);
    }

    #[test]
    fn an_answer_is_as_long_as_it_may_be_in_its_form() {
        let nulls = RecordBatch::try_from_iter([("n", arrow::array::new_null_array(&DataType::Null, 50_000))]).unwrap();
        for format in [Format::Json, Format::JsonLines, Format::Csv, Format::Arrow] {
            let rows = [nulls.clone(), nulls.clone()];
            let long = whole(format, &nulls.schema(), &rows, 100).unwrap_err();
            assert_eq!(long.code, "TG-QUERY-BYTES", "{format}");
            assert!(whole(format, &nulls.schema(), &rows, 2_000_000).is_ok(), "{format}");
        }
        assert_eq!(whole(Format::Json, &nulls.schema(), &[], 10).unwrap(), b"[]");
    }

    #[test]
    fn the_first_known_form_of_accept_is_taken() {
        assert_eq!(Format::accepted("text/html, text/csv;q=0.9, */*"), Format::Csv);
        assert_eq!(Format::accepted("*/*"), Format::Json);
        assert_eq!(Format::named("xml").unwrap_err().code, "TG-API-PARAMETER");
    }
}
