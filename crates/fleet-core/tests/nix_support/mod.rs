//! The nix program as an oracle: many expressions through one `nix repl`, whose answers are compared with the
//! embedded evaluator's.
#![allow(dead_code, reason = "each test file uses its part")]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use fleet_core::{
    child,
    deadline::Deadline,
    nix::eval::{Budget, Data, EvalError, Value, eval_file},
};
use serde_json::{Value as Json, json};

/// The nix program. Without it a test says that it is skipped, or fails where oracles are required.
pub(crate) fn nix() -> Option<PathBuf> {
    let found = child::find_program("nix");
    assert!(
        found.is_some() || std::env::var_os("FLEET_REQUIRE_ORACLES").is_none(),
        "nix is required (FLEET_REQUIRE_ORACLES) and not on PATH"
    );
    if found.is_none() {
        eprintln!("skipped: nix is not on PATH");
    }
    found
}

/// What nix says of a value: its type with its content, so that `1` and `1.0` differ and paths stay paths.
const WRAP: &str = "wrap = let wrap = v: if builtins.isAttrs v then [ \"set\" (builtins.mapAttrs (n: wrap) v) ] else if \
    builtins.isList v then [ \"list\" (map wrap v) ] else if builtins.isFunction v then [ \"lambda\" ] else if \
    builtins.typeOf v == \"path\" then [ \"path\" (toString v) ] else [ (builtins.typeOf v) v ]; in wrap";

/// What nix makes of each file: its value, or nothing if it fails. `dir` is for what nix writes itself.
pub(crate) fn oracle(nix: &Path, dir: &Path, files: &[PathBuf]) -> Vec<Option<Json>> {
    let mut answers = vec![None; files.len()];
    let chunk = |start: usize| start..(start + 400).min(files.len());
    let mut open: Vec<std::ops::Range<usize>> = (0..files.len()).step_by(400).map(chunk).collect();
    while let Some(range) = open.pop() {
        // A session that nix did not survive (its stack is gone) is asked again in halves, down to the culprit.
        if !session(nix, dir, files, range.clone(), &mut answers) && range.len() > 1 {
            let middle = range.start + range.len() / 2;
            open.extend([range.start..middle, middle..range.end]);
        }
    }
    answers
}

/// One session; whether nix lived to its end.
fn session(
    nix: &Path,
    dir: &Path,
    files: &[PathBuf],
    range: std::ops::Range<usize>,
    answers: &mut [Option<Json>],
) -> bool {
    // The last line of each question ends what nix takes for an expression still going on.
    let mut input = format!("{WRAP}\n");
    for index in range {
        let path = &files[index];
        input.push_str(&format!(
            "\"@R{index} \" + builtins.toJSON (wrap (import {}))\n)]}}\n",
            path.display()
        ));
    }
    input.push_str("\"@E\"\n");
    let output = child::Command::new(nix)
        .args(["--extra-experimental-features", "nix-command", "repl"])
        .env("TERM", "dumb")
        .env("NO_COLOR", "1")
        .env("HOME", dir)
        .env("XDG_DATA_HOME", dir)
        .stdin(input)
        .output(Deadline::secs(300))
        .unwrap();
    for line in output.stdout_text().lines() {
        let line = strip_colour(line);
        // What nix prints is itself a string in Nix.
        let Some(start) = line.find("\"@").filter(|start| !line[..*start].contains("nix-repl>")) else {
            continue;
        };
        // The terminal's echo of the question.
        if line.contains("\" + builtins.toJSON (wrap") {
            continue;
        }
        let text = unquote(line[start..].trim());
        if let Some(answer) = text.strip_prefix("@R") {
            let (index, json) = answer.split_once(' ').unwrap();
            answers[index.parse::<usize>().unwrap()] = Some(serde_json::from_str(json).unwrap());
        } else if text == "@E" {
            return true;
        }
    }
    false
}

/// The text of a printed string. Old versions do not escape `${` when they print.
fn unquote(printed: &str) -> String {
    let mut out = String::new();
    let mut chars = printed
        .strip_prefix('"')
        .and_then(|text| text.strip_suffix('"'))
        .unwrap_or_else(|| panic!("{printed:?}"))
        .chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => out.extend(chars.next().map(|c| match c {
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                c => c,
            })),
            c => out.push(c),
        }
    }
    out
}

fn strip_colour(line: &str) -> String {
    let mut out = String::new();
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        if c == '\u{1b}' {
            chars.by_ref().find(|c| c.is_ascii_alphabetic());
        } else {
            out.push(c);
        }
    }
    out
}

/// A value in the oracle's form.
pub(crate) fn wrapped(value: &Value) -> Json {
    match &value.data {
        Data::Null => json!(["null", null]),
        Data::Bool(b) => json!(["bool", b]),
        Data::Int(number) => json!(["int", number]),
        Data::Float(number) => json!(["float", number]),
        Data::Str(text) => json!(["string", text.as_ref()]),
        Data::Path(path) => json!(["path", path.to_str().unwrap()]),
        Data::List(items) => json!(["list", items.iter().map(wrapped).collect::<Vec<_>>()]),
        Data::Attrs(attrs) => {
            let attrs: serde_json::Map<_, _> =
                attrs.iter().map(|attr| (attr.name.to_string(), wrapped(&attr.value))).collect();
            json!(["set", attrs])
        }
        Data::Function => json!(["lambda"]),
        Data::Failed => unreachable!("no evaluated file holds what failed"),
    }
}

