//! Ad-hoc SQL: who may ask how much at a time, and the way of a question to its answer.
//!
//! ```text
//!  text ─► guard ─► a turn (running, queued) ─► a worker's process ─► batches ─► one of the formats
//!                                                   └── asks for rows of tables: one snapshot of the database
//! ```
//!
//! A query ends in one of five ways: whole, refused, failed, out of time, or cancelled because nobody waits for it any
//! more. A worker that does not let go of one is ended, and replaced.

pub mod format;
mod limits;
mod pool;
pub mod wire;
pub mod worker;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, SchemaRef};
use prometheus::{IntCounterVec, Registry};
use tidegate_engine::archive::Archive;
use tidegate_engine::ask::adhoc::Relations;
use tidegate_engine::ask::source::Source;
use tidegate_engine::ask::system::{self, System};
use tidegate_engine::metrics::{Registrar, names};
use tidegate_engine::settings::{AdHocSettings, Settings};
use tidegate_engine::sql::Catalog;
use tidegate_engine::sql::guard::{self, Parameters, Types};
use tidegate_engine::store::Store;
use tidegate_engine::time::clock;
use tokio::runtime::Handle;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;
use uuid::Uuid;

use pool::{Piece, Pool, Worker};
use wire::{Ask, Blame, Told};

/// What somebody asks.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// The text.
    pub sql: String,
    /// Its parameters.
    pub parameters: Parameters,
    /// Rows that are wanted, if fewer than may be.
    pub limit: Option<usize>,
    /// Milliseconds that it may take, if fewer than may be.
    pub timeout_ms: Option<u64>,
}

/// What a text would be answered with.
#[derive(Debug, Clone)]
pub struct Described {
    /// The columns.
    pub schema: SchemaRef,
    /// The types of its parameters; Null where any would do.
    pub parameters: Vec<DataType>,
}

/// More address space than any machine has memory; less than a process can have.
const MAPS_MAX: u64 = 16 << 40;

/// What may be asked about.
pub struct Served {
    relations: Relations,
    system: System,
    /// Where sources are archived, if any is; or why that cannot be reached.
    archive: Option<Result<Archive, Told>>,
    /// Address space that maps of recent batches may take.
    maps_max: u64,
}

impl Served {
    /// Everything that is declared.
    pub fn new(catalog: &Catalog, settings: &Settings) -> Result<Self, String> {
        let recent = &settings.recent;
        // A worker has another directory.
        let path = std::path::absolute(&recent.path).map_err(|error| error.to_string())?;
        let archives = catalog.sources.iter().any(|source| source.source.options.archive);
        let archive = archives.then(|| Archive::open(&settings.archive).map_err(Told::from));
        let tables = catalog.views.iter().map(|view| view.table.clone()).chain(system::tables()).collect();
        let sources: Vec<Source> = catalog.sources.iter().map(|source| Source::new(source, &path)).collect();
        // Files that are gone stay mapped while they are read; an engine may have been told to keep more than we were.
        let maps_max = recent.bytes_max.saturating_mul(2).saturating_mul(sources.len() as u64).min(MAPS_MAX);
        Ok(Self { relations: Relations { tables, sources }, system: System::new(catalog), archive, maps_max })
    }
}

/// Answers ad-hoc queries.
pub struct AdHoc {
    pool: Arc<Pool>,
    settings: AdHocSettings,
    turns: Arc<Semaphore>,
    waiting: AtomicUsize,
    open: Mutex<HashMap<Uuid, Arc<Notify>>>,
    outcomes: IntCounterVec,
}

impl AdHoc {
    /// Starts the workers for what is served of a store, whose rows are read on these threads.
    pub fn start(
        store: Arc<dyn Store>,
        served: Served,
        settings: AdHocSettings,
        registry: &Registry,
        threads: Handle,
    ) -> Result<Arc<Self>, prometheus::Error> {
        let outcomes = Registrar(registry).counter(&names::API_ADHOC)?;
        let replaced = Registrar(registry).counter(&names::API_WORKER_RESTARTS)?.with_label_values::<&str>(&[]);
        let turns = Arc::new(Semaphore::new(settings.running));
        let pool = Pool::start(store, served, settings.clone(), replaced, threads);
        let (waiting, open) = (AtomicUsize::new(0), Mutex::default());
        Ok(Arc::new(Self { pool, settings, turns, waiting, open, outcomes }))
    }

    fn open(&self) -> MutexGuard<'_, HashMap<Uuid, Arc<Notify>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins an answer; it comes with its columns.
    pub async fn ask(self: &Arc<Self>, id: Uuid, request: Request) -> Result<Answer, Told> {
        let begun = self.begin(id, request, None).await;
        if let Err(why) = &begun {
            self.count(why);
        }
        begun
    }

