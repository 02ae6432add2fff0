//! `proxmox-ops wait-ssh`

use std::{
    io::Read,
    net::IpAddr,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::Duration,
};

use clap::Args;
use fleet_core::{
    Error, Kind, Result, again,
    child::Command,
    deadline::Deadline,
    ssh::{HostKeyPolicy, Session, Stream, Target},
    types::UserName,
    ui::{self, Ui},
};

use crate::{
    cluster::Cluster,
    context::Context,
    links::Links,
    node::Node,
    relay, route,
    settings::{Route, Settings},
};

/// How soon after a failure the port is tried again: it is noticed within 300 ms of opening.
const PAUSE: Duration = Duration::from_millis(100);
/// How long one try to connect may take, beside those after it.
const TRY: Duration = Duration::from_secs(2);
/// How soon a straight try that is not answered has the next one beside it: who drops what is not welcome yet would
/// be heard only when TCP repeats itself, after a second.
const NEXT: Duration = Duration::from_millis(150);
/// How soon a node that is lost is connected to again, at first and at most: who comes more often is shut out by a
/// newer sshd (PerSourcePenalties).
const AGAIN: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(8)];
/// After so many failures in a row through the node it is seen whether the connection to it is one still.
const FAILURES: u32 = 8;

/// Wait until SSH answers at an address
#[derive(Debug, Args)]
pub struct WaitSsh {
    /// Address
    ip: IpAddr,
    /// Seconds to wait
    #[arg(default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout: u64,
    /// Also log in as this user
    #[arg(value_name = "USER")]
    login: Option<UserName>,
    /// TCP port
    #[arg(long, default_value_t = 22, value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
    /// The host key that it must have: one OpenSSH public key line
    #[arg(long, value_name = "KEY", value_parser = public_key)]
    host_key: Option<String>,
}

impl WaitSsh {
    /// Runs it.
    pub fn run(&self, cx: &Context) -> Result<()> {
        let (ip, port) = (self.ip, self.port);
        cx.ui.step(format!("Waiting for SSH on {ip} port {port}..."));
        let through = match cx.settings.route {
            Route::Direct => Through::Not,
            // What has to be gone through may have to ask first.
            Route::Node if ui::can_ask() => Through::Over(links(cx)?),
            Route::Node | Route::Auto => Through::Connect,
        };
        let mut deadline = Deadline::secs(self.timeout);
        let mut ways = Ways::begin(cx, (ip, port), deadline, through);
        let (mut last, mut no_way) = (None, None);
        let banner = loop {
            match ways.told.recv_timeout(deadline.left().min(PAUSE)) {
                Ok(Told::Open(stream)) => match banner(stream, deadline.at_most(Duration::from_secs(5))) {
                    Ok(banner) => break banner,
                    Err(e) => {
                        last = Some(e);
                        ways.talking.store(false, Ordering::Relaxed);
                    }
                },
                Ok(Told::Closed(e)) => last = Some(e),
                Ok(Told::NoWay(e)) => {
                    let (mut error, mut through) = (e, Through::Not);
                    // Somebody who sits there may know the host, or the key's passphrase; how long that takes is not
                    // counted.
                    let left = deadline.left();
                    if error.is_ssh_refusal() && ui::can_ask() {
                        match links(cx) {
                            Ok(links) => through = Through::Over(links),
                            Err(e) => error = e,
                        }
                        deadline = Deadline::after(left);
                    }
                    let is_none = matches!(through, Through::Not);
                    if is_none && (cx.settings.route == Route::Node || error.kind() == Kind::Interrupted) {
                        return Err(error);
                    }
                    if is_none {
                        cx.ui.detail(error.chain());
                        no_way = Some(error);
                    }
                    ways = Ways::begin(cx, (ip, port), deadline, through);
                }
                Err(_) => {}
            }
            if deadline.passed() {
                let error = deadline.error(format_args!("SSH on {ip} port {port}"));
                let error = match last {
                    Some(last) => error.now(format!("the last try: {}", last.chain())),
                    None => error.now("nothing answered"),
                };
                let error = no_way.iter().fold(error, |error, no_way| {
                    let error = error.now(format!("through the node: {}", no_way.chain()));
                    no_way.hints().iter().fold(error, |error, hint| error.hint(hint.as_str()))
                });
                return Err(
                    error.hint(format!("is it the VM's address? `{}` tells", again::ops("get-ip VMID")))
                );
            }
            fleet_core::interrupt::check()?;
        };
        drop(ways);
        cx.ui.detail(format!("it says: {banner}"));
        self.prove(cx, deadline)?;
        cx.ui.done(format!("SSH answers on {ip} port {port}"));
        if cx.ui.json() {
            cx.ui.json_line(&serde_json::json!({ "address": ip, "port": port, "banner": banner }))?;
        }
        Ok(())
    }

