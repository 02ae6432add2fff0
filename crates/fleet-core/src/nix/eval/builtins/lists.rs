//! Builtins over lists.

use std::{collections::HashMap, rc::Rc};

use super::Builtin;
use crate::nix::eval::{
    error::{Outcome, Sort},
    expr::{ExprId, Sym},
    machine::{Machine, NOWHERE, Slot, ThunkId, Val, find},
};

pub(super) const ALL: &[Builtin] = &[
    Builtin { name: "length", arity: 1, run: length },
    Builtin { name: "head", arity: 1, run: head },
    Builtin { name: "tail", arity: 1, run: tail },
    Builtin { name: "elemAt", arity: 2, run: elem_at },
    Builtin { name: "elem", arity: 2, run: elem },
    Builtin { name: "map", arity: 2, run: map },
    Builtin { name: "filter", arity: 2, run: filter },
    Builtin { name: "partition", arity: 2, run: partition },
    Builtin { name: "groupBy", arity: 2, run: group_by },
    Builtin { name: "all", arity: 2, run: all },
    Builtin { name: "any", arity: 2, run: any },
    Builtin { name: "concatLists", arity: 1, run: concat_lists },
    Builtin { name: "concatMap", arity: 2, run: concat_map },
    Builtin { name: "foldl'", arity: 3, run: fold },
    Builtin { name: "genList", arity: 2, run: generate },
    Builtin { name: "sort", arity: 2, run: sort },
];

impl Machine {
    /// An argument that must be a list.
    pub(super) fn list(&mut self, thunk: ThunkId, at: ExprId) -> Outcome<Rc<[ThunkId]>> {
        match self.force(thunk)? {
            Val::List(items) => Ok(items),
            other => {
                let message = format!("expected a list, found {}", self.kind(&other, at)?);
                self.fail(message, at)
            }
        }
    }

    /// An argument that must be a boolean.
    pub(super) fn boolean(&mut self, value: &Val, at: ExprId) -> Outcome<bool> {
        match value {
            Val::Bool(b) => Ok(*b),
            other => {
                let message = format!("expected a boolean, found {}", self.kind(other, at)?);
                self.fail(message, at)
            }
        }
    }

    /// An argument that must be an integer.
    pub(super) fn integer(&mut self, thunk: ThunkId, at: ExprId) -> Outcome<i64> {
        match self.force(thunk)? {
            Val::Int(number) => Ok(number),
            other => {
                let message = format!("expected an integer, found {}", self.kind(&other, at)?);
                self.fail(message, at)
            }
        }
    }

    /// An argument that must be a function, to be applied to these items. Versions of Nix differ in whether they
    /// look at it when there are none.
    pub(super) fn function(&mut self, thunk: ThunkId, items: &[ThunkId], at: ExprId) -> Outcome<Val> {
        match self.force(thunk) {
            Ok(value) if self.callable(&value) => Ok(value),
            Ok(_) | Err(_) if items.is_empty() => {
                self.unsupported("what is not a function, over nothing", at)
            }
            Ok(value) => {
                let message = format!("expected a function, found {}", self.kind(&value, at)?);
                self.fail(message, at)
            }
            Err(stop) => Err(stop),
        }
    }

    /// A function that is applied lazily. Versions of Nix differ in whether they look at it before.
    fn lazy_function(&mut self, thunk: ThunkId, at: ExprId) -> Outcome<()> {
        match self.force(thunk) {
            Ok(value) if self.callable(&value) => Ok(()),
            Err(stop) if stop.sort() == Sort::Budget => Err(stop),
            _ => self.unsupported("what is not a function, applied later", at),
        }
    }

    fn callable(&self, value: &Val) -> bool {
        match value {
            Val::Lambda(..) | Val::Builtin(..) => true,
            Val::Attrs(slots) => self.names.find("__functor").is_some_and(|name| find(slots, name).is_some()),
            _ => false,
        }
    }

    fn holds(&mut self, test: &Val, item: ThunkId, at: ExprId) -> Outcome<bool> {
        let answer = self.call(test.clone(), item, at)?;
        self.boolean(&answer, at)
    }

