//! How fast questions are answered: by the api over recent rows, by DataFusion over a MemTable and by DuckDB over Parquet.
//!
//! All have the same rows, are asked the same texts one after the other, and must give the same answers. None is asked
//! while another measures anything.

use std::fmt::Display;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::ipc::reader::FileReader;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::datasource::MemTable;
use datafusion::prelude::{SessionConfig, SessionContext};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use tidegate_bench::local::process::measure;
use tidegate_bench::local::{Kafka, Postgres, TempDir, cache_dir};

use crate::engine::{Api, command};
use crate::load::now_us;
use crate::queries::Queries;
use crate::report::{Run, at};
use crate::topic::{PARTITIONS, append, event, partition, time};

/// The ends of the rows' names, and what is asked.
pub const QUESTIONS: [(&str, &str); 4] = [
    ("count", "SELECT count(*) FROM events"),
    (
        "recent-groups",
        "SELECT stream_id, count(*) AS n, sum(amount_usd) AS usd FROM events
         WHERE ts >= TIMESTAMP '{since}' GROUP BY stream_id ORDER BY stream_id",
    ),
    (
        "top10",
        "SELECT event_id, ts, stream_id, user_id, amount_usd FROM events ORDER BY amount_usd DESC, event_id LIMIT 10",
    ),
    (
        "key",
        "SELECT event_id, ts, event_type, user_id, amount_usd FROM events
         WHERE stream_id = 'stream-000500' ORDER BY ts DESC, event_id LIMIT 20",
    ),
];

/// The time that the records span, and the part of it that is recent.
const SPAN_MS: i64 = 30 * 60 * 1000;
const RECENT_MS: i64 = 5 * 60 * 1000;

/// How often each is asked before it is measured, and then.
const WARM: usize = 3;
const TIMES: usize = 15;

/// All records are kept.
const KEPT: [(&str, &str); 2] =
    [("TIDEGATE__RECENT__KEEP_MS", "86400000"), ("TIDEGATE__RECENT__BYTES_MAX", "17179869184")];

/// The columns that the source declares; those that are hidden stand behind them.
const COLUMNS: std::ops::Range<usize> = 0..7;

/// Rows of a row group and of a page, as the archive has them.
const GROUP_ROWS: usize = 1 << 20;
const PAGE_ROWS: usize = 20_000;

const DUCKDB: &str = include_str!("ask.py");

/// What somebody has answered to a question.
struct Answered {
    /// How long it took, each time.
    ms: Vec<f64>,
    /// The rows, as plain texts.
    rows: Vec<Vec<String>>,
}

/// The runs of all questions, over so many rows; `own` is this program.
pub fn run(
    kafka: &Kafka,
    postgres: &Postgres,
    database: &str,
    queries: &Queries,
    rows: u64,
    own: &Path,
) -> Result<Vec<Run>, String> {
    let (begun, last_ms) = (Instant::now(), now_us() / 1000);
    eprintln!("filling topic {} with {rows} records …", queries.topic());
    kafka.create_topic(queries.topic(), PARTITIONS, &[])?;
    append(kafka, queries.topic(), records(rows, last_ms))?;
    let url = postgres.create_database(database)?;
    let mut engine = command(queries, &url, kafka)?;
    measure(engine.envs(KEPT).args(["--until-caught-up", "--listen", "127.0.0.1:0"]))?;
    queries.prove(postgres, database, rows)?;
    kafka.delete_topic(queries.topic())?;

    let asked: Vec<String> =
        QUESTIONS.iter().map(|(_, sql)| sql.replace("{since}", &time(last_ms - RECENT_MS))).collect();
    let api = Api::start(queries, &url, &KEPT)?;
    let ours = asked.iter().map(|sql| of_api(&api, sql)).collect::<Result<Vec<_>, _>>()?;
    drop(api);
    let memory = child(Command::new(own).arg("memtable").arg(queries.recent()).args(&asked))?;
    let dir = TempDir::new("bench-parquet")?;
    let file = dir.path().join("events.parquet");
    let written = write_parquet(queries.recent(), &file)?;
    if written != rows {
        return Err(format!("there are {written} recent rows instead of {rows}"));
    }
    let mut python = Command::new(cache_dir().join("python/bin/python"));
    python.args(["-c", DUCKDB]).arg(&file).args([WARM.to_string(), TIMES.to_string()]).args(&asked);
    let duckdb = child(&mut python)?;

    let mut runs = Vec::new();
    for (number, ((ours, stats_ms), (name, sql))) in ours.iter().zip(QUESTIONS).enumerate() {
        let (Some(memory), Some(duckdb)) = (memory.get(number), duckdb.get(number)) else {
            return Err(format!("{name} was not answered: {sql}"));
        };
        for (who, other) in [("the MemTable", memory), ("DuckDB", duckdb)] {
            if let Some(differ) = differ(&ours.rows, &other.rows) {
                return Err(format!("{who} has another answer than the api: {differ}: {sql}"));
            }
        }
        if name == "count" && ours.rows != [[rows.to_string()]] {
            return Err(format!("{:?} rows were counted instead of {rows}", ours.rows));
        }
        let by = |other: &Answered| Some(at(&ours.ms, 0.5)? / at(&other.ms, 0.5)?);
        runs.push(Run {
            p50_ms: at(&ours.ms, 0.5),
            p99_ms: at(&ours.ms, 0.99),
            stats_ms: at(stats_ms, 0.5),
            memtable_ms: at(&memory.ms, 0.5),
            by_memtable: by(memory),
            duckdb_ms: at(&duckdb.ms, 0.5),
            by_duckdb: by(duckdb),
            seconds: begun.elapsed().as_secs_f64(),
            ..Run::default()
        });
    }
    postgres.psql("postgres", &format!("DROP DATABASE {database} WITH (FORCE)"))?;
    Ok(runs)
}

