//! The node's own API: HTTP to the daemon on the node's 127.0.0.1:85, inside the SSH session.
//!
//! The daemon's traps, each with its answer here: a request leaves in one write ([`wire`]); a connection ends
//! after any error, after 5 s of idleness and after 100 requests, and is opened anew; a GET that got no answer
//! is repeated, anything else is an unknown outcome, which the callers look into; every answer has a deadline.

pub mod auth;
pub mod call;
pub mod encode;
pub mod error;
pub mod wire;

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    rc::Rc,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use fleet_core::{
    Error, Kind, Result, again,
    deadline::Deadline,
    guard::{self, Operation, Permit},
    protocol::Marker,
    ssh::{Stream, Transport, forwarding_forbidden},
    types::Vmid,
    ui::Ui,
};
use serde::de::DeserializeOwned;
use serde_json::Value;

use self::{
    auth::Auth,
    call::Call,
    wire::{Answer, Connection, Lost},
};
use crate::relay;

/// The daemon's port on the node's loopback address.
pub const PORT: u16 = 85;
/// How long one answer may take; the longest known are writes that wait 10 s for a lock.
const ANSWER: Duration = Duration::from_secs(45);
/// How long a VM that was seen to be ours is believed to be it: the requests of one step, no more.
const PROVEN: Duration = Duration::from_secs(5);
/// How often a read that got no answer is sent again.
const REPEATS: usize = 2;

/// Who we are, shared by all clients of one cluster: its nodes take each other's tickets.
pub type Login = Arc<Mutex<Auth>>;

/// Makes a new way to the node when the one there was is lost.
pub type Reconnect = Box<dyn Fn() -> Result<Rc<dyn Transport>>>;

/// A client of one node's daemon.
pub struct Client {
    transport: RefCell<Rc<dyn Transport>>,
    reconnect: Option<Reconnect>,
    /// Whether this way to the node has ever carried an answer: only then a lost one is made anew.
    answered: Cell<bool>,
    port: u16,
    auth: Login,
    connection: RefCell<Option<Connection>>,
    relays: Cell<bool>,
    /// VMs that were seen to be who the definitions say they are, and when.
    proven: RefCell<BTreeMap<Vmid, Instant>>,
    ui: Ui,
}

/// A request of its own connection that runs beside everything else: for the guest agent, which may take 3 s
/// to say that it is not there.
pub struct Aside {
    connection: Connection,
    headers: Vec<(&'static str, String)>,
    path: String,
    what: String,
}

impl Aside {
    /// Sends it and waits for its answer; may run in another thread.
    pub fn run(mut self, deadline: Deadline) -> Result<Value> {
        let answer = self
            .connection
            .ask("GET", &format!("/api2/json{}", self.path), &self.headers, None, deadline)
            .map_err(|lost| no_answer(&self.what, &lost, deadline))?;
        data_of(&self.what, &answer)
    }
}

impl Client {
    /// A client that reaches the daemon through `transport`. Nothing is sent yet.
    pub fn new(transport: Rc<dyn Transport>, port: u16, auth: Login, ui: Ui) -> Client {
        Client {
            transport: RefCell::new(transport),
            reconnect: None,
            answered: Cell::new(false),
            port,
            auth,
            connection: RefCell::new(None),
            relays: Cell::new(false),
            proven: RefCell::default(),
            ui,
        }
    }

    /// The same client, which makes a new way to the node when the one it has is lost.
    #[must_use]
    pub fn reconnecting(self, reconnect: Reconnect) -> Client {
        Client { reconnect: Some(reconnect), ..self }
    }

    /// The way to the node.
    pub fn transport(&self) -> Rc<dyn Transport> {
        Rc::clone(&self.transport.borrow())
    }

    /// Reads. `what` says what for ("read the configuration of VM 110"); asked again when no answer comes.
    pub fn get(&self, what: &str, path: &str, query: &[(&str, &str)], deadline: Deadline) -> Result<Value> {
        data_of(what, &self.read(what, path, query, deadline)?)
    }

    /// Reads what may be told only once: a lost answer is an error at once, and nothing is asked again.
    pub fn get_once(
        &self,
        what: &str,
        path: &str,
        query: &[(&str, &str)],
        deadline: Deadline,
    ) -> Result<Value> {
        let deadline = deadline.at_most(ANSWER);
        match self.exchange("GET", &with_query(path, query), None, what, deadline)? {
            Ok(answer) => data_of(what, &answer),
            Err(lost) => Err(no_answer(what, &lost, deadline)),
        }
    }

    /// Reads, and gives the whole body of a good answer as it came, for what is too long to be taken apart at once.
    pub fn get_body(
        &self,
        what: &str,
        path: &str,
        query: &[(&str, &str)],
        deadline: Deadline,
    ) -> Result<Vec<u8>> {
        let answer = self.read(what, path, query, deadline)?;
        check(what, &answer)?;
        Ok(answer.body)
    }

