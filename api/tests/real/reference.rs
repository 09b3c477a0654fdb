//! The OpenAPI document against the api that it describes: `schemathesis` asks whatever the document allows, and what it
//! does not, and holds the answers against it.

use std::process::Command;
use std::time::Duration;

use tidegate_bench::local::cache_dir;

use crate::asking::{Client, api_with_environment};
use crate::world::{World, shared};

/// An endpoint with a parameter of every kind, and columns of many types.
const EVERY: &str = "CREATE ENDPOINT '/every/kind' (
    small SMALLINT DEFAULT 1, n INT DEFAULT 5 BETWEEN 1 AND 100, big BIGINT DEFAULT 0, ratio REAL DEFAULT 1, exact DOUBLE DEFAULT 0.5,
    price DECIMAL(12, 2) DEFAULT 0.5 BETWEEN 0.0 AND 99.5, name VARCHAR DEFAULT NULL, by VARCHAR DEFAULT 'a' IN ('a', 'b'),
    flag BOOLEAN DEFAULT true, day DATE DEFAULT '2026-01-01', since TIMESTAMP WITH TIME ZONE DEFAULT '2026-01-01T00:00:00Z', local TIMESTAMP DEFAULT NULL)
  FIELD latest AS (SELECT max(window_start) FROM stream_metrics_minute)
AS SELECT window_start, stream_id, chat_messages, donations_usd, $small AS small, $big AS big, $ratio AS ratio, $exact AS exact, $price AS price, $name AS name,
    $by AS by_, $flag AS flag, $day AS day, $since AS since, $local AS local FROM stream_metrics_minute ORDER BY window_start DESC, stream_id LIMIT $n;
CREATE ENDPOINT '/must/be/told' (least BIGINT) AS SELECT stream_id FROM stream_state WHERE viewers >= $least ORDER BY stream_id LIMIT 3;";

/// A query cannot be made from a schema, so that one which the schema allows may well be refused; and one that is given a
/// millisecond has a right to 504.
const CONFIG: &str = r#"
[[operations]]
include-path = "/api/v1/sql"
checks.positive_data_acceptance.expected-statuses = ["2xx", "3xx", "4xx", "5xx"]
checks.not_a_server_error.expected-statuses = ["2xx", "3xx", "4xx", "504"]
"#;

#[test]
fn every_answer_is_as_the_document_says() {
    let servers = shared();
    let world = World::new(&servers, "reference");
    world.write_query("every.sql", EVERY);
    let _engine = world.engine().start();
    world.generate(&["--count", "3000", "--rate", "0", "--seed", "4"]);
    world.wait_committed(Duration::from_secs(30));
    let (_api, client) = api_with_environment(&world, &[("TIDEGATE__API__TOKEN", "of the reference")]);
    let token = ("authorization", "Bearer of the reference");
    let document = client.get("/api/openapi.json", &[token]);
    assert_eq!(document.status, 200, "{}", document.text());
    check_paths(&document.json());
    std::fs::write(world.dir.path().join("schemathesis.toml"), CONFIG).unwrap();
    let mut schemathesis = Command::new(cache_dir().join("python/bin/schemathesis"));
    schemathesis.current_dir(world.dir.path());
    schemathesis.args(["--config-file", "schemathesis.toml", "run", "--checks", "all", "--max-examples", "30"]);
    // A stream has no end.
    schemathesis.args(["--exclude-path-regex", "/stream$", "--header", "Authorization: Bearer of the reference"]);
    schemathesis.args(["--phases", "examples,coverage,fuzzing", "--no-color"]);
    // Other cases each time are for those who have the time to look into them.
    if std::env::var_os("TIDEGATE_TEST_ALL").is_none() {
        schemathesis.args(["--seed", "1"]);
    }
    let told = schemathesis.arg(format!("http://{}/api/openapi.json", client.listen)).output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&told.stdout), String::from_utf8_lossy(&told.stderr));
    assert!(told.status.success(), "{text}");
    println!("{}", text.lines().rev().take(12).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("\n"));
    drop(client);
}

/// Every path of the router's table of contents is in the document, and each endpoint with its types.
fn check_paths(document: &serde_json::Value) {
    assert_eq!(document["openapi"], "3.1.0");
    let paths = document["paths"].as_object().unwrap();
    for path in [
        "/health",
        "/readyz",
        "/prometheus",
        "/api/v1/sql",
        "/api/v1/sql/{id}",
        "/api/v1/queries",
        "/api/v1/queries/{name}/rows",
        "/api/v1/queries/{name}/stream",
        "/api/v1/dead-letters",
        "/api/openapi.json",
        "/every/kind",
        "/must/be/told",
    ] {
        assert!(paths.contains_key(path), "{path} is not in the document");
    }
    let n = &paths["/every/kind"]["get"]["parameters"][1];
    assert_eq!(n["schema"]["maximum"], 100, "{n}");
    assert_eq!(n["schema"]["default"], 5, "{n}");
    let least = &paths["/must/be/told"]["get"]["parameters"][0];
    assert_eq!(least["required"], true, "{least}");
    let rows =
        &paths["/every/kind"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]["properties"]["rows"];
    assert_eq!(rows["items"]["properties"]["chat_messages"]["type"], serde_json::json!(["integer", "null"]), "{rows}");
}

/// What is asked a thousand times a second costs the database a look each time and no more, and tells no names.
#[test]
fn who_asks_whether_it_lives_learns_no_more() {
    let servers = shared();
    let world = World::new(&servers, "lives");
    let (_api, client) = api_with_environment(&world, &[("TIDEGATE__API__TOKEN", "of the door")]);
    for path in ["/health", "/readyz"] {
        let reply = client.get(path, &[]);
        let told = format!("{:?} {}", reply.headers, reply.text());
        for name in [world.database.as_str(), world.topic.as_str(), "stream_", "postgres", env!("CARGO_PKG_VERSION")] {
            assert!(!told.contains(name), "{path} tells {name}: {told}");
        }
    }
    let asked = |client: &Client| (0..500).filter(|_| client.get("/health", &[]).status == 200).count();
    let answered: usize = std::thread::scope(|scope| {
        let listen = &client.listen;
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(move || asked(&Client::new(listen)))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(answered, 4_000);
    let token = ("authorization", "Bearer of the door");
    let metrics = client.get("/prometheus", &[token]).text();
    let computed = |how: &str| -> f64 {
        let name = format!("tidegate_api_answers_total{{how=\"{how}\"}} ");
        metrics.lines().find_map(|line| line.strip_prefix(&name)).map_or(0.0, |n| n.parse().unwrap())
    };
    assert!(computed("kept") > 3_900.0 && computed("computed") < 60.0, "{metrics}");
}
