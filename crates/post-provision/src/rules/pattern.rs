//! `path_regex` as sops reads it, by Go's regular expressions: what these take otherwise than the crate that stands in
//! for them here is rewritten for it.

use regex::Regex;

/// The expression, or why it is none.
pub(super) fn compiled(text: &str) -> Result<Regex, String> {
    Regex::new(&rewritten(text)).map_err(|e| {
        let why = e.to_string();
        why.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned()
    })
}

/// Go takes `\Q…\E` for what stands between them, a brace that begins no count for itself, and in brackets everything
/// but a class's name for single characters.
fn rewritten(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    // Whether brackets are open, and whether something stands in them yet.
    let (mut inside, mut first) = (false, false);
    while let Some(c) = rest.chars().next() {
        let behind = &rest[c.len_utf8()..];
        let begins = std::mem::take(&mut first);
        match c {
            '\\' if !inside && behind.starts_with('Q') => {
                let quoted = &behind[1..];
                let (literal, after) = quoted.split_once("\\E").unwrap_or((quoted, ""));
                out.push_str(&regex::escape(literal));
                rest = after;
                continue;
            }
            '\\' => {
                out.push(c);
                let Some(escaped) = behind.chars().next() else { break };
                out.push(escaped);
                rest = &behind[escaped.len_utf8()..];
                continue;
            }
            '[' if !inside => {
                out.push(c);
                (inside, first) = (true, true);
            }
            '^' if begins && rest.len() < text.len() && out.ends_with('[') => {
                out.push(c);
                first = true;
            }
            ']' if inside && !begins => {
                out.push(c);
                inside = false;
            }
            '[' if behind.starts_with(':') && behind.contains(":]") => {
                let end = behind.find(":]").map_or(0, |at| at + 2);
                out.push(c);
                out.push_str(&behind[..end]);
                rest = &behind[end..];
                continue;
            }
            '[' | '&' | '~' | ']' if inside => out.extend(['\\', c]),
            '-' if inside && behind.starts_with('-') => out.push_str("\\-"),
            '{' if !inside && !is_count(behind) => out.push_str("\\{"),
            _ => out.push(c),
        }
        rest = behind;
    }
    out
}

/// Whether what follows a brace is a count: `2}`, `2,}` or `2,3}`.
fn is_count(behind: &str) -> bool {
    let Some((count, _)) = behind.split_once('}') else { return false };
    let (least, most) = count.split_once(',').unwrap_or((count, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    !least.is_empty() && digits(least) && digits(most)
}

#[cfg(test)]
mod tests {
    use super::compiled;

    #[test]
    fn what_go_takes_is_taken() {
        for (text, matches, other) in [
            (r"\Qa.b\E/x", "a.b/x", "aXb/x"),
            (r"x/\Qa+(b", "x/a+(b", "x/aab"),
            ("secrets/{a,b}.yaml", "secrets/{a,b}.yaml", "secrets/a.yaml"),
            ("a{,2}b", "a{,2}b", "aab"),
            ("^a{2}$", "aa", "a"),
            ("^a{2,}b{1,2}$", "aaabb", "ab"),
            (r"^[^/]+\.ya?ml$", "a.yml", "a/b.yml"),
            ("^[]a]$", "]", "b"),
            ("^[^]a]$", "b", "]"),
            ("^[[]$", "[", "]"),
            ("^[a&&b]$", "&", "c"),
            ("^[[:alpha:]_]+$", "a_b", "a1"),
            (r"^[\]\[]$", "[", "a"),
            ("^x}$", "x}", "x"),
            ("^[a-z--9]$", "-", "A"),
            (r"\_\/", "_/", "a"),
        ] {
            let regex = compiled(text).unwrap();
            assert!(regex.is_match(matches), "{text}: {regex}");
            assert!(!regex.is_match(other), "{text}: {regex}");
        }
        for text in ["(", "(?=x)", "[a", "*", r"a\"] {
            assert!(compiled(text).is_err(), "{text}");
        }
    }
}
