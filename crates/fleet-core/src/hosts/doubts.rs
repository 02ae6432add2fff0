//! What is most likely a mistake in `hosts.nix`, although it can be read and worked with: told by a check only, for
//! nothing else depends on it.

use std::collections::{HashMap, HashSet};

use super::{Host, Hosts};
use crate::{
    authorized_keys::{AuthorizedKey, is_private},
    faults::Fault,
    nix::{
        edit::ORDER,
        eval::{Data, Evaluated, Value},
        reader::{Fields, Reader, is_slip},
    },
};

/// Fields that look like a known one misspelt, keys that are none or private, and host keys that two hosts have. `managed`
/// are the names of the managed VMs, where they are known.
pub(crate) fn faults(
    hosts: &Hosts,
    managed: Option<&HashSet<String>>,
    evaluated: &Evaluated,
    base: &std::path::Path,
) -> Vec<Fault> {
    let mut reader = Reader::new(evaluated, &hosts.path, base);
    let Some(top) = reader.top() else { return Vec::new() };
    let mut all: Vec<(&Host, Fields<'_>)> = Vec::new();
    for host in &hosts.hosts {
        let fields =
            top.get(&host.name).and_then(|attr| reader.fields(&attr.value, top.join(&attr.name), attr.key));
        all.extend(fields.map(|fields| (host, fields)));
    }
    misspelt(&mut reader, &all);
    no_keys(&mut reader, &all);
    // A machine that is still to be made may have anything in place of its key.
    let to_be_made = |host: &Host| managed.is_none_or(|managed| managed.contains(&host.name));
    let mut owners: HashMap<String, &Host> = HashMap::new();
    for (host, fields) in &all {
        let Some(line) = host.public_key.as_deref() else { continue };
        let (at, path) = (fields.value_at("publicKey"), fields.join("publicKey"));
        if is_private(line) {
            reader.private_key(at, &path);
            continue;
        }
        let key = match line.parse::<AuthorizedKey>() {
            Ok(key) => key.key,
            Err(why) if looks_like_a_key(line) && !to_be_made(host) => {
                let help = "the line of /etc/ssh/ssh_host_ed25519_key.pub on the host".to_owned();
                reader.add(at, &path, format!("no public key: {why}"), Some(help));
                continue;
            }
            Err(_) => continue,
        };
        match owners.get(&key) {
            // Two entries for one machine.
            Some(other) if other.hostname.is_some() && other.hostname == host.hostname => {}
            Some(other) => {
                let place = other.public_key_place.as_deref().unwrap_or("another place");
                let message = format!("the key of {} too ({place})", other.name);
                let help = "each machine has its own host key: one of the two is wrong";
                let fault = reader.fault(at, &path, message).help(help);
                reader.faults.push(fault);
            }
            None => _ = owners.insert(key, host),
        }
    }
    reader.faults
}

/// Keys that may log in and are none: nothing is provisioned with one. What several hosts list is told once.
fn no_keys(reader: &mut Reader<'_>, hosts: &[(&Host, Fields<'_>)]) {
    let mut seen = HashSet::new();
    for (_, fields) in hosts {
        let Some(Data::List(items)) = fields.get("authorizedKeys").map(|attr| &attr.value.data) else {
            continue;
        };
        let path = fields.join("authorizedKeys");
        for (line, at) in items.iter().filter_map(|item| Some((item.as_str()?.trim(), item.at))) {
            // What is more than a line is a fault of the file already.
            if line.contains(['\n', '\r']) || !seen.insert(line) {
                continue;
            }
            if is_private(line) {
                reader.private_key(at, &path);
            } else if let (true, Err(why)) = (looks_like_a_key(line), line.parse::<AuthorizedKey>()) {
                let help = "the line of a .pub file, whole".to_owned();
                reader.add(at, &path, format!("no public key: {why}"), Some(help));
            }
        }
    }
}

/// Whether a text means to be a key: it has the beginning of one, and no word that says that it is none yet.
fn looks_like_a_key(line: &str) -> bool {
    const NOT_YET: [&str; 10] =
        ["placeholder", "todo", "tbd", "fixme", "replace", "change", "xxx", "example", "dummy", "…"];
    let lower = line.to_lowercase();
    let mut words = lower.split_whitespace();
    let kind = words.next().unwrap_or_default();
    (kind.starts_with("ssh-") || kind.starts_with("ecdsa-") || kind.starts_with("sk-"))
        && words.next().is_some_and(|data| data.starts_with("aaaa") && !data.contains("..."))
        && !NOT_YET.iter().any(|word| lower.contains(word))
}

/// Fields that no tool knows are their owner's own, but for one that looks like a known field, holds what that one
/// holds, stands where that one is absent, and is no habit of the file.
fn misspelt(reader: &mut Reader<'_>, hosts: &[(&Host, Fields<'_>)]) {
    let mut having: HashMap<&str, usize> = HashMap::new();
    for attr in hosts.iter().flat_map(|(_, fields)| Reader::in_order(fields)) {
        *having.entry(attr.name.as_ref()).or_default() += 1;
    }
    let having = |name: &str| having.get(name).copied().unwrap_or_default();
    for (_, fields) in hosts {
        for attr in Reader::in_order(fields) {
            if ORDER.contains(&attr.name.as_ref()) {
                continue;
            }
            let near = ORDER.iter().find(|known| {
                fields.get(known).is_none() && is_slip(&attr.name, known) && fits(known, &attr.value)
            });
            let Some(near) = near else { continue };
            let times = having(&attr.name);
            if times == 1 || times <= having(near) {
                let help = format!("did you mean `{near}`?");
                reader.add(attr.key, &fields.join(&attr.name), "unknown field", Some(help));
            }
        }
    }
}

/// Whether a known field can hold this.
fn fits(known: &str, value: &Value) -> bool {
    match known {
        "authorizedKeys" => matches!(value.data, Data::List(_)),
        "configurationFile" | "homeFile" => matches!(value.data, Data::Path(_)),
        _ => value.as_str().is_some(),
    }
}
