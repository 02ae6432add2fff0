//! What we write into a VM's description beside our marker, each a line of its own. Pure. What people write there stays.

use std::collections::BTreeSet;

use fleet_core::{definitions::ManagedVm, protocol::Marker};

use crate::{meaning, settings::Settings};

/// The definition's purpose.
const PURPOSE: &str = "fleet-purpose: ";

/// What of the VM's settings came from its definition and goes when the definition has it no more. People set tags and
/// protection, too: without this line nobody could tell whose they are.
const OWNS: &str = "fleet-owns: ";

/// What of tags and protection is the definition's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Owned {
    /// In lower case, as Proxmox compares them.
    pub tags: BTreeSet<String>,
    /// Whether the definition has set it.
    pub protection: bool,
}

impl Owned {
    /// What the definition has.
    pub fn of(vm: &ManagedVm) -> Owned {
        let tags = vm.tags.iter().map(|tag| tag.as_ref().to_lowercase()).collect();
        Owned { tags, protection: vm.protection }
    }

    /// What is written down.
    pub fn recorded(current: &Settings) -> Owned {
        let text = current.get("description").map_or("", String::as_str);
        let line = Marker::find(text).and_then(|_| text.lines().find_map(|line| line.strip_prefix(OWNS)));
        let mut owned = Owned::default();
        for word in line.unwrap_or_default().split_whitespace() {
            match word.strip_prefix("tags=") {
                Some(tags) => owned.tags = meaning::tags(tags),
                None => owned.protection |= word == "protection",
            }
        }
        owned
    }

    fn line(&self) -> Option<String> {
        let tags = self.tags.iter().map(String::as_str).collect::<Vec<_>>().join(";");
        let words = [
            self.protection.then(|| "protection".to_owned()),
            (!tags.is_empty()).then(|| format!("tags={tags}")),
        ];
        let words: Vec<String> = words.into_iter().flatten().collect();
        (!words.is_empty()).then(|| format!("{OWNS}{}", words.join(" ")))
    }
}

/// The description with the definition's purpose in it, and with `owned`. Nothing for a VM without our marker: its
/// description is not ours.
pub fn text(vm: &ManagedVm, current: &Settings, owned: &Owned) -> Option<String> {
    let now = current.get("description")?;
    Marker::find(now)?;
    let purpose = vm.purpose.as_ref().map(|text| text.split_whitespace().collect::<Vec<_>>().join(" "));
    let purpose = purpose.map(|text| format!("{PURPOSE}{text}"));
    // The later of the two comes first: each new one is put right behind the marker.
    let text = with_line(now, OWNS, owned.line());
    Some(with_line(&text, PURPOSE, purpose))
}

/// Without what only says whose the settings are.
pub fn without_owned(text: &str) -> String {
    with_line(text, OWNS, None)
}

/// The text with the line that begins so, in the place of the one that there is, else behind the marker.
fn with_line(text: &str, start: &str, mut line: Option<String>) -> String {
    let mut lines: Vec<String> = Vec::new();
    for now in text.lines() {
        match now.starts_with(start) {
            true => lines.extend(line.take()),
            false => lines.push(now.to_owned()),
        }
    }
    if let Some(line) = line {
        let after = lines.iter().position(|line| Marker::find(line).is_some()).map_or(0, |at| at + 1);
        lines.insert(after, line);
    }
    lines.join("\n")
}

/// The tags that stay when those go that the definition had and has no more, where it has none at all: what people gave
/// the VM besides. Nothing where none goes.
pub fn remaining_tags(vm: &ManagedVm, current: &Settings) -> Option<String> {
    let owned = Owned::recorded(current).tags;
    let now: Vec<&str> = current.get("tags")?.split([';', ',', ' ']).filter(|tag| !tag.is_empty()).collect();
    let stay: Vec<&str> = now.iter().copied().filter(|tag| !owned.contains(&tag.to_lowercase())).collect();
    (vm.tags.is_empty() && stay.len() < now.len()).then(|| stay.join(";"))
}

/// The protection that the VM gets or loses, where that is for the definition to say.
pub fn protection(vm: &ManagedVm, current: &Settings) -> Option<(String, String)> {
    let is = |wanted| meaning::same("protection", current.get("protection").map(String::as_str), wanted);
    let wanted = match (vm.protection, Owned::recorded(current).protection) {
        (true, _) => "1",
        (false, true) => "0",
        (false, false) => return None,
    };
    (!is(wanted)).then(|| ("protection".to_owned(), wanted.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::vm;

    const MARKER: &str = "fleet-vm: name=test-automation vmid=110 nonce=0123456789abcdef0123456789abcdef";

    fn settings(pairs: &[(&str, &str)]) -> Settings {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn what_is_written_is_what_is_read_and_the_rest_stays() {
        let mut vm = vm();
        (vm.purpose, vm.protection) = (Some(" Web \n".into()), true);
        vm.tags = vec!["b".parse().unwrap(), "a".parse().unwrap()];
        let mut now = settings(&[("description", &format!("above\n{MARKER}\nbelow"))]);
        let all = text(&vm, &now, &Owned::of(&vm)).unwrap();
        assert_eq!(
            all,
            format!("above\n{MARKER}\nfleet-purpose: Web\nfleet-owns: protection tags=a;b\nbelow")
        );
        now.insert("description".into(), all.clone());
        assert_eq!(text(&vm, &now, &Owned::of(&vm)), Some(all));
        assert_eq!(Owned::recorded(&now), Owned::of(&vm));
        (vm.purpose, vm.protection, vm.tags) = (None, false, Vec::new());
        assert_eq!(text(&vm, &now, &Owned::of(&vm)), Some(format!("above\n{MARKER}\nbelow")));
        // Who has no marker of ours has nothing of ours.
        let foreign = settings(&[("description", "fleet-owns: protection tags=a")]);
        assert_eq!(
            (Owned::recorded(&foreign), text(&vm, &foreign, &Owned::default())),
            (Owned::default(), None)
        );
    }

    #[test]
    fn only_what_the_definition_had_goes_when_it_has_it_no_more() {
        let owns = format!("{MARKER}\nfleet-owns: protection tags=a;b");
        let mut vm = vm();
        let gone = |vm: &ManagedVm, description: &str, tags: &str, protection: &str| {
            let now = settings(&[("description", description), ("tags", tags), ("protection", protection)]);
            (remaining_tags(vm, &now), protection_of(vm, &now))
        };
        fn protection_of(vm: &ManagedVm, now: &Settings) -> Option<String> {
            protection(vm, now).map(|(_, value)| value)
        }
        assert_eq!(gone(&vm, &owns, "A;b;mine", "1"), (Some("mine".into()), Some("0".into())));
        assert_eq!(gone(&vm, &owns, "a", "0"), (Some(String::new()), None));
        assert_eq!(gone(&vm, &owns, "mine", "0"), (None, None));
        assert_eq!(gone(&vm, MARKER, "a;b", "1"), (None, None));
        vm.tags = vec!["c".parse().unwrap()];
        vm.protection = true;
        assert_eq!(gone(&vm, &owns, "a;b", "1"), (None, None));
        assert_eq!(gone(&vm, MARKER, "a;b", "0"), (None, Some("1".into())));
    }
}
