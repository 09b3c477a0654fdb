//! The views that are measured, and how the database proves that they have taken in every record.

use std::path::{Path, PathBuf};

use tidegate_bench::local::{Postgres, TempDir};

use crate::dashboards::DASHBOARDS;
use crate::serve;

/// The view of most rows.
pub const QUERY: &str = "SELECT window_start, window_end, stream_id, count(*) AS records, sum(amount_usd) AS amount, max(message_len) AS longest
FROM TUMBLE(events, ts, INTERVAL '1 minute') GROUP BY window_start, window_end, stream_id";

/// The same over an hour: its windows stay open.
const HOURLY: &str = "SELECT window_start, window_end, stream_id, count(*) AS records, sum(amount_usd) AS amount, max(message_len) AS longest
FROM TUMBLE(events, ts, INTERVAL '1 hour') GROUP BY window_start, window_end, stream_id";

/// Which views.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Views {
    /// [`QUERY`].
    Minute,
    /// The same with an endpoint.
    Endpoint,
    /// [`QUERY`] on a source that names six of its forty fields.
    Wide,
    /// The same by the hour.
    Hour,
    /// The same by the hour, published when its windows close.
    HourOnClose,
    /// What is shipped in `queries/`.
    Example,
    /// The first so many of the [`DASHBOARDS`].
    Dashboards(usize),
}

/// Views over a topic.
pub struct Queries {
    dir: PathBuf,
    /// Goes with them, where the directory is ours.
    _own: Option<TempDir>,
    topic: String,
    proofs: Vec<String>,
    recent: TempDir,
}

impl Queries {
    /// Writes them; `shipped` is where the example is.
    pub fn new(views: Views, topic: &str, shipped: &Path) -> Result<Self, String> {
        let recent = TempDir::new("bench-recent")?;
        let mut proofs: Vec<String> = ACCOUNTS.map(String::from).to_vec();
        let bench = |query: &str| format!("CREATE MATERIALIZED VIEW bench AS {query};\n");
        let text = match views {
            Views::Example => {
                proofs.extend(EXAMPLE.map(String::from));
                return Ok(Self { dir: shipped.to_path_buf(), _own: None, topic: topic.to_string(), proofs, recent });
            }
            Views::Dashboards(count) => {
                proofs.extend(DASHBOARDS[..count].iter().map(|board| board.proof()));
                DASHBOARDS[..count].iter().map(|board| board.statement()).collect()
            }
            Views::Minute | Views::Wide => bench(QUERY),
            Views::Endpoint => bench(QUERY) + serve::STATEMENT,
            Views::Hour => bench(HOURLY),
            Views::HourOnClose => bench(&format!("{HOURLY}\nEMIT ON WINDOW CLOSE")),
        };
        if matches!(views, Views::Minute | Views::Endpoint | Views::Wide | Views::Hour) {
            proofs.push("SELECT sum(records), {records} FROM bench".to_string());
        }
        let own = TempDir::new("bench-queries")?;
        let text = format!("{}{text}", source(topic, views != Views::Wide));
        std::fs::write(own.path().join("bench.sql"), text).map_err(|error| error.to_string())?;
        Ok(Self { dir: own.path().to_path_buf(), _own: Some(own), topic: topic.to_string(), proofs, recent })
    }

    /// Where they are.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where recent batches go.
    pub fn recent(&self) -> &Path {
        self.recent.path()
    }

    /// What they read.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// Fails unless the database has taken in so many records, each once.
    pub fn prove(&self, postgres: &Postgres, database: &str, records: u64) -> Result<(), String> {
        for proof in &self.proofs {
            let sql = proof.replace("{records}", &records.to_string());
            let answer = postgres.psql(database, &sql)?;
            match answer.split_once('|') {
                Some((got, wanted)) if got == wanted && !got.is_empty() => {}
                _ => return Err(format!("{}: Postgres says {answer:?} to {sql}", self.topic)),
            }
        }
        Ok(())
    }
}

fn source(topic: &str, whole: bool) -> String {
    let id = if whole { "event_id VARCHAR, " } else { "" };
    format!(
        "CREATE SOURCE events ({id}ts TIMESTAMP WITH TIME ZONE, event_type VARCHAR, stream_id VARCHAR, user_id VARCHAR,
  message_len INT, amount_usd DECIMAL(12,2), WATERMARK FOR ts AS ts - INTERVAL '10 seconds')
WITH (connector = 'kafka', topic = '{topic}', format = 'json', scan.startup.mode = 'earliest');\n"
    )
}

/// What holds for all views: the offsets are those of the records, and each view accounts for each record.
const ACCOUNTS: [&str; 3] = [
    "SELECT sum(next_offset), {records} FROM tidegate.progress",
    "SELECT count(*) FILTER (WHERE decoded = {records} AND filtered + accepted = decoded), count(*) FROM tidegate.view_progress",
    "SELECT count(*), 0 FROM tidegate.dead_letters",
];

/// What holds for the example: each record is of one kind; who came less who went is who watches; five-minute windows
/// that lie side by side have, as far as they are closed, the messages of their minutes.
const EXAMPLE: [&str; 3] = [
    "SELECT sum(chat_messages + donations + joins + leaves), {records} FROM stream_metrics_minute",
    "SELECT sum(viewers), (SELECT sum(joins) - sum(leaves) FROM stream_metrics_minute) FROM stream_state",
    "WITH closed AS (SELECT date_bin('5 minutes', closed_until, 'epoch') AS until FROM tidegate.view_progress WHERE view = 'talk_5_minutes')
     SELECT coalesce((SELECT sum(messages) FROM talk_5_minutes, closed WHERE window_end <= until AND window_start = date_bin('5 minutes', window_start, 'epoch')), 0),
            coalesce((SELECT sum(chat_messages) FROM stream_metrics_minute, closed WHERE window_end <= until), 0)",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_twenty_dashboards_each_of_its_own_name() {
        let names: std::collections::HashSet<&str> = DASHBOARDS.iter().map(|board| board.name).collect();
        assert_eq!((DASHBOARDS.len(), names.len()), (20, 20));
    }
}
