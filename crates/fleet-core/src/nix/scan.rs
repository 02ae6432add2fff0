//! What the tokens of a text tell before it is parsed: whether parsing it is safe, and where its large sets can be divided.

use rnix::SyntaxKind;

use super::syntax::SyntaxFault;

/// How deep a file may be nested before it is not parsed at all (the parser and the tree's own clean-up recurse).
const MAX_NESTING: usize = 4000;

/// In how many brackets a set may stand that is divided: each of them may be as deep as the parser goes.
const MAX_PARTED: usize = 6;

/// How many characters the tokenizer may look ahead in all.
const MAX_LOOKAHEAD: usize = 100_000_000;

/// Refuses what would keep the tokenizer busy for seconds: at each token it looks ahead over everything that could
/// be a path, so that a run of such characters costs the square of its length.
fn check_runs(text: &str) -> Result<(), SyntaxFault> {
    let (mut run, mut cost) = (0usize, 0usize);
    for (at, byte) in text.bytes().enumerate() {
        if byte.is_ascii_alphanumeric() || b"/_.+-<".contains(&byte) {
            run += 1;
            // A run of ordinary length costs nothing worth counting.
            if run > 1000 {
                cost += run;
                if cost > MAX_LOOKAHEAD {
                    return Err(SyntaxFault::TooDeep { start: u32::try_from(at).unwrap_or(u32::MAX) });
                }
            }
        } else {
            run = 0;
        }
    }
    Ok(())
}

/// How many tokens a file may have: ten thousand hosts have a million.
const MAX_TOKENS: usize = 2_000_000;

/// What a text is seen to be by its tokens alone.
pub(super) struct Scan {
    /// How many tokens it has, white space and comments included.
    pub(super) tokens: usize,
    /// How many parentheses open, less those that close.
    pub(super) parentheses: i64,
    /// Its large sets, in the order of [`Large::start`].
    pub(super) large: Vec<Large>,
}

/// A large set. What is here is a guess of where it can be divided: only parsing tells whether it is a set at all.
#[derive(Debug)]
pub(super) struct Large {
    /// Where its first part ends: behind a `;`.
    pub(super) start: usize,
    /// Where each further part ends: behind a `;`, the last one before the closing brace.
    pub(super) ends: Vec<usize>,
}

/// A bracket that is still open.
struct Open {
    kind: SyntaxKind,
    /// How many operators, keywords and arguments stand in it since the last `;` or `,`. Each of them can be one level of
    /// the tree.
    inside: usize,
    /// Where its present part begins.
    part: usize,
    /// Where the parts before that end.
    ends: Vec<usize>,
}

/// Refuses what could exhaust the stack: counts, from the tokens alone, an upper bound of the tree's depth. On the way it
/// notes where sets can be divided into parts of about `part` bytes.
pub(super) fn scan(text: &str, part: usize) -> Result<Scan, SyntaxFault> {
    check_runs(text)?;
    use SyntaxKind as K;
    let opened = |kind, at, inside| Open { kind, inside, part: at, ends: Vec::new() };
    let mut open = vec![opened(K::NODE_ROOT, 0, 0)];
    let mut large = Vec::new();
    let mut depth = 0usize;
    let (mut at, mut tokens, mut parentheses) = (0usize, 0usize, 0i64);
    for (kind, token) in rnix::tokenize(text) {
        tokens += 1;
        parentheses += i64::from(kind == K::TOKEN_L_PAREN) - i64::from(kind == K::TOKEN_R_PAREN);
        if tokens > MAX_TOKENS {
            return Err(SyntaxFault::TooLong { start: u32::try_from(at).unwrap_or(u32::MAX) });
        }
        match kind {
            K::TOKEN_WHITESPACE if foreign_space(token).is_some() => {
                let (offset, space) = foreign_space(token).unwrap_or_default();
                let place = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
                return Err(SyntaxFault::Wrong {
                    message: format!("U+{:04X} is no white space in Nix", u32::from(space)),
                    help: Some("write a plain space".to_owned()),
                    start: place(at + offset),
                    end: place(at + offset + space.len_utf8()),
                });
            }
            K::TOKEN_WHITESPACE | K::TOKEN_COMMENT | K::TOKEN_STRING_CONTENT => {}
            K::TOKEN_L_BRACE | K::TOKEN_L_PAREN | K::TOKEN_L_BRACK | K::TOKEN_INTERPOL_START => {
                open.push(opened(kind, at + token.len(), 1));
                depth += 1;
            }
            K::TOKEN_R_BRACE | K::TOKEN_R_PAREN | K::TOKEN_R_BRACK | K::TOKEN_INTERPOL_END => {
                if open.len() > 1
                    && let Some(mut closed) = open.pop()
                {
                    depth -= closed.inside;
                    if closed.kind == K::TOKEN_L_BRACE && !closed.ends.is_empty() && open.len() <= MAX_PARTED
                    {
                        closed.ends.push(at);
                        large.push(Large { start: closed.ends.remove(0), ends: closed.ends });
                    }
                }
            }
            K::TOKEN_SEMICOLON | K::TOKEN_COMMA => {
                if let Some(open) = open.last_mut() {
                    // The bracket itself stays one level. `let … in` and `with …;` nest without a bracket, and
                    // are bounded by the parser's own limit.
                    depth -= open.inside.saturating_sub(1);
                    open.inside = open.inside.min(1);
                    let end = at + token.len();
                    if kind == K::TOKEN_SEMICOLON && end - open.part >= part {
                        open.ends.push(end);
                        open.part = end;
                    }
                }
            }
            _ => {
                if let Some(open) = open.last_mut() {
                    let argument = matches!(
                        kind,
                        K::TOKEN_IDENT | K::TOKEN_STRING_START | K::TOKEN_INTEGER | K::TOKEN_FLOAT
                    );
                    let is_list = open.kind == K::TOKEN_L_BRACK;
                    if !(is_list && (argument || kind == K::TOKEN_STRING_END)) {
                        open.inside += 1;
                        depth += 1;
                    }
                }
            }
        }
        if depth > MAX_NESTING {
            return Err(SyntaxFault::TooDeep { start: u32::try_from(at).unwrap_or(u32::MAX) });
        }
        at += token.len();
    }
    large.sort_unstable_by_key(|large: &Large| large.start);
    Ok(Scan { tokens, parentheses, large })
}

/// The first character that rnix takes for white space and Nix does not, and its offset.
fn foreign_space(token: &str) -> Option<(usize, char)> {
    token.char_indices().find(|(_, c)| !matches!(c, ' ' | '\t' | '\r' | '\n'))
}
