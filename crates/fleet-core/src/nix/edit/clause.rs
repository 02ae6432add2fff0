//! The `let`, `with` or `assert` before the set of all hosts, which a formatter writes on one line or over several
//! depending on what becomes of the set.

use rnix::SyntaxKind as K;

use super::{
    layout::{Layout, indent_at},
    tree::Set,
    written::WIDTH,
};
use crate::nix::syntax::Node;

/// The one that the set follows directly.
pub(super) struct Clause {
    kind: K,
    /// First byte of its keyword and the byte after it.
    keyword: (usize, usize),
    /// First byte of its `in` or `;` and the byte after it.
    end: (usize, usize),
    /// Whether the set and it are in parentheses.
    parenthesized: bool,
    /// Whether it is the only one.
    only: bool,
}

impl Clause {
    /// The last of the nodes that lead to the set.
    pub(super) fn of(way: &[Node<'_>]) -> Option<Clause> {
        let clauses: Vec<&Node<'_>> = way.iter().filter(|node| node.kind() != K::NODE_PAREN).collect();
        let node = clauses.last()?;
        let end = node.token(if node.kind() == K::NODE_LET_IN { K::TOKEN_IN } else { K::TOKEN_SEMICOLON })?;
        let keyword = node.tokens().next()?;
        Some(Clause {
            kind: node.kind(),
            keyword: (keyword.start as usize, keyword.end() as usize),
            end: (end.start as usize, end.end() as usize),
            parenthesized: clauses.len() < way.len(),
            only: clauses.len() == 1,
        })
    }

    /// What stands between its keyword and its end, if that is all on one line.
    fn line<'t>(&self, text: &'t str) -> Option<&'t str> {
        Some(text[self.keyword.1..self.end.0].trim()).filter(|body| !body.contains('\n'))
    }
}

/// Whether a set over several lines begins on the line on which what is before it ends, as `alejandra` writes it, or
/// on the next one, as `nixfmt` does.
pub(super) fn tight(text: &str, set: &Set<'_>) -> Option<bool> {
    let clause = set.clause.as_ref()?;
    let shown =
        text[set.open..set.close].contains('\n') && !(clause.parenthesized && clause.kind == K::NODE_WITH);
    shown.then(|| !text[clause.end.1..set.start].contains('\n'))
}

/// What to replace from a byte up to the inside of a set so that it may go over several lines, if all stands on one.
pub(super) fn broken(text: &str, set: &Set<'_>, layout: &Layout) -> Option<(usize, String)> {
    let Layout { newline, unit, tight, .. } = layout;
    let clause = set.clause.as_ref().filter(|clause| clause.only)?;
    let start = clause.keyword.0;
    let body = clause.line(text).filter(|_| !text[start..set.open].contains('\n'))?;
    let outer = indent_at(text, start);
    let rest = &text[set.start..set.open];
    match clause.kind {
        K::NODE_LET_IN => Some((start, format!("let{newline}{outer}{unit}{body}{newline}{outer}in {rest}"))),
        K::NODE_WITH if *tight == Some(false) && !clause.parenthesized => {
            Some((start, format!("with {body};{newline}{outer}{rest}")))
        }
        _ => None,
    }
}

/// The reverse, of a set that has `inside` between its braces again: of a `let` only if `as_it_was`, for it could
/// have stood over several lines before.
pub(super) fn joined(text: &str, set: &Set<'_>, inside: &str, as_it_was: bool) -> Option<(usize, String)> {
    let clause = set.clause.as_ref().filter(|clause| clause.only)?;
    let start = clause.keyword.0;
    let body = clause.line(text)?;
    let (end, rest) = (text[clause.end.1..set.start].trim_matches(' '), &text[set.start..set.open]);
    match clause.kind {
        K::NODE_LET_IN if as_it_was && end.is_empty() => Some((start, format!("let {body} in {rest}"))),
        K::NODE_WITH if inside.starts_with(' ') && end.trim().is_empty() && !clause.parenthesized => {
            let head = format!("with {body}; {rest}");
            (head.len() + inside.len() < WIDTH).then_some((start, head))
        }
        _ => None,
    }
}
