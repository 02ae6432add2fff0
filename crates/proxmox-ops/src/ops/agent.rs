//! What the guest agent is asked for, beside addresses.

use std::time::Duration;

use fleet_core::{Error, Kind, Result, again, deadline::Deadline, guard::Permit, types::Vmid};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use ssh_key::{Algorithm, PublicKey};

use super::{address, config, queue::Probe};
use crate::{
    api::{
        call::{Call, vm_path},
        encode::{truth, whole},
    },
    cluster::Cluster,
    node::Node,
};

/// Where OpenSSH keeps its ed25519 host key.
const HOST_KEY: &str = "/etc/ssh/ssh_host_ed25519_key.pub";

/// What cloud-init writes when its last stage has ended, well or not, and takes away when the VM starts again.
const RESULT: &str = "/run/cloud-init/result.json";

#[derive(Deserialize)]
struct FileRead {
    content: String,
}

/// Reads the VM's ed25519 SSH host key through the guest agent, waiting for the agent and the key until the
/// deadline; asks once when it has passed already. The channel goes through the hypervisor: no network is
/// trusted. Gives `ssh-ed25519 AAAA…`, without a comment.
pub fn host_key(node: &Node, vmid: Vmid, deadline: Deadline) -> Result<String> {
    let name = node.name(Deadline::secs(30))?;
    let path = vm_path(name, vmid, "/agent/file-read");
    let what = format!("read the SSH host key of VM {vmid} through its guest agent");
    loop {
        let turn = Probe::turn(name);
        let outcome = node.api.get_as::<FileRead>(&what, &path, &[("file", HOST_KEY)], Deadline::secs(30));
        drop(turn);
        let error = match outcome.and_then(|file| checked(&file.content, &what)) {
            Ok(key) => return Ok(key),
            Err(e) => e,
        };
        let not_yet = ["guest agent is not running", "No such file", "no host key yet"];
        if !not_yet.iter().any(|text| error.message().contains(text)) {
            let is_template = |config| config::is_template(&config);
            return Err(match config::read(node, vmid, Deadline::secs(30)).is_ok_and(is_template) {
                true => address::never_runs(vmid, "SSH host key"),
                false => hinted(error, vmid),
            });
        }
        if deadline.passed() {
            return Err(hinted(error, vmid));
        }
        fleet_core::interrupt::check()?;
        deadline.sleep(Duration::from_millis(500));
    }
}

/// Whether cloud-init has come to its end since the VM's last start, as its own record says.
pub fn cloud_init_ended(node: &Node, vmid: Vmid) -> Result<bool> {
    let name = node.name(Deadline::secs(30))?;
    let path = vm_path(name, vmid, "/agent/file-read");
    let what = format!("ask the guest agent of VM {vmid} whether cloud-init has ended");
    let _turn = Probe::turn(name);
    match node.api.get_as::<FileRead>(&what, &path, &[("file", RESULT)], Deadline::secs(30)) {
        Ok(file) => Ok(!file.content.trim().is_empty()),
        Err(e) if e.message().contains("No such file") => Ok(false),
        Err(e) => Err(hinted(e, vmid)),
    }
}

/// Refuses words that the agent can not take: a character above U+00FF kills its channel until the VM is
/// started anew, and an empty program is none.
pub fn check_words(words: &[String]) -> Result<()> {
    if words.first().is_none_or(|program| program.is_empty()) {
        return Err(Error::usage("there is no program to run").now("nothing was sent to the node"));
    }
    let odd = words.iter().flat_map(|word| word.chars()).find(|c| u32::from(*c) > 0xff || *c == '\0');
    match odd {
        None => Ok(()),
        Some(c) => {
            Err(Error::usage(format!("'{}' can not be in a command for the guest agent", c.escape_debug()))
                .now("characters above U+00FF would break the agent's channel until the VM is started anew")
                .now("nothing was sent to the node")
                .hint("put them into a file in the VM, or use SSH"))
        }
    }
}

/// Starts a command in a VM; gives its process id.
pub fn exec(node: &Node, permit: &Permit, words: &[String], deadline: Deadline) -> Result<u64> {
    let vmid = permit.vmid();
    let call = Call::guest_exec(permit, node.name(deadline)?, words);
    // An agent that is not there blocks one of the daemon's few workers for 3 s.
    let _turn = Probe::turn(node.name(deadline)?);
    let data = node.api.send(permit, &call, deadline.at_most(Duration::from_secs(30))).map_err(|e| {
        if e.kind() == Kind::OutcomeUnknown {
            // The daemon dies of the agent's curly quotes around a program that is not there.
            return e.hint(format!(
                "does the program exist in the VM? {}",
                again::change(format_args!("exec {vmid} -- ls /bin"))
            ));
        }
        hinted(e, vmid)
    })?;
    whole(data.get("pid"))
        .ok_or_else(|| Error::failed(format!("can not {}: the node gave no process id", call.what())))
}

