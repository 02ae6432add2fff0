//! What took the time: when the node, its guests and what runs on them were at work. A benchmark takes that away from
//! what a run took; what is left is the tools' own.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Who was at work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Party {
    /// The node: its sshd, a command, a request to its API, a task. A question to a guest agent that does not answer
    /// is none: nobody need wait for that.
    Node,
    /// A machine that boots: until its sshd answers; an installed system until its guest agent does.
    Boot,
    /// A command in a machine, or what it does on its way down: here that is the installer.
    Guest,
}

/// What a node's time goes to, where a genuine one takes it: what is measured against it, is measured without that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Answers of the API, tasks, `qm`.
    Api,
    /// sshd's, for a login.
    Login,
    /// Minting a ticket.
    Ticket,
}

impl Work {
    fn what(self) -> &'static str {
        match self {
            Work::Api => "takes its time",
            Work::Login => "takes its time over a login",
            Work::Ticket => "takes its time over a ticket",
        }
    }
}

/// When somebody was at work, and at what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// Who.
    pub party: Party,
    /// At what, and for which VM where that is known: `qmclone 110`, `GET /version`.
    pub what: String,
    /// Since when.
    pub from: Instant,
    /// Until when.
    pub to: Instant,
}

/// All that was noted.
#[derive(Debug, Default)]
pub struct Ledger(Mutex<Vec<Span>>);

/// Somebody is at work until this is dropped.
#[derive(Debug)]
pub struct AtWork<'a> {
    ledger: &'a Ledger,
    party: Party,
    what: String,
    from: Instant,
    counts: bool,
}

impl AtWork<'_> {
    /// Only if it comes to its end was it something to wait for.
    #[must_use]
    pub fn if_done(mut self) -> Self {
        self.counts = false;
        self
    }

    /// It came to its end.
    pub fn done(mut self) {
        self.counts = true;
    }
}

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        if self.counts {
            let (party, what) = (self.party, std::mem::take(&mut self.what));
            self.ledger.add(Span { party, what, from: self.from, to: Instant::now() });
        }
    }
}

impl Ledger {
    /// Somebody begins.
    pub fn begin(&self, party: Party, what: impl Into<String>) -> AtWork<'_> {
        AtWork { ledger: self, party, what: what.into(), from: Instant::now(), counts: true }
    }

    /// Somebody begins what takes so long.
    pub fn takes(&self, party: Party, what: impl Into<String>, takes: Duration) {
        let from = Instant::now();
        // What never ends is nothing to wait for.
        if let Some(to) = from.checked_add(takes).filter(|_| takes < Duration::from_secs(1 << 20)) {
            self.add(Span { party, what: what.into(), from, to });
        }
    }

    /// The node takes so long over it.
    pub async fn spend(&self, work: Work, time: Duration) {
        if !time.is_zero() {
            self.during(work, tokio::time::sleep(time)).await;
        }
    }

    /// The node takes until `done` is.
    pub async fn during<T>(&self, work: Work, done: impl Future<Output = T>) -> T {
        let _at_work = self.begin(Party::Node, work.what());
        done.await
    }

    /// How long the node has been at this in all, what is still under way left out. Time with several at it is counted
    /// once.
    pub fn total(&self, work: Work) -> Duration {
        let mut spans = self.spans();
        spans.retain(|span| span.what == work.what());
        let (from, to) = (spans.iter().map(|span| span.from).min(), spans.iter().map(|span| span.to).max());
        let Some((from, to)) = from.zip(to) else { return Duration::ZERO };
        let idle: Duration = gaps(&spans, (from, to)).into_iter().map(|(from, to)| to - from).sum();
        (to - from).saturating_sub(idle)
    }

    fn add(&self, span: Span) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(span);
    }

    /// All of it, in the order of their ends.
    pub fn spans(&self) -> Vec<Span> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The stretches of `from` to `to` in which nobody of these was at work.
pub fn gaps<'a>(
    spans: impl IntoIterator<Item = &'a Span>,
    (from, to): (Instant, Instant),
) -> Vec<(Instant, Instant)> {
    let mut spans: Vec<(Instant, Instant)> = spans.into_iter().map(|span| (span.from, span.to)).collect();
    spans.sort_unstable();
    let (mut gaps, mut reached) = (Vec::new(), from);
    for (begins, ends) in spans {
        if begins > reached && reached < to {
            gaps.push((reached, begins.min(to)));
        }
        reached = reached.max(ends);
    }
    if reached < to {
        gaps.push((reached, to));
    }
    gaps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_worked_in_is_what_is_left() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let span = |from, to| Span { party: Party::Node, what: "x".to_owned(), from: at(from), to: at(to) };
        let left = |spans: &[Span]| -> Vec<(u64, u64)> {
            let ms = |moment: Instant| u64::try_from((moment - start).as_millis()).unwrap();
            gaps(spans, (at(10), at(100))).into_iter().map(|(from, to)| (ms(from), ms(to))).collect()
        };
        assert_eq!(left(&[]), [(10, 100)]);
        assert_eq!(left(&[span(0, 20), span(15, 30), span(40, 50)]), [(30, 40), (50, 100)]);
        // One within another; one before all; one that goes on after the end.
        assert_eq!(left(&[span(20, 60), span(30, 40), span(0, 5), span(90, 200)]), [(10, 20), (60, 90)]);
        assert_eq!(left(&[span(120, 130)]), [(10, 100)]);
        assert_eq!(left(&[span(0, 200)]), []);
    }

    #[test]
    fn what_came_to_nothing_or_never_ends_is_not_noted() {
        let ledger = Ledger::default();
        drop(ledger.begin(Party::Node, "one").if_done());
        ledger.takes(Party::Boot, "never", Duration::from_secs(1 << 30));
        ledger.begin(Party::Node, "two").if_done().done();
        drop(ledger.begin(Party::Node, "three"));
        ledger.takes(Party::Boot, "boot", Duration::from_secs(1));
        let noted: Vec<(Party, String)> = ledger.spans().into_iter().map(|s| (s.party, s.what)).collect();
        assert_eq!(
            noted,
            [(Party::Node, "two".into()), (Party::Node, "three".into()), (Party::Boot, "boot".into())]
        );
    }

    #[tokio::test]
    async fn what_runs_side_by_side_is_counted_once() {
        let ledger = Ledger::default();
        let time = Duration::from_millis(20);
        let began = Instant::now();
        tokio::join!(ledger.spend(Work::Api, time), ledger.spend(Work::Api, time), async {
            ledger.spend(Work::Ticket, time).await;
        });
        let wall = began.elapsed();
        assert!(ledger.total(Work::Api) >= time && ledger.total(Work::Api) <= wall);
        assert!(ledger.total(Work::Ticket) >= time && ledger.total(Work::Ticket) <= wall);
        assert_eq!(ledger.total(Work::Login), Duration::ZERO);
        // Given up in the middle is over.
        drop(tokio::time::timeout(time, ledger.spend(Work::Login, Duration::from_secs(3600))).await);
        assert!(ledger.total(Work::Login) >= time);
    }
}
