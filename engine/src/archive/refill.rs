//! What is committed and neither archived nor among the recent batches, read from the log once more.

use crate::batch::OffsetRange;
use crate::decode::{Decoder, Future};
use crate::error::{Error, Result};
use crate::log::Bounds;
use crate::pipeline::Pipeline;
use crate::recent::Keeper;
use crate::recovery::replay;
use crate::store::{Stored, Writer};

/// Writes it as a recent batch of the commits from behind the last one that is archived up to now.
pub fn refill(
    pipeline: &Pipeline,
    writer: &mut dyn Writer,
    stored: &Stored,
    keeper: &Keeper,
    archived: &(i64, Vec<(i32, i64)>),
    bounds: &[Bounds],
) -> Result<()> {
    let (last, froms) = archived;
    for (partition, from) in froms {
        let low = bounds.get(*partition as usize).map_or(i64::MAX, |bounds| bounds.low);
        let next = stored.partitions.iter().find(|p| p.partition == *partition).map_or(*from, |p| p.next_offset);
        if *from < low && *from < next {
            return Err(lost(pipeline, *partition, *from, low.min(next)));
        }
    }
    let next_of = |partition: i32| stored.partitions.iter().find(|p| p.partition == partition).map(|p| p.next_offset);
    let ranges: Vec<OffsetRange> = froms
        .iter()
        .filter_map(|(partition, from)| {
            Some(OffsetRange { partition: *partition, from: *from, until: next_of(*partition)? })
        })
        .collect();
    let given = pipeline.runtime.block_on(writer.given_rejects(froms))?;
    let future = given.iter().filter(|r| r.view.is_empty()).map(|r| (r.partition, r.offset)).collect();
    let offsets: i64 = ranges.iter().map(|range| range.until - range.from).sum();
    tracing::info!(pipeline = pipeline.source.source.name, "reading {offsets} offsets once more for the archive");
    let mut decoder = Decoder::new(&pipeline.source)?;
    keeper.refill((*last + 1, stored.seq), &ranges, |take| {
        replay(pipeline, stored, froms, |records| match decoder.decode(records, Future::Given(&future))?.rows {
            Some(rows) => take(rows),
            None => Ok(()),
        })
        .map(drop)
    })
}

fn lost(pipeline: &Pipeline, partition: i32, from: i64, until: i64) -> Error {
    let source = &pipeline.source.source;
    Error::decide(
        "TG-ARCHIVE-LOST",
        format!(
            "pipeline {}: offsets [{from}, {until}) of partition {partition} of topic {} are committed and not archived, and Kafka no longer has them",
            source.name, source.options.topic
        ),
    )
    .hint("start once without archive = 'parquet', with it again the archive begins anew behind what is committed, with a gap")
}
