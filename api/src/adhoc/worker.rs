//! `tidegate query-worker`: a process that may be ended. It plans and runs what people ask, and has nothing to lose.
//!
//! It has no database, no settings and no secret: what it needs of the views' tables it asks of the api.

use std::collections::HashMap;
use std::io::Write;
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Schema, SchemaRef};
use async_trait::async_trait;
use bytes::Bytes;
use clap::Args;
use tidegate_engine::archive::{Before, Files};
use tidegate_engine::ask::adhoc::{Limits, Relations, query};
use tidegate_engine::ask::source::Source;
use tidegate_engine::batch::Committed;
use tidegate_engine::error::{Error, Result};
use tidegate_engine::recent::Reader;
use tidegate_engine::sql::guard;
use tidegate_engine::sql::planned::Table;
use tidegate_engine::store::{Moment, Wanted};
use tokio::runtime::Runtime;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::{AbortHandle, JoinError};

use super::limits;
use super::wire::{self, Ask, Blame, FromWorker, ToWorker, Told};

/// Options of `tidegate query-worker`.
#[derive(Debug, Args)]
pub struct Options {
    /// The most address space that it may have.
    #[arg(long)]
    address_space: u64,
}

/// Batches that may be on their way before the api asks for more.
pub const WINDOW: usize = 4;

/// Plans nest as deep as expressions do.
const STACK_BYTES: usize = 16 << 20;

/// Rows on their way have at most so many bytes, but for a single one that is longer.
const SLICE_BYTES: usize = 2 << 20;

/// Runs until the api closes the socket, which is its standard input. Two threads compute; this one only listens, so that
/// it hears the end however they are occupied.
pub fn run(options: &Options) -> ExitCode {
    // What a panic says may hold values of somebody's rows.
    std::panic::set_hook(Box::new(|panic| tracing::warn!("a query panicked at {}", place(panic))));
    let served = limits::lower(options.address_space).and_then(|()| {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_stack_size(STACK_BYTES)
            .enable_time()
            .build()?;
        let socket = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned()?);
        let served = serve(socket, &runtime);
        // A query that still computes is not waited for.
        runtime.shutdown_background();
        served
    });
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("TG-QUERY-WORKER: the query worker ended: {error}");
            ExitCode::FAILURE
        }
    }
}

fn place(panic: &std::panic::PanicHookInfo<'_>) -> String {
    panic.location().map_or_else(String::new, ToString::to_string)
}

/// What answers a scan.
enum Scanned {
    Rows(Vec<u8>),
    Ends(Option<(i64, i64)>),
    Place(Option<Committed>),
    Files(Before),
    Parts(Vec<Bytes>),
    Refused(Told),
}

/// The way back to the api, and who waits for what.
struct Line {
    frames: mpsc::Sender<Vec<u8>>,
    scans: Mutex<HashMap<u64, oneshot::Sender<Scanned>>>,
    next: AtomicU64,
}

impl Line {
    async fn say(&self, head: &FromWorker, body: &[u8]) -> Result<()> {
        let frame = wire::frame(head, body).map_err(|error| Error::bug(error.to_string()))?;
        self.frames.send(frame).await.map_err(|_| Error::wait("TG-QUERY-WORKER", "the api is gone"))
    }

    fn scans(&self) -> std::sync::MutexGuard<'_, HashMap<u64, oneshot::Sender<Scanned>>> {
        self.scans.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn resolve(&self, scan: u64, answer: Scanned) {
        // Whoever has gone meanwhile does not need it.
        if let Some(waiting) = self.scans().remove(&scan) {
            let _ = waiting.send(answer);
        }
    }

    async fn ask(&self, head: impl FnOnce(u64) -> FromWorker) -> Result<Scanned> {
        let scan = self.next.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        self.scans().insert(scan, answer);
        self.say(&head(scan), &[]).await?;
        match answered.await {
            Ok(Scanned::Refused(why)) => Err(why.into_error()),
            Ok(answer) => Ok(answer),
            Err(_) => Err(Error::wait("TG-QUERY-WORKER", "the api is gone")),
        }
    }
}

