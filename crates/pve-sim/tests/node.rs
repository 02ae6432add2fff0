//! The simulated node over real SSH, from login to a running machine.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may stop")]

mod common;

use std::time::Duration;

use common::{Api, deadline, environment, try_session};
use fleet_core::{
    Kind,
    ssh::{ExecStatus, HostKeyPolicy, Session, Target, Transport},
    ui::Ui,
};
use pve_sim::{
    faults::Fault,
    guest::Os,
    log::What,
    testing::{OPERATOR_PUBLIC, Sim},
};

fn clone_and_start(api: &mut Api) {
    let done =
        api.task("POST", "/nodes/prom/qemu/9002/clone", &[("newid", "110"), ("name", "web"), ("full", "1")]);
    assert_eq!(done.0, "OK", "{done:?}");
    let keys = common::encode(OPERATOR_PUBLIC.trim());
    let settings = [
        ("ide2", "nvmeprom:cloudinit"),
        ("ciuser", "root"),
        ("sshkeys", keys.as_str()),
        ("ipconfig0", "ip=dhcp"),
        ("ciupgrade", "0"),
        ("background_delay", "30"),
    ];
    let answer = api.send("POST", "/nodes/prom/qemu/110/config", &settings);
    assert!(answer.data().is_null(), "{answer:?}");
    let done = api.task("PUT", "/nodes/prom/qemu/110/resize", &[("disk", "scsi0"), ("size", "20G")]);
    assert_eq!(done, ("OK".to_owned(), vec!["Image resized.".to_owned(), "TASK OK".to_owned()]));
    let done = api.task("POST", "/nodes/prom/qemu/110/status/start", &[]);
    assert_eq!(done.0, "OK", "{done:?}");
}

