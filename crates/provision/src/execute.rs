//! Doing what the plan says. Every step first looks whether it is already done.

use std::{
    net::IpAddr,
    path::Path,
    time::{Duration, Instant},
};

use fleet_core::{
    Error, Kind, Result,
    deadline::{Deadline, poll},
    definitions::ManagedVm,
    interrupt,
    protocol::{Address, Marker, Op, Session, VmConfig},
    types::UserName,
    ui::Ui,
};

use crate::{
    cli::{Cli, Integrate},
    guest::{self, Guest, System},
    host_key::{HostKey, PrivateDir},
    install::{self, Installer, Phase},
    plan::{self, Origin, Plan},
    settings::{self, BOOTSTRAP_USER},
    state::State,
    tools::Tools,
    world,
};

/// Limits of single steps, in seconds. A full clone copies the whole template; a first boot with cloud-init
/// takes a minute on a busy host.
mod limit {
    pub(super) const CLONE: u64 = 60 * 60;
    pub(super) const CHANGE: u64 = 5 * 60;
    pub(super) const ADDRESS: u64 = 5 * 60;
    pub(super) const AGENT: u64 = 3 * 60;
    pub(super) const AGENT_AGAIN: u64 = 10;
    pub(super) const SSH: u64 = 5 * 60;
    pub(super) const BOOT: u64 = 10 * 60;
    pub(super) const INTEGRATE: u64 = 15 * 60;
}

/// One VM's run: what it needs all the way.
pub struct Job<'a> {
    /// The command line.
    pub cli: &'a Cli,
    /// Where messages go.
    pub ui: Ui,
    /// The other programs.
    pub tools: &'a Tools,
    /// The definition.
    pub vm: &'a ManagedVm,
    /// Keys that may log in.
    pub keys: &'a [String],
    /// The private key we log in with.
    pub identity: &'a Path,
    /// Who logs in on the finished VM.
    pub user: &'a UserName,
    /// `DIR#CONFIG`.
    pub flake: &'a str,
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
    let started = Instant::now();
    let marker = plan.marker().clone();
    let mut state = State::load(&marker);
    prepare(job, session, plan).map_err(|e| again(job, e))?;
    let address = job.find_address(session).map_err(|e| again(job, e))?;
    let guest = job.guest(address);
    let known = job.host_keys(session, &state).map_err(|e| again(job, e))?;
    let (system, bootstrap_key) = job.wait_for_ssh(&guest, &known).map_err(|e| again(job, e))?;
    state.remember(&marker, &bootstrap_key)?;
    if job.stops_before_install() && system != System::Nixos {
        job.say_what_remains(address);
        return Ok(Outcome { address, installed: false, integrated: false });
    }
    let private = PrivateDir::new()?;
    let mut integrated = false;
    let host_key = match system {
        System::Nixos => {
            job.ui.done("NixOS is installed already");
            None
        }
        System::Installer | System::Other(_) => {
            let host_key = HostKey::generate(&job.vm.name, &private)?;
            state.remember(&marker, host_key.public())?;
            let installer = job.installer(&host_key, address)?;
            let started = || job.start_installer(&installer.0, &guest, &system, &bootstrap_key);
            started().map_err(|e| again(job, e))?;
            if job.cli.integrate() == Integrate::Before {
                job.integrate(host_key.public_file(), true, "the installer runs on it")?;
                integrated = true;
            }
            job.install(&installer.0).map_err(|e| again(job, e))?;
            Some(host_key)
        }
    };
    let key_line = host_key.as_ref().map_or(bootstrap_key.as_str(), HostKey::public);
    let old_key = host_key.as_ref().map(|_| bootstrap_key.as_str());
    job.verify(&guest, key_line, old_key).map_err(|e| again(job, e))?;
    let address = job.find_address(session).map_err(|e| again(job, e))?;
    if let Some(fixed) = plan::fixed_address(job.vm).filter(|fixed| *fixed != address) {
        job.ui.warn(format!(
            "the definition says {fixed}, but the new system answers at {address}: give hosts/{}/ the fixed address",
            job.vm.nixos_config
        ));
    }
    job.detach_cloudinit(session)?;
    let public_file = match &host_key {
        Some(key) => key.public_file().to_owned(),
        None => private.write("host_key.pub", format!("{key_line}\n").as_bytes(), 0o644)?,
    };
    if !integrated && job.cli.integrate() != Integrate::Never {
        job.integrate(&public_file, state.knows(key_line), &format!("NixOS answers at {address}"))?;
        integrated = true;
    }
    job.farewell(address, started.elapsed());
    Ok(Outcome { address, installed: true, integrated })
}

