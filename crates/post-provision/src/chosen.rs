//! A definition's `secrets` list: which rules the VM's key goes into, where the definition says so itself.

use std::{
    collections::BTreeSet,
    path::{Component, Path, PathBuf},
};

use fleet_core::{Error, Result, definitions::nearest, repo::Repo};

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
    let dir = path.parent().and_then(|dir| dir.strip_prefix(repo.root()).ok()).unwrap_or(Path::new(""));
    rules_named(list, name, rules, &found, dir, fleet)
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
) -> Result<BTreeSet<usize>> {
    let mut chosen = BTreeSet::new();
    let (mut unknown, mut others) = (Vec::new(), Vec::new());
    for entry in list {
        let Some(named) = named(entry, rules, found, rules_dir) else {
            unknown.push(entry);
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
    let field = format!("managed.{host}.secrets");
    if !unknown.is_empty() {
        let mut error = Error::usage(format!(
            "{field} names no secret that a rule governs, and no rule: {}",
            unknown.iter().map(|entry| format!("'{}'", entry.escape_debug())).collect::<Vec<_>>().join(", ")
        ))
        .now("an entry is a secret file or a directory with some, or a rule's path_regex as it is written")
        .now("nothing was changed");
        let paths: Vec<String> = found.iter().map(|secret| secret.path.display().to_string()).collect();
        let regexes = rules.rules.iter().filter_map(|rule| rule.path_regex.as_deref());
        let names: Vec<&str> = paths.iter().map(String::as_str).chain(regexes).collect();
        for entry in unknown {
            if let Some(near) = nearest(entry, names.iter().copied()) {
                error = error.hint(format!("did you mean '{near}'?"));
            }
        }
        return Err(error);
    }
    if !others.is_empty() {
        others.dedup();
        let error = Error::refused(format!("refused: {field} leads to secrets that are another host's own"));
        return Err(others
            .into_iter()
            .fold(error, Error::now)
            .now("nothing was changed")
            .hint("move what both need to a file whose rule is for both"));
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
