//! Whether a phase of the installation still gets anywhere. nixos-anywhere has waits without an end.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

/// Between two looks at a machine while nothing new is said.
const PAUSE: Duration = Duration::from_secs(15);
/// So many looks in a row must find nobody.
const MISSES: u32 = 2;
/// Lines that are remembered.
const REMEMBERED: usize = 4096;

/// What was said, and whether the machine answers.
#[derive(Debug)]
pub(super) struct Liveness {
    limit: Duration,
    said: HashSet<String>,
    news: Instant,
    next: Duration,
    missed: u32,
}

impl Liveness {
    /// Nothing new for `limit`, and then no answer of the machine, ends the phase.
    pub(super) fn new(limit: Duration) -> Liveness {
        Liveness { limit, said: HashSet::new(), news: Instant::now(), next: limit, missed: 0 }
    }

    /// The installer said this. Only what it has not said before is a sign of life: it repeats the complaints of
    /// `ssh` for ever. Numbers make no difference.
    pub(super) fn heard(&mut self, line: &str) {
        let line: String = line.chars().filter(|c| !c.is_ascii_digit()).collect();
        if self.said.len() < REMEMBERED && self.said.insert(line) {
            self.news = Instant::now();
            (self.next, self.missed) = (self.limit, 0);
        }
    }

    /// Whether to go on; `answers` asks the machine.
    pub(super) fn goes_on(&mut self, answers: impl FnOnce() -> bool) -> bool {
        self.goes_on_after(self.news.elapsed(), answers)
    }

    fn goes_on_after(&mut self, silent: Duration, answers: impl FnOnce() -> bool) -> bool {
        if silent < self.next {
            return true;
        }
        self.next = silent + PAUSE.min(self.limit);
        self.missed = if answers() { 0 } else { self.missed + 1 };
        self.missed < MISSES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn silence_alone_ends_nothing() {
        let mut phase = Liveness::new(secs(60));
        assert!(phase.goes_on_after(secs(59), || panic!("it was asked too early")));
        for minute in 1..100 {
            assert!(phase.goes_on_after(secs(minute * 60), || true));
        }
    }

    #[test]
    fn silence_and_no_answer_end_it_and_one_lost_answer_does_not() {
        let mut phase = Liveness::new(secs(60));
        assert!(phase.goes_on_after(secs(60), || false));
        assert!(phase.goes_on_after(secs(70), || panic!("it was asked twice at once")));
        assert!(phase.goes_on_after(secs(75), || true));
        assert!(phase.goes_on_after(secs(90), || false));
        assert!(!phase.goes_on_after(secs(105), || false));
    }

    #[test]
    fn what_was_said_before_is_no_sign_of_life() {
        let mut phase = Liveness::new(secs(60));
        phase.heard("ssh: connect to host web port 22: Connection refused");
        assert!(phase.goes_on_after(secs(60), || false));
        phase.heard("ssh: connect to host web port 2222: Connection refused");
        assert!(!phase.goes_on_after(secs(80), || false));
        phase.heard("### Gathering machine facts ###");
        assert!(phase.goes_on_after(secs(59), || panic!("it was asked too early")));
    }
}
