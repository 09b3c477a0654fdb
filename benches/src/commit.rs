//! A commit by the two clients that come into question, over TCP: BEGIN, an upsert of so many rows, an offset, COMMIT.

use std::time::Instant;

use sqlx::Connection;
use tidegate_bench::local::Postgres;

use crate::report::{Run, at};

const COMMITS: usize = 300;
const UPSERT: &str = "INSERT INTO results SELECT * FROM unnest($1::text[], $2::bigint[]) ON CONFLICT (name) DO UPDATE SET n = excluded.n";
const UPDATE: &str = "UPDATE offsets SET next_offset = next_offset + 1 WHERE part = 0";

/// One run of one client, `sqlx` or `tokio-postgres`.
pub fn run(postgres: &Postgres, client: &str, rows: usize) -> Result<Run, String> {
    postgres.psql("tidegate", "DROP TABLE IF EXISTS offsets, results; CREATE TABLE results (name text PRIMARY KEY, n bigint); CREATE TABLE offsets (part int PRIMARY KEY, next_offset bigint); INSERT INTO offsets VALUES (0, 0)")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    let url = postgres.url("tidegate");
    let started = Instant::now();
    let times = match client {
        "sqlx" => runtime.block_on(by_sqlx(&url, rows)).map_err(|error| error.to_string())?,
        _ => runtime.block_on(by_tokio_postgres(&url, rows)).map_err(|error| error.to_string())?,
    };
    if postgres.psql("tidegate", "SELECT next_offset FROM offsets")? != COMMITS.to_string() {
        return Err(format!("{client} did not commit {COMMITS} times"));
    }
    let (p50_ms, p99_ms) = (at(&times, 0.5), at(&times, 0.99));
    Ok(Run { p50_ms, p99_ms, seconds: started.elapsed().as_secs_f64(), ..Run::default() })
}

/// Rows of one commit: names of a usual length, and the number of the commit.
fn columns(rows: usize, commit: usize) -> (Vec<String>, Vec<i64>) {
    ((0..rows).map(|row| format!("stream-{row:012}")).collect(), vec![commit as i64; rows])
}

async fn by_sqlx(url: &str, rows: usize) -> Result<Vec<f64>, sqlx::Error> {
    let mut session = sqlx::PgConnection::connect(url).await?;
    let mut times = Vec::with_capacity(COMMITS);
    for commit in 0..COMMITS {
        let (names, numbers) = columns(rows, commit);
        let begun = Instant::now();
        let mut transaction = session.begin().await?;
        if rows > 0 {
            sqlx::query(UPSERT).bind(&names).bind(&numbers).execute(&mut *transaction).await?;
        }
        sqlx::query(UPDATE).execute(&mut *transaction).await?;
        transaction.commit().await?;
        times.push(begun.elapsed().as_secs_f64() * 1000.0);
    }
    Ok(times)
}

async fn by_tokio_postgres(url: &str, rows: usize) -> Result<Vec<f64>, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await?;
    let pipe = tokio::spawn(connection);
    let (upsert, update) = (client.prepare(UPSERT).await?, client.prepare(UPDATE).await?);
    let mut times = Vec::with_capacity(COMMITS);
    for commit in 0..COMMITS {
        let (names, numbers) = columns(rows, commit);
        let begun = Instant::now();
        client.batch_execute("BEGIN").await?;
        if rows > 0 {
            client.execute(&upsert, &[&names, &numbers]).await?;
        }
        client.execute(&update, &[]).await?;
        client.batch_execute("COMMIT").await?;
        times.push(begun.elapsed().as_secs_f64() * 1000.0);
    }
    pipe.abort();
    Ok(times)
}
