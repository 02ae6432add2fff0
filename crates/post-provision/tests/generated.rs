//! Thousands of generated files: whatever stands around the `age` block stays to the byte, and nothing panics.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::{fmt::Write, path::Path};

use common::{fixture, identity, recipient};
use post_provision::{
    recipient::Recipient,
    rules::{Fleet, HostChange, Rules},
    sops::{AgeEntry, DataKey, SecretFile},
};

/// xorshift: the same files on every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }

    fn pick<'t>(&mut self, of: &[&'t str]) -> &'t str {
        of[self.below(of.len())]
    }

    fn yes(&mut self) -> bool {
        self.below(2) == 0
    }
}

const ENC: &str = "ENC[AES256_GCM,data:AAAA,iv:AAAA,tag:AAAA,type:str]";
const KEYS: &[&str] =
    &["a", "sops_x", "age", "mac", "näme", "key-1", "\"quoted key\"", "list", "recipient", "sopsy"];
const VALUES: &[&str] = &[
    ENC,
    "",
    "plain text",
    "\"double: # not a comment \\\" é\"",
    "'single ''quoted'''",
    "[flow, {of: things}]",
    "日本語",
    "sops",
    "age1notakey",
    "|\n{i}  block\n{i}   sops:\n{i}  # no comment",
    ">-\n{i}  folded\n\n{i}  text",
];

/// What is around the place of the `age` entries, and what the entries look like there.
struct Made {
    before: String,
    block: String,
    after: String,
}

impl Made {
    fn text(&self) -> String {
        format!("{}{}{}", self.before, self.block, self.after)
    }
}

fn yaml(random: &mut Random, entries: &[AgeEntry]) -> Made {
    let unit = if random.yes() { 4 } else { 2 };
    let mut before = String::new();
    if random.yes() {
        before.push_str("# head é\n---\n");
    }
    for _ in 0..random.below(6) {
        if random.below(4) == 0 {
            let _ = writeln!(before, "#{ENC}");
        }
        let key = random.pick(KEYS);
        if random.below(3) == 0 {
            let _ = writeln!(before, "{key}:");
            for _ in 0..=random.below(3) {
                let pad = " ".repeat(unit);
                let _ = writeln!(
                    before,
                    "{pad}{}: {}",
                    random.pick(KEYS),
                    random.pick(VALUES).replace("{i}", &pad)
                );
            }
        } else {
            let _ = writeln!(before, "{key}: {}", random.pick(VALUES).replace("{i}", ""));
        }
        if random.below(5) == 0 {
            before.push_str("\n  \n");
        }
    }
    let pad = " ".repeat(unit);
    let fields = [
        format!("{pad}lastmodified: \"2026-01-01T00:00:00Z\"\n"),
        format!("{pad}mac: {ENC} # kept\n"),
        format!("{pad}pgp: []\n"),
        format!("{pad}unencrypted_suffix: _unencrypted\n\n"),
        format!("{pad}version: 3.11.0\n"),
    ];
    let place = random.below(fields.len() + 1);
    before.push_str("sops:\n");
    fields[..place].iter().for_each(|field| before.push_str(field));
    let _ = writeln!(before, "{pad}age:");
    let dash = if random.yes() { unit * 2 } else { unit };
    let mut block = String::new();
    for entry in entries {
        let _ = write!(block, "{:dash$}- recipient: {}\n{:dash$}  enc: |\n", "", entry.recipient, "");
        for line in entry.enc.lines() {
            let _ = writeln!(block, "{:1$}{line}", "", dash + 2 + unit.min(2));
        }
    }
    // The indentation before the first dash and the last line break are not ours to change.
    before.push_str(&" ".repeat(dash));
    let block = block[dash..block.len() - 1].to_owned();
    let mut after = "\n".to_owned();
    fields[place..].iter().for_each(|field| after.push_str(field));
    if random.below(3) == 0 {
        after.push_str("# the end\n");
    }
    Made { before, block, after }
}

