//! `proxmox-ops session`: requests in, answers out, as `provision-vm` uses it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can not go on must stop")]

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::{Bench, KEY};
use fleet_core::{
    Kind,
    child::Command,
    deadline::Deadline,
    protocol::*,
    types::{VmName, Vmid},
};
use pve_sim::{faults::Fault, world::World};
use serde_json::{Value, json};

fn vmid(number: u32) -> Vmid {
    Vmid::new(number).unwrap()
}

fn session(bench: &Bench) -> Session {
    let command = bench
        .sim
        .env()
        .into_iter()
        .fold(Command::new(assert_cmd::cargo::cargo_bin!("proxmox-ops")), |c, (k, v)| c.env(k, v))
        .dir(bench.fleet.path())
        .args(["session"]);
    Session::start(&command).unwrap()
}

fn ask<T: serde::de::DeserializeOwned>(session: &mut Session, op: Op) -> fleet_core::Result<T> {
    session.ask(op, Deadline::secs(60), |_| {})
}

fn clone_request() -> CloneRequest {
    let name: VmName = "test-automation".parse().unwrap();
    CloneRequest {
        template: vmid(9002),
        vmid: vmid(110),
        marker: Marker::fresh(&name, vmid(110)).unwrap(),
        name,
        storage: Some("nvmeprom".parse().unwrap()),
        full: true,
        node: None,
    }
}

#[test]
fn every_request_has_its_answer_over_one_connection() {
    let bench = Bench::new();
    let mut s = session(&bench);
    let info: NodeInfo = ask(&mut s, Op::Node).unwrap();
    assert_eq!((info.node.as_str(), info.version.as_str()), ("prom", "9.2.11"));
    let resources: Vec<Resource> = ask(&mut s, Op::Resources).unwrap();
    assert!(resources.iter().any(|r| r.vmid == vmid(200) && r.kind == ResourceKind::Lxc));
    let storages: Vec<Storage> = ask(&mut s, Op::Storages { node: None }).unwrap();
    assert!(storages.iter().any(|s| s.storage.as_str() == "nvmeprom" && s.active && s.available.is_some()));
    let bridges: Vec<String> = ask(&mut s, Op::Bridges { node: None }).unwrap();
    assert_eq!(bridges, ["vmbr0"]);

    let request = clone_request();
    let mut lines = 0;
    let () = s.ask(Op::Clone(request.clone()), Deadline::secs(60), |_| lines += 1).unwrap();
    assert!(lines > 0, "a clone tells how far it is");
    let config: VmConfig = ask(&mut s, Op::Config { vmid: vmid(110) }).unwrap();
    assert_eq!(config.marker.as_ref(), Some(&request.marker));
    assert!(config.mac.is_some());

    let settings = [
        ("cores", "2"),
        ("memory", "4096"),
        ("ide2", "nvmeprom:cloudinit"),
        ("ciuser", "root"),
        ("sshkeys", KEY),
        ("ipconfig0", "ip=dhcp"),
        ("ciupgrade", "0"),
    ]
    .map(|(k, v)| (k.to_owned(), v.to_owned()));
    let configure =
        Op::Configure { vmid: vmid(110), settings: settings.into(), delete: vec![], digest: None };
    let () = ask(&mut s, configure.clone()).unwrap();
    let () = ask(&mut s, configure).unwrap();
    let resize = Op::Resize { vmid: vmid(110), disk: "scsi0".parse().unwrap(), size: "20G".parse().unwrap() };
    let () = ask(&mut s, resize).unwrap();
    let () = ask(&mut s, Op::Start { vmid: vmid(110) }).unwrap();
    let () = ask(&mut s, Op::Start { vmid: vmid(110) }).unwrap();
    let status: VmStatus = ask(&mut s, Op::Status { vmid: vmid(110) }).unwrap();
    assert_eq!(status.status, "running");
    let address: Address = ask(&mut s, Op::Address { vmid: vmid(110), timeout: 20 }).unwrap();
    assert_eq!(address.address.to_string(), bench.sim.guest(110).unwrap().1);
    let key: String = ask(&mut s, Op::HostKey { vmid: vmid(110), timeout: 20 }).unwrap();
    assert!(bench.sim.guest_host_key(110).unwrap().starts_with(&key));
    let ended = |s: &mut Session| -> bool { ask(s, Op::CloudInitEnded { vmid: vmid(110) }).unwrap() };
    assert!(ended(&mut s));
    // The node's answer where it still runs, or where there is none: the file is missing.
    let fault = Fault::Answer {
        method: "GET".into(),
        path: "/agent/file-read".into(),
        status: 500,
        message: "Agent error: failed to open file '/run/cloud-init/result.json' (mode: 'r'): No such file or directory".into(),
        times: 1,
    };
    bench.sim.inject(fault);
    assert!(!ended(&mut s));
    let () = ask(&mut s, Op::Stop { vmid: vmid(110) }).unwrap();
    drop(s);
    assert_eq!(bench.sim.connections(), 1);
}

