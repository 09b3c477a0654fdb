//! Topics in memory: what tests feed.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{Bounds, Event, Log, Messages, Reader};
use crate::batch::Record;
use crate::error::{Error, Result};
use crate::sql::source::Source;

/// A record to be fed.
#[derive(Debug, Clone, Default)]
pub struct Fed {
    /// The key.
    pub key: Option<Vec<u8>>,
    /// The payload.
    pub payload: Option<Vec<u8>>,
    /// The timestamp, in microseconds.
    pub timestamp_us: Option<i64>,
}

/// A partition: records by offset, of which those below `low` are gone.
#[derive(Debug, Clone, Default)]
struct Partition {
    low: i64,
    records: Vec<Arc<Fed>>,
}

impl Partition {
    fn high(&self) -> i64 {
        self.records.len() as i64
    }
}

type Partitions = Vec<Partition>;

/// Topics by name.
#[derive(Debug, Clone, Default)]
pub struct MemoryLog {
    topics: Arc<Mutex<BTreeMap<String, Partitions>>>,
}

impl MemoryLog {
    /// Topics, none of which exists yet.
    pub fn new() -> Self {
        Self::default()
    }

    fn topics(&self) -> MutexGuard<'_, BTreeMap<String, Partitions>> {
        self.topics.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a topic, or adds partitions to it.
    pub fn ensure(&self, topic: &str, partitions: usize) {
        let mut topics = self.topics();
        let held = topics.entry(topic.to_string()).or_default();
        if held.len() < partitions {
            held.resize(partitions, Partition::default());
        }
    }

    /// Appends a record.
    pub fn feed(&self, topic: &str, partition: usize, record: Fed) -> Result<()> {
        self.change(topic, partition, |held| held.records.push(Arc::new(record)))
    }

    /// Loses the records below an offset, as retention does.
    pub fn trim(&self, topic: &str, partition: usize, low: i64) -> Result<()> {
        self.change(topic, partition, |held| held.low = low.clamp(held.low, held.high()))
    }

    fn change(&self, topic: &str, partition: usize, change: impl FnOnce(&mut Partition)) -> Result<()> {
        let mut topics = self.topics();
        let held = topics.get_mut(topic).and_then(|partitions| partitions.get_mut(partition));
        held.map(change).ok_or_else(|| Error::bug(format!("topic {topic} has no partition {partition}")))
    }
}

impl Log for MemoryLog {
    fn open(&self, source: &Source, _: usize) -> Result<Box<dyn Reader>> {
        let topic = source.options.topic.clone();
        Ok(Box::new(MemoryReader { log: self.clone(), topic, positions: BTreeMap::new(), paused: HashSet::new() }))
    }
}

struct MemoryReader {
    log: MemoryLog,
    topic: String,
    /// Where each partition stands, and whether its end was told there.
    positions: BTreeMap<i32, (i64, bool)>,
    paused: HashSet<i32>,
}

impl MemoryReader {
    fn held<T>(&self, get: impl FnOnce(&Partitions) -> Option<T>) -> Result<T> {
        let topics = self.log.topics();
        topics.get(&self.topic).and_then(get).ok_or_else(|| {
            Error::wait("TG-KAFKA-TOPIC", format!("there is no topic {} with that partition", self.topic))
        })
    }
}

impl Reader for MemoryReader {
    fn partitions(&self) -> Result<i32> {
        self.held(|partitions| i32::try_from(partitions.len()).ok())
    }

    fn topic_id(&self) -> Result<String> {
        Ok(format!("memory {}", self.topic))
    }

    fn bounds(&self, partition: i32) -> Result<Bounds> {
        let of = |held: &Partition| Bounds { low: held.low, high: held.high() };
        self.held(|partitions| partitions.get(partition as usize).map(of))
    }

    fn high_watermark(&self, partition: i32) -> Option<i64> {
        self.bounds(partition).ok().map(|bounds| bounds.high)
    }

    fn assign(&mut self, positions: &[(i32, i64)]) -> Result<()> {
        self.positions = positions.iter().map(|(partition, offset)| (*partition, (*offset, false))).collect();
        Ok(())
    }

    fn read(&mut self, _: Duration, max: usize) -> Result<Box<dyn Messages>> {
        let mut taken = Vec::new();
        let topics = self.log.topics();
        let partitions = topics.get(&self.topic).map(Vec::as_slice).unwrap_or_default();
        for (partition, (position, told)) in &mut self.positions {
            let Some(held) = partitions.get(*partition as usize).filter(|_| !self.paused.contains(partition)) else {
                continue;
            };
            if *position < held.low {
                return Err(Error::bug(format!("offset {position} of partition {partition} is gone and was read")));
            }
            while taken.len() < max && *position < held.high() {
                taken.push((*partition, *position, Some(held.records[*position as usize].clone())));
                *position += 1;
                *told = false;
            }
            if taken.len() < max && !*told {
                taken.push((*partition, *position, None));
                *told = true;
            }
        }
        Ok(Box::new(Taken(taken)))
    }

    fn pause(&mut self, partitions: &[i32], pause: bool) -> Result<()> {
        for partition in partitions {
            if pause {
                self.paused.insert(*partition)
            } else {
                self.paused.remove(partition)
            };
        }
        Ok(())
    }
}

/// Records, and ends.
struct Taken(Vec<(i32, i64, Option<Arc<Fed>>)>);

impl Messages for Taken {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn events(&self) -> Box<dyn Iterator<Item = Event<'_>> + '_> {
        Box::new(self.0.iter().map(|(partition, offset, fed)| match fed {
            None => Event::End { partition: *partition, offset: *offset },
            Some(fed) => Event::Record(Record {
                partition: *partition,
                offset: *offset,
                timestamp_us: fed.timestamp_us,
                append_time: false,
                key: fed.key.as_deref(),
                payload: fed.payload.as_deref(),
            }),
        }))
    }
}
