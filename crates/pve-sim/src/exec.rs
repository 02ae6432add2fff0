//! The few commands that are run on the node itself.

use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use crate::{
    cluster,
    faults::Fault,
    guest,
    guest::Outcome,
    ledger::{Party, Work},
    node::Node,
    qm,
};

/// What the tools' relay says once it is connected.
pub const RELAY_READY: &[u8] = b"fleet-relay-ready\n";

/// The address and port that a command carries its standard streams to.
pub fn relay_to(command: &str) -> Option<(&str, u16)> {
    let (rest, port) = command.rsplit_once(' ')?;
    let host = rest.rsplit(' ').next()?;
    let relay = command.starts_with("perl ") && command.contains("IO::Socket::IP");
    relay.then_some((host, port.parse().ok()?))
}

fn printed(text: impl Into<Vec<u8>>) -> Outcome {
    Outcome { stdout: text.into(), ..Outcome::default() }
}

fn failed(text: impl Into<String>, status: u32) -> Outcome {
    Outcome { stderr: (text.into() + "\n").into_bytes(), status, ..Outcome::default() }
}

/// Where images are sent to.
const IMAGES: &str = "/var/tmp";
/// Where the node keeps the configurations of its VMs.
const CONFIGS: &str = "/etc/pve/qemu-server";

/// Whether a command is a script on a storage's snippets.
fn is_on_snippets(node: &Node, command: &str) -> bool {
    node.read(|d| d.storages.iter().any(|s| command.contains(&format!("{}/snippets", s.path))))
}

/// Whether a command reads its standard input.
pub fn wants_input(command: &str) -> bool {
    command.contains("cat >") || command.contains("/dev/stdin")
}

/// The VM whose serial console a command opens, and its node: this one, or one that it goes on to by `ssh`.
pub fn terminal_of(node: &Arc<Node>, command: &str) -> Option<(Arc<Node>, u32)> {
    let vmid = |line: &str| line.strip_prefix("qm terminal ")?.parse().ok();
    if let Some(vmid) = vmid(command) {
        return Some((Arc::clone(node), vmid));
    }
    let words = shlex::split(command)?;
    let [ssh, "-t", .., login, remote] = &*words.iter().map(String::as_str).collect::<Vec<_>>() else {
        return None;
    };
    let peer = cluster::at_address(node, login.strip_prefix("root@").filter(|_| *ssh == "ssh")?)?;
    Some((peer, vmid(remote)?))
}

/// What `qm terminal` says first where there is a console, or why there is none.
pub fn terminal(node: &Node, vmid: u32) -> Result<&'static [u8], Outcome> {
    let has_serial = node.read(|d| d.vms.get(&vmid).is_some_and(|c| c.get("serial0") == Some("socket")));
    match (has_serial, node.read(|d| d.is_running(vmid))) {
        (true, true) => Ok(b"starting serial terminal on interface serial0 (press Ctrl+O to exit)\r\n"),
        (false, true) => Err(failed("unable to find a serial interface", 255)),
        (_, false) => Err(failed(format!("VM {vmid} not running"), 255)),
    }
}

/// A real shell with a script, on the node's own directories in place of this machine's.
fn shell_with(node: &Node, command: &str) -> std::io::Result<tokio::process::Child> {
    let mut paths: Vec<String> = node.read(|d| d.storages.iter().map(|s| s.path.clone()).collect());
    paths.extend([IMAGES, CONFIGS].map(str::to_owned));
    for path in [IMAGES, CONFIGS] {
        std::fs::create_dir_all(node.file(path))?;
    }
    let here = |text: String, path: &String| text.replace(path, &node.file(path).display().to_string());
    let script = paths.iter().fold(command.to_owned(), here);
    let mut shell = tokio::process::Command::new("sh");
    shell.arg("-c").arg(script).stdin(std::process::Stdio::piped());
    shell.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn()
}

/// Whether a command talks with whoever runs it for as long as it runs.
pub fn is_live(command: &str) -> bool {
    command.starts_with("perl ") && command.contains(IMAGES)
}

