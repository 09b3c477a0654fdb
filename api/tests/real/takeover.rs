//! Two engines: one writes, the other stands by.

use std::time::{Duration, Instant};

use crate::engine::Engine;
use crate::invariants;
use crate::world::{World, shared};

const TAKEOVER_MAX: Duration = Duration::from_secs(3);

/// An owner that has committed, and a standby that waits.
fn owner_and_standby<'a>(world: &'a World<'a>) -> (Engine<'a>, Engine<'a>) {
    let owner = world.engine().start();
    owner.wait_log("took over", Duration::from_secs(20));
    world.wait_progress(Duration::from_secs(20));
    let standby = world.engine().start();
    standby.wait_log("standing by", Duration::from_secs(20));
    (owner, standby)
}

#[test]
fn a_standby_takes_over_within_three_seconds_of_a_kill() {
    let servers = shared();
    let world = World::new(&servers, "takeover-kill");
    invariants::prepare(&world);
    let load = world.generating(&["--rate", "3000", "--seed", "21"]);
    let (mut owner, mut standby) = owner_and_standby(&world);
    let (epoch, started) = (world.number("SELECT epoch FROM tidegate.pipelines"), Instant::now());
    owner.kill9();
    let took = until_commit_of_later_epoch(&world, epoch, started);
    println!("took over {took:?} after a kill");
    assert!(took < TAKEOVER_MAX, "{took:?}\n{}", standby.tail());
    drop(load);
    world.wait_committed(Duration::from_secs(20));
    standby.stop();
    invariants::check(&world, "after a takeover");
}

#[test]
fn a_standby_takes_over_from_a_stopped_owner_which_is_fenced_when_it_wakes() {
    let servers = shared();
    let world = World::new(&servers, "takeover-stop");
    invariants::prepare(&world);
    let load = world.generating(&["--rate", "3000", "--seed", "22"]);
    let (mut owner, mut standby) = owner_and_standby(&world);
    let (epoch, started) = (world.number("SELECT epoch FROM tidegate.pipelines"), Instant::now());
    owner.signal(libc::SIGSTOP);
    let took = until_commit_of_later_epoch(&world, epoch, started);
    println!("took over {took:?} after a stop");
    assert!(took < TAKEOVER_MAX, "{took:?}\n{}", standby.tail());
    owner.signal(libc::SIGCONT);
    owner.wait_log("TG-FENCED", Duration::from_secs(10));
    owner.wait_log("standing by", Duration::from_secs(10));
    std::thread::sleep(Duration::from_millis(500));
    drop(load);
    world.wait_committed(Duration::from_secs(20));
    standby.stop();
    owner.stop();
    invariants::check(&world, "after a takeover from a stopped owner");
}

fn until_commit_of_later_epoch(world: &World<'_>, epoch: i64, started: Instant) -> Duration {
    while world.number(&format!("SELECT count(*) FROM oracle.audit WHERE what = 'commit' AND epoch > {epoch}")) == 0 {
        assert!(started.elapsed() < Duration::from_secs(15), "nobody takes over");
        std::thread::sleep(Duration::from_millis(20));
    }
    started.elapsed()
}
