//! Why an evaluation did not give a value.

use std::fmt;

use crate::nix::source::{Location, Sources, Span};

/// What went wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// In words, lower case, no full stop.
    pub message: String,
    /// Where, when it is somewhere.
    pub at: Option<Location>,
    /// What would be right, where that can be told.
    pub help: Option<Box<str>>,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.at {
            Some(at) => write!(f, "{at}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

/// Why an evaluation did not give a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EvalError {
    /// The file is not Nix.
    #[error("syntax error: {0}")]
    Syntax(Fault),
    /// The file is Nix, and evaluating it fails: Nix would fail too.
    #[error("{0}")]
    Eval(Fault),
    /// The file uses what the embedded evaluator does not cover; Nix may well read it.
    #[error("not covered by the embedded evaluator: {0}")]
    Unsupported(Fault),
    /// The file asks for more steps, depth or memory than it is allowed.
    #[error("gave up: {0}")]
    Budget(Fault),
}

impl EvalError {
    /// What went wrong, and where.
    pub fn fault(&self) -> &Fault {
        match self {
            EvalError::Syntax(f) | EvalError::Eval(f) | EvalError::Unsupported(f) | EvalError::Budget(f) => f,
        }
    }
}

/// What sort of stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sort {
    Syntax,
    Eval,
    /// `throw` or a failed assertion: what `tryEval` catches.
    Thrown,
    Unsupported,
    Budget,
}

/// The internal form of an error: small to pass around, turned into an [`EvalError`] at the edge.
#[derive(Debug, Clone)]
pub(super) struct Stop(Box<Inner>);

#[derive(Debug, Clone)]
struct Inner {
    sort: Sort,
    message: String,
    at: Option<Span>,
    help: Option<String>,
    /// Where the first of two is.
    first: Option<Span>,
}

pub(super) type Outcome<T> = Result<T, Stop>;

impl Stop {
    pub(super) fn new(sort: Sort, message: impl Into<String>, at: Option<Span>) -> Stop {
        Stop(Box::new(Inner { sort, message: message.into(), at, help: None, first: None }))
    }

    pub(super) fn sort(&self) -> Sort {
        self.0.sort
    }

    /// Where and what.
    pub(super) fn what(&self) -> (Option<Span>, &str) {
        (self.0.at, &self.0.message)
    }

    /// The same with what would be right.
    pub(super) fn help(mut self, help: Option<String>) -> Stop {
        self.0.help = help;
        self
    }

    /// The same with the place of the first of two.
    pub(super) fn first(mut self, at: Span) -> Stop {
        self.0.first = Some(at);
        self
    }

    /// The same with a place, if it had none.
    pub(super) fn or_at(mut self, at: Span) -> Stop {
        self.0.at.get_or_insert(at);
        self
    }

    pub(super) fn into_error(self, sources: &Sources) -> EvalError {
        let first = self.0.first.and_then(|span| sources.locate(span));
        let first = first.map(|at| format!("the first is on line {}: keep one of them", at.line));
        let fault = Fault {
            message: self.0.message,
            at: self.0.at.and_then(|span| sources.locate(span)),
            help: self.0.help.or(first).map(String::into_boxed_str),
        };
        match self.0.sort {
            Sort::Syntax => EvalError::Syntax(fault),
            Sort::Eval | Sort::Thrown => EvalError::Eval(fault),
            Sort::Unsupported => EvalError::Unsupported(fault),
            Sort::Budget => EvalError::Budget(fault),
        }
    }
}
