//! Lines of an authorized_keys file, as sshd(8) has them: options, type, key, comment.

use ssh_key::PublicKey;

use crate::ssh::keys::{decode_base64, take_string};

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

/// What the type of a certificate ends with (OpenSSH's PROTOCOL.certkeys).
const CERTIFICATE: &str = "-cert-v01@openssh.com";

/// Options that sshd knows (sshd(8)); a line with another one lets nobody in.
const OPTIONS: [&str; 22] = [
    "agent-forwarding",
    "cert-authority",
    "command",
    "environment",
    "expiry-time",
    "from",
    "no-agent-forwarding",
    "no-port-forwarding",
    "no-pty",
    "no-touch-required",
    "no-user-rc",
    "no-x11-forwarding",
    "permitlisten",
    "permitopen",
    "port-forwarding",
    "principals",
    "pty",
    "restrict",
    "tunnel",
    "user-rc",
    "verify-required",
    "x11-forwarding",
];

/// One line that was understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthorizedKey {
    /// The line, with single blanks between its fields.
    pub line: String,
    /// Type and key alone: two lines that have them in common are one key.
    pub key: String,
    /// Whether it is a certificate. sshd lets nobody in for a certificate that is listed itself: it wants its
    /// authority's key, with the option `cert-authority`.
    pub certificate: bool,
}

impl std::str::FromStr for AuthorizedKey {
    type Err = String;

    /// Reads a line, or says what is wrong with it.
    fn from_str(line: &str) -> Result<AuthorizedKey, String> {
        if let Some(odd) = line.chars().find(|c| !is_carried(*c)) {
            return Err(format!(
                "it contains the character U+{:04X}, which no document carries",
                u32::from(odd)
            ));
        }
        let (first, rest) = split_word(line.trim());
        let (options, (kind, rest)) =
            if is_type(first) { ("", (first, rest)) } else { (first, split_word(rest)) };
        if first.is_empty() {
            return Err("it is empty".to_owned());
        }
        if !is_type(kind) {
            return Err("it does not begin with a type that sshd knows, such as ssh-ed25519".to_owned());
        }
        if let Some(option) = unknown_option(options) {
            return Err(format!("sshd knows no option '{option}'"));
        }
        let (base64, comment) = split_word(rest);
        if base64.is_empty() {
            return Err("nothing stands behind its type".to_owned());
        }
        let key = format!("{kind} {base64}");
        let certificate = kind.ends_with(CERTIFICATE);
        if certificate {
            // ssh-key's reader knows no certificate that is valid for ever.
            decode_base64(base64)
                .and_then(|bytes| is_certificate(kind, &bytes))
                .ok_or_else(|| format!("it can not be read: no whole certificate of type {kind}"))?;
        } else {
            let read = PublicKey::from_openssh(&key).map_err(|e| format!("it can not be read: {e}"))?;
            let holds = read.algorithm();
            if holds.as_str() != kind {
                return Err(format!("it says {kind} but holds a key of type {holds}"));
            }
        }
        let fields = [options, kind, base64, comment];
        let line = fields.into_iter().filter(|field| !field.is_empty()).collect::<Vec<_>>().join(" ");
        Ok(AuthorizedKey { line, key, certificate })
    }
}

/// Whether a character can stand in a line of text in YAML (1.1, section 5.1) and in an authorized_keys file. A
/// tab separates fields.
fn is_carried(c: char) -> bool {
    c == '\t'
        || !c.is_control() && !matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}')
}

/// Whether these bytes are a certificate of this type, whole (OpenSSH's PROTOCOL.certkeys).
fn is_certificate(kind: &str, bytes: &[u8]) -> Option<()> {
    let (named, mut rest) = take_string(bytes)?;
    // Parts of the key itself, after the nonce.
    let parts = match kind.strip_suffix(CERTIFICATE)? {
        "ssh-ed25519" => 1,
        "sk-ecdsa-sha2-nistp256" => 3,
        _ => 2,
    };
    for _ in 0..=parts {
        (_, rest) = take_string(rest)?;
    }
    let (_serial_and_role, rest) = rest.split_at_checked(8 + 4)?;
    let (_id, rest) = take_string(rest)?;
    let (_principals, rest) = take_string(rest)?;
    let (_validity, mut rest) = rest.split_at_checked(8 + 8)?;
    // Critical options, extensions, what is reserved, the authority's key, its signature.
    for _ in 0..5 {
        (_, rest) = take_string(rest)?;
    }
    (named == kind.as_bytes() && rest.is_empty()).then_some(())
}

