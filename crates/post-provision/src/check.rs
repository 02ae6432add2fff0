//! `post-provision-vm secrets` and `inventory`: what people edit by hand brought in line, or only looked at.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
};

use clap::Args;
use fleet_core::{
    Error, Kind, Result, again,
    cli::{ChangeArgs, CommonArgs, silent_exit},
    definitions::Definitions,
    faults::Fault,
    hosts::Hosts,
    repo::Repo,
};
use serde::Serialize;

use crate::{
    add::plan_inventory,
    apply::Outcome,
    carry_out::{CommitArgs, End, carry_out, identities, read, refuse_interrupted},
    chosen,
    fleet::fleet_of,
    plan::Plan,
    rules::Rules,
    secrets,
};

/// Bring every secret to exactly the recipients that its rule in .sops.yaml names, after an edit of that file by hand
#[derive(Debug, Clone, Args)]
pub struct Secrets {
    /// Only say what is not as the rules say: files that differ, that no rule governs or that are not encrypted, and
    /// keys that are no recipients or another host's, and `secrets` of a definition that lead nowhere or to another host's
    /// own; exit code 0 when all is right, else 2
    #[arg(long)]
    pub check: bool,
    /// What to commit.
    #[command(flatten)]
    pub commit: CommitArgs,
    /// Dry run, no questions.
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// Bring the inventory in docs/machines.md up to date
#[derive(Debug, Clone, Args)]
pub struct Inventory {
    /// Only say whether it is fresh: exit code 0 when it is, 2 when it is not
    #[arg(long)]
    pub check: bool,
    /// What to commit.
    #[command(flatten)]
    pub commit: CommitArgs,
    /// Dry run, no questions.
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// The answer with `--json` of verbs that only change files.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer<'a> {
    dry_run: bool,
    #[serde(flatten)]
    outcome: &'a Outcome,
    warnings: Vec<&'a String>,
}

/// The answer with `--check --json`.
#[derive(Debug, Serialize)]
struct Checked<'a> {
    fresh: usize,
    differs: &'a [secrets::Difference],
    ungoverned: &'a [&'a Path],
    faults: &'a [Fault],
    warnings: &'a [String],
}

impl Secrets {
    /// Runs it.
    pub fn run(&self, common: &CommonArgs) -> Result<()> {
        let ui = common.ui();
        let repo = common.repo("post-provision-vm --repo DIR secrets")?;
        let rules = repo.sops_rules();
        if self.check {
            return look(&repo, common, rules.as_deref());
        }
        let path = rules.ok_or_else(no_rules)?;
        let words = ("Nothing to do: every secret is as its rule says", "Every secret is as its rule says");
        let (plan, end) = carry_out(&repo, ui, self.change, self.commit, words, || {
            let rules = Rules::parse(&read(&path)?, &path)?;
            let mut warnings = Vec::new();
            let found = secrets::find(&repo, &path, &rules, &mut warnings)?;
            let secrets = secrets::plan(&repo, &path, &found, &rules, &[], identities(common))?;
            let message = format!(
                "chore(secrets): recipients as the rules name them\n\nSecrets wrapped anew: {}\n",
                secrets.rewraps.len()
            );
            Ok(Plan { secrets, warnings, message, ..Plan::default() })
        })?;
        answer(&plan, &end, self.change.dry_run, ui)
    }
}

fn no_rules() -> Error {
    Error::not_found("there is no .sops.yaml").now("looked for secrets/.sops.yaml and .sops.yaml")
}

/// Says what is not as it should be, of the rules and of the files that they govern or should.
fn look(repo: &Repo, common: &CommonArgs, rules_file: Option<&Path>) -> Result<()> {
    let ui = common.ui();
    refuse_interrupted(repo)?;
    // Secrets stay secrets when their rules are gone: nobody knows for whom they are.
    let absent = if repo.secrets().is_dir() { repo.secrets() } else { repo.root().to_owned() };
    let path = rules_file.map_or_else(|| absent.join(".sops.yaml"), Path::to_owned);
    let text = if rules_file.is_some() { read(&path)? } else { "creation_rules: []\n".to_owned() };
    let rules = Rules::parse(&text, &path)?;
    let mut warnings = Vec::new();
    let found = secrets::find(repo, &path, &rules, &mut warnings)?;
    if rules_file.is_none() && found.is_empty() {
        return Err(no_rules());
    }
    let differs = secrets::differences(&found, &rules);
    let ungoverned: Vec<&Path> = secrets::ungoverned(&found).map(PathBuf::as_path).collect();
    let faults = faults(repo, common, &path, &rules, &found, &mut warnings);
    warnings.iter().for_each(|warning| ui.warn(warning));
    ungoverned.iter().for_each(|path| ui.warn(format!("{}: no rule governs it", path.display())));
    faults.iter().for_each(|fault| ui.warn(fault.render()));
    let fresh = found.len() - differs.len() - ungoverned.len();
    ui.answer(
        &Checked { fresh, differs: &differs, ungoverned: &ungoverned, faults: &faults, warnings: &warnings },
        || differs.iter().map(secrets::Difference::describe).collect(),
    )?;
    if differs.is_empty() && ungoverned.is_empty() && faults.is_empty() {
        ui.done(format!("All secrets open for whom their rules name: {fresh}"));
        return Ok(());
    }
    Err(silent_exit(Kind::Usage))
}

