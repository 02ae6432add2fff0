//! From a host to another one of its cluster, against OpenSSH's own sshd: straight, through the first one, by a
//! relay, and with keys that are known to the user, to the cluster, or wrong.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod ssh_support;

use std::{fs, net::SocketAddr, sync::Arc};

use fleet_core::{
    Error, Kind,
    deadline::Deadline,
    ssh::{Peer, PeerWay, Session, Stream, Transport, Vouched},
    ui::Ui,
};
use ssh_support::Sshd;

const BOTH: &[PeerWay] = &[PeerWay::Straight, PeerWay::Through];
const THROUGH: &[PeerWay] = &[PeerWay::Through];

/// Two servers that one key may log in to, at one port of two addresses.
fn two(first: &str) -> Option<(Sshd, Sshd)> {
    let a = Sshd::start(first)?;
    let b = Sshd::start_at("", SocketAddr::from(([127, 0, 0, 2], a.address.port())))?;
    fs::copy(a.path("authorized"), b.path("authorized")).unwrap();
    Some((a, b))
}

/// bash's own sockets: no other program needed.
fn relay(first: &dyn Transport, host: &str, port: u16, deadline: Deadline) -> Result<Box<dyn Stream>, Error> {
    let line = format!("exec bash -c 'exec 3<>/dev/tcp/{host}/{port}; cat <&3 & cat >&3; kill $!'");
    first.open_exec_stream(&line, deadline)
}

fn vouched(lines: String) -> Peer {
    let vouched = Vouched { lines, source: "a:/etc/pve/nodes/b/ssh_known_hosts".into() };
    Peer { name: "b".into(), address: [127, 0, 0, 2].into(), vouched }
}

fn go(a: &Sshd, peer: &Peer, ways: &[PeerWay]) -> Result<String, Error> {
    let first = Arc::new(Session::connect_in(&a.target(), &a.env(), Ui::silent(), Deadline::secs(60))?);
    let session = first.peer(peer, ways, relay, Deadline::secs(60))?;
    // The first session is kept by what it carries.
    drop(first);
    let input = vec![7; 300_000];
    assert!(session.exec("cat", &input, Deadline::secs(60))?.stdout == input);
    Ok(session.host_key().to_owned())
}

#[test]
fn the_other_host_is_reached_straight_or_through_the_first() {
    let Some((a, b)) = two("") else { return };
    let known = vouched(format!("b {}\n", b.host_key()));
    assert!(b.host_key().starts_with(&go(&a, &known, BOTH).unwrap()));
    assert_eq!((a.connections(), b.connections()), (1, 1));
    go(&a, &known, THROUGH).unwrap();
    assert_eq!((a.connections(), b.connections()), (2, 2));
}

#[test]
fn a_relay_stands_in_where_the_first_forbids_forwarding() {
    let Some((a, b)) = two("AllowTcpForwarding no") else { return };
    go(&a, &vouched(format!("b {}\n", b.host_key())), THROUGH).unwrap();
    assert_eq!(b.connections(), 1);
}

#[test]
fn its_key_is_proven_whatever_the_way() {
    let Some((a, b)) = two("") else { return };
    let (right, wrong) = (b.host_key(), a.host_key());
    for ways in [BOTH, THROUGH] {
        let changed = go(&a, &vouched(format!("b {wrong}\n")), ways).unwrap_err();
        assert_eq!(changed.kind(), Kind::Unreachable);
        assert!(changed.message().contains("the host key of b has changed"), "{changed:?}");
        let unknown = go(&a, &vouched(String::new()), ways).unwrap_err();
        assert!(unknown.message().contains("the host key of b is not known"), "{unknown:?}");
    }
    // The user's own record, by the address, goes before what the cluster says.
    let port = a.address.port();
    let record = |key: &str| fs::write(a.path("known_hosts"), format!("[127.0.0.2]:{port} {key}\n")).unwrap();
    record(&right);
    go(&a, &vouched(format!("b {wrong}\n")), &[PeerWay::Straight]).unwrap();
    record(&wrong);
    go(&a, &vouched(format!("b {right}\n")), &[PeerWay::Straight]).unwrap_err();
    record(&format!("{right}\n@revoked [127.0.0.2]:{port} {right}"));
    let revoked = go(&a, &vouched(format!("b {right}\n")), &[PeerWay::Straight]).unwrap_err();
    assert!(revoked.message().contains("revoked"), "{revoked:?}");
}
