//! The asking side.

use std::{
    io::{BufRead, BufReader, Write},
    process::{ChildStdin, ChildStdout},
    sync::mpsc,
    time::Duration,
};

use serde::de::DeserializeOwned;

use super::{Op, Reply, ReplyBody, Request, VERSION};
use crate::{
    Error, Result,
    child::{Command, Running},
    deadline::Deadline,
    interrupt,
};

/// How often who waits for something that may be left looks whether the user wants to stop.
const LOOK: Duration = Duration::from_millis(100);

/// The asking side: a `proxmox-ops session` as a child of this process.
pub struct Session {
    child: Running,
    stdin: ChildStdin,
    replies: mpsc::Receiver<std::io::Result<String>>,
    next_id: u64,
    command: String,
    left: bool,
}

impl Session {
    /// Starts `command`, which must be a `proxmox-ops … session`.
    pub fn start(command: &Command) -> Result<Session> {
        let (child, stdin, stdout) = command.start()?;
        let (replies, command) = (lines_of(stdout), command.to_string());
        Ok(Session { child, stdin, replies, next_id: 1, command, left: false })
    }

    /// Asks and waits for the answer; `on_progress` is given the lines that come before it.
    ///
    /// A question that only waits ([`Op::only_waits`]) is left when the user asks to stop; the conversation is over
    /// then, and whoever has more to say begins another. So it is with one that can be stopped
    /// ([`Op::can_be_stopped`]): its answer then tells what came of it.
    pub fn ask<T: DeserializeOwned>(
        &mut self,
        op: Op,
        deadline: Deadline,
        mut on_progress: impl FnMut(&str),
    ) -> Result<T> {
        if self.left {
            return Err(Error::interrupted("stopped by the user").now("nothing more was asked of the node"));
        }
        let id = self.next_id;
        self.next_id += 1;
        let (may_leave, may_stop) = (op.only_waits(), op.can_be_stopped());
        let mut line = serde_json::to_string(&Request { v: VERSION, id, op })
            .map_err(|e| Error::failed("can not write a request").caused_by(e))?;
        line.push('\n');
        if let Err(e) = self.stdin.write_all(line.as_bytes()).and_then(|()| self.stdin.flush()) {
            // It has ended; what it had to say (can not connect, …) is its last line.
            return Err(self.last_words(deadline).unwrap_or_else(|| self.gone().caused_by(e)));
        }
        loop {
            let reply = match (may_leave, may_stop) {
                (true, _) => self.reply_unless_stopped(deadline)?,
                (false, true) => self.reply_stopping(deadline)?,
                (false, false) => self.reply(deadline)?,
            };
            if reply.id != id {
                continue;
            }
            match reply.body {
                ReplyBody::Progress(text) => on_progress(&text),
                ReplyBody::Error(report) => return Err(report.into()),
                ReplyBody::Ok(value) => {
                    let shown = value.to_string();
                    return serde_json::from_value(value).map_err(|e| {
                        Error::failed(format!("`{}` gave an answer of another shape: {shown}", self.command))
                            .caused_by(e)
                    });
                }
            }
        }
    }

    /// Asks all of these at once, and waits for all the answers: the session serves as many side by side as it may. An
    /// error of the session itself is the answer to each that has none yet.
    pub fn ask_all<T: DeserializeOwned>(&mut self, ops: Vec<Op>, deadline: Deadline) -> Vec<Result<T>> {
        let first = self.next_id;
        let mut answers: Vec<Option<Result<T>>> = ops.iter().map(|_| None).collect();
        let mut outcome = ops.into_iter().try_for_each(|op| {
            let id = self.next_id;
            self.next_id += 1;
            let line = serde_json::to_string(&Request { v: VERSION, id, op })
                .map_err(|e| Error::failed("can not write a request").caused_by(e))?;
            writeln!(self.stdin, "{line}")
                .and_then(|()| self.stdin.flush())
                .map_err(|e| self.gone().caused_by(e))
        });
        while outcome.is_ok() && answers.iter().any(Option::is_none) {
            outcome = self.reply(deadline).map(|reply| {
                let at = reply.id.checked_sub(first).and_then(|at| usize::try_from(at).ok());
                let Some(answer) = at.and_then(|at| answers.get_mut(at)) else { return };
                *answer = match reply.body {
                    ReplyBody::Progress(_) => return,
                    ReplyBody::Error(report) => Some(Err(report.into())),
                    ReplyBody::Ok(value) => Some(serde_json::from_value(value).map_err(|e| {
                        Error::failed(format!("`{}` gave an answer of another shape", self.command))
                            .caused_by(e)
                    })),
                };
            });
        }
        let lost = |outcome: &Result<()>| match outcome {
            Err(error) => Error::new(error.kind(), error.message()),
            Ok(()) => Error::failed("no answer"),
        };
        answers.into_iter().map(|answer| answer.unwrap_or_else(|| Err(lost(&outcome)))).collect()
    }

