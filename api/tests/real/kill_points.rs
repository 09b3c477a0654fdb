//! kill -9 at every named point, on its first hit; on its second and tenth too with `TIDEGATE_TEST_ALL`.

use std::time::Duration;

use crate::engine::Engine;
use crate::invariants;
use crate::world::{World, shared};

/// Points that a process passes once, or once in a while: their n-th hit is that of the n-th process.
const ONCE: [&str; 4] = ["takeover", "recover-loaded", "replay-mid", "shutdown"];

/// Those of the archive are in archive.rs: "archive-look", "archive-begun", "archive-written", "archive-ended".
const POINTS: [&str; 20] = [
    "read",
    "decoded",
    "aggregated",
    "recent-written",
    "begun",
    "fenced",
    "upserted",
    "dead-letters",
    "progress",
    "commit-unsent",
    "commit-sent",
    "commit-acked",
    "memory-advanced",
    "recent-merged",
    "state",
    "checkpoint-merged",
    "replay-mid",
    "recover-loaded",
    "takeover",
    "shutdown",
];

fn kill_at(world: &World<'_>, point: &str, hit: u32) -> bool {
    if ONCE.contains(&point) {
        for _ in 1..hit {
            let mut engine = world.engine().start();
            engine.wait_log("state digest=", Duration::from_secs(20));
            engine.stop();
        }
    }
    if point == "replay-mid" {
        // A replay needs commits behind the last checkpoint.
        let mut engine = world.engine().set("TIDEGATE__ENGINE__CHECKPOINT_INTERVAL_MS", "60000").start();
        engine.wait_log("state digest=", Duration::from_secs(20));
        world.wait_progress(Duration::from_secs(20));
        engine.kill9();
    }
    let on = if ONCE.contains(&point) { 1 } else { hit };
    let mut engine =
        world.engine().failpoint(&format!("{point}=kill@{on}")).set("TIDEGATE__ENGINE__EPOCH_MS", "10").start();
    if point == "shutdown" {
        engine.wait_log("state digest=", Duration::from_secs(20));
        world.wait_progress(Duration::from_secs(20));
        engine.signal(libc::SIGTERM);
    }
    let killed = engine.was_killed(Duration::from_secs(30));
    if !killed {
        println!("{point} hit {hit} was not reached:\n{}", engine.tail());
    }
    invariants::check_unknowns(&engine.log());
    killed && engine.log().contains(&format!("failpoint {point} hit {on}"))
}

#[test]
fn a_kill_at_any_point_changes_no_answer() {
    let servers = shared();
    let world = World::new(&servers, "kill-points");
    invariants::prepare(&world);
    let all = std::env::var_os("TIDEGATE_TEST_ALL").is_some();
    let hits: &[u32] = if all { &[1, 2, 10] } else { &[1] };
    let _load = world.generating(&["--rate", "3000", "--seed", "11"]);
    let mut table = Vec::new();
    for point in POINTS {
        let mut row = format!("{point:>18}");
        for hit in hits {
            let reached = kill_at(&world, point, *hit);
            row.push_str(if reached { "  reached" } else { "  MISSED" });
            invariants::check(&world, &format!("after a kill at {point}, hit {hit}"));
            invariants::check_recoveries(&world);
        }
        table.push(row);
    }
    println!(
        "{:>18}  {}\n{}",
        "point",
        hits.iter().map(|hit| format!("hit {hit:<3}")).collect::<Vec<_>>().join("  "),
        table.join("\n")
    );
    assert!(!table.iter().any(|row| row.contains("MISSED")), "a point was not reached");
    drop(_load);
    Engine::run_to_end(&world);
    world.wait_committed(Duration::from_secs(5));
    invariants::check(&world, "after the last kill");
    invariants::check_restart(&world);
}
