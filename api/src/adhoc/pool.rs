//! The query workers: started, watched, ended when they do not end by themselves, replaced.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::os::unix::process::ExitStatusExt;
use std::panic::AssertUnwindSafe;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use futures::FutureExt;
use tidegate_engine::archive::Before;
use tidegate_engine::ask::system;
use tidegate_engine::batch::{Committed, file_name};
use tidegate_engine::settings::AdHocSettings;
use tidegate_engine::sql::planned::Table;
use tidegate_engine::store::{Snapshot, Store, Wanted};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::runtime::Handle;
use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::AbortHandle;

use super::Served;
use super::wire::{self, Ask, Blame, FromWorker, ToWorker, Told};
use super::worker::WINDOW;
use crate::LOG_FORMAT;

/// How often a worker's memory is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// How long a cancelled query may go on before its worker is ended.
const GRACE: Duration = Duration::from_secs(2);

/// How long a query waits for a worker while all are being replaced.
const REPLACED_WITHIN: Duration = Duration::from_secs(5);

/// Workers that end by themselves, and at once, are not started again at once.
const PAUSE: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// Room for the program and its threads, beside what queries may hold and what they map.
const ADDRESS_SPACE: u64 = 2 << 30;

/// Scans whose rows are held for a worker at a time.
const SCANS_MAX: usize = 2;

/// The most parts of a file that are read at a time.
const PARTS_MAX: usize = 1_024;

/// A part of an answer.
#[derive(Debug)]
pub enum Piece {
    /// The columns, as an empty batch.
    Head(RecordBatch),
    /// Rows.
    Batch(RecordBatch),
    /// That was all; whether there were more rows than wanted.
    End(bool),
    /// There is no more.
    Failed(Told),
}

/// A query at work, as the api's side of its worker knows it.
struct Running {
    pieces: mpsc::Sender<Piece>,
    snapshot: OnceCell<Arc<dyn Snapshot>>,
    limit: Duration,
    scans: Mutex<Vec<AbortHandle>>,
}

impl Running {
    fn scans(&self) -> MutexGuard<'_, Vec<AbortHandle>> {
        self.scans.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends what it has asked of the database. A session that is given back in the middle of a scan is closed instead.
    fn end(&self, threads: &Handle) {
        let scans = std::mem::take(&mut *self.scans());
        let idle = scans.iter().all(AbortHandle::is_finished);
        scans.iter().for_each(AbortHandle::abort);
        if let (true, Some(snapshot)) = (idle, self.snapshot.get().cloned()) {
            threads.spawn(async move {
                // Its end says nothing of the answer, which has been read.
                let _ = snapshot.done().await;
            });
        }
    }
}

/// A frame on its way, with the turn of the scan that it holds the rows of.
type Frame = (Vec<u8>, Option<OwnedSemaphorePermit>);

/// A living worker.
pub struct Worker {
    frames: mpsc::UnboundedSender<Frame>,
    /// None once it has ended.
    queries: Mutex<Option<HashMap<u64, Arc<Running>>>>,
    /// Why it shall end, once somebody has decided so.
    verdict: Mutex<Option<Told>>,
    turns: Arc<Semaphore>,
}

impl Worker {
    fn queries(&self) -> MutexGuard<'_, Option<HashMap<u64, Arc<Running>>>> {
        self.queries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn verdict(&self) -> MutexGuard<'_, Option<Told>> {
        self.verdict.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn running(&self, query: u64) -> Option<Arc<Running>> {
        self.queries().as_ref()?.get(&query).cloned()
    }

    /// How many queries it has; none once it shall end.
    fn load(&self) -> Option<usize> {
        if self.verdict().is_some() { None } else { self.queries().as_ref().map(HashMap::len) }
    }

