//! What must not happen, does not: exact words, exact exit code, and proof that the node was left alone.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test stops at the first surprise, and starts the tools itself"
)]

mod common;

use common::Bench;
use insta::assert_snapshot;
use pve_sim::{faults::Fault, testing::Sim, world::World};

/// Runs it, and nothing may have reached the node.
fn offline(bench: &Bench, args: &[&str]) -> String {
    let output = bench.run(args);
    assert_eq!(bench.sim.connections(), 0, "something was sent to the node");
    bench.seen(&output)
}

/// Runs it, and nothing on the node may have changed.
fn harmless(bench: &Bench, args: &[&str]) -> String {
    let output = bench.run(args);
    assert_eq!(bench.sim.changes(), [] as [String; 0]);
    assert_eq!(bench.fleet.status(), "");
    bench.seen(&output)
}

/// Keys are made anew for each test: their fingerprints, in the order in which they first come.
fn fingerprints(seen: &str) -> String {
    let mut seen = seen.to_owned();
    for number in 1.. {
        let Some(at) = seen.find("SHA256:") else { break };
        let print = seen[at..at + "SHA256:".len() + 43].to_owned();
        seen = seen.replace(&print, &format!("FINGERPRINT-{number}"));
    }
    seen
}

#[test]
fn outside_a_fleet_repository() {
    let bench = Bench::new();
    let elsewhere = tempfile::tempdir_in(bench.sim.dir()).unwrap();
    let output = bench.command(&["test-automation", "--yes"]).current_dir(elsewhere.path()).output().unwrap();
    let seen =
        bench.seen(&output).replace(&*elsewhere.path().file_name().unwrap().to_string_lossy(), "ELSEWHERE");
    assert_snapshot!("outside", seen);
    assert_eq!(bench.sim.connections(), 0);
}

#[test]
fn an_unknown_name_suggests_the_nearest() {
    let bench = Bench::new();
    assert_snapshot!("unknown", offline(&bench, &["test-automatoin", "--yes"]));
}

#[test]
fn an_imported_vm_is_never_touched() {
    let bench = Bench::new();
    assert_snapshot!("imported", offline(&bench, &["doc1", "--yes"]));
}

#[test]
fn a_vmid_that_two_definitions_claim() {
    let bench = Bench::new();
    bench.fleet.edit("vms/definitions.nix", "vmid = 110;", "vmid = 104;");
    assert_snapshot!("vmid-twice", offline(&bench, &["test-automation", "--yes"]));
}

#[test]
fn a_syntax_error_in_the_definitions() {
    let bench = Bench::new();
    bench.fleet.edit("vms/definitions.nix", "vmid = 110;", "vmid = 110");
    assert_snapshot!("syntax-error", offline(&bench, &["test-automation", "--yes"]));
}

#[test]
fn every_fault_of_a_definition_at_once() {
    let bench = Bench::new();
    bench.fleet.edit("vms/definitions.nix", "vmid = 110;\n      cores = 2;", "vmid = 99;\n      coers = 2;");
    bench.fleet.edit("vms/definitions.nix", "disk = \"20G\";", "disk = \"20 gigs\";");
    assert_snapshot!("faults", offline(&bench, &["test-automation", "--yes"]));
}

#[test]
fn no_key_that_may_log_in() {
    let bench = Bench::new();
    let hosts = bench.fleet.read("hosts.nix");
    bench.fleet.write("hosts.nix", &hosts.replace("authorizedKeys = masterKeys;", "authorizedKeys = [ ];"));
    bench.fleet.commit("no keys");
    assert_snapshot!("no-keys", harmless(&bench, &["test-automation", "--yes"]));
}

#[test]
fn a_key_that_the_fleet_does_not_know() {
    let bench = Bench::new();
    let hosts = bench.fleet.read("hosts.nix");
    bench.fleet.write("hosts.nix", &hosts.replace("IMhYXQSOgHE", "IMhYXQSOgHF"));
    bench.fleet.commit("another key");
    assert_snapshot!("foreign-key", harmless(&bench, &["test-automation", "--yes"]));
}

#[test]
fn no_configuration_for_the_host() {
    let bench = Bench::new();
    std::fs::remove_dir_all(bench.fleet.path().join("hosts/test-automation")).unwrap();
    bench.fleet.commit("no host");
    assert_snapshot!("no-host", harmless(&bench, &["test-automation", "--yes"]));
}

