//! What the tests of `vms/lib.nix` share.
#![allow(dead_code, reason = "each test file uses its part")]

use std::path::Path;

use fleet_core::{
    child::{Command, find_program},
    deadline::Deadline,
};
use serde_json::Value;

pub(crate) fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// The value of a Nix expression in which `vms` is the library over the definitions at `definitions`. Without
/// Nix the test fails in CI and is skipped elsewhere.
pub(crate) fn by_nix(definitions: &Path, expression: &str) -> Option<Value> {
    let Some(nix) = find_program("nix-instantiate") else {
        assert!(
            std::env::var_os("FLEET_REQUIRE_ORACLES").is_none_or(|v| v != "1"),
            "nix-instantiate is not installed, and FLEET_REQUIRE_ORACLES=1 asks for it"
        );
        eprintln!("skipped: nix-instantiate is not installed");
        return None;
    };
    let library = root().join("vms/lib.nix").canonicalize().unwrap();
    let text = format!(
        "let vms = import {} {{ definitions = import {}; }}; in {expression}",
        library.display(),
        definitions.canonicalize().unwrap().display()
    );
    let store = tempfile::tempdir().unwrap();
    let output = Command::new(nix)
        .env("NIX_STATE_DIR", store.path())
        .args(["--eval", "--strict", "--json", "--readonly-mode", "-E", &text])
        .output(Deadline::secs(60))
        .unwrap();
    Some(serde_json::from_str(&output.checked().unwrap().stdout_text()).unwrap())
}

/// A managed VM with nothing wrong, but for what `more` adds and `instead` says otherwise.
pub(crate) fn managed(name: &str, more: &str) -> String {
    format!("managed.{name} = {{ vmid = 110; cores = 1; memory = 512; disk = \"1G\"; {more} }};")
}

/// A definition file's text: sections besides the usual ones.
pub(crate) fn definitions(sections: &str) -> String {
    format!(
        r#"{{
          proxmox = {{ host = "prom"; defaultStorage = "local"; }};
          imported.doc1 = {{ vmid = 104; }};
          template = {{ vmid = 9002; name = "template"; }};
          vmidRanges.containers = {{ start = 200; end = 299; }};
          vmidRanges.templates = {{ start = 9000; end = 9999; }};
          {sections}
        }}"#
    )
}
