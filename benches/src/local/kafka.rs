//! Apache Kafka, one KRaft node, from its published jars. Needs Java 17 and, the first time, Maven.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::process::Process;
use super::{Result, TempDir, cache_dir, free_port, wait_until};

const VERSION: &str = "4.4.0";

const POM: &str = r#"<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>tidegate</groupId><artifactId>kafka-for-tests</artifactId><version>1</version><dependencies>
<dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>4.4.0</version></dependency>
<dependency><groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>1.7.36</version></dependency>
</dependencies></project>
"#;

/// The jars, fetched once.
pub fn jars() -> Result<PathBuf> {
    let target = cache_dir().join(format!("kafka-{VERSION}"));
    if target.is_dir() {
        return Ok(target);
    }
    if Command::new("java").arg("-version").output().is_err() {
        return Err("there is no Java: apt-get install -y openjdk-17-jre-headless maven".to_string());
    }
    let told = |error: std::io::Error| format!("cannot keep Kafka's jars in {}: {error}", target.display());
    std::fs::create_dir_all(cache_dir()).map_err(told)?;
    let work = cache_dir().join(format!("kafka-{VERSION}.{}", std::process::id()));
    std::fs::create_dir_all(&work).map_err(told)?;
    std::fs::write(work.join("pom.xml"), POM).map_err(told)?;
    let output = Command::new("mvn")
        .args(["-q", "-B", "dependency:copy-dependencies", "-DoutputDirectory=lib"])
        .current_dir(&work)
        .output()
        .map_err(|_| "there is no Maven: apt-get install -y maven".to_string())?;
    if !output.status.success() {
        return Err(format!("Maven could not fetch Kafka {VERSION}: {}", String::from_utf8_lossy(&output.stdout)));
    }
    // Whole or not at all, also when two runs fetch at once.
    if std::fs::rename(work.join("lib"), &target).is_err() && !target.is_dir() {
        return Err(format!("cannot keep Kafka's jars in {}", target.display()));
    }
    let _ = std::fs::remove_dir_all(work);
    Ok(target)
}

/// Makes a folder into that of an empty broker on these ports of 127.0.0.1, with more properties beside the usual ones.
pub fn format(jars: &Path, dir: &Path, (port, controller): (u16, u16), more: &str) -> Result<()> {
    let properties = format!(
        "process.roles=broker,controller\nnode.id=1\ncontroller.quorum.voters=1@127.0.0.1:{controller}\n\
         listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}\nadvertised.listeners=PLAINTEXT://127.0.0.1:{port}\n\
         controller.listener.names=CONTROLLER\nlistener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT\n\
         inter.broker.listener.name=PLAINTEXT\nlog.dirs={}\noffsets.topic.replication.factor=1\noffsets.topic.num.partitions=1\n\
         transaction.state.log.replication.factor=1\ntransaction.state.log.min.isr=1\ntransaction.state.log.num.partitions=1\n\
         group.initial.rebalance.delay.ms=0\nauto.create.topics.enable=false\n{more}",
        dir.join("data").display()
    );
    std::fs::write(dir.join("server.properties"), properties)
        .map_err(|error| format!("cannot configure Kafka: {error}"))?;
    let id = tool(jars, dir, &["random-uuid"])?;
    tool(jars, dir, &["format", "-t", id.trim(), "-c", "server.properties"]).map(|_| ())
}

/// What starts the broker of such a folder.
pub fn server(jars: &Path, dir: &Path, heap: &str) -> Command {
    let mut command = java(jars, dir);
    command.arg(format!("-Xmx{heap}")).args(["kafka.Kafka", "server.properties"]);
    command
}

/// Whether brokers answer.
pub fn answers(brokers: &str, patience: Duration) -> bool {
    let client: Option<BaseConsumer> = config(brokers).create().ok();
    client.is_some_and(|client| client.fetch_metadata(None, patience).is_ok())
}

fn config(brokers: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers).set("group.id", "tidegate-local").set("log_level", "0");
    config
}

fn java(jars: &Path, dir: &Path) -> Command {
    let mut command = Command::new("java");
    command.current_dir(dir).arg("-Dorg.slf4j.simpleLogger.defaultLogLevel=warn").arg("-XX:+UseSerialGC");
    command.args(["-cp", &format!("{}/*", jars.display())]);
    command
}

fn tool(jars: &Path, dir: &Path, arguments: &[&str]) -> Result<String> {
    let output = java(jars, dir)
        .arg("kafka.tools.StorageTool")
        .args(arguments)
        .output()
        .map_err(|error| format!("cannot start java: {error}"))?;
    if !output.status.success() {
        return Err(format!("Kafka's storage tool failed: {}", String::from_utf8_lossy(&output.stderr)));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().last().unwrap_or_default().to_string())
}

/// A broker of our own.
pub struct Kafka {
    process: Option<Process>,
    /// `None` for brokers that are not ours.
    dir: Option<TempDir>,
    jars: PathBuf,
    brokers: String,
    heap: String,
}

impl Kafka {
    /// Starts an empty broker with this heap, such as `512m`.
    pub fn start(heap: &str) -> Result<Self> {
        let (jars, dir, port, controller) = (jars()?, TempDir::new("kafka")?, free_port()?, free_port()?);
        format(&jars, dir.path(), (port, controller), "")?;
        let brokers = format!("127.0.0.1:{port}");
        let mut kafka = Self { process: None, dir: Some(dir), jars, brokers, heap: heap.to_string() };
        kafka.restart()?;
        Ok(kafka)
    }

