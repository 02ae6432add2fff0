//! What is there where a clone was asked for: ours, somebody else's, a remainder, or nothing.

use std::time::{Duration, Instant};

use fleet_core::{
    Error, Kind, Result, again,
    deadline::Deadline,
    protocol::{CloneRequest, VmConfig},
    types::NodeName,
};

use super::{Progress, config, remainder};
use crate::{
    cluster::Cluster,
    node::Node,
    tasks::{self, Upid},
};

/// What is found under the new VMID after an answer was lost.
pub(super) enum Found {
    /// A VM with our marker and nonce.
    Ours,
    /// A VM of somebody else.
    Others,
    /// Nothing.
    Nothing,
    /// The clone's task, which failed.
    Failed(Error),
    /// A VM that is being cloned, by nobody; the node that has it.
    Unfinished(NodeName),
}

/// A clone whose answer was lost.
pub(super) struct Ours<'a> {
    pub(super) cluster: &'a Cluster,
    pub(super) source: &'a Node,
    pub(super) request: &'a CloneRequest,
    /// When it was sent first.
    pub(super) sent: Instant,
    /// Its task, where that was told before the way to the node was lost.
    pub(super) task: Option<Upid>,
}

impl Ours<'_> {
    /// Looks for it, `until` then if there is no trace of it, and for as long as its task works if there is.
    pub(super) fn look(&self, until: Deadline, deadline: Deadline, progress: Progress<'_>) -> Result<Found> {
        let what = format!("clone VM {} into VM {}", self.request.template, self.request.vmid);
        loop {
            let short = deadline.at_most(Duration::from_secs(20));
            let task = self.task(short)?;
            if let Some(upid) = &task {
                // Whoever asks for it may have to prove that it was theirs.
                progress(&format!("task {upid}"));
                match tasks::follow(&self.source.api, upid, &what, deadline, progress) {
                    Err(e) if e.kind() == Kind::Failed => return Ok(Found::Failed(e)),
                    // Another one was before it, perhaps also ours.
                    Err(e) if e.kind() != Kind::Conflict => return Err(e),
                    _ => {}
                }
            }
            let found = match read(self.cluster, self.request, short) {
                // It has our marker with the first of its disks, and is whole with the last.
                Ok(config) if config.settings.get("lock").is_some_and(|lock| lock == "clone") => {
                    Found::Unfinished(config.node)
                }
                Ok(config) if config.marker.as_ref() == Some(&self.request.marker) => Found::Ours,
                Ok(_) => Found::Others,
                Err(e) if e.kind() == Kind::NotFound && task.is_none() => Found::Nothing,
                Err(e) => return Err(e),
            };
            if matches!(found, Found::Ours | Found::Others) || until.passed() {
                return Ok(found);
            }
            fleet_core::interrupt::check()?;
            until.sleep(Duration::from_millis(500));
        }
    }

    /// Its task, once that says what it clones into.
    fn task(&self, deadline: Deadline) -> Result<Option<Upid>> {
        if self.task.is_some() {
            return Ok(self.task.clone());
        }
        match remainder::task_of(self.source, self.request, self.sent, deadline) {
            // Who may not ask for the node's clock still sees what runs.
            Err(e) if e.kind() == Kind::Failed => self.working(deadline),
            // Of several into this VMID the one that works.
            Ok(None) => self.working(deadline),
            told => told,
        }
    }

    fn working(&self, deadline: Deadline) -> Result<Option<Upid>> {
        let name = self.source.name(deadline)?;
        tasks::find_clone_into(&self.source.api, name, self.request.vmid, deadline)
    }
}

fn read(cluster: &Cluster, request: &CloneRequest, deadline: Deadline) -> Result<VmConfig> {
    cluster.on(request.vmid, |node| config::read(node, request.vmid, deadline))
}

/// Whether the VM that is there carries the request's marker, and is whole.
pub(super) fn proven(cluster: &Cluster, request: &CloneRequest, deadline: Deadline) -> Result<()> {
    let config = read(cluster, request, deadline.at_most(Duration::from_secs(30)))?;
    if config.marker.as_ref() == Some(&request.marker) {
        if config.settings.get("lock").is_none_or(|lock| lock != "clone") {
            return Ok(());
        }
        return Err(Error::failed(format!(
            "VM {} is not whole: the lock of its clone is on it",
            request.vmid
        ))
        .now("the clone's task ended well")
        .hint(format!(
            "look at it on the node '{}': cat /etc/pve/qemu-server/{}.conf",
            config.node, request.vmid
        )));
    }
    Err(Error::conflict(format!("VM {} does not carry the marker that it was cloned with", request.vmid))
        .now("the clone's task ended well, but the VM that is there now is another one")
        .hint(again::ops(format_args!("config {}", request.vmid))))
}

