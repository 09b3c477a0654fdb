//! From the database and the log to a running pipeline.
//!
//! ```text
//!   start_offset ≤ rebuild_from ≤ checkpoint_offset ≤ next_offset ≤ end of the log
//!                       │               │                  │
//!                       │               └── load the state, replay from here, emit nothing, go on there
//!                       └── state unusable: begin without any and replay from here
//! ```
//!
//! What the log no longer has and the state does not cover is never skipped: the pipeline stops with a code, the range
//! and the choices.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use crate::batch::Record;
use crate::decode::{CHUNK_RECORDS_MAX, Decoder, Future};
use crate::error::{Error, Kind, Result};
use crate::failpoint;
use crate::log::{Bounds, Event, Reader};
use crate::pipeline::{Partition, Pipeline, Running};
use crate::sql::source::Startup;
use crate::store::pieces::STATE_VERSION;
use crate::store::{FoundPiece, Lease, Stored, StoredPartition, ViewStart, Writer};
use crate::time::{self, Quiet, Watermarks};
use crate::view::{Needs, View};

/// Claims the pipeline and brings memory to where the database is.
pub fn recover(pipeline: &Pipeline, lease: &dyn Lease) -> Result<Running> {
    let source = &pipeline.source.source;
    let name = &source.name;
    let open = |partitions| pipeline.log.open(source, partitions);
    let count = open(1)?.partitions()?;
    let mut reader = open(count as usize)?;
    let topic_id = reader.topic_id()?;
    let mut bounds = Vec::new();
    for partition in 0..count {
        bounds.push(reader.bounds(partition)?);
    }

    let (mut writer, mut stored) = pipeline.runtime.block_on(lease.claim(&source.options.topic, &topic_id))?;
    tracing::info!(pipeline = name, epoch = stored.epoch, seq = stored.seq, "took over");
    failpoint::hit("takeover")?;
    if stored.topic_id != topic_id {
        return Err(recreated(pipeline, &stored.topic_id, &topic_id));
    }
    begin_new_partitions(pipeline, writer.as_mut(), &mut stored, &bounds)?;
    for partition in &stored.partitions {
        compare(pipeline, partition.partition, partition.next_offset, bounds.get(partition.partition as usize))?;
    }
    let mut views = open_views(pipeline, writer.as_mut(), &stored)?;
    let (from, rebuilt) = load(pipeline, writer.as_mut(), &stored, &mut views, &bounds)?;
    failpoint::hit("recover-loaded")?;

    let mut watermarks = Watermarks::new(source.bound_us);
    for (partition, _, mark) in &from {
        watermarks.set(*partition, *mark);
    }
    let mut decoder = Decoder::new(&pipeline.source)?;
    let starts: Vec<(i32, i64)> = from.iter().map(|(partition, offset, _)| (*partition, *offset)).collect();
    let given = pipeline.runtime.block_on(writer.given_rejects(&starts))?;
    let future = given.iter().filter(|r| r.view.is_empty()).map(|r| (r.partition, r.offset)).collect();
    for view in &mut views {
        let name = view.plan().name.clone();
        view.replays(given.iter().filter(|r| r.view == name).map(|r| (r.partition, r.offset)).collect());
    }
    replay(pipeline, open(count as usize)?, &mut decoder, &mut watermarks, &mut views, &stored, &starts, &future)?;
    for view in &mut views {
        view.recovered(stored.seq, stored.frontier)?;
    }

    let partitions: Vec<Partition> = stored
        .partitions
        .iter()
        .map(|p| Partition {
            id: p.partition,
            committed: p.next_offset,
            position: p.next_offset,
            stored: (p.idle, p.rebuild_from),
            quiet: Quiet::restored(p.idle),
            at_end: false,
            paused: false,
            target: bounds.get(p.partition as usize).map_or(p.next_offset, |bounds| bounds.high),
        })
        .collect();
    reader.assign(&partitions.iter().map(|p| (p.id, p.position)).collect::<Vec<_>>())?;
    let running = Running {
        reader,
        decoder,
        watermarks,
        views,
        partitions,
        frontier: stored.frontier,
        owned: stored.epoch,
        seq: stored.seq,
        emitted_at: pipeline.clock.now(),
        resets_state: rebuilt,
        writer: Some(writer),
    };
    pipeline.tell_digest(&running)?;
    Ok(running)
}

fn recreated(pipeline: &Pipeline, was: &str, is: &str) -> Error {
    let source = &pipeline.source.source;
    Error::decide("TG-TOPIC-RECREATED", format!("pipeline {}: topic {} is not the one that was read: it had the id {was} and has {is}", source.name, source.options.topic))
        .hint("its offsets mean other records now; give the source and its views new names to read the new topic from its start")
}

