//! Signs of life while a step takes long: on a terminal a line that changes, elsewhere a line now and then.

use std::{
    sync::{MutexGuard, PoisonError, mpsc},
    time::{Duration, Instant},
};

use super::Job;

/// How often the line on the terminal is looked after; a step that takes no longer has none.
const LOOK: Duration = Duration::from_secs(1);
/// How often it is told elsewhere.
const NEWS: Duration = Duration::from_secs(60);

impl Job<'_> {
    /// Does something, and tells meanwhile that it goes on, with what was said last.
    pub(super) fn with_signs<T>(&self, work: impl FnOnce() -> T) -> T {
        self.last_said().clear();
        let (over, wait) = mpsc::channel::<()>();
        let (ui, said, began) = (self.ui, &self.said, Instant::now());
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let (mut live, mut told) = (None, 1);
                while let Err(mpsc::RecvTimeoutError::Timeout) = wait.recv_timeout(LOOK) {
                    let said = said.lock().unwrap_or_else(PoisonError::into_inner).clone();
                    live = live.or_else(|| ui.live(began));
                    if let Some(live) = &live {
                        live.show(&said);
                    } else if began.elapsed() >= NEWS * told {
                        ui.say(format!("  {}", news(told, &said)));
                        told += 1;
                    }
                }
            });
            let done = work();
            drop(over);
            done
        })
    }

    /// A program said this. What ssh says of a machine whose key it is not to remember tells nothing.
    pub(super) fn said_last(&self, line: &str) {
        let line = line.trim().trim_start_matches("✗ ");
        if !line.is_empty() && !line.starts_with("Warning: Permanently added") {
            line.clone_into(&mut self.last_said());
        }
    }

    /// What a program said last in this step.
    pub(super) fn last_said(&self) -> MutexGuard<'_, String> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn news(minutes: u32, said: &str) -> String {
    if said.is_empty() { format!("after {minutes} min") } else { format!("after {minutes} min: {said}") }
}

#[cfg(test)]
mod tests {
    use super::news;

    #[test]
    fn what_was_said_last_is_told_where_there_is_any() {
        assert_eq!(news(1, ""), "after 1 min");
        assert_eq!(news(2, "copying 7 paths"), "after 2 min: copying 7 paths");
    }
}
