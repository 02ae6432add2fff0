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

/// The text of `file` after `change`, proven: exactly that value is different, and every other one the same. Where the
/// other hosts' expression for their keys means something else in a new host, the keys are written out.
pub fn apply(before: &str, file: &Path, change: &Change) -> Result<String> {
    let outcome = prove(before, || super::changed(before, change), file, change);
    let (Change::Insert { name, host }, Err(_)) = (change, &outcome) else { return outcome };
    if host.authorized_keys != AuthorizedKeys::SameAsOthers {
        return outcome;
    }
    let Some(authorized_keys) = evaluate(before, file).ok().and_then(|old| written_out(&old)) else {
        return outcome;
    };
    let written = Change::Insert { name: name.clone(), host: NewHost { authorized_keys, ..host.clone() } };
    prove(before, || super::changed(before, &written), file, change).or(outcome)
}

/// The keys that the hosts share, one by one.
fn written_out(hosts: &Value) -> Option<AuthorizedKeys> {
    let Some(shared) = shared(hosts.attrs()?) else { return Some(AuthorizedKeys::Nobody) };
    let Data::List(keys) = shared else { return None };
    let keys: Option<Vec<String>> = keys.iter().map(|key| key.as_str().map(str::to_owned)).collect();
    keys.map(AuthorizedKeys::List)
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
        let new = after().and_then(|after| match eval_text(&after, file, Budget::default()) {
            Ok(evaluated) => Ok((evaluated.value, after)),
            // The place would be one in a text that nobody sees.
            Err(EvalError::Eval(fault)) => {
                Err(refused(file, &format!("it would not evaluate any more: {}", fault.message)))
            }
            Err(error) => Err(not_evaluated(&error, file)),
        });
        let old = old.join().unwrap_or_else(|_| Err(Error::failed("evaluating hosts.nix panicked")));
        (old, new)
    });
    // What was wrong before is not the edit's fault.
    let old = old?;
    let (new, after) = new?;
    let wanted = expected(&old, file, change)?;
    if same_file(&new, &wanted) {
        return Ok(after);
    }
    Err(unproven(&new, &wanted, file, change))
}

/// Why an edit that can be written is not made: it would not come to what was meant, or to more than that.
fn unproven(new: &Value, wanted: &Value, file: &Path, change: &Change) -> Error {
    let meant: &[&str] = match change {
        Change::Insert { name, .. } | Change::Remove { name } => &[name],
        Change::Set { host, attr, .. } | Change::Unset { host, attr } => &[host, attr],
    };
    let mut path = Vec::new();
    difference(new, wanted, &mut path);
    let shown = path.iter().map(|name| super::quote_name(name)).collect::<Vec<_>>().join(".");
    let beside = path.iter().zip(meant).any(|(name, meant)| name != meant);
    let why = if beside {
        format!("{shown} is made from what would change, and would change too")
    } else if path.is_empty() {
        "it would come to something else than was meant".to_owned()
    } else {
        format!("{shown} is computed, and would not be what was meant")
    };
    refused(file, &why)
}

fn refused(file: &Path, why: &str) -> Error {
    Error::refused(format!("can not edit {}: {why}", file.display()))
        .now("nothing was changed")
        .hint("edit the file by hand: what depends on each other together")
}

/// The attribute path of the first difference of two values; empty where they are the same, or differ themselves.
fn difference(a: &Value, b: &Value, path: &mut Vec<String>) {
    let (Some(a), Some(b)) = (a.attrs(), b.attrs()) else { return };
    let find = |attrs: &[Attr], name: &Arc<str>| {
        attrs.binary_search_by(|attr| attr.name.cmp(name)).ok().map(|at| attrs[at].value.clone())
    };
    let mut names: Vec<&Arc<str>> = a.iter().chain(b).map(|attr| &attr.name).collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        let (a, b) = (find(a, name), find(b, name));
        if a.as_ref().zip(b.as_ref()).is_some_and(|(a, b)| same(a, b)) {
            continue;
        }
        path.push(name.to_string());
        if let (Some(a), Some(b)) = (&a, &b) {
            difference(a, b, path);
        }
        return;
    }
}

/// A file's value without the places it comes from.
pub(super) fn evaluate(text: &str, file: &Path) -> Result<Value> {
    match eval_text(text, file, Budget::default()) {
        Ok(evaluated) => Ok(evaluated.value),
        Err(error) => Err(not_evaluated(&error, file)),
    }
}

fn not_evaluated(error: &EvalError, file: &Path) -> Error {
    let shown = Error::failed(format!("can not evaluate {} to check an edit: {error}", file.display()));
    match error {
        EvalError::Unsupported(_) => shown.hint("edit this file by hand: its value can not be proven here"),
        _ => shown,
    }
}

/// Whether two files say the same of every host. What begins with an underscore is no host: a function that stands
/// there, which no value can be compared with, may stay.
fn same_file(a: &Value, b: &Value) -> bool {
    let (Some(a), Some(b)) = (a.attrs(), b.attrs()) else { return same(a, b) };
    let own = |a: &Attr, b: &Attr| {
        a.name.starts_with('_') && matches!((&a.value.data, &b.value.data), (Data::Function, Data::Function))
    };
    a.len() == b.len()
        && a.iter().zip(b).all(|(a, b)| a.name == b.name && (same(&a.value, &b.value) || own(a, b)))
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
        AuthorizedKeys::SameAsOthers => shared(hosts),
        AuthorizedKeys::Nobody => None,
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

/// The keys that the hosts share: the list that more than half of those with a list have, else the keys that are in
/// every list that has any; `None` where there are none.
fn shared(hosts: &[Attr]) -> Option<Data> {
    let lists: Vec<&Value> = hosts
        .iter()
        .filter(|host| !host.name.starts_with('_'))
        .filter_map(|host| host.value.get("authorizedKeys"))
        .map(|attr| &attr.value)
        .collect();
    let times = |keys: &Value| lists.iter().filter(|other| same(keys, other)).count();
    if let Some(common) = lists.iter().find(|keys| 2 * times(keys) > lists.len()) {
        return Some(common.data.clone());
    }
    let mut filled = lists.iter().filter_map(|keys| match &keys.data {
        Data::List(keys) if !keys.is_empty() => Some(keys),
        _ => None,
    });
    let mut shared: Vec<Value> = filled.next()?.to_vec();
    for keys in filled {
        shared.retain(|key| keys.iter().any(|other| same(key, other)));
    }
    (!shared.is_empty()).then(|| Data::List(shared.into()))
}
