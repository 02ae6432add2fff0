//! Many files changed together: all of them or none.
//!
//! Every new content is written beside its file, synced and given the file's mode and owner. Then a journal in the
//! repository's state directory says that all is ready, and only then the files are renamed into place. Whoever
//! finds a journal finishes or takes back what it tells: before it says `ready`, what was staged is removed; after,
//! the renames are completed. Nothing but file names and checksums is in the journal.

use std::{
    fs::{File, OpenOptions},
    io::{Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Component, Path, PathBuf},
};

use rustix::fs::{FlockOperation, Gid, Uid, flock};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

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

/// Files synced at a time.
const SYNCERS: usize = 32;

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

/// The file that a path means: links followed, but not out of the repository.
fn real_target(root: &Path, path: &Path) -> Result<PathBuf> {
    let root = root.canonicalize().map_err(|e| Error::io("find", root, e))?;
    let outside = |shown: &Path| {
        Error::refused(format!(
            "refused to write {}: it leads out of the repository, to {}",
            path.display(),
            shown.display()
        ))
        .now("no file was changed")
    };
    if path.components().any(|part| part == Component::ParentDir) {
        return Err(outside(path));
    }
    match path.canonicalize() {
        Ok(real) if real.starts_with(&root) => Ok(real),
        Ok(real) => Err(outside(&real)),
        Err(_) if path.is_symlink() => {
            Err(Error::refused(format!("refused to write {}: it is a link to nowhere", path.display()))
                .now("no file was changed"))
        }
        Err(_) => {
            let parent = path.parent().unwrap_or(&root);
            std::fs::create_dir_all(parent).map_err(|e| Error::io("create", parent, e))?;
            let real = parent.canonicalize().map_err(|e| Error::io("find", parent, e))?;
            if !real.starts_with(&root) {
                return Err(outside(&real));
            }
            Ok(real.join(path.file_name().unwrap_or_default()))
        }
    }
}

/// A rename would replace a read-only file all the same; whoever made it so meant something.
fn check_writable(target: &Path) -> Result<()> {
    match std::fs::symlink_metadata(target) {
        Ok(meta) if !meta.is_file() => {
            Err(Error::refused(format!("{} is no regular file", target.display())).now("no file was changed"))
        }
        Ok(meta) if meta.mode() & 0o200 == 0 => {
            Err(Error::failed(format!("{} is read-only", target.display()))
                .now("no file was changed")
                .hint(format!("chmod u+w {}", target.display())))
        }
        Ok(_) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(Error::io("look at", target, e)),
    }
}

fn stage(entry: &Entry, content: &[u8]) -> Result<()> {
    let failed = |doing: &str, e: std::io::Error| Error::io(doing, &entry.staged, e);
    remove_if_there(&entry.staged)?;
    // Closed to others until it has the mode of the file that it replaces.
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&entry.staged)
        .map_err(|e| failed("create", e))?;
    file.write_all(content).map_err(|e| failed("write", e))?;
    match std::fs::metadata(&entry.target) {
        Ok(old) => {
            let new = file.metadata().map_err(|e| failed("look at", e))?;
            if (old.uid(), old.gid()) != (new.uid(), new.gid()) {
                rustix::fs::fchown(&file, Some(Uid::from_raw(old.uid())), Some(Gid::from_raw(old.gid())))
                    .map_err(|e| failed("give the old owner to", e.into()))?;
            }
            file.set_permissions(std::fs::Permissions::from_mode(old.mode() & 0o7777))
                .map_err(|e| failed("set the mode of", e))?;
        }
        Err(_) => {
            file.set_permissions(std::fs::Permissions::from_mode(0o644))
                .map_err(|e| failed("set the mode of", e))?;
        }
    }
    Ok(())
}

/// Syncs every staged file, several at a time: a file system puts what is asked for together to disk together.
fn sync_staged(entries: &[Entry]) -> Result<()> {
    let sync = |entry: &Entry| {
        File::open(&entry.staged)
            .and_then(|file| file.sync_all())
            .map_err(|e| Error::io("sync", &entry.staged, e))
    };
    std::thread::scope(|scope| {
        let share = entries.len().div_ceil(SYNCERS).max(1);
        let threads: Vec<_> =
            entries.chunks(share).map(|chunk| scope.spawn(move || chunk.iter().try_for_each(sync))).collect();
        threads.into_iter().try_for_each(|thread| {
            thread.join().unwrap_or_else(|_| Err(Error::failed("a thread that synced files panicked")))
        })
    })
}

