//! Builtins over strings, paths, numbers and JSON.

use std::sync::Arc;

use super::{Builtin, lists::lower};
use crate::nix::eval::{
    error::{Outcome, Sort},
    expr::{ExprId, Op},
    machine::{Machine, NOWHERE, Slot, ThunkId, Val},
};

pub(super) const ALL: &[Builtin] = &[
    Builtin { name: "toString", arity: 1, run: to_string },
    Builtin { name: "stringLength", arity: 1, run: string_length },
    Builtin { name: "substring", arity: 3, run: substring },
    Builtin { name: "concatStringsSep", arity: 2, run: concat_strings },
    Builtin { name: "replaceStrings", arity: 3, run: replace_strings },
    Builtin { name: "baseNameOf", arity: 1, run: base_name },
    Builtin { name: "dirOf", arity: 1, run: dir_of },
    Builtin { name: "add", arity: 2, run: |m, a, at| calculate(m, a, at, Op::Add) },
    Builtin { name: "sub", arity: 2, run: |m, a, at| calculate(m, a, at, Op::Sub) },
    Builtin { name: "mul", arity: 2, run: |m, a, at| calculate(m, a, at, Op::Mul) },
    Builtin { name: "div", arity: 2, run: |m, a, at| calculate(m, a, at, Op::Div) },
    Builtin { name: "bitAnd", arity: 2, run: |m, a, at| bits(m, a, at, |x, y| x & y) },
    Builtin { name: "bitOr", arity: 2, run: |m, a, at| bits(m, a, at, |x, y| x | y) },
    Builtin { name: "bitXor", arity: 2, run: |m, a, at| bits(m, a, at, |x, y| x ^ y) },
    Builtin { name: "ceil", arity: 1, run: |m, a, at| whole(m, a, at, f64::ceil) },
    Builtin { name: "floor", arity: 1, run: |m, a, at| whole(m, a, at, f64::floor) },
    Builtin { name: "lessThan", arity: 2, run: less_than },
    Builtin { name: "toJSON", arity: 1, run: to_json },
    Builtin { name: "fromJSON", arity: 1, run: from_json },
];

impl Machine {
    /// A value that must be a string.
    pub(super) fn plain_text(&mut self, value: &Val, at: ExprId) -> Outcome<Arc<str>> {
        match value {
            Val::Str(text) => Ok(Arc::clone(text)),
            other => {
                let message = format!("expected a string, found {}", self.kind(other, at)?);
                self.fail(message, at)
            }
        }
    }

    pub(super) fn text_argument(&mut self, thunk: ThunkId, at: ExprId) -> Outcome<Arc<str>> {
        let value = self.force(thunk)?;
        self.plain_text(&value, at)
    }

    /// An argument as part of a string; a path would be copied to the store.
    fn coerced(&mut self, thunk: ThunkId, at: ExprId) -> Outcome<Arc<str>> {
        let value = self.force(thunk)?;
        if matches!(value, Val::Path(_)) {
            return self.unsupported("a path inside a string (Nix copies it to its store)", at);
        }
        self.coerce(&value, at, false)
    }

    pub(super) fn new_text(&mut self, text: String) -> Outcome<Val> {
        self.charge(text.len())?;
        Ok(Val::Str(text.into()))
    }
}

fn to_string(m: &mut Machine, args: &[ThunkId], at: ExprId) -> Outcome<Val> {
    let value = m.force(args[0])?;
    let text = m.coerce(&value, at, true)?;
    // What is text already is shared, not copied.
    if !matches!(value, Val::Str(_) | Val::Path(_)) {
        m.charge(text.len() + size_of::<Val>())?;
    }
    Ok(Val::Str(text))
}

#[allow(clippy::cast_possible_wrap, reason = "a string is shorter than 2^63")]
fn string_length(m: &mut Machine, args: &[ThunkId], at: ExprId) -> Outcome<Val> {
    Ok(Val::Int(m.coerced(args[0], at)?.len() as i64))
}

