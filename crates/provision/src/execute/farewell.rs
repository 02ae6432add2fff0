//! What a person reads at the end.

use std::{net::IpAddr, time::Duration};

use fleet_core::{
    child::{self, Command, Output},
    deadline::Deadline,
};

use super::Job;
use crate::{
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
        ui.keep(format!("  post-provision-vm {} {address} {}", vm.name, vm.vmid));
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
        ui.say(format!("  seconds: {}", steps.join(", ")));
        ui.say(format!("  ssh {}@{address}", self.user));
        if self.cli.integrate() == Integrate::Never {
            ui.keep("One command remains:");
            ui.keep(format!("  post-provision-vm {} {address} {}", vm.name, vm.vmid));
        }
    }
}
