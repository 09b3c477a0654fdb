//! One service: its files, whether it runs, and how it is stopped.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tidegate_bench::local::process::{began, detach, kill};
use tidegate_bench::local::{Result, wait_until};

/// A service of the stack.
#[derive(Debug, Clone)]
pub struct Service {
    /// As docker-compose.yml names it.
    pub name: &'static str,
    /// The signal that ends it in good order, and how long that may take.
    pub ends_by: (i32, Duration),
    dir: PathBuf,
}

impl Service {
    /// Below the stack's folder.
    pub fn new(run: &Path, name: &'static str, signal: i32, seconds: u64) -> Self {
        Self { name, ends_by: (signal, Duration::from_secs(seconds)), dir: run.join(name) }
    }

    /// Where its data is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What it has said.
    pub fn log(&self) -> PathBuf {
        self.dir.with_extension("log")
    }

    fn pid_file(&self) -> PathBuf {
        self.dir.with_extension("pid")
    }

    /// Its pid, if it runs: a process of that pid which began when ours did.
    pub fn pid(&self) -> Option<i32> {
        let text = std::fs::read_to_string(self.pid_file()).ok()?;
        let (pid, start) = text.trim().split_once(' ')?;
        let (pid, start): (i32, u64) = (pid.parse().ok()?, start.parse().ok()?);
        (began(pid) == Some(start)).then_some(pid)
    }

    /// Starts it.
    pub fn start(&self, command: &mut Command, user: Option<(u32, u32)>) -> Result<()> {
        let told = |error: std::io::Error| format!("{}: {error}", self.pid_file().display());
        let pid = detach(self.name, command, &self.log(), user)?;
        let start = began(pid).ok_or_else(|| self.failed("has ended at once"))?;
        std::fs::write(self.pid_file(), format!("{pid} {start}\n")).map_err(told)
    }

    /// Waits until it is ready, or has ended.
    pub fn wait(&self, patience: Duration, ready: impl Fn() -> bool) -> Result<()> {
        let mut is_ready = false;
        wait_until(patience, || {
            is_ready = ready();
            is_ready || self.pid().is_none()
        });
        match (is_ready, self.pid()) {
            (true, _) => Ok(()),
            (false, None) => Err(self.failed("has ended")),
            (false, Some(_)) => Err(self.failed(&format!("is not ready after {patience:?}"))),
        }
    }

    /// What went wrong with it, and the last that it said.
    fn failed(&self, what: &str) -> String {
        let text = std::fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let last = lines[lines.len().saturating_sub(5)..].join("\n  ");
        format!("{} {what}; {} ends with\n  {last}", self.name, self.log().display())
    }

    /// Stops it; whether it ran.
    pub fn stop(&self) -> Result<bool> {
        let Some(pid) = self.pid() else { return Ok(false) };
        let (signal, patience) = self.ends_by;
        kill(pid, signal);
        if !wait_until(patience, || self.pid().is_none()) {
            eprintln!("{} did not end within {patience:?} and is killed", self.name);
            kill(pid, libc::SIGKILL);
            if !wait_until(Duration::from_secs(10), || self.pid().is_none()) {
                return Err(format!("{} does not end: pid {pid}", self.name));
            }
        }
        let _ = std::fs::remove_file(self.pid_file());
        Ok(true)
    }
}
