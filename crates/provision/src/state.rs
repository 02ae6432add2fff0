//! What an earlier run learnt about a VM and a later one needs: its public host keys. Kept per VM under the
//! user's state directory; nothing in it is secret.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    time::Duration,
};

use fleet_core::{
    Error, Result,
    deadline::Deadline,
    dirs,
    protocol::Marker,
    types::{NodeName, VmName, Vmid},
    ui::Ui,
};
use serde::{Deserialize, Serialize};

/// The record of one VM.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The nonce of the VM's marker: a record of an earlier VM of the same name says nothing about this one.
    pub nonce: String,
    /// Host keys that this VM was seen or made with, one OpenSSH line each, the newest first.
    #[serde(default)]
    pub host_keys: Vec<String>,
    /// Images that were sent for a VM of this name and number, or were about to be, and may be there still.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<Sent>,
}

/// An image on a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    /// The node; the one where new VMs belong when not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeName>,
    /// Where it is there.
    pub path: String,
}

impl State {
    /// The record for the VM with this marker; an empty one when there is none.
    pub fn load(marker: &Marker) -> State {
        State::load_from(&directory(), marker)
    }

    /// A record that is missing, damaged or of another VM is as good as none: it only saves asking again.
    fn load_from(dir: &Path, marker: &Marker) -> State {
        fs::read(file(dir, marker))
            .ok()
            .and_then(|text| serde_json::from_slice::<State>(&text).ok())
            .map(|state| match state.nonce == marker.nonce {
                true => state,
                // What was sent lies there whatever became of its VM.
                false => State { nonce: marker.nonce.clone(), host_keys: Vec::new(), images: state.images },
            })
            .unwrap_or_else(|| State { nonce: marker.nonce.clone(), ..State::default() })
    }

    /// Whether this key was seen or made for this VM.
    pub fn knows(&self, host_key: &str) -> bool {
        let blob = |line: &str| line.split_whitespace().nth(1).map(str::to_owned);
        self.host_keys.iter().any(|key| blob(key) == blob(host_key))
    }

    /// Notes a host key of this VM.
    pub fn remember(&mut self, marker: &Marker, host_key: &str) -> Result<()> {
        self.remember_in(&directory(), marker, host_key)
    }

    fn remember_in(&mut self, dir: &Path, marker: &Marker, host_key: &str) -> Result<()> {
        if self.host_keys.first().is_some_and(|key| key == host_key) {
            return Ok(());
        }
        self.host_keys.retain(|key| key != host_key);
        self.host_keys.insert(0, host_key.to_owned());
        self.write_in(dir, marker)
    }

    /// Notes which images are on nodes.
    pub fn set_images(&mut self, marker: &Marker, images: Vec<Sent>) -> Result<()> {
        self.images = images;
        self.write_in(&directory(), marker)
    }

    fn write_in(&self, dir: &Path, marker: &Marker) -> Result<()> {
        fs::create_dir_all(dir).map_err(|e| Error::io("create", dir, e))?;
        let path = file(dir, marker);
        let text =
            serde_json::to_vec_pretty(self).map_err(|e| Error::failed("can not write JSON").caused_by(e))?;
        let write = || {
            let mut staged = tempfile::NamedTempFile::new_in(dir)?;
            staged.write_all(&text)?;
            staged.as_file().sync_all()?;
            staged.persist(&path).map_err(|e| e.error)
        };
        write().map(drop).map_err(|e| Error::io("write", &path, e))
    }
}

fn directory() -> PathBuf {
    home().join("vms")
}

/// Where everything is kept that is known of VMs and of runs. Whoever has none is told so first: see [`needed`].
pub(crate) fn home() -> PathBuf {
    dirs::state().unwrap_or_default()
}

/// An error where there is no place for what is known: it would be written into the working directory.
pub(crate) fn needed() -> Result<()> {
    match dirs::state() {
        Some(_) => Ok(()),
        None => Err(Error::failed("there is no place to keep what is known of the VMs: no home directory")
            .now("nothing was changed")
            .hint("set HOME, or XDG_STATE_HOME to a directory of yours")),
    }
}

