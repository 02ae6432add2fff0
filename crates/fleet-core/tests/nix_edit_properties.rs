//! Properties of edits, over files of every layout: an edit and its inverse give the original bytes, an edit twice
//! is the edit once, no byte outside the edit changes, and no text whatever makes an edit panic or break a file.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that fails says where")]

use std::path::Path;

use fleet_core::nix::{
    NixMode,
    edit::{AuthorizedKeys, Change, NewHost, insert_host, remove_attr, remove_host, set_attr, verified},
    eval::{Budget, EvalError, eval_text},
    source::Span,
};
use proptest::{collection::vec, prelude::*};

const FILE: &str = "/fleet/hosts.nix";

/// How a file is written.
#[derive(Debug, Clone)]
struct Style {
    newline: &'static str,
    indent: &'static str,
    blank: bool,
    one_line_hosts: bool,
    one_line_file: bool,
    /// Hosts as `NAME.attr = …;`.
    paths: bool,
    /// What stands between the braces of an empty set.
    empty: &'static str,
    head: &'static str,
    tail: &'static str,
    final_newline: bool,
}

fn style() -> impl Strategy<Value = Style> {
    let choose = prop::sample::select::<&'static str>;
    (
        choose(vec!["\n", "\n", "\r\n"]),
        choose(vec!["  ", "\t", "    "]),
        any::<bool>(),
        any::<bool>(),
        prop::bool::weighted(0.1),
        (prop::bool::weighted(0.15), choose(vec!["", " ", "\n", "\n\n", "  ", " \n", "\n\t"])),
        choose(vec![
            "",
            "let keys = [\"k\"]; in ",
            "(rec ",
            "let keys = [ \"k\" ]; in ",
            "# file\n",
            "rec ",
            "assert true; ",
            "with { z = 1; };\n",
        ]),
        choose(vec!["", "\n  # last words\n", "  # beside\n", "\n\n"]),
        any::<bool>(),
    )
        .prop_map(
            |(
                newline,
                indent,
                blank,
                one_line_hosts,
                one_line_file,
                (paths, empty),
                head,
                tail,
                final_newline,
            )| Style {
                newline,
                indent,
                blank,
                one_line_hosts,
                one_line_file,
                paths,
                empty,
                head,
                tail,
                final_newline,
            },
        )
}

