//! Every secret and the rule that governs it: what has to be wrapped anew so that each file opens for exactly the
//! recipients that its rule names.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use fleet_core::{Error, Result, faults::Fault, repo::Repo};
use walkdir::WalkDir;

use crate::{
    identity::Identity,
    recipient::Recipient,
    rules::{Rule, Rules},
    sops::{AgeEntry, SecretFile},
    through_sops,
    yaml::in_secret,
};

/// Larger files are no secrets that sops would have made.
const LARGEST: u64 = 64 << 20;

/// One secret that changes.
#[derive(Debug, Clone)]
pub struct Rewrap {
    /// Relative to the repository.
    pub path: PathBuf,
    /// The file as it is.
    pub before: Vec<u8>,
    /// The file as it shall be; differs in its `age` block only.
    pub after: Vec<u8>,
    /// Recipients that can open it from now on and could not before.
    pub added: Vec<String>,
    /// Recipients that can not open it any more.
    pub removed: Vec<String>,
}

/// What is to be done to the secrets.
#[derive(Debug, Clone, Default)]
pub struct SecretsPlan {
    /// Files that change.
    pub rewraps: Vec<Rewrap>,
    /// Files that are as their rule says.
    pub fresh: usize,
    /// What a person should know.
    pub warnings: Vec<String>,
}

/// A file with sops metadata, and what should become of it.
#[derive(Debug)]
pub struct Found {
    /// Relative to the repository.
    pub path: PathBuf,
    file: SecretFile,
    rule: Option<usize>,
}

impl Found {
    /// The rule that governs it, by its place in the rules.
    pub fn rule(&self) -> Option<usize> {
        self.rule
    }
}

/// One secret that is not as its rule says.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Difference {
    /// Relative to the repository.
    pub path: PathBuf,
    /// Recipients that its rule names and that it does not have.
    pub missing: Vec<String>,
    /// Recipients that it has and its rule does not name.
    pub surplus: Vec<String>,
    /// Whether its keys are in other groups than its rule puts them into.
    pub regrouped: bool,
}

/// Every file with sops metadata below `secrets/` and below the rules' directory, in the order of their names.
pub fn find(repo: &Repo, rules_file: &Path, rules: &Rules, warnings: &mut Vec<String>) -> Result<Vec<Found>> {
    let rules_dir = rules_file.parent().unwrap_or_else(|| repo.root());
    let mut places = vec![repo.secrets()];
    if rules_dir == repo.root() {
        places = vec![repo.root().to_owned()];
    } else if !repo.secrets().starts_with(rules_dir) {
        places.push(rules_dir.to_owned());
    }
    let at_root = repo.root().join(".sops.yaml");
    if rules_file != at_root && at_root.is_file() {
        let rules = rules_file.strip_prefix(repo.root()).unwrap_or(rules_file);
        warnings.push(format!(
            "the rules are those in {}: .sops.yaml at the root is left as it is",
            rules.display()
        ));
    }
    let (mut found, mut faults) = (Vec::new(), Vec::new());
    for place in places.iter().filter(|place| place.is_dir()) {
        let mut own_rules = Vec::new();
        let with_rules = |dir: &Path| own_rules.push(dir.strip_prefix(repo.root()).unwrap_or(dir).to_owned());
        for entry in walk(place, repo, rules_file, with_rules) {
            let entry = entry.map_err(|e| {
                Error::failed(format!("can not look through {}", place.display())).caused_by(e)
            })?;
            let Ok(path) = entry.path().strip_prefix(repo.root()) else { continue };
            let bytes = std::fs::read(entry.path()).map_err(|e| Error::io("read", path, e))?;
            let file = match SecretFile::parse(&bytes) {
                Ok(file) => file,
                Err(e) if SecretFile::has_usual_name(path) => {
                    faults.push(in_secret(&e, path));
                    continue;
                }
                Err(e) => {
                    warnings
                        .push(format!("{}: no secret that can be read ({e}); left as it is", path.display()));
                    continue;
                }
            };
            if let Some(file) = file {
                let below =
                    entry.path().strip_prefix(rules_dir).ok().map(|p| p.to_string_lossy().into_owned());
                let governing = rules.governing(below.as_deref(), &path.to_string_lossy());
                if let Some((index, true)) = governing {
                    let warning = format!(
                        "rule '{}': read as the path from the repository's root; sops itself would not match it so",
                        rules.rules[index].path_regex.as_deref().unwrap_or_default()
                    );
                    if !warnings.contains(&warning) {
                        warnings.push(warning);
                    }
                }
                found.push(Found { path: path.to_owned(), file, rule: governing.map(|(index, _)| index) });
            }
        }
        for place in own_rules {
            warnings.push(format!("{}: it has a .sops.yaml of its own; left as it is", place.display()));
        }
    }
    if faults.is_empty() { Ok(found) } else { Err(all_of(faults, "read")) }
}

