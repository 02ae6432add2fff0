//! Ways through a host: forwarded connections, relays, proxies, and what happens when they break.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod ssh_support;

use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    time::Duration,
};

use fleet_core::{
    Kind,
    child::Command,
    deadline::Deadline,
    ssh::{Environment, HostKeyPolicy, Session, Target, Transport, connect_tcp, forwarding_forbidden},
    ui::Ui,
};
use ssh_support::{Fault, Sshd, keygen, me, public};

fn limit() -> Deadline {
    Deadline::secs(180)
}

/// A server on 127.0.0.1 for one connection.
fn server(serve: impl FnOnce(TcpStream) + Send + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || serve(listener.accept().unwrap().0));
    port
}

fn echo(mut socket: TcpStream) {
    let mut reader = socket.try_clone().unwrap();
    let _ = std::io::copy(&mut reader, &mut socket);
}

#[test]
fn a_forwarded_connection_carries_bytes_and_ends_of_file() {
    let Some(sshd) = Sshd::start("") else { return };
    let port = server(|mut socket| {
        let mut all = Vec::new();
        socket.read_to_end(&mut all).unwrap();
        write!(socket, "got {}", all.len()).unwrap();
    });
    let session = sshd.connect();
    let mut stream = session.open_tcp("127.0.0.1", port, limit()).unwrap();
    stream.set_deadline(limit());
    stream.write_all(&vec![1; 8 << 20]).unwrap();
    stream.finish_writing().unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "got 8388608");
    assert_eq!(stream.read(&mut [0; 8]).unwrap(), 0);
    // The session is as good as before, and a stream outlives it.
    assert!(session.exec("true", b"", limit()).unwrap().success());
    let port = server(echo);
    let mut stream = session.open_tcp("127.0.0.1", port, limit()).unwrap();
    drop(session);
    stream.write_all(b"still").unwrap();
    let mut five = [0; 5];
    stream.read_exact(&mut five).unwrap();
    assert_eq!(&five, b"still");
}

#[test]
fn several_streams_and_commands_share_a_session_across_threads() {
    let Some(sshd) = Sshd::start("") else { return };
    let session = sshd.connect();
    let payload: Vec<u8> = (0..2_000_000u32).map(|i| i as u8).collect();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            let mut stream = session.open_tcp("127.0.0.1", server(echo), limit()).unwrap();
            let payload = &payload;
            scope.spawn(move || {
                let mut back = vec![0; 50_000];
                for piece in payload.chunks(50_000) {
                    stream.write_all(piece).unwrap();
                    stream.read_exact(&mut back).unwrap();
                    assert!(back == piece);
                }
            });
        }
        for i in 0..10 {
            let out = session.exec(&format!("echo {i}"), b"", limit()).unwrap();
            assert_eq!(out.stdout_text(), format!("{i}\n"));
        }
    });
    assert_eq!(sshd.connections(), 1);
}

#[test]
fn a_port_where_nothing_listens_is_unreachable_and_the_session_goes_on() {
    let Some(sshd) = Sshd::start("") else { return };
    let session = sshd.connect();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let error = session.open_tcp("127.0.0.1", port, limit()).map(|_| ()).unwrap_err();
    assert_eq!(error.kind(), Kind::Unreachable);
    assert!(
        error.message().starts_with(&format!("127.0.0.1 can not connect to 127.0.0.1:{port}")),
        "{error:?}"
    );
    assert!(!forwarding_forbidden(&error));
    assert!(session.exec("true", b"", limit()).unwrap().success());
}

#[test]
fn forbidden_forwarding_is_recognised_and_a_relay_stands_in() {
    let Some(sshd) = Sshd::start("AllowTcpForwarding no") else { return };
    let session = sshd.connect();
    let error = session.open_tcp("127.0.0.1", 9, limit()).map(|_| ()).unwrap_err();
    assert!(forwarding_forbidden(&error), "{error:?}");
    assert!(error.message().contains("administratively prohibited"), "{error:?}");
    let mut relay = session.open_exec_stream("head -c 4194304 /dev/zero >&2; cat", limit()).unwrap();
    relay.write_all(b"through the relay").unwrap();
    relay.finish_writing().unwrap();
    let mut answer = String::new();
    relay.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "through the relay");
    // A relay that can not run says why.
    let mut relay = session.open_exec_stream("no-such-program", limit()).unwrap();
    let error = relay.read(&mut [0; 8]).unwrap_err();
    assert!(
        error.to_string().contains("exited with 127") && error.to_string().contains("not found"),
        "{error}"
    );
}

