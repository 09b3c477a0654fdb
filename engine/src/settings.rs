//! What an operator tunes. Nothing here can change an answer: what can stands in the SQL.
//!
//! Defaults, then `tidegate.toml`, then `TIDEGATE__SECTION__KEY`, `DATABASE_URL` and `KAFKA_BROKERS` (or the files that
//! `DATABASE_URL_FILE` and `KAFKA_BROKERS_FILE` name), then flags.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
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
    /// The Postgres protocol.
    pub pgwire: PgWireSettings,
    /// Queries that people ask ad hoc.
    pub adhoc: AdHocSettings,
    /// Recent batches.
    pub recent: RecentSettings,
    /// The archive of sources that have one.
    pub archive: ArchiveSettings,
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
    /// The bearer token that everything but `/health` and `/readyz` needs; none if it is empty.
    pub token: String,
    /// The file that holds it instead.
    pub token_file: Option<PathBuf>,
    /// Names by which it may be addressed, beside addresses and names without a dot.
    pub hosts: Vec<String>,
}

impl Default for ApiSettings {
    fn default() -> Self {
        let listen = "127.0.0.1:8000".to_string();
        Self { listen, token: String::new(), token_file: None, hosts: Vec::new() }
    }
}

/// The Postgres protocol.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PgWireSettings {
    /// Where it listens; nowhere if it is empty.
    pub listen: String,
    /// The passwords of those who may connect. Without any, whoever is on this machine may.
    pub users: BTreeMap<String, String>,
    /// The certificate chain in PEM. With one, everybody must speak TLS.
    pub tls_cert: Option<PathBuf>,
    /// Its key in PEM.
    pub tls_key: Option<PathBuf>,
    /// Connections at a time.
    pub connections_max: usize,
}

impl Default for PgWireSettings {
    fn default() -> Self {
        let listen = "127.0.0.1:5433".to_string();
        Self { listen, users: BTreeMap::new(), tls_cert: None, tls_key: None, connections_max: 64 }
    }
}

/// Health, endpoints and gauges need sessions as well.
const ADHOC_RUNNING_MAX: usize = 6;

/// Queries that people ask ad hoc.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdHocSettings {
    /// Processes that run them.
    pub workers: usize,
    /// Queries that run at a time.
    pub running: usize,
    /// Queries that wait for their turn.
    pub queued: usize,
    /// How long one may take.
    pub timeout_ms: u64,
    /// Rows of an answer.
    pub rows_max: usize,
    /// Bytes of an answer.
    pub bytes_max: usize,
    /// Memory that one query's sorts, joins and groups may hold.
    pub memory_max: usize,
    /// Memory of a process that runs them, beyond which it is ended.
    pub worker_memory: usize,
}

impl Default for AdHocSettings {
    fn default() -> Self {
        Self {
            workers: 2,
            running: 4,
            queued: 16,
            timeout_ms: 30_000,
            rows_max: 100_000,
            bytes_max: 64 << 20,
            memory_max: 256 << 20,
            worker_memory: 1 << 30,
        }
    }
}

/// Recent batches: the decoded rows of the last minutes, as files.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RecentSettings {
    /// Whether there are any.
    pub enabled: bool,
    /// The folder that the engine writes and the api reads.
    pub path: PathBuf,
    /// How long they are kept.
    pub keep_ms: u64,
    /// How many bytes of a source are kept.
    pub bytes_max: u64,
}

impl Default for RecentSettings {
    fn default() -> Self {
        Self { enabled: true, path: PathBuf::from("tidegate-recent"), keep_ms: 15 * 60_000, bytes_max: 512 << 20 }
    }
}

impl RecentSettings {
    /// How long, in microseconds.
    pub fn keep_us(&self) -> i64 {
        i64::try_from(self.keep_ms.saturating_mul(1_000)).unwrap_or(i64::MAX)
    }
}

/// The archive of sources with `archive = 'parquet'`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ArchiveSettings {
    /// A folder, or `s3://bucket/path`.
    pub url: String,
    /// Options of the store, such as `aws_endpoint`, over the variables `AWS_…`.
    pub options: BTreeMap<String, serde_json::Value>,
    /// Rows are archived at least so often.
    pub every_ms: u64,
    /// And once there are so many bytes of recent batches.
    pub bytes: u64,
}

impl Default for ArchiveSettings {
    fn default() -> Self {
        Self { url: "archive".to_string(), options: BTreeMap::new(), every_ms: 5 * 60_000, bytes: 64 << 20 }
    }
}

