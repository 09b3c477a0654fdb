//! The end of an engine that is told to, and its beginning before anything else is there.

use std::time::{Duration, Instant};

use serde_json::Value;
use tidegate_bench::local::process::Process;
use tidegate_bench::local::{Proxy, free_port, wait_until};

use crate::asking::get;
use crate::engine::{Engine, tidegate};
use crate::invariants;
use crate::world::{Servers, World, shared};

/// How long an end may take.
const END: Duration = Duration::from_secs(10);

#[test]
fn an_engine_that_is_told_to_end_does_so_within_ten_seconds_whatever_goes_on() {
    let servers = shared();
    let world = World::new(&servers, "ending");
    invariants::prepare(&world);
    let load = world.generating(&["--rate", "3000", "--seed", "71"]);
    // Under load.
    for _ in 0..3 {
        let mut engine = world.engine().start();
        engine.wait_log("took over", Duration::from_secs(20));
        world.wait_progress(Duration::from_secs(20));
        let told = Instant::now();
        engine.stop();
        println!("ended {:?} after it was told to", told.elapsed());
        assert!(told.elapsed() < END, "{:?}", told.elapsed());
        invariants::check(&world, "after an end under load");
    }
    // While the database does not answer.
    let proxy = Proxy::start(servers.postgres.port(), 72).expect("proxy");
    let url = world.url().replace(&servers.postgres.port().to_string(), &proxy.port().to_string());
    let mut engine = Engine::new(&world, &url).start();
    engine.wait_log("took over", Duration::from_secs(20));
    world.wait_progress(Duration::from_secs(20));
    proxy.hang(true);
    std::thread::sleep(Duration::from_secs(1));
    let told = Instant::now();
    engine.signal(libc::SIGTERM);
    let code = engine.code(END + Duration::from_secs(1));
    println!("ended {:?} after it was told to, without the database", told.elapsed());
    assert!(told.elapsed() < END && code.is_some(), "{code:?} after {:?}: {}", told.elapsed(), engine.tail());
    drop((proxy, load));
    Engine::run_to_end(&world);
    invariants::check(&world, "after an end without the database");
    invariants::check_restart(&world);
}

#[test]
fn an_engine_may_start_before_everything_else() {
    let mut servers = match Servers::own() {
        Ok(servers) => servers,
        Err(why) => {
            println!("SKIPPED an_engine_may_start_before_everything_else: {why}");
            return;
        }
    };
    let listen = format!("127.0.0.1:{}", free_port().unwrap());
    let (topic, database, dir) = {
        let world = World::new(&servers, "first");
        let topic = format!("{}-later", world.topic);
        let example = std::fs::read_to_string(world.queries().join("example.sql")).unwrap();
        world.write_query("example.sql", &example.replace(&world.topic, &topic));
        (topic, world.database.clone(), world.dir)
    };
    let log = dir.path().join("engine.log");
    let mut engine = {
        let mut command = tidegate();
        command.args(["engine", "--queries"]).arg(dir.path().join("queries")).env("TIDEGATE__ENGINE__LISTEN", &listen);
        command.env("DATABASE_URL", servers.postgres.url(&database)).env("KAFKA_BROKERS", servers.kafka.brokers());
        command.env("TIDEGATE__RECENT__PATH", dir.path().join("recent")).env("TIDEGATE_LOG_FORMAT", "json");
        servers.kafka.kill9();
        servers.postgres.kill9();
        Process::spawn("engine", &mut command, &log, None).unwrap()
    };
    let told = || std::fs::read_to_string(&log).unwrap_or_default();
    let says = |text: &str| wait_until(Duration::from_secs(40), || told().contains(text));
    assert!(says("TG-DATABASE-UNREACHABLE"), "{}", told());
    assert_eq!(get(&listen, "/readyz").0, 503);
    servers.postgres.restart().unwrap();
    assert!(says("TG-KAFKA-UNREACHABLE"), "{}", told());
    assert_eq!(get(&listen, "/readyz").0, 503);
    servers.kafka.restart().unwrap();
    assert!(says("TG-KAFKA-TOPIC"), "{}", told());
    servers.kafka.create_topic(&topic, 4, &[]).unwrap();
    assert!(wait_until(Duration::from_secs(30), || get(&listen, "/readyz").0 == 200), "{}", told());
    // What goes on for seconds is not told thousands of times.
    assert!(told().lines().count() < 200, "{} lines", told().lines().count());
    // Each line is a document.
    for line in told().lines() {
        let told: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(told["level"].is_string() && told["timestamp"].is_string() && told["message"].is_string(), "{line}");
    }
    let world = World { servers: &servers, topic, database, dir };
    world.generate(&["--count", "2000", "--rate", "0"]);
    world.wait_committed(Duration::from_secs(30));
    engine.stop(libc::SIGTERM, END);
    assert_eq!(world.number("SELECT sum(records_read) FROM tidegate.pipelines"), 2_000);
}
