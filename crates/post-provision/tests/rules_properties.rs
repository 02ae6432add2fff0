//! Properties of every edit of `.sops.yaml`, over files of many shapes.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;
#[path = "common/sops.rs"]
mod program;

use std::{collections::BTreeSet, path::Path, sync::LazyLock};

use common::identity;
use post_provision::{
    recipient::Recipient,
    rules::{Edited, Fleet, HostChange, Rules},
};
use program::{run, sops};
use proptest::{prelude::*, test_runner::TestRunner};

fn key(seed: u8) -> String {
    // Curve arithmetic takes longer than an edit.
    static KEYS: LazyLock<Vec<String>> = LazyLock::new(|| (0..8).map(made).collect());
    KEYS[usize::from(seed)].clone()
}

fn made(seed: u8) -> String {
    let secret =
        bech32::encode::<bech32::Bech32>(bech32::Hrp::parse("age-secret-key-").unwrap(), &[seed; 32])
            .unwrap();
    secret.parse::<age::x25519::Identity>().unwrap().to_public().to_string()
}

fn person() -> String {
    static PERSON: LazyLock<String> = LazyLock::new(|| identity("a").recipient().to_string());
    PERSON.clone()
}

fn new_key() -> Recipient {
    static NEW: LazyLock<Recipient> =
        LazyLock::new(|| identity("c").recipient().to_string().parse().unwrap());
    NEW.clone()
}

fn fleet() -> Fleet {
    let mut fleet = Fleet::default();
    fleet.add("web", [], Some(key(1)));
    fleet.add("db", [], Some(key(2)));
    fleet.add("new", [], None);
    fleet
}

fn edit_host(
    text: &str,
    host: &str,
    recipient: Option<&Recipient>,
    known: &[Recipient],
) -> fleet_core::Result<Edited> {
    let path = Path::new(".sops.yaml");
    let change = HostChange { host, recipient, known };
    Rules::parse(text, path)?.with_host(&change, &fleet(), path)
}

fn edit(text: &str, recipient: Option<&Recipient>) -> fleet_core::Result<Edited> {
    edit_host(text, "new", recipient, &[new_key()])
}

/// Where the keys get their names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Names {
    /// None have: the keys stand in the rules, with a remark each.
    Remarks,
    /// `keys:` is a list of anchors.
    List,
    /// `keys:` holds lists of anchors, each under an anchor of its own.
    Nested,
    /// At the first rule that lists them.
    Inline,
    /// `keys:` is a mapping of names to keys.
    Map,
    /// The same in braces, over several lines.
    FlowMap,
    /// `keys:` is a list of such mappings, each of one key.
    Pairs,
}

/// How a rule lists its keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Block,
    Flow,
    /// A list in brackets over several lines, with a comma after the last.
    Lines,
    /// Without.
    LinesBare,
    /// One text with commas.
    Text,
    /// The same, folded over several lines.
    Folded,
    /// The same as the one element of a list.
    Joined,
}

#[derive(Debug, Clone)]
struct RuleText {
    with_db: bool,
    with_comment: bool,
    /// Keys of other kinds in the same group.
    others: &'static str,
    quoted: bool,
    more: &'static str,
}

/// How somebody keeps a file.
#[derive(Debug, Clone)]
struct Habit {
    names: Names,
    form: Form,
    groups: bool,
    indentless: bool,
    comments: bool,
    blank_lines: bool,
    /// Before a remark: blanks or a tab.
    gap: &'static str,
    crlf: bool,
    final_newline: bool,
    head: &'static str,
    tail: &'static str,
    /// The first rule's list has a name, and others are that.
    shared: bool,
    /// The first rule has a name, and others merge it.
    merged: bool,
    /// Around the names of fields.
    quote: &'static str,
    /// Between the name of a field and a value on its line.
    colon: &'static str,
    tagged: bool,
    rules: Vec<RuleText>,
}

