//! The seed of a random test: `TAGFLOW_SEED`, or a new one.
//!
//! Every random test takes its seed from here, so that one variable repeats any of them. A test
//! that fails prints the command that repeats it.

#![allow(clippy::print_stdout, reason = "a test prints how to repeat it")]

use std::env;
use std::hash::{BuildHasher, RandomState};
use std::ops::RangeInclusive;

/// The seed of a test that runs once.
pub fn seed() -> u64 {
    // A short one, since people copy it.
    let seed = number("TAGFLOW_SEED").unwrap_or_else(|| RandomState::new().hash_one(0) >> 44);
    println!("to repeat this test: {}", command(seed));
    seed
}

/// The seeds of a test that runs `otherwise` times: `TAGFLOW_SEEDS` of them, from `TAGFLOW_SEED`.
pub fn seeds(otherwise: u64) -> RangeInclusive<u64> {
    let first = number("TAGFLOW_SEED").unwrap_or(1);
    let count = number("TAGFLOW_SEEDS").unwrap_or(otherwise);
    assert!(count > 0, "TAGFLOW_SEEDS must be at least 1");
    first..=first + (count - 1)
}

/// Prints how to repeat a test with this seed if the test panics.
pub struct Repeat(pub u64);

impl Drop for Repeat {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("to repeat this test: {}", command(self.0));
        }
    }
}

/// The command that runs the current test with a seed.
fn command(seed: u64) -> String {
    let package = env::var("CARGO_PKG_NAME").unwrap_or_else(|_| "PACKAGE".to_owned());
    let thread = std::thread::current();
    // The test harness names a test's thread after it.
    let test = thread.name().filter(|name| *name != "main").unwrap_or("TEST");
    let exe = env::current_exe().unwrap_or_default();
    let stem = exe.file_stem().unwrap_or_default().to_string_lossy();
    let target = stem.rsplit_once('-').map_or(&*stem, |(target, _)| target);
    format!("TAGFLOW_SEED={seed} cargo test -p {package} --test {target} {test}")
}

/// The number in an environment variable, if it is set.
fn number(variable: &str) -> Option<u64> {
    let text = env::var(variable).ok()?;
    let number = text.parse().ok();
    assert!(number.is_some(), "{variable}={text}: it must be a whole number");
    number
}
