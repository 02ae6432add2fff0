//! nixos-anywhere, phase by phase: each with a deadline and in a process group of its own.

use std::path::PathBuf;

use fleet_core::{
    Error, Result,
    child::{Command, quote},
    types::VmName,
};

use crate::{host_key, settings::BOOTSTRAP_USER};

/// One call of nixos-anywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Boot the installer in the place of the running system.
    Kexec,
    /// Partition, copy the system, install.
    Install,
    /// Boot what was installed.
    Reboot,
}

impl Phase {
    fn phases(self) -> &'static str {
        match self {
            Phase::Kexec => "kexec",
            Phase::Install => "disko,install",
            Phase::Reboot => "reboot",
        }
    }

    /// How long it may take, in seconds. kexec downloads an installer of some 400 MB; the installation builds
    /// and copies a whole system.
    pub fn limit(self) -> u64 {
        match self {
            Phase::Kexec => 30 * 60,
            Phase::Install => 3 * 60 * 60,
            Phase::Reboot => 10 * 60,
        }
    }

    /// What a person reads.
    pub fn title(self) -> &'static str {
        match self {
            Phase::Kexec => "Starting the NixOS installer (kexec)",
            Phase::Install => "Partitioning the disk and installing NixOS",
            Phase::Reboot => "Rebooting into NixOS",
        }
    }
}

/// Everything that stays the same over the phases.
#[derive(Debug, Clone)]
pub struct Installer {
    /// nixos-anywhere, or nix running it.
    pub program: Command,
    /// `DIR#CONFIG`.
    pub flake: String,
    /// A name for the VM that no entry in anybody's ssh_config speaks of; the bytes go through `proxy`.
    pub target: String,
    /// Private key to log in with.
    pub identity: PathBuf,
    /// An executable that carries the bytes to the VM's current address.
    pub proxy: PathBuf,
    /// Files for the new system.
    pub extra_files: PathBuf,
}

impl Installer {
    /// The command of one phase.
    ///
    /// The values of `--ssh-option` end up joined by blanks in `NIX_SSHOPTS`: none may hold a blank. A shared
    /// connection (`ControlMaster`) would outlive kexec and the reboot, and with them the machine at its end.
    pub fn command(&self, phase: Phase) -> Command {
        let command = self
            .program
            .clone()
            .args(["--phases", phase.phases(), "--flake", &self.flake])
            .arg("-i")
            .arg(&self.identity)
            .arg("--ssh-option")
            .arg(format!("ProxyCommand={}", self.proxy.display()))
            .args(["--ssh-option", "ControlMaster=no", "--ssh-option", "ControlPath=none"]);
        let command = match phase {
            Phase::Install => command.arg("--extra-files").arg(&self.extra_files),
            Phase::Kexec | Phase::Reboot => command,
        };
        command.args(["--target-host", &self.target])
    }
}

/// The program for OpenSSH's `ProxyCommand`: `connect`, wrapped so that its name holds no blank.
pub fn proxy_script(connect: &Command, dir: &std::path::Path) -> Result<PathBuf> {
    let path = dir.join("connect");
    host_key::write_new(&path, format!("#!/bin/sh\nexec {connect}\n").as_bytes(), 0o700)?;
    Ok(path)
}

/// Whom nixos-anywhere is told to log in to: a name that no entry in anybody's ssh_config speaks of.
pub fn target_of(name: &VmName) -> String {
    format!("{BOOTSTRAP_USER}@{name}.fleet.invalid")
}

/// The user's way to do by hand what `--no-install` left out.
pub fn by_hand(flake: &str, identity: &std::path::Path, address: std::net::IpAddr) -> String {
    format!(
        "nixos-anywhere --flake {} -i {} --target-host root@{address}",
        quote(flake),
        quote(&identity.to_string_lossy())
    )
}

/// `DIR#CONFIG` for a repository; a `#` or `?` in its path would change the meaning.
pub fn flake_of(root: &std::path::Path, config: &str) -> Result<String> {
    let root = root.to_string_lossy();
    if root.contains(['#', '?']) {
        return Err(Error::failed(format!(
            "the repository's path {root} holds '#' or '?', which a flake reference can not"
        ))
        .now("nothing was changed")
        .hint("move the repository to a path without them"));
    }
    Ok(format!("{root}#{config}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn installer() -> Installer {
        Installer {
            program: Command::new("nixos-anywhere"),
            flake: "/fleet#web".into(),
            target: "root@web.fleet.invalid".into(),
            identity: "/home/me/.ssh/id_ed25519".into(),
            proxy: "/run/user/1000/fleet-x/connect".into(),
            extra_files: "/run/user/1000/fleet-x/extra".into(),
        }
    }

    #[test]
    fn only_the_installation_gets_the_host_key() {
        assert_eq!(
            installer().command(Phase::Install).to_string(),
            "nixos-anywhere --phases 'disko,install' --flake '/fleet#web' -i /home/me/.ssh/id_ed25519 \
             --ssh-option 'ProxyCommand=/run/user/1000/fleet-x/connect' --ssh-option 'ControlMaster=no' \
             --ssh-option 'ControlPath=none' --extra-files /run/user/1000/fleet-x/extra \
             --target-host root@web.fleet.invalid"
        );
        for phase in [Phase::Kexec, Phase::Reboot] {
            assert!(!installer().command(phase).to_string().contains("extra-files"));
        }
    }

    #[test]
    fn a_flake_reference_keeps_its_meaning() {
        assert_eq!(flake_of("/fleet".as_ref(), "web").unwrap(), "/fleet#web");
        assert!(flake_of("/a#b".as_ref(), "web").is_err());
    }
}
