//! The keys that may log in, checked and each once, in the form that sshd and Proxmox take.

use fleet_core::{Error, Result, hosts::Hosts};
use ssh_key::{PublicKey, public::KeyData};

/// Types that stand at the beginning of a key (sshd(8), AUTHORIZED_KEYS FILE FORMAT).
const TYPES: [&str; 7] = [
    "ssh-ed25519",
    "ssh-rsa",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
];

/// The keys for the host of this name: its own list in `hosts.nix`, else the list that the hosts share.
///
/// Never empty: no key at all is an error of kind not-found, for a machine that nobody can log in to is worth
/// nothing. A malformed key is an error that names its file and line.
pub fn for_host(hosts: &Hosts, name: &str) -> Result<Vec<String>> {
    let listed = hosts.keys_for(name)?;
    checked(&listed)
        .map_err(|fault| {
            let place = std::fs::read_to_string(&hosts.path)
                .ok()
                .and_then(|text| line_of(&text, &fault.line))
                .map_or_else(
                    || hosts.path.display().to_string(),
                    |line| format!("{}:{line}", hosts.path.display()),
                );
            Error::usage(format!("{place}: a key for '{name}' is not right: {}", fault.why))
                .now(format!("the key reads: {}", fault.line.escape_debug()))
                .hint("a key is one line such as `ssh-ed25519 AAAA… who@where`, as in a .pub file")
        })
        .and_then(|keys| {
            if keys.is_empty() {
                return Err(Error::not_found(format!(
                    "no authorized key for '{name}' in {}",
                    hosts.path.display()
                ))
                .hint("add your public key to `masterKeys` there"));
            }
            Ok(keys)
        })
}

/// How many keys `listed` holds, or what is wrong with the first that is malformed.
pub(crate) fn check(listed: &[String]) -> Result<usize, String> {
    checked(listed)
        .map(|keys| keys.len())
        .map_err(|fault| format!("{}: {}", fault.line.escape_debug(), fault.why))
}

/// What is wrong with which line.
#[derive(Debug)]
struct Fault {
    line: String,
    why: String,
}

/// `listed`, each checked and once. An entry may hold several lines, blank ones and comments, as a file read
/// into it does.
fn checked(listed: &[String]) -> Result<Vec<String>, Fault> {
    let mut seen: Vec<KeyData> = Vec::new();
    let mut keys = Vec::new();
    for line in listed.iter().flat_map(|entry| entry.lines()).map(str::trim) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let fault = |why: String| Fault { line: line.to_owned(), why };
        let (data, text) = parse(line).map_err(fault)?;
        // sshd takes the first line that has the key.
        if !seen.contains(&data) {
            seen.push(data);
            keys.push(text);
        }
    }
    Ok(keys)
}

/// One line of an authorized_keys file: what the key is, and the line with single spaces between its fields.
fn parse(line: &str) -> Result<(KeyData, String), String> {
    // Neither YAML nor an authorized_keys file carries these as they are.
    if line.chars().any(|c| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}')) {
        return Err("it contains a control character".to_owned());
    }
    let (first, rest) = split_word(line);
    let (options, (kind, rest)) =
        if is_key_type(first) { (None, (first, rest)) } else { (Some(first), split_word(rest)) };
    if kind.ends_with("-cert-v01@openssh.com") {
        return Err(
            "it is a certificate, which lets nobody in; give the key, or its authority with `cert-authority`"
                .to_owned(),
        );
    }
    if !TYPES.contains(&kind) {
        return Err("it does not begin with a type that sshd knows, such as ssh-ed25519".to_owned());
    }
    let (base64, comment) = split_word(rest);
    if base64.is_empty() {
        return Err("nothing stands behind its type".to_owned());
    }
    let key = PublicKey::from_openssh(&format!("{kind} {base64}"))
        .map_err(|e| format!("it can not be read: {e}"))?;
    if key.algorithm().as_str() != kind {
        return Err(format!("it says {kind} but holds a key of type {}", key.algorithm()));
    }
    let fields = [options.unwrap_or_default(), kind, base64, comment];
    let text = fields.into_iter().filter(|field| !field.is_empty()).collect::<Vec<_>>().join(" ");
    Ok((key.key_data().clone(), text))
}

fn is_key_type(word: &str) -> bool {
    TYPES.contains(&word) || word.ends_with("-cert-v01@openssh.com")
}

/// The first word, blanks in double quotes belonging to it, and what follows it.
fn split_word(text: &str) -> (&str, &str) {
    let mut quoted = false;
    let mut escaped = false;
    let end = text.find(|c: char| {
        let was_escaped = escaped;
        escaped = c == '\\' && !was_escaped;
        if c == '"' && !was_escaped {
            quoted = !quoted;
        }
        c.is_whitespace() && !quoted
    });
    let (word, rest) = text.split_at(end.unwrap_or(text.len()));
    (word, rest.trim())
}

/// The first line of `text` that holds `key`, counted from 1.
fn line_of(text: &str, key: &str) -> Option<usize> {
    text.lines().position(|line| line.contains(key)).map(|at| at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ED25519: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAIEtfhhsJqlmAOIaEgTU0QsDGdzAVy1a2vo009FQUXp";

    fn keys(listed: &[&str]) -> Result<Vec<String>, String> {
        checked(&listed.iter().map(|l| (*l).to_owned()).collect::<Vec<_>>()).map_err(|fault| fault.why)
    }

    #[test]
    fn duplicates_are_folded_and_comments_kept() {
        let listed =
            [&format!("{ED25519} alice: # \"laptop\""), ED25519, &format!("  {ED25519}   bob\r\n\n# x\n")];
        let listed: Vec<&str> = listed.iter().map(|l| &**l).collect();
        assert_eq!(keys(&listed).unwrap(), [format!("{ED25519} alice: # \"laptop\"")]);
    }

    #[test]
    fn options_in_front_are_understood() {
        let line = format!("command=\"echo \\\"a b\\\"\",no-pty {ED25519} carol smith");
        assert_eq!(keys(&[&line]).unwrap(), [line]);
    }

    #[test]
    fn all_types_of_keys_are_understood() {
        let listed = include_str!("../tests/keys/every-type.pub");
        assert_eq!(keys(&[listed]).unwrap().len(), 7);
    }

    #[test]
    fn faults_are_named() {
        let wrong = [
            "ssh-ed25519",
            "TODO",
            &ED25519[..60],
            &ED25519[..59],
            &ED25519.replace("ssh-ed25519", "ssh-rsa"),
            &format!("{ED25519} a\u{7}b"),
            "ssh-ed25519-cert-v01@openssh.com AAAA x",
            "no-pty",
        ];
        let why: Vec<String> = wrong.iter().map(|line| keys(&[line]).unwrap_err()).collect();
        insta::assert_snapshot!(why.join("\n"), @r"
        nothing stands behind its type
        it does not begin with a type that sshd knows, such as ssh-ed25519
        it can not be read: Base64 encoding error: invalid Base64 length
        it can not be read: Base64 encoding error: invalid Base64 encoding
        it can not be read: unknown algorithm
        it contains a control character
        it is a certificate, which lets nobody in; give the key, or its authority with `cert-authority`
        it does not begin with a type that sshd knows, such as ssh-ed25519
        ");
    }

    #[test]
    fn the_line_of_a_key_is_found() {
        assert_eq!(line_of("a\n  \"ssh-rsa x\"\n", "ssh-rsa x"), Some(2));
        assert_eq!(line_of("a", "ssh-rsa x"), None);
    }
}
