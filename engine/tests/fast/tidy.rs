//! The rules of the house that a machine can hold.

use std::path::{Path, PathBuf};

/// The repository that the tests run in. Asked when they run: clones may share one target directory.
fn repository() -> PathBuf {
    Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").expect("run by cargo")).join("..")
}

fn sources(root: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![repository().join(root)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder").flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).expect("a file");
                found.push((path, text));
            }
        }
    }
    assert!(!found.is_empty(), "{root} has no sources");
    found
}

/// The part of a file that is no test; a file of tests has none.
fn code(text: &str) -> &str {
    if text.starts_with("//! Tests") {
        return "";
    }
    text.split("#[cfg(test)]\nmod tests").next().unwrap_or(text)
}

fn assert_only(root: &str, word: &str, allowed: &[&str]) {
    for (path, text) in sources(root) {
        let shown = path.to_string_lossy();
        let here =
            code(&text).lines().filter(|line| !line.trim_start().starts_with("//")).any(|line| line.contains(word));
        assert!(!here || allowed.iter().any(|place| shown.contains(place)), "{shown} may not name {word}");
    }
}

#[test]
fn no_column_of_the_example_stands_in_the_code() {
    let example = std::fs::read_to_string(repository().join("queries/stream_metrics.sql")).unwrap();
    for word in
        ["event_type", "stream_id", "user_id", "message_len", "amount_usd", "donation", "chat_message", "viewer"]
    {
        assert!(example.contains(word), "{word} is not in the example any more");
        for (path, text) in sources("engine/src").into_iter().chain(sources("api/src")) {
            assert!(!text.contains(word), "{} names {word}", path.display());
        }
    }
}

#[test]
fn each_client_is_named_in_its_room_only() {
    assert_only("engine/src", "rdkafka", &["/kafka/"]);
    assert_only("engine/src", "tokio_postgres", &["/store/postgres/"]);
    assert_only("engine/src", "sqlparser", &["/sql/"]);
    assert_only("engine/src", "axum", &[]);
    assert_only("api/src", "rdkafka", &[]);
    assert_only("api/src", "datafusion", &[]);
    assert_only("benches/src", "tidegate_engine", &[]);
}

#[test]
fn only_the_clock_asks_what_time_it_is() {
    assert_only("engine/src", "Instant::now()", &["/time/clock.rs"]);
    assert_only("engine/src", "SystemTime", &["/time/clock.rs"]);
}

#[test]
fn every_file_says_what_it_is_for_and_none_gives_up_by_unwrap() {
    for root in ["engine/src", "api/src", "benches/src"] {
        for (path, text) in sources(root) {
            assert!(text.starts_with("//!"), "{} has no header", path.display());
            let unwraps = [".unwrap()", "todo!(", "unimplemented!("];
            assert!(!unwraps.iter().any(|word| code(&text).contains(word)), "{} gives up", path.display());
        }
    }
}

#[test]
fn unsafe_code_is_in_the_audited_modules_only() {
    let allowed = [
        "/kafka/native.rs",
        "/failpoint.rs",
        "/recent/map.rs",
        "/adhoc/limits.rs",
        "/benches/src/native.rs",
        "/local/process.rs",
    ];
    for root in ["engine/src", "api/src", "benches/src"] {
        assert_only(root, "unsafe {", &allowed);
    }
}

#[test]
fn every_failpoint_is_passed_somewhere() {
    let all: String =
        sources("engine/src").into_iter().filter(|(p, _)| !p.ends_with("failpoint.rs")).map(|(_, t)| t).collect();
    let kills = include_str!("../../../api/tests/real/kill_points.rs");
    for point in tidegate_engine::failpoint::POINTS {
        assert!(all.contains(&format!("hit(\"{point}\")")), "{point} is never passed");
        assert!(kills.contains(&format!("\"{point}\"")), "no test kills at {point}");
    }
}
