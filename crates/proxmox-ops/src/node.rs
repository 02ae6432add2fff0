//! A node that we are connected to, and where a VM is.

use std::{cell::OnceCell, rc::Rc, time::Duration};

use fleet_core::{
    Error, Kind, Result,
    deadline::Deadline,
    protocol::{Resource, ResourceKind},
    ssh::{HostKeyPolicy, Session, Target, Transport},
    types::{NodeName, VmName, Vmid},
    ui::Ui,
};
use serde::Deserialize;
use serde_json::Value;

use crate::{
    api::{Client, auth::Auth, encode},
    settings::Settings,
};

/// How long a connection to the node may take, login included.
const CONNECT: Duration = Duration::from_secs(30);

/// A node and our way to its API.
pub struct Node {
    /// The API.
    pub api: Client,
    /// Where progress is told.
    pub ui: Ui,
    settings: Settings,
    name: OnceCell<NodeName>,
}

#[derive(Deserialize)]
struct StatusRow {
    #[serde(rename = "type")]
    kind: String,
    name: String,
    #[serde(default)]
    local: Option<Value>,
}

impl Node {
    /// Connects to the node over SSH. The API is not asked anything yet.
    pub fn connect(settings: &Settings, ui: Ui) -> Result<Node> {
        // Who could not log in to the API need not log in to the node.
        let auth = Auth::from_env(&settings.user)?;
        let target = Target {
            host: settings.host.clone(),
            user: Some(settings.user.clone()),
            host_key: HostKeyPolicy::KnownHosts,
            identities: Vec::new(),
            proxy: None,
        };
        let connect = move || -> Result<Rc<dyn Transport>> {
            Ok(Rc::new(Session::connect(&target, ui, Deadline::after(CONNECT))?))
        };
        let node = Node::over(connect()?, settings, auth, ui);
        Ok(Node { api: node.api.reconnecting(Box::new(connect)), ..node })
    }

    /// A node at the other end of a way that is open already.
    pub fn over(transport: Rc<dyn Transport>, settings: &Settings, auth: Auth, ui: Ui) -> Node {
        let api = Client::new(transport, settings.port, auth, ui);
        Node { api, ui, settings: settings.clone(), name: OnceCell::new() }
    }

    /// The settings it was reached with.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The node's own name in its cluster. The one in the settings must be it: a daemon answers only for itself.
    pub fn name(&self, deadline: Deadline) -> Result<&NodeName> {
        if let Some(name) = self.name.get() {
            return Ok(name);
        }
        let local = match self.local_name(deadline) {
            Ok(local) => local,
            // A token that may not read the cluster's state may still do its work.
            Err(e) => match (e.kind(), &self.settings.node) {
                (Kind::Failed, Some(said)) if e.message().contains("permission missing") => said.clone(),
                _ => return Err(e),
            },
        };
        if let Some(said) = self.settings.node.as_ref().filter(|said| **said != local) {
            return Err(Error::usage(format!("{} is the node '{local}', not '{said}'", self.settings.host))
                .now("nothing was changed")
                .hint(format!("correct `proxmox.node` in the definitions, or give --node {local}"))
                .hint(format!("or connect to the node '{said}' itself with --host")));
        }
        Ok(self.name.get_or_init(|| local))
    }

    fn local_name(&self, deadline: Deadline) -> Result<NodeName> {
        let rows: Vec<StatusRow> =
            self.api.get_as("ask the node's name", "/cluster/status", &[], deadline)?;
        let local = rows.iter().find(|row| row.kind == "node" && encode::truth(row.local.as_ref()));
        local
            .ok_or_else(|| Error::failed("the node does not say what it is called in its cluster"))?
            .name
            .parse()
    }

    /// Every VM and container of the cluster.
    pub fn resources(&self, deadline: Deadline) -> Result<Vec<Resource>> {
        let rows: Vec<Value> =
            self.api.get_as("list the VMs", "/cluster/resources", &[("type", "vm")], deadline)?;
        let mut resources = rows.into_iter().filter_map(resource).collect::<Result<Vec<Resource>>>()?;
        resources.sort_by_key(|r| r.vmid);
        Ok(resources)
    }

    /// An error of "not found" made true: the VM may be on another node, or be a container.
    pub fn explain_missing(&self, vmid: Vmid, error: Error) -> Error {
        if error.kind() != Kind::NotFound {
            return error;
        }
        let Ok(resources) = self.resources(Deadline::secs(10)) else { return error };
        match resources.iter().find(|r| r.vmid == vmid) {
            Some(r) if r.kind == ResourceKind::Lxc => {
                Error::conflict(format!("{vmid} is a container, not a VM"))
                    .now(format!("it is on the node '{}'", r.node))
                    .hint("`proxmox-ops list` shows VMs and containers")
            }
            Some(r) if self.name.get().is_some_and(|here| *here != r.node) => elsewhere(vmid, &r.node, self),
            _ => error,
        }
    }

