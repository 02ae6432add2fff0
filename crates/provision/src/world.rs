//! What is there: read from the node once, before anything is decided.

use fleet_core::{
    Error, Kind, Result,
    deadline::Deadline,
    definitions::{Definitions, ManagedVm},
    protocol::{ClusterConfig, NodeInfo, Op, Resource, ResourceKind, Session, Storage, VmConfig, VmStatus},
    types::Vmid,
};

/// How long one reading request may take, in seconds.
const READ_LIMIT: u64 = 60;

/// What the node and the cluster say, as far as it matters for one VM.
#[derive(Debug, Clone)]
pub struct World {
    /// The node that answered.
    pub node: NodeInfo,
    /// Every VM and container of the cluster.
    pub resources: Vec<Resource>,
    /// The node's storages.
    pub storages: Vec<Storage>,
    /// The configuration of every VM and container of the cluster.
    pub configs: Vec<ClusterConfig>,
    /// The node's bridges; nothing when it does not tell.
    pub bridges: Option<Vec<String>>,
    /// The template's configuration; `None` when there is no such VM.
    pub template: Option<VmConfig>,
    /// The VM's own configuration, when its VMID is a VM already.
    pub existing: Option<(VmConfig, VmStatus)>,
}

impl World {
    /// Whether the node that answers holds a VM (no container) of this number.
    pub fn holds(&self, vmid: Vmid) -> bool {
        self.resources
            .iter()
            .any(|r| r.vmid == vmid && r.kind == ResourceKind::Qemu && r.node == self.node.node)
    }
}

/// The template's VMID that `vm` is cloned from.
pub fn template_of(definitions: &Definitions, vm: &ManagedVm) -> Result<Vmid> {
    vm.template.or(definitions.template.as_ref().map(|template| template.vmid)).ok_or_else(|| {
        Error::failed(format!("no template to clone '{}' from", vm.name))
            .now("nothing was changed")
            .hint(format!("add `template = {{ vmid = …; name = …; }};` to {}", definitions.path.display()))
    })
}

/// Reads the world for `vm`. A node that can not be reached is an error, never an empty world.
pub fn survey(session: &mut Session, template: Vmid, vm: &ManagedVm) -> Result<World> {
    let limit = || Deadline::secs(READ_LIMIT);
    let node: NodeInfo = session.ask(Op::Node, limit(), |_| {})?;
    let resources: Vec<Resource> = session.ask(Op::Resources, limit(), |_| {})?;
    let storages = session.ask(Op::Storages { node: vm.node.clone() }, limit(), |_| {})?;
    let bridges = session.ask(Op::Bridges { node: vm.node.clone() }, limit(), |_| {}).ok();
    let configs: Vec<ClusterConfig> = session.ask(Op::Configs, limit(), |_| {})?;
    let template = match configs.iter().find(|config| config.vmid == template) {
        Some(config) if config.kind == ResourceKind::Qemu => Some(VmConfig::from(config.clone())),
        _ => found(session.ask(Op::Config { vmid: template }, limit(), |_| {}))?,
    };
    let mut world = World { node, resources, storages, configs, bridges, template, existing: None };
    // On another node it is worth a look only when it is ours.
    let ours = |config: &ClusterConfig| config.vmid == vm.vmid && config.marker.is_some();
    if world.holds(vm.vmid) || world.configs.iter().any(ours) {
        world.existing = existing(session, vm.vmid)?;
    }
    Ok(world)
}

/// The VM's configuration and state, if it (still) exists.
pub fn existing(session: &mut Session, vmid: Vmid) -> Result<Option<(VmConfig, VmStatus)>> {
    let Some(config) = found(session.ask(Op::Config { vmid }, Deadline::secs(READ_LIMIT), |_| {}))? else {
        return Ok(None);
    };
    let status = found(session.ask(Op::Status { vmid }, Deadline::secs(READ_LIMIT), |_| {}))?;
    Ok(status.map(|status| (config, status)))
}

fn found<T>(answer: Result<T>) -> Result<Option<T>> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == Kind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
