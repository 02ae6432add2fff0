//! Killed at any moment, the next run completes or takes back, and no secret is ever lost on the way.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "helpers of tests")]

mod common;
#[path = "common/sops.rs"]
mod program;

use std::{
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use common::{Fleet, identity};
use post_provision::sops::decrypt_file;

const SECRETS: [&str; 5] = [
    "secrets/values.yaml",
    "secrets/plain-name",
    "secrets/values.json",
    "secrets/deep/values.ini",
    "secrets/hosts/web/own.yaml",
];

fn start(fleet: &Fleet) -> Child {
    fleet
        .process(&["nas", "--host-key", "new.pub", "--yes"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn killed_at_any_moment_the_next_run_finishes() {
    // How long a whole run takes here, to spread the kills over it.
    let whole = {
        let fleet = Fleet::committed();
        let begin = Instant::now();
        assert!(start(&fleet).wait().unwrap().success());
        begin.elapsed()
    };
    const KILLS: u32 = 12;
    for kill in 0..KILLS {
        let fleet = Fleet::committed();
        let mut child = start(&fleet);
        std::thread::sleep(whole * kill / KILLS);
        child.kill().unwrap();
        child.wait().unwrap();
        finishes(&fleet, &format!("kill {kill}"));
    }
}

/// What holds wherever a run was killed, and after the next one.
fn finishes(fleet: &Fleet, at: &str) {
    // Whatever was reached: the operator opens every secret.
    for secret in SECRETS {
        decrypt_file(&fleet.path(secret), &identity("a")).unwrap_or_else(|e| panic!("{at}, {secret}: {e:?}"));
    }
    // A git that the killed run had started may still be at it.
    let mut left = 50;
    let said = loop {
        let output = fleet.tool(&["nas", "--host-key", "new.pub", "--yes"]).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        if output.status.success() {
            break said;
        }
        left -= 1;
        assert!(output.status.code() == Some(9) && left > 0, "{at}: {said}");
        std::thread::sleep(Duration::from_millis(20));
    };
    for secret in &SECRETS[..4] {
        decrypt_file(&fleet.path(secret), &identity("c")).unwrap_or_else(|e| panic!("{at}: {e:?}\n{said}"));
    }
    decrypt_file(&fleet.path(SECRETS[4]), &identity("c")).unwrap_err();
    assert_eq!(fleet.git(&["status", "--porcelain"]), "", "{at}: {said}");
    assert_eq!(fleet.git(&["rev-list", "--count", "HEAD"]), "2\n", "{at}: {said}");
    assert!(fleet.add(&[]).contains("Nothing to do"), "{at}");
}

/// strace kills it at the n-th of each kind of call that changes something, for every n that there is.
#[test]
fn killed_at_each_call_that_changes_something() {
    let Some(strace) = program::oracle("strace", "apt-get install strace") else { return };
    let mut command = assert_cmd::Command::new(&strace);
    if !command.args(["-o", "/dev/null", "true"]).output().unwrap().status.success() {
        assert!(!program::required(), "strace may not trace here, and FLEET_REQUIRE_ORACLES=1 asks for it");
        println!("skipped: strace may not trace here");
        return;
    }
    for (call, least) in [("rename", 9), ("unlink", 9), ("fchmod", 7), ("fsync", 2)] {
        let mut kills = 0;
        loop {
            let fleet = Fleet::committed();
            let mut command = fleet.program(&strace, &["-o", "/dev/null", "-e"]);
            let inject = format!("inject={call}:signal=SIGKILL:when={}", kills + 1);
            command.args([&format!("trace={call}"), "-e", &inject, env!("CARGO_BIN_EXE_post-provision-vm")]);
            if command.args(["nas", "--host-key", "new.pub", "--yes"]).output().unwrap().status.success() {
                break;
            }
            kills += 1;
            assert!(kills < 100, "it never comes to an end");
            finishes(&fleet, &format!("{call} {kills}"));
        }
        assert!(kills >= least, "only {kills} calls of {call}");
    }
}
