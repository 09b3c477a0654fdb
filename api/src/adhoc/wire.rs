//! What the api and its query workers say to each other, over a socket that only they hold.
//!
//! ```text
//!  u32 length of the head · u32 length of the body · head (JSON) · body (an Arrow IPC stream, or nothing)
//! ```

use std::io::{self, Read};
use std::path::PathBuf;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tidegate_engine::archive::Before;
use tidegate_engine::ask::source::Source;
use tidegate_engine::batch::Committed;
use tidegate_engine::error::{Error, Kind};
use tidegate_engine::sql::guard::Parameters;
use tidegate_engine::sql::planned::{Table, TableColumn};
use tidegate_engine::store::Wanted;
use tokio::io::{AsyncRead, AsyncReadExt};

/// The longest head: a query's text and parameters are far shorter.
const HEAD_MAX: usize = 8 << 20;
/// The longest body to a worker: what one scan of a table may give.
pub const SCAN_MAX: usize = 256 << 20;
/// The longest body from a worker: some rows of an answer.
pub const ROWS_MAX: usize = 8 << 20;

/// From the api.
#[derive(Debug, Serialize, Deserialize)]
pub enum ToWorker {
    /// There is this table; the body has its schema.
    Table {
        /// Its name.
        name: String,
        /// The group column that each of its columns is.
        key_of: Vec<Option<usize>>,
        /// Whether each may be NULL.
        nullable: Vec<bool>,
    },
    /// There is this source; the body has the schema of its recent batches.
    Source {
        /// Its name.
        name: String,
        /// Its event time.
        time_column: String,
        /// Where its recent batches are.
        path: PathBuf,
        /// Whether it has an archive.
        archive: bool,
    },
    /// Run this.
    Run {
        /// Names the query in all that follows.
        query: u64,
        /// What is asked.
        ask: Ask,
    },
    /// One more batch may be sent.
    More {
        /// Of this query.
        query: u64,
    },
    /// Nobody waits for it any more.
    Cancel {
        /// This query.
        query: u64,
    },
    /// The rows of a scan, in the body.
    Rows {
        /// The scan.
        scan: u64,
    },
    /// The ends of a column.
    Ends {
        /// The scan that asked.
        scan: u64,
        /// The least and the greatest value.
        ends: Option<(i64, i64)>,
    },
    /// Where a pipeline stands.
    Place {
        /// The scan that asked.
        scan: u64,
        /// Nothing if it was never begun.
        committed: Option<Committed>,
    },
    /// Files of an archive.
    Files {
        /// The scan that asked.
        scan: u64,
        /// What of the archive lies before the commit.
        before: Before,
    },
    /// Parts of a file, one behind the other in the body.
    Parts {
        /// The scan that asked.
        scan: u64,
        /// The bytes of each.
        lengths: Vec<usize>,
    },
    /// A scan has failed.
    Refused {
        /// The scan.
        scan: u64,
        /// Why.
        why: Told,
    },
}

/// A query and its limits.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Ask {
    /// The text.
    pub sql: String,
    /// Its parameters.
    pub parameters: Parameters,
    /// Rows of the answer.
    pub rows: usize,
    /// Bytes of the answer.
    pub bytes: usize,
    /// Memory for its sorts, joins and groups.
    pub memory: usize,
    /// What time it is.
    pub now_us: i64,
}

