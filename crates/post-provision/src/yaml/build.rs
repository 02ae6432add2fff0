//! From saphyr's events to nodes that know their bytes.

use std::collections::HashMap;

use fleet_core::{Error, Result};
use saphyr_parser::{Event, Parser, ScalarStyle, Span};

use super::{DEEPEST, Data, Node, fault::scan_error, wrong};

/// saphyr counts characters; the rest of the world counts bytes.
pub(super) struct Offsets(Option<Vec<usize>>);

impl Offsets {
    pub(super) fn new(text: &str) -> Offsets {
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

/// Lines and columns in the text as people have it, of which the parser may have got another form, byte for byte.
pub(super) struct Places<'t> {
    text: &'t str,
    /// Where each line begins.
    starts: Vec<usize>,
    ascii: bool,
}

impl<'t> Places<'t> {
    pub(super) fn new(text: &'t str) -> Places<'t> {
        let starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Places { text, starts, ascii: text.is_ascii() }
    }

    /// The line of a byte, from 1, and its column in characters, from 0.
    fn of(&self, at: usize) -> (usize, usize) {
        let line = self.starts.partition_point(|start| *start <= at).max(1);
        let start = self.starts.get(line - 1).copied().unwrap_or(0);
        let column = match self.text.get(start..at) {
            Some(before) if !self.ascii => before.chars().count(),
            _ => at - start,
        };
        (line, column)
    }
}

/// Makes nodes of events.
pub(super) struct Builder<'t> {
    pub(super) text: &'t str,
    pub(super) offsets: Offsets,
    pub(super) places: Places<'t>,
    pub(super) anchored: HashMap<usize, Node>,
}

impl<'t> Builder<'t> {
    fn range(&self, span: Span) -> (usize, usize) {
        let end = self.text.len();
        (self.offsets.byte(span.start.index(), end), self.offsets.byte(span.end.index(), end))
    }

    /// A fault where a span begins.
    fn wrong(&self, span: Span, message: &str) -> Error {
        let (line, column) = self.places.of(self.range(span).0);
        wrong(line, column, message)
    }

    /// Puts the beginning of a collection at this byte.
    fn begin(&self, node: &mut Node, at: usize) {
        (node.start, node.text_start) = (at, at);
        (node.line, node.column) = self.places.of(at);
    }

    pub(super) fn node<T: saphyr_parser::Input>(
        &mut self,
        event: Event<'t>,
        span: Span,
        events: &mut Parser<'t, T>,
        depth: usize,
    ) -> Result<Node> {
        if depth > DEEPEST {
            return Err(self.wrong(span, "nested too deep"));
        }
        let (start, raw_end) = self.range(span);
        let (line, column) = self.places.of(start);
        let mut node = Node {
            data: Data::Seq(Vec::new()),
            start,
            end: raw_end,
            text_start: start,
            column,
            line,
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
            _ => return Err(self.wrong(span, "unexpected YAML")),
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
            let flow = self.text[start + skipped..].starts_with(bracket);
            self.begin(node, if flow { start + skipped } else { raw_end });
        }
        node.flow = self.text[node.start..].starts_with(bracket);
        if bracket == '[' && !node.flow && !self.text[node.start..].starts_with('-') {
            // A list that is indented no deeper than its key begins, for the parser, behind its first dash.
            let line = self.text[..node.start].rfind('\n').map_or(0, |at| at + 1);
            if let Some(dash) = self.text[line..node.start].rfind('-') {
                self.begin(node, line + dash);
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
pub(super) fn scalar_length(text: &str, style: ScalarStyle) -> usize {
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
