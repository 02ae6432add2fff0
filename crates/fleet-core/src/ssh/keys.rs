//! Public keys as OpenSSH writes them, their fingerprints, and what can be told of a private key file without
//! its passphrase.

use std::fmt;

use base64ct::{Base64, Base64Unpadded, Encoding};
use sha2::{Digest, Sha256};

use crate::{Error, Result};

/// A public key: its type and the bytes that SSH sends for it (RFC 4253, section 6.6).
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct PublicKey {
    key_type: String,
    blob: Vec<u8>,
}

impl PublicKey {
    /// Parses one OpenSSH public key line, `TYPE BASE64 [COMMENT]`; the comment is dropped.
    pub fn parse(line: &str) -> Result<PublicKey> {
        let mut words = line.split_ascii_whitespace();
        let (Some(key_type), Some(text)) = (words.next(), words.next()) else {
            return Err(Error::usage(format!("'{}' is not an OpenSSH public key line", shorten(line)))
                .hint("it looks like: ssh-ed25519 AAAAC3Nza… comment"));
        };
        let blob = decode_base64(text).ok_or_else(|| {
            Error::usage(format!(
                "the public key '{}' is not whole: its base64 does not decode",
                shorten(line)
            ))
        })?;
        match PublicKey::from_blob(blob) {
            Some(key) if key.key_type == key_type => Ok(key),
            Some(key) => Err(Error::usage(format!(
                "the public key '{}' says {key_type} but contains a key of type {}",
                shorten(line),
                key.key_type
            ))),
            None => Err(Error::usage(format!("the public key '{}' is not whole", shorten(line)))),
        }
    }

    /// From the bytes that SSH sends: the type, then the parts of the key, all of them whole.
    pub fn from_blob(blob: Vec<u8>) -> Option<PublicKey> {
        let (key_type, mut rest) = take_string(&blob)?;
        let key_type = std::str::from_utf8(key_type).ok()?.to_owned();
        if key_type.is_empty() || !key_type.bytes().all(|b| b.is_ascii_graphic()) || rest.is_empty() {
            return None;
        }
        while !rest.is_empty() {
            (_, rest) = take_string(rest)?;
        }
        Some(PublicKey { key_type, blob })
    }

    /// Whether these bytes are an OpenSSH certificate for this key (PROTOCOL.certkeys in OpenSSH's sources): its
    /// type, a nonce, then the same parts.
    pub fn is_certified_by(&self, certificate: &[u8]) -> bool {
        let stem = self.key_type.strip_suffix("@openssh.com").unwrap_or(&self.key_type);
        let parts = take_string(&self.blob).map(|(_, parts)| parts);
        let found = take_string(certificate)
            .filter(|(kind, _)| *kind == format!("{stem}-cert-v01@openssh.com").as_bytes())
            .and_then(|(_, rest)| Some(take_string(rest)?.1));
        matches!((parts, found), (Some(parts), Some(found)) if found.starts_with(parts))
    }

    /// `ssh-ed25519`, `ecdsa-sha2-nistp256`, `ssh-rsa`…
    pub fn key_type(&self) -> &str {
        &self.key_type
    }

    /// The bytes that SSH sends.
    pub fn blob(&self) -> &[u8] {
        &self.blob
    }

    /// `SHA256:…`, as `ssh-keygen -lf` prints it.
    pub fn fingerprint(&self) -> String {
        format!("SHA256:{}", Base64Unpadded::encode_string(&Sha256::digest(&self.blob)))
    }

    /// `TYPE BASE64`, without a comment.
    pub fn line(&self) -> String {
        format!("{} {}", self.key_type, Base64::encode_string(&self.blob))
    }

    /// The type as people and `ssh-keygen` call it: `ED25519`.
    pub fn short_type(&self) -> &str {
        short_type(&self.key_type)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.line())
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({} {})", self.key_type, self.fingerprint())
    }
}

/// The type as people and `ssh-keygen` call it.
pub fn short_type(key_type: &str) -> &str {
    match key_type {
        "ssh-ed25519" => "ED25519",
        "ssh-rsa" => "RSA",
        "ssh-dss" => "DSA",
        t if t.starts_with("ecdsa-sha2-") => "ECDSA",
        t if t.starts_with("sk-ssh-ed25519") => "ED25519-SK",
        t if t.starts_with("sk-ecdsa-sha2-") => "ECDSA-SK",
        other => other,
    }
}

/// What can be told of a private key file as it lies there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrivateKeyFacts {
    /// A passphrase is needed to use it.
    pub encrypted: bool,
    /// Its public half, where the file has it in the open (OpenSSH's own format).
    pub public: Option<PublicKey>,
}

/// Looks at a private key file; `None` if it is no private key that we know of.
pub fn inspect_private(text: &str) -> Option<PrivateKeyFacts> {
    let begin = text.lines().map(str::trim).find(|l| l.starts_with("-----BEGIN "))?;
    match begin {
        "-----BEGIN OPENSSH PRIVATE KEY-----" => inspect_openssh(text),
        "-----BEGIN ENCRYPTED PRIVATE KEY-----" => Some(PrivateKeyFacts { encrypted: true, public: None }),
        b if b.ends_with("PRIVATE KEY-----") => {
            let encrypted = text.lines().any(|l| l.starts_with("Proc-Type:") && l.contains("ENCRYPTED"));
            Some(PrivateKeyFacts { encrypted, public: None })
        }
        _ => None,
    }
}

/// The `openssh-key-v1` container (PROTOCOL.key in OpenSSH's sources).
fn inspect_openssh(text: &str) -> Option<PrivateKeyFacts> {
    let body: String = text
        .lines()
        .map(str::trim)
        .skip_while(|l| !l.starts_with("-----BEGIN "))
        .skip(1)
        .take_while(|l| !l.starts_with("-----"))
        .collect();
    let bytes = zeroize::Zeroizing::new(decode_base64(&body)?);
    let rest = bytes.strip_prefix(b"openssh-key-v1\0")?;
    let (cipher, rest) = take_string(rest)?;
    let (_kdf, rest) = take_string(rest)?;
    let (_kdf_options, rest) = take_string(rest)?;
    let rest = rest.strip_prefix(&1u32.to_be_bytes())?;
    let (public, _) = take_string(rest)?;
    Some(PrivateKeyFacts { encrypted: cipher != b"none", public: PublicKey::from_blob(public.to_vec()) })
}

/// One length-prefixed string (RFC 4251, section 5) and what follows it.
pub(crate) fn take_string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
    rest.split_at_checked(length)
}

/// Base64 with or without its padding.
pub(crate) fn decode_base64(text: &str) -> Option<Vec<u8>> {
    Base64Unpadded::decode_vec(text.trim_end_matches('=')).ok()
}

/// The bytes of an OpenSSH certificate's line, `TYPE-cert-v01@openssh.com BASE64 [COMMENT]`; nothing if it is none.
pub(crate) fn certificate_blob(line: &str) -> Option<Vec<u8>> {
    let mut words = line.split_ascii_whitespace();
    let kind = words.next().filter(|kind| kind.ends_with("-cert-v01@openssh.com"))?;
    let blob = decode_base64(words.next()?)?;
    (take_string(&blob)?.0 == kind.as_bytes()).then_some(blob)
}

fn shorten(line: &str) -> String {
    let line = line.trim();
    let mut short: String = line.chars().filter(|c| !c.is_control()).take(40).collect();
    if short.len() < line.len() {
        short.push('…');
    }
    short
}

#[cfg(test)]
#[path = "keys_tests.rs"]
mod tests;
