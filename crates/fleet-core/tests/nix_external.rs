//! What the nix program reads where the embedded evaluator stops.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "a test that fails says where")]

use std::{fs, path::Path};

use fleet_core::{
    Kind,
    nix::{
        NixMode,
        edit::{Change, NewHost, apply, insert_entry, remove_host, set_attr, verified},
        eval::Data,
        external, read,
    },
};

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
fn an_edit_of_a_file_that_reads_itself_is_not_proven_by_nix() {
    if !nix() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("hosts.nix");
    let text = "{\n  a = { user = \"u\"; };\n  b = { all = builtins.attrNames (import ./hosts.nix); };\n}\n";
    fs::write(&file, text).unwrap();
    let change = Change::Insert { name: "c".to_owned(), host: NewHost::default() };
    let error = apply(text, &file, &change, NixMode::Nix).unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    assert!(error.message().contains("it reads itself"), "{error:?}");
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

/// Files that only nix can read, each with a host `web` whose `publicKey` is "old".
const ONLY_NIX: &[&str] = &[
    "let\n  keys = builtins.filter builtins.isString (builtins.split \"\\r|\\n\" (builtins.readFile ./keys));\nin\n{\n  web = {\n    \
     publicKey = \"old\";\n    authorizedKeys = keys;\n  };\n}\n",
    "{\r\n  web = {\r\n    publicKey = \"old\";\r\n    notes = ''\r\n      two\r\n      lines\r\n    '';\r\n  };\r\n}\r\n",
    "{\n  web = {\n    publicKey = \"old\";\n    modules = [ ({ pkgs, ... }: { }) ];\n    home = https://x.y;\n  };\n}\n",
    "{\n  web = rec {\n    publicKey = \"old\";\n    configurationFile = ./hosts/web.nix;\n  };\n  web.hash = builtins.hashString \
     \"sha256\" \"\";\n}\n",
];

#[test]
fn what_only_nix_reads_is_edited_and_proven_by_nix() {
    if !nix() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let linked = dir.path().join("link");
    fs::create_dir(dir.path().join("fleet")).unwrap();
    std::os::unix::fs::symlink("fleet", &linked).unwrap();
    fs::write(linked.join("keys"), "one\ntwo").unwrap();
    let file = linked.join("hosts.nix");
    for text in ONLY_NIX {
        fs::write(&file, text).unwrap();
        let host = NewHost {
            configuration_file: Some("./hosts/nova/configuration.nix".to_owned()),
            user: Some("u".to_owned()),
            ..NewHost::default()
        };
        let insert = Change::Insert { name: "nova".to_owned(), host };
        let error = apply(text, &file, &insert, NixMode::Embedded).unwrap_err();
        assert!(error.hints()[0].contains("--nix auto"), "{error:?}");
        for mode in [NixMode::Auto, NixMode::Nix] {
            let after = apply(text, &file, &insert, mode).unwrap_or_else(|e| panic!("{}\n{text}", e.chain()));
            assert!(
                !text.contains("Keys") || after.matches("authorizedKeys = keys;").count() == 2,
                "{after}"
            );
            assert_eq!(&remove_host(&after, "nova").unwrap(), text);
        }
        let set = |value: &str| Change::Set {
            host: "web".to_owned(),
            attr: "publicKey".to_owned(),
            value: value.to_owned(),
        };
        let after = set_attr(text, "web", "publicKey", "new").unwrap();
        verified(text, &after, &file, &set("new"), NixMode::Auto).unwrap();
        let error = verified(text, &after, &file, &set("other"), NixMode::Auto).unwrap_err();
        assert_eq!(error.kind(), Kind::Refused, "{error:?}");
        let gone = remove_host(text, "web").unwrap();
        verified(text, &gone, &file, &Change::Remove { name: "web".to_owned() }, NixMode::Auto).unwrap();
        // Nothing but what was there.
        assert_eq!(fs::read_to_string(&file).unwrap(), *text);
        assert_eq!(fs::read_dir(&linked).unwrap().count(), 2);
    }
}

#[test]
fn what_nix_can_not_prove_is_refused() {
    if !nix() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("hosts.nix");
    let said = |text: &str, value: &str| {
        let change = Change::Set { host: "a".to_owned(), attr: "user".to_owned(), value: value.to_owned() };
        let error = apply(text, &file, &change, NixMode::Auto).unwrap_err();
        assert_eq!(error.kind(), Kind::Refused, "{error:?}");
        error.message().replace(&file.display().to_string(), "FILE")
    };
    let used = "rec {\n  a = { user = \"x\"; };\n  c = { user = builtins.hashString \"md5\" a.user; };\n}\n";
    assert_eq!(
        said(used, "y"),
        "can not edit FILE: c.user is made from what would change, and would change too"
    );
    let broken = "rec {\n  a = { user = \"md5\"; };\n  c = { user = builtins.hashString a.user \"\"; };\n}\n";
    assert!(
        said(broken, "no").starts_with("can not edit FILE: it would not evaluate any more: unknown hash")
    );
    let function = "rec {\n  a = { user = \"x\"; h = https://x.y; };\n  c.f = x: a;\n}\n";
    assert!(
        said(function, "y")
            .contains("c.f is or holds a function, which can not be compared, and line 3 uses `a`")
    );
}

#[test]
fn definitions_that_only_nix_reads_take_a_vm_more() {
    if !nix() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("definitions.nix");
    let text =
        "{\n  managed = {\n    a = {\n      notes = builtins.hashString \"md5\" \"\";\n    };\n  };\n}\n";
    let insert = |mode| insert_entry(text, &file, "managed", "b", &[("vmid", "7".to_owned())], mode);
    assert!(insert(NixMode::Embedded).is_err());
    assert!(insert(NixMode::Auto).unwrap().contains("    b = {\n      vmid = 7;\n    };\n"));
}

/// In a comment such bytes are Nix, in a text they are no value, and UTF-16 is no Nix at all.
#[test]
fn bytes_that_are_no_utf8_are_told_with_their_place() {
    if !nix() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.nix");
    let told = |text: &[u8], mode| {
        fs::write(&file, text).unwrap();
        read(&file, dir.path(), mode).map(drop).map_err(|error| error.message().to_owned())
    };
    let comment = b"# caf\xe9\n{ a = 1; }\n";
    assert_eq!(told(comment, NixMode::Auto), Ok(()));
    let embedded = told(comment, NixMode::Embedded).unwrap_err();
    assert!(embedded.starts_with("a.nix:1:6: not covered"), "{embedded}");
    for mode in [NixMode::Auto, NixMode::Nix] {
        let value = told(b"{\n  a = \"caf\xe9\";\n}\n", mode).unwrap_err();
        assert!(value.starts_with("a.nix:2:11: the byte 0xE9 is no UTF-8\n"), "{value}");
        let syntax = told(b"# caf\xe9\n{ a = ; }\n", mode).unwrap_err();
        assert!(syntax.contains("syntax error"), "{syntax}");
    }
    for mode in [NixMode::Auto, NixMode::Embedded] {
        let utf16 = told(b"\xff\xfe{\0 \0}\0", mode).unwrap_err();
        assert!(utf16.contains("a.nix: syntax error: ") && utf16.contains("UTF-16"), "{utf16}");
    }
}
