//! The VM itself, over SSH: always through `proxmox-ops connect`, always with its host key pinned.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
};

use fleet_core::{
    Error, Kind, Result,
    authorized_keys::AuthorizedKey,
    deadline::{Deadline, poll},
    ssh::{ExecStatus, HostKeyPolicy, Session, Target, Transport},
    types::Vmid,
    ui::Ui,
};

use crate::tools::Tools;

/// One try to log in may take this long, in seconds.
const TRY_LIMIT: u64 = 20;
/// One command on the VM may take this long, in seconds.
const COMMAND_LIMIT: u64 = 30;

/// What runs on the VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum System {
    /// An installed NixOS.
    Nixos,
    /// The NixOS installer, in memory.
    Installer,
    /// Something else, by its `ID` in os-release(5): the cloud image.
    Other(String),
}

impl System {
    /// From the text of `/etc/os-release`, os-release(5).
    pub fn from_os_release(text: &str) -> System {
        let value = |name: &str| {
            text.lines()
                .filter_map(|line| line.trim().split_once('='))
                .find(|(key, _)| *key == name)
                .map(|(_, value)| value.trim_matches(['"', '\'']).to_owned())
        };
        match (value("ID").as_deref(), value("VARIANT_ID").as_deref()) {
            (_, Some("installer")) => System::Installer,
            (Some("nixos"), _) => System::Nixos,
            (id, _) => System::Other(id.unwrap_or("linux").to_owned()),
        }
    }
}

/// How to reach one VM.
#[derive(Debug)]
pub struct Guest<'a> {
    /// The tools, for the way to it.
    pub tools: &'a Tools,
    /// Which VM.
    pub vmid: Vmid,
    /// Where it was last, when that is known.
    pub last: Option<IpAddr>,
    /// Name for messages.
    pub name: &'a str,
    /// Private key to log in with.
    pub identity: &'a Path,
    /// Where messages go.
    pub ui: Ui,
}

impl Guest<'_> {
    /// Logs in as `user`; the VM must prove itself with `host_key`.
    pub fn log_in(&self, user: &str, host_key: &str, deadline: Deadline) -> Result<Session> {
        let target = Target {
            host: self.name.to_owned(),
            user: Some(user.to_owned()),
            host_key: HostKeyPolicy::Pinned(host_key.to_owned()),
            identities: vec![self.identity.to_owned()],
            proxy: Some(self.tools.connect(self.vmid, self.last).silent()),
        };
        Session::connect(&target, self.ui, deadline)
    }

    /// As [`Guest::log_in`], and the VM may prove itself with any of `host_keys`.
    pub fn log_in_with_any(&self, user: &str, host_keys: &[String], deadline: Deadline) -> Result<Session> {
        let mut last = None;
        for host_key in host_keys {
            match self.log_in(user, host_key, deadline) {
                Err(error) if error.is_host_key_mismatch() => last = Some(error),
                other => return other,
            }
        }
        Err(last.unwrap_or_else(|| Error::unreachable(format!("no host key of '{}' is known", self.name))))
    }

    /// Tries to log in until it works. A wrong host key ends the wait at once; a refused login does not,
    /// because sshd may answer before the keys are in place.
    pub fn wait(&self, user: &str, host_key: &str, deadline: Deadline) -> Result<Session> {
        poll(deadline, format_args!("SSH on '{}' as {user}", self.name), || {
            match self.log_in(user, host_key, deadline.at_most(std::time::Duration::from_secs(TRY_LIMIT))) {
                Ok(session) => Ok(Ok(session)),
                Err(error) if is_final(&error) => Err(error),
                Err(error) => {
                    self.ui.detail(format!("not yet: {}", error.chain()));
                    Ok(Err(error.chain()))
                }
            }
        })
    }

    /// Waits until the installed system answers with `host_key`. Until the old system has gone down for the
    /// reboot it may still answer, with `old_key`: that is no attack.
    pub fn wait_for_new_key(
        &self,
        user: &str,
        host_key: &str,
        old_key: Option<&str>,
        deadline: Deadline,
    ) -> Result<Session> {
        poll(deadline, format_args!("NixOS on '{}' to boot and to answer as {user}", self.name), || {
            let limit = deadline.at_most(std::time::Duration::from_secs(TRY_LIMIT));
            match self.log_in(user, host_key, limit) {
                // It may have had the same key.
                Ok(session) if system(&session)? == System::Installer => {
                    Ok(Err("the installer still answers".to_owned()))
                }
                Ok(session) => Ok(Ok(session)),
                Err(error) if error.is_host_key_mismatch() => match old_key {
                    Some(old) if error.presented_host_key().map(blob) == Some(blob(old)) => {
                        Ok(Err("the installer still answers".to_owned()))
                    }
                    _ => Err(error),
                },
                // While it boots, sshd may answer before the users are there.
                Err(error) => {
                    self.ui.detail(format!("not yet: {}", error.chain()));
                    Ok(Err(error.chain()))
                }
            }
        })
    }
}

