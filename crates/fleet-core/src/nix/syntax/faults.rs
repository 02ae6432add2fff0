//! Where a text stops being Nix, in words.

use rnix::{ParseError, SyntaxKind};

use super::{Node, SyntaxFault, advice};

/// A place that no Nix can have, and why.
struct Place<'e> {
    start: usize,
    end: usize,
    why: Why<'e>,
}

enum Why<'e> {
    Told(&'e ParseError),
    /// A parenthesis that this token closes.
    Unclosed(SyntaxKind),
}

/// The first of them. There is none if the parser found none and every parenthesis is closed by one.
pub(super) fn first(errors: &[ParseError], root: Node<'_>, text: &str) -> Option<SyntaxFault> {
    let told = errors.iter().map(|error| {
        let (start, end) = place(error, text);
        Place { start, end, why: Why::Told(error) }
    });
    let place = told.chain(unclosed(root)).min_by_key(|place| place.start)?;
    let offset = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
    let behind = text.get(place.start..).unwrap_or_default();
    if is_path(text.get(..place.start).unwrap_or_default(), behind) {
        return Some(SyntaxFault::Path { start: offset(place.start) });
    }
    let (message, wanted): (String, &[SyntaxKind]) = match place.why {
        Why::Unclosed(kind) => {
            (format!("unexpected {}, expected ')'", found(kind, behind)), &[SyntaxKind::TOKEN_R_PAREN])
        }
        Why::Told(ParseError::UnexpectedExtra(_)) => {
            ("unexpected text after the end of the expression".to_owned(), &[])
        }
        Why::Told(ParseError::UnexpectedWanted(kind, _, wanted)) => {
            (format!("unexpected {}, expected {}", found(*kind, behind), names(wanted)), wanted)
        }
        Why::Told(ParseError::UnexpectedDoubleBind(_)) => ("the argument is bound twice".to_owned(), &[]),
        Why::Told(ParseError::DuplicatedArgs(_, name)) => {
            (format!("the argument '{name}' is there twice"), &[])
        }
        Why::Told(ParseError::UnexpectedEOF) => ("unexpected end of the file".to_owned(), &[]),
        Why::Told(ParseError::UnexpectedEOFWanted(wanted)) => {
            (format!("unexpected end of the file, expected {}", names(wanted)), wanted)
        }
        Why::Told(ParseError::RecursionLimitExceeded) => {
            return Some(SyntaxFault::TooDeep { start: 0 });
        }
        Why::Told(ParseError::Unexpected(_)) => ("unexpected text".to_owned(), &[]),
        Why::Told(_) => ("this is not Nix".to_owned(), &[]),
    };
    let help = advice::of(text, place.start, wanted);
    Some(SyntaxFault::Wrong { message, help, start: offset(place.start), end: offset(place.end) })
}

/// Whether a text goes on as no path does for the parser, and as one does for Nix: one that begins with three dots or more,
/// or with two slashes behind an interpolation.
fn is_path(before: &str, text: &str) -> bool {
    let part = |c: char| c.is_ascii_alphanumeric() || "._-+".contains(c);
    let begins = text.trim_start_matches(part);
    let dots = text.starts_with("...") && begins.starts_with('/');
    let slashes = text.starts_with('/') && before.ends_with(|c: char| part(c) || c == '/' || c == '}');
    let name = begins.trim_start_matches('/');
    (dots || slashes) && name.starts_with(part)
}

/// The bytes that an error is about.
fn place(error: &ParseError, text: &str) -> (usize, usize) {
    let range = match error {
        ParseError::UnexpectedExtra(range)
        | ParseError::UnexpectedWanted(_, range, _)
        | ParseError::UnexpectedDoubleBind(range)
        | ParseError::DuplicatedArgs(range, _)
        | ParseError::Unexpected(range) => range,
        ParseError::RecursionLimitExceeded => return (0, 0),
        _ => {
            let end = text.trim_end().len();
            return (end, end);
        }
    };
    // The parser skips over everything up to what it can use again: point at where that begins.
    let (start, end) = (u32::from(range.start()) as usize, u32::from(range.end()) as usize);
    let skipped = text.get(start..end).unwrap_or_default();
    let start = start + skipped.len() - skipped.trim_start().len();
    let word = skipped.split_whitespace().next().unwrap_or_default();
    (start, start + word.len().max(1))
}

/// Parentheses that something else closes: the parser takes whatever stands there for a `)`.
fn unclosed<'e>(root: Node<'_>) -> Vec<Place<'e>> {
    let mut places = Vec::new();
    let mut left = vec![root];
    while let Some(node) = left.pop() {
        left.extend(node.nodes());
        if node.kind() != SyntaxKind::NODE_PAREN || node.token(SyntaxKind::TOKEN_R_PAREN).is_some() {
            continue;
        }
        // At the end of the text nothing does, and the parser says so.
        let closing = node.tokens().filter(|token| token.kind() != SyntaxKind::TOKEN_L_PAREN).last();
        places.extend(closing.map(|token| Place {
            start: token.start as usize,
            end: token.end() as usize,
            why: Why::Unclosed(token.kind()),
        }));
    }
    places
}

