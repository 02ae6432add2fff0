//! Operators: arithmetic, comparison, equality, joining, and what a value is as text.

use std::{cmp::Ordering, rc::Rc, sync::Arc};

use super::{
    error::{Outcome, Sort},
    expr::{ExprId, Op},
    machine::{EnvId, Machine, Slot, ThunkId, Val, find},
    meant,
};

impl Machine {
    pub(super) fn binary(
        &mut self,
        op: Op,
        left: ExprId,
        right: ExprId,
        env: EnvId,
        id: ExprId,
    ) -> Outcome<Val> {
        match op {
            Op::And => return Ok(Val::Bool(self.eval_bool(left, env)? && self.eval_bool(right, env)?)),
            Op::Or => return Ok(Val::Bool(self.eval_bool(left, env)? || self.eval_bool(right, env)?)),
            Op::Implies => return Ok(Val::Bool(!self.eval_bool(left, env)? || self.eval_bool(right, env)?)),
            _ => {}
        }
        // `a > b` is `b < a` in Nix, and evaluated in that order.
        let (first, second) = match op {
            Op::More | Op::LessOrEqual => (right, left),
            _ => (left, right),
        };
        let a = self.eval_operand(first, env)?;
        let b = self.eval_operand(second, env)?;
        match op {
            Op::Less | Op::More => self.less(&a, &b, id).map(Val::Bool),
            Op::LessOrEqual | Op::MoreOrEqual => self.less(&a, &b, id).map(|less| Val::Bool(!less)),
            Op::Equal => self.equal(&a, &b, id).map(Val::Bool),
            Op::NotEqual => self.equal(&a, &b, id).map(|equal| Val::Bool(!equal)),
            Op::Concat => self.concat_lists(&a, &b, id),
            Op::Update => self.update(&a, &b, id),
            Op::Add => self.add(&a, &b, left, right, id),
            _ => self.arithmetic(op, &a, &b, id),
        }
    }

    fn add(&mut self, a: &Val, b: &Val, left: ExprId, right: ExprId, id: ExprId) -> Outcome<Val> {
        match a {
            Val::Int(_) | Val::Float(_) => self.arithmetic(Op::Add, a, b, id),
            Val::Path(path) => {
                let added = self.coerce(b, right, false)?;
                self.charge(path.len() + added.len())?;
                self.charge_steps((path.len() + added.len()) / 16)?;
                Ok(Val::Path(super::literals::canonical(&format!("{path}{added}")).into()))
            }
            _ => {
                if matches!(b, Val::Path(_)) {
                    return self.unsupported("a path added to a string (Nix copies it to its store)", right);
                }
                let (a, b) = (self.coerce(a, left, false)?, self.coerce(b, right, false)?);
                self.charge(a.len() + b.len())?;
                Ok(Val::Str(format!("{a}{b}").into()))
            }
        }
    }

    pub(super) fn arithmetic(&mut self, op: Op, a: &Val, b: &Val, id: ExprId) -> Outcome<Val> {
        let number = |m: &Machine, value: &Val| match value {
            #[allow(clippy::cast_precision_loss, reason = "as Nix does")]
            Val::Int(number) => Ok(*number as f64),
            Val::Float(number) => Ok(*number),
            other => {
                let message = format!("expected a number, found {}", m.kind(other, id)?);
                m.fail_but(message, meant::as_number(op, other), id)
            }
        };
        if let (Val::Int(a), Val::Int(b)) = (a, b) {
            let result = match op {
                Op::Add => a.checked_add(*b),
                Op::Sub => a.checked_sub(*b),
                Op::Mul => a.checked_mul(*b),
                _ if *b == 0 => return self.fail("division by zero", id),
                _ => a.checked_div(*b),
            };
            // Old versions of Nix wrap around, new ones fail.
            return match result {
                Some(number) => Ok(Val::Int(number)),
                None => self.unsupported("an integer overflow", id),
            };
        }
        let (a, b) = (number(self, a)?, number(self, b)?);
        let result = match op {
            Op::Add => a + b,
            Op::Sub => a - b,
            Op::Mul => a * b,
            _ if b == 0.0 => return self.fail("division by zero", id),
            _ => a / b,
        };
        if result.is_finite() {
            Ok(Val::Float(result))
        } else {
            self.unsupported("a number that is not finite", id)
        }
    }