    /// The columns of an answer to a text whose parameters have no values yet, and their types: those that are known, and
    /// those that follow.
    pub async fn describe(self: &Arc<Self>, id: Uuid, sql: &str, types: Types) -> Result<Described, Told> {
        let request = Request { sql: sql.to_string(), ..Request::default() };
        let mut answer = self.begin(id, request, Some(types)).await?;
        let parameters = match answer.piece().await? {
            Piece::Head(head) => head.schema(),
            Piece::Failed(why) => return Err(why),
            other => return Err(Told::new(Blame::Us, "TG-INTERNAL", format!("a description ends with {other:?}"))),
        };
        answer.next_piece().await?;
        let parameters = parameters.fields().iter().map(|field| field.data_type().clone());
        Ok(Described { schema: answer.schema.clone(), parameters: parameters.collect() })
    }

    fn count(&self, why: &Told) {
        let outcome = match why.code.as_str() {
            "TG-QUERY-TIMEOUT" => "timeout",
            "TG-QUERY-CANCELLED" => "cancelled",
            "TG-QUERY-MEMORY" => "memory",
            "TG-QUERY-BUSY" => "busy",
            _ if why.blame == Blame::Query => "refused",
            _ => "failed",
        };
        self.outcomes.with_label_values(&[outcome]).inc();
    }

    async fn begin(self: &Arc<Self>, id: Uuid, request: Request, describe: Option<Types>) -> Result<Answer, Told> {
        let rows_max = self.settings.rows_max;
        let rows = match request.limit {
            Some(limit) if limit == 0 || limit > rows_max => {
                return Err(Told::new(
                    Blame::Query,
                    "TG-API-PARAMETER",
                    format!("limit is {limit}; it can be 1 to {rows_max}"),
                ));
            }
            limit => limit.unwrap_or(rows_max),
        };
        let timeout_max = self.settings.timeout_ms;
        let timeout = match request.timeout_ms {
            Some(timeout) if timeout == 0 || timeout > timeout_max => {
                let why = format!("timeout_ms is {timeout}; it can be 1 to {timeout_max}");
                return Err(Told::new(Blame::Query, "TG-API-PARAMETER", why));
            }
            timeout => Duration::from_millis(timeout.unwrap_or(timeout_max)),
        };
        // The rest of the guard is the worker's: it may take for ever.
        guard::look(&request.sql)?;
        let (started, deadline) = (Instant::now(), Instant::now() + timeout);
        let cancelled = Arc::new(Notify::new());
        match self.open().entry(id) {
            Entry::Vacant(free) => drop(free.insert(cancelled.clone())),
            Entry::Occupied(_) => {
                let why = Told::new(Blame::Query, "TG-QUERY-ID", format!("there is a query {id} already"));
                return Err(why.hint("send a new UUID, or none"));
            }
        }
        let registered = Registered { adhoc: self.clone(), id };
        let turn = self.turn(deadline, timeout, &cancelled).await?;
        let ask = Ask {
            sql: request.sql,
            parameters: request.parameters,
            rows,
            bytes: self.settings.bytes_max,
            memory: self.settings.memory_max,
            now_us: clock::wall_us(),
            describe,
        };
        let worker = tokio::select! {
            worker = self.pool.worker() => worker?,
            () = tokio::time::sleep_until(deadline) => return Err(timed_out(timeout)),
            () = cancelled.notified() => return Err(was_cancelled()),
        };
        let (query, pieces) = self.pool.run(&worker, ask, timeout);
        let work = Work { worker, query, turn: Some(turn), ended: false };
        let mut answer = Answer {
            schema: Arc::new(arrow::datatypes::Schema::empty()),
            truncated: false,
            started,
            deadline,
            timeout,
            cancelled,
            pieces,
            work,
            registered,
        };
        match answer.piece().await? {
            Piece::Head(head) => answer.schema = head.schema(),
            Piece::Failed(why) => return Err(why),
            other => return Err(Told::new(Blame::Us, "TG-INTERNAL", format!("an answer begins with {other:?}"))),
        }
        Ok(answer)
    }

    /// Waits for a turn.
    async fn turn(
        &self,
        deadline: Instant,
        timeout: Duration,
        cancelled: &Notify,
    ) -> Result<OwnedSemaphorePermit, Told> {
        let AdHocSettings { running, queued, .. } = self.settings;
        if let Ok(turn) = self.turns.clone().try_acquire_owned() {
            return Ok(turn);
        }
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= queued {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            let why = format!("{running} queries run and {queued} wait, which is the limit");
            return Err(Told::new(Blame::Wait, "TG-QUERY-BUSY", why).hint("ask again in a second"));
        }
        let _waiting = Waiting(&self.waiting);
        tokio::select! {
            turn = self.turns.clone().acquire_owned() => {
                turn.map_err(|error| Told::new(Blame::Us, "TG-INTERNAL", error.to_string()))
            }
            () = tokio::time::sleep_until(deadline) => Err(timed_out(timeout)),
            () = cancelled.notified() => Err(was_cancelled()),
        }
    }