/// Everything up to the started VM.
fn prepare(job: &Job<'_>, session: &mut Session, plan: Plan) -> Result<()> {
    let (vm, ui) = (job.vm, job.ui);
    if let Origin::Clone(request) = plan.origin {
        ui.step(format!("Cloning template {} to VM {}...", request.template, vm.vmid));
        let marker = request.marker.clone();
        timed(ui, "VM cloned", || {
            let answer: Result<()> =
                session.ask(Op::Clone(request), Deadline::secs(limit::CLONE), |line| ui.detail(line));
            answer.or_else(|error| is_cloned(session, vm, &marker, error))
        })?;
    }
    interrupt::check()?;
    let (config, status) = world::existing(session, vm.vmid)?.ok_or_else(|| {
        Error::failed(format!("VM {} is gone", vm.vmid)).hint("`proxmox-ops list` shows what is there")
    })?;
    owned(vm, &config)?;
    let running = status.status == "running";
    if running && is_nixos(job, session)? {
        // Its cloud-init settings must never change again: they would make it a new instance.
        return Ok(());
    }
    let changes = settings::changes(vm, job.keys, &config.settings);
    if !changes.is_empty() {
        ui.step("Configuring resources and networking...");
        timed(ui, "VM configured", || {
            let op = Op::Configure { vmid: vm.vmid, settings: changes, delete: Vec::new() };
            session.ask::<()>(op, Deadline::secs(limit::CHANGE), |line| ui.detail(line))
        })?;
    }
    interrupt::check()?;
    let (growth, warning) = plan::growth(vm, &config.settings);
    if let Some(warning) = warning {
        ui.warn(warning);
    }
    if let Some((disk, size)) = growth {
        ui.step(format!("Growing {disk} to {size}..."));
        timed(ui, "Disk resized", || {
            session.ask::<()>(
                Op::Resize { vmid: vm.vmid, disk, size },
                Deadline::secs(limit::CHANGE),
                |line| ui.detail(line),
            )
        })?;
    }
    interrupt::check()?;
    if !running {
        ui.step("Starting VM...");
        timed(ui, "VM started", || {
            session
                .ask::<()>(Op::Start { vmid: vm.vmid }, Deadline::secs(limit::CHANGE), |line| ui.detail(line))
        })?;
    }
    interrupt::check()
}

/// A clone whose answer was lost: is the VM there, with the marker of this very request?
fn is_cloned(session: &mut Session, vm: &ManagedVm, marker: &Marker, error: Error) -> Result<()> {
    if error.kind() != Kind::OutcomeUnknown {
        return Err(error);
    }
    match world::existing(session, vm.vmid) {
        Ok(Some((config, _))) if config.marker.as_ref() == Some(marker) => Ok(()),
        _ => Err(error),
    }
}

fn owned(vm: &ManagedVm, config: &VmConfig) -> Result<()> {
    match &config.marker {
        Some(marker) if marker.name == vm.name && marker.vmid == vm.vmid => Ok(()),
        _ => Err(Error::conflict(format!("VM {} does not carry the mark of '{}'", vm.vmid, vm.name))
            .now("it was not changed")
            .hint(format!("`proxmox-ops config {}` shows what it is", vm.vmid))),
    }
}

/// Waits until a clone that an earlier run started is written.
pub fn wait_for_clone(session: &mut Session, vm: &ManagedVm, ui: Ui) -> Result<()> {
    ui.step(format!("VM {} is being cloned by an earlier run: waiting for it...", vm.vmid));
    let left_over = |error: Error| {
        error
            .now(format!("VM {} is still locked by a clone", vm.vmid))
            .hint("`pvenode task list` on the node shows whether a clone still runs; if none does, the lock is a leftover")
            .hint(format!("then look at the VM, and remove what is left of it: `qm unlock {0}`, `qm destroy {0}`", vm.vmid))
    };
    poll(Deadline::secs(limit::CLONE), format_args!("the clone of VM {}", vm.vmid), || {
        Ok(match world::existing(session, vm.vmid)? {
            Some((config, status)) if status.lock.is_some() || config.settings.contains_key("lock") => {
                Err("it is still locked".to_owned())
            }
            _ => Ok(()),
        })
    })
    .map_err(left_over)?;
    ui.done("The clone is written");
    Ok(())
}

/// Whether the running VM is NixOS already, as far as can be told quickly.
fn is_nixos(job: &Job<'_>, session: &mut Session) -> Result<bool> {
    let quick = Deadline::secs(15);
    let Ok(key) = session.ask::<String>(Op::HostKey { vmid: job.vm.vmid, timeout: 10 }, quick, |_| {}) else {
        return Ok(false);
    };
    for user in [job.user.as_ref(), BOOTSTRAP_USER] {
        match job.guest_anywhere().log_in(user, &key, quick) {
            Ok(login) => return Ok(guest::system(&login)? == System::Nixos),
            Err(error) if error.is_host_key_mismatch() => return Err(error),
            Err(_) => {}
        }
    }
    Ok(false)
}

