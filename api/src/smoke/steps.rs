//! The steps as lines: what each has found, how long it took, and where to read on.

use std::time::Instant;

use super::Checked;

/// What is counted.
#[derive(Debug, Default)]
pub struct Steps {
    passed: usize,
    absent: usize,
}

impl Steps {
    /// Runs a step and prints what it has found, the first line with the time. An error names the step, and the section of the
    /// runbooks that goes on from there.
    pub async fn run(
        &mut self,
        name: &str,
        section: &str,
        step: impl Future<Output = Checked<Vec<String>>>,
    ) -> Checked {
        let began = Instant::now();
        let found = step.await;
        let took = began.elapsed().as_millis();
        match found {
            Ok(lines) => {
                self.passed += 1;
                let mut lines = lines.iter();
                println!("{:<7} {name:<11} {} ({took} ms)", "ok", lines.next().map_or("", String::as_str));
                lines.for_each(|line| println!("{:<19} {line}", ""));
                Ok(())
            }
            Err(why) => {
                println!("{:<7} {name:<11} {why} ({took} ms)", "FAILED");
                println!("{:<19} see docs/runbooks.md#{section}", "");
                Err(format!("step {name}: {why}"))
            }
        }
    }

    /// Notes what this stack does not have: neither passed nor failed.
    pub fn absent(&mut self, name: &str) {
        self.absent += 1;
        println!("{:<7} {name:<11} not in this stack", "-");
    }

    /// How it went, on one line.
    pub fn end(&self, failed: bool) -> String {
        format!("{} ok, {} failed, {} not in this stack", self.passed, usize::from(failed), self.absent)
    }
}