/// A host: its name, its attributes, what is written above and beside it.
type HostText = (String, Vec<(&'static str, String)>, &'static str, &'static str);

fn host() -> impl Strategy<Value = HostText> {
    let name = prop_oneof![3 => "[a-z][a-z0-9-]{0,6}", 1 => "\"[a-z.$ ]{1,5}\""];
    let attr = prop::sample::select(vec!["user", "hostname", "sshAlias", "publicKey"]);
    let above = prop::sample::select(vec!["", "", "", "# above", "/* above */"]);
    let beside = prop::sample::select(vec!["", "", "", " # beside", " /* beside */"]);
    (name, vec((attr, "[a-zA-Z0-9 {}\\\\$\"']{0,8}"), 0..4), above, beside)
}

fn file(style: &Style, hosts: &[HostText]) -> String {
    let Style { indent, .. } = style;
    let mut text = format!("{}{{", style.head);
    let mut names = Vec::new();
    for (name, attrs, above, beside) in hosts {
        let plain = name.trim_matches('"').to_owned();
        let keyword = ["assert", "else", "if", "in", "inherit", "let", "or", "rec", "then", "with"];
        if names.contains(&plain) || keyword.contains(&plain.as_str()) {
            continue;
        }
        if style.one_line_file {
            text.push_str(&format!(" {name} = {{ user = \"u\"; }};"));
            names.push(plain);
            continue;
        }
        text.push_str(if style.blank && !names.is_empty() { "\n\n" } else { "\n" });
        if !above.is_empty() {
            text.push_str(&format!("{indent}{above}\n"));
        }
        let mut seen = Vec::new();
        let mut inner = String::new();
        for (attr, value) in attrs {
            if !seen.contains(attr) {
                let value = fleet_core::nix::edit::quote_string(value);
                let lead = if style.one_line_hosts { " ".to_owned() } else { format!("\n{indent}{indent}") };
                inner.push_str(&format!("{lead}{attr} = {value};"));
                seen.push(*attr);
            }
        }
        if style.paths && !seen.is_empty() {
            let pairs = inner.split("; ").flat_map(|line| line.split(";\n"));
            let lines: Vec<String> =
                pairs.map(|pair| format!("{indent}{name}.{};", pair.trim().trim_end_matches(';'))).collect();
            text.push_str(&format!("{}{beside}", lines.join("\n")));
            names.push(plain);
            continue;
        }
        let close = if inner.is_empty() {
            style.empty.to_owned()
        } else if style.one_line_hosts {
            " ".to_owned()
        } else {
            format!("\n{indent}")
        };
        text.push_str(&format!("{indent}{name} = {{{inner}{close}}};{beside}"));
        names.push(plain);
    }
    text.push_str(if style.one_line_file {
        " "
    } else if style.tail.is_empty() {
        "\n"
    } else {
        style.tail
    });
    if names.is_empty() && !style.one_line_file && style.tail.trim().is_empty() {
        text.truncate(style.head.len() + 1);
        text.push_str(style.empty);
    }
    text.push('}');
    if style.head.starts_with('(') {
        text.push(')');
    }
    if style.final_newline {
        text.push('\n');
    }
    if style.newline == "\n" { text } else { text.replace('\n', "\r\n") }
}

fn evaluates(text: &str) -> bool {
    eval_text(text, Path::new(FILE), Budget::default()).is_ok()
}

/// Whether the one text is the other with some bytes put in at one place, instead of nothing or of the blanks and empty
/// lines in an empty set.
fn is_grown_at_one_place(text: &str, grown: &str) -> bool {
    let (old, new) = (text.as_bytes(), grown.as_bytes());
    let before = old.iter().zip(new).take_while(|(a, b)| a == b).count();
    let rest = old.len().min(new.len()) - before;
    let after = old.iter().rev().zip(new.iter().rev()).take(rest).take_while(|(a, b)| a == b).count();
    let gone = &old[before..old.len() - after];
    new.len() > old.len() && gone.iter().all(u8::is_ascii_whitespace)
}

/// Whether the one text is the other with tokens put in at one place: where a formatter breaks the line of a whole file, only
/// white space of it changes.
fn tokens_grow_at_one_place(text: &str, grown: &str) -> bool {
    let tokens = |text: &str| -> String {
        let code = rnix::tokenize(text).filter(|(kind, _)| *kind != rnix::SyntaxKind::TOKEN_WHITESPACE);
        code.map(|(_, token)| format!("{token}\n")).collect()
    };
    let one_line = text.lines().filter(|line| !line.starts_with('#')).count() == 1;
    one_line && is_grown_at_one_place(&tokens(text), &tokens(grown))
}

/// Whether every byte of one text stands in the other, in order.
fn stands_in(text: &str, other: &str) -> bool {
    let mut bytes = other.bytes();
    text.bytes().all(|byte| bytes.any(|found| found == byte))
}

/// Whether a value's place is all that is another.
fn differs_at(text: &str, after: &str, value: Span) -> bool {
    let (head, tail) = (&text[..value.start as usize], &text[value.end as usize..]);
    after.len() >= head.len() + tail.len() && after.starts_with(head) && after.ends_with(tail)
}

fn new_host(keys: bool) -> NewHost {
    NewHost {
        configuration_file: Some("./hosts/new/configuration.nix".to_owned()),
        user: Some("fleet".to_owned()),
        public_key: Some("ssh-ed25519 AAAA ${x}\"\\".to_owned()),
        authorized_keys: if keys {
            AuthorizedKeys::List(vec!["one".to_owned(), "two".to_owned()])
        } else {
            AuthorizedKeys::SameAsOthers
        },
        ..NewHost::default()
    }
}

/// Ten thousand cases of each where CI asks for everything; a tenth between two edits.
fn cases() -> u32 {
    if std::env::var_os("FLEET_REQUIRE_ORACLES").is_some() { 10_000 } else { 1_000 }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn insert_and_remove(style in style(), hosts in vec(host(), 0..5), keys in any::<bool>(), name in "[a-z\"$.{ ]{1,6}") {
        let text = file(&style, &hosts);
        prop_assert!(evaluates(&text), "{text}");
        let host = new_host(keys);
        let Ok(after) = insert_host(&text, &name, &host) else {
            // Only a name that is there already is refused.
            prop_assert!(hosts.iter().any(|(n, ..)| n.trim_matches('"') == name), "{text}");
            return Ok(());
        };
        let change = Change::Insert { name: name.clone(), host: host.clone() };
        prop_assert!(verified(&text, &after, Path::new(FILE), &change, NixMode::Embedded).is_ok(), "{text}\n---\n{after}");
        let grown = is_grown_at_one_place(&text, &after) || tokens_grow_at_one_place(&text, &after);
        prop_assert!(grown, "{text}\n---\n{after}");
        prop_assert!(insert_host(&after, &name, &host).is_err());
        let back = remove_host(&after, &name).unwrap();
        prop_assert_eq!(&back, &text, "after:\n{}", after);
        prop_assert!(after.contains("\r\n") == text.contains("\r\n") || !text.contains('\n'));
        prop_assert!(!after.replace("\r\n", "").contains('\r'));
    }

    #[test]
    fn set_and_set_back(style in style(), hosts in vec(host(), 1..5), which in any::<prop::sample::Index>(),
                        attr in prop::sample::select(vec!["user", "publicKey", "sshAlias", "homeDirectory"]), value in "\\PC{0,12}") {
        let text = file(&style, &hosts);
        let before = eval_text(&text, Path::new(FILE), Budget::default()).unwrap();
        let all = before.value.attrs().unwrap();
        if all.is_empty() {
            return Ok(());
        }
        let host = which.get(all);
        let name = host.name.as_ref();
        let after = set_attr(&text, name, attr, &value).unwrap();
        let change = Change::Set { host: name.to_owned(), attr: attr.to_owned(), value: value.clone() };
        prop_assert!(verified(&text, &after, Path::new(FILE), &change, NixMode::Embedded).is_ok(), "{text}\n---\n{after}");
        prop_assert!(tokens_grow_at_one_place(&text, &after) || match host.value.get(attr) {
            Some(old) => differs_at(&text, &after, old.value.at.unwrap()),
            None => is_grown_at_one_place(&text, &after),
        }, "{text}\n---\n{after}");
        prop_assert_eq!(&set_attr(&after, name, attr, &value).unwrap(), &after);
        let back = match host.value.get(attr).map(|old| old.value.as_str().unwrap()) {
            Some(old) => set_attr(&after, name, attr, old).unwrap(),
            None => remove_attr(&after, name, attr).unwrap(),
        };
        prop_assert_eq!(&back, &text, "after:\n{}", after);
    }

    #[test]
    fn a_removal_takes_only_its_host(style in style(), hosts in vec(host(), 1..5), which in any::<prop::sample::Index>()) {
        let text = file(&style, &hosts);
        let before = eval_text(&text, Path::new(FILE), Budget::default()).unwrap();
        let all = before.value.attrs().unwrap();
        if all.is_empty() {
            return Ok(());
        }
        let name = which.get(all).name.to_string();
        let after = remove_host(&text, &name).unwrap();
        prop_assert!(verified(&text, &after, Path::new(FILE), &Change::Remove { name: name.clone() }, NixMode::Embedded).is_ok(), "{text}\n---\n{after}");
        prop_assert!(stands_in(&after, &text), "{text}\n---\n{after}");
        for comment in ["above", "beside", "last words"] {
            prop_assert_eq!(text.matches(comment).count(), after.matches(comment).count(), "{}\n---\n{}", text, after);
        }
        prop_assert_eq!(remove_host(&after, &name).unwrap(), after);
    }

    #[test]
    fn broken_files_stay_as_they_are(style in style(), hosts in vec(host(), 0..4), at in any::<prop::sample::Index>(),
                                     with in prop::sample::select(vec!["", "{", "}", ";", "\"", "''", "${", "# ", "/*", "=", "\r", "(", "]", "é", ".", "//", "inherit a;", "\u{0}"]),
                                     cut in 0usize..3) {
        let mut text = file(&style, &hosts);
        let places: Vec<usize> = (0..=text.len()).filter(|at| text.is_char_boundary(*at)).collect();
        let start = *at.get(&places);
        let end = (start + cut).min(text.len());
        if text.is_char_boundary(end) {
            text.replace_range(start..end, with);
        }
        let was = eval_text(&text, Path::new(FILE), Budget::default());
        for after in [
            insert_host(&text, "new", &new_host(true)),
            set_attr(&text, "new", "user", "x"),
            remove_host(&text, "a"),
        ].into_iter().flatten() {
            // What could be parsed before can be parsed after; what could not is refused.
            let now = eval_text(&after, Path::new(FILE), Budget::default());
            prop_assert!(!matches!(now, Err(EvalError::Syntax(_))) || matches!(was, Err(EvalError::Syntax(_))), "{text}\n---\n{after}");
        }
    }
}

/// What is done to a file.
#[derive(Debug, Clone)]
struct EditOfFile {
    text: String,
    /// The name of a new host, and the host.
    name: String,
    new: NewHost,
    /// Which of the hosts that are there gets which attribute.
    which: prop::sample::Index,
    attr: &'static str,
}

fn edit_of_a_formatted_file() -> impl Strategy<Value = EditOfFile> {
    let attr = prop::sample::select(vec!["user", "publicKey", "sshAlias", "homeDirectory"]);
    let new = (0usize..3, any::<bool>()).prop_map(|(keys, whole)| {
        let mut new = new_host(keys > 0);
        if keys == 1 {
            new.authorized_keys = AuthorizedKeys::List(vec!["one".to_owned()]);
        }
        if whole { new } else { NewHost { user: new.user, ..NewHost::default() } }
    });
    (style(), vec(host(), 0..4), "[a-z.]{1,6}", new, any::<prop::sample::Index>(), attr).prop_map(
        |(style, hosts, name, new, which, attr)| EditOfFile {
            text: file(&style, &hosts),
            name,
            new,
            which,
            attr,
        },
    )
}

/// Whether a `/* … */` is left alone on its line and was not: `nixfmt` takes one before a name in quotes on its line, and
/// nowhere else; a comment that an entry leaves behind stays as it is written.
fn left_alone(before: &str, after: &str) -> bool {
    let alone = |line: &&str| line.trim_start().starts_with("/*") && !line.contains(" = ");
    after.lines().filter(alone).count() > before.lines().filter(alone).count()
}

/// Every edit of a file that a formatter accepts: it accepts the outcome, and the inverse gives the file back.
fn formatted_edits(
    formatter: &str,
    edit: &EditOfFile,
    format: fn(&str) -> Option<String>,
) -> Result<(), TestCaseError> {
    let EditOfFile { text, name, new: host, which, attr } = edit;
    let Some(text) = &format(text) else { return Ok(()) };
    let accepted = |text: &str| format(text).is_some_and(|formatted| formatted == text);
    // What it does not accept itself a second time; and `alejandra`'s `let` on one line with hosts, or that gets a host of one
    // attribute: it breaks a line outside of the set, which nothing would tell a removal.
    let code = text.lines().filter(|line| !line.starts_with('#'));
    let line = code.clone().next().filter(|_| code.count() == 1).unwrap_or_default();
    let fills = line.ends_with("in {}") && host.configuration_file.is_some();
    if !accepted(text) || line.starts_with("let ") && !fills {
        return Ok(());
    }
    let before = eval_text(text, Path::new(FILE), Budget::default()).unwrap();
    let all = before.value.attrs().unwrap();
    let inserted = insert_host(text, name, host);
    // Only a name that is there already is refused.
    prop_assert_eq!(inserted.is_err(), all.iter().any(|host| host.name.as_ref() == name), "{}", text);
    if let Ok(after) = inserted {
        prop_assert!(
            accepted(&after),
            "insert\n{text}\n---\n{after}\n--- {formatter}:\n{:?}",
            format(&after)
        );
        let change = Change::Insert { name: name.clone(), host: host.clone() };
        prop_assert!(
            verified(text, &after, Path::new(FILE), &change, NixMode::Embedded).is_ok(),
            "{text}\n---\n{after}"
        );
        prop_assert_eq!(&remove_host(&after, name).unwrap(), text, "after:\n{}", after);
    }
    if all.is_empty() {
        return Ok(());
    }
    let host = which.get(all);
    let name = host.name.as_ref();
    let after = set_attr(text, name, attr, "value").unwrap();
    prop_assert!(accepted(&after), "set\n{text}\n---\n{after}\n--- {formatter}:\n{:?}", format(&after));
    let change = Change::Set { host: name.to_owned(), attr: (*attr).to_owned(), value: "value".to_owned() };
    prop_assert!(
        verified(text, &after, Path::new(FILE), &change, NixMode::Embedded).is_ok(),
        "{text}\n---\n{after}"
    );
    prop_assert_eq!(&set_attr(&after, name, attr, "value").unwrap(), &after);
    let back = match host.value.get(attr).map(|old| old.value.as_str().unwrap()) {
        Some(old) => set_attr(&after, name, attr, old).unwrap(),
        None => remove_attr(&after, name, attr).unwrap(),
    };
    prop_assert_eq!(&back, text, "after:\n{}", after);
    let removed = remove_attr(text, name, attr);
    // Only the last `NAME.attr` is refused, for there would be no host any more.
    prop_assert!(removed.is_ok() || host.value.attrs().unwrap().len() == 1, "{text}");
    if let Ok(after) = removed {
        prop_assert!(
            (formatter == "nixfmt" && left_alone(text, &after)) || accepted(&after),
            "unset\n{text}\n---\n{after}\n--- {formatter}:\n{:?}",
            format(&after)
        );
    }
    let after = remove_host(text, name).unwrap();
    prop_assert!(
        (formatter == "nixfmt" && left_alone(text, &after)) || accepted(&after),
        "remove\n{text}\n---\n{after}\n--- {formatter}:\n{:?}",
        format(&after)
    );
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_alejandra_accepted_it_accepts_after(edit in edit_of_a_formatted_file()) {
        formatted_edits("alejandra", &edit, |text| Some(alejandra::format::in_memory(FILE.to_owned(), text.to_owned()).1))?;
    }

    #[test]
    fn what_nixfmt_accepted_it_accepts_after(edit in edit_of_a_formatted_file()) {
        formatted_edits("nixfmt", &edit, |text| nixfmt_rs::format(text).ok())?;
    }
}
