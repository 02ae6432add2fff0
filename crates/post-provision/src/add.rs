//! `post-provision-vm NAME [IP] [VMID]`: a new VM into the fleet.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
};

use clap::Args;
use fleet_core::{
    Error, Kind, Result,
    cli::{ChangeArgs, CommonArgs},
    definitions::{Addressing, Definitions, ManagedVm},
    hosts::{Host, Hosts},
    nix::{
        NixMode,
        edit::{self, Change, NewHost},
    },
    repo::Repo,
    types::Vmid,
    ui::Ui,
};
use serde::Serialize;

use crate::{
    apply::Outcome,
    carry_out::{CommitArgs, End, carry_out, identities, read},
    chosen,
    fleet::fleet_of,
    identity::Identity,
    inventory, known,
    plan::Plan,
    recipient::{HostKey, Recipient},
    rules::{HostChange, Rules},
    secrets,
    trust::Source,
};

/// Take a VM into the fleet
#[derive(Debug, Clone, Args)]
pub struct Add {
    /// The VM: its name in vms/definitions.nix
    #[arg(required = true)]
    pub name: Option<String>,
    /// Its address, for the commit message and for --trust-network
    pub ip: Option<IpAddr>,
    /// Its VMID; must be the one in vms/definitions.nix
    pub vmid: Option<Vmid>,
    /// The VM's public SSH host key, in a file (default: asked through the hypervisor)
    #[arg(long, value_name = "FILE")]
    pub host_key: Option<PathBuf>,
    /// If the hypervisor can not tell the host key, believe whoever answers at the VM's address
    #[arg(long, conflicts_with = "host_key")]
    pub trust_network: bool,
    /// Accept a host key that differs from the one on record
    #[arg(long)]
    pub rotate: bool,
    /// Leave .sops.yaml and the secrets as they are
    #[arg(long)]
    pub no_secrets: bool,
    /// Leave docs/machines.md as it is where nothing else is to be changed
    #[arg(long)]
    pub keep_inventory: bool,
    /// What to commit.
    #[command(flatten)]
    pub commit: CommitArgs,
    /// Dry run, no questions.
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// The answer with `--json`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer<'a> {
    name: &'a str,
    vmid: Vmid,
    host_key: String,
    fingerprint: String,
    recipient: &'a Recipient,
    dry_run: bool,
    #[serde(flatten)]
    outcome: &'a Outcome,
    rewrapped: Vec<PathBuf>,
    retired: &'a [String],
    gained: &'a [String],
    warnings: &'a [String],
}

/// What is known about the VM before anything is planned.
#[derive(Debug)]
pub struct Facts<'a> {
    /// Its definition.
    pub vm: &'a ManagedVm,
    /// Its host key.
    pub key: HostKey,
    /// Where the key came from, in words.
    pub origin: String,
    /// Its address, if known.
    pub address: Option<IpAddr>,
}

/// How it is done.
#[derive(Debug, Clone, Copy)]
pub struct How {
    /// A host key that is not the one on record is taken over.
    pub rotate: bool,
    /// The rules and the secrets are part of it.
    pub with_secrets: bool,
    /// What the edit of hosts.nix is proven by.
    pub nix: NixMode,
    /// The inventory stays as it is where nothing else changes.
    pub keep_inventory: bool,
}

/// A plan, and what it does to the rules.
#[derive(Debug, Default)]
pub struct Planned {
    /// The plan.
    pub plan: Plan,
    /// Keys that nothing names any more.
    pub retired: Vec<String>,
    /// Rules whose secrets the VM can read from now on.
    pub gained: Vec<String>,
}

impl AsRef<Plan> for Planned {
    fn as_ref(&self) -> &Plan {
        &self.plan
    }
}

