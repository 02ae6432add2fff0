//! The way to the API through OpenSSH's own sshd: forwarded, relayed where that is forbidden, with an API token.
//! Skipped where there is no sshd, unless `FLEET_REQUIRE_ORACLES=1`.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can not go on must stop")]

#[path = "../../fleet-core/tests/ssh_support/mod.rs"]
mod ssh_support;

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use assert_cmd::Command;
use rustix::net::{self, AddressFamily, SocketType};
use ssh_support::{Sshd, me};

const TOKEN: &str = "fleet@pve!ops=12345678-1234-1234-1234-123456789abc";

/// A daemon that knows two requests and one token, on a port of its own.
struct Daemon {
    port: u16,
    connections: Arc<AtomicUsize>,
}

impl Daemon {
    fn start() -> Daemon {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let connections = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&connections);
        std::thread::spawn(move || {
            for peer in listener.incoming().flatten() {
                counter.fetch_add(1, Ordering::SeqCst);
                std::thread::spawn(move || drop(serve(peer)));
            }
        });
        Daemon { port, connections }
    }
}

/// Answers until the other side closes, or after an error, as pvedaemon does.
fn serve(peer: TcpStream) -> std::io::Result<()> {
    let mut out = peer.try_clone()?;
    let mut lines = BufReader::new(peer);
    loop {
        let (mut first, mut authorized) = (String::new(), false);
        loop {
            let mut line = String::new();
            if lines.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let line = line.trim_end();
            if line.is_empty() {
                break;
            }
            if first.is_empty() {
                line.clone_into(&mut first);
            }
            let header = line.split_once(": ").unwrap_or_default();
            authorized |=
                header.0.eq_ignore_ascii_case("authorization") && header.1 == format!("PVEAPIToken={TOKEN}");
        }
        let body = match first.split_whitespace().nth(1).unwrap_or_default() {
            _ if !authorized => {
                out.write_all(
                    b"HTTP/1.1 401 Authentication failed!\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
                )?;
                return Ok(());
            }
            "/api2/json/cluster/status" => r#"{"data":[{"type":"node","name":"prom","local":1}]}"#.to_owned(),
            path if path.starts_with("/api2/json/cluster/resources") => {
                // Longer than an SSH channel's window moves at once.
                let row = |n: usize| {
                    format!(
                        r#"{{"type":"qemu","vmid":{},"name":"vm-{n}","node":"prom","status":"stopped"}}"#,
                        1000 + n
                    )
                };
                format!(r#"{{"data":[{}]}}"#, (0..20_000).map(row).collect::<Vec<_>>().join(","))
            }
            _ => r#"{"data":{"status":"running"}}"#.to_owned(),
        };
        write!(
            out,
            "HTTP/1.1 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )?;
    }
}

fn command(sshd: &Sshd, daemon: &Daemon, args: &[&str]) -> Command {
    let known_hosts = sshd.path("known_hosts");
    let line = format!("[127.0.0.1]:{} {}\n", sshd.address.port(), sshd.host_key());
    std::fs::write(&known_hosts, line).unwrap();
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("proxmox-ops"));
    command
        .arg("--repo")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."))
        .args(args)
        .env("PROXMOX_HOST", sshd.address.to_string())
        .env("PROXMOX_USER", me())
        .env("PROXMOX_TOKEN", TOKEN)
        .env("PROXMOX_API_PORT", daemon.port.to_string())
        .env("FLEET_SSH_CONFIG", "none")
        .env("FLEET_KNOWN_HOSTS", known_hosts)
        .env("FLEET_IDENTITY", sshd.path("user"))
        .env("FLEET_ROUTE", "node")
        .env("NO_COLOR", "1")
        .env_remove("SSH_AUTH_SOCK")
        .env_remove("PROXMOX_TOKEN_FILE")
        .env_remove("PROXMOX_NODE")
        .timeout(Duration::from_secs(60));
    command
}

#[test]
fn an_api_token_and_the_daemon_through_both_ways() {
    for more in ["", "AllowTcpForwarding no"] {
        let Some(sshd) = Sshd::start(more) else { return };
        let daemon = Daemon::start();
        let output = command(&sshd, &daemon, &["status", "104", "--verbose"]).output().unwrap();
        let err = String::from_utf8_lossy(&output.stderr);
        assert_eq!(String::from_utf8_lossy(&output.stdout), "running\n", "{more}: {err}");
        assert_eq!(err.contains("using a relay"), !more.is_empty(), "{err}");
        assert_eq!(daemon.connections.load(Ordering::SeqCst), 1, "several requests, one connection");
        assert!(!err.contains(TOKEN), "a token is never shown");
        let output = command(&sshd, &daemon, &["list", "--json"]).output().unwrap();
        let list: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(list.as_array().unwrap().len(), 20_000);
    }
}

#[test]
fn a_login_shell_that_greets_spoils_no_relay() {
    let greets = "AllowTcpForwarding no\nForceCommand printf 'Welcome. '; eval \"$SSH_ORIGINAL_COMMAND\"";
    let Some(sshd) = Sshd::start(greets) else { return };
    let daemon = Daemon::start();
    command(&sshd, &daemon, &["status", "104"]).assert().success().stdout("running\n");
    // What runs something else altogether is told.
    let Some(sshd) = Sshd::start("AllowTcpForwarding no\nForceCommand echo For backups only") else { return };
    let output = command(&sshd, &daemon, &["status", "104"]).output().unwrap();
    assert_eq!(output.status.code(), Some(6));
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(err.contains("it said 'For backups only'") && err.contains("ssh HOST echo it"), "{err}");
}

#[test]
fn a_token_from_a_file_and_a_wrong_one() {
    let Some(sshd) = Sshd::start("") else { return };
    let daemon = Daemon::start();
    std::fs::write(sshd.path("token"), format!("{TOKEN}\n")).unwrap();
    let mut right = command(&sshd, &daemon, &["status", "104"]);
    right.env_remove("PROXMOX_TOKEN").env("PROXMOX_TOKEN_FILE", sshd.path("token"));
    right.assert().success().stdout("running\n");
    let mut wrong = command(&sshd, &daemon, &["status", "104"]);
    let output = wrong.env("PROXMOX_TOKEN", "fleet@pve!ops=wrong").output().unwrap();
    assert_eq!(output.status.code(), Some(6));
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(err.contains("the Proxmox API refused the login (Authentication failed!)"), "{err}");
    assert!(err.contains("pveum user token list"), "{err}");
}

#[test]
fn who_is_not_root_needs_a_token() {
    let Some(sshd) = Sshd::start("") else { return };
    let daemon = Daemon::start();
    let mut without = command(&sshd, &daemon, &["status", "104"]);
    let output = without.env_remove("PROXMOX_TOKEN").env("PROXMOX_USER", "ops").output().unwrap();
    assert_eq!(output.status.code(), Some(6));
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(err.contains("only root can") && err.contains("PROXMOX_TOKEN_FILE"), "{err}");
    assert_eq!(sshd.connections(), 0);
}

#[test]
fn a_node_that_is_no_proxmox_node_is_told_apart() {
    let Some(sshd) = Sshd::start("") else { return };
    if me() != "root" {
        return;
    }
    let daemon = Daemon::start();
    let output = command(&sshd, &daemon, &["status", "104"]).env_remove("PROXMOX_TOKEN").output().unwrap();
    assert_eq!(output.status.code(), Some(6));
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(
        err.contains("can not make a ticket on the node: Can't locate PVE/AccessControl.pm\n")
            && err.contains("is it a Proxmox VE node?"),
        "{err}"
    );
}

#[test]
fn bytes_go_through_the_node() {
    through_the_node("");
    through_the_node("AllowTcpForwarding no");
}

fn through_the_node(more: &str) {
    let Some(sshd) = Sshd::start(more) else { return };
    let daemon = Daemon::start();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let echo = std::thread::spawn(move || {
        let (mut peer, _) = listener.accept().unwrap();
        let mut all = Vec::new();
        peer.read_to_end(&mut all).unwrap();
        peer.write_all(&all).unwrap();
        all.len()
    });
    let bytes: Vec<u8> = (0..2_000_000u32).map(|n| (n % 251) as u8).collect();
    let mut connect = command(&sshd, &daemon, &["connect", "127.0.0.1", &port.to_string()]);
    let output = connect.write_stdin(bytes.clone()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stdout == bytes);
    assert_eq!(echo.join().unwrap(), bytes.len());
}

#[test]
fn a_port_is_waited_for_on_the_node() {
    for more in ["", "AllowTcpForwarding no", "ForceCommand echo For backups only"] {
        let Some(sshd) = Sshd::start(more) else { return };
        let daemon = Daemon::start();
        // Known, and closed until the tool has been at it for a while.
        let socket = net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        net::bind(&socket, &SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let port = SocketAddr::try_from(net::getsockname(&socket).unwrap()).unwrap().port();
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(1500));
            net::listen(&socket, 16).unwrap();
            for peer in TcpListener::from(socket).incoming() {
                drop(peer.unwrap().write_all(b"SSH-2.0-late\r\n"));
            }
        });
        let args = ["wait-ssh", "127.0.0.1", "30", "--verbose", "--port", &port.to_string()];
        let output = command(&sshd, &daemon, &args).output().unwrap();
        let err = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && err.contains("it says: SSH-2.0-late"), "{more}: {err}");
        // Where a command may be run there it is what waits.
        let by_relay = err.contains("what waits on the node has connected");
        assert_eq!(by_relay, !more.starts_with("ForceCommand"), "{more}: {err}");
    }
}
