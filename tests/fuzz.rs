//! What the fuzzer tries, for as many inputs as a second or two allows: the corpora, and what
//! comes of them by small changes.

#[allow(unreachable_pub)] // It is a library to the fuzzer.
#[path = "../fuzz/src/lib.rs"]
mod bodies;

use rand::{Rng, SeedableRng, rngs::StdRng};
use std::{fs, path::Path, time::Duration};
use tokio::time::Instant;

const TIME: Duration = Duration::from_secs(2);

/// However fast the machine is, and however slow.
const INPUTS: std::ops::RangeInclusive<usize> = 200..=100_000;

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let entries = fs::read_dir(dir).expect("there is a corpus");
    let mut files: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    files.iter().map(|file| fs::read(file).expect("it can be read")).collect()
}

/// One input with a few bytes changed, lost, repeated, or taken from another one.
fn changed(random: &mut StdRng, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = corpus[random.random_range(0..corpus.len())].clone();
    for _ in 0..random.random_range(1..6) {
        let at = random.random_range(0..=bytes.len());
        match random.random_range(0..5) {
            0 if at < bytes.len() => bytes[at] = random.random(),
            1 if at < bytes.len() => bytes[at] ^= 1 << random.random_range(0..8),
            2 => bytes.truncate(at),
            3 => bytes.insert(at, random.random()),
            _ => {
                let other = &corpus[random.random_range(0..corpus.len())];
                let start = random.random_range(0..=other.len());
                let end = random.random_range(start..=other.len());
                bytes.splice(at..at, other[start..end].iter().copied());
            }
        }
    }
    bytes
}

fn run(name: &str) {
    let (_, target) = bodies::TARGETS.iter().find(|(known, _)| *known == name).expect("a target");
    let corpus = corpus(name);
    corpus.iter().for_each(|bytes| target(bytes));
    let mut random = StdRng::seed_from_u64(1);
    let end = Instant::now() + TIME;
    for number in 0..*INPUTS.end() {
        if number >= *INPUTS.start() && Instant::now() >= end {
            break;
        }
        let bytes = changed(&mut random, &corpus);
        let tried = std::panic::catch_unwind(|| target(&bytes));
        assert!(tried.is_ok(), "{name} fails at {number}: {}", bytes.escape_ascii());
    }
}

#[test]
fn wire() {
    run("wire");
}

#[test]
fn keys() {
    run("keys");
}

#[test]
fn config() {
    run("config");
}

#[test]
fn http2() {
    run("http2");
}
