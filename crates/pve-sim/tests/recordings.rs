//! Replays exchanges with the simulated node and counts what differs: recorded ones where they are at hand, and a
//! few of our own, right and wrong, that show what is counted as what.
//!
//! The recordings are not part of this repository: they are looked for in `../shared/pve-api` beside it, or in
//! `FLEET_SHARED/pve-api`. Without them the test is skipped and says so; where `FLEET_REQUIRE_ORACLES` or `FLEET_SHARED` is
//! set it fails, unless `FLEET_WITHOUT_RECORDINGS` says that there are none. `pve-sim replay DIR` does the same by hand.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may stop and tells what differs")]

mod shared;

use std::collections::BTreeSet;

use pve_sim::replay::{self, Outcome};
use serde_json::{Value, json};

#[test]
fn genuine_recordings() {
    let Some(dir) = shared::pve_api() else { return };
    let report = replay::run(&dir).unwrap();
    println!("{report}");
    assert!(report.used_permille() >= 930, "of the endpoints that the tools use, too few are exact");
    let all = report.count(|_| true);
    assert!(all.exact * 1000 / all.total() >= 930, "{all}");
    let different = report.exchanges.iter().filter(|e| e.outcome == Outcome::Different);
    let different: BTreeSet<String> = different.map(|e| e.id.clone()).collect();
    assert_eq!(different, explained(), "docs/architecture.md gives the reason of each");
    let (of, total) = (different.len(), all.total());
    assert!(ARCHITECTURE.contains(&format!("have differently, {of} of {total}, and why")), "{of} of {total}");
}

const ARCHITECTURE: &str = include_str!("../../../docs/architecture.md");

/// The exchanges in the document's table of reasons.
fn explained() -> BTreeSet<String> {
    let rows = ARCHITECTURE.lines().skip_while(|line| *line != "| exchanges | why |").skip(2);
    let rows = rows.take_while(|line| line.starts_with('|'));
    let names = rows.filter_map(|row| row.split('|').nth(1));
    names.flat_map(|names| names.split(',')).map(|name| name.trim().to_owned()).collect()
}

/// What the simulated node makes of these exchanges.
fn outcomes(records: &[Value]) -> Vec<(Outcome, Vec<String>)> {
    let dir = tempfile::tempdir().unwrap();
    let lines: Vec<String> = records.iter().map(Value::to_string).collect();
    std::fs::write(dir.path().join("00-own.jsonl"), lines.join("\n") + "\n").unwrap();
    let report = replay::run(dir.path()).unwrap();
    assert_eq!(report.exchanges.len(), records.iter().filter(|r| r["method"].is_string()).count());
    report.exchanges.into_iter().map(|e| (e.outcome, e.differences)).collect()
}

const TEMPLATE: &str = "/nodes/prom/qemu/9000/config";

fn exchange(method: &str, path: &str, params: &Value, status: u16, body: &Value) -> Value {
    let message = body["message"].as_str().unwrap_or("OK").lines().next().unwrap();
    json!({"id": format!("{method} {path}"), "method": method, "path": path, "params": params, "auth": "ticket",
           "status": status, "reason": message, "body": body})
}

fn template() -> Value {
    let config = json!({"name": "tmpl", "template": 1, "memory": "512", "cores": 1, "net0": "virtio=BC:24:11:00:00:01,bridge=vmbr0",
        "scsi0": "nvmeprom:9000/base-9000-disk-0.qcow2,size=2G", "boot": "order=scsi0", "digest": "0".repeat(40)});
    exchange("GET", TEMPLATE, &json!({}), 200, &json!({"data": config}))
}

fn fault(name: &str, text: &str) -> Value {
    json!({"data": null, "message": "Parameter verification failed.\n", "errors": {name: text}})
}

