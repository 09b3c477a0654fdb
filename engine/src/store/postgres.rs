//! Sessions with Postgres: the tables, the claim of a pipeline, the commit and the resolution of its outcome.

use std::collections::HashMap;
use std::future::Future;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::ipc::CompressionType;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::{IpcWriteOptions, StreamWriter};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row, Statement};
use tokio_postgres_rustls::MakeRustlsConnect;
use uuid::Uuid;

use super::{Commit, FoundPiece, Settled, StatePiece, Stored, StoredPartition, StoredView, ViewCommit, holder};
use crate::error::{Error, Kind, Result};
use crate::failpoint;
use crate::sink::{Rows, TableSql, quoted};
use crate::sql::planned::Table;
use crate::sql::source::Startup;
use crate::time::NONE;

const SCHEMA: &str = include_str!("schema.sql");

/// Serialises the creation of our tables among engines that start together.
const SCHEMA_LOCK: i64 = 0x7469_6465_6761_7465;

/// What makes and resolves sessions.
#[derive(Clone)]
pub struct Store {
    config: tokio_postgres::Config,
    tls: MakeRustlsConnect,
    timeout: Duration,
}

impl Store {
    /// A store at this URL. Each question to it may take `timeout`.
    pub fn new(url: &str, timeout: Duration) -> Result<Self> {
        let mut config = tokio_postgres::Config::from_str(url).map_err(|error| {
            Error::configuration("TG-DATABASE-URL", format!("the database URL cannot be read: {error}"))
                .hint("write postgres://user:password@host:5432/database")
        })?;
        config
            .application_name("tidegate")
            .connect_timeout(timeout)
            .tcp_user_timeout(timeout)
            .keepalives_idle(Duration::from_secs(5))
            .keepalives_interval(Duration::from_secs(2))
            .keepalives_retries(3)
            .target_session_attrs(tokio_postgres::config::TargetSessionAttrs::ReadWrite);
        let mut roots = rustls::RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::bug(format!("TLS has no protocol version: {error}")))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self { config, tls: MakeRustlsConnect::new(tls), timeout })
    }

    /// Opens a session.
    pub async fn connect(&self, role: &str) -> Result<Session> {
        let connected = deadline(self.timeout, self.config.connect(self.tls.clone())).await?;
        let (client, connection) = connected.map_err(|error| lost(&error))?;
        let pipe = tokio::spawn(async move {
            // Its end shows as a failure of the question that was asked.
            let _ = connection.await;
        });
        let mut session = Session { client, pipe, timeout: self.timeout, prepared: HashMap::new(), pid: 0 };
        let ms = self.timeout.as_millis();
        session
            .batch(&format!(
                "SET application_name = 'tidegate {role}'; SET statement_timeout = 0; SET lock_timeout = {ms}; \
                 SET idle_in_transaction_session_timeout = {ms}; SET timezone = 'UTC'; SET client_min_messages = warning"
            ))
            .await?;
        session.pid = session.one("SELECT pg_backend_pid()", &[]).await?.get(0);
        Ok(session)
    }

    /// Creates our tables where they are missing.
    pub async fn migrate(&self) -> Result<()> {
        let session = self.connect("setup").await?;
        session.batch("BEGIN").await?;
        session.run("SELECT pg_advisory_xact_lock($1)", &[&SCHEMA_LOCK]).await?;
        let there = session.one("SELECT to_regclass('tidegate.leases') IS NOT NULL", &[]).await?;
        if !there.get::<_, bool>(0) {
            session.batch(SCHEMA).await?;
        }
        session.batch("COMMIT").await
    }
}

/// Ends what takes too long; the session is then unusable.
async fn deadline<T>(limit: Duration, work: impl Future<Output = T>) -> Result<T> {
    tokio::time::timeout(limit, work)
        .await
        .map_err(|_| Error::wait("TG-DATABASE-UNREACHABLE", format!("the database did not answer within {limit:?}")))
}

/// Where a lease stands.
#[derive(Debug)]
pub struct LeaseRow {
    /// Its holder.
    pub holder: String,
    /// Its heartbeat.
    pub beat: i64,
}

/// A session with the database.
pub struct Session {
    client: Client,
    pipe: tokio::task::JoinHandle<()>,
    timeout: Duration,
    prepared: HashMap<String, Statement>,
    pid: i32,
}

impl Drop for Session {
    fn drop(&mut self) {
        // A session that we gave up may hang; nothing of it may go on behind our back.
        self.pipe.abort();
    }
}

