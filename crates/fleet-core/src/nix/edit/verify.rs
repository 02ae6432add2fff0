//! Proof that an edit changed exactly what it should.

use std::{path::Path, sync::Arc};

use super::{
    AuthorizedKeys, NewHost,
    compare::{Difference, Why, difference, shared_keys},
    evaluator::{Evaluator, Stop},
    untouched::untouched,
};
use crate::{
    Error, Result,
    nix::{
        NixMode,
        eval::{Attr, Data, Value},
        syntax::Tree,
    },
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
/// other hosts' expression for their keys means something else in a new host, the keys are written out. `mode` says
/// what evaluates the texts: nix what the embedded evaluator does not cover, if it may.
pub fn apply(before: &str, file: &Path, change: &Change, mode: NixMode) -> Result<String> {
    super::on_thread(|| {
        // What is wrong with it is told by whoever needs it.
        let tree = Tree::parse(before).ok();
        Evaluator::choose(mode, file, |by| Proof { before, tree: tree.as_ref(), file, by }.of(change))?
            .outcome
    })
}

/// The keys that the hosts share, one by one.
fn written_out(hosts: &Value) -> Option<AuthorizedKeys> {
    let Some(shared) = shared_keys(hosts.attrs()?) else { return Some(AuthorizedKeys::Nobody) };
    let Data::List(keys) = shared else { return None };
    let keys: Option<Vec<String>> = keys.iter().map(|key| key.as_str().map(str::to_owned)).collect();
    keys.map(AuthorizedKeys::List)
}

/// Evaluates `before` and `after` as the file `file`, by what `mode` says, and checks that `change` is the whole
/// difference.
pub fn verified(before: &str, after: &str, file: &Path, change: &Change, mode: NixMode) -> Result<()> {
    let after = || Ok(after.to_owned());
    Evaluator::choose(mode, file, |by| Proof { before, tree: None, file, by }.attempt(None, after, change))?
        .outcome
        .map(drop)
}

/// What an edit is proven of.
struct Proof<'p> {
    before: &'p str,
    /// The old text's tree, if it has one.
    tree: Option<&'p Tree>,
    file: &'p Path,
    by: &'p Evaluator,
}

/// What came of one way to write a change.
struct Attempt {
    /// What the file comes to.
    old: Value,
    /// The new text, if it is proven.
    outcome: Result<String>,
}

impl Proof<'_> {
    /// Makes the change; where the expression that the others have for their keys means something else in a new host,
    /// once more with the keys written out.
    fn of(&self, change: &Change) -> std::result::Result<Attempt, Stop> {
        let first = self.attempt(None, || super::changed(self.before, self.tree, change), change)?;
        let (Change::Insert { name, host }, Err(_)) = (change, &first.outcome) else { return Ok(first) };
        if host.authorized_keys != AuthorizedKeys::SameAsOthers {
            return Ok(first);
        }
        let Some(authorized_keys) = written_out(&first.old) else { return Ok(first) };
        let host = NewHost { authorized_keys, ..host.clone() };
        let written = Change::Insert { name: name.clone(), host };
        let again = || super::changed(self.before, self.tree, &written);
        let Attempt { old, outcome } = self.attempt(Some(first.old), again, change)?;
        Ok(Attempt { old, outcome: outcome.or(first.outcome) })
    }

    /// `old` is the value of the old text where that is known.
    fn attempt(
        &self,
        old: Option<Value>,
        after: impl FnOnce() -> Result<String>,
        change: &Change,
    ) -> std::result::Result<Attempt, Stop> {
        let Proof { before, tree, file, by } = *self;
        let place = by.place(file);
        // The old value and the new one do not need each other.
        let (old, new) = std::thread::scope(|scope| {
            let place = &place;
            let old = old.map_or_else(|| Err(scope.spawn(|| by.value(before, tree.cloned(), place))), Ok);
            let new = after().map(|after| {
                let tree = tree.and_then(|tree| tree.changed(before, &after));
                (by.value(&after, tree, place), after)
            });
            let panicked = |_| Err(Stop::Other(Error::failed("evaluating hosts.nix panicked")));
            (old.or_else(|thread| thread.join().unwrap_or_else(panicked)), new)
        });
        // What was wrong before is not the edit's fault.
        let old = old?;
        let outcome = match new {
            Err(error) => Err(error),
            Ok((Err(stop @ Stop::Unsupported(_)), _)) => return Err(stop),
            // The place would be one in a text that nobody sees.
            Ok((Err(Stop::Wrong { message, .. }), _)) => {
                Err(refused(file, &format!("it would not evaluate any more: {message}")))
            }
            Ok((Err(Stop::Other(error)), _)) => Err(error),
            Ok((Ok(new), after)) => expected(&old, file, &place, change)
                .and_then(|wanted| self.compared(&new, &wanted, &after, change))
                .map(|()| after),
        };
        Ok(Attempt { old, outcome })
    }

    /// Whether the new value is the one that was meant.
    fn compared(&self, new: &Value, wanted: &Value, after: &str, change: &Change) -> Result<()> {
        let Some(mut found) = differs(new, wanted, change, false) else { return Ok(()) };
        let mut written = None;
        if found.why == Why::Function {
            match untouched(self.before, after, change)? {
                Ok(()) => match differs(new, wanted, change, true) {
                    Some(other) => found = other,
                    None => return Ok(()),
                },
                Err(why) => written = Some(why),
            }
        }
        Err(unproven(&found, written, self.file, change))
    }
}

