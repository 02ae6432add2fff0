//! Texts by whose length `nixfmt` breaks a line or joins two: behind a name in quotes, and in a file that is one line.

use rnix::SyntaxKind as K;

use super::{
    fold::below_code,
    head,
    layout::{Layout, indent_at},
    splice,
    tree::{Binding, Set, has_comment},
    written::WIDTH,
};

/// How long the line with this byte is, its indentation not counted.
pub(super) fn width_at(text: &str, at: usize) -> usize {
    let start = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
    text[start..].lines().next().map_or(0, |line| line.trim().chars().count())
}

/// Whether a text stands behind a name in quotes on a line that `nixfmt` would have broken.
fn has_wide_line(text: &str) -> bool {
    let lines = text.lines().map(str::trim).filter(|line| line.len() > WIDTH && line.starts_with('"'));
    lines
        .filter(|line| line.contains(" = \""))
        .any(|line| line.rfind(';').is_some_and(|end| line[..=end].chars().count() > WIDTH))
}

/// The text with the value of `binding`, a text, replaced by another: over two lines, or on one again, where `nixfmt` writes
/// it so. `None` where that makes no difference.
pub(super) fn behind_quotes(
    text: &str,
    binding: &Binding<'_>,
    quoted: &str,
    layout: &Layout,
) -> Option<String> {
    let (start, end) = (binding.value.start() as usize, binding.value.end() as usize);
    let head = text[binding.start..start].trim_end();
    let is_quoted = head.contains('"') && head.ends_with(" =") && !head.contains(['\n', '#', '*']);
    if !is_quoted
        || layout.one_line
        || has_comment(binding.value)
        || layout.tight != Some(false)
        || text[end..binding.end] != *";"
    {
        return None;
    }
    let equal = binding.start + head.len();
    let on_line = |value: &str| head.chars().count() + value.chars().count() + " ;".len();
    let (old, new) = (on_line(&text[start..end]), on_line(quoted));
    let broken = format!("{}{}{}", layout.newline, indent_at(text, binding.start), layout.unit);
    if binding.value.kind() != K::NODE_STRING {
        // Nobody sets it to what it was again.
        return (new > WIDTH).then(|| splice(text, equal, end, &format!("{broken}{quoted}")));
    }
    match &text[equal..start] {
        " " if old <= WIDTH && new > WIDTH && !has_wide_line(text) => {
            Some(splice(text, equal, end, &format!("{broken}{quoted}")))
        }
        gap if gap == broken && old > WIDTH && new <= WIDTH => {
            Some(splice(text, equal, end, &format!(" {quoted}")))
        }
        _ => None,
    }
}

/// The text of a file that is one line, or was one before its only value became too long for that, with another value.
/// `None` where that makes no difference. Empty lines above and below the entry tell how it was.
pub(super) fn of_whole_file(
    text: &str,
    set: &Set<'_>,
    binding: &Binding<'_>,
    quoted: &str,
    layout: &Layout,
) -> Option<String> {
    let Layout { newline, indent, .. } = layout;
    let value = &text[binding.value.start() as usize..binding.value.end() as usize];
    let head = text[binding.start..binding.value.start() as usize].trim_end();
    let is_path = binding.path.len() > 1 && !has_comment(binding.value) && head.ends_with(" =");
    let is_only = set.items.as_slice() == [(binding.start, binding.end)] && set.comments.is_empty();
    if !is_path || !is_only || layout.tight == Some(true) {
        return None;
    }
    let outer = indent_at(text, set.close);
    let on_line = |value: &str| format!(" {head} {value}; ");
    let over_lines = |value: &str| {
        let line = format!("{head} {value};");
        let broken = head.contains('"') && line.chars().count() > WIDTH;
        let gap = if broken { format!("{newline}{indent}  ") } else { " ".to_owned() };
        format!("{newline}{newline}{indent}{head}{gap}{value};{newline}{newline}{outer}")
    };
    let inside = &text[set.open..set.close];
    let with_head = head::joined(text, set, layout.tight);
    if inside == on_line(value) {
        let wide = splice(text, set.open, set.close, &on_line(quoted));
        return match width_at(&wide, set.open) > WIDTH && width_at(text, set.open) <= WIDTH {
            true if with_head => Some(head::over_lines(text, set, &over_lines(quoted), newline)),
            true => Some(splice(text, set.open, set.close, &over_lines(quoted))),
            false => None,
        };
    }
    // As it is written above, where nothing else shows the indentation.
    let apart = head::apart(text, set);
    let is_text = binding.value.kind() == K::NODE_STRING;
    if !is_text
        || inside != over_lines(value)
        || *indent != format!("{outer}  ")
        || below_code(text, set) && !apart
    {
        return None;
    }
    let folded = |value: &str| match apart {
        true => head::on_line(text, set, &on_line(value)),
        false => splice(text, set.open, set.close, &on_line(value)),
    };
    let (old, new) = (folded(value), folded(quoted));
    let width = |folded: &str| width_at(folded, folded.len() - (text.len() - set.close));
    (width(&old) > WIDTH && width(&new) <= WIDTH).then_some(new)
}
