//! Builtins that decide whether and how something is evaluated, ask for types, and read files.

use std::{collections::HashSet, path::PathBuf, rc::Rc};

use super::{Builtin, Sort};
use crate::nix::eval::{
    error::{Outcome, Stop},
    expr::{ExprId, Param},
    machine::{Machine, NOWHERE, Slot, ThunkId, Val},
};

pub(super) const ALL: &[Builtin] = &[
    Builtin { name: "abort", arity: 1, run: abort },
    Builtin { name: "throw", arity: 1, run: throw },
    Builtin { name: "tryEval", arity: 1, run: try_eval },
    Builtin { name: "trace", arity: 2, run: trace },
    Builtin { name: "addErrorContext", arity: 2, run: add_error_context },
    Builtin { name: "seq", arity: 2, run: seq },
    Builtin { name: "deepSeq", arity: 2, run: deep_seq },
    Builtin { name: "import", arity: 1, run: import },
    Builtin { name: "pathExists", arity: 1, run: path_exists },
    Builtin { name: "readFile", arity: 1, run: read_file },
    Builtin { name: "readDir", arity: 1, run: read_dir },
    Builtin { name: "functionArgs", arity: 1, run: function_args },
    Builtin { name: "typeOf", arity: 1, run: type_of },
    Builtin { name: "isAttrs", arity: 1, run: |m, a, at| is(m, a, at, |v| matches!(v, Val::Attrs(_))) },
    Builtin { name: "isBool", arity: 1, run: |m, a, at| is(m, a, at, |v| matches!(v, Val::Bool(_))) },
    Builtin { name: "isFloat", arity: 1, run: |m, a, at| is(m, a, at, |v| matches!(v, Val::Float(_))) },
    Builtin {
        name: "isFunction",
        arity: 1,
        run: |m, a, at| is(m, a, at, |v| matches!(v, Val::Lambda(..) | Val::Builtin(..))),
    },
    Builtin { name: "isInt", arity: 1, run: |m, a, at| is(m, a, at, |v| matches!(v, Val::Int(_))) },
    Builtin { name: "isList", arity: 1, run: |m, a, at| is(m, a, at, |v| matches!(v, Val::List(_))) },
    Builtin { name: "isNull", arity: 1, run: |m, a, at| is(m, a, at, |v| matches!(v, Val::Null)) },
    Builtin { name: "isPath", arity: 1, run: |m, a, at| is(m, a, at, |v| matches!(v, Val::Path(_))) },
    Builtin { name: "isString", arity: 1, run: |m, a, at| is(m, a, at, |v| matches!(v, Val::Str(_))) },
];

fn is(m: &mut Machine, args: &[ThunkId], at: ExprId, test: fn(&Val) -> bool) -> Outcome<Val> {
    let value = m.force(args[0])?;
    m.kind(&value, at)?;
    Ok(Val::Bool(test(&value)))
}

fn type_of(m: &mut Machine, args: &[ThunkId], at: ExprId) -> Outcome<Val> {
    let value = m.force(args[0])?;
    m.kind(&value, at)?;
    let name = match value {
        Val::Null => "null",
        Val::Bool(_) => "bool",
        Val::Int(_) => "int",
        Val::Float(_) => "float",
        Val::Str(_) => "string",
        Val::Path(_) => "path",
        Val::List(_) => "list",
        Val::Attrs(_) | Val::Builtins => "set",
        Val::Lambda(..) | Val::Builtin(..) => "lambda",
    };
    Ok(Val::Str(name.into()))
}

fn abort(m: &mut Machine, args: &[ThunkId], at: ExprId) -> Outcome<Val> {
    let text = message(m, args[0], at)?;
    m.fail(format!("aborted: {text}"), at)
}

fn throw(m: &mut Machine, args: &[ThunkId], at: ExprId) -> Outcome<Val> {
    let text = message(m, args[0], at)?;
    Err(Stop::new(Sort::Thrown, text, Some(m.span(at))))
}

fn message(m: &mut Machine, thunk: ThunkId, at: ExprId) -> Outcome<String> {
    let value = m.force(thunk)?;
    m.coerce(&value, at, false).map(|text| text.to_string())
}

fn try_eval(m: &mut Machine, args: &[ThunkId], at: ExprId) -> Outcome<Val> {
    let (success, value) = match m.force(args[0]) {
        Ok(_) => (true, args[0]),
        Err(stop) if stop.sort() == Sort::Thrown => (false, m.done(Val::Bool(false), at)?),
        Err(stop) => return Err(stop),
    };
    let success = m.done(Val::Bool(success), at)?;
    m.set([("success", success), ("value", value)])
}

fn trace(m: &mut Machine, args: &[ThunkId], _at: ExprId) -> Outcome<Val> {
    // Nix prints the first value; here nothing but the interface prints. It is evaluated all the same.
    m.force(args[0])?;
    m.force(args[1])
}

fn add_error_context(m: &mut Machine, args: &[ThunkId], _at: ExprId) -> Outcome<Val> {
    m.force(args[1])
}

fn seq(m: &mut Machine, args: &[ThunkId], _at: ExprId) -> Outcome<Val> {
    m.force(args[0])?;
    m.force(args[1])
}

fn deep_seq(m: &mut Machine, args: &[ThunkId], _at: ExprId) -> Outcome<Val> {
    let mut seen = HashSet::new();
    // Depth first, in the order in which Nix goes.
    let mut left = vec![args[0]];
    while let Some(thunk) = left.pop() {
        if !seen.insert(thunk) {
            continue;
        }
        m.charge_steps(1)?;
        match m.force(thunk)? {
            Val::List(items) => left.extend(items.iter().rev()),
            Val::Attrs(slots) => left.extend(slots.iter().rev().map(|slot| slot.value)),
            _ => {}
        }
    }
    m.force(args[1])
}