#[test]
fn the_guard_stands_before_every_request() {
    let bench = Bench::new();
    let mut s = session(&bench);
    let _: NodeInfo = ask(&mut s, Op::Node).unwrap();
    let before = bench.sim.calls().len();
    let mut clone = clone_request();
    clone.vmid = vmid(104);
    let resize =
        Op::Resize { vmid: vmid(109), disk: "scsi0".parse().unwrap(), size: "200G".parse().unwrap() };
    let configure = Op::Configure {
        vmid: vmid(777),
        settings: Default::default(),
        delete: vec!["net0".into()],
        digest: None,
    };
    for op in
        [Op::Stop { vmid: vmid(104) }, Op::Start { vmid: vmid(9002) }, Op::Clone(clone), resize, configure]
    {
        let error = ask::<Value>(&mut s, op).unwrap_err();
        assert_eq!(error.kind(), Kind::Refused, "{error:?}");
    }
    assert_eq!(bench.sim.calls().len(), before, "not one request left");
    // Reading is allowed.
    let status: VmStatus = ask(&mut s, Op::Status { vmid: vmid(104) }).unwrap();
    assert_eq!(status.status, "running");
}

#[test]
fn failures_keep_their_kind() {
    let bench = Bench::new();
    let mut s = session(&bench);
    let missing = ask::<Value>(&mut s, Op::Config { vmid: vmid(110) }).unwrap_err();
    assert_eq!(missing.kind(), Kind::NotFound);
    let () = ask(&mut s, Op::Clone(clone_request())).unwrap();
    let taken = ask::<Value>(&mut s, Op::Clone(clone_request())).unwrap_err();
    assert_eq!(taken.kind(), Kind::Conflict);
    let settings = [("sshkeys".to_owned(), "no key".to_owned())].into();
    let bad = ask::<Value>(&mut s, Op::Configure { vmid: vmid(110), settings, delete: vec![], digest: None })
        .unwrap_err();
    assert_eq!(bad.kind(), Kind::Usage);
}

#[test]
fn a_session_outlives_its_link() {
    let bench = Bench::new();
    let mut s = session(&bench);
    let _: NodeInfo = ask(&mut s, Op::Node).unwrap();
    bench.sim.inject(Fault::DropLink { after: 0, done: false });
    let resources: Vec<Resource> = ask(&mut s, Op::Resources).unwrap();
    assert!(!resources.is_empty());
    bench.sim.inject(Fault::DropLinkAt { method: "POST".into(), path: "/clone".into(), done: true });
    let () = ask(&mut s, Op::Clone(clone_request())).unwrap();
    let _: VmConfig = ask(&mut s, Op::Config { vmid: vmid(110) }).unwrap();
}

