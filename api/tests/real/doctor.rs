//! Each thing that goes wrong is made, and doctor must name it: the check, what was found, what to do.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tidegate_bench::local::process::Process;
use tidegate_bench::local::{TempDir, free_port, postgres, wait_until};

use crate::asking::api_with;
use crate::engine::tidegate;
use crate::world::{World, shared};

/// What is asked, and where.
struct Doctor<'a> {
    world: &'a World<'a>,
    engine: String,
    api: String,
}

impl Doctor<'_> {
    fn command(&self) -> Command {
        let mut command = tidegate();
        self.with(&mut command);
        command
    }

    fn with(&self, command: &mut Command) {
        command.args(["doctor", "--json", "--engine", &self.engine, "--api", &self.api, "--queries"]);
        command.arg(self.world.queries()).env("TIDEGATE__RECENT__PATH", self.world.recent());
        command.env("DATABASE_URL", self.world.url()).env("KAFKA_BROKERS", self.world.servers.kafka.brokers());
    }

    /// What it finds with these variables.
    fn finds(&self, variables: &[(&str, &str)]) -> Found {
        found(self.command().envs(variables.iter().copied()))
    }
}

struct Found {
    told: Value,
    code: Option<i32>,
}

fn found(command: &mut Command) -> Found {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let told = serde_json::from_str(&text);
    let told = told.unwrap_or_else(|error| panic!("{error}: {text}{}", String::from_utf8_lossy(&output.stderr)));
    Found { told, code: output.status.code() }
}

impl Found {
    /// Whether it has such a finding, and each that is no `ok` says what to do.
    fn has(&self, level: &str, check: &str, text: &str) -> bool {
        let findings = self.told["findings"].as_array().unwrap();
        assert!(findings.iter().all(|one| one["level"] == "ok" || one["todo"].is_string()), "{}", self.told);
        assert_eq!(self.code, Some(i32::from(self.told["faults"] != 0)), "{}", self.told);
        let is = |one: &&Value| one["level"] == level && one["check"] == check;
        findings.iter().filter(is).any(|one| one["found"].as_str().unwrap().contains(text))
    }

    #[track_caller]
    fn must(&self, level: &str, check: &str, text: &str) {
        assert!(self.has(level, check, text), "no {level} {check} {text:?}: {:#}", self.told);
    }

    /// No fault but these.
    #[track_caller]
    fn only(&self, checks: &[&str]) {
        let findings = self.told["findings"].as_array().unwrap();
        let faults = findings.iter().filter(|one| one["level"] == "fault");
        let others: Vec<&Value> = faults.filter(|one| !checks.contains(&one["check"].as_str().unwrap())).collect();
        assert!(others.is_empty(), "{others:#?}");
    }
}

#[test]
fn what_is_down_missing_altered_or_in_the_way_is_named() {
    let servers = shared();
    let world = World::new(&servers, "doctor");
    world.generate(&["--count", "2000", "--rate", "0"]);
    let port = free_port().unwrap();
    let listen = format!("127.0.0.1:{port}");
    let engine = |listen: &str| world.engine().set("TIDEGATE__ENGINE__LISTEN", listen);
    let before = Doctor { world: &world, engine: listen.clone(), api: "127.0.0.1:1".to_string() }.finds(&[]);
    before.must("warning", "postgres.tables", "no engine has ever run");
    before.must("fault", "engine", "none answers");
    before.must("fault", "api", "none answers");

    let mut running = engine(&listen).start();
    world.wait_committed(Duration::from_secs(30));
    let (_api, api) = api_with(&world.url(), "", &[]);
    let doctor = Doctor { world: &world, engine: listen.clone(), api };
    let well = doctor.finds(&[]);
    well.only(&[]);
    for (check, text) in [
        ("config", "can be read"),
        ("queries", "1 sources, 3 views"),
        ("postgres", "answers"),
        ("postgres.settings", "as they should be"),
        ("postgres.tables", "all 3 tables"),
        ("postgres.locks", "none"),
        ("postgres.bloat", "none"),
        ("kafka", "answers"),
        ("topic", "has 4 partitions"),
        ("retention", "has all"),
        ("lag", "0 records wait"),
        ("engine", "ready at"),
        ("owner", "is owned by"),
        ("api", "ready at"),
        ("disk", "recent.path"),
        ("clock", "as those of Postgres, the engine, the api"),
    ] {
        well.must("ok", check, text);
    }

    // Servers.
    let down = doctor.finds(&[("KAFKA_BROKERS", "127.0.0.1:1")]);
    down.must("fault", "kafka", "127.0.0.1:1");
    down.only(&["kafka"]);
    let down = doctor.finds(&[("DATABASE_URL", "postgres://tidegate@127.0.0.1:1/x")]);
    down.must("fault", "postgres", "nobody answers");
    down.only(&["postgres"]);
    let no_database = servers.postgres.url("nobodys");
    doctor.finds(&[("DATABASE_URL", &no_database)]).must("fault", "postgres", "\"nobodys\" does not exist");

    // A standby behind another, by its own address.
    let second = format!("127.0.0.1:{}", free_port().unwrap());
    let mut standby = engine(&second).start();
    let waits = Doctor { world: &world, engine: second, api: doctor.api.clone() };
    let told = wait_until(Duration::from_secs(10), || waits.finds(&[]).has("warning", "engine", "another owns"));
    assert!(told, "{:#}", waits.finds(&[]).told);
    standby.stop();

    // The table, the clock, a port.
    world.sql("ALTER TABLE stream_state DROP COLUMN viewers");
    doctor.finds(&[]).must("fault", "postgres.tables", "table stream_state has no column viewers");
    world.sql("ALTER TABLE stream_state ADD COLUMN viewers bigint");
    let mut command = Command::new("faketime");
    command.args(["-f", "+1h"]).arg(doctor.command().get_program());
    doctor.with(&mut command);
    // What waits for Kafka until a time waits for ever with a clock that is not that of the system.
    let late = found(command.env("KAFKA_BROKERS", ""));
    late.must("fault", "clock", "the clock of Postgres is 3600 s behind");
    late.must("fault", "clock", "the clock of the engine is 3");
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = other.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in other.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nhello\n");
        }
    });
    let elsewhere = Doctor { world: &world, engine: taken.clone(), api: taken };
    let told = elsewhere.finds(&[]);
    told.must("fault", "ports", "is no engine of ours");
    told.must("fault", "ports", "is no api of ours");

    // What retention took, while the engine rests: below what a rebuild needs, then below what a start replays.
    running.stop();
    let of = |column: &str| world.number(&format!("SELECT max({column}) FROM tidegate.progress WHERE part = 0"));
    let (rebuild, checkpoint) = (of("rebuild_from"), of("checkpoint_offset"));
    assert!(rebuild < checkpoint, "open windows need {rebuild}, below {checkpoint}");
    servers.kafka.delete_records(&world.topic, 0, checkpoint).unwrap();
    doctor.finds(&[]).must("warning", "retention", "open windows need partition 0");
    world.generate(&["--count", "2000", "--rate", "0", "--seed", "2"]);
    servers.kafka.delete_records(&world.topic, 0, checkpoint + 1).unwrap();
    doctor.finds(&[]).must("fault", "retention", "a start would replay partition 0");

    servers.kafka.delete_topic(&world.topic).unwrap();
    let missing = doctor.finds(&[]);
    missing.must("fault", "topic", "there is no topic");
    missing.must("ok", "kafka", "answers");
}

