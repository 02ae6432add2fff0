//! The text of a new host.

use std::collections::{HashMap, HashSet};

use rnix::SyntaxKind as K;

use super::{
    ORDER,
    layout::{Layout, indent_at},
    tree::{self, Binding, Set},
    written::{Entry, Written, model},
};
use crate::{Error, Result, nix::syntax::Node};

/// Who may log in on a new host.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum AuthorizedKeys {
    /// The keys that the other hosts share: the list that most of them have, else what is in every list. By the same
    /// expression as theirs where that means the same for a new host.
    #[default]
    SameAsOthers,
    /// No list at all.
    Nobody,
    /// These keys, one OpenSSH line each.
    List(Vec<String>),
}

/// A host to be added. What is `None` is not written.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NewHost {
    /// Path of its NixOS configuration relative to `hosts.nix`, such as `./hosts/web/configuration.nix`.
    pub configuration_file: Option<String>,
    /// Path of its home-manager configuration, likewise.
    pub home_file: Option<String>,
    /// Login.
    pub user: Option<String>,
    /// That login's home directory.
    pub home_directory: Option<String>,
    /// Host name.
    pub hostname: Option<String>,
    /// ssh_config alias.
    pub ssh_alias: Option<String>,
    /// File name of its own key.
    pub ssh_key_name: Option<String>,
    /// Public SSH host key.
    pub public_key: Option<String>,
    /// Who may log in.
    pub authorized_keys: AuthorizedKeys,
}

/// Text as a Nix string in double quotes.
pub fn quote_string(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '$' if chars.peek() == Some(&'{') => out.push_str("\\$"),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// Words that can not be attribute names without quotes.
const KEYWORDS: &[&str] = &["assert", "else", "if", "in", "inherit", "let", "or", "rec", "then", "with"];

/// A name as an attribute name, in quotes where it needs them.
pub fn quote_name(name: &str) -> String {
    let plain = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'\''))
        && !KEYWORDS.contains(&name);
    if plain { name.to_owned() } else { quote_string(name) }
}

/// A relative path as Nix writes it.
fn path_literal(path: &str) -> Result<String> {
    let relative = path.strip_prefix("./").unwrap_or(path);
    let part = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b'+'))
    };
    if relative.split('/').all(part) {
        // A path that leads upward needs no dot before it.
        Ok(if relative.starts_with("../") { relative.to_owned() } else { format!("./{relative}") })
    } else {
        Err(Error::usage(format!("'{}' can not be written as a path in Nix", path.escape_debug()))
            .hint("use letters, digits, '-', '_', '+', '.' and single slashes"))
    }
}

/// A new host among these others, its attributes in their order.
pub(super) fn host_entry<'l>(
    text: &str,
    name: &str,
    host: &NewHost,
    others: &[Set<'_>],
    layout: &'l Layout,
) -> Result<Entry<'l>> {
    if name.is_empty() {
        return Err(Error::usage("a host needs a name"));
    }
    let mut attrs: Vec<(&str, Written)> = Vec::new();
    for (attr, path) in [("configurationFile", &host.configuration_file), ("homeFile", &host.home_file)] {
        if let Some(path) = path {
            attrs.push((attr, Written::Text(path_literal(path)?)));
        }
    }
    let texts = [
        ("user", &host.user),
        ("homeDirectory", &host.home_directory),
        ("hostname", &host.hostname),
        ("sshAlias", &host.ssh_alias),
        ("sshKeyName", &host.ssh_key_name),
        ("publicKey", &host.public_key),
    ];
    let quoted = |text: &String| Written::Text(quote_string(text));
    attrs.extend(texts.into_iter().filter_map(|(attr, value)| Some((attr, quoted(value.as_ref()?)))));
    let keys = match &host.authorized_keys {
        // Where nobody has keys a new host has none either.
        AuthorizedKeys::SameAsOthers => shared_keys(text, others),
        AuthorizedKeys::Nobody => None,
        AuthorizedKeys::List(keys) => Some(Written::List(keys.iter().map(|key| quote_string(key)).collect())),
    };
    attrs.extend(keys.map(|keys| ("authorizedKeys", keys)));
    if let Some(model) = model(others) {
        sort_like(&mut attrs, model);
    }
    Ok(Entry::new(text, layout, others, name, attrs))
}

