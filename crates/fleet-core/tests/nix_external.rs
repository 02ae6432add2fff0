//! What the nix program reads where the embedded evaluator stops.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "a test that fails says where")]

use std::{fs, path::Path};

use fleet_core::nix::{NixMode, eval::Data, external, read};

/// The nix program; without it the test says that it was skipped, or fails where oracles are required.
fn nix() -> bool {
    if external::program().is_some() {
        return true;
    }
    assert!(std::env::var_os("FLEET_REQUIRE_ORACLES").is_none(), "nix is required and not on PATH");
    eprintln!("skipped: nix is not on PATH");
    false
}

#[test]
fn the_same_value_from_both_for_this_repository() {
    if !nix() {
        return;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap();
    for file in ["vms/definitions.nix", "hosts.nix"] {
        let path = root.join(file);
        let embedded = read(&path, &root, NixMode::Embedded).unwrap();
        let external = read(&path, &root, NixMode::Nix).unwrap();
        assert_eq!(embedded.to_json().unwrap(), external.to_json().unwrap(), "{file}");
        // Places of attributes too.
        let keys = |evaluated: &fleet_core::nix::eval::Evaluated| {
            let attrs = evaluated.value.attrs().unwrap().to_vec();
            attrs.iter().map(|a| evaluated.locate(a.key).unwrap().to_string()).collect::<Vec<_>>()
        };
        assert_eq!(keys(&embedded), keys(&external), "{file}");
    }
}

#[test]
fn what_is_not_covered_goes_to_nix() {
    if !nix() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.nix");
    fs::write(
        &file,
        "{ a = builtins.hashString \"sha256\" \"\"; p = ./x; f = 1.5; n = null; l = [ true ./. ]; }",
    )
    .unwrap();
    let value = read(&file, dir.path(), NixMode::Auto).unwrap();
    let hash = value.value.get("a").unwrap().value.as_str().unwrap();
    assert_eq!(hash, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    assert_eq!(value.value.get("p").unwrap().value.data, Data::Path(dir.path().join("x").as_path().into()));
    assert_eq!(value.value.get("f").unwrap().value.data, Data::Float(1.5));

    fs::write(&file, "{ a = builtins.hashString \"sha256\" (throw \"no\"); }").unwrap();
    let error = read(&file, dir.path(), NixMode::Auto).unwrap_err();
    assert!(error.message().contains("no"), "{error:?}");
    assert!(error.facts()[0].contains("a.nix:1:7: not covered"), "{error:?}");
}

#[test]
fn what_nix_says_has_its_place() {
    if !nix() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.nix");
    fs::write(&file, "{\n  a = { b = [ missing ]; };\n}\n").unwrap();
    let error = read(&file, dir.path(), NixMode::Nix).unwrap_err();
    let faults = fleet_core::faults::of(&error);
    assert_eq!(faults[0].render().lines().next(), Some("a.nix:2:15: undefined variable 'missing'"));
}

#[test]
fn without_nix_the_construct_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.nix");
    fs::write(&file, "{\n  a = import <nixpkgs> { };\n}\n").unwrap();
    let error = read(&file, dir.path(), NixMode::Embedded).unwrap_err();
    insta::assert_snapshot!(format!("{}\nhint: {}", error.message(), error.hints()[0]), @r#"
    a.nix:2:14: not covered by the built-in Nix evaluator: a search path (<…>)
      |
    2 |   a = import <nixpkgs> { };
      |              ^^^^^^^^^
    hint: install Nix (https://nixos.org/download): with `nix` on PATH this file is read by `nix eval`
    "#);
}
