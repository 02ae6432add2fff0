//! What became of a change whose answer was lost: its own task tells, and where none is found, the VM.

use std::time::{Duration, Instant};

use fleet_core::{
    Error, Kind, Result,
    deadline::Deadline,
    guard::Permit,
    interrupt,
    types::{NodeName, Vmid},
};

use super::{
    Upid, follow, is_forgotten, list,
    run::{Outcome, once, retried},
};
use crate::api::{Client, call::Call};

/// How often a node that is not reached is tried again to be asked what became of a change. What lies between doubles,
/// from half a second: about 8 s in all, enough for an sshd that is started anew.
const TRIES: u32 = 5;

/// Asks until an answer comes, or for long enough.
pub fn patiently<T>(deadline: Deadline, mut ask: impl FnMut() -> Result<T>) -> Result<T> {
    let mut pause = PAUSE;
    for _ in 1..TRIES {
        match ask() {
            Err(e) if matches!(e.kind(), Kind::Unreachable | Kind::OutcomeUnknown) && !deadline.passed() => {}
            told => return told,
        }
        interrupt::check()?;
        deadline.sleep(pause);
        pause *= 2;
    }
    ask()
}

/// How often is looked.
const LOOKS: usize = 3;
/// What lies between two looks.
const PAUSE: Duration = Duration::from_millis(500);

/// As [`run`](super::run), and what was lost is looked for: the task that was known before, else the newest one of
/// these `kinds` on `subject` that began since the request was sent, running or ended. Its end is the change's.
///
/// Gives the task that did it, where it is known. Where there is none `done` is asked whether the change is there after
/// all; it says nothing where the VM looks the same before and after. What nothing tells of stays
/// [`Kind::OutcomeUnknown`].
pub fn run_or_look(
    client: &Client,
    permit: &Permit,
    call: &Call,
    (kinds, subject, node): (&[&str], Vmid, &NodeName),
    deadline: Deadline,
    progress: &mut dyn FnMut(&str),
    done: &mut dyn FnMut() -> Result<Option<bool>>,
) -> Result<Option<Upid>> {
    retried(client, call, deadline, progress, |progress| {
        let sent = Instant::now();
        let (lost, task) = match once(client, permit, call, deadline, progress)? {
            Outcome::Done(task) => return Ok(task),
            Outcome::Lost { error, task } => (error, task),
        };
        progress(&format!("note: the answer to '{}' was lost: looking at what is there", call.what()));
        let short = || Deadline::secs(20).at_most(deadline.left().max(Duration::from_secs(5)));
        // One that the node has forgotten tells nothing.
        let task = task.filter(|_| !is_forgotten(&lost));
        let looked = match &task {
            // The way to the node was lost, and may be there again.
            Some(upid) => {
                patiently(deadline, || followed(client, upid, call.what(), deadline, progress)).map(Some)
            }
            None => {
                let begun = Begun { client, node, kinds, subject, sent };
                patiently(deadline, || begun.look(call.what(), deadline, &short, progress, done))
            }
        };
        match looked {
            Ok(Some(End::Well(task))) => Ok(task),
            Ok(Some(End::Badly(e))) => Err(e.now("its answer was lost; this is what its task says")),
            Ok(None) => Err(lost.now("looked at the VM and at the node's tasks: there is no trace of it")),
            Err(e) => Err(lost.now(format!("tried to look at what is there: {}", e.message())).caused_by(e)),
        }
    })
}

/// How a task ended, or that it goes on.
enum End {
    Well(Option<Upid>),
    Badly(Error),
}

/// Follows a task whose sight may be lost.
fn followed(
    client: &Client,
    upid: &Upid,
    what: &str,
    deadline: Deadline,
    progress: &mut dyn FnMut(&str),
) -> Result<End> {
    match follow(client, upid, what, deadline, progress) {
        Ok(()) => Ok(End::Well(Some(upid.clone()))),
        Err(e) if e.kind() == Kind::OutcomeUnknown => Err(e),
        Err(e) => Ok(End::Badly(e)),
    }
}