#[test]
fn a_forwarded_read_gives_up_at_its_deadline() {
    let Some(sshd) = Sshd::start("") else { return };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let session = sshd.connect();
    let mut stream = session.open_tcp("127.0.0.1", listener.local_addr().unwrap().port(), limit()).unwrap();
    stream.set_deadline(Deadline::after(Duration::from_millis(150)));
    let error = stream.read(&mut [0; 8]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
    let error = stream.try_read(&mut [0; 8]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
    assert!(session.exec("true", b"", limit()).unwrap().success());
}

#[test]
fn an_opening_that_was_given_up_does_not_spoil_the_next() {
    let Some(sshd) = Sshd::start("") else { return };
    let session = sshd.connect();
    // The answer to the opening never comes: all that follows needs another connection.
    sshd.fault(Fault::SilentAfter(sshd.sent_by_server()));
    let soon = Deadline::after(Duration::from_millis(150));
    let error = session.open_tcp("127.0.0.1", server(echo), soon).map(|_| ()).unwrap_err();
    assert_eq!(error.kind(), Kind::DeadlinePassed);
    sshd.fault(Fault::None);
    let mut stream = session.open_tcp("127.0.0.1", server(echo), limit()).unwrap();
    stream.write_all(b"mine").unwrap();
    let mut four = [0; 4];
    stream.read_exact(&mut four).unwrap();
    assert_eq!(&four, b"mine");
    assert_eq!(session.exec("echo mine too", b"", limit()).unwrap().stdout, b"mine too\n");
}

/// A place whose connections are neither taken nor refused until `accept` is called on it.
fn undecided() -> (TcpListener, u16, Vec<TcpStream>) {
    use rustix::net::{AddressFamily, SocketType, bind, listen, socket};
    let fd = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&fd, &std::net::SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    listen(&fd, 1).unwrap();
    let listener = TcpListener::from(fd);
    let address = listener.local_addr().unwrap();
    // Its queue is full with these; the system drops what comes after.
    let mut queue = Vec::new();
    while let Ok(one) = TcpStream::connect_timeout(&address, Duration::from_millis(100)) {
        queue.push(one);
    }
    (listener, address.port(), queue)
}

#[test]
fn a_place_that_does_not_answer_holds_up_nothing_else() {
    let Some(sshd) = Sshd::start("") else { return };
    let session = sshd.connect();
    let mut first = session.open_tcp("127.0.0.1", server(echo), limit()).unwrap();
    let (listener, port, _queue) = undecided();
    let soon = || Deadline::after(Duration::from_millis(100));
    for _ in 0..3 {
        let error = session.open_tcp("127.0.0.1", port, soon()).map(|_| ()).unwrap_err();
        assert_eq!(error.kind(), Kind::DeadlinePassed);
    }
    assert_eq!(sshd.connections(), 1, "the same place is waited for on the same connection");
    // What was open stays open; what is new does not wait for the answer that is still to come.
    first.write_all(b"on").unwrap();
    first.read_exact(&mut [0; 2]).unwrap();
    assert!(session.exec("true", b"", limit()).unwrap().success());
    assert_eq!(sshd.connections(), 2);
    first.write_all(b"on").unwrap();
    first.read_exact(&mut [0; 2]).unwrap();
    // Once the place answers, whoever waits there is let in.
    let error = session.open_tcp("127.0.0.1", port, soon()).map(|_| ()).unwrap_err();
    assert_eq!(error.kind(), Kind::DeadlinePassed);
    listener.set_nonblocking(true).unwrap();
    while listener.accept().is_ok() {}
    session.open_tcp("127.0.0.1", port, limit()).unwrap();
    assert_eq!(sshd.connections(), 2);
}

#[test]
fn a_lost_connection_ends_reads_and_writes() {
    let Some(sshd) = Sshd::start("") else { return };
    let session = sshd.connect();
    let mut stream = session.open_tcp("127.0.0.1", server(echo), limit()).unwrap();
    stream.write_all(b"x").unwrap();
    stream.read_exact(&mut [0; 1]).unwrap();
    sshd.kill_servers();
    let error = stream.read(&mut [0; 8]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert!(error.to_string().contains("the connection to 127.0.0.1 was lost"), "{error}");
    assert!(stream.write_all(&[0; 100]).is_err());
}

#[test]
fn a_connection_without_an_ssh_server_behind_it_is_told_apart() {
    let refused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let target = |host: String| Target {
        host,
        user: Some("nobody".into()),
        host_key: HostKeyPolicy::KnownHosts,
        identities: vec![],
        proxy: None,
    };
    let env = Environment { ssh_config: Some("none".into()), ..Environment::default() };
    let connect = |host: String, deadline| {
        Session::connect_in(&target(host), &env, Ui::silent(), deadline).unwrap_err()
    };
    let error = connect(refused.to_string(), limit());
    assert_eq!(error.kind(), Kind::Unreachable);
    assert_eq!(error.message(), format!("{refused} refused the connection: nothing listens there"));
    assert!(error.hints()[0].contains("ssh -v -F none -p"), "{error:?}");

    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    let error = connect(address.to_string(), Deadline::secs(2));
    assert_eq!(error.kind(), Kind::Unreachable);
    assert!(error.message().contains("spoke no SSH within"), "{error:?}");

    let port = server(|mut socket| drop(socket.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")));
    let error = connect(format!("127.0.0.1:{port}"), limit());
    assert!(error.message().contains("the SSH key exchange failed"), "{error:?}");

    let error = connect("no-such-host.invalid".into(), limit());
    assert_eq!(error.kind(), Kind::Unreachable);
    assert!(error.message().contains("can not be resolved"), "{error:?}");
    assert_eq!(connect("-oProxyCommand=x".into(), limit()).kind(), Kind::Usage);
}

#[test]
fn a_server_that_speaks_nothing_of_ours_is_told_with_what_that_is() {
    let Some(sshd) = Sshd::start("KexAlgorithms sntrup761x25519-sha512@openssh.com") else { return };
    let error = Session::connect_in(&sshd.target(), &sshd.env(), Ui::silent(), limit()).unwrap_err();
    assert_eq!(error.kind(), Kind::Unreachable);
    assert!(error.hints().iter().any(|hint| hint.contains("KexAlgorithms curve25519-sha256,")), "{error:?}");
}

#[test]
fn a_server_that_vanishes_while_one_logs_in_is_unreachable() {
    let Some(sshd) = Sshd::start("") else { return };
    drop(sshd.connect());
    let length = sshd.sent_by_server();
    for cut in (0..length).step_by(101) {
        sshd.fault(Fault::CutAfter(sshd.sent_by_server() + cut));
        let error = Session::connect_in(&sshd.target(), &sshd.env(), Ui::silent(), limit());
        // The last bytes of a login are sshd's news about its host keys, which nobody waits for.
        match error {
            Err(e) => assert_eq!(e.kind(), Kind::Unreachable, "cut after {cut}: {e:?}"),
            Ok(_) => assert!(cut + 1500 > length, "cut after {cut} of {length}"),
        }
        sshd.fault(Fault::None);
    }
}

#[test]
fn a_server_that_takes_no_rsa_key_of_ours_is_told_with_the_way_out() {
    let Some(sshd) = Sshd::start("PubkeyAcceptedAlgorithms ssh-ed25519") else { return };
    let (rsa, user) = (keygen(&sshd.path("."), "rsa", "rsa", ""), sshd.path("user"));
    fs::write(sshd.path("authorized"), public(&rsa) + "\n").unwrap();
    let way_out = "a server that takes no rsa-sha2-512 (PubkeyAcceptedAlgorithms) refuses every RSA key: use an ed25519 key";
    for (identity, hinted) in [(rsa, true), (user, false)] {
        let target = Target { identities: vec![identity], ..sshd.target() };
        let error = Session::connect_in(&target, &sshd.env(), Ui::silent(), limit()).err().unwrap();
        assert!(error.is_login_refused(), "{error:?}");
        assert_eq!(error.hints().iter().any(|hint| hint == way_out), hinted, "{error:?}");
    }
}

#[test]
fn a_proxy_command_of_the_ssh_config_and_one_of_the_caller_carry_the_session() {
    let Some(sshd) = Sshd::start("") else { return };
    let ssh_config = |line: &str| {
        let config = sshd.path("config");
        let text = format!(
            "Host prom\n HostName 127.0.0.1\n Port {}\n User {}\n IdentityFile {}\n {line}\n",
            sshd.address.port(),
            me(),
            sshd.path("user").display()
        );
        fs::write(&config, text).unwrap();
        Environment { ssh_config: Some(config.into()), ..sshd.env() }
    };
    let target = Target { host: "prom".into(), user: None, identities: vec![], ..sshd.target() };
    let begun = sshd.path("begun");
    // bash's own sockets: no other program needed.
    let relay = "exec 3<>/dev/tcp/$0/$1; cat <&3 & cat >&3; kill $!";
    let words = format!("echo $0 $1 $2 > {}", begun.display());
    let env = ssh_config(&format!("ProxyCommand bash -c '{words}; {relay}' %h %p %r"));
    let session = Session::connect_in(&target, &env, Ui::silent(), limit()).unwrap();
    let input = vec![9; 1 << 20];
    assert!(session.exec("cat", &input, limit()).unwrap().stdout == input);
    assert_eq!(fs::read_to_string(&begun).unwrap(), format!("127.0.0.1 {} {}\n", sshd.address.port(), me()));

    let proxy = Command::new("bash").args(["-c", relay, "127.0.0.1", &sshd.address.port().to_string()]);
    let target = Target { proxy: Some(proxy), ..sshd.target() };
    let session = Session::connect_in(&target, &sshd.env(), Ui::silent(), limit()).unwrap();
    assert_eq!(session.exec("echo here", b"", limit()).unwrap().stdout, b"here\n");

    let env = ssh_config("ProxyCommand false");
    let target = Target { host: "prom".into(), user: None, identities: vec![], ..sshd.target() };
    let error = Session::connect_in(&target, &env, Ui::silent(), limit()).unwrap_err();
    assert_eq!(error.kind(), Kind::Unreachable);
    assert!(error.message().starts_with("prom did not answer through its ProxyCommand `false`"), "{error:?}");

    let env = ssh_config("ConnectTimeout 1\nProxyCommand sleep 300");
    let target = Target { host: "prom".into(), user: None, identities: vec![], ..sshd.target() };
    let error = Session::connect_in(&target, &env, Ui::silent(), limit()).unwrap_err();
    assert_eq!(error.kind(), Kind::Unreachable);
    assert_eq!(error.message(), "prom did not answer through its ProxyCommand `sleep 300` within 1 s");
}

#[test]
fn a_jump_host_carries_the_session() {
    let (Some(gate), Some(sshd)) = (Sshd::start(""), Sshd::start("")) else { return };
    let config = sshd.path("config");
    let known = sshd.path("gate-known");
    fs::write(&known, format!("[127.0.0.1]:{} {}\n", gate.address.port(), gate.host_key())).unwrap();
    let gate_port = gate.address.port();
    // `ssh -G` puts brackets around an address, and leaves the tokens to whoever runs the command.
    let jumps = ["gate".to_owned(), format!("{}@127.0.0.1:{gate_port}", me()), "%r@%n-gate".to_owned()];
    for (n, jump) in (1..).zip(jumps) {
        let text = format!(
            "Host gate prom-gate 127.0.0.1\n HostName 127.0.0.1\n Port {gate_port}\n User {me}\n IdentityFile {}\n IdentitiesOnly yes\n \
             UserKnownHostsFile {}\n\
             Host prom\n HostName 127.0.0.1\n Port {}\n User {me}\n IdentityFile {}\n ProxyJump {jump}\n",
            gate.path("user").display(),
            known.display(),
            sshd.address.port(),
            sshd.path("user").display(),
            me = me(),
        );
        fs::write(&config, text).unwrap();
        let env = Environment { ssh_config: Some(config.clone().into()), ..sshd.env() };
        let target = Target { host: "prom".into(), user: None, identities: vec![], ..sshd.target() };
        let session = Session::connect_in(&target, &env, Ui::silent(), limit()).unwrap();
        assert_eq!(session.exec("echo jumped", b"", limit()).unwrap().stdout, b"jumped\n");
        assert_eq!((gate.connections(), sshd.connections()), (n, n), "{jump}");
    }
}

#[test]
fn jump_hosts_follow_one_another() {
    let (Some(first), Some(second), Some(sshd)) = (Sshd::start(""), Sshd::start(""), Sshd::start("")) else {
        return;
    };
    let config = sshd.path("config");
    let known = sshd.path("gates-known");
    let line = |gate: &Sshd| format!("[127.0.0.1]:{} {}\n", gate.address.port(), gate.host_key());
    fs::write(&known, line(&first) + &line(&second)).unwrap();
    let host = |name: &str, at: &Sshd, more: &str| {
        format!(
            "Host {name}\n HostName 127.0.0.1\n Port {}\n User {}\n IdentityFile {}\n IdentitiesOnly yes\n \
             UserKnownHostsFile {}\n {more}\n",
            at.address.port(),
            me(),
            at.path("user").display(),
            known.display()
        )
    };
    let text =
        host("one", &first, "") + &host("two", &second, "") + &host("prom", &sshd, "ProxyJump one,two");
    fs::write(&config, text).unwrap();
    let env = Environment { ssh_config: Some(config.into()), ..sshd.env() };
    let target = Target { host: "prom".into(), user: None, identities: vec![], ..sshd.target() };
    let session = Session::connect_in(&target, &env, Ui::silent(), limit()).unwrap();
    assert_eq!(session.exec("echo far", b"", limit()).unwrap().stdout, b"far\n");
    assert_eq!((first.connections(), second.connections(), sshd.connections()), (1, 1, 1));
}

#[test]
fn a_straight_connection_is_a_stream_too() {
    let mut stream = connect_tcp("127.0.0.1", server(echo), limit()).unwrap();
    stream.write_all(b"abc").unwrap();
    stream.finish_writing().unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "abc");
    let refused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    assert_eq!(connect_tcp("127.0.0.1", refused, limit()).map(|_| ()).unwrap_err().kind(), Kind::Unreachable);
}