    pub(super) fn list_of(&mut self, items: Vec<ThunkId>) -> Outcome<Val> {
        self.charge(items.len() * size_of::<ThunkId>())?;
        Ok(Val::List(items.into()))
    }
}

#[allow(clippy::cast_possible_wrap, reason = "a list is shorter than 2^63")]
fn length(m: &mut Machine, args: &[ThunkId], at: ExprId) -> Outcome<Val> {
    Ok(Val::Int(m.list(args[0], at)?.len() as i64))
}

fn head(m: &mut Machine, args: &[ThunkId], at: ExprId) -> Outcome<Val> {
    match m.list(args[0], at)?.first() {
        Some(first) => m.force(*first),
        None => m.fail("`head` of an empty list", at),
    }
}

fn tail(m: &mut Machine, args: &[ThunkId], at: ExprId) -> Outcome<Val> {
    let items = m.list(args[0], at)?;
    match items.split_first() {
        Some((_, rest)) => m.list_of(rest.to_vec()),
        None => m.fail("`tail` of an empty list", at),
    }
}

/// The lower 32 bits of a number.
#[expect(clippy::cast_possible_truncation, reason = "that is what they are for")]
pub(super) fn lower(number: i64) -> i32 {
    number as i32
}

fn elem_at(m: &mut Machine, args: &[ThunkId], at: ExprId) -> Outcome<Val> {
    let items = m.list(args[0], at)?;
    let index = m.integer(args[1], at)?;
    // Older versions of Nix look at the lower 32 bits only.
    if i32::try_from(index).is_err() && usize::try_from(lower(index)).is_ok_and(|index| index < items.len()) {
        return m.unsupported("an index beyond 32 bits", at);
    }
    match usize::try_from(index).ok().and_then(|index| items.get(index)) {
        Some(item) => m.force(*item),
        None => m.fail(format!("a list of {} has no element {index}", items.len()), at),
    }
}

fn elem(m: &mut Machine, args: &[ThunkId], at: ExprId) -> Outcome<Val> {
    let items = m.list(args[1], at)?;
    for item in items.iter() {
        if m.equal_thunks(args[0], *item, at)? {
            return Ok(Val::Bool(true));
        }
    }
    Ok(Val::Bool(false))
}

fn map(m: &mut Machine, args: &[ThunkId], at: ExprId) -> Outcome<Val> {
    let items = m.list(args[1], at)?;
    if !items.is_empty() {
        m.lazy_function(args[0], at)?;
    }
    let mapped: Outcome<_> = items.iter().map(|item| m.apply_later(args[0], *item, None, at)).collect();
    m.list_of(mapped?)
}

fn filter(m: &mut Machine, args: &[ThunkId], at: ExprId) -> Outcome<Val> {
    let items = m.list(args[1], at)?;
    let test = m.function(args[0], &items, at)?;
    let mut kept = Vec::new();
    for item in items.iter() {
        if m.holds(&test, *item, at)? {
            kept.push(*item);
        }
    }
    m.list_of(kept)
}

fn partition(m: &mut Machine, args: &[ThunkId], at: ExprId) -> Outcome<Val> {
    let items = m.list(args[1], at)?;
    let test = m.function(args[0], &items, at)?;
    let (mut right, mut wrong) = (Vec::new(), Vec::new());
    for item in items.iter() {
        if m.holds(&test, *item, at)? { right.push(*item) } else { wrong.push(*item) }
    }
    let (right, wrong) = (m.list_of(right)?, m.list_of(wrong)?);
    let (right, wrong) = (m.done(right, at)?, m.done(wrong, at)?);
    m.set([("right", right), ("wrong", wrong)])
}

/// What an entry of a group takes, at most, beside the group.
const NODE_BYTES: usize = 48;

