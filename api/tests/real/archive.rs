//! The archive: whatever happens, each row is in it once, and one table is over it and what is recent.

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tidegate_bench::local::process::Process;
use tidegate_bench::local::{free_port, wait_until};

use crate::asking::{Client, api_with_environment};
use crate::engine::Engine;
use crate::world::{World, shared};

/// Python with DuckDB, which `.ci/setup` installs.
fn python() -> Option<std::path::PathBuf> {
    let cache = std::env::var_os("TIDEGATE_CACHE_DIR")?;
    let python = std::path::Path::new(&cache).join("python/bin/python");
    python.exists().then_some(python)
}

/// What DuckDB answers, over all files of the folder.
fn duckdb(world: &World<'_>, select: &str) -> Vec<Value> {
    let python = python().expect("make setup installs Python with DuckDB");
    let files = world.dir.path().join("archive/stream_events/**/*.parquet");
    let program = format!(
        "import duckdb, json\nduckdb.sql(\"SET TimeZone = 'UTC'\")\nprint(json.dumps(duckdb.sql(\"\"\"{}\"\"\").fetchone(), default=str))",
        select.replace("archive", &format!("read_parquet('{}', hive_partitioning = true)", files.display()))
    );
    let told = Command::new(python).args(["-c", &program]).output().expect("python runs");
    assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
    serde_json::from_slice(&told.stdout).expect("JSON")
}

/// A world whose source is archived.
fn world<'a>(servers: &'a crate::world::Servers, name: &str) -> World<'a> {
    let world = World::new(servers, name);
    let example = std::fs::read_to_string(world.queries().join("example.sql")).unwrap();
    world.write_query("example.sql", &example.replace("format = 'json',", "format = 'json', archive = 'parquet',"));
    world
}

/// Where owners of an archive are killed.
const KILLS: [&str; 5] = ["archive-begun", "archive-written", "archive-ended", "recent-written", "commit-sent"];

/// What fails of its runs, each once.
const FAILURES: &str = "archive-begun=error@2;archive-written=error@3;archive-ended=error@4";

fn engine<'a>(world: &'a World<'a>, url: &str) -> Engine<'a> {
    let archive = world.dir.path().join("archive");
    let engine = Engine::new(world, url).set("TIDEGATE__ARCHIVE__URL", archive.to_str().unwrap());
    // Hardly anything is recent for long, so that questions read the archive.
    let engine = engine.set("TIDEGATE__RECENT__KEEP_MS", "1000");
    engine.set("TIDEGATE__ARCHIVE__EVERY_MS", "300").set("TIDEGATE__ENGINE__EPOCH_MS", "5")
}

/// Waits until everything that is committed is archived.
fn wait_archived(world: &World<'_>) {
    let behind = "SELECT count(*) FROM tidegate.progress WHERE archived_offset IS DISTINCT FROM next_offset";
    let done = wait_until(Duration::from_secs(30), || world.try_sql(behind).is_ok_and(|count| count == "0"));
    assert!(done, "{} partitions are not archived", world.sql(behind));
}

/// The rows of the source as one table, beside what the engine has decoded.
fn check(client: &Client, when: &str) {
    let sql = "SELECT count(*) AS rows, count(DISTINCT _offset * 4 + _partition) AS distinct,
        (SELECT decoded FROM tidegate.queries WHERE name = 'stream_state') AS decoded FROM stream_events";
    let rows = client.sql(sql).rows();
    let [rows, distinct, decoded] = &rows[0].as_array().unwrap()[..] else { panic!("{rows:?}") };
    assert!(rows == distinct && rows == decoded, "{when}: {rows} rows, {distinct} distinct, {decoded} decoded");
}

