//! The VM itself, over SSH: always through `proxmox-ops connect`, always with its host key pinned.

use std::{net::IpAddr, path::Path, sync::mpsc, time::Duration};

use fleet_core::{
    Error, Kind, Result,
    child::quote,
    deadline::{Deadline, poll_often},
    interrupt,
    ssh::{ExecStatus, HostKeyPolicy, Session, Target, Transport},
    types::Vmid,
    ui::Ui,
};

use crate::tools::Tools;

/// One try to log in may take this long.
pub const TRY_LIMIT: Duration = Duration::from_secs(20);
/// What is left of that for the login itself, once somebody listens there.
const LOGIN: u64 = 8;
/// How often a login that is under way is looked at.
const LOOK: Duration = Duration::from_millis(100);
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
    /// The key to log in with: a private key, or the public half of one that the agent has.
    pub identity: &'a Path,
    /// Where messages go.
    pub ui: Ui,
}

impl Guest<'_> {
    fn target(&self, user: &str, host_key: &str, patience: u64) -> Target {
        Target {
            host: self.name.to_owned(),
            user: Some(user.to_owned()),
            host_key: HostKeyPolicy::Pinned(host_key.to_owned()),
            identities: vec![self.identity.to_owned()],
            proxy: Some(self.tools.connect_within(self.vmid, self.last, patience).silent()),
        }
    }

    /// Whether who answers there has `host_key`, whomever it lets in.
    pub fn shows(&self, host_key: &str) -> bool {
        let target = self.target(crate::settings::BOOTSTRAP_USER, host_key, 0);
        Session::check_host_key(&target, self.ui, Deadline::after(TRY_LIMIT)).is_ok()
    }

    /// Logs in as `user`; the VM must prove itself with `host_key`. Left when the user asks to stop: nothing has been
    /// sent to the VM yet.
    pub fn log_in(&self, user: &str, host_key: &str, deadline: Deadline) -> Result<Session> {
        self.log_in_to(self.target(user, host_key, 0), deadline)
    }

    /// The same on a machine that boots: whether anybody listens yet is looked at often, on one connection to the node.
    fn log_in_when_up(&self, user: &str, host_key: &str, deadline: Deadline) -> Result<Session> {
        let patience = deadline.left().as_secs().saturating_sub(LOGIN);
        self.log_in_to(self.target(user, host_key, patience), deadline)
    }

    fn log_in_to(&self, target: Target, deadline: Deadline) -> Result<Session> {
        let (ui, (tell, told)) = (self.ui, mpsc::channel());
        // Nobody listens any more when it was left.
        std::thread::spawn(move || drop(tell.send(Session::connect(&target, ui, deadline))));
        loop {
            interrupt::check()?;
            match told.recv_timeout(LOOK) {
                Ok(outcome) => return outcome,
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    return Err(Error::failed(format!(
                        "the login on '{}' did not come to its end",
                        self.name
                    )));
                }
            }
        }
    }

    /// As [`Guest::log_in`], and the VM may prove itself with any of `host_keys`. With `booting`, it is waited for.
    pub fn log_in_with_any(
        &self,
        user: &str,
        host_keys: &[String],
        booting: bool,
        deadline: Deadline,
    ) -> Result<Session> {
        let mut last = None;
        for host_key in host_keys {
            let login = if booting {
                self.log_in_when_up(user, host_key, deadline)
            } else {
                self.log_in(user, host_key, deadline)
            };
            match login {
                Err(error) if error.is_host_key_mismatch() => last = Some(error),
                other => return other,
            }
        }
        Err(last.unwrap_or_else(|| Error::unreachable(format!("no host key of '{}' is known", self.name))))
    }

    /// A login as the first of `users` that works at once, on a machine that shows one of `host_keys`.
    pub fn log_in_at_once(&self, users: [&str; 2], host_keys: &[String], seconds: u64) -> Option<Session> {
        if host_keys.is_empty() {
            return None;
        }
        let log_in = |user| self.log_in_with_any(user, host_keys, false, Deadline::secs(seconds)).ok();
        users.into_iter().find_map(log_in)
    }

    /// Whether anything answers there: also somebody who lets nobody in.
    pub fn answers(&self, host_key: &str) -> bool {
        let deadline = Deadline::after(TRY_LIMIT);
        match self.log_in(crate::settings::BOOTSTRAP_USER, host_key, deadline) {
            Ok(_) => true,
            Err(error) => {
                error.is_host_key_mismatch()
                    || !matches!(
                        error.kind(),
                        Kind::Unreachable | Kind::DeadlinePassed | Kind::OutcomeUnknown | Kind::NotFound
                    )
            }
        }
    }

    /// Tries to log in until it works. A wrong host key ends the wait at once; a refused login does not,
    /// because sshd may answer before the keys are in place.
    pub fn wait(&self, user: &str, host_key: &str, deadline: Deadline) -> Result<Session> {
        let mut refused = Refused::default();
        poll_often(deadline, format_args!("SSH on '{}' as {user}", self.name), || {
            match self.log_in_when_up(user, host_key, deadline.at_most(TRY_LIMIT)) {
                Ok(session) => Ok(Ok(session)),
                Err(error) if is_final(&error) => Err(error),
                Err(error) => {
                    self.ui.detail(format!("not yet: {}", error.chain()));
                    refused.rest(&error, deadline);
                    Ok(Err(error.chain()))
                }
            }
        })
    }

    /// Waits until the installer runs there. Until the old system has gone down it may still answer.
    pub fn wait_for_installer(&self, user: &str, host_key: &str, deadline: Deadline) -> Result<Session> {
        poll_often(deadline, format_args!("the NixOS installer on '{}'", self.name), || {
            match self.log_in(user, host_key, deadline.at_most(TRY_LIMIT)) {
                Ok(session) => Ok(match system(&session) {
                    Ok(System::Installer) => Ok(session),
                    Ok(other) => Err(format!("{other:?} answers")),
                    Err(error) => Err(error.chain()),
                }),
                Err(error) if error.is_host_key_mismatch() || error.kind() == Kind::Interrupted => Err(error),
                Err(error) => Ok(Err(error.chain())),
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
        let mut refused = Refused::default();
        poll_often(deadline, format_args!("NixOS on '{}' to boot and to answer as {user}", self.name), || {
            let limit = deadline.at_most(TRY_LIMIT);
            match self.log_in_when_up(user, host_key, limit) {
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
                    refused.rest(&error, deadline);
                    Ok(Err(error.chain()))
                }
            }
        })
    }
}

/// How often in a row a machine has refused a login.
#[derive(Default)]
struct Refused(u32);

impl Refused {
    /// Leaves a machine alone that has refused one more than once: a third time at once is what it holds against us.
    fn rest(&mut self, error: &Error, deadline: Deadline) {
        self.0 = if error.is_login_refused() { self.0 + 1 } else { 0 };
        if self.0 > 1 {
            rest(error.respite(), deadline);
        }
    }
}

/// Leaves a machine alone for a while, or until the deadline passes or the user asks to stop.
pub fn rest(time: Duration, deadline: Deadline) {
    let rest = deadline.at_most(time);
    while !rest.passed() && !interrupt::asked() {
        rest.sleep(LOOK);
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

/// Has the installer boot what is on the disk, as nixos-anywhere does it: with the new system's file systems and pools
/// given up before.
pub fn reboot(session: &Session) -> Result<()> {
    let command = "umount -R /mnt; swapoff -a; zpool export -a; systemctl reboot";
    // It may go down before it has answered.
    session.exec(&format!("{{ {command}; }} >/dev/null 2>&1"), b"", Deadline::secs(COMMAND_LIMIT)).map(drop)
}

/// How an installed system is, as `systemctl is-system-running` has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// All is up.
    Running,
    /// These units failed.
    Degraded(Vec<String>),
    /// Another state: `starting`, `maintenance`, …
    Other(String),
}

/// Asks until the system has started, or the deadline.
pub fn health(session: &Session, deadline: Deadline) -> Result<Health> {
    // Its exit code is 0 for `running` alone.
    let ask = |command: &str| -> Result<String> {
        let output = session.exec(command, b"", Deadline::secs(COMMAND_LIMIT))?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    loop {
        let state = ask("systemctl is-system-running")?;
        match state.as_str() {
            "running" => return Ok(Health::Running),
            "degraded" => {
                let failed = ask("systemctl list-units --failed --plain --no-legend")?;
                let unit = |line: &str| line.split_whitespace().next().map(str::to_owned);
                return Ok(Health::Degraded(failed.lines().filter_map(unit).collect()));
            }
            "initializing" | "starting" if !deadline.passed() => {
                interrupt::check()?;
                deadline.sleep(Duration::from_millis(300));
            }
            _ => return Ok(Health::Other(state)),
        }
    }
}

/// Lets `key`, one public key line, log in too, beside whoever may already.
pub fn authorize(session: &Session, key: &str) -> Result<()> {
    let command = "umask 077 && mkdir -p /root/.ssh && cat >> /root/.ssh/authorized_keys";
    // The file may lack a newline at its end.
    let line = format!("\n{key}\n");
    let output = session.exec(command, line.as_bytes(), Deadline::secs(COMMAND_LIMIT))?;
    if output.status == ExecStatus::Code(0) {
        return Ok(());
    }
    Err(Error::failed("can not let the installer's key log in on the VM")
        .now(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

/// Lets a nixos-anywhere that knows `--kexec-extract-path` find on the VM what it unpacked there: it unpacks into `kexec` of the VM's own home
/// directory, and starts it from `kexec` of the home directory that the operator has on this machine (`home`).
///
/// The link lies in a system that is replaced in a moment. An option that names the directory would end an older
/// nixos-anywhere, which takes it for the host's name.
pub fn link_kexec(session: &Session, home: &str) -> Result<()> {
    match kexec_link(home) {
        Some(command) => output(session, &command).map(drop),
        None => Ok(()),
    }
}

/// Where nixos-anywhere unpacks the installer, as root.
const KEXEC_DIR: &str = "/root/kexec";

fn kexec_link(home: &str) -> Option<String> {
    let home = home.trim_end_matches('/');
    if !home.starts_with('/') || home == "/root" {
        return None;
    }
    let (dir, link) = (quote(home), quote(&format!("{home}/kexec")));
    Some(format!("mkdir -p {KEXEC_DIR} {dir} && test -e {link} || ln -s {KEXEC_DIR} {link}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_installer_is_found_below_the_operators_home_too() {
        assert_eq!(
            kexec_link("/home/me/").as_deref(),
            Some(
                "mkdir -p /root/kexec /home/me && test -e /home/me/kexec || ln -s /root/kexec /home/me/kexec"
            )
        );
        assert_eq!(kexec_link("/root"), None);
        assert_eq!(kexec_link("/"), None);
        assert_eq!(kexec_link(""), None);
        assert!(kexec_link("/a b").unwrap().ends_with("|| ln -s /root/kexec '/a b/kexec'"));
    }

    #[test]
    fn os_release_tells_the_three_systems_apart() {
        let nixos = "NAME=NixOS\nID=nixos\nVARIANT_ID=\"\"\n";
        assert_eq!(System::from_os_release(nixos), System::Nixos);
        assert_eq!(System::from_os_release("ID=nixos\nVARIANT_ID=\"installer\"\n"), System::Installer);
        assert_eq!(System::from_os_release("ID=debian\n"), System::Other("debian".into()));
        assert_eq!(System::from_os_release(""), System::Other("linux".into()));
    }
}
