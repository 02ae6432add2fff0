//! From the syntax tree to [`Expr`]: every variable resolved, every string unescaped.

use std::{collections::HashSet, path::Path, rc::Rc, sync::Arc};

use rnix::SyntaxKind as K;

use super::{
    Map, builtins,
    code::{Code, Names},
    defs::{Attr, DefValue, Defs},
    error::{Outcome, Sort, Stop},
    expr::{AttrsExpr, Binding, Expr, ExprId, Formal, Key, Lambda, Op, Param, SelectExpr, Sym},
};
use crate::nix::{parts::Parted, source::Span, syntax::Node};

/// What is in scope at a place: one environment each when the program runs.
pub(super) enum Scope {
    Names(Map<Sym, u32>),
    /// A `let` or `rec` of few names.
    Few(Vec<Sym>),
    With,
}

/// How many scopes may be looked through for the names of one file.
const MOST_LOOKED: u64 = 20_000_000;

/// Lowers one file.
pub(super) struct Lowering<'m> {
    pub(super) names: &'m mut Names,
    pub(super) code: &'m mut Code,
    file: u32,
    /// What relative paths are relative to.
    pub(super) base: &'m Path,
    pub(super) scopes: Vec<Scope>,
    /// The attributes of the sets around that are in no scope, noted in a survey.
    pub(super) beside: Vec<Vec<Sym>>,
    /// Whether the names of an `inherit` are looked up.
    pub(super) inheriting: bool,
    /// How many scopes were looked through.
    looked: u64,
    /// What is lowered part by part, and of how many sets all parts have been.
    pub(super) parted: Option<(&'m Parted<'m>, usize)>,
}

impl<'m> Lowering<'m> {
    pub(super) fn new(names: &'m mut Names, code: &'m mut Code, file: u32, base: &'m Path) -> Self {
        Lowering {
            names,
            code,
            file,
            base,
            scopes: Vec::new(),
            beside: Vec::new(),
            inheriting: false,
            looked: 0,
            parted: None,
        }
    }

    /// Lowers a whole file.
    pub(super) fn file(&mut self, root: Node<'_>) -> Outcome<ExprId> {
        match root.nodes().next() {
            Some(expr) => self.expr(expr),
            None => Err(self.wrong("the file is empty", root)),
        }
    }

    pub(super) fn span(&self, node: Node<'_>) -> Span {
        Span { file: self.file, start: node.start(), end: node.end() }
    }

    pub(super) fn wrong(&self, what: &str, node: Node<'_>) -> Stop {
        Stop::new(Sort::Syntax, what, Some(self.span(node)))
    }

    pub(super) fn unsupported(&self, what: &str, node: Node<'_>) -> Stop {
        Stop::new(Sort::Unsupported, what, Some(self.span(node)))
    }

    pub(super) fn add(&mut self, expr: Expr, node: Node<'_>) -> ExprId {
        self.add_at(expr, self.span(node))
    }

    pub(super) fn add_at(&mut self, expr: Expr, span: Span) -> ExprId {
        self.code.exprs.push(expr);
        self.code.spans.push(span);
        // A file is at most 4 GiB, an expression at least one byte.
        ExprId::try_from(self.code.exprs.len() - 1).unwrap_or(ExprId::MAX)
    }

