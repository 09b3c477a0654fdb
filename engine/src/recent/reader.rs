//! The readers' side: which files there are as of a moment of the database, and their rows.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arrow::array::{AsArray, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{Int32Type, Int64Type, SchemaRef};

use super::segment::{Facts, GONE, Name, Segment};
use super::{home, keeper};
use crate::batch::{Committed, HIDDEN};
use crate::error::{Error, Result};

/// How often the folder is looked at again when files are missing: between a listing and the next the owner merges.
const LOOKS: usize = 5;
const PAUSE: Duration = Duration::from_millis(5);

/// Files that are mapped, in the order of their commits.
type Files = Vec<(Name, Arc<Segment>)>;

/// What a query hears that some of what it should read is not there.
pub fn absent(source: &str, partition: i32, from: i64, until: i64) -> Error {
    let why = format!(
        "recent batches of {source} are not there: offsets [{from}, {until}) of partition {partition} are missing"
    );
    Error::wait("TG-RECENT-ABSENT", why).hint(
        "ask again; recent.path must name the folder that the engine writes, on the same machine, whose log says whether it writes",
    )
}

/// A file that a query reads, or that part of it which was committed.
#[derive(Debug, Clone)]
pub struct Slice {
    name: Name,
    segment: Arc<Segment>,
    /// Only rows below these offsets, by partition.
    below: Option<Arc<[(i32, i64)]>>,
}

impl Slice {
    /// What is known of the file.
    pub fn facts(&self) -> &Facts {
        &self.segment.facts
    }

    /// The commits that it holds.
    pub fn name(&self) -> Name {
        self.name
    }

    /// How many rows, if all of the file is read.
    pub fn exact_rows(&self) -> Option<u64> {
        self.below.is_none().then_some(self.segment.facts.rows)
    }

    /// Its rows, with these columns, in the order in which they were read.
    pub fn rows(&self, columns: &[usize], schema: &SchemaRef) -> Result<Vec<RecordBatch>> {
        let rows = self.segment.rows(columns, schema)?;
        let Some(below) = &self.below else { return Ok(rows) };
        let all = &self.segment.schema;
        let places = [all.index_of(HIDDEN[0])?, all.index_of(HIDDEN[1])?];
        let places = self.segment.rows(&places, &Arc::new(all.project(&places)?))?;
        let committed = |(rows, places): (RecordBatch, RecordBatch)| {
            let partitions = places.column(0).as_primitive::<Int32Type>().values();
            let offsets = places.column(1).as_primitive::<Int64Type>().values();
            let is_below =
                |(partition, offset): (&i32, &i64)| below.iter().any(|(p, next)| p == partition && offset < next);
            let kept: BooleanArray = partitions.iter().zip(offsets).map(|place| Some(is_below(place))).collect();
            Ok(filter_record_batch(&rows, &kept)?)
        };
        rows.into_iter().zip(places).map(committed).collect()
    }
}

/// Reads the recent batches of one source. Files that were mapped once stay so while they are there.
pub struct Reader {
    path: PathBuf,
    source: String,
    schema: SchemaRef,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    folder: PathBuf,
    files: HashMap<Name, Arc<Segment>>,
}

impl Reader {
    /// Below the path where engines write them; `schema` is that of the table.
    pub fn new(path: &Path, source: &str, schema: SchemaRef) -> Self {
        Self { path: path.to_path_buf(), source: source.to_string(), schema, open: Mutex::default() }
    }