fn group_by(m: &mut Machine, args: &[ThunkId], at: ExprId) -> Outcome<Val> {
    let items = m.list(args[1], at)?;
    let function = m.function(args[0], &items, at)?;
    let mut groups: HashMap<Sym, Vec<ThunkId>> = HashMap::new();
    for item in items.iter() {
        let name = m.call(function.clone(), *item, at)?;
        let name = m.plain_text(&name, at)?;
        m.charge(NODE_BYTES)?;
        groups.entry(m.intern(&name)?).or_default().push(*item);
    }
    let mut slots = Vec::new();
    for (name, items) in groups {
        let list = m.list_of(items)?;
        slots.push(Slot { name, value: m.done(list, at)?, key: NOWHERE });
    }
    slots.sort_unstable_by_key(|slot| slot.name);
    Ok(Val::Attrs(slots.into()))
}

fn all(m: &mut Machine, args: &[ThunkId], at: ExprId) -> Outcome<Val> {
    quantify(m, args, at, false)
}

fn any(m: &mut Machine, args: &[ThunkId], at: ExprId) -> Outcome<Val> {
    quantify(m, args, at, true)
}

fn quantify(m: &mut Machine, args: &[ThunkId], at: ExprId, decisive: bool) -> Outcome<Val> {
    let items = m.list(args[1], at)?;
    let test = m.function(args[0], &items, at)?;
    for item in items.iter() {
        if m.holds(&test, *item, at)? == decisive {
            return Ok(Val::Bool(decisive));
        }
    }
    Ok(Val::Bool(!decisive))
}

fn concat_lists(m: &mut Machine, args: &[ThunkId], at: ExprId) -> Outcome<Val> {
    let lists = m.list(args[0], at)?;
    let mut all = Vec::new();
    for list in lists.iter() {
        let items = m.list(*list, at)?;
        m.charge(items.len() * size_of::<ThunkId>())?;
        m.charge_steps(1 + items.len() / 16)?;
        all.extend_from_slice(&items);
    }
    m.list_of(all)
}

fn concat_map(m: &mut Machine, args: &[ThunkId], at: ExprId) -> Outcome<Val> {
    let items = m.list(args[1], at)?;
    let function = m.function(args[0], &items, at)?;
    let mut all = Vec::new();
    for item in items.iter() {
        match m.call(function.clone(), *item, at)? {
            Val::List(items) => {
                m.charge(items.len() * size_of::<ThunkId>())?;
                m.charge_steps(1 + items.len() / 16)?;
                all.extend_from_slice(&items);
            }
            other => {
                let message = format!("expected a list, found {}", m.kind(&other, at)?);
                return m.fail(message, at);
            }
        }
    }
    m.list_of(all)
}

fn fold(m: &mut Machine, args: &[ThunkId], at: ExprId) -> Outcome<Val> {
    let items = m.list(args[2], at)?;
    let function = m.function(args[0], &items, at)?;
    let mut result = args[1];
    for item in items.iter() {
        let step = m.call(function.clone(), result, at)?;
        let value = m.call(step, *item, at)?;
        result = m.done(value, at)?;
    }
    m.force(result)
}

fn generate(m: &mut Machine, args: &[ThunkId], at: ExprId) -> Outcome<Val> {
    let count = m.integer(args[1], at)?;
    let Ok(length) = usize::try_from(count) else {
        return m.fail("a list can not have a negative length", at);
    };
    m.charge(length.saturating_mul(size_of::<ThunkId>() * 2))?;
    m.lazy_function(args[0], at)?;
    let mut items = Vec::new();
    for index in 0..count {
        let index = m.done(Val::Int(index), at)?;
        items.push(m.apply_later(args[0], index, None, at)?);
    }
    m.list_of(items)
}

/// Lists up to this length are sorted by a function of the file's own: what it says of every pair is asked, and
/// used only if it is an order. What Nix makes of anything else is not defined.
const MOST_SORTED_BY_FUNCTION: usize = 64;