/// How a command in a VM ended.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct Ended {
    /// Its exit code, unless a signal ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exitcode: Option<i64>,
    /// The signal that ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i64>,
    /// Its standard output, byte by byte; as JSON a text, in which what is no UTF-8 is U+FFFD.
    #[serde(default, rename(deserialize = "out-data"), deserialize_with = "bytes", serialize_with = "text")]
    pub out: Vec<u8>,
    /// Its standard error, likewise.
    #[serde(default, rename(deserialize = "err-data"), deserialize_with = "bytes", serialize_with = "text")]
    pub err: Vec<u8>,
    #[serde(default, rename(deserialize = "out-truncated"), skip_serializing_if = "Value::is_null")]
    out_truncated: Value,
    #[serde(default, rename(deserialize = "err-truncated"), skip_serializing_if = "Value::is_null")]
    err_truncated: Value,
}

impl Ended {
    /// Those of its outputs whose end is missing.
    pub fn truncated(&self) -> impl Iterator<Item = &'static str> {
        [("standard output", &self.out_truncated), ("standard error", &self.err_truncated)]
            .into_iter()
            .filter_map(|(name, truncated)| truth(Some(truncated)).then_some(name))
    }

    /// How it failed, in words; none when it did not.
    pub fn how(&self) -> Option<String> {
        match (self.exitcode, self.signal) {
            (Some(0), None) => None,
            (_, Some(signal)) => Some(format!("was killed by signal {signal}")),
            (Some(code), None) => Some(format!("exited with {code}")),
            (None, None) => Some("ended in an unknown way".to_owned()),
        }
    }
}

/// The bytes that a command wrote. Proxmox decodes the agent's base64 and goes no further, so each byte is one
/// character of its answer (recorded: `grÃ¼n` for the UTF-8 of `grün`); a text with a character that no byte has was
/// decoded already.
fn bytes<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<Vec<u8>, D::Error> {
    let text = String::deserialize(from)?;
    let bytes: Option<Vec<u8>> = text.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect();
    Ok(bytes.unwrap_or_else(|| text.into_bytes()))
}

fn text<S: Serializer>(bytes: &[u8], to: S) -> std::result::Result<S::Ok, S::Error> {
    to.serialize_str(&String::from_utf8_lossy(bytes))
}

/// How a command ended, if it has. The agent tells the end once only, and then forgets the process.
fn exec_status(node: &Node, vmid: Vmid, pid: u64, deadline: Deadline) -> Result<Option<Ended>> {
    let path = vm_path(node.name(deadline)?, vmid, "/agent/exec-status");
    let what = format!("ask how the command in VM {vmid} ended");
    let data = node.api.get_once(&what, &path, &[("pid", &pid.to_string())], deadline)?;
    if !truth(data.get("exited")) {
        return Ok(None);
    }
    serde_json::from_value(data).map(Some).map_err(|e| {
        Error::failed(format!("can not {what}: the node's answer has another shape")).caused_by(e)
    })
}

/// How many lost answers in a row are borne with before nothing more is asked.
const LOST: usize = 3;

/// Runs a command in a VM and waits for its end. Once it was started, an end that could not be learnt is
/// [`Kind::OutcomeUnknown`]: an answer that was lost may have been the only one that told it.
pub fn run(cluster: &Cluster, permit: &Permit, words: &[String], deadline: Deadline) -> Result<Ended> {
    let vmid = permit.vmid();
    let pid = cluster.on(vmid, |node| exec(node, permit, words, deadline))?;
    let mut pause = Duration::from_millis(20);
    let mut lost: Option<Error> = None;
    let mut losses = 0;
    loop {
        // An answer may be long, and the line slow; that of the end comes once.
        let short = deadline.at_most(Duration::from_secs(300));
        match cluster.on(vmid, |node| exec_status(node, vmid, pid, short)) {
            Ok(Some(ended)) => return Ok(ended),
            // It had not ended yet, so no lost answer told of its end.
            Ok(None) => (lost, losses) = (None, 0),
            Err(e) if is_lost(&e) && losses + 1 < LOST && !deadline.passed() => {
                (lost, losses) = (Some(e), losses + 1);
            }
            Err(e) => return Err(unknown_end(e, lost, vmid, pid)),
        }
        let goes_on = |e: Error| e.now(format!("it goes on in VM {vmid} as process {pid}"));
        fleet_core::interrupt::check().map_err(goes_on)?;
        deadline.check(format_args!("the command in VM {vmid}")).map_err(goes_on)?;
        deadline.sleep(pause);
        pause = (pause * 3 / 2).min(Duration::from_millis(500));
    }
}

