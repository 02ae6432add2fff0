//! Names: what is in scope, sets and what is selected from them.

use std::collections::HashSet;

use super::{
    error::{Outcome, Sort, Stop},
    expr::{AttrsExpr, Binding, Expr, ExprId, Key, SelectExpr, Sym},
    machine::{EnvId, Machine, ROOT, Slot, State, Val, find},
};

impl Machine {
    pub(super) fn with_variable(&mut self, name: Sym, env: EnvId, id: ExprId) -> Outcome<Val> {
        let mut env = env;
        loop {
            self.charge_steps(1)?;
            let (parent, with) = (self.envs[env as usize].parent, self.envs[env as usize].with);
            if let Some(namespace) = with {
                match self.force(namespace)? {
                    Val::Attrs(attrs) => {
                        if let Some(slot) = find(&attrs, name) {
                            return self.force(slot.value);
                        }
                    }
                    Val::Builtins => return self.builtin_named(name, id),
                    other => {
                        let message = format!("`with` needs a set, found {}", self.kind(&other, id)?);
                        return self.fail(message, id);
                    }
                }
            }
            if env == ROOT {
                return self.fail(format!("undefined variable '{}'", self.names.text(name)), id);
            }
            env = parent;
        }
    }

    /// An environment whose bindings see each other.
    pub(super) fn recursive_env(&mut self, bindings: &[Binding], outer: EnvId) -> Outcome<EnvId> {
        let env = self.add_env(outer, None, vec![0; bindings.len()].into())?;
        // Variables that stand for another one of the same scope can only be followed once that one is there.
        let mut slots = Vec::with_capacity(bindings.len());
        for binding in bindings {
            let home = if binding.outer { outer } else { env };
            let aliased = matches!(self.code.exprs[binding.value as usize], Expr::Var { up: 0, .. });
            slots.push(if aliased && !binding.outer {
                self.add_thunk(State::Suspended(home), binding.value)?
            } else {
                self.suspend(binding.value, home)?
            });
        }
        self.envs[env as usize].slots = slots.into();
        Ok(env)
    }

    pub(super) fn attrs(&mut self, attrs: &AttrsExpr, env: EnvId) -> Outcome<Val> {
        self.charge((attrs.statics.len() + attrs.dynamics.len()) * size_of::<Slot>())?;
        let mut slots = Vec::with_capacity(attrs.statics.len() + attrs.dynamics.len());
        let mut home = env;
        if attrs.recursive {
            home = self.recursive_env(&attrs.statics, env)?;
            let values = self.envs[home as usize].slots.iter();
            slots.extend(attrs.statics.iter().zip(values).map(|(b, value)| Slot {
                name: b.name,
                value: *value,
                key: b.key,
            }));
            slots.sort_unstable_by_key(|slot| slot.name);
        } else {
            for binding in &attrs.statics {
                slots.push(Slot {
                    name: binding.name,
                    value: self.suspend(binding.value, env)?,
                    key: binding.key,
                });
            }
        }
        let fixed = slots.len();
        let mut computed = HashSet::new();
        for (name, value, key) in &attrs.dynamics {
            let text = match self.eval(*name, home)? {
                Val::Str(text) => text,
                // A null name defines nothing.
                Val::Null => continue,
                other => {
                    let message =
                        format!("an attribute name must be a string, not {}", self.kind(&other, *name)?);
                    return self.fail(message, *name);
                }
            };
            let name_id = self.intern(&text)?;
            if find(&slots[..fixed], name_id).is_some() || !computed.insert(name_id) {
                return self.fail(format!("attribute '{text}' is already defined"), *name);
            }
            let value = self.suspend(*value, home)?;
            slots.push(Slot { name: name_id, value, key: *key });
        }
        if slots.len() > fixed {
            slots.sort_unstable_by_key(|slot| slot.name);
        }
        Ok(Val::Attrs(slots.into()))
    }

    pub(super) fn key(&mut self, key: Key, env: EnvId) -> Outcome<Sym> {
        match key {
            Key::Static(name) => Ok(name),
            Key::Dynamic(id) => match self.eval(id, env)? {
                Val::Str(text) => self.intern(&text),
                other => {
                    let message =
                        format!("an attribute name must be a string, not {}", self.kind(&other, id)?);
                    self.fail(message, id)
                }
            },
        }
    }

    pub(super) fn select(&mut self, select: &SelectExpr, env: EnvId, id: ExprId) -> Outcome<Val> {
        self.charge_steps(select.path.len())?;
        let mut value = self.eval(select.of, env)?;
        for (key, at) in &select.path {
            let name = self.key(*key, env)?;
            value = match (&value, select.default) {
                (Val::Builtins, _) => self.builtin_named(name, id)?,
                (Val::Attrs(attrs), default) => match (find(attrs, name), default) {
                    (Some(slot), _) => self.force(slot.value)?,
                    (None, Some(default)) => return self.eval(default, env),
                    (None, None) => {
                        let message = format!("attribute '{}' is missing", self.names.text(name));
                        let help = self.did_you_mean(name, attrs.iter().map(|slot| slot.name));
                        return Err(Stop::new(Sort::Eval, message, Some(*at)).help(help));
                    }
                },
                (_, Some(default)) => return self.eval(default, env),
                (other, None) => {
                    let kind = self.kind(other, id)?;
                    let message = format!("expected a set with '{}', found {kind}", self.names.text(name));
                    return Err(Stop::new(Sort::Eval, message, Some(*at)));
                }
            };
        }
        Ok(value)
    }

    pub(super) fn has_attr(&mut self, select: &SelectExpr, env: EnvId) -> Outcome<bool> {
        self.charge_steps(select.path.len())?;
        let mut value = self.eval(select.of, env)?;
        let last = select.path.len().saturating_sub(1);
        for (index, (key, at)) in select.path.iter().enumerate() {
            let name = self.key(*key, env)?;
            let slot = match &value {
                Val::Attrs(attrs) => find(attrs, name),
                Val::Builtins => {
                    return Err(Stop::new(Sort::Unsupported, "asking what `builtins` has", Some(*at)));
                }
                _ => None,
            };
            match slot {
                None => return Ok(false),
                Some(_) if index == last => return Ok(true),
                Some(slot) => value = self.force(slot.value)?,
            }
        }
        Ok(true)
    }
}