    /// Brokers that somebody else runs: they can be used, and not be killed.
    pub fn named(brokers: &str) -> Result<Self> {
        let kafka =
            Self { process: None, dir: None, jars: PathBuf::new(), brokers: brokers.to_string(), heap: String::new() };
        let client: BaseConsumer = kafka.config().create().map_err(|error| error.to_string())?;
        client.fetch_metadata(None, Duration::from_secs(10)).map_err(|error| format!("{brokers}: {error}"))?;
        Ok(kafka)
    }

    /// Ends what is ours, and removes its files.
    pub fn end(&mut self) {
        self.kill9();
        self.dir = None;
    }

    fn dir(&self) -> &Path {
        self.dir.as_ref().map_or(Path::new("."), TempDir::path)
    }

    /// Starts it again on the same port and data.
    pub fn restart(&mut self) -> Result<()> {
        self.process = None;
        let mut command = server(&self.jars, self.dir(), &self.heap);
        self.process = Some(Process::spawn("kafka", &mut command, &self.log(), None)?);
        let ready = wait_until(Duration::from_secs(60), || answers(&self.brokers, Duration::from_secs(2)));
        if ready { Ok(()) } else { Err(format!("Kafka is not ready; its log is {}", self.log().display())) }
    }

    fn log(&self) -> PathBuf {
        self.dir().join("kafka.log")
    }

    /// `host:port`.
    pub fn brokers(&self) -> String {
        self.brokers.clone()
    }

    /// The broker's pid.
    pub fn pid(&self) -> i32 {
        self.process.as_ref().map_or(0, Process::pid)
    }

    /// Kills it as a power cut would.
    pub fn kill9(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill9();
        }
    }

    fn config(&self) -> ClientConfig {
        config(&self.brokers)
    }

    fn admin<T>(
        &self,
        what: &str,
        ask: impl AsyncFnOnce(AdminClient<DefaultClientContext>, AdminOptions) -> std::result::Result<T, String>,
    ) -> Result<T> {
        let admin = self.config().create().map_err(|error| format!("{what}: {error}"))?;
        let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(10)));
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())?;
        runtime.block_on(ask(admin, options)).map_err(|error| format!("{what}: {error}"))
    }

    /// Makes a topic and waits until it can be written.
    pub fn create_topic(&self, topic: &str, partitions: i32, settings: &[(&str, &str)]) -> Result<()> {
        self.admin(&format!("making topic {topic}"), async |admin, options| {
            let mut wanted = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
            for (key, value) in settings {
                wanted = wanted.set(key, value);
            }
            let made = admin.create_topics([&wanted], &options).await.map_err(|error| error.to_string())?;
            made.into_iter().try_for_each(|result| result.map(|_| ()).map_err(|(_, code)| code.to_string()))
        })?;
        let ready = wait_until(Duration::from_secs(20), || {
            self.end_offsets(topic).is_ok_and(|ends| ends.len() == partitions as usize)
        });
        if ready { Ok(()) } else { Err(format!("topic {topic} does not appear")) }
    }

    /// Deletes a topic and waits until it is gone.
    pub fn delete_topic(&self, topic: &str) -> Result<()> {
        self.admin(&format!("deleting topic {topic}"), async |admin, options| {
            admin.delete_topics(&[topic], &options).await.map(|_| ()).map_err(|error| error.to_string())
        })?;
        wait_until(Duration::from_secs(20), || self.end_offsets(topic).is_err());
        Ok(())
    }

    /// Adds partitions up to this number.
    pub fn grow_topic(&self, topic: &str, partitions: usize) -> Result<()> {
        self.admin(&format!("growing topic {topic}"), async |admin, options| {
            admin
                .create_partitions(&[NewPartitions::new(topic, partitions)], &options)
                .await
                .map(|_| ())
                .map_err(|error| error.to_string())
        })
    }

    /// Deletes a partition's records below an offset, as retention does.
    pub fn delete_records(&self, topic: &str, partition: i32, before: i64) -> Result<()> {
        self.admin(&format!("deleting records of {topic}"), async |admin, options| {
            let mut list = TopicPartitionList::new();
            list.add_partition_offset(topic, partition, Offset::Offset(before)).map_err(|error| error.to_string())?;
            admin.delete_records(&list, &options).await.map(|_| ()).map_err(|error| error.to_string())
        })
    }

    /// The next offset of each partition.
    pub fn end_offsets(&self, topic: &str) -> Result<Vec<i64>> {
        let client: BaseConsumer = self.config().create().map_err(|error| error.to_string())?;
        let limit = Duration::from_secs(5);
        let metadata = client.fetch_metadata(Some(topic), limit).map_err(|error| error.to_string())?;
        let partitions = metadata
            .topics()
            .first()
            .filter(|topic| topic.error().is_none())
            .map_or(0, |topic| topic.partitions().len());
        if partitions == 0 {
            return Err(format!("there is no topic {topic}"));
        }
        (0..partitions as i32)
            .map(|p| client.fetch_watermarks(topic, p, limit).map(|(_, high)| high).map_err(|error| error.to_string()))
            .collect()
    }
}
