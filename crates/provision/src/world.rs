//! What is there: read from the node once, before anything is decided.

use fleet_core::{
    Error, Kind, Result,
    deadline::Deadline,
    definitions::{Definitions, Install, ManagedVm, Placement},
    protocol::{
        AddressHolder, ClusterConfig, NodeInfo, NodeRoom, Op, Resource, ResourceKind, Session, Storage,
        UploadPlace, VmConfig, VmStatus,
    },
    types::{NodeName, Vmid},
    ui::Ui,
};

use crate::{
    place::{Placed, Places},
    plan,
    preflight::Faults,
};

/// How long one reading request may take, in seconds.
const READ_LIMIT: u64 = 60;
/// The same of who has an address: the node may have to be waited for until it has forgotten one.
const HOLDER_LIMIT: u64 = 100;

/// What the node and the cluster say, as far as it matters for one VM.
#[derive(Debug, Clone)]
pub struct World {
    /// The node that answered.
    pub node: NodeInfo,
    /// Every VM and container of the cluster.
    pub resources: Vec<Resource>,
    /// The node that the VM is on or shall be on; none when nobody asked, or none was found.
    pub target: Option<NodeName>,
    /// How that node was found, where it was to be chosen.
    pub placed: Option<Placed>,
    /// VMs on that node that it should not share one with.
    pub beside: Vec<String>,
    /// That node's storages.
    pub storages: Vec<Storage>,
    /// The configuration of every VM and container of the cluster.
    pub configs: Vec<ClusterConfig>,
    /// That node's bridges; nothing when it does not tell.
    pub bridges: Option<Vec<String>>,
    /// What that node has, for a VM that is to be made on it.
    pub room: Option<NodeRoom>,
    /// Where that node takes an image, for a VM that is to be made of one.
    pub place: Option<UploadPlace>,
    /// Who answers to the address that the definition fixes, for a VM that is to be made.
    pub holder: Option<AddressHolder>,
    /// Why that is not known, where the node could not be asked.
    pub unasked: Option<String>,
    /// The template's configuration; `None` when there is no such VM.
    pub template: Option<VmConfig>,
    /// The VM's own configuration, when its VMID is a VM already.
    pub existing: Option<(VmConfig, VmStatus)>,
    /// A task of the node that an earlier run had make the VM, and that was killed: what stands under the VMID is what
    /// that left.
    pub remainder: Option<String>,
}

impl World {
    /// What the node and the cluster say, before anything is asked about one VM.
    pub(crate) fn of(node: NodeInfo, resources: Vec<Resource>, configs: Vec<ClusterConfig>) -> World {
        World {
            node,
            resources,
            target: None,
            placed: None,
            beside: Vec::new(),
            storages: Vec::new(),
            configs,
            bridges: None,
            room: None,
            place: None,
            holder: None,
            unasked: None,
            template: None,
            existing: None,
            remainder: None,
        }
    }

    /// Whether the node that answers, or the one where the VM belongs, holds a VM (no container) of this number.
    pub fn holds(&self, vmid: Vmid) -> bool {
        self.resources.iter().any(|r| {
            let near = r.node == self.node.node || self.target.as_ref() == Some(&r.node);
            r.vmid == vmid && r.kind == ResourceKind::Qemu && near
        })
    }
}

/// The template's VMID that `vm` is cloned from; none where it is made of an image.
pub fn template_of(definitions: &Definitions, vm: &ManagedVm) -> Result<Option<Vmid>> {
    if vm.install == Install::Image {
        return Ok(None);
    }
    vm.template.or(definitions.template.as_ref().map(|template| template.vmid)).map(Some).ok_or_else(|| {
        Error::failed(format!("no template to clone '{}' from", vm.name))
            .now("nothing was changed")
            .hint(format!("add `template = {{ vmid = …; name = …; }};` to {}", definitions.path.display()))
    })
}

/// A look at the world for one VM.
pub struct Survey<'a> {
    /// Where it is told what is waited for.
    pub ui: Ui,
    /// The VM.
    pub vm: &'a ManagedVm,
    /// What it is cloned from; none where it is made of an image, and no template is defined.
    pub template: Option<Vmid>,
    /// All definitions.
    pub definitions: &'a Definitions,
    /// Where the other VMs of this run go.
    pub places: &'a Places,
}