fn substring(m: &mut Machine, args: &[ThunkId], at: ExprId) -> Outcome<Val> {
    let start = m.integer(args[0], at)?;
    let length = m.integer(args[1], at)?;
    // Older versions of Nix look at the lower 32 bits of both only.
    let beyond = |m: &mut Machine| m.unsupported("a position beyond 32 bits", at);
    if (start < 0) != (lower(start) < 0) {
        return beyond(m);
    }
    let Ok(start) = usize::try_from(start) else { return m.fail("`substring` from a negative position", at) };
    let text = m.coerced(args[2], at)?;
    let is_less = |number: i64, than: usize| usize::try_from(lower(number)).is_ok_and(|number| number < than);
    if i32::try_from(start).is_err() && is_less(start as i64, text.len()) {
        return beyond(m);
    }
    let start = start.min(text.len());
    if i32::try_from(length).is_err() && is_less(length, text.len() - start) {
        return beyond(m);
    }
    // A negative length means all the rest.
    let end =
        usize::try_from(length).map_or(text.len(), |length| start.saturating_add(length).min(text.len()));
    match text.get(start..end) {
        Some(part) => m.new_text(part.to_owned()),
        None => m.unsupported("`substring` through the middle of a character", at),
    }
}

fn concat_strings(m: &mut Machine, args: &[ThunkId], at: ExprId) -> Outcome<Val> {
    let separator = m.text_argument(args[0], at)?;
    let items = m.list(args[1], at)?;
    let mut text = String::new();
    m.charge_items(items.len())?;
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            text.push_str(&separator);
        }
        let item = m.coerced(*item, at)?;
        m.charge(separator.len() + item.len())?;
        text.push_str(&item);
    }
    Ok(Val::Str(text.into()))
}

fn replace_strings(m: &mut Machine, args: &[ThunkId], at: ExprId) -> Outcome<Val> {
    let (from, to) = (m.list(args[0], at)?, m.list(args[1], at)?);
    if from.len() != to.len() {
        return m.fail("`replaceStrings` wants two lists of one length", at);
    }
    let from: Vec<Arc<str>> = from.iter().map(|item| m.text_argument(*item, at)).collect::<Outcome<_>>()?;
    let text = m.text_argument(args[2], at)?;
    let mut replacements = Vec::with_capacity(to.len());
    for item in to.iter() {
        replacements.push(match m.text_argument(*item, at) {
            Ok(text) => text,
            Err(stop) if stop.sort() == Sort::Budget => return Err(stop),
            // Newer versions of Nix look at a replacement only when it is used.
            Err(_) => return m.unsupported("`replaceStrings` with a replacement that fails", at),
        });
    }
    let mut out = String::new();
    let mut rest = text.as_ref();
    // Patterns of ordinary length are compared in no time.
    let long: usize = from.iter().map(|pattern| pattern.len() / 128).sum();
    loop {
        m.charge_steps(1 + from.len() / 2 + long)?;
        let found = from.iter().position(|pattern| rest.starts_with(pattern.as_ref()));
        let mut skip = 0;
        if let Some(index) = found {
            let to = &replacements[index];
            m.charge(to.len())?;
            out.push_str(to);
            skip = from[index].len();
        }
        let Some(next) = rest.chars().next() else { break };
        if skip == 0 {
            if !next.is_ascii() && found.is_some() {
                return m.unsupported("`replaceStrings` of nothing inside a character", at);
            }
            out.push(next);
            skip = next.len_utf8();
        }
        rest = &rest[skip..];
        if rest.is_empty() && !from.iter().any(|pattern| pattern.is_empty()) {
            break;
        }
    }
    m.new_text(out)
}

