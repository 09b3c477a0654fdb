//! Tests of the two sides together, on a folder: what is written, merged, deleted, and what readers see of it.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{AsArray, Int32Array, Int64Array, RecordBatch, StringViewArray, TimestampMicrosecondArray};
use arrow::datatypes::Int64Type;
use uuid::Uuid;

use super::*;
use crate::batch::{Committed, OffsetRange};
use crate::settings::RecentSettings;
use crate::sql::{Catalog, PlannedSource};
use crate::time::clock::{Clock, Manual};

/// A folder that goes with its test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("tidegate-recent-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn source() -> PlannedSource {
    let text = "CREATE SOURCE s (ts TIMESTAMP WITH TIME ZONE, k VARCHAR, WATERMARK FOR ts AS ts)
        WITH (connector = 'kafka', topic = 't', format = 'json', scan.startup.mode = 'earliest');";
    let catalog = Catalog::of_texts(&[("q.sql".to_string(), text.to_string())], |_| None).unwrap();
    catalog.sources.into_iter().next().unwrap()
}

/// Rows of partition 0 with these offsets, each a second after the other.
fn rows(source: &PlannedSource, offsets: std::ops::Range<i64>) -> RecordBatch {
    let count = offsets.clone().count();
    let times = TimestampMicrosecondArray::from_iter_values(offsets.clone().map(|n| n * 1_000_000));
    RecordBatch::try_new(
        source.schema.clone(),
        vec![
            Arc::new(times.with_timezone("+00:00")),
            Arc::new(StringViewArray::from_iter_values(offsets.clone().map(|n| format!("a text of some length, {n}")))),
            Arc::new(Int32Array::from_value(0, count)),
            Arc::new(Int64Array::from_iter_values(offsets)),
            Arc::new(Int64Array::from_value(0, count)),
        ],
    )
    .unwrap()
}

/// A pipeline whose commits have `STEP` records each.
struct Played {
    folder: Folder,
    source: PlannedSource,
    settings: RecentSettings,
    life: String,
    clock: Arc<Manual>,
    epoch: i64,
    seq: i64,
}

const STEP: i64 = 10;

impl Played {
    fn new(name: &str) -> Self {
        let folder = Folder::new(name);
        let settings = RecentSettings { path: folder.0.clone(), ..RecentSettings::default() };
        let clock = Arc::new(Manual::at(1_000_000_000));
        Self { folder, source: source(), settings, life: Uuid::new_v4().to_string(), clock, epoch: 0, seq: 0 }
    }

    fn owner(&mut self, epoch: i64) -> Keeper {
        self.epoch = epoch;
        let committed = self.committed();
        let begin = Begin { epoch, seq: self.seq, committed: &committed, archived: None };
        let clock = Clock::Manual(self.clock.clone());
        let keeper = Keeper::begin(&self.settings, &self.source, &begin, &clock).unwrap();
        keeper.alone(&keeper.others().unwrap()).unwrap();
        keeper
    }

    /// What the next commit would hold.
    fn write(&self, keeper: &Keeper) {
        let range = OffsetRange { partition: 0, from: self.seq * STEP, until: (self.seq + 1) * STEP };
        keeper.write(self.seq + 1, &[range], &[rows(&self.source, range.from..range.until)]).unwrap();
    }

    fn commit(&mut self, keeper: &Keeper, count: i64) {
        for _ in 0..count {
            self.write(keeper);
            self.seq += 1;
        }
    }

    fn committed(&self) -> Committed {
        Committed { pipeline: self.life.clone(), partitions: vec![(0, 0, self.seq * STEP)] }
    }

    fn reader(&self) -> Reader {
        Reader::new(&self.folder.0, "s", table_schema(&self.source.schema))
    }

    /// The offsets that a reader sees.
    fn seen(&self, reader: &Reader) -> Result<Vec<i64>, String> {
        let slices = reader.slices(&self.committed()).map_err(|error| error.to_string())?;
        let schema = Arc::new(reader.schema().project(&[3]).unwrap());
        let batches = slices.iter().flat_map(|slice| slice.rows(&[3], &schema).unwrap());
        Ok(batches.flat_map(|batch| batch.column(0).as_primitive::<Int64Type>().values().to_vec()).collect())
    }

    fn all(&self) -> Result<Vec<i64>, String> {
        Ok((0..self.seq * STEP).collect())
    }

