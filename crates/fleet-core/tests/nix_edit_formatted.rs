//! What `alejandra` or `nixfmt` accepted before an edit, they accept after it: files of many shapes, each as the formatter
//! writes it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that fails says where")]

use std::path::Path;

use fleet_core::nix::{
    NixMode,
    edit::{
        AuthorizedKeys, Change, NewHost, apply, quote_name, quote_string, remove_attr, remove_host, set_attr,
        verified,
    },
    eval::{Budget, eval_text},
};
use proptest::{collection::vec, prelude::*, sample::select};

const FILE: &str = "/fleet/hosts.nix";

const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIN+YGiYlad10cykwmD216vctFMbar5gNFSvbl4UgHLYC root@new";

/// An attribute of a host.
#[derive(Debug, Clone)]
struct Attr {
    name: &'static str,
    value: &'static str,
    above: &'static str,
    beside: &'static str,
}

/// A host, and what stands around it.
#[derive(Debug, Clone)]
struct Host {
    name: &'static str,
    /// `NAME.attr = …;` each.
    paths: bool,
    rec: bool,
    parentheses: bool,
    /// Between the equal sign and the brace.
    before_brace: &'static str,
    /// Behind the brace.
    after_brace: &'static str,
    attrs: Vec<Attr>,
    last: &'static str,
    above: &'static str,
    beside: &'static str,
}

#[derive(Debug, Clone)]
struct Fleet {
    head: &'static str,
    open: &'static str,
    hosts: Vec<Host>,
    close: &'static str,
    tail: &'static str,
}

fn attr() -> impl Strategy<Value = Attr> {
    let name = select(vec![
        "user",
        "hostname",
        "sshAlias",
        "publicKey",
        "homeDirectory",
        "authorizedKeys",
        "own",
        "tags",
        "\"x.y\"",
    ]);
    let value = select(vec![
        "\"a\"",
        "\"a\"",
        "\"a\"",
        "\"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIN+YGiYlad10cykwmD216vctFMbar5gNFSvbl4UgHLYC root@host\"",
        "[]",
        "[\"a\"]",
        "[\"a\" \"b\"]",
        "[\n# c\n\"a\" # d\n\"b\"\n]",
        "keys",
        "keys ++ [\"a\"]",
        "keys\n++ [\n\"a\"\n]",
        "./a/b.nix",
        "{}",
        "{a = 1;}",
        "{\na = 1; # c\n\nb = 2;\n}",
        "''\n  a\n    b\n''",
        "''a''",
        "true",
        "f {a = 1;}",
        "if true then \"a\" else \"b\"",
        "with keys; []",
        "let x = 1; in x",
        "(1 + 2)",
        "x: x",
        "{pkgs, ...}: {a = 1;}",
        "/* c */ \"a\"",
        "\"a\" /* c */",
        "# c\n\"a\"",
    ]);
    let above = select(vec![
        "",
        "",
        "",
        "",
        "\n",
        "# c\n",
        "/* c */\n",
        "/* c */ ",
        "\n# c\n\n# d\n",
        "/*\n c\n*/\n",
    ]);
    let beside = select(vec!["\n", "\n", "\n", "\n", " # c\n", " /* c */\n", " ", "\n\n"]);
    (name, value, above, beside).prop_map(|(name, value, above, beside)| Attr { name, value, above, beside })
}

fn host() -> impl Strategy<Value = Host> {
    (
        (
            select(vec!["a", "b", "web", "db-1", "\"c.d\"", "zeta", "M"]),
            prop::bool::weighted(0.15),
            prop::bool::weighted(0.1),
            prop::bool::weighted(0.1),
        ),
        select(vec!["", "", "", "", "", "/* c */", "# c\n", "# c\n# d\n", "/*\n c\n*/", "\n\n"]),
        select(vec!["\n", "\n", "\n", "", " ", " # c\n", " /* c */ ", "\n\n", "\n# c\n", "\n# c\n\n"]),
        vec(attr(), 0..5),
        select(vec!["", "", "", "# c\n", "\n# c\n", "\n"]),
        select(vec![
            "",
            "",
            "\n",
            "# c\n",
            "\n# c\n",
            "\n# c\n# d\n",
            "\n# c\n\n",
            "/* c */\n",
            "/* c */ ",
            "\n\n\n",
        ]),
        select(vec!["\n", "\n", "\n", "", " # c\n", " /* c */\n", "\n\n", "\n# c\n"]),
    )
        .prop_map(
            |((name, paths, rec, parentheses), before_brace, after_brace, attrs, last, above, beside)| Host {
                name,
                paths,
                rec,
                parentheses,
                before_brace,
                after_brace,
                attrs,
                last,
                above,
                beside,
            },
        )
}

