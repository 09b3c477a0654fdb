//! Metrics, rules and dashboards, held against what a running engine and api really say: to a real Prometheus and a real Postgres.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tidegate_bench::local::process::Process;
use tidegate_bench::local::{cache_dir, free_port, wait_until};
use tidegate_engine::metrics::names::{API, ENGINE, Kind, Metric};

use crate::asking::{Client, api_with, get};
use crate::world::{World, repository, shared};

fn text(file: &str) -> String {
    std::fs::read_to_string(repository().join(file)).unwrap()
}

/// Runs promtool on a folder or on what it reads; all of its output.
fn promtool(arguments: &[&str], input: &str) -> (bool, String) {
    let mut command = Command::new("promtool");
    command.args(arguments).current_dir(repository().join("grafana/prometheus"));
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = piped.expect("make setup installs it");
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), told)
}

#[test]
fn every_metric_is_in_the_docs_and_nothing_else_is() {
    let docs = text("docs/observability.md");
    let rows: Vec<&str> = docs.lines().filter(|line| line.starts_with("| `")).collect();
    let all: Vec<&Metric> = ENGINE.iter().chain(API).collect();
    for metric in &all {
        let row = rows.iter().find(|row| row.starts_with(&format!("| `{}` |", metric.name)));
        let row = row.unwrap_or_else(|| panic!("docs/observability.md lacks {}", metric.name));
        let kind = match metric.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram(_) => "histogram",
        };
        assert!(row.contains(kind), "{row} is no {kind}");
        assert!(metric.labels.iter().all(|label| row.contains(&format!("`{label}`"))), "{row}: {:?}", metric.labels);
    }
    let told =
        docs.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| word.starts_with("tidegate_"));
    let known = |word: &&str| {
        let base = ["_bucket", "_count", "_sum"].iter().find_map(|end| word.strip_suffix(end)).unwrap_or(word);
        all.iter().any(|metric| metric.name == *word || metric.name == base)
    };
    let unknown: BTreeSet<&str> = told.filter(|word| !known(word)).collect();
    assert!(unknown.is_empty(), "docs/observability.md tells of {unknown:?}");
}

#[test]
fn rules_are_right_and_each_alert_fires_when_it_should() {
    for arguments in
        [["check", "config", "prometheus.yml"], ["check", "rules", "alerts.yml"], ["test", "rules", "alerts.test.yml"]]
    {
        let (passed, told) = promtool(&arguments, "");
        assert!(passed, "promtool {arguments:?}: {told}");
    }
    let (rules, tests) = (text("grafana/prometheus/alerts.yml"), text("grafana/prometheus/alerts.test.yml"));
    let runbooks = text("docs/runbooks.md");
    let anchors: BTreeSet<String> = runbooks
        .lines()
        .filter_map(|line| line.strip_prefix("## "))
        .map(|title| title.to_lowercase().replace(' ', "-"))
        .collect();
    let alerts: Vec<&str> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() >= 9, "{alerts:?}");
    for alert in &alerts {
        assert!(tests.matches(&format!("alertname: {alert}")).count() >= 2, "{alert} is not tested both ways");
    }
    let links: Vec<&str> = rules.lines().filter_map(|line| line.trim().strip_prefix("runbook_url: ")).collect();
    assert_eq!(links.len(), alerts.len(), "each alert has a runbook");
    for link in links {
        let anchor = link.trim_matches('"').split('#').nth(1).unwrap_or_default();
        assert!(anchors.contains(anchor), "docs/runbooks.md has no section {anchor}");
    }
}

#[test]
fn dashboards_pass_their_linter() {
    let linter = cache_dir().join("clients/dashboard-linter");
    if !linter.exists() {
        println!(
            "SKIPPED observability::dashboards_pass_their_linter: it needs Go 1.23, and .ci/setup has found an older one"
        );
        return;
    }
    for file in DASHBOARDS {
        let path = repository().join(format!("grafana/dashboards/{file}.json"));
        let output = Command::new(&linter).args(["lint", "--strict"]).arg(&path).output().unwrap();
        let told = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !told.contains("[\u{274c}]"), "{file}: {told}");
    }
}

