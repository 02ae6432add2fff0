//! What a person reads at the end.

use std::{net::IpAddr, time::Duration};

use fleet_core::{
    child::{self, Command, Output},
    deadline::Deadline,
    known_hosts,
};

use super::Job;
use crate::{
    again,
    cli::Integrate,
    install::{self, ByHand},
};

/// How long a program that is asked what it knows may take, in seconds.
const LOOK: u64 = 5;

impl Job<'_> {
    pub(super) fn say_what_remains(&self, address: IpAddr) {
        let (ui, vm) = (self.ui, self.vm);
        ui.done(format!("VM '{}' (VMID {}) runs at {address}; NixOS is not installed", vm.name, vm.vmid));
        ui.say("");
        ui.keep("Two commands remain:");
        ui.keep(format!("  {}", self.by_hand(address)));
        ui.keep(format!("  {}", self.integration(address)));
    }

    fn integration(&self, address: IpAddr) -> String {
        let (address, vmid) = (address.to_string(), self.vm.vmid.to_string());
        again::post_provision_vm(&[self.vm.name.as_str(), &address, &vmid])
    }

    /// What is there to install with is looked at now: a run that stops here needs none of it.
    fn by_hand(&self, address: IpAddr) -> String {
        let program = self.tools.installer().unwrap_or_else(|_| Command::new("nixos-anywhere"));
        let said = |command: Command| {
            let output = command.output(Deadline::secs(LOOK)).and_then(Output::checked);
            output.map(|output| output.stdout_text()).unwrap_or_default()
        };
        let nix = child::find_program("nix").map(|path| said(Command::new(path).arg("--version")));
        // What lies in the private directory is gone after the run.
        let identity = Some(self.login.file.as_path()).filter(|file| !file.starts_with(self.private.path()));
        ByHand {
            program: &program,
            flake: self.flake,
            identity,
            kexec: self.kexec,
            build_on: self.cli.build_on,
            nix: nix.and_then(|said| install::nix_release(&said)),
            knows: self.tools.installer_knows(),
        }
        .line(address)
    }

    /// Commands that log in at once: the VM's key is on record under its name, in the fleet's own file, once it is in the
    /// fleet. The second goes through the node where this machine does not reach the address.
    fn way_in(&self, address: IpAddr) -> Vec<String> {
        let to = |host: &str| format!("{}@{host}", self.user);
        let known = known_hosts::file().filter(|_| self.cli.integrate() != Integrate::Never);
        let Some(known) = known else { return vec![format!("ssh {}", to(&address.to_string()))] };
        let known = format!("UserKnownHostsFile={}", known.display());
        let ssh = || Command::new("ssh").args(["-o", &known]);
        let name = self.vm.name.as_str();
        let straight = ssh().args(["-o", &format!("HostKeyAlias={name}"), &to(&address.to_string())]);
        let connect = format!("ProxyCommand={}", again::proxmox_ops(&["connect", name]));
        let node = ssh().args(["-o", &connect, &to(name)]);
        vec![
            straight.to_string(),
            format!("{node}   # in the repository; also where {address} is not reached"),
        ]
    }

    pub(super) fn farewell(&self, address: IpAddr, took: Duration) {
        let (ui, vm) = (self.ui, self.vm);
        ui.say("");
        ui.done(format!("VM '{}' (VMID {}) is ready after {:.1} s", vm.name, vm.vmid, took.as_secs_f64()));
        let steps: Vec<String> = self
            .journal
            .took()
            .iter()
            .map(|(step, took)| format!("{step} {:.1}", took.as_secs_f64()))
            .collect();
        ui.keep(format!("  seconds: {}", steps.join(", ")));
        self.way_in(address).iter().for_each(|command| ui.keep(format!("  {command}")));
        if self.cli.integrate() == Integrate::Never {
            ui.keep("One command remains:");
            ui.keep(format!("  {}", self.integration(address)));
        }
    }
}
