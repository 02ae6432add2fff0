//! A VM on which NixOS is or may be: whatever state it is found in, cloud-init never gets at it again.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod common;

use common::Bench;
use pve_sim::{conf::VmConf, faults::Fault, guest::Os};

const NAME: &str = "test-automation";

fn run_well(bench: &Bench) {
    let output = bench.run(&[NAME, "--yes"]);
    assert!(output.status.success(), "{}", bench.seen(&output));
}

fn stop(bench: &Bench) {
    let mut command = bench.sim.command("proxmox-ops", &bench.fleet);
    let output = command.args(["stop", NAME, "--yes"]).output().unwrap();
    assert!(output.status.success(), "{}", bench.seen(&output));
    assert!(!bench.sim.is_running(110));
}

/// What cloud-init would be told at the next start.
fn seed(bench: &Bench) -> Vec<(String, String)> {
    let conf = bench.sim.config(110).unwrap();
    let told = |name: &str| {
        name.starts_with("ci") || name.starts_with("ipconfig") || name.starts_with("ide") || name == "sshkeys"
    };
    conf.with_pending().into_iter().filter(|(name, _)| told(name)).collect()
}

/// Forgets what runs on this machine have learnt: as on another operator's.
fn forget(bench: &Bench) {
    std::fs::remove_dir_all(bench.sim.dir().join("home/.local/state/fleet")).unwrap();
}

#[test]
fn one_that_is_powered_off_is_started_and_nothing_else() {
    let bench = Bench::new();
    run_well(&bench);
    let (key, before) = (bench.sim.guest_host_key(110), seed(&bench));
    for elsewhere in [false, true] {
        stop(&bench);
        if elsewhere {
            forget(&bench);
            bench.sim.inject(Fault::AgentNever { vmid: 110 });
        }
        let changes = bench.sim.changes().len();
        run_well(&bench);
        assert_eq!(bench.sim.changes()[changes..], ["POST /nodes/prom/qemu/110/status/start"]);
        assert_eq!((bench.sim.guest_host_key(110), seed(&bench)), (key.clone(), before.clone()));
        assert_eq!(bench.fleet.status(), "");
    }
}

/// Nor does it matter what became of the settings that cloud-init once had, or of the way that it was made.
#[test]
fn one_whose_cloud_init_settings_were_cleared_away_is_not_taken_for_a_fresh_clone() {
    let bench = Bench::new();
    run_well(&bench);
    stop(&bench);
    let clear = |conf: &mut VmConf| {
        for name in ["ciuser", "sshkeys", "ipconfig0", "ciupgrade"] {
            conf.main.remove(name);
        }
    };
    bench.sim.edit(110, clear);
    run_well(&bench);
    assert_eq!(seed(&bench), []);
}

#[test]
fn one_that_runs_and_can_not_be_asked_is_left_as_it_is() {
    let bench = Bench::new();
    run_well(&bench);
    forget(&bench);
    bench.sim.inject(Fault::AgentNever { vmid: 110 });
    let (changes, before) = (bench.sim.changes().len(), seed(&bench));
    let output = bench.run(&[NAME, "--yes"]);
    let seen = bench.seen(&output);
    assert!(output.status.success(), "{seen}");
    assert_eq!(bench.sim.changes()[changes..], [] as [String; 0], "{seen}");
    assert_eq!(seed(&bench), before);
}

/// Between the reboot and the end of the run the drive is still there.
#[test]
fn one_that_was_powered_off_before_its_drive_was_detached_keeps_its_key() {
    let bench = Bench::new();
    bench.killed_when(&[NAME, "--yes"], "NixOS", || {
        bench.sim.guest(110).is_some_and(|(os, _)| os == Os::Nixos)
    });
    stop(&bench);
    let changes = bench.sim.changes().len();
    run_well(&bench);
    let after = bench.sim.changes()[changes..].to_vec();
    let start = after.iter().position(|change| change.ends_with("/status/start")).unwrap();
    assert_eq!(start, 0, "nothing is changed before it runs: {after:?}");
    assert!(seed(&bench).iter().all(|(name, _)| !name.starts_with("ide") && name != "cicustom"));
    let key = bench.sim.guest_host_key(110).unwrap();
    assert!(bench.fleet.read("hosts.nix").contains(key.split_whitespace().nth(1).unwrap()));
}

