//! One file of recent batches: its name, what its footer says, its rows.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::{Arc, OnceLock};

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions, TimestampMicrosecondArray};
use arrow::buffer::Buffer;
use arrow::compute::{concat_batches, max, min};
use arrow::datatypes::{DataType, SchemaRef, TimestampMicrosecondType};
use arrow::error::ArrowError;
use arrow::ipc::convert::fb_to_schema;
use arrow::ipc::reader::{FileDecoder, read_footer_length};
use arrow::ipc::writer::{FileWriter, IpcWriteOptions};
use arrow::ipc::{Block, MetadataVersion, root_as_footer};
use serde::{Deserialize, Serialize};

use super::map::map;
use crate::batch::OffsetRange;
use crate::error::{Error, Result};

/// What a footer says of itself under this key.
const FACTS: &str = "tidegate";

/// Rows of a batch of a merged file: enough that their number costs nothing, few enough for a cache.
const BATCH_ROWS: usize = 16_384;

/// Columns begin at such multiples, so that they are used where they lie.
const ALIGNMENT: usize = 64;

/// The commits that a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    /// The first commit.
    pub first: i64,
    /// The last commit.
    pub last: i64,
}

impl Name {
    /// As a file's name.
    pub fn file(&self) -> String {
        format!("{:012}-{:012}.arrow", self.first, self.last)
    }

    /// Of a file's name, if it is one.
    pub fn parse(file: &str) -> Option<Self> {
        let mut parts = file.strip_suffix(".arrow")?.split('-').map(|part| part.parse().ok());
        let name = Self { first: parts.next()??, last: parts.next()?? };
        (parts.next().is_none() && name.first <= name.last).then_some(name)
    }
}

/// What is known of a file without a look at its rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// What was read, rows and rejects, of every partition that there was.
    pub ranges: Vec<(i32, i64, i64)>,
    /// How many rows.
    pub rows: u64,
    /// The least and the greatest event time.
    pub times: Option<(i64, i64)>,
    /// When the first and the last of it were written.
    pub ingested: (i64, i64),
}

impl Facts {
    /// Of one epoch.
    pub fn of(ranges: &[OffsetRange], rows: &[RecordBatch], time_column: usize, ingested: i64) -> Self {
        let times = rows.iter().filter_map(|rows| {
            let times = rows.column(time_column).as_primitive::<TimestampMicrosecondType>();
            min(times).zip(max(times))
        });
        Self {
            ranges: ranges.iter().map(|range| (range.partition, range.from, range.until)).collect(),
            rows: rows.iter().map(|rows| rows.num_rows() as u64).sum(),
            times: times.reduce(union),
            ingested: (ingested, ingested),
        }
    }

    /// Whether the next file goes on where this one ends.
    pub fn is_followed_by(&self, next: &Self) -> bool {
        let until = |partition: i32| self.ranges.iter().find(|range| range.0 == partition).map(|range| range.2);
        next.ranges.iter().all(|(partition, from, _)| until(*partition).is_none_or(|until| until == *from))
    }

    /// Of this and the file that follows it.
    fn and(mut self, next: &Self) -> Self {
        for (partition, from, until) in &next.ranges {
            match self.ranges.iter_mut().find(|range| range.0 == *partition) {
                Some(range) => range.2 = *until,
                None => self.ranges.push((*partition, *from, *until)),
            }
        }
        self.rows += next.rows;
        self.times = match (self.times, next.times) {
            (Some(a), Some(b)) => Some(union(a, b)),
            (a, b) => a.or(b),
        };
        self.ingested = union(self.ingested, next.ingested);
        self
    }

    /// Of consecutive files; none unless they are.
    pub fn merged(all: &[&Self]) -> Option<Self> {
        let (first, rest) = all.split_first()?;
        let follow = all.windows(2).all(|pair| pair[0].is_followed_by(pair[1]));
        follow.then(|| rest.iter().fold((*first).clone(), |merged, next| merged.and(next)))
    }
}

fn union(a: (i64, i64), b: (i64, i64)) -> (i64, i64) {
    (a.0.min(b.0), a.1.max(b.1))
}

/// Decoded rows as they are written: without the watermark, if they have one, and with the time of writing.
pub fn of_decoded(rows: &RecordBatch, schema: &SchemaRef, ingested: i64) -> Result<RecordBatch> {
    let mut columns = rows.columns()[..schema.fields().len() - 1].to_vec();
    let ingested = TimestampMicrosecondArray::from_value(ingested, rows.num_rows()).with_timezone("+00:00");
    columns.push(Arc::new(ingested));
    Ok(RecordBatch::try_new(schema.clone(), columns)?)
}

