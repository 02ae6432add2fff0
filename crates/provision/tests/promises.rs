//! What is said of a run, before it and with its options, against what reached the node and the fleet.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test stops at the first surprise, and starts the tools itself"
)]

mod common;

use std::{
    collections::BTreeSet,
    process::{Command, Stdio},
};

use common::{Bench, Gate, Said, instead, until};
use pve_sim::{faults::Fault, guest::Os, log::What};
use serde_json::Value;

const NAME: &str = "test-automation";

/// One change of the node: `METHOD /path`, and its parameters.
type Change = (String, BTreeSet<String>);

/// A VM's mark is made anew by each run.
fn masked(parameter: &str) -> String {
    match parameter.split_once("nonce=") {
        Some((before, after)) => {
            let rest = after.trim_start_matches(|c: char| c.is_ascii_alphanumeric());
            format!("{before}nonce=…{rest}")
        }
        None => parameter.to_owned(),
    }
}

/// The changes that reached the node from request `from` on.
fn sent(bench: &Bench, from: usize) -> Vec<Change> {
    let records = bench.sim.requests()[from..].to_vec();
    let changes = records.into_iter().filter(|record| record.what.changes()).map(|record| record.what);
    let change = |what| {
        let What::Http { method, path, params } = what else { unreachable!("a change is a request") };
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let mut params = params.as_object().cloned().unwrap_or_default();
        // Of the configuration as it is at that moment: nobody knows it before.
        params.remove("digest");
        let params = params.iter().map(|(name, value)| masked(&format!("{name}={}", text(value))));
        (format!("{method} {path}"), params.collect())
    };
    changes.map(change).collect()
}

/// The requests that a dry run shows, read by a shell as a person's would.
fn shown(bench: &Bench, args: &[&str]) -> Vec<Change> {
    let before = bench.sim.changes().len();
    let output = bench.run(&[args, &["--dry-run", "--json"]].concat());
    assert!(output.status.success(), "{}", bench.seen(&output));
    assert_eq!(bench.sim.changes().len(), before);
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    let requests = answer["steps"].as_array().unwrap().iter().filter_map(|step| step["requests"].as_array());
    let requests = requests.flatten().map(|request| request.as_str().unwrap());
    let change = |request: &str| {
        let script = format!("printf '%s\\0' {request}");
        let words = Command::new("sh").args(["-c", &script]).output().unwrap();
        assert!(words.status.success(), "{request}");
        let words = String::from_utf8(words.stdout).unwrap();
        let words: Vec<&str> = words.trim_end_matches('\0').split('\0').collect();
        let (target, params) = words.split_at(2);
        (target.join(" "), params.iter().map(|word| masked(word)).collect())
    };
    // Files are written by the node's shell, and are no requests.
    requests
        .filter(|request| !request.starts_with("write ") && !request.starts_with("rm "))
        .map(change)
        .collect()
}

#[test]
fn a_dry_run_shows_the_very_requests_that_the_run_sends() {
    let bench = Bench::new();
    bench.fleet.edit(
        "vms/definitions.nix",
        "cores = 2;",
        "cores = 3; onBoot = true; tags = [ \"web\" ]; protection = true;",
    );
    // To SSH, and then on to the installed system.
    let mut steps = Vec::new();
    for args in [&[NAME, "--no-install"][..], &[NAME]] {
        let promised = shown(&bench, args);
        let from = bench.sim.requests().len();
        let output = bench.run(&[args, &["--yes"]].concat());
        assert!(output.status.success(), "{}", bench.seen(&output));
        let done = sent(&bench, from);
        assert_eq!(done, promised);
        steps.push(done.len());
    }
    // Clone, configuration, disk, start, that cloud-init is done, no document any more; and the cloud-init drive.
    assert_eq!(steps, [6, 1]);
}

#[test]
fn a_linked_clone_is_asked_for_without_what_the_node_refuses_with_it() {
    let bench = Bench::new();
    bench.fleet.edit("vms/definitions.nix", "cores = 2;", "cores = 2; clone = \"linked\";");
    let output = bench.run(&[NAME, "--yes", "--no-install"]);
    let seen = bench.seen(&output);
    assert!(output.status.success(), "{seen}");
    let changes = sent(&bench, 0);
    let (_, params) = changes.iter().find(|(target, _)| target.ends_with("/clone")).unwrap();
    assert!(!params.contains("full=1") && params.contains("newid=110"), "{params:?}");
    assert!(!params.iter().any(|p| p.starts_with("storage=") || p.starts_with("format=")), "{params:?}");
    let disk = bench.sim.config(110).unwrap().get("scsi0").unwrap().to_owned();
    assert!(disk.contains("base-9002-disk-"), "{disk}");
}

