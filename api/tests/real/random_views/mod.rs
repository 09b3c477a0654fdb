//! Random views, records and accidents against plain Postgres SQL over the log: no planner of ours, and no DataFusion.
//!
//! The cases are those of `engine/tests/fast/oracle`, but for idle partitions and views that are added later: what they
//! depend on is not in the log.

#[path = "../../../../engine/tests/fast/oracle/case.rs"]
#[allow(dead_code)]
mod case;
#[path = "../../../../engine/tests/fast/oracle/drive.rs"]
mod drive;
#[path = "../../../../engine/tests/fast/oracle/generate.rs"]
mod generate;
mod sql;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use proptest::strategy::Strategy;
use serde_json::Value as Json;
use sqlx::postgres::{PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};
use tidegate_engine::golden::{Options, Stage, Variation};
use tidegate_engine::store::Store;
use tidegate_engine::store::memory::MemoryStore;
use tidegate_engine::store::postgres::Postgres;
use tokio::runtime::Runtime;

use crate::world::{Servers, shared};
use case::{Aggregate, Case, Class, Place, Record, Selected, Step, View, rfc3339};
use drive::Plan;

const CASES: u64 = 600;

/// Rows, or dead letters, or counts, by what they are of.
type Found = BTreeMap<String, Vec<Vec<String>>>;

struct Oracle {
    runtime: Runtime,
    pool: PgPool,
}

impl Oracle {
    fn new(servers: &Servers, database: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let url = servers.postgres.create_database(database).unwrap();
        let options = PgPoolOptions::new().max_connections(4);
        let pool = runtime.block_on(options.connect(&url)).unwrap();
        runtime.block_on(sqlx::raw_sql(sql::DECODE).execute(&pool)).unwrap();
        Self { runtime, pool }
    }

    /// What the records of the log must give.
    fn expected(&self, case: &Case, log: &[Vec<&Record>]) -> Found {
        let text = sql::expected(case, log);
        let query = async {
            let mut connection = self.pool.acquire().await?;
            sqlx::raw_sql("SET TimeZone = 'UTC'").execute(&mut *connection).await?;
            sqlx::raw_sql(AssertSqlSafe(text.clone())).fetch_all(&mut *connection).await
        };
        let rows = self.runtime.block_on(query).unwrap_or_else(|error| panic!("{error}\n{text}"));
        let mut found = Found::new();
        for row in rows {
            let row: Vec<Json> = serde_json::from_str(row.get(0)).unwrap();
            let kind = row[0].as_str().unwrap();
            let cells: Vec<String> = row[1..].iter().map(shown).collect();
            let (of, cells) = match kind {
                "row" => (format!("rows of {}", cells[0]), cells[1..].to_vec()),
                "rejected" => ("dead letters".to_string(), [vec!["(empty)".to_string()], cells].concat()),
                "letter" => ("dead letters".to_string(), cells),
                other => (other.to_string(), cells),
            };
            found.entry(of).or_default().push(cells);
        }
        // A group is there once a row is, also where there are no keys.
        for published in found.remove("published").into_iter().flatten().filter(|published| published[1] == "0") {
            found.remove(&format!("rows of {}", published[0]));
        }
        found
    }

    /// Plays a case on the engine, and looks at every check; the error is the first difference.
    fn check(&self, case: &Case, store: Arc<dyn Store>, damage: Arc<dyn Fn() + Send + Sync>) -> Result<(), String> {
        let loses = Arc::new(AtomicBool::new(false));
        let lost = loses.clone();
        let damage = move || {
            if lost.swap(false, Ordering::Relaxed) {
                damage();
            }
        };
        let options = Options {
            queries: Vec::new(),
            variation: Variation::AsWritten,
            store,
            damage: Some(Arc::new(damage)),
            runtime: self.runtime.handle().clone(),
        };
        let mut stage = Stage::new(Path::new("case.slt"), "", &options).map_err(|error| error.to_string())?;
        let mut run = |text: &str| stage.run(text).map_err(|error| format!("{text}: {error}"));
        run(&case.declarations())?;
        run(&case.preparations())?;
        let mut log: Vec<Vec<&Record>> = vec![Vec::new(); case.partitions];
        for step in &case.steps {
            match step {
                Step::Check => {
                    let expected = self.expected(case, &log);
                    for view in &case.views {
                        let columns = view.columns();
                        let names: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
                        let found = run(&format!("SELECT {} FROM {}", names.join(", "), view.name))?;
                        compare(case, &expected, &format!("rows of {}", view.name), &columns, found)?;
                    }
                    let letters = run("SELECT view, part, \"offset\", reason FROM tidegate.dead_letters")?;
                    compare(case, &expected, "dead letters", &[], letters)?;
                    let counts = "SELECT view, decoded, filtered, accepted, late, failed FROM tidegate.view_progress";
                    compare(case, &expected, "counts", &[], run(counts)?)?;
                    continue;
                }
                Step::Feed(record) => log[record.partition].push(record),
                Step::Crash { state_lost } => loses.store(*state_lost, Ordering::Relaxed),
                _ => {}
            }
            run(&case.statement(step))?;
        }
        Ok(())
    }
}

