//! What the stack may be told: the variables of docker-compose.yml, with the same defaults, from the environment or `.env`.

use std::collections::BTreeMap;

use tidegate_bench::local::Result;

/// Names, ports and rates.
#[derive(Debug, Clone)]
pub struct Settings {
    pub user: String,
    pub password: String,
    pub database: String,
    pub topic: String,
    pub retention_hours: u32,
    pub rate: u64,
    pub kafka_port: u16,
    pub postgres_port: u16,
    pub engine_port: u16,
    pub api_port: u16,
    pub pgwire_port: u16,
    pub prometheus_port: u16,
}

impl Settings {
    /// Those of the environment, over those of `.env`.
    pub fn read() -> Result<Self> {
        let text = match std::fs::read_to_string(".env") {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(format!(".env: {error}")),
        };
        let file = variables(&text);
        let value = |name: &str, default: &str| {
            let set = std::env::var(name).ok().or_else(|| file.get(name).cloned());
            set.filter(|value| !value.is_empty()).unwrap_or_else(|| default.to_string())
        };
        fn number<T: std::str::FromStr>(name: &str, value: &str) -> Result<T> {
            value.parse().map_err(|_| format!("{name}={value} is not possible"))
        }
        let port = |name: &str, default: &str| number::<u16>(name, &value(name, default));
        Ok(Self {
            user: value("POSTGRES_USER", "metrics"),
            password: value("POSTGRES_PASSWORD", "metrics"),
            database: value("POSTGRES_DB", "metrics"),
            topic: value("STREAM_EVENTS_TOPIC", "stream.events"),
            retention_hours: number("KAFKA_RETENTION_HOURS", &value("KAFKA_RETENTION_HOURS", "24"))?,
            rate: number("EVENTS_PER_SECOND", &value("EVENTS_PER_SECOND", "200"))?,
            kafka_port: port("KAFKA_PORT", "9092")?,
            postgres_port: port("POSTGRES_PORT", "5432")?,
            engine_port: port("ENGINE_PORT", "9100")?,
            api_port: port("API_PORT", "8000")?,
            pgwire_port: port("PGWIRE_PORT", "5433")?,
            prometheus_port: port("PROMETHEUS_PORT", "9090")?,
        })
    }

    /// Where the brokers are.
    pub fn brokers(&self) -> String {
        format!("127.0.0.1:{}", self.kafka_port)
    }

    /// The database as a URL.
    pub fn database_url(&self) -> String {
        let encoded = |text: &str| -> String {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
            let of = |byte: u8| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
            text.bytes().map(of).collect()
        };
        let (user, password, database) = (encoded(&self.user), encoded(&self.password), encoded(&self.database));
        format!("postgres://{user}:{password}@127.0.0.1:{}/{database}", self.postgres_port)
    }
}

/// `NAME=value` lines, without comments.
fn variables(text: &str) -> BTreeMap<String, String> {
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with('#'));
    let pairs = lines.filter_map(|line| line.split_once('='));
    pairs.map(|(name, value)| (name.trim().to_string(), value.trim().trim_matches('"').to_string())).collect()
}
