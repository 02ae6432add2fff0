//! Files with keys that are not ours to handle (PGP, KMS, key groups): wrapped anew by the `sops` program, on a copy
//! in a directory of its own. What it gives back is checked as our own work is.

use std::path::{Path, PathBuf};

use fleet_core::{
    Error, Result,
    child::{Command, find_program},
    deadline::Deadline,
};
use zeroize::Zeroizing;

use crate::{
    identity::Identity,
    rules::{Rule, Rules},
    sops::{Format, SecretFile},
};

/// Longest wait for one file; a key service or a PIN entry may take its time.
const LIMIT: u64 = 120;

/// The text that `sops updatekeys` makes of a file under these rules. Paths are relative to the repository.
pub(crate) fn rewrap(
    rules_path: &Path,
    rules: &Rules,
    rule: &Rule,
    path: &Path,
    file: &SecretFile,
    identities: &[Identity],
) -> Result<String> {
    let program = find_program("sops").ok_or_else(|| {
        Error::failed("it has keys that only the sops program can handle, and there is none on PATH")
            .hint("install sops (https://getsops.io), or change this file's keys yourself")
    })?;
    let failed =
        |what: &str, e: std::io::Error| Error::failed(format!("can not {what} for sops")).caused_by(e);
    let dir = Copy::new().map_err(|e| failed("make a directory", e))?;
    for (name, text) in [(rules_path, rules.text()), (path, file.text())] {
        let place = dir.0.join(name);
        let parent = place.parent().unwrap_or(&dir.0);
        std::fs::create_dir_all(parent)
            .and_then(|()| std::fs::write(&place, text))
            .map_err(|e| failed("write a copy", e))?;
    }
    let kind = match file.format {
        Format::Yaml => "yaml",
        Format::Json => "json",
        Format::Dotenv => "dotenv",
        Format::Ini => "ini",
    };
    let mut command = Command::new(program)
        .arg("--config")
        .arg(dir.0.join(rules_path))
        .args(["updatekeys", "--yes", "--input-type", kind])
        .arg(dir.0.join(path))
        .dir(&dir.0)
        .env("SOPS_DISABLE_VERSION_CHECK", "true");
    if !identities.is_empty() {
        // More than sops knows of: it does not convert SSH keys. Its own variable is the one way that is neither an
        // argument nor a file; a pipe it would want to read once for each key.
        let mut keys = Zeroizing::new(String::new());
        for identity in identities {
            keys.push_str(&identity.secret_text());
            keys.push('\n');
        }
        command = command.env("SOPS_AGE_KEY", keys.as_str());
    }
    command
        .output(Deadline::secs(LIMIT))?
        .checked()
        .map_err(|e| e.context("sops would not change its keys"))?;
    let after = std::fs::read_to_string(dir.0.join(path)).map_err(|e| failed("read the copy", e))?;
    verify(rule, file, &after)?;
    Ok(after)
}

fn verify(rule: &Rule, file: &SecretFile, after: &str) -> Result<()> {
    let broken = |what: &str| Error::failed(format!("what sops made of it would {what}"));
    let parsed = SecretFile::parse(after.as_bytes())?.ok_or_else(|| broken("be no sops file"))?;
    let mut has: Vec<&str> = parsed.every_key().collect();
    let mut wanted: Vec<&str> = rule.every_key().collect();
    for list in [&mut has, &mut wanted] {
        list.sort_unstable();
        list.dedup();
    }
    if has != wanted || !crate::secrets::same_groups(&parsed, rule) {
        return Err(broken("not have its rule's recipients"));
    }
    let same = (&parsed.metadata.mac, &parsed.metadata.lastmodified, parsed.format)
        == (&file.metadata.mac, &file.metadata.lastmodified, file.format);
    if !same || parsed.values_text() != file.values_text() {
        return Err(broken("change its values"));
    }
    Ok(())
}

/// A directory that is gone with this value.
struct Copy(PathBuf);

impl Copy {
    fn new() -> std::io::Result<Copy> {
        use std::os::unix::fs::DirBuilderExt;
        let mut number = 0u32;
        loop {
            let place = std::env::temp_dir().join(format!("fleet-sops-{}-{number}", std::process::id()));
            match std::fs::DirBuilder::new().mode(0o700).create(&place) {
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists && number < 1000 => number += 1,
                made => return made.map(|()| Copy(place)),
            }
        }
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        // Holds encrypted copies only.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