#[test]
fn each_row_is_archived_once_whatever_happens() {
    let servers = shared();
    let world = world(&servers, "archive");
    let archive = world.dir.path().join("archive");
    let variables = [("TIDEGATE__ARCHIVE__URL", archive.to_str().unwrap())];
    let (_api, client) = api_with_environment(&world, &variables);
    let long = Duration::from_secs(30);
    let load = world.generating(&["--rate", "2000", "--seed", "31"]);
    for point in KILLS {
        let mut engine = engine(&world, &world.url()).failpoint(&format!("{point}=kill@2")).start();
        assert!(engine.was_killed(long), "{point} was not reached:\n{}", engine.tail());
        check(&client, point);
    }
    // A merge that fails, of batches that wait for the archive.
    let mut merging = engine(&world, &world.url()).failpoint("recent-merged=error@1");
    merging = merging.set("TIDEGATE__ARCHIVE__EVERY_MS", "600000").set("TIDEGATE__RECENT__KEEP_MS", "900000").start();
    merging.wait_log("recent-merged was told to fail", long);
    world.wait_progress(long);
    check(&client, "after a merge that failed");
    merging.stop();
    // A run that fails is tried again; one whose end has no answer may have ended.
    let mut failing = engine(&world, &world.url()).failpoint(FAILURES).start();
    for point in ["archive-begun", "archive-written", "archive-ended"] {
        failing.wait_log(&format!("{point} was told to fail"), long);
    }
    world.wait_progress(long);
    check(&client, "after runs that failed");
    // So is one whose store is away for a while.
    let away = world.dir.path().join("away");
    std::fs::rename(&archive, &away).unwrap();
    std::fs::write(&archive, "").unwrap();
    failing.wait_log("a file of the archive could not be written", long);
    world.wait_progress(long);
    // Nor does it stop a recovery.
    world.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'tidegate commit'");
    failing.wait_log("trying again", long);
    world.wait_progress(long);
    std::fs::remove_file(&archive).unwrap();
    std::fs::rename(&away, &archive).unwrap();
    world.wait_progress(long);
    check(&client, "after the store was away");
    // An owner that stands still while it archives, and another that takes over meanwhile.
    failing.stop();
    let mut still = engine(&world, &world.url()).failpoint("archive-written=sleep(8000)@2").start();
    still.wait_log("failpoint archive-written hit", long);
    still.signal(libc::SIGSTOP);
    let mut other = engine(&world, &world.url()).start();
    other.wait_log("archived commits", long);
    check(&client, "after another has taken over");
    still.signal(libc::SIGCONT);
    still.wait_log("TG-FENCED", long);
    still.stop();
    world.wait_progress(long);
    check(&client, "after the first one woke");
    other.stop();
    // The same, and the first one wakes when the other has written a file that is not yet said to be whole.
    let mut still = engine(&world, &world.url()).failpoint("archive-look=sleep(3000)@1").start();
    still.wait_log("failpoint archive-look hit", long);
    still.signal(libc::SIGSTOP);
    let mut other = engine(&world, &world.url()).failpoint("archive-written=sleep(5000)@1").start();
    other.wait_log("failpoint archive-written hit", long);
    still.signal(libc::SIGCONT);
    other.wait_log("archived commits", long);
    still.stop();
    world.wait_progress(long);
    check(&client, "after the first one has looked");
    other.stop();
    // Another machine, or this one after it was started anew: what was recent is read from Kafka.
    std::fs::remove_dir_all(world.recent()).unwrap();
    let mut running = engine(&world, &world.url()).start();
    running.wait_log("offsets once more for the archive", long);
    running.wait_log("state digest=", long);
    world.wait_progress(long);
    check(&client, "after the recent batches were lost");
    // A disk that refuses stops the source, and loses nothing.
    running.stop();
    let mut refused = engine(&world, &world.url()).failpoint("recent-written=error@20").start();
    refused.wait_log("recent-written was told to fail", long);
    world.wait_progress(long);
    check(&client, "after a disk that refused");
    drop(load);
    world.wait_committed(long);
    wait_archived(&world);
    check(&client, "at the end");
    let decoded = world.number("SELECT records_decoded FROM tidegate.pipelines");
    let told = duckdb(
        &world,
        "SELECT count(*), count(DISTINCT (_partition, _offset)), count(donation), sum(donation), min(ts) < max(ts), count(DISTINCT hour) >= 1 FROM archive",
    );
    let [rows, distinct, donations, sum, ..] = &told[..] else { panic!("{told:?}") };
    assert_eq!((rows, distinct), (&json!(decoded), &json!(decoded)));
    assert_eq!(world.number("SELECT sum(rows) FROM tidegate.archive WHERE whole"), decoded);
    // What was begun and not ended stays named for a while, and is not there.
    let begun = world.sql("SELECT path FROM tidegate.archive WHERE NOT whole");
    assert!(begun.lines().count() >= 2, "{begun}");
    assert!(begun.lines().all(|path| !archive.join(path).exists()), "{begun}");
    // The same in the one table.
    refused.stop();
    let asked: Vec<Value> =
        client.sql("SELECT count(donation) AS n, CAST(sum(donation) AS VARCHAR) AS usd FROM stream_events").rows();
    assert_eq!((&asked[0][0], asked[0][1].as_str()), (donations, sum.as_str()), "{told:?}");
}

