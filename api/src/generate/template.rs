//! What made-up records look like: a file beside the source's SQL, so that this binary knows no column of any source.

use std::collections::BTreeMap;
use std::path::Path;

use figment::Figment;
use figment::providers::{Format, Toml};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use serde::Deserialize;

/// The file, as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    key: String,
    #[serde(default)]
    names: BTreeMap<String, Name>,
    record: Vec<Weighted>,
    #[serde(default)]
    broken: Vec<Plain>,
    probe: Option<ProbeText>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Name {
    text: String,
    few: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Weighted {
    weight: u32,
    text: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Plain {
    text: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ProbeText {
    key: String,
    text: String,
    sql: String,
}

/// Records of every kind, ready to be drawn.
#[derive(Debug, Clone)]
pub struct Template {
    key: Text,
    names: Vec<Text>,
    records: Vec<(u32, Text)>,
    broken: Vec<Text>,
    probe: Option<Probe>,
}

/// A record whose arrival can be told, and the query that tells it.
#[derive(Debug, Clone)]
pub struct Probe {
    /// Its key.
    pub key: String,
    /// Answers with a count and a sum.
    pub sql: String,
    text: Text,
}

/// A text with places that are drawn.
#[derive(Debug, Clone)]
struct Text(Vec<Piece>);

#[derive(Debug, Clone)]
enum Piece {
    Plain(String),
    Id,
    Time,
    Amount,
    /// The name of this position.
    Name(usize),
    /// A number of these bounds, in units of so many digits behind the point.
    Number {
        from: i64,
        to: i64,
        scale: u32,
        digits: usize,
    },
}

/// What the places of one record are filled with.
pub struct Drawn<'a> {
    /// A number of its own.
    pub id: &'a str,
    /// Its event time.
    pub time: &'a str,
    /// What a probe adds to the sum.
    pub amount: &'a str,
}

impl Template {
    /// Reads a file. With `few`, names are drawn from fewer where the file says so.
    pub fn read(path: &Path, few: bool) -> Result<Self, String> {
        let told = |why: String| format!("TG-EVENTS: {}: {why}", path.display());
        if !path.is_file() {
            return Err(told("there is no such file; it says what made-up records look like".to_string()));
        }
        let file: File = Figment::from(Toml::file_exact(path)).extract().map_err(|error| told(error.to_string()))?;
        Self::of(file, few).map_err(told)
    }

    fn of(file: File, few: bool) -> Result<Self, String> {
        let known: Vec<&str> = file.names.keys().map(String::as_str).collect();
        let parse = |text: &str| Text::parse(text, &known);
        let names = file.names.values().map(|name| match &name.few {
            Some(text) if few => Text::parse(text, &[]),
            _ => Text::parse(&name.text, &[]),
        });
        let names = names.collect::<Result<_, _>>()?;
        let records =
            file.record.iter().map(|r| Ok((r.weight, parse(&r.text)?))).collect::<Result<Vec<_>, String>>()?;
        if records.iter().all(|(weight, _)| *weight == 0) {
            return Err("no record has a weight above 0".to_string());
        }
        let broken = file.broken.iter().map(|record| parse(&record.text)).collect::<Result<_, _>>()?;
        let probe = match file.probe {
            None => None,
            Some(probe) => Some(Probe { text: parse(&probe.text)?, key: probe.key, sql: probe.sql }),
        };
        Ok(Self { key: parse(&file.key)?, names, records, broken, probe })
    }

    /// A record: its key and its payload.
    pub fn record(&self, rng: &mut ChaCha8Rng, drawn: &Drawn<'_>) -> (String, String) {
        let total: u64 = self.records.iter().map(|(weight, _)| u64::from(*weight)).sum();
        let mut dice = rng.random_range(0..total.max(1));
        let mut chosen = &self.records[0].1;
        for (weight, text) in &self.records {
            chosen = text;
            if dice < u64::from(*weight) {
                break;
            }
            dice -= u64::from(*weight);
        }
        self.fill(chosen, rng, drawn)
    }

    /// A record that cannot be decoded; none if the file has none.
    pub fn broken(&self, rng: &mut ChaCha8Rng, drawn: &Drawn<'_>) -> Option<(String, String)> {
        let text = self.broken.get(rng.random_range(0..self.broken.len().max(1)))?;
        Some(self.fill(text, rng, drawn))
    }

    /// What smoke writes, if the file says it.
    pub fn probe(&self) -> Option<&Probe> {
        self.probe.as_ref()
    }

    /// A probe's payload.
    pub fn probe_record(&self, probe: &Probe, rng: &mut ChaCha8Rng, drawn: &Drawn<'_>) -> String {
        self.fill(&probe.text, rng, drawn).1
    }

    fn fill(&self, text: &Text, rng: &mut ChaCha8Rng, drawn: &Drawn<'_>) -> (String, String) {
        let names: Vec<String> = self.names.iter().map(|name| name.fill(rng, drawn, &[])).collect();
        (self.key.fill(rng, drawn, &names), text.fill(rng, drawn, &names))
    }
}

impl Text {
    fn parse(text: &str, names: &[&str]) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some(start) = rest.find('<') {
            let end = rest[start..].find('>').ok_or_else(|| format!("{text}: a < without its >"))? + start;
            pieces.push(Piece::Plain(rest[..start].to_string()));
            pieces.push(Piece::parse(&rest[start + 1..end], names).map_err(|why| format!("{text}: {why}"))?);
            rest = &rest[end + 1..];
        }
        pieces.push(Piece::Plain(rest.to_string()));
        Ok(Self(pieces))
    }

    fn fill(&self, rng: &mut ChaCha8Rng, drawn: &Drawn<'_>, names: &[String]) -> String {
        let mut out = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Plain(text) => out.push_str(text),
                Piece::Id => out.push_str(drawn.id),
                Piece::Time => out.push_str(drawn.time),
                Piece::Amount => out.push_str(drawn.amount),
                Piece::Name(index) => out.push_str(names.get(*index).map_or("", String::as_str)),
                Piece::Number { from, to, scale, digits } => {
                    let number = rng.random_range(*from..=*to);
                    let unit = 10i64.pow(*scale);
                    match scale {
                        0 => out.push_str(&format!("{number:0digits$}")),
                        scale => out.push_str(&format!(
                            "{}.{:0width$}",
                            number / unit,
                            number % unit,
                            width = *scale as usize
                        )),
                    }
                }
            }
        }
        out
    }
}