/// From a worker.
#[derive(Debug, Serialize, Deserialize)]
pub enum FromWorker {
    /// Rows of a table are needed.
    Scan {
        /// For this query.
        query: u64,
        /// Names the question.
        scan: u64,
        /// The table.
        table: String,
        /// Of it.
        wanted: Wanted,
    },
    /// The ends of a time column are needed.
    LookAtEnds {
        /// For this query.
        query: u64,
        /// Names the question.
        scan: u64,
        /// The table.
        table: String,
        /// The column's position.
        column: usize,
    },
    /// It is needed where a pipeline stands.
    LookAtPlace {
        /// For this query.
        query: u64,
        /// Names the question.
        scan: u64,
        /// The pipeline.
        pipeline: String,
    },
    /// The files of an archive are needed.
    LookAtArchive {
        /// For this query.
        query: u64,
        /// Names the question.
        scan: u64,
        /// The pipeline.
        pipeline: String,
        /// The commit before which they lie.
        oldest: i64,
        /// They may hold rows of these event times.
        times: (i64, i64),
    },
    /// Parts of a file of an archive are needed.
    Fetch {
        /// For this query.
        query: u64,
        /// Names the question.
        scan: u64,
        /// The file.
        path: String,
        /// The first byte of each part, and the first after it.
        ranges: Vec<(u64, u64)>,
    },
    /// The answer's columns: the body is an empty batch.
    Head {
        /// Of this query.
        query: u64,
    },
    /// Rows of the answer.
    Batch {
        /// Of this query.
        query: u64,
    },
    /// The answer is whole.
    End {
        /// Of this query.
        query: u64,
        /// Whether there were more rows than wanted.
        truncated: bool,
    },
    /// There is no answer, or no more of it.
    Failed {
        /// Of this query.
        query: u64,
        /// Why.
        why: Told,
    },
}

/// An error that has come from another process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Told {
    /// The stable code.
    pub code: String,
    /// The fact.
    pub message: String,
    /// The way out.
    pub hint: Option<String>,
    /// Where in the text.
    pub place: Option<(u64, u64)>,
    /// What somebody can do about it.
    pub blame: Blame,
}

/// Whose turn it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Blame {
    /// Who asked must ask something else.
    Query,
    /// It may pass by itself.
    Wait,
    /// A fault of ours.
    Us,
}

/// The longest message: a library may quote a whole value.
const MESSAGE_MAX: usize = 4 << 10;

impl From<Error> for Told {
    fn from(mut error: Error) -> Self {
        if error.message.len() > MESSAGE_MAX {
            error.message.truncate(error.message.floor_char_boundary(MESSAGE_MAX));
            error.message.push('…');
        }
        let blame = match error.kind {
            Kind::FixQuery => Blame::Query,
            Kind::Wait => Blame::Wait,
            _ => Blame::Us,
        };
        let place = error.place.map(|place| (place.line, place.column));
        Self { code: error.code.to_string(), message: error.message, hint: error.hint, place, blame }
    }
}

impl Told {
    /// One that has no place.
    pub fn new(blame: Blame, code: &str, message: impl Into<String>) -> Self {
        Self { code: code.to_string(), message: message.into(), hint: None, place: None, blame }
    }

    /// Adds the way out.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// As the query engine hands it through, whose codes are texts that live for ever.
    pub fn into_error(self) -> Error {
        let code = SCAN_CODES.iter().find(|code| **code == self.code).copied();
        let error = match (self.blame, code) {
            (Blame::Query, Some(code)) => Error::query(code, self.message),
            (Blame::Wait, Some(code)) => Error::wait(code, self.message),
            (Blame::Us, Some(code)) => Error::configuration(code, self.message),
            (_, None) => Error::bug(format!("{}: {}", self.code, self.message)),
        };
        match self.hint {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }
}

/// What a scan may fail with.
const SCAN_CODES: [&str; 11] = [
    "TG-ARCHIVE",
    "TG-DATABASE",
    "TG-DATABASE-ACCESS",
    "TG-DATABASE-CHANGED",
    "TG-DATABASE-UNREACHABLE",
    "TG-DATABASE-URL",
    "TG-QUERY-CANCELLED",
    "TG-SCAN-BYTES",
    "TG-SCAN-FILES",
    "TG-SCAN-ROWS",
    "TG-SCHEMA-VERSION",
];

/// A frame, ready to be written.
pub fn frame(head: &impl Serialize, body: &[u8]) -> io::Result<Vec<u8>> {
    let head = serde_json::to_vec(head)?;
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).map_err(io::Error::other);
    let mut frame = Vec::with_capacity(8 + head.len() + body.len());
    frame.extend(length(&head)?.to_le_bytes());
    frame.extend(length(body)?.to_le_bytes());
    frame.extend(head);
    frame.extend(body);
    Ok(frame)
}

