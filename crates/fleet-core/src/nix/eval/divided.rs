//! Large sets, lowered part by part: the tree of one part is dropped before the next one is parsed, so that all of them
//! find room in a processor's nearer cache.
//!
//! What can not be told from one part alone (names that depend on each other, two definitions of one name) is not decided
//! here: every error of this way means that the whole tree is to be lowered.

use rnix::SyntaxKind as K;

use super::{
    error::{Outcome, Sort, Stop},
    expr::{AttrsExpr, Expr, ExprId},
    lower::Lowering,
};
use crate::nix::{divide::Large, parts::Parted, syntax::Node};

impl<'m> Lowering<'m> {
    /// Lowers a whole file of which this is the frame.
    pub(super) fn file_in_parts(&mut self, frame: Node<'_>, parted: &'m Parted<'m>) -> Outcome<ExprId> {
        self.parted = Some((parted, 0));
        let root = self.file(frame)?;
        match self.parted.take() {
            // Else something in it was looked at as if it had no further parts.
            Some((_, lowered)) if lowered == parted.count() => Ok(root),
            _ => Err(self.undivided(frame)),
        }
    }

    /// The further parts of a set.
    pub(super) fn divided(&self, set: Node<'_>) -> Option<&'m Large> {
        let (parted, _) = self.parted?;
        let has_brace = matches!(set.kind(), K::NODE_ATTR_SET | K::NODE_LEGACY_LET);
        parted.closed_at((set.end() as usize).checked_sub(1)?).filter(|_| has_brace)
    }

    /// Lowers a set by its parts.
    pub(super) fn in_parts(&mut self, set: Node<'_>, large: &'m Large) -> Outcome<ExprId> {
        let Some((parted, _)) = self.parted else { return Err(self.undivided(set)) };
        let first = self.entries(set)?;
        if first.recursive {
            return Err(self.undivided(set));
        }
        let (mut statics, mut dynamics) = self.bindings(first, false)?;
        parted.each_other(large, |part| {
            let part = part.ok_or_else(|| self.undivided(set))?;
            // The brace of the last one stands where the set's own does.
            let defs = self.entries(Node::part(part))?;
            let (more, computed) = self.bindings(defs, false)?;
            statics.extend(more);
            dynamics.extend(computed);
            Ok(())
        })?;
        statics.sort_unstable_by_key(|binding| binding.name);
        if statics.windows(2).any(|pair| matches!(pair, [a, b] if a.name == b.name)) {
            return Err(self.undivided(set));
        }
        if let Some((_, lowered)) = &mut self.parted {
            *lowered += 1;
        }
        let attrs = AttrsExpr { recursive: false, statics: statics.into(), dynamics: dynamics.into() };
        Ok(self.add_at(Expr::Attrs(attrs.into()), self.span(set)))
    }

    /// Why a set is not lowered by its parts.
    pub(super) fn undivided(&self, set: Node<'_>) -> Stop {
        Stop::new(Sort::Unsupported, "a set in parts", Some(self.span(set)))
    }
}

#[cfg(test)]
mod tests {
    use std::{path::Path, sync::Arc};

    use proptest::prelude::*;

    use super::super::{Budget, EvalError, Value, machine::Machine, output::Seen};
    use crate::nix::{parts::Parted, syntax::on_large_stack};

    /// What a text comes to, read in parts of this size, and whether it was lowered in that way.
    fn evaluated(text: &str, part: usize) -> (Result<Value, EvalError>, bool) {
        let evaluate = || {
            let mut machine = Machine::new(Budget::default());
            machine.part = part;
            let path = Path::new("/fleet/hosts.nix");
            let outcome = machine.load_text(path, &Arc::from(text), None);
            let outcome = outcome.and_then(|root| machine.deep(root, 0, &mut Seen::default()));
            let in_parts = Parted::new(text, part).is_some_and(|parted| {
                Machine::new(Budget::default()).lower_in_parts(&parted, 0, Path::new("/fleet")).is_some()
            });
            (outcome.map_err(|stop| stop.into_error(&machine.sources)), in_parts)
        };
        on_large_stack(evaluate).unwrap()
    }

