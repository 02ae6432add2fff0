//! Files encrypted by sops: their metadata, their data key, and the one change made here — the `age` block
//! replaced for other recipients, every other byte kept.
//!
//! The formats are those of sops 3 (`stores/` in its sources): YAML, JSON (binary files are JSON with one `data`
//! key), dotenv and INI, the last two with the metadata flattened into `age__list_0__map_recipient` keys. Which
//! one a file is in is decided by its metadata, not by its name: many secrets have no telling suffix.

mod cipher;
mod decrypt;
mod flat;
pub(crate) mod foreign;
mod json;
mod key;
mod yaml;

use std::{ops::Range, path::Path};

use fleet_core::{Error, Result};

pub use decrypt::{Decrypted, Value, decrypt_file, decrypt_text};
pub use key::DataKey;

/// How a secrets file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// YAML, one or more documents.
    Yaml,
    /// JSON, binary files included.
    Json,
    /// `NAME=value` lines.
    Dotenv,
    /// INI sections.
    Ini,
}

/// One recipient of the data key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgeEntry {
    /// `age1…`.
    pub recipient: String,
    /// The data key, encrypted to the recipient, armoured.
    pub enc: String,
}

/// What a file's `sops` block says, as far as it matters here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Metadata {
    /// Recipients, in the file's order.
    pub age: Vec<AgeEntry>,
    /// Encrypted checksum over all values.
    pub mac: String,
    /// RFC 3339, as written; authenticates the checksum.
    pub lastmodified: String,
    /// Whether only encrypted values are in the checksum.
    pub mac_only_encrypted: bool,
    /// Kinds of other keys that can open the file (`pgp`, `kms`, …), and `key_groups`.
    pub others: Vec<String>,
    /// Names of keys that are no age keys, outside of key groups: `pgp FINGERPRINT`.
    pub foreign: Vec<String>,
    /// Key groups, where there are several: recipients, and names of other keys.
    pub groups: Vec<Vec<String>>,
    /// Which values are encrypted: `encrypted_regex = …` and the like, as written.
    pub selectors: Vec<(String, String)>,
}

/// A file with sops metadata.
#[derive(Debug, Clone)]
pub struct SecretFile {
    /// The whole text.
    text: String,
    /// How it is written.
    pub format: Format,
    /// Its metadata; of the first document where there are several.
    pub metadata: Metadata,
    spots: Vec<Spot>,
}

/// A place that the `age` entries take, and how to write others there.
#[derive(Debug, Clone)]
struct Spot {
    range: Range<usize>,
    layout: Layout,
}

#[derive(Debug, Clone)]
enum Layout {
    Yaml(yaml::Layout),
    Json(json::Layout),
    Flat(flat::Layout),
    /// A place whose entries are written elsewhere.
    Gone,
}

impl SecretFile {
    /// Reads a file's bytes; `None` when they carry no sops metadata. Errors never quote the file.
    pub fn parse(bytes: &[u8]) -> Result<Option<SecretFile>> {
        // Cheap answer for everything that is no secret.
        if !contains(bytes, b"sops")
            || !contains(bytes, b"ENC[AES256_GCM,") && !contains(bytes, b"lastmodified")
        {
            return Ok(None);
        }
        let Ok(text) = std::str::from_utf8(bytes) else { return Ok(None) };
        let found = if text.trim_start().starts_with('{') {
            json::read(text)?.map(|found| (Format::Json, found))
        } else if let Some(found) = flat::read_dotenv(text)? {
            Some((Format::Dotenv, found))
        } else if let Some(found) = flat::read_ini(text)? {
            Some((Format::Ini, found))
        } else {
            yaml::read(text)?.map(|found| (Format::Yaml, found))
        };
        Ok(found.map(|(format, (metadata, spots))| SecretFile {
            text: text.to_owned(),
            format,
            metadata,
            spots,
        }))
    }

