//! Many files changed together: all of them or none.
//!
//! Every new content is written beside its file, synced and given the file's mode and owner. Then a journal in the
//! repository's state directory says that all is ready, and only then the files are renamed into place. Whoever
//! finds a journal finishes or takes back what it tells: before it says `ready`, what was staged is removed; after,
//! the renames are completed. Nothing but file names and checksums is in the journal.

mod stage;

use std::{
    fs::{File, OpenOptions},
    io::{Read, Write},
    path::{Path, PathBuf},
};

use rustix::fs::{Access, FlockOperation, flock};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use self::stage::{
    check_writable, real_target, remove_if_there, rename, stage, sync_dir, sync_parents, sync_staged,
};
use crate::{Error, Result};

/// Where the tools keep what is no part of the repository: `.git/fleet`, or `.fleet` where there is no git.
pub fn state_dir(root: &Path) -> PathBuf {
    for place in root.ancestors() {
        let git = place.join(".git");
        if git.is_dir() {
            return git.join("fleet");
        }
        // A worktree or submodule: a file that says where its git directory is.
        if let Ok(text) = std::fs::read_to_string(&git)
            && let Some(dir) = text.strip_prefix("gitdir:")
        {
            return place.join(dir.trim()).join("fleet");
        }
    }
    root.join(".fleet")
}

/// A lock on the repository's files, held until dropped; the system lets go of it when the process dies.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock, or fails at once when another process holds it.
    pub fn take(state: &Path) -> Result<Lock> {
        std::fs::create_dir_all(state).map_err(|e| Error::io("create", state, e))?;
        let path = state.join("lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(|e| Error::io("open", &path, e))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Lock { _file: file }),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                Err(Error::conflict("another fleet tool is changing files of this repository")
                    .now("nothing was changed")
                    .hint("wait until it is done, then run the same command again"))
            }
            Err(e) => Err(Error::io("lock", &path, e.into())),
        }
    }
}

/// Whether `apply` could put these files (relative to `root`) in place, and keep its journal: every directory that it
/// writes in lets this process write. Looks only.
///
/// # Errors
/// The first directory that does not (a file system that is read-only, somebody else's directory), with the reason.
pub fn changeable(root: &Path, paths: &[PathBuf]) -> Result<()> {
    let state = state_dir(root);
    let dirs = paths.iter().filter_map(|path| Some(root.join(path).parent()?.to_owned()));
    for dir in std::iter::once(state).chain(dirs) {
        let Some(there) = dir.ancestors().find(|dir| dir.exists()) else { continue };
        rustix::fs::access(there, Access::WRITE_OK | Access::EXEC_OK).map_err(|e| {
            Error::io("write in", there, e.into()).now("nothing was changed").hint(format!(
                "let your user write there: ls -ld {0}; findmnt -T {0}",
                crate::child::quote(&there.to_string_lossy())
            ))
        })?;
    }
    Ok(())
}

/// One file's change, as planned.
#[derive(Debug, Clone)]
pub struct Change {
    /// The file.
    pub path: PathBuf,
    /// What it held when the change was planned; `None` when it did not exist.
    pub before: Option<Vec<u8>>,
    /// What it shall hold.
    pub after: Vec<u8>,
}

/// What a journal found at the start was good for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recovery {
    /// There was none.
    Clean,
    /// An interrupted run had everything ready: its files are in place now.
    Completed(Vec<PathBuf>),
    /// An interrupted run had not everything ready: what it had staged is gone, no file was changed.
    TakenBack,
}

#[derive(Debug, Serialize, Deserialize)]
struct Journal {
    version: u32,
    ready: bool,
    entries: Vec<Entry>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Entry {
    /// The file itself, symbolic links followed.
    target: PathBuf,
    staged: PathBuf,
    before: Option<String>,
    after: String,
}

/// Steps after which a test stops, as a crash would.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Intent,
    Staged(usize),
    Ready,
    Renamed(usize),
    Done,
}

const JOURNAL: &str = "files.json";

/// Puts all `changes` in place, or none. `root` is the repository: no link is followed out of it.
///
/// Needs the [`Lock`] and a repository without a journal ([`recover`] first).
pub fn apply(lock: &Lock, root: &Path, state: &Path, changes: &[Change]) -> Result<()> {
    let _ = lock;
    run(root, state, changes, &mut |_| false).map(drop)
}

/// Whether an interrupted [`apply`] left something to finish or take back.
pub fn interrupted(state: &Path) -> bool {
    state.join(JOURNAL).exists()
}