/// Files below `secrets/` that a rule governs and that are not encrypted, each with its rule: text in one of the
/// forms that sops knows by their names, and private keys.
pub fn plain(repo: &Repo, rules_file: &Path, rules: &Rules) -> Vec<(PathBuf, usize)> {
    let rules_dir = rules_file.parent().unwrap_or_else(|| repo.root());
    let mut found = Vec::new();
    for entry in walk(&repo.secrets(), repo, rules_file, |_| {}).flatten() {
        let usual = entry.path().extension().is_some() && SecretFile::has_usual_name(entry.path());
        if entry.file_name() == ".sops.yaml" {
            continue;
        }
        let Ok(path) = entry.path().strip_prefix(repo.root()) else { continue };
        let Ok(text) = std::fs::read_to_string(entry.path()) else { continue };
        let says_something =
            text.lines().map(str::trim).any(|line| !line.is_empty() && !line.starts_with(['#', ';']));
        if !(usual && says_something || holds_private_key(&text))
            || !matches!(SecretFile::parse(text.as_bytes()), Ok(None))
        {
            continue;
        }
        let below = entry.path().strip_prefix(rules_dir).ok().map(|path| path.to_string_lossy().into_owned());
        if let Some((rule, _)) = rules.governing(below.as_deref(), &path.to_string_lossy()) {
            found.push((path.to_owned(), rule));
        }
    }
    found
}

/// The files at `place` that may be secrets under these rules, in the order of their names. `with_rules` hears of
/// every directory that is passed over as it has rules of its own.
fn walk(
    place: &Path,
    repo: &Repo,
    rules_file: &Path,
    mut with_rules: impl FnMut(&Path),
) -> impl Iterator<Item = walkdir::Result<walkdir::DirEntry>> {
    let secrets = repo.secrets();
    let wanted = move |entry: &walkdir::DirEntry| {
        let rules = entry.path().join(".sops.yaml");
        let nested = entry.depth() > 0 && rules != rules_file && rules.is_file();
        if nested {
            with_rules(entry.path());
        }
        // The place itself may be a repository, and called as it likes; so may the fleet's secrets.
        !nested && (entry.depth() == 0 || entry.path() == secrets || !is_foreign(entry))
    };
    let is_one = |entry: &walkdir::DirEntry| {
        entry.file_type().is_file() && entry.metadata().map_or(true, |meta| meta.len() <= LARGEST)
    };
    WalkDir::new(place)
        .follow_links(false)
        .sort_by_file_name()
        .into_iter()
        .filter_entry(wanted)
        .filter(move |entry| entry.as_ref().map_or(true, |entry| entry.path() != rules_file && is_one(entry)))
}

fn holds_private_key(text: &str) -> bool {
    text.lines().map(str::trim).any(|line| {
        line.starts_with("AGE-SECRET-KEY-1") && line.len() > 70
            || line.starts_with("-----BEGIN ") && line.ends_with("PRIVATE KEY-----")
    })
}

