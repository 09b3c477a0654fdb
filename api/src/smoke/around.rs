//! What stands around: Prometheus and Grafana.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::Value;
use tidegate_engine::metrics::names;

use super::Checked;
use crate::neighbour::Neighbour;

/// What is scraped, as grafana/prometheus/prometheus.yml names it.
const JOBS: [&str; 2] = ["tidegate-engine", "tidegate-api"];

/// Series that are there whatever has happened.
const SERIES: [&str; 6] = [
    names::COMMITS.name,
    names::RECORDS.name,
    names::LAG_RECORDS.name,
    names::WATERMARK.name,
    names::READY.name,
    names::API_DB_OK.name,
];

/// Dashboards that are provisioned.
const DASHBOARDS: [&str; 3] = ["tidegate-overview", "tidegate-pipeline", "tidegate-live-streams"];

/// Asks again until it holds: what is scraped shows with the next scrape.
async fn in_time<T>(patience: Duration, check: impl Fn() -> Checked<T>) -> Checked<T> {
    let began = Instant::now();
    loop {
        match check() {
            Err(_) if began.elapsed() < patience => tokio::time::sleep(Duration::from_millis(500)).await,
            found => return found,
        }
    }
}

fn json(of: &Neighbour, path: &str) -> Checked<Value> {
    let (status, text) = of.get(path)?;
    match serde_json::from_str(&text) {
        Ok(value) if status == 200 => Ok(value),
        _ => Err(format!("GET {path}: status {status}: {text}")),
    }
}

/// Prometheus is ready, scrapes both, and has their series.
pub async fn prometheus(url: &str, patience: Duration) -> Checked<Vec<String>> {
    let prometheus = Neighbour::at(url, "");
    let ready = || match prometheus.get("/-/ready")? {
        (200, _) => Ok(()),
        (status, text) => Err(format!("it is not ready: status {status}: {text}")),
    };
    in_time(patience, ready).await?;
    let targets = || {
        let told = json(&prometheus, "/api/v1/targets?state=active")?;
        let targets = told["data"]["activeTargets"].as_array().cloned().unwrap_or_default();
        for job in JOBS {
            let of_job = targets.iter().find(|target| target["labels"]["job"] == *job);
            match of_job.map(|target| (&target["health"], &target["lastError"])) {
                None => return Err(format!("it has no target of job {job}")),
                Some((health, _)) if health == "up" => {}
                Some((health, error)) => return Err(format!("target {job} is {health}: {error}")),
            }
        }
        Ok(())
    };
    in_time(patience, targets).await?;
    let series = || {
        let told = json(&prometheus, "/api/v1/label/__name__/values")?;
        let known: BTreeSet<&str> = told["data"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let missing: Vec<&str> = SERIES.into_iter().filter(|name| !known.contains(name)).collect();
        if missing.is_empty() { Ok(known.len()) } else { Err(format!("it has no series {}", missing.join(", "))) }
    };
    let known = in_time(patience, series).await?;
    Ok(vec![format!("ready, {} targets up, {known} names of series", JOBS.len())])
}

/// Grafana is healthy, and has the dashboards.
pub async fn grafana(url: &str, (user, password): (&str, &str), patience: Duration) -> Checked<Vec<String>> {
    let grafana = Neighbour::known(url, user, password);
    in_time(patience, || match json(&grafana, "/api/health")?["database"].as_str() {
        Some("ok") => Ok(()),
        other => Err(format!("its database is {other:?}")),
    })
    .await?;
    in_time(patience, || {
        let found = json(&grafana, "/api/search?type=dash-db")?;
        let uids: Vec<&str> =
            found.as_array().into_iter().flatten().filter_map(|found| found["uid"].as_str()).collect();
        match DASHBOARDS.into_iter().find(|uid| !uids.contains(uid)) {
            Some(missing) => Err(format!("it has no dashboard {missing}")),
            None => Ok(vec![format!("healthy, with {} dashboards of ours", DASHBOARDS.len())]),
        }
    })
    .await
}