    fn say(&self, head: &ToWorker, body: &[u8], turn: Option<OwnedSemaphorePermit>) {
        match wire::frame(head, body) {
            // A worker that does not hear is one that has ended, of which its keeper tells.
            Ok(frame) => drop(self.frames.send((frame, turn))),
            Err(error) => tracing::error!("TG-INTERNAL: a query worker cannot be told something: {error}"),
        }
    }

    /// One more batch may come.
    pub fn more(&self, query: u64) {
        self.say(&ToWorker::More { query }, &[], None);
    }

    /// Ends a query; and the whole worker, if the query does not end by itself.
    pub async fn cancel(&self, query: u64) {
        if self.running(query).is_none() {
            return;
        }
        self.say(&ToWorker::Cancel { query }, &[], None);
        let until = Instant::now() + GRACE;
        while self.running(query).is_some() {
            if Instant::now() > until {
                let why = "the worker was ended because of another query, which did not stop when it was told to";
                let told = Told::new(Blame::Wait, "TG-QUERY-WORKER", why).hint("ask again");
                self.verdict().get_or_insert(told);
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// The workers.
pub struct Pool {
    slots: Vec<Mutex<Option<Arc<Worker>>>>,
    served: Arc<Served>,
    store: Arc<dyn Store>,
    settings: AdHocSettings,
    next: AtomicU64,
    replaced: prometheus::IntCounter,
    /// Where scans are read: rows by the million are decoded there.
    threads: Handle,
}

impl Pool {
    /// Starts the workers; they are kept for as long as the pool is used. Scans are read on `threads`.
    pub fn start(
        store: Arc<dyn Store>,
        served: Served,
        settings: AdHocSettings,
        replaced: prometheus::IntCounter,
        threads: Handle,
    ) -> Arc<Self> {
        let slots = (0..settings.workers).map(|_| Mutex::default()).collect();
        let served = Arc::new(served);
        let pool = Arc::new(Self { slots, served, store, settings, next: AtomicU64::new(1), replaced, threads });
        for slot in 0..pool.settings.workers {
            tokio::spawn(keep(Arc::downgrade(&pool), slot));
        }
        pool
    }

    fn slot(&self, slot: usize) -> MutexGuard<'_, Option<Arc<Worker>>> {
        self.slots[slot].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The living worker with the fewest queries.
    fn least_busy(&self) -> Option<Arc<Worker>> {
        let alive = (0..self.slots.len()).filter_map(|slot| self.slot(slot).clone());
        alive
            .filter_map(|worker| Some((worker.load()?, worker)))
            .min_by_key(|(load, _)| *load)
            .map(|(_, worker)| worker)
    }

    /// A worker, as soon as there is one.
    pub async fn worker(&self) -> Result<Arc<Worker>, Told> {
        let until = Instant::now() + REPLACED_WITHIN;
        loop {
            match self.least_busy() {
                Some(worker) => return Ok(worker),
                None if Instant::now() > until => {
                    let why = Told::new(Blame::Wait, "TG-QUERY-WORKER", "no query worker can be started");
                    return Err(why.hint("the api's log says why"));
                }
                None => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    /// Gives a query to a worker: its number there, and its answer.
    pub fn run(&self, worker: &Worker, ask: Ask, limit: Duration) -> (u64, mpsc::Receiver<Piece>) {
        let query = self.next.fetch_add(1, Ordering::Relaxed);
        // Head, end, and the batches of the window: the worker sends no more before it is asked to.
        let (pieces, answer) = mpsc::channel(WINDOW + 2);
        let running = Running { pieces, snapshot: OnceCell::new(), limit, scans: Mutex::default() };
        // One that is too long for a frame has no answer.
        let frame = match wire::frame(&ToWorker::Run { query, ask }, &[]) {
            Ok(frame) => frame,
            Err(error) => {
                let why = Told::new(
                    Blame::Query,
                    "TG-QUERY-TEXT",
                    format!("the query and its parameters are too long: {error}"),
                );
                // There is room: nothing was said yet.
                let _ = running.pieces.try_send(Piece::Failed(why));
                return (query, answer);
            }
        };
        // Where it has just ended, the answer is closed, which says so.
        if let Some(queries) = worker.queries().as_mut() {
            queries.insert(query, Arc::new(running));
        }
        drop(worker.frames.send((frame, None)));
        (query, answer)
    }

    fn start_worker(&self) -> std::io::Result<(Process, UnixStream)> {
        let (ours, theirs) = StdUnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let address_space = ADDRESS_SPACE + self.settings.worker_memory as u64 + self.served.maps_max;
        // This program, even if another version of it has been installed since.
        let child = Command::new("/proc/self/exe")
            .arg("query-worker")
            .args(["--address-space", &address_space.to_string()])
            // Nothing that we know stands in its environment. Arenas take address space.
            .env_clear()
            .envs(std::env::var_os(LOG_FORMAT).map(|format| (LOG_FORMAT, format)))
            .env("MALLOC_ARENA_MAX", "2")
            .env("RUST_BACKTRACE", "0")
            .current_dir("/")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .spawn()?;
        Ok((Process(child), UnixStream::from_std(ours)?))
    }
}

/// A process that ends with us.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            // It may have ended meanwhile.
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}

impl Process {
    /// Ends it, and takes its status if it had ended by itself.
    async fn end(mut self) -> Option<ExitStatus> {
        // It may be about to, of which the status tells more than ours would.
        for _ in 0..10 {
            if let Ok(Some(status)) = self.0.try_wait() {
                return Some(status);
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        None
    }
}

/// Keeps a slot filled until the pool is gone.
async fn keep(pool: Weak<Pool>, slot: usize) {
    let mut pause = PAUSE;
    loop {
        let started = Instant::now();
        // A task of its own: what panics there must not leave the slot empty.
        let lived = tokio::spawn(live(pool.clone(), slot)).await;
        let Some(held) = pool.upgrade() else { return };
        let worker = held.slot(slot).take();
        held.replaced.inc();
        let idle = worker.is_none_or(|worker| tell_ended(&worker, &lived, &held.threads));
        drop(held);
        if let Ok(Err(error)) = &lived {
            tracing::error!("TG-QUERY-WORKER: cannot start a query worker: {error}");
        }
        // One that ends without anybody's query will do so again.
        if idle && started.elapsed() < PAUSE_MAX {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        } else {
            pause = PAUSE;
        }
    }
}

/// The life of a worker: its status, if it has ended by itself.
async fn live(pool: Weak<Pool>, slot: usize) -> std::io::Result<Option<ExitStatus>> {
    let Some(held) = pool.upgrade() else { return Ok(None) };
    let (process, socket) = held.start_worker()?;
    let (mut from, mut to) = socket.into_split();
    let (frames, mut outgoing) = mpsc::unbounded_channel::<Frame>();
    let writer = tokio::spawn(async move {
        while let Some((frame, _turn)) = outgoing.recv().await {
            if to.write_all(&frame).await.is_err() {
                return;
            }
        }
    });
    let worker = Arc::new(Worker {
        frames,
        queries: Mutex::new(Some(HashMap::new())),
        verdict: Mutex::default(),
        turns: Arc::new(Semaphore::new(SCANS_MAX)),
    });
    for table in &held.served.relations.tables {
        let (head, body) = wire::table(table).map_err(std::io::Error::other)?;
        worker.say(&head, &body, None);
    }
    for source in &held.served.relations.sources {
        let (head, body) = wire::source(source).map_err(std::io::Error::other)?;
        worker.say(&head, &body, None);
    }
    *held.slot(slot) = Some(worker.clone());
    let memory = held.settings.worker_memory;
    let (store, threads) = (held.store.clone(), held.threads.clone());
    let served = held.served.clone();
    drop(held);
    let pid = process.0.id();
    let hear = async {
        while let Ok(Some((head, body))) = wire::read::<FromWorker>(&mut from, wire::ROWS_MAX).await {
            if let Err(told) = hear(&worker, &store, &served, &threads, head, &body) {
                worker.verdict().get_or_insert(told);
                return;
            }
        }
    };
    tokio::select! {
        () = hear => {}
        () = watch(&worker, &pool, pid, memory) => {}
    }
    let status = process.end().await;
    writer.abort();
    Ok(status)
}

/// Tells those who wait that their worker has ended; whether there were none, and no reason.
fn tell_ended(
    worker: &Worker,
    lived: &Result<std::io::Result<Option<ExitStatus>>, tokio::task::JoinError>,
    threads: &Handle,
) -> bool {
    let verdict = worker.verdict().take();
    let left: Vec<Arc<Running>> = worker.queries().take().unwrap_or_default().into_values().collect();
    let how = match lived {
        Ok(Ok(Some(status))) => match (status.signal(), status.code()) {
            (Some(signal), _) => format!("by signal {signal}"),
            (_, code) => format!("with code {}", code.unwrap_or_default()),
        },
        _ => "by us".to_string(),
    };
    let reason = verdict.as_ref().map_or(String::new(), |told| format!(": {}", told.message));
    tracing::warn!("TG-QUERY-WORKER: a query worker ended {how}, with {} queries{reason}", left.len());
    let idle = left.is_empty() && verdict.is_none();
    // Of several nobody knows whose fault it is.
    let why = match verdict {
        Some(told) if left.len() == 1 || told.blame == Blame::Wait => told,
        Some(told) => {
            Told::new(Blame::Wait, "TG-QUERY-WORKER", format!("{}, with the queries beside it", told.message))
                .hint("ask again")
        }
        None => {
            let what = format!("the query's worker ended {how}: most likely a query asked for too much memory");
            Told::new(Blame::Wait, "TG-QUERY-WORKER", what).hint("read fewer rows or columns, or ask again")
        }
    };
    for running in left {
        running.end(threads);
        // Whoever does not listen any more has been told of something else.
        let _ = running.pieces.try_send(Piece::Failed(why.clone()));
    }
    idle
}

/// Waits until a worker must be ended: by a verdict, for its memory, or because the pool is gone.
async fn watch(worker: &Worker, pool: &Weak<Pool>, pid: u32, memory: usize) {
    loop {
        tokio::time::sleep(LOOK).await;
        if worker.verdict().is_some() || pool.strong_count() == 0 {
            return;
        }
        if own_memory(pid).is_some_and(|bytes| bytes > memory) {
            let what = format!("the query's worker grew beyond {} MiB and was ended", memory >> 20);
            let told = Told::new(Blame::Query, "TG-QUERY-MEMORY", what);
            worker.verdict().get_or_insert(told.hint("read fewer rows or columns, say by a narrower WHERE"));
            return;
        }
    }
}

/// The memory that a process has to itself, without the files that it maps.
fn own_memory(pid: u32) -> Option<usize> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    Some(line.split_whitespace().next()?.parse::<usize>().ok()? << 10)
}

/// Takes what a worker says; an error where it cannot be trusted any more.
fn hear(
    worker: &Arc<Worker>,
    store: &Arc<dyn Store>,
    served: &Arc<Served>,
    threads: &Handle,
    head: FromWorker,
    body: &[u8],
) -> Result<(), Told> {
    let (query, piece) = match head {
        FromWorker::Scan { query, scan, table, wanted } => {
            begin(worker, threads, query, scan, Scan { store, served, of: table, asked: Asked::Rows(wanted) });
            return Ok(());
        }
        FromWorker::LookAtEnds { query, scan, table, column } => {
            begin(worker, threads, query, scan, Scan { store, served, of: table, asked: Asked::Ends(column) });
            return Ok(());
        }
        FromWorker::LookAtPlace { query, scan, pipeline } => {
            begin(worker, threads, query, scan, Scan { store, served, of: pipeline, asked: Asked::Place });
            return Ok(());
        }
        FromWorker::LookAtArchive { query, scan, pipeline, oldest, times } => {
            begin(
                worker,
                threads,
                query,
                scan,
                Scan { store, served, of: pipeline, asked: Asked::Archive(oldest, times) },
            );
            return Ok(());
        }
        FromWorker::Fetch { query, scan, path, ranges } => {
            begin(worker, threads, query, scan, Scan { store, served, of: path, asked: Asked::Parts(ranges) });
            return Ok(());
        }
        FromWorker::Head { query } => (query, Piece::Head(wire::decoded(body).map_err(told)?)),
        FromWorker::Batch { query } => (query, Piece::Batch(wire::decoded(body).map_err(told)?)),
        FromWorker::End { query, truncated } => (query, Piece::End(truncated)),
        FromWorker::Failed { query, why } => (query, Piece::Failed(why)),
    };
    let last = matches!(piece, Piece::End(_) | Piece::Failed(_));
    let running = match worker.queries().as_mut() {
        Some(queries) if last => queries.remove(&query),
        Some(queries) => queries.get(&query).cloned(),
        None => None,
    };
    // Without one it was cancelled, and is told so by its last piece.
    let Some(running) = running else { return Ok(()) };
    if last {
        running.end(threads);
    }
    // There is room, unless the worker does not keep to its window; then nobody listens.
    let _ = running.pieces.try_send(piece);
    Ok(())
}

fn told(error: impl std::fmt::Display) -> Told {
    Told::new(Blame::Us, "TG-INTERNAL", error.to_string())
}

/// What a query asks of a table, of a pipeline, or of a file of its archive.
enum Asked {
    Rows(Wanted),
    Ends(usize),
    Place,
    Archive(i64, (i64, i64)),
    Parts(Vec<(u64, u64)>),
}

struct Scan<'a> {
    store: &'a Arc<dyn Store>,
    served: &'a Arc<Served>,
    of: String,
    asked: Asked,
}

/// Reads a scan on other threads, unless its query ends before.
fn begin(worker: &Arc<Worker>, threads: &Handle, query: u64, scan: u64, asked: Scan<'_>) {
    let Some(running) = worker.running(query) else { return };
    let (worker, reading) = (worker.clone(), running.clone());
    let (store, served, of, asked) = (asked.store.clone(), asked.served.clone(), asked.of, asked.asked);
    let task = threads.spawn(async move {
        let Ok(turn) = worker.turns.clone().acquire_owned().await else { return };
        let read = AssertUnwindSafe(scanned(&reading, &store, &served, &of, asked)).catch_unwind().await;
        // Arrow has no error for a column that outgrows its offsets.
        let too_long = |_| {
            let why = format!("the query reads more of {of} than can be held");
            Err(Told::new(Blame::Query, "TG-SCAN-BYTES", why).hint("read fewer columns or rows"))
        };
        match read.unwrap_or_else(too_long) {
            Ok(Scanned::Rows(body)) => worker.say(&ToWorker::Rows { scan }, &body, Some(turn)),
            Ok(Scanned::Place(committed)) => worker.say(&ToWorker::Place { scan, committed }, &[], Some(turn)),
            Ok(Scanned::Files(before)) => worker.say(&ToWorker::Files { scan, before }, &[], Some(turn)),
            Ok(Scanned::Parts(parts)) => {
                let lengths = parts.iter().map(bytes::Bytes::len).collect();
                worker.say(&ToWorker::Parts { scan, lengths }, &parts.concat(), Some(turn));
            }
            Ok(Scanned::Ends(ends)) => worker.say(&ToWorker::Ends { scan, ends }, &[], Some(turn)),
            Err(why) => worker.say(&ToWorker::Refused { scan, why }, &[], Some(turn)),
        }
    });
    running.scans().push(task.abort_handle());
}

enum Scanned {
    Rows(Vec<u8>),
    Ends(Option<(i64, i64)>),
    Place(Option<Committed>),
    Files(Before),
    Parts(Vec<bytes::Bytes>),
}

/// Parts of a file of an archive, if it may be read.
async fn parts(served: &Served, path: &str, ranges: &[(u64, u64)]) -> Result<Vec<bytes::Bytes>, Told> {
    let archived = served.relations.sources.iter().filter(|source| source.archive);
    let mut folders = archived.map(|source| format!("{}/", file_name(&source.name)));
    let known = folders.any(|folder| path.starts_with(&folder)) && path.ends_with(".parquet");
    let Some(archive) = served.archive.as_ref().filter(|_| known) else {
        return Err(told("a worker asks for a file that is none of an archive"));
    };
    // What lies between parts that are near may be read with them.
    if ranges.len() > PARTS_MAX || ranges.iter().any(|(from, until)| from > until) {
        return Err(told("a worker asks for odd parts of a file"));
    }
    let bytes = ranges.iter().fold(0u64, |sum, (from, until)| sum.saturating_add(until.saturating_sub(*from)));
    if bytes > wire::SCAN_MAX as u64 {
        let why = format!("the query reads more than {} MiB of a file of the archive at a time", wire::SCAN_MAX >> 20);
        return Err(Told::new(Blame::Query, "TG-SCAN-BYTES", why).hint("read fewer columns or rows"));
    }
    let ranges: Vec<std::ops::Range<u64>> = ranges.iter().map(|(from, until)| *from..*until).collect();
    Ok(archive.as_ref().map_err(Told::clone)?.parts(path, &ranges).await?)
}

/// A table that is served, and has columns at these positions.
fn known<'a>(served: &'a Served, of: &str, mut positions: impl Iterator<Item = usize>) -> Result<&'a Table, Told> {
    let table = served.relations.tables.iter().find(|known| known.name == of);
    let table = table.ok_or_else(|| told("a worker asks for a table that there is not"))?;
    if positions.any(|position| position >= table.columns.len()) {
        return Err(told(format!("a worker asks for a column that {} does not have", table.name)));
    }
    Ok(table)
}

async fn scanned(
    running: &Running,
    store: &Arc<dyn Store>,
    served: &Served,
    of: &str,
    asked: Asked,
) -> Result<Scanned, Told> {
    // All scans of a query read one.
    let snapshot = async || running.snapshot.get_or_try_init(|| store.snapshot(running.limit)).await;
    match asked {
        Asked::Place => Ok(Scanned::Place(snapshot().await?.committed(of).await?)),
        Asked::Archive(oldest, times) => Ok(Scanned::Files(snapshot().await?.archived(of, oldest, times).await?)),
        Asked::Parts(ranges) => Ok(Scanned::Parts(parts(served, of, &ranges).await?)),
        Asked::Ends(column) => {
            let table = known(served, of, std::iter::once(column))?;
            match system::name_of(table) {
                Some(_) => Ok(Scanned::Ends(None)),
                None => Ok(Scanned::Ends(snapshot().await?.extent(table, column).await?)),
            }
        }
        Asked::Rows(wanted) => {
            let bounds = wanted.bounds.iter().map(|bound| bound.column);
            let order = wanted.order.iter().map(|by| by.column);
            let table = known(served, of, wanted.columns.iter().copied().chain(bounds).chain(order))?;
            let snapshot = snapshot().await?;
            let rows = match system::name_of(table) {
                Some(_) => served.system.rows(table, &wanted, snapshot.as_ref()).await?,
                None => snapshot.rows(table, &wanted).await?,
            };
            let body = wire::encoded(&rows).map_err(told)?;
            if body.len() <= wire::SCAN_MAX {
                return Ok(Scanned::Rows(body));
            }
            let why = format!("the query reads more than {} MiB of {}", wire::SCAN_MAX >> 20, table.name);
            Err(Told::new(Blame::Query, "TG-SCAN-BYTES", why).hint("read fewer columns or rows"))
        }
    }
}
