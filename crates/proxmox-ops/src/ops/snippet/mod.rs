//! cloud-init documents as files on the node (snippets), for what no native setting says.
//!
//! Proxmox's API takes no upload of snippets, so they go through the SSH session. A document may hold a private
//! host key: only root can read the file, and it is taken away when the machine has read it.

mod file;
mod place;
mod removal;

use std::collections::{BTreeMap, BTreeSet};

use fleet_core::{
    Error, Kind, Result, again, deadline::Deadline, guard::Permit, protocol::Document, types::Vmid,
};

pub use place::{Place, name, names, places};
pub use removal::{files_removal_shown, removal_shown, remove, remove_files};

use super::{Progress, config};
use crate::node::Node;

/// Proxmox reads no more than this of a snippet (PVE::QemuServer::Cloudinit).
const MOST_BYTES: usize = 1024 * 1024;

/// Checks a document before anything is sent.
pub fn check(document: Document, text: &str) -> Result<()> {
    let wrong = |what: String| Err(Error::usage(what).now("nothing was sent to the node"));
    if text.trim().is_empty() {
        return wrong(format!("the {document} document is empty"));
    }
    if text.len() > MOST_BYTES {
        return wrong(format!(
            "the {document} document has {} bytes: Proxmox reads no more than {MOST_BYTES} of a snippet",
            text.len()
        ));
    }
    Ok(())
}

/// Gives a VM documents of ours in place of those that Proxmox makes: the files on the node, only for root, each
/// verified by its checksum; and the setting that names them, in one request with other `settings`. What is there as it
/// should be is left alone.
///
/// The files come first: Proxmox reads them in the request that makes the cloud-init drive. They are on the first of
/// `places` that keeps them so; where none does, or there is none, nothing is changed. What was begun and failed is taken
/// back: a VM that names documents of ours already, and does not start without them, has them again as they were. Where
/// the setting may still come about they stay.
pub fn give(
    node: &Node,
    permit: &Permit,
    places: &[Place],
    documents: &BTreeMap<Document, String>,
    settings: &BTreeMap<String, String>,
    deadline: Deadline,
    progress: Progress<'_>,
) -> Result<Given> {
    let staged = stage(node, permit.vmid(), places, documents, deadline, progress)?;
    name_staged(node, permit, &staged, documents, settings, deadline, progress)
}

/// Documents that a VM has.
#[derive(Debug)]
pub struct Given {
    /// Their volumes.
    pub volumes: Vec<String>,
    /// Whether a file was written or a setting changed.
    pub changed: bool,
}

/// The same, and where no place keeps the documents the settings alone are changed, with a warning: then no volumes are
/// given.
pub fn give_or_not(
    node: &Node,
    permit: &Permit,
    documents: &BTreeMap<Document, String>,
    settings: &BTreeMap<String, String>,
    deadline: Deadline,
    progress: Progress<'_>,
) -> Result<Vec<String>> {
    documents.iter().try_for_each(|(document, text)| check(*document, text))?;
    let places = places(node, None, deadline)?;
    if !places.is_empty() {
        match stage(node, permit.vmid(), &places, documents, deadline, progress) {
            Ok(staged) => {
                let given = name_staged(node, permit, &staged, documents, settings, deadline, progress);
                return given.map(|given| given.volumes);
            }
            Err(e) if e.kind() == Kind::Failed => {
                progress(&format!(
                    "warning: VM {} goes without cloud-init documents: {}",
                    permit.vmid(),
                    e.chain()
                ));
            }
            Err(e) => return Err(e),
        }
    }
    config::change(node, permit, settings, &[], None, deadline, progress).map(|_| Vec::new())
}

/// Documents on the node that no setting names yet.
struct Staged<'a> {
    place: &'a Place,
    /// Those that the VM named there before and that were written anew, as they were.
    before: BTreeMap<Document, String>,
    /// Those that the VM has there already.
    already: BTreeSet<Document>,
}

impl Staged<'_> {
    /// Whether nothing was under its name that counted.
    fn is_new(&self, document: &Document) -> bool {
        !self.before.contains_key(document) && !self.already.contains(document)
    }
}

/// Writes the documents to the first place that keeps them.
fn stage<'a>(
    node: &Node,
    vmid: Vmid,
    places: &'a [Place],
    documents: &BTreeMap<Document, String>,
    deadline: Deadline,
    progress: Progress<'_>,
) -> Result<Staged<'a>> {
    documents.iter().try_for_each(|(document, text)| check(*document, text))?;
    let now = config::read(node, vmid, deadline)?;
    let named = parts(now.settings.get("cicustom").map_or("", String::as_str));
    let mut refused: Option<Error> = None;
    for place in places {
        let mut staged = Staged { place, before: BTreeMap::new(), already: BTreeSet::new() };
        for (document, text) in documents {
            let volume = place.volume(vmid, *document);
            if named.get(&document.to_string()) != Some(&volume) {
                continue;
            }
            match file::kept(&*node.api.transport(), &place.path(vmid, *document))? {
                Some(there) if there.secret && there.text == *text => drop(staged.already.insert(*document)),
                there => staged.before.extend(there.map(|there| (*document, there.text))),
            }
        }
        let to_write = documents.iter().filter(|(document, _)| !staged.already.contains(document));
        let written = to_write.clone().try_for_each(|(document, text)| {
            progress(&format!("writing {}", place.path(vmid, *document)));
            file::write(&*node.api.transport(), &place.path(vmid, *document), text)
        });
        let Err(error) = written else { return Ok(staged) };
        let error = taken_back(node, &staged, vmid, documents, error);
        // What is wrong with this storage need not be with the next.
        if error.kind() != Kind::Failed {
            return Err(error);
        }
        let earlier = refused.take();
        refused = Some(match earlier {
            None => error,
            Some(earlier) => earlier.now(format!("on storage '{}': {}", place.storage, error.chain())),
        });
    }
    Err(refused
        .unwrap_or_else(|| Error::failed("no storage of the node takes snippets").now("nothing was changed")))
}

