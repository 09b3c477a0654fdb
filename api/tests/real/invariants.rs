//! What must hold of the database at any instant, by the names of the commit protocol.

use tidegate_bench::local::wait_until;

use crate::engine::Engine;
use crate::oracle;
use crate::world::World;

/// Makes the engine's tables, then the oracle's, so that everything that follows is audited.
pub fn prepare(world: &World<'_>) {
    Engine::run_to_end(world);
    world.sql(oracle::SETUP);
    world.sql(oracle::TRIGGERS);
}

/// I1 to I5, I7 and I8; `when` names the moment for the message.
pub fn check(world: &World<'_>, when: &str) {
    let none = |name: &str, text: String| {
        assert!(text.is_empty(), "{when}: {name} does not hold in {}:\n{text}", world.database)
    };
    none("I1 prefix (rows)", oracle::difference(world));
    none("I4 accounting (dead letters)", oracle::dead_letter_difference(world));
    none("I2 monotone, I8 final", world.sql("SELECT * FROM oracle.violations LIMIT 5"));
    none(
        "I3 tiling",
        world.sql(
            "SELECT * FROM (SELECT part, seq, from_, until, lag(until) OVER (PARTITION BY part ORDER BY seq) AS previous FROM oracle.audit WHERE what = 'progress') t \
             WHERE previous IS NOT NULL AND previous <> from_ LIMIT 5",
        ),
    );
    none(
        "I3 tiling (whole)",
        world.sql(
            "SELECT p.part, p.next_offset - p.start_offset AS committed, a.moved FROM tidegate.progress p \
             JOIN (SELECT part, sum(until - from_) AS moved FROM oracle.audit WHERE what = 'progress' GROUP BY part) a ON a.part = p.part AND p.pipeline = 'stream_events' \
             WHERE p.next_offset - p.start_offset <> a.moved",
        ),
    );
    none(
        "I5 one writer",
        world.sql(
            "SELECT seq, count(*) FROM oracle.audit WHERE what = 'commit' GROUP BY seq HAVING count(*) > 1 \
             UNION ALL SELECT seq, epoch FROM (SELECT seq, epoch, lag(epoch) OVER (ORDER BY seq) AS before FROM oracle.audit WHERE what = 'commit') t WHERE epoch < before LIMIT 5",
        ),
    );
    none(
        "I4 accounting (source)",
        world.sql(
            "SELECT records_read, records_decoded, records_rejected, (SELECT sum(next_offset - start_offset) FROM tidegate.progress WHERE pipeline = p.pipeline) \
             FROM tidegate.pipelines p WHERE records_read <> records_decoded + records_rejected \
             OR records_read <> (SELECT sum(next_offset - start_offset) FROM tidegate.progress WHERE pipeline = p.pipeline)",
        ),
    );
    none(
        "I4 accounting (view)",
        world.sql(
            "SELECT v.*, p.records_decoded FROM tidegate.view_progress v JOIN tidegate.pipelines p USING (pipeline) \
             WHERE v.decoded <> v.filtered + v.accepted + v.late + v.failed OR v.decoded <> p.records_decoded",
        ),
    );
    none(
        "I7 positions",
        world.sql("SELECT * FROM tidegate.progress WHERE NOT (start_offset <= checkpoint_offset AND checkpoint_offset <= next_offset AND rebuild_from <= next_offset)"),
    );
    none(
        "I7 pieces",
        world.sql("SELECT view, state_pieces FROM tidegate.view_progress v WHERE state_pieces <> (SELECT count(*) FROM tidegate.state s WHERE s.view = v.view)"),
    );
}

/// I6: every unknown outcome was resolved.
pub fn check_unknowns(log: &str) -> usize {
    let unknown = log.matches("outcome unknown").count();
    let resolved = log.matches("resolved=committed").count() + log.matches("resolved=aborted").count();
    assert!(resolved >= unknown, "I6: {unknown} unknown outcomes, {resolved} resolved");
    unknown
}

/// The last commit.
fn last_commit(world: &World<'_>) -> String {
    world.sql("SELECT commit_seq, commit_id, checkpoint_seq FROM tidegate.pipelines")
}

/// What a restart without input must leave as it is, also where it publishes open windows once more.
fn lasting(world: &World<'_>) -> String {
    world.sql(
        "SELECT watermark, records_read, records_decoded, records_rejected FROM tidegate.pipelines; \
         SELECT * FROM tidegate.progress ORDER BY part; SELECT * FROM tidegate.view_progress ORDER BY view; \
         SELECT md5(string_agg(t::text, '' ORDER BY t::text)) FROM stream_metrics_minute t; \
         SELECT md5(string_agg(t::text, '' ORDER BY t::text)) FROM stream_state t; \
         SELECT md5(string_agg(t::text, '' ORDER BY t::text)) FROM talk_5_minutes t \
         WHERE window_end <= (SELECT closed_until FROM tidegate.view_progress WHERE view = 'talk_5_minutes'); \
         SELECT count(*), sum(length(data)) FROM tidegate.state; SELECT count(*) FROM tidegate.dead_letters",
    )
}

/// I9 and I14, also under load: two engines that are killed at their first read, before any commit, recover the same
/// state and change nothing.
pub fn check_recoveries(world: &World<'_>) {
    let before = (last_commit(world), lasting(world));
    let mut digests = Vec::new();
    for _ in 0..2 {
        let mut engine = world.engine().failpoint("read=kill@1").start();
        assert!(engine.was_killed(std::time::Duration::from_secs(20)), "{}", engine.tail());
        digests.extend(crate::engine::digests(&engine.log()));
    }
    assert_eq!(before, (last_commit(world), lasting(world)), "I14: a recovery has changed something");
    // A recovery that had to begin again, because a server did not answer, tells its digest twice.
    assert!(
        digests.len() >= 2 && digests.iter().all(|digest| *digest == digests[0]),
        "I9: digests differ: {digests:?}"
    );
}

/// I9 and I14: a start and a stop without input change nothing but the epoch, and recover the same state.
pub fn check_restart(world: &World<'_>) {
    let before = lasting(world);
    let mut digests = Vec::new();
    for _ in 0..2 {
        let mut engine = world.engine().start();
        let recovered = || engine.log().contains("state digest=");
        assert!(wait_until(std::time::Duration::from_secs(20), recovered), "{}", engine.tail());
        engine.stop();
        digests.extend(crate::engine::digests(&engine.log()).into_iter().map(|(_, digest)| digest));
    }
    assert_eq!(before, lasting(world), "I14: a restart without input has changed something");
    assert!(
        digests.len() >= 2 && digests.iter().all(|digest| *digest == digests[0]),
        "I9: digests differ: {digests:?}"
    );
}
