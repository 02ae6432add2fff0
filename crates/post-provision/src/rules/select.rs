//! Which rules a host's key belongs into.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
};

use super::{Rule, Rules};
use crate::recipient::{HostKey, Recipient};

/// What is known about the fleet besides the rules: hosts by name, with every name they go by and their recipient.
#[derive(Debug, Clone, Default)]
pub struct Fleet {
    /// Every host's recipient.
    hosts: BTreeMap<String, Option<String>>,
    people: HashSet<String>,
    /// Names that people log in by.
    users: HashSet<String>,
    /// Hosts by their own name, as [`plain`] has it.
    by_own_name: HashMap<String, BTreeSet<String>>,
    /// Hosts by every name that they go by, likewise.
    by_name: HashMap<String, BTreeSet<String>>,
    by_recipient: HashMap<String, BTreeSet<String>>,
}

impl Fleet {
    /// Adds a host, or more about one.
    pub fn add(&mut self, host: &str, names: impl IntoIterator<Item = String>, recipient: Option<String>) {
        let known = self.hosts.entry(host.to_owned()).or_default();
        if let Some(recipient) = recipient {
            if let Some(hosts) =
                known.replace(recipient.clone()).and_then(|old| self.by_recipient.get_mut(&old))
            {
                hosts.remove(host);
            }
            self.by_recipient.entry(recipient).or_default().insert(host.to_owned());
        }
        self.by_own_name.entry(plain(host)).or_default().insert(host.to_owned());
        for name in names.into_iter().chain([host.to_owned()]) {
            self.by_name.entry(plain(&name)).or_default().insert(host.to_owned());
        }
    }

    /// The same, with this host in it.
    pub(super) fn with(&self, host: &str) -> Cow<'_, Fleet> {
        if self.hosts.contains_key(host) {
            return Cow::Borrowed(self);
        }
        let mut fleet = self.clone();
        fleet.add(host, [], None);
        Cow::Owned(fleet)
    }

    /// Adds the recipient of a person: somebody who may log in on the hosts.
    pub fn add_person(&mut self, recipient: String) {
        self.people.insert(recipient);
    }

    /// Adds the name of a user who logs in on a host.
    pub fn add_user(&mut self, user: String) {
        self.users.insert(user);
    }

    /// Whether people log in by this name; as root the machine itself does.
    pub(super) fn is_user(&self, name: &str) -> bool {
        name != "root" && self.users.contains(name)
    }

    /// Whose key this is, if it is known to be somebody else's than `host`'s.
    pub fn owner_besides(&self, host: &str, recipient: &str) -> Option<String> {
        if self.people.contains(recipient) {
            return Some("a person who may log in on the hosts".to_owned());
        }
        self.host_besides(host, recipient).map(|name| format!("host '{name}'"))
    }

    /// The host that has this key, if another one than `host` has it.
    pub(super) fn host_besides(&self, host: &str, recipient: &str) -> Option<&str> {
        let mut hosts = self.by_recipient.get(recipient)?.iter();
        hosts.find(|name| *name != host).map(String::as_str)
    }

    /// The host that this recipient or this anchor stands for.
    pub(super) fn host_of(&self, recipient: &str, anchor: Option<&str>) -> Option<&str> {
        let converted = converted(recipient);
        let recipient = converted.as_ref().map_or(recipient, Recipient::as_str);
        let by_key = self.by_recipient.get(recipient).and_then(BTreeSet::first);
        by_key.map(String::as_str).or_else(|| self.named(anchor?))
    }

    /// The host of exactly this name.
    pub(super) fn exactly(&self, name: &str) -> Option<&str> {
        self.hosts.get_key_value(name).map(|(name, _)| name.as_str())
    }

    /// The host that a word in a comment names: as [`Fleet::named`], if it is one only.
    pub(super) fn called(&self, name: &str) -> Option<&str> {
        let alike = || only(self.by_own_name.get(&plain(name))?.iter().map(String::as_str));
        self.exactly(name)
            .or_else(alike)
            .or_else(|| only(self.known_as(name)))
            .or_else(|| hosts_in(name).find_map(|name| only(self.known_as(name))))
    }

    /// The host that this anchor names.
    pub(super) fn named(&self, anchor: &str) -> Option<&str> {
        let alike = || self.by_own_name.get(&plain(anchor))?.first().map(String::as_str);
        let known_as = |word: &str| self.known_as(word).next();
        self.exactly(anchor).or_else(alike).or_else(|| hosts_in(anchor).find_map(known_as))
    }

    /// Every host that goes by this name.
    fn known_as(&self, word: &str) -> impl Iterator<Item = &str> {
        self.by_name.get(&plain(word)).into_iter().flatten().map(String::as_str)
    }

    fn goes_by(&self, host: &str, word: &str) -> bool {
        plain(host) == plain(word) || self.known_as(word).any(|name| name == host)
    }
}

/// The only one there is.
fn only<T>(mut all: impl Iterator<Item = T>) -> Option<T> {
    let first = all.next()?;
    all.next().is_none().then_some(first)
}

/// A name as it is compared with others: host names have no `_` and no capitals, anchors and files often do.
fn plain(name: &str) -> String {
    name.replace('_', "-").to_ascii_lowercase()
}

