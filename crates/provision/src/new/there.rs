//! Whether what a new definition names is there. It is told, and no more: who writes it may be about to make it.

use fleet_core::{
    Result,
    deadline::Deadline,
    definitions::{Definitions, ManagedVm, Placement},
    hosts::Hosts,
    protocol::{NodeRoom, Op, Resource, Session, Storage},
    types::NodeName,
};

use crate::{place, plan};

/// What the cluster has, for who was able to ask it.
pub(super) struct Cluster {
    session: Session,
    /// Its VMs and containers.
    pub(super) resources: Vec<Resource>,
}

impl Cluster {
    pub(super) fn ask(mut session: Session) -> Result<Cluster> {
        let resources = session.ask(Op::Resources, Deadline::secs(60), |_| {})?;
        Ok(Cluster { session, resources })
    }

    /// What of the definition the cluster does not have. What it does not tell is no fault.
    pub(super) fn lacks(&mut self, vm: &ManagedVm) -> Vec<String> {
        let look = || Deadline::secs(60);
        let mut lacks = Vec::new();
        let node = match &vm.node {
            Placement::Node(node) => Some(node.clone()),
            _ => None,
        };
        if let Some(node) = &node {
            let nodes: Vec<NodeRoom> = self.session.ask(Op::Nodes, look(), |_| {}).unwrap_or_default();
            if let Some(missing) = no_node(node, &nodes) {
                return vec![missing];
            }
        }
        if vm.node != Placement::Auto {
            let op = Op::Storages { node: node.clone() };
            let storages: Vec<Storage> = self.session.ask(op, look(), |_| {}).unwrap_or_default();
            if !storages.is_empty() {
                let needs = place::needs(vm, None).into_iter();
                let faults = needs.filter_map(|(name, bytes)| plan::storage_fault(name, bytes, &storages));
                lacks.extend(faults.map(|fault| fault.message().to_owned()));
            }
            let bridges: Vec<String> =
                self.session.ask(Op::Bridges { node }, look(), |_| {}).unwrap_or_default();
            if let Some(bridge) = &vm.bridge
                && !bridges.is_empty()
                && !bridges.iter().any(|there| there == bridge.as_str())
            {
                lacks.push(format!("bridge '{bridge}' does not exist (there are: {})", bridges.join(", ")));
            }
        }
        let template = vm.template.filter(|it| self.resources.iter().all(|there| there.vmid != *it));
        lacks.extend(template.map(|template| format!("there is no template {template}")));
        lacks
    }
}

fn no_node(node: &NodeName, nodes: &[NodeRoom]) -> Option<String> {
    let names: Vec<&str> = nodes.iter().map(|there| there.node.as_str()).collect();
    (!names.is_empty() && !names.contains(&node.as_str()))
        .then(|| format!("node '{node}' does not exist (there are: {})", names.join(", ")))
}

/// Whose system its configuration is besides.
pub(super) fn shared(vm: &ManagedVm, definitions: &Definitions, hosts: &Hosts) -> Option<String> {
    let config = vm.nixos_config.as_str();
    let managed = definitions.managed.iter().filter(|other| other.nixos_config == config);
    let mut names: Vec<&str> = managed.map(|other| other.name.as_str()).collect();
    names.extend(hosts.hosts.iter().map(|host| host.name.as_str()).filter(|name| *name == config));
    let other = names.into_iter().find(|name| *name != vm.name.as_str())?;
    Some(format!(
        "hosts/{config}/ is the system of '{other}': '{}' would be the same one, and call itself as that does",
        vm.name
    ))
}