    /// The next reply; an error of the session itself is one here.
    fn reply(&mut self, deadline: Deadline) -> Result<Reply> {
        self.reply_within(deadline.left())?
            .ok_or_else(|| deadline.error(format_args!("an answer of `{}`", self.command)))
    }

    /// As [`Session::reply`], until the user asks to stop.
    fn reply_unless_stopped(&mut self, deadline: Deadline) -> Result<Reply> {
        loop {
            if let Err(stopped) = interrupt::check() {
                self.left = true;
                self.child.ask_to_end();
                return Err(stopped.now("it only waited: nothing was under way on the node"));
            }
            if let Some(reply) = self.reply_within(LOOK.min(deadline.left()))? {
                return Ok(reply);
            }
            deadline.check(format_args!("an answer of `{}`", self.command))?;
        }
    }

    /// As [`Session::reply`]; when the user asks to stop, the other side is asked to.
    fn reply_stopping(&mut self, deadline: Deadline) -> Result<Reply> {
        loop {
            if interrupt::asked() && !self.left {
                self.left = true;
                self.child.ask_to_end();
            }
            if let Some(reply) = self.reply_within(LOOK.min(deadline.left()))? {
                return Ok(reply);
            }
            deadline.check(format_args!("an answer of `{}`", self.command))?;
        }
    }

    /// The next reply, if one comes within `wait`.
    fn reply_within(&mut self, wait: Duration) -> Result<Option<Reply>> {
        let line = match self.replies.recv_timeout(wait) {
            Ok(Ok(line)) => line,
            Ok(Err(e)) => return Err(self.gone().caused_by(e)),
            Err(mpsc::RecvTimeoutError::Timeout) => return Ok(None),
            Err(mpsc::RecvTimeoutError::Disconnected) => return Err(self.gone()),
        };
        let reply: Reply = serde_json::from_str(&line).map_err(|e| {
            Error::failed(format!("`{}` gave something that is no answer: {line}", self.command)).caused_by(e)
        })?;
        if reply.v != VERSION {
            return Err(Error::failed(format!(
                "`{}` speaks version {} of the protocol, this program version {VERSION}",
                self.command, reply.v
            ))
            .hint("install all of the fleet tools together"));
        }
        match reply.body {
            // Id 0: about the session itself.
            ReplyBody::Error(report) if reply.id == 0 => Err(report.into()),
            _ => Ok(Some(reply)),
        }
    }

    fn last_words(&mut self, deadline: Deadline) -> Option<Error> {
        let deadline = deadline.at_most(Duration::from_secs(5));
        while let Ok(Ok(line)) = self.replies.recv_timeout(deadline.left()) {
            if let Ok(Reply { body: ReplyBody::Error(report), .. }) = serde_json::from_str::<Reply>(&line) {
                return Some(report.into());
            }
        }
        None
    }

    fn gone(&mut self) -> Error {
        let how = match self.child.wait(Deadline::secs(2), &self.command) {
            Ok(status) => crate::child::describe(status),
            Err(_) => "closed its output".to_owned(),
        };
        Error::outcome_unknown(format!("`{}` {how} before it answered", self.command))
            .now("what was asked may or may not have been done")
            .hint("run the same command again: it looks first")
    }
}

fn lines_of(stdout: ChildStdout) -> mpsc::Receiver<std::io::Result<String>> {
    let (send, receive) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines() {
            if send.send(line).is_err() {
                return;
            }
        }
    });
    receive
}
