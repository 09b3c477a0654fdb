//! `tidegate test`: runs golden files beside the views, in memory and without a server.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use clap::Args;
use tidegate_engine::golden::{self, Variation};
use tidegate_engine::store::memory::MemoryStore;

/// Options of `tidegate test`.
#[derive(Debug, Args)]
pub struct Options {
    /// .slt files, or directories of them.
    #[arg(value_name = "FILE|DIR", default_value = "queries")]
    paths: Vec<PathBuf>,
    /// The .sql files whose views are tested; the directory of each .slt file if not given.
    #[arg(long, value_name = "DIR")]
    queries: Option<PathBuf>,
    /// Write what comes out as what is expected; look at the difference before you keep it.
    #[arg(long)]
    accept: bool,
}

/// Runs them; the exit code says whether all answers are the expected ones.
pub fn run(options: &Options) -> ExitCode {
    match test(options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn test(options: &Options) -> Result<bool, String> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|e| e.to_string())?;
    let mut files = Vec::new();
    for path in &options.paths {
        files.extend(golden::files(path).map_err(|error| error.to_string())?);
    }
    if files.is_empty() {
        return Err("there is no .slt file; write one beside your views (docs/testing.md)".to_string());
    }
    let (started, mut failed) = (Instant::now(), 0);
    for file in &files {
        let with = golden::Options {
            queries: queries(options, file),
            variation: Variation::AsWritten,
            store: Arc::new(MemoryStore::default()),
            damage: None,
            runtime: runtime.handle().clone(),
        };
        if options.accept {
            match golden::accept(file, &with) {
                Ok(()) => println!("{}: written", file.display()),
                Err(why) => {
                    failed += 1;
                    println!("{why}");
                }
            }
            continue;
        }
        match golden::run(file, &with) {
            Ok(()) => println!("{}: ok", file.display()),
            Err(difference) => {
                failed += 1;
                println!("{}: DIFFERS\n{difference}", file.display());
            }
        }
    }
    if !options.accept {
        println!("{} passed, {failed} failed, {:.2} s", files.len() - failed, started.elapsed().as_secs_f64());
    }
    Ok(failed == 0)
}

/// The statements that a file starts with: those of its directory, unless others are named.
fn queries(options: &Options, file: &Path) -> Vec<PathBuf> {
    match &options.queries {
        Some(queries) => vec![queries.clone()],
        None => {
            let directory = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let is_sql = |path: &Path| path.extension().is_some_and(|extension| extension == "sql");
            let mut found: Vec<PathBuf> = std::fs::read_dir(directory)
                .into_iter()
                .flatten()
                .flatten()
                .map(|e| e.path())
                .filter(|p| is_sql(p))
                .collect();
            found.sort();
            found
        }
    }
}