/// Partitions that have no row yet: all of them at the first start, later those that were added.
fn begin_new_partitions(
    pipeline: &Pipeline,
    writer: &mut dyn Writer,
    stored: &mut Stored,
    bounds: &[Bounds],
) -> Result<()> {
    let known: HashSet<i32> = stored.partitions.iter().map(|p| p.partition).collect();
    let first_start = known.is_empty();
    let mut starts = Vec::new();
    for (partition, bounds) in bounds.iter().enumerate() {
        let partition = partition as i32;
        if known.contains(&partition) {
            continue;
        }
        if !first_start && bounds.low > 0 {
            return Err(lost(pipeline, partition, 0, bounds.low));
        }
        starts.push((
            partition,
            start_offset(pipeline.source.source.options.startup, first_start, bounds.low, bounds.high),
        ));
    }
    if starts.is_empty() {
        return Ok(());
    }
    pipeline.runtime.block_on(writer.begin_partitions(stored.epoch, &starts))?;
    tracing::info!(pipeline = pipeline.source.source.name, "begins to read partitions at offsets {starts:?}");
    for (partition, offset) in starts {
        stored.partitions.push(StoredPartition::beginning(partition, offset));
    }
    stored.partitions.sort_by_key(|p| p.partition);
    Ok(())
}

fn lost(pipeline: &Pipeline, partition: i32, from: i64, until: i64) -> Error {
    let source = &pipeline.source.source;
    Error::decide(
        "TG-OFFSETS-LOST",
        format!(
            "pipeline {}: offsets [{from}, {until}) of partition {partition} of topic {} are gone before they were read",
            source.name, source.options.topic
        ),
    )
    .hint("choose: restore the records; or give the source and its views new names, which begin with what Kafka still has")
}

/// Compares where we are with what the broker has.
fn compare(pipeline: &Pipeline, partition: i32, position: i64, bounds: Option<&Bounds>) -> Result<()> {
    let source = &pipeline.source.source;
    match bounds {
        None => Err(Error::decide("TG-TOPIC-RECREATED", format!("pipeline {}: topic {} has no partition {partition} any more", source.name, source.options.topic))
            .hint("give the source and its views new names to read the topic as it is now")),
        Some(bounds) if position < bounds.low => Err(lost(pipeline, partition, position, bounds.low)),
        Some(bounds) if position > bounds.high => Err(Error::decide(
            "TG-LOG-TRUNCATED",
            format!(
                "pipeline {}: partition {partition} of topic {} ends at offset {}, and [{}, {position}) was committed before",
                source.name, source.options.topic, bounds.high, bounds.high
            ),
        )
        .hint("Kafka has lost records that are in the results; give the source and its views new names to read what it has now")),
        Some(_) => Ok(()),
    }
}

/// Compares the running pipeline with its topic: is it the same one, is all there, are there new partitions?
pub fn verify(pipeline: &Pipeline, running: &mut Running) -> Result<()> {
    let quietly =
        |error: Error| if error.kind == Kind::Wait { tracing::debug!("{error}") } else { tracing::warn!("{error}") };
    let (count, id) = match (running.reader.partitions(), running.reader.topic_id()) {
        (Ok(count), Ok(id)) => (count, id),
        (Err(error), _) | (_, Err(error)) => {
            quietly(error);
            return Ok(());
        }
    };
    let name = &pipeline.source.source.name;
    if let Some(writer) = &mut running.writer {
        let was = pipeline.runtime.block_on(async { writer.topic_id().await });
        match was {
            Ok(was) if was != id => return Err(recreated(pipeline, &was, &id)),
            Ok(_) => {}
            Err(error) => quietly(error),
        }
    }
    for partition in &running.partitions {
        match running.reader.bounds(partition.id) {
            Ok(bounds) => compare(pipeline, partition.id, partition.position, Some(&bounds))?,
            Err(error) => quietly(error),
        }
    }
    if count as usize > running.partitions.len() {
        return Err(Error::wait(
            "TG-PARTITIONS-ADDED",
            format!("pipeline {name}: its topic has {count} partitions now; taking them in"),
        ));
    }
    Ok(())
}

