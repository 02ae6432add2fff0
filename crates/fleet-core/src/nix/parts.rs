//! Parsing a large text in parts.
//!
//! rnix looks up every node that it makes among all that it has made, and what ten thousand hosts have made fits no
//! processor's cache: the time for each host grows with their number. So the sets of a large text are divided behind some
//! of their `;`. Each part is parsed for itself as a set, and what stands around a set with its first part alone in it, and
//! blanks for the others.
//!
//! Where to divide is a guess from the bytes. It need not be a good one: the grammar has one reading for a text, so that
//! parts which are sets, put into a set, make the set that was divided. Where one is not, the whole is to be parsed.

use std::{
    ops::Range,
    sync::{
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
        mpsc,
    },
    thread,
};

use rnix::SyntaxKind as K;
use rowan::{GreenNode, GreenNodeData, GreenToken, GreenTokenData, NodeOrToken};

use super::{
    divide::{Large, MAX_PARTED, divide},
    scan::{MAX_NESTING, MAX_TOKENS, Scan, counted, scan},
    syntax::large_stack,
};

/// How large a part is, in bytes: its nodes fit a processor's nearer cache, and starting the parser costs next to nothing.
pub(super) const PART: usize = 8 << 10;

/// From how many parts on they are parsed by one thread and used by another.
const MANY: usize = 16;

/// How many of them wait to be used.
const AHEAD: usize = 8;

type Element = NodeOrToken<GreenNode, GreenToken>;

/// A text with large sets.
pub(super) struct Parted<'t> {
    text: &'t str,
    large: Vec<Large>,
    /// Where each of them ends, and which it is, in order.
    braces: Vec<(usize, usize)>,
    /// Whether a part was found not to be parsed in this way.
    broken: AtomicBool,
    /// How many tokens were parsed since the frame was.
    tokens: AtomicUsize,
}

/// How many bytes may be parsed that were not looked at: a tree is dropped by recursion, which is no deeper than that.
const SMALL: usize = 64 << 10;

/// A part of a set, as a set.
pub(super) struct Part {
    pub(super) green: GreenNode,
    /// Where its brace would stand in the text, so that all offsets in it are the text's.
    pub(super) start: usize,
}

