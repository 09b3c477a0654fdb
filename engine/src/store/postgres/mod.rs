//! Sessions with Postgres, and what their failures mean. The parts:
//!
//! - `lease`: who is alive;
//! - `claim`: a pipeline is claimed, its tables and its state are read;
//! - `writer`: a commit is made, however long it takes, and an unknown outcome resolved;
//! - `transaction`: what stands between BEGIN and COMMIT;
//! - `table`, `columns`: a view's rows as statements and their parameters;
//! - `read`, `snapshot`: what people ask; `readers`: the sessions that answer.

mod archive;
mod claim;
mod columns;
mod lease;
mod read;
mod readers;
mod snapshot;
mod table;
mod transaction;
mod writer;

use std::collections::HashMap;
use std::future::Future;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row, Statement};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{SCHEMA_ADDED_TO, SCHEMA_VERSION, holder, other_schema};
use crate::error::{Error, Result};
use crate::sql::planned::Table;
use crate::time::NONE;

const SCHEMA: &str = include_str!("schema.sql");

/// Serialises the creation of our tables among engines that start together.
const SCHEMA_LOCK: i64 = 0x7469_6465_6761_7465;

/// What makes and resolves sessions.
#[derive(Clone)]
pub struct Postgres {
    config: tokio_postgres::Config,
    tls: MakeRustlsConnect,
    timeout: Duration,
    readers: Arc<readers::Readers>,
}

impl Postgres {
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
        Ok(Self { config, tls: MakeRustlsConnect::new(tls), timeout, readers: Arc::default() })
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
                 SET idle_in_transaction_session_timeout = {ms}; SET timezone = 'UTC'; SET client_min_messages = warning; \
                 {PINNED}"
            ))
            .await?;
        session.pid = session.one("SELECT pg_backend_pid()", &[]).await?.get(0);
        Ok(session)
    }

    /// Whether there is a view's table; an error if it is not the one that the query needs.
    pub async fn check_table(&self, table: &Table) -> Result<bool> {
        let (session, sql) = (self.connect("doctor").await?, table::TableSql::new(table));
        let exists = session.one("SELECT to_regclass($1) IS NOT NULL", &[&sql.name]).await?.get(0);
        if exists {
            session.check_table(table, &sql).await?;
        }
        Ok(exists)
    }

    async fn create_tables(&self) -> Result<()> {
        let session = self.connect("setup").await?;
        let role = session.one("SELECT rolname, rolsuper FROM pg_roles WHERE rolname = current_user", &[]).await?;
        if role.get(1) {
            let name: &str = role.get(0);
            tracing::warn!(
                "the database's role {name} is a superuser; one that owns its schemas is enough (docs/security.md)"
            );
        }
        session.batch("BEGIN").await?;
        session.run("SELECT pg_advisory_xact_lock($1)", &[&SCHEMA_LOCK]).await?;
        let found = session
            .one(
                "SELECT CASE WHEN to_regclass('tidegate.leases') IS NOT NULL THEN \
                 coalesce(substring(obj_description(to_regclass('tidegate.pipelines'), 'pg_class') FROM 'version ([0-9]+)')::bigint, 1) END",
                &[],
            )
            .await?;
        match found.get::<_, Option<i64>>(0) {
            None | Some(SCHEMA_ADDED_TO) => {
                session.batch(SCHEMA).await?;
                session.batch(&format!("COMMENT ON TABLE tidegate.pipelines IS 'version {SCHEMA_VERSION}'")).await?;
            }
            Some(SCHEMA_VERSION) => {}
            Some(other) => return Err(other_schema(other)),
        }
        session.batch("COMMIT").await
    }
}

/// A temporary table cannot stand in for one of ours: it is looked for last.
const PINNED: &str =
    "SELECT set_config('search_path', concat_ws(', ', nullif(current_setting('search_path'), ''), 'pg_temp'), false)";

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