impl Piece {
    fn parse(text: &str, names: &[&str]) -> Result<Self, String> {
        let words: Vec<&str> = text.split(' ').collect();
        Ok(match words[..] {
            ["id"] => Self::Id,
            ["time"] => Self::Time,
            ["amount"] => Self::Amount,
            ["int", from, to] => {
                let number = |text: &str| text.parse::<i64>().map_err(|_| format!("<{text}> is no number"));
                let digits = if from.starts_with('0') && from.len() > 1 { from.len() } else { 0 };
                Self::bounded(number(from)?, number(to)?, 0, digits)?
            }
            ["decimal", from, to] => {
                let scale = from.split_once('.').map_or(0, |(_, behind)| behind.len());
                if scale > 9 {
                    return Err(format!("{from} has more than 9 digits behind the point"));
                }
                let number = |text: &str| {
                    let behind = text.split_once('.').map_or(0, |(_, behind)| behind.len());
                    let number = text.replace('.', "").parse::<i64>().ok().filter(|n| *n >= 0 && behind == scale);
                    number.ok_or_else(|| format!("{text} is no decimal of {scale} digits behind the point"))
                };
                Self::bounded(number(from)?, number(to)?, scale as u32, 0)?
            }
            [name] => match names.iter().position(|known| *known == name) {
                Some(index) => Self::Name(index),
                None => {
                    return Err(format!(
                        "<{name}> is not known; there are id, time, int, decimal, {}",
                        names.join(", ")
                    ));
                }
            },
            _ => return Err(format!("<{text}> is not <int FROM TO> or <decimal FROM TO>")),
        })
    }

    fn bounded(from: i64, to: i64, scale: u32, digits: usize) -> Result<Self, String> {
        if from > to {
            return Err(format!("{from} is greater than {to}"));
        }
        Ok(Self::Number { from, to, scale, digits })
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn places_are_filled_and_faults_are_named() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let drawn = Drawn { id: "7", time: "now", amount: "1.50" };
        let text = Text::parse("<id>|<time>|<amount>|<int 0005 0005>|<decimal 2.05 2.05>|<who>", &["who"]).unwrap();
        assert_eq!(text.fill(&mut rng, &drawn, &["me".to_string()]), "7|now|1.50|0005|2.05|me");
        for (text, why) in [
            ("<", "a < without its >"),
            ("<nobody>", "<nobody> is not known; there are id, time, int, decimal, who"),
            ("<int 1>", "<int 1> is not <int FROM TO>"),
            ("<int 5 1>", "5 is greater than 1"),
            ("<decimal 1.0 2.00>", "2.00 is no decimal of 1 digits"),
        ] {
            let told = Text::parse(text, &["who"]).unwrap_err();
            assert!(told.contains(why), "{told}");
        }
    }
}
