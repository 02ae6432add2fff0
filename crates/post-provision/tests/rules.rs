//! `.sops.yaml` as people write it: read, and changed without touching what is not meant.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::path::Path;

use common::identity;
use post_provision::{
    recipient::Recipient,
    rules::{Edited, Fleet, HostChange, Rules},
};

/// Recipients with short names: `A` the operator, `W` host web, `D` host db, `N` the new key, `O` and `P` old keys.
fn keys() -> Vec<(&'static str, String)> {
    let mut keys: Vec<(&str, String)> = Vec::new();
    for (name, which) in [("@A", "a"), ("@W", "b"), ("@N", "c")] {
        keys.push((name, identity(which).recipient().to_string()));
    }
    for (name, seed) in [("@D", 1u8), ("@O", 2), ("@P", 3)] {
        let scalar = [seed; 32];
        let secret =
            bech32::encode::<bech32::Bech32>(bech32::Hrp::parse("age-secret-key-").unwrap(), &scalar)
                .unwrap();
        keys.push((name, secret.parse::<age::x25519::Identity>().unwrap().to_public().to_string()));
    }
    keys
}

fn full(text: &str) -> String {
    keys().iter().fold(text.to_owned(), |text, (name, key)| text.replace(name, key))
}

fn short(text: &str) -> String {
    keys().iter().fold(text.to_owned(), |text, (name, key)| text.replace(key.as_str(), name))
}

fn key(name: &str) -> Recipient {
    full(name).parse().unwrap()
}

fn fleet() -> Fleet {
    let mut fleet = Fleet::default();
    fleet.add("web", ["web.example.org".to_owned()], Some(full("@W")));
    fleet.add("db", [], Some(full("@D")));
    fleet.add("new", [], None);
    fleet
}

fn change(text: &str, known: &[Recipient]) -> fleet_core::Result<Edited> {
    let rules = Rules::parse(&full(text), Path::new(".sops.yaml"))?;
    let new = key("@N");
    rules.with_host(
        &HostChange { host: "new", recipient: Some(&new), known },
        &fleet(),
        Path::new(".sops.yaml"),
    )
}

fn remove(text: &str) -> Edited {
    let rules = Rules::parse(&full(text), Path::new(".sops.yaml")).unwrap();
    rules
        .with_host(
            &HostChange { host: "new", recipient: None, known: &[key("@N")] },
            &fleet(),
            Path::new(".sops.yaml"),
        )
        .unwrap()
}

/// Changes `before`, wants `after`; a second change does nothing; taking the host out gives `before` again.
fn gives(before: &str, after: &str) -> Edited {
    let edited = change(before, &[]).unwrap_or_else(|e| panic!("{e:?}"));
    assert_eq!(short(&edited.text), after);
    assert_eq!(short(&change(after, &[]).unwrap().text), after, "the second time");
    if !before.contains("&new") {
        assert_eq!(short(&remove(after).text).trim_end(), before.trim_end(), "and out again");
    }
    edited
}

const ANCHORS: &str = "\
# who
keys:
  - &admin @A # me
  - &web @W   # é
  - &db @D

creation_rules:
  # the operator's
  - path_regex: operator/.*
    key_groups:
      - age: [*admin]
  - path_regex: hosts/web/.*
    key_groups:
      - age:
          - *admin
          - *web
  - path_regex: .*\\.yaml$
    key_groups:
      - age:
          - *admin # always
          - *web
          - *db # last

    unencrypted_regex: ^x$
  - path_regex: .*
    age: >-
      @A,
      @W
# end
";

#[test]
fn a_new_host_joins_every_rule_that_lists_hosts() {
    let edited = gives(
        ANCHORS,
        &ANCHORS
            .replace("  - &db @D\n", "  - &db @D\n  - &new @N\n")
            .replace("*db # last\n", "*db # last\n          - *new\n")
            .replace("      @W\n", "      @W,\n      @N\n"),
    );
    assert_eq!(edited.gained.len(), 2);
    assert_eq!(edited.withheld, [("rule 'hosts/web/.*' (line 12)".to_owned(), "web".to_owned())]);
    assert!(edited.retired.is_empty());
    assert_eq!(short(&remove(&edited.text).text), ANCHORS, "and leaves without a trace");
}

#[test]
fn three_keys_of_one_name_become_one() {
    // As found in a real fleet: two of the three belong to machines that are gone.
    let before = "\
keys:
  - &admin @A
  - &new @O
  - &web @W
  - &new @P
creation_rules:
  - path_regex: .*
    key_groups:
    - age:
      - *admin
      - *new
      - *web
      - *new
      - @O
";
    let edited = gives(
        before,
        "\
keys:
  - &admin @A
  - &new @N
  - &web @W
creation_rules:
  - path_regex: .*
    key_groups:
    - age:
      - *admin
      - *new
      - *web
",
    );
    let mut retired: Vec<String> = edited.retired.iter().map(|k| short(k)).collect();
    retired.sort();
    assert_eq!(retired, ["@O", "@P"]);
    assert!(edited.gained.is_empty(), "it was listed before");
}

#[test]
fn flow_lists_and_texts_with_commas() {
    gives(
        "keys: [&admin @A, &web @W]\ncreation_rules: [{path_regex: a, age: '@A,@W'}, {path_regex: b, key_groups: [{age: [*admin, *web]}]}]\n",
        "keys: [&admin @A, &web @W, &new @N]\ncreation_rules: [{path_regex: a, age: '@A,@W,@N'}, {path_regex: b, key_groups: [{age: [*admin, *web, *new]}]}]\n",
    );
    gives("creation_rules:\n  - age: \"@A, @W\" # all\n", "creation_rules:\n  - age: \"@A, @W,@N\" # all\n");
    gives(
        "keys:\n- &web @W\ncreation_rules:\n- key_groups:\n  - age: [\n      @A,\n      *web # w\n    ]\n",
        "keys:\n- &web @W\n- &new @N\ncreation_rules:\n- key_groups:\n  - age: [\n      @A,\n      *web, # w\n      *new\n    ]\n",
    );
}

