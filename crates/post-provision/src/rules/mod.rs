//! `.sops.yaml`: which recipients each secret is for.
//!
//! Read as sops 3.11 reads it (`config/config.go` in its sources): the first rule whose `path_regex` matches the
//! path below the file's own directory governs; a rule without one governs everything. Where no rule matches that
//! way the path below the repository is tried too: `secrets/.sops.yaml` with `path_regex: secrets/.*` is common,
//! and means what it says although today's sops reads it otherwise.

mod comment;
mod definitions;
mod doubts;
mod edit;
mod listed;
mod ours;
mod pattern;
mod select;
mod shape;
mod splice;

use std::{collections::HashSet, path::Path};

use fleet_core::{Error, Result};
use regex::Regex;

pub use doubts::Doubts;
pub use edit::{Edited, HostChange};
pub use select::Fleet;

use crate::{
    recipient::Recipient,
    sops::foreign,
    yaml::{Data, Node, Stream, in_file},
};

/// A parsed `.sops.yaml`.
#[derive(Debug, Clone)]
pub struct Rules {
    text: String,
    stream: Stream,
    /// Its creation rules, in the file's order.
    pub rules: Vec<Rule>,
}

/// One creation rule.
#[derive(Debug, Clone)]
pub struct Rule {
    /// Its line, from 1.
    pub line: usize,
    /// As written; `None` governs everything.
    pub path_regex: Option<String>,
    regex: Option<Regex>,
    /// Its key groups; more than one means shares of a key.
    pub groups: Vec<Group>,
}

/// The keys of one group.
#[derive(Debug, Clone, Default)]
pub struct Group {
    /// Age keys as written, in order, each once.
    pub age: Vec<String>,
    /// Kinds of other keys in it.
    pub others: Vec<String>,
    /// Names of those, as [`crate::sops::foreign`] gives them.
    foreign: Vec<String>,
    /// Where its age keys are written; several with `merge`.
    lists: Vec<List>,
}

/// A place where recipients are listed: a list, a text with commas, or the name of one key where such a text may stand.
#[derive(Debug, Clone)]
struct List {
    node: Node,
    items: Vec<Item>,
    /// It stands in the rule itself: a text may take its place.
    direct: bool,
}

/// One element of a list, or the whole of a text with commas.
#[derive(Debug, Clone)]
struct Item {
    start: usize,
    end: usize,
    text_start: usize,
    line: usize,
    /// Name of the alias, if it is one.
    alias: Option<String>,
    /// Where what it stands for begins: itself, unless it is an alias.
    target: usize,
    anchor: Option<String>,
    recipients: Vec<String>,
}

impl Item {
    /// An element as it is written, with what it stands for.
    fn of(node: &Node, recipients: Vec<String>, resolved: &Node) -> Item {
        Item {
            start: node.start,
            end: node.end,
            text_start: node.text_start,
            line: node.line,
            alias: match &node.data {
                Data::Alias { name, .. } => Some(name.clone()),
                _ => None,
            },
            target: resolved.start,
            anchor: node.anchor.clone(),
            recipients,
        }
    }
}

impl Rule {
    /// `path_regex` as a person would name the rule.
    pub fn name(&self) -> String {
        match &self.path_regex {
            Some(regex) => format!("rule '{regex}' (line {})", self.line),
            None => format!("rule for everything (line {})", self.line),
        }
    }

    /// Its recipients, if it has one group of nothing but age X25519 keys; else what it has that needs sops itself.
    pub fn recipients(&self) -> Result<Vec<Recipient>> {
        let needs_sops = |what: String| {
            Error::failed(format!("{} uses {what}", self.name()))
                .hint("change its secrets with `sops updatekeys`")
        };
        let [group] = self.groups.as_slice() else {
            return Err(needs_sops(match self.groups.len() {
                0 => "no keys at all".to_owned(),
                several => format!("{several} key groups"),
            }));
        };
        if let Some(kind) = group.others.first() {
            return Err(needs_sops(format!("{kind} keys")));
        }
        group
            .age
            .iter()
            .map(|text| {
                text.parse().map_err(|_| needs_sops(format!("the key '{text}', which is no age X25519 key")))
            })
            .collect()
    }

    /// Every age key in any of its groups.
    pub fn age_keys(&self) -> impl Iterator<Item = &str> {
        self.groups.iter().flat_map(|group| group.age.iter().map(String::as_str))
    }

