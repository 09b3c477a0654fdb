//! The Postgres protocol: the clients that people use, and those that mean harm.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tidegate_bench::local::process::Process;
use tidegate_bench::local::{cache_dir, free_port, wait_until};

use crate::asking::api_with_environment;
use crate::engine::Engine;
use crate::world::{World, repository, shared};

/// A table of every type that clients have trouble with.
const CHECKS: &str = "CREATE MATERIALIZED VIEW checks AS
    SELECT window_start, stream_id, count(*) AS events, CAST(sum(donation) AS DECIMAL(38,2)) AS usd, avg(message_len) AS ratio,
    CASE WHEN count(*) > 5 THEN true WHEN count(*) > 1 THEN false END AS ok
    FROM TUMBLE(stream_events, ts, INTERVAL '1 minute') GROUP BY window_start, stream_id;";

/// A world with rows in that table, which the engine has made.
fn world<'a>(servers: &'a crate::world::Servers, name: &str) -> World<'a> {
    let world = World::new(servers, name);
    world.write_query("checks.sql", CHECKS);
    let made = Engine::run_to_end(&world);
    assert!(world.try_sql("SELECT count(*) FROM checks").is_ok(), "{made}");
    world.sql(
        "INSERT INTO checks (window_start, stream_id, events, usd, ratio, ok) VALUES
         ('2024-05-01 10:00:00+00', 'a', 9007199254740993, 2.50, 1.5, true),
         ('2024-05-01 10:01:00+00', 'b', 0, NULL, NULL, NULL),
         ('2024-05-01 10:02:00+00', 'it''s', -7, 123456789012345678901234567890.25, 1e300, false),
         ('2024-05-03 10:02:00+00', 'a', 1, 1.50, 0, true)",
    );
    world
}

/// An api of it that speaks the protocol, and its port.
fn door(world: &World<'_>, variables: &[(&str, &str)]) -> (Process, u16) {
    let port = free_port().unwrap();
    let listen = format!("127.0.0.1:{port}");
    let all: Vec<(&str, &str)> =
        [("TIDEGATE__PGWIRE__LISTEN", listen.as_str())].into_iter().chain(variables.iter().copied()).collect();
    let (api, _) = api_with_environment(world, &all);
    (api, port)
}

fn psql(world: &World<'_>, port: u16, user: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(world.servers.postgres.program("psql"));
    command.args([
        "-X",
        "-h",
        "127.0.0.1",
        "-p",
        &port.to_string(),
        "-U",
        user,
        "-d",
        "tidegate",
        "-v",
        "ON_ERROR_STOP=1",
    ]);
    command.args(arguments).env("PGCONNECT_TIMEOUT", "10").env("LC_ALL", "C.UTF-8");
    command
}

/// What psql prints.
fn said(mut command: Command) -> String {
    let output = command.output().expect("psql runs");
    let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {out}{error}");
    format!("{out}{error}")
}

/// The one line of JSON that a program prints.
fn checked(mut command: Command) -> Value {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {out}{error}");
    serde_json::from_str(out.trim()).unwrap_or_else(|fault| panic!("{fault}: {out}{error}"))
}

fn clients(path: &str) -> PathBuf {
    repository().join("api/tests/clients").join(path)
}

