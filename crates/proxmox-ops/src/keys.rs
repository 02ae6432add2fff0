//! SSH public keys for a new VM: read, checked, and made what Proxmox takes.

use std::io::Read;

use fleet_core::{Error, Result, authorized_keys::AuthorizedKey};

/// Longest input that is read.
const MOST: u64 = 1 << 20;

/// Reads keys as the command line names them: `-` is standard input, `@FILE` a file, anything else the text.
pub fn read(source: &str) -> Result<String> {
    let text = match source.strip_prefix('@') {
        Some("") => {
            return Err(Error::usage("there is no file name after '@'").now("nothing was sent to the node"));
        }
        Some(path) => {
            let path = std::path::Path::new(path);
            std::fs::File::open(path)
                .and_then(|file| read_all(&mut file.take(MOST)))
                .map_err(|e| Error::io("read", path, e).now("nothing was sent to the node"))?
        }
        None if source == "-" => read_all(&mut std::io::stdin().lock().take(MOST))
            .map_err(|e| Error::failed("can not read keys from standard input").caused_by(e))?,
        None => source.to_owned(),
    };
    normalise(&text)
}

fn read_all(from: &mut impl Read) -> std::io::Result<String> {
    let mut text = String::new();
    from.read_to_string(&mut text)?;
    Ok(text)
}

/// Checks keys, one a line, and gives them as Proxmox takes them: no comment lines, no blank lines, no
/// carriage returns. A line that is no public key is an error that says which; so is no key at all, which
/// Proxmox would take and warn about for ever.
pub fn normalise(text: &str) -> Result<String> {
    let mut keys: Vec<AuthorizedKey> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if line.contains("PRIVATE KEY") {
            return Err(Error::usage(format!("line {} of the keys begins a private key", number + 1))
                .now("nothing was sent to the node")
                .hint("give the public half: the file that ends in .pub"));
        }
        let key: AuthorizedKey = line.parse().map_err(|why| {
            let what = format!("line {} of the keys is no SSH public key: '{}'", number + 1, start_of(line));
            Error::usage(what).now(why).now("nothing was sent to the node")
        })?;
        if !keys.iter().any(|other| other.key == key.key) {
            keys.push(key);
        }
    }
    if keys.is_empty() {
        return Err(Error::usage("there is no SSH key in what was given")
            .now("nothing was sent to the node")
            .hint("a VM without a key could not be logged in to; give at least one public key"));
    }
    Ok(keys.into_iter().map(|key| key.line).collect::<Vec<_>>().join("\n"))
}

/// Enough of a line to find it by.
fn start_of(line: &str) -> String {
    let start: String = line.chars().take(24).collect();
    if start.len() < line.len() {
        format!("{}…", start.escape_debug())
    } else {
        start.escape_debug().to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fleet_core::Kind;

    const A: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAIEtfhhsJqlmAOIaEgTU0QsDGdzAVy1a2vo009FQUXp alice@laptop";

    #[test]
    fn comments_blanks_crlf_and_doubles_go() {
        let text = format!("# fleet keys\r\n\r\n{A}\r\n  {A}\n");
        assert_eq!(normalise(&text).unwrap(), A);
    }

    #[test]
    fn what_is_no_key_is_named_by_its_line() {
        let error = normalise(&format!("{A}\nssh-ed25519 nonsense\n")).unwrap_err();
        assert_eq!(error.kind(), Kind::Usage);
        assert_eq!(error.message(), "line 2 of the keys is no SSH public key: 'ssh-ed25519 nonsense'");
        for bad in ["$(reboot)", "ssh-ed25519", "-----BEGIN OPENSSH PRIVATE KEY-----\nabc"] {
            assert_eq!(normalise(bad).unwrap_err().kind(), Kind::Usage, "{bad}");
        }
    }

    #[test]
    fn options_in_front_stay() {
        let line = format!("command=\"echo a b\",no-pty {A}");
        assert_eq!(normalise(&line).unwrap(), line);
    }

    #[test]
    fn no_key_is_an_error() {
        for empty in ["", "\n\n", "# only a comment\n"] {
            assert_eq!(normalise(empty).unwrap_err().message(), "there is no SSH key in what was given");
        }
    }

    #[test]
    fn keys_come_from_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys");
        std::fs::write(&path, format!("{A}\n")).unwrap();
        assert_eq!(read(&format!("@{}", path.display())).unwrap(), A);
        let missing = read(&format!("@{}/none", dir.path().display())).unwrap_err();
        assert_eq!(missing.kind(), Kind::NotFound);
        assert_eq!(read(A).unwrap(), A);
    }
}