/// Whether what stands in a clone's way is that clone: made by an earlier run, by its marker, and whole. One that an
/// earlier run left going is followed to its end first.
pub fn is_there(
    cluster: &Cluster,
    request: &CloneRequest,
    deadline: Deadline,
    progress: Progress<'_>,
) -> Result<bool> {
    // What can not be looked at is not taken for it.
    let there = || read(cluster, request, deadline.at_most(Duration::from_secs(20))).ok();
    let is_cloned = |config: &VmConfig| config.settings.get("lock").is_some_and(|lock| lock == "clone");
    let mut config = there();
    if config.as_ref().is_some_and(is_cloned) {
        let followed = cluster.on(request.template, |source| {
            let task = tasks::find_clone_into(&source.api, source.name(deadline)?, request.vmid, deadline)?;
            let Some(upid) = task.filter(|upid| upid.is_of(&source.api)) else { return Ok(false) };
            let what = format!("clone VM {} into VM {}", request.template, request.vmid);
            progress(&format!("note: a task to {what} runs already: following it: {upid}"));
            tasks::follow(&source.api, &upid, &what, deadline, progress)
                .map_err(|e| if e.may_go_on() { e } else { remains(cluster, source, request, e) })?;
            Ok(true)
        })?;
        // It may have ended between the two looks.
        if followed || there().is_some_and(|config| !is_cloned(&config)) {
            config = there();
        }
    }
    Ok(config.is_some_and(|config| is_marked(&config, request) && !is_cloned(&config)))
}

/// Whether a VM carries the marker of the request's name and VMID, whenever it was made.
fn is_marked(config: &VmConfig, request: &CloneRequest) -> bool {
    config.marker.as_ref().is_some_and(|marker| marker.name == request.name && marker.vmid == request.vmid)
}

/// What is under the VMID that a clone could not be made into. A clone that failed mostly leaves nothing; one that
/// was killed, as by a restart of the daemon, may.
pub(super) fn remains(cluster: &Cluster, source: &Node, request: &CloneRequest, error: Error) -> Error {
    let short = Deadline::secs(10);
    // What can not be told may be at work.
    let working = !source
        .name(short)
        .and_then(|name| tasks::find_clone_into(&source.api, name, request.vmid, short))
        .is_ok_and(|task| task.is_none());
    match read(cluster, request, short) {
        Err(e) if e.kind() == Kind::NotFound => error.now(format!("VM {} does not exist", request.vmid)),
        Ok(config) if !working && config.settings.get("lock").is_some_and(|lock| lock == "clone") => {
            unfinished(request, &config.node, error)
        }
        _ => error,
    }
}

/// A clone's remainder, and what people do about it.
pub(super) fn unfinished(request: &CloneRequest, node: &NodeName, error: Error) -> Error {
    let vmid = request.vmid;
    error
        .now(format!("VM {vmid} exists, locked by a clone that nothing on the node works on any more"))
        .hint(format!("look at it on the node '{node}': cat /etc/pve/qemu-server/{vmid}.conf"))
        .hint(format!("if it is this clone's remainder, there: qm unlock {vmid} && qm destroy {vmid}"))
}

/// A conflict, with what is there.
pub(super) fn taken(cluster: &Cluster, request: &CloneRequest, error: Error) -> Error {
    let vmid = request.vmid;
    let Ok(Some(there)) = cluster.resource(vmid) else { return error };
    let what = if there.kind == fleet_core::protocol::ResourceKind::Lxc { "a container" } else { "a VM" };
    let called = there.name.as_deref().map(|n| format!(" '{n}'")).unwrap_or_default();
    let error = Error::conflict(format!("can not clone into VMID {vmid}: it is taken"))
        .now(format!("{vmid} is {what}{called} on the node '{}'", there.node))
        .caused_by(error);
    match read(cluster, request, Deadline::secs(10)) {
        Ok(config) if is_marked(&config, request) => {
            error.now("it carries the marker of these tools").hint(again::ops(format_args!("config {vmid}")))
        }
        // Whose it is is not known yet, or it is a remainder.
        Ok(config) if config.settings.get("lock").is_some_and(|lock| lock == "clone") => error,
        _ => error
            .hint(format!("`{}` prints a free VMID; write it into the definition", again::ops("next-vmid"))),
    }
}
