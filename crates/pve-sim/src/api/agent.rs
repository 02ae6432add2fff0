//! The QEMU guest agent.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};

use super::{Call, Fail, Reply};
use crate::{
    conf::{self, VmConf},
    faults::Fault,
    guest::{self, shell},
    log::What,
    node::Node,
    schema,
};

/// Whether a VM's configuration has the agent.
pub(super) fn enabled(conf: &VmConf) -> bool {
    conf.get("agent").and_then(|a| conf::property(a, "enabled", "enabled")) == Some("1")
}

/// Whether the agent answers, or what is said when it does not.
pub(super) fn state(node: &Node, vmid: u32) -> Reply<()> {
    let conf = node.read(|d| d.vms.get(&vmid).cloned()).ok_or_else(|| Fail::no_vm(node, vmid))?;
    if !node.read(|d| d.is_running(vmid)) {
        return Err(Fail::new(format!("VM {vmid} is not running")));
    }
    if conf.get("agent").is_none() {
        return Err(Fail::new("No QEMU guest agent configured"));
    }
    if !enabled(&conf) || !guest::agent_is_up(node, vmid) {
        return Err(Fail::new("QEMU guest agent is not running"));
    }
    Ok(())
}

pub(super) async fn answer(node: &Arc<Node>, call: &Call, vmid: u32, rest: &[&str]) -> Reply<Value> {
    let verb = match (call.method.as_str(), rest) {
        ("POST", []) => call.params.get("command").unwrap_or_default().to_owned(),
        (_, [verb]) => (*verb).to_owned(),
        _ => return Err(call.not_implemented()),
    };
    if rest.is_empty() && call.method == "POST" {
        call.check(&[schema::AGENT])?;
    }
    let specs = match (call.method.as_str(), verb.as_str()) {
        ("POST", "ping" | "fsfreeze-status" | "fstrim" | "shutdown") if !rest.is_empty() => schema::NONE,
        ("POST", "exec") => schema::AGENT_EXEC,
        ("POST", "file-write") => schema::AGENT_FILE_WRITE,
        ("POST", "set-user-password") => schema::AGENT_PASSWORD,
        ("GET", "exec-status") => schema::AGENT_EXEC_STATUS,
        ("GET", "file-read") => schema::AGENT_FILE_READ,
        (
            "GET",
            "network-get-interfaces" | "get-host-name" | "get-osinfo" | "get-time" | "info" | "get-users",
        ) => schema::NONE,
        ("POST", _) if rest.is_empty() => schema::AGENT,
        _ => return Err(call.not_implemented()),
    };
    call.check(&[specs])?;
    if let Err(fail) = state(node, vmid) {
        // Proxmox finds out that an agent does not answer by waiting for it.
        if fail.message.contains("agent is not running") {
            node.works(node.latency().agent_timeout).await;
        }
        return Err(fail);
    }
    let result = |value: Value| Ok(json!({ "result": value }));
    match verb.as_str() {
        "ping" => result(json!({})),
        "fstrim" => result(json!({ "paths": [{ "path": "/", "trimmed": 0, "minimum": 0 }] })),
        "fsfreeze-status" => result(json!("thawed")),
        "shutdown" => {
            guest::power_off(node, vmid);
            result(json!({}))
        }
        "get-host-name" => result(json!({ "host-name": guest::hostname(node, vmid) })),
        "get-osinfo" => result(guest::os_info(node, vmid)),
        "get-users" => result(json!([])),
        "get-time" => result(json!(crate::node::now() * 1_000_000_000)),
        "info" => result(json!({ "version": "10.0.13", "supported_commands": [] })),
        "network-get-interfaces" => result(interfaces(node, vmid)),
        "file-read" => file_read(node, call, vmid),
        "file-write" => {
            file_write(node, call, vmid)?;
            Ok(Value::Null)
        }
        "set-user-password" => result(json!({})),
        "exec" => exec(node, call, vmid),
        "exec-status" => exec_status(node, call, vmid),
        _ => Err(call.not_implemented()),
    }
}

fn counters() -> Value {
    json!({
        "rx-bytes": 4096, "rx-dropped": 0, "rx-errs": 0, "rx-packets": 40, "tx-bytes": 4096, "tx-dropped": 0,
        "tx-errs": 0, "tx-packets": 40,
    })
}

fn interface(name: &str, mac: &str, addresses: &[(&str, &str, u8)]) -> Value {
    let mut value = json!({ "name": name, "hardware-address": mac, "statistics": counters() });
    if !addresses.is_empty() {
        value["ip-addresses"] = addresses
            .iter()
            .map(|(kind, address, prefix)| {
                json!({ "ip-address-type": kind, "ip-address": address, "prefix": prefix })
            })
            .collect();
    }
    value
}

