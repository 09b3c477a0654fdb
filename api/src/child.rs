//! A command of this binary as a child that ends with us.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A running child.
pub struct Running {
    child: Child,
    name: &'static str,
}

impl Running {
    /// Starts a command with these arguments and variables.
    pub fn start(name: &'static str, arguments: &[&str], variables: &[(&str, &str)]) -> Result<Self, String> {
        let own = std::env::current_exe().map_err(|error| error.to_string())?;
        let child = Command::new(own)
            .args(arguments)
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .spawn()
            .map_err(|error| format!("cannot start the {name}: {error}"))?;
        Ok(Self { child, name })
    }

    /// Its exit, if it has ended.
    pub fn ended(&mut self) -> Result<Option<std::process::ExitStatus>, String> {
        self.child.try_wait().map_err(|error| format!("the {}: {error}", self.name))
    }

    /// Asks it to end and waits.
    pub fn stop(&mut self, patience: Duration) -> Result<(), String> {
        // `kill` is everywhere, and saves this crate an unsafe call.
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let end = Instant::now() + patience;
        while Instant::now() < end {
            if let Some(status) = self.ended()? {
                return if status.success() { Ok(()) } else { Err(format!("the {} ended with {status}", self.name)) };
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Err(format!("the {} does not end", self.name))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
