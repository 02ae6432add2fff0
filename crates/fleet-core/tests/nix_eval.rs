//! The `nix-eval` example as people and scripts run it: its exit codes, and what goes to which stream.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test stops at the first surprise")]

use std::path::{Path, PathBuf};

use fleet_core::{
    child::{Command, Output},
    deadline::Deadline,
};

/// The built example; without one the test fails in CI and is skipped elsewhere.
fn program() -> Option<PathBuf> {
    let test = std::env::current_exe().unwrap();
    let built = test.parent().and_then(Path::parent).unwrap().join("examples/nix-eval");
    if !built.is_file() {
        assert!(
            std::env::var_os("FLEET_REQUIRE_ORACLES").is_none(),
            "{} is required (FLEET_REQUIRE_ORACLES) and not built",
            built.display()
        );
        eprintln!("skipped: the example nix-eval is not built; run cargo test -p fleet-core");
        return None;
    }
    Some(built)
}

fn run(program: &Path, args: &[&Path]) -> (i32, String, String) {
    let output: Output = Command::new(program).args(args).output(Deadline::secs(60)).unwrap();
    (output.status.code().unwrap(), output.stdout_text(), output.stderr_text())
}

#[test]
fn values_errors_and_constructs_that_are_not_covered() {
    let Some(program) = program() else { return };
    let dir = tempfile::tempdir().unwrap();
    let of = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        let (code, out, err) = run(&program, &[&path]);
        (code, out, err.replace(&dir.path().display().to_string(), "DIR"))
    };

    let (code, out, err) =
        of("value.nix", "let b = 1; in rec { a = [ b 2.5 null ]; c = \"x${toString b}\"; d = ./e; }");
    assert_eq!((code, err.as_str()), (0, ""));
    let value: serde_json::Value = serde_json::from_str(&out).unwrap();
    let path = dir.path().join("e");
    assert_eq!(value, serde_json::json!({ "a": [1, 2.5, null], "c": "x1", "d": path }));
    assert_eq!(out.lines().count(), 1, "one line of JSON: {out}");

    let (code, out, err) = of("error.nix", "{\n  a = missing;\n}\n");
    assert_eq!((code, out.as_str()), (1, ""));
    insta::assert_snapshot!(err, @r#"
    DIR/error.nix:2:7: undefined variable 'missing'
      |
    2 |   a = missing;
      |       ^^^^^^^
    hint: a text goes in quotes: "missing"; a name is bound by `let missing = …; in`
    "#);

    let (code, out, err) = of("syntax.nix", "{ a = ; }");
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(err.contains("DIR/syntax.nix:1:7"), "{err}");

    let (code, out, err) = of("unsupported.nix", "{\n  a = builtins.fetchTarball \"x\";\n}\n");
    assert_eq!((code, out.as_str()), (3, ""));
    insta::assert_snapshot!(err, @r#"
    not covered by the embedded evaluator: DIR/unsupported.nix:2:7: the builtin `fetchTarball`
      |
    2 |   a = builtins.fetchTarball "x";
      |       ^^^^^^^^^^^^^^^^^^^^^
    "#);

    let (code, out, err) = run(&program, &[]);
    assert_eq!((code, out.as_str(), err.as_str()), (2, "", "usage: nix-eval FILE\n"));
    let (code, out, err) = run(&program, &[&dir.path().join("gone.nix")]);
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(err.contains("gone.nix"), "{err}");
}
