//! The list of what means harm, through every door: the expected refusal, and an api that answers on.
//!
//! Each line has a number of its own, by which papers and other doors name it.

use std::time::Duration;

use serde_json::json;
use tidegate_bench::local::wait_until;

use crate::adhoc::{NO_DATABASE, workers};
use crate::asking::{Client, Reply, api_with, api_with_environment, get};
use crate::world::{World, shared};

/// Number, text, status and code.
pub fn list() -> Vec<(&'static str, String, u16, &'static str)> {
    let mut list: Vec<(&str, String, u16, &str)> = Vec::new();
    let mut all = |number: &'static str, status: u16, code: &'static str, texts: &[&str]| {
        list.extend(texts.iter().map(|text| (number, (*text).to_string(), status, code)));
    };
    all("H01", 403, "TG-QUERY-READ-ONLY", &["CREATE EXTERNAL TABLE p STORED AS CSV LOCATION '/etc/passwd'"]);
    all(
        "H02",
        403,
        "TG-QUERY-READ-ONLY",
        &[
            "CREATE EXTERNAL TABLE p STORED AS CSV LOCATION 'file:///proc/self/environ'",
            "CREATE EXTERNAL TABLE p STORED AS CSV LOCATION '../../etc/passwd'",
            "CREATE EXTERNAL TABLE p STORED AS PARQUET LOCATION 's3://bucket/x'",
            "CREATE EXTERNAL TABLE p STORED AS CSV LOCATION 'http://169.254.169.254/latest/meta-data'",
        ],
    );
    all(
        "H03",
        400,
        "TG-QUERY-TABLE",
        &["SELECT * FROM '/etc/passwd'", "SELECT * FROM \"/etc/passwd\"", "SELECT * FROM \"file:///etc/passwd\""],
    );
    all(
        "H03",
        400,
        "TG-QUERY-FUNCTION",
        &[
            "SELECT * FROM read_csv('/etc/passwd')",
            "SELECT * FROM parquet_metadata('/x')",
            "SELECT pg_read_file('/etc/passwd')",
        ],
    );
    all(
        "H04",
        403,
        "TG-QUERY-READ-ONLY",
        &["COPY stream_state TO '/tmp/x'", "COPY stream_state FROM '/etc/passwd'", "COPY stream_state FROM STDIN"],
    );
    all(
        "H05",
        403,
        "TG-QUERY-READ-ONLY",
        &[
            "EXPLAIN ANALYZE COPY stream_state TO '/tmp/x'",
            "EXPLAIN INSERT INTO stream_state VALUES (1)",
            "EXPLAIN VERBOSE SELECT 1",
            "EXPLAIN ANALYZE SELECT 1",
        ],
    );
    all(
        "H06",
        403,
        "TG-QUERY-READ-ONLY",
        &[
            "INSERT INTO stream_state VALUES (1)",
            "UPDATE stream_state SET joins = 0",
            "DELETE FROM stream_state",
            "MERGE INTO stream_state USING stream_state ON true WHEN MATCHED THEN DELETE",
            "CREATE VIEW x AS SELECT 1",
            "CREATE TABLE x AS SELECT 1",
            "CREATE FUNCTION f() RETURNS INT RETURN 1",
            "CREATE SCHEMA x",
            "DROP TABLE stream_state",
            "ALTER TABLE stream_state ADD COLUMN x INT",
            "TRUNCATE stream_state",
            "CALL f()",
            "DO $$ BEGIN END $$",
        ],
    );
    all(
        "H07",
        403,
        "TG-QUERY-READ-ONLY",
        &[
            "SET datafusion.runtime.memory_limit = '100G'",
            "SET datafusion.sql_parser.recursion_limit = 1000000",
            "SET statement_timeout = 0",
            "RESET ALL",
        ],
    );
    all(
        "H08",
        400,
        "TG-QUERY-STATEMENTS",
        &["SELECT 1; DROP TABLE stream_state", "SELECT 1;;;", "SELECT 1; --\nSELECT 2"],
    );
    all(
        "H09",
        403,
        "TG-QUERY-READ-ONLY",
        &["PREPARE x AS COPY stream_state TO '/tmp/x'", "EXECUTE x", "DECLARE c CURSOR FOR SELECT 1", "DEALLOCATE ALL"],
    );
    list.push(("H10", format!("SELECT 1{}", " ".repeat(1_000_000)), 413, "TG-QUERY-TEXT"));
    list.push(("H10", format!("SELECT {}", "x".repeat(1_000_000)), 413, "TG-QUERY-TEXT"));
    for terms in [2_000, 20_000] {
        for operator in ["+", " OR ", " AND ", "||"] {
            let text = format!("SELECT {}", vec!["1"; terms].join(operator));
            let (status, code) = if text.len() > 64 << 10 { (413, "TG-QUERY-TEXT") } else { (400, "TG-QUERY-COMPLEX") };
            list.push(("H11", text, status, code));
        }
    }
    let deep =
        |open: &str, close: &str, levels: usize| format!("SELECT {}1{}", open.repeat(levels), close.repeat(levels));
    for text in [
        deep("(", ")", 20_000),
        deep("NOT ", "", 10_000),
        deep("NOT(", ")", 5_000),
        deep("CASE WHEN true THEN ", " END", 2_000),
        deep("abs(", ")", 5_000),
        deep("[", "]", 20_000),
        deep("CAST(", " AS INT)", 5_000),
        format!("SELECT * FROM {}stream_state{}", "(SELECT * FROM ".repeat(200), ")".repeat(200)),
    ] {
        list.push(("H12", text, 400, "TG-QUERY-COMPLEX"));
    }
    for text in [
        vec!["SELECT 1"; 3_000].join(" UNION ALL "),
        format!("SELECT 1 IN ({})", vec!["1"; 30_000].join(",")),
        format!("SELECT {}", vec!["1"; 20_000].join(",")),
        format!("SELECT * FROM {}", vec!["stream_state"; 60].join(" CROSS JOIN ")),
    ] {
        list.push(("H13", text, 400, "TG-QUERY-COMPLEX"));
    }
    for levels in [10, 16, 22] {
        let ctes: String = (1..=levels)
            .map(|n| format!(", c{n} AS (SELECT a.x FROM c{} a JOIN c{} b ON a.x = b.x)", n - 1, n - 1))
            .collect();
        list.push((
            "H14",
            format!("WITH c0 AS (SELECT 1 AS x){ctes} SELECT * FROM c{levels}"),
            400,
            "TG-QUERY-COMPLEX",
        ));
    }
    let mut all = |number: &'static str, status: u16, code: &'static str, texts: &[&str]| {
        list.extend(texts.iter().map(|text| (number, (*text).to_string(), status, code)));
    };
    all(
        "H15",
        400,
        "TG-QUERY-UNSUPPORTED",
        &["WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r) SELECT count(*) FROM r"],
    );
    all(
        "H17",
        400,
        "TG-QUERY-FUNCTION",
        &[
            "SELECT * FROM range(0, 300000000)",
            "SELECT * FROM generate_series(1, 300000000)",
            "SELECT repeat('x', 1500000000)",
            "SELECT rpad('x', 1073741824, 'a')",
            "SELECT array_repeat(1, 100000000)",
            "SELECT unnest(range(0, 100000000))",
        ],
    );
    all("H19", 400, "TG-QUERY-DATA", &["SELECT regexp_like('aaa', '((a{1,100}){1,100}){1,100}')"]);
    all(
        "H20",
        400,
        "TG-QUERY-DATA",
        &[
            "SELECT (-9223372036854775807 - 1) / column1 FROM (VALUES (-1))",
            "SELECT 1 / column1 FROM (VALUES (0))",
            "SELECT CAST(column1 AS DECIMAL(38,0)) * CAST(column1 AS DECIMAL(38,0)) FROM (VALUES ('99999999999999999999999999999'))",
            "SELECT CAST(column1 AS TIMESTAMP) FROM (VALUES ('no time'))",
            "SELECT CAST(column1 AS INT) FROM (VALUES (CAST('NaN' AS DOUBLE)))",
        ],
    );
    all(
        "H23",
        400,
        "TG-QUERY-TABLE",
        &[
            "SELECT * FROM information_schema.df_settings",
            "SELECT * FROM pg_catalog.pg_authid",
            "SELECT * FROM pg_shadow",
            "SELECT * FROM tidegate.state",
        ],
    );
    all("H23", 403, "TG-QUERY-READ-ONLY", &["SHOW ALL", "SHOW CREATE TABLE stream_state"]);
    all(
        "H23",
        400,
        "TG-QUERY-FUNCTION",
        &[
            "SELECT input_file_name()",
            "SELECT pg_read_file('/etc/passwd')",
            "SELECT pg_sleep(1000)",
            "SELECT pg_terminate_backend(1)",
        ],
    );
    list
}

