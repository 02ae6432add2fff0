//! The `sops` block of JSON files, binary secrets included.

use fleet_core::{Error, Result};
use indexmap::IndexMap;
use serde_json::value::RawValue;

use super::{AgeEntry, Metadata, Spot, foreign, is_other_keys, take_field};
use crate::yaml::wrong;

/// How the `age` array is written.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    /// What one level is indented by; `None` for a file on one line.
    unit: Option<String>,
    newline: &'static str,
}

/// Levels that the `age` key is deep.
const DEPTH: usize = 2;

impl Layout {
    pub(super) fn write(&self, entries: &[AgeEntry], out: &mut String) -> Result<()> {
        let quoted = |text: &str| {
            serde_json::to_string(text).map_err(|e| Error::failed("can not write JSON").caused_by(e))
        };
        let line = |out: &mut String, depth: usize| {
            if let Some(unit) = &self.unit {
                out.push_str(self.newline);
                out.push_str(&unit.repeat(DEPTH + depth));
            }
        };
        let colon = if self.unit.is_some() { ": " } else { ":" };
        out.push('[');
        for (index, entry) in entries.iter().enumerate() {
            if index > 0 {
                out.push(',');
            }
            line(out, 1);
            out.push('{');
            line(out, 2);
            out.push_str(&format!("\"recipient\"{colon}{},", quoted(&entry.recipient)?));
            line(out, 2);
            out.push_str(&format!("\"enc\"{colon}{}", quoted(&entry.enc)?));
            line(out, 1);
            out.push('}');
        }
        if !entries.is_empty() {
            line(out, 0);
        }
        out.push(']');
        Ok(())
    }
}

type Object<'a> = IndexMap<String, &'a RawValue>;

/// `None` when the top object has no sops block.
pub(super) fn read(text: &str) -> Result<Option<(Metadata, Vec<Spot>)>> {
    let top = match serde_json::from_str::<Object<'_>>(text) {
        Ok(top) => top,
        // Damaged, or with the marks of a merge in it.
        Err(e) if text.contains("\"sops\":") && text.contains("\"mac\":") => {
            return Err(wrong(e.line(), e.column().saturating_sub(1), "not valid JSON"));
        }
        // Starts with a brace but is no JSON object: a template, a flow mapping. No secret that sops wrote.
        Err(_) => return Ok(None),
    };
    let Some(block) = top.get("sops").and_then(|raw| serde_json::from_str::<Object<'_>>(raw.get()).ok())
    else {
        return Ok(None);
    };
    if !block.contains_key("mac") && !block.contains_key("lastmodified") {
        return Ok(None);
    }
    #[derive(serde::Deserialize)]
    struct Entry {
        recipient: String,
        enc: String,
    }
    let mut metadata = Metadata::default();
    let mut spots = Vec::new();
    for (key, raw) in &block {
        let value = raw.get();
        if key == "age" {
            let entries: Option<Vec<Entry>> = serde_json::from_str(value)
                .map_err(|e| Error::failed("the age block is not as sops writes it").caused_by(e))?;
            let entries = entries.unwrap_or_default();
            metadata.age =
                entries.into_iter().map(|e| AgeEntry { recipient: e.recipient, enc: e.enc }).collect();
            // The raw value borrows from the text: its address tells its place.
            let start = (value.as_ptr() as usize).wrapping_sub(text.as_ptr() as usize);
            if text.get(start..start + value.len()) != Some(value) {
                return Err(Error::failed("can not tell where the age block is"));
            }
            spots.push(Spot {
                range: start..start + value.len(),
                layout: super::Layout::Json(layout_of(text, start)),
            });
        } else if is_other_keys(key) {
            if !matches!(value, "null" | "[]" | "{}" | "\"\"" | "0" | "1") {
                metadata.others.push(key.clone());
            }
            let value: serde_json::Value = serde_json::from_str(value).unwrap_or_default();
            if key == "key_groups" {
                metadata.groups = value.as_array().into_iter().flatten().map(group_of).collect();
            } else {
                metadata.foreign.extend(names_of(key, &value));
            }
        } else if let Ok(text) = serde_json::from_str::<String>(value) {
            take_field(&mut metadata, key, &text);
        } else {
            take_field(&mut metadata, key, value);
        }
    }
    Ok(Some((metadata, spots)))
}

/// Names of the keys of one kind.
fn names_of(kind: &str, list: &serde_json::Value) -> Vec<String> {
    let field = |item: &serde_json::Value, name: &str| item.get(name)?.as_str().map(str::to_owned);
    let name = |item: &serde_json::Value| match kind {
        "age" => field(item, "recipient"),
        _ => foreign::of_fields(kind, |name| field(item, name)),
    };
    list.as_array().into_iter().flatten().filter_map(name).collect()
}

fn group_of(group: &serde_json::Value) -> Vec<String> {
    let kinds = group.as_object().into_iter().flatten();
    kinds.flat_map(|(kind, list)| names_of(kind, list)).collect()
}

/// The other keys' values, as written.
pub(super) fn values_text(text: &str) -> String {
    let top: Object<'_> = serde_json::from_str(text).unwrap_or_default();
    top.iter()
        .filter(|(key, _)| *key != "sops")
        .map(|(key, raw)| format!("{key:?}:{}\n", raw.get()))
        .collect()
}

fn layout_of(text: &str, age: usize) -> Layout {
    let newline = if text.contains("\r\n") { "\r\n" } else { "\n" };
    let before = &text[..age];
    let line = &before[before.rfind('\n').map_or(0, |at| at + 1)..];
    let indent: String = line.chars().take_while(|c| matches!(c, ' ' | '\t')).collect();
    let own_line = before.contains('\n') && line[indent.len()..].starts_with("\"age\"");
    let unit = own_line.then(|| indent.chars().take(indent.chars().count() / DEPTH).collect());
    Layout { unit, newline }
}
