//! dotenv and INI files, whose `sops` block is flattened: `age__list_0__map_recipient`, in dotenv with `sops_`
//! in front, in INI in a section `[sops]`.

use std::{collections::BTreeMap, ops::Range};

use fleet_core::{Error, Result};

use super::{AgeEntry, Metadata, Spot, foreign, is_other_keys, take_field};

/// How the lines of the `age` list are written.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    prefix: &'static str,
    /// Column of `=` in an aligned INI file; `None` for `key=value`.
    equals: Option<usize>,
    newline: &'static str,
}

impl Layout {
    /// Whole lines, in the order in which sops sorts them.
    pub(super) fn write(&self, entries: &[AgeEntry], out: &mut String) {
        let mut lines = BTreeMap::new();
        for (index, entry) in entries.iter().enumerate() {
            lines.insert(format!("age__list_{index}__map_enc"), entry.enc.replace('\n', "\\n"));
            lines.insert(format!("age__list_{index}__map_recipient"), entry.recipient.clone());
        }
        for (key, value) in lines {
            out.push_str(self.prefix);
            out.push_str(&key);
            match self.equals {
                Some(column) => {
                    out.extend(std::iter::repeat_n(' ', column.saturating_sub(key.len()).max(1)));
                    out.push_str("= ");
                }
                None => out.push('='),
            }
            out.push_str(&value);
            out.push_str(self.newline);
        }
    }
}

/// A line `key = value` of the block, and where it is with its line break.
struct Line<'t> {
    key: &'t str,
    value: &'t str,
    range: Range<usize>,
    equals: usize,
}

fn lines(text: &str) -> impl Iterator<Item = (Range<usize>, &str)> {
    let mut at = 0;
    text.split_inclusive('\n').map(move |line| {
        let range = at..at + line.len();
        at = range.end;
        (range, line.trim_end_matches(['\r', '\n']))
    })
}

pub(super) fn read_dotenv(text: &str) -> Result<Option<(Metadata, Vec<Spot>)>> {
    let mut found = Vec::new();
    for (range, line) in lines(text) {
        let Some((key, value)) = line.strip_prefix("sops_").and_then(|rest| rest.split_once('=')) else {
            continue;
        };
        found.push(Line { key, value, range, equals: 0 });
    }
    if !found.iter().any(|line| matches!(line.key, "mac" | "lastmodified")) {
        return Ok(None);
    }
    block(text, &found, "sops_", false).map(Some)
}

pub(super) fn read_ini(text: &str) -> Result<Option<(Metadata, Vec<Spot>)>> {
    let mut inside = false;
    let mut found = Vec::new();
    for (range, line) in lines(text) {
        let bare = line.trim();
        if bare.starts_with('[') && bare.ends_with(']') {
            inside = bare == "[sops]";
            continue;
        }
        if !inside || bare.starts_with([';', '#']) {
            continue;
        }
        let Some((key, value)) = line.split_once('=') else { continue };
        found.push(Line { key: key.trim(), value: value.trim(), range, equals: key.len() });
    }
    if !found.iter().any(|line| matches!(line.key, "mac" | "lastmodified")) {
        return Ok(None);
    }
    block(text, &found, "", true).map(Some)
}

fn block(text: &str, found: &[Line<'_>], prefix: &'static str, ini: bool) -> Result<(Metadata, Vec<Spot>)> {
    let mut metadata = Metadata::default();
    let mut entries: BTreeMap<usize, (Option<String>, Option<String>)> = BTreeMap::new();
    // Keys of other kinds and those in key groups: `pgp__list_0`, `key_groups__list_1__map_age__list_0`.
    let mut others: BTreeMap<&str, BTreeMap<&str, &str>> = BTreeMap::new();
    let mut spots: Vec<Spot> = Vec::new();
    let aligned = found.first().map(|line| line.equals).filter(|_| ini);
    let newline = if text.contains("\r\n") { "\r\n" } else { "\n" };
    for line in found {
        if let Some((index, field)) = age_field(line.key) {
            let entry = entries.entry(index).or_default();
            match field {
                "recipient" => entry.0 = Some(line.value.to_owned()),
                "enc" => entry.1 = Some(line.value.replace("\\n", "\n")),
                _ => return Err(Error::failed(format!("an age entry with an unknown field '{field}'"))),
            }
            let layout = if spots.is_empty() {
                super::Layout::Flat(Layout { prefix, equals: aligned, newline })
            } else {
                super::Layout::Gone
            };
            spots.push(Spot { range: line.range.clone(), layout });
            continue;
        }
        let kind = line.key.split("__").next().unwrap_or_default();
        if is_other_keys(kind) {
            let nothing = matches!(line.value, "" | "[]" | "null")
                || kind == "shamir_threshold" && matches!(line.value, "0" | "1");
            if let Some((entry, field)) = line.key.rsplit_once("__map_") {
                others.entry(entry).or_default().insert(field, line.value);
            }
            if !nothing && !metadata.others.iter().any(|k| k == kind) {
                metadata.others.push(kind.to_owned());
            }
        } else {
            take_field(&mut metadata, line.key, line.value);
        }
    }
    for (_, entry) in entries {
        match entry {
            (Some(recipient), Some(enc)) => metadata.age.push(AgeEntry { recipient, enc }),
            _ => return Err(Error::failed("an age entry without its recipient or its key")),
        }
    }
    let mut groups: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (entry, fields) in others {
        let (group, entry) =
            match entry.strip_prefix("key_groups__list_").and_then(|e| e.split_once("__map_")) {
                Some((group, entry)) => (Some(group), entry),
                None => (None, entry),
            };
        let field = |name: &str| fields.get(name).map(|value| (*value).to_owned());
        let kind = entry.split("__").next().unwrap_or_default();
        let name = if kind == "age" { field("recipient") } else { foreign::of_fields(kind, field) };
        match (group, name) {
            (Some(group), Some(name)) => groups.entry(group).or_default().push(name),
            (None, Some(name)) => metadata.foreign.push(name),
            (_, None) => {}
        }
    }
    // Ten groups are more than anybody has: their numbers sort as texts.
    metadata.groups = groups.into_values().collect();
    Ok((metadata, spots))
}

/// The lines that are no metadata; without a prefix those outside of the section `[sops]`.
pub(super) fn values_text(text: &str, prefix: &str) -> String {
    let mut inside = false;
    let mut kept = String::new();
    for line in text.split_inclusive('\n') {
        if prefix.is_empty() && line.starts_with('[') {
            inside = line.trim_end() == "[sops]";
        }
        if !inside && (prefix.is_empty() || !line.starts_with(prefix)) {
            kept.push_str(line);
        }
    }
    kept
}

/// Index and field of `age__list_3__map_enc`.
fn age_field(key: &str) -> Option<(usize, &str)> {
    let (index, field) = key.strip_prefix("age__list_")?.split_once("__map_")?;
    Some((index.parse().ok()?, field))
}