/// A token that should not be there, which `text` begins with.
fn found(kind: SyntaxKind, text: &str) -> String {
    match text.chars().next().filter(|_| kind == SyntaxKind::TOKEN_ERROR) {
        // What nobody sees is named.
        Some(c) if advice::is_invisible(c) => format!("U+{:04X}", u32::from(c)),
        Some(c) if !matches!(c, '"' | '\'') => format!("'{c}'"),
        _ => name(kind).trim_start_matches("a ").to_owned(),
    }
}

fn names(kinds: &[SyntaxKind]) -> String {
    // Both are names to the parser; nobody looks for them.
    let told = kinds.iter().filter(|kind| !matches!(kind, SyntaxKind::TOKEN_OR | SyntaxKind::TOKEN_CUR_POS));
    let mut names: Vec<String> = told.map(|kind| name(*kind)).collect();
    names.dedup();
    match names.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
        None => "something else".to_owned(),
    }
}

/// A token as people call it.
fn name(kind: SyntaxKind) -> String {
    use SyntaxKind as K;
    let text = match kind {
        K::TOKEN_IDENT => "a name",
        K::TOKEN_STRING_START | K::TOKEN_STRING_END => "a quote",
        K::TOKEN_STRING_CONTENT => "text",
        K::TOKEN_INTERPOL_START => "'${'",
        K::TOKEN_INTERPOL_END | K::TOKEN_R_BRACE => "'}'",
        K::TOKEN_L_BRACE => "'{'",
        K::TOKEN_L_BRACK => "'['",
        K::TOKEN_R_BRACK => "']'",
        K::TOKEN_L_PAREN => "'('",
        K::TOKEN_R_PAREN => "')'",
        K::TOKEN_ASSIGN => "'='",
        K::TOKEN_SEMICOLON => "';'",
        K::TOKEN_COMMA => "','",
        K::TOKEN_COLON => "':'",
        K::TOKEN_DOT => "'.'",
        K::TOKEN_AT => "'@'",
        K::TOKEN_QUESTION => "'?'",
        K::TOKEN_ELLIPSIS => "'...'",
        K::TOKEN_THEN => "'then'",
        K::TOKEN_ELSE => "'else'",
        K::TOKEN_IN => "'in'",
        K::TOKEN_INHERIT => "'inherit'",
        K::TOKEN_REC => "'rec'",
        K::TOKEN_OR => "'or'",
        K::TOKEN_CUR_POS => "'__curPos'",
        K::TOKEN_LET => "'let'",
        K::TOKEN_WITH => "'with'",
        K::TOKEN_ASSERT => "'assert'",
        K::TOKEN_IF => "'if'",
        K::TOKEN_ADD => "'+'",
        K::TOKEN_CONCAT => "'++'",
        K::TOKEN_UPDATE => "'//'",
        K::TOKEN_SUB => "'-'",
        K::TOKEN_MUL => "'*'",
        K::TOKEN_DIV => "'/'",
        K::TOKEN_EQUAL => "'=='",
        K::TOKEN_NOT_EQUAL => "'!='",
        K::TOKEN_LESS => "'<'",
        K::TOKEN_LESS_OR_EQ => "'<='",
        K::TOKEN_MORE => "'>'",
        K::TOKEN_MORE_OR_EQ => "'>='",
        K::TOKEN_IMPLICATION => "'->'",
        K::TOKEN_INVERT => "'!'",
        K::TOKEN_INTEGER | K::TOKEN_FLOAT => "a number",
        K::TOKEN_ERROR => "text that is no part of Nix",
        other => return format!("{other:?}").trim_start_matches("TOKEN_").to_lowercase().replace('_', " "),
    };
    text.to_owned()
}

#[cfg(test)]
mod tests {
    use super::{super::Tree, *};

    #[test]
    fn an_expected_name_is_told_once() {
        use SyntaxKind as K;
        assert_eq!(names(&[K::TOKEN_IDENT, K::TOKEN_OR, K::TOKEN_CUR_POS]), "a name");
    }

