//! A record of our own: written to the topic, and told in its window, once.

use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use sqlx::{AssertSqlSafe, PgConnection, Row};
use tidegate_engine::kafka::producer::Producer;

use super::Checked;
use crate::generate::events::time;
use crate::generate::template::{Drawn, Probe, Template};

/// Millionths of a decimal, which are exact.
fn millionths(text: &str) -> Checked<i128> {
    let (sign, digits) = text.strip_prefix('-').map_or((1, text), |rest| (-1, rest));
    let (whole, behind) = digits.split_once('.').unwrap_or((digits, ""));
    let number = format!("{whole}{behind:0<6}").parse::<i128>().ok().filter(|_| behind.len() <= 6);
    number.map(|number| sign * number).ok_or_else(|| format!("{text:?} is no decimal of at most 6 digits"))
}

/// Records of which the arrival can be told.
pub struct Probing<'a> {
    pub template: &'a Template,
    pub probe: &'a Probe,
    pub producer: &'a Producer,
    pub patience: Duration,
}

impl Probing<'_> {
    /// The count and the sum that the probe's query tells now.
    async fn told(&self, database: &mut PgConnection) -> Checked<(i128, i128)> {
        let row = sqlx::query(AssertSqlSafe(self.probe.sql.clone())).fetch_one(database).await;
        let row = row.map_err(|error| format!("the probe's query fails: {error}"))?;
        let number = |column: usize| -> Checked<i128> {
            let text: String = row.try_get(column).map_err(|error| format!("the probe's query: {error}"))?;
            millionths(&text)
        };
        Ok((number(0)?, number(1)?))
    }

    /// Writes one with a fresh id and amount, and waits until it is told, exactly, and once.
    pub async fn arrives_once(&self, database: &mut PgConnection) -> Checked<String> {
        let id = uuid::Uuid::new_v4();
        let cents = 100 + i128::from(id.as_bytes()[0]) * 7;
        let amount = format!("{}.{:02}", cents / 100, cents % 100);
        let before = self.told(database).await?;
        let (now, id) = (time(chrono::Utc::now().timestamp_millis()), id.to_string());
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        let drawn = Drawn { id: &id, time: &now, amount: &amount };
        let record = self.template.probe_record(self.probe, &mut rng, &drawn);
        let (sent, expected) = (Instant::now(), (before.0 + 1_000_000, before.1 + cents * 10_000));
        self.producer.send(self.probe.key.as_bytes(), record.as_bytes()).map_err(|error| error.to_string())?;
        self.producer.flush(self.patience).map_err(|error| error.to_string())?;
        let wrong = |what: &str, found: (i128, i128)| {
            format!("record {id} {what}: expected {expected:?} (millionths of count and sum), found {found:?}")
        };
        loop {
            let found = self.told(database).await?;
            if found == expected {
                break;
            }
            if found != before {
                return Err(wrong("is not told as it should", found));
            }
            if sent.elapsed() > self.patience {
                return Err(format!("record {id} did not arrive within {:?}", self.patience));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let took = sent.elapsed();
        // Long enough for many commits: it must not be added again.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let later = self.told(database).await?;
        if later != expected {
            return Err(wrong("was counted again", later));
        }
        Ok(format!("a record worth {amount} arrived in its window after {} ms, once", took.as_millis()))
    }
}
