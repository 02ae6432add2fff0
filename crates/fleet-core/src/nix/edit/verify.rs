//! Proof that an edit changed exactly what it should.

use std::{path::Path, sync::Arc};

use super::{AuthorizedKeys, NewHost};
use crate::{
    Error, Result,
    nix::eval::{Attr, Budget, Data, EvalError, Value, eval_text},
};

/// What an edit was meant to change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A host was added.
    Insert {
        /// Its name.
        name: String,
        /// What it says.
        host: NewHost,
    },
    /// One attribute of a host was set to a string.
    Set {
        /// The host.
        host: String,
        /// The attribute.
        attr: String,
        /// Its new value.
        value: String,
    },
    /// One attribute of a host was taken out.
    Unset {
        /// The host.
        host: String,
        /// The attribute.
        attr: String,
    },
    /// A host was taken out.
    Remove {
        /// Its name.
        name: String,
    },
}

/// The text of `file` after `change`, proven: exactly that value is different, and every other one the same.
pub fn apply(before: &str, file: &Path, change: &Change) -> Result<String> {
    prove(before, || super::changed(before, change), file, change)
}

/// Evaluates `before` and `after` as the file `file` and checks that `change` is the whole difference.
pub fn verified(before: &str, after: &str, file: &Path, change: &Change) -> Result<()> {
    prove(before, || Ok(after.to_owned()), file, change).map(drop)
}

fn prove(
    before: &str,
    after: impl FnOnce() -> Result<String>,
    file: &Path,
    change: &Change,
) -> Result<String> {
    // The old value and the new one do not need each other.
    let (old, new) = std::thread::scope(|scope| {
        let old = scope.spawn(|| evaluate(before, file));
        let new = after().and_then(|after| Ok((evaluate(&after, file)?, after)));
        let old = old.join().unwrap_or_else(|_| Err(Error::failed("evaluating hosts.nix panicked")));
        (old, new)
    });
    let (new, after) = new?;
    let wanted = expected(&old?, file, change)?;
    if same(&new, &wanted) {
        return Ok(after);
    }
    Err(Error::failed(format!("the edit of {} would have changed something else too", file.display()))
        .now("nothing was changed")
        .hint("edit the file by hand, and please report this with the file's layout"))
}

/// A file's value without the places it comes from.
pub(super) fn evaluate(text: &str, file: &Path) -> Result<Value> {
    match eval_text(text, file, Budget::default()) {
        Ok(evaluated) => Ok(evaluated.value),
        Err(error) => {
            let shown =
                Error::failed(format!("can not evaluate {} to check an edit: {error}", file.display()));
            Err(match error {
                EvalError::Unsupported(_) => {
                    shown.hint("edit this file by hand: its value can not be proven here")
                }
                _ => shown,
            })
        }
    }
}

/// Whether two values are the same, wherever they come from. Functions never are.
pub(super) fn same(a: &Value, b: &Value) -> bool {
    match (&a.data, &b.data) {
        (Data::List(a), Data::List(b)) => {
            Arc::ptr_eq(a, b) || (a.len() == b.len() && a.iter().zip(b.iter()).all(|(a, b)| same(a, b)))
        }
        (Data::Attrs(a), Data::Attrs(b)) => {
            a.len() == b.len()
                && a.iter().zip(b.iter()).all(|(a, b)| a.name == b.name && same(&a.value, &b.value))
        }
        (Data::Function, _) => false,
        (a, b) => a == b,
    }
}

/// What the file must come to.
fn expected(old: &Value, file: &Path, change: &Change) -> Result<Value> {
    let odd = || Error::failed(format!("{} does not hold what was to be edited", file.display()));
    let mut hosts = old.attrs().ok_or_else(odd)?.to_vec();
    let find = |attrs: &[Attr], name: &str| attrs.binary_search_by(|attr| attr.name.as_ref().cmp(name));
    match change {
        Change::Insert { name, host } => {
            let new = inserted(&hosts, file, host);
            let at = find(&hosts, name).err().ok_or_else(odd)?;
            hosts.insert(at, attr(name, new));
        }
        Change::Set { host, attr: name, value } => {
            let at = find(&hosts, host).map_err(|_| odd())?;
            let mut attrs = hosts[at].value.attrs().ok_or_else(odd)?.to_vec();
            let new = attr(name, Data::Str(value.as_str().into()));
            match find(&attrs, name) {
                Ok(at) => attrs[at] = new,
                Err(at) => attrs.insert(at, new),
            }
            hosts[at] = attr(host, Data::Attrs(attrs.into()));
        }
        Change::Unset { host, attr: name } => {
            let at = find(&hosts, host).map_err(|_| odd())?;
            let attrs = hosts[at].value.attrs().ok_or_else(odd)?;
            let kept: Vec<Attr> = attrs.iter().filter(|attr| attr.name.as_ref() != name).cloned().collect();
            hosts[at] = attr(host, Data::Attrs(kept.into()));
        }
        Change::Remove { name } => hosts.retain(|host| host.name.as_ref() != name),
    }
    Ok(Value { data: Data::Attrs(hosts.into()), at: None })
}

fn attr(name: &str, data: Data) -> Attr {
    Attr { name: name.into(), key: None, value: Value { data, at: None } }
}

fn inserted(hosts: &[Attr], file: &Path, host: &NewHost) -> Data {
    let base = file.parent().unwrap_or(Path::new("/"));
    let path = |path: &Option<String>| {
        path.as_ref().map(|path| Data::Path(Path::new(&crate::nix::eval::absolute(base, path)).into()))
    };
    let text = |text: &Option<String>| text.as_deref().map(|text| Data::Str(text.into()));
    let keys = match &host.authorized_keys {
        AuthorizedKeys::List(keys) => {
            let key = |key: &String| Value { data: Data::Str(key.as_str().into()), at: None };
            Some(Data::List(keys.iter().map(key).collect()))
        }
        AuthorizedKeys::SameAsOthers => commonest(hosts),
    };
    // In the order of their names.
    let all = [
        ("authorizedKeys", keys),
        ("configurationFile", path(&host.configuration_file)),
        ("homeDirectory", text(&host.home_directory)),
        ("homeFile", path(&host.home_file)),
        ("hostname", text(&host.hostname)),
        ("publicKey", text(&host.public_key)),
        ("sshAlias", text(&host.ssh_alias)),
        ("sshKeyName", text(&host.ssh_key_name)),
        ("user", text(&host.user)),
    ];
    Data::Attrs(all.into_iter().filter_map(|(name, data)| Some(attr(name, data?))).collect())
}

/// The list of keys that most hosts have.
fn commonest(hosts: &[Attr]) -> Option<Data> {
    let mut counts: Vec<(&Value, usize)> = Vec::new();
    for keys in hosts.iter().filter_map(|host| host.value.get("authorizedKeys")) {
        match counts.iter_mut().find(|(known, _)| same(known, &keys.value)) {
            Some((_, count)) => *count += 1,
            None => counts.push((&keys.value, 1)),
        }
    }
    counts.into_iter().rev().max_by_key(|(_, count)| *count).map(|(keys, _)| keys.data.clone())
}