#[test]
fn psql_lists_describes_fetches_and_cancels() {
    let servers = shared();
    let world = world(&servers, "psql");
    let (_api, port) = door(&world, &[]);
    let say = |arguments: &[&str]| said(psql(&world, port, "anybody", arguments));
    let listed = say(&["-c", "\\dt"]);
    for table in ["checks", "stream_state", "stream_metrics_minute", "stream_events"] {
        assert!(listed.contains(&format!(" public | {table} ")), "{listed}");
    }
    assert!(!listed.contains("progress"), "{listed}");
    assert!(say(&["-c", "\\dt tidegate.*"]).contains("progress"), "{}", say(&["-c", "\\dt tidegate.*"]));
    for describe in ["\\d checks", "\\d+ checks"] {
        let described = say(&["-c", describe]);
        for column in [
            " window_start | timestamp with time zone |",
            " stream_id    | text                     |",
            " events       | bigint                   |",
            " usd          | numeric(",
            " ratio        | double precision         |",
            " ok           | boolean                  |",
        ] {
            assert!(described.contains(column), "{column}: {described}");
        }
    }
    for command in [
        "\\d",
        "\\dn+",
        "\\l",
        "\\dv",
        "\\di",
        "\\df",
        "\\du",
        "\\dT",
        "\\dx",
        "\\dp",
        "\\conninfo",
        "\\d tidegate.progress",
    ] {
        say(&["-c", command]);
    }
    let none = psql(&world, port, "anybody", &["-c", "\\d nothing"]).output().unwrap();
    assert!(String::from_utf8_lossy(&none.stderr).contains("Did not find any relation"), "{none:?}");
    // Values as Postgres writes them: the same rows by psql from there.
    let select = "SELECT * FROM checks ORDER BY window_start, stream_id";
    let there = Command::new(world.servers.postgres.program("psql"))
        .args(["-X", "-A", "-c", "SET TIME ZONE 'UTC'", "-c", select, "-d", &world.url()])
        .output()
        .unwrap();
    let there = String::from_utf8_lossy(&there.stdout).replace("SET\n", "");
    assert_eq!(say(&["-A", "-c", select]), there);
    // In parts, through a cursor.
    let fetched = say(&["-v", "FETCH_COUNT=3", "-A", "-t", "-c", "\\timing", "-c", select]);
    assert!(fetched.contains("it's") && fetched.contains("Time: "), "{fetched}");
    let many = say(&["-A", "-t", "-c", "BEGIN; SELECT 1; SELECT count(*) FROM checks; COMMIT"]);
    assert!(many.contains("\n4\n"), "{many}");
    // A mistake is shown under its word.
    let wrong = psql(&world, port, "anybody", &["-c", "SELECT *\n FROM checs"]).output().unwrap();
    let wrong = String::from_utf8_lossy(&wrong.stderr).into_owned();
    assert!(wrong.contains("LINE 2:  FROM checs\n") && wrong.contains("did you mean checks?"), "{wrong}");
    // An interrupt ends the query, and not the session.
    let mut command = psql(&world, port, "anybody", &[]);
    let mut running = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    running = running.env("PSQL_HISTORY", "/dev/null");
    let mut child = running.spawn().unwrap();
    let tables: Vec<String> = (0..12).map(|n| format!("d d{n}")).collect();
    let endless = format!(
        "\\set ON_ERROR_STOP off\nWITH d(x) AS (VALUES (0),(1),(2),(3),(4),(5),(6),(7),(8),(9)) SELECT count(*) FROM {} WHERE d0.x + d11.x < 0;\nSELECT 'still here';\n",
        tables.join(", ")
    );
    child.stdin.take().unwrap().write_all(endless.as_bytes()).unwrap();
    std::thread::sleep(Duration::from_millis(1_500));
    let started = Instant::now();
    tidegate_bench::local::process::kill(child.id() as i32, libc::SIGINT);
    let ended = child.wait_with_output().unwrap();
    let told = format!("{}{}", String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}: {told}", started.elapsed());
    assert!(told.contains("TG-QUERY-CANCELLED"), "{told}");
}

/// The rows of the first day that every client must read, with more than so much, by their decimals.
const USD: [&str; 2] = ["2.50", "123456789012345678901234567890.25"];

#[test]
fn drivers_of_four_languages_read_the_same_rows() {
    let servers = shared();
    let world = world(&servers, "drivers");
    let (_api, port) = door(&world, &[("TIDEGATE__PGWIRE__USERS__ANNA", "s3cret of anna")]);
    let arguments = ["127.0.0.1", &port.to_string(), "anna", "s3cret of anna", "tidegate"];
    let cache = cache_dir().join("clients");
    let mut programs = Vec::new();
    let mut python = Command::new(cache_dir().join("python/bin/python"));
    python.arg(clients("check.py"));
    programs.push(("python", python));
    let mut node = Command::new("node");
    node.arg(clients("node/check.js")).env("NODE_PATH", cache.join("node/node_modules"));
    programs.push(("node", node));
    let mut java = Command::new("java");
    java.args(["-cp", cache.join("jdbc/postgresql-42.7.14.jar").to_str().unwrap()]).arg(clients("Check.java"));
    programs.push(("java", java));
    programs.push(("go", Command::new(cache.join("check-pgx"))));
    for (language, mut program) in programs {
        program.args(arguments);
        let told = checked(program);
        println!("{language}: {told}");
        let text = told.to_string();
        for usd in USD {
            assert!(text.contains(usd), "{language}: {usd}: {text}");
        }
        assert!(text.contains("checks") && text.contains("it's"), "{language}: {text}");
        assert_eq!(told["error"], "42703", "{language}: {text}");
        assert_eq!(told["rows"].as_array().map(Vec::len), Some(2), "{language}: {text}");
        let names: &[&str] = match language {
            "python" => &["tables", "columns", "sqlalchemy", "pandas"],
            "node" => &["tables", "chunks"],
            "java" => &["tables", "columns", "schemas"],
            _ => &["tables"],
        };
        for name in names {
            assert!(told[name].as_array().is_some_and(|list| !list.is_empty()), "{language}: {name}: {text}");
        }
    }
}