/// The api's snapshot of the database, as one query sees it.
struct Remote {
    line: Arc<Line>,
    query: u64,
}

#[async_trait]
impl Moment for Remote {
    async fn rows(&self, table: &Table, wanted: &Wanted) -> Result<RecordBatch> {
        let (query, table, wanted) = (self.query, table.name.clone(), wanted.clone());
        match self.line.ask(|scan| FromWorker::Scan { query, scan, table, wanted }).await? {
            Scanned::Rows(body) => Ok(wire::decoded(&body)?),
            _ => Err(Error::bug("a scan was answered by something else")),
        }
    }

    async fn extent(&self, table: &Table, column: usize) -> Result<Option<(i64, i64)>> {
        let (query, table) = (self.query, table.name.clone());
        match self.line.ask(|scan| FromWorker::LookAtEnds { query, scan, table, column }).await? {
            Scanned::Ends(ends) => Ok(ends),
            _ => Err(Error::bug("a look at a column's ends was answered by something else")),
        }
    }

    async fn committed(&self, pipeline: &str) -> Result<Option<Committed>> {
        let (query, pipeline) = (self.query, pipeline.to_string());
        match self.line.ask(|scan| FromWorker::LookAtPlace { query, scan, pipeline }).await? {
            Scanned::Place(committed) => Ok(committed),
            _ => Err(Error::bug("a look at a pipeline's place was answered by something else")),
        }
    }

    async fn archived(&self, pipeline: &str, oldest: i64, times: (i64, i64)) -> Result<Before> {
        let (query, pipeline) = (self.query, pipeline.to_string());
        match self.line.ask(|scan| FromWorker::LookAtArchive { query, scan, pipeline, oldest, times }).await? {
            Scanned::Files(before) => Ok(before),
            _ => Err(Error::bug("a look at an archive was answered by something else")),
        }
    }
}

#[async_trait]
impl Files for Remote {
    async fn parts(&self, path: &str, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let (query, path) = (self.query, path.to_string());
        let ranges = ranges.iter().map(|range| (range.start, range.end)).collect();
        match self.line.ask(|scan| FromWorker::Fetch { query, scan, path, ranges }).await? {
            Scanned::Parts(parts) => Ok(parts),
            _ => Err(Error::bug("parts of a file were answered by something else")),
        }
    }
}

/// A query at work.
struct Running {
    task: AbortHandle,
    room: Arc<Semaphore>,
}

fn serve(mut from: UnixStream, runtime: &Runtime) -> std::io::Result<()> {
    let mut to = from.try_clone()?;
    let (frames, mut outgoing) = mpsc::channel::<Vec<u8>>(16);
    std::thread::Builder::new().name("frames".to_string()).spawn(move || {
        while let Some(frame) = outgoing.blocking_recv() {
            // An api that is gone is heard of by the thread that listens.
            if to.write_all(&frame).is_err() {
                return;
            }
        }
    })?;
    let line = Arc::new(Line { frames, scans: Mutex::default(), next: AtomicU64::new(0) });
    let mut relations = Relations::default();
    let mut running: HashMap<u64, Running> = HashMap::new();
    while let Some((head, body)) = wire::read_blocking::<ToWorker>(&mut from, wire::SCAN_MAX)? {
        running.retain(|_, query| !query.task.is_finished());
        match head {
            ToWorker::Table { name, key_of, nullable } => {
                let schema = wire::decoded(&body).map_err(std::io::Error::other)?.schema();
                relations.tables.push(wire::told_table(name, &key_of, &nullable, &schema));
            }
            ToWorker::Source { name, time_column, path, archive } => {
                let schema = wire::decoded(&body).map_err(std::io::Error::other)?.schema();
                let reader = Arc::new(Reader::new(&path, &name, schema));
                relations.sources.push(Source { name, time_column, reader, archive });
            }
            ToWorker::Run { query, ask } => {
                let room = Arc::new(Semaphore::new(WINDOW));
                let work = runtime.spawn(answer(line.clone(), relations.clone(), query, ask, room.clone()));
                running.insert(query, Running { task: work.abort_handle(), room });
                runtime.spawn(end(line.clone(), query, work));
            }
            ToWorker::More { query } => {
                if let Some(running) = running.get(&query) {
                    running.room.add_permits(1);
                }
            }
            ToWorker::Cancel { query } => {
                if let Some(running) = running.remove(&query) {
                    running.task.abort();
                }
            }
            ToWorker::Rows { scan } => line.resolve(scan, Scanned::Rows(body)),
            ToWorker::Ends { scan, ends } => line.resolve(scan, Scanned::Ends(ends)),
            ToWorker::Place { scan, committed } => line.resolve(scan, Scanned::Place(committed)),
            ToWorker::Files { scan, before } => line.resolve(scan, Scanned::Files(before)),
            ToWorker::Parts { scan, lengths } => {
                let mut rest = Bytes::from(body);
                let parts = lengths.into_iter().map(|length| rest.split_to(length.min(rest.len())));
                line.resolve(scan, Scanned::Parts(parts.collect()));
            }
            ToWorker::Refused { scan, why } => line.resolve(scan, Scanned::Refused(why)),
        }
    }
    Ok(())
}

