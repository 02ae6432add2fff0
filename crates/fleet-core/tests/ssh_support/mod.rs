//! OpenSSH's own sshd for tests: one `sshd -i` for each connection to a listener on 127.0.0.1, so that no daemon
//! is left behind whatever happens to the test, and no port is guessed.
#![allow(dead_code, unreachable_pub, reason = "each test program uses its part")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "tests only"
)]
#![allow(clippy::disallowed_methods, reason = "the sshd under test is no child of the tools")]

use std::{
    fs,
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
};

use fleet_core::{
    deadline::Deadline,
    ssh::{Environment, HostKeyPolicy, Session, Target},
    ui::Ui,
};
use tempfile::TempDir;

/// What is done to a connection on its way between client and server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// Both directions end after this many bytes from the server.
    CutAfter(u64),
    /// Nothing more is carried after this many bytes from the server, and nothing is closed.
    SilentAfter(u64),
}

struct Shared {
    stop: AtomicBool,
    children: Mutex<Vec<Child>>,
    sockets: Mutex<Vec<TcpStream>>,
    fault: Mutex<Fault>,
    from_server: AtomicU64,
    connections: AtomicU64,
}

/// See the module.
pub struct Sshd {
    pub dir: TempDir,
    pub address: SocketAddr,
    shared: Arc<Shared>,
    listener: Option<JoinHandle<()>>,
}

/// The login that sshd takes us for.
pub fn me() -> String {
    let id = Command::new("id").arg("-un").output().expect("id runs");
    String::from_utf8(id.stdout).expect("a name").trim().to_owned()
}

fn find_sshd() -> Option<PathBuf> {
    let found = ["/usr/sbin/sshd", "/usr/local/sbin/sshd", "/run/current-system/sw/bin/sshd"]
        .into_iter()
        .map(PathBuf::from)
        .find(|p| p.exists())
        .or_else(|| fleet_core::child::find_program("sshd"));
    if found.is_none() {
        assert!(
            std::env::var_os("FLEET_REQUIRE_ORACLES").is_none_or(|v| v != "1"),
            "FLEET_REQUIRE_ORACLES=1 and there is no sshd: apt-get install openssh-server"
        );
        println!("skipped: no sshd");
    }
    found
}

/// Makes a key pair; the private key is at the path that comes back, its public half beside it.
pub fn keygen(dir: &Path, name: &str, key_type: &str, passphrase: &str) -> PathBuf {
    let path = dir.join(name);
    let made = Command::new("ssh-keygen")
        .args(["-q", "-t", key_type, "-N", passphrase, "-C", "test", "-f"])
        .arg(&path)
        .stdin(Stdio::null())
        .output()
        .expect("ssh-keygen runs");
    assert!(made.status.success(), "{made:?}");
    path
}

pub fn public(private: &Path) -> String {
    fs::read_to_string(private.with_extension("pub")).expect("the public half").trim().to_owned()
}

impl Sshd {
    /// Starts one with `more` lines of sshd_config; `None` when there is no sshd here.
    pub fn start(more: &str) -> Option<Sshd> {
        Sshd::start_with(more, "ed25519")
    }

    pub fn start_with(more: &str, host_key_type: &str) -> Option<Sshd> {
        Sshd::listening(more, host_key_type, SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    /// As [`Sshd::start`], at an address of 127.0.0.0/8 and a port.
    pub fn start_at(more: &str, place: SocketAddr) -> Option<Sshd> {
        Sshd::listening(more, "ed25519", place)
    }

    fn listening(more: &str, host_key_type: &str, place: SocketAddr) -> Option<Sshd> {
        let sshd = find_sshd()?;
        // sshd insists on its privilege separation directory when it is run by root.
        if rustix::process::geteuid().is_root() {
            let _ = fs::create_dir_all("/run/sshd");
        }
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().to_owned();
        let host_key = keygen(&path, "host", host_key_type, "");
        let user_key = keygen(&path, "user", "ed25519", "");
        fs::write(path.join("authorized"), format!("{}\n", public(&user_key))).expect("written");
        let config = format!(
            "HostKey {host}\nAuthorizedKeysFile {dir}/authorized\nStrictModes no\nUsePAM no\nPidFile none\n\
             PermitRootLogin prohibit-password\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n\
             LogLevel VERBOSE\nSetEnv SHLVL=9\n{more}\n",
            host = host_key.display(),
            dir = path.display(),
        );
        fs::write(path.join("sshd_config"), config).expect("written");
        let listener = TcpListener::bind(place).expect("a port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            children: Mutex::default(),
            sockets: Mutex::default(),
            fault: Mutex::new(Fault::None),
            from_server: AtomicU64::new(0),
            connections: AtomicU64::new(0),
        });
        let thread = std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                for client in listener.incoming().flatten() {
                    if shared.stop.load(Ordering::SeqCst) {
                        return;
                    }
                    serve(client, &sshd, &path, &shared);
                }
            }
        });
        Some(Sshd { dir, address, shared, listener: Some(thread) })
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The host key's public line.
    pub fn host_key(&self) -> String {
        public(&self.path("host"))
    }

    /// What happens to connections from now on, the open ones too.
    pub fn fault(&self, fault: Fault) {
        *self.shared.fault.lock().unwrap() = fault;
    }

    /// How many bytes the server has sent, over all connections.
    pub fn sent_by_server(&self) -> u64 {
        self.shared.from_server.load(Ordering::SeqCst)
    }

    /// How many connections there have been.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Kills every sshd that serves a connection.
    pub fn kill_servers(&self) {
        for child in self.shared.children.lock().unwrap().iter_mut() {
            end(child);
        }
    }

    /// What sshd wrote to its log.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// A target with the host key pinned and the right key to log in with.
    pub fn target(&self) -> Target {
        Target {
            host: self.address.to_string(),
            user: Some(me()),
            host_key: HostKeyPolicy::Pinned(self.host_key()),
            identities: vec![self.path("user")],
            proxy: None,
        }
    }

    /// An environment in which nothing of the real user's counts.
    pub fn env(&self) -> Environment {
        Environment {
            ssh_config: Some("none".into()),
            known_hosts: Some(self.path("known_hosts")),
            home: Some(self.dir.path().to_owned()),
            user: Some(me()),
            ..Environment::default()
        }
    }

    pub fn connect(&self) -> Session {
        match Session::connect_in(&self.target(), &self.env(), Ui::silent(), Deadline::secs(20)) {
            Ok(session) => session,
            Err(e) => panic!("{e:?}\n{}", self.log()),
        }
    }
}

