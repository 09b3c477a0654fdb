//! The servers, the topics on them, and how each row is measured there.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::process::Command;

use tidegate_bench::local::process::{Usage, measure};
use tidegate_bench::local::{Kafka, Postgres};

use crate::load::Load;
use crate::queries::{Queries, Views};
use crate::report::Run;
use crate::rows::{USUAL, Work};
use crate::topic::Topic;
use crate::{ask, close, commit, harm, latency, restart, serve, steady, whole};

/// What a bench runs on.
pub struct Lab {
    /// How much of everything.
    pub sizes: Sizes,
    postgres: Postgres,
    kafka: Kafka,
    /// This program, whose children measure what is no engine.
    own: PathBuf,
    shipped: PathBuf,
    asked: RefCell<Option<Asked>>,
}

/// The number of the last run of questions, and what came of it for each of them: they are asked of the same rows.
type Asked = (usize, Result<Vec<Run>, String>);

/// How much of everything.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// Records of each topic.
    pub records: u64,
    /// Length of a latency run.
    pub seconds: u64,
    /// Length of a steady run.
    pub steady_seconds: u64,
    /// Rows that questions are asked about.
    pub asked_rows: u64,
}

impl Lab {
    /// Starts the servers; `shipped` is where the example is.
    pub fn start(sizes: Sizes, shipped: &Path) -> Result<Self, String> {
        let own = std::env::current_exe().map_err(|error| error.to_string())?;
        let (postgres, kafka) = (Postgres::start()?, Kafka::start("1g")?);
        Ok(Self { sizes, postgres, kafka, own, shipped: shipped.to_path_buf(), asked: RefCell::default() })
    }

    /// Fills a topic that several rows read.
    pub fn fill(&self, topic: Topic) -> Result<(), String> {
        eprintln!("filling topic {} with {} records …", topic.name(), topic.count(self.sizes.records));
        topic.fill(&self.kafka, self.sizes.records)
    }

    /// One run of a row.
    pub fn run(&self, name: &str, work: Work, number: usize) -> Result<Run, String> {
        // The row's own names for its topic and its database.
        let own: String = format!("{name}-{number}").replace(|c: char| !c.is_ascii_alphanumeric(), "_");
        let (kafka, postgres) = (&self.kafka, &self.postgres);
        match work {
            Work::Consume => self.child("consume", USUAL),
            Work::Floor(topic) => self.child("floor", topic),
            Work::Decode => self.decode(),
            Work::Whole(topic, views) | Work::Bare(topic, views) => {
                let (queries, count) = (self.queries(views, &topic.name())?, topic.count(self.sizes.records));
                whole::run(kafka, postgres, &own, &queries, count, matches!(work, Work::Whole(..)))
            }
            Work::Latency(views, rate) => {
                latency::topic(kafka, &own)?;
                let load = Load { rate, seconds: self.sizes.seconds };
                latency::run(kafka, postgres, &own, &self.queries(views, &own)?, load)
            }
            Work::Steady(rate) => {
                steady::topic(kafka, &own)?;
                let load = Load { rate, seconds: self.sizes.steady_seconds };
                steady::run(kafka, postgres, &own, &self.queries(Views::Example, &own)?, load)
            }
            Work::Restart(found) => {
                restart::topic(kafka, &own)?;
                restart::run(kafka, postgres, &own, &self.queries(Views::Hour, &own)?, found)
            }
            Work::Close(views) => {
                close::topic(kafka, &own)?;
                close::run(kafka, postgres, &own, &self.queries(views, &own)?)
            }
            Work::Commit(client, rows) => commit::run(postgres, client, rows),
            Work::Ask(question) => self.asked(question, number),
            Work::Harm => {
                latency::topic(kafka, &own)?;
                harm::run(kafka, postgres, &own, &self.queries(Views::Example, &own)?)
            }
            Work::Serve(path) => {
                latency::topic(kafka, &own)?;
                serve::run(kafka, postgres, &own, &self.queries(Views::Endpoint, &own)?, path)
            }
        }
    }

    fn queries(&self, views: Views, topic: &str) -> Result<Queries, String> {
        Queries::new(views, topic, &self.shipped)
    }

    /// What came of a question in this run, in which the first that is wanted has all of them asked.
    fn asked(&self, question: usize, number: usize) -> Result<Run, String> {
        let mut asked = self.asked.borrow_mut();
        let known = asked.take().filter(|(run, _)| *run == number);
        let (_, runs) = asked.insert(known.unwrap_or_else(|| {
            let (own, rows) = (format!("ask_{number}"), self.sizes.asked_rows);
            let queries = self.queries(Views::Minute, &own);
            let runs = queries.and_then(|q| ask::run(&self.kafka, &self.postgres, &own, &q, rows, &self.own));
            (number, runs)
        }));
        runs.as_ref().map(|runs| runs[question]).map_err(Clone::clone)
    }

    /// What a child of this program uses for a topic.
    fn child(&self, what: &str, topic: Topic) -> Result<Run, String> {
        let records = topic.count(self.sizes.records);
        let mut command = Command::new(&self.own);
        command.args([what, &self.kafka.brokers(), &topic.name(), &records.to_string()]);
        Ok(Run::of(measure(&mut command)?, records))
    }

    /// Less what it takes to make the payloads.
    fn decode(&self) -> Result<Run, String> {
        let records = self.sizes.records.to_string();
        let measured = |what: &str| measure(Command::new(&self.own).args([what, &USUAL.name(), &records]));
        let (all, setup) = (measured("decode")?, measured("decode-setup")?);
        let usage = Usage {
            cpu_seconds: all.cpu_seconds - setup.cpu_seconds,
            seconds: all.seconds - setup.seconds,
            peak_mib: all.peak_mib,
        };
        Ok(Run::of(usage, self.sizes.records))
    }
}
