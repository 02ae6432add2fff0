//! cloud-init documents as files on the node (snippets), for what no native setting says.
//!
//! Proxmox's API takes no upload of snippets, so they go through the SSH session. A document may hold a private
//! host key: only root can read the file, and it is taken away when the machine has read it.

use std::{collections::BTreeMap, fmt::Write};

use fleet_core::{
    Error, Kind, Result, again,
    child::quote,
    deadline::Deadline,
    guard::Permit,
    protocol::Document,
    ssh::Transport,
    types::{StorageId, Vmid},
};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{Progress, config, host};
use crate::{
    api::{encode::percent, error},
    node::Node,
};

/// Proxmox reads no more than this of a snippet (PVE::QemuServer::Cloudinit).
const MOST_BYTES: usize = 1024 * 1024;

/// How long the node may take to write a document, in seconds.
const WRITE: u64 = 60;

/// Where a storage keeps its snippets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    storage: StorageId,
    directory: String,
}

impl Place {
    fn volume(&self, vmid: Vmid, document: Document) -> String {
        format!("{}:snippets/{}", self.storage, name(vmid, document))
    }

    fn path(&self, vmid: Vmid, document: Document) -> String {
        format!("{}/{}", self.directory, name(vmid, document))
    }
}

/// The file's name: of one VM and one document, so that a later run finds it again.
pub fn name(vmid: Vmid, document: Document) -> String {
    format!("fleet-{vmid}-{document}.yaml")
}

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

/// The places for snippets: on the given storage, else on all that take them, the node's own before shared ones. None
/// where there is none, or where we may not write there.
pub fn places(node: &Node, given: Option<&StorageId>, deadline: Deadline) -> Result<Vec<Place>> {
    if given.is_none() && node.settings().login() != "root" {
        return Ok(Vec::new());
    }
    let mut storages = host::storages(node, deadline)?;
    storages.retain(|s| s.active && s.content.iter().any(|c| c == "snippets"));
    storages.sort_by_key(|s| (s.shared, s.storage.as_str() != "local"));
    if let Some(wanted) = given
        && !storages.iter().any(|s| s.storage == *wanted)
    {
        let fit: Vec<&str> = storages.iter().map(|s| s.storage.as_str()).collect();
        let fit =
            if fit.is_empty() { "none does".to_owned() } else { format!("these do: {}", fit.join(", ")) };
        return Err(Error::failed(format!("storage '{wanted}' takes no snippets ({fit})"))
            .now("nothing was changed")
            .hint(format!("`pvesm set {wanted} --content …,snippets` on the node lets it take them")));
    }
    let mut places = Vec::new();
    for storage in storages.iter().filter(|s| given.is_none_or(|wanted| s.storage == *wanted)) {
        match place_on(node, &storage.storage, deadline) {
            Ok(place) => places.extend(place),
            // A token that may not see where its files are may not name one for a VM either (Datastore.Allocate).
            Err(e) if given.is_none() && error::is_forbidden(e.message()) => node.ui.detail(e.chain()),
            Err(e) => return Err(e),
        }
    }
    Ok(places)
}

fn place_on(node: &Node, storage: &StorageId, deadline: Deadline) -> Result<Option<Place>> {
    let path = format!("/storage/{}", percent(storage.as_str()));
    let data = node.api.get(&format!("read the settings of storage '{storage}'"), &path, &[], deadline)?;
    Ok(directory(&data).map(|directory| Place { storage: storage.clone(), directory }))
}

/// The directory of a storage's snippets, by its settings (`path`, `content-dirs`).
fn directory(settings: &Value) -> Option<String> {
    let path = settings.get("path").and_then(Value::as_str).filter(|path| path.starts_with('/'))?;
    let dirs = settings.get("content-dirs").and_then(Value::as_str).unwrap_or_default();
    let own = dirs.split(',').find_map(|part| part.strip_prefix("snippets="));
    Some(format!("{}/{}", path.trim_end_matches('/'), own.unwrap_or("snippets").trim_matches('/')))
}

