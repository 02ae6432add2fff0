//! From the definition into the fleet, against a simulated node over real SSH; cut short and run again.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test stops at the first surprise, and starts the tools itself"
)]

mod common;

use std::{
    process::{Command, Stdio},
    time::Duration,
};

use common::{Bench, Gate, Said, instead, until};
use pve_sim::{faults::Fault, guest::Os, testing::tool};

#[test]
fn a_definition_becomes_a_member_of_the_fleet() {
    let bench = Bench::new();
    let output = bench.run(&["test-automation", "--yes", "--json"]);
    let seen = bench.seen(&output);
    assert!(output.status.success(), "{seen}");

    // The way in works at once: the key is on record under the VM's name.
    let known = bench.sim.dir().join("home/.local/state/fleet/known_hosts");
    assert!(std::fs::read_to_string(&known).unwrap().contains("test-automation ssh-ed25519 "), "{seen}");
    let straight = "\n  ssh -o 'UserKnownHostsFile=DIR/home/.local/state/fleet/known_hosts' -o \
                    'HostKeyAlias=test-automation' fleet@192.0.2.";
    assert!(seen.contains(straight), "{seen}");

    // The start reads as promised.
    let start = "\
==> Checking prerequisites...
✓ All prerequisites met
==> Starting VM provisioning for: test-automation
==> Loading VM definition for 'test-automation'...
✓ VM definition loaded
==> Validating VM configuration...
✓ VM configuration valid
  VMID: 110
  Cores: 2
  Memory: 4096MB
  Disk: 20G
  Storage: nvmeprom
  NixOS Config: test-automation

⚠ Ready to provision VM 'test-automation' (VMID: 110)
⚠ This will:
  1. Clone template VM
  2. Configure resources and networking
  3. Start VM and wait for network
  4. Install NixOS (nixos-anywhere) and integrate with the fleet
";
    let stderr = String::from_utf8(output.stderr.clone()).unwrap();
    assert!(stderr.starts_with(start), "{stderr}");

    // The VM is what the definition says, and runs NixOS with the key that was made for it.
    let config = bench.sim.config(110).unwrap();
    let setting = |name: &str| config.get(name).map(str::to_owned).unwrap_or_default();
    assert_eq!(
        (setting("cores"), setting("memory"), setting("name")),
        ("2".into(), "4096".into(), "test-automation".into())
    );
    assert!(setting("scsi0").contains("size=20G"), "{}", setting("scsi0"));
    let (system, address) = bench.sim.guest(110).unwrap();
    assert_eq!(system, Os::Nixos);
    let hosts = bench.fleet.read("hosts.nix");
    let key = bench.sim.guest_host_key(110).unwrap();
    let blob = key.split_whitespace().nth(1).unwrap();
    assert!(hosts.contains(blob), "{hosts}");

    // Standard output carries the answer alone.
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["vmid"], 110);
    assert_eq!(answer["address"], address);
    assert_eq!(answer["integrated"], true);

    // Committed, and nothing else changed.
    assert_eq!(bench.fleet.status(), "");
    let subject = bench.fleet.git(&["log", "-1", "--format=%s"]).unwrap();
    assert_eq!(subject.trim(), "feat(vms): add test-automation to fleet");

    // One creation, one change of the configuration before the start, never a word to another VM.
    let changes = bench.sim.changes();
    let to = |words: &str| changes.iter().filter(|c| c.contains(words)).count();
    assert_eq!(to("/qemu/9002/clone"), 1, "{changes:?}");
    assert_eq!(to("/qemu/104"), 0, "{changes:?}");
    assert_eq!(to("/qemu/109"), 0, "{changes:?}");
    let before_start: Vec<_> = changes.iter().take_while(|c| !c.contains("/status/start")).collect();
    assert_eq!(before_start.iter().filter(|c| c.ends_with("/qemu/110/config")).count(), 1, "{changes:?}");

    // Equal now; and once more there is nothing to do.
    let plan = bench.run(&["plan"]);
    assert_eq!(plan.status.code(), Some(0), "{}", bench.seen(&plan));
    let head = bench.fleet.git(&["rev-parse", "HEAD"]).unwrap();
    let before = bench.sim.changes().len();
    let again = bench.run(&["test-automation", "--yes"]);
    assert!(again.status.success(), "{}", bench.seen(&again));
    assert_eq!(bench.sim.changes().len(), before, "{:?}", bench.sim.changes());
    assert_eq!(bench.fleet.git(&["rev-parse", "HEAD"]).unwrap(), head);
}

