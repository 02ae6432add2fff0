//! The verbs beside provisioning: plan, apply, status; and what becomes of a run that failed.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test stops at the first surprise, and starts the tools itself"
)]

mod common;

use common::Bench;
use pve_sim::{faults::Fault, testing::Sim, world::World};
use serde_json::Value;

fn json(output: &std::process::Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap()
}

fn made(bench: &Bench, args: &[&str]) {
    let output = bench.run(&[&["test-automation", "--yes"], args].concat());
    assert!(output.status.success(), "{}", bench.seen(&output));
}

/// Definitions of further managed VMs.
fn define(bench: &Bench, vms: &[(&str, u32)]) {
    let text: String = vms
        .iter()
        .map(|(name, vmid)| {
            format!("    {name} = {{ vmid = {vmid}; cores = 1; memory = 2048; disk = \"8G\"; }};\n")
        })
        .collect();
    bench.fleet.edit(
        "vms/definitions.nix",
        "    test-automation = {\n",
        &format!("{text}    test-automation = {{\n"),
    );
}

#[test]
fn a_plan_costs_the_same_for_one_vm_and_for_many() {
    let mut world = World::default();
    let names: Vec<(String, u32)> = (0..12).map(|n| (format!("vm{n}"), 120 + n)).collect();
    for (name, vmid) in &names {
        world = world.with_vm(*vmid, false, &[("name", name.as_str()), ("cores", "1")]);
    }
    let bench = Bench::with(Sim::with(world));
    let requests = |args: &[&str]| {
        let before = bench.sim.requests().len();
        let output = bench.run(args);
        assert_eq!(output.status.code(), Some(2), "{}", bench.seen(&output));
        bench.sim.requests().len() - before
    };
    let one = requests(&["plan", "test-automation"]);
    let all: Vec<(&str, u32)> = names.iter().map(|(name, vmid)| (name.as_str(), *vmid)).collect();
    define(&bench, &all);
    assert_eq!(requests(&["plan", "--all"]), one);
    let seen = bench.run(&["plan", "--json"]);
    assert_eq!(json(&seen).as_array().unwrap().len(), 13);
    assert_eq!(json(&seen)[0]["state"], "foreign");
    assert_eq!(bench.sim.changes(), [] as [String; 0]);
}

#[test]
fn apply_brings_a_vm_in_line_and_says_what_waits_for_a_reboot() {
    let bench = Bench::new();
    let none = bench.run(&["apply", "test-automation", "--yes"]);
    assert_eq!(none.status.code(), Some(5), "{}", bench.seen(&none));
    made(&bench, &["--integrate", "never"]);
    let plan = bench.run(&["plan"]);
    assert_eq!(plan.status.code(), Some(0), "{}", bench.seen(&plan));
    bench.sim.edit(110, |conf| {
        let description = conf.main.get("description").unwrap().clone() + "\nby hand: do not touch";
        conf.main.insert("description".into(), description);
    });
    bench.fleet.edit(
        "vms/definitions.nix",
        "cores = 2;\n      memory = 4096;\n      disk = \"20G\";",
        "cores = 4;\n      memory = 4096;\n      disk = \"32G\";\n      onBoot = true;\n      tags = [ \"web\" ];",
    );
    bench.fleet.edit("vms/definitions.nix", "Testing automated provisioning", "Testing");
    let plan = bench.run(&["plan"]);
    assert_eq!(plan.status.code(), Some(2));
    let before = bench.sim.changes().len();
    let dry = bench.run(&["apply", "test-automation", "--dry-run", "--json"]);
    assert!(dry.status.success(), "{}", bench.seen(&dry));
    assert_eq!(bench.sim.changes().len(), before);
    let asked = bench.run(&["apply", "test-automation"]);
    assert_eq!(asked.status.code(), Some(2), "{}", bench.seen(&asked));
    assert_eq!(bench.sim.changes().len(), before);
    let applied = bench.run(&["apply", "test-automation", "--yes", "--json"]);
    let seen = bench.seen(&applied);
    assert!(applied.status.success(), "{seen}");
    // What was shown is what was sent.
    assert_eq!(json(&dry)["requests"], json(&applied)["requests"]);
    assert_eq!(bench.sim.changes().len(), before + 2, "{:?}", bench.sim.changes());
    let config = bench.sim.config(110).unwrap();
    let all = config.with_pending();
    assert_eq!((all["cores"].as_str(), all["onboot"].as_str(), all["tags"].as_str()), ("4", "1", "web"));
    assert!(all["scsi0"].contains("size=32G"), "{all:?}");
    assert!(all["description"].contains("fleet-vm: "), "{all:?}");
    assert!(
        all["description"].contains(
            "\nfleet-owns: tags=web\nfleet-purpose: Testing\nfleet-cloud-init: done\nby hand: do not touch"
        ),
        "{all:?}"
    );
    assert!(seen.contains("pending until it is rebooted: cores"), "{seen}");
    let plan = bench.run(&["plan"]);
    assert_eq!(plan.status.code(), Some(0), "{}", bench.seen(&plan));
    let again = bench.run(&["apply", "test-automation", "--yes"]);
    assert!(again.status.success(), "{}", bench.seen(&again));
    assert_eq!(bench.sim.changes().len(), before + 2);
    // Smaller is never done.
    bench.fleet.edit("vms/definitions.nix", "disk = \"32G\";", "disk = \"10G\";");
    let smaller = bench.run(&["apply", "test-automation", "--yes"]);
    let seen = bench.seen(&smaller);
    assert_eq!(smaller.status.code(), Some(2), "{seen}");
    assert!(seen.contains("scsi0: 32G -> 10G (not by `apply`)"), "{seen}");
    assert!(seen.contains("a disk is not shrunk: write 32G in the definition"), "{seen}");
    assert_eq!(bench.sim.changes().len(), before + 2);
}

