//! The whole repository, checked without a connection.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod common;

use std::{os::unix::fs::PermissionsExt, process::Stdio};

use common::{Bench, until};
use insta::assert_snapshot;
use rustix::process::{Pid, Signal, kill_process};

fn check(bench: &Bench) -> String {
    let output = bench.run(&["check"]);
    assert_eq!(bench.sim.connections(), 0);
    bench.seen(&output)
}

#[test]
fn the_example_fleet_is_valid() {
    assert_snapshot!("valid", check(&Bench::new()));
}

#[test]
fn faults_of_both_files_are_shown_at_their_place() {
    let bench = Bench::new();
    bench.fleet.edit("vms/definitions.nix", "memory = 4096;", "memory = 256;");
    bench.fleet.edit(
        "vms/definitions.nix",
        "nixosConfig = \"test-automation\"",
        "nixosConfig = \"test-automaton\"",
    );
    bench.fleet.edit("hosts.nix", "homeFile = ./hosts/doc1/home.nix;", "homeFile = ./hosts/doc1/hmoe.nix;");
    assert_snapshot!("faults", check(&bench));
}

#[test]
fn rules_and_inventory_that_are_behind_are_faults() {
    let bench = Bench::new();
    bench.fleet.edit("secrets/.sops.yaml", "          - *igp\n", "");
    bench.fleet.edit(
        "vms/definitions.nix",
        "purpose = \"Testing automated provisioning\"",
        "purpose = \"Other\"",
    );
    assert_snapshot!("behind", check(&bench));
}

#[test]
fn broken_rules_are_a_fault() {
    let bench = Bench::new();
    bench.fleet.edit("secrets/.sops.yaml", "creation_rules:", "creation_rules: [");
    let seen = check(&bench);
    assert!(seen.starts_with("exit code: 1\n"), "{seen}");
    assert!(seen.contains("secrets/.sops.yaml"), "{seen}");
}

#[test]
fn faults_of_every_file_are_told_in_one_run() {
    let bench = Bench::new();
    bench.fleet.edit("vms/definitions.nix", "cores = ", "coress = ");
    bench.fleet.edit("secrets/.sops.yaml", "creation_rules:", "creation_rules: [");
    let seen = check(&bench);
    assert!(seen.starts_with("exit code: 1\n"), "{seen}");
    assert!(seen.contains("coress") && seen.contains("secrets/.sops.yaml"), "{seen}");
}

#[test]
fn secrets_of_a_definition_that_lead_nowhere_are_a_fault() {
    let bench = Bench::new();
    bench.fleet.edit("vms/definitions.nix", "cores = 2;", "cores = 2; secrets = [ \"comon.yaml\" ];");
    assert_snapshot!("chosen", check(&bench));
}

#[test]
fn secrets_that_no_rule_governs_are_a_fault() {
    let bench = Bench::new();
    bench.fleet.edit("secrets/.sops.yaml", "creation_rules:", "creation_rules: []\nold_rules:");
    let seen = check(&bench);
    assert!(seen.starts_with("exit code: 1\n"), "{seen}");
    assert!(seen.contains("no rule governs secrets/"), "{seen}");
}

#[test]
fn every_fault_has_its_place() {
    let bench = Bench::new();
    bench.fleet.edit("vms/definitions.nix", "memory = 4096;", "memory = 4096");
    bench.fleet.edit("hosts.nix", "hostname = \"thinkpad\";", "hostname = thinkpad;");
    bench.fleet.edit("secrets/.sops.yaml", "creation_rules:", "creation_rules: [");
    assert_snapshot!("placed", check(&bench));
    let output = bench.run(&["--json", "--quiet", "check"]);
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let faults = answer["error"]["details"].as_array().unwrap();
    let places: Vec<String> = faults
        .iter()
        .map(|f| format!("{}:{}:{}", f["file"].as_str().unwrap(), f["line"], f["column"]))
        .collect();
    assert_eq!(places, ["hosts.nix:45:16", "secrets/.sops.yaml:12:3", "vms/definitions.nix:54:12"]);
    assert!(faults.iter().all(|f| f["snippet"].is_string()), "{answer}");
}

