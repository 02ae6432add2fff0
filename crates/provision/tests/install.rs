//! What gets installed: built here or there, with programs that fail, hang or are of another kind.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test stops at the first surprise, and starts the tools itself"
)]

mod common;

use std::{
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::PathBuf,
    process::Stdio,
};

use common::{Bench, Gate, by_image, calls, instead, script, until};
use pve_sim::{faults::Fault, guest::Os, testing::Sim, world::World};
use rustix::process::{Pid, Signal, kill_process, kill_process_group, test_kill_process_group};

#[test]
fn the_system_is_built_here_and_again_when_the_fleet_knows_the_vm() {
    let bench = Bench::new();
    let archive = bench.sim.dir().join("kexec.tar.gz");
    std::fs::write(&archive, "").unwrap();
    let output = bench.run(&["test-automation", "--yes", "--kexec", &archive.to_string_lossy()]);
    let seen = bench.seen(&output);
    assert!(output.status.success(), "{seen}");
    assert_eq!(seen.matches("✓ Built: ").count(), 2, "{seen}");
    let calls = calls(&bench);
    assert_eq!(calls.len(), 3, "{calls:?}");
    for call in &calls {
        assert!(call.contains(" --store-paths ") && call.contains(" --build-on local "), "{call}");
        assert!(!call.contains("--flake"), "{call}");
    }
    let archive = format!(" --kexec {} ", archive.canonicalize().unwrap().display());
    assert_eq!(calls.iter().map(|call| call.contains(&archive)).collect::<Vec<_>>(), [true, false, false]);
    assert_eq!(bench.sim.guest(110).unwrap().0, Os::Nixos);
}

#[test]
fn a_configuration_that_is_broken_stops_the_run_before_anything_is_made() {
    let bench = Bench::new();
    script(&bench, "nix", "echo 'evaluating' >&2; echo \"error: undefined variable 'pkg'\" >&2; exit 1");
    let output = bench.run(&["test-automation", "--yes"]);
    let seen = bench.seen(&output);
    assert_eq!(output.status.code(), Some(1), "{seen}");
    assert!(seen.contains("✗ the system can not be built: nix exited with 1\n"), "{seen}");
    assert!(seen.contains("error: undefined variable 'pkg'\n"), "{seen}");
    assert!(seen.contains("nothing was made on the node\n"), "{seen}");
    assert_eq!(bench.sim.changes(), [] as [String; 0]);
    assert_eq!(bench.fleet.status(), "");
}

#[test]
fn a_machine_of_another_kind_leaves_the_build_to_the_vm() {
    let bench = Bench::new();
    script(
        &bench,
        "nix",
        "echo \"error: a 'x86_64-linux' with features {} is required to build '/nix/store/x-disko.drv', but I am a \
         'aarch64-darwin' with features {benchmark}\" >&2; exit 1",
    );
    let output = bench.run(&["test-automation", "--yes"]);
    let seen = bench.seen(&output);
    assert!(output.status.success(), "{seen}");
    assert!(
        seen.contains("✓ This machine can not build for the VM's system: the VM builds it itself"),
        "{seen}"
    );
    let calls = calls(&bench);
    let builds: Vec<_> =
        calls.iter().map(|call| call.contains("#test-automation' --build-on remote ")).collect();
    assert_eq!(builds, [false, true, false], "{calls:?}");
}

/// As one of 2024, which takes a word that it does not know for the machine, and says how it is used.
#[test]
fn a_nixos_anywhere_that_knows_less_gets_what_it_knows_or_nothing_is_begun() {
    let older = |bench: &Bench, lacks: &str| {
        let text = format!(
            "real() {{ exec \"$(readlink -f \"$(dirname \"$0\")/nix\")\" nixos-anywhere \"$@\"; }}\n\
             case \" $* \" in\n*' --help '*) real --help | sed 's/{lacks} [^ ]*//'; exit ;;\n\
             *' {lacks} '*) real --help; exit 1 ;;\nesac\nreal \"$@\""
        );
        script(bench, "nixos-anywhere", &text);
    };
    let bench = Bench::new();
    older(&bench, "--build-on");
    let output = bench.run(&["test-automation", "--yes"]);
    assert!(output.status.success(), "{}", bench.seen(&output));
    let calls = calls(&bench);
    assert!(calls.len() == 3 && calls.iter().all(|call| !call.contains("--build-on")), "{calls:?}");

    let bench = Bench::new();
    older(&bench, "--phases");
    let output = bench.run(&["test-automation", "--yes"]);
    let seen = bench.seen(&output);
    assert_eq!(output.status.code(), Some(1), "{seen}");
    assert!(seen.contains("✗ nixos-anywhere on PATH is too old: it does not know --phases\n"), "{seen}");
    assert_eq!(bench.sim.changes(), [] as [String; 0]);
}