/// Tags and protection that the definition had go when it has them no more; those that people set stay.
#[test]
fn what_is_taken_out_of_the_definition_is_taken_off_the_vm() {
    let bench = Bench::new();
    let set = "vmid = 110; tags = [ \"web\" \"edge\" ]; protection = true;";
    bench.fleet.edit("vms/definitions.nix", "vmid = 110;", set);
    made(&bench, &["--integrate", "never"]);
    let is = |name: &str| bench.sim.config(110).unwrap().with_pending().get(name).cloned();
    let both = || (is("tags").unwrap_or_default(), is("protection").unwrap_or_default());
    assert_eq!(both(), ("edge;web".to_owned(), "1".to_owned()));
    let code = |args: &[&str], code: i32, words: &[&str]| {
        let output = bench.run(args);
        let seen = bench.seen(&output);
        assert_eq!(output.status.code(), Some(code), "{seen}");
        words.iter().for_each(|words| assert!(seen.contains(words), "{words}: {seen}"));
        assert!(!seen.contains("fleet-owns"), "{seen}");
    };
    code(&["plan"], 0, &[]);
    bench.sim.edit(110, |conf| drop(conf.main.insert("tags".into(), "edge;mine;web".into())));
    bench.fleet.edit("vms/definitions.nix", set, "vmid = 110;");
    let told = &["tags: edge;mine;web -> mine\n", "protection: 1 -> 0\n"];
    code(&["plan"], 2, told);
    code(&["apply", "test-automation", "--yes"], 0, told);
    assert_eq!(both(), ("mine".to_owned(), "0".to_owned()));
    code(&["plan"], 0, &[]);
    // What people set is theirs; and of what the definition sets alone nothing is left.
    bench.sim.edit(110, |conf| {
        conf.main.insert("protection".into(), "1".into());
        conf.main.remove("tags");
    });
    code(&["plan"], 0, &[]);
    bench.fleet.edit("vms/definitions.nix", "vmid = 110;", "vmid = 110; tags = [ \"web\" ];");
    code(&["apply", "test-automation", "--yes"], 0, &["tags: (not set) -> web\n"]);
    bench.fleet.edit("vms/definitions.nix", " tags = [ \"web\" ];", "");
    code(&["apply", "test-automation", "--yes"], 0, &["tags: web -> (not set)\n"]);
    assert_eq!((is("tags"), is("protection").as_deref()), (None, Some("1")));
    code(&["plan"], 0, &[]);
}

