//! What a file is lowered to before it is evaluated: variables are resolved, strings unescaped, attribute paths
//! merged. Expressions refer to each other by index, so that neither evaluating nor dropping a hostile file
//! walks pointers.

use std::{rc::Rc, sync::Arc};

use super::builtins::Builtin;
use crate::nix::source::Span;

/// An interned name.
pub(super) type Sym = u32;
/// Index of an expression.
pub(super) type ExprId = u32;

#[derive(Debug, Clone)]
pub(super) enum Expr {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Str(Arc<str>),
    Path(Arc<str>),
    /// `"a ${b} c"`.
    Concat(Rc<[ExprId]>),
    /// `./a/${b}`: the first part is the path before the first interpolation.
    PathConcat(Rc<[ExprId]>),
    /// A variable bound `up` environments outward.
    Var {
        up: u32,
        slot: u32,
    },
    /// A name that only an enclosing `with` can bind.
    WithVar(Sym),
    Builtin(&'static Builtin),
    Builtins,
    List(Rc<[ExprId]>),
    Attrs(Rc<AttrsExpr>),
    Let {
        bindings: Rc<[Binding]>,
        body: ExprId,
    },
    With {
        namespace: ExprId,
        body: ExprId,
    },
    If {
        condition: ExprId,
        then: ExprId,
        otherwise: ExprId,
    },
    Assert {
        condition: ExprId,
        body: ExprId,
    },
    Lambda(Rc<Lambda>),
    Call {
        function: ExprId,
        argument: ExprId,
    },
    Select(Rc<SelectExpr>),
    HasAttr(Rc<SelectExpr>),
    Binary {
        op: Op,
        left: ExprId,
        right: ExprId,
    },
    Not(ExprId),
    Negate(ExprId),
    /// Something the evaluator does not cover: fails when it is needed, not before.
    Unsupported(Arc<str>),
    /// What makes the file wrong wherever it stands, in a survey: index into [`Code::wrong`](super::code::Code::wrong).
    Wrong(u32),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Op {
    Concat,
    Update,
    Add,
    Sub,
    Mul,
    Div,
    And,
    Or,
    Implies,
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    More,
    MoreOrEqual,
}

/// One name bound to an expression.
#[derive(Debug, Clone)]
pub(super) struct Binding {
    pub name: Sym,
    pub key: Span,
    pub value: ExprId,
    /// `inherit name;`: the value belongs to the scope outside.
    pub outer: bool,
}

#[derive(Debug)]
pub(super) struct AttrsExpr {
    pub recursive: bool,
    pub statics: Box<[Binding]>,
    /// Name, value and where the name is.
    pub dynamics: Box<[(ExprId, ExprId, Span)]>,
}

#[derive(Debug)]
pub(super) struct SelectExpr {
    pub of: ExprId,
    pub path: Box<[(Key, Span)]>,
    pub default: Option<ExprId>,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Key {
    Static(Sym),
    Dynamic(ExprId),
}

#[derive(Debug)]
pub(super) struct Lambda {
    pub param: Param,
    pub body: ExprId,
}

#[derive(Debug)]
pub(super) enum Param {
    /// `x: …`, in slot 0.
    Name,
    /// `{ a, b ? 1, ... }@all: …`: the formals in order, then `all`.
    Pattern { formals: Box<[Formal]>, ellipsis: bool, bound: bool },
}

#[derive(Debug)]
pub(super) struct Formal {
    pub name: Sym,
    pub default: Option<ExprId>,
}
