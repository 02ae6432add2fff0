//! Parsing a large text in parts that are put together to the tree that the whole would have.
//!
//! rnix looks up every node that it makes among all that it has made, and what ten thousand hosts have made fits no
//! processor's cache: the time for each host grows with their number. So the sets of a large text are divided behind some
//! of their `;`, each part is parsed for itself as a set, and what stands around a set is parsed with the first part alone
//! in it.
//!
//! Where to divide is a guess from the tokens. It need not be a good one: the grammar has one reading for a text, so that
//! parts which are sets, put into a set, make the set that was divided. Where one is not, the caller parses the whole.

use std::ops::Range;

use rnix::SyntaxKind as K;
use rowan::{GreenNode, GreenNodeData, GreenToken, GreenTokenData, NodeOrToken};

use super::scan::Large;

/// How large a part is, in bytes: its nodes fit a processor's nearer cache, and starting the parser costs next to nothing.
pub(super) const PART: usize = 16 << 10;

type Element = NodeOrToken<GreenNode, GreenToken>;

/// What goes before a closing brace: its offset, and the elements.
type Hole = (usize, Vec<Element>);

/// The tree of a text, parsed by the parts of its large sets; `None` where it has none, or can not be parsed in this way.
pub(super) fn parse(text: &str, large: &[Large]) -> Option<GreenNode> {
    if large.is_empty() {
        return None;
    }
    let (whole, holes) = shortened(text, 0..text.len(), large)?;
    parsed(&whole, holes)
}

/// The part of the text without all but the first part of each large set in it, and what is to be put there.
fn shortened(text: &str, range: Range<usize>, large: &[Large]) -> Option<(String, Vec<Hole>)> {
    let mut left = String::new();
    let mut holes = Vec::new();
    let mut at = range.start;
    let first = large.partition_point(|set| set.start <= range.start);
    for set in large.iter().skip(first).take_while(|set| set.start < range.end) {
        // Else it stands in a part of the one before.
        if set.start > at {
            left.push_str(text.get(at..set.start)?);
            holes.push((left.len(), entries(text, set, large)?));
            at = *set.ends.last()?;
        }
    }
    left.push_str(text.get(at..range.end)?);
    Some((left, holes))
}

/// Everything in a large set behind its first part.
fn entries(text: &str, set: &Large, large: &[Large]) -> Option<Vec<Element>> {
    let mut entries = Vec::new();
    let mut start = set.start;
    for end in &set.ends {
        let (part, mut holes) = shortened(text, start..*end, large)?;
        holes.iter_mut().for_each(|(at, _)| *at += 1);
        let root = parsed(&format!("{{{part}}}"), holes)?;
        let mut children = root.children();
        let (Some(NodeOrToken::Node(part)), None) = (children.next(), children.next()) else { return None };
        if part.kind() != kind(K::NODE_ATTR_SET) {
            return None;
        }
        let between_braces = part.children().len().checked_sub(2)?;
        entries.extend(part.children().skip(1).take(between_braces).map(owned));
        start = *end;
    }
    Some(entries)
}

/// The tree of a text that has no fault, its holes filled.
fn parsed(text: &str, mut holes: Vec<Hole>) -> Option<GreenNode> {
    let parse = rnix::Root::parse(text);
    if !parse.errors().is_empty() {
        return None;
    }
    let root = parse.syntax().green().to_owned();
    if holes.is_empty() { Some(root) } else { filled(&root, 0, &mut holes) }
}

/// A node that begins at `at`, with the holes in it filled.
fn filled(node: &GreenNodeData, mut at: usize, mut holes: &mut [Hole]) -> Option<GreenNode> {
    let mut children: Vec<Element> = Vec::with_capacity(node.children().len());
    for child in node.children() {
        let start = at;
        at += match child {
            NodeOrToken::Node(node) => usize::from(node.text_len()),
            NodeOrToken::Token(token) => usize::from(token.text_len()),
        };
        let count = holes.iter().take_while(|(hole, _)| *hole < at).count();
        let (here, later) = holes.split_at_mut(count);
        holes = later;
        match (child, here) {
            (child, []) => children.push(owned(child)),
            (NodeOrToken::Node(child), here) => children.push(filled(child, start, here)?.into()),
            (NodeOrToken::Token(brace), [(hole, entries)])
                if *hole == start
                    && brace.kind() == kind(K::TOKEN_R_BRACE)
                    && node.kind() == kind(K::NODE_ATTR_SET) =>
            {
                children.append(entries);
                children.push(owned(child));
            }
            _ => return None,
        }
    }
    Some(GreenNode::new(node.kind(), children))
}

