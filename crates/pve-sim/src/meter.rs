//! How long the node itself was at work: what is measured against it, is measured without that.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// What a node's time goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Answers of the API, tasks, `qm`.
    Api,
    /// sshd's, for a login.
    Login,
    /// Minting a ticket.
    Ticket,
}

/// Time with at least one thing under way is counted once.
#[derive(Debug, Default)]
struct Clock {
    under_way: usize,
    since: Option<Instant>,
    total: Duration,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Meter {
    clocks: [Mutex<Clock>; 3],
}

/// Something that is under way until this is dropped.
struct UnderWay<'a>(&'a Mutex<Clock>);

fn lock(clock: &Mutex<Clock>) -> MutexGuard<'_, Clock> {
    clock.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let mut clock = lock(self.0);
        clock.under_way -= 1;
        if clock.under_way == 0
            && let Some(since) = clock.since.take()
        {
            clock.total += since.elapsed();
        }
    }
}

impl Meter {
    fn clock(&self, work: Work) -> &Mutex<Clock> {
        &self.clocks[work as usize]
    }

    /// Takes so long over it; what that really takes is counted.
    pub async fn spend(&self, work: Work, time: Duration) {
        if !time.is_zero() {
            self.during(work, tokio::time::sleep(time)).await;
        }
    }

    /// Counts the time until `done` is.
    pub async fn during<T>(&self, work: Work, done: impl Future<Output = T>) -> T {
        let under_way = UnderWay(self.clock(work));
        {
            let mut clock = lock(under_way.0);
            clock.under_way += 1;
            clock.since.get_or_insert_with(Instant::now);
        }
        done.await
    }

    /// How long it has been at this in all, what is still under way left out.
    pub fn total(&self, work: Work) -> Duration {
        lock(self.clock(work)).total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_runs_side_by_side_is_counted_once() {
        let meter = Meter::default();
        let time = Duration::from_millis(20);
        let began = Instant::now();
        tokio::join!(meter.spend(Work::Api, time), meter.spend(Work::Api, time), async {
            meter.spend(Work::Ticket, time).await;
        });
        let wall = began.elapsed();
        assert!(meter.total(Work::Api) >= time && meter.total(Work::Api) <= wall);
        assert!(meter.total(Work::Ticket) >= time && meter.total(Work::Ticket) <= wall);
        assert_eq!(meter.total(Work::Login), Duration::ZERO);
        // Given up in the middle is over.
        drop(tokio::time::timeout(time, meter.spend(Work::Login, Duration::from_secs(3600))).await);
        assert!(meter.total(Work::Login) >= time);
    }
}