    /// The same value or the same error, at the same places, in whatever parts.
    fn same(text: &str, sizes: impl Iterator<Item = usize>) -> usize {
        let (whole, _) = evaluated(text, usize::MAX);
        sizes
            .filter(|size| {
                let (outcome, in_parts) = evaluated(text, *size);
                assert_eq!(outcome, whole, "{size}: {text}");
                in_parts
            })
            .count()
    }

    #[test]
    fn sets_are_lowered_in_parts() {
        for text in [
            "{ a = 1; b = 2; c = { d = 3; e = ./f; g = [ 4 5 ]; }; h.i = 6; }",
            "{\n  a = 1;\n  b = rec {\n    c = 2;\n    d = c;\n  };\n  e = \"x\";\n  f = 3;\n}\n",
            "let k = [ 1 ]; in {\n  a.keys = k;\n  b.keys = k ++ [ 2 ];\n  c = with { x = 1; }; x;\n}\n",
            "{ x = { a = 1; b = 2; }; y = { c = 3; d = 4; }; } // { z = { e = 5; f = 6; }; w = 7; }",
            "let s = { p = 1; q = 2; r = 3; }; in { inherit (s) p q; a = s.r; inherit s; b = 4; ${\"c\"} = 5; d = 6; }",
        ] {
            assert!(same(text, 1..text.len()) > 0, "{text}");
        }
    }

    #[test]
    fn what_depends_on_other_parts_is_told_from_the_whole() {
        for text in [
            "rec { a = b; b = 1; c = 2; }",
            "{ a.x = 1; b = 2; a.y = 3; c = 4; }",
            "{ a = { x = 1; z = 5; w = 6; }; b = 2; a.y = 3; c = 4; }",
            "{ a = 1; b = 2; a = 3; c = 4; }",
            "{ a = 1; b = 2; ${\"a\"} = 3; c = 4; }",
            "let { a = 1; b = a; body = b; }",
            "{ a = 1; b = undefined; c = 2; d = 3; }",
            "{ a = 1; b = ''\n x;\n y; z;\n''; c = 2; d = \"a; b; c;\"; e = 3; # f; g; h;\n i = 4; }",
            "{ a = 1; b = let x = 1; y = 2; in x + y; c = assert true; 3; d = 4; }",
            "{ a = (1}; b = 2); c = 3; d = 4; }",
            "{ a = 1; b = 2; } }",
            "{ a = 1; b = \u{a0}2; c = 3; }",
        ] {
            same(text, 1..text.len());
        }
    }

    const ENTRIES: [&str; 24] = [
        "a = 1;",
        "b = \"x; y\";",
        "c = { d = 1; e = 2; };",
        "c.f = 3;",
        "g = [ 1 { h = 2; } ];",
        "rec;",
        "inherit k;",
        "inherit (s) p;",
        "inherit (s) q r;",
        "i = k;",
        "j = with s; p;",
        "l = rec { m = n; n = 1; };",
        "${\"o\"} = 1;",
        "\"t\" = ''\n  u; v;\n '';",
        "# w;\n",
        "/* x; */",
        "y = let z = 1; in z;",
        "a = 2;",
        "aa = undefined;",
        "bb = s // { p = 2; ee = 3; };",
        "cc = (1);",
        "dd = x: x;",
        "ff = \"${s.p};\";",
        "gg.hh.ii = { jj = 1; };",
    ];

    proptest! {
        #![proptest_config(ProptestConfig { cases: 10_000, ..ProptestConfig::default() })]
        #[test]
        fn parts_mean_what_the_whole_means(
            entries in prop::collection::vec((0..ENTRIES.len(), prop::sample::select(&[" ", "\n", "\n  "][..])), 1..14),
            kind in prop::sample::select(&["{", "rec {", "{ kk = {", "let {"][..]),
            size in 1usize..60,
        ) {
            let mut text = format!("let k = 1; s = {{ p = 1; q = 2; r = 3; }}; in {kind}");
            for (entry, space) in &entries {
                text.push_str(space);
                text.push_str(ENTRIES[*entry]);
            }
            text.push_str(match kind {
                "{ kk = {" => " }; ll = 1; }",
                "let {" => " body = 1; }",
                _ => " }",
            });
            same(&text, [size, 1].into_iter());
        }
    }
}
