//! Clocks: that of this machine beside those of the database, the engine and the api.

use tidegate_engine::settings::Settings;
use tidegate_engine::time::clock;

use super::database::Known;
use super::finding::Findings;
use crate::neighbour::Neighbour;

/// Seconds that clocks may be apart before it is worth a thought, and before it is wrong.
const APART: f64 = 5.0;
const WRONG: f64 = 60.0;

/// Looks at all that answer.
pub fn look(settings: &Settings, known: Option<&Known>, findings: &mut Findings) {
    let mut clocks: Vec<(&str, f64)> = Vec::new();
    if let Some(known) = known.filter(|_| !settings.store.url.starts_with("sqlite:")) {
        clocks.push(("Postgres", known.ahead));
    }
    for (name, listen) in [("the engine", &settings.engine.listen), ("the api", &settings.api.listen)] {
        // Whether they answer is another's to say.
        if let Ok(Some(seconds)) = Neighbour::at(listen, "").clock() {
            // It tells whole seconds.
            clocks.push((name, seconds + 0.5 - clock::wall_us() as f64 / 1e6));
        }
    }
    let mut well = true;
    for (name, ahead) in &clocks {
        let apart = format!(
            "the clock of {name} is {:.0} s {} ours",
            ahead.abs(),
            if *ahead < 0.0 { "behind" } else { "ahead of" }
        );
        let todo = "set both by NTP: what is too far in the future is rejected, and ages are told wrong";
        if ahead.abs() > WRONG {
            findings.fault("clock", apart, todo);
        } else if ahead.abs() > APART {
            findings.warning("clock", apart, todo);
        } else {
            continue;
        }
        well = false;
    }
    if well && !clocks.is_empty() {
        let names: Vec<&str> = clocks.iter().map(|(name, _)| *name).collect();
        findings.ok("clock", format!("as those of {}", names.join(", ")));
    }
}
