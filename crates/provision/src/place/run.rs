//! The VMs that a run is going to make: each is placed with the ones before it in mind.

use std::sync::{Mutex, PoisonError};

use fleet_core::{
    Result,
    definitions::{Definitions, ManagedVm},
    protocol::{NodeRoom, Resource, VmConfig},
    types::NodeName,
};

use super::{Others, Placed, place};
use crate::state;

/// Where the VMs go that this run makes.
#[derive(Debug, Default)]
pub struct Places {
    planned: Mutex<Vec<(ManagedVm, NodeName)>>,
    /// Whether other runs are to know: this one makes them, it does not only look.
    told: bool,
}

impl Places {
    /// For a run that makes VMs: other runs on this machine are told of their places.
    pub fn told() -> Places {
        Places { told: true, ..Places::default() }
    }

    /// Writes a place down. That nobody else knows of it is no reason to stop.
    fn tell(&self, vm: &ManagedVm, node: &NodeName) {
        if self.told {
            let _ = state::keep_place(&vm.name, vm.vmid, node);
        }
    }

    /// Chooses a node for `vm`, and keeps its place there.
    pub fn choose(
        &self,
        vm: &ManagedVm,
        template: Option<&VmConfig>,
        rooms: &[NodeRoom],
        resources: &[Resource],
        definitions: &Definitions,
    ) -> Result<Placed> {
        let mut planned = self.planned.lock().unwrap_or_else(PoisonError::into_inner);
        planned.retain(|(other, _)| other.name != vm.name);
        // One run after the other: each sees what the one before has written down.
        let _turn = if self.told { state::turn_at_placing() } else { None };
        let mut coming = planned.clone();
        coming.extend(of_other_runs(vm, definitions, resources));
        let avoided: Vec<NodeName> =
            avoided(vm, definitions, resources, &coming).into_iter().map(|(_, node)| node).collect();
        let placed = place(vm, template, rooms, &Others { resources, planned: &coming, avoided: &avoided })?;
        self.tell(vm, &placed.node);
        planned.push((vm.clone(), placed.node.clone()));
        Ok(placed)
    }

    /// Keeps a place for a VM whose node was not to be chosen.
    pub fn keep(&self, vm: &ManagedVm, node: &NodeName) {
        let mut planned = self.planned.lock().unwrap_or_else(PoisonError::into_inner);
        planned.retain(|(other, _)| other.name != vm.name);
        planned.push((vm.clone(), node.clone()));
        self.tell(vm, node);
    }

    /// The VMs on `node` that `vm` should not share it with.
    pub fn beside(
        &self,
        vm: &ManagedVm,
        node: &NodeName,
        resources: &[Resource],
        definitions: &Definitions,
    ) -> Vec<String> {
        let planned = self.planned.lock().unwrap_or_else(PoisonError::into_inner);
        let avoided = avoided(vm, definitions, resources, &planned);
        avoided.into_iter().filter(|(_, on)| on == node).map(|(name, _)| name).collect()
    }
}

/// The VMs that other runs on this machine are making. One that runs already takes its memory itself.
fn of_other_runs(
    vm: &ManagedVm,
    definitions: &Definitions,
    resources: &[Resource],
) -> Vec<(ManagedVm, NodeName)> {
    let kept = state::kept_places().into_iter();
    let defined = kept.filter_map(|kept| {
        let of = |other: &&ManagedVm| kept.vm == format!("{}-{}", other.name, other.vmid);
        Some((definitions.managed.iter().find(of)?.clone(), kept.node))
    });
    let comes = |other: &ManagedVm| {
        other.name != vm.name && !resources.iter().any(|r| r.vmid == other.vmid && r.status == "running")
    };
    defined.filter(|(other, _)| comes(other)).collect()
}

/// The VMs that `vm` should not share a node with, and where they are: where they exist, else where this run makes
/// them, else where their definition wants them.
fn avoided(
    vm: &ManagedVm,
    definitions: &Definitions,
    resources: &[Resource],
    planned: &[(ManagedVm, NodeName)],
) -> Vec<(String, NodeName)> {
    let place = |other: &ManagedVm| {
        let exists = resources.iter().find(|r| r.vmid == other.vmid).map(|r| &r.node);
        let comes = || planned.iter().find(|(vm, _)| vm.name == other.name).map(|(_, node)| node);
        exists.or_else(comes).or_else(|| other.node.named()).cloned()
    };
    let others = definitions.managed.iter().filter(|other| vm.avoids(other));
    others.filter_map(|other| Some((other.name.to_string(), place(other)?))).collect()
}