fn rename(entry: &Entry) -> Result<()> {
    std::fs::rename(&entry.staged, &entry.target).map_err(|e| Error::io("put in place", &entry.target, e))
}

/// Makes the renames last, each directory once; only then the journal may go.
fn sync_parents<'e>(entries: impl Iterator<Item = &'e Entry>) -> Result<()> {
    let dirs: std::collections::BTreeSet<&Path> = entries.filter_map(|entry| entry.target.parent()).collect();
    dirs.into_iter().try_for_each(sync_dir)
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

fn sync_dir(dir: &Path) -> Result<()> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(|e| Error::io("sync", dir, e))
}

fn remove_if_there(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", path, e)),
        _ => Ok(()),
    }
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
mod tests {
    use super::*;

    struct Place {
        dir: tempfile::TempDir,
    }

    impl Place {
        fn new() -> Place {
            let dir = tempfile::tempdir().unwrap();
            std::fs::create_dir(dir.path().join(".git")).unwrap();
            std::fs::create_dir(dir.path().join("sub")).unwrap();
            for name in ["a", "sub/b"] {
                std::fs::write(dir.path().join(name), format!("old {name}")).unwrap();
            }
            std::fs::set_permissions(dir.path().join("sub/b"), std::fs::Permissions::from_mode(0o640))
                .unwrap();
            Place { dir }
        }

        fn root(&self) -> &Path {
            self.dir.path()
        }

        fn state(&self) -> PathBuf {
            state_dir(self.root())
        }

        fn changes(&self) -> Vec<Change> {
            let change = |name: &str, before: Option<&str>| Change {
                path: self.root().join(name),
                before: before.map(|b| b.as_bytes().to_vec()),
                after: format!("new {name}").into_bytes(),
            };
            vec![change("a", Some("old a")), change("sub/b", Some("old sub/b")), change("docs/c", None)]
        }

        /// Content of the three files, and whether anything else lies around.
        fn seen(&self) -> (Vec<Option<String>>, bool) {
            let read = |name: &str| std::fs::read_to_string(self.root().join(name)).ok();
            let rest = [".", "sub", "docs"].iter().any(|dir| {
                std::fs::read_dir(self.root().join(dir))
                    .into_iter()
                    .flatten()
                    .any(|entry| entry.unwrap().file_name().to_string_lossy().ends_with(".fleet-new"))
            });
            (vec![read("a"), read("sub/b"), read("docs/c")], rest || self.state().join(JOURNAL).exists())
        }
    }

    fn some(texts: [&str; 3]) -> Vec<Option<String>> {
        texts.iter().map(|t| (!t.is_empty()).then(|| (*t).to_owned())).collect()
    }

    #[test]
    fn all_files_change_together_and_keep_their_modes() {
        let place = Place::new();
        let lock = Lock::take(&place.state()).unwrap();
        assert_eq!(recover(&lock, &place.state()).unwrap(), Recovery::Clean);
        apply(&lock, place.root(), &place.state(), &place.changes()).unwrap();
        assert_eq!(place.seen(), (some(["new a", "new sub/b", "new docs/c"]), false));
        let mode = |name: &str| std::fs::metadata(place.root().join(name)).unwrap().mode() & 0o777;
        assert_eq!((mode("sub/b"), mode("docs/c")), (0o640, 0o644));
    }

    #[test]
    fn stopped_anywhere_the_next_run_completes_or_takes_back() {
        let steps = [
            Step::Intent,
            Step::Staged(0),
            Step::Staged(1),
            Step::Staged(2),
            Step::Ready,
            Step::Renamed(0),
            Step::Renamed(1),
            Step::Renamed(2),
        ];
        for (index, at) in steps.into_iter().enumerate() {
            let place = Place::new();
            assert!(!run(place.root(), &place.state(), &place.changes(), &mut |step| step == at).unwrap());
            let lock = Lock::take(&place.state()).unwrap();
            let recovery = recover(&lock, &place.state()).unwrap();
            if index < 4 {
                assert_eq!(recovery, Recovery::TakenBack, "{at:?}");
                assert_eq!(place.seen(), (some(["old a", "old sub/b", ""]), false), "{at:?}");
            } else {
                assert!(matches!(recovery, Recovery::Completed(files) if files.len() == 3), "{at:?}");
                assert_eq!(place.seen(), (some(["new a", "new sub/b", "new docs/c"]), false), "{at:?}");
            }
            assert_eq!(recover(&lock, &place.state()).unwrap(), Recovery::Clean, "{at:?}");
        }
    }

