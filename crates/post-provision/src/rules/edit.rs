//! One host's key in `.sops.yaml`: put in, replaced or taken out, with every other byte kept.
//!
//! The change is a list of byte ranges with their new text; the result is parsed again and must say exactly what
//! was meant, rule by rule, before anybody sees it.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use fleet_core::{Error, Result};

use super::{
    Fleet, Item, Rules,
    definitions::{Definition, Home, as_list, collect, nameless},
    select::Verdict,
    splice::Edits,
};
use crate::{
    recipient::Recipient,
    yaml::{Data, Node},
};

/// What is to become of a host's key.
#[derive(Debug, Clone)]
pub struct HostChange<'a> {
    /// The host; its anchor.
    pub host: &'a str,
    /// Its key from now on; `None` takes the host out.
    pub recipient: Option<&'a Recipient>,
    /// Keys that it is known to have had, besides those under its anchor.
    pub known: &'a [Recipient],
}

/// What became of it.
#[derive(Debug, Clone, Default)]
pub struct Edited {
    /// The file's new text.
    pub text: String,
    /// Keys of the host that nothing names any more.
    pub retired: Vec<String>,
    /// Rules (by name) that list the host's key now and did not list any key of its before.
    pub gained: Vec<String>,
    /// Rules (by name) that it was kept out of because they are another host's own, with that host.
    pub withheld: Vec<(String, String)>,
    /// Rules that no key is left in.
    pub emptied: Vec<String>,
}

impl Rules {
    /// The file with a host's key changed. `path` is for errors.
    pub fn with_host(&self, change: &HostChange<'_>, fleet: &Fleet, path: &Path) -> Result<Edited> {
        self.with_host_in(change, fleet, None, path)
    }

    /// As [`Rules::with_host`], and where rules are `chosen` (by their place) the key joins these and no others.
    pub fn with_host_in(
        &self,
        change: &HostChange<'_>,
        fleet: &Fleet,
        chosen: Option<&BTreeSet<usize>>,
        path: &Path,
    ) -> Result<Edited> {
        self.edit(change, fleet, chosen)
            .map_err(|e| e.context(format_args!("can not change {}", path.display())))
    }

