//! Other programs: finding them, running them with a deadline, stopping them with all their children.
//!
//! The only module that spawns. Every error carries the whole command. A child runs in a process group of its
//! own, so that a deadline or a dropped [`Running`] ends what the child started too.
#![allow(clippy::disallowed_methods, reason = "the one place that spawns")]

mod output;
mod running;

use std::{
    ffi::{OsStr, OsString},
    io::{BufRead, BufReader, Read, Write},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{ChildStdin, ChildStdout, ExitStatus, Stdio},
    sync::mpsc,
    thread::JoinHandle,
    time::Duration,
};

use self::output::tail;
pub use self::{
    output::{Output, describe},
    running::Running,
};
use crate::{Error, Result, deadline::Deadline, interrupt};

/// So many looks in a row (five a second) must find nothing new before the pipes of a child that is gone are left.
const QUIET: u32 = 10;

/// Runs the command in its arguments, and ends the whole process group when standard input does: whoever holds the
/// other end is gone, be it by `kill -9`. Asks first, then kills.
const TETHER: &str = r#"exec 3<&0
(while read -r _ <&3; do :; done; trap '' TERM; kill -TERM 0; sleep 3; kill -KILL 0) >/dev/null 2>&1 &
guard=$!
"$@" 3<&- </dev/null &
wait $!
status=$?
kill "$guard"
exit "$status""#;

/// Finds a tool of this workspace: beside the running program first, then on `PATH`.
pub fn find_tool(name: &str) -> Result<PathBuf> {
    if let Ok(me) = std::env::current_exe() {
        // A test runner's programs live one directory below the tools.
        let beside = me.parent().into_iter().flat_map(|dir| [Some(dir), dir.parent()]).flatten();
        for dir in beside {
            let candidate = dir.join(name);
            if which::which(&candidate).is_ok() {
                return Ok(candidate);
            }
        }
    }
    which::which(name).map_err(|_| {
        Error::not_found(format!("the program {name} is neither beside this one nor on PATH"))
            .hint(format!("install all of the fleet tools together, or put {name} on PATH"))
    })
}

/// Finds a program on `PATH`.
pub fn find_program(name: &str) -> Option<PathBuf> {
    which::which(name).ok()
}

/// A command to run: program, arguments, environment, what it reads.
#[derive(Debug, Clone)]
pub struct Command {
    program: PathBuf,
    args: Vec<OsString>,
    envs: Vec<(OsString, Option<OsString>)>,
    dir: Option<PathBuf>,
    stdin: Vec<u8>,
    foreground: bool,
    silent: bool,
    tethered: bool,
    finishes: bool,
}

