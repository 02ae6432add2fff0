//! Installing NixOS, and taking the VM into the fleet.

use std::{
    cell::{Cell, RefCell},
    net::IpAddr,
    path::Path,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use fleet_core::{Error, Kind, Result, deadline::Deadline, interrupt, ssh::Session};

use super::{
    Job, ended, limit,
    liveness::Liveness,
    said::Said,
    stage::{Stage, Wait},
};
use crate::{
    build::Source,
    guest::{self, Guest, System},
    host_key::{self, HostKey},
    install::{self, Installer, Phase},
    relay,
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
                let (stage, ran) = self.phase(installer, Phase::Kexec, guest, bootstrap_key);
                // nixos-anywhere checks no host key. kexec carries the keys over: before the new system's private key
                // is sent, the machine at the other end proves that it is still the same.
                login = match ran {
                    Ok(()) => guest.wait(BOOTSTRAP_USER, bootstrap_key, Deadline::secs(limit::SSH))?,
                    Err(error) => self.installer_after_all(guest, bootstrap_key, &stage, error)?,
                };
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

    /// A look of nixos-anywhere's that took too long ends it, although kexec works: the installer may run all the same,
    /// or be about to.
    fn installer_after_all(
        &self,
        guest: &Guest<'_>,
        key: &str,
        stage: &Stage,
        error: Error,
    ) -> Result<Session> {
        if error.kind() == Kind::Interrupted {
            return Err(error.now("its disk is as it was"));
        }
        // Where it has waited for that long already, one look is enough.
        let wait = if stage.announced() && stage.waited() < Duration::from_secs(limit::INSTALLER) {
            limit::INSTALLER.min(self.cli.stall_limit)
        } else {
            0
        };
        match guest.wait_for_installer(BOOTSTRAP_USER, key, Deadline::secs(wait)) {
            Ok(login) => {
                self.ui.warn(format!("{}; but the installer runs: going on", error.chain()));
                return Ok(login);
            }
            Err(other) if other.kind() == Kind::Interrupted || other.is_host_key_mismatch() => {
                return Err(other);
            }
            Err(other) => self.ui.detail(other.chain()),
        }
        let error = error.now("its disk is as it was");
        Err(match self.kexec {
            None if stage.fetching() => {
                error.hint("the VM gets the installer from github.com: where it can not, give --kexec FILE")
            }
            _ => error,
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
            let (stage, ran) = self.phase(installer, Phase::Install, guest, key);
            ran.map_err(|error| error.now(self.left_by_the_installer(&stage)))?;
            Ok(((), "NixOS is installed".to_owned()))
        })?;
        self.step(Step::Reboot, Phase::Reboot.title(), || {
            match self.phase(installer, Phase::Reboot, guest, key).1 {
                // It waits until nobody answers as root any more: a system that was quick, and lets root in, is
                // missed, and one look that took too long ends it. Whether NixOS runs is for the verification to find
                // out.
                Err(error) if error.kind() != Kind::Interrupted => {
                    self.ui.warn(error.chain());
                    self.reboot_ourselves(guest, key)?;
                }
                other => other?,
            }
            Ok(((), "Rebooting".to_owned()))
        })
    }

    /// What is true where the installation did not come to its end.
    fn left_by_the_installer(&self, stage: &Stage) -> String {
        let disk = if stage.formats() { "its disk is being made anew" } else { "its disk is as it was" };
        let known = self.journal.took().iter().any(|(step, _)| *step == Step::Integrate);
        let fleet = if known { "it is in the fleet" } else { "it is not in the fleet yet" };
        format!("VM {} runs the NixOS installer; {disk}; {fleet}", self.vm.vmid)
    }

    /// Has the installer reboot where it still answers.
    fn reboot_ourselves(&self, guest: &Guest<'_>, key: &str) -> Result<()> {
        let login = match guest.log_in(BOOTSTRAP_USER, key, Deadline::after(guest::TRY_LIMIT)) {
            Ok(login) => login,
            Err(error) if error.kind() == Kind::Interrupted => return Err(error),
            Err(error) => {
                self.ui.detail(error.chain());
                return Ok(());
            }
        };
        if guest::system(&login).is_ok_and(|system| system == System::Installer) {
            self.ui.say("  the installer still runs: it is told to reboot");
            // What becomes of it shows at the verification.
            if let Err(error) = guest::reboot(&login) {
                self.ui.detail(error.chain());
            }
        }
        Ok(())
    }

    /// Runs one phase of nixos-anywhere. Its output is shown with `--verbose`, and kept. It ends with its deadline,
    /// and before when it says nothing new and the machine does not answer, or when it waits in vain for what our own
    /// login shows. Gives how far it came, too.
    fn phase(
        &self,
        installer: &Installer,
        phase: Phase,
        guest: &Guest<'_>,
        key: &str,
    ) -> (Stage, Result<()>) {
        let stage = RefCell::new(Stage::new(Duration::from_secs(self.cli.stall_limit)));
        let ran = self.watched(installer, phase, guest, key, &stage);
        (stage.into_inner(), ran)
    }

    fn watched(
        &self,
        installer: &Installer,
        phase: Phase,
        guest: &Guest<'_>,
        key: &str,
        stage: &RefCell<Stage>,
    ) -> Result<()> {
        let command = installer.command(phase).tethered();
        // Its copy of the key that it logs in with must not reach a disk. What it builds may be too large for memory.
        let command = match installer.source {
            Source::Built(_) => command.env("TMPDIR", self.private.path()),
            _ => command,
        };
        self.journal.command(&command);
        self.ui.detail(command.to_string());
        let liveness = RefCell::new(Liveness::new(Duration::from_secs(self.cli.stall_limit)));
        let said = RefCell::new(Said::default());
        let on_line = |line: &str| {
            self.heard(line);
            said.borrow_mut().heard(&super::printable(line));
            liveness.borrow_mut().heard(line);
            stage.borrow_mut().heard(line);
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
            let due = stage.borrow_mut().due();
            if let Some(wait) = due {
                self.in_vain(wait, guest, key, &stage.borrow())?;
            }
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
            .hint(format!("`{}` shows what is on its screen", self.console())))
        };
        command
            .run_watched(Deadline::secs(phase.limit()), on_line, watch)
            .and_then(|output| ended::well(&output, &said.borrow()))
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

    /// An error when nixos-anywhere waits for what will not come, as far as our own login tells.
    fn in_vain(&self, wait: Wait, guest: &Guest<'_>, key: &str, stage: &Stage) -> Result<()> {
        let (name, seconds) = (&self.vm.name, stage.waited().as_secs());
        let login = match guest.log_in(BOOTSTRAP_USER, key, Deadline::after(guest::TRY_LIMIT)) {
            Ok(login) => login,
            Err(error) if error.kind() == Kind::Interrupted => return Err(error),
            Err(_) => return Ok(()),
        };
        let error = match (wait, guest::system(&login)) {
            (Wait::Keys, Ok(_)) => Error::failed(format!(
                "nixos-anywhere has tried for {seconds} s to log in to '{name}', where our own login works"
            ))
            .now(format!("it said last: {}", stage.last()))
            .hint(
                "it runs ssh-copy-id of this machine's OpenSSH, which needs a HOME whose .ssh can be written",
            ),
            (Wait::Boot, Ok(System::Installer)) => Error::failed(format!(
                "the installer runs on '{name}', but nixos-anywhere has not noticed it for {seconds} s"
            )),
            (Wait::Boot, Ok(system)) => Error::failed(format!(
                "kexec did not take: {seconds} s after the installer was to boot, {} still runs on '{name}'",
                match system {
                    System::Other(id) => id,
                    _ => "NixOS".to_owned(),
                }
            ))
            .hint(format!(
                "on the VM, `dmesg` and `journalctl -b` say why; `{}` shows its screen",
                self.console()
            ))
            .hint("try again, or with --kexec and the archive of another release of nixos-images"),
            // Releases before mid-2025 reboot in the installation alone, and then wait for it in this phase.
            (Wait::Reboot, Ok(System::Installer)) => Error::failed(format!(
                "the installer still runs on '{name}' {seconds} s after nixos-anywhere was to reboot it"
            )),
            (Wait::Reboot, Ok(_)) | (_, Err(_)) => return Ok(()),
        };
        Err(error.now("nixos-anywhere and what it started were stopped"))
    }

    /// Runs `post-provision-vm`. `made` says that this host key was made or recorded by us for this very VM: it
    /// replaces the one that an earlier VM of the name had; `differs` that the VM is not what its definition says.
    pub(super) fn integrate(&self, host_key: &Path, made: bool, differs: bool, now: &str) -> Result<()> {
        let name = &self.vm.name;
        let log = self.journal.output_file();
        let partly = |why: Error| {
            let state = match why.kind() {
                Kind::PartlyDone => "what takes it into the fleet is not finished",
                _ if self.recorded.is_some() => "its entries in the fleet are as they were",
                _ => "it is not in the fleet yet",
            };
            let error =
                Error::partly_done(format!("VM '{name}' runs, but {state}: {}", why.chain())).now(now);
            let error = why.facts().iter().fold(error, Error::now);
            why.hints()
                .iter()
                .fold(error, Error::hint)
                .hint(format!("mend what post-provision-vm says, then run `{}` again", self.again()))
                .hint(format!("all that it said: {}", log.display()))
        };
        // Whole files were put in place or none; what it had begun the next run finishes.
        let stopped = || {
            Error::interrupted("stopped by the user while post-provision-vm was at work")
                .now(now)
                .now("what it had begun with the fleet's files is finished by the next run")
        };
        let turn = INTEGRATION.lock().unwrap_or_else(PoisonError::into_inner);
        let outcome = self.step(Step::Integrate, "Integrating with the fleet", || {
            let command = self.tools.integrate_telling(name, host_key, made, differs);
            let ended = relay::run(&command, limit::INTEGRATE, self.journal, self.ui).map_err(|e| match e
                .kind()
            {
                Kind::Interrupted => stopped(),
                _ => partly(e.context("post-provision-vm did not end")),
            })?;
            match ended.failed() {
                Some(error) if interrupt::asked() => Err(error.facts().iter().fold(stopped(), Error::now)),
                Some(error) => Err(partly(error)),
                None => Ok((
                    (),
                    match ended.not_committed() {
                        Some(why) => format!("In the fleet, not committed: {why}"),
                        None => "In the fleet".to_owned(),
                    },
                )),
            }
        });
        drop(turn);
        outcome
    }
}
