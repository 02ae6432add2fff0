//! A simulated Proxmox VE node for demos and tests. Not shipped.
//!
//! One SSH server on 127.0.0.1 answers as a node does: the API behind `direct-tcpip` to port 85, the few commands
//! that are run on a node, and simulated machines behind their addresses. See [`testing`] for use from tests.

pub mod anywhere;
pub mod api;
pub mod auth;
pub mod cli;
pub mod cluster;
pub mod conf;
pub mod cut;
pub mod data;
pub mod demo;
pub mod exec;
pub mod faults;
pub mod guest;
pub mod http;
pub mod keys;
pub mod latency;
pub mod ledger;
pub mod locks;
pub mod log;
pub mod nix;
pub mod node;
pub mod params;
pub mod qm;
pub mod replay;
pub mod schema;
pub mod server;
pub mod tar;
pub mod task;
pub mod testing;
pub mod world;