/// The statements that Grafana's data source sends, with its macros as it expands them.
#[test]
fn the_statements_of_dashboards_are_answered() {
    let servers = shared();
    let world = world(&servers, "dashboards");
    let (_api, port) = door(&world, &[]);
    let texts = std::fs::read_to_string(clients("statements.sql")).unwrap();
    let mut session = Raw::open(port, "grafana").expect("a session");
    let mut count = 0;
    for part in texts.split("\n;;").map(str::trim).filter(|part| !part.is_empty()) {
        let (head, text) = part.split_once('\n').expect("a comment and a statement");
        let text = text.replace("16385", &session.oid_of("checks")).replace("stream_state", "checks");
        for answer in [session.simple(&text), session.extended(&text)] {
            let answer = answer.unwrap_or_else(|error| panic!("{head}: {error}\n{text}"));
            let wanted = head.rsplit_once("rows ").and_then(|(_, rows)| rows.parse::<usize>().ok());
            assert!(wanted.is_none_or(|wanted| answer.rows.len() >= wanted), "{head}: {answer:?}\n{text}");
        }
        count += 1;
    }
    println!("{count} statements, each by both protocols");
}

#[test]
fn who_may_come_in() {
    let servers = shared();
    let world = World::new(&servers, "passwords");
    let (_api, port) = door(&world, &[("TIDEGATE__PGWIRE__USERS__ANNA", "right")]);
    let come = |user: &str, password: &str| {
        let mut command = psql(&world, port, user, &["-A", "-t", "-c", "SELECT 1"]);
        let output = command.env("PGPASSWORD", password).output().unwrap();
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    };
    assert_eq!(come("anna", "right"), "1\n");
    for (user, password) in
        [("anna", "wrong"), ("anna", ""), ("postgres", ""), ("postgres", "postgres"), ("root", "right")]
    {
        let told = come(user, password);
        assert!(told.contains("password") && !told.starts_with('1'), "{user}: {told}");
    }
    // Nothing but SCRAM is offered.
    assert_eq!(
        Raw::begin(port, "anna").map(|mut raw| raw.next()).unwrap().map(|(kind, body)| (kind, body[3])),
        Some((b'R', 10))
    );
    // Without users only this machine is answered.
    let refused = |variables: &[(&str, &str)]| {
        let mut command = crate::engine::tidegate();
        command
            .args(["api", "--listen", "127.0.0.1:0", "--queries"])
            .arg(world.queries())
            .env("DATABASE_URL", world.url());
        command.envs(variables.iter().copied());
        let ended = command.output().unwrap();
        assert!(!ended.status.success());
        String::from_utf8_lossy(&ended.stderr).into_owned()
    };
    let told = refused(&[("TIDEGATE__PGWIRE__LISTEN", "0.0.0.0:0")]);
    assert!(told.contains("TG-SETTING") && told.contains("pgwire.users"), "{told}");
    // A certificate that is none stops the start.
    let (cert, key) = (world.dir.path().join("cert.pem"), world.dir.path().join("key.pem"));
    std::fs::write(&cert, "-----BEGIN CERTIFICATE-----\nbm8gY2VydGlmaWNhdGU=\n-----END CERTIFICATE-----\n").unwrap();
    std::fs::write(&key, "no key").unwrap();
    let files =
        [("TIDEGATE__PGWIRE__TLS_CERT", cert.to_str().unwrap()), ("TIDEGATE__PGWIRE__TLS_KEY", key.to_str().unwrap())];
    let listen = [("TIDEGATE__PGWIRE__LISTEN", "127.0.0.1:0")];
    let told = refused(&[listen[0], files[0], files[1]]);
    assert!(told.contains("TG-SETTING: pgwire.tls_key"), "{told}");
    let told = refused(&[listen[0], files[0]]);
    assert!(told.contains("pgwire.tls_cert and pgwire.tls_key"), "{told}");
    // With one nobody is answered without it.
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"])
        .args(["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-out"])
        .arg(&cert)
        .arg("-keyout")
        .arg(&key)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let (_api, port) = door(&world, &files);
    let mut command = psql(&world, port, "anybody", &["-A", "-t", "-c", "SELECT 2"]);
    let under = command.env("PGSSLMODE", "verify-full").env("PGSSLROOTCERT", &cert).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&under.stdout), "2\n", "{}", String::from_utf8_lossy(&under.stderr));
    let mut command = psql(&world, port, "anybody", &["-c", "SELECT 2"]);
    let plain = command.env("PGSSLMODE", "disable").output().unwrap();
    assert!(String::from_utf8_lossy(&plain.stderr).contains("TG-PG-PLAINTEXT"), "{plain:?}");
    // What is put behind the question for TLS does not count as said under it.
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let mut injected = vec![0, 0, 0, 8, 4, 210, 22, 47];
    injected.extend(startup(&[("user", "anybody")]));
    stream.write_all(&injected).unwrap();
    let mut answer = Vec::new();
    stream.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
    let _ = stream.read_to_end(&mut answer);
    assert_eq!(answer.first(), Some(&b'S'));
    assert!(!answer.windows(4).any(|part| part == b"user" || part == b"ISO,"), "{answer:?}");
}

