//! The bytes of a change: values replaced, elements taken out of lists and put into them, in every style that YAML
//! has for a list.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use fleet_core::{Error, Result};
use saphyr_parser::ScalarStyle;

use super::{Item, List, Rules};
use crate::{
    recipient::remark,
    yaml::{Data, Node},
};

/// Replacements by range; insertions have an empty range.
#[derive(Default)]
pub(super) struct Edits(BTreeMap<(usize, usize), String>);

impl Edits {
    /// The last element of a list before `item` that none of these takes out, and the first one behind that.
    fn kept_before<'a>(&self, list: &'a Node, item: &Item) -> (Option<&'a Node>, Option<&'a Node>) {
        let before = list.items().iter().take_while(|node| node.start < item.start);
        let goes = |node: &&Node| {
            let mut here = self
                .0
                .range((node.start, 0)..(node.start + 1, 0))
                .chain(self.0.range(..(node.start, 0)).next_back().filter(|((_, end), _)| *end >= node.end));
            here.any(|(_, with)| with.is_empty())
        };
        let (mut kept, mut behind) = (None, None);
        for node in before {
            if !goes(&node) {
                (kept, behind) = (Some(node), None);
            } else if behind.is_none() {
                behind = Some(node);
            }
        }
        (kept, behind)
    }

    pub(super) fn replace(&mut self, range: Range<usize>, with: impl Into<String>) {
        self.0.entry((range.start, range.end)).or_default().push_str(&with.into());
    }

    pub(super) fn apply(self, text: &str) -> Result<String> {
        let mut out = String::with_capacity(text.len() + 256);
        let (mut at, mut removed) = (0, false);
        for ((start, end), with) in self.0 {
            if start < at && with.is_empty() && (end <= at || removed) {
                // Gone with what stands around it, or before it.
                at = at.max(end);
                continue;
            }
            out.push_str(text.get(at..start).ok_or_else(|| Error::failed("the changes overlap"))?);
            out.push_str(&with);
            (at, removed) = (end, with.is_empty());
        }
        out.push_str(text.get(at..).unwrap_or_default());
        // A file without a newline at its end stays one, also when its last line went.
        if !text.ends_with('\n') {
            let kept = out
                .strip_suffix('\n')
                .map_or(out.len(), |kept| kept.strip_suffix('\r').unwrap_or(kept).len());
            out.truncate(kept);
        }
        Ok(out)
    }
}

/// The list of a key's name, where it stood alone, and a reference to another. That there is no blank tells it from a
/// list that somebody wrote: with the other gone it is one name again.
fn pair(name: &str, reference: &str) -> String {
    format!("[*{name},{reference}]")
}

