//! What stands before all hosts on their line, and goes over lines with them, because a formatter breaks it there.
//!
//! Only white space changes, and what is written tells a removal how it was: see [`apart`].

use rnix::SyntaxKind as K;

use super::{
    splice,
    tree::{Binding, Set},
    written::WIDTH,
};
use crate::nix::syntax::Node;

/// `with …;`, which `nixfmt` leaves on the line of the hosts as long as these stand on one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    start: usize,
    /// The byte after its semicolon.
    semicolon: usize,
    /// The first byte of the set, or of its `rec`.
    set: usize,
}

impl Head {
    /// Of the file's expression.
    pub(super) fn of(node: Node<'_>) -> Option<Head> {
        if node.kind() != K::NODE_WITH {
            return None;
        }
        let body = node.nodes().last().filter(|body| body.kind() == K::NODE_ATTR_SET)?;
        let semicolon = node.token(K::TOKEN_SEMICOLON)?.end() as usize;
        Some(Head { start: node.start() as usize, semicolon, set: body.start() as usize })
    }

    /// What stands between it and the set.
    fn gap(self, text: &str) -> &str {
        &text[self.semicolon..self.set]
    }
}

/// Whether `with …;` stands before this set of one line in a file whose brackets have a space inside.
pub(super) fn joined(text: &str, set: &Set<'_>, tight: Option<bool>) -> bool {
    let on_line = |head: Head| head.gap(text) == " " && !text[head.start..set.open].contains('\n');
    tight == Some(false) && set.head.is_some_and(on_line)
}

/// Whether `nixfmt` would write `with …;` and the set on one line if nothing stood in that.
pub(super) fn would_join(text: &str, set: &Set<'_>) -> bool {
    set.head.is_some_and(|head| {
        let with = &text[head.start..head.semicolon];
        !with.contains('\n') && with.chars().count() + " { }".len() <= WIDTH
    })
}

/// Whether an empty line stands between `with …;` and the set: what [`over_lines`] writes.
pub(super) fn apart(text: &str, set: &Set<'_>) -> bool {
    set.head.is_some_and(|head| matches!(head.gap(text), "\n\n" | "\r\n\r\n"))
}

/// Whether the only entry of the set is the first one that an empty set on the line of `with …;` got.
pub(super) fn filled(text: &str, set: &Set<'_>, entry: &Binding<'_>) -> bool {
    let breaks = |start: usize, end: usize| text[start..end].bytes().filter(|byte| *byte == b'\n').count();
    apart(text, set) && breaks(set.open, entry.start) == 2 && breaks(entry.end, set.close) == 1
}

/// The text with `inside` between the braces of the set, and an empty line above it.
pub(super) fn over_lines(text: &str, set: &Set<'_>, inside: &str, newline: &str) -> String {
    with_gap(text, set, inside, &newline.repeat(2))
}

/// The text with `inside` between the braces of the set, on the line of `with …;`.
pub(super) fn on_line(text: &str, set: &Set<'_>, inside: &str) -> String {
    with_gap(text, set, inside, " ")
}

fn with_gap(text: &str, set: &Set<'_>, inside: &str, gap: &str) -> String {
    let after = splice(text, set.open, set.close, inside);
    set.head.map_or(after.clone(), |head| splice(&after, head.semicolon, head.set, gap))
}
