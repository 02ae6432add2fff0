//! How long things take on a simulated node.

use std::time::Duration;

/// How long things take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Latency {
    /// Before a 401 is given.
    pub auth_failure: Duration,
    /// Between a good key and the login: sshd's own work.
    pub login: Duration,
    /// Minting a ticket with `PVE::AccessControl`.
    pub mint: Duration,
    /// Minting a ticket with nothing but what signs it.
    pub mint_short: Duration,
    /// The start of `qm`, before it does anything.
    pub qm: Duration,
    /// What a read takes.
    pub read: Duration,
    /// A linked clone, from the task's start to its end.
    pub linked_clone: Duration,
    /// A full clone: what copying a GiB takes.
    pub full_clone: Duration,
    /// Any other task.
    pub task: Duration,
    /// Starting a VM, from the task's start to its end.
    pub start: Duration,
    /// How long somebody waits for a VM's lock file before giving up.
    pub lock_wait: Duration,
    /// From the end of a machine to qmeventd's clean-up after it.
    pub cleanup_begins: Duration,
    /// How long that clean-up waits for the end of a machine that runs again already.
    pub cleanup_waits: Duration,
    /// A call to an agent that does not answer.
    pub agent_timeout: Duration,
    /// From power on to sshd.
    pub boot: Duration,
    /// From sshd to the guest agent.
    pub agent_after: Duration,
    /// The guest agent is up but the address is not there yet.
    pub address_after: Duration,
    /// How long a kexec takes from the machine's silence to sshd of the installer.
    pub kexec: Duration,
    /// Partitioning, then installing, each.
    pub install: Duration,
}

impl Latency {
    /// As fast as can be while every intermediate state can still be seen.
    pub fn fast() -> Latency {
        let ms = Duration::from_millis;
        Latency {
            auth_failure: ms(20),
            login: ms(0),
            mint: ms(0),
            mint_short: ms(0),
            qm: ms(0),
            read: ms(0),
            linked_clone: ms(15),
            full_clone: ms(30),
            task: ms(3),
            start: ms(10),
            lock_wait: ms(60),
            cleanup_begins: ms(30),
            cleanup_waits: ms(20),
            agent_timeout: ms(60),
            boot: ms(200),
            agent_after: ms(60),
            address_after: ms(40),
            kexec: ms(400),
            install: ms(100),
        }
    }

    /// Nothing takes time, and a machine boots only when it is told to.
    pub fn none() -> Latency {
        let none = Duration::ZERO;
        Latency {
            auth_failure: none,
            login: none,
            mint: none,
            mint_short: none,
            qm: none,
            read: none,
            linked_clone: none,
            full_clone: none,
            task: none,
            start: none,
            // Nobody waits that long where nothing takes time.
            lock_wait: Duration::from_secs(10),
            cleanup_begins: none,
            cleanup_waits: none,
            agent_timeout: none,
            boot: Duration::from_secs(1 << 30),
            agent_after: none,
            address_after: none,
            kexec: none,
            install: none,
        }
    }

    /// As on real machines (pve-manager 9.2 on NVMe, a cloud image of 2 GiB, nixos-anywhere with a small system).
    pub fn genuine() -> Latency {
        let ms = Duration::from_millis;
        Latency {
            auth_failure: ms(3000),
            // Key exchange, login and one channel took 171 ms there, of which the simulated server's part takes 30.
            login: ms(130),
            // Recorded: the whole exec.
            mint: ms(270),
            // Not recorded. Starting perl with IO::Socket and IO::Select took 21 ms there; on a machine where that
            // takes as long, the short way takes 21 ms with its four files on a disk. They are on FUSE on a node.
            mint_short: ms(35),
            qm: ms(550),
            read: ms(3),
            linked_clone: ms(100),
            // Recorded: 0.53 to 1.89 s for a cloud image of 2 GiB; a whole creation took 0.84 s more than with a
            // linked clone, which takes 0.1 s.
            full_clone: ms(470),
            task: ms(80),
            start: ms(860),
            lock_wait: ms(10_000),
            // How long `qm cleanup` takes to start, as any `qm`.
            cleanup_begins: ms(550),
            cleanup_waits: ms(30_000),
            agent_timeout: ms(3000),
            boot: ms(15_000),
            agent_after: ms(5000),
            address_after: ms(1000),
            kexec: ms(25_000),
            install: ms(15_000),
        }
    }
}