/// What `plan` finds and `apply` does not change is told by both with what does, and then they agree.
#[test]
fn what_apply_leaves_is_told_with_what_brings_it_in_line() {
    let bench = Bench::new();
    made(&bench, &["--integrate", "never"]);
    bench.fleet.edit(
        "vms/definitions.nix",
        "vmid = 110;",
        "vmid = 110;\n      vlan = 20;\n      disks = [ \"4G\" ];\n      tags = [ \"web\" ];",
    );
    let plan = bench.run(&["plan"]);
    let seen = bench.seen(&plan);
    assert_eq!(plan.status.code(), Some(2), "{seen}");
    let left = [
        "net0.tag: (not set) -> 20 (not by `apply`)\n",
        "scsi1: (not set) -> 4G on nvmeprom (not by `apply`)\n",
    ];
    let how = ["qm set 110 --net0 'virtio=", "proxmox-ops create-disk test-automation 4G nvmeprom scsi1\n"];
    for words in left.iter().chain(&how).chain(&["tags: (not set) -> web\n"]) {
        assert!(seen.contains(words), "{words}: {seen}");
    }
    for _ in 0..2 {
        let applied = bench.run(&["apply", "test-automation", "--yes"]);
        let seen = bench.seen(&applied);
        assert_eq!(applied.status.code(), Some(2), "as `plan`, it says that something differs: {seen}");
        for words in left.iter().chain(&how) {
            assert!(seen.contains(words), "{words}: {seen}");
        }
    }
    let answer = json(&bench.run(&["plan", "--json"]));
    let fields = answer[0]["fields"].as_array().unwrap();
    assert_eq!(fields.len(), 2, "{answer}");
    assert!(fields.iter().all(|field| field["applies"] == false && field["how"].is_string()), "{answer}");
    // The commands, as they are told.
    let disk = bench.sim.command("proxmox-ops", &bench.fleet);
    let disk = { disk }.args(["create-disk", "test-automation", "4G", "nvmeprom", "scsi1"]).output().unwrap();
    assert!(disk.status.success(), "{}", bench.seen(&disk));
    let card = fields.iter().find_map(|field| field["how"].as_str().filter(|how| how.contains("--net0")));
    let card = card.unwrap().split('\'').nth(1).unwrap().to_owned();
    bench.sim.edit(110, |conf| drop(conf.main.insert("net0".into(), card)));
    for args in [&["plan"][..], &["apply", "test-automation", "--yes"]] {
        let same = bench.run(args);
        assert_eq!(same.status.code(), Some(0), "{}", bench.seen(&same));
    }
}

/// What somebody else writes while a person thinks is not overwritten.
#[test]
fn a_change_by_somebody_else_meanwhile_is_a_conflict() {
    let bench = Bench::new();
    made(&bench, &["--no-install", "--integrate", "never"]);
    bench.fleet.edit("vms/definitions.nix", "Testing automated provisioning", "Testing");
    let command = bench.command(&["apply", "test-automation"]);
    let mut session = rexpect::session::spawn_command(command, Some(20_000)).unwrap();
    session.exp_string("Change VM 'test-automation' (VMID 110)? (y/N) ").unwrap();
    let theirs = "\nby hand: written meanwhile";
    bench.sim.edit(110, |conf| {
        let description = conf.main.get("description").unwrap().clone() + theirs;
        conf.main.insert("description".into(), description);
    });
    session.send_line("y").unwrap();
    let ended = session.process().wait().unwrap();
    assert!(format!("{ended:?}").contains(", 4)"), "{ended:?}");
    let description = bench.sim.config(110).unwrap().get("description").unwrap_or_default().to_owned();
    assert!(description.ends_with(theirs) && !description.contains("fleet-purpose: Testing\n"));
    let again = bench.run(&["apply", "test-automation", "--yes"]);
    assert!(again.status.success(), "{}", bench.seen(&again));
    let description = bench.sim.config(110).unwrap().get("description").unwrap_or_default().to_owned();
    assert!(
        description.contains("\nfleet-purpose: Testing\nfleet-cloud-init: done\nby hand: written meanwhile"),
        "{description}"
    );
}

