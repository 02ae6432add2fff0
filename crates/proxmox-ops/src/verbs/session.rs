//! `proxmox-ops session`

use std::io::{BufRead, Write};

use clap::Args;
use fleet_core::{
    Error, Kind, Result,
    cli::silent_exit,
    deadline::Deadline,
    guard::{Guard, Operation, Permit},
    protocol::{Op, Reply, ReplyBody, Request, VERSION},
    types::Vmid,
};
use serde::Serialize;
use serde_json::Value;

use crate::{
    context::{Context, read_deadline},
    keys,
    node::Node,
    ops::{address, agent, clone, config, host, power, resize},
};

/// Serve requests, JSON lines on standard input, over one connection; answers are JSON lines on standard output
///
/// Ends with its input. What can be asked is in docs/session.md. A failure that belongs to no request (no
/// repository, no connection) is answered with id 0.
#[derive(Debug, Args)]
pub struct Session {
    /// Let requests change this VM although no definition has it
    #[arg(long, value_name = "VMID")]
    unmanaged: Option<Vmid>,
    /// Seconds that one request may take
    #[arg(long, value_name = "SECONDS", default_value_t = 3600, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    wait: u64,
}

impl Session {
    /// Runs it. A failure is told to the asking side first, and then by the exit code alone.
    pub fn run(&self, context: Result<Context>) -> Result<()> {
        let outcome = context.and_then(|cx| {
            let node = cx.connect()?;
            Ok((cx, node))
        });
        let (cx, node) = match outcome {
            Ok(both) => both,
            Err(e) => {
                reply(0, ReplyBody::Error(e.report()))?;
                return Err(silent_exit(e.kind()));
            }
        };
        let mut server = Server { cx: &cx, node: Some(node), unmanaged: self.unmanaged, wait: self.wait };
        for line in std::io::stdin().lock().lines() {
            let line = line.map_err(|e| Error::failed("can not read a request").caused_by(e))?;
            if line.trim().is_empty() {
                continue;
            }
            let (id, outcome) = match parse(&line) {
                Ok(request) => (request.id, server.serve(request.id, &request.op)),
                Err((id, e)) => (id, Err(e)),
            };
            reply(
                id,
                match outcome {
                    Ok(value) => ReplyBody::Ok(value),
                    Err(e) => ReplyBody::Error(e.report()),
                },
            )?;
        }
        Ok(())
    }
}

fn reply(id: u64, body: ReplyBody) -> Result<()> {
    let gone = |e: std::io::Error| Error::failed("nobody reads the answers").caused_by(e);
    let mut line = serde_json::to_string(&Reply { v: VERSION, id, body })
        .map_err(|e| Error::failed("can not write an answer").caused_by(e))?;
    line.push('\n');
    let mut out = std::io::stdout().lock();
    out.write_all(line.as_bytes()).and_then(|()| out.flush()).map_err(gone)
}

/// Reads a request; what is wrong with it is told under its id where it has one.
fn parse(line: &str) -> std::result::Result<Request, (u64, Error)> {
    let value: Value =
        serde_json::from_str(line).map_err(|e| (0, Error::usage("a request is no JSON").caused_by(e)))?;
    let id = value.get("id").and_then(Value::as_u64).unwrap_or(0);
    let version = value.get("v").and_then(Value::as_u64);
    if version != Some(u64::from(VERSION)) {
        let said = version.map_or_else(|| "no".to_owned(), |v| v.to_string());
        return Err((
            id,
            Error::usage(format!("a request of {said} version, this program speaks version {VERSION}"))
                .hint("install all of the fleet tools together"),
        ));
    }
    serde_json::from_value(value)
        .map_err(|e| (id, Error::usage("a request that this program does not know").caused_by(e)))
}

struct Server<'a> {
    cx: &'a Context,
    node: Option<Node>,
    unmanaged: Option<Vmid>,
    wait: u64,
}

