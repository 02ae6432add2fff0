//! Taking documents away again: settings first, then files.

use std::collections::BTreeMap;

use fleet_core::{
    Result,
    deadline::Deadline,
    guard::Permit,
    protocol::Document,
    types::{StorageId, Vmid},
};

use super::{
    super::{Progress, config},
    file, joined, parts,
    place::{name, path_of, places},
};
use crate::node::Node;

/// Takes our documents away from a VM, setting and files; those of others stay. Gives whether the VM had any. What
/// a run left that died before it could write the setting goes too, where the storage is the node's own: on a shared one
/// it may be another cluster's, of a VM with the same number, and is told.
///
/// The setting goes first: a VM whose setting names a file that is gone does not start any more.
pub fn remove(node: &Node, permit: &Permit, deadline: Deadline, progress: Progress<'_>) -> Result<bool> {
    let vmid = permit.vmid();
    let now = config::read(node, vmid, deadline)?;
    let cicustom = now.settings.get("cicustom").map_or("", String::as_str);
    let removal = removal(node, vmid, cicustom, deadline)?;
    if let Some((settings, deleted)) = &removal.change {
        config::change(node, permit, settings, deleted, None, deadline, progress)?;
    }
    for (paths, certain) in &removal.files {
        match file::delete(&*node.api.transport(), paths) {
            Err(e) if *certain => return Err(e),
            _ => {}
        }
    }
    for (storage, paths) in &removal.doubtful {
        // A storage that can not be looked at is none that anything was left on.
        for path in
            paths.iter().filter(|path| file::is_there(&*node.api.transport(), path).unwrap_or_default())
        {
            progress(&format!(
                "warning: {path} stays: VM {vmid} does not name it, and the storage '{storage}' is shared: it may be \
                 another cluster's; if it is not: {}",
                file::deleting(std::slice::from_ref(path))
            ));
        }
    }
    Ok(removal.change.is_some())
}

/// What [`remove`] would do with a VM that has this `cicustom` setting: the settings to change and to delete, if there are
/// any; and after that the commands on the node.
pub fn removal_shown(
    node: &Node,
    vmid: Vmid,
    cicustom: &str,
    deadline: Deadline,
) -> Result<(Vec<String>, Option<Change>)> {
    let removal = removal(node, vmid, cicustom, deadline)?;
    Ok((removal.files.iter().map(|(paths, _)| file::deleting(paths)).collect(), removal.change))
}

/// Settings to change, and settings to delete.
type Change = (BTreeMap<String, String>, Vec<String>);

/// What takes documents away.
struct Removal {
    /// The files of each place, and whether they have to go: a storage that is full or read-only may be one that they
    /// never came to.
    files: Vec<(Vec<String>, bool)>,
    /// The files under our names that may be another cluster's, by their storage: those on shared ones that the setting
    /// does not name.
    doubtful: Vec<(StorageId, Vec<String>)>,
    change: Option<Change>,
}

fn removal(node: &Node, vmid: Vmid, cicustom: &str, deadline: Deadline) -> Result<Removal> {
    let mut custom = parts(cicustom);
    let ours = ours(&custom, vmid);
    let on = |storage: &StorageId, volume: &str| volume.starts_with(&format!("{storage}:"));
    let (mut files, mut doubtful) = (Vec::new(), Vec::new());
    let places = places(node, None, deadline)?;
    let (shared, own): (Vec<_>, Vec<_>) = places.iter().partition(|place| place.shared);
    for (number, place) in own.iter().enumerate() {
        let there = ours.iter().any(|(_, volume)| on(&place.storage, volume));
        files.push((place.paths(vmid), number == 0 || there));
    }
    for (document, volume) in &ours {
        if !own.iter().any(|place| on(&place.storage, volume)) {
            files.extend(path_of(node, vmid, *document, volume, deadline)?.map(|path| (vec![path], true)));
        }
    }
    for place in shared {
        let named = |path: &String| files.iter().any(|(paths, _)| paths.contains(path));
        let paths: Vec<String> = place.paths(vmid).into_iter().filter(|path| !named(path)).collect();
        doubtful.push((place.storage.clone(), paths));
    }
    custom.retain(|_, volume| !ours.iter().any(|(_, ours)| ours == volume));
    let change = if ours.is_empty() {
        None
    } else if custom.is_empty() {
        Some((BTreeMap::new(), vec!["cicustom".to_owned()]))
    } else {
        Some((BTreeMap::from([("cicustom".to_owned(), joined(&custom))]), Vec::new()))
    };
    Ok(Removal { files, doubtful, change })
}

/// Removes the files of a VM that is gone: those that its `cicustom` setting named and that are ours, and those under our
/// names for it on the node's own storages, which a run left that died before the setting named them, or after it. A shared
/// storage may be another cluster's too, with a VM of the same number.
pub fn remove_files(node: &Node, cicustom: &str, vmid: Vmid, deadline: Deadline) -> Result<()> {
    let files = files_of(node, cicustom, vmid, deadline)?;
    if files.is_empty() { Ok(()) } else { file::delete(&*node.api.transport(), &files) }
}

/// The command of [`remove_files`], where there is one.
pub fn files_removal_shown(
    node: &Node,
    cicustom: &str,
    vmid: Vmid,
    deadline: Deadline,
) -> Result<Option<String>> {
    let files = files_of(node, cicustom, vmid, deadline)?;
    Ok((!files.is_empty()).then(|| file::deleting(&files)))
}

fn files_of(node: &Node, cicustom: &str, vmid: Vmid, deadline: Deadline) -> Result<Vec<String>> {
    let mut files = Vec::new();
    for (document, volume) in &ours(&parts(cicustom), vmid) {
        files.extend(path_of(node, vmid, *document, volume, deadline)?);
    }
    let own = places(node, None, deadline)?;
    files.extend(own.iter().filter(|place| !place.shared).flat_map(|place| place.paths(vmid)));
    files.sort();
    files.dedup();
    Ok(files)
}

/// The documents of ours in a `cicustom` setting, with their volumes.
fn ours(custom: &BTreeMap<String, String>, vmid: Vmid) -> Vec<(Document, String)> {
    Document::ALL
        .into_iter()
        .filter_map(|document| {
            let volume = custom.get(&document.to_string())?;
            let ends = format!(":snippets/{}", name(vmid, document));
            volume.ends_with(&ends).then(|| (document, volume.clone()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_documents_are_taken_away() {
        let vmid = Vmid::new(110).unwrap();
        let custom = parts(
            "user=local:snippets/fleet-110-user.yaml,vendor=local:snippets/mine.yaml,network=nas:snippets/fleet-111-network.yaml",
        );
        assert_eq!(ours(&custom, vmid), [(Document::User, "local:snippets/fleet-110-user.yaml".to_owned())]);
        assert_eq!(
            joined(&custom),
            "network=nas:snippets/fleet-111-network.yaml,user=local:snippets/fleet-110-user.yaml,vendor=local:snippets/mine.yaml"
        );
    }
}
