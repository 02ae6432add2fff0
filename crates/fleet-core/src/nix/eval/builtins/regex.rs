//! `match` and `split`.
//!
//! Nix has them from the C++ library, which reads POSIX extended regular expressions byte by byte and searches them
//! depth first. What [`pattern`] takes are those for which there is no other answer than the one here: the rest is
//! left to Nix.

mod pattern;

use std::{rc::Rc, sync::Arc};

use regex::bytes::{Captures, Regex, RegexBuilder};

use self::pattern::Pattern;
use super::Builtin;
use crate::nix::eval::{
    error::Outcome,
    expr::ExprId,
    machine::{Machine, ThunkId, Val},
};

pub(super) const ALL: &[Builtin] =
    &[Builtin { name: "match", arity: 2, run: matches }, Builtin { name: "split", arity: 2, run: split }];

/// The C++ library's search is recursive: it runs out of stack over a match that is long enough.
const LONGEST_TEXT: usize = 4096;

/// What a compiled expression may take.
const COMPILED_BYTES: usize = 64 << 10;

/// What compiling one counts as.
const COMPILED_STEPS: usize = 4000;

/// A regular expression that is the same everywhere.
#[derive(Debug)]
pub(in crate::nix::eval) struct Compiled {
    pattern: Pattern,
    /// Preferring the first of several alternatives.
    first: Regex,
    /// Preferring the last, where groups tell the difference.
    last: Option<Regex>,
}

/// What groups of a match hold.
type Groups = Vec<Option<std::ops::Range<usize>>>;

impl Compiled {
    fn new(text: &str, whole: bool) -> Option<Compiled> {
        let pattern = Pattern::read(text)?;
        let compiled = |pattern: &str| {
            let pattern = if whole { format!(r"\A(?:{pattern})\z") } else { pattern.to_owned() };
            RegexBuilder::new(&pattern)
                .unicode(false)
                .dot_matches_new_line(true)
                .size_limit(COMPILED_BYTES)
                .build()
                .ok()
        };
        let first = compiled(&pattern.first)?;
        let last =
            if pattern.alternatives && pattern.groups > 0 { Some(compiled(&pattern.last)?) } else { None };
        Some(Compiled { pattern, first, last })
    }
}

fn groups(found: &Captures<'_>) -> Groups {
    found.iter().skip(1).map(|group| group.map(|group| group.range())).collect()
}

impl Machine {
    /// The expression and the text that it is for, if both are such that every Nix agrees on them.
    fn expression(
        &mut self,
        args: &[ThunkId],
        whole: bool,
        at: ExprId,
    ) -> Outcome<(Option<Rc<Compiled>>, Arc<str>)> {
        let expression = self.text_argument(args[0], at)?;
        let text = self.text_argument(args[1], at)?;
        let key = (Arc::clone(&expression), whole);
        let compiled = match self.regexes.get(&key) {
            Some(known) => known.clone(),
            None => {
                self.charge_steps(COMPILED_STEPS)?;
                self.charge(COMPILED_BYTES)?;
                let compiled = Compiled::new(&expression, whole).map(Rc::new);
                self.regexes.insert(key, compiled.clone());
                compiled
            }
        };
        self.charge_steps(1 + text.len() * expression.len() / 64)?;
        // Of other alphabets each byte is a letter to Nix.
        let known = compiled.filter(|compiled| {
            (text.len() <= LONGEST_TEXT || !compiled.pattern.unbounded)
                && (text.is_ascii() || !compiled.pattern.others)
        });
        Ok((known, text))
    }

    fn group_values(&mut self, text: &str, groups: Groups, at: ExprId) -> Outcome<Val> {
        let mut items = Vec::new();
        for group in groups {
            let value = match group.and_then(|range| text.get(range)) {
                Some(group) => self.new_text(group.to_owned())?,
                None => Val::Null,
            };
            items.push(self.done(value, at)?);
        }
        self.list_of(items)
    }
}

fn matches(m: &mut Machine, args: &[ThunkId], at: ExprId) -> Outcome<Val> {
    let (Some(compiled), text) = m.expression(args, true, at)? else {
        return m.unsupported("`match` with this regular expression or text", at);
    };
    let Some(found) = compiled.first.captures(text.as_bytes()) else { return Ok(Val::Null) };
    let found = groups(&found);
    let last = compiled.last.as_ref().and_then(|last| last.captures(text.as_bytes()));
    if compiled.pattern.nested || last.is_some_and(|last| groups(&last) != found) {
        return m.unsupported("`match` where groups may hold one thing or another", at);
    }
    m.group_values(&text, found, at)
}

fn split(m: &mut Machine, args: &[ThunkId], at: ExprId) -> Outcome<Val> {
    let (compiled, text) = m.expression(args, false, at)?;
    let simple = |compiled: &Rc<Compiled>| {
        let pattern = &compiled.pattern;
        !(pattern.nullable || pattern.nested || pattern.alternatives)
    };
    let Some(compiled) = compiled.filter(simple) else {
        return m.unsupported("`split` with this regular expression or text", at);
    };
    let mut items = Vec::new();
    let mut from = 0;
    for found in compiled.first.captures_iter(text.as_bytes()) {
        let Some(whole) = found.get(0) else { continue };
        let before = m.new_text(text.get(from..whole.start()).unwrap_or_default().to_owned())?;
        items.push(m.done(before, at)?);
        let groups = m.group_values(&text, groups(&found), at)?;
        items.push(m.done(groups, at)?);
        from = whole.end();
    }
    let rest = m.new_text(text.get(from..).unwrap_or_default().to_owned())?;
    items.push(m.done(rest, at)?);
    m.list_of(items)
}
