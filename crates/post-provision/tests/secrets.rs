//! Reading and re-wrapping files that the genuine sops made (`fixtures/make-secrets.sh`).

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use common::{fixture, identity};
use post_provision::{
    recipient::Recipient,
    sops::{SecretFile, decrypt_text},
};

const FILES: [&str; 8] = [
    "values.yaml",
    "documents.yaml",
    "indented.yaml",
    "some.yaml",
    "values.env",
    "values.json",
    "values.ini",
    "raw",
];

fn rewrapped(text: &[u8], opener: &str, to: &[&str]) -> String {
    let file = SecretFile::parse(text).unwrap().unwrap();
    let openers = [identity(opener)];
    let (key, _) = file.data_key(&openers).unwrap();
    let entries: Vec<_> = to
        .iter()
        .map(|name| key.wrap(&identity(name).recipient().as_str().parse::<Recipient>().unwrap()).unwrap())
        .collect();
    file.with_entries(&entries).unwrap()
}

#[test]
fn values_of_every_format_are_read_and_their_checksum_holds() {
    let read = |name: &str, path: &str| {
        decrypt_text(&fixture(name), &identity("a")).unwrap().get(path).unwrap().to_owned()
    };
    assert_eq!(read("values.yaml", "db.password"), "canary-yaml-password");
    assert_eq!(read("values.yaml", "db.list.1.two"), "deep");
    assert_eq!(read("values.yaml", "db.multi"), "first line\nsecond: line\n");
    assert_eq!(read("values.yaml", "note_unencrypted"), "in the clear");
    assert_eq!(read("documents.yaml", "b"), "two");
    assert_eq!(read("some.yaml", "a"), "canary-regex");
    assert_eq!(read("values.env", "API_KEY"), "canary dotenv");
    assert_eq!(read("values.env", "MULTI"), "line\nnext");
    assert_eq!(read("values.json", "b.4.c"), "d");
    assert_eq!(read("values.ini", "sec.key"), "canary-ini");
    assert_eq!(read("raw", "data"), "canary raw \0\u{1}\u{2}\n");
    for name in FILES {
        decrypt_text(&fixture(name), &identity("b")).unwrap_or_else(|e| panic!("{name}: {e:?}"));
    }
}

#[test]
fn a_changed_value_or_checksum_is_noticed() {
    for name in FILES {
        let text = String::from_utf8(fixture(name)).unwrap();
        // The first encrypted value that is no comment: another first byte.
        let at = text
            .match_indices("data:")
            .map(|(at, _)| at + 5)
            .find(|at| !text[*at..].split(']').next().unwrap().ends_with("type:comment"))
            .unwrap();
        let mut bytes = text.into_bytes();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        let error = decrypt_text(&bytes, &identity("a")).unwrap_err();
        assert!(error.chain().contains("tampered"), "{name}: {error:?}");
    }
    let swapped = String::from_utf8(fixture("values.yaml")).unwrap().replace("in the clear", "in the cloud");
    let error = decrypt_text(swapped.as_bytes(), &identity("a")).unwrap_err();
    assert!(error.chain().contains("checksum"), "{error:?}");
}

#[test]
fn only_the_age_block_changes_and_the_new_recipients_open_it() {
    for name in FILES {
        let before = fixture(name);
        let file = SecretFile::parse(&before).unwrap().unwrap();
        for to in [&["a", "c"][..], &["c"], &["a", "b", "c"], &["c", "b"]] {
            let after = rewrapped(&before, "a", to);
            let changed = SecretFile::parse(after.as_bytes()).unwrap().unwrap();
            assert_eq!(file.outside(), changed.outside(), "{name}");
            assert_eq!((&file.metadata.mac, file.format), (&changed.metadata.mac, changed.format), "{name}");
            let expected: Vec<String> = to.iter().map(|n| identity(n).recipient().to_string()).collect();
            assert_eq!(changed.recipients().collect::<Vec<_>>(), expected, "{name}");
            for reader in ["a", "b", "c"] {
                let opened = decrypt_text(after.as_bytes(), &identity(reader));
                assert_eq!(opened.is_ok(), to.contains(&reader), "{name} for {reader} of {to:?}: {opened:?}");
            }
        }
    }
}

#[test]
fn the_layout_stays_what_sops_wrote() {
    for name in FILES {
        let before = String::from_utf8(fixture(name)).unwrap();
        let file = SecretFile::parse(before.as_bytes()).unwrap().unwrap();
        // INI keys come in any order from sops; everything else is written back to the byte.
        if name != "values.ini" {
            assert_eq!(file.with_entries(&file.metadata.age).unwrap(), before, "{name}");
        }
    }
}

#[test]
fn line_ends_and_growth_beyond_ten_recipients() {
    for name in ["values.yaml", "values.env", "values.ini"] {
        let dos = String::from_utf8(fixture(name)).unwrap().replace('\n', "\r\n");
        let after = rewrapped(dos.as_bytes(), "a", &["a", "c"]);
        assert_eq!(
            after.matches('\n').count(),
            after.matches("\r\n").count(),
            "{name}: every line ends alike"
        );
        decrypt_text(after.as_bytes(), &identity("c")).unwrap_or_else(|e| panic!("{name}: {e:?}"));
    }
    for name in FILES {
        let many = ["a", "b", "c", "a", "b", "c", "a", "b", "c", "a", "b", "c"];
        let after = rewrapped(&fixture(name), "a", &many);
        assert_eq!(SecretFile::parse(after.as_bytes()).unwrap().unwrap().metadata.age.len(), 12, "{name}");
        assert!(rewrapped(after.as_bytes(), "c", &["a", "b"]).len() > 500, "{name}");
    }
}

#[test]
fn files_without_metadata_are_no_secrets() {
    for text in [
        "",
        "a: b\n",
        "sops: this is only text\nlastmodified: x\n",
        "{ \"sops\": 1, \"lastmodified\": 2 }",
        "# how to use sops: lastmodified is a field of it\n",
        "creation_rules:\n  - path_regex: sops: lastmodified\n",
    ] {
        assert!(SecretFile::parse(text.as_bytes()).map_or(true, |found| found.is_none()), "{text}");
    }
    assert!(SecretFile::parse(b"\xff\xfe sops lastmodified").unwrap().is_none());
}
