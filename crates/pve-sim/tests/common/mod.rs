//! A client for the simulated node: real SSH, and HTTP by hand.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "shared by several tests"
)]

use std::io::{Read, Write};

use fleet_core::{
    deadline::Deadline,
    ssh::{Environment, HostKeyPolicy, Session, Stream, Target, Transport},
    ui::Ui,
};
use pve_sim::testing::Sim;
use serde_json::Value;

/// An answer of the API.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub reason: String,
    pub close: bool,
    pub body: Value,
}

impl Answer {
    pub fn data(&self) -> &Value {
        assert_eq!(self.status, 200, "{self:?}");
        &self.body["data"]
    }

    pub fn message(&self) -> &str {
        self.body["message"].as_str().unwrap_or_default()
    }
}

pub fn deadline() -> Deadline {
    Deadline::secs(30)
}

/// Logs in to the node.
pub fn session(sim: &Sim) -> Session {
    try_session(sim).unwrap()
}

pub fn try_session(sim: &Sim) -> fleet_core::Result<Session> {
    let target = Target {
        host: sim.address(),
        user: Some("root".to_owned()),
        host_key: HostKeyPolicy::Pinned(sim.host_key()),
        identities: vec![sim.identity()],
        proxy: None,
    };
    Session::connect_in(&target, &environment(), Ui::silent(), deadline())
}

pub fn environment() -> Environment {
    Environment { ssh_config: Some("none".into()), ..Environment::default() }
}

/// A connection to the API.
pub struct Api {
    pub session: Session,
    stream: Option<Box<dyn Stream>>,
    pub ticket: String,
}

impl Api {
    pub fn new(sim: &Sim) -> Api {
        let session = session(sim);
        let out = session.exec("perl -e 'assemble_ticket'", b"", deadline()).unwrap();
        let text = String::from_utf8(out.stdout).unwrap();
        let ticket = text.lines().next().unwrap().to_owned();
        Api { session, stream: None, ticket }
    }

    pub fn get(&mut self, path: &str) -> Answer {
        self.send("GET", path, &[])
    }

    pub fn send(&mut self, method: &str, path: &str, params: &[(&str, &str)]) -> Answer {
        let form: Vec<String> = params.iter().map(|(k, v)| format!("{}={}", encode(k), encode(v))).collect();
        self.raw(method, path, &form.join("&"), &format!("Cookie: PVEAuthCookie={}\r\n", self.ticket.clone()))
            .expect("an answer")
    }

    /// Sends a request; nothing if the connection is closed without an answer.
    pub fn raw(&mut self, method: &str, path: &str, form: &str, headers: &str) -> Option<Answer> {
        let path = path.replace(' ', "%20");
        let request = if matches!(method, "GET" | "DELETE") {
            let query = if form.is_empty() { String::new() } else { format!("?{form}") };
            format!("{method} /api2/json{path}{query} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n")
        } else {
            format!(
                "{method} /api2/json{path} HTTP/1.1\r\nHost: localhost\r\n{headers}Content-Type: \
                 application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{form}",
                form.len()
            )
        };
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => self.session.open_tcp("127.0.0.1", 85, deadline()).unwrap(),
        };
        stream.set_deadline(deadline());
        stream.write_all(request.as_bytes()).ok()?;
        let answer = read_answer(&mut stream)?;
        if !answer.close {
            self.stream = Some(stream);
        }
        Some(answer)
    }

    /// Waits for a task; gives its exit status and log.
    pub fn wait(&mut self, upid: &str) -> (String, Vec<String>) {
        let path = format!("/nodes/prom/tasks/{}", encode(upid));
        loop {
            let status = self.get(&format!("{path}/status"));
            if let Some(exit) = status.data()["exitstatus"].as_str() {
                let log = self.send("GET", &format!("{path}/log"), &[("limit", "0")]);
                let lines = log.data().as_array().unwrap().iter();
                return (exit.to_owned(), lines.map(|l| l["t"].as_str().unwrap().to_owned()).collect());
            }
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
    }

    /// Sends a request that starts a task and waits for it.
    pub fn task(&mut self, method: &str, path: &str, params: &[(&str, &str)]) -> (String, Vec<String>) {
        let answer = self.send(method, path, params);
        let upid = answer.data().as_str().unwrap().to_owned();
        self.wait(&upid)
    }
}

fn read_answer(stream: &mut Box<dyn Stream>) -> Option<Answer> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => return None,
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let mut lines = head.lines();
    let mut first = lines.next()?.splitn(3, ' ');
    let status = first.nth(1)?.parse().ok()?;
    let reason = first.next().unwrap_or_default().to_owned();
    let header = |name: &str| {
        head.lines()
            .find_map(|l| l.split_once(": ").filter(|(k, _)| k.eq_ignore_ascii_case(name)).map(|(_, v)| v))
    };
    let length: usize = header("content-length").and_then(|l| l.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    let close = header("connection").is_some_and(|c| c.eq_ignore_ascii_case("close"));
    let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
    Some(Answer { status, reason, close, body })
}

/// Percent-encodes everything but letters, digits and `-_.`.
pub fn encode(text: &str) -> String {
    text.bytes()
        .map(|b| match b {
            b if b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.') => char::from(b).to_string(),
            b => format!("%{b:02X}"),
        })
        .collect()
}