#[test]
fn no_terminal_and_no_yes() {
    let bench = Bench::new();
    assert_snapshot!("no-terminal", harmless(&bench, &["test-automation"]));
}

#[test]
fn the_node_can_not_be_reached() {
    let bench = Bench::new();
    // A port on which nothing listens: bound here, then let go.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let output = bench
        .command(&["test-automation", "--yes"])
        .env("PROXMOX_HOST", format!("127.0.0.1:{port}"))
        .output()
        .unwrap();
    assert_snapshot!("unreachable", bench.seen(&output).replace(&port.to_string(), "PORT"));
}

#[test]
fn an_unknown_host_key() {
    let bench = Bench::new();
    bench.sim.forget_host_key();
    assert_snapshot!("unknown-host-key", fingerprints(&harmless(&bench, &["test-automation", "--yes"])));
    assert!(bench.sim.calls().is_empty());
}

#[test]
fn a_changed_host_key() {
    let bench = Bench::new();
    bench.sim.expect_another_host_key();
    assert_snapshot!("changed-host-key", fingerprints(&harmless(&bench, &["test-automation", "--yes"])));
    assert!(bench.sim.calls().is_empty());
}

#[test]
fn a_vmid_that_somebody_elses_vm_has() {
    let bench =
        Bench::with(Sim::with(World::default().with_vm(110, true, &[("name", "web"), ("cores", "1")])));
    assert_snapshot!("taken-by-vm", harmless(&bench, &["test-automation", "--yes"]));
}

#[test]
fn a_vmid_that_a_container_has() {
    let bench = Bench::with(Sim::with(World::default().with_container(110, "pihole")));
    assert_snapshot!("taken-by-container", harmless(&bench, &["test-automation", "--yes"]));
}

#[test]
fn a_vmid_on_another_node() {
    let bench = Bench::with(Sim::with(World::default().with_foreign_vm(110, "web", "prom2")));
    assert_snapshot!("taken-elsewhere", harmless(&bench, &["test-automation", "--yes"]));
}

#[test]
fn a_vm_of_the_same_name_and_number_that_is_not_ours() {
    let settings = [("name", "test-automation"), ("cores", "2"), ("memory", "4096")];
    let bench = Bench::with(Sim::with(World::default().with_vm(110, false, &settings)));
    assert_snapshot!("not-ours", harmless(&bench, &["test-automation", "--yes"]));
}

#[test]
fn an_api_that_is_down_is_no_free_vmid() {
    let bench = Bench::new();
    bench.sim.inject(Fault::ApiDown);
    assert_snapshot!("api-down", harmless(&bench, &["test-automation", "--yes"]));
}

#[test]
fn no_word_can_become_a_command() {
    let bench = Bench::new();
    for word in [
        "$(touch pwned)",
        "`touch pwned`",
        "a;touch pwned",
        "a\ntouch pwned",
        "../../etc",
        "-rf",
        "'",
        "a b",
        "",
    ] {
        let output = bench.run(&["--yes", "--", word]);
        assert!(matches!(output.status.code(), Some(2 | 5)), "{word:?}: {output:?}");
    }
    for host in ["$(touch pwned)", "-oProxyCommand=touch pwned", "a b", "", "host:port", "root@a;touch pwned"]
    {
        let output = bench.command(&["--yes", "test-automation"]).env("PROXMOX_HOST", host).output().unwrap();
        assert!(!output.status.success(), "{host:?}: {output:?}");
    }
    assert_eq!(bench.sim.connections(), 0);
    assert_eq!(bench.fleet.status(), "");
}

#[test]
fn everything_that_stands_in_the_way_is_told_at_once() {
    let world = World::default().with_foreign_vm(150, "test-automation", "prom2");
    let bench = Bench::with(Sim::with(world));
    bench.fleet.edit(
        "vms/definitions.nix",
        "memory = 4096;\n      disk = \"20G\";\n      storage = \"nvmeprom\";",
        "memory = 1024;\n      disk = \"20G\";\n      storage = \"nowhere\";\n      bridge = \"vmbr7\";",
    );
    bench.fleet.edit("hosts/test-automation/configuration.nix", "    ./disko.nix\n", "    # ./disko.nix\n");
    let hosts = bench.fleet.read("hosts.nix");
    bench.fleet.write("hosts.nix", &hosts.replace("IMhYXQSOgHE", "IMhYXQSOgHF"));
    bench.fleet.commit("another key");
    assert_snapshot!("all-at-once", harmless(&bench, &["test-automation", "--yes"]));
}