#[test]
fn a_dry_run_changes_nothing_and_says_everything() {
    let bench = Bench::new();
    let output = bench.run(&["test-automation", "--dry-run"]);
    assert_eq!(bench.sim.changes(), [] as [String; 0]);
    assert_eq!(bench.fleet.status(), "");
    let tools = tool("provision-vm").parent().unwrap().to_string_lossy().into_owned();
    let mut seen = bench.seen(&output).replace(&tools, "TOOLS");
    // Made anew each time.
    let made = [
        "nonce=",
        "SHA256:",
        "publicKey = \"ssh-ed25519 ",
        "ed25519_public: ssh-ed25519 ",
        "  - &test-automation ",
    ];
    for before in made {
        seen = masked(&seen, before);
    }
    insta::assert_snapshot!("dry-run", seen);
}

/// The text with the word after each `before` replaced.
fn masked(text: &str, before: &str) -> String {
    let mut parts = text.split(before);
    let mut out = parts.next().unwrap().to_owned();
    for part in parts {
        let word =
            part.find(|c: char| !c.is_ascii_alphanumeric() && !"+/=".contains(c)).unwrap_or(part.len());
        out.push_str(&format!("{before}…{}", &part[word..]));
    }
    out
}

#[test]
fn without_the_installation_the_two_commands_that_remain_are_printed() {
    let bench = Bench::new();
    let output = bench.run(&["test-automation", "--yes", "--no-install"]);
    let seen = bench.seen(&output);
    assert!(output.status.success(), "{seen}");
    let (system, address) = bench.sim.guest(110).unwrap();
    assert_eq!(system, Os::CloudImage);
    // How it gets the system depends on the nix that is there.
    let remains =
        seen.split("Two commands remain:\n  ").nth(1).unwrap_or_default().lines().next().unwrap_or_default();
    let ways = ["nixos-anywhere --flake ", "nixos-anywhere --store-paths result-disko result-system "];
    assert!(ways.iter().any(|way| remains.contains(way)), "{seen}");
    assert!(remains.ends_with(&format!(" --copy-host-keys --target-host root@{address}")), "{seen}");
    assert!(seen.ends_with(&format!("\n  post-provision-vm test-automation {address} 110\n")), "{seen}");
    assert_eq!(bench.fleet.status(), "");
}

#[test]
fn plan_tells_what_would_be_made() {
    let bench = Bench::new();
    let output = bench.run(&["plan", "--json"]);
    assert_eq!(output.status.code(), Some(2), "{}", bench.seen(&output));
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer[0]["name"], "test-automation");
    assert_eq!(answer[0]["state"], "create");
    assert_eq!(bench.sim.changes(), [] as [String; 0]);
}

/// Kills the run as soon as `reached` holds, hard, and then runs the same command again.
fn killed_when(what: &str, reached: impl Fn(&Bench) -> bool) {
    let bench = Bench::new();
    bench.killed_when(&["test-automation", "--yes"], what, || reached(&bench));
    let again = bench.run(&["test-automation", "--yes"]);
    assert!(again.status.success(), "killed at {what}: {}", bench.seen(&again));
    assert_eq!(bench.fleet.status(), "", "killed at {what}");
    let clones = bench.sim.changes().iter().filter(|c| c.contains("/clone")).count();
    assert_eq!(clones, 1, "killed at {what}: a second VM was made");
    assert!(bench.sim.config(110).unwrap().get("lock").is_none(), "killed at {what}");
    let hosts = bench.fleet.read("hosts.nix");
    let key = bench.sim.guest_host_key(110).unwrap();
    assert!(hosts.contains(key.split_whitespace().nth(1).unwrap()), "killed at {what}: {hosts}");
}

