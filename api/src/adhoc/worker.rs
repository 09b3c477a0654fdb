//! `tidegate query-worker`: a process that may be ended. It plans and runs what people ask, and has nothing to lose.
//!
//! It has no database, no settings and no secret: what it needs of the views' tables it asks of the api.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::RecordBatch;
use async_trait::async_trait;
use clap::Args;
use tidegate_engine::ask::adhoc::{Limits, query};
use tidegate_engine::error::{Error, Result};
use tidegate_engine::sql::guard;
use tidegate_engine::sql::planned::Table;
use tidegate_engine::store::{Snapshot, Wanted};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::AbortHandle;

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

/// Runs until the api closes the socket, which is its standard input.
pub fn run(options: &Options) -> ExitCode {
    // What a panic says may hold values of somebody's rows.
    std::panic::set_hook(Box::new(|panic| tracing::debug!("a query panicked at {:?}", panic.location())));
    let served = limits::lower(options.address_space).and_then(|()| {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_stack_size(STACK_BYTES)
            .enable_all()
            .build()?;
        let served = runtime.block_on(async {
            let socket = StdUnixStream::from(std::io::stdin().as_fd().try_clone_to_owned()?);
            socket.set_nonblocking(true)?;
            serve(UnixStream::from_std(socket)?).await
        });
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

/// What answers a scan.
enum Scanned {
    Rows(Vec<u8>),
    Ends(Option<(i64, i64)>),
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
impl Snapshot for Remote {
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

    async fn done(&self) -> Result<()> {
        Ok(())
    }
}

/// A query at work.
struct Running {
    task: AbortHandle,
    room: Arc<Semaphore>,
}

async fn serve(socket: UnixStream) -> std::io::Result<()> {
    let (mut from, mut to) = socket.into_split();
    let (frames, mut outgoing) = mpsc::channel::<Vec<u8>>(16);
    let writer = tokio::spawn(async move {
        while let Some(frame) = outgoing.recv().await {
            to.write_all(&frame).await?;
        }
        std::io::Result::Ok(())
    });
    let line = Arc::new(Line { frames, scans: Mutex::default(), next: AtomicU64::new(0) });
    let mut tables: Vec<Arc<Table>> = Vec::new();
    let mut running: HashMap<u64, Running> = HashMap::new();
    while let Some((head, body)) = wire::read::<ToWorker>(&mut from).await? {
        running.retain(|_, query| !query.task.is_finished());
        match head {
            ToWorker::Table { name, key_of, nullable } => {
                let schema = wire::decoded(&body).map_err(std::io::Error::other)?.schema();
                tables.push(wire::told_table(name, &key_of, &nullable, &schema));
            }
            ToWorker::Run { query, ask } => {
                let room = Arc::new(Semaphore::new(WINDOW));
                let tables = tables.iter().map(|table| table.as_ref().clone()).collect();
                let work = tokio::spawn(answer(line.clone(), tables, query, ask, room.clone()));
                running.insert(query, Running { task: work.abort_handle(), room });
                tokio::spawn(end(line.clone(), query, work));
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
            ToWorker::Refused { scan, why } => line.resolve(scan, Scanned::Refused(why)),
        }
    }
    writer.abort();
    Ok(())
}

/// Tells how a query's work has ended.
async fn end(line: Arc<Line>, query: u64, work: tokio::task::JoinHandle<Result<bool>>) {
    let head = match work.await {
        Ok(Ok(truncated)) => FromWorker::End { query, truncated },
        Ok(Err(error)) => FromWorker::Failed { query, why: error.into() },
        Err(ended) if ended.is_panic() => {
            let why =
                Told::new(Blame::Query, "TG-QUERY-DATA", "a value of the query grew beyond what the engine can hold");
            FromWorker::Failed { query, why: why.hint("make its texts and lists shorter") }
        }
        Err(_) => {
            FromWorker::Failed { query, why: Told::new(Blame::Query, "TG-QUERY-CANCELLED", "the query was cancelled") }
        }
    };
    // An api that is gone ends us by itself.
    let _ = line.say(&head, &[]).await;
}

/// Sends the answer; whether it was cut at the limit.
async fn answer(line: Arc<Line>, tables: Vec<Table>, number: u64, ask: Ask, room: Arc<Semaphore>) -> Result<bool> {
    let names: Vec<&str> = tables.iter().map(|table| table.name.as_str()).collect();
    let asked = guard::check(&ask.sql, &ask.parameters, &names)?;
    let snapshot: Arc<dyn Snapshot> = Arc::new(Remote { line: line.clone(), query: number });
    let limits = Limits { rows: ask.rows, memory: ask.memory };
    let mut rows = query(&tables, &snapshot, &asked, limits, ask.now_us).await?;
    let head = wire::encoded(&RecordBatch::new_empty(rows.schema()))?;
    line.say(&FromWorker::Head { query: number }, &head).await?;
    while let Some(batch) = rows.next().await? {
        let turn = room.acquire().await.map_err(|_| Error::bug("the window is closed"))?;
        turn.forget();
        line.say(&FromWorker::Batch { query: number }, &wire::encoded(&batch)?).await?;
    }
    Ok(rows.truncated)
}
