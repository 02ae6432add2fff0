//! Installing NixOS, and taking the VM into the fleet.

use std::{
    cell::{Cell, RefCell},
    net::IpAddr,
    path::Path,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use fleet_core::{
    Error, Kind, Result,
    child::{self, Output},
    deadline::Deadline,
    interrupt,
    ssh::Session,
};

use super::{Job, limit, liveness::Liveness};
use crate::{
    build::Source,
    guest::{self, Guest, System},
    host_key::{self, HostKey},
    install::{self, Installer, Phase},
    settings::BOOTSTRAP_USER,
    steps::Step,
};

/// File name of the private key that nixos-anywhere logs in with.
pub const INSTALLER_KEY: &str = "installer-key";

/// One repository, one terminal for the passphrase of a signing key: one integration at a time.
static INTEGRATION: Mutex<()> = Mutex::new(());

impl Job<'_> {
    /// The installer's settings, and the directory that must stay as long as they are used.
    pub(super) fn installer(
        &self,
        host_key: &HostKey,
        last: IpAddr,
        source: Source,
    ) -> Result<(Installer, tempfile::TempDir)> {
        let scripts = tempfile::tempdir()
            .map_err(|e| Error::failed("can not make a temporary directory").caused_by(e))?;
        let installer = Installer {
            program: self.tools.installer()?,
            knows: self.tools.installer_knows(),
            flake: self.flake.to_owned(),
            source,
            kexec: self.kexec.map(str::to_owned),
            target: install::target_of(&self.vm.name),
            identity: self.private.path().join(INSTALLER_KEY),
            proxy: install::proxy_script(&self.tools.connect(self.vm.vmid, Some(last)), scripts.path())?,
            extra_files: host_key.extra_files().to_owned(),
        };
        Ok((installer, scripts))
    }

    /// Boots the installer, unless it runs already, and proves that it is still the same machine. From the login on
    /// what runs there now it comes to one on the installer.
    pub(super) fn start_installer(
        &self,
        installer: &Installer,
        guest: &Guest<'_>,
        (login, system): (Session, &System),
        bootstrap_key: &str,
    ) -> Result<Session> {
        self.step(Step::Kexec, Phase::Kexec.title(), || {
            let mut login = self.admit_installer(guest, login, bootstrap_key)?;
            if *system != System::Installer {
                let home = std::env::var("HOME").unwrap_or_default();
                if let Err(error) = guest::link_kexec(&login, &home) {
                    // Most of them do without.
                    self.ui.detail(error.chain());
                }
                drop(login);
                self.phase(installer, Phase::Kexec, guest, bootstrap_key).map_err(|error| {
                    let error = error.now("its disk is as it was");
                    match self.kexec {
                        Some(_) => error,
                        None if error.kind() == Kind::Interrupted => error,
                        None => error.hint(
                            "the VM gets the installer from github.com: where it can not, give --kexec FILE",
                        ),
                    }
                })?;
                // nixos-anywhere checks no host key. kexec carries the keys over: before the new system's private key
                // is sent, the machine at the other end proves that it is still the same.
                login = guest.wait(BOOTSTRAP_USER, bootstrap_key, Deadline::secs(limit::SSH))?;
            }
            if guest::system(&login)? != System::Installer {
                return Err(Error::failed(format!(
                    "'{}' answers, but the NixOS installer does not run on it",
                    self.vm.name
                ))
                .hint(format!("what nixos-anywhere said: {}", self.journal.output_file().display())));
            }
            Ok((login, "The NixOS installer runs".to_owned()))
        })
    }

    /// nixos-anywhere gets a key pair of its own, made for this run and wiped after it: it can not ask for a
    /// passphrase where it runs, and does not use an agent. kexec carries its public half over, and the
    /// installation leaves nothing of it.
    ///
    /// The login that there is does, unless it died over the build, or is not root's.
    fn admit_installer(&self, guest: &Guest<'_>, login: Session, bootstrap_key: &str) -> Result<Session> {
        let (private, public) = host_key::pair(&format!("install-{}", self.vm.name))?;
        self.journal.hide(&private);
        self.private.write(INSTALLER_KEY, private.as_bytes(), 0o600)?;
        if guest::authorize(&login, &public).is_ok() {
            return Ok(login);
        }
        drop(login);
        let login = guest.wait(BOOTSTRAP_USER, bootstrap_key, Deadline::secs(limit::SSH))?;
        guest::authorize(&login, &public)?;
        Ok(login)
    }

    pub(super) fn install(
        &self,
        node: &mut fleet_core::protocol::Session,
        installer: &Installer,
        (guest, login): (&Guest<'_>, Session),
        key: &str,
    ) -> Result<()> {
        self.step(Step::Install, Phase::Install.title(), || {
            // Before the first byte of its disk changes.
            self.cloudinit_done(node)?;
            // Minutes may have passed since the installer proved itself: it still answers there, or proves itself once
            // more, now that the key is sent to it.
            if guest::system(&login).is_err() {
                guest.wait(BOOTSTRAP_USER, key, Deadline::secs(limit::SSH))?;
            }
            drop(login);
            self.phase(installer, Phase::Install, guest, key)?;
            Ok(((), "NixOS is installed".to_owned()))
        })?;
        self.step(Step::Reboot, Phase::Reboot.title(), || {
            match self.phase(installer, Phase::Reboot, guest, key) {
                // It waits until nobody answers as root any more: a system that was quick, and lets root in, is
                // missed. Whether NixOS runs is for the verification to find out.
                Err(error) if error.kind() == Kind::DeadlinePassed => self.ui.warn(error.chain()),
                other => other?,
            }
            Ok(((), "Rebooting".to_owned()))
        })
    }

    /// Runs one phase of nixos-anywhere. Its output is shown with `--verbose`, and kept. It ends with its deadline,
    /// and before when it says nothing new and the machine does not answer.
    fn phase(&self, installer: &Installer, phase: Phase, guest: &Guest<'_>, key: &str) -> Result<()> {
        let command = installer.command(phase).tethered();
        self.journal.command(&command);
        self.ui.detail(command.to_string());
        let liveness = RefCell::new(Liveness::new(Duration::from_secs(self.cli.stall_limit)));
        let on_line = |line: &str| {
            self.journal.output(line);
            self.ui.detail(line);
            liveness.borrow_mut().heard(line);
        };
        let told = Cell::new(false);
        let answers = || {
            let answers = guest.answers(key);
            if answers && !told.replace(true) {
                self.ui.say(format!(
                    "  nothing new for {} s, but the VM answers: a long copy says nothing (given up after {} min in all)",
                    self.cli.stall_limit,
                    phase.limit() / 60
                ));
            }
            answers
        };
        let watch = || {
            if liveness.borrow_mut().goes_on(answers) {
                return Ok(());
            }
            Err(Error::new(
                Kind::DeadlinePassed,
                format!(
                    "nothing new was said for {} s, and '{}' does not answer",
                    self.cli.stall_limit, self.vm.name
                ),
            )
            .now("nixos-anywhere and what it started were stopped")
            .hint(format!("`proxmox-ops console {}` shows what is on its screen", self.vm.name)))
        };
        command
            .run_watched(Deadline::secs(phase.limit()), on_line, watch)
            .and_then(Output::checked)
            .map(drop)
            .map_err(|error| {
                if error.kind() == Kind::Interrupted {
                    return Error::interrupted(format!("stopped by the user: {}", phase.title()))
                        .now("nixos-anywhere and what it started were stopped");
                }
                error
                    .context(phase.title())
                    .hint(format!("all that it said: {}", self.journal.output_file().display()))
            })
    }

    /// Runs `post-provision-vm`. `made` says that this host key was made or recorded by us for this very VM: it
    /// replaces the one that an earlier VM of the name had.
    pub(super) fn integrate(&self, host_key: &Path, made: bool, now: &str) -> Result<()> {
        let name = &self.vm.name;
        let partly = |why: &str| {
            Error::partly_done(format!("VM '{name}' runs, but it is not in the fleet yet: {why}"))
                .now(now)
                .hint(format!("mend what post-provision-vm says, then run `provision-vm {name}` again"))
        };
        // Whole files were put in place or none; what it had begun the next run finishes.
        let stopped = || {
            Error::interrupted("stopped by the user while post-provision-vm was at work")
                .now(now)
                .now("what it had begun with the fleet's files is finished by the next run")
        };
        let turn = INTEGRATION.lock().unwrap_or_else(PoisonError::into_inner);
        let outcome = self.step(Step::Integrate, "Integrating with the fleet", || {
            let command = self.tools.integrate(name, host_key, made);
            self.journal.command(&command);
            let output = command
                .run(Deadline::secs(limit::INTEGRATE), |line| {
                    self.journal.output(line);
                    self.ui.say(format!("  {line}"));
                })
                .map_err(|e| match e.kind() {
                    Kind::Interrupted => stopped(),
                    _ => partly("post-provision-vm did not end").caused_by(e),
                })?;
            if !output.success() && interrupt::asked() {
                return Err(stopped());
            }
            if !output.success() {
                return Err(partly(&format!("post-provision-vm {}", child::describe(output.status))));
            }
            Ok(((), "In the fleet".to_owned()))
        });
        drop(turn);
        outcome
    }
}
