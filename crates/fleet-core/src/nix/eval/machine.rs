//! The evaluator proper: thunks and environments in two tables, forced by recursion of bounded depth.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    rc::Rc,
    sync::Arc,
};

use super::{
    Budget,
    builtins::{Builtin, Compiled},
    code::{Code, Names},
    error::{Outcome, Sort, Stop},
    expr::{Expr, ExprId, Lambda, Op, Sym},
    literals::canonical,
    meant,
    survey::Found,
};
use crate::nix::{
    parts::PART,
    source::{Sources, Span},
};

/// Index of a thunk.
pub(super) type ThunkId = u32;
/// Index of an environment.
pub(super) type EnvId = u32;

/// A value in weak head normal form. What is inside it is a thunk: dropping one never recurses.
#[derive(Debug, Clone)]
pub(super) enum Val {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Str(Arc<str>),
    Path(Arc<str>),
    List(Rc<[ThunkId]>),
    Attrs(Rc<[Slot]>),
    Lambda(Rc<Lambda>, EnvId),
    /// A builtin with the arguments it has so far.
    Builtin(&'static Builtin, Rc<[ThunkId]>),
    /// The set `builtins`: only ever selected from.
    Builtins,
}

/// One attribute. Sets are sorted by [`Slot::name`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Slot {
    pub name: Sym,
    pub value: ThunkId,
    pub key: Span,
}

/// A key that stands in no file.
pub(super) const NOWHERE: Span = Span { file: u32::MAX, start: 0, end: 0 };

#[derive(Debug, Clone)]
pub(super) enum State {
    /// Not needed yet.
    Suspended(EnvId),
    /// A function to be applied to one or two values, for what builtins return lazily.
    Apply(ThunkId, ThunkId, Option<ThunkId>),
    /// Being evaluated: needing it again is an infinite recursion.
    Running,
    Done(Val),
    /// Why it has no value, which only a survey keeps: whoever needs it next is told the same.
    Failed(Stop),
}

#[derive(Debug)]
struct Thunk {
    state: State,
    /// The expression it came from, for its place.
    expr: ExprId,
}

#[derive(Debug)]
pub(super) struct Env {
    pub parent: EnvId,
    pub with: Option<ThunkId>,
    pub slots: Box<[ThunkId]>,
}

/// One evaluation.
pub(super) struct Machine {
    pub(super) names: Names,
    pub(super) code: Code,
    pub(super) sources: Sources,
    thunks: Vec<Thunk>,
    pub(super) envs: Vec<Env>,
    /// Files imported so far; `None` while one is being evaluated.
    pub(super) imports: HashMap<PathBuf, Option<ThunkId>>,
    /// The file whose text is given, and may not be the one on the disk: whoever reads it in there reads this text.
    pub(super) given: Option<(PathBuf, Arc<str>)>,
    /// What a survey found; without one the first error ends the evaluation.
    pub(super) survey: Option<Found>,
    /// Regular expressions so far, with whether the whole text is meant; `None` for those that are left to Nix.
    pub(super) regexes: HashMap<(Arc<str>, bool), Option<Rc<Compiled>>>,
    pub(super) budget: Budget,
    /// How large the parts are that a large set is read in, in bytes.
    pub(super) part: usize,
    steps: u64,
    depth: u32,
    memory: u64,
}

/// What a name takes beside its text, in the two tables that it is in.
const NAME_BYTES: usize = 64;

/// The outermost environment.
pub(super) const ROOT: EnvId = 0;

impl Machine {
    pub(super) fn new(budget: Budget) -> Machine {
        let root = Env { parent: ROOT, with: None, slots: Box::default() };
        Machine {
            names: Names::default(),
            code: Code::default(),
            sources: Sources::default(),
            thunks: Vec::new(),
            envs: vec![root],
            imports: HashMap::new(),
            given: None,
            survey: None,
            regexes: HashMap::new(),
            budget,
            part: PART,
            steps: 0,
            depth: 0,
            memory: 0,
        }
    }

    // --- budgets -----------------------------------------------------------------------------------------

    /// Counts work that is not a step of its own.
    pub(super) fn charge_steps(&mut self, steps: usize) -> Outcome<()> {
        self.steps = self.steps.saturating_add(steps as u64);
        if self.steps > self.budget.steps {
            let message = format!("more than {} steps of evaluation", self.budget.steps);
            return Err(Stop::new(Sort::Budget, message, None));
        }
        Ok(())
    }

