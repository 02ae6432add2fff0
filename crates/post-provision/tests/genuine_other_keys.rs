//! Keys that are not ours to handle, by the genuine sops and gpg: PGP, SSH keys as they are, groups with a threshold,
//! a key service that does not answer.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "helpers of tests")]

mod common;
#[path = "common/sops.rs"]
mod program;

use std::path::{Path, PathBuf};

use common::{Fleet, fails, host_key, recipient};
use program::{decrypt, oracle, run, sops};

const KINDS: [(&str, &str, &str); 4] = [
    ("s.yaml", "yaml", "# about\na: canary-shared\n"),
    ("s.env", "dotenv", "A=canary-shared\n"),
    ("s.json", "json", "{\"a\": \"canary-shared\"}"),
    ("s.ini", "ini", "[s]\na = canary-shared\n"),
];

/// A committed fleet with these rules, and a secret of each format that sops made under `first`.
fn fleet(sops: &Path, first: &str, rules: &str, environment: &[(&str, PathBuf)]) -> Fleet {
    let fleet = Fleet::new();
    std::fs::remove_dir_all(fleet.path("secrets")).unwrap();
    fleet.write("secrets/.sops.yaml", first);
    for (name, kind, text) in KINDS {
        fleet.write(&format!("secrets/{name}"), text);
        let mut command = assert_cmd::Command::new(sops);
        command.current_dir(fleet.path("secrets")).env("SOPS_DISABLE_VERSION_CHECK", "true");
        command.envs(environment.iter().map(|(name, value)| (name, value)));
        command.args(["encrypt", "--in-place", "--input-type", kind, name]).assert().success();
    }
    fleet.write("secrets/.sops.yaml", rules);
    fleet.git(&["init", "-q", "-b", "main"]);
    fleet.git(&["add", "-A"]);
    fleet.git(&["commit", "-qm", "start"]);
    fleet
}

fn up_to_date(sops: &Path, fleet: &Fleet) {
    for (name, kind, _) in KINDS {
        let output =
            run(sops, &fleet.path("secrets"), "a", &["updatekeys", "--yes", "--input-type", kind, name]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("already up to date"), "{name}: {said}");
    }
}

