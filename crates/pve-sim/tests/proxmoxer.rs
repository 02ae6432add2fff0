//! Python's proxmoxer makes its basic calls against the simulated API daemon: an independent client finds it a fair
//! one. Skipped where proxmoxer is not installed, unless `FLEET_REQUIRE_ORACLES=1`.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::disallowed_methods, reason = "a test may stop")]

use std::{path::Path, process::Command};

use pve_sim::{auth::Token, testing::Sim, world::World};

/// A Python that has proxmoxer: the one on PATH, or that of the tools which CI installs.
fn python() -> Option<String> {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/ci-tools/bin/python");
    let has = |python: &String| {
        Command::new(python)
            .args(["-c", "import proxmoxer, requests"])
            .output()
            .is_ok_and(|o| o.status.success())
    };
    ["python3".to_owned(), tools.display().to_string()].into_iter().find(has)
}

#[test]
fn an_independent_client() {
    let Some(python) = python() else {
        assert!(
            std::env::var_os("FLEET_REQUIRE_ORACLES").is_none_or(|v| v != "1"),
            "proxmoxer is not installed, and FLEET_REQUIRE_ORACLES=1 asks for it: pip install proxmoxer requests"
        );
        println!("skipped: proxmoxer is not installed");
        return;
    };
    let token = Token {
        id: "root@pam!fleet".to_owned(),
        secret: "5f1e4c9a-0b1d-4c5e-8f7a-9d2b6c3e1a00".to_owned(),
        rights: None,
    };
    let sim = Sim::with(World { tokens: vec![token.clone()], ..World::default() });
    // A ticket is a password, too: so it is renewed.
    let (ticket, _) = sim.node().mint_ticket();
    let output = Command::new(python)
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/independent_client.py"))
        .args([&sim.expose_api().to_string(), &ticket, &token.id, &token.secret])
        .env("NO_PROXY", "*")
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}{err}");
    println!("{out}");
}