type Parameters<'a> = &'a [&'a (dyn ToSql + Sync)];

impl Session {
    /// Its backend's process.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    async fn batch(&self, sql: &str) -> Result<()> {
        deadline(self.timeout, self.client.batch_execute(sql)).await?.map_err(|error| told(&error))
    }

    async fn run(&self, sql: &str, parameters: Parameters<'_>) -> Result<u64> {
        deadline(self.timeout, self.client.execute(sql, parameters)).await?.map_err(|error| told(&error))
    }

    async fn one(&self, sql: &str, parameters: Parameters<'_>) -> Result<Row> {
        deadline(self.timeout, self.client.query_one(sql, parameters)).await?.map_err(|error| told(&error))
    }

    async fn all(&self, sql: &str, parameters: Parameters<'_>) -> Result<Vec<Row>> {
        deadline(self.timeout, self.client.query(sql, parameters)).await?.map_err(|error| told(&error))
    }

    /// Runs a statement that comes again: prepared once for each session.
    async fn often(&mut self, sql: &str, parameters: Parameters<'_>) -> Result<u64, Failed> {
        if !self.prepared.contains_key(sql) {
            let statement = deadline(self.timeout, self.client.prepare(sql))
                .await
                .map_err(Failed::Hangs)?
                .map_err(Failed::Answered)?;
            self.prepared.insert(sql.to_string(), statement);
        }
        let statement = &self.prepared[sql];
        deadline(self.timeout, self.client.execute(statement, parameters))
            .await
            .map_err(Failed::Hangs)?
            .map_err(Failed::Answered)
    }

    /// Takes the pipeline's advisory lock, if it is free.
    pub async fn try_lock(&self, pipeline: &str) -> Result<bool> {
        Ok(self.one("SELECT pg_try_advisory_lock(hashtextextended('tidegate ' || $1, 0))", &[&pipeline]).await?.get(0))
    }

    /// The pipeline's lease.
    pub async fn lease(&self, pipeline: &str) -> Result<Option<LeaseRow>> {
        let rows = self.all("SELECT holder, beat FROM tidegate.leases WHERE pipeline = $1", &[&pipeline]).await?;
        Ok(rows.first().map(|row| LeaseRow { holder: row.get(0), beat: row.get(1) }))
    }

    /// Raises the heartbeat, from the session that holds the lock.
    pub async fn beat(&self, pipeline: &str, commit_pid: i32) -> Result<()> {
        self.run(
            "INSERT INTO tidegate.leases AS l VALUES ($1::text, $2::text, pg_backend_pid(), $3::integer, 1, now()) ON CONFLICT (pipeline) DO UPDATE \
             SET holder = excluded.holder, backend_pid = excluded.backend_pid, commit_pid = excluded.commit_pid, \
             beat = l.beat + 1, beat_at = now()",
            &[&pipeline, &holder(), &commit_pid],
        )
        .await
        .map(|_| ())
    }

    /// Ends the sessions of an owner that no longer beats.
    pub async fn end_owner(&self, pipeline: &str) -> Result<()> {
        self.all(
            "SELECT pg_terminate_backend(a.pid) FROM tidegate.leases l JOIN pg_stat_activity a \
             ON a.pid IN (l.backend_pid, l.commit_pid) AND a.application_name LIKE 'tidegate %' WHERE l.pipeline = $1",
            &[&pipeline],
        )
        .await
        .map(|_| ())
    }

    /// Makes this engine the owner: a new epoch, from which on every older one is fenced.
    pub async fn claim(&self, pipeline: &str, topic: &str, topic_id: &str) -> Result<Stored> {
        let system = self.one("SELECT system_identifier::text FROM pg_control_system()", &[]).await;
        let system: String = system.map(|row| row.get(0)).unwrap_or_default();
        self.batch("BEGIN").await?;
        self.run(
            "INSERT INTO tidegate.pipelines (pipeline, epoch, commit_seq, commit_id, holder, topic, topic_id, system_id) \
             VALUES ($1, 0, 0, gen_random_uuid(), $2, $3, $4, $5) ON CONFLICT DO NOTHING",
            &[&pipeline, &holder(), &topic, &topic_id, &system],
        )
        .await?;
        let row = self
            .one(
                "UPDATE tidegate.pipelines SET epoch = epoch + 1, holder = $2 WHERE pipeline = $1 RETURNING epoch, commit_seq, \
                 coalesce((extract(epoch FROM watermark) * 1000000)::bigint, $3::bigint), topic, topic_id, system_id, checkpoint_seq, state_version",
                &[&pipeline, &holder(), &NONE],
            )
            .await?;
        let (was_topic, was_system): (String, String) = (row.get(3), row.get(5));
        if was_topic != topic {
            return Err(Error::decide(
                "TG-TOPIC-CHANGED",
                format!("pipeline {pipeline} has read topic {was_topic}, and its source now names {topic}"),
            )
            .hint("restore the topic, or give the source and its views new names"));
        }
        if !was_system.is_empty() && !system.is_empty() && was_system != system {
            return Err(Error::decide("TG-DATABASE-CHANGED", format!("pipeline {pipeline} was made in database system {was_system}, and this is {system}"))
                .hint("connect to the right server; after a dump and restore, set tidegate.pipelines.system_id to the new identifier"));
        }
        let us = |column: &str| format!("coalesce((extract(epoch FROM {column}) * 1000000)::bigint, {NONE})");
        let partitions = self
            .all(
                &format!(
                    "SELECT part, next_offset, checkpoint_offset, rebuild_from, {}, {}, {}, idle FROM tidegate.progress WHERE pipeline = $1 ORDER BY part",
                    us("watermark"),
                    us("checkpoint_watermark"),
                    us("rebuild_watermark")
                ),
                &[&pipeline],
            )
            .await?;
        let views = self
            .all(
                &format!(
                    "SELECT view, fingerprint, {}, state_pieces FROM tidegate.view_progress WHERE pipeline = $1",
                    us("floor")
                ),
                &[&pipeline],
            )
            .await?;
        self.batch("COMMIT").await?;
        Ok(Stored {
            epoch: row.get(0),
            seq: row.get(1),
            frontier: row.get(2),
            topic_id: row.get(4),
            checkpoint_seq: row.get(6),
            state_version: row.get(7),
            partitions: partitions
                .iter()
                .map(|row| StoredPartition {
                    partition: row.get(0),
                    next_offset: row.get(1),
                    checkpoint_offset: row.get(2),
                    rebuild_from: row.get(3),
                    watermark: row.get(4),
                    checkpoint_watermark: row.get(5),
                    rebuild_watermark: row.get(6),
                    idle: row.get(7),
                })
                .collect(),
            views: views
                .iter()
                .map(|row| StoredView {
                    view: row.get(0),
                    fingerprint: row.get(1),
                    floor: row.get(2),
                    pieces: row.get(3),
                })
                .collect(),
        })
    }

    /// The topic's identity, as it was when the pipeline was made.
    pub async fn topic_id(&self, pipeline: &str) -> Result<String> {
        Ok(self.one("SELECT topic_id FROM tidegate.pipelines WHERE pipeline = $1", &[&pipeline]).await?.get(0))
    }

    /// Notes where partitions begin that were never read.
    pub async fn begin_partitions(&self, pipeline: &str, epoch: i64, starts: &[(i32, i64)]) -> Result<()> {
        let (parts, offsets): (Vec<i32>, Vec<i64>) = starts.iter().copied().unzip();
        let made = self
            .run(
                "WITH owner AS (SELECT 1 FROM tidegate.pipelines WHERE pipeline = $1 AND epoch = $2 FOR UPDATE) \
                 INSERT INTO tidegate.progress (pipeline, part, next_offset, checkpoint_offset, rebuild_from, start_offset) \
                 SELECT $1::text, n.part, n.at, n.at, n.at, n.at FROM unnest($3::integer[], $4::bigint[]) AS n(part, at), owner",
                &[&pipeline, &epoch, &parts, &offsets],
            )
            .await?;
        if made != starts.len() as u64 {
            return Err(Error::fenced(format!("pipeline {pipeline}: epoch {epoch} is over")));
        }
        Ok(())
    }

    /// Notes a view that is new. `floor` is the greatest event time read before it.
    pub async fn begin_view(&self, pipeline: &str, view: &str, fingerprint: &str, floor: i64) -> Result<()> {
        self.run(
            &format!(
                "INSERT INTO tidegate.view_progress (view, pipeline, fingerprint, floor) VALUES ($1, $2, $3, {})",
                time("$4")
            ),
            &[&view, &pipeline, &fingerprint, &floor],
        )
        .await
        .map(|_| ())
    }

    /// Creates a view's table, or checks that it is the one that the query needs.
    pub async fn ensure_table(&self, table: &Table, sql: &TableSql) -> Result<()> {
        let exists = self.one("SELECT to_regclass($1) IS NOT NULL", &[&sql.name]).await?;
        if !exists.get::<_, bool>(0) {
            for statement in &sql.create {
                self.batch(statement).await?;
            }
            return Ok(());
        }
        let refuse = |what: String| {
            Error::configuration("TG-SINK-SCHEMA", format!("table {} {what}", table.name))
                .hint("change the table, or give the view another name")
        };
        let rows = self
            .all(
                "SELECT attname::text, format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped",
                &[&sql.name],
            )
            .await?;
        let found: HashMap<String, String> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        for column in &table.columns {
            let expected = crate::sink::types::sql_type(&column.data_type).unwrap_or_default();
            match found.get(&column.name) {
                None => return Err(refuse(format!("has no column {}", column.name))),
                Some(actual) if *actual != expected && *actual != expected.split('(').next().unwrap_or_default() => {
                    return Err(refuse(format!(
                        "has column {} of type {actual}, and the query gives {expected}",
                        column.name
                    )));
                }
                Some(_) => {}
            }
        }
        let key: Vec<String> = table.key().map(|column| column.name.clone()).collect();
        let unique = self
            .one(
                "SELECT count(*) FROM pg_index i WHERE i.indrelid = to_regclass($1) AND i.indisunique AND i.indpred IS NULL AND \
                 (SELECT array_agg(a.attname::text ORDER BY a.attname) FROM pg_attribute a WHERE a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)) \
                 = (SELECT array_agg(k ORDER BY k) FROM unnest($2::text[]) AS k)",
                &[&sql.name, &key],
            )
            .await?;
        if unique.get::<_, i64>(0) == 0 {
            let list: Vec<String> = key.iter().map(|name| quoted(name)).collect();
            return Err(refuse(format!("has no unique index on its key ({})", list.join(", "))));
        }
        Ok(())
    }

    /// The state pieces of a pipeline, verified one by one.
    pub async fn load_state(&self, pipeline: &str) -> Result<Vec<FoundPiece>> {
        let rows = self
            .all("SELECT view, window_start, piece, groups, digest, data FROM tidegate.state WHERE pipeline = $1 ORDER BY view, window_start, piece", &[&pipeline])
            .await?;
        Ok(rows
            .iter()
            .map(|row| {
                let (groups, digest, data): (i64, &[u8], &[u8]) = (row.get(3), row.get(4), row.get(5));
                FoundPiece {
                    view: row.get(0),
                    window_start: row.get(1),
                    seq: row.get(2),
                    groups: unpack(groups, digest, data),
                }
            })
            .collect())
    }

    /// Records of these offsets and above that were rejected as lying in the future: a replay takes that as given.
    pub async fn future_rejects(&self, pipeline: &str, from: &[(i32, i64)]) -> Result<Vec<(i32, i64)>> {
        let (parts, offsets): (Vec<i32>, Vec<i64>) = from.iter().copied().unzip();
        let rows = self
            .all(
                "SELECT d.part, o FROM tidegate.dead_letters d JOIN unnest($2::integer[], $3::bigint[]) AS f(part, at) ON f.part = d.part, \
                 unnest(coalesce(d.more_offsets, ARRAY[d.\"offset\"])) AS o WHERE d.pipeline = $1 AND d.reason = 'future' AND d.view = '' AND o >= f.at",
                &[&pipeline, &parts, &offsets],
            )
            .await?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    /// Which commit the database has, waiting for one that is still under way.
    async fn last_commit(&self, pipeline: &str) -> Result<(i64, i64, Uuid)> {
        let row = self
            .one(
                "SELECT epoch, commit_seq, commit_id::text FROM tidegate.pipelines WHERE pipeline = $1 FOR UPDATE",
                &[&pipeline],
            )
            .await?;
        let id: String = row.get(2);
        Ok((row.get(0), row.get(1), Uuid::parse_str(&id).unwrap_or_default()))
    }
}

/// Microseconds as a timestamp, exactly; [`NONE`] as NULL.
fn time(parameter: &str) -> String {
    format!(
        "(CASE WHEN {parameter}::bigint > {NONE} THEN timestamptz 'epoch' + ({parameter}::bigint / 1000000) * interval '1 second' + ({parameter}::bigint % 1000000) * interval '1 microsecond' END)"
    )
}

/// Why a statement of a commit did not succeed.
enum Failed {
    /// The server, or the client library, said so.
    Answered(tokio_postgres::Error),
    /// Nobody said anything in time, or a test wanted it so.
    Hangs(Error),
    /// The fence, or a count, does not fit.
    Misfit,
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self::Hangs(error)
    }
}

