//! What was most likely meant where a text stops being Nix.

use rnix::SyntaxKind as K;

/// A token, and where it is.
struct Token {
    kind: K,
    start: usize,
    end: usize,
}

/// What stands before a place.
#[derive(Default)]
struct Before {
    /// White space and comments left out.
    tokens: Vec<Token>,
    /// Brackets, `let` and quotes that are still open.
    open: Vec<(K, usize)>,
    /// The first text in double quotes that goes on after its line.
    long: Option<usize>,
}

/// What would be right at byte `at`, where one of these tokens was expected and something else is; none is named at the
/// end of the text and of the expression.
pub(super) fn of(text: &str, at: usize, wanted: &[K]) -> Option<String> {
    let line = |at: usize| text[..at].matches('\n').count() + 1;
    let line_start = text[..at].rfind('\n').map_or(0, |end| end + 1);
    if ["<<<<<<<", "=======", ">>>>>>>"].iter().any(|mark| text[line_start..].starts_with(mark)) {
        return Some("git left a conflict here: decide for one side".to_owned());
    }
    let before = Before::of(text, at);
    if let Some(quote) = before.long {
        let line = line(quote);
        return Some(format!(
            "the text that begins on line {line} goes on after its line: is a quote missing there?"
        ));
    }
    // At the end of the text only blanks are left.
    let found = text[at..].trim_ascii_start().chars().next();
    let starts = |with: &str| text[at..].starts_with(with);
    let is_word =
        |word: &str| text[at..].strip_prefix(word).is_some_and(|rest| !rest.starts_with(is_of_name));
    let innermost = before.open.last();
    let unlike = if found.is_none() { unlike(text) } else { None };
    let help = match found {
        None if before.open.is_empty() => "write { … }".to_owned(),
        Some(c) if is_invisible(c) => "nobody sees it: take it out".to_owned(),
        Some('\u{201c}'..='\u{201f}' | '\u{2018}'..='\u{201b}' | '\u{ab}' | '\u{bb}') => {
            "a text goes in straight quotes: \"…\"".to_owned()
        }
        Some('/') if starts("/*") => "the comment that begins here is not closed: `*/` ends it".to_owned(),
        _ if innermost
            .is_some_and(|(kind, at)| *kind == K::TOKEN_STRING_START && text[*at..].starts_with("''")) =>
        {
            format!("the text that begins on line {} is not closed: `''` ends it", line(innermost?.1))
        }
        Some('\'') => "a text goes in double quotes: \"…\"".to_owned(),
        Some('$') => "a name stands without `$`, but in a text: \"${name}\"".to_owned(),
        Some('=') if before.inherits() => {
            "`inherit` takes names alone: write NAME = VALUE; without it".to_owned()
        }
        Some('=') if innermost.is_some_and(|(kind, _)| *kind == K::TOKEN_L_BRACK) => {
            "attributes stand in { … }, a list holds values alone".to_owned()
        }
        Some(';') if before.tokens.last().is_some_and(|token| token.kind == K::TOKEN_ASSIGN) => {
            "a value is missing behind the `=`".to_owned()
        }
        Some(_) if wanted == [K::TOKEN_ELSE] => "an `if` has two branches: if … then … else …".to_owned(),
        Some(_) if is_word("in") && before.open.is_empty() => "is `let` missing before this?".to_owned(),
        Some(',') if innermost.is_some_and(|(kind, _)| *kind == K::TOKEN_L_BRACK) => {
            "blanks divide the elements of a list, not commas".to_owned()
        }
        Some(',') if wanted.contains(&K::TOKEN_SEMICOLON) => "`;` ends an attribute, not `,`".to_owned(),
        _ if wanted.contains(&K::TOKEN_ASSIGN) => "an attribute is written NAME = VALUE;".to_owned(),
        Some(_) if wanted.contains(&K::TOKEN_SEMICOLON) => before.semicolon(text, at, line),
        Some('/') if starts("//") && wanted.contains(&K::TOKEN_IDENT) => {
            "a comment begins with `#`".to_owned()
        }
        Some(c) if c.is_ascii_digit() && wanted.contains(&K::TOKEN_IDENT) => {
            let name = text[at..].split(|c: char| !is_of_name(c)).next()?;
            format!("a name that begins with a digit goes in quotes: \"{name}\"")
        }
        Some('{' | '[' | '(' | '"') if innermost.is_some_and(|(kind, _)| *kind == K::TOKEN_LET) => {
            "is `in` missing before this?".to_owned()
        }
        Some(';' | '}') if innermost.is_some_and(|(kind, _)| *kind == K::TOKEN_L_BRACK) => {
            format!("the `[` on line {} is not closed before this", line(innermost?.1))
        }
        Some(_) if wanted == [K::TOKEN_R_PAREN] => {
            let paren = before.open.iter().rev().find(|(kind, _)| *kind == K::TOKEN_L_PAREN)?;
            format!("the `(` on line {} is not closed before this", line(paren.1))
        }
        None if unlike.is_some() => {
            let (opened, closed) = unlike?;
            let (opened, closed) = (line(opened), line(closed));
            format!(
                "the `{{` on line {opened} is not closed before line {closed}, to judge by where they begin"
            )
        }
        None => {
            let (_, start) = innermost?;
            let bracket = text[*start..].split(char::is_whitespace).next()?.get(..1)?;
            match bracket {
                "l" => "`let` needs an `in` and what it is for".to_owned(),
                bracket => format!("the `{bracket}` on line {} is not closed", line(*start)),
            }
        }
        Some('}' | ']' | ')') if wanted.is_empty() => {
            "it closes nothing: is a bracket missing before, or is this one too many?".to_owned()
        }
        Some('=') if wanted.is_empty() => {
            "a file is one expression: write { … } around attributes".to_owned()
        }
        Some(';') if wanted.is_empty() && text[at + 1..].trim_ascii().is_empty() => {
            "a file is one expression, which no `;` ends".to_owned()
        }
        Some(_)
            if wanted.is_empty()
                && before.tokens.last().is_some_and(|last| last.kind == K::TOKEN_R_BRACE) =>
        {
            "the `}` before this closes all that was open: is one too many?".to_owned()
        }
        _ => return None,
    };
    Some(help)
}