    /// Counts going through this many bytes of text.
    pub(super) fn charge_text(&mut self, bytes: usize) -> Outcome<()> {
        self.charge_steps(bytes / 128)
    }

    /// Counts going through this many elements of a list or attributes of a set.
    pub(super) fn charge_items(&mut self, items: usize) -> Outcome<()> {
        self.charge_steps(items / 8)
    }

    /// Counts a question to the file system.
    pub(super) fn charge_file(&mut self) -> Outcome<()> {
        self.charge_steps(100)
    }

    /// A name that was computed.
    pub(super) fn intern(&mut self, name: &str) -> Outcome<Sym> {
        self.charge_text(name.len())?;
        match self.names.find(name) {
            Some(known) => Ok(known),
            None => {
                self.charge(name.len() + NAME_BYTES)?;
                Ok(self.names.intern(name))
            }
        }
    }

    /// Counts memory; nothing is ever given back before the end.
    pub(super) fn charge(&mut self, bytes: usize) -> Outcome<()> {
        self.memory = self.memory.saturating_add(bytes as u64);
        if self.memory > self.budget.memory {
            let message = format!("more than {} MiB of memory", self.budget.memory >> 20);
            return Err(Stop::new(Sort::Budget, message, None));
        }
        Ok(())
    }

    /// Runs something one level deeper.
    pub(super) fn nested<T>(&mut self, work: impl FnOnce(&mut Machine) -> Outcome<T>) -> Outcome<T> {
        if self.depth >= self.budget.depth {
            let message = format!("evaluation nested deeper than {} levels", self.budget.depth);
            return Err(Stop::new(Sort::Budget, message, None));
        }
        self.depth += 1;
        let outcome = work(self);
        self.depth -= 1;
        outcome
    }

    pub(super) fn span(&self, id: ExprId) -> Span {
        self.code.spans.get(id as usize).copied().unwrap_or(NOWHERE)
    }

    pub(super) fn fail<T>(&self, message: impl Into<String>, at: ExprId) -> Outcome<T> {
        self.fail_but(message, None::<String>, at)
    }

    /// The same with what would be right.
    pub(super) fn fail_but<T>(
        &self,
        message: impl Into<String>,
        help: Option<impl Into<String>>,
        at: ExprId,
    ) -> Outcome<T> {
        Err(Stop::new(Sort::Eval, message, Some(self.span(at))).help(help.map(Into::into)))
    }

    pub(super) fn unsupported<T>(&self, message: impl Into<String>, at: ExprId) -> Outcome<T> {
        Err(Stop::new(Sort::Unsupported, message, Some(self.span(at))))
    }

    // --- thunks and environments ---------------------------------------------------------------------------

    pub(super) fn add_thunk(&mut self, state: State, expr: ExprId) -> Outcome<ThunkId> {
        self.charge(size_of::<Thunk>())?;
        self.thunks.push(Thunk { state, expr });
        // The memory budget ends an evaluation long before the numbers do.
        ThunkId::try_from(self.thunks.len() - 1).map_err(|_| Stop::new(Sort::Budget, "too many values", None))
    }

    pub(super) fn done(&mut self, value: Val, expr: ExprId) -> Outcome<ThunkId> {
        self.add_thunk(State::Done(value), expr)
    }

    /// `function argument [second]`, evaluated when it is needed.
    pub(super) fn apply_later(
        &mut self,
        function: ThunkId,
        argument: ThunkId,
        second: Option<ThunkId>,
        expr: ExprId,
    ) -> Outcome<ThunkId> {
        self.add_thunk(State::Apply(function, argument, second), expr)
    }

    pub(super) fn thunk_expr(&self, id: ThunkId) -> ExprId {
        self.thunks[id as usize].expr
    }

    /// Where it is to be evaluated, if it has not been.
    pub(super) fn suspended(&self, id: ThunkId) -> Option<EnvId> {
        match self.thunks[id as usize].state {
            State::Suspended(env) => Some(env),
            _ => None,
        }
    }

    pub(super) fn add_env(
        &mut self,
        parent: EnvId,
        with: Option<ThunkId>,
        slots: Box<[ThunkId]>,
    ) -> Outcome<EnvId> {
        self.charge(size_of::<Env>() + slots.len() * size_of::<ThunkId>())?;
        self.envs.push(Env { parent, with, slots });
        EnvId::try_from(self.envs.len() - 1).map_err(|_| Stop::new(Sort::Budget, "too many scopes", None))
    }

