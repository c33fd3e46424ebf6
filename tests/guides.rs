//! Promises in the guides name the tests that hold them, and these exist.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

const GUIDES: [&str; 8] =
    ["clients", "events", "failures", "faq", "security", "sizing", "tuning", "upgrade"];

fn repo() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every file of these kinds below `dir`.
fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).expect("the directory can be listed");
    let below = |path: PathBuf| if path.is_dir() { files(&path) } else { vec![path] };
    let found = entries.flat_map(|entry| below(entry.expect("an entry").path()));
    let is_code = |path: &PathBuf| path.extension().is_some_and(|it| it == "rs" || it == "go");
    found.filter(is_code).collect()
}

/// Names of tests in Rust and Go.
fn tests() -> BTreeSet<String> {
    let texts = ["src", "tests", "testkit"].map(|dir| files(&repo().join(dir))).concat();
    let mut names = BTreeSet::new();
    for text in texts.iter().map(|path| read(path)) {
        let mut is_test = false;
        for line in text.lines().map(str::trim) {
            let rust = line.strip_prefix("async fn ").or_else(|| line.strip_prefix("fn "));
            let go = line.strip_prefix("func ").filter(|name| name.starts_with("Test"));
            if let Some(name) = go.or(rust.filter(|_| is_test)) {
                names.extend(name.split('(').next().map(str::to_owned));
            }
            is_test = line.starts_with("#[test]") || line.starts_with("#[tokio::test");
        }
    }
    names
}

/// What stands in code marks after the word test, or beside another one.
fn named(text: &str) -> Vec<String> {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut names = Vec::new();
    for (start, word) in ["test `", "tests `"].iter().flat_map(|word| text.match_indices(word)) {
        let mut rest = &text[start + word.len() - 1..];
        while let Some((name, after)) = rest.strip_prefix('`').and_then(|it| it.split_once('`')) {
            names.push(name.to_owned());
            rest = after.strip_prefix(", ").or_else(|| after.strip_prefix(" and ")).unwrap_or("");
        }
    }
    names
}

#[test]
fn each_promise_names_a_test_that_there_is() {
    let tests = tests();
    assert!(tests.len() > 300, "{}", tests.len());
    for guide in GUIDES {
        let text = read(&repo().join(format!("docs/{guide}.md")));
        let named = named(&text);
        let missing: Vec<_> = named.iter().filter(|name| !tests.contains(*name)).collect();
        assert!(missing.is_empty(), "docs/{guide}.md names {missing:?}");
        let paths = text.split('`').filter(|path| path.starts_with("tests/"));
        let missing: Vec<_> = paths.filter(|path| !repo().join(path).exists()).collect();
        assert!(missing.is_empty(), "docs/{guide}.md names {missing:?}");
        assert!(!named.is_empty() || text.contains("`tests/"), "docs/{guide}.md names no test");
    }
}

#[test]
fn links_between_pages_lead_somewhere() {
    let docs = repo().join("docs");
    let pages = fs::read_dir(&docs).expect("docs").map(|entry| entry.expect("an entry").path());
    let pages = pages.filter(|path| path.is_file()).chain([repo().join("README.md")]);
    for page in pages {
        let text = read(&page);
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for target in targets.filter(|target| !target.contains("://") && !target.starts_with('#')) {
            let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
            let path = page.parent().expect("a directory").join(path);
            assert!(path.exists(), "{}: {target}", page.display());
            let heads = || {
                read(&path)
                    .lines()
                    .filter(|line| line.starts_with('#'))
                    .map(slug)
                    .collect::<Vec<_>>()
            };
            assert!(
                anchor.is_empty() || heads().iter().any(|head| head == anchor),
                "{}: {target}",
                page.display()
            );
        }
    }
}

/// As pages are linked to from elsewhere.
fn slug(head: &str) -> String {
    let text = head.trim_start_matches('#').trim().to_lowercase();
    let kept = text.chars().filter(|c| c.is_alphanumeric() || *c == ' ' || *c == '-' || *c == '_');
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn finds_names_in_lists_and_over_line_ends() {
    let text = "(tests `a_b`, `c_d` and\n`TestE`), `not_one`; test\n`f_g` | test `h`";
    assert_eq!(named(text), ["f_g", "h", "a_b", "c_d", "TestE"]);
}
