//! Cross-checks with the genuine sops: what it made and we wrapped anew, it opens, finds up to date, and gives the
//! same values of. Without sops on PATH these say that they were skipped; with `FLEET_REQUIRE_ORACLES=1` they fail.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "helpers of tests")]

mod common;
#[path = "common/sops.rs"]
mod program;

use common::{Fleet, fixture, identity, recipient};
use post_provision::{
    recipient::Recipient,
    rules::Rules,
    sops::{SecretFile, decrypt_file},
};
use program::{decrypt, run, sops};

/// Files and the types that they are given to sops as.
const FILES: [(&str, &str); 8] = [
    ("values.yaml", "yaml"),
    ("documents.yaml", "yaml"),
    ("indented.yaml", "yaml"),
    ("some.yaml", "yaml"),
    ("values.env", "dotenv"),
    ("values.json", "json"),
    ("values.ini", "ini"),
    ("raw", "binary"),
];

#[test]
fn sops_opens_what_we_wrapped_and_calls_it_up_to_date() {
    let Some(sops) = sops() else { return };
    let dir = tempfile::tempdir().unwrap();
    let rules = format!("creation_rules:\n  - age: {},{}\n", recipient("a"), recipient("c"));
    std::fs::write(dir.path().join(".sops.yaml"), rules).unwrap();
    for (name, kind) in FILES {
        let path = dir.path().join(name);
        let before = fixture(name);
        std::fs::write(&path, &before).unwrap();
        let values = decrypt(&sops, dir.path(), "b", name, kind).unwrap();

        let file = SecretFile::parse(&before).unwrap().unwrap();
        let openers = [identity("b")];
        let (key, _) = file.data_key(&openers).unwrap();
        let wrap = |who: &str| key.wrap(&recipient(who).parse::<Recipient>().unwrap()).unwrap();
        let after = file.with_entries(&[wrap("a"), wrap("c")]).unwrap();
        std::fs::write(&path, &after).unwrap();

        for reader in ["a", "c"] {
            assert_eq!(
                decrypt(&sops, dir.path(), reader, name, kind).unwrap(),
                values,
                "{name} for {reader}"
            );
        }
        let refused = decrypt(&sops, dir.path(), "b", name, kind).unwrap_err();
        assert!(refused.contains("Failed to get the data key"), "{name}: {refused}");
        let output = run(&sops, dir.path(), "a", &["updatekeys", "--yes", "--input-type", kind, name]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && said.contains("already up to date"), "{name}: {said}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), after, "{name}");
    }
}

/// A private key, of the seed that is nothing but zeros.
const PRIVATE: &str = "AGE-SECRET-KEY-1QQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQZZZZZZ";

/// The rules that sops reads are those that we read, and no others are edited.
#[test]
fn rules_that_sops_refuses_are_refused_here() {
    let Some(sops) = sops() else { return };
    let dir = tempfile::tempdir().unwrap();
    let (file, key) = (dir.path().join(".sops.yaml"), recipient("a"));
    std::fs::write(dir.path().join("plain.yaml"), "a: 1\n").unwrap();
    let rule = |rest: &str| format!("creation_rules:\n  - path_regex: .*\n    age: {key}\n{rest}");
    let all = [
        (true, rule("")),
        (true, rule("    mac_only_encrypted: yes\n    encrypted_regex: 1\n    of_our_own: [a]\n")),
        (true, rule("stores: {yaml: {indent: 4}}\ncreation_rule: 1\n")),
        (true, rule("---\ncreation_rules: 1\n")),
        (true, format!("%YAML 1.1\n---\n{}", rule(""))),
        (true, format!("creation_rules:\n- key_groups:\n  - age: [\n    {key}\n  ]\n    pgp:\n")),
        (true, rule("").replace(".*", r"\Qplain.\E|{a,b}|[[]|[a-z--9]$")),
        (true, format!("\u{feff}---\n{}", rule(""))),
        (true, format!("creation_rules:\n  - age:\n      - '{key}, {key}'\n")),
        (true, format!("creation_rules:\n  - key_groups: [{{age: [{key}, ~, '']}}]\n")),
        (true, rule("    mac_only_encrypted: Off\n    shamir_threshold: 1\n")),
        (false, format!("creation_rules:\n  - age: [{key}, ~]\n")),
        (false, format!("creation_rules:\n  - age: [{key}, '']\n")),
        (false, format!("creation_rules:\n  - age: [{key}, 1]\n")),
        (false, format!("creation_rules:\n  - age: [{key}, true]\n")),
        (false, rule("    mac_only_encrypted: oFF\n")),
        (false, rule("    mac_only_encrypted: 'true'\n")),
        (false, rule("    shamir_threshold: '1'\n")),
        (false, rule("    {a: b}: c\n")),
        (false, rule("    ? [a]\n    : c\n")),
        (false, rule("").replace(".*", "(?=a)")),
        (false, format!("creation_rules:\n  - age: {PRIVATE}\n")),
        (false, format!("%YAML 1.2\n---\n{}", rule(""))),
        (false, rule("    age: a\n")),
        (false, rule("    encrypted_regex: [a]\n")),
        (false, rule("    shamir_threshold: two\n")),
        (false, rule("    mac_only_encrypted: 1\n")),
        (false, rule("    hckms: a\n")),
        (false, rule("    key_groups: [{age: a}]\n")),
        (false, rule("    key_groups: [{kms: [arn]}]\n")),
        (false, rule("    key_groups: [{merge: {}}]\n")),
        (false, rule("    <<: a\n")),
        (false, rule("\t\n")),
        (false, rule("keys: [*nobody]\n")),
        (false, rule("stores: 1\n")),
        (false, rule("destination_rules: a\n")),
        (false, rule("creation_rules: []\n")),
    ];
    for (reads, text) in all {
        std::fs::write(&file, &text).unwrap();
        let output = run(&sops, dir.path(), "a", &["encrypt", "plain.yaml"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.success(), reads, "{text}: {said}");
        let ours = Rules::parse(&text, &file);
        assert_eq!(ours.is_ok(), reads, "{text}: {ours:?}");
    }
}

#[test]
fn our_layout_is_the_one_that_updatekeys_writes() {
    let Some(sops) = sops() else { return };
    let dir = tempfile::tempdir().unwrap();
    let rules = format!("creation_rules:\n  - age: {},{}\n", recipient("a"), recipient("c"));
    std::fs::write(dir.path().join(".sops.yaml"), rules).unwrap();
    for (name, kind) in FILES {
        // INI keys come in any order, of the indentation sops forgets what the rules once said, and to binary files
        // it adds a setting.
        if kind == "ini" || kind == "binary" || name == "indented.yaml" {
            continue;
        }
        let path = dir.path().join(name);
        std::fs::write(&path, fixture(name)).unwrap();
        assert!(
            run(&sops, dir.path(), "a", &["updatekeys", "--yes", "--input-type", kind, name])
                .status
                .success()
        );
        let theirs = SecretFile::load(&path).unwrap().unwrap();
        assert_eq!(theirs.recipients().collect::<Vec<_>>(), [recipient("a"), recipient("c")], "{name}");
        // With the entries that sops made we write what sops wrote, to the byte.
        let ours =
            SecretFile::parse(&fixture(name)).unwrap().unwrap().with_entries(&theirs.metadata.age).unwrap();
        assert_eq!(ours, theirs.text(), "{name}");
    }
}

#[test]
fn the_new_host_reads_its_secrets_with_sops() {
    let Some(sops) = sops() else { return };
    let fleet = Fleet::committed();
    fleet.add(&[]);
    let secrets = fleet.path("secrets");
    for (name, kind) in [
        ("values.yaml", "yaml"),
        ("plain-name", "dotenv"),
        ("values.json", "json"),
        ("deep/values.ini", "ini"),
    ] {
        decrypt(&sops, &secrets, "c", name, kind).unwrap_or_else(|e| panic!("{name}: {e}"));
        let output = run(&sops, &secrets, "a", &["updatekeys", "--yes", "--input-type", kind, name]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && said.contains("already up to date"), "{name}: {said}");
    }
    decrypt(&sops, &secrets, "c", "hosts/web/own.yaml", "yaml").unwrap_err();
    decrypt(&sops, &secrets, "b", "hosts/web/own.yaml", "yaml").unwrap();
}

#[test]
fn values_are_the_ones_that_sops_reads() {
    let Some(sops) = sops() else { return };
    let dir = tempfile::tempdir().unwrap();
    for (name, kind) in [("values.yaml", "yaml"), ("values.json", "json")] {
        std::fs::write(dir.path().join(name), fixture(name)).unwrap();
        let output =
            run(&sops, dir.path(), "a", &["decrypt", "--input-type", kind, "--output-type", "json", name]);
        let theirs: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let ours = decrypt_file(&dir.path().join(name), &identity("a")).unwrap();
        assert!(!ours.values.is_empty());
        for value in &ours.values {
            let mut node = &theirs;
            for key in &value.path {
                node = key
                    .parse::<usize>()
                    .ok()
                    .and_then(|at| node.get(at))
                    .unwrap_or_else(|| &node[key.as_str()]);
            }
            let text = node.as_str().map_or_else(|| node.to_string(), str::to_owned);
            assert_eq!(value.text.as_str(), text, "{name} {:?}", value.path);
        }
    }
}

#[test]
fn key_groups_go_through_sops_itself() {
    let Some(sops) = sops() else { return };
    let fleet = Fleet::committed();
    fleet.write(
        "secrets/.sops.yaml",
        &format!(
            "keys:\n  - &operator {a}\n  - &web {}\ncreation_rules:\n  - path_regex: shared\n    shamir_threshold: 2\n    key_groups:\n      - age: [*operator]\n      - age: [*operator, *web]\n  - age: {a}\n",
            recipient("b"),
            a = recipient("a"),
        ),
    );
    std::fs::remove_dir_all(fleet.path("secrets/hosts")).unwrap();
    for (name, kind, text) in [
        ("shared.yaml", "yaml", "# about\na: canary-shared\n"),
        ("shared.env", "dotenv", "A=canary-shared\n"),
        ("shared.json", "json", "{\"a\": \"canary-shared\"}"),
        ("shared.ini", "ini", "[s]\na = canary-shared\n"),
    ] {
        fleet.write(&format!("secrets/{name}"), text);
        let output =
            run(&sops, &fleet.path("secrets"), "a", &["encrypt", "--in-place", "--input-type", kind, name]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(!fleet.read(&format!("secrets/{name}")).contains("canary"));
    }
    for name in ["values.yaml", "plain-name", "values.json", "deep/values.ini"] {
        std::fs::remove_file(fleet.path("secrets").join(name)).unwrap();
    }
    fleet.git(&["add", "-A"]);
    fleet.git(&["commit", "-qm", "groups"]);
    let snapshot = fleet.snapshot();
    // Without the program every such file is named and nothing changes.
    let mut command = fleet.tool(&["nas", "--host-key", "new.pub", "--yes"]);
    let git = std::env::split_paths(&std::env::var_os("PATH").unwrap())
        .find(|dir| dir.join("git").is_file())
        .unwrap();
    let bin = fleet.path("../bin-without-sops");
    let bin = tempfile::tempdir_in(bin.parent().unwrap()).unwrap();
    std::os::unix::fs::symlink(git.join("git"), bin.path().join("git")).unwrap();
    command.env("PATH", bin.path());
    let said = common::fails(command, 1);
    for name in ["shared.yaml", "shared.env", "shared.json", "shared.ini", "install sops"] {
        assert!(said.contains(name), "{name} in {said}");
    }
    assert_eq!(fleet.snapshot(), snapshot);

    let said = fleet.add(&[]);
    assert!(said.contains("✓ Changed 7 files"), "{said}");
    assert!(
        fleet.read("secrets/.sops.yaml").contains("- age: [*operator]\n      - age: [*operator, *web, *nas]")
    );
    for (name, kind) in
        [("shared.yaml", "yaml"), ("shared.env", "dotenv"), ("shared.json", "json"), ("shared.ini", "ini")]
    {
        let plain =
            decrypt(&sops, &fleet.path("secrets"), "a", name, kind).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(String::from_utf8_lossy(&plain).contains("canary-shared"), "{name}");
        assert!(fleet.read(&format!("secrets/{name}")).contains(&recipient("c")), "{name}");
    }
    assert!(fleet.add(&[]).contains("Nothing to do"));
}