/// Writes a file; how many bytes it has. It has its name only once it is whole.
pub fn write(folder: &Path, name: Name, schema: &SchemaRef, rows: &[RecordBatch], facts: &Facts) -> Result<u64> {
    let path = folder.join(name.file());
    let unfinished = path.with_extension("unfinished");
    let written = write_to(&unfinished, schema, rows, facts).and_then(|bytes| {
        fs::rename(&unfinished, &path).map_err(disk)?;
        Ok(bytes)
    });
    if written.is_err() {
        // What is left of it is deleted by the next owner too.
        let _ = fs::remove_file(&unfinished);
    }
    written
}

fn write_to(path: &Path, schema: &SchemaRef, rows: &[RecordBatch], facts: &Facts) -> Result<u64> {
    let options = IpcWriteOptions::try_new(ALIGNMENT, false, MetadataVersion::V5)?;
    let file = BufWriter::with_capacity(64 << 10, File::create(path).map_err(disk)?);
    let mut writer = FileWriter::try_new_with_options(file, schema, options)?;
    for rows in rows {
        writer.write(rows).map_err(not_written)?;
    }
    writer.write_metadata(FACTS, serde_json::to_string(facts).map_err(|error| Error::bug(error.to_string()))?);
    let file = writer.into_inner().map_err(not_written)?;
    let file = file.into_inner().map_err(|error| disk(error.into_error()))?;
    Ok(file.metadata().map_err(disk)?.len())
}

/// The disk refuses.
pub fn disk(error: io::Error) -> Error {
    Error::wait("TG-RECENT-DISK", format!("recent batches cannot be written: {error}"))
        .hint("is the disk full, and may we write to the folder that recent.path names?")
}

fn not_written(error: ArrowError) -> Error {
    match error {
        ArrowError::IoError(_, error) => disk(error),
        other => other.into(),
    }
}

/// Rows in fewer batches, each with what it shows and nothing besides.
pub fn compact(schema: &SchemaRef, batches: &[RecordBatch]) -> Result<Vec<RecordBatch>> {
    let (mut compacted, mut group, mut count) = (Vec::new(), Vec::new(), 0);
    for (index, batch) in batches.iter().enumerate() {
        group.push(batch);
        count += batch.num_rows();
        if count >= BATCH_ROWS || index + 1 == batches.len() {
            let whole = concat_batches(schema, group.drain(..))?;
            let columns = whole.columns().iter().map(|column| match column.data_type() {
                DataType::Utf8View => Arc::new(column.as_string_view().gc()) as ArrayRef,
                _ => column.clone(),
            });
            compacted.push(RecordBatch::try_new(schema.clone(), columns.collect())?);
            count = 0;
        }
    }
    Ok(compacted)
}

/// A file that is being read.
pub struct Segment {
    /// What its footer says.
    pub facts: Facts,
    /// Its columns.
    pub schema: SchemaRef,
    data: Buffer,
    version: MetadataVersion,
    blocks: Vec<Block>,
    /// By column, once it was read: its part of each batch.
    columns: Vec<OnceLock<Vec<ArrayRef>>>,
}

/// Says of a file that it is not there any more.
pub const GONE: &str = "TG-RECENT-GONE";

/// Why a file cannot be opened.
fn unread(error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::NotFound => Error::wait(GONE, "a recent batch has gone"),
        _ => torn(error),
    }
}

/// Why a file cannot be read: it is torn, or no segment at all.
fn torn(why: impl std::fmt::Display) -> Error {
    Error::wait("TG-RECENT-TORN", format!("a recent batch cannot be read: {why}"))
}

/// What the footer of a file says of it, and its columns, without a look at its rows; an error unless it is whole.
pub fn look(path: &Path) -> Result<(Facts, SchemaRef, u64)> {
    let mut file = File::open(path).map_err(torn)?;
    let length = file.metadata().map_err(torn)?.len();
    // The footer of any file that we write is far shorter.
    let tail = usize::try_from(length.min(4 << 20)).map_err(torn)?;
    file.seek(SeekFrom::End(-(tail as i64))).map_err(torn)?;
    let mut bytes = Vec::with_capacity(tail);
    file.read_to_end(&mut bytes).map_err(torn)?;
    // Arrow panics on some forms of a schema.
    let footer =
        std::panic::catch_unwind(|| Footer::read(&bytes)).unwrap_or_else(|_| Err(torn("its footer is odd")))?;
    Ok((footer.facts, footer.schema, length))
}

