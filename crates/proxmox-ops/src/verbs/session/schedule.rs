//! Which request may begin: pure, without threads.

use std::collections::VecDeque;

use fleet_core::{
    protocol::{Op, Request},
    types::Vmid,
};

/// How many requests may be under way at once. Each may hold a connection to the daemon, which has three workers.
pub(super) const AT_ONCE: usize = 8;
/// How many of these may be ones that take long: the rest is for reads, which are never kept waiting by changes of
/// other VMs.
const LONG: usize = 6;

/// What decides about a request's turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Nature {
    vmid: Option<Vmid>,
    changes: bool,
    long: bool,
}

impl Nature {
    fn of(op: &Op) -> Nature {
        let (vmid, changes, long) = match op {
            Op::Node
            | Op::Resources
            | Op::Configs
            | Op::Nodes
            | Op::Show { .. }
            | Op::Storages { .. }
            | Op::Bridges { .. }
            | Op::UploadPlace { .. }
            | Op::NextVmid { .. } => (None, false, false),
            Op::Config { vmid } | Op::Status { vmid } | Op::Snapshots { vmid } => (Some(*vmid), false, false),
            Op::AddressHolder { .. } => (None, false, true),
            Op::Address { vmid, .. } | Op::HostKey { vmid, .. } | Op::CloudInitEnded { vmid } => {
                (Some(*vmid), false, true)
            }
            Op::Clone(request) => (Some(request.vmid), true, true),
            Op::Create(request) => (Some(request.vmid), true, true),
            Op::Configure { vmid, .. }
            | Op::GiveDocuments { vmid, .. }
            | Op::RemoveDocuments { vmid }
            | Op::Resize { vmid, .. }
            | Op::Start { vmid }
            | Op::Stop { vmid }
            | Op::Shutdown { vmid, .. }
            | Op::Reboot { vmid, .. }
            | Op::Destroy { vmid, .. }
            | Op::RemoveRemainder { vmid, .. }
            | Op::CreateDisk { vmid, .. }
            | Op::Template { vmid }
            | Op::Backup { vmid, .. }
            | Op::Snapshot { vmid, .. }
            | Op::Rollback { vmid, .. }
            | Op::DeleteSnapshot { vmid, .. }
            | Op::Exec { vmid, .. } => (Some(*vmid), true, true),
            Op::Upload { .. } | Op::RemoveUpload { .. } => (None, true, true),
        };
        Nature { vmid, changes, long }
    }

    /// Whether two must keep their order: of one VM, and one of them changes it.
    fn conflicts(self, other: Nature) -> bool {
        self.vmid.is_some() && self.vmid == other.vmid && (self.changes || other.changes)
    }
}

/// Whether a request changes something, so that it is never sent again unasked.
pub(super) fn changes(op: &Op) -> bool {
    Nature::of(op).changes
}

/// A request that has begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Begun(u64);

/// Requests that wait and requests under way.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    waiting: VecDeque<Request>,
    running: Vec<(Begun, Nature)>,
    count: u64,
}

impl Schedule {
    pub(super) fn push(&mut self, request: Request) {
        self.waiting.push_back(request);
    }

    /// Which of those that wait may begin now, if one may.
    fn next(&self) -> Option<usize> {
        if self.running.len() >= AT_ONCE {
            return None;
        }
        let long = self.running.iter().filter(|(_, nature)| nature.long).count();
        let natures: Vec<Nature> = self.waiting.iter().map(|request| Nature::of(&request.op)).collect();
        let free = |n: &usize| {
            let nature = natures[*n];
            let before = natures[..*n].iter().chain(self.running.iter().map(|(_, nature)| nature));
            (!nature.long || long < LONG) && !before.copied().any(|other| nature.conflicts(other))
        };
        (0..natures.len()).find(free)
    }

    /// Whether one may begin now.
    pub(super) fn can_begin(&self) -> bool {
        self.next().is_some()
    }

    /// The first request that may begin now. Whoever takes it says so when it is over.
    pub(super) fn begin(&mut self) -> Option<(Begun, Request)> {
        let request = self.waiting.remove(self.next()?)?;
        self.count += 1;
        let begun = Begun(self.count);
        self.running.push((begun, Nature::of(&request.op)));
        Some((begun, request))
    }

    pub(super) fn end(&mut self, begun: Begun) {
        self.running.retain(|(other, _)| *other != begun);
    }

    /// Whether nothing waits and nothing is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty()
    }

    /// Takes away what has not begun.
    pub(super) fn abandon(&mut self) -> Vec<Request> {
        self.waiting.drain(..).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fleet_core::protocol::VERSION;

    fn schedule(ops: &[Op]) -> Schedule {
        let mut schedule = Schedule::default();
        for (n, op) in ops.iter().enumerate() {
            schedule.push(Request { v: VERSION, id: n as u64 + 1, op: op.clone() });
        }
        schedule
    }

    fn vmid(n: u32) -> Vmid {
        Vmid::new(n).unwrap()
    }

    fn start(n: u32) -> Op {
        Op::Start { vmid: vmid(n) }
    }

    fn status(n: u32) -> Op {
        Op::Status { vmid: vmid(n) }
    }

    /// Ids of all that may begin now.
    fn begin(schedule: &mut Schedule) -> Vec<(Begun, u64)> {
        std::iter::from_fn(|| schedule.begin().map(|(begun, request)| (begun, request.id))).collect()
    }

    fn ids(begun: &[(Begun, u64)]) -> Vec<u64> {
        begun.iter().map(|(_, id)| *id).collect()
    }

    #[test]
    fn requests_of_one_vm_keep_their_order_where_one_changes_it() {
        let mut all =
            schedule(&[start(110), status(110), status(110), start(111), start(110), Op::Resources]);
        let first = begin(&mut all);
        assert_eq!(ids(&first), [1, 4, 6]);
        all.end(first[0].0);
        let second = begin(&mut all);
        assert_eq!(ids(&second), [2, 3], "reads go side by side");
        all.end(second[0].0);
        assert_eq!(ids(&begin(&mut all)), [0; 0]);
        all.end(second[1].0);
        assert_eq!(ids(&begin(&mut all)), [5]);
    }

    #[test]
    fn changes_leave_room_for_reads_and_all_have_a_bound() {
        let mut ops: Vec<Op> = (0..10).map(|n| start(110 + n)).collect();
        ops.extend((0..10).map(|n| status(200 + n)));
        let mut all = schedule(&ops);
        let first = begin(&mut all);
        assert_eq!(ids(&first), [1, 2, 3, 4, 5, 6, 11, 12]);
        all.end(first[7].0);
        assert_eq!(ids(&begin(&mut all)), [13]);
        all.end(first[0].0);
        assert_eq!(ids(&begin(&mut all)), [7]);
        assert!(!all.is_idle());
        assert_eq!(all.abandon().len(), 3 + 7);
    }
}
