//! A definition's `secrets` list: which rules the VM's key goes into, where the definition says so itself.

use std::{
    collections::BTreeSet,
    path::{Component, Path, PathBuf},
};

use fleet_core::{
    Error, Result,
    definitions::{Definitions, ManagedVm, nearest},
    faults::Fault,
    nix::{NixMode, source::Location},
    repo::Repo,
    validate,
};

use crate::{
    rules::{Fleet, Rule, Rules},
    secrets::{self, Found},
};

/// The rules that the definition's `secrets` list names.
pub(crate) fn rules_of(
    repo: &Repo,
    path: &Path,
    rules: &Rules,
    list: &[String],
    name: &str,
    fleet: &Fleet,
) -> Result<BTreeSet<usize>> {
    let found = secrets::find(repo, path, rules, &mut Vec::new())?;
    rules_named(list, name, rules, &found, rules_dir(repo, path), fleet).map_err(|wrong| wrong.error(name))
}

/// Faults of the `secrets` lists of all managed VMs, each at its place in the definitions. `found` are the repository's
/// secrets.
pub(crate) fn faults(
    repo: &Repo,
    nix: NixMode,
    path: &Path,
    rules: &Rules,
    found: &[Found],
    (definitions, fleet): (&Definitions, &Fleet),
) -> Vec<Fault> {
    let dir = rules_dir(repo, path);
    let wrong = |vm: &ManagedVm| {
        let list = vm.secrets.as_ref()?;
        rules_named(list, vm.name.as_str(), rules, found, dir, fleet).err()
    };
    let wrong: Vec<(&str, Wrong)> =
        definitions.managed.iter().filter_map(|vm| Some((vm.name.as_str(), wrong(vm)?))).collect();
    if wrong.is_empty() {
        return Vec::new();
    }
    let paths: Vec<[&str; 3]> = wrong.iter().map(|(name, _)| ["managed", name, "secrets"]).collect();
    let paths: Vec<&[&str]> = paths.iter().map(<[&str; 3]>::as_slice).collect();
    let places = validate::places_in_definitions(repo, nix, &paths);
    let told = wrong.into_iter().zip(places);
    told.map(|((name, wrong), at)| wrong.fault(&definitions.path, repo.root(), at.as_ref(), &field(name)))
        .collect()
}

/// The rules' directory, from the repository's root.
fn rules_dir<'a>(repo: &Repo, path: &'a Path) -> &'a Path {
    path.parent().and_then(|dir| dir.strip_prefix(repo.root()).ok()).unwrap_or(Path::new(""))
}

fn field(name: &str) -> String {
    if name.contains('.') { format!("managed.\"{name}\".secrets") } else { format!("managed.{name}.secrets") }
}

/// What is wrong with a list.
enum Wrong {
    /// Entries that are neither a secret nor a rule, and what they may be meant for.
    Unknown { entries: Vec<String>, near: Vec<String> },
    /// Entries that lead to rules of other hosts' own, each with the rule.
    OfOthers(Vec<String>),
}

const WHAT: &str =
    "an entry is a secret file or a directory with some, or a rule's path_regex as it is written";
const MOVE: &str = "move what both need to a file whose rule is for both";

impl Wrong {
    fn unknown(entries: &[String]) -> String {
        let entries: Vec<String> =
            entries.iter().map(|entry| format!("'{}'", entry.escape_debug())).collect();
        format!("names no secret that a rule governs, and no rule: {}", entries.join(", "))
    }

    fn error(self, name: &str) -> Error {
        let field = field(name);
        match self {
            Wrong::Unknown { entries, near } => {
                let error = Error::usage(format!("{field} {}", Wrong::unknown(&entries)));
                let error = error.now(WHAT).now("nothing was changed");
                near.iter().fold(error, |error, near| error.hint(format!("did you mean '{near}'?")))
            }
            Wrong::OfOthers(entries) => {
                let what = format!("refused: {field} leads to secrets that are another host's own");
                let error = entries.into_iter().fold(Error::refused(what), Error::now);
                error.now("nothing was changed").hint(MOVE)
            }
        }
    }

