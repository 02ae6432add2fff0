//! Where the VM's host key comes from: a file that the provisioning wrote, the guest agent through the hypervisor,
//! or, only when the user says so, the network.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
};

use fleet_core::{
    Error, Kind, Result,
    child::{self, Command},
    deadline::Deadline,
    types::Vmid,
    ui::Ui,
};

use crate::recipient::HostKey;

/// Longest wait for the guest agent, in seconds.
const AGENT_LIMIT: u64 = 60;
/// Longest wait for a host on the network, in seconds.
const SCAN_LIMIT: u64 = 30;

/// How to get the host key.
#[derive(Debug, Clone)]
pub enum Source {
    /// A public key file.
    File(PathBuf),
    /// `proxmox-ops host-key`.
    Agent(Vmid),
    /// Whoever answers at this address.
    Network(IpAddr),
}

impl Source {
    /// In words, for the plan and the commit.
    pub fn describe(&self) -> String {
        match self {
            // Where the file was is nobody's business in a commit.
            Source::File(_) => "given as a file".to_owned(),
            Source::Agent(vmid) => format!("from VM {vmid}'s guest agent, through the hypervisor"),
            Source::Network(address) => format!("from the network, from whoever answers at {address}"),
        }
    }

    /// Gets the key.
    pub fn host_key(&self, repo: &Path, ui: Ui) -> Result<HostKey> {
        match self {
            Source::File(path) => {
                let text = std::fs::read_to_string(path).map_err(|e| Error::io("read", path, e))?;
                if text.contains("PRIVATE KEY") {
                    return Err(Error::usage(format!(
                        "{} is a private key: give its .pub file",
                        path.display()
                    )));
                }
                HostKey::parse(text.trim()).map_err(|e| e.context(path.display()))
            }
            Source::Agent(vmid) => from_agent(*vmid, repo),
            Source::Network(address) => {
                ui.warn(format!(
                    "trusting the network: if somebody else answers at {address}, every secret of this host's rules \
                     will be readable by them"
                ));
                from_network(*address)
            }
        }
    }
}

fn from_agent(vmid: Vmid, repo: &Path) -> Result<HostKey> {
    let command = Command::new(child::find_tool("proxmox-ops")?)
        .arg("--repo")
        .arg(repo)
        .args(["--json", "--quiet", "host-key"])
        .arg(vmid.to_string())
        .args(["--timeout", &AGENT_LIMIT.to_string()]);
    let output = command.output(Deadline::secs(AGENT_LIMIT + 60))?;
    let text = output.stdout_text();
    let hints = |e: Error| {
        e.hint("with the key at hand: --host-key FILE")
            .hint("to accept whatever answers at the VM's address: --trust-network")
    };
    if !output.success() {
        #[derive(serde::Deserialize)]
        struct Failure {
            error: fleet_core::error::Report,
        }
        let said = text.lines().rev().find_map(|line| serde_json::from_str::<Failure>(line).ok());
        let error = match said {
            Some(failure) => Error::from(failure.error),
            None => {
                let kind = output.status.code().map_or(Kind::Failed, Kind::from_exit_code);
                output.checked().err().unwrap_or_else(|| Error::failed("proxmox-ops failed")).with_kind(kind)
            }
        };
        return Err(hints(
            error.context("can not read the host key through the hypervisor").now("nothing was changed"),
        ));
    }
    let line: String = serde_json::from_str(text.trim()).map_err(|e| {
        Error::failed(format!("`{command}` gave something that is no host key: {text}")).caused_by(e)
    })?;
    HostKey::parse(&line).map_err(hints)
}

fn from_network(address: IpAddr) -> Result<HostKey> {
    let scan = |kind: &str| -> Result<Option<String>> {
        let command = Command::new("ssh-keyscan").args(["-T", "10", "-t", kind]).arg(address.to_string());
        let output = command.output(Deadline::secs(SCAN_LIMIT))?;
        Ok(output
            .stdout_text()
            .lines()
            .find(|line| !line.starts_with('#'))
            .and_then(|line| line.split_once(' ').map(|(_, key)| key.to_owned())))
    };
    if let Some(key) = scan("ed25519")? {
        return HostKey::parse(&key);
    }
    match scan("rsa,ecdsa")? {
        // Refused there, with the reason.
        Some(other) => HostKey::parse(&other),
        None => {
            Err(Error::unreachable(format!("no SSH server answered at {address}")).now("nothing was changed"))
        }
    }
}