fn dotenv(random: &mut Random, entries: &[AgeEntry]) -> Made {
    let mut before = String::new();
    for _ in 0..random.below(6) {
        let line = [
            format!("#{ENC}"),
            format!("A={ENC}"),
            "B= spaced = out ".to_owned(),
            String::new(),
            "é=sops_mac".to_owned(),
        ];
        let _ = writeln!(before, "{}", line[random.below(line.len())]);
    }
    let mut block = String::new();
    for (index, entry) in entries.iter().enumerate() {
        let _ = write!(
            block,
            "sops_age__list_{index}__map_enc={}\nsops_age__list_{index}__map_recipient={}\n",
            entry.enc.replace('\n', "\\n"),
            entry.recipient
        );
    }
    let after = format!("sops_lastmodified=2026-01-01T00:00:00Z\nsops_mac={ENC}\nsops_version=3.11.0\n");
    let mut made = Made { before, block, after };
    if random.yes() {
        made.after.push_str("LAST=1");
    }
    made
}

fn json(random: &mut Random, entries: &[AgeEntry]) -> Made {
    let unit = random.pick(&["\t", "  ", "    "]);
    let mut before = String::from("{\n");
    for index in 0..random.below(5) {
        let value = random.pick(&[
            "null",
            "[1, 2.50, {\"x\": []}]",
            "\"sops \\u00e9 \\\"age\\\"\"",
            "{}",
            "true",
            "-0.0e10",
        ]);
        let _ = writeln!(before, "{unit}\"k{index}\": {value},");
    }
    let _ = write!(before, "{unit}\"sops\": {{\n{unit}{unit}\"kms\": null,\n{unit}{unit}\"age\": ");
    let pad = |depth: usize| unit.repeat(depth);
    let mut block = String::from("[");
    for (index, entry) in entries.iter().enumerate() {
        let comma = if index > 0 { "," } else { "" };
        let _ = write!(
            block,
            "{comma}\n{}{{\n{}\"recipient\": \"{}\",\n{}\"enc\": {}\n{}}}",
            pad(3),
            pad(4),
            entry.recipient,
            pad(4),
            serde_json::to_string(&entry.enc).unwrap(),
            pad(3)
        );
    }
    let _ = write!(block, "\n{}]", pad(2));
    let after = format!(
        ",\n{unit}{unit}\"lastmodified\": \"2026-01-01T00:00:00Z\",\n{unit}{unit}\"mac\": \"{ENC}\"\n{unit}}}\n}}\n"
    );
    Made { before, block, after }
}

fn ini(random: &mut Random, entries: &[AgeEntry]) -> Made {
    let mut before = String::new();
    for index in 0..random.below(4) {
        let _ = writeln!(before, "; {ENC}\n[section {index}]\nkey   = {ENC}\nother = x = y ; z\n");
    }
    before.push_str("[sops]\n");
    let mut block = String::new();
    for (index, entry) in entries.iter().enumerate() {
        let enc = entry.enc.replace('\n', "\\n");
        let _ = write!(
            block,
            "age__list_{index}__map_enc       = {enc}\nage__list_{index}__map_recipient = {}\n",
            entry.recipient
        );
    }
    let after =
        format!("lastmodified               = 2026-01-01T00:00:00Z\nmac                        = {ENC}\n");
    Made { before, block, after }
}

fn entries() -> Vec<AgeEntry> {
    let key = DataKey::from_bytes([7; 32]);
    ["a", "b", "c"]
        .iter()
        .map(|who| key.wrap(&recipient(who).parse::<Recipient>().unwrap()).unwrap())
        .collect()
}