    fn lookup(&mut self, env: EnvId, up: u32, slot: u32) -> Outcome<ThunkId> {
        self.charge_items(up as usize)?;
        let mut env = &self.envs[env as usize];
        for _ in 0..up {
            env = &self.envs[env.parent as usize];
        }
        Ok(env.slots[slot as usize])
    }

    /// The value of an expression, when it is needed.
    pub(super) fn suspend(&mut self, id: ExprId, env: EnvId) -> Outcome<ThunkId> {
        let value = match &self.code.exprs[id as usize] {
            Expr::Var { up, slot } => {
                let (up, slot) = (*up, *slot);
                return self.lookup(env, up, slot);
            }
            Expr::Null => Val::Null,
            Expr::Bool(b) => Val::Bool(*b),
            Expr::Int(number) => Val::Int(*number),
            Expr::Float(number) => Val::Float(*number),
            Expr::Str(text) => Val::Str(Arc::clone(text)),
            Expr::Path(path) => Val::Path(Arc::clone(path)),
            Expr::Lambda(lambda) => Val::Lambda(Rc::clone(lambda), env),
            _ => return self.add_thunk(State::Suspended(env), id),
        };
        self.done(value, id)
    }

    /// The value of a thunk.
    pub(super) fn force(&mut self, id: ThunkId) -> Outcome<Val> {
        let thunk = &mut self.thunks[id as usize];
        let expr = thunk.expr;
        match &thunk.state {
            State::Done(value) => return Ok(value.clone()),
            State::Failed(stop) => return Err(stop.clone()),
            _ => {}
        }
        let state = std::mem::replace(&mut thunk.state, State::Running);
        let outcome = match &state {
            State::Suspended(env) => self.eval(expr, *env),
            State::Apply(function, argument, second) => {
                let (function, argument, second) = (*function, *argument, *second);
                self.nested(|m| {
                    let f = m.force(function)?;
                    let value = m.call(f, argument, expr)?;
                    match second {
                        Some(second) => m.call(value, second, expr),
                        None => Ok(value),
                    }
                })
            }
            State::Running | State::Done(_) | State::Failed(_) => {
                let help = "what a value is made of may not need the value itself".to_owned();
                Err(Stop::new(Sort::Eval, "infinite recursion", Some(self.span(expr))).help(Some(help)))
            }
        };
        let thunk = &mut self.thunks[id as usize];
        match outcome {
            Ok(value) => {
                thunk.state = State::Done(value.clone());
                Ok(value)
            }
            Err(stop) => {
                thunk.state = match &self.survey {
                    Some(_) if !matches!(state, State::Running) => State::Failed(stop.clone()),
                    _ => state,
                };
                Err(stop)
            }
        }
    }

    /// Evaluates a file's root expression, when it is needed.
    pub(super) fn suspend_root(&mut self, id: ExprId) -> Outcome<ThunkId> {
        self.suspend(id, ROOT)
    }

    // --- expressions ---------------------------------------------------------------------------------------

    pub(super) fn eval(&mut self, id: ExprId, env: EnvId) -> Outcome<Val> {
        self.charge_steps(1).map_err(|stop| stop.or_at(self.span(id)))?;
        let expr = self.code.exprs[id as usize].clone();
        self.nested(|m| m.eval_expr(id, &expr, env)).map_err(|stop| stop.or_at(self.span(id)))
    }

