//! What the tests of this crate share: definitions, and a node in memory that answers HTTP by a table.
#![allow(clippy::needless_pass_by_value, reason = "answers are written where they are given")]

use std::{
    collections::VecDeque,
    io::{Read, Write},
    path::PathBuf,
    rc::Rc,
    sync::{Arc, Mutex},
};

use fleet_core::{
    Error, Result, child,
    deadline::Deadline,
    definitions::*,
    guard::{Guard, Operation, Permit},
    ssh::{ExecOutput, ExecStatus, Stream, Transport},
    types::Vmid,
    ui::Ui,
};
use serde_json::{Value, json};

use crate::{
    api::auth::{Auth, Minter},
    cluster::Cluster,
    node::Node,
    settings::{Route, Settings},
};

/// The definitions of the example fleet, in short.
pub(crate) fn definitions() -> Definitions {
    let vmid = |n| Vmid::new(n).unwrap();
    Definitions {
        path: PathBuf::from("vms/definitions.nix"),
        proxmox: Proxmox {
            host: "prom".into(),
            node: Some("prom".parse().unwrap()),
            user: None,
            default_storage: Some("nvmeprom".parse().unwrap()),
        },
        imported: vec![ImportedVm {
            name: "doc1".into(),
            vmid: vmid(104),
            hostname: None,
            ssh_alias: None,
            status: None,
            cores: None,
            memory: None,
            disk: None,
            storage: None,
            node: None,
            ip: None,
            purpose: None,
            services: vec![],
            notes: vec![],
            readonly: Some(true),
        }],
        managed: vec![ManagedVm {
            name: "web".parse().unwrap(),
            vmid: vmid(110),
            cores: 2,
            memory: 4096,
            disk: "20G".parse().unwrap(),
            storage: "nvmeprom".parse().unwrap(),
            nixos_config: "web".into(),
            hostname: "web".parse().unwrap(),
            ssh_alias: "web".into(),
            user: None,
            node: Placement::Default,
            template: None,
            linked_clone: false,
            bridge: None,
            vlan: None,
            mac: None,
            mtu: None,
            addressing: Addressing::Dhcp,
            gateway: None,
            nameservers: vec![],
            cpu: None,
            on_boot: None,
            tags: vec![],
            disks: vec![],
            timezone: None,
            packages: vec![],
            authorized_keys: vec![],
            install: Install::NixosAnywhere,
            protection: false,
            readonly: false,
            secrets: None,
            anti_affinity: vec![],
            purpose: None,
            services: vec![],
            notes: vec![],
        }],
        template: Some(Template { vmid: vmid(9002), name: "tmpl".into(), description: None }),
        vmid_ranges: vec![VmidRange {
            name: "production".into(),
            start: vmid(100),
            end: vmid(119),
            description: None,
        }],
    }
}

/// Leave for a VM that the user named: whose it is is not asked again.
pub(crate) fn permit(vmid: u32) -> Permit {
    let definitions = definitions();
    let vmid = Vmid::new(vmid).unwrap();
    Guard::new(&definitions, Some(vmid)).permit(vmid, Operation::Change, "change").unwrap()
}

pub(crate) fn settings() -> Settings {
    Settings {
        host: "prom".into(),
        user: Some("root".into()),
        node: Some("prom".parse().unwrap()),
        port: 85,
        route: Route::Node,
    }
}

pub(crate) fn node(fake: &Fake) -> Node {
    node_called(fake, "prom")
}

pub(crate) fn node_called(fake: &Fake, name: &str) -> Node {
    let settings = Settings { node: Some(name.parse().unwrap()), ..settings() };
    let login = Arc::new(Mutex::new(Auth::Ticket(Minter::default())));
    Node::over(Rc::new(fake.clone()), &settings, login, Ui::silent())
}

/// A cluster of this node alone.
pub(crate) fn alone(fake: &Fake) -> Cluster {
    Cluster::of(node(fake), Box::new(|_, name| Err(Error::unreachable(format!("no way to {name}")))))
}

/// What happens to one request.
#[derive(Debug, Clone)]
enum Outcome {
    Answer(u16, Value),
    /// The connection ends instead of an answer.
    Drop,
}

struct Rule {
    method: String,
    path: String,
    outcomes: VecDeque<Outcome>,
}

