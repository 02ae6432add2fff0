//! Just enough of a POSIX shell's grammar for the commands that the tools send.

/// How a command is tied to the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Join {
    /// `;` or a new line.
    Always,
    /// `&&`
    And,
    /// `||`
    Or,
    /// `|`
    Pipe,
}

/// One simple command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Simple {
    pub(super) join: Join,
    pub(super) words: Vec<String>,
    /// Where standard output goes; `/dev/null` for nowhere.
    pub(super) output: Option<String>,
    /// Whether the output is added to the file's end.
    pub(super) append: bool,
    /// Whether standard output goes where standard error does.
    pub(super) to_stderr: bool,
    /// Whether standard error is thrown away.
    pub(super) quiet: bool,
}

fn simple(join: Join) -> Simple {
    Simple { join, words: Vec::new(), output: None, append: false, to_stderr: false, quiet: false }
}

/// Splits a script into simple commands.
pub(super) fn parse(script: &str, variable: &dyn Fn(&str) -> String) -> Vec<Simple> {
    let mut commands = Vec::new();
    let mut current = simple(Join::Always);
    let mut word: Option<String> = None;
    let mut chars = script.chars().peekable();
    let mut redirect: Option<(bool, bool)> = None;
    let end_word = |word: &mut Option<String>, redirect: &mut Option<(bool, bool)>, current: &mut Simple| {
        let Some(text) = word.take() else { return };
        match redirect.take() {
            None => current.words.push(text),
            Some((true, _)) => current.quiet = true,
            Some((false, append)) => {
                current.output = Some(text);
                current.append = append;
            }
        }
    };
    while let Some(c) = chars.next() {
        match c {
            '\'' => {
                let text = word.get_or_insert_default();
                for c in chars.by_ref().take_while(|c| *c != '\'') {
                    text.push(c);
                }
            }
            '"' => {
                let text = word.get_or_insert_default();
                while let Some(c) = chars.next() {
                    match c {
                        '"' => break,
                        '\\' => text.extend(chars.next()),
                        '$' => text.push_str(&expand(&mut chars, variable)),
                        c => text.push(c),
                    }
                }
            }
            '\\' => {
                if let Some(c) = chars.next().filter(|c| *c != '\n') {
                    word.get_or_insert_default().push(c);
                }
            }
            '$' => {
                let text = expand(&mut chars, variable);
                word.get_or_insert_default().push_str(&text);
            }
            '#' if word.is_none() => while chars.next_if(|c| *c != '\n').is_some() {},
            '>' => {
                let fd = word.take();
                let is_err = fd.as_deref() == Some("2");
                if let Some(text) = fd.filter(|t| t != "1" && t != "2") {
                    current.words.push(text);
                }
                let append = chars.next_if_eq(&'>').is_some();
                if chars.next_if_eq(&'&').is_some() {
                    // `2>&1`: both outputs are kept apart here; nothing to do.
                    while let Some(to) = chars.next_if(char::is_ascii_digit) {
                        current.to_stderr |= to == '2' && !is_err;
                    }
                } else {
                    redirect = Some((is_err, append));
                }
            }
            '<' => {
                // A here-document or file as input is not needed by any command.
                end_word(&mut word, &mut redirect, &mut current);
            }
            ';' | '\n' | '&' | '|' => {
                end_word(&mut word, &mut redirect, &mut current);
                let doubled = matches!(c, '&' | '|') && chars.next_if_eq(&c).is_some();
                let join = match (c, doubled) {
                    ('&', true) => Join::And,
                    ('|', true) => Join::Or,
                    ('|', false) => Join::Pipe,
                    _ => Join::Always,
                };
                if current.words.is_empty() {
                    current.join = if current.join == Join::Always { join } else { current.join };
                } else {
                    commands.push(std::mem::replace(&mut current, simple(join)));
                }
            }
            c if c.is_whitespace() => end_word(&mut word, &mut redirect, &mut current),
            c => word.get_or_insert_default().push(c),
        }
    }
    end_word(&mut word, &mut redirect, &mut current);
    if !current.words.is_empty() {
        commands.push(current);
    }
    commands
}

fn expand(chars: &mut std::iter::Peekable<std::str::Chars<'_>>, variable: &dyn Fn(&str) -> String) -> String {
    let braces = chars.next_if_eq(&'{').is_some();
    let mut name = String::new();
    while let Some(c) = chars.next_if(|c| c.is_ascii_alphanumeric() || *c == '_') {
        name.push(c);
    }
    if braces {
        while chars.next_if(|c| *c != '}').is_some() {}
        chars.next();
    }
    if name.is_empty() { "$".to_owned() } else { variable(&name) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(script: &str) -> Vec<Vec<String>> {
        parse(script, &|name| format!("<{name}>")).into_iter().map(|c| c.words).collect()
    }

    #[test]
    fn quotes_and_joins() {
        assert_eq!(words("echo 'a b'\"$HOME c\" d\\ e"), [["echo", "a b<HOME> c", "d e"]]);
        assert_eq!(
            words("true && cat x 2>/dev/null; false || exit 3 # no"),
            [vec!["true"], vec!["cat", "x"], vec!["false"], vec!["exit", "3"]]
        );
        let commands = parse("a > /tmp/x 2>&1 && b | c", &|_| String::new());
        assert_eq!(commands[0].output.as_deref(), Some("/tmp/x"));
        assert_eq!(
            commands.iter().map(|c| c.join).collect::<Vec<_>>(),
            [Join::Always, Join::And, Join::Pipe]
        );
    }
}
