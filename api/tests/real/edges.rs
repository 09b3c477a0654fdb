//! Idle partitions, added partitions, transactions, rows that the database refuses.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use rdkafka::config::ClientConfig;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use tidegate_bench::local::wait_until;

use crate::engine::Engine;
use crate::invariants;
use crate::oracle;
use crate::world::{World, shared};

fn producer(world: &World<'_>, transactional: bool) -> ThreadedProducer<DefaultProducerContext> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", world.servers.kafka.brokers());
    if transactional {
        config.set("transactional.id", &world.topic);
    }
    config.create().expect("producer")
}

/// An event of a stream at a minute and second of a fixed hour.
fn event(stream: &str, minute: u32, second: u32) -> String {
    format!(r#"{{"ts":"2026-11-24T06:{minute:02}:{second:02}Z","event_type":"chat_message","stream_id":"{stream}"}}"#)
}

fn send(producer: &ThreadedProducer<DefaultProducerContext>, topic: &str, partition: i32, payload: &str) {
    let record: BaseRecord<'_, (), str> = BaseRecord::to(topic).partition(partition).payload(payload);
    producer.send(record).map_err(|(error, _)| error).expect("sent");
}

#[test]
fn idle_partitions_do_not_hold_the_watermark_and_what_wakes_them_too_late_is_told() {
    let servers = shared();
    let world = World::new(&servers, "idle");
    let file = world.queries().join("example.sql");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("format = 'json',", "format = 'json', idle_timeout = '1 second',")).unwrap();
    invariants::prepare(&world);
    let producer = producer(&world, false);
    for minute in 0..5 {
        send(&producer, &world.topic, 0, &event("a", minute, 30));
    }
    producer.flush(Duration::from_secs(10)).unwrap();
    let mut engine = world.engine().start();
    let closed =
        || world.sql("SELECT coalesce(to_char(max(closed_until), 'HH24:MI:SS'), '') FROM tidegate.view_progress");
    assert!(
        wait_until(Duration::from_secs(20), || closed() == "06:04:20"),
        "closed until {:?}:\n{}",
        closed(),
        engine.tail()
    );
    // A record of a closed window from a partition that was idle; and one of an open window.
    send(&producer, &world.topic, 2, &event("b", 1, 10));
    send(&producer, &world.topic, 2, &event("b", 4, 40));
    producer.flush(Duration::from_secs(10)).unwrap();
    world.wait_committed(Duration::from_secs(20));
    engine.stop();
    assert_eq!(
        world.sql("SELECT part, \"offset\", reason, view FROM tidegate.dead_letters ORDER BY view"),
        "2|0|late-after-idle|stream_metrics_minute\n2|0|late-after-idle|talk_5_minutes"
    );
    assert_eq!(
        world.sql(
            "SELECT to_char(window_start, 'HH24:MI'), chat_messages FROM stream_metrics_minute WHERE stream_id = 'b'"
        ),
        "06:04|1"
    );
    assert_eq!(world.sql("SELECT count(*) FROM tidegate.progress WHERE idle AND part IN (0, 1, 3)"), "3");
    assert_eq!(world.sql("SELECT * FROM oracle.violations"), "");
    invariants::check_restart(&world);
}

#[test]
fn partitions_that_are_added_are_read_from_their_beginning() {
    let servers = shared();
    let world = World::new(&servers, "growing");
    invariants::prepare(&world);
    world.generate(&["--count", "3000", "--rate", "0", "--seed", "91"]);
    Engine::run_to_end(&world);
    servers.kafka.grow_topic(&world.topic, 6).unwrap();
    assert!(wait_until(Duration::from_secs(20), || servers
        .kafka
        .end_offsets(&world.topic)
        .is_ok_and(|ends| ends.len() == 6)));
    world.generate(&["--count", "3000", "--rate", "0", "--seed", "92"]);
    Engine::run_to_end(&world);
    world.wait_committed(Duration::from_secs(5));
    assert_eq!(world.number("SELECT count(*) FROM tidegate.progress WHERE next_offset > 0"), 6);
    invariants::check(&world, "after partitions were added");
}

