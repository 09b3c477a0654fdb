//! Postgres: whether it answers, how it is set, what it knows of the pipelines, and whether the views' tables are the right ones.

use std::time::Duration;

use sqlx::{Connection, PgConnection, Row};
use tidegate_engine::engine;
use tidegate_engine::settings::Settings;
use tidegate_engine::sql::Catalog;
use tidegate_engine::store::SCHEMA_VERSION;
use tidegate_engine::store::postgres::Postgres;
use tidegate_engine::store::status::Status;
use tidegate_engine::time::clock;

use super::finding::Findings;

/// How long it may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the database knows.
#[derive(Debug, Default)]
pub struct Known {
    /// Where everything stands; nothing before the first start of an engine.
    pub status: Status,
    /// By pipeline: who holds its lease, and how many seconds ago that was last said.
    pub leases: Vec<(String, String, i64)>,
    /// By pipeline and partition: from where a start replays, and from where a rebuild reads.
    pub needed: Vec<(String, i32, i64, i64)>,
    /// How far its clock is ahead of ours, in seconds.
    pub ahead: f64,
}

/// Looks; what it knows, if it answers.
pub async fn look(settings: &Settings, catalog: &Catalog, findings: &mut Findings) -> Option<Known> {
    let url = &settings.store.url;
    if url.is_empty() {
        findings.fault(
            "postgres",
            "no database is named",
            "set DATABASE_URL=postgres://user:password@host:5432/database",
        );
        return None;
    }
    if url.starts_with("sqlite:") {
        return sqlite(settings, findings).await;
    }
    let connected = tokio::time::timeout(PATIENCE, PgConnection::connect(url)).await;
    let mut database = match connected {
        Ok(Ok(database)) => database,
        Ok(Err(error)) => {
            let (found, todo) = refused(&error);
            findings.fault("postgres", found, todo);
            return None;
        }
        Err(_) => {
            let found = format!("it does not answer within {PATIENCE:?}");
            findings.fault("postgres", found, "is DATABASE_URL right, and does a firewall let us through?");
            return None;
        }
    };
    match examine(&mut database, settings, catalog, findings).await {
        Ok(known) => Some(known),
        Err(error) => {
            findings.fault(
                "postgres",
                format!("a question was refused: {error}"),
                "grant the role what docs/security.md says",
            );
            None
        }
    }
}

async fn sqlite(settings: &Settings, findings: &mut Findings) -> Option<Known> {
    let status = match engine::store(settings) {
        Ok(store) => store.status().await,
        Err(error) => Err(error),
    };
    match status {
        Ok(status) => {
            findings.ok("postgres", "results go to SQLite, in a file of this machine");
            Some(Known { status, ..Known::default() })
        }
        Err(error) => {
            findings.fault("postgres", error.message, error.hint.unwrap_or_default());
            None
        }
    }
}

/// Why there is no session, and what to do.
fn refused(error: &sqlx::Error) -> (String, &'static str) {
    match error {
        sqlx::Error::Database(error) => match error.code().as_deref() {
            Some("28P01" | "28000") => {
                ("the user or the password is wrong".to_string(), "correct DATABASE_URL, or the role's password")
            }
            Some("3D000") => (error.message().to_string(), "create the database, or correct DATABASE_URL"),
            Some("53300") => (error.message().to_string(), "raise max_connections, or end idle sessions"),
            Some("57P03") => (error.message().to_string(), "wait until it has started"),
            _ => (error.message().to_string(), "look into the log of the server"),
        },
        sqlx::Error::Io(error) => (
            format!("nobody answers: {error}"),
            "start Postgres, or correct host and port of DATABASE_URL; runbook: postgres-full-or-slow",
        ),
        sqlx::Error::Tls(error) => (format!("TLS fails: {error}"), "look at sslmode and the certificates"),
        other => (other.to_string(), "correct DATABASE_URL"),
    }
}