    /// Checks the host key, and logs in, where these were asked for.
    fn prove(&self, cx: &Context, deadline: Deadline) -> Result<()> {
        if self.login.is_none() && self.host_key.is_none() {
            return Ok(());
        }
        let me = std::env::current_exe()
            .map_err(|e| Error::failed("can not tell where this program is").caused_by(e))?;
        let proxy = (cx.settings.route != Route::Direct).then(|| {
            let me = Command::new(me).arg("--repo").arg(repo_of(cx)).args(["--host", &cx.settings.host]);
            let user = cx.settings.user.iter().flat_map(|user| ["--user", user.as_str()]);
            me.args(user).args(["--quiet", "connect"]).arg(self.ip.to_string()).arg(self.port.to_string())
        });
        let host = if self.port == 22 { self.ip.to_string() } else { format!("[{}]:{}", self.ip, self.port) };
        let target = Target {
            host,
            user: self.login.as_ref().map(ToString::to_string),
            host_key: match &self.host_key {
                Some(key) => HostKeyPolicy::Pinned(key.clone()),
                None => HostKeyPolicy::KnownHosts,
            },
            identities: Vec::new(),
            proxy,
        };
        let limit = |deadline: Deadline| deadline.at_most(Duration::from_secs(30));
        let Some(login) = &self.login else {
            return Session::check_host_key(&target, cx.ui, limit(deadline)).map(drop);
        };
        // How long somebody thinks about what they are asked is not counted.
        let left = deadline.left();
        let refused = match Session::connect(&target, cx.ui, limit(deadline)) {
            Err(error) if error.is_login_refused() => error,
            done => return done.map(drop),
        };
        cx.ui
            .say(format!("  it refuses to let {login} in: cloud-init may still put the keys in their place"));
        let_in_later(refused, Deadline::after(left), |deadline| {
            ui::unasked(|| Session::connect(&target, cx.ui, limit(deadline)).map(drop))
        })
    }
}

/// Tries a login that was refused again, until it works or the deadline passes: sshd may answer before cloud-init has put
/// the keys in their place.
fn let_in_later(
    mut refused: Error,
    deadline: Deadline,
    mut log_in: impl FnMut(Deadline) -> Result<()>,
) -> Result<()> {
    loop {
        let rest = deadline.at_most(refused.respite().max(AGAIN[0]));
        while !rest.passed() {
            fleet_core::interrupt::check()?;
            rest.sleep(PAUSE);
        }
        if deadline.passed() {
            let seconds = deadline.limit().as_secs();
            return Err(refused.now(format!("it has refused it for {seconds} s, up to the end of the wait")));
        }
        match log_in(deadline) {
            Err(error) if error.is_login_refused() => refused = error,
            // It is started anew, or says nothing to who has come too often.
            Err(error) if may_pass(&error) => {}
            // What a person has to be asked for was refused already.
            Err(error) if error.is_ssh_refusal() && !error.is_host_key_mismatch() => return Err(refused),
            done => return done,
        }
    }
}

/// One OpenSSH public key line.
fn public_key(text: &str) -> Result<String> {
    match ssh_key::PublicKey::from_openssh(text.trim()) {
        Ok(_) => Ok(text.trim().to_owned()),
        Err(e) => {
            Err(Error::usage("not an OpenSSH public key line, such as ssh-ed25519 AAAA...").caused_by(e))
        }
    }
}

fn repo_of(cx: &Context) -> std::path::PathBuf {
    // …/vms/definitions.nix
    cx.definitions.path.ancestors().nth(2).map(std::path::Path::to_owned).unwrap_or_default()
}

/// What a try came to.
enum Told {
    /// A connection.
    Open(Box<dyn Stream>),
    /// None.
    Closed(Error),
    /// There can be none through the node: it refuses us, or has to be gone through and is not reached.
    NoWay(Error),
}

/// Whether there is a way through the node.
enum Through {
    /// None.
    Not,
    /// One that is still to be made, where nobody is asked anything.
    Connect,
    /// One that there is.
    Over(Arc<Links>),
}

/// Connects to the node that is gone through. In the thread that the program waits for: it may ask.
fn links(cx: &Context) -> Result<Arc<Links>> {
    let links = Arc::new(Links::connect(&cx.settings, cx.ui)?);
    Cluster::over(&links, cx.ui).base()?;
    Ok(links)
}

/// The ways to the address, tried side by side until this is dropped.
struct Ways {
    told: mpsc::Receiver<Told>,
    /// Whether something has answered that is being listened to: nothing else is begun meanwhile.
    talking: Arc<AtomicBool>,
    over: Arc<AtomicBool>,
}

