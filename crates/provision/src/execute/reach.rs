//! Finding the VM, knowing it, and logging in to it.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use fleet_core::{
    Error, Kind, Result,
    child::Command,
    deadline::{Deadline, poll_often},
    protocol::{Address, Op, Session},
};

use super::{
    Job, fingerprint, limit,
    refused::{End, LetsIn, Refusal, names_of_keys, why_not},
};
use crate::{
    again,
    guest::{self, Guest, Health, System},
    host_key::HostKey,
    plan,
    settings::{self, BOOTSTRAP_USER},
    state::State,
    steps::Step,
    world,
};

impl Job<'_> {
    /// The way to the VM, which was at `last` when that is known.
    pub(super) fn guest(&self, last: Option<IpAddr>) -> Guest<'_> {
        Guest {
            last: last.or_else(|| plan::fixed_address(self.vm)),
            tools: self.tools,
            vmid: self.vm.vmid,
            name: self.vm.name.as_str(),
            identity: &self.login.file,
            ui: self.ui,
        }
    }

    pub(super) fn find_address(&self, session: &mut Session) -> Result<IpAddr> {
        self.step(Step::Address, "Finding the VM's address", || {
            let address = self.address(session)?;
            Ok((address, format!("Address: {address}")))
        })
    }

    fn address(&self, session: &mut Session) -> Result<IpAddr> {
        let limit = self.cli.boot_limit.unwrap_or(limit::ADDRESS);
        let op = Op::Address { vmid: self.vm.vmid, timeout: limit };
        let answer: Address = self.ask(session, op, Deadline::secs(limit + 30))?;
        Ok(answer.address)
    }

    /// The host keys that an earlier run read or made for this VM, here or on another machine: hosts.nix has the latter.
    fn keys_of_before(&self, state: &State) -> Vec<String> {
        state.keys_with(self.recorded)
    }

    /// A login to a VM that shows a host key which an earlier run read or made, if it works at once.
    fn log_in_as_before(&self, guest: &Guest<'_>, state: &State) -> Option<fleet_core::ssh::Session> {
        let users = [self.user.as_ref(), BOOTSTRAP_USER];
        guest.log_in_at_once(users, &self.keys_of_before(state), limit::AS_BEFORE)
    }

    /// The host keys that the VM may show, the likeliest first: the one that it was given; else the one of those that
    /// an earlier run read or made that it shows at once; else the one that the guest agent reads now, and all of the
    /// former (the installer has no agent).
    pub(super) fn host_keys(
        &self,
        session: &mut Session,
        guest: &Guest<'_>,
        state: &State,
        given: Option<&HostKey>,
    ) -> Result<Vec<String>> {
        if let Some(given) = given {
            let said = format!("Host key: {}", fingerprint(given.public())?);
            let keys = vec![given.public().to_owned()];
            return self.step(Step::HostKey, "Pinning the host key that cloud-init gives the VM", || {
                Ok((keys, said))
            });
        }
        if let Some(login) = self.log_in_as_before(guest, state) {
            let key = login.host_key().to_owned();
            let said = format!("Host key: {}, as an earlier run knew it", fingerprint(&key)?);
            return self.step(Step::HostKey, "Recognising the VM by its host key", || Ok((vec![key], said)));
        }
        self.step(Step::HostKey, "Reading the VM's host key through the hypervisor", || {
            // The one in hosts.nix may be that of an earlier VM of the name, until this one has been installed.
            let (config, _) = world::existing(session, self.vm.vmid)?
                .ok_or_else(|| Error::not_found(format!("VM {} is gone", self.vm.vmid)))?;
            let done = settings::cloudinit_is_done(&config.settings);
            let mut keys = if done { self.keys_of_before(state) } else { state.host_keys.clone() };
            let timeout = if keys.is_empty() { limit::AGENT } else { limit::AGENT_AGAIN };
            let op = Op::HostKey { vmid: self.vm.vmid, timeout };
            let answer: Result<String> = self.ask(session, op, Deadline::secs(timeout + 30));
            match answer {
                Ok(key) => keys.insert(0, key.trim().to_owned()),
                Err(error) if keys.is_empty() => {
                    return Err(error
                        .now("without its host key the VM could be anybody: nothing was sent to it")
                        .hint("the template needs the QEMU guest agent (package qemu-guest-agent) and an ed25519 host key"));
                }
                Err(error) => self.ui.detail(format!("the guest agent does not answer: {}", error.chain())),
            }
            keys.dedup();
            let said = format!("Host key: {}", fingerprint(&keys[0])?);
            Ok((keys, said))
        })
    }

    /// Waits for a login that works: as root on the bootstrap system and the installer, as the fleet user on
    /// NixOS. Gives the login and what runs there.
    pub(super) fn wait_for_ssh(
        &self,
        session: &mut Session,
        guest: &Guest<'_>,
        known: &[String],
    ) -> Result<(fleet_core::ssh::Session, System)> {
        self.step(Step::Ssh, "Waiting for SSH", || {
            let limit = self.cli.boot_limit.unwrap_or(limit::SSH);
            let (deadline, mut refusal) = (Deadline::secs(limit), Refusal::within(limit));
            let login = poll_often(deadline, format_args!("SSH on '{}'", self.vm.name), || {
                let (mut last, mut refused, mut respite) = (None, true, Duration::ZERO);
                for user in [BOOTSTRAP_USER, self.user.as_ref()] {
                    // What the deadline cuts short tells nothing.
                    if last.is_some() && deadline.passed() {
                        break;
                    }
                    match guest.log_in_with_any(user, known, true, deadline.at_most(guest::TRY_LIMIT)) {
                        Ok(session) => return Ok(Ok(session)),
                        Err(error) if error.is_host_key_mismatch() => return Err(error),
                        Err(_) if last.is_some() && deadline.passed() => {}
                        Err(error) => {
                            refused &= error.is_login_refused();
                            respite += error.respite();
                            last = Some(why_not(&error));
                        }
                    }
                }
                let last = last.unwrap_or_default();
                self.ui.detail(format!("not yet: {last}"));
                last.clone_into(&mut self.last_said());
                if deadline.passed() {
                    return Ok(Err(last));
                }
                if refusal.heard(refused, Instant::now()) {
                    self.ui.warn(format!(
                        "'{}' answers with its host key, but has refused the key '{}' for {} s",
                        self.vm.name,
                        self.login.name,
                        refusal.patience.as_secs()
                    ));
                }
                if refused
                    && let Some(time) = refusal.for_good(Instant::now(), || self.no_more_keys_come(session))
                {
                    return Err(self.refused_for_good(time));
                }
                // In a short wait a few tries count for more.
                guest::rest(respite.min(refusal.patience / 6), deadline);
                Ok(Err(last))
            })
            .map_err(|error| match refusal.end(&error) {
                End::Refused => self.made_with_other_keys(session, error),
                End::Silent | End::AnotherKey => self.not_reached(error),
                End::Other => error,
            })?;
            let system = guest::system(&login)?;
            let said = match &system {
                System::Nixos => "SSH works; NixOS is running".to_owned(),
                System::Installer => "SSH works; the NixOS installer is running".to_owned(),
                System::Other(id) => format!("SSH works; {id} is running"),
            };
            Ok(((login, system), said))
        })
    }

    /// Whether cloud-init has put all keys in their place that it has: the VM's description says so, or its guest agent.
    fn no_more_keys_come(&self, session: &mut Session) -> bool {
        let said = world::existing(session, self.vm.vmid).and_then(|there| {
            if there.is_some_and(|(config, _)| settings::cloudinit_is_done(&config.settings)) {
                return Ok(true);
            }
            self.ask(
                session,
                Op::CloudInitEnded { vmid: self.vm.vmid },
                Deadline::secs(limit::AGENT_AGAIN + 30),
            )
        });
        said.unwrap_or_else(|error| {
            self.ui.detail(format!("whether cloud-init has ended is not known: {}", error.chain()));
            false
        })
    }

    /// To wait any longer for it would be in vain.
    fn refused_for_good(&self, time: Duration) -> Error {
        Error::unreachable(format!("'{}' does not let us in", self.vm.name)).now(format!(
            "it has refused the key for {} s, and cloud-init has done its part there: no other keys come",
            time.as_secs()
        ))
    }

    /// The VM is ours, and nobody gets in to it: it may be slow, or have to be made anew.
    fn not_reached(&self, error: Error) -> Error {
        error
            .hint(format!("`{}` shows what is on its screen", self.console()))
            .hint(format!("`{}` continues from here", self.again()))
            .hint(self.anew("or make it anew"))
    }

    fn anew(&self, words: &str) -> String {
        let destroy = again::provision_vm(&["destroy", self.vm.name.as_str()]);
        format!("{words}: {destroy} && {}", self.again())
    }

    /// It is the right machine and up, but lets nobody in: most likely it was made with other keys than today's.
    fn made_with_other_keys(&self, session: &mut Session, error: Error) -> Error {
        let ours = &self.login.name;
        let error =
            error.now(format!("it answers with its host key, and refuses the key '{ours}' all the time"));
        let config = world::existing(session, self.vm.vmid).ok().flatten().map(|(config, _)| config);
        let given = config.as_ref().and_then(|config| config.settings.get("sshkeys"));
        let error = match given.map(|keys| names_of_keys(keys)) {
            Some(names) if !names.is_empty() => {
                error.now(format!("VM {} was made with these keys: {}", self.vm.vmid, names.join(", ")))
            }
            _ => error,
        };
        error
            .hint("use the private half of one of these keys: put it into the agent, or name it with FLEET_IDENTITY")
            .hint(self.anew("or make it anew, with the keys that hosts.nix has now"))
    }

    /// Proves that NixOS runs, as the fleet user, with its own host key and name; gives its address now.
    pub(super) fn verify(
        &self,
        session: &mut Session,
        guest: &Guest<'_>,
        host_key: &str,
        old_key: Option<&str>,
    ) -> Result<IpAddr> {
        self.step(Step::Verify, "Verifying the new system", || {
            let deadline = Deadline::secs(self.cli.boot_limit.unwrap_or(limit::BOOT));
            let login = guest
                .wait_for_new_key(self.user.as_ref(), host_key, old_key, deadline)
                .map_err(|error| self.nobody_let_in(guest, host_key, old_key, error))?;
            let system = guest::system(&login)?;
            if system != System::Nixos {
                return Err(Error::failed(format!(
                    "'{}' answers with its key, but runs {system:?} and not NixOS",
                    self.vm.name
                )));
            }
            let hostname = guest::output(&login, "uname -n")?;
            let (hostname, wanted) = (hostname.trim(), self.vm.hostname.as_str());
            if hostname != wanted {
                return Err(Error::failed(format!(
                    "the new system calls itself '{hostname}', not '{wanted}'"
                ))
                .now("NixOS is installed on it: what is on its disk is not installed again")
                .hint(format!(
                    "set networking.hostName in hosts/{}/configuration.nix, then: {}",
                    self.vm.nixos_config,
                    self.switch(guest, self.user.as_ref())
                ))
                .hint(format!("and then, for what remains: {}", self.again())));
            }
            self.health(session, &login);
            let address = self.address(session)?;
            let said =
                format!("NixOS answers as {}@{hostname} with its own host key at {address}", self.user);
            Ok((address, said))
        })
    }

    /// What brings an installed system in line with its configuration, once that is mended.
    fn switch(&self, guest: &Guest<'_>, user: &str) -> Command {
        let host = guest.last.map_or_else(|| self.vm.name.to_string(), |address| address.to_string());
        let command = Command::new("nixos-rebuild").args(["switch", "--flake", self.flake]);
        let command = command.arg("--target-host").arg(format!("{user}@{host}"));
        if user == BOOTSTRAP_USER { command } else { command.arg("--use-remote-sudo") }
    }

    /// The fleet user did not get in within the time: was the machine there at all, and does it let root in?
    ///
    /// What ran before the reboot is told by its own host key, or, where the VM had got the new system's before, by what
    /// it says of itself.
    fn nobody_let_in(&self, guest: &Guest<'_>, host_key: &str, old_key: Option<&str>, error: Error) -> Error {
        if error.kind() != Kind::DeadlinePassed {
            return error;
        }
        let lets_in = if guest.shows(host_key) {
            let login = guest.log_in(BOOTSTRAP_USER, host_key, Deadline::secs(limit::AS_BEFORE));
            match login.and_then(|login| guest::system(&login)) {
                Ok(System::Nixos) => LetsIn::Root,
                Ok(System::Installer) => LetsIn::Before("the installer".to_owned()),
                Ok(System::Other(id)) => LetsIn::Before(id),
                Err(error) if error.is_login_refused() => LetsIn::Nobody,
                Err(error) => LetsIn::Untried(error),
            }
        } else if old_key.is_some_and(|old| guest.shows(old)) {
            LetsIn::Before("what ran before".to_owned())
        } else {
            return error.hint(format!("does it boot? `{}` shows what is on its screen", self.console()));
        };
        let mend = format!(
            "give users.users.{} in hosts/{}/ its openssh.authorizedKeys.keys",
            self.user, self.vm.nixos_config
        );
        let switch = self.switch(guest, BOOTSTRAP_USER);
        lets_in.told(error, (self.vm.name.as_str(), &self.again()), self.user.as_ref(), &mend, &switch)
    }

    /// Says what is not as it should be on a system that answers: units that failed, an agent that is not there.
    fn health(&self, session: &mut Session, login: &fleet_core::ssh::Session) {
        match guest::health(login, Deadline::secs(limit::SETTLE)) {
            Ok(Health::Running) => {}
            Ok(Health::Degraded(units)) => {
                self.ui.warn(format!("the system is degraded; units that failed: {}", units.join(", ")));
                self.ui.hint(format!("on the VM: systemctl status {}", units.join(" ")));
            }
            Ok(Health::Other(state)) => self.ui.warn(format!("the system is not up yet: {state}")),
            Err(error) => self.ui.detail(error.chain()),
        }
        let op = Op::HostKey { vmid: self.vm.vmid, timeout: limit::AGENT_AGAIN };
        let agent: Result<String> = self.ask(session, op, Deadline::secs(limit::AGENT_AGAIN + 30));
        if let Err(error) = agent {
            self.ui.detail(error.chain());
            self.ui.warn("the QEMU guest agent does not answer on the new system");
            self.ui.hint(format!(
                "set services.qemuGuest.enable in hosts/{}/configuration.nix",
                self.vm.nixos_config
            ));
        }
    }
}
