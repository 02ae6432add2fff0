//! `post-provision-vm`, run by us: what it warns of is told as a warning of ours, wherever that goes, and why it failed
//! becomes our own error.

use fleet_core::{
    Error, Kind, Result,
    child::{self, Command, Output},
    deadline::Deadline,
    ui::Ui,
};
use serde_json::Value;

use crate::{execute::printable, journal::Journal};

/// What a line of its messages belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// Steps, and what is done.
    Plain,
    /// A warning.
    Warning,
    /// Its failure, which is told at the end.
    Failure,
}

impl Part {
    /// Of a line, after one of `before`: what is indented belongs to what it stands below.
    fn of(line: &str, before: Part) -> Part {
        match line {
            _ if line.starts_with("⚠ ") => Part::Warning,
            _ if line.starts_with("✗ ") || line.starts_with("hint: ") => Part::Failure,
            _ if line.starts_with("  ") => before,
            _ => Part::Plain,
        }
    }
}

/// How it ended.
#[derive(Debug)]
pub(crate) struct Ended {
    output: Output,
    /// Its answer.
    answer: Value,
    /// The lines that it failed with.
    failure: Vec<String>,
}

/// Runs `command`, which is `post-provision-vm --json …`, for so many seconds at most. What it says is written down and
/// shown as it comes. An error is one of running it.
pub(crate) fn run(command: &Command, limit: u64, journal: &Journal, ui: Ui) -> Result<Ended> {
    journal.command(command);
    let (mut part, mut failure) = (Part::Plain, Vec::new());
    let output = command.run(Deadline::secs(limit), |shown| {
        let line = printable(shown);
        // Its answer.
        if line.starts_with('{') {
            return;
        }
        journal.output(&line);
        part = Part::of(&line, part);
        match (part, line.strip_prefix("⚠ ")) {
            (Part::Warning, Some(text)) => ui.warn(text),
            (Part::Warning, None) => ui.foreign(line.trim_end().as_bytes(), true),
            (Part::Failure, _) => failure.push(line.trim_start_matches("✗ ").trim().to_owned()),
            (Part::Plain, _) => ui.say(format!("  {shown}")),
        }
    })?;
    let answer = serde_json::from_str(&output.stdout_text()).unwrap_or_default();
    Ok(Ended { output, answer, failure })
}

impl Ended {
    /// What it failed with: its own error, as far as it could give one. Its advice that is about its own options is left
    /// out, and its files are called what they are here.
    pub(crate) fn failed(&self) -> Option<Error> {
        if self.output.success() {
            return None;
        }
        let report = serde_json::from_value::<fleet_core::error::Report>(self.answer["error"].clone());
        let Ok(mut report) = report else {
            let kind = self.output.status.code().map_or(Kind::Failed, Kind::from_exit_code);
            let error =
                Error::new(kind, format!("post-provision-vm {}", child::describe(self.output.status)));
            return Some(self.failure.iter().fold(error, Error::now));
        };
        report.hints.retain(|hint| !hint.contains("--allow-dirty"));
        for fact in &mut report.now {
            if fact == "nothing was changed" {
                "the fleet's files were not changed".clone_into(fact);
            }
        }
        Some(report.into())
    }

    /// Its exit code, where it gave one.
    pub(crate) fn code(&self) -> Option<i32> {
        self.output.status.code()
    }

    /// Why what it changed is not committed, where that is so.
    pub(crate) fn not_committed(&self) -> Option<&str> {
        self.answer["notCommitted"].as_str()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_indented_belongs_to_what_it_stands_below() {
        use Part::{Failure, Plain, Warning};
        let lines = [
            ("==> Reading the host key of 'web'...", Plain),
            ("⚠ 'web' has seen the values in these files", Warning),
            ("  secrets/common.yaml", Warning),
            ("This will change 1 file:", Plain),
            ("  hosts.nix: new entry web", Plain),
            ("✗ refused: hosts.nix has uncommitted changes", Failure),
            ("  nothing was changed", Failure),
            ("hint: commit them", Failure),
        ];
        let mut part = Plain;
        for (line, expected) in lines {
            part = Part::of(line, part);
            assert_eq!(part, expected, "{line}");
        }
    }
}