fn fleet() -> impl Strategy<Value = Fleet> {
    (
        select(vec![
            "",
            "",
            "# file\n",
            "/*\n c\n*/\n",
            "let keys = [\"k\"]; f = x: x; in\n",
            "let keys = [\"k\"]; in\n",
            "let keys = [\"k\"]; in ",
            "let\n  keys = [\n    \"k\" # c\n  ];\n\n  # c\n  f = x: x;\n\nin\n",
            "# file\n\nlet\n  keys = [];\n  f = x: x;\nin\n# c\n",
            "rec ",
            "let keys = []; in rec ",
            "with {keys = [\"k\"];};\n",
            "with {keys = [\"k\"]; f = x: x;};\n",
            "assert true;\n",
            "let keys = [\"k\"]; in with {f = x: x;};\n",
            "(",
            "let keys = [\"k\"]; in (",
            "let\n  inherit (import ./keys.nix) keys;\nin\n",
        ]),
        select(vec![
            "\n",
            "\n",
            "\n",
            "",
            " ",
            "\n\n",
            " # c\n",
            "\n# c\n\n",
            "\n# c\n",
            "\ninherit (f) x;\n",
        ]),
        vec(host(), 0..4),
        select(vec!["", "", "", "\n", "# c\n", "\n# c\n", "\n# c\n\n# d\n", "/* c */ "]),
        select(vec!["\n", "\n", "\n", "", "\n# c\n", " # c\n"]),
    )
        .prop_map(|(head, open, hosts, close, tail)| Fleet { head, open, hosts, close, tail })
}

/// One or two hosts with one attribute or none, and nothing that no formatter leaves on one line.
fn small_fleet() -> impl Strategy<Value = Fleet> {
    let host = (host(), any::<bool>(), prop::option::of(attr()), select(vec!["", "", "\n"])).prop_map(
        |(host, paths, attr, line)| {
            let attrs: Vec<Attr> =
                attr.into_iter().map(|attr| Attr { above: "", beside: line, ..attr }).collect();
            Host {
                paths: paths && !attrs.is_empty(),
                before_brace: "",
                after_brace: line,
                attrs,
                last: "",
                above: "",
                beside: line,
                ..host
            }
        },
    );
    let head = vec![
        "",
        "",
        "rec ",
        "(",
        "assert true; ",
        "with {keys = [\"k\"];}; ",
        "let keys = [\"k\"]; in ",
        "# file\nlet inherit (import ./keys.nix) keys; in rec ",
    ];
    let some = (select(head), select(vec!["", "", "\n", "\n\n"]), vec(host, 0..3));
    some.prop_map(|(head, open, hosts)| Fleet { head, open, hosts, close: "", tail: "\n" })
}

/// Whether a file has one of the recursive sets whose edits can not be had both ways: on one line with an attribute, where no
/// other line tells that brackets have no space inside; empty over lines, where one does or where one of them is empty; or any in a file that is itself one
/// line.
fn has_odd_rec(text: &str, one_line: bool) -> bool {
    let on_a_line = |line: &str| line.split("rec {").skip(1).any(|behind| !behind.is_empty());
    let filled = |line: &str| line.split("rec {").skip(1).any(|behind| !behind.trim_start().starts_with('}'));
    let is_tight = |behind: &str| !behind.is_empty() && !behind.starts_with(' ');
    let shows = |line: &str| line.split(['{', '[']).skip(1).any(is_tight);
    if one_line {
        return text.matches("rec {").count() > usize::from(text.starts_with("rec {"));
    }
    let empty = text.split("rec {\n").skip(1).filter(|behind| behind.trim_start().starts_with('}'));
    let with_empty_line = empty.clone().any(|behind| behind.starts_with('\n'));
    let odd_empty = with_empty_line || empty.count() > 0 && text.lines().any(shows);
    let shown_elsewhere = text.lines().any(|line| !on_a_line(line) && shows(line));
    odd_empty || !shown_elsewhere && text.lines().any(|line| on_a_line(line) && filled(line))
}