impl Add {
    /// Runs it.
    pub fn run(&self, common: &CommonArgs) -> Result<()> {
        let ui = common.ui();
        let name = self.name.as_deref().unwrap_or_default();
        let repo = common.repo(&format!("post-provision-vm --repo DIR {name}"))?;
        let definitions = Definitions::load(&repo, common.nix)?;
        let vm = definitions.managed(name).map_err(|e| e.now("nothing was changed"))?;
        if let Some(given) = self.vmid.filter(|given| *given != vm.vmid) {
            return Err(Error::conflict(format!(
                "VMID {given} is not that of '{}', which is {}",
                vm.name, vm.vmid
            ))
            .now("nothing was changed")
            .hint(format!("give {}, or leave it out", vm.vmid)));
        }
        // Read and check the file before the key is asked for over the network.
        drop(Hosts::load(&repo, common.nix)?);

        ui.step(format!("Reading the host key of '{}'...", vm.name));
        let (key, origin) = self.key(vm, &repo, ui)?;
        ui.done(format!("Host key {} ({origin})", key.fingerprint()));
        let facts = Facts { vm, key, origin, address: self.ip.or_else(|| fixed_address(vm)) };

        let how = How {
            rotate: self.rotate,
            with_secrets: !self.no_secrets,
            nix: common.nix,
            keep_inventory: self.keep_inventory,
        };
        let words = (
            format!("Nothing to do: '{}' is in the fleet", vm.name),
            format!("'{}' is in the fleet", vm.name),
        );
        let (planned, end) = carry_out(&repo, ui, self.change, self.commit, (&words.0, &words.1), || {
            let hosts = Hosts::load(&repo, common.nix)?;
            plan(&repo, &definitions, &hosts, &facts, how, identities(common))
        })?;
        if let End::Nothing(_) | End::Done(_) = end {
            known::record(name, &facts.key, ui);
        }
        match end {
            End::Nothing(outcome) | End::Shown(outcome) | End::Done(outcome) => {
                self.answer(&planned, &facts, &outcome, ui)
            }
        }
    }

    fn key(&self, vm: &ManagedVm, repo: &Repo, ui: Ui) -> Result<(HostKey, String)> {
        let get = |source: Source| Ok((source.host_key(repo.root(), ui)?, source.describe()));
        if let Some(file) = &self.host_key {
            return get(Source::File(file.clone()));
        }
        let through_agent = get(Source::Agent(vm.vmid));
        match (through_agent, self.ip.or_else(|| fixed_address(vm))) {
            (Err(error), Some(address)) if self.trust_network && error.kind() != Kind::Refused => {
                ui.warn(error.chain());
                get(Source::Network(address))
            }
            (Err(error), None) if self.trust_network => Err(error
                .hint("--trust-network needs the VM's address: post-provision-vm NAME IP --trust-network")),
            (outcome, _) => outcome,
        }
    }

    fn answer(&self, planned: &Planned, facts: &Facts<'_>, outcome: &Outcome, ui: Ui) -> Result<()> {
        if !ui.json() {
            return Ok(());
        }
        ui.json_line(&Answer {
            name: facts.vm.name.as_str(),
            vmid: facts.vm.vmid,
            host_key: facts.key.line(),
            fingerprint: facts.key.fingerprint(),
            recipient: &facts.key.recipient()?,
            dry_run: self.change.dry_run,
            outcome,
            rewrapped: planned.plan.secrets.rewraps.iter().map(|rewrap| rewrap.path.clone()).collect(),
            retired: &planned.retired,
            gained: &planned.gained,
            warnings: &planned.plan.warnings,
        })
    }
}

fn fixed_address(vm: &ManagedVm) -> Option<IpAddr> {
    match vm.addressing {
        Addressing::Dhcp => None,
        Addressing::Static(cidr) => Some(cidr.address),
    }
}

