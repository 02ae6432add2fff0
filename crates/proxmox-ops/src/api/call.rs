//! Requests that change something, as data: made here, shown by `--dry-run`, sent by the client.

use fleet_core::{
    Error, Result,
    guard::Permit,
    protocol::{BackupMode, CloneRequest},
    types::{DiskSize, DiskSlot, NodeName, StorageId, Vmid},
};
use serde_json::{Value, json};

use super::{
    encode::{flag, percent, setting},
    error,
};

/// A request that changes a VM. Only what is in this module makes one, and only with the guard's [`Permit`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    what: String,
    method: &'static str,
    path: String,
    params: Vec<(String, String)>,
    vmid: Vmid,
    locked: Vmid,
    node: NodeName,
    makes: bool,
    in_steps: bool,
}

/// A snapshot's name (Proxmox's `pve-configid`): 2 to 40 characters, and none that Proxmox keeps for itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotName(String);

impl std::str::FromStr for SnapshotName {
    type Err = Error;
    fn from_str(text: &str) -> Result<SnapshotName> {
        let fits = (2..=40).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_alphabetic())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
        if ["current", "pending"].iter().any(|kept| text.eq_ignore_ascii_case(kept)) {
            return Err(Error::usage(format!(
                "no snapshot can be called '{text}': Proxmox keeps the name for itself"
            )));
        }
        if fits {
            return Ok(SnapshotName(text.to_owned()));
        }
        Err(Error::usage(format!(
            "'{}' is not a valid snapshot name: a letter, then letters, digits, '-' or '_', 2 to 40 in all",
            text.escape_debug()
        )))
    }
}

