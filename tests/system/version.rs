//! What `--version` says. The commit is in release builds only, so the build script is run by
//! itself, in repositories and in folders that are none.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::harness::{folder, ok};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

#[test]
fn version_names_the_features() {
    let version = ok("--version");
    let (first, second) = version.split_once('\n').unwrap();
    assert!(first.starts_with(concat!("tagflow ", env!("CARGO_PKG_VERSION"))), "{version}");
    let features = ["cql-tls", "kafka-tls"].map(|f| second.contains(&format!("+{f}")));
    assert_eq!(features, [cfg!(feature = "cql-tls"), cfg!(feature = "kafka-tls")], "{version}");
    assert_eq!(ok("-V"), format!("{first}\n"));
}

/// Runs the build script in a folder. Returns the version that it sets.
fn version_in(script: &Path, folder: &Path, variables: &[(&str, &str)]) -> String {
    let mut script = Command::new(script);
    script.current_dir(folder).env_remove("TAGFLOW_BUILD_COMMIT").env("PROFILE", "release");
    let output = script.envs(variables.iter().copied()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let version = text.lines().find_map(|l| l.strip_prefix("cargo::rustc-env=TAGFLOW_VERSION="));
    version.unwrap().to_owned()
}

#[test]
fn version_names_the_commit_of_its_own_repository_and_builds_without_one() {
    let folder = folder();
    let (script, repository) = (folder.path().join("script"), folder.path().join("repository"));
    let source = Path::new(ROOT).join("build.rs");
    let rustc = Command::new("rustc")
        .args(["--edition", "2024", "-o"])
        .args([&script, &source])
        .env("CARGO_PKG_VERSION", "1.2.3")
        .status();
    assert!(rustc.unwrap().success());
    fs::create_dir(&repository).unwrap();
    let git = |arguments: &[&str]| {
        let identity = ["-c", "user.name=x", "-c", "user.email=x"];
        let mut git = Command::new("git");
        let output = git.args(identity).args(arguments).current_dir(&repository).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    git(&["init", "--quiet"]);
    git(&["commit", "--quiet", "--allow-empty", "--message", "x"]);
    let head = git(&["rev-parse", "HEAD"]);
    let of = |commit: &str| format!("1.2.3 (commit {})", &commit[..12]);
    for _ in 0..2 {
        assert_eq!(version_in(&script, &repository, &[]), of(&head));
    }
    // A tarball that was unpacked inside another repository, and a system without git.
    let tarball = repository.join("tarball");
    fs::create_dir(&tarball).unwrap();
    assert_eq!(version_in(&script, &tarball, &[]), "1.2.3");
    assert_eq!(version_in(&script, &repository, &[("PATH", "/nonexistent")]), "1.2.3");
    let named = "0123456789abcdef0123456789abcdef01234567";
    assert_eq!(version_in(&script, &tarball, &[("TAGFLOW_BUILD_COMMIT", named)]), of(named));
    let debug = version_in(&script, &repository, &[("PROFILE", "debug")]);
    assert_eq!(debug, "1.2.3 (debug build)");
}
