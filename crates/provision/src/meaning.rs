//! Whether two texts of one setting mean the same to Proxmox. Pure.
//!
//! The forms are those of qm.conf(5); a file that was written by hand or by an older release says the same in other
//! words.

use std::collections::{BTreeMap, BTreeSet};

/// Whether a setting that is `now` (nothing: not written) means what `wanted` means.
pub fn same(name: &str, now: Option<&str>, wanted: &str) -> bool {
    let Some(now) = now else {
        // What Proxmox assumes when nothing is written.
        return matches!(name, "onboot" | "protection") && truth(wanted) == Some(false)
            || name == "cores" && wanted == "1";
    };
    match name {
        "sshkeys" | "description" => now.trim_end() == wanted.trim_end(),
        "agent" => properties(now, "enabled").get("enabled").copied().and_then(truth) == Some(true),
        "onboot" | "protection" | "ciupgrade" => truth(now) == truth(wanted),
        "tags" => tags(now) == tags(wanted),
        "memory" => properties(now, "current").get("current") == properties(wanted, "current").get("current"),
        "cpu" => properties(now, "cputype") == properties(wanted, "cputype"),
        // A definition without a MAC address leaves the one that Proxmox made.
        "net0" => properties(now, "") == properties(wanted, ""),
        _ => now == wanted,
    }
}

/// A boolean, in any of the words that Proxmox takes.
pub fn truth(text: &str) -> Option<bool> {
    match text.trim().to_ascii_lowercase().as_str() {
        "1" | "on" | "yes" | "true" => Some(true),
        "0" | "off" | "no" | "false" => Some(false),
        _ => None,
    }
}

/// The parts of a property string by their names, in whatever order; `short` is the name of a part that is written
/// without one. With no such name a part without a value is its own name.
pub fn properties<'a>(text: &'a str, short: &'a str) -> BTreeMap<&'a str, &'a str> {
    text.split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .map(|part| match part.split_once('=') {
            Some(both) => both,
            None if short.is_empty() => (part, ""),
            None => (short, part),
        })
        .collect()
}

/// Proxmox keeps tags sorted, each once, and tells their case apart only where a cluster was told to.
pub fn tags(text: &str) -> BTreeSet<String> {
    text.split([';', ',', ' ']).filter(|tag| !tag.is_empty()).map(str::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_meaning_in_several_forms() {
        for (name, now, wanted) in [
            ("tags", Some("a;b"), "b;a"),
            ("tags", Some("Web;db;"), "db web"),
            ("tags", Some(" "), ""),
            ("onboot", Some("yes"), "1"),
            ("onboot", Some("off"), "0"),
            ("onboot", None, "0"),
            ("protection", Some("true"), "1"),
            ("agent", Some("on,fstrim_cloned_disks=1"), "enabled=1"),
            ("agent", Some("fstrim_cloned_disks=1,enabled=yes"), "enabled=1"),
            ("memory", Some("current=4096"), "4096"),
            ("cpu", Some("cputype=host,flags=+aes"), "flags=+aes,host"),
            ("net0", Some("bridge=vmbr0,virtio=BC:24:11:00:00:01"), "virtio=BC:24:11:00:00:01,bridge=vmbr0"),
            ("cores", None, "1"),
            ("description", Some("a\nb\n"), "a\nb"),
        ] {
            assert!(same(name, now, wanted), "{name}: {now:?} {wanted}");
        }
    }

    #[test]
    fn another_meaning_is_another() {
        for (name, now, wanted) in [
            ("tags", Some("a;b"), "a"),
            ("tags", None, "a"),
            ("onboot", Some("0"), "1"),
            ("onboot", None, "1"),
            ("protection", Some("maybe"), "1"),
            ("agent", Some("0"), "enabled=1"),
            ("agent", Some("fstrim_cloned_disks=1"), "enabled=1"),
            ("memory", Some("current=2048"), "4096"),
            ("memory", None, "4096"),
            ("cpu", Some("host"), "host,flags=+aes"),
            ("cores", Some("2"), "1"),
            ("description", Some("a b"), "a\nb"),
        ] {
            assert!(!same(name, now, wanted), "{name}: {now:?} {wanted}");
        }
    }
}
