//! Whether parsing a text is safe, told from its tokens; or that it was, told from the tree.

use rnix::SyntaxKind;
use rowan::{GreenNodeData, NodeOrToken};

use super::syntax::SyntaxFault;

/// How deep a file may be nested before it is not parsed at all (the parser and the tree's own clean-up recurse).
pub(super) const MAX_NESTING: usize = 4000;

/// How many characters the tokenizer may look ahead in all.
const MAX_LOOKAHEAD: usize = 100_000_000;

/// A run of ordinary length costs nothing worth counting.
const SHORT_RUN: usize = 1000;

/// Refuses what would keep the tokenizer busy for seconds: at each token it looks ahead over everything that could
/// be a path, so that a run of such characters costs the square of its length.
pub(super) fn check_runs(text: &str) -> Result<(), SyntaxFault> {
    let bytes = text.as_bytes();
    let in_run = |byte: &u8| byte.is_ascii_alphanumeric() || b"/_.+-<".contains(byte);
    let (mut cost, mut probe) = (0usize, SHORT_RUN);
    // A run that is longer than short has a byte at one of the probes.
    while let Some(byte) = bytes.get(probe) {
        if in_run(byte) {
            let (before, behind) = bytes.split_at(probe);
            let start = probe - before.iter().rev().take_while(|byte| in_run(byte)).count();
            let end = probe + behind.iter().take_while(|byte| in_run(byte)).count();
            for length in SHORT_RUN + 1..=end - start {
                cost += length;
                if cost > MAX_LOOKAHEAD {
                    let at = start + length - 1;
                    return Err(SyntaxFault::TooDeep { start: u32::try_from(at).unwrap_or(u32::MAX) });
                }
            }
            probe = end.max(probe);
        }
        probe += SHORT_RUN;
    }
    Ok(())
}

/// How many tokens a file may have: ten thousand hosts have a million.
pub(super) const MAX_TOKENS: usize = 2_000_000;

/// What a text is seen to be by its tokens.
pub(super) struct Scan {
    /// How many tokens it has, white space and comments included.
    pub(super) tokens: usize,
    /// How many parentheses open, less those that close.
    pub(super) parentheses: i64,
}

/// A bracket that is still open.
struct Open {
    kind: SyntaxKind,
    /// How many operators, keywords and arguments stand in it since the last `;` or `,`. Each of them can be one level of
    /// the tree.
    inside: usize,
}

/// Refuses what could exhaust the stack: counts, from the tokens alone, an upper bound of the tree's depth. The text is one
/// that [`check_runs`] lets pass.
pub(super) fn scan(text: &str) -> Result<Scan, SyntaxFault> {
    use SyntaxKind as K;
    let mut open = vec![Open { kind: K::NODE_ROOT, inside: 0 }];
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
                open.push(Open { kind, inside: 1 });
                depth += 1;
            }
            K::TOKEN_R_BRACE | K::TOKEN_R_PAREN | K::TOKEN_R_BRACK | K::TOKEN_INTERPOL_END => {
                if open.len() > 1
                    && let Some(closed) = open.pop()
                {
                    depth -= closed.inside;
                }
            }
            K::TOKEN_SEMICOLON | K::TOKEN_COMMA => {
                if let Some(open) = open.last_mut() {
                    // The bracket itself stays one level. `let … in` and `with …;` nest without a bracket, and
                    // are bounded by the parser's own limit.
                    depth -= open.inside.saturating_sub(1);
                    open.inside = open.inside.min(1);
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
    Ok(Scan { tokens, parentheses })
}

/// The same of a tree that has no fault, and how deep it is; `None` if it has white space that Nix does not know.
pub(super) fn counted(root: &GreenNodeData) -> Option<(Scan, usize)> {
    const OPENING: u16 = SyntaxKind::TOKEN_L_PAREN as u16;
    const CLOSING: u16 = SyntaxKind::TOKEN_R_PAREN as u16;
    const SPACE: u16 = SyntaxKind::TOKEN_WHITESPACE as u16;
    let (mut tokens, mut parentheses, mut depth) = (0usize, 0i64, 0usize);
    let mut open = vec![root.children()];
    while let Some(children) = open.last_mut() {
        match children.next() {
            None => drop(open.pop()),
            Some(NodeOrToken::Node(node)) => {
                open.push(node.children());
                depth = depth.max(open.len());
            }
            Some(NodeOrToken::Token(token)) => {
                tokens += 1;
                match token.kind().0 {
                    OPENING => parentheses += 1,
                    CLOSING => parentheses -= 1,
                    SPACE if foreign_space(token.text()).is_some() => return None,
                    _ => {}
                }
            }
        }
    }
    Some((Scan { tokens, parentheses }, depth))
}

/// The first character that rnix takes for white space and Nix does not, and its offset.
fn foreign_space(token: &str) -> Option<(usize, char)> {
    let at = token.bytes().position(|byte| !matches!(byte, b' ' | b'\t' | b'\r' | b'\n'))?;
    token.get(at..)?.chars().next().map(|space| (at, space))
}