fn kind(kind: K) -> rowan::SyntaxKind {
    rowan::SyntaxKind(kind as u16)
}

fn owned(element: NodeOrToken<&GreenNodeData, &GreenTokenData>) -> Element {
    match element {
        NodeOrToken::Node(node) => node.to_owned().into(),
        NodeOrToken::Token(token) => token.to_owned().into(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::nix::scan::scan;

    /// Whole and in parts of this size, where it can be divided.
    fn in_parts(text: &str, part: usize) -> Option<GreenNode> {
        let green = parse(text, &scan(text, part).ok()?.large)?;
        let whole = rnix::Root::parse(text);
        assert_eq!(whole.errors(), [], "{part}: {text}");
        assert!(*whole.syntax().green() == *green, "{part}: {text}");
        assert_eq!(green.to_string(), text);
        Some(green)
    }

    /// Sets of every kind, in places of every kind.
    const TEXTS: [&str; 12] = [
        "{ a = 1; b = 2; c = 3; d = { e = 4; f = 5; }; }",
        "{\n  # one\n  a.b = \"x\"; # two\n\n  a.c = ./d; /* three */ e = [ 1 { f = 1; g = 2; } ];\n  # four\n}\n",
        "let keys = [ 1 ]; more = { a = 1; b = 2; }; in { a = keys; b = more; c = 3; } // { d = 4; e = 5; }",
        "rec { a = rec { b = 1; c = b; }; d = a; e = let x = 1; y = 2; in { f = x; g = y; }; h = 1; }",
        "{ lib, pkgs ? { a = 1; b = 2; }, ... }@all: with lib; { a = 1; inherit pkgs; inherit (all) b c; d = 1; }",
        "{ a = \"x ${ { b = 1; c = 2; }.b } y\"; d = ''\n  ${ { e = 1; f = \"}\"; }.f } ; }\n''; g = 1; }",
        "let { a = 1; b = 2; body = { c = a; d = b; }; }",
        "{ a = { }: { b = 1; c = 2; }; \"d;\" = assert true; { e = 1; f = 2; }; ${ { g = \"h\"; i = 1; }.g } = 1; }",
        "({ a = 1; b = 2; }).a + (if { a = 1; b = 1; } ? a then { c = 1; d = 2; } else { e = 1; f = 2; }).c",
        "{ a = 1; b = 2; c = ; d = 4; }",
        "{ a = 1; b = 2; }: { c = 1; d = 2; }",
        "{ a = 1; b = ( 2; c = 3 ); d = 4; } }",
    ];

    #[test]
    fn the_parts_make_the_whole() {
        for text in TEXTS {
            let divided = (1..text.len()).filter(|part| in_parts(text, *part).is_some()).count();
            assert_eq!(
                divided > 0,
                rnix::Root::parse(text).errors().is_empty() && !text.starts_with("let {"),
                "{text}"
            );
        }
    }

    #[test]
    fn a_large_set_in_a_large_set_is_divided() {
        let vms: String = (0..500).map(|n| format!("    vm-{n} = {{ vmid = {n}; }};\n")).collect();
        let text = format!("{{\n  imported = {{\n{vms}  }};\n  managed = {{\n{vms}  }};\n}}\n");
        let large = scan(&text, 4 << 10).unwrap_or_else(|fault| panic!("{fault:?}")).large;
        assert_eq!(large.len(), 3, "{large:?}");
        assert!(in_parts(&text, 4 << 10).is_some());
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 20_000, ..ProptestConfig::default() })]
        #[test]
        fn whatever_the_text_is(
            parts in prop::collection::vec((prop::sample::select(&TEXTS[..]), 0usize..200, 0usize..200), 1..4),
            size in 1usize..60,
        ) {
            let mut text = String::new();
            for (from, start, len) in parts {
                let start = start.min(from.len());
                let end = (start + len).min(from.len());
                text.push_str(&from[start..end]);
            }
            in_parts(&text, size);
            in_parts(&format!("{{ {text} }}"), size);
            in_parts(&format!("{{ a = 1; b = {text}; c = 2; }}"), size);
        }
    }
}