impl Drop for Ways {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

/// Tells of tries.
#[derive(Clone)]
struct Teller {
    tell: mpsc::Sender<Told>,
    talking: Arc<AtomicBool>,
    over: Arc<AtomicBool>,
    to: (IpAddr, u16),
    deadline: Deadline,
}

impl Ways {
    fn begin(cx: &Context, to: (IpAddr, u16), deadline: Deadline, through: Through) -> Ways {
        let (tell, told) = mpsc::channel();
        let (talking, over) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
        let teller = Teller { tell, talking: Arc::clone(&talking), over: Arc::clone(&over), to, deadline };
        let (route, settings, ui) = (cx.settings.route, cx.settings.clone(), cx.ui);
        if route != Route::Node {
            let teller = teller.clone();
            std::thread::spawn(move || teller.straight());
        }
        let links = match through {
            Through::Not => return Ways { told, talking, over },
            Through::Connect => None,
            Through::Over(links) => Some(links),
        };
        std::thread::spawn(move || {
            if route == Route::Auto {
                // Where the straight way is open the node is not troubled.
                std::thread::sleep(NEXT);
            }
            ui::unasked(|| teller.through(&settings, links, ui));
        });
        Ways { told, talking, over }
    }
}

impl Teller {
    /// Tells, and gives whether it was a success.
    fn tell(&self, tried: Result<Box<dyn Stream>>) -> bool {
        let open = tried.is_ok();
        if open {
            self.talking.store(true, Ordering::Relaxed);
        }
        // Nobody listens any more once it is over.
        let _ = self.tell.send(tried.map_or_else(Told::Closed, Told::Open));
        open
    }

    /// Waits while something is listened to; whether to go on.
    fn goes_on(&self) -> bool {
        let is_over = || self.over.load(Ordering::Relaxed) || self.deadline.passed();
        while self.talking.load(Ordering::Relaxed) && !is_over() {
            std::thread::sleep(Duration::from_millis(20));
        }
        !is_over()
    }

    /// Straight tries, of which several may be under way.
    fn straight(&self) {
        while self.goes_on() {
            let (ended, end) = mpsc::channel();
            let (one, limit) = (self.clone(), self.deadline.at_most(TRY));
            std::thread::spawn(move || {
                let mut never = || Err(Error::failed("the node is not asked"));
                one.tell(route::open(Route::Direct, &mut never, one.to, limit));
                let _ = ended.send(());
            });
            if end.recv_timeout(NEXT).is_ok() {
                self.deadline.sleep(PAUSE);
            }
        }
    }

    /// Tries through the node.
    fn through(&self, settings: &Settings, links: Option<Arc<Links>>, ui: Ui) {
        let mut cluster = links.map(|links| Cluster::over(&links, ui));
        let (mut reached, mut failures, mut again) = (cluster.is_some(), 0, AGAIN[0]);
        while self.goes_on() {
            let node = match &cluster {
                Some(cluster) => cluster.base(),
                None => Cluster::connect(settings, ui).and_then(|there| cluster.insert(there).base()),
            };
            let mut pause = PAUSE;
            match node {
                Ok(node) => {
                    (reached, again) = (true, AGAIN[0]);
                    failures = if self.tell(self.by(&node)) { 0 } else { failures + 1 };
                    if failures == FAILURES {
                        failures = 0;
                        // Where only nobody listens yet, the connection is as good as a new one.
                        if node.api.transport().exec("true", b"", Deadline::after(TRY)).is_err() {
                            cluster = None;
                        }
                    }
                }
                Err(e) if !may_pass(&e) || (settings.route == Route::Node && !reached) => {
                    // Nobody listens any more once it is over.
                    let _ = self.tell.send(Told::NoWay(e));
                    return;
                }
                Err(e) => {
                    self.tell(Err(e));
                    (cluster, pause) = (None, again);
                    again = (again * 2).min(AGAIN[1]);
                }
            }
            self.deadline.sleep(pause);
        }
    }

    /// By what waits on the node itself; where nothing may be run there, by a try of its sshd's.
    fn by(&self, node: &Rc<Node>) -> Result<Box<dyn Stream>> {
        let (address, port) = self.to;
        match relay::open_when_ready(&*node.api.transport(), &address.to_string(), port, self.deadline) {
            Ok(stream) => {
                node.ui.detail("what waits on the node has connected");
                Ok(stream)
            }
            Err(_) => {
                let mut there = || Ok(Rc::clone(node));
                route::open(Route::Node, &mut there, self.to, self.deadline.at_most(TRY))
            }
        }
    }
}

/// Whether time alone may mend the way to the node.
fn may_pass(error: &Error) -> bool {
    matches!(error.kind(), Kind::Unreachable | Kind::DeadlinePassed) && !error.is_ssh_refusal()
}

/// Reads the line that an SSH server begins with (RFC 4253, 4.2).
fn banner(mut stream: Box<dyn Stream>, deadline: Deadline) -> Result<String> {
    stream.set_deadline(deadline);
    let mut text = Vec::new();
    let mut buffer = [0; 256];
    loop {
        let line = text.split(|b| *b == b'\n').find(|line: &&[u8]| line.starts_with(b"SSH-"));
        if let Some(line) = line.filter(|_| text.contains(&b'\n')) {
            return Ok(String::from_utf8_lossy(line).trim_end().to_owned());
        }
        match stream.read(&mut buffer) {
            Ok(amount @ 1..) if text.len() < 8192 => text.extend_from_slice(&buffer[..amount]),
            Ok(_) => return Err(Error::new(Kind::Unreachable, "what listens there is no SSH server")),
            Err(e) => return Err(Error::new(Kind::Unreachable, "it does not say what it is").caused_by(e)),
        }
    }
}
