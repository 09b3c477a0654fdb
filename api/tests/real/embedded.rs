//! What runs without a database server: SQLite under kills, `tidegate run`, the demo.

use std::path::Path;
use std::time::Duration;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tidegate_bench::local::process::Process;
use tidegate_bench::local::{free_port, wait_until};
use tidegate_engine::engine::catalog;
use tidegate_engine::failpoint::POINTS;
use tidegate_engine::show;
use tidegate_engine::store::Store;
use tidegate_engine::store::sqlite::SqliteStore;
use tidegate_engine::store::status::PipelineStatus;

use crate::asking::{api, children, get};
use crate::engine::{Engine, tidegate};
use crate::world::{World, repository, shared};

/// The tables of every view, and where every record went.
fn everything(world: &World<'_>, file: &Path) -> (Vec<Vec<Vec<String>>>, Vec<String>) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let store = SqliteStore::new(file);
    let views = catalog(&world.queries()).unwrap().views;
    let rows = |table| show::table(&runtime.block_on(store.rows(table, None)).unwrap()).unwrap().1;
    let tables = views.iter().map(|view| rows(&view.table)).collect();
    let status = runtime.block_on(store.status()).unwrap();
    let source = |p: &PipelineStatus| format!("{} {} {} {}", p.pipeline, p.read, p.decoded, p.rejected);
    let mut told: Vec<String> = status.pipelines.iter().map(source).collect();
    told.extend(status.partitions.iter().map(|p| format!("{} {} {}", p.partition, p.next_offset, p.watermark)));
    told.extend(status.views.iter().map(|v| format!("{} {:?}", v.view, v.counts)));
    for view in &status.views {
        let c = &view.counts;
        assert_eq!(c.decoded, c.filtered + c.accepted + c.late + c.failed, "{}", view.view);
    }
    let letters = runtime.block_on(store.dead_letters(1_000_000)).unwrap();
    let rejected: i64 = letters.iter().map(|letter| letter.count).sum();
    let expected: i64 = status.pipelines.iter().map(|p| p.rejected).sum::<i64>()
        + status.views.iter().map(|v| v.counts.late + v.counts.failed).sum::<i64>();
    assert_eq!(rejected, expected, "dead letters");
    (tables, told)
}

fn engine<'a>(world: &'a World<'_>, file: &Path) -> Engine<'a> {
    Engine::new(world, &format!("sqlite:{}", file.display()))
}

