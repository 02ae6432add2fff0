//! Expressions made by proptest: mostly well typed, so that most have a value, and odd in the places where Nix is.
#![allow(clippy::redundant_clone, reason = "strategies are written as a table")]

use proptest::{
    collection::vec,
    prelude::*,
    strategy::{Strategy, ValueTree},
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};

/// The same expressions in every run.
pub(crate) fn expressions(count: usize) -> Vec<String> {
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, b"the embedded evaluator and nix  ");
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let whole = program();
    (0..count).map(|_| whole.new_tree(&mut runner).unwrap().current()).collect()
}

/// Regular expressions over two letters, mostly right, each asked of a short text of them.
pub(crate) fn regular_expressions(count: usize) -> Vec<String> {
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, b"regular expressions and what not");
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let one = prop::sample::select(vec![
        "a",
        "b",
        "b",
        "c",
        ".",
        "[ab]",
        "[^a]",
        "[[:alpha:]]",
        "[a-c]",
        r"\\.",
        "-",
        "]",
        "}",
        "^",
        "$",
    ])
    .prop_map(str::to_owned);
    let pattern = one.prop_recursive(4, 16, 4, |inner| {
        let times = prop::sample::select(vec!["", "", "", "*", "+", "?", "{2}", "{1,2}", "{0,1}", "{2,}"]);
        let atom = prop_oneof![2 => inner.clone(), 1 => inner.clone().prop_map(|inner| format!("({inner})"))];
        let piece = (atom, times).prop_map(|(atom, times)| format!("{atom}{times}"));
        let branch = vec(piece, 1..4).prop_map(|pieces| pieces.concat());
        prop_oneof![3 => branch.clone(), 1 => vec(branch, 2..3).prop_map(|all| format!("({})", all.join("|")))]
    });
    let ask = prop::sample::select(vec!["match", "split"]);
    let asked = (ask, pattern, "[ab]{0,6}|[abc.-]{0,8}").prop_map(|(ask, pattern, text)| {
        format!("builtins.{ask} \"{}\" \"{text}\"", pattern.replace("${", "$"))
    });
    (0..count).map(|_| asked.new_tree(&mut runner).unwrap().current()).collect()
}

type Text = BoxedStrategy<String>;

/// Strategies for each type, of one depth.
#[derive(Clone)]
struct Types {
    int: Text,
    text: Text,
    boolean: Text,
    list: Text,
    set: Text,
    any: Text,
}

/// The whole program: names that the expressions use are bound around them.
fn program() -> Text {
    let mut types = leaves();
    for _ in 0..4 {
        types = deeper(&types);
    }
    // What is bound first is used by what is bound second, and both by the body.
    (types.int, types.text, types.set, types.any)
        .prop_map(|(i, s, a, body)| {
            format!(
                "let i = 3; s = \"q\"; b = true; l = [ 1 2 ]; a = {{ x = 1; y = {{ z = 2; }}; }}; f = x: x; g = {{ x, y \
                 ? x, ... }}@all: all // {{ inherit y; }}; in let j = {i}; t = {s}; c = {a}; in let i = j; s = t; a = c; \
                 in {body}"
            )
        })
        .boxed()
}

fn leaves() -> Types {
    let int = prop_oneof![
        12 => (0i64..20).prop_map(|n| n.to_string()),
        8 => Just("i".to_owned()),
        2 => Just("1.5".to_owned()),
        4 => Just("(-3)".to_owned()),
        1 => Just("9223372036854775807".to_owned()),
    ]
    .boxed();
    let text = prop_oneof![
        3 => "[a-c ]{0,4}".prop_map(|text| format!("\"{text}\"")),
        2 => Just("s".to_owned()),
        1 => prop::sample::select(vec![
            r#""\n\t\"\\\${x}""#, r#""$ $$ $${x}""#, "''\n  x\n    y\n''", "''a''", "''\n  ''${x} ''\\n ''' $\n ''", "''\t\n b''",
        ]).prop_map(str::to_owned),
    ]
    .boxed();
    let boolean =
        prop_oneof![Just("true".to_owned()), Just("false".to_owned()), Just("b".to_owned())].boxed();
    let list =
        prop_oneof![Just("[ ]".to_owned()), Just("l".to_owned()), Just("[ 1 2 3 ]".to_owned())].boxed();
    let set = prop_oneof![
        Just("{ }".to_owned()),
        Just("a".to_owned()),
        Just("{ x = 1; y = { z = 2; }; }".to_owned())
    ]
    .boxed();
    let any = prop_oneof![
        8 => int.clone(), 8 => text.clone(), 8 => boolean.clone(), 8 => list.clone(), 8 => set.clone(),
        4 => Just("null".to_owned()), 1 => Just("(throw \"t\")".to_owned()), 1 => Just("(x: x)".to_owned()),
    ]
    .boxed();
    Types { int, text, boolean, list, set, any }
}

