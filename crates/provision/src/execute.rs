//! Doing what the plan says, step by step. Every step first looks whether it is already done.

mod build;
mod ended;
mod farewell;
mod image;
mod image_dir;
mod liveness;
mod nixos;
mod node;
mod reach;
mod refused;
mod said;
mod signs;
mod stage;
mod undo;

use std::{
    cell::Cell,
    net::IpAddr,
    sync::Mutex,
    time::{Duration, Instant},
};

use fleet_core::{
    Error, Result,
    deadline::Deadline,
    definitions::{Install, ManagedVm},
    interrupt,
    protocol::{Op, Session},
    types::UserName,
    ui::Ui,
};
use serde::de::DeserializeOwned;

pub use self::{nixos::INSTALLER_KEY, undo::failed};
use crate::{
    again,
    build::Closure,
    cli::{Cli, Integrate},
    guest::System,
    host_key::{HostKey, PrivateDir},
    journal::{self, Journal},
    login::Login,
    plan::{self, Plan},
    state::State,
    steps::Step,
    tools::Tools,
};

/// Limits of single steps, in seconds. A full clone copies the whole template; a first boot with cloud-init
/// takes a minute on a busy host.
pub(crate) mod limit {
    pub(super) const CLONE: u64 = 60 * 60;
    pub(super) const IMAGE: u64 = 2 * 60 * 60;
    pub(super) const CHANGE: u64 = 5 * 60;
    pub(super) const ADDRESS: u64 = 5 * 60;
    pub(super) const AGENT: u64 = 3 * 60;
    pub(crate) const AGENT_AGAIN: u64 = 10;
    pub(crate) const AS_BEFORE: u64 = 6;
    pub(super) const SSH: u64 = 5 * 60;
    pub(super) const BOOT: u64 = 10 * 60;
    pub(super) const INSTALLER: u64 = 2 * 60;
    pub(super) const SETTLE: u64 = 60;
    pub(super) const INTEGRATE: u64 = 15 * 60;

    /// Sending so many bytes to the node: an hour, and more for what takes longer at 2 Mbit/s. That the line is dead
    /// is noticed long before.
    pub(super) fn sending(bytes: u64) -> u64 {
        CLONE + bytes / 250_000
    }
}

/// One VM's run: what it needs all the way.
pub struct Job<'a> {
    /// The command line.
    pub cli: &'a Cli,
    /// Where messages go.
    pub ui: Ui,
    /// What is written down.
    pub journal: &'a Journal,
    /// The other programs.
    pub tools: &'a Tools,
    /// The definition.
    pub vm: &'a ManagedVm,
    /// Keys that may log in.
    pub keys: &'a [String],
    /// The key we log in with.
    pub login: &'a Login,
    /// Where what must not reach a disk is kept; gone after the run.
    pub private: &'a PrivateDir,
    /// Who logs in on the finished VM.
    pub user: &'a UserName,
    /// `DIR#CONFIG`.
    pub flake: &'a str,
    /// The system, while it is built and after.
    pub closure: &'a Mutex<Closure>,
    /// What is known of the system on it.
    pub system: Cell<Known>,
    /// What `--kexec` named.
    pub kexec: Option<&'a str>,
    /// The host key that hosts.nix has for it.
    pub recorded: Option<&'a str>,
    /// What a program said last in the step that goes on.
    pub said: Mutex<String>,
}

/// What is known of the system that runs on the VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// cloud-init has done its part: NixOS may be on it.
    MayBeNixos,
    /// Nothing of it was seen, and cloud-init has its part to do.
    Unseen,
    /// It is not NixOS: this run made the VM, or has seen what runs on it.
    NotNixos,
}

/// What a run left.
#[derive(Debug)]
pub struct Outcome {
    /// The VM's address at the end.
    pub address: IpAddr,
    /// Whether NixOS is on it.
    pub installed: bool,
    /// Whether it was taken into the fleet.
    pub integrated: bool,
}

/// Carries the plan out.
pub fn run(job: &Job<'_>, session: &mut Session, plan: Plan) -> Result<Outcome> {
    if job.vm.install == Install::Image {
        return job.by_image(session, plan, Instant::now());
    }
    let outcome = job.all_the_way(session, plan, Instant::now());
    job.remove_documents(session);
    outcome
}

