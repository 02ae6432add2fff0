//! Comparing values, wherever they come from, and what the values of hosts have in common.

use std::{collections::HashSet, sync::Arc};

use crate::nix::eval::{Attr, Data, Value};

/// How much is compared before it is given up: single values, and pieces of text of 64 bytes. Whatever the embedded
/// evaluator makes has fewer of them, as long as what is shared counts once.
const MOST: u64 = 10_000_000;

/// Why two values are not known to be the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// They differ.
    Differs,
    /// Both are functions.
    Function,
    /// Comparing them would take too long.
    TooLarge,
}

/// The first difference of two values.
#[derive(Debug)]
pub(super) struct Difference {
    /// The attributes that lead to it.
    pub path: Vec<Arc<str>>,
    /// What it is.
    pub why: Why,
}

/// Whether two values are the same. Functions never are.
pub(super) fn same(a: &Value, b: &Value) -> bool {
    difference(a, b, false).is_none()
}

/// The first difference of two values, in the order of their names. `functions` says that two functions are taken to
/// be the same one.
pub(super) fn difference(a: &Value, b: &Value, functions: bool) -> Option<Difference> {
    let mut comparison = Comparison { equal: HashSet::new(), left: MOST, path: Vec::new(), functions };
    let why = comparison.values(a, b).err()?;
    Some(Difference { path: comparison.path, why })
}

struct Comparison {
    /// What was found to be equal, by its place in memory: what is shared is compared once.
    equal: HashSet<(usize, usize)>,
    left: u64,
    path: Vec<Arc<str>>,
    functions: bool,
}

impl Comparison {
    fn charge(&mut self, amount: u64) -> Result<(), Why> {
        self.left = self.left.checked_sub(amount).ok_or(Why::TooLarge)?;
        Ok(())
    }

    fn values(&mut self, a: &Value, b: &Value) -> Result<(), Why> {
        self.charge(1)?;
        let same = match (&a.data, &b.data) {
            (Data::List(a), Data::List(b)) => return self.shared(a, b, Comparison::lists),
            (Data::Attrs(a), Data::Attrs(b)) => return self.shared(a, b, Comparison::sets),
            (Data::Function, Data::Function) if !self.functions => return Err(Why::Function),
            (Data::Str(a), Data::Str(b)) => {
                self.charge(a.len() as u64 / 64)?;
                a == b
            }
            (a, b) => a == b,
        };
        if same { Ok(()) } else { Err(Why::Differs) }
    }

    /// Compares by `by`, once for each two places.
    fn shared<T>(
        &mut self,
        a: &Arc<[T]>,
        b: &Arc<[T]>,
        by: impl FnOnce(&mut Comparison, &[T], &[T]) -> Result<(), Why>,
    ) -> Result<(), Why> {
        let places = (a.as_ptr().addr(), b.as_ptr().addr());
        if Arc::ptr_eq(a, b) || self.equal.contains(&places) {
            return Ok(());
        }
        by(self, a, b)?;
        if !a.is_empty() && (Arc::strong_count(a) > 1 || Arc::strong_count(b) > 1) {
            self.equal.insert(places);
        }
        Ok(())
    }

    fn lists(&mut self, a: &[Value], b: &[Value]) -> Result<(), Why> {
        if a.len() != b.len() {
            return Err(Why::Differs);
        }
        a.iter().zip(b).try_for_each(|(a, b)| self.values(a, b))
    }

    fn sets(&mut self, a: &[Attr], b: &[Attr]) -> Result<(), Why> {
        let (mut a, mut b) = (a.iter().peekable(), b.iter().peekable());
        loop {
            let name = match (a.peek(), b.peek()) {
                (None, None) => return Ok(()),
                (Some(a), Some(b)) => Arc::clone((&a.name).min(&b.name)),
                (Some(one), None) | (None, Some(one)) => Arc::clone(&one.name),
            };
            let (x, y) = (a.next_if(|attr| attr.name == name), b.next_if(|attr| attr.name == name));
            self.path.push(name);
            let (Some(x), Some(y)) = (x, y) else { return Err(Why::Differs) };
            self.values(&x.value, &y.value)?;
            self.path.pop();
        }
    }
}

/// The keys that the hosts share: the list that more than half of those with a list have, else the keys that are in
/// every list that has any; `None` where there are none.
pub(super) fn shared_keys(hosts: &[Attr]) -> Option<Data> {
    let lists: Vec<&Value> = hosts
        .iter()
        .filter(|host| !host.name.starts_with('_'))
        .filter_map(|host| host.value.get("authorizedKeys"))
        .map(|attr| &attr.value)
        .collect();
    if let Some(common) = majority(&lists, same) {
        return Some(common.data.clone());
    }
    let mut filled = lists.iter().filter_map(|keys| match &keys.data {
        Data::List(keys) if !keys.is_empty() => Some(keys),
        _ => None,
    });
    let mut shared: Vec<Value> = filled.next()?.to_vec();
    for keys in filled {
        if shared.is_empty() {
            break;
        }
        let texts: HashSet<&str> = keys.iter().filter_map(Value::as_str).collect();
        shared.retain(|key| match key.as_str() {
            Some(text) => texts.contains(text),
            None => keys.iter().any(|other| same(key, other)),
        });
    }
    (!shared.is_empty()).then(|| Data::List(shared.into()))
}

