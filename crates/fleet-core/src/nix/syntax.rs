//! rnix's syntax tree, walked without its parent pointers: kinds, texts and absolute offsets.

mod advice;
mod faults;

use rnix::{NixLanguage, SyntaxKind};
use rowan::{GreenNode, GreenNodeData, GreenTokenData, Language, NodeOrToken};

use super::{
    parts::{self, PART, Part, Parted},
    scan::{Scan, check_runs, scan},
};

/// Why a text has no syntax tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum SyntaxFault {
    /// It is not Nix.
    Wrong { message: String, help: Option<String>, start: u32, end: u32 },
    /// Nix reads this path, the parser does not.
    Path { start: u32 },
    /// It is nested deeper, or runs on longer, than we go.
    TooDeep { start: u32 },
    /// It has more tokens than we read.
    TooLong { start: u32 },
}

/// A text that is not parsed yet.
pub(super) struct Unparsed<'t> {
    text: &'t str,
    /// Its large sets, if it has any.
    pub(super) parted: Option<Parted<'t>>,
}

impl<'t> Unparsed<'t> {
    /// Looks at a text. Sets much larger than `part` bytes are noted: they can be parsed part by part.
    pub(super) fn new(text: &'t str, part: usize) -> Result<Unparsed<'t>, SyntaxFault> {
        if text.starts_with('\u{feff}') {
            let message = "a byte order mark, which Nix takes for no text: save the file without one";
            return Err(SyntaxFault::Wrong { message: message.to_owned(), help: None, start: 0, end: 3 });
        }
        check_runs(text)?;
        Ok(Unparsed { text, parted: Parted::new(text, part) })
    }

    /// Parses it. Call it on a thread with a large stack: see [`on_large_stack`].
    pub(super) fn tree(&self) -> Result<Tree, SyntaxFault> {
        if let Some(parted) = &self.parted
            && let Some(green) = parted.whole()
        {
            return Ok(Tree { green, tokens: parted.tokens() });
        }
        let Scan { tokens, parentheses } = scan(self.text)?;
        let parse = rnix::Root::parse(self.text);
        let tree = Tree { green: parse.syntax().green().to_owned(), tokens };
        // Each that opens takes one token for the one that closes it, and nothing else takes a `)`: where there are as many
        // of these as of those, and no fault, each is closed by one.
        if parentheses == 0 && parse.errors().is_empty() {
            return Ok(tree);
        }
        faults::first(parse.errors(), tree.root(), self.text).map_or(Ok(tree), Err)
    }
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
        Unparsed::new(text, PART)?.tree()
    }

    /// The tree of another text, where that is known from this one's: `before` is this one's.
    pub(super) fn changed(&self, before: &str, after: &str) -> Option<Tree> {
        check_runs(after).ok()?;
        let green = parts::changed(before, &self.green, after, PART)?;
        Some(Tree { green, tokens: self.tokens })
    }

    /// How many tokens it has, white space and comments included, more or less.
    pub(super) fn tokens(&self) -> usize {
        self.tokens
    }

    /// The root node.
    pub(super) fn root(&self) -> Node<'_> {
        Node::root(&self.green)
    }
}

/// Runs `work` on a thread whose stack fits the depth limits of parser and evaluator.
pub(super) fn on_large_stack<T: Send>(work: impl FnOnce() -> T + Send) -> std::io::Result<T> {
    std::thread::scope(|scope| {
        let thread = large_stack().spawn_scoped(scope, work)?;
        match thread.join() {
            Ok(value) => Ok(value),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Such a thread.
pub(super) fn large_stack() -> std::thread::Builder {
    std::thread::Builder::new().name("nix".to_owned()).stack_size(STACK)
}

/// Address space only: the kernel gives memory for what is used.
const STACK: usize = 256 << 20;

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
    /// The root of a tree.
    pub(super) fn root(green: &'a GreenNode) -> Node<'a> {
        Node { green, start: 0 }
    }

    /// The set that a part of a set is.
    pub(super) fn part(part: &'a Part) -> Node<'a> {
        // A file is at most 4 GiB.
        Node { green: &part.green, start: u32::try_from(part.start).unwrap_or(u32::MAX) }
    }

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
    }
}
