//! Where every record of the demo went; the demo fails if one is missing, or if nothing moved that should have.

use std::collections::HashSet;
use std::sync::atomic::Ordering;

use tidegate_engine::store::status::{PipelineStatus, Status, ViewStatus};

use super::generator::Written;

/// So many records of a kind, and at least one must have ended where its kind ends.
const ENOUGH: u64 = 10;

/// Prints the accounts, and fails if one does not hold. `source` is the one that was written to; what was written late is
/// late for the `lateable` views.
pub fn account(status: &Status, lateable: &HashSet<String>, source: &str, written: &Written) -> Result<(), String> {
    let records = written.records.load(Ordering::Relaxed);
    let mut wrong = Vec::new();
    println!("accounting, {records} records written:");
    for pipeline in &status.pipelines {
        let ours = (pipeline.pipeline == source).then_some(written);
        account_source(pipeline, ours, &mut wrong);
        for view in status.views.iter().filter(|view| view.pipeline == pipeline.pipeline) {
            account_view(view, pipeline, ours, lateable.contains(&view.view), &mut wrong);
        }
    }
    if records == 0 {
        wrong.push("nothing was written: give it more time".to_string());
    } else if !status.pipelines.iter().any(|pipeline| pipeline.pipeline == source) {
        wrong.push(format!("source {source}: nothing was committed"));
    }
    if wrong.is_empty() {
        println!("demo: every record is accounted for");
        return Ok(());
    }
    Err(wrong.join("; "))
}

fn account_source(p: &PipelineStatus, written: Option<&Written>, wrong: &mut Vec<String>) {
    let name = &p.pipeline;
    println!("  source {name}: read {} = decoded {} + rejected {}", p.read, p.decoded, p.rejected);
    if p.read != p.decoded + p.rejected {
        wrong.push(format!("source {name}: the terms do not add up"));
    }
    let Some(written) = written else { return };
    let (records, broken) = (written.records.load(Ordering::Relaxed), written.broken.load(Ordering::Relaxed));
    if p.read.unsigned_abs() != records {
        wrong.push(format!("source {name}: {records} records were written"));
    }
    // A source that declares less than the example's takes some of what is broken.
    if p.rejected.unsigned_abs() > broken || (broken > ENOUGH && p.rejected == 0) {
        wrong.push(format!("source {name}: {broken} records were broken"));
    }
    if p.decoded == 0 && records > broken {
        wrong.push(format!("source {name}: nothing was decoded"));
    }
}

fn account_view(
    view: &ViewStatus,
    p: &PipelineStatus,
    written: Option<&Written>,
    lateable: bool,
    wrong: &mut Vec<String>,
) {
    let (name, c) = (&view.view, &view.counts);
    println!(
        "  view {name}: decoded {} = filtered {} + accepted {} + late {} + failed {}",
        c.decoded, c.filtered, c.accepted, c.late, c.failed
    );
    if c.decoded != c.filtered + c.accepted + c.late + c.failed || c.decoded != p.decoded {
        wrong.push(format!("view {name}: the terms do not add up"));
    }
    let Some(written) = written else { return };
    let late = written.late.load(Ordering::Relaxed);
    if (c.decoded > c.filtered && c.accepted == 0) || (lateable && late > ENOUGH && c.late == 0) {
        wrong.push(format!("view {name}: a term that should move is zero"));
    }
}
