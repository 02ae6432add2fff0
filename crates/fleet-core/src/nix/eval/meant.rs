//! What was most likely meant by a name that nothing binds.

use super::{
    expr::Sym,
    lower::{Lowering, Scope},
    machine::Machine,
};
use crate::nix::reader::is_slip;

impl Lowering<'_> {
    /// What would be right instead of a variable of this name.
    pub(super) fn meant(&self, name: &str) -> Option<String> {
        let help = match name {
            "True" | "TRUE" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => "write `true`".to_owned(),
            "False" | "FALSE" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => "write `false`".to_owned(),
            "None" | "Null" | "NULL" | "nil" | "undefined" => "write `null`".to_owned(),
            "K" | "M" | "G" | "T" | "k" | "m" | "g" | "t" | "KB" | "MB" | "GB" | "TB" | "KiB" | "MiB"
            | "GiB" | "TiB" | "Ki" | "Mi" | "Gi" | "Ti" => {
                "a number has no unit: `memory` is one of MiB, a disk's size is a text such as \"20G\""
                    .to_owned()
            }
            "lib" | "pkgs" | "config" | "inputs" | "self" | "nixpkgs" => {
                format!("nobody gives this file `{name}`: it is read by itself")
            }
            _ => match self.near(name) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("a text goes in quotes: \"{name}\"; a name is bound by `let {name} = …; in`"),
            },
        };
        Some(help)
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
