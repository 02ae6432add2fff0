//! `post-provision-vm remove NAME`: a VM out of the fleet again.

use std::path::PathBuf;

use clap::Args;
use fleet_core::{
    Error, Result,
    cli::{ChangeArgs, CommonArgs},
    definitions::{Definitions, Entry},
    hosts::Hosts,
    nix::{
        NixMode,
        edit::{self, Change},
    },
    repo::Repo,
    ui::Ui,
};
use serde::Serialize;

use crate::{
    add::plan_inventory,
    apply::Outcome,
    carry_out::{CommitArgs, End, carry_out, identities, read},
    check::listed,
    fleet::fleet_of,
    identity::Identity,
    known,
    plan::Plan,
    recipient::{HostKey, Recipient},
    rules::{HostChange, Rules},
    secrets,
};

/// Take a VM out of the fleet again: its key out of .sops.yaml and of every secret
#[derive(Debug, Clone, Args)]
pub struct Remove {
    /// The VM: its name in hosts.nix and its anchor in .sops.yaml
    pub name: String,
    /// Take its entry out of hosts.nix too
    #[arg(long)]
    pub from_hosts: bool,
    /// What to commit.
    #[command(flatten)]
    pub commit: CommitArgs,
    /// Dry run, no questions.
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// A plan, and what the VM could read until now.
#[derive(Debug, Default)]
pub struct Planned {
    /// The plan.
    pub plan: Plan,
    /// Its host key on record.
    pub key: Option<HostKey>,
    /// Its keys.
    pub retired: Vec<String>,
    /// Secrets that it could open.
    pub readable: Vec<PathBuf>,
    /// Whether hosts.nix has its entry still.
    pub left: bool,
}

impl AsRef<Plan> for Planned {
    fn as_ref(&self) -> &Plan {
        &self.plan
    }
}

/// The answer with `--json`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer<'a> {
    name: &'a str,
    dry_run: bool,
    #[serde(flatten)]
    outcome: &'a Outcome,
    retired: &'a [String],
    /// Secrets whose values it has seen.
    must_be_rotated: &'a [PathBuf],
    warnings: &'a [String],
}

impl Remove {
    /// Runs it.
    pub fn run(&self, common: &CommonArgs) -> Result<()> {
        let ui = common.ui();
        let repo = common.repo(&format!("post-provision-vm --repo DIR remove {}", self.name))?;
        let definitions = Definitions::load(&repo, common.nix)?;
        if let Some(Entry::Imported(vm)) = definitions.by_name(&self.name) {
            return Err(Error::refused(format!(
                "refused: '{}' (VMID {}) is imported and read-only",
                vm.name, vm.vmid
            ))
            .now("nothing was changed"));
        }
        let words = (
            format!("Nothing to do: '{}' is not in the fleet: no secret is open for it", self.name),
            format!("'{}' is out of the fleet", self.name),
        );
        let (planned, end) = carry_out(&repo, ui, self.change, self.commit, (&words.0, &words.1), || {
            let hosts = Hosts::load(&repo, common.nix)?;
            plan(&repo, &definitions, &hosts, &self.name, self.from_hosts, common.nix, identities(common))
        })?;
        let (End::Nothing(outcome) | End::Shown(outcome) | End::Done(outcome)) = &end;
        if let End::Nothing(_) | End::Done(_) = end {
            known::forget(&self.name, planned.key.as_ref(), ui);
        }
        if planned.left {
            ui.say("  its entry in hosts.nix is left to you; --from-hosts takes that out, too");
        }
        if !planned.readable.is_empty() {
            ui.warn(format!(
                "'{}' has seen the values in these files, and may keep them: give every one of them a new value",
                self.name
            ));
            planned.readable.iter().for_each(|path| ui.say(format!("  {}", path.display())));
        }
        self.answer(&planned, outcome, ui)
    }

