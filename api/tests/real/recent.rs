//! Recent batches, asked about while engines write them, are killed and come again.

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::asking::{Client, api_of};
use crate::engine::{Engine, tidegate};
use crate::world::{World, repository, shared};

/// Events of which none is late and none broken.
fn generate(world: &World<'_>, arguments: &[&str]) -> Command {
    let mut command = tidegate();
    command.args(["generate", "--quiet", "--brokers", &world.servers.kafka.brokers(), "--topic", &world.topic]);
    command.arg("--events").arg(repository().join("queries/stream_events.toml")).arg("--few");
    command.args(["--late", "0", "--broken", "0"]).args(arguments);
    command
}

/// So many minutes ago, as an argument.
fn ago(minutes: i64) -> String {
    (chrono::Utc::now() - chrono::Duration::minutes(minutes)).to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
}

fn numbers(client: &Client, sql: &str) -> Vec<i64> {
    let rows = client.sql(sql).rows();
    let row = rows.first().and_then(Value::as_array).unwrap_or_else(|| panic!("{sql}: {rows:?}"));
    row.iter().map(|value| value.as_i64().unwrap_or_else(|| panic!("{sql}: {rows:?}"))).collect()
}

/// The rows of the source, those that are each of another offset, and those that a view has taken in by the same commit.
const SAME: &str = "SELECT count(*) AS rows, count(DISTINCT _offset * 4 + _partition) AS distinct,
    (SELECT decoded FROM tidegate.queries WHERE name = 'stream_state') AS decoded, (SELECT count(*) FROM stream_events) AS counted FROM stream_events";

fn check(client: &Client, when: &str) -> i64 {
    let [rows, distinct, decoded, counted] = numbers(client, SAME)[..] else { panic!("four numbers") };
    assert_eq!((rows, distinct, counted), (decoded, decoded, decoded), "{when}");
    rows
}

/// The text of a view, without what declares it.
fn text_of(view: &str) -> String {
    let example = std::fs::read_to_string(repository().join("queries/stream_metrics.sql")).unwrap();
    let (_, rest) = example.split_once(&format!("CREATE MATERIALIZED VIEW {view} AS\n")).expect(view);
    rest.split_once(';').expect("an end").0.to_string()
}

#[test]
fn the_text_of_a_view_gives_its_rows() {
    let servers = shared();
    let world = World::new(&servers, "try-it");
    world.write_query(
        "more.sql",
        "CREATE MATERIALIZED VIEW day_so_far AS SELECT window_start, window_end, count(*) AS events, sum(message_len) AS characters
         FROM CUMULATE(stream_events, ts, INTERVAL '30 seconds', INTERVAL '5 minutes') GROUP BY window_start, window_end;",
    );
    let (_api, client) = api_of(&world);
    assert_eq!(client.sql("SELECT * FROM stream_events").rows(), Vec::<Value>::new(), "before the first start");
    let past = ["--count", "30000", "--rate", "0", "--seed", "5", "--speed", "40", "--start-time", &ago(22)];
    assert!(generate(&world, &past).status().unwrap().success());
    Engine::run_to_end(&world);
    check(&client, "at the end");
    let cumulated = "SELECT window_start, window_end, count(*) AS events, sum(message_len) AS characters
        FROM TABLE(CUMULATE(TABLE stream_events, DESCRIPTOR(ts), INTERVAL '30' SECOND, INTERVAL '5' MINUTE)) GROUP BY window_start, window_end";
    for (view, text) in [
        ("stream_metrics_minute", text_of("stream_metrics_minute")),
        ("talk_5_minutes", text_of("talk_5_minutes")),
        ("day_so_far", cumulated.to_string()),
    ] {
        let closed = format!("(SELECT closed_until FROM tidegate.queries WHERE name = '{view}')");
        let sql = format!(
            "WITH asked AS ({text}), one AS (SELECT * FROM asked WHERE window_end <= {closed}), two AS (SELECT * FROM {view} WHERE window_end <= {closed})
             SELECT (SELECT count(*) FROM one) AS asked, (SELECT count(*) FROM two) AS kept,
               (SELECT count(*) FROM (SELECT * FROM one EXCEPT SELECT * FROM two)) AS more, (SELECT count(*) FROM (SELECT * FROM two EXCEPT SELECT * FROM one)) AS less"
        );
        let [asked, kept, more, less] = numbers(&client, &sql)[..] else { panic!("four numbers") };
        assert!(asked > 10 && (kept, more, less) == (asked, 0, 0), "{view}: {asked} {kept} {more} {less}");
    }
    let viewers = format!("SELECT * FROM ({}) EXCEPT SELECT * FROM stream_state", text_of("stream_state"));
    assert_eq!(client.sql(&viewers).rows(), Vec::<Value>::new());

    // What is hidden is there for who names it.
    let columns = |sql: &str| -> Vec<String> {
        let reply = client.sql(sql);
        assert_eq!(reply.status, 200, "{sql}: {}", reply.text());
        let columns = reply.json()["columns"].as_array().cloned().unwrap();
        columns.iter().map(|column| column["name"].as_str().unwrap().to_string()).collect()
    };
    let declared = columns("SELECT * FROM stream_events LIMIT 1");
    assert_eq!((declared.len(), declared[0].as_str()), (9, "event_id"));
    let named = columns("SELECT *, _offset, _ingested_at FROM stream_events ORDER BY _partition LIMIT 1");
    assert_eq!(named[..9], declared[..]);
    assert_eq!(named[9..], ["_offset", "_ingested_at"]);
    let windowed = columns("SELECT e.*, e._offset FROM TUMBLE(stream_events, ts, INTERVAL '1 minute') e LIMIT 1");
    assert_eq!(windowed[9..], ["window_start", "window_end", "window_time", "_offset"]);
    let joined =
        columns("SELECT s.viewers, e._partition FROM stream_state s JOIN stream_events e USING (stream_id) LIMIT 1");
    assert_eq!(joined, ["viewers", "_partition"]);
}

