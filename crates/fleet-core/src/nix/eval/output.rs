//! Evaluating to the bottom, and reading files.

use std::{collections::HashMap, io::Read as _, path::Path, sync::Arc};

use super::{
    error::{Outcome, Sort, Stop},
    expr::ExprId,
    lower::Lowering,
    machine::{Machine, NOWHERE, ThunkId, Val, base_of},
    value::{Attr, Data, Value},
};
use crate::nix::{
    parts::Parted,
    source::{Source, Span},
    syntax::{Node, SyntaxFault, Tree, Unparsed},
};

/// Values that were already evaluated to the bottom: what is shared stays shared.
#[derive(Default)]
pub(super) struct Seen(HashMap<ThunkId, Value>);

impl Machine {
    /// Reads a file and gives its value, not evaluated yet.
    pub(super) fn load(&mut self, path: &Path) -> Outcome<ThunkId> {
        let bytes = self.file_bytes(path)?;
        let text = String::from_utf8(bytes)
            .map_err(|_| Stop::new(Sort::Unsupported, format!("{} is not UTF-8", path.display()), None))?;
        self.load_text(path, &text.into(), None)
    }

    /// What a file holds. Only of files that end: a device or a pipe may never.
    pub(super) fn file_bytes(&mut self, path: &Path) -> Outcome<Vec<u8>> {
        self.charge_file()?;
        if let Some((given, text)) = &self.given
            && *given == super::resolve(path)
        {
            let bytes = text.as_bytes().to_vec();
            self.charge(bytes.len())?;
            return Ok(bytes);
        }
        let meta = std::fs::metadata(path).map_err(|e| unreadable(path, &e))?;
        if meta.is_dir() {
            return Err(unreadable(path, &std::io::ErrorKind::IsADirectory.into()));
        }
        if !meta.is_file() {
            let message = format!("{} is not an ordinary file", path.display());
            return Err(Stop::new(Sort::Budget, message, None));
        }
        let limit = self.budget.file_size;
        let mut bytes = Vec::new();
        // The kernel's own files say that they are empty, some of them block, and some are endless.
        if meta.len() == 0 && path.starts_with("/proc") {
            let message = format!("{} is a file of the kernel", path.display());
            return Err(Stop::new(Sort::Budget, message, None));
        }
        std::fs::File::open(path)
            .and_then(|file| file.take(limit + 1).read_to_end(&mut bytes))
            .map_err(|e| unreadable(path, &e))?;
        if bytes.len() as u64 > limit {
            let message = format!("{} is larger than {} MiB", path.display(), limit >> 20);
            return Err(Stop::new(Sort::Budget, message, None));
        }
        self.charge(bytes.len())?;
        Ok(bytes)
    }

    /// As [`Machine::load`], for a text that is already there, and its tree if that is known.
    pub(super) fn load_text(&mut self, path: &Path, text: &Arc<str>, tree: Option<Tree>) -> Outcome<ThunkId> {
        // The tree and the expressions take about this much for each byte of text.
        self.charge(text.len().saturating_mul(8))?;
        let file = self.sources.add(Source::new(path.to_owned(), Arc::clone(text)));
        let span = |start, end| Some(Span { file, start, end });
        // Nix ends a comment at one, rnix does not.
        let returns = text.match_indices('\r').map(|(at, _)| at);
        if let Some(at) = returns.into_iter().find(|at| text.as_bytes().get(at + 1) != Some(&b'\n')) {
            let at = u32::try_from(at).unwrap_or(u32::MAX);
            return Err(Stop::new(Sort::Unsupported, "a carriage return without a line feed", span(at, at)));
        }
        let fault = |fault| match fault {
            SyntaxFault::Wrong { message, help, start, end } => {
                Stop::new(Sort::Syntax, message, span(start, end)).help(help)
            }
            SyntaxFault::Path { start } => {
                Stop::new(Sort::Unsupported, "a path in this form", span(start, start))
            }
            SyntaxFault::TooDeep { start } => Stop::new(
                Sort::Budget,
                "nested too deeply, or too long without a space, to be read",
                span(start, start),
            ),
            SyntaxFault::TooLong { start } => {
                Stop::new(Sort::Budget, "too long to be read", span(start, start))
            }
        };
        let base = base_of(path);
        let tree = match tree {
            Some(tree) => tree,
            None => {
                let unparsed = Unparsed::new(text, self.part).map_err(fault)?;
                if let Some(parted) = &unparsed.parted
                    && let Some(root) = self.lower_in_parts(parted, file, &base)
                {
                    self.charge_lowering(parted.tokens())?;
                    return self.suspend_root(root);
                }
                unparsed.tree().map_err(fault)?
            }
        };
        self.charge_lowering(tree.tokens())?;
        // Data has about one expression in eight tokens.
        self.code.reserve(tree.tokens() / 8);
        let root = Lowering::new(&mut self.names, &mut self.code, file, &base).file(tree.root())?;
        drop(tree);
        self.suspend_root(root)
    }

