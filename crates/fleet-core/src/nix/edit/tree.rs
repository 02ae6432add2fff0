//! Finding hosts and their attributes in the syntax tree.

use rnix::SyntaxKind as K;

use super::{head::Head, refused};
use crate::{
    Error, Result,
    nix::syntax::{Child, Node},
};

/// `path = value;` with the bytes from its name to its semicolon.
pub(super) struct Binding<'a> {
    /// Static names; what is computed is empty.
    pub path: Vec<String>,
    pub value: Node<'a>,
    pub start: usize,
    /// The byte after the semicolon.
    pub end: usize,
}

/// A set and what stands in it.
pub(super) struct Set<'a> {
    /// The byte after `{`.
    pub open: usize,
    /// The byte of `}`.
    pub close: usize,
    /// Every entry that defines something, `inherit` included: first and last byte.
    pub items: Vec<(usize, usize)>,
    pub bindings: Vec<Binding<'a>>,
    /// Names that it inherits.
    pub inherited: Vec<String>,
    /// Whether its entries can refer to each other.
    pub rec: bool,
    /// Comments directly in it: first byte and the byte after the last.
    pub comments: Vec<(usize, usize)>,
    /// What the whole file has before it, where that is one `with`.
    pub head: Option<Head>,
}

/// Reads a set's entries.
pub(super) fn set_of<'a>(node: Node<'a>) -> Option<Set<'a>> {
    let open = node.token(K::TOKEN_L_BRACE)?.end() as usize;
    let close = node.tokens().filter(|t| t.kind() == K::TOKEN_R_BRACE).last()?.start as usize;
    let mut set = Set {
        open,
        close,
        items: Vec::new(),
        bindings: Vec::new(),
        inherited: Vec::new(),
        rec: node.token(K::TOKEN_REC).is_some(),
        comments: Vec::new(),
        head: None,
    };
    for child in node.children() {
        match child {
            Child::Token(token) if token.kind() == K::TOKEN_COMMENT => {
                // The carriage return of a line break is not part of the comment, whatever the tokenizer says.
                let text = token.text().trim_end_matches('\r');
                set.comments.push((token.start as usize, token.start as usize + text.len()));
            }
            Child::Token(_) => {}
            Child::Node(entry) => {
                let (start, end) = (entry.start() as usize, entry.end() as usize);
                match entry.kind() {
                    K::NODE_ATTRPATH_VALUE => {
                        let mut parts = entry.nodes();
                        let (path, value) = (parts.next()?, parts.next()?);
                        let path = path.nodes().map(|attr| name_of(attr).unwrap_or_default()).collect();
                        set.bindings.push(Binding { path, value, start, end });
                    }
                    K::NODE_INHERIT => {
                        let names = entry.nodes().filter(|n| n.kind() != K::NODE_INHERIT_FROM);
                        set.inherited.extend(names.filter_map(name_of));
                    }
                    _ => return None,
                }
                set.items.push((start, end));
            }
        }
    }
    Some(set)
}

/// The name that an attribute has, if it is not computed.
pub(super) fn name_of(attr: Node<'_>) -> Option<String> {
    match attr.kind() {
        K::NODE_IDENT => attr.tokens().next().map(|token| token.text().to_owned()),
        K::NODE_STRING => {
            if attr.nodes().next().is_some() {
                return None;
            }
            let raw = attr.token(K::TOKEN_STRING_CONTENT).map_or("", |token| token.text());
            crate::nix::eval::unescape(raw)
        }
        K::NODE_DYNAMIC => {
            attr.nodes().next().filter(|inner| inner.kind() == K::NODE_STRING).and_then(name_of)
        }
        _ => None,
    }
}

/// The set that holds the hosts: what the file's expression comes to, through `let`, `with`, `assert` and
/// parentheses.
pub(super) fn host_set<'a>(root: Node<'a>, text: &str) -> Result<Set<'a>> {
    let mut node = root.nodes().next().ok_or_else(|| Error::failed("hosts.nix is empty"))?;
    let head = Head::of(node);
    loop {
        node = match node.kind() {
            K::NODE_PAREN => node.nodes().next(),
            K::NODE_LET_IN | K::NODE_WITH | K::NODE_ASSERT => node.nodes().last(),
            K::NODE_ATTR_SET => {
                return set_of(node)
                    .map(|set| Set { head, ..set })
                    .ok_or_else(|| Error::failed("hosts.nix is not a set that can be edited"));
            }
            kind => {
                let line = super::line_of(text, node.start() as usize);
                return Err(Error::refused(format!(
                    "can not edit hosts.nix: its hosts come from {} (line {line})",
                    describe(kind)
                ))
                .now("nothing was changed")
                .hint("write the hosts as a plain set { NAME = { … }; }, or edit the file by hand"));
            }
        }
        .ok_or_else(|| Error::failed("hosts.nix is empty"))?;
    }
}