/// Whether no answer came.
fn is_lost(error: &Error) -> bool {
    matches!(error.kind(), Kind::Unreachable | Kind::DeadlinePassed)
}

/// A command that was started, whose end nobody can tell any more.
fn unknown_end(error: Error, lost: Option<Error>, vmid: Vmid, pid: u64) -> Error {
    let forgotten = error.message().contains("does not exist");
    let error = match error.kind() {
        Kind::Interrupted | Kind::DeadlinePassed => error,
        _ => error.with_kind(Kind::OutcomeUnknown),
    };
    let error = error.now(format!("it was started in VM {vmid}, as process {pid}"));
    let error = match (forgotten, lost) {
        (true, Some(lost)) => {
            error.now(format!("it has ended; how was in an answer that was lost: {}", lost.message()))
        }
        (true, None) => {
            error.now("the guest agent does not know it any more: was it, or the VM, started anew?")
        }
        (false, _) => error.now("whether it goes on or has ended, and how, is not known"),
    };
    error.hint(format!(
        "see what it did before it is run again: {}",
        again::change(format_args!("exec {vmid} -- ps -fp {pid}"))
    ))
}

fn hinted(error: Error, vmid: Vmid) -> Error {
    let said = error.message().to_owned();
    if said.contains("guest agent is not running") {
        return error
            .with_kind(Kind::NotFound)
            .now("the VM is running, but nothing inside it answers the hypervisor")
            .hint("is qemu-guest-agent installed and running in it? a VM that just started needs a moment");
    }
    if said.contains("No QEMU guest agent configured") {
        return error.hint(format!("`qm set {vmid} --agent 1` on the node, then stop and start the VM"));
    }
    if said.contains("is not running") {
        return error.with_kind(Kind::NotFound).hint(again::change(format_args!("start {vmid}")));
    }
    if said.contains("No such file") {
        return error.with_kind(Kind::NotFound).hint("sshd makes its keys at its first start: wait a little");
    }
    error
}

