//! Requests that change something, as data: made here, shown by `--dry-run`, sent by the client.

use fleet_core::{
    guard::Permit,
    protocol::CloneRequest,
    types::{DiskSize, DiskSlot, NodeName, Vmid},
};
use serde_json::{Value, json};

use super::encode::{flag, percent, setting};

/// A request that changes a VM. Only what is in this module makes one, and only with the guard's [`Permit`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    what: String,
    method: &'static str,
    path: String,
    params: Vec<(String, String)>,
    vmid: Vmid,
    node: NodeName,
}

/// Parameters whose values are secrets.
const SECRET: &[&str] = &["cipassword", "password", "tunnel-password"];

/// The path of a VM in the API: `/nodes/NODE/qemu/VMID`, then `rest`.
pub fn vm_path(node: &NodeName, vmid: Vmid, rest: &str) -> String {
    format!("/nodes/{}/qemu/{vmid}{rest}", percent(node.as_str()))
}

impl Call {
    fn on_vm(
        permit: &Permit,
        node: &NodeName,
        what: &str,
        method: &'static str,
        rest: &str,
        params: Vec<(String, String)>,
    ) -> Call {
        let vmid = permit.vmid();
        Call {
            what: format!("{what} VM {vmid}"),
            method,
            path: vm_path(node, vmid, rest),
            params,
            vmid,
            node: node.clone(),
        }
    }

    /// Clones a template; the permit is for the VM that comes to be.
    pub fn clone_vm(permit: &Permit, node: &NodeName, request: &CloneRequest) -> Call {
        let mut params = vec![
            ("newid".to_owned(), permit.vmid().to_string()),
            ("name".to_owned(), request.name.to_string()),
            ("full".to_owned(), flag(request.full).to_owned()),
            ("description".to_owned(), request.marker.to_string()),
        ];
        if let Some(storage) = request.storage.as_ref().filter(|_| request.full) {
            params.push(("storage".to_owned(), storage.to_string()));
        }
        Call {
            what: format!("clone VM {} into VM {}", request.template, permit.vmid()),
            method: "POST",
            path: vm_path(node, request.template, "/clone"),
            params,
            vmid: permit.vmid(),
            node: node.clone(),
        }
    }

    /// Changes settings. Values are plain: what has to be encoded is encoded here.
    pub fn configure<'a>(
        permit: &Permit,
        node: &NodeName,
        settings: impl IntoIterator<Item = (&'a str, &'a str)>,
        delete: &[String],
        digest: Option<&str>,
    ) -> Call {
        let mut params: Vec<(String, String)> =
            settings.into_iter().map(|(key, value)| (key.to_owned(), setting(key, value))).collect();
        if !delete.is_empty() {
            params.push(("delete".to_owned(), delete.join(",")));
        }
        if let Some(digest) = digest {
            params.push(("digest".to_owned(), digest.to_owned()));
        }
        Call::on_vm(permit, node, "configure", "POST", "/config", params)
    }

    /// Grows a disk to a size.
    pub fn resize(
        permit: &Permit,
        node: &NodeName,
        disk: &DiskSlot,
        size: DiskSize,
        digest: Option<&str>,
    ) -> Call {
        let mut params = vec![("disk".to_owned(), disk.to_string()), ("size".to_owned(), size.to_string())];
        if let Some(digest) = digest {
            params.push(("digest".to_owned(), digest.to_owned()));
        }
        Call::on_vm(permit, node, &format!("resize {disk} of"), "PUT", "/resize", params)
    }

    /// Changes the power state: `start`, `stop`, `shutdown`, `reboot`, `reset`.
    pub fn power(permit: &Permit, node: &NodeName, action: &'static str, params: &[(&str, &str)]) -> Call {
        let params = params.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Call::on_vm(permit, node, action, "POST", &format!("/status/{action}"), params)
    }

    /// Removes a VM with its disks, also from backup jobs and the like.
    pub fn destroy(permit: &Permit, node: &NodeName) -> Call {
        let params = vec![
            ("purge".to_owned(), flag(true).to_owned()),
            ("destroy-unreferenced-disks".to_owned(), flag(true).to_owned()),
        ];
        Call::on_vm(permit, node, "destroy", "DELETE", "", params)
    }

    /// What it does, in words: "start VM 110".
    pub fn what(&self) -> &str {
        &self.what
    }

    /// The HTTP method.
    pub fn method(&self) -> &'static str {
        self.method
    }

    /// The path under `/api2/json`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The parameters, as the API gets them before the form is encoded.
    pub fn params(&self) -> &[(String, String)] {
        &self.params
    }

    /// The node that it is for.
    pub fn node(&self) -> &NodeName {
        &self.node
    }

    /// The VM that it changes.
    pub fn vmid(&self) -> Vmid {
        self.vmid
    }

    fn shown(&self) -> impl Iterator<Item = (&str, &str)> {
        self.params
            .iter()
            .map(|(key, value)| (key.as_str(), if SECRET.contains(&key.as_str()) { "…" } else { value }))
    }

    /// For `--dry-run --json`; secrets are left out.
    pub fn to_json(&self) -> Value {
        let params: serde_json::Map<String, Value> =
            self.shown().map(|(key, value)| (key.to_owned(), json!(value))).collect();
        json!({ "method": self.method, "path": self.path, "params": params })
    }
}

impl std::fmt::Display for Call {
    /// One line, as `--dry-run` shows it; secrets are left out.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.method, self.path)?;
        self.shown().try_for_each(|(key, value)| write!(f, " {key}={}", fleet_core::child::quote(value)))
    }
}