/// Events of a thousand streams, up to this time.
fn records(count: u64, last_ms: i64) -> impl Iterator<Item = (i32, Vec<u8>)> {
    let mut rng = ChaCha8Rng::seed_from_u64(count);
    (0..count).map(move |number| {
        let (stream, behind) = (rng.random_range(0..1_000u32), rng.random_range(0..1_500i64));
        let ms = last_ms - SPAN_MS + (number as i64 + 1) * SPAN_MS / count as i64 - behind;
        (partition(stream), event(&mut rng, number, stream, ms))
    })
}

/// What the api answers, and how long that took as it says itself.
fn of_api(api: &Api, sql: &str) -> Result<(Answered, Vec<f64>), String> {
    let (mut ms, mut stats_ms, mut rows) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..WARM + TIMES {
        let begun = Instant::now();
        let body = api.ask(sql)?;
        let took = begun.elapsed();
        let answer: Value = serde_json::from_slice(&body).map_err(told)?;
        if number >= WARM {
            ms.push(took.as_secs_f64() * 1000.0);
            stats_ms.push(answer["stats"]["elapsed_ms"].as_f64().ok_or("the answer does not tell its time")?);
        }
        rows = plain_rows(&answer["rows"]);
    }
    Ok((Answered { ms, rows }, stats_ms))
}

/// What a child answers, which asks all questions of what it has.
fn child(command: &mut Command) -> Result<Vec<Answered>, String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let output = output.map_err(|error| format!("cannot start {program}: {error}"))?;
    if !output.status.success() {
        return Err(format!("{program} ended with {}", output.status));
    }
    let answers: Vec<Value> = serde_json::from_slice(&output.stdout).map_err(told)?;
    let times = |answer: &Value| answer["ms"].as_array().into_iter().flatten().filter_map(Value::as_f64).collect();
    Ok(answers.iter().map(|answer| Answered { ms: times(answer), rows: plain_rows(&answer["rows"]) }).collect())
}

/// The child that asks DataFusion, with nothing changed but that it plans for one thread, as query workers do.
pub fn memtable(recent: &Path, questions: &[String]) -> Result<(), String> {
    let files = files(recent)?;
    let batches = files.iter().map(|file| rows(file)).collect::<Result<Vec<_>, _>>()?.concat();
    let table = MemTable::try_new(schema(&files)?, vec![batches]).map_err(told)?;
    let context = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(1));
    context.register_table("events", Arc::new(table)).map_err(told)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().map_err(told)?;
    let mut answers = Vec::new();
    for sql in questions {
        let (mut ms, mut answer) = (Vec::new(), Vec::new());
        for number in 0..WARM + TIMES {
            let begun = Instant::now();
            answer = runtime.block_on(async { context.sql(sql).await?.collect().await }).map_err(told)?;
            if number >= WARM {
                ms.push(begun.elapsed().as_secs_f64() * 1000.0);
            }
        }
        answers.push(json!({"ms": ms, "rows": texts(&answer).map_err(told)?}));
    }
    println!("{}", Value::Array(answers));
    Ok(())
}