async fn examine(
    database: &mut PgConnection,
    settings: &Settings,
    catalog: &Catalog,
    findings: &mut Findings,
) -> Result<Known, sqlx::Error> {
    let asked_us = clock::wall_us();
    let row = sqlx::query(
        "SELECT current_setting('server_version_num')::int, current_setting('server_version'), extract(epoch FROM clock_timestamp())::float8",
    )
    .fetch_one(&mut *database)
    .await?;
    let (number, version): (i32, String) = (row.get(0), row.get(1));
    let between = (asked_us + clock::wall_us()) as f64 / 2e6;
    let ahead = row.get::<f64, _>(2) - between;
    match number {
        150_000.. => findings.ok("postgres", format!("version {version} answers")),
        _ => findings.fault("postgres", format!("version {version}"), "upgrade to 15 or newer: keys with NULL need it"),
    }
    server_settings(database, findings).await?;
    locks(database, findings).await?;
    let version = sqlx::query(
        "SELECT coalesce(substring(obj_description(to_regclass('tidegate.pipelines'), 'pg_class') FROM 'version ([0-9]+)')::bigint, 0)",
    )
    .fetch_one(&mut *database)
    .await?
    .get::<i64, _>(0);
    if version == 0 {
        findings.warning("postgres.tables", "no engine has ever run on this database", "start one: tidegate engine");
        return Ok(Known { ahead, ..Known::default() });
    }
    if version != SCHEMA_VERSION {
        let found = format!("our tables are of version {version}, and this binary needs {SCHEMA_VERSION}");
        findings.warning(
            "postgres.tables",
            found,
            "start the engine of this version, which upgrades them or says why not",
        );
    }
    shapes(settings, catalog, findings).await;
    bloat(database, findings).await?;
    dead_letters(database, findings).await?;
    let status = match engine::store(settings) {
        Ok(store) => store.status().await,
        Err(error) => Err(error),
    };
    let status = status.unwrap_or_else(|error| {
        findings.fault("postgres.tables", error.message, "grant the role what docs/security.md says");
        Status::default()
    });
    let leases = sqlx::query(
        "SELECT pipeline, holder, extract(epoch FROM clock_timestamp() - beat_at)::bigint FROM tidegate.leases ORDER BY 1",
    )
    .fetch_all(&mut *database)
    .await?;
    let needed =
        sqlx::query("SELECT pipeline, part, checkpoint_offset, rebuild_from FROM tidegate.progress ORDER BY 1, 2")
            .fetch_all(&mut *database)
            .await?;
    Ok(Known {
        status,
        leases: leases.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect(),
        needed: needed.iter().map(|row| (row.get(0), row.get(1), row.get(2), row.get(3))).collect(),
        ahead,
    })
}

async fn server_settings(database: &mut PgConnection, findings: &mut Findings) -> Result<(), sqlx::Error> {
    let sql = "SELECT name, setting FROM pg_settings WHERE name IN ('fsync', 'full_page_writes', 'synchronous_commit', 'max_connections', \
               'default_transaction_read_only')";
    let rows = sqlx::query(sql).fetch_all(&mut *database).await?;
    let recovers: bool = sqlx::query("SELECT pg_is_in_recovery()").fetch_one(database).await?.get(0);
    let mut well = true;
    for row in rows {
        let (name, value): (String, String) = (row.get(0), row.get(1));
        let (found, todo) = match (name.as_str(), value.as_str()) {
            ("fsync" | "full_page_writes", "off") => {
                (format!("{name} is off"), "switch it on: without it a power cut may lose or damage what was committed")
            }
            ("synchronous_commit", "off") => (
                format!("{name} is off"),
                "switch it on for this role: the last commits may be lost in a crash of the server",
            ),
            ("default_transaction_read_only", "on") => (format!("{name} is on"), "switch it off for the engine's role"),
            ("max_connections", value) if value.parse::<u32>().is_ok_and(|most| most < 20) => {
                (format!("{name} is {value}"), "raise it: engine and api take up to 15")
            }
            _ => continue,
        };
        well = false;
        findings.warning("postgres.settings", found, todo);
    }
    if recovers {
        well = false;
        findings.fault(
            "postgres.settings",
            "it is a standby, which cannot be written",
            "name the primary in DATABASE_URL",
        );
    }
    if well {
        findings.ok("postgres.settings", "as they should be");
    }
    Ok(())
}