/// Why an edit that can be written is not made: it would not come to what was meant, or to more than that. `written`
/// is what a function may have to do with the change.
fn unproven(found: &Difference, written: Option<String>, file: &Path, change: &Change) -> Error {
    let meant: &[&str] = match change {
        Change::Insert { name, .. } | Change::Remove { name } => &[name],
        Change::Set { host, attr, .. } | Change::Unset { host, attr } => &[host, attr],
    };
    let shown = found.path.iter().map(|name| super::quote_name(name)).collect::<Vec<_>>().join(".");
    let beside = found.path.iter().zip(meant).any(|(name, meant)| name.as_ref() != *meant);
    let why = match found.why {
        Why::TooLarge => format!("{shown} is too large to be compared with what it was"),
        Why::Function => match written {
            Some(why) => format!("{shown} is or holds a function, which can not be compared, and {why}"),
            None => format!("{shown} is or holds a function, which can not be compared"),
        },
        Why::Differs if beside => format!("{shown} is made from what would change, and would change too"),
        Why::Differs if found.path.is_empty() => "it would come to something else than was meant".to_owned(),
        Why::Differs => format!("{shown} is computed, and would not be what was meant"),
    };
    refused(file, &why)
}

fn refused(file: &Path, why: &str) -> Error {
    Error::refused(format!("can not edit {}: {why}", file.display()))
        .now("nothing was changed")
        .hint("edit the file by hand: what depends on each other together")
}

/// The first difference of two files in what they say of a host. What begins with an underscore is no host: a function
/// that stands there may stay. `functions` says that those of the other hosts are known to be as they were; a new host
/// has none.
fn differs(new: &Value, wanted: &Value, change: &Change, functions: bool) -> Option<Difference> {
    let (Some(a), Some(b)) = (new.attrs(), wanted.attrs()) else { return difference(new, wanted, functions) };
    let is_inserted =
        |name: &str| matches!(change, Change::Insert { name: inserted, .. } if inserted == name);
    let own = |attr: &Attr| attr.name.starts_with('_') && matches!(attr.value.data, Data::Function);
    let hosts = |attrs: &[Attr], other: &[Attr]| {
        let find =
            |name: &Arc<str>| other.binary_search_by(|attr| attr.name.cmp(name)).ok().map(|at| &other[at]);
        let stays = |attr: &Attr| own(attr) && find(&attr.name).is_some_and(own);
        let kept = attrs.iter().filter(|attr| !is_inserted(&attr.name) && !stays(attr));
        Value { data: Data::Attrs(kept.cloned().collect()), at: None }
    };
    difference(&hosts(a, b), &hosts(b, a), functions).or_else(|| {
        let inserted = |attrs: &[Attr]| {
            let kept = attrs.iter().filter(|attr| is_inserted(&attr.name));
            Value { data: Data::Attrs(kept.cloned().collect()), at: None }
        };
        difference(&inserted(a), &inserted(b), false)
    })
}

/// What the file must come to.
fn expected(old: &Value, file: &Path, place: &Path, change: &Change) -> Result<Value> {
    let odd = || Error::failed(format!("{} does not hold what was to be edited", file.display()));
    let mut hosts = old.attrs().ok_or_else(odd)?.to_vec();
    let find = |attrs: &[Attr], name: &str| attrs.binary_search_by(|attr| attr.name.as_ref().cmp(name));
    match change {
        Change::Insert { name, host } => {
            let new = inserted(&hosts, place, host);
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

fn inserted(hosts: &[Attr], place: &Path, host: &NewHost) -> Data {
    let base = place.parent().unwrap_or(Path::new("/"));
    let path = |path: &Option<String>| {
        path.as_ref().map(|path| Data::Path(Path::new(&crate::nix::eval::absolute(base, path)).into()))
    };
    let text = |text: &Option<String>| text.as_deref().map(|text| Data::Str(text.into()));
    let keys = match &host.authorized_keys {
        AuthorizedKeys::List(keys) => {
            let key = |key: &String| Value { data: Data::Str(key.as_str().into()), at: None };
            Some(Data::List(keys.iter().map(key).collect()))
        }
        AuthorizedKeys::SameAsOthers => shared_keys(hosts),
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