fn written(fleet: &Fleet) -> String {
    let mut text = format!("{}{{{}", fleet.head, fleet.open);
    let mut names = Vec::new();
    for host in &fleet.hosts {
        if names.contains(&host.name) {
            continue;
        }
        names.push(host.name);
        text.push_str(host.above);
        let mut seen = Vec::new();
        let mut attrs = String::new();
        for Attr { name, value, above, beside } in &host.attrs {
            if !seen.contains(name) {
                seen.push(*name);
                let path = if host.paths { format!("{}.", host.name) } else { String::new() };
                attrs.push_str(&format!("{above}{path}{name} = {value};{beside}"));
            }
        }
        if host.paths {
            text.push_str(&attrs);
        } else {
            let rec = if host.rec { "rec " } else { "" };
            let (open, close) = if host.parentheses { ("(", ")") } else { ("", "") };
            text.push_str(&format!(
                "{} = {}{open}{rec}{{{}{attrs}{}}}{close};{}",
                host.name, host.before_brace, host.after_brace, host.last, host.beside
            ));
        }
    }
    text.push_str(&format!("{}}}", fleet.close));
    if fleet.head.ends_with('(') {
        text.push(')');
    }
    text + fleet.tail
}

/// The text as a formatter writes it, once it writes it the same again.
fn formatted(format: fn(&str) -> Option<String>, text: &str) -> Option<String> {
    let mut text = text.to_owned();
    for _ in 0..4 {
        let next = format(&text)?;
        if next == text {
            return Some(text);
        }
        text = next;
    }
    None
}

fn new_host(which: usize) -> NewHost {
    let small = NewHost { user: Some("fleet".to_owned()), ..NewHost::default() };
    let large = NewHost {
        configuration_file: Some("./hosts/new/configuration.nix".to_owned()),
        public_key: Some(KEY.to_owned()),
        hostname: Some("new".to_owned()),
        ..small.clone()
    };
    match which {
        0 => NewHost { authorized_keys: AuthorizedKeys::Nobody, ..small },
        1 => NewHost { authorized_keys: AuthorizedKeys::List(vec!["one".to_owned()]), ..large },
        2 => NewHost {
            authorized_keys: AuthorizedKeys::List(vec!["one".to_owned(), "two".to_owned()]),
            ..large
        },
        3 => NewHost { authorized_keys: AuthorizedKeys::Nobody, ..large },
        _ => large,
    }
}

/// What gives the file back, where something does.
type Inverse<'e> = Box<dyn Fn(&str) -> Option<String> + 'e>;

