//! What an operator tunes. Nothing here can change an answer: what can stands in the SQL.
//!
//! Defaults, then `tidegate.toml`, then `TIDEGATE__SECTION__KEY`, `DATABASE_URL` and `KAFKA_BROKERS` (or the files that
//! `DATABASE_URL_FILE` and `KAFKA_BROKERS_FILE` name), then flags.

use std::path::Path;
use std::time::Duration;

use figment::Figment;
use figment::providers::{Env, Format, Serialized, Toml};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// All settings.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The pipelines.
    pub engine: EngineSettings,
    /// The database.
    pub store: StoreSettings,
    /// The brokers.
    pub kafka: KafkaSettings,
    /// HTTP.
    pub api: ApiSettings,
    /// Only for tests.
    pub test: TestSettings,
}

/// The pipelines.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EngineSettings {
    /// An epoch ends so long after its first record.
    pub epoch_ms: u64,
    /// And with so many records.
    pub epoch_records_max: usize,
    /// And with so many bytes of payload.
    pub epoch_bytes_max: usize,
    /// Windows of several panes (HOP, CUMULATE) that are open are published at most so often.
    pub emit_every_ms: u64,
    /// State is stored at least so often while records arrive.
    pub checkpoint_interval_ms: u64,
    /// And after so many records.
    pub checkpoint_records_max: i64,
    /// Where `/metrics`, `/healthz` and `/readyz` listen.
    pub listen: String,
}

impl Default for EngineSettings {
    fn default() -> Self {
        Self {
            epoch_ms: 25,
            epoch_records_max: 100_000,
            epoch_bytes_max: 64 << 20,
            emit_every_ms: 1_000,
            checkpoint_interval_ms: 10_000,
            checkpoint_records_max: 2_000_000,
            listen: "127.0.0.1:9100".to_string(),
        }
    }
}

impl EngineSettings {
    /// As a duration.
    pub fn epoch(&self) -> Duration {
        Duration::from_millis(self.epoch_ms)
    }

    /// As a duration.
    pub fn emit_every(&self) -> Duration {
        Duration::from_millis(self.emit_every_ms)
    }

    /// As a duration.
    pub fn checkpoint_interval(&self) -> Duration {
        Duration::from_millis(self.checkpoint_interval_ms)
    }
}

/// The database.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoreSettings {
    /// `postgres://user:password@host:5432/database`, or `sqlite:FILE`.
    pub url: String,
    /// How long one statement may take.
    pub timeout_ms: u64,
}

impl Default for StoreSettings {
    fn default() -> Self {
        Self { url: String::new(), timeout_ms: 30_000 }
    }
}

/// The brokers.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KafkaSettings {
    /// `host:port`, separated by commas.
    pub brokers: String,
}

/// HTTP.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ApiSettings {
    /// Where it listens.
    pub listen: String,
}

impl Default for ApiSettings {
    fn default() -> Self {
        Self { listen: "127.0.0.1:8000".to_string() }
    }
}

/// Only for tests.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TestSettings {
    /// Whether the others are heard at all.
    pub enabled: bool,
    /// Points to arm, see [`crate::failpoint`].
    pub failpoints: String,
}

impl Settings {
    /// Reads them. `file` must exist if it is given; `tidegate.toml` is read if it is there.
    pub fn load(file: Option<&Path>) -> Result<Self> {
        let mut figment = Figment::from(Serialized::defaults(Self::default()));
        figment = match file {
            Some(file) if !file.is_file() => {
                return Err(Error::configuration(
                    "TG-SETTING",
                    format!("there is no settings file {}", file.display()),
                ));
            }
            Some(file) => figment.merge(Toml::file(file)),
            None => figment.merge(Toml::file("tidegate.toml")),
        };
        let mut settings: Self =
            figment.merge(Env::prefixed("TIDEGATE__").split("__")).extract().map_err(|errors| {
                let told: Vec<String> = errors.into_iter().map(|error| error.to_string()).collect();
                Error::configuration("TG-SETTING", told.join("; ")).hint(
                    "sections are engine, store, kafka, api; what can change an answer stands in a source's or view's WITH",
                )
            })?;
        for (variable, place) in
            [("DATABASE_URL", &mut settings.store.url), ("KAFKA_BROKERS", &mut settings.kafka.brokers)]
        {
            if place.is_empty() {
                *place = named(variable)?.unwrap_or_default();
            }
        }
        if !settings.test.enabled && !settings.test.failpoints.is_empty() {
            return Err(
                Error::configuration("TG-SETTING", "test.failpoints is set, and this is no test").hint("leave it out")
            );
        }
        Ok(settings)
    }
}

/// The value of a variable, or of the file that `…_FILE` names, as secrets are often handed over.
fn named(variable: &str) -> Result<Option<String>> {
    if let Ok(value) = std::env::var(variable) {
        return Ok(Some(value));
    }
    let file = format!("{variable}_FILE");
    let Ok(path) = std::env::var(&file) else { return Ok(None) };
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text.trim().to_string())),
        Err(error) => Err(Error::configuration("TG-SETTING", format!("{file}: cannot read {path}: {error}"))),
    }
}
