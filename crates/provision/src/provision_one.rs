//! One VM, from its definition to its place in the fleet.

use std::{cell::Cell, net::IpAddr, sync::Mutex};

use fleet_core::{
    Error, Kind, Result,
    definitions::{Definitions, Install, ManagedVm, VERBS, nearest},
    hosts::Hosts,
    protocol::Storage,
    repo::Repo,
    ui::Ui,
};
use serde::Serialize;

use crate::{
    again,
    build::{self, Closure, Unknown},
    cli::{Cli, Integrate},
    dry_run::Dry,
    execute::{self, Job, Known},
    host_key::PrivateDir,
    installed::{self, Installed},
    journal::{Event, Journal, Verb, Watch},
    login::Unlocked,
    place::Places,
    plan::{self, Plan},
    preflight::{self, Ready},
    state::Hold,
    steps,
    tools::Tools,
};

/// What is true before the first question.
pub(crate) const UNCHANGED: &str = "nothing was changed";

/// What a run needs, whichever VMs it is about.
#[derive(Clone, Copy)]
pub(crate) struct Run<'a> {
    pub(crate) cli: &'a Cli,
    pub(crate) repo: &'a Repo,
    pub(crate) tools: &'a Tools,
    /// Where the VMs go that it makes.
    pub(crate) places: &'a Places,
    /// Keys that were opened with their passphrases.
    pub(crate) unlocked: &'a Unlocked,
}

/// What a run left, for `--json`.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) name: String,
    pub(crate) vmid: u32,
    pub(crate) address: IpAddr,
    pub(crate) user: String,
    pub(crate) installed: bool,
    pub(crate) integrated: bool,
}

/// A VM that nothing stands in the way of; no other run can take hold of it.
pub(crate) struct Prepared<'a> {
    pub(crate) vm: &'a ManagedVm,
    pub(crate) install: bool,
    ready: Ready,
    private: PrivateDir,
    closure: Option<Closure>,
    _hold: Option<Hold>,
}

/// How a VM is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// It is its turn: what has to be waited for is.
    Alone,
    /// Beside others, none of which waits for it.
    AmongOthers,
}

/// The definition of a VM that may be provisioned; `named` are all that the command line names.
pub(crate) fn definition<'a>(
    definitions: &'a Definitions,
    name: &str,
    named: &[String],
) -> Result<&'a ManagedVm> {
    let vm = definitions.managed(name).map_err(|error| {
        // A verb that was mistyped reads as the name of a VM.
        match nearest(name, VERBS.iter().copied()) {
            Some(verb) if error.kind() == Kind::NotFound => error.hint({
                let others = named.iter().map(String::as_str).filter(|other| *other != name);
                let words: Vec<&str> = [verb].into_iter().chain(others).collect();
                format!("did you mean the verb: {}", again::provision_vm(&words))
            }),
            _ => error,
        }
    })?;
    if vm.readonly {
        return Err(Error::refused(format!("refused to provision '{name}': it is marked readonly"))
            .now("nothing was sent to the node")
            .hint(format!(
                "take `readonly = true` out of managed.{name} in {}",
                definitions.path.display()
            )));
    }
    Ok(vm)
}

/// Provisions the managed VM `name`, and nothing else.
pub(crate) fn provision(run: &Run<'_>, ui: Ui, name: &str) -> Result<()> {
    let cli = run.cli;
    ui.step(format!("Starting VM provisioning for: {name}"));
    ui.step(format!("Loading VM definition for '{name}'..."));
    let definitions = Definitions::load(run.repo, cli.common.nix)?;
    let vm = definition(&definitions, name, &cli.names)?;
    ui.done("VM definition loaded");

    ui.step("Validating VM configuration...");
    let mut prepared = Prepared::new(run, ui, &definitions, vm, Look::Alone)?;
    ui.done("VM configuration valid");
    describe(vm, ui);
    prepared.plan().placed.iter().for_each(|placed| ui.done(format!("Node: {placed}")));
    prepared.warn(ui);
    let told = ui.before_question(cli.asks());
    told.attention(format!("Ready to provision VM '{}' (VMID: {})", vm.name, vm.vmid));
    told.attention("This will:");
    let kinds = Kinds::of(&[&prepared]);
    announce(&first_step(prepared.plan(), vm), cli, kinds, told);

    if cli.change.dry_run {
        return prepared.dry_run(run, ui);
    }
    if !cli.change.yes {
        ui.say("");
        ui.agree("Continue?", UNCHANGED, Some(&format!("{} --yes", cli.again(&[name]))))?;
    }
    ui.say("");
    let report = prepared.carry_out(run, ui, None)?;
    if cli.common.json {
        ui.json_line(&report)?;
    }
    Ok(())
}