impl State {
    /// The host keys that an earlier run read or made for the VM, and the one that hosts.nix has for it.
    pub fn keys_with(&self, recorded: Option<&str>) -> Vec<String> {
        let recorded = recorded.map(str::to_owned).filter(|key| !self.knows(key));
        self.host_keys.iter().cloned().chain(recorded).collect()
    }
}

/// Forgets what is known of a VM that is gone.
pub fn forget(name: &VmName, vmid: Vmid) {
    // Nothing to forget is as good; what stays says nothing about the next VM of this name.
    let _ = fs::remove_file(directory().join(format!("{name}-{vmid}.json")));
}

/// Keeps every other run away from a VM until it is dropped, also when this one is killed.
#[derive(Debug)]
pub struct Hold(#[allow(dead_code, reason = "held, never read")] fs::File);

impl Hold {
    /// Takes hold of the VM, or says who has it (a conflict).
    pub fn take(name: &VmName, vmid: Vmid) -> Result<Hold> {
        Hold::take_in(&directory(), name, vmid)
    }

    /// The same of a run that changes something. One that only shows what would be done takes none, and tells of who has it.
    pub fn for_run(dry_run: bool, name: &VmName, vmid: Vmid, ui: Ui) -> Result<Option<Hold>> {
        if !dry_run {
            return Hold::take(name, vmid).map(Some);
        }
        if let Some(process) = holder(name, vmid) {
            ui.warn(format!(
                "another run is at work on '{name}' (process {process}): until it ends, none can begin, and what is shown \
                 here may change"
            ));
        }
        Ok(None)
    }

    fn take_in(dir: &Path, name: &VmName, vmid: Vmid) -> Result<Hold> {
        fs::create_dir_all(dir).map_err(|e| {
            Error::io("create", dir, e)
                .now("nothing was changed")
                .hint("set XDG_STATE_HOME to a directory that you may write to")
        })?;
        let path = dir.join(format!("{name}-{vmid}.lock"));
        let open = fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = open.map_err(|e| Error::io("open", &path, e))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => {
                let text = fs::read_to_string(&path).unwrap_or_default();
                let who = text.lines().next().unwrap_or_default().trim();
                let error = Error::conflict(format!("another run is at work on '{name}' ({who})"))
                    .now("nothing was changed");
                return Err(match who.strip_prefix("process ") {
                    Some(process) => error.hint(format!(
                        "wait for it, or end it: Ctrl-C where it runs, or kill -INT {process}"
                    )),
                    None => error.hint("wait for it, or end it with Ctrl-C where it runs"),
                });
            }
            Err(fs::TryLockError::Error(e)) => return Err(Error::io("lock", &path, e)),
        }
        let write = file.set_len(0).and_then(|()| writeln!(file, "process {}", std::process::id()));
        write.map_err(|e| Error::io("write", &path, e))?;
        Ok(Hold(file))
    }
}

/// The process that says of itself that it holds the VM, if it is alive.
pub fn holder(name: &VmName, vmid: Vmid) -> Option<i32> {
    holder_in(&directory(), name, vmid)
}

fn holder_in(dir: &Path, name: &VmName, vmid: Vmid) -> Option<i32> {
    let text = fs::read_to_string(dir.join(format!("{name}-{vmid}.lock"))).ok()?;
    let process: i32 = text.lines().next()?.strip_prefix("process ")?.trim().parse().ok()?;
    lives(process).then_some(process)
}

/// Whether there is a process of this number. The lock itself would tell too, but to try it would be in the way of a
/// run that begins.
fn lives(process: i32) -> bool {
    rustix::process::Pid::from_raw(process).is_some_and(|pid| rustix::process::test_kill_process(pid).is_ok())
}

/// Where a run that is at work makes a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// The VM, `NAME-VMID`.
    pub vm: String,
    /// The node.
    pub node: NodeName,
}

/// Writes down where this run, which holds the VM, is going to make it: for runs beside it to know.
pub fn keep_place(name: &VmName, vmid: Vmid, node: &NodeName) -> Result<()> {
    let path = directory().join(format!("{name}-{vmid}.lock"));
    let text = format!("process {}\nnode {node}\n", std::process::id());
    fs::write(&path, text).map_err(|e| Error::io("write", &path, e))
}

