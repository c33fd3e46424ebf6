//! Modules use only those of layers below their own.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The layers of `src/lib.rs` from the top. Modules of one layer do not know each other.
const LAYERS: [&[&str]; 12] = [
    &["cli"],
    &["app"],
    &["config"],
    &["admin", "listener"],
    &["rpc"],
    &["pipeline"],
    &["access", "attribution"],
    &["mirror"],
    &["paging"],
    &["admission", "coalesce", "routing", "upstream"],
    &["drain", "handover", "telemetry", "worker"],
    &["etcd", "grpc", "sabotage", "tls"],
];

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).expect("the sources can be read")
}

/// Every Rust file below `dir`.
fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).expect("the sources can be listed");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    let below = |path: PathBuf| if path.is_dir() { files(&path) } else { vec![path] };
    let found = paths.into_iter().flat_map(below);
    found.filter(|path| path.extension().is_some_and(|extension| extension == "rs")).collect()
}

/// The module of the library that a file belongs to; that of the file's own name or its directory's.
fn module_of(file: &Path) -> String {
    let relative = file.strip_prefix(src()).expect("below src");
    let first = relative.components().next().expect("a name");
    first.as_os_str().to_string_lossy().trim_end_matches(".rs").to_owned()
}

/// Modules that are named after `crate::`, each with its line.
fn uses(text: &str) -> Vec<(usize, String)> {
    // A comment is blanked rather than dropped, so that lines keep their numbers.
    let code: String = text
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default().to_owned() + "\n")
        .collect();
    let mut found = Vec::new();
    for (start, path) in code.match_indices("crate::") {
        let at = start + path.len();
        let names = match code[at..].strip_prefix('{') {
            Some(_) => in_braces(&code, at + 1),
            None => vec![(at, identifier(&code[at..]))],
        };
        let line = |offset| code[..offset].matches('\n').count() + 1;
        found.extend(names.into_iter().map(|(offset, name)| (line(offset), name.to_owned())));
    }
    found
}

/// The first names of the paths in `{...}`, whose inside starts at `start`.
fn in_braces(code: &str, start: usize) -> Vec<(usize, &str)> {
    let (mut depth, mut begins, mut names) = (0, true, Vec::new());
    for (offset, byte) in code.bytes().enumerate().skip(start) {
        match byte {
            b'{' => depth += 1,
            b'}' if depth == 0 => break,
            b'}' => depth -= 1,
            b',' if depth == 0 => begins = true,
            _ if begins && byte.is_ascii_alphabetic() => {
                names.push((offset, identifier(&code[offset..])));
                begins = false;
            }
            _ => {}
        }
    }
    names
}

fn identifier(code: &str) -> &str {
    let end = code.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(code.len());
    &code[..end]
}

#[test]
fn modules_use_only_lower_layers() {
    let mut wrong = Vec::new();
    for file in files(&src()) {
        let from = module_of(&file);
        // The roots of the library and of the program are above all.
        let Some(own) = layer(&from) else { continue };
        for (line, to) in uses(&read(&file)) {
            let lower = layer(&to).is_some_and(|used| used > own);
            if to != from && !lower {
                wrong.push(format!("{}:{line}: {from} uses {to}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "not a layer below:\n{}", wrong.join("\n"));
}

#[test]
fn every_module_has_its_layer() {
    let lib = read(&src().join("lib.rs"));
    let declared = lib.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'));
    let mut declared: Vec<_> = declared.collect();
    let mut known: Vec<_> = LAYERS.iter().copied().flatten().copied().collect();
    declared.sort_unstable();
    known.sort_unstable();
    assert_eq!(declared, known);
}

#[test]
fn finds_what_a_file_uses() {
    let text = "use crate::{\n    etcd::{self, wire},\n    grpc, // crate::app\n};\nfn f() -> crate::tls::Error {}\n";
    let found = uses(text);
    let found: Vec<_> = found.iter().map(|(line, name)| (*line, name.as_str())).collect();
    assert_eq!(found, [(2, "etcd"), (3, "grpc"), (5, "tls")]);
}