/// Begins to build the system, where this machine can.
fn build(run: &Run<'_>, vm: &ManagedVm) -> Closure {
    if preflight::installs(run.cli, vm) && !run.cli.change.dry_run {
        let hosts = Hosts::load(run.repo, run.cli.common.nix);
        // A file that can not be read is told of elsewhere.
        let unknown = hosts.is_ok_and(|hosts| hosts.get(vm.name.as_str()).is_none()).then(|| Unknown {
            name: vm.name.to_string(),
            config: vm.nixos_config.clone(),
            later: run.cli.integrate() == Integrate::Before,
            probe: build::probe(run.repo.root(), &vm.nixos_config),
        });
        Closure::begin(run.cli.build_on, run.repo.root(), vm, unknown)
    } else {
        Closure::none()
    }
}

impl<'a> Prepared<'a> {
    /// Takes hold of the VM and looks at everything that could stand in its way. Alone its system is being built
    /// meanwhile; among others from when it is its turn.
    pub(crate) fn new(
        run: &Run<'_>,
        ui: Ui,
        definitions: &Definitions,
        vm: &'a ManagedVm,
        look: Look,
    ) -> Result<Prepared<'a>> {
        let hold = Hold::for_run(run.cli.change.dry_run, &vm.name, vm.vmid, ui)?;
        let private = PrivateDir::new()?;
        private.warn(ui);
        // It takes the longest, and needs nothing of the node: it runs beside all that follows.
        let closure = (look == Look::Alone).then(|| build(run, vm));
        let ready = preflight::look(run, ui, definitions, vm, &private, look == Look::Alone)?;
        Ok(Prepared { vm, install: preflight::installs(run.cli, vm), ready, private, closure, _hold: hold })
    }

    /// What will be done.
    pub(crate) fn plan(&self) -> &Plan {
        &self.ready.plan
    }

    /// Whether NixOS is on it.
    pub(crate) fn installed(&self) -> Installed {
        match &self.ready.world.existing {
            Some((config, _)) if !self.plan().makes() => installed::of(self.vm, config, &self.ready.world),
            _ => Installed::No,
        }
    }

    /// Whether it is to be looked at again when it is its turn: a clone that an earlier run began goes on.
    pub(crate) fn goes_on(&self) -> bool {
        self.ready.goes_on
    }

    /// The node's storages, as they were found.
    pub(crate) fn storages(&self) -> &[Storage] {
        &self.ready.world.storages
    }

    /// Tells what the user should know.
    pub(crate) fn warn(&self, ui: Ui) {
        self.plan().warnings.iter().for_each(|warning| ui.warn(warning));
    }

    /// Shows what would be done.
    pub(crate) fn dry_run(&mut self, run: &Run<'_>, ui: Ui) -> Result<()> {
        let Prepared { vm, install, ready, private, .. } = self;
        let Ready { user, flake, kexec, session, plan, login, world, .. } = ready;
        let Run { cli, repo, tools, .. } = *run;
        let (user, kexec, install) = (user.as_ref(), kexec.as_deref(), *install);
        let recorded = Hosts::load(repo, cli.common.nix)?.get(vm.name.as_str()).cloned();
        let recorded = recorded.and_then(|host| host.public_key);
        let recorded = recorded.as_deref();
        Dry { cli, ui, tools, repo, vm, flake, kexec, private, install, user, login, world, recorded }
            .show(session, plan)
    }

    /// Does it. `watch` is told of the steps.
    pub(crate) fn carry_out(self, run: &Run<'_>, ui: Ui, watch: Option<Watch>) -> Result<Report> {
        let Prepared { vm, install, ready, private, closure, _hold } = self;
        let Ready { keys, login, user, flake, kexec, mut session, world, plan, .. } = ready;
        let cli = run.cli;
        let closure = Mutex::new(closure.unwrap_or_else(|| build(run, vm)));
        let recorded = Hosts::load(run.repo, cli.common.nix)?.get(vm.name.as_str()).cloned();
        let steps = steps::of(vm, install, cli.integrate());
        let beginning = Event::beginning(Verb::Provision, vm, &world.node.version, steps);
        let journal = Journal::begin(&beginning, watch)?;
        let job = Job {
            cli,
            ui,
            journal: &journal,
            tools: run.tools,
            vm,
            keys: &keys,
            login: &login,
            private: &private,
            user: &user,
            flake: &flake,
            closure: &closure,
            system: Cell::new(if plan.finished { Known::MayBeNixos } else { Known::Unseen }),
            kexec: kexec.as_deref(),
            recorded: recorded.as_ref().and_then(|host| host.public_key.as_deref()),
            said: Mutex::default(),
        };
        let made = plan.makes().then(|| plan.marker().clone());
        let known = recorded.is_some();
        let outcome = execute::run(&job, &mut session, plan)
            .map_err(|error| execute::failed(&job, made.as_ref(), known, error));
        journal.end(outcome.as_ref().map(drop));
        outcome.map(|outcome| Report {
            name: vm.name.to_string(),
            vmid: vm.vmid.get(),
            address: outcome.address,
            user: user.to_string(),
            installed: outcome.installed,
            integrated: outcome.integrated,
        })
    }
}

