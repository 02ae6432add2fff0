//! What is wrong in `.sops.yaml` although it can be read: keys that are none, names that are misspelt, and hosts' keys
//! that are not theirs.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
};

use fleet_core::{
    faults::Fault,
    hosts::{Host, Hosts},
    nix::{
        is_slip,
        source::{Location, Source},
    },
};

use super::{Fleet, Rules, ours::elements, select::converted, shape};
use crate::{
    recipient::{HostKey, Recipient},
    yaml::{Data, Node},
};

/// What is wrong, and what may be.
#[derive(Debug, Default)]
pub struct Doubts {
    /// Keys that are none, names that sops passes over for a slip, and keys under a host's name that are another host's.
    pub faults: Vec<Fault>,
    /// Keys under a host's name that its `publicKey` does not give: right where the host has an age key of its own.
    pub warnings: Vec<String>,
}

impl Rules {
    /// Keys that are no age recipients, names that are misspelt, and keys that stand under the name of a host whose
    /// `publicKey` gives another. Of machines that read no secret by their host key (no NixOS, and `is_vm` says no) only
    /// the first.
    pub fn doubts(
        &self,
        path: &Path,
        base: &Path,
        known: Option<(&Hosts, &Fleet)>,
        is_vm: impl Fn(&str) -> bool,
    ) -> Doubts {
        let source = Source::new(path.to_owned(), self.text.as_str().into());
        let locate = |start: usize, end: usize| -> Option<Location> {
            Some(source.locate(u32::try_from(start).ok()?, u32::try_from(end).ok()?))
        };
        let fault_at =
            |at: Option<Location>, message: String| Fault::new(path, base, at.as_ref(), "", message);
        let fault = |node: &Node, message: String| fault_at(locate(node.text_start, node.end), message);
        let mut keys = Vec::new();
        if let Some(root) = self.root() {
            elements(root, &mut keys);
        }
        // What rules list may look like no key at all.
        let (mut texts, mut seen) = (Vec::new(), HashSet::new());
        for list in self.rules.iter().flat_map(|rule| &rule.groups).flat_map(|group| &group.lists) {
            self.texts(&list.node, &mut seen, &mut texts);
        }
        texts.extend(keys.iter().filter(|node| !seen.contains(&node.start)));
        let mut doubts = Doubts::default();
        for node in texts {
            if let Some(name) = node.anchor.as_deref().filter(|_| node.is_nothing()) {
                doubts.faults.push(
                    fault_at(
                        locate(node.start, node.end),
                        format!("`&{name}` marks nothing here, and sops passes over it"),
                    )
                    .help(format!("`*{name}` stands for the key that `&{name}` marks elsewhere")),
                );
                continue;
            }
            let parts = node.scalar().unwrap_or_default().split(',').map(str::trim);
            doubts.faults.extend(parts.filter(|key| !key.is_empty() && !is_recipient(key)).map(|key| {
                fault(node, format!("'{}' is no age recipient", key.escape_debug())).help(meant(key))
            }));
        }
        doubts.faults.extend(self.misspelt().into_iter().map(|(node, near)| {
            let name = node.scalar().unwrap_or_default().escape_debug();
            fault(node, format!("sops knows no '{name}' and passes over it"))
                .help(format!("did you mean `{near}`?"))
        }));
        doubts.faults.sort_by_key(|fault| (fault.line, fault.column));
        let Some((hosts, fleet)) = known else { return doubts };
        let of_interest =
            hosts.hosts.iter().filter(|host| host.configuration_file.is_some() || is_vm(&host.name));
        let owners: HashMap<&str, (&Host, Recipient)> =
            of_interest.filter_map(|host| Some((host.name.as_str(), (host, recipient_of(host)?)))).collect();
        for node in keys {
            let text = node.scalar().unwrap_or_default();
            let named = node.anchor.as_deref().and_then(|anchor| fleet.named(anchor));
            let Some((host, own)) =
                named.or_else(|| self.host_by_comment(node, fleet)).and_then(|name| owners.get(name))
            else {
                continue;
            };
            let converted = converted(text);
            let key = converted.as_ref().map_or(text, Recipient::as_str);
            if key == own.as_str() || !is_recipient(text) {
                continue;
            }
            let place = host.public_key_place.as_deref().unwrap_or("hosts.nix");
            let not_own = format!("not the key that {}'s publicKey gives ({place})", host.name);
            match fleet.host_besides(&host.name, key) {
                Some(other) => doubts.faults.push(
                    fault(node, format!("the key of {other}, {not_own}"))
                        .help(format!("{}'s publicKey gives {own}", host.name)),
                ),
                None => {
                    let at = locate(node.text_start, node.end).map_or_else(String::new, |at| at.short(base));
                    doubts.warnings.push(format!(
                        "{at}: {not_own}: right only if {} has an age key of its own; its publicKey gives {own}",
                        host.name
                    ));
                }
            }
        }
        doubts
    }