fn sort(m: &mut Machine, args: &[ThunkId], at: ExprId) -> Outcome<Val> {
    let items = m.list(args[1], at)?;
    let less = m.function(args[0], &items, at)?;
    let count = items.len();
    // Nix evaluates every element before it compares any.
    m.charge_items(count)?;
    for item in items.iter() {
        m.force(*item)?;
    }
    if count < 2 {
        return Ok(Val::List(items));
    }
    if let Val::Builtin(builtin, given) = &less
        && builtin.name == "lessThan"
        && given.is_empty()
        && let Some(sorted) = sort_scalars(m, &items)?
    {
        return m.list_of(sorted);
    }
    if count > MOST_SORTED_BY_FUNCTION {
        return m.unsupported("`sort` of a long list by a function", at);
    }
    let mut before = vec![false; count * count];
    let (mut asked_alike, mut failed) = (vec![false; count * count], Vec::new());
    for (i, a) in items.iter().enumerate() {
        for (j, b) in items.iter().enumerate() {
            let asked = m.call(less.clone(), *a, at).and_then(|step| m.call(step, *b, at));
            before[i * count + j] = match asked.and_then(|answer| m.boolean(&answer, at)) {
                Ok(answer) => {
                    asked_alike[i * count + j] = true;
                    answer
                }
                Err(stop) if matches!(stop.sort(), Sort::Budget | Sort::Unsupported) => return Err(stop),
                Err(stop) => {
                    failed.push(stop);
                    false
                }
            };
        }
    }
    if let Some(first) = failed.first() {
        let alike = failed.iter().all(|stop| stop.sort() == first.sort());
        return if alike && !is_connected(&asked_alike, count) {
            Err(first.clone())
        } else {
            // Nix may never ask about these pairs.
            m.unsupported("`sort` by a function that fails for some pairs", at)
        };
    }
    // For each element how many are before it: in an order of groups, equal ones have equal counts.
    let ranks: Vec<usize> =
        (0..count).map(|j| (0..count).filter(|i| before[i * count + j]).count()).collect();
    let ordered = (0..count).all(|i| (0..count).all(|j| before[i * count + j] == (ranks[i] < ranks[j])));
    if !ordered {
        return m.unsupported("`sort` by a function that is not an order", at);
    }
    let mut order: Vec<usize> = (0..count).collect();
    order.sort_by_key(|index| ranks[*index]);
    m.list_of(order.into_iter().map(|index| items[index]).collect())
}

/// Whether some way leads from each element to each other one over pairs that can be compared. Where none does no
/// way of sorting can do without a pair that can not.
fn is_connected(compared: &[bool], count: usize) -> bool {
    let mut reached = vec![false; count];
    let mut open = vec![0];
    while let Some(i) = open.pop() {
        if !std::mem::replace(&mut reached[i], true) {
            open.extend((0..count).filter(|j| compared[i * count + j] || compared[j * count + i]));
        }
    }
    reached.into_iter().all(|reached| reached)
}

/// Strings or integers in their own order; `None` for anything else.
fn sort_scalars(m: &mut Machine, items: &[ThunkId]) -> Outcome<Option<Vec<ThunkId>>> {
    let values: Vec<Val> = items.iter().map(|item| m.force(*item)).collect::<Outcome<_>>()?;
    m.charge_steps(items.len())?;
    if items.len() > 1 {
        // Each is compared with as many others as its number has digits.
        let texts = values.iter().map(|value| if let Val::Str(text) = value { text.len() } else { 0 });
        m.charge_text(texts.sum::<usize>().saturating_mul(items.len().ilog2() as usize + 1))?;
    }
    let mut order: Vec<usize> = (0..items.len()).collect();
    if values.iter().all(|value| matches!(value, Val::Int(_))) {
        order.sort_by_key(|index| match &values[*index] {
            Val::Int(number) => *number,
            _ => 0,
        });
    } else if values.iter().all(|value| matches!(value, Val::Str(_))) {
        order.sort_by(|a, b| match (&values[*a], &values[*b]) {
            (Val::Str(a), Val::Str(b)) => a.cmp(b),
            _ => std::cmp::Ordering::Equal,
        });
    } else {
        return Ok(None);
    }
    Ok(Some(order.into_iter().map(|index| items[index]).collect()))
}
