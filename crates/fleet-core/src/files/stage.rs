//! One file: where it really is, its new content beside it, and the rename that puts it in place.

use std::{
    fs::{File, OpenOptions},
    io::Write,
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Component, Path, PathBuf},
};

use rustix::fs::{Gid, Uid};

use super::Entry;
use crate::{Error, Result};

/// Files synced at a time.
const SYNCERS: usize = 32;

/// The file that a path means: links followed, but not out of the repository.
pub(super) fn real_target(root: &Path, path: &Path) -> Result<PathBuf> {
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
pub(super) fn check_writable(target: &Path) -> Result<()> {
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

pub(super) fn stage(entry: &Entry, content: &[u8]) -> Result<()> {
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
pub(super) fn sync_staged(entries: &[Entry]) -> Result<()> {
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

pub(super) fn rename(entry: &Entry) -> Result<()> {
    std::fs::rename(&entry.staged, &entry.target).map_err(|e| Error::io("put in place", &entry.target, e))
}

/// Makes the renames last, each directory once; only then the journal may go.
pub(super) fn sync_parents<'e>(entries: impl Iterator<Item = &'e Entry>) -> Result<()> {
    let dirs: std::collections::BTreeSet<&Path> = entries.filter_map(|entry| entry.target.parent()).collect();
    dirs.into_iter().try_for_each(sync_dir)
}

pub(super) fn sync_dir(dir: &Path) -> Result<()> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(|e| Error::io("sync", dir, e))
}

pub(super) fn remove_if_there(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", path, e)),
        _ => Ok(()),
    }
}