fn base_name(m: &mut Machine, args: &[ThunkId], at: ExprId) -> Outcome<Val> {
    let text = match m.force(args[0])? {
        Val::Path(path) => path,
        value => m.coerce(&value, at, false)?,
    };
    // One slash at the end does not count; versions of Nix differ about several.
    if text.ends_with("//") {
        return m.unsupported("`baseNameOf` of a path that ends in several slashes", at);
    }
    m.charge_text(text.len())?;
    let trimmed = text.strip_suffix('/').unwrap_or(&text);
    m.new_text(trimmed.rsplit('/').next().unwrap_or_default().to_owned())
}

fn dir_of(m: &mut Machine, args: &[ThunkId], at: ExprId) -> Outcome<Val> {
    let value = m.force(args[0])?;
    let text = m.coerce(&value, at, false)?;
    if text.contains("//") {
        return m.unsupported("`dirOf` of a path with several slashes", at);
    }
    m.charge_text(text.len())?;
    let dir = match text.rfind('/') {
        None => ".",
        Some(0) => "/",
        Some(slash) => &text[..slash],
    };
    m.charge(dir.len())?;
    if matches!(value, Val::Path(_)) { Ok(Val::Path(dir.into())) } else { m.new_text(dir.to_owned()) }
}

fn calculate(m: &mut Machine, args: &[ThunkId], at: ExprId, op: Op) -> Outcome<Val> {
    let (a, b) = (m.force(args[0])?, m.force(args[1])?);
    m.arithmetic(op, &a, &b, at)
}

fn bits(m: &mut Machine, args: &[ThunkId], at: ExprId, op: fn(i64, i64) -> i64) -> Outcome<Val> {
    Ok(Val::Int(op(m.integer(args[0], at)?, m.integer(args[1], at)?)))
}

/// Integers up to this are floating-point numbers too: old versions of Nix make one of what they round.
const EXACT: u64 = 1 << 53;

fn whole(m: &mut Machine, args: &[ThunkId], at: ExprId, op: fn(f64) -> f64) -> Outcome<Val> {
    match m.force(args[0])? {
        Val::Int(number) if number.abs_diff(0) <= EXACT => Ok(Val::Int(number)),
        #[allow(clippy::cast_possible_truncation, reason = "checked to fit")]
        Val::Float(number) if op(number).abs() < 9e15 => Ok(Val::Int(op(number) as i64)),
        Val::Int(_) | Val::Float(_) => m.unsupported("rounding a number of this size", at),
        other => {
            let message = format!("expected a number, found {}", m.kind(&other, at)?);
            m.fail(message, at)
        }
    }
}

fn less_than(m: &mut Machine, args: &[ThunkId], at: ExprId) -> Outcome<Val> {
    let (a, b) = (m.force(args[0])?, m.force(args[1])?);
    m.less(&a, &b, at).map(Val::Bool)
}

fn to_json(m: &mut Machine, args: &[ThunkId], at: ExprId) -> Outcome<Val> {
    let mut text = String::new();
    write_json(m, args[0], &mut text, at)?;
    m.new_text(text)
}

fn write_json(m: &mut Machine, thunk: ThunkId, out: &mut String, at: ExprId) -> Outcome<()> {
    m.charge_steps(1)?;
    match m.force(thunk)? {
        Val::Null => out.push_str("null"),
        Val::Bool(b) => out.push_str(if b { "true" } else { "false" }),
        Val::Int(number) => out.push_str(&number.to_string()),
        Val::Float(number) => match short(number) {
            Some(text) => out.push_str(&text),
            None => {
                return m.unsupported("`toJSON` of a floating-point number of this size or precision", at);
            }
        },
        Val::Str(text) => write_json_text(m, &text, out, at)?,
        Val::Path(_) => return m.unsupported("`toJSON` of a path (Nix copies it to its store)", at),
        Val::List(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                m.nested(|m| write_json(m, *item, out, at))?;
                m.charge(1)?;
            }
            out.push(']');
        }
        Val::Attrs(slots) => {
            if ["__toString", "outPath"]
                .iter()
                .any(|name| m.names.find(name).is_some_and(|name| slots.iter().any(|slot| slot.name == name)))
            {
                return m.unsupported("`toJSON` of a set with `__toString` or `outPath`", at);
            }
            out.push('{');
            for (index, slot) in m.by_name(&slots)?.into_iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                let name = Arc::clone(m.names.text(slot.name));
                write_json_text(m, &name, out, at)?;
                out.push(':');
                m.nested(|m| write_json(m, slot.value, out, at))?;
            }
            out.push('}');
        }
        other @ (Val::Lambda(..) | Val::Builtin(..) | Val::Builtins) => {
            let message = format!("{} can not be written as JSON", m.kind(&other, at)?);
            return m.fail(message, at);
        }
    }
    Ok(())
}

