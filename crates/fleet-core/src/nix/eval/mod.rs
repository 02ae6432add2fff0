//! An evaluator for data-shaped Nix: lazy, bounded, and never wrong.
//!
//! It reads rnix's syntax tree. What it covers it evaluates as Nix does; everything else is an
//! [`EvalError::Unsupported`] that names the construct and its place, also where versions of Nix disagree.

mod builtins;
mod call;
mod code;
mod defs;
mod divided;
mod error;
mod expr;
mod literals;
mod lower;
mod machine;
mod meant;
mod ops;
mod output;
mod scopes;
mod strings;
mod survey;
mod value;

use std::{path::Path, sync::Arc};

pub use error::{EvalError, Fault};
use machine::Machine;
pub(crate) use survey::survey_file;
pub use value::{Attr, Data, Evaluated, Value};

use super::syntax::{Tree, on_large_stack};

/// A map with a quick hash: what a file can fill it with is bounded by the file's budget.
type Map<K, V> = std::collections::HashMap<K, V, foldhash::fast::RandomState>;

/// What an evaluation may use before it is given up.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    /// Expressions evaluated, and whatever else takes as long as evaluating one; ten million take about a second.
    pub steps: u64,
    /// Expressions that wait for each other.
    pub depth: u32,
    /// Levels of sets and lists inside each other in the result.
    pub nesting: u32,
    /// Bytes taken by values, counted and never given back.
    pub memory: u64,
    /// Bytes of one file.
    pub file_size: u64,
}

impl Default for Budget {
    fn default() -> Budget {
        Budget { steps: 4_000_000, depth: 5_000, nesting: 500, memory: 256 << 20, file_size: 32 << 20 }
    }
}

/// Evaluates a file to the bottom.
pub fn eval_file(path: &Path, budget: Budget) -> Result<Evaluated, EvalError> {
    let path = resolve(path);
    run(budget, |machine| machine.load(&path))
}

/// Evaluates a text as if it stood in the file `path`.
pub fn eval_text(text: &str, path: &Path, budget: Budget) -> Result<Evaluated, EvalError> {
    eval_parsed(text, None, path, budget)
}

/// As [`eval_text`], where the tree of the text may be known.
pub(super) fn eval_parsed(
    text: &str,
    tree: Option<Tree>,
    path: &Path,
    budget: Budget,
) -> Result<Evaluated, EvalError> {
    let text: Arc<str> = text.into();
    run(budget, |machine| {
        machine.given = Some((resolve(path), Arc::clone(&text)));
        machine.load_text(path, &text, tree)
    })
}

fn run(
    budget: Budget,
    load: impl FnOnce(&mut Machine) -> error::Outcome<machine::ThunkId> + Send,
) -> Result<Evaluated, EvalError> {
    let evaluate = || {
        let mut machine = Machine::new(budget);
        let outcome = load(&mut machine).and_then(|root| machine.deep(root, 0, &mut output::Seen::default()));
        match outcome {
            Ok(value) => Ok(Evaluated { value, sources: machine.sources }),
            Err(stop) => Err(stop.into_error(&machine.sources)),
        }
    };
    on_large_stack(evaluate).unwrap_or_else(|error| Err(no_thread(&error)))
}

fn no_thread(error: &std::io::Error) -> EvalError {
    let message = format!("can not start a thread to evaluate in: {error}");
    EvalError::Budget(Fault { message, at: None, help: None })
}

/// The absolute path of a file; links are followed, as Nix does, because relative paths in it start there.
pub(super) fn resolve(path: &Path) -> std::path::PathBuf {
    let mut file = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    // As many links as Linux follows.
    for _ in 0..40 {
        let Ok(target) = std::fs::read_link(&file) else { break };
        let base = file.parent().map(Path::to_path_buf).unwrap_or_default();
        file = literals::absolute(&base, &target.to_string_lossy()).into();
    }
    if file.is_dir() { file.join("default.nix") } else { file }
}

/// The text between double quotes, if it is one whose meaning is the same everywhere.
pub(super) fn unescape(raw: &str) -> Option<String> {
    strings::unescape(raw).ok().map(|text| text.to_string())
}

/// A path made absolute against a directory, without looking at the file system.
pub(super) fn absolute(base: &Path, path: &str) -> String {
    literals::absolute(base, path)
}