/// On a running machine a drive is only marked to go, and goes when it is powered off.
#[test]
fn a_drive_that_is_on_its_way_out_is_not_detached_once_more() {
    let bench = Bench::new();
    run_well(&bench);
    bench.sim.edit(110, |conf| {
        conf.main.insert("ide2".to_owned(), "nvmeprom:110/vm-110-cloudinit.qcow2,media=cdrom".to_owned());
        conf.pending.insert("delete".to_owned(), "ide2".to_owned());
    });
    let changes = bench.sim.changes().len();
    run_well(&bench);
    assert_eq!(bench.sim.changes()[changes..], [] as [String; 0]);
    // And one that is on its way in, whoever asked for it, is.
    bench.sim.edit(110, |conf| {
        conf.main.remove("ide2");
        conf.pending.clear();
        conf.pending.insert("ide2".to_owned(), "nvmeprom:110/vm-110-cloudinit.qcow2,media=cdrom".to_owned());
    });
    run_well(&bench);
    assert!(seed(&bench).iter().all(|(name, _)| name != "ide2"), "{:?}", seed(&bench));
}

#[test]
fn a_dry_run_shows_what_is_left_to_do_and_no_more() {
    let bench = Bench::new();
    let output = bench.run(&[NAME, "--yes", "--no-install"]);
    assert!(output.status.success(), "{}", bench.seen(&output));
    let dry = |args: &[&str]| {
        let changes = bench.sim.changes().len();
        let output = bench.run(&[&[NAME, "--dry-run"], args].concat());
        let seen = bench.seen(&output);
        assert!(output.status.success(), "{seen}");
        assert_eq!(bench.sim.changes().len(), changes, "{seen}");
        (seen, output)
    };
    let (seen, _) = dry(&[]);
    assert!(seen.contains("clone\n  (done already)\n"), "{seen}");
    assert!(seen.contains(" --phases kexec ") && seen.contains("post-provision-vm "), "{seen}");

    run_well(&bench);
    for elsewhere in [false, true] {
        if elsewhere {
            forget(&bench);
        }
        let (seen, _) = dry(&[]);
        for step in
            ["clone", "address", "host-key", "ssh", "build", "kexec", "integrate", "install", "reboot"]
        {
            assert!(seen.contains(&format!("{step}\n  (done already)\n")), "{step}: {seen}");
        }
        assert!(seen.contains("detach\n  (nothing to do)\n"), "{seen}");
        assert!(!seen.contains("--phases") && !seen.contains("POST ") && !seen.contains("PUT "), "{seen}");
    }
    let (_, output) = dry(&["--json"]);
    let shown: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let kexec = shown["steps"].as_array().unwrap().iter().find(|step| step["step"] == "kexec").unwrap();
    assert_eq!((&kexec["already"], kexec.get("commands")), (&serde_json::json!(true), None));

    // One that is off may have NixOS on it: that shows when it runs.
    stop(&bench);
    let (seen, _) = dry(&[]);
    assert!(seen.contains("/status/start"), "{seen}");
    assert!(seen.contains("where NixOS runs on it already, nothing of what follows"), "{seen}");
}