#[test]
fn silence_and_an_engine_that_was_killed_are_named() {
    let servers = shared();
    let world = World::new(&servers, "doctor-silence");
    let example = std::fs::read_to_string(world.queries().join("example.sql")).unwrap();
    world.write_query("example.sql", &example.replace("format = 'json'", "format = 'json', idle_timeout = '1 second'"));
    world.generate(&["--count", "2000", "--rate", "0"]);
    let listen = format!("127.0.0.1:{}", free_port().unwrap());
    let mut engine = world.engine().set("TIDEGATE__ENGINE__LISTEN", &listen).start();
    world.wait_committed(Duration::from_secs(30));
    let doctor = Doctor { world: &world, engine: listen, api: "127.0.0.1:1".to_string() };
    let silent = |found: &Found| {
        found.has("warning", "records", "no record has come") && found.has("warning", "partitions", "0, 1, 2, 3 of 4")
    };
    assert!(wait_until(Duration::from_secs(20), || silent(&doctor.finds(&[]))), "{:#}", doctor.finds(&[]).told);
    world.generate(&["--count", "2000", "--rate", "0", "--seed", "2"]);
    world.wait_committed(Duration::from_secs(30));
    let found = doctor.finds(&[]);
    assert!(!silent(&found), "{:#}", found.told);

    engine.kill9();
    world.generate(&["--count", "100", "--rate", "0", "--seed", "3"]);
    let gone =
        |found: &Found| found.has("fault", "owner", "nobody owns it") && found.has("fault", "engine", "none answers");
    assert!(wait_until(Duration::from_secs(20), || gone(&doctor.finds(&[]))), "{:#}", doctor.finds(&[]).told);
}

#[test]
fn a_disk_that_is_full_is_named() {
    let dir = TempDir::new("full").unwrap();
    let disk = dir.path().join("disk");
    std::fs::create_dir(&disk).unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "tidegate"]).arg(&disk).output();
    if !mounted.is_ok_and(|output| output.status.success()) {
        println!("SKIPPED doctor::a_disk_that_is_full_is_named: a tmpfs cannot be mounted here");
        return;
    }
    let mut command = tidegate();
    command.args(["doctor", "--json", "--queries"]).arg(dir.path()).env("TIDEGATE__RECENT__PATH", disk.join("recent"));
    let told = found(command.env_remove("DATABASE_URL").env_remove("KAFKA_BROKERS"));
    assert!(Command::new("umount").arg(&disk).status().unwrap().success());
    told.must("fault", "disk", "recent.path: 1 of 1 MiB are free");
    told.must("fault", "postgres", "no database is named");
    told.must("fault", "kafka", "no brokers are named");
}

#[test]
fn a_wrong_password_is_named_and_not_told() {
    let dir = TempDir::new("password").unwrap();
    postgres::give_away(dir.path()).unwrap();
    let (bin, port, password) = (postgres::binaries().unwrap(), free_port().unwrap(), dir.path().join("password"));
    std::fs::write(&password, "right").unwrap();
    postgres::give_away(&password).unwrap();
    let log = dir.path().join("log");
    postgres::format(&bin, &dir.path().join("data"), "tidegate", Some(&password), &log).unwrap();
    let user = postgres::other_user().unwrap();
    let _server = Process::spawn("postgres", &mut postgres::server(&bin, dir.path(), port), &log, user).unwrap();
    let asked = |password: &str| {
        let mut command = tidegate();
        command.args(["doctor", "--json", "--queries"]).arg(dir.path());
        found(command.env("DATABASE_URL", format!("postgres://tidegate:{password}@127.0.0.1:{port}/postgres")))
    };
    let answers = || asked("right").has("ok", "postgres", "answers");
    assert!(wait_until(Duration::from_secs(20), answers), "{:#}", asked("right").told);
    let refused = asked("canary");
    refused.must("fault", "postgres", "the user or the password is wrong");
    assert!(!refused.told.to_string().contains("canary"), "{}", refused.told);
}
