//! Known-hosts files as sshd(8) describes them, matched by us: libssh2's own matcher takes a revoked key for a
//! good one and drops the whole file at its first odd line.

use std::{
    fs,
    io::{Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use base64ct::{Base64, Encoding};
use hmac::{Hmac, Mac};
use sha1::Sha1;

use super::keys::{PublicKey, decode_base64};
use crate::{Error, Result};

/// Where a line is: `FILE:LINE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct At {
    pub(super) file: PathBuf,
    pub(super) line: usize,
}

impl std::fmt::Display for At {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Marker {
    Plain,
    Revoked,
    CertAuthority,
}

#[derive(Debug, Clone)]
struct Entry {
    at: At,
    marker: Marker,
    hosts: String,
    key: PublicKey,
}

/// The lines of some known-hosts files.
#[derive(Debug, Clone, Default)]
pub(super) struct KnownHosts {
    entries: Vec<Entry>,
    /// Lines that could not be read, with the reason.
    pub(super) odd: Vec<(At, String)>,
}

/// What the files say about a host's key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// This key is on record for the host.
    Known,
    /// The key is marked `@revoked`.
    Revoked(At),
    /// The host is on record with other keys of this type.
    Changed(Vec<(At, PublicKey)>),
    /// No key of this type is on record for the host.
    Unknown {
        /// Keys of other types that are on record.
        others: Vec<(At, PublicKey)>,
        /// `@cert-authority` lines for the host, which are not supported.
        authorities: Vec<At>,
    },
}

/// A host's name in known-hosts files: `host`, or `[host]:port` for a port other than 22.
pub(super) fn name(host: &str, port: u16) -> String {
    let host = host.to_ascii_lowercase();
    if port == 22 { host } else { format!("[{host}]:{port}") }
}

impl KnownHosts {
    /// Reads all of `files`; those that do not exist are empty.
    pub(super) fn read<'a>(files: impl IntoIterator<Item = &'a PathBuf>) -> Result<KnownHosts> {
        let mut known = KnownHosts::default();
        for file in files {
            match fs::read(file) {
                Ok(bytes) => known.parse(file, &String::from_utf8_lossy(&bytes)),
                Err(e)
                    if matches!(
                        e.kind(),
                        std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
                    ) => {}
                Err(e) => {
                    return Err(Error::io("read the known hosts in", file, e).with_kind(crate::Kind::Failed));
                }
            }
        }
        Ok(known)
    }

    /// Adds the lines of one file.
    pub(super) fn parse(&mut self, file: &Path, text: &str) {
        for (index, line) in text.split('\n').enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let at = At { file: file.to_owned(), line: index + 1 };
            match parse_line(line) {
                Ok((marker, hosts, key)) => self.entries.push(Entry { at, marker, hosts, key }),
                Err(why) => self.odd.push((at, why)),
            }
        }
    }

    fn about(&self, name: &str) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(move |entry| hosts_match(&entry.hosts, name))
    }

    /// The types of the host's keys on record, in the order of the files.
    pub(super) fn types(&self, name: &str) -> Vec<String> {
        let mut types: Vec<String> = Vec::new();
        for entry in self.about(name).filter(|e| e.marker == Marker::Plain) {
            if !types.iter().any(|t| t == entry.key.key_type()) {
                types.push(entry.key.key_type().to_owned());
            }
        }
        types
    }

    /// Judges the key that a host showed.
    pub(super) fn check(&self, name: &str, key: &PublicKey) -> Verdict {
        let about: Vec<&Entry> = self.about(name).collect();
        if let Some(revoked) = about.iter().find(|e| e.marker == Marker::Revoked && e.key == *key) {
            return Verdict::Revoked(revoked.at.clone());
        }
        let plain = || about.iter().filter(|e| e.marker == Marker::Plain);
        if plain().any(|e| e.key == *key) {
            return Verdict::Known;
        }
        let same_type = |e: &&&Entry| e.key.key_type() == key.key_type();
        let recorded = |e: &&Entry| (e.at.clone(), e.key.clone());
        let changed: Vec<_> = plain().filter(same_type).map(recorded).collect();
        if !changed.is_empty() {
            return Verdict::Changed(changed);
        }
        let authorities =
            about.iter().filter(|e| e.marker == Marker::CertAuthority).map(|e| e.at.clone()).collect();
        Verdict::Unknown { others: plain().map(recorded).collect(), authorities }
    }
}