fn function_args(m: &mut Machine, args: &[ThunkId], at: ExprId) -> Outcome<Val> {
    let lambda = match m.force(args[0])? {
        Val::Lambda(lambda, _) => lambda,
        Val::Builtin(..) => return Ok(Val::Attrs(Rc::new([]))),
        Val::Attrs(_) => return m.unsupported("`functionArgs` of a set", at),
        other => {
            let message = format!("`functionArgs` wants a function, found {}", m.kind(&other, at)?);
            return m.fail(message, at);
        }
    };
    let mut slots = Vec::new();
    if let Param::Pattern { formals, .. } = &lambda.param {
        m.charge(formals.len() * size_of::<Slot>())?;
        for formal in formals {
            let value = m.done(Val::Bool(formal.default.is_some()), at)?;
            slots.push(Slot { name: formal.name, value, key: NOWHERE });
        }
    }
    slots.sort_unstable_by_key(|slot| slot.name);
    Ok(Val::Attrs(slots.into()))
}

/// A path, or a string that is an absolute one.
fn path_of(m: &mut Machine, thunk: ThunkId, at: ExprId) -> Outcome<PathBuf> {
    match m.force(thunk)? {
        Val::Path(path) => Ok(PathBuf::from(path.as_ref())),
        Val::Str(text) if text.starts_with('/') => {
            m.charge_steps(text.len() / 16)?;
            Ok(crate::nix::eval::literals::canonical(&text).into())
        }
        Val::Str(text) => m.fail(format!("'{text}' is not an absolute path"), at),
        Val::Attrs(_) => m.unsupported("a set as a path", at),
        other => {
            let message = format!("expected a path, found {}", m.kind(&other, at)?);
            m.fail(message, at)
        }
    }
}

fn import(m: &mut Machine, args: &[ThunkId], at: ExprId) -> Outcome<Val> {
    m.charge_file()?;
    let path = path_of(m, args[0], at)?;
    let path = crate::nix::eval::resolve(&path);
    let thunk = match m.imports.get(&path) {
        Some(Some(thunk)) => *thunk,
        Some(None) => return m.fail(format!("infinite recursion: {} imports itself", path.display()), at),
        None => {
            m.imports.insert(path.clone(), None);
            let thunk = m.load(&path);
            let Ok(thunk) = thunk else {
                m.imports.remove(&path);
                return thunk.and_then(|thunk| m.force(thunk)).map_err(|stop| {
                    let stop = stop.or_at(m.span(at));
                    if path.exists() {
                        return stop;
                    }
                    stop.help(Some(
                        "a relative path begins in the directory of the file that it is in".to_owned(),
                    ))
                });
            };
            m.imports.insert(path, Some(thunk));
            thunk
        }
    };
    m.force(thunk)
}

fn path_exists(m: &mut Machine, args: &[ThunkId], at: ExprId) -> Outcome<Val> {
    m.charge_file()?;
    if let Val::Str(text) = m.force(args[0])?
        && text.ends_with(['/', '.'])
    {
        // Whether such a path must be a directory differs between versions.
        return m.unsupported("`pathExists` of a string that ends in '/' or '.'", at);
    }
    let path = path_of(m, args[0], at)?;
    match std::fs::symlink_metadata(&path) {
        // Versions of Nix differ in whether a dangling link exists.
        Ok(meta) if meta.is_symlink() && !path.exists() => {
            m.unsupported("`pathExists` of a dangling link", at)
        }
        found => Ok(Val::Bool(found.is_ok())),
    }
}

fn read_file(m: &mut Machine, args: &[ThunkId], at: ExprId) -> Outcome<Val> {
    let path = path_of(m, args[0], at)?;
    if path.starts_with("/nix/store") {
        return m.unsupported("a file of the Nix store", at);
    }
    let bytes = m.file_bytes(&path).map_err(|stop| stop.or_at(m.span(at)))?;
    match String::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => Ok(Val::Str(text.into())),
        _ => m.unsupported(format!("{} is not plain UTF-8 text", path.display()), at),
    }
}

fn read_dir(m: &mut Machine, args: &[ThunkId], at: ExprId) -> Outcome<Val> {
    let path = path_of(m, args[0], at)?;
    let entries = match std::fs::read_dir(&path) {
        Ok(entries) => entries,
        Err(error) => return m.fail(format!("can not read {}: {error}", path.display()), at),
    };
    let mut slots = Vec::new();
    m.charge_file()?;
    for entry in entries {
        m.charge_steps(10)?;
        let found = entry.and_then(|entry| Ok((entry.file_name(), entry.file_type()?)));
        let Ok((name, kind)) = found else {
            return m.fail(format!("can not read {}", path.display()), at);
        };
        let Some(name) = name.to_str() else { return m.unsupported("a file name that is not UTF-8", at) };
        let kind = match kind {
            kind if kind.is_dir() => "directory",
            kind if kind.is_symlink() => "symlink",
            kind if kind.is_file() => "regular",
            _ => "unknown",
        };
        let value = m.done(Val::Str(kind.into()), at)?;
        slots.push(Slot { name: m.intern(name)?, value, key: NOWHERE });
    }
    slots.sort_unstable_by_key(|slot| slot.name);
    Ok(Val::Attrs(slots.into()))
}
