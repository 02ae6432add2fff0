//! The cluster behind the node that we connect to: what is asked of a VM goes to the node that has it.

use std::{cell::RefCell, collections::BTreeMap, rc::Rc, sync::Arc};

use fleet_core::{
    Error, Kind, Result,
    deadline::Deadline,
    protocol::{Resource, ResourceKind},
    ssh::{Session, Transport},
    types::{NodeName, VmRef, Vmid},
    ui::Ui,
};

use crate::{
    links::{Links, Whereabouts},
    node::{Node, container},
    ops::rows::Rows,
    settings::Settings,
};

/// Opens the way to another node; given the first one, which says where that is.
type Open = Box<dyn Fn(&Rc<Node>, &NodeName) -> Result<Rc<Node>>>;

/// How long finding out where a VM is may take.
const LOOK: u64 = 30;

/// See the module. For one thread; [`Cluster::over`] makes another one for another thread.
pub struct Cluster {
    first: Rc<Node>,
    open: Open,
    others: RefCell<BTreeMap<NodeName, Rc<Node>>>,
    /// Where VMs were that are not on the first node.
    homes: RefCell<BTreeMap<Vmid, NodeName>>,
}

impl Cluster {
    /// Connects to the node that the settings name. The API is not asked anything yet.
    pub fn connect(settings: &Settings, ui: Ui) -> Result<Cluster> {
        Ok(Cluster::over(&Arc::new(Links::connect(settings, ui)?), ui))
    }

    /// Over sessions that there are already, also those of other threads.
    pub fn over(links: &Arc<Links>, ui: Ui) -> Cluster {
        let settings = links.settings();
        let session = links.first();
        let held: RefCell<Arc<Session>> = RefCell::new(Arc::clone(&session));
        let again = Arc::clone(links);
        let reconnect = move || -> Result<Rc<dyn Transport>> {
            let fresh = again.first_again(&held.borrow().clone())?;
            *held.borrow_mut() = Arc::clone(&fresh);
            Ok(Rc::new(fresh))
        };
        let first = Node::over(Rc::new(session), settings, Arc::clone(&links.login), ui);
        let first = first.reconnecting(Box::new(reconnect));
        let (links, settings) = (Arc::clone(links), settings.clone());
        Cluster::of(first, Box::new(move |first, name| other(&links, &settings, ui, first, name)))
    }

    /// Of a first node and a way to open the others.
    pub fn of(first: Node, open: Open) -> Cluster {
        Cluster { first: Rc::new(first), open, others: RefCell::default(), homes: RefCell::default() }
    }

    /// The node that we connect to.
    pub fn first(&self) -> &Rc<Node> {
        &self.first
    }

    /// The node where something new belongs when nothing else is said: the one that the options, the environment
    /// or the definitions name, else the one that we connect to.
    pub fn base(&self) -> Result<Rc<Node>> {
        match self.first.settings().node.clone() {
            Some(name) => self.node(&name),
            None => Ok(Rc::clone(&self.first)),
        }
    }

    /// A node of the cluster by its name.
    pub fn node(&self, name: &NodeName) -> Result<Rc<Node>> {
        if self.first.name(Deadline::secs(LOOK))? == name {
            return Ok(Rc::clone(&self.first));
        }
        if let Some(node) = self.others.borrow().get(name) {
            return Ok(Rc::clone(node));
        }
        let node = (self.open)(&self.first, name)?;
        let is = node.name(Deadline::secs(LOOK))?.clone();
        if is != *name {
            return Err(Error::failed(format!("what answers as the node '{name}' calls itself '{is}'"))
                .now("nothing was changed")
                .hint("`cat /etc/pve/.members` on the node: is the address of the other one right?"));
        }
        self.others.borrow_mut().insert(name.clone(), Rc::clone(&node));
        Ok(node)
    }

    /// The address of a node of the cluster.
    pub fn address(&self, name: &NodeName) -> Result<String> {
        let members = self.first.members(Deadline::secs(LOOK))?;
        members.into_iter().find(|m| m.name == *name).and_then(|m| m.address).ok_or_else(|| {
            Error::failed(format!("the cluster does not tell the address of its node '{name}'"))
                .hint("connect to it yourself with --host")
        })
    }

    /// Every VM and container of the cluster.
    pub fn resources(&self, deadline: Deadline) -> Result<Vec<Resource>> {
        self.first.resources(deadline)
    }

