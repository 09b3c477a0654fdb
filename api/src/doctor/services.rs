//! Engine and api: whether they answer, which engine owns what, and whether somebody else sits on their ports.

use tidegate_engine::settings::Settings;

use super::database::Known;
use super::finding::Findings;
use crate::neighbour::Neighbour;

/// A lease that was not renewed for so long is that of an engine that has gone.
const LEASE_SECONDS: i64 = 10;

/// Looks at both.
pub fn look(settings: &Settings, known: Option<&Known>, findings: &mut Findings) {
    engine(&settings.engine.listen, known, findings);
    api(&settings.api.listen, &settings.api.token, findings);
}

fn engine(listen: &str, known: Option<&Known>, findings: &mut Findings) {
    let leases = known.map_or(&[][..], |known| &known.leases);
    let mut alive = false;
    for (pipeline, holder, seconds) in leases {
        if *seconds <= LEASE_SECONDS {
            alive = true;
            findings.ok("owner", format!("pipeline {pipeline} is owned by {holder}"));
        } else {
            let found = format!("pipeline {pipeline}: nobody owns it; {holder} was last heard of {seconds} s ago");
            findings.fault("owner", found, "start an engine; its log says why the last one has ended");
        }
    }
    let asked = Neighbour::at(listen, "").get("/readyz");
    match asked {
        Ok((200, text)) if text == "ready\n" => findings.ok("engine", format!("ready at {listen}")),
        Ok((503, text)) if text.contains("pipeline") || text == "ending\n" => {
            let text = text.trim().replace('\n', "; ");
            if alive {
                let found = format!("the engine at {listen} waits, and another owns what it would read: {text}");
                findings.warning("engine", found, "that is right for a standby; runbook: standby-or-fenced-engine");
            } else {
                let found = format!("the engine at {listen} is not ready: {text}");
                findings.fault("engine", found, "its log says why; runbook: engine-not-producing-rows");
            }
        }
        Ok((status, _)) => {
            let found = format!("what answers at {listen} is no engine of ours: status {status}");
            findings.fault("ports", found, "end it, or set engine.listen (--listen) to another port");
        }
        Err(why) if alive => {
            let found = format!("an engine runs elsewhere, and none answers here: {why}");
            findings.warning("engine", found, "name its address: tidegate doctor --engine host:9100");
        }
        Err(why) => {
            findings.fault("engine", format!("none answers: {why}"), "start it; runbook: engine-not-producing-rows");
        }
    }
}

fn api(listen: &str, token: &str, findings: &mut Findings) {
    let asked = Neighbour::at(listen, token).get("/readyz");
    match asked {
        Ok((200, text)) if text.contains("\"ready\"") => findings.ok("api", format!("ready at {listen}")),
        Ok((503, text)) if text.contains("\"ready\"") => {
            findings.fault(
                "api",
                format!("the api at {listen} is not ready: {}", text.trim()),
                "runbook: api-unhealthy",
            );
        }
        Ok((status, _)) => {
            let found = format!("what answers at {listen} is no api of ours: status {status}");
            findings.fault("ports", found, "end it, or set api.listen (--listen) to another port");
        }
        Err(why) => {
            findings.fault("api", format!("none answers: {why}"), "start it: tidegate api; runbook: api-unhealthy")
        }
    }
}
