//! Ad-hoc SQL over HTTP: answers in every form, and queries that mean harm.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tidegate_bench::local::process::Process;
use tidegate_bench::local::{TempDir, wait_until};

use crate::asking::{Client, api_with, children, get};
use crate::engine::{Engine, tidegate};
use crate::world::{World, repository, shared};

/// A database without anything in it.
pub const NO_DATABASE: &str = "sqlite:/nonexistent/tidegate.db";

const EXAMPLE: [&str; 3] = ["stream_metrics_minute", "stream_state", "talk_5_minutes"];

/// A query over so many rows that it makes itself, 10 to this power.
fn over(rows: usize, select: &str, rest: &str) -> String {
    let tables: Vec<String> = (0..rows).map(|n| format!("d d{n}")).collect();
    format!(
        "WITH d(x) AS (VALUES (0),(1),(2),(3),(4),(5),(6),(7),(8),(9)) SELECT {select} FROM {} {rest}",
        tables.join(", ")
    )
}

/// Runs for days, since its condition needs every table.
fn endless() -> String {
    let sum: Vec<String> = (0..14).map(|n| format!("d{n}.x")).collect();
    over(14, "count(*)", &format!("WHERE {} < 0", sum.join(" + ")))
}

/// Each level is twice as long.
fn growing(levels: usize) -> String {
    let ctes = (1..=levels).map(|n| format!(", c{n} AS (SELECT concat(x, x) AS x FROM c{})", n - 1));
    format!("WITH c0 AS (SELECT 'text' AS x){} SELECT length(x) FROM c{levels}", ctes.collect::<String>())
}

/// The processes of an api that run queries.
pub fn workers(api: &Process) -> Vec<i32> {
    children(api.pid())
}

/// What Linux tells of a process behind its name.
fn stat(pid: i32, at: usize) -> Option<i64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().unwrap_or_default().split(' ').nth(at)?.parse().ok()
}

/// The session of a process.
fn session(pid: i32) -> i32 {
    stat(pid, 3).unwrap() as i32
}

/// How a process is scheduled.
fn policy(pid: i32) -> i32 {
    stat(pid, 38).unwrap() as i32
}

/// The processor time that processes have used, in hundredths of a second.
fn used(pids: &[i32]) -> u64 {
    let ticks = |pid: &i32| [11, 12].into_iter().filter_map(|at| stat(*pid, at)).sum::<i64>().unsigned_abs();
    pids.iter().map(ticks).sum()
}

/// Whether workers rest within so long.
pub fn come_to_rest(api: &Process, limit: Duration) -> bool {
    wait_until(limit, || {
        let before = used(&workers(api));
        std::thread::sleep(Duration::from_millis(200));
        used(&workers(api)) <= before + 2
    })
}