/// The end of a file.
struct Footer {
    facts: Facts,
    schema: SchemaRef,
    version: MetadataVersion,
    blocks: Vec<Block>,
}

impl Footer {
    fn read(data: &[u8]) -> Result<Self> {
        let trailer: [u8; 10] = data.last_chunk().copied().ok_or_else(|| torn("it is too short"))?;
        let length = read_footer_length(trailer).map_err(torn)?;
        let end = data.len() - trailer.len();
        let footer = end.checked_sub(length).and_then(|start| data.get(start..end));
        let footer = root_as_footer(footer.ok_or_else(|| torn("it is shorter than its footer"))?).map_err(torn)?;
        let schema = footer.schema().ok_or_else(|| torn("it has no schema"))?;
        let schema: SchemaRef = Arc::new(fb_to_schema(schema));
        let facts = footer.custom_metadata().into_iter().flatten();
        let facts = facts.filter(|pair| pair.key() == Some(FACTS)).find_map(|pair| pair.value());
        let facts = serde_json::from_str(facts.ok_or_else(|| torn("its footer says nothing"))?).map_err(torn)?;
        let blocks = footer.recordBatches().into_iter().flatten().copied().collect();
        Ok(Self { facts, schema, version: footer.version(), blocks })
    }
}

impl Segment {
    /// Maps a file, of which a query reads some columns; an error unless it is whole.
    pub fn map(path: &Path) -> Result<Self> {
        Self::of(map(path).map_err(unread)?)
    }

    /// Reads a file, all of it.
    pub fn read(path: &Path) -> Result<Self> {
        Self::of(fs::read(path).map_err(unread)?.into())
    }

    fn of(data: Buffer) -> Result<Self> {
        let Footer { facts, schema, version, blocks } = Footer::read(&data)?;
        let end = data.len();
        let fits = |block: &Block| {
            let (start, head, body) = (block.offset(), i64::from(block.metaDataLength()), block.bodyLength());
            start >= 0 && head >= 8 && body >= 0 && start.saturating_add(head).saturating_add(body) <= end as i64
        };
        if !blocks.iter().all(fits) {
            return Err(torn("its batches lie outside of it"));
        }
        let columns = schema.fields().iter().map(|_| OnceLock::new()).collect();
        Ok(Self { facts, schema, version, blocks, columns, data })
    }

    /// A column of every batch. What was once read and found right is not looked at again.
    fn column(&self, index: usize) -> Result<&[ArrayRef]> {
        if let Some(read) = self.columns[index].get() {
            return Ok(read);
        }
        let decoder = FileDecoder::new(self.schema.clone(), self.version).with_projection(vec![index]);
        let mut arrays = Vec::with_capacity(self.blocks.len());
        for block in &self.blocks {
            let length = block.metaDataLength() as usize + block.bodyLength() as usize;
            let bytes = self.data.slice_with_length(block.offset() as usize, length);
            let batch = decoder.read_record_batch(block, &bytes).map_err(torn)?;
            arrays.push(batch.ok_or_else(|| torn("a batch is none"))?.column(0).clone());
        }
        Ok(self.columns[index].get_or_init(|| arrays))
    }

    /// Its rows, with these columns.
    pub fn rows(&self, columns: &[usize], schema: &SchemaRef) -> Result<Vec<RecordBatch>> {
        // Without a column there are rows all the same: the partition tells how many.
        let counted = self.column(columns.first().copied().unwrap_or(0))?;
        let read = columns.iter().map(|index| self.column(*index)).collect::<Result<Vec<_>>>()?;
        let batch = |(number, counted): (usize, &ArrayRef)| {
            let options = RecordBatchOptions::new().with_row_count(Some(counted.len()));
            let columns = read.iter().map(|column| column[number].clone()).collect();
            Ok(RecordBatch::try_new_with_options(schema.clone(), columns, &options)?)
        };
        counted.iter().enumerate().map(batch).collect()
    }

    /// All of it.
    pub fn all(&self) -> Result<Vec<RecordBatch>> {
        let columns: Vec<usize> = (0..self.schema.fields().len()).collect();
        self.rows(&columns, &self.schema)
    }
}

impl std::fmt::Debug for Segment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Segment({:?})", self.facts)
    }
}
