//! rnix's syntax tree, walked without its parent pointers: kinds, texts and absolute offsets.

use rnix::{NixLanguage, ParseError, SyntaxKind};
use rowan::{GreenNode, GreenNodeData, GreenTokenData, Language, NodeOrToken};

use super::{
    parts::{self, PART},
    scan::{Scan, scan},
};

/// Why a text has no syntax tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum SyntaxFault {
    /// It is not Nix.
    Wrong { message: String, start: u32, end: u32 },
    /// It is nested deeper, or runs on longer, than we go.
    TooDeep { start: u32 },
    /// It has more tokens than we read.
    TooLong { start: u32 },
}

/// A parsed file.
#[derive(Debug, Clone)]
pub(super) struct Tree {
    green: GreenNode,
    tokens: usize,
}

impl Tree {
    /// Parses a text. Call it on a thread with a large stack: see [`on_large_stack`].
    pub(super) fn parse(text: &str) -> Result<Tree, SyntaxFault> {
        if text.starts_with('\u{feff}') {
            let message = "a byte order mark, which Nix takes for no text: save the file without one";
            return Err(SyntaxFault::Wrong { message: message.to_owned(), start: 0, end: 3 });
        }
        let Scan { tokens, large } = scan(text, PART)?;
        if let Some(green) = parts::parse(text, &large) {
            return Ok(Tree { green, tokens });
        }
        let parse = rnix::Root::parse(text);
        if let Some(fault) = first_fault(parse.errors(), text) {
            return Err(fault);
        }
        Ok(Tree { green: parse.syntax().green().to_owned(), tokens })
    }

    /// How many tokens it has, white space and comments included.
    pub(super) fn tokens(&self) -> usize {
        self.tokens
    }

    /// The root node.
    pub(super) fn root(&self) -> Node<'_> {
        Node { green: &self.green, start: 0 }
    }
}