    /// Every key in any of its groups: age keys as written, and the names of others.
    pub fn every_key(&self) -> impl Iterator<Item = &str> {
        self.groups.iter().flat_map(Group::every_key)
    }

    fn matches(&self, path: &str) -> bool {
        self.regex.as_ref().is_none_or(|regex| regex.is_match(path))
    }
}

impl Group {
    /// Age keys as written, and the names of others.
    pub fn every_key(&self) -> impl Iterator<Item = &str> {
        self.age.iter().chain(&self.foreign).map(String::as_str)
    }
}

impl Rules {
    /// Parses the file's text. Errors carry the line; `path` is for them only.
    pub fn parse(text: &str, path: &Path) -> Result<Rules> {
        Rules::read(text).map_err(|e| in_file(e, text, path))
    }

    fn read(text: &str) -> Result<Rules> {
        let stream = Stream::parse(text)?;
        let root = match stream.documents.as_slice() {
            // Nothing but comments yet.
            [] => return Ok(Rules { text: text.to_owned(), stream, rules: Vec::new() }),
            // sops reads the first document of several, and no other.
            [root, ..] => root,
        };
        shape::file(&stream, stream.resolve(root))?;
        stream.documents.iter().try_for_each(shape::no_private_key)?;
        let mut rules = Vec::new();
        if let Some(list) = stream.get(root, "creation_rules").filter(|node| !node.is_nothing()) {
            if !matches!(list.data, Data::Seq(_)) {
                return Err(list.wrong("creation_rules is not a list").hint("each rule begins with `- `"));
            }
            for item in list.items() {
                rules.push(rule(&stream, stream.resolve(item))?);
            }
        }
        let mut rules = Rules { text: text.to_owned(), stream, rules };
        rules.name_no_lists();
        shape::text(text)?;
        Ok(rules)
    }

    /// A name that stands for a list of another rule is no name of one key, although that list holds only one now: what
    /// joins the list joins the name.
    fn name_no_lists(&mut self) {
        let lists = |rules: &Rules| -> HashSet<usize> {
            let lists = rules.rules.iter().flat_map(|rule| &rule.groups).flat_map(|group| &group.lists);
            lists
                .filter(|list| !matches!(list.node.data, Data::Alias { .. }))
                .map(|list| list.node.start)
                .collect()
        };
        let own = lists(self);
        let groups = self.rules.iter_mut().flat_map(|rule| &mut rule.groups);
        for list in groups.flat_map(|group| &mut group.lists) {
            let node = self.stream.resolve(&list.node);
            if node.start != list.node.start && own.contains(&node.start) {
                list.items =
                    list.items.iter().map(|item| Item::of(node, item.recipients.clone(), node)).collect();
                list.node = node.clone();
            }
        }
    }

    /// The file's text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The rule that governs a file: `below` is its path from the rules' directory, `from_root` from the
    /// repository's root. The flag tells that sops itself would see it otherwise.
    pub fn governing(&self, below: Option<&str>, from_root: &str) -> Option<(usize, bool)> {
        let strict = |rule: &Rule| below.is_some_and(|path| rule.matches(path));
        let by_sops = self.rules.iter().position(strict);
        let meant = self
            .rules
            .iter()
            .position(|rule| strict(rule) || rule.regex.is_some() && rule.matches(from_root));
        meant.map(|index| (index, by_sops != Some(index)))
    }

    /// `None` for a file of nothing but comments.
    fn root(&self) -> Option<&Node> {
        self.stream.documents.first()
    }
}

fn rule(stream: &Stream, node: &Node) -> Result<Rule> {
    if !matches!(node.data, Data::Map(_)) {
        return Err(node.wrong("a creation rule is not a mapping"));
    }
    shape::rule(stream, node)?;
    let path_regex =
        stream.get(node, "path_regex").and_then(Node::scalar).filter(|t| !t.is_empty()).map(str::to_owned);
    let regex = path_regex.as_deref().map(pattern::compiled).transpose().map_err(|why| {
        let at = stream.get(node, "path_regex").unwrap_or(node);
        at.wrong(format!("path_regex '{}' is not valid: {why}", path_regex.as_deref().unwrap_or_default()))
            .hint("a regular expression as Go has them: `\\.yaml$` for what a shell calls `*.yaml`")
    })?;
    let groups = match stream.get(node, "key_groups").filter(|g| !g.is_nothing()) {
        Some(list) => list
            .items()
            .iter()
            .map(|g| group(stream, stream.resolve(g), false, 0))
            .collect::<Result<Vec<_>>>()?,
        None => {
            let group = group(stream, node, true, 0)?;
            if group.age.is_empty() && group.others.is_empty() && group.lists.is_empty() {
                Vec::new()
            } else {
                vec![group]
            }
        }
    };
    Ok(Rule { line: node.line, path_regex, regex, groups })
}