/// The recipient that an SSH key stands for: sops takes these as they are, too.
pub(super) fn converted(text: &str) -> Option<Recipient> {
    let key = text.starts_with("ssh-ed25519 ").then(|| HostKey::parse(text).ok()).flatten()?;
    key.recipient().ok()
}

/// The name in an anchor that says of itself that it is a host's: `host_web`, `server-web`, `web_host`. Any other word
/// beside a name may mean a person: `admin_web` is who looks after web; and `web-server` may be another machine.
fn hosts_in(anchor: &str) -> impl Iterator<Item = &str> {
    const WORDS: [&str; 10] =
        ["host", "server", "machine", "node", "vm", "system", "nixos", "srv", "device", "target"];
    let before = anchor
        .split_once(['_', '-'])
        .filter(|(word, _)| WORDS.iter().any(|known| word.eq_ignore_ascii_case(known)));
    let behind = anchor.rsplit_once(['_', '-']).filter(|(_, word)| word.eq_ignore_ascii_case("host"));
    before.map(|(_, name)| name).into_iter().chain(behind.map(|(name, _)| name))
}

/// Why a rule gets a host's key, or does not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Its path names the host.
    Own,
    /// It lists hosts of the fleet.
    Fleet,
    /// Its path names other hosts only.
    Others(String),
    /// It lists no host: the operators' own.
    NoHost,
}

/// The words of a `path_regex`: file and directory names, also without their suffix.
fn words(regex: &str) -> Vec<String> {
    let plain: String = regex.chars().filter(|c| *c != '\\').collect();
    let mut words = Vec::new();
    for whole in plain.split(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))) {
        let whole = whole.trim_matches('.');
        words.push(whole.to_owned());
        words.extend(whole.split('.').map(str::to_owned));
    }
    words.retain(|word| !word.is_empty());
    words
}

impl Rules {
    /// The host whose own a rule is, if it is another one's than `host`'s.
    pub fn owner(&self, index: usize, host: &str, fleet: &Fleet) -> Option<String> {
        match self.verdict(self.rules.get(index)?, host, fleet) {
            Verdict::Others(other) => Some(other),
            Verdict::Own | Verdict::Fleet | Verdict::NoHost => None,
        }
    }

    /// Whether `host`'s key belongs into `rule`.
    pub(super) fn verdict(&self, rule: &Rule, host: &str, fleet: &Fleet) -> Verdict {
        let words = rule.path_regex.as_deref().map(words).unwrap_or_default();
        if words.iter().any(|word| fleet.goes_by(host, word)) {
            return Verdict::Own;
        }
        let mut listed: BTreeSet<&str> = BTreeSet::new();
        for item in rule.groups.iter().flat_map(|group| &group.lists).flat_map(|list| &list.items) {
            let anchor = item.alias.as_deref().or(item.anchor.as_deref());
            let hosts = item.recipients.iter().filter_map(|recipient| fleet.host_of(recipient, anchor));
            listed.extend(hosts.filter(|name| *name != host));
        }
        // A path that names another host is that host's, whoever is listed.
        let named = words.iter().flat_map(|word| fleet.known_as(word)).filter(|other| *other != host).min();
        if let Some(other) = named {
            return Verdict::Others(other.to_owned());
        }
        // One host listed and its name within a word ("db-backup" of db): its own as well.
        if let (Some(only), 1) = (listed.first(), listed.len())
            && words.iter().any(|word| word.split(['-', '_']).any(|part| fleet.goes_by(only, part)))
        {
            return Verdict::Others((*only).to_owned());
        }
        if listed.is_empty() { Verdict::NoHost } else { Verdict::Fleet }
    }
}

#[cfg(test)]
mod tests {
    use super::{Fleet, words};

    #[test]
    fn anchors_that_say_that_they_are_hosts_are() {
        let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIN+YGiYlad10cykwmD216vctFMbar5gNFSvbl4UgHLYC";
        let mut fleet = Fleet::default();
        fleet.add(
            "web",
            ["www".to_owned()],
            Some("age1fxhck9733ejghfn8ml3apz07l53rxr7ec8aeqvd8kvf2an5f8gvqdd7t2a".to_owned()),
        );
        for anchor in ["web", "host_web", "server-web", "VM_www", "device_web", "web_host", "www-host", "WEB"]
        {
            assert_eq!(fleet.host_of("age1other", Some(anchor)), Some("web"), "{anchor}");
        }
        for anchor in ["admin_web", "web_server", "host_db", "web_admin", "hostweb"] {
            assert_eq!(fleet.host_of("age1other", Some(anchor)), None, "{anchor}");
        }
        assert_eq!(
            fleet.host_of(&format!("{key} root@web"), None),
            Some("web"),
            "sops takes SSH keys as they are"
        );
    }

    #[test]
    fn the_words_of_a_regex_are_its_names() {
        let found = words(r"^secrets/hosts/(web|db-1)/[^/]+\.(ya?ml|env)$");
        for word in ["secrets", "hosts", "web", "db-1", "env"] {
            assert!(found.iter().any(|w| w == word), "{word} in {found:?}");
        }
        assert!(words(r"web\.example\.yaml").iter().any(|w| w == "web"));
        assert!(!words(r"website/.*").iter().any(|w| w == "web"));
    }
}
