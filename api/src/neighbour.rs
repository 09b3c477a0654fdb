//! The api, and others that speak HTTP, asked from the outside, as their users ask them.

use std::time::Duration;

use base64::Engine as _;
use serde_json::Value;
use tidegate_engine::sql::Catalog;
use tidegate_engine::sql::endpoint::DB_OK;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// One of them.
pub struct Neighbour {
    agent: ureq::Agent,
    url: String,
    authorization: String,
}

impl Neighbour {
    /// One that listens there, by its address or URL, and the token that it asks for, which may be empty.
    pub fn at(address: &str, token: &str) -> Self {
        let authorization = if token.is_empty() { String::new() } else { format!("Bearer {token}") };
        Self::new(address, authorization)
    }

    /// One that knows people by their passwords.
    pub fn known(address: &str, user: &str, password: &str) -> Self {
        let pair = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
        Self::new(address, format!("Basic {pair}"))
    }

    fn new(address: &str, authorization: String) -> Self {
        let config = ureq::Agent::config_builder().timeout_global(Some(PATIENCE)).http_status_as_error(false).build();
        let url = if address.contains("://") { address.to_string() } else { format!("http://{address}") };
        Self { agent: config.new_agent(), url: url.trim_end_matches('/').to_string(), authorization }
    }

    /// What it answers: status and text.
    pub fn get(&self, path: &str) -> Result<(u16, String), String> {
        let url = format!("{}{path}", self.url);
        let told = |error: ureq::Error| format!("{url}: {error}");
        let asked = self.agent.get(&url);
        let asked = match self.authorization.is_empty() {
            true => asked,
            false => asked.header("Authorization", &self.authorization),
        };
        let mut answer = asked.call().map_err(told)?;
        let text = answer.body_mut().read_to_string().map_err(told)?;
        Ok((answer.status().as_u16(), text))
    }

    /// What its clock says, in seconds since 1970, if it says so.
    pub fn clock(&self) -> Result<Option<f64>, String> {
        let url = format!("{}/readyz", self.url);
        let answer = self.agent.get(&url).call().map_err(|error| format!("{url}: {error}"))?;
        let date = answer.headers().get("date").and_then(|date| date.to_str().ok());
        let time = date.and_then(|date| chrono::DateTime::parse_from_rfc2822(date).ok());
        Ok(time.map(|time| time.timestamp() as f64))
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