impl<'t> Parted<'t> {
    /// A text that [`super::scan::check_runs`] lets pass, in parts of about `part` bytes; `None` if it has no large sets.
    pub(super) fn new(text: &'t str, part: usize) -> Option<Parted<'t>> {
        let large = divide(text, part);
        (!large.is_empty()).then(|| Parted::of(text, large))
    }

    fn of(text: &'t str, large: Vec<Large>) -> Parted<'t> {
        let mut braces: Vec<(usize, usize)> =
            large.iter().enumerate().filter_map(|(which, set)| Some((*set.ends.last()?, which))).collect();
        braces.sort_unstable();
        Parted { text, large, braces, broken: AtomicBool::new(false), tokens: AtomicUsize::new(0) }
    }

    /// How many bytes the text has.
    pub(super) fn len(&self) -> usize {
        self.text.len()
    }

    /// How many sets are divided.
    pub(super) fn count(&self) -> usize {
        self.large.len()
    }

    /// How many tokens there are, white space and comments included, of what was parsed since the frame was.
    pub(super) fn tokens(&self) -> usize {
        self.tokens.load(Relaxed)
    }

    /// The set whose closing brace is at this offset, if it is divided.
    pub(super) fn closed_at(&self, brace: usize) -> Option<&Large> {
        let at = self.braces.binary_search_by_key(&brace, |(at, _)| *at).ok()?;
        self.large.get(self.braces.get(at)?.1)
    }

    /// What stands around the sets, with the first part of each; `None` where that is not Nix. It has all offsets of the
    /// text: in each set there is one long blank for the other parts.
    pub(super) fn frame(&self) -> Option<GreenNode> {
        self.tokens.store(0, Relaxed);
        self.parsed(0..self.text.len(), ["", ""], &blank)
    }

    /// Goes through all parts of a set but its first, with blanks as in the frame; `None` stands for one that is no set.
    pub(super) fn each_other<E>(
        &self,
        set: &Large,
        mut work: impl FnMut(Option<&Part>) -> Result<(), E>,
    ) -> Result<(), E> {
        if set.ends.len() < MANY {
            return set.others().try_for_each(|range| work(self.part(range, &blank).as_ref()));
        }
        thread::scope(|scope| {
            let (parsed, parts) = mpsc::sync_channel(AHEAD);
            // Memory is given back best where it was taken.
            let (used, bin) = mpsc::channel();
            let parse = move || {
                for range in set.others() {
                    drop(bin.try_iter().collect::<Vec<Option<Part>>>());
                    if parsed.send(self.part(range, &blank)).is_err() {
                        break;
                    }
                }
                drop(parsed);
                drop(bin.into_iter().collect::<Vec<Option<Part>>>());
            };
            if large_stack().spawn_scoped(scope, parse).is_err() {
                return work(None);
            }
            for part in parts {
                work(part.as_ref())?;
                // There is somebody to take it as long as there are parts.
                let _ = used.send(part);
            }
            Ok(())
        })
    }

    /// The tree that the whole text would have; `None` where it can not be parsed in this way.
    pub(super) fn whole(&self) -> Option<GreenNode> {
        self.tokens.store(0, Relaxed);
        self.parsed(0..self.text.len(), ["", ""], &|set| self.entries(set))
    }

    /// Everything in a large set behind its first part.
    fn entries(&self, set: &Large) -> Option<Vec<Element>> {
        let ranges: Vec<Range<usize>> = set.others().collect();
        let of = |ranges: &[Range<usize>]| -> Option<Vec<Element>> {
            let entries: Option<Vec<_>> = ranges.iter().map(|range| self.entries_of(range.clone())).collect();
            Some(entries?.into_iter().flatten().collect())
        };
        if ranges.len() < MANY {
            return of(&ranges);
        }
        let (first, second) = ranges.split_at(ranges.len() / 2);
        thread::scope(|scope| {
            let first = large_stack().spawn_scoped(scope, || of(first)).ok()?;
            let second = of(second);
            let mut entries = first.join().ok()??;
            entries.extend(second?);
            Some(entries)
        })
    }

    /// Everything in a part of a set.
    fn entries_of(&self, range: Range<usize>) -> Option<Vec<Element>> {
        let part = self.part(range, &|set| self.entries(set))?.green;
        let between_braces = part.children().len().checked_sub(2)?;
        Some(part.children().skip(1).take(between_braces).map(owned).collect())
    }

    /// The large sets in a stretch of the text that are in none other of them.
    fn outermost(&self, range: &Range<usize>) -> impl Iterator<Item = &Large> {
        let first = self.large.partition_point(|set| set.start <= range.start);
        let (mut at, end) = (range.start, range.end);
        self.large.iter().skip(first).take_while(move |set| set.start < end).filter(move |set| {
            // Else it stands in a part of the one before.
            let is_outermost = set.start > at;
            if is_outermost {
                at = set.ends.last().copied().unwrap_or(at);
            }
            is_outermost
        })
    }

    /// A part of a set, as a set.
    fn part(&self, range: Range<usize>, fill: &Fill<'_>) -> Option<Part> {
        let start = range.start.checked_sub(1)?;
        let root = self.parsed(range, ["{", "}"], fill)?;
        let mut children = root.children();
        let (Some(NodeOrToken::Node(set)), None) = (children.next(), children.next()) else { return None };
        (set.kind() == kind(K::NODE_ATTR_SET)).then(|| Part { green: set.to_owned(), start })
    }

    /// The tree of a stretch of the text that has no fault, in brackets of its own. The parts of large sets in it are not
    /// parsed, but for their first ones: `fill` says what is there for the others.
    fn parsed(&self, range: Range<usize>, brackets: [&str; 2], fill: &Fill<'_>) -> Option<GreenNode> {
        // What is not parsed in this way is not tried twice.
        if self.broken.load(Relaxed) {
            return None;
        }
        let parsed = self.parse(range, brackets);
        self.broken.fetch_or(parsed.is_none(), Relaxed);
        let (green, holes) = parsed?;
        if holes.is_empty() {
            return Some(green);
        }
        let mut filling = Vec::with_capacity(holes.len());
        for (hole, set) in holes {
            filling.push((hole, fill(set)?));
        }
        filled(&green, 0, &mut filling)
    }

    /// The tree without what is to be filled in, and where that is.
    fn parse(&self, range: Range<usize>, brackets: [&str; 2]) -> Option<(GreenNode, Vec<(usize, &Large)>)> {
        let mut text = String::with_capacity(range.len().min(2 * SMALL));
        let [opening, closing] = brackets;
        text.push_str(opening);
        let mut holes = Vec::new();
        let mut at = range.start;
        for set in self.outermost(&range) {
            text.push_str(self.text.get(at..set.start)?);
            holes.push((text.len(), set));
            at = *set.ends.last()?;
        }
        text.push_str(self.text.get(at..range.end)?);
        text.push_str(closing);
        if text.len() > SMALL && scan(&text).is_err() {
            return None;
        }
        let parse = rnix::Root::parse(&text);
        if !parse.errors().is_empty() {
            return None;
        }
        let green = parse.syntax().green().to_owned();
        let (Scan { tokens, parentheses }, depth) = counted(&green)?;
        let tokens = self.tokens.fetch_add(tokens, Relaxed) + tokens;
        // Each parenthesis takes one token for the one that closes it, and nothing else takes a `)`: where there are as many
        // of these as of those, each is closed by one.
        let sound = parentheses == 0 && depth <= MAX_NESTING / MAX_PARTED && tokens <= MAX_TOKENS;
        sound.then_some((green, holes))
    }
}

/// What there is in a large set behind its first part.
type Fill<'f> = dyn Fn(&Large) -> Option<Vec<Element>> + 'f;

/// A blank for it.
fn blank(set: &Large) -> Option<Vec<Element>> {
    let length = set.ends.last()?.checked_sub(set.start)?;
    Some(vec![GreenToken::new(kind(K::TOKEN_WHITESPACE), &" ".repeat(length)).into()])
}

/// The tree of a text that is another one with a part of a large set changed. `tree` is the other one's. `None` where the
/// whole is to be parsed.
pub(super) fn changed(before: &str, tree: &GreenNodeData, after: &str, part: usize) -> Option<GreenNode> {
    let (old, new) = (before.as_bytes(), after.as_bytes());
    let start = old.iter().zip(new).take_while(|(a, b)| a == b).count();
    let rest = old.len().min(new.len()) - start;
    let same = old.iter().rev().zip(new.iter().rev()).take(rest).take_while(|(a, b)| a == b).count();
    let gone = start..old.len() - same;
    // Of the parts that hold the change, the smallest.
    let large = divide(before, part);
    let holding = large.iter().filter_map(|set| {
        let holds = |range: &Range<usize>| range.start <= gone.start && gone.end <= range.end;
        Some((set.others().find(holds)?, *set.ends.last()?))
    });
    let (range, brace) = holding.min_by_key(|(range, _)| range.len())?;
    let end = (range.end + new.len()).checked_sub(old.len())?;
    // White space at its end would be one with that of the next.
    if range.end != brace && !after.get(..end)?.ends_with(';') {
        return None;
    }
    let entries = Parted::of(after, Vec::new()).entries_of(range.start..end)?;
    let tree = replaced(tree, 0, &range, brace, entries)?;
    (usize::from(tree.text_len()) == new.len()).then_some(tree)
}

/// A node that begins at `start`, with a part of the set that is closed at `brace` replaced.
fn replaced(
    node: &GreenNodeData,
    start: usize,
    range: &Range<usize>,
    brace: usize,
    entries: Vec<Element>,
) -> Option<GreenNode> {
    let mut at = start;
    let places: Vec<usize> = node
        .children()
        .map(|child| {
            let start = at;
            at += length(child);
            start
        })
        .collect();
    let is_set = node.kind() == kind(K::NODE_ATTR_SET) && places.last() == Some(&brace);
    if is_set {
        let (first, end) = (places.binary_search(&range.start).ok()?, places.binary_search(&range.end).ok()?);
        return Some(node.splice_children(first..end, entries));
    }
    let holding = places.partition_point(|place| *place <= range.start).checked_sub(1)?;
    let NodeOrToken::Node(child) = node.children().nth(holding)? else { return None };
    let child = replaced(child, *places.get(holding)?, range, brace, entries)?;
    Some(node.replace_child(holding, child.into()))
}

fn length(element: NodeOrToken<&GreenNodeData, &GreenTokenData>) -> usize {
    match element {
        NodeOrToken::Node(node) => usize::from(node.text_len()),
        NodeOrToken::Token(token) => usize::from(token.text_len()),
    }
}

/// A node that begins at `at`, with the holes before closing braces filled.
fn filled(node: &GreenNodeData, mut at: usize, mut holes: &mut [(usize, Vec<Element>)]) -> Option<GreenNode> {
    let mut children: Vec<Element> = Vec::with_capacity(node.children().len());
    for child in node.children() {
        let start = at;
        at += length(child);
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
    /// Whole and in parts of this size, where it can be divided.
    fn in_parts(text: &str, part: usize) -> Option<GreenNode> {
        let parted = Parted::new(text, part)?;
        let green = parted.whole()?;
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
        let large = divide(&text, 4 << 10);
        assert_eq!(large.len(), 3, "{large:?}");
        assert!(in_parts(&text, 4 << 10).is_some());
    }

    #[test]
    fn a_changed_part_makes_the_changed_whole() {
        let hosts =
            |count: u32| -> String { (0..count).map(|n| format!("  h{n} = {{ a = {n}; }};\n")).collect() };
        let before = format!("let k = 1; in {{\n{}}}\n", hosts(40));
        let tree = rnix::Root::parse(&before).syntax().green().to_owned();
        let after = before.replace("a = 30;", "a = { b = 30; }; c = k;");
        let changed = changed(&before, &tree, &after, 100).unwrap();
        assert!(*rnix::Root::parse(&after).syntax().green() == *changed);
        // A part that is no set by itself, and one that is not the text's any more.
        for wrong in [before.replace("a = 30;", "a = 30; }"), before.replace("a = 30;", "a = \"30;")] {
            assert!(super::changed(&before, &tree, &wrong, 100).is_none());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 20_000, ..ProptestConfig::default() })]
        #[test]
        fn whatever_is_changed(
            text in prop::sample::select(&TEXTS[..]),
            with in prop::sample::select(&TEXTS[..]),
            (at, gone, start, len) in (0usize..200, 0usize..20, 0usize..200, 0usize..30),
            size in 1usize..60,
        ) {
            let before = format!("{{ first = 1; {text} second = {text}; third = 3; }}");
            for before in [before, format!("{{ a = 1; b = {text}; c = 2; }}")] {
                let parse = rnix::Root::parse(&before);
                if !parse.errors().is_empty() {
                    continue;
                }
                let (at, start) = (at.min(before.len()), start.min(with.len()));
                let gone = (at + gone).min(before.len());
                let with = &with[start..(start + len).min(with.len())];
                let after = format!("{}{with}{}", &before[..at], &before[gone..]);
                if let Some(green) = changed(&before, parse.syntax().green(), &after, size) {
                    let whole = rnix::Root::parse(&after);
                    assert_eq!(whole.errors(), [], "{size}: {before} -> {after}");
                    assert!(*whole.syntax().green() == *green, "{size}: {before} -> {after}");
                }
            }
        }
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
