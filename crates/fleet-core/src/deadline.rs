//! Every wait takes a deadline.

use std::time::{Duration, Instant};

use crate::{Error, Result};

/// A point in time after which a wait gives up, and what it was that we waited for.
#[derive(Debug, Clone, Copy)]
pub struct Deadline {
    start: Instant,
    limit: Duration,
}

impl Deadline {
    /// A deadline `limit` from now.
    pub fn after(limit: Duration) -> Deadline {
        Deadline { start: Instant::now(), limit }
    }

    /// A deadline `seconds` from now.
    pub fn secs(seconds: u64) -> Deadline {
        Deadline::after(Duration::from_secs(seconds))
    }

    /// How much time is left; zero when it has passed.
    pub fn left(&self) -> Duration {
        self.limit.saturating_sub(self.start.elapsed())
    }

    /// Whether it has passed.
    pub fn passed(&self) -> bool {
        self.left().is_zero()
    }

    /// How long the whole wait was allowed to take.
    pub fn limit(&self) -> Duration {
        self.limit
    }

    /// The earlier of this deadline and one `limit` from now: a bound for one step of a longer wait.
    #[must_use]
    pub fn at_most(&self, limit: Duration) -> Deadline {
        Deadline::after(limit.min(self.left()))
    }

    /// Sleeps for `pause`, or until the deadline if that is sooner.
    pub fn sleep(&self, pause: Duration) {
        std::thread::sleep(pause.min(self.left()));
    }

    /// As [`Deadline::sleep`], and an error of kind interrupted as soon as the user asks to stop.
    pub fn pause(&self, pause: Duration) -> Result<()> {
        let pausing = self.at_most(pause);
        loop {
            crate::interrupt::check()?;
            if pausing.passed() {
                return Ok(());
            }
            pausing.sleep(FIRST_PAUSE);
        }
    }

    /// An error of kind deadline-passed if it has passed, naming what was waited for.
    pub fn check(&self, waiting_for: impl std::fmt::Display) -> Result<()> {
        if self.passed() { Err(self.error(waiting_for)) } else { Ok(()) }
    }

    /// The error to give when the wait for `waiting_for` came to its end.
    pub fn error(&self, waiting_for: impl std::fmt::Display) -> Error {
        Error::deadline_passed(format!("gave up waiting for {waiting_for} after {} s", self.limit.as_secs()))
    }
}

/// First pause of [`poll`].
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Longest pause of [`poll`].
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Longest pause of [`poll_often`].
const SHORT_PAUSE: Duration = Duration::from_millis(300);

/// Tries `attempt` until it gives something, fails, the deadline passes or the user asks to stop; pauses grow
/// from 0.1 s to 2 s between attempts.
///
/// `attempt` gives `Ok(Err(why))` for "not yet, because …"; the last such reason ends up in the error.
pub fn poll<T>(
    deadline: Deadline,
    waiting_for: impl std::fmt::Display,
    attempt: impl FnMut() -> Result<std::result::Result<T, String>>,
) -> Result<T> {
    poll_with(LONGEST_PAUSE, false, deadline, waiting_for, attempt)
}

/// As [`poll`], with pauses up to 0.3 s: for attempts that wait themselves for most of what can hold them up. None is
/// begun once the deadline has passed, and what one says that the deadline cut short does not take the place of what
/// the one before it said.
pub fn poll_often<T>(
    deadline: Deadline,
    waiting_for: impl std::fmt::Display,
    attempt: impl FnMut() -> Result<std::result::Result<T, String>>,
) -> Result<T> {
    poll_with(SHORT_PAUSE, true, deadline, waiting_for, attempt)
}

fn poll_with<T>(
    longest: Duration,
    waits_itself: bool,
    deadline: Deadline,
    waiting_for: impl std::fmt::Display,
    mut attempt: impl FnMut() -> Result<std::result::Result<T, String>>,
) -> Result<T> {
    let mut pause = FIRST_PAUSE;
    let mut whole: Option<String> = None;
    loop {
        crate::interrupt::check()?;
        let why = match attempt()? {
            Ok(value) => return Ok(value),
            Err(why) => why,
        };
        let gave_up = |why: &str| deadline.error(&waiting_for).now(format!("last try: {why}"));
        if deadline.passed() {
            return Err(gave_up(whole.as_deref().filter(|_| waits_itself).unwrap_or(&why)));
        }
        deadline.pause(pause)?;
        if waits_itself && deadline.passed() {
            return Err(gave_up(&why));
        }
        whole = Some(why);
        pause = (pause * 3 / 2).min(longest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The reason of a wait that came to its end is that of the last try that had its time.
    #[test]
    fn what_the_deadline_cut_short_does_not_hide_the_reason() {
        let deadline = Deadline::after(Duration::from_millis(250));
        let mut tries = 0;
        let error = poll_often(deadline, "the VM", || {
            tries += 1;
            if tries == 1 {
                return Ok(Err::<(), _>("it refused the key".to_owned()));
            }
            assert!(!deadline.passed(), "a try without any time");
            deadline.sleep(deadline.limit());
            Ok(Err("no answer within 0 s".to_owned()))
        });
        assert_eq!(error.unwrap_err().facts(), ["last try: it refused the key"]);
        let mut tries = 0;
        let error = poll(Deadline::secs(0), "the VM", || {
            tries += 1;
            Ok(Err::<(), _>(format!("try {tries}")))
        });
        assert_eq!(error.unwrap_err().facts(), ["last try: try 1"]);
    }
}