    /// Whether a file of this name is one that sops writes, so that not being able to read it is a fault. Any other
    /// (a README that shows a secret, a template) may only look like one.
    pub fn has_usual_name(path: &Path) -> bool {
        const USUAL: [&str; 5] = ["yaml", "yml", "json", "env", "ini"];
        path.extension().is_none_or(|end| USUAL.iter().any(|usual| end.eq_ignore_ascii_case(usual)))
    }

    /// Reads the file at `path`; `None` when it carries no sops metadata.
    pub fn load(path: &Path) -> Result<Option<SecretFile>> {
        let bytes = std::fs::read(path).map_err(|e| Error::io("read", path, e))?;
        SecretFile::parse(&bytes).map_err(|e| e.context(path.display()))
    }

    /// The whole text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The recipients it is encrypted to, in the file's order.
    pub fn recipients(&self) -> impl Iterator<Item = &str> {
        self.metadata.age.iter().map(|entry| entry.recipient.as_str())
    }

    /// As [`SecretFile::recipients`], with the names of other keys and those within key groups.
    pub fn every_key(&self) -> impl Iterator<Item = &str> {
        let others = self.metadata.foreign.iter().chain(self.metadata.groups.iter().flatten());
        self.recipients().chain(others.map(String::as_str))
    }

    /// The text without any sops metadata: the values, as encrypted.
    pub(crate) fn values_text(&self) -> String {
        match self.format {
            Format::Yaml => yaml::values_text(&self.text),
            Format::Json => json::values_text(&self.text),
            Format::Dotenv => flat::values_text(&self.text, "sops_"),
            Format::Ini => flat::values_text(&self.text, ""),
        }
    }

    /// The file's text with these entries in place of its own; no other byte differs.
    pub fn with_entries(&self, entries: &[AgeEntry]) -> Result<String> {
        let mut out = String::with_capacity(self.text.len() + 512 * entries.len());
        let mut at = 0;
        for spot in &self.spots {
            let between = self
                .text
                .get(at..spot.range.start)
                .ok_or_else(|| Error::failed("the sops blocks overlap"))?;
            out.push_str(between);
            match &spot.layout {
                Layout::Yaml(layout) => layout.write(entries, &mut out),
                Layout::Json(layout) => layout.write(entries, &mut out)?,
                Layout::Flat(layout) => layout.write(entries, &mut out),
                Layout::Gone => {}
            }
            at = spot.range.end;
        }
        out.push_str(self.text.get(at..).unwrap_or_default());
        Ok(out)
    }

    /// The text outside of the `age` blocks: what no change of recipients may touch.
    pub fn outside(&self) -> String {
        let mut kept = String::with_capacity(self.text.len());
        let mut at = 0;
        for spot in &self.spots {
            kept.push_str(self.text.get(at..spot.range.start).unwrap_or_default());
            at = spot.range.end;
        }
        kept.push_str(self.text.get(at..).unwrap_or_default());
        kept
    }
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

/// Fills metadata from one `key = value` of a `sops` block; `age` lists are the caller's.
fn take_field(metadata: &mut Metadata, key: &str, value: &str) {
    match key {
        "mac" => value.clone_into(&mut metadata.mac),
        "lastmodified" => value.clone_into(&mut metadata.lastmodified),
        "mac_only_encrypted" => metadata.mac_only_encrypted = value == "true",
        "unencrypted_suffix"
        | "encrypted_suffix"
        | "unencrypted_regex"
        | "encrypted_regex"
        | "unencrypted_comment_regex"
        | "encrypted_comment_regex" => metadata.selectors.push((key.to_owned(), value.to_owned())),
        _ => {}
    }
}

/// Whether a key of a `sops` block holds keys of another kind than age.
fn is_other_keys(key: &str) -> bool {
    matches!(
        key,
        "pgp"
            | "kms"
            | "gcp_kms"
            | "azure_kv"
            | "hc_vault"
            | "hckms"
            | "key_groups"
            | "plugins"
            | "shamir_threshold"
    )
}
