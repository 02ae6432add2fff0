//! The verbs, one file each: its arguments and its `run`.

pub mod backup;
pub mod clone;
pub mod cloudinit_config;
pub mod cloudinit_drive;
pub mod config;
pub mod configure;
pub mod connect;
pub mod console;
pub mod create_disk;
pub mod create_template;
pub mod destroy;
pub mod exec;
pub mod get_ip;
pub mod host_key;
pub mod list;
pub mod next_vmid;
pub mod ps;
pub mod reboot;
pub mod resize;
pub mod restore;
pub mod session;
pub mod shutdown;
pub mod snapshot;
pub mod snapshots;
pub mod start;
pub mod status;
pub mod stop;
pub mod storage;
mod table;
pub mod template;
pub mod wait_ssh;

use std::collections::BTreeMap;

use fleet_core::{
    Result,
    guard::{Operation, Permit},
    types::VmRef,
};

use crate::{
    api::call::Call,
    context::{ChangeOptions, Context},
    node::Node,
    ops::{self, power},
};

/// Changes the power state for one of the power verbs.
fn power(cx: &Context, vm: &VmRef, options: &ChangeOptions, action: power::Action, verb: &str) -> Result<()> {
    let permit = cx.permit(vm, options, Operation::Change, verb)?;
    if options.change.dry_run {
        return cx.show(&[action.call(&permit, &cx.node_name()?)]);
    }
    let vmid = permit.vmid();
    let deadline = match action {
        power::Action::Shutdown { timeout, .. } | power::Action::Reboot { timeout } => {
            options.deadline_of_guest(timeout)
        }
        power::Action::Start | power::Action::Stop => options.deadline(),
    };
    let cluster = cx.connect()?;
    let changed = power::act(&cluster, &permit, action, deadline, &mut cx.progress())?;
    let (done, nothing) = match action {
        power::Action::Start => ("started", "is running already"),
        power::Action::Stop => ("stopped", "is stopped already"),
        power::Action::Shutdown { .. } => ("shut down", "is stopped already"),
        power::Action::Reboot { .. } => ("rebooted", "was left alone"),
    };
    cx.changed(vmid, changed, &format!("VM {vmid} {done}"), &format!("VM {vmid} {nothing}"))
}

/// Changes settings, once `check` finds nothing against it on the node, or shows the request; says that it is done, or that
/// nothing was to do.
fn configure(
    cx: &Context,
    permit: &Permit,
    options: &ChangeOptions,
    settings: &[(&str, String)],
    (done, nothing): (&str, &str),
    check: &dyn Fn(&Node) -> Result<()>,
) -> Result<()> {
    if options.change.dry_run {
        let pairs = settings.iter().map(|(key, value)| (*key, value.as_str()));
        return cx.show(&[Call::configure(permit, &cx.node_name()?, pairs, &[], None)]);
    }
    let settings: BTreeMap<String, String> =
        settings.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
    let (cluster, deadline) = (cx.connect()?, options.deadline());
    let changed = cluster.on(permit.vmid(), |node| {
        check(node)?;
        ops::config::set(node, permit, &settings, deadline, &mut cx.progress())
    })?;
    cx.changed(permit.vmid(), changed, done, nothing)
}

/// Bytes in the unit that keeps the number short.
fn human(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB", "TiB"] {
        if value < 1024.0 || unit == "TiB" {
            return if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1024.0;
    }
    format!("{bytes} B")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        assert_eq!(human(0), "0 B");
        assert_eq!(human(1536), "1.5 KiB");
        assert_eq!(human(20 << 30), "20.0 GiB");
        assert_eq!(human(5000 << 40), "5000.0 TiB");
    }
}