    fn home(&self) -> PathBuf {
        home(&self.folder.0, "s", &self.life)
    }

    fn files(&self) -> Vec<PathBuf> {
        let folder = self.home().join(owner_name(self.epoch));
        let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files
    }
}

#[test]
fn readers_see_what_is_committed_and_nothing_above() {
    let mut played = Played::new("committed");
    let reader = played.reader();
    assert_eq!(played.seen(&reader), Ok(Vec::new()), "nothing was committed, and there is no folder");
    let keeper = played.owner(1);
    assert_eq!(played.seen(&reader), Ok(Vec::new()));
    played.commit(&keeper, 3);
    played.write(&keeper);
    assert_eq!(played.seen(&reader), played.all());
    let slices = reader.slices(&played.committed()).unwrap();
    let second = slices.iter().find(|slice| slice.facts().ranges == [(0, 10, 20)]).unwrap();
    assert_eq!(second.facts().times, Some((10_000_000, 19_000_000)));
    assert_eq!(second.rows(&[], &Arc::new(Schema::empty())).unwrap()[0].num_rows(), 10);
    // The next owner deletes what was not committed, and writes it anew.
    let keeper = played.owner(2);
    assert_eq!(fs::read_dir(played.home()).unwrap().count(), 1);
    assert_eq!(played.files().len(), 4);
    played.commit(&keeper, 2);
    assert_eq!(played.seen(&reader), played.all());
}

#[test]
fn many_small_files_become_few_and_the_rows_stay() {
    let mut played = Played::new("merged");
    let (keeper, reader) = (played.owner(1), played.reader());
    played.commit(&keeper, 200);
    let before = reader.slices(&played.committed()).unwrap();
    played.write(&keeper);
    for _ in 0..3 {
        keeper.tidy(played.seq).unwrap();
    }
    assert!(played.files().len() < 20, "{}", played.files().len());
    assert_eq!(played.seen(&reader), played.all());
    assert_eq!(played.owner(2).bytes(), played.files().iter().map(|file| file.metadata().unwrap().len()).sum::<u64>());
    assert_eq!(played.seen(&reader), played.all());
    // What was mapped before can still be read.
    let schema = Arc::new(reader.schema().project(&[1]).unwrap());
    let rows = before.iter().flat_map(|slice| slice.rows(&[1], &schema).unwrap());
    assert_eq!(rows.map(|rows| rows.num_rows()).sum::<usize>(), 2_000);
}

#[test]
fn a_moment_that_is_older_than_a_merge_sees_what_it_saw() {
    let mut played = Played::new("older");
    let (keeper, reader) = (played.owner(1), played.reader());
    played.commit(&keeper, 63);
    keeper.tidy(63).unwrap();
    assert_eq!(played.files().len(), 1);
    for seq in [62, 40, 1] {
        played.seq = seq;
        assert_eq!(played.seen(&reader), played.all());
        assert_eq!(reader.slices(&played.committed()).unwrap()[0].exact_rows(), None);
    }
    played.seq = 63;
    assert_eq!(reader.slices(&played.committed()).unwrap()[0].exact_rows(), Some(630));
}

#[test]
fn the_oldest_go_by_time_and_by_bytes_and_the_newest_stays() {
    let mut played = Played::new("evicted");
    let (keeper, reader) = (played.owner(1), played.reader());
    played.commit(&keeper, 5);
    played.clock.advance(600_000_000);
    played.commit(&keeper, 5);
    played.clock.advance(600_000_000);
    keeper.tidy(played.seq).unwrap();
    assert_eq!(played.seen(&reader), Ok((50..100).collect()));
    played.clock.advance(6_000_000_000);
    keeper.tidy(played.seq).unwrap();
    assert_eq!(played.seen(&reader), Ok((90..100).collect()), "the newest tells where we are");
    let size = keeper.bytes();
    played.settings.bytes_max = 3 * size + size / 2;
    let keeper = played.owner(2);
    played.commit(&keeper, 10);
    keeper.tidy(played.seq).unwrap();
    assert_eq!(played.seen(&reader), Ok((played.seq * STEP - 30..played.seq * STEP).collect()));
}

