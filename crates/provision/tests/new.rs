//! `provision-vm new`, and that what it writes can be provisioned.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test stops at the first surprise, and starts the tools itself"
)]

mod common;

use common::Bench;
use fleet_core::{definitions::Definitions, nix::NixMode, repo::Repo};
use pve_sim::{testing::Sim, world::World};

#[test]
fn a_new_vm_is_written_and_can_be_provisioned() {
    let bench = Bench::with(Sim::with(World::default().with_vm(100, false, &[("name", "other")])));
    let dry = bench.run(&["new", "web", "--purpose", "Shop", "--dry-run"]);
    assert!(dry.status.success(), "{}", bench.seen(&dry));
    assert_eq!(bench.fleet.status(), "");
    let output = bench.run(&["new", "web", "--purpose", "Shop", "--tag", "shop", "--yes"]);
    let seen = bench.seen(&output);
    assert!(output.status.success(), "{seen}");
    insta::assert_snapshot!("new", seen);
    let definitions = Definitions::load(&Repo::at(bench.fleet.path()).unwrap(), NixMode::Embedded).unwrap();
    let vm = definitions.managed("web").unwrap();
    // 100 is the cluster's, 101 is free.
    assert_eq!((vm.vmid.get(), vm.cores, vm.purpose.as_deref()), (101, 2, Some("Shop")));
    let again = bench.run(&["new", "web", "--yes"]);
    assert_eq!(again.status.code(), Some(4), "{}", bench.seen(&again));
    let check = bench.run(&["check"]);
    assert!(check.status.success(), "what was written passes a pre-commit hook: {}", bench.seen(&check));
    bench.fleet.commit("web");
    let provisioned = bench.run(&["web", "--yes"]);
    assert!(provisioned.status.success(), "{}", bench.seen(&provisioned));
    let check = bench.run(&["check"]);
    assert!(check.status.success(), "{}", bench.seen(&check));
}

#[test]
fn what_can_not_be_is_refused_and_nothing_is_written() {
    let bench = Bench::new();
    for (args, code) in [
        (&["new", "plan", "--yes"][..], 2),
        (&["new", "123", "--yes"], 2),
        (&["new", "a_b", "--yes"], 2),
        (&["new", "doc1", "--yes"], 4),
        (&["new", "ubuntu-cloud-template", "--yes"], 4),
        (&["new", "web", "--vmid", "104", "--yes"], 4),
        (&["new", "web", "--vmid", "9002", "--yes"], 4),
        (&["new", "web", "--ip", "192.0.2.10/24", "--gateway", "192.0.3.1", "--yes"], 1),
        (&["new", "web", "--like", "dock1", "--yes"], 5),
    ] {
        let output = bench.run(args);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {}", bench.seen(&output));
        assert_eq!(bench.fleet.status(), "", "{args:?}");
    }
}

#[test]
fn a_host_directory_that_is_missing_is_written_for_a_definition_that_is_there() {
    let bench = Bench::new();
    std::fs::remove_dir_all(bench.fleet.path().join("hosts/test-automation")).unwrap();
    bench.fleet.commit("no host");
    let output = bench.run(&["new", "test-automation", "--yes"]);
    assert!(output.status.success(), "{}", bench.seen(&output));
    assert!(bench.fleet.read("hosts/test-automation/disko.nix").contains("EF00"));
    assert!(!bench.fleet.status().contains("definitions.nix"));
}

#[test]
fn without_the_cluster_a_vmid_is_offered_and_that_is_said() {
    let bench = Bench::new();
    bench.sim.inject(pve_sim::faults::Fault::LoginRefused);
    let output = bench.run(&["new", "web", "--yes"]);
    let seen = bench.seen(&output);
    assert!(output.status.success(), "{seen}");
    assert!(seen.contains("whether the cluster uses it is not known"), "{seen}");
    assert!(bench.fleet.read("vms/definitions.nix").contains("vmid = 100;"), "{seen}");
}

#[test]
fn a_person_is_asked_until_the_answers_do() {
    let bench = Bench::new();
    let mut command = bench.command(&["new", "web"]);
    command.env("TERM", "dumb");
    let mut session = rexpect::session::spawn_command(command, Some(20_000)).unwrap();
    for (question, answer) in [
        ("VMID [100]: ", "104"),
        ("VMID 104 is taken by another definition", ""),
        ("VMID [100]: ", "105"),
        ("CPU cores [2]: ", "0"),
        ("at least 1", ""),
        ("CPU cores [2]: ", ""),
        ("Memory in MiB [4096]: ", "2048"),
        ("Disk [20G]: ", "30 gigs"),
        ("is not a valid disk size", ""),
        ("Disk [20G]: ", "30G"),
        ("What is it for? ", "The shop"),
        ("Write this? (y/N) ", "y"),
        ("'web' is valid", ""),
    ] {
        session.exp_string(question).unwrap();
        if question.ends_with(' ') {
            session.send_line(answer).unwrap();
        }
    }
    session.process().wait().unwrap();
    let text = bench.fleet.read("vms/definitions.nix");
    let written = "    web = {\n      vmid = 105;\n      cores = 2;\n      memory = 2048;\n      disk = \"30G\";\n      purpose = \"The shop\";\n    };\n";
    assert!(text.contains(written), "{text}");
}