    fn read(&self, what: &str, path: &str, query: &[(&str, &str)], deadline: Deadline) -> Result<Answer> {
        let path = with_query(path, query);
        let deadline = deadline.at_most(ANSWER);
        let mut repeats = 0;
        loop {
            match self.exchange("GET", &path, None, what, deadline)? {
                Ok(answer) => return Ok(answer),
                Err(lost) if repeats < REPEATS && !deadline.passed() => {
                    repeats += 1;
                    self.ui.detail(format!("{what}: no answer ({lost:?}), asking again"));
                    // A daemon that is being restarted is back at once.
                    deadline.sleep(Duration::from_millis(200));
                }
                Err(lost) => return Err(no_answer(what, &lost, deadline)),
            }
        }
    }

    /// Reads into a type.
    pub fn get_as<T: DeserializeOwned>(
        &self,
        what: &str,
        path: &str,
        query: &[(&str, &str)],
        deadline: Deadline,
    ) -> Result<T> {
        let data = self.get(what, path, query, deadline)?;
        serde_json::from_value(data).map_err(|e| {
            Error::failed(format!("can not {what}: the node's answer has another shape"))
                .caused_by(e)
                .hint("`pveversion` on the node; this program was written for Proxmox VE 8 and 9")
        })
    }

    /// Before the first change of a VM: does it bear the definition's name, or our marker with it? Somebody
    /// else's VM may have the VMID by now.
    pub(crate) fn prove_ours(&self, permit: &Permit, call: &Call, deadline: Deadline) -> Result<()> {
        let made = call.makes() || permit.operation() == Operation::Create;
        let Some(name) = permit.name().filter(|_| !made) else { return Ok(()) };
        let vmid = permit.vmid();
        if self.proven.borrow().get(&vmid).is_some_and(|seen| seen.elapsed() < PROVEN) {
            return Ok(());
        }
        let path = call.vm_path("/config");
        let config = self.get(&format!("read the configuration of VM {vmid}"), &path, &[], deadline)?;
        let text = |key: &str| config.get(key).and_then(Value::as_str);
        let marker = text("description").and_then(Marker::find).filter(|marker| marker.vmid == vmid);
        if guard::is_the(name, text("name"), marker.as_ref()) {
            self.proven.borrow_mut().insert(vmid, Instant::now());
            return Ok(());
        }
        // A clone that is still being written has neither, and may be anybody's. The node would let some changes wait
        // for its lock and carry them out then: nothing is sent before the VM says whose it is.
        if let Some(lock) = text("lock").filter(|_| marker.is_none() && text("name").is_none()) {
            return Err(error::of_text(call.what(), &format!("VM is locked ({lock})")));
        }
        let called =
            text("name").map_or_else(|| "it has no name".to_owned(), |n| format!("it is called '{n}'"));
        Err(Error::refused(format!("refused to {}: VM {vmid} is not '{name}'", call.what()))
            .now(match &marker {
                Some(other) => format!("{called}, and carries the marker of '{}'", other.name),
                None => format!("{called}, and does not carry the marker of '{name}'"),
            })
            .now("nothing was changed")
            .hint(format!("`{}` shows what it is", again::ops(format_args!("config {vmid}"))))
            .hint(format!("give '{name}' another VMID, or name this VM with --unmanaged {vmid} if you are sure it is yours")))
    }

    /// Sends a request that changes the VM that `permit` is for. An answer that never comes is
    /// [`Kind::OutcomeUnknown`]: the caller looks at what is there before anything is sent again.
    pub fn send(&self, permit: &Permit, call: &Call, deadline: Deadline) -> Result<Value> {
        if permit.vmid() != call.vmid() {
            return Err(Error::refused(format!(
                "refused to {}: the guard's leave is for VM {}",
                call.what(),
                permit.vmid()
            )));
        }
        let form = encode::form(call.params());
        check_length(call, &form)?;
        self.prove_ours(permit, call, deadline)?;
        self.ui.detail(format!("{call}"));
        let deadline = deadline.at_most(ANSWER);
        let mut left = 3;
        loop {
            left -= 1;
            // Parameters of a DELETE belong in the query.
            let sent = if call.method() == "DELETE" {
                self.exchange("DELETE", &format!("{}?{form}", call.path()), None, call.what(), deadline)?
            } else {
                self.exchange(call.method(), call.path(), Some(&form), call.what(), deadline)?
            };
            let answer = match sent {
                Ok(answer) => answer,
                // Nothing left this machine: as if it had not been tried.
                Err(Lost::NotSent(why)) if left > 0 => {
                    self.ui.detail(format!("{}: {why}; connecting again", call.what()));
                    continue;
                }
                Err(lost) => {
                    return Err(match lost {
                        Lost::NotSent(_) => no_answer(call.what(), &lost, deadline),
                        _ => no_answer(call.what(), &lost, deadline).with_kind(Kind::OutcomeUnknown).now(
                            format!("it was sent, and may or may not have been done to VM {}", permit.vmid()),
                        ),
                    });
                }
            };
            if answer.status == 500 && left > 0 {
                let words = error::Words::of(&answer);
                if error::is_forgotten_user(&words.message) {
                    continue;
                }
            }
            return data_of(call.what(), &answer);
        }
    }

