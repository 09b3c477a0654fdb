//! The batch computation: reads the log itself, decides in plain SQL, shares no code with the pipeline.

use std::fmt::Write;
use std::time::{Duration, Instant};

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::world::World;

/// Tables and functions of the oracle, and the audit triggers.
pub const SETUP: &str = r#"
CREATE SCHEMA IF NOT EXISTS oracle;
CREATE TABLE IF NOT EXISTS oracle.raw (part int, off bigint, payload bytea, PRIMARY KEY (part, off));
CREATE TABLE IF NOT EXISTS oracle.decoded (part int, off bigint, reason text, ts timestamptz, event_type text, stream_id text, amount numeric, user_id text, len int, PRIMARY KEY (part, off));
CREATE OR REPLACE FUNCTION oracle.decode(payload bytea, OUT reason text, OUT ts timestamptz, OUT event_type text, OUT stream_id text, OUT amount numeric, OUT user_id text, OUT len int)
LANGUAGE plpgsql AS $$
DECLARE j jsonb;
BEGIN
  IF payload IS NULL THEN reason := 'null-payload'; RETURN; END IF;
  BEGIN
    j := convert_from(payload, 'UTF8')::jsonb;
    ts := (j->>'ts')::timestamptz;
    amount := coalesce((j->>'amount_usd')::numeric(12,2), (j->>'amount')::numeric(12,2));
    len := (j->>'message_len')::int;
  EXCEPTION WHEN others THEN reason := 'malformed'; RETURN;
  END;
  event_type := j->>'event_type';
  stream_id := j->>'stream_id';
  user_id := j->>'user_id';
  IF jsonb_typeof(j) <> 'object' THEN reason := 'malformed';
  ELSIF stream_id IS NULL THEN reason := 'missing';
  ELSIF ts IS NULL THEN reason := 'null-time';
  END IF;
END $$;
-- Decoded records with the watermark that judges them.
CREATE OR REPLACE VIEW oracle.marked AS
SELECT *, max(ts) OVER (PARTITION BY part ORDER BY off ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) - interval '10 seconds' AS wm
FROM oracle.decoded WHERE reason IS NULL;
-- What should have become of each record: rejected, late or accepted; by stream_metrics_minute, and by talk_5_minutes.
CREATE OR REPLACE VIEW oracle.judged AS
SELECT part, off, CASE WHEN w + interval '1 minute' <= wm THEN 'late' END AS reason, w, event_type, stream_id, amount, user_id
FROM (SELECT *, date_bin('1 minute', ts, 'epoch') AS w FROM (SELECT part, off, ts, event_type, stream_id, amount, user_id, wm FROM oracle.marked) m) p
UNION ALL SELECT part, off, reason, NULL, NULL, NULL, NULL, NULL FROM oracle.decoded WHERE reason IS NOT NULL;
CREATE OR REPLACE VIEW oracle.judged_talk AS
SELECT part, off, CASE WHEN pane + interval '30 seconds' <= wm THEN 'late' END AS reason, pane, stream_id, user_id, len
FROM (SELECT *, date_bin('30 seconds', ts, 'epoch') AS pane FROM (SELECT part, off, ts, event_type, stream_id, user_id, len, wm FROM oracle.marked) m) p
WHERE event_type = 'chat_message';
CREATE TABLE IF NOT EXISTS oracle.audit (what text, seq bigint, epoch bigint, part int, from_ bigint, until bigint, watermark timestamptz);
CREATE TABLE IF NOT EXISTS oracle.violations (what text, detail text);
CREATE OR REPLACE FUNCTION oracle.note_progress() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO oracle.audit SELECT 'progress', commit_seq, epoch, NEW.part, OLD.next_offset, NEW.next_offset, NEW.watermark FROM tidegate.pipelines WHERE pipeline = NEW.pipeline;
  IF NEW.next_offset < OLD.next_offset OR NEW.watermark < OLD.watermark THEN
    INSERT INTO oracle.violations VALUES ('I2', format('%s goes back to %s', OLD, NEW));
  END IF;
  RETURN NEW;
END $$;
CREATE OR REPLACE FUNCTION oracle.note_commit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.commit_seq <> OLD.commit_seq THEN
    INSERT INTO oracle.audit VALUES ('commit', NEW.commit_seq, NEW.epoch, NULL, NULL, NULL, NEW.watermark);
  END IF;
  IF NEW.commit_seq < OLD.commit_seq OR NEW.epoch < OLD.epoch OR NEW.watermark < OLD.watermark THEN
    INSERT INTO oracle.violations VALUES ('I2', format('%s goes back to %s', OLD, NEW));
  END IF;
  RETURN NEW;
