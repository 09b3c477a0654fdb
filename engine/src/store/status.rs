//! Where everything stands, for people: what `tidegate view list`, the API, the demo and golden files show.

use crate::batch::Committed;
use crate::store::dead_letters::DeadLetter;
use crate::time::clock;
use crate::view::Counts;

/// All pipelines of a database.
#[derive(Debug, Default, Clone)]
pub struct Status {
    /// By name.
    pub pipelines: Vec<PipelineStatus>,
    /// By pipeline and number.
    pub partitions: Vec<PartitionStatus>,
    /// By pipeline and name.
    pub views: Vec<ViewStatus>,
}

impl Status {
    /// How far a pipeline is committed; none if it was never begun.
    pub fn committed(&self, pipeline: &str) -> Option<Committed> {
        let known = self.pipelines.iter().find(|known| known.pipeline == pipeline)?;
        let partitions = self.partitions.iter().filter(|partition| partition.pipeline == pipeline);
        let partitions = partitions.map(|p| (p.partition, p.start_offset, p.next_offset)).collect();
        Some(Committed { pipeline: known.id.clone(), partitions })
    }
}

/// A pipeline: read = decoded + rejected.
#[derive(Debug, Clone)]
pub struct PipelineStatus {
    /// Its name, which is that of its source.
    pub pipeline: String,
    /// Names its life.
    pub id: String,
    /// What it reads.
    pub topic: String,
    /// How many commits it has made.
    pub commits: i64,
    /// Windows that end at or before this are closed; [`crate::time::NONE`] before the first.
    pub watermark: i64,
    /// Records that were read.
    pub read: i64,
    /// Those that became rows.
    pub decoded: i64,
    /// Those that did not.
    pub rejected: i64,
    /// When the last commit was made, in microseconds.
    pub committed_at: i64,
}

/// A partition.
#[derive(Debug, Clone)]
pub struct PartitionStatus {
    /// Its pipeline.
    pub pipeline: String,
    /// Its number.
    pub partition: i32,
    /// Where the pipeline began to read.
    pub start_offset: i64,
    /// Every record below has had its effect.
    pub next_offset: i64,
    /// Where the partition ended when it was last read.
    pub high_watermark: i64,
    /// Its watermark.
    pub watermark: i64,
    /// Whether it holds the frontier no longer.
    pub idle: bool,
}

/// A view: decoded = filtered + accepted + late + failed.
#[derive(Debug, Clone)]
pub struct ViewStatus {
    /// Its name.
    pub view: String,
    /// The pipeline that it belongs to.
    pub pipeline: String,
    /// What it is.
    pub fingerprint: String,
    /// Rows of windows that end at or before it never change again.
    pub closed_until: i64,
    /// Where its rows went.
    pub counts: Counts,
}

/// A dead letter.
#[derive(Debug, Clone)]
pub struct DeadLetterRow {
    /// The pipeline.
    pub pipeline: String,
    /// The view, or nothing where the whole source rejects the record.
    pub view: String,
    /// The partition; -1 for a row that the database refused.
    pub partition: i32,
    /// The offset, the first of a range.
    pub offset: i64,
    /// The reason.
    pub reason: String,
    /// The topic.
    pub topic: String,
    /// How many records it stands for.
    pub count: i64,
    /// Their offsets, if it is a range.
    pub offsets: Option<Vec<i64>>,
    /// For a person.
    pub detail: String,
    /// The first bytes.
    pub payload: Option<Vec<u8>>,
    /// The payload's whole size.
    pub payload_size: Option<i64>,
    /// When it was recorded, in microseconds.
    pub recorded_at: i64,
}

impl DeadLetterRow {
    /// A letter as it lies in the database.
    pub fn of(letter: &DeadLetter, pipeline: &str, topic: &str) -> Self {
        Self {
            pipeline: pipeline.to_string(),
            view: letter.view.clone(),
            partition: letter.partition,
            offset: letter.offset,
            reason: letter.reason.to_string(),
            topic: topic.to_string(),
            count: letter.count,
            offsets: letter.offsets.clone(),
            detail: letter.detail.clone(),
            payload: letter.payload.clone(),
            payload_size: letter.payload_size,
            recorded_at: clock::wall_us(),
        }
    }

    /// The offset of every record that it stands for.
    pub fn all_offsets(&self) -> Vec<i64> {
        self.offsets.clone().unwrap_or_else(|| vec![self.offset])
    }
}
