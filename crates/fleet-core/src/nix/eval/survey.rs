//! All errors of a file in one evaluation: what fails is noted and passed over, and the rest of its set or list goes on.

use std::{collections::HashSet, path::Path};

use super::{
    Budget, EvalError, Evaluated,
    error::{Outcome, Sort, Stop},
    expr::Sym,
    machine::{Machine, ThunkId},
    output::Seen,
    value::{Data, Value},
};
use crate::nix::{reader::quoted, source::Span, syntax::on_large_stack};

/// What a file says that can not be evaluated as a whole. Nothing may act on it: it is there to find more faults.
#[derive(Debug)]
pub(crate) struct Survey {
    /// Its value, with [`Data::Failed`] in every place that could not be evaluated.
    pub(crate) rest: Evaluated,
    /// Every error with the attribute path of what it was needed for, empty for the whole file.
    pub(crate) errors: Vec<(EvalError, String)>,
}

impl Survey {
    /// Whether nothing but one error is known of the file.
    pub(crate) fn is_one_error(&self) -> bool {
        self.errors.is_empty() || self.errors.len() == 1 && matches!(self.rest.value.data, Data::Failed)
    }
}

/// What a survey found so far.
#[derive(Debug, Default)]
pub(super) struct Found {
    stops: Vec<(Stop, String)>,
    /// Several attributes may need one thing that fails.
    known: HashSet<(Option<Span>, String)>,
    /// Names on the way to what is being evaluated; elements of a list have none.
    path: Vec<Option<Sym>>,
}

/// Evaluates as much of a file as can be. An error if it is not there, is not Nix or can not be read.
pub(crate) fn survey_file(path: &Path, budget: Budget) -> Result<Survey, EvalError> {
    let path = super::resolve(path);
    let survey = || {
        let mut machine = Machine::new(budget);
        machine.survey = Some(Found::default());
        machine.code.wrong = Some(Vec::new());
        match machine.load(&path) {
            Ok(root) => Ok(machine.survey(root)),
            Err(stop) => Err(stop.into_error(&machine.sources)),
        }
    };
    on_large_stack(survey).unwrap_or_else(|error| Err(super::no_thread(&error)))
}

impl Machine {
    fn survey(mut self, root: ThunkId) -> Survey {
        let value = self.member(None, root, 0, &mut Seen::default());
        // What ran out of its budget has no rest.
        let value = value.unwrap_or(Value { data: Data::Failed, at: None });
        let mut found = self.survey.take().unwrap_or_default();
        for stop in self.code.wrong.take().unwrap_or_default() {
            found.add(stop, String::new);
        }
        let errors =
            found.stops.into_iter().map(|(stop, path)| (stop.into_error(&self.sources), path)).collect();
        Survey { rest: Evaluated { value, sources: self.sources }, errors }
    }

    /// As [`Machine::deep`], for what is in a set or list, or the file itself: in a survey it may fail.
    pub(super) fn member(
        &mut self,
        name: Option<Sym>,
        thunk: ThunkId,
        level: u32,
        seen: &mut Seen,
    ) -> Outcome<Value> {
        let Some(found) = &mut self.survey else { return self.deep(thunk, level, seen) };
        found.path.push(name);
        let outcome = self.deep(thunk, level, seen);
        let at = self.span(self.thunk_expr(thunk));
        let Some(found) = &mut self.survey else { return outcome };
        let outcome = outcome.or_else(|stop| {
            let ends = stop.sort() == Sort::Budget;
            // What the nix program may well evaluate is no fault.
            if stop.sort() != Sort::Unsupported {
                let names = found.path.iter().flatten().map(|name| quoted(self.names.text(*name)));
                let path = names.collect::<Vec<_>>().join(".");
                found.add(stop.clone(), || path);
            }
            if ends { Err(stop) } else { Ok(Value { data: Data::Failed, at: Some(at) }) }
        });
        found.path.pop();
        outcome
    }
}

impl Found {
    fn add(&mut self, stop: Stop, path: impl FnOnce() -> String) {
        let (at, message) = stop.what();
        if self.known.insert((at, message.to_owned())) {
            self.stops.push((stop, path()));
        }
    }
}
