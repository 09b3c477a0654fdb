//! The compose file: read by a compose implementation, and held against rules of our own. Nothing of it is started here.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::Value;
use tidegate_bench::local::cache_dir;

use crate::world::repository;

/// The project as a compose implementation understands it, with these variables.
fn project(environment: &[String]) -> Value {
    let output = Command::new(cache_dir().join("clients/check-compose"))
        .arg(repository().join("docker-compose.yml"))
        .args(environment)
        .env_clear()
        .output()
        .expect("make setup builds it");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn text(file: &str) -> String {
    std::fs::read_to_string(repository().join(file)).unwrap()
}

#[test]
fn the_stack_is_what_it_should_be() {
    let example = text(".env.example");
    let variables: Vec<String> =
        example.lines().filter(|line| line.contains('=') && !line.starts_with('#')).map(String::from).collect();
    let told = project(&variables);
    assert_eq!(told["services"], project(&[])["services"], "the defaults are those of .env.example");
    let services = told["services"].as_object().unwrap();
    let names: Vec<&str> = services.keys().map(String::as_str).collect();
    assert_eq!(names, ["engine", "event-generator", "grafana", "kafka", "metrics-api", "postgres", "prometheus"]);
    for (name, service) in services {
        let image = service["image"].as_str().unwrap();
        let tag = image.rsplit_once(':').map_or("", |(_, tag)| tag);
        assert!(!tag.is_empty() && tag != "latest", "{name}: {image}");
        assert_eq!(service["build"].is_object(), image.starts_with("tidegate:"), "{name}");
        assert_eq!(service["restart"], "unless-stopped", "{name}");
        let limits = &service["deploy"]["resources"]["limits"];
        assert!(limits["cpus"].is_string() && limits["memory"].is_string(), "{name}: {limits}");
        for harm in ["privileged", "network_mode", "pid", "ipc"] {
            assert!(service[harm].is_null(), "{name}: {harm}");
        }
        let full = service["profiles"].as_array().is_some_and(|profiles| *profiles == ["full"]);
        assert_eq!(full, ["prometheus", "grafana"].contains(&name.as_str()), "{name}");
        for port in service["ports"].as_array().into_iter().flatten() {
            assert_eq!(port["host_ip"], "127.0.0.1", "{name}: {port}");
        }
        // Whoever waits for the health of another must find that it has one.
        let healthy = service["healthcheck"]["test"].is_array();
        assert_eq!(healthy, name != "event-generator", "{name}: {}", service["healthcheck"]);
        for (other, how) in service["depends_on"].as_object().into_iter().flatten() {
            let wanted = if other == "event-generator" { "service_started" } else { "service_healthy" };
            assert_eq!(how["condition"], wanted, "{name} waits for {other}");
        }
        for volume in service["volumes"].as_array().into_iter().flatten() {
            let source = volume["source"].as_str().unwrap();
            let known = match volume["type"].as_str() {
                Some("volume") => told["volumes"].as_object().unwrap().contains_key(source),
                _ => repository().join(source).exists() && volume["read_only"] == true,
            };
            assert!(known, "{name}: {volume}");
        }
    }
}

/// Each variable of the compose file is in `.env.example` with the same default, and no other.
#[test]
fn every_variable_has_an_example() {
    let compose = text("docker-compose.yml");
    let used: BTreeSet<String> = compose
        .match_indices("${")
        .filter_map(|(at, _)| compose[at + 2..].split_once('}'))
        .map(|(inside, _)| inside.split_once(":-").unwrap_or_else(|| panic!("{inside} has no default")))
        .map(|(name, default)| format!("{name}={default}"))
        .collect();
    let example = text(".env.example");
    let told: BTreeSet<String> =
        example.lines().filter(|line| line.contains('=') && !line.starts_with('#')).map(String::from).collect();
    assert_eq!(used, told);
}