/// Everything that taking the VM into the fleet changes, verified.
pub fn plan(
    repo: &Repo,
    definitions: &Definitions,
    hosts: &Hosts,
    facts: &Facts<'_>,
    how: How,
    identities: impl FnOnce() -> Result<Vec<Identity>>,
) -> Result<Planned> {
    let How { rotate, with_secrets, nix, keep_inventory } = how;
    let name = facts.vm.name.as_str();
    let mut planned = Planned::default();
    let previous = previous_key(hosts, name, &facts.key, rotate)?;
    let rotated = previous.as_ref().is_some_and(|previous| *previous != facts.key);

    // hosts.nix
    let hosts_path = repo.hosts();
    let relative = |path: &Path| path.strip_prefix(repo.root()).unwrap_or(path).to_owned();
    let before = read(&hosts_path)?;
    let mut hosts_after = hosts.clone();
    let line = facts.key.line();
    match hosts_after.hosts.iter_mut().find(|host| host.name == name) {
        Some(_) if previous.as_ref() == Some(&facts.key) => {}
        Some(host) => {
            let on_record = host.public_key.as_deref().filter(|_| rotated);
            let line = on_record.map_or(line, |old| facts.key.line_in_place_of(old));
            let change =
                Change::Set { host: name.to_owned(), attr: "publicKey".to_owned(), value: line.clone() };
            let after = edit::apply(&before, &hosts_path, &change, nix)?;
            let what = if rotated { "another publicKey" } else { "publicKey in place of the placeholder" };
            planned.plan.text(&relative(&hosts_path), Some(&before), after, format!("{what} for {name}"));
            host.public_key = Some(line);
        }
        None => {
            let new = new_host(repo, hosts, facts.vm, &line)?;
            let change = Change::Insert { name: name.to_owned(), host: new };
            let after = edit::apply(&before, &hosts_path, &change, nix)?;
            planned.plan.text(&relative(&hosts_path), Some(&before), after, format!("new entry {name}"));
            hosts_after.hosts.push(Host { name: name.to_owned(), public_key: Some(line), ..Host::default() });
        }
    }

    // The rules and the secrets
    let recipient = facts.key.recipient()?;
    match repo.sops_rules().filter(|_| with_secrets) {
        Some(path) => {
            let fleet = fleet_of(definitions, hosts);
            let mut known: Vec<Recipient> =
                previous.iter().filter(|_| rotated).map(HostKey::recipient).collect::<Result<_>>()?;
            // A key that two hosts had by mistake stays the other one's.
            known.retain(|key| fleet.owner_besides(name, key.as_str()).is_none());
            let text = read(&path)?;
            let rules = Rules::parse(&text, &path)?;
            let change = HostChange { host: name, recipient: Some(&recipient), known: &known };
            let chosen = match &facts.vm.secrets {
                Some(list) => Some(chosen::rules_of(repo, &path, &rules, list, name, &fleet)?),
                None => None,
            };
            let edited = rules.with_host_in(&change, &fleet, chosen.as_ref(), &path)?;
            let after = Rules::parse(&edited.text, &path)?;
            // Of no use to who joins none: nothing is asked of the rules then.
            if !edited.gained.is_empty() {
                planned.plan.notes.extend(withheld(name, &edited.withheld));
            }
            if let Some(chosen) = &chosen {
                planned.plan.warnings.extend(chosen::beside(name, &after, chosen, recipient.as_str()));
            } else if !after.rules.iter().any(|rule| rule.age_keys().any(|key| key == recipient.as_str())) {
                planned.plan.warnings.push(format!(
                    "no rule in {} lists hosts of the fleet: {name} will not be able to read any secret",
                    relative(&path).display()
                ));
            }
            let what = match edited.gained.len() {
                0 => format!("key of {name}"),
                1 => format!("key of {name}, in 1 more rule"),
                several => format!("key of {name}, in {several} more rules"),
            };
            planned.plan.text(&relative(&path), Some(&text), edited.text, what);
            let mut warnings = Vec::new();
            let found = secrets::find(repo, &path, &after, &mut warnings)?;
            planned.plan.secrets = secrets::plan(repo, &path, &found, &after, &edited.retired, identities)?;
            planned.plan.secrets.warnings.splice(0..0, warnings);
            // Two or more under its names: which of them machines have still is for a person to know.
            let said =
                if edited.retired.len() > 1 { &mut planned.plan.warnings } else { &mut planned.plan.notes };
            said.extend(edited.retired.iter().map(|key| format!("retired key of {name}: {key}")));
            (planned.retired, planned.gained) = (edited.retired, edited.gained);
        }
        None if with_secrets => {
            planned.plan.warnings.push("there is no .sops.yaml: no secret is shared with anybody".to_owned());
        }
        None => {}
    }
    // What the definitions say is not so yet: whoever asks for this has looked at the VM.
    if !(keep_inventory && planned.plan.is_empty()) {
        plan_inventory(repo, definitions, &hosts_after, &mut planned.plan)?;
    }
    planned.plan.message = message(facts, &planned, rotated)?;
    Ok(planned)
}

/// What is said of the rules that the host does not join.
fn withheld(name: &str, rules: &[(String, String)]) -> Vec<String> {
    if rules.len() > 3 {
        return vec![format!("{} rules are other hosts' own: {name} does not join them", rules.len())];
    }
    rules.iter().map(|(rule, other)| format!("{rule} is {other}'s own: {name} does not join it")).collect()
}

/// The inventory brought up to date.
pub(crate) fn plan_inventory(
    repo: &Repo,
    definitions: &Definitions,
    hosts: &Hosts,
    plan: &mut Plan,
) -> Result<()> {
    let path = repo.inventory();
    let relative = path.strip_prefix(repo.root()).unwrap_or(&path);
    let before = if path.exists() { Some(read(&path)?) } else { None };
    let generated = inventory::generate(definitions, hosts);
    let text = before.as_deref().unwrap_or("# Machines\n");
    let (after, appended) =
        inventory::refreshed(text, &generated).map_err(|e| e.context(relative.display()))?;
    let what = match (&before, appended) {
        (None, _) => "created",
        (Some(_), true) => "the generated part is appended: it had no markers",
        (Some(_), false) => "brought up to date",
    };
    plan.text(relative, before.as_deref(), after, what);
    Ok(())
}

