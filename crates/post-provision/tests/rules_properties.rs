//! Properties of every edit of `.sops.yaml`, over files of many shapes.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::path::Path;

use common::identity;
use post_provision::{
    recipient::Recipient,
    rules::{Edited, Fleet, HostChange, Rules},
};
use proptest::prelude::*;

fn key(seed: u8) -> String {
    let secret =
        bech32::encode::<bech32::Bech32>(bech32::Hrp::parse("age-secret-key-").unwrap(), &[seed; 32])
            .unwrap();
    secret.parse::<age::x25519::Identity>().unwrap().to_public().to_string()
}

fn new_key() -> Recipient {
    identity("c").recipient().to_string().parse().unwrap()
}

fn fleet() -> Fleet {
    let mut fleet = Fleet::default();
    fleet.add("web", [], Some(key(1)));
    fleet.add("db", [], Some(key(2)));
    fleet.add("new", [], None);
    fleet
}

fn edit(text: &str, recipient: Option<&Recipient>) -> fleet_core::Result<Edited> {
    let path = Path::new(".sops.yaml");
    let known = [new_key()];
    let change = HostChange { host: "new", recipient, known: &known };
    Rules::parse(text, path)?.with_host(&change, &fleet(), path)
}

/// How somebody keeps a file.
#[derive(Debug, Clone)]
struct Habit {
    anchors: bool,
    flow: bool,
    groups: bool,
    indentless: bool,
    comments: bool,
    blank_lines: bool,
    crlf: bool,
    final_newline: bool,
    rules: Vec<(bool, bool)>,
}

fn habit() -> impl Strategy<Value = Habit> {
    let flags = proptest::array::uniform8(any::<bool>());
    (flags, prop::collection::vec(any::<(bool, bool)>(), 1..4)).prop_map(|(f, rules)| Habit {
        anchors: f[0],
        flow: f[1],
        groups: f[2],
        indentless: f[3],
        comments: f[4],
        blank_lines: f[5],
        crlf: f[6],
        final_newline: f[7],
        rules,
    })
}

fn written(habit: &Habit) -> String {
    let people = identity("a").recipient().to_string();
    let all = [("me", people), ("web", key(1)), ("db", key(2))];
    let note = |text: &str| if habit.comments { format!("  # {text}") } else { String::new() };
    let mut lines = Vec::new();
    if habit.comments {
        lines.push("# who can read what: ü, \"quoted\", key: value".to_owned());
    }
    let dash = if habit.indentless { "" } else { "  " };
    if habit.anchors {
        lines.push("keys:".to_owned());
        for (name, key) in &all {
            lines.push(format!("{dash}- &{name} {key}{}", note(name)));
        }
    }
    if habit.blank_lines {
        lines.push(String::new());
    }
    lines.push("creation_rules:".to_owned());
    for (number, (with_db, with_comment)) in habit.rules.iter().enumerate() {
        let members: Vec<String> = all
            .iter()
            .filter(|(name, _)| *with_db || *name != "db")
            .map(|(name, key)| if habit.anchors { format!("*{name}") } else { key.clone() })
            .collect();
        lines.push(format!("{dash}- path_regex: shared{number}/.*"));
        let mut lead = format!("{dash}  ");
        if habit.groups {
            lines.push(format!("{lead}key_groups:"));
            lead.push_str("  - ");
        }
        let inner = " ".repeat(lead.len());
        if habit.flow {
            lines.push(format!("{lead}age: [{}]{}", members.join(", "), note("all")));
        } else {
            lines.push(format!("{lead}age:"));
            for member in members {
                lines.push(format!("{inner}  - {member}"));
            }
        }
        if *with_comment && habit.comments {
            lines.push(format!("{inner}  # nobody else"));
        }
        if habit.blank_lines {
            lines.push(String::new());
        }
    }
    let end = if habit.crlf { "\r\n" } else { "\n" };
    let text = lines.join(end);
    if habit.final_newline { text + end } else { text.trim_end().to_owned() }
}

/// 10,000 where CI asks for it.
fn cases() -> u32 {
    if std::env::var_os("FLEET_REQUIRE_ORACLES").is_some() { 10_000 } else { 1_000 }
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
        // Every line of before is still there, in order, but for the lists on one line that grew.
        if !habit.flow {
            let mut lines = with.text.lines();
            for line in before.lines() {
                prop_assert!(lines.any(|other| other == line), "{line:?} is gone from {}", with.text);
            }
        }
        prop_assert_eq!(edit(&with.text, None).unwrap().text, before);
    }

    #[test]
    fn a_damaged_file_is_refused_or_stays_readable(habit in habit(), at in any::<prop::sample::Index>(), what in any::<char>(), cut in any::<bool>()) {
        let mut text: Vec<char> = written(&habit).chars().collect();
        let at = at.index(text.len());
        if cut { text.remove(at); } else { text.insert(at, what); }
        let text: String = text.into_iter().collect();
        let new = new_key();
        if let Ok(edited) = edit(&text, Some(&new)) {
            prop_assert!(Rules::parse(&edited.text, Path::new(".sops.yaml")).is_ok(), "{}", edited.text);
        }
    }
}