#[test]
fn recipients_without_any_name_get_one_at_the_first_use() {
    gives(
        "creation_rules:\n  - path_regex: a\n    key_groups:\n      - age:\n          - @A\n          - @W\n  - path_regex: b\n    key_groups:\n      - age:\n          - @A\n          - @W",
        "creation_rules:\n  - path_regex: a\n    key_groups:\n      - age:\n          - @A\n          - @W\n          - &new @N\n  - path_regex: b\n    key_groups:\n      - age:\n          - @A\n          - @W\n          - *new",
    );
}

#[test]
fn an_old_key_known_from_hosts_nix_is_replaced_wherever_it_is() {
    let before = "keys:\n  - &admin @A\n  - &server_new @O\ncreation_rules:\n  - path_regex: a\n    age: @A,@O\n  - path_regex: b\n    key_groups:\n      - age: [@O, *admin]\n  - path_regex: c\n    key_groups:\n      - age: [*server_new, *admin]\n";
    let edited = change(before, &[key("@O")]).unwrap();
    assert_eq!(short(&edited.text), before.replace("@O", "@N"));
    assert_eq!(edited.retired, [full("@O")]);
}

#[test]
fn an_old_key_under_an_anchor_that_bears_the_hosts_name_is_replaced() {
    let before = "keys:\n  - &admin @A\n  - &web @W\n  - &host_new @O\ncreation_rules:\n  - path_regex: a\n    key_groups:\n      - age: [*admin, *web, *host_new]\n";
    let edited = change(before, &[]).unwrap();
    assert_eq!(short(&edited.text), before.replace("@O", "@N"));
    assert_eq!(edited.retired, [full("@O")]);
    assert!(edited.gained.is_empty());
    let out = before.replace("  - &host_new @O\n", "").replace(", *host_new", "");
    assert_eq!(short(&remove(before).text), out);
    // Two names for it: one stays, and what named the other names this one.
    let two = before.replace("creation", "  - &new @P\ncreation").replace("*host_new]", "*new]");
    let edited = change(&two, &[]).unwrap();
    assert_eq!(short(&edited.text), before.replace("@O", "@N"));
    assert_eq!(edited.retired.len(), 2);
}

#[test]
fn an_anchor_that_writes_the_hosts_name_in_its_own_way_is_the_hosts() {
    let mut fleet = fleet();
    fleet.add("node-1", [], None);
    for anchor in ["node_1", "Node-1", "host_node_1", "node_1_host", "target_node-1"] {
        let before = format!(
            "keys:\n  - &admin @A\n  - &web @W\n  - &{anchor} @O\ncreation_rules:\n  - path_regex: a\n    key_groups:\n      \
             - age: [*admin, *web, *{anchor}]\n"
        );
        let rules = Rules::parse(&full(&before), Path::new(".sops.yaml")).unwrap();
        let new = key("@N");
        let change = HostChange { host: "node-1", recipient: Some(&new), known: &[] };
        let edited = rules.with_host(&change, &fleet, Path::new(".sops.yaml")).unwrap();
        assert_eq!(short(&edited.text), before.replace("@O", "@N"));
        assert_eq!(edited.retired, [full("@O")], "{anchor}");
    }
}

#[test]
fn an_old_key_with_the_hosts_name_as_its_comment_is_replaced() {
    let file = |key: &str, item: &str| {
        format!(
            "keys:\n  - &admin @A\n{key}  - &web @W # web\ncreation_rules:\n  - path_regex: a\n    key_groups:\n      - age:\n          - *admin\n          - *web\n{item}          - @D\n"
        )
    };
    for (key, item) in [
        ("  - @O # new\n", "          - @O\n"),
        ("  # new\n  - @O\n", "          - @O\n"),
        ("  - &a3 @O # new\n", "          - *a3\n"),
        ("  # new\n  - &a3 @O\n", "          - *a3\n"),
        ("", "          - @O # new\n"),
        ("", "          # new\n          - @O\n"),
        ("", "          # new\n          - \"@O\" # since spring\n"),
        ("", "          - @O # root@new\n"),
        ("", "          # root@new\n          - @O\n"),
    ] {
        let before = file(key, item);
        for end in ["\n", "\r\n"] {
            let write = |text: &str| text.replace('\n', end);
            let edited = change(&write(&before), &[]).unwrap();
            let mut after = before.replace("@O", "@N");
            if key.is_empty() {
                after = after.replace("# web\n", "# web\n  - &new @N\n");
            }
            assert_eq!(short(&edited.text), write(&after));
            assert_eq!(edited.retired, [full("@O")], "{before}");
            // Its comment goes along: it would give the next key to the host.
            assert_eq!(short(&remove(&write(&before)).text), write(&file("", "")), "{before}");
        }
    }
    let flow = "creation_rules:\n  - age: [\n      @W,\n      # new\n      @O,\n      @D, # db\n    ]\n";
    assert_eq!(short(&change(flow, &[]).unwrap().text), flow.replace("@O", "@N"));
    assert_eq!(short(&remove(flow).text), flow.replace("      # new\n      @O,\n", ""));
    // A comment that only mentions the host, one among several keys, and another host's own say nothing.
    for item in [
        "          - @O # who looks after new\n",
        "          - @O # somebody@new\n",
        "          # new since spring\n          - @O\n",
        "          # new\n          - *web\n          - @O\n",
        "          # new\n          - @D\n          - @O\n",
    ] {
        let edited = change(&file("", item), &[]).unwrap();
        assert!(edited.retired.is_empty(), "{item}");
        assert!(short(&edited.text).contains("@O"));
    }
}