impl Job<'_> {
    fn stops_before_install(&self) -> bool {
        self.cli.no_install || self.vm.install == fleet_core::definitions::Install::None
    }

    fn guest(&self, last: IpAddr) -> Guest<'_> {
        Guest { last: Some(last), ..self.guest_anywhere() }
    }

    fn guest_anywhere(&self) -> Guest<'_> {
        Guest {
            last: plan::fixed_address(self.vm),
            tools: self.tools,
            vmid: self.vm.vmid,
            name: self.vm.name.as_str(),
            identity: self.identity,
            ui: self.ui,
        }
    }

    fn find_address(&self, session: &mut Session) -> Result<IpAddr> {
        self.ui.step("Finding the VM's address...");
        let op = Op::Address { vmid: self.vm.vmid, timeout: limit::ADDRESS };
        let deadline = Deadline::secs(limit::ADDRESS + 30);
        let answer: Address = session.ask(op, deadline, |line| self.ui.detail(line))?;
        self.ui.done(format!("Address: {}", answer.address));
        Ok(answer.address)
    }

    /// The host keys that the VM may show, the likeliest first: the one that the guest agent reads now, and
    /// those that an earlier run read or made (the installer has no agent).
    fn host_keys(&self, session: &mut Session, state: &State) -> Result<Vec<String>> {
        self.ui.step("Reading the VM's host key through the hypervisor...");
        let timeout = if state.host_keys.is_empty() { limit::AGENT } else { limit::AGENT_AGAIN };
        let op = Op::HostKey { vmid: self.vm.vmid, timeout };
        let answer: Result<String> =
            session.ask(op, Deadline::secs(timeout + 30), |line| self.ui.detail(line));
        let mut keys = state.host_keys.clone();
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
        self.ui.done(format!("Host key: {}", fingerprint(&keys[0])?));
        Ok(keys)
    }

    /// Waits for a login that works: as root on the bootstrap system and the installer, as the fleet user on
    /// NixOS. Gives what runs there and the host key that it showed.
    fn wait_for_ssh(&self, guest: &Guest<'_>, known: &[String]) -> Result<(System, String)> {
        self.ui.step("Waiting for SSH...");
        let deadline = Deadline::secs(limit::SSH);
        let session = poll(deadline, format_args!("SSH on '{}'", self.vm.name), || {
            let mut last = String::new();
            for user in [BOOTSTRAP_USER, self.user.as_ref()] {
                match guest.log_in_with_any(user, known, deadline.at_most(Duration::from_secs(20))) {
                    Ok(session) => return Ok(Ok(session)),
                    Err(error) if error.is_host_key_mismatch() => return Err(error),
                    Err(error) => last = error.chain(),
                }
            }
            self.ui.detail(format!("not yet: {last}"));
            Ok(Err(last))
        })?;
        let system = guest::system(&session)?;
        self.ui.done(match &system {
            System::Nixos => "SSH works; NixOS is running".to_owned(),
            System::Installer => "SSH works; the NixOS installer is running".to_owned(),
            System::Other(id) => format!("SSH works; {id} is running"),
        });
        Ok((system, session.host_key().to_owned()))
    }

    /// The installer's settings, and the directory that must stay as long as they are used.
    fn installer(&self, host_key: &HostKey, last: IpAddr) -> Result<(Installer, tempfile::TempDir)> {
        let scripts = tempfile::tempdir()
            .map_err(|e| Error::failed("can not make a temporary directory").caused_by(e))?;
        let installer = Installer {
            program: self.tools.installer()?,
            flake: self.flake.to_owned(),
            target: format!("{BOOTSTRAP_USER}@{}.fleet.invalid", self.vm.name),
            identity: self.identity.to_owned(),
            proxy: install::proxy_script(&self.tools.connect(self.vm.vmid, Some(last)), scripts.path())?,
            extra_files: host_key.extra_files().to_owned(),
        };
        Ok((installer, scripts))
    }

    /// Boots the installer, unless it runs already, and proves that it is still the same machine.
    fn start_installer(
        &self,
        installer: &Installer,
        guest: &Guest<'_>,
        system: &System,
        bootstrap_key: &str,
    ) -> Result<()> {
        if *system != System::Installer {
            self.phase(installer, Phase::Kexec)?;
        }
        // nixos-anywhere checks no host key. kexec carries the keys over: before the new system's private key is
        // sent, the machine at the other end proves that it is still the same.
        let login = guest.wait(BOOTSTRAP_USER, bootstrap_key, Deadline::secs(limit::SSH))?;
        if guest::system(&login)? != System::Installer {
            return Err(Error::failed(format!(
                "'{}' answers, but the NixOS installer does not run on it",
                self.vm.name
            ))
            .hint("run again with --verbose to see what nixos-anywhere says"));
        }
        Ok(())
    }

    fn install(&self, installer: &Installer) -> Result<()> {
        self.phase(installer, Phase::Install)?;
        self.phase(installer, Phase::Reboot)
    }

    fn phase(&self, installer: &Installer, phase: Phase) -> Result<()> {
        interrupt::check()?;
        self.ui.step(format!("{}...", phase.title()));
        timed(self.ui, "Done", || installer.run(phase, self.ui))
    }

    fn verify(&self, guest: &Guest<'_>, host_key: &str, old_key: Option<&str>) -> Result<()> {
        self.ui.step("Verifying the new system...");
        let login =
            guest.wait_for_new_key(self.user.as_ref(), host_key, old_key, Deadline::secs(limit::BOOT))?;
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
            return Err(Error::failed(format!("the new system calls itself '{hostname}', not '{wanted}'"))
                .hint(format!(
                    "set networking.hostName in hosts/{}/configuration.nix",
                    self.vm.nixos_config
                )));
        }
        self.ui.done(format!("NixOS answers as {}@{hostname} with its own host key", self.user));
        Ok(())
    }

    /// Once NixOS is installed, nothing may make cloud-init run again.
    fn detach_cloudinit(&self, session: &mut Session) -> Result<()> {
        let Some((config, _)) = world::existing(session, self.vm.vmid)? else { return Ok(()) };
        let Some(drive) = settings::cloudinit_drive(&config.settings) else { return Ok(()) };
        let op = Op::Configure {
            vmid: self.vm.vmid,
            settings: settings::Settings::new(),
            delete: vec![drive.to_owned()],
        };
        session.ask::<()>(op, Deadline::secs(limit::CHANGE), |line| self.ui.detail(line))?;
        self.ui.done(format!("Cloud-init drive {drive} detached (from the next boot on)"));
        Ok(())
    }

    /// Runs `post-provision-vm`. `made` says that this host key was made or recorded by us for this very VM: it
    /// replaces the one that an earlier VM of the name had.
    fn integrate(&self, host_key: &Path, made: bool, now: &str) -> Result<()> {
        interrupt::check()?;
        self.ui.step("Integrating with the fleet...");
        let name = self.vm.name.to_string();
        let mut args = vec![
            name.clone(),
            "--yes".to_owned(),
            "--host-key".to_owned(),
            host_key.to_string_lossy().into_owned(),
        ];
        if made {
            args.push("--rotate".to_owned());
        }
        let partly = |why: &str| {
            Error::partly_done(format!("VM '{name}' runs, but it is not in the fleet yet: {why}"))
                .now(now)
                .hint(format!("mend what post-provision-vm says, then run `provision-vm {name}` again"))
        };
        let command = self.tools.post_provision(args);
        let output = command
            .run(Deadline::secs(limit::INTEGRATE), |line| self.ui.say(format!("  {line}")))
            .map_err(|e| partly("post-provision-vm did not end").caused_by(e))?;
        if output.success() {
            return Ok(());
        }
        Err(partly(&format!("post-provision-vm {}", fleet_core::child::describe(output.status))))
    }

    fn say_what_remains(&self, address: IpAddr) {
        let (ui, vm) = (self.ui, self.vm);
        ui.done(format!("VM '{}' (VMID {}) runs at {address}; NixOS is not installed", vm.name, vm.vmid));
        ui.say("");
        ui.say("Two commands remain:");
        ui.say(format!("  {}", install::by_hand(self.flake, self.identity, address)));
        ui.say(format!("  post-provision-vm {} {address} {}", vm.name, vm.vmid));
    }

    fn farewell(&self, address: IpAddr, took: Duration) {
        let (ui, vm) = (self.ui, self.vm);
        ui.say("");
        ui.done(format!("VM '{}' (VMID {}) is ready after {:.1} s", vm.name, vm.vmid, took.as_secs_f64()));
        ui.say(format!("  ssh {}@{address}", self.user));
        if self.cli.integrate() == Integrate::Never {
            ui.say("One command remains:");
            ui.say(format!("  post-provision-vm {} {address} {}", vm.name, vm.vmid));
        }
    }
}

fn fingerprint(key: &str) -> Result<String> {
    ssh_key::PublicKey::from_openssh(key)
        .map(|key| key.fingerprint(ssh_key::HashAlg::Sha256).to_string())
        .map_err(|e| Error::failed(format!("the VM's host key can not be read: {key}")).caused_by(e))
}

fn timed<T>(ui: Ui, done: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    let value = work()?;
    ui.done(format!("{done} ({:.1} s)", start.elapsed().as_secs_f64()));
    Ok(value)
}

/// Whatever stops a run after the VM exists is finished by the same command.
fn again(job: &Job<'_>, error: Error) -> Error {
    error.hint(format!("`provision-vm {}` continues from here", job.vm.name))
}
