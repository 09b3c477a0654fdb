//! Servers that die, answers that are lost, connections that hang.

use std::time::{Duration, Instant};

use tidegate_bench::local::{Proxy, wait_until};

use crate::engine::Engine;
use crate::invariants;
use crate::world::{Servers, World, shared};

#[test]
fn postgres_and_kafka_may_be_killed_under_load() {
    let mut servers = match Servers::own() {
        Ok(servers) => servers,
        Err(why) => {
            println!("SKIPPED postgres_and_kafka_may_be_killed_under_load: {why}");
            return;
        }
    };
    let (topic, database, dir);
    // The world borrows the servers; what is killed between is found again by name.
    {
        let world = World::new(&servers, "server-kills");
        invariants::prepare(&world);
        (topic, database, dir) = (world.topic.clone(), world.database.clone(), world.dir);
    }
    let mut world = WorldParts { topic, database, dir: Some(dir) };
    let (mut engine_pid, mut load_pid) = (0, 0);
    let long = std::env::var_os("TIDEGATE_TEST_ALL").is_some();
    let outage = Duration::from_millis(if long { 20_000 } else { 700 });
    for round in 0..4 {
        world.with(&servers, |world| {
            if round == 0 {
                let engine = world.engine().set("TIDEGATE__STORE__TIMEOUT_MS", "5000").start();
                engine.wait_log("took over", Duration::from_secs(20));
                let load = world.generating(&["--rate", "2000", "--seed", "31"]);
                (engine_pid, load_pid) = (engine.pid(), load.pid());
                std::mem::forget((engine, load));
            }
            world.wait_progress(Duration::from_secs(40));
        });
        if round % 2 == 0 {
            servers.postgres.kill9()
        } else {
            servers.kafka.kill9()
        }
        std::thread::sleep(outage);
        if round % 2 == 0 {
            servers.postgres.restart().expect("restarts")
        } else {
            servers.kafka.restart().expect("restarts")
        }
    }
    world.with(&servers, |world| {
        world.wait_progress(Duration::from_secs(40));
        tidegate_bench::local::process::kill(load_pid, libc::SIGKILL);
        world.wait_committed(Duration::from_secs(60));
        tidegate_bench::local::process::kill(engine_pid, libc::SIGTERM);
        std::thread::sleep(Duration::from_secs(1));
        invariants::check(world, "after two kills of each server");
        Engine::run_to_end(world);
        invariants::check_restart(world);
    });
}

/// A world between two of its servers' lives.
struct WorldParts {
    topic: String,
    database: String,
    dir: Option<tidegate_bench::local::TempDir>,
}

impl WorldParts {
    fn with<T>(&mut self, servers: &Servers, act: impl FnOnce(&World<'_>) -> T) -> T {
        let world = World {
            servers,
            topic: self.topic.clone(),
            database: self.database.clone(),
            dir: self.dir.take().expect("a directory"),
        };
        let result = act(&world);
        self.dir = Some(world.dir);
        result
    }
}

#[test]
fn a_lost_commit_or_answer_is_resolved_and_counted_once() {
    let servers = shared();
    let world = World::new(&servers, "lost-answers");
    invariants::prepare(&world);
    let proxy = Proxy::start(servers.postgres.port(), 42).expect("proxy");
    let load = world.generating(&["--rate", "2500", "--seed", "41"]);
    let url = world.url().replace(&servers.postgres.port().to_string(), &proxy.port().to_string());
    let mut engine = Engine::new(&world, &url).start();
    engine.wait_log("took over", Duration::from_secs(20));
    proxy.lose_commits(7);
    assert!(
        wait_until(Duration::from_secs(60), || proxy.lost() >= 25),
        "only {} answers were lost:\n{}",
        proxy.lost(),
        engine.tail()
    );
    proxy.lose_commits(0);
    drop(load);
    world.wait_committed(Duration::from_secs(30));
    engine.stop();
    let unknown = invariants::check_unknowns(&engine.log());
    let found = |word: &str| engine.log().matches(&format!("resolved={word}")).count();
    let (committed, aborted) = (found("committed"), found("aborted"));
    println!(
        "{} commits or answers lost, {unknown} outcomes unknown: {committed} committed, {aborted} aborted",
        proxy.lost()
    );
    assert!(committed >= 5 && aborted >= 5, "{committed} committed, {aborted} aborted");
    assert!(unknown >= 20, "only {unknown} outcomes were unknown");
    invariants::check(&world, "after lost answers");
    invariants::check_restart(&world);
}

#[test]
fn a_connection_that_hangs_without_closing_is_given_up() {
    let servers = shared();
    let world = World::new(&servers, "hanging");
    invariants::prepare(&world);
    let proxy = Proxy::start(servers.postgres.port(), 52).expect("proxy");
    let load = world.generating(&["--rate", "2000", "--seed", "51"]);
    let url = world.url().replace(&servers.postgres.port().to_string(), &proxy.port().to_string());
    let mut engine = Engine::new(&world, &url).set("TIDEGATE__STORE__TIMEOUT_MS", "1500").start();
    engine.wait_log("took over", Duration::from_secs(20));
    for _ in 0..2 {
        world.wait_progress(Duration::from_secs(20));
        proxy.hang(true);
        engine.wait_log("TG-DATABASE-UNREACHABLE", Duration::from_secs(20));
        std::thread::sleep(Duration::from_secs(2));
        proxy.hang(false);
        let healed = Instant::now();
        world.wait_progress(Duration::from_secs(20));
        println!("went on {:?} after the connection healed", healed.elapsed());
    }
    drop(load);
    world.wait_committed(Duration::from_secs(30));
    engine.stop();
    invariants::check_unknowns(&engine.log());
    invariants::check(&world, "after hanging connections");
}
