//! `make demo` looks before it compiles: each thing that is missing is told, all of them at once, with what to do.

use std::fs::Permissions;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A machine that has these programs, as a directory that is its whole PATH.
fn machine(name: &str, programs: &[&str]) -> PathBuf {
    let bin = std::env::temp_dir().join(format!("tidegate-preflight-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&bin).unwrap();
    let path = std::env::var("PATH").unwrap();
    for program in ["bash", "mkdir", "df", "awk", "dirname"].iter().chain(programs) {
        let found = std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.exists());
        // What this machine lacks stands in for itself: it is only looked for.
        let target = found.unwrap_or_else(|| PathBuf::from("/bin/sh"));
        symlink(target, bin.join(program)).unwrap();
    }
    bin
}

/// A program that only says this.
fn says(program: &Path, line: &str) {
    std::fs::write(program, format!("#!/bin/sh\necho '{line}'\n")).unwrap();
    std::fs::set_permissions(program, Permissions::from_mode(0o755)).unwrap();
}

/// Its exit code and what it says.
fn preflight(bin: &Path, cache: &Path, port: u16) -> (bool, String) {
    let script = Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").expect("run by cargo")).join("../.ci/preflight");
    let mut command = Command::new(bin.join("bash"));
    command.arg(script).env_clear().env("PATH", bin).env("HOME", "/nonexistent").env("PORT", port.to_string());
    let output = command.env("TIDEGATE_CACHE_DIR", cache).output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_machine_with_everything_passes() {
    let bin = machine("whole", &["cargo", "cc", "c++", "make"]);
    says(&bin.join("rustc"), "rustc 1.94.0 (hash 2026-01-01)");
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    assert_eq!(preflight(&bin, &bin.join("cache"), port), (true, String::new()));
    std::fs::remove_dir_all(bin).unwrap();
}

#[test]
fn an_old_compiler_is_told_with_its_version() {
    let bin = machine("old", &["cargo", "cc", "c++", "make"]);
    says(&bin.join("rustc"), "rustc 1.93.1 (hash 2026-01-01)");
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let said = "demo: rustc 1.93.1 is too old, and 1.94 is needed: rustup update\n".to_string();
    assert_eq!(preflight(&bin, &bin.join("cache"), port), (false, said));
    std::fs::remove_dir_all(bin).unwrap();
}

#[test]
fn everything_that_is_missing_is_told_at_once() {
    let bin = machine("bare", &[]);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let file = bin.join("a-file");
    std::fs::write(&file, "").unwrap();
    let (passed, said) = preflight(&bin, &file.join("cache"), port);
    assert!(!passed);
    let expected = [
        "demo: there is no cargo: install Rust from https://rustup.rs".to_string(),
        "demo: no C toolchain (gcc g++ make): apt-get install -y build-essential".to_string(),
        format!(
            "demo: cannot write to {}: set TIDEGATE_CACHE_DIR to a directory of yours",
            file.join("cache").display()
        ),
        format!("demo: port {port} is taken: make demo PORT={}", port.wrapping_add(1)),
    ];
    assert_eq!(said.lines().collect::<Vec<_>>(), expected);
    std::fs::remove_dir_all(bin).unwrap();
}