impl ArchiveSettings {
    /// How often, in microseconds.
    pub fn every_us(&self) -> i64 {
        i64::try_from(self.every_ms.saturating_mul(1_000)).unwrap_or(i64::MAX)
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
        let here = Path::new("tidegate.toml");
        if let Some(warning) = file.or(Some(here)).and_then(told_to_others) {
            tracing::warn!("{warning}");
        }
        figment = match file {
            Some(file) if !file.is_file() => {
                return Err(Error::configuration(
                    "TG-SETTING",
                    format!("there is no settings file {}", file.display()),
                ));
            }
            Some(file) => figment.merge(Toml::file_exact(file)),
            // In this directory only: settings of a directory above would be a surprise.
            None if here.is_file() => figment.merge(Toml::file_exact(here)),
            None => figment,
        };
        // What people set for every program goes over the file; what names us goes over that.
        for (variable, key) in [("DATABASE_URL", "store.url"), ("KAFKA_BROKERS", "kafka.brokers")] {
            if let Some(value) = named(variable)? {
                figment = figment.merge(Serialized::default(key, value));
            }
        }
        let mut settings: Self = figment.merge(Env::prefixed("TIDEGATE__").split("__")).extract().map_err(|errors| {
            let told: Vec<String> = errors.into_iter().map(|error| said(&error)).collect();
            Error::configuration("TG-SETTING", told.join("; ")).hint(
                "sections are engine, store, kafka, api, pgwire, adhoc, recent, archive; what can change an answer stands in a source's or view's WITH",
            )
        })?;
        if !settings.test.enabled && !settings.test.failpoints.is_empty() {
            return Err(
                Error::configuration("TG-SETTING", "test.failpoints is set, and this is no test").hint("leave it out")
            );
        }
        settings.check_bounds()?;
        if let Some(path) = &settings.api.token_file {
            let token = secret("api.token_file", path)?;
            // A secret that was not mounted must not open the door.
            if token.is_empty() || !settings.api.token.is_empty() {
                let why = if token.is_empty() { "its file is empty" } else { "api.token is set as well" };
                return Err(Error::configuration("TG-SETTING", format!("api.token_file: {why}")));
            }
            settings.api.token = token;
        }
        Ok(settings)
    }

    /// Refuses what no engine could run with.
    fn check_bounds(&self) -> Result<()> {
        let engine = &self.engine;
        let least = [
            ("engine.epoch_records_max", engine.epoch_records_max as u64, 1),
            ("engine.epoch_bytes_max", engine.epoch_bytes_max as u64, 1),
            ("engine.checkpoint_interval_ms", engine.checkpoint_interval_ms, 1),
            ("engine.checkpoint_records_max", engine.checkpoint_records_max.max(0).unsigned_abs(), 1),
            ("store.timeout_ms", self.store.timeout_ms, 100),
            ("pgwire.connections_max", self.pgwire.connections_max as u64, 1),
            ("adhoc.workers", self.adhoc.workers as u64, 1),
            ("adhoc.running", self.adhoc.running as u64, 1),
            ("adhoc.timeout_ms", self.adhoc.timeout_ms, 1),
            ("adhoc.rows_max", self.adhoc.rows_max as u64, 1),
            ("adhoc.worker_memory", self.adhoc.worker_memory as u64, 64 << 20),
            ("archive.every_ms", self.archive.every_ms, 100),
            ("archive.bytes", self.archive.bytes, 1 << 20),
            ("recent.keep_ms", self.recent.keep_ms, 1_000),
            ("recent.bytes_max", self.recent.bytes_max, 1 << 20),
        ];
        if self.adhoc.running > ADHOC_RUNNING_MAX {
            let why = format!("adhoc.running is {}, and must be at most {ADHOC_RUNNING_MAX}", self.adhoc.running);
            let hint = "each query has a session of the database, of which there are 8 for all questions";
            return Err(Error::configuration("TG-SETTING", why).hint(hint));
        }
        if self.pgwire.tls_cert.is_some() != self.pgwire.tls_key.is_some() {
            let why = "one of pgwire.tls_cert and pgwire.tls_key is set without the other";
            return Err(Error::configuration("TG-SETTING", why));
        }
        if let Some((user, _)) = self.pgwire.users.iter().find(|(_, password)| password.is_empty()) {
            let why = format!("pgwire.users: the password of {user} is empty");
            return Err(Error::configuration("TG-SETTING", why));
        }
        match least.iter().find(|(_, value, least)| value < least) {
            None => Ok(()),
            Some((name, value, least)) => {
                Err(Error::configuration("TG-SETTING", format!("{name} is {value}, and must be at least {least}")))
            }
        }
    }
}

