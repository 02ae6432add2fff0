//! YAML with the place of everything: a tree over `saphyr-parser`'s events whose nodes know the bytes they came
//! from. Enough to read `.sops.yaml` and the `sops` block of a secret, and to change a few bytes of either.

mod advice;
mod build;
mod fault;
mod joined;

use std::collections::HashMap;

use fleet_core::{Error, Result};
use saphyr_parser::{Event, Parser, ScalarStyle};

pub(crate) use self::fault::{in_file, in_secret, wrong};
use self::{
    build::{Builder, Offsets, Places},
    fault::scan_error,
    joined::brackets_joined,
};

/// Deeper nesting than any file of ours has; keeps the recursion here bounded.
const DEEPEST: usize = 100;

/// A file's documents.
#[derive(Debug, Clone)]
pub(crate) struct Stream {
    pub(crate) documents: Vec<Node>,
    anchored: HashMap<usize, Node>,
}

/// A node and where it is.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) data: Data,
    /// First byte: of the anchor where a scalar has one, of the first `-`, key, `[` or `{` of a collection.
    pub(crate) start: usize,
    /// One past the last byte, without blanks behind.
    pub(crate) end: usize,
    /// First byte of a scalar's own text, behind anchor and tag.
    pub(crate) text_start: usize,
    /// Column of `start`, in characters.
    pub(crate) column: usize,
    /// Line of `start`, from 1.
    pub(crate) line: usize,
    /// `&name`.
    pub(crate) anchor: Option<String>,
    /// Written in one of the flow styles, or a quoted or block scalar.
    pub(crate) flow: bool,
}

#[derive(Debug, Clone)]
pub(crate) enum Data {
    Scalar(String, ScalarStyle),
    Seq(Vec<Node>),
    Map(Vec<(Node, Node)>),
    Alias { id: usize, name: String },
}

impl Node {
    pub(crate) fn items(&self) -> &[Node] {
        match &self.data {
            Data::Seq(items) => items,
            _ => &[],
        }
    }

    pub(crate) fn entries(&self) -> &[(Node, Node)] {
        match &self.data {
            Data::Map(entries) => entries,
            _ => &[],
        }
    }

    pub(crate) fn scalar(&self) -> Option<&str> {
        match &self.data {
            Data::Scalar(text, _) => Some(text),
            _ => None,
        }
    }

    /// The value of a key of this mapping itself.
    pub(crate) fn get(&self, key: &str) -> Option<&Node> {
        self.entries().iter().find(|(k, _)| k.scalar() == Some(key)).map(|(_, v)| v)
    }

    /// A fault at this node.
    pub(crate) fn wrong(&self, message: impl Into<String>) -> Error {
        wrong(self.line, self.column, message)
    }

    /// Whether it stands for nothing: null, empty text or an empty collection.
    pub(crate) fn is_nothing(&self) -> bool {
        match &self.data {
            Data::Scalar(text, ScalarStyle::Plain) => {
                matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL")
            }
            Data::Scalar(text, _) => text.is_empty(),
            Data::Seq(items) => items.is_empty(),
            Data::Map(entries) => entries.is_empty(),
            Data::Alias { .. } => false,
        }
    }
}

impl Stream {
    /// Parses `text`; errors carry line and column but no text of the file.
    pub(crate) fn parse(text: &str) -> Result<Stream> {
        Stream::parse_as(text, text).or_else(|error| {
            // YAML wants a list in brackets to be indented deeper than its key, and saphyr wants a blank behind a
            // colon. Sops does not, nor do people.
            let joined = brackets_joined(text);
            if joined == text { Err(error) } else { Stream::parse_as(&joined, text).map_err(|_| error) }
        })
    }

    /// Parses `text`, of which each byte stands for the one at its place in `original`.
    fn parse_as(text: &str, original: &str) -> Result<Stream> {
        let (offsets, places) = (Offsets::new(text), Places::new(original));
        let mut builder = Builder { text, offsets, places, anchored: HashMap::new() };
        let mut documents = Vec::new();
        let mut events = Parser::new_from_str(text);
        while let Some(event) = events.next_event() {
            match event.map_err(|e| scan_error(&e))? {
                (Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd | Event::Nothing, _) => {}
                (Event::StreamEnd, _) => break,
                (event, span) => documents.push(builder.node(event, span, &mut events, 0)?),
            }
        }
        Ok(Stream { documents, anchored: builder.anchored })
    }

    /// What an alias stands for; anything else stands for itself.
    pub(crate) fn resolve<'a>(&'a self, node: &'a Node) -> &'a Node {
        match &node.data {
            // An alias can not stand for an alias.
            Data::Alias { id, .. } => self.anchored.get(id).unwrap_or(node),
            _ => node,
        }
    }

