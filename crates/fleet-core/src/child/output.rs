//! What a child left, and how it ended.

use std::process::ExitStatus;

use crate::{Error, Result};

/// What a finished command left.
#[derive(Debug)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
    command: String,
}

impl Output {
    pub(super) fn of(status: ExitStatus, stdout: Vec<u8>, stderr: Vec<u8>, command: String) -> Output {
        Output { status, stdout, stderr, command }
    }

    /// Whether it ended with exit code 0.
    pub fn success(&self) -> bool {
        self.status.success()
    }

    /// Standard output as text; invalid bytes are replaced.
    pub fn stdout_text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard error as text; invalid bytes are replaced.
    pub fn stderr_text(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// Itself if the exit code was 0, else an error with the command, how it ended and the end of what it said.
    pub fn checked(self) -> Result<Output> {
        if self.success() {
            return Ok(self);
        }
        let said = tail(&self.stderr_text());
        let said = if said.is_empty() { String::new() } else { format!(": {said}") };
        Err(Error::failed(format!("`{}` {}{said}", self.command, describe(self.status))))
    }
}

pub(super) fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().filter(|l| !l.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(8)..].join("\n")
}

/// How a process ended, in words: "exited with 3", "was killed by signal 9".
pub fn describe(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "ended in an unknown way".to_owned(),
    }
}
