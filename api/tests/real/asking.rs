//! The api, asked over HTTP as its users do.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;
use tidegate_bench::local::process::Process;
use tidegate_bench::local::{TempDir, free_port, wait_until};

use crate::engine::tidegate;
use crate::world::{World, repository};

/// An answer over HTTP: status and body; 0 if nobody listens.
pub fn get(listen: &str, path: &str) -> (u16, String) {
    let Ok(mut stream) = TcpStream::connect(listen) else { return (0, String::new()) };
    let mut text = String::new();
    let asked = write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    if asked.and_then(|()| stream.read_to_string(&mut text)).is_err() {
        return (0, String::new());
    }
    let status = text.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    (status, text.split("\r\n\r\n").nth(1).unwrap_or_default().to_string())
}

/// The processes that a process has started.
pub fn children(pid: i32) -> Vec<i32> {
    let parent = |stat: &str| stat.rsplit(") ").next()?.split(' ').nth(1)?.parse::<i32>().ok();
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|child| {
        std::fs::read_to_string(format!("/proc/{child}/stat")).is_ok_and(|stat| parent(&stat) == Some(pid))
    })
    .collect()
}

/// An api on this database, that serves the example's views and these statements; where it listens.
pub fn api(url: &str, statements: &str) -> (Process, String) {
    api_with(url, statements, &[])
}

/// The same with these variables in its environment.
pub fn api_with(url: &str, statements: &str, variables: &[(&str, &str)]) -> (Process, String) {
    let dir = TempDir::new("api").unwrap();
    let example = std::fs::read_to_string(repository().join("queries/stream_metrics.sql")).unwrap();
    std::fs::write(dir.path().join("all.sql"), format!("{example}\n{statements}")).unwrap();
    let listen = format!("127.0.0.1:{}", free_port().unwrap());
    let mut command = tidegate();
    command.args(["api", "--listen", &listen, "--queries"]).arg(dir.path()).env("DATABASE_URL", url);
    command.env("TIDEGATE__RECENT__PATH", dir.path().join("recent"));
    command.envs(variables.iter().copied());
    let api = Process::spawn("api", &mut command, &dir.path().join("api.log"), None).unwrap();
    assert!(wait_until(Duration::from_secs(20), || TcpStream::connect(&listen).is_ok()), "{url}: nobody listens");
    (api, listen)
}

/// An api on a world: its database, its queries, the recent batches of its engines.
pub fn api_of(world: &World<'_>) -> (Process, Client) {
    api_with_environment(world, &[])
}

/// The same with these variables in its environment.
pub fn api_with_environment(world: &World<'_>, variables: &[(&str, &str)]) -> (Process, Client) {
    let listen = format!("127.0.0.1:{}", free_port().unwrap());
    let mut command = tidegate();
    command.args(["api", "--listen", &listen, "--queries"]).arg(world.queries()).env("DATABASE_URL", world.url());
    command.env("TIDEGATE__RECENT__PATH", world.recent()).envs(variables.iter().copied());
    let api = Process::spawn("api", &mut command, &world.dir.path().join("api.log"), None).unwrap();
    assert!(wait_until(Duration::from_secs(20), || TcpStream::connect(&listen).is_ok()), "nobody listens");
    (api, Client::new(&listen))
}

/// What an api has answered.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: ureq::http::HeaderMap,
    pub body: Vec<u8>,
}

impl Reply {
    fn of(mut response: ureq::http::Response<ureq::Body>) -> Self {
        let body = response.body_mut().with_config().limit(1 << 30).read_to_vec().unwrap();
        Self { status: response.status().as_u16(), headers: response.headers().clone(), body }
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// Status and code of an error.
    pub fn refusal(&self) -> (u16, String) {
        (self.status, self.json()["code"].as_str().unwrap_or_default().to_string())
    }

    /// The rows of a whole answer.
    pub fn rows(&self) -> Vec<Value> {
        assert_eq!(self.status, 200, "{}", self.text());
        self.json()["rows"].as_array().cloned().unwrap_or_default()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

/// A client of an api.
pub struct Client {
    agent: ureq::Agent,
    pub listen: String,
}

impl Client {
    pub fn new(listen: &str) -> Self {
        let config = ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(60)));
        Self { agent: config.http_status_as_error(false).build().new_agent(), listen: listen.to_string() }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.listen)
    }

    pub fn get(&self, path: &str, headers: &[(&str, &str)]) -> Reply {
        let request = headers.iter().fold(self.agent.get(self.url(path)), |request, (n, v)| request.header(*n, *v));
        Reply::of(request.call().unwrap())
    }

    pub fn delete(&self, path: &str) -> Reply {
        Reply::of(self.agent.delete(self.url(path)).call().unwrap())
    }

    pub fn post(&self, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        let request = headers.iter().fold(self.agent.post(self.url(path)), |request, (n, v)| request.header(*n, *v));
        Reply::of(request.send(body).unwrap())
    }

    /// A query as JSON.
    pub fn ask(&self, question: &Value) -> Reply {
        self.post("/api/v1/sql", &[("content-type", "application/json")], question.to_string().as_bytes())
    }

    /// A query as text.
    pub fn sql(&self, sql: &str) -> Reply {
        self.post("/api/v1/sql", &[("content-type", "text/plain")], sql.as_bytes())
    }
}