fn habit() -> impl Strategy<Value = Habit> {
    let choose = |words: &[&'static str]| prop::sample::select(words.to_vec());
    let names = prop::sample::select(vec![
        Names::Remarks,
        Names::List,
        Names::Nested,
        Names::Inline,
        Names::Map,
        Names::FlowMap,
        Names::Pairs,
    ]);
    let form = prop::sample::select(vec![
        Form::Block,
        Form::Block,
        Form::Flow,
        Form::Lines,
        Form::LinesBare,
        Form::Text,
        Form::Folded,
        Form::Joined,
    ]);
    let long = "# äöü 漢字 \u{1f511} a remark that is longer than any line that a reader would want to see on a screen, key: *web, [ ] { } & # again and again and again";
    let rule = (
        any::<(bool, bool, bool)>(),
        choose(&["", "", "pgp", "kms"]),
        choose(&[
            "",
            "",
            "encrypted_regex: \"^(data|stringData)$\"",
            "unencrypted_suffix: _plain # as it is",
        ]),
    );
    let rule = rule.prop_map(|((with_db, with_comment, quoted), others, more)| RuleText {
        with_db,
        with_comment,
        others,
        quoted,
        more,
    });
    (
        (names, form, prop::array::uniform9(any::<bool>())),
        (choose(&["", "", "'", "\""]), choose(&[": ", ": ", ":  ", ":\t", " : "])),
        (
            choose(&["  ", " ", "\t", " \t "]),
            choose(&["", "", "---", "# first\n---", "%YAML 1.1\n---", "\u{feff}---", "\u{feff}# first"]),
            choose(&["", "", "stores:\n  yaml:\n    indent: 2 # for people", long, "..."]),
        ),
        prop::collection::vec(rule, 1..4),
    )
        .prop_map(|((names, form, f), (quote, colon), (gap, head, tail), rules)| Habit {
            // A text takes no aliases, and gives no names.
            names: if matches!(form, Form::Text | Form::Folded | Form::Joined) {
                Names::Remarks
            } else {
                names
            },
            form,
            // Nor does sops take one in a group.
            groups: f[0] && !matches!(form, Form::Text | Form::Folded),
            indentless: f[1],
            comments: f[2],
            blank_lines: f[3],
            gap,
            crlf: f[4],
            final_newline: f[5],
            head,
            tail,
            shared: f[6],
            merged: f[7],
            quote,
            colon,
            tagged: f[8],
            rules,
        })
}

fn written(habit: &Habit) -> String {
    let people = person();
    let all = [("me", people), ("web", key(1)), ("db", key(2))];
    let note = |text: &str| if habit.comments { format!("{}# {text}", habit.gap) } else { String::new() };
    let mut lines: Vec<String> = habit.head.lines().map(str::to_owned).collect();
    if habit.comments {
        lines.push("# who can read what: ü, \"quoted\", key: value".to_owned());
    }
    let dash = if habit.indentless { "" } else { "  " };
    let field = |name: &str| format!("{0}{name}{0}", habit.quote);
    let colon = habit.colon;
    if matches!(habit.names, Names::Map | Names::FlowMap | Names::Pairs) {
        let flow = habit.names == Names::FlowMap;
        let before = if habit.names == Names::Pairs { "- " } else { "" };
        let (open, comma) = if flow { (" {", ",") } else { ("", "") };
        lines.push(format!("keys:{open}{}", note("of all")));
        lines.extend(all.iter().map(|(name, key)| {
            format!("  {before}{}{colon}&{name} {key}{comma}{}", field(name), note(name))
        }));
        lines.extend(flow.then(|| "}".to_owned()));
    }
    if matches!(habit.names, Names::List | Names::Nested) {
        lines.push(format!("keys:{}", note("of all")));
        for (number, (name, key)) in all.iter().enumerate() {
            if habit.names == Names::Nested {
                if number < 2 {
                    lines.push(format!("{dash}- &{}:{}", ["users", "hosts"][number], note("these")));
                }
                lines.push(format!("{dash}    - &{name} {key}{}", note(name)));
            } else {
                lines.push(format!("{dash}- &{name} {key}{}", note(name)));
            }
        }
    }
    if habit.blank_lines {
        lines.push(String::new());
    }
    lines.push(format!("{}:", field("creation_rules")));
    let mut named = Vec::new();
    for (number, rule) in habit.rules.iter().enumerate() {
        let quote = |text: &str| if rule.quoted { format!("'{text}'") } else { text.to_owned() };
        let members: Vec<(String, &str)> = all
            .iter()
            .filter(|(name, _)| rule.with_db || *name != "db")
            .map(|(name, key)| {
                let member = match habit.names {
                    Names::Remarks => quote(key),
                    Names::Inline if !named.contains(name) => {
                        named.push(*name);
                        format!("&{name} {}", quote(key))
                    }
                    _ => format!("*{name}"),
                };
                (member, *name)
            })
            .collect();
        let mut lead = format!("{dash}  ");
        let regex = format!("{}{colon}shared{number}/.*{}", field("path_regex"), note("these"));
        if habit.merged && number == 0 {
            lines.push(format!("{dash}- &base{}", note("of all rules")));
            lines.push(format!("{lead}{regex}"));
        } else {
            lines.push(format!("{dash}- {regex}"));
        }
        let is_shared = |rule: &RuleText| rule.with_db == habit.rules[0].with_db;
        if habit.merged && number > 0 && is_shared(rule) {
            lines.push(format!("{lead}<<: *base{}", note("as the first")));
            continue;
        }
        if !rule.more.is_empty() {
            lines.push(format!("{lead}{}", rule.more));
        }
        if habit.groups {
            lines.push(format!("{lead}{}:", field("key_groups")));
            lead.push_str("  - ");
        }
        let inner = " ".repeat(lead.len());
        match rule.others {
            "pgp" => {
                lines.push(format!("{lead}pgp:"));
                lines.push(format!(
                    "{inner}  - 57EDCBEDDE7ABA6B44377FF2B96725F36430B3D1{}",
                    note("a person's")
                ));
                lead.clone_from(&inner);
            }
            "kms" if habit.groups => {
                lines.push(format!("{lead}kms:"));
                lines.push(format!("{inner}  - arn: arn:aws:kms:us-east-1:1:key/a"));
                lead.clone_from(&inner);
            }
            "kms" => {
                lines.push(format!("{lead}kms: arn:aws:kms:us-east-1:1:key/a"));
                lead.clone_from(&inner);
            }
            _ => {}
        }
        let name = if habit.shared && number == 0 { " &all" } else { "" };
        let age = field("age");
        let (list, text) = if habit.tagged { (" !!seq", "!!str ") } else { ("", "") };
        let plain: Vec<&str> = members.iter().map(|(member, _)| member.trim_matches('\'')).collect();
        match habit.form {
            _ if habit.shared && number > 0 && is_shared(rule) => {
                lines.push(format!("{lead}{age}{colon}*all{}", note("all")));
            }
            Form::Flow => {
                let members: Vec<&str> = members.iter().map(|(member, _)| member.as_str()).collect();
                lines.push(format!("{lead}{age}:{list}{name} [{}]{}", members.join(", "), note("all")));
            }
            Form::Lines | Form::LinesBare => {
                lines.push(format!("{lead}{age}:{list}{name} [{}", note("all")));
                let last = members.len() - 1;
                let comma = |at| if habit.form == Form::LinesBare && at == last { "" } else { "," };
                lines.extend(
                    members.iter().enumerate().map(|(at, (member, name))| {
                        format!("{inner}    {member}{}{}", comma(at), note(name))
                    }),
                );
                lines.push(format!("{inner}  ]"));
            }
            Form::Text if rule.quoted => {
                lines.push(format!("{lead}{age}:{name} {text}\"{}\"{}", plain.join(","), note("all")));
            }
            Form::Text => {
                lines.push(format!("{lead}{age}:{name} {text}{}{}", plain.join(","), note("all")));
            }
            Form::Joined => {
                lines.push(format!("{lead}{age}:{list}{name}"));
                lines.push(format!("{inner}  - {text}{}{}", quote(&plain.join(",")), note("all")));
            }
            Form::Folded => {
                lines.push(format!("{lead}{age}:{name} {text}>-"));
                let last = plain.len() - 1;
                let comma = |at: usize| if at == last { "" } else { "," };
                lines.extend(
                    plain.iter().enumerate().map(|(at, member)| format!("{inner}  {member}{}", comma(at))),
                );
            }
            Form::Block => {
                lines.push(format!("{lead}{age}:{list}{name}"));
                lines.extend(
                    members.iter().map(|(member, name)| format!("{inner}  - {member}{}", note(name))),
                );
            }
        }
        if rule.with_comment && habit.comments && habit.form != Form::Folded {
            lines.push(format!("{inner}  # nobody else"));
        }
        if habit.blank_lines {
            lines.push(String::new());
        }
    }
    lines.extend(habit.tail.lines().map(str::to_owned));
    let end = if habit.crlf { "\r\n" } else { "\n" };
    let text = lines.join(end);
    if habit.final_newline { text + end } else { text.trim_end().to_owned() }
}

/// 10,000 where CI asks for it.
fn cases() -> u32 {
    if std::env::var_os("FLEET_REQUIRE_ORACLES").is_some() { 10_000 } else { 1_000 }
}

/// Whether every byte of one text stands in the other, in order.
fn stands_in(text: &str, other: &str) -> bool {
    let mut bytes = other.bytes();
    text.bytes().all(|byte| bytes.any(|found| found == byte))
}

#[test]
fn a_list_that_holds_itself_is_refused() {
    let text =
        format!("creation_rules:\n  - path_regex: a\n    age: &web\n      - {}\n      - *web\n", key(1));
    let error = edit_host(&text, "web", Some(&new_key()), &[]).unwrap_err();
    assert!(error.chain().contains("a list in the list"), "{}", error.chain());
}

/// The recipients of a file that the genuine sops encrypts by the rule for it.
fn by_sops(sops: &Path, dir: &Path, file: &str) -> BTreeSet<String> {
    let output = run(sops, dir, "a", &["encrypt", "--output-type", "json", file]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let made: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let entries = made["sops"]["age"].as_array().unwrap().iter();
    entries.map(|entry| entry["recipient"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn sops_reads_the_recipients_that_we_read() {
    let Some(sops) = sops() else { return };
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join(".sops.yaml");
    let config = ProptestConfig { cases: cases() / 200, ..ProptestConfig::default() };
    let made = TestRunner::new(config).run(&habit(), |mut habit| {
        // Of other kinds of keys sops would want the programs.
        habit.rules.iter_mut().for_each(|rule| rule.others = "");
        let before = written(&habit);
        let new = new_key();
        let with = edit(&before, Some(&new)).unwrap().text;
        let old: Recipient = key(1).parse().unwrap();
        let without = edit_host(&with, "web", None, std::slice::from_ref(&old)).unwrap().text;
        for text in [before, with, without] {
            std::fs::write(&file, &text).unwrap();
            for (number, rule) in Rules::parse(&text, &file).unwrap().rules.iter().enumerate() {
                let name = format!("shared{number}/plain.yaml");
                std::fs::create_dir_all(dir.path().join(format!("shared{number}"))).unwrap();
                std::fs::write(dir.path().join(&name), "a: 1\n").unwrap();
                let ours: BTreeSet<String> = rule.age_keys().map(str::to_owned).collect();
                prop_assert_eq!(by_sops(&sops, dir.path(), &name), ours, "rule {} of\n{}", number, text);
            }
        }
        Ok(())
    });
    made.unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

    #[test]
    fn put_in_and_taken_out_is_as_before(habit in habit()) {
        let before = written(&habit);
        let new = new_key();
        let with = edit(&before, Some(&new)).unwrap();
        prop_assert!(with.text.contains(new.as_str()), "{}", with.text);
        prop_assert_eq!(with.gained.len(), habit.rules.len());
        // Once more changes nothing.
        prop_assert_eq!(&edit(&with.text, Some(&new)).unwrap().text, &with.text);
        prop_assert!(stands_in(&before, &with.text), "{}\n---\n{}", before, with.text);
        // Every line of before is still there, in order, but for the lists on one line that grew.
        if matches!(habit.form, Form::Block | Form::Lines) && habit.names != Names::FlowMap {
            let mut lines = with.text.lines();
            for line in before.lines() {
                prop_assert!(lines.any(|other| other == line), "{line:?} is gone from {}", with.text);
            }
        }
        prop_assert_eq!(edit(&with.text, None).unwrap().text, before);
    }

    #[test]
    fn another_key_and_the_old_one_again_is_as_before(habit in habit()) {
        let before = written(&habit);
        let (old, new): (Recipient, Recipient) = (key(1).parse().unwrap(), new_key());
        let with = edit_host(&before, "web", Some(&new), std::slice::from_ref(&old)).unwrap();
        // Nothing but the key is another.
        prop_assert_eq!(&with.text, &before.replace(old.as_str(), new.as_str()));
        prop_assert_eq!(&with.retired, &[old.to_string()]);
        let again = edit_host(&with.text, "web", Some(&new), std::slice::from_ref(&old)).unwrap();
        prop_assert_eq!(&again.text, &with.text);
        let back = edit_host(&with.text, "web", Some(&old), std::slice::from_ref(&new)).unwrap();
        prop_assert_eq!(back.text, before);
    }

    #[test]
    fn a_host_that_goes_takes_nothing_else_with_it(habit in habit()) {
        let before = written(&habit);
        let old: Recipient = key(1).parse().unwrap();
        let after = edit_host(&before, "web", None, std::slice::from_ref(&old)).unwrap();
        prop_assert!(!after.text.contains(old.as_str()), "{}", after.text);
        prop_assert!(stands_in(&after.text, &before), "{}\n---\n{}", before, after.text);
        for kept in ["# who", "# nobody else", "# these", "<<: *base", "# of all", "# all", "# me", "# db", "pgp", "kms", "stores", &key(2), "漢字"] {
            prop_assert_eq!(before.matches(kept).count(), after.text.matches(kept).count(), "{}\n---\n{}", before, after.text);
        }
        let rules = Rules::parse(&after.text, Path::new(".sops.yaml")).unwrap();
        prop_assert_eq!(rules.rules.len(), habit.rules.len());
        for (rule, meant) in rules.rules.iter().zip(&habit.rules) {
            prop_assert_eq!(rule.age_keys().count(), 1 + usize::from(meant.with_db));
        }
        prop_assert_eq!(edit_host(&after.text, "web", None, &[old]).unwrap().text, after.text);
    }

    #[test]
    fn a_name_that_is_defined_twice_is_defined_once_after(habit in habit(), at in any::<prop::sample::Index>()) {
        let habit = Habit { names: Names::List, form: Form::Block, ..habit };
        let before = written(&habit);
        // An older key under the same anchor, somewhere among the others.
        let mut lines: Vec<&str> = before.split_inclusive('\n').collect();
        let first = lines.iter().position(|line| line.contains("&me")).unwrap();
        let end = if habit.crlf { "\r\n" } else { "\n" };
        let dash = if habit.indentless { "" } else { "  " };
        let older = format!("{dash}- &web {}{end}", key(7));
        lines.insert(first + at.index(4), &older);
        let twice = lines.concat();
        let new = new_key();
        let known: Recipient = key(1).parse().unwrap();
        let with = edit_host(&twice, "web", Some(&new), &[known]).unwrap();
        prop_assert_eq!(with.text.matches("&web").count(), 1, "{}", with.text);
        prop_assert!(with.retired.contains(&key(7)) && with.retired.contains(&key(1)), "{:?}", with.retired);
        let rules = Rules::parse(&with.text, Path::new(".sops.yaml")).unwrap();
        prop_assert!(rules.rules.iter().all(|rule| rule.age_keys().any(|key| key == new.as_str())), "{}", with.text);
    }

    #[test]
    fn a_damaged_file_is_refused_or_stays_readable(habit in habit(), at in any::<prop::sample::Index>(), what in any::<char>(),
                                                   odd in prop::sample::select(vec!["\n---\n", "\t", "&web ", "*web", "*nobody", "[", "]", "- ", ": ", "\"", "#", ",", "{", "}", "\r", "|", "<<: *web", "\u{feff}", "!!str "]), cut in 0u8..3,
                                                   which in 0usize..4) {
        let mut text: Vec<char> = written(&habit).chars().collect();
        let at = at.index(text.len());
        match cut {
            0 => { text.remove(at); }
            1 => text.insert(at, what),
            _ => { text.splice(at..at, odd.chars()); }
        }
        let text: String = text.into_iter().collect();
        let (old, new): (Recipient, Recipient) = (key(1).parse().unwrap(), new_key());
        let known = [old, new.clone()];
        let (host, recipient) = [("new", Some(&new)), ("web", Some(&new)), ("web", None), ("new", None)][which];
        if let Ok(edited) = edit_host(&text, host, recipient, &known) {
            prop_assert!(Rules::parse(&edited.text, Path::new(".sops.yaml")).is_ok(), "{}", edited.text);
        }
    }
}