impl Command {
    /// A command that reads nothing, in the current directory, with this process's environment.
    pub fn new(program: impl Into<PathBuf>) -> Command {
        Command {
            program: program.into(),
            args: Vec::new(),
            envs: Vec::new(),
            dir: None,
            stdin: Vec::new(),
            foreground: false,
            silent: false,
            tethered: false,
            finishes: false,
        }
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Command {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Command {
        self.args.extend(args.into_iter().map(|a| a.as_ref().to_owned()));
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Command {
        self.envs.push((name.as_ref().to_owned(), Some(value.as_ref().to_owned())));
        self
    }

    /// Removes an environment variable.
    #[must_use]
    pub fn env_remove(mut self, name: impl AsRef<OsStr>) -> Command {
        self.envs.push((name.as_ref().to_owned(), None));
        self
    }

    /// Sets the working directory.
    #[must_use]
    pub fn dir(mut self, dir: impl Into<PathBuf>) -> Command {
        self.dir = Some(dir.into());
        self
    }

    /// What the command reads on standard input.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Command {
        self.stdin = bytes.into();
        self
    }

    /// Keeps the child in this process's group, so that it may use the terminal (git asking for a passphrase).
    #[must_use]
    pub fn foreground(mut self) -> Command {
        self.foreground = true;
        self
    }

    /// Lets the child and all that it starts live no longer than this process, whatever ends it. Such a child reads
    /// nothing. For [`Command::run`] and its kin.
    #[must_use]
    pub fn tethered(mut self) -> Command {
        self.tethered = true;
        self
    }

    /// Lets the child come to its end when the user asks this process to stop: it ends at a safe point of its own. For
    /// [`Command::run`] and its kin.
    #[must_use]
    pub fn finishes(mut self) -> Command {
        self.finishes = true;
        self
    }

    /// Drops the child's standard error where it would else be this process's own: for attempts that are
    /// expected to fail at first.
    #[must_use]
    pub fn silent(mut self) -> Command {
        self.silent = true;
        self
    }

    fn stderr(&self) -> Stdio {
        if self.silent { Stdio::null() } else { Stdio::inherit() }
    }

    fn std(&self) -> std::process::Command {
        let mut std = if self.tethered {
            let mut std = std::process::Command::new("sh");
            std.args(["-c", TETHER, "sh"]).arg(&self.program);
            std
        } else {
            std::process::Command::new(&self.program)
        };
        std.args(&self.args);
        for (name, value) in &self.envs {
            match value {
                Some(value) => std.env(name, value),
                None => std.env_remove(name),
            };
        }
        if let Some(dir) = &self.dir {
            std.current_dir(dir);
        }
        if !self.foreground {
            std.process_group(0);
        }
        std
    }

    fn spawn_error(&self, error: std::io::Error) -> Error {
        let kind_text = if error.kind() == std::io::ErrorKind::NotFound {
            format!("the program {} does not exist", self.program.display())
        } else {
            format!("can not run `{self}`")
        };
        Error::failed(kind_text).caused_by(error)
    }

    /// Runs to the end and keeps both outputs. When the deadline passes the whole process group is ended.
    pub fn output(&self, deadline: Deadline) -> Result<Output> {
        self.run(deadline, |_| {})
    }

    /// As [`Command::output`], and gives each line of either output to `on_line` as it comes.
    pub fn run(&self, deadline: Deadline, on_line: impl FnMut(&str)) -> Result<Output> {
        self.run_watched(deadline, on_line, || Ok(()))
    }

    /// As [`Command::run`]. `watch` is asked some five times a second whether to go on: an error of it ends the whole
    /// process group, and is the result.
    pub fn run_watched(
        &self,
        deadline: Deadline,
        mut on_line: impl FnMut(&str),
        mut watch: impl FnMut() -> Result<()>,
    ) -> Result<Output> {
        let mut child = self
            .std()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| self.spawn_error(e))?;
        let (lines, incoming) = mpsc::channel::<(bool, Vec<u8>)>();
        let readers = [
            child.stdout.take().map(|s| read_lines(s, true, lines.clone())),
            child.stderr.take().map(|s| read_lines(s, false, lines)),
        ];
        // Open as long as this process lives.
        let _tether = if self.tethered { child.stdin.take() } else { None };
        let writer = child.stdin.take().map(|mut pipe| {
            let bytes = self.stdin.clone();
            // A child that does not want its input closes the pipe: no error of ours.
            std::thread::spawn(move || drop(pipe.write_all(&bytes)))
        });
        let mut running = Running::of(child, !self.foreground);
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let mut quiet = 0;
        loop {
            match incoming.recv_timeout(deadline.left().min(Duration::from_millis(200))) {
                Ok((is_stdout, line)) => {
                    quiet = 0;
                    on_line(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']));
                    if is_stdout { stdout.extend(line) } else { stderr.extend(line) }
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    // A grandchild may hold the pipes open after the child is gone. What the child said last is
                    // perhaps not read yet: on a busy machine the readers may be late.
                    if running.try_wait()?.is_some() {
                        quiet += 1;
                    }
                    if quiet >= QUIET {
                        break;
                    }
                }
            }
            if let Err(error) = watch() {
                running.end();
                return Err(error);
            }
            if interrupt::asked() && !self.finishes {
                running.end();
                return Err(Error::interrupted(format!("stopped by the user while `{self}` was running")));
            }
            if deadline.passed() {
                running.end();
                let error = deadline
                    .error(format_args!("`{self}` to end"))
                    .now("the command and what it started were stopped");
                let said = tail(&format!(
                    "{}{}",
                    String::from_utf8_lossy(&stdout),
                    String::from_utf8_lossy(&stderr)
                ));
                return Err(if said.is_empty() { error } else { error.now(format!("it said last: {said}")) });
            }
        }
        let status = running.wait(deadline.at_most(Duration::from_secs(3600)), self)?;
        if let Some(writer) = writer.filter(JoinHandle::is_finished) {
            let _ = writer.join();
        }
        for reader in readers.into_iter().flatten().filter(JoinHandle::is_finished) {
            let _ = reader.join();
        }
        Ok(Output::of(status, stdout, stderr, self.to_string()))
    }

    /// Runs with this process's own standard streams until it ends.
    pub fn interactive(&self) -> Result<ExitStatus> {
        self.std().status().map_err(|e| self.spawn_error(e))
    }

    /// Starts it with pipes to its standard input and output; standard error stays this process's own.
    pub fn start(&self) -> Result<(Running, ChildStdin, ChildStdout)> {
        let mut child = self
            .std()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(self.stderr())
            .spawn()
            .map_err(|e| self.spawn_error(e))?;
        match (child.stdin.take(), child.stdout.take()) {
            (Some(stdin), Some(stdout)) => Ok((Running::of(child, !self.foreground), stdin, stdout)),
            _ => Err(Error::failed(format!("`{self}` started without its pipes"))),
        }
    }

    /// Starts it with `socket` as both its standard input and output: a proxy command.
    pub fn start_on_socket(&self, socket: std::os::unix::net::UnixStream) -> Result<Running> {
        let other = socket.try_clone().map_err(|e| self.spawn_error(e))?;
        let child = self
            .std()
            .stdin(Stdio::from(std::os::fd::OwnedFd::from(socket)))
            .stdout(Stdio::from(std::os::fd::OwnedFd::from(other)))
            .stderr(self.stderr())
            .spawn()
            .map_err(|e| self.spawn_error(e))?;
        Ok(Running::of(child, !self.foreground))
    }

    /// The program.
    pub fn program(&self) -> &Path {
        &self.program
    }
}

impl std::fmt::Display for Command {
    /// As one would type it into a shell.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let words =
            std::iter::once(self.program.as_os_str()).chain(self.args.iter().map(OsString::as_os_str));
        let words: Vec<String> = words.map(|w| quote(&w.to_string_lossy())).collect();
        f.write_str(&words.join(" "))
    }
}

/// Quotes one word for a POSIX shell. Every value that reaches a shell, here or on the node, goes through this.
pub fn quote(word: &str) -> String {
    // A NUL can not be in an argument of any process; it is dropped with what would follow it in C.
    let word = word.split('\0').next().unwrap_or_default();
    shlex::try_quote(word).map_or_else(|_| String::from("''"), std::borrow::Cow::into_owned)
}

fn read_lines(
    stream: impl Read + Send + 'static,
    is_stdout: bool,
    lines: mpsc::Sender<(bool, Vec<u8>)>,
) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut stream = BufReader::new(stream);
        loop {
            let mut line = Vec::new();
            match stream.read_until(b'\n', &mut line) {
                Ok(1..) if lines.send((is_stdout, line)).is_ok() => {}
                _ => return,
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_late_through_the_pipes_of_a_child_that_is_gone_is_kept() {
        let script = "(sleep 0.6; echo late; sleep 0.6; echo later) & echo now";
        let mut lines = Vec::new();
        let output = Command::new("sh")
            .args(["-c", script])
            .run(Deadline::secs(60), |line| lines.push(line.to_owned()))
            .unwrap();
        assert!(output.success());
        assert_eq!(output.stdout_text(), "now\nlate\nlater\n");
        assert_eq!(lines, ["now", "late", "later"]);
    }
}