    /// Parsing and lowering a token takes longer than evaluating an expression.
    fn charge_lowering(&mut self, tokens: usize) -> Outcome<()> {
        self.charge_steps(tokens.saturating_mul(2))
    }

    /// Lowers a text with large sets without ever having its whole tree. `None` where that is not the way to tell what it is.
    pub(super) fn lower_in_parts(&mut self, parted: &Parted<'_>, file: u32, base: &Path) -> Option<ExprId> {
        let frame = parted.frame()?;
        let before = self.code.exprs.len();
        let lowered = Lowering::new(&mut self.names, &mut self.code, file, base)
            .file_in_parts(Node::root(&frame), parted);
        lowered.inspect_err(|_| self.code.truncate(before)).ok()
    }

    /// The value of a thunk, evaluated to the bottom.
    pub(super) fn deep(&mut self, thunk: ThunkId, level: u32, seen: &mut Seen) -> Outcome<Value> {
        if let Some(value) = seen.0.get(&thunk) {
            return Ok(value.clone());
        }
        let expr = self.thunk_expr(thunk);
        let span = self.span(expr);
        if level > self.budget.nesting {
            let message = format!("a value nested deeper than {} levels", self.budget.nesting);
            return Err(Stop::new(Sort::Budget, message, Some(span)));
        }
        self.charge_steps(1).map_err(|stop| stop.or_at(span))?;
        let at = (span != NOWHERE).then_some(span);
        let data = match self.force(thunk).map_err(|stop| stop.or_at(span))? {
            Val::Null => Data::Null,
            Val::Bool(b) => Data::Bool(b),
            Val::Int(number) => Data::Int(number),
            Val::Float(number) => Data::Float(number),
            Val::Str(text) => Data::Str(text),
            Val::Path(path) => Data::Path(Path::new(path.as_ref()).into()),
            Val::List(items) => {
                self.charge(items.len() * size_of::<Value>())?;
                let items: Outcome<Vec<Value>> =
                    items.iter().map(|item| self.deep(*item, level + 1, seen)).collect();
                Data::List(items?.into())
            }
            Val::Attrs(slots) => {
                self.charge(slots.len() * size_of::<Attr>())?;
                let mut attrs = Vec::with_capacity(slots.len());
                for slot in slots.iter() {
                    let name = Arc::clone(self.names.text(slot.name));
                    let key = (slot.key != NOWHERE).then_some(slot.key);
                    attrs.push(Attr { name, key, value: self.deep(slot.value, level + 1, seen)? });
                }
                attrs.sort_unstable_by(|a, b| a.name.cmp(&b.name));
                Data::Attrs(attrs.into())
            }
            Val::Lambda(..) | Val::Builtin(..) => Data::Function,
            Val::Builtins => return self.unsupported("`builtins` as a value", expr),
        };
        let shared = matches!(data, Data::List(_) | Data::Attrs(_));
        let value = Value { data, at };
        if shared {
            seen.0.insert(thunk, value.clone());
        }
        Ok(value)
    }
}

fn unreadable(path: &Path, error: &std::io::Error) -> Stop {
    Stop::new(Sort::Eval, format!("can not read {}: {error}", path.display()), None)
}
