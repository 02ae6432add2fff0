//! The stand-in's `ssh`: one connection for each command, as the genuine script has.

use std::{path::Path, process::Stdio, sync::Arc, time::Duration};

use anyhow::{Context, Result, bail};
use fleet_core::ui::Ui;
use russh::{
    ChannelMsg, Disconnect,
    client::{self, Handle, Handler},
    keys::{PrivateKey, PrivateKeyWithHashAlg, PublicKeyOrCertificate},
};
use tokio::process::{Child, Command};

use super::args::Args;
use crate::keys;

/// A connection may take this long. The genuine one has 10 s (`ConnectTimeout`), on a machine that is not the node, the
/// VMs and twenty operators at once.
const CONNECT: Duration = Duration::from_secs(60);

/// How often a connection is tried to a machine that is there.
const TRIES: u32 = 3;

struct Anyone;

impl Handler for Anyone {
    type Error = russh::Error;

    // The genuine script switches the check off (StrictHostKeyChecking=no, no known_hosts); so does its stand-in.
    async fn check_server_key(&mut self, _key: &PublicKeyOrCertificate) -> Result<bool, Self::Error> {
        Ok(true)
    }
}

/// Where to connect, and with which key.
pub(super) struct Client {
    ui: Ui,
    pub(super) user: String,
    host: String,
    port: u16,
    proxy: Option<String>,
    key: Arc<PrivateKey>,
}

/// What a command left.
#[derive(Debug, Default)]
pub(super) struct Output {
    pub(super) stdout: Vec<u8>,
    pub(super) stderr: Vec<u8>,
    pub(super) status: u32,
}

impl Output {
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// What it said on both, as `2>&1` has it.
    pub(super) fn all(&self) -> String {
        format!("{}{}", self.text(), String::from_utf8_lossy(&self.stderr))
    }
}

impl Client {
    pub(super) fn new(ui: Ui, args: &Args, key: &Path) -> Result<Client> {
        let text = std::fs::read_to_string(key).with_context(|| format!("can not read {}", key.display()))?;
        let key = Arc::new(keys::parse(&text)?);
        let option = |name: &str| {
            args.ssh_options.iter().find_map(|o| {
                let (key, value) = o.split_once(['=', ' '])?;
                key.eq_ignore_ascii_case(name).then(|| value.to_owned())
            })
        };
        let (user, host) = match args.host.rsplit_once('@') {
            Some((user, host)) => (user.to_owned(), host.to_owned()),
            None => ("root".to_owned(), args.host.clone()),
        };
        let host = option("HostName").unwrap_or(host);
        let port = args.port.or_else(|| option("Port")?.parse().ok()).unwrap_or(22);
        let proxy = option("ProxyCommand").filter(|p| p != "none");
        Ok(Client { ui, user: option("User").unwrap_or(user), host, port, proxy, key })
    }

    /// Runs a command on the machine, with this on its standard input.
    pub(super) async fn run(&self, command: &str, input: &[u8]) -> Result<Output> {
        self.run_within(1, command, input).await
    }

    /// The same on a machine that is there: it is connected to again where that fails for want of time on this one.
    pub(super) async fn run_surely(&self, command: &str, input: &[u8]) -> Result<Output> {
        self.run_within(TRIES, command, input).await
    }

    async fn run_within(&self, tries: u32, command: &str, input: &[u8]) -> Result<Output> {
        let (mut proxy, mut tried) = (None, 0);
        let session = loop {
            tried += 1;
            let session = tokio::time::timeout(CONNECT, self.connect(&mut proxy)).await.context("timed out");
            match session.flatten() {
                Ok(session) => break session,
                Err(error) if tried == tries => return Err(error),
                Err(_) => tokio::time::sleep(Duration::from_secs(1)).await,
            }
        };
        let output = exec(&session, command, input).await;
        // The machine may be gone already.
        let _ = session.disconnect(Disconnect::ByApplication, "", "").await;
        drop(session);
        if let Some(mut child) = proxy {
            let _ = child.kill().await;
        }
        output
    }

    async fn connect(&self, proxy: &mut Option<Child>) -> Result<Handle<Anyone>> {
        let config = Arc::new(client::Config { nodelay: true, ..client::Config::default() });
        let mut session = match &self.proxy {
            Some(command) => {
                let command = command
                    .replace("%h", &self.host)
                    .replace("%p", &self.port.to_string())
                    .replace("%r", &self.user)
                    .replace("%%", "%");
                let mut child = Command::new("sh")
                    .args(["-c", &format!("exec {command}")])
                    .stdin(Stdio::piped())
                    .stdout(Stdio::piped())
                    .kill_on_drop(true)
                    .spawn()
                    .with_context(|| format!("can not run the proxy command `{command}`"))?;
                let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
                    bail!("the proxy command started without its pipes");
                };
                *proxy = Some(child);
                client::connect_stream(config, tokio::io::join(stdout, stdin), Anyone).await
            }
            None => client::connect(config, (self.host.as_str(), self.port), Anyone).await,
        }
        .with_context(|| format!("ssh: connect to host {} port {}", self.host, self.port))?;
        // There is no known_hosts: so says every one of its connections.
        let known =
            format!("Warning: Permanently added '{}' (ED25519) to the list of known hosts.", self.host);
        self.ui.say(known);
        let key = PrivateKeyWithHashAlg::new(Arc::clone(&self.key), None);
        let login = session.authenticate_publickey(self.user.clone(), key).await.context("login")?;
        if !login.success() {
            bail!("{}@{}: Permission denied (publickey).", self.user, self.host);
        }
        Ok(session)
    }
}

async fn exec(session: &Handle<Anyone>, command: &str, input: &[u8]) -> Result<Output> {
    let mut channel = session.channel_open_session().await.context("can not open a channel")?;
    channel.exec(true, command).await.context("can not run a command")?;
    if !input.is_empty() {
        channel.data(input).await.context("can not send input")?;
    }
    channel.eof().await.context("can not end the input")?;
    let mut output = Output::default();
    let mut status = None;
    while let Some(message) = channel.wait().await {
        match message {
            ChannelMsg::Data { data } => output.stdout.extend_from_slice(&data),
            ChannelMsg::ExtendedData { data, .. } => output.stderr.extend_from_slice(&data),
            ChannelMsg::ExitStatus { exit_status } => status = Some(exit_status),
            _ => {}
        }
    }
    output.status = status.context("the connection was lost")?;
    Ok(output)
}
