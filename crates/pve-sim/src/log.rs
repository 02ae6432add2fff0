//! Everything that reached the node, in order. Tests use it to prove what was, and what was not, sent.

use std::{
    io::Write,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Instant,
};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Counts from 1.
    pub n: u64,
    /// Milliseconds since the node's start.
    pub ms: u64,
    /// What it was.
    #[serde(flatten)]
    pub what: What,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum What {
    /// A TCP connection to the node's SSH port.
    Connect {
        /// Which connection; the following records name it.
        connection: u64,
    },
    /// A login to the node was tried with a public key.
    Login {
        /// Which connection.
        connection: u64,
        /// As whom.
        user: String,
        /// Whether it was let in.
        accepted: bool,
    },
    /// A command was to be run on the node.
    Exec {
        /// Which connection.
        connection: u64,
        /// The command.
        command: String,
    },
    /// A TCP connection from the node was asked for (`direct-tcpip`).
    Open {
        /// Which connection.
        connection: u64,
        /// To where.
        host: String,
        /// To which port.
        port: u32,
        /// Whether it was opened.
        accepted: bool,
    },
    /// A request to the API.
    Http {
        /// `GET`, …
        method: String,
        /// The path below `/api2/json`.
        path: String,
        /// Its parameters, decoded; passwords hidden.
        params: Value,
    },
    /// The answer to the last-but-some request.
    Answer {
        /// The request's `n`.
        of: u64,
        /// HTTP status; 0 when it was left without an answer.
        status: u16,
        /// The message of a failure.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        message: String,
    },
    /// A login to a guest.
    GuestLogin {
        /// Which guest.
        vmid: u32,
        /// As whom.
        user: String,
        /// Whether it was let in.
        accepted: bool,
    },
    /// A command was run on a guest.
    GuestExec {
        /// Which guest.
        vmid: u32,
        /// By whom.
        user: String,
        /// The command.
        command: String,
        /// How it ended.
        status: u32,
    },
    /// A guest's system came up.
    GuestBoot {
        /// Which guest.
        vmid: u32,
        /// `cloud-image`, `installer` or `nixos`.
        system: String,
        /// At which address.
        address: String,
    },
    /// A test asked for a fault.
    Fault {
        /// Which.
        fault: String,
    },
}

impl What {
    /// Whether it is a request that can change something on the node.
    pub fn changes(&self) -> bool {
        matches!(self, What::Http { method, path, .. } if method != "GET" && !path.starts_with("/access/"))
    }
}

/// The log, in memory and as JSON lines in a file.
#[derive(Debug)]
pub struct Log {
    start: Instant,
    path: PathBuf,
    records: Mutex<(Vec<Record>, Option<std::fs::File>)>,
}

impl Log {
    /// A log that goes on in `path`.
    pub fn open(path: &Path) -> std::io::Result<Log> {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(path)?;
        Ok(Log {
            start: Instant::now(),
            path: path.to_owned(),
            records: Mutex::new((Vec::new(), Some(file))),
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Adds a record; gives its number.
    pub fn add(&self, what: What) -> u64 {
        let mut guard = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        let (records, file) = &mut *guard;
        let n = records.len() as u64 + 1;
        let ms = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        let record = Record { n, ms, what };
        if let (Some(file), Ok(mut line)) = (file.as_mut(), serde_json::to_string(&record)) {
            line.push('\n');
            // A full disk must not stop the simulation; the memory has it too.
            let _ = file.write_all(line.as_bytes());
        }
        records.push(record);
        n
    }

    /// Everything so far.
    pub fn records(&self) -> Vec<Record> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner).0.clone()
    }
}
