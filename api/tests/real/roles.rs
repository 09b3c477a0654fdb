//! What a role of the database must be allowed to do, and what it need not.

use std::time::Duration;

use serde_json::Value;

use crate::asking::{api_with, get};
use crate::engine::Engine;
use crate::world::{World, shared};

/// The same database by another role.
fn url_of(world: &World<'_>, role: &str) -> String {
    let url = world.url();
    let rest = url.split_once('@').map(|(_, rest)| rest).expect("a user in the url");
    format!("postgres://{role}:of-a-test@{rest}")
}

#[test]
fn an_owner_writes_a_reader_asks_and_a_superuser_is_warned_of() {
    let servers = shared();
    let world = World::new(&servers, "roles");
    let (owner, reader, database) =
        (format!("owner_{}", world.database), format!("reader_{}", world.database), world.database.clone());
    for role in [&owner, &reader] {
        world.sql(&format!("CREATE ROLE {role} LOGIN PASSWORD 'of-a-test'"));
    }
    world.sql(&format!("ALTER DATABASE {database} OWNER TO {owner}"));
    world.generate(&["--count", "2000", "--rate", "0", "--seed", "6"]);
    let mut engine = Engine::new(&world, &url_of(&world, &owner)).until_caught_up().start();
    assert_eq!(engine.code(Duration::from_secs(60)), Some(0), "{}", engine.tail());
    assert!(!engine.log().contains("superuser"), "{}", engine.log());
    let log = Engine::run_to_end(&world);
    assert!(log.contains("is a superuser"), "{log}");

    world.sql(&format!(
        "GRANT USAGE ON SCHEMA tidegate TO {reader}; GRANT SELECT ON ALL TABLES IN SCHEMA tidegate, public TO {reader}"
    ));
    let (api, listen) = api_with(&url_of(&world, &reader), "", &[]);
    for path in ["/health", "/readyz", "/api/v1/queries", "/api/v1/dead-letters"] {
        assert_eq!(get(&listen, path).0, 200, "{path}: {}", get(&listen, path).1);
    }
    let (status, text) = get(&listen, "/api/v1/queries/stream_state/rows?limit=3");
    let rows: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{status} {text}: {error}"));
    assert_eq!((status, &rows["row_count"]), (200, &Value::from(3)), "{text}");
    for sql in ["SELECT count(*) FROM stream_state", "SELECT count(*) FROM tidegate.progress"] {
        let asked: String = form_urlencoded::byte_serialize(sql.as_bytes()).collect();
        assert_eq!(get(&listen, &format!("/api/v1/sql?sql={asked}")).0, 200, "{sql}");
    }
    // A table that came with an upgrade was not granted.
    world.sql(&format!("REVOKE SELECT ON tidegate.window_changes FROM {reader}"));
    let asked: String = form_urlencoded::byte_serialize(b"SELECT * FROM tidegate.windows").collect();
    let (status, text) = get(&listen, &format!("/api/v1/sql?sql={asked}"));
    assert_eq!(status, 200, "{text}");
    drop(api);
    for role in [&owner, &reader] {
        world.sql(&format!("REASSIGN OWNED BY {role} TO CURRENT_USER; DROP OWNED BY {role}; DROP ROLE {role}"));
    }
}
