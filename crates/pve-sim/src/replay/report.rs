//! What a replay came to, in numbers and names.

use std::fmt;

use super::{compare::Verdict, record::Record};

/// The endpoints that the tools use, as [`super::endpoint`] writes them. `proxmox-ops`' own tests hold this list
/// against what its verbs send.
pub const USED: &[&str] = &[
    "DELETE /nodes/N/qemu/ID",
    "DELETE /nodes/N/qemu/ID/snapshot/NAME",
    "GET /cluster/resources",
    "GET /cluster/status",
    "GET /nodes/N/network",
    "GET /nodes/N/qemu/ID/agent/exec-status",
    "GET /nodes/N/qemu/ID/agent/file-read",
    "GET /nodes/N/qemu/ID/agent/network-get-interfaces",
    "GET /nodes/N/qemu/ID/config",
    "GET /nodes/N/qemu/ID/snapshot",
    "GET /nodes/N/qemu/ID/status/current",
    "GET /nodes/N/storage",
    "GET /nodes/N/storage/STORAGE/content",
    "GET /nodes/N/tasks",
    "GET /nodes/N/tasks/UPID/log",
    "GET /nodes/N/tasks/UPID/status",
    "GET /nodes/N/time",
    "GET /storage/STORAGE",
    "GET /version",
    "POST /nodes/N/qemu",
    "POST /nodes/N/qemu/ID/agent/exec",
    "POST /nodes/N/qemu/ID/clone",
    "POST /nodes/N/qemu/ID/config",
    "POST /nodes/N/qemu/ID/snapshot",
    "POST /nodes/N/qemu/ID/snapshot/NAME/rollback",
    "POST /nodes/N/qemu/ID/status/reboot",
    "POST /nodes/N/qemu/ID/status/shutdown",
    "POST /nodes/N/qemu/ID/status/start",
    "POST /nodes/N/qemu/ID/status/stop",
    "POST /nodes/N/qemu/ID/template",
    "POST /nodes/N/vzdump",
    "PUT /nodes/N/qemu/ID/resize",
];

/// How one exchange came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Status, reason, message, faults by parameter, task exit status and the configuration left behind are the
    /// same, the body has the same shape.
    Exact,
    /// The same but for names and numbers that every run makes anew, or for the wording of a task's log.
    Equal,
    /// Not the same.
    Different,
}

/// One exchange.
#[derive(Debug, Clone)]
pub struct Exchange {
    /// What the recording calls it.
    pub id: String,
    /// `METHOD /path`, names and numbers replaced by words.
    pub endpoint: String,
    /// How it came out.
    pub outcome: Outcome,
    /// What differs.
    pub differences: Vec<String>,
}

impl Exchange {
    /// Whether it is of an endpoint that the tools use.
    pub fn is_used(&self) -> bool {
        USED.contains(&self.endpoint.as_str())
    }
}

/// All of them, in the order replayed.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// The exchanges.
    pub exchanges: Vec<Exchange>,
}

/// How many of each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// [`Outcome::Exact`].
    pub exact: usize,
    /// [`Outcome::Equal`].
    pub equal: usize,
    /// [`Outcome::Different`].
    pub different: usize,
}

impl Count {
    /// All of them.
    pub fn total(self) -> usize {
        self.exact + self.equal + self.different
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Count { exact, equal, different } = self;
        write!(f, "exact {exact}, equal {equal}, different {different} of {}", self.total())
    }
}

impl Report {
    pub(super) fn add(&mut self, record: &Record, verdict: Verdict) {
        let outcome = match (verdict.differs.is_empty(), verdict.loosely.is_empty()) {
            (true, true) => Outcome::Exact,
            (true, false) => Outcome::Equal,
            (false, _) => Outcome::Different,
        };
        self.exchanges.push(Exchange {
            id: record.id.clone(),
            endpoint: record.endpoint(),
            outcome,
            differences: verdict.differs.into_iter().chain(verdict.loosely).collect(),
        });
    }

    /// How many there are of each, among those that `wanted` picks.
    pub fn count(&self, wanted: impl Fn(&Exchange) -> bool) -> Count {
        let mut count = Count::default();
        for exchange in self.exchanges.iter().filter(|e| wanted(e)) {
            match exchange.outcome {
                Outcome::Exact => count.exact += 1,
                Outcome::Equal => count.equal += 1,
                Outcome::Different => count.different += 1,
            }
        }
        count
    }

    /// How many of a thousand exchanges of the endpoints that the tools use are exact.
    pub fn used_permille(&self) -> usize {
        let count = self.count(Exchange::is_used);
        count.exact * 1000 / count.total().max(1)
    }
}

impl fmt::Display for Report {
    /// The figures, then the different ones by name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.count(|_| true))?;
        let permille = self.used_permille();
        writeln!(
            f,
            "of the endpoints that the tools use: {} ({}.{} % exact)",
            self.count(Exchange::is_used),
            permille / 10,
            permille % 10
        )?;
        for exchange in self.exchanges.iter().filter(|e| e.outcome == Outcome::Different) {
            let mark = if exchange.is_used() { "used" } else { "" };
            writeln!(f, "{:8} {:4} {}", exchange.id, mark, exchange.endpoint)?;
            for difference in &exchange.differences {
                writeln!(f, "              {difference}")?;
            }
        }
        Ok(())
    }
}