    pub(super) fn less(&mut self, a: &Val, b: &Val, id: ExprId) -> Outcome<bool> {
        #[allow(clippy::cast_precision_loss, reason = "as Nix does")]
        Ok(match (a, b) {
            (Val::Int(a), Val::Int(b)) => a < b,
            (Val::Float(a), Val::Float(b)) => a < b,
            (Val::Int(a), Val::Float(b)) => (*a as f64) < *b,
            (Val::Float(a), Val::Int(b)) => *a < (*b as f64),
            (Val::Str(a), Val::Str(b)) | (Val::Path(a), Val::Path(b)) => {
                self.charge_text(a.len().min(b.len()))?;
                a.as_bytes() < b.as_bytes()
            }
            (Val::List(a), Val::List(b)) => return self.less_lists(a, b, id),
            (a, b) => {
                let message = format!("can not compare {} with {}", self.kind(a, id)?, self.kind(b, id)?);
                return self.fail(message, id);
            }
        })
    }

    fn less_lists(&mut self, a: &Rc<[ThunkId]>, b: &Rc<[ThunkId]>, id: ExprId) -> Outcome<bool> {
        for (x, y) in a.iter().zip(b.iter()) {
            if !self.equal_thunks(*x, *y, id)? {
                let (x, y) = (self.force(*x)?, self.force(*y)?);
                return self.nested(|m| m.less(&x, &y, id));
            }
        }
        Ok(a.len() < b.len())
    }

    /// `==`.
    pub(super) fn equal(&mut self, a: &Val, b: &Val, id: ExprId) -> Outcome<bool> {
        self.charge_steps(1)?;
        #[allow(clippy::cast_precision_loss, clippy::float_cmp, reason = "as Nix does")]
        Ok(match (a, b) {
            (Val::Int(a), Val::Float(b)) | (Val::Float(b), Val::Int(a)) => *a as f64 == *b,
            (Val::Int(a), Val::Int(b)) => a == b,
            (Val::Float(a), Val::Float(b)) => a == b,
            (Val::Null, Val::Null) => true,
            (Val::Bool(a), Val::Bool(b)) => a == b,
            (Val::Str(a), Val::Str(b)) | (Val::Path(a), Val::Path(b)) => {
                self.charge_text(a.len().min(b.len()))?;
                a == b
            }
            (Val::List(a), Val::List(b)) => {
                if a.len() != b.len() {
                    return Ok(false);
                }
                for (x, y) in a.iter().zip(b.iter()) {
                    if !self.equal_thunks(*x, *y, id)? {
                        return Ok(false);
                    }
                }
                true
            }
            (Val::Attrs(a), Val::Attrs(b)) => return self.equal_sets(a, b, id),
            (Val::Lambda(..) | Val::Builtin(..), Val::Lambda(..) | Val::Builtin(..)) => {
                return self.unsupported("comparing functions", id);
            }
            (Val::Builtins, _) | (_, Val::Builtins) => return self.unsupported("`builtins` as a value", id),
            _ => false,
        })
    }

    fn equal_sets(&mut self, a: &Rc<[Slot]>, b: &Rc<[Slot]>, id: ExprId) -> Outcome<bool> {
        if let Some(name) = self.names.find("type")
            && let (Some(x), Some(y)) = (find(a, name), find(b, name))
        {
            let derivation = |value: &Val| matches!(value, Val::Str(text) if text.as_ref() == "derivation");
            if derivation(&self.force(x.value)?) && derivation(&self.force(y.value)?) {
                return self.unsupported("comparing derivations", id);
            }
        }
        self.charge_items(a.len().min(b.len()))?;
        if a.len() != b.len() || a.iter().zip(b.iter()).any(|(x, y)| x.name != y.name) {
            return Ok(false);
        }
        // The order in which Nix compares attributes is not defined: if one differs and another fails, its
        // answer depends on that order.
        let (mut different, mut failed) = (false, None);
        for (x, y) in a.iter().zip(b.iter()) {
            match self.equal_thunks(x.value, y.value, id) {
                Ok(equal) => different |= !equal,
                Err(stop) if stop.sort() == Sort::Budget => return Err(stop),
                Err(stop) => failed = failed.or(Some(stop)),
            }
        }
        match failed {
            Some(_) if different => self.unsupported("comparing sets of which an attribute fails", id),
            Some(stop) => Err(stop),
            None => Ok(!different),
        }
    }