/// A number that every Nix writes alike: old versions write six digits, and no point behind a whole number.
fn short(number: f64) -> Option<String> {
    let text = number.to_string();
    let digits = text.trim_start_matches(['-', '0', '.']).bytes().filter(u8::is_ascii_digit).count();
    let plain = (1e-3..1e6).contains(&number.abs()) && number.fract() != 0.0;
    (plain && digits <= 6).then_some(text)
}

fn write_json_text(m: &mut Machine, text: &str, out: &mut String, at: ExprId) -> Outcome<()> {
    // Counted before it is written: what is escaped again and again doubles each time.
    let escaped = text.bytes().filter(|byte| b"\"\\\n\r\t".contains(byte)).count();
    m.charge(text.len() + escaped)?;
    m.charge_steps((text.len() + escaped) / 16)?;
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => return m.unsupported("`toJSON` of a control character", at),
            c => out.push(c),
        }
    }
    out.push('"');
    Ok(())
}

fn from_json(m: &mut Machine, args: &[ThunkId], at: ExprId) -> Outcome<Val> {
    let text = m.text_argument(args[0], at)?;
    // What the reader makes of the shortest values, such as `[],`.
    m.charge(text.len().saturating_mul(32))?;
    m.charge_steps(text.len() / 16)?;
    match serde_json::from_str::<serde_json::Value>(&text) {
        Ok(json) => json_value(m, &json, at),
        Err(error) if error.to_string().contains("recursion") => m.unsupported("JSON nested very deeply", at),
        Err(error) if error.to_string().contains("out of range") => {
            m.unsupported("a number of this size in JSON", at)
        }
        Err(error) => m.fail(format!("invalid JSON: {error}"), at),
    }
}

fn json_value(m: &mut Machine, json: &serde_json::Value, at: ExprId) -> Outcome<Val> {
    use serde_json::Value as Json;
    Ok(match json {
        Json::Null => Val::Null,
        Json::Bool(b) => Val::Bool(*b),
        Json::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(number), _) => Val::Int(number),
            (None, Some(float))
                if !number.is_u64()
                    && float.is_finite()
                    && !(float == 0.0 && float.is_sign_negative())
                    && float.abs() < 9e15 =>
            {
                Val::Float(float)
            }
            _ => return m.unsupported("a number of this size in JSON", at),
        },
        Json::String(text) if text.contains('\0') => return m.unsupported("a NUL byte inside a string", at),
        Json::String(text) => Val::Str(text.as_str().into()),
        Json::Array(items) => {
            let mut thunks = Vec::with_capacity(items.len());
            for item in items {
                let value = json_value(m, item, at)?;
                thunks.push(m.done(value, at)?);
            }
            Val::List(thunks.into())
        }
        Json::Object(attrs) => {
            let mut slots = Vec::with_capacity(attrs.len());
            for (name, value) in attrs {
                if name.contains('\0') {
                    return m.unsupported("a NUL byte inside a name", at);
                }
                let value = json_value(m, value, at)?;
                slots.push(Slot { name: m.intern(name)?, value: m.done(value, at)?, key: NOWHERE });
            }
            slots.sort_unstable_by_key(|slot| slot.name);
            Val::Attrs(slots.into())
        }
    })
}