#[test]
fn what_belongs_to_no_request_is_told_under_id_0() {
    let bench = Bench::new();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut command = bench.command(&["session"]);
    let ran = bench.finish(command.env("PROXMOX_HOST", format!("127.0.0.1:{port}")));
    assert_eq!((ran.code, ran.err.as_str()), (6, ""));
    let told: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!((&told["id"], &told["error"]["kind"]), (&json!(0), &json!("unreachable")));

    let mut command = bench.command(&["session"]);
    let input = "{\"v\":1,\"id\":1,\"op\":\"node\"}\n\ngarbage\n{\"v\":1,\"id\":2,\"op\":\"dance\"}\n{\"v\":9,\"id\":3,\"op\":\"node\"}\n";
    let ran = bench.finish(command.write_stdin(input));
    assert_eq!(ran.code, 0, "{}", ran.err);
    let mut replies: Vec<Value> = ran.out.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    replies.sort_by_key(|r| r["id"].as_u64());
    let ids: Vec<_> = replies.iter().map(|r| r["id"].as_u64().unwrap()).collect();
    assert_eq!(ids, [0, 1, 2, 3]);
    assert_eq!(replies[1]["ok"]["node"], "prom");
    assert!(replies.iter().filter(|r| r["id"] != 1).all(|r| r["error"]["kind"] == "usage"));
}