    pub(super) fn equal_thunks(&mut self, a: ThunkId, b: ThunkId, id: ExprId) -> Outcome<bool> {
        let (x, y) = (self.force(a)?, self.force(b)?);
        let outcome = self.nested(|m| m.equal(&x, &y, id));
        match outcome {
            // Nix may take one and the same value for equal to itself without looking inside.
            Err(stop) if a == b && stop.sort() != Sort::Budget => {
                self.unsupported("comparing a value with itself that can not be compared", id)
            }
            outcome => outcome,
        }
    }

    fn concat_lists(&mut self, a: &Val, b: &Val, id: ExprId) -> Outcome<Val> {
        match (a, b) {
            (Val::List(a), Val::List(b)) => {
                self.charge((a.len() + b.len()) * size_of::<ThunkId>())?;
                self.charge_steps((a.len() + b.len()) / 16)?;
                Ok(Val::List(a.iter().chain(b.iter()).copied().collect()))
            }
            (Val::List(_), other) | (other, _) => {
                let message = format!("`++` joins lists, found {}", self.kind(other, id)?);
                self.fail_but(message, meant::joined(Op::Concat, a, b), id)
            }
        }
    }

    fn update(&mut self, a: &Val, b: &Val, id: ExprId) -> Outcome<Val> {
        let (Val::Attrs(left), Val::Attrs(right)) = (a, b) else {
            let other = if matches!(a, Val::Attrs(_)) { b } else { a };
            let message = format!("`//` joins sets, found {}", self.kind(other, id)?);
            return self.fail_but(message, meant::joined(Op::Update, a, b), id);
        };
        self.charge((left.len() + right.len()) * size_of::<Slot>())?;
        self.charge_steps((left.len() + right.len()) / 16)?;
        let mut slots = Vec::with_capacity(left.len() + right.len());
        let (mut l, mut r) = (left.iter().peekable(), right.iter().peekable());
        loop {
            let order = match (l.peek(), r.peek()) {
                (Some(x), Some(y)) => x.name.cmp(&y.name),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => break,
            };
            if order != Ordering::Greater {
                let left = l.next();
                slots.extend(left.filter(|_| order == Ordering::Less));
            }
            if order != Ordering::Less {
                slots.extend(r.next());
            }
        }
        Ok(Val::Attrs(slots.into()))
    }

    /// A value as part of a string. `more` also takes numbers, booleans, null and lists, as `toString` does.
    pub(super) fn coerce(&mut self, value: &Val, at: ExprId, more: bool) -> Outcome<Arc<str>> {
        Ok(match value {
            Val::Str(text) => Arc::clone(text),
            Val::Path(path) => Arc::clone(path),
            Val::Attrs(attrs) => {
                let method = self.names.find("__toString").and_then(|name| find(attrs, name));
                if let Some(method) = method {
                    let attrs = Rc::clone(attrs);
                    return self.nested(|m| {
                        let function = m.force(method.value)?;
                        let this = m.done(Val::Attrs(attrs), at)?;
                        let text = m.call(function, this, at)?;
                        if matches!(text, Val::Path(_)) && !more {
                            return m.unsupported("a path inside a string (Nix copies it to its store)", at);
                        }
                        m.coerce(&text, at, more)
                    });
                }
                let Some(out) = self.names.find("outPath").and_then(|name| find(attrs, name)) else {
                    return self.fail("a set can not be part of a string", at);
                };
                let out = self.force(out.value)?;
                if matches!(out, Val::Path(_)) && !more {
                    return self.unsupported("a path inside a string (Nix copies it to its store)", at);
                }
                return self.nested(|m| m.coerce(&out, at, more));
            }
            Val::Int(number) if more => number.to_string().into(),
            Val::Float(number) if more => format!("{number:.6}").into(),
            Val::Bool(b) if more => (if *b { "1" } else { "" }).into(),
            Val::Null if more => "".into(),
            Val::List(items) if more => {
                let mut text = String::new();
                let last = items.len().saturating_sub(1);
                for (index, item) in items.iter().enumerate() {
                    let item = self.force(*item)?;
                    let part = self.nested(|m| m.coerce(&item, at, more))?;
                    self.charge_steps(1)?;
                    self.charge(part.len() + 1)?;
                    text.push_str(&part);
                    // Nix puts no space after an empty list.
                    if index < last && !matches!(&item, Val::List(inner) if inner.is_empty()) {
                        text.push(' ');
                    }
                }
                text.into()
            }
            other => {
                let message = format!("{} can not be part of a string", self.kind(other, at)?);
                let help = matches!(other, Val::Int(_) | Val::Float(_)).then_some(meant::TO_STRING);
                return self.fail_but(message, help, at);
            }
        })
    }
}
