//! Hostile and looping files end in a clear error, whatever they do.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that fails says where")]

use std::path::Path;

use fleet_core::nix::eval::{Budget, EvalError, eval_text};

fn outcome(text: &str) -> EvalError {
    eval_text(text, Path::new("/hostile.nix"), Budget::default()).unwrap_err()
}

#[test]
fn recursion_without_end() {
    for text in ["let x = x; in x", "rec { a = b; b = a; }", "let f = { a ? a }: a; in f { }"] {
        let error = outcome(text);
        assert!(matches!(&error, EvalError::Eval(f) if f.message == "infinite recursion"), "{text}: {error}");
    }
    for text in [
        "let f = x: f x; in f 1",
        "let f = x: 1 + f x; in f 1",
        "let f = x: [ (f x) ]; in f 1",
        "let a = { b = a; }; in a",
        "let f = n: { x = f (n + 1); }; in f 0",
        "let s = { __toString = self: self; }; in \"${s}\"",
        "let s = { __functor = self: self; }; in s 1",
    ] {
        let error = outcome(text);
        assert!(matches!(error, EvalError::Budget(_) | EvalError::Eval(_)), "{text}: {error}");
    }
}

#[test]
fn loops_and_floods() {
    for text in [
        "builtins.foldl' (a: b: a + b) 0 (builtins.genList (x: x) 100000000)",
        "builtins.length (builtins.concatLists (builtins.genList (x: builtins.genList (y: y) 100000) 100000))",
        "let d = s: s + s; in builtins.stringLength (builtins.foldl' (s: x: d s) \"x\" (builtins.genList (x: x) 60))",
        "let d = l: l ++ l; in builtins.length (builtins.foldl' (l: x: d l) [ 1 ] (builtins.genList (x: x) 60))",
        "let f = n: if n == 0 then 0 else f (n - 1) + f (n - 1); in f 40",
        "builtins.concatStringsSep \"x\" (builtins.genList (x: builtins.concatStringsSep \"yyyyyyyyyy\" (builtins.genList toString 100000)) 10000)",
        "builtins.replaceStrings [ \"\" ] [ (builtins.concatStringsSep \"y\" (builtins.genList toString 100000)) ] (builtins.concatStringsSep \"\" (builtins.genList toString 100000))",
    ] {
        let error = outcome(text);
        assert!(matches!(error, EvalError::Budget(_)), "{text}: {error}");
    }
}

#[test]
fn shared_data_stays_shared() {
    // Two to the power of 40 leaves if it were written out.
    let mut text = "let x0 = [ 1 ]; ".to_owned();
    for n in 1..=40 {
        text.push_str(&format!("x{n} = [ x{0} x{0} ]; ", n - 1));
    }
    text.push_str("in x40");
    let value = eval_text(&text, Path::new("/hostile.nix"), Budget::default()).unwrap();
    assert!(matches!(value.to_json(), Err(EvalError::Budget(_))));
}

#[test]
fn nesting_of_every_sort() {
    let deep =
        |open: &str, close: &str, count: usize| format!("{}1{}", open.repeat(count), close.repeat(count));
    for count in [600, 100_000] {
        for text in [
            deep("(", ")", count),
            deep("[", "]", count),
            deep("{ a = ", "; }", count),
            deep("-", "", count),
            deep("!", "", count),
            deep("x: ", "", count),
            deep("let a = 1; in ", "", count),
            deep("with { }; ", "", count),
            deep("if true then ", " else 1", count),
            deep("assert true; ", "", count),
            deep("\"${", "}\"", count),
            deep("''${", "}''", count),
            deep("f (", ")", count),
            format!("1{}", " + 1".repeat(count)),
            format!("[ ]{}", " ++ [ ]".repeat(count)),
            format!("{{ }}{}", " // { }".repeat(count)),
            format!("true{}", " -> true".repeat(count)),
            format!("f{}", " a".repeat(count)),
            format!("a{}", ".a".repeat(count)),
            format!("{{ a{} = 1; }}", ".a".repeat(count)),
            format!("{{ ?{}", "a, ".repeat(count)),
            deep("[", "", count),
            deep("{", "", count),
            deep("(", "", count),
            deep("''", "", count),
            deep("/*", "", count),
        ] {
            // Whatever it comes to, it comes to it without exhausting the stack.
            let _ = eval_text(&text, Path::new("/hostile.nix"), Budget::default());
        }
    }
}

#[test]
fn files_that_import_each_other() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a.nix"), "import ./b.nix").unwrap();
    std::fs::write(dir.path().join("b.nix"), "{ b = (import ./a.nix).b; }").unwrap();
    let error = fleet_core::nix::eval::eval_file(&dir.path().join("a.nix"), Budget::default()).unwrap_err();
    assert!(error.to_string().contains("infinite recursion"), "{error}");
}