    /// The path that it was made with.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The columns, with those that are hidden.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The files of everything up to the committed offsets; blocks.
    pub fn slices(&self, committed: &Committed) -> Result<Vec<Slice>> {
        let home = home(&self.path, &self.source, &committed.pipeline);
        let mut missing = None;
        for look in 0..LOOKS {
            if look > 0 {
                std::thread::sleep(PAUSE * (1 << look));
            }
            let Some(files) = self.files(&home)? else { continue };
            let next: Arc<[(i32, i64)]> = committed.partitions.iter().map(|(part, _, next)| (*part, *next)).collect();
            let next_of =
                |partition: i32| next.iter().find(|(other, _)| *other == partition).map_or(0, |(_, next)| *next);
            // A merged file may reach beyond a moment that is a little older.
            let slice = |(name, segment): (Name, Arc<Segment>)| {
                let ranges = &segment.facts.ranges;
                let is_whole = ranges.iter().all(|(partition, _, until)| *until <= next_of(*partition));
                let begun = is_whole || ranges.iter().any(|(partition, from, _)| *from < next_of(*partition));
                begun.then(|| Slice { name, segment, below: (!is_whole).then(|| next.clone()) })
            };
            let files: Vec<Slice> = files.into_iter().filter_map(slice).collect();
            match untiled(files.iter().map(Slice::facts), committed, false) {
                None => return Ok(files),
                Some(gap) => missing = Some(gap),
            }
        }
        let (partition, from, until) = missing.unwrap_or_default();
        Err(absent(&self.source, partition, from, until))
    }

    /// Every file of the newest owner, in the order of its commits; none if they change while they are looked at.
    fn files(&self, home: &Path) -> Result<Option<Files>> {
        let Some(folder) = keeper::newest_owner(home) else { return Ok(Some(Vec::new())) };
        let mut names = keeper::names(&folder);
        names.sort();
        let mut again = keeper::names(&folder);
        again.sort();
        // A list that is read while files are merged may lack the old ones and the new one.
        if names != again {
            return Ok(None);
        }
        let names = without_parts(names, |name| *name);
        let mut open = self.open();
        if open.folder != folder {
            *open = Open { folder: folder.clone(), files: HashMap::new() };
        }
        let mut files = HashMap::with_capacity(names.len());
        let mut found = Vec::with_capacity(names.len());
        for name in names {
            let file = match open.files.get(&name) {
                Some(file) => file.clone(),
                None => match Segment::map(&folder.join(name.file())) {
                    Ok(file) => Arc::new(file),
                    Err(error) if error.code == GONE => return Ok(None),
                    Err(error) => return Err(error),
                },
            };
            if file.schema != self.schema {
                return Err(Error::wait(
                    "TG-RECENT-ABSENT",
                    format!("recent batches of {} have other columns than it declares", self.source),
                )
                .hint("start the engine and the api with the same queries"));
            }
            files.insert(name, file.clone());
            found.push((name, file));
        }
        open.files = files;
        Ok(Some(found))
    }
}

/// Files in the order of their commits, without those that a merged one stands for: a crash may leave both.
pub fn without_parts<T>(mut files: Vec<T>, name: impl Fn(&T) -> Name) -> Vec<T> {
    files.sort_by_key(|file| (name(file).first, -name(file).last));
    let mut until = i64::MIN;
    files.retain(|file| {
        let last = name(file).last;
        let is_part = last <= until;
        until = until.max(last);
        !is_part
    });
    files
}

/// The first offsets that are missing: between consecutive files, of a partition that came later, or up to the next
/// offset. Where it is to be `exact`, nothing may lie above that either.
pub fn untiled<'a>(
    files: impl Iterator<Item = &'a Facts>,
    committed: &Committed,
    exact: bool,
) -> Option<(i32, i64, i64)> {
    let start_of = |partition: i32| committed.partitions.iter().find(|known| known.0 == partition).map(|known| known.1);
    let mut reached: BTreeMap<i32, i64> = BTreeMap::new();
    for (number, facts) in files.enumerate() {
        for (partition, from, until) in &facts.ranges {
            // Each file names all partitions that there were: one that is new is there from its start.
            let before = match reached.insert(*partition, *until) {
                None if number > 0 => start_of(*partition),
                before => before,
            };
            if before.is_some_and(|before| before != *from) {
                return Some((*partition, before.unwrap_or_default(), *from));
            }
        }
    }
    committed.partitions.iter().find_map(|(partition, start, next)| {
        let reached = reached.get(partition).copied().unwrap_or(*start);
        (reached < *next || exact && reached != *next).then_some((*partition, reached, *next))
    })
}
