//! The stack as plain processes: started, proved, stopped, started again with its data, and wiped.

use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use tidegate_bench::local::process::{began, kill};
use tidegate_bench::local::{TempDir, free_port, wait_until};

use crate::asking::get;
use crate::engine::tidegate;
use crate::world::repository;

/// A stack of its own, on free ports.
struct Stack {
    dir: TempDir,
    ports: Vec<(&'static str, u16)>,
}

impl Stack {
    fn new() -> Self {
        let names = ["KAFKA_PORT", "POSTGRES_PORT", "ENGINE_PORT", "API_PORT", "PGWIRE_PORT", "PROMETHEUS_PORT"];
        let ports = names.into_iter().map(|name| (name, free_port().unwrap())).collect();
        Self { dir: TempDir::new("stack").unwrap(), ports }
    }

    fn port(&self, name: &str) -> u16 {
        self.ports.iter().find(|(other, _)| *other == name).unwrap().1
    }

    /// A verb, as `make` runs it, with these variables.
    fn run(&self, verb: &[&str], variables: &[(&str, &str)]) -> Output {
        let mut command = Command::new(repository().join(".ci/stack"));
        self.with(command.args(verb));
        command.envs(variables.iter().copied()).output().unwrap()
    }

    /// What a command must know to mean this stack.
    fn with(&self, command: &mut Command) {
        let binary = PathBuf::from(tidegate().get_program());
        let target = binary.parent().unwrap().parent().unwrap();
        command.env("STACK", "native").env("BUILD", "0").env("RUN_DIR", self.dir.path().join("run"));
        command.env("CARGO_TARGET_DIR", target).env("EVENTS_PER_SECOND", "500").env("FOLLOW", "0");
        command.env("SMOKE_PATIENCE", "8").env_remove("MAKEFLAGS").env_remove("MAKELEVEL");
        command.envs(self.ports.iter().map(|(name, port)| (name, port.to_string())));
        command.env_remove("DATABASE_URL").env_remove("KAFKA_BROKERS");
    }

    #[track_caller]
    fn must(&self, verb: &[&str], variables: &[(&str, &str)]) -> String {
        let output = self.run(verb, variables);
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{verb:?}: {told}{}", String::from_utf8_lossy(&output.stderr));
        told
    }
}

/// The shell blocks of the runbooks, with their section and what stands behind ```.
fn blocks() -> Vec<(String, String, String)> {
    let text = std::fs::read_to_string(repository().join("docs/runbooks.md")).unwrap();
    let (mut found, mut section, mut open): (Vec<(String, String, String)>, _, bool) =
        (Vec::new(), String::new(), false);
    for line in text.lines() {
        let bare = line.trim();
        match (line.strip_prefix("## "), bare.strip_prefix("```")) {
            (Some(title), _) => section = title.to_string(),
            (None, Some(_)) if open => open = false,
            (None, Some(kind)) => {
                open = true;
                let known = ["sh", "sh by-hand", "sh docker-only"].contains(&kind);
                assert!(known, "{section}: a block of kind {kind:?}");
                found.push((section.clone(), kind.to_string(), String::new()));
            }
            (None, None) if open => found.last_mut().unwrap().2.push_str(&format!("{bare}\n")),
            _ => {}
        }
    }
    found
}

/// The n-th block of a section that a person runs.
fn by_hand(section: &str, n: usize) -> String {
    let found = blocks().into_iter().filter(|(of, kind, _)| of == section && kind == "sh by-hand");
    found.map(|(_, _, block)| block).nth(n).unwrap_or_else(|| panic!("{section} has no block {n}"))
}

impl Stack {
    /// Runs lines as somebody does who reads the runbooks.
    #[track_caller]
    fn shell(&self, what: &str, lines: &str, must: bool) -> String {
        let mut command = Command::new("bash");
        let text = format!("eval \"$(make -s env)\"\n{lines}");
        command.args(["-euo", "pipefail", "-c", &text]).current_dir(repository());
        self.with(&mut command);
        let output = command.output().unwrap();
        let told = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.success(), must, "{what}: {told}");
        told
    }