/// The views with their tables; new ones are noted, changed ones refused.
fn open_views(pipeline: &Pipeline, writer: &mut dyn Writer, stored: &Stored) -> Result<Vec<View>> {
    let source = &pipeline.source.source;
    let greatest = stored.partitions.iter().map(|p| p.watermark).max().unwrap_or(time::NONE);
    let floor_of_new = if greatest == time::NONE { time::NONE } else { greatest.saturating_add(source.bound_us) };
    // At the first start, too, a view begins where the pipeline does.
    let starts_of_new: Vec<(i32, i64)> = stored.partitions.iter().map(|p| (p.partition, p.next_offset)).collect();
    let mut views = Vec::new();
    for plan in &pipeline.views {
        let known = stored.views.iter().find(|view| view.view == plan.name);
        let (floor, starts) = match known {
            Some(known) if known.fingerprint != plan.fingerprint => {
                return Err(Error::decide(
                    "TG-QUERY-CHANGED",
                    format!("view {} is not the query that made its table", plan.name),
                )
                .hint("choose: restore the query and its source; or give the view a new name"));
            }
            Some(known) if known.absent_since.is_some_and(|seq| seq < stored.seq) => {
                return Err(Error::decide(
                    "TG-VIEW-ABSENT",
                    format!("view {} was not declared while records were committed, and has not seen them", plan.name),
                )
                .hint(format!(
                    "choose: tidegate view drop {}, and it begins anew; or give the query a new name",
                    plan.name
                )));
            }
            Some(known) => {
                if known.absent_since.is_some() {
                    pipeline.runtime.block_on(writer.set_absent(&known.view, None))?;
                }
                (known.floor, known.starts.as_slice())
            }
            None => {
                pipeline.runtime.block_on(writer.begin_view(&ViewStart {
                    view: &plan.name,
                    fingerprint: &plan.fingerprint,
                    floor: floor_of_new,
                    starts: &starts_of_new,
                }))?;
                if floor_of_new != time::NONE {
                    tracing::info!(
                        pipeline = source.name,
                        view = plan.name,
                        "added: publishes windows that start after {}",
                        time::clock::rfc3339(floor_of_new)
                    );
                }
                (floor_of_new, starts_of_new.as_slice())
            }
        };
        pipeline.runtime.block_on(writer.open_table(&plan.table))?;
        views.push(View::new(plan.clone(), floor, starts)?);
    }
    for known in &stored.views {
        if !pipeline.views.iter().any(|plan| plan.name == known.view) {
            tracing::warn!(
                pipeline = source.name,
                view = known.view,
                "is not declared any more; its table and its state stay as they are"
            );
            pipeline.runtime.block_on(writer.set_absent(&known.view, Some(stored.seq)))?;
        }
    }
    Ok(views)
}

/// Where each partition's replay begins, with the watermark there; and whether that is a rebuild.
type Starts = (Vec<(i32, i64, i64)>, bool);