/// Runs `work` on a thread whose stack fits the depth limits of parser and evaluator.
pub(super) fn on_large_stack<T: Send>(work: impl FnOnce() -> T + Send) -> std::io::Result<T> {
    std::thread::scope(|scope| {
        let thread =
            std::thread::Builder::new().name("nix".to_owned()).stack_size(STACK).spawn_scoped(scope, work)?;
        match thread.join() {
            Ok(value) => Ok(value),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Address space only: the kernel gives memory for what is used.
const STACK: usize = 256 << 20;

fn first_fault(errors: &[ParseError], text: &str) -> Option<SyntaxFault> {
    let end_of_text = u32::try_from(text.trim_end().len()).unwrap_or(u32::MAX);
    let describe = |error: &ParseError| -> SyntaxFault {
        let at = |range: &rowan::TextRange, message: String| {
            // The parser skips over everything up to what it can use again: point at where that begins.
            let (start, end) = (u32::from(range.start()), u32::from(range.end()));
            let found = text.get(start as usize..end as usize).unwrap_or_default();
            let lead = u32::try_from(found.len() - found.trim_start().len()).unwrap_or(0);
            let word = found.split_whitespace().next().unwrap_or_default();
            let width = u32::try_from(word.len()).unwrap_or(0).max(1);
            SyntaxFault::Wrong { message, start: start + lead, end: start + lead + width }
        };
        let eof = |message: String| SyntaxFault::Wrong { message, start: end_of_text, end: end_of_text };
        match error {
            ParseError::UnexpectedExtra(range) => {
                at(range, "unexpected text after the end of the expression".to_owned())
            }
            ParseError::UnexpectedWanted(found, range, wanted) => {
                at(range, format!("unexpected {}, expected {}", name(*found), names(wanted)))
            }
            ParseError::UnexpectedDoubleBind(range) => at(range, "the argument is bound twice".to_owned()),
            ParseError::DuplicatedArgs(range, name) => {
                at(range, format!("the argument '{name}' is there twice"))
            }
            ParseError::UnexpectedEOF => eof("unexpected end of the file".to_owned()),
            ParseError::UnexpectedEOFWanted(wanted) => {
                eof(format!("unexpected end of the file, expected {}", names(wanted)))
            }
            ParseError::RecursionLimitExceeded => SyntaxFault::TooDeep { start: 0 },
            ParseError::Unexpected(range) => at(range, "unexpected text".to_owned()),
            _ => eof("this is not Nix".to_owned()),
        }
    };
    let start = |fault: &SyntaxFault| match fault {
        SyntaxFault::Wrong { start, .. } => *start,
        SyntaxFault::TooDeep { .. } | SyntaxFault::TooLong { .. } => 0,
    };
    errors.iter().map(describe).min_by_key(start)
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

/// A node with its absolute offset.
#[derive(Clone, Copy)]
pub(super) struct Node<'a> {
    green: &'a GreenNodeData,
    start: u32,
}

/// A token with its absolute offset.
#[derive(Clone, Copy)]
pub(super) struct Token<'a> {
    green: &'a GreenTokenData,
    /// First byte.
    pub(super) start: u32,
}

impl<'a> Token<'a> {
    pub(super) fn kind(self) -> SyntaxKind {
        NixLanguage::kind_from_raw(self.green.kind())
    }

    pub(super) fn text(self) -> &'a str {
        self.green.text()
    }

    pub(super) fn end(self) -> u32 {
        self.start + u32::from(self.green.text_len())
    }
}

/// A node or a token.
pub(super) enum Child<'a> {
    Node(Node<'a>),
    Token(Token<'a>),
}

impl<'a> Node<'a> {
    pub(super) fn kind(self) -> SyntaxKind {
        NixLanguage::kind_from_raw(self.green.kind())
    }

    /// First byte.
    pub(super) fn start(self) -> u32 {
        self.start
    }

    /// The byte after the last.
    pub(super) fn end(self) -> u32 {
        self.start + u32::from(self.green.text_len())
    }

    /// Everything directly in it, in order.
    pub(super) fn children(self) -> impl Iterator<Item = Child<'a>> {
        let mut at = self.start;
        self.green.children().map(move |child| match child {
            NodeOrToken::Node(green) => {
                let node = Node { green, start: at };
                at += u32::from(green.text_len());
                Child::Node(node)
            }
            NodeOrToken::Token(green) => {
                let token = Token { green, start: at };
                at += u32::from(green.text_len());
                Child::Token(token)
            }
        })
    }

    /// The nodes directly in it.
    pub(super) fn nodes(self) -> impl Iterator<Item = Node<'a>> {
        self.children().filter_map(|child| match child {
            Child::Node(node) => Some(node),
            Child::Token(_) => None,
        })
    }

    /// The tokens directly in it, without whitespace and comments.
    pub(super) fn tokens(self) -> impl Iterator<Item = Token<'a>> {
        self.children().filter_map(|child| match child {
            Child::Token(token)
                if !matches!(token.kind(), SyntaxKind::TOKEN_WHITESPACE | SyntaxKind::TOKEN_COMMENT) =>
            {
                Some(token)
            }
            _ => None,
        })
    }

    /// The first token of this kind directly in it.
    pub(super) fn token(self, kind: SyntaxKind) -> Option<Token<'a>> {
        self.tokens().find(|token| token.kind() == kind)
    }

    /// The same without parentheses around it.
    pub(super) fn unparenthesized(self) -> Node<'a> {
        let mut node = self;
        while node.kind() == SyntaxKind::NODE_PAREN {
            match node.nodes().next() {
                Some(inner) => node = inner,
                None => break,
            }
        }
        node
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_expected_is_told_in_words() {
        let told = |text: &str| match Tree::parse(text).unwrap_err() {
            SyntaxFault::Wrong { message, .. } => message,
            other => format!("{other:?}"),
        };
        for text in
            ["{ a = ; }", "{ a = 1; b. = 2; }", "{ a = 1", "{ managed = { web = { vmid = 1; }; }", "[ 1"]
        {
            let message = told(text);
            for odd in [" or or", "cur pos", "or,", "brack", "brace"] {
                assert!(!message.contains(odd), "{text}: {message}");
            }
        }
        assert_eq!(
            names(&[SyntaxKind::TOKEN_IDENT, SyntaxKind::TOKEN_OR, SyntaxKind::TOKEN_CUR_POS]),
            "a name"
        );
    }
}
