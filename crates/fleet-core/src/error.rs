//! Error kinds, their exit codes, and what a person reads: what was tried, what is true now, what to run next.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The result of everything in this workspace's libraries.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What the details of an error say where a host refused the login.
pub(crate) const LOGIN_REFUSED: &str = "login-refused";
/// The same where no key was offered to it: each one that there is has to be unlocked first.
pub(crate) const LOGIN_UNTRIED: &str = "login-untried";
/// What begins those in which the host's key is not believed: unknown, changed, revoked, another than the pinned one.
const HOST_KEY: &str = "host-key-";

/// What sort of failure it is. Decides the exit code, which is the same in every tool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// It failed, and what was asked for did not happen.
    Failed,
    /// Bad usage: arguments or input that can not be right.
    Usage,
    /// Refused by a safety rule.
    Refused,
    /// A VMID, name or address is taken.
    Conflict,
    /// The VM, host, storage or file asked for does not exist.
    NotFound,
    /// Host unreachable, authentication refused, or host key not the expected one.
    Unreachable,
    /// A request was sent and its answer was lost: look before retrying.
    OutcomeUnknown,
    /// A deadline passed while something was still going on.
    DeadlinePassed,
    /// Partly done; the same command again finishes.
    PartlyDone,
    /// Stopped by the user.
    Interrupted,
}

impl Kind {
    /// The process exit code for this kind.
    pub fn exit_code(self) -> u8 {
        match self {
            Kind::Failed => 1,
            Kind::Usage => 2,
            Kind::Refused => 3,
            Kind::Conflict => 4,
            Kind::NotFound => 5,
            Kind::Unreachable => 6,
            Kind::OutcomeUnknown => 7,
            Kind::DeadlinePassed => 8,
            Kind::PartlyDone => 9,
            Kind::Interrupted => 130,
        }
    }

    /// The kind with this exit code, for a child's exit status; anything unknown is [`Kind::Failed`].
    pub fn from_exit_code(code: i32) -> Kind {
        match code {
            2 => Kind::Usage,
            3 => Kind::Refused,
            4 => Kind::Conflict,
            5 => Kind::NotFound,
            6 => Kind::Unreachable,
            7 => Kind::OutcomeUnknown,
            8 => Kind::DeadlinePassed,
            9 => Kind::PartlyDone,
            130 => Kind::Interrupted,
            _ => Kind::Failed,
        }
    }
}

/// A failure as a person or a script needs it.
///
/// Built with a constructor named after its [`Kind`] and completed with [`Error::now`] (what is true now),
/// [`Error::hint`] (what to run next) and [`Error::caused_by`].
pub struct Error(Box<Inner>);

