//! The `sops` block of YAML files: one in each document, all alike.

use fleet_core::Result;
use saphyr_parser::ScalarStyle;

use super::{AgeEntry, Metadata, Spot, foreign, is_other_keys, take_field};
use crate::yaml::{Data, Node, Stream};

/// How the `age` list of one document is indented.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    /// Column of the dashes.
    dash: usize,
    /// Column of the text of `enc`.
    text: usize,
    /// Columns from the dash to its keys.
    step: usize,
    newline: &'static str,
    /// Whether the list starts on the line of its key and needs a line break first.
    on_key_line: bool,
}

impl Layout {
    /// Writes from the first dash to the last byte of the last item, without a line break.
    pub(super) fn write(&self, entries: &[AgeEntry], out: &mut String) {
        let indent = |out: &mut String, columns: usize| out.extend(std::iter::repeat_n(' ', columns));
        if entries.is_empty() {
            out.push_str("[]");
            return;
        }
        for (index, entry) in entries.iter().enumerate() {
            if index > 0 || self.on_key_line {
                out.push_str(self.newline);
                indent(out, self.dash);
            }
            out.push('-');
            indent(out, self.step - 1);
            out.push_str("recipient: ");
            out.push_str(&entry.recipient);
            out.push_str(self.newline);
            indent(out, self.dash + self.step);
            out.push_str("enc: |");
            for line in entry.enc.lines() {
                out.push_str(self.newline);
                indent(out, self.text);
                out.push_str(line);
            }
        }
    }
}

/// The block of each document; `None` when the last key of the first document is no sops block.
pub(super) fn read(text: &str) -> Result<Option<(Metadata, Vec<Spot>)>> {
    if !text
        .lines()
        .any(|line| line.trim_start_matches(['{', ' ']).starts_with("sops:") || line.starts_with("\"sops\""))
    {
        return Ok(None);
    }
    let stream = Stream::parse(text)?;
    let mut first: Option<Metadata> = None;
    let mut spots = Vec::new();
    for document in &stream.documents {
        let Some((key, block)) = document.entries().iter().rev().find(|(k, _)| k.scalar() == Some("sops"))
        else {
            if first.is_some() {
                return Err(document.wrong("a document without its sops block"));
            }
            continue;
        };
        if !block.entries().iter().any(|(k, _)| matches!(k.scalar(), Some("mac" | "lastmodified"))) {
            continue;
        }
        let (metadata, spot) = block_of(text, key, block)?;
        match &first {
            None => first = Some(metadata),
            Some(first) if first.age == metadata.age && first.mac == metadata.mac => {}
            Some(_) => {
                return Err(key.wrong("the documents' sops blocks differ"));
            }
        }
        spots.extend(spot);
    }
    Ok(first.map(|metadata| (metadata, spots)))
}

fn block_of(text: &str, sops_key: &Node, block: &Node) -> Result<(Metadata, Option<Spot>)> {
    let mut metadata = Metadata::default();
    let mut spot = None;
    for (key, value) in block.entries() {
        let Some(name) = key.scalar() else { continue };
        if name == "age" {
            if block.flow {
                return Err(sops_key.wrong("a sops block in flow style"));
            }
            for item in value.items() {
                let field = |name: &str| item.get(name).and_then(Node::scalar).map(str::to_owned);
                match (field("recipient"), field("enc")) {
                    (Some(recipient), Some(enc)) => metadata.age.push(AgeEntry { recipient, enc }),
                    _ => {
                        return Err(item.wrong("an age entry without its key"));
                    }
                }
            }
            spot = Some(Spot {
                range: range_of(value),
                layout: super::Layout::Yaml(layout_of(text, sops_key, key, value)),
            });
        } else if is_other_keys(name) {
            let nothing = name == "shamir_threshold" && matches!(value.scalar(), Some("0" | "1"));
            if !(nothing || value.is_nothing()) {
                metadata.others.push(name.to_owned());
            }
            if name == "key_groups" {
                metadata.groups = value.items().iter().map(group_of).collect();
            } else {
                metadata.foreign.extend(names_of(name, value));
            }
        } else if let Some(value) = value.scalar() {
            take_field(&mut metadata, name, value);
        }
    }
    Ok((metadata, spot))
}

/// Names of the keys of one kind.
fn names_of(kind: &str, list: &Node) -> Vec<String> {
    let field = |item: &Node, name: &str| item.get(name).and_then(Node::scalar).map(str::to_owned);
    let name = |item: &Node| match kind {
        "age" => field(item, "recipient"),
        _ => foreign::of_fields(kind, |name| field(item, name)),
    };
    list.items().iter().filter_map(name).collect()
}

fn group_of(group: &Node) -> Vec<String> {
    let kinds = group.entries().iter().filter_map(|(key, value)| Some((key.scalar()?, value)));
    kinds.flat_map(|(kind, value)| names_of(kind, value)).collect()
}

/// The text without the `sops` blocks, which sops writes as the last key of each document.
pub(super) fn values_text(text: &str) -> String {
    let mut inside = false;
    let mut kept = String::new();
    for line in text.split_inclusive('\n') {
        let top = !line.starts_with([' ', '\t', '-', '#', '\r', '\n']) || line.starts_with("---");
        if top {
            inside = line.starts_with("sops:");
        }
        if !inside {
            kept.push_str(line);
        }
    }
    kept
}

fn range_of(value: &Node) -> std::ops::Range<usize> {
    value.start..value.end
}

fn layout_of(text: &str, sops_key: &Node, key: &Node, value: &Node) -> Layout {
    let newline = if text[..value.end].contains("\r\n") { "\r\n" } else { "\n" };
    let unit = key.column.saturating_sub(sops_key.column).max(2);
    match value.items().first() {
        Some(item) if !value.flow => {
            let step = item.column.saturating_sub(value.column).max(2);
            let enc_column = item
                .get("enc")
                .filter(|enc| {
                    matches!(enc.data, Data::Scalar(_, ScalarStyle::Literal)) && enc.column > item.column
                })
                .map(|enc| enc.column);
            let dash = value.column;
            Layout { dash, step, text: enc_column.unwrap_or(dash + step + 2), newline, on_key_line: false }
        }
        _ => {
            let dash = key.column + unit;
            Layout { dash, step: 2, text: dash + 4, newline, on_key_line: true }
        }
    }
}