/// What the fleet's repository is: its last commit, and that nothing is changed in it.
fn fleet(bench: &Bench) -> (String, String) {
    (bench.fleet.git(&["rev-parse", "HEAD"]).unwrap(), bench.fleet.status())
}

fn in_the_fleet(bench: &Bench) -> bool {
    let key = bench.sim.guest_host_key(110).unwrap();
    bench.fleet.read("hosts.nix").contains(key.split_whitespace().nth(1).unwrap())
}

#[test]
fn what_is_integrated_after_is_not_in_the_fleet_before() {
    let bench = Bench::new();
    let before = fleet(&bench);
    let args = &[NAME, "--yes", "--integrate", "after"];
    bench.sim.inject(Fault::InstallFails { vmid: 110, phase: "install".to_owned() });
    let output = bench.run(args);
    assert_eq!(output.status.code(), Some(1), "{}", bench.seen(&output));
    assert_eq!(fleet(&bench), before);
    bench.sim.clear_faults();
    let output = bench.run(args);
    let seen = bench.seen(&output);
    assert!(output.status.success(), "{seen}");
    let at = |words: &str| seen.find(words).unwrap_or_else(|| panic!("{words}: {seen}"));
    assert!(at("==> Verifying the new system...") < at("==> Integrating with the fleet..."), "{seen}");
    assert!(in_the_fleet(&bench));
    assert_eq!(fleet(&bench).1, "");
    assert_ne!(fleet(&bench).0, before.0);
}

#[test]
fn what_is_never_integrated_leaves_the_fleet_as_it_is_and_says_what_does_it() {
    let bench = Bench::new();
    let before = fleet(&bench);
    let output = bench.run(&[NAME, "--yes", "--integrate", "never"]);
    let seen = bench.seen(&output);
    assert!(output.status.success(), "{seen}");
    assert_eq!(fleet(&bench), before);
    let (system, address) = bench.sim.guest(110).unwrap();
    assert_eq!(system, Os::Nixos);
    assert!(!in_the_fleet(&bench));
    let remains = format!("One command remains:\n  post-provision-vm {NAME} {address} 110\n");
    assert!(seen.ends_with(&remains), "{seen}");
    // And this is what it does.
    let mut command = bench.sim.command("post-provision-vm", &bench.fleet);
    let output = command.args([NAME, &address, "110", "--yes"]).output().unwrap();
    assert!(output.status.success(), "{}", bench.seen(&output));
    assert!(in_the_fleet(&bench));
}

#[test]
fn what_the_installer_says_is_shown_as_it_comes_where_it_is_asked_for() {
    let said_first = "### Gathering machine facts ###";
    for verbose in [true, false] {
        let bench = Bench::new();
        let gate = Gate::new(&bench);
        let wait = gate.shell();
        instead(
            &bench,
            &format!("case \" $* \" in *' --phases kexec '*) echo '{said_first}'; {wait} ;; esac"),
        );
        let mut command = bench.command(&[NAME, "--yes", "--integrate", "never"]);
        command.args(verbose.then_some("--verbose"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut said = Said::of(&mut child);
        if verbose {
            // While it is still at work.
            said.until(said_first, 120);
        }
        until("nixos-anywhere", 120, || gate.reached());
        gate.open();
        let seen = said.all();
        assert!(child.wait().unwrap().success(), "{seen}");
        assert_eq!(seen.contains(said_first), verbose, "{seen}");
        // How long each step took, and how to reach it.
        let (_, seconds) = seen.split_once("  seconds: ").unwrap_or_else(|| panic!("{seen}"));
        let (seconds, rest) = seconds.split_once('\n').unwrap();
        let steps: Vec<&str> = seconds.split(", ").map(|step| step.split_once(' ').unwrap().0).collect();
        assert!(
            ["clone", "start", "kexec", "install", "verify"].iter().all(|s| steps.contains(s)),
            "{seconds}"
        );
        assert!(seconds.split(", ").all(|step| step.split_once(' ').unwrap().1.parse::<f64>().is_ok()));
        let (_, address) = bench.sim.guest(110).unwrap();
        assert!(rest.starts_with("  ssh ") && rest.lines().next().unwrap().contains(&address), "{seen}");
    }
}