#[test]
fn aborted_transactions_are_not_counted_and_their_markers_are_passed() {
    let servers = shared();
    let world = World::new(&servers, "transactions");
    invariants::prepare(&world);
    let producer = producer(&world, true);
    producer.init_transactions(Duration::from_secs(20)).unwrap();
    for round in 0..6u32 {
        producer.begin_transaction().unwrap();
        for second in 0..10 {
            send(&producer, &world.topic, (second % 4) as i32, &event(&format!("round-{round}"), round, second));
        }
        let end = Duration::from_secs(20);
        if round % 2 == 0 { producer.commit_transaction(end) } else { producer.abort_transaction(end) }.unwrap();
    }
    Engine::run_to_end(&world);
    world.wait_committed(Duration::from_secs(5));
    assert_eq!(
        world.sql("SELECT string_agg(stream_id || ' ' || chat_messages, ', ' ORDER BY 1) FROM stream_metrics_minute"),
        "round-0 10, round-2 10, round-4 10"
    );
    assert_eq!(oracle::difference(&world), "");
}

#[test]
fn a_row_that_the_database_refuses_becomes_a_dead_letter_and_the_others_are_committed() {
    let servers = shared();
    let world = World::new(&servers, "refused-rows");
    invariants::prepare(&world);
    world.sql("ALTER TABLE stream_metrics_minute ADD CHECK (stream_id <> 'stream-0003')");
    world.generate(&["--count", "3000", "--rate", "0", "--seed", "95"]);
    let log = Engine::run_to_end(&world);
    assert!(log.contains("the database refuses a row (23514"), "{log}");
    assert_eq!(
        world.sql("SELECT DISTINCT reason, part FROM tidegate.dead_letters WHERE reason LIKE 'sink-%'"),
        "sink-23514|-1"
    );
    assert!(
        world
            .sql("SELECT convert_from(payload, 'UTF8') FROM tidegate.dead_letters WHERE reason LIKE 'sink-%' LIMIT 1")
            .contains("stream-0003")
    );
    let lines = oracle::difference(&world);
    assert!(
        !lines.is_empty() && lines.lines().all(|line| line.starts_with("missing|") && line.contains("|stream-0003|")),
        "{lines}"
    );
}

#[test]
fn a_table_that_cannot_hold_the_rows_once_is_refused_before_anything_is_read() {
    let servers = shared();
    let world = World::new(&servers, "other-tables");
    world.write_query(
        "users.sql",
        "CREATE MATERIALIZED VIEW users AS SELECT user_id, count(*) AS events FROM stream_events GROUP BY user_id;",
    );
    world.generate(&["--count", "100", "--rate", "0", "--seed", "96"]);
    for (columns, why) in [
        ("user_id text, events bigint", "has no unique index on its key (\"user_id\"), NULLS NOT DISTINCT"),
        ("user_id text UNIQUE, events bigint", "has no unique index on its key"),
        ("user_id text, events bigint, UNIQUE NULLS NOT DISTINCT (user_id, events)", "has no unique index on its key"),
        (
            "user_id text, events bigint, UNIQUE NULLS NOT DISTINCT (user_id) DEFERRABLE",
            "has no unique index on its key",
        ),
        ("user_id text, events integer, UNIQUE NULLS NOT DISTINCT (user_id)", "has column events of type integer"),
        ("user_id text, UNIQUE NULLS NOT DISTINCT (user_id)", "has no column events"),
        (
            "user_id text, events bigint, note text NOT NULL, UNIQUE NULLS NOT DISTINCT (user_id)",
            "has column note, NOT NULL and without a default",
        ),
    ] {
        world.sql(&format!("DROP TABLE IF EXISTS users; CREATE TABLE users ({columns})"));
        let mut engine = world.engine().until_caught_up().start();
        assert_eq!(engine.code(Duration::from_secs(30)), Some(1), "{columns}: {}", engine.tail());
        assert!(
            engine.tail().contains("TG-SINK-SCHEMA") && engine.tail().contains(why),
            "{columns}: {}",
            engine.tail()
        );
    }
    world.sql(
        "DROP TABLE users; CREATE TABLE users (user_id text, events bigint, note text NOT NULL DEFAULT '', seen timestamptz, \
         UNIQUE NULLS NOT DISTINCT (user_id))",
    );
    Engine::run_to_end(&world);
    assert!(world.number("SELECT sum(events) FROM users") > 0);
}

