//! A child process that is ended, and only it: by its own pid.

#![allow(unsafe_code)]

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use super::{Result, wait_until};

/// A running program.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
    started: Instant,
}

impl Process {
    /// Starts it, with both outputs in a file, as another user if one is named.
    pub fn spawn(name: &str, command: &mut Command, log: &Path, user: Option<(u32, u32)>) -> Result<Self> {
        let told = |error: std::io::Error| format!("cannot start {name}: {error}");
        let out = File::options().create(true).append(true).open(log).map_err(told)?;
        let err = out.try_clone().map_err(told)?;
        command.stdin(Stdio::null()).stdout(out).stderr(err);
        // Its own group: a Ctrl-C at the terminal is ours to hand on.
        command.process_group(0);
        if let Some((uid, gid)) = user {
            command.uid(uid).gid(gid);
        }
        let started = Instant::now();
        Ok(Self { child: command.spawn().map_err(told)?, name: name.to_string(), started })
    }

    /// Its pid.
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// What it has used so far.
    pub fn used(&self) -> Usage {
        let seconds = self.started.elapsed().as_secs_f64();
        let peak_mib = peak_of(self.pid()) as f64 / 1024.0;
        Usage { seconds, cpu_seconds: cpu_seconds_of(self.pid()), peak_mib }
    }

    /// Sends a signal.
    pub fn signal(&self, signal: i32) {
        kill(self.pid(), signal);
    }

    /// Whether it has ended, and how.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Waits for its end.
    pub fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        wait_until(limit, || self.ended().is_some());
        self.ended()
    }

    /// Ends it as a power cut would.
    pub fn kill9(&mut self) {
        self.signal(libc::SIGKILL);
        self.wait(Duration::from_secs(10));
    }

    /// Asks it to end, then makes it.
    pub fn stop(&mut self, signal: i32, limit: Duration) {
        if self.ended().is_some() {
            return;
        }
        self.signal(libc::SIGCONT);
        self.signal(signal);
        if self.wait(limit).is_none() {
            eprintln!("{} did not end in {limit:?} and is killed", self.name);
            self.signal(libc::SIGKILL);
            self.wait(Duration::from_secs(5));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop(libc::SIGTERM, Duration::from_secs(10));
    }
}

/// Starts a program that outlives us, in a session of its own, with both outputs in a file; its pid.
pub fn detach(name: &str, command: &mut Command, log: &Path, user: Option<(u32, u32)>) -> Result<i32> {
    let told = |error: std::io::Error| format!("cannot start {name}: {error}");
    let out = File::options().create(true).append(true).open(log).map_err(told)?;
    let err = out.try_clone().map_err(told)?;
    command.stdin(Stdio::null()).stdout(out).stderr(err);
    if let Some((uid, gid)) = user {
        command.uid(uid).gid(gid);
    }
    // SAFETY: setsid may be called between fork and exec, and touches no memory of ours.
    unsafe {
        command.pre_exec(|| if libc::setsid() == -1 { Err(std::io::Error::last_os_error()) } else { Ok(()) });
    }
    command.spawn().map(|child| child.id() as i32).map_err(told)
}

/// When a process began, in ticks since the machine did: with its pid it is no other. None for one that has ended.
pub fn began(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit(") ").next()?.split(' ');
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// Sends a signal to one process.
pub fn kill(pid: i32, signal: i32) {
    // SAFETY: kill touches no memory of ours.
    unsafe { libc::kill(pid, signal) };
}

/// Whether we are root.
pub fn is_root() -> bool {
    // SAFETY: geteuid cannot fail and touches no memory of ours.
    unsafe { libc::geteuid() == 0 }
}

/// What a process has used.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    /// From start to end.
    pub seconds: f64,
    /// User and system time.
    pub cpu_seconds: f64,
    /// Peak of resident memory.
    pub peak_mib: f64,
}

/// Runs a command to its end and asks the system what it used.
pub fn measure(command: &mut Command) -> Result<Usage> {
    let started = Instant::now();
    let child = command.spawn().map_err(|error| format!("cannot start {command:?}: {error}"))?;
    let pid = child.id() as i32;
    let mut status = 0;
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    let mut peak_kib = 0;
    loop {
        // The peak that wait4 tells includes that of the process that we were at the fork, so it is asked from outside.
        peak_kib = peak_kib.max(peak_of(pid));
        // SAFETY: both pointers are to memory of ours, the child is ours and is waited for only here.
        let waited = unsafe { libc::wait4(pid, &mut status, libc::WNOHANG, usage.as_mut_ptr()) };
        if waited != 0 {
            if waited < 0 || status != 0 {
                return Err(format!("{command:?} ended with status {status}"));
            }
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let seconds = started.elapsed().as_secs_f64();
    // SAFETY: wait4 has filled it, or it is still all zeros, which is a value too.
    let usage = unsafe { usage.assume_init() };
    let time = |t: libc::timeval| t.tv_sec as f64 + t.tv_usec as f64 / 1e6;
    Ok(Usage { seconds, cpu_seconds: time(usage.ru_utime) + time(usage.ru_stime), peak_mib: peak_kib as f64 / 1024.0 })
}

/// User and system time so far.
fn cpu_seconds_of(pid: i32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name, in brackets, may have spaces; of what follows it the 12th and the 13th are counted in ticks.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
    let ticks: u64 = fields.filter_map(|field| field.parse::<u64>().ok()).sum();
    // SAFETY: sysconf touches no memory of ours.
    let a_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    ticks as f64 / a_second.max(1) as f64
}

/// Peak of resident memory so far, in KiB.
fn peak_of(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}
