//! Proof that an edit changed exactly what it should.

use std::path::Path;

use serde_json::Value as Json;

use super::{AuthorizedKeys, NewHost};
use crate::{
    Error, Result,
    nix::eval::{Budget, EvalError, eval_text},
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

/// Evaluates `before` and `after` as the file `file` and checks that `change` is the whole difference.
pub fn verified(before: &str, after: &str, file: &Path, change: &Change) -> Result<()> {
    // Both at once: they do not need each other.
    let (old, new) = std::thread::scope(|scope| {
        let old = scope.spawn(|| evaluate(before, file));
        let new = evaluate(after, file);
        let old = old.join().unwrap_or_else(|_| Err(Error::failed("evaluating hosts.nix panicked")));
        (old, new)
    });
    let wanted = expected(old?, file, change)?;
    if new? == wanted {
        return Ok(());
    }
    Err(Error::failed(format!("the edit of {} would have changed something else too", file.display()))
        .now("nothing was changed")
        .hint("edit the file by hand, and please report this with the file's layout"))
}

fn evaluate(text: &str, file: &Path) -> Result<Json> {
    eval_text(text, file, Budget::default()).and_then(|evaluated| evaluated.to_json()).map_err(|error| {
        let shown = Error::failed(format!("can not evaluate {} to check an edit: {error}", file.display()));
        match error {
            EvalError::Unsupported(_) => {
                shown.hint("edit this file by hand: its value can not be proven here")
            }
            _ => shown,
        }
    })
}

/// What the file must come to.
fn expected(mut value: Json, file: &Path, change: &Change) -> Result<Json> {
    let odd = || Error::failed(format!("{} does not hold what was to be edited", file.display()));
    let hosts = value.as_object_mut().ok_or_else(odd)?;
    match change {
        Change::Insert { name, host } => {
            let new = inserted(hosts, file, host);
            if hosts.insert(name.clone(), new).is_some() {
                return Err(odd());
            }
        }
        Change::Set { host, attr, value } => {
            let attrs = hosts.get_mut(host).and_then(Json::as_object_mut).ok_or_else(odd)?;
            attrs.insert(attr.clone(), Json::from(value.as_str()));
        }
        Change::Unset { host, attr } => {
            hosts.get_mut(host).and_then(Json::as_object_mut).ok_or_else(odd)?.remove(attr);
        }
        Change::Remove { name } => {
            hosts.remove(name);
        }
    }
    Ok(value)
}

fn inserted(hosts: &serde_json::Map<String, Json>, file: &Path, host: &NewHost) -> Json {
    let base = file.parent().unwrap_or(Path::new("/"));
    let path = |path: &Option<String>| path.as_ref().map(|path| crate::nix::eval::absolute(base, path));
    let mut attrs = serde_json::Map::new();
    let all = [
        ("configurationFile", path(&host.configuration_file)),
        ("homeFile", path(&host.home_file)),
        ("user", host.user.clone()),
        ("homeDirectory", host.home_directory.clone()),
        ("hostname", host.hostname.clone()),
        ("sshAlias", host.ssh_alias.clone()),
        ("sshKeyName", host.ssh_key_name.clone()),
        ("publicKey", host.public_key.clone()),
    ];
    attrs.extend(all.into_iter().filter_map(|(attr, value)| Some((attr.to_owned(), Json::from(value?)))));
    let keys = match &host.authorized_keys {
        AuthorizedKeys::List(keys) => Some(Json::from(keys.as_slice())),
        AuthorizedKeys::SameAsOthers => commonest(hosts),
    };
    attrs.extend(keys.map(|keys| ("authorizedKeys".to_owned(), keys)));
    Json::Object(attrs)
}

/// The list of keys that most hosts have.
fn commonest(hosts: &serde_json::Map<String, Json>) -> Option<Json> {
    let mut counts: Vec<(&Json, usize)> = Vec::new();
    for keys in hosts.values().filter_map(|host| host.get("authorizedKeys")) {
        match counts.iter_mut().find(|(known, _)| *known == keys) {
            Some((_, count)) => *count += 1,
            None => counts.push((keys, 1)),
        }
    }
    counts.into_iter().rev().max_by_key(|(_, count)| *count).map(|(keys, _)| keys.clone())
}
