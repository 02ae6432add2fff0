//! What sops itself refuses to read in `.sops.yaml` (its parser is Go's yaml.v3, into typed structures): a key that is
//! given twice, another kind of value than it takes, and what libyaml, which that parser comes from, does not take for
//! YAML. It reads no rule of such a file, so none is edited.

use std::collections::HashMap;

use fleet_core::{Error, Result, authorized_keys::is_private};
use saphyr_parser::ScalarStyle;
use serde::{Deserialize, de::IgnoredAny};

use crate::yaml::{Data, Node, Stream, wrong};

/// Texts of a rule.
const TEXTS: [&str; 8] = [
    "path_regex",
    "aws_profile",
    "unencrypted_suffix",
    "encrypted_suffix",
    "unencrypted_regex",
    "encrypted_regex",
    "unencrypted_comment_regex",
    "encrypted_comment_regex",
];

/// Lists of mappings in a group, for the keys of clouds.
const MAPPINGS: [&str; 4] = ["kms", "gcp_kms", "azure_keyvault", "hckms"];

/// Lists of texts in a group.
const LISTS: [&str; 3] = ["age", "pgp", "hc_vault"];

/// What sops knows in the file itself.
pub(super) const OF_FILE: [&str; 3] = ["creation_rules", "destination_rules", "stores"];

/// What it knows in a rule.
pub(super) fn of_rule() -> impl Iterator<Item = &'static str> {
    let others =
        ["key_groups", "shamir_threshold", "mac_only_encrypted", "age", "pgp", "hc_vault_transit_uri"];
    TEXTS.into_iter().chain(MAPPINGS).chain(others)
}

/// What it knows in a group of `key_groups`.
pub(super) fn of_group() -> impl Iterator<Item = &'static str> {
    MAPPINGS.into_iter().chain(LISTS).chain(["merge"])
}

/// A private key is no recipient and belongs in no such file: nothing is done with one, so that nobody is shown it.
pub(super) fn no_private_key(node: &Node) -> Result<()> {
    if node.scalar().is_some_and(is_private) {
        return Err(node
            .wrong("a private key, with which everybody who has this file opens the secrets")
            .hint("write its public half, which `age-keygen -y` prints, and make a new key in place of this one"));
    }
    node.items().iter().try_for_each(no_private_key)?;
    node.entries().iter().flat_map(|(key, value)| [key, value]).try_for_each(no_private_key)
}

/// Whether sops's parser reads the text, as far as it reads: to the end of the first document.
pub(super) fn text(text: &str) -> Result<()> {
    for (number, line) in text.lines().enumerate() {
        let line = line.trim_start_matches('\u{feff}');
        let version = line.strip_prefix("%YAML").map(str::trim);
        if let Some(version) =
            version.filter(|version| version.split('#').next().map(str::trim) != Some("1.1"))
        {
            return Err(wrong(number + 1, 0, format!("YAML {version} is asked for: sops reads 1.1 only")));
        }
        if !(line.starts_with(['%', '#']) || line.trim().is_empty()) {
            break;
        }
    }
    let text = text.trim_start_matches('\u{feff}');
    let Some(first) = serde_yaml::Deserializer::from_str(text).next() else { return Ok(()) };
    match IgnoredAny::deserialize(first) {
        Ok(_) => Ok(()),
        Err(error) => {
            let (line, column) = error.location().map_or((1, 1), |at| (at.line(), at.column()));
            let said = error.to_string();
            let said = said.split(" at line ").next().unwrap_or_default();
            Err(wrong(line, column.saturating_sub(1), format!("sops can not read this: {said}")))
        }
    }
}

/// The file itself: a mapping.
pub(super) fn file(stream: &Stream, root: &Node) -> Result<()> {
    if is_null(root) {
        return Ok(());
    }
    mapping(stream, root, "the file")?;
    list(stream, root, "destination_rules", |item| mapping(stream, item, "a destination rule"))?;
    let Some(stores) = stream.get(root, "stores").filter(|stores| !is_null(stores)) else { return Ok(()) };
    mapping(stream, stores, "stores")?;
    for name in ["yaml", "json", "json_binary"] {
        let Some(store) = stream.get(stores, name).filter(|store| !is_null(store)) else { continue };
        mapping(stream, store, &format!("stores.{name}"))?;
        number(stream, store, "indent")?;
    }
    Ok(())
}

