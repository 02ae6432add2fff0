//! Applying functions.

use std::rc::Rc;

use super::{
    error::Outcome,
    expr::{ExprId, Lambda, Param},
    machine::{EnvId, Machine, Slot, State, ThunkId, Val, find},
    meant,
};

impl Machine {
    /// Applies a function to one argument.
    pub(super) fn call(&mut self, function: Val, argument: ThunkId, id: ExprId) -> Outcome<Val> {
        match function {
            Val::Lambda(lambda, env) => {
                let env = self.bind(&lambda, env, argument, id)?;
                self.eval(lambda.body, env)
            }
            Val::Builtin(builtin, args) => {
                let args: Rc<[ThunkId]> = args.iter().copied().chain([argument]).collect();
                if args.len() < builtin.arity {
                    return Ok(Val::Builtin(builtin, args));
                }
                self.charge_steps(1)?;
                self.nested(|m| (builtin.run)(m, &args, id)).map_err(|stop| stop.or_at(self.span(id)))
            }
            Val::Attrs(attrs) => {
                let functor = self.names.find("__functor").and_then(|name| find(&attrs, name));
                let Some(functor) = functor else {
                    let message = "a set can not be called like a function";
                    return self.fail_but(message, meant::called(&Val::Attrs(attrs), ""), id);
                };
                self.nested(|m| {
                    let function = m.force(functor.value)?;
                    let this = m.done(Val::Attrs(attrs), id)?;
                    let method = m.call(function, this, id)?;
                    m.call(method, argument, id)
                })
            }
            other => {
                let message = format!("{} can not be called like a function", self.kind(&other, id)?);
                let span = self.span(id);
                let text = self
                    .sources
                    .get(span.file)
                    .and_then(|source| source.text.get(span.start as usize..span.end as usize));
                let help = meant::called(&other, text.unwrap_or_default());
                self.fail_but(message, help, id)
            }
        }
    }

    pub(super) fn bind(
        &mut self,
        lambda: &Lambda,
        outer: EnvId,
        argument: ThunkId,
        id: ExprId,
    ) -> Outcome<EnvId> {
        let Param::Pattern { formals, ellipsis, bound } = &lambda.param else {
            return self.add_env(outer, None, [argument].into());
        };
        let value = self.force(argument)?;
        let Val::Attrs(given) = value else {
            let message = format!("the function wants a set, found {}", self.kind(&value, id)?);
            return self.fail(message, id);
        };
        let count = formals.len() + usize::from(*bound);
        let env = self.add_env(outer, None, vec![0; count].into())?;
        let mut slots = Vec::with_capacity(count);
        let mut used = 0;
        for formal in formals {
            slots.push(match (find(&given, formal.name), formal.default) {
                (Some(slot), _) => {
                    used += 1;
                    slot.value
                }
                // A default may name any argument, also one whose slot is not filled yet.
                (None, Some(default)) => self.add_thunk(State::Suspended(env), default)?,
                (None, None) => {
                    return self.fail(format!("argument '{}' is missing", self.names.text(formal.name)), id);
                }
            });
        }
        if used < given.len() && !ellipsis {
            let known = |slot: &&Slot| formals.iter().any(|formal| formal.name == slot.name);
            let extra = given.iter().find(|slot| !known(slot)).map_or(0, |slot| slot.name);
            let message = format!("unexpected argument '{}'", self.names.text(extra));
            let help = self.did_you_mean(extra, formals.iter().map(|formal| formal.name));
            return self.fail_but(message, help, id);
        }
        if *bound {
            slots.push(argument);
        }
        self.envs[env as usize].slots = slots.into();
        Ok(env)
    }

    /// What people call a value's type. `builtins` as a value is not covered.
    pub(super) fn kind(&self, value: &Val, at: ExprId) -> Outcome<&'static str> {
        Ok(match value {
            Val::Null => "null",
            Val::Bool(_) => "a boolean",
            Val::Int(_) => "an integer",
            Val::Float(_) => "a floating-point number",
            Val::Str(_) => "a string",
            Val::Path(_) => "a path",
            Val::List(_) => "a list",
            Val::Attrs(_) => "a set",
            Val::Lambda(..) | Val::Builtin(..) => "a function",
            Val::Builtins => return self.unsupported("`builtins` as a value", at),
        })
    }
}
