//! The query workers: started, watched, ended when they do not end by themselves, replaced.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use tidegate_engine::settings::AdHocSettings;
use tidegate_engine::sql::planned::Table;
use tidegate_engine::store::{Snapshot, Store, Wanted};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::runtime::Handle;
use tokio::sync::{OnceCell, mpsc};

use super::wire::{self, Ask, Blame, FromWorker, ToWorker, Told};
use super::worker::WINDOW;

/// How often a worker's memory is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// How long a cancelled query may go on before its worker is ended.
pub const GRACE: Duration = Duration::from_secs(2);

/// How long a query waits for a worker while all are being replaced.
const REPLACED_WITHIN: Duration = Duration::from_secs(5);

/// Workers that end at once are not started again at once.
const PAUSE: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// Room for the program and its threads, beside what queries may hold.
const ADDRESS_SPACE: u64 = 2 << 30;

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

/// A query at work, as the worker's side of the api knows it.
struct Running {
    pieces: mpsc::Sender<Piece>,
    snapshot: OnceCell<Arc<dyn Snapshot>>,
    limit: Duration,
}

/// A living worker.
pub struct Worker {
    frames: mpsc::Sender<Vec<u8>>,
    queries: Mutex<HashMap<u64, Arc<Running>>>,
    /// Why it shall end, once somebody has decided so.
    verdict: Mutex<Option<Told>>,
}

impl Worker {
    fn queries(&self) -> MutexGuard<'_, HashMap<u64, Arc<Running>>> {
        self.queries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn verdict(&self) -> MutexGuard<'_, Option<Told>> {
        self.verdict.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has(&self, query: u64) -> bool {
        self.queries().contains_key(&query)
    }

    async fn say(&self, head: &ToWorker, body: &[u8]) {
        // A worker that does not hear is one that has ended, of which its keeper tells.
        if let Ok(frame) = wire::frame(head, body) {
            let _ = self.frames.send(frame).await;
        }
    }

    /// One more batch may come.
    pub async fn more(&self, query: u64) {
        self.say(&ToWorker::More { query }, &[]).await;
    }

