//! The stage of one golden file: what is declared, what was fed, what runs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::verbs::{self, Verb};
use super::{Options, tables};
use crate::ask::{Asker, Sample};
use crate::error::{Error, Result};
use crate::log::memory::{Fed, MemoryLog};
use crate::metrics::Metrics;
use crate::pipeline::{Epoch, Pipeline, Running};
use crate::recovery;
use crate::settings::Settings;
use crate::sql::endpoint::{Endpoint, Gauge};
use crate::sql::planned::Table;
use crate::sql::{Catalog, StatementText, declarations};
use crate::store::{Lease, Settled};
use crate::time::clock::{Clock, Manual};

/// What the harness does besides what the file says. The answers must be the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Variation {
    /// Nothing.
    #[default]
    AsWritten,
    /// A crash after each commit.
    CrashEachCommit,
    /// A crash after each commit; the first commit and every other one carries a checkpoint.
    CrashEachCheckpoint,
    /// Commits between records, as this seed has them.
    ExtraCommits(u64),
    /// The same, some of them checkpoints, and a crash after each commit.
    Shaken(u64),
}

impl Variation {
    /// What decides about extra commits.
    pub fn seed(self) -> Option<u64> {
        match self {
            Self::ExtraCommits(seed) | Self::Shaken(seed) => Some(seed),
            _ => None,
        }
    }

    /// Whether each commit is followed by a crash.
    pub fn crashes(self) -> bool {
        matches!(self, Self::CrashEachCommit | Self::CrashEachCheckpoint | Self::Shaken(_))
    }
}

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// 2100-01-01: nothing lies in the future unless the file sets the clock.
const FAR: i64 = 4_102_444_800_000_000;

/// What runs of one source.
struct Played {
    pipeline: Pipeline,
    lease: Box<dyn Lease>,
    running: Running,
    /// Read, and not yet committed.
    read: Epoch,
}

/// A declaration, and where it stands.
struct Declared {
    file: String,
    /// Lines of the file before the text that it was declared in.
    before: usize,
    statement: StatementText,
}

impl Declared {
    /// A text in which the statement has the place that it has in its file.
    fn padded(&self) -> (String, String) {
        let StatementText { text, line, column, .. } = &self.statement;
        let (lines, columns) = ((self.before as u64 + line - 1) as usize, (column - 1) as usize);
        (self.file.clone(), format!("{}{}{text};", "\n".repeat(lines), " ".repeat(columns)))
    }
}

/// A stage.
pub struct Stage {
    file: PathBuf,
    options: Options,
    /// Declarations, in their order.
    declared: Vec<Declared>,
    /// The golden file, to tell places in it, and how far it has been run.
    text: String,
    run_until: usize,
    /// Whether a view was dropped from the store and may still be in memory.
    dropped: bool,
    /// Topics' partitions that the file mentions, by source.
    partitions: BTreeMap<String, usize>,
    log: MemoryLog,
    clock: Arc<Manual>,
    played: Option<Vec<Played>>,
    /// Every table that there ever was.
    tables: Vec<Table>,
    /// What may be asked of what is declared.
    endpoints: Vec<Endpoint>,
    gauges: Vec<Gauge>,
    random: u64,
    commits: u64,
}

