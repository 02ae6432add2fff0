//! What waits for a VM: `connect --wait` and `wait-ssh`. What time does not mend ends them at once, with one login on the
//! node at most.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can not go on must stop")]

mod common;

use std::{
    io::{BufRead, BufReader},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Child, Stdio},
    time::Duration,
};

use common::{Bench, Ran};
use fleet_core::deadline::Deadline;
use pve_sim::{faults::Fault, log::What};
use rustix::net::{self, AddressFamily, SocketType};

/// What a run came to, and how many connections the node had of it.
fn counted(bench: &Bench, args: &[&str], set: &[(&str, &str)]) -> (Ran, usize) {
    let before = bench.sim.connections();
    let mut command = bench.command(args);
    let ran = bench.finish(command.envs(set.iter().copied()));
    (ran, bench.sim.connections() - before)
}

fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Deadline::secs(30);
    while !holds() {
        assert!(!deadline.passed(), "{what}: it never came");
        deadline.sleep(Duration::from_millis(5));
    }
}

fn closed_port() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string()
}

#[test]
fn connect_waits_for_nothing_that_time_does_not_mend() {
    let bench = Bench::new();
    let wait = |vm: &'static str| ["connect", vm, "--wait", "86400"];
    for (vm, code) in [("nobody", 5), ("777", 5), ("9002", 5), ("200", 4), ("dns", 4)] {
        let (ran, connections) = counted(&bench, &wait(vm), &[]);
        assert_eq!((ran.code, connections), (code, 1), "{vm}: {}", ran.err);
    }
    bench.sim.inject(Fault::LoginRefused);
    for route in ["node", "direct", "auto"] {
        let (ran, connections) = counted(&bench, &wait("104"), &[("FLEET_ROUTE", route)]);
        assert_eq!((ran.code, connections), (6, 1), "{}", ran.err);
        assert!(ran.err.contains("refused to let root log in"), "{}", ran.err);
    }
    bench.sim.clear_faults();
    bench.sim.expect_another_host_key();
    let (ran, connections) = counted(&bench, &wait("104"), &[]);
    assert_eq!((ran.code, connections), (6, 1), "{}", ran.err);
    assert!(ran.err.contains("the host key of"), "{}", ran.err);
    bench.sim.forget_host_key();
    let (ran, connections) = counted(&bench, &wait("104"), &[]);
    assert_eq!((ran.code, connections), (6, 1), "{}", ran.err);
    let port = closed_port();
    let there = ["connect", "127.0.0.1", &port, "--wait", "86400"];
    let (ran, connections) = counted(&bench, &there, &[("FLEET_ROUTE", "auto")]);
    assert_eq!((ran.code, connections), (6, 1), "{}", ran.err);
    // A node that is not there at all is not waited for as long as a VM.
    let gone = format!("127.0.0.1:{port}");
    let (ran, _) = counted(&bench, &wait("104"), &[("PROXMOX_HOST", &gone)]);
    assert_eq!(ran.code, 6, "{}", ran.err);
}

