//! `proxmox-ops wait-ssh`

use std::{io::Read, net::IpAddr, rc::Rc, sync::mpsc, time::Duration};

use clap::Args;
use fleet_core::{
    Error, Kind, Result,
    child::Command,
    deadline::Deadline,
    ssh::{HostKeyPolicy, Session, Stream, Target},
    types::UserName,
};

use crate::{context::Context, node::Node, route, settings::Route};

/// How soon after a failure the port is tried again: it is noticed within 300 ms of opening.
const PAUSE: Duration = Duration::from_millis(100);
/// How long one try to connect may take. Straight ones go on beside those after them.
const TRY: Duration = Duration::from_secs(2);
/// How soon a straight try that is not answered has the next one beside it: who drops what is not welcome yet would
/// be heard only when TCP repeats itself, after a second.
const NEXT: Duration = Duration::from_millis(150);

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
        let deadline = Deadline::secs(self.timeout);
        let route = cx.settings.route;
        // A node that can not be reached is an error at once, and no VM that is not there yet.
        let node = match route {
            Route::Node => Some(cx.connect()?.base()?),
            Route::Direct | Route::Auto => None,
        };
        let (ip, port) = (self.ip, self.port);
        cx.ui.step(format!("Waiting for SSH on {ip} port {port}..."));
        let mut ways = Ways { cx, node, straight: Straight::default() };
        let banner = loop {
            let error = match ways.attempt(route, (ip, port), deadline) {
                Ok(banner) => break banner,
                Err(e) => e,
            };
            if deadline.passed() {
                return Err(deadline
                    .error(format_args!("SSH on {ip} port {port}"))
                    .now(format!("the last try: {}", error.chain()))
                    .hint("is it the VM's address? `proxmox-ops get-ip VMID` tells"));
            }
            fleet_core::interrupt::check()?;
            deadline.sleep(PAUSE);
        };
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
        let deadline = deadline.at_most(Duration::from_secs(30));
        match &self.login {
            Some(_) => Session::connect(&target, cx.ui, deadline).map(drop),
            None => Session::check_host_key(&target, cx.ui, deadline).map(drop),
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

/// The ways to the address, tried in turn.
struct Ways<'a> {
    cx: &'a Context,
    node: Option<Rc<Node>>,
    straight: Straight,
}

impl Ways<'_> {
    /// One try; gives what the server says first.
    fn attempt(&mut self, route: Route, to: (IpAddr, u16), deadline: Deadline) -> Result<String> {
        let stream = match route {
            Route::Direct => self.straight.attempt(to, deadline)?,
            Route::Node => self.through(to, deadline)?,
            Route::Auto => self.straight.attempt(to, deadline).or_else(|_| self.through(to, deadline))?,
        };
        banner(stream, deadline.at_most(Duration::from_secs(5)))
    }

    fn through(&mut self, to: (IpAddr, u16), deadline: Deadline) -> Result<Box<dyn Stream>> {
        let (cx, node) = (self.cx, &mut self.node);
        let mut connected = || -> Result<Rc<Node>> {
            if node.is_none() {
                *node = Some(cx.connect()?.base()?);
            }
            node.clone().ok_or_else(|| Error::failed("not connected"))
        };
        route::open(Route::Node, &mut connected, to, deadline.at_most(TRY))
    }
}

type Tried = Result<Box<dyn Stream>>;

/// Straight tries, of which several may be under way.
struct Straight {
    tell: mpsc::Sender<Tried>,
    told: mpsc::Receiver<Tried>,
}

impl Default for Straight {
    fn default() -> Straight {
        let (tell, told) = mpsc::channel();
        Straight { tell, told }
    }
}

impl Straight {
    /// Begins one more try. Gives the first that succeeds; an error when one fails, or none ends for a while.
    fn attempt(&self, to: (IpAddr, u16), deadline: Deadline) -> Tried {
        let (tell, limit) = (self.tell.clone(), deadline.at_most(TRY));
        std::thread::spawn(move || {
            let mut never = || Err(Error::failed("the node is not asked"));
            // Nobody listens any more once one has succeeded.
            drop(tell.send(route::open(Route::Direct, &mut never, to, limit)));
        });
        self.told
            .recv_timeout(deadline.left().min(NEXT))
            .unwrap_or_else(|_| Err(Error::new(Kind::Unreachable, "it does not answer")))
    }
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
