//! YAML with the place of everything: a tree over `saphyr-parser`'s events whose nodes know the bytes they came
//! from. Enough to read `.sops.yaml` and the `sops` block of a secret, and to change a few bytes of either.

use std::{collections::HashMap, path::Path};

use fleet_core::{Error, Result, faults::Fault, nix::source::Location};
use saphyr_parser::{Event, Parser, ScalarStyle, Span};
use serde::Deserialize;

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
        let mut builder = Builder { text, original, offsets: Offsets::new(text), anchored: HashMap::new() };
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
        let merged = self.resolve(map.get("<<")?);
        match &merged.data {
            Data::Seq(several) => several.iter().find_map(|one| self.written_within(one, key, depth + 1)),
            _ => self.written_within(merged, key, depth + 1),
        }
    }
}

fn scan_error(e: &saphyr_parser::ScanError) -> Error {
    wrong(e.marker().line(), e.marker().col(), format!("not valid YAML: {}", e.info()))
}

/// A fault at a line, from 1, and a column, from 0. It carries them, but no text of the file: see [`in_file`].
pub(crate) fn wrong(line: usize, column: usize, message: impl Into<String>) -> Error {
    let message = message.into();
    let details = serde_json::json!({ "line": line, "column": column, "message": message });
    Error::failed(format!("line {line}, column {}: {message}", column + 1)).details(details)
}

/// What [`wrong`] says.
#[derive(Deserialize)]
struct Place {
    line: usize,
    column: usize,
    message: String,
}

fn place_of(error: &Error) -> Option<Place> {
    serde_json::from_value(error.report().details?).ok()
}

/// The same fault with its file, of which nothing is shown: it holds secrets.
pub(crate) fn in_secret(error: &Error, path: &Path) -> Error {
    let mut fault = Fault::new(path, Path::new(""), None, "", error.chain());
    if let Some(Place { line, column, message }) = place_of(error) {
        (fault.line, fault.column, fault.message) = (Some(line), Some(column + 1), message);
    }
    fault.help = error.hints().first().cloned();
    fault.error()
}

/// The same fault with the file and the line it is in, for a file without secrets.
pub(crate) fn in_file(error: Error, text: &str, path: &Path) -> Error {
    let Some(Place { line, column, message }) = place_of(&error) else {
        return error.context(path.display());
    };
    let text = text.lines().nth(line.saturating_sub(1)).unwrap_or_default().to_owned();
    let at = Location { file: path.to_owned(), line, column: column + 1, width: 1, text };
    Fault::new(path, Path::new(""), Some(&at), "", message).error()
}

/// saphyr counts characters; the rest of the world counts bytes.
struct Offsets(Option<Vec<usize>>);

impl Offsets {
    fn new(text: &str) -> Offsets {
        if text.is_ascii() {
            return Offsets(None);
        }
        Offsets(Some(text.char_indices().map(|(at, _)| at).chain([text.len()]).collect()))
    }

    fn byte(&self, character: usize, end: usize) -> usize {
        match &self.0 {
            None => character.min(end),
            Some(table) => table.get(character).copied().unwrap_or(end),
        }
    }
}

/// The text with everything between brackets on one line, byte for byte: line breaks and comments there become spaces,
/// as tabs behind a colon do.
fn brackets_joined(text: &str) -> String {
    let mut bytes = text.as_bytes().to_vec();
    // How many brackets are open, and whether a value may begin here: else a bracket or a quote is part of a word.
    let (mut depth, mut begins) = (0_usize, true);
    let mut at = 0;
    while let Some(c) = text[at..].chars().next() {
        let rest = &text[at + c.len_utf8()..];
        let mut length = c.len_utf8();
        let blank_behind = rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']);
        match c {
            '#' if text[..at].is_empty() || text[..at].ends_with([' ', '\t', '\n']) => {
                length = text[at..].find(['\r', '\n']).unwrap_or(text.len() - at);
                if depth > 0 {
                    bytes[at..at + length].fill(b' ');
                }
            }
            '\n' | '\r' if depth > 0 => bytes[at] = b' ',
            '\n' => begins = true,
            '\t' if text[..at].trim_end_matches('\t').ends_with(':') => bytes[at] = b' ',
            ' ' | '\t' | '\r' => {}
            '"' | '\'' if begins => {
                length = quoted_length(&text[at..], c);
                begins = false;
            }
            '[' | '{' if begins || depth > 0 => (depth, begins) = (depth + 1, true),
            ']' | '}' if depth > 0 => (depth, begins) = (depth - 1, false),
            ',' if depth > 0 => begins = true,
            ':' => begins = blank_behind,
            '-' | '?' if begins && blank_behind => {}
            '&' | '!' if begins => length = text[at..].find(char::is_whitespace).unwrap_or(text.len() - at),
            '|' | '>' if begins && depth == 0 => length = block_length(text, at),
            _ => begins = false,
        }
        at += length;
    }
    // Whole characters were replaced by as many spaces as they have bytes.
    String::from_utf8(bytes).unwrap_or_else(|_| text.to_owned())
}

