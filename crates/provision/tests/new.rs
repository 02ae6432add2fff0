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
    bench.fleet.edit("vms/definitions.nix", "cores = 2;", "cores = 2; mac = \"BC:24:11:00:00:99\";");
    bench.fleet.commit("an address of its own");
    for (args, code) in [
        (&["new", "plan", "--yes"][..], 2),
        (&["new", "123", "--yes"], 2),
        (&["new", "a_b", "--yes"], 2),
        (&["new", "doc1", "--yes"], 4),
        (&["new", "ubuntu-cloud-template", "--yes"], 4),
        (&["new", "web", "--vmid", "104", "--yes"], 4),
        (&["new", "web", "--vmid", "9002", "--yes"], 4),
        (&["new", "web", "--ip", "192.0.2.10/24", "--gateway", "192.0.3.1", "--yes"], 1),
        (&["new", "web", "--mac", "BC:24:11:00:00:99", "--yes"], 4),
        (&["new", "web", "--like", "dock1", "--yes"], 5),
    ] {
        let output = bench.run(args);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {}", bench.seen(&output));
        assert_eq!(bench.fleet.status(), "", "{args:?}");
        // A place in a text that was not written helps nobody.
        assert!(!bench.seen(&output).contains("vms/definitions.nix is not valid"), "{args:?}");
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

/// Waits for each text in turn and answers those that are questions, until the program ends.
fn converse(mut session: rexpect::session::PtySession, dialogue: &[(&str, &str)]) {
    for (text, answer) in dialogue {
        session.exp_string(text).unwrap();
        if text.ends_with(' ') {
            session.send_line(answer).unwrap();
        }
    }
    session.process().wait().unwrap();
}

#[test]
fn a_person_is_asked_until_the_answers_do() {
    let bench = Bench::new();
    let mut command = bench.command(&["new", "web"]);
    command.env("TERM", "dumb");
    let session = rexpect::session::spawn_command(command, Some(20_000)).unwrap();
    let dialogue = [
        ("VMID [100]: ", "104"),
        ("VMID 104 is taken by imported.doc1", ""),
        ("VMID [100]: ", "250"),
        ("250 is reserved for containers (200 to 299)", ""),
        ("take one of 100 to 199 (production)", ""),
        ("VMID [100]: ", "105"),
        ("CPU cores [2]: ", "0"),
        ("0 is out of range", ""),
        ("CPU cores [2]: ", ""),
        ("Memory in MiB [4096]: ", "lots"),
        ("'lots' is not a whole number", ""),
        ("Memory in MiB [4096]: ", "2048"),
        ("Disk [20G]: ", "30 gigs"),
        ("is not a valid disk size", ""),
        ("Disk [20G]: ", "30G"),
        ("Address, such as 192.0.2.10/24, or dhcp [dhcp]: ", "192.0.2.0/24"),
        ("is the network's own address, not a machine's", ""),
        ("Address, such as 192.0.2.10/24, or dhcp [dhcp]: ", "192.0.2.10/24"),
        ("Gateway (Enter for none): ", "192.0.3.1"),
        ("192.0.3.1 is not in the network of 192.0.2.10/24", ""),
        ("Gateway (Enter for none): ", "192.0.2.1"),
        ("What is it for? ", "The shop"),
        ("Write this? (y/N) ", "y"),
        ("'web' is valid", ""),
    ];
    converse(session, &dialogue);
    let text = bench.fleet.read("vms/definitions.nix");
    let written = "    web = {\n      vmid = 105;\n      cores = 2;\n      memory = 2048;\n      disk = \"30G\";\n      ip = \"192.0.2.10/24\";\n      gateway = \"192.0.2.1\";\n      purpose = \"The shop\";\n    };\n";
    assert!(text.contains(written), "{text}");
}

/// With `<`, to the question before: what was answered there is offered, and what follows from it is asked anew.
#[test]
fn a_person_can_go_back_in_the_questions() {
    let bench = Bench::new();
    let command = bench.command(&["new", "web", "--cores", "1"]);
    let session = rexpect::session::spawn_command(command, Some(20_000)).unwrap();
    let dialogue = [
        ("< leads back to the question before", ""),
        ("VMID [100]: ", "<"),
        ("VMID [100]: ", "105"),
        // A flag answers what stands between them.
        ("Memory in MiB [4096]: ", "<"),
        ("VMID [105]: ", "106"),
        ("Memory in MiB [4096]: ", "2048"),
        ("Disk [20G]: ", ""),
        ("Address, such as 192.0.2.10/24, or dhcp [dhcp]: ", "192.0.2.10/24"),
        ("Gateway (Enter for none): ", "192.0.2.1"),
        ("What is it for? ", "<"),
        ("Gateway, or none [192.0.2.1]: ", "<"),
        ("Address, such as 192.0.2.10/24, or dhcp [192.0.2.10/24]: ", "dhcp"),
        ("What is it for? ", "The shop"),
        ("Write this? (y/N) ", "y"),
        ("'web' is valid", ""),
    ];
    converse(session, &dialogue);
    let text = bench.fleet.read("vms/definitions.nix");
    let written = "    web = {\n      vmid = 106;\n      cores = 1;\n      memory = 2048;\n      disk = \"20G\";\n      purpose = \"The shop\";\n    };\n";
    assert!(text.contains(written), "{text}");
}

#[test]
fn what_the_definition_names_and_is_not_there_is_told() {
    let bench = Bench::new();
    for (words, told) in [
        (&["--storage", "nosuch"][..], "⚠ storage 'nosuch' does not exist (for disks there are: "),
        (&["--on-node", "pram"], "⚠ node 'pram' does not exist (there are: prom)"),
        (&["--bridge", "vmbr7"], "⚠ bridge 'vmbr7' does not exist (there are: vmbr0"),
        (&["--template", "9999"], "⚠ there is no template 9999"),
        (
            &["--nixos-config", "test-automation"],
            "⚠ hosts/test-automation/ is the system of 'test-automation': 'web' would be the same one",
        ),
    ] {
        let output = bench.run(&[&["new", "web", "--dry-run"], words].concat());
        let seen = bench.seen(&output);
        assert!(output.status.success() && seen.contains(told), "{words:?}: {seen}");
        let warnings = seen.lines().filter(|line| line.starts_with('⚠')).count();
        assert_eq!(warnings, 1, "{words:?}: {seen}");
    }
    let plain = bench.run(&["new", "web", "--dry-run"]);
    assert!(!bench.seen(&plain).contains('⚠'), "{}", bench.seen(&plain));
}

/// Ctrl-C and Ctrl-D leave at once, wherever they are pressed, and nothing is written.
#[test]
fn a_person_can_leave_at_any_question() {
    let bench = Bench::new();
    for key in ['c', 'd'] {
        let command = bench.command(&["new", "web"]);
        let mut session = rexpect::session::spawn_command(command, Some(20_000)).unwrap();
        session.exp_string("VMID [100]: ").unwrap();
        session.send_line("").unwrap();
        session.exp_string("CPU cores [2]: ").unwrap();
        session.send_control(key).unwrap();
        let ended = session.process().wait().unwrap();
        assert!(format!("{ended:?}").contains(", 130)"), "Ctrl-{key}: {ended:?}");
        assert_eq!(bench.fleet.status(), "");
    }
}

/// Names of its own inside and under hosts/, and what a definition can say besides, from flags alone.
#[test]
fn other_names_lead_to_its_own_files() {
    let bench = Bench::new();
    let args = "new web --nixos-config web-eu --hostname www --further-disk 4G --package htop --no-secrets \
                --anti-affinity web --install none --note remark --range production";
    let dry = bench.run(&[&args.split_whitespace().collect::<Vec<_>>()[..], &["--dry-run"]].concat());
    assert!(dry.status.success(), "{}", bench.seen(&dry));
    let output = bench.run(&[&args.split_whitespace().collect::<Vec<_>>()[..], &["--yes"]].concat());
    let seen = bench.seen(&output);
    assert!(output.status.success() && seen.contains("'web' is valid"), "{seen}");
    let configuration = bench.fleet.read("hosts/web-eu/configuration.nix");
    assert!(
        configuration.contains("\"www\"") && !configuration.contains("test-automation"),
        "{configuration}"
    );
    let text = bench.fleet.read("vms/definitions.nix");
    for words in ["nixosConfig = \"web-eu\";", "disks = [ \"4G\" ];", "secrets = [ ];", "install = \"none\";"]
    {
        assert!(text.contains(words), "{words}: {text}");
    }
    // What would not be valid is not shown as if it were.
    let bad = bench.run(&["new", "db", "--timezone", "no zone", "--dry-run"]);
    assert!(
        !bad.status.success() && bench.seen(&bad).contains("managed.db.timezone"),
        "{}",
        bench.seen(&bad)
    );
}