/// The host's key on record, if it is one. Stops when it is another one, or another host has this one.
fn previous_key(hosts: &Hosts, name: &str, key: &HostKey, rotate: bool) -> Result<Option<HostKey>> {
    let on_record = |host: &Host| host.public_key.as_deref().and_then(|line| HostKey::parse(line).ok());
    if let Some(other) =
        hosts.hosts.iter().find(|host| host.name != name && on_record(host).as_ref() == Some(key))
    {
        return Err(Error::conflict(format!(
            "'{}' has the host key {} already",
            other.name,
            key.fingerprint()
        ))
        .now("two hosts with one key can read each other's secrets; nothing was changed")
        .hint(format!("is this the address of {}? else let the VM generate a key of its own", other.name)));
    }
    let previous = hosts.get(name).and_then(on_record);
    match &previous {
        Some(previous) if previous != key && !rotate => {
            Err(Error::unreachable(format!("the host key of '{name}' is not the one on record"))
                .now(format!("on record: {}", previous.fingerprint()))
                .now(format!("offered:   {}", key.fingerprint()))
                .now("nothing was changed")
                .hint("if the VM was installed anew, accept its key: --rotate")
                .hint("if not, somebody else may be answering in its place"))
        }
        _ => Ok(previous),
    }
}

/// The repository's root as paths in `hosts.nix` name it: these are relative to where the file really is, if it is a link.
fn root_from_hosts(repo: &Repo) -> String {
    let below = |path: &Path| {
        let root = repo.root().canonicalize().ok()?;
        Some(path.canonicalize().ok()?.parent()?.strip_prefix(root).ok()?.components().count())
    };
    match below(&repo.hosts()) {
        Some(depth) if depth > 0 => "../".repeat(depth),
        _ => "./".to_owned(),
    }
}

fn new_host(repo: &Repo, hosts: &Hosts, vm: &ManagedVm, key: &str) -> Result<NewHost> {
    let user = match (&vm.user, hosts.common_user()) {
        (Some(user), _) => user.to_string(),
        (None, Some(user)) => user.to_owned(),
        (None, None) => {
            return Err(Error::usage(format!("can not tell the login of '{}'", vm.name))
                .now("its definition has no `user`, and no login is that of most hosts with a configurationFile in hosts.nix")
                .hint(format!("give managed.{} in vms/definitions.nix a `user`", vm.name)));
        }
    };
    let file = |name: &str| {
        let path = repo.host_dir(&vm.nixos_config).join(name);
        path.is_file().then(|| format!("{}hosts/{}/{name}", root_from_hosts(repo), vm.nixos_config))
    };
    let alike: Vec<&Host> = hosts.hosts.iter().filter(|h| h.user.as_deref() == Some(user.as_str())).collect();
    let shared = |get: &dyn Fn(&Host) -> Option<&String>| {
        let first = alike.first().and_then(|host| get(host))?;
        alike.iter().all(|host| get(host) == Some(first)).then(|| first.clone())
    };
    Ok(NewHost {
        configuration_file: file("configuration.nix"),
        home_file: file("home.nix"),
        home_directory: Some(shared(&|h| h.home_directory.as_ref()).unwrap_or_else(|| match user.as_str() {
            "root" => "/root".to_owned(),
            user => format!("/home/{user}"),
        })),
        ssh_key_name: shared(&|h| h.ssh_key_name.as_ref()),
        user: Some(user),
        hostname: Some(vm.hostname.to_string()),
        ssh_alias: Some(vm.ssh_alias.clone()),
        public_key: Some(key.to_owned()),
        ..NewHost::default()
    })
}

fn message(facts: &Facts<'_>, planned: &Planned, rotated: bool) -> Result<String> {
    let vm = facts.vm;
    let mut text = if rotated {
        format!("feat(vms): rotate the host key of {}\n\n", vm.name)
    } else {
        format!("feat(vms): add {} to fleet\n\n", vm.name)
    };
    let mut line = |what: &str, value: String| text.push_str(&format!("{what}: {value}\n"));
    line("VMID", vm.vmid.to_string());
    if let Some(address) = facts.address {
        line("Address", address.to_string());
    }
    line("Size", format!("{} cores, {} MiB memory, {} on {}", vm.cores, vm.memory, vm.disk, vm.storage));
    line("Host key", format!("{} ({})", facts.key.fingerprint(), facts.origin));
    line("Age recipient", facts.key.recipient()?.to_string());
    for key in &planned.retired {
        line("Retired recipient", key.clone());
    }
    line("Secrets wrapped anew", planned.plan.secrets.rewraps.len().to_string());
    Ok(text)
}