/// Directories that hold nothing of ours.
fn is_foreign(entry: &walkdir::DirEntry) -> bool {
    if !entry.file_type().is_dir() {
        return false;
    }
    let name = entry.file_name().to_string_lossy();
    matches!(name.as_ref(), ".git" | ".fleet" | "target" | "node_modules" | ".direnv")
        // Another repository inside this one has its own rules.
        || entry.path().join(".git").exists()
}

/// The files that are not as their rules say.
pub fn differences(found: &[Found], rules: &Rules) -> Vec<Difference> {
    let mut out = Vec::new();
    for secret in found {
        let Some(rule) = secret.rule.map(|index| &rules.rules[index]) else { continue };
        let (missing, surplus) = compare(&secret.file, rule);
        let regrouped = !same_groups(&secret.file, rule);
        if !missing.is_empty() || !surplus.is_empty() || regrouped {
            out.push(Difference { path: secret.path.clone(), missing, surplus, regrouped });
        }
    }
    out
}

impl Difference {
    /// Lines for a person.
    pub fn describe(&self) -> String {
        let mut text = format!("{}\n", self.path.display());
        for key in &self.missing {
            text.push_str(&format!("  + {key}\n"));
        }
        for key in &self.surplus {
            text.push_str(&format!("  - {key}\n"));
        }
        if self.missing.is_empty() && self.surplus.is_empty() {
            text.push_str("  the same keys in other groups\n");
        }
        text
    }
}

/// The files that no rule governs.
pub fn ungoverned(found: &[Found]) -> impl Iterator<Item = &PathBuf> {
    found.iter().filter(|secret| secret.rule.is_none()).map(|secret| &secret.path)
}

/// The files that one of these keys can open.
pub fn readable_by(found: &[Found], retired: &[String], known: &[Recipient]) -> Vec<PathBuf> {
    let opens = |recipient: &str| {
        retired.iter().any(|key| key == recipient) || known.iter().any(|key| key.as_str() == recipient)
    };
    found
        .iter()
        .filter(|secret| secret.file.every_key().any(opens))
        .map(|secret| secret.path.clone())
        .collect()
}

fn compare(file: &SecretFile, rule: &Rule) -> (Vec<String>, Vec<String>) {
    let has: BTreeSet<&str> = file.every_key().collect();
    let wanted: BTreeSet<&str> = rule.every_key().collect();
    let owned =
        |set: std::collections::btree_set::Difference<'_, &str>| set.map(|r| (*r).to_owned()).collect();
    (owned(wanted.difference(&has)), owned(has.difference(&wanted)))
}

/// Whether the keys are in the groups that the rule puts them into.
pub(crate) fn same_groups(file: &SecretFile, rule: &Rule) -> bool {
    let set = |group: &[String]| group.iter().cloned().collect::<BTreeSet<String>>();
    let has: Vec<_> = file.metadata.groups.iter().map(|group| set(group)).collect();
    let wanted = rule.groups.iter().map(|group| group.every_key().map(str::to_owned).collect());
    let wanted: Vec<BTreeSet<String>> = if rule.groups.len() > 1 { wanted.collect() } else { Vec::new() };
    has == wanted
}