/// What the guest agent says, once it is there.
fn agent(api: &mut Api, verb: &str) -> serde_json::Value {
    for _ in 0..2000 {
        let answer = api.get(&format!("/nodes/prom/qemu/110/agent/{verb}"));
        if answer.status == 200 {
            return answer.data()["result"].clone();
        }
        assert_eq!(answer.message(), "QEMU guest agent is not running\n");
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("the agent never came");
}

fn address(api: &mut Api, mac: &str) -> String {
    for _ in 0..2000 {
        let list = agent(api, "network-get-interfaces");
        let card = list.as_array().unwrap().iter().find(|i| i["hardware-address"] == mac).unwrap().clone();
        if let Some(address) = card["ip-addresses"][0]["ip-address"].as_str() {
            return address.to_owned();
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("the address never came");
}

#[test]
fn from_template_to_login() {
    let sim = Sim::start();
    let mut api = Api::new(&sim);
    assert_eq!(api.get("/version").data()["version"], "9.2.11");
    clone_and_start(&mut api);
    let conf = sim.config(110).unwrap();
    assert_eq!(conf.get("name"), Some("web"));
    assert_eq!(conf.get("scsi0"), Some("nvmeprom:110/vm-110-disk-1.qcow2,size=20G"));
    let mac = pve_sim::conf::mac_of(conf.get("net0").unwrap()).unwrap().to_lowercase();
    let address = address(&mut api, &mac);
    assert_eq!(sim.guest(110), Some((Os::CloudImage, address.clone())));
    let neighbours = api.session.exec("ip -j neigh show", b"", deadline()).unwrap();
    assert!(String::from_utf8(neighbours.stdout).unwrap().contains(&address));
    // The agent tells the host key that the machine really shows.
    let key = api.send(
        "GET",
        "/nodes/prom/qemu/110/agent/file-read",
        &[("file", "/etc/ssh/ssh_host_ed25519_key.pub")],
    );
    let line = key.data()["content"].as_str().unwrap().to_owned();
    assert!(line.starts_with(&sim.guest_host_key(110).unwrap()), "{line}");
    // Through the node only: a channel to its port 22.
    assert!(api.session.open_tcp(&address, 22, deadline()).is_ok());
    assert!(api.session.open_tcp("192.0.2.250", 22, deadline()).is_err());
    assert!(
        sim.requests()
            .iter()
            .any(|r| matches!(&r.what, What::Open { host, accepted: true, .. } if *host == address))
    );
}

#[test]
fn unknown_commands_and_strangers() {
    let sim = Sim::start();
    let api = Api::new(&sim);
    let out = api.session.exec("zpool list", b"", deadline()).unwrap();
    assert_eq!(out.status, ExecStatus::Code(127));
    let list = api.session.exec("cat /etc/pve/.vmlist", b"", deadline()).unwrap();
    let list: serde_json::Value = serde_json::from_slice(&list.stdout).unwrap();
    assert_eq!(list["ids"]["200"]["type"], "lxc");
    assert_eq!(list["ids"]["9002"]["node"], "prom");

    let key = pve_sim::keys::generate("stranger").unwrap();
    let path = sim.dir().join("stranger");
    pve_sim::node::write_private(&path, &key).unwrap();
    let target = Target {
        host: sim.address(),
        user: Some("root".to_owned()),
        host_key: HostKeyPolicy::Pinned(sim.host_key()),
        identities: vec![path],
        proxy: None,
    };
    let refused = Session::connect_in(&target, &environment(), Ui::silent(), deadline()).unwrap_err();
    assert_eq!(refused.kind(), Kind::Unreachable);
}

#[test]
fn http_manners() {
    let sim = Sim::start();
    let mut api = Api::new(&sim);
    let none = api.raw("GET", "/version", "", "").unwrap();
    assert_eq!((none.status, none.reason.as_str(), none.close), (401, "No ticket", true));
    let bad = api.raw("GET", "/version", "", "Cookie: PVEAuthCookie=garbage\r\n").unwrap();
    assert_eq!((bad.status, bad.reason.as_str()), (401, "Authentication failed!"));
    let encoded = format!("Cookie: PVEAuthCookie={}\r\n", common::encode(&api.ticket.clone()));
    assert_eq!(api.raw("GET", "/version", "", &encoded).unwrap().status, 200);
    let unknown = api.get("/nosuch");
    assert_eq!((unknown.status, unknown.close), (501, true));
    assert_eq!(unknown.reason, "Method 'GET /nosuch' not implemented");
    for n in 1..=100 {
        assert_eq!(api.get("/version").close, n == 100, "request {n}");
    }
    let ticket = api.ticket.clone();
    let renewed = api.send("POST", "/access/ticket", &[("username", "root@pam"), ("password", &ticket)]);
    assert!(renewed.data()["ticket"].as_str().unwrap().starts_with("PVE:root@pam:"));
    sim.node().expire_tickets();
    assert_eq!(api.get("/version").status, 401);
}

#[test]
fn faults() {
    let sim = Sim::start();
    let mut api = Api::new(&sim);
    sim.inject(Fault::Answer {
        method: "POST".to_owned(),
        path: "/clone".to_owned(),
        status: 500,
        message: "no quorum".to_owned(),
        times: 1,
    });
    let refused = api.send("POST", "/nodes/prom/qemu/9002/clone", &[("newid", "111")]);
    assert_eq!((refused.status, refused.reason.as_str()), (500, "no quorum"));
    sim.inject(Fault::TaskWarnings { kind: "qmclone".to_owned(), count: 1 });
    assert_eq!(api.task("POST", "/nodes/prom/qemu/9002/clone", &[("newid", "111")]).0, "WARNINGS: 1");
    sim.clear_faults();
    sim.inject(Fault::LockTimeout { vmid: 111, times: 1 });
    let locked = api.send("PUT", "/nodes/prom/qemu/111/config", &[("cores", "1")]);
    assert_eq!(locked.message(), "can't lock file '/var/lock/qemu-server/lock-111.conf' - got timeout\n");
    assert_eq!(api.send("PUT", "/nodes/prom/qemu/111/config", &[("cores", "1")]).status, 200);
    // The link is cut when the request arrives; the work is done all the same.
    sim.inject(Fault::DropLink { after: 0, done: true });
    let header = format!("Cookie: PVEAuthCookie={}\r\n", api.ticket.clone());
    assert!(api.raw("PUT", "/nodes/prom/qemu/111/config", "cores=2", &header).is_none());
    assert_eq!(sim.config(111).unwrap().get("cores"), Some("2"));
    sim.inject(Fault::LoginRefused);
    assert!(try_session(&sim).is_err());
    sim.clear_faults();
    let mut api = Api::new(&sim);
    assert_eq!(api.get("/version").status, 200);
    sim.inject(Fault::ForwardingForbidden);
    assert!(api.session.open_tcp("127.0.0.1", 85, deadline()).is_err());
}

/// The genuine daemon forgets who asks when a request's head and body come apart.
#[test]
fn one_request_one_write() {
    use std::io::{Read, Write};
    let sim = Sim::start();
    sim.inject(Fault::TwoWrites);
    let mut api = Api::new(&sim);
    let clone = [("newid", "110")];
    assert_eq!(api.task("POST", "/nodes/prom/qemu/9002/clone", &clone).0, "OK");
    let mut stream = api.session.open_tcp("127.0.0.1", 85, deadline()).unwrap();
    stream.set_deadline(deadline());
    let body = "cores=1";
    let head = format!(
        "PUT /api2/json/nodes/prom/qemu/110/config HTTP/1.1\r\nHost: localhost\r\nCookie: PVEAuthCookie={}\r\n\
         Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n",
        api.ticket,
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    std::thread::sleep(Duration::from_millis(50));
    stream.write_all(body.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 500 user name not set\r\n"), "{answer}");
}

#[test]
fn state_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let open = || pve_sim::node::Node::open(dir.path(), pve_sim::world::World::default()).unwrap();
    let node = open();
    node.change(|d| {
        d.vms.get_mut(&104).unwrap().main.insert("cores".to_owned(), "3".to_owned());
        d.vms.remove(&109);
    });
    let key = node.host_key().to_owned();
    drop(node);
    let again = open();
    assert_eq!(again.host_key(), key);
    assert_eq!(again.read(|d| d.vms[&104].get("cores").map(str::to_owned)).as_deref(), Some("3"));
    assert!(again.read(|d| !d.vms.contains_key(&109) && d.is_running(104)));
    assert!(dir.path().join("etc/pve/nodes/prom/qemu-server/104.conf").exists());
}