    /// Names that differ from one that sops knows by a slip, and that stand where that one is absent.
    fn misspelt(&self) -> Vec<(&Node, &'static str)> {
        let mut found = Vec::new();
        let Some(root) = self.root().map(|root| self.stream.resolve(root)) else { return found };
        self.slips(root, &shape::OF_FILE, &mut found);
        let of_rule: Vec<_> = shape::of_rule().collect();
        let of_group: Vec<_> = shape::of_group().collect();
        let items = |map, name| self.stream.get(map, name).map(Node::items).unwrap_or_default();
        for rule in items(root, "creation_rules").iter().map(|rule| self.stream.resolve(rule)) {
            self.slips(rule, &of_rule, &mut found);
            for group in items(rule, "key_groups").iter().map(|group| self.stream.resolve(group)) {
                self.slips(group, &of_group, &mut found);
            }
        }
        // What an alias stands for is in several places.
        let mut seen = HashSet::new();
        found.retain(|(key, _)| seen.insert(key.start));
        found
    }

    fn slips<'a>(&'a self, map: &'a Node, known: &[&'static str], found: &mut Vec<(&'a Node, &'static str)>) {
        let written = map.entries().iter().map(|(key, _)| key);
        for (key, name) in written.filter_map(|key| Some((key, key.scalar()?))) {
            let absent =
                |near: &&&str| self.stream.get(map, near).is_none() && is_slip(&name.replace('-', "_"), near);
            if !known.contains(&name)
                && let Some(near) = known.iter().find(absent)
            {
                found.push((key, *near));
            }
        }
    }

    /// Every text that a list of recipients holds, each once.
    fn texts<'a>(&'a self, node: &'a Node, seen: &mut HashSet<usize>, found: &mut Vec<&'a Node>) {
        let node = self.stream.resolve(node);
        if !seen.insert(node.start) {
            return;
        }
        match node.data {
            Data::Scalar(..) => found.push(node),
            _ => node.items().iter().for_each(|item| self.texts(item, seen, found)),
        }
    }
}

fn recipient_of(host: &Host) -> Option<Recipient> {
    HostKey::parse(host.public_key.as_deref()?).ok()?.recipient().ok()
}

/// What would be right in the place of a text that is no recipient.
fn meant(key: &str) -> String {
    const LENGTH: usize = 62;
    let length = key.chars().count();
    if key.contains(char::is_whitespace) && key.starts_with("age1") {
        return "commas divide the keys of one text".to_owned();
    }
    let of_age = "age1…, as `age-keygen -y` prints it";
    match key.strip_prefix("age1") {
        Some(_) if length == LENGTH => {
            format!("{of_age}: its last characters are a checksum, which the others do not give")
        }
        Some(_) => format!("{of_age}: of {LENGTH} characters, not {length}"),
        None if key.starts_with("ssh-") => "the line of a .pub file, whole".to_owned(),
        None => format!("{of_age}, or ssh-ed25519 …"),
    }
}

/// Whether age takes this for a recipient: its own, an SSH key, or one of a plugin.
fn is_recipient(text: &str) -> bool {
    if text.starts_with("ssh-") {
        return ssh_key::PublicKey::from_openssh(text).is_ok();
    }
    // age1NAME1…: whose data only the plugin NAME understands.
    let plugin = |rest: &str| {
        rest.rsplit_once('1').is_some_and(|(name, data)| {
            let of_name = |b: u8| b.is_ascii_alphanumeric() || b"+-._".contains(&b);
            let named = !name.is_empty() && name.bytes().all(of_name);
            named && !data.is_empty() && data.bytes().all(|b| b.is_ascii_alphanumeric())
        })
    };
    text.parse::<Recipient>().is_ok() || text.strip_prefix("age1").is_some_and(plugin)
}

#[cfg(test)]
mod tests {
    use super::is_recipient;

    #[test]
    fn recipients_of_every_kind_are_taken() {
        for text in [
            "age1krft2zq7ldcwwg43rkf7s4xygl9m3jxtcvmgh5mm2k65mnd8ufys4080zs",
            "age1yubikey1q0000000000000000000000000000000000000000000000000000000000",
            "age1pq1qqqq",
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFgJbGZrsBEeRIA6LPuES08tiHfwujHsftm+n3YYE4pw root@doc1",
        ] {
            assert!(is_recipient(text), "{text}");
        }
        for text in [
            "age1zzz",
            "age1krft2zq7ldcwwg43rkf7s4xygl9m3jxtcvmgh5mm2k65mnd8ufys4080zq",
            "ssh-ed25519 AAAA",
            "AGE-SECRET-KEY-1",
            "age1krft2zq7ldcwwg43rkf7s4xygl9m3jxtcvmgh5mm2k65mnd8ufys4080zs age1pq1qqqq",
            "alice",
        ] {
            assert!(!is_recipient(text), "{text}");
        }
    }
}
