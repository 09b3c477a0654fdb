//! Two sources are two pipelines; several views share one decode.

use std::time::Duration;

use tidegate_bench::local::wait_until;

use crate::invariants;
use crate::world::{World, shared};

#[test]
fn the_stop_of_one_pipeline_names_itself_and_leaves_the_other_running() {
    let servers = shared();
    let world = World::new(&servers, "two-pipelines");
    let other = format!("{}-other", world.topic);
    servers.kafka.create_topic(&other, 1, &[]).unwrap();
    world.write_query(
        "other.sql",
        &format!(
            "CREATE SOURCE others (ts TIMESTAMP WITH TIME ZONE, stream_id VARCHAR, WATERMARK FOR ts AS ts) \
             WITH (connector = 'kafka', topic = '{other}', format = 'json', scan.startup.mode = 'earliest'); \
             CREATE MATERIALIZED VIEW other_minutes AS SELECT window_start, count(*) AS n FROM TUMBLE(others, ts, INTERVAL '1 minute') GROUP BY window_start;"
        ),
    );
    invariants::prepare(&world);
    servers.kafka.delete_topic(&other).unwrap();
    servers.kafka.create_topic(&other, 1, &[]).unwrap();
    let load = world.generating(&["--rate", "2000", "--seed", "71"]);
    let mut engine = world.engine().start();
    engine.wait_log("TG-TOPIC-RECREATED", Duration::from_secs(20));
    assert!(
        engine.log().lines().any(|line| line.contains("stopped: TG-TOPIC-RECREATED: pipeline others")),
        "{}",
        engine.tail()
    );
    world.wait_progress(Duration::from_secs(20));
    world.wait_progress(Duration::from_secs(20));
    drop(load);
    world.wait_committed(Duration::from_secs(20));
    engine.signal(libc::SIGTERM);
    assert_eq!(engine.code(Duration::from_secs(20)), Some(1), "a stopped pipeline is told by the exit code");
    invariants::check(&world, "beside a stopped pipeline");
}

#[test]
fn views_on_one_source_share_it_and_a_view_added_later_begins_with_whole_windows() {
    let servers = shared();
    let world = World::new(&servers, "views");
    world.write_query(
        "more.sql",
        "CREATE MATERIALIZED VIEW busy_streams AS SELECT window_start, stream_id, count(*) AS events FROM TABLE(TUMBLE(TABLE stream_events, DESCRIPTOR(ts), INTERVAL '1' MINUTE)) \
         WHERE event_type <> 'stream_start' GROUP BY window_start, stream_id HAVING count(*) > 40; \
         CREATE MATERIALIZED VIEW by_type AS SELECT date_bin(INTERVAL '1 minute', ts) AS minute, event_type, count(*) AS n, sum(coalesce(amount_usd, amount)) AS usd, max(message_len) AS longest FROM stream_events GROUP BY 1, 2; \
         CREATE MATERIALIZED VIEW hours AS SELECT date_trunc('hour', ts) AS hour, avg(message_len) AS mean_len FROM stream_events GROUP BY 1;",
    );
    invariants::prepare(&world);
    world.generate(&[
        "--count",
        "20000",
        "--rate",
        "0",
        "--speed",
        "20",
        "--start-time",
        "2026-11-24T06:00:00Z",
        "--seed",
        "81",
    ]);
    let mut engine = world.engine().start();
    world.wait_committed(Duration::from_secs(30));
    engine.kill9();
    invariants::check(&world, "with four views");
    let expected = |select: &str| {
        world.sql(&format!(
            "WITH accepted AS (SELECT j.*, d.ts, (convert_from(r.payload, 'UTF8')::jsonb->>'message_len')::int AS len FROM oracle.judged j JOIN oracle.raw r USING (part, off), oracle.decode(r.payload) d WHERE j.reason IS NULL) {select}"
        ))
    };
    let same = |view: &str, expected: String| {
        assert_eq!(world.sql(&format!("SELECT * FROM {view} ORDER BY 1, 2")), expected, "{view}")
    };
    same(
        "busy_streams",
        expected(
            "SELECT w, stream_id, count(*) FROM accepted WHERE event_type <> 'stream_start' GROUP BY 1, 2 HAVING count(*) > 40 ORDER BY 1, 2",
        ),
    );
    same(
        "by_type",
        expected("SELECT w, event_type, count(*), sum(amount), max(len) FROM accepted GROUP BY 1, 2 ORDER BY 1, 2"),
    );
    // A view that is added now must not publish windows of which it has not seen the beginning.
    world.write_query("added.sql", "CREATE MATERIALIZED VIEW added AS SELECT window_start, count(*) AS n FROM TUMBLE(stream_events, ts, INTERVAL '1 minute') GROUP BY window_start;");
    world.generate(&[
        "--count",
        "20000",
        "--rate",
        "0",
        "--speed",
        "20",
        "--start-time",
        "2026-11-24T06:06:35Z",
        "--seed",
        "82",
    ]);
    crate::engine::Engine::run_to_end(&world);
    let first = world
        .sql("SELECT min(window_start) > (SELECT floor FROM tidegate.view_progress WHERE view = 'added') FROM added");
    assert_eq!(first, "t");
    let whole = "SELECT a.window_start, a.n, b.n FROM added a JOIN (SELECT minute, sum(n) AS n FROM by_type GROUP BY 1) b ON b.minute = a.window_start WHERE a.n <> b.n";
    assert_eq!(world.sql(whole), "");
    // A changed view is refused by name.
    world.write_query("added.sql", "CREATE MATERIALIZED VIEW added AS SELECT window_start, count(*) + 1 AS n FROM TUMBLE(stream_events, ts, INTERVAL '1 minute') GROUP BY window_start;");
    let mut engine = world.engine().start();
    assert!(
        wait_until(Duration::from_secs(20), || engine.log().contains("TG-QUERY-CHANGED: view added")),
        "{}",
        engine.tail()
    );
    assert_eq!(engine.code(Duration::from_secs(10)), Some(1));
}
