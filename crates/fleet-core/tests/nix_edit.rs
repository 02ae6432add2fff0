//! Edits of hosts.nix: what changes, and that nothing else does.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "a test that fails says where")]

use std::path::Path;

use fleet_core::{
    Kind,
    nix::{
        NixMode,
        edit::{
            AuthorizedKeys, Change, NewHost, apply, insert_host, remove_attr, remove_host, set_attr, verified,
        },
    },
};

const FILE: &str = "/fleet/hosts.nix";

fn new_host() -> NewHost {
    NewHost {
        configuration_file: Some("./hosts/web/configuration.nix".to_owned()),
        home_file: None,
        user: Some("fleet".to_owned()),
        home_directory: Some("/home/fleet".to_owned()),
        hostname: Some("web".to_owned()),
        ssh_alias: Some("web".to_owned()),
        ssh_key_name: Some("id_ed25519".to_owned()),
        public_key: Some("ssh-ed25519 AAAA root@web".to_owned()),
        authorized_keys: AuthorizedKeys::SameAsOthers,
    }
}

fn small(name: &str) -> NewHost {
    NewHost { user: Some("u".to_owned()), hostname: Some(name.to_owned()), ..NewHost::default() }
}

#[track_caller]
fn insert(text: &str, name: &str, host: &NewHost) -> String {
    let after = insert_host(text, name, host).unwrap();
    let change = Change::Insert { name: name.to_owned(), host: host.clone() };
    verified(text, &after, Path::new(FILE), &change, NixMode::Embedded).unwrap();
    let back = remove_host(&after, name).unwrap();
    assert_eq!(back, text, "the inverse of:\n{after}");
    after
}

#[track_caller]
fn set(text: &str, host: &str, attr: &str, value: &str) -> String {
    let after = set_attr(text, host, attr, value).unwrap();
    let change = Change::Set { host: host.to_owned(), attr: attr.to_owned(), value: value.to_owned() };
    verified(text, &after, Path::new(FILE), &change, NixMode::Embedded).unwrap();
    assert_eq!(set_attr(&after, host, attr, value).unwrap(), after, "twice is once");
    after
}