/// A connection whose messages are made here.
struct Raw {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// What was answered.
#[derive(Debug, Default)]
struct Answer {
    rows: Vec<Vec<Option<String>>>,
    tag: String,
}

fn startup(parameters: &[(&str, &str)]) -> Vec<u8> {
    let mut body = 196_608i32.to_be_bytes().to_vec();
    for (name, value) in parameters {
        body.extend([name.as_bytes(), b"\0", value.as_bytes(), b"\0"].concat());
    }
    body.push(0);
    let mut message = (body.len() as i32 + 4).to_be_bytes().to_vec();
    message.extend(body);
    message
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut message = vec![kind];
    message.extend((body.len() as i32 + 4).to_be_bytes());
    message.extend(body);
    message
}

/// The fields of an error: its state and its message.
fn fault(body: &[u8]) -> String {
    let fields = body.split(|byte| *byte == 0).filter(|field| !field.is_empty());
    let of = |letter: u8| {
        fields
            .clone()
            .find(|field| field[0] == letter)
            .map(|field| String::from_utf8_lossy(&field[1..]).into_owned())
            .unwrap_or_default()
    };
    format!("{} {}", of(b'C'), of(b'M'))
}

impl Raw {
    fn connect(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Self { stream, buffer: Vec::new() }
    }

    /// With its start-up message sent.
    fn begin(port: u16, user: &str) -> Result<Self, String> {
        let mut raw = Self::connect(port);
        raw.send(&startup(&[("user", user), ("database", "tidegate")]));
        Ok(raw)
    }

    /// Once queries may come.
    fn open(port: u16, user: &str) -> Result<Self, String> {
        let mut raw = Self::begin(port, user)?;
        raw.answer().map(|_| raw)
    }

    fn send(&mut self, bytes: &[u8]) {
        // Whoever has been shown the door hears nothing more.
        let _ = self.stream.write_all(bytes);
    }

    /// The next message; none once the other side has closed.
    fn next(&mut self) -> Option<(u8, Vec<u8>)> {
        loop {
            if let Some(length) = self.buffer.get(1..5) {
                let length = i32::from_be_bytes(length.try_into().unwrap()) as usize;
                if self.buffer.len() > length {
                    let rest = self.buffer.split_off(length + 1);
                    let whole = std::mem::replace(&mut self.buffer, rest);
                    return Some((whole[0], whole[5..].to_vec()));
                }
            }
            let mut more = [0; 8_192];
            match self.stream.read(&mut more) {
                Ok(0) | Err(_) => return None,
                Ok(count) => self.buffer.extend(&more[..count]),
            }
        }
    }

    /// Everything up to the next ReadyForQuery.
    fn answer(&mut self) -> Result<Answer, String> {
        let (mut answer, mut failed) = (Answer::default(), None);
        loop {
            match self.next() {
                None => return Err(failed.unwrap_or_else(|| "closed".to_string())),
                Some((b'Z', _)) => return failed.map_or(Ok(answer), Err),
                Some((b'E', body)) => failed = Some(fault(&body)),
                Some((b'C', body)) => answer.tag = String::from_utf8_lossy(&body).trim_end_matches('\0').to_string(),
                Some((b'D', body)) => {
                    let (mut at, mut row) = (2, Vec::new());
                    while at < body.len() {
                        let length = i32::from_be_bytes(body[at..at + 4].try_into().unwrap());
                        at += 4;
                        let end = at + usize::try_from(length).unwrap_or(0);
                        row.push((length >= 0).then(|| String::from_utf8_lossy(&body[at..end]).into_owned()));
                        at = end;
                    }
                    answer.rows.push(row);
                }
                Some(_) => {}
            }
        }
    }

    fn simple(&mut self, text: &str) -> Result<Answer, String> {
        self.send(&message(b'Q', &[text.as_bytes(), b"\0"].concat()));
        self.answer()
    }

