//! Whether there is room for all VMs of a run together: each alone may find enough.

use std::collections::BTreeMap;

use fleet_core::Error;

use super::Found;
use crate::{place, plan::Origin};

/// What one VM needs.
#[derive(Debug, Clone)]
struct Need {
    at: usize,
    name: String,
    /// The node whose storage it is; none when all share it.
    node: Option<String>,
    storage: String,
    bytes: u64,
    free: Option<u64>,
}

/// The VMs that do not fit any more after the ones before them.
pub(super) fn faults(ready: &Found<'_>) -> Vec<(usize, Error)> {
    let needs = ready.iter().filter(|(_, prepared)| !matches!(prepared.plan().origin, Origin::Continue(_)));
    let needs = needs.flat_map(|(at, prepared)| {
        place::needs(prepared.vm, None).into_iter().map(move |(storage, bytes)| {
            let found = prepared.storages().iter().find(|s| s.storage == *storage);
            Need {
                at: *at,
                name: prepared.vm.name.to_string(),
                node: found.filter(|s| !s.shared).and_then(|s| Some(s.node.as_ref()?.to_string())),
                storage: storage.to_string(),
                bytes,
                free: found.and_then(|storage| storage.available),
            }
        })
    });
    too_much(needs)
}

fn too_much(needs: impl Iterator<Item = Need>) -> Vec<(usize, Error)> {
    let mut taken: BTreeMap<(Option<String>, String), u64> = BTreeMap::new();
    let mut faults = Vec::new();
    for need in needs {
        let Some(free) = need.free else { continue };
        let before = taken.entry((need.node.clone(), need.storage.clone())).or_default();
        let left = free.saturating_sub(*before);
        if need.bytes <= left {
            *before += need.bytes;
            continue;
        }
        let (gib, storage) = (|bytes: u64| bytes >> 30, &need.storage);
        faults.push((
            need.at,
            Error::failed(format!(
                "storage '{storage}' has no room for '{}' beside the other VMs of this run: {} GiB of {} would be left, \
                 the disk needs {}",
                need.name,
                gib(left),
                gib(free),
                gib(need.bytes)
            ))
            .now("nothing was changed")
            .hint("make room, give it another storage, or provision fewer VMs"),
        ));
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn storages_are_filled_in_order() {
        let need = |at, storage: &str, gib: u64, free: Option<u64>| Need {
            at,
            name: format!("vm{at}"),
            node: None,
            storage: storage.to_owned(),
            bytes: gib << 30,
            free: free.map(|gib| gib << 30),
        };
        let needs = [
            need(0, "a", 60, Some(100)),
            need(1, "a", 60, Some(100)),
            need(2, "a", 40, Some(100)),
            need(3, "b", 40, Some(50)),
            need(4, "c", 999, None),
        ];
        let faults = too_much(needs.into_iter());
        let told: Vec<_> = faults.iter().map(|(at, error)| (*at, error.message())).collect();
        let words = "storage 'a' has no room for 'vm1' beside the other VMs of this run: 40 GiB of 100 would be left, \
                     the disk needs 60";
        assert_eq!(told, [(1, words)]);
    }
}