#[test]
fn a_line_that_is_no_text_is_one_request_and_not_the_end() {
    let bench = Bench::new();
    let mut input = b"{\"v\":1,\"id\":1,\"op\":\"node\"}\n\xff\xfe\n".to_vec();
    input.extend(br#"{"v":1,"id":0,"op":"node"}"#);
    input.extend(b"\n{\"v\":1,\"id\":2,\"op\":\"node\"}\n");
    let ran = bench.finish(bench.command(&["session"]).write_stdin(input));
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    let replies: Vec<Value> = ran.out.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let of = |id: u64| replies.iter().filter(|r| r["id"] == id).collect::<Vec<_>>();
    assert_eq!((of(0).len(), of(1).len(), of(2).len()), (2, 1, 1), "{}", ran.out);
    assert!(of(0).iter().all(|reply| reply["error"]["kind"] == "usage"));
    assert_eq!(of(2)[0]["ok"]["node"], "prom");
}

/// The lines of the document's `jsonl` blocks.
fn documented() -> Vec<String> {
    let text =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/session.md")).unwrap();
    let blocks = text.split("```jsonl\n").skip(1).map(|block| block.split("```").next().unwrap().to_owned());
    blocks.flat_map(|block| block.lines().map(str::to_owned).collect::<Vec<_>>()).collect()
}

#[test]
fn the_document_says_what_is_spoken() {
    let lines = documented();
    assert!(lines.len() >= 9);
    let schema = schema();
    for line in &lines {
        let value: Value = serde_json::from_str(line).unwrap();
        assert_eq!(unfit(&schema, &schema, &value), None, "{line}");
        if value.get("op").is_some() {
            let request: Request = serde_json::from_str(line).unwrap();
            assert_eq!(serde_json::to_value(&request).unwrap()["op"], value["op"]);
        } else {
            let reply: Reply = serde_json::from_str(line).unwrap();
            assert_eq!(serde_json::to_value(&reply).unwrap(), value);
        }
    }
}

fn schema() -> Value {
    let text =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/session.schema.json"));
    serde_json::from_str(&text.unwrap()).unwrap()
}

/// What is wrong with a value, by those words of JSON Schema that the document uses.
fn unfit(root: &Value, schema: &Value, value: &Value) -> Option<String> {
    let Some(words) = schema.as_object() else { return (*schema == false).then(|| format!("{value}")) };
    let fits = |schema: &Value, value: &Value| unfit(root, schema, value).is_none();
    let list = |of: &Value| of.as_array().unwrap().clone();
    let fields = || value.as_object().into_iter().flatten();
    let wrong = |(word, of): (&String, &Value)| {
        let well = match word.as_str() {
            "$ref" => fits(root.pointer(of.as_str().unwrap().strip_prefix('#').unwrap()).unwrap(), value),
            "anyOf" => list(of).iter().any(|one| fits(one, value)),
            "oneOf" => list(of).iter().filter(|one| fits(one, value)).count() == 1,
            "type" => match of.as_str().unwrap() {
                "object" => value.is_object(),
                "array" => value.is_array(),
                "string" => value.is_string(),
                "boolean" => value.is_boolean(),
                "integer" => value.is_u64() || value.is_i64(),
                other => panic!("{other} is no type that is known here"),
            },
            "const" => value == of,
            "enum" => list(of).contains(value),
            "minimum" => value.as_i64().is_none_or(|n| n >= of.as_i64().unwrap()),
            "maximum" => value.as_i64().is_none_or(|n| n <= of.as_i64().unwrap()),
            "pattern" => value
                .as_str()
                .is_none_or(|text| regex::Regex::new(of.as_str().unwrap()).unwrap().is_match(text)),
            "minItems" => value.as_array().is_none_or(|all| all.len() as u64 >= of.as_u64().unwrap()),
            "items" => value.as_array().into_iter().flatten().all(|item| fits(of, item)),
            "required" => {
                !value.is_object() || list(of).iter().all(|name| value.get(name.as_str().unwrap()).is_some())
            }
            "properties" => fields().all(|(name, field)| of.get(name).is_none_or(|of| fits(of, field))),
            "propertyNames" => fields().all(|(name, _)| fits(of, &Value::from(name.as_str()))),
            "additionalProperties" => fields().all(|(name, field)| {
                words.get("properties").is_some_and(|p| p.get(name).is_some()) || fits(of, field)
            }),
            "$schema" | "$defs" | "title" | "description" => true,
            other => panic!("{other} is no word that is known here"),
        };
        (!well).then(|| format!("{word}: {value}"))
    };
    words.iter().find_map(wrong)
}

/// What the program itself says that it knows.
fn spoken() -> BTreeSet<String> {
    let error = serde_json::from_value::<Op>(json!({"op": "?"})).unwrap_err().to_string();
    error.split('`').skip(3).step_by(2).map(str::to_owned).collect()
}

/// The requests of the document's table, each with the fields that it names.
fn tabled() -> BTreeMap<String, BTreeSet<String>> {
    let text =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/session.md")).unwrap();
    let beside = regex::Regex::new(r"\([^)]*\)").unwrap();
    let quoted = |cell: &str| -> BTreeSet<String> {
        beside.replace_all(cell, "").split('`').skip(1).step_by(2).map(str::to_owned).collect()
    };
    let rows = text.lines().filter(|line| line.starts_with("| `") && !line.starts_with("| `op`"));
    rows.map(|row| {
        let cells: Vec<&str> = row.split('|').collect();
        (quoted(cells[1]).pop_first().unwrap(), quoted(cells[2]))
    })
    .collect()
}

#[test]
fn the_schema_has_every_request_and_every_field() {
    let schema = schema();
    let known = schema["$defs"]["request"]["oneOf"].as_array().unwrap();
    let tabled = tabled();
    assert_eq!(tabled.keys().cloned().collect::<BTreeSet<_>>(), spoken());
    let (disk, size) = ("scsi0".parse().unwrap(), "20G".parse().unwrap());
    let v = vmid(110);
    let all = [
        Op::Node,
        Op::Resources,
        Op::Configs,
        Op::Nodes,
        Op::Config { vmid: v },
        Op::Status { vmid: v },
        Op::Storages { node: Some("b".parse().unwrap()) },
        Op::Bridges { node: Some("b".parse().unwrap()) },
        Op::AddressHolder { address: "192.0.2.7".parse().unwrap(), node: Some("b".parse().unwrap()) },
        Op::Clone(CloneRequest { node: Some("b".parse().unwrap()), ..clone_request() }),
        Op::Create(CreateRequest {
            vmid: v,
            name: "web".parse().unwrap(),
            storage: "nvmeprom".parse().unwrap(),
            image: "local:import/x.raw".into(),
            settings: Default::default(),
            node: Some("b".parse().unwrap()),
            marker: clone_request().marker,
        }),
        Op::Configure {
            vmid: v,
            settings: Default::default(),
            delete: vec!["net0".into()],
            digest: Some("d".into()),
        },
        Op::GiveDocuments { vmid: v, documents: Default::default(), settings: Default::default() },
        Op::RemoveDocuments { vmid: v },
        Op::Resize { vmid: v, disk, size },
        Op::Show {
            request: Box::new(Op::RemoveDocuments { vmid: v }),
            after: Some(Box::new(Op::GiveDocuments {
                vmid: v,
                documents: Default::default(),
                settings: Default::default(),
            })),
            node: Some("b".parse().unwrap()),
        },
        Op::Start { vmid: v },
        Op::Stop { vmid: v },
        Op::Shutdown { vmid: v, timeout: 9, force: true },
        Op::Reboot { vmid: v, timeout: 9 },
        Op::Destroy { vmid: v, marker: clone_request().marker, stop: true },
        Op::CreateDisk {
            vmid: v,
            size: "20G".parse().unwrap(),
            storage: "nvmeprom".parse().unwrap(),
            disk: Some("scsi1".parse().unwrap()),
        },
        Op::Template { vmid: v },
        Op::Backup {
            vmid: v,
            storage: Some("local".parse().unwrap()),
            mode: BackupMode::Stop,
            notes: Some("why".into()),
            timeout: 9,
        },
        Op::Snapshots { vmid: v },
        Op::Snapshot { vmid: v, name: "one".into(), description: Some("why".into()), memory: true },
        Op::Rollback { vmid: v, name: "one".into(), start: true },
        Op::DeleteSnapshot { vmid: v, name: "one".into() },
        Op::NextVmid { start: Some(v), end: Some(v) },
        Op::Exec { vmid: v, command: vec!["true".into()], timeout: 9 },
        Op::UploadPlace { node: Some("b".parse().unwrap()) },
        Op::Upload {
            file: "debian.qcow2".into(),
            nonce: Some("0a1b".into()),
            node: Some("b".parse().unwrap()),
        },
        Op::RemoveRemainder {
            vmid: v,
            task: "UPID:prom:00000ED5:000AE788:6B03B82C:qmclone:9002:root@pam:".into(),
        },
        Op::RemoveUpload { path: "/var/tmp/fleet-image-0.qcow2".into(), node: Some("b".parse().unwrap()) },
        Op::Address { vmid: v, timeout: 1 },
        Op::HostKey { vmid: v, timeout: 1 },
        Op::CloudInitEnded { vmid: v },
    ];
    assert_eq!((known.len(), spoken().len()), (all.len(), all.len()));
    for op in all {
        let value = serde_json::to_value(Request { v: VERSION, id: 1, op }).unwrap();
        let name = value["op"].as_str().unwrap();
        let entry = known
            .iter()
            .find(|e| e["title"] == name)
            .unwrap_or_else(|| panic!("{name} is not in the schema"));
        for (field, _) in value.as_object().unwrap() {
            assert!(entry["properties"].get(field).is_some(), "{name} lacks {field}");
        }
        let fields = entry["properties"].as_object().unwrap().keys().cloned();
        let fields: BTreeSet<String> = fields.filter(|f| !["v", "id", "op"].contains(&f.as_str())).collect();
        assert_eq!(fields, tabled[name], "{name}");
        assert_eq!(unfit(&schema, entry, &value), None, "{name}");
        for field in entry["required"].as_array().unwrap() {
            assert!(value.get(field.as_str().unwrap()).is_some(), "{name} does not need {field}");
        }
    }
}

/// Starts a session and gives its standard input and its replies as they come.
fn raw(bench: &Bench) -> (std::process::Child, std::process::ChildStdin, std::sync::mpsc::Receiver<Value>) {
    use std::process::Stdio;
    let mut command = bench.std_command(&["session"]);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let (stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let (send, receive) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let schema = schema();
        for line in std::io::BufRead::lines(std::io::BufReader::new(stdout)) {
            let Ok(line) = line else { return };
            let value: Value = serde_json::from_str(&line).unwrap();
            // Who waits for more is told by the end of them.
            assert_eq!(unfit(&schema, &schema["$defs"]["answer"], &value), None, "{line}");
            send.send(value).unwrap();
        }
    });
    (child, stdin, receive)
}