fn describe(vm: &ManagedVm, ui: Ui) {
    ui.say(format!("  VMID: {}", vm.vmid));
    ui.say(format!("  Cores: {}", vm.cores));
    ui.say(format!("  Memory: {}MB", vm.memory));
    ui.say(format!("  Disk: {}", vm.disk));
    ui.say(format!("  Storage: {}", vm.storage));
    ui.say(format!("  NixOS Config: {}", vm.nixos_config));
    ui.say("");
}

/// How a VM comes to be, in words.
pub(crate) fn first_step(plan: &Plan, vm: &ManagedVm) -> String {
    match &plan.origin {
        plan::Origin::Clone(_) if plan.clear.is_some() => {
            "Remove what a killed clone left, and clone template VM".to_owned()
        }
        plan::Origin::Clone(_) => "Clone template VM".to_owned(),
        plan::Origin::Create(_) => "Build a disk image and create the VM from it".to_owned(),
        plan::Origin::Continue(_) => format!("Continue with VM {}, which an earlier run made", vm.vmid),
    }
}

/// What there is to do for VMs that are told of together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kinds {
    /// Whether NixOS is to come onto any of them.
    install: bool,
    /// Whether all that it is to come onto are made of an image.
    by_image: bool,
    /// Whether any of them is configured: one that runs is not.
    configure: bool,
    /// Whether NixOS is on all of them; none where that is so of some, or may be.
    installed: Option<bool>,
}

impl Kinds {
    pub(crate) fn of(vms: &[&Prepared<'_>]) -> Kinds {
        let all = |state| vms.iter().all(|prepared| prepared.installed() == state);
        Kinds {
            install: vms.iter().any(|prepared| prepared.install),
            by_image: vms.iter().all(|prepared| prepared.vm.install == Install::Image),
            configure: vms.iter().any(|prepared| prepared.plan().makes() || prepared.plan().configure),
            installed: match (all(Installed::Yes), all(Installed::No)) {
                (true, _) => Some(true),
                (_, true) => Some(false),
                _ => None,
            },
        }
    }
}

/// The steps as a person is asked about them.
pub(crate) fn announce(first: &str, cli: &Cli, kinds: Kinds, ui: Ui) {
    let joins = cli.integrate() != Integrate::Never;
    let Kinds { install, by_image, configure, installed } = kinds;
    let verify = if joins { "Verify NixOS, and bring the fleet up to date" } else { "Verify NixOS" };
    let start = "Start VM and wait for network";
    let before = || {
        let configure = configure.then_some("Configure resources and networking");
        std::iter::once(first).chain(configure).chain([start]).collect::<Vec<_>>()
    };
    let steps = match (install, installed) {
        (_, Some(true)) => vec![first, "Start VM where it is off", verify],
        (true, Some(false)) => {
            let last = match (by_image, joins) {
                (true, true) => "Verify NixOS and integrate with the fleet",
                (true, false) => "Verify NixOS",
                (false, true) => "Install NixOS (nixos-anywhere) and integrate with the fleet",
                (false, false) => "Install NixOS (nixos-anywhere)",
            };
            [before(), vec![last]].concat()
        }
        (true, None) => [before(), vec!["Install NixOS, where it is not on it yet", verify]].concat(),
        (false, None) => {
            [before(), vec!["Stop there, unless NixOS runs, and print the commands that remain"]].concat()
        }
        (false, _) => [before(), vec!["Stop there and print the commands that remain"]].concat(),
    };
    for (number, step) in steps.iter().enumerate() {
        ui.say(format!("  {}. {step}", number + 1));
    }
}
