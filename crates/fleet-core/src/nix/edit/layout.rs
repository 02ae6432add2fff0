//! How a file is laid out, and inserting and removing entries so that it stays so.

use super::{
    fold::folded_again,
    head, splice,
    tight::{braces, fill, kept, left_empty, tight},
    tree::Set,
    written::Entry,
};

/// The habits of one set.
pub(super) struct Layout {
    /// `\n` or `\r\n`.
    pub newline: &'static str,
    /// What stands before an entry on its line.
    pub indent: String,
    /// What one more level adds.
    pub unit: String,
    /// Whether the set stands on one line.
    pub one_line: bool,
    /// Whether brackets have no space inside, as `alejandra` writes them, or one, as `nixfmt` does; `None` where the
    /// file does not show.
    pub tight: Option<bool>,
    /// Whether a blank line stands between entries.
    pub blank: bool,
    /// Whether the names are sorted.
    sorted: bool,
}

/// How the text ends its first line.
fn newline(text: &str) -> &'static str {
    if text.split_once('\n').is_some_and(|(line, _)| line.ends_with('\r')) { "\r\n" } else { "\n" }
}

/// White space at the start of the line that holds this byte.
pub(super) fn indent_at(text: &str, at: usize) -> &str {
    let start = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
    let line = &text[start..];
    let width = line.len() - line.trim_start_matches([' ', '\t']).len();
    &line[..width.min(at - start)]
}

/// Whether a line between two entries is blank: one that has a comment is not.
fn has_blank_line(gap: &str) -> bool {
    let lines = gap.split('\n').skip(1);
    // The last is what stands before the next entry on its line.
    gap.contains('\n') && lines.clone().take(lines.count() - 1).any(|line| line.trim().is_empty())
}

impl Layout {
    /// The habits of `set`. `spaced` says that a set of one entry may be told to want blank lines.
    pub(super) fn of(text: &str, set: &Set<'_>, spaced: bool) -> Layout {
        let newline = newline(text);
        let outer = indent_at(text, set.close).to_owned();
        let inside = &text[set.open..set.close];
        let gaps: Vec<&str> = set.items.windows(2).map(|pair| &text[pair[0].1..pair[1].0]).collect();
        let first = set.items.first();
        let one_line = match first {
            // An empty set is filled over several lines.
            None => false,
            Some(first) => {
                !text[set.open..first.0].contains('\n')
                    && gaps.iter().all(|gap| !gap.contains('\n'))
                    && set.items.last().is_some_and(|last| !text[last.1..set.close].contains('\n'))
            }
        };
        let begins_line = |item: &&(usize, usize)| {
            let line = text[..item.0].rfind('\n').map_or(0, |newline| newline + 1);
            text[line..item.0].bytes().all(|b| b == b' ' || b == b'\t')
        };
        let tabs = inside.contains("\n\t") || outer.starts_with('\t');
        let default_unit = if tabs { "\t" } else { "  " };
        let indent = match set.items.iter().rev().find(begins_line) {
            Some(item) => indent_at(text, item.0).to_owned(),
            None => match set.comments.last().filter(|_| set.items.is_empty()) {
                Some(comment) if !indent_at(text, comment.0).is_empty() => {
                    indent_at(text, comment.0).to_owned()
                }
                _ => format!("{outer}{default_unit}"),
            },
        };
        let unit = match indent.strip_prefix(outer.as_str()) {
            Some(unit) if !unit.is_empty() => unit.to_owned(),
            _ => default_unit.to_owned(),
        };
        let wide = gaps.iter().filter(|gap| has_blank_line(gap)).count();
        let blank = spaced && !one_line && !gaps.is_empty() && wide * 2 > gaps.len();
        let names: Vec<_> =
            set.bindings.iter().filter_map(|b| b.path.first()).map(|n| n.to_ascii_lowercase()).collect();
        let sorted = names.len() > 2 && names.is_sorted() && set.inherited.is_empty();
        // An empty set that is written over several lines, or is none, says nothing either.
        let empty = set.items.is_empty() && set.comments.is_empty() && !inside.contains('\n');
        let skipped = if set.items.is_empty() { braces(set) } else { (0, 0) };
        let tight = tight(text, skipped).or_else(|| empty.then_some(inside.is_empty()));
        Layout { newline, indent, unit, one_line, tight, blank, sorted }
    }

    /// How many entries a new host of this name goes after; `None` is after all.
    pub(super) fn place_for(&self, set: &Set<'_>, name: &str) -> Option<usize> {
        if !self.sorted || set.items.len() != set.bindings.len() {
            return None;
        }
        let name = name.to_ascii_lowercase();
        let before =
            |b: &super::tree::Binding<'_>| b.path.first().is_some_and(|n| n.to_ascii_lowercase() < name);
        match set.bindings.iter().filter(|b| before(b)).count() {
            // What is written above the first entry may be about the whole set or about that entry.
            0 if set.comments.first().is_some_and(|c| set.items.first().is_some_and(|i| c.0 < i.0)) => None,
            count => Some(count),
        }
    }

    /// How many entries a new attribute goes after, by the order in which attributes usually stand.
    pub(super) fn place_in_order(&self, set: &Set<'_>, attr: &str, order: &[&str]) -> Option<usize> {
        let mine = order.iter().position(|name| *name == attr)?;
        let find = |name: &&str| set.bindings.iter().find(|b| b.path.first().is_some_and(|n| n == *name));
        if let Some(previous) = order[..mine].iter().rev().find_map(find) {
            return set.items.iter().position(|item| item.0 == previous.start).map(|at| at + 1);
        }
        // First of all, unless what is written above the first entry would then stand above this one.
        let first = set.items.first()?;
        (!set.comments.iter().any(|comment| comment.0 < first.0)).then_some(0)
    }

