//! From SSH ed25519 keys to age X25519 recipients and identities.
//!
//! An ed25519 public key is a point on the Edwards form of the curve whose Montgomery form X25519 works on; the
//! map between the two (RFC 7748, section 4.1) turns a host key into an age recipient. The private half is the
//! clamped first half of SHA-512 over the seed (RFC 8032, section 5.1.5), which is the X25519 scalar of the same
//! key. `ssh-to-age` does the same; recipients are the bech32 text that the age specification defines.

use std::{fmt, str::FromStr};

use bech32::{Bech32, Hrp};
use curve25519_dalek::edwards::CompressedEdwardsY;
use fleet_core::{Error, Result};
use sha2::{Digest, Sha512};
use ssh_key::{HashAlg, PrivateKey, PublicKey};
use zeroize::Zeroizing;

/// An SSH host key that can be used here: ed25519, well-formed, on the curve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostKey {
    key: [u8; 32],
}

impl HostKey {
    /// From one OpenSSH public key line; the comment is dropped. Other key types are refused with the reason.
    pub fn parse(line: &str) -> Result<HostKey> {
        let line = line.trim();
        let shown: String = line.chars().take(60).collect();
        let public = PublicKey::from_openssh(line).map_err(|e| {
            Error::failed(format!("'{}' is not an OpenSSH public key", shown.escape_debug())).caused_by(e)
        })?;
        let Some(ed25519) = public.key_data().ed25519() else {
            return Err(Error::refused(format!(
                "refused the host key: it is {}, not ssh-ed25519",
                public.algorithm()
            ))
            .now("only an ed25519 key can be converted into an age recipient")
            .hint(
                "let the host generate one: ssh-keygen -t ed25519 -N '' -f /etc/ssh/ssh_host_ed25519_key",
            ));
        };
        let key = HostKey { key: ed25519.0 };
        key.montgomery()?;
        Ok(key)
    }

    /// The key as an OpenSSH public key line without a comment.
    pub fn line(&self) -> String {
        let data = ssh_key::public::Ed25519PublicKey(self.key);
        // Writing 51 bytes as base64 can not fail; an empty line would be refused wherever it is read.
        PublicKey::from(data).to_openssh().unwrap_or_default()
    }

    /// This key in the place of the one in `line`: what is said behind that one is about the host, and stays.
    pub fn line_in_place_of(&self, line: &str) -> String {
        self.line() + remark(line)
    }

    /// `SHA256:…`, as OpenSSH prints it.
    pub fn fingerprint(&self) -> String {
        PublicKey::from(ssh_key::public::Ed25519PublicKey(self.key)).fingerprint(HashAlg::Sha256).to_string()
    }

    fn montgomery(&self) -> Result<[u8; 32]> {
        let bad = || Error::failed("the ed25519 key is not a usable point of the curve");
        let point = CompressedEdwardsY(self.key).decompress().ok_or_else(bad)?;
        if point.is_small_order() {
            return Err(bad());
        }
        Ok(point.to_montgomery().to_bytes())
    }

    /// The age recipient that only the holder of the host's private key can open.
    pub fn recipient(&self) -> Result<Recipient> {
        let bytes = self.montgomery()?;
        let text = encode("age", &bytes, false)?;
        Ok(Recipient(text.to_string()))
    }
}

/// What stands behind an SSH public key, with the blanks before it.
pub(crate) fn remark(line: &str) -> &str {
    let line = line.trim();
    let word = |text: &str| text.find(char::is_whitespace).unwrap_or(text.len());
    let behind_type = &line[word(line)..];
    let key = behind_type.trim_start();
    &key[word(key)..]
}

/// An age X25519 recipient, `age1…`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Recipient(String);

impl Recipient {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// In the form that the age library encrypts to.
    pub(crate) fn to_age(&self) -> Result<age::x25519::Recipient> {
        self.0.parse().map_err(|e: &str| Error::failed(format!("'{}' is not an age recipient: {e}", self.0)))
    }
}

impl FromStr for Recipient {
    type Err = Error;
    fn from_str(text: &str) -> Result<Recipient> {
        let recipient = Recipient(text.to_owned());
        recipient.to_age()?;
        Ok(recipient)
    }
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl serde::Serialize for Recipient {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.0)
    }
}