impl Job<'_> {
    fn all_the_way(&self, session: &mut Session, plan: Plan, began: Instant) -> Result<Outcome> {
        let (marker, differs) = (plan.marker().clone(), plan.differs);
        let mut state = State::load(&marker);
        let given = self.prepare(session, plan, &mut state)?;
        let address = self.find_address(session)?;
        let guest = self.guest(Some(address));
        let known = self.host_keys(session, &guest, &state, given.as_ref())?;
        let (login, system) = self.wait_for_ssh(session, &guest, &known).map_err(|error| match &given {
            Some(_) if error.is_host_key_mismatch() => error
                .now("the key was given to it through cloud-init, before it was started")
                .hint("`cloud-init status --long` in the VM tells whether the image's cloud-init took its user-data"),
            _ => error,
        })?;
        let bootstrap_key = login.host_key().to_owned();
        state.remember(&marker, &bootstrap_key)?;
        if system != System::Nixos {
            self.system.set(Known::NotNixos);
        }
        if self.stops_before_install() && system != System::Nixos {
            // From here on it is a person's, who may install NixOS on it.
            self.cloudinit_done(session)?;
            self.say_what_remains(address);
            return Ok(Outcome { address, installed: false, integrated: false });
        }
        let mut integrated = false;
        let host_key = if system == System::Nixos {
            [Step::Build, Step::Kexec, Step::Install, Step::Reboot]
                .into_iter()
                .for_each(|step| self.already(step));
            self.ui.done("NixOS is installed already");
            None
        } else {
            // The pair that cloud-init gave it stays its own: kexec carries it over, and NixOS gets it too.
            let host_key = match given {
                Some(given) => given,
                None => HostKey::generate(&self.vm.name, self.private)?,
            };
            state.remember(&marker, host_key.public())?;
            self.journal.hide_files(host_key.extra_files());
            let source = match self.built()? {
                Some(source) => source,
                None => {
                    self.integrate(host_key.public_file(), true, false, "its bootstrap system runs on it")?;
                    integrated = true;
                    self.built_again(None)?
                }
            };
            let (mut installer, _scripts) = self.installer(&host_key, address, source)?;
            let login = self.start_installer(&installer, &guest, (login, &system), &bootstrap_key)?;
            if !integrated && self.cli.integrate() == Integrate::Before {
                self.integrate(host_key.public_file(), true, false, "the installer runs on it")?;
                integrated = true;
                installer.source = self.built_again(Some(installer.source))?;
            }
            self.install(session, &installer, (&guest, login), &bootstrap_key)?;
            Some(host_key)
        };
        let key_line = host_key.as_ref().map_or(bootstrap_key.as_str(), HostKey::public);
        let old_key = host_key.as_ref().map(|_| bootstrap_key.as_str());
        let address = self.verify(session, &guest, key_line, old_key)?;
        if let Some(fixed) = plan::fixed_address(self.vm).filter(|fixed| *fixed != address) {
            self.ui.warn(format!(
                "the definition says {fixed}, but the new system answers at {address}: give hosts/{}/ the fixed address",
                self.vm.nixos_config
            ));
        }
        self.detach_cloudinit(session)?;
        if !integrated && self.cli.integrate() != Integrate::Never {
            let public_file = match &host_key {
                Some(key) => key.public_file().to_owned(),
                None => self.private.write("host_key.pub", format!("{key_line}\n").as_bytes(), 0o644)?,
            };
            let now = format!("NixOS answers at {address}");
            self.integrate(&public_file, state.knows(key_line), differs, &now)?;
            integrated = true;
        }
        self.farewell(address, began.elapsed());
        Ok(Outcome { address, installed: true, integrated })
    }

    /// The command of this run, for its VM.
    fn again(&self) -> String {
        self.cli.again(&[self.vm.name.as_str()])
    }

    fn console(&self) -> String {
        again::proxmox_ops(&["console", self.vm.name.as_str()])
    }

    fn stops_before_install(&self) -> bool {
        self.cli.no_install || self.vm.install == Install::None
    }

    /// Does one step: told before and after, and written down. `work` gives its value and what there is to say
    /// of it.
    fn step<T>(
        &self,
        step: Step,
        title: impl AsRef<str>,
        work: impl FnOnce() -> Result<(T, String)>,
    ) -> Result<T> {
        interrupt::check()?;
        // A VM on which NixOS is needs no build.
        if step <= Step::Ssh && self.system.get() != Known::MayBeNixos {
            self.build_so_far(step)?;
        }
        self.ui.step(format!("{}...", title.as_ref()));
        let (value, said, took) = match step {
            // What runs there may ask for the passphrase of a signing key.
            Step::Integrate => self.journal.step(step, work),
            _ => self.with_signs(|| self.journal.step(step, work)),
        }?;
        self.ui.done(format!("{said} ({:.1} s)", took.as_secs_f64()));
        Ok(value)
    }

    /// A step that an earlier run did.
    fn already(&self, step: Step) {
        self.journal.ended(step, journal::Outcome::Already, Duration::ZERO, "");
    }

    /// Asks the node; the request and the tasks that it starts are written down.
    fn ask<T: DeserializeOwned>(&self, session: &mut Session, op: Op, deadline: Deadline) -> Result<T> {
        self.journal.ask(session, op, deadline, self.ui)
    }

    /// What a program says that has a machine's console in it, or that anybody's build may: written down, and shown with
    /// `--verbose`.
    fn heard(&self, line: &str) {
        let line = printable(line);
        self.said_last(&line);
        self.journal.output(&line);
        self.ui.detail(line);
    }

    /// As [`Job::ask`], for a change.
    fn change(&self, session: &mut Session, op: Op, seconds: u64) -> Result<()> {
        self.ask(session, op, Deadline::secs(seconds))
    }
}

/// A line without what a terminal would obey: the sequences that begin with an escape, and control characters but tabs.
pub(crate) fn printable(line: &str) -> String {
    let (mut clean, mut rest) = (String::new(), line.chars().peekable());
    while let Some(c) = rest.next() {
        if c == '\u{1b}' {
            // ECMA-48: `[`, parameters, and a final byte; of the others the one that follows.
            if rest.next_if_eq(&'[').is_some() {
                while rest.next_if(|c| !('@'..='~').contains(c)).is_some() {}
            }
            rest.next();
        } else if c == '\t' || !c.is_control() {
            clean.push(c);
        }
    }
    clean
}

fn fingerprint(key: &str) -> Result<String> {
    ssh_key::PublicKey::from_openssh(key)
        .map(|key| key.fingerprint(ssh_key::HashAlg::Sha256).to_string())
        .map_err(|e| Error::failed(format!("the VM's host key can not be read: {key}")).caused_by(e))
}

#[cfg(test)]
mod tests {
    use super::printable;

    #[test]
    fn a_console_does_not_reach_the_terminal() {
        assert_eq!(
            printable("\u{1b}[2J\u{1b}[01;31mBdsDxe\u{1b}c: loading\r\tBoot\u{7}\u{9b}"),
            "BdsDxe: loading\tBoot"
        );
        assert_eq!(printable("copying 2 paths…"), "copying 2 paths…");
        assert_eq!(printable("\u{1b}"), "");
    }
}
