//! The keys that may log in, checked and each once, in the form that sshd and Proxmox take.

use fleet_core::{
    Error, Kind, Result,
    authorized_keys::AuthorizedKey,
    hosts::{Hosts, ListedKey},
};

use crate::subject::Subject;

/// The keys for a machine: its host's own list in `hosts.nix`, else the list that the hosts share; and the keys
/// that its definition adds.
///
/// Never empty: no key at all is an error of kind not-found, for a machine that nobody can log in to is worth
/// nothing. A malformed key is an error that names its file and line.
pub fn for_subject(hosts: &Hosts, subject: &Subject<'_>) -> Result<Vec<AuthorizedKey>> {
    let name = subject.name;
    let mut listed = match hosts.listed_keys_for(name) {
        Err(error) if error.kind() == Kind::NotFound && !subject.authorized_keys.is_empty() => Vec::new(),
        listed => listed?,
    };
    // The definition's were checked, with their places, when it was read.
    let own = subject.authorized_keys.iter();
    listed.extend(own.map(|line| ListedKey { line: line.clone(), place: format!("managed.{name}") }));
    let keys = checked(&listed).map_err(|fault| {
        Error::usage(format!("{}: a key for '{name}' is not right: {}", fault.place, fault.why))
            .now(format!("the key reads: {}", fault.line.escape_debug()))
            .hint("a key is one line such as `ssh-ed25519 AAAA… who@where`, as in a .pub file")
    })?;
    if keys.iter().all(|key| key.certificate) {
        let what = if keys.is_empty() { "no authorized key" } else { "only certificates" };
        return Err(Error::not_found(format!("{what} for '{name}' in {}", hosts.path.display()))
            .now("sshd lets nobody in for a certificate that is listed itself")
            .hint("list a public key; or the key of the authority that signs, as `cert-authority ssh-ed25519 AAAA…`"));
    }
    Ok(keys)
}

/// How many keys `listed` holds, or what is wrong with the first that is malformed.
pub(crate) fn check(listed: &[String]) -> Result<usize, String> {
    let listed: Vec<ListedKey> =
        listed.iter().map(|line| ListedKey { line: line.clone(), place: String::new() }).collect();
    checked(&listed)
        .map(|keys| keys.iter().filter(|key| !key.certificate).count())
        .map_err(|fault| format!("{}: {}", fault.line.escape_debug(), fault.why))
}

/// What is wrong with which line.
#[derive(Debug)]
struct Fault {
    place: String,
    line: String,
    why: String,
}

/// `listed`, each checked and once. An entry may hold several lines, blank ones and comments, as a file read
/// into it does.
fn checked(listed: &[ListedKey]) -> Result<Vec<AuthorizedKey>, Fault> {
    let mut keys: Vec<AuthorizedKey> = Vec::new();
    for (place, line) in listed.iter().flat_map(|key| key.line.lines().map(|line| (&key.place, line.trim())))
    {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let key: AuthorizedKey =
            line.parse().map_err(|why| Fault { place: place.clone(), line: line.to_owned(), why })?;
        // sshd takes the first line that has the key.
        if !keys.iter().any(|other| other.key == key.key) {
            keys.push(key);
        }
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ED25519: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAIEtfhhsJqlmAOIaEgTU0QsDGdzAVy1a2vo009FQUXp";

    fn keys(listed: &[&str]) -> Vec<AuthorizedKey> {
        let listed: Vec<ListedKey> =
            listed.iter().map(|l| ListedKey { line: (*l).to_owned(), place: String::new() }).collect();
        checked(&listed).unwrap()
    }

    #[test]
    fn duplicates_are_folded_and_comments_kept() {
        let alice = format!("{ED25519} alice: # \"laptop\"");
        let found = keys(&[&alice, ED25519, &format!("  {ED25519}   bob\r\n\n# x\n")]);
        assert_eq!(found.iter().map(|key| key.line.as_str()).collect::<Vec<_>>(), [alice]);
    }

    #[test]
    fn all_types_of_keys_and_certificates_are_understood() {
        let found = keys(&[include_str!("../tests/keys/every-type.pub")]);
        assert_eq!(found.len(), 11);
        assert_eq!(found.iter().filter(|key| key.certificate).count(), 4);
    }
}
