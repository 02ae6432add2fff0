//! What a formatter keeps on one line, and how it grows and shrinks so that the formatter still accepts it, and that an edit
//! undone gives back every byte.
//!
//! `alejandra` and `nixfmt` write no set of several attributes on one line, and neither changes a set over several
//! lines into one on a line. So where a set that may stand on one line has to grow, nothing of it is rewritten: what is new
//! stands beside it ([`Growth::Beside`]). Where that can not be (nothing stands beside the set of all hosts, and Nix takes
//! nothing beside a recursive one), what is written tells how the set was before: see [`unfold`].

use rnix::SyntaxKind as K;

use super::{
    head,
    layout::{Layout, indent_at},
    splice,
    tight::{Kind, braces, emptied, is_in, line_above, tight},
    tree::{Binding, Set, set_of},
    width::width_at,
    written::{WIDTH, sets_in, several_on_one_line},
};

/// Whether an entry is a set on the line of its name as a formatter leaves it there: `a = {b = 1;}`, `a = {}`, `a = { }` or
/// `a = ({ b = 1; })`; or on a line of its own, below a comment.
fn held(text: &str, entry: &Binding<'_>) -> bool {
    let head = &text[entry.start..entry.value.start() as usize];
    let value = entry.value.unparenthesized();
    let Some(inner) = set_of(value).filter(|_| value.kind() == K::NODE_ATTR_SET) else { return false };
    let inside = &text[inner.open..inner.close];
    let parentheses = &text[entry.value.start() as usize..braces(&inner).0];
    let in_parentheses = entry.value.kind() == K::NODE_PAREN;
    entry.path.len() == 1
        && (head.ends_with(" = ") || head.trim_end_matches([' ', '\t']).ends_with('\n'))
        && (!in_parentheses || parentheses == "(" && text[inner.close..].starts_with("});"))
        && inner.comments.is_empty()
        && inner.items.len() < 2
        && !inside.contains('\n')
        && (inside == " "
            || inside.trim() == inside
            || in_parentheses && inside == format!(" {} ", inside.trim()))
}

/// Whether an entry is `NAME.attr = …;` on one line.
fn is_path(text: &str, entry: &Binding<'_>) -> bool {
    entry.path.len() > 1 && !text[entry.start..entry.end].contains('\n')
}

/// Where a new attribute of a host goes that is written as a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Growth {
    /// Among the others in the set.
    Inside,
    /// Into the empty set, on its line.
    InLine,
    /// After the only one, the set over several lines.
    OverLines,
    /// After the set, as `NAME.attr = …;`.
    Beside,
    /// Likewise, in a file whose whole set of hosts stood on one line.
    Unfolded,
}

/// How the set `inner` of the host at `whole` in `set` takes an attribute more.
pub(super) fn growth(
    text: &str,
    set: &Set<'_>,
    whole: &Binding<'_>,
    inner: &Set<'_>,
    layout: &Layout,
) -> Growth {
    let inside = &text[inner.open..inner.close];
    let plain = whole.value.unparenthesized().kind() == K::NODE_ATTR_SET && !inner.rec;
    let folded = !text[set.open..set.close].contains('\n');
    let beside = if folded { Growth::Unfolded } else { Growth::Beside };
    let may_stand_beside = plain && (!folded || folds(text, set).is_some());
    if !inner.comments.is_empty() {
        return Growth::Inside;
    }
    let is_held = || held(text, whole) && !several_on_one_line(text, &sets_in(set));
    match inner.items.len() {
        0 if !folded
            && !in_parentheses_below(text, whole)
            && inside == emptied(text, inner, "", Kind::Other, layout.newline) =>
        {
            Growth::Inside
        }
        0 if inside.is_empty() => Growth::InLine,
        0 if may_stand_beside => beside,
        1 if may_stand_beside && is_held() => beside,
        1 if inner.rec && !folded && written_tight(text, inner) && is_held() => Growth::OverLines,
        _ => Growth::Inside,
    }
}

/// Whether a host is a set in parentheses below a comment: `nixfmt` breaks these when the set is not on their line any more.
fn in_parentheses_below(text: &str, whole: &Binding<'_>) -> bool {
    let head = &text[whole.start..whole.value.start() as usize];
    whole.value.kind() == K::NODE_PAREN && head.contains('\n')
}

/// Whether the file shows outside of this set that brackets have no space inside. `nixfmt` writes no such file: a set that
/// stood on one line and is recursive is one of `alejandra`'s.
fn written_tight(text: &str, set: &Set<'_>) -> bool {
    tight(text, braces(set)) == Some(true)
}

/// How the set of all hosts stands on one line as a formatter leaves it there, its only entry being…
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Folded {
    /// …a set.
    Set,
    /// …`NAME.attr = …;` between braces without a space inside, as `alejandra` writes them.
    Tight,
    /// …`NAME.attr = …;` between braces with a space inside, as `nixfmt` writes them.
    Spaced,
}

