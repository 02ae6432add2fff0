//! The whole repository, checked without a connection.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod common;

use common::Bench;
use insta::assert_snapshot;

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
fn options_may_stand_before_the_verb() {
    let bench = Bench::new();
    let output = bench.run(&["--json", "--quiet", "check"]);
    assert_eq!(bench.seen(&output), "exit code: 0\n--- stdout\n{\"valid\":true}\n");
}
