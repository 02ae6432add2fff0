//! POSIX extended regular expressions, as far as they mean the same to everybody.

/// One that was read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Pattern {
    /// For the crate that matches it.
    pub first: String,
    /// The same with alternatives in the opposite order.
    pub last: String,
    pub groups: usize,
    pub alternatives: bool,
    /// It has groups within a group that is repeated: what they hold after the last time is not the same everywhere.
    pub nested: bool,
    /// It matches nothing at all, too.
    pub nullable: bool,
    /// It may match a text of any length.
    pub unbounded: bool,
    /// It may match what is no ASCII.
    pub others: bool,
}

/// How often something may be asked for in braces.
const MOST: u32 = 100;

impl Pattern {
    /// `None` for what is no regular expression, or not the same one everywhere.
    pub(super) fn read(text: &str) -> Option<Pattern> {
        let mut reader = Reader { text: text.as_bytes(), ..Reader::default() };
        if !text.is_ascii() || text.bytes().any(|byte| byte.is_ascii_control() && !byte.is_ascii_whitespace())
        {
            return None;
        }
        // Nothing at all is matched by nothing, in `match`.
        let part = if text.is_empty() { Part::empty() } else { reader.alternatives(0)? };
        (reader.at == text.len()).then_some(Pattern {
            first: part.first,
            last: part.last,
            groups: reader.groups,
            alternatives: reader.alternatives,
            nested: reader.nested,
            nullable: part.nullable,
            unbounded: reader.unbounded,
            others: reader.others,
        })
    }
}

/// A part of a pattern, in both orders of alternatives.
struct Part {
    first: String,
    last: String,
    nullable: bool,
}

impl Part {
    fn empty() -> Part {
        Part { first: String::new(), last: String::new(), nullable: true }
    }

    fn one(text: String) -> Part {
        Part { last: text.clone(), first: text, nullable: false }
    }
}

#[derive(Default)]
struct Reader<'t> {
    text: &'t [u8],
    at: usize,
    groups: usize,
    alternatives: bool,
    nested: bool,
    unbounded: bool,
    others: bool,
}

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }

    fn alternatives(&mut self, depth: usize) -> Option<Part> {
        let mut branches = vec![self.branch(depth)?];
        while self.peek() == Some(b'|') {
            self.at += 1;
            self.alternatives = true;
            branches.push(self.branch(depth)?);
        }
        let first: Vec<&str> = branches.iter().map(|branch| branch.first.as_str()).collect();
        let last: Vec<&str> = branches.iter().rev().map(|branch| branch.last.as_str()).collect();
        let nullable = branches.iter().any(|branch| branch.nullable);
        Some(Part { first: first.join("|"), last: last.join("|"), nullable })
    }

    /// One or more things behind each other.
    fn branch(&mut self, depth: usize) -> Option<Part> {
        let mut whole = Part::empty();
        let start = self.at;
        while let Some(byte) = self.peek().filter(|byte| !b"|)".contains(byte)) {
            let (start, before) = (self.at, self.groups);
            // At the ends of the whole only: elsewhere nothing would match.
            if byte == b'^' && start == 0 || byte == b'$' && start + 1 == self.text.len() {
                self.at += 1;
                whole.first.push(char::from(byte));
                whole.last.push(char::from(byte));
                continue;
            }
            let mut part = self.atom(depth)?;
            let groups = self.groups - before;
            if let Some((times, nullable)) = self.times()? {
                // Whether nothing is matched once more is not the same everywhere.
                if part.nullable {
                    return None;
                }
                self.nested |= groups > 1;
                part.first.push_str(&times);
                part.last.push_str(&times);
                part.nullable = nullable;
            }
            whole.first.push_str(&part.first);
            whole.last.push_str(&part.last);
            whole.nullable &= part.nullable;
        }
        (self.at > start).then_some(whole)
    }

    fn atom(&mut self, depth: usize) -> Option<Part> {
        match self.next()? {
            b'(' if depth < 20 => {
                self.groups += 1;
                let inner = self.alternatives(depth + 1)?;
                (self.next()? == b')').then_some(())?;
                let group = |inner: String| format!("({inner})");
                Some(Part { first: group(inner.first), last: group(inner.last), nullable: inner.nullable })
            }
            b'[' => self.bracket().map(Part::one),
            b'.' => {
                self.others = true;
                Some(Part::one(".".to_owned()))
            }
            b'\\' => self
                .next()
                .filter(|byte| br".[\()*+?{|^$".contains(byte))
                .map(|byte| Part::one(literal(byte))),
            b'(' | b'*' | b'+' | b'?' | b'{' | b'^' | b'$' => None,
            byte => Some(Part::one(literal(byte))),
        }
    }

    /// How often the thing before may be there, if that is said; and whether not at all.
    #[expect(clippy::option_option, reason = "no more to be read, and not to be read")]
    fn times(&mut self) -> Option<Option<(String, bool)>> {
        let times = match self.peek() {
            Some(byte @ (b'*' | b'+' | b'?')) => {
                self.at += 1;
                self.unbounded |= byte != b'?';
                (char::from(byte).to_string(), byte != b'+')
            }
            Some(b'{') => {
                let rest = std::str::from_utf8(&self.text[self.at + 1..]).ok()?;
                let (count, _) = rest.split_once('}')?;
                self.at += count.len() + 2;
                self.unbounded |= count.ends_with(',');
                let number = |text: &str| -> Option<u32> {
                    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
                    text.parse().ok().filter(|number| digits && *number <= MOST)
                };
                let least = match count.split_once(',') {
                    None => number(count)?,
                    Some((least, "")) => number(least)?,
                    Some((least, most)) => {
                        let (least, most) = (number(least)?, number(most)?);
                        (least <= most && most > 0).then_some(least)?
                    }
                };
                if count == "0" {
                    return None;
                }
                (format!("{{{count}}}"), least == 0)
            }
            _ => return Some(None),
        };
        // Twice in a row.
        (!self.peek().is_some_and(|byte| b"*+?{".contains(&byte))).then_some(Some(times))
    }

    /// What stands in brackets, which are open.
    fn bracket(&mut self) -> Option<String> {
        const CLASSES: [&str; 10] =
            ["alpha", "digit", "alnum", "upper", "lower", "space", "blank", "punct", "xdigit", "cntrl"];
        let mut out = "[".to_owned();
        if self.peek() == Some(b'^') {
            self.at += 1;
            self.others = true;
            out.push('^');
        }
        let start = self.at;
        loop {
            match self.next()? {
                b']' if self.at - 1 > start => break,
                b'[' if self.peek() == Some(b':') => {
                    let rest = std::str::from_utf8(&self.text[self.at + 1..]).ok()?;
                    let (class, _) = rest.split_once(":]")?;
                    CLASSES.contains(&class).then_some(())?;
                    out.push_str(&format!("[:{class}:]"));
                    self.at += class.len() + 3;
                    // No end of a range.
                    (self.peek()? != b'-').then_some(())?;
                }
                b'[' if matches!(self.peek(), Some(b'.' | b'=')) => return None,
                // For itself only where it can be nothing else.
                b'-' if self.at - 1 > start && self.peek()? != b']' => return None,
                from => {
                    out.push_str(&literal(from));
                    if self.peek()? == b'-' && *self.text.get(self.at + 1)? != b']' {
                        let to = self.text[self.at + 1];
                        (to >= from && !b"[-\\".contains(&to)).then_some(())?;
                        out.push('-');
                        out.push_str(&literal(to));
                        self.at += 2;
                    }
                }
            }
        }
        out.push(']');
        Some(out)
    }
}