/// Ways in which people say whose key it is, and more about it.
#[test]
fn a_comment_may_say_more_than_whose_key_it_is() {
    let mut fleet = fleet();
    fleet.add("new", ["new.example.org".to_owned()], None);
    fleet.add("node-1", [], None);
    fleet.add_user("alice".to_owned());
    let edit = |text: &str, recipient: Option<&Recipient>, host: &str| {
        let rules = Rules::parse(&full(text), Path::new(".sops.yaml")).unwrap();
        rules
            .with_host(&HostChange { host, recipient, known: &[] }, &fleet, Path::new(".sops.yaml"))
            .unwrap_or_else(|e| panic!("{text}: {e:?}"))
    };
    let file = |item: &str| {
        format!(
            "creation_rules:\n  - path_regex: a\n    age:\n      - @A # alice\n      - @W # web (db's twin)\n{item}      - @D\n"
        )
    };
    for comment in [
        "new (old laptop)",
        "new [retired]",
        "new - root key",
        "new -- root key",
        "new \u{2013} root key",
        "new \u{2014} root key",
        "new: in the cellar",
        "new:",
        "new, added 2024",
        "new, added 2024-03-01, age key",
        "new; added 2024",
        "new | since 2024",
        "new # since 2024",
        "new.",
        "host new",
        "Host new (old laptop)",
        "host: new",
        "hostname: new",
        "server new",
        "vm new, added 2024",
        "host_new",
        "new host",
        "new host key",
        "new ssh host key (ed25519)",
        "new's host key",
        "new's",
        "host key of new",
        "ssh host key of new, added 2024",
        "`new`",
        "\"new\" (old laptop)",
        "NEW",
        "new.example.org",
        "root@new.example.org (old laptop)",
        "root@new, added 2024",
    ] {
        for item in [format!("      - @O # {comment}\n"), format!("      # {comment}\n      - @O\n")] {
            let before = file(&item);
            let edited = edit(&before, Some(&key("@N")), "new");
            assert_eq!(short(&edited.text), before.replace("@O", "@N"), "what was said of it stays");
            assert_eq!(edited.retired, [full("@O")], "{comment}");
            assert_eq!(short(&edit(&short(&edited.text), Some(&key("@N")), "new").text), short(&edited.text));
            assert_eq!(short(&edit(&before, None, "new").text), file(""), "{comment}");
        }
    }
    for (comment, host) in [("node-1 (old)", "node-1"), ("node_1: old", "node-1"), ("Node-1", "node-1")] {
        let edited = edit(&file(&format!("      - @O # {comment}\n")), None, host);
        assert_eq!(edited.retired, [full("@O")], "{comment}");
    }
    // Another machine's, somebody's, or of more than one.
    for comment in [
        "new-2",
        "new-2 (old laptop)",
        "new2",
        "new_2",
        "newserver",
        "new server",
        "new.lan.example.org",
        "not new",
        "old new",
        "new laptop",
        "new since spring",
        "new and db",
        "new, db",
        "new, mail",
        "new, mail and cache",
        "new (db)",
        "new (moved to db)",
        "new / mail",
        "new + mail",
        "new & mail",
        "new -> mail",
        "new-",
        "new:22",
        "new (not yet)",
        "new (alice)",
        "new - alice's key",
        "new - bob's key",
        "new: bob@example.org",
        "new (user key)",
        "new (admin)",
        "new: its operators",
        "alice@new",
        "alice on new",
        "host of new",
        "backup of new",
        "host",
        "host (new)",
        "node",
        "node-1-new",
        "",
        "new's admin",
    ] {
        for item in [format!("      - @O # {comment}\n"), format!("      # {comment}\n      - @O\n")] {
            let edited = edit(&file(&item), Some(&key("@N")), "new");
            assert!(edited.retired.is_empty() && short(&edited.text).contains(item.as_str()), "{comment}");
        }
    }
}

#[test]
fn lists_shared_by_alias_and_merged_rules() {
    gives(
        "keys:\n  - &admin @A\n  - &hosts\n    - @W\n    - @D\ncreation_rules:\n  - path_regex: a\n    age: *hosts\n  - path_regex: b\n    age: *hosts\n",
        "keys:\n  - &admin @A\n  - &new @N\n  - &hosts\n    - @W\n    - @D\n    - *new\ncreation_rules:\n  - path_regex: a\n    age: *hosts\n  - path_regex: b\n    age: *hosts\n",
    );
}

#[test]
fn the_name_of_one_key_where_a_text_may_stand() {
    let file = |new: &str, all: &str| {
        format!(
            "keys:\n  - &admin @A\n  - &web @W # w\n{new}creation_rules:\n  - path_regex: hosts/web/.*\n    age: *web\n  \
             - path_regex: hosts/admin/.*\n    age: *admin\n  - path_regex: all\n    age: {all} # both\n"
        )
    };
    gives(&file("", "*web"), &file("  - &new @N\n", "[*web,*new]"));
    gives(&file("", "[*web]"), &file("  - &new @N\n", "[*web, *new]"));
    // Its own, under another key before.
    let own = "keys:\n  - &admin @A\n  - &new @O\ncreation_rules:\n  - path_regex: hosts/new/.*\n    age: *new\n  - path_regex: \
               all\n    age: *admin\n";
    let edited = change(own, &[]).unwrap();
    assert_eq!(short(&edited.text), own.replace("@O", "@N"));
    assert_eq!(edited.retired, [full("@O")]);
    assert_eq!(short(&remove(own).text), own.replace("  - &new @O\n", "").replace("*new", "[]"));
}

/// What an alias stands for may be another rule's own list: it is changed where it is written, and there only.
#[test]
fn the_name_of_a_list_that_is_another_rules_own() {
    let rule = |regex: &str, age: &str| format!("  - path_regex: {regex}\n    age: {age}\n");
    // The name stands for both keys then, also as one element of several.
    for (second, behind) in [("*web", "*web"), ("[*web, @D]", "[*web, @D, &new @N]")] {
        for third in ["", "*web", "'@D'"] {
            let file = |web: &str, second: &str, third: &str| {
                let third = if third.is_empty() { String::new() } else { rule("c", third) };
                format!("creation_rules:\n{}{}{third}# end\n", rule("a", web), rule("b", second))
            };
            let joined = if third == "'@D'" { "'@D,@N'" } else { third };
            gives(&file("&web @W", second, third), &file("&web @W,@N", behind, joined));
        }
    }
    // The rule with the name before the one with the list.
    let file = |web: &str| {
        format!(
            "lists:\n  - &rule\n    path_regex: z\n    age: &web {web}\ncreation_rules:\n{}  - *rule\n",
            rule("a", "*web")
        )
    };
    gives(&file("@W"), &file("@W,@N"));
    // The other name of a pair is the one that has the key.
    let file =
        |second: &str| format!("creation_rules:\n{}{}", rule("hosts/web/.*", "[&web @W]"), rule("b", second));
    gives(&file("*web"), &file("[*web,&new @N]"));
    // The key that has the name changes later.
    let after = format!("creation_rules:\n{}{}", rule("a", "&web @W,@N"), rule("b", "*web"));
    let rules = Rules::parse(&full(&after), Path::new(".sops.yaml")).unwrap();
    let key = key("@P");
    let change = HostChange { host: "web", recipient: Some(&key), known: &["@W"].map(self::key) };
    let edited = rules.with_host(&change, &fleet(), Path::new(".sops.yaml")).unwrap();
    assert_eq!(short(&edited.text), after.replace("@W", "@P"));
}

