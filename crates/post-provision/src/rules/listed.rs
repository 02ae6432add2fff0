//! What becomes of a host's keys in the list of one rule.

use std::collections::BTreeSet;

use fleet_core::{Error, Result};

use super::{Fleet, Item, List, Rules, splice::Edits};
use crate::yaml::{Data, Node};

impl Rules {
    /// Brings the items of one list that are the host's down to at most one, which is its key.
    #[expect(clippy::too_many_arguments, reason = "one step of `edit`, with what that knows")]
    pub(super) fn change_list(
        &self,
        list: &List,
        keys: &BTreeSet<String>,
        anchors: &BTreeSet<&str>,
        kept: Option<&Node>,
        (host, fleet, new): (&str, &Fleet, Option<&str>),
        gone: &BTreeSet<usize>,
        edits: &mut Edits,
    ) -> Result<()> {
        // What stands for another rule's list of several is changed there.
        let elsewhere =
            |item: &Item| item.recipients.len() > 1 && item.alias.is_some() && self.is_a_list(item.target);
        let mine = |item: &&Item| {
            item.recipients.iter().any(|r| keys.contains(r))
                && !gone.contains(&item.start)
                && !elsewhere(item)
        };
        let kept_definition = kept.map(|node| node.start);
        if matches!(list.node.data, Data::Scalar(..)) {
            // The kept definition's own text is replaced already.
            let replaced = kept_definition == Some(list.node.start);
            return match list.items.first() {
                Some(text) if !replaced => self.change_text(text, keys, new, edits),
                _ => Ok(()),
            };
        }
        let items: Vec<&Item> = list.items.iter().filter(mine).collect();
        if let Some(item) = items.iter().find(|item| item.recipients.len() > 1 && item.alias.is_some()) {
            return Err(Error::failed(format!("line {}: one name stands for several keys", item.line)));
        }
        let (texts, items): (Vec<&Item>, Vec<&Item>) =
            items.into_iter().partition(|item| item.recipients.len() > 1);
        // An element of its own is the better place for the new key.
        let mut place = new.filter(|_| items.is_empty());
        for text in texts {
            let place = place.take();
            if place.is_none() && text.recipients.iter().all(|key| keys.contains(key)) {
                self.delete_of(host, fleet, &list.node, text, edits)?;
            } else {
                self.change_text(text, keys, place, edits)?;
            }
        }
        // The kept definition, then an alias, then whatever comes first.
        let stays = new.and_then(|_| {
            let is_definition = |item: &&&Item| Some(item.start) == kept_definition;
            items.iter().find(is_definition).or(items.first())
        });
        for item in &items {
            if stays.is_none_or(|kept| kept.start != item.start) {
                match self.made_a_pair(list, item).filter(|_| items.len() == 1) {
                    Some(other) => edits.replace(list.node.start..list.node.end, format!("*{other}")),
                    None => self.delete_of(host, fleet, &list.node, item, edits)?,
                }
                continue;
            }
            let Some(new) = new else { continue };
            let kept_anchor =
                kept.filter(|kept| kept.start < item.start).and_then(|kept| kept.anchor.as_deref());
            match (&item.alias, kept_anchor) {
                (Some(name), Some(anchor)) if name == anchor => {}
                // What it stood for is gone.
                (Some(name), Some(anchor)) if anchors.contains(name.as_str()) => {
                    edits.replace(item.start..item.end, format!("*{anchor}"));
                }
                (Some(_), _) => edits.replace(item.start..item.end, new),
                // Likewise.
                (None, _) if Some(item.start) == kept_definition => {}
                (None, _) => {
                    let old = &item.recipients[0];
                    let written = self.text.get(item.text_start..item.end).unwrap_or_default();
                    if let Some(at) = written.find(old.as_str()).filter(|_| old != new) {
                        let start = item.text_start + at;
                        edits.replace(start..start + old.len(), new);
                    }
                }
            }
        }
        Ok(())
    }
}
