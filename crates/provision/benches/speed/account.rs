//! What a run took, and who took it.

use std::{
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use pve_sim::{
    ledger::{Party, Span, gaps},
    testing::Sim,
};

/// What a run took.
pub(crate) struct Account {
    from: Instant,
    to: Instant,
    spans: Vec<Span>,
    /// Processor time of the programs that ran.
    pub(crate) cpu: Duration,
    /// Processor time of the simulator meanwhile.
    pub(crate) simulator: Duration,
}

/// Runs it, and asks the simulator afterwards.
pub(crate) fn measure(sim: &Sim, command: &mut Command) -> (Account, Output) {
    let before = processor();
    let from = Instant::now();
    let output = command.stdin(Stdio::null()).output().unwrap();
    let to = Instant::now();
    let after = processor();
    let spans = sim.node().ledger.spans();
    let account = Account {
        from,
        to,
        spans,
        cpu: after.children.saturating_sub(before.children),
        simulator: after.own.saturating_sub(before.own),
    };
    (account, output)
}

impl Account {
    /// By the clock.
    pub(crate) fn wall(&self) -> Duration {
        self.to - self.from
    }

    fn idle<'a>(&self, spans: impl Iterator<Item = &'a Span>) -> Duration {
        gaps(spans, (self.from, self.to)).into_iter().map(|(from, to)| to - from).sum()
    }

    /// How long one of them was at work.
    pub(crate) fn of(&self, party: Party) -> Duration {
        self.wall() - self.idle(self.spans.iter().filter(|span| span.party == party))
    }

    /// How long any of them was.
    pub(crate) fn outside(&self) -> Duration {
        self.wall() - self.own()
    }

    /// How long none of them was.
    pub(crate) fn own(&self) -> Duration {
        self.idle(self.spans.iter())
    }

    /// What is left without the boots and the installer: what the two ways of asking the node for things differ in.
    pub(crate) fn beyond_guests(&self) -> Duration {
        self.idle(self.spans.iter().filter(|span| span.party != Party::Node))
    }

    /// How long all took that begins with these words, one after the other.
    pub(crate) fn sum(&self, what: &str) -> Duration {
        self.spans.iter().filter(|span| span.what.starts_with(what)).map(|span| span.to - span.from).sum()
    }

    /// Where the own time went: the longest stretches, with what was before and after.
    pub(crate) fn show_gaps(&self, most: usize) {
        let mut gaps = gaps(self.spans.iter(), (self.from, self.to));
        gaps.sort_by_key(|(from, to)| std::cmp::Reverse(*to - *from));
        gaps.truncate(most);
        gaps.sort_unstable();
        for (from, to) in gaps {
            let before = self.spans.iter().filter(|span| span.to <= from).max_by_key(|span| span.to);
            let after = self.spans.iter().filter(|span| span.from >= to).min_by_key(|span| span.from);
            println!(
                "    {:4.0} ms at {:6.2} s: {} … {}",
                (to - from).as_secs_f64() * 1000.0,
                (from - self.from).as_secs_f64(),
                words(before, "the start"),
                words(after, "the end")
            );
        }
    }
}

fn words(span: Option<&Span>, none: &str) -> String {
    let text = span.map_or(none, |span| &span.what);
    text.lines().next().unwrap_or_default().chars().take(60).collect()
}

struct Processor {
    own: Duration,
    children: Duration,
}

/// Processor time of this process and of its children that have ended, with theirs (proc(5): hundredths of a second).
fn processor() -> Processor {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok()).unwrap_or_default();
    let time = |at| Duration::from_millis((ticks(at) + ticks(at + 1)) * 10);
    Processor { own: time(11), children: time(13) }
}