#[test]
fn files_that_could_not_be_committed_are_found_before_the_vm_is_made() {
    let bench = Bench::new();
    let hosts = bench.fleet.read("hosts.nix");
    bench.fleet.write("hosts.nix", &format!("{hosts}\n"));
    let output = bench.run(&["test-automation", "--yes"]);
    let seen = bench.seen(&output);
    assert_eq!(output.status.code(), Some(3), "{seen}");
    assert!(seen.contains("hosts.nix has uncommitted changes"), "{seen}");
    assert_eq!(bench.sim.changes(), [] as [String; 0]);
}

#[test]
fn an_address_that_a_machine_answers_to_is_not_free() {
    let bench = Bench::new();
    let definition = "nixosConfig = \"test-automation\";";
    let own = format!("{definition} ip = \"192.0.2.1/24\"; gateway = \"192.0.2.254\";");
    bench.fleet.edit("vms/definitions.nix", definition, &own);
    bench.fleet.commit("a fixed address");
    let seen = harmless(&bench, &["test-automation", "--yes"]);
    assert!(seen.contains("exit code: 4\n"), "{seen}");
    assert!(seen.contains("✗ the address 192.0.2.1 is taken by node prom itself\n"), "{seen}");
    // A node that can not tell is not taken for one that has nobody there.
    bench.sim.inject(Fault::NoProgram { name: "ip".to_owned() });
    let seen = harmless(&bench, &["test-automation", "--dry-run"]);
    assert!(seen.contains("answers to 192.0.2.1 could not be asked"), "{seen}");
    assert!(seen.contains("ip: command not found") && !seen.contains("is taken by"), "{seen}");
}

#[test]
fn an_address_of_a_vm_or_of_a_machine_that_nobody_knows_is_not_free() {
    let bench = Bench::new();
    let definition = bench.fleet.read("vms/definitions.nix");
    // One that the node has not heard of until it asks.
    bench.sim.inject(Fault::QuietNeighbours { vmid: 104 });
    let of_doc1 = bench.sim.guest(104).unwrap().1;
    let mac = "02:00:5E:10:00:07";
    bench.sim.inject(Fault::Stranger { address: "192.0.2.77".to_owned(), mac: mac.to_owned() });
    let stranger = format!("a machine with the MAC address {mac}, which answered node prom");
    for (address, holder) in
        [(of_doc1.as_str(), "VM 104 'doc1' on node prom"), ("192.0.2.77", stranger.as_str())]
    {
        let fixed =
            format!("nixosConfig = \"test-automation\"; ip = \"{address}/24\"; gateway = \"192.0.2.254\";");
        let text = definition.replace("nixosConfig = \"test-automation\";", &fixed);
        bench.fleet.write("vms/definitions.nix", &text);
        bench.fleet.commit("a fixed address");
        let seen = harmless(&bench, &["test-automation", "--yes"]);
        assert!(seen.contains("exit code: 4\n"), "{seen}");
        assert!(seen.contains(&format!("✗ the address {address} is taken by {holder}\n")), "{seen}");
    }
    // The one that had it is gone, and the node has not noticed yet.
    bench.sim.clear_faults();
    let (address, of) = ("192.0.2.77".to_owned(), mac.to_owned());
    bench.sim.inject(Fault::Remembered { address, mac: of, looks: 3, there: false });
    let output = bench.run(&["test-automation", "--yes", "--no-install"]);
    let seen = bench.seen(&output);
    assert!(output.status.success(), "{seen}");
    let note = "  the node remembers a machine at 192.0.2.77, which does not answer: waiting until the node has asked";
    assert!(seen.contains(note), "{seen}");
    assert_eq!(bench.sim.guest(110).unwrap().1, "192.0.2.77");
    // Whoever takes it later is not taken for the VM.
    bench.sim.inject(Fault::AgentNever { vmid: 110 });
    bench.sim.inject(Fault::NoAddress { vmid: 110 });
    bench.sim.inject(Fault::Stranger { address: "192.0.2.77".to_owned(), mac: mac.to_owned() });
    let asked = bench.sim.command("proxmox-ops", &bench.fleet).args(["get-ip", "110"]).output().unwrap();
    let seen = bench.seen(&asked);
    assert_eq!(asked.status.code(), Some(5), "{seen}");
    let why =
        format!("192.0.2.77 (static): the definition's, but the machine with the MAC address {mac} has it\n");
    assert!(seen.contains(&why), "{seen}");
}
