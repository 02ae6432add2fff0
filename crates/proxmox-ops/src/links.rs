//! SSH sessions to the nodes of a cluster: the one that the settings name, and from it on to the others.
//!
//! The others' addresses come from `/etc/pve/.members`, and what vouches for their host keys beside the user's own
//! known hosts is what the cluster itself keeps: both are read over the first session, which is proven already.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use fleet_core::{
    Error, Result,
    child::quote,
    deadline::Deadline,
    ssh::{HostKeyPolicy, Peer, PeerWay, Session, Target, Transport, Vouched},
    types::NodeName,
    ui::Ui,
};
use serde::Deserialize;

use crate::{
    api::{Login, auth::Auth},
    relay,
    settings::{Route, Settings},
};

/// How long a connection to a node may take, login included.
const CONNECT: Duration = Duration::from_secs(30);
/// How long reading one of the cluster's small files may take.
const READ: Duration = Duration::from_secs(10);

/// A node of the cluster, as its file of members or its API tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Whereabouts {
    /// Its address.
    pub address: Option<String>,
    /// Whether the others see it.
    pub online: bool,
}

/// See the module. Shared by all threads that work with one cluster.
pub struct Links {
    settings: Settings,
    ui: Ui,
    /// Who we are to every daemon of the cluster.
    pub login: Login,
    first: Mutex<Arc<Session>>,
    others: Mutex<BTreeMap<NodeName, Arc<Session>>>,
}

fn lock<T>(cell: &Mutex<T>) -> MutexGuard<'_, T> {
    cell.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Deserialize)]
struct Members {
    #[serde(default)]
    nodelist: BTreeMap<String, MemberRow>,
}

#[derive(Deserialize)]
struct MemberRow {
    #[serde(default)]
    online: u8,
    #[serde(default)]
    ip: Option<String>,
}

/// The nodes in the text of `/etc/pve/.members`; a node that stands alone has none there.
pub fn parse_members(text: &str) -> Result<BTreeMap<String, Whereabouts>> {
    let members: Members = crate::api::encode::printed(text.as_bytes())
        .map_err(|e| Error::failed("the node's /etc/pve/.members has another shape").caused_by(e))?;
    let row =
        |(name, row): (String, MemberRow)| (name, Whereabouts { address: row.ip, online: row.online != 0 });
    Ok(members.nodelist.into_iter().map(row).collect())
}

impl Links {
    /// Connects to the node that the settings name.
    pub fn connect(settings: &Settings, ui: Ui) -> Result<Links> {
        // Who could not log in to the API need not log in to the node.
        let settings = &settings.decided()?;
        let auth = Auth::from_env(settings.login())?;
        let first = Arc::new(first(settings, ui)?);
        Ok(Links {
            settings: settings.clone(),
            ui,
            login: Arc::new(Mutex::new(auth)),
            first: Mutex::new(first),
            others: Mutex::default(),
        })
    }

    /// The settings, with the login decided.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The session to the node that the settings name.
    pub fn first(&self) -> Arc<Session> {
        Arc::clone(&lock(&self.first))
    }

    /// A new session to that node in place of `lost`, unless another thread has made one already.
    pub fn first_again(&self, lost: &Arc<Session>) -> Result<Arc<Session>> {
        let mut there = lock(&self.first);
        if Arc::ptr_eq(&there, lost) {
            *there = Arc::new(first(&self.settings, self.ui)?);
        }
        Ok(Arc::clone(&there))
    }

    /// A session to another node, the one there is or a new one in place of `lost`.
    pub fn other(
        &self,
        name: &NodeName,
        lost: Option<&Arc<Session>>,
        by_api: &dyn Fn() -> Result<BTreeMap<String, Whereabouts>>,
    ) -> Result<Arc<Session>> {
        let mut others = lock(&self.others);
        if let Some(there) = others.get(name).filter(|there| lost.is_none_or(|l| !Arc::ptr_eq(l, there))) {
            return Ok(Arc::clone(there));
        }
        let first = self.first();
        let peer = peer(&*first, &self.settings.host, name, by_api)?;
        let ways: &[PeerWay] = match self.settings.route {
            Route::Auto => &[PeerWay::Straight, PeerWay::Through],
            Route::Direct => &[PeerWay::Straight],
            Route::Node => &[PeerWay::Through],
        };
        self.ui.detail(format!("connecting to the node '{name}' at {}", peer.address));
        let session = first.peer(&peer, ways, relay::open, Deadline::after(CONNECT)).map_err(|e| {
            let known = e.report().details.is_some();
            let e = e.context(format_args!("can not connect to the node '{name}' of the cluster"));
            // What has details is about its host key, and has its own advice.
            if known {
                e
            } else {
                e.hint(format!("is it up? or connect to it yourself: --host {}", peer.address))
            }
        })?;
        let session = Arc::new(session);
        others.insert(name.clone(), Arc::clone(&session));
        Ok(session)
    }
}

fn first(settings: &Settings, ui: Ui) -> Result<Session> {
    let target = Target {
        host: settings.host.clone(),
        user: settings.user.clone(),
        host_key: HostKeyPolicy::KnownHosts,
        identities: Vec::new(),
        proxy: None,
    };
    Session::connect(&target, ui, Deadline::after(CONNECT))
}