fn lost(error: &tokio_postgres::Error) -> Error {
    match error.as_db_error() {
        Some(db) if db.code().code().starts_with("28") || *db.code() == SqlState::INVALID_CATALOG_NAME => {
            Error::configuration("TG-DATABASE-ACCESS", format!("the database refuses us: {}", db.message()))
                .hint("check DATABASE_URL and the role's rights")
        }
        _ => Error::wait("TG-DATABASE-UNREACHABLE", format!("no session with the database: {}", reasons(error))),
    }
}

fn told(error: &tokio_postgres::Error) -> Error {
    match error.as_db_error() {
        Some(db) if is_transient(db.code()) => {
            Error::wait("TG-DATABASE-UNREACHABLE", format!("the database says {}: {}", db.code().code(), db.message()))
        }
        Some(db) => Error::configuration(
            "TG-DATABASE",
            format!("the database refuses a statement: {}: {}", db.code().code(), db.message()),
        )
        .hint("check the role's rights and the tables in schema tidegate"),
        None if is_lost(error) => {
            Error::wait("TG-DATABASE-UNREACHABLE", format!("the session was lost: {}", reasons(error)))
        }
        None => Error::bug(format!("a statement was not understood: {}", reasons(error))),
    }
}

/// Whether the connection failed, rather than what was said over it.
fn is_lost(error: &tokio_postgres::Error) -> bool {
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        if inner.is::<std::io::Error>() {
            return true;
        }
        cause = inner.source();
    }
    error.is_closed()
}

