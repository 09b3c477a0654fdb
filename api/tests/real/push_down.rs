//! What a store is asked for instead of all its rows, it gives as DataFusion would: the same random questions are asked of
//! Postgres, of SQLite, and of a store that judges, orders and cuts nothing itself.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use arrow::array::{
    ArrayRef, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int16Array, Int64Array, RecordBatch,
    StringViewArray, TimestampMicrosecondArray, UInt32Array,
};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, TimeUnit};
use async_trait::async_trait;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tidegate_engine::archive::{Before, Files};
use tidegate_engine::ask::adhoc::{Limits, Relations, query};
use tidegate_engine::batch::Committed;
use tidegate_engine::error::{Error, Result};
use tidegate_engine::show;
use tidegate_engine::sink::Write;
use tidegate_engine::sql::guard::{Filled, Parameters, check};
use tidegate_engine::sql::planned::{Table, TableColumn};
use tidegate_engine::store::memory::MemoryStore;
use tidegate_engine::store::postgres::Postgres;
use tidegate_engine::store::sqlite::SqliteStore;
use tidegate_engine::store::{Commit, Moment, Settled, Store, ViewCommit, ViewStart, Wanted};
use tidegate_engine::time::NONE;
use tidegate_engine::view::{Changes, Counts};
use uuid::Uuid;

use crate::world::{World, shared};

const ROWS: usize = 400;
const QUESTIONS: usize = 400;

/// Texts that languages, lengths and cases would order otherwise than their bytes do.
const TEXTS: [&str; 20] = [
    "",
    " ",
    "a",
    "A",
    "aa",
    "a b",
    "a-b",
    "a_b",
    "ab",
    "B",
    "b",
    "Z",
    "z",
    "ä",
    "é",
    "e\u{301}",
    "ß",
    "~",
    "\u{ffff}",
    "\u{10ffff}",
];
const TIMES: [&str; 8] = [
    "0001-01-01T00:00:00Z",
    "1969-12-31T23:59:59.999999Z",
    "1970-01-01T00:00:00Z",
    "2026-03-01T12:00:00Z",
    "2026-03-01T12:00:00.1Z",
    "2026-03-01T12:00:00.100001Z",
    "2026-11-01T01:30:00Z",
    "9999-12-31T23:59:59Z",
];

fn micros(text: &str) -> i64 {
    chrono::DateTime::parse_from_rfc3339(text).unwrap().timestamp_micros()
}

/// A table with a column of every kind. Those up to `ratio` have a place in every store's order.
fn table() -> Table {
    let time = |zone: Option<&str>| DataType::Timestamp(TimeUnit::Microsecond, zone.map(Into::into));
    let column = |(name, data_type): (&str, DataType)| TableColumn {
        name: name.to_string(),
        data_type,
        key_of: (name == "id").then_some(0),
        nullable: name != "id",
    };
    let columns = [
        ("id", DataType::Int64),
        ("small", DataType::Int16),
        ("big", DataType::Int64),
        ("some", DataType::UInt32),
        ("price", DataType::Decimal128(18, 4)),
        ("flag", DataType::Boolean),
        ("day", DataType::Date32),
        ("at", time(Some("+00:00"))),
        ("clock", time(None)),
        ("order", DataType::Utf8View),
        ("ratio", DataType::Float64),
        ("long", DataType::Decimal128(38, 10)),
    ];
    Table { name: "every kind".to_string(), columns: columns.into_iter().map(column).collect() }
}

fn rows(table: &Table, rng: &mut ChaCha8Rng) -> RecordBatch {
    fn some<T: Clone>(rng: &mut ChaCha8Rng, of: &[T]) -> Vec<Option<T>> {
        (0..ROWS).map(|_| if rng.random_bool(0.15) { None } else { of.choose(rng).cloned() }).collect()
    }
    let times: Vec<i64> = TIMES.iter().map(|text| micros(text)).collect();
    let decimals = [i128::from(i64::MAX) / 10, -1, 0, 1, 9, 10, 100, 99_999];
    let columns: Vec<ArrayRef> = vec![
        // Numbers that stand in another order as texts.
        Arc::new(Int64Array::from_iter_values((0..ROWS as i64).map(|id| id - 150))),
        Arc::new(Int16Array::from(some(rng, &[i16::MIN, -10, -9, 0, 9, 10, 100, i16::MAX]))),
        Arc::new(Int64Array::from(some(rng, &[i64::MIN, -1, 0, 1, 2, 10, i64::MAX]))),
        Arc::new(UInt32Array::from(some(rng, &[0, 1, 2, 10, u32::MAX]))),
        Arc::new(
            some(rng, &decimals).into_iter().collect::<Decimal128Array>().with_precision_and_scale(18, 4).unwrap(),
        ),
        Arc::new(BooleanArray::from(some(rng, &[true, false]))),
        Arc::new(Date32Array::from(some(rng, &[-700_000, -1, 0, 1, 20_000]))),
        Arc::new(TimestampMicrosecondArray::from(some(rng, &times)).with_timezone("+00:00")),
        Arc::new(TimestampMicrosecondArray::from(some(rng, &times))),
        Arc::new(StringViewArray::from(some(rng, &TEXTS))),
        Arc::new(Float64Array::from(some(rng, &[f64::NAN, f64::NEG_INFINITY, -0.0, 0.0, 1.5]))),
        Arc::new(
            some(rng, &decimals).into_iter().collect::<Decimal128Array>().with_precision_and_scale(38, 10).unwrap(),
        ),
    ];
    RecordBatch::try_new(table.schema(), columns).unwrap()
}