#[test]
fn answers_are_exact_in_every_form() {
    let servers = shared();
    let world = World::new(&servers, "adhoc");
    // Rows that lie in one allocation together are counted once.
    let wide = "CREATE MATERIALIZED VIEW wide AS SELECT event_id AS a, event_id AS b, stream_id AS c, user_id AS d, event_type AS e, \
        event_id AS f, stream_id AS g, user_id AS h, event_type AS i, event_id AS j, user_id AS k, event_id AS l FROM stream_events;";
    world.write_query("wide.sql", wide);
    world.generate(&["--count", "60000", "--rate", "0", "--seed", "61"]);
    let sqlite = format!("sqlite:{}", world.dir.path().join("adhoc.db").display());
    let mut answers = Vec::new();
    for url in [world.url(), sqlite] {
        let mut engine = Engine::new(&world, &url).until_caught_up().start();
        assert_eq!(engine.code(Duration::from_secs(60)), Some(0), "{}", engine.tail());
        let (_api, listen) = api_with(&url, wide, &[]);
        let client = Client::new(&listen);
        let newest = client.sql("SELECT * FROM wide ORDER BY a DESC, b LIMIT 10").json();
        assert_eq!(newest["row_count"], 10, "{newest}");
        let all = client.ask(&json!({"sql": "SELECT * FROM wide", "format": "jsonl"})).text();
        assert!(all.lines().count() > 50_000 && !all.contains("\"error\""), "{}", &all[all.len() - 400..]);
        // Whole tables, by a query and by the store's own way.
        for view in EXAMPLE {
            let counted = client.sql(&format!("SELECT count(*) AS n FROM {view}")).json()["rows"][0][0].clone();
            let listed: Value =
                serde_json::from_str(&get(&listen, &format!("/api/v1/queries/{view}/rows?limit=10000")).1).unwrap();
            assert!(counted.as_u64() > Some(0) && counted == listed["row_count"], "{view}: {counted}");
        }
        let sql = "SELECT stream_id, sum(donations_usd) AS usd, sum(chat_messages) AS n, max(window_start) AS newest \
            FROM stream_metrics_minute GROUP BY stream_id ORDER BY stream_id LIMIT 3";
        let reply = client.sql(sql);
        let body = reply.json();
        assert_eq!(reply.status, 200, "{body}");
        assert_eq!(reply.header("x-tidegate-query-id"), body["query_id"]);
        assert_eq!(body["columns"][1]["name"], "usd");
        assert_eq!((&body["row_count"], &body["truncated"]), (&json!(3), &json!(false)));
        answers.push(body["rows"].clone());

        let params = json!({
            "sql": "SELECT count(*) FROM stream_metrics_minute WHERE stream_id = $1 AND window_start > $2 AND joins >= $3",
            "params": [body["rows"][0][0], "1970-01-01T00:00:00Z", -1],
        });
        let named = json!({
            "sql": "SELECT count(*) FROM stream_metrics_minute WHERE stream_id = $stream LIMIT $most",
            "params": {"stream": body["rows"][0][0], "most": 5},
        });
        let (by_number, by_name) = (client.ask(&params).json(), client.ask(&named).json());
        assert!(by_number["rows"][0][0].as_u64() > Some(0), "{by_number}");
        assert_eq!(by_number["rows"], by_name["rows"]);

        let limited = json!({"sql": "SELECT * FROM stream_metrics_minute", "limit": 2}).to_string();
        let limited = client.post("/api/v1/sql", &[("content-type", "application/json")], limited.as_bytes()).json();
        assert_eq!((&limited["row_count"], &limited["truncated"]), (&json!(2), &json!(true)));

        let lines = client.ask(&json!({"sql": sql, "format": "jsonl"}));
        assert_eq!(lines.header("content-type"), "application/x-ndjson");
        let first: Value = serde_json::from_str(lines.text().lines().next().unwrap()).unwrap();
        assert_eq!((&first["stream_id"], &first["usd"]), (&body["rows"][0][0], &body["rows"][0][1]));
        assert_eq!(lines.text().lines().count(), 3);
        let encoded: String = form_urlencoded::byte_serialize(sql.as_bytes()).collect();
        let csv = client.get(&format!("/api/v1/sql?sql={encoded}"), &[("accept", "text/csv")]);
        assert!(csv.text().starts_with("stream_id,usd,n,newest\n"), "{}", csv.text());
        assert_eq!((csv.text().lines().count(), csv.header("x-tidegate-truncated")), (4, "false"));
        let arrow = client.ask(&json!({"sql": sql, "format": "arrow"})).body;
        let batches: Vec<_> = arrow::ipc::reader::StreamReader::try_new(&arrow[..], None).unwrap().collect();
        assert_eq!(batches.iter().map(|batch| batch.as_ref().unwrap().num_rows()).sum::<usize>(), 3);
        let parquet = client.ask(&json!({"sql": sql, "format": "parquet"})).body;
        let file =
            parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(axum::body::Bytes::from(parquet));
        assert_eq!(file.unwrap().metadata().file_metadata().num_rows(), 3);

        let none = client.ask(&json!({"sql": "SELECT stream_id FROM stream_metrics_minute WHERE false"})).json();
        assert_eq!((&none["rows"], &none["columns"][0]["name"]), (&json!([]), &json!("stream_id")));
        let plan = client.sql("EXPLAIN SELECT joins FROM stream_metrics_minute WHERE joins > 3").text();
        assert!(plan.contains("ViewScan: stream_metrics_minute"), "{plan}");
    }
    assert_eq!(answers[0], answers[1], "Postgres and SQLite differ");
}