/// A turn at choosing a node, until it is dropped; none where it can not be had soon.
pub fn turn_at_placing() -> Option<fs::File> {
    let (path, patience) = (home().join("placing.lock"), Deadline::secs(5));
    let file = fs::OpenOptions::new().write(true).create(true).truncate(false).open(path).ok()?;
    loop {
        match file.try_lock() {
            Ok(()) => return Some(file),
            Err(fs::TryLockError::WouldBlock) if !patience.passed() => {
                patience.sleep(Duration::from_millis(10));
            }
            Err(_) => return None,
        }
    }
}

/// The places that other runs have written down which are still at work.
pub fn kept_places() -> Vec<Kept> {
    kept_places_in(&directory(), std::process::id())
}

fn kept_places_in(dir: &Path, me: u32) -> Vec<Kept> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let kept = |path: PathBuf| {
        let vm = path.file_name()?.to_str()?.strip_suffix(".lock")?.to_owned();
        let text = fs::read_to_string(&path).ok()?;
        let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
        let process: i32 = value("process")?.parse().ok()?;
        let node = value("node")?.parse().ok()?;
        (lives(process) && u32::try_from(process) != Ok(me)).then_some(Kept { vm, node })
    };
    entries.filter_map(kept).collect()
}

fn file(dir: &Path, marker: &Marker) -> PathBuf {
    dir.join(format!("{}-{}.json", marker.name, marker.vmid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_run_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let (name, vmid) = ("web".parse().unwrap(), "110".parse().unwrap());
        let held = Hold::take_in(dir.path(), &name, vmid).unwrap();
        let error = Hold::take_in(dir.path(), &name, vmid).unwrap_err();
        let who = format!("another run is at work on 'web' (process {})", std::process::id());
        assert_eq!((error.kind(), error.message()), (fleet_core::Kind::Conflict, who.as_str()));
        assert_eq!(holder_in(dir.path(), &name, vmid), i32::try_from(std::process::id()).ok());
        drop(held);
        Hold::take_in(dir.path(), &name, vmid).unwrap();
        let lock = dir.path().join("web-110.lock");
        fs::write(&lock, format!("process {}\n", i32::MAX)).unwrap();
        assert_eq!(holder_in(dir.path(), &name, vmid), None);
    }

    #[test]
    fn the_places_of_runs_that_are_over_are_free() {
        let dir = tempfile::tempdir().unwrap();
        let write = |vm: &str, text: String| fs::write(dir.path().join(vm), text).unwrap();
        let me = std::process::id();
        write("web-110.lock", format!("process {me}\nnode b\n"));
        write("db-111.lock", format!("process {me}\n"));
        write("old-112.lock", format!("process {}\nnode b\n", i32::MAX));
        write("web-110.json", format!("process {me}\nnode b\n"));
        let kept = [Kept { vm: "web-110".to_owned(), node: "b".parse().unwrap() }];
        assert_eq!(kept_places_in(dir.path(), 0), kept);
        // A run's own it knows itself.
        assert_eq!(kept_places_in(dir.path(), me), []);
    }

    #[test]
    fn a_record_belongs_to_one_vm_only() {
        let dir = tempfile::tempdir().unwrap();
        let marker = Marker::fresh(&"web".parse().unwrap(), "110".parse().unwrap()).unwrap();
        let mut state = State::load_from(dir.path(), &marker);
        for key in ["ssh-ed25519 A", "ssh-ed25519 B", "ssh-ed25519 A"] {
            state.remember_in(dir.path(), &marker, key).unwrap();
        }
        assert_eq!(State::load_from(dir.path(), &marker).host_keys, ["ssh-ed25519 A", "ssh-ed25519 B"]);
        let next = Marker { nonce: "0".repeat(32), ..marker.clone() };
        assert_eq!(State::load_from(dir.path(), &next).host_keys, [] as [&str; 0]);
        fs::write(file(dir.path(), &marker), "{").unwrap();
        assert_eq!(State::load_from(dir.path(), &marker).host_keys, [] as [&str; 0]);
    }
}