/// How long a text in quotes is, the quotes included.
fn quoted_length(text: &str, quote: char) -> usize {
    let style = if quote == '"' { ScalarStyle::DoubleQuoted } else { ScalarStyle::SingleQuoted };
    scalar_length(text, style)
}

/// How long a block text is whose `|` or `>` is at `at`: up to the first line that is indented no deeper than what it
/// is the value of.
fn block_length(text: &str, at: usize) -> usize {
    let line = &text[text[..at].rfind('\n').map_or(0, |end| end + 1)..];
    let parent = line.len() - line.trim_start_matches([' ', '-']).len();
    let mut end = at;
    for (index, line) in text[at..].split_inclusive('\n').enumerate() {
        let inside = line.trim().is_empty() || line.len() - line.trim_start_matches(' ').len() > parent;
        if index > 0 && !inside {
            break;
        }
        end += line.len();
    }
    // The line break is seen by who goes on from here.
    end - at - usize::from(text[..end].ends_with('\n'))
}

struct Builder<'t> {
    text: &'t str,
    /// What the lines are counted in.
    original: &'t str,
    offsets: Offsets,
    anchored: HashMap<usize, Node>,
}

impl<'t> Builder<'t> {
    fn range(&self, span: Span) -> (usize, usize) {
        let end = self.text.len();
        (self.offsets.byte(span.start.index(), end), self.offsets.byte(span.end.index(), end))
    }

    /// The line of a byte, which the parser takes for `line`.
    fn line(&self, start: usize, line: usize) -> usize {
        if std::ptr::eq(self.text, self.original) {
            return line;
        }
        self.original.as_bytes().iter().take(start).filter(|byte| **byte == b'\n').count() + 1
    }

    fn node<T: saphyr_parser::Input>(
        &mut self,
        event: Event<'t>,
        span: Span,
        events: &mut Parser<'t, T>,
        depth: usize,
    ) -> Result<Node> {
        if depth > DEEPEST {
            return Err(wrong(span.start.line(), span.start.col(), "nested too deep"));
        }
        let (start, raw_end) = self.range(span);
        let mut node = Node {
            data: Data::Seq(Vec::new()),
            start,
            end: raw_end,
            text_start: start,
            column: span.start.col(),
            line: self.line(start, span.start.line()),
            anchor: None,
            flow: false,
        };
        let mut anchor_id = 0;
        match event {
            Event::Alias(id) => {
                node.end = start + self.text[start..raw_end].trim_end().len();
                let name = self.text[start..node.end].trim_start_matches('*').to_owned();
                node.data = Data::Alias { id, name };
            }
            Event::Scalar(value, style, id, _) => {
                anchor_id = id;
                node.end = start + self.text[start..raw_end].trim_end().len();
                let (anchor, skipped) = properties(&self.text[start..node.end.max(start)]);
                node.text_start = if matches!(
                    style,
                    ScalarStyle::Plain | ScalarStyle::SingleQuoted | ScalarStyle::DoubleQuoted
                ) {
                    start + skipped
                } else {
                    start
                };
                node.anchor = anchor.filter(|_| id != 0);
                node.flow = style != ScalarStyle::Plain;
                if node.text_start == start + skipped {
                    node.end = node.text_start
                        + scalar_length(&self.text[node.text_start..node.end.max(node.text_start)], style);
                }
                node.data = Data::Scalar(value.into_owned(), style);
            }
            Event::SequenceStart(id, _) => {
                anchor_id = id;
                self.begin_collection(&mut node, span, '[');
                let mut items = Vec::new();
                loop {
                    match next(events)? {
                        (Event::SequenceEnd, span) => {
                            self.close(&mut node, items.last(), span);
                            break;
                        }
                        (event, span) => items.push(self.node(event, span, events, depth + 1)?),
                    }
                }
                node.data = Data::Seq(items);
            }
            Event::MappingStart(id, _) => {
                anchor_id = id;
                self.begin_collection(&mut node, span, '{');
                let mut entries: Vec<(Node, Node)> = Vec::new();
                loop {
                    match next(events)? {
                        (Event::MappingEnd, span) => {
                            self.close(&mut node, entries.last().map(|(_, v)| v), span);
                            break;
                        }
                        (event, span) => {
                            let key = self.node(event, span, events, depth + 1)?;
                            let (event, span) = next(events)?;
                            let value = self.node(event, span, events, depth + 1)?;
                            entries.push((key, value));
                        }
                    }
                }
                node.data = Data::Map(entries);
            }
            _ => return Err(wrong(span.start.line(), span.start.col(), "unexpected YAML")),
        }
        if anchor_id != 0 {
            self.anchored.insert(anchor_id, node.clone());
        }
        Ok(node)
    }