/// Commits rows as an engine would.
async fn fill(store: &dyn Store, table: &Table, rows: RecordBatch) {
    store.migrate().await.unwrap();
    let lease = store.lease("p", &|| false).await.unwrap().unwrap();
    let (mut writer, stored) = lease.claim("t", "id").await.unwrap();
    let start = ViewStart { view: &table.name, fingerprint: "f", floor: NONE, starts: &[] };
    writer.begin_view(stored.epoch, &start).await.unwrap();
    writer.open_table(table).await.unwrap();
    let write = Write::new(table, Changes { upserts: rows, deletes: None }).unwrap();
    let view = ViewCommit {
        view: 0,
        counts: Counts::default(),
        write,
        windows: Vec::new(),
        thinned: Vec::new(),
        drop_state_before: None,
        pieces: 0,
    };
    let commit = Commit {
        pipeline: "p".to_string(),
        epoch: stored.epoch,
        seq: stored.seq + 1,
        id: Uuid::new_v4(),
        moves: Vec::new(),
        frontier: NONE,
        read: 0,
        decoded: 0,
        rejected: 0,
        views: vec![view],
        dead_letters: Vec::new(),
        checkpoint: None,
        rebuilt: Vec::new(),
    };
    assert_eq!(writer.commit(&commit, &|| false).await.unwrap(), Settled::Committed);
}

/// A moment of a store, and what was wanted of it.
struct Noted(Arc<dyn Moment>, Mutex<Vec<Wanted>>);

#[async_trait]
impl Moment for Noted {
    async fn rows(&self, table: &Table, wanted: &Wanted) -> Result<RecordBatch> {
        self.1.lock().unwrap().push(wanted.clone());
        let rows = self.0.rows(table, wanted).await?;
        if wanted.limit.is_some_and(|limit| rows.num_rows() > limit) {
            // The one that leaves everything to DataFusion.
            assert_eq!(rows.num_rows(), ROWS);
        }
        Ok(rows)
    }

    async fn extent(&self, table: &Table, column: usize) -> Result<Option<(i64, i64)>> {
        self.0.extent(table, column).await
    }

    async fn committed(&self, pipeline: &str) -> Result<Option<Committed>> {
        self.0.committed(pipeline).await
    }

    async fn archived(&self, pipeline: &str, oldest: i64, times: (i64, i64)) -> Result<Before> {
        self.0.archived(pipeline, oldest, times).await
    }
}

struct NoFiles;

#[async_trait]
impl Files for NoFiles {
    async fn parts(&self, _: &str, _: &[std::ops::Range<u64>]) -> Result<Vec<bytes::Bytes>> {
        Err(Error::bug("there are none"))
    }
}

/// The answer as text, and what was wanted of the store.
async fn ask(store: &dyn Store, table: &Table, sql: &str) -> (Vec<Vec<String>>, Vec<Wanted>) {
    let relations = Relations { tables: vec![table.clone()], sources: Vec::new() };
    let snapshot = store.snapshot(Duration::from_secs(20)).await.unwrap();
    let noted = Arc::new(Noted(snapshot.clone(), Mutex::default()));
    let moment: Arc<dyn Moment> = noted.clone();
    let files: Arc<dyn Files> = Arc::new(NoFiles);
    let asked =
        check(sql, Filled::Values(&Parameters::new()), &relations.known()).unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    let limits = Limits { rows: 1_000, memory: 64 << 20 };
    let mut answer = query(&relations, (&moment, &files), &asked, limits, 0).await.unwrap();
    let mut batches = Vec::new();
    while let Some(batch) = answer.next().await.unwrap_or_else(|error| panic!("{sql}: {error}")) {
        batches.push(batch);
    }
    snapshot.done().await.unwrap();
    let rows = show::table(&concat_batches(&answer.schema(), &batches).unwrap()).unwrap().1;
    let wanted = noted.1.lock().unwrap().clone();
    (rows, wanted)
}