#[test]
fn the_list_is_refused_over_http() {
    let _servers = shared();
    let (api, listen) = api_with(NO_DATABASE, "", &[]);
    let client = Client::new(&listen);
    assert!(wait_until(Duration::from_secs(5), || workers(&api).len() == 2));
    let begun = workers(&api);
    let list = list();
    for (number, text, status, code) in &list {
        let encoded: String = form_urlencoded::byte_serialize(text.as_bytes()).collect();
        let mut replies: Vec<Reply> = Vec::new();
        if text.len() < 900_000 {
            replies.push(client.ask(&json!({"sql": text})));
        }
        replies.push(client.sql(text));
        // What is longer than a request's head may be never reaches us.
        if encoded.len() < 60_000 {
            replies.push(client.get(&format!("/api/v1/sql?sql={encoded}"), &[]));
        }
        for reply in replies {
            let shown = &text[..text.len().min(80)];
            assert_eq!(reply.refusal(), (*status, (*code).to_string()), "{number} {shown}: {}", reply.text());
            let body = reply.json();
            for secret in ["/etc/", "/root", "/home", "backtrace", ".rs:"] {
                let told = format!("{} {}", body["detail"], body["hint"]);
                let own = text.contains(secret);
                assert!(own || !told.contains(secret), "{number} {shown}: {told}");
            }
        }
    }
    // None of them has cost a process.
    assert_eq!(workers(&api), begun);
    assert_eq!(get(&listen, "/api/v1/sql?sql=SELECT%201").0, 200);
    println!("{} texts, each by three doors of HTTP", list.len());
}

