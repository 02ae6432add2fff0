//! The text of a new host.

use std::collections::HashMap;

use super::{
    ORDER,
    layout::Layout,
    tree::{self, Set, set_of},
};
use crate::{Error, Result};

use rnix::SyntaxKind as K;

/// Who may log in on a new host.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum AuthorizedKeys {
    /// The same expression as the other hosts have, or none where they have none.
    #[default]
    SameAsOthers,
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
        Ok(format!("./{relative}"))
    } else {
        Err(Error::usage(format!("'{}' can not be written as a path in Nix", path.escape_debug()))
            .hint("use letters, digits, '-', '_', '+', '.' and single slashes"))
    }
}

/// How long a line `nixfmt` writes.
const WIDTH: usize = 100;

/// What stands in the line of a single key beside it.
const KEYS_IN_LINE: usize = "authorizedKeys = [  ];".len();

/// The whole entry, from its name to its semicolon.
pub(super) fn entry_text(
    text: &str,
    name: &str,
    host: &NewHost,
    set: &Set<'_>,
    layout: &Layout,
) -> Result<String> {
    if name.is_empty() {
        return Err(Error::usage("a host needs a name"));
    }
    let others: Vec<Set<'_>> = set
        .bindings
        .iter()
        .filter(|b| b.path.len() == 1)
        .map(|b| b.value.unparenthesized())
        .filter(|value| value.kind() == K::NODE_ATTR_SET)
        .filter_map(set_of)
        .collect();
    let mut attrs: Vec<(&str, String)> = Vec::new();
    for (attr, path) in [("configurationFile", &host.configuration_file), ("homeFile", &host.home_file)] {
        if let Some(path) = path {
            attrs.push((attr, path_literal(path)?));
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
    attrs.extend(texts.into_iter().filter_map(|(attr, value)| Some((attr, quote_string(value.as_deref()?)))));
    // The other hosts show how theirs are written.
    let model = others.iter().rev().max_by_key(|other| other.bindings.len());
    // `alejandra` and `nixfmt` leave no set of several attributes on one line: where no other host is one, neither is
    // this one.
    let one_line = layout.one_line
        || (others.iter().any(|other| other.items.len() > 1)
            && others.iter().all(|other| !text[other.open..other.close].contains('\n')));
    let inner = match model.filter(|_| !one_line) {
        Some(model) if !model.items.is_empty() => Layout::of(text, model, false).indent,
        _ => format!("{}{}", layout.indent, layout.unit),
    };
    let space = if layout.tight { "" } else { " " };
    match &host.authorized_keys {
        AuthorizedKeys::SameAsOthers => {
            // Where nobody has keys a new host has none either.
            attrs.extend(shared_keys(text, &others).map(|shared| ("authorizedKeys", shared)));
        }
        AuthorizedKeys::List(keys) => {
            let keys: Vec<String> = keys.iter().map(|key| quote_string(key)).collect();
            attrs.push((
                "authorizedKeys",
                match keys.as_slice() {
                    [] => format!("[{space}]"),
                    [key] if one_line || inner.len() + KEYS_IN_LINE + key.len() <= WIDTH => {
                        format!("[{space}{key}{space}]")
                    }
                    keys if one_line => format!("[{space}{}{space}]", keys.join(" ")),
                    keys => {
                        let newline = layout.newline;
                        let unit = &layout.unit;
                        let lines: String =
                            keys.iter().map(|key| format!("{newline}{inner}{unit}{key}")).collect();
                        format!("[{lines}{newline}{inner}]")
                    }
                },
            ));
        }
    }
    if let Some(model) = model {
        sort_like(&mut attrs, model);
    }
    let name = quote_name(name);
    if one_line {
        let attrs: Vec<String> = attrs.iter().map(|(attr, value)| format!("{attr} = {value};")).collect();
        return Ok(format!("{name} = {{{space}{}{space}}};", attrs.join(" ")));
    }
    let newline = layout.newline;
    let longest = attrs.iter().map(|(attr, _)| attr.len()).max().unwrap_or(0);
    let width = if aligned(text, model) { longest } else { 0 };
    let lines: String =
        attrs.iter().map(|(attr, value)| format!("{newline}{inner}{attr:width$} = {value};")).collect();
    Ok(format!("{name} = {{{lines}{newline}{}}};", layout.indent))
}

/// The expression that the other hosts have for their keys: the one that most of them have.
fn shared_keys(text: &str, others: &[Set<'_>]) -> Option<String> {
    let texts: Vec<&str> = others
        .iter()
        .filter(|other| !other.inherited.iter().any(|n| n == "authorizedKeys"))
        .filter_map(|other| other.bindings.iter().find(|b| b.path == ["authorizedKeys"]))
        .filter(|binding| !tree::has_comment(binding.value))
        .map(|binding| &text[binding.value.start() as usize..binding.value.end() as usize])
        .collect();
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for text in &texts {
        *counts.entry(text).or_default() += 1;
    }
    // Of equally common ones the first.
    texts.iter().rev().max_by_key(|text| counts.get(**text)).map(|text| (*text).to_owned())
}

/// Sorts attributes as another host has them; what that one lacks follows what usually goes before it.
fn sort_like(attrs: &mut Vec<(&str, String)>, model: &Set<'_>) {
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

/// Whether another host has its equal signs in one column that is not the natural one.
pub(super) fn aligned(text: &str, model: Option<&Set<'_>>) -> bool {
    let Some(model) = model else { return false };
    let mut columns = Vec::new();
    let mut padded = false;
    for binding in model.bindings.iter().filter(|b| b.path.len() == 1) {
        let head = &text[binding.start..binding.value.start() as usize];
        let Some(equal) = head.find('=') else { return false };
        let line = text[..binding.start].rfind('\n').map_or(0, |newline| newline + 1);
        columns.push(binding.start + equal - line);
        padded |= head[..equal].ends_with("  ");
    }
    padded && columns.len() > 1 && columns.windows(2).all(|pair| pair[0] == pair[1])
}
