//! What sops itself refuses to read in `.sops.yaml` (its parser is Go's yaml.v3, into typed structures): a key that is
//! given twice, and another kind of value than it takes. It reads no rule of such a file, so none is edited.

use std::collections::HashMap;

use fleet_core::Result;

use crate::yaml::{Data, Node, Stream};

/// A mapping in which no key is given twice.
pub(super) fn said_once(map: &Node) -> Result<()> {
    let mut lines: HashMap<&str, usize> = HashMap::new();
    for key in map.entries().iter().map(|(key, _)| key) {
        let Some(name) = key.scalar() else { continue };
        if let Some(line) = lines.insert(name, key.line) {
            return Err(key
                .wrong(format!("'{name}' is given twice, on line {line} already: sops reads no such file")));
        }
    }
    Ok(())
}

/// A creation rule: `path_regex` is a text, `key_groups` a list of mappings.
pub(super) fn rule(stream: &Stream, node: &Node) -> Result<()> {
    said_once(node)?;
    if let Some(regex) = stream.get(node, "path_regex")
        && regex.scalar().is_none()
    {
        return Err(regex.wrong("path_regex is no text"));
    }
    let Some(groups) = stream.get(node, "key_groups").filter(|groups| !groups.is_nothing()) else {
        return Ok(());
    };
    if !matches!(groups.data, Data::Seq(_)) {
        return Err(groups.wrong("key_groups is not a list"));
    }
    groups.items().iter().try_for_each(|item| group(stream, stream.resolve(item)))
}

/// A group of `key_groups`: a mapping, its `age` a list.
fn group(stream: &Stream, node: &Node) -> Result<()> {
    if node.is_nothing() {
        return Ok(());
    }
    if !matches!(node.data, Data::Map(_)) {
        return Err(node.wrong("a group of key_groups is not a mapping"));
    }
    said_once(node)?;
    match stream.get(node, "age").filter(|age| !age.is_nothing()) {
        Some(age) if !matches!(age.data, Data::Seq(_)) => Err(age
            .wrong("age of a group in key_groups is not a list: sops takes a text in the rule itself only")),
        _ => Ok(()),
    }
}
