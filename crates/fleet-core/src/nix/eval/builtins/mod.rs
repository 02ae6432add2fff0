//! The builtins that data files use.

mod control;
mod lists;
mod regex;
mod sets;
mod text;

use super::{
    error::{Outcome, Sort},
    expr::{Expr, ExprId, Sym},
    machine::{Machine, ThunkId, Val},
};

pub(super) use self::regex::Compiled;

/// A function that Nix brings along.
#[derive(Debug)]
pub(super) struct Builtin {
    pub name: &'static str,
    pub arity: usize,
    /// Called with exactly `arity` arguments.
    pub run: fn(&mut Machine, &[ThunkId], ExprId) -> Outcome<Val>,
}

/// Names that are in scope everywhere without `builtins.`.
const GLOBAL: &[&str] = &[
    "abort",
    "baseNameOf",
    "break",
    "derivation",
    "derivationStrict",
    "dirOf",
    "fetchGit",
    "fetchMercurial",
    "fetchTarball",
    "fetchTree",
    "fromTOML",
    "import",
    "isNull",
    "map",
    "placeholder",
    "removeAttrs",
    "scopedImport",
    "throw",
    "toString",
];

const ALL: &[&[Builtin]] = &[control::ALL, lists::ALL, regex::ALL, sets::ALL, text::ALL];

fn named(name: &str) -> Option<&'static Builtin> {
    ALL.iter().flat_map(|group| group.iter()).find(|builtin| builtin.name == name)
}

/// What a name means that nothing in the file binds.
pub(super) fn global(name: &str) -> Option<Expr> {
    match name {
        "true" => return Some(Expr::Bool(true)),
        "false" => return Some(Expr::Bool(false)),
        "null" => return Some(Expr::Null),
        "builtins" => return Some(Expr::Builtins),
        _ => {}
    }
    // Every builtin is also in scope under two underscores.
    let bare = name.strip_prefix("__");
    if bare.is_none() && !GLOBAL.contains(&name) {
        return None;
    }
    Some(match named(bare.unwrap_or(name)) {
        Some(builtin) => Expr::Builtin(builtin),
        None => Expr::Unsupported(format!("the builtin `{name}`").into()),
    })
}

/// Whether a name may be that of a builtin, and whether it is one is not known here: where Nix has none of that name it
/// refuses the whole file.
pub(super) fn is_unknown(name: &str) -> bool {
    let bare = name.strip_prefix("__");
    bare.is_some_and(|bare| named(bare).is_none() && !GLOBAL.contains(&bare))
        || matches!(name, "break" | "fetchTree")
}

impl Machine {
    /// `builtins.NAME`.
    pub(super) fn builtin_named(&mut self, name: Sym, at: ExprId) -> Outcome<Val> {
        let name = std::sync::Arc::clone(self.names.text(name));
        match name.as_ref() {
            "true" => Ok(Val::Bool(true)),
            "false" => Ok(Val::Bool(false)),
            "null" => Ok(Val::Null),
            name => match named(name) {
                Some(builtin) => self.start_builtin(builtin, at),
                None => self.unsupported(format!("the builtin `{name}`"), at),
            },
        }
    }

    pub(super) fn start_builtin(&mut self, builtin: &'static Builtin, _at: ExprId) -> Outcome<Val> {
        Ok(Val::Builtin(builtin, std::rc::Rc::new([])))
    }
}