    #[test]
    fn a_parenthesis_is_closed_by_one() {
        for (text, place) in [
            ("{ a = (1}; }", 8),
            ("(1 ]", 3),
            ("(1 else", 3),
            ("{ a = (1; b = 2; }", 8),
            ("{ a = [ (1 ]; }", 11),
            ("((1; )", 3),
            ("{ a = f (x: x; }", 13),
        ] {
            match Tree::parse(text) {
                Err(SyntaxFault::Wrong { message, start, .. }) => {
                    assert_eq!(start, place, "{text}: {message}");
                    assert!(message.ends_with("expected ')'"), "{text}: {message}");
                }
                other => panic!("{text}: {other:?}"),
            }
        }
        for text in
            ["(1)", "{ inherit ((import ./x)) y; }", "{ a = ((x: (x)) (1)); }", "let x = (1); in (x) # )"]
        {
            assert!(Tree::parse(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn paths_that_only_nix_reads_are_no_syntax_errors() {
        for text in [".../b", "[ ..../a/b ]", "{ a = ./${x}/a//b; }", "f .../b"] {
            assert!(
                matches!(Tree::parse(text), Err(SyntaxFault::Path { .. })),
                "{text}: {:?}",
                Tree::parse(text)
            );
        }
        for text in ["{ a = 1; // one\n}", "{ a = 1; /x }", "{ a, ... /b }: a", "{ a = /; }"] {
            assert!(
                matches!(Tree::parse(text), Err(SyntaxFault::Wrong { .. })),
                "{text}: {:?}",
                Tree::parse(text)
            );
        }
    }

    /// What is said of a text, and what would be right.
    fn told(text: &str) -> (String, Option<String>) {
        match Tree::parse(text) {
            Err(SyntaxFault::Wrong { message, help, .. }) => (message, help),
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn what_would_be_right_is_told() {
        for (text, help) in [
            ("{\n  a = 1\n  b = 2;\n}\n", "is a `;` missing at the end of line 2?"),
            ("{\n  a = 1 # one\n\n  # two\n  b.c = 2;\n}\n", "is a `;` missing at the end of line 2?"),
            ("{\n  a = {\n    b = 1;\n  }\n}\n", "is a `;` missing at the end of line 4?"),
            ("{ a = 1 b = 2; }", "is a `;` missing before `b`?"),
            ("{ a = 1 }", "`;` ends each attribute, the last one too"),
            ("{ a = 1, b = 2, }", "`;` ends an attribute, not `,`"),
            ("{ a: 1; }", "an attribute is written NAME = VALUE;"),
            ("{ \"a\": 1, }", "an attribute is written NAME = VALUE;"),
            ("{ a == 1; }", "an attribute is written NAME = VALUE;"),
            ("{ a b = 1; }", "an attribute is written NAME = VALUE;"),
            ("{ 10web = 1; }", "a name that begins with a digit goes in quotes: \"10web\""),
            ("{ a = [ 1, 2 ]; }", "blanks divide the elements of a list, not commas"),
            ("{ a = 1; // one\n}", "a comment begins with `#`"),
            ("{\n  a = [ 1;\n}\n", "the `[` on line 2 is not closed before this"),
            ("{\n  a = (1;\n}\n", "the `(` on line 2 is not closed before this"),
            ("{\n  a = {\n    b = 1;\n  };\n", "the `{` on line 1 is not closed"),
            ("let\n  a = 1;\n{ }\n", "is `in` missing before this?"),
            ("{ a = \u{201c}x\u{201d}; }", "a text goes in straight quotes: \"…\""),
            ("{ a\u{200b} = 1; }", "nobody sees it: take it out"),
            (
                "{\n  a = \"x;\n  b = \"y\";\n}\n",
                "the text that begins on line 2 goes on after its line: is a quote missing there?",
            ),
            (
                "{\n  a = \"x;\n}\n",
                "the text that begins on line 2 goes on after its line: is a quote missing there?",
            ),
            ("{ a = 1; } }", "it closes nothing: is a bracket missing before, or is this one too many?"),
            ("a = 1;", "a file is one expression: write { … } around attributes"),
            ("# nothing\n", "write { … }"),
            ("{ /* a = 1; }", "the comment that begins here is not closed: `*/` ends it"),
            ("{\n  a = ''x;\n}\n", "the text that begins on line 2 is not closed: `''` ends it"),
            ("{ a = 'x'; }", "a text goes in double quotes: \"…\""),
            ("{ a = $b; }", "a name stands without `$`, but in a text: \"${name}\""),
            ("{ inherit a = 1; }", "`inherit` takes names alone: write NAME = VALUE; without it"),
            ("[ a = 1; ]", "attributes stand in { … }, a list holds values alone"),
            ("{ a = ; }", "a value is missing behind the `=`"),
            ("{ a = if true then 1; }", "an `if` has two branches: if … then … else …"),
            ("in\n{ }\n", "is `let` missing before this?"),
            ("{ a = 1; };\n", "a file is one expression, which no `;` ends"),
            (
                "{\n  a = {\n  };\n};\n  b = 1;\n}\n",
                "the `}` before this closes all that was open: is one too many?",
            ),
            (
                "{\n  a = {\n    b = {\n      c = 1;\n  };\n  d = 1;\n}\n",
                "the `{` on line 3 is not closed before line 5, to judge by where they begin",
            ),
            (
                "{\n  a = {\n    b = 1;\n\n  c = { };\n}\n",
                "the `{` on line 2 is not closed before line 6, to judge by where they begin",
            ),
            (
                "{\n<<<<<<< HEAD\n  a = 1;\n=======\n  a = 2;\n>>>>>>> other\n}\n",
                "git left a conflict here: decide for one side",
            ),
        ] {
            assert_eq!(told(text).1.as_deref(), Some(help), "{text}: {}", told(text).0);
        }
        assert_eq!(told("{ a\u{200b} = 1; }").0, "unexpected U+200B, expected '='");
        assert_eq!(told("{ a = \u{201c}x\u{201d}; }").0.split(',').next(), Some("unexpected '\u{201c}'"));
        assert_eq!(told("{ web server = 1; }").0, "unexpected name, expected '='");
    }
}