/// Whether two answers are the same; nix writes six digits of a floating-point number.
pub(crate) fn same(ours: &Json, theirs: &Json) -> bool {
    match (ours, theirs) {
        (Json::Array(a), Json::Array(b)) => {
            if let ([Json::String(x), Json::Number(a)], [Json::String(y), Json::Number(b)]) =
                (a.as_slice(), b.as_slice())
                && x == "float"
                && y == "float"
            {
                let (a, b) = (a.as_f64().unwrap(), b.as_f64().unwrap());
                return (a - b).abs() <= 1e-5 * a.abs().max(b.abs());
            }
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
        }
        (Json::Object(a), Json::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(name, a)| b.get(name).is_some_and(|b| same(a, b)))
        }
        (a, b) => a == b,
    }
}

/// Files that expressions read and import.
pub(crate) fn beside(dir: &Path) {
    fs::create_dir(dir.join("dir")).unwrap();
    for (name, text) in [
        ("data.txt", "first\n  second ${x}\n"),
        ("data.json", "{ \"web\": { \"vmid\": 110, \"tags\": [\"a\", null, 1.5] } }\n"),
        ("dir/default.nix", "{ from = \"default\"; }\n"),
        ("dir/a.nix", "{ v = 1; p = ./x; }\n"),
        (
            "dir/b.nix",
            "{ x, y ? 2, ... }@args: { inherit x y; sum = x + y; names = builtins.attrNames args; }\n",
        ),
        ("dir/c.nix", "{ lib, ... }: with lib; { three = f 2; }\n"),
        ("dir/broken.nix", "{ a = ; }\n"),
    ] {
        fs::write(dir.join(name), text).unwrap();
    }
}

/// How many of which outcome.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) equal: usize,
    pub(crate) both_fail: usize,
    pub(crate) unsupported: usize,
    /// What was not covered, and how often.
    pub(crate) constructs: BTreeMap<String, usize>,
    pub(crate) budget: usize,
    pub(crate) wrong: Vec<String>,
}

/// Compares the embedded evaluator with the oracle over expressions.
pub(crate) fn compare(nix: &Path, dir: &Path, expressions: &[String]) -> Tally {
    let write = |(index, expression): (usize, &String)| {
        let path = dir.join(format!("{index}.nix"));
        fs::write(&path, expression).unwrap();
        path
    };
    let files: Vec<PathBuf> = expressions.iter().enumerate().map(write).collect();
    compare_files(nix, dir, &files)
}

/// Compares the embedded evaluator with the oracle over files.
pub(crate) fn compare_files(nix: &Path, dir: &Path, files: &[PathBuf]) -> Tally {
    let answers = oracle(nix, dir, files);
    let mut tally = Tally::default();
    for (file, theirs) in files.iter().zip(answers) {
        match (eval_file(file, Budget::default()), theirs) {
            (Err(EvalError::Unsupported(fault)), _) => {
                tally.unsupported += 1;
                *tally.constructs.entry(fault.message).or_default() += 1;
            }
            (Err(EvalError::Budget(_)), _) => tally.budget += 1,
            (Err(_), None) => tally.both_fail += 1,
            (Ok(ours), Some(theirs)) if same(&wrapped(&ours.value), &theirs) => tally.equal += 1,
            (ours, theirs) => {
                let ours = ours.map(|ours| wrapped(&ours.value).to_string()).map_err(|e| e.to_string());
                let theirs = theirs.map(|theirs| theirs.to_string());
                let text = fs::read_to_string(file).unwrap_or_default();
                tally.wrong.push(format!("{}\n{text}\n  ours: {ours:?}\n  nix:  {theirs:?}", file.display()));
            }
        }
    }
    tally
}

/// How much may be left open: a construct that is not covered any more shows in this.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Most {
    /// Percent of all that are not covered by the evaluator.
    pub(crate) unsupported: f64,
    /// How many are given up for what they take.
    pub(crate) budget: usize,
}

impl Tally {
    /// Both together.
    pub(crate) fn plus(mut self, other: Tally) -> Tally {
        self.equal += other.equal;
        self.both_fail += other.both_fail;
        self.unsupported += other.unsupported;
        for (construct, times) in other.constructs {
            *self.constructs.entry(construct).or_default() += times;
        }
        self.budget += other.budget;
        self.wrong.extend(other.wrong);
        self
    }

    /// Prints the figures and fails if anything was wrong, or if more was left open than `most` allows.
    pub(crate) fn check(&self, what: &str, most: Most) {
        let all = self.equal + self.both_fail + self.unsupported + self.budget + self.wrong.len();
        let share = 100.0 * self.unsupported as f64 / all.max(1) as f64;
        eprintln!(
            "{what}: {all} expressions, {} equal, {} fail in both, {} unsupported ({share:.1} %), {} over budget, {} wrong",
            self.equal,
            self.both_fail,
            self.unsupported,
            self.budget,
            self.wrong.len()
        );
        let mut constructs: Vec<_> = self.constructs.iter().collect();
        constructs.sort_by_key(|(_, times)| std::cmp::Reverse(*times));
        constructs.iter().for_each(|(construct, times)| eprintln!("  {times:5} {construct}"));
        assert!(self.wrong.is_empty(), "{} differ from nix:\n{}", self.wrong.len(), self.wrong.join("\n\n"));
        assert!(
            share <= most.unsupported,
            "{what}: {share:.1} % unsupported, at most {} % were",
            most.unsupported
        );
        assert!(
            self.budget <= most.budget,
            "{what}: {} over budget, at most {} were",
            self.budget,
            most.budget
        );
    }
}