    /// Kills a service as a power cut would.
    fn kill(&self, service: &str) {
        let text = std::fs::read_to_string(self.dir.path().join("run").join(format!("{service}.pid"))).unwrap();
        let pid: i32 = text.split(' ').next().unwrap().parse().unwrap();
        kill(pid, libc::SIGKILL);
        assert!(wait_until(Duration::from_secs(10), || began(pid).is_none()), "{service} does not end");
    }

    /// The first five runbooks: something breaks, smoke says what, the steps are followed, smoke passes.
    fn play(&self) {
        // What fails is not waited for as long as what comes back.
        let smoke = |must: bool| {
            let patience = if must { 30 } else { 8 };
            self.shell("smoke", &format!("SMOKE_PATIENCE={patience} make smoke"), must)
        };
        // Smoke tests failing.
        self.kill("kafka");
        assert!(smoke(false).contains("FAILED  topic"));
        self.shell("start", &by_hand("Engine not producing rows", 0), true);
        smoke(true);
        // Engine not producing rows.
        self.kill("engine");
        let told = smoke(false);
        assert!(told.contains("FAILED  offsets") && told.contains("runbooks.md#engine-not-producing-rows"), "{told}");
        self.shell("is it there", "curl -s http://$ENGINE/readyz", false);
        self.shell("start", &by_hand("Engine not producing rows", 0), true);
        smoke(true);
        // API unhealthy.
        self.kill("metrics-api");
        let told = smoke(false);
        assert!(told.contains("FAILED  endpoints") && told.contains("runbooks.md#api-unhealthy"), "{told}");
        self.shell("start", &by_hand("API unhealthy", 0), true);
        smoke(true);
        // Prometheus or Grafana issues: the step before has stopped it as well.
        let told = self.shell("full-smoke", "make full-smoke", false);
        assert!(told.contains("FAILED  prometheus") && told.contains("#prometheus-or-grafana-issues"), "{told}");
        self.shell("start", &by_hand("Prometheus or Grafana issues", 0), true);
        // It asks every 15 seconds.
        self.shell("full-smoke", "SMOKE_PATIENCE=30 make full-smoke", true);
        // Lag growing: an engine that was stopped for a while catches up by itself.
        let lag = "curl -s http://$ENGINE/metrics | grep '^tidegate_lag_records' | awk '{ n += $2 } END { print n }'";
        let pid: i32 = self.shell("pid", "cut -d' ' -f1 < $RUN_DIR/engine.pid", true).trim().parse().unwrap();
        kill(pid, libc::SIGSTOP);
        std::thread::sleep(Duration::from_secs(4));
        let doctor = self.shell("doctor", "tidegate doctor || true", true);
        assert!(doctor.contains("records wait"), "{doctor}");
        kill(pid, libc::SIGCONT);
        let falls = || self.shell("lag", lag, true).trim().parse::<i64>().is_ok_and(|lag| lag < 500);
        assert!(wait_until(Duration::from_secs(20), falls), "it does not catch up");
        smoke(true);
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        self.run(&["down"], &[]);
    }
}

