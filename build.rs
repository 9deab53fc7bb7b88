//! What `tagflow --version` says: the commit and the features that it is built from.
//!
//! Invariants: the same sources at the same commit give the same text, and a build needs neither
//! git nor a repository: a tarball has no commit, unless `TAGFLOW_BUILD_COMMIT` says which it was.

use std::env;
use std::path::Path;
use std::process::Command;

/// The digits of a commit that are shown.
const DIGITS: usize = 12;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=TAGFLOW_BUILD_COMMIT");
    let is_release = env::var("PROFILE").is_ok_and(|profile| profile == "release");
    // With the commit in it, a debug build would be out of date after every commit.
    let head: fn() -> Option<String> = if is_release { commit } else { || None };
    let named = env::var("TAGFLOW_BUILD_COMMIT").ok().filter(|commit| !commit.is_empty());
    let origin = match named.or_else(head) {
        Some(commit) => format!(" (commit {})", commit.chars().take(DIGITS).collect::<String>()),
        None if is_release => String::new(),
        None => " (debug build)".to_owned(),
    };
    let features = ["cql-tls", "kafka-tls"].map(|feature| {
        let variable = format!("CARGO_FEATURE_{}", feature.to_uppercase().replace('-', "_"));
        format!("{}{feature}", if env::var_os(variable).is_some() { '+' } else { '-' })
    });
    println!("cargo::rustc-env=TAGFLOW_VERSION={}{origin}", env!("CARGO_PKG_VERSION"));
    println!("cargo::rustc-env=TAGFLOW_FEATURES={}", features.join(" "));
}

/// The commit that is checked out here. A repository around a tarball is not its own.
fn commit() -> Option<String> {
    if !Path::new(".git").exists() {
        return None;
    }
    // The files that change with the commit: the head, what it refers to, and packed references.
    let branch = git(&["symbolic-ref", "--quiet", "HEAD"]);
    for name in ["HEAD", "packed-refs"].into_iter().chain(branch.as_deref()) {
        let path = git(&["rev-parse", "--git-path", name]).filter(|path| Path::new(path).exists());
        path.into_iter().for_each(|path| println!("cargo::rerun-if-changed={path}"));
    }
    git(&["rev-parse", "HEAD"])
}

/// What git prints, if it is there and has an answer.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}
