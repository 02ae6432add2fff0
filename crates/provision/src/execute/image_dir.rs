//! Where a disk image is built on this machine.

use std::{
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use fleet_core::{Error, Result, memory::is_in_memory, types::DiskSize};

use crate::scratch::{self, Scratch};

/// How the names of the directories begin that images are built in.
const PREFIX: &str = "fleet-image-";
/// A file system in memory, on every Linux.
const MEMORY: &str = "/dev/shm";

/// Bytes in memory that are promised to the images of this run, which may be built side by side.
static PROMISED: Mutex<u64> = Mutex::new(0);

/// Bytes that are an image's until it is dropped.
#[derive(Debug)]
struct Promise(u64);

impl Promise {
    /// So many bytes, if they and all that is promised already fit into `room`.
    fn of(bytes: u64, room: u64) -> Option<Promise> {
        let mut promised = PROMISED.lock().unwrap_or_else(PoisonError::into_inner);
        let all = promised.checked_add(bytes).filter(|all| *all <= room)?;
        *promised = all;
        Some(Promise(bytes))
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        *PROMISED.lock().unwrap_or_else(PoisonError::into_inner) -= self.0;
    }
}

/// A directory that only we can read; gone when dropped.
#[derive(Debug)]
pub(super) struct ImageDir {
    dir: Scratch,
    /// Where it is in memory. Given back when the directory is gone.
    #[allow(dead_code, reason = "held, never read")]
    promise: Option<Promise>,
}

impl ImageDir {
    /// In memory where an image as large as the VM's disk fits there, beside the others of this run, for the host key
    /// is in it. What runs that were killed have left goes first, whichever VMs they were about.
    pub(super) fn new(largest: DiskSize) -> Result<ImageDir> {
        let (memory, disk) = (PathBuf::from(MEMORY), std::env::temp_dir());
        [&memory, &disk].into_iter().for_each(|place| scratch::sweep(place, PREFIX));
        let promise = room_in_memory(&memory).and_then(|room| Promise::of(largest.bytes(), room));
        let place = if promise.is_some() { memory } else { disk };
        let dir = Scratch::new(&place, PREFIX)
            .map_err(|e| Error::io("make a temporary directory in", &place, e))?;
        Ok(ImageDir { dir, promise })
    }

    pub(super) fn path(&self) -> &Path {
        self.dir.path()
    }
}

/// Bytes that files may take in a file system in memory: what it has free, and of the memory no more than half of what
/// is available, since the image is built by a virtual machine that wants memory too.
fn room_in_memory(place: &Path) -> Option<u64> {
    let free = rustix::fs::statvfs(place).ok()?;
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let available: u64 = line.split_whitespace().next()?.parse().ok()?;
    is_in_memory(place).then(|| (free.f_bavail * free.f_frsize).min(available * 1024 / 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_lies_in_memory_where_it_fits_beside_the_others() {
        let (small, large) = ("1M".parse().unwrap(), "900T".parse().unwrap());
        let now = ImageDir::new(small).unwrap();
        let beside = ImageDir::new(large).unwrap();
        assert!(beside.path().starts_with(std::env::temp_dir()));
        if room_in_memory(MEMORY.as_ref()).is_some_and(|room| room > 64 << 20) {
            assert!(now.path().starts_with(MEMORY), "{}", now.path().display());
        }
        // What is promised to one is not there for the next.
        let room = 1 << 40;
        let first = Promise::of(room / 2 + 1, room).unwrap();
        assert!(Promise::of(room / 2, room).is_none());
        drop(first);
        assert!(Promise::of(room / 2, room).is_some());
    }
}
