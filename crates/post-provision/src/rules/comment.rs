//! Whose key a comment says it is: `# web`, and the ways in which people say more than that.

use super::Fleet;

/// Words before a name that say that it is a machine's.
const MACHINES: [&str; 12] = [
    "host",
    "hostname",
    "server",
    "machine",
    "node",
    "vm",
    "system",
    "nixos",
    "srv",
    "device",
    "host key of",
    "ssh host key of",
];

/// What may stand behind a name and says no more than that the key is the machine's. `backup key` may be a person's,
/// although a machine is called that.
const KEYS: [&str; 4] = ["ssh host key", "host ssh key", "host key", "host"];

/// What `'s` may be followed by.
const OWN_KEYS: [&str; 6] = ["ssh host key", "host key", "ssh key", "age key", "root key", "key"];

/// Words in a remark by which the key may be a person's, or the machine's not at all.
const OTHERS: [&str; 15] = [
    "not",
    "user",
    "users",
    "admin",
    "admins",
    "operator",
    "operators",
    "people",
    "person",
    "personal",
    "home-manager",
    "recovery",
    "offline",
    "deploy",
    "yubikey",
];

/// What `#` says, without it; nothing if it is no comment.
pub(super) fn said(text: &str) -> Option<&str> {
    text.strip_prefix('#').map(|rest| rest.trim_start_matches('#').trim())
}

/// The host that a comment gives a key to: its name, alone or with a remark that leaves no doubt.
///
/// `web (old laptop)`, `web - root key`, `web: in the cellar`, `web, added 2024`, `host web`, `web's host key`,
/// `root@web`. Not what names another machine or a person too, or what only speaks of the host.
pub(super) fn host<'f>(said: &str, fleet: &'f Fleet) -> Option<&'f str> {
    named_first(said, fleet).or_else(|| {
        // The longest first: `host key of web` is no host called `key`.
        let behind = MACHINES.iter().rev().find_map(|words| behind_words(said, words))?;
        let behind = behind.strip_prefix(':').unwrap_or(behind);
        behind.starts_with([' ', '\t']).then(|| named_first(behind.trim_start(), fleet)).flatten()
    })
}

/// The host whose name the text begins with.
fn named_first<'f>(said: &str, fleet: &'f Fleet) -> Option<&'f str> {
    let said = said.strip_prefix("root@").unwrap_or(said);
    let (name, behind) = name(said)?;
    let host = fleet.called(name)?;
    remark(behind).filter(|remark| is_of(remark, host, fleet)).map(|_| host)
}

/// The name that a text begins with, which may be in quotes, and what follows.
fn name(text: &str) -> Option<(&str, &str)> {
    if let Some(quote) = text.chars().next().filter(|c| matches!(c, '"' | '\'' | '`')) {
        return text[1..].split_once(quote);
    }
    let end =
        text.find(|c: char| !(c.is_alphanumeric() || matches!(c, '-' | '_' | '.'))).unwrap_or(text.len());
    // A full stop, or a name of several parts.
    let name = text[..end].trim_end_matches('.');
    (!name.is_empty()).then_some((name, if end == text.len() { "" } else { &text[end..] }))
}

/// What is said behind a name, if it is set apart from it; empty if nothing is.
fn remark(behind: &str) -> Option<&str> {
    let possessive = behind.strip_prefix("'s").or_else(|| behind.strip_prefix("\u{2019}s"));
    let rest = possessive.unwrap_or(behind);
    let words = if possessive.is_some() { OWN_KEYS.as_slice() } else { KEYS.as_slice() };
    let key =
        rest.strip_prefix(' ').and_then(|rest| words.iter().find_map(|words| behind_words(rest, words)));
    let rest = key.unwrap_or(rest);
    let mut apart = rest.trim_start().chars();
    let sign = apart.next();
    let said = apart.as_str();
    let blank = said.is_empty() || said.starts_with([' ', '\t']);
    match sign {
        None => Some(""),
        Some('(' | '[' | '#' | ';' | '|') => Some(said),
        Some(':') if blank => Some(said),
        Some(',') if blank && !is_next_name(said) => Some(said),
        // A dash that touches the name is a part of it.
        Some('-' | '\u{2013}' | '\u{2014}') if rest.starts_with([' ', '\t']) => {
            let said = said.strip_prefix('-').unwrap_or(said);
            said.starts_with([' ', '\t']).then_some(said)
        }
        _ => None,
    }
}

/// Whether what stands behind a comma may be the next of several names: one word, or several that are joined.
fn is_next_name(said: &str) -> bool {
    let mut words = said.split_whitespace();
    let first = words.next().unwrap_or_default();
    let date = first.starts_with(|c: char| c.is_ascii_digit());
    let several = words.clone().next().is_some();
    !(date || several) || words.any(|word| matches!(word, "and" | "or" | "&" | "+"))
}

/// Whether a remark leaves the key the host's: it names no other machine, nobody, and does not take it back.
fn is_of(remark: &str, host: &str, fleet: &Fleet) -> bool {
    let words = remark.split(|c: char| !(c.is_alphanumeric() || "-_.@'\u{2019}".contains(c)));
    words.map(|word| word.trim_matches(['.', '\''])).filter(|word| !word.is_empty()).all(|word| {
        let of_somebody = word.contains('@') || word.ends_with("'s") || word.ends_with("\u{2019}s");
        let other = fleet.called(word).is_some_and(|other| other != host);
        !of_somebody
            && !other
            && !fleet.is_user(word)
            && !OTHERS.iter().any(|known| word.eq_ignore_ascii_case(known))
    })
}

/// What follows these words at the beginning of a text, in capitals or not, if they end there.
fn behind_words<'t>(text: &'t str, words: &str) -> Option<&'t str> {
    let (before, behind) = text.split_at_checked(words.len())?;
    let ends =
        !behind.starts_with(|c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.' | '@' | '\''));
    (before.eq_ignore_ascii_case(words) && ends).then_some(behind)
}
