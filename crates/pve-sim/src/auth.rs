//! Who sends a request: a ticket of root, or an API token and what it may do.

use hyper::header;
use serde::{Deserialize, Serialize};

use crate::{api::Call, api::Fail, api::Reply, node::Node, params::Param};

/// An API token that the node knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// `USER@REALM!NAME`.
    pub id: String,
    /// Its secret, a UUID.
    pub secret: String,
    /// Privileges that it has everywhere; nothing means all of them (a token of root without separation).
    pub rights: Option<Vec<String>>,
}

/// Who sends a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Who {
    token: Option<Token>,
}

impl Who {
    /// Root with a ticket.
    pub fn root() -> Who {
        Who::default()
    }

    /// The holder of a token.
    pub fn token(token: Token) -> Who {
        Who { token: Some(token) }
    }

    /// As a task's UPID names it.
    pub fn name(&self) -> &str {
        self.token.as_ref().map_or("root@pam", |token| &token.id)
    }

    /// Whether it is root itself: some things are refused even to root's tokens.
    pub fn is_root(&self) -> bool {
        self.token.is_none()
    }

    fn has(&self, privilege: &str) -> bool {
        let rights = self.token.as_ref().and_then(|token| token.rights.as_ref());
        rights.is_none_or(|rights| rights.iter().any(|r| r == privilege))
    }

    /// Whether it sees the VMs in lists.
    pub fn audits_vms(&self) -> bool {
        self.has("VM.Audit")
    }

    /// Refuses whoever has none of these privileges.
    pub(crate) fn need(&self, path: &str, any: &[&str]) -> Reply<()> {
        if any.iter().any(|p| self.has(p)) {
            return Ok(());
        }
        let message = format!("Permission check failed ({path}, {})\n", any.join("|"));
        Err(Fail { status: 403, message, errors: None, json: true })
    }
}

/// Why nobody is let in.
pub enum Refused {
    /// No credentials that the daemon looks at.
    NoTicket,
    /// Wrong ones.
    Failed,
}

/// Who the headers say it is.
pub fn authenticate(node: &Node, headers: &header::HeaderMap) -> Result<Who, Refused> {
    let text = |name| headers.get(name).and_then(|v| v.to_str().ok());
    let authorization = text(header::AUTHORIZATION);
    if let Some(token) = authorization.and_then(|v| v.strip_prefix("PVEAPIToken=")) {
        let found = token.split_once('=').and_then(|(id, secret)| node.token(id, secret));
        return found.map(Who::token).ok_or(Refused::Failed);
    }
    let cookie = text(header::COOKIE)
        .and_then(|cookies| cookies.split(';').find_map(|c| c.trim().strip_prefix("PVEAuthCookie=")));
    let ticket = cookie.or_else(|| authorization.and_then(|v| v.strip_prefix("PVEAuthCookie=")));
    let Some(ticket) = ticket.filter(|t| !t.is_empty()) else { return Err(Refused::NoTicket) };
    let ticket = percent_encoding::percent_decode_str(ticket).decode_utf8_lossy();
    if node.ticket_is_valid(&ticket) { Ok(Who::root()) } else { Err(Refused::Failed) }
}

const CONFIG: &[&str] = &[
    "VM.Config.Disk",
    "VM.Config.CDROM",
    "VM.Config.CPU",
    "VM.Config.Memory",
    "VM.Config.Network",
    "VM.Config.HWType",
    "VM.Config.Options",
    "VM.Config.Cloudinit",
];
const AGENT_AUDIT: &[&str] = &["VM.GuestAgent.Audit", "VM.GuestAgent.Unrestricted"];

/// The privileges, of which one is needed, for an endpoint below `/nodes/NODE/qemu/VMID`.
fn on_vm(method: &str, rest: &[&str]) -> &'static [&'static str] {
    match (method, rest) {
        ("DELETE", []) | ("POST", ["template"]) => &["VM.Allocate"],
        ("PUT" | "POST", ["config"]) => CONFIG,
        ("GET", ["config" | "pending" | "cloudinit" | "feature" | "snapshot", ..]) if rest.len() < 3 => {
            &["VM.Audit"]
        }
        ("GET", ["snapshot", _, _]) => &["VM.Snapshot", "VM.Snapshot.Rollback", "VM.Audit"],
        ("GET", ["status", "current"]) => &["VM.Audit"],
        ("PUT", ["cloudinit"]) => &["VM.Config.Cloudinit"],
        ("PUT", ["resize" | "unlink"]) => &["VM.Config.Disk"],
        ("POST", ["clone"]) => &["VM.Clone"],
        ("POST", ["status", _]) => &["VM.PowerMgmt"],
        ("POST", ["snapshot", _, "rollback"]) => &["VM.Snapshot", "VM.Snapshot.Rollback"],
        ("POST" | "PUT" | "DELETE", ["snapshot", ..]) => &["VM.Snapshot"],
        (_, ["agent", "ping" | "network-get-interfaces" | "info"]) => AGENT_AUDIT,
        ("GET", ["agent", verb]) if verb.starts_with("get-") => AGENT_AUDIT,
        ("GET", ["agent", "file-read"]) => &["VM.GuestAgent.FileRead", "VM.GuestAgent.Unrestricted"],
        ("POST", ["agent", "file-write"]) => &["VM.GuestAgent.FileWrite", "VM.GuestAgent.Unrestricted"],
        (_, ["agent", "exec" | "exec-status" | "set-user-password"]) => &["VM.GuestAgent.Unrestricted"],
        _ => &[],
    }
}

