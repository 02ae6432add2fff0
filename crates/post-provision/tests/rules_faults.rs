//! What is said of a `.sops.yaml` with a mistake that people make: where it is, and what would be right.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::path::Path;

use common::{Fleet, recipient};
use fleet_core::faults::{self, Fault};
use post_provision::rules::Rules;

const KEYS: &str = "\
keys:
  - &operator @a
  - &web @b
creation_rules:
  - path_regex: hosts/web/.*
    key_groups:
      - age:
          - *operator
          - *web
";

/// All faults of a text, whether it can be read or not.
fn faults(text: &str) -> Vec<Fault> {
    let text = text.replace("@a", &recipient("a")).replace("@b", &recipient("b"));
    let path = Path::new(".sops.yaml");
    match Rules::parse(&text, path) {
        Err(error) => faults::of(&error),
        Ok(rules) => rules.doubts(path, Path::new(""), None, |_| true).faults,
    }
}

#[test]
fn every_mistake_is_told_with_its_place_and_what_would_be_right() {
    assert_eq!(faults(KEYS), []);
    let mut wrong = Vec::new();
    for (from, to, place, marked, help) in [
        ("- *web", "- *webb", (9, 13), "^^^^^", "did you mean `*web`?"),
        ("- *web", "- *web# mine", (9, 13), "^^^^^", "a comment has a blank before it: `*web #`"),
        ("- *web", "- *nobody", (9, 13), "^^^^^^^", "no `&nobody` comes before it, but `&operator`, `&web`"),
        (
            "hosts/web/.*",
            "*.yaml",
            (5, 17),
            "^^^^^^",
            "a text that begins with `*` goes in quotes; a `path_regex` is a regular expression, such as `\\.yaml$`",
        ),
        (
            "hosts/web/.*",
            "'*.yaml'",
            (5, 17),
            "^",
            "a regular expression as Go has them: `\\.yaml$` for what a shell calls `*.yaml`",
        ),
        ("hosts/web/.*", "[a, b]", (5, 17), "^", "one expression for all: `a|b`"),
        (
            "hosts/web/.*",
            "\"web\\.yaml\"",
            (5, 17),
            "^",
            "in double quotes a backslash is written twice; in single ones it stands for itself",
        ),
        ("hosts/web/.*", "'hosts", (5, 17), "^", "is its closing quote missing?"),
        ("hosts/web/.*", "a: b", (5, 18), "^", "a text with a colon and a blank in it goes in quotes"),
        ("          - *web", "\t  - *web", (9, 4), "^", "blanks indent YAML, not tabs"),
        (
            "          - *web",
            "         - *web",
            (9, 10),
            "^",
            "does it belong beside line 8? Then it begins in column 11",
        ),
        (
            "          - *web",
            "            - *web",
            (9, 13),
            "^",
            "does it belong beside line 8? Then it begins in column 11",
        ),
        (
            "    key_groups:",
            "   key_groups:",
            (6, 4),
            "^",
            "does it belong beside line 5? Then it begins in column 5",
        ),
        (
            "    key_groups:",
            "     key_groups:",
            (6, 16),
            "^",
            "does it belong beside line 5? Then it begins in column 5",
        ),
        ("    key_groups:", "    key_groups", (6, 5), "^^^^^^^^^^", "is a `:` missing behind `key_groups`?"),
        (
            "path_regex: h",
            "path_regex = h",
            (6, 15),
            "^",
            "line 5 is no `key: value`: a colon and a blank come behind a key",
        ),
        (
            "path_regex: h",
            "path_regex:h",
            (6, 15),
            "^",
            "line 5 is no `key: value`: a colon and a blank come behind a key",
        ),
        ("- *web", "-*web", (9, 11), "^^^^", "a blank comes behind the `-` of an element"),
        (
            "- *web",
            "- * web",
            (9, 13),
            "^",
            "a name stands right behind its sign: `&name` marks, `*name` uses; other text goes in quotes",
        ),
        ("      - age:", "      age:", (7, 7), "^", "each element begins with `- `, or all stand in `[…]`"),
        (
            "age:\n          - *operator\n          - *web",
            "age: [*operator *web]",
            (7, 25),
            "^",
            "commas divide what stands in brackets: is one missing before this?",
        ),
        (
            "age:\n          - *operator\n          - *web\n",
            "age: [*operator,\n            *web\nstores: {}\n",
            (9, 1),
            "^",
            "the `[` on line 7 is not closed before this",
        ),
        (
            "          - *web\n",
            "<<<<<<< HEAD\n          - *web\n=======\n>>>>>>> b\n",
            (9, 1),
            "^^^^^^^",
            "git left a conflict here: decide for one side",
        ),
        ("- *web", "- &web", (9, 13), "^^^^", "`*web` stands for the key that `&web` marks elsewhere"),
        ("- *web", "- web", (9, 13), "^^^", "age1…, as `age-keygen -y` prints it, or ssh-ed25519 …"),
        (
            "- *web",
            "- age1qqqq",
            (9, 13),
            "^^^^^^^^",
            "age1…, as `age-keygen -y` prints it: of 62 characters, not 8",
        ),
        ("- *web", "- ssh-ed25519 AAAA", (9, 13), "^^^^^^^^^^^^^^^^", "the line of a .pub file, whole"),
        ("path_regex:", "path-regex:", (5, 5), "^^^^^^^^^^", "did you mean `path_regex`?"),
        ("key_groups:", "keygroups:", (6, 5), "^^^^^^^^^", "did you mean `key_groups`?"),
        ("creation_rules:", "creation_rule:", (4, 1), "^^^^^^^^^^^^^", "did you mean `creation_rules`?"),
    ] {
        assert!(KEYS.contains(from), "{from}");
        let found = faults(&KEYS.replacen(from, to, 1));
        let [fault] = found.as_slice() else { panic!("{to}: {found:?}") };
        let carets = fault.snippet.as_deref().unwrap().lines().last().unwrap();
        let carets = carets.trim_start_matches([' ', '|', '\t']);
        let told = (fault.line, fault.column, carets, fault.help.as_deref());
        if told != (Some(place.0), Some(place.1), marked, Some(help)) {
            wrong.push(format!("{to}: {}", fault.render()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Names of one's own are one's own, and so is what is written twice on purpose.
#[test]
fn names_that_sops_does_not_know_are_left_alone() {
    for text in ["description: ours\n", "x-rules: []\ncreation_rule: old\n"] {
        assert_eq!(faults(&format!("{KEYS}{text}")), [], "{text}");
    }
    let own = KEYS.replace("    key_groups:", "    note: hosts' own\n    owner: Ann\n    key_groups:");
    assert_eq!(faults(&own), []);
}

#[test]
fn keys_of_one_text_without_a_comma_are_no_recipient() {
    let found = faults("creation_rules:\n  - age: >-\n      @a\n      @b\n");
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].help.as_deref(), Some("commas divide the keys of one text"));
}

/// Nobody is shown a private key that stands where a public one belongs, and nothing is done with such a file.
#[test]
fn a_private_key_is_a_fault_that_does_not_show_it() {
    let secret = std::fs::read_to_string(common::fixtures().join("identity-c-TEST-FIXTURE.txt")).unwrap();
    let secret = secret.lines().find(|line| line.starts_with("AGE-SECRET-KEY-1")).unwrap();
    let fleet = Fleet::committed();
    fleet.edit("secrets/.sops.yaml", &recipient("b"), secret);
    for args in [
        &["secrets", "--check"][..],
        &["--json", "secrets", "--check"],
        &["secrets", "--dry-run"],
        &["nas", "--host-key", "new.pub", "--dry-run", "--allow-dirty"],
    ] {
        let output = fleet.tool(args).output().unwrap();
        let said = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        assert_eq!(output.status.code(), Some(1), "{args:?}: {said}");
        assert!(
            said.contains("secrets/.sops.yaml:3:5: a private key") || said.contains("\"line\":3"),
            "{args:?}: {said}"
        );
        assert!(!said.contains(&secret[..40]), "{args:?}: {said}");
    }
    // A line of a fault of its own is not shown either.
    fleet.edit("secrets/.sops.yaml", "&web", "& web");
    let output = fleet.tool(&["secrets", "--check"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains(":3:") && !said.contains(&secret[..40]), "{said}");
}

#[test]
fn rules_that_are_no_utf8_are_told_with_their_place() {
    let fleet = Fleet::committed();
    let text = fleet.read("secrets/.sops.yaml").into_bytes();
    std::fs::write(fleet.path("secrets/.sops.yaml"), [b"# caf\xe9\n", text.as_slice()].concat()).unwrap();
    let said = common::fails(fleet.tool(&["secrets", "--check"]), 1);
    assert!(said.contains("secrets/.sops.yaml:1:6: the byte 0xE9 is no UTF-8"), "{said}");
    assert!(said.contains("save the file as UTF-8"), "{said}");
}