/// A directory with a key pair for each name, and their fingerprints.
fn gpg_home(gpg: &Path, names: &[&str]) -> (tempfile::TempDir, Vec<String>) {
    let home = tempfile::tempdir().unwrap();
    std::fs::set_permissions(home.path(), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let run = |args: &[&str]| {
        let mut command = assert_cmd::Command::new(gpg);
        let output = command.env("GNUPGHOME", home.path()).args(args).assert().success().get_output().clone();
        String::from_utf8(output.stdout).unwrap()
    };
    let mut fingerprints = Vec::new();
    for name in names {
        run(&[
            "--batch",
            "--quiet",
            "--passphrase",
            "",
            "--quick-gen-key",
            name,
            "default",
            "default",
            "never",
        ]);
        let listed = run(&["--list-keys", "--with-colons", &format!("={name}")]);
        let line = listed.lines().find(|line| line.starts_with("fpr:")).unwrap();
        fingerprints.push(line.split(':').nth(9).unwrap().to_owned());
    }
    (home, fingerprints)
}

/// Ends the agent that gpg started for this home.
fn end_agent(home: &Path) {
    let _ = assert_cmd::Command::new("gpgconf").env("GNUPGHOME", home).args(["--kill", "all"]).output();
}

#[test]
fn pgp_keys_beside_age_keys() {
    let (Some(sops), Some(gpg)) = (sops(), oracle("gpg", "apt-get install gnupg")) else { return };
    let (home, keys) = gpg_home(&gpg, &["Joe <joe@example.org>", "Ann <ann@example.org>"]);
    let rules = |pgp: &str| {
        format!(
            "keys:\n  - &admin_joe {pgp}\n  - &op {}\n  - &web {}\ncreation_rules:\n  - key_groups:\n    - pgp:\n      - *admin_joe\n      age:\n      - *op\n      - *web\n",
            recipient("a"),
            recipient("b")
        )
    };
    let environment = [("GNUPGHOME", home.path().to_owned())];
    let fleet = fleet(&sops, &rules(&keys[0]), &rules(&keys[0]), &environment);
    let tool = |args: &[&str]| {
        let mut command = fleet.tool(args);
        command.env("GNUPGHOME", home.path());
        command
    };
    tool(&["nas", "--host-key", "new.pub", "--yes"]).assert().success();
    assert!(fleet.read("secrets/.sops.yaml").ends_with("      - *web\n      - *nas\n"));
    up_to_date(&sops, &fleet);
    for (name, kind, _) in KINDS {
        for reader in ["a", "b", "c"] {
            let plain = decrypt(&sops, &fleet.path("secrets"), reader, name, kind).unwrap();
            assert!(String::from_utf8_lossy(&plain).contains("canary-shared"), "{name} for {reader}");
        }
        assert!(fleet.read(&format!("secrets/{name}")).contains(&keys[0]), "{name}");
    }
    // With nothing but the PGP key, the host goes again.
    let mut command = tool(&["remove", "nas", "--yes"]);
    command.env_remove("SOPS_AGE_KEY_FILE").assert().success();
    up_to_date(&sops, &fleet);
    for (name, kind, _) in KINDS {
        decrypt(&sops, &fleet.path("secrets"), "c", name, kind).unwrap_err();
    }
    // Another fingerprint in the rule is a difference like any other.
    tool(&["secrets", "--check"]).assert().success();
    fleet.write("secrets/.sops.yaml", &rules(&keys[1]));
    fleet.git(&["commit", "-qam", "Ann for Joe"]);
    let listed = tool(&["secrets", "--check"]).assert().code(2).get_output().clone();
    let listed = String::from_utf8(listed.stdout).unwrap();
    for (name, _, _) in KINDS {
        let expected = format!("secrets/{name}\n  + pgp {}\n  - pgp {}\n", keys[1], keys[0]);
        assert!(listed.contains(&expected), "{listed}");
    }
    tool(&["secrets", "--yes"]).assert().success();
    for (name, _, _) in KINDS {
        let text = fleet.read(&format!("secrets/{name}"));
        assert!(text.contains(&keys[1]) && !text.contains(&keys[0]), "{name}");
    }
    up_to_date(&sops, &fleet);
    end_agent(home.path());
}

#[test]
fn a_key_service_that_does_not_answer() {
    let Some(sops) = sops() else { return };
    let age = format!("creation_rules:\n  - age: {},{}\n", recipient("a"), recipient("b"));
    let arn = "arn:aws:kms:us-east-1:000000000000:key/00000000-0000-0000-0000-000000000000";
    let fleet = fleet(&sops, &age, &format!("{age}    kms: {arn}\n"), &[]);
    let snapshot = fleet.snapshot();
    let mut command = fleet.tool(&["nas", "--host-key", "new.pub", "--yes"]);
    command
        .env("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .env("AWS_ACCESS_KEY_ID", "nobody")
        .env("AWS_SECRET_ACCESS_KEY", "nothing")
        .env("AWS_MAX_ATTEMPTS", "1");
    let said = fails(command, 1);
    assert!(
        said.contains("4 secrets can not be wrapped anew") && said.contains("nothing was changed"),
        "{said}"
    );
    for (name, _, _) in KINDS {
        assert!(said.contains(&format!("secrets/{name}: sops would not change its keys")), "{name}: {said}");
    }
    assert!(said.contains(arn), "{said}");
    assert_eq!(fleet.snapshot(), snapshot);
    let listed = fleet.tool(&["secrets", "--check"]).assert().code(2).get_output().clone();
    assert!(String::from_utf8(listed.stdout).unwrap().contains(&format!("secrets/s.env\n  + kms {arn}\n")));
}

#[test]
fn a_threshold_over_groups() {
    let Some(sops) = sops() else { return };
    let rules = |first: &str, second: &str| {
        format!(
            "creation_rules:\n  - shamir_threshold: 2\n    key_groups:\n    - age: [{first}]\n    - age: [{second}]\n    - age:\n      - {}\n      # hosts end here\n",
            recipient("b")
        )
    };
    // An operator who holds two of the three shares: the fixtures' `a`, and host web's key as a second one.
    let (a, other) = (recipient("a"), "age1lggyhqrw2nlhcxprm67z43rta597azn8gknawjehu9d9dl0jq3yqqvfafg");
    let fleet = fleet(&sops, &rules(&a, other), &rules(&a, other), &[]);
    let both = ["a", "b"].map(|name| {
        std::fs::read_to_string(common::fixtures().join(format!("identity-{name}-TEST-FIXTURE.txt"))).unwrap()
    });
    let tool = |args: &[&str]| {
        let mut command = fleet.tool(args);
        command.env_remove("SOPS_AGE_KEY_FILE").env("SOPS_AGE_KEY", both.join("\n"));
        command
    };
    // One share is not enough; nothing changes.
    let snapshot = fleet.snapshot();
    let said = fails(fleet.tool(&["nas", "--host-key", "new.pub", "--yes"]), 1);
    assert!(said.contains("secrets/s.yaml: sops would not change its keys"), "{said}");
    assert_eq!(fleet.snapshot(), snapshot);
    tool(&["nas", "--host-key", "new.pub", "--yes"]).assert().success();
    up_to_date(&sops, &fleet);
    // The host's key is one share of two: it opens nothing alone.
    for (name, kind, _) in KINDS {
        assert!(fleet.read(&format!("secrets/{name}")).contains(&recipient("c")), "{name}");
        decrypt(&sops, &fleet.path("secrets"), "c", name, kind).unwrap_err();
    }
    // The same keys in other groups are a difference.
    let now = fleet.read("secrets/.sops.yaml");
    let swapped = now.replace(&a, "FIRST").replace(other, &a).replace("FIRST", other);
    fleet.write("secrets/.sops.yaml", &swapped);
    fleet.git(&["commit", "-qam", "swapped"]);
    let listed = tool(&["secrets", "--check"]).assert().code(2).get_output().clone();
    let listed = String::from_utf8(listed.stdout).unwrap();
    for (name, _, _) in KINDS {
        assert!(listed.contains(&format!("secrets/{name}\n  the same keys in other groups\n")), "{listed}");
    }
    tool(&["secrets", "--yes"]).assert().success();
    up_to_date(&sops, &fleet);
    tool(&["secrets", "--check"]).assert().success();
    let answer = tool(&["remove", "nas", "--yes", "--json"]).assert().success().get_output().clone();
    let answer: serde_json::Value = serde_json::from_slice(&answer.stdout).unwrap();
    assert_eq!(answer["mustBeRotated"].as_array().unwrap().len(), 4, "shares count as access");
    up_to_date(&sops, &fleet);
}

#[test]
fn ssh_keys_as_they_are() {
    let Some(sops) = sops() else { return };
    let rules = format!(
        "creation_rules:\n  - age: >-\n      {},\n      {} root@web\n",
        recipient("a"),
        host_key("b")
    );
    let fleet = fleet(&sops, &rules, &rules, &[]);
    fleet.tool(&["secrets", "--check"]).assert().success();
    fleet.add(&[]);
    up_to_date(&sops, &fleet);
    for (name, kind, _) in KINDS {
        for reader in ["a", "c"] {
            decrypt(&sops, &fleet.path("secrets"), reader, name, kind).unwrap();
        }
        assert!(fleet.read(&format!("secrets/{name}")).contains(&host_key("b")), "{name}");
    }
    assert!(fleet.add(&[]).contains("Nothing to do"));
}