fn load(
    pipeline: &Pipeline,
    writer: &mut dyn Writer,
    stored: &Stored,
    views: &mut Vec<View>,
    bounds: &[Bounds],
) -> Result<Starts> {
    let source = &pipeline.source.source;
    let low = |partition: i32| bounds.get(partition as usize).map_or(i64::MAX, |bounds| bounds.low);
    let pieces = pipeline.runtime.block_on(writer.load_state())?;
    let unusable = match usable(stored, views, pieces) {
        Ok(pieces) => {
            let needs: Needs =
                stored.partitions.iter().map(|p| (p.partition, (p.rebuild_from, p.rebuild_watermark))).collect();
            for (view, piece, groups) in pieces {
                views[view].load(piece.part, piece.window_start, groups, piece.seq)?;
            }
            for view in views.iter_mut() {
                view.assume_needs(&needs);
            }
            if let Some(p) = stored
                .partitions
                .iter()
                .find(|p| p.checkpoint_offset < low(p.partition) && p.checkpoint_offset < p.next_offset)
            {
                return Err(gone(
                    pipeline,
                    "to replay what came after the last checkpoint",
                    p.partition,
                    p.checkpoint_offset,
                    low(p.partition),
                ));
            }
            return Ok((
                stored.partitions.iter().map(|p| (p.partition, p.checkpoint_offset, p.checkpoint_watermark)).collect(),
                false,
            ));
        }
        Err(why) => why,
    };
    tracing::warn!(pipeline = source.name, "the state cannot be used: {unusable}; rebuilding it from the log");
    if let Some(p) =
        stored.partitions.iter().find(|p| p.rebuild_from < low(p.partition) && p.rebuild_from < p.next_offset)
    {
        return Err(gone(
            pipeline,
            &format!("to rebuild the state of open windows ({unusable})"),
            p.partition,
            p.rebuild_from,
            low(p.partition),
        ));
    }
    // Where views begin stays; everything else begins anew.
    let mut fresh = Vec::new();
    for view in views.iter() {
        fresh.push(view.emptied()?);
    }
    *views = fresh;
    Ok((stored.partitions.iter().map(|p| (p.partition, p.rebuild_from, p.rebuild_watermark)).collect(), true))
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

/// The view's position, the piece and its groups.
type Piece = (usize, FoundPiece, arrow::array::RecordBatch);

/// The pieces if they are whole, else what is wrong.
fn usable(stored: &Stored, views: &[View], pieces: Vec<FoundPiece>) -> Result<Vec<Piece>, String> {
    if stored.checkpoint_seq > 0 && stored.state_version != STATE_VERSION {
        return Err(format!("it was written as version {:?}, and this is {STATE_VERSION:?}", stored.state_version));
    }
    let index: BTreeMap<&str, usize> =
        views.iter().enumerate().map(|(index, view)| (view.plan().name.as_str(), index)).collect();
    let mut found = vec![0i64; views.len()];
    let mut usable = Vec::new();
    for piece in pieces {
        let Some(view) = index.get(piece.view.as_str()).copied() else { continue };
        let groups =
            piece.groups.clone().map_err(|why| format!("piece {} of view {}: {why}", piece.seq, piece.view))?;
        if views[view].state_schema(piece.part).as_ref() != Some(&groups.schema()) {
            return Err(format!("piece {} of view {} has another layout", piece.seq, piece.view));
        }
        found[view] += 1;
        usable.push((view, piece, groups));
    }
    for (view, found) in views.iter().zip(found) {
        let expected = stored.views.iter().find(|known| known.view == view.plan().name).map_or(0, |known| known.pieces);
        if found != expected {
            return Err(format!("view {} has {found} pieces of state instead of {expected}", view.plan().name));
        }
    }
    Ok(usable)
}

/// Reads `[start, next_offset)` again into the views, without emitting anything.
#[allow(clippy::too_many_arguments)]
fn replay(
    pipeline: &Pipeline,
    mut reader: Box<dyn Reader>,
    decoder: &mut Decoder,
    watermarks: &mut Watermarks,
    views: &mut [View],
    stored: &Stored,
    starts: &[(i32, i64)],
    future: &HashSet<(i32, i64)>,
) -> Result<()> {
    let until: BTreeMap<i32, i64> = stored.partitions.iter().map(|p| (p.partition, p.next_offset)).collect();
    let mut open: BTreeMap<i32, i64> = BTreeMap::new();
    for (partition, start) in starts {
        if *start < until[partition] {
            open.insert(*partition, *start);
        }
    }
    let total: i64 = open.iter().map(|(partition, start)| until[partition] - start).sum();
    if total == 0 {
        return Ok(());
    }
    tracing::info!(pipeline = pipeline.source.source.name, "replaying {total} offsets");
    reader.assign(&open.iter().map(|(partition, start)| (*partition, *start)).collect::<Vec<_>>())?;
    let mut quiet_since = pipeline.clock.now();
    while !open.is_empty() {
        if pipeline.stopped() {
            return Err(Error::wait("TG-STOPPED", "stopped while replaying"));
        }
        let messages = reader.read(Duration::from_millis(20), CHUNK_RECORDS_MAX)?;
        let mut records: Vec<Record<'_>> = Vec::with_capacity(messages.len());
        for event in messages.events() {
            let (partition, position) = match event {
                Event::Record(record) => {
                    if open.contains_key(&record.partition) && record.offset < until[&record.partition] {
                        records.push(record);
                    }
                    (record.partition, record.offset + 1)
                }
                Event::End { partition, offset } => (partition, offset),
                Event::Failed { partition, why } => {
                    return Err(Error::wait(
                        "TG-KAFKA-READ",
                        format!("partition {partition} cannot be replayed: {why}"),
                    ));
                }
            };
            if position >= until[&partition] {
                open.remove(&partition);
            }
        }
        if records.is_empty() {
            if pipeline.clock.now().duration_since(quiet_since) > Duration::from_secs(30) {
                return Err(Error::wait(
                    "TG-KAFKA-READ",
                    format!("no record came for 30 s while replaying partitions {:?}", open.keys()),
                ));
            }
            continue;
        }
        quiet_since = pipeline.clock.now();
        failpoint::hit("replay-mid")?;
        if let Some(rows) = decoder.decode(&records, Future::Given(future))?.rows {
            let rows = watermarks.stamp(rows, decoder.time_column(), &pipeline.source.schema)?;
            for view in views.iter_mut() {
                view.absorb(&rows, stored.frontier, None)?;
            }
        }
    }
    for partition in &stored.partitions {
        let mark = watermarks.of(partition.partition);
        if mark != partition.watermark {
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
    Ok(())
}

/// Where a partition begins that was never read.
fn start_offset(startup: Startup, is_first_start: bool, low: i64, high: i64) -> i64 {
    match startup {
        Startup::Latest if is_first_start => high,
        _ => low,
    }
}
