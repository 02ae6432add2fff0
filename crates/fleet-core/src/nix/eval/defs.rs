//! The definitions between braces, before anything in them is lowered: attribute paths taken apart and merged as
//! Nix's parser merges them.

use rnix::SyntaxKind as K;

use super::{
    Map,
    error::{Outcome, Sort, Stop},
    expr::Sym,
    lower::Lowering,
    strings,
};
use crate::nix::{
    source::Span,
    syntax::{Child, Node},
};

/// What a name is bound to.
pub(super) enum DefValue<'a> {
    Expr(Node<'a>),
    /// A set that exists only because of attribute paths, or that was merged with one.
    Nested(Box<Defs<'a>>),
    /// `inherit name;`
    Inherit,
    /// `inherit (from) name;`: index into [`Defs::froms`].
    InheritFrom(usize),
}

pub(super) struct Def<'a> {
    pub name: Sym,
    pub key: Span,
    pub value: DefValue<'a>,
}

#[derive(Default)]
pub(super) struct Defs<'a> {
    pub recursive: bool,
    pub entries: Vec<Def<'a>>,
    pub dynamics: Vec<(Node<'a>, DefValue<'a>, Span)>,
    pub froms: Vec<Node<'a>>,
    index: Map<Sym, usize>,
}

/// Below this many entries a list is searched, above it a map.
const SMALL: usize = 12;

/// One attribute of an attribute path.
pub(super) enum Attr<'a> {
    Static(Sym),
    /// The node whose value is the name: an expression, or a string with interpolations.
    Dynamic(Node<'a>),
}

impl<'a> Defs<'a> {
    fn find(&mut self, name: Sym) -> Option<usize> {
        if self.entries.len() < SMALL {
            return self.entries.iter().position(|def| def.name == name);
        }
        if self.index.len() != self.entries.len() {
            self.index = self.entries.iter().enumerate().map(|(at, def)| (def.name, at)).collect();
        }
        self.index.get(&name).copied()
    }

    fn push(&mut self, def: Def<'a>) {
        if !self.index.is_empty() {
            self.index.insert(def.name, self.entries.len());
        }
        self.entries.push(def);
    }

    fn is_plain(&self) -> bool {
        let plain = |def: &Def<'_>| matches!(def.value, DefValue::Expr(_) | DefValue::Nested(_));
        !self.recursive && self.dynamics.is_empty() && self.froms.is_empty() && self.entries.iter().all(plain)
    }
}