#[test]
fn files_that_cannot_hold_an_answer_are_not_read() {
    let servers = shared();
    let world = World::new(&servers, "pruned");
    let (_api, client) = api_of(&world);
    let mut engine = world.engine().start();
    for seed in ["1", "2", "3"] {
        assert!(generate(&world, &["--count", "500", "--rate", "0", "--seed", seed]).status().unwrap().success());
        world.wait_committed(Duration::from_secs(20));
    }
    let files = |condition: &str| -> (usize, usize) {
        let plan = client.sql(&format!("EXPLAIN SELECT stream_id FROM stream_events WHERE {condition}"));
        let text = plan.text();
        let (_, scan) = text.split_once("RecentScan: stream_events, ").unwrap_or_else(|| panic!("{text}"));
        let (read, rest) = scan.split_once(" of ").unwrap();
        (read.parse().unwrap(), rest.split_once(' ').unwrap().0.parse().unwrap())
    };
    let (read, all) = files("true");
    // The first has nothing but the place where the engine began.
    assert!(read + 1 == all && read >= 3, "{read} of {all}");
    assert_eq!(files("_partition = 77").0, 0);
    assert_eq!(files("_offset < 0").0, 0);
    assert_eq!(files("ts > now() + INTERVAL '1 day'").0, 0);
    assert_eq!(files("_ingested_at < TIMESTAMP '2020-01-01T00:00:00Z'").0, 0);
    assert_eq!(files("ts BETWEEN TIMESTAMP '2020-01-01' AND TIMESTAMP '2020-01-02'").0, 0);
    assert!((1..all).contains(&files("_partition = 0 AND _offset = 0").0));
    let window =
        "SELECT * FROM TUMBLE(stream_events, ts, INTERVAL '1 minute') WHERE window_start >= now() + INTERVAL '1 day'";
    assert!(client.sql(&format!("EXPLAIN {window}")).text().contains("RecentScan: stream_events, 0 of "));
    // To count rows no file is read at all.
    let plan = client.sql("EXPLAIN SELECT count(*) FROM stream_events").text();
    assert!(!plan.contains("RecentScan") && plan.contains("1500"), "{plan}");
    engine.stop();
}

#[test]
fn rows_and_results_are_of_one_commit_whatever_happens() {
    let servers = shared();
    let world = World::new(&servers, "recent");
    let (_api, client) = api_of(&world);
    let load = world.generating(&["--rate", "3000", "--seed", "21"]);
    let long = Duration::from_secs(30);
    let mut engine = world.engine().set("TIDEGATE__ENGINE__EPOCH_MS", "5").start();
    engine.wait_log("state digest=", long);
    world.wait_progress(long);
    // While files are written and merged.
    let until = Instant::now() + Duration::from_secs(6);
    let (mut seen, mut asked) = (0, 0);
    while Instant::now() < until {
        let rows = check(&client, "under load");
        assert!(rows >= seen, "{rows} after {seen}");
        (seen, asked) = (rows, asked + 1);
    }
    assert!(asked > 10 && seen > 3_000, "{asked} times, {seen} rows");
    engine.kill9();
    check(&client, "after a kill");
    for point in ["recent-written", "recent-merged", "commit-unsent", "commit-sent", "commit-acked", "takeover"] {
        let mut engine =
            world.engine().failpoint(&format!("{point}=kill@1")).set("TIDEGATE__ENGINE__EPOCH_MS", "5").start();
        assert!(engine.was_killed(long), "{point} was not reached:\n{}", engine.tail());
        check(&client, point);
    }
    // A disk that refuses: none for a while, which is told; and then again.
    let mut engine = world.engine().failpoint("recent-written=error@20").start();
    engine.wait_log("there are none until it takes them again", long);
    let refused = client.sql(SAME);
    assert_eq!(refused.refusal(), (503, "TG-RECENT-ABSENT".to_string()), "{}", refused.text());
    assert!(!refused.text().contains(world.dir.path().to_str().unwrap()), "{}", refused.text());
    assert_eq!(client.sql("SELECT count(*) FROM stream_state").status, 200, "the rest can be asked about");
    let again = Instant::now() + long;
    while client.sql("SELECT count(*) FROM stream_events").status != 200 {
        assert!(Instant::now() < again, "none are written again");
        std::thread::sleep(Duration::from_millis(200));
    }
    engine.stop();
    drop(load);
}