/// Tells how a query's work has ended.
async fn end(line: Arc<Line>, query: u64, work: tokio::task::JoinHandle<Result<bool>>) {
    let head = match work.await {
        Ok(Ok(truncated)) => FromWorker::End { query, truncated },
        Ok(Err(error)) => FromWorker::Failed { query, why: error.into() },
        Err(ended) if ended.is_panic() => FromWorker::Failed { query, why: panicked(ended) },
        Err(_) => {
            FromWorker::Failed { query, why: Told::new(Blame::Query, "TG-QUERY-CANCELLED", "the query was cancelled") }
        }
    };
    // An api that is gone ends us by itself.
    let _ = line.say(&head, &[]).await;
}

/// What a panic was about: arrow has no error for a text or list that outgrows its offsets.
fn panicked(ended: JoinError) -> Told {
    let payload = ended.into_panic();
    let text = payload.downcast_ref::<String>().map(String::as_str).or(payload.downcast_ref::<&str>().copied());
    if text.is_some_and(|text| text.contains("overflow") || text.contains("capacity")) {
        let why = "a value of the query grew beyond what the engine can hold";
        return Told::new(Blame::Query, "TG-QUERY-DATA", why).hint("make its texts and lists shorter");
    }
    Told::new(Blame::Us, "TG-INTERNAL", "the query engine panicked")
        .hint("the api's log has the place; please report it")
}

/// Sends the answer; whether it was cut at the limit.
async fn answer(line: Arc<Line>, relations: Relations, number: u64, ask: Ask, room: Arc<Semaphore>) -> Result<bool> {
    let asked = guard::check(&ask.sql, &ask.parameters, &relations.known())?;
    let remote = Arc::new(Remote { line: line.clone(), query: number });
    let (moment, files): (Arc<dyn Moment>, Arc<dyn Files>) = (remote.clone(), remote);
    let limits = Limits { rows: ask.rows, memory: ask.memory };
    let mut rows = query(&relations, (&moment, &files), &asked, limits, ask.now_us).await?;
    let schema = plain(&rows.schema());
    let head = wire::encoded(&RecordBatch::new_empty(schema.clone()))?;
    line.say(&FromWorker::Head { query: number }, &head).await?;
    let mut left = ask.bytes;
    while let Some(batch) = rows.next().await? {
        let mut parts = vec![batch];
        while let Some(part) = parts.pop() {
            let (count, bytes) = (part.num_rows(), shown_bytes(&part));
            if bytes > SLICE_BYTES && count > 1 {
                parts.extend([part.slice(count / 2, count - count / 2), part.slice(0, count / 2)]);
                continue;
            }
            let columns = part.columns().iter().zip(schema.fields());
            let columns = columns.map(|(column, field)| cast(column, field.data_type())).collect::<Result<_, _>>();
            let row_count = RecordBatchOptions::new().with_row_count(Some(count));
            // One that is too long is not copied first.
            let body = if bytes > wire::ROWS_MAX {
                None
            } else {
                let part = RecordBatch::try_new_with_options(schema.clone(), columns?, &row_count)?;
                Some(wire::encoded(&part)?).filter(|body| body.len() <= wire::ROWS_MAX)
            };
            let Some(body) = body else {
                let why = format!("a row of the answer has more than {} MiB", wire::ROWS_MAX >> 20);
                return Err(Error::query("TG-QUERY-BYTES", why).hint("select fewer or shorter columns"));
            };
            left = left.checked_sub(body.len()).ok_or_else(|| {
                Error::query("TG-QUERY-BYTES", format!("the answer has more than {} MiB", ask.bytes >> 20))
                    .hint("select fewer columns, or set limit")
            })?;
            let turn = room.acquire().await.map_err(|_| Error::bug("the window is closed"))?;
            turn.forget();
            line.say(&FromWorker::Batch { query: number }, &body).await?;
        }
    }
    Ok(rows.truncated)
}