#[derive(Default)]
struct State {
    rules: Vec<Rule>,
    log: Vec<String>,
    writes: Vec<usize>,
    opened: usize,
    minted: usize,
    minted_full: usize,
    execs: Vec<(String, ExecOutput)>,
}

/// A node in memory. Each rule's outcomes are used in turn, the last one for ever.
#[derive(Clone, Default)]
pub(crate) struct Fake(Arc<Mutex<State>>);

impl Fake {
    pub(crate) fn new() -> Fake {
        Fake::default()
    }

    fn rule(self, method: &str, path: &str, outcome: Outcome) -> Fake {
        let mut state = self.0.lock().unwrap();
        match state.rules.iter_mut().find(|r| r.method == method && r.path == path) {
            Some(rule) => rule.outcomes.push_back(outcome),
            None => {
                let outcomes = VecDeque::from([outcome]);
                state.rules.push(Rule { method: method.into(), path: path.into(), outcomes });
            }
        }
        drop(state);
        self
    }

    pub(crate) fn get(self, path: &str, data: Value) -> Fake {
        self.rule("GET", path, Outcome::Answer(200, json!({ "data": data })))
    }

    pub(crate) fn on(self, method: &str, path: &str, status: u16, body: Value) -> Fake {
        self.rule(method, path, Outcome::Answer(status, body))
    }

    pub(crate) fn drops(self, method: &str, path: &str) -> Fake {
        self.rule(method, path, Outcome::Drop)
    }

    pub(crate) fn exec(self, command: &str, stdout: &str, code: i32) -> Fake {
        let output = ExecOutput { stdout: stdout.into(), stderr: Vec::new(), status: ExecStatus::Code(code) };
        self.0.lock().unwrap().execs.push((command.into(), output));
        self
    }

    /// `METHOD path?query form` of every request so far.
    pub(crate) fn log(&self) -> Vec<String> {
        self.0.lock().unwrap().log.clone()
    }

    pub(crate) fn requests(&self, start: &str) -> usize {
        self.log().iter().filter(|line| line.starts_with(start)).count()
    }

    pub(crate) fn opened(&self) -> usize {
        self.0.lock().unwrap().opened
    }

    /// How many tickets were made, and how many of them the long way.
    pub(crate) fn minted(&self) -> (usize, usize) {
        let state = self.0.lock().unwrap();
        (state.minted, state.minted_full)
    }

    /// Lengths of the writes that made each request.
    pub(crate) fn writes(&self) -> Vec<usize> {
        self.0.lock().unwrap().writes.clone()
    }
}

impl Transport for Fake {
    fn exec(&self, command: &str, _: &[u8], _: Deadline) -> Result<ExecOutput> {
        let mut state = self.0.lock().unwrap();
        if let Some((_, output)) = state.execs.iter().find(|(known, _)| known == command) {
            return Ok(output.clone());
        }
        if command.contains("assemble_ticket") {
            state.minted += 1;
            state.minted_full += usize::from(command.ends_with(" full"));
            let stdout = format!("PVE:root@pam:{:08X}::sig+/=\n6B:csrf\n", state.minted);
            return Ok(ExecOutput { stdout: stdout.into(), stderr: vec![], status: ExecStatus::Code(0) });
        }
        Err(Error::failed(format!("the fake node does not know: {command}")))
    }

    fn open_tcp(&self, host: &str, port: u16, _: Deadline) -> Result<Box<dyn Stream>> {
        if (host, port) != ("127.0.0.1", 85) {
            return Err(Error::failed("connection refused"));
        }
        self.0.lock().unwrap().opened += 1;
        Ok(Box::new(Pipe {
            node: self.clone(),
            incoming: Vec::new(),
            outgoing: VecDeque::new(),
            closed: false,
        }))
    }
}

struct Pipe {
    node: Fake,
    incoming: Vec<u8>,
    outgoing: VecDeque<u8>,
    closed: bool,
}

impl Stream for Pipe {
    fn set_deadline(&mut self, _: Deadline) {}
}

impl Read for Pipe {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        assert!(self.closed || !self.outgoing.is_empty(), "reading where nothing will come");
        self.outgoing.read(buf)
    }
}

