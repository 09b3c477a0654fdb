//! The owner's side: writes each epoch before its commit, merges small files, deletes old ones.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, UNIX_EPOCH};

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Int32Type, Int64Type, SchemaRef};

use super::reader::untiled;
use super::segment::{self, Facts, GONE, Name, Segment, disk};
use super::{home, owner_name, table_schema};
use crate::batch::{Committed, HIDDEN, OffsetRange, file_name};
use crate::error::{Error, Result};
use crate::failpoint;
use crate::settings::RecentSettings;
use crate::sql::PlannedSource;
use crate::time::clock::Clock;

/// Files up to such a size are merged with their neighbours.
const SMALL: u64 = 4 << 20;

/// Of single commits, once they are so many or have so many bytes; of several, once they are so many.
const COMMITS: usize = 64;
const COMMITS_BYTES: u64 = 8 << 20;
const MERGED: usize = 8;

/// The most that is merged at a time.
const MERGE_BYTES_MAX: u64 = 16 << 20;

/// A file spans no more than such a part of the time for which files are kept.
const SPAN: i64 = 8;

/// How often it is looked for what to merge and what to delete.
const TIDY_EVERY: Duration = Duration::from_secs(1);

/// How often a new owner looks at what earlier ones have, where something is missing.
const LOOKS: usize = 4;
const LOOK_PAUSE: Duration = Duration::from_millis(20);

/// How often an end looks whether a merge is over: for three seconds.
const END_LOOKS: usize = 150;

/// Stands in a folder while it is filled from the log.
const REFILLING: &str = "refilling";

/// How long nothing is written after a write has failed.
const PAUSE: Duration = Duration::from_secs(10);

/// Rows that are read once more are written in files of so many bytes.
const REFILL_BYTES: usize = 32 << 20;

/// Folders of pipelines that are not ours go when nobody has written to them for a day.
const FORGOTTEN_US: i64 = 86_400_000_000;

/// Writes the recent batches of a pipeline that this engine owns.
pub struct Keeper {
    folder: PathBuf,
    schema: SchemaRef,
    time_column: usize,
    settings: RecentSettings,
    clock: Clock,
    kept: Mutex<Kept>,
    writing: Mutex<()>,
    tidying: Mutex<()>,
}

struct Kept {
    /// In the order of their commits.
    files: Vec<Held>,
    /// The last commit that is archived: those behind it stay, however old. Everything, where there is no archive.
    archived: i64,
    /// The last commit of those that are being archived: they stay as they are.
    pinned: i64,
    /// Raised whenever all of them go.
    generation: u64,
    /// Until when nothing is written.
    paused_until: Option<Instant>,
    tidied_at: Instant,
    /// Once the next owner takes over.
    ended: bool,
}

/// A file that is there.
#[derive(Debug, Clone)]
struct Held {
    name: Name,
    facts: Facts,
    bytes: u64,
}

/// Where an owner begins.
#[derive(Debug)]
pub struct Begin<'a> {
    /// Its epoch.
    pub epoch: i64,
    /// The last commit.
    pub seq: i64,
    /// What is committed.
    pub committed: &'a Committed,
    /// Where the archive goes on, if there is one: the last commit that it has, and the next offsets.
    pub archived: Option<&'a (i64, Vec<(i32, i64)>)>,
}

/// Files that are to be archived.
#[derive(Debug, Clone)]
pub struct Due(Vec<Held>);

impl Due {
    /// The last commit.
    pub fn last(&self) -> i64 {
        self.0.last().map_or(0, |file| file.name.last)
    }

    /// Up to where they reach, by partition.
    pub fn until(&self) -> Vec<(i32, i64)> {
        let ranges = self.0.last().map(|file| file.facts.ranges.as_slice()).unwrap_or_default();
        ranges.iter().map(|(partition, _, until)| (*partition, *until)).collect()
    }
}