fn is_type(word: &str) -> bool {
    TYPES.contains(&word)
        || word.strip_suffix(CERTIFICATE).is_some_and(|stem| {
            TYPES.iter().any(|kind| kind.strip_suffix("@openssh.com").unwrap_or(kind) == stem)
        })
}

/// The first option that sshd does not know.
fn unknown_option(options: &str) -> Option<&str> {
    let mut rest = options;
    while !rest.is_empty() {
        let end = end_of(rest, |c| c == ',');
        let (option, more) = rest.split_at(end);
        let name = option.split('=').next().unwrap_or_default();
        if !OPTIONS.contains(&name.to_ascii_lowercase().as_str()) {
            return Some(name);
        }
        rest = more.strip_prefix(',').unwrap_or_default();
    }
    None
}

/// The first word, blanks in double quotes belonging to it, and what follows it.
fn split_word(text: &str) -> (&str, &str) {
    let (word, rest) = text.split_at(end_of(text, char::is_whitespace));
    (word, rest.trim())
}

/// Where the first of these characters stands outside of double quotes.
fn end_of(text: &str, ends: impl Fn(char) -> bool) -> usize {
    let (mut quoted, mut escaped) = (false, false);
    let end = text.find(|c: char| {
        let was_escaped = escaped;
        escaped = c == '\\' && !was_escaped;
        if c == '"' && !was_escaped {
            quoted = !quoted;
        }
        !quoted && ends(c)
    });
    end.unwrap_or(text.len())
}

/// Whether a text has a private key in it, as the programs of OpenSSH, OpenSSL and age write them: such a text is shown to
/// nobody.
pub fn is_private(text: &str) -> bool {
    let text = text.to_ascii_uppercase();
    text.contains("PRIVATE KEY-----") || text.contains("AGE-SECRET-KEY-")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ED25519: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAIEtfhhsJqlmAOIaEgTU0QsDGdzAVy1a2vo009FQUXp";

    #[test]
    fn options_in_front_and_any_blanks_are_understood() {
        let options = "command=\"echo \\\"a b\\\", x\",no-pty,from=\"10.0.0.0/8,!10.0.0.1\"";
        let key: AuthorizedKey = format!(" {options}\t{ED25519}  carol: # smith ").parse().unwrap();
        assert_eq!(key.line, format!("{options} {ED25519} carol: # smith"));
        assert_eq!((key.key.as_str(), key.certificate), (ED25519, false));
        let key: AuthorizedKey = format!("cert-authority,principals=\"web\" {ED25519}").parse().unwrap();
        assert!(!key.certificate);
    }

    #[test]
    fn faults_are_named() {
        let wrong = [
            "",
            "ssh-ed25519",
            "TODO",
            &ED25519[..60],
            &ED25519[..59],
            &ED25519.replace("ssh-ed25519", "ssh-rsa"),
            &format!("{ED25519} a\u{7}b"),
            &format!("{ED25519} \u{ffff}"),
            "ssh-ed25519-cert-v01@openssh.com AAAA x",
            &ED25519.replace("ssh-ed25519", "ssh-dss"),
            "no-pty",
            &format!("no-pty,nopty {ED25519}"),
            &format!("command=\"x {ED25519}"),
        ];
        let why: Vec<String> = wrong.iter().map(|line| line.parse::<AuthorizedKey>().unwrap_err()).collect();
        insta::assert_snapshot!(why.join("\n"), @r"
        it is empty
        nothing stands behind its type
        it does not begin with a type that sshd knows, such as ssh-ed25519
        it can not be read: Base64 encoding error: invalid Base64 length
        it can not be read: Base64 encoding error: invalid Base64 encoding
        it can not be read: unknown algorithm
        it contains the character U+0007, which no document carries
        it contains the character U+FFFF, which no document carries
        it can not be read: no whole certificate of type ssh-ed25519-cert-v01@openssh.com
        it does not begin with a type that sshd knows, such as ssh-ed25519
        it does not begin with a type that sshd knows, such as ssh-ed25519
        sshd knows no option 'nopty'
        it does not begin with a type that sshd knows, such as ssh-ed25519
        ");
    }
}
