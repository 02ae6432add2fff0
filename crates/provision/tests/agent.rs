//! The fleet's key is in the agent only, or behind a passphrase: the installer has a key of its own.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a test stops at the first surprise, starts programs itself and says what it skips"
)]

mod common;

use std::process::{Child, Command, Stdio};

use common::Bench;
use pve_sim::log::What;

/// OpenSSH's agent; ended when dropped.
struct Agent {
    child: Child,
    socket: std::path::PathBuf,
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill().and_then(|()| self.child.wait());
    }
}

/// An agent; nothing where there is no program for it, which CI does not forgive.
fn agent(bench: &Bench) -> Option<Agent> {
    let socket = bench.sim.dir().join("agent");
    let started = Command::new("ssh-agent")
        .args(["-D", "-a"])
        .arg(&socket)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let Ok(child) = started else {
        assert!(std::env::var_os("FLEET_REQUIRE_ORACLES").is_none(), "ssh-agent is missing");
        println!("skipped: there is no ssh-agent");
        return None;
    };
    let agent = Agent { child, socket };
    for _ in 0..500 {
        // Its socket has a name before it takes connections.
        if std::os::unix::net::UnixStream::connect(&agent.socket).is_ok() {
            return Some(agent);
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("the agent never listened");
}

#[test]
fn a_key_that_only_the_agent_has_is_enough() {
    let bench = Bench::new();
    let Some(agent) = agent(&bench) else { return };
    let identity = bench.sim.identity();
    let with_agent = |command: &mut Command| {
        command.env("SSH_AUTH_SOCK", &agent.socket).env_remove("FLEET_IDENTITY");
    };
    let added = Command::new("ssh-add").arg(&identity).env("SSH_AUTH_SOCK", &agent.socket).output().unwrap();
    assert!(added.status.success(), "{added:?}");
    // sops' own key stays where it is; as an SSH key it is behind a passphrase now.
    let locked =
        Command::new("ssh-keygen").args(["-q", "-p", "-N", "secret", "-f"]).arg(&identity).output().unwrap();
    assert!(locked.status.success(), "{locked:?}");
    let mut command = bench.command(&["test-automation", "--yes", "--integrate", "never"]);
    with_agent(&mut command);
    let output = command.output().unwrap();
    let seen = bench.seen(&output);
    assert!(output.status.success(), "{seen}");
    // What nixos-anywhere logged in with is no key of the fleet's.
    let logins = bench.sim.requests();
    assert!(logins.iter().any(|r| matches!(&r.what, What::GuestLogin { accepted: true, .. })), "{logins:?}");

    // Without the agent nothing is begun, and the way out is said.
    let other = Bench::new();
    let locked = Command::new("ssh-keygen")
        .args(["-q", "-p", "-N", "secret", "-f"])
        .arg(other.sim.identity())
        .output()
        .unwrap();
    assert!(locked.status.success(), "{locked:?}");
    let output = other.command(&["test-automation", "--yes"]).output().unwrap();
    let seen = other.seen(&output);
    assert!(!output.status.success(), "{seen}");
    assert!(seen.contains("is protected by a passphrase") || seen.contains("needs a passphrase"), "{seen}");
    assert_eq!(other.sim.changes(), [] as [String; 0]);
}