impl Stage {
    /// A stage on which nothing runs yet.
    pub fn new(file: &Path, text: &str, options: &Options) -> Result<Self> {
        let mut partitions: BTreeMap<String, usize> = BTreeMap::new();
        for line in text.lines().filter_map(|line| line.trim().strip_prefix("feed ")) {
            let to = line.split_whitespace().next().unwrap_or_default();
            let (source, partition) = to.split_once('/').unwrap_or((to, "0"));
            let held = partitions.entry(source.to_string()).or_default();
            *held = (*held).max(partition.parse::<usize>().unwrap_or_default() + 1);
        }
        let mut stage = Self {
            file: file.to_path_buf(),
            options: options.clone(),
            declared: Vec::new(),
            text: text.to_string(),
            run_until: 0,
            dropped: false,
            partitions,
            log: MemoryLog::new(),
            clock: Arc::new(Manual::at(FAR)),
            played: None,
            tables: Vec::new(),
            endpoints: Vec::new(),
            gauges: Vec::new(),
            random: options.variation.seed().map_or(0, |seed| seed | 1),
            commits: 0,
        };
        for path in &options.queries {
            for (file, text) in crate::sql::read_files(path)? {
                let rest = stage.declare(&file, &text, 0)?.trim();
                if !rest.is_empty() {
                    // Told by the planner, with its place.
                    let line = text[..text.len() - rest.len()].matches('\n').count() as u64 + 1;
                    let text = rest.to_string();
                    let statement = StatementText { name: format!("{file} {line}"), text, line, column: 1 };
                    stage.declared.push(Declared { file, before: 0, statement });
                }
            }
        }
        Ok(stage)
    }

