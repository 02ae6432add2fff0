//! Lock files of VMs, `/var/lock/qemu-server/lock-VMID.conf`: one task at a time, and others wait for it only so long.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use tokio::sync::OwnedMutexGuard;

use crate::{faults::Fault, ledger::Work, node::Node, task::Worker};

/// A VM's lock file, held until this is dropped.
pub type Held = OwnedMutexGuard<()>;

/// One VM's.
#[derive(Debug, Default)]
struct One {
    file: Arc<tokio::sync::Mutex<()>>,
    /// When its machine last went off, which qmeventd hears of.
    off: Option<Instant>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Locks {
    all: Mutex<HashMap<u32, One>>,
    /// Told when clean-ups that wait are to end.
    cleaned: tokio::sync::watch::Sender<u64>,
}

impl Locks {
    fn of<T>(&self, vmid: u32, look: impl FnOnce(&mut One) -> T) -> T {
        look(self.all.lock().unwrap_or_else(PoisonError::into_inner).entry(vmid).or_default())
    }

    /// Ends qmeventd's clean-ups that wait.
    pub fn end_cleanups(&self) {
        self.cleaned.send_modify(|n| *n += 1);
    }

    /// A machine went off.
    pub fn went_off(&self, vmid: u32) {
        self.of(vmid, |one| one.off = Some(Instant::now()));
    }
}

impl Node {
    /// Takes a VM's lock file, or fails as Proxmox does after waiting for it. What it prints goes to `worker`'s log.
    pub async fn lock_file(&self, vmid: u32, worker: Option<&Worker>) -> Result<Held, String> {
        let say = |line: &str| worker.into_iter().for_each(|worker| worker.say(line));
        let timeout = || format!("can't lock file '/var/lock/qemu-server/lock-{vmid}.conf' - got timeout");
        let limit = self.latency().lock_wait;
        let held_by_fault = self.fault(|f| match f {
            Fault::LockTimeout { vmid: v, times } if *v == vmid => {
                *times = times.saturating_sub(1);
                Some(((), *times == 0))
            }
            _ => None,
        });
        if held_by_fault.is_some() {
            say("trying to acquire lock...");
            self.ledger.spend(Work::Api, limit).await;
            return Err(timeout());
        }
        let file = self.locks.of(vmid, |one| Arc::clone(&one.file));
        if let Ok(held) = Arc::clone(&file).try_lock_owned() {
            return Ok(held);
        }
        say("trying to acquire lock...");
        let waited = self.ledger.during(Work::Api, tokio::time::timeout(limit, file.lock_owned())).await;
        let held = waited.map_err(|_| timeout())?;
        say(" OK");
        Ok(held)
    }

    /// A machine was started by whoever holds its lock file. If it went off only just before, qmeventd's clean-up after
    /// that run waits behind; it takes the new process for the old one, and keeps the lock while it waits for its end.
    pub fn went_on(&self, vmid: u32, held: Held) {
        let latency = self.latency();
        let off = self.locks.of(vmid, |one| one.off.take());
        if off.is_some_and(|off| off.elapsed() < latency.cleanup_begins) {
            let mut cleaned = self.locks.cleaned.subscribe();
            tokio::spawn(async move {
                // Who ends them may also be gone, with the node.
                let _ = tokio::time::timeout(latency.cleanup_waits, cleaned.changed()).await;
                drop(held);
            });
        }
    }
}