    #[test]
    fn a_file_changed_after_the_crash_is_not_overwritten() {
        let place = Place::new();
        run(place.root(), &place.state(), &place.changes(), &mut |step| step == Step::Renamed(0)).unwrap();
        std::fs::write(place.root().join("sub/b"), "mine").unwrap();
        let lock = Lock::take(&place.state()).unwrap();
        let error = recover(&lock, &place.state()).unwrap_err();
        assert_eq!(error.kind(), crate::Kind::PartlyDone);
        assert!(error.message().contains("somebody changed since"), "{error:?}");
        assert_eq!(std::fs::read_to_string(place.root().join("sub/b")).unwrap(), "mine");
        std::fs::remove_file(place.root().join("sub/.b.fleet-new")).unwrap();
        recover(&lock, &place.state()).unwrap();
        assert_eq!(place.seen(), (some(["new a", "mine", "new docs/c"]), false));
    }

    #[test]
    fn nothing_changes_when_one_can_not() {
        let refused = |prepare: &dyn Fn(&Place), part: &str| {
            let place = Place::new();
            prepare(&place);
            let before = place.seen();
            let lock = Lock::take(&place.state()).unwrap();
            let error = apply(&lock, place.root(), &place.state(), &place.changes()).unwrap_err();
            assert!(error.chain().contains(part), "{error:?}");
            assert!(error.facts().iter().any(|fact| fact == "no file was changed"), "{error:?}");
            assert_eq!(place.seen(), before);
        };
        refused(&|p| std::fs::write(p.root().join("sub/b"), "other").unwrap(), "changed while this ran");
        refused(
            &|p| {
                let mode = std::fs::Permissions::from_mode(0o440);
                std::fs::set_permissions(p.root().join("sub/b"), mode).unwrap();
            },
            "is read-only",
        );
        let elsewhere = tempfile::tempdir().unwrap();
        std::fs::write(elsewhere.path().join("b"), "old sub/b").unwrap();
        refused(
            &|p| {
                std::fs::remove_file(p.root().join("sub/b")).unwrap();
                std::os::unix::fs::symlink(elsewhere.path().join("b"), p.root().join("sub/b")).unwrap();
            },
            "leads out of the repository",
        );
        refused(
            &|p| {
                std::fs::remove_file(p.root().join("sub/b")).unwrap();
                std::fs::create_dir(p.root().join("sub/b")).unwrap();
            },
            "no regular file",
        );
        assert_eq!(std::fs::read_to_string(elsewhere.path().join("b")).unwrap(), "old sub/b");
    }

    #[test]
    fn a_link_within_the_repository_is_followed() {
        let place = Place::new();
        std::os::unix::fs::symlink("sub/b", place.root().join("link")).unwrap();
        let change = Change {
            path: place.root().join("link"),
            before: Some(b"old sub/b".to_vec()),
            after: b"through the link".to_vec(),
        };
        let lock = Lock::take(&place.state()).unwrap();
        apply(&lock, place.root(), &place.state(), &[change]).unwrap();
        assert!(place.root().join("link").is_symlink());
        assert_eq!(std::fs::read_to_string(place.root().join("sub/b")).unwrap(), "through the link");
    }

    #[test]
    fn one_at_a_time() {
        let place = Place::new();
        let held = Lock::take(&place.state()).unwrap();
        assert_eq!(Lock::take(&place.state()).unwrap_err().kind(), crate::Kind::Conflict);
        drop(held);
        Lock::take(&place.state()).unwrap();
    }

    #[test]
    fn the_state_directory_of_a_worktree_is_its_own() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(".git"), "gitdir: /elsewhere/.git/worktrees/x\n").unwrap();
        assert_eq!(state_dir(&dir.path().join("below")), Path::new("/elsewhere/.git/worktrees/x/fleet"));
        let bare = tempfile::tempdir().unwrap();
        assert_eq!(state_dir(bare.path()), bare.path().join(".fleet"));
    }
}