#[test]
fn it_comes_up_is_proved_keeps_its_data_and_is_wiped() {
    let stack = Stack::new();
    let began = Instant::now();
    let up = stack.must(&["full-up"], &[("RUN_SMOKE", "0")]);
    let took = began.elapsed();
    for service in ["postgres", "kafka", "event-generator", "engine", "metrics-api", "prometheus"] {
        assert!(up.lines().any(|line| line.starts_with(service) && line.contains("ready")), "{service}: {up}");
    }
    assert!(up.contains("stack: native") && up.contains("grafana          not in this stack"), "{up}");
    assert!(took < Duration::from_secs(60), "{took:?}");

    // Prometheus asks every 15 seconds.
    let smoke = stack.must(&["full-smoke"], &[("SMOKE_PATIENCE", "30")]);
    for step in ["topic", "offsets", "engine", "probe", "windows", "endpoints", "accounting", "prometheus"] {
        assert!(smoke.lines().any(|line| line.starts_with(&format!("ok      {step}"))), "{step}: {smoke}");
    }
    assert!(smoke.contains("-       grafana     not in this stack"), "{smoke}");
    assert!(smoke.ends_with("smoke: 8 ok, 0 failed, 1 not in this stack\n"), "{smoke}");
    // It is as true the second time.
    assert!(stack.must(&["smoke"], &[]).ends_with("smoke: 7 ok, 0 failed, 0 not in this stack\n"));
    let doctor = stack.must(&["doctor"], &[]);
    assert!(doctor.contains(" 0 faults"), "{doctor}");

    let ps = stack.must(&["full-ps"], &[]);
    assert_eq!(ps.lines().filter(|line| line.contains(" running ")).count(), 6, "{ps}");
    assert!(stack.must(&["logs", "engine"], &[]).contains("metrics at http://"));
    let env = stack.must(&["env"], &[]);
    assert!(env.contains(&format!("export API='127.0.0.1:{}'", stack.port("API_PORT"))), "{env}");

    // Every block of the runbooks that is not for a person or for Docker.
    let mut ran = 0;
    for (section, kind, block) in blocks() {
        if kind == "sh" {
            ran += 1;
            stack.shell(&format!("{section}: {block}"), &block, true);
        }
    }
    println!("{ran} blocks of the runbooks were run");
    assert!(ran >= 25, "{ran} blocks");
    stack.play();

    // A second one on its ports, elsewhere.
    let other = TempDir::new("stack-other").unwrap();
    let taken = stack.run(&["up"], &[("RUN_DIR", other.path().to_str().unwrap())]);
    let why = String::from_utf8_lossy(&taken.stderr).into_owned();
    assert!(!taken.status.success(), "{why}");
    for name in ["KAFKA_PORT", "POSTGRES_PORT", "ENGINE_PORT", "API_PORT"] {
        assert!(why.contains(&format!("is taken: set {name} to another")), "{why}");
    }

    // What does not run is said with the step, the reason and where to read on.
    let listen = format!("127.0.0.1:{}", stack.port("API_PORT"));
    assert_eq!(get(&listen, "/readyz").0, 200);
    let down = stack.must(&["down"], &[]);
    assert!(down.contains("the data is kept"), "{down}");
    assert_eq!(get(&listen, "/readyz").0, 0);
    let failed = stack.run(&["smoke"], &[]);
    let told = String::from_utf8_lossy(&failed.stdout).into_owned();
    assert!(!failed.status.success() && told.contains("FAILED  topic"), "{told}");
    assert!(told.contains("see docs/runbooks.md#") && told.contains("smoke: 0 ok, 1 failed"), "{told}");
    let ps = stack.must(&["ps"], &[]);
    assert_eq!(ps.lines().filter(|line| line.contains(" stopped ")).count(), 5, "{ps}");

    stack.must(&["up"], &[("RUN_SMOKE", "0")]);
    let smoke = stack.must(&["smoke"], &[]);
    let read = smoke.lines().find_map(|line| line.split("read ").nth(1)?.split(' ').next()?.parse::<i64>().ok());
    assert!(read.is_some_and(|read| read > 1_000), "what it had is there: {smoke}");
    let asked = stack.run(&["reset"], &[]);
    assert!(!asked.status.success(), "nobody was asked");
    assert!(String::from_utf8_lossy(&asked.stdout).contains("every row of the database"));
    assert_eq!(get(&listen, "/readyz").0, 200, "and nothing was done");
    stack.must(&["reset"], &[("FORCE", "1")]);
    assert!(!stack.dir.path().join("run/postgres").exists());
}