    /// Runs a statement or a query of the file; the rows of a query.
    pub fn run(&mut self, text: &str) -> Result<Option<Vec<Vec<String>>>> {
        let bare = text.trim();
        let line = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with("--"));
        let first = line.unwrap_or_default().split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
        match first.to_lowercase().as_str() {
            "create" => {
                // Blocks come in the order of the file.
                let at = self.text[self.run_until..].find(bare).map_or(0, |at| self.run_until + at);
                self.run_until = at;
                let before = self.text[..at].matches('\n').count();
                let file = self.file.display().to_string();
                let verbs = self.declare(&file, bare, before)?;
                self.perform_lines(verbs)?;
                Ok(None)
            }
            "get" | "gauge" => {
                self.play()?;
                self.ask(bare).map(Some)
            }
            "select" | "with" | "values" | "describe" | "explain" => {
                self.play()?;
                let query = tables::query(self.options.store.as_ref(), &self.tables, text);
                self.options.runtime.block_on(query).map(Some)
            }
            _ => {
                self.perform_lines(text)?;
                Ok(None)
            }
        }
    }

    /// What an endpoint or a gauge answers: its JSON, or its labels and numbers.
    fn ask(&self, text: &str) -> Result<Vec<Vec<String>>> {
        let wrong = |message: String| Error::query("TG-TEST-QUERY", message);
        let (verb, name) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        let asker = Asker::new(self.options.store.clone(), self.tables.clone());
        let now = Clock::Manual(self.clock.clone()).wall_us();
        if verb.eq_ignore_ascii_case("gauge") {
            let gauge = self.gauges.iter().find(|gauge| gauge.name == name.trim());
            let gauge = gauge.ok_or_else(|| wrong(format!("there is no gauge {name}")))?;
            let samples = self.options.runtime.block_on(asker.samples(gauge, now, PATIENCE))?;
            let row = |sample: &Sample| {
                let labels = sample.labels.iter().map(|(name, value)| format!("{name}={value}"));
                labels.chain([sample.value.to_string()]).collect()
            };
            return Ok(samples.iter().map(row).collect());
        }
        let (path, asked) = name.trim().split_once('?').unwrap_or((name.trim(), ""));
        let endpoint = self.endpoints.iter().find(|endpoint| endpoint.path == path);
        let endpoint = endpoint.ok_or_else(|| wrong(format!("there is no endpoint {path}")))?;
        let asked: Vec<(String, String)> = form_urlencoded::parse(asked.as_bytes()).into_owned().collect();
        let values = endpoint.values(&asked).map_err(wrong)?;
        let answer = self.options.runtime.block_on(asker.answer(endpoint, &values, now, PATIENCE))?;
        Ok(vec![vec![String::from_utf8_lossy(&answer.json()?).into_owned()]])
    }

    fn perform_lines(&mut self, text: &str) -> Result<()> {
        text.lines().filter(|line| !line.trim().is_empty()).try_for_each(|line| self.perform(verbs::parse(line)?))
    }

    /// Declares the statements of a text that begins `before` lines down its file; what follows them.
    fn declare<'a>(&mut self, file: &str, text: &'a str, before: usize) -> Result<&'a str> {
        let (statements, rest) = declarations(file, text)?;
        for statement in statements {
            let declared = Declared { file: file.to_string(), before, statement };
            match self.declared.iter_mut().find(|known| known.statement.name == declared.statement.name) {
                Some(held) => *held = declared,
                None => self.declared.push(declared),
            }
        }
        Ok(rest)
    }

    fn perform(&mut self, verb: Verb) -> Result<()> {
        match verb {
            Verb::Feed { source, partition, records } => self.feed(&source, partition, records),
            Verb::FeedFile { source, partition, file, like } => {
                let path = self.file.parent().unwrap_or(Path::new(".")).join(&file);
                let text = std::fs::read(&path).map_err(|error| {
                    Error::configuration("TG-TEST-FILES", format!("cannot read {}: {error}", path.display()))
                })?;
                let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
                let records = lines.map(|line| Fed { payload: Some(line.to_vec()), ..like.clone() }).collect();
                self.feed(&source, partition, records)
            }
            Verb::Trim { source, partition, low } => {
                let topic = self.topic_of(&source, "trim")?;
                self.log.trim(&topic, partition, low)
            }
            Verb::Partitions(source, count) => {
                self.partitions.insert(source.clone(), count);
                if let Some(topic) = self.topic(&source) {
                    self.log.ensure(&topic, count);
                }
                Ok(())
            }
            Verb::Commit { checkpoint } => self.commit(checkpoint),
            Verb::Advance(us) => {
                self.clock.advance(us);
                Ok(())
            }
            Verb::Now(us) => {
                self.clock.set_wall(us);
                Ok(())
            }
            Verb::Crash => self.crash(),
            Verb::Restart => {
                self.played = None;
                self.play()
            }
            Verb::Forget(name) => {
                let before = self.declared.len();
                self.declared.retain(|known| known.statement.name != name);
                if self.declared.len() == before {
                    return Err(Error::query(
                        "TG-TEST-VERB",
                        format!("forget {name}: nothing of that name is declared"),
                    ));
                }
                Ok(())
            }
            Verb::Drop(name) => {
                if self.options.runtime.block_on(self.options.store.drop_view(&name))? {
                    self.dropped = true;
                    Ok(())
                } else {
                    Err(Error::configuration("TG-VIEW", format!("there is no view {name}")))
                }
            }
            Verb::Check => self.catalog().map(|_| ()),
            Verb::Expire => {
                for played in self.played.iter().flatten() {
                    self.options.runtime.block_on(played.pipeline.expire(played.running.frontier))?;
                }
                Ok(())
            }
        }
    }

    fn catalog(&self) -> Result<Catalog> {
        let texts: Vec<(String, String)> = self.declared.iter().map(Declared::padded).collect();
        Catalog::of_texts(&texts, |name| std::env::var(name).ok()).map_err(|errors| {
            let told: Vec<String> = errors.iter().map(ToString::to_string).collect();
            Error::query("TG-CHECK", told.join("\n"))
        })
    }

    fn topic(&self, source: &str) -> Option<String> {
        let played = self.played.iter().flatten().find(|played| played.pipeline.source.source.name == source);
        played.map(|played| played.pipeline.source.source.options.topic.clone())
    }

    fn topic_of(&self, source: &str, verb: &str) -> Result<String> {
        self.topic(source).ok_or_else(|| {
            Error::query("TG-TEST-VERB", format!("{verb} {source}: there is no such source with a view"))
        })
    }

    /// Starts what is declared, unless it runs.
    fn play(&mut self) -> Result<()> {
        if self.played.is_some() {
            return Ok(());
        }
        let catalog = self.catalog()?;
        let mut settings = Settings::default();
        settings.engine.emit_every_ms = 0;
        let mut views: Vec<Arc<_>> = catalog.views.into_iter().map(Arc::new).collect();
        (self.endpoints, self.gauges) = (catalog.endpoints, catalog.gauges);
        for view in &views {
            self.tables.retain(|table| table.name != view.table.name);
            self.tables.push(view.table.clone());
        }
        let mut started = Vec::new();
        let metrics = Metrics::new(Vec::new())?;
        for source in catalog.sources {
            let name = source.source.name.clone();
            let (own, others) = views.into_iter().partition(|view| view.source == name);
            views = others;
            self.log.ensure(&source.source.options.topic, self.partitions.get(&name).copied().unwrap_or(1));
            let pipeline = Pipeline {
                recent: None,
                archive: None,
                source,
                views: own,
                settings: settings.clone(),
                log: Arc::new(self.log.clone()),
                store: self.options.store.clone(),
                clock: Clock::Manual(self.clock.clone()),
                runtime: self.options.runtime.clone(),
                stop: Arc::new(AtomicBool::new(false)),
                until_caught_up: false,
                metrics: metrics.pipeline(&name),
            };
            if pipeline.views.is_empty() {
                continue;
            }
            self.options.runtime.block_on(pipeline.store.migrate())?;
            let lease = self.options.runtime.block_on(pipeline.store.lease(&name, &|| false))?;
            let lease = lease.ok_or_else(|| Error::bug("a lease was not given"))?;
            let mut running = recovery::recover(&pipeline, lease.as_ref())?;
            let mut read = Epoch::default();
            if self.commits > 0 {
                // As an engine does that goes on polling: what lies at its end is known to.
                pipeline.drain(&mut running, &mut read)?;
            }
            started.push(Played { pipeline, lease, running, read });
        }
        self.played = Some(started);
        Ok(())
    }

    fn feed(&mut self, source: &str, partition: usize, records: Vec<Fed>) -> Result<()> {
        self.play()?;
        let topic = self.topic_of(source, "feed")?;
        for record in records {
            self.log.feed(&topic, partition, record)?;
            // Xorshift: which commits are extra must only differ, and be the same for the same seed.
            self.random ^= self.random << 13;
            self.random ^= self.random >> 7;
            self.random ^= self.random << 17;
            if self.random % 2 == 1 {
                self.commit(self.random % 8 == 1)?;
            }
        }
        Ok(())
    }

    fn commit(&mut self, checkpoint: bool) -> Result<()> {
        self.play()?;
        self.commits += 1;
        let variation = self.options.variation;
        let checkpoint = checkpoint || (variation == Variation::CrashEachCheckpoint && self.commits % 2 == 1);
        for played in self.played.iter_mut().flatten() {
            let Played { pipeline, lease, running, read } = played;
            pipeline.drain(running, read)?;
            let Some(commit) = pipeline.turn(running, std::mem::take(read), checkpoint)? else { continue };
            if pipeline.settle(running, commit)? == Settled::Aborted {
                *running = recovery::recover(pipeline, lease.as_ref())?;
            }
        }
        if variation.crashes() {
            self.crash()?;
        }
        Ok(())
    }

    /// Drops every pipeline's memory and recovers from the store and the log.
    fn crash(&mut self) -> Result<()> {
        self.play()?;
        if let Some(damage) = &self.options.damage {
            damage();
        }
        // What a dropped view held is gone with it.
        let dropped = std::mem::take(&mut self.dropped);
        for played in self.played.iter_mut().flatten() {
            played.read = Epoch::default();
            let before = played.running.digest()?;
            played.running = recovery::recover(&played.pipeline, played.lease.as_ref())?;
            let exact = !dropped && played.pipeline.views.iter().all(|view| view.repeats());
            if exact && played.running.digest()? != before {
                return Err(Error::bug("the state after the crash is not the one before it"));
            }
            played.pipeline.drain(&mut played.running, &mut played.read)?;
        }
        Ok(())
    }
}
