//! Edits of `hosts.nix` that cost no comment: offsets come from the syntax tree, the text is spliced at them, and
//! every other byte stays.
//!
//! [`insert_host`], [`set_attr`], [`remove_attr`] and [`remove_host`] give the new text; [`verified`] evaluates
//! old and new and proves that exactly the intended value changed. What can not be edited safely (a host defined
//! through `//` or a function) is refused with the reason.

mod compare;
mod entry;
mod evaluator;
mod fold;
mod head;
mod layout;
mod let_line;
mod module;
mod section;
mod tight;
mod tree;
mod untouched;
mod verify;
mod width;
mod written;

use rnix::SyntaxKind;

pub use entry::{AuthorizedKeys, NewHost, quote_name, quote_string};
use fold::{Folded, Growth};
use layout::{Layout, indent_at};
pub use module::{ModuleText, module_text};
pub use section::insert_entry;
use tree::{AttrAt, Binding};
pub use verify::{Change, apply, verified};

use crate::{
    Error, Result,
    nix::{
        source::Source,
        syntax::{Node, SyntaxFault, Tree, on_large_stack},
    },
};

/// The attributes of a host in the order in which a new one gets them, unless the file has another habit.
pub(crate) const ORDER: &[&str] = &[
    "configurationFile",
    "homeFile",
    "user",
    "homeDirectory",
    "hostname",
    "sshAlias",
    "sshKeyName",
    "publicKey",
    "authorizedKeys",
];

/// The text with a new host in it: after the others, or in its place where the names are sorted.
pub fn insert_host(text: &str, name: &str, host: &NewHost) -> Result<String> {
    edit(text, |tree| insert_in(tree.root(), text, name, host))
}

fn insert_in(root: Node<'_>, text: &str, name: &str, host: &NewHost) -> Result<String> {
    let set = tree::host_set(root, text)?;
    if let Some(found) = set.bindings.iter().find(|b| b.path.first().is_some_and(|n| n == name)) {
        let line = line_of(text, found.start);
        return Err(Error::conflict(format!("hosts.nix has a host '{name}' already (line {line})")));
    }
    if let Some(from) = set.inherited.iter().find(|n| *n == name) {
        return Err(Error::conflict(format!("hosts.nix inherits a host '{from}' already")));
    }
    let layout = Layout::of(text, &set, true);
    let entry = entry::host_entry(text, name, host, &written::sets_in(&set), &layout)?;
    if let Some(filled) = let_line::fill(root, text, &set, &layout, &entry) {
        return Ok(filled);
    }
    if let Some(folded) = fold::folds(text, &set)
        && let Some(paths) = entry.as_paths(folded == Folded::Tight)
    {
        return Ok(fold::unfold(text, &set, &layout, folded, &paths));
    }
    Ok(layout.insert(text, &set, layout.place_for(&set, name), &entry))
}

/// The text with one attribute of a host set to a string. A missing attribute is added, at its place.
pub fn set_attr(text: &str, host: &str, attr: &str, value: &str) -> Result<String> {
    edit(text, |tree| set_in(tree.root(), text, host, attr, value))
}

