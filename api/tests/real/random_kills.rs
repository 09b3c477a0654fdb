//! kill -9 at random times, under load and at rest.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::engine::Engine;
use crate::invariants;
use crate::world::{World, shared};

#[test]
fn kills_at_random_times_change_no_answer() {
    let servers = shared();
    let world = World::new(&servers, "random-kills");
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let kills: u64 = number("TIDEGATE_TEST_KILLS").unwrap_or(25);
    let seed =
        number("TIDEGATE_TEST_SEED").unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs());
    println!("TIDEGATE_TEST_SEED={seed} TIDEGATE_TEST_KILLS={kills}");
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    invariants::prepare(&world);
    let mut unknown = 0;
    let mut load = None;
    for kill in 0..kills {
        // Load and rest in turns of four kills.
        match (kill % 8 < 4, load.is_some()) {
            (true, false) => load = Some(world.generating(&["--rate", "2500", "--seed", &(seed + kill).to_string()])),
            (false, true) => load = None,
            _ => {}
        }
        let mut engine = world.engine().start();
        std::thread::sleep(Duration::from_millis(rng.random_range(10..1500)));
        if kill % (kills / 20).max(5) == 2 {
            // At any instant, not only at rest: the engine goes on meanwhile.
            invariants::check(&world, &format!("while engine {} runs", kill + 1));
        }
        engine.kill9();
        unknown += invariants::check_unknowns(&engine.log());
        if kill % (kills / 20).max(5) == 4 {
            invariants::check(&world, &format!("after {} random kills", kill + 1));
            invariants::check_recoveries(&world);
        }
    }
    drop(load);
    let log = Engine::run_to_end(&world);
    invariants::check_unknowns(&log);
    world.wait_committed(Duration::from_secs(5));
    invariants::check(&world, "after the last random kill");
    invariants::check_restart(&world);
    println!("{kills} random kills, {} records, {unknown} unknown outcomes, no difference", world.committed());
}