END $$;
CREATE OR REPLACE FUNCTION oracle.note_row() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE row record := coalesce(NEW, OLD);
BEGIN
  IF row.window_end <= (SELECT closed_until FROM tidegate.view_progress WHERE view = TG_TABLE_NAME) THEN
    INSERT INTO oracle.violations VALUES ('I8', format('%s of a closed window: %s', TG_OP, row));
  END IF;
  RETURN NULL;
END $$;
"#;

/// The triggers, once the engine has made its tables.
pub const TRIGGERS: &str = r#"
CREATE TRIGGER note AFTER UPDATE ON tidegate.progress FOR EACH ROW WHEN (NEW.pipeline = 'stream_events') EXECUTE FUNCTION oracle.note_progress();
CREATE TRIGGER note AFTER UPDATE ON tidegate.pipelines FOR EACH ROW WHEN (NEW.pipeline = 'stream_events') EXECUTE FUNCTION oracle.note_commit();
CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON stream_metrics_minute FOR EACH ROW EXECUTE FUNCTION oracle.note_row();
"#;

/// Reads what is new in the topic into `oracle.raw`.
pub fn load(world: &World<'_>) {
    let ends = world.servers.kafka.end_offsets(&world.topic).expect("ends");
    let known = world.sql("SELECT part || ' ' || max(off) + 1 FROM oracle.raw GROUP BY part");
    let mut list = TopicPartitionList::new();
    let mut open = 0;
    for (partition, end) in ends.iter().enumerate() {
        let from =
            known.lines().find_map(|line| line.strip_prefix(&format!("{partition} "))?.parse().ok()).unwrap_or(0i64);
        if from < *end {
            list.add_partition_offset(&world.topic, partition as i32, Offset::Offset(from)).expect("offset");
            open += 1;
        }
    }
    if open == 0 {
        return;
    }
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", world.servers.kafka.brokers())
        .set("group.id", "oracle")
        .set("isolation.level", "read_committed")
        .set("enable.partition.eof", "true")
        .set("auto.offset.reset", "error")
        .create()
        .expect("consumer");
    consumer.assign(&list).expect("assign");
    let mut text = String::new();
    let limit = Instant::now() + Duration::from_secs(60);
    let mut done = std::collections::HashSet::new();
    while done.len() < open {
        assert!(Instant::now() < limit, "the oracle cannot read the topic");
        match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => {
                let payload = message.payload().map_or("\\N".to_string(), |bytes| {
                    bytes.iter().fold("\\\\x".to_string(), |mut hex, byte| {
                        let _ = write!(hex, "{byte:02x}");
                        hex
                    })
                });
                if message.offset() < ends[message.partition() as usize] {
                    let _ = writeln!(text, "{}\t{}\t{payload}", message.partition(), message.offset());
                }
                if message.offset() + 1 >= ends[message.partition() as usize] {
                    done.insert(message.partition());
                }
            }
            Some(Err(rdkafka::error::KafkaError::PartitionEOF(partition))) => {
                done.insert(partition);
            }
            Some(Err(error)) => panic!("the oracle cannot read the topic: {error}"),
            None => {}
        }
    }
    let file = world.dir.path().join("raw.tsv");
    std::fs::write(&file, text).expect("file");
    world.sql(&format!("\\copy oracle.raw FROM '{}'", file.display()));
    world.sql(
        "INSERT INTO oracle.decoded SELECT r.part, r.off, d.* FROM oracle.raw r, oracle.decode(r.payload) d \
         WHERE NOT EXISTS (SELECT FROM oracle.decoded o WHERE o.part = r.part AND o.off = r.off); ANALYZE oracle.decoded",
    );
}

