//! The page in a real browser: it opens, rows change, a query is asked, an error is placed, the engine stops.

use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::asking::api_of;
use crate::world::{World, repository, shared};

#[test]
fn people_see_what_is_going_on() {
    let servers = shared();
    let world = World::new(&servers, "page");
    let (_api, client) = api_of(&world);
    let past = (chrono::Utc::now() - chrono::Duration::minutes(15)).to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
    world.generate(&["--count", "20000", "--rate", "0", "--seed", "50", "--speed", "40", "--start-time", &past]);
    let mut engine = world.engine().start();
    world.wait_committed(Duration::from_secs(20));
    let _load = world.generating(&["--rate", "200", "--seed", "51"]);
    world.wait_progress(Duration::from_secs(20));
    // The last of them stops the engine.
    for test in ["test/reference.test.mjs", "test/page.test.mjs"] {
        let mut node = Command::new("node");
        node.arg(test).arg(format!("http://{}", client.listen)).current_dir(repository().join("api/page"));
        let output = node.env("ENGINE_PID", engine.pid().to_string()).output().expect("make setup installs node");
        let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{test}: {out}{error}");
        let last = out.lines().last().unwrap_or_default();
        let told: Value = serde_json::from_str(last).unwrap_or_else(|fault| panic!("{test}: {fault}: {out}"));
        println!("{told}");
    }
    engine.stop();
}

/// What is committed is what its text makes.
#[test]
fn the_bundle_is_that_of_its_text() {
    let mut npm = Command::new("npm");
    let output = npm.args(["run", "--silent", "check"]).current_dir(repository().join("api/page")).output().unwrap();
    let told = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{told}");
}