/// Runs such a command. What it finds of the configurations of the VMs is what they are.
pub async fn live(
    node: &Arc<Node>,
    command: &str,
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
) -> std::io::Result<Outcome> {
    let mut child = shell_with(node, command)?;
    let (Some(mut stdin), Some(mut stdout)) = (child.stdin.take(), child.stdout.take()) else {
        return Ok(failed("sh: no pipes", 1));
    };
    let (mut from, mut to) = tokio::io::split(&mut stream);
    let given = async {
        // A client or a command that goes away has had what it had.
        let _ = tokio::io::copy(&mut from, &mut stdin).await;
        drop(stdin);
        std::future::pending::<()>().await;
    };
    let told = async {
        let _ = tokio::io::copy(&mut stdout, &mut to).await;
    };
    let configs = async {
        loop {
            write_configs(node);
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    let ended = async {
        told.await;
        child.wait_with_output().await
    };
    let output = tokio::select! {
        output = ended => output?,
        () = given => unreachable!("it waits for ever"),
        () = configs => unreachable!("it goes on for ever"),
    };
    let status = output.status.code().and_then(|code| u32::try_from(code).ok()).unwrap_or(255);
    Ok(Outcome { stdout: Vec::new(), stderr: output.stderr, status })
}

/// The VMs' configurations as files, for a script that looks at them.
fn write_configs(node: &Node) {
    let configs = node.read(|d| {
        d.vms.iter().map(|(vmid, conf)| (format!("{vmid}.conf"), conf.to_string())).collect::<Vec<_>>()
    });
    let dir = node.file(CONFIGS);
    // A node whose directory has gone has no scripts any more.
    for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if configs.iter().all(|(known, _)| name != known.as_str()) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
    for (name, text) in configs {
        if std::fs::read_to_string(dir.join(&name)).map_or(true, |there| there != text) {
            let _ = std::fs::write(dir.join(name), text);
        }
    }
}

async fn shell(node: &Node, command: &str, input: &[u8]) -> std::io::Result<Outcome> {
    let mut child = shell_with(node, command)?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input).await?;
    }
    let output = child.wait_with_output().await?;
    let status = output.status.code().and_then(|code| u32::try_from(code).ok()).unwrap_or(255);
    Ok(Outcome { stdout: output.stdout, stderr: output.stderr, status })
}

/// Runs a command that is given this on its standard input.
pub async fn run(node: &Arc<Node>, command: &str, input: &[u8]) -> Outcome {
    let _at_work = node.ledger.begin(Party::Node, command.split_whitespace().next().unwrap_or("sh"));
    let full = node.fault(|f| match f {
        Fault::ImagesFull { free } if command.starts_with("df ") => Some((*free, false)),
        _ => None,
    });
    if let Some(free) = full {
        let free = free / 1024;
        let head = "Filesystem 1024-blocks Used Available Capacity Mounted on";
        return printed(format!("{head}\n/dev/mapper/pve-root 98497780 1 {free} 99% /\n"));
    }
    if is_on_snippets(node, command) || command.contains(IMAGES) {
        return shell(node, command, input).await.unwrap_or_else(|e| failed(format!("sh: {e}"), 1));
    }
    if command.contains("assemble_ticket") {
        // The program that tries the short way first, unless it is told not to.
        let short = command.contains("new_private_key") && !command.ends_with(" full");
        let latency = node.latency();
        let takes = if short { latency.mint_short } else { latency.mint };
        node.ledger.spend(Work::Ticket, takes).await;
        return mint(node, short);
    }
    let words: Vec<&str> = command.split_whitespace().collect();
    let missing =
        || failed(format!("bash: line 1: {}: command not found", words.first().unwrap_or(&"")), 127);
    if node.has_fault(|f| matches!(f, Fault::NoProgram { name } if words.first() == Some(&name.as_str()))) {
        return missing();
    }
    match words.as_slice() {
        ["ip", rest @ ..] if rest.contains(&"neigh") || rest.contains(&"neighbour") => {
            printed(guest::neighbours(node).to_string() + "\n")
        }
        ["ip", "-j", "addr", "show"] => printed(
            r#"[{"ifname":"lo","addr_info":[{"family":"inet","local":"127.0.0.1","prefixlen":8}]},{"ifname":"vmbr0","addr_info":[{"family":"inet","local":"192.0.2.1","prefixlen":24}]}]"#,
        ),
        ["ip", "-j", "-4", "addr", "show", "dev", "vmbr0"] => printed(
            r#"[{"ifname":"vmbr0","addr_info":[{"family":"inet","local":"192.0.2.1","prefixlen":24}]}]"#,
        ),
        ["ping", "-n", "-q", "-c", "1", "-W", "1", address] => {
            if guest::answers(node, address) {
                printed("1 packets transmitted, 1 received, 0% packet loss\n")
            } else {
                failed("1 packets transmitted, 0 received, 100% packet loss".to_owned(), 1)
            }
        }
        ["perl", "-MSocket", "-e", ..] => {
            guest::notice(node);
            Outcome::default()
        }
        ["cat", paths @ ..] => cat(node, paths),
        ["grep", "-asH", "''", ..] => printed(configs(node)),
        ["qm", ..] => qm::line(node, command, input).await,
        ["hostname"] => printed(format!("{}\n", node.name())),
        ["true"] | [":"] => Outcome::default(),
        ["pveversion"] => printed("pve-manager/9.2.11/14a22df35955d97d (running kernel: 6.17.2-1-pve)\n"),
        _ => missing(),
    }
}

