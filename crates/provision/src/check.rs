//! `provision-vm check`: the whole repository, offline. For a pre-commit hook and a flake check.

use std::path::PathBuf;

use fleet_core::{
    Kind, Result,
    faults::{self, Fault},
    interrupt,
    repo::Repo,
    ui::Ui,
    validate,
};
use serde::Deserialize;

use crate::{cli::Cli, tools::Tools};

/// What `post-provision-vm --json inventory --check` answers.
#[derive(Deserialize)]
struct Inventory {
    fresh: bool,
}

/// What `post-provision-vm --json secrets --check` answers.
#[derive(Deserialize)]
struct Secrets {
    fresh: usize,
    differs: Vec<serde_json::Value>,
    /// Encrypted files that no rule governs.
    #[serde(default)]
    ungoverned: Vec<PathBuf>,
    /// Faults of the rules, and files that are not encrypted.
    #[serde(default)]
    faults: Vec<Fault>,
    #[serde(default)]
    warnings: Vec<String>,
}

/// Runs the verb: definitions, hosts and host directories, the sops rules with the secrets they govern and, where the
/// definitions and the hosts can be read, the inventory. Every fault is in the one error; exit code 0 or 1.
pub fn run(cli: &Cli) -> Result<()> {
    let ui = cli.common.ui();
    let repo = cli.common.repo("provision-vm --repo DIR check")?;
    let tools = Tools::find(cli, &repo)?;
    let report = validate::repository(&repo, cli.common.nix);
    let mut found = report.faults;
    let models = report.definitions.as_ref().zip(report.hosts.as_ref());
    if let (Some((definitions, hosts)), true) = (models, found.is_empty()) {
        ui.done(format!(
            "Definitions: {} managed, {} imported; {} hosts",
            definitions.managed.len(),
            definitions.imported.len(),
            hosts.hosts.len()
        ));
        definitions.managed.iter().filter_map(validate::without_gateway).for_each(|warning| ui.warn(warning));
    }
    found.extend(secrets(&tools, &repo, ui));
    if models.is_some() {
        found.extend(inventory(&tools, &repo, ui));
    }
    // What could not be read because somebody stopped it is no fault.
    interrupt::check()?;
    faults::check("the fleet repository", found).map_err(|error| error.with_kind(Kind::Failed))?;
    if cli.common.json {
        return ui.json_line(&serde_json::json!({ "valid": true }));
    }
    Ok(())
}

fn secrets(tools: &Tools, repo: &Repo, ui: Ui) -> Vec<Fault> {
    let rules = repo.sops_rules();
    let shown = rules.clone().unwrap_or_else(|| repo.secrets().join(".sops.yaml"));
    let fault = |message: String| Fault::new(&shown, repo.root(), None, "", message);
    let answer = match tools.ask_post_provision::<Secrets>(&["secrets", "--check"]) {
        Ok(answer) => answer,
        // Neither rules nor anything encrypted.
        Err(error) if rules.is_none() && error.kind() == Kind::NotFound => return Vec::new(),
        Err(error) => return faults::from_error(&error, &shown, repo.root()),
    };
    let mut found = answer.faults;
    if let [first, more @ ..] = answer.ungoverned.as_slice() {
        let first = first.display();
        let more = if more.is_empty() { String::new() } else { format!(" and {} more", more.len()) };
        found.push(if rules.is_none() {
            fault(format!("does not exist, but {first}{more} can be opened by those that it named"))
                .help("take it out of git's history again, or take the files away")
        } else {
            fault(format!("no rule governs {first}{more}"))
                .help("give it a rule that names who may read it, or take the file away")
        });
    }
    if !answer.differs.is_empty() {
        let count = answer.differs.len();
        found.push(fault(format!("{count} secrets do not open for exactly whom their rules name")).help(
            "`post-provision-vm secrets --check` says how they differ, `post-provision-vm secrets` mends it",
        ));
    }
    if found.is_empty() {
        answer.warnings.iter().for_each(|warning| ui.warn(warning));
        ui.done(format!("Secrets: {} open for exactly whom their rules name", answer.fresh));
    }
    found
}

fn inventory(tools: &Tools, repo: &Repo, ui: Ui) -> Vec<Fault> {
    let file = repo.inventory();
    let fault = |message: String| Fault::new(&file, repo.root(), None, "", message);
    if !file.exists() {
        return vec![fault("does not exist".to_owned()).help("`post-provision-vm inventory` writes it")];
    }
    let fault = match tools.ask_post_provision::<Inventory>(&["inventory", "--check"]) {
        Ok(Inventory { fresh: true }) => {
            ui.done("Inventory: fresh");
            None
        }
        Ok(Inventory { fresh: false }) => Some(
            fault("not what the definitions and hosts.nix give".to_owned())
                .help("`post-provision-vm inventory` brings it up to date"),
        ),
        Err(error) => return faults::from_error(&error, &file, repo.root()),
    };
    fault.into_iter().collect()
}

/// Whether the inventory does not tell what the definitions say; not where that can not be told.
pub(crate) fn inventory_is_behind(tools: &Tools, repo: &Repo) -> bool {
    repo.inventory().exists()
        && tools
            .ask_post_provision::<Inventory>(&["inventory", "--check"])
            .is_ok_and(|inventory| !inventory.fresh)
}
