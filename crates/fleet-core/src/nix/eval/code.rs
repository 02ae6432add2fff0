//! What files are lowered to: the names in them, and their expressions with their places.

use std::sync::Arc;

use super::{
    Map,
    error::Stop,
    expr::{Expr, Sym},
};
use crate::nix::source::Span;

/// Interned names.
#[derive(Debug, Default)]
pub(super) struct Names {
    texts: Vec<Arc<str>>,
    ids: Map<Arc<str>, Sym>,
}

impl Names {
    pub(super) fn intern(&mut self, text: &str) -> Sym {
        if let Some(id) = self.ids.get(text) {
            return *id;
        }
        let text: Arc<str> = text.into();
        let id = Sym::try_from(self.texts.len()).unwrap_or(Sym::MAX);
        self.texts.push(Arc::clone(&text));
        self.ids.insert(text, id);
        id
    }

    pub(super) fn find(&self, text: &str) -> Option<Sym> {
        self.ids.get(text).copied()
    }

    pub(super) fn text(&self, id: Sym) -> &Arc<str> {
        &self.texts[id as usize]
    }
}

/// Expressions of all files read so far, with their places.
#[derive(Debug, Default)]
pub(super) struct Code {
    pub exprs: Vec<Expr>,
    pub spans: Vec<Span>,
    /// In a survey: what Nix refuses a file for as soon as it reads it, and after which lowering goes on.
    pub wrong: Option<Vec<Stop>>,
}

impl Code {
    /// Forgets all expressions from this one on.
    pub(super) fn truncate(&mut self, exprs: usize) {
        self.exprs.truncate(exprs);
        self.spans.truncate(exprs);
    }

    /// Makes room for so many more expressions.
    pub(super) fn reserve(&mut self, exprs: usize) {
        self.exprs.reserve(exprs);
        self.spans.reserve(exprs);
    }
}
