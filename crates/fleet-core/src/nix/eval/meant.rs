//! What was most likely meant by a name that nothing binds, or by a value of a kind that is not taken where it stands.

use super::{
    expr::{Op, Sym},
    lower::{Lowering, Scope},
    machine::{Machine, Val},
};
use crate::nix::reader::is_slip;

const NO_UNIT: &str = "a number has no unit: `memory` is one of MiB, a disk's size is a text such as \"20G\"";
/// How a number becomes part of a text.
pub(super) const TO_STRING: &str = "`toString` makes a text of a number: \"…${toString …}\"";

impl Lowering<'_> {
    /// What would be right instead of a variable of this name.
    pub(super) fn meant(&self, name: &str) -> Option<String> {
        let help = match name {
            "True" | "TRUE" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => "write `true`".to_owned(),
            "False" | "FALSE" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => "write `false`".to_owned(),
            "None" | "Null" | "NULL" | "nil" | "undefined" => "write `null`".to_owned(),
            _ if is_unit(name) => NO_UNIT.to_owned(),
            "lib" | "pkgs" | "config" | "inputs" | "self" | "nixpkgs" => {
                format!("nobody gives this file `{name}`: it is read by itself")
            }
            _ => match self.near(name) {
                Some(near) => format!("did you mean `{near}`?"),
                None if self.inheriting => {
                    format!(
                        "`inherit` takes what a name means around the set: bind it by `let {name} = …; in`"
                    )
                }
                None if self.stands_beside(name) => {
                    format!(
                        "`{name}` is an attribute of the set, and `rec {{ … }}` lets these use each other"
                    )
                }
                None => format!("a text goes in quotes: \"{name}\"; a name is bound by `let {name} = …; in`"),
            },
        };
        Some(help)
    }

    /// Whether the set around has an attribute of this name, which is in nobody's scope.
    fn stands_beside(&self, name: &str) -> bool {
        let name = self.names.find(name);
        name.is_some_and(|name| self.beside.last().is_some_and(|names| names.contains(&name)))
    }

    /// A name in scope that differs by a slip of the finger, the innermost of several.
    fn near(&self, name: &str) -> Option<&str> {
        self.scopes.iter().rev().find_map(|scope| {
            let mut near: Vec<&str> = match scope {
                Scope::Names(names) => names.keys().map(|known| self.names.text(*known).as_ref()).collect(),
                Scope::Few(names) => names.iter().map(|known| self.names.text(*known).as_ref()).collect(),
                Scope::With => Vec::new(),
            };
            near.retain(|known| is_slip(name, known));
            near.into_iter().min()
        })
    }
}

impl Machine {
    /// The one of these names that differs from `name` by a slip of the finger.
    pub(super) fn did_you_mean(&self, name: Sym, known: impl Iterator<Item = Sym>) -> Option<String> {
        let name = self.names.text(name);
        // No more than a person would look through.
        let known = known.take(1000).map(|known| self.names.text(known));
        let near = known.filter(|known| is_slip(name, known)).min()?;
        Some(format!("did you mean `{near}`?"))
    }
}

fn is_unit(text: &str) -> bool {
    let scale = text.strip_suffix("iB").or(text.strip_suffix(['B', 'i'])).unwrap_or(text);
    matches!(scale, "K" | "M" | "G" | "T" | "k" | "m" | "g" | "t")
}

/// What would be right instead of this, where a number is wanted by `op`.
pub(super) fn as_number(op: Op, value: &Val) -> Option<String> {
    let Val::Str(text) = value else { return None };
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit() || matches!(c, '.' | ' '));
    if is_number(text) {
        Some(format!("without its quotes it is a number: {text}"))
    } else if is_unit(unit) {
        Some(NO_UNIT.to_owned())
    } else {
        (op == Op::Add).then(|| TO_STRING.to_owned())
    }
}

/// Whether Nix reads this as a whole number, or as one with a point.
fn is_number(text: &str) -> bool {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    [whole, fraction].iter().all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()))
        && whole.parse::<i64>().is_ok()
}

/// What would be right instead of this, where a boolean is wanted.
pub(super) fn as_boolean(value: &Val) -> Option<String> {
    match value {
        Val::Str(text) if matches!(text.as_ref(), "true" | "false") => {
            Some(format!("without its quotes it is a boolean: {text}"))
        }
        Val::Int(_) => Some("compare it: `… != 0`".to_owned()),
        _ => None,
    }
}

/// What would be right instead of `++` or `//` with these on its sides, one of which it does not take.
pub(super) fn joined(op: Op, a: &Val, b: &Val) -> Option<&'static str> {
    let other = match (op, a, b) {
        (_, Val::Str(_), Val::Str(_)) => return Some("`+` joins texts"),
        (Op::Concat, Val::List(_), other) | (Op::Concat, other, _) => other,
        (_, Val::Attrs(_), other) | (_, other, _) => other,
    };
    match (op, other) {
        (Op::Concat, Val::Attrs(_)) => Some("`//` joins sets; a list of one is `[ … ]`"),
        (Op::Concat, Val::Null) => Some("an empty list is `[ ]`"),
        (Op::Concat, Val::Str(_) | Val::Path(_) | Val::Int(_) | Val::Float(_)) => {
            Some("a list of one is `[ … ]`")
        }
        (Op::Update, Val::List(_)) => Some("`++` joins lists"),
        (Op::Update, Val::Null) => Some("an empty set is `{ }`"),
        _ => None,
    }
}

/// What would be right instead of this called as if it were a function, in this text.
pub(super) fn called(value: &Val, text: &str) -> Option<&'static str> {
    match value {
        Val::Int(_) | Val::Float(_) if !text.contains(char::is_whitespace) => Some(NO_UNIT),
        Val::Attrs(_) => Some("`//` joins two sets"),
        // Another part of a path, and no set or text that the file would be given.
        Val::Path(_)
            if text
                .split_whitespace()
                .nth(1)
                .is_some_and(|next| next.contains('/') && !next.starts_with(['{', '"'])) =>
        {
            Some("a path ends at a blank: `./. + \"/a b/c.nix\"` is one with a blank in it")
        }
        Val::Path(_) => Some("`import` reads a file, and calls what is in it: `import ./file.nix …`"),
        Val::Str(_) => {
            Some("one value stands behind another: `+` joins texts, `[ … ]` around them makes a list")
        }
        Val::Int(_) | Val::Float(_) => {
            Some("one value stands behind another: `[ … ]` around them makes a list")
        }
        _ => None,
    }
}
