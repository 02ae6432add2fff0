//! A child that runs: waiting for it, and ending it with all that it started.

use std::{process::ExitStatus, time::Duration};

use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};

use crate::{Error, Result, deadline::Deadline};

/// How long a child may take to leave after it was asked to, before it is killed.
const GRACE: Duration = Duration::from_secs(3);

/// A child that is running. Dropping it ends its whole process group.
#[derive(Debug)]
pub struct Running {
    child: std::process::Child,
    group: bool,
    reaped: Option<ExitStatus>,
}

impl Running {
    /// `group`: whether it leads a process group of its own.
    pub(super) fn of(child: std::process::Child, group: bool) -> Running {
        Running { child, group, reaped: None }
    }

    /// Its exit status if it has ended.
    pub fn try_wait(&mut self) -> Result<Option<ExitStatus>> {
        if self.reaped.is_none() {
            self.reaped =
                self.child.try_wait().map_err(|e| Error::failed("can not wait for a child").caused_by(e))?;
        }
        Ok(self.reaped)
    }

    /// Waits for it to end by itself.
    pub fn wait(&mut self, deadline: Deadline, what: impl std::fmt::Display) -> Result<ExitStatus> {
        let mut pause = Duration::from_micros(500);
        loop {
            if let Some(status) = self.try_wait()? {
                return Ok(status);
            }
            deadline.check(format_args!("`{what}` to end"))?;
            deadline.sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }

    fn signal(&self, signal: Signal) {
        let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) else { return };
        // Already gone is as good.
        let _ = if self.group {
            kill_process_group(pid, signal)
        } else {
            rustix::process::kill_process(pid, signal)
        };
    }

    /// Asks it to end, and does not wait for it.
    pub fn ask_to_end(&self) {
        if self.reaped.is_none() {
            self.signal(Signal::TERM);
        }
    }

    /// Ends it and all it started: asks first, then kills.
    pub fn end(&mut self) {
        if !matches!(self.try_wait(), Ok(None)) {
            return;
        }
        self.signal(Signal::TERM);
        let deadline = Deadline::after(GRACE);
        let left = self.wait(deadline, "child");
        // What it started may be slower to leave than itself, or not heed the request at all.
        while self.group && left.is_ok() && self.group_lives() && !deadline.passed() {
            deadline.sleep(Duration::from_millis(10));
        }
        if left.is_err() || (self.group && self.group_lives()) {
            self.signal(Signal::KILL);
            let _ = self.wait(Deadline::after(GRACE), "child");
        }
    }

    /// Whether any process of its group is left: the group's number can not belong to another one before.
    fn group_lives(&self) -> bool {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        pid.is_some_and(|pid| test_kill_process_group(pid).is_ok())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}
