//! The Postgres protocol: psql, drivers and dashboards ask what HTTP answers as well.
//!
//! ```text
//!  connection ─ opening: TLS, start-up, who is it ─► session: messages ─ statement ─► ad-hoc query, or a setting, a cursor
//!                                                        └ wire: no more than we hold    └ values: rows and parameters
//! ```
//!
//! Everything is read-only. A transaction is one in name: each of its statements reads what is committed when it begins.
//! The one guard and the workers of ad-hoc SQL stand behind both protocols, the simple and the extended one.

mod errors;
mod opening;
mod session;
mod settings;
mod types;
mod values;
mod wire;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pgwire::messages::startup::SecretKey;
use tidegate_engine::settings::Settings;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use uuid::Uuid;

use crate::adhoc::AdHoc;
use crate::adhoc::wire::{Blame, Told};
use crate::listen;
use opening::Credentials;

pub use tidegate_engine::sql::pg::DATABASE;

/// How long sessions may still take once we end.
const END_PATIENCE: Duration = Duration::from_secs(3);

/// What a client did not keep to.
fn broken(why: impl Into<String>) -> Told {
    refused("TG-PG-PROTOCOL", why)
}

/// What is asked wrongly.
fn refused(code: &str, why: impl Into<String>) -> Told {
    Told::new(Blame::Query, code, why)
}

/// Who may come in, and what they may ask.
pub struct Door {
    adhoc: Arc<AdHoc>,
    credentials: Credentials,
    sessions: Sessions,
    connections_max: usize,
    /// The limits of ad-hoc queries.
    running: usize,
    timeout_ms: u64,
    bytes_max: usize,
}

/// The sessions that there are, each by its number with its secret and the query that it runs.
#[derive(Default)]
struct Sessions(Mutex<HashMap<i32, (SecretKey, Option<Uuid>)>>);

impl Sessions {
    fn all(&self) -> MutexGuard<'_, HashMap<i32, (SecretKey, Option<Uuid>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The query that a session runs, for whoever knows its secret.
    fn running(&self, pid: i32, secret: &SecretKey) -> Option<Uuid> {
        self.all().get(&pid).filter(|(known, _)| known.eq_value(secret)).and_then(|(_, query)| *query)
    }
}

impl Door {
    /// As it is configured; an error where a certificate or a setting is wrong.
    pub fn new(adhoc: Arc<AdHoc>, settings: &Settings) -> Result<Self, String> {
        let (limits, settings) = (&settings.adhoc, &settings.pgwire);
        let credentials = Credentials::read(settings).map_err(|why| format!("TG-SETTING: {why}"))?;
        Ok(Self {
            adhoc,
            credentials,
            sessions: Sessions::default(),
            connections_max: settings.connections_max,
            running: limits.running,
            timeout_ms: limits.timeout_ms,
            bytes_max: limits.bytes_max,
        })
    }
}

/// Answers until `ended`.
pub async fn serve(listener: TcpListener, door: Arc<Door>, ended: impl Future<Output = ()>) {
    let most = door.connections_max;
    let answered = |stream, open, ending| connection(stream, door.clone(), open >= most, ending);
    // As many again are told that there is no place.
    listen::accept(listener, 2 * most, END_PATIENCE, ended, answered).await;
}

async fn connection(stream: TcpStream, door: Arc<Door>, full: bool, ending: watch::Receiver<bool>) {
    if let Some(opened) = opening::open(stream, &door, full).await {
        session::serve(opened, &door, ending).await;
    }
}
