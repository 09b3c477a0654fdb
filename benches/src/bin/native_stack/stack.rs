//! The verbs over all services.

use std::io::{IsTerminal, Write};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use tidegate_bench::local::process::is_root;
use tidegate_bench::local::{Result, kafka, postgres};

use crate::service::Service;
use crate::settings::Settings;

/// How long a service may take to be ready.
const PATIENCE: Duration = Duration::from_secs(60);

/// Says that a folder is a stack's.
const MARK: &str = ".tidegate-stack";

/// All services.
pub struct Stack {
    run: PathBuf,
    settings: Settings,
    tidegate: PathBuf,
    kafka: Service,
    postgres: Service,
    generator: Service,
    engine: Service,
    api: Service,
    prometheus: Service,
}

impl Stack {
    /// In this folder.
    pub fn new(run: &Path, settings: Settings) -> Result<Self> {
        let run = std::path::absolute(run).map_err(|error| format!("{}: {error}", run.display()))?;
        let own = std::env::current_exe().map_err(|error| error.to_string())?;
        let service = |name, signal, seconds| Service::new(&run, name, signal, seconds);
        Ok(Self {
            tidegate: own.with_file_name("tidegate"),
            kafka: service("kafka", libc::SIGTERM, 60),
            postgres: service("postgres", libc::SIGINT, 30),
            generator: service("event-generator", libc::SIGTERM, 10),
            engine: service("engine", libc::SIGTERM, 15),
            api: service("metrics-api", libc::SIGTERM, 10),
            prometheus: service("prometheus", libc::SIGTERM, 20),
            settings,
            run,
        })
    }

    /// In the order in which they are stopped.
    fn services(&self) -> [&Service; 6] {
        [&self.prometheus, &self.generator, &self.api, &self.engine, &self.kafka, &self.postgres]
    }

    fn port(&self, service: &Service) -> Option<(&'static str, u16)> {
        match service.name {
            "kafka" => Some(("KAFKA_PORT", self.settings.kafka_port)),
            "postgres" => Some(("POSTGRES_PORT", self.settings.postgres_port)),
            "engine" => Some(("ENGINE_PORT", self.settings.engine_port)),
            "metrics-api" => Some(("API_PORT", self.settings.api_port)),
            "prometheus" => Some(("PROMETHEUS_PORT", self.settings.prometheus_port)),
            _ => None,
        }
    }

    /// Starts what does not run.
    pub fn up(&self, full: bool, wait: bool) -> Result<()> {
        let began = Instant::now();
        self.check_ports(full)?;
        for service in self.services() {
            std::fs::create_dir_all(service.dir()).map_err(|error| format!("{}: {error}", service.dir().display()))?;
        }
        let mark = self.run.join(MARK);
        std::fs::write(&mark, "").map_err(|error| format!("{}: {error}", mark.display()))?;
        // Both at once: each takes some seconds.
        self.start_postgres()?;
        self.start_kafka()?;
        self.ready(&self.postgres, || self.sql("postgres", "SELECT 1").is_ok())?;
        let database = &self.settings.database;
        let there =
            self.sql("postgres", &format!("SELECT 1 FROM pg_database WHERE datname = '{}'", escaped(database)))?;
        if there.is_empty() {
            self.sql("postgres", &format!("CREATE DATABASE \"{}\"", database.replace('"', "\"\"")))?;
        }
        self.ready(&self.kafka, || kafka::answers(&self.settings.brokers(), Duration::from_secs(2)))?;
        self.start_tidegate()?;
        let http = |port: u16, path: &str| get(&format!("http://127.0.0.1:{port}{path}"));
        self.ready(&self.engine, || http(self.settings.engine_port, "/readyz"))?;
        self.ready(&self.api, || http(self.settings.api_port, "/readyz"))?;
        if full {
            self.start_prometheus()?;
            if wait {
                self.ready(&self.prometheus, || http(self.settings.prometheus_port, "/-/ready"))?;
            }
            println!("{:<17}not in this stack", "grafana");
        }
        println!(
            "the stack is up after {:.1} s; its files are in {}",
            began.elapsed().as_secs_f64(),
            self.run.display()
        );
        Ok(())
    }