fn set_in(root: Node<'_>, text: &str, host: &str, attr: &str, value: &str) -> Result<String> {
    let set = tree::host_set(root, text)?;
    let quoted = quote_string(value);
    let at = tree::find_host(&set, host, text)?;
    if let Some(AttrAt::Inside(found) | AttrAt::Beside(found)) = at.attr(host, attr, text)? {
        let layout = Layout::of(text, &set, false);
        let wide = width::of_whole_file(text, &set, found, &quoted, &layout)
            .or_else(|| width::behind_quotes(text, found, &quoted, &layout));
        return wide.map_or_else(|| replace_value(text, found, &quoted), Ok);
    }
    let added = format!("{} = {quoted};", quote_name(attr));
    let mut layout = Layout::of(text, &set, false);
    let beside = written::path_binding(&layout, &quote_name(host), &quote_name(attr), &quoted);
    if let Some((whole, inner)) = &at.whole {
        match fold::growth(text, &set, whole, inner, &layout) {
            Growth::Inside => {
                let layout = Layout::of(text, inner, false);
                let place = layout.place_in_order(inner, attr, ORDER);
                return Ok(layout.insert_text(text, inner, place, &added));
            }
            Growth::InLine => return Ok(splice(text, inner.open, inner.close, &added)),
            Growth::OverLines => {
                layout.indent = format!("{}{}", indent_at(text, inner.close), layout.unit);
                return Ok(fold::unfold(text, inner, &layout, Folded::Set, &added));
            }
            Growth::Unfolded => return Ok(fold::unfold(text, &set, &layout, Folded::Set, &beside)),
            Growth::Beside => {}
        }
    } else if let Some(folded) = fold::folds(text, &set) {
        let beside = match folded {
            Folded::Tight => format!("{} = {{{added}}};", quote_name(host)),
            Folded::Set | Folded::Spaced => beside,
        };
        return Ok(fold::unfold(text, &set, &layout, folded, &beside));
    }
    let last = at.paths.last().copied().or(at.whole.as_ref().map(|(whole, _)| *whole)).map(|b| b.start);
    let after = set.items.iter().position(|item| Some(item.0) == last);
    layout.blank = fold::would_be_a_sign(text, &set);
    Ok(layout.insert_text(text, &set, after.map(|at| at + 1), &beside))
}

/// The text without one attribute of a host; unchanged if the host does not have it.
pub fn remove_attr(text: &str, host: &str, attr: &str) -> Result<String> {
    edit(text, |tree| unset_in(tree.root(), text, host, attr))
}

fn unset_in(root: Node<'_>, text: &str, host: &str, attr: &str) -> Result<String> {
    let set = tree::host_set(root, text)?;
    let at = tree::find_host(&set, host, text)?;
    let nth =
        |set: &tree::Set<'_>, found: &Binding<'_>| set.bindings.iter().position(|b| b.start == found.start);
    Ok(match at.attr(host, attr, text)? {
        None => text.to_owned(),
        Some(AttrAt::Inside(found)) => match &at.whole {
            None => text.to_owned(),
            // Its last one: where the set was added for it, it goes with it.
            Some((whole, inner)) if inner.items.len() == 1 && !at.paths.is_empty() => {
                fold::folded_again(text, &set, whole)
                    .unwrap_or_else(|| layout::remove(text, inner, nth(inner, found)))
            }
            Some((_, inner)) => layout::remove(text, inner, nth(inner, found)),
        },
        Some(AttrAt::Beside(found)) if at.whole.is_none() && at.paths.len() == 1 => {
            return Err(refused(text, host, found.start, "it would have no attribute left"));
        }
        Some(AttrAt::Beside(found)) => layout::remove(text, &set, nth(&set, found)),
    })
}

/// The text without a host; unchanged if it has none of this name. Comments outside the host's braces stay.
pub fn remove_host(text: &str, name: &str) -> Result<String> {
    edit(text, |tree| remove_in(tree, text, name))
}

/// A host written as several `NAME.attr = …;` takes one round for each, from the last on.
fn remove_in(tree: &Tree, text: &str, name: &str) -> Result<String> {
    let (mut tree, mut text) = (tree.clone(), text.to_owned());
    loop {
        let (after, left) = remove_last(tree.root(), &text, name)?;
        if left == 0 {
            return Ok(after);
        }
        tree = match tree.changed(&text, &after) {
            Some(tree) => tree,
            None => parse(&after)?,
        };
        text = after;
    }
}

/// The text without the last entry of a host, and how many others it has.
fn remove_last(root: Node<'_>, text: &str, name: &str) -> Result<(String, usize)> {
    let set = tree::host_set(root, text)?;
    if set.inherited.iter().any(|n| n == name) {
        return Err(refused(text, name, set.open, "it is inherited"));
    }
    if let Some(folded) = let_line::folded_again(root, text, &set, name) {
        return Ok((folded, 0));
    }
    let is_its = |b: &Binding<'_>| b.path.first().is_some_and(|n| n == name);
    let Some(at) = set.bindings.iter().rposition(is_its) else { return Ok((text.to_owned(), 0)) };
    let others = set.bindings[..at].iter().filter(|b| is_its(b)).count();
    Ok((layout::remove(text, &set, Some(at)), others))
}

