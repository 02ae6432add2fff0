//! Builtins over sets.

use std::{collections::HashSet, rc::Rc, sync::Arc};

use super::Builtin;
use crate::nix::eval::{
    error::Outcome,
    expr::{ExprId, Sym},
    machine::{Machine, NOWHERE, Slot, ThunkId, Val, find},
};

pub(super) const ALL: &[Builtin] = &[
    Builtin { name: "attrNames", arity: 1, run: attr_names },
    Builtin { name: "attrValues", arity: 1, run: attr_values },
    Builtin { name: "getAttr", arity: 2, run: get_attr },
    Builtin { name: "hasAttr", arity: 2, run: has_attr },
    Builtin { name: "removeAttrs", arity: 2, run: remove_attrs },
    Builtin { name: "listToAttrs", arity: 1, run: list_to_attrs },
    Builtin { name: "intersectAttrs", arity: 2, run: intersect_attrs },
    Builtin { name: "catAttrs", arity: 2, run: cat_attrs },
    Builtin { name: "mapAttrs", arity: 2, run: map_attrs },
    Builtin { name: "zipAttrsWith", arity: 2, run: zip_attrs_with },
];

impl Machine {
    /// An argument that must be a set.
    pub(super) fn attr_set(&mut self, thunk: ThunkId, at: ExprId) -> Outcome<Rc<[Slot]>> {
        match self.force(thunk)? {
            Val::Attrs(slots) => Ok(slots),
            other => {
                let message = format!("expected a set, found {}", self.kind(&other, at)?);
                self.fail(message, at)
            }
        }
    }

    /// A set of these attributes.
    pub(super) fn set<const N: usize>(&mut self, attrs: [(&str, ThunkId); N]) -> Outcome<Val> {
        self.charge(N * size_of::<Slot>())?;
        let mut slots =
            attrs.map(|(name, value)| Slot { name: self.names.intern(name), value, key: NOWHERE });
        slots.sort_unstable_by_key(|slot| slot.name);
        Ok(Val::Attrs(Rc::new(slots)))
    }

    /// Attributes in the order of their names.
    pub(super) fn by_name(&mut self, slots: &[Slot]) -> Outcome<Vec<Slot>> {
        // Sorting them compares each with a dozen others.
        self.charge_steps(slots.len())?;
        let mut sorted = slots.to_vec();
        sorted.sort_by(|a, b| self.names.text(a.name).cmp(self.names.text(b.name)));
        Ok(sorted)
    }

    fn name_argument(&mut self, thunk: ThunkId, at: ExprId) -> Outcome<Sym> {
        let value = self.force(thunk)?;
        let text = self.plain_text(&value, at)?;
        self.intern(&text)
    }
}

fn attr_names(m: &mut Machine, args: &[ThunkId], at: ExprId) -> Outcome<Val> {
    let slots = m.attr_set(args[0], at)?;
    let mut names = Vec::new();
    for slot in m.by_name(&slots)? {
        let name = Arc::clone(m.names.text(slot.name));
        names.push(m.done(Val::Str(name), at)?);
    }
    Ok(Val::List(names.into()))
}

fn attr_values(m: &mut Machine, args: &[ThunkId], at: ExprId) -> Outcome<Val> {
    let slots = m.attr_set(args[0], at)?;
    m.charge(slots.len() * size_of::<ThunkId>())?;
    Ok(Val::List(m.by_name(&slots)?.iter().map(|slot| slot.value).collect()))
}

fn get_attr(m: &mut Machine, args: &[ThunkId], at: ExprId) -> Outcome<Val> {
    let name = m.name_argument(args[0], at)?;
    let slots = m.attr_set(args[1], at)?;
    match find(&slots, name) {
        Some(slot) => m.force(slot.value),
        None => m.fail(format!("attribute '{}' is missing", m.names.text(name)), at),
    }
}

fn has_attr(m: &mut Machine, args: &[ThunkId], at: ExprId) -> Outcome<Val> {
    let name = m.name_argument(args[0], at)?;
    let slots = m.attr_set(args[1], at)?;
    Ok(Val::Bool(find(&slots, name).is_some()))
}