    fn edit(
        &self,
        change: &HostChange<'_>,
        fleet: &Fleet,
        chosen: Option<&BTreeSet<usize>>,
    ) -> Result<Edited> {
        // Who is taken out may be in no file any more.
        let with_host = fleet.with(change.host);
        let fleet = &*with_host;
        let mut definitions = Vec::new();
        if let Some(root) = self.root() {
            collect(root, Home::Other, &mut definitions);
        }
        let new = change.recipient.map(Recipient::as_str);
        let mut known: BTreeSet<&str> = change.known.iter().map(Recipient::as_str).chain(new).collect();
        known.extend(self.keys_by_comment(change.host, fleet).into_iter().filter_map(Node::scalar));
        let is_ours = |node: &Node| {
            node.anchor.as_deref() == Some(change.host)
                || node.scalar().is_some_and(|text| {
                    is_one_of(text, &known)
                        || fleet.host_of(text, node.anchor.as_deref()) == Some(change.host)
                })
        };
        let name = self.free_name(change.host, &definitions)?;
        // Definitions: an anchor that bears the host's name, or one of its keys under whatever anchor or none.
        let mut bare = Vec::new();
        if let Some(root) = self.root() {
            nameless(root, &mut bare);
        }
        bare.retain(|d| !self.in_a_group(d.node));
        let ours: Vec<&Definition<'_>> =
            definitions.iter().chain(&bare).filter(|d| is_key(d.node) && is_ours(d.node)).collect();
        let mut keys: BTreeSet<String> =
            ours.iter().filter_map(|d| d.node.scalar()).map(str::to_owned).collect();
        keys.extend(known.iter().map(|k| (*k).to_owned()));
        let listed = self.rules.iter().flat_map(super::Rule::age_keys).filter(|key| is_one_of(key, &known));
        keys.extend(listed.map(str::to_owned));
        let anchors: BTreeSet<&str> =
            ours.iter().filter_map(|d| d.node.anchor.as_deref()).chain([change.host]).collect();

        // A VM called as a person's anchor must not take the person's place.
        for definition in &ours {
            let Some(key) = definition.node.scalar().filter(|key| Some(*key) != new) else { continue };
            if let Some(owner) = fleet.owner_besides(change.host, key) {
                let line = definition.node.line;
                return Err(Error::conflict(format!("line {line}: &{} is the key of {owner}", change.host))
                    .now("nothing was changed")
                    .hint("give that key another anchor, or the VM another name"));
            }
        }

        let mut edits = Edits::default();
        let mut gone: BTreeSet<usize> = BTreeSet::new();
        // The first definition stays, so that every alias behind it stays valid.
        let keep = new.and_then(|_| ours.iter().find(|d| !self.in_a_group(d.node)).or(ours.first()));
        for definition in &ours {
            let node = definition.node;
            if let (Some(new), Some(kept)) = (new, keep)
                && kept.node.start == node.start
            {
                self.replace_value(node, new, &mut edits)?;
            } else if !self.in_a_group(node) {
                match definition.home {
                    Home::List(list) => {
                        self.delete_of(
                            change.host,
                            fleet,
                            list,
                            &Item::of(node, Vec::new(), node),
                            &mut edits,
                        )?;
                    }
                    Home::Entry(key) => self.delete_lines(key.start, node.end, node.line, &mut edits)?,
                    Home::FlowEntry(map, key) => {
                        let (list, pair) = as_list(map, key);
                        self.delete(&list, &Item::of(&pair, Vec::new(), &pair), &mut edits)?;
                    }
                    Home::Pair(list, pair) => {
                        let item = Item::of(pair, Vec::new(), pair);
                        self.delete_of(change.host, fleet, list, &item, &mut edits)?;
                    }
                    Home::Other => {
                        return Err(Error::failed(format!(
                            "line {}: &{} is defined where it can not be taken out: do it by hand",
                            node.line, change.host
                        )));
                    }
                }
                gone.insert(node.start);
            }
        }
        let anchor = keep.and_then(|d| d.node.anchor.clone());
        self.names_elsewhere(change.host, fleet, &gone, anchor.as_deref(), &mut edits)?;
        let verdicts: Vec<Verdict> =
            self.rules.iter().map(|rule| self.verdict(rule, change.host, fleet)).collect();
        let wanted = |place: usize| match chosen {
            Some(chosen) => chosen.contains(&place),
            None => matches!(verdicts[place], Verdict::Own | Verdict::Fleet),
        };
        let joins = self.joins(change.host, fleet, &keys, |place| new.is_some() && wanted(place));

        let mut edited = Edited::default();
        let reference = match (&anchor, new) {
            (Some(anchor), _) => format!("*{anchor}"),
            (None, Some(new)) if keep.is_some() => new.to_owned(),
            _ => format!("*{name}"),
        };
        // The first list that takes a name: there it is defined, unless it is before.
        let takers = joins.iter().filter_map(|(place, index)| self.rules[*place].groups[*index].lists.last());
        let takers = takers.filter(|list| !matches!(list.node.data, Data::Scalar(..)));
        let mut first = takers.map(|list| list.node.start).min();
        if let (None, Some(new)) = (keep, new) {
            let place = self.place_for_definition(&definitions, fleet);
            match place.filter(|(_, after)| first.is_none_or(|first| after.start < first)) {
                Some((Home::List(list), after)) => {
                    self.insert(list, Some(after), &format!("&{name} {new}"), &mut edits)?;
                    first = None;
                }
                Some((Home::FlowEntry(map, key), _)) => {
                    let (list, pair) = as_list(map, key);
                    let text = format!("{}: &{name} {new}", change.host);
                    self.insert(&list, Some(&pair), &text, &mut edits)?;
                    first = None;
                }
                Some((Home::Pair(list, _), after)) => {
                    let text = format!("{}: &{name} {new}", change.host);
                    self.insert(list, Some(after), &text, &mut edits)?;
                    first = None;
                }
                Some((Home::Entry(key), after)) => {
                    let line = format!("{}: &{name} {new}", change.host);
                    self.insert_line(key.column, after, &line, &mut edits);
                    first = None;
                }
                _ => {}
            }
        } else {
            first = None;
        }
        let mut expected: Vec<Vec<String>> = Vec::new();
        let mut done: BTreeSet<usize> = BTreeSet::new();
        let replace_ours = |age: &[String], with: Option<&str>| {
            let mut out: Vec<String> = Vec::new();
            for key in age {
                let key = if keys.contains(key) { with } else { Some(key.as_str()) };
                if let Some(key) = key.filter(|key| !out.iter().any(|k| k == key)) {
                    out.push(key.to_owned());
                }
            }
            out
        };
        // Lists that the key joins, and such that it must not, by their place: the rule.
        let (mut joined, mut closed) = (BTreeMap::new(), BTreeMap::new());
        // In the order of the file, so that a name comes before its use.
        for (place, rule) in self.rules.iter().enumerate() {
            for (index, group) in rule.groups.iter().enumerate() {
                let had = group.age.iter().any(|key| keys.contains(key));
                let mut age = replace_ours(&group.age, new);
                for list in &group.lists {
                    if done.insert(list.node.start) {
                        self.change_list(
                            list,
                            &keys,
                            &anchors,
                            keep.map(|d| d.node),
                            (change.host, fleet, new),
                            &gone,
                            &mut edits,
                        )?;
                    }
                }
                if let Some(new) = new.filter(|_| joins.contains(&(place, index))) {
                    let Some(list) = group.lists.last() else {
                        return Err(Error::failed(format!(
                            "{} has no age list to put the key into",
                            rule.name()
                        ))
                        .hint("write `age: []` beside its other keys"));
                    };
                    if done.insert(usize::MAX - list.node.start) {
                        let defined = format!("&{name} {new}");
                        let text = match keep {
                            _ if first == Some(list.node.start) => &defined,
                            // No name is known before it is given.
                            Some(kept) if kept.node.start > list.node.start => new,
                            _ => &reference,
                        };
                        self.append(list, text, new, &mut edits)?;
                    }
                    joined.entry(list.node.start).or_insert_with(|| rule.name());
                    age.push(new.to_owned());
                    edited.gained.push(rule.name());
                } else if !had {
                    closed.extend(group.lists.iter().map(|list| (list.node.start, rule.name())));
                }
                if age.is_empty() && !group.age.is_empty() {
                    edited.emptied.push(rule.name());
                }
                expected.push(age);
            }
            if let (Verdict::Others(other), Some(_), None) = (&verdicts[place], new, chosen) {
                edited.withheld.push((rule.name(), other.clone()));
            }
        }
        let mut both = joined.into_iter().filter_map(|(list, rule)| Some((rule, closed.get(&list)?)));
        if let Some((rule, other)) = both.next() {
            return Err(Error::failed(format!(
                "{} is for {rule} and not for {other}, and both use one list of keys",
                change.host
            ))
            .hint("give each a list of its own"));
        }
        edited.text = edits.apply(&self.text)?;
        self.verify(&edited.text, &expected)?;
        edited.retired = keys
            .into_iter()
            .filter(|key| Some(key.as_str()) != new && self.text.contains(key.as_str()))
            .collect();
        if let Some(left) =
            edited.retired.iter().find(|key| edited.text.lines().any(|l| code(l).contains(key.as_str())))
        {
            return Err(Error::failed(format!(
                "the old key {left} of {} would still be in it: take it out by hand",
                change.host
            )));
        }
        Ok(edited)
    }