    /// The VMID of a VM that has this name in the cluster.
    pub fn by_name(&self, name: &VmName, deadline: Deadline) -> Result<Vmid> {
        let resources = self.resources(deadline)?;
        let named = |r: &&Resource| r.kind == ResourceKind::Qemu && r.name.as_deref() == Some(name.as_str());
        let mut found = resources.iter().filter(named);
        match (found.next(), found.next()) {
            (Some(one), None) => Ok(one.vmid),
            (Some(one), Some(other)) => Err(Error::conflict(format!("several VMs are called '{name}'"))
                .now(format!("{} and {} are", one.vmid, other.vmid))
                .hint("name it by its VMID")),
            (None, _) => {
                let names = resources.iter().filter_map(|r| r.name.as_deref());
                let error = Error::not_found(format!("no VM '{name}' in the definitions or in the cluster"));
                Err(match fleet_core::definitions::nearest(name.as_str(), names) {
                    Some(near) => error.hint(format!("did you mean '{near}'?")),
                    None => error.hint("`proxmox-ops list` shows what exists"),
                })
            }
        }
    }
}

fn elsewhere(vmid: Vmid, there: &NodeName, node: &Node) -> Error {
    let here = node.name.get().map_or_else(|| node.settings.host.clone(), ToString::to_string);
    Error::failed(format!(
        "VM {vmid} is on the node '{there}', not on '{here}' that this program is connected to"
    ))
    .now("nothing was changed")
    .hint(format!("connect to it: --host {there} --node {there}"))
}

/// A row of `/cluster/resources`; rows of other types are left out.
fn resource(mut row: Value) -> Option<Result<Resource>> {
    let kind = row.get("type").and_then(Value::as_str)?;
    if kind != "qemu" && kind != "lxc" {
        return None;
    }
    // 0 or 1 here, absent in other lists.
    let template = encode::truth(row.get("template"));
    row["template"] = Value::Bool(template);
    Some(
        serde_json::from_value(row)
            .map_err(|e| Error::failed("the node lists a VM in another shape").caused_by(e)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Fake, node};
    use serde_json::json;

    #[test]
    fn rows_become_resources_whatever_they_lack() {
        let fake = Fake::new().get("/cluster/resources", json!([
            {"type": "qemu", "vmid": 9002, "name": "tmpl", "node": "prom", "status": "stopped", "template": 1, "maxmem": 5},
            {"type": "lxc", "vmid": 201, "node": "prom", "status": "unknown", "id": "lxc/201"},
            {"type": "storage", "storage": "local", "node": "prom"},
        ]));
        let node = node(&fake);
        let list = node.resources(Deadline::secs(5)).unwrap();
        assert_eq!(list.len(), 2);
        assert_eq!((list[0].vmid.get(), list[0].kind, list[0].template), (201, ResourceKind::Lxc, false));
        assert!(list[1].template);
        assert_eq!(list[1].other["maxmem"], 5);
    }

    #[test]
    fn a_missing_vm_is_looked_for_on_the_other_nodes() {
        let fake = Fake::new()
            .get(
                "/cluster/status",
                json!([{"type": "cluster", "name": "c"}, {"type": "node", "name": "prom", "local": 1}]),
            )
            .get(
                "/cluster/resources",
                json!([
                    {"type": "qemu", "vmid": 110, "node": "other", "status": "running"},
                    {"type": "lxc", "vmid": 201, "node": "prom", "status": "unknown"},
                ]),
            );
        let node = node(&fake);
        node.name(Deadline::secs(5)).unwrap();
        let vmid = |n| Vmid::new(n).unwrap();
        let missing = || Error::not_found("can not start VM: no configuration");
        assert!(node.explain_missing(vmid(110), missing()).message().contains("is on the node 'other'"));
        assert_eq!(node.explain_missing(vmid(201), missing()).kind(), Kind::Conflict);
        assert_eq!(node.explain_missing(vmid(300), missing()).kind(), Kind::NotFound);
    }

    #[test]
    fn a_token_that_may_not_see_the_cluster_believes_the_definitions() {
        let words = json!({"message": "Permission check failed (/, Sys.Audit)\n"});
        let fake = Fake::new().on("GET", "/cluster/status", 403, words);
        assert_eq!(node(&fake).name(Deadline::secs(5)).unwrap().as_str(), "prom");
    }

    #[test]
    fn another_node_than_the_one_asked_for_is_an_error() {
        let fake =
            Fake::new().get("/cluster/status", json!([{"type": "node", "name": "second", "local": 1}]));
        let node = node(&fake);
        let error = node.name(Deadline::secs(5)).unwrap_err();
        assert_eq!(error.message(), "prom is the node 'second', not 'prom'");
    }
}