/// A rule's only key, written in its place and with a name: other rules list it by that.
#[test]
fn the_key_of_a_rule_that_has_a_name_there() {
    for name in ["&new ", "&of_somebody ", "&host_new "] {
        for text in ["@O", "'@O'", "\"@O\" # its key"] {
            let file = format!(
                "creation_rules:\n  - path_regex: new\n    age: {name}{text}\n    unencrypted_regex: x\n  - age: {}\n",
                name.trim_end().replace('&', "*")
            );
            let edited = change(&file, &[key("@O")]).unwrap();
            assert_eq!(short(&edited.text), file.replace("@O", "@N"));
            assert_eq!(short(&change(&short(&edited.text), &[]).unwrap().text), file.replace("@O", "@N"));
        }
    }
}

/// Several of a list in brackets that go at once, the last among them.
#[test]
fn keys_beside_each_other_in_brackets() {
    for (before, after) in [
        ("[@A, @O, @P]", "[@A, @N]"),
        ("[@O, @A, @P]", "[@N, @A]"),
        ("[ @A,@O, @P ]", "[ @A,@N ]"),
        ("[&host_new @O, *host_new, *host_new, @A]", "[&host_new @N, @A]"),
        ("[ &host_new @O, *host_new, *host_new ]", "[ &host_new @N ]"),
        ("[*host_new,*host_new]", "[*host_new]"),
        ("[@O, @P,  # old\n      @A]", "[@N,  # old\n      @A]"),
        ("[\n      @A,\n      @O,\n      @P\n    ]", "[\n      @A,\n      @N\n    ]"),
        ("[\n      @O, # old\n      @P # older\n    ]", "[\n      @N # old\n    ]"),
    ] {
        let head = if before.starts_with("[*") { "keys:\n  - &host_new @O\n" } else { "" };
        let file = |list: &str| format!("{head}creation_rules:\n  - path_regex: new\n    age: {list}\n");
        let known = [key("@O"), key("@P")];
        let edited = change(&file(before), &known).unwrap();
        assert_eq!(short(&edited.text), file(after).replace("host_new @O", "host_new @N"));
        assert_eq!(short(&change(&short(&edited.text), &[]).unwrap().text), short(&edited.text));
        // All of the host's.
        let rules = Rules::parse(&full(&file(before)), Path::new(".sops.yaml")).unwrap();
        let none = HostChange { host: "new", recipient: None, known: &known };
        let gone = rules.with_host(&none, &fleet(), Path::new(".sops.yaml")).unwrap();
        assert!(
            !["@O", "@P", "host_new"].iter().any(|key| short(&gone.text).contains(key)),
            "{}",
            short(&gone.text)
        );
        assert_eq!(short(&gone.text).contains("@A"), before.contains("@A"));
    }
    // A pair without a blank that has a name stays a list.
    let file = |list: &str, key: &str| {
        format!("keys:\n  - &db @D\n{key}creation_rules:\n  - path_regex: a\n    age: &all {list}\n")
    };
    assert_eq!(short(&remove(&file("[*db,*new]", "  - &new @N\n")).text), file("[*db]", ""));
}

/// A name is known behind its definition only.
#[test]
fn a_list_before_the_place_of_the_definition() {
    let file = |servers: &str, desktops: &str| {
        format!(
            "keys:\n  - &servers\n    - &db @D\n{servers}  - &desktops\n    - &web @W\n{desktops}creation_rules:\n  \
             - path_regex: a\n    key_groups:\n      - age: *servers\n  - path_regex: b\n    key_groups:\n      - age: *desktops\n  \
             - path_regex: c\n    age: [*db, @A]\n"
        )
    };
    let after = file("    - &new @N\n", "    - *new\n").replace("[*db, @A]", "[*db, @A, *new]");
    gives(&file("", ""), &after);
    // The first list is before the one with all names.
    let file = |inner: &str, last: &str| {
        format!(
            "shared: &shared\n  - @D\n{inner}keys:\n  - &web @W\ncreation_rules:\n  - path_regex: a\n    key_groups:\n      \
             - age: *shared\n  - path_regex: b\n    age: [*web{last}]\n"
        )
    };
    gives(&file("", ""), &file("  - &new @N\n", ", *new"));
    // The key has its name further down, where it is listed already.
    let file = |first: &str, key: &str| {
        format!(
            "creation_rules:\n  - path_regex: a\n    age: [&db @D{first}]\n  - path_regex: b\n    age:\n      - *db\n      - &new {key}\n"
        )
    };
    let edited = change(&file("", "@O"), &[key("@O")]).unwrap();
    assert_eq!(short(&edited.text), file(", @N", "@N"));
    assert_eq!(short(&change(&file(", @N", "@N"), &[]).unwrap().text), file(", @N", "@N"));
}

/// The host's name may be a rule's list's: its key gets another that tells it too.
#[test]
fn a_list_that_is_called_as_the_host() {
    for list in ["[@A, @D]", "'@A,@D'", "\n      - @A\n      - @D"] {
        let file = |key: &str, list: &str| {
            format!(
                "keys:\n  - &web @W\n{key}creation_rules:\n  - path_regex: hosts/db/.*\n    age: &new {list}\n  - path_regex: b\n    age:\n      - *web\n"
            )
        };
        let after = file("  - &host_new @N\n", list) + "      - *host_new\n";
        let edited = change(&file("", list), &[]).unwrap();
        assert_eq!(short(&edited.text), after);
        assert_eq!(short(&change(&after, &[]).unwrap().text), after, "the second time");
        assert_eq!(short(&remove(&after).text), file("", list));
    }
}

/// What names a rule's whole list, of one key now, is no sign that hosts are named where they are listed.
#[test]
fn a_rules_only_key_with_a_name_beside_a_list_of_keys() {
    let file = |key: &str, second: &str| {
        format!(
            "keys:\n  - &op @A\n{key}creation_rules:\n  - path_regex: a\n    age: &for_db @D\n  - path_regex: new\n    age: [*op{second}]\n"
        )
    };
    let after = file("  - &new @N\n", ", *new").replace("&for_db @D", "&for_db @D,@N");
    gives(&file("", ""), &after);
}