fn parse_line(line: &str) -> Result<(Marker, String, PublicKey), String> {
    let (marker, rest) = match line.strip_prefix('@') {
        None => (Marker::Plain, line),
        Some(marked) => {
            let (word, rest) = marked.split_once([' ', '\t']).ok_or("nothing follows its marker")?;
            let marker = match word {
                "revoked" => Marker::Revoked,
                "cert-authority" => Marker::CertAuthority,
                other => return Err(format!("unknown marker @{other}")),
            };
            (marker, rest.trim_start())
        }
    };
    let (hosts, key) = rest.split_once([' ', '\t']).ok_or("there is no key on it")?;
    let key = PublicKey::parse(key.trim_start()).map_err(|e| e.message().to_owned())?;
    Ok((marker, hosts.to_owned(), key))
}

/// Whether the host field of a line is about `name` (in lower case).
fn hosts_match(hosts: &str, name: &str) -> bool {
    if hosts.starts_with('|') {
        return hashed_match(hosts, name).unwrap_or(false);
    }
    let mut found = false;
    for pattern in hosts.split(',') {
        match pattern.strip_prefix('!') {
            // One negated pattern that matches rules the whole line out.
            Some(negated) if glob(negated, name) => return false,
            Some(_) => {}
            None => found |= glob(pattern, name),
        }
    }
    found
}

/// `|1|SALT|HASH`, HASH being the HMAC-SHA1 of the name under SALT.
fn hashed_match(field: &str, name: &str) -> Option<bool> {
    let (salt, hash) = field.strip_prefix("|1|")?.split_once('|')?;
    let mut mac = Hmac::<Sha1>::new_from_slice(&decode_base64(salt)?).ok()?;
    mac.update(name.as_bytes());
    Some(mac.verify_slice(&decode_base64(hash)?).is_ok())
}

/// `*` and `?`, without regard to case; linear in the lengths but for one restart per `*`.
fn glob(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.as_bytes(), name.as_bytes());
    let (mut p, mut n) = (0, 0);
    let mut restart = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                restart = Some((p + 1, n));
                p += 1;
            }
            Some(c) if *c == b'?' || c.eq_ignore_ascii_case(&name[n]) => {
                p += 1;
                n += 1;
            }
            _ => match restart {
                Some((after_star, from)) => {
                    restart = Some((after_star, from + 1));
                    p = after_star;
                    n = from + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

/// The line that records `key` for `name`, the name hashed if the user's ssh_config says so.
pub(super) fn line_for(name: &str, key: &PublicKey, hashed: bool) -> Result<String> {
    if !hashed {
        return Ok(format!("{name} {}", key.line()));
    }
    let mut salt = [0u8; 20];
    getrandom::fill(&mut salt).map_err(|e| Error::failed("can not get random bytes").caused_by(e))?;
    let mut mac = Hmac::<Sha1>::new_from_slice(&salt)
        .map_err(|e| Error::failed("can not hash a host's name").caused_by(e))?;
    mac.update(name.as_bytes());
    let hash = Base64::encode_string(&mac.finalize().into_bytes());
    Ok(format!("|1|{}|{hash} {}", Base64::encode_string(&salt), key.line()))
}

/// Appends one line to a known-hosts file, which is made (0600) with its directory (0700) if need be.
pub(super) fn append(file: &Path, line: &str) -> Result<()> {
    if let Some(dir) = file.parent().filter(|d| !d.as_os_str().is_empty()) {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(|e| Error::io("create", dir, e))?;
    }
    let io = |e| Error::io("write the known host to", file, e);
    let mut open = fs::OpenOptions::new();
    let mut handle = open.read(true).append(true).create(true).mode(0o600).open(file).map_err(io)?;
    let mut there = Vec::new();
    handle.read_to_end(&mut there).map_err(io)?;
    let gap = if there.is_empty() || there.ends_with(b"\n") { "" } else { "\n" };
    handle.write_all(format!("{gap}{line}\n").as_bytes()).map_err(io)
}

#[cfg(test)]
#[path = "known_hosts_tests.rs"]
mod tests;