#[test]
fn an_engine_ends_however_fast_the_topic_grows() {
    let servers = shared();
    let world = World::new(&servers, "steady");
    invariants::prepare(&world);
    let load = world.generating(&["--rate", "8000", "--seed", "97"]);
    let mut engine = world.engine().start();
    engine.wait_log("took over", Duration::from_secs(20));
    world.wait_progress(Duration::from_secs(20));
    engine.stop();
    let behind = world.committed();
    Engine::run_to_end(&world);
    assert!(world.committed() > behind);
    assert_eq!(world.sql("SELECT count(*) FROM tidegate.progress WHERE checkpoint_offset <> next_offset"), "0");
    drop(load);
    Engine::run_to_end(&world);
    invariants::check(&world, "two ends under load");
}

#[test]
fn tables_of_another_version_of_tidegate_are_refused() {
    let servers = shared();
    let world = World::new(&servers, "other-version");
    Engine::run_to_end(&world);
    // One that lacks a table is made into ours.
    world.sql("DROP TABLE tidegate.window_changes; COMMENT ON TABLE tidegate.pipelines IS 'version 4'");
    Engine::run_to_end(&world);
    assert_eq!(world.sql("SELECT count(*) FROM tidegate.window_changes"), "0");
    world.sql("COMMENT ON TABLE tidegate.pipelines IS 'version 99'");
    let mut engine = world.engine().start();
    assert_eq!(engine.code(Duration::from_secs(30)), Some(1), "{}", engine.tail());
    assert!(
        engine.tail().contains("TG-SCHEMA-VERSION: Tidegate's tables in this database are of version 99"),
        "{}",
        engine.tail()
    );
}

#[test]
fn a_first_start_at_the_latest_records_is_never_applied_again() {
    let servers = shared();
    let world = World::new(&servers, "latest");
    let file = world.queries().join("example.sql");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("scan.startup.mode = 'earliest'", "scan.startup.mode = 'latest'")).unwrap();
    world.generate(&["--count", "1000", "--rate", "0", "--seed", "101"]);
    Engine::run_to_end(&world);
    let read = || world.number("SELECT records_read FROM tidegate.pipelines");
    assert_eq!(read(), 0);
    world.generate(&["--count", "500", "--rate", "0", "--seed", "102"]);
    Engine::run_to_end(&world);
    assert_eq!(read(), 500);
}

/// Asks the engine's own page.
fn get(engine: &Engine<'_>, path: &str) -> String {
    let log = engine.log();
    let address = log.split("metrics at http://").nth(1).and_then(|rest| rest.split('/').next()).expect("an address");
    let mut stream = TcpStream::connect(address).expect("connects");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").expect("asks");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answers");
    answer
}

#[test]
fn the_counters_of_the_metrics_page_agree_with_the_database() {
    let servers = shared();
    let world = World::new(&servers, "metrics");
    world.generate(&["--count", "5000", "--rate", "0", "--seed", "97", "--speed", "60"]);
    let mut engine = world.engine().start();
    engine.wait_log("took over", Duration::from_secs(20));
    world.wait_committed(Duration::from_secs(20));
    let page = get(&engine, "/metrics");
    let counter =
        |name: &str| page.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<i64>().ok()).unwrap_or(-1);
    for outcome in ["read", "decoded", "rejected"] {
        let shown = counter(&format!("tidegate_records_total{{outcome=\"{outcome}\",pipeline=\"stream_events\"}}"));
        assert_eq!(
            shown,
            world.number(&format!("SELECT records_{outcome} FROM tidegate.pipelines")),
            "{outcome}\n{page}"
        );
    }
    for outcome in ["decoded", "filtered", "accepted", "late", "failed"] {
        let shown =
            counter(&format!("tidegate_view_records_total{{outcome=\"{outcome}\",view=\"stream_metrics_minute\"}}"));
        let sql = format!("SELECT {outcome} FROM tidegate.view_progress WHERE view = 'stream_metrics_minute'");
        assert_eq!(shown, world.number(&sql), "{outcome}\n{page}");
    }
    assert!(get(&engine, "/readyz").starts_with("HTTP/1.1 200"));
    engine.stop();
}