fn requested(bench: &Bench, words: &str) -> bool {
    bench.sim.changes().iter().any(|c| c.contains(words))
}

#[test]
fn killed_after_the_clone_was_asked_for() {
    killed_when("the clone", |bench| requested(bench, "/clone"));
}

#[test]
fn killed_while_it_was_configured() {
    killed_when("the configuration", |bench| requested(bench, "/qemu/110/config"));
}

#[test]
fn killed_after_the_start() {
    killed_when("the start", |bench| requested(bench, "/status/start"));
}

/// The key that it was given is known before it is started: nothing else can tell it where no guest agent answers.
#[test]
fn killed_in_the_start_of_a_vm_without_an_agent() {
    let bench = Bench::new();
    bench.sim.inject(Fault::AgentNever { vmid: 110 });
    let args = &["test-automation", "--yes", "--no-install"];
    bench.sim.inject(Fault::TaskSlow { kind: "qmstart".to_owned(), by: Duration::from_secs(2) });
    bench.killed_when(args, "the start", || requested(&bench, "/status/start"));
    until("the end of the start", 20, || bench.sim.is_running(110));
    let again = bench.run(args);
    assert!(again.status.success(), "{}", bench.seen(&again));
}

#[test]
fn killed_in_the_installer() {
    killed_when("the installer", |bench| bench.sim.guest(110).is_some_and(|(os, _)| os == Os::Installer));
}

#[test]
fn killed_after_the_reboot() {
    killed_when("NixOS", |bench| bench.sim.guest(110).is_some_and(|(os, _)| os == Os::Nixos));
}

#[test]
fn the_question_is_asked_and_no_means_no() {
    let bench = Bench::new();
    let mut command = Command::new(tool("provision-vm"));
    command.arg("test-automation").current_dir(bench.fleet.path());
    bench.sim.apply(&mut command);
    let mut session = rexpect::session::spawn_command(command, Some(20_000)).unwrap();
    session.exp_string("Continue? (y/N) ").unwrap();
    session.send_line("n").unwrap();
    session.exp_string("Nothing was changed.").unwrap();
    // What follows with `&&` is not for a VM that was not made.
    let status = session.process().wait().unwrap();
    assert!(format!("{status:?}").ends_with(", 130)"), "{status:?}");
    assert_eq!(bench.sim.changes(), [] as [String; 0]);
    assert_eq!(bench.fleet.status(), "");
}