#[derive(Debug, Clone)]
enum Edit {
    Insert(&'static str, usize),
    Set(prop::sample::Index, &'static str, &'static str),
    Unset(prop::sample::Index, &'static str),
    Remove(prop::sample::Index),
}

fn edit() -> impl Strategy<Value = Edit> {
    let attr = || select(vec!["user", "hostname", "sshAlias", "publicKey", "homeDirectory"]);
    prop_oneof![
        (select(vec!["new", "aa", "zz", "n.e"]), 0usize..6)
            .prop_map(|(name, which)| Edit::Insert(name, which)),
        (any::<prop::sample::Index>(), attr(), select(vec!["value", KEY]))
            .prop_map(|(which, attr, value)| Edit::Set(which, attr, value)),
        (any::<prop::sample::Index>(), attr()).prop_map(|(which, attr)| Edit::Unset(which, attr)),
        any::<prop::sample::Index>().prop_map(Edit::Remove),
    ]
}

/// Whether a `/* … */` is left alone on its line and was not: `nixfmt` takes one before a name in quotes on its line, and
/// nowhere else; a comment that an entry leaves behind stays as it is written.
fn left_alone(before: &str, after: &str) -> bool {
    let alone = |line: &&str| line.trim_start().starts_with("/*") && !line.contains(" =");
    after.lines().filter(alone).count() > before.lines().filter(alone).count()
}

fn check(fleet: &Fleet, edit: &Edit, format: fn(&str) -> Option<String>) -> Result<(), TestCaseError> {
    let Some(text) = formatted(format, &written(fleet)) else { return Ok(()) };
    let code = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    let line = code.clone().next().unwrap_or_default();
    let one_line = code.count() == 1;
    // `alejandra`'s `let` on one line with hosts, or with more than a `let` of one binding before an empty set, or that gets a
    // host of one attribute: it breaks a line outside of the set, which nothing would tell a removal.
    let fills =
        matches!(edit, Edit::Insert(_, 1..)) && (line.ends_with("in {}") || line.ends_with("in rec {}"));
    let plain =
        line.matches("let ").count() == 1 && !["with ", "assert "].iter().any(|word| line.contains(word));
    if one_line && line.starts_with("let ") && !(fills && plain) {
        return Ok(());
    }
    if has_odd_rec(&text, one_line) {
        return Ok(());
    }
    let Ok(before) = eval_text(&text, Path::new(FILE), Budget::default()) else { return Ok(()) };
    let all = before.value.attrs().unwrap();
    let (after, change, back): (_, _, Inverse<'_>) = match edit {
        Edit::Insert(name, which) => {
            let host = new_host(*which);
            let back = |after: &str| remove_host(after, name).ok();
            let change = Change::Insert { name: (*name).to_owned(), host };
            (apply(&text, Path::new(FILE), &change, NixMode::Embedded), change, Box::new(back))
        }
        _ if all.is_empty() => return Ok(()),
        Edit::Set(which, attr, value) => {
            let host = which.get(all);
            let name = host.name.to_string();
            // What was computed is no string that could be set again.
            let old = host.value.get(attr).map(|attr| {
                let value = attr.value.as_str()?;
                let at = attr.value.at?;
                (text[at.start as usize..at.end as usize] == quote_string(value)).then(|| value.to_owned())
            });
            let back = {
                let name = name.clone();
                move |after: &str| match &old {
                    Some(Some(old)) => set_attr(after, &name, attr, old).ok(),
                    Some(None) => None,
                    None => remove_attr(after, &name, attr).ok(),
                }
            };
            // In a file that shows nothing of brackets, a name in quotes before a long text is `nixfmt`'s or `alejandra`'s; and
            // a set in parentheses stays on one line.
            let line = format!("{}.{attr} =", quote_name(&name));
            let shows_nothing = !text.contains("[ ") && !text.contains("{ ");
            if line.starts_with('"') && shows_nothing || text.contains("({ ") && *value == KEY {
                return Ok(());
            }
            let after = set_attr(&text, &name, attr, value);
            let change = Change::Set { host: name, attr: (*attr).to_owned(), value: (*value).to_owned() };
            (after, change, Box::new(back))
        }
        Edit::Unset(which, attr) => {
            let name = which.get(all).name.to_string();
            let after = remove_attr(&text, &name, attr);
            (after, Change::Unset { host: name, attr: (*attr).to_owned() }, Box::new(|_| None))
        }
        Edit::Remove(which) => {
            let name = which.get(all).name.to_string();
            (remove_host(&text, &name), Change::Remove { name }, Box::new(|_| None))
        }
    };
    // What is refused changes nothing.
    let Ok(after) = after else { return Ok(()) };
    if verified(&text, &after, Path::new(FILE), &change, NixMode::Embedded).is_err() {
        return Ok(());
    }
    if let Some(back) = back(&after) {
        prop_assert_eq!(&back, &text, "back from:\n{}", after);
    }
    let takes_out = matches!(edit, Edit::Unset(..) | Edit::Remove(..));
    if takes_out && left_alone(&text, &after) {
        return Ok(());
    }
    let again = format(&after);
    prop_assert!(
        again.as_deref() == Some(after.as_str()),
        "{change:?}\n{text}\n---\n{after}\n---\n{}",
        again.unwrap_or_default()
    );
    Ok(())
}

/// More where CI asks for everything.
fn cases() -> u32 {
    if std::env::var_os("FLEET_REQUIRE_ORACLES").is_some() { 10_000 } else { 500 }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn alejandra_accepts_what_it_accepted(fleet in fleet(), edit in edit()) {
        check(&fleet, &edit, |text| Some(alejandra::format::in_memory(FILE.to_owned(), text.to_owned()).1))?;
    }

    #[test]
    fn nixfmt_accepts_what_it_accepted(fleet in fleet(), edit in edit()) {
        check(&fleet, &edit, |text| nixfmt_rs::format(text).ok())?;
    }

    #[test]
    fn alejandra_accepts_small_files_that_it_accepted(fleet in small_fleet(), edit in edit()) {
        check(&fleet, &edit, |text| Some(alejandra::format::in_memory(FILE.to_owned(), text.to_owned()).1))?;
    }

    #[test]
    fn nixfmt_accepts_small_files_that_it_accepted(fleet in small_fleet(), edit in edit()) {
        check(&fleet, &edit, |text| nixfmt_rs::format(text).ok())?;
    }
}
