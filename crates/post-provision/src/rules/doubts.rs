//! What is wrong in `.sops.yaml` although it can be read: keys that are none, and hosts' keys that are not theirs.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
};

use fleet_core::{
    faults::Fault,
    hosts::{Host, Hosts},
    nix::source::{Location, Source},
};

use super::{Fleet, Rules, ours::elements, select::converted};
use crate::{
    recipient::{HostKey, Recipient},
    yaml::{Data, Node},
};

/// What is wrong, and what may be.
#[derive(Debug, Default)]
pub struct Doubts {
    /// Keys that are none, and ones under a host's name that are another host's.
    pub faults: Vec<Fault>,
    /// Keys under a host's name that its `publicKey` does not give: right where the host has an age key of its own.
    pub warnings: Vec<String>,
}

impl Rules {
    /// Keys that are no age recipients, and ones that stand under the name of a host whose `publicKey` gives
    /// another. Of machines that read no secret by their host key (no NixOS, and `is_vm` says no) only the first.
    pub fn doubts(
        &self,
        path: &Path,
        base: &Path,
        known: Option<(&Hosts, &Fleet)>,
        is_vm: impl Fn(&str) -> bool,
    ) -> Doubts {
        let source = Source::new(path.to_owned(), self.text.as_str().into());
        let locate = |node: &Node| -> Option<Location> {
            Some(source.locate(u32::try_from(node.text_start).ok()?, u32::try_from(node.end).ok()?))
        };
        let fault = |node: &Node, message: String| Fault::new(path, base, locate(node).as_ref(), "", message);
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
            let parts = node.scalar().unwrap_or_default().split(',').map(str::trim);
            doubts.faults.extend(parts.filter(|key| !key.is_empty() && !is_recipient(key)).map(|key| {
                fault(node, format!("'{}' is no age recipient", key.escape_debug()))
                    .help("age1…, as `age-keygen -y` prints it, or ssh-ed25519 …")
            }));
        }
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
                    let at = locate(node).map_or_else(String::new, |at| at.short(base));
                    doubts.warnings.push(format!(
                        "{at}: {not_own}: right only if {} has an age key of its own; its publicKey gives {own}",
                        host.name
                    ));
                }
            }
        }
        doubts
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

/// Whether age takes this for a recipient: its own, an SSH key, or one of a plugin.
fn is_recipient(text: &str) -> bool {
    if text.starts_with("ssh-") {
        return ssh_key::PublicKey::from_openssh(text).is_ok();
    }
    // age1NAME1…: whose data only the plugin NAME understands.
    let plugin = |rest: &str| {
        rest.rsplit_once('1').is_some_and(|(name, data)| {
            !name.is_empty() && !data.is_empty() && data.bytes().all(|b| b.is_ascii_alphanumeric())
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
            "alice",
        ] {
            assert!(!is_recipient(text), "{text}");
        }
    }
}
