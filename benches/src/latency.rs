//! Latency: from the broker's timestamp of a record until a reader of the database sees it committed, over TCP.
//!
//! What is seen is `tidegate.progress`, asked again and again; so each latency is too long by at most one interval of
//! asking, and by less than the millisecond to which the broker's timestamp is cut.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use sqlx::{Connection, Row};
use tidegate_bench::local::{Kafka, Postgres, wait_until};

use crate::engine::Engine;
use crate::eye::{COMMITTED, Eye};
use crate::load::{Load, now_us};
use crate::queries::Queries;
use crate::report::{Run, at};
use crate::topic::PARTITIONS;

const ASK_EVERY: Duration = Duration::from_millis(2);

/// A topic whose records bear the broker's time.
pub fn topic(kafka: &Kafka, name: &str) -> Result<(), String> {
    kafka.create_topic(name, PARTITIONS, &[("message.timestamp.type", "LogAppendTime")])
}

/// One run under a load.
pub fn run(kafka: &Kafka, postgres: &Postgres, database: &str, queries: &Queries, load: Load) -> Result<Run, String> {
    beside(kafka, postgres, database, queries, load, ASK_EVERY, |_| Ok(())).map(|(run, ())| run)
}

/// The same, asked so often, beside some work that is told the database and must be done before the load ends.
pub fn beside<T: Send>(
    kafka: &Kafka,
    postgres: &Postgres,
    database: &str,
    queries: &Queries,
    load: Load,
    ask_every: Duration,
    work: impl FnOnce(&str) -> Result<T, String> + Send,
) -> Result<(Run, T), String> {
    let url = postgres.create_database(database)?;
    let mut engine = Engine::start(queries, &url, kafka)?;
    if !wait_until(Duration::from_secs(30), || engine.is_ready()) {
        return Err(format!("the engine does not start:\n{}", engine.log()));
    }
    let stop = Arc::<AtomicBool>::default();
    let seen = std::thread::spawn({
        let (stop, url) = (stop.clone(), url.clone());
        move || watch(&url, &stop, ask_every)
    });
    let done = std::thread::scope(|scope| {
        let done = scope.spawn(|| work(&url));
        load.send(&kafka.brokers(), queries.topic(), |_| now_us() / 1000)?;
        if !done.is_finished() {
            return Err("what was to be done under the load took longer".to_string());
        }
        done.join().map_err(|_| "what was to be done under the load panicked".to_string())?
    })?;
    Eye::open(&url)?.wait(COMMITTED, load.total() as i64, Duration::from_secs(30))?;
    std::thread::sleep(ask_every * 5);
    stop.store(true, Ordering::Relaxed);
    let seen = seen.join().map_err(|_| "the watcher panicked".to_string())??;
    let usage = engine.used();
    engine.stop();
    queries.prove(postgres, database, load.total())?;
    let latencies = latencies(&kafka.brokers(), queries.topic(), load.total(), &seen)?;
    let run = Run {
        events_per_s: Some(load.rate as f64),
        seconds: load.seconds as f64,
        p50_ms: at(&latencies, 0.5),
        p99_ms: at(&latencies, 0.99),
        ..Run::of(usage, load.total())
    };
    Ok((run, done))
}

/// Times at which each partition was first seen committed up to an offset.
type Seen = Vec<Vec<(i64, i64)>>;

fn watch(url: &str, stop: &AtomicBool, ask_every: Duration) -> Result<Seen, String> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())?;
    runtime.block_on(async {
        let mut session = sqlx::PgConnection::connect(url).await.map_err(|error| error.to_string())?;
        let mut seen: Seen = vec![vec![(0, 0)]; PARTITIONS as usize];
        while !stop.load(Ordering::Relaxed) {
            let rows = sqlx::query("SELECT part, next_offset FROM tidegate.progress")
                .fetch_all(&mut session)
                .await
                .map_err(|error| error.to_string())?;
            let now = now_us();
            for row in rows {
                let (part, next): (i32, i64) = (row.get(0), row.get(1));
                let known = &mut seen[part as usize];
                if known.last().is_none_or(|(_, offset)| *offset < next) {
                    known.push((now, next));
                }
            }
            tokio::time::sleep(ask_every).await;
        }
        Ok(seen)
    })
}

/// Reads the topic again, with the broker's timestamps.
fn latencies(brokers: &str, topic: &str, records: u64, seen: &Seen) -> Result<Vec<f64>, String> {
    let told = |error: rdkafka::error::KafkaError| error.to_string();
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "latency")
        .set("auto.offset.reset", "error")
        .create()
        .map_err(told)?;
    let mut list = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        list.add_partition_offset(topic, partition, Offset::Offset(0)).map_err(told)?;
    }
    consumer.assign(&list).map_err(told)?;
    let mut latencies = Vec::with_capacity(records as usize);
    while latencies.len() < records as usize {
        let Some(message) = consumer.poll(Duration::from_secs(10)) else {
            return Err("the topic cannot be read again".to_string());
        };
        let message = message.map_err(told)?;
        let known = &seen[message.partition() as usize];
        let index = known.partition_point(|(_, next)| *next <= message.offset());
        let (at, _) = known.get(index).ok_or("a record was never seen committed")?;
        let appended = message.timestamp().to_millis().ok_or("a record has no timestamp")?;
        latencies.push((at - appended * 1000) as f64 / 1000.0);
    }
    Ok(latencies)
}
