//! SSH keys of the simulated machines.

use anyhow::{Context, Result};
use russh::keys::{
    PrivateKey, PublicKey,
    ssh_key::{LineEnding, private::Ed25519Keypair},
};

/// A fresh ed25519 key as OpenSSH text.
pub fn generate(comment: &str) -> Result<String> {
    let mut seed = [0u8; 32];
    getrandom::fill(&mut seed).context("the system gives no random bytes")?;
    let mut key = PrivateKey::from(Ed25519Keypair::from_seed(&seed));
    key.set_comment(comment);
    Ok(key.to_openssh(LineEnding::LF).context("can not write a key")?.to_string())
}

/// Reads a private key. Lines before it (a fixture says there what it is) are skipped.
pub fn parse(text: &str) -> Result<PrivateKey> {
    let start = text.find("-----BEGIN").unwrap_or(0);
    PrivateKey::from_openssh(&text.as_bytes()[start..]).context("not an OpenSSH private key")
}

/// The public half, one line without a comment.
pub fn public_line(private: &str) -> Result<String> {
    let key = parse(private)?;
    let mut public = key.public_key().clone();
    public.set_comment("");
    Ok(public.to_openssh().context("can not write a public key")?.trim().to_owned())
}

/// Whether `key` is one of these `authorized_keys` lines.
pub fn is_authorized(lines: &[String], key: &PublicKey) -> bool {
    lines
        .iter()
        .filter_map(|line| PublicKey::from_openssh(line.trim()).ok())
        .any(|authorized| authorized.key_data() == key.key_data())
}

/// Random bytes as hexadecimal digits.
pub fn random_hex(bytes: usize) -> String {
    let mut buffer = vec![0u8; bytes];
    // Without random bytes the names are only less varied.
    let _ = getrandom::fill(&mut buffer);
    buffer.iter().map(|b| format!("{b:02x}")).collect()
}

/// A random UUID, version 4.
pub fn uuid() -> String {
    let hex = random_hex(16);
    format!("{}-{}-4{}-a{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..])
}

/// A random MAC address with Proxmox's prefix.
pub fn mac() -> String {
    let hex = random_hex(3).to_ascii_uppercase();
    format!("BC:24:11:{}:{}:{}", &hex[..2], &hex[2..4], &hex[4..])
}