    fn eval_expr(&mut self, id: ExprId, expr: &Expr, env: EnvId) -> Outcome<Val> {
        Ok(match expr {
            Expr::Null => Val::Null,
            Expr::Bool(b) => Val::Bool(*b),
            Expr::Int(number) => Val::Int(*number),
            Expr::Float(number) => Val::Float(*number),
            Expr::Str(text) => Val::Str(Arc::clone(text)),
            Expr::Path(path) => Val::Path(Arc::clone(path)),
            Expr::Builtin(builtin) => return self.start_builtin(builtin, id),
            Expr::Builtins => Val::Builtins,
            Expr::Lambda(lambda) => Val::Lambda(Rc::clone(lambda), env),
            Expr::Var { up, slot } => {
                let thunk = self.lookup(env, *up, *slot)?;
                return self.force(thunk);
            }
            Expr::WithVar(name) => return self.with_variable(*name, env, id),
            Expr::Concat(parts) => return self.concat_string(parts, env),
            Expr::PathConcat(parts) => return self.concat_path(parts, env),
            Expr::List(items) => {
                self.charge(items.len() * size_of::<ThunkId>())?;
                let items = items.iter().map(|item| self.suspend(*item, env)).collect::<Outcome<_>>()?;
                Val::List(items)
            }
            Expr::Attrs(attrs) => return self.attrs(attrs, env),
            Expr::Let { bindings, body } => {
                let env = self.recursive_env(bindings, env)?;
                return self.eval(*body, env);
            }
            Expr::With { namespace, body } => {
                let namespace = self.suspend(*namespace, env)?;
                let env = self.add_env(env, Some(namespace), Box::default())?;
                return self.eval(*body, env);
            }
            Expr::If { condition, then, otherwise } => {
                let chosen = if self.eval_bool(*condition, env)? { *then } else { *otherwise };
                return self.eval(chosen, env);
            }
            Expr::Assert { condition, body } => {
                if !self.eval_bool(*condition, env)? {
                    return Err(Stop::new(Sort::Thrown, "assertion failed", Some(self.span(*condition))));
                }
                return self.eval(*body, env);
            }
            Expr::Call { function, argument } => {
                let argument = self.suspend(*argument, env)?;
                let function = self.eval(*function, env)?;
                return self.call(function, argument, id);
            }
            Expr::Select(select) => return self.select(select, env, id),
            Expr::HasAttr(select) => return self.has_attr(select, env).map(Val::Bool),
            Expr::Binary { op, left, right } => return self.binary(*op, *left, *right, env, id),
            Expr::Not(operand) => Val::Bool(!self.eval_bool(*operand, env)?),
            Expr::Negate(operand) => {
                let operand = self.eval(*operand, env)?;
                return self.arithmetic(Op::Sub, &Val::Int(0), &operand, id);
            }
            Expr::Unsupported(what) => return self.unsupported(what.as_ref(), id),
            Expr::Wrong(index) => {
                let known = self.code.wrong.as_ref().and_then(|wrong| wrong.get(*index as usize));
                return Err(known.cloned().unwrap_or_else(|| Stop::new(Sort::Eval, "is wrong", None)));
            }
        })
    }

    pub(super) fn eval_bool(&mut self, id: ExprId, env: EnvId) -> Outcome<bool> {
        match self.eval(id, env)? {
            Val::Bool(b) => Ok(b),
            other => {
                let message = format!("expected a boolean, found {}", self.kind(&other, id)?);
                self.fail_but(message, meant::as_boolean(&other), id)
            }
        }
    }

    pub(super) fn eval_operand(&mut self, id: ExprId, env: EnvId) -> Outcome<Val> {
        self.eval(id, env)
    }

    fn concat_path(&mut self, parts: &[ExprId], env: EnvId) -> Outcome<Val> {
        let mut text = String::new();
        for part in parts {
            let value = self.eval(*part, env)?;
            let part = self.coerce(&value, *part, false)?;
            self.charge(part.len())?;
            text.push_str(&part);
        }
        self.charge_steps(text.len() / 16)?;
        Ok(Val::Path(canonical(&text).into()))
    }

    fn concat_string(&mut self, parts: &[ExprId], env: EnvId) -> Outcome<Val> {
        let mut text = String::new();
        for part in parts {
            let value = self.eval(*part, env)?;
            if matches!(value, Val::Path(_)) {
                return self.unsupported("a path inside a string (Nix copies it to its store)", *part);
            }
            let part = self.coerce(&value, *part, false)?;
            self.charge(part.len())?;
            text.push_str(&part);
        }
        Ok(Val::Str(text.into()))
    }
}

/// The attribute of this name.
pub(super) fn find(attrs: &[Slot], name: Sym) -> Option<Slot> {
    attrs.binary_search_by_key(&name, |slot| slot.name).ok().and_then(|at| attrs.get(at)).copied()
}

/// The directory that a file's relative paths are relative to.
pub(super) fn base_of(file: &Path) -> PathBuf {
    file.parent().map_or_else(|| PathBuf::from("/"), Path::to_path_buf)
}
