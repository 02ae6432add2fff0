//! Values in the clear, for those who hold an identity: what the demo shows, and what tests check.
//!
//! The walk and the checksum are those of sops: every value in the file's order, comments left out, encrypted ones
//! with their path (list positions left out) authenticated. Where sops writes a comment it is not read here.

use std::path::Path;

use fleet_core::{Error, Result};
use saphyr_parser::ScalarStyle;
use serde_json::Value as Json;
use sha2::{Digest, Sha512};
use zeroize::Zeroizing;

use super::{DataKey, Format, SecretFile, cipher};
use crate::{
    identity::Identity,
    yaml::{Data, Node, Stream},
};

/// SHA-256 of "sops": starts the checksum of files whose checksum covers encrypted values only.
const ENCRYPTED_ONLY: [u8; 32] = [
    0x8a, 0x3f, 0xd2, 0xad, 0x54, 0xce, 0x66, 0x52, 0x7b, 0x10, 0x34, 0xf3, 0xd1, 0x47, 0xbe, 0x0b, 0x0b,
    0x97, 0x5b, 0x3b, 0xf4, 0x4f, 0x72, 0xc6, 0xfd, 0xad, 0xec, 0x81, 0x76, 0xf2, 0x7d, 0x69,
];

/// One value in the clear.
pub struct Value {
    /// Keys from the top, list positions as numbers.
    pub path: Vec<String>,
    /// The value as text; wiped from memory when dropped.
    pub text: Zeroizing<String>,
    /// Whether it is encrypted in the file.
    pub encrypted: bool,
}

impl std::fmt::Debug for Value {
    /// Where it is, not what.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Value({})", self.path.join("."))
    }
}

/// A file in the clear.
#[derive(Debug)]
pub struct Decrypted {
    /// Its values, in the file's order.
    pub values: Vec<Value>,
    /// The recipient whose identity opened it.
    pub opened_with: String,
}

impl Decrypted {
    /// The value at this path, keys joined by dots.
    pub fn get(&self, path: &str) -> Option<&str> {
        self.values.iter().find(|value| value.path.join(".") == path).map(|value| value.text.as_str())
    }
}

/// Decrypts every value of the file at `path` with `identity`, and checks its checksum.
pub fn decrypt_file(path: &Path, identity: &Identity) -> Result<Decrypted> {
    let bytes = std::fs::read(path).map_err(|e| Error::io("read", path, e))?;
    decrypt_text(&bytes, identity).map_err(|e| e.context(path.display()))
}

/// As [`decrypt_file`], of a file's bytes.
pub fn decrypt_text(bytes: &[u8], identity: &Identity) -> Result<Decrypted> {
    let file = SecretFile::parse(bytes)?.ok_or_else(|| Error::failed("it carries no sops metadata"))?;
    let (key, identity) = file.data_key(std::slice::from_ref(identity))?;
    let mut walk = Walk {
        key: &key,
        hash: Sha512::new(),
        encrypted_only: file.metadata.mac_only_encrypted,
        values: Vec::new(),
    };
    if walk.encrypted_only {
        walk.hash.update(ENCRYPTED_ONLY);
    }
    match file.format {
        Format::Yaml => walk.yaml(file.text())?,
        Format::Json => walk.json(file.text())?,
        Format::Dotenv => walk.dotenv(file.text())?,
        Format::Ini => walk.ini(file.text())?,
    }
    let sum: String = walk.hash.finalize().iter().map(|byte| format!("{byte:02X}")).collect();
    let mac = cipher::open(&file.metadata.mac, &key, &file.metadata.lastmodified)
        .map_err(|e| e.context("its checksum can not be read"))?;
    if mac.bytes.as_slice() != sum.as_bytes() {
        return Err(Error::failed(
            "its checksum does not fit its values: somebody changed them without sops",
        ));
    }
    Ok(Decrypted { values: walk.values, opened_with: identity.recipient().to_string() })
}

struct Walk<'k> {
    key: &'k DataKey,
    hash: Sha512,
    encrypted_only: bool,
    values: Vec<Value>,
}