/// What the perl program prints: the ticket and the CSRF token, one a line.
fn mint(node: &Node, short: bool) -> Outcome {
    let (ticket, csrf) = node.mint_ticket();
    if short && node.has_fault(|f| *f == Fault::ShortTicketRefused) {
        node.revoke_ticket(&ticket);
    }
    printed(format!("{ticket}\n{csrf}\n"))
}

fn cat(node: &Node, paths: &[&str]) -> Outcome {
    let mut out = Outcome::default();
    for path in paths {
        let path = path.trim_matches(['\'', '"']);
        let text = match path.strip_prefix("/etc/pve/") {
            Some(".vmlist") => Some(node.read(|d| d.vmlist(node.name()))),
            Some(".members") => Some(cluster::members(node)),
            Some(rest) if rest.ends_with("/ssh_known_hosts") => rest
                .strip_prefix("nodes/")
                .and_then(|rest| rest.strip_suffix("/ssh_known_hosts"))
                .and_then(|name| cluster::known_host(node, name)),
            Some(rest) => rest
                .strip_prefix("qemu-server/")
                .or_else(|| rest.strip_prefix(&format!("nodes/{}/qemu-server/", node.name())))
                .and_then(|file| file.strip_suffix(".conf")?.parse::<u32>().ok())
                .and_then(|vmid| node.read(|d| d.vms.get(&vmid).map(ToString::to_string))),
            None => None,
        };
        match text {
            Some(text) => out.stdout.extend_from_slice(text.as_bytes()),
            None => {
                out.stderr.extend_from_slice(format!("cat: {path}: No such file or directory\n").as_bytes());
                out.status = 1;
            }
        }
    }
    out
}

/// Every line of every configuration in the cluster, with its file before it.
fn configs(node: &Node) -> String {
    let mut out = own_configs(node);
    node.peers.all().iter().for_each(|peer| out.push_str(&own_configs(peer)));
    out
}

fn own_configs(node: &Node) -> String {
    let mut out = String::new();
    let mut add = |place: String, text: &str| {
        text.lines().for_each(|line| out.push_str(&format!("/etc/pve/nodes/{place}.conf:{line}\n")));
    };
    node.read(|d| {
        for (vmid, conf) in &d.vms {
            add(format!("{}/qemu-server/{vmid}", node.name()), &conf.to_string());
        }
        for other in &d.foreign {
            add(format!("{}/qemu-server/{}", other.node, other.vmid), &format!("name: {}", other.name));
        }
        for container in &d.containers {
            add(
                format!("{}/lxc/{}", container.node, container.vmid),
                &format!("hostname: {}", container.name),
            );
        }
    });
    out
}