/// The error, when what was begun at a place is again as it was.
fn taken_back(
    node: &Node,
    staged: &Staged<'_>,
    vmid: Vmid,
    documents: &BTreeMap<Document, String>,
    error: Error,
) -> Error {
    let path = |document: &Document| staged.place.path(vmid, *document);
    let new: Vec<String> = documents.keys().filter(|document| staged.is_new(document)).map(path).collect();
    let mut restored = staged
        .before
        .iter()
        .map(|(document, text)| file::write(&*node.api.transport(), &path(document), text));
    let deleted = if new.is_empty() { Ok(()) } else { file::delete(&*node.api.transport(), &new) };
    match deleted.and(restored.try_for_each(|done| done)) {
        Ok(()) => error,
        Err(e) => error.now(format!("and what was written could not be taken back: {}", e.chain())),
    }
}

fn name_staged(
    node: &Node,
    permit: &Permit,
    staged: &Staged<'_>,
    documents: &BTreeMap<Document, String>,
    settings: &BTreeMap<String, String>,
    deadline: Deadline,
    progress: Progress<'_>,
) -> Result<Given> {
    let (vmid, place) = (permit.vmid(), staged.place);
    // A file that is another one is read with the request that names it.
    let written = staged.already.len() < documents.len();
    let mut named = || {
        let now = config::read(node, vmid, deadline)?;
        let now = now.settings.get("cicustom").map_or("", String::as_str);
        let settings = naming(place, vmid, documents, now, settings);
        match written {
            true => config::change(node, permit, &settings, &[], None, deadline, progress),
            false => config::set(node, permit, &settings, deadline, progress),
        }
    };
    let set = named().map_err(|error| {
        if error.may_go_on() {
            return error
                .now(format!("the documents stay on the node: VM {vmid} may name them, or come to"))
                .hint(format!(
                    "to take them away: {}",
                    again::ops(format_args!("cloudinit-config {vmid} --no-documents"))
                ));
        }
        taken_back(node, staged, vmid, documents, error)
    })?;
    let volumes = documents.keys().map(|document| place.volume(vmid, *document)).collect();
    Ok(Given { volumes, changed: written || set })
}

/// `settings`, and the one that names the documents beside what `cicustom` names now.
fn naming(
    place: &Place,
    vmid: Vmid,
    documents: &BTreeMap<Document, String>,
    cicustom: &str,
    settings: &BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    let mut custom = parts(cicustom);
    for document in documents.keys() {
        custom.insert(document.to_string(), place.volume(vmid, *document));
    }
    let mut settings = settings.clone();
    settings.insert("cicustom".to_owned(), joined(&custom));
    settings
}

/// What [`give`] would do for a VM that may not be there yet: the files that it would write, each with its text, and
/// the settings.
pub fn shown(
    node: &Node,
    vmid: Vmid,
    documents: &BTreeMap<Document, String>,
    settings: &BTreeMap<String, String>,
    deadline: Deadline,
) -> Result<(Vec<String>, BTreeMap<String, String>)> {
    documents.iter().try_for_each(|(document, text)| check(*document, text))?;
    let places = places(node, None, deadline)?;
    let Some(place) = places.first() else { return Ok((Vec::new(), settings.clone())) };
    let now = match config::read(node, vmid, deadline) {
        Ok(now) => now.settings.get("cicustom").cloned().unwrap_or_default(),
        Err(error) if error.kind() == Kind::NotFound => String::new(),
        Err(error) => return Err(error),
    };
    let file = |(document, text): (&Document, &String)| {
        format!("write {}, for root alone (0600):\n{}", place.path(vmid, *document), text.trim_end())
    };
    let files = documents.iter().map(file).collect();
    Ok((files, naming(place, vmid, documents, &now, settings)))
}

fn parts(cicustom: &str) -> BTreeMap<String, String> {
    let pairs = cicustom.split(',').filter_map(|part| part.split_once('='));
    pairs.map(|(document, volume)| (document.to_owned(), volume.to_owned())).collect()
}

fn joined(custom: &BTreeMap<String, String>) -> String {
    custom.iter().map(|(document, volume)| format!("{document}={volume}")).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_checked_before_they_are_sent() {
        assert!(check(Document::User, "#cloud-config\n").is_ok());
        assert_eq!(check(Document::Meta, " \n").unwrap_err().message(), "the meta document is empty");
        let long = check(Document::User, &"x".repeat(MOST_BYTES + 1)).unwrap_err();
        assert!(long.message().contains("reads no more than 1048576"));
    }
}