    /// The value of a key of a mapping, merge keys (`<<`) included, aliases resolved.
    pub(crate) fn get<'a>(&'a self, map: &'a Node, key: &str) -> Option<&'a Node> {
        self.written(map, key).map(|value| self.resolve(value))
    }

    /// As [`Stream::get`], an alias as it is written.
    pub(crate) fn written<'a>(&'a self, map: &'a Node, key: &str) -> Option<&'a Node> {
        self.written_within(map, key, 0)
    }

    fn written_within<'a>(&'a self, map: &'a Node, key: &str, depth: usize) -> Option<&'a Node> {
        let map = self.resolve(map);
        if depth > DEEPEST {
            return None;
        }
        if let Some(value) = map.get(key) {
            return Some(value);
        }
        // In quotes it is a name like others.
        let is_merge = |key: &Node| key.scalar() == Some("<<") && !key.flow;
        let (_, merged) = map.entries().iter().find(|(key, _)| is_merge(key))?;
        let merged = self.resolve(merged);
        match &merged.data {
            Data::Seq(several) => several.iter().find_map(|one| self.written_within(one, key, depth + 1)),
            _ => self.written_within(merged, key, depth + 1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_know_their_bytes_beside_other_alphabets() {
        let text = "# ключи\nkeys:\n  - &ädmin \"age1a\" # é\n  - hosts: &all\n      - &x age1x\n      - *ädmin\n    flow: &f [*x, 'q' ]\n";
        let stream = Stream::parse(text).unwrap();
        let keys = stream.documents[0].get("keys").unwrap();
        let admin = &keys.items()[0];
        assert_eq!(&text[admin.start..admin.end], "&ädmin \"age1a\"");
        assert_eq!(&text[admin.text_start..admin.end], "\"age1a\"");
        assert_eq!(admin.anchor.as_deref(), Some("ädmin"));
        let hosts = keys.items()[1].get("hosts").unwrap();
        assert_eq!(hosts.anchor.as_deref(), Some("all"));
        assert_eq!(hosts.column, 6);
        assert_eq!(&text[hosts.start..hosts.end], "- &x age1x\n      - *ädmin");
        assert_eq!(stream.resolve(&hosts.items()[1]).scalar(), Some("age1a"));
        let flow = keys.items()[1].get("flow").unwrap();
        assert!(flow.flow);
        assert_eq!((flow.anchor.as_deref(), &text[flow.start..flow.end]), (Some("f"), "[*x, 'q' ]"));
    }

    #[test]
    fn places_are_those_of_the_text_as_it_is_written() {
        // No deeper than the key: read with all of it on one line.
        let text = "- a: [\n  x, # é\n  {b: 'é', c: y},\n  &l [\n    z\n]\n]\n";
        assert!(Stream::parse_as(text, text).is_err());
        let stream = Stream::parse(text).unwrap();
        let items = stream.documents[0].items()[0].get("a").unwrap().items();
        let place = |node: &Node| (node.line, node.column);
        assert_eq!(place(&items[0]), (2, 2));
        assert_eq!(place(&items[1]), (3, 2));
        assert_eq!(place(items[1].get("c").unwrap()), (3, 14));
        assert_eq!(place(&items[2]), (4, 5));
        assert_eq!(place(&items[2].items()[0]), (5, 4));
    }

    #[test]
    fn lists_begin_at_their_first_dash() {
        let text = "a:\n- x\n- y\nb:\n  - - z\n";
        let stream = Stream::parse(text).unwrap();
        let a = stream.documents[0].get("a").unwrap();
        assert_eq!((a.column, &text[a.start..a.end]), (0, "- x\n- y"));
        let b = stream.documents[0].get("b").unwrap();
        assert_eq!((b.column, b.items()[0].column, &text[b.start..b.end]), (2, 4, "- - z"));
    }

    #[test]
    fn merge_keys_and_repeated_anchors() {
        let text = "a: &t 1\nb: &t 2\nc: *t\nbase: &base {x: 7}\nuse:\n  <<: *base\n  y: 8\n";
        let stream = Stream::parse(text).unwrap();
        let root = &stream.documents[0];
        assert_eq!(stream.get(root, "c").unwrap().scalar(), Some("2"));
        assert_eq!(stream.get(stream.get(root, "use").unwrap(), "x").unwrap().scalar(), Some("7"));
        assert!(Stream::parse("a: [1, 2").is_err());
        assert!(Stream::parse(&"[".repeat(5000)).is_err());
    }
}