#[test]
fn the_tables_of_the_system_say_what_the_database_says() {
    let servers = shared();
    let world = World::new(&servers, "system");
    let (_api, client) = api_of(&world);
    for table in ["progress", "windows", "dead_letters"] {
        assert_eq!(client.sql(&format!("SELECT * FROM tidegate.{table}")).rows(), Vec::<Value>::new(), "{table}");
    }
    world.generate(&["--count", "20000", "--rate", "0", "--seed", "9", "--speed", "30", "--start-time", &ago(11)]);
    Engine::run_to_end(&world);
    let same = |asked: &str, told: &str| {
        let rows = client.sql(asked).rows();
        let told: Vec<Value> = world.sql(told).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert!(!rows.is_empty());
        assert_eq!(rows, told, "{asked}");
    };
    same(
        "SELECT source, topic, partition, start_offset, committed_offset, high_watermark, lag, idle FROM tidegate.progress ORDER BY partition",
        "SELECT json_build_array(p.pipeline, topic, part, start_offset, next_offset, next_offset, 0, idle)::jsonb::text
         FROM tidegate.progress p JOIN tidegate.pipelines USING (pipeline) ORDER BY part",
    );
    same(
        "SELECT reason, CASE WHEN view IS NULL THEN '' ELSE view END, count(*), sum(count) FROM tidegate.dead_letters GROUP BY 1, 2 ORDER BY 1, 2",
        "SELECT json_build_array(reason, view, count(*), sum(count))::jsonb::text FROM tidegate.dead_letters GROUP BY reason, view ORDER BY reason COLLATE \"C\", view COLLATE \"C\"",
    );
    same(
        "SELECT partition, \"offset\", payload_size, starts_with(payload, '{') FROM tidegate.dead_letters WHERE reason = 'malformed' AND recorded_at > now() - INTERVAL '1 hour' ORDER BY 1, 2 LIMIT 5",
        "SELECT json_build_array(part, \"offset\", payload_size, starts_with(encode(payload, 'escape'), '{'))::jsonb::text FROM tidegate.dead_letters WHERE reason = 'malformed' ORDER BY part, \"offset\" LIMIT 5",
    );
    for view in ["stream_metrics_minute", "talk_5_minutes"] {
        same(
            &format!("SELECT count(*), count(changed_at) FROM tidegate.windows WHERE view = '{view}'"),
            &format!(
                "SELECT json_build_array(count(*), count(*))::jsonb::text FROM tidegate.window_changes WHERE view = '{view}' AND window_time IN (SELECT window_start FROM {view} UNION SELECT window_end FROM {view})"
            ),
        );
        same(
            &format!(
                "SELECT window_start, window_end, closed, rows FROM tidegate.windows WHERE view = '{view}' ORDER BY 1"
            ),
            &format!(
                "SELECT json_build_array(to_char(window_start AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'), to_char(window_end AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'), \
                 window_end <= closed_until, count(*))::jsonb::text FROM {view}, tidegate.view_progress p WHERE p.view = '{view}' GROUP BY window_start, window_end, closed_until ORDER BY window_start"
            ),
        );
    }
    let queries = client.sql("SELECT name, source, sql, accepted + late + filtered = decoded FROM tidegate.queries WHERE name = 'stream_state'");
    let rows = queries.rows();
    assert_eq!(
        (&rows[0][0], &rows[0][1], &rows[0][3]),
        (&json!("stream_state"), &json!("stream_events"), &json!(true))
    );
    let text = rows[0][2].as_str().unwrap();
    assert!(text.starts_with("CREATE MATERIALIZED VIEW stream_state AS\nSELECT stream_id,\n"), "{text}");
    // What one commit has changed has its time, which is no later than that of the last.
    let late = "SELECT count(*) AS windows, sum(CASE WHEN changed_at <= (SELECT max(committed_at) FROM tidegate.progress) THEN 1 ELSE 0 END) AS before
        FROM tidegate.windows";
    let [windows, before] = numbers(&client, late)[..] else { panic!("two numbers") };
    assert!(windows > 0 && windows == before, "{windows} windows, {before} of them changed before the last commit");
    // The newest need no look at the others.
    let newest = "SELECT * FROM tidegate.dead_letters ORDER BY recorded_at DESC LIMIT 3";
    assert_eq!(client.sql(newest).rows().len(), 3);
    // They join: which windows of a view have changed since the others were closed.
    let joined = client.sql(
        "SELECT q.name, count(*) FROM tidegate.queries q JOIN tidegate.windows w ON w.view = q.name WHERE w.window_end <= q.closed_until GROUP BY q.name ORDER BY 1",
    );
    assert_eq!(joined.rows().len(), 2, "{}", joined.text());
}
