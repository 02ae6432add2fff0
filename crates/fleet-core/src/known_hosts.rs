//! The known hosts of the fleet's VMs, in one file of ours: a line for each VM under its own name, whatever its address,
//! for OpenSSH's `HostKeyAlias`. The user's own known-hosts files are never written.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
};

use crate::{Error, Result, dirs};

/// The fleet's own file of known hosts, below [`dirs::state`]. `None` for somebody without a home.
pub fn file() -> Option<PathBuf> {
    Some(dirs::state()?.join("known_hosts"))
}

/// Records a VM's key (one OpenSSH line) under its name, in place of any other. Says whether that changed anything.
pub fn record(file: &Path, name: &str, key: &str) -> Result<bool> {
    change(file, |line| !is_under(line, name), Some(&format!("{name} {key}")))
}

/// Takes out what is under a VM's name, and its key under any other. Says whether that changed anything.
pub fn forget(file: &Path, name: &str, key: Option<&str>) -> Result<bool> {
    let blob = key.and_then(blob);
    change(file, |line| !(is_under(line, name) || blob.is_some() && blob_in(line) == blob), None)
}

/// The lines (from 1) of a known-hosts file that hold this key, under any name.
pub fn lines_with(file: &Path, key: &str) -> Vec<usize> {
    let text = fs::read(file).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let Some(blob) = blob(key) else { return Vec::new() };
    let holds = |(_, line): &(usize, &str)| blob_in(line) == Some(blob);
    text.lines().enumerate().filter(holds).map(|(index, _)| index + 1).collect()
}

/// The base64 of an OpenSSH public key line.
fn blob(key: &str) -> Option<&str> {
    key.split_whitespace().nth(1)
}

/// The base64 of the key on a known-hosts line, with or without a marker.
fn blob_in(line: &str) -> Option<&str> {
    let mut words = line.split_whitespace();
    let first = words.next().filter(|word| !word.starts_with('#'))?;
    words.nth(if first.starts_with('@') { 2 } else { 1 })
}

fn is_under(line: &str, name: &str) -> bool {
    line.split_whitespace().next().is_some_and(|word| word.eq_ignore_ascii_case(name))
}

fn change(file: &Path, keep: impl Fn(&str) -> bool, add: Option<&str>) -> Result<bool> {
    let before = match fs::read_to_string(file) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(e) => return Err(Error::io("read the known hosts in", file, e)),
    };
    let after: Vec<&str> = before.lines().filter(|line| keep(line)).chain(add).collect();
    let mut sorted = (before.lines().collect::<Vec<_>>(), after.clone());
    sorted.0.sort_unstable();
    sorted.1.sort_unstable();
    if sorted.0 == sorted.1 {
        return Ok(false);
    }
    let dir = file.parent().unwrap_or(Path::new("."));
    let write = || {
        fs::create_dir_all(dir)?;
        // Mode 0600, and nobody ever reads half of it.
        let mut staged = tempfile::NamedTempFile::new_in(dir)?;
        after.iter().try_for_each(|line| writeln!(staged, "{line}"))?;
        staged.as_file().sync_all()?;
        staged.persist(file).map_err(|e| e.error)
    };
    write().map(|_| true).map_err(|e| Error::io("write the known hosts to", file, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_vm() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("fleet/known_hosts");
        let read = || fs::read_to_string(&file).unwrap();
        assert!(!forget(&file, "web", None).unwrap() && !file.exists());
        assert!(record(&file, "web", "ssh-ed25519 AAAA").unwrap());
        assert!(record(&file, "db", "ssh-ed25519 BBBB").unwrap());
        assert!(record(&file, "web", "ssh-ed25519 CCCC").unwrap());
        assert!(!record(&file, "web", "ssh-ed25519 CCCC").unwrap());
        assert_eq!(read(), "db ssh-ed25519 BBBB\nweb ssh-ed25519 CCCC\n");
        fs::write(
            &file,
            format!("# mine\n10.0.0.1 ssh-ed25519 CCCC\n@revoked x ssh-ed25519 CCCC\n{}", read()),
        )
        .unwrap();
        assert_eq!(lines_with(&file, "ssh-ed25519 CCCC root@web"), [2, 3, 5]);
        assert!(forget(&file, "web", Some("ssh-ed25519 CCCC root@web")).unwrap());
        assert_eq!(read(), "# mine\ndb ssh-ed25519 BBBB\n");
        assert!(!forget(&file, "web", Some("ssh-ed25519 CCCC")).unwrap());
    }
}
