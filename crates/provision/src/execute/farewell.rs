//! What a person reads at the end.

use std::{net::IpAddr, time::Duration};

use super::Job;
use crate::{cli::Integrate, install};

impl Job<'_> {
    pub(super) fn say_what_remains(&self, address: IpAddr) {
        let (ui, vm) = (self.ui, self.vm);
        ui.done(format!("VM '{}' (VMID {}) runs at {address}; NixOS is not installed", vm.name, vm.vmid));
        ui.say("");
        ui.say("Two commands remain:");
        ui.say(format!("  {}", install::by_hand(self.flake, &self.login.file, address)));
        ui.say(format!("  post-provision-vm {} {address} {}", vm.name, vm.vmid));
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
            ui.say("One command remains:");
            ui.say(format!("  post-provision-vm {} {address} {}", vm.name, vm.vmid));
        }
    }
}