/// Whether a set stands on one line, and how.
pub(super) fn folds(text: &str, set: &Set<'_>) -> Option<Folded> {
    let inside = &text[set.open..set.close];
    let [entry] = set.bindings.as_slice() else { return None };
    if set.items.len() != 1 || !set.comments.is_empty() || inside.contains('\n') || below_code(text, set) {
        return None;
    }
    let body = &text[entry.start..entry.end];
    if held(text, entry) {
        return (inside == around(body)).then_some(Folded::Set);
    }
    match inside.strip_prefix(' ').and_then(|inside| inside.strip_suffix(' ')) {
        _ if !is_path(text, entry) => None,
        _ if inside == body => Some(Folded::Tight),
        Some(inside) if inside == body && width_at(text, set.open) <= WIDTH => Some(Folded::Spaced),
        _ => None,
    }
}

/// Whether a set begins a line below `in`, `with …;` or `assert …;`: `nixfmt` leaves none on one line there, and
/// `alejandra` leaves none there.
pub(super) fn below_code(text: &str, set: &Set<'_>) -> bool {
    line_above(text, set).is_some_and(|(above, _)| is_in(above) || above.ends_with(';'))
}

/// An entry that is a set as it stands between the braces of a set on one line.
fn around(body: &str) -> String {
    if body.contains("{ }") || body.contains("({ ") { format!(" {body} ") } else { body.to_owned() }
}

/// The text with a set that stands on one line over several, and `body` after its only entry. It tells how the set was by
/// what nobody writes:
///
/// - an empty line between two entries that are written in two ways (`a = { … };` and `b.c = …;`; or, where the set was
///   [`Folded::Tight`], `a.b = …;` and `c = {d = …;};`, which `nixfmt` does not leave on one line);
/// - one below the brace, which `alejandra` does not leave there, where the set was [`Folded::Spaced`].
pub(super) fn unfold(text: &str, set: &Set<'_>, layout: &Layout, folded: Folded, body: &str) -> String {
    let Layout { newline, indent, .. } = layout;
    let (above, between) = if folded == Folded::Spaced { (*newline, "") } else { ("", *newline) };
    let only = text[set.open..set.close].trim();
    let outer = indent_at(text, set.close);
    let lines = format!("{newline}{above}{indent}{only}{newline}{between}{indent}{body}{newline}{outer}");
    if head::joined(text, set, layout.tight) {
        return head::over_lines(text, set, &lines, newline);
    }
    splice(text, set.open, set.close, &lines)
}

/// Whether the only entry has an empty line above it: with an entry right below, [`folded_again`] would take that for a sign.
pub(super) fn would_be_a_sign(text: &str, set: &Set<'_>) -> bool {
    let [only] = set.items.as_slice() else { return false };
    text[set.open..only.0].bytes().filter(|byte| *byte == b'\n').count() == 2
}

/// What [`unfold`] was given, if `gone` is all that it added.
pub(super) fn folded_again(text: &str, set: &Set<'_>, gone: &Binding<'_>) -> Option<String> {
    let [kept, last] = set.bindings.as_slice() else { return None };
    let body = &text[kept.start..kept.end];
    if last.start != gone.start || set.items.len() != 2 || !set.comments.is_empty() || body.contains('\n') {
        return None;
    }
    let breaks = |start: usize, end: usize| text[start..end].bytes().filter(|b| *b == b'\n').count();
    let blank_between = match (breaks(set.open, kept.start), breaks(kept.end, last.start)) {
        _ if breaks(last.end, set.close) != 1 => return None,
        (1, 2) => true,
        (2, 1) => false,
        _ => return None,
    };
    let set_of_one = || {
        let value = &text[last.value.start() as usize..last.end];
        held(text, last) && value.starts_with('{') && value != "{};" && value != "{ };"
    };
    // What `Growth::OverLines` adds.
    let attribute = || set.rec && last.path.len() == 1 && last.value.kind() == K::NODE_STRING;
    let inside = if blank_between && held(text, kept) && last.path.len() > 1 {
        around(body)
    } else if blank_between && is_path(text, kept) && set_of_one() {
        body.to_owned()
    } else if !blank_between && is_path(text, kept) && last.path.len() > 1 {
        format!(" {body} ")
    } else if blank_between && kept.path.len() == 1 && attribute() && written_tight(text, set) {
        body.to_owned()
    } else {
        return None;
    };
    let folded = if head::apart(text, set) {
        head::on_line(text, set, &inside)
    } else if below_code(text, set) {
        return None;
    } else {
        splice(text, set.open, set.close, &inside)
    };
    // A longer line was not folded, so that what looks like a sign is somebody's.
    let close = folded.len() - (text.len() - set.close);
    (blank_between || width_at(&folded, close) <= WIDTH).then_some(folded)
}