    /// The text with an entry after the first `after` entries (after all of them for `None`).
    pub(super) fn insert(
        &self,
        text: &str,
        set: &Set<'_>,
        after: Option<usize>,
        entry: &Entry<'_>,
    ) -> String {
        if set.items.is_empty() && set.comments.is_empty() {
            return fill(text, set, self, entry);
        }
        self.insert_text(text, set, after, &entry.as_others())
    }

    /// The text with the first entry of a set that nothing stands in, for good: taken out again, it may leave other bytes
    /// than there were.
    pub(super) fn fill(&self, text: &str, set: &Set<'_>, entry: &Entry<'_>) -> String {
        let Layout { newline, indent, .. } = self;
        let outer = indent_at(text, set.close);
        let lines = format!("{newline}{indent}{}{newline}{outer}", entry.as_others());
        splice(text, set.open, set.close, &lines)
    }

    /// Likewise; `body` is the entry from its name to its semicolon, its inner lines indented.
    pub(super) fn insert_text(&self, text: &str, set: &Set<'_>, after: Option<usize>, body: &str) -> String {
        let Layout { newline, indent, .. } = self;
        let after = after.unwrap_or(set.items.len());
        let blank = if self.blank { newline } else { "" };
        if after == 0
            && let Some(first) = set.items.first()
        {
            let gap = if self.one_line { " ".to_owned() } else { format!("{newline}{blank}{indent}") };
            return splice(text, first.0, first.0, &format!("{body}{gap}"));
        }
        let Some(previous) = after.checked_sub(1).and_then(|at| set.items.get(at)) else {
            // Nothing in it but, perhaps, comments.
            let Some(last) = set.comments.last() else {
                let (kept, after) = kept(text, set, body, newline);
                let outer = indent_at(text, set.close);
                let entry = format!("{kept}{newline}{indent}{body}{after}{newline}{outer}");
                return splice(text, set.open, set.close, &entry);
            };
            let tail = if text[last.1..set.close].contains('\n') { "" } else { newline };
            return splice(text, last.1, last.1, &format!("{newline}{indent}{body}{tail}"));
        };
        if self.one_line {
            return splice(text, previous.1, previous.1, &format!(" {body}"));
        }
        // A comment on the same line belongs to the entry before.
        let mut at = previous.1;
        let next = set.items.get(after).map_or(set.close, |item| item.0);
        for comment in set.comments.iter().filter(|c| c.0 >= previous.1 && c.1 <= next) {
            if text[at..comment.0].contains('\n') {
                break;
            }
            // One that goes on after the line does so, too, unless the next entry stands behind it.
            let goes_on = text[comment.0..comment.1].contains('\n');
            if goes_on && next != set.close && !text[comment.1..next].contains('\n') {
                break;
            }
            at = comment.1;
        }
        let same_line = !text[at..next].contains('\n') && next != set.close;
        let tail = if same_line { format!("{newline}{indent}") } else { String::new() };
        let end = if same_line { next } else { at };
        splice(text, at, end, &format!("{newline}{blank}{indent}{body}{tail}"))
    }
}

/// The text without the binding at this index.
pub(super) fn remove(text: &str, set: &Set<'_>, binding: Option<usize>) -> String {
    let Some(binding) = binding.and_then(|at| set.bindings.get(at)) else { return text.to_owned() };
    let Some(at) = set.items.iter().position(|item| item.0 == binding.start) else { return text.to_owned() };
    if let Some(folded) = folded_again(text, set, binding) {
        return folded;
    }
    let (start, end) = (binding.start, binding.end);
    let previous = at.checked_sub(1).and_then(|at| set.items.get(at)).map(|item| item.1);
    let next = set.items.get(at + 1).map(|item| item.0);
    let comment_before = set.comments.iter().rfind(|c| c.1 <= start && c.0 >= previous.unwrap_or(set.open));
    let comment_after = set.comments.iter().find(|c| c.0 >= end && c.1 <= next.unwrap_or(set.close));
    // Where the white space before and after it ends.
    let before = comment_before.map(|c| c.1).or(previous).unwrap_or(set.open);
    let after = comment_after.map(|c| c.0).or(next).unwrap_or(set.close);
    let line_comment_before = comment_before.is_some_and(|c| text[c.0..].starts_with('#'));
    let newline_after = text[end..after].contains('\n');
    if comment_before.is_none() && previous.is_none() {
        return match (comment_after, next) {
            // The only entry: an empty set is left.
            (None, None) if head::filled(text, set, binding) => head::on_line(text, set, " "),
            (None, None) => splice(text, before, after, &left_empty(text, set, binding, newline(text))),
            (None, Some(next)) => splice(text, start, next, ""),
            (Some(_), _) => splice(text, start, after, ""),
        };
    }
    if comment_after.is_some() && !newline_after {
        // The comment beside it stays, on the line it is on.
        return splice(text, start, after, "");
    }
    if line_comment_before && !newline_after {
        // The line break ends the comment before: it must stay.
        let end = if next.is_some() { after } else { end };
        return splice(text, start, end, "");
    }
    splice(text, before, end, "")
}
