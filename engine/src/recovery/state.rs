//! The state that the database has, and what must be read again because it is not in it.
//!
//! ```text
//!   start_offset ≤ checkpoint_offset ≤ next_offset ≤ end of the log          rebuild_from ≤ next_offset
//!        │                 │                                                      │
//!        │                 └── a view whose state is whole: the rest              │
//!        └── groups kept for ever, without their state: everything                └── windows without their state
//! ```
//!
//! One replay serves all views. It begins at the lowest of these offsets, emits nothing, and each view takes of it what
//! its own state lacks.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use arrow::array::RecordBatch;

use crate::batch::Record;
use crate::decode::{CHUNK_RECORDS_MAX, Decoder, Future};
use crate::error::{Error, Result};
use crate::failpoint;
use crate::log::{Bounds, Event, Reader};
use crate::pipeline::Pipeline;
use crate::sql::planned::Shape;
use crate::store::pieces::STATE_VERSION;
use crate::store::{FoundPiece, Stored, StoredPartition, Writer};
use crate::time::{self, Watermarks};
use crate::view::{Needs, Replay, View};

/// What [`restore`] leaves beside the views.
pub struct Restored {
    /// The watermarks at the committed offsets.
    pub watermarks: Watermarks,
    /// Offsets that were replayed.
    pub replayed: i64,
    /// Views that were rebuilt: their state in the database is of no use.
    pub rebuilt: Vec<String>,
}

/// Gives the views the state that they had at the last commit.
pub fn restore(
    pipeline: &Pipeline,
    writer: &mut dyn Writer,
    stored: &Stored,
    views: &mut [View],
    bounds: &[Bounds],
    decoder: &mut Decoder,
) -> Result<Restored> {
    let froms = load(pipeline, writer, stored, views)?;
    let mut starts: BTreeMap<i32, (i64, i64)> = BTreeMap::new();
    for (view, from) in views.iter().zip(&froms) {
        for partition in &stored.partitions {
            let place = from.place(view, partition);
            let low = bounds.get(partition.partition as usize).map_or(i64::MAX, |bounds| bounds.low);
            if place.0 < low && place.0 < partition.next_offset {
                return Err(gone(pipeline, &from.what_for(&view.plan().name), partition.partition, place.0, low));
            }
            let lowest = starts.entry(partition.partition).or_insert(place);
            *lowest = (*lowest).min(place);
        }
    }
    failpoint::hit("recover-loaded")?;

    let mut watermarks = Watermarks::new(pipeline.source.source.bound_us);
    for (partition, (_, mark)) in &starts {
        watermarks.set(*partition, *mark);
    }
    let starts: Vec<(i32, i64)> = starts.into_iter().map(|(partition, (offset, _))| (partition, offset)).collect();
    let given = pipeline.runtime.block_on(writer.given_rejects(&starts))?;
    for (view, from) in views.iter_mut().zip(&froms) {
        let name = view.plan().name.clone();
        view.replays(Replay {
            from: stored.partitions.iter().map(|p| (p.partition, from.place(view, p).0)).collect(),
            late: given.iter().filter(|r| r.view == name).map(|r| (r.partition, r.offset)).collect(),
        });
    }
    let future = given.iter().filter(|r| r.view.is_empty()).map(|r| (r.partition, r.offset)).collect();
    let replaying = Replaying { pipeline, stored, starts, future };
    let replayed = replaying.run(decoder, &mut watermarks, views)?;
    let rebuilt = views.iter().zip(&froms).filter(|(_, from)| matches!(from, From::Rebuilt { .. }));
    let rebuilt = rebuilt.map(|(view, _)| view.plan().name.clone()).collect();
    Ok(Restored { watermarks, replayed, rebuilt })
}

/// Where a view's replay begins.
enum From {
    /// At the committed offsets: it keeps nothing.
    Committed,
    /// At the last checkpoint, whose state it has.
    Checkpoint,
    /// Where its state begins, which cannot be used.
    Rebuilt { shape: Shape, why: String },
}