/// What the other hosts have for their keys, as it is written: the expression that more than half of them have, else
/// what all their lists have in common, if that is one name or some of the elements. A guess: whether it comes to the
/// same in a new host is for the proof to say.
fn shared_keys(text: &str, others: &[Set<'_>]) -> Option<Written> {
    let bindings: Vec<&Binding<'_>> = others
        .iter()
        .filter(|other| !other.inherited.iter().any(|n| n == "authorizedKeys"))
        .filter_map(|other| other.bindings.iter().find(|b| b.path == ["authorizedKeys"]))
        .collect();
    let values: Vec<Node<'_>> = bindings.iter().map(|binding| binding.value).collect();
    let source = |node: Node<'_>| &text[node.start() as usize..node.end() as usize];
    let texts = || values.iter().filter(|value| !tree::has_comment(**value)).map(|value| source(*value));
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for text in texts() {
        *counts.entry(text).or_default() += 1;
    }
    // Of equally common ones the first.
    let most = texts().rev().max_by_key(|text| counts.get(*text));
    let most = most.map(|text| (text, counts.get(text).copied().unwrap_or_default()));
    let written = |found: &str| {
        let binding = bindings.iter().find(|b| !tree::has_comment(b.value) && source(b.value) == found);
        binding.map(|binding| copied(text, binding))
    };
    let majority = most.filter(|(_, count)| 2 * count > values.len());
    let common = || {
        let mut filled = values.iter().map(|value| parts(*value)).filter(|parts| !parts.is_empty());
        let mut common: Vec<Part<'_>> = filled.next().unwrap_or_default();
        for other in filled {
            let other: HashSet<(bool, &str)> = other.iter().map(|part| part.shown(text)).collect();
            common.retain(|part| other.contains(&part.shown(text)));
            if common.is_empty() {
                break;
            }
        }
        common
    };
    if let Some((found, _)) = majority {
        return written(found);
    }
    let several = most.filter(|(_, count)| *count > 1).and_then(|(found, _)| written(found));
    match common().as_slice() {
        [Part::Operand(operand)] if !tree::has_comment(*operand) => {
            let indent = indent_at(text, operand.start() as usize).to_owned();
            Some(Written::Copied { text: source(*operand).to_owned(), indent })
        }
        parts => {
            let elements = parts.iter().map(|part| match part {
                Part::Element(element) => Some(source(*element).to_owned()),
                Part::Operand(_) => None,
            });
            elements.collect::<Option<Vec<_>>>().filter(|all| !all.is_empty()).map(Written::List).or(several)
        }
    }
}

/// A value as it is written: with the line break before it, where it begins a line of its own.
fn copied(text: &str, binding: &Binding<'_>) -> Written {
    let (start, end) = (binding.value.start() as usize, binding.value.end() as usize);
    let head = text[binding.start..start].trim_end();
    let begins_line = head.ends_with('=')
        && text[binding.start + head.len()..start].contains('\n')
        && text[end..binding.end].trim() == ";";
    let start = if begins_line { binding.start + head.len() } else { start };
    Written::Copied { text: text[start..end].to_owned(), indent: indent_at(text, binding.start).to_owned() }
}

/// A part of a list.
enum Part<'a> {
    /// An element between its brackets.
    Element(Node<'a>),
    /// What is put together with others by `++`.
    Operand(Node<'a>),
}

impl Part<'_> {
    /// As two of them are compared.
    fn shown<'t>(&self, text: &'t str) -> (bool, &'t str) {
        let (element, node) = match self {
            Part::Element(node) => (true, node),
            Part::Operand(node) => (false, node),
        };
        (element, &text[node.start() as usize..node.end() as usize])
    }
}

/// What a list is put together from, in order.
fn parts(list: Node<'_>) -> Vec<Part<'_>> {
    let (mut parts, mut left) = (Vec::new(), vec![list]);
    while let Some(node) = left.pop() {
        let node = node.unparenthesized();
        match node.kind() {
            K::NODE_LIST => parts.extend(node.nodes().map(Part::Element)),
            K::NODE_BIN_OP if node.token(K::TOKEN_CONCAT).is_some() => {
                let operands: Vec<Node<'_>> = node.nodes().collect();
                left.extend(operands.into_iter().rev());
            }
            _ => parts.push(Part::Operand(node)),
        }
    }
    parts
}

/// Sorts attributes as another host has them; what that one lacks follows what usually goes before it.
fn sort_like(attrs: &mut [(&str, Written)], model: &Set<'_>) {
    let mut order: Vec<&str> =
        model.bindings.iter().filter_map(|b| b.path.first()).map(String::as_str).collect();
    for (rank, name) in ORDER.iter().enumerate() {
        if !order.contains(name) {
            let before = ORDER[..rank].iter().rev().find_map(|n| order.iter().position(|o| o == n));
            order.insert(before.map_or(0, |at| at + 1), name);
        }
    }
    attrs.sort_by_key(|(attr, _)| order.iter().position(|name| name == attr));
}