/// What a builtin does in one call can take as long as a million expressions: it counts for as many.
#[test]
fn work_inside_of_one_call_counts() {
    let budget = Budget { steps: 100_000, ..Budget::default() };
    let text =
        "s = builtins.foldl' (s: x: s + s) \"0123456789abcdef\" (builtins.genList (x: x) 16); t = \"${s}\"; ";
    let list = "l = builtins.genList (x: \"\") 9000; sets = builtins.genList (x: { }) 9000; ";
    let set = "a = builtins.listToAttrs (builtins.genList (x: { name = toString x; value = x; }) 500); b = a // { \"499\" = 0; }; ";
    for work in [
        "s == t",
        "s < t",
        "{ } ? ${s}",
        "builtins.hasAttr s { }",
        "builtins.sort builtins.lessThan [ s t ]",
        "baseNameOf s",
        "dirOf (/. + s)",
        "/. + s",
        "builtins.pathExists \"/${s}\"",
        "builtins.concatStringsSep \"\" l",
        "toString l",
        "builtins.catAttrs \"a\" sets",
        "builtins.zipAttrsWith (n: v: v) sets",
        "removeAttrs { } l",
        "builtins.attrNames a",
        "a == b",
        "builtins.intersectAttrs { } a",
        "builtins.pathExists /nowhere",
        "builtins.readDir /nowhere/${\"/\"}..",
        "deep.x.x.x.x.x.x.x.x.x.x.x.x.x.x.x.x.x.x.x.x.x.x.x.x.x.x.x.x.x.x.x.x.x.x.x.x.x.x.x.x.x.x.x.x.x.x.x.x",
        "deep ? x.x.x.x.x.x.x.x.x.x.x.x.x.x.x.x.x.x.x.x.x.x.x.x.x.x.x.x.x.x.x.x.x.x.x.x.x.x.x.x.x.x.x.x.x.x.x",
    ] {
        // Two thousand times: far fewer steps than the budget, were it counted by expressions.
        let text = format!(
            "let {text}{list}{set}deep = {{ x = deep; }}; in builtins.foldl' (n: i: builtins.seq ({work}) n) 0 \
             (builtins.genList (x: x) 6000)"
        );
        let error = eval_text(&text, Path::new("/hostile.nix"), budget).unwrap_err();
        assert!(matches!(error, EvalError::Budget(_)), "{work}: {error}");
    }
    let nested = |count: usize| {
        let scopes: String = (0..count).map(|n| format!("let a{n} = 1; in ")).collect();
        format!("let b = 1; in {scopes}[ {}]", "b ".repeat(90_000))
    };
    let error = outcome(&nested(400));
    assert!(matches!(error, EvalError::Budget(_)), "{error}");
    let with = format!("with {{ c = 1; }}; {}builtins.genList (x: c) 2000", "with { }; ".repeat(400));
    let error = eval_text(&with, Path::new("/hostile.nix"), budget).unwrap_err();
    assert!(matches!(error, EvalError::Budget(_)), "{error}");
}

/// A pattern of very long strings that almost match.
#[test]
fn long_patterns_count() {
    let error = outcome(
        "let s = builtins.foldl' (s: x: s + s) \"aaaaaaaaaaaaaaaa\" (builtins.genList (x: x) 13); \
         in builtins.replaceStrings [ \"${builtins.substring 0 60000 s}b\" ] [ \"\" ] s",
    );
    assert!(matches!(error, EvalError::Budget(_)), "{error}");
}

#[test]
fn what_not_every_nix_takes() {
    for text in [r#"builtins.fromJSON ''{"a\u0000": 1}''"#, r#"builtins.fromJSON ''["a\u0000"]''"#] {
        let error = outcome(text);
        assert!(matches!(error, EvalError::Unsupported(_)), "{text}: {error}");
    }
}

/// Given up, and not handed to the nix program, which would read on.
#[test]
fn files_that_do_not_end() {
    let given_up = |text: &str| {
        let error = outcome(text);
        assert!(matches!(error, EvalError::Budget(_)), "{text}: {error}");
    };
    given_up("builtins.readFile /dev/zero");
    given_up("import /dev/zero");
    given_up("builtins.readFile /proc/self/maps");
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("pipe");
    let made =
        fleet_core::child::Command::new("mkfifo").arg(&pipe).output(fleet_core::deadline::Deadline::secs(10));
    assert!(made.unwrap().success());
    given_up(&format!("builtins.readFile {}", pipe.display()));
    given_up(&format!("import {}", pipe.display()));
}

#[test]
fn files_of_millions_of_words() {
    for text in [
        format!("[ {}]", "1 ".repeat(1_100_000)),
        "}".repeat(2_100_000),
        "<a".repeat(200_000),
        format!("{{ {} }}: 1", (0..50_000).map(|n| format!("a{n}")).collect::<Vec<_>>().join(", ")),
        // Never closed, and all on one line.
        format!("{{ {}", "a = { };   ".repeat(180_000)),
        format!("{{ {} }}", (0..50_000).map(|n| format!("${{\"a\" + \"{n}\"}} = 1;")).collect::<String>()),
    ] {
        // Whatever it comes to, it comes to it soon.
        let _ = eval_text(&text, Path::new("/hostile.nix"), Budget::default());
    }
}
