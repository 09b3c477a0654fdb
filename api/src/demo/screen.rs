//! What the demo shows while it runs: the newest windows, the rate, the lag, what is late and rejected.

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tidegate_engine::engine::Engine;
use tidegate_engine::show;
use tidegate_engine::sql::planned::Table;
use tidegate_engine::store::Store;

use super::generator::Written;
use super::{Options, told};
use crate::child::Running;

/// Rows on the screen: of the first view, and of each other.
const ROWS: (usize, usize) = (8, 4);

/// What is on the screen.
pub struct Watch<'a> {
    /// The database.
    pub store: &'a Arc<dyn Store>,
    /// Where it is asked.
    pub runtime: &'a tokio::runtime::Runtime,
    /// Whose newest rows are shown.
    pub tables: &'a [Table],
    /// What was written.
    pub written: &'a Written,
    /// The source that it was written to.
    pub source: &'a str,
}

impl Watch<'_> {
    /// Shows it until the demo's time is over, or something has ended that should not.
    pub fn until(
        &self,
        options: &Options,
        ending: &AtomicBool,
        engine: &Engine,
        api: &mut Running,
    ) -> Result<(), String> {
        let terminal = std::io::stdout().is_terminal();
        let every = if terminal { Duration::from_secs(1) } else { Duration::from_secs(5) };
        let (started, mut drawn, mut before) = (Instant::now(), Instant::now(), (0, Instant::now()));
        let mut lines = 0;
        loop {
            let over = options.duration.is_some_and(|seconds| started.elapsed() >= Duration::from_secs(seconds));
            if over || ending.load(Ordering::Relaxed) {
                return Ok(());
            }
            if engine.has_ended() {
                return Err("the engine has stopped".to_string());
            }
            if let Some(status) = api.ended()? {
                return Err(format!(
                    "the api ended with {status}; is {} taken? --listen chooses another",
                    options.listen
                ));
            }
            if self.written.failed.load(Ordering::Relaxed) {
                return Err("the generator has stopped".to_string());
            }
            if drawn.elapsed() >= every {
                drawn = Instant::now();
                let text = self.draw(&mut before)?;
                let mut out = std::io::stdout().lock();
                let up = if terminal && lines > 0 { format!("\x1b[{lines}A\x1b[J") } else { String::new() };
                lines = text.lines().count();
                write!(out, "{up}{text}").and_then(|()| out.flush()).map_err(|error| error.to_string())?;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn draw(&self, before: &mut (u64, Instant)) -> Result<String, String> {
        let status = self.runtime.block_on(self.store.status()).map_err(told)?;
        let mut text = String::new();
        for (index, table) in self.tables.iter().enumerate() {
            let newest = if index == 0 { ROWS.0 } else { ROWS.1 };
            let rows = self.runtime.block_on(self.store.rows(table, Some(newest))).map_err(told)?;
            let (names, rows) = show::table(&rows).map_err(told)?;
            text.push_str(&format!("{}\n{}\n", table.name, columns(&names, &rows)));
        }
        let written = self.written.records.load(Ordering::Relaxed);
        let own = status.partitions.iter().filter(|p| p.pipeline == self.source);
        let committed: u64 = own.map(|p| p.next_offset.unsigned_abs()).sum();
        let rate = (committed - before.0) as f64 / before.1.elapsed().as_secs_f64().max(0.001);
        *before = (committed, Instant::now());
        let rejected: i64 = status.pipelines.iter().map(|p| p.rejected).sum();
        let late: i64 = status.views.iter().map(|v| v.counts.late).sum();
        text.push_str(&format!(
            "{committed} events committed, {rate:.0}/s, lag {}, late {late}, rejected {rejected}\n\n",
            written.saturating_sub(committed)
        ));
        Ok(text)
    }
}

/// Names and rows below each other.
fn columns(names: &[String], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([names[column].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..names.len()).map(width).collect();
    let line = |cells: &[String]| {
        let padded = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        format!("{}\n", padded.collect::<Vec<_>>().join("  ").trim_end())
    };
    let mut text = line(names);
    for row in rows {
        text.push_str(&line(row));
    }
    text
}