#[test]
fn a_file_of_nothing_but_comments_has_no_rules() {
    for text in ["", "# not yet\n", "---\n# not yet"] {
        let edited = change(text, &[]).unwrap();
        assert_eq!((edited.text.as_str(), edited.gained.len()), (text, 0));
    }
}

#[test]
fn keys_in_sections_of_all_sorts() {
    gives(
        "keys:\n  - &users:\n    - &admin @A\n  - &hosts:\n    - &web @W\n    - &db @D\n  - &ci @P\ncreation_rules:\n  - path_regex: secrets/[^/]+$\n    key_groups:\n    - age:\n      - *admin\n      - *web\n      pgp:\n",
        "keys:\n  - &users:\n    - &admin @A\n  - &hosts:\n    - &web @W\n    - &db @D\n    - &new @N\n  - &ci @P\ncreation_rules:\n  - path_regex: secrets/[^/]+$\n    key_groups:\n    - age:\n      - *admin\n      - *web\n      - *new\n      pgp:\n",
    );
    gives(
        "keys:\n  people:\n    - &admin @A\n  hosts:\n    - &web @W\n\n  other: []\ncreation_rules:\n  - age: [*admin, *web]\n",
        "keys:\n  people:\n    - &admin @A\n  hosts:\n    - &web @W\n    - &new @N\n\n  other: []\ncreation_rules:\n  - age: [*admin, *web, *new]\n",
    );
    gives(
        "x-hosts:\n  admin: &admin @A\n  web: &web @W # w\n  db: &db @D\n\ncreation_rules:\n  - age: [*admin, *web]\n  - age: [*db]\n",
        "x-hosts:\n  admin: &admin @A\n  web: &web @W # w\n  db: &db @D\n  new: &new @N\n\ncreation_rules:\n  - age: [*admin, *web, *new]\n  - age: [*db, *new]\n",
    );
}

/// Mappings in brackets, and lists whose elements are a name and its key.
#[test]
fn keys_that_are_named_in_mappings_of_all_sorts() {
    for (before, after) in [
        (
            "keys: {admin: &admin @A, web: &web @W}\n",
            "keys: {admin: &admin @A, web: &web @W, new: &new @N}\n",
        ),
        (
            "keys: { admin: &admin @A, 'web': &web '@W' }\n",
            "keys: { admin: &admin @A, 'web': &web '@W', new: &new @N }\n",
        ),
        (
            "keys: {\n  admin: &admin @A, # me\n  web: &web @W,\n}\n",
            "keys: {\n  admin: &admin @A, # me\n  web: &web @W,\n  new: &new @N,\n}\n",
        ),
        (
            "keys: {\n  admin: &admin @A,\n  web: &web @W # w\n}\n",
            "keys: {\n  admin: &admin @A,\n  web: &web @W, # w\n  new: &new @N\n}\n",
        ),
        (
            "keys:\n  - admin: &admin @A\n  - web: &web @W # w\n",
            "keys:\n  - admin: &admin @A\n  - web: &web @W # w\n  - new: &new @N\n",
        ),
        (
            "keys:\n- \"admin\": &admin @A\n- \"web\":\n    &web @W\n",
            "keys:\n- \"admin\": &admin @A\n- \"web\":\n    &web @W\n- new: &new @N\n",
        ),
    ] {
        let rule = |keys: &str| {
            format!("creation_rules:\n  - path_regex: x\n    key_groups:\n      - age: [{keys}]\n")
        };
        for end in ["\n", "\r\n"] {
            let write = |names: &str, keys: &str| format!("{names}{}", rule(keys)).replace('\n', end);
            let all = write(after, "*admin, *web, *new");
            gives(&write(before, "*admin, *web"), &all);
            let rotated = full(&all).replace(&full("@N"), &full("@O"));
            assert_eq!(short(&change(&rotated, &[]).unwrap().text), all);
        }
    }
}

/// An element of a list may be a text with commas, as sops splits each.
#[test]
fn an_element_that_is_several_keys() {
    for (before, after) in [
        ("\n      - @A,@O", "\n      - @A,@N"),
        ("\n      - '@O, @A' # both\n      - @W", "\n      - '@N, @A' # both\n      - @W"),
        (
            "\n      - >-\n        @A,\n        @O\n      - @W",
            "\n      - >-\n        @A,\n        @N\n      - @W",
        ),
        ("\n      - @A,\n        @O", "\n      - @A,\n        @N"),
        (" ['@A,@O', @W]", " ['@A,@N', @W]"),
        ("\n      - @A,@O\n      - @W,@P", "\n      - @A,@N\n      - @W"),
        ("\n      - @O,@P\n      - @W", "\n      - @N\n      - @W"),
        ("\n      - @O\n      - @A,@P\n", "\n      - @N\n      - @A\n"),
        (" ['@O,@P', @W]", " ['@N', @W]"),
    ] {
        let file = |list: &str| format!("creation_rules:\n  - path_regex: new\n    age:{list}\n");
        let known = ["@O", "@P", "@N"].map(key);
        let edited = change(&file(before), &known).unwrap();
        assert_eq!(short(&edited.text), file(after));
        assert_eq!(short(&change(&file(after), &known).unwrap().text), file(after), "the second time");
        let rules = Rules::parse(&full(&file(before)), Path::new(".sops.yaml")).unwrap();
        let none = HostChange { host: "new", recipient: None, known: &known };
        let gone = rules.with_host(&none, &fleet(), Path::new(".sops.yaml")).unwrap();
        let left = short(&gone.text);
        assert!(!["@O", "@P", "@N"].iter().any(|key| left.contains(key)), "{left}");
        for kept in ["@A", "@W", "# both"] {
            assert_eq!(left.contains(kept), before.contains(kept), "{left}");
        }
    }
    // Blanks before the end of a text are no key.
    gives("creation_rules:\n  - age: ' @A , @W '\n", "creation_rules:\n  - age: ' @A , @W,@N '\n");
}

