//! What smoke starts itself, with `--start`: an engine, an api and a load.

use std::path::Path;
use std::time::Duration;

use super::{Checked, Options};
use crate::child::Running;

/// How long what was started may take to end.
const END_PATIENCE: Duration = Duration::from_secs(30);

/// An address on which nobody listens.
pub fn free_address() -> Checked<String> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    listener.map(|address| address.to_string()).map_err(|error| format!("no free port: {error}"))
}

/// What smoke has started itself.
pub struct Started {
    pub engine: Running,
    api: Running,
    load: Running,
}

impl Started {
    /// Starts them.
    pub fn begin(config: Option<&Path>, options: &Options, brokers: &str, api: &str) -> Checked<Self> {
        let config = config.map(|config| ["--config".to_string(), config.display().to_string()]);
        let config: Vec<&str> = config.iter().flatten().map(String::as_str).collect();
        let (queries, events) = (options.queries.display().to_string(), options.events.display().to_string());
        let engine = {
            let arguments = ["engine", "--queries", &queries, "--listen", "127.0.0.1:0"];
            Running::start("engine", &[&arguments[..], &config].concat(), &[])?
        };
        let api = {
            let arguments = ["api", "--queries", &queries, "--listen", api];
            // It asks by HTTP alone.
            Running::start("api", &[&arguments[..], &config].concat(), &[("TIDEGATE__PGWIRE__LISTEN", "")])?
        };
        let (rate, duration) = (options.rate.to_string(), options.duration.to_string());
        let to = ["generate", "--brokers", brokers, "--topic", &options.topic, "--events", &events];
        let how = ["--rate", &rate, "--duration", &duration, "--quiet"];
        let load = Running::start("generator", &[&to[..], &how].concat(), &[])?;
        Ok(Self { engine, api, load })
    }

    /// Waits until the load is over.
    pub async fn wait_for_load(&mut self) -> Checked {
        loop {
            match self.load.ended()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => return Err(format!("the generator ended with {status}")),
                None => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }

    /// Ends them in good order.
    pub fn end(&mut self) -> Checked {
        self.engine.stop(END_PATIENCE)?;
        self.api.stop(END_PATIENCE)
    }
}