    fn ready(&self, service: &Service, ready: impl Fn() -> bool) -> Result<()> {
        let began = Instant::now();
        service.wait(PATIENCE, ready)?;
        let at = self.port(service).map_or(String::new(), |(_, port)| format!(" at 127.0.0.1:{port}"));
        println!("{:<17}ready{at} ({:.1} s)", service.name, began.elapsed().as_secs_f64());
        Ok(())
    }

    /// Every port that somebody else has, at once.
    fn check_ports(&self, full: bool) -> Result<()> {
        let mut taken = Vec::new();
        let services = self.services().into_iter().filter(|service| full || service.name != "prometheus");
        for service in services.filter(|service| service.pid().is_none()) {
            if let Some((variable, port)) = self.port(service)
                && TcpListener::bind(("127.0.0.1", port)).is_err()
            {
                taken.push(format!("port {port} of {} is taken: set {variable} to another", service.name));
            }
        }
        let pgwire = self.settings.pgwire_port;
        if self.api.pid().is_none() && TcpListener::bind(("127.0.0.1", pgwire)).is_err() {
            taken.push(format!("port {pgwire} of the Postgres protocol is taken: set PGWIRE_PORT to another"));
        }
        if taken.is_empty() { Ok(()) } else { Err(taken.join("\n")) }
    }

    fn start_postgres(&self) -> Result<()> {
        let service = &self.postgres;
        if service.pid().is_some() {
            return Ok(());
        }
        let (bin, user, data) = (postgres::binaries()?, postgres::other_user()?, service.dir().join("data"));
        if user.is_some() {
            self.check_way(service.dir())?;
        }
        if !data.join("PG_VERSION").exists() {
            postgres::give_away(service.dir())?;
            let password = service.dir().join("password");
            std::fs::write(&password, &self.settings.password).map_err(|error| error.to_string())?;
            postgres::give_away(&password)?;
            let made = postgres::format(&bin, &data, &self.settings.user, Some(&password), &service.log());
            std::fs::remove_file(&password).map_err(|error| error.to_string())?;
            made?;
        }
        service.start(&mut postgres::server(&bin, service.dir(), self.settings.postgres_port), user)
    }

    /// Another user must be able to come to its folder.
    fn check_way(&self, dir: &Path) -> Result<()> {
        use std::os::unix::fs::PermissionsExt;
        let closed = dir
            .ancestors()
            .skip(1)
            .find(|parent| std::fs::metadata(parent).is_ok_and(|told| told.permissions().mode() & 0o001 == 0));
        match closed {
            Some(parent) if is_root() => Err(format!(
                "Postgres does not run as root, and no other user may enter {}: RUN_DIR=/var/tmp/tidegate-run make up",
                parent.display()
            )),
            _ => Ok(()),
        }
    }

    fn start_kafka(&self) -> Result<()> {
        let service = &self.kafka;
        if service.pid().is_some() {
            return Ok(());
        }
        let jars = kafka::jars()?;
        if !service.dir().join("data").exists() {
            let more = format!("log.retention.hours={}\n", self.settings.retention_hours);
            let controller = tidegate_bench::local::free_port()?;
            kafka::format(&jars, service.dir(), (self.settings.kafka_port, controller), &more)?;
        }
        service.start(&mut kafka::server(&jars, service.dir(), "512m"), None)
    }

    /// A command of tidegate with what it must know of the others.
    fn command(&self) -> Command {
        let settings = &self.settings;
        let mut command = Command::new(&self.tidegate);
        command.env("DATABASE_URL", settings.database_url()).env("KAFKA_BROKERS", settings.brokers());
        command.env("STREAM_EVENTS_TOPIC", &settings.topic);
        command.env("TIDEGATE__ENGINE__LISTEN", format!("127.0.0.1:{}", settings.engine_port));
        command.env("TIDEGATE__API__LISTEN", format!("127.0.0.1:{}", settings.api_port));
        command.env("TIDEGATE__PGWIRE__LISTEN", format!("127.0.0.1:{}", settings.pgwire_port));
        command.env("TIDEGATE__RECENT__PATH", self.engine.dir().join("recent"));
        command.env("TIDEGATE__ARCHIVE__URL", self.engine.dir().join("archive"));
        command
    }