    /// The same, not yet taken apart.
    pub fn rows(&self, deadline: Deadline) -> Result<Rows> {
        Rows::read(&self.first, deadline)
    }

    /// A VM or container of the cluster by its VMID, if there is one.
    pub fn resource(&self, vmid: Vmid) -> Result<Option<Resource>> {
        Ok(self.resources(Deadline::secs(LOOK))?.into_iter().find(|r| r.vmid == vmid))
    }

    /// Does something with a VM on the node that has it, wherever that is. `work` must have done nothing when it
    /// says that there is no such VM: then it is looked for, and again, once, if it moved meanwhile.
    pub fn on<T>(&self, vmid: Vmid, work: impl FnMut(&Node) -> Result<T>) -> Result<T> {
        self.there(vmid, work).map(|(_, done)| done)
    }

    /// As [`Cluster::on`], and gives the node too.
    pub fn there<T>(&self, vmid: Vmid, mut work: impl FnMut(&Node) -> Result<T>) -> Result<(Rc<Node>, T)> {
        let home = self.homes.borrow().get(&vmid).cloned();
        let mut node = match home {
            Some(name) => self.node(&name)?,
            None => Rc::clone(&self.first),
        };
        for look in 0.. {
            let missing = match work(&node).map_err(|error| node.named(error)) {
                Err(error) if error.kind() == Kind::NotFound => error,
                done => return done.map(|done| (node, done)),
            };
            // Who may not list the cluster's VMs may still have been told the truth.
            let Ok(found) = self.resource(vmid) else { return Err(missing) };
            let here = node.name(Deadline::secs(LOOK))?;
            match found {
                Some(r) if r.kind == ResourceKind::Lxc => return Err(container(&r)),
                Some(r) if r.node != *here && look < 2 => {
                    self.first.ui.detail(format!("VM {vmid} is on the node '{}'", r.node));
                    node = self.node(&r.node).map_err(|e| {
                        e.now(format!("VM {vmid} is on the node '{}'", r.node)).now("nothing was changed")
                    })?;
                    self.homes.borrow_mut().insert(vmid, r.node);
                }
                _ => return Err(missing),
            }
        }
        Err(Error::failed(format!("VM {vmid} moves from node to node")))
    }

    /// The VMID of a VM that has this name in the cluster, or the number itself.
    pub fn vmid(&self, vm: &VmRef) -> Result<Vmid> {
        match vm {
            VmRef::Id(vmid) => Ok(*vmid),
            VmRef::Name(name) => self.first.by_name(name, Deadline::secs(LOOK)),
        }
    }
}