impl Walk<'_> {
    fn leaf(&mut self, path: &[String], keys: &[&str], text: &str, canonical: Option<&str>) -> Result<()> {
        if cipher::is_encrypted(text) {
            let belongs_to = format!("{}:", keys.join(":"));
            let plain = cipher::open(text, self.key, &belongs_to).map_err(|e| e.context(path.join(".")))?;
            self.hash.update(plain.bytes.as_slice());
            // Wiped with the value; bytes that are no text are shown as far as they are.
            let text = Zeroizing::new(match std::str::from_utf8(&plain.bytes) {
                Ok(text) if plain.kind == "bool" => text.to_ascii_lowercase(),
                Ok(text) => text.to_owned(),
                Err(_) => String::from_utf8_lossy(&plain.bytes).into_owned(),
            });
            self.values.push(Value { path: path.to_vec(), text, encrypted: true });
        } else {
            if !self.encrypted_only {
                self.hash.update(canonical.unwrap_or(text).as_bytes());
            }
            self.values.push(Value {
                path: path.to_vec(),
                text: Zeroizing::new(text.to_owned()),
                encrypted: false,
            });
        }
        Ok(())
    }

    fn yaml(&mut self, text: &str) -> Result<()> {
        let stream = Stream::parse(text)?;
        for document in &stream.documents {
            for (key, value) in document.entries() {
                if let Some(name) = key.scalar().filter(|name| *name != "sops") {
                    self.node(&stream, value, &mut vec![name.to_owned()], &mut vec![name])?;
                }
            }
        }
        Ok(())
    }

    fn node<'a>(
        &mut self,
        stream: &'a Stream,
        node: &'a Node,
        path: &mut Vec<String>,
        keys: &mut Vec<&'a str>,
    ) -> Result<()> {
        match &stream.resolve(node).data {
            Data::Scalar(text, style) => {
                let plain = *style == ScalarStyle::Plain;
                if plain && matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL") {
                    return Ok(());
                }
                let canonical = if plain { canonical(text) } else { None };
                self.leaf(path, keys, text, canonical.as_deref())
            }
            Data::Seq(items) => {
                for (index, item) in items.iter().enumerate() {
                    path.push(index.to_string());
                    self.node(stream, item, path, keys)?;
                    path.pop();
                }
                Ok(())
            }
            Data::Map(entries) => {
                for (key, value) in entries {
                    let Some(name) = key.scalar() else { continue };
                    path.push(name.to_owned());
                    keys.push(name);
                    self.node(stream, value, path, keys)?;
                    keys.pop();
                    path.pop();
                }
                Ok(())
            }
            Data::Alias { .. } => Ok(()),
        }
    }

    fn json(&mut self, text: &str) -> Result<()> {
        let top: serde_json::Map<String, Json> =
            serde_json::from_str(text).map_err(|e| Error::failed("not valid JSON").caused_by(e))?;
        for (name, value) in top.iter().filter(|(name, _)| *name != "sops") {
            self.json_node(value, &mut vec![name.clone()], &mut vec![name])?;
        }
        Ok(())
    }

    fn json_node<'a>(
        &mut self,
        node: &'a Json,
        path: &mut Vec<String>,
        keys: &mut Vec<&'a str>,
    ) -> Result<()> {
        match node {
            Json::Null => Ok(()),
            Json::String(text) => self.leaf(path, keys, text, None),
            Json::Bool(truth) => {
                self.leaf(path, keys, &truth.to_string(), Some(if *truth { "True" } else { "False" }))
            }
            Json::Number(number) => {
                let text = number.to_string();
                self.leaf(path, keys, &text, number.as_f64().map(|float| float.to_string()).as_deref())
            }
            Json::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    path.push(index.to_string());
                    self.json_node(item, path, keys)?;
                    path.pop();
                }
                Ok(())
            }
            Json::Object(entries) => {
                for (name, value) in entries {
                    path.push(name.clone());
                    keys.push(name);
                    self.json_node(value, path, keys)?;
                    keys.pop();
                    path.pop();
                }
                Ok(())
            }
        }
    }

    fn dotenv(&mut self, text: &str) -> Result<()> {
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((key, value)) = line.split_once('=') else { continue };
            if !key.starts_with("sops_") {
                self.leaf(&[key.to_owned()], &[key], &value.replace("\\n", "\n"), None)?;
            }
        }
        Ok(())
    }

    fn ini(&mut self, text: &str) -> Result<()> {
        let mut section = "DEFAULT";
        for line in text.lines().map(str::trim).filter(|line| !line.starts_with([';', '#'])) {
            if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
                section = name;
                continue;
            }
            let Some((key, value)) = line.split_once('=').map(|(k, v)| (k.trim(), v.trim())) else {
                continue;
            };
            if section != "sops" {
                self.leaf(&[section.to_owned(), key.to_owned()], &[section, key], value, None)?;
            }
        }
        Ok(())
    }
}

/// How sops writes an unencrypted number or truth value into the checksum; `None` when it is just text.
fn canonical(text: &str) -> Option<String> {
    match text {
        "true" | "True" | "TRUE" => return Some("True".to_owned()),
        "false" | "False" | "FALSE" => return Some("False".to_owned()),
        _ => {}
    }
    let number = text.strip_prefix('+').unwrap_or(text);
    if let Ok(whole) = number.parse::<i64>() {
        return Some(whole.to_string());
    }
    let looks = number.starts_with(|c: char| c.is_ascii_digit() || c == '-' || c == '.')
        && number.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'+' | b'e' | b'E'));
    number.parse::<f64>().ok().filter(|_| looks).map(|float| float.to_string())
}
