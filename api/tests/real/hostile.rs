//! What means harm (`tidegate_bench::local::hostile` has the list), through the doors of HTTP: the expected refusal, and an api
//! that answers on. `postgres` asks the same list by both of its protocols.

use std::time::Duration;

use serde_json::json;
use tidegate_bench::local::hostile::{heavy, list};
use tidegate_bench::local::wait_until;

use crate::adhoc::{NO_DATABASE, workers};
use crate::asking::{Client, Reply, api_with, api_with_environment, get};
use crate::world::{World, shared};

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

/// H16, H18, H21, H22, H25: what is allowed and has no end is ended, one at a time and two hundred at once; nothing is spilled.
#[test]
fn what_has_no_end_is_ended() {
    let _servers = shared();
    let (api, listen) = api_with(NO_DATABASE, "", &[]);
    let client = Client::new(&listen);
    assert!(wait_until(Duration::from_secs(5), || workers(&api).len() == 2));
    let answers = || wait_until(Duration::from_secs(15), || get(&listen, "/api/v1/sql?sql=SELECT%201").0 == 200);
    // What is too long for an answer is cut, and says so.
    let ends = ["TG-QUERY-TIMEOUT", "TG-QUERY-MEMORY", "TG-QUERY-WORKER", "cut"];
    let outcome = |reply: &Reply| match (reply.status, &reply.json()["truncated"]) {
        (200, truncated) if truncated == true => (200, "cut".to_string()),
        _ => reply.refusal(),
    };
    for text in heavy() {
        let told = outcome(&client.ask(&json!({"sql": text, "timeout_ms": 2_000})));
        assert!(ends.contains(&told.1.as_str()), "{text}: {told:?}");
        assert!(answers(), "{text}");
    }
    let texts = heavy();
    let told: Vec<(u16, String)> = std::thread::scope(|scope| {
        let asked = (0..200).map(|number| {
            let (listen, text, outcome) = (&listen, &texts[number % texts.len()], &outcome);
            scope.spawn(move || {
                let reply = Client::new(listen).ask(&json!({"sql": text, "timeout_ms": 1_500}));
                assert!(reply.status != 429 || reply.header("retry-after") == "1", "{:?}", reply.headers);
                outcome(&reply)
            })
        });
        asked.collect::<Vec<_>>().into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let busy = told.iter().filter(|(status, code)| *status == 429 && code == "TG-QUERY-BUSY").count();
    let ended = told.iter().filter(|(_, code)| ends.contains(&code.as_str())).count();
    assert!(busy >= 150 && busy + ended == told.len(), "{busy} were too many, {ended} were ended: {told:?}");
    assert!(answers());
    for worker in workers(&api) {
        let files = std::fs::read_dir(format!("/proc/{worker}/fd")).unwrap().flatten();
        let open: Vec<_> = files.filter_map(|file| std::fs::read_link(file.path()).ok()).collect();
        let is_log = |file: &std::path::Path| file.to_string_lossy().contains("api.log");
        assert!(open.iter().all(|file| !file.starts_with(std::env::temp_dir()) || is_log(file)), "{open:?}");
    }
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
