//! A command of this binary as a child that ends with us, however we end: it reads a pipe that we hold open.

use std::ffi::OsStr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A running child.
pub struct Running {
    child: Child,
    name: &'static str,
}

impl Running {
    /// Starts a command with these arguments and variables; it hears by `--child` that it is one.
    pub fn start<A: AsRef<OsStr>>(
        name: &'static str,
        arguments: &[A],
        variables: &[(&str, &str)],
    ) -> Result<Self, String> {
        let own = std::env::current_exe().map_err(|error| error.to_string())?;
        let child = Command::new(own)
            .args(arguments)
            .arg("--child")
            .envs(variables.iter().copied())
            .stdin(Stdio::piped())
            .spawn()
            .map_err(|error| format!("cannot start the {name}: {error}"))?;
        Ok(Self { child, name })
    }

    /// Its exit, if it has ended.
    pub fn ended(&mut self) -> Result<Option<std::process::ExitStatus>, String> {
        self.child.try_wait().map_err(|error| format!("the {}: {error}", self.name))
    }

    /// Closes the pipe, which is its sign to end, and waits.
    pub fn stop(&mut self, patience: Duration) -> Result<(), String> {
        drop(self.child.stdin.take());
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

/// In a child: done once the parent is gone.
pub async fn parent_gone() {
    let (gone, told) = tokio::sync::oneshot::channel();
    // A thread of its own: a blocking read would hold up the end of the runtime.
    let started = when_parent_is_gone(move || {
        let _ = gone.send(());
    });
    if !started || told.await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// In a child: does this once the parent is gone; whether it will.
pub fn when_parent_is_gone(then: impl FnOnce() + Send + 'static) -> bool {
    let wait = move || {
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        then();
    };
    std::thread::Builder::new().name("parent".to_string()).spawn(wait).is_ok()
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
