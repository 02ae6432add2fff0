//! Which keys of `.sops.yaml` are a host's: by their anchor, or by a comment that names it.

use std::{collections::BTreeSet, ops::Range};

use fleet_core::Result;

use super::{Fleet, Item, Rules, comment, splice::Edits};
use crate::yaml::{Data, Node};

impl Rules {
    /// Keys that a comment gives to `host`: `- age1… # host`, or the comment on the line above, as [`comment::host`]
    /// reads them. Only keys with a line of their own; a name or a comment that stands for another host goes first.
    pub(super) fn keys_by_comment(&self, host: &str, fleet: &Fleet) -> Vec<&Node> {
        let mut found = Vec::new();
        if let Some(root) = self.root() {
            elements(root, &mut found);
        }
        found.retain(|node| self.host_by_comment(node, fleet) == Some(host));
        found
    }

    /// The host of the fleet that a comment gives a key to.
    pub(super) fn host_by_comment<'f>(&self, node: &Node, fleet: &'f Fleet) -> Option<&'f str> {
        if !self.first_on_its_line(node) {
            return None;
        }
        let behind = self.comment_behind(node).and_then(|said| comment::host(said, fleet));
        let above = || comment::host(self.comment_above(node.start)?.0, fleet);
        let host = behind.or_else(above)?;
        let key = node.scalar().unwrap_or_default();
        fleet.host_of(key, node.anchor.as_deref()).is_none_or(|name| name == host).then_some(host)
    }

    /// Takes an element out, with the line above it that says whose it is.
    pub(super) fn delete_of(
        &self,
        host: &str,
        fleet: &Fleet,
        list: &Node,
        item: &Item,
        edits: &mut Edits,
    ) -> Result<()> {
        if let Some((_, bytes)) =
            self.comment_above(item.start).filter(|(said, _)| comment::host(said, fleet) == Some(host))
        {
            edits.replace(bytes, "");
        }
        self.delete(list, item, edits)
    }

    /// What stands for definitions that are `gone`, in lists that no rule has: by the name that is `kept`, or no more.
    pub(super) fn names_elsewhere(
        &self,
        host: &str,
        fleet: &Fleet,
        gone: &BTreeSet<usize>,
        kept: Option<&str>,
        edits: &mut Edits,
    ) -> Result<()> {
        let mut found = Vec::new();
        if let Some(root) = self.root().filter(|_| !gone.is_empty()) {
            aliases(root, &mut found);
        }
        found.retain(|(_, item)| gone.contains(&self.stream.resolve(item).start) && !self.in_a_group(item));
        for (list, item) in found {
            match kept {
                Some(kept) => edits.replace(item.start..item.end, format!("*{kept}")),
                None => self.delete_of(host, fleet, list, &Item::of(item, Vec::new(), item), edits)?,
            }
        }
        Ok(())
    }

    fn first_on_its_line(&self, node: &Node) -> bool {
        let before = self.text[..node.start].rsplit('\n').next().unwrap_or_default().trim();
        matches!(before, "" | "-") || before.ends_with(':')
    }

    /// The comment behind a key, where nothing else follows on its line.
    fn comment_behind(&self, node: &Node) -> Option<&str> {
        let line = self.text[node.end..].lines().next()?.trim_start();
        comment::said(line.strip_prefix(',').unwrap_or(line).trim_start())
    }

    /// The comment on the line above the one that byte `at` is on, if that is all of it: its text, and its bytes from
    /// the line break before it to the one behind it.
    fn comment_above(&self, at: usize) -> Option<(&str, Range<usize>)> {
        let before = |text: &str| {
            let rest = &text[..text.rfind('\n')?];
            Some(rest.strip_suffix('\r').unwrap_or(rest).len())
        };
        let end = before(&self.text[..at])?;
        let start = before(&self.text[..end])?;
        Some((comment::said(self.text[start..end].trim())?, start..end))
    }
}

/// Every alias that is an element of a list, with the list.
fn aliases<'a>(node: &'a Node, found: &mut Vec<(&'a Node, &'a Node)>) {
    for item in node.items() {
        if matches!(item.data, Data::Alias { .. }) {
            found.push((node, item));
        }
        aliases(item, found);
    }
    node.entries().iter().for_each(|(_, value)| aliases(value, found));
}

/// Every single key that is an element of a list, and every one with a name.
pub(super) fn elements<'a>(node: &'a Node, found: &mut Vec<&'a Node>) {
    let listed = matches!(node.data, Data::Seq(_));
    let inner: Vec<&'a Node> = match &node.data {
        Data::Seq(items) => items.iter().collect(),
        Data::Map(entries) => entries.iter().map(|(_, value)| value).collect(),
        Data::Scalar(..) | Data::Alias { .. } => return,
    };
    for node in inner {
        if super::edit::is_key(node) && (listed || node.anchor.is_some()) {
            found.push(node);
        }
        elements(node, found);
    }
}