#[test]
fn each_row_is_archived_once_with_sqlite_as_well() {
    let servers = shared();
    let world = world(&servers, "archive-sqlite");
    let (long, database) = (Duration::from_secs(30), world.dir.path().join("results.db"));
    let (url, archive) = (format!("sqlite:{}", database.display()), world.dir.path().join("archive"));
    let load = world.generating(&["--rate", "2000", "--seed", "33"]);
    for point in KILLS.iter().filter(|point| *point != &"commit-sent") {
        let mut engine = engine(&world, &url).failpoint(&format!("{point}=kill@2")).start();
        assert!(engine.was_killed(long), "{point} was not reached:\n{}", engine.tail());
    }
    let mut failing = engine(&world, &url).failpoint(FAILURES).start();
    failing.wait_log("archive-ended was told to fail", long);
    drop(load);
    let (_api, client) =
        api_with_environment(&world, &[("TIDEGATE__ARCHIVE__URL", archive.to_str().unwrap()), ("DATABASE_URL", &url)]);
    let all: i64 = world.servers.kafka.end_offsets(&world.topic).unwrap().iter().sum();
    let committed =
        || client.sql("SELECT CAST(sum(committed_offset) AS BIGINT) FROM tidegate.progress").rows()[0][0].as_i64();
    assert!(wait_until(long, || committed() == Some(all)), "{:?} of {all}", committed());
    check(&client, "with SQLite");
    let decoded = client.sql("SELECT decoded FROM tidegate.queries WHERE name = 'stream_state'").rows()[0][0].clone();
    let mut told = Vec::new();
    let archived = wait_until(long, || {
        told = duckdb(&world, "SELECT count(*), count(DISTINCT (_partition, _offset)) FROM archive");
        told[0] == decoded
    });
    assert!(archived && told[1] == decoded, "{told:?} of {decoded}");
    failing.stop();
}

#[test]
fn one_table_is_over_the_archive_and_what_is_recent() {
    let servers = shared();
    let world = world(&servers, "one-table");
    let archive = world.dir.path().join("archive");
    let variables = [("TIDEGATE__ARCHIVE__URL", archive.to_str().unwrap())];
    let (_api, client) = api_with_environment(&world, &variables);
    let past = (chrono::Utc::now() - chrono::Duration::hours(5)).to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
    world.generate(&["--count", "20000", "--rate", "0", "--seed", "4", "--speed", "720", "--start-time", &past]);
    let mut running = engine(&world, &world.url()).start();
    world.wait_committed(Duration::from_secs(30));
    wait_archived(&world);
    let until = Instant::now() + Duration::from_secs(20);
    let plan =
        |condition: &str| client.sql(&format!("EXPLAIN SELECT stream_id FROM stream_events WHERE {condition}")).text();
    while !plan("true").contains("DataSourceExec") {
        assert!(Instant::now() < until, "nothing is read from the archive: {}", plan("true"));
        world.generate(&["--count", "10", "--rate", "0", "--seed", "5"]);
        std::thread::sleep(Duration::from_millis(300));
    }
    world.wait_committed(Duration::from_secs(30));
    wait_archived(&world);
    check(&client, "with an archive");
    // Files of other hours are not read.
    assert!(plan("ts < now() - INTERVAL '4 hours'").contains("hour="));
    assert!(!plan("ts < now() - INTERVAL '40 hours'").contains("hour="));
    let same = |sql: &str| {
        let rows = client.sql(sql).rows();
        assert!(!rows.is_empty(), "{sql}");
        rows
    };
    let time = (chrono::Utc::now() - chrono::Duration::hours(4)).format("%Y-%m-%d %H:%M:%S").to_string();
    let counted = same(&format!("SELECT count(*) AS n FROM stream_events WHERE ts < TIMESTAMP '{time}+00:00'"));
    let oracle = duckdb(&world, &format!("SELECT count(*) FROM archive WHERE ts < TIMESTAMPTZ '{time}+00:00'"));
    assert!(counted[0][0] == oracle[0] && oracle[0].as_i64().unwrap() > 100, "{counted:?} {oracle:?}");
    let window = same(
        "SELECT window_start, count(*) AS n FROM TUMBLE(stream_events, ts, INTERVAL '1 hour') WHERE stream_id LIKE 'stream%' GROUP BY 1 ORDER BY 1",
    );
    assert!(window.len() >= 5, "{window:?}");
    running.stop();
}

