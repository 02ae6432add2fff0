//! Keys with names in `.sops.yaml`, and where a new one gets its own.

use fleet_core::{Error, Result};

use super::{Fleet, Rules, edit::is_key};
use crate::yaml::{Data, Node};

/// A key with a name, `&name age1…`, and where it stands.
pub(super) struct Definition<'a> {
    pub(super) node: &'a Node,
    pub(super) home: Home<'a>,
}

/// What a definition is part of.
#[derive(Clone, Copy)]
pub(super) enum Home<'a> {
    /// An element of this list (`keys:`, usually).
    List(&'a Node),
    /// The value of this key of a block mapping.
    Entry(&'a Node),
    /// The value of this key of a mapping in brackets.
    FlowEntry(&'a Node, &'a Node),
    /// All that this element of this list is a mapping of: `- name: &name age1…`.
    Pair(&'a Node, &'a Node),
    /// Something else.
    Other,
}

impl Rules {
    /// The anchor for a host's key: its name, or one that tells it too where that stands for a rule's list.
    pub(super) fn free_name(&self, host: &str, definitions: &[Definition<'_>]) -> Result<String> {
        let names = [host.to_owned(), format!("host_{host}"), format!("{host}_host")];
        let taken = |name: &String| {
            definitions.iter().find(|d| d.node.anchor.as_ref() == Some(name) && !is_key(d.node))
        };
        if let Some(taken) = taken(&names[0]).filter(|taken| !self.is_a_list(taken.node.start)) {
            return Err(Error::failed(format!("line {}: &{host} is no age key", taken.node.line)));
        }
        let free = names.iter().find(|name| taken(name).is_none()).cloned();
        free.ok_or_else(|| Error::failed(format!("&{host}, &host_{host} and &{host}_host are no age keys")))
    }

    /// Where a new definition belongs and what to put it behind: beside the last host of the fleet that is defined,
    /// else beside the last key.
    pub(super) fn place_for_definition<'a>(
        &self,
        definitions: &[Definition<'a>],
        fleet: &Fleet,
    ) -> Option<(Home<'a>, &'a Node)> {
        let outside: Vec<&Definition<'a>> =
            definitions.iter().filter(|d| !self.in_a_group(d.node) && is_key(d.node)).collect();
        let is_host = |d: &&&Definition<'a>| {
            d.node.scalar().is_some_and(|text| fleet.host_of(text, d.node.anchor.as_deref()).is_some())
        };
        let host = outside.iter().rev().find(is_host);
        // Hosts that are named where a rule lists them: so is this one.
        let named_there = |d: &&Definition<'a>| {
            matches!(d.home, Home::List(_)) && self.in_a_group(d.node) && is_key(d.node)
        };
        if host.is_none() && definitions.iter().filter(named_there).any(|d| is_host(&&d)) {
            return None;
        }
        let last = host.or(outside.last())?;
        Some((last.home, if let Home::Pair(_, pair) = last.home { pair } else { last.node }))
    }
}

/// A mapping in brackets as the list that its bytes are, and the element of it that a key and its value are.
pub(super) fn as_list(map: &Node, key: &Node) -> (Node, Node) {
    let pair = |(key, value): &(Node, Node)| Node { end: value.end.max(key.end), ..key.clone() };
    let items: Vec<Node> = map.entries().iter().map(pair).collect();
    let own = items.iter().find(|item| item.start == key.start).unwrap_or(key).clone();
    (Node { data: Data::Seq(items), ..map.clone() }, own)
}

/// Every key without an anchor in a list, with the list.
pub(super) fn nameless<'a>(node: &'a Node, found: &mut Vec<Definition<'a>>) {
    for item in node.items().iter().filter(|item| item.anchor.is_none() && is_key(item)) {
        found.push(Definition { node: item, home: Home::List(node) });
    }
    node.items()
        .iter()
        .chain(node.entries().iter().map(|(_, value)| value))
        .for_each(|node| nameless(node, found));
}

/// Every node with an anchor, with what it is part of.
pub(super) fn collect<'a>(node: &'a Node, home: Home<'a>, found: &mut Vec<Definition<'a>>) {
    if node.anchor.is_some() {
        found.push(Definition { node, home });
    }
    match &node.data {
        Data::Seq(items) => items.iter().for_each(|item| match item.entries() {
            [(_, value)] if is_key(value) && item.anchor.is_none() && !item.flow && !node.flow => {
                collect(value, Home::Pair(node, item), found);
            }
            _ => collect(item, Home::List(node), found),
        }),
        Data::Map(entries) => entries.iter().for_each(|(key, value)| {
            let home = if node.flow { Home::FlowEntry(node, key) } else { Home::Entry(key) };
            collect(value, home, found);
        }),
        Data::Scalar(..) | Data::Alias { .. } => {}
    }
}