/// A request whose task is not known.
struct Begun<'a> {
    client: &'a Client,
    node: &'a NodeName,
    kinds: &'a [&'a str],
    subject: Vmid,
    sent: Instant,
}

impl Begun<'_> {
    fn look(
        &self,
        what: &str,
        deadline: Deadline,
        short: &dyn Fn() -> Deadline,
        progress: &mut dyn FnMut(&str),
        done: &mut dyn FnMut() -> Result<Option<bool>>,
    ) -> Result<Option<End>> {
        // Who may not ask for the clock is told of running tasks only.
        let since = match list::sent_at(self.client, self.node, self.sent, short()) {
            Ok(since) => Some(since),
            Err(e) if e.kind() == Kind::Failed => None,
            Err(e) => return Err(e),
        };
        let mut others = Vec::new();
        for look in 0..LOOKS {
            if look > 0 {
                deadline.sleep(PAUSE);
            }
            let newest =
                list::newest(self.client, self.node, (self.kinds, self.subject), since, &others, short())?;
            let Some(upid) = newest else {
                if done()? == Some(true) {
                    return Ok(Some(End::Well(None)));
                }
                continue;
            };
            progress(&format!("found its task: {upid}"));
            match followed(self.client, &upid, what, deadline, progress)? {
                End::Well(_) if done()? == Some(false) => {
                    // Somebody else's, of the same kind.
                    others.push(upid);
                }
                end => return Ok(Some(end)),
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Fake, node, permit};
    use serde_json::{Value, json};

    const START: &str = "/nodes/prom/qemu/110/status/start";
    const UPID: &str = "UPID:prom:00000ED5:000AE788:000007D0:qmstart:110:root@pam:";
    const LATER: &str = "UPID:prom:00000ED7:000AE799:000007D0:qmstart:110:root@pam:";

    fn path(upid: &str, rest: &str) -> String {
        format!("/nodes/prom/tasks/{}{rest}", upid.replace(':', "%3A").replace('@', "%40"))
    }

    fn listed(upid: &str, start: u64) -> Value {
        json!({"upid": upid, "type": "qmstart", "id": "110", "starttime": start, "endtime": start, "status": "x"})
    }

    fn ended(fake: Fake, upid: &str, exit: &str) -> Fake {
        fake.get(&path(upid, "/status"), json!({"status": "stopped", "exitstatus": exit}))
            .get(&path(upid, "/log"), json!([]))
    }

    /// A node on whose clock it is 2000.
    fn fake(tasks: Value) -> Fake {
        Fake::new().get("/nodes/prom/time", json!({"time": 2000})).get("/nodes/prom/tasks", tasks)
    }

    fn start(fake: &Fake, done: Option<bool>) -> Result<()> {
        let (permit, here) = (permit(110), "prom".parse().unwrap());
        let call = Call::power(&permit, &here, "start", &[]);
        let (api, subject) = (node(fake).api, (&["hastart", "qmstart"][..], permit.vmid(), &here));
        run_or_look(&api, &permit, &call, subject, Deadline::secs(20), &mut |_| {}, &mut || Ok(done))
            .map(drop)
    }

    #[test]
    fn a_task_that_is_known_is_asked_again_when_the_way_to_the_node_was_lost() {
        for (exit, well) in [("OK", true), ("WARNINGS: 1", true), ("no quorum", false)] {
            let mut fake = fake(json!([])).on("POST", START, 200, json!({ "data": UPID }));
            for _ in 0..3 {
                fake = fake.drops("GET", &path(UPID, "/status"));
            }
            let fake = ended(fake, UPID, exit);
            // Whatever the VM seems to say.
            let told = start(&fake, Some(!well));
            assert_eq!(told.is_ok(), well, "{told:?}");
            if let Err(e) = told {
                assert_eq!((e.kind(), e.message()), (Kind::Failed, "can not start VM 110: no quorum"));
            }
            assert_eq!((fake.requests("POST"), fake.requests("GET /nodes/prom/tasks?")), (1, 0));
        }
    }

    /// The VM tells then, where it can.
    #[test]
    fn a_task_that_the_node_has_forgotten_is_no_failure() {
        let gone = json!({"message": "Parameter verification failed.\n", "errors": {"upid": "no such task"}});
        for (done, kind) in [
            (Some(true), None),
            (Some(false), Some(Kind::OutcomeUnknown)),
            (None, Some(Kind::OutcomeUnknown)),
        ] {
            let fake = fake(json!([])).on("POST", START, 200, json!({ "data": UPID })).on(
                "GET",
                &path(UPID, "/status"),
                400,
                gone.clone(),
            );
            let told = start(&fake, done);
            assert_eq!(told.as_ref().err().map(Error::kind), kind, "{told:?}");
            assert_eq!(fake.requests("POST"), 1);
        }
    }

    #[test]
    fn the_task_of_a_lost_answer_is_found_among_those_that_ended_and_tells() {
        for (exit, done, kind) in [
            ("OK", None, None),
            ("OK", Some(true), None),
            ("no quorum", None, Some(Kind::Failed)),
            ("no quorum", Some(true), Some(Kind::Failed)),
            // Somebody else's.
            ("OK", Some(false), Some(Kind::OutcomeUnknown)),
        ] {
            let fake = fake(json!([listed(UPID, 2000)])).drops("POST", START);
            let told = start(&ended(fake.clone(), UPID, exit), done);
            assert_eq!(told.err().map(|e| e.kind()), kind, "{exit} {done:?}");
            assert_eq!(fake.requests("POST"), 1);
        }
    }

    #[test]
    fn older_tasks_and_those_of_other_kinds_tell_nothing() {
        let mut other = listed(UPID, 2000);
        other["type"] = "qmstop".into();
        for (tasks, done, kind) in [
            (json!([listed(UPID, 1990)]), None, Some(Kind::OutcomeUnknown)),
            (json!([other]), None, Some(Kind::OutcomeUnknown)),
            (json!([]), None, Some(Kind::OutcomeUnknown)),
            (json!([]), Some(false), Some(Kind::OutcomeUnknown)),
            (json!([listed(UPID, 1990)]), Some(true), None),
        ] {
            let fake = fake(tasks).drops("POST", START);
            assert_eq!(start(&fake, done).err().map(|e| e.kind()), kind);
        }
        // Of several within a second the newest.
        let fake = fake(json!([listed(UPID, 2000), listed(LATER, 2000)])).drops("POST", START);
        start(&ended(ended(fake, UPID, "no quorum"), LATER, "OK"), None).unwrap();
    }

    /// The list may say for some time that a task runs which has ended.
    #[test]
    fn without_the_nodes_clock_an_ended_task_is_not_taken_for_the_changes_own() {
        let list = json!([{"upid": UPID, "type": "qmstart", "id": "110", "starttime": 1990}]);
        let fake = || {
            let forbidden = json!({"message": "Permission check failed (/nodes/prom, Sys.Audit)\n"});
            Fake::new().on("GET", "/nodes/prom/time", 403, forbidden).get("/nodes/prom/tasks", list.clone())
        };
        let told = start(&ended(fake().drops("POST", START), UPID, "OK"), None);
        assert_eq!(told.err().map(|e| e.kind()), Some(Kind::OutcomeUnknown));
        // One that runs is followed.
        let fake = fake().get(&path(UPID, "/status"), json!({"status": "running"})).drops("POST", START);
        start(&ended(fake, UPID, "OK"), None).unwrap();
    }

    #[test]
    fn a_lock_time_out_found_late_is_tried_again() {
        let locked = "can't lock file '/var/lock/qemu-server/lock-110.conf' - got timeout";
        let fake = fake(json!([listed(UPID, 2000)])).drops("POST", START).on(
            "POST",
            START,
            200,
            json!({ "data": LATER }),
        );
        start(&ended(ended(fake.clone(), UPID, locked), LATER, "OK"), None).unwrap();
        assert_eq!(fake.requests("POST"), 2);
    }
}
