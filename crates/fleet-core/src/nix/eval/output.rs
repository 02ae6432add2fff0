//! Evaluating to the bottom, and reading files.

use std::{io::Read as _, path::Path, rc::Rc, sync::Arc};

use super::{
    Map,
    error::{Outcome, Sort, Stop},
    expr::{Expr, ExprId, Sym},
    lower::Lowering,
    machine::{EnvId, Machine, NOWHERE, ThunkId, Val, base_of},
    value::{Attr, Data, Value},
};
use crate::{
    faults::is_utf16,
    nix::{
        parts::Parted,
        source::{Source, Span},
        syntax::{Node, SyntaxFault, Tree, Unparsed},
    },
};

/// Values that were already evaluated to the bottom: what is shared stays shared.
#[derive(Default)]
pub(super) struct Seen(Map<ThunkId, Value>);

impl Machine {
    /// Reads a file and gives its value, not evaluated yet.
    pub(super) fn load(&mut self, path: &Path) -> Outcome<ThunkId> {
        let bytes = self.file_bytes(path)?;
        match String::from_utf8(bytes) {
            Ok(text) => self.load_text(path, &text.into(), None),
            Err(error) => Err(self.not_utf8(path, error.as_bytes())),
        }
    }

    /// Nix takes bytes that are no UTF-8 in texts and comments, and no text in UTF-16.
    fn not_utf8(&mut self, path: &Path, bytes: &[u8]) -> Stop {
        let help = Some("save the file as UTF-8".to_owned());
        if is_utf16(bytes) {
            let message = format!("{} is UTF-16, which Nix takes for no text", path.display());
            return Stop::new(Sort::Syntax, message, None).help(help);
        }
        let start = std::str::from_utf8(bytes).err().map_or(0, |error| error.valid_up_to());
        let byte = bytes.get(start).copied().unwrap_or_default();
        let text: Arc<str> = String::from_utf8_lossy(bytes).into();
        let file = self.sources.add(Source::new(path.to_owned(), text));
        let start = u32::try_from(start).unwrap_or(u32::MAX);
        let at = Span { file, start, end: start.saturating_add(1) };
        Stop::new(Sort::Unsupported, format!("the byte 0x{byte:02X}, which is no UTF-8"), Some(at)).help(help)
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
        // The kernel's own files say that they are empty, some of them block, and some are endless.
        if meta.len() == 0 && path.starts_with("/proc") {
            let message = format!("{} is a file of the kernel", path.display());
            return Err(Stop::new(Sort::Budget, message, None));
        }
        let mut bytes = Vec::with_capacity(usize::try_from(meta.len().min(limit)).unwrap_or(0) + 1);
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
        let mut returns = text.match_indices('\r').map(|(at, _)| at);
        if let Some(at) = returns.find(|at| text.as_bytes().get(at + 1) != Some(&b'\n')) {
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
                // A survey has to tell two definitions of one name, for which there must be a whole tree.
                if self.survey.is_none()
                    && let Some(parted) = &unparsed.parted
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
        // Data has about one expression in fifty bytes.
        self.code.reserve(parted.len() / 50);
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
        // A survey goes on after what fails in it.
        let written = match self.suspended(thunk).filter(|_| self.survey.is_none()) {
            Some(env) => self.written(expr, env, level, seen)?,
            None => None,
        };
        let value = match written {
            Some(value) => value,
            None => {
                let at = self.enter(expr, level)?;
                let value = self.force(thunk).map_err(|stop| stop.or_at(self.span(expr)))?;
                Value { data: self.data(value, expr, level, seen)?, at }
            }
        };
        if matches!(value.data, Data::List(_) | Data::Attrs(_)) {
            seen.0.insert(thunk, value.clone());
        }
        Ok(value)
    }

    /// Counts a value of the result, and tells its place.
    fn enter(&mut self, expr: ExprId, level: u32) -> Outcome<Option<Span>> {
        let span = self.span(expr);
        if level > self.budget.nesting {
            let message = format!("a value nested deeper than {} levels", self.budget.nesting);
            return Err(Stop::new(Sort::Budget, message, Some(span)));
        }
        self.charge_steps(1).map_err(|stop| stop.or_at(span))?;
        Ok((span != NOWHERE).then_some(span))
    }

    fn data(&mut self, value: Val, expr: ExprId, level: u32, seen: &mut Seen) -> Outcome<Data> {
        Ok(match value {
            Val::Null => Data::Null,
            Val::Bool(b) => Data::Bool(b),
            Val::Int(number) => Data::Int(number),
            Val::Float(number) => Data::Float(number),
            Val::Str(text) => Data::Str(text),
            Val::Path(path) => Data::Path(Path::new(path.as_ref()).into()),
            Val::List(items) => {
                self.charge(items.len() * size_of::<Value>())?;
                let items: Outcome<Vec<Value>> =
                    items.iter().map(|item| self.member(None, *item, level + 1, seen)).collect();
                Data::List(items?.into())
            }
            Val::Attrs(slots) => {
                self.charge(slots.len() * size_of::<Attr>())?;
                let mut attrs = Vec::with_capacity(slots.len());
                for slot in slots.iter() {
                    let value = self.member(Some(slot.name), slot.value, level + 1, seen)?;
                    attrs.push(self.attr(slot.name, slot.key, value));
                }
                Data::Attrs(in_order(attrs))
            }
            Val::Lambda(..) | Val::Builtin(..) => Data::Function,
            Val::Builtins => return self.unsupported("`builtins` as a value", expr),
        })
    }

    /// The value of an expression that stands there as it is: what is in it is nobody else's, and needs no thunks. `None` for
    /// one that is to be evaluated.
    fn written(&mut self, expr: ExprId, env: EnvId, level: u32, seen: &mut Seen) -> Outcome<Option<Value>> {
        let data = match &self.code.exprs[expr as usize] {
            Expr::Null => Data::Null,
            Expr::Bool(b) => Data::Bool(*b),
            Expr::Int(number) => Data::Int(*number),
            Expr::Float(number) => Data::Float(*number),
            Expr::Str(text) => Data::Str(Arc::clone(text)),
            Expr::Path(path) => Data::Path(Path::new(path.as_ref()).into()),
            Expr::List(items) => {
                let items = Rc::clone(items);
                let at = self.enter(expr, level)?;
                self.charge(items.len() * size_of::<Value>())?;
                let items: Outcome<Vec<Value>> =
                    items.iter().map(|item| self.element(*item, env, level + 1, seen)).collect();
                return Ok(Some(Value { data: Data::List(items?.into()), at }));
            }
            Expr::Attrs(set) if !set.recursive && set.dynamics.is_empty() => {
                let set = Rc::clone(set);
                let at = self.enter(expr, level)?;
                self.charge(set.statics.len() * size_of::<Attr>())?;
                let mut attrs = Vec::with_capacity(set.statics.len());
                for binding in &set.statics {
                    let value = self.element(binding.value, env, level + 1, seen)?;
                    attrs.push(self.attr(binding.name, binding.key, value));
                }
                return Ok(Some(Value { data: Data::Attrs(in_order(attrs)), at }));
            }
            _ => return Ok(None),
        };
        let at = self.enter(expr, level)?;
        Ok(Some(Value { data, at }))
    }

    /// The value of what stands in such a set or list.
    fn element(&mut self, expr: ExprId, env: EnvId, level: u32, seen: &mut Seen) -> Outcome<Value> {
        match self.written(expr, env, level, seen)? {
            Some(value) => Ok(value),
            None => {
                let thunk = self.suspend(expr, env)?;
                self.deep(thunk, level, seen)
            }
        }
    }

    fn attr(&self, name: Sym, key: Span, value: Value) -> Attr {
        Attr { name: Arc::clone(self.names.text(name)), key: (key != NOWHERE).then_some(key), value }
    }
}

/// Attributes in the order of their names.
fn in_order(mut attrs: Vec<Attr>) -> Arc<[Attr]> {
    attrs.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    attrs.into()
}

fn unreadable(path: &Path, error: &std::io::Error) -> Stop {
    Stop::new(Sort::Eval, format!("can not read {}: {error}", path.display()), None)
}