    /// Prepares a read that runs beside others, on a connection of its own.
    pub fn aside(&self, what: &str, path: &str, query: &[(&str, &str)], deadline: Deadline) -> Result<Aside> {
        Ok(Aside {
            connection: Connection::new(self.open(deadline)?),
            headers: self.headers(deadline)?,
            path: with_query(path, query),
            what: what.to_owned(),
        })
    }

    /// One request and its answer. A ticket that was refused is replaced once: a 401 did nothing.
    fn exchange(
        &self,
        method: &str,
        path: &str,
        form: Option<&str>,
        what: &str,
        deadline: Deadline,
    ) -> Result<Result<Answer, Lost>> {
        let path = format!("/api2/json{path}");
        let mut renewed = false;
        loop {
            let headers = self.headers(deadline)?;
            let kept = self.connection.borrow_mut().take().filter(Connection::is_usable);
            let mut connection = match kept {
                Some(connection) => connection,
                None => Connection::new(self.open(deadline)?),
            };
            match connection.ask(method, &path, &headers, form, deadline) {
                Ok(answer) if answer.status == 401 && !renewed && self.forget_login() => {
                    self.ui.detail(format!("{what}: the ticket was refused; making a new one"));
                    renewed = true;
                }
                Ok(answer) => {
                    self.answered.set(true);
                    *self.connection.borrow_mut() = Some(connection);
                    return Ok(Ok(answer));
                }
                Err(lost) => return Ok(Err(lost)),
            }
        }
    }

    /// Whether the daemon takes us for root itself: a token is refused what only root may do, whoever's it is.
    pub fn is_root(&self) -> bool {
        matches!(*self.auth.lock().unwrap_or_else(PoisonError::into_inner), Auth::Ticket(_))
    }

    /// Who the daemon takes us for, as its tasks' ids name it: `root@pam`, or `USER@REALM!ID` of a token.
    pub fn login(&self) -> String {
        match &*self.auth.lock().unwrap_or_else(PoisonError::into_inner) {
            Auth::Ticket(_) => "root@pam".to_owned(),
            Auth::Token(token) => token.split_once('=').map_or(token.as_str(), |(id, _)| id).to_owned(),
        }
    }

    fn headers(&self, deadline: Deadline) -> Result<Vec<(&'static str, String)>> {
        let mut auth = self.auth.lock().unwrap_or_else(PoisonError::into_inner);
        auth.headers(&*self.transport(), deadline)
    }

    fn forget_login(&self) -> bool {
        self.auth.lock().unwrap_or_else(PoisonError::into_inner).forget()
    }

    /// A connection to the daemon: forwarded by sshd, or where that is forbidden, carried by a relay that runs
    /// on the node.
    fn open(&self, deadline: Deadline) -> Result<Box<dyn Stream>> {
        let opened = match (self.try_open(deadline), &self.reconnect) {
            (Err(e), Some(reconnect)) if self.answered.replace(false) && !deadline.passed() => {
                self.ui.detail(format!("the way to the node is lost ({}); connecting again", e.message()));
                let fresh = reconnect().inspect_err(|_| self.answered.set(true))?;
                *self.transport.borrow_mut() = fresh;
                self.try_open(deadline)
            }
            (opened, _) => opened,
        };
        opened.map_err(|e| {
            e.context(format_args!(
                "the Proxmox API daemon does not answer on the node's 127.0.0.1:{}",
                self.port
            ))
            .with_kind(Kind::Unreachable)
            .hint("`systemctl status pvedaemon` on the node tells whether it runs")
        })
    }

