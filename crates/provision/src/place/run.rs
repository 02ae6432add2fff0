//! The VMs that a run is going to make: each is placed with the ones before it in mind.

use std::sync::{Mutex, PoisonError};

use fleet_core::{
    Result,
    definitions::{Definitions, ManagedVm},
    protocol::{NodeRoom, Resource, VmConfig},
    types::NodeName,
};

use super::{Others, Placed, place};

/// Where the VMs go that this run makes.
#[derive(Debug, Default)]
pub struct Places(Mutex<Vec<(ManagedVm, NodeName)>>);

impl Places {
    /// Chooses a node for `vm`, and keeps its place there.
    pub fn choose(
        &self,
        vm: &ManagedVm,
        template: Option<&VmConfig>,
        rooms: &[NodeRoom],
        resources: &[Resource],
        definitions: &Definitions,
    ) -> Result<Placed> {
        let mut planned = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        planned.retain(|(other, _)| other.name != vm.name);
        let avoided: Vec<NodeName> =
            avoided(vm, definitions, resources, &planned).into_iter().map(|(_, node)| node).collect();
        let placed = place(vm, template, rooms, &Others { resources, planned: &planned, avoided: &avoided })?;
        planned.push((vm.clone(), placed.node.clone()));
        Ok(placed)
    }

    /// Keeps a place for a VM whose node was not to be chosen.
    pub fn keep(&self, vm: &ManagedVm, node: &NodeName) {
        let mut planned = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        planned.retain(|(other, _)| other.name != vm.name);
        planned.push((vm.clone(), node.clone()));
    }

    /// The VMs on `node` that `vm` should not share it with.
    pub fn beside(
        &self,
        vm: &ManagedVm,
        node: &NodeName,
        resources: &[Resource],
        definitions: &Definitions,
    ) -> Vec<String> {
        let planned = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let avoided = avoided(vm, definitions, resources, &planned);
        avoided.into_iter().filter(|(_, on)| on == node).map(|(name, _)| name).collect()
    }
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