/// Gives a VM documents of ours in place of those that Proxmox makes: the files on the node, only for root, each
/// verified by its checksum; and the setting that names them, in one request with other `settings`. Gives the volumes.
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
) -> Result<Vec<String>> {
    let staged = stage(node, permit.vmid(), places, documents, deadline, progress)?;
    name_staged(node, permit, &staged, documents, settings, deadline, progress)
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
                return name_staged(node, permit, &staged, documents, settings, deadline, progress);
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
    /// Those that the VM named there before, as they were.
    before: BTreeMap<Document, String>,
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
        let mut staged = Staged { place, before: BTreeMap::new() };
        for document in documents.keys() {
            let volume = place.volume(vmid, *document);
            if named.get(&document.to_string()) == Some(&volume) {
                let before = text_of(&*node.api.transport(), &place.path(vmid, *document))?;
                staged.before.extend(before.map(|text| (*document, text)));
            }
        }
        let written = documents.iter().try_for_each(|(document, text)| {
            progress(&format!("writing {}", place.path(vmid, *document)));
            write(&*node.api.transport(), &place.path(vmid, *document), text)
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
    let new: Vec<String> =
        documents.keys().filter(|document| !staged.before.contains_key(document)).map(path).collect();
    let mut restored =
        staged.before.iter().map(|(document, text)| write(&*node.api.transport(), &path(document), text));
    let deleted = if new.is_empty() { Ok(()) } else { delete(node, &new) };
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
) -> Result<Vec<String>> {
    let (vmid, place) = (permit.vmid(), staged.place);
    let mut named = || {
        let now = config::read(node, vmid, deadline)?;
        let now = now.settings.get("cicustom").map_or("", String::as_str);
        let settings = naming(place, vmid, documents, now, settings);
        config::change(node, permit, &settings, &[], None, deadline, progress)
    };
    named().map_err(|error| {
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
    Ok(documents.keys().map(|document| place.volume(vmid, *document)).collect())
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

/// Takes our documents away from a VM, setting and files; those of others stay. Gives whether the VM had any. What
/// a run left that died before it could write the setting goes too.
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
        match delete(node, paths) {
            Err(e) if *certain => return Err(e),
            _ => {}
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
    Ok((removal.files.iter().map(|(paths, _)| deleting(paths)).collect(), removal.change))
}

/// Settings to change, and settings to delete.
type Change = (BTreeMap<String, String>, Vec<String>);

/// What takes documents away.
struct Removal {
    /// The files of each place, and whether they have to go: a storage that is full or read-only may be one that they
    /// never came to.
    files: Vec<(Vec<String>, bool)>,
    change: Option<Change>,
}

fn removal(node: &Node, vmid: Vmid, cicustom: &str, deadline: Deadline) -> Result<Removal> {
    let mut custom = parts(cicustom);
    let ours = ours(&custom, vmid);
    let on = |storage: &StorageId, volume: &str| volume.starts_with(&format!("{storage}:"));
    let places = places(node, None, deadline)?;
    let mut files = Vec::new();
    for (number, place) in places.iter().enumerate() {
        let there = ours.iter().any(|(_, volume)| on(&place.storage, volume));
        files.push((paths(place, vmid), number == 0 || there));
    }
    for (document, volume) in &ours {
        if !places.iter().any(|place| on(&place.storage, volume)) {
            files.extend(path_of(node, vmid, *document, volume, deadline)?.map(|path| (vec![path], true)));
        }
    }
    custom.retain(|_, volume| !ours.iter().any(|(_, ours)| ours == volume));
    let change = if ours.is_empty() {
        None
    } else if custom.is_empty() {
        Some((BTreeMap::new(), vec!["cicustom".to_owned()]))
    } else {
        Some((BTreeMap::from([("cicustom".to_owned(), joined(&custom))]), Vec::new()))
    };
    Ok(Removal { files, change })
}

/// Removes the files that a `cicustom` setting names and that are ours: for a VM that is gone.
pub fn remove_files(node: &Node, cicustom: &str, vmid: Vmid, deadline: Deadline) -> Result<()> {
    for (document, volume) in &ours(&parts(cicustom), vmid) {
        if let Some(path) = path_of(node, vmid, *document, volume, deadline)? {
            delete(node, &[path])?;
        }
    }
    Ok(())
}

/// Where a volume of ours is, if its storage keeps files.
fn path_of(
    node: &Node,
    vmid: Vmid,
    document: Document,
    volume: &str,
    deadline: Deadline,
) -> Result<Option<String>> {
    let storage: StorageId = volume.split(':').next().unwrap_or_default().parse()?;
    Ok(place_on(node, &storage, deadline)?.map(|place| place.path(vmid, document)))
}

/// Where all the documents of a VM would be.
fn paths(place: &Place, vmid: Vmid) -> Vec<String> {
    Document::ALL.into_iter().map(|document| place.path(vmid, document)).collect()
}

fn deleting(paths: &[String]) -> String {
    let quoted: Vec<String> = paths.iter().map(|path| quote(path)).collect();
    format!("rm -f -- {}", quoted.join(" "))
}

fn delete(node: &Node, paths: &[String]) -> Result<()> {
    let command = deleting(paths);
    let output = node.api.transport().exec(&command, b"", Deadline::secs(WRITE))?;
    output.checked(&command, "the node").map(drop).map_err(|e| e.now("a document may still be on the node"))
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

fn parts(cicustom: &str) -> BTreeMap<String, String> {
    let pairs = cicustom.split(',').filter_map(|part| part.split_once('='));
    pairs.map(|(document, volume)| (document.to_owned(), volume.to_owned())).collect()
}

fn joined(custom: &BTreeMap<String, String>) -> String {
    custom.iter().map(|(document, volume)| format!("{document}={volume}")).collect::<Vec<_>>().join(",")
}

/// What [`text_of`] has printed before the text, past whatever the login shell's start-up files print.
const TEXT: &str = "fleet-document\n";

/// The text of a file; none where there is no such file.
fn text_of(transport: &dyn Transport, path: &str) -> Result<Option<String>> {
    let path = quote(path);
    let command = format!("if [ -e {path} ]; then echo fleet-document && cat -- {path}; fi");
    let output = transport.exec(&command, b"", Deadline::secs(WRITE))?;
    let said = output.checked(&command, "the node").map_err(|e| e.now("nothing was changed"))?.stdout_text();
    Ok(said.split_once(TEXT).map(|(_, text)| text.to_owned()))
}

/// Writes a file beside its place, syncs it, and puts it there, with mode 0600, once its checksum is right: when the
/// connection is lost in the middle, what was there stays.
fn write(transport: &dyn Transport, path: &str, text: &str) -> Result<()> {
    let sum = Sha256::digest(text.as_bytes()).iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    });
    let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
    let (directory, file, target) = (quote(directory), quote(name), quote(path));
    let command = format!(
        "set -eu; umask 077; mkdir -p -- {directory}; new=$(mktemp -- {directory}/.{file}.XXXXXX); \
         trap 'rm -f -- \"$new\"' EXIT; cat >\"$new\"; chmod 600 -- \"$new\"; sync -- \"$new\"; \
         is=$(sha256sum <\"$new\"; stat -c %a -- \"$new\"); \
         case $is in {sum}*600) mv -f -- \"$new\" {target}; sync -- {directory}; \
         is=$(sha256sum <{target}; stat -c %a -- {target});; esac; echo \"$is\""
    );
    let output = transport.exec(&command, text.as_bytes(), Deadline::secs(WRITE)).map_err(|e| {
        if e.kind() == Kind::OutcomeUnknown {
            e.now(format!("{path} may or may not be on the node"))
        } else {
            e
        }
    })?;
    let said = output.checked(&format!("writing {path}"), "the node")?.stdout_text();
    let words: Vec<&str> = said.split_whitespace().collect();
    // What a login shell's start-up files print stands before it.
    match words.as_slice() {
        [.., there, "-", "600"] if *there == sum => Ok(()),
        [.., there, "-", mode] if *there == sum => {
            Err(Error::failed(format!("the node keeps {path} with mode {mode}: others than root could read it"))
                .hint("a storage on a file system without owners and modes can not keep secrets: let another one take snippets"))
        }
        _ => Err(Error::failed(format!("the node did not keep {path} as it was sent"))
            .now(format!("sent {sum}, kept {}", said.trim().escape_debug()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Fake, Local, node};
    use serde_json::json;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_document_is_written_for_root_alone_and_whole() {
        let dir = tempfile::tempdir().unwrap();
        let node = Local::new("/var/lib/vz", dir.path());
        let node = node.replacing("set -eu", "echo Welcome to prom; set -eu");
        let text = "#cloud-config\nssh_keys: { a: 'b $(x) \"' }\n".repeat(500);
        for _ in 0..2 {
            write(&node, "/var/lib/vz/snip pets/fleet-110-user.yaml", &text).unwrap();
        }
        let place = dir.path().join("snip pets");
        let names: Vec<_> = std::fs::read_dir(&place).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["fleet-110-user.yaml"]);
        let file = place.join("fleet-110-user.yaml");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_document_that_changes_on_its_way_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let node = |from: &str, to: &str| Local::new("/var/lib/vz", dir.path()).replacing(from, to);
        let path = "/var/lib/vz/x.yaml";
        // What the end of a connection in the middle comes to.
        let part = ("cat >\"$new\"", "head -c 5 >\"$new\"");
        let error = write(&node(part.0, part.1), path, "#cloud-config\n").unwrap_err();
        assert_eq!(error.message(), "the node did not keep /var/lib/vz/x.yaml as it was sent");
        let error = write(&node("stat -c %a", "echo 755 ;: "), path, "#cloud-config\n").unwrap_err();
        assert!(error.message().contains("with mode 755"), "{}", error.message());
        assert!(write(&node("sync -- \"$new\"", "false"), path, "#cloud-config\n").is_err());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing half written stays");
        // What was there before stays as it was.
        let whole = node("set -eu", "echo Welcome to prom; set -eu");
        assert_eq!(text_of(&whole, path).unwrap(), None);
        write(&whole, path, "#cloud-config\n# One.\n").unwrap();
        write(&node(part.0, part.1), path, "#cloud-config\n# Two.\n").unwrap_err();
        let greeted = node("if [", "echo Welcome to prom; if [");
        assert_eq!(text_of(&greeted, path).unwrap().as_deref(), Some("#cloud-config\n# One.\n"));
    }

    #[test]
    fn a_storages_settings_say_where_its_snippets_are() {
        assert_eq!(directory(&json!({ "path": "/var/lib/vz" })).unwrap(), "/var/lib/vz/snippets");
        let own = json!({ "path": "/mnt/pve/nas/", "content-dirs": "iso=a/b,snippets=/x/snip" });
        assert_eq!(directory(&own).unwrap(), "/mnt/pve/nas/x/snip");
        assert_eq!(directory(&json!({ "pool": "rpool" })), None);
    }

    #[test]
    fn the_nodes_own_storage_is_taken_before_a_shared_one() {
        let storage = |name: &str, shared: u8, content: &str| json!({"storage": name, "type": "dir", "content": content, "active": 1, "enabled": 1, "shared": shared});
        let fake = Fake::new()
            .get("/cluster/status", json!([{"type": "node", "name": "prom", "local": 1}]))
            .get(
                "/nodes/prom/storage",
                json!([
                    storage("a-nas", 1, "snippets"),
                    storage("bb", 0, "images,snippets"),
                    storage("local", 0, "iso,snippets"),
                    storage("zz", 0, "images")
                ]),
            )
            .get("/storage/local", json!({"storage": "local", "path": "/var/lib/vz"}))
            .get("/storage/bb", json!({"storage": "bb", "path": "/bb"}))
            .get("/storage/a-nas", json!({"storage": "a-nas", "path": "/nas"}));
        let node = node(&fake);
        let find = |given: Option<&str>| {
            let found = places(&node, given.map(|g| g.parse().unwrap()).as_ref(), Deadline::secs(5))?;
            Ok::<_, Error>(found.into_iter().map(|place| place.directory).collect::<Vec<_>>())
        };
        assert_eq!(find(None).unwrap(), ["/var/lib/vz/snippets", "/bb/snippets", "/nas/snippets"]);
        assert_eq!(find(Some("bb")).unwrap(), ["/bb/snippets"]);
        let error = find(Some("zz")).unwrap_err();
        assert_eq!(error.message(), "storage 'zz' takes no snippets (these do: local, bb, a-nas)");
    }

    #[test]
    fn where_no_settings_may_be_read_there_is_no_place() {
        let forbidden = json!({"message": "Permission check failed (/storage/local, Datastore.Allocate)\n"});
        let fake = Fake::new()
            .get("/cluster/status", json!([{"type": "node", "name": "prom", "local": 1}]))
            .get(
                "/nodes/prom/storage",
                json!([{"storage": "local", "type": "dir", "content": "snippets", "active": 1}]),
            )
            .on("GET", "/storage/local", 403, forbidden);
        let node = node(&fake);
        assert_eq!(places(&node, None, Deadline::secs(5)).unwrap(), []);
        let asked = places(&node, Some(&"local".parse().unwrap()), Deadline::secs(5)).unwrap_err();
        assert!(asked.message().contains("Datastore.Allocate"), "{asked:?}");
    }

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

    #[test]
    fn documents_are_checked_before_they_are_sent() {
        assert!(check(Document::User, "#cloud-config\n").is_ok());
        assert_eq!(check(Document::Meta, " \n").unwrap_err().message(), "the meta document is empty");
        let long = check(Document::User, &"x".repeat(MOST_BYTES + 1)).unwrap_err();
        assert!(long.message().contains("reads no more than 1048576"));
    }
}