    fn start_tidegate(&self) -> Result<()> {
        let rate = self.settings.rate.to_string();
        let generate = ["generate", "--quiet", "--topic", &self.settings.topic, "--partitions", "8", "--rate", &rate];
        for (service, arguments) in [
            (&self.generator, &generate[..]),
            (&self.engine, &["engine", "--queries", "queries"]),
            (&self.api, &["api", "--queries", "queries"]),
        ] {
            if service.pid().is_none() {
                service.start(self.command().args(arguments), None)?;
            }
        }
        // It ends by itself if it cannot write.
        self.ready(&self.generator, || true)
    }

    fn start_prometheus(&self) -> Result<()> {
        let service = &self.prometheus;
        if service.pid().is_some() {
            return Ok(());
        }
        let told = |what: &str, error: std::io::Error| format!("{what}: {error}");
        let from = Path::new("grafana/prometheus");
        let text =
            std::fs::read_to_string(from.join("prometheus.yml")).map_err(|error| told("prometheus.yml", error))?;
        let (engine, api) = (self.settings.engine_port, self.settings.api_port);
        let text = text
            .replace("engine:9100", &format!("127.0.0.1:{engine}"))
            .replace("metrics-api:8000", &format!("127.0.0.1:{api}"));
        let file = service.dir().join("prometheus.yml");
        std::fs::write(&file, text).map_err(|error| told("prometheus.yml", error))?;
        let rules = from.join("alerts.yml");
        std::fs::copy(&rules, service.dir().join("alerts.yml")).map_err(|error| told("alerts.yml", error))?;
        let mut command = Command::new("prometheus");
        command.arg(format!("--config.file={}", file.display()));
        command.arg(format!("--storage.tsdb.path={}", service.dir().join("data").display()));
        command.arg(format!("--web.listen-address=127.0.0.1:{}", self.settings.prometheus_port));
        service.start(&mut command, None)
    }