/// Finishes or takes back what an interrupted [`apply`] left.
pub fn recover(lock: &Lock, state: &Path) -> Result<Recovery> {
    let _ = lock;
    let path = state.join(JOURNAL);
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Recovery::Clean),
        Err(e) => return Err(Error::io("read", &path, e)),
    };
    let journal: Journal = serde_json::from_slice(&text).map_err(|e| {
        Error::failed(format!("{} is no journal of ours", path.display()))
            .caused_by(e)
            .hint(format!("look at it, then remove it: rm {}", path.display()))
    })?;
    if !journal.ready {
        for entry in &journal.entries {
            remove_if_there(&entry.staged)?;
        }
        remove_if_there(&path)?;
        return Ok(Recovery::TakenBack);
    }
    // Look at everything before anything is moved.
    let mut left = Vec::new();
    for entry in &journal.entries {
        let now = checksum_of(&entry.target)?;
        match checksum_of(&entry.staged)? {
            Some(sum)
                if sum == entry.after && (now == entry.before || now.as_deref() == Some(&entry.after)) =>
            {
                left.push(entry);
            }
            Some(_) => {
                return Err(Error::partly_done(format!(
                    "an interrupted run was about to replace {}, which somebody changed since",
                    entry.target.display()
                ))
                .now(format!("its new content is in {}", entry.staged.display()))
                .hint(format!("to keep the file as it is: rm {}", entry.staged.display()))
                .hint("then run the same command again"));
            }
            // Renamed already, or taken away by somebody who decided.
            None => {}
        }
    }
    for entry in &left {
        rename(entry)?;
    }
    sync_parents(left.into_iter())?;
    remove_if_there(&path)?;
    sync_dir(state)?;
    Ok(Recovery::Completed(journal.entries.into_iter().map(|entry| entry.target).collect()))
}

/// `stop` is asked after each step; a yes ends it there as a crash would (`Ok(false)`).
fn run(root: &Path, state: &Path, changes: &[Change], stop: &mut dyn FnMut(Step) -> bool) -> Result<bool> {
    let journal_path = state.join(JOURNAL);
    if journal_path.exists() {
        return Err(Error::partly_done("an interrupted run has to be finished first"));
    }
    let mut journal = Journal { version: 1, ready: false, entries: Vec::new() };
    for change in changes {
        let target = real_target(root, &change.path)?;
        let name = target.file_name().unwrap_or_default().to_string_lossy().into_owned();
        journal.entries.push(Entry {
            staged: target.with_file_name(format!(".{name}.fleet-new")),
            before: change.before.as_deref().map(checksum),
            after: checksum(&change.after),
            target,
        });
    }
    for entry in &journal.entries {
        check_writable(&entry.target)?;
    }
    std::fs::create_dir_all(state).map_err(|e| Error::io("create", state, e))?;
    write_journal(&journal_path, &journal).map_err(nothing_changed)?;
    if stop(Step::Intent) {
        return Ok(false);
    }
    for (index, (entry, change)) in journal.entries.iter().zip(changes).enumerate() {
        let staged = stage(entry, &change.after).and_then(|()| {
            // What was planned on must still be so.
            if checksum_of(&entry.target)? == entry.before {
                return Ok(());
            }
            Err(Error::conflict(format!("{} changed while this ran", entry.target.display()))
                .hint("run the same command again"))
        });
        if let Err(error) = staged {
            return Err(take_back(&journal, &journal_path, error));
        }
        if stop(Step::Staged(index)) {
            return Ok(false);
        }
    }
    if let Err(error) = sync_staged(&journal.entries) {
        return Err(take_back(&journal, &journal_path, error));
    }
    journal.ready = true;
    write_journal(&journal_path, &journal)
        .map_err(|e| e.hint("run the same command again: it takes back or completes what this left"))?;
    if stop(Step::Ready) {
        return Ok(false);
    }
    for (index, entry) in journal.entries.iter().enumerate() {
        rename(entry).map_err(|e| {
            e.with_kind(crate::Kind::PartlyDone).hint("run the same command again: it completes this")
        })?;
        if stop(Step::Renamed(index)) {
            return Ok(false);
        }
    }
    sync_parents(journal.entries.iter())?;
    remove_if_there(&journal_path)?;
    sync_dir(state)?;
    Ok(!stop(Step::Done))
}

/// Removes what was staged; what can not be removed now the next run removes, as the journal tells.
fn take_back(journal: &Journal, journal_path: &Path, error: Error) -> Error {
    let removed = journal.entries.iter().try_for_each(|entry| remove_if_there(&entry.staged));
    let _ = removed.and_then(|()| remove_if_there(journal_path));
    nothing_changed(error)
}

fn nothing_changed(error: Error) -> Error {
    error.now("no file was changed")
}

fn write_journal(path: &Path, journal: &Journal) -> Result<()> {
    let text =
        serde_json::to_vec(journal).map_err(|e| Error::failed("can not write the journal").caused_by(e))?;
    let new = path.with_extension("json.new");
    let failed = |e| Error::io("write", &new, e);
    let mut file = File::create(&new).map_err(failed)?;
    file.write_all(&text).and_then(|()| file.sync_all()).map_err(failed)?;
    std::fs::rename(&new, path).map_err(|e| Error::io("write", path, e))?;
    path.parent().map_or(Ok(()), sync_dir)
}

/// SHA-256 in hexadecimal.
pub fn checksum(content: &[u8]) -> String {
    Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The checksum of a file; `None` when there is none.
pub fn checksum_of(path: &Path) -> Result<Option<String>> {
    let mut content = Vec::new();
    match File::open(path).and_then(|mut file| file.read_to_end(&mut content)) {
        Ok(_) => Ok(Some(checksum(&content))),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io("read", path, e)),
    }
}

#[cfg(test)]
mod tests;
