//! `let …; in {}` on one line, as `alejandra` leaves it with one binding while nothing stands in the set, and breaks it when
//! something does. Only white space of it changes; how the first host is written tells its removal how the file was.

use rnix::SyntaxKind as K;

use super::{
    layout::Layout,
    splice,
    tight::{Kind, tight},
    tree::{Binding, Set, has_comment, set_of},
    written::Entry,
};
use crate::nix::syntax::Node;

/// The bytes of a `let` with one binding, up to the brace of the set that follows `in`, and how they are written.
struct LetLine {
    start: usize,
    on_line: String,
    over_lines: String,
}

impl LetLine {
    fn of(root: Node<'_>, text: &str, set: &Set<'_>, newline: &str) -> Option<LetLine> {
        let node = root.nodes().next().filter(|node| node.kind() == K::NODE_LET_IN)?;
        let mut nodes = node.nodes();
        let (Some(binding), Some(body), None) = (nodes.next(), nodes.next(), nodes.next()) else {
            return None;
        };
        let start = node.start() as usize;
        let begins_line = text[..start].is_empty() || text[..start].ends_with('\n');
        let ends_line = text[set.close + 1..].trim_start_matches('\r');
        let ends_line = ends_line.is_empty() || ends_line.starts_with('\n');
        if body.kind() != K::NODE_ATTR_SET || has_comment(node) || !begins_line || !ends_line {
            return None;
        }
        let binding = &text[binding.start() as usize..binding.end() as usize];
        let brace = &text[body.start() as usize..set.open];
        let is_plain = !binding.contains('\n') && matches!(brace, "{" | "rec {");
        is_plain.then(|| LetLine {
            start,
            on_line: format!("let {binding} in {brace}"),
            over_lines: format!("let{newline}  {binding}{newline}in {brace}"),
        })
    }
}

/// The text with the first host in the empty set of a file that is one line: three attributes or more with an empty line after
/// the first and before the last, two of them as `NAME.attr = …;` with one between. `None` where it is another file, or where
/// the host has but one attribute: nothing would tell.
pub(super) fn fill(
    root: Node<'_>,
    text: &str,
    set: &Set<'_>,
    layout: &Layout,
    entry: &Entry<'_>,
) -> Option<String> {
    let Layout { newline, indent, .. } = layout;
    if set.open != set.close || layout.tight != Some(true) {
        return None;
    }
    let line = LetLine::of(root, text, set, newline)?;
    if text[line.start..set.open] != line.on_line {
        return None;
    }
    let body = match entry.len() {
        0 | 1 => return None,
        2 => entry.paths(false)?.join(&format!("{newline}{newline}{indent}")),
        count => entry.grouped(&[1, count - 1]),
    };
    let lines = format!("{}{newline}{indent}{body}{newline}", line.over_lines);
    Some(splice(text, line.start, set.close, &lines))
}

/// The text without the host, on one line, if all there is was written by [`fill`].
pub(super) fn folded_again(root: Node<'_>, text: &str, set: &Set<'_>, host: &str) -> Option<String> {
    let is_host = |b: &Binding<'_>| b.path.first().is_some_and(|name| name == host);
    if set.items.len() > 2 || set.items.len() != set.bindings.len() || !set.bindings.iter().all(is_host) {
        return None;
    }
    let breaks = |from: usize, to: usize| text[from..to].bytes().filter(|byte| *byte == b'\n').count();
    let gaps = |set: &Set<'_>| -> Vec<usize> {
        set.items.windows(2).map(|pair| breaks(pair[0].1, pair[1].0)).collect()
    };
    let is_sign = match set.bindings.as_slice() {
        [whole] if whole.path.len() == 1 && Kind::of(whole) == Kind::New => {
            let gaps = set_of(whole.value).map(|inner| gaps(&inner))?;
            match gaps.as_slice() {
                [2, between @ .., 2] => between.iter().all(|breaks| *breaks == 1),
                _ => false,
            }
        }
        [first, second] => first.path.len() == 2 && second.path.len() == 2 && gaps(set) == [2],
        _ => false,
    };
    let (first, last) = (set.items.first()?, set.items.last()?);
    if !is_sign
        || breaks(set.open, first.0) != 1
        || breaks(last.1, set.close) != 1
        || tight(text, (0, 0)) == Some(false)
    {
        return None;
    }
    let newline = if text[set.open..].starts_with('\r') { "\r\n" } else { "\n" };
    let line = LetLine::of(root, text, set, newline)?;
    (text[line.start..set.open] == line.over_lines)
        .then(|| splice(text, line.start, set.close, &line.on_line))
}
