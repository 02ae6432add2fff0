//! Where the tools keep what must not reach a disk: their own place in memory, which vanishes with the node.

use std::path::Path;

use anyhow::{Context, Result};
use tempfile::TempDir;

/// A file system in memory, on every Linux.
const MEMORY: &str = "/dev/shm";

/// Makes the directory `run`, by a symbolic link in memory where there is a place: else it is where it stands.
pub(super) fn runtime_dir(run: &Path) -> Result<Option<TempDir>> {
    let in_memory = tempfile::Builder::new().prefix("pve-sim-run-").tempdir_in(MEMORY).ok();
    match &in_memory {
        Some(dir) => std::os::unix::fs::symlink(dir.path(), run).context("can not make a symbolic link")?,
        None => std::fs::create_dir(run).context("can not make a directory")?,
    }
    Ok(in_memory)
}
