//! Everything that could stop a run, looked at before anything changes; all of it in one report.

mod files;

use fleet_core::{
    Error, Kind, Result,
    definitions::{Definitions, Install, ManagedVm},
    hosts::Hosts,
    protocol::Session,
    repo::Repo,
    types::UserName,
    ui::Ui,
};

pub(crate) use self::files::would_change;
use crate::{
    build,
    cli::{Cli, Integrate, OnFailure},
    host_key::PrivateDir,
    install,
    login::{self, Login, Places},
    plan::{self, Plan, Standing},
    provision_one::Run,
    state::State,
    unfinished::{self, Became},
    world::{self, Survey, World},
};

/// All that was found to be wrong, in the order in which it was looked at.
#[derive(Debug, Default)]
pub struct Faults(Vec<Error>);

impl Faults {
    /// Notes a fault.
    pub fn add(&mut self, fault: Error) {
        self.0.push(fault);
    }

    /// The value, or nothing and a fault more.
    pub fn keep<T>(&mut self, outcome: Result<T>) -> Option<T> {
        outcome.map_err(|fault| self.add(fault)).ok()
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Nothing, or all of them as one error: of their kind if they have one in common. A single one is told as it is.
    pub fn check(self, name: &str) -> Result<()> {
        let mut faults = self.0;
        if faults.len() < 2 {
            return faults.pop().map_or(Ok(()), |fault| {
                let said = fault.facts().iter().any(|fact| fact.starts_with("nothing was"));
                Err(if said { fault } else { fault.now("nothing was changed") })
            });
        }
        let kind = faults.first().map_or(Kind::Failed, Error::kind);
        let kind = if faults.iter().all(|fault| fault.kind() == kind) { kind } else { Kind::Failed };
        let mut all =
            Error::new(kind, format!("'{name}' can not be provisioned, for {} reasons", faults.len()));
        let mut hints: Vec<String> = Vec::new();
        for fault in &faults {
            all = all.now(format!("- {}", fault.chain()));
            let facts = fault.facts().iter().filter(|fact| !fact.starts_with("nothing was"));
            all = facts.fold(all, |all, fact| all.now(format!("  {fact}")));
            hints.extend(
                fault.hints().iter().filter(|hint| !hints.contains(hint)).cloned().collect::<Vec<_>>(),
            );
        }
        let reports: Vec<_> = faults.iter().map(Error::report).collect();
        all = all.details(serde_json::json!({ "faults": reports })).now("nothing was changed");
        Err(hints.into_iter().fold(all, Error::hint))
    }
}

/// A VM that can be provisioned, and all that was learnt about it on the way.
pub struct Ready {
    /// Keys that may log in.
    pub keys: Vec<String>,
    /// The key that we log in with.
    pub login: Login,
    /// Who logs in on the finished VM.
    pub user: UserName,
    /// `DIR#CONFIG`.
    pub flake: String,
    /// What `--kexec` names, as nixos-anywhere takes it.
    pub kexec: Option<String>,
    /// The conversation with the node.
    pub session: Session,
    /// What is there.
    pub world: World,
    /// What will be done.
    pub plan: Plan,
    /// A clone that an earlier run began goes on: it is to be looked at again when that has ended.
    pub goes_on: bool,
}

/// Looks at everything. `private` is where a key may lie that had to be unlocked. With `waits`, until a clone that an
/// earlier run began has ended.
pub(crate) fn look(
    run: &Run<'_>,
    ui: Ui,
    definitions: &Definitions,
    vm: &ManagedVm,
    private: &PrivateDir,
    waits: bool,
) -> Result<Ready> {
    let Run { cli, repo, tools, .. } = *run;
    let mut faults = Faults::default();
    tools.missing().for_each(|fault| faults.add(fault));
    if cli.on_failure == OnFailure::Destroy && vm.protection {
        faults.add(
            Error::usage("--on-failure destroy can not remove a VM that its definition protects")
                .hint(format!("leave it out, or take `protection = true` out of managed.{}", vm.name)),
        );
    }
    let install = installs(cli, vm);
    if vm.install == Install::Image {
        faults.keep(build::image_possible(cli.build_on, cli.no_install));
    }
    let mut boots = plan::Boots::Any;
    if install {
        files::check(repo, vm, cli.integrate() != Integrate::Never, &mut faults);
        boots = files::boots(repo, vm);
        if vm.install == Install::Image {
            faults.keep(files::image_fits(repo, vm));
        }
        faults.keep(build::possible(cli.build_on));
    }
    if install && vm.install == Install::NixosAnywhere && faults.keep(tools.installer()).is_some() {
        faults.keep(tools.installer_knows().suffices(cli.build_on));
    }
    let kexec = cli.kexec.as_deref().and_then(|given| faults.keep(install::kexec_archive(given)));
    let user = faults.keep(fleet_user(repo, cli, vm));
    let keys = if tools.has("cloudinit-gen") { faults.keep(tools.ssh_keys(vm.name.as_str())) } else { None };
    let login = keys.as_ref().and_then(|keys| {
        let places = Places::of_user(cli.identity.as_deref());
        faults.keep(login::at_hand(&places, keys, private, run.unlocked))
    });
    let flake = faults.keep(install::flake_of(repo.root(), &vm.nixos_config));
    let no_keys = Vec::new();
    let mut there = None;
    if tools.has("proxmox-ops") {
        let template = world::template_of(definitions, vm);
        let asked = tools.session().and_then(|mut session| {
            let template = template?;
            let world = survey(
                (ui, waits && !cli.change.dry_run),
                &mut session,
                &Survey { ui, template, vm, definitions, places: run.places },
                &mut faults,
            )?;
            Ok((session, template, world))
        });
        if let Some((session, template, (world, goes_on))) = faults.keep(asked) {
            let keys = keys.as_ref().unwrap_or(&no_keys);
            let mut plan = plan::plan(vm, template, keys, &world, install, boots, &mut faults)?;
            if let Some(plan) = plan.as_mut().filter(|plan| plan.makes() && vm.install == Install::Image) {
                plan.warnings.extend(files::image_lacks(repo, vm));
            }
            if cli.resume && !goes_on && plan.as_ref().is_some_and(Plan::makes) {
                faults.add(
                    Error::not_found(format!("there is nothing to resume: VM '{}' does not exist", vm.name))
                        .hint(format!("{}   # makes it", cli.again(&[vm.name.as_str()]))),
                );
            }
            there = plan.map(|plan| (session, world, (plan, goes_on)));
        }
    }
    // Of one that nothing is known of, because the node could not be asked, hosts.nix tells.
    let joins = there.as_ref().map_or_else(
        || recorded(repo, cli, vm).is_none(),
        |(_, _, (plan, _))| plan.makes() || !in_the_fleet(repo, cli, vm, plan),
    );
    if install && joins && cli.integrate() != Integrate::Never && tools.has("post-provision-vm") {
        let hindrance = faults.keep(files::can_integrate(repo, tools, vm, private)).flatten();
        if let (Some(why), Some((_, _, (plan, _)))) = (hindrance, there.as_mut()) {
            plan.warnings.push(uncommitted(&why, &format!("what takes '{}' into the fleet", vm.name)));
        }
    }
    faults.check(vm.name.as_str())?;
    match (keys, login, user, flake, there) {
        (Some(keys), Some(login), Some(user), Some(flake), Some((session, world, (plan, goes_on)))) => {
            Ok(Ready { keys, login, user, flake, kexec, session, world, plan, goes_on })
        }
        _ => Err(Error::failed(format!("'{}' could not be looked at", vm.name)).now("nothing was changed")),
    }
}

/// What is said where git's state keeps a change of the fleet's files from being committed.
pub(crate) fn uncommitted(why: &str, what: &str) -> String {
    format!(
        "{why}: {what} will not be committed; put that right first (git status), or a later run commits it"
    )
}

/// Opens a key behind a passphrase before many VMs are looked at side by side: one question, while nothing else is said.
/// What goes wrong is told for each VM that needs it.
pub(crate) fn unlock(run: &Run<'_>, vm: &ManagedVm) {
    if !fleet_core::ui::can_ask() || !run.tools.has("cloudinit-gen") {
        return;
    }
    let places = Places::of_user(run.cli.identity.as_deref());
    if let (Ok(keys), Ok(private)) = (run.tools.ssh_keys(vm.name.as_str()), PrivateDir::new()) {
        drop(login::at_hand(&places, &keys, &private, run.unlocked));
    }
}

/// Whether an earlier run has taken the VM into the fleet, as far as its host key tells: one that was made or read for
/// this very VM, or that a run on another machine may have recorded.
fn in_the_fleet(repo: &Repo, cli: &Cli, vm: &ManagedVm, plan: &Plan) -> bool {
    let Some(recorded) = recorded(repo, cli, vm) else { return false };
    let state = State::load(plan.marker());
    state.host_keys.is_empty() || state.knows(&recorded)
}

/// The VM's host key in hosts.nix.
fn recorded(repo: &Repo, cli: &Cli, vm: &ManagedVm) -> Option<String> {
    let hosts = Hosts::load(repo, cli.common.nix).ok()?;
    let recorded = hosts.get(vm.name.as_str())?.public_key.clone();
    recorded.filter(|key| ssh_key::PublicKey::from_openssh(key).is_ok())
}

/// Whether this run installs NixOS.
pub fn installs(cli: &Cli, vm: &ManagedVm) -> bool {
    !cli.no_install && vm.install != Install::None
}

/// What is there, and whether a clone goes on that an earlier run began: it is waited for, if at all, when nothing else
/// stands in the way. What one left that was killed is looked at only: it is removed when the run goes on.
fn survey(
    (ui, waits): (Ui, bool),
    session: &mut Session,
    survey: &Survey<'_>,
    faults: &mut Faults,
) -> Result<(World, bool)> {
    let mut found = survey.look(session, faults)?;
    let being_made = matches!(plan::standing(survey.vm, &found), Ok(Standing::BeingCloned));
    if !being_made || !faults.is_empty() {
        return Ok((found, false));
    }
    match unfinished::wait(session, survey.vm, ui, waits)? {
        Became::Settled => Ok((survey.look(session, faults)?, false)),
        Became::GoesOn => Ok((found, true)),
        Became::Left(task) => {
            found.remainder = Some(task);
            Ok((found, false))
        }
    }
}

/// Who logs in on the finished VM: the definition says, or the host's entry, or most hosts say the same.
fn fleet_user(repo: &Repo, cli: &Cli, vm: &ManagedVm) -> Result<UserName> {
    if let Some(user) = &vm.user {
        return Ok(user.clone());
    }
    let hosts = Hosts::load(repo, cli.common.nix)?;
    let known =
        hosts.get(vm.name.as_str()).and_then(|host| host.user.as_deref()).or_else(|| hosts.common_user());
    known
        .ok_or_else(|| {
            Error::failed(format!(
                "which user logs in on '{}'? No login is that of most hosts in hosts.nix",
                vm.name
            ))
            .hint(format!("add `user = \"…\";` to managed.{}", vm.name))
        })?
        .parse()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_fault_is_told_as_it_is_and_several_together() {
        let one = |kind| Error::new(kind, "broken").now("so it is").hint("mend it");
        Faults::default().check("web").unwrap();
        let mut faults = Faults::default();
        faults.add(one(Kind::NotFound));
        let error = faults.check("web").unwrap_err();
        assert_eq!((error.kind(), error.message()), (Kind::NotFound, "broken"));
        assert_eq!(error.facts(), ["so it is", "nothing was changed"]);
        for (kinds, kind) in [
            ([Kind::Conflict, Kind::Conflict], Kind::Conflict),
            ([Kind::Conflict, Kind::NotFound], Kind::Failed),
        ] {
            let mut faults = Faults::default();
            kinds.into_iter().for_each(|kind| faults.add(one(kind)));
            let error = faults.check("web").unwrap_err();
            assert_eq!((error.kind(), error.hints().len()), (kind, 1));
            assert_eq!(
                error.facts(),
                ["- broken", "  so it is", "- broken", "  so it is", "nothing was changed"]
            );
        }
    }
}
