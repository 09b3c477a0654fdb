//! From the database and the log to a running pipeline.
//!
//! ```text
//!   claim ─ a new epoch ─► compare ─ topic, bounds ─► views, tables ─► state: load, replay ─► Running
//! ```
//!
//! What the log no longer has and the state does not cover is never skipped: the pipeline stops with a code, the range
//! and the choices.

mod state;

pub use state::replay;

use std::collections::HashSet;
use std::sync::Arc;

use crate::archive::{self, Archiver};
use crate::batch::Committed;
use crate::decode::Decoder;
use crate::error::{Error, Kind, Result};
use crate::failpoint;
use crate::log::Bounds;
use crate::pipeline::{Partition, Pipeline, Running, Unsaved};
use crate::recent::{self, Keeper};
use crate::sql::source::Startup;
use crate::store::{Lease, Start, Stored, StoredPartition, ViewStart, Writer};
use crate::time::{self, Quiet};
use crate::view::View;

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
    let mut decoder = Decoder::new(&pipeline.source)?;
    let restored = state::restore(pipeline, writer.as_mut(), &stored, &mut views, &bounds, &mut decoder)?;
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
    let (keeper, archiver) = keep(pipeline, writer.as_mut(), &stored, &bounds)?;
    reader.assign(&partitions.iter().map(|p| (p.id, p.position)).collect::<Vec<_>>())?;
    let running = Running {
        reader,
        decoder,
        watermarks: restored.watermarks,
        views,
        partitions,
        frontier: stored.frontier,
        owned: stored.epoch,
        seq: stored.seq,
        emitted_at: pipeline.clock.now(),
        rebuilt: restored.rebuilt,
        unsaved: Unsaved::new(pipeline.clock.now(), restored.replayed),
        keeper,
        archiver,
        writer: Some(writer),
    };
    pipeline.tell_digest(&running)?;
    Ok(running)
}

/// Whoever writes recent batches, and whoever archives them.
type Keeping = (Option<Arc<Keeper>>, Option<Arc<Archiver>>);

/// Whoever does so for a pipeline.
fn keep(pipeline: &Pipeline, writer: &mut dyn Writer, stored: &Stored, bounds: &[Bounds]) -> Result<Keeping> {
    let source = &pipeline.source.source;
    let archives = source.options.archive && pipeline.archive.is_some();
    let archived = pipeline.runtime.block_on(writer.open_archive(stored.epoch, archives))?;
    let Some(settings) = &pipeline.recent else {
        if archives {
            let why = format!("source {} is archived from recent batches, and recent.enabled is false", source.name);
            return Err(Error::configuration("TG-ARCHIVE", why).hint("enable them, or leave archive = 'parquet' out"));
        }
        return Ok((None, None));
    };
    let partitions = stored.partitions.iter().map(|p| (p.partition, p.start_offset, p.next_offset)).collect();
    let committed = Committed { pipeline: stored.pipeline_id.clone(), partitions };
    let (epoch, seq) = (stored.epoch, stored.seq);
    let begin = recent::Begin { epoch, seq, committed: &committed, archived: archives.then_some(&archived) };
    let keeper = match Keeper::begin(settings, &pipeline.source, &begin, &pipeline.clock) {
        Ok(keeper) => Arc::new(keeper),
        // Nothing rests on them but the archive.
        Err(error) if !archives => {
            pipeline.metrics.recent_failed();
            tracing::error!(pipeline = source.name, "{error}; there are none until the next start");
            return Ok((None, None));
        }
        Err(error) => return Err(error),
    };
    if archives && keeper.needs_refill() {
        archive::refill(pipeline, writer, stored, &keeper, &archived, bounds)?;
    }
    // What others had may be the only copy until here; and we may not be the owner any more.
    let others = keeper.others();
    pipeline.runtime.block_on(writer.topic_id(epoch))?;
    match others.and_then(|others| keeper.alone(&others)) {
        Err(error) if archives => return Err(error),
        Err(error) => tracing::warn!(pipeline = source.name, "recent batches of other owners stay: {error}"),
        Ok(()) => {}
    }
    let Some(settings) = pipeline.archive.as_ref().filter(|_| archives) else { return Ok((Some(keeper), None)) };
    let begin = archive::Begin {
        pipeline: source.name.clone(),
        life: stored.pipeline_id.clone(),
        time_column: source.time_column.clone(),
        epoch: stored.epoch,
        archived: archived.0,
        offsets: archived.1,
    };
    let archiver = Archiver::begin(settings, pipeline.store.clone(), keeper.clone(), begin, pipeline.clock.clone())?;
    Ok((Some(keeper), Some(Arc::new(archiver))))
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
        let was = pipeline.runtime.block_on(async { writer.topic_id(running.owned).await });
        match was {
            Ok(was) if was != id => return Err(recreated(pipeline, &was, &id)),
            Ok(_) => {}
            Err(error) if matches!(error.kind, Kind::Decide | Kind::Fenced) => return Err(error),
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
    let floor_of_new = time::greatest(stored.partitions.iter().map(|p| p.watermark), source.bound_us);
    // At the first start, too, a view begins where the pipeline does.
    let start_of_new =
        |p: &StoredPartition| Start { partition: p.partition, offset: p.next_offset, watermark: p.watermark };
    let starts_of_new: Vec<Start> = stored.partitions.iter().map(start_of_new).collect();
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
                    pipeline.runtime.block_on(writer.set_absent(stored.epoch, &known.view, None))?;
                }
                (known.floor, known.starts.as_slice())
            }
            None => {
                if let Some((_, other)) = stored.elsewhere.iter().find(|(view, _)| *view == plan.name) {
                    return Err(Error::decide(
                        "TG-QUERY-CHANGED",
                        format!("view {} was made from source {other}, and reads {} now", plan.name, source.name),
                    )
                    .hint("choose: restore the query; or give the view a new name; or tidegate view drop it and begin anew"));
                }
                let start = ViewStart {
                    view: &plan.name,
                    fingerprint: &plan.fingerprint,
                    floor: floor_of_new,
                    starts: &starts_of_new,
                };
                pipeline.runtime.block_on(writer.begin_view(stored.epoch, &start))?;
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
            pipeline.runtime.block_on(writer.set_absent(stored.epoch, &known.view, Some(stored.seq)))?;
        }
    }
    Ok(views)
}

/// Where a partition begins that was never read.
fn start_offset(startup: Startup, is_first_start: bool, low: i64, high: i64) -> i64 {
    match startup {
        Startup::Latest if is_first_start => high,
        _ => low,
    }
}
