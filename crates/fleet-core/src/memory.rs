//! Where files lie that must not reach a disk: a private host key, or a document that has one in it.

use std::path::{Path, PathBuf};

/// Kinds of file systems in memory (statfs(2)).
const TMPFS: u64 = 0x0102_1994;
const RAMFS: u64 = 0x8584_58f6;

/// A directory where such a file may be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The directory.
    pub dir: PathBuf,
    /// Whether it is in memory.
    pub in_memory: bool,
}

/// The directories for such files that there are, in the order to be tried: those in memory first, and last those on a
/// disk, as `XDG_RUNTIME_DIR` often is in containers. Who uses one of those says so ([`Place::warning`]).
pub fn places() -> Vec<Place> {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty()).map(PathBuf::from);
    let user = format!("/run/user/{}", rustix::process::getuid().as_raw());
    let known = [PathBuf::from("/dev/shm"), PathBuf::from(user)];
    sorted(runtime.into_iter().chain(known), is_in_memory)
}

fn sorted(dirs: impl IntoIterator<Item = PathBuf>, in_memory: impl Fn(&Path) -> bool) -> Vec<Place> {
    let there = dirs.into_iter().filter(|dir| dir.is_dir());
    let mut places: Vec<Place> = there.map(|dir| Place { in_memory: in_memory(&dir), dir }).collect();
    places.sort_by_key(|place| !place.in_memory);
    places
}

/// Whether a directory is in memory, by the kind of its file system; one that does not tell is not.
pub fn is_in_memory(dir: &Path) -> bool {
    let kind = rustix::fs::statfs(dir).ok().and_then(|about| u64::try_from(about.f_type).ok());
    kind.is_some_and(|kind| [TMPFS, RAMFS].contains(&kind))
}

impl Place {
    /// What is to be said of `what` when it lies there: nothing where that is in memory.
    pub fn warning(&self, what: &str) -> Option<String> {
        let dir = self.dir.display();
        let text = format!(
            "no place in memory: {what} is written to {dir}, on a disk, and removed again; a directory on a tmpfs as \
             XDG_RUNTIME_DIR keeps it off"
        );
        (!self.in_memory).then_some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_memory_comes_first_and_a_disk_last() {
        let here = tempfile::tempdir().unwrap();
        let dir = |name: &str| here.path().join(name);
        for name in ["runtime", "shm", "user"] {
            std::fs::create_dir(dir(name)).unwrap();
        }
        let order = |memory: &[&str]| {
            let dirs = ["runtime", "not-there", "shm", "user"].map(dir);
            let places = sorted(dirs, |it| memory.iter().any(|name| it.ends_with(name)));
            let named = |place: &Place| {
                let name = place.dir.file_name().unwrap().to_string_lossy().into_owned();
                assert_eq!(place.warning("a key").is_some(), !place.in_memory);
                (name, place.in_memory)
            };
            places.iter().map(named).collect::<Vec<_>>()
        };
        let is = |names: [(&str, bool); 3]| names.map(|(name, memory)| (name.to_owned(), memory)).to_vec();
        assert_eq!(order(&["runtime", "shm"]), is([("runtime", true), ("shm", true), ("user", false)]));
        assert_eq!(order(&["shm"]), is([("shm", true), ("runtime", false), ("user", false)]));
        assert_eq!(order(&[]), is([("runtime", false), ("shm", false), ("user", false)]));
    }

    #[test]
    fn a_disk_is_told_from_memory() {
        // What the kernel mounts by itself is neither.
        assert!(!is_in_memory(Path::new("/proc")));
        assert!(!is_in_memory(Path::new("/not/there")));
        let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
        for line in mounts.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            // The last one of a place is what is seen there.
            let last = mounts.lines().rfind(|other| other.split(' ').nth(1) == Some(words[1]));
            if words[2] == "tmpfs" && last == Some(line) && Path::new(words[1]).is_dir() {
                assert!(is_in_memory(Path::new(words[1])), "{line}");
            }
        }
    }
}