    /// One statement by the server's own client.
    fn sql(&self, database: &str, sql: &str) -> Result<String> {
        let mut psql = Command::new(postgres::binaries()?.join("psql"));
        psql.args(["-X", "-A", "-t", "-q", "-h", "127.0.0.1", "-p", &self.settings.postgres_port.to_string()]);
        psql.args(["-U", &self.settings.user, "-d", database, "-c", sql]).env("PGPASSWORD", &self.settings.password);
        let output = psql.output().map_err(|error| format!("cannot start psql: {error}"))?;
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).trim().to_string())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).trim().to_string())
        }
    }

    /// Stops what runs, and keeps its data.
    pub fn down(&self) -> Result<()> {
        println!("{}; the data is kept in {}", self.stop()?, self.run.display());
        Ok(())
    }

    /// Stops what runs; says what that was.
    fn stop(&self) -> Result<String> {
        let mut stopped = Vec::new();
        for service in self.services() {
            if service.stop()? {
                stopped.push(service.name);
            }
        }
        Ok(if stopped.is_empty() { "nothing ran".to_string() } else { format!("stopped {}", stopped.join(", ")) })
    }

    /// Stops what runs and deletes its data, after saying so.
    pub fn reset(&self, force: bool) -> Result<()> {
        // Another folder may have one of the same name in it.
        if !self.run.join(MARK).exists() {
            return Err(format!("{} is no folder of a stack: it has no {MARK}", self.run.display()));
        }
        println!("reset stops the stack and deletes {}:", self.run.display());
        println!("  every record of the topics, every row of the database, recent batches, archive, logs");
        if !force && !agreed()? {
            return Err("nothing was done".to_string());
        }
        println!("{}", self.stop()?);
        for service in self.services() {
            for gone in [service.dir().to_path_buf(), service.log()] {
                let removed = if gone.is_dir() { std::fs::remove_dir_all(&gone) } else { std::fs::remove_file(&gone) };
                match removed {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                        return Err(format!("{}: {error}", gone.display()));
                    }
                    _ => {}
                }
            }
        }
        println!("the data is gone");
        Ok(())
    }

    /// Lists the services.
    pub fn ps(&self, full: bool) -> Result<()> {
        println!("{:<17}{:<10}{:<9}{:<22}LOG", "SERVICE", "STATE", "PID", "ADDRESS");
        for service in self.services().into_iter().rev().filter(|service| full || service.name != "prometheus") {
            let pid = service.pid();
            let state = if pid.is_some() { "running" } else { "stopped" };
            let pid = pid.map_or("-".to_string(), |pid| pid.to_string());
            let at = self.port(service).map_or("-".to_string(), |(_, port)| format!("127.0.0.1:{port}"));
            println!("{:<17}{state:<10}{pid:<9}{at:<22}{}", service.name, service.log().display());
        }
        if full {
            println!("{:<17}not in this stack", "grafana");
        }
        Ok(())
    }

    /// Shows logs, by `tail`.
    pub fn logs(&self, name: Option<&str>, full: bool, follow: bool) -> Result<u8> {
        let all = self.services().into_iter().rev();
        let known: Vec<&Service> = match name {
            Some(name) => all.filter(|service| service.name == name).collect(),
            None => all.filter(|service| full || service.name != "prometheus").collect(),
        };
        if known.is_empty() {
            let name = name.unwrap_or_default();
            return Err(format!(
                "{name} is not in this stack; there are kafka, postgres, event-generator, engine, metrics-api, prometheus"
            ));
        }
        let files: Vec<PathBuf> = known.iter().map(|service| service.log()).filter(|log| log.exists()).collect();
        if files.is_empty() {
            return Err("there is no log yet: make up".to_string());
        }
        let mut tail = Command::new("tail");
        tail.args(["-n", "100"]).args(follow.then_some("-F")).args(files);
        Err(format!("cannot start tail: {}", tail.exec()))
    }

    /// Prints what a shell must know: the addresses, and the settings of the engine and the api.
    pub fn env(&self) -> Result<()> {
        let quoted = |value: &str| format!("'{}'", value.replace('\'', "'\\''"));
        let command = self.command();
        let set = command.get_envs().filter_map(|(name, value)| Some((name.to_str()?, value?.to_str()?)));
        let local = |port: u16| format!("127.0.0.1:{port}");
        let Settings { api_port, engine_port, prometheus_port, .. } = &self.settings;
        let (api, engine) = (local(*api_port), local(*engine_port));
        let prometheus = format!("http://{}", local(*prometheus_port));
        let addresses = [("API", api.as_str()), ("ENGINE", &engine), ("PROMETHEUS", &prometheus)];
        for (name, value) in set.chain(addresses) {
            println!("export {name}={}", quoted(value));
        }
        let bin = self.tidegate.parent().map_or_else(String::new, |bin| bin.display().to_string());
        println!("export PATH={}:$PATH", quoted(&bin));
        Ok(())
    }

    /// Runs a command of tidegate with the stack's addresses, in the place of this one.
    pub fn run(&self, arguments: &[String]) -> Result<u8> {
        let mut command = self.command();
        Err(format!("cannot start {}: {}", self.tidegate.display(), command.args(arguments).exec()))
    }
}

fn agreed() -> Result<bool> {
    if !std::io::stdin().is_terminal() {
        return Err("nobody is here to be asked: FORCE=1 does it".to_string());
    }
    print!("type yes to do it: ");
    let mut answer = String::new();
    std::io::stdout()
        .flush()
        .and_then(|()| std::io::stdin().read_line(&mut answer))
        .map_err(|error| error.to_string())?;
    Ok(answer.trim() == "yes")
}

fn escaped(text: &str) -> String {
    text.replace('\'', "''")
}

/// Whether it answers that all is well.
fn get(url: &str) -> bool {
    let config = ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(2))).build();
    config.new_agent().get(url).call().is_ok()
}
