//! State that is lost or damaged, and a log that no longer has what is needed.

use std::time::Duration;

use crate::engine::{Engine, digests};
use crate::invariants;
use crate::world::{World, shared};

/// A stopped pipeline with open windows and a checkpoint; the digest of its state.
fn with_state(world: &World<'_>) -> (i64, String) {
    invariants::prepare(world);
    let load = world.generating(&["--rate", "4000", "--duration", "2", "--seed", "61"]);
    let mut engine = world.engine().start();
    engine.wait_log("took over", Duration::from_secs(20));
    std::thread::sleep(Duration::from_secs(3));
    drop(load);
    world.wait_committed(Duration::from_secs(20));
    engine.stop();
    assert!(world.number("SELECT count(*) FROM tidegate.state") > 0, "there is no state");
    digests(&engine.log()).pop().expect("a digest")
}

fn rebuilds(world: &World<'_>, before: &(i64, String), why: &str) {
    let log = Engine::run_to_end(world);
    assert!(log.contains("rebuilding it from the log") && log.contains(why), "{log}");
    assert_eq!(digests(&log).first(), Some(before), "the rebuilt state differs");
    world.generate(&["--count", "2000", "--rate", "0", "--seed", "62"]);
    Engine::run_to_end(world);
    invariants::check(world, "some records after a rebuild");
    invariants::check_restart(world);
}

#[test]
fn lost_state_is_rebuilt_from_the_log() {
    let servers = shared();
    let world = World::new(&servers, "state-lost");
    let before = with_state(&world);
    world.sql("DELETE FROM tidegate.state WHERE ctid IN (SELECT ctid FROM tidegate.state LIMIT 1)");
    rebuilds(&world, &before, "pieces of state instead of");
}

#[test]
fn damaged_state_is_rebuilt_from_the_log() {
    let servers = shared();
    let world = World::new(&servers, "state-damaged");
    let before = with_state(&world);
    world.sql("UPDATE tidegate.state SET data = set_byte(data, length(data) / 2, get_byte(data, length(data) / 2) # 1) WHERE ctid IN (SELECT ctid FROM tidegate.state LIMIT 1)");
    rebuilds(&world, &before, "its digest does not fit");
}

#[test]
fn without_state_and_log_the_pipeline_stops_with_the_range_and_the_choices() {
    let servers = shared();
    let world = World::new(&servers, "state-gone");
    with_state(&world);
    world.sql("DELETE FROM tidegate.state");
    for (partition, end) in servers.kafka.end_offsets(&world.topic).unwrap().iter().enumerate() {
        servers.kafka.delete_records(&world.topic, partition as i32, *end).unwrap();
    }
    stops_with(&world, "TG-STATE-LOST");
}

#[test]
fn records_that_are_gone_before_they_were_read_stop_the_pipeline() {
    let servers = shared();
    let world = World::new(&servers, "offsets-lost");
    with_state(&world);
    world.generate(&["--count", "4000", "--rate", "0", "--seed", "63"]);
    let end = servers.kafka.end_offsets(&world.topic).unwrap()[0];
    servers.kafka.delete_records(&world.topic, 0, end).unwrap();
    stops_with(&world, "TG-OFFSETS-LOST");
}

#[test]
fn a_topic_that_was_made_again_stops_the_pipeline() {
    let servers = shared();
    let world = World::new(&servers, "recreated");
    with_state(&world);
    servers.kafka.delete_topic(&world.topic).unwrap();
    servers.kafka.create_topic(&world.topic, 4, &[]).unwrap();
    // With more records than were committed: offsets alone would not tell.
    world.generate(&["--count", "40000", "--rate", "0", "--seed", "64"]);
    stops_with(&world, "TG-TOPIC-RECREATED");
}

fn stops_with(world: &World<'_>, code: &str) {
    let rows =
        || world.sql("SELECT count(*), md5(string_agg(t::text, '' ORDER BY t::text)) FROM stream_metrics_minute t");
    let before = rows();
    let mut engine = world.engine().start();
    assert_eq!(engine.code(Duration::from_secs(30)), Some(1), "{}", engine.tail());
    let log = engine.log();
    let last = log.lines().last().unwrap_or_default();
    assert!(
        last.contains(code) && last.contains("choose") || last.contains(code) && last.contains("new names"),
        "{last}"
    );
    assert_eq!(before, rows());
}