impl From {
    /// The offset in a partition, and the watermark there; never before the view itself.
    fn place(&self, view: &View, partition: &StoredPartition) -> (i64, i64) {
        let place = match self {
            Self::Committed => (partition.next_offset, partition.watermark),
            Self::Checkpoint => (partition.checkpoint_offset, partition.checkpoint_watermark),
            Self::Rebuilt { shape: Shape::Windowed(_), .. } => (partition.rebuild_from, partition.rebuild_watermark),
            Self::Rebuilt { .. } => (partition.start_offset, time::NONE),
        };
        let start = view.start(partition.partition).map(|start| (start.offset, start.watermark));
        start.filter(|start| start.0 > place.0).unwrap_or(place)
    }

    fn what_for(&self, view: &str) -> String {
        match self {
            Self::Rebuilt { why, .. } => format!("to rebuild the state of view {view}, which cannot be used ({why})"),
            _ => "to replay what came after the last checkpoint".to_string(),
        }
    }
}

fn gone(pipeline: &Pipeline, what_for: &str, partition: i32, from: i64, until: i64) -> Error {
    let source = &pipeline.source.source;
    Error::decide(
        "TG-STATE-LOST",
        format!(
            "pipeline {}: offsets [{from}, {until}) of partition {partition} of topic {} are needed {what_for}, and Kafka no longer has them",
            source.name, source.options.topic
        ),
    )
    .hint("choose: restore the database, or the records; or give the source and its views new names, which begin with what Kafka still has")
}

/// Loads the state of each view whose pieces are whole; where each view's replay begins.
fn load(pipeline: &Pipeline, writer: &mut dyn Writer, stored: &Stored, views: &mut [View]) -> Result<Vec<From>> {
    let mut found: BTreeMap<String, Vec<FoundPiece>> = BTreeMap::new();
    for piece in pipeline.runtime.block_on(writer.load_state())? {
        found.entry(piece.view.clone()).or_default().push(piece);
    }
    let needs: Needs = stored.partitions.iter().map(|p| (p.partition, (p.rebuild_from, p.rebuild_watermark))).collect();
    let mut froms = Vec::with_capacity(views.len());
    for view in views {
        let (name, shape) = (view.plan().name.clone(), view.plan().shape);
        if shape == Shape::Stateless {
            froms.push(From::Committed);
            continue;
        }
        match usable(stored, view, found.remove(&name).unwrap_or_default()) {
            Ok(pieces) => {
                for (piece, groups) in pieces {
                    view.load(piece.part, piece.window_start, groups, piece.seq)?;
                }
                view.assume_needs(&needs);
                froms.push(From::Checkpoint);
            }
            Err(why) => {
                tracing::warn!(
                    pipeline = pipeline.source.source.name,
                    view = name,
                    "the state cannot be used: {why}; rebuilding it from the log"
                );
                froms.push(From::Rebuilt { shape, why });
            }
        }
    }
    Ok(froms)
}

/// A view's pieces if they are whole, else what is wrong.
fn usable(stored: &Stored, view: &View, pieces: Vec<FoundPiece>) -> Result<Vec<(FoundPiece, RecordBatch)>, String> {
    let known = stored.views.iter().find(|known| known.view == view.plan().name);
    let expected = known.map_or(0, |known| known.pieces);
    if expected > 0 && stored.state_version != STATE_VERSION {
        return Err(format!("it was written as version {:?}, and this is {STATE_VERSION:?}", stored.state_version));
    }
    if pieces.len() as i64 != expected {
        return Err(format!("it has {} pieces of state instead of {expected}", pieces.len()));
    }
    let mut usable = Vec::with_capacity(pieces.len());
    for piece in pieces {
        let groups = piece.groups.clone().map_err(|why| format!("piece {}: {why}", piece.seq))?;
        if view.state_schema(piece.part).as_ref() != Some(&groups.schema()) {
            return Err(format!("piece {} has another layout", piece.seq));
        }
        usable.push((piece, groups));
    }
    Ok(usable)
}

/// What of the log is read again.
struct Replaying<'a> {
    pipeline: &'a Pipeline,
    stored: &'a Stored,
    /// By partition.
    starts: Vec<(i32, i64)>,
    /// Records that were rejected as lying in the future.
    future: HashSet<(i32, i64)>,
}

