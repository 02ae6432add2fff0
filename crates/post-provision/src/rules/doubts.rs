//! What is wrong in `.sops.yaml` although it can be read: keys that are none, and hosts' keys that are not theirs.

use std::path::Path;

use fleet_core::{
    faults::Fault,
    hosts::{Host, Hosts},
    nix::source::{Location, Source},
};

use super::{Fleet, Rules, ours::elements, select::converted};
use crate::{
    recipient::{HostKey, Recipient},
    yaml::Node,
};

impl Rules {
    /// Keys that are no age recipients, and ones that stand under the name of a host whose `publicKey` gives
    /// another. Of machines that read no secret by their host key (no NixOS, and `is_vm` says no) only the first.
    pub fn faults(
        &self,
        path: &Path,
        base: &Path,
        known: Option<(&Hosts, &Fleet)>,
        is_vm: impl Fn(&str) -> bool,
    ) -> Vec<Fault> {
        let source = Source::new(path.to_owned(), self.text.as_str().into());
        let locate = |start: usize, end: usize| -> Option<Location> {
            Some(source.locate(u32::try_from(start).ok()?, u32::try_from(end).ok()?))
        };
        let fault = |node: &Node, message: String| {
            Fault::new(path, base, locate(node.text_start, node.end).as_ref(), "", message)
        };
        let mut keys = Vec::new();
        if let Some(root) = self.root() {
            elements(root, &mut keys);
        }
        let mut faults: Vec<Fault> = Vec::new();
        for list in self.rules.iter().flat_map(|rule| &rule.groups).flat_map(|group| &group.lists) {
            for item in list.items.iter().filter(|item| item.alias.is_none()) {
                let wrong = item.recipients.iter().filter(|key| !is_recipient(key));
                faults.extend(wrong.map(|key| {
                    let at = locate(item.text_start, item.end);
                    Fault::new(
                        path,
                        base,
                        at.as_ref(),
                        "",
                        format!("'{}' is no age recipient", key.escape_debug()),
                    )
                    .help("age1…, as `age-keygen -y` prints it, or ssh-ed25519 …")
                }));
            }
        }
        for node in &keys {
            let text = node.scalar().unwrap_or_default();
            if !is_recipient(text) {
                faults.push(
                    fault(node, format!("'{}' is no age recipient", text.escape_debug()))
                        .help("age1…, as `age-keygen -y` prints it, or ssh-ed25519 …"),
                );
            }
        }
        faults.sort_by_key(|fault| (fault.line, fault.column));
        faults.dedup();
        let Some((hosts, fleet)) = known else { return faults };
        for host in hosts.hosts.iter().filter(|host| host.configuration_file.is_some() || is_vm(&host.name)) {
            let Some(own) = recipient_of(host) else { continue };
            let by_comment = self.keys_by_comment(&host.name, fleet);
            for node in &keys {
                let text = node.scalar().unwrap_or_default();
                let named = node.anchor.as_deref().and_then(|anchor| fleet.named(anchor)) == Some(&host.name)
                    || by_comment.iter().any(|other| other.start == node.start);
                let is_own = converted(text).map_or(text == own.as_str(), |key| key == own);
                if named && !is_own && is_recipient(text) {
                    let place = host.public_key_place.as_deref().unwrap_or("hosts.nix");
                    let message = format!("not the key that {}'s publicKey gives ({place})", host.name);
                    faults.push(fault(node, message).help(format!("its publicKey gives {own}")));
                }
            }
        }
        faults
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
