//! The faults of `make sabotage`: each still applies to the sources, and names a test that there is.

use std::path::{Path, PathBuf};

fn repository() -> PathBuf {
    Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").expect("run by cargo")).join("..")
}

fn faults() -> Vec<(String, String)> {
    let entries = std::fs::read_dir(repository().join("engine/tests/sabotage")).unwrap().flatten();
    let read = |path: PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        (name, std::fs::read_to_string(path).unwrap())
    };
    entries.map(|entry| read(entry.path())).collect()
}

/// What a hunk replaces: its context, and the lines that go.
fn replaced(patch: &str) -> Vec<(String, String)> {
    let (mut file, mut hunks) = (String::new(), Vec::<(String, String)>::new());
    for line in patch.lines() {
        if let Some(path) = line.strip_prefix("--- a/") {
            file = path.to_string();
        } else if line.starts_with("@@") {
            hunks.push((file.clone(), String::new()));
        } else if let (Some(hunk), Some(old)) = (hunks.last_mut(), line.strip_prefix([' ', '-']))
            && !line.starts_with("---")
        {
            hunk.1.push_str(old);
            hunk.1.push('\n');
        }
    }
    hunks
}

#[test]
fn every_fault_applies_to_the_sources() {
    let faults = faults();
    assert!(faults.len() >= 12, "there are {} faults", faults.len());
    for (name, patch) in faults {
        let hunks = replaced(&patch);
        assert!(!hunks.is_empty(), "{name} changes nothing");
        for (file, old) in hunks {
            let text = std::fs::read_to_string(repository().join(&file)).unwrap_or_default();
            assert_eq!(text.matches(&old).count(), 1, "{name}: {file} has not, or not once:\n{old}");
        }
    }
}

#[test]
fn every_fault_says_what_it_breaks_and_names_a_test() {
    for (name, patch) in faults() {
        let head = |key: &str| patch.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
        assert!(head("Breaks: ").is_some_and(|words| words.len() > 20), "{name} does not say what it breaks");
        let caught_by = head("Caught-by: ").unwrap_or_else(|| panic!("{name} names no test"));
        let (suite, module, test) = caught_by
            .split_once(' ')
            .and_then(|(suite, path)| path.rsplit_once("::").map(|(module, test)| (suite, module, test)))
            .unwrap_or_else(|| panic!("{name}: {caught_by} is no test"));
        let krate = if suite == "fast" { "engine" } else { "api" };
        let folder = repository().join(krate).join("tests").join(suite);
        let place = module.replace("::", "/");
        let text = [format!("{place}.rs"), format!("{place}/mod.rs")]
            .iter()
            .find_map(|file| std::fs::read_to_string(folder.join(file)).ok())
            .unwrap_or_default();
        assert!(text.contains(&format!("#[test]\nfn {test}()")), "{name}: there is no test {caught_by}");
    }
}