/// A value of the type, or, now and then, of another one.
fn mostly(right: &Text, any: &Text) -> Text {
    prop_oneof![60 => right.clone(), 1 => any.clone()].boxed()
}

/// One of several ways to write something of a type around something smaller of that type.
fn around(inner: &Types, of: &Text) -> Text {
    let of = of.clone();
    prop_oneof![
        (inner.boolean.clone(), of.clone(), of.clone())
            .prop_map(|(c, t, e)| format!("(if {c} then {t} else {e})")),
        (inner.any.clone(), of.clone()).prop_map(|(v, e)| format!("(let v = {v}; in {e})")),
        (inner.int.clone(), of.clone()).prop_map(|(i, e)| format!("(let j = {i}; in let i = j; in {e})")),
        (inner.set.clone(), of.clone()).prop_map(|(s, e)| format!("(with {s}; {e})")),
        (inner.boolean.clone(), of.clone()).prop_map(|(c, e)| format!("(assert {c}; {e})")),
        of.clone().prop_map(|e| format!("(f {e})")),
        (name(), of.clone()).prop_map(|(n, e)| format!("{{ {n} = {e}; }}.{n}")),
        (name(), of.clone(), of.clone()).prop_map(|(n, e, d)| format!("({{ {n} = {e}; }}.x or {d})")),
        (of.clone(), of.clone()).prop_map(|(x, d)| format!("(({{ x, y ? {d} }}: y) {{ x = {x}; }})")),
        (of.clone(), inner.any.clone()).prop_map(|(x, y)| format!("((x: y: x) {x} {y})")),
        of.clone().prop_map(|e| format!("(rec {{ p = q; q = {e}; }}).p")),
        of.prop_map(|e| format!("(builtins.seq 1 {e})")),
    ]
    .boxed()
}

fn name() -> Text {
    prop::sample::select(vec!["x", "y", "z", "\"a b\"", "or", "x'"]).prop_map(str::to_owned).boxed()
}