impl Lowering<'_> {
    /// Collects what stands in a set, a `let` or a legacy `let`.
    pub(super) fn collect<'a>(&mut self, set: Node<'a>) -> Outcome<Defs<'a>> {
        match self.divided(set) {
            Some(_) => Err(self.undivided(set)),
            None => self.entries(set),
        }
    }

    /// The same of a set that may have further parts.
    pub(super) fn entries<'a>(&mut self, set: Node<'a>) -> Outcome<Defs<'a>> {
        let mut defs = Defs { recursive: set.token(K::TOKEN_REC).is_some(), ..Defs::default() };
        for entry in set.nodes() {
            match entry.kind() {
                K::NODE_ATTRPATH_VALUE => {
                    let mut parts = entry.nodes();
                    let (Some(path), Some(value)) = (parts.next(), parts.next()) else {
                        return Err(self.wrong("an attribute without a value", entry));
                    };
                    let mut attrs = Vec::new();
                    for attr in path.nodes() {
                        attrs.push((self.attr(attr)?, self.span(attr)));
                    }
                    self.define(&mut defs, &attrs, value)?;
                }
                K::NODE_INHERIT => self.inherit(&mut defs, entry)?,
                // The body of `let … in`.
                _ => {}
            }
        }
        Ok(defs)
    }

    fn inherit<'a>(&mut self, defs: &mut Defs<'a>, entry: Node<'a>) -> Outcome<()> {
        let mut from = None;
        if entry.nodes().all(|part| part.kind() == K::NODE_INHERIT_FROM) && entry.nodes().next().is_some() {
            // Some versions of Nix look at the names in what nothing is inherited from, others do not.
            return Err(self.unsupported("`inherit (…)` of no name", entry));
        }
        for part in entry.nodes() {
            if part.kind() == K::NODE_INHERIT_FROM {
                let Some(source) = part.nodes().next() else {
                    return Err(self.wrong("nothing to inherit from", part));
                };
                defs.froms.push(source);
                from = Some(defs.froms.len() - 1);
                continue;
            }
            let Attr::Static(name) = self.attr(part)? else {
                return Err(self.wrong("a name to inherit can not be computed", part));
            };
            if let Some(at) = defs.find(name) {
                self.duplicate(name, self.span(part), defs.entries[at].key)?;
                continue;
            }
            let value = from.map_or(DefValue::Inherit, DefValue::InheritFrom);
            defs.push(Def { name, key: self.span(part), value });
        }
        Ok(())
    }

    fn define<'a>(&mut self, defs: &mut Defs<'a>, path: &[(Attr<'a>, Span)], value: Node<'a>) -> Outcome<()> {
        let Some(((attr, key), rest)) = path.split_first() else { return Ok(()) };
        let name = match attr {
            Attr::Static(name) => *name,
            Attr::Dynamic(node) => {
                let value = if rest.is_empty() {
                    DefValue::Expr(value)
                } else {
                    let mut nested = Defs::default();
                    self.define(&mut nested, rest, value)?;
                    DefValue::Nested(Box::new(nested))
                };
                defs.dynamics.push((*node, value, *key));
                return Ok(());
            }
        };
        let Some(at) = defs.find(name) else {
            let value = if rest.is_empty() {
                DefValue::Expr(value)
            } else {
                let mut nested = Defs::default();
                self.define(&mut nested, rest, value)?;
                DefValue::Nested(Box::new(nested))
            };
            defs.push(Def { name, key: *key, value });
            return Ok(());
        };
        // Defined before: two sets are merged, anything else is an error.
        let Def { key: first, value: existing, .. } = &mut defs.entries[at];
        if let DefValue::Expr(node) = existing
            && node.unparenthesized().kind() == K::NODE_ATTR_SET
        {
            let set = node.unparenthesized();
            *existing = DefValue::Nested(Box::new(self.collect(set)?));
        }
        let nested = match existing {
            DefValue::Nested(nested) => nested,
            _ => return self.duplicate(name, *key, *first),
        };
        if !rest.is_empty() {
            if nested.recursive {
                return Err(Stop::new(Sort::Unsupported, REC_MERGE, Some(*key)));
            }
            return self.define(nested, rest, value);
        }
        let set = value.unparenthesized();
        if set.kind() != K::NODE_ATTR_SET {
            return self.duplicate(name, *key, *first);
        }
        let added = self.collect(set)?;
        if !added.is_plain() || !nested.is_plain() {
            return Err(Stop::new(Sort::Unsupported, REC_MERGE, Some(*key)));
        }
        let mut told = false;
        for def in added.entries {
            match nested.find(def.name) {
                // A set that was copied has all of its names twice.
                Some(_) if told => {}
                Some(at) => {
                    self.duplicate(def.name, def.key, nested.entries[at].key)?;
                    told = true;
                }
                None => nested.push(def),
            }
        }
        Ok(())
    }

    /// One attribute of a path.
    pub(super) fn attr<'a>(&mut self, node: Node<'a>) -> Outcome<Attr<'a>> {
        match node.kind() {
            K::NODE_IDENT => {
                let text = node.tokens().next().map_or("", |token| token.text());
                Ok(Attr::Static(self.names.intern(text)))
            }
            K::NODE_STRING => match self.plain_string(node)? {
                Some(text) => Ok(Attr::Static(self.names.intern(&text))),
                None => Ok(Attr::Dynamic(node)),
            },
            K::NODE_DYNAMIC => {
                let Some(inner) = node.nodes().next() else {
                    return Err(self.wrong("nothing between '${' and '}'", node));
                };
                let bare = inner.unparenthesized();
                if bare.kind() == K::NODE_STRING {
                    if bare.token(K::TOKEN_STRING_START).is_some_and(|t| t.text() == "''") {
                        if is_computed(bare) {
                            return Ok(Attr::Dynamic(inner));
                        }
                        let Some(text) = plain_indented(bare) else {
                            return Err(self.unsupported("an indented string as an attribute name", bare));
                        };
                        return Ok(Attr::Static(self.names.intern(&text)));
                    }
                    if let Some(text) = self.plain_string(bare)? {
                        return Ok(Attr::Static(self.names.intern(&text)));
                    }
                }
                Ok(Attr::Dynamic(inner))
            }
            _ => Err(self.wrong("this can not be an attribute name", node)),
        }
    }

    /// The text of a double-quoted string without interpolations.
    fn plain_string(&mut self, node: Node<'_>) -> Outcome<Option<std::sync::Arc<str>>> {
        if node.token(K::TOKEN_STRING_START).is_some_and(|t| t.text() == "''") {
            return Err(self.wrong("an indented string can not be an attribute name", node));
        }
        let mut text = None;
        for child in node.children() {
            match child {
                Child::Node(_) => return Ok(None),
                Child::Token(token) if token.kind() == K::TOKEN_STRING_CONTENT => text = Some(token),
                Child::Token(_) => {}
            }
        }
        let raw = text.map_or("", |token| token.text());
        strings::unescape(raw).map(Some).map_err(|what| self.unsupported(what, node))
    }

    /// Two definitions of one name; a survey goes on with the first.
    fn duplicate(&mut self, name: Sym, at: Span, first: Span) -> Outcome<()> {
        let message = format!("attribute '{}' is already defined", self.names.text(name));
        self.wrong_here(Stop::new(Sort::Eval, message, Some(at)).first(first)).map(drop)
    }
}

/// Whether an indented string is a name that is computed to every Nix: it has an interpolation, and another one or text
/// beside it. Blanks may be no piece of it.
fn is_computed(node: Node<'_>) -> bool {
    let holes = node.children().filter(|child| matches!(child, Child::Node(_))).count();
    let text = node.children().any(|child| {
        matches!(child, Child::Token(token) if token.kind() == K::TOKEN_STRING_CONTENT
            && token.text().contains(char::is_alphanumeric))
    });
    holes > 1 || holes == 1 && text
}

/// The text of an indented string that is one piece to Nix: what it escapes, and a `$`, it takes for pieces of their own,
/// and the whole for a name that is computed.
fn plain_indented(node: Node<'_>) -> Option<String> {
    let mut pieces = node.children().filter_map(|child| match child {
        Child::Node(_) => Some(None),
        Child::Token(token) => (token.kind() == K::TOKEN_STRING_CONTENT).then(|| Some(token.text())),
    });
    let piece = pieces.next().unwrap_or(Some(""))?;
    if pieces.next().is_some() || piece.contains(['\'', '$']) {
        return None;
    }
    let parts = strings::indented::<()>(vec![strings::Part::Text(piece)]).ok()?;
    parts.into_iter().collect::<Result<String, ()>>().ok()
}

/// What versions of Nix make of it differs, down to whether the file can be read at all.
const REC_MERGE: &str =
    "two definitions of one attribute set, of which one is recursive, inherits or computes names";
