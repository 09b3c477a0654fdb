//! Kafka, and what it and the database say together: lag, retention, silence.

use tidegate_engine::error::Error;
use tidegate_engine::kafka::Kafka;
use tidegate_engine::log::{Bounds, Log, Reader};
use tidegate_engine::settings::Settings;
use tidegate_engine::sql::{Catalog, PlannedSource};
use tidegate_engine::time::{NONE, clock};

use super::database::Known;
use super::finding::Findings;

/// Lag that is worth a thought, in records.
const LAG: i64 = 100_000;

/// Looks at the topic of each source.
pub fn look(settings: &Settings, catalog: &Catalog, known: Option<&Known>, findings: &mut Findings) {
    let brokers = &settings.kafka.brokers;
    if brokers.is_empty() {
        return findings.fault("kafka", "no brokers are named", "set KAFKA_BROKERS=host:9092");
    }
    let read =
        catalog.sources.iter().filter(|source| catalog.views.iter().any(|view| view.source == source.source.name));
    for source in read {
        match examine(brokers, source) {
            Ok((reader, bounds)) => {
                findings.ok("kafka", format!("{brokers} answers"));
                let (topic, partitions) = (&source.source.options.topic, bounds.len());
                findings.ok("topic", format!("{topic} has {partitions} partitions"));
                if let Some(known) = known {
                    compare(source, reader.as_ref(), &bounds, known, findings);
                }
            }
            Err(error) if error.code == "TG-KAFKA-TOPIC" => {
                findings.ok("kafka", format!("{brokers} answers"));
                let todo = "create it with the partitions that it shall have; correct topic of the source's WITH if it is another";
                findings.fault("topic", error.message, todo);
            }
            Err(error) => {
                let todo = "start Kafka, or correct KAFKA_BROKERS; runbook: engine-not-producing-rows";
                findings.fault(
                    "kafka",
                    format!("{brokers}: {}", error.message),
                    error.hint.unwrap_or_else(|| todo.to_string()),
                );
                // The others would say the same.
                return;
            }
        }
    }
}

fn examine(brokers: &str, source: &PlannedSource) -> Result<(Box<dyn Reader>, Vec<Bounds>), Error> {
    let reader = Kafka::new(brokers).open(&source.source, 1)?;
    let bounds = (0..reader.partitions()?).map(|partition| reader.bounds(partition)).collect::<Result<_, _>>()?;
    Ok((reader, bounds))
}

fn compare(source: &PlannedSource, reader: &dyn Reader, bounds: &[Bounds], known: &Known, findings: &mut Findings) {
    let name = &source.source.name;
    let Some(pipeline) = known.status.pipelines.iter().find(|pipeline| pipeline.pipeline == *name) else { return };
    let partitions: Vec<_> = known.status.partitions.iter().filter(|partition| partition.pipeline == *name).collect();
    let of = |partition: i32| usize::try_from(partition).ok().and_then(|at| bounds.get(at));
    retention(name, known, of, findings);
    let lags = partitions.iter().filter_map(|p| Some((p.partition, (of(p.partition)?.high - p.next_offset).max(0))));
    let lags: Vec<(i32, i64)> = lags.collect();
    let lag: i64 = lags.iter().map(|(_, lag)| lag).sum();
    let told = || {
        lags.iter().filter(|(_, lag)| *lag > 0).map(|(p, lag)| format!("{lag} of partition {p}")).collect::<Vec<_>>()
    };
    let now_us = clock::wall_us();
    let silence = (now_us - pipeline.committed_at) / 1_000_000;
    if lag > LAG {
        let found = format!("{name}: {lag} records wait: {}", told().join(", "));
        findings.warning("lag", found, "is it growing? runbook: lag-growing");
    } else {
        findings.ok("lag", format!("{name}: {lag} records wait"));
    }
    let patience = source.source.options.idle_timeout.as_secs().max(5);
    if lag == 0 && silence.unsigned_abs() > patience && silence > 0 {
        let found = format!("{name}: no record has come for {silence} s, and all that there are are committed");
        findings.warning("records", found, "does the producer run? make logs-generator shows that of the example");
    } else if lag > 0 && silence > 30 {
        let found = format!("{name}: {lag} records wait, and nothing was committed for {silence} s");
        findings.fault("records", found, "look at the engine; runbook: engine-not-producing-rows");
    } else {
        findings.ok("records", format!("{name}: the last commit was {silence} s ago"));
    }
    let idle: Vec<String> = partitions.iter().filter(|p| p.idle).map(|p| p.partition.to_string()).collect();
    if idle.is_empty() {
        findings.ok("partitions", format!("{name}: none is idle"));
    } else {
        let found = format!("{name}: idle, and not holding the watermark: {} of {}", idle.join(", "), partitions.len());
        findings.warning(
            "partitions",
            found,
            "that is right where nothing is written to them; else look at the producer's keys",
        );
    }
    if pipeline.watermark == NONE {
        findings.warning(
            "watermark",
            format!("{name}: there is none yet"),
            "it comes with the first records of every partition",
        );
    } else {
        let age = (now_us - pipeline.watermark) / 1_000_000;
        let holds = partitions.iter().filter(|p| !p.idle).min_by_key(|p| p.watermark);
        let holder = holds.map_or(String::new(), |p| format!(", held by partition {}", p.partition));
        let told = format!("{name}: {age} s behind the clock{holder}");
        let bound = source.source.bound_us / 1_000_000;
        if age > bound + 120 {
            findings.warning("watermark", told, "windows close late; runbook: watermark-stalled");
        } else {
            findings.ok("watermark", told);
        }
    }
    if let Ok(id) = reader.topic_id() {
        tracing::debug!("topic {} is {id}", source.source.options.topic);
    }
}

/// Whether Kafka still has what a start, or a rebuild, would read.
fn retention<'a>(name: &str, known: &Known, of: impl Fn(i32) -> Option<&'a Bounds>, findings: &mut Findings) {
    let mut well = true;
    for (_, partition, checkpoint, rebuild) in known.needed.iter().filter(|(pipeline, ..)| pipeline == name) {
        let Some(bounds) = of(*partition) else {
            well = false;
            let found = format!("{name}: the topic has no partition {partition} any more");
            findings.fault("retention", found, "was it made anew? runbook: kafka-lost-offsets");
            continue;
        };
        let (low, high) = (bounds.low, bounds.high);
        if low > *checkpoint || high < *checkpoint {
            well = false;
            let found = format!(
                "{name}: a start would replay partition {partition} from offset {checkpoint}, and Kafka has [{low}, {high})"
            );
            findings.fault(
                "retention",
                found,
                "do not restart the engine before you have read runbook: kafka-lost-offsets",
            );
        } else if low > *rebuild {
            well = false;
            let found = format!(
                "{name}: open windows need partition {partition} from offset {rebuild}, and Kafka has only from {low} on"
            );
            findings.warning("retention", found, "raise retention.ms: state that is lost could not be rebuilt");
        }
    }
    if well {
        findings.ok("retention", format!("{name}: Kafka has all that a start and a rebuild would read"));
    }
}
