//! A machine that runs and lets nobody in: what is told of it, and what there is to do.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test stops at the first surprise, and starts the tools itself"
)]

mod common;

use std::{os::unix::fs::PermissionsExt, process::Stdio};

use common::{Bench, Said};
use pve_sim::{faults::Fault, guest::Os};
use rustix::process::{Pid, Signal, kill_process};

const NAME: &str = "test-automation";
/// Long enough for the bootstrap system of the simulator on a machine with other work.
const RUN: [&str; 4] = [NAME, "--yes", "--boot-limit", "8"];
const ANEW: &str = "provision-vm destroy test-automation && provision-vm test-automation\n";

/// Puts a script before the simulator's own program, which it calls as `real`.
fn before(bench: &Bench, name: &str, script: &str) {
    let path = bench.sim.dir().join("bin").join(name);
    let real = std::fs::canonicalize(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let text = format!("#!/bin/bash\nreal() {{ exec -a {name} {} \"$@\"; }}\n{script}\n", real.display());
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
}

/// Runs it to its end, which comes when the new system, or what there is in its place, has let nobody in.
fn told(bench: &Bench, words: &[&str]) {
    let output = bench.run(&RUN);
    let seen = bench.seen(&output);
    assert_eq!(output.status.code(), Some(8), "{seen}");
    let wait = format!("gave up waiting for NixOS on '{NAME}' to boot and to answer as ");
    assert!(seen.contains(&wait), "{seen}");
    words.iter().for_each(|words| assert!(seen.contains(words), "{words}: {seen}"));
}

/// In the new system another user has the keys.
fn with_the_keys_of(bench: &Bench, user: &str) {
    let script = format!(
        r#"answer=$(real "$@") || exit 1
for system in $(grep -o '/[^" ]*nixos-system[^" ]*' <<<"$answer"); do
  [ ! -f "$system/simulated.json" ] || sed -i -E 's/"users":\{{"[^"]*"/"users":{{"{user}"/' "$system/simulated.json"
done
printf '%s\n' "$answer""#
    );
    before(bench, "nix", &script);
}

const MISSING: &str = "it runs and has the host key that it was given, but does not let 'fleet' in\n";
const MEND: &str = "hint: give users.users.fleet in hosts/test-automation/ its openssh.authorizedKeys.keys";

#[test]
fn a_new_system_that_lets_nobody_in_is_made_anew_with_the_user_that_it_lacks() {
    let bench = Bench::new();
    with_the_keys_of(&bench, "somebody");
    told(&bench, &[MISSING, &format!("{MEND}; nobody gets in to change it there, so make it anew\n"), ANEW]);
    assert_eq!(bench.sim.guest(110).unwrap().0, Os::Nixos);
}

#[test]
fn a_new_system_that_lets_root_in_can_be_mended_where_it_is() {
    let bench = Bench::new();
    with_the_keys_of(&bench, "root");
    let switch = format!("{MEND}, then: nixos-rebuild switch --flake ");
    told(&bench, &[MISSING, &switch, "hint: and then, for what remains: provision-vm test-automation\n"]);
}

/// nixos-anywhere has said that it reboots, and nothing came of it.
#[test]
fn an_installer_that_runs_on_is_not_taken_for_a_system_that_lets_nobody_in() {
    let bench = Bench::new();
    before(&bench, "nixos-anywhere", "case \" $* \" in *' --phases reboot '*) exit 0 ;; esac\nreal \"$@\"");
    told(
        &bench,
        &[
            "the installer still runs on it: it did not reboot into the new system\n",
            "hint: proxmox-ops reboot test-automation\n",
        ],
    );
    assert_eq!(bench.sim.guest(110).unwrap().0, Os::Installer);
    // What it says to do is what helps.
    let reboot = bench.sim.command("proxmox-ops", &bench.fleet).args(["reboot", NAME]).output().unwrap();
    assert!(reboot.status.success(), "{}", bench.seen(&reboot));
    let again = bench.run(&[NAME, "--yes"]);
    assert!(again.status.success(), "{}", bench.seen(&again));
}

/// Who has heard that the key is refused, and stops the wait, is told the same as who waits for its end.
#[test]
fn a_bootstrap_system_that_was_made_with_other_keys_is_told_with_them_however_the_wait_ends() {
    let bench = Bench::new();
    let made = bench.run(&[NAME, "--yes", "--no-install"]);
    assert!(made.status.success(), "{}", bench.seen(&made));
    bench.sim.node().change(|d| {
        let running = d.guests.get_mut(&110).and_then(|guest| guest.running.as_mut());
        running.unwrap().system.users.clear();
    });
    // The wait ends early only where cloud-init is known to have ended: the VM's description says so, or the agent.
    for (stopped, said_by, code) in
        [(true, "", 130), (false, "description", 6), (false, "agent", 6), (false, "", 8)]
    {
        if said_by == "agent" {
            bench.sim.edit(110, |conf| {
                let text = conf.get("description").unwrap();
                assert!(text.contains("\nfleet-cloud-init: done"), "{text}");
                let text = text.replace("\nfleet-cloud-init: done", "");
                conf.main.insert("description".into(), text);
            });
        } else if code == 8 {
            bench.sim.node().change(|d| {
                let running = d.guests.get_mut(&110).and_then(|guest| guest.running.as_mut());
                running.unwrap().files.insert("/run/cloud-init/result.json".to_owned(), Vec::new());
            });
        }
        let mut command = bench.command(&RUN);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut said = Said::of(&mut child);
        said.until("' answers with its host key, but has refused the key '", 60);
        if stopped {
            let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
            kill_process(pid, Signal::INT).unwrap();
        }
        let seen = said.all();
        assert_eq!(
            seen.contains("cloud-init has done its part there: no other keys come\n"),
            code == 6,
            "{seen}"
        );
        assert_eq!(child.wait().unwrap().code(), Some(code), "{seen}");
        assert!(seen.contains("VM 110 was made with these keys: "), "{seen}");
        assert!(
            seen.contains(&format!("hint: or make it anew, with the keys that hosts.nix has now: {ANEW}"))
        );
    }
}

#[test]
fn one_that_shows_another_host_key_can_be_made_anew() {
    let bench = Bench::new();
    bench.sim.inject(Fault::HostKeyChanged { vmid: 110 });
    let output = bench.run(&RUN);
    let seen = bench.seen(&output);
    assert_eq!(output.status.code(), Some(6), "{seen}");
    assert!(
        seen.contains("hint: `proxmox-ops console test-automation` shows what is on its screen\n"),
        "{seen}"
    );
    assert!(seen.contains(&format!("hint: or make it anew: {ANEW}")), "{seen}");
}