#[test]
fn a_store_that_speaks_s3_holds_it_as_well() {
    let servers = shared();
    let world = world(&servers, "s3");
    let (long, port) = (Duration::from_secs(30), free_port().unwrap());
    let mut moto = Command::new(python().expect("make setup installs Python with moto"));
    moto.args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &port.to_string()]);
    let _moto = Process::spawn("moto", &mut moto, &world.dir.path().join("moto.log"), None).unwrap();
    let store = format!("http://127.0.0.1:{port}");
    let made = || ureq::put(format!("{store}/rows")).send_empty().is_ok();
    assert!(wait_until(long, made), "{}", std::fs::read_to_string(world.dir.path().join("moto.log")).unwrap());
    let variables = [
        ("TIDEGATE__ARCHIVE__URL", "s3://rows/of/us"),
        ("TIDEGATE__ARCHIVE__OPTIONS__AWS_ENDPOINT", store.as_str()),
        ("AWS_ALLOW_HTTP", "true"),
        ("AWS_REGION", "us-east-1"),
        ("AWS_ACCESS_KEY_ID", "somebody"),
        ("AWS_SECRET_ACCESS_KEY", "canary-secret"),
    ];
    let (_api, client) = api_with_environment(&world, &variables);
    world.generate(&["--count", "5000", "--rate", "0", "--seed", "6"]);
    let archiving =
        || variables.iter().fold(engine(&world, &world.url()), |engine, (name, value)| engine.set(name, value));
    let mut killed = archiving().failpoint("archive-written=kill@1").start();
    assert!(killed.was_killed(long), "{}", killed.tail());
    let mut running = archiving().start();
    world.wait_committed(long);
    wait_archived(&world);
    // Until hardly any row is read from elsewhere.
    let until = Instant::now() + long;
    while !client.sql("EXPLAIN SELECT stream_id FROM stream_events").text().contains("DataSourceExec") {
        assert!(Instant::now() < until, "nothing is read from the archive");
        world.generate(&["--count", "10", "--rate", "0", "--seed", "7"]);
        std::thread::sleep(Duration::from_millis(300));
    }
    world.wait_committed(long);
    check(&client, "in a store that speaks S3");
    wait_archived(&world);
    let listed = ureq::get(format!("{store}/rows?list-type=2&prefix=of/us/stream_events/")).call().unwrap();
    let listed = listed.into_body().read_to_string().unwrap();
    let files = world.number("SELECT count(*) FROM tidegate.archive WHERE whole");
    assert_eq!(listed.matches(".parquet</Key>").count() as i64, files, "{listed}");
    // A store that does not answer stops nothing, and is told without its secrets.
    drop(_moto);
    let refused = client.sql("SELECT count(DISTINCT stream_id) FROM stream_events");
    assert_eq!(refused.refusal(), (503, "TG-ARCHIVE".to_string()), "{}", refused.text());
    world.generate(&["--count", "100", "--rate", "0", "--seed", "8"]);
    world.wait_committed(long);
    for log in [running.log(), std::fs::read_to_string(world.dir.path().join("api.log")).unwrap(), refused.text()] {
        assert!(!log.contains("canary-secret"), "{log}");
    }
    running.stop();
}