const USUAL: &str = "\
let
  masterKeys = [ \"ssh-ed25519 AAAA master\" ]; # everywhere
in
{
  # machines
  b = {
    hostname = \"b\"; # short
    user = \"fleet\";
    publicKey = \"old\"; # replaced at the last reinstall
    authorizedKeys = masterKeys;
  };

  a = {
    hostname = \"a\";
    user = \"fleet\";
    authorizedKeys = masterKeys;
  }; # the first

  # nothing after this
}
";

#[test]
fn a_new_host_follows_the_habits_of_the_file() {
    insta::assert_snapshot!(insert(USUAL, "web", &new_host()), @r#"
    let
      masterKeys = [ "ssh-ed25519 AAAA master" ]; # everywhere
    in
    {
      # machines
      b = {
        hostname = "b"; # short
        user = "fleet";
        publicKey = "old"; # replaced at the last reinstall
        authorizedKeys = masterKeys;
      };

      a = {
        hostname = "a";
        user = "fleet";
        authorizedKeys = masterKeys;
      }; # the first

      web = {
        configurationFile = ./hosts/web/configuration.nix;
        hostname = "web";
        sshAlias = "web";
        sshKeyName = "id_ed25519";
        user = "fleet";
        homeDirectory = "/home/fleet";
        publicKey = "ssh-ed25519 AAAA root@web";
        authorizedKeys = masterKeys;
      };

      # nothing after this
    }
    "#);
}

#[test]
fn one_attribute_and_no_other_byte() {
    let after = set(USUAL, "b", "publicKey", "ssh-ed25519 \"new\" ${x} \\");
    assert_eq!(after, USUAL.replace("\"old\"", r#""ssh-ed25519 \"new\" \${x} \\""#));
    assert_eq!(set_attr(&after, "b", "publicKey", "old").unwrap(), USUAL);
    let added = set(USUAL, "a", "sshAlias", "alpha");
    assert_eq!(added, USUAL.replace("\"a\";\n", "\"a\";\n    sshAlias = \"alpha\";\n"));
    assert_eq!(remove_attr(&added, "a", "sshAlias").unwrap(), USUAL);
}

#[test]
fn a_host_goes_and_its_comments_outside_stay() {
    let after = remove_host(USUAL, "b").unwrap();
    verified(USUAL, &after, Path::new(FILE), &Change::Remove { name: "b".to_owned() }, NixMode::Embedded)
        .unwrap();
    assert!(after.contains("{\n  # machines\n\n  a = {"), "{after}");
    let after = remove_host(USUAL, "a").unwrap();
    assert!(after.contains("# the first") && after.contains("# nothing after this"), "{after}");
    assert_eq!(remove_host(USUAL, "nobody").unwrap(), USUAL);
}

#[test]
fn layouts() {
    for text in [
        "{ }",
        "{ a = { user = \"x\"; }; }",
        "{ a = { user = \"x\"; }; }\n",
        "{a={user=\"x\";};}",
        "{\n  # none yet\n}\n",
        "{\n\ta = {\n\t\tuser = \"x\";\n\t};\n}\n",
        "{\r\n  a = {\r\n    user = \"x\"; # who\r\n  }; # a\r\n}\r\n",
        "{\r\n  # c\r\n}\r\n",
        "{\n  a = { user = \"x\"; };\n  b = { user = \"y\"; };\n}",
        "{\n  a = { user = \"x\"; };\n  b = { user = \"y\"; }; }",
        "{\n  a = { user = \"x\"; }; b = { user = \"y\"; };\n}",
        "{ a = { user = \"x\"; };\n  b = { user = \"y\"; }; # z\n}",
        "{\n  \"a.b\" = { user = \"x\"; };\n  \"then\" = { user = \"y\"; };\n}\n",
        "rec {\n  a = { user = \"x\"; };\n  b = { user = a.user; };\n}\n",
        "let k = 1; in {\n    a = {\n        user = \"x\";\n    };\n\n    # old = { };\n}\n",
        "{\n  a.user = \"x\";\n  a.hostname = \"a\";\n}\n",
        "{\n  a = rec { user = \"x\"; hostname = user; };\n}\n",
        "{ a = { user = \"x\"; }; /* c */ }",
        "{ /* c */ a = { user = \"x\"; }; }",
        // A banner, a blank line behind the brace, lists that are empty over two lines.
        "# ====\n# FLEET\n# ====\n\n{\n\n  main = {\n    ip = \"192.0.2.1\";\n    tags = [\n\n    ];\n  };\n  a = {\n    user = \"x\";\n    tags = [ ];\n  };\n}\n",
        // Hosts made by a function, beside plain ones; a short one on a line.
        "let\n  mk = name: more: more // {inherit name;};\nin {\n  rex = mk \"rex\" {\n    what = \"phone\";\n  };\n\n  tab = mk \"tab\" {what = \"tablet\";};\n\n  a = {\n    user = \"x\";\n    keys = {\n      ssh = \"k\";\n    };\n  };\n}\n",
        // Each with a remark above, nothing between them; a mark for a script at the end.
        "{\n  # the gateway\n  gate = {\n    enableNAT = true;\n    # where it is\n    file = \"/key\";\n  };\n  # at home\n  a = {\n    user = \"x\";\n    # endpoint = \"192.0.2.7\";\n  };\n  # MARK\n}\n",
        // What refers to itself, sets in one line and dotted names; one that is commented out; an empty line at the end.
        "let tld = \"z\"; in {\n  a = rec {\n    user = \"x\";\n    ipv4.public = \"192.0.2.1\";\n    ipv6 = { public = \"::1\"; vpn = \"\"; };\n    deployment = {\n      targetHost = ipv6.public;\n    };\n  };\n\n  #pink = {\n  #  user = \"p\";\n  #};\n\n  b = rec {\n    inherit tld;\n    user = \"y\";\n  };\n\n}\n",
        // Nothing indented below the brace.
        "let\n  k = \"v\";\nin\n{\n# old\n#   b = rec {\n#   };\na = {\n  user = \"x\";\n};\n}\n",
    ] {
        for name in ["web", "A", "in", "x.y", "quote\"${d}"] {
            let after = insert(text, name, &small(name));
            set(&after, name, "publicKey", "k");
            set(&after, name, "user", "v");
        }
        if text.contains("user = \"x\"") && text.contains(" a = {") && !text.contains("a.user") {
            let changed = set(text, "a", "user", "other");
            assert_eq!(changed, text.replacen("\"x\"", "\"other\"", 1));
        }
    }
}

/// What stands on one line because a formatter leaves it there, and takes an attribute or a host more: the bytes
/// before and after, both as that formatter writes them.
#[test]
fn what_a_formatter_keeps_on_one_line_is_left_as_it_is() {
    let attributes = [
        (
            "alejandra",
            "{\n  a = {user = \"x\";}; # who\n  b = {};\n}\n",
            "{\n  a = {user = \"x\";}; # who\n  a.hostname = \"h\";\n  b = {};\n}\n",
        ),
        ("alejandra", "{\n  a = {};\n}\n", "{\n  a = {hostname = \"h\";};\n}\n"),
        ("nixfmt", "{\n  a = { };\n}\n", "{\n  a = { };\n  a.hostname = \"h\";\n}\n"),
        ("both", "{\n  a = {\n  };\n}\n", "{\n  a = {\n    hostname = \"h\";\n  };\n}\n"),
        ("alejandra", "{a = {user = \"x\";};}\n", "{\n  a = {user = \"x\";};\n\n  a.hostname = \"h\";\n}\n"),
        ("nixfmt", "{ a = { }; }\n", "{\n  a = { };\n\n  a.hostname = \"h\";\n}\n"),
        ("alejandra", "{a = {};}\n", "{a = {hostname = \"h\";};}\n"),
    ];
    for (formatter, before, after) in attributes {
        check_formatted(formatter, before);
        check_formatted(formatter, after);
        assert_eq!(set(before, "a", "hostname", "h"), after);
        assert_eq!(remove_attr(after, "a", "hostname").unwrap(), before);
        // What is beside the set is the host's too.
        assert_eq!(set(after, "a", "hostname", "i"), after.replace("\"h\"", "\"i\""));
        let gone = remove_host(after, "a").unwrap();
        verified(after, &gone, Path::new(FILE), &Change::Remove { name: "a".to_owned() }, NixMode::Embedded)
            .unwrap();
    }
    let hosts = [
        ("both", "{\n}\n", "{\n  w = {\n    user = \"u\";\n    hostname = \"w\";\n  };\n}\n"),
        ("alejandra", "{}\n", "{\n  w = {\n    user = \"u\";\n\n    hostname = \"w\";\n  };\n}\n"),
        ("nixfmt", "{ }\n", "{\n  w = {\n    user = \"u\";\n    hostname = \"w\";\n  };\n\n}\n"),
        (
            "alejandra",
            "let\n  k = [\"k\"];\nin {}\n",
            "let\n  k = [\"k\"];\nin {\n  w = {\n    user = \"u\";\n    hostname = \"w\";\n  };\n}\n",
        ),
        (
            "nixfmt",
            "let\n  k = [ \"k\" ];\nin\n{ }\n",
            "let\n  k = [ \"k\" ];\nin\n{\n  w = {\n    user = \"u\";\n    hostname = \"w\";\n  };\n}\n",
        ),
        (
            "alejandra",
            "{a = {user = \"x\";};}\n",
            "{\n  a = {user = \"x\";};\n\n  w.user = \"u\";\n  w.hostname = \"w\";\n}\n",
        ),
        (
            "alejandra",
            "{a.user = \"x\";}\n",
            "{\n  a.user = \"x\";\n\n  w = {user = \"u\";};\n  w.hostname = \"w\";\n}\n",
        ),
        (
            "nixfmt",
            "rec { a.user = \"x\"; }\n",
            "rec {\n\n  a.user = \"x\";\n  w.user = \"u\";\n  w.hostname = \"w\";\n}\n",
        ),
        (
            "nixfmt",
            "{ a = ({ user = \"x\"; }); }\n",
            "{\n  a = ({ user = \"x\"; });\n\n  w.user = \"u\";\n  w.hostname = \"w\";\n}\n",
        ),
    ];
    for (formatter, before, after) in hosts {
        check_formatted(formatter, before);
        check_formatted(formatter, after);
        assert_eq!(insert(before, "w", &small("w")), after);
        assert_eq!(remove_host(after, "w").unwrap(), before);
    }
}

/// Where nothing can stand beside a set, or the whole file is one line, what is written tells how it was.
#[test]
fn what_was_on_one_line_is_so_again() {
    for (formatter, before, after) in [
        ("alejandra", "{a.user = \"x\";}\n", "{\n  a.user = \"x\";\n\n  a = {hostname = \"h\";};\n}\n"),
        ("nixfmt", "{ a.user = \"x\"; }\n", "{\n\n  a.user = \"x\";\n  a.hostname = \"h\";\n}\n"),
        (
            "alejandra",
            "{\n  a = rec {user = \"x\";};\n  b.own = [];\n}\n",
            "{\n  a = rec {\n    user = \"x\";\n\n    hostname = \"h\";\n  };\n  b.own = [];\n}\n",
        ),
        ("alejandra", "{\n  a = rec {};\n}\n", "{\n  a = rec {hostname = \"h\";};\n}\n"),
        ("nixfmt", "{\n  a = rec { };\n}\n", "{\n  a = rec {\n    hostname = \"h\";\n\n  };\n}\n"),
        (
            "nixfmt",
            "{\n  a = rec {\n  };\n  b.own = [ ];\n}\n",
            "{\n  a = rec {\n\n    hostname = \"h\";\n  };\n  b.own = [ ];\n}\n",
        ),
        ("nixfmt", "{\n  a = ({ });\n}\n", "{\n  a = ({ });\n  a.hostname = \"h\";\n}\n"),
        (
            "nixfmt",
            "{\n  a = ({ user = \"x\"; });\n}\n",
            "{\n  a = ({ user = \"x\"; });\n  a.hostname = \"h\";\n}\n",
        ),
    ] {
        check_formatted(formatter, before);
        assert_eq!(set(before, "a", "hostname", "h"), after);
        check_formatted(formatter, after);
        assert_eq!(remove_attr(after, "a", "hostname").unwrap(), before);
    }
    // Two entries with an empty line between them are nobody's sign.
    let two = "{\n  a.user = \"x\";\n\n  w.user = \"u\";\n}\n";
    check_formatted("both", two);
    assert_eq!(remove_host(two, "w").unwrap(), "{\n  a.user = \"x\";\n}\n");
}

/// A line that the edit is not about is broken where the formatter breaks it, and joined again: only white space of it changes.
#[test]
fn what_stands_before_the_hosts_goes_over_lines_with_them() {
    let three = NewHost { ssh_alias: Some("w".to_owned()), ..small("w") };
    for (formatter, before, host, after) in [
        (
            "alejandra",
            "# ours\nlet k = [\"k\"]; in {}\n",
            &three,
            "# ours\nlet\n  k = [\"k\"];\nin {\n  w = {\n    user = \"u\";\n\n    hostname = \"w\";\n\n    sshAlias = \"w\";\n  };\n}\n",
        ),
        (
            "alejandra",
            "let inherit (import ./k.nix) k; in rec {}\n",
            &small("w"),
            "let\n  inherit (import ./k.nix) k;\nin rec {\n  w.user = \"u\";\n\n  w.hostname = \"w\";\n}\n",
        ),
        (
            "nixfmt",
            "with { z = 1; }; { }\n",
            &small("w"),
            "with { z = 1; };\n\n{\n\n  w = {\n    user = \"u\";\n    hostname = \"w\";\n  };\n}\n",
        ),
        (
            "nixfmt",
            "with { z = 1; }; { a = { }; }\n",
            &small("w"),
            "with { z = 1; };\n\n{\n  a = { };\n\n  w.user = \"u\";\n  w.hostname = \"w\";\n}\n",
        ),
    ] {
        check_formatted(formatter, before);
        check_formatted(formatter, after);
        assert_eq!(insert(before, "w", host), after);
        // Also by way of another host that comes and goes.
        let two = insert(after, "x", &three);
        check_formatted(formatter, &two);
        assert_eq!(remove_host(&remove_host(&two, "x").unwrap(), "w").unwrap(), before);
    }
    // As people write it, nothing tells of another file.
    for (before, gone) in [
        (
            "let\n  k = 1;\nin {\n  w = {\n    user = \"u\";\n    hostname = \"w\";\n  };\n}\n",
            "let\n  k = 1;\nin {\n}\n",
        ),
        ("with { z = 1; };\n{\n  w = {\n    user = \"u\";\n  };\n}\n", "with { z = 1; };\n{\n}\n"),
    ] {
        assert_eq!(remove_host(before, "w").unwrap(), gone);
    }
}

/// `nixfmt` breaks a line that is too long behind a name in quotes, and where it is the whole file.
#[test]
fn a_long_text_goes_on_a_line_of_its_own_where_nixfmt_puts_it() {
    let long = "k".repeat(90);
    for (before, host, after) in [
        (
            "{\n  \"a.b\".user = \"x\"; # who\n  c.own = [ ];\n}\n",
            "a.b",
            "{\n  \"a.b\".user =\n    \"LONG\"; # who\n  c.own = [ ];\n}\n",
        ),
        ("{ a.user = \"x\"; }\n", "a", "{\n\n  a.user = \"LONG\";\n\n}\n"),
        ("rec { \"a.b\".user = \"x\"; }\n", "a.b", "rec {\n\n  \"a.b\".user =\n    \"LONG\";\n\n}\n"),
        (
            "with { z = 1; }; { a.user = \"x\"; }\n",
            "a",
            "with { z = 1; };\n\n{\n\n  a.user = \"LONG\";\n\n}\n",
        ),
    ] {
        let after = after.replace("LONG", &long);
        check_formatted("nixfmt", before);
        check_formatted("nixfmt", &after);
        assert_eq!(set(before, host, "user", &long), after);
        assert_eq!(set(&after, host, "user", "x"), before);
    }
    // A file whose brackets have no space inside is not `nixfmt`'s.
    let tight = "{\n  \"a.b\".user = \"x\";\n  c.own = [];\n}\n";
    assert_eq!(set(tight, "a.b", "user", &long), tight.replace('x', &long));
}

/// Somebody's empty line above a file's only attribute is not what an edit leaves to tell how the file was.
#[test]
fn an_empty_line_above_the_only_attribute_stays() {
    let before = "{\n\n  a.user = \"x\";\n}\n";
    check_formatted("nixfmt", before);
    let after = set(before, "a", "hostname", "h");
    check_formatted("nixfmt", &after);
    assert_eq!(after, "{\n\n  a.user = \"x\";\n\n  a.hostname = \"h\";\n}\n");
    assert_eq!(remove_attr(&after, "a", "hostname").unwrap(), before);
}

/// No set that begins below `in` stood on one line, whatever its entries look like.
#[test]
fn below_code_no_set_is_put_on_one_line() {
    for head in ["let\n  k = 1;\nin\n", "let\n  k = 1;\nin\nrec ", "with { z = 1; };\n", "assert true;\n"] {
        let text = format!("{head}{{\n  a = {{ }};\n\n  b.user = \"x\";\n}}\n");
        let gone = format!("{head}{{\n  a = {{ }};\n}}\n");
        check_formatted("nixfmt", &text);
        check_formatted("nixfmt", &gone);
        assert_eq!(remove_host(&text, "b").unwrap(), gone);
    }
}

#[track_caller]
fn check_formatted(formatter: &str, text: &str) {
    if formatter != "nixfmt" {
        assert_eq!(alejandra::format::in_memory(FILE.to_owned(), text.to_owned()).1, text);
    }
    if formatter != "alejandra" {
        assert_eq!(nixfmt_rs::format(text).unwrap(), text);
    }
}

/// What stands around an entry, or how its value begins, is not taken for the style of all.
#[test]
fn the_shape_of_one_entry_is_not_that_of_another() {
    let gone = |formatter: &str, before: &str, after: &str| {
        check_formatted(formatter, before);
        check_formatted(formatter, after);
        assert_eq!(remove_host(before, "a").unwrap(), after);
    };
    gone("nixfmt", "{\n\n  a = {\n    user = \"x\";\n  };\n\n}\n", "{\n\n}\n");
    gone("nixfmt", "{\n  a = {\n    # who\n    user = \"x\";\n\n    hostname = \"a\";\n  };\n}\n", "{\n}\n");
    gone(
        "nixfmt",
        "with { k = [ ]; };\n{\n  a = {\n    user = \"x\";\n  };\n}\n",
        "with { k = [ ]; };\n{\n}\n",
    );
    let added = |formatter: &str, before: &str, entry: &str| {
        check_formatted(formatter, before);
        let after = insert(before, "web", &small("web"));
        check_formatted(formatter, &after);
        assert!(after.ends_with(&format!("{entry}}}\n")), "{after}");
    };
    let entry = "  web = {\n    user = \"u\";\n    hostname = \"web\";\n  };\n";
    added(
        "nixfmt",
        "{\n  a = # who\n    {\n      user = \"x\";\n      hostname = \"a\";\n      sshAlias = \"a\";\n    };\n}\n",
        entry,
    );
    let entry =
        entry.replace("  };\n", "    authorizedKeys =\n      k\n      ++ [\n        \"x\"\n      ];\n  };\n");
    added(
        "alejandra",
        "let\n  k = [\"k\"];\nin {\n  a = {\n    user = \"u\";\n    authorizedKeys =\n      k\n      ++ [\n        \"x\"\n      ];\n  };\n}\n",
        &entry,
    );
    // What was computed stood on a line of its own, as no text does.
    let computed = "{\n  a = {\n    user =\n      if true\n      then \"x\"\n      else \"y\";\n  };\n}\n";
    let plain = "{\n  a = {\n    user = \"z\";\n  };\n}\n";
    check_formatted("alejandra", computed);
    check_formatted("alejandra", plain);
    assert_eq!(set(computed, "a", "user", "z"), plain);
}

/// Where both can not be had, the bytes are: what a formatter would then write otherwise.
#[test]
fn where_the_inverse_goes_before_the_formatter() {
    // What stands before the hosts on their line, where one attribute tells nothing.
    let before = "let k = 1; in {}\n";
    let after = "let k = 1; in {\n  w = {user = \"u\";};\n}\n";
    check_formatted("alejandra", before);
    assert_eq!(insert(before, "w", &NewHost { hostname: None, ..small("w") }), after);
    assert_ne!(alejandra::format::in_memory(FILE.to_owned(), after.to_owned()).1, after);
    // A recursive set takes nothing from beside it, and nothing else in the file tells whose it is.
    let rec = "{\n  a = rec {user = \"x\";};\n}\n";
    check_formatted("alejandra", rec);
    let after = set(rec, "a", "hostname", "h");
    assert_eq!(after, "{\n  a = rec {user = \"x\"; hostname = \"h\";};\n}\n");
    assert_eq!(remove_attr(&after, "a", "hostname").unwrap(), rec);
}

#[test]
fn a_comment_that_goes_on_after_the_line_stays_beside_its_entry() {
    for (text, left) in [
        (
            "{\n  a = {\n    user = \"u\";\n  }; /* of a,\n        on */\n}\n",
            "  }; /* of a,\n        on */\n  web = {\n",
        ),
        (
            "{\n  a = {\n    user = \"u\";\n  }; /* of a,\n        on */ # more\n\n  # tail\n}\n",
            "on */ # more\n  web = {\n",
        ),
        (
            "{\n  a.user = \"u\"; # a\n  b.user = \"u\"; /* of b,\n  on */\n}\n",
            "/* of b,\n  on */\n  web = {\n",
        ),
        (
            "{\n  a = {\n    user = \"u\";\n  };\n\n  b = {\n    user = \"u\";\n  }; /* of b,\n        on */\n\n  z = {\n    user = \"u\";\n  };\n}\n",
            "on */\n\n  web = {\n",
        ),
    ] {
        let after = insert(text, "web", &small("web"));
        assert!(after.contains(left), "{after}");
    }
    // What stands behind the comment on its last line keeps it.
    insert(
        "{\n  a = {\n    user = \"u\";\n  }; /* of z,\n  on */ z = {\n    user = \"u\";\n  };\n}\n",
        "web",
        &small("web"),
    );
}

#[test]
fn a_host_in_a_set_and_beside_it() {
    let text = "{\n  a = {\n    user = \"x\";\n  };\n  a.hostname = \"a\"; # its name\n}\n";
    assert_eq!(set(text, "a", "user", "y"), text.replace("\"x\"", "\"y\""));
    assert_eq!(set(text, "a", "hostname", "b"), text.replace("\"a\"", "\"b\""));
    let more = set(text, "a", "publicKey", "k");
    assert_eq!(remove_attr(&more, "a", "publicKey").unwrap(), text);
    let gone = remove_host(text, "a").unwrap();
    verified(text, &gone, Path::new(FILE), &Change::Remove { name: "a".to_owned() }, NixMode::Embedded)
        .unwrap();
    assert_eq!(gone, "{\n  # its name\n}\n");
}

#[test]
fn refused_with_the_reason() {
    let cases = [
        ("{ a = { user = \"x\"; } // { b = \"1\"; }; }", "it is defined through an operator such as `//`"),
        ("let f = x: x; in { a = f { user = \"x\"; }; }", "it is defined through a function call"),
        ("let a = { user = \"x\"; }; in { inherit a; }", "it is inherited"),
        ("let a = { user = \"x\"; }; in { a = a; }", "it is defined through a variable"),
        ("let user = \"x\"; in { a = { inherit user; }; }", "it inherits `user`"),
        ("{ a = { user.name = \"x\"; }; }", "`user` is a set of its own"),
    ];
    for (text, reason) in cases {
        let error = set_attr(text, "a", "user", "y").unwrap_err();
        assert_eq!(error.kind(), Kind::Refused, "{text}");
        assert!(error.message().contains(reason), "{}", error.message());
    }
    let error = insert_host("{ a = { }; } // { }", "b", &small("b")).unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    let error = insert_host("{ a = { }; }", "a", &small("a")).unwrap_err();
    assert_eq!(error.kind(), Kind::Conflict);
    let error = set_attr("{ a = { }; }", "b", "user", "y").unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    let error = set_attr("{ a = { user = \"x\" # why\n + \"y\"; }; }", "a", "user", "y").unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
}

/// What the program says of a file that it can not prove an edit of.
fn refusal(text: &str, change: &Change) -> String {
    let error = apply(text, Path::new(FILE), change, NixMode::Embedded).unwrap_err();
    assert_eq!(error.kind(), Kind::Refused, "{text}: {error:?}");
    error.message().replace(FILE, "FILE")
}

#[test]
fn what_is_computed_or_depends_on_the_change_is_refused_by_name() {
    let set = |attr: &str| Change::Set { host: "a".to_owned(), attr: attr.to_owned(), value: "y".to_owned() };
    let remove = Change::Remove { name: "a".to_owned() };
    let insert = Change::Insert { name: "b".to_owned(), host: small("b") };
    let computed = "let n = \"a\"; in {\n  ${n} = { user = \"x\"; };\n}\n";
    assert_eq!(
        refusal(computed, &set("user")),
        "can not edit host 'a' in hosts.nix (line 2): a name is computed, which may be its"
    );
    assert_eq!(
        refusal(computed, &remove),
        "can not edit FILE: a is computed, and would not be what was meant"
    );
    let used = "rec {\n  a = { user = \"x\"; };\n  c = { user = a.user; };\n}\n";
    assert_eq!(
        refusal(used, &set("user")),
        "can not edit FILE: c.user is made from what would change, and would change too"
    );
    assert_eq!(
        refusal(used, &remove),
        "can not edit FILE: it would not evaluate any more: undefined variable 'a'"
    );
    let twice = "let k = \"user\"; in {\n  a = { ${k} = \"x\"; };\n}\n";
    assert_eq!(
        refusal(twice, &set("user")),
        "can not edit FILE: it would not evaluate any more: attribute 'user' is already defined"
    );
    let shadowed = "let b = \"x\"; in rec {\n  a = { user = b; };\n}\n";
    assert_eq!(
        refusal(shadowed, &insert),
        "can not edit FILE: a.user is made from what would change, and would change too"
    );
    let own = "rec {\n  a = rec { publicKey = \"x\"; sshAlias = publicKey; };\n}\n";
    assert_eq!(
        refusal(own, &set("publicKey")),
        "can not edit FILE: a.sshAlias is made from what would change, and would change too"
    );
}

/// In the new text the file is the new text, also where it reads itself.
#[test]
fn a_file_that_reads_itself_reads_what_it_would_be() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("hosts.nix");
    let other = dir.path().join("names.nix");
    std::fs::write(&other, "builtins.attrNames (import ./hosts.nix)").unwrap();
    let insert = Change::Insert { name: "b".to_owned(), host: small("b") };
    let set = Change::Set { host: "a".to_owned(), attr: "user".to_owned(), value: "y".to_owned() };
    for (peers, changes) in [
        ("builtins.attrNames (import ./hosts.nix)", [true, false]),
        ("import ./names.nix", [true, false]),
        ("(import ./hosts.nix).a.user", [false, true]),
        ("builtins.stringLength (builtins.readFile ./hosts.nix)", [true, true]),
    ] {
        let text = format!("{{\n  a = {{ user = \"long\"; }};\n  c = {{ peers = {peers}; }};\n}}\n");
        std::fs::write(&file, &text).unwrap();
        for (change, changes) in [&insert, &set].into_iter().zip(changes) {
            let outcome = apply(&text, &file, change, NixMode::Embedded);
            match (outcome, changes) {
                (Ok(_), false) => {}
                (Err(error), true) => {
                    let told = "c.peers is made from what would change, and would change too";
                    assert!(error.message().ends_with(told), "{peers}: {error:?}");
                }
                (outcome, _) => panic!("{peers}: {outcome:?}"),
            }
        }
    }
}

#[test]
fn a_change_beside_the_intended_one_is_caught() {
    let change = Change::Set { host: "a".to_owned(), attr: "user".to_owned(), value: "y".to_owned() };
    let before = "rec { a = { user = \"x\"; }; b = { user = a.user; }; }";
    let after = set_attr(before, "a", "user", "y").unwrap();
    assert!(verified(before, &after, Path::new(FILE), &change, NixMode::Embedded).is_err());
}

#[test]
fn keys_that_no_expression_gives_a_new_host_are_written_out() {
    let insert = |text: &str| {
        let change = Change::Insert { name: "web".to_owned(), host: small("web") };
        apply(text, Path::new(FILE), &change, NixMode::Embedded)
            .unwrap_or_else(|e| panic!("{}\n{text}", e.chain()))
    };
    for text in [
        "{\n  a = {\n    authorizedKeys = [\n      \"k\" # laptop\n    ];\n  };\n}\n",
        "let\n  common = { authorizedKeys = [ \"k\" ]; };\nin\n{\n  a = common // {\n    hostname = \"a\";\n  };\n}\n",
        "let\n  d = { authorizedKeys = [ \"k\" ]; };\nin\n{\n  a = {\n    inherit (d) authorizedKeys;\n  };\n}\n",
        "{\n  a = rec {\n    k = \"k\";\n    authorizedKeys = [ k ];\n  };\n}\n",
        "{\n  a =\n    let\n      k = [ \"k\" ];\n    in\n    {\n      authorizedKeys = k;\n    };\n}\n",
        "let\n  k = \"outer\";\nin\n{\n  a = rec {\n    k = \"k\";\n    authorizedKeys = [ k ];\n  };\n}\n",
        // What both have, though neither has that list.
        "{\n  a = {\n    authorizedKeys = [ \"a\" \"k\" ];\n  };\n  b = {\n    authorizedKeys = [ \"k\" \"b\" ];\n  };\n}\n",
    ] {
        let after = insert(text);
        let plain = after.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(plain.contains("authorizedKeys = [ \"k\" ];"), "{after}");
        assert_eq!(remove_host(&after, "web").unwrap(), text);
    }
    for text in [
        "{\n  a = {\n    authorizedKeys = [ \"k1\" ];\n  };\n  b = {\n    authorizedKeys = [ \"k2\" ];\n  };\n}\n",
        "{\n  a = {\n    user = \"a\";\n  };\n}\n",
    ] {
        assert_eq!(insert(text).matches("authorizedKeys").count(), text.matches("authorizedKeys").count());
    }
    let shared = "let\n  k = [ \"k\" ]; # ours\nin\n{\n  a = {\n    authorizedKeys = k;\n  };\n}\n";
    assert_eq!(insert(shared).matches("authorizedKeys = k;").count(), 2);
}

#[test]
fn what_is_common_to_all_lists_is_written_as_they_write_it() {
    let insert = |values: &[&str]| {
        let hosts = values.iter().enumerate();
        let hosts: String =
            hosts.map(|(n, keys)| format!("  h{n} = {{\n    authorizedKeys = {keys};\n  }};\n")).collect();
        let text = format!("let\n  k = [ \"k\" ];\n  l = \"l\";\n  none = [ ];\nin\n{{\n{hosts}}}\n");
        let change = Change::Insert { name: "web".to_owned(), host: small("web") };
        let after = apply(&text, Path::new(FILE), &change, NixMode::Embedded)
            .unwrap_or_else(|e| panic!("{}\n{text}", e.chain()));
        assert_eq!(remove_host(&after, "web").unwrap(), text);
        let (_, entry) = after.split_once("web = {").unwrap();
        let keys = entry.split_once("authorizedKeys = ").and_then(|(_, rest)| rest.split_once(';'));
        keys.map(|(keys, _)| keys.split_whitespace().collect::<Vec<_>>().join(" "))
    };
    for (values, written) in [
        (&["k ++ [ \"a\" ]", "k ++ [ \"b\" ]"][..], Some("k")),
        (&["[ \"a\" ] ++ k", "(k) ++ [ \"b\" ]", "[ ]"], Some("k")),
        (&["k ++ [ l ] ++ [ \"a\" ]", "[ \"b\" l ]"], Some("[ l ]")),
        (&["[ \"a\" l \"c\" ]", "[ \"b\" \"c\" l ]"], Some("[ l \"c\" ]")),
        // The same by other words: only the proof knows.
        (&["k ++ [ \"a\" ]", "[ \"k\" \"b\" ]"], Some("[ \"k\" ]")),
        (&["[ \"k\" ]", "k"], Some("[ \"k\" ]")),
        (&["[ \"k\" ]", "k", "[ \"k\" ]", "k"], Some("[ \"k\" ]")),
        (&["k ++ [ \"a\" ]", "none"], Some("[ \"k\" \"a\" ]")),
        // A name and more in common: by the whole of the first, or key by key.
        (&["k ++ [ l \"a\" ]", "k ++ [ l \"b\" ]"], Some("[ \"k\" \"l\" ]")),
        // What more than half of them have.
        (&["k", "k", "[ \"b\" ]"], Some("k")),
        (&["[ \"a\" ]", "[ \"b\" ]"], None),
    ] {
        assert_eq!(insert(values).as_deref(), written, "{values:?}");
    }
}

#[test]
fn a_function_of_the_files_own_stays() {
    let text = "rec {\n  _host = name: { hostname = name; };\n  a = {\n    user = \"a\";\n  };\n}\n";
    insert(text, "web", &small("web"));
    set(text, "a", "publicKey", "k");
}

#[test]
fn a_function_in_another_host_is_left_as_it_is() {
    let keys = "publicKey = \"old\"; authorizedKeys = k;";
    for text in [
        format!(
            "let k = [ \"k\" ]; in\n{{\n  db = {{ modules = [ ./a.nix ({{ pkgs, ... }}: {{ }}) ]; }};\n  web = {{ {keys} }};\n}}\n"
        ),
        format!(
            "let k = [ \"k\" ]; f = import ./f.nix; in\n{{\n  db.overlay = final: prev: {{ }};\n  web = {{ {keys} g = x: x; }};\n}}\n"
        ),
        // What the others' functions could see is not what changes.
        format!(
            "let k = [ \"k\" ]; in\nrec {{\n  db = {{ user = \"u\"; f = x: db.user + other; }};\n  web = {{ {keys} }};\n  other = {{ }};\n}}\n"
        ),
        format!(
            "let k = [ \"k\" ]; in\n{{\n  web = rec {{ user = \"u\"; f = x: user; {keys} }};\n  db = {{ }};\n}}\n"
        ),
    ] {
        insert(&text, "nova", &small("nova"));
        assert_eq!(set(&text, "web", "publicKey", "new"), text.replace("old", "new"));
        set(&text, "web", "sshAlias", "new");
        let gone = remove_host(&text, "web").unwrap();
        let change = Change::Remove { name: "web".to_owned() };
        verified(&text, &gone, Path::new(FILE), &change, NixMode::Embedded).unwrap();
    }
}

#[test]
fn a_function_that_may_change_is_named() {
    let set = |attr: &str| Change::Set { host: "a".to_owned(), attr: attr.to_owned(), value: "y".to_owned() };
    let remove = Change::Remove { name: "a".to_owned() };
    let insert = Change::Insert { name: "b".to_owned(), host: small("b") };
    let said = |path: &str, line: u32, name: &str| {
        format!(
            "can not edit FILE: {path} is or holds a function, which can not be compared, and line {line} uses `{name}`, \
             which would change"
        )
    };
    let through = "rec {\n  a = { user = \"x\"; };\n  c = let u = a.user; in { f = [ (x: u) ]; };\n}\n";
    assert_eq!(refusal(through, &set("user")), said("c.f", 3, "a"));
    assert_eq!(
        refusal(through, &Change::Unset { host: "a".to_owned(), attr: "user".to_owned() }),
        said("c.f", 3, "a")
    );
    let lazily = "rec {\n  a = { user = \"x\"; };\n  c.f = x: a;\n}\n";
    assert_eq!(
        refusal(lazily, &remove),
        "can not edit FILE: it would not evaluate any more: undefined variable 'a'"
    );
    let from_with = "with { a = 1; };\nrec {\n  a = { user = \"x\"; };\n  c.f = x: \"${a}\";\n}\n";
    assert_eq!(refusal(from_with, &remove), said("c.f", 4, "a"));
    let captured = "let b = 1; in rec {\n  a = { f = x: b; };\n}\n";
    assert_eq!(refusal(captured, &insert), said("a.f", 2, "b"));
    let inherited = "let b = 1; in rec {\n  a = { g = { inherit b; f = x: b; }; };\n}\n";
    assert!(refusal(inherited, &insert).contains("a.g.b is made from what would change"));
    let own = "{\n  a = rec {\n    user = \"x\";\n    f = x: user;\n  };\n}\n";
    assert_eq!(refusal(own, &set("user")), said("a.f", 4, "user"));
    // A text that is not the edit's.
    let (before, after) =
        ("{ a = { }; c = { f = x: 1; }; }", "{ a = { user = \"y\"; }; c = { f = x: 2; }; }");
    let error = verified(before, after, Path::new(FILE), &set("user"), NixMode::Embedded).unwrap_err();
    assert!(error.message().ends_with("and more than that entry would be written anew"), "{error:?}");
    let (before, after) =
        ("let v = 1; in { a = { }; c.f = x: v; }", "let v = 2; in { a = { user = \"y\"; }; c.f = x: v; }");
    let error = verified(before, after, Path::new(FILE), &set("user"), NixMode::Embedded).unwrap_err();
    assert!(error.message().ends_with("and more than that entry would be written anew"), "{error:?}");
}

/// A set of 2^30 values when unfolded is a small one to evaluate, and to compare.
#[test]
fn what_the_hosts_share_is_compared_once() {
    let text = "let\n  f = n: if n == 0 then { a = 1; } else let x = f (n - 1); in { l = x; r = x; user = \"a\"; };\nin\n{\n  a = { user = \"u\"; own = f 30; };\n}\n";
    insert(text, "web", &small("web"));
    set(text, "a", "user", "v");
}

#[test]
fn comment_lines_are_no_blank_lines() {
    let text = "{\n  # the first\n  a = {\n    user = \"x\";\n  };\n  # the second\n  b = {\n    user = \"x\";\n  };\n  /* the\n     last */\n  c = {\n    user = \"x\";\n  };\n}\n";
    for text in [text.to_owned(), text.replace('\n', "\r\n")] {
        let after = insert(&text, "web", &small("web")).replace("\r\n", "\n");
        assert!(after.contains("  };\n  web = {\n"), "{after}");
        let wide = text.replace("  #", "\n  #").replace("  /*", " \n  /*");
        let after = insert(&wide, "web", &small("web")).replace("\r\n", "\n");
        assert!(after.contains("  };\n\n  web = {\n"), "{after}");
    }
}

/// The old text's tree serves for the edit and for the new one's: in a file of many hosts that comes to what parsing anew
/// comes to, also where a host stands in several places.
#[test]
fn an_edit_with_the_tree_that_is_there_is_the_edit_of_the_text() {
    let host = |n: usize| match n % 3 {
        0 => format!("  vm-{n} = {{\n    user = \"fleet\"; # {n}\n    hostname = \"vm-{n}\";\n  }};\n\n"),
        1 => format!(
            "  vm-{n}.user = \"fleet\";\n  vm-{n}.hostname = \"vm-{n}\";\n  vm-{n}.sshAlias = \"{n}\";\n"
        ),
        _ => format!("  # the {n}th\n  vm-{n} = {{ user = \"fleet\"; hostname = \"vm-{n}\"; }};\n"),
    };
    let spread =
        |n: usize| if n % 150 == 7 { format!("  wide.\"at-{n}\" = \"{n}\";\n") } else { String::new() };
    let hosts: String = (0..600).map(|n| host(n) + &spread(n)).collect();
    let text = format!("{{\n{hosts}}}\n");
    let file = Path::new("/fleet/hosts.nix");
    let applied = |change: &Change| apply(&text, file, change, NixMode::Embedded).unwrap();
    for name in ["vm-0", "vm-1", "vm-2", "vm-300", "vm-301", "vm-302", "vm-597", "vm-598", "vm-599", "wide"] {
        let after = applied(&Change::Remove { name: name.to_owned() });
        assert_eq!(after, remove_host(&text, name).unwrap(), "{name}");
        assert!(!after.contains(&format!("  {name}.")) && !after.contains(&format!("  {name} =")), "{name}");
        if name == "wide" {
            continue;
        }
        let (host, attr) = (name.to_owned(), "hostname".to_owned());
        let unset = applied(&Change::Unset { host: host.clone(), attr: attr.clone() });
        assert_eq!(unset, remove_attr(&text, name, "hostname").unwrap(), "{name}");
        let set = applied(&Change::Set { host, attr, value: "other".to_owned() });
        assert_eq!(set, set_attr(&text, name, "hostname", "other").unwrap(), "{name}");
        assert!(unset.len() < text.len() && set.contains("\"other\""), "{name}");
    }
    assert_eq!(applied(&Change::Remove { name: "nobody".to_owned() }), text);
}