#[test]
fn a_strangers_vm_is_not_brought_in_line() {
    let bench =
        Bench::with(Sim::with(World::default().with_vm(110, true, &[("name", "web"), ("cores", "1")])));
    let output = bench.run(&["apply", "test-automation", "--yes"]);
    assert_eq!(output.status.code(), Some(4), "{}", bench.seen(&output));
    assert_eq!(bench.sim.changes(), [] as [String; 0]);
}

#[test]
fn status_tells_all_that_is_known_with_and_without_the_node() {
    let bench = Bench::new();
    let before = json(&bench.run(&["status", "--json"]));
    assert_eq!(before[0]["definition"], "create");
    assert_eq!(before[0]["secrets"], "no-key");
    made(&bench, &[]);
    let after = json(&bench.run(&["status", "test-automation", "--json"]));
    let row = &after[0];
    assert_eq!(
        (&row["definition"], &row["power"], &row["node"]),
        (&"same".into(), &"running".into(), &"prom".into())
    );
    assert_eq!(row["secrets"], "open");
    assert_eq!(row["address"], bench.sim.guest(110).unwrap().1);
    assert_eq!((&row["last_run"]["outcome"], &row["last_run"]["exit_code"]), (&"done".into(), &0.into()));
    let table = bench.seen(&bench.run(&["status"]));
    assert!(table.contains("NAME             VMID  DEFINITION"), "{table}");
    bench.sim.inject(Fault::LoginRefused);
    let dark = bench.run(&["status"]);
    let seen = bench.seen(&dark);
    assert_eq!(dark.status.code(), Some(6), "{seen}");
    assert!(seen.contains("unknown") && seen.contains("open"), "{seen}");
}

#[test]
fn a_failed_run_takes_back_what_it_made_when_asked_to() {
    let bench = Bench::new();
    let head = bench.fleet.git(&["rev-parse", "HEAD^{tree}"]).unwrap();
    bench.sim.inject(Fault::InstallFails { vmid: 110, phase: "install".to_owned() });
    let output = bench.run(&["test-automation", "--yes", "--on-failure", "destroy"]);
    let seen = bench.seen(&output);
    assert_eq!(output.status.code(), Some(1), "{seen}");
    assert!(seen.contains("which this run made, is removed again"), "{seen}");
    assert!(bench.sim.config(110).is_none(), "{seen}");
    assert_eq!(bench.fleet.status(), "");
    // The repository says what it said before, secrets apart, which were wrapped twice.
    let diff = bench
        .fleet
        .git(&["diff", "--stat", head.trim(), "--", "hosts.nix", "secrets/.sops.yaml", "docs"])
        .unwrap();
    assert_eq!(diff, "", "{seen}");
    // A VM that an earlier run made is not this run's.
    made(&bench, &["--no-install"]);
    made(&bench, &["--no-install", "--resume"]);
    let kept = bench.run(&["test-automation", "--yes", "--on-failure", "destroy"]);
    let seen = bench.seen(&kept);
    assert_eq!(kept.status.code(), Some(1), "{seen}");
    assert!(seen.contains("VM 110 was there before this run: it is kept"), "{seen}");
    assert!(bench.sim.config(110).is_some());
}

#[test]
fn there_is_nothing_to_resume_where_nothing_was_begun() {
    let bench = Bench::new();
    let output = bench.run(&["test-automation", "--yes", "--resume"]);
    assert_eq!(output.status.code(), Some(5), "{}", bench.seen(&output));
    assert_eq!(bench.sim.changes(), [] as [String; 0]);
}