#[test]
fn five_thousand_files_keep_every_byte_around_their_recipients() {
    let pool = entries();
    let mut random = Random(0x5eed);
    for round in 0..5000 {
        let had = &pool[..=random.below(2)];
        let make = [yaml, dotenv, json, ini][round % 4];
        let mut made = make(&mut random, had);
        if random.below(5) == 0 {
            for part in [&mut made.before, &mut made.block, &mut made.after] {
                *part = part.replace('\n', "\r\n");
            }
        }
        let text = made.text();
        let shown = || format!("round {round}:\n{text}");
        let file = SecretFile::parse(text.as_bytes()).unwrap_or_else(|e| panic!("{e:?} {}", shown()));
        let file = file.unwrap_or_else(|| panic!("no metadata found in {}", shown()));
        assert_eq!(file.metadata.age, had, "{}", shown());
        let want: Vec<AgeEntry> = pool.iter().rev().take(1 + random.below(3)).cloned().collect();
        let after = file.with_entries(&want).unwrap();
        assert!(after.starts_with(&made.before), "{}became\n{after}", shown());
        assert!(after.ends_with(&made.after), "{}became\n{after}", shown());
        let again = SecretFile::parse(after.as_bytes()).unwrap().unwrap();
        assert_eq!(again.metadata.age, want, "{}became\n{after}", shown());
        assert_eq!(again.outside(), file.outside(), "{}", shown());
        assert_eq!(again.with_entries(had).unwrap(), text, "and back, {}became\n{after}", shown());
    }
}

#[test]
fn damaged_files_are_errors_and_never_panics() {
    let mut random = Random(0xbad);
    let opener = [identity("a")];
    for name in ["values.yaml", "documents.yaml", "values.env", "values.json", "values.ini", "raw"] {
        let good = fixture(name);
        for _ in 0..250 {
            let mut bytes = good.clone();
            match random.below(4) {
                0 => bytes.truncate(random.below(bytes.len())),
                1 => {
                    let at = random.below(bytes.len());
                    bytes[at] = random.below(256) as u8;
                }
                2 => {
                    let (from, to) = (random.below(bytes.len()), random.below(bytes.len()));
                    bytes.drain(from.min(to)..from.max(to));
                }
                _ => {
                    let (from, at) = (random.below(bytes.len()), random.below(bytes.len()));
                    let piece = bytes[from..(from + 60).min(bytes.len())].to_vec();
                    bytes.splice(at..at, piece);
                }
            }
            // An error or a file; if a file, then one whose text outside of the block is kept.
            if let Ok(Some(file)) = SecretFile::parse(&bytes) {
                let _ = file.data_key(&opener).map(|(key, _)| file.prove(&key));
                if let Ok(after) = file.with_entries(&file.metadata.age)
                    && let Ok(Some(again)) = SecretFile::parse(after.as_bytes())
                {
                    assert_eq!(
                        again.outside(),
                        file.outside(),
                        "{name}: {}",
                        String::from_utf8_lossy(&bytes)
                    );
                }
            }
        }
    }
}

#[test]
fn three_hundred_hosts() {
    let mut fleet = Fleet::default();
    let (mut keys, mut shared) =
        (format!("  - &admin {}\n", recipient("a")), String::from("          - *admin\n"));
    let mut own = String::new();
    for number in 0..300u16 {
        let mut scalar = [9u8; 32];
        scalar[..2].copy_from_slice(&number.to_le_bytes());
        let secret =
            bech32::encode::<bech32::Bech32>(bech32::Hrp::parse("age-secret-key-").unwrap(), &scalar)
                .unwrap();
        let key = secret.parse::<age::x25519::Identity>().unwrap().to_public().to_string();
        fleet.add(&format!("host{number}"), [], Some(key.clone()));
        let _ = writeln!(keys, "  - &host{number} {key}");
        let _ = writeln!(shared, "          - *host{number}");
        let _ = write!(
            own,
            "  - path_regex: hosts/host{number}/.*\n    key_groups:\n      - age: [*admin, *host{number}]\n"
        );
    }
    let text = format!(
        "keys:\n{keys}creation_rules:\n{own}  - path_regex: .*\n    key_groups:\n      - age:\n{shared}"
    );
    let rules = Rules::parse(&text, Path::new(".sops.yaml")).unwrap();
    let new: Recipient = recipient("c").parse().unwrap();
    let change = HostChange { host: "new", recipient: Some(&new), known: &[] };
    let edited = rules.with_host(&change, &fleet, Path::new(".sops.yaml")).unwrap();
    let expected = format!(
        "keys:\n{keys}  - &new {new}\ncreation_rules:\n{own}  - path_regex: .*\n    key_groups:\n      - age:\n{shared}          - *new\n"
    );
    assert_eq!(edited.text, expected);
    assert_eq!((edited.gained.len(), edited.withheld.len()), (1, 300));
}
