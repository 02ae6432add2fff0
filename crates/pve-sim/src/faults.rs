//! Faults that a test injects.

use std::time::Duration;

/// What is to go wrong. Each holds until it has struck as often as it says, or until it is cleared.
#[derive(Debug, Clone, PartialEq)]
pub enum Fault {
    /// The SSH connection is cut when the API request number `after` (from now, 0 is the next one) has arrived.
    DropLink {
        /// How many requests still pass.
        after: u32,
        /// Whether the request is carried out although its answer is lost.
        done: bool,
    },
    /// Like [`Fault::DropLink`], for the request that a method and part of a path name.
    DropLinkAt {
        /// `POST`, …
        method: String,
        /// Part of the path.
        path: String,
        /// Whether the request is carried out although its answer is lost.
        done: bool,
    },
    /// A request is answered with this failure and not carried out.
    Answer {
        /// `POST`, …
        method: String,
        /// Part of the path.
        path: String,
        /// HTTP status.
        status: u16,
        /// Message.
        message: String,
        /// How often.
        times: u32,
    },
    /// A request waits so long before it is carried out.
    Slow {
        /// Part of the path.
        path: String,
        /// How long.
        by: Duration,
    },
    /// The lock file of a VM is held: changes fail as after Proxmox's ten seconds.
    LockTimeout {
        /// Which VM.
        vmid: u32,
        /// How often.
        times: u32,
    },
    /// Tasks of this type end `WARNINGS: n`.
    TaskWarnings {
        /// `qmclone`, …
        kind: String,
        /// How many warnings.
        count: u32,
    },
    /// The next task of this type fails, nothing done.
    TaskFails {
        /// `qmclone`, …
        kind: String,
        /// Its exit status.
        message: String,
    },
    /// The next task of this type is killed in the middle.
    TaskKilled {
        /// `qmclone`, …
        kind: String,
        /// Whether it still cleans up after itself (a signal that it hears), or leaves what it had begun (signal 9).
        cleaned: bool,
    },
    /// Tasks of this type take so long.
    TaskSlow {
        /// `qmclone`, …
        kind: String,
        /// How long.
        by: Duration,
    },
    /// A VM's guest agent never answers.
    AgentNever {
        /// Which VM.
        vmid: u32,
    },
    /// A VM's guest agent comes up late.
    AgentLate {
        /// Which VM.
        vmid: u32,
        /// How much later than its system.
        by: Duration,
    },
    /// A VM never gets an address.
    NoAddress {
        /// Which VM.
        vmid: u32,
    },
    /// The node hears nothing of a VM's new address until it asks for it (the DHCP server is elsewhere).
    QuietNeighbours {
        /// Which VM.
        vmid: u32,
    },
    /// A VM never boots so far that its sshd answers.
    NeverBoots {
        /// Which VM.
        vmid: u32,
    },
    /// A VM shows another host key over SSH than the agent tells (somebody else sits at its address).
    HostKeyChanged {
        /// Which VM.
        vmid: u32,
    },
    /// A storage has no room.
    StorageFull {
        /// Which.
        storage: String,
    },
    /// Nothing listens on port 85.
    ApiDown,
    /// The node's SSH server forbids forwarding.
    ForwardingForbidden,
    /// The daemon takes no ticket that was made without `PVE::AccessControl`.
    ShortTicketRefused,
    /// Nobody may log in to the node.
    LoginRefused,
    /// The API forgets the user when a request's head and body come in two writes.
    TwoWrites,
    /// nixos-anywhere fails in this phase (`kexec`, `disko`, `install`, `reboot`).
    InstallFails {
        /// Which VM.
        vmid: u32,
        /// In which phase.
        phase: String,
    },
}

impl Fault {
    /// Takes one of what `pick` finds; one-time faults are removed.
    pub fn take<T>(
        faults: &mut Vec<Fault>,
        mut pick: impl FnMut(&mut Fault) -> Option<(T, bool)>,
    ) -> Option<T> {
        let (index, (value, over)) =
            faults.iter_mut().enumerate().find_map(|(i, fault)| pick(fault).map(|found| (i, found)))?;
        if over {
            faults.remove(index);
        }
        Some(value)
    }
}