/// Which privilege a setting of a VM needs.
fn for_setting(key: &str) -> &'static str {
    let stem = key.trim_end_matches(|c: char| c.is_ascii_digit());
    match stem {
        "scsi" | "virtio" | "sata" | "ide" | "efidisk" | "tpmstate" | "unused" => "VM.Config.Disk",
        "net" => "VM.Config.Network",
        "ipconfig" | "ciuser" | "cipassword" | "sshkeys" | "nameserver" | "searchdomain" | "citype"
        | "cicustom" | "ciupgrade" => "VM.Config.Cloudinit",
        "cores" | "sockets" | "cpu" | "cpulimit" | "cpuunits" | "vcpus" | "numa" | "affinity" => {
            "VM.Config.CPU"
        }
        "memory" | "balloon" | "shares" => "VM.Config.Memory",
        "serial" | "usb" | "hostpci" | "vga" | "machine" | "bios" | "scsihw" | "watchdog" | "keyboard" => {
            "VM.Config.HWType"
        }
        _ => "VM.Config.Options",
    }
}

/// Checks what an API token may not do, before anything is done.
pub(crate) fn check(call: &Call) -> Reply<()> {
    let path: Vec<&str> = call.path.iter().map(String::as_str).collect();
    match path.as_slice() {
        ["nodes", node, "status"] => call.who.need(&format!("/nodes/{node}"), &["Sys.Audit"]),
        ["cluster", "status"] => call.who.need("/", &["Sys.Audit"]),
        ["nodes", _, "storage", name, "status" | "content"] => {
            call.who.need(&format!("/storage/{name}"), &["Datastore.Audit", "Datastore.AllocateSpace"])
        }
        // Who only uses it is told of it by the node: /nodes/NODE/storage.
        ["storage", name] => call.who.need(&format!("/storage/{name}"), &["Datastore.Allocate"]),
        ["nodes", _, "qemu", vmid, rest @ ..] => check_vm(call, vmid, rest),
        _ => Ok(()),
    }
}

fn check_vm(call: &Call, vmid: &str, rest: &[&str]) -> Reply<()> {
    let vm = format!("/vms/{vmid}");
    let any = on_vm(&call.method, rest);
    if !any.is_empty() {
        call.who.need(&vm, any)?;
    }
    if (call.method.as_str(), rest) == ("POST", &["clone"])
        && let Some(newid) = call.params.get("newid")
    {
        call.who.need(&format!("/vms/{newid}"), &["VM.Allocate"])?;
    }
    if call.who.is_root() {
        return Ok(());
    }
    if call.params.flag("skiplock") {
        return Err(Fail::param("skiplock", "Only root may use this option."));
    }
    if rest == ["config"] && call.method != "GET" {
        for (key, value) in &call.params.0 {
            let deleted = key == "delete";
            for key in call.params.get("delete").filter(|_| deleted).unwrap_or(key).split(',') {
                if crate::params::find(&[crate::schema::CONFIG], key).is_some() {
                    call.who.need(&vm, &[for_setting(key)])?;
                }
            }
            if let (false, Param::One(value)) = (deleted, value) {
                root_only(key, value)?;
                if key == "cicustom" {
                    snippets(call, value)?;
                }
            }
        }
    }
    Ok(())
}

/// Whoever names a snippet has to be allowed to change its storage.
fn snippets(call: &Call, value: &str) -> Reply<()> {
    let volumes = value.split(',').filter_map(|part| part.split_once('='));
    volumes
        .filter_map(|(_, volume)| volume.split_once(':'))
        .try_for_each(|(storage, _)| call.who.need(&format!("/storage/{storage}"), &["Datastore.Allocate"]))
}

/// Settings that only root itself may make, not even its token.
fn root_only(key: &str, value: &str) -> Reply<()> {
    let stem = key.trim_end_matches(|c: char| c.is_ascii_digit());
    let refused = match stem {
        "args" | "lock" => Some(format!("only root can set '{key}' config")),
        "serial" if value != "socket" => {
            Some(format!("only root can modify '{key}' config for real devices"))
        }
        "usb" if value.contains("host=") => {
            Some(format!("only root can set '{key}' config for real devices"))
        }
        "hostpci" if !value.contains("mapping=") => {
            Some(format!("only root can set '{key}' config for non-mapped devices"))
        }
        _ if value.contains("import-from=/") => Some(
            "Only root can pass arbitrary filesystem paths. at /usr/share/perl5/PVE/Storage.pm line 651."
                .to_owned(),
        ),
        _ => None,
    };
    refused.map_or(Ok(()), |message| Err(Fail::new(message)))
}
