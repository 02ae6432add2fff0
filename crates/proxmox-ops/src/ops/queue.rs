//! Turns at what a node does only one at a time: allocating on a storage, asking guest agents.
//!
//! Proxmox waits ten seconds for the lock of a storage and then fails. So allocations of one storage are queued
//! here, among the threads of this process and among its like on this machine: by a locked file in the user's
//! runtime directory. Copying needs no turn: it goes on side by side.

use std::{
    collections::BTreeMap,
    fs::{DirBuilder, File, TryLockError},
    os::unix::fs::DirBuilderExt,
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use fleet_core::{Result, deadline::Deadline, interrupt, types::NodeName};

use super::Progress;

/// How many guest agents of one node may be asked at once: one that is not there holds up one of the daemon's
/// three workers for three seconds.
const PROBES: usize = 2;

/// Turns at allocating, given back when dropped.
#[derive(Debug, Default)]
pub struct Turns(Vec<File>);

impl Turns {
    /// Gives them back early: the line of a task's log that tells how much is copied tells that it is allocated.
    pub fn seen(&mut self, line: &str) {
        if line.contains('%') {
            self.0.clear();
        }
    }
}

fn directory() -> PathBuf {
    match std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty()) {
        Some(dir) => PathBuf::from(dir).join("fleet-tools"),
        None => std::env::temp_dir().join(format!("fleet-tools-{}", rustix::process::getuid().as_raw())),
    }
}

fn lock_file(node: &NodeName, storage: &str) -> std::io::Result<File> {
    let dir = directory();
    DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
    let name = format!("allocate-{node}-{storage}.lock");
    File::options().create(true).truncate(false).write(true).open(dir.join(name))
}

/// Waits for a turn at allocating on each of these storages of a node. Where no file can be locked there is no
/// queue, and Proxmox's own lock has to do.
pub fn turns<'a>(
    node: &NodeName,
    storages: impl IntoIterator<Item = &'a str>,
    deadline: Deadline,
    progress: Progress<'_>,
) -> Result<Turns> {
    let mut storages: Vec<&str> = storages.into_iter().collect();
    // All in one order: no two wait for each other.
    storages.sort_unstable();
    storages.dedup();
    let mut turns = Turns::default();
    for storage in storages {
        let Ok(file) = lock_file(node, storage) else { continue };
        let mut told = false;
        loop {
            match file.try_lock() {
                Ok(()) => break turns.0.push(file),
                Err(TryLockError::Error(_)) => break,
                Err(TryLockError::WouldBlock) => {}
            }
            if !std::mem::replace(&mut told, true) {
                progress(&format!(
                    "note: waiting: something else is being allocated on '{storage}' of '{node}'"
                ));
            }
            let nothing = |e: fleet_core::Error| e.now("nothing was sent to the node");
            interrupt::check().map_err(nothing)?;
            deadline
                .check(format_args!("a turn at allocating on '{storage}' of '{node}'"))
                .map_err(nothing)?;
            deadline.sleep(Duration::from_millis(25));
        }
    }
    Ok(turns)
}

static ASKED: Mutex<BTreeMap<String, usize>> = Mutex::new(BTreeMap::new());

/// A turn at asking a guest agent, given back when dropped.
#[derive(Debug)]
pub struct Probe(String);

impl Probe {
    /// A turn, unless as many agents of the node are being asked as may be.
    pub fn try_turn(node: &NodeName) -> Option<Probe> {
        let mut asked = ASKED.lock().unwrap_or_else(PoisonError::into_inner);
        let count = asked.entry(node.to_string()).or_default();
        (*count < PROBES).then(|| {
            *count += 1;
            Probe(node.to_string())
        })
    }

    /// Waits for a turn; goes without one rather than never to ask.
    pub fn turn(node: &NodeName) -> Option<Probe> {
        let patience = Deadline::secs(20);
        loop {
            match Probe::try_turn(node) {
                None if !patience.passed() => patience.sleep(Duration::from_millis(20)),
                turn => return turn,
            }
        }
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        let mut asked = ASKED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = asked.get_mut(&self.0) {
            *count = count.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fleet_core::Kind;

    #[test]
    fn one_allocates_and_the_others_wait_until_it_copies() {
        let node: NodeName = format!("test-{}", std::process::id()).parse().unwrap();
        let turn = |storages: &[&str], said: &mut Vec<String>| {
            turns(&node, storages.iter().copied(), Deadline::after(Duration::from_millis(60)), &mut |line| {
                said.push(line.to_owned());
            })
        };
        let mut said = Vec::new();
        let mut first = turn(&["b", "a", "b"], &mut said).unwrap();
        assert_eq!(first.0.len(), 2);
        assert!(said.is_empty());
        let late = turn(&["a"], &mut said).unwrap_err();
        assert_eq!((late.kind(), said.len()), (Kind::DeadlinePassed, 1));
        turn(&["other"], &mut said).unwrap();
        first.seen("create full clone of drive scsi0");
        turn(&["b"], &mut said).unwrap_err();
        first.seen("transferred 0.0 B of 2.0 GiB (0.00%)");
        turn(&["a", "b"], &mut said).unwrap();
        for storage in ["a", "b", "other"] {
            std::fs::remove_file(directory().join(format!("allocate-{node}-{storage}.lock"))).unwrap();
        }
    }

    #[test]
    fn few_agents_of_a_node_are_asked_at_once() {
        let (one, other): (NodeName, NodeName) = ("probe-a".parse().unwrap(), "probe-b".parse().unwrap());
        let held: Vec<Probe> = (0..PROBES).map(|_| Probe::try_turn(&one).unwrap()).collect();
        assert!(Probe::try_turn(&one).is_none());
        assert!(Probe::try_turn(&other).is_some());
        drop(held);
        assert!(Probe::turn(&one).is_some());
    }
}
