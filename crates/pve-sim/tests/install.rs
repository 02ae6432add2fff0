//! The stand-in for nixos-anywhere takes a machine from the cloud image through the installer to NixOS.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test may stop, and starts the program under test"
)]

mod common;

use std::{
    path::Path,
    process::{Command, Output},
};

use common::{Api, deadline, environment};
use fleet_core::{
    ssh::{HostKeyPolicy, Session, Target, Transport},
    ui::Ui,
};
use pve_sim::{
    faults::Fault,
    guest::Os,
    keys,
    testing::{OPERATOR_PUBLIC, ScratchFleet, Sim},
};

fn machine(sim: &Sim) {
    let mut api = Api::new(sim);
    let clone = [("newid", "110"), ("name", "test-automation")];
    assert_eq!(api.task("POST", "/nodes/prom/qemu/9002/clone", &clone).0, "OK");
    let lines = common::encode(OPERATOR_PUBLIC.trim());
    let settings = [
        ("ide2", "nvmeprom:cloudinit"),
        ("ciuser", "root"),
        ("sshkeys", lines.as_str()),
        ("ipconfig0", "ip=dhcp"),
    ];
    assert_eq!(api.task("POST", "/nodes/prom/qemu/110/config", &settings).0, "OK");
    assert_eq!(api.task("POST", "/nodes/prom/qemu/110/status/start", &[]).0, "OK");
}

/// A proxy command as provision makes it: a program whose name holds no blank.
fn proxy(sim: &Sim, dir: &Path) -> String {
    use std::os::unix::fs::PermissionsExt;
    let path = dir.join("connect");
    let port = sim.expose(110);
    let relay = env!("CARGO_BIN_EXE_pve-sim");
    let script = format!("#!/bin/sh\nexec {relay} relay 127.0.0.1:{port}\n");
    std::fs::write(&path, script).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
    path.display().to_string()
}

fn anywhere(sim: &Sim, fleet: &ScratchFleet, proxy: &str, phases: &str, more: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pve-sim"));
    sim.apply(&mut command);
    command
        .args(["nixos-anywhere", "--phases", phases, "--flake"])
        .arg(format!("{}#test-automation", fleet.path().display()))
        .arg("-i")
        .arg(sim.identity())
        .args(["--ssh-option", &format!("ProxyCommand={proxy}"), "--ssh-option", "ControlMaster=no"])
        .args(["--kexec-extract-path", "/root/kexec"])
        .args(more)
        .args(["--target-host", "root@test-automation.fleet.invalid"])
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn from_cloud_image_to_nixos() {
    let sim = Sim::start();
    let fleet = sim.scratch_fleet();
    machine(&sim);
    let proxy = proxy(&sim, sim.dir());
    let (_, first) = sim.guest(110).unwrap();
    let bootstrap_key = sim.guest_host_key(110).unwrap();

    let output = anywhere(&sim, &fleet, &proxy, "kexec", &[]);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(
        String::from_utf8_lossy(&output.stdout).lines().filter(|l| l.starts_with("###")).collect::<Vec<_>>(),
        [
            "### Uploading install SSH keys ###",
            "### Gathering machine facts ###",
            "### Switching system into kexec ###",
            "### Gathering machine facts ###",
            "### Done! ###"
        ]
    );
    let (os, second) = sim.guest(110).unwrap();
    assert_eq!(os, Os::Installer);
    assert_ne!(first, second, "the address moves");
    assert_eq!(sim.guest_host_key(110).unwrap(), bootstrap_key, "the host key is carried over");

    let extra = sim.dir().join("extra/etc/ssh");
    std::fs::create_dir_all(&extra).unwrap();
    let host_key = keys::generate("root@test-automation").unwrap();
    pve_sim::node::write_private(&extra.join("ssh_host_ed25519_key"), &host_key).unwrap();
    let files = sim.dir().join("extra").display().to_string();
    let output = anywhere(&sim, &fleet, &proxy, "disko,install", &["--extra-files", &files]);
    assert!(output.status.success(), "{}", said(&output));
    let output = anywhere(&sim, &fleet, &proxy, "reboot", &[]);
    assert!(output.status.success(), "{}", said(&output));

    let expected = keys::public_line(&host_key).unwrap();
    assert_eq!(sim.guest(110).unwrap().0, Os::Nixos);
    assert_eq!(sim.guest_host_key(110).unwrap(), expected);
    // As the fleet's user, with the new host key; root stays outside.
    let port = sim.expose(110);
    let login = |user: &str| {
        let target = Target {
            host: format!("127.0.0.1:{port}"),
            user: Some(user.to_owned()),
            host_key: HostKeyPolicy::Pinned(expected.clone()),
            identities: vec![sim.identity()],
            proxy: None,
        };
        Session::connect_in(&target, &environment(), Ui::silent(), deadline())
    };
    let session = loop {
        match login("fleet") {
            Ok(session) => break session,
            Err(_) => std::thread::sleep(std::time::Duration::from_millis(20)),
        }
    };
    let limit = deadline();
    let text = loop {
        let line = "hostname && cat /etc/os-release && systemctl is-system-running";
        let text = String::from_utf8(session.exec(line, b"", deadline()).unwrap().stdout).unwrap();
        // It answers before all that it starts is there.
        if !text.ends_with("starting\n") || limit.passed() {
            break text;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    };
    assert!(text.starts_with("test-automation\n") && text.ends_with("running\n"), "{text}");
    assert!(text.contains("ID=nixos") && !text.contains("VARIANT_ID"), "{text}");
    assert!(login("root").is_err());
}

#[test]
fn the_installer_is_started_below_the_home_directory_of_whoever_runs_it() {
    let sim = Sim::start();
    let fleet = sim.scratch_fleet();
    machine(&sim);
    let proxy = proxy(&sim, sim.dir());
    let output = anywhere(&sim, &fleet, &proxy, "kexec", &["--kexec-extract-path", "/home/me/kexec"]);
    let said = said(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("setsid: failed to execute /home/me/kexec/kexec/run: No such file"), "{said}");
    assert_eq!(sim.guest(110).unwrap().0, Os::CloudImage);
}

#[test]
fn what_the_genuine_one_refuses() {
    let sim = Sim::start();
    let fleet = sim.scratch_fleet();
    machine(&sim);
    let proxy = proxy(&sim, sim.dir());
    let output = anywhere(&sim, &fleet, &proxy, "kexec", &["--bogus", "--also-bogus"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).starts_with("Usage: nixos-anywhere"), "{}", said(&output));
    // disko on a system that is no installer: its own disk is mounted.
    let output = anywhere(&sim, &fleet, &proxy, "disko,install", &[]);
    assert_eq!(output.status.code(), Some(1));
    sim.inject(Fault::InstallFails { vmid: 110, phase: "kexec".to_owned() });
    let output = anywhere(&sim, &fleet, &proxy, "kexec", &[]);
    assert!(said(&output).contains("Kexec failed"), "{}", said(&output));
    std::fs::remove_file(fleet.path().join("flake.nix")).unwrap();
    let output = anywhere(&sim, &fleet, &proxy, "kexec", &[]);
    assert!(said(&output).contains("does not contain a 'flake.nix'"), "{}", said(&output));
}