/// A creation rule.
pub(super) fn rule(stream: &Stream, node: &Node) -> Result<()> {
    mapping(stream, node, "a creation rule")?;
    for name in TEXTS {
        if let Some(value) = stream.get(node, name)
            && value.scalar().is_none()
        {
            let error = value.wrong(format!("{name} is no text"));
            return Err(if name == "path_regex" {
                error.hint("one expression for all: `a|b`")
            } else {
                error
            });
        }
    }
    number(stream, node, "shamir_threshold")?;
    if let Some(value) = stream.get(node, "mac_only_encrypted").filter(|value| !is_null(value))
        && !plain(value).is_some_and(is_truth)
    {
        return Err(value.wrong("mac_only_encrypted is neither true nor false"));
    }
    list(stream, node, "hckms", |item| scalar(item, "hckms"))?;
    // In the rule itself sops takes them as they come, and wants texts; in a group it makes texts of them.
    for item in stream.get(node, "age").map(Node::items).unwrap_or_default() {
        let item = stream.resolve(item);
        if plain(item).is_some_and(|text| item.is_nothing() || is_truth(text) || text.parse::<f64>().is_ok())
        {
            return Err(item.wrong("an element of age is no text"));
        }
        if item.is_nothing() {
            return Err(item.wrong("an element of age is an empty text"));
        }
    }
    list(stream, node, "key_groups", |item| group(stream, item, 0))
}

/// A group of `key_groups`: a mapping, its keys in lists.
fn group(stream: &Stream, node: &Node, depth: usize) -> Result<()> {
    if depth > 20 {
        return Err(node.wrong("merged too deep"));
    }
    mapping(stream, node, "a group of key_groups")?;
    if let Some(age) = stream.get(node, "age").filter(|age| !is_null(age))
        && !matches!(age.data, Data::Seq(_))
    {
        return Err(age
            .wrong("age of a group in key_groups is not a list: sops takes a text in the rule itself only"));
    }
    // What a list in the list is, is said where that is read.
    for name in LISTS {
        list(stream, node, name, |item| match item.data {
            Data::Seq(_) if name == "age" => Ok(()),
            _ => scalar(item, name),
        })?;
    }
    for name in MAPPINGS {
        list(stream, node, name, |item| mapping(stream, item, &format!("an element of {name}")))?;
    }
    list(stream, node, "merge", |item| group(stream, item, depth + 1))
}

/// A mapping in which no key is given twice, and what is merged into it is one too.
fn mapping(stream: &Stream, node: &Node, what: &str) -> Result<()> {
    if is_null(node) {
        return Ok(());
    }
    if !matches!(node.data, Data::Map(_)) {
        return Err(node.wrong(format!("{what} is not a mapping")));
    }
    let mut lines: HashMap<&str, usize> = HashMap::new();
    for (key, value) in node.entries() {
        if let Data::Alias { name, .. } = &key.data {
            return Err(key.wrong(format!("*{name} in the place of a name: write out what it stands for")));
        }
        let Some(name) = key.scalar() else { return Err(key.wrong("a name that is no text")) };
        if let Some(line) = lines.insert(name, key.line) {
            return Err(key
                .wrong(format!("'{name}' is given twice, on line {line} already: sops reads no such file")));
        }
        if name == "<<" && !key.flow {
            let value = stream.resolve(value);
            let merged = match &value.data {
                Data::Seq(several) => several.iter().map(|one| stream.resolve(one)).collect(),
                _ => vec![value],
            };
            if let Some(other) = merged.into_iter().find(|one| !matches!(one.data, Data::Map(_))) {
                return Err(other.wrong("what `<<` merges is not a mapping"));
            }
        }
    }
    Ok(())
}

/// The list `name` of `map`, if it is there, each of its elements by `each`.
fn list(stream: &Stream, map: &Node, name: &str, each: impl Fn(&Node) -> Result<()>) -> Result<()> {
    let Some(list) = stream.get(map, name).filter(|list| !is_null(list)) else { return Ok(()) };
    if !matches!(list.data, Data::Seq(_)) {
        return Err(list
            .wrong(format!("{name} is not a list"))
            .hint("each element begins with `- `, or all stand in `[…]`"));
    }
    list.items().iter().map(|item| stream.resolve(item)).filter(|item| !is_null(item)).try_for_each(each)
}

fn scalar(node: &Node, list: &str) -> Result<()> {
    let wrong = || -> Error { node.wrong(format!("an element of {list} is no text")) };
    node.scalar().map(drop).ok_or_else(wrong)
}

fn number(stream: &Stream, map: &Node, name: &str) -> Result<()> {
    match stream.get(map, name).filter(|value| !is_null(value)) {
        Some(value) if plain(value).is_none_or(|text| text.parse::<i64>().is_err()) => {
            Err(value.wrong(format!("{name} is no number")))
        }
        _ => Ok(()),
    }
}

/// What a scalar says that is in no quotes: only such a one is a number, or true or false.
fn plain(node: &Node) -> Option<&str> {
    match &node.data {
        Data::Scalar(text, ScalarStyle::Plain) => Some(text),
        _ => None,
    }
}

/// Whether this is true or false in YAML 1.1: in small letters, in capitals, or the first of them.
fn is_truth(text: &str) -> bool {
    let small = text.to_ascii_lowercase();
    let rest = text.get(1..).unwrap_or_default();
    let alike = rest == rest.to_ascii_lowercase() || text == text.to_ascii_uppercase();
    alike && ["true", "false", "yes", "no", "on", "off", "y", "n"].contains(&small.as_str())
}

/// Nothing, or null.
fn is_null(node: &Node) -> bool {
    node.scalar().is_some() && !node.flow && node.is_nothing()
}