#[test]
fn connect_outlives_a_node_whose_sshd_starts_again() {
    let bench = Bench::new();
    let socket = net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    net::bind(&socket, &SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let host = SocketAddr::try_from(net::getsockname(&socket).unwrap()).unwrap().to_string();
    let known = format!("[127.0.0.1]:{} {}\n", host.rsplit(':').next().unwrap(), bench.sim.host_key());
    std::fs::write(bench.sim.known_hosts(), known).unwrap();
    let node = bench.sim.address();
    std::thread::spawn(move || {
        // Refused until the tool has been at it.
        std::thread::sleep(Duration::from_millis(1500));
        net::listen(&socket, 16).unwrap();
        for peer in TcpListener::from(socket).incoming() {
            let (peer, there) = (peer.unwrap(), TcpStream::connect(&node).unwrap());
            for (mut from, mut to) in [(peer.try_clone().unwrap(), there.try_clone().unwrap()), (there, peer)]
            {
                std::thread::spawn(move || {
                    // Either end may go first.
                    let _ = std::io::copy(&mut from, &mut to);
                    let _ = to.shutdown(std::net::Shutdown::Both);
                });
            }
        }
    });
    let mut command = bench.std_command(&["connect", "104", "--wait", "600"]);
    command.env("PROXMOX_HOST", &host);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    assert!(first_line(&mut child).starts_with("SSH-2.0-"));
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
}

/// The first line that it says.
fn first_line(child: &mut Child) -> String {
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    line
}

#[test]
fn connect_waits_for_a_vm_that_starts_and_outlives_a_lost_link() {
    let bench = Bench::new();
    bench.clone_110();
    let asked = || bench.sim.calls().iter().filter(|call| call.contains("/qemu/110/status/current")).count();
    let (before, connections) = (asked(), bench.sim.connections());
    let mut command = bench.std_command(&["connect", "110", "--wait", "600"]);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    until("a look at the VM", || asked() > before);
    bench.sim.inject(Fault::DropLinkAt { method: "GET".into(), path: "/qemu/110".into(), done: false });
    until("a new connection", || bench.sim.connections() > connections + 1);
    bench.ok(&["start", "110"]);
    assert!(first_line(&mut child).starts_with("SSH-2.0-"));
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
}

#[test]
fn wait_ssh_outlives_a_lost_link() {
    let bench = Bench::new();
    bench.clone_110();
    bench.ok(&["start", "110"]);
    let address = bench.ok(&["get-ip", "110", "--timeout", "20"]);
    bench.ok(&["stop", "110"]);
    let tries = || {
        let is_try = |what: &What| matches!(what, What::Exec { command, .. } if command.contains("perl "));
        bench.sim.requests().iter().filter(|r| is_try(&r.what)).count()
    };
    let (before, connections) = (tries(), bench.sim.connections());
    let mut command = bench.std_command(&["wait-ssh", address.trim(), "600"]);
    let child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    // So many that it has been seen whether the connection is one still: it is, and is kept.
    until("some tries", || tries() > before + 10);
    assert_eq!(bench.sim.connections(), connections + 1);
    bench.sim.node().cut.send_modify(|n| *n += 1);
    until("a new connection", || bench.sim.connections() > connections + 1);
    bench.ok(&["start", "110"]);
    let output = child.wait_with_output().unwrap();
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && err.contains("SSH answers on"), "{err}");
}

#[test]
fn a_node_that_refuses_is_asked_once_while_the_straight_way_is_tried() {
    let bench = Bench::new();
    bench.sim.inject(Fault::LoginRefused);
    let port = closed_port();
    let args = ["wait-ssh", "127.0.0.1", "3", "--port", &port];
    let set = |route| [("FLEET_ROUTE", route)];
    let (ran, connections) = counted(&bench, &args, &set("auto"));
    assert_eq!((ran.code, connections), (8, 1), "{}", ran.err);
    assert!(
        ran.err.contains("through the node: ") && ran.err.contains("refused to let root log in"),
        "{}",
        ran.err
    );
    let (ran, connections) = counted(&bench, &args, &set("node"));
    assert_eq!((ran.code, connections), (6, 1), "{}", ran.err);
}

#[test]
fn wait_ssh_logs_in_as_soon_as_the_keys_are_there() {
    let bench = Bench::new();
    bench.clone_110();
    bench.ok(&["cloudinit-config", "110", pve_sim::testing::OPERATOR_PUBLIC.trim()]);
    bench.ok(&["cloudinit-drive", "110"]);
    bench.ok(&["start", "110"]);
    let address = bench.ok(&["get-ip", "110", "--timeout", "20"]);
    let key = bench.sim.guest_host_key(110).unwrap();
    let users = || {
        bench.sim.node().change(|d| {
            let running = d.guests.get_mut(&110).and_then(|guest| guest.running.as_mut());
            std::mem::take(&mut running.unwrap().system.users)
        })
    };
    // Up to the end of the wait.
    let with_keys = users();
    let ran = bench.run(&["wait-ssh", address.trim(), "3", "root", "--host-key", &key]);
    assert_eq!(ran.code, 6, "{}", ran.err);
    assert!(ran.err.contains("up to the end of the wait\n"), "{}", ran.err);
    // cloud-init is slower than sshd.
    let mut command = bench.std_command(&["wait-ssh", address.trim(), "600", "root", "--host-key", &key]);
    let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    let mut seen = String::new();
    let mut with_keys = Some(with_keys);
    for line in lines {
        seen += &line;
        if line.contains("it refuses to let root in") {
            bench.sim.node().change(|d| {
                let running = d.guests.get_mut(&110).and_then(|guest| guest.running.as_mut());
                running.unwrap().system.users = with_keys.take().unwrap();
            });
        }
    }
    assert!(child.wait().unwrap().success() && with_keys.is_none(), "{seen}");
}
