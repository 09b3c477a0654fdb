//! A topic, a database and a directory of queries for one test.

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use tidegate_bench::local::process::Process;
use tidegate_bench::local::{Kafka, Postgres, TempDir, wait_until};

use crate::engine::{Engine, tidegate};

/// The servers that tests share.
pub struct Servers {
    pub kafka: Kafka,
    pub postgres: Postgres,
}

impl Servers {
    /// Those that the environment names, else our own.
    fn find() -> Self {
        let named = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let postgres = match named("TIDEGATE_TEST_DATABASE_URL") {
            Some(url) => Postgres::named(&url).expect("the named database answers"),
            None => Postgres::start().expect("Postgres starts"),
        };
        let kafka = match named("TIDEGATE_TEST_KAFKA_BROKERS") {
            Some(brokers) => Kafka::named(&brokers).expect("the named brokers answer"),
            None => Kafka::start("512m").expect("Kafka starts"),
        };
        Self { kafka, postgres }
    }

    /// Servers that a test may kill.
    pub fn own() -> Result<Self, String> {
        Ok(Self { postgres: Postgres::start()?, kafka: Kafka::start("512m")? })
    }
}

static SHARED: OnceLock<Mutex<Servers>> = OnceLock::new();

extern "C" fn stop_shared() {
    if let Some(servers) = SHARED.get() {
        // A failed test poisons the lock; its servers end all the same.
        let mut servers = servers.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // Statics are not dropped: the processes are ended by pid.
        servers.kafka.end();
        servers.postgres.end();
    }
}

/// The shared servers, for one test at a time: two cores hold no more.
pub fn shared() -> MutexGuard<'static, Servers> {
    let servers = SHARED.get_or_init(|| {
        at_exit();
        Mutex::new(Servers::find())
    });
    servers.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[allow(unsafe_code)]
fn at_exit() {
    // SAFETY: the function only locks, signals and removes files, and is registered once.
    unsafe { libc::atexit(stop_shared) };
}

/// The repository that the tests run in. Asked when they run: clones may share one target directory.
pub fn repository() -> PathBuf {
    PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("run by cargo")).join("..")
}

/// One test's own corner.
pub struct World<'a> {
    pub servers: &'a Servers,
    pub topic: String,
    pub database: String,
    pub dir: TempDir,
}

static NEXT: AtomicU32 = AtomicU32::new(0);

impl<'a> World<'a> {
    /// A new topic with four partitions, an empty database, and the example's queries on that topic.
    pub fn new(servers: &'a Servers, name: &str) -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let topic = format!("{name}-{number}");
        let database = format!("{}_{number}", name.replace('-', "_"));
        servers.kafka.create_topic(&topic, 4, &[]).expect("topic");
        servers.postgres.create_database(&database).expect("database");
        let world = Self { servers, topic, database, dir: TempDir::new(name).expect("directory") };
        let example = std::fs::read_to_string(repository().join("queries/stream_metrics.sql")).expect("example");
        world.write_query("example.sql", &example.replace("${STREAM_EVENTS_TOPIC:-stream.events}", &world.topic));
        world
    }

    pub fn queries(&self) -> PathBuf {
        self.dir.path().join("queries")
    }

    /// Where engines on this world write recent batches.
    pub fn recent(&self) -> PathBuf {
        self.dir.path().join("recent")
    }

    pub fn write_query(&self, file: &str, text: &str) {
        std::fs::create_dir_all(self.queries()).expect("directory");
        std::fs::write(self.queries().join(file), text).expect("query");
    }

    pub fn url(&self) -> String {
        self.servers.postgres.url(&self.database)
    }

    pub fn sql(&self, sql: &str) -> String {
        self.try_sql(sql).unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    pub fn try_sql(&self, sql: &str) -> Result<String, String> {
        self.servers.postgres.psql(&self.database, sql)
    }

    pub fn number(&self, sql: &str) -> i64 {
        let text = self.sql(sql);
        text.parse().unwrap_or_else(|_| panic!("{sql}: {text:?} is no number"))
    }

    /// An engine on this world.
    pub fn engine(&self) -> Engine<'_> {
        Engine::new(self, &self.url())
    }

    /// Writes events now and waits until they are in Kafka.
    pub fn generate(&self, arguments: &[&str]) {
        let status = self.generator(arguments).status().expect("generator starts");
        assert!(status.success(), "the generator failed");
    }

    /// Writes events in the background, until it is dropped.
    pub fn generating(&self, arguments: &[&str]) -> Process {
        let log = self.dir.path().join("generate.log");
        Process::spawn("generator", &mut self.generator(arguments), &log, None).expect("generator starts")
    }

    fn generator(&self, arguments: &[&str]) -> Command {
        let mut command = tidegate();
        command.args(["generate", "--quiet", "--brokers", &self.servers.kafka.brokers(), "--topic", &self.topic]);
        command.arg("--events").arg(repository().join("queries/stream_events.toml")).arg("--few");
        command.args(["--late", "0.02", "--broken", "0.02"]).args(arguments);
        command
    }

    /// Waits until everything that is in the topic now is committed.
    pub fn wait_committed(&self, limit: Duration) {
        let ends = self.servers.kafka.end_offsets(&self.topic).expect("ends");
        let total: i64 = ends.iter().sum();
        let mut committed = -1;
        let done = wait_until(limit, || {
            committed = self.committed();
            committed >= total
        });
        assert!(done, "{committed} of {total} offsets are committed after {limit:?}");
    }

    /// Offsets that are committed, all partitions together.
    pub fn committed(&self) -> i64 {
        self.try_sql("SELECT coalesce(sum(next_offset), 0) FROM tidegate.progress")
            .ok()
            .and_then(|n| n.parse().ok())
            .unwrap_or(0)
    }

    /// Waits for more commits than there are now.
    pub fn wait_progress(&self, limit: Duration) {
        let before = self.committed();
        assert!(wait_until(limit, || self.committed() > before), "no progress beyond {before} within {limit:?}");
    }
}