#[test]
fn what_an_owner_writes_in_vain_is_nobodys() {
    let mut played = Played::new("fenced");
    let (old, reader) = (played.owner(1), played.reader());
    played.commit(&old, 2);
    let new = played.owner(2);
    played.commit(&new, 2);
    // The old one does not know yet that its epoch is over: its folder has gone.
    let range = OffsetRange { partition: 0, from: 20, until: 35 };
    let refused = old.write(3, &[range], &[rows(&played.source, 20..35)]).expect_err("its folder has gone");
    assert_eq!(refused.code, "TG-RECENT-DISK");
    old.give_up();
    old.tidy(4).unwrap();
    played.clock.advance(11_000_000);
    old.write(3, &[range], &[rows(&played.source, 20..35)]).unwrap();
    played.commit(&new, 2);
    assert_eq!(fs::read_dir(played.home()).unwrap().count(), 2, "it has made it anew");
    assert_eq!(played.seen(&reader), played.all());
    new.tidy(played.seq).unwrap();
    assert_eq!(played.seen(&reader), played.all());
    drop(played.owner(3));
    assert_eq!(fs::read_dir(played.home()).unwrap().count(), 1);
    assert_eq!(played.seen(&reader), played.all());
    // A database that was restored counts again.
    let restored = played.owner(2);
    played.commit(&restored, 1);
    assert_eq!(played.seen(&reader), played.all());
}

#[test]
fn a_crash_in_the_middle_of_a_merge_doubles_nothing() {
    let mut played = Played::new("crash");
    let (keeper, reader) = (played.owner(1), played.reader());
    played.commit(&keeper, 70);
    let parts = played.files();
    let kept: Vec<Vec<u8>> = parts.iter().map(|part| fs::read(part).unwrap()).collect();
    keeper.tidy(played.seq).unwrap();
    for (part, bytes) in parts.iter().zip(kept) {
        fs::write(part, bytes).unwrap();
    }
    assert_eq!(played.seen(&reader), played.all());
    let keeper = played.owner(2);
    assert!(played.files().len() < 10);
    played.commit(&keeper, 1);
    assert_eq!(played.seen(&reader), played.all());
}

#[test]
fn torn_files_and_gaps_are_told_and_not_read() {
    let mut played = Played::new("torn");
    let (keeper, reader) = (played.owner(1), played.reader());
    played.commit(&keeper, 3);
    let second = played.files()[2].clone();
    assert!(second.to_string_lossy().contains("000000000002"));
    fs::copy(&second, second.with_file_name("000000000009-x.arrow")).unwrap();
    fs::copy(&second, second.with_file_name("notes.txt")).unwrap();
    assert_eq!(played.seen(&reader), played.all(), "what is no segment is not looked at");
    let whole = fs::read(&second).unwrap();
    for torn in [
        whole[..whole.len() / 2].to_vec(),
        Vec::new(),
        b"PAR1 and so on".to_vec(),
        [&whole[..whole.len() - 300], &[0xff; 200][..], &whole[whole.len() - 100..]].concat(),
    ] {
        // A new file each time: readers hold what they have mapped.
        fs::remove_file(&second).unwrap();
        fs::write(&second, torn).unwrap();
        let told = played.seen(&played.reader()).expect_err("it is torn");
        assert!(told.starts_with("TG-RECENT-TORN: a recent batch cannot be read"), "{told}");
    }
    fs::remove_file(&second).unwrap();
    let told = played.seen(&reader).expect_err("even who has read it misses it");
    assert!(
        told.starts_with("TG-RECENT-ABSENT: recent batches of s are not there: offsets [10, 20) of partition 0"),
        "{told}"
    );
    // The next owner begins anew rather than with a gap.
    let keeper = played.owner(2);
    assert_eq!(played.seen(&reader), Ok(Vec::new()));
    played.commit(&keeper, 1);
    assert_eq!(played.seen(&reader), Ok((30..40).collect()));
}

#[test]
fn a_disk_that_refuses_costs_the_batches_and_nothing_else() {
    let mut played = Played::new("full");
    let (keeper, reader) = (played.owner(1), played.reader());
    played.commit(&keeper, 3);
    fs::remove_dir_all(&played.folder.0).unwrap();
    let range = OffsetRange { partition: 0, from: 30, until: 40 };
    let refused = keeper.write(4, &[range], &[rows(&played.source, 30..40)]).expect_err("there is no folder");
    assert_eq!(refused.code, "TG-RECENT-DISK");
    keeper.give_up();
    played.seq = 4;
    assert!(played.seen(&reader).is_err(), "offsets 30 to 40 are not there");
    // For ten seconds nothing is tried; then it begins anew.
    played.commit(&keeper, 1);
    assert!(played.seen(&reader).is_err());
    played.clock.advance(11_000_000);
    played.commit(&keeper, 1);
    assert_eq!(played.seen(&reader), Ok((50..60).collect()));
}