    /// Ends a query; and the whole worker, if the query does not end by itself.
    pub async fn cancel(&self, query: u64) {
        if !self.has(query) {
            return;
        }
        self.say(&ToWorker::Cancel { query }, &[]).await;
        let until = Instant::now() + GRACE;
        while self.has(query) {
            if Instant::now() > until {
                self.verdict().get_or_insert_with(|| {
                    let why = "the worker was ended because of another query, which did not stop when it was told to";
                    Told::new(Blame::Wait, "TG-QUERY-WORKER", why).hint("ask again")
                });
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// The workers.
pub struct Pool {
    slots: Vec<Mutex<Option<Arc<Worker>>>>,
    tables: Vec<Table>,
    store: Arc<dyn Store>,
    settings: AdHocSettings,
    next: AtomicU64,
    replaced: prometheus::IntCounter,
}

impl Pool {
    /// Starts the workers; they are kept for as long as the pool is used.
    pub fn start(
        store: Arc<dyn Store>,
        tables: Vec<Table>,
        settings: AdHocSettings,
        replaced: prometheus::IntCounter,
        threads: &Handle,
    ) -> Arc<Self> {
        let slots = (0..settings.workers).map(|_| Mutex::default()).collect();
        let pool = Arc::new(Self { slots, tables, store, settings, next: AtomicU64::new(1), replaced });
        for slot in 0..pool.settings.workers {
            threads.spawn(keep(Arc::downgrade(&pool), slot));
        }
        pool
    }

    fn slot(&self, slot: usize) -> MutexGuard<'_, Option<Arc<Worker>>> {
        self.slots[slot].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The living worker with the fewest queries.
    fn least_busy(&self) -> Option<Arc<Worker>> {
        let alive = (0..self.slots.len()).filter_map(|slot| self.slot(slot).clone());
        alive.filter(|worker| worker.verdict().is_none()).min_by_key(|worker| worker.queries().len())
    }

    /// Gives a query to a worker.
    pub async fn run(&self, ask: Ask, limit: Duration) -> Result<(Arc<Worker>, u64, mpsc::Receiver<Piece>), Told> {
        let until = Instant::now() + REPLACED_WITHIN;
        let worker = loop {
            match self.least_busy() {
                Some(worker) => break worker,
                None if Instant::now() > until => {
                    let why = Told::new(Blame::Wait, "TG-QUERY-WORKER", "no query worker can be started");
                    return Err(why.hint("the api's log says why"));
                }
                None => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        };
        let query = self.next.fetch_add(1, Ordering::Relaxed);
        // Head, end, and the batches of the window: the worker sends no more before it is asked to.
        let (pieces, answer) = mpsc::channel(WINDOW + 2);
        worker.queries().insert(query, Arc::new(Running { pieces, snapshot: OnceCell::new(), limit }));
        worker.say(&ToWorker::Run { query, ask }, &[]).await;
        Ok((worker, query, answer))
    }

    fn start_worker(&self) -> std::io::Result<(Child, UnixStream)> {
        let (ours, theirs) = StdUnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let address_space = ADDRESS_SPACE + self.settings.worker_memory as u64;
        let child = Command::new(std::env::current_exe()?)
            .arg("query-worker")
            .args(["--address-space", &address_space.to_string()])
            // Nothing that we know stands in its environment. Arenas take address space.
            .env_clear()
            .env("MALLOC_ARENA_MAX", "2")
            .env("RUST_BACKTRACE", "0")
            .current_dir("/")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .spawn()?;
        Ok((child, UnixStream::from_std(ours)?))
    }
}

/// Keeps a slot filled until the pool is gone.
async fn keep(pool: std::sync::Weak<Pool>, slot: usize) {
    let mut pause = PAUSE;
    loop {
        let Some(held) = pool.upgrade() else { return };
        let (mut child, socket) = match held.start_worker() {
            Ok(started) => started,
            Err(error) => {
                tracing::error!("TG-QUERY-WORKER: cannot start a query worker: {error}; trying again in {pause:?}");
                drop(held);
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
                continue;
            }
        };
        let started = Instant::now();
        let (mut from, mut to) = socket.into_split();
        let (frames, mut outgoing) = mpsc::channel::<Vec<u8>>(64);
        let writer = tokio::spawn(async move {
            while let Some(frame) = outgoing.recv().await {
                if to.write_all(&frame).await.is_err() {
                    return;
                }
            }
        });
        let worker = Arc::new(Worker { frames, queries: Mutex::default(), verdict: Mutex::default() });
        for table in &held.tables {
            match wire::table(table) {
                Ok((head, body)) => worker.say(&head, &body).await,
                Err(error) => tracing::error!("TG-INTERNAL: table {} cannot be told: {error}", table.name),
            }
        }
        *held.slot(slot) = Some(worker.clone());
        let (memory, store, tables) = (held.settings.worker_memory, held.store.clone(), held.tables.clone());
        drop(held);
        let hear = async {
            while let Ok(Some((head, body))) = wire::read::<FromWorker>(&mut from).await {
                hear(&worker, &store, &tables, head, &body);
            }
        };
        tokio::select! {
            () = hear => {}
            () = watch(&worker, &pool, child.id(), memory) => {}
        }
        let status = end(&mut child).await;
        writer.abort();
        let Some(held) = pool.upgrade() else { return };
        *held.slot(slot) = None;
        held.replaced.inc();
        drop(held);
        tell_ended(&worker, status);
        pause = if started.elapsed() > PAUSE_MAX { PAUSE } else { (pause * 2).min(PAUSE_MAX) };
        if started.elapsed() < PAUSE_MAX / 10 {
            tokio::time::sleep(pause).await;
        }
    }
}

/// Ends the process and takes its status.
async fn end(child: &mut Child) -> Option<ExitStatus> {
    // It may be ending by itself, of which the status tells more than ours would.
    for _ in 0..10 {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status);
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let _ = child.kill();
    while let Ok(None) = child.try_wait() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    None
}

/// Tells those who wait that their worker has ended.
fn tell_ended(worker: &Worker, status: Option<ExitStatus>) {
    let verdict = worker.verdict().take();
    let left: Vec<Arc<Running>> = worker.queries().drain().map(|(_, running)| running).collect();
    let how = match status.map(|status| (status.signal(), status.code())) {
        Some((Some(signal), _)) => format!("by signal {signal}"),
        Some((_, Some(code))) => format!("with code {code}"),
        _ => "by us".to_string(),
    };
    tracing::warn!(
        "TG-QUERY-WORKER: a query worker ended {how}, with {} queries{}",
        left.len(),
        verdict.as_ref().map_or(String::new(), |told| format!(": {}", told.message))
    );
    let why = verdict.unwrap_or_else(|| {
        let alone = if left.len() == 1 { "while it ran this query" } else { "while it ran this query and another" };
        let what = format!("the query's worker ended {how} {alone}: most likely it asked for too much memory");
        Told::new(Blame::Wait, "TG-QUERY-WORKER", what).hint("read fewer rows or columns, or ask again")
    });
    for running in left {
        // Whoever does not listen any more has been told of something else.
        let _ = running.pieces.try_send(Piece::Failed(why.clone()));
    }
}

/// Waits until a worker must be ended: by a verdict, for its memory, or because the pool is gone.
async fn watch(worker: &Worker, pool: &std::sync::Weak<Pool>, pid: u32, memory: usize) {
    loop {
        tokio::time::sleep(LOOK).await;
        if worker.verdict().is_some() || pool.strong_count() == 0 {
            return;
        }
        if own_memory(pid).is_some_and(|bytes| bytes > memory) {
            let what = format!("the query's worker grew beyond {} MiB and was ended", memory >> 20);
            let told = Told::new(Blame::Query, "TG-QUERY-MEMORY", what);
            *worker.verdict() = Some(told.hint("read fewer rows or columns, say by a narrower WHERE"));
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

/// Takes what a worker says.
fn hear(worker: &Arc<Worker>, store: &Arc<dyn Store>, tables: &[Table], head: FromWorker, body: &[u8]) {
    let (query, piece) = match head {
        FromWorker::Scan { query, scan, table, wanted } => {
            let (worker, store, table) = (worker.clone(), store.clone(), named(tables, &table));
            tokio::spawn(async move {
                let rows = scanned(&worker, &store, query, table, &wanted).await;
                let encoded = match rows {
                    // Hundreds of megabytes at worst: other answers go on meanwhile.
                    Ok(rows) => tokio::task::spawn_blocking(move || wire::encoded(&rows)).await.map_err(told),
                    Err(why) => Err(why),
                };
                let encoded = encoded.and_then(|encoded| encoded.map_err(told));
                match encoded {
                    Ok(body) => worker.say(&ToWorker::Rows { scan }, &body).await,
                    Err(why) => worker.say(&ToWorker::Refused { scan, why }, &[]).await,
                }
            });
            return;
        }
        FromWorker::LookAtEnds { query, scan, table, column } => {
            let (worker, store, table) = (worker.clone(), store.clone(), named(tables, &table));
            tokio::spawn(async move {
                match ends(&worker, &store, query, table, column).await {
                    Ok(ends) => worker.say(&ToWorker::Ends { scan, ends }, &[]).await,
                    Err(why) => worker.say(&ToWorker::Refused { scan, why }, &[]).await,
                }
            });
            return;
        }
        FromWorker::Head { query } => (query, wire::decoded(body).map(Piece::Head)),
        FromWorker::Batch { query } => (query, wire::decoded(body).map(Piece::Batch)),
        FromWorker::End { query, truncated } => (query, Ok(Piece::End(truncated))),
        FromWorker::Failed { query, why } => (query, Ok(Piece::Failed(why))),
    };
    let piece = piece.unwrap_or_else(|error| Piece::Failed(told(error)));
    let last = matches!(piece, Piece::End(_) | Piece::Failed(_));
    let running = if last { worker.queries().remove(&query) } else { worker.queries().get(&query).cloned() };
    let Some(running) = running else { return };
    // There is room, unless the worker does not keep to its window; then nobody listens.
    let _ = running.pieces.try_send(piece);
    if let (true, Some(snapshot)) = (last, running.snapshot.get().cloned()) {
        tokio::spawn(async move {
            // Its end says nothing of the answer, which has been read.
            let _ = snapshot.done().await;
        });
    }
}

fn told(error: impl std::fmt::Display) -> Told {
    Told::new(Blame::Us, "TG-INTERNAL", error.to_string())
}

fn named(tables: &[Table], name: &str) -> Result<Table, Told> {
    let table = tables.iter().find(|table| table.name == name);
    table.cloned().ok_or_else(|| told(format!("a worker asks for a table {name}")))
}

/// The snapshot that all scans of a query read.
async fn snapshot(worker: &Worker, store: &Arc<dyn Store>, query: u64) -> Result<Arc<dyn Snapshot>, Told> {
    let running = worker.queries().get(&query).cloned();
    let Some(running) = running else {
        return Err(Told::new(Blame::Query, "TG-QUERY-CANCELLED", "the query was cancelled"));
    };
    let snapshot = running.snapshot.get_or_try_init(|| store.snapshot(running.limit)).await;
    snapshot.cloned().map_err(Told::from)
}

async fn scanned(
    worker: &Worker,
    store: &Arc<dyn Store>,
    query: u64,
    table: Result<Table, Told>,
    wanted: &Wanted,
) -> Result<RecordBatch, Told> {
    let table = table?;
    let positions = wanted.columns.iter().copied().chain(wanted.bounds.iter().map(|bound| bound.column));
    check_positions(&table, positions)?;
    Ok(snapshot(worker, store, query).await?.rows(&table, wanted).await?)
}

async fn ends(
    worker: &Worker,
    store: &Arc<dyn Store>,
    query: u64,
    table: Result<Table, Told>,
    column: usize,
) -> Result<Option<(i64, i64)>, Told> {
    let table = table?;
    check_positions(&table, [column].into_iter())?;
    Ok(snapshot(worker, store, query).await?.extent(&table, column).await?)
}

fn check_positions(table: &Table, mut positions: impl Iterator<Item = usize>) -> Result<(), Told> {
    match positions.find(|position| *position >= table.columns.len()) {
        Some(position) => Err(told(format!("a worker asks for column {position} of {}", table.name))),
        None => Ok(()),
    }
}