/// Paths are names of routes, and never of files.
#[test]
fn no_path_leads_to_a_file() {
    let _servers = shared();
    let (_api, listen) = api_with(NO_DATABASE, "", &[]);
    for path in [
        "/../../etc/passwd",
        "/api/v1/queries/..%2f..%2f..%2fetc%2fpasswd/rows",
        "/api/v1/queries/%2e%2e/rows",
        "//etc/passwd",
        "/api/v1/sql/..%2f..%2fetc%2fpasswd",
        "/%00",
    ] {
        let (status, text) = get(&listen, path);
        assert!([400, 404, 405].contains(&status) && !text.contains("root:"), "{path}: {status} {text}");
    }
}

/// H26: a query that is cancelled at any moment leaves nothing behind.
#[test]
fn what_is_cancelled_a_thousand_times_leaves_nothing() {
    let _servers = shared();
    let (api, listen) = api_with(NO_DATABASE, "", &[]);
    assert!(wait_until(Duration::from_secs(5), || workers(&api).len() == 2));
    let tables: Vec<String> = (0..8).map(|n| format!("d d{n}")).collect();
    let sql = format!(
        "WITH d(x) AS (VALUES (0),(1),(2),(3),(4),(5),(6),(7),(8),(9)) SELECT count(*) FROM {} WHERE d0.x + d7.x < 0",
        tables.join(", ")
    );
    let cancel = |client: &Client, number: u64| {
        let id = uuid::Uuid::from_u128(number.into()).to_string();
        let asked = json!({"sql": &sql}).to_string();
        let reply = std::thread::scope(|scope| {
            let headers = [("x-tidegate-query-id", id.as_str()), ("content-type", "application/json")];
            let asking = scope.spawn(move || client.post("/api/v1/sql", &headers, asked.as_bytes()));
            std::thread::sleep(Duration::from_micros(number * 7_919 % 20_000));
            // It may not have come yet, or be at its end.
            while !asking.is_finished() {
                client.delete(&format!("/api/v1/sql/{id}"));
                std::thread::sleep(Duration::from_millis(1));
            }
            asking.join().expect("an answer")
        });
        assert!([200, 409, 503].contains(&reply.status), "{}", reply.text());
        reply.status == 409
    };
    let files = || std::fs::read_dir(format!("/proc/{}/fd", api.pid())).unwrap().count();
    let memory = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", api.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
    };
    let round = |from: u64, count: u64| -> usize {
        std::thread::scope(|scope| {
            let cancel = &cancel;
            let listen = &listen;
            let threads: Vec<_> = (0..4)
                .map(|thread| {
                    scope.spawn(move || {
                        let client = Client::new(listen);
                        (0..count / 4).filter(|n| cancel(&client, from + thread * count + n)).count()
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        })
    };
    round(1, 200);
    let (before, held) = (files(), memory());
    let cancelled = round(10_000, 800);
    assert!(cancelled > 400, "{cancelled}");
    assert!(wait_until(Duration::from_secs(10), || files() <= before + 4), "{} files, {before} before", files());
    assert!(memory() < held + 40_000, "{} KiB, {held} before", memory());
    // A worker that did not let go of one may be ended yet, with whatever it has.
    assert!(wait_until(Duration::from_secs(10), || get(&listen, "/api/v1/sql?sql=SELECT%201").0 == 200));
    println!("{cancelled} of 800 were cancelled; {before} files, {} KiB", memory());
}

/// H32, H34, H36: what stands in a log stays in its line, and what is made up makes no series.
#[test]
fn what_strangers_write_is_told_apart() {
    let servers = shared();
    let world = World::new(&servers, "strangers");
    let port = tidegate_bench::local::free_port().unwrap();
    let pg = format!("127.0.0.1:{port}");
    let (_api, client) = api_with_environment(
        &world,
        &[("TIDEGATE__PGWIRE__LISTEN", pg.as_str()), ("TIDEGATE__PGWIRE__USERS__ANNA", "canary-password")],
    );
    let series = || client.get("/prometheus", &[]).text().lines().filter(|line| !line.starts_with('#')).count();
    let strange = |n: u32| {
        client.sql(&format!("SELECT {n} AS a{n} -- \u{1b}[31m\r\nred"));
        client.sql(&format!("SELECT * FROM table_{n}"));
        client.get(&format!("/made/up/{n}"), &[("user-agent", &format!("agent-{n}"))]);
        client.get(&format!("/api/v1/queries/view_{n}/rows"), &[]);
    };
    // Each route has series by its status, once it was asked.
    strange(0);
    series();
    let before = series();
    (1..300).for_each(strange);
    assert_eq!(series(), before);
    for user in ["\u{1b}[31mred", "two\r\nlines", &"long".repeat(500)] {
        let mut command = std::process::Command::new(world.servers.postgres.program("psql"));
        command.args([
            "-X",
            "-h",
            "127.0.0.1",
            "-p",
            &port.to_string(),
            "-d",
            "tidegate",
            "-U",
            user,
            "-c",
            "SELECT 1",
        ]);
        assert!(!command.env("PGPASSWORD", "wrong").output().unwrap().status.success());
    }
    let log = std::fs::read_to_string(world.dir.path().join("api.log")).unwrap();
    assert!(!log.contains('\u{1b}') && !log.contains("canary-password"), "{log}");
    assert!(log.lines().all(|line| line.starts_with("20") && line.len() < 2_000), "{log}");
    for (head, expected) in [
        ("TRACE / HTTP/1.1", "405"),
        ("DELETE /api/v1/queries HTTP/1.1", "405"),
        ("POST /health HTTP/1.1", "405"),
        ("GET /health HTTP/1.1\r\nX-HTTP-Method-Override: DELETE", "200"),
        ("GET /health HTTP/1.1\r\nRange: bytes=0-1", "200"),
        ("GET /health HTTP/1.1\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13", "200"),
        ("GET /health HTTP/1.1\r\nHost: elsewhere.example.com", "400"),
    ] {
        let mut stream = std::net::TcpStream::connect(&client.listen).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let host = &client.listen;
        std::io::Write::write_all(
            &mut stream,
            format!("{head}\r\nHost: {host}\r\nConnection: close\r\n\r\n").as_bytes(),
        )
        .unwrap();
        let mut answer = String::new();
        let _ = std::io::Read::read_to_string(&mut stream, &mut answer);
        let status = answer.split(' ').nth(1).unwrap_or_default();
        // Two hosts are one too many.
        let odd = expected == "400" && ["400", "403"].contains(&status);
        assert!(status == expected || odd, "{head}: {answer}");
    }
}