#[test]
fn ctrl_c_stops_at_a_safe_point_and_the_same_command_goes_on() {
    let bench = Bench::new();
    let child = bench
        .command(&["test-automation", "--yes"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    until("the installer", 60, || bench.sim.guest(110).is_some_and(|(os, _)| os == Os::Installer));
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    let seen = bench.seen(&output);
    assert_eq!(output.status.code(), Some(130), "{seen}");
    assert!(seen.contains("⚠ stopping at the next safe point; once more leaves at once\n"), "{seen}");
    assert!(seen.ends_with("hint: `provision-vm test-automation` continues from here\n"), "{seen}");
    let again = bench.run(&["test-automation", "--yes"]);
    assert!(again.status.success(), "{}", bench.seen(&again));
}

#[test]
fn ctrl_c_ends_the_wait_for_an_address_that_never_comes() {
    let bench = Bench::new();
    bench.sim.inject(Fault::NeverBoots { vmid: 110 });
    let mut child = bench
        .command(&["test-automation", "--yes"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = Said::of(&mut child);
    said.until("Finding the VM's address...\n", 60);
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let seen = said.all();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{seen}");
    assert!(seen.contains("it only waited: nothing was under way on the node"), "{seen}");
    assert!(seen.ends_with("hint: `provision-vm test-automation` continues from here\n"), "{seen}");
    // The private key is not left on the node, though the conversation was.
    assert!(!seen.contains("may still be on the node"), "{seen}");
}

#[test]
fn a_new_address_that_the_node_hears_nothing_of_is_found_by_asking() {
    let bench = Bench::new();
    bench.sim.inject(Fault::QuietNeighbours { vmid: 110 });
    let output = bench.run(&["test-automation", "--yes"]);
    assert!(output.status.success(), "{}", bench.seen(&output));
    let asked = bench.sim.requests().iter().filter(|r| format!("{r:?}").contains("perl -MSocket")).count();
    assert!(asked > 0, "the network was never asked");
}

#[test]
fn a_vm_that_was_destroyed_is_made_again() {
    let bench = Bench::new();
    let first = bench.run(&["test-automation", "--yes"]);
    assert!(first.status.success(), "{}", bench.seen(&first));
    let key = bench.sim.guest_host_key(110).unwrap();
    let mut destroy = bench.sim.command("proxmox-ops", &bench.fleet);
    let destroyed = destroy.args(["destroy", "--stop", "test-automation", "yes"]).output().unwrap();
    assert!(destroyed.status.success(), "{}", bench.seen(&destroyed));
    let again = bench.run(&["test-automation", "--yes"]);
    assert!(again.status.success(), "{}", bench.seen(&again));
    let hosts = bench.fleet.read("hosts.nix");
    let blob = |line: &str| line.split_whitespace().nth(1).unwrap().to_owned();
    assert!(!hosts.contains(&blob(&key)), "{hosts}");
    assert!(hosts.contains(&blob(&bench.sim.guest_host_key(110).unwrap())), "{hosts}");
}

#[test]
fn the_fleet_knows_the_vm_before_it_is_installed() {
    let bench = Bench::new();
    bench.sim.inject(Fault::InstallFails { vmid: 110, phase: "install".to_owned() });
    let output = bench.run(&["test-automation", "--yes"]);
    let seen = bench.seen(&output);
    assert_eq!(output.status.code(), Some(1), "{seen}");
    assert!(bench.fleet.read("hosts.nix").contains("test-automation = {"), "{seen}");
    bench.sim.clear_faults();
    let again = bench.run(&["test-automation", "--yes"]);
    assert!(again.status.success(), "{}", bench.seen(&again));
    let key = bench.sim.guest_host_key(110).unwrap();
    assert!(bench.fleet.read("hosts.nix").contains(key.split_whitespace().nth(1).unwrap()));
}

#[test]
fn two_runs_of_one_vm_do_not_meet() {
    let bench = Bench::new();
    let gate = Gate::new(&bench);
    instead(&bench, &gate.shell());
    let mut first = bench
        .command(&["test-automation", "--yes"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    until("the installer", 60, || gate.reached());
    let second = bench.run(&["test-automation", "--yes"]);
    assert_eq!(second.status.code(), Some(4), "{}", bench.seen(&second));
    assert!(bench.seen(&second).contains("another run is at work on 'test-automation' (process "));
    for verb in [&["test-automation"][..], &["destroy", "test-automation"]] {
        let dry = bench.run(&[verb, &["--dry-run"]].concat());
        let seen = bench.seen(&dry);
        assert!(seen.contains("⚠ another run is at work on 'test-automation' (process "), "{seen}");
    }
    gate.open();
    assert!(first.wait().unwrap().success());
}

#[test]
fn a_system_that_is_degraded_is_told_with_the_units_that_failed() {
    let bench = Bench::new();
    let units = ["nginx.service", "backup.timer"].map(str::to_owned).to_vec();
    bench.sim.inject(Fault::UnitsFailed { vmid: 110, units });
    let output = bench.run(&["test-automation", "--yes"]);
    let seen = bench.seen(&output);
    assert!(output.status.success(), "{seen}");
    let told = "⚠ the system is degraded; units that failed: nginx.service, backup.timer\n\
                hint: on the VM: systemctl status nginx.service backup.timer\n";
    assert!(seen.contains(told), "{seen}");
}