#[test]
fn what_is_the_same() {
    let cores = fault("cores", "value must have a minimum value of 1");
    let upid = "UPID:prom:00000ED5:000AE788:6B03B82C:qmclone:9000:root@pam:";
    let mut clone = exchange(
        "POST",
        "/nodes/prom/qemu/9000/clone",
        &json!({"newid": "150", "full": "1"}),
        200,
        &json!({"data": upid}),
    );
    let status = format!("/nodes/prom/tasks/{upid}/status");
    let task = |status: &str, exit: Option<&str>| {
        let mut data = json!({"upid": upid, "status": status, "type": "qmclone", "id": "9000", "node": "prom",
            "user": "root@pam", "pid": 1, "pstart": 2, "starttime": 3});
        if let Some(exit) = exit {
            data["exitstatus"] = json!(exit);
        }
        json!({"data": data})
    };
    let locked = json!({"data": null, "message": "VM is locked (clone)\n"});
    let records = [
        template(),
        exchange("PUT", TEMPLATE, &json!({"cores": "0"}), 400, &cores),
        // Time is the recording's: the clone goes on for as long as it is shown to.
        clone.clone(),
        exchange("GET", &status, &json!({}), 200, &task("running", None)),
        exchange("PUT", "/nodes/prom/qemu/150/config", &json!({"cores": "1"}), 500, &locked),
        exchange("GET", &status, &json!({}), 200, &task("stopped", Some("OK"))),
        exchange("PUT", "/nodes/prom/qemu/150/config", &json!({"cores": "1"}), 200, &json!({"data": null})),
    ];
    for (n, (outcome, differences)) in outcomes(&records).into_iter().enumerate() {
        assert_eq!(outcome, Outcome::Exact, "{}: {differences:?}", records[n]["id"]);
    }
    // Told in other words.
    clone["task"] = json!({"exitstatus": "OK", "log": ["cloned", "TASK OK"]});
    assert_eq!(outcomes(&[template(), clone])[1].0, Outcome::Equal);
}

#[test]
fn what_is_not_the_same() {
    let shape = {
        let mut record = template();
        record["body"]["data"]["unheard-of"] = json!(1);
        // The first one tells what the template is like; the second one then lacks something.
        record
    };
    let clone = |task: &str| {
        let mut record = exchange(
            "POST",
            "/nodes/prom/qemu/9000/clone",
            &json!({"newid": "150"}),
            200,
            &json!({"data": "UPID:prom:00000ED5:000AE788:6B03B82C:qmclone:9000:root@pam:"}),
        );
        record["task"] = json!({"exitstatus": task, "log": []});
        record
    };
    let mut config = exchange("PUT", TEMPLATE, &json!({"cores": "2"}), 200, &json!({"data": null}));
    config["config_after"] = json!({"9000": "cores: 3\n"});
    let wrong = [
        exchange("PUT", TEMPLATE, &json!({"cores": "0"}), 200, &json!({"data": null})),
        exchange(
            "PUT",
            TEMPLATE,
            &json!({"cores": "0"}),
            400,
            &fault("memory", "value must have a minimum value of 1"),
        ),
        exchange("PUT", TEMPLATE, &json!({"cores": "0"}), 400, &fault("cores", "too small")),
        exchange(
            "PUT",
            TEMPLATE,
            &json!({"lock": "x"}),
            500,
            &json!({"data": null, "message": "other words\n"}),
        ),
        clone("WARNINGS: 1"),
        config,
        shape,
    ];
    for record in wrong {
        let found = outcomes(&[template(), record.clone()]);
        assert_eq!(found[0].0, Outcome::Exact, "{found:?}");
        assert_eq!(found[1].0, Outcome::Different, "{record}");
        assert!(!found[1].1.is_empty());
    }
}

#[test]
fn the_same_each_time() {
    let Some(dir) = shared::pve_api() else { return };
    let first = replay::run(&dir).unwrap();
    let again = replay::run(&dir).unwrap();
    let names =
        |r: &replay::Report| r.exchanges.iter().map(|e| (e.id.clone(), e.outcome)).collect::<Vec<_>>();
    assert_eq!(names(&first), names(&again));
}
