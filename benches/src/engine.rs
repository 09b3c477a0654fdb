//! The real binary: its command line, and its engine and api as processes.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tidegate_bench::local::process::{Process, Usage};
use tidegate_bench::local::{Kafka, TempDir, free_port, wait_until};

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
    let mut command = over("engine", queries, url)?;
    command.env("KAFKA_BROKERS", kafka.brokers()).stdin(Stdio::null());
    Ok(command)
}

/// One of its commands over these queries.
fn over(what: &str, queries: &Queries, url: &str) -> Result<Command, String> {
    let mut command = Command::new(binary()?);
    command.args([what, "--queries"]).arg(queries.dir());
    command
        .env("DATABASE_URL", url)
        .env("STREAM_EVENTS_TOPIC", queries.topic())
        .env("TIDEGATE__RECENT__PATH", queries.recent())
        .env("TIDEGATE_LOG", "warn");
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

/// A running api.
pub struct Api {
    _process: Process,
    agent: ureq::Agent,
    address: String,
    dir: TempDir,
}

impl Api {
    /// Starts it with these settings beside those that are shipped, and waits until it is ready.
    pub fn start(queries: &Queries, url: &str, settings: &[(&str, &str)]) -> Result<Self, String> {
        let (dir, address) = (TempDir::new("bench-api")?, format!("127.0.0.1:{}", free_port()?));
        let mut command = over("api", queries, url)?;
        // No port that another may have.
        command.args(["--listen", &address]).env("TIDEGATE__PGWIRE__LISTEN", "").envs(settings.iter().copied());
        let process = Process::spawn("api", &mut command, &dir.path().join("api.log"), None)?;
        let config = ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(60)));
        let agent = config.http_status_as_error(false).build().new_agent();
        let api = Self { _process: process, agent, address, dir };
        if wait_until(Duration::from_secs(20), || api.get("/readyz").is_ok()) {
            return Ok(api);
        }
        let log = std::fs::read_to_string(api.dir.path().join("api.log")).unwrap_or_default();
        Err(format!("the api does not start:\n{log}"))
    }

    /// The URL of a path.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// What it answers.
    pub fn get(&self, path: &str) -> Result<Value, String> {
        let body = body(self.agent.get(self.url(path)).call())?;
        serde_json::from_slice(&body).map_err(|error| format!("{path}: {error}"))
    }

    /// Its answer to a query, as it came.
    pub fn ask(&self, sql: &str) -> Result<Vec<u8>, String> {
        let question = json!({"sql": sql, "format": "json"}).to_string();
        let asked = self.agent.post(self.url("/api/v1/sql")).header("content-type", "application/json");
        body(asked.send(question))
    }
}

/// The whole of an answer, if it is one.
fn body(answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Result<Vec<u8>, String> {
    let mut answer = answer.map_err(|error| error.to_string())?;
    let body = answer.body_mut().with_config().limit(1 << 30).read_to_vec().map_err(|error| error.to_string())?;
    if answer.status().is_success() {
        return Ok(body);
    }
    Err(format!("{}: {}", answer.status(), String::from_utf8_lossy(&body)))
}