/// The rows that the committed prefix must give, against those that are there; an empty text when they are equal.
pub fn difference(world: &World<'_>) -> String {
    world.sql(
        "BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ;
         DROP TABLE IF EXISTS oracle.snap_rows, oracle.snap_state, oracle.snap_talk, oracle.snap_progress, oracle.snap_views, oracle.snap_letters;
         CREATE TABLE oracle.snap_rows AS SELECT * FROM stream_metrics_minute;
         CREATE TABLE oracle.snap_state AS SELECT * FROM stream_state;
         CREATE TABLE oracle.snap_talk AS SELECT * FROM talk_5_minutes;
         CREATE TABLE oracle.snap_progress AS SELECT * FROM tidegate.progress WHERE pipeline = 'stream_events';
         CREATE TABLE oracle.snap_views AS SELECT * FROM tidegate.view_progress WHERE pipeline = 'stream_events';
         CREATE TABLE oracle.snap_letters AS SELECT * FROM tidegate.dead_letters WHERE pipeline = 'stream_events' AND view IN ('', 'stream_metrics_minute', 'talk_5_minutes');
         COMMIT",
    );
    load(world);
    [MINUTES, STATE, TALK]
        .iter()
        .map(|sql| world.sql(&between(sql)))
        .filter(|lines| !lines.is_empty())
        .collect::<Vec<_>>()
        .join("\n")
}

/// What is expected and missing, and what is there and wrong.
fn between(with: &str) -> String {
    format!(
        "WITH {with}
         (SELECT 'missing' AS what, e.* FROM (SELECT * FROM expected EXCEPT ALL SELECT * FROM actual) e)
         UNION ALL (SELECT 'wrong', a.* FROM (SELECT * FROM actual EXCEPT ALL SELECT * FROM expected) a) ORDER BY 2, 4, 1 LIMIT 10"
    )
}

const MINUTES: &str = "accepted AS (SELECT j.* FROM oracle.judged j JOIN oracle.snap_progress p ON p.part = j.part AND j.off < p.next_offset WHERE j.reason IS NULL),
 expected AS (
   SELECT w, w + interval '1 minute', stream_id, count(*) FILTER (WHERE event_type = 'chat_message'), count(*) FILTER (WHERE event_type = 'donation'),
          coalesce(sum(amount) FILTER (WHERE event_type = 'donation'), 0), count(*) FILTER (WHERE event_type = 'viewer_join'),
          count(*) FILTER (WHERE event_type = 'viewer_leave'), count(DISTINCT user_id) FILTER (WHERE event_type = 'chat_message')
   FROM accepted GROUP BY w, stream_id),
 actual AS (SELECT window_start, window_end, stream_id, chat_messages, donations, donations_usd, joins, leaves, chatters FROM oracle.snap_rows)";

/// Whatever was decoded counts, however late.
const STATE: &str = "expected AS (
   SELECT stream_id, count(*) FILTER (WHERE event_type = 'viewer_join') - count(*) FILTER (WHERE event_type = 'viewer_leave'), max(ts)
   FROM oracle.marked m JOIN oracle.snap_progress p ON p.part = m.part AND m.off < p.next_offset GROUP BY stream_id),
 actual AS (SELECT stream_id, viewers, last_event_at FROM oracle.snap_state)";

/// Closed windows: an open one may be published a moment later than its rows are committed.
const TALK: &str = "closed AS (SELECT closed_until FROM oracle.snap_views WHERE view = 'talk_5_minutes'),
 accepted AS (SELECT j.* FROM oracle.judged_talk j JOIN oracle.snap_progress p ON p.part = j.part AND j.off < p.next_offset WHERE j.reason IS NULL),
 expected AS (
   SELECT w, w + interval '5 minutes', stream_id, count(*), count(DISTINCT user_id), sum(len)
   FROM accepted, generate_series(pane - interval '4 minutes 30 seconds', pane, interval '30 seconds') AS w
   WHERE w + interval '5 minutes' <= (SELECT closed_until FROM closed) GROUP BY w, stream_id),
 actual AS (SELECT window_start, window_end, stream_id, messages, chatters, characters FROM oracle.snap_talk WHERE window_end <= (SELECT closed_until FROM closed))";

/// Dead letters against the records that should be among them, below the committed offsets.
pub fn dead_letter_difference(world: &World<'_>) -> String {
    let judged = |from: &str, view: &str| {
        format!(
            "SELECT j.part, j.off, j.reason, CASE WHEN j.reason = 'late' THEN '{view}' ELSE '' END AS view FROM oracle.{from} j \
             JOIN oracle.snap_progress p ON p.part = j.part AND j.off < p.next_offset WHERE j.reason IS NOT NULL"
        )
    };
    world.sql(&between(&format!(
        "expected AS ({} UNION ALL {}),
         actual AS (SELECT l.part, o, l.reason, l.view FROM oracle.snap_letters l, unnest(coalesce(l.more_offsets, ARRAY[l.\"offset\"])) AS o)",
        judged("judged", "stream_metrics_minute"),
        judged("judged_talk", "talk_5_minutes")
    )))
}