/// What more than half of these are (the majority vote of Boyer and Moore: one pass finds the only one that can be it,
/// another counts it).
fn majority<T: Copy>(all: &[T], mut same: impl FnMut(T, T) -> bool) -> Option<T> {
    let (mut candidate, mut lead) = (*all.first()?, 0usize);
    for one in all {
        if lead == 0 {
            candidate = *one;
        }
        lead = if lead == 0 || same(candidate, *one) { lead + 1 } else { lead - 1 };
    }
    let count = all.iter().filter(|one| same(candidate, **one)).count();
    (2 * count > all.len()).then_some(candidate)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nix::eval::{Budget, eval_text};

    fn value(text: &str) -> Value {
        eval_text(text, std::path::Path::new("/fleet/hosts.nix"), Budget::default()).unwrap().value
    }

    fn first(a: &str, b: &str) -> Option<(String, Why)> {
        difference(&value(a), &value(b), false).map(|found| (found.path.join("."), found.why))
    }

    #[test]
    fn the_first_difference_has_its_path() {
        let at = |path: &str, why| Some((path.to_owned(), why));
        assert_eq!(first("{ a = [ 1 { b = \"x\"; } ]; }", "{ a = [ 1 { b = \"x\"; } ]; }"), None);
        assert_eq!(
            first("{ a = { b = 1; c = 2; }; }", "{ a = { b = 1; c = 3; }; }"),
            at("a.c", Why::Differs)
        );
        assert_eq!(first("{ a = 1; b = 1; }", "{ b = 2; }"), at("a", Why::Differs));
        assert_eq!(first("{ b = 1; }", "{ b = 1; c = 1; }"), at("c", Why::Differs));
        assert_eq!(first("{ a = [ (x: x) ]; }", "{ a = [ (x: x) ]; }"), at("a", Why::Function));
        assert_eq!(first("{ a = x: x; }", "{ a = 1; }"), at("a", Why::Differs));
        assert_eq!(first("[ 1 ]", "[ 1 2 ]"), at("", Why::Differs));
    }

    /// A value that is 2^60 values when unfolded, against one of its kind from another evaluation; so too where the
    /// one shares at every second level what the other shares at the levels between.
    #[test]
    fn what_is_shared_is_compared_once() {
        let folded = "let f = n: if n == 0 then 1 else let x = f (n - 1); in { l = x; r = x; }; in f 60";
        assert_eq!(first(folded, folded), None);
        let other = folded.replace("then 1", "then 2");
        assert!(
            first(folded, &other).is_some_and(|(path, why)| path.starts_with("l.l.") && why == Why::Differs)
        );
        let by_turns = |odd: u8| {
            format!(
                "let f = n: if n == 0 then 1 else if n - n / 2 * 2 == {odd} then let x = f (n - 1); in [ x x ] else [ (f (n - 1)) ]; \
                 in [ (f 61) ]"
            )
        };
        assert_eq!(first(&by_turns(1), &by_turns(1)), None);
    }

    #[test]
    fn a_majority_is_found_with_two_comparisons_for_each() {
        for most in [0, 500, 501, 1000] {
            let all: Vec<usize> = (0..1000).map(|n| if n * 7 % 1000 < most { 0 } else { n + 1 }).collect();
            let mut comparisons = 0;
            let found = majority(&all, |a, b| {
                comparisons += 1;
                a == b
            });
            assert_eq!(found, (most > 500).then_some(0), "{most}");
            assert!(comparisons <= 2 * all.len(), "{comparisons}");
        }
    }

    #[test]
    fn the_keys_of_most_hosts_or_those_of_all() {
        let keys = |hosts: &str| {
            let hosts = value(hosts);
            shared_keys(hosts.attrs().unwrap()).map(|data| match data {
                Data::List(keys) => keys.iter().filter_map(Value::as_str).collect::<String>(),
                other => panic!("{other:?}"),
            })
        };
        let host = |name: &str, keys: &str| {
            let keys: String = keys.chars().map(|key| format!(" \"{key}\"")).collect();
            format!("{name}.authorizedKeys = [{keys} ];")
        };
        let hosts = |all: &[&str]| {
            let all = all.iter().enumerate().map(|(at, keys)| host(&format!("h{at}"), keys));
            format!("{{ _own.authorizedKeys = [ \"z\" ]; n.user = \"u\"; {} }}", all.collect::<String>())
        };
        for (all, shared) in [
            (&[][..], None),
            (&["a"], Some("a")),
            (&["b", "a", "a"], Some("a")),
            (&["a", "b", "a", "c", "a"], Some("a")),
            (&["a", "a", "b", "c", "a"], Some("a")),
            (&["a", "b", "c"], None),
            (&["ka", "kb", "", "ck"], Some("k")),
            (&["ab", "ab", "ba", "ba"], Some("ab")),
            (&["", "", "a"], Some("")),
        ] {
            assert_eq!(keys(&hosts(all)), shared.map(str::to_owned), "{all:?}");
        }
    }
}