    fn fault(self, file: &Path, base: &Path, at: Option<&Location>, field: &str) -> Fault {
        let (message, help) = match self {
            Wrong::Unknown { entries, near } if near.is_empty() => {
                (Wrong::unknown(&entries), WHAT.to_owned())
            }
            Wrong::Unknown { entries, near } => {
                let near: Vec<String> = near.iter().map(|near| format!("'{near}'")).collect();
                (Wrong::unknown(&entries), format!("did you mean {}? {WHAT}", near.join(", ")))
            }
            Wrong::OfOthers(entries) => (
                format!("leads to secrets that are another host's own: {}", entries.join("; ")),
                MOVE.to_owned(),
            ),
        };
        Fault::new(file, base, at, field, message).help(help)
    }
}

/// What is said of rules that list the host although its definition does not name them.
pub(crate) fn beside(name: &str, rules: &Rules, chosen: &BTreeSet<usize>, recipient: &str) -> Vec<String> {
    let listed = |rule: &Rule| rule.age_keys().any(|key| key == recipient);
    let beside =
        rules.rules.iter().enumerate().filter(|(index, rule)| !chosen.contains(index) && listed(rule));
    beside
        .map(|(_, rule)| {
            format!("{} lists {name}, which managed.{name}.secrets does not name; left as it is", rule.name())
        })
        .collect()
}

/// The rules (by their place in the file) that a list names. Each entry is a secret file, or a directory with some,
/// from the repository's root or from the rules' directory (`rules_dir`, below the root); or a rule's `path_regex`
/// as it is written. Every entry that is none of these is told at once, and so is one that leads to a rule of
/// another host's own.
fn rules_named(
    list: &[String],
    host: &str,
    rules: &Rules,
    found: &[Found],
    rules_dir: &Path,
    fleet: &Fleet,
) -> Result<BTreeSet<usize>, Wrong> {
    let mut chosen = BTreeSet::new();
    let (mut unknown, mut others) = (Vec::new(), Vec::new());
    for entry in list {
        let Some(named) = named(entry, rules, found, rules_dir) else {
            unknown.push(entry.clone());
            continue;
        };
        for index in named {
            match rules.owner(index, host, fleet) {
                Some(owner) => {
                    others.push(format!("'{entry}': {} is {owner}'s own", rules.rules[index].name()));
                }
                None => {
                    chosen.insert(index);
                }
            }
        }
    }
    if !unknown.is_empty() {
        let paths: Vec<String> = found.iter().map(|secret| secret.path.display().to_string()).collect();
        let regexes = rules.rules.iter().filter_map(|rule| rule.path_regex.as_deref());
        let names: Vec<&str> = paths.iter().map(String::as_str).chain(regexes).collect();
        let near = unknown.iter().filter_map(|entry| nearest(entry, names.iter().copied()));
        let near = near.map(str::to_owned).collect();
        return Err(Wrong::Unknown { entries: unknown, near });
    }
    if !others.is_empty() {
        others.dedup();
        return Err(Wrong::OfOthers(others));
    }
    Ok(chosen)
}

fn named(entry: &str, rules: &Rules, found: &[Found], rules_dir: &Path) -> Option<BTreeSet<usize>> {
    let path: PathBuf = Path::new(entry).components().filter(|part| *part != Component::CurDir).collect();
    for place in [path.clone(), rules_dir.join(&path)] {
        let below = found.iter().filter(|secret| !entry.is_empty() && secret.path.starts_with(&place));
        let governing: BTreeSet<usize> = below.filter_map(Found::rule).collect();
        if !governing.is_empty() {
            return Some(governing);
        }
    }
    let written = |rule: &Rule| rule.path_regex.as_deref() == Some(entry);
    let by_regex: BTreeSet<usize> =
        rules.rules.iter().enumerate().filter(|(_, rule)| written(rule)).map(|(index, _)| index).collect();
    (!by_regex.is_empty()).then_some(by_regex)
}