/// A name that goes is no element of any list any more, also of one that no rule uses.
#[test]
fn a_list_of_names_beside_the_rules() {
    let file = |definition: &str, name: &str, listed: &str| {
        format!(
            "keys:\n  - &admin @A\n{definition}groups:\n  all: &all\n    - *admin\n{name}  flow: [*admin{listed}]\ncreation_rules:\n  - path_regex: x\n    age: [*admin{listed}]\n"
        )
    };
    let with = file("  - &new @N\n", "    - *new\n", ", *new");
    assert_eq!(short(&remove(&with).text), file("", "", ""));
    let two = file("  - &host_new @O\n  - &new @P\n", "    - *new\n", ", *new");
    let one = file("  - &host_new @N\n", "    - *host_new\n", ", *host_new");
    assert_eq!(short(&change(&two, &[]).unwrap().text), one);
}

/// Editors on Windows begin a file with a mark of its encoding.
#[test]
fn a_mark_of_the_encoding_stays_where_it_is() {
    for head in ["\u{feff}", "\u{feff}---\n", "\u{feff}# who\n---\n"] {
        gives(
            &format!("{head}creation_rules:\n  - age: [@A, @W]\n"),
            &format!("{head}creation_rules:\n  - age: [@A, @W, &new @N]\n"),
        );
    }
}

#[test]
fn dos_line_ends_stay() {
    let dos = ANCHORS.replace('\n', "\r\n");
    let after = change(&dos, &[]).unwrap().text;
    assert_eq!(after.matches('\n').count(), after.matches("\r\n").count());
    assert!(after.contains("*new\r\n"));
    assert!(short(&after).contains("@W,\r\n      @N\r\n"));
}

#[test]
fn other_hosts_own_secrets_stay_theirs() {
    for regex in [
        "secrets/hosts/web/.*",
        "hosts/(web|db)/",
        r"^web\.(yaml|env)$",
        r"web\.example\.org/.*",
        "hosts/web-backup/.*",
    ] {
        let text =
            format!("creation_rules:\n  - path_regex: {regex}\n    key_groups:\n      - age: [@A, @W]\n");
        let edited = change(&text, &[]).unwrap();
        assert_eq!(short(&edited.text), text, "{regex}");
        assert_eq!(edited.withheld.len(), 1, "{regex}");
    }
    // Its own rule, prepared before it existed; the operator's rule stays the operator's.
    gives(
        "keys:\n  - &admin @A\ncreation_rules:\n  - path_regex: hosts/new/.*\n    key_groups:\n      - age:\n          - *admin\n  - path_regex: .*\n    key_groups:\n      - age:\n          - *admin\n",
        "keys:\n  - &admin @A\n  - &new @N\ncreation_rules:\n  - path_regex: hosts/new/.*\n    key_groups:\n      - age:\n          - *admin\n          - *new\n  - path_regex: .*\n    key_groups:\n      - age:\n          - *admin\n",
    );
}

#[test]
fn what_can_not_be_read_or_changed_is_said_with_its_line() {
    for (text, part) in [
        ("creation_rules:\n  - path_regex: '('\n    age: @A\n", ".sops.yaml:2:17: path_regex '('"),
        ("creation_rules:\n  - path_regex: '(?=x)'\n", ".sops.yaml:2:17: path_regex"),
        ("creation_rules: [1]\n", ".sops.yaml:1:18: a creation rule is not a mapping"),
        ("creation_rules: x\n", "creation_rules is not a list"),
        ("a: [\n", "not valid YAML"),
        ("creation_rules:\n  - age: {a: b}\n", "age is neither"),
        ("keys:\n  - &new [@A]\ncreation_rules:\n  - age: [@A, @W]\n", "&new is no age key"),
    ] {
        let error = change(text, &[]).map(|e| short(&e.text)).unwrap_err();
        assert!(error.chain().contains(part), "{text}: {error:?}");
    }
}

#[test]
fn a_list_of_a_rule_that_a_host_joins_and_one_that_it_does_not_is_left_alone() {
    let text = "keys:\n  - &hosts\n    - @A\n    - @W\ncreation_rules:\n  - path_regex: all\n    age: *hosts\n  - path_regex: \
                web/.*\n    age: *hosts\n";
    let error = change(text, &[]).map(|edited| edited.text).unwrap_err();
    let told =
        "new is for rule 'all' (line 6) and not for rule 'web/.*' (line 8), and both use one list of keys";
    assert!(error.chain().contains(told), "{error:?}");
}

#[test]
fn the_rule_that_governs_a_file() {
    let rules = Rules::parse(&full("creation_rules:\n  - path_regex: secrets/hosts/.*\n    age: @A\n  - path_regex: common\n    age: @A\n  - age: @W\n"), Path::new("x")).unwrap();
    // The first one does not match as sops reads it from within secrets/, but says what is meant.
    assert_eq!(rules.governing(Some("hosts/web/x.env"), "secrets/hosts/web/x.env"), Some((0, true)));
    assert_eq!(rules.governing(Some("common.yaml"), "secrets/common.yaml"), Some((1, false)));
    assert_eq!(rules.governing(Some("x"), "secrets/x"), Some((2, false)));
    let none =
        Rules::parse(&full("creation_rules:\n  - path_regex: ^z\n    age: @A\n"), Path::new("x")).unwrap();
    assert_eq!(none.governing(Some("a"), "secrets/a"), None);
}

#[test]
fn rules_that_need_sops_itself_say_what_for() {
    for (text, part) in [
        ("creation_rules:\n  - pgp: ABCD\n    age: @A\n", "pgp"),
        ("creation_rules:\n  - key_groups:\n      - age: [@A]\n      - age: [@W]\n", "2 key groups"),
        ("creation_rules:\n  - age: ssh-ed25519 AAAA\n", "no age X25519 key"),
        ("creation_rules:\n  - path_regex: x\n", "no keys at all"),
    ] {
        let rules = Rules::parse(&full(text), Path::new("x")).unwrap();
        let error = rules.rules[0].recipients().unwrap_err();
        assert!(error.message().contains(part), "{error:?}");
    }
}

#[test]
fn a_key_on_a_line_of_its_own_takes_its_line_along() {
    for (before, after) in [
        ("    age: >-\n      @A,\n      @W,\n", "    age: >-\n      @A,\n      @W,\n      @N,\n"),
        (
            "    age:\n      [\n        \"@A\",\n        \"@W\",\n      ]\n",
            "    age:\n      [\n        \"@A\",\n        \"@W\",\n        &new @N,\n      ]\n",
        ),
    ] {
        let file = |list: &str| format!("creation_rules:\n  - path_regex: x\n{list}");
        for end in ["\n", "\r\n"] {
            let write = |list: &str| full(&file(list).replace('\n', end));
            let edited = change(&write(before), &[]).unwrap();
            assert_eq!(edited.text, write(after));
            assert_eq!(remove(&edited.text).text, write(before));
        }
    }
    let middle = "creation_rules:\n  - age: >-\n      @A,\n      @N,\n      @W\n";
    assert_eq!(short(&remove(middle).text), middle.replace("      @N,\n", ""));
}