impl Server<'_> {
    /// Serves one request. A link to the node that was lost is made anew for the next one; a read is asked
    /// again over it at once.
    fn serve(&mut self, id: u64, op: &Op) -> Result<Value> {
        let reads = !matches!(
            op,
            Op::Clone(_) | Op::Configure { .. } | Op::Resize { .. } | Op::Start { .. } | Op::Stop { .. }
        );
        let fresh = self.node.is_none();
        match self.attempt(id, op) {
            Err(e) if e.kind() == Kind::Unreachable => {
                self.node = None;
                if reads && !fresh { self.attempt(id, op) } else { Err(e) }
            }
            Err(e) => {
                if e.kind() == Kind::OutcomeUnknown {
                    self.node = None;
                }
                Err(e)
            }
            outcome => outcome,
        }
    }

    fn permit(&self, vmid: Vmid, operation: Operation, verb: &str) -> Result<Permit> {
        Guard::new(&self.cx.definitions, self.unmanaged).permit(vmid, operation, verb)
    }

    fn attempt(&mut self, id: u64, op: &Op) -> Result<Value> {
        let permit = match op {
            Op::Clone(request) => Some(self.permit(request.vmid, Operation::Create, "clone into")?),
            Op::Configure { vmid, .. } => Some(self.permit(*vmid, Operation::Change, "configure")?),
            Op::Resize { vmid, .. } => Some(self.permit(*vmid, Operation::Change, "resize a disk of")?),
            Op::Start { vmid } => Some(self.permit(*vmid, Operation::Change, "start")?),
            Op::Stop { vmid } => Some(self.permit(*vmid, Operation::Change, "stop")?),
            _ => None,
        };
        let node = match &mut self.node {
            Some(node) => node,
            empty => empty.insert(self.cx.connect()?),
        };
        let mut thinned = crate::tasks::Thinned::default();
        let mut progress = |line: &str| {
            if thinned.shows(line) {
                // Nobody reads: the answer's own failure will tell.
                let _ = reply(id, ReplyBody::Progress(line.to_owned()));
            }
        };
        let deadline = Deadline::secs(self.wait);
        let changed = |outcome: Result<()>| outcome.map(|()| Value::Null);
        match (op, &permit) {
            (Op::Node, _) => json(&host::info(node, read_deadline())?),
            (Op::Resources, _) => json(&node.resources(read_deadline())?),
            (Op::Config { vmid }, _) => json(&config::read(node, *vmid, read_deadline())?),
            (Op::Status { vmid }, _) => json(&power::status(node, *vmid, read_deadline())?),
            (Op::Storages, _) => json(&host::storages(node, read_deadline())?),
            (Op::Bridges, _) => json(&host::bridges(node, read_deadline())?),
            (Op::Address { vmid, timeout }, _) => {
                let fixed = address::fixed(&self.cx.definitions).get(vmid).copied();
                json(&address::find(node, *vmid, fixed, Deadline::secs(*timeout), &mut progress)?)
            }
            (Op::HostKey { vmid, timeout }, _) => {
                json(&agent::host_key(node, *vmid, Deadline::secs(*timeout))?)
            }
            (Op::Clone(request), Some(permit)) => {
                changed(clone::clone(node, permit, request, deadline, &mut progress))
            }
            (Op::Configure { settings, delete, .. }, Some(permit)) => {
                let mut settings = settings.clone();
                if let Some(keys) = settings.get_mut("sshkeys") {
                    *keys = keys::normalise(keys)?;
                }
                changed(config::change(node, permit, &settings, delete, None, deadline, &mut progress))
            }
            (Op::Resize { disk, size, .. }, Some(permit)) => {
                resize::grow(node, permit, disk, *size, deadline, &mut progress).map(|_| Value::Null)
            }
            (Op::Start { .. }, Some(permit)) => {
                power::act(node, permit, power::Action::Start, deadline, &mut progress).map(|_| Value::Null)
            }
            (Op::Stop { .. }, Some(permit)) => {
                power::act(node, permit, power::Action::Stop, deadline, &mut progress).map(|_| Value::Null)
            }
            _ => Err(Error::usage("a request that this program does not know")),
        }
    }
}

fn json(value: &impl Serialize) -> Result<Value> {
    serde_json::to_value(value).map_err(|e| Error::failed("can not write an answer").caused_by(e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_that_are_none_are_answered_under_their_id() {
        assert_eq!(parse(r#"{"v":1,"id":7,"op":"start","vmid":110}"#).unwrap().id, 7);
        for (line, id) in [
            ("garbage", 0),
            (r#"{"v":2,"id":7,"op":"node"}"#, 7),
            (r#"{"id":8,"op":"node"}"#, 8),
            (r#"{"v":1,"id":9,"op":"format-disk","vmid":110}"#, 9),
            (r#"{"v":1,"id":10,"op":"start","vmid":"1;reboot"}"#, 10),
        ] {
            let (told, error) = parse(line).unwrap_err();
            assert_eq!((told, error.kind()), (id, Kind::Usage), "{line}");
        }
    }
}
