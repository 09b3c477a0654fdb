//! stub smoke
use std::process::ExitCode;
/// Options
#[derive(Debug, clap::Args)]
pub struct Options {}
/// run
pub fn run(_: Option<&std::path::Path>, _: &Options) -> ExitCode {
    ExitCode::SUCCESS
}
