//! Reading a file with the nix program, for what the embedded evaluator does not cover.
//!
//! What `nix eval --json` makes of paths differs between versions (some copy them into the store), and it drops
//! places. So the file's value is wrapped by an expression of ours that writes paths as plain text and notes
//! where each attribute is defined. The exit status is looked at first: on an error some versions leave broken
//! JSON behind. Warnings on standard error are not part of the answer.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::Deserialize;

use super::{
    eval::{Attr, Data, Evaluated, Value},
    source::{Location, Source, Sources, Span},
};
use crate::{Error, Result, child, deadline::Deadline, faults::Fault};

/// How long one evaluation may take: `import <nixpkgs>` takes seconds.
const LIMIT_SECS: u64 = 120;

/// How much memory one evaluation may take for its values, in bytes: a file of data takes a few MiB, nixpkgs hundreds.
/// Read by Nix's garbage collector (bdwgc's README.environment).
const HEAP: (&str, &str) = ("GC_MAXIMUM_HEAP_SIZE", "4294967296");

/// Applied to the file's value: what it is (`t`), its content (`v`), and for attributes their places (`p`).
const WRAPPER: &str = r#"
let
  wrap = v:
    if builtins.isAttrs v then {
      t = "set";
      v = map (n: { inherit n; p = builtins.unsafeGetAttrPos n v; v = wrap v.${n}; }) (builtins.attrNames v);
    }
    else if builtins.isList v then { t = "list"; v = map wrap v; }
    else if builtins.isFunction v then { t = "function"; v = null; }
    else { t = builtins.typeOf v; v = if builtins.typeOf v == "path" then toString v else v; };
in wrap
"#;

/// The nix program, if it is installed.
pub fn program() -> Option<PathBuf> {
    child::find_program("nix")
}

/// The same; an error says how to do without it.
pub(crate) fn required_program() -> Result<PathBuf> {
    program().ok_or_else(|| {
        Error::not_found("the nix program is not on PATH")
            .hint("install Nix (https://nixos.org/download), or let the built-in evaluator read: --nix auto")
    })
}

/// Evaluates a text with the nix program as if it were the file `path`: relative paths in it begin in that directory,
/// whose name has no links for this. Nothing is written anywhere, for nix reads the text from its standard input; no
/// place in it is known.
pub(crate) fn eval_text(text: &str, path: &Path, nix: &Path) -> Result<Evaluated> {
    let dir = path.parent().unwrap_or(Path::new("/"));
    // Some versions take the whole text for the name of the file that it is in.
    let wrapper = WRAPPER.replace("builtins.unsafeGetAttrPos n v", "null");
    evaluated(&command(nix).arg("-").args(["--apply", &wrapper]).dir(dir).stdin(text), path, dir)
}

/// Evaluates a file with the nix program. `base` is what places in errors are relative to.
pub fn eval_file(path: &Path, base: &Path, nix: &Path) -> Result<Evaluated> {
    evaluated(&command(nix).arg(path).args(["--apply", WRAPPER]), path, base)
}

/// What goes before the file's name.
fn command(nix: &Path) -> child::Command {
    let command = child::Command::new(nix).args([
        "--extra-experimental-features",
        "nix-command",
        "eval",
        "--json",
        "--file",
    ]);
    if std::env::var_os(HEAP.0).is_some() { command } else { command.env(HEAP.0, HEAP.1) }
}

fn evaluated(command: &child::Command, path: &Path, base: &Path) -> Result<Evaluated> {
    let output = command.output(Deadline::secs(LIMIT_SECS))?;
    if !output.success() {
        let said = output.stderr_text();
        let said: Vec<&str> = said.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
        let fault = fault_in(&said, path, base);
        let said = said[said.len().saturating_sub(12)..].join("\n");
        return Err(Error::failed(format!("`nix eval` of {} failed\n{said}", path.display()))
            .details(serde_json::json!([fault])));
    }
    let wrapped: Wrapped = serde_json::from_slice(&output.stdout).map_err(|e| {
        // It gives a text's bytes as they are.
        let bytes = std::fs::read(path).unwrap_or_default();
        Fault::not_utf8(path, base, &bytes).map_or_else(
            || {
                let what = "gave something else than was asked for";
                Error::failed(format!("`nix eval` of {} {what}", path.display())).caused_by(e)
            },
            Fault::error,
        )
    })?;
    let mut reading = Reading::default();
    let value = reading.value(wrapped, None);
    Ok(Evaluated { value, sources: reading.sources })
}