    fn answer(&self, planned: &Planned, outcome: &Outcome, ui: Ui) -> Result<()> {
        if !ui.json() {
            return Ok(());
        }
        ui.json_line(&Answer {
            name: &self.name,
            dry_run: self.change.dry_run,
            outcome,
            retired: &planned.retired,
            must_be_rotated: &planned.readable,
            warnings: &planned.plan.warnings,
        })
    }
}

/// Everything that taking the VM out changes, verified.
pub fn plan(
    repo: &Repo,
    definitions: &Definitions,
    hosts: &Hosts,
    name: &str,
    from_hosts: bool,
    nix: NixMode,
    identities: impl FnOnce() -> Result<Vec<Identity>>,
) -> Result<Planned> {
    let mut planned = Planned::default();
    let relative = |path: &std::path::Path| path.strip_prefix(repo.root()).unwrap_or(path).to_owned();
    let key =
        hosts.get(name).and_then(|h| h.public_key.as_deref()).and_then(|line| HostKey::parse(line).ok());
    let mut hosts_after = hosts.clone();
    if from_hosts && hosts.get(name).is_some() {
        let path = repo.hosts();
        let before = read(&path)?;
        let after = edit::apply(&before, &path, &Change::Remove { name: name.to_owned() }, nix)?;
        planned.plan.text(&relative(&path), Some(&before), after, format!("without {name}"));
        hosts_after.hosts.retain(|host| host.name != name);
    }
    let mut known_there = hosts.get(name).is_some();
    if let Some(path) = repo.sops_rules() {
        let fleet = fleet_of(definitions, hosts);
        let mut known: Vec<Recipient> = key.iter().map(HostKey::recipient).collect::<Result<_>>()?;
        // A key that two hosts had by mistake stays the other one's.
        known.retain(|key| fleet.owner_besides(name, key.as_str()).is_none());
        let text = read(&path)?;
        let rules = Rules::parse(&text, &path)?;
        let change = HostChange { host: name, recipient: None, known: &known };
        let edited = rules.with_host(&change, &fleet, &path)?;
        known_there |= !edited.retired.is_empty();
        let after = Rules::parse(&edited.text, &path)?;
        if let Some(rule) = edited.emptied.first() {
            planned
                .plan
                .warnings
                .push(format!("{rule} names nobody any more: take it out, or name somebody"));
        }
        planned.plan.text(&relative(&path), Some(&text), edited.text, format!("without {name}"));
        let mut warnings = Vec::new();
        let found = secrets::find(repo, &path, &after, &mut warnings)?;
        planned.readable = secrets::readable_by(&found, &edited.retired, &known);
        planned.plan.secrets = secrets::plan(repo, &path, &found, &after, &edited.retired, identities)?;
        planned.plan.secrets.warnings.splice(0..0, warnings);
        planned.plan.notes.extend(edited.retired.iter().map(|key| format!("retired key of {name}: {key}")));
        planned.retired = edited.retired;
    }
    if !known_there && definitions.by_name(name).is_none() {
        let names = hosts.hosts.iter().map(|host| host.name.as_str());
        let error =
            Error::not_found(format!("'{}' is neither in hosts.nix nor in .sops.yaml", name.escape_debug()));
        let error = error.now("nothing was changed");
        return Err(match fleet_core::definitions::nearest(name, names) {
            Some(near) => error.hint(format!("did you mean '{near}'?")),
            None => error,
        });
    }
    plan_inventory(repo, definitions, &hosts_after, &mut planned.plan)?;
    planned.key = key;
    planned.left = hosts_after.get(name).is_some();
    let mut message = format!("feat(vms): remove {name} from fleet\n\n");
    for key in &planned.retired {
        message.push_str(&format!("Retired recipient: {key}\n"));
    }
    message.push_str(&format!("Secrets wrapped anew: {}\n", planned.plan.secrets.rewraps.len()));
    if !planned.readable.is_empty() {
        message.push_str(&format!("Values to rotate: {}\n", listed(&planned.readable)));
    }
    planned.plan.message = message;
    Ok(planned)
}