/// The files of the dashboards.
const DASHBOARDS: [&str; 3] = ["overview", "pipeline", "live-streams"];

/// Every expression of a dashboard's panels, with the panel's title: PromQL, or SQL.
fn queries(dashboard: &Value) -> Vec<(String, String, bool)> {
    let mut found = Vec::new();
    let mut panels: Vec<&Value> = dashboard["panels"].as_array().unwrap().iter().collect();
    while let Some(panel) = panels.pop() {
        panels.extend(panel["panels"].as_array().into_iter().flatten());
        for target in panel["targets"].as_array().into_iter().flatten() {
            let title = panel["title"].as_str().unwrap_or_default().to_string();
            if let Some(expr) = target["expr"].as_str() {
                found.push((title, expr.to_string(), false));
            } else if let Some(sql) = target["rawSql"].as_str() {
                found.push((title, sql.to_string(), true));
            }
        }
    }
    found
}

/// As Grafana does before it asks.
fn promql(expr: &str) -> String {
    let mut expr = expr.to_string();
    for (from, to) in [
        ("$__rate_interval", "1m"),
        ("${__rate_interval}", "1m"),
        ("$__interval", "15s"),
        ("$__range", "5m"),
        ("$pipeline", ".+"),
        ("${pipeline}", ".+"),
        ("$view", ".+"),
        ("${view}", ".+"),
        ("$job", ".+"),
        ("$instance", ".+"),
    ] {
        expr = expr.replace(from, to);
    }
    expr
}

/// The macros of Grafana's Postgres data source, over the last hour.
fn sql(raw: &str) -> String {
    let mut sql = raw.replace("$__timeFrom()", "now() - interval '1 hour'").replace("$__timeTo()", "now()");
    sql = sql.replace("$__interval", "1m").replace("$stream", ".+").replace("${stream}", ".+");
    for (name, expanded) in [
        ("$__timeFilter(", "{} BETWEEN now() - interval '1 hour' AND now()"),
        ("$__timeGroupAlias(", "date_trunc('minute', {}) AS \"time\""),
        ("$__timeGroup(", "date_trunc('minute', {})"),
        ("$__time(", "{} AS \"time\""),
    ] {
        while let Some(at) = sql.find(name) {
            let rest = &sql[at + name.len()..];
            let end = rest.find(')').unwrap();
            let column = rest[..end].split(',').next().unwrap().to_string();
            sql = format!("{}{}{}", &sql[..at], expanded.replace("{}", &column), &rest[end + 1..]);
        }
    }
    sql
}

/// Names of metrics in an expression.
fn metrics(expr: &str) -> impl Iterator<Item = &str> {
    let words = expr.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':');
    words.filter(|word| word.starts_with("tidegate_") || word.starts_with("api_"))
}

