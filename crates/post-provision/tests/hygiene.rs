//! No plaintext, data key or private key is printed, written or given to a program as an argument: looked for in
//! everything that a run prints and leaves, and, while it runs, in every process's argument list, the temporary
//! directory and the journal.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;
#[path = "common/sops.rs"]
mod program;

use std::{
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use base64ct::{Base64, Base64UrlUnpadded, Encoding};
use common::{Fleet, fixtures, host_key, recipient};
use post_provision::sops::SecretFile;

fn private(name: &str) -> String {
    let text = std::fs::read_to_string(fixtures().join(format!("identity-{name}-TEST-FIXTURE.txt"))).unwrap();
    text.lines().find(|line| line.starts_with("AGE-SECRET-KEY-1")).unwrap().to_owned()
}

/// A file's data key, by age alone.
fn data_key(file: &Path) -> Vec<u8> {
    let file = SecretFile::load(file).unwrap().unwrap();
    let a: age::x25519::Identity = private("a").parse().unwrap();
    let entry = file.metadata.age.iter().find(|entry| entry.recipient == recipient("a")).unwrap();
    age::decrypt(&a, entry.enc.as_bytes()).unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

type Seen = std::collections::HashSet<Vec<u8>>;

fn append(dir: &Path, seen: &mut Seen) {
    for entry in walkdir::WalkDir::new(dir).into_iter().filter_map(Result::ok) {
        if let Ok(bytes) = std::fs::read(entry.path()) {
            seen.insert(entry.path().as_os_str().as_encoded_bytes().to_vec());
            seen.insert(bytes);
        }
    }
}

/// Runs the tool and gives all that could be seen of it meanwhile and afterwards.
fn watched(fleet: &Fleet, mut command: assert_cmd::Command, code: i32) -> Seen {
    let temporary = tempfile::tempdir().unwrap();
    let journal = fleet.path(".git/fleet");
    command.env("TMPDIR", temporary.path());
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut seen = Seen::new();
            let me = std::process::id().to_string();
            while !over.load(Ordering::Acquire) {
                for entry in std::fs::read_dir("/proc").unwrap().filter_map(Result::ok) {
                    // The test itself is called as its caller likes.
                    if entry.file_name() != me.as_str()
                        && let Ok(line) = std::fs::read(entry.path().join("cmdline"))
                    {
                        seen.insert(line);
                    }
                }
                append(temporary.path(), &mut seen);
                append(&journal, &mut seen);
            }
            seen
        });
        let output = command.output().unwrap();
        over.store(true, Ordering::Release);
        let mut seen = watcher.join().unwrap();
        assert_eq!(output.status.code(), Some(code), "{}", String::from_utf8_lossy(&output.stderr));
        seen.extend([output.stdout, output.stderr]);
        append(temporary.path(), &mut seen);
        append(fleet.root(), &mut seen);
        append(fleet.home(), &mut seen);
        seen
    })
}

fn contains(seen: &Seen, text: &[u8]) -> bool {
    seen.iter().any(|one| one.windows(text.len()).any(|window| window == text))
}

/// Every spelling of what must not be seen.
fn canaries(fleet: &Fleet, files: &[&str]) -> Vec<(String, Vec<u8>)> {
    let mut all: Vec<(String, Vec<u8>)> =
        ["canary-yaml", "canary dotenv", "canary-json", "canary-ini", "canary-shared"]
            .iter()
            .map(|text| ((*text).to_owned(), text.as_bytes().to_vec()))
            .collect();
    for name in ["a", "b", "c"] {
        all.push((format!("identity {name}"), private(name).into_bytes()));
        all.push((format!("identity {name}, in lower case"), private(name).to_lowercase().into_bytes()));
    }
    for file in files {
        let key = data_key(&fleet.path(file));
        all.push((format!("data key of {file}"), key.clone()));
        all.push((format!("data key of {file} in hex"), hex(&key).into_bytes()));
        all.push((format!("data key of {file} in base64"), Base64::encode_string(&key).into_bytes()));
        all.push((
            format!("data key of {file} in base64url"),
            Base64UrlUnpadded::encode_string(&key).into_bytes(),
        ));
    }
    all
}

fn none_in(seen: &Seen, canaries: &[(String, Vec<u8>)]) {
    for (what, bytes) in canaries {
        assert!(!contains(seen, bytes), "{what} was seen");
    }
}

#[test]
fn no_secret_is_ever_written_or_said() {
    let fleet = Fleet::committed();
    let canaries = canaries(
        &fleet,
        &["secrets/values.yaml", "secrets/plain-name", "secrets/values.json", "secrets/deep/values.ini"],
    );
    let mut arguments = false;
    for (args, code) in [
        (&["nas", "--host-key", "new.pub", "--dry-run", "--verbose"][..], 0),
        (&["nas", "--host-key", "new.pub", "--yes", "--verbose"], 0),
        (&["secrets", "--check", "--verbose", "--json"], 0),
        (&["remove", "nas", "--yes", "--json"], 0),
    ] {
        let mut command = fleet.tool(args);
        // By the environment, and by a command: what it prints is nobody's business either.
        let file = fixtures().join("identity-a-TEST-FIXTURE.txt");
        command.env_remove("SOPS_AGE_KEY_FILE").env("SOPS_AGE_KEY", private("b"));
        command.env("SOPS_AGE_KEY_CMD", format!("cat '{}'", file.display()));
        let seen = watched(&fleet, command, code);
        none_in(&seen, &canaries);
        assert!(contains(&seen, host_key("c").as_bytes()), "it looked at what it should");
        arguments |= contains(&seen, b"post-provision-vm\0");
    }
    assert!(arguments, "and at argument lists");
    // What does fail says nothing either.
    let mut command = fleet.tool(&["nas", "--host-key", "new.pub", "--yes", "--verbose"]);
    command.env("SOPS_AGE_KEY_FILE", fixtures().join("identity-c-TEST-FIXTURE.txt"));
    none_in(&watched(&fleet, command, 1), &canaries);
}

#[test]
fn not_through_sops_either() {
    let Some(sops) = program::sops() else { return };
    let fleet = Fleet::new();
    std::fs::remove_dir_all(fleet.path("secrets")).unwrap();
    // An SSH key as it is: nothing that we wrap ourselves.
    let rules = format!("creation_rules:\n  - age: >-\n      {},\n      {}\n", recipient("a"), host_key("b"));
    fleet.write("secrets/.sops.yaml", &rules);
    fleet.write("secrets/shared.yaml", "a: canary-shared\n");
    let output = program::run(&sops, &fleet.path("secrets"), "a", &["encrypt", "--in-place", "shared.yaml"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    fleet.git(&["init", "-q", "-b", "main"]);
    fleet.git(&["add", "-A"]);
    fleet.git(&["commit", "-qm", "groups"]);
    let seen = watched(&fleet, fleet.tool(&["nas", "--host-key", "new.pub", "--yes", "--verbose"]), 0);
    none_in(&seen, &canaries(&fleet, &[]));
    assert!(contains(&seen, b"updatekeys\0"), "sops was seen at work");
    assert!(contains(&seen, recipient("c").as_bytes()));
}