fn send(stdin: &mut std::process::ChildStdin, requests: &[(u64, Op)]) {
    use std::io::Write;
    for (id, op) in requests {
        let request = Request { v: VERSION, id: *id, op: op.clone() };
        writeln!(stdin, "{}", serde_json::to_string(&request).unwrap()).unwrap();
    }
}

/// Ids of the answers, in the order in which they came; progress is left out.
fn answers(replies: impl IntoIterator<Item = Value>) -> Vec<u64> {
    let ends = replies.into_iter().filter(|reply| reply.get("progress").is_none());
    ends.map(|reply| reply["id"].as_u64().unwrap()).collect()
}

#[test]
fn reads_are_answered_while_a_clone_runs_and_all_is_finished_at_the_end_of_input() {
    let bench = Bench::new();
    bench.sim.inject(Fault::TaskSlow { kind: "qmclone".into(), by: std::time::Duration::from_millis(2000) });
    let (mut child, mut stdin, replies) = raw(&bench);
    let configure = |cores: &str| Op::Configure {
        vmid: vmid(110),
        settings: [("cores".to_owned(), cores.to_owned())].into(),
        delete: vec![],
        digest: None,
    };
    send(
        &mut stdin,
        &[
            (1, Op::Clone(clone_request())),
            (2, Op::Resources),
            (3, Op::Status { vmid: vmid(104) }),
            // Of the VM that is being cloned: in their order, after it.
            (4, configure("3")),
            (5, configure("4")),
            (6, Op::Config { vmid: vmid(110) }),
            (7, Op::Status { vmid: vmid(9002) }),
        ],
    );
    drop(stdin);
    let replies: Vec<Value> = replies.iter().collect();
    assert!(child.wait().unwrap().success());
    assert!(replies.iter().all(|reply| reply.get("error").is_none()), "{replies:?}");
    assert!(replies.iter().any(|reply| reply["id"] == 1 && reply.get("progress").is_some()));
    let order = answers(replies.clone());
    let mut early = order[..3].to_vec();
    early.sort_unstable();
    assert_eq!((early, &order[3..]), (vec![2, 3, 7], &[1, 4, 5, 6][..]));
    let config = replies.iter().find(|reply| reply["id"] == 6).unwrap();
    assert_eq!(config["ok"]["settings"]["cores"], "4");
    assert_eq!(bench.sim.connections(), 1, "one connection for all of them");
}