#[test]
fn kills_change_no_answer_on_sqlite() {
    let servers = shared();
    let world = World::new(&servers, "sqlite-kills");
    world.write_query(
        "more.sql",
        "CREATE MATERIALIZED VIEW hops AS SELECT window_start, stream_id, count(*) AS events, count(DISTINCT user_id) AS users \
         FROM HOP(stream_events, ts, INTERVAL '1 second', INTERVAL '3 seconds') GROUP BY window_start, stream_id;
         CREATE MATERIALIZED VIEW closed AS SELECT window_start, median(message_len) AS middle, sum(donation) AS usd \
         FROM TUMBLE(stream_events, ts, INTERVAL '2 seconds') GROUP BY window_start EMIT ON WINDOW CLOSE;
         CREATE MATERIALIZED VIEW running AS SELECT stream_id, event_type, count(*) AS events, sum(donation) AS usd, count(DISTINCT user_id) AS users \
         FROM stream_events GROUP BY stream_id, event_type HAVING count(*) % 2 = 0;
         CREATE MATERIALIZED VIEW donations AS SELECT stream_id, amount_usd FROM stream_events WHERE event_type = 'donation';",
    );
    let file = world.dir.path().join("killed.db");
    let kills: u64 = std::env::var("TIDEGATE_TEST_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(25);
    let mut rng = ChaCha8Rng::seed_from_u64(kills);
    let load = world.generating(&["--rate", "1500", "--seed", "77"]);
    let mut reached = 0;
    // Those of the archive are in archive.rs.
    let elsewhere = |point: &str| point.starts_with("archive-");
    let rare = ["shutdown", "replay-mid", "checkpoint-merged"];
    for point in POINTS.iter().filter(|point| !rare.contains(point) && !elsewhere(point)) {
        let mut engine = engine(&world, &file).failpoint(&format!("{point}=kill@1")).start();
        assert!(engine.was_killed(Duration::from_secs(30)), "{point} was not reached:\n{}", engine.tail());
        reached += 1;
    }
    for _ in 0..kills {
        let mut engine = engine(&world, &file).start();
        std::thread::sleep(Duration::from_millis(rng.random_range(10..1000)));
        engine.kill9();
    }
    drop(load);
    let run_to_end = |file: &Path| {
        let mut engine = engine(&world, file).until_caught_up().start();
        assert_eq!(engine.code(Duration::from_secs(120)), Some(0), "no end:\n{}", engine.tail());
    };
    run_to_end(&file);
    let undisturbed = world.dir.path().join("undisturbed.db");
    run_to_end(&undisturbed);
    let (tables, told) = everything(&world, &file);
    let (expected, expected_told) = everything(&world, &undisturbed);
    assert_eq!(told, expected_told);
    for (index, (table, expected)) in tables.iter().zip(&expected).enumerate() {
        assert!(!expected.is_empty(), "table {index} is empty");
        assert_eq!(table, expected, "table {index}");
    }
    println!("{reached} points and {kills} random kills on SQLite, no difference");
}

#[test]
fn run_says_where_results_go_and_keeps_an_api_that_ends_with_it() {
    let servers = shared();
    let world = World::new(&servers, "run");
    let listen = format!("127.0.0.1:{}", free_port().unwrap());
    let log = world.dir.path().join("run.log");
    let start = || {
        let mut command = tidegate();
        command.args(["run", "--listen", &listen, "--queries"]).arg(world.queries()).current_dir(world.dir.path());
        command.env("KAFKA_BROKERS", servers.kafka.brokers()).env("TIDEGATE__ENGINE__LISTEN", "127.0.0.1:0");
        command.env_remove("DATABASE_URL");
        Process::spawn("run", &mut command, &log, None).unwrap()
    };
    let (long, rows) = (Duration::from_secs(30), "/api/v1/queries/stream_metrics_minute/rows?limit=3");
    let mut run = start();
    assert!(wait_until(long, || get(&listen, "/readyz").0 == 200), "{}", std::fs::read_to_string(&log).unwrap());
    world.generate(&["--count", "2000", "--rate", "0", "--seed", "71"]);
    assert!(wait_until(long, || get(&listen, rows).1.starts_with("{\"row_count\":3")), "{:?}", get(&listen, rows));
    assert!(world.dir.path().join("tidegate.db").exists());
    assert!(std::fs::read_to_string(&log).unwrap().contains("results go to SQLite, in tidegate.db of this directory"));

    // An api that is killed comes again.
    let api = children(run.pid());
    assert_eq!(api.len(), 1, "{api:?}");
    kill9(api[0]);
    let again = || get(&listen, "/health").0 == 200 && children(run.pid()) != api;
    assert!(wait_until(long, again), "{}", std::fs::read_to_string(&log).unwrap());

    // One whose parent is killed ends, and frees its port for the next.
    kill9(run.pid());
    assert!(run.wait(long).is_some());
    assert!(wait_until(long, || get(&listen, "/health").0 == 0), "the api has outlived its parent");
    let mut run = start();
    assert!(wait_until(long, || get(&listen, rows).0 == 200), "{}", std::fs::read_to_string(&log).unwrap());
    run.signal(libc::SIGTERM);
    assert!(run.wait(long).is_some_and(|status| status.success()), "{}", std::fs::read_to_string(&log).unwrap());
}

fn kill9(pid: i32) {
    assert!(std::process::Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
}

#[test]
fn the_demo_accounts_for_every_record_and_its_curls_work() {
    let port = free_port().unwrap();
    let listen = format!("127.0.0.1:{port}");
    let queries = repository().join("queries");
    let mut command = tidegate();
    command.args(["demo", "--duration", "30", "--history", "2", "--listen", &listen, "--queries"]).arg(queries);
    let demo = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let get = |path: &str| get(&listen, path);
    let patience = Duration::from_secs(25);
    assert!(wait_until(patience, || get("/readyz").0 == 200), "not ready: {:?}", get("/readyz"));
    assert!(
        wait_until(patience, || get("/api/v1/dead-letters?limit=3").1.contains("\"reason\"")),
        "no dead letters: {:?}",
        get("/api/v1/dead-letters?limit=3")
    );
    assert_eq!(get("/health"), (200, "{\"ok\":true}".to_string()));
    let (status, text) = get("/api/v1/queries/stream_metrics_minute/rows?limit=5");
    assert!(status == 200 && text.starts_with("{\"row_count\":5,\"rows\":[{\"window_start\""), "{text}");
    assert!(get("/api/v1/queries").1.contains("\"closed_until\""));
    let (status, text) = get("/api/v1/queries/nothing/rows");
    assert!(status == 404 && text.contains("there are: stream_metrics_minute"), "{text}");
    for wrong in
        ["limit=abc", "limit=0", "limit=-1", "limit=1e9", "limit=99999999999999999999", "limit=10001", "colour=red"]
    {
        let (status, text) = get(&format!("/api/v1/dead-letters?{wrong}"));
        assert!(
            status == 400 && text.contains("TG-API-PARAMETER") && text.contains("write ?limit=N"),
            "{wrong}: {text}"
        );
    }
    for path in ["/metrics?minutes=5&limit=3", "/metrics/latest"] {
        let (status, text) = get(path);
        let begins = "{\"latest_window_start\":\"20";
        assert!(status == 200 && text.starts_with(begins) && text.contains("\"active_viewers\":"), "{path}: {text}");
    }
    for by in ["chat_messages", "donations", "donations_usd", "joins", "leaves", "chatters", "active_viewers"] {
        let (status, text) = get(&format!("/streams/top?minutes=60&by={by}&n=2"));
        let rows: serde_json::Value = serde_json::from_str(&text).unwrap();
        let level = |row: usize| rows["rows"][row][by].as_f64().unwrap();
        assert!(status == 200 && level(0) >= level(1), "{by}: {text}");
    }
    let client = crate::asking::Client::new(&listen);
    let csv = client.get("/streams/top?n=2", &[("Accept", "text/csv")]);
    assert_eq!((csv.status, csv.header("content-type"), csv.header("vary")), (200, "text/csv", "accept"));
    assert!(csv.text().starts_with("stream_id,chat_messages,") && csv.text().lines().count() == 3, "{}", csv.text());
    let lines = client.get("/streams/top?n=2", &[("Accept", "application/x-ndjson")]).text();
    assert!(lines.lines().all(|line| line.starts_with("{\"stream_id\":")) && lines.lines().count() == 2, "{lines}");
    let (status, text) = get("/streams/top?by=colour");
    assert!(status == 400 && text.contains("by=colour is not one of chat_messages, donations"), "{text}");
    let asked = get("/api/v1/sql?sql=SELECT%20count(*)%20AS%20n%20FROM%20stream_events").1;
    let asked: serde_json::Value = serde_json::from_str(&asked).unwrap();
    assert!(asked["rows"][0][0].as_i64().is_some_and(|rows| rows > 1_000), "{asked}");
    let metrics = get("/prometheus").1;
    for line in [
        "tidegate_api_request_seconds_count",
        "api_db_ok 1",
        "\napi_stream_metrics_rows_recent ",
        "\napi_latest_window_age_seconds ",
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
    let output = demo.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("demo: every record is accounted for"), "{text}");
}

#[test]
fn an_api_without_its_database_says_so() {
    let _servers = shared();
    let url = format!("postgres://nobody@127.0.0.1:{}/nothing", free_port().unwrap());
    let (_api, listen) = api(&url, &std::fs::read_to_string(repository().join("queries/rest.sql")).unwrap());
    assert!(wait_until(Duration::from_secs(20), || get(&listen, "/health").0 == 503), "{:?}", get(&listen, "/health"));
    let (status, metrics) = get(&listen, "/prometheus");
    assert!(status == 200 && metrics.contains("\napi_db_ok 0\n") && !metrics.contains("rows_recent"), "{metrics}");
    let (status, text) = get(&listen, "/metrics/latest");
    assert!(status == 503 && text.contains("TG-DATABASE-UNREACHABLE"), "{text}");
}

#[test]
fn a_database_that_hangs_is_told_before_prometheus_gives_up() {
    let _servers = shared();
    let hanging = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("postgres://nobody@{}/nothing", hanging.local_addr().unwrap());
    let (_api, listen) = api(&url, &std::fs::read_to_string(repository().join("queries/rest.sql")).unwrap());
    let asked = std::time::Instant::now();
    let (status, metrics) = get(&listen, "/prometheus");
    assert!(status == 200 && metrics.contains("api_db_ok 0"), "{metrics}");
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
    let (status, text) = get(&listen, "/metrics/latest");
    assert!(status == 503 && text.contains("TG-DATABASE-UNREACHABLE"), "{text}");
}

#[test]
fn a_query_without_end_takes_neither_the_api_nor_the_other_metrics_with_it() {
    let _servers = shared();
    let endless = "FROM generate_series(1, 1000000) a JOIN generate_series(1, 1000000) b ON a.value * 3 < b.value";
    let file = std::env::temp_dir().join(format!("tidegate-endless-{}.db", std::process::id()));
    let (_api, listen) = api(
        &format!("sqlite:{}", file.display()),
        &format!(
            "CREATE ENDPOINT '/endless' AS SELECT count(*) AS n {endless}; CREATE ENDPOINT '/one' AS SELECT 1 AS one;
             CREATE ENDPOINT '/many' AS SELECT value FROM generate_series(1, 20000);
             CREATE GAUGE wrong AS SELECT count(*) / (count(*) - count(*)) FROM generate_series(1, 3); CREATE GAUGE one HELP 'One.' AS SELECT 1;"
        ),
    );
    let (status, text) = get(&listen, "/many");
    assert!(status == 500 && text.contains("TG-ENDPOINT-ROWS") && text.contains("endpoint /many"), "{text}");
    let (status, text) = get(&listen, "/endless");
    assert!(status == 504 && text.contains("TG-API-TIMEOUT"), "{text}");
    // One thread of the answers computes on; the other answers.
    assert_eq!(get(&listen, "/one"), (200, "{\"rows\":[{\"one\":1}]}".to_string()));
    assert_eq!(get(&listen, "/health").0, 200);
    let (status, metrics) = get(&listen, "/prometheus");
    let is_there = |line: &str| metrics.lines().any(|other| other == line);
    assert!(status == 200 && is_there("one 1") && is_there("api_db_ok 1") && !metrics.contains("wrong"), "{metrics}");
}

#[test]
fn smoke_passes_on_what_it_starts_and_fails_on_a_topic_that_nobody_reads() {
    let servers = shared();
    let world = World::new(&servers, "smoke");
    let smoke = |topic: &str, arguments: &[&str]| {
        let mut command = tidegate();
        command.arg("smoke").args(arguments).args(["--topic", topic, "--queries"]).arg(world.queries());
        command.arg("--events").arg(repository().join("queries/stream_events.toml"));
        command.env("KAFKA_BROKERS", servers.kafka.brokers()).env("DATABASE_URL", world.url());
        // Its recent batches go with the world.
        let output = command.current_dir(world.dir.path()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        (output.status.success(), text)
    };
    let rest = std::fs::read_to_string(repository().join("queries/rest.sql")).unwrap();
    world.write_query("rest.sql", &rest);
    let (passed, text) = smoke(&world.topic, &["--start", "--duration", "2", "--rate", "1000"]);
    assert!(passed && text.ends_with("smoke: 7 ok, 0 failed, 0 not in this stack\n"), "{text}");
    for line in ["arrived in its window", "GET /streams/top: ", "gauge api_db_ok: 1", "view talk_5_minutes: decoded "] {
        assert!(text.contains(line), "{line}: {text}");
    }
    let (passed, text) = smoke("nobodys", &[]);
    assert!(!passed && text.contains("smoke: FAILED: no source of ") && text.contains("reads topic nobodys"), "{text}");
}

#[test]
fn views_are_listed_and_dropped_in_a_database_that_a_file_names() {
    let servers = shared();
    let world = World::new(&servers, "named-by-a-file");
    let secret = world.dir.path().join("url");
    let database = world.dir.path().join("views.db");
    for url in [world.url(), format!("sqlite:{}", database.display())] {
        std::fs::write(&secret, format!("{url}\n")).unwrap();
        let view = |arguments: &[&str]| {
            let mut command = tidegate();
            command.arg("view").args(arguments).env("DATABASE_URL_FILE", &secret).env_remove("DATABASE_URL");
            let output = command.output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
            (output.status.success(), text)
        };
        let queries = world.queries().display().to_string();
        let list = ["list", "--queries", &queries];
        let (listed, text) = view(&list);
        assert!(listed && text.lines().count() == 1, "before the first start: {text}");
        let mut engine = Engine::new(&world, &url).until_caught_up().start();
        assert_eq!(engine.code(Duration::from_secs(60)), Some(0), "{}", engine.tail());
        let (_, text) = view(&list);
        assert!(text.contains("stream_metrics_minute") && text.contains("declared"), "{text}");
        let (dropped, text) = view(&["drop", "stream_metrics_minute"]);
        assert!(dropped && text.contains("is gone"), "{text}");
        let (dropped, text) = view(&["drop", "stream_metrics_minute"]);
        assert!(!dropped && text.contains("TG-VIEW: there is no view stream_metrics_minute"), "{text}");
    }
}