    /// The rules that a host's key joins, by their place and its group's: such that are `wanted` and list none of its
    /// `keys` yet.
    fn joins(
        &self,
        host: &str,
        fleet: &Fleet,
        keys: &BTreeSet<String>,
        wanted: impl Fn(usize) -> bool,
    ) -> BTreeSet<(usize, usize)> {
        let mut joins = BTreeSet::new();
        for (place, rule) in self.rules.iter().enumerate().filter(|(place, _)| wanted(*place)) {
            for (index, group) in rule.groups.iter().enumerate() {
                let has = group.age.iter().any(|key| keys.contains(key));
                // Shares of a key: the group that lists hosts, or the only one.
                if !has && (rule.groups.len() == 1 || lists_hosts(self, rule, index, host, fleet)) {
                    joins.insert((place, index));
                }
            }
        }
        joins
    }

    /// Every rule matches what it matched and lists what was meant; nothing else is different.
    fn verify(&self, text: &str, expected: &[Vec<String>]) -> Result<()> {
        let after = Rules::read(text).map_err(|e| e.context("the change would break it"))?;
        let wrong =
            |what: &str| Err(Error::failed(format!("the change would alter {what}: change it by hand")));
        if after.rules.len() != self.rules.len() {
            return wrong("the number of rules");
        }
        let mut expected = expected.iter();
        for (old, new) in self.rules.iter().zip(&after.rules) {
            if old.path_regex != new.path_regex || old.groups.len() != new.groups.len() {
                return wrong(&old.name());
            }
            for (a, b) in old.groups.iter().zip(&new.groups) {
                // In any order: what a name stands for may have grown in front of others.
                let set = |age: &[String]| age.iter().cloned().collect::<BTreeSet<String>>();
                if a.others != b.others || expected.next().map(|age| set(age)) != Some(set(&b.age)) {
                    return wrong(&format!("the keys of {} in another way than meant", old.name()));
                }
            }
        }
        Ok(())
    }

    pub(super) fn in_a_group(&self, node: &Node) -> bool {
        let mut lists = self.rules.iter().flat_map(|rule| &rule.groups).flat_map(|group| &group.lists);
        lists.any(|list| list.node.start <= node.start && node.end <= list.node.end)
    }

    /// Whether what begins here is a rule's own list.
    pub(super) fn is_a_list(&self, start: usize) -> bool {
        let mut lists = self.rules.iter().flat_map(|rule| &rule.groups).flat_map(|group| &group.lists);
        lists.any(|list| list.node.start == start)
    }
}

/// Whether group `index` of a rule lists hosts of the fleet.
fn lists_hosts(rules: &Rules, rule: &super::Rule, index: usize, host: &str, fleet: &Fleet) -> bool {
    let mut only = rule.clone();
    only.path_regex = None;
    only.groups = vec![rule.groups[index].clone()];
    rules.verdict(&only, host, fleet) == Verdict::Fleet
}

pub(super) fn is_key(node: &Node) -> bool {
    node.scalar().is_some_and(|text| {
        (text.starts_with("age1") || text.starts_with("ssh-ed25519 ")) && !text.contains(',')
    })
}

/// Whether a key is one of these, also where it is written as the SSH key that it comes from.
fn is_one_of(text: &str, known: &BTreeSet<&str>) -> bool {
    known.contains(text) || super::select::converted(text).is_some_and(|key| known.contains(key.as_str()))
}

/// A line without its comment.
fn code(line: &str) -> &str {
    if line.trim_start().starts_with('#') { "" } else { line.split(" #").next().unwrap_or(line) }
}
