//! Postgres from the machine's own binaries. It refuses to run as root, so root starts it as another user.

use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::process::{Process, is_root};
use super::{Result, TempDir, free_port, wait_until};

/// A server of our own.
pub struct Postgres {
    process: Option<Process>,
    bin: PathBuf,
    /// `None` for a server that is not ours.
    dir: Option<TempDir>,
    /// `user[:password]@host`.
    access: String,
    port: u16,
    user: Option<(u32, u32)>,
}

/// Where the server's programs are.
pub fn binaries() -> Result<PathBuf> {
    let mut candidates: Vec<PathBuf> = std::env::var_os("TIDEGATE_PG_BIN").map(PathBuf::from).into_iter().collect();
    let mut versions: Vec<(u32, PathBuf)> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .collect();
    versions.sort();
    candidates.extend(versions.into_iter().rev().map(|(_, path)| path));
    candidates.extend(std::env::var_os("PATH").iter().flat_map(std::env::split_paths));
    let found = candidates.into_iter().find(|dir| dir.join("initdb").exists() && dir.join("postgres").exists());
    found.ok_or(
        "there is no PostgreSQL server: apt-get install -y postgresql, or name its bin directory in TIDEGATE_PG_BIN"
            .to_string(),
    )
}

/// A user that Postgres accepts.
pub fn other_user() -> Result<Option<(u32, u32)>> {
    if !is_root() {
        return Ok(None);
    }
    let users = std::fs::read_to_string("/etc/passwd").map_err(|error| format!("cannot read /etc/passwd: {error}"))?;
    for name in ["postgres", "nobody"] {
        for line in users.lines() {
            let fields: Vec<&str> = line.split(':').collect();
            if let [user, _, uid, gid, ..] = fields.as_slice()
                && *user == name
                && let (Ok(uid), Ok(gid)) = (uid.parse(), gid.parse())
            {
                return Ok(Some((uid, gid)));
            }
        }
    }
    Err("Postgres does not run as root, and there is no user postgres or nobody to run it as".to_string())
}

/// Makes a folder into that of an empty server, whose superuser and password these are; without a password whoever is on this
/// machine may enter.
pub fn format(bin: &Path, data: &Path, user: &str, password: Option<&Path>, log: &Path) -> Result<()> {
    let mut init = Command::new(bin.join("initdb"));
    init.args(["--encoding=UTF8", "--locale=C", "--no-sync"]).arg(format!("--username={user}"));
    match password {
        Some(file) => init.args(["--auth-local=trust", "--auth-host=scram-sha-256", "--pwfile"]).arg(file),
        None => init.arg("--auth=trust"),
    };
    init.arg("-D").arg(data).current_dir("/");
    let ended = Process::spawn("initdb", &mut init, log, other_user()?)?.wait(Duration::from_secs(60));
    if !ended.is_some_and(|status| status.success()) {
        return Err(format!("initdb failed:\n{}", std::fs::read_to_string(log).unwrap_or_default()));
    }
    Ok(())
}

/// What starts the server of such a folder.
pub fn server(bin: &Path, dir: &Path, port: u16) -> Command {
    let mut command = Command::new(bin.join("postgres"));
    command.arg("-D").arg(dir.join("data")).current_dir("/");
    command.args(["-p", &port.to_string(), "-k"]).arg(dir);
    for setting in
        ["listen_addresses=127.0.0.1", "shared_buffers=256MB", "max_connections=100", "max_wal_size=4GB", "fsync=on"]
    {
        command.args(["-c", setting]);
    }
    command
}

/// Gives a folder to the user that the server runs as.
pub fn give_away(dir: &Path) -> Result<()> {
    let Some((uid, gid)) = other_user()? else { return Ok(()) };
    chown(dir, Some(uid), Some(gid)).map_err(|error| format!("cannot give {} away: {error}", dir.display()))
}

impl Postgres {
    /// Starts an empty server with a database `tidegate`.
    pub fn start() -> Result<Self> {
        let (bin, user, dir, port) = (binaries()?, other_user()?, TempDir::new("postgres")?, free_port()?);
        give_away(dir.path())?;
        let mut server =
            Self { process: None, bin, dir: Some(dir), access: "tidegate@127.0.0.1".to_string(), port, user };
        format(&server.bin, &server.data(), "tidegate", None, &server.dir().join("initdb.log"))?;
        server.restart()?;
        server.create_database("tidegate")?;
        Ok(server)
    }

    /// A server that somebody else runs: it can be used, and not be killed. Its role must be able to create databases.
    pub fn named(url: &str) -> Result<Self> {
        let refused = || format!("{url} is not postgres://user:password@host:port/database");
        let rest = url.strip_prefix("postgres://").or_else(|| url.strip_prefix("postgresql://")).ok_or_else(refused)?;
        let (access, place) = rest.rsplit_once(':').ok_or_else(refused)?;
        let port = place.split('/').next().and_then(|port| port.parse().ok()).ok_or_else(refused)?;
        let server =
            Self { process: None, bin: PathBuf::new(), dir: None, access: access.to_string(), port, user: None };
        server.psql("postgres", "SELECT 1").map(|_| server)
    }

    /// Ends what is ours, and removes its files.
    pub fn end(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.stop(libc::SIGQUIT, Duration::from_secs(10));
        }
        self.dir = None;
    }

    fn dir(&self) -> &Path {
        self.dir.as_ref().map_or(Path::new("."), TempDir::path)
    }

    fn data(&self) -> PathBuf {
        self.dir().join("data")
    }

    /// Starts it again on the same port and data.
    pub fn restart(&mut self) -> Result<()> {
        self.process = None;
        let mut command = server(&self.bin, self.dir(), self.port);
        self.process = Some(Process::spawn("postgres", &mut command, &self.dir().join("postgres.log"), self.user)?);
        let ready = wait_until(Duration::from_secs(60), || self.psql("postgres", "SELECT 1").is_ok());
        if ready {
            Ok(())
        } else {
            Err(format!("postgres is not ready; its log is {}", self.dir().join("postgres.log").display()))
        }
    }

    /// Runs one statement with the server's own client.
    pub fn psql(&self, database: &str, sql: &str) -> Result<String> {
        let output = Command::new(self.bin.join("psql"))
            .args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-d", &self.url(database), "-c", sql])
            .output()
            .map_err(|error| format!("cannot start psql: {error}"))?;
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).trim().to_string())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).trim().to_string())
        }
    }

    /// One of its programs.
    pub fn program(&self, name: &str) -> PathBuf {
        self.bin.join(name)
    }

    /// Makes a database; its URL.
    pub fn create_database(&self, name: &str) -> Result<String> {
        self.psql("postgres", &format!("CREATE DATABASE {name}"))?;
        Ok(self.url(name))
    }

    /// The URL of a database.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://{}:{}/{database}", self.access, self.port)
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The server's pid.
    pub fn pid(&self) -> i32 {
        self.process.as_ref().map_or(0, Process::pid)
    }

    /// Kills the server as a power cut would, and waits until none of its backends holds the shared memory.
    pub fn kill9(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill9();
        }
        let data = self.data();
        wait_until(Duration::from_secs(20), || !anyone_in(&data));
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            process.stop(libc::SIGINT, Duration::from_secs(15));
        }
    }
}

/// Whether a process works in this directory.
fn anyone_in(dir: &Path) -> bool {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    processes.filter_map(|entry| std::fs::read_link(entry.path().join("cwd")).ok()).any(|cwd| cwd == dir)
}