/// Elements that do not begin on the line of their dash, and the last one of a line of several.
#[test]
fn keys_beside_which_nothing_is_left_of_their_own() {
    let file = |list: &str| format!("creation_rules:\n  - path_regex: x\n    age:{list}\n");
    for (before, after) in [
        ("\n      - @A\n      -\n        @N\n      - @W", "\n      - @A\n      - @W"),
        ("\n      - @A\n      - # old\n        @N\n      - @W", "\n      - @A\n      - @W"),
        (" [\n      @A, @N,\n      @W\n    ]", " [\n      @A,\n      @W\n    ]"),
        (" [\n      @A, @N, # two\n      @W\n    ]", " [\n      @A, # two\n      @W\n    ]"),
        (" \"@A,\\\n      @N\"", " \"@A\""),
        (" \"@A,\\\n      @N,\\\n      @W\"", " \"@A,\\\n      @W\""),
        (" \"@A, @N,\\\n      @W\"", " \"@A,\\\n      @W\""),
    ] {
        for end in ["\n", "\r\n"] {
            let write = |list: &str| full(&file(list).replace('\n', end));
            assert_eq!(short(&remove(&write(before)).text), short(&write(after)), "{before}");
        }
    }
}

/// Files in the shapes that fleets keep them in, beside those above. Lines that begin with a plus are those that a new
/// host adds.
#[test]
fn layouts() {
    for text in [
        // Anchors below a name of their own, and a last rule that says nothing.
        "keys:\n  age:\n    - &me @A\n    - &web @W\n+    - &new @N\ncreation_rules:\n  - path_regex: infra/\n    key_groups:\n      - age:\n          - *me\n  - path_regex: zones/\n    key_groups:\n      - age:\n          - *me\n          - *web\n+          - *new\n  - key_groups:\n",
        // A remark between the dash and what it begins.
        "---\ncreation_rules:\n  - # keep this one first\n    path_regex: a/.+\\.ya?ml\n    mac_only_encrypted: true\n    key_groups:\n      - age:\n          - @A\n          - @W # web\n+          - &new @N\n  - path_regex: b/\n    key_groups:\n      - age:\n          - @A\n          - @W # web\n+          - *new\nstores:\n  yaml:\n    indent: 2\n",
        // Rules for later, written as remarks.
        "creation_rules:\n  - path_regex: .*\\.yaml$\n    age:\n      - @A\n      - @W\n+      - &new @N\n\n  # Per host:\n  #\n  # - path_regex: hosts/web/.*\n  #   age: >-\n  #     age1<web>\n  #\n",
        // Keys in a column, blanks on an empty line.
        "keys:\n  - &me       @A\n  - &web      @W\n+  - &new @N\ncreation_rules:\n  - path_regex: '[^/]+\\.yaml$'\n    key_groups:\n    - age:\n      - *me\n      - *web\n+      - *new\n      \n  # one more\n  - path_regex: hosts/web/.*\n    key_groups:\n    - age:\n      - *me\n",
        // An empty line behind each.
        "keys:\n  - &me @A\n\n  - &web @W\n+  - &new @N\n\n  # others\n\ncreation_rules:\n\n  - path_regex: a/\n\n    key_groups:\n\n    - age:\n\n      - *me\n\n      - *web\n+      - *new\n\n  - path_regex: hosts/db/\n    key_groups:\n    - age: [ *me, *web ] \n",
        // Names and keys mixed in one list, and remarks that name no host.
        "creation_rules:\n  # below this directory\n  - path_regex: .*\n    key_groups:\n      - age:\n          - @A # everybody's\n          - @P # the one at home\n          - &web @W # WEB\n          - &db @D # db\n+          - &new @N\n",
    ] {
        let lines = || text.split_inclusive('\n');
        let without: String = lines().filter(|line| !line.starts_with('+')).collect();
        let with: String = lines().map(|line| line.strip_prefix('+').unwrap_or(line)).collect();
        gives(&without, &with);
    }
    // A text of several lines before such remarks.
    let file = |keys: &str| {
        format!(
            "creation_rules:\n  - age: >-\n      @A,\n      {keys}\n\n  # - path_regex: hosts/web/\n  #   age: >-\n"
        )
    };
    gives(&file("@W"), &file("@W,\n      @N"));
}

#[test]
fn hosts_that_are_named_in_the_list_of_several_rules() {
    let file = |new: &str| {
        format!(
            "hosts: &hosts\n  - &web @W\n  - &db @D\n{new}people:\n  - &me @A\ncreation_rules:\n  - path_regex: x\n    \
             age: *hosts\n  - path_regex: y\n    age: *hosts\n"
        )
    };
    gives(&file(""), &file("  - &new @N\n"));
}

/// Not quite YAML, but sops reads it and people write it.
#[test]
fn a_closing_bracket_under_its_key() {
    let file = |new: &str| {
        let (comma, line) = if new.is_empty() { ("", "") } else { (",", "      *new\n") };
        format!(
            "keys:\n  - &me @A # é\n  - &web @W\n{}creation_rules:\n  - path_regex: x\n    age: [\n      *me, # [é] \"me\"\n      \
             *web{comma} # last\n{line}    ]\n  - path_regex: y\n    key_groups: [\n      {{\n        age: [*me, *web{}]\n      }}\n    ]\n",
            if new.is_empty() { "" } else { "  - &new @N\n" },
            if new.is_empty() { "" } else { ", *new" },
        )
    };
    let before = full(&file(""));
    let edited = change(&before, &[]).unwrap();
    assert_eq!(short(&edited.text), file("*new"));
    assert_eq!(edited.gained, ["rule 'x' (line 5)", "rule 'y' (line 10)"]);
    assert_eq!(remove(&edited.text).text, before);
}

