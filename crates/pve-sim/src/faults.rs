//! Faults that a test injects.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What is to go wrong. Each holds until it has struck as often as it says, or until it is cleared.
///
/// In a script, a fault is a JSON object: `{"fault": "storage-full", "storage": "nvmeprom"}`; times are in
/// milliseconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "fault", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Fault {
    /// A stream is cut at a byte; the stream that reaches it first.
    CutAtByte {
        /// Of which kind.
        stream: Stream,
        /// After so many bytes.
        at: u64,
    },
    /// The API daemon is restarted when the request number `after` (from now, 0 is the next one) has arrived: that
    /// one is not carried out, connections to the API end, running tasks are interrupted.
    DaemonRestarts {
        /// How many requests still pass.
        after: u32,
    },
    /// All tickets expire when the request number `after` has arrived.
    TicketsExpire {
        /// How many requests still pass.
        after: u32,
    },
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
    /// The SSH connection is cut when this request has arrived, and a worker that was blocked carries it out later.
    ReadLate {
        /// `POST`, …
        method: String,
        /// Part of the path.
        path: String,
        /// How much later.
        #[serde(with = "millis")]
        by: Duration,
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
        #[serde(with = "millis")]
        by: Duration,
    },
    /// Somebody holds the lock file of a VM: changes fail when they have waited for it in vain, after Proxmox's ten
    /// seconds or what the node has for them.
    LockTimeout {
        /// Which VM.
        vmid: u32,
        /// How often.
        times: u32,
    },
    /// Somebody holds the lock of a storage when a change of settings has made so many volumes on it: the next one fails,
    /// and what was done before it stays pending.
    StorageLocked {
        /// Which.
        storage: String,
        /// How many volumes are still made.
        after: u32,
    },
    /// Tasks of this type end `WARNINGS: n`.
    TaskWarnings {
        /// `qmclone`, …, or `any`.
        kind: String,
        /// How many warnings.
        count: u32,
    },
    /// The next task of this type fails, nothing done.
    TaskFails {
        /// `qmclone`, …, or `any`.
        kind: String,
        /// Its exit status.
        message: String,
    },
    /// The next task of this type is killed in the middle.
    TaskKilled {
        /// `qmclone`, …, or `any`.
        kind: String,
        /// Whether it still cleans up after itself (a signal that it hears), or leaves what it had begun (signal 9).
        cleaned: bool,
    },
    /// The worker of the next clone is killed with signal 9 when it has copied so many drives.
    CloneKilled {
        /// How many; none, and nothing but the lock is written.
        drives: u32,
    },
    /// A clone goes no further than so many drives, which it has copied and written down, until this is cleared.
    CloneHeld {
        /// How many.
        drives: u32,
    },
    /// Tasks of this type take so long.
    TaskSlow {
        /// `qmclone`, …, or `any`; `ha-manager` for what comes before that one's tasks.
        kind: String,
        /// How long.
        #[serde(with = "millis")]
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
        #[serde(with = "millis")]
        by: Duration,
    },
    /// A VM's guest agent tells of docker0 first.
    DockerFirst {
        /// Which VM.
        vmid: u32,
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
    /// The node believes a machine to be at this address for so many looks at its neighbours, and doubts it then: it finds
    /// out when it has a reason to ask. Until then nothing answers an echo request there.
    Remembered {
        /// The address.
        address: String,
        /// The machine's MAC address.
        mac: String,
        /// How many looks.
        looks: u32,
        /// Whether the machine is there all the same.
        there: bool,
    },
    /// A machine that is none of the cluster's has this address, and answers when the node asks for it.
    Stranger {
        /// Its address.
        address: String,
        /// Its MAC address.
        mac: String,
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
    /// The cluster's list has no statistics of a VM: it is too new.
    StatsLate {
        /// Which VM.
        vmid: u32,
    },
    /// A storage has no room.
    StorageFull {
        /// Which.
        storage: String,
    },
    /// A disk of a VM can not be removed with it: a warning in a task that ends well.
    DiskKept {
        /// Which VM.
        vmid: u32,
    },
    /// Units of a VM's NixOS have failed.
    UnitsFailed {
        /// Which VM.
        vmid: u32,
        /// Which units.
        units: Vec<String>,
    },
    /// Where images are sent to, so many bytes are free.
    ImagesFull {
        /// How many.
        free: u64,
    },
    /// The node's shell does not find a program.
    NoProgram {
        /// Which (`ip`, `perl`, …).
        name: String,
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

/// A kind of stream, and which way its bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stream {
    /// From the node's SSH server to the client.
    SshDown,
    /// From the client to the node's SSH server.
    SshUp,
    /// From the API daemon to the client.
    ApiDown,
    /// From the client to the API daemon.
    ApiUp,
    /// From a guest's SSH server to the client.
    GuestDown,
}

/// Milliseconds.
mod millis {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(by: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(u64::try_from(by.as_millis()).unwrap_or(u64::MAX))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_millis)
    }
}

/// Reads a script: one fault a line; empty lines and those that begin with `#` say nothing.
pub fn script(text: &str) -> Result<Vec<Fault>, String> {
    text.lines()
        .enumerate()
        .map(|(n, line)| (n, line.trim()))
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        .map(|(n, line)| serde_json::from_str(line).map_err(|e| format!("line {}: {e}", n + 1)))
        .collect()
}

/// Whether a fault for tasks of type `kind` strikes one of type `task`; `any` is every type.
pub(crate) fn strikes(kind: &str, task: &str) -> bool {
    kind == task || kind == "any"
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts() {
        let text = "# slow, then full\n{\"fault\":\"slow\",\"path\":\"/clone\",\"by\":250}\n\n{\"fault\":\"api-down\"}\n\
                    {\"fault\":\"cut-at-byte\",\"stream\":\"api-down\",\"at\":17}\n";
        let faults = script(text).unwrap();
        assert_eq!(
            faults,
            [
                Fault::Slow { path: "/clone".to_owned(), by: Duration::from_millis(250) },
                Fault::ApiDown,
                Fault::CutAtByte { stream: Stream::ApiDown, at: 17 },
            ]
        );
        assert!(script("{\"fault\":\"slwo\"}").unwrap_err().starts_with("line 1: unknown variant `slwo`"));
        assert!(script("\n{\"fault\":\"slow\",\"pth\":1}").unwrap_err().starts_with("line 2: "));
    }
}
