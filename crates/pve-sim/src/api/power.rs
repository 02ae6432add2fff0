//! Starting, stopping and destroying VMs.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};

use super::{Call, Fail, Reply, agent, config, no_vm, vm};
use crate::{
    auth::Who,
    conf,
    faults::Fault,
    guest,
    node::Node,
    params::Params,
    schema,
    task::{self, Worker},
};

pub(super) fn change(node: &Arc<Node>, call: &Call, vmid: u32, verb: &str) -> Reply<Value> {
    let (specs, kind) = match verb {
        "start" => (schema::START, "qmstart"),
        "stop" => (schema::STOP, "qmstop"),
        "shutdown" => (schema::SHUTDOWN, "qmshutdown"),
        "reboot" => (schema::REBOOT, "qmreboot"),
        "reset" => (schema::RESET, "qmreset"),
        "suspend" => (schema::SUSPEND, "qmpause"),
        "resume" => (schema::RESUME, "qmresume"),
        _ => return Err(call.not_implemented()),
    };
    call.check(&[specs])?;
    // These look before they start a task.
    if matches!(verb, "reboot" | "reset" | "suspend" | "resume") {
        node.read(|d| {
            d.vms.get(&vmid).ok_or_else(|| Fail::no_vm(node, vmid))?;
            if d.is_running(vmid) { Ok(()) } else { Err(Fail::new(format!("VM {vmid} not running"))) }
        })?;
    }
    // It would hear the button when it is resumed.
    let paused = node.read(|d| d.guests.get(&vmid)?.running.as_ref().map(|run| run.paused));
    let verb = match (verb, paused) {
        ("shutdown", Some(true)) if call.params.flag("forceStop") => "stop",
        ("shutdown", Some(true)) => return Err(Fail::new("VM is paused - cannot shutdown")),
        _ => verb,
    };
    if let Some(upid) = ha(node, call, vmid, verb) {
        return Ok(json!(upid));
    }
    Ok(json!(begin(node, &call.who, vmid, (verb, kind), &call.params)))
}

/// A VM that is the HA manager's is not started or stopped here: the task only tells the manager, which acts when it
/// next looks, by a task of its own.
fn ha(node: &Arc<Node>, call: &Call, vmid: u32, verb: &str) -> Option<String> {
    let (asked, kind) = match verb {
        "start" => ("start", "hastart"),
        "stop" | "shutdown" => ("stop", "hastop"),
        _ => return None,
    };
    node.read(|d| d.ha.contains_key(&vmid)).then_some(())?;
    let (manager, params, verb) = (Arc::clone(node), call.params.clone(), verb.to_owned());
    Some(task::spawn(node, &call.who, kind, vmid, move |worker| async move {
        worker.say(format!("Requesting HA {asked} for VM {vmid}"));
        tokio::spawn(manage(manager, vmid, verb, params));
        Ok(())
    }))
}