fn reasons(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

/// What may pass: connection, resources, operator intervention, rollbacks for concurrency, locks, a read-only target.
fn is_transient(code: &SqlState) -> bool {
    let code = code.code();
    matches!(&code[..2], "08" | "40" | "53" | "57" | "58") || matches!(code, "55P03" | "25006" | "55006")
}

/// What a row's own values cause.
fn is_data(code: &SqlState) -> bool {
    matches!(&code.code()[..2], "22" | "23") || code.code() == "54000"
}

/// How one attempt to commit ended.
enum Attempt {
    Committed,
    /// Surely not committed; the same may be tried again.
    Again(Error),
    /// A row's values were refused; rows must be tried apart.
    Refused(String),
    /// COMMIT was sent and no answer came.
    Unknown(Error),
    /// The fence or a count did not fit.
    Misfit,
    /// It will never succeed as it is.
    Fatal(Error),
}

/// A pipeline's writer: the session, and what it needs to know of the tables.
pub struct Writer {
    store: Store,
    session: Option<Session>,
    tables: Vec<(String, TableSql)>,
    on_session: Box<dyn Fn(i32) + Send + Sync>,
}

impl Writer {
    /// A writer for views in this order. `on_session` hears of each new session's backend.
    pub fn new(
        store: Store,
        session: Session,
        tables: Vec<(String, TableSql)>,
        on_session: impl Fn(i32) + Send + Sync + 'static,
    ) -> Self {
        on_session(session.pid());
        Self { store, session: Some(session), tables, on_session: Box::new(on_session) }
    }

    /// The session for questions between commits.
    pub async fn session(&mut self) -> Result<&mut Session> {
        if self.session.is_none() {
            let session = self.store.connect("commit").await?;
            (self.on_session)(session.pid());
            self.session = Some(session);
        }
        self.session.as_mut().ok_or_else(|| Error::bug("a session vanished"))
    }

    /// Commits, however long it takes: retries what was surely aborted, resolves what is unknown.
    pub async fn commit(&mut self, commit: &Commit, gave_up: impl Fn() -> bool) -> Result<Settled> {
        let mut apart = false;
        let mut pause = Duration::from_millis(50);
        loop {
            let attempt = match self.session().await {
                Err(error) if error.kind == Kind::Wait => Attempt::Again(error),
                Err(error) => Attempt::Fatal(error),
                Ok(_) => self.attempt(commit, apart).await,
            };
            match attempt {
                Attempt::Committed => return Ok(Settled::Committed),
                Attempt::Refused(why) => {
                    tracing::warn!(pipeline = commit.pipeline, "the database refuses a row ({why}); trying rows apart");
                    self.roll_back().await;
                    apart = true;
                }
                Attempt::Again(error) => {
                    self.session = None;
                    tracing::warn!(
                        pipeline = commit.pipeline,
                        seq = commit.seq,
                        "commit not made, trying again: {error}"
                    );
                    if gave_up() {
                        return Ok(Settled::Aborted);
                    }
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(1));
                }
                Attempt::Unknown(error) => {
                    self.session = None;
                    tracing::warn!(pipeline = commit.pipeline, seq = commit.seq, "outcome unknown: {error}");
                    return self.resolve(commit, gave_up).await;
                }
                Attempt::Misfit => {
                    self.roll_back().await;
                    return self.resolve(commit, gave_up).await;
                }
                Attempt::Fatal(error) => {
                    self.roll_back().await;
                    return Err(error);
                }
            }
        }
    }

    async fn roll_back(&mut self) {
        if let Some(session) = &self.session
            && session.batch("ROLLBACK").await.is_err()
        {
            self.session = None;
        }
    }

    /// Asks the database what became of a commit.
    async fn resolve(&mut self, commit: &Commit, gave_up: impl Fn() -> bool) -> Result<Settled> {
        let pipeline = &commit.pipeline;
        loop {
            let last = match self.session().await {
                Ok(session) => session.last_commit(pipeline).await,
                Err(error) => Err(error),
            };
            match last {
                Err(error) if error.kind == Kind::Wait => {
                    self.session = None;
                    if gave_up() {
                        return Err(error);
                    }
                    tracing::warn!(pipeline, "cannot resolve commit {} yet: {error}", commit.seq);
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                Err(error) => return Err(error),
                Ok((_, _, id)) if id == commit.id => {
                    tracing::info!(pipeline, seq = commit.seq, "resolved=committed");
                    return Ok(Settled::Committed);
                }
                Ok((epoch, _, _)) if epoch != commit.epoch => {
                    tracing::info!(pipeline, seq = commit.seq, "resolved=aborted");
                    return Err(Error::fenced(format!(
                        "pipeline {pipeline}: this engine owned epoch {}, and epoch {epoch} has begun",
                        commit.epoch
                    )));
                }
                Ok(_) => {
                    tracing::info!(pipeline, seq = commit.seq, "resolved=aborted");
                    return Ok(Settled::Aborted);
                }
            }
        }
    }

    async fn attempt(&mut self, commit: &Commit, apart: bool) -> Attempt {
        let Some(session) = &mut self.session else { return Attempt::Again(Error::bug("no session")) };
        if let Err(failed) = transact(session, &self.tables, commit, apart).await {
            return match failed {
                Failed::Misfit => Attempt::Misfit,
                Failed::Hangs(error) => Attempt::Again(error),
                Failed::Answered(error) => match error.as_db_error() {
                    Some(db) if is_data(db.code()) && !apart => {
                        Attempt::Refused(format!("{}: {}", db.code().code(), db.message()))
                    }
                    Some(db) if !is_transient(db.code()) => Attempt::Fatal(told(&error)),
                    None if !is_lost(&error) => Attempt::Fatal(told(&error)),
                    _ => Attempt::Again(told(&error)),
                },
            };
        }
        if let Err(error) = failpoint::hit("commit-unsent") {
            return Attempt::Again(error);
        }
        // From here on a lost session leaves the outcome open.
        let sent = deadline(session.timeout, async {
            let answer = session.client.batch_execute("COMMIT");
            if failpoint::armed() {
                // Lets the bytes leave before the point is passed.
                tokio::pin!(answer);
                let first = tokio::time::timeout(Duration::from_micros(300), &mut answer).await;
                failpoint::hit("commit-sent")?;
                match first {
                    Ok(answer) => Ok(answer),
                    Err(_) => Ok(answer.await),
                }
            } else {
                Ok::<_, Error>(answer.await)
            }
        });
        match sent.await {
            Err(error) | Ok(Err(error)) => Attempt::Unknown(error),
            Ok(Ok(Err(error))) if error.as_db_error().is_some_and(|db| !db.code().code().starts_with("57")) => {
                // Deferred constraints are checked here: the server says that it rolled back.
                match error.as_db_error() {
                    Some(db) if is_transient(db.code()) => Attempt::Again(told(&error)),
                    _ => Attempt::Fatal(told(&error)),
                }
            }
            Ok(Ok(Err(error))) => Attempt::Unknown(told(&error)),
            Ok(Ok(Ok(()))) => match failpoint::hit("commit-acked") {
                Ok(()) => Attempt::Committed,
                Err(error) => Attempt::Unknown(error),
            },
        }
    }
}

/// Everything between BEGIN and COMMIT.
async fn transact(
    session: &mut Session,
    tables: &[(String, TableSql)],
    commit: &Commit,
    apart: bool,
) -> Result<(), Failed> {
    deadline(session.timeout, session.client.batch_execute("BEGIN")).await?.map_err(Failed::Answered)?;
    failpoint::hit("begun")?;
    fence(session, commit).await?;
    failpoint::hit("fenced")?;
    for view in &commit.views {
        write_view(session, &tables[view.view], view, commit, apart).await?;
    }
    failpoint::hit("upserted")?;
    dead_letters(session, commit).await?;
    failpoint::hit("dead-letters")?;
    state(session, tables, commit).await?;
    progress(session, commit).await?;
    failpoint::hit("progress")?;
    Ok(())
}

async fn fence(session: &mut Session, commit: &Commit) -> Result<(), Failed> {
    let checkpoint = commit.checkpoint.as_ref().map(|_| commit.seq);
    let sql = format!(
        "UPDATE tidegate.pipelines SET commit_seq = $2::bigint, commit_id = $3::text::uuid, watermark = {}, records_read = records_read + $5::bigint, \
         records_decoded = records_decoded + $6::bigint, records_rejected = records_rejected + $7::bigint, checkpoint_seq = coalesce($8::bigint, checkpoint_seq), \
         state_version = CASE WHEN $8::bigint IS NULL THEN state_version ELSE $9 END, committed_at = now() \
         WHERE pipeline = $1 AND epoch = $10 AND commit_seq = $2::bigint - 1",
        time("$4")
    );
    let id = commit.id.to_string();
    let moved = session
        .often(
            &sql,
            &[
                &commit.pipeline,
                &commit.seq,
                &id,
                &commit.frontier,
                &commit.read,
                &commit.decoded,
                &commit.rejected,
                &checkpoint,
                &STATE_VERSION,
                &commit.epoch,
            ],
        )
        .await?;
    if moved == 1 { Ok(()) } else { Err(Failed::Misfit) }
}

/// Names the layout of the state: state of another version is rebuilt from the log.
pub const STATE_VERSION: &str = concat!("1 datafusion ", "55.2");

async fn write_view(
    session: &mut Session,
    table: &(String, TableSql),
    view: &ViewCommit,
    commit: &Commit,
    apart: bool,
) -> Result<(), Failed> {
    let (name, sql) = table;
    for rows in &view.write.deletes {
        session.often(&sql.delete, &parameters(rows)).await?;
    }
    for rows in &view.write.upserts {
        if apart {
            upsert_apart(session, table, rows, commit).await?;
        } else {
            session.often(&sql.upsert, &parameters(rows)).await?;
        }
    }
    let counts = &view.counts;
    session
        .often(
            &format!(
                "UPDATE tidegate.view_progress SET decoded = decoded + $2::bigint, filtered = filtered + $3::bigint, accepted = accepted + $4::bigint, late = late + $5::bigint, \
                 failed = failed + $6::bigint, closed_until = coalesce({}, closed_until), state_pieces = $8::bigint WHERE view = $1",
                time("$7")
            ),
            &[name, &counts.decoded, &counts.filtered, &counts.accepted, &counts.late, &counts.failed, &commit.frontier, &view.pieces],
        )
        .await?;
    Ok(())
}

fn parameters(rows: &Rows) -> Vec<&(dyn ToSql + Sync)> {
    rows.columns.iter().map(|column| column as &(dyn ToSql + Sync)).collect()
}

/// Upserts what the database takes; each row that it refuses becomes a dead letter. Halves until the row is alone.
async fn upsert_apart(
    session: &mut Session,
    table: &(String, TableSql),
    rows: &Rows,
    commit: &Commit,
) -> Result<(), Failed> {
    let mut todo = vec![rows.clone()];
    while let Some(rows) = todo.pop() {
        deadline(session.timeout, session.client.batch_execute("SAVEPOINT apart")).await?.map_err(Failed::Answered)?;
        match session.often(&table.1.upsert, &parameters(&rows)).await {
            Ok(_) => {
                deadline(session.timeout, session.client.batch_execute("RELEASE apart"))
                    .await?
                    .map_err(Failed::Answered)?;
            }
            Err(Failed::Answered(error)) if error.as_db_error().is_some_and(|db| is_data(db.code())) => {
                deadline(session.timeout, session.client.batch_execute("ROLLBACK TO apart"))
                    .await?
                    .map_err(Failed::Answered)?;
                let count = rows.batch.num_rows();
                if count == 1 {
                    refused_row(session, &table.0, &rows, commit, &error).await?;
                } else {
                    for (start, len) in [(count / 2, count - count / 2), (0, count / 2)] {
                        todo.push(Rows::new(rows.batch.slice(start, len))?);
                    }
                }
            }
            Err(other) => return Err(other),
        }
    }
    Ok(())
}

async fn refused_row(
    session: &mut Session,
    view: &str,
    rows: &Rows,
    commit: &Commit,
    error: &tokio_postgres::Error,
) -> Result<(), Failed> {
    let mut writer = arrow::json::LineDelimitedWriter::new(Vec::new());
    let written = writer.write(&rows.batch).and_then(|()| writer.finish());
    written.map_err(|error| Failed::Hangs(error.into()))?;
    let row = String::from_utf8_lossy(&writer.into_inner()).trim().to_string();
    let reason = format!("sink-{}", error.code().map_or("unknown", SqlState::code));
    let detail = error.as_db_error().map_or_else(|| error.to_string(), |db| db.message().to_string());
    let payload = row.clone().into_bytes();
    session
        .often(
            "INSERT INTO tidegate.dead_letters (pipeline, view, part, \"offset\", reason, topic, detail, payload, payload_size, row_key) \
             SELECT $1::text, $2::text, -1, $3::bigint, $4::text, topic, $5::text, $6::bytea, $7::bigint, md5($8::text) FROM tidegate.pipelines WHERE pipeline = $1 ON CONFLICT DO NOTHING",
            &[&commit.pipeline, &view, &commit.seq, &reason, &detail, &payload, &(payload.len() as i64), &row],
        )
        .await?;
    Ok(())
}

async fn dead_letters(session: &mut Session, commit: &Commit) -> Result<(), Failed> {
    for letter in &commit.dead_letters {
        session
            .often(
                "INSERT INTO tidegate.dead_letters (pipeline, view, part, \"offset\", reason, topic, count, more_offsets, detail, payload, payload_size) \
                 SELECT $1::text, $2::text, $3::integer, $4::bigint, $5::text, topic, $6::bigint, $7::bigint[], $8::text, $9::bytea, $10::bigint FROM tidegate.pipelines WHERE pipeline = $1",
                &[
                    &commit.pipeline,
                    &letter.view,
                    &letter.partition,
                    &letter.offset,
                    &letter.reason,
                    &letter.count,
                    &letter.offsets,
                    &letter.detail,
                    &letter.payload,
                    &letter.payload_size,
                ],
            )
            .await?;
    }
    Ok(())
}

async fn state(session: &mut Session, tables: &[(String, TableSql)], commit: &Commit) -> Result<(), Failed> {
    for view in &commit.views {
        if let Some(bound) = view.drop_state_before {
            session
                .often(
                    "DELETE FROM tidegate.state WHERE pipeline = $1 AND view = $2 AND window_start < $3",
                    &[&commit.pipeline, &tables[view.view].0, &bound],
                )
                .await?;
        }
    }
    let Some(pieces) = &commit.checkpoint else { return Ok(()) };
    failpoint::hit("state")?;
    if commit.resets_state {
        session.often("DELETE FROM tidegate.state WHERE pipeline = $1", &[&commit.pipeline]).await?;
    }
    for piece in pieces {
        if !piece.replaces.is_empty() {
            session
                .often(
                    "DELETE FROM tidegate.state WHERE pipeline = $1 AND view = $2 AND window_start = $3 AND piece = ANY ($4)",
                    &[&commit.pipeline, &piece.view, &piece.window_start, &piece.replaces],
                )
                .await?;
            failpoint::hit("checkpoint-merged")?;
        }
        session
            .often(
                "INSERT INTO tidegate.state (pipeline, view, window_start, piece, groups, digest, data) VALUES ($1, $2, $3, $4, $5, $6, $7)",
                &[&commit.pipeline, &piece.view, &piece.window_start, &commit.seq, &piece.groups, &piece.digest, &piece.data],
            )
            .await?;
    }
    Ok(())
}

/// Moves the partitions. No open window depends on records below `rebuild`, so a replay need not begin before it.
async fn progress(session: &mut Session, commit: &Commit) -> Result<(), Failed> {
    if commit.moves.is_empty() {
        return Ok(());
    }
    let column = |get: fn(&super::Move) -> i64| commit.moves.iter().map(get).collect::<Vec<i64>>();
    let parts: Vec<i32> = commit.moves.iter().map(|m| m.range.partition).collect();
    let idle: Vec<bool> = commit.moves.iter().map(|m| m.idle).collect();
    let (from, until) = (column(|m| m.range.from), column(|m| m.range.until));
    let (watermark, rebuild, rebuild_watermark) =
        (column(|m| m.watermark), column(|m| m.rebuild_from), column(|m| m.rebuild_watermark));
    let sql = format!(
        "UPDATE tidegate.progress p SET next_offset = n.until, watermark = {wm}, idle = n.idle, rebuild_from = n.rebuild, rebuild_watermark = {rebuild_wm}, \
         checkpoint_offset = CASE WHEN $9::boolean THEN n.until ELSE greatest(p.checkpoint_offset, n.rebuild) END, \
         checkpoint_watermark = CASE WHEN $9::boolean THEN {wm} WHEN n.rebuild > p.checkpoint_offset THEN {rebuild_wm} ELSE p.checkpoint_watermark END \
         FROM unnest($2::integer[], $3::bigint[], $4::bigint[], $5::bigint[], $6::boolean[], $7::bigint[], $8::bigint[]) \
         AS n(part, from_, until, wm, idle, rebuild, rebuild_wm) WHERE p.pipeline = $1 AND p.part = n.part AND p.next_offset = n.from_",
        wm = time("n.wm"),
        rebuild_wm = time("n.rebuild_wm")
    );
    let checkpoint = commit.checkpoint.is_some();
    let moved = session
        .often(
            &sql,
            &[&commit.pipeline, &parts, &from, &until, &watermark, &idle, &rebuild, &rebuild_watermark, &checkpoint],
        )
        .await?;
    if moved == parts.len() as u64 { Ok(()) } else { Err(Failed::Misfit) }
}

/// A piece of state as bytes, with their digest.
pub fn pack(view: &str, window_start: i64, groups: &RecordBatch, replaces: Vec<i64>) -> Result<StatePiece> {
    let options = IpcWriteOptions::default().try_with_compression(Some(CompressionType::LZ4_FRAME))?;
    let mut writer = StreamWriter::try_new_with_options(Vec::new(), &groups.schema(), options)?;
    writer.write(groups)?;
    writer.finish()?;
    let data = writer.into_inner()?;
    let digest = blake3::hash(&data).as_bytes().to_vec();
    Ok(StatePiece { view: view.to_string(), window_start, groups: groups.num_rows() as i64, digest, data, replaces })
}

/// The digest is checked before a byte is interpreted.
fn unpack(groups: i64, digest: &[u8], data: &[u8]) -> Result<RecordBatch, String> {
    if blake3::hash(data).as_bytes() != digest {
        return Err("its digest does not fit its bytes".to_string());
    }
    let mut reader = StreamReader::try_new(data, None).map_err(|error| error.to_string())?;
    let batch = reader.next().ok_or("it is empty")?.map_err(|error| error.to_string())?;
    if batch.num_rows() as i64 != groups {
        Err(format!("it has {} groups instead of {groups}", batch.num_rows()))
    } else {
        Ok(batch)
    }
}

/// Where a partition begins that was never read.
pub fn start_offset(startup: Startup, is_first_start: bool, low: i64, high: i64) -> i64 {
    match startup {
        Startup::Latest if is_first_start => high,
        _ => low,
    }
}
