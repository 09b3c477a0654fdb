//! A session of the database that is asked again and again, as a reader of the tables would.

use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio_postgres::{Client, NoTls};

/// How often it asks.
const ASK_EVERY: Duration = Duration::from_millis(2);

/// Every record below these is committed.
pub const COMMITTED: &str = "SELECT coalesce(sum(next_offset), 0)::bigint FROM tidegate.progress";

/// The effect of every record below these is in the stored state.
pub const CHECKPOINTED: &str = "SELECT coalesce(sum(checkpoint_offset), 0)::bigint FROM tidegate.progress";

/// How long the owner has been silent, in milliseconds.
const SILENT: &str =
    "SELECT coalesce(max(extract(epoch FROM clock_timestamp() - beat_at) * 1000), 0)::bigint FROM tidegate.leases";

/// Such a session, and what it has seen.
pub struct Eye {
    runtime: Runtime,
    client: Client,
    silent_ms: i64,
}

impl Eye {
    /// Opens it.
    pub fn open(url: &str) -> Result<Self, String> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.map_err(|error| error.to_string())?;
        let (client, pipe) =
            runtime.block_on(tokio_postgres::connect(url, NoTls)).map_err(|error| error.to_string())?;
        runtime.spawn(pipe);
        Ok(Self { runtime, client, silent_ms: 0 })
    }

    /// The number that a statement gives.
    pub fn number(&self, sql: &str) -> Result<i64, String> {
        let row = self.runtime.block_on(self.client.query_one(sql, &[])).map_err(|error| format!("{sql}: {error}"))?;
        row.try_get(0).map_err(|error| format!("{sql}: {error}"))
    }

    /// Asks until the number is there.
    pub fn wait(&mut self, sql: &str, wanted: i64, limit: Duration) -> Result<(), String> {
        let begun = Instant::now();
        loop {
            let number = self.number(sql)?;
            if number >= wanted {
                return Ok(());
            }
            if begun.elapsed() > limit {
                return Err(format!("{number} instead of {wanted} after {limit:?}: {sql}"));
            }
            self.silent_ms = self.silent_ms.max(self.number(SILENT)?);
            std::thread::sleep(ASK_EVERY);
        }
    }

    /// The longest silence of the owner so far.
    pub fn silent_ms(&self) -> i64 {
        self.silent_ms
    }
}