/// Brings every secret to its rule. `identities` is asked only when something has to be opened; `retired` are keys
/// that no file should carry any more.
///
/// Everything is verified here: each new text opens to the same data key, which is proven to be the file's own, has
/// exactly the rule's recipients, and is unchanged outside of the `age` block. One file that can not be done fails
/// all; the error names every such file.
pub fn plan(
    repo: &Repo,
    rules_file: &Path,
    found: &[Found],
    rules: &Rules,
    retired: &[String],
    identities: impl FnOnce() -> Result<Vec<Identity>>,
) -> Result<SecretsPlan> {
    let mut plan = SecretsPlan::default();
    let mut todo = Vec::new();
    for secret in found {
        let Some(rule) = secret.rule.map(|index| &rules.rules[index]) else {
            let shown = secret.path.display();
            plan.warnings.push(
                match retired.iter().find(|key| secret.file.every_key().any(|r| r == key.as_str())) {
                    Some(key) => {
                        format!("{shown}: no rule governs it, and the retired key {key} still opens it")
                    }
                    None => format!("{shown}: no rule governs it; left as it is"),
                },
            );
            continue;
        };
        let (missing, surplus) = compare(&secret.file, rule);
        if missing.is_empty() && surplus.is_empty() && same_groups(&secret.file, rule) {
            plan.fresh += 1;
        } else {
            todo.push((secret, rule, missing, surplus));
        }
    }
    if todo.is_empty() {
        return Ok(plan);
    }
    let identities = identities()?;
    let mut faults = Vec::new();
    for (secret, rule, added, removed) in todo {
        let relative = rules_file.strip_prefix(repo.root()).unwrap_or(rules_file);
        let done = match rule.recipients() {
            Ok(recipients) if secret.file.metadata.others.is_empty() => {
                rewrap(&secret.file, &recipients, &identities)
            }
            Err(_) if rule.groups.is_empty() => {
                Err(Error::failed("its rule names no key: nobody could open it any more"))
            }
            _ => through_sops::rewrap(relative, rules, rule, &secret.path, &secret.file, &identities),
        };
        match done {
            Ok(after) => plan.rewraps.push(Rewrap {
                path: secret.path.clone(),
                before: secret.file.text().as_bytes().to_vec(),
                after: after.into_bytes(),
                added,
                removed,
            }),
            Err(error) => faults.push(error.context(secret.path.display())),
        }
    }
    if faults.is_empty() { Ok(plan) } else { Err(all_of(faults, "wrapped anew")) }
}

/// One error for all the files that could not be done.
fn all_of(mut faults: Vec<Error>, done: &str) -> Error {
    if faults.len() == 1 {
        return faults.remove(0).now("nothing was changed");
    }
    let mut error = Error::failed(format!("{} secrets can not be {done}", faults.len()));
    for fault in &faults {
        error = error.now(fault.chain());
    }
    let (mut facts, mut hints) = (BTreeSet::new(), BTreeSet::new());
    for fault in &faults {
        facts.extend(fault.facts().iter().cloned());
        hints.extend(fault.hints().iter().cloned());
    }
    let located: Vec<Fault> = faults.iter().flat_map(fleet_core::faults::of).collect();
    if located.len() == faults.len() {
        error = error.details(serde_json::json!(located));
    }
    error = facts.into_iter().fold(error, Error::now);
    hints.into_iter().fold(error.now("nothing was changed"), Error::hint)
}

fn rewrap(file: &SecretFile, recipients: &[Recipient], identities: &[Identity]) -> Result<String> {
    if recipients.is_empty() {
        return Err(Error::failed("its rule names no recipient: nobody could open it any more"));
    }
    let (key, _) = file.data_key(identities)?;
    file.prove(&key)?;
    // Whoever wraps must be able to open the result, or it could not be verified.
    let openers: Vec<Identity> =
        identities.iter().filter(|identity| recipients.contains(identity.recipient())).cloned().collect();
    if openers.is_empty() {
        return Err(Error::refused("its rule names none of your keys: you could not open it any more")
            .hint("run this with the identity of somebody whom the rule names"));
    }
    let entries =
        recipients.iter().map(|recipient| key.wrap(recipient)).collect::<Result<Vec<AgeEntry>>>()?;
    let after = file.with_entries(&entries)?;
    let broken = |what: &str| Error::failed(format!("the new text would {what}"));
    let parsed = SecretFile::parse(after.as_bytes())?.ok_or_else(|| broken("be no sops file"))?;
    if parsed.metadata.age != entries {
        return Err(broken("not have the recipients that were meant"));
    }
    if parsed.outside() != file.outside() {
        return Err(broken("differ outside of the age block"));
    }
    let mut parsed = parsed;
    parsed
        .metadata
        .age
        .retain(|entry| openers.iter().any(|opener| opener.recipient().as_str() == entry.recipient));
    let (again, _) = parsed.data_key(&openers)?;
    if again != key {
        return Err(broken("open to another data key"));
    }
    Ok(after)
}
