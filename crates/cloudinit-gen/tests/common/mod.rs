//! What the tests of the program share: a fleet repository, the program in it, and independent programs.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "helpers of tests, of which each test file uses its part"
)]

use std::{ffi::OsStr, path::Path};

use assert_cmd::Command;

/// Two public keys; nobody holds their private halves.
pub(crate) const KEY_A: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMhYXQSOgHE+oBScuahDN238BE0yAfY11SzzS2QJOHE6";
pub(crate) const KEY_B: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBc5stXEZlclS40+LX5q6yryvBRdwNJjbj3DTH8nwttA";

/// A fleet repository in a directory of its own.
pub(crate) struct Fleet(tempfile::TempDir);

impl Fleet {
    /// With these managed VMs (attributes of `managed`) and these hosts (attributes of the set in `hosts.nix`).
    pub(crate) fn new(managed: &str, hosts: &str) -> Fleet {
        let fleet = Fleet(tempfile::tempdir().unwrap());
        fleet.write(
            "vms/definitions.nix",
            &format!(
                r#"{{
  proxmox = {{ host = "prom"; node = "prom"; defaultStorage = "local"; }};
  imported = {{ doc1 = {{ vmid = 104; hostname = "proxmox-vm"; readonly = true; }}; }};
  managed = {{
{managed}
  }};
  template = {{ vmid = 9002; name = "cloud-template"; }};
}}
"#
            ),
        );
        fleet.write("hosts.nix", &format!("{{\n{hosts}\n}}\n"));
        fleet
    }

    /// With one VM, `web`, that has these attributes beside the required ones, and one key that all hosts share.
    pub(crate) fn web(attributes: &str) -> Fleet {
        let managed =
            format!("    web = {{ vmid = 110; cores = 2; memory = 2048; disk = \"20G\"; {attributes} }};");
        Fleet::new(
            &managed,
            &format!("  doc1 = {{ user = \"fleet\"; authorizedKeys = [ \"{KEY_A} a\" ]; }};"),
        )
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn write(&self, path: &str, text: &str) {
        let path = self.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// The program in the repository, with nothing of the caller's settings.
    pub(crate) fn command(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
        let mut command = program();
        command.current_dir(self.path()).args(args);
        command
    }

    /// What the program prints on standard output; it must succeed and say nothing else.
    pub(crate) fn stdout(&self, args: &[&str]) -> String {
        let output = self.command(args).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{args:?} failed: {stderr}");
        assert_eq!(stderr, "");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Exit code and standard error, with the repository's path written as `REPO`; nothing is on standard output.
    pub(crate) fn failure(&self, args: &[&str]) -> String {
        let output = self.command(args).output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), "");
        let path = self.path().canonicalize().unwrap().display().to_string();
        let stderr = String::from_utf8(output.stderr).unwrap().replace(&path, "REPO");
        format!("exit {}\n{stderr}", output.status.code().unwrap())
    }
}

/// The program, with nothing of the caller's settings.
pub(crate) fn program() -> Command {
    let mut command = Command::cargo_bin("cloudinit-gen").unwrap();
    command.env_remove("FLEET_REPO").env("NO_COLOR", "1").env("COLUMNS", "100");
    command
}

/// The cloud-inits that documents are held against: Debian 12's, and Debian 13's where `.ci/run` could get it. Each
/// with its name and the directory of its Python modules, `None` for the installed one's.
pub(crate) fn cloud_inits() -> Vec<(&'static str, Option<std::ffi::OsString>)> {
    let mut found = Vec::new();
    if oracle("cloud-init").is_some() {
        found.push(("the installed cloud-init", None));
    }
    match std::env::var_os("FLEET_CLOUD_INIT_13") {
        Some(modules) => found.push(("Debian 13's cloud-init", Some(modules))),
        None => {
            eprintln!("skipped: FLEET_CLOUD_INIT_13 does not name Debian 13's cloud-init (.ci/run gets it)");
        }
    }
    found
}

/// A Python program with these arguments and those modules. Debian's own Python has the yaml module with
/// cloud-init; another one on PATH may not.
pub(crate) fn python(modules: Option<&OsStr>) -> Command {
    let debian = Path::new("/usr/bin/python3");
    let mut command = Command::new(if debian.is_file() { debian } else { Path::new("python3") });
    command.args(["-W", "ignore"]);
    if let Some(modules) = modules {
        command.env("PYTHONPATH", modules);
    }
    command
}

/// An independent program to hold ours against. Where it is missing the test fails in CI and is skipped elsewhere.
pub(crate) fn oracle(name: &str) -> Option<Command> {
    // blkid is root's.
    let found = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|directory| directory.join(name))
        .find(|path| path.is_file());
    if found.is_none() {
        assert!(
            std::env::var_os("FLEET_REQUIRE_ORACLES").is_none_or(|v| v != "1"),
            "{name} is not installed, and FLEET_REQUIRE_ORACLES=1 asks for it"
        );
        eprintln!("skipped: {name} is not installed");
    }
    found.map(Command::new)
}