fn encoded(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

/// Panels that are about what has not happened in a healthy stack.
fn may_be_empty(title: &str) -> bool {
    ["restart", "ad-hoc", "fail", "archive"].iter().any(|word| title.to_lowercase().contains(word))
}

#[test]
fn dashboards_ask_for_what_is_there() {
    let servers = shared();
    let world = World::new(&servers, "dashboards");
    let engine_port = free_port().unwrap();
    let listen = format!("127.0.0.1:{engine_port}");
    let _load = world.generating(&["--rate", "300"]);
    let _engine = world.engine().set("TIDEGATE__ENGINE__LISTEN", &listen).start();
    let (_api, api) = api_with(&world.url(), &text("queries/rest.sql"), &[]);
    assert!(wait_until(Duration::from_secs(30), || get(&listen, "/readyz").0 == 200), "no engine");
    // What people do, hostile as it may be, adds no series.
    let series = || get(&api, "/prometheus").1.lines().filter(|line| !line.starts_with('#')).count();
    for path in ["/metrics", "/api/v1/queries", "/api/v1/sql?sql=SELECT%201", "/nowhere"] {
        get(&api, path);
    }
    let before = series();
    for number in 0..200 {
        get(&api, &format!("/nobody/{number}?x={number}"));
        get(&api, &format!("/api/v1/queries/{number}/rows"));
    }
    assert!(series() <= before + 40, "{before} series became {}", series());

    for (listen, path) in [(&listen, "/metrics"), (&api, "/prometheus")] {
        let (passed, told) = promtool(&["check", "metrics"], &get(listen, path).1);
        assert!(passed && told.trim().is_empty(), "{path}: {told}");
    }

    // A real Prometheus, with what is shipped but for the addresses and how often it asks.
    let (dir, port) = (world.dir.path().join("prometheus"), free_port().unwrap());
    std::fs::create_dir(&dir).unwrap();
    let config = text("grafana/prometheus/prometheus.yml")
        .replace("engine:9100", &listen)
        .replace("metrics-api:8000", &api)
        .replace("15s", "1s");
    std::fs::write(dir.join("prometheus.yml"), config).unwrap();
    std::fs::write(dir.join("alerts.yml"), text("grafana/prometheus/alerts.yml")).unwrap();
    let _prometheus = start_prometheus(&dir, port);
    let prometheus = format!("127.0.0.1:{port}");
    let ask = |expr: &str| -> Value {
        let reply = Client::new(&prometheus).get(&format!("/api/v1/query?query={}", encoded(expr)), &[]);
        let body = reply.text();
        serde_json::from_str(&body).unwrap_or_else(|error| panic!("{expr}: {error}: {body}"))
    };
    let has_data = |expr: &str| ask(expr)["data"]["result"].as_array().is_some_and(|rows| !rows.is_empty());
    assert!(
        wait_until(Duration::from_secs(30), || has_data("rate(tidegate_commits_total[10s])")),
        "nothing is scraped"
    );
    assert!(!has_data("ALERTS{alertstate=\"firing\"}"), "{}", ask("ALERTS"));
    // Rates need some scrapes, and windows of several panes their time.
    std::thread::sleep(Duration::from_secs(8));

    let mut asked = 0;
    for file in DASHBOARDS {
        let dashboard: Value = serde_json::from_str(&text(&format!("grafana/dashboards/{file}.json"))).unwrap();
        let found = queries(&dashboard);
        assert!(found.len() >= 5, "{file} has {} questions", found.len());
        for (title, expr, is_sql) in found {
            asked += 1;
            if is_sql {
                let rows = world.sql(&sql(&expr));
                assert!(!rows.is_empty(), "{file}, {title}: no rows: {}", sql(&expr));
                continue;
            }
            let expr = promql(&expr);
            for name in metrics(&expr) {
                let base = ["_bucket", "_count", "_sum"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
                let known = ENGINE.iter().chain(API).any(|metric| metric.name == name || metric.name == base);
                assert!(known || text("queries/rest.sql").contains(name), "{file}, {title}: there is no metric {name}");
            }
            let told = ask(&expr);
            assert_eq!(told["status"], "success", "{file}, {title}: {expr}: {told}");
            assert!(has_data(&expr) || may_be_empty(&title), "{file}, {title}: no data: {expr}");
        }
    }
    println!("{asked} questions of 3 dashboards are answered");
}

fn start_prometheus(dir: &Path, port: u16) -> Process {
    let mut command = Command::new("prometheus");
    command.arg(format!("--config.file={}", dir.join("prometheus.yml").display()));
    command.arg(format!("--storage.tsdb.path={}", dir.join("data").display()));
    command.arg(format!("--web.listen-address=127.0.0.1:{port}"));
    let process = Process::spawn("prometheus", &mut command, &dir.join("log"), None).expect("make setup installs it");
    let ready = wait_until(Duration::from_secs(30), || get(&format!("127.0.0.1:{port}"), "/-/ready").0 == 200);
    assert!(ready, "{}", std::fs::read_to_string(dir.join("log")).unwrap_or_default());
    process
}