impl std::fmt::Display for SnapshotName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&self.0)
    }
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
            locked: vmid,
            node: node.clone(),
            makes: false,
            in_steps: false,
        }
    }

    /// The path of the VM that it changes, then `rest`.
    pub fn vm_path(&self, rest: &str) -> String {
        vm_path(&self.node, self.vmid, rest)
    }

    /// Clones a template; the permit is for the VM that comes to be.
    ///
    /// `node` has the template; `target` is where the new VM shall be if that is another node.
    pub fn clone_vm(
        permit: &Permit,
        node: &NodeName,
        request: &CloneRequest,
        target: Option<&NodeName>,
    ) -> Call {
        let mut params = vec![
            ("newid".to_owned(), permit.vmid().to_string()),
            ("name".to_owned(), request.name.to_string()),
            ("full".to_owned(), flag(request.full).to_owned()),
            ("description".to_owned(), request.marker.to_string()),
        ];
        if let Some(storage) = request.storage.as_ref().filter(|_| request.full) {
            params.push(("storage".to_owned(), storage.to_string()));
        }
        params.extend(target.map(|target| ("target".to_owned(), target.to_string())));
        Call {
            what: format!("clone VM {} into VM {}", request.template, permit.vmid()),
            method: "POST",
            path: vm_path(node, request.template, "/clone"),
            params,
            vmid: permit.vmid(),
            locked: request.template,
            node: node.clone(),
            makes: true,
            in_steps: false,
        }
    }

    /// The same, its disks copied into this format.
    pub fn in_format(mut self, format: &str) -> Call {
        self.params.push(("format".to_owned(), format.to_owned()));
        self
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

    /// Removes a VM with its disks, also from backup jobs and the like; with `unreferenced` also volumes of its number
    /// that its configuration does not name, on every storage.
    pub fn destroy(permit: &Permit, node: &NodeName, unreferenced: bool) -> Call {
        let mut params = vec![("purge".to_owned(), flag(true).to_owned())];
        if unreferenced {
            params.push(("destroy-unreferenced-disks".to_owned(), flag(true).to_owned()));
        }
        Call::on_vm(permit, node, "destroy", "DELETE", "", params)
    }

    /// As [`Call::destroy`], past the lock of who was killed while making it; only root may.
    pub fn destroy_locked(permit: &Permit, node: &NodeName, unreferenced: bool) -> Call {
        let mut call = Call::destroy(permit, node, unreferenced);
        call.params.push(("skiplock".to_owned(), flag(true).to_owned()));
        call
    }

    /// Takes a snapshot, with the memory of a running VM if `memory`.
    pub fn snapshot(
        permit: &Permit,
        node: &NodeName,
        name: &SnapshotName,
        description: Option<&str>,
        memory: bool,
    ) -> Call {
        let mut params = vec![("snapname".to_owned(), name.to_string())];
        params.extend(description.map(|text| ("description".to_owned(), text.to_owned())));
        if memory {
            params.push(("vmstate".to_owned(), flag(true).to_owned()));
        }
        Call::on_vm(permit, node, &format!("take the snapshot '{name}' of"), "POST", "/snapshot", params)
    }

    /// Puts a VM back to a snapshot, and starts it if `start`.
    pub fn rollback(permit: &Permit, node: &NodeName, name: &SnapshotName, start: bool) -> Call {
        let params = if start { vec![("start".to_owned(), flag(true).to_owned())] } else { vec![] };
        let what = format!("roll back to the snapshot '{name}'");
        Call::on_vm(permit, node, &what, "POST", &format!("/snapshot/{name}/rollback"), params)
    }

    /// Removes a snapshot.
    pub fn delete_snapshot(permit: &Permit, node: &NodeName, name: &SnapshotName) -> Call {
        let what = format!("delete the snapshot '{name}' of");
        Call::on_vm(permit, node, &what, "DELETE", &format!("/snapshot/{name}"), vec![])
    }

    /// Makes a backup of a VM; no older backup is removed for it. `notes` is one line: `\\n` stands for the next.
    pub fn backup(
        permit: &Permit,
        node: &NodeName,
        storage: &StorageId,
        mode: BackupMode,
        notes: &str,
    ) -> Call {
        let params = [
            ("vmid", permit.vmid().to_string()),
            ("storage", storage.to_string()),
            ("mode", mode.to_string()),
            ("compress", "zstd".to_owned()),
            ("remove", flag(false).to_owned()),
            ("notes-template", notes.to_owned()),
        ];
        Call {
            path: format!("/nodes/{}/vzdump", percent(node.as_str())),
            params: params.map(|(key, value)| (key.to_owned(), value)).into(),
            ..Call::on_vm(permit, node, "back up", "POST", "", vec![])
        }
    }

    /// Turns a VM into a template.
    pub fn template(permit: &Permit, node: &NodeName) -> Call {
        Call::on_vm(permit, node, "make a template of", "POST", "/template", vec![])
    }

    /// Does of that what is left for one disk of a template: the rest of a conversion that was cut short.
    pub fn template_disk(permit: &Permit, node: &NodeName, disk: &str) -> Call {
        let params = vec![("disk".to_owned(), disk.to_owned())];
        Call::on_vm(permit, node, &format!("make {disk} one of the template"), "POST", "/template", params)
    }

    /// Makes a VM with these settings, or restores one from the `archive` among them.
    pub fn create(permit: &Permit, node: &NodeName, settings: &[(&str, String)]) -> Call {
        let mut params = vec![("vmid".to_owned(), permit.vmid().to_string())];
        params.extend(settings.iter().map(|(key, value)| ((*key).to_owned(), setting(key, value))));
        let archive = settings.iter().find(|(key, _)| *key == "archive");
        Call {
            what: match archive {
                Some((_, archive)) => format!("restore {archive} into VM {}", permit.vmid()),
                None => format!("create VM {}", permit.vmid()),
            },
            method: "POST",
            path: format!("/nodes/{}/qemu", percent(node.as_str())),
            params,
            vmid: permit.vmid(),
            locked: permit.vmid(),
            node: node.clone(),
            makes: true,
            in_steps: false,
        }
    }

    /// Runs a command in a VM through its guest agent; each word is a parameter of its own.
    pub fn guest_exec(permit: &Permit, node: &NodeName, words: &[String]) -> Call {
        let params = words.iter().map(|word| ("command".to_owned(), word.clone())).collect();
        Call::on_vm(permit, node, "run a command in", "POST", "/agent/exec", params)
    }

    /// Opens the serial console of a VM. What `qm terminal` does there without the API: it is not sent, but what is typed
    /// in it needs the same proof.
    pub fn console(permit: &Permit, node: &NodeName) -> Call {
        Call::on_vm(permit, node, "open the console of", "POST", "/termproxy", vec![])
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

    /// The VM whose lock is in its way, on the same node: of a clone that of its source.
    pub fn locked(&self) -> Vmid {
        self.locked
    }

    /// Whether the VM comes to be by it: the node refuses that where there is one.
    pub fn makes(&self) -> bool {
        self.makes
    }

    /// The same, of which a part may be done when a storage's lock was not had for another: it is not sent again as it is.
    pub fn in_steps(self) -> Call {
        Call { in_steps: true, ..self }
    }

    /// Whether words that tell that a lock was not had in time say that nothing was done.
    pub fn did_nothing(&self, said: &str) -> bool {
        error::is_lock_timeout(said) && !(self.in_steps && error::is_storage_lock_timeout(said))
    }

    fn shown(&self) -> impl Iterator<Item = (&str, &str)> {
        self.params
            .iter()
            .map(|(key, value)| (key.as_str(), if SECRET.contains(&key.as_str()) { "…" } else { value }))
    }

    /// For `--dry-run --json`; secrets are left out.
    pub fn to_json(&self) -> Value {
        let mut params = serde_json::Map::new();
        for (key, value) in self.shown() {
            match params.get_mut(key) {
                None => drop(params.insert(key.to_owned(), json!(value))),
                Some(Value::Array(list)) => list.push(json!(value)),
                Some(there) => *there = json!([there, value]),
            }
        }
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
