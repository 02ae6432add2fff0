//! `proxmox-ops session`: requests in, answers out, as `provision-vm` uses it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can not go on must stop")]

mod common;

use common::{Bench, KEY};
use fleet_core::{
    Kind,
    child::Command,
    deadline::Deadline,
    protocol::*,
    types::{VmName, Vmid},
};
use pve_sim::faults::Fault;
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
    let storages: Vec<Storage> = ask(&mut s, Op::Storages).unwrap();
    assert!(storages.iter().any(|s| s.storage.as_str() == "nvmeprom" && s.active && s.available.is_some()));
    let bridges: Vec<String> = ask(&mut s, Op::Bridges).unwrap();
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
    let configure = Op::Configure { vmid: vmid(110), settings: settings.into(), delete: vec![] };
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
    let configure =
        Op::Configure { vmid: vmid(777), settings: Default::default(), delete: vec!["net0".into()] };
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
    let bad = ask::<Value>(&mut s, Op::Configure { vmid: vmid(110), settings, delete: vec![] }).unwrap_err();
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
    let replies: Vec<Value> = ran.out.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let ids: Vec<_> = replies.iter().map(|r| r["id"].as_u64().unwrap()).collect();
    assert_eq!(ids, [1, 0, 2, 3]);
    assert_eq!(replies[0]["ok"]["node"], "prom");
    assert!(replies[1..].iter().all(|r| r["error"]["kind"] == "usage"));
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
    for line in &lines {
        let value: Value = serde_json::from_str(line).unwrap();
        if value.get("op").is_some() {
            let request: Request = serde_json::from_str(line).unwrap();
            assert_eq!(serde_json::to_value(&request).unwrap()["op"], value["op"]);
        } else {
            let reply: Reply = serde_json::from_str(line).unwrap();
            assert_eq!(serde_json::to_value(&reply).unwrap(), value);
        }
    }
}

#[test]
fn the_schema_has_every_request_and_every_field() {
    let text =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/session.schema.json"));
    let schema: Value = serde_json::from_str(&text.unwrap()).unwrap();
    let known = schema["$defs"]["request"]["oneOf"].as_array().unwrap();
    let (disk, size) = ("scsi0".parse().unwrap(), "20G".parse().unwrap());
    let v = vmid(110);
    let all = [
        Op::Node,
        Op::Resources,
        Op::Config { vmid: v },
        Op::Status { vmid: v },
        Op::Storages,
        Op::Bridges,
        Op::Clone(clone_request()),
        Op::Configure { vmid: v, settings: Default::default(), delete: vec!["net0".into()] },
        Op::Resize { vmid: v, disk, size },
        Op::Start { vmid: v },
        Op::Stop { vmid: v },
        Op::Address { vmid: v, timeout: 1 },
        Op::HostKey { vmid: v, timeout: 1 },
    ];
    assert_eq!(known.len(), all.len());
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
        for field in entry["required"].as_array().unwrap() {
            assert!(value.get(field.as_str().unwrap()).is_some(), "{name} does not need {field}");
        }
    }
}
