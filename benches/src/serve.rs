//! Requests a second: `wrk` asks the api for the same twenty rows again and again while an engine takes in events of now.

use std::process::Command;
use std::time::Duration;

use tidegate_bench::local::{Kafka, Postgres, wait_until};

use crate::engine::Api;
use crate::latency;
use crate::load::Load;
use crate::queries::Queries;
use crate::report::Run;

/// What is asked for: the newest rows of a view.
pub const ROWS: &str = "/api/v1/queries/bench/rows?limit=20";

/// And an endpoint.
pub const ENDPOINT: &str = "/streams/top";

/// What declares it: the streams with the most records of the newest minute.
pub const STATEMENT: &str = "CREATE ENDPOINT '/streams/top' AS
SELECT stream_id, records, amount, longest FROM bench
WHERE window_start = (SELECT max(window_start) FROM bench) ORDER BY records DESC, stream_id LIMIT 20;\n";

/// Rows of each answer.
const ANSWERED: usize = 20;

/// Records a second, and for how long: ten seconds are measured, and what comes before takes a few.
const LOAD: Load = Load { rate: 5_000, seconds: 25 };

/// How often it is looked for commits: less often than elsewhere, since that takes from what is measured.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// One run: `path` is asked for.
pub fn run(kafka: &Kafka, postgres: &Postgres, database: &str, queries: &Queries, path: &str) -> Result<Run, String> {
    if Command::new("wrk").arg("-v").output().is_err() {
        return Err("there is no wrk, which asks: install wrk (apt-get install -y wrk)".to_string());
    }
    let (engine, asked) = latency::beside(kafka, postgres, database, queries, LOAD, LOOK_EVERY, |url| {
        let api = Api::start(queries, url, &[])?;
        let rows = || api.get(path).ok().and_then(|answer| answer["rows"].as_array().map(Vec::len));
        if !wait_until(Duration::from_secs(8), || rows() == Some(ANSWERED)) {
            return Err(format!("{path} has {:?} rows instead of {ANSWERED}", rows()));
        }
        let mut wrk = Command::new("wrk");
        let output = wrk.args(["-t1", "-c32", "-d10s", "--latency", &api.url(path)]).output();
        let output = output.map_err(|error| format!("cannot start wrk: {error}"))?;
        let said = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() {
            return Err(format!("wrk ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr)));
        }
        Asked::of(&said)
    })?;
    if asked.failed > 0 {
        return Err(format!("{} requests were not answered as they should", asked.failed));
    }
    Ok(Run {
        requests_per_s: Some(asked.per_s),
        p50_ms: Some(asked.p50_ms),
        p99_ms: Some(asked.p99_ms),
        commit_p99_ms: engine.p99_ms,
        ..engine
    })
}

/// What `wrk` has seen.
#[derive(Debug, PartialEq)]
struct Asked {
    per_s: f64,
    p50_ms: f64,
    p99_ms: f64,
    /// Answers of another status, and requests that got none.
    failed: u64,
}

impl Asked {
    fn of(said: &str) -> Result<Self, String> {
        let after = |name: &str| said.lines().find_map(|line| line.trim().strip_prefix(name)).map(str::trim);
        let missing = |name: &str| format!("wrk does not tell {name}:\n{said}");
        let ms = |name: &str| after(name).and_then(milliseconds).ok_or_else(|| missing(name));
        let rate = "Requests/sec:";
        let per_s = after(rate).and_then(|rate| rate.parse().ok()).ok_or_else(|| missing(rate))?;
        // Both are told only where there are any.
        let failed = ["Non-2xx or 3xx responses:", "Socket errors:"].into_iter().filter_map(after).map(numbers).sum();
        Ok(Self { per_s, p50_ms: ms("50%")?, p99_ms: ms("99%")?, failed })
    }
}

/// `635.91us`, `5.80ms`, `1.20s` or `1.00m`.
fn milliseconds(text: &str) -> Option<f64> {
    let unit = text.find(|c: char| c.is_ascii_alphabetic())?;
    let number: f64 = text[..unit].parse().ok()?;
    let times = match &text[unit..] {
        "us" => 0.001,
        "ms" => 1.0,
        "s" => 1_000.0,
        "m" => 60_000.0,
        _ => return None,
    };
    Some(number * times)
}

/// What the numbers of a text add up to.
fn numbers(text: &str) -> u64 {
    text.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "Running 10s test @ http://127.0.0.1:8000/streams/top
  1 threads and 32 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     4.15ms    2.02ms  50.99ms   93.69%
    Req/Sec     7.91k   808.07     9.00k    86.54%
  Latency Distribution
     50%  735.00us
     75%    4.50ms
     90%    5.70ms
     99%    1.20s
  78770 requests in 10.01s, 17.76MB read
Requests/sec:   7868.53
Transfer/sec:      1.77MB
";

    #[test]
    fn what_wrk_says_is_read() {
        let asked = Asked { per_s: 7868.53, p50_ms: 0.735, p99_ms: 1200.0, failed: 0 };
        assert_eq!(Asked::of(SAID).unwrap(), asked);
        let errors = "  Socket errors: connect 0, read 1, write 0, timeout 2\n  Non-2xx or 3xx responses: 40\nRequests";
        assert_eq!(Asked::of(&SAID.replace("Requests", errors)).unwrap().failed, 43);
        assert!(Asked::of("unable to connect").is_err());
    }
}