/// Only git is there, and what is installed with the tools.
#[test]
fn a_vm_that_a_person_installs_needs_no_program_for_it() {
    let bench = Bench::new();
    let few = bench.sim.dir().join("few");
    std::fs::create_dir(&few).unwrap();
    for program in ["git", "sh"] {
        std::os::unix::fs::symlink(fleet_core::child::find_program(program).unwrap(), few.join(program))
            .unwrap();
    }
    let run = || bench.command(&["test-automation", "--yes"]).env("PATH", &few).output().unwrap();
    let output = run();
    let seen = bench.seen(&output);
    assert_eq!(output.status.code(), Some(5), "{seen}");
    assert!(seen.contains("✗ the program nixos-anywhere is missing\n"), "{seen}");
    assert_eq!(bench.sim.changes(), [] as [String; 0]);
    let definition = "nixosConfig = \"test-automation\";";
    bench.fleet.edit("vms/definitions.nix", definition, &format!("{definition} install = \"none\";"));
    let output = run();
    let seen = bench.seen(&output);
    assert!(output.status.success(), "{seen}");
    assert!(seen.contains("Two commands remain:\n  nixos-anywhere --flake "), "{seen}");
    assert_eq!(bench.sim.guest(110).unwrap().0, Os::CloudImage);
}

#[test]
fn where_it_is_asked_for_nothing_is_built_here() {
    let bench = Bench::new();
    script(&bench, "nix", "echo called >> \"$HOME/nix-was-called\"; exit 1");
    let output = bench.run(&["test-automation", "--yes", "--build-on", "remote"]);
    let seen = bench.seen(&output);
    assert!(output.status.success(), "{seen}");
    assert!(!bench.sim.dir().join("home/nix-was-called").exists());
    let calls = calls(&bench);
    let builds: Vec<_> = calls.iter().map(|call| call.contains(" --build-on remote ")).collect();
    assert_eq!(builds, [false, true, false], "{calls:?}");
    assert!(calls.iter().all(|call| call.contains("--flake") == call.contains("disko,install")), "{calls:?}");
}

/// A nixos-anywhere that says one thing and then waits for ever, with a child that heeds no request to end.
struct Hanging {
    bench: Bench,
    pid: PathBuf,
}

impl Hanging {
    fn new() -> Hanging {
        let bench = Bench::new();
        let pid = bench.sim.dir().join("hanging");
        let text = format!(
            "[ \"$1\" = --help ] && exit\n(trap '' TERM; exec sleep 300) &\necho 'Downloading'\nread -r _ _ _ _ group _ < /proc/$$/stat; echo $group > {0}.new; mv {0}.new {0}\n\
             while sleep 0.2; do echo 'ssh: connect to host: Connection refused' >&2; done",
            pid.display()
        );
        script(&bench, "nixos-anywhere", &text);
        Hanging { bench, pid }
    }

    /// Waits for it to run; gives its process group.
    fn running(&self) -> Pid {
        until("the start of nixos-anywhere", 60, || self.pid.exists());
        Pid::from_raw(std::fs::read_to_string(&self.pid).unwrap().trim().parse().unwrap()).unwrap()
    }
}

/// Nothing of it is left; whoever was killed is gone once its new parent has noticed.
fn is_gone(group: Pid) {
    until("the end of all of it", 20, || test_kill_process_group(group).is_err());
}