/// The key itself in an OpenSSH public key line.
fn blob(line: &str) -> &str {
    line.split_whitespace().nth(1).unwrap_or(line)
}

fn is_final(error: &Error) -> bool {
    error.is_host_key_mismatch()
        || !matches!(error.kind(), Kind::Unreachable | Kind::DeadlinePassed | Kind::OutcomeUnknown)
}

/// The output of `command` on the VM; it must succeed.
pub fn output(session: &Session, command: &str) -> Result<String> {
    let output = session.exec(command, b"", Deadline::secs(COMMAND_LIMIT))?;
    if output.status != ExecStatus::Code(0) {
        return Err(Error::failed(format!("`{command}` on the VM ended with {:?}", output.status))
            .now(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What runs on the VM.
pub fn system(session: &Session) -> Result<System> {
    Ok(System::from_os_release(&output(session, "cat /etc/os-release")?))
}

/// A private key whose public half is among `keys`: the given file, which must be one, or the first of the
/// usual ones that is.
pub fn identity(given: Option<&Path>, keys: &[String]) -> Result<PathBuf> {
    let blob = |line: &str| {
        let key: AuthorizedKey = line.parse().ok()?;
        ssh_key::PublicKey::from_openssh(&key.key).ok().map(|key| key.key_data().clone())
    };
    let allowed: Vec<_> = keys.iter().filter_map(|line| blob(line)).collect();
    let fits = |path: &Path| public_half(path).is_some_and(|key| allowed.contains(key.key_data()));
    if let Some(path) = given {
        if fits(path) {
            return unencrypted(path);
        }
        let why = if public_half(path).is_some() {
            "is not among the fleet's keys"
        } else {
            "can not be read as an SSH key"
        };
        return Err(Error::failed(format!(
            "the key {} {why}: the VM could not be reached with it",
            path.display()
        ))
        .now("nothing was changed")
        .hint("give a private key whose public half is in hosts.nix with --identity FILE"));
    }
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let usual = ["id_ed25519", "id_ecdsa", "id_rsa"].map(|name| home.join(".ssh").join(name));
    if let Some(path) = usual.iter().find(|path| fits(path)) {
        return unencrypted(path);
    }
    Err(Error::not_found(
        "none of the usual private keys belongs to the fleet's keys: the VM could not be reached",
    )
    .now(format!("looked at {}", usual.map(|p| p.display().to_string()).join(", ")))
    .now("nothing was changed")
    .hint("give a private key whose public half is in hosts.nix with --identity FILE"))
}

/// nixos-anywhere can not ask for a passphrase where we run it, and has no use for an agent.
fn unencrypted(path: &Path) -> Result<PathBuf> {
    if ssh_key::PrivateKey::read_openssh_file(path).is_ok_and(|key| key.is_encrypted()) {
        return Err(Error::failed(format!(
            "the key {} is protected by a passphrase: nixos-anywhere can not log in with it",
            path.display()
        ))
        .now("nothing was changed")
        .hint("make a key for installations: ssh-keygen -t ed25519 -N '' -f ~/.ssh/fleet-install")
        .hint("put its public half into hosts.nix, and give it with --identity ~/.ssh/fleet-install"));
    }
    Ok(path.to_owned())
}

fn public_half(path: &Path) -> Option<ssh_key::PublicKey> {
    let public = PathBuf::from(format!("{}.pub", path.display()));
    // OpenSSH's own format holds the public half in the clear, also when the private one is encrypted.
    ssh_key::PrivateKey::read_openssh_file(path)
        .map(|key| key.public_key().clone())
        .or_else(|_| {
            if path.is_file() {
                ssh_key::PublicKey::read_openssh_file(&public)
            } else {
                Err(ssh_key::Error::Io(std::io::ErrorKind::NotFound))
            }
        })
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn os_release_tells_the_three_systems_apart() {
        let nixos = "NAME=NixOS\nID=nixos\nVARIANT_ID=\"\"\n";
        assert_eq!(System::from_os_release(nixos), System::Nixos);
        assert_eq!(System::from_os_release("ID=nixos\nVARIANT_ID=\"installer\"\n"), System::Installer);
        assert_eq!(System::from_os_release("ID=debian\n"), System::Other("debian".into()));
        assert_eq!(System::from_os_release(""), System::Other("linux".into()));
    }
}