impl Rules {
    pub(super) fn newline(&self) -> &'static str {
        if self.text.contains("\r\n") { "\r\n" } else { "\n" }
    }

    pub(super) fn replace_value(&self, node: &Node, new: &str, edits: &mut Edits) -> Result<()> {
        let Data::Scalar(text, style) = &node.data else { return Ok(()) };
        if text == new {
            return Ok(());
        }
        let written = self.text.get(node.text_start..node.end).unwrap_or_default();
        let at = written
            .find(text.as_str())
            .ok_or_else(|| Error::failed(format!("line {}: can not see the key", node.line)))?;
        let start = node.text_start + at;
        edits.replace(start..start + text.len(), new);
        // What is said behind an SSH key has no place behind an age key but a comment.
        let remark = if text.starts_with("ssh-") { remark(text).trim_start() } else { "" };
        let line = self.text[node.end..].lines().next().unwrap_or_default();
        let block = matches!(style, ScalarStyle::Literal | ScalarStyle::Folded);
        if !(remark.is_empty() || block) && line.trim().is_empty() {
            edits.replace(node.end..node.end, format!(" # {remark}"));
        }
        Ok(())
    }

    pub(super) fn change_text(
        &self,
        item: &Item,
        keys: &BTreeSet<String>,
        new: Option<&str>,
        edits: &mut Edits,
    ) -> Result<()> {
        let written = self.text.get(item.text_start..item.end).unwrap_or_default();
        let mut kept = new.is_none();
        for recipient in item.recipients.iter().filter(|r| keys.contains(*r)) {
            let Some(at) = written.find(recipient.as_str()) else {
                return Err(Error::failed(format!("line {}: can not see the key {recipient}", item.line)));
            };
            let (start, end) = (item.text_start + at, item.text_start + at + recipient.len());
            match new {
                Some(new) if !kept => {
                    kept = true;
                    if recipient != new {
                        edits.replace(start..end, new);
                    }
                }
                _ => {
                    let behind = &self.text[end..item.end];
                    let gap = behind.len() - behind.trim_start_matches([' ', ',']).len();
                    // Blanks alone are the end of the text.
                    let comma = if behind[..gap].contains(',') { gap } else { 0 };
                    if let Some(line) = self.own_line(start, end).filter(|_| comma > 0) {
                        edits.replace(line, "");
                    } else if comma > 0 {
                        let ends_line = behind[comma..].trim_start_matches('\\').starts_with(['\n', '\r']);
                        let before = self.text[..start].trim_end_matches(' ').len();
                        edits.replace(if ends_line { before } else { start }..end + comma, "");
                    } else {
                        // A break in quotes may be behind a backslash.
                        let before = self.text[item.text_start..start]
                            .trim_end_matches([' ', ',', '\n', '\r', '\t', '\\'])
                            .len();
                        edits.replace(item.text_start + before..end, "");
                    }
                }
            }
        }
        Ok(())
    }

    /// The other name in a list that was one name before it was made a pair.
    pub(super) fn made_a_pair<'a>(&self, list: &'a List, item: &Item) -> Option<&'a str> {
        let [first, second] = list.items.as_slice() else { return None };
        let (name, reference) = (first.alias.as_deref()?, self.text.get(second.start..second.end)?);
        let written = self.text.get(list.node.start..list.node.end)?;
        let made = list.direct && list.node.anchor.is_none() && written == pair(name, reference);
        if made && item.start == first.start { second.alias.as_deref() } else { Some(name).filter(|_| made) }
    }

    /// Takes one element out of a list, with its line where it has one.
    pub(super) fn delete(&self, list: &Node, item: &Item, edits: &mut Edits) -> Result<()> {
        if let Data::Alias { .. } = list.data {
            edits.replace(item.start..item.end, "[]");
            return Ok(());
        }
        if list.flow {
            let behind = &self.text[item.end..];
            let after = behind.trim_start();
            let (before, first_gone) = edits.kept_before(list, item);
            if let Some((line, comma)) = self.alone(item.start, item.end) {
                edits.replace(line, "");
                if let Some(before) = before.filter(|_| !comma) {
                    // The last one now has no comma behind it, as this one had none.
                    let blanks = self.text[before.end..].len() - self.text[before.end..].trim_start().len();
                    if self.text[before.end + blanks..].starts_with(',') {
                        edits.replace(before.end..before.end + blanks + 1, "");
                    }
                }
            } else if let Some(rest) = after.strip_prefix(',') {
                let next = rest.trim_start_matches(' ');
                if next.starts_with(['#', '\n', '\r']) {
                    // A comment needs the blanks before it, and the end of a line none.
                    let start = self.text[..item.start].trim_end_matches(' ').len();
                    edits.replace(start..item.end + (behind.len() - rest.len()), "");
                } else {
                    edits.replace(item.start..item.end + (behind.len() - next.len()), "");
                }
            } else {
                // With the comma before it, and before others that go.
                let first = first_gone.map_or(item.start, |node| node.start);
                let before = self.text[..first].trim_end();
                let start = before.strip_suffix(',').map_or(first, str::len);
                edits.replace(start..item.end, "");
            }
            return Ok(());
        }
        let start = self.dash_before(item.start);
        self.delete_lines(start, item.end, item.line, edits)
    }

    /// Where the dash of a block list's element is that begins at `at`: on its line, or on one before.
    fn dash_before(&self, at: usize) -> usize {
        let mut end = at;
        loop {
            let line = self.text[..end].rfind('\n').map_or(0, |at| at + 1);
            let before = &self.text[line..end];
            let code = match before.find('#') {
                // The element itself begins behind no comment.
                Some(comment) if end < at => &before[..comment],
                _ => before,
            };
            let code = code.trim_end();
            if let Some(dash) = code.strip_suffix('-') {
                return line + dash.len();
            }
            if !code.trim().is_empty() || line == 0 {
                return at;
            }
            end = line - 1;
        }
    }

    /// The bytes of the line of an element in brackets that has one of its own, from the line break before it on, with
    /// its comma and a comment behind; and whether it has a comma.
    fn alone(&self, start: usize, end: usize) -> Option<(Range<usize>, bool)> {
        let before = self.text[..start].trim_end_matches([' ', '\t']).strip_suffix('\n')?;
        let before = before.strip_suffix('\r').unwrap_or(before).len();
        let (comma, line_end) = self.line_behind(end)?;
        Some((before..line_end, comma))
    }

    /// Whether a comma stands behind an element in brackets, and where its line ends; `None` if anything but a comment
    /// follows on that line.
    fn line_behind(&self, end: usize) -> Option<(bool, usize)> {
        let line = self.text[end..].split('\n').next()?;
        let line = line.strip_suffix('\r').unwrap_or(line);
        let rest = line.trim_start_matches([' ', '\t']);
        let (comma, rest) = rest.strip_prefix(',').map_or((false, rest), |rest| (true, rest));
        let rest = rest.trim_start_matches([' ', '\t']);
        (rest.is_empty() || rest.starts_with('#')).then_some((comma, end + line.len()))
    }

    /// The bytes of an element's whole line, from the line break before it to its comma, if it has a line and a comma
    /// of its own.
    fn own_line(&self, start: usize, end: usize) -> Option<Range<usize>> {
        let rest = self.text[end..].trim_start_matches([' ', '\t']).strip_prefix(',')?;
        // In quotes a break may be behind a backslash.
        let rest = rest.strip_prefix('\\').unwrap_or(rest);
        let line_end = self.text.len() - rest.len();
        let behind = rest.trim_start_matches([' ', '\t', '\r']);
        let before = self.text[..start].trim_end_matches([' ', '\t']).strip_suffix('\n')?;
        let before = before.strip_suffix('\r').unwrap_or(before);
        (behind.is_empty() || behind.starts_with('\n')).then_some(before.len()..line_end)
    }

    /// Takes out the lines from `start` to `end`, which must be alone on them but for a comment behind.
    pub(super) fn delete_lines(
        &self,
        start: usize,
        end: usize,
        line: usize,
        edits: &mut Edits,
    ) -> Result<()> {
        let line_start = self.text[..start].rfind('\n').map_or(0, |at| at + 1);
        if !self.text[line_start..start].trim().is_empty() {
            return Err(Error::failed(format!("line {line}: the key shares its line: take it out by hand")));
        }
        let line_end = self.text[end..].find('\n').map_or(self.text.len(), |at| end + at + 1);
        edits.replace(line_start..line_end, "");
        Ok(())
    }

    /// Puts a reference behind the last element of a list, or the key itself behind the last one of a text.
    pub(super) fn append(&self, list: &List, reference: &str, new: &str, edits: &mut Edits) -> Result<()> {
        if let Data::Scalar(..) = list.node.data {
            let Some(last) = list.items.first().and_then(|item| item.recipients.last()) else {
                return Err(Error::failed(format!("line {}: an empty list of keys", list.node.line)));
            };
            let item = &list.items[0];
            let written = &self.text[item.text_start..item.end];
            let at = written
                .rfind(last.as_str())
                .ok_or_else(|| Error::failed(format!("line {}: can not see the keys", item.line)))?;
            let end = item.text_start + at + last.len();
            // One key a line stays one key a line.
            let indent =
                written[..at].rfind('\n').map(|line| &written[line + 1..at]).filter(|i| i.trim().is_empty());
            let indent = indent.map_or_else(String::new, |indent| format!("{}{indent}", self.newline()));
            edits.replace(end..end, format!(",{indent}{new}"));
            return Ok(());
        }
        if let Data::Alias { name, .. } = &list.node.data {
            edits.replace(list.node.start..list.node.end, pair(name, reference));
            return Ok(());
        }
        self.insert(&list.node, list.node.items().last(), reference, edits)
    }

    /// Inserts `text` as an element of `list` behind `after`.
    pub(super) fn insert(
        &self,
        list: &Node,
        after: Option<&Node>,
        text: &str,
        edits: &mut Edits,
    ) -> Result<()> {
        let newline = self.newline();
        let Some(after) = after else {
            if list.flow {
                edits.replace(list.start + 1..list.start + 1, text);
                return Ok(());
            }
            return Err(Error::failed(format!("line {}: an empty list", list.line)));
        };
        if list.flow {
            // An element a line stays an element a line.
            let line_start = self.text[..after.start].rfind('\n').map_or(0, |at| at + 1);
            let indent = &self.text[line_start..after.start];
            let own_line = indent.trim().is_empty() && line_start > list.start;
            match self.line_behind(after.end).filter(|_| own_line) {
                // What is said behind the last one stays beside it.
                Some((true, end)) => edits.replace(end..end, format!("{newline}{indent}{text},")),
                Some((false, end)) => {
                    edits.replace(after.end..after.end, ",");
                    edits.replace(end..end, format!("{newline}{indent}{text}"));
                }
                None if own_line => edits.replace(after.end..after.end, format!(",{newline}{indent}{text}")),
                None => edits.replace(after.end..after.end, format!(", {text}")),
            }
            return Ok(());
        }
        self.insert_line(list.column, after, &format!("- {text}"), edits);
        Ok(())
    }

    /// Inserts a line behind the one that `after` ends on.
    pub(super) fn insert_line(&self, column: usize, after: &Node, text: &str, edits: &mut Edits) {
        let newline = self.newline();
        let line_end = self.text[after.end..].find('\n').map_or(self.text.len(), |at| after.end + at + 1);
        let indent = " ".repeat(column);
        let (before, behind) =
            if self.text[..line_end].ends_with('\n') { ("", newline) } else { (newline, "") };
        edits.replace(line_end..line_end, format!("{before}{indent}{text}{behind}"));
    }
}