#[test]
fn an_error_of_evaluation_hides_no_other_fault() {
    let bench = Bench::new();
    let text = |vms: &str| format!("managed = {{\n{vms}\n    ");
    let broken = r#"    web = { vmid = 111; cores = 2; memory = 1 + "a"; disk = "20"; install = "none"; };
    db = { vmid = 111; cores = 2; memory = lots; disk = "20G"; install = "none"; };
    mail = { vmid = 112; cores = throw "ask Ann"; memory = 256; disk = "20G"; install = "none"; };"#;
    bench.fleet.edit("vms/definitions.nix", "managed = {", &text(broken));
    bench.fleet.edit("hosts.nix", "hostname = \"thinkpad\";", "hostname = thinkpad;");
    bench.fleet.edit("hosts.nix", "sshAlias = \"igp\";", "sshAlias = 3;");
    bench.fleet.edit("hosts.nix", "homeFile = ./hosts/doc1/home.nix;", "homeFile = import ./nowhere.nix;");
    assert_snapshot!("evaluated", check(&bench));
    let output = bench.run(&["--json", "--quiet", "check"]);
    assert_eq!(output.status.code(), Some(1));
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let faults = answer["error"]["details"].as_array().unwrap();
    let paths: Vec<_> = faults.iter().map(|fault| fault["path"].as_str().unwrap()).collect();
    let of_vms = ["managed.web.memory", "managed.web.disk", "managed.db.vmid", "managed.db.memory"];
    let of_hosts = ["doc1.homeFile", "igp.sshAlias", "thinkpad.hostname"];
    let wanted = [&of_hosts[..], &of_vms[..], &["managed.mail.cores", "managed.mail.memory"]].concat();
    assert_eq!(paths, wanted, "{answer:#}");
    assert!(faults.iter().all(|fault| fault["line"].is_u64() && fault["snippet"].is_string()), "{answer:#}");
    // What is right in such a file is not acted on.
    let output = bench.run(&["plan", "test-automation"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(bench.sim.connections(), 0);
}

#[test]
fn likely_mistakes_in_hosts_are_faults() {
    let bench = Bench::new();
    bench.fleet.edit("hosts.nix", "hostname = \"igpu\";", "hostName = \"igpu\";");
    bench.fleet.edit(
        "hosts.nix",
        "AAAAC3NzaC1lZDI1NTE5AAAAIGqmBvY8g+/GV17q56UYCmD9jOxIDq0TmSc7K+u4wB7L root@thinkpad",
        "AAAAC3NzaC1lZDI1NTE5AAAAIFgJbGZrsBEeRIA6LPuES08tiHfwujHsftm+n3YYE4pw",
    );
    bench.fleet.edit(
        "hosts.nix",
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGpqqbAlm7gbQP0gWvxD3B0v9r1opv8K3S+WIul5JR3e root@igp",
        "ssh-ed25519 AAAAnotakey",
    );
    assert_snapshot!("doubts", check(&bench));
}

#[test]
fn what_is_the_owners_own_in_hosts_is_no_fault() {
    let bench = Bench::new();
    let placeholder = "sshAlias = \"igp\";\n    ssh_key = \"x\"; users = [ \"a\" ]; publicKeys = [ ]; home = ./.; system = \"x86_64-linux\";";
    bench.fleet.edit("hosts.nix", "sshAlias = \"igp\";", placeholder);
    bench.fleet.edit(
        "hosts.nix",
        "AAAAC3NzaC1lZDI1NTE5AAAAIGpqqbAlm7gbQP0gWvxD3B0v9r1opv8K3S+WIul5JR3e root@igp",
        "AAAAPLACEHOLDER",
    );
    let seen = check(&bench);
    assert!(!seen.contains("hosts.nix:"), "{seen}");
}

#[test]
fn a_host_with_the_key_of_another_in_the_rules_is_a_fault() {
    let bench = Bench::new();
    let other = "age1rsfj5yzud973mu3jdarsjznuk478deknq3jtfqhffrdwpu6k5d5spsl5df";
    bench.fleet.edit("secrets/.sops.yaml", &format!("&igp {other}"), "&igp age1zzz");
    bench.fleet.edit(
        "secrets/.sops.yaml",
        "age1krft2zq7ldcwwg43rkf7s4xygl9m3jxtcvmgh5mm2k65mnd8ufys4080zs",
        other,
    );
    assert_snapshot!("keys", check(&bench));
}

#[test]
fn an_age_key_of_a_hosts_own_is_no_fault() {
    let bench = Bench::new();
    let operator = "age1hx2am6r0q9g7yuwxqjm7sqr0hfxhuhckelksphkjcmyuw83tt36qfa0w8z";
    bench.fleet.edit(
        "secrets/.sops.yaml",
        "\ncreation_rules:",
        &format!("  - &host_igp {operator}\n\ncreation_rules:"),
    );
    let seen = check(&bench);
    assert!(seen.starts_with("exit code: 0\n"), "{seen}");
    assert!(seen.contains("⚠ secrets/.sops.yaml:9:15: not the key that igp's publicKey gives"), "{seen}");
}

#[test]
fn a_damaged_secret_is_told_with_its_place_and_no_text() {
    let bench = Bench::new();
    let text = bench.fleet.read("secrets/common.yaml");
    bench.fleet.write("secrets/common.yaml", &format!("<<<<<<< HEAD\n{text}"));
    let output = bench.run(&["--json", "--quiet", "check"]);
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let fault = &answer["error"]["details"][0];
    assert_eq!(fault["file"], "secrets/common.yaml", "{answer}");
    assert!(fault["line"].is_u64() && fault["column"].is_u64() && fault["snippet"].is_null(), "{answer}");
}

#[test]
fn plain_text_among_the_secrets_is_a_fault() {
    let bench = Bench::new();
    bench.fleet.write("secrets/README.md", "# About\n");
    bench.fleet.write("secrets/empty.yaml", "# nothing yet\n");
    assert!(check(&bench).starts_with("exit code: 0\n"));
    bench.fleet.write("secrets/new.yaml", "password: hunter2\n");
    bench.fleet.write("secrets/operator/id", "-----BEGIN OPENSSH PRIVATE KEY-----\nx\n");
    assert_snapshot!("plain", check(&bench));
}

#[test]
fn secrets_without_rules_are_a_fault() {
    let bench = Bench::new();
    std::fs::remove_file(bench.fleet.path().join("secrets/.sops.yaml")).unwrap();
    assert_snapshot!("rules_gone", check(&bench));
    std::fs::remove_dir_all(bench.fleet.path().join("secrets")).unwrap();
    let seen = check(&bench);
    assert!(seen.starts_with("exit code: 0\n"), "{seen}");
}

#[test]
fn options_may_stand_before_the_verb() {
    let bench = Bench::new();
    let output = bench.run(&["--json", "--quiet", "check"]);
    assert_eq!(bench.seen(&output), "exit code: 0\n--- stdout\n{\"valid\":true}\n");
}

/// A file that nobody read to its end is not a file with a fault.
#[test]
fn ctrl_c_while_nix_reads_is_no_fault_of_the_file() {
    let bench = Bench::new();
    bench.fleet.edit("hosts.nix", "hostname = \"thinkpad\";", "hostname = builtins.getEnv \"X\";");
    let programs = bench.sim.dir().join("programs");
    std::fs::create_dir_all(&programs).unwrap();
    let begun = programs.join("begun");
    let nix = programs.join("nix");
    std::fs::write(&nix, format!("#!/bin/sh\necho > {}\nexec sleep 60\n", begun.display())).unwrap();
    std::fs::set_permissions(&nix, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    let child = bench
        .command(&["--nix", "auto", "check"])
        .env("PATH", path)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    until("nix", 60, || begun.exists());
    kill_process(Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap(), Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    let seen = bench.seen(&output);
    assert_eq!(output.status.code(), Some(130), "{seen}");
    assert!(seen.contains("stopped by the user") && !seen.contains("not valid"), "{seen}");
}
