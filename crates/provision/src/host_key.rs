//! The VM's SSH host key: made before the VM is, so that it can be known from its first packet on and its
//! secrets open on first boot.

use std::{
    fs,
    io::Write,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Once,
};

use fleet_core::{
    Error, Result,
    memory::{self, Place},
    types::VmName,
    ui::Ui,
};
use ssh_key::{LineEnding, PrivateKey, private::Ed25519Keypair};
use zeroize::Zeroizing;

use crate::scratch::{self, Scratch};

/// How the names of private directories begin.
const PREFIX: &str = "fleet-run-";

/// A private directory in memory for what must not reach a disk; gone when dropped.
#[derive(Debug)]
pub struct PrivateDir {
    dir: Scratch,
    place: Place,
}

impl PrivateDir {
    /// In memory, wherever there is a place for it ([`memory::places`]); mode 0700.
    ///
    /// Its path has no blank in it: nixos-anywhere joins SSH options with blanks.
    pub fn new() -> Result<PrivateDir> {
        PrivateDir::at(memory::places())
    }

    fn at(places: Vec<Place>) -> Result<PrivateDir> {
        let usable = |place: &Place| !place.dir.to_string_lossy().contains(char::is_whitespace);
        for place in places.into_iter().filter(usable) {
            scratch::sweep(&place.dir, PREFIX);
            if let Ok(dir) = Scratch::new(&place.dir, PREFIX) {
                return Ok(PrivateDir { dir, place });
            }
        }
        Err(Error::failed("no place in memory for the VM's private host key")
            .now("neither XDG_RUNTIME_DIR nor /dev/shm is a directory that can be written; nothing was changed")
            .hint("set XDG_RUNTIME_DIR to a directory on a tmpfs, without blanks in its path"))
    }

    /// Says so, once, when it is on a disk.
    pub fn warn(&self, ui: Ui) {
        static SAID: Once = Once::new();
        if let Some(warning) = self.place.warning("the VM's private host key") {
            SAID.call_once(|| ui.warn(warning));
        }
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Writes `content` to a new file `name` with `mode`.
    pub fn write(&self, name: &str, content: &[u8], mode: u32) -> Result<PathBuf> {
        let path = self.path().join(name);
        write_new(&path, content, mode)?;
        Ok(path)
    }
}

/// A fresh ed25519 key pair: the private half as OpenSSH keeps it, and the public line.
pub(crate) fn pair(comment: &str) -> Result<(Zeroizing<String>, String)> {
    let bad = |e: ssh_key::Error| Error::failed("can not make a key").caused_by(e);
    let mut seed = Zeroizing::new([0u8; 32]);
    getrandom::fill(seed.as_mut())
        .map_err(|e| Error::failed("the system gives no random bytes").caused_by(e))?;
    let key = PrivateKey::new(Ed25519Keypair::from_seed(&seed).into(), comment).map_err(bad)?;
    let private = key.to_openssh(LineEnding::LF).map_err(bad)?;
    Ok((private, key.public_key().to_openssh().map_err(bad)?))
}

pub(crate) fn write_new(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .and_then(|mut file| {
            file.write_all(content)?;
            // Less than this would come of a strict umask; what is unpacked on the VM is for its services, too.
            file.set_permissions(fs::Permissions::from_mode(mode))
        })
        .map_err(|e| Error::io("write", path, e))
}

/// An ed25519 host key pair and the directory tree that hands it to the new system.
#[derive(Debug)]
pub struct HostKey {
    public: String,
    extra_files: PathBuf,
    public_file: PathBuf,
}

impl HostKey {
    /// Makes a fresh pair for `name` below `dir`: `extra/etc/ssh/ssh_host_ed25519_key` (0600) and its `.pub`.
    pub fn generate(name: &VmName, dir: &PrivateDir) -> Result<HostKey> {
        let (private, public) = pair(&format!("root@{name}"))?;
        let extra_files = dir.path().join("extra");
        let ssh = extra_files.join("etc/ssh");
        fs::create_dir_all(&ssh).map_err(|e| Error::io("create", &ssh, e))?;
        // The tree is unpacked over the new system's root: its directories get these modes there, whatever the
        // umask is here.
        for dir in [&extra_files, &extra_files.join("etc"), &ssh] {
            fs::set_permissions(dir, fs::Permissions::from_mode(0o755))
                .map_err(|e| Error::io("change the mode of", dir, e))?;
        }
        write_new(&ssh.join("ssh_host_ed25519_key"), private.as_bytes(), 0o600)?;
        let public_line = format!("{public}\n");
        write_new(&ssh.join("ssh_host_ed25519_key.pub"), public_line.as_bytes(), 0o644)?;
        let public_file = dir.write("host_key.pub", public_line.as_bytes(), 0o644)?;
        Ok(HostKey { public, extra_files, public_file })
    }

    /// The public half, one OpenSSH line.
    pub fn public(&self) -> &str {
        &self.public
    }

    /// The directory for nixos-anywhere's `--extra-files`.
    pub fn extra_files(&self) -> &Path {
        &self.extra_files
    }

    /// Removes its files: another pair may take their place.
    pub fn discard(self) -> Result<()> {
        fs::remove_dir_all(&self.extra_files)
            .and_then(|()| fs::remove_file(&self.public_file))
            .map_err(|e| Error::io("remove", &self.extra_files, e))
    }

    /// The private half's file.
    pub fn private_file(&self) -> PathBuf {
        self.extra_files.join("etc/ssh/ssh_host_ed25519_key")
    }

    /// A file with the public half, for `post-provision-vm --host-key`.
    pub fn public_file(&self) -> &Path {
        &self.public_file
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pair_fits_and_only_its_owner_can_read_it() {
        let place = tempfile::tempdir().unwrap();
        let at = || vec![Place { dir: place.path().to_owned(), in_memory: false }];
        let dir = || PrivateDir::at(at()).unwrap();
        let (dir, elsewhere) = (dir(), dir());
        let key = HostKey::generate(&"web".parse().unwrap(), &dir).unwrap();
        let private_file = key.extra_files().join("etc/ssh/ssh_host_ed25519_key");
        assert_eq!(fs::metadata(&private_file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(dir.path()).unwrap().permissions().mode() & 0o077, 0);
        let private = PrivateKey::read_openssh_file(&private_file).unwrap();
        assert_eq!(private.public_key().to_openssh().unwrap(), key.public());
        assert_eq!(fs::read_to_string(key.public_file()).unwrap().trim_end(), key.public());
        let other = HostKey::generate(&"web".parse().unwrap(), &elsewhere).unwrap();
        assert_ne!(key.public(), other.public());
    }

    #[test]
    fn it_lies_in_the_first_place_that_takes_it() {
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| Place { dir: place.path().join(name), in_memory: true };
        fs::create_dir(place.path().join("b c")).unwrap();
        fs::create_dir(place.path().join("d")).unwrap();
        let dir = PrivateDir::at(vec![at("a"), at("b c"), at("d")]).unwrap();
        assert_eq!(dir.path().parent(), Some(place.path().join("d").as_path()));
        PrivateDir::at(vec![at("a"), at("b c")]).unwrap_err();
    }
}