    /// An expression where any is allowed.
    pub(super) fn expr(&mut self, node: Node<'_>) -> Outcome<ExprId> {
        let expr = match node.kind() {
            K::NODE_PAREN => {
                let inner = self.child(node, 0)?;
                return self.expr(inner);
            }
            K::NODE_LITERAL => self.literal(node)?,
            K::NODE_STRING => self.string(node)?,
            K::NODE_PATH_ABS | K::NODE_PATH_REL => self.path(node)?,
            K::NODE_PATH_HOME => Expr::Unsupported("a path in the home directory".into()),
            K::NODE_PATH_SEARCH => Expr::Unsupported("a search path (<…>)".into()),
            K::NODE_IDENT => return self.variable(node),
            K::NODE_CUR_POS => Expr::Unsupported("__curPos".into()),
            K::NODE_LIST => {
                let mut items = Vec::new();
                for item in node.nodes() {
                    items.push(self.operand(item)?);
                }
                Expr::List(items.into())
            }
            K::NODE_ATTR_SET => match self.divided(node) {
                Some(set) => return self.in_parts(node, set),
                None => {
                    let defs = self.collect(node)?;
                    return self.attrs(defs, self.span(node));
                }
            },
            K::NODE_LET_IN => self.let_in(node)?,
            // `let { …; body = e; }` is `(rec { … }).body`.
            K::NODE_LEGACY_LET => {
                let mut defs = self.collect(node)?;
                defs.recursive = true;
                let of = self.attrs(defs, self.span(node))?;
                let body = (Key::Static(self.names.intern("body")), self.span(node));
                Expr::Select(Rc::new(SelectExpr { of, path: [body].into(), default: None }))
            }
            K::NODE_WITH => {
                let namespace = self.child(node, 0)?;
                let body = self.child(node, 1)?;
                let namespace = self.expr(namespace)?;
                self.scopes.push(Scope::With);
                let body = self.expr(body);
                self.scopes.pop();
                Expr::With { namespace, body: body? }
            }
            K::NODE_IF_ELSE => Expr::If {
                condition: self.nth(node, 0)?,
                then: self.nth(node, 1)?,
                otherwise: self.nth(node, 2)?,
            },
            K::NODE_ASSERT => Expr::Assert { condition: self.nth(node, 0)?, body: self.nth(node, 1)? },
            K::NODE_LAMBDA => self.lambda(node)?,
            K::NODE_APPLY => {
                let function = self.child(node, 0)?;
                let argument = self.child(node, 1)?;
                Expr::Call { function: self.operand(function)?, argument: self.operand(argument)? }
            }
            K::NODE_SELECT => Expr::Select(Rc::new(self.select(node)?)),
            K::NODE_HAS_ATTR => Expr::HasAttr(Rc::new(self.select(node)?)),
            K::NODE_BIN_OP => self.binary(node)?,
            K::NODE_UNARY_OP => {
                let operand = self.child(node, 0)?;
                let operand = self.operand(operand)?;
                if node.token(K::TOKEN_SUB).is_some() {
                    self.not_redefined("__sub", node)?;
                    Expr::Negate(operand)
                } else {
                    Expr::Not(operand)
                }
            }
            _ => return Err(self.wrong("unexpected text", node)),
        };
        Ok(self.add(expr, node))
    }

    /// An expression as an operand, argument or element: no bare function.
    fn operand(&mut self, node: Node<'_>) -> Outcome<ExprId> {
        if node.kind() == K::NODE_LAMBDA {
            return Err(self.wrong("a function must be in parentheses here", node));
        }
        self.expr(node)
    }