/// `AGE-SECRET-KEY-1…` for an OpenSSH ed25519 private key. The text of the key never reaches an error.
pub fn identity_of_ssh_key(openssh_pem: &str) -> Result<Zeroizing<String>> {
    let key = PrivateKey::from_openssh(openssh_pem)
        .map_err(|e| Error::failed("not an OpenSSH private key").caused_by(e))?;
    if key.is_encrypted() {
        return Err(Error::failed("the private key has a passphrase"));
    }
    let pair = key
        .key_data()
        .ed25519()
        .ok_or_else(|| Error::failed(format!("the private key is {}, not ssh-ed25519", key.algorithm())))?;
    let seed = Zeroizing::new(pair.private.to_bytes());
    identity_of_seed(&seed)
}

fn identity_of_seed(seed: &[u8; 32]) -> Result<Zeroizing<String>> {
    let mut hash = Sha512::digest(seed);
    let mut scalar = Zeroizing::new([0u8; 32]);
    scalar.copy_from_slice(&hash[..32]);
    zeroize::Zeroize::zeroize(hash.as_mut_slice());
    scalar[0] &= 248;
    scalar[31] = (scalar[31] & 127) | 64;
    encode("age-secret-key-", scalar.as_slice(), true)
}

fn encode(prefix: &str, bytes: &[u8], upper: bool) -> Result<Zeroizing<String>> {
    let failed = |e: &dyn fmt::Display| Error::failed(format!("can not write a key as bech32: {e}"));
    let prefix = Hrp::parse(prefix).map_err(|e| failed(&e))?;
    let text = if upper {
        bech32::encode_upper::<Bech32>(prefix, bytes)
    } else {
        bech32::encode_lower::<Bech32>(prefix, bytes)
    };
    text.map(Zeroizing::new).map_err(|e| failed(&e))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seed, public line, recipient, identity; how they were made is in the file.
    fn vectors() -> Vec<[&'static str; 4]> {
        let text = include_str!("../tests/fixtures/ssh-to-age-vectors-TEST-FIXTURE.txt");
        let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        lines.chunks(4).map(|four| four.try_into().unwrap()).collect()
    }

    fn seed(hex: &str) -> [u8; 32] {
        std::array::from_fn(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap())
    }

    #[test]
    fn public_and_private_keys_convert_as_an_independent_implementation_does() {
        for [hex, line, recipient, identity] in vectors() {
            let key = HostKey::parse(&format!("{line} root@somewhere\n")).unwrap();
            assert_eq!(key.line(), line);
            assert_eq!(key.recipient().unwrap().as_str(), recipient);
            assert_eq!(identity_of_seed(&seed(hex)).unwrap().as_str(), identity);
            let parsed: age::x25519::Identity = identity.parse().unwrap();
            assert_eq!(
                parsed.to_public().to_string(),
                recipient,
                "the private half opens what the public half locks"
            );
        }
    }

    #[test]
    fn other_keys_are_refused() {
        let rsa = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQC7+Kzr9P0Q8Tz0jqQkX9QX1q8V6G0yH5mZ8f2l6vWzJ3T0l6V8k8v1n1z0m1k2o3p4q5r6s7t8u9v0w1x2y3z4";
        for (line, part) in [
            ("PLACEHOLDER", "not an OpenSSH public key"),
            ("ssh-ed25519 AAAA", "not an OpenSSH public key"),
            ("", "not an OpenSSH public key"),
            (rsa, ""),
        ] {
            let error = HostKey::parse(line).unwrap_err();
            assert!(error.message().contains(part), "{line}: {error:?}");
        }
        let ecdsa = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBMVpt/0WR2UMfWFkIm8VCGgq2Ny9YsHHsWIlpJlBcVwsOJ5VZUS1fYwYhcL7o9hMFxAOPJ/Wd9r0bJmAiKwEPGg=";
        let _ = HostKey::parse(ecdsa).unwrap_err();
        // y = 1: the neutral element, which every secret agrees with.
        let mut neutral = [0u8; 32];
        neutral[0] = 1;
        assert!(HostKey { key: neutral }.recipient().is_err());
    }
}