#[test]
fn a_phase_that_gets_nowhere_is_ended_when_the_machine_does_not_answer() {
    let hanging = Hanging::new();
    let bench = &hanging.bench;
    let child = bench
        .command(&["test-automation", "--yes", "--stall-limit", "1"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let group = hanging.running();
    // As long as it answers the phase goes on; now it does not.
    let stopped = bench.sim.command("proxmox-ops", &bench.fleet).args(["stop", "110"]).output().unwrap();
    assert!(stopped.status.success(), "{}", bench.seen(&stopped));
    let output = child.wait_with_output().unwrap();
    let seen = bench.seen(&output);
    assert_eq!(output.status.code(), Some(8), "{seen}");
    assert!(seen.contains("nothing new was said for 1 s, and 'test-automation' does not answer\n"), "{seen}");
    assert!(seen.contains("nixos-anywhere and what it started were stopped\n"), "{seen}");
    assert!(seen.contains("its disk is as it was\n"), "{seen}");
    assert!(seen.contains("hint: all that it said: "), "{seen}");
    assert!(seen.contains("hint: `provision-vm test-automation` continues from here\n"), "{seen}");
    is_gone(group);
}

#[test]
fn a_phase_that_failed_although_it_worked_ends_nothing() {
    let bench = Bench::new();
    instead(
        &bench,
        "case \" $* \" in\n\
         *' --phases kexec '*) real \"$@\"; echo 'aborted: Failed to kexec into NixOS installer' >&2; exit 1 ;;\n\
         *' --phases reboot '*) echo 'Connection closed' >&2; exit 255 ;;\nesac",
    );
    let output = bench.run(&["test-automation", "--yes"]);
    let seen = bench.seen(&output);
    assert!(output.status.success(), "{seen}");
    assert!(seen.contains("but the installer runs: going on\n"), "{seen}");
    assert!(seen.contains("the installer still runs: it is told to reboot\n"), "{seen}");
    assert_eq!(bench.sim.guest(110).unwrap().0, Os::Nixos);
}

/// Loops of the genuine script that have no end, while the machine answers all the time.
#[test]
fn a_wait_that_our_own_login_shows_to_be_in_vain_is_ended() {
    for (says, repeats, told) in [
        (
            "### Uploading install SSH keys ###",
            "/usr/bin/ssh-copy-id: ERROR: Too many arguments",
            [
                " to log in to 'test-automation', where our own login works\n",
                "it said last: /usr/bin/ssh-copy-id: ERROR: Too many arguments\n",
            ],
        ),
        (
            "machine will boot into nixos in 6s...",
            "Warning: Permanently added 'test-automation.fleet.invalid' to the list of known hosts.",
            [
                " s after the installer was to boot, ubuntu still runs on 'test-automation'\n",
                "its disk is as it was\n",
            ],
        ),
    ] {
        let bench = Bench::new();
        let text = format!(
            "[ \"$1\" = --help ] && exit\necho '{says}'\nwhile sleep 0.2; do echo \"{repeats}\" >&2; done"
        );
        script(&bench, "nixos-anywhere", &text);
        let output = bench.run(&["test-automation", "--yes", "--stall-limit", "1"]);
        let seen = bench.seen(&output);
        assert_eq!(output.status.code(), Some(1), "{seen}");
        for words in told {
            assert!(seen.contains(words), "{words}: {seen}");
        }
        assert!(!seen.contains("github.com"), "{seen}");
        assert!(seen.contains("nixos-anywhere and what it started were stopped\n"), "{seen}");
    }
}

/// Releases before mid-2025 have the machine reboot at the end of the installation, and in the phase of that name wait
/// for it.
#[test]
fn a_nixos_anywhere_that_reboots_nothing_on_its_own_is_helped() {
    let bench = Bench::new();
    instead(
        &bench,
        "case \" $* \" in *' --phases reboot '*)\n\
         echo '### Waiting for the machine to become unreachable due to reboot ###'; sleep 600 ;;\nesac",
    );
    let output = bench.run(&["test-automation", "--yes", "--stall-limit", "1"]);
    let seen = bench.seen(&output);
    assert!(output.status.success(), "{seen}");
    assert!(seen.contains(" s after nixos-anywhere was to reboot it\n"), "{seen}");
    assert!(seen.contains("the installer still runs: it is told to reboot\n"), "{seen}");
    assert_eq!(bench.sim.guest(110).unwrap().0, Os::Nixos);
}

/// Most of what the genuine script says is the noise of `ssh` and, where kexec is refused, the kernel's log.
#[test]
fn a_phase_that_failed_tells_why_and_nothing_else() {
    let bench = Bench::new();
    bench.sim.inject(Fault::InstallFails { vmid: 110, phase: "kexec".to_owned() });
    let output = bench.run(&["test-automation", "--yes"]);
    let seen = bench.seen(&output);
    assert_eq!(output.status.code(), Some(1), "{seen}");
    let told = "✗ Starting the NixOS installer (kexec): kexec_load failed: Cannot allocate memory (nixos-anywhere exited \
                with 1)\n  it said: + sh -c '/root/kexec/kexec/kexec' --load '/root/kexec/kexec/bzImage'\n\
                \x20 it was at 'Switching system into kexec'\n  its disk is as it was\n\
                hint: kexec fails where memory is short";
    assert!(seen.contains(told), "{seen}");
    assert!(!seen.contains("github.com"), "{seen}");
    bench.sim.clear_faults();
    bench.sim.inject(Fault::InstallFails { vmid: 110, phase: "install".to_owned() });
    let output = bench.run(&["test-automation", "--yes"]);
    let seen = bench.seen(&output);
    let told = "✗ Partitioning the disk and installing NixOS: executing 'switch-to-configuration': No space left on \
                device (nixos-anywhere exited with 1)\n  it was at 'Installing NixOS'\n";
    assert!(seen.contains(told), "{seen}");
    assert!(seen.contains("hint: the installer has what it is sent in memory"), "{seen}");
}

#[test]
fn ctrl_c_ends_a_phase_and_all_that_it_started() {
    let hanging = Hanging::new();
    let bench = &hanging.bench;
    let child = bench
        .command(&["test-automation", "--yes"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let group = hanging.running();
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", bench.seen(&output));
    is_gone(group);
}

/// A terminal sends it to all that are in the foreground: to a hook of git's too, which may be asking something there.
#[test]
fn ctrl_c_at_a_terminal_ends_a_hook_and_the_same_command_makes_the_commit() {
    let bench = Bench::new();
    let begun = bench.sim.dir().join("committing");
    let hook = format!("#!/bin/sh\necho > {}\nsleep 1\n", begun.display());
    bench.fleet.write(".git/hooks/pre-commit", &hook);
    let hook = bench.fleet.path().join(".git/hooks/pre-commit");
    std::fs::set_permissions(hook, std::fs::Permissions::from_mode(0o755)).unwrap();
    let child = bench
        .command(&["test-automation", "--yes"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .unwrap();
    until("the commit", 120, || begun.exists());
    let group = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    kill_process_group(group, Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    let seen = bench.seen(&output);
    assert_eq!(output.status.code(), Some(130), "{seen}");
    assert!(seen.contains("the files are in place, and not committed: hosts.nix, "), "{seen}");
    assert!(seen.ends_with("hint: `provision-vm test-automation` continues from here\n"), "{seen}");
    let again = bench.run(&["test-automation", "--yes"]);
    assert!(again.status.success(), "{}", bench.seen(&again));
    assert_eq!(bench.fleet.status(), "");
    let last = bench.fleet.git(&["log", "-1", "--format=%s"]).unwrap();
    assert!(last.contains("test-automation"), "{last}");
}

#[test]
fn nothing_of_a_run_that_was_killed_works_on() {
    let hanging = Hanging::new();
    let mut child = hanging
        .bench
        .command(&["test-automation", "--yes"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let group = hanging.running();
    child.kill().unwrap();
    child.wait().unwrap();
    is_gone(group);
}

/// A flake without inputs, whose systems a shell makes.
const FLAKE: &str = r#"{
  outputs = { self }: {
    nixosConfigurations.test-automation.config.system.build =
      let
        hosts = import ./hosts.nix;
        host = hosts.test-automation or { user = "nobody"; authorizedKeys = [ ]; };
        about = builtins.toJSON {
          hostname = "test-automation";
          users.${host.user} = host.authorizedKeys;
        };
        make = name: script: derivation {
          inherit name about;
          system = SYSTEM;
          builder = "/bin/sh";
          args = [ "-c" script ];
          PATH = "/bin:/usr/bin";
        };
      in
      {
        toplevel = make "nixos-system-test-automation-25.11" "mkdir $out && printf %s \"$about\" > $out/simulated.json";
        diskoScript = make "disko" "printf '#!/bin/sh' > $out";
      };
  };
}
"#;

#[test]
fn the_genuine_nix_builds_what_gets_installed_once_hosts_nix_makes_it() {
    if !std::path::Path::new("/bin/sh").exists() || fleet_core::child::find_program("nix").is_none() {
        assert!(
            std::env::var_os("FLEET_REQUIRE_ORACLES").is_none_or(|v| v != "1"),
            "nix is not installed, and FLEET_REQUIRE_ORACLES=1 asks for it"
        );
        eprintln!("skipped: nix is not installed");
        return;
    }
    let genuine = || {
        let bench = Bench::new();
        std::fs::remove_file(bench.sim.dir().join("bin/nix")).unwrap();
        bench
    };
    let run = |bench: &Bench, flake: &str| {
        bench.fleet.write("flake.nix", flake);
        bench.fleet.commit("a flake without inputs");
        let mut command = bench.command(&["test-automation", "--yes"]);
        // No store of anybody else's is touched.
        command
            .env("NIX_CONFIG", "build-users-group =\nsubstituters =\nsandbox = false")
            .env("NIX_STORE_DIR", bench.sim.dir().join("nix/store"))
            .env("NIX_STATE_DIR", bench.sim.dir().join("nix/var"))
            .env("NIX_LOG_DIR", bench.sim.dir().join("nix/log"));
        let output = command.output().unwrap();
        (bench.seen(&output), output.status.success())
    };
    // A system of that name which is broken is a fault, and one that hosts.nix makes is there when that has it.
    let flake = FLAKE.replace("SYSTEM", &format!("\"{}-linux\"", std::env::consts::ARCH));
    let bench = genuine();
    let (seen, success) = run(&bench, &flake.replace("diskoScript = make", "disko = make"));
    assert!(!success && seen.contains("✗ the system can not be built: nix exited with 1\n"), "{seen}");
    assert!(!bench.fleet.read("hosts.nix").contains("test-automation"), "{seen}");
    let of_hosts = flake.replace(
        "nixosConfigurations.test-automation.config.system.build =",
        "nixosConfigurations = builtins.mapAttrs (_: _: { config.system.build = self.common; }) (import ./hosts.nix);\n\
         common =",
    );
    // So is one that is listed by its name, and reads its entry.
    let listed = flake.replace(" or { user = \"nobody\"; authorizedKeys = [ ]; }", "");
    for (bench, flake, why) in [
        (bench, of_hosts, "the flake has no 'test-automation' before"),
        (genuine(), listed, "the flake reads the entry of 'test-automation' in hosts.nix"),
    ] {
        let (seen, success) = run(&bench, &flake);
        let later = format!("✓ It is built when the VM is in the fleet: {why}");
        assert!(success && seen.contains(&later), "{seen}");
        assert_eq!(seen.matches("✓ Built: DIR/nix/store/").count(), 1, "{seen}");
        assert_eq!(bench.sim.guest(110).unwrap().0, Os::Nixos);
        assert_eq!(bench.fleet.status(), "");
    }
}

#[test]
fn an_image_becomes_a_member_of_the_fleet_without_template_and_installer() {
    let bench = Bench::new();
    script(&bench, "nixos-anywhere", "echo called >> \"$HOME/anywhere-was-called\"; exit 1");
    let definition = "nixosConfig = \"test-automation\";";
    bench.fleet.edit(
        "vms/definitions.nix",
        definition,
        &format!("{definition} install = \"image\"; protection = true;"),
    );
    let dry = bench.run(&["test-automation", "--dry-run"]);
    assert!(dry.status.success(), "{}", bench.seen(&dry));
    assert!(bench.seen(&dry).contains("import-from=/var/tmp/fleet-image-"), "{}", bench.seen(&dry));
    assert_eq!(bench.sim.changes(), [] as [String; 0]);

    let output = bench.run(&["test-automation", "--yes"]);
    let seen = bench.seen(&output);
    assert!(output.status.success(), "{seen}");
    let (system, _) = bench.sim.guest(110).unwrap();
    assert_eq!(system, Os::Nixos);
    let config = bench.sim.config(110).unwrap();
    let setting = |name: &str| config.get(name).map(str::to_owned).unwrap_or_default();
    assert_eq!(
        ["bios", "machine", "agent", "vga", "serial0", "cores", "memory", "protection"].map(setting),
        ["ovmf", "q35", "enabled=1", "std", "socket", "2", "4096", "1"]
    );
    let setting = |name: &str| config.get(name).map(str::to_owned).unwrap_or_default();
    assert!(setting("efidisk0").contains("pre-enrolled-keys=0"), "{}", setting("efidisk0"));
    assert!(setting("scsi0").contains("size=20G"), "{}", setting("scsi0"));
    assert_eq!((setting("ide2"), setting("sshkeys")), (String::new(), String::new()));
    // The key in the image is the one that the fleet knows, and nothing of it is left here or on the node.
    let key = bench.sim.guest_host_key(110).unwrap();
    assert!(bench.fleet.read("hosts.nix").contains(key.split_whitespace().nth(1).unwrap()));
    let left = std::fs::read_dir(bench.sim.node().file("/var/tmp")).unwrap().count();
    assert_eq!(left, 0, "an image is left on the node");
    assert_eq!(bench.fleet.status(), "");
    assert!(!bench.sim.dir().join("home/anywhere-was-called").exists());
    let changes = bench.sim.changes();
    assert_eq!(changes.iter().filter(|c| *c == "POST /nodes/prom/qemu").count(), 1, "{changes:?}");
    assert!(!changes.iter().any(|c| c.contains("/clone")), "{changes:?}");

    // Equal now; and once more there is nothing to do.
    let plan = bench.run(&["plan"]);
    assert_eq!(plan.status.code(), Some(0), "{}", bench.seen(&plan));
    let again = bench.run(&["test-automation", "--yes"]);
    assert!(again.status.success(), "{}", bench.seen(&again));
    assert_eq!(bench.sim.changes().len(), changes.len(), "{:?}", bench.sim.changes());

    // One that is off is no other: it is not built once more.
    let stopped = bench.sim.command("proxmox-ops", &bench.fleet).args(["stop", "110"]).output().unwrap();
    assert!(stopped.status.success(), "{}", bench.seen(&stopped));
    let dry = bench.run(&["test-automation", "--dry-run", "--json"]);
    assert!(dry.status.success(), "{}", bench.seen(&dry));
    let shown: serde_json::Value = serde_json::from_slice(&dry.stdout).unwrap();
    let steps = shown["steps"].as_array().unwrap();
    let already = steps.iter().filter(|step| step["already"] == true).map(|step| &step["step"]);
    assert_eq!(already.collect::<Vec<_>>(), ["build", "upload", "create", "integrate"], "{shown}");
    let note = |name: &str| steps.iter().find(|step| step["step"] == name).unwrap()["note"].as_str().unwrap();
    assert!(note("verify").starts_with("log in as fleet, with its host key; "), "{shown}");
    // It is a remnant of no other run: what it is known by is all in the repository.
    std::fs::remove_dir_all(bench.sim.dir().join("home/.local/state/fleet")).unwrap();
    let elsewhere = bench.run(&["test-automation", "--dry-run", "--json"]);
    assert_eq!(elsewhere.stdout, dry.stdout, "{}", bench.seen(&elsewhere));
}

#[test]
fn an_image_that_can_not_be_built_leaves_the_fleet_as_it_is() {
    let bench = Bench::new();
    let definition = "nixosConfig = \"test-automation\";";
    bench.fleet.edit("vms/definitions.nix", definition, &format!("{definition} install = \"image\";"));
    let head = bench.fleet.git(&["rev-parse", "HEAD"]).unwrap();
    script(&bench, "nix", "sleep 1; echo \"error: undefined variable 'pkg'\" >&2; exit 1");
    let output = bench.run(&["test-automation", "--yes"]);
    let seen = bench.seen(&output);
    assert_eq!(output.status.code(), Some(1), "{seen}");
    assert!(seen.contains("nothing was made on the node\n"), "{seen}");
    assert_eq!(bench.sim.changes(), [] as [String; 0]);
    assert_eq!(
        (bench.fleet.status(), bench.fleet.git(&["rev-parse", "HEAD"]).unwrap()),
        (String::new(), head)
    );
}

#[test]
fn a_run_by_an_image_that_was_killed_goes_on() {
    let bench = Bench::new();
    let definition = "nixosConfig = \"test-automation\";";
    bench.fleet.edit("vms/definitions.nix", definition, &format!("{definition} install = \"image\";"));
    bench.killed_when(&["test-automation", "--yes"], "the creation", || {
        bench.sim.changes().iter().any(|c| c == "POST /nodes/prom/qemu")
    });
    let again = bench.run(&["test-automation", "--yes"]);
    assert!(again.status.success(), "{}", bench.seen(&again));
    let made = bench.sim.changes().iter().filter(|c| *c == "POST /nodes/prom/qemu").count();
    assert_eq!(made, 1, "{:?}", bench.sim.changes());
    let left = std::fs::read_dir(bench.sim.node().file("/var/tmp")).unwrap().count();
    assert_eq!(left, 0, "an image is left on the node");
    let key = bench.sim.guest_host_key(110).unwrap();
    assert!(bench.fleet.read("hosts.nix").contains(key.split_whitespace().nth(1).unwrap()));
    assert_eq!(bench.fleet.status(), "");
}

#[test]
fn what_an_earlier_run_sent_goes_from_the_node_that_it_was_sent_to() {
    let bench = Bench::new();
    by_image(&bench);
    let place = bench.sim.node().file("/var/tmp");
    std::fs::create_dir_all(&place).unwrap();
    for name in ["fleet-image-0a1b.raw", "fleet-image-2c3d.qcow2", "somebody-elses.raw"] {
        std::fs::write(place.join(name), "").unwrap();
    }
    // The first may have gone anywhere: it was written down before it was sent. Nobody has sent the second.
    let state = bench.sim.dir().join("home/.local/state/fleet/vms");
    std::fs::create_dir_all(&state).unwrap();
    let images = r#"[{"path":"/var/tmp/fleet-image-0a1b.raw"},{"node":"prom","path":"/var/tmp/fleet-image-0a1b.qcow2"}]"#;
    let record = format!(r#"{{"nonce":"of-another","images":{images}}}"#);
    std::fs::write(state.join("test-automation-110.json"), record).unwrap();
    let output = bench.run(&["test-automation", "--yes"]);
    assert!(output.status.success(), "{}", bench.seen(&output));
    let mut left: Vec<_> = std::fs::read_dir(&place).unwrap().map(|e| e.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["fleet-image-2c3d.qcow2", "somebody-elses.raw"]);
    let record = std::fs::read_to_string(state.join("test-automation-110.json")).unwrap();
    assert!(!record.contains("images"), "{record}");
}

#[test]
fn an_image_that_the_node_has_no_room_for_is_not_sent() {
    let bench = Bench::new();
    by_image(&bench);
    bench.sim.inject(Fault::ImagesFull { free: 10 << 30 });
    let output = bench.run(&["test-automation", "--dry-run"]);
    let seen = bench.seen(&output);
    assert!(output.status.success(), "{seen}");
    let warning =
        "⚠ /var/tmp on node prom has 10 GiB free: an image as large as the disk (20G) does not fit\n";
    assert!(seen.contains(warning), "{seen}");
    bench.sim.clear_faults();
    bench.sim.inject(Fault::ImagesFull { free: 16 });
    let output = bench.run(&["test-automation", "--yes"]);
    let seen = bench.seen(&output);
    assert_eq!(output.status.code(), Some(1), "{seen}");
    assert!(seen.contains(" bytes, and /var/tmp on the node has room for 0\n"), "{seen}");
    assert_eq!(bench.sim.changes(), [] as [String; 0]);
    let left = std::fs::read_dir(bench.sim.node().file("/var/tmp")).map_or(0, Iterator::count);
    assert_eq!(left, 0, "an image is on the node");
    // The VM is in the fleet by then. Who wants nothing to stay finds it taken out again, although there was no VM.
    let before = bench.fleet.git(&["rev-parse", "HEAD^{tree}"]).unwrap();
    assert!(bench.fleet.read("hosts.nix").contains("test-automation = {"));
    bench.fleet.git(&["reset", "--hard", "-q", "HEAD~1"]).unwrap();
    assert_ne!(bench.fleet.git(&["rev-parse", "HEAD^{tree}"]).unwrap(), before);
    let output = bench.run(&["test-automation", "--yes", "--on-failure", "destroy"]);
    let seen = bench.seen(&output);
    assert_eq!(output.status.code(), Some(1), "{seen}");
    assert!(seen.contains("this run made no VM 110\n"), "{seen}");
    assert!(!bench.fleet.read("hosts.nix").contains("test-automation = {"), "{seen}");
    assert_eq!(bench.fleet.status(), "");
}

#[test]
fn what_the_definition_protects_no_run_promises_to_remove() {
    let bench = Bench::new();
    let definition = "nixosConfig = \"test-automation\";";
    bench.fleet.edit("vms/definitions.nix", definition, &format!("{definition} protection = true;"));
    let output = bench.run(&["test-automation", "--yes", "--on-failure", "destroy"]);
    let seen = bench.seen(&output);
    assert_eq!(output.status.code(), Some(2), "{seen}");
    assert!(seen.contains("can not remove a VM that its definition protects"), "{seen}");
    assert_eq!(bench.sim.changes(), [] as [String; 0]);
}

/// A disko script whose image has this size.
fn image_of(bench: &Bench, size: &str) {
    let nix = r#"real=$(readlink -f "$(dirname "$0")/nixos-anywhere")
answer=$(exec -a nix "$real" "$@") || exit 1
script=${answer#*\"out\":\"}
echo 'truncate -s SIZE main.raw' >> "${script%%\"*}"
printf '%s\n' "$answer""#;
    script(bench, "nix", &nix.replace("SIZE", size));
}

#[test]
fn ctrl_c_ends_the_sending_of_an_image_and_nothing_of_it_stays() {
    let bench = Bench::new();
    by_image(&bench);
    image_of(&bench, "8G");
    let child = bench
        .command(&["test-automation", "--yes"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let sent = || std::fs::read_dir(bench.sim.node().file("/var/tmp")).map_or(0, Iterator::count);
    until("an image that is being sent", 120, || sent() == 1);
    kill_process(Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap(), Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    let seen = bench.seen(&output);
    assert_eq!(output.status.code(), Some(130), "{seen}");
    assert!(seen.contains("the image was not sent whole") && !seen.contains("Image sent"), "{seen}");
    until("its end", 60, || sent() == 0);
    assert_eq!(bench.sim.changes(), [] as [String; 0]);
}

/// The image of a larger disk would be imported as it is: it is refused before it is sent, and where the layout says
/// how large it will be, before it is built.
#[test]
fn an_image_that_is_larger_than_the_disk_is_refused() {
    let bench = Bench::new();
    by_image(&bench);
    image_of(&bench, "30G");
    let args = &["test-automation", "--yes"];
    let refused = |output: &std::process::Output| {
        let seen = bench.seen(output);
        assert_eq!(output.status.code(), Some(1), "{seen}");
        for words in [
            "the disk image has 30G, the disk of 'test-automation' 20G: it does not fit\n",
            "hint: give managed.test-automation disk = \"30G\" or more\n",
            "hint: or set disko.devices.disk.NAME.imageSize in hosts/test-automation/disko.nix to 20G or less\n",
        ] {
            assert!(seen.contains(words), "{words}: {seen}");
        }
        assert_eq!(bench.sim.changes(), [] as [String; 0], "{seen}");
        let sent = std::fs::read_dir(bench.sim.node().file("/var/tmp")).map_or(0, Iterator::count);
        assert_eq!(sent, 0, "{seen}");
        seen
    };
    let seen = refused(&bench.run(args));
    assert!(seen.contains("==> Building the disk image") && !seen.contains("Sending the image"), "{seen}");
    assert!(seen.contains("nothing was made on the node\n"), "{seen}");

    // Written in the layout it is known at once.
    let device = "device = \"/dev/sda\";";
    let host = "hosts/test-automation/disko.nix";
    bench.fleet.edit(host, device, &format!("imageSize = \"30G\"; {device}"));
    bench.fleet.commit("a larger image");
    let seen = refused(&bench.run(&["test-automation", "--dry-run"]));
    assert!(seen.contains("nothing was changed\n") && !seen.contains("Building"), "{seen}");
    refused(&bench.run(args));

    // As large as the disk is no larger.
    bench.fleet.edit(host, "imageSize = \"30G\"", "imageSize = \"20G\"");
    bench.fleet.commit("as large as the disk");
    image_of(&bench, "+0");
    let output = bench.run(args);
    assert!(output.status.success(), "{}", bench.seen(&output));
}

#[test]
fn an_image_needs_root_on_the_node() {
    let rights = ["Sys.Audit", "VM.Audit", "Datastore.Audit", "VM.Allocate", "Datastore.AllocateSpace"];
    let world = World::default().with_account("fleet").with_token("fleet@pve!ops", "secret", &rights);
    let bench = Bench::with(Sim::with(world));
    by_image(&bench);
    let mut command = bench.command(&["test-automation", "--yes"]);
    command.env("PROXMOX_USER", "fleet").env("PROXMOX_TOKEN", "fleet@pve!ops=secret");
    let output = command.output().unwrap();
    let seen = bench.seen(&output);
    assert_eq!(output.status.code(), Some(3), "{seen}");
    assert!(seen.contains("install = \"image\" needs root on node prom: an API token may not"), "{seen}");
    assert_eq!(bench.sim.changes(), [] as [String; 0]);
}

#[test]
fn what_the_new_system_gets_has_its_modes_whatever_the_umask_is() {
    let bench = Bench::new();
    script(
        &bench,
        "nixos-anywhere",
        "args=(\"$@\"); while [ $# -gt 0 ]; do\n\
         [ \"$1\" = --extra-files ] && (cd \"$2\" && find . | sort | xargs stat -c '%a %n') > \"$HOME/modes\"\n\
         shift; done\nexec \"$(readlink -f \"$(dirname \"$0\")/nix\")\" nixos-anywhere \"${args[@]}\"",
    );
    let tool = bench.command(&[]).get_program().to_owned();
    let mut command = std::process::Command::new("sh");
    bench.sim.apply(command.current_dir(bench.fleet.path()));
    let output =
        command.args(["-c", "umask 077; exec \"$0\" test-automation --yes"]).arg(tool).output().unwrap();
    assert!(output.status.success(), "{}", bench.seen(&output));
    let modes = std::fs::read_to_string(bench.sim.dir().join("home/modes")).unwrap();
    assert_eq!(
        modes.lines().collect::<Vec<_>>(),
        [
            "755 .",
            "755 ./etc",
            "755 ./etc/ssh",
            "600 ./etc/ssh/ssh_host_ed25519_key",
            "644 ./etc/ssh/ssh_host_ed25519_key.pub",
        ]
    );
}

#[test]
fn a_step_that_takes_long_shows_what_was_said_last_and_leaves_no_trace_of_it() {
    let bench = Bench::new();
    let gate = Gate::new(&bench);
    let waits =
        format!("case \" $* \" in *disko,install*) echo copying 7 paths >&2; {};; esac", gate.shell());
    instead(&bench, &waits);
    let mut command = bench.command(&["test-automation", "--yes"]);
    command.env("TERM", "xterm");
    let mut session = rexpect::session::spawn_command(command, Some(60_000)).unwrap();
    session.exp_string("Partitioning the disk and installing NixOS...").unwrap();
    session.exp_string("copying 7 paths").unwrap();
    gate.open();
    session.exp_string("NixOS is installed").unwrap();
    let rest = session.exp_eof().unwrap();
    assert!(rest.contains("is ready after") && !rest.contains("copying 7 paths"), "{rest}");
}