    fn child<'a>(&self, node: Node<'a>, index: usize) -> Outcome<Node<'a>> {
        node.nodes().nth(index).ok_or_else(|| self.wrong("something is missing here", node))
    }

    pub(super) fn nth(&mut self, node: Node<'_>, index: usize) -> Outcome<ExprId> {
        let child = self.child(node, index)?;
        self.expr(child)
    }

    fn variable(&mut self, node: Node<'_>) -> Outcome<ExprId> {
        let text = node.tokens().next().map_or("", |token| token.text());
        if text == "or" {
            return Err(self.unsupported("`or` as a name", node));
        }
        let name = self.names.intern(text);
        self.resolve(name, self.span(node))
    }

    /// A variable as an expression.
    pub(super) fn resolve(&mut self, name: Sym, at: Span) -> Outcome<ExprId> {
        self.look(at)?;
        let mut with = false;
        for (up, scope) in (0u32..).zip(self.scopes.iter().rev()) {
            let slot = match scope {
                Scope::Names(names) => names.get(&name).copied(),
                Scope::Few(names) => {
                    names.iter().position(|n| *n == name).and_then(|slot| u32::try_from(slot).ok())
                }
                Scope::With => {
                    with = true;
                    None
                }
            };
            if let Some(slot) = slot {
                return Ok(self.add_at(Expr::Var { up, slot }, at));
            }
        }
        let text = Arc::clone(self.names.text(name));
        if builtins::is_unknown(&text) {
            return Err(Stop::new(Sort::Unsupported, format!("the builtin `{text}`"), Some(at)));
        }
        if let Some(expr) = builtins::global(&text) {
            return Ok(self.add_at(expr, at));
        }
        if with {
            return Ok(self.add_at(Expr::WithVar(name), at));
        }
        let help = self.meant(&text);
        let stop = Stop::new(Sort::Eval, format!("undefined variable '{text}'"), Some(at)).help(help);
        let wrong = self.wrong_here(stop)?;
        Ok(self.add_at(Expr::Wrong(wrong), at))
    }

    /// Notes in a survey what is wrong with the file, and gives its index; else the file ends here.
    pub(super) fn wrong_here(&mut self, stop: Stop) -> Outcome<u32> {
        let Some(wrong) = &mut self.code.wrong else { return Err(stop) };
        wrong.push(stop);
        Ok(u32::try_from(wrong.len() - 1).unwrap_or(u32::MAX))
    }

    /// Counts a search through all scopes: what nests deeply and names much would keep us busy for long.
    fn look(&mut self, at: Span) -> Outcome<()> {
        self.looked += 1 + self.scopes.len() as u64;
        if self.looked > MOST_LOOKED {
            return Err(Stop::new(Sort::Budget, "too many names in too many scopes", Some(at)));
        }
        Ok(())
    }

    /// Some operators are calls of builtins by name, in whatever scope they stand.
    fn not_redefined(&mut self, builtin: &str, node: Node<'_>) -> Outcome<()> {
        if self.names.find(builtin).is_none() {
            return Ok(());
        }
        self.look(self.span(node))?;
        let bound = |name: Sym| {
            self.scopes.iter().any(|scope| match scope {
                Scope::Names(names) => names.contains_key(&name),
                Scope::Few(names) => names.contains(&name),
                Scope::With => false,
            })
        };
        if self.names.find(builtin).is_some_and(bound) {
            return Err(self.unsupported(&format!("`{builtin}` redefined"), node));
        }
        Ok(())
    }

    fn let_in(&mut self, node: Node<'_>) -> Outcome<Expr> {
        let defs = self.collect(node)?;
        if let Some((name, ..)) = defs.dynamics.first() {
            return Err(self.wrong("a name in `let` can not be computed", *name));
        }
        let Some(body) =
            node.nodes().last().filter(|n| !matches!(n.kind(), K::NODE_ATTRPATH_VALUE | K::NODE_INHERIT))
        else {
            return Err(self.wrong("nothing after `in`", node));
        };
        let (bindings, _) = self.bindings(defs, true)?;
        let body = self.expr(body);
        self.scopes.pop();
        Ok(Expr::Let { bindings: bindings.into(), body: body? })
    }

    /// A set of definitions as an expression.
    fn attrs(&mut self, defs: Defs<'_>, at: Span) -> Outcome<ExprId> {
        let recursive = defs.recursive;
        if recursive
            && let Some(overrides) = self.names.find("__overrides")
            && defs.entries.iter().any(|def| def.name == overrides)
        {
            return Ok(self.add_at(Expr::Unsupported("`__overrides` in a recursive set".into()), at));
        }
        let (mut statics, dynamics) = self.bindings(defs, recursive)?;
        if recursive {
            self.scopes.pop();
        } else {
            statics.sort_unstable_by_key(|binding| binding.name);
        }
        let attrs = AttrsExpr { recursive, statics: statics.into(), dynamics: dynamics.into() };
        Ok(self.add_at(Expr::Attrs(Rc::new(attrs)), at))
    }

    /// Lowers definitions. With `scope` their names are in scope of each other, and that scope is left open.
    #[allow(clippy::type_complexity, reason = "used in two places, named there")]
    pub(super) fn bindings(
        &mut self,
        defs: Defs<'_>,
        scope: bool,
    ) -> Outcome<(Vec<Binding>, Vec<(ExprId, ExprId, Span)>)> {
        // What is inherited without a source belongs to the scope outside.
        let mut outer = Map::default();
        for def in &defs.entries {
            if matches!(def.value, DefValue::Inherit) {
                self.inheriting = true;
                let resolved = self.resolve(def.name, def.key);
                self.inheriting = false;
                outer.insert(def.name, resolved?);
            }
        }
        if scope {
            let names = defs.entries.iter().map(|def| def.name);
            self.push_names(names.collect());
        }
        // Only a survey says more of a name that nothing binds.
        let beside = !scope && self.code.wrong.is_some();
        if beside {
            self.beside.push(defs.entries.iter().map(|def| def.name).collect());
        }
        let mut froms = Vec::new();
        for from in defs.froms {
            froms.push(self.expr(from)?);
        }
        let mut statics = Vec::with_capacity(defs.entries.len());
        for def in defs.entries {
            let inherited = outer.get(&def.name).copied().filter(|_| matches!(def.value, DefValue::Inherit));
            let value = match (inherited, def.value) {
                (Some(id), _) => id,
                (None, DefValue::InheritFrom(from)) => {
                    let of = froms[from];
                    let select =
                        SelectExpr { of, path: [(Key::Static(def.name), def.key)].into(), default: None };
                    self.add_at(Expr::Select(Rc::new(select)), def.key)
                }
                (None, value) => self.def_value(value, def.key)?,
            };
            statics.push(Binding {
                name: def.name,
                key: def.key,
                value,
                outer: scope && inherited.is_some(),
            });
        }
        let mut dynamics = Vec::with_capacity(defs.dynamics.len());
        for (name, value, key) in defs.dynamics {
            dynamics.push((self.expr(name)?, self.def_value(value, key)?, key));
        }
        if beside {
            self.beside.pop();
        }
        Ok((statics, dynamics))
    }

    fn def_value(&mut self, value: DefValue<'_>, key: Span) -> Outcome<ExprId> {
        match value {
            DefValue::Expr(node) => self.expr(node),
            DefValue::Nested(defs) => self.attrs(*defs, key),
            // Both are dealt with where their scope is known.
            DefValue::Inherit | DefValue::InheritFrom(_) => {
                Err(Stop::new(Sort::Unsupported, "inherit in this place", Some(key)))
            }
        }
    }

    fn push_names(&mut self, names: Vec<Sym>) {
        self.scopes.push(if names.len() <= 8 {
            Scope::Few(names)
        } else {
            Scope::Names(names.into_iter().zip(0..).collect())
        });
    }

    fn lambda(&mut self, node: Node<'_>) -> Outcome<Expr> {
        let param = self.child(node, 0)?;
        let body = self.child(node, 1)?;
        let ident = |this: &mut Self, node: Node<'_>| {
            let text =
                node.nodes().next().and_then(|ident| ident.tokens().next()).map_or("", |token| token.text());
            this.names.intern(text)
        };
        if param.kind() == K::NODE_IDENT_PARAM {
            let name = ident(self, param);
            self.scopes.push(Scope::Few(vec![name]));
            let body = self.expr(body);
            self.scopes.pop();
            return Ok(Expr::Lambda(Rc::new(Lambda { param: Param::Name, body: body? })));
        }
        let mut names = Vec::new();
        let mut seen = HashSet::new();
        let mut defaults = Vec::new();
        let mut bound = None;
        for part in param.nodes() {
            match part.kind() {
                K::NODE_PAT_ENTRY => {
                    let name = ident(self, part);
                    if !seen.insert(name) {
                        return Err(self.wrong("an argument is there twice", part));
                    }
                    names.push(name);
                    defaults.push(part.nodes().nth(1));
                }
                K::NODE_PAT_BIND => bound = Some(ident(self, part)),
                _ => return Err(self.wrong("unexpected text", part)),
            }
        }
        if let Some(all) = bound {
            if seen.contains(&all) {
                return Err(self.wrong("an argument has the name that all of them are bound to", param));
            }
            names.push(all);
        }
        self.push_names(names.clone());
        let mut formals = Vec::new();
        for (name, default) in names.into_iter().zip(defaults) {
            let default = default.map(|node| self.expr(node)).transpose()?;
            formals.push(Formal { name, default });
        }
        let body = self.expr(body);
        self.scopes.pop();
        let ellipsis = param.token(K::TOKEN_ELLIPSIS).is_some();
        let param = Param::Pattern { formals: formals.into(), ellipsis, bound: bound.is_some() };
        Ok(Expr::Lambda(Rc::new(Lambda { param, body: body? })))
    }

    fn select(&mut self, node: Node<'_>) -> Outcome<SelectExpr> {
        let of = self.child(node, 0)?;
        let of = self.operand(of)?;
        let attrpath = self.child(node, 1)?;
        let mut path = Vec::new();
        for attr in attrpath.nodes() {
            let key = match self.attr(attr)? {
                Attr::Static(name) => Key::Static(name),
                Attr::Dynamic(name) => Key::Dynamic(self.expr(name)?),
            };
            path.push((key, self.span(attr)));
        }
        let default = match node.nodes().nth(2) {
            Some(default) => Some(self.operand(default)?),
            None => None,
        };
        Ok(SelectExpr { of, path: path.into(), default })
    }

    fn binary(&mut self, node: Node<'_>) -> Outcome<Expr> {
        let left = self.child(node, 0)?;
        let right = self.child(node, 1)?;
        let op = match node.tokens().next().map(|token| token.kind()) {
            Some(K::TOKEN_CONCAT) => Op::Concat,
            Some(K::TOKEN_UPDATE) => Op::Update,
            Some(K::TOKEN_ADD) => Op::Add,
            Some(K::TOKEN_SUB) => Op::Sub,
            Some(K::TOKEN_MUL) => Op::Mul,
            Some(K::TOKEN_DIV) => Op::Div,
            Some(K::TOKEN_AND_AND) => Op::And,
            Some(K::TOKEN_OR_OR) => Op::Or,
            Some(K::TOKEN_IMPLICATION) => Op::Implies,
            Some(K::TOKEN_EQUAL) => Op::Equal,
            Some(K::TOKEN_NOT_EQUAL) => Op::NotEqual,
            Some(K::TOKEN_LESS) => Op::Less,
            Some(K::TOKEN_LESS_OR_EQ) => Op::LessOrEqual,
            Some(K::TOKEN_MORE) => Op::More,
            Some(K::TOKEN_MORE_OR_EQ) => Op::MoreOrEqual,
            _ => return Err(self.unsupported("a pipe operator", node)),
        };
        match op {
            Op::Sub => self.not_redefined("__sub", node)?,
            Op::Mul => self.not_redefined("__mul", node)?,
            Op::Div => self.not_redefined("__div", node)?,
            Op::Less | Op::LessOrEqual | Op::More | Op::MoreOrEqual => {
                self.not_redefined("__lessThan", node)?;
            }
            _ => {}
        }
        Ok(Expr::Binary { op, left: self.operand(left)?, right: self.operand(right)? })
    }
}