fn deeper(t: &Types) -> Types {
    let (i, s, b, l, a) = (
        mostly(&t.int, &t.any),
        mostly(&t.text, &t.any),
        mostly(&t.boolean, &t.any),
        mostly(&t.list, &t.any),
        mostly(&t.set, &t.any),
    );
    let v = t.any.clone();
    let operator = |ops: &[&'static str]| prop::sample::select(ops.to_vec());
    let int = prop_oneof![
        2 => t.int.clone(),
        3 => (i.clone(), operator(&["+", "-", "*", "/"]), i.clone()).prop_map(|(x, o, y)| format!("({x} {o} {y})")),
        1 => (i.clone(), operator(&["+", "-", "*"]), i.clone(), operator(&["+", "-", "*", "/"]), i.clone())
            .prop_map(|(x, o, y, p, z)| format!("({x} {o} {y} {p} {z})")),
        1 => i.clone().prop_map(|x| format!("(- {x})")),
        1 => l.clone().prop_map(|x| format!("(builtins.length {x})")),
        1 => s.clone().prop_map(|x| format!("(builtins.stringLength {x})")),
        1 => l.clone().prop_map(|x| format!("(builtins.foldl' (p: q: p + 1) 0 {x})")),
        1 => (l.clone(), i.clone()).prop_map(|(x, y)| format!("(builtins.elemAt {x} {y})")),
        2 => around(t, &t.int),
    ]
    .boxed();
    let text = prop_oneof![
        2 => t.text.clone(),
        2 => (s.clone(), s.clone()).prop_map(|(x, y)| format!("({x} + {y})")),
        2 => (s.clone(), s.clone()).prop_map(|(x, y)| format!("\"<${{{x}}}-${{{y}}}>\"")),
        2 => (s.clone(), s.clone()).prop_map(|(x, y)| format!("''\n    ${{{x}}} a\n      b ${{{y}}}\n  ''")),
        1 => v.clone().prop_map(|x| format!("(toString {x})")),
        1 => (s.clone(), l.clone()).prop_map(|(x, y)| format!("(builtins.concatStringsSep {x} (map toString {y}))")),
        1 => (i.clone(), i.clone(), s.clone()).prop_map(|(x, y, z)| format!("(builtins.substring {x} {y} {z})")),
        1 => s.clone().prop_map(|x| format!("(builtins.replaceStrings [ \"a\" \"b\" ] [ \"b\" \"\" ] {x})")),
        1 => v.clone().prop_map(|x| format!("(builtins.toJSON {x})")),
        1 => v.clone().prop_map(|x| format!("(builtins.typeOf {x})")),
        2 => around(t, &t.text),
    ]
    .boxed();
    let boolean = prop_oneof![
        1 => t.boolean.clone(),
        2 => (b.clone(), operator(&["&&", "||", "->"]), b.clone()).prop_map(|(x, o, y)| format!("({x} {o} {y})")),
        2 => (i.clone(), operator(&["<", "<=", ">", ">=", "==", "!="]), i.clone()).prop_map(|(x, o, y)| format!("({x} {o} {y})")),
        1 => (s.clone(), operator(&["<", ">=", "=="]), s.clone()).prop_map(|(x, o, y)| format!("({x} {o} {y})")),
        1 => (l.clone(), operator(&["<", "==", ">="]), l.clone()).prop_map(|(x, o, y)| format!("({x} {o} {y})")),
        1 => (v.clone(), v.clone()).prop_map(|(x, y)| format!("({x} == {y})")),
        1 => (a.clone(), name()).prop_map(|(x, n)| format!("({x} ? {n})")),
        1 => (a.clone(), name(), name()).prop_map(|(x, n, m)| format!("({x} ? {n}.{m})")),
        1 => b.clone().prop_map(|x| format!("(!{x})")),
        1 => (v.clone(), l.clone()).prop_map(|(x, y)| format!("(builtins.elem {x} {y})")),
        1 => v.clone().prop_map(|x| format!("(builtins.tryEval {x}).success")),
        1 => around(t, &t.boolean),
    ]
    .boxed();
    let list = prop_oneof![
        1 => t.list.clone(),
        3 => vec(v.clone(), 0..4).prop_map(|items| format!("[ {} ]", items.iter().map(|i| format!("({i})")).collect::<Vec<_>>().join(" "))),
        2 => (l.clone(), l.clone()).prop_map(|(x, y)| format!("({x} ++ {y})")),
        1 => l.clone().prop_map(|x| format!("(map (e: [ e ]) {x})")),
        1 => l.clone().prop_map(|x| format!("(builtins.filter (e: builtins.isInt e) {x})")),
        1 => l.clone().prop_map(|x| format!("(builtins.sort (p: q: p < q) {x})")),
        1 => a.clone().prop_map(|x| format!("(builtins.attrNames {x})")),
        1 => a.clone().prop_map(|x| format!("(builtins.attrValues {x})")),
        1 => (0usize..5).prop_map(|n| format!("(builtins.genList (n: n * i) {n})")),
        1 => around(t, &t.list),
    ]
    .boxed();
    let set = prop_oneof![
        1 => t.set.clone(),
        3 => vec((path(), v.clone()), 0..4).prop_map(|attrs| braces("", &attrs)),
        2 => vec((name(), v.clone()), 0..4).prop_map(|attrs| braces("rec ", &attrs)),
        2 => (a.clone(), a.clone()).prop_map(|(x, y)| format!("({x} // {y})")),
        1 => (s.clone(), v.clone()).prop_map(|(n, x)| format!("{{ ${{{n}}} = {x}; k = 1; }}")),
        1 => Just("{ inherit i s b; }".to_owned()),
        1 => a.clone().prop_map(|x| format!("{{ inherit ({x}) x y; }}")),
        1 => a.clone().prop_map(|x| format!("(builtins.mapAttrs (n: e: [ n e ]) {x})")),
        1 => (a.clone(), a.clone()).prop_map(|(x, y)| format!("(builtins.intersectAttrs {x} {y})")),
        1 => a.clone().prop_map(|x| format!("(removeAttrs {x} [ \"x\" ])")),
        1 => a.clone().prop_map(|x| format!("(g ({x} // {{ x = 1; }}))")),
        1 => (s.clone(), v.clone()).prop_map(|(n, x)| format!("(builtins.listToAttrs [ {{ name = {n}; value = {x}; }} ])")),
        1 => v.clone().prop_map(|x| format!("(builtins.tryEval {x})")),
        1 => around(t, &t.set),
    ]
    .boxed();
    let any = prop_oneof![
        4 => int.clone(), 4 => text.clone(), 4 => boolean.clone(), 4 => list.clone(), 4 => set.clone(), 1 => t.any.clone(),
    ]
    .boxed();
    Types { int, text, boolean, list, set, any }
}

/// An attribute path.
fn path() -> Text {
    vec(name(), 1..3).prop_map(|names| names.join(".")).boxed()
}

/// A set of these attributes. Names that are there twice are an error in Nix unless both are sets: most are left
/// out, so that most sets are valid.
fn braces(before: &str, attrs: &[(String, String)]) -> String {
    let first = |name: &str| name.split('.').next().unwrap_or_default().to_owned();
    let mut seen = Vec::new();
    let mut text = String::new();
    for (name, value) in attrs {
        let again = seen.contains(&first(name));
        if !again || value.len() % 8 == 0 {
            text.push_str(&format!("{name} = {value}; "));
        }
        seen.push(first(name));
    }
    format!("({before}{{ {text}}})")
}
