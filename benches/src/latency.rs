//! Latency: from the broker's timestamp of a record until a reader of the database sees it committed, over TCP.
//!
//! What is seen is `tidegate.progress`, asked again and again; so each latency is too long by at most one interval of
//! asking, and by less than the millisecond to which the broker's timestamp is cut.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::producer::Producer;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use sqlx::{Connection, Row};
use tidegate_bench::local::process::Process;
use tidegate_bench::local::{Kafka, Postgres, wait_until};

use crate::report::Run;
use crate::topic::{PARTITIONS, event, producer, send};
use crate::whole::{binary, queries};

const ASK_EVERY: Duration = Duration::from_millis(2);

fn now_us() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as i64)
}

/// A steady load of so many records a second, for so many seconds, over 1,000 keys.
pub fn run(kafka: &Kafka, postgres: &Postgres, rate: u64, seconds: u64, number: usize) -> Result<Run, String> {
    let topic = format!("latency-{rate}-{number}");
    kafka.create_topic(&topic, PARTITIONS, &[("message.timestamp.type", "LogAppendTime")])?;
    let database = format!("latency_{rate}_{number}");
    let url = postgres.create_database(&database)?;
    let dir = queries(&topic)?;
    let mut command = Command::new(binary()?);
    command.args(["engine", "--listen", "127.0.0.1:0", "--queries"]).arg(dir.path());
    command
        .env("DATABASE_URL", &url)
        .env("KAFKA_BROKERS", kafka.brokers())
        .env("TIDEGATE_LOG", "warn")
        .stdin(Stdio::null());
    let mut engine = Process::spawn("engine", &mut command, &dir.path().join("engine.log"), None)?;
    if !wait_until(Duration::from_secs(30), || {
        postgres.psql(&database, "SELECT count(*) FROM tidegate.progress").is_ok_and(|n| n == PARTITIONS.to_string())
    }) {
        return Err("the engine does not start".to_string());
    }
    let stop = Arc::<AtomicBool>::default();
    let seen = std::thread::spawn({
        let (stop, url) = (stop.clone(), url.clone());
        move || watch(&url, &stop)
    });
    let sent = produce(&kafka.brokers(), &topic, rate, seconds)?;
    let caught_up = wait_until(Duration::from_secs(30), || {
        postgres.psql(&database, "SELECT sum(next_offset) FROM tidegate.progress").is_ok_and(|n| n == sent.to_string())
    });
    stop.store(true, Ordering::Relaxed);
    let seen = seen.join().map_err(|_| "the watcher panicked".to_string())??;
    engine.stop(libc::SIGTERM, Duration::from_secs(10));
    if !caught_up {
        return Err("the engine does not catch up with the load".to_string());
    }
    let mut latencies = latencies(&kafka.brokers(), &topic, sent, &seen)?;
    latencies.sort_by(f64::total_cmp);
    let at = |share: f64| latencies.get(((latencies.len() - 1) as f64 * share) as usize).copied();
    Ok(Run {
        events_per_s: Some(rate as f64),
        seconds: seconds as f64,
        p50_ms: at(0.5),
        p99_ms: at(0.99),
        ..Run::default()
    })
}

/// Sends in steps of two milliseconds; how many.
fn produce(brokers: &str, topic: &str, rate: u64, seconds: u64) -> Result<u64, String> {
    let producer = producer(brokers)?;
    let mut rng = ChaCha8Rng::seed_from_u64(rate);
    let (started, total) = (Instant::now(), rate * seconds);
    let mut sent = 0;
    while sent < total {
        let due = ((started.elapsed().as_secs_f64() * rate as f64) as u64).min(total);
        while sent < due {
            let stream = rng.random_range(0..1000u32);
            let payload = event(&mut rng, sent, stream, now_us() / 1000);
            send(&producer, topic, (stream % PARTITIONS as u32) as i32, &payload)?;
            sent += 1;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    producer.flush(Duration::from_secs(30)).map_err(|error| error.to_string())?;
    Ok(sent)
}

/// Times at which each partition was first seen committed up to an offset.
type Seen = Vec<Vec<(i64, i64)>>;

fn watch(url: &str, stop: &AtomicBool) -> Result<Seen, String> {
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
            tokio::time::sleep(ASK_EVERY).await;
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
