//! `with-servers COMMAND …`: runs a command with a Kafka and a Postgres of its own, and stops what it started.

use std::process::{Command, ExitCode};

use tidegate_bench::local::{Kafka, Postgres, Result};

fn main() -> ExitCode {
    match run() {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<u8> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--").collect();
    let Some((program, rest)) = arguments.split_first() else {
        return Err("usage: with-servers COMMAND …".to_string());
    };
    eprintln!("starting Postgres and Kafka …");
    let postgres = Postgres::start()?;
    let kafka = Kafka::start("512m")?;
    eprintln!("Postgres at {}, Kafka at {}", postgres.url("tidegate"), kafka.brokers());
    let status = Command::new(program)
        .args(rest)
        .env("DATABASE_URL", postgres.url("tidegate"))
        .env("KAFKA_BROKERS", kafka.brokers())
        .status()
        .map_err(|error| format!("cannot start {program}: {error}"))?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}
