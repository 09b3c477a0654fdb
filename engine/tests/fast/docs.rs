//! What the documentation shows must work.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tidegate_engine::golden::{Options, Variation, run};
use tidegate_engine::sql::Catalog;
use tidegate_engine::store::memory::MemoryStore;

fn page(name: &str) -> String {
    let root = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("run by cargo")).join("..");
    std::fs::read_to_string(root.join(name)).unwrap()
}

/// The fenced blocks of a language.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    text.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap_or_default().to_string()).collect()
}

#[test]
fn every_example_of_the_language_is_planned() {
    let examples = [page("docs/sql.md"), page("docs/endpoints.md")]
        .iter()
        .flat_map(|page| blocks(page, "sql"))
        .collect::<Vec<_>>();
    let text = examples.join("\n");
    let catalog = Catalog::of_texts(&[("docs/sql.md".to_string(), text)], |_| None).unwrap_or_else(|e| panic!("{e:?}"));
    assert!(catalog.views.len() >= 12, "only {} views", catalog.views.len());
    for view in &catalog.views {
        assert!(view.explain().contains(&view.summary()), "{}", view.name);
    }
}

#[test]
fn the_example_of_a_golden_file_passes() {
    let examples = blocks(&page("docs/testing.md"), "slt");
    assert_eq!(examples.len(), 1);
    passes("testing", &examples[0]);
}

#[test]
fn the_readmes_view_gives_the_rows_that_it_shows() {
    let readme = page("README.md");
    let source = blocks(&readme, "sql").into_iter().next().unwrap();
    let test = blocks(&readme, "").into_iter().find(|block| block.starts_with("statement ok")).unwrap();
    let statements = source.lines().filter(|line| !line.trim().is_empty()).collect::<Vec<_>>().join("\n");
    passes("readme", &format!("statement ok\n{statements}\n\n{test}"));
}

fn passes(name: &str, text: &str) {
    let file: &Path = &std::env::temp_dir().join(format!("tidegate-docs-{name}-{}.slt", std::process::id()));
    std::fs::write(file, text).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let options = Options {
        queries: Vec::new(),
        variation: Variation::AsWritten,
        store: Arc::new(MemoryStore::default()),
        damage: None,
        runtime: runtime.handle().clone(),
    };
    let outcome = run(file, &options);
    std::fs::remove_file(file).unwrap();
    outcome.unwrap_or_else(|difference| panic!("{difference}"));
}