/// Where a `{` is, and the `}` that takes its part although it begins a line further to the left than the line of the
/// `{` does: the first pair of them.
fn unlike(text: &str) -> Option<(usize, usize)> {
    let mut open = Vec::new();
    // Where a token begins and its line does, and how far that is indented, once something stands in it.
    let (mut start, mut line, mut indent) = (0, 0, None);
    for (kind, token) in rnix::tokenize(text) {
        if kind != K::TOKEN_WHITESPACE {
            indent.get_or_insert(start - line);
        }
        match kind {
            K::TOKEN_L_BRACE | K::TOKEN_INTERPOL_START => open.push((start, line, indent)),
            K::TOKEN_R_BRACE | K::TOKEN_INTERPOL_END => {
                let (opened, line_of_opened, of_opened) = open.pop()?;
                let begins_it = indent == Some(start - line);
                if begins_it && line != line_of_opened && indent < of_opened {
                    return Some((opened, start));
                }
            }
            _ => {}
        }
        if let Some((before, rest)) = token.rsplit_once('\n') {
            line = start + before.len() + 1;
            let blanks = rest.len() - rest.trim_start_matches([' ', '\t']).len();
            indent = (blanks < rest.len()).then_some(blanks);
        }
        start += token.len();
    }
    None
}

fn is_of_name(c: char) -> bool {
    c.is_alphanumeric() || "-_".contains(c)
}

/// Whether a character shows nothing, or changes how others are shown.
pub(super) fn is_invisible(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

impl Before {
    fn of(text: &str, at: usize) -> Before {
        let mut before = Before::default();
        let mut start = 0;
        for (kind, token) in rnix::tokenize(text) {
            let end = start + token.len();
            // The text whose quote is open is behind the place, too.
            let quoted =
                before.open.last().filter(|(kind, _)| *kind == K::TOKEN_STRING_START).map(|(_, at)| *at);
            if start >= at && quoted.is_none() {
                break;
            }
            match kind {
                K::TOKEN_L_BRACE
                | K::TOKEN_L_BRACK
                | K::TOKEN_L_PAREN
                | K::TOKEN_INTERPOL_START
                | K::TOKEN_STRING_START
                | K::TOKEN_LET => before.open.push((kind, start)),
                K::TOKEN_R_BRACE
                | K::TOKEN_R_BRACK
                | K::TOKEN_R_PAREN
                | K::TOKEN_INTERPOL_END
                | K::TOKEN_STRING_END
                | K::TOKEN_IN => drop(before.open.pop()),
                _ => {}
            }
            let of_text = matches!(kind, K::TOKEN_STRING_CONTENT | K::TOKEN_ERROR);
            // Its line ends as one does behind a closing quote.
            let ends_like_code = |line: &str| line.trim_end().ends_with([';', ']', '}', ')']);
            if let Some(quote) = quoted.filter(|quote| of_text && text[*quote..].starts_with('"'))
                && token.split_once('\n').is_some_and(|(line, _)| ends_like_code(line))
            {
                before.long.get_or_insert(quote);
            }
            if start < at && !matches!(kind, K::TOKEN_WHITESPACE | K::TOKEN_COMMENT) {
                before.tokens.push(Token { kind, start, end });
            }
            start = end;
        }
        before
    }

    /// Whether the names of an `inherit` are what comes last.
    fn inherits(&self) -> bool {
        let mut before = self.tokens.iter().rev().skip_while(|token| token.kind == K::TOKEN_IDENT);
        before.next().is_some_and(|token| token.kind == K::TOKEN_INHERIT)
    }

    /// Where a `;` is missing.
    fn semicolon(&self, text: &str, at: usize, line: impl Fn(usize) -> usize) -> String {
        let line_start = text[..at].rfind('\n').map_or(0, |end| end + 1);
        // With `=` the name before it belongs to what comes next.
        let next = text[at..].starts_with('=');
        let on_line = self.tokens.iter().rev().take_while(|token| token.start >= line_start).count();
        let earlier = match on_line {
            0 => self.tokens.last(),
            _ if next => self.tokens.iter().rev().nth(on_line),
            _ => None,
        };
        match (earlier, self.tokens.last()) {
            // One line that holds more than this attribute tells nothing.
            (Some(last), _) if !matches!(last.kind, K::TOKEN_SEMICOLON | K::TOKEN_L_BRACE) => {
                format!("is a `;` missing at the end of line {}?", line(last.end))
            }
            (_, Some(name)) if next && name.kind == K::TOKEN_IDENT => {
                format!("is a `;` missing before `{}`?", &text[name.start..name.end])
            }
            _ => "`;` ends each attribute, the last one too".to_owned(),
        }
    }
}
