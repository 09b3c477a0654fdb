//! The lines of a statement as verbs.

use crate::error::{Error, Result};
use crate::log::memory::Fed;
use crate::sql::duration_us;

/// One line.
#[derive(Debug)]
pub enum Verb {
    /// Append records to a partition of a source's topic.
    Feed {
        /// The source.
        source: String,
        /// The partition.
        partition: usize,
        /// The records.
        records: Vec<Fed>,
    },
    /// Append the lines of a file.
    FeedFile {
        /// The source.
        source: String,
        /// The partition.
        partition: usize,
        /// Beside the golden file.
        file: String,
        /// What each record has besides its payload.
        like: Fed,
    },
    /// Lose a partition's records below an offset, as Kafka's retention does.
    Trim {
        /// The source.
        source: String,
        /// The partition.
        partition: usize,
        /// The oldest offset that is left.
        low: i64,
    },
    /// Give a source's topic so many partitions.
    Partitions(String, usize),
    /// Read everything and commit; with the state, if so.
    Commit {
        /// Whether the commit carries a checkpoint.
        checkpoint: bool,
    },
    /// Move the clocks.
    Advance(i64),
    /// Set the wall clock.
    Now(i64),
    /// Lose all memory.
    Crash,
    /// The same, with what is declared now.
    Restart,
    /// Remove a declaration.
    Forget(String),
    /// Remove a view from the store.
    Drop(String),
    /// Plan what is declared.
    Check,
    /// Delete rows that are older than their retention.
    Expire,
}

fn wrong(line: &str, why: &str) -> Error {
    Error::query("TG-TEST-VERB", format!("{line}: {why}")).hint(
        "verbs are feed SOURCE/PARTITION JSON…, trim SOURCE/PARTITION OFFSET, partitions SOURCE N, commit, checkpoint, advance 90 seconds, now TIME, crash, restart, forget NAME, drop NAME, check, expire",
    )
}

/// Reads a line.
pub fn parse(line: &str) -> Result<Verb> {
    let line = line.trim();
    let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let rest = rest.trim();
    let name = || if rest.is_empty() { Err(wrong(line, "it lacks a name")) } else { Ok(rest.to_string()) };
    Ok(match word {
        "feed" => feed(line, rest)?,
        "trim" => {
            let parsed =
                rest.split_once(char::is_whitespace).and_then(|(to, low)| Some((to, low.trim().parse().ok()?)));
            let (to, low) = parsed.ok_or_else(|| wrong(line, "write trim SOURCE/0 17"))?;
            let (source, partition) = place(line, to)?;
            Verb::Trim { source, partition, low }
        }
        "partitions" => {
            let parsed =
                rest.split_once(char::is_whitespace).and_then(|(name, n)| Some((name, n.trim().parse().ok()?)));
            let (name, count) = parsed.ok_or_else(|| wrong(line, "write partitions SOURCE 3"))?;
            Verb::Partitions(name.to_string(), count)
        }
        "commit" => Verb::Commit { checkpoint: false },
        "checkpoint" => Verb::Commit { checkpoint: true },
        "advance" => Verb::Advance(duration_us(rest).ok_or_else(|| wrong(line, "write advance 90 seconds"))?),
        "now" => Verb::Now(time_us(rest).ok_or_else(|| wrong(line, "write now 2026-01-01T12:00:00Z"))?),
        "crash" => Verb::Crash,
        "restart" => Verb::Restart,
        "forget" => Verb::Forget(name()?),
        "drop" => Verb::Drop(name()?),
        "check" => Verb::Check,
        "expire" => Verb::Expire,
        _ => return Err(wrong(line, "there is no such verb")),
    })
}

/// A time in microseconds.
pub fn time_us(text: &str) -> Option<i64> {
    chrono::DateTime::parse_from_rfc3339(text).ok().map(|time| time.timestamp_micros())
}

/// `SOURCE/PARTITION`, or a source whose only partition is meant.
fn place(line: &str, to: &str) -> Result<(String, usize)> {
    let (source, partition) = to.split_once('/').unwrap_or((to, "0"));
    let partition = partition.parse().map_err(|_| wrong(line, "the partition is not a number"))?;
    Ok((source.to_string(), partition))
}

fn feed(line: &str, rest: &str) -> Result<Verb> {
    let (to, mut rest) = rest.split_once(char::is_whitespace).ok_or_else(|| wrong(line, "it lacks records"))?;
    let (source, partition) = place(line, to)?;
    let mut like = Fed::default();
    loop {
        rest = rest.trim_start();
        let (word, after) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        if let Some(key) = word.strip_prefix("key=") {
            like.key = Some(key.as_bytes().to_vec());
        } else if let Some(at) = word.strip_prefix("at=") {
            like.timestamp_us = Some(time_us(at).ok_or_else(|| wrong(line, "at= is not a time"))?);
        } else {
            break;
        }
        rest = after;
    }
    let (word, after) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let record = |payload: Option<Vec<u8>>| Fed { payload, ..like.clone() };
    let records = match word {
        "tombstone" => vec![record(None)],
        "raw" => vec![record(Some(after.as_bytes().to_vec()))],
        "hex" => vec![record(Some(hex(after).ok_or_else(|| wrong(line, "that is not hexadecimal"))?))],
        "file" => return Ok(Verb::FeedFile { source, partition, file: after.trim().to_string(), like }),
        _ => {
            let mut values = serde_json::Deserializer::from_str(rest).into_iter::<serde::de::IgnoredAny>();
            let (mut records, mut from) = (Vec::new(), 0);
            while let Some(value) = values.next() {
                value
                    .map_err(|error| wrong(line, &format!("not JSON ({error}); for other payloads write raw TEXT")))?;
                let until = values.byte_offset();
                records.push(record(Some(rest[from..until].trim().as_bytes().to_vec())));
                from = until;
            }
            records
        }
    };
    if records.is_empty() {
        return Err(wrong(line, "it lacks records"));
    }
    Ok(Verb::Feed { source, partition, records })
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}