#[test]
fn a_refusal_says_what_where_and_what_to_do() {
    let _servers = shared();
    let (_api, listen) = api_with(NO_DATABASE, "", &[]);
    let client = Client::new(&listen);
    let body = client.sql("SELECT stream_id,\n  chat_mesages FROM stream_metrics_minute").json();
    assert_eq!(body["code"], "TG-SQL-COLUMN", "{body}");
    assert_eq!((&body["line"], &body["column"]), (&json!(2), &json!(3)), "{body}");
    assert_eq!(body["hint"], "did you mean chat_messages?");
    assert!(body["query_id"].is_string() && body["detail"] == "the query: there is no column chat_mesages", "{body}");
    for (question, status, code) in [
        (json!({"sql": "SELECT 1", "limit": 0}), 400, "TG-API-PARAMETER"),
        (json!({"sql": "SELECT 1", "limit": 100_001}), 400, "TG-API-PARAMETER"),
        (json!({"sql": "SELECT 1", "timeout_ms": 0}), 400, "TG-API-PARAMETER"),
        (json!({"sql": "SELECT 1", "format": "xml"}), 400, "TG-API-PARAMETER"),
        (json!({"sql": "SELECT 1", "colour": "red"}), 400, "TG-API-PARAMETER"),
        (json!({"sql": "SELECT 1", "params": 3}), 400, "TG-API-PARAMETER"),
        (json!({"sql": "SELECT $1", "params": [[1]]}), 400, "TG-API-PARAMETER"),
        (json!({"sql": "SELECT $2", "params": [1]}), 400, "TG-SQL-PARAMETER"),
        (json!({"sql": "SELECT 1 AS a, 2 AS a"}), 400, "TG-QUERY"),
        (json!({"sql": "SELECT a.joins, b.joins FROM stream_state a, stream_state b"}), 400, "TG-SQL-COLUMN"),
        (json!({"sql": ""}), 400, "TG-API-PARAMETER"),
    ] {
        let reply = client.ask(&question);
        assert_eq!(reply.refusal(), (status, code.to_string()), "{question}: {}", reply.text());
    }
    let post = |media: &str, body: &[u8]| client.post("/api/v1/sql", &[("content-type", media)], body).refusal();
    assert_eq!(post("application/json", b"{"), (400, "TG-API-PARAMETER".to_string()));
    assert_eq!(
        post("application/json", br#"{"sql":"SELECT 1","sql":"SELECT 2"}"#),
        (400, "TG-API-PARAMETER".to_string())
    );
    assert_eq!(post("application/json", "[".repeat(100_000).as_bytes()), (400, "TG-API-PARAMETER".to_string()));
    assert_eq!(post("text/plain", b"SELECT '\xff'"), (400, "TG-API-PARAMETER".to_string()));
    assert_eq!(post("image/png", b"SELECT 1"), (415, "TG-API-MEDIA".to_string()));
    assert_eq!(post("text/plain", " ".repeat(70_000).as_bytes()), (413, "TG-QUERY-TEXT".to_string()));
    assert_eq!(post("text/plain", " ".repeat(2_000_000).as_bytes()), (413, "TG-QUERY-TEXT".to_string()));
    let zipped = [("content-type", "text/plain"), ("content-encoding", "gzip")];
    assert_eq!(client.post("/api/v1/sql", &zipped, b"x").refusal(), (415, "TG-API-MEDIA".to_string()));
    assert_eq!(client.delete("/api/v1/sql/x").refusal(), (400, "TG-API-PARAMETER".to_string()));
    let nobody = "/api/v1/sql/00000000-0000-0000-0000-000000000001";
    assert_eq!(client.delete(nobody).refusal(), (404, "TG-QUERY-ID".to_string()));
    let foreign = [("content-type", "text/plain"), ("origin", "http://evil.example")];
    assert_eq!(client.post("/api/v1/sql", &foreign, b"SELECT 1").refusal(), (403, "TG-API-HOST".to_string()));
}

/// Heads that never end are cut off; so are bodies.
#[test]
fn who_says_nothing_is_not_waited_for() {
    let _servers = shared();
    let (_api, listen) = api_with(NO_DATABASE, "", &[]);
    let open = |text: &str| {
        let mut stream = TcpStream::connect(&listen).unwrap();
        stream.write_all(text.as_bytes()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream
    };
    let started = Instant::now();
    let mut slow = [
        open("GET /health HTTP/1.1\r\nHost: x\r\nX-Slow: "),
        open("POST /api/v1/sql HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: 50\r\n\r\nSELECT"),
    ];
    for stream in &mut slow {
        let mut text = String::new();
        // A cut is an end as well.
        let _ = stream.read_to_string(&mut text);
        assert!(!text.contains(" 200 "), "{text}");
    }
    assert!(started.elapsed() < Duration::from_secs(25), "{:?}", started.elapsed());
    assert_eq!(get(&listen, "/api/v1/sql?sql=SELECT%201").0, 200);
}

#[test]
fn the_token_is_asked_for_and_never_told() {
    let _servers = shared();
    let secret = "canary-7f3a";
    let variables = [("TIDEGATE__API__TOKEN", secret), ("CANARY", "canary-environment")];
    let (api, listen) = api_with("sqlite:/nonexistent/canary-path.db", "", &variables);
    let client = Client::new(&listen);
    let asked = "/api/v1/sql?sql=SELECT%201";
    assert_eq!(client.get(asked, &[]).refusal(), (401, "TG-API-TOKEN".to_string()));
    assert_eq!(client.get(asked, &[("authorization", "Bearer canary")]).status, 401);
    assert_eq!(client.get("/prometheus", &[]).status, 401);
    let bearer = format!("Bearer {secret}");
    let given = [("authorization", bearer.as_str())];
    assert_eq!(client.get(asked, &given).status, 200);
    assert_ne!(client.get("/health", &[]).status, 401);
    for path in
        ["/prometheus", "/api/v1/sql?sql=SELECT%20*%20FROM%20stream_state", "/api/v1/sql?sql=EXPLAIN%20SELECT%201"]
    {
        assert!(!client.get(path, &given).text().contains("canary"), "{path}");
    }
    let workers = workers(&api);
    assert_eq!(workers.len(), 2);
    for pid in workers {
        for file in ["environ", "cmdline"] {
            let told = std::fs::read(format!("/proc/{pid}/{file}")).unwrap();
            assert!(!String::from_utf8_lossy(&told).contains("canary"), "{file}");
        }
        let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        assert!(!limits.lines().any(|line| line.starts_with("Max address space") && line.contains("unlimited")));
        // In a session of its own it takes nothing from the engine, which may share that of the api.
        assert_eq!((session(pid), policy(pid)), (pid, libc::SCHED_IDLE));
        assert_ne!(session(api.pid()), pid);
    }
}

#[test]
fn a_query_that_does_not_end_is_ended() {
    let _servers = shared();
    let (api, listen) = api_with(NO_DATABASE, "", &[("TIDEGATE__ADHOC__WORKER_MEMORY", "268435456")]);
    let client = Client::new(&listen);
    let alive = |what: &str| {
        let asked = Instant::now();
        let reply = client.sql("SELECT count(*) FROM stream_state");
        assert_eq!(reply.status, 200, "after {what}: {}", reply.text());
        assert!(asked.elapsed() < Duration::from_secs(4), "after {what}: {:?}", asked.elapsed());
    };
    alive("the start");

    // Out of time.
    let started = Instant::now();
    let reply = client.ask(&json!({"sql": endless(), "timeout_ms": 1_000}));
    assert_eq!(reply.refusal(), (504, "TG-QUERY-TIMEOUT".to_string()), "{}", reply.text());
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    assert!(come_to_rest(&api, Duration::from_secs(5)), "it goes on");
    alive("a timeout");

    // Out of memory, one way or the other.
    let wide: Vec<String> = (0..10).map(|n| format!("concat('{}', d{}.x) AS c{n}", "x".repeat(100), n % 7)).collect();
    let wide = wide.join(", ");
    for (sql, expected) in [
        (growing(30), "TG-QUERY-MEMORY"),
        (over(9, "string_agg(concat('some text', d0.x, d1.x), '')", ""), "TG-QUERY-MEMORY"),
        (over(9, "row_number() OVER (ORDER BY d8.x, d0.x)", ""), "TG-QUERY-MEMORY"),
        (over(7, &wide, ""), "TG-QUERY-BYTES"),
    ] {
        let reply = client.ask(&json!({"sql": sql}));
        assert_eq!(reply.refusal(), (400, expected.to_string()), "{}", reply.text());
        alive(&reply.text());
    }

    // What the parser reads again and again, and values that stand in many places.
    let reread = format!("SELECT * FROM {}", "(SELECT 1 FROM (((".repeat(15));
    let reply = client.ask(&json!({"sql": reread, "timeout_ms": 1_000}));
    assert!([400, 504].contains(&reply.status), "{}", reply.text());
    let values =
        json!({"sql": format!("SELECT 1 IN ({})", vec!["$1"; 9_000].join(",")), "params": ["x".repeat(900_000)]});
    assert_eq!(client.ask(&values).refusal(), (400, "TG-QUERY-COMPLEX".to_string()));
    alive("texts that grow");

    // Cancelled by name.
    let begun = used(&workers(&api));
    let id = "6f1c0a52-6f0e-4b39-9f5e-1a2b3c4d5e6f";
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| {
            let headers = [("content-type", "text/plain"), ("x-tidegate-query-id", id)];
            Client::new(&listen).post("/api/v1/sql", &headers, endless().as_bytes()).refusal()
        });
        let path = format!("/api/v1/sql/{id}");
        let twice = || {
            let headers = [("content-type", "text/plain"), ("x-tidegate-query-id", id)];
            client.post("/api/v1/sql", &headers, b"SELECT 1").refusal()
        };
        assert!(wait_until(Duration::from_secs(5), || used(&workers(&api)) > begun + 10), "it has not begun");
        assert_eq!(twice(), (409, "TG-QUERY-ID".to_string()));
        assert!(wait_until(Duration::from_secs(5), || client.delete(&path).status == 204), "it cannot be cancelled");
        assert_eq!(asked.join().unwrap(), (409, "TG-QUERY-CANCELLED".to_string()));
    });
    assert!(come_to_rest(&api, Duration::from_secs(5)), "it goes on");

    // Left alone by whoever asked.
    let mut gone = TcpStream::connect(&listen).unwrap();
    let endless = endless();
    let length = endless.len();
    write!(
        gone,
        "POST /api/v1/sql HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\r\n{endless}"
    )
    .unwrap();
    let begun = used(&workers(&api));
    assert!(wait_until(Duration::from_secs(15), || used(&workers(&api)) > begun + 10), "it has not begun");
    drop(gone);
    assert!(come_to_rest(&api, Duration::from_secs(3)), "it goes on without anybody");
    alive("a client that went away");
    let metrics = get(&listen, "/prometheus").1;
    assert!(metrics.contains("\ntidegate_api_adhoc_queries_total{outcome=\"memory\"} 3\n"), "{metrics}");
}