/// Faults of the rules and of the definitions' lists of secrets, and files that are not encrypted.
fn faults(
    repo: &Repo,
    common: &CommonArgs,
    path: &Path,
    rules: &Rules,
    found: &[secrets::Found],
    warnings: &mut Vec<String>,
) -> Vec<Fault> {
    let models = Definitions::load(repo, common.nix).and_then(|definitions| {
        let hosts = Hosts::load(repo, common.nix)?;
        Ok((fleet_of(&definitions, &hosts), definitions, hosts))
    });
    let known = models.as_ref().ok().map(|(fleet, _, hosts)| (hosts, fleet));
    if known.is_none() {
        warnings.push("hosts' keys were not compared: the definitions or hosts.nix are not valid".to_owned());
    }
    let vms: HashSet<&str> = models.iter().flat_map(|(_, defined, _)| defined.names()).collect();
    let doubts = rules.doubts(path, repo.root(), known, |name| vms.contains(name));
    warnings.extend(doubts.warnings);
    let mut faults = doubts.faults;
    // Without a .sops.yaml no list is looked at.
    if let (Ok((fleet, definitions, _)), true) = (&models, path.is_file()) {
        faults.extend(chosen::faults(repo, common.nix, path, rules, found, (definitions, fleet)));
    }
    faults.extend(secrets::plain(repo, path, rules).into_iter().map(|(file, rule)| {
        let message = format!("not encrypted, although {} governs it", rules.rules[rule].name());
        let help =
            format!("sops encrypt --in-place {0}; what git has seen of it needs new values", file.display());
        Fault::new(&file, Path::new(""), None, "", message).help(help)
    }));
    faults
}

impl Inventory {
    /// Runs it.
    pub fn run(&self, common: &CommonArgs) -> Result<()> {
        let ui = common.ui();
        let repo = common.repo("post-provision-vm --repo DIR inventory")?;
        let make = || {
            let definitions = Definitions::load(&repo, common.nix)?;
            let hosts = Hosts::load(&repo, common.nix)?;
            let mut plan = Plan {
                message: "docs(machines): bring the inventory up to date\n".to_owned(),
                ..Plan::default()
            };
            plan_inventory(&repo, &definitions, &hosts, &mut plan)?;
            Ok::<Plan, Error>(plan)
        };
        if self.check {
            refuse_interrupted(&repo)?;
            let plan = make()?;
            ui.answer(&serde_json::json!({ "fresh": plan.is_empty() }), || plan.diff())?;
            if plan.is_empty() {
                ui.done("The inventory is fresh");
                return Ok(());
            }
            ui.warn(if repo.inventory().exists() {
                "docs/machines.md is not what the definitions and hosts.nix give"
            } else {
                "docs/machines.md does not exist"
            });
            ui.hint(again::post_provision_vm(&["inventory"]));
            return Err(silent_exit(Kind::Usage));
        }
        let words = ("Nothing to do: the inventory is fresh", "The inventory is fresh");
        let (plan, end) = carry_out(&repo, ui, self.change, self.commit, words, make)?;
        answer(&plan, &end, self.change.dry_run, ui)
    }
}

fn answer(plan: &Plan, end: &End, dry_run: bool, ui: fleet_core::ui::Ui) -> Result<()> {
    let (End::Nothing(outcome) | End::Shown(outcome) | End::Done(outcome)) = end;
    if !ui.json() {
        return Ok(());
    }
    let warnings = plan.warnings.iter().chain(&plan.secrets.warnings).collect();
    ui.json_line(&Answer { dry_run, outcome, warnings })
}

/// Paths that readers of a secret are told about.
pub(crate) fn listed(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}