impl Survey<'_> {
    /// Reads the world. A node that can not be reached is an error, never an empty world; that no node can have the
    /// VM is a fault among others.
    pub fn look(&self, session: &mut Session, faults: &mut Faults) -> Result<World> {
        let (vm, limit) = (self.vm, || Deadline::secs(READ_LIMIT));
        let node: NodeInfo = session.ask(Op::Node, limit(), |_| {})?;
        let resources: Vec<Resource> = session.ask(Op::Resources, limit(), |_| {})?;
        let configs: Vec<ClusterConfig> = session.ask(Op::Configs, limit(), |_| {})?;
        let known = configs.iter().find(|config| Some(config.vmid) == self.template);
        let template = match (self.template, known) {
            (Some(_), Some(config)) if config.kind == ResourceKind::Qemu => {
                Some(VmConfig::from(config.clone()))
            }
            (Some(vmid), _) => found(session.ask(Op::Config { vmid }, limit(), |_| {}))?,
            (None, _) => None,
        };
        let mut world = World::of(node, resources, configs);
        world.target = Some(world.node.node.clone());
        world.template = template;
        self.place(session, faults, &mut world)?;
        let holder = world.resources.iter().find(|r| r.vmid == vm.vmid);
        if let Some(target) = &world.target {
            let node = (*target != world.node.node).then(|| target.clone());
            world.storages = session.ask(Op::Storages { node: node.clone() }, limit(), |_| {})?;
            if vm.install == Install::Image && holder.is_none() {
                world.place = Some(session.ask(Op::UploadPlace { node: node.clone() }, limit(), |_| {})?);
            }
            if holder.is_none() && world.room.is_none() {
                let rooms: Vec<NodeRoom> = session.ask(Op::Nodes, limit(), |_| {})?;
                world.room = rooms.into_iter().find(|room| room.node == *target);
            }
            if let (Some(address), None) = (plan::fixed_address(vm), holder) {
                let op = Op::AddressHolder { address, node: node.clone() };
                match session.ask(op, Deadline::secs(HOLDER_LIMIT), |line| self.ui.tell(line)) {
                    Ok(holder) => world.holder = holder,
                    Err(e) if e.kind() == Kind::Interrupted => return Err(e),
                    // That leaves what the configurations tell.
                    Err(e) => world.unasked = Some(e.message().to_owned()),
                }
            }
            world.bridges = session.ask(Op::Bridges { node }, limit(), |_| {}).ok();
            world.beside = self.places.beside(vm, target, &world.resources, self.definitions);
        }
        // On another node it is worth a look only when it is ours.
        let ours = |config: &ClusterConfig| config.vmid == vm.vmid && config.marker.is_some();
        if world.holds(vm.vmid) || world.configs.iter().any(ours) {
            world.existing = existing(session, vm.vmid)?;
        }
        Ok(world)
    }

    /// Finds the node where the VM is, or else belongs.
    fn place(&self, session: &mut Session, faults: &mut Faults, world: &mut World) -> Result<()> {
        let (vm, holder) = (self.vm, world.resources.iter().find(|r| r.vmid == self.vm.vmid));
        match (&vm.node, holder) {
            // It is never moved.
            (Placement::Auto, Some(there)) => {
                let reason = "it is there already".to_owned();
                world.placed = Some(Placed { node: there.node.clone(), reason });
            }
            (Placement::Auto, None) => {
                let rooms: Vec<NodeRoom> = session.ask(Op::Nodes, Deadline::secs(READ_LIMIT), |_| {})?;
                // An image is sent to whichever node it is.
                let template = world.template.as_ref().filter(|_| vm.install != Install::Image);
                let resources = &world.resources;
                let placed = self.places.choose(vm, template, &rooms, resources, self.definitions);
                world.placed = faults.keep(placed);
                let chosen = world.placed.as_ref().map(|placed| &placed.node);
                world.room = rooms.into_iter().find(|room| Some(&room.node) == chosen);
            }
            (Placement::Node(node), _) => world.target = Some(node.clone()),
            (Placement::Default, _) => {}
        }
        if vm.node == Placement::Auto {
            world.target = world.placed.as_ref().map(|placed| placed.node.clone());
        } else if let (Some(target), None) = (&world.target, holder) {
            self.places.keep(vm, target);
        }
        Ok(())
    }
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