#[test]
fn a_query_that_ran_beside_a_greedy_one_is_told_to_ask_again() {
    let _servers = shared();
    let (api, listen) = api_with(NO_DATABASE, "", &[("TIDEGATE__ADHOC__WORKER_MEMORY", "268435456")]);
    assert!(wait_until(Duration::from_secs(5), || workers(&api).len() == 2), "there are no workers");
    // They are there for queries a moment after they have started.
    std::thread::sleep(Duration::from_millis(500));
    let ask = |sql: String| Client::new(&listen).ask(&json!({"sql": sql, "timeout_ms": 10_000})).refusal();
    std::thread::scope(|scope| {
        let beside: Vec<_> = (0..3).map(|_| scope.spawn(|| ask(endless()))).collect();
        std::thread::sleep(Duration::from_secs(1));
        let again = (503, "TG-QUERY-WORKER".to_string());
        assert_eq!(ask(growing(30)), again, "nobody knows whose fault it is");
        let told: Vec<_> = beside.into_iter().map(|thread| thread.join().unwrap()).collect();
        assert!(told.contains(&again) && told.contains(&(504, "TG-QUERY-TIMEOUT".to_string())), "{told:?}");
    });
}

/// Whoever does not read holds up nobody else.
#[test]
fn an_answer_that_nobody_reads_gives_its_turn_back() {
    let _servers = shared();
    let (_api, listen) = api_with(NO_DATABASE, "", &[("TIDEGATE__ADHOC__TIMEOUT_MS", "3000")]);
    let sql = over(5, "*, concat('a long text, so that many lines do not fit into the socket', d0.x) AS text", "");
    let sql: String = form_urlencoded::byte_serialize(sql.replace("*,", "d0.x AS a, d1.x AS b,").as_bytes()).collect();
    let stalled: Vec<TcpStream> = (0..4)
        .map(|_| {
            let mut stream = TcpStream::connect(&listen).unwrap();
            write!(stream, "GET /api/v1/sql?format=jsonl&sql={sql} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
            let mut head = [0; 12];
            stream.read_exact(&mut head).unwrap();
            assert_eq!(&head, b"HTTP/1.1 200", "{}", String::from_utf8_lossy(&head));
            stream
        })
        .collect();
    std::thread::sleep(Duration::from_secs(4));
    let asked = Instant::now();
    assert_eq!(Client::new(&listen).sql("SELECT 1").status, 200);
    assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
    for mut stream in stalled {
        let mut rest = Vec::new();
        // It is cut off: the last chunk, which says that all is there, does not come.
        let _ = stream.read_to_end(&mut rest);
        assert!(!rest.ends_with(b"0\r\n\r\n"), "it looks whole");
    }
}

#[test]
fn workers_end_with_their_api() {
    let _servers = shared();
    let (mut api, listen) = api_with(NO_DATABASE, "", &[]);
    let left = workers(&api);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut stream = TcpStream::connect(&listen).unwrap();
                let sql: String = form_urlencoded::byte_serialize(endless().as_bytes()).collect();
                write!(stream, "GET /api/v1/sql?sql={sql} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
                // Until it breaks off.
                let _ = stream.read_to_end(&mut Vec::new());
            });
        }
        assert!(wait_until(Duration::from_secs(15), || used(&left) > 100), "nothing runs");
        api.kill9();
    });
    let gone = || left.iter().all(|pid| !std::path::Path::new(&format!("/proc/{pid}/stat")).exists());
    assert!(wait_until(Duration::from_secs(2), gone), "a worker has outlived its api");
}

