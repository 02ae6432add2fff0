//! Evaluated values with the places they come from.

use std::{path::Path, sync::Arc};

use super::error::{EvalError, Fault};
use crate::nix::source::{Location, Sources, Span};

/// A value, evaluated to the bottom.
#[derive(Debug, Clone, PartialEq)]
pub struct Value {
    /// What it is.
    pub data: Data,
    /// The expression it comes from, where there is one.
    pub at: Option<Span>,
}

/// What a value is.
#[derive(Debug, Clone, PartialEq)]
pub enum Data {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A 64-bit integer.
    Int(i64),
    /// A floating-point number, always finite.
    Float(f64),
    /// Text.
    Str(Arc<str>),
    /// A path: absolute, as written, never copied anywhere.
    Path(Arc<Path>),
    /// A list.
    List(Arc<[Value]>),
    /// A set, in the order of its names.
    Attrs(Arc<[Attr]>),
    /// A function: it has no value as data.
    Function,
    /// What a survey could not evaluate: its fault is told by the survey. No evaluated file holds one.
    Failed,
}

/// One attribute of a set.
#[derive(Debug, Clone, PartialEq)]
pub struct Attr {
    /// Its name.
    pub name: Arc<str>,
    /// Where it is defined: its name in the file.
    pub key: Option<Span>,
    /// What it is bound to.
    pub value: Value,
}

impl Value {
    /// What people call its type, with an article.
    pub fn kind(&self) -> &'static str {
        match &self.data {
            Data::Null => "null",
            Data::Bool(_) => "a boolean",
            Data::Int(_) => "an integer",
            Data::Float(_) => "a floating-point number",
            Data::Str(_) => "a string",
            Data::Path(_) => "a path",
            Data::List(_) => "a list",
            Data::Attrs(_) => "a set",
            Data::Function => "a function",
            Data::Failed => "what can not be evaluated",
        }
    }

    /// The attribute of this name, if this is a set that has it.
    pub fn get(&self, name: &str) -> Option<&Attr> {
        let Data::Attrs(attrs) = &self.data else { return None };
        attrs.binary_search_by(|attr| attr.name.as_ref().cmp(name)).ok().and_then(|at| attrs.get(at))
    }

    /// Its attributes, if it is a set.
    pub fn attrs(&self) -> Option<&[Attr]> {
        match &self.data {
            Data::Attrs(attrs) => Some(attrs),
            _ => None,
        }
    }

    /// The text, if it is a string.
    pub fn as_str(&self) -> Option<&str> {
        match &self.data {
            Data::Str(text) => Some(text),
            _ => None,
        }
    }
}

/// A file's value and the texts that its places refer to.
#[derive(Debug, Clone)]
pub struct Evaluated {
    /// The value.
    pub value: Value,
    /// The files that were read.
    pub sources: Sources,
}

impl Evaluated {
    /// What a person calls this place.
    pub fn locate(&self, at: Option<Span>) -> Option<Location> {
        at.and_then(|span| self.sources.locate(span))
    }

    /// The value as JSON, as `nix eval --json` prints it, but with paths as plain absolute paths.
    pub fn to_json(&self) -> Result<serde_json::Value, EvalError> {
        let mut left = MAX_JSON_NODES;
        self.json(&self.value, &mut left)
    }

    fn json(&self, value: &Value, left: &mut usize) -> Result<serde_json::Value, EvalError> {
        use serde_json::Value as Json;
        let fault =
            |message: &str| Fault { message: message.to_owned(), at: self.locate(value.at), help: None };
        *left =
            left.checked_sub(1).ok_or_else(|| EvalError::Budget(fault("the value is too large for JSON")))?;
        Ok(match &value.data {
            Data::Null => Json::Null,
            Data::Bool(b) => Json::Bool(*b),
            Data::Int(number) => Json::from(*number),
            Data::Float(number) => Json::from(*number),
            Data::Str(text) => Json::from(text.as_ref()),
            Data::Path(path) => Json::from(path.to_string_lossy().as_ref()),
            Data::List(items) => {
                Json::Array(items.iter().map(|item| self.json(item, left)).collect::<Result<_, _>>()?)
            }
            Data::Attrs(attrs) => {
                if value.get("__toString").or(value.get("outPath")).is_some() {
                    return Err(EvalError::Unsupported(fault(
                        "JSON of a set with `__toString` or `outPath`",
                    )));
                }
                let pair = |attr: &Attr| Ok((attr.name.to_string(), self.json(&attr.value, left)?));
                Json::Object(attrs.iter().map(pair).collect::<Result<_, _>>()?)
            }
            Data::Function => return Err(EvalError::Eval(fault("a function can not be written as JSON"))),
            Data::Failed => return Err(EvalError::Eval(fault("what can not be evaluated has no JSON"))),
        })
    }
}

/// Shared values are written out once for each use: this bounds what a small file can ask for.
const MAX_JSON_NODES: usize = 1_000_000;
