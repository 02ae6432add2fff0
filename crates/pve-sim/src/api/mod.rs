//! The API: from a request to its answer, with the texts of the genuine one.

pub(crate) mod agent;
mod backup;
mod change;
mod clone;
mod cluster;
mod config;
mod create;
mod disks;
mod node;
mod power;
mod resize;
mod snapshot;
mod storage;
mod tasks;
mod vm;

use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::{
    auth::{self, Who},
    node::Node,
    params::{self, Params, Spec},
    schema,
};

/// An answer's data, or the failure.
pub type Reply<T> = Result<T, Fail>;

/// A failure as the API tells it.
#[derive(Debug, Clone)]
pub struct Fail {
    /// HTTP status.
    pub status: u16,
    /// The first line is the reason phrase.
    pub message: String,
    /// Faults by parameter.
    pub errors: Option<Map<String, Value>>,
    /// Whether the body is JSON; some failures have an empty one.
    pub json: bool,
}

impl Fail {
    /// 500 with a message.
    pub fn new(message: impl Into<String>) -> Fail {
        Fail { status: 500, message: format!("{}\n", message.into()), errors: None, json: true }
    }

    /// 400, faults by parameter.
    pub fn params(errors: Map<String, Value>) -> Fail {
        Fail {
            status: 400,
            message: "Parameter verification failed.\n".to_owned(),
            errors: Some(errors),
            json: true,
        }
    }

    /// 400, one fault.
    pub fn param(name: &str, fault: impl Into<String>) -> Fail {
        let mut errors = Map::new();
        errors.insert(name.to_owned(), Value::String(fault.into()));
        Fail::params(errors)
    }

    /// A failure of HTTP itself, without a JSON body.
    pub fn http(status: u16, reason: impl Into<String>) -> Fail {
        Fail { status, message: reason.into(), errors: None, json: false }
    }

    /// No VM has this number on this node.
    pub fn no_vm(node: &Node, vmid: u32) -> Fail {
        Fail::new(no_vm(node, vmid))
    }

    /// The message as a task's exit status has it.
    pub fn text(&self) -> String {
        let mut text = self.message.trim_end().to_owned();
        if self.status == 400 {
            text = format!("400 {text}");
            for (name, fault) in self.errors.iter().flatten() {
                text.push_str(&format!(" {name}: {}", fault.as_str().unwrap_or_default().trim_end()));
            }
        }
        text
    }
}

/// What is said of a VM that does not exist.
pub fn no_vm(node: &Node, vmid: u32) -> String {
    format!("Configuration file 'nodes/{}/qemu-server/{vmid}.conf' does not exist", node.name())
}

/// A request, decoded.
#[derive(Debug, Clone)]
pub struct Call {
    /// `GET`, `POST`, `PUT` or `DELETE`.
    pub method: String,
    /// The path below `/api2/json`, parts decoded.
    pub path: Vec<String>,
    /// Its parameters.
    pub params: Params,
    /// Who sends it.
    pub who: Who,
}

impl Call {
    fn not_implemented(&self) -> Fail {
        let message = format!("Method '{} /{}' not implemented", self.method, self.path.join("/"));
        Fail { status: 501, message, errors: None, json: true }
    }

    fn check(&self, specs: &[&[Spec]]) -> Reply<()> {
        params::check(&self.params, specs)
    }
}

/// Answers a request. The second value is what stands beside `data` (`total`).
pub async fn answer(node: &Arc<Node>, call: &Call) -> Reply<(Value, Map<String, Value>)> {
    let plain = |value: Value| (value, Map::new());
    let path: Vec<&str> = call.path.iter().map(String::as_str).collect();
    let p = &call.params;
    if takes_nothing(call.method.as_str(), &path) {
        call.check(&[schema::NONE])?;
    }
    auth::check(call)?;
    match (call.method.as_str(), path.as_slice()) {
        ("GET", []) => Ok(plain(subdirs(&["version", "cluster", "nodes", "storage", "access", "pools"]))),
        ("GET", ["version"]) => call.check(&[schema::NONE]).map(|()| plain(node::version())),
        ("POST", ["access", "ticket"]) => {
            call.check(&[schema::TICKET])?;
            cluster::ticket(node, p).map(plain)
        }
        ("GET", ["cluster", rest @ ..]) => cluster::get(node, call, rest).map(plain),
        ("GET", ["pools"]) => Ok(plain(json!([]))),
        ("GET", ["storage", rest @ ..]) => storage::definitions(node, call, rest).map(plain),
        ("GET", ["nodes"]) => call.check(&[schema::NONE]).map(|()| plain(node::list(node))),
        (_, ["nodes", name, ..]) if *name != node.name() => Err(other_node(node, name)),
        (_, ["nodes", _, "tasks", rest @ ..]) => tasks::answer(node, call, rest),
        (_, ["nodes", _, "storage", rest @ ..]) => storage::answer(node, call, rest).map(plain),
        ("POST", ["nodes", _, "vzdump"]) => backup::backup(node, call).map(plain),
        ("POST", ["nodes", _, "qemu"]) => create::create(node, call).map(plain),
        (_, ["nodes", _, "qemu", vmid, rest @ ..]) if !vmid.is_empty() => {
            let vmid = path_vmid(call, vmid)?;
            vm::answer(node, call, vmid, rest).await.map(plain)
        }
        ("GET", ["nodes", _, rest @ ..]) => node::get(node, call, rest).map(plain),
        _ => Err(call.not_implemented()),
    }
}

/// Lists of what there is below a path, and the like: they take no parameters.
fn takes_nothing(method: &str, path: &[&str]) -> bool {
    matches!(
        (method, path),
        (
            "GET",
            ["cluster", "options" | "tasks"]
                | ["nodes", _]
                | ["nodes", _, "lxc"]
                | ["nodes", _, "network", _]
                | ["nodes", _, "storage", _, "content", _]
                | ["nodes", _, "qemu", _]
                | ["nodes", _, "qemu", _, "status"]
                | ["nodes", _, "qemu", _, "snapshot", ..]
        ) | ("GET" | "DELETE", ["nodes", _, "tasks", _])
    )
}

fn path_vmid(call: &Call, text: &str) -> Reply<u32> {
    if let Some(fault) = params::check_value("vmid", params::Kind::Vmid, text) {
        return Err(Fail::param("vmid", fault));
    }
    if call.params.get("vmid").is_some_and(|other| other != text) {
        return Err(Fail::param(
            "vmid",
            "duplicate parameter (already defined in URI) with conflicting values!",
        ));
    }
    text.parse().map_err(|_| call.not_implemented())
}

fn other_node(node: &Node, name: &str) -> Fail {
    if node.is_cluster_node(name) {
        return Fail::new("proxy not allowed");
    }
    Fail::new(format!(
        "hostname lookup '{name}' failed - failed to get address info for: {name}: Temporary failure in name resolution"
    ))
}

/// Whether a VM has a cloud-init drive.
pub fn has_cloudinit_drive(conf: &crate::conf::VmConf) -> bool {
    config::cloudinit_drive(conf).is_some()
}

fn subdirs(names: &[&str]) -> Value {
    names.iter().map(|name| json!({ "subdir": name })).collect()
}