fn remove_attrs(m: &mut Machine, args: &[ThunkId], at: ExprId) -> Outcome<Val> {
    let slots = m.attr_set(args[0], at)?;
    let names = m.list(args[1], at)?;
    let mut gone = HashSet::new();
    m.charge_steps(names.len())?;
    for name in names.iter() {
        gone.insert(m.name_argument(*name, at)?);
    }
    m.charge(slots.len() * size_of::<Slot>())?;
    Ok(Val::Attrs(slots.iter().filter(|slot| !gone.contains(&slot.name)).copied().collect()))
}

fn list_to_attrs(m: &mut Machine, args: &[ThunkId], at: ExprId) -> Outcome<Val> {
    let items = m.list(args[0], at)?;
    let (name_key, value_key) = (m.names.intern("name"), m.names.intern("value"));
    let mut seen = HashSet::new();
    let mut slots = Vec::new();
    m.charge(items.len() * size_of::<Slot>())?;
    m.charge_steps(items.len())?;
    for item in items.iter() {
        let pair = m.attr_set(*item, at)?;
        let Some(name) = find(&pair, name_key) else { return m.fail("attribute 'name' is missing", at) };
        let name = m.name_argument(name.value, at)?;
        // The first of several with one name counts.
        if seen.contains(&name) {
            continue;
        }
        let Some(value) = find(&pair, value_key) else { return m.fail("attribute 'value' is missing", at) };
        seen.insert(name);
        slots.push(Slot { name, value: value.value, key: value.key });
    }
    slots.sort_unstable_by_key(|slot| slot.name);
    Ok(Val::Attrs(slots.into()))
}

fn intersect_attrs(m: &mut Machine, args: &[ThunkId], at: ExprId) -> Outcome<Val> {
    let wanted = m.attr_set(args[0], at)?;
    let from = m.attr_set(args[1], at)?;
    m.charge(from.len() * size_of::<Slot>())?;
    m.charge_items(from.len())?;
    Ok(Val::Attrs(from.iter().filter(|slot| find(&wanted, slot.name).is_some()).copied().collect()))
}

fn cat_attrs(m: &mut Machine, args: &[ThunkId], at: ExprId) -> Outcome<Val> {
    let name = m.name_argument(args[0], at)?;
    let sets = m.list(args[1], at)?;
    let mut values = Vec::new();
    m.charge_items(sets.len())?;
    for set in sets.iter() {
        values.extend(find(&m.attr_set(*set, at)?, name).map(|slot| slot.value));
    }
    m.charge(values.len() * size_of::<ThunkId>())?;
    Ok(Val::List(values.into()))
}

fn map_attrs(m: &mut Machine, args: &[ThunkId], at: ExprId) -> Outcome<Val> {
    let slots = m.attr_set(args[1], at)?;
    m.charge(slots.len() * size_of::<Slot>())?;
    let mut mapped = Vec::with_capacity(slots.len());
    for slot in slots.iter() {
        let name = Arc::clone(m.names.text(slot.name));
        let name = m.done(Val::Str(name), at)?;
        mapped.push(Slot { value: m.apply_later(args[0], name, Some(slot.value), at)?, ..*slot });
    }
    Ok(Val::Attrs(mapped.into()))
}

fn zip_attrs_with(m: &mut Machine, args: &[ThunkId], at: ExprId) -> Outcome<Val> {
    let sets = m.list(args[1], at)?;
    let mut grouped: std::collections::BTreeMap<Sym, Vec<ThunkId>> = std::collections::BTreeMap::new();
    m.charge_items(sets.len())?;
    for set in sets.iter() {
        let slots = m.attr_set(*set, at)?;
        m.charge_steps(slots.len())?;
        for slot in slots.iter() {
            grouped.entry(slot.name).or_default().push(slot.value);
        }
    }
    let mut slots = Vec::new();
    for (name, values) in grouped {
        m.charge(size_of::<Slot>() + values.len() * size_of::<ThunkId>())?;
        let text = Arc::clone(m.names.text(name));
        let text = m.done(Val::Str(text), at)?;
        let values = m.done(Val::List(values.into()), at)?;
        slots.push(Slot { name, value: m.apply_later(args[0], text, Some(values), at)?, key: NOWHERE });
    }
    Ok(Val::Attrs(slots.into()))
}