fn interfaces(node: &Node, vmid: u32) -> Value {
    let net = node.read(|d| d.vms.get(&vmid).and_then(|c| c.get("net0").map(str::to_owned)));
    let mac = net.as_deref().and_then(conf::mac_of).unwrap_or_default().to_ascii_lowercase();
    let mut list =
        vec![interface("lo", "00:00:00:00:00:00", &[("ipv4", "127.0.0.1", 8), ("ipv6", "::1", 128)])];
    let name = if guest::is_installed(node, vmid) { "ens18" } else { "eth0" };
    match guest::visible_address(node, vmid) {
        // A link without an address yet has no list at all.
        None => list.push(interface(name, &mac, &[])),
        Some(address) => list.push(interface(
            name,
            &mac,
            &[("ipv4", &address, 24), ("ipv6", "fe80::be24:11ff:fe00:1", 64)],
        )),
    }
    if node.has_fault(|f| matches!(f, Fault::DockerFirst { vmid: v } if *v == vmid)) {
        list.insert(0, interface("docker0", "02:42:ac:11:00:01", &[("ipv4", "172.17.0.1", 16)]));
    } else if guest::is_installed(node, vmid) {
        list.push(interface("docker0", "02:42:ac:11:00:01", &[("ipv4", "172.17.0.1", 16)]));
    }
    if guest::is_installed(node, vmid) {
        list.push(interface("tailscale0", "00:00:00:00:00:00", &[("ipv4", "100.64.0.7", 32)]));
    }
    Value::Array(list)
}

/// Bytes of a guest as Proxmox puts them into its answers: each is one character, whatever they are the text of
/// (`decode_base64` in PVE/QemuServer/Agent.pm, and nothing after it).
fn characters(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char::from).collect()
}

/// The way back, for what a guest is given: a character above U+00FF has no byte, and base64's encoder dies of it.
fn bytes(text: &str) -> Reply<Vec<u8>> {
    let byte = |c| u8::try_from(u32::from(c)).map_err(|_| Fail::new("Wide character in subroutine entry"));
    text.chars().map(byte).collect()
}

fn file_read(node: &Node, call: &Call, vmid: u32) -> Reply<Value> {
    let path = call.params.get("file").unwrap_or_default();
    node.log.add(What::GuestExec {
        vmid,
        user: "agent".to_owned(),
        command: format!("file-read {path}"),
        status: 0,
    });
    if matches!(path, "/" | "/etc" | "/root" | "/var" | "/tmp" | "/usr") {
        return Err(Fail::new("Agent error: failed to read file: Is a directory"));
    }
    match guest::read_file(node, vmid, path) {
        Some(content) => Ok(json!({ "bytes-read": content.len(), "content": characters(&content) })),
        None => Err(Fail::new(format!(
            "Agent error: failed to open file '{path}' (mode: 'r'): No such file or directory"
        ))),
    }
}

fn file_write(node: &Node, call: &Call, vmid: u32) -> Reply<()> {
    let path = call.params.get("file").unwrap_or_default().to_owned();
    let content = bytes(call.params.get("content").unwrap_or_default())?;
    node.log.add(What::GuestExec {
        vmid,
        user: "agent".to_owned(),
        command: format!("file-write {path}"),
        status: 0,
    });
    node.change(|d| {
        if let Some(run) = d.guests.get_mut(&vmid).and_then(|g| g.running.as_mut()) {
            run.files.insert(path, content);
        }
    });
    Ok(())
}

/// What a process is held by (see [`Node::hold_tasks`]).
pub(crate) fn process(pid: u32) -> String {
    format!("process {pid}")
}

/// Whether a process in a guest has not ended yet.
pub(crate) fn runs(node: &Node, pid: u32) -> bool {
    node.read(|d| {
        let guests = d.guests.values().filter_map(|guest| guest.running.as_ref());
        guests.filter_map(|run| run.processes.get(&pid)).any(Option::is_none)
    })
}

fn exec(node: &Arc<Node>, call: &Call, vmid: u32) -> Reply<Value> {
    let words = call.params.all("command");
    let input = bytes(call.params.get("input-data").unwrap_or_default())?;
    if !words.first().is_some_and(|program| shell::knows(program)) {
        // The agent's text has curly quotes: the genuine daemon dies of them without an answer.
        return Err(Fail::new(format!(
            "Agent error: Guest agent command failed, error was '\u{2018}{}\u{2019}'",
            words.join(" ")
        )));
    }
    let pid = node.change(|d| {
        d.pid += 1;
        d.pid
    });
    let put = move |node: &Node, outcome: Option<guest::Outcome>| {
        node.change(|d| {
            if let Some(run) = d.guests.get_mut(&vmid).and_then(|g| g.running.as_mut()) {
                run.processes.insert(pid, outcome);
            }
        });
    };
    put(node, None);
    node.hold(&process(pid));
    let work = Arc::clone(node);
    tokio::spawn(async move {
        let outcome = shell::run_words(&work, vmid, "root", &words, input).await;
        while work.is_held(&process(pid)) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        put(&work, Some(outcome));
    });
    Ok(json!({ "pid": pid }))
}

fn exec_status(node: &Node, call: &Call, vmid: u32) -> Reply<Value> {
    let pid: u32 = call.params.get("pid").and_then(|p| p.parse().ok()).unwrap_or(0);
    let outcome = node.change(|d| {
        let processes = &mut d.guests.get_mut(&vmid)?.running.as_mut()?.processes;
        let outcome = processes.get(&pid)?.clone();
        if outcome.is_some() {
            processes.remove(&pid);
        }
        Some(outcome)
    });
    let Some(outcome) = outcome.ok_or_else(|| Fail::new("Agent error: PID ld does not exist"))? else {
        return Ok(json!({ "exited": 0 }));
    };
    let mut value = json!({ "exited": 1, "exitcode": outcome.status });
    for (bytes, data, truncated) in
        [(&outcome.stdout, "out-data", "out-truncated"), (&outcome.stderr, "err-data", "err-truncated")]
    {
        if !bytes.is_empty() {
            value[data] = json!(characters(bytes));
            value[truncated] = json!(0);
        }
    }
    Ok(value)
}
