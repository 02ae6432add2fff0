//! What no value shows: that an edit leaves functions as they are.
//!
//! Two functions can not be compared. But an expression whose text is the same, and whose names mean the same, is the
//! same; so it is enough that the changed entry is all that was written, and that nothing in the file refers to it.

use rnix::SyntaxKind as K;

use super::{
    line_of, on_thread,
    tree::{self, Binding, Set, set_of},
    verify::Change,
};
use crate::{
    Error, Result,
    nix::syntax::{Child, Node, Tree},
};

/// Whether everything but what `change` is about is the same text in both, and refers to nothing that is changed. If
/// not, why.
pub(super) fn untouched(before: &str, after: &str, change: &Change) -> Result<Result<(), String>> {
    let shape = |text: &str| {
        on_thread(|| {
            let tree = Tree::parse(text).map_err(|_| Error::failed("hosts.nix can not be parsed"))?;
            Shape::of(tree.root(), text, change)
        })
    };
    let (old, new) = (shape(before)?, shape(after)?);
    Ok(if let Some(used) = old.used {
        Err(used)
    } else if old.texts == new.texts {
        Ok(())
    } else {
        Err("more than that entry would be written anew".to_owned())
    })
}

/// Whether `after` is `before` with something put in at one place, and nothing in it refers to the set `section` of the top
/// level, nor to `name` in that set, where something may. If not, why.
pub(super) fn untouched_beside(
    before: &str,
    after: &str,
    section: &str,
    name: &str,
) -> Result<Result<(), String>> {
    let used = on_thread(|| {
        let tree = Tree::parse(before).map_err(|_| Error::failed("the file can not be parsed"))?;
        let top = tree::host_set(tree.root(), before)?;
        let of_section = |b: &&Binding<'_>| b.path.first().is_some_and(|first| first == section);
        let sets = top.bindings.iter().filter(of_section).filter(|b| b.path.len() == 1);
        let inner_rec = sets.filter_map(|b| set_of(b.value.unparenthesized())).any(|set| set.rec);
        let visible = [(top.rec, section), (inner_rec, name)];
        Ok(visible.into_iter().filter(|(is, _)| *is).find_map(|(_, name)| used(tree.root(), before, name)))
    })?;
    let (old, new) = (before.as_bytes(), after.as_bytes());
    let start = old.iter().zip(new).take_while(|(a, b)| a == b).count();
    let rest = old.len().min(new.len()) - start;
    let end = old.iter().rev().zip(new.iter().rev()).take(rest).take_while(|(a, b)| a == b).count();
    let gone = &old[start..old.len() - end];
    Ok(match used {
        Some(used) => Err(used),
        None if gone.iter().all(u8::is_ascii_whitespace) => Ok(()),
        None => Err("more than that entry would be written anew".to_owned()),
    })
}

/// Where something refers to what would change.
fn used(root: Node<'_>, text: &str, name: &str) -> Option<String> {
    let at = reference(root, name)?;
    Some(format!("line {} uses `{name}`, which would change", line_of(text, at)))
}

/// A file without what an edit is about.
struct Shape {
    /// What stands before the hosts, each entry, what stands after them.
    texts: Vec<String>,
    /// Where something refers to what would change, if something may.
    used: Option<String>,
}

impl Shape {
    fn of(root: Node<'_>, text: &str, change: &Change) -> Result<Shape> {
        let (host, attr) = match change {
            Change::Insert { name, .. } | Change::Remove { name } => (name, None),
            Change::Set { host, attr, .. } | Change::Unset { host, attr } => (host, Some(attr)),
        };
        let set = tree::host_set(root, text)?;
        let mut texts = vec![text[..set.open].to_owned()];
        // Names that something in the file can refer to.
        let mut visible: Vec<&str> = if set.rec { vec![host] } else { Vec::new() };
        for (start, end, path, value) in entries(&set) {
            if path.first() != Some(host) {
                texts.push(text[start..end].to_owned());
                continue;
            }
            let Some(attr) = attr else { continue };
            let inner = value.map(Node::unparenthesized).filter(|value| value.kind() == K::NODE_ATTR_SET);
            match inner.and_then(set_of).filter(|_| path.len() == 1) {
                Some(inner) => {
                    if inner.rec {
                        visible.push(attr);
                    }
                    texts.push(text[start..inner.open].to_owned());
                    let kept =
                        entries(&inner).into_iter().filter(|(_, _, path, _)| path.first() != Some(attr));
                    texts.extend(kept.map(|(start, end, ..)| text[start..end].to_owned()));
                    texts.push(text[inner.close..end].to_owned());
                }
                None if path.get(1) == Some(attr) => {}
                None => texts.push(text[start..end].to_owned()),
            }
        }
        texts.push(text[set.close..].to_owned());
        let used = visible.into_iter().find_map(|name| used(root, text, name));
        Ok(Shape { texts, used })
    }
}

/// The entries of a set: first byte, the byte after the last, and, of a binding, its path and value.
fn entries<'s, 'a>(set: &'s Set<'a>) -> Vec<(usize, usize, &'s [String], Option<Node<'a>>)> {
    let mut bindings = set.bindings.iter().peekable();
    let entry = |(start, end): &(usize, usize)| match bindings.next_if(|binding| binding.start == *start) {
        Some(binding) => (*start, *end, binding.path.as_slice(), Some(binding.value)),
        None => (*start, *end, &[][..], None),
    };
    set.items.iter().map(entry).collect()
}

/// Where a variable of this name, or one that may be it, stands first.
fn reference(node: Node<'_>, name: &str) -> Option<usize> {
    let is_path = node.kind() == K::NODE_ATTRPATH;
    node.children().find_map(|child| match child {
        Child::Token(token) => {
            (node.kind() == K::NODE_IDENT && token.text() == name).then_some(token.start as usize)
        }
        // The name of an attribute is no variable.
        Child::Node(inner) if is_path && inner.kind() == K::NODE_IDENT => None,
        Child::Node(inner) => reference(inner, name),
    })
}