#[test]
fn who_asks_one_thing_after_the_other_needs_one_worker() {
    let bench = Bench::new();
    let mut s = session(&bench);
    for _ in 0..5 {
        let _: NodeInfo = ask(&mut s, Op::Node).unwrap();
    }
    drop(s);
    let opened =
        bench.sim.requests().iter().filter(|r| matches!(r.what, pve_sim::log::What::Open { .. })).count();
    assert_eq!(opened, 1);
}

#[test]
fn ctrl_c_ends_a_session_and_every_request_is_answered() {
    use std::io::Write;
    let bench = Bench::new();
    bench.sim.inject(Fault::TaskSlow { kind: "qmclone".into(), by: std::time::Duration::from_secs(60) });
    let (mut child, mut stdin, replies) = raw(&bench);
    send(&mut stdin, &[(1, Op::Clone(clone_request())), (2, Op::Start { vmid: vmid(110) })]);
    // What is no request is answered by whoever reads them: then the two before it have been read.
    writeln!(stdin, r#"{{"v":1,"id":3,"op":"none"}}"#).unwrap();
    let mut early: Vec<Value> = Vec::new();
    while early.last().is_none_or(|reply| reply["id"] != 3) {
        early.push(replies.recv().unwrap());
    }
    while !bench.sim.changes().iter().any(|change| change.ends_with("/clone")) {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let replies: Vec<Value> = early.into_iter().chain(replies.iter()).collect();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let of = |id: u64| replies.iter().find(|r| r["id"] == id && r.get("error").is_some()).unwrap();
    assert_eq!(of(1)["error"]["kind"], "interrupted");
    assert!(of(1)["error"]["now"][0].as_str().unwrap().contains("the task goes on without this program"));
    assert_eq!(of(2)["error"]["now"][0], "it was not begun");
    drop(stdin);
}

#[test]
fn a_session_that_nobody_reads_ends() {
    let bench = Bench::new();
    bench.sim.inject(Fault::TaskSlow { kind: "qmclone".into(), by: std::time::Duration::from_secs(60) });
    let mut command = bench.std_command(&["session"]);
    command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    let mut child = command.stderr(std::process::Stdio::null()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    send(&mut stdin, &[(1, Op::Clone(clone_request()))]);
    drop(child.stdout.take());
    send(&mut stdin, &[(2, Op::Node)]);
    assert_eq!(child.wait().unwrap().code(), Some(1));
}

#[test]
fn who_has_an_address_is_found_out() {
    let bench = Bench::new();
    let taken = bench.sim.node().read(|d| d.guests[&104].running.as_ref().unwrap().address.clone());
    let mut s = session(&bench);
    let mut mac = |address: &str| {
        let op = Op::AddressHolder { address: address.parse().unwrap(), node: None };
        let holder: Option<AddressHolder> = ask(&mut s, op).unwrap();
        holder.map(|holder| holder.mac.map(|mac| mac.to_string()))
    };
    assert_eq!(mac(&taken), Some(Some("BC:24:11:00:01:04".to_owned())));
    assert_eq!(mac("192.0.2.1"), Some(None), "the node's own");
    assert_eq!(mac("192.0.2.250"), None);
    // What the node only remembers is no answer, whether or not somebody is there.
    let silent = "02:00:5E:10:00:08";
    for (address, there) in [("192.0.2.251", false), ("192.0.2.252", true)] {
        let (at, of) = (address.to_owned(), silent.to_owned());
        bench.sim.inject(Fault::Remembered { address: at, mac: of, looks: 3, there });
        assert_eq!(mac(address), there.then(|| Some(silent.to_owned())), "{address}");
        bench.sim.clear_faults();
    }
    for program in ["ip", "perl"] {
        bench.sim.inject(Fault::NoProgram { name: program.to_owned() });
        let op = Op::AddressHolder { address: taken.parse().unwrap(), node: None };
        let error = ask::<Option<AddressHolder>>(&mut s, op).unwrap_err();
        assert!(error.message().contains(&format!("{program}: command not found")), "{error:?}");
        bench.sim.clear_faults();
    }
}

#[test]
fn what_a_run_made_it_may_remove_and_nothing_else() {
    let bench = Bench::new();
    let mut s = session(&bench);
    let request = clone_request();
    let () = ask(&mut s, Op::Clone(request.clone())).unwrap();
    let disk: NewDisk = ask(
        &mut s,
        Op::CreateDisk {
            vmid: vmid(110),
            size: "1G".parse().unwrap(),
            storage: "nvmeprom".parse().unwrap(),
            disk: None,
        },
    )
    .unwrap();
    assert_eq!(disk.disk.as_str(), "scsi1");
    let free: Vmid = ask(&mut s, Op::NextVmid { start: Some(vmid(109)), end: Some(vmid(120)) }).unwrap();
    assert_eq!(free, vmid(111));
    let () = ask(&mut s, Op::Start { vmid: vmid(110) }).unwrap();
    let _: String = ask(&mut s, Op::HostKey { vmid: vmid(110), timeout: 20 }).unwrap();
    let exec = Op::Exec { vmid: vmid(110), command: vec!["false".into()], timeout: 20 };
    let ended: Value = ask(&mut s, exec).unwrap();
    assert_eq!(ended["exitcode"], 1);
    let other = Marker::fresh(&request.name, vmid(110)).unwrap();
    let destroy = |marker| Op::Destroy { vmid: vmid(110), marker, stop: true };
    assert_eq!(ask::<Value>(&mut s, destroy(other)).unwrap_err().kind(), Kind::Refused);
    let () = ask(&mut s, destroy(request.marker)).unwrap();
    assert!(bench.sim.config(110).is_none());
}

#[test]
fn every_configuration_of_the_cluster_comes_with_one_request() {
    let world = World::default().with_container(201, "pihole").with_foreign_vm(150, "web", "prom2");
    let bench = Bench::with(world);
    let mut session = session(&bench);
    let request = clone_request();
    session.ask::<()>(Op::Clone(request.clone()), Deadline::secs(60), |_| {}).unwrap();
    let before = bench.sim.calls().len();
    let all: Vec<ClusterConfig> = session.ask(Op::Configs, Deadline::secs(20), |_| {}).unwrap();
    assert_eq!(bench.sim.calls().len(), before, "no request to the API is needed");
    let of = |number: u32| all.iter().find(|c| c.vmid == vmid(number)).unwrap();
    assert_eq!(of(110).marker, Some(request.marker));
    assert_eq!(of(110).macs.len(), 1);
    assert_eq!((of(201).kind, of(150).node.as_str()), (ResourceKind::Lxc, "prom2"));
    assert_eq!(of(9002).settings["template"], "1");
    // The same as the API says, for a VM of this node.
    let one: VmConfig = session.ask(Op::Config { vmid: vmid(110) }, Deadline::secs(20), |_| {}).unwrap();
    assert_eq!(one.settings, of(110).settings);
}

#[test]
fn a_change_is_shown_as_it_would_be_sent_and_not_sent() {
    let bench = Bench::new();
    let mut session = session(&bench);
    let show = |op: Op| Op::Show { request: Box::new(op), after: None, node: None };
    let mut shown = |op| session.ask::<Vec<String>>(show(op), Deadline::secs(20), |_| {});
    let clone = shown(Op::Clone(clone_request())).unwrap();
    assert!(clone[0].starts_with("POST /nodes/prom/qemu/9002/clone newid=110 "), "{clone:?}");
    let start = shown(Op::Start { vmid: vmid(110) }).unwrap();
    assert_eq!(start, ["POST /nodes/prom/qemu/110/status/start"]);
    assert_eq!(shown(Op::Start { vmid: vmid(104) }).unwrap_err().kind(), Kind::Refused);
    assert_eq!(shown(Op::Node).unwrap_err().kind(), Kind::Usage);
    assert_eq!(bench.sim.changes(), [] as [String; 0]);
}

/// More than the session serves side by side: each answer comes to its own question, an error to its own, too.
#[test]
fn all_are_asked_at_once_and_each_gets_its_own_answer() {
    let bench = Bench::new();
    let mut session = session(&bench);
    let vmids = [104u32, 999, 109, 9002, 104, 109, 9002, 998, 104, 109, 9002, 104];
    let ops = vmids.iter().map(|number| Op::Config { vmid: vmid(*number) }).collect();
    let answers = session.ask_all::<VmConfig>(ops, Deadline::secs(30));
    let told: Vec<Option<u32>> =
        answers.iter().map(|answer| answer.as_ref().ok().map(|config| config.vmid.get())).collect();
    let there: Vec<Option<u32>> =
        vmids.iter().map(|vmid| (*vmid < 998 || *vmid == 9002).then_some(*vmid)).collect();
    assert_eq!(told, there);
    assert!(answers[1].as_ref().is_err_and(|error| error.kind() == Kind::NotFound), "{answers:?}");
    // One question more is answered as ever.
    let node: NodeInfo = session.ask(Op::Node, Deadline::secs(30), |_| {}).unwrap();
    assert_eq!(node.node.as_str(), "prom");
}
