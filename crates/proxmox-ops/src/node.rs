//! A node that we are connected to, and what it says about its cluster.

use std::{cell::OnceCell, rc::Rc};

use fleet_core::{
    Error, Kind, Result, again,
    deadline::Deadline,
    protocol::{Resource, ResourceKind},
    ssh::Transport,
    types::{NodeName, VmName, Vmid},
    ui::Ui,
};
use serde::Deserialize;
use serde_json::Value;

use crate::{
    api::{Client, Login, Reconnect, encode},
    ops::rows::Rows,
    settings::Settings,
};

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
    #[serde(default)]
    online: Option<Value>,
    #[serde(default)]
    ip: Option<String>,
}

/// A node of the cluster.
#[derive(Debug, Clone)]
pub struct Member {
    /// Its name.
    pub name: NodeName,
    /// Whether it is the one that told.
    pub local: bool,
    /// Whether the others see it.
    pub online: bool,
    /// Its address, where it is told.
    pub address: Option<String>,
}

impl Node {
    /// A node at the other end of a way that is open already.
    pub fn over(transport: Rc<dyn Transport>, settings: &Settings, login: Login, ui: Ui) -> Node {
        let api = Client::new(transport, settings.port, login, ui);
        Node { api, ui, settings: settings.clone(), name: OnceCell::new() }
    }

    /// The same node, with a way made anew when the one there is is lost.
    #[must_use]
    pub fn reconnecting(self, reconnect: Reconnect) -> Node {
        Node { api: self.api.reconnecting(reconnect), ..self }
    }

    /// The settings it was reached with.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The node's own name in its cluster: a daemon answers only for itself.
    pub fn name(&self, deadline: Deadline) -> Result<&NodeName> {
        if let Some(name) = self.name.get() {
            return Ok(name);
        }
        let local = match self.members(deadline) {
            Ok(members) => {
                members
                    .into_iter()
                    .find(|member| member.local)
                    .ok_or_else(|| Error::failed("the node does not say what it is called in its cluster"))?
                    .name
            }
            // A token that may not read the cluster's state may still do its work.
            Err(e) => match (e.kind(), &self.settings.node) {
                (Kind::Failed, Some(said)) if e.message().contains("permission missing") => said.clone(),
                _ => return Err(e),
            },
        };
        Ok(self.name.get_or_init(|| local))
    }

    /// An error of something that was done there: a hint that speaks of "the node" says which that is.
    pub(crate) fn named(&self, error: Error) -> Error {
        match self.name.get() {
            Some(name) => say_which(error, name.as_str()),
            None => self.settings.named(error),
        }
    }

    /// The nodes of the cluster, this one among them.
    pub fn members(&self, deadline: Deadline) -> Result<Vec<Member>> {
        let rows: Vec<StatusRow> =
            self.api.get_as("ask the node's name", "/cluster/status", &[], deadline)?;
        let nodes = rows.into_iter().filter(|row| row.kind == "node");
        let member = |row: StatusRow| -> Result<Member> {
            let local = encode::truth(row.local.as_ref());
            let online = row.online.is_none() || encode::truth(row.online.as_ref());
            Ok(Member { name: row.name.parse()?, local, online, address: row.ip })
        };
        nodes.map(member).collect()
    }

    /// Every VM and container of the cluster.
    pub fn resources(&self, deadline: Deadline) -> Result<Vec<Resource>> {
        let rows = Rows::read(self, deadline)?;
        let mut resources = rows
            .values()?
            .filter_map(|row| row.map_or_else(|e| Some(Err(e)), resource))
            .collect::<Result<Vec<_>>>()?;
        resources.sort_by_key(|r| r.vmid);
        Ok(resources)
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
                if let Some(other) = resources.iter().find(|r| r.name.as_deref() == Some(name.as_str())) {
                    return Err(container(other));
                }
                let vms = resources.iter().filter(|r| r.kind == ResourceKind::Qemu);
                let names = vms.filter_map(|r| r.name.as_deref());
                let error = Error::not_found(format!("no VM '{name}' in the definitions or in the cluster"));
                Err(match fleet_core::definitions::nearest(name.as_str(), names) {
                    Some(near) => error.hint(format!("did you mean '{near}'?")),
                    None => error.hint(format!("`{}` shows what exists", again::ops("list"))),
                })
            }
        }
    }
}

/// Puts a node's name where a hint speaks of it without one.
pub(crate) fn say_which(error: Error, name: &str) -> Error {
    const WORDS: &str = "on the node";
    error.map_hints(|hint| {
        let mut parts = hint.split(WORDS);
        let mut said = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let named = part.starts_with(" '") || part.starts_with(char::is_alphanumeric);
            said += &if named { format!("{WORDS}{part}") } else { format!("{WORDS} '{name}'{part}") };
        }
        said
    })
}

/// That what is meant is no VM.
pub(crate) fn container(found: &Resource) -> Error {
    let name = found.name.as_deref().map(|name| format!(" ('{name}')")).unwrap_or_default();
    Error::conflict(format!("{}{name} is a container, not a VM", found.vmid))
        .now(format!("it is on the node '{}'", found.node))
        .hint(format!("`{}` shows VMs and containers", again::ops("list")))
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
    fn a_hint_says_on_which_node() {
        let said = |hint: &str| say_which(Error::failed("x").hint(hint), "prom").hints()[0].clone();
        for (hint, named) in [
            ("`qm terminal 110` on the node shows it", "`qm terminal 110` on the node 'prom' shows it"),
            ("look on the node: pvecm status", "look on the node 'prom': pvecm status"),
            (
                "on the node 'b': qm unlock 110; then on the node",
                "on the node 'b': qm unlock 110; then on the node 'prom'",
            ),
            ("proxmox-ops list", "proxmox-ops list"),
        ] {
            assert_eq!(said(hint), named);
        }
    }

    #[test]
    fn a_container_s_name_is_no_vm_s() {
        let fake = Fake::new().get(
            "/cluster/resources",
            json!([{"type": "lxc", "vmid": 201, "name": "dns", "node": "prom", "status": "running"}]),
        );
        let node = node(&fake);
        let told = |name: &str| node.by_name(&name.parse().unwrap(), Deadline::secs(5)).unwrap_err();
        let error = told("dns");
        assert_eq!(error.message(), "201 ('dns') is a container, not a VM");
        assert_eq!(error.kind(), Kind::Conflict);
        // Nor is it what somebody meant who mistyped a VM's.
        assert!(told("dnss").hints().iter().all(|hint| !hint.contains("did you mean")));
    }

    #[test]
    fn a_token_that_may_not_see_the_cluster_believes_the_definitions() {
        let words = json!({"message": "Permission check failed (/, Sys.Audit)\n"});
        let fake = Fake::new().on("GET", "/cluster/status", 403, words);
        assert_eq!(node(&fake).name(Deadline::secs(5)).unwrap().as_str(), "prom");
    }
}