#[test]
fn an_empty_token_file_opens_no_door() {
    let dir = TempDir::new("token").unwrap();
    let file = dir.path().join("token");
    std::fs::write(&file, "\n").unwrap();
    let mut command = tidegate();
    command.args(["api", "--queries"]).arg(repository().join("queries")).env("DATABASE_URL", NO_DATABASE);
    let output = command.env("TIDEGATE__API__TOKEN_FILE", &file).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && told.contains("api.token_file: its file is empty"), "{told}");
}

#[test]
fn more_queries_than_may_wait_are_told_so() {
    let _servers = shared();
    let (_api, listen) = api_with(NO_DATABASE, "", &[]);
    let replies: Vec<(u16, String, String)> = std::thread::scope(|scope| {
        let ask = || {
            let reply = Client::new(&listen).ask(&json!({"sql": endless(), "timeout_ms": 6_000}));
            let (status, code) = reply.refusal();
            (status, code, reply.header("retry-after").to_string())
        };
        let asked: Vec<_> = (0..40).map(|_| scope.spawn(ask)).collect();
        asked.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let of = |code: &str| replies.iter().filter(|(_, told, _)| told == code).count();
    // 4 run and 16 wait; those that wait run out of time as well.
    assert_eq!((of("TG-QUERY-BUSY"), of("TG-QUERY-TIMEOUT")), (20, 20), "{replies:?}");
    let busy = replies.iter().filter(|(_, code, _)| code == "TG-QUERY-BUSY");
    assert!(busy.clone().all(|(status, _, retry)| *status == 429 && retry == "1"), "{replies:?}");
    let client = Client::new(&listen);
    assert!(wait_until(Duration::from_secs(10), || client.sql("SELECT 1").status == 200));
}