/// A question, and whether all of it can be left to a store, where that is certain.
fn question(table: &Table, rng: &mut ChaCha8Rng) -> (String, Option<bool>) {
    let quoted = |name: &str| format!("\"{name}\"");
    let (mut whole, mut certain) = (true, true);
    let mut conditions = Vec::new();
    for _ in 0..rng.random_range(0..3) {
        let compare = *["=", "<", "<=", ">", ">="].choose(rng).unwrap();
        let condition = match rng.random_range(0..7) {
            0 => format!("\"big\" {compare} {}", [i64::MIN + 1, -1, 0, 1, i64::MAX].choose(rng).unwrap()),
            1 => format!("\"small\" {compare} {}", [-32768, -10, 0, 9, 100].choose(rng).unwrap()),
            2 => format!("\"at\" {compare} TIMESTAMP '{}'", TIMES[2..7].choose(rng).unwrap()),
            3 => format!("\"clock\" {compare} TIMESTAMP '{}'", TIMES[2..7].choose(rng).unwrap().trim_end_matches('Z')),
            4 => format!("\"order\" = '{}'", TEXTS.choose(rng).unwrap()),
            // Before all that Postgres knows. It may be found to say nothing beside another condition.
            5 => {
                certain = false;
                format!("\"at\" {compare} to_timestamp_micros({})", i64::MIN + 1)
            }
            _ => {
                whole = false;
                format!("\"order\" > '{}'", TEXTS.choose(rng).unwrap())
            }
        };
        conditions.push(condition);
    }
    let ordered = table.columns.iter().position(|column| column.name == "ratio").unwrap();
    let mut order = Vec::new();
    for _ in 0..rng.random_range(1..4) {
        let column =
            if rng.random_bool(0.1) { rng.random_range(0..table.columns.len()) } else { rng.random_range(0..ordered) };
        whole &= column < ordered;
        let direction = *["", " ASC", " DESC"].choose(rng).unwrap();
        let nulls = *["", " NULLS FIRST", " NULLS LAST"].choose(rng).unwrap();
        order.push(format!("{}{direction}{nulls}", quoted(&table.columns[column].name)));
    }
    // Which of those that are alike come is open, and so are told apart.
    order.push(format!("\"id\"{}", [" DESC", ""].choose(rng).unwrap()));
    let conditions = if conditions.is_empty() { String::new() } else { format!(" WHERE {}", conditions.join(" AND ")) };
    let selected = *["*", "\"id\", \"order\" AS o, \"at\"", "\"id\" + 1 AS one_more, \"id\""].choose(rng).unwrap();
    let (limit, offset) = (rng.random_range(1..30), if rng.random_bool(0.3) { " OFFSET 5" } else { "" });
    let sql = format!(
        "SELECT {selected} FROM {}{conditions} ORDER BY {} LIMIT {limit}{offset}",
        quoted(&table.name),
        order.join(", ")
    );
    (sql, certain.then_some(whole))
}

#[test]
fn every_store_orders_and_compares_as_datafusion_does() {
    let servers = shared();
    let world = World::new(&servers, "push-down");
    let seed = rand::random();
    println!("seed {seed}");
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let table = table();
    let rows = rows(&table, &mut rng);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let memory = MemoryStore::default();
        let sqlite = SqliteStore::new(&world.dir.path().join("store.db"));
        let postgres = Postgres::new(&world.url(), Duration::from_secs(20)).unwrap();
        let stores: [&dyn Store; 3] = [&memory, &sqlite, &postgres];
        for store in stores {
            fill(store, &table, rows.clone()).await;
        }
        let newest = |store: &'static str, rows: RecordBatch| (store, show::table(&rows).unwrap().1);
        let expected = newest("", memory.rows(&table, Some(20)).await.unwrap()).1;
        for (name, told) in [
            newest("SQLite", sqlite.rows(&table, Some(20)).await.unwrap()),
            newest("Postgres", postgres.rows(&table, Some(20)).await.unwrap()),
        ] {
            assert_eq!(told, expected, "the newest rows of {name}");
        }
        let mut left = 0;
        for _ in 0..QUESTIONS {
            let (sql, whole) = question(&table, &mut rng);
            let (expected, wanted) = ask(&memory, &table, &sql).await;
            let limited = wanted.iter().all(|wanted| wanted.limit.is_some());
            // Conditions that no row can meet are never asked of a store.
            let is_asked = !wanted.is_empty();
            assert!(!is_asked || whole.is_none_or(|whole| limited == whole), "{sql}: {wanted:?}");
            left += usize::from(is_asked && limited);
            for (name, store) in [("SQLite", stores[1]), ("Postgres", stores[2])] {
                assert_eq!(ask(store, &table, &sql).await.0, expected, "{name}: {sql}");
            }
        }
        assert!(left > QUESTIONS / 3, "only {left} of {QUESTIONS} were left to the stores");
    });
}