/// The fault in what nix says: its last `error:`, and the place that follows it.
fn fault_in(said: &[&str], path: &Path, base: &Path) -> Fault {
    let last = said.iter().rposition(|line| line.trim_start().starts_with("error:")).unwrap_or(0);
    let said = said.get(last..).unwrap_or_default();
    let message = said.first().map_or("`nix eval` failed", |line| line.trim_start());
    let message = message.strip_prefix("error:").unwrap_or(message).trim();
    let at = said.iter().skip(1).find_map(|line| place_in(line.trim_start().strip_prefix("at ")?));
    Fault::new(path, base, at.as_ref(), "", message)
}

/// `FILE:LINE:COLUMN:` of a file that can be read.
fn place_in(text: &str) -> Option<Location> {
    let mut parts = text.trim_end_matches(':').rsplitn(3, ':');
    let column = parts.next()?.parse().ok()?;
    let line = parts.next()?.parse().ok()?;
    let file = PathBuf::from(parts.next()?);
    // Nix reads more than UTF-8.
    let text = std::fs::read(&file).ok()?;
    let source = Source::new(file, String::from_utf8_lossy(&text).into());
    let at = source.offset(line, column);
    Some(source.locate(at, at))
}

/// What the wrapper gives.
#[derive(Deserialize)]
#[serde(tag = "t", content = "v", rename_all = "lowercase")]
enum Wrapped {
    Set(Vec<WrappedAttr>),
    List(Vec<Wrapped>),
    Function(()),
    Null(()),
    Bool(bool),
    Int(i64),
    Float(f64),
    String(String),
    Path(String),
}

#[derive(Deserialize)]
struct WrappedAttr {
    n: String,
    p: Option<Place>,
    v: Wrapped,
}

#[derive(Deserialize)]
struct Place {
    file: PathBuf,
    line: usize,
    column: usize,
}

#[derive(Default)]
struct Reading {
    sources: Sources,
    files: HashMap<PathBuf, Option<u32>>,
}

impl Reading {
    fn value(&mut self, wrapped: Wrapped, at: Option<Span>) -> Value {
        let data = match wrapped {
            Wrapped::Set(attrs) => {
                let mut attrs: Vec<Attr> = attrs.into_iter().map(|attr| self.attr(attr)).collect();
                attrs.sort_unstable_by(|a, b| a.name.cmp(&b.name));
                Data::Attrs(attrs.into())
            }
            Wrapped::List(items) => Data::List(items.into_iter().map(|item| self.value(item, at)).collect()),
            Wrapped::Function(()) => Data::Function,
            Wrapped::Null(()) => Data::Null,
            Wrapped::Bool(b) => Data::Bool(b),
            Wrapped::Int(number) => Data::Int(number),
            Wrapped::Float(number) => Data::Float(number),
            Wrapped::String(text) => Data::Str(text.into()),
            Wrapped::Path(path) => Data::Path(Path::new(&path).into()),
        };
        Value { data, at }
    }

    fn attr(&mut self, attr: WrappedAttr) -> Attr {
        let key = attr.p.and_then(|place| self.span(&place, attr.n.len()));
        Attr { value: self.value(attr.v, key), name: Arc::from(attr.n), key }
    }

    fn span(&mut self, place: &Place, length: usize) -> Option<Span> {
        let sources = &mut self.sources;
        let file = *self.files.entry(place.file.clone()).or_insert_with(|| {
            let text = std::fs::read_to_string(&place.file).ok()?;
            Some(sources.add(Source::new(place.file.clone(), text.into())))
        });
        let file = file?;
        let start = self.sources.get(file)?.offset(place.line, place.column);
        Some(Span { file, start, end: start.saturating_add(u32::try_from(length).ok()?) })
    }
}