/// An account that may not read the cluster's files sees what is pending all the same, and VMs of other nodes.
#[test]
fn an_account_with_a_token_sees_what_is_pending_and_what_is_elsewhere() {
    let rights = ["Sys.Audit", "VM.Audit", "VM.Config.CPU", "VM.Config.Options", "Datastore.Audit"];
    let world = World::default().with_account("fleet").with_token("fleet@pve!ops", "secret", &rights);
    let bench = Bench::with(Sim::with(world));
    made(&bench, &["--integrate", "never"]);
    let run = |args: &[&str]| {
        let mut command = bench.command(args);
        command.env("PROXMOX_USER", "fleet").env("PROXMOX_TOKEN", "fleet@pve!ops=secret");
        let output = command.output().unwrap();
        (output.status.code(), bench.seen(&output))
    };
    bench.fleet.edit("vms/definitions.nix", "cores = 2;", "cores = 4;");
    let before = bench.sim.changes().len();
    assert_eq!(run(&["plan"]).0, Some(2));
    let (code, seen) = run(&["apply", "test-automation", "--yes"]);
    assert_eq!(code, Some(0), "{seen}");
    assert!(seen.contains("pending until it is rebooted: cores"), "{seen}");
    assert_eq!(bench.sim.changes().len(), before + 1);
    let (code, seen) = run(&["plan"]);
    assert_eq!(code, Some(0), "{seen}");
    assert_eq!(run(&["apply", "test-automation", "--yes"]).0, Some(0));
    assert_eq!(bench.sim.changes().len(), before + 1);
}

/// The storage's lock is not had for the second of two further disks: the first, pending, is not made again.
#[test]
fn a_change_that_was_half_done_is_finished_and_not_done_twice() {
    let bench = Bench::new();
    let more = "vmid = 110; disks = [ \"4G\" \"6G\" ]; tags = [ \"web\" \"edge\" ];";
    bench.fleet.edit("vms/definitions.nix", "vmid = 110;", more);
    bench.sim.inject(Fault::StorageLocked { storage: "nvmeprom".into(), after: 2 });
    made(&bench, &["--integrate", "never"]);
    let config = bench.sim.config(110).unwrap();
    let size = |slot: &str| config.get(slot).map(|disk| disk.rsplit("size=").next().unwrap_or("").to_owned());
    assert_eq!((size("scsi1"), size("scsi2")), (Some("4G".into()), Some("6G".into())), "{config:?}");
    assert!(!config.main.keys().any(|key| key.starts_with("unused")), "{config:?}");
    let volumes = bench.sim.node().read(|d| d.volumes.values().filter(|v| v.vmid == Some(110)).count());
    assert_eq!(volumes, 4, "{config:?}");
    assert!(!bench.sim.node().has_fault(|f| matches!(f, Fault::StorageLocked { .. })));
    let plan = bench.run(&["plan"]);
    assert_eq!(plan.status.code(), Some(0), "{}", bench.seen(&plan));
}

/// The clone of a protected template lets its cloud-init drive be detached, and is as protected as it is defined.
#[test]
fn the_protection_of_the_template_is_not_the_clone_s() {
    for defined in [false, true] {
        let bench = Bench::new();
        bench.sim.edit(9002, |conf| drop(conf.main.insert("protection".into(), "1".into())));
        if defined {
            bench.fleet.edit("vms/definitions.nix", "vmid = 110;", "vmid = 110; protection = true;");
        }
        made(&bench, &["--integrate", "never"]);
        let config = bench.sim.config(110).unwrap();
        assert_eq!(config.get("protection") == Some("1"), defined, "{config:?}");
        assert_eq!(config.with_pending().get("ide2"), None, "{config:?}");
        assert_eq!(bench.sim.config(9002).unwrap().get("protection"), Some("1"));
    }
}

#[test]
fn what_a_definition_asks_for_besides_is_there_at_the_end() {
    let bench = Bench::new();
    bench.fleet.edit(
        "vms/definitions.nix",
        "vmid = 110;",
        "vmid = 110;\n      protection = true;\n      disks = [ \"4G\" { size = \"6G\"; storage = \"local\"; } ];\n      onBoot = true;",
    );
    bench.fleet.edit("vms/definitions.nix", "storage = \"local\";", "storage = \"nvmeprom\";");
    made(&bench, &["--integrate", "never"]);
    let config = bench.sim.config(110).unwrap();
    let get = |key: &str| config.get(key).unwrap_or_default().to_owned();
    assert_eq!((get("protection"), get("onboot")), ("1".into(), "1".into()));
    assert!(get("scsi1").contains("size=4G") && get("scsi2").contains("size=6G"), "{config:?}");
    let plan = bench.run(&["plan"]);
    assert_eq!(plan.status.code(), Some(0), "{}", bench.seen(&plan));
}