    fn extended(&mut self, text: &str) -> Result<Answer, String> {
        let parse = message(b'P', &[b"\0", text.as_bytes(), b"\0\0\0"].concat());
        let bind = message(b'B', b"\0\0\0\0\0\0\0\0");
        let describe = message(b'D', b"P\0");
        let execute = message(b'E', b"\0\0\0\0\0");
        self.send(&[parse, bind, describe, execute, message(b'S', b"")].concat());
        self.answer()
    }

    fn oid_of(&mut self, table: &str) -> String {
        let found = self.simple(&format!("SELECT oid FROM pg_catalog.pg_class WHERE relname = '{table}'")).unwrap();
        found.rows[0][0].clone().unwrap()
    }
}

#[test]
fn the_list_is_refused_by_both_protocols() {
    let servers = shared();
    let world = World::new(&servers, "pg-list");
    let (api, port) = door(&world, &[]);
    assert!(wait_until(Duration::from_secs(5), || crate::adhoc::workers(&api).len() == 2));
    let workers = crate::adhoc::workers(&api);
    let mut session = Raw::open(port, "x").unwrap();
    let mut count = 0;
    for (number, text, _, code) in tidegate_bench::local::hostile::list() {
        // What is said to sessions here is said elsewhere to nobody; and several statements are read one by one.
        if matches!(code, "TG-QUERY-STATEMENTS") || text.contains('\0') || text.trim().is_empty() {
            continue;
        }
        let shown = &text[..text.floor_char_boundary(80)];
        let said = |word: &str| text.trim_start().to_lowercase().starts_with(word);
        if [
            "set",
            "show",
            "begin",
            "commit",
            "rollback",
            "start",
            "savepoint",
            "release",
            "discard",
            "deallocate",
            "reset",
            "close",
            "fetch",
            "declare",
            "unlisten",
            "move",
        ]
        .iter()
        .any(|word| said(word))
        {
            continue;
        }
        if text.len() > 1 << 20 {
            let mut other = Raw::open(port, "x").unwrap();
            assert!(other.simple(&text).unwrap_err().contains("08P01"), "{number} {shown}");
            continue;
        }
        for answer in [session.simple(&text), session.extended(&text)] {
            let error = answer.expect_err(shown);
            assert!(error.contains(code), "{number} {shown}: {error}");
            assert!(!error.contains("/root") && !error.contains(".rs:"), "{number} {shown}: {error}");
        }
        count += 1;
    }
    assert_eq!(crate::adhoc::workers(&api), workers);
    assert_eq!(session.simple("SELECT 1").unwrap().rows, [[Some("1".to_string())]]);
    println!("{count} texts, each by both protocols");
}

#[test]
fn odd_messages_cost_their_connection_and_nothing_else() {
    let servers = shared();
    let world = World::new(&servers, "pg-odd");
    let (api, port) = door(&world, &[("TIDEGATE__PGWIRE__CONNECTIONS_MAX", "8")]);
    // H40: start-up messages that are none.
    let huge = [&1_000_000_000i32.to_be_bytes()[..], &[0; 64]].concat();
    let long = startup(&[("user", &"x".repeat(20_000))]);
    let many: Vec<(String, String)> = (0..10_000).map(|n| (format!("n{n}"), String::new())).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let odd_version = [&16i32.to_be_bytes()[..], &(9i32 << 16 | 9).to_be_bytes(), b"user\0x\0\0"].concat();
    for (what, bytes) in [
        ("a length of 1 GB", huge),
        ("a long name", long),
        ("many parameters", startup(&many)),
        ("protocol 9.9", odd_version),
        ("no user", startup(&[("database", "tidegate")])),
        ("another database", startup(&[("user", "x"), ("database", "postgres")])),
        ("replication", startup(&[("user", "x"), ("replication", "true")])),
        ("a length of 3", vec![0, 0, 0, 3, 0, 0, 0, 0]),
        ("questions for TLS without end", [0, 0, 0, 8, 4, 210, 22, 47].repeat(50)),
        ("noise", (0..200u8).collect()),
        ("TLS without a certificate", vec![0x16, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3]),
    ] {
        let mut raw = Raw::connect(port);
        raw.send(&bytes);
        let mut seen = Vec::new();
        let started = Instant::now();
        let _ = raw.stream.read_to_end(&mut seen);
        assert!(started.elapsed() < Duration::from_secs(12), "{what}: {:?}", started.elapsed());
        assert!(seen.len() < 1_000 && !seen.windows(3).any(|part| part == b"Z\0\0"), "{what}: {seen:?}");
    }
    // One that says half of it is let go within ten seconds.
    let mut half = Raw::connect(port);
    half.send(&[0, 0]);
    let started = Instant::now();
    assert!(half.next().is_none() && started.elapsed() < Duration::from_secs(12));
    // H41: lengths.
    for length in [0, 3, i32::MAX, -1, 1 << 30] {
        let mut raw = Raw::open(port, "x").unwrap();
        raw.send(&[&b"Q"[..], &length.to_be_bytes(), b"SELECT 1\0"].concat());
        let told = raw.answer().unwrap_err();
        assert!(told.contains("08P01"), "{length}: {told}");
    }
    // H42: values that do not fit; the session goes on after Sync.
    let mut session = Raw::open(port, "x").unwrap();
    let parse = message(b'P', b"p\0SELECT $1 + 1 AS n\0\0\x01\0\0\0\x14");
    session.send(&[parse, message(b'S', b"")].concat());
    session.answer().unwrap();
    for (what, body) in [
        ("no value", b"\0p\0\0\0\0\0\0\0".to_vec()),
        ("two values", b"\0p\0\0\0\0\x02\xff\xff\xff\xff\xff\xff\xff\xff\0\0".to_vec()),
        ("a format of 7", b"\0p\0\0\x01\0\x07\0\x01\0\0\0\x011\0\0".to_vec()),
        ("three formats", b"\0p\0\0\x03\0\0\0\0\0\0\0\x01\0\0\0\x011\0\0".to_vec()),
        ("a text that is no number", b"\0p\0\0\0\0\x01\0\0\0\x03abc\0\0".to_vec()),
        ("a number of three bytes", b"\0p\0\0\x01\0\x01\0\x01\0\0\0\x03abc\0\0".to_vec()),
        ("a length beyond its message", b"\0p\0\0\0\0\x01\0\xff\xff\xffabc\0\0".to_vec()),
        ("a statement that there is not", b"\0q\0\0\0\0\0\0\0".to_vec()),
    ] {
        let mut raw = Raw::open(port, "x").unwrap();
        let parse = message(b'P', b"p\0SELECT $1 + 1 AS n\0\0\x01\0\0\0\x14");
        raw.send(&[parse, message(b'B', &body), message(b'E', b"\0\0\0\0\0"), message(b'S', b"")].concat());
        let told = raw.answer().expect_err(what);
        assert!(["08P01", "22P02", "26000"].iter().any(|state| told.starts_with(state)), "{what}: {told}");
        // Those that break the protocol itself end the session.
        if !told.contains("what it says") {
            assert_eq!(raw.simple("SELECT 1").map(|answer| answer.rows.len()), Ok(1), "{what}");
        }
    }
    session.send(
        &[message(b'B', b"\0p\0\0\0\0\x01\xff\xff\xff\xff\0\0"), message(b'E', b"\0\0\0\0\0"), message(b'S', b"")]
            .concat(),
    );
    assert_eq!(session.answer().unwrap().rows, [[None]]);
    // H43: statements and cursors that are never closed.
    let name = |n: usize| message(b'P', &[format!("s{n}\0").as_bytes(), b"BEGIN\0\0\0"].concat());
    let all: Vec<u8> = (0..1_100).flat_map(name).chain(message(b'S', b"")).collect();
    session.send(&all);
    assert!(session.answer().unwrap_err().starts_with("53400"));
    assert_eq!(session.simple("DEALLOCATE ALL").unwrap().tag, "DEALLOCATE ALL");
    // A row of very many at a time.
    session.simple("BEGIN").unwrap();
    let cross = "SELECT a.column1 FROM (VALUES (1),(2),(3)) a, (VALUES (1),(2),(3)) b";
    session.send(
        &[
            message(b'P', &[b"\0", cross.as_bytes(), b"\0\0\0"].concat()),
            message(b'B', b"c\0\0\0\0\0\0\0\0"),
            message(b'S', b""),
        ]
        .concat(),
    );
    session.answer().unwrap();
    for _ in 0..9 {
        session.send(&[message(b'E', b"c\0\0\0\0\x01"), message(b'S', b"")].concat());
        assert_eq!(session.answer().unwrap().rows.len(), 1);
    }
    session.simple("COMMIT").unwrap();
    session.send(&[message(b'E', b"c\0\0\0\0\x01"), message(b'S', b"")].concat());
    assert!(session.answer().unwrap_err().starts_with("34000"));
    // H44: after an error nothing is heard before Sync.
    let wrong = message(b'P', b"\0SELECT nothing FROM nowhere\0\0\0");
    session.send(
        &[wrong, message(b'E', b"\0\0\0\0\0").repeat(1_000), message(b'H', b"").repeat(1_000), message(b'S', b"")]
            .concat(),
    );
    assert!(session.answer().unwrap_err().starts_with("42P01"));
    let mut copying = Raw::open(port, "x").unwrap();
    copying.send(&message(b'd', b"1\t2\n"));
    assert!(copying.answer().unwrap_err().starts_with("08P01"));
    // H45: who does not know the secret cancels nothing.
    let mut running = Raw::begin(port, "x").unwrap();
    let mut pid = Vec::new();
    while let Some((kind, body)) = running.next() {
        match kind {
            b'K' => pid = body[..4].to_vec(),
            b'Z' => break,
            _ => {}
        }
    }
    for guess in 0..200i32 {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let request = [&16i32.to_be_bytes()[..], &80_877_102i32.to_be_bytes(), &pid, &guess.to_be_bytes()].concat();
        stream.write_all(&request).unwrap();
        let mut end = Vec::new();
        let _ = stream.read_to_end(&mut end);
        assert!(end.is_empty());
    }
    assert_eq!(running.simple("SELECT 1").unwrap().rows.len(), 1);
    // H46: what is said of transactions is said in vain, or refused.
    for (text, state) in [
        ("SAVEPOINT a; RELEASE a; ROLLBACK TO a", ""),
        ("SET SESSION AUTHORIZATION postgres", "25006"),
        ("SET no_such_setting = 1", "42704"),
        ("SET server_version = '99'", "22023"),
        ("LISTEN a", "25006"),
        ("COPY stream_state TO STDOUT", "25006"),
        ("DECLARE c CURSOR FOR SELECT 1", "34000"),
        ("FETCH ALL FROM c", "34000"),
        ("CREATE TABLE t (a int)", "25006"),
    ] {
        let told = session.simple(text);
        match (state, told) {
            ("", told) => drop(told.unwrap_or_else(|error| panic!("{text}: {error}"))),
            (state, Err(told)) => assert!(told.starts_with(state), "{text}: {told}"),
            (_, Ok(answer)) => panic!("{text}: {answer:?}"),
        }
    }
    // A transaction that has failed says so until it ends.
    session.simple("BEGIN").unwrap();
    session.simple("SELECT nothing").unwrap_err();
    assert!(session.simple("SELECT 1").unwrap_err().starts_with("25P02"));
    assert_eq!(session.simple("COMMIT").unwrap().tag, "ROLLBACK");
    // A ninth connection is told that there is no place.
    drop((half, copying));
    let open: Vec<Raw> = (0..6).map(|_| Raw::open(port, "x").unwrap()).collect();
    let full = wait_until(Duration::from_secs(5), || Raw::open(port, "x").is_err_and(|told| told.starts_with("53300")));
    assert!(full, "{} sessions", open.len() + 2);
    drop(open);
    assert!(wait_until(Duration::from_secs(5), || Raw::open(port, "x").is_ok()));
    let log = std::fs::read_to_string(world.dir.path().join("api.log")).unwrap();
    assert!(!log.contains("panicked at api"), "{log}");
    drop(api);
}

/// A client that goes away ends its query.
#[test]
fn who_goes_away_is_not_answered() {
    let servers = shared();
    let world = World::new(&servers, "pg-gone");
    let (api, port) = door(&world, &[]);
    let mut raw = Raw::open(port, "x").unwrap();
    let tables: Vec<String> = (0..13).map(|n| format!("d d{n}")).collect();
    let endless = format!(
        "WITH d(x) AS (VALUES (0),(1),(2),(3),(4),(5),(6),(7),(8),(9)) SELECT count(*) FROM {} WHERE d0.x + d12.x < 0",
        tables.join(", ")
    );
    raw.send(&message(b'Q', &[endless.as_bytes(), b"\0"].concat()));
    std::thread::sleep(Duration::from_millis(500));
    drop(raw);
    // All turns are free again: as many as may run at a time are answered at once.
    let answered = |port: u16| Raw::open(port, "x").and_then(|mut raw| raw.simple("SELECT 1")).is_ok();
    assert!(answered(port));
    assert!(crate::adhoc::come_to_rest(&api, Duration::from_secs(5)), "a worker still runs for nobody");
}

#[test]
fn the_console_answers_scripts_and_people() {
    let servers = shared();
    let world = world(&servers, "console");
    let (_api, client) = api_with_environment(&world, &[]);
    let address = format!("http://{}", client.listen);
    let run = |arguments: &[&str], input: Option<&str>| {
        let mut command = crate::engine::tidegate();
        command.args(["sql", "--api", &address]).args(arguments).current_dir(world.dir.path());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.unwrap_or_default().as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        (
            output.status.success(),
            String::from_utf8_lossy(&output.stdout).into_owned(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    let (done, out, _) =
        run(&["-c", "SELECT stream_id, events FROM checks ORDER BY window_start LIMIT 2; SELECT 1 AS one"], None);
    let shown = " stream_id | events\n-----------+------------------\n a         | 9007199254740993\n b         |                0\n(2 rows)\n one\n-----\n   1\n(1 row)\n";
    assert!(done && out == shown, "{out}");
    let (done, out, _) = run(&["--format", "csv"], Some("SELECT stream_id, ok FROM checks ORDER BY window_start;"));
    assert!(done && out == "stream_id,ok\na,true\nb,\nit's,false\na,true\n", "{out}");
    std::fs::write(world.dir.path().join("q.sql"), "-- the rows\nSELECT count(*) AS n\nFROM checks;\n").unwrap();
    let (done, out, timing) = run(&["-f", "q.sql", "--format", "jsonl", "--timing"], None);
    assert!(done && out == "{\"n\":4}\n" && timing.starts_with("Time: "), "{out} {timing}");
    let (done, _, told) = run(&["-c", "SELECT *\n  FROM checs"], None);
    assert!(
        !done
            && told
                .starts_with("  FROM checs\n       ^\nTG-QUERY-TABLE: there is no table checs (did you mean checks?)"),
        "{told}"
    );
    let mut elsewhere = crate::engine::tidegate();
    let told = elsewhere.args(["sql", "--api", "http://127.0.0.1:9", "-c", "SELECT 1"]).output().unwrap();
    assert!(String::from_utf8_lossy(&told.stderr).contains("is the api running?"), "{told:?}");
    // At a terminal, which script makes.
    let typed = "SELECT count(*) AS n\nFROM checks;\n\\d checks\n\\nothing\nSELECT bad;\n\\q\n";
    let mut script = Command::new("script");
    let binary = PathBuf::from(crate::engine::tidegate().get_program());
    script.args(["-q", "-e", "-c", &format!("{} sql --api {address}", shell(&binary)), "/dev/null"]);
    script.env("HOME", world.dir.path()).env_remove("XDG_STATE_HOME").env("TERM", "xterm");
    script.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = script.spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    for line in typed.split_inclusive('\n') {
        std::thread::sleep(Duration::from_millis(400));
        input.write_all(line.as_bytes()).unwrap();
    }
    let ended = child.wait_with_output().unwrap();
    let out = String::from_utf8_lossy(&ended.stdout).into_owned();
    for expected in ["(1 row)", "timestamp with time zone", "there is no command \\nothing", "TG-SQL-COLUMN"] {
        assert!(out.contains(expected), "{expected}: {out}");
    }
    let history = std::fs::read_to_string(world.dir.path().join(".local/state/tidegate/history")).unwrap();
    assert!(history.contains("FROM checks;"), "{history}");
}

fn shell(path: &Path) -> String {
    format!("'{}'", path.display())
}

/// The blocks of docs/clients.md, as they stand there but for the ports.
#[test]
fn the_examples_of_the_docs_run() {
    let servers = shared();
    let world = world(&servers, "docs");
    let (_api, client, port) = {
        let port = free_port().unwrap();
        let listen = format!("127.0.0.1:{port}");
        let (api, client) = api_with_environment(&world, &[("TIDEGATE__PGWIRE__LISTEN", &listen)]);
        (api, client, port)
    };
    let text = std::fs::read_to_string(repository().join("docs/clients.md")).unwrap();
    let text = text.replace("127.0.0.1:5433", &format!("127.0.0.1:{port}")).replace("127.0.0.1:8000", &client.listen);
    let binary = PathBuf::from(crate::engine::tidegate().get_program());
    let programs = world.servers.postgres.program("psql");
    let path = [binary.parent(), programs.parent()].map(|folder| folder.unwrap().display().to_string()).join(":");
    let path = format!("{path}:{}", std::env::var("PATH").unwrap());
    let mut ran = Vec::new();
    let mut rest = text.as_str();
    while let Some((_, block)) = rest.split_once("```") {
        let (block, after) = block.split_once("```").expect("a block ends");
        rest = after;
        let (language, block) = block.split_once('\n').expect("a language");
        let mut command = match language {
            "sh" => Command::new("sh"),
            "python" => Command::new(cache_dir().join("python/bin/python")),
            // DuckDB's is run beside the archive.
            "sql" => continue,
            other => panic!("nobody runs {other}"),
        };
        let output = command.args(["-c", block]).env("PATH", &path).env("PGUSER", "anybody").output().unwrap();
        let told = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && !output.stdout.is_empty(), "{block}: {told}");
        ran.push(language);
    }
    assert_eq!(ran, ["sh", "sh", "python", "python"]);
}