    /// Ends a query; whether there is one of this name.
    pub fn cancel(&self, id: Uuid) -> bool {
        let found = self.open().get(&id).cloned();
        if let Some(cancelled) = &found {
            cancelled.notify_one();
        }
        found.is_some()
    }
}

fn timed_out(timeout: Duration) -> Told {
    let why = format!("the query took longer than {} ms", timeout.as_millis());
    Told::new(Blame::Query, "TG-QUERY-TIMEOUT", why).hint("read fewer rows, or set timeout_ms if it is below the limit")
}

fn was_cancelled() -> Told {
    Told::new(Blame::Query, "TG-QUERY-CANCELLED", "the query was cancelled")
}

/// A query that waits for its turn.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A query that can be cancelled by its name.
struct Registered {
    adhoc: Arc<AdHoc>,
    id: Uuid,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.adhoc.open().remove(&self.id);
    }
}

/// A query in a worker; one that is dropped before its end is ended there, and gives its turn back only then.
struct Work {
    worker: Arc<Worker>,
    query: u64,
    turn: Option<OwnedSemaphorePermit>,
    ended: bool,
}

impl Drop for Work {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let (worker, query, turn) = (self.worker.clone(), self.query, self.turn.take());
        tokio::spawn(async move {
            worker.cancel(query).await;
            drop(turn);
        });
    }
}

/// An answer that comes in batches. Dropped before its end, it cancels the query.
pub struct Answer {
    /// The columns.
    pub schema: SchemaRef,
    /// Whether there were more rows than wanted; known at the end.
    pub truncated: bool,
    /// When it was asked.
    pub started: Instant,
    deadline: Instant,
    timeout: Duration,
    cancelled: Arc<Notify>,
    pieces: mpsc::Receiver<Piece>,
    work: Work,
    registered: Registered,
}

impl Answer {
    async fn piece(&mut self) -> Result<Piece, Told> {
        let piece = tokio::select! {
            piece = self.pieces.recv() => piece,
            () = tokio::time::sleep_until(self.deadline) => return Err(timed_out(self.timeout)),
            () = self.cancelled.notified() => return Err(was_cancelled()),
        };
        let piece = piece.unwrap_or_else(|| {
            Piece::Failed(Told::new(Blame::Wait, "TG-QUERY-WORKER", "the query's worker has gone").hint("ask again"))
        });
        self.work.ended = matches!(piece, Piece::End(_) | Piece::Failed(_));
        Ok(piece)
    }

    /// The next rows.
    pub async fn next(&mut self) -> Result<Option<RecordBatch>, Told> {
        let next = self.next_piece().await;
        match &next {
            Ok(Some(_)) => {}
            Ok(None) => self.registered.adhoc.outcomes.with_label_values(&["ok"]).inc(),
            Err(why) => self.registered.adhoc.count(why),
        }
        next
    }

    async fn next_piece(&mut self) -> Result<Option<RecordBatch>, Told> {
        match self.piece().await? {
            Piece::Batch(batch) => {
                self.work.worker.more(self.work.query);
                Ok(Some(batch))
            }
            Piece::End(truncated) => {
                self.truncated = truncated;
                Ok(None)
            }
            Piece::Failed(why) => Err(why),
            Piece::Head(_) => Err(Told::new(Blame::Us, "TG-INTERNAL", "an answer has two heads")),
        }
    }

    /// Waits until it must have ended, or is cancelled: for whoever waits for something else than the next rows.
    pub async fn over(&self) {
        tokio::select! {
            () = tokio::time::sleep_until(self.deadline) => {}
            () = self.cancelled.notified() => {}
        }
    }

    /// When it must have ended.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Names it.
    pub fn id(&self) -> Uuid {
        self.registered.id
    }

    /// The most bytes that it may have, as it is written.
    pub fn bytes_max(&self) -> usize {
        self.registered.adhoc.settings.bytes_max
    }

    /// The most rows that an answer may have.
    pub fn rows_max(&self) -> usize {
        self.registered.adhoc.settings.rows_max
    }

    /// All of the rows.
    pub async fn all(&mut self) -> Result<Vec<RecordBatch>, Told> {
        let mut batches = Vec::new();
        while let Some(batch) = self.next().await? {
            batches.push(batch);
        }
        Ok(batches)
    }
}