    /// The parser's span of a collection with an anchor begins at the anchor and ends where its content begins.
    fn begin_collection(&self, node: &mut Node, span: Span, bracket: char) {
        let (start, raw_end) = self.range(span);
        let (anchor, skipped) = properties(&self.text[start..raw_end]);
        if skipped > 0 {
            node.anchor = anchor;
            node.start = start + skipped;
            node.column = span.start.col() + self.text[start..node.start].chars().count();
            if !self.text[node.start..].starts_with(bracket) {
                (node.start, node.column, node.line) = (raw_end, span.end.col(), span.end.line());
            }
            node.text_start = node.start;
        }
        node.flow = self.text[node.start..].starts_with(bracket);
        if bracket == '[' && !node.flow && !self.text[node.start..].starts_with('-') {
            // A list that is indented no deeper than its key begins, for the parser, behind its first dash.
            let line = self.text[..node.start].rfind('\n').map_or(0, |at| at + 1);
            if let Some(dash) = self.text[line..node.start].rfind('-') {
                node.start = line + dash;
                node.text_start = node.start;
                node.column = self.text[line..node.start].chars().count();
            }
        }
    }

    fn close(&self, node: &mut Node, last: Option<&Node>, span: Span) {
        let (start, end) = self.range(span);
        node.end = match last {
            // The parser's span of the bracket may go on behind it.
            _ if node.flow && self.text[start..].starts_with([']', '}']) => start + 1,
            _ if node.flow => end,
            last => last.map_or(node.end, |n| n.end),
        };
    }
}

fn next<'t, T: saphyr_parser::Input>(events: &mut Parser<'t, T>) -> Result<(Event<'t>, Span)> {
    events
        .next_event()
        .ok_or_else(|| Error::failed("the YAML ends in the middle"))?
        .map_err(|e| scan_error(&e))
}

/// The anchor among a scalar's properties, and how many bytes the properties take.
fn properties(text: &str) -> (Option<String>, usize) {
    let (mut anchor, mut at) = (None, 0);
    loop {
        let rest = &text[at..];
        let blank = rest.len() - rest.trim_start().len();
        let rest = rest.trim_start();
        if !rest.starts_with(['&', '!']) {
            // Without properties nothing is skipped, not even blanks.
            return (anchor, if at == 0 { 0 } else { at + blank });
        }
        let word = rest.split(char::is_whitespace).next().unwrap_or_default();
        if let Some(name) = word.strip_prefix('&') {
            anchor = Some(name.to_owned());
        }
        at += blank + word.len();
    }
}

/// How long a plain or quoted scalar at the start of `text` is; the parser's span may hold a comment behind it.
fn scalar_length(text: &str, style: ScalarStyle) -> usize {
    let bytes = text.as_bytes();
    let mut at = 1;
    match style {
        ScalarStyle::DoubleQuoted => {
            while at < bytes.len() && bytes[at] != b'"' {
                at += if bytes[at] == b'\\' { 2 } else { 1 };
            }
            (at + 1).min(text.len())
        }
        ScalarStyle::SingleQuoted => {
            while at < bytes.len() && (bytes[at] != b'\'' || bytes.get(at + 1) == Some(&b'\'')) {
                at += if bytes[at] == b'\'' { 2 } else { 1 };
            }
            (at + 1).min(text.len())
        }
        _ => {
            let comment =
                text.match_indices('#').map(|(at, _)| at).find(|at| text[..*at].ends_with([' ', '\t', '\n']));
            text[..comment.unwrap_or(text.len())].trim_end().len()
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
