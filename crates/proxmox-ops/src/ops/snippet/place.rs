//! Where documents are: the storages that take them, and the files' names.

use fleet_core::{
    Error, Result,
    deadline::Deadline,
    protocol::Document,
    types::{StorageId, Vmid},
};
use serde_json::Value;

use super::super::host;
use crate::{
    api::{encode::percent, error},
    node::Node,
};

/// Where a storage keeps its snippets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub(super) storage: StorageId,
    directory: String,
    /// Whether other nodes, and perhaps other clusters, have it too.
    pub(super) shared: bool,
}

impl Place {
    pub(super) fn volume(&self, vmid: Vmid, document: Document) -> String {
        format!("{}:snippets/{}", self.storage, name(vmid, document))
    }

    pub(super) fn path(&self, vmid: Vmid, document: Document) -> String {
        format!("{}/{}", self.directory, name(vmid, document))
    }

    /// Where all the documents of a VM would be.
    pub(super) fn paths(&self, vmid: Vmid) -> Vec<String> {
        Document::ALL.into_iter().map(|document| self.path(vmid, document)).collect()
    }
}

/// The file's name: of one VM and one document, so that a later run finds it again.
pub fn name(vmid: Vmid, document: Document) -> String {
    format!("fleet-{vmid}-{document}.yaml")
}

/// The names of all files that a VM may have.
pub fn names(vmid: Vmid) -> String {
    Document::ALL.map(|document| name(vmid, document)).join(", ")
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
        match place_on(node, &storage.storage, storage.shared, deadline) {
            Ok(place) => places.extend(place),
            // A token that may not see where its files are may not name one for a VM either (Datastore.Allocate).
            Err(e) if given.is_none() && error::is_forbidden(e.message()) => node.ui.detail(e.chain()),
            Err(e) => return Err(e),
        }
    }
    Ok(places)
}

fn place_on(node: &Node, storage: &StorageId, shared: bool, deadline: Deadline) -> Result<Option<Place>> {
    let path = format!("/storage/{}", percent(storage.as_str()));
    let data = node.api.get(&format!("read the settings of storage '{storage}'"), &path, &[], deadline)?;
    Ok(directory(&data).map(|directory| Place { storage: storage.clone(), directory, shared }))
}

/// The directory of a storage's snippets, by its settings (`path`, `content-dirs`).
fn directory(settings: &Value) -> Option<String> {
    let path = settings.get("path").and_then(Value::as_str).filter(|path| path.starts_with('/'))?;
    let dirs = settings.get("content-dirs").and_then(Value::as_str).unwrap_or_default();
    let own = dirs.split(',').find_map(|part| part.strip_prefix("snippets="));
    Some(format!("{}/{}", path.trim_end_matches('/'), own.unwrap_or("snippets").trim_matches('/')))
}

/// Where a volume of ours is, if its storage keeps files.
pub(super) fn path_of(
    node: &Node,
    vmid: Vmid,
    document: Document,
    volume: &str,
    deadline: Deadline,
) -> Result<Option<String>> {
    let storage: StorageId = volume.split(':').next().unwrap_or_default().parse()?;
    Ok(place_on(node, &storage, false, deadline)?.map(|place| place.path(vmid, document)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Fake, node};
    use serde_json::json;

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
}
