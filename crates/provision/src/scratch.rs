//! Directories of one run's own, which only its user can read. What runs that were killed left of them goes.

use std::{
    fs::{self, File, Permissions},
    io,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
};

use tempfile::TempDir;

/// The file in such a directory that its run holds locked as long as it lives, however it ends.
const LOCK: &str = ".lock";

/// A directory of mode 0700; gone when dropped.
#[derive(Debug)]
pub(crate) struct Scratch {
    dir: TempDir,
    #[allow(dead_code, reason = "held, never read")]
    lock: File,
}

impl Scratch {
    /// In `place`, with a name that begins with `prefix`.
    pub(crate) fn new(place: &Path, prefix: &str) -> io::Result<Scratch> {
        let mut builder = tempfile::Builder::new();
        let dir = builder.prefix(prefix).permissions(Permissions::from_mode(0o700)).tempdir_in(place)?;
        let new = dir.path().join(".lock-new");
        let lock = File::create_new(&new)?;
        // It gets its name when it is held: nobody takes it for a left one before. A file system without locks has none.
        if lock.try_lock().is_ok() {
            fs::rename(&new, dir.path().join(LOCK))?;
        }
        Ok(Scratch { dir, lock })
    }

    /// The directory.
    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }
}

/// Removes what runs of this user that were killed left in `place`, of the directories whose names begin with `prefix`.
/// What they held is of no use to anybody any more.
pub(crate) fn sweep(place: &Path, prefix: &str) {
    let me = rustix::process::getuid().as_raw();
    for entry in fs::read_dir(place).into_iter().flatten().flatten() {
        let named = entry.file_name().to_str().is_some_and(|name| name.starts_with(prefix));
        let own = || entry.metadata().is_ok_and(|about| about.is_dir() && about.uid() == me);
        // A lock ends with the process that had it; its number may be another's by now.
        let free = || File::open(entry.path().join(LOCK)).is_ok_and(|lock| lock.try_lock().is_ok());
        if named && own() && free() {
            // What can not be removed now is tried again by the next run.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_else_can_read_it() {
        let place = tempfile::tempdir().unwrap();
        let scratch = Scratch::new(place.path(), "fleet-x-").unwrap();
        let mode = fs::metadata(scratch.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        drop(scratch);
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_a_killed_run_left_is_removed_and_what_a_living_one_has_is_not() {
        let place = tempfile::tempdir().unwrap();
        let alive = Scratch::new(place.path(), "fleet-x-").unwrap();
        // As they lie there when nobody holds them any more.
        let dead = place.path().join("fleet-x-dead");
        let made_just_now = place.path().join("fleet-x-new");
        let other = place.path().join("fleet-y-dead");
        for (dir, lock) in [(&dead, LOCK), (&made_just_now, ".lock-new"), (&other, LOCK)] {
            fs::create_dir(dir).unwrap();
            fs::write(dir.join(lock), "").unwrap();
            fs::write(dir.join("key"), "secret").unwrap();
        }
        sweep(place.path(), "fleet-x-");
        let there = [&dead, &made_just_now, &other].map(|dir| dir.exists());
        assert_eq!((there, alive.path().exists()), ([false, true, true], true));
    }
}