/// A run does not configure it: what differs is told before the question, and the inventory does not say what is not so.
#[test]
fn what_differs_is_told_with_what_brings_it_in_line() {
    let bench = Bench::new();
    run_well(&bench);
    let inventory = bench.fleet.read("docs/machines.md");
    bench.fleet.edit("vms/definitions.nix", "cores = 2;", "cores = 3;");
    let told = "⚠ VM 110 is not what its definition says, and this run leaves it so: cores: 2 -> 3 (`provision-vm apply \
                test-automation`)";
    let head = bench.fleet.git(&["rev-parse", "HEAD"]).unwrap();
    for (off, args) in [(false, &["--dry-run"][..]), (false, &["--yes", "-q"]), (true, &["--yes"])] {
        if off {
            stop(&bench);
        }
        let output = bench.run(&[&[NAME], args].concat());
        let seen = bench.seen(&output);
        assert!(output.status.success() && seen.contains(told), "{seen}");
        assert!(!seen.contains("+++ b/docs/machines.md"), "{seen}");
        assert_eq!(bench.fleet.read("docs/machines.md"), inventory);
    }
    assert_eq!(bench.fleet.git(&["rev-parse", "HEAD"]).unwrap(), head, "nothing is committed");
    let applied = bench.run(&["apply", NAME, "--yes"]);
    assert!(applied.status.success(), "{}", bench.seen(&applied));
    // What holds at its next start is no difference, and then the inventory says so, of what is committed or not.
    let text = bench.fleet.read("vms/definitions.nix");
    bench.fleet.write("vms/definitions.nix", &format!("{text}# being edited\n"));
    let output = bench.run(&[NAME, "--yes", "-q"]);
    let seen = bench.seen(&output);
    assert!(output.status.success() && !seen.contains("is not what its definition says"), "{seen}");
    assert_ne!(bench.fleet.read("docs/machines.md"), inventory);
    let uncommitted =
        "⚠ vms/definitions.nix has uncommitted changes: docs/machines.md is committed with what it says";
    assert!(seen.contains(uncommitted), "{seen}");
}

/// It needs no build: one that fails stops it no more than it says what runs there.
#[test]
fn a_build_that_fails_stops_only_where_nixos_is_not() {
    for installed in [true, false] {
        let bench = Bench::new();
        let first =
            bench.run(&[&[NAME, "--yes"][..], if installed { &[] } else { &["--no-install"] }].concat());
        assert!(first.status.success(), "{}", bench.seen(&first));
        if installed {
            bench.fleet.edit("hosts.nix", "hostname = \"test-automation\";", "hostname = \"another\";");
        } else {
            name_another(&bench);
        }
        let output = bench.run(&[NAME, "--yes"]);
        let seen = bench.seen(&output);
        let (code, without) = if installed { (0, false) } else { (1, true) };
        assert_eq!(output.status.code(), Some(code), "{seen}");
        assert_eq!(seen.contains("VM 110 is there, without NixOS"), without, "{seen}");
        assert_eq!(seen.contains("calls itself 'another'"), without, "{seen}");
    }
}

/// With a host name of another machine in the fleet's files.
fn misnamed() -> Bench {
    let bench = Bench::new();
    name_another(&bench);
    bench
}

fn name_another(bench: &Bench) {
    let entry = "thinkpad = {";
    let own = "test-automation = {\n    configurationFile = ./hosts/test-automation/configuration.nix;\n    \
               user = \"fleet\";\n    homeDirectory = \"/home/fleet\";\n    hostname = \"another\";\n    \
               sshAlias = \"test-automation\";\n    sshKeyName = \"id_ed25519\";\n    \
               authorizedKeys = masterKeys;\n  };\n\n  thinkpad = {";
    bench.fleet.edit("hosts.nix", entry, own);
    bench.fleet.commit("a host of another name");
}

#[test]
fn a_system_of_another_name_is_not_installed_where_that_shows_before() {
    let bench = misnamed();
    let output = bench.run(&[NAME, "--yes"]);
    let seen = bench.seen(&output);
    assert_eq!(output.status.code(), Some(1), "{seen}");
    assert!(
        seen.contains("✗ the system that was built calls itself 'another', not 'test-automation'"),
        "{seen}"
    );
    assert!(
        seen.contains("hint: set networking.hostName in hosts/test-automation/configuration.nix"),
        "{seen}"
    );
    assert_ne!(bench.sim.guest(110).map(|(os, _)| os), Some(Os::Nixos));
}

#[test]
fn what_heals_a_system_of_another_name_is_said() {
    let bench = misnamed();
    let output = bench.run(&[NAME, "--yes", "--build-on", "remote"]);
    let seen = bench.seen(&output);
    assert_eq!(output.status.code(), Some(1), "{seen}");
    assert!(seen.contains("✗ the new system calls itself 'another', not 'test-automation'"), "{seen}");
    let command = "then: nixos-rebuild switch --flake 'FLEET#test-automation' --target-host fleet@192.0.2.";
    assert!(seen.contains(command), "{seen}");
    let again = "hint: and then, for what remains: provision-vm test-automation --build-on remote\n";
    assert!(seen.contains(again), "{seen}");
    assert!(!seen.contains("continues from here"), "{seen}");
}