fn replace_value(text: &str, binding: &Binding<'_>, quoted: &str) -> Result<String> {
    let (start, end) = (binding.value.start() as usize, binding.value.end() as usize);
    if tree::has_comment(binding.value) {
        let name = binding.path.join(".");
        return Err(Error::refused(format!(
            "the value of {name} in hosts.nix (line {}) has a comment inside it",
            line_of(text, binding.start)
        ))
        .hint("move the comment out of the value, or edit it by hand"));
    }
    let head = text[..start].trim_end();
    if binding.value.kind() != SyntaxKind::NODE_STRING
        && head.ends_with('=')
        && text[head.len()..start].contains('\n')
    {
        // What was computed may have begun a line of its own, which a text does not.
        let tail = end + text[end..].len() - text[end..].trim_start().len();
        let end = if text[tail..].starts_with(';') { tail } else { end };
        return Ok(splice(text, head.len(), end, &format!(" {quoted}")));
    }
    Ok(splice(text, start, end, quoted))
}

fn refused(text: &str, host: &str, at: usize, why: &str) -> Error {
    Error::refused(format!("can not edit host '{host}' in hosts.nix (line {}): {why}", line_of(text, at)))
        .now("nothing was changed")
        .hint("edit that entry by hand, or write it as a plain `NAME = { … };`")
}

fn line_of(text: &str, at: usize) -> usize {
    text.as_bytes().iter().take(at).filter(|byte| **byte == b'\n').count() + 1
}

/// `text` with the bytes from `start` to `end` replaced.
fn splice(text: &str, start: usize, end: usize, with: &str) -> String {
    let mut out = String::with_capacity(text.len() + with.len());
    out.push_str(&text[..start]);
    out.push_str(with);
    out.push_str(&text[end..]);
    out
}

/// The new text, not parsed again yet. The tree of the old one, if that is known, saves parsing it.
fn changed(text: &str, tree: Option<&Tree>, change: &Change) -> Result<String> {
    let edit = |tree: &Tree| match change {
        Change::Insert { name, host } => insert_in(tree.root(), text, name, host),
        Change::Set { host, attr, value } => set_in(tree.root(), text, host, attr, value),
        Change::Unset { host, attr } => unset_in(tree.root(), text, host, attr),
        Change::Remove { name } => remove_in(tree, text, name),
    };
    match tree {
        Some(tree) => edit(tree),
        None => on_thread(|| edit(&parse(text)?)),
    }
}

/// Parses, edits, and parses the outcome again.
fn edit(text: &str, work: impl FnOnce(&Tree) -> Result<String> + Send) -> Result<String> {
    let run = || {
        let tree = parse(text)?;
        let after = work(&tree)?;
        drop(tree);
        if after != text {
            Tree::parse(&after).map_err(|_| {
                Error::failed("the edit of hosts.nix would not be valid Nix").now("nothing was changed")
            })?;
        }
        Ok(after)
    };
    on_thread(run)
}

fn parse(text: &str) -> Result<Tree> {
    Tree::parse(text).map_err(|fault| unparsable(text, fault))
}

fn on_thread<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    on_large_stack(work).map_err(|e| Error::failed("can not start a thread to edit in").caused_by(e))?
}

fn unparsable(text: &str, fault: SyntaxFault) -> Error {
    match fault {
        SyntaxFault::Wrong { message, help, start, end } => {
            let at = Source::new("hosts.nix".into(), text.into()).locate(start, end);
            let error = Error::failed(format!("{at}: syntax error: {message}\n{}", at.snippet()));
            help.into_iter().fold(error, Error::hint)
        }
        SyntaxFault::Path { start } => {
            let at = Source::new("hosts.nix".into(), text.into()).locate(start, start);
            Error::failed(format!("{at}: a path in this form can not be edited\n{}", at.snippet()))
        }
        SyntaxFault::TooDeep { .. } => Error::failed("hosts.nix is nested too deeply to be edited"),
        SyntaxFault::TooLong { .. } => Error::failed("hosts.nix is too long to be edited"),
    }
}