/// Where a node is, and what its cluster says about its host key.
fn peer(
    first: &dyn Transport,
    host: &str,
    name: &NodeName,
    by_api: &dyn Fn() -> Result<BTreeMap<String, Whereabouts>>,
) -> Result<Peer> {
    let members = match read(first, "/etc/pve/.members")? {
        Some(text) => parse_members(&text)?,
        // Not every account may read it.
        None => by_api()?,
    };
    let Some(found) = members.get(name.as_str()) else {
        let names: Vec<&str> = members.keys().map(String::as_str).collect();
        return Err(Error::usage(format!("'{name}' is no node of the cluster of {host}"))
            .now(match names.as_slice() {
                [] => "it is in no cluster".to_owned(),
                names => format!("its nodes are: {}", names.join(", ")),
            })
            .now("nothing was changed")
            .hint("correct `node` in the definitions, PROXMOX_NODE or --node")
            .hint("or connect to the node itself with --host"));
    };
    if !found.online {
        return Err(Error::unreachable(format!("the node '{name}' is offline: its cluster does not see it"))
            .now("nothing was changed")
            .hint("`pvecm status` and `ha-manager status` on another node tell more"));
    }
    let address = found.address.as_deref().and_then(|ip| ip.parse().ok()).ok_or_else(|| {
        Error::failed(format!("the cluster does not tell the address of its node '{name}'"))
            .hint("connect to it yourself with --host")
    })?;
    Ok(Peer { name: name.to_string(), address, vouched: vouched(first, host, name)? })
}

/// The host keys that the cluster keeps of a node: in a file of the node's own since Proxmox VE 8.2, in one for
/// all nodes before.
fn vouched(first: &dyn Transport, host: &str, name: &NodeName) -> Result<Vouched> {
    let own = format!("/etc/pve/nodes/{name}/ssh_known_hosts");
    for path in [own.as_str(), "/etc/pve/priv/known_hosts"] {
        if let Some(lines) = read(first, path)?.filter(|lines| !lines.trim().is_empty()) {
            return Ok(Vouched { lines, source: format!("{host}:{path}") });
        }
    }
    Ok(Vouched { lines: String::new(), source: format!("{host}:/etc/pve") })
}

/// A file of the node; none where there is none, or it may not be read.
fn read(first: &dyn Transport, path: &str) -> Result<Option<String>> {
    let output = first.exec(&format!("cat {}", quote(path)), b"", Deadline::after(READ))?;
    Ok(output.success().then(|| output.stdout_text()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Fake;
    use fleet_core::Kind;

    const MEMBERS: &str = r#"{ "nodename": "prom", "version": 4,
        "cluster": { "name": "fleet", "version": 2, "nodes": 3, "quorate": 1 },
        "nodelist": { "prom": { "id": 1, "online": 1, "ip": "192.0.2.2"}, "b": { "id": 2, "online": 1, "ip": "192.0.2.3"},
          "c": { "id": 3, "online": 0, "ip": "192.0.2.4"} } }"#;

    fn find(fake: &Fake, name: &str) -> Result<Peer> {
        peer(fake, "prom", &name.parse().unwrap(), &|| {
            Ok([("b".to_owned(), Whereabouts { address: Some("192.0.2.9".into()), online: true })].into())
        })
    }

    #[test]
    fn a_node_is_where_the_members_say_and_its_key_is_what_the_cluster_keeps() {
        let fake = Fake::new()
            .exec("cat /etc/pve/.members", MEMBERS, 0)
            .exec("cat /etc/pve/nodes/b/ssh_known_hosts", "b ssh-rsa AAAA\n", 0)
            .exec("cat /etc/pve/nodes/c/ssh_known_hosts", "", 1);
        let found = find(&fake, "b").unwrap();
        assert_eq!(found.address.to_string(), "192.0.2.3");
        assert_eq!(found.vouched.source, "prom:/etc/pve/nodes/b/ssh_known_hosts");
        assert_eq!(find(&fake, "c").unwrap_err().kind(), Kind::Unreachable);
        let unknown = find(&fake, "d").unwrap_err();
        assert_eq!((unknown.kind(), unknown.facts()[0].as_str()), (Kind::Usage, "its nodes are: b, c, prom"));
    }

    #[test]
    fn before_8_2_one_file_has_all_keys_and_not_every_account_reads_the_members() {
        let fake = Fake::new()
            .exec("cat /etc/pve/.members", "", 1)
            .exec("cat /etc/pve/nodes/b/ssh_known_hosts", "", 1)
            .exec("cat /etc/pve/priv/known_hosts", "b ssh-rsa AAAA\n", 0);
        let found = find(&fake, "b").unwrap();
        assert_eq!(
            (found.address.to_string(), found.vouched.lines),
            ("192.0.2.9".into(), "b ssh-rsa AAAA\n".into())
        );
        assert_eq!(found.vouched.source, "prom:/etc/pve/priv/known_hosts");
    }

    #[test]
    fn a_node_that_stands_alone_has_no_members() {
        assert_eq!(parse_members(r#"{"nodename": "prom", "version": 0}"#).unwrap(), BTreeMap::new());
        assert!(parse_members("x").is_err());
    }
}