impl Replaying<'_> {
    /// Reads `[start, next_offset)` of every partition into the views, without emitting anything; how many offsets.
    fn run(&self, decoder: &mut Decoder, watermarks: &mut Watermarks, views: &mut [View]) -> Result<i64> {
        let Self { pipeline, stored, starts, .. } = self;
        let total = replay(pipeline, stored, starts, |records| {
            failpoint::hit("replay-mid")?;
            let Some(rows) = decoder.decode(records, Future::Given(&self.future))?.rows else { return Ok(()) };
            let rows = watermarks.stamp(rows, decoder.time_column(), &pipeline.source.schema)?;
            views.iter_mut().try_for_each(|view| view.absorb(&rows, stored.frontier, None))
        })?;
        if total == 0 {
            return Ok(0);
        }
        for partition in &stored.partitions {
            if watermarks.of(partition.partition) != partition.watermark {
                return Err(Error::decide(
                    "TG-REPLAY-DIFFERS",
                    format!(
                        "pipeline {}: partition {} replays to another watermark than it had",
                        pipeline.source.source.name, partition.partition
                    ),
                )
                .hint("the log has changed below the committed offsets; is the topic compacted?"));
            }
        }
        Ok(total)
    }
}

/// Reads `[start, next_offset)` of every partition once more; how many offsets.
pub fn replay(
    pipeline: &Pipeline,
    stored: &Stored,
    starts: &[(i32, i64)],
    mut take: impl FnMut(&[Record<'_>]) -> Result<()>,
) -> Result<i64> {
    let until: BTreeMap<i32, i64> = stored.partitions.iter().map(|p| (p.partition, p.next_offset)).collect();
    let mut open: BTreeMap<i32, i64> =
        starts.iter().copied().filter(|(partition, start)| *start < until[partition]).collect();
    let total: i64 = open.iter().map(|(partition, start)| until[partition] - start).sum();
    if total == 0 {
        return Ok(0);
    }
    tracing::info!(pipeline = pipeline.source.source.name, "replaying {total} offsets");
    let mut reader = pipeline.log.open(&pipeline.source.source, stored.partitions.len())?;
    reader.assign(&open.iter().map(|(partition, start)| (*partition, *start)).collect::<Vec<_>>())?;
    let mut quiet_since = pipeline.clock.now();
    while !open.is_empty() {
        if pipeline.stopped() {
            return Err(Error::wait("TG-STOPPED", "stopped while replaying"));
        }
        let took = read(reader.as_mut(), &until, &mut open, &mut take)?;
        if took {
            quiet_since = pipeline.clock.now();
        } else if pipeline.clock.now().duration_since(quiet_since) > Duration::from_secs(30) {
            return Err(Error::wait(
                "TG-KAFKA-READ",
                format!("no record came for 30 s while replaying partitions {:?}", open.keys()),
            ));
        }
    }
    Ok(total)
}

/// Reads once; whether there was anything to take.
fn read(
    reader: &mut dyn Reader,
    until: &BTreeMap<i32, i64>,
    open: &mut BTreeMap<i32, i64>,
    take: &mut impl FnMut(&[Record<'_>]) -> Result<()>,
) -> Result<bool> {
    let messages = reader.read(Duration::from_millis(20), CHUNK_RECORDS_MAX)?;
    let mut records: Vec<Record<'_>> = Vec::with_capacity(messages.len());
    for event in messages.events() {
        let (partition, position) = match event {
            Event::Record(record) => {
                if record.offset < until[&record.partition] {
                    records.push(record);
                }
                (record.partition, record.offset + 1)
            }
            Event::End { partition, offset } => (partition, offset),
            Event::Failed { partition, why } => {
                return Err(Error::wait("TG-KAFKA-READ", format!("partition {partition} cannot be replayed: {why}")));
            }
        };
        if position >= until[&partition] {
            open.remove(&partition);
        }
    }
    if records.is_empty() {
        return Ok(false);
    }
    take(&records)?;
    Ok(true)
}