fn checked(content: &str, what: &str) -> Result<String> {
    let line = content.trim();
    if line.is_empty() {
        return Err(Error::not_found(format!("can not {what}: there is no host key yet")));
    }
    let key = PublicKey::from_openssh(line)
        .map_err(|e| Error::failed(format!("can not {what}: {HOST_KEY} holds no SSH key")).caused_by(e))?;
    if key.algorithm() != Algorithm::Ed25519 {
        return Err(Error::failed(format!(
            "can not {what}: {HOST_KEY} holds a key of type {}",
            key.algorithm()
        )));
    }
    let mut words = line.split_whitespace();
    Ok(format!("{} {}", words.next().unwrap_or_default(), words.next().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Fake, alone, node, permit};
    use serde_json::json;

    const READ: &str = "/nodes/prom/qemu/110/agent/file-read";
    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAIEtfhhsJqlmAOIaEgTU0QsDGdzAVy1a2vo009FQUXp";

    fn fake() -> Fake {
        Fake::new().get("/cluster/status", json!([{"type": "node", "name": "prom", "local": 1}]))
    }

    fn ask(fake: &Fake, seconds: u64) -> Result<String> {
        host_key(&node(fake), Vmid::new(110).unwrap(), Deadline::secs(seconds))
    }

    #[test]
    fn the_key_comes_without_its_comment() {
        let fake = fake().get(READ, json!({"content": format!("{KEY} root@web\n"), "bytes-read": 90}));
        assert_eq!(ask(&fake, 0).unwrap(), KEY);
        assert!(fake.log()[1].contains("file=%2Fetc%2Fssh%2Fssh_host_ed25519_key.pub"));
    }

    #[test]
    fn a_comment_that_is_no_ascii_does_no_harm() {
        let comment: String = "J\u{fc}rgen@\u{25cf}".bytes().map(char::from).collect();
        let fake = fake().get(READ, json!({"content": format!("{KEY} {comment}\n"), "bytes-read": 95}));
        assert_eq!(ask(&fake, 0).unwrap(), KEY);
    }

    #[test]
    fn an_agent_that_is_late_is_waited_for() {
        let fake = fake()
            .on("GET", READ, 500, json!({"message": "QEMU guest agent is not running\n"}))
            .get(READ, json!({"content": format!("{KEY}\n")}));
        assert_eq!(ask(&fake, 10).unwrap(), KEY);
    }

    #[test]
    fn no_agent_is_not_found_and_garbage_is_no_key() {
        let fake = fake().on("GET", READ, 500, json!({"message": "QEMU guest agent is not running\n"}));
        assert_eq!(ask(&fake, 0).unwrap_err().kind(), Kind::NotFound);
        let fake = self::fake().get(READ, json!({"content": "-----BEGIN OPENSSH PRIVATE KEY-----"}));
        assert_eq!(ask(&fake, 5).unwrap_err().kind(), Kind::Failed);
    }

    const STATUS: &str = "/nodes/prom/qemu/110/agent/exec-status";

    fn run_it(fake: Fake) -> Result<Ended> {
        let fake = fake.on("POST", "/nodes/prom/qemu/110/agent/exec", 200, json!({"data": {"pid": 71}}));
        run(&alone(&fake), &permit(110), &["true".to_owned()], Deadline::secs(20))
    }

    #[test]
    fn an_end_that_was_told_in_a_lost_answer_is_unknown_and_no_failure() {
        let gone = json!({"message": "Agent error: PID ld does not exist\n"});
        let error = run_it(fake().drops("GET", STATUS).on("GET", STATUS, 500, gone.clone())).unwrap_err();
        assert_eq!(error.kind(), Kind::OutcomeUnknown);
        assert!(error.facts()[0].contains("process 71"), "{error:?}");
        assert!(
            error.facts()[1].starts_with("it has ended; how was in an answer that was lost"),
            "{error:?}"
        );
        // An agent that was started anew knows it no more either.
        let error =
            run_it(fake().get(STATUS, json!({"exited": 0})).on("GET", STATUS, 500, gone)).unwrap_err();
        assert_eq!(error.kind(), Kind::OutcomeUnknown);
        // Nobody answers any more.
        let error = run_it(fake().drops("GET", STATUS)).unwrap_err();
        assert_eq!(error.kind(), Kind::OutcomeUnknown);
        assert!(error.facts()[0].contains("process 71"), "{error:?}");
    }

    fn said(out: &str, err: &str) -> Ended {
        let end = json!({"exited": 1, "exitcode": 0, "out-data": out, "out-truncated": 0, "err-data": err});
        run_it(fake().get(STATUS, end)).unwrap()
    }

    /// JSON makes of the 16 MiB that an agent keeps of an output up to six times as much.
    #[test]
    fn an_end_comes_in_a_long_answer_too() {
        let end = json!({"exited": 1, "exitcode": 3, "long": " ".repeat(70 << 20)});
        assert_eq!(run_it(fake().get(STATUS, end)).unwrap().exitcode, Some(3));
    }

    #[test]
    fn a_character_of_an_answer_is_a_byte_of_the_output() {
        // As a genuine node answered `echo gr\u{fc}n`.
        let ended = said("gr\u{c3}\u{bc}n\n", "\u{e2}\u{97}\u{8f} web.service\n");
        assert_eq!(ended.out, "gr\u{fc}n\n".as_bytes());
        assert_eq!(ended.err, "\u{25cf} web.service\n".as_bytes());
        let json = serde_json::to_value(&ended).unwrap();
        assert_eq!(
            json,
            json!({"exitcode": 0, "out": "gr\u{fc}n\n", "err": "\u{25cf} web.service\n", "out_truncated": 0})
        );
        let all: Vec<u8> = (0..=255).collect();
        let ended = said(&all.iter().copied().map(char::from).collect::<String>(), "");
        assert_eq!((ended.out, ended.err), (all, vec![]));
    }

    #[test]
    fn an_answer_that_is_decoded_already_stays() {
        let ended = said("gr\u{fc}n \u{2713}\n", "");
        assert_eq!(ended.out, "gr\u{fc}n \u{2713}\n".as_bytes());
    }

    #[test]
    fn an_answer_that_was_lost_before_the_end_does_no_harm() {
        let fake = fake()
            .drops("GET", STATUS)
            .get(STATUS, json!({"exited": false}))
            .drops("GET", STATUS)
            .get(STATUS, json!({"exited": 1, "exitcode": 3}));
        assert_eq!(run_it(fake).unwrap().exitcode, Some(3));
    }
}