/// What the HA manager does about a wish, and the states that it is in meanwhile: its own, not what was wished.
async fn manage(node: Arc<Node>, vmid: u32, verb: String, params: Params) {
    let enter = |state: &str| {
        node.change(|d| d.ha.get_mut(&vmid).map(|now| state.clone_into(now)));
    };
    let asked = if verb == "start" { "request_start" } else { "request_stop" };
    // One thing after the other; in its state 'error' it does nothing before somebody clears that.
    let begins = || {
        node.change(|d| {
            let id = vmid.to_string();
            // The state tells of a start before the VM runs.
            let is_starting =
                d.tasks.iter().any(|t| t.apart && t.exit.is_none() && t.kind == "qmstart" && t.id == id);
            let now = d.ha.get_mut(&vmid).filter(|now| *now != "error")?;
            let free = !is_starting && !now.starts_with("request_");
            if free {
                asked.clone_into(now);
            }
            Some(free)
        })
    };
    loop {
        match begins() {
            None => return,
            Some(true) => break,
            Some(false) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
    let slow = || {
        node.fault(|f| match f {
            Fault::TaskSlow { kind, by } if kind == "ha-manager" => Some((*by, false)),
            _ => None,
        })
    };
    // For as long as the fault is there, at most.
    let begun = tokio::time::Instant::now();
    tokio::time::sleep(node.latency().task).await;
    while slow().is_some_and(|by| begun.elapsed() < by) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    if verb == "start" {
        enter("started");
    }
    let upid = begin(&node, &Who::root(), vmid, (&verb, &format!("qm{verb}")), &params);
    apart(&node, &upid);
    if verb != "start" {
        let ended = task::wait(&node, &upid, Duration::from_secs(600)).await;
        enter(if ended.is_some_and(|exit| exit == "OK") { "stopped" } else { "error" });
    }
}

/// A task of somebody else than the API daemon.
fn apart(node: &Node, upid: &str) {
    node.change(|d| d.tasks.iter_mut().filter(|t| t.upid == upid).for_each(|t| t.apart = true));
}

/// The task of a verb.
fn begin(node: &Arc<Node>, who: &Who, vmid: u32, (verb, kind): (&str, &str), p: &Params) -> String {
    let work = Arc::clone(node);
    let verb = verb.to_owned();
    let p = p.clone();
    task::spawn(node, who, kind, vmid, move |worker| async move {
        match verb.as_str() {
            "start" => start(&work, &worker, &p, vmid).await,
            "stop" => stop(&work, &worker, vmid).await,
            "shutdown" => shutdown(&work, &worker, &p, vmid).await,
            "reboot" => {
                shutdown(&work, &worker, &p, vmid).await?;
                restart(&work, vmid);
                Ok(())
            }
            "reset" => {
                guest::power_off(&work, vmid);
                guest::power_on(&work, vmid)
            }
            other => {
                let paused = other == "suspend";
                work.change(|d| {
                    if let Some(run) = d.guests.get_mut(&vmid).and_then(|g| g.running.as_mut()) {
                        run.paused = paused;
                    }
                });
                Ok(())
            }
        }
    })
}

/// A rollback only begins the start that it is asked for, by a task of its own or the HA manager's.
pub(super) fn start_after(node: &Arc<Node>, call: &Call, vmid: u32) {
    if ha(node, call, vmid, "start").is_none() {
        begin(node, &call.who, vmid, ("start", "qmstart"), &Params::default());
    }
}

/// A reboot only shuts a VM down. Its end is noticed by qmeventd, whose clean-up starts it again, by a task of its own.
fn restart(node: &Arc<Node>, vmid: u32) {
    let work = Arc::clone(node);
    let upid = task::spawn(node, &Who::root(), "qmstart", vmid, move |worker| async move {
        tokio::time::sleep(work.latency().cleanup_begins).await;
        start(&work, &worker, &Params::default(), vmid).await
    });
    apart(node, &upid);
}

fn missing(node: &Node, vmid: u32) -> String {
    format!("unable to find configuration file for VM {vmid} on node '{}'", node.name())
}

async fn start(node: &Arc<Node>, worker: &Worker, p: &Params, vmid: u32) -> Result<(), String> {
    // A clone in progress holds the VM's lock: Proxmox waits up to 10 s for it.
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while node.read(|d| d.vms.get(&vmid).is_some_and(|c| c.lock() == Some("clone")))
        && tokio::time::Instant::now() < deadline
    {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let held = node.lock_file(vmid, Some(worker)).await?;
    let conf = node.read(|d| d.vms.get(&vmid).cloned()).ok_or_else(|| no_vm(node, vmid))?;
    config::refuse_locked(&conf, p.flag("skiplock")).map_err(|f| f.text())?;
    if conf.is_template() {
        return Err("you can't start a vm if it's a template".to_owned());
    }
    if node.read(|d| d.is_running(vmid)) {
        return Err(format!("VM {vmid} already running"));
    }
    for (key, value) in &conf.main {
        let volume = value.split(',').next().unwrap_or_default();
        if conf::is_drive(key) && volume.contains(':') && !node.read(|d| d.volumes.contains_key(volume)) {
            return Err(format!("volume '{volume}' does not exist"));
        }
    }
    let cores = vm::cpus(&conf.main);
    if let Some(custom) = conf.get("cicustom") {
        for volume in custom.split(',').filter_map(|part| part.split_once('=')).map(|(_, v)| v) {
            if !node.read(|d| node.has_volume(d, volume)) {
                return Err(format!("volume '{volume}' does not exist"));
            }
        }
    }
    if config::cloudinit_drive(&conf).is_some() {
        worker.say("generating cloud-init ISO");
    }
    let device = conf.main.iter().find(|(key, _)| key.starts_with("hostpci"));
    if let Some((_, device)) = device {
        let message = format!("no PCI device found for '{}'", device.split(',').next().unwrap_or_default());
        worker.say(message.clone());
        return Err(message);
    }
    if cores > node.cpus() {
        return Err(format!("MAX {} vcpus allowed per VM on this node", node.cpus()));
    }
    for (_, net) in conf.main.iter().filter(|(k, _)| k.starts_with("net") && k[3..].parse::<u32>().is_ok()) {
        if let Some(bridge) =
            conf::property(net, "bridge", "").filter(|b| !node.bridges().iter().any(|n| n == b))
        {
            return Err(format!("bridge '{bridge}' does not exist"));
        }
    }
    node.works(node.latency().start).await;
    if vm::memory(&conf.main) > node.memory() {
        worker.say("kvm: cannot set up guest memory 'pc.ram': Cannot allocate memory");
        return Err("start failed: QEMU exited with code 1".to_owned());
    }
    if !node.world().kvm && conf.get("kvm") != Some("0") {
        worker.say("kvm: warning: host doesn't support requested feature: CPUID[eax=01h].ECX.pni [bit 0]");
        return Err("start failed: QEMU exited with code 1".to_owned());
    }
    if conf.get("args").is_some_and(|a| a.contains("nosuch")) {
        worker.say("kvm: -device nosuchdevice: 'nosuchdevice' is not a valid device model name");
        return Err("start failed: QEMU exited with code 1".to_owned());
    }
    guest::power_on(node, vmid)?;
    node.went_on(vmid, held);
    Ok(())
}

async fn stop(node: &Arc<Node>, worker: &Worker, vmid: u32) -> Result<(), String> {
    node.works(node.latency().task).await;
    let _held = node.lock_file(vmid, Some(worker)).await?;
    if !node.read(|d| d.vms.contains_key(&vmid)) {
        return Err(missing(node, vmid));
    }
    off(node, vmid);
    Ok(())
}

/// QEMU ends, which qmeventd notices.
fn off(node: &Node, vmid: u32) {
    if node.read(|d| d.is_running(vmid)) {
        node.locks.went_off(vmid);
        guest::power_off(node, vmid);
    }
}

async fn shutdown(node: &Arc<Node>, worker: &Worker, p: &Params, vmid: u32) -> Result<(), String> {
    node.works(node.latency().task).await;
    if !node.read(|d| d.vms.contains_key(&vmid)) {
        return Err(missing(node, vmid));
    }
    let _held = node.lock_file(vmid, Some(worker)).await?;
    if !node.read(|d| d.is_running(vmid)) {
        return Ok(());
    }
    let configured = node.read(|d| d.vms.get(&vmid).is_some_and(agent::enabled));
    if configured && !guest::agent_is_up(node, vmid) {
        worker.say(format!(
            "QEMU Guest Agent is not running - VM {vmid} qga command 'guest-ping' failed - got timeout"
        ));
    }
    let patience = p.get("timeout").and_then(|t| t.parse().ok()).unwrap_or(60);
    if let Some(left) = guest::boot_left(node, vmid).filter(|left| *left < Duration::from_secs(patience)) {
        // A system that is coming up hears the button when it is there.
        tokio::time::sleep(left).await;
    }
    if guest::is_up(node, vmid) {
        off(node, vmid);
        return Ok(());
    }
    if p.flag("forceStop") {
        worker.say("VM still running - terminating now with SIGTERM");
        off(node, vmid);
        return Ok(());
    }
    Err("VM quit/powerdown failed - got timeout".to_owned())
}

pub(super) fn destroy(node: &Arc<Node>, call: &Call, vmid: u32) -> Reply<Value> {
    call.check(&[schema::DESTROY])?;
    node.read(|d| {
        let conf = d.vms.get(&vmid).ok_or_else(|| Fail::no_vm(node, vmid))?;
        if conf.get("protection") == Some("1") {
            return Err(Fail::new(format!("can't remove VM {vmid} - protection mode enabled")));
        }
        if d.is_running(vmid) {
            return Err(Fail::new(format!("VM {vmid} is running - destroy failed")));
        }
        Ok(())
    })?;
    let work = Arc::clone(node);
    let p = call.params.clone();
    Ok(json!(task::spawn(node, &call.who, "qmdestroy", vmid, move |worker| async move {
        work.works(work.latency().task).await;
        let _held = work.lock_file(vmid, Some(&worker)).await?;
        let kept = work.change(|d| {
            let conf = d.vms.get(&vmid).ok_or_else(|| no_vm(&work, vmid))?;
            config::refuse_locked(conf, p.flag("skiplock")).map_err(|f| f.text())?;
            let own: Vec<String> =
                d.volumes.iter().filter(|(_, v)| v.is_disk_of(vmid)).map(|(id, _)| id.clone()).collect();
            for id in &own {
                let base = format!("../{}", id.split_once(':').map_or("", |(_, rest)| rest));
                if d.volumes.values().any(|v| v.parent.as_deref() == Some(&base)) {
                    return Err(format!("base volume '{id}' is still in use by linked cloned"));
                }
            }
            let kept = work.fault(|f| match f {
                Fault::DiskKept { vmid: of } if *of == vmid => Some(((), true)),
                _ => None,
            });
            for id in own.iter().skip(usize::from(kept.is_some())) {
                d.volumes.remove(id);
            }
            d.vms.remove(&vmid);
            d.guests.remove(&vmid);
            d.ha.remove(&vmid);
            Ok(kept.and(own.into_iter().next()))
        })?;
        if let Some(id) = kept {
            worker
                .say(format!("Could not remove disk '{id}', check manually: unlink failed - device is busy"));
        }
        if p.flag("purge") {
            worker.say(format!("purging VM {vmid} from related configurations.."));
        }
        Ok(())
    })))
}
