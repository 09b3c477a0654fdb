//! The real binary: its command line, and it as a process that is watched while it runs.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use tidegate_bench::local::process::{Process, Usage};
use tidegate_bench::local::{Kafka, TempDir, free_port};

use crate::queries::Queries;

/// The binary, beside ours unless `TIDEGATE_BIN` names it.
pub fn binary() -> Result<PathBuf, String> {
    if let Some(path) = std::env::var_os("TIDEGATE_BIN") {
        return Ok(path.into());
    }
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let found = own.with_file_name("tidegate");
    if found.exists() { Ok(found) } else { Err(format!("there is no {}; build the workspace", found.display())) }
}

/// `tidegate engine` with these queries, on this database and these brokers, and with settings as they are shipped.
pub fn command(queries: &Queries, url: &str, kafka: &Kafka) -> Result<Command, String> {
    let mut command = Command::new(binary()?);
    command.args(["engine", "--queries"]).arg(queries.dir());
    command
        .env("DATABASE_URL", url)
        .env("KAFKA_BROKERS", kafka.brokers())
        .env("STREAM_EVENTS_TOPIC", queries.topic())
        .env("TIDEGATE__RECENT__PATH", queries.recent())
        .env("TIDEGATE_LOG", "warn")
        .stdin(Stdio::null());
    Ok(command)
}

/// A running engine.
pub struct Engine {
    process: Process,
    port: u16,
    dir: TempDir,
}

impl Engine {
    /// Starts it.
    pub fn start(queries: &Queries, url: &str, kafka: &Kafka) -> Result<Self, String> {
        let (dir, port) = (TempDir::new("bench-engine")?, free_port()?);
        let mut command = command(queries, url, kafka)?;
        command.args(["--listen", &format!("127.0.0.1:{port}")]).env("TIDEGATE_LOG", "info");
        let process = Process::spawn("engine", &mut command, &dir.path().join("engine.log"), None)?;
        Ok(Self { process, port, dir })
    }

    /// Whether it says that it owns its pipelines and reads.
    pub fn is_ready(&self) -> bool {
        let ask = || -> std::io::Result<bool> {
            let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
            stream.set_read_timeout(Some(Duration::from_secs(1)))?;
            stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: engine\r\nConnection: close\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer.starts_with("HTTP/1.1 200"))
        };
        ask().unwrap_or(false)
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("engine.log")).unwrap_or_default()
    }

    /// The first line of its log that is a warning or an error.
    pub fn complaint(&self) -> Option<String> {
        self.log()
            .lines()
            .find(|line| [" WARN", "ERROR", "TG-"].iter().any(|word| line.contains(word)))
            .map(String::from)
    }

    /// What it has used so far.
    pub fn used(&self) -> Usage {
        self.process.used()
    }

    /// Ends it as a power cut would.
    pub fn kill9(&mut self) {
        self.process.kill9();
    }

    /// Asks it to end.
    pub fn stop(&mut self) {
        self.process.stop(libc::SIGTERM, Duration::from_secs(30));
    }
}