/// The files of recent batches, in the order of their commits. Only one owner has been there.
fn files(recent: &Path) -> Result<Vec<PathBuf>, String> {
    let (mut folders, mut files) = (vec![recent.to_path_buf()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))? {
            let path = entry.map_err(told)?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "arrow") {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

fn open(file: &Path) -> Result<FileReader<File>, String> {
    FileReader::try_new(File::open(file).map_err(told)?, Some(COLUMNS.collect())).map_err(told)
}

/// The rows of a file.
fn rows(file: &Path) -> Result<Vec<RecordBatch>, String> {
    open(file)?.collect::<Result<Vec<_>, _>>().map_err(told)
}

/// The columns of all files.
fn schema(files: &[PathBuf]) -> Result<SchemaRef, String> {
    let whole = open(files.first().ok_or("there are no recent batches")?)?.schema();
    Ok(Arc::new(whole.project(&COLUMNS.collect::<Vec<_>>()).map_err(told)?))
}

/// Writes all rows as they came; how many there are.
fn write_parquet(recent: &Path, to: &Path) -> Result<u64, String> {
    let files = files(recent)?;
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(3).map_err(told)?))
        .set_statistics_enabled(EnabledStatistics::Page)
        .set_data_page_row_count_limit(PAGE_ROWS)
        .set_max_row_group_row_count(Some(GROUP_ROWS))
        .build();
    let file = File::create(to).map_err(told)?;
    let mut writer = ArrowWriter::try_new(file, schema(&files)?, Some(properties)).map_err(told)?;
    let mut count = 0;
    for file in &files {
        for batch in rows(file)? {
            count += batch.num_rows() as u64;
            writer.write(&batch).map_err(told)?;
        }
    }
    writer.close().map_err(told)?;
    Ok(count)
}

/// The values of rows as texts.
fn texts(batches: &[RecordBatch]) -> Result<Vec<Vec<String>>, ArrowError> {
    let (options, mut rows) = (FormatOptions::default(), Vec::new());
    for batch in batches {
        let columns = batch.columns().iter().map(|column| ArrayFormatter::try_new(column.as_ref(), &options));
        let columns = columns.collect::<Result<Vec<_>, _>>()?;
        let values = |row: usize| columns.iter().map(|column| column.value(row).to_string()).collect::<Vec<_>>();
        rows.extend((0..batch.num_rows()).map(values));
    }
    Ok(rows)
}

/// Rows that can be compared, whoever has written them.
fn plain_rows(rows: &Value) -> Vec<Vec<String>> {
    let values = |row: &Value| row.as_array().into_iter().flatten().map(plain).collect::<Vec<_>>();
    rows.as_array().into_iter().flatten().map(values).collect()
}

/// A value without what some write and others do not: quotes, the zone, zeros at the end of a fraction.
fn plain(value: &Value) -> String {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_string);
    let text = text.trim_end_matches('Z');
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { text };
    text.to_string()
}

/// Where two answers differ.
fn differ(one: &[Vec<String>], other: &[Vec<String>]) -> Option<String> {
    if one.len() != other.len() {
        return Some(format!("{} rows and {}", other.len(), one.len()));
    }
    let (one, other) = one.iter().zip(other).find(|(one, other)| one != other)?;
    Some(format!("{other:?} and not {one:?}"))
}

fn told(error: impl Display) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_equal_however_they_are_written() {
        for (one, other) in [
            (json!(250), json!("250.00")),
            (json!(416123.5), json!("416123.50")),
            (json!("2026-01-01T00:00:00Z"), json!("2026-01-01T00:00:00.000Z")),
            (json!("2026-01-01T00:00:00.120Z"), json!("2026-01-01T00:00:00.12")),
        ] {
            assert_eq!(plain(&one), plain(&other));
        }
        assert_ne!(plain(&json!(100)), plain(&json!(10)));
        let rows = |number: u32| vec![vec!["a".to_string(), number.to_string()]];
        assert_eq!(differ(&rows(1), &rows(1)), None);
        assert!(differ(&rows(1), &rows(2)).is_some() && differ(&rows(1), &[]).is_some());
    }

    #[test]
    fn records_end_at_the_last_time() {
        let events =
            records(1_000, 1_800_000_000_000).map(|(_, event)| serde_json::from_slice::<Value>(&event).unwrap());
        let times: Vec<String> = events.map(|event| event["ts"].as_str().unwrap().to_string()).collect();
        let (least, greatest) = (times.iter().min().unwrap(), times.iter().max().unwrap());
        assert!(*least >= time(1_800_000_000_000 - SPAN_MS - 1_500) && *greatest <= time(1_800_000_000_000));
    }
}