/// Sessions that hold up others on our tables, or that do nothing in a transaction.
async fn locks(database: &mut PgConnection, findings: &mut Findings) -> Result<(), sqlx::Error> {
    let sql = "SELECT a.pid, coalesce(a.application_name, ''), extract(epoch FROM clock_timestamp() - a.state_change)::bigint, \
               array_to_string(pg_blocking_pids(a.pid), ', ') FROM pg_stat_activity a \
               WHERE a.datname = current_database() AND a.application_name LIKE 'tidegate %' AND a.application_name <> 'tidegate lease' \
               AND cardinality(pg_blocking_pids(a.pid)) > 0 AND clock_timestamp() - a.state_change > interval '5 seconds'";
    let waiting = sqlx::query(sql).fetch_all(&mut *database).await?;
    for row in &waiting {
        let (pid, name, seconds, by): (i32, String, i64, String) = (row.get(0), row.get(1), row.get(2), row.get(3));
        let found = format!("session {pid} ({name}) has waited for {seconds} s for session {by}");
        findings.fault(
            "postgres.locks",
            found,
            "see what that one does in pg_stat_activity, and end it: pg_terminate_backend",
        );
    }
    if waiting.is_empty() {
        findings.ok("postgres.locks", "none of our sessions waits for another");
    }
    Ok(())
}

/// Whether each view's table is the one that its query needs.
async fn shapes(settings: &Settings, catalog: &Catalog, findings: &mut Findings) {
    let store = match Postgres::new(&settings.store.url, PATIENCE) {
        Ok(store) => store,
        Err(error) => return findings.fault("postgres.tables", error.message, error.hint.unwrap_or_default()),
    };
    let mut right = 0;
    for view in &catalog.views {
        match store.check_table(&view.table).await {
            Ok(true) => right += 1,
            Ok(false) => {
                let found = format!("view {} has no table yet", view.name);
                findings.warning("postgres.tables", found, "start the engine with these queries: it makes it");
            }
            Err(error) => {
                findings.fault("postgres.tables", error.message, error.hint.unwrap_or_default());
            }
        }
    }
    if right == catalog.views.len() {
        findings.ok("postgres.tables", format!("all {right} tables of views are as their queries need them"));
    }
}

/// Tables of ours that are mostly dead rows.
async fn bloat(database: &mut PgConnection, findings: &mut Findings) -> Result<(), sqlx::Error> {
    let sql = "SELECT relid::regclass::text, n_live_tup, n_dead_tup FROM pg_stat_user_tables \
               WHERE (schemaname = 'tidegate' OR relname IN (SELECT view FROM tidegate.view_progress)) \
               AND n_dead_tup > 50000 AND n_dead_tup > 2 * n_live_tup";
    let swollen = sqlx::query(sql).fetch_all(database).await?;
    for row in &swollen {
        let (table, live, dead): (String, i64, i64) = (row.get(0), row.get(1), row.get(2));
        let found = format!("{table} has {dead} dead rows beside {live} live ones");
        findings.warning(
            "postgres.bloat",
            found,
            "is autovacuum on, and does an old transaction hold it up? VACUUM by hand helps",
        );
    }
    if swollen.is_empty() {
        findings.ok("postgres.bloat", "none of our tables is mostly dead rows");
    }
    Ok(())
}

/// This share of the records of a quarter of an hour may be dead letters before it is worth a thought.
const DEAD_SHARE: f64 = 0.05;

async fn dead_letters(database: &mut PgConnection, findings: &mut Findings) -> Result<(), sqlx::Error> {
    let read = sqlx::query("SELECT coalesce(sum(records_read), 0)::bigint, coalesce(sum(records_rejected), 0)::bigint FROM tidegate.pipelines")
        .fetch_one(&mut *database)
        .await?;
    let (read, rejected): (i64, i64) = (read.get(0), read.get(1));
    let sql = "SELECT reason, sum(count)::bigint FROM tidegate.dead_letters WHERE recorded_at > now() - interval '15 minutes' GROUP BY 1 ORDER BY 2 DESC";
    let reasons = sqlx::query(sql).fetch_all(database).await?;
    let reasons: Vec<String> =
        reasons.iter().map(|row| format!("{} {}", row.get::<i64, _>(1), row.get::<String, _>(0))).collect();
    let told = match reasons.is_empty() {
        true => format!("none in the last 15 minutes; {rejected} of {read} records were rejected in all"),
        false => {
            format!("in the last 15 minutes: {}; {rejected} of {read} records were rejected in all", reasons.join(", "))
        }
    };
    if rejected as f64 > DEAD_SHARE * read as f64 {
        findings.warning(
            "dead_letters",
            told,
            "see what they are: SELECT * FROM tidegate.dead_letters; runbook: rejects-rising",
        );
    } else {
        findings.ok("dead_letters", told);
    }
    Ok(())
}