    fn try_open(&self, deadline: Deadline) -> Result<Box<dyn Stream>> {
        let (limit, port, transport) =
            (deadline.at_most(Duration::from_secs(10)), self.port, self.transport());
        if self.relays.get() {
            return relay::open(&*transport, "127.0.0.1", port, limit);
        }
        match transport.open_tcp("127.0.0.1", port, limit) {
            Err(e) if forwarding_forbidden(&e) => {
                self.ui.detail("the node's sshd forbids forwarding: using a relay");
                self.relays.set(true);
                relay::open(&*transport, "127.0.0.1", port, limit)
            }
            other => other,
        }
    }
}

/// Refuses what the daemon could not read in one piece.
fn check_length(call: &Call, form: &str) -> Result<()> {
    if form.len() <= wire::MAX_FORM {
        return Ok(());
    }
    let error = Error::usage(format!("can not {}: the request is too long for the node's API", call.what()))
        .now(format!("it has {} bytes, {} at most", form.len(), wire::MAX_FORM))
        .now("nothing was changed");
    let keys = call.params().iter().any(|(key, _)| key == "sshkeys");
    Err(if keys {
        error.hint("give it fewer SSH keys, or ed25519 keys in place of RSA ones: they are a sixth as long")
    } else {
        error
    })
}

fn with_query(path: &str, query: &[(&str, &str)]) -> String {
    if query.is_empty() { path.to_owned() } else { format!("{path}?{}", encode::form(query)) }
}

fn no_answer(what: &str, lost: &Lost, deadline: Deadline) -> Error {
    match lost {
        Lost::TimedOut => deadline.error(format_args!("the node's answer to: {what}")),
        Lost::NotSent(why) | Lost::NoAnswer(why) => {
            Error::new(Kind::Unreachable, format!("can not {what}: the node's API gave no answer: {why}"))
                .hint("`systemctl status pvedaemon` and `journalctl -u pvedaemon` on the node")
        }
    }
}

/// Whether the answer is a good one.
fn check(what: &str, answer: &Answer) -> Result<()> {
    if answer.status >= 400 || answer.status < 200 {
        return Err(error::of_answer(what, answer));
    }
    Ok(())
}

/// The `data` of a good answer, or the error of any other.
fn data_of(what: &str, answer: &Answer) -> Result<Value> {
    check(what, answer)?;
    let mut body: Value = serde_json::from_slice(&answer.body)
        .map_err(|e| Error::failed(format!("can not {what}: the node's answer is no JSON")).caused_by(e))?;
    Ok(body.get_mut("data").map(Value::take).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The daemon closes a connection that was idle for 5 s: what is sent on it then may or may not be read.
    #[test]
    fn a_connection_that_was_idle_is_not_used_again() {
        use crate::testing::{Fake, node};
        let fake = Fake::new().get("/version", serde_json::json!({}));
        let api = node(&fake).api;
        let ask = || api.get("ask", "/version", &[], Deadline::secs(5)).unwrap();
        ask();
        ask();
        assert_eq!(fake.opened(), 1);
        api.connection.borrow_mut().as_mut().unwrap().age(Duration::from_millis(4500));
        ask();
        assert_eq!((fake.opened(), fake.requests("GET")), (2, 3));
    }

    /// Nothing was done then. The connection is gone, as after every error.
    #[test]
    fn a_daemon_that_forgot_who_asks_is_asked_again() {
        use crate::testing::{Fake, node, permit};
        use serde_json::json;
        let path = "/nodes/prom/qemu/110/config";
        let forgot = |fake: Fake| fake.on("POST", path, 500, json!({"message": "user name not set\n"}));
        let send = |fake: &Fake| {
            let permit = permit(110);
            let call = Call::configure(&permit, &"prom".parse().unwrap(), [("cores", "2")], &[], None);
            node(fake).api.send(&permit, &call, Deadline::secs(5))
        };
        let fake = forgot(Fake::new()).on("POST", path, 200, json!({"data": null}));
        send(&fake).unwrap();
        assert_eq!((fake.requests("POST"), fake.opened()), (2, 2));
        // Not for ever.
        let fake = forgot(Fake::new());
        assert!(send(&fake).unwrap_err().message().contains("user name not set"));
        assert_eq!(fake.requests("POST"), 3);
    }

    #[test]
    fn whose_a_vm_is_is_not_believed_for_the_life_of_a_session() {
        use crate::testing::{Fake, definitions, node};
        use serde_json::json;
        let (path, post) = ("/nodes/prom/qemu/110/config", json!({"data": null}));
        let fake = Fake::new()
            .get(path, json!({"name": "web"}))
            .get(path, json!({"name": "stranger"}))
            .on("POST", path, 200, post);
        let (node, definitions, vmid) = (node(&fake), definitions(), Vmid::new(110).unwrap());
        let permit = guard::Guard::new(&definitions, None).permit(vmid, Operation::Change, "change").unwrap();
        let call = Call::configure(&permit, &"prom".parse().unwrap(), [("cores", "2")], &[], None);
        let send = || node.api.send(&permit, &call, Deadline::secs(5));
        send().unwrap();
        // One look is enough for the requests of one step.
        send().unwrap();
        let earlier = Instant::now().checked_sub(PROVEN).unwrap();
        node.api.proven.borrow_mut().insert(vmid, earlier);
        assert_eq!(send().unwrap_err().kind(), Kind::Refused);
        assert_eq!((fake.requests("GET"), fake.requests("POST")), (2, 2));
    }
}
