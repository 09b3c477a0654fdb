//! The api asked from the outside, as its users ask it.

use std::time::Duration;

use serde_json::Value;
use tidegate_engine::sql::Catalog;
use tidegate_engine::sql::endpoint::DB_OK;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// An api somewhere near.
pub struct Neighbour {
    agent: ureq::Agent,
    address: String,
    token: String,
}

impl Neighbour {
    /// The api that listens there, and the token that it asks for, which may be empty.
    pub fn at(address: &str, token: &str) -> Self {
        let config = ureq::Agent::config_builder().timeout_global(Some(PATIENCE)).http_status_as_error(false).build();
        Self { agent: config.new_agent(), address: address.to_string(), token: token.to_string() }
    }

    /// What it answers: status and text.
    pub fn get(&self, path: &str) -> Result<(u16, String), String> {
        let url = format!("http://{}{path}", self.address);
        let told = |error: ureq::Error| format!("{url}: {error}");
        let asked = self.agent.get(&url);
        let asked =
            if self.token.is_empty() { asked } else { asked.header("Authorization", format!("Bearer {}", self.token)) };
        let mut answer = asked.call().map_err(told)?;
        let text = answer.body_mut().read_to_string().map_err(told)?;
        Ok((answer.status().as_u16(), text))
    }

    /// Whether it is ready to answer.
    pub fn is_ready(&self) -> bool {
        self.get("/readyz").is_ok_and(|(status, _)| status == 200)
    }

    /// Asks every endpoint that needs no parameter, and reads every gauge: how many rows each has, or what is wrong.
    pub fn ask_all(&self, catalog: &Catalog) -> Result<Vec<String>, String> {
        let mut told = Vec::new();
        for endpoint in catalog.endpoints.iter().filter(|e| e.parameters.iter().all(|p| p.default.is_some())) {
            let path = &endpoint.path;
            let (status, text) = self.get(path)?;
            let answer: Value = serde_json::from_str(&text).map_err(|error| format!("GET {path}: {error}: {text}"))?;
            let missing = endpoint.fields.iter().find(|(name, _)| answer.get(name).is_none());
            match (status, answer.get("rows").and_then(Value::as_array), missing) {
                (200, Some(rows), None) => told.push(format!("GET {path}: {} rows", rows.len())),
                _ => return Err(format!("GET {path}: status {status}: {text}")),
            }
        }
        let (_, metrics) = self.get("/prometheus")?;
        let value = |name: &str| {
            let mut lines = metrics.lines().filter(|line| line.split([' ', '{']).next() == Some(name));
            lines.next().and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        };
        for gauge in &catalog.gauges {
            let value = value(&gauge.name).map_or("no value".to_string(), |value| value.to_string());
            told.push(format!("gauge {}: {value}", gauge.name));
        }
        match value(DB_OK) {
            Some(1.0) => {
                told.push(format!("gauge {DB_OK}: 1"));
                Ok(told)
            }
            other => Err(format!("gauge {DB_OK} is {other:?}")),
        }
    }
}
