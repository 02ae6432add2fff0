//! Killed at any moment, the next run completes or takes back, and no secret is ever lost on the way.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::{
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use common::{Fleet, fixtures, identity};
use post_provision::sops::decrypt_file;

const SECRETS: [&str; 5] = [
    "secrets/values.yaml",
    "secrets/plain-name",
    "secrets/values.json",
    "secrets/deep/values.ini",
    "secrets/hosts/web/own.yaml",
];

#[expect(clippy::disallowed_methods, reason = "it has to be killed, which assert_cmd does not do")]
fn start(fleet: &Fleet) -> Child {
    std::process::Command::new(env!("CARGO_BIN_EXE_post-provision-vm"))
        .args(["new", "--host-key", "new.pub", "--yes"])
        .current_dir(fleet.root())
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("HOME", fleet.home())
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_AUTHOR_NAME", "Somebody")
        .env("GIT_AUTHOR_EMAIL", "somebody@example.org")
        .env("GIT_COMMITTER_NAME", "Somebody")
        .env("GIT_COMMITTER_EMAIL", "somebody@example.org")
        .env("SOPS_AGE_KEY_FILE", fixtures().join("identity-a-TEST-FIXTURE.txt"))
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
        // Whatever was reached: the operator opens every secret.
        for secret in SECRETS {
            decrypt_file(&fleet.path(secret), &identity("a"))
                .unwrap_or_else(|e| panic!("kill {kill}, {secret}: {e:?}"));
        }
        // A git that the killed run had started may still be at it.
        let mut left = 50;
        let said = loop {
            let output = fleet.tool(&["new", "--host-key", "new.pub", "--yes"]).output().unwrap();
            let said = String::from_utf8(output.stderr).unwrap();
            if output.status.success() {
                break said;
            }
            left -= 1;
            assert!(output.status.code() == Some(9) && left > 0, "kill {kill}: {said}");
            std::thread::sleep(Duration::from_millis(20));
        };
        for secret in &SECRETS[..4] {
            decrypt_file(&fleet.path(secret), &identity("c"))
                .unwrap_or_else(|e| panic!("kill {kill}: {e:?}\n{said}"));
        }
        decrypt_file(&fleet.path(SECRETS[4]), &identity("c")).unwrap_err();
        assert_eq!(fleet.git(&["status", "--porcelain"]), "", "kill {kill}: {said}");
        assert_eq!(fleet.git(&["rev-list", "--count", "HEAD"]), "2\n", "kill {kill}: {said}");
        assert!(fleet.add(&[]).contains("Nothing to do"), "kill {kill}");
    }
}
