//! A repository of two files.

use std::fs;

use fleet_core::repo::Repo;

/// With these definitions and hosts. It is there as long as the directory is held.
pub(crate) fn repo_with(definitions: &str, hosts: &str) -> (tempfile::TempDir, Repo) {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("vms")).unwrap();
    fs::write(dir.path().join("vms/definitions.nix"), definitions).unwrap();
    fs::write(dir.path().join("hosts.nix"), hosts).unwrap();
    let repo = Repo::at(dir.path()).unwrap();
    (dir, repo)
}
