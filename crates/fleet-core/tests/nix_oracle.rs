//! The embedded evaluator against the nix program: equal, or both fail, or `Unsupported`. Never wrong.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::cast_precision_loss,
    reason = "a test that fails says where"
)]

mod nix_generator;
mod nix_support;

use nix_support::{Most, beside, compare, compare_files, nix};

#[test]
fn expressions_of_every_construct() {
    let Some(nix) = nix() else { return };
    let all = include_str!("nix/expressions.txt");
    let expressions: Vec<String> = all.split("\n%%\n").map(str::to_owned).collect();
    assert!(expressions.len() >= 150);
    let dir = tempfile::tempdir().unwrap();
    compare(&nix, dir.path(), &expressions).check("own expressions", Most { unsupported: 9.0, budget: 0 });
}

/// What files of data do: texts of every form, defaults, sets from sets, builtins, files beside them.
#[test]
fn expressions_of_files_of_data() {
    let Some(nix) = nix() else { return };
    let all = include_str!("nix/data.txt");
    let expressions: Vec<String> = all.split("\n%%\n").map(str::to_owned).collect();
    assert!(expressions.len() >= 400);
    let dir = tempfile::tempdir().unwrap();
    beside(dir.path());
    compare(&nix, dir.path(), &expressions)
        .check("expressions of data", Most { unsupported: 8.0, budget: 0 });
}

#[test]
fn regular_expressions() {
    let Some(nix) = nix() else { return };
    let all = std::env::var_os("FLEET_REQUIRE_ORACLES").is_some();
    let expressions = nix_generator::regular_expressions(if all { 3_000 } else { 300 });
    let dir = tempfile::tempdir().unwrap();
    // Half of what the generator makes is no regular expression, or not the same one everywhere.
    compare(&nix, dir.path(), &expressions)
        .check("regular expressions", Most { unsupported: 55.0, budget: 0 });
}

#[test]
fn generated_expressions() {
    let Some(nix) = nix() else { return };
    // As many as CI asks for take nix a minute; a tenth is enough between two edits.
    let all = std::env::var_os("FLEET_REQUIRE_ORACLES").is_some();
    let (count, unsupported) = if all { (10_000, 2.5) } else { (1_000, 5.0) };
    let expressions = nix_generator::expressions(count);
    let dir = tempfile::tempdir().unwrap();
    // Two sessions at once: nix takes most of the time.
    let half = expressions.len() / 2;
    let (first, second) = expressions.split_at(half);
    let dirs = [dir.path().join("a"), dir.path().join("b")];
    for dir in &dirs {
        std::fs::create_dir(dir).unwrap();
    }
    let (a, b) = std::thread::scope(|scope| {
        let a = scope.spawn(|| compare(&nix, &dirs[0], first));
        let b = compare(&nix, &dirs[1], second);
        (a.join().unwrap(), b)
    });
    a.plus(b).check("generated expressions", Most { unsupported, budget: 0 });
}

/// What has one token too many, too few or of another kind is no Nix most of the time, and then nobody may read it.
#[test]
fn expressions_with_a_mistake() {
    const OTHERS: &[&str] = &[
        "}", "]", ")", "{", "[", "(", ";", ":", ",", "=", "in", "else", "inherit", ".", "~", "''", "\"",
        "${", "//",
    ];
    let Some(nix) = nix() else { return };
    let all = std::env::var_os("FLEET_REQUIRE_ORACLES").is_some();
    let count = if all { 4_000 } else { 400 };
    let broken: Vec<String> = nix_generator::expressions(count)
        .iter()
        .enumerate()
        .map(|(index, expression)| {
            let mut tokens: Vec<&str> = rnix::tokenize(expression).map(|(_, token)| token).collect();
            // Somewhere else in each, the same in every run.
            let at = index.wrapping_mul(7919) % tokens.len();
            match index % 4 {
                0 => drop(tokens.remove(at)),
                1 => tokens.insert(at, OTHERS[index / 4 % OTHERS.len()]),
                2 => tokens[at] = OTHERS[index / 4 % OTHERS.len()],
                _ => tokens.insert(at, tokens[at]),
            }
            tokens.concat()
        })
        .collect();
    let dir = tempfile::tempdir().unwrap();
    compare(&nix, dir.path(), &broken)
        .check("expressions with a mistake", Most { unsupported: 9.5, budget: 0 });
}

/// The tests of the Nix language itself, where `NIX_LANG_TESTS` says where they are (`tests/functional/lang` of
/// the sources of Nix, `tests/lang` in older ones). Nix says what is right: their expected outputs differ by
/// version, and it is the installed one that must agree. Newer ones test more builtins that no data file uses.
#[test]
fn the_language_tests_of_nix() {
    let (Some(nix), Some(tests)) = (nix(), std::env::var_os("NIX_LANG_TESTS")) else {
        eprintln!("skipped: NIX_LANG_TESTS does not name the language tests of Nix (.ci/run gets them)");
        return;
    };
    let mut files: Vec<_> = std::fs::read_dir(tests)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "nix"))
        // Those that need flags are about the program, not the language.
        .filter(|path| !path.with_extension("flags").exists())
        .collect();
    files.sort();
    assert!(files.len() > 100);
    let dir = tempfile::tempdir().unwrap();
    compare_files(&nix, dir.path(), &files).check("language tests", Most { unsupported: 40.0, budget: 5 });
}