#[test]
fn a_partition_that_came_later_is_there_from_its_start() {
    let facts = |ranges: &[(i32, i64, i64)]| Facts { ranges: ranges.to_vec(), rows: 0, times: None, ingested: (0, 0) };
    let committed =
        |partitions: &[(i32, i64, i64)]| Committed { pipeline: String::new(), partitions: partitions.to_vec() };
    let (first, second) = (facts(&[(0, 5, 9)]), facts(&[(0, 9, 9), (1, 0, 4)]));
    let now = committed(&[(0, 0, 9), (1, 0, 4)]);
    assert_eq!(reader::untiled([&first, &second].into_iter(), &now, true), None);
    assert_eq!(reader::untiled([&first].into_iter(), &now, true), Some((1, 0, 4)), "no file names it");
    let late = facts(&[(0, 9, 9), (1, 2, 4)]);
    assert_eq!(reader::untiled([&first, &late].into_iter(), &now, true), Some((1, 0, 2)));
    let beyond = committed(&[(0, 0, 8), (1, 0, 4)]);
    assert_eq!(reader::untiled([&first, &second].into_iter(), &beyond, false), None);
    assert_eq!(reader::untiled([&first, &second].into_iter(), &beyond, true), Some((0, 9, 8)));
    assert!(Facts::merged(&[&first, &second]).is_some());
    assert!(Facts::merged(&[&second, &first]).is_none());
}

#[test]
fn names_are_read_as_they_are_written() {
    let name = segment::Name { first: 41, last: 1_234_567_890_123 };
    assert_eq!(segment::Name::parse(&name.file()), Some(name));
    for other in ["1.arrow", "3-2.arrow", "1-2.unfinished", "1-2-3.arrow", "a-b.arrow"] {
        assert_eq!(segment::Name::parse(other), None, "{other}");
    }
    assert_eq!(file_name("a/b c_1"), "a%2fb%20c_1");
}

#[test]
fn a_take_over_that_was_cut_off_loses_nothing() {
    let mut played = Played::new("cut-off");
    let keeper = played.owner(1);
    played.commit(&keeper, 3);
    let home = home(&played.folder.0, "s", &played.life);
    // One got as far as its folder, the next one was killed before that, and another while it filled its folder anew.
    fs::create_dir(home.join(owner_name(3))).unwrap();
    fs::write(home.join("0000000003/refilling"), "").unwrap();
    fs::write(home.join("0000000003/000000000001-000000000001.arrow"), "torn").unwrap();
    fs::create_dir(home.join(owner_name(2))).unwrap();
    fs::create_dir(home.join("unfinished-0000000003")).unwrap();
    fs::hard_link(keeper_file(&home, 1), home.join("unfinished-0000000003").join("000000000001-000000000001.arrow"))
        .unwrap();
    drop(keeper);
    let keeper = played.owner(4);
    played.commit(&keeper, 1);
    assert_eq!(played.seen(&played.reader()), Ok((0..40).collect()));
    let left: Vec<_> = fs::read_dir(&home).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["0000000004"]);
}

/// The file of the first commit, as an owner has it.
fn keeper_file(home: &Path, epoch: i64) -> PathBuf {
    home.join(owner_name(epoch)).join("000000000001-000000000001.arrow")
}

#[test]
fn what_is_archived_together_is_enough_or_old_enough() {
    let mut played = Played::new("due");
    let keeper = played.owner(1);
    played.commit(&keeper, 6);
    let due = |bytes: u64, age_us: i64| {
        keeper.due(0, &[(0, 0)], 5, bytes, age_us).unwrap().map(|due| (due.last(), due.until()))
    };
    let one = keeper.bytes() / 6;
    // Commit 6 is not known to be there.
    assert_eq!(due(100 * one, i64::MAX), None);
    assert_eq!(due(100 * one, -1), Some((5, vec![(0, 50)])));
    assert_eq!(due(3 * one + one / 2, i64::MAX), Some((3, vec![(0, 30)])));
    assert_eq!(keeper.due(3, &[(0, 20)], 5, 1, 0).unwrap_err().code, GONE);
}