/// The same columns in forms whose values are not shared: a part of them then has its own bytes and no others.
fn plain(schema: &SchemaRef) -> SchemaRef {
    fn of(data_type: &DataType) -> DataType {
        match data_type {
            DataType::Utf8View => DataType::Utf8,
            DataType::BinaryView => DataType::Binary,
            DataType::Dictionary(_, values) => of(values),
            DataType::List(field) => {
                DataType::List(Arc::new(field.as_ref().clone().with_data_type(of(field.data_type()))))
            }
            DataType::Struct(fields) => {
                let plain = fields.iter().map(|field| field.as_ref().clone().with_data_type(of(field.data_type())));
                DataType::Struct(plain.collect())
            }
            other => other.clone(),
        }
    }
    let fields = schema.fields().iter().map(|field| field.as_ref().clone().with_data_type(of(field.data_type())));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// The bytes of the values that a part of a batch shows, whatever it holds besides.
fn shown_bytes(part: &RecordBatch) -> usize {
    // The low half of a view begins with its length.
    let of_views = |views: &[u128]| views.iter().map(|view| 16 + (*view as u32) as usize).sum::<usize>();
    let shown = |column: &ArrayRef| match column.data_type() {
        DataType::Utf8View => of_views(column.as_string_view().views()),
        DataType::BinaryView => of_views(column.as_binary_view().views()),
        _ => column.to_data().get_slice_memory_size().unwrap_or_else(|_| column.get_array_memory_size()),
    };
    part.columns().iter().map(shown).sum()
}

#[cfg(test)]
mod tests {
    use arrow::array::{DictionaryArray, Int32Array, StringArray, StringViewArray};

    use super::*;

    #[test]
    fn a_part_has_its_own_bytes_and_no_others() {
        let text = |n: usize| format!("a text that is too long to stand in a view, {n}");
        let views: ArrayRef = Arc::new(StringViewArray::from_iter_values((0..100_000).map(text)));
        let values = Arc::new(StringArray::from_iter_values((0..50_000).map(text)));
        let keys = Int32Array::from_iter_values((0..100_000).map(|n| n % 50_000));
        let dictionary: ArrayRef = Arc::new(DictionaryArray::new(keys, values));
        let batch = RecordBatch::try_from_iter([("v", views), ("d", dictionary)]).unwrap();
        let part = batch.slice(50_000, 10);
        assert!(wire::encoded(&part).unwrap().len() > 1 << 20, "it shares no more");
        let schema = plain(&batch.schema());
        let columns = part.columns().iter().zip(schema.fields());
        let columns = columns.map(|(column, field)| cast(column, field.data_type()).unwrap()).collect();
        let encoded = wire::encoded(&RecordBatch::try_new(schema, columns).unwrap()).unwrap();
        assert!(encoded.len() < 10_000, "{}", encoded.len());
        let views = part.project(&[0]).unwrap();
        assert!((500..1_000).contains(&shown_bytes(&views)), "{}", shown_bytes(&views));
    }
}