struct Inner {
    kind: Kind,
    message: String,
    now: Vec<String>,
    hints: Vec<String>,
    details: Option<serde_json::Value>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

macro_rules! constructors {
    ($($(#[$doc:meta])* $name:ident => $kind:ident;)*) => {$(
        $(#[$doc])*
        pub fn $name(message: impl Into<String>) -> Error { Error::new(Kind::$kind, message) }
    )*};
}

impl Error {
    /// An error of `kind` whose message says what was tried and what went wrong (lower case, no full stop).
    pub fn new(kind: Kind, message: impl Into<String>) -> Error {
        Error(Box::new(Inner {
            kind,
            message: message.into(),
            now: Vec::new(),
            hints: Vec::new(),
            details: None,
            source: None,
        }))
    }

    constructors! {
        /// [`Kind::Failed`], exit code 1.
        failed => Failed;
        /// [`Kind::Usage`], exit code 2.
        usage => Usage;
        /// [`Kind::Refused`], exit code 3.
        refused => Refused;
        /// [`Kind::Conflict`], exit code 4.
        conflict => Conflict;
        /// [`Kind::NotFound`], exit code 5.
        not_found => NotFound;
        /// [`Kind::Unreachable`], exit code 6.
        unreachable => Unreachable;
        /// [`Kind::OutcomeUnknown`], exit code 7.
        outcome_unknown => OutcomeUnknown;
        /// [`Kind::DeadlinePassed`], exit code 8.
        deadline_passed => DeadlinePassed;
        /// [`Kind::PartlyDone`], exit code 9.
        partly_done => PartlyDone;
        /// [`Kind::Interrupted`], exit code 130.
        interrupted => Interrupted;
    }

    /// Adds one fact about what exists or holds now ("VM 110 exists and is locked by a clone"), once. The lines of a list
    /// (`- …`, and what is indented below) each belong to their own place.
    #[must_use]
    pub fn now(mut self, fact: impl Into<String>) -> Error {
        let fact = fact.into();
        if fact.starts_with(['-', ' ']) || !self.0.now.contains(&fact) {
            self.0.now.push(fact);
        }
        self
    }

    /// Adds one thing to do next, best as a command to run, once.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Error {
        let hint = hint.into();
        if !self.0.hints.contains(&hint) {
            self.0.hints.push(hint);
        }
        self
    }

    /// The same failure with every hint put in other words.
    #[must_use]
    pub fn map_hints(mut self, words: impl Fn(String) -> String) -> Error {
        self.0.hints = std::mem::take(&mut self.0.hints).into_iter().map(words).collect();
        self
    }

    /// Attaches machine-readable details, shown only with `--json`.
    #[must_use]
    pub fn details(mut self, details: serde_json::Value) -> Error {
        self.0.details = Some(details);
        self
    }

    /// Attaches the error underneath.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        self.0.source = Some(source.into());
        self
    }

    /// The same failure under another kind.
    #[must_use]
    pub fn with_kind(mut self, kind: Kind) -> Error {
        self.0.kind = kind;
        self
    }

    /// The same failure with what was being done put in front of its message.
    #[must_use]
    pub fn context(mut self, doing: impl fmt::Display) -> Error {
        self.0.message = format!("{doing}: {}", self.0.message);
        self
    }

    /// What sort of failure it is.
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// What was tried and what went wrong, without the causes underneath.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// What is true now.
    pub fn facts(&self) -> &[String] {
        &self.0.now
    }

    /// What to do next.
    pub fn hints(&self) -> &[String] {
        &self.0.hints
    }

    /// The message followed by every cause underneath, `: ` between them.
    pub fn chain(&self) -> String {
        let mut text = self.0.message.clone();
        let mut next = std::error::Error::source(self);
        while let Some(cause) = next {
            let cause_text = cause.to_string();
            if !text.ends_with(&cause_text) {
                text.push_str(": ");
                text.push_str(&cause_text);
            }
            next = cause.source();
        }
        text
    }

    /// The form in which tools hand an error to each other and to scripts.
    pub fn report(&self) -> Report {
        Report {
            kind: self.0.kind,
            exit_code: self.0.kind.exit_code(),
            message: self.chain(),
            now: self.0.now.clone(),
            hints: self.0.hints.clone(),
            details: self.0.details.clone(),
        }
    }

    /// The key (one OpenSSH line) that a host showed instead of the pinned one, if that is what went wrong.
    pub fn presented_host_key(&self) -> Option<&str> {
        let details = self.0.details.as_ref()?;
        (details.get("ssh")? == "host-key-mismatch").then(|| details.get("key")?.as_str()).flatten()
    }

    /// Whether a host proved itself with another key than the expected one.
    pub fn is_host_key_mismatch(&self) -> bool {
        self.presented_host_key().is_some()
    }

    /// Whether a host that proved itself refused every key that was offered to it.
    pub fn is_login_refused(&self) -> bool {
        self.0.details.as_ref().and_then(|details| details.get("ssh")).is_some_and(|ssh| ssh == LOGIN_REFUSED)
    }

    /// How long to leave a host alone that refused a login: who comes again sooner may be shut out.
    pub fn respite(&self) -> std::time::Duration {
        let said = self.0.details.as_ref().and_then(|details| details.get("again_after")?.as_u64());
        std::time::Duration::from_secs(said.unwrap_or(0))
    }

    /// Whether a host answered, and either it let nobody in or its key is none that we believe: trying again changes
    /// nothing, somebody who is asked may.
    pub fn is_ssh_refusal(&self) -> bool {
        let said = self.0.details.as_ref().and_then(|details| details.get("ssh")?.as_str());
        said.is_some_and(|said| [LOGIN_REFUSED, LOGIN_UNTRIED].contains(&said) || said.starts_with(HOST_KEY))
    }

    /// Whether what was asked of another machine may go on there: its end was not seen.
    pub fn may_go_on(&self) -> bool {
        matches!(
            self.kind(),
            Kind::DeadlinePassed | Kind::Interrupted | Kind::OutcomeUnknown | Kind::Unreachable
        )
    }

    /// An I/O failure on `path` while `doing` something to it ("read", "create").
    pub fn io(doing: &str, path: &std::path::Path, source: std::io::Error) -> Error {
        let kind = if source.kind() == std::io::ErrorKind::NotFound { Kind::NotFound } else { Kind::Failed };
        Error::new(kind, format!("can not {doing} {}", path.display())).caused_by(source)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("message", &self.chain())
            .field("now", &self.0.now)
            .field("hints", &self.0.hints)
            .finish()
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as &(dyn std::error::Error + 'static))
    }
}

/// An error as JSON: what `--json` prints and what the session protocol carries.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// What sort of failure.
    pub kind: Kind,
    /// The exit code that goes with the kind.
    pub exit_code: u8,
    /// What was tried and why it failed, causes included.
    pub message: String,
    /// What is true now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub now: Vec<String>,
    /// What to do next.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hints: Vec<String>,
    /// Anything else that a script may want, by kind of error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<serde_json::Value>,
}

impl From<Report> for Error {
    fn from(report: Report) -> Error {
        Error(Box::new(Inner {
            kind: report.kind,
            message: report.message,
            now: report.now,
            hints: report.hints,
            details: report.details,
            source: None,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_true_is_said_once_and_a_list_keeps_its_lines() {
        let error =
            Error::failed("broken").now("nothing was changed").now("nothing was changed").hint("a").hint("a");
        assert_eq!(
            (error.facts(), error.hints()),
            (&["nothing was changed".to_owned()][..], &["a".to_owned()][..])
        );
        let lines = ["- one", "  so it is", "- two", "  so it is"];
        let list = lines.iter().fold(Error::failed("broken"), |error, line| error.now(*line));
        assert_eq!(list.facts(), lines);
    }
}