/// An error without the value that caused it, which may be a secret.
fn said(error: &figment::Error) -> String {
    let what = match &error.kind {
        figment::error::Kind::InvalidType(_, expected) | figment::error::Kind::InvalidValue(_, expected) => {
            format!("expected {expected}")
        }
        figment::error::Kind::UnknownField(field, known) => {
            format!("unknown setting {field} (there are {})", known.join(", "))
        }
        figment::error::Kind::Message(message) if error.path.is_empty() => message.clone(),
        figment::error::Kind::Message(_) => "cannot be read".to_string(),
        other => other.to_string(),
    };
    let from = error.metadata.as_ref().map_or_else(String::new, |metadata| format!(" in {}", metadata.name));
    format!("{}{}{what}{from}", error.path.join("."), if error.path.is_empty() { "" } else { ": " })
}

/// Settings that hold secrets.
const SECRETS: [&str; 4] = ["store.url", "api.token", "pgwire.users", "archive.options"];

/// What is to be said of a settings file with secrets that others may read.
fn told_to_others(file: &Path) -> Option<String> {
    let figment = Figment::from(Toml::file_exact(file));
    let held: Vec<&str> = SECRETS.into_iter().filter(|name| figment.contains(name)).collect();
    (is_read_by_others(file) && !held.is_empty()).then(|| {
        let held = held.join(", ");
        format!("everybody on this machine may read {}, which has {held}: chmod 600 it", file.display())
    })
}

fn is_read_by_others(file: &Path) -> bool {
    std::fs::metadata(file).is_ok_and(|told| told.is_file() && told.permissions().mode() & 0o004 != 0)
}

/// The value of a variable, or of the file that `…_FILE` names, as secrets are often handed over.
fn named(variable: &str) -> Result<Option<String>> {
    if let Ok(value) = std::env::var(variable) {
        return Ok(Some(value));
    }
    let file = format!("{variable}_FILE");
    let Ok(path) = std::env::var(&file) else { return Ok(None) };
    secret(&file, Path::new(&path)).map(Some)
}

/// What a file holds that a setting names.
fn secret(setting: &str, path: &Path) -> Result<String> {
    if is_read_by_others(path) {
        tracing::warn!("{setting}: everybody on this machine may read {}: chmod o-r it", path.display());
    }
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(text.trim().to_string()),
        Err(error) => {
            Err(Error::configuration("TG-SETTING", format!("{setting}: cannot read {}: {error}", path.display())))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(toml: &str) -> String {
        let figment = Figment::from(Serialized::defaults(Settings::default())).merge(Toml::string(toml));
        said(&figment.extract::<Settings>().expect_err("it is refused").into_iter().next().expect("an error"))
    }

    #[test]
    fn a_file_with_secrets_is_for_few() {
        let file = std::env::temp_dir().join(format!("tidegate-settings-{}.toml", std::process::id()));
        let told = |text: &str, mode: u32| {
            std::fs::write(&file, text).unwrap();
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
            told_to_others(&file)
        };
        let secret = "[store]\nurl = 'postgres://me:canary@host/db'\n[api]\ntoken = 'canary'";
        let warned = told(secret, 0o644).unwrap();
        assert!(
            warned.ends_with("which has store.url, api.token: chmod 600 it") && !warned.contains("canary"),
            "{warned}"
        );
        assert_eq!(told(secret, 0o640), None);
        assert_eq!(told("[engine]\nepoch_ms = 3", 0o644), None);
        std::fs::remove_file(&file).unwrap();
    }

    #[test]
    fn a_wrong_setting_is_named_and_its_value_is_not_told() {
        let secret = refused("store = 'postgres://me:secret@host/db'");
        assert!(secret.starts_with("store: expected struct StoreSettings") && !secret.contains("secret"), "{secret}");
        let unknown = refused("[engine]\nepoch = 3");
        assert!(unknown.starts_with("engine.epoch: unknown setting epoch (there are epoch_ms, "), "{unknown}");
        let mut settings = Settings::default();
        settings.engine.epoch_records_max = 0;
        let bound = settings.check_bounds().expect_err("nothing could be read").to_string();
        assert_eq!(bound, "TG-SETTING: engine.epoch_records_max is 0, and must be at least 1");
    }
}
