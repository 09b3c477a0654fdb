//! What two hundred who mean harm do to the commits: refused texts and endless queries, all at once, while an engine takes in
//! events of now.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tidegate_bench::local::hostile::{heavy, list};
use tidegate_bench::local::{Kafka, Postgres};

use crate::engine::Api;
use crate::latency;
use crate::load::Load;
use crate::queries::Queries;
use crate::report::Run;

/// Those who ask at a time, and for how long.
const CLIENTS: usize = 200;
const ASKING: Duration = Duration::from_secs(30);

/// Each rests so long after an answer, as `Retry-After` says.
const PAUSE: Duration = Duration::from_secs(1);

/// Longer than they ask, and than the last of them may run.
const LOAD: Load = Load { rate: 5_000, seconds: 45 };
const TIMEOUT_MS: &str = "5000";

/// How often it is looked for commits.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// What they were told.
const TOLD: [(&str, &str); 6] = [
    ("2", "answered"),
    ("429", "as many run and wait as may"),
    ("504", "too long"),
    ("503", "ended"),
    ("4", "refused"),
    ("", "failed"),
];

/// One run.
pub fn run(kafka: &Kafka, postgres: &Postgres, database: &str, queries: &Queries) -> Result<Run, String> {
    let counts: [AtomicU64; TOLD.len()] = Default::default();
    let (engine, ()) = latency::beside(kafka, postgres, database, queries, LOAD, LOOK_EVERY, |url| {
        let api = Api::start(queries, url, &[("TIDEGATE__ADHOC__TIMEOUT_MS", TIMEOUT_MS)])?;
        // As many of the one kind as of the other.
        let refused: Vec<String> = list().into_iter().map(|(_, text, ..)| text).collect();
        let heavy = heavy();
        let texts: Vec<&String> = refused.iter().zip(heavy.iter().cycle()).flat_map(|(a, b)| [a, b]).collect();
        let until = Instant::now() + ASKING;
        std::thread::scope(|scope| {
            for client in 0..CLIENTS {
                let (api, texts, counts) = (&api, &texts, &counts);
                scope.spawn(move || {
                    for text in texts.iter().cycle().skip(client) {
                        if Instant::now() > until {
                            break;
                        }
                        let told = api.ask(text).err().unwrap_or_else(|| "200".to_string());
                        let index = TOLD.iter().position(|(status, _)| told.starts_with(status)).unwrap_or_default();
                        counts[index].fetch_add(1, Ordering::Relaxed);
                        std::thread::sleep(PAUSE);
                    }
                });
            }
        });
        Ok(())
    })?;
    let counts = counts.map(|count| count.into_inner());
    let told: Vec<String> = TOLD.iter().zip(counts).map(|((_, what), count)| format!("{count} {what}")).collect();
    println!("  {} asked: {}", counts.iter().sum::<u64>(), told.join(", "));
    if counts[TOLD.len() - 1] > 0 || counts[2] == 0 || counts[4] == 0 {
        return Err(format!("they were not told what they should be: {}", told.join(", ")));
    }
    Ok(engine)
}