impl Keeper {
    /// Makes the owner's folder, with what was committed before it: all of that, or nothing if something is missing.
    pub fn begin(settings: &RecentSettings, source: &PlannedSource, begin: &Begin<'_>, clock: &Clock) -> Result<Self> {
        let name = &source.source.name;
        let home = home(&settings.path, name, &begin.committed.pipeline);
        let schema = table_schema(&source.schema);
        let files = take_over(&home, &schema, begin)?;
        let archived = begin.archived.map_or(i64::MAX, |(last, _)| *last);
        let keeper = Self {
            folder: home.join(owner_name(begin.epoch)),
            schema,
            time_column: source.schema.index_of(&source.source.time_column)?,
            settings: settings.clone(),
            clock: clock.clone(),
            kept: Mutex::new(Kept {
                files,
                archived,
                pinned: archived,
                generation: 0,
                paused_until: None,
                tidied_at: clock.now(),
                ended: false,
            }),
            writing: Mutex::new(()),
            tidying: Mutex::new(()),
        };
        if keeper.kept().files.is_empty() && archived >= begin.seq {
            // So that readers see that nothing is missing before the next record comes.
            let next = begin.committed.partitions.iter();
            let nothing =
                next.map(|(partition, _, next)| OffsetRange { partition: *partition, from: *next, until: *next });
            let held = keeper.written(begin.seq, &nothing.collect::<Vec<_>>(), &[])?;
            keeper.kept().files.push(held);
        }
        let files = keeper.kept().files.len();
        let bytes = keeper.bytes();
        tracing::info!(pipeline = name, files, bytes, "recent batches in {}", keeper.folder.display());
        forget_others(&settings.path.join(file_name(name)), &home, clock.wall_us().saturating_sub(FORGOTTEN_US));
        Ok(keeper)
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What lies beside its own folder.
    pub fn others(&self) -> Result<Vec<PathBuf>> {
        let Some(home) = self.folder.parent() else { return Ok(Vec::new()) };
        let listed = fs::read_dir(home).map_err(disk)?;
        let paths = listed.map(|entry| entry.map(|entry| entry.path()).map_err(disk));
        Ok(paths.collect::<Result<Vec<_>>>()?.into_iter().filter(|path| *path != self.folder).collect())
    }

    /// Deletes what others had. They were listed before somebody has made sure that this is the owner still: what a later one
    /// makes is not among them.
    pub fn alone(&self, others: &[PathBuf]) -> Result<()> {
        for other in others {
            let Some(name) = other.file_name().and_then(|name| name.to_str()) else { continue };
            // Out of readers' sight first: a folder that is half gone looks like a shorter history.
            let aside = other.with_file_name(format!("unfinished-{name}-gone"));
            let aside = if fs::rename(other, &aside).is_ok() { &aside } else { other };
            match gone(fs::remove_dir_all(aside)) {
                // One that readers would take for the newest must not stay.
                Err(error) if aside == other && *other > self.folder && is_owner(name) => return Err(error),
                Err(error) => tracing::warn!("{} stays: {error}", aside.display()),
                Ok(()) => {}
            }
        }
        Ok(())
    }

    /// Lets nothing be merged or deleted any more, and waits for what is, for a while: the next owner takes over.
    pub fn end(&self) {
        self.kept().ended = true;
        for _ in 0..END_LOOKS {
            if self.tidying.try_lock().is_ok() {
                return;
            }
            std::thread::sleep(LOOK_PAUSE);
        }
    }

    /// Writes what commit `seq` will have read, rows or none. It may take as long as the disk does.
    pub fn write(&self, seq: i64, ranges: &[OffsetRange], rows: &[RecordBatch]) -> Result<()> {
        let Ok(_one_at_a_time) = self.writing.try_lock() else {
            return Err(Error::wait("TG-RECENT-DISK", "the last recent batch is still being written"));
        };
        let (generation, paused_until) = {
            let kept = self.kept();
            (kept.generation, kept.paused_until)
        };
        if let Some(until) = paused_until {
            if self.clock.now() < until {
                return Ok(());
            }
            // Somebody may have removed it; and files that would not go may go now.
            fs::create_dir_all(&self.folder).map_err(disk)?;
            for name in names(&self.folder) {
                remove(&self.folder, name);
            }
        }
        let written = self.written(seq, ranges, rows);
        if written.is_err() {
            remove(&self.folder, Name { first: seq, last: seq });
        }
        let held = written?;
        let mut kept = self.kept();
        // Given up meanwhile, or not where the last one ended.
        if kept.generation != generation || kept.files.last().is_some_and(|l| !l.facts.is_followed_by(&held.facts)) {
            drop(kept);
            remove(&self.folder, held.name);
            return Err(Error::wait("TG-RECENT-DISK", "a recent batch came too late, or out of its order"));
        }
        kept.paused_until = None;
        kept.files.push(held);
        Ok(())
    }

    /// Writing has failed, or takes too long: all files go, which readers are told, and nothing is written for a while.
    pub fn give_up(&self) {
        let mut kept = self.kept();
        kept.generation += 1;
        kept.paused_until = Some(self.clock.now() + PAUSE);
        let files = std::mem::take(&mut kept.files);
        drop(kept);
        // The newest first: what is left shows as a gap, and not as a shorter history.
        for file in files.iter().rev() {
            remove(&self.folder, file.name);
        }
    }

    fn written(&self, seq: i64, ranges: &[OffsetRange], rows: &[RecordBatch]) -> Result<Held> {
        let ingested = self.clock.wall_us();
        let name = Name { first: seq, last: seq };
        let facts = Facts::of(ranges, rows, self.time_column, ingested);
        let rows = rows.iter().map(|rows| segment::of_decoded(rows, &self.schema, ingested));
        let rows = rows.collect::<Result<Vec<_>>>()?;
        let bytes = segment::write(&self.folder, name, &self.schema, &rows, &facts)?;
        failpoint::hit("recent-written")?;
        Ok(Held { name, facts, bytes })
    }

    /// Whether rows that are to be archived are missing.
    pub fn needs_refill(&self) -> bool {
        self.kept().files.is_empty()
    }

    /// Writes rows that are to be archived, read once more, as files of the commits `first` to `last`: which of them read
    /// what is not known any more, so each file but the last stands for one.
    pub fn refill(
        &self,
        (first, last): (i64, i64),
        ranges: &[OffsetRange],
        feed: impl FnOnce(&mut dyn FnMut(RecordBatch) -> Result<()>) -> Result<()>,
    ) -> Result<()> {
        let refilling = self.folder.join(REFILLING);
        fs::write(&refilling, "").map_err(disk)?;
        let (mut next, mut held, mut bytes) = (first, Vec::new(), 0);
        let mut rest: Vec<OffsetRange> = ranges.to_vec();
        feed(&mut |rows| {
            bytes += rows.get_array_memory_size();
            held.push(rows);
            if bytes >= REFILL_BYTES && next < last {
                let until = reached(&held, &rest);
                self.refilled(Name { first: next, last: next }, &until, &held)?;
                for (range, until) in rest.iter_mut().zip(&until) {
                    range.from = until.until;
                }
                (next, bytes) = (next + 1, 0);
                held.clear();
            }
            Ok(())
        })?;
        self.refilled(Name { first: next, last }, &rest, &held)?;
        fs::remove_file(&refilling).map_err(disk)
    }

    fn refilled(&self, name: Name, ranges: &[OffsetRange], rows: &[RecordBatch]) -> Result<()> {
        let ingested = self.clock.wall_us();
        let facts = Facts::of(ranges, rows, self.time_column, ingested);
        let rows = rows.iter().map(|rows| segment::of_decoded(rows, &self.schema, ingested));
        let rows = rows.collect::<Result<Vec<_>>>()?;
        let bytes = segment::write(&self.folder, name, &self.schema, &rows, &facts)?;
        self.kept().files.push(Held { name, facts, bytes });
        Ok(())
    }

    /// The columns.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Files behind commit `archived`, which reaches up to these offsets, of commits up to `seq`; once the oldest is so old or
    /// they have so many bytes. They stay as they are until they are archived.
    pub fn due(
        &self,
        archived: i64,
        offsets: &[(i32, i64)],
        seq: i64,
        bytes_min: u64,
        age_us: i64,
    ) -> Result<Option<Due>> {
        let mut kept = self.kept();
        let behind = kept.files.iter().filter(|file| file.name.first > archived && file.name.last <= seq);
        let (mut due, mut bytes, mut full) = (Vec::new(), 0, false);
        for file in behind {
            full = !due.is_empty() && bytes + file.bytes > bytes_min;
            if full {
                break;
            }
            bytes += file.bytes;
            due.push(file.clone());
        }
        let old = self.clock.wall_us().saturating_sub(age_us);
        let is_due = full || bytes >= bytes_min || due.first().is_some_and(|file| file.facts.ingested.0 <= old);
        if !is_due {
            return Ok(None);
        }
        let facts: Vec<&Facts> = due.iter().map(|file| &file.facts).collect();
        let begins = |first: &Facts| {
            let of = |partition: i32| offsets.iter().find(|known| known.0 == partition).map(|known| known.1);
            first.ranges.iter().all(|(partition, from, _)| of(*partition).is_none_or(|offset| offset == *from))
        };
        if Facts::merged(&facts).is_none() || !facts.first().is_some_and(|first| begins(first)) {
            return Err(Error::wait(GONE, "recent batches that are to be archived are missing"));
        }
        kept.pinned = due.last().map_or(kept.pinned, |file| file.name.last);
        Ok(Some(Due(due)))
    }

    /// The rows of files that are to be archived.
    pub fn read(&self, due: &Due) -> Result<Vec<RecordBatch>> {
        let mut rows = Vec::new();
        for file in &due.0 {
            rows.extend(Segment::read(&self.folder.join(file.name.file()))?.all()?);
        }
        Ok(rows)
    }

    /// Everything up to this commit is archived.
    pub fn archived(&self, last: i64) {
        let mut kept = self.kept();
        (kept.archived, kept.pinned) = (last, last.max(kept.pinned));
    }

    /// Whether it is time to merge and to delete; then it is so again only after a while.
    pub fn is_due(&self) -> bool {
        let (mut kept, now) = (self.kept(), self.clock.now());
        let is_due = now.duration_since(kept.tidied_at) >= TIDY_EVERY;
        if is_due {
            kept.tidied_at = now;
        }
        is_due
    }

    /// How many bytes there are.
    pub fn bytes(&self) -> u64 {
        self.kept().files.iter().map(|file| file.bytes).sum()
    }

    /// Merges small files, all of them of commits up to `seq`, and deletes what is too old or too much.
    pub fn tidy(&self, seq: i64) -> Result<()> {
        let Ok(_one_at_a_time) = self.tidying.try_lock() else { return Ok(()) };
        if self.kept().ended {
            return Ok(());
        }
        self.kept().tidied_at = self.clock.now();
        self.evict();
        self.merge(seq)
    }

    fn merge(&self, seq: i64) -> Result<()> {
        for merged in [false, true] {
            let (files, archived) = {
                let kept = self.kept();
                (kept.files.clone(), if kept.archived == i64::MAX { i64::MAX } else { kept.pinned })
            };
            // What was archived together stays together.
            let behind = files.partition_point(|file| file.name.first <= archived && archived != i64::MAX);
            let files = &files[behind..];
            let Some(run) = run_of(files, seq, merged, self.settings.keep_us() / SPAN) else { continue };
            let merged = self.merged(run);
            let (first, last) = (run[0].name.first, run[run.len() - 1].name.last);
            let mut kept = self.kept();
            let at = kept.files.iter().position(|file| file.name.first == first);
            let until = kept.files.iter().position(|file| file.name.last == last);
            // All went meanwhile: the disk has refused. Or they are being archived.
            let free = kept.archived == i64::MAX || first > kept.pinned;
            let (Some(at), Some(until), true) = (at, until, free) else {
                drop(kept);
                remove(&self.folder, Name { first, last });
                continue;
            };
            // What is to be archived stays, whatever became of it.
            if let (Err(error), true) = (&merged, kept.archived != i64::MAX) {
                return Err(error.clone());
            }
            // One that cannot be read is a gap: what lies before it goes too.
            let from = if merged.is_ok() { at } else { 0 };
            let (new, failed) = match merged {
                Ok(held) => (Some(held), None),
                Err(error) => (None, Some(error)),
            };
            let gone: Vec<Held> = kept.files.splice(from..=until, new).collect();
            drop(kept);
            for file in gone {
                remove(&self.folder, file.name);
            }
            if let Some(error) = failed {
                return Err(error);
            }
        }
        Ok(())
    }

    /// These files as one.
    fn merged(&self, run: &[Held]) -> Result<Held> {
        let facts: Vec<&Facts> = run.iter().map(|file| &file.facts).collect();
        let facts = Facts::merged(&facts).ok_or_else(|| Error::bug("recent batches do not tile"))?;
        let name = Name { first: run[0].name.first, last: run[run.len() - 1].name.last };
        let mut batches = Vec::new();
        for file in run {
            batches.extend(Segment::read(&self.folder.join(file.name.file()))?.all()?);
        }
        let batches = segment::compact(&self.schema, &batches)?;
        let written = segment::write(&self.folder, name, &self.schema, &batches, &facts);
        let written = written.and_then(|bytes| failpoint::hit("recent-merged").map(|()| bytes));
        if written.is_err() {
            remove(&self.folder, name);
        }
        Ok(Held { name, facts, bytes: written? })
    }

    /// Deletes the oldest files beyond the time and the bytes that are kept; the newest stays, which tells where we are.
    fn evict(&self) {
        let old = self.clock.wall_us().saturating_sub(self.settings.keep_us());
        let mut kept = self.kept();
        let mut bytes: u64 = kept.files.iter().map(|file| file.bytes).sum();
        let mut gone = 0;
        for file in kept.files.iter().take(kept.files.len().saturating_sub(1)) {
            let is_wanted = bytes <= self.settings.bytes_max && file.facts.ingested.1 >= old;
            if is_wanted || file.name.last > kept.archived {
                break;
            }
            bytes -= file.bytes;
            gone += 1;
        }
        let gone: Vec<Held> = kept.files.drain(..gone).collect();
        drop(kept);
        for file in gone {
            remove(&self.folder, file.name);
        }
    }
}

/// The consecutive files, of commits up to `seq`, that are to become one: of single commits or of several.
fn run_of(files: &[Held], seq: i64, merged: bool, span_us: i64) -> Option<&[Held]> {
    let committed = files.iter().take_while(|file| file.name.last <= seq).count();
    let fits = |file: &Held| file.bytes <= SMALL && (file.name.first != file.name.last) == merged;
    let mut start = 0;
    while start < committed {
        if !fits(&files[start]) {
            start += 1;
            continue;
        }
        let (mut end, mut bytes) = (start, 0);
        while end < committed && fits(&files[end]) && bytes + files[end].bytes <= MERGE_BYTES_MAX {
            if files[end].facts.ingested.1.saturating_sub(files[start].facts.ingested.0) > span_us {
                break;
            }
            bytes += files[end].bytes;
            end += 1;
        }
        let count = end - start;
        if count > 1 && (bytes >= COMMITS_BYTES || count >= if merged { MERGED } else { COMMITS }) {
            return Some(&files[start..end]);
        }
        start = end.max(start + 1);
    }
    None
}

/// The ranges up to the last rows of each partition.
fn reached(rows: &[RecordBatch], ranges: &[OffsetRange]) -> Vec<OffsetRange> {
    let mut until: BTreeMap<i32, i64> = BTreeMap::new();
    for rows in rows {
        let (Some(partitions), Some(offsets)) = (rows.column_by_name(HIDDEN[0]), rows.column_by_name(HIDDEN[1])) else {
            continue;
        };
        let partitions = partitions.as_primitive::<Int32Type>().values();
        let offsets = offsets.as_primitive::<Int64Type>().values();
        for (partition, offset) in partitions.iter().zip(offsets) {
            let last = until.entry(*partition).or_insert(offset + 1);
            *last = (*last).max(offset + 1);
        }
    }
    let of = |range: &OffsetRange| until.get(&range.partition).copied().unwrap_or(range.from);
    ranges.iter().map(|range| OffsetRange { until: of(range), ..*range }).collect()
}

/// The files of a folder that are segments by their names.
pub fn names(folder: &Path) -> Vec<Name> {
    let listed = fs::read_dir(folder).into_iter().flatten().flatten();
    listed.filter_map(|entry| Name::parse(entry.file_name().to_str()?)).collect()
}

fn remove(folder: &Path, name: Name) {
    if let Err(error) = fs::remove_file(folder.join(name.file())) {
        tracing::debug!("{}: {error}", name.file());
    }
}

/// Takes what is right in the folder of an earlier owner into that of a new one: committed, whole, of these columns, and
/// tiling up to the committed offsets. What earlier owners had stays where it was, see [`Keeper::alone`].
fn take_over(home: &Path, schema: &SchemaRef, begin: &Begin<'_>) -> Result<Vec<Held>> {
    fs::create_dir_all(home).map_err(disk)?;
    let folder = home.join(owner_name(begin.epoch));
    // It has its name once all are in it; nobody else's has this one.
    let unfinished = home.join(format!("unfinished-{}", owner_name(begin.epoch)));
    let emptied = || {
        gone(fs::remove_dir_all(&unfinished))?;
        fs::create_dir(&unfinished).map_err(disk)
    };
    forget_attempts(home, begin.epoch);
    emptied()?;
    let mut found = Vec::new();
    // An owner that still runs may merge files while we look.
    for look in 0..LOOKS {
        let earlier = owners(home);
        if earlier.iter().all(|folder| names(folder).is_empty()) {
            break;
        }
        if look > 0 {
            std::thread::sleep(LOOK_PAUSE);
        }
        let fitting = earlier.iter().map(|folder| (folder, fitting(folder, schema, begin)));
        let Some((from, fitting)) = fitting.into_iter().find(|(_, held)| !held.is_empty()) else { continue };
        if linked(&fitting, from, &unfinished)? {
            found = fitting;
            break;
        }
        emptied()?;
    }
    // A database that was restored counts epochs again.
    gone(fs::remove_dir_all(&folder))?;
    fs::rename(&unfinished, &folder).map_err(disk)?;
    Ok(found)
}

/// Deletes what earlier owners have begun to make here and not ended: what was refilled, or linked. Nothing of it is the only one.
fn forget_attempts(home: &Path, epoch: i64) {
    for entry in fs::read_dir(home).into_iter().flatten().flatten() {
        let name = entry.file_name().into_string().unwrap_or_default();
        let bare = name.strip_prefix("unfinished-");
        let of = bare.unwrap_or(&name).trim_end_matches("-gone").parse::<i64>();
        let is_attempt = bare.is_some() || entry.path().join(REFILLING).exists();
        if is_attempt && of.is_ok_and(|of| of < epoch) {
            // What does not go is in nobody's way but for its bytes.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Whether a folder of this name is an owner's.
fn is_owner(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_digit())
}

/// The files of a folder that are all that was committed; none if something is missing.
fn fitting(folder: &Path, schema: &SchemaRef, begin: &Begin<'_>) -> Vec<Held> {
    let mut found = Vec::new();
    // One that a merge has left across the end of the archive would hide what lies behind it.
    let across = |name: &Name| begin.archived.is_some_and(|(last, _)| name.first <= *last && *last < name.last);
    for name in names(folder).into_iter().filter(|name| name.last <= begin.seq && !across(name)) {
        if let Ok((facts, of, bytes)) = segment::look(&folder.join(name.file()))
            && of == *schema
        {
            found.push(Held { name, facts, bytes });
        }
    }
    let found = super::reader::without_parts(found, |held| held.name);
    let reaches_back = |(archived, offsets): &(i64, Vec<(i32, i64)>)| {
        let first = found.first().map(|held| &held.facts);
        *archived >= begin.seq
            || first.is_some_and(|first| {
                let from = |partition: i32| first.ranges.iter().find(|range| range.0 == partition).map(|range| range.1);
                // One that came later begins where it should: that they tile says so.
                offsets.iter().all(|(partition, offset)| from(*partition).is_none_or(|from| from <= *offset))
            })
    };
    let whole = untiled(found.iter().map(|held| &held.facts), begin.committed, true).is_none();
    if whole && begin.archived.is_none_or(reaches_back) { found } else { Vec::new() }
}

/// Gives files a second name in another folder; whether all of them were still there.
fn linked(files: &[Held], from: &Path, to: &Path) -> Result<bool> {
    for held in files {
        let (from, to) = (from.join(held.name.file()), to.join(held.name.file()));
        // Some file systems have one name for a file.
        let linked = fs::hard_link(&from, &to).or_else(|_| fs::copy(&from, &to).map(drop));
        match linked {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            linked => linked.map_err(disk)?,
        }
    }
    Ok(true)
}

/// The folders of owners, the newest first.
fn owners(home: &Path) -> Vec<PathBuf> {
    let listed = fs::read_dir(home).into_iter().flatten().flatten();
    let owners = listed.filter_map(|entry| entry.file_name().into_string().ok());
    let mut owners: Vec<String> = owners.filter(|name| is_owner(name)).collect();
    owners.sort_unstable_by(|one, other| other.cmp(one));
    owners.into_iter().map(|name| home.join(name)).collect()
}

/// The folder of the newest owner.
pub fn newest_owner(home: &Path) -> Option<PathBuf> {
    owners(home).into_iter().next()
}

/// What is not there need not be removed.
fn gone(removed: io::Result<()>) -> Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(disk),
    }
}

/// Deletes what was written before the machine was last started, and folders of other pipelines that nobody has written
/// to since `old`: they were dropped.
fn forget_others(of_source: &Path, ours: &Path, old: i64) {
    let children = |path: &Path| fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    for pipeline in children(of_source) {
        let is_ours = ours.starts_with(&pipeline);
        for boot in children(&pipeline).filter(|boot| boot != ours) {
            let newest = children(&boot).chain([boot.clone()]).filter_map(|path| modified_us(&path)).max();
            if (is_ours || newest.is_some_and(|at| at < old)) && fs::remove_dir_all(&boot).is_ok() {
                tracing::info!("deleted recent batches that are not read any more: {}", boot.display());
            }
        }
        // Only an empty one goes.
        let _ = fs::remove_dir(&pipeline);
    }
}

fn modified_us(path: &Path) -> Option<i64> {
    let modified = fs::metadata(path).and_then(|data| data.modified()).ok()?;
    i64::try_from(modified.duration_since(UNIX_EPOCH).ok()?.as_micros()).ok()
}