/// How long the parts of a frame are, unless they are longer than may be.
fn lengths(prefix: [u8; 8], body_max: usize) -> io::Result<(usize, usize)> {
    let [a, b, c, d, e, f, g, h] = prefix;
    let (head, body) = (u32::from_le_bytes([a, b, c, d]) as usize, u32::from_le_bytes([e, f, g, h]) as usize);
    if head > HEAD_MAX || body > body_max {
        return Err(io::Error::other(format!("a frame of {head} and {body} bytes")));
    }
    Ok((head, body))
}

/// The next frame; none at the end.
pub async fn read<T: DeserializeOwned>(
    from: &mut (impl AsyncRead + Unpin),
    body_max: usize,
) -> io::Result<Option<(T, Vec<u8>)>> {
    let mut prefix = [0; 8];
    match from.read_exact(&mut prefix).await {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    };
    let (head, body) = lengths(prefix, body_max)?;
    let (mut heads, mut bodies) = (vec![0; head], vec![0; body]);
    from.read_exact(&mut heads).await?;
    from.read_exact(&mut bodies).await?;
    Ok(Some((serde_json::from_slice(&heads)?, bodies)))
}

/// The same for a thread that has nothing else to do.
pub fn read_blocking<T: DeserializeOwned>(from: &mut impl Read, body_max: usize) -> io::Result<Option<(T, Vec<u8>)>> {
    let mut prefix = [0; 8];
    match from.read_exact(&mut prefix) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let (head, body) = lengths(prefix, body_max)?;
    let (mut heads, mut bodies) = (vec![0; head], vec![0; body]);
    from.read_exact(&mut heads)?;
    from.read_exact(&mut bodies)?;
    Ok(Some((serde_json::from_slice(&heads)?, bodies)))
}

/// A batch as an Arrow IPC stream of its own.
pub fn encoded(batch: &RecordBatch) -> Result<Vec<u8>, ArrowError> {
    let mut writer = StreamWriter::try_new(Vec::new(), &batch.schema())?;
    writer.write(batch)?;
    writer.into_inner()
}

/// The batch of such a stream.
pub fn decoded(body: &[u8]) -> Result<RecordBatch, ArrowError> {
    let mut reader = StreamReader::try_new(body, None)?;
    match reader.next() {
        Some(batch) => batch,
        None => Ok(RecordBatch::new_empty(reader.schema())),
    }
}

/// A table as a worker is told of it.
pub fn table(table: &Table) -> Result<(ToWorker, Vec<u8>), ArrowError> {
    let key_of = table.columns.iter().map(|column| column.key_of).collect();
    let nullable = table.columns.iter().map(|column| column.nullable).collect();
    let head = ToWorker::Table { name: table.name.clone(), key_of, nullable };
    Ok((head, encoded(&RecordBatch::new_empty(table.schema()))?))
}

/// A source as a worker is told of it.
pub fn source(source: &Source) -> Result<(ToWorker, Vec<u8>), ArrowError> {
    let (name, time_column, path) =
        (source.name.clone(), source.time_column.clone(), source.reader.path().to_path_buf());
    let head = ToWorker::Source { name, time_column, path, archive: source.archive };
    Ok((head, encoded(&RecordBatch::new_empty(source.reader.schema().clone()))?))
}

/// The table that a worker was told of.
pub fn told_table(name: String, key_of: &[Option<usize>], nullable: &[bool], schema: &SchemaRef) -> Table {
    let columns = schema.fields().iter().zip(key_of).zip(nullable);
    let column = |((field, key_of), nullable): ((&arrow::datatypes::FieldRef, &Option<usize>), &bool)| TableColumn {
        name: field.name().clone(),
        data_type: field.data_type().clone(),
        key_of: *key_of,
        nullable: *nullable,
    };
    Table { name, columns: columns.map(column).collect() }
}