/// A JSON value as golden files show it.
fn shown(value: &Json) -> String {
    match value {
        Json::Null => "NULL".to_string(),
        Json::String(text) if text.is_empty() => "(empty)".to_string(),
        Json::String(text) => match chrono::DateTime::parse_from_rfc3339(text) {
            Ok(time) => rfc3339(time.timestamp_micros()),
            Err(_) => text.clone(),
        },
        other => other.to_string(),
    }
}

/// Compares two sets of rows; numbers by what they are, floats but for their last bits.
fn compare(
    case: &Case,
    expected: &Found,
    what: &str,
    columns: &[Selected],
    found: Option<Vec<Vec<String>>>,
) -> Result<(), String> {
    let plain = |cell: &String| match cell.split_once('.') {
        Some((_, digits)) if cell.parse::<f64>().is_ok() && digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            cell.trim_end_matches('0').trim_end_matches('.').to_string()
        }
        _ => cell.clone(),
    };
    let is_float = |column: usize| columns.get(column).is_some_and(|column| column.class != Class::Exact);
    // Floats last, so that they decide about no order.
    let sorted = |rows: &[Vec<String>]| {
        let mut rows: Vec<(Vec<String>, Vec<String>)> = rows
            .iter()
            .map(|row| {
                let (floats, others): (Vec<_>, Vec<_>) =
                    row.iter().map(plain).enumerate().partition(|(column, _)| is_float(*column));
                let cells = |part: Vec<(usize, String)>| part.into_iter().map(|(_, cell)| cell).collect();
                (cells(others), cells(floats))
            })
            .collect();
        rows.sort();
        rows
    };
    let expected = sorted(expected.get(what).map(Vec::as_slice).unwrap_or_default());
    let found = sorted(&found.unwrap_or_default());
    let nearly = |one: &String, other: &String| match (one.parse::<f64>(), other.parse::<f64>()) {
        (Ok(one), Ok(other)) => (one - other).abs() <= 1e-9 * one.abs().max(other.abs()).max(1.0),
        _ => one == other,
    };
    let equal = |one: &(Vec<String>, Vec<String>), other: &(Vec<String>, Vec<String>)| {
        one.0 == other.0 && one.1.iter().zip(&other.1).all(|(one, other)| nearly(one, other))
    };
    if expected.len() == found.len() && expected.iter().zip(&found).all(|(one, other)| equal(one, other)) {
        return Ok(());
    }
    let lines = |rows: &[(Vec<String>, Vec<String>)]| {
        rows.iter().map(|row| format!("  {}\n", [row.0.as_slice(), &row.1].concat().join(" | "))).collect::<String>()
    };
    let views: Vec<String> = case.views.iter().map(View::declaration).collect();
    Err(format!("{}\n{what}: expected\n{}found\n{}", views.join("\n"), lines(&expected), lines(&found)))
}

/// A case whose answers follow from the log alone, with aggregates that mean the same in Postgres.
fn from_the_log() -> impl Strategy<Value = Case> {
    // The mean of decimals has four more places, where Postgres has as many as it likes.
    let means_the_same =
        |aggregate: &Aggregate| aggregate.place == Place::Anywhere && !aggregate.sql.starts_with("avg(p)");
    generate::case(means_the_same).prop_map(|mut case| {
        case.steps.retain(|step| !matches!(step, Step::AddView | Step::Advance(_)));
        case
    })
}

/// Runs a plan; a case that differs fails, as the golden file's statements that it is.
fn all_pass(plan: Plan, check: &(dyn Fn(&Case) -> Result<(), String> + Sync)) {
    println!("{} cases from TIDEGATE_TEST_SEED={}", plan.cases, plan.seed);
    if let Err(failure) = drive::run(plan, &from_the_log, &Case::smaller, check) {
        let case = &failure.case;
        let steps: Vec<String> = case.steps.iter().map(|step| case.statement(step)).collect();
        panic!(
            "{}\nTIDEGATE_TEST_SEED={} TIDEGATE_TEST_CASES=1 repeats it; made small it is\n{}\n{}\n{}",
            failure.why,
            failure.seed,
            case.declarations(),
            case.preparations(),
            steps.join("\n")
        );
    }
}

#[test]
fn random_views_equal_plain_sql_over_the_log() {
    let servers = shared();
    let oracle = Oracle::new(&servers, "random_views");
    all_pass(Plan::of_environment(CASES), &|case| {
        let store = MemoryStore::default();
        let damaged = store.clone();
        oracle.check(case, Arc::new(store), Arc::new(move || damaged.lose_state()))
    });
}

#[test]
fn random_views_on_postgres_equal_plain_sql_over_the_log() {
    let servers = shared();
    let oracle = Oracle::new(&servers, "random_views_judge");
    let plan = Plan::of_environment(CASES);
    let next = AtomicUsize::new(0);
    all_pass(Plan { cases: plan.cases.div_ceil(20), ..plan }, &|case| {
        let name = format!("random_views_{}", next.fetch_add(1, Ordering::Relaxed));
        let url = servers.postgres.create_database(&name)?;
        let store = Postgres::new(&url, Duration::from_secs(20)).map_err(|error| error.to_string())?;
        let runtime = oracle.runtime.handle().clone();
        let damage = move || {
            let lost = async {
                sqlx::raw_sql("DELETE FROM tidegate.state").execute(&mut PgConnection::connect(&url).await?).await
            };
            runtime.block_on(lost).map(|_| ()).unwrap();
        };
        oracle.check(case, Arc::new(store), Arc::new(damage))
    });
}
