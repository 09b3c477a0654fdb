//! The real binary as a child process.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tidegate_bench::local::process::Process;
use tidegate_bench::local::wait_until;

use crate::world::World;

/// A command of the binary: of the one that was built with the tests, or of the one that is to be shipped.
pub fn tidegate() -> Command {
    let named = std::env::var_os("TIDEGATE_TEST_BINARY");
    let mut command = Command::new(named.unwrap_or_else(|| env!("CARGO_BIN_EXE_tidegate").into()));
    // One port is there for many apis.
    command.env("TIDEGATE__PGWIRE__LISTEN", "");
    command
}

static NEXT: AtomicU32 = AtomicU32::new(0);

/// An engine that is to be started, or runs.
pub struct Engine<'a> {
    command: Command,
    log: PathBuf,
    process: Option<Process>,
    world: std::marker::PhantomData<&'a World<'a>>,
}

impl<'a> Engine<'a> {
    pub fn new(world: &'a World<'a>, url: &str) -> Self {
        let log = world.dir.path().join(format!("engine-{}.log", NEXT.fetch_add(1, Ordering::Relaxed)));
        let mut command = tidegate();
        command.args(["engine", "--queries"]).arg(world.queries()).env("TIDEGATE__ENGINE__LISTEN", "127.0.0.1:0");
        command.env("DATABASE_URL", url).env("KAFKA_BROKERS", world.servers.kafka.brokers());
        command.env("TIDEGATE__RECENT__PATH", world.recent());
        command.env("TIDEGATE__ENGINE__CHECKPOINT_INTERVAL_MS", "300");
        Self { command, log, process: None, world: std::marker::PhantomData }
    }

    pub fn set(mut self, key: &str, value: &str) -> Self {
        self.command.env(key, value);
        self
    }

    /// Arms a failpoint, such as `commit-sent=kill@2`.
    pub fn failpoint(self, spec: &str) -> Self {
        self.set("TIDEGATE__TEST__ENABLED", "true").set("TIDEGATE__TEST__FAILPOINTS", spec)
    }

    pub fn until_caught_up(mut self) -> Self {
        self.command.arg("--until-caught-up");
        self
    }

    pub fn start(mut self) -> Self {
        self.process = Some(Process::spawn("engine", &mut self.command, &self.log, None).expect("engine starts"));
        self
    }

    fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("engine was started")
    }

    pub fn pid(&self) -> i32 {
        self.process.as_ref().expect("engine was started").pid()
    }

    pub fn signal(&self, signal: i32) {
        self.process.as_ref().expect("engine was started").signal(signal);
    }

    pub fn kill9(&mut self) {
        self.signal(libc::SIGKILL);
        self.process().wait(Duration::from_secs(5));
    }

    /// Waits for the end; whether it was `kill -9`.
    pub fn was_killed(&mut self, limit: Duration) -> bool {
        self.process().wait(limit).is_some_and(|status| status.signal() == Some(libc::SIGKILL))
    }

    /// Asks it to end; it must do so well.
    pub fn stop(&mut self) {
        self.signal(libc::SIGTERM);
        let status = self.process().wait(Duration::from_secs(20));
        assert!(
            status.is_some_and(|status| status.success()),
            "the engine did not end well: {status:?}\n{}",
            self.tail()
        );
    }

    /// Waits for an end by itself; the exit code.
    pub fn code(&mut self, limit: Duration) -> Option<i32> {
        self.process().wait(limit).and_then(|status| status.code())
    }

    /// Runs until everything is committed.
    pub fn run_to_end(world: &World<'_>) -> String {
        let mut engine = world.engine().until_caught_up().start();
        let code = engine.code(Duration::from_secs(60));
        assert_eq!(code, Some(0), "the engine did not catch up:\n{}", engine.tail());
        engine.log()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn tail(&self) -> String {
        let mut text = String::new();
        if let Ok(mut file) = File::open(&self.log) {
            let len = file.metadata().map_or(0, |m| m.len());
            let _ = file.seek(SeekFrom::Start(len.saturating_sub(6000)));
            let mut bytes = Vec::new();
            let _ = file.read_to_end(&mut bytes);
            text = String::from_utf8_lossy(&bytes).into_owned();
        }
        text
    }

    pub fn wait_log(&self, text: &str, limit: Duration) {
        assert!(
            wait_until(limit, || self.log().contains(text)),
            "no {text:?} in the log within {limit:?}:\n{}",
            self.tail()
        );
    }
}

/// The digests that a log tells, with the commit that each belongs to.
pub fn digests(log: &str) -> Vec<(i64, String)> {
    log.lines()
        .filter_map(|line| {
            let digest = line.split("state digest=").nth(1)?.split_whitespace().next()?.to_string();
            let seq = line.split(" seq=").nth(1)?.split_whitespace().next()?.parse().ok()?;
            Some((seq, digest))
        })
        .collect()
}