/// What an expression is, in words.
fn describe(kind: K) -> &'static str {
    match kind {
        K::NODE_BIN_OP => "an operator such as `//`",
        K::NODE_APPLY => "a function call",
        K::NODE_LAMBDA => "a function",
        K::NODE_IDENT | K::NODE_SELECT => "a variable",
        K::NODE_IF_ELSE => "an `if`",
        K::NODE_LET_IN => "a `let`",
        K::NODE_WITH => "a `with`",
        _ => "something other than a set",
    }
}

/// How a host is written: at least one of both.
pub(super) struct HostAt<'s, 'a> {
    /// `NAME = { … };`, and the set.
    pub whole: Option<(&'s Binding<'a>, Set<'a>)>,
    /// `NAME.attr = …;`, each.
    pub paths: Vec<&'s Binding<'a>>,
}

/// Where an attribute of a host is.
pub(super) enum AttrAt<'s, 'a> {
    /// In the host's set.
    Inside(&'s Binding<'a>),
    /// `NAME.attr = …;`
    Beside(&'s Binding<'a>),
}

/// The host of this name.
pub(super) fn find_host<'s, 'a>(set: &'s Set<'a>, name: &str, text: &str) -> Result<HostAt<'s, 'a>> {
    if set.inherited.iter().any(|n| n == name) {
        return Err(refused(text, name, set.open, "it is inherited"));
    }
    let found = set.bindings.iter().filter(|b| b.path.first().is_some_and(|n| n == name));
    let (whole, paths): (Vec<_>, Vec<_>) = found.partition(|b| b.path.len() == 1);
    match whole.as_slice() {
        [] if paths.is_empty() => {
            Err(match set.bindings.iter().find(|b| b.path.first().is_some_and(String::is_empty)) {
                Some(computed) => refused(text, name, computed.start, "a name is computed, which may be its"),
                None => Error::not_found(format!("no host '{name}' in hosts.nix")),
            })
        }
        [] => Ok(HostAt { whole: None, paths }),
        [whole] => {
            let value = whole.value.unparenthesized();
            if value.kind() != K::NODE_ATTR_SET {
                let why = format!("it is defined through {}", describe(value.kind()));
                return Err(refused(text, name, whole.start, &why));
            }
            let inner =
                set_of(value).ok_or_else(|| refused(text, name, whole.start, "its set can not be read"))?;
            Ok(HostAt { whole: Some((whole, inner)), paths })
        }
        [first, ..] => Err(refused(text, name, first.start, "it is defined in several places")),
    }
}

impl<'a> HostAt<'_, 'a> {
    /// The attribute of this name.
    pub(super) fn attr(&self, host: &str, attr: &str, text: &str) -> Result<Option<AttrAt<'_, 'a>>> {
        let of_its_own = |at: usize| refused(text, host, at, &format!("`{attr}` is a set of its own"));
        let mut found = Vec::new();
        if let Some((_, inner)) = &self.whole {
            if inner.inherited.iter().any(|n| n == attr) {
                return Err(refused(text, host, inner.open, &format!("it inherits `{attr}`")));
            }
            for binding in inner.bindings.iter().filter(|b| b.path.first().is_some_and(|n| n == attr)) {
                found.push((binding, binding.path.len() > 1, false));
            }
        }
        for binding in self.paths.iter().filter(|b| b.path.get(1).is_some_and(|n| n == attr)) {
            found.push((binding, binding.path.len() > 2, true));
        }
        match found.as_slice() {
            [] => Ok(None),
            [(binding, false, false)] => Ok(Some(AttrAt::Inside(binding))),
            [(binding, false, true)] => Ok(Some(AttrAt::Beside(binding))),
            [(first, ..), ..] => Err(of_its_own(first.start)),
        }
    }
}

/// Whether a comment stands anywhere in a node.
pub(super) fn has_comment(node: Node<'_>) -> bool {
    node.children().any(|child| match child {
        Child::Token(token) => token.kind() == K::TOKEN_COMMENT,
        Child::Node(node) => has_comment(node),
    })
}
