//! A view's changed rows as they commit.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::Value;
use tidegate_bench::local::wait_until;

use crate::asking::{Reply, api_of, get};
use crate::world::{World, shared};

/// A listener, event by event.
struct Listener(BufReader<TcpStream>);

impl Listener {
    fn open(listen: &str, view: &str) -> Self {
        let mut stream = TcpStream::connect(listen).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        write!(
            stream,
            "GET /api/v1/queries/{view}/stream HTTP/1.1\r\nHost: {listen}\r\nAccept: text/event-stream\r\n\r\n"
        )
        .unwrap();
        Self(BufReader::new(stream))
    }

    /// The data of the next event; none once the stream has ended.
    fn next(&mut self) -> Option<Value> {
        let mut line = String::new();
        loop {
            line.clear();
            if self.0.read_line(&mut line).ok()? == 0 {
                return None;
            }
            if let Some(data) = line.strip_prefix("data: ") {
                return serde_json::from_str(data.trim()).ok();
            }
        }
    }
}

#[test]
fn listeners_hear_what_commits_change() {
    let servers = shared();
    let world = World::new(&servers, "stream");
    let (mut api, client) = api_of(&world);
    let listen = client.listen.clone();
    world.generate(&["--count", "3000", "--rate", "0", "--seed", "61"]);
    let mut engine = world.engine().start();
    world.wait_committed(Duration::from_secs(20));
    let (mut one, mut other) = (Listener::open(&listen, "stream_state"), Listener::open(&listen, "stream_state"));
    let (mut heard, mut commit) = (HashMap::new(), 0);
    let mut take = |event: &Value| {
        let rows = event["rows"].as_array().unwrap();
        assert!(event["commit"].as_i64().unwrap() > commit && !rows.is_empty(), "{event}");
        commit = event["commit"].as_i64().unwrap();
        heard.extend(rows.iter().map(|row| (row[0].to_string(), row.clone())));
        (rows.len(), heard.clone())
    };
    let first = one.next().expect("all rows");
    let (all, _) = take(&first);
    assert_eq!(first["columns"][0]["name"], "stream_id");
    assert_eq!(other.next().expect("all rows")["rows"], first["rows"]);
    // One record changes one row.
    let load = world.generating(&["--rate", "20", "--seed", "62"]);
    let (changed, _) = take(&one.next().expect("changes"));
    assert!(changed < all, "{changed} of {all}");
    std::thread::sleep(Duration::from_secs(2));
    drop(load);
    world.wait_committed(Duration::from_secs(20));
    let rows = || -> HashMap<String, Value> {
        let rows: Vec<Value> = client.sql("SELECT * FROM stream_state").rows();
        rows.into_iter().map(|row| (row[0].to_string(), row)).collect()
    };
    // What was heard is what there is.
    let (expected, started) = (rows(), Instant::now());
    loop {
        let (_, known) = take(&one.next().expect("changes"));
        if known == expected {
            break;
        }
        assert!(started.elapsed() < Duration::from_secs(15), "{known:?}\n{expected:?}");
    }
    assert_eq!(get(&listen, "/api/v1/queries/nothing/stream").0, 404);
    // Too many are told so; places are free again when listeners have gone.
    let heard = |mut listener: Listener| listener.next().map(|_| listener).expect("a place");
    let many: Vec<Listener> = (0..62).map(|_| heard(Listener::open(&listen, "stream_state"))).collect();
    let full = || client.get("/api/v1/queries/stream_state/stream", &[]);
    let refused: Reply = full();
    assert_eq!(refused.refusal(), (503, "TG-API-LISTENERS".to_string()));
    drop(many);
    assert!(wait_until(Duration::from_secs(20), || {
        let mut again = Listener::open(&listen, "stream_state");
        again.next().is_some()
    }));
    // An end of the api does not wait for them.
    let started = Instant::now();
    api.stop(libc::SIGTERM, Duration::from_secs(10));
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
    while other.next().is_some() {}
    engine.stop();
}