#[test]
fn a_list_in_brackets_no_deeper_than_its_key() {
    let file = |definition: &str, last: &str| {
        format!(
            "keys: [\n  &me @A, # é ]\n  # w\n  &web @W{}\n]\ncreation_rules:\n  - path_regex: x[0-9]{{2}}\n    key_groups:\n    - pgp: \
             [ ]\n      age: [\n      *me, # it's [é] \"me\"\n\n      *web{}\n      ]\n  - path_regex: 'it''s [x]'\n    # [\n    \
             age: >-\n      @A, @W{}\n  - path_regex:\ty\n    key_groups:\n    - age: [\n\t*me, '@W'{} ]\n",
            if definition.is_empty() { "" } else { ",\n  &new @N" },
            if last.is_empty() { "" } else { ",\n      *new" },
            if last.is_empty() { "" } else { ",@N" },
            if last.is_empty() { "" } else { ", *new" },
        )
    };
    for end in ["\n", "\r\n"] {
        let write = |text: &str| full(&text.replace('\n', end));
        let before = write(&file("", ""));
        let edited = change(&before, &[]).unwrap_or_else(|e| panic!("{e:?}"));
        assert_eq!(edited.text, write(&file("&new", "*new")));
        assert_eq!(edited.gained.len(), 3);
        assert_eq!(remove(&edited.text).text, before);
    }
    let error = change("keys:\n- a: [\n  b,\nc: {\n", &[]).map(|e| e.text).unwrap_err();
    assert!(error.chain().contains("not valid YAML"), "{error:?}");
}

/// Each of these sops 3.11 refuses to read.
#[test]
fn what_sops_reads_no_rules_from_is_refused_at_its_place() {
    let refused = |text: &str| {
        let error = Rules::parse(text, Path::new(".sops.yaml")).unwrap_err();
        error.chain().replace('\n', " ")
    };
    let rule = |rest: &str| refused(&format!("creation_rules:\n  - path_regex: x\n{rest}"));
    for (said, rest) in [
        ("'age' is given twice, on line 3 already", "    age: a\n    age: b\n"),
        ("age of a group in key_groups is not a list", "    key_groups:\n      - age: a,b\n"),
        ("'age' is given twice", "    key_groups:\n      - age: [a]\n        age: [b]\n"),
        ("a group of key_groups is not a mapping", "    key_groups: [a]\n"),
        ("key_groups is not a list", "    key_groups:\n      age: [a]\n"),
        ("a list in the list", "    age:\n      - [a, b]\n"),
        ("a list in the list", "    key_groups:\n      - age:\n          - [a, b]\n"),
    ] {
        let told = rule(rest);
        assert!(told.contains(said) && told.contains(".sops.yaml:"), "{rest}: {told}");
    }
    assert!(refused("creation_rules:\n  - path_regex: [x]\n    age: a\n").contains("path_regex is no text"));
    for (said, rest) in [
        ("encrypted_regex is no text", "    encrypted_regex: [a]\n"),
        ("shamir_threshold is no number", "    shamir_threshold: two\n"),
        ("mac_only_encrypted is neither true nor false", "    mac_only_encrypted: 1\n"),
        ("hckms is not a list", "    hckms: a\n"),
        ("an element of kms is not a mapping", "    key_groups:\n      - kms: [arn]\n"),
        ("an element of pgp is no text", "    key_groups:\n      - pgp: [{fp: a}]\n"),
        ("merge is not a list", "    key_groups:\n      - merge: {age: [a]}\n"),
        ("a group of key_groups is not a mapping", "    key_groups:\n      - merge: [a]\n"),
        ("what `<<` merges is not a mapping", "    <<: a\n"),
        ("sops can not read this", "    age: a\n\t\n"),
        ("unknown anchor", "    age: *nobody\n"),
        ("shamir_threshold is no number", "    shamir_threshold: '1'\n"),
        ("mac_only_encrypted is neither true nor false", "    mac_only_encrypted: 'true'\n"),
        ("mac_only_encrypted is neither true nor false", "    mac_only_encrypted: tRue\n"),
        ("an element of age is no text", "    age: [a, ~]\n"),
        ("an element of age is no text", "    age:\n      - a\n      -\n"),
        ("an element of age is no text", "    age: [a, 1]\n"),
        ("an element of age is no text", "    age: [a, true]\n"),
        ("an element of age is an empty text", "    age: [a, '']\n"),
        ("a name that is no text", "    {a: b}: c\n"),
        ("a name that is no text", "    ? [a]\n    : c\n"),
        ("*x in the place of a name: write out what it stands for", "    &x y: 1\n    *x : 1\n"),
    ] {
        let told = rule(rest);
        assert!(told.contains(said) && told.contains(".sops.yaml:"), "{rest}: {told}");
    }
    for (said, text) in [
        ("'creation_rules' is given twice", "creation_rules: []\ncreation_rules: []\n"),
        ("the file is not a mapping", "- creation_rules\n"),
        ("stores is not a mapping", "creation_rules: []\nstores: 1\n"),
        ("indent is no number", "creation_rules: []\nstores: {yaml: {indent: two}}\n"),
        ("destination_rules is not a list", "destination_rules: a\n"),
        (
            ".sops.yaml:2:1: YAML 1.2 is asked for: sops reads 1.1 only",
            "# first\n%YAML 1.2\n---\ncreation_rules: []\n",
        ),
    ] {
        assert!(refused(text).contains(said), "{text}: {}", refused(text));
    }
    for text in [
        "",
        "null\n",
        "%YAML 1.1\n---\ncreation_rules: []\n",
        "creation_rules:\n  - path_regex: 1\n    mac_only_encrypted: yes\n    age: a\n",
    ] {
        Rules::parse(text, Path::new(".sops.yaml")).unwrap();
    }
    // What sops does not look at may be so.
    Rules::parse("keys:\n  a: 1\n  a: 2\ncreation_rules: []\n", Path::new(".sops.yaml")).unwrap();
}

#[test]
fn the_first_document_of_several_holds_the_rules() {
    for rest in ["---\n", "---\ncreation_rules:\n  - age: b\n"] {
        let text = format!("creation_rules:\n  - path_regex: x\n    age: a\n{rest}");
        let rules = Rules::parse(&text, Path::new(".sops.yaml")).unwrap();
        assert_eq!(rules.rules.len(), 1);
        assert_eq!(rules.text(), text);
    }
}