impl Write for Pipe {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        if self.closed {
            return Err(std::io::ErrorKind::BrokenPipe.into());
        }
        self.incoming.extend_from_slice(buf);
        self.node.0.lock().unwrap().writes.push(buf.len());
        let Some(end) = self.incoming.windows(4).position(|w| w == b"\r\n\r\n") else { return Ok(buf.len()) };
        let head = String::from_utf8(self.incoming[..end].to_vec()).unwrap();
        let length: usize = head
            .lines()
            .find_map(|l| {
                l.to_ascii_lowercase().strip_prefix("content-length:").map(|v| v.trim().parse().unwrap())
            })
            .unwrap_or(0);
        if self.incoming.len() < end + 4 + length {
            return Ok(buf.len());
        }
        let form = String::from_utf8(self.incoming[end + 4..].to_vec()).unwrap();
        self.incoming.clear();
        let mut words = head.lines().next().unwrap().split(' ');
        let (method, target) = (words.next().unwrap(), words.next().unwrap());
        let target = target.strip_prefix("/api2/json").unwrap();
        let path = target.split('?').next().unwrap();
        let mut state = self.node.0.lock().unwrap();
        state.log.push(format!("{method} {target} {form}").trim_end().to_owned());
        let rule = state.rules.iter_mut().find(|r| r.method == method && r.path == path);
        let outcome = match rule {
            Some(rule) if rule.outcomes.len() > 1 => rule.outcomes.pop_front().unwrap(),
            Some(rule) => rule.outcomes[0].clone(),
            None => Outcome::Answer(
                501,
                json!({ "data": null, "message": format!("Method '{method} {path}' not implemented\n") }),
            ),
        };
        drop(state);
        match outcome {
            Outcome::Drop => self.closed = true,
            Outcome::Answer(status, body) => {
                let body = body.to_string();
                let end = if status >= 400 { "close" } else { "Keep-Alive" };
                self.closed = status >= 400;
                let text = format!(
                    "HTTP/1.1 {status} Said so\r\nConnection: {end}\r\nContent-Length: {}\r\nContent-Type: application/json\r\n\r\n{body}",
                    body.len()
                );
                self.outgoing.extend(text.bytes());
            }
        }
        Ok(buf.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A node that is this machine: commands run in a local shell, one of its directories is a scratch directory here.
pub(crate) struct Local {
    commands: Mutex<Vec<String>>,
    replaced: Vec<(String, String)>,
}

impl Local {
    pub(crate) fn new(directory: &str, here: &std::path::Path) -> Local {
        let replaced = vec![(directory.to_owned(), here.display().to_string())];
        Local { commands: Mutex::default(), replaced }
    }

    /// Something in every command goes another way.
    pub(crate) fn replacing(mut self, what: &str, by: &str) -> Local {
        self.replaced.push((what.to_owned(), by.to_owned()));
        self
    }

    /// What was asked of it.
    pub(crate) fn commands(&self) -> Vec<String> {
        self.commands.lock().unwrap().clone()
    }

    fn shell(&self, command: &str) -> child::Command {
        self.commands.lock().unwrap().push(command.to_owned());
        let replace = |text: String, (what, by): &(String, String)| text.replace(what, by);
        child::Command::new("sh").arg("-c").arg(self.replaced.iter().fold(command.to_owned(), replace))
    }
}

impl Transport for Local {
    fn exec(&self, command: &str, stdin: &[u8], deadline: Deadline) -> Result<ExecOutput> {
        let output = self.shell(command).stdin(stdin).output(deadline)?;
        let status = ExecStatus::Code(output.status.code().unwrap_or(-1));
        Ok(ExecOutput { stdout: output.stdout, stderr: output.stderr, status })
    }
    fn open_tcp(&self, _: &str, _: u16, _: Deadline) -> Result<Box<dyn Stream>> {
        Err(Error::failed("no"))
    }
    fn open_exec_stream(&self, command: &str, _: Deadline) -> Result<Box<dyn Stream>> {
        let (running, stdin, stdout) = self.shell(command).start()?;
        Ok(Box::new(LocalStream(running, Some(stdin), stdout)))
    }
}

/// Keeps the process, which would be ended with it.
#[allow(dead_code)]
struct LocalStream(child::Running, Option<std::process::ChildStdin>, std::process::ChildStdout);

impl Read for LocalStream {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        self.2.read(buf)
    }
}

impl Write for LocalStream {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        self.1.as_mut().unwrap().write(buf)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Stream for LocalStream {
    fn set_deadline(&mut self, _: Deadline) {}
    fn finish_writing(&mut self) -> std::io::Result<()> {
        self.1 = None;
        Ok(())
    }
}