/// A byte that stands for itself.
fn literal(byte: u8) -> String {
    format!("\\x{byte:02x}")
}

#[cfg(test)]
mod tests {
    use super::Pattern;

    #[test]
    fn what_is_not_the_same_everywhere_is_not_read() {
        for text in [
            "(",
            ")",
            "a)",
            "()",
            "a||b",
            "|a",
            "(|a)",
            "*a",
            "(*a)",
            "a**",
            "a+?",
            "a{2",
            "a{}",
            "a{,2}",
            "a{3,2}",
            "a{0}",
            "a{101}",
            "{",
            "a|*",
            "\\d",
            "\\w",
            "\\1",
            "a\\",
            "[a",
            "[",
            "[]",
            "[[.a.]]",
            "[[=a=]]",
            "[[:word:]]",
            "[b-a]",
            "[a-c-e]",
            "[[:alpha:]-z]",
            "é",
            "[é]",
            "(a*)*",
            "(a?)?",
            "a^b",
            "a$b",
            "(^a)",
            "(?:a)",
            "\u{1}",
        ] {
            assert_eq!(Pattern::read(text), None, "{text}");
        }
    }

    #[test]
    fn alternatives_are_read_in_both_orders() {
        let pattern = Pattern::read("(a|b(c|d))e*").unwrap();
        assert_eq!(pattern.first, r"(\x61|\x62(\x63|\x64))\x65*");
        assert_eq!(pattern.last, r"(\x62(\x64|\x63)|\x61)\x65*");
        assert_eq!((pattern.groups, pattern.alternatives, pattern.nested), (2, true, false));
        let nested = |text| Pattern::read(text).unwrap().nested;
        assert!(nested("((a)b)*") && !nested("(a)*(b)"));
        let nullable = |text| Pattern::read(text).unwrap().nullable;
        assert!(nullable("a*") && nullable("(a|b*)c?") && nullable("^$") && nullable("") && !nullable("a*b"));
    }

    #[test]
    fn what_may_be_matched_is_known() {
        let of = |text| Pattern::read(text).map(|pattern| (pattern.unbounded, pattern.others)).unwrap();
        assert_eq!(of("\n|a?b{2}"), (false, false));
        assert_eq!(of("[[:space:]]+"), (true, false));
        assert_eq!(of("a{2,}"), (true, false));
        assert_eq!((of("."), of("[^a]")), ((false, true), (false, true)));
    }

    #[test]
    fn brackets_hold_what_stands_for_itself() {
        for (text, read) in [
            ("[]a]", r"[\x5d\x61]"),
            ("[^]a]", r"[^\x5d\x61]"),
            ("[a-]", r"[\x61\x2d]"),
            ("[-a]", r"[\x2d\x61]"),
            (r"[\.]", r"[\x5c\x2e]"),
            ("[[]", r"[\x5b]"),
            ("[0-9a-f[:space:]]", r"[\x30-\x39\x61-\x66[:space:]]"),
        ] {
            assert_eq!(Pattern::read(text).unwrap().first, read);
        }
    }
}
