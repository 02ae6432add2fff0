//! What a run before left going, by being killed, stopped or too short of time: followed, not begun once more.

use std::time::Duration;

use fleet_core::{
    Kind, Result,
    deadline::Deadline,
    types::{NodeName, Vmid},
};

use super::{Upid, follow, list::find_own};
use crate::api::Client;

/// A task that was found running, and has ended.
#[derive(Debug)]
pub struct Earlier {
    /// Its id.
    pub upid: Upid,
    /// How it ended.
    pub ended: Result<()>,
}

impl Earlier {
    /// Follows a running task to its end. What is an error here may go on on the node.
    pub fn of(
        client: &Client,
        upid: Upid,
        what: &str,
        deadline: Deadline,
        progress: &mut dyn FnMut(&str),
    ) -> Result<Earlier> {
        progress(&format!("note: a task to {what} runs already: following it: {upid}"));
        match follow(client, &upid, what, deadline, progress) {
            Err(e) if e.may_go_on() => Err(e),
            ended => Ok(Earlier { upid, ended }),
        }
    }
}

/// A task of one of these `kinds` on a VM that runs, begun by the same login: follows it to its end, for the state then
/// to decide what is left to do. `what` is the change that it is, for people: `back up VM 110`.
///
/// A node that does not tell of its tasks is not waited for. What is an error here may go on on the node.
pub fn earlier(
    client: &Client,
    node: &NodeName,
    (kinds, vmid): (&[&str], Vmid),
    what: &str,
    deadline: Deadline,
    progress: &mut dyn FnMut(&str),
) -> Result<Option<Earlier>> {
    let found = running(client, node, (kinds, vmid), deadline)?;
    found.map(|upid| Earlier::of(client, upid, what, deadline, progress)).transpose()
}

/// The task alone; nothing on a node that does not tell of its tasks.
pub fn running(
    client: &Client,
    node: &NodeName,
    (kinds, vmid): (&[&str], Vmid),
    deadline: Deadline,
) -> Result<Option<Upid>> {
    match find_own(client, node, (kinds, vmid), deadline.at_most(Duration::from_secs(20))) {
        Err(e) if matches!(e.kind(), Kind::Failed | Kind::NotFound) => Ok(None),
        told => told,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Fake, node};
    use serde_json::json;

    const OURS: &str = "UPID:prom:00000ED5:000AE788:000007D0:vzdump:110:root@pam:";

    fn look(fake: &Fake) -> (Option<(String, bool)>, Vec<String>) {
        let (name, vmid) = ("prom".parse().unwrap(), Vmid::new(110).unwrap());
        let mut said = Vec::new();
        let mut progress = |line: &str| said.push(line.to_owned());
        let subject = (&["vzdump"][..], vmid);
        let found =
            earlier(&node(fake).api, &name, subject, "back up VM 110", Deadline::secs(5), &mut progress)
                .unwrap();
        (found.map(|earlier| (earlier.upid.to_string(), earlier.ended.is_ok())), said)
    }

    fn fake(upid: &str, exit: &str) -> Fake {
        let path = format!("/nodes/prom/tasks/{}", crate::api::encode::percent(upid));
        let task: Upid = upid.parse().unwrap();
        let listed = json!([{"upid": upid, "type": task.kind(), "id": task.subject(), "starttime": 2000}]);
        Fake::new()
            .get("/nodes/prom/tasks", listed)
            .get(&format!("{path}/status"), json!({"status": "running"}))
            .get(&format!("{path}/status"), json!({"status": "stopped", "exitstatus": exit}))
            .get(&format!("{path}/log"), json!([]))
    }

    #[test]
    fn a_task_of_ours_is_followed_to_its_end() {
        for (exit, well) in [("OK", true), ("no room", false)] {
            let (found, said) = look(&fake(OURS, exit));
            assert_eq!(found, Some((OURS.to_owned(), well)));
            assert_eq!(said, [format!("note: a task to back up VM 110 runs already: following it: {OURS}")]);
        }
    }

    #[test]
    fn other_peoples_other_kinds_and_ended_ones_are_not() {
        for other in [OURS.replace("root@pam", "alice@pve"), OURS.replace("vzdump", "qmstart")] {
            assert_eq!(look(&fake(&other, "OK")), (None, vec![]), "{other}");
        }
        let ended = fake(OURS, "OK");
        look(&ended);
        assert_eq!(look(&ended), (None, vec![]));
        // A node that does not tell.
        assert_eq!(look(&Fake::new()), (None, vec![]));
    }
}