fn end(child: &mut Child) {
    // The session's process and its commands are its own group.
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw) {
        let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
    }
    let _ = child.kill();
    let _ = child.wait();
}

fn serve(client: TcpStream, sshd: &Path, dir: &Path, shared: &Arc<Shared>) {
    use std::os::unix::process::CommandExt;
    shared.connections.fetch_add(1, Ordering::SeqCst);
    // A TCP pair of our own on sshd's side: it asks its socket for the peer's address.
    let inner = TcpListener::bind("127.0.0.1:0").expect("a port");
    let ours = TcpStream::connect(inner.local_addr().unwrap()).expect("connected");
    let (theirs, _) = inner.accept().expect("accepted");
    for socket in [&client, &ours] {
        let _ = socket.set_nodelay(true);
        shared.sockets.lock().unwrap().push(socket.try_clone().unwrap());
    }
    let log = fs::OpenOptions::new().append(true).create(true).open(dir.join("log")).expect("the log opens");
    let child = Command::new(sshd)
        .args(["-i", "-e", "-f"])
        .arg(dir.join("sshd_config"))
        .stdin(Stdio::from(OwnedFd::from(theirs.try_clone().unwrap())))
        .stdout(Stdio::from(OwnedFd::from(theirs)))
        .stderr(log)
        .process_group(0)
        .spawn()
        .expect("sshd starts");
    shared.children.lock().unwrap().push(child);
    let (client2, ours2) = (client.try_clone().unwrap(), ours.try_clone().unwrap());
    let up = Arc::clone(shared);
    std::thread::spawn(move || carry(client, ours, &up, false));
    let down = Arc::clone(shared);
    std::thread::spawn(move || carry(ours2, client2, &down, true));
}

fn carry(mut from: TcpStream, mut to: TcpStream, shared: &Shared, from_server: bool) {
    let mut buffer = vec![0u8; 32 * 1024];
    let mut silent = false;
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        let mut n = n;
        let fault = *shared.fault.lock().unwrap();
        let so_far = shared.from_server.load(Ordering::SeqCst);
        match fault {
            Fault::CutAfter(limit) | Fault::SilentAfter(limit) if from_server => {
                let room = usize::try_from(limit.saturating_sub(so_far)).unwrap_or(usize::MAX);
                let over = n >= room;
                n = n.min(room);
                if to.write_all(&buffer[..n]).is_err() {
                    break;
                }
                shared.from_server.fetch_add(n as u64, Ordering::SeqCst);
                if over && matches!(fault, Fault::CutAfter(_)) {
                    break;
                }
                silent |= over;
                continue;
            }
            Fault::SilentAfter(limit) if so_far >= limit => silent = true,
            _ => {}
        }
        if silent {
            continue;
        }
        if from_server {
            shared.from_server.fetch_add(n as u64, Ordering::SeqCst);
        }
        if to.write_all(&buffer[..n]).is_err() {
            break;
        }
    }
    // One direction's end is the other's only where the connection is gone, not half closed; sshd never half
    // closes.
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.listener.take() {
            let _ = thread.join();
        }
        for socket in self.shared.sockets.lock().unwrap().drain(..) {
            let _ = socket.shutdown(Shutdown::Both);
        }
        for child in self.shared.children.lock().unwrap().iter_mut() {
            end(child);
        }
        if std::thread::panicking() {
            println!("sshd's log:\n{}", self.log());
        }
    }
}