/// Names of the other keys, in groups and in rules.
const OTHER_KEYS: [&str; 11] = [
    "pgp",
    "kms",
    "gcp_kms",
    "azure_keyvault",
    "azure_kv",
    "hc_vault",
    "hc_vault_transit_uri",
    "hc_vault_uris",
    "hckms",
    "plugins",
    "aws_kms",
];

fn group(stream: &Stream, node: &Node, direct: bool, depth: usize) -> Result<Group> {
    let mut group = Group::default();
    if depth > 20 {
        return Err(node.wrong("merged too deep"));
    }
    if let Some(merged) = stream.get(node, "merge") {
        for item in merged.items() {
            let inner = self::group(stream, stream.resolve(item), false, depth + 1)?;
            group.others.extend(inner.others);
            group.foreign.extend(inner.foreign);
            group.lists.extend(inner.lists);
        }
    }
    if let Some(value) = stream.written(node, "age") {
        group.lists.push(list(stream, value, direct)?);
    }
    for kind in OTHER_KEYS {
        if let Some(value) = stream.get(node, kind).filter(|value| !value.is_nothing()) {
            group.others.push(kind.to_owned());
            group.foreign.extend(foreign_keys(stream, kind, value));
        }
    }
    let listed = group.lists.iter().flat_map(|list| &list.items).flat_map(|item| &item.recipients);
    let mut seen = HashSet::new();
    group.age = listed.filter(|recipient| seen.insert(*recipient)).cloned().collect();
    Ok(group)
}

/// Names of the keys of another kind: a list of texts or of mappings, or one text with commas.
fn foreign_keys(stream: &Stream, kind: &str, value: &Node) -> Vec<String> {
    let texts = |text: &str| -> Vec<String> {
        text.split(',').filter_map(|one| foreign::of_text(kind, one)).collect()
    };
    match &value.data {
        Data::Scalar(text, _) => texts(text),
        Data::Seq(items) => items
            .iter()
            .map(|item| stream.resolve(item))
            .flat_map(|item| match &item.data {
                Data::Scalar(text, _) => texts(text),
                Data::Seq(_) => foreign_keys(stream, kind, item),
                _ => {
                    let field = |name: &str| stream.get(item, name)?.scalar().map(str::to_owned);
                    foreign::of_fields(kind, field).into_iter().collect()
                }
            })
            .collect(),
        _ => Vec::new(),
    }
}

fn list(stream: &Stream, written: &Node, direct: bool) -> Result<List> {
    let node = stream.resolve(written);
    let split =
        |text: &str| text.split(',').map(str::trim).filter(|t| !t.is_empty()).map(str::to_owned).collect();
    let items = match &node.data {
        Data::Scalar(text, _) => vec![Item::of(node, split(text), node)],
        Data::Seq(items) => items
            .iter()
            .map(|element| {
                let resolved = stream.resolve(element);
                match &resolved.data {
                    Data::Scalar(..) if resolved.is_nothing() => Ok(Item::of(element, Vec::new(), resolved)),
                    Data::Scalar(text, _) => Ok(Item::of(element, split(text), resolved)),
                    Data::Seq(_) => {
                        Err(element.wrong("a list in the list: sops takes keys here, one by one"))
                    }
                    _ => Err(element.wrong("not an age recipient")),
                }
            })
            .collect::<Result<_>>()?,
        _ => return Err(node.wrong("age is neither a list nor a text")),
    };
    let mut list = List { node: node.clone(), items, direct };
    if let (Data::Alias { .. }, [item]) = (&written.data, list.items.as_mut_slice())
        && matches!(node.data, Data::Scalar(..))
        && item.recipients.len() == 1
    {
        // The name of one key, which is not the place to list others.
        *item = Item::of(written, std::mem::take(&mut item.recipients), node);
        list.node = written.clone();
    }
    Ok(list)
}