/// Another node over the links.
fn other(
    links: &Arc<Links>,
    settings: &Settings,
    ui: Ui,
    first: &Rc<Node>,
    name: &NodeName,
) -> Result<Rc<Node>> {
    let by_api = |first: &Node| -> Result<BTreeMap<String, Whereabouts>> {
        let members = first.members(Deadline::secs(LOOK))?;
        Ok(members
            .into_iter()
            .map(|m| (m.name.to_string(), Whereabouts { address: m.address, online: m.online }))
            .collect())
    };
    let session = links.other(name, None, &|| by_api(first))?;
    let held: RefCell<Arc<Session>> = RefCell::new(Arc::clone(&session));
    let (again, at, from) = (Arc::clone(links), name.clone(), Rc::clone(first));
    let reconnect = move || -> Result<Rc<dyn Transport>> {
        let fresh = again.other(&at, Some(&held.borrow().clone()), &|| by_api(&from))?;
        *held.borrow_mut() = Arc::clone(&fresh);
        Ok(Rc::new(fresh))
    };
    let settings = Settings { node: Some(name.clone()), ..settings.clone() };
    let node = Node::over(Rc::new(session), &settings, Arc::clone(&links.login), ui);
    Ok(Rc::new(node.reconnecting(Box::new(reconnect))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ops::power,
        testing::{Fake, node, node_called},
    };
    use serde_json::{Value, json};

    const MISSING: &str = "Configuration file 'nodes/prom/qemu-server/110.conf' does not exist\n";

    fn vmid(n: u32) -> Vmid {
        Vmid::new(n).unwrap()
    }

    fn fake(name: &str) -> Fake {
        Fake::new().get(
            "/cluster/status",
            json!([{"type": "cluster", "name": "c"}, {"type": "node", "name": name, "local": 1}]),
        )
    }

    fn status(fake: Fake, name: &str, there: bool) -> Fake {
        let path = format!("/nodes/{name}/qemu/110/status/current");
        match there {
            true => fake.get(&path, json!({"status": "running"})),
            false => fake.on("GET", &path, 500, json!({"message": MISSING})),
        }
    }

    fn lives(fake: Fake, on: &str) -> Fake {
        fake.get(
            "/cluster/resources",
            json!([{"type": "qemu", "vmid": 110, "node": on, "status": "running"}]),
        )
    }

    fn cluster(first: &Fake, others: &[(&'static str, Fake)]) -> Cluster {
        let others: Vec<(&'static str, Fake)> = others.to_vec();
        Cluster::of(
            node(first),
            Box::new(move |_, name| {
                let (name, fake) = others
                    .iter()
                    .find(|(other, _)| *other == name.as_str())
                    .ok_or_else(|| Error::unreachable("no way there"))?;
                Ok(Rc::new(node_called(fake, name)))
            }),
        )
    }

    fn ask(cluster: &Cluster) -> Result<String> {
        cluster.on(vmid(110), |node| Ok(power::status(node, vmid(110), Deadline::secs(5))?.node.to_string()))
    }

    #[test]
    fn a_vm_here_is_asked_for_here_and_nowhere_else() {
        let first = status(fake("prom"), "prom", true);
        assert_eq!(ask(&cluster(&first, &[])).unwrap(), "prom");
        assert_eq!(first.requests("GET /cluster/resources"), 0);
    }

    #[test]
    fn a_vm_on_another_node_is_asked_for_there_from_then_on() {
        let first = lives(status(fake("prom"), "prom", false), "b");
        let b = status(fake("b"), "b", true);
        let cluster = cluster(&first, &[("b", b.clone())]);
        assert_eq!(ask(&cluster).unwrap(), "b");
        assert_eq!(ask(&cluster).unwrap(), "b");
        assert_eq!(first.requests("GET /nodes/prom/qemu/110"), 1);
        assert_eq!(b.requests("GET /nodes/b/qemu/110"), 2);
    }

    #[test]
    fn a_vm_that_moves_between_look_and_call_is_looked_for_once_more() {
        let first = lives(lives(status(fake("prom"), "prom", false), "b"), "c");
        let (b, c) = (status(fake("b"), "b", false), status(fake("c"), "c", true));
        let found = cluster(&first, &[("b", b), ("c", c)]);
        assert_eq!(ask(&found).unwrap(), "c");
        // For ever on its way: the last word is the node's own.
        let first = lives(lives(lives(status(fake("prom"), "prom", false), "b"), "c"), "b");
        let (b, c) = (status(fake("b"), "b", false), status(fake("c"), "c", false));
        let lost = ask(&cluster(&first, &[("b", b), ("c", c)])).unwrap_err();
        assert_eq!(lost.kind(), Kind::NotFound);
    }

    #[test]
    fn containers_and_what_is_nowhere_are_told_apart() {
        let container = status(fake("prom"), "prom", false).get(
            "/cluster/resources",
            json!([{"type": "lxc", "vmid": 110, "node": "b", "status": "unknown"}]),
        );
        assert_eq!(ask(&cluster(&container, &[])).unwrap_err().kind(), Kind::Conflict);
        let nowhere = status(fake("prom"), "prom", false).get("/cluster/resources", json!([]));
        assert_eq!(ask(&cluster(&nowhere, &[])).unwrap_err().kind(), Kind::NotFound);
        let far = lives(status(fake("prom"), "prom", false), "b");
        let error = ask(&cluster(&far, &[])).unwrap_err();
        assert_eq!(
            (error.kind(), error.facts()[0].as_str()),
            (Kind::Unreachable, "VM 110 is on the node 'b'")
        );
    }

    #[test]
    fn a_node_that_is_another_one_is_not_believed() {
        let first = lives(status(fake("prom"), "prom", false), "b");
        let error = ask(&cluster(&first, &[("b", fake("stranger"))])).unwrap_err();
        assert!(error.message().contains("calls itself 'stranger'"), "{error}");
        let refused = fake("prom").on("GET", "/cluster/resources", 403, Value::Null);
        let refused = status(refused, "prom", false);
        assert_eq!(ask(&cluster(&refused, &[])).unwrap_err().kind(), Kind::NotFound);
    }
}
