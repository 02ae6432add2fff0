//! The command line of `pve-sim`.

use std::{path::PathBuf, process::ExitCode, sync::Arc};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand, ValueEnum};
use fleet_core::{
    child::quote,
    cli::finish,
    ui::{ColorChoice, Ui},
};

use crate::{
    keys,
    node::{Node, write_private},
    server,
    testing::{OPERATOR_PUBLIC, STANDINS, operator_identity},
    world::{Latency, World},
};

/// A simulated Proxmox VE node, for demos and tests
#[derive(Debug, Parser)]
#[command(name = "pve-sim", version)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Provision a VM on a simulated node with the real tools, and show what came of it
    Demo {
        /// Keep the scratch fleet and the node's state
        #[arg(long)]
        keep: bool,
    },
    /// Run a simulated node until it is interrupted
    Serve {
        /// Where its state is kept; it goes on from what is there
        #[arg(long, value_name = "DIR")]
        state: PathBuf,
        /// Port on 127.0.0.1 (default: any)
        #[arg(long, default_value_t = 0)]
        port: u16,
        /// Public key of somebody who may log in (default: the demo operator)
        #[arg(long, value_name = "LINE")]
        authorize: Vec<String>,
        /// How long things take
        #[arg(long, value_enum, default_value_t)]
        latency: Speed,
        /// What is to go wrong, one fault a line as JSON: `{"fault": "storage-full", "storage": "nvmeprom"}`
        #[arg(long, value_name = "FILE")]
        faults: Option<PathBuf>,
    },
    /// Replay recordings of a genuine node against the simulated one, and say what came out otherwise
    Replay {
        /// The folder of recordings, one exchange a line (*.jsonl)
        dir: PathBuf,
    },
    /// Carry bytes between the standard streams and a port: a proxy command for tests
    #[command(hide = true)]
    Relay {
        /// ADDRESS:PORT
        address: String,
    },
    /// The stand-in for nixos-anywhere
    #[command(name = "nixos-anywhere", disable_help_flag = true)]
    NixosAnywhere {
        /// The genuine command line
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum Speed {
    /// As fast as can be
    #[default]
    Fast,
    /// As on real machines
    Genuine,
}

/// Runs what the command line asks for.
pub fn main() -> ExitCode {
    let ui = Ui::new(ColorChoice::Auto, false, false, false);
    match Cli::parse().verb {
        Verb::NixosAnywhere { args } => crate::anywhere::main(args.into_iter()),
        Verb::Replay { dir } => finish(ui, replay(ui, &dir)),
        Verb::Relay { address } => finish(ui, relay(&address)),
        Verb::Demo { keep } => finish(ui, crate::demo::run(ui, keep)),
        Verb::Serve { state, port, authorize, latency, faults } => {
            let latency = match latency {
                Speed::Fast => Latency::fast(),
                Speed::Genuine => Latency::genuine(),
            };
            let lines =
                if authorize.is_empty() { vec![OPERATOR_PUBLIC.trim().to_owned()] } else { authorize };
            let world = World { latency, authorized_keys: lines, ..World::default() };
            finish(ui, serve(ui, &state, port, world, faults.as_deref()))
        }
    }
}

fn replay(ui: Ui, dir: &std::path::Path) -> Result<()> {
    let report = crate::replay::run(dir)?;
    Ok(ui.data(report.to_string().trim_end())?)
}

fn relay(address: &str) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .context("no threads")?;
    let outcome = runtime.block_on(async {
        let stream = tokio::net::TcpStream::connect(address).await.context("can not connect")?;
        let (mut from, mut to) = stream.into_split();
        let (mut stdin, mut stdout) = (tokio::io::stdin(), tokio::io::stdout());
        // When either side ends, so does the relay: closing its standard output is how the other side learns of it.
        tokio::select! {
            done = tokio::io::copy(&mut from, &mut stdout) => done,
            done = tokio::io::copy(&mut stdin, &mut to) => done,
        }
        .context("the connection was lost")
    });
    runtime.shutdown_background();
    outcome.map(drop)
}

fn serve(
    ui: Ui,
    state: &std::path::Path,
    port: u16,
    world: World,
    script: Option<&std::path::Path>,
) -> Result<()> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("can not start threads")?;
    runtime.block_on(async {
        let node = Arc::new(Node::open(state, world)?);
        if let Some(path) = script {
            let text =
                std::fs::read_to_string(path).with_context(|| format!("can not read {}", path.display()))?;
            let faults = crate::faults::script(&text)
                .map_err(|e| anyhow::anyhow!("{}, {e}", path.display()))?;
            for fault in faults {
                node.inject(fault);
            }
        }
        // What is printed has to hold in any directory.
        let state = state.canonicalize().with_context(|| format!("can not find {}", state.display()))?;
        let bin = state.join("bin");
        std::fs::create_dir_all(&bin).with_context(|| format!("can not create {}", bin.display()))?;
        let me = std::env::current_exe().context("can not find this program")?;
        for standin in STANDINS.map(|name| bin.join(name)) {
            // From the run before, which may have been another build.
            let _ = std::fs::remove_file(&standin);
            std::os::unix::fs::symlink(&me, &standin).with_context(|| format!("can not make {}", standin.display()))?;
        }
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", port))
            .await
            .with_context(|| format!("can not listen on 127.0.0.1:{port}"))?;
        let port = listener.local_addr().context("no address")?.port();
        let known_hosts = state.join("known_hosts");
        std::fs::write(&known_hosts, format!("[127.0.0.1]:{port} {}\n", keys::public_line(node.host_key())?))
            .with_context(|| format!("can not write {}", known_hosts.display()))?;
        let identity = state.join("demo-operator-TEST-FIXTURE.key");
        let key = std::fs::read_to_string(operator_identity()).context("can not read the demo operator's key")?;
        // libssh2 wants nothing before the key; the fixture's first line says what it is.
        write_private(&identity, &key[key.find("-----BEGIN").unwrap_or(0)..])?;
        ui.done(format!("node '{}' listens on 127.0.0.1:{port}, its state is in {}", node.name(), state.display()));
        ui.say("In another terminal, in the fleet repository:");
        let shown = |path: &std::path::Path| quote(&path.to_string_lossy());
        ui.say(format!(
            "  export PROXMOX_HOST=127.0.0.1:{port} FLEET_SSH_CONFIG=none FLEET_KNOWN_HOSTS={} FLEET_IDENTITY={} \
             FLEET_ROUTE=node PATH={}:$PATH",
            shown(&known_hosts),
            shown(&identity),
            shown(&bin)
        ));
        ui.say("  proxmox-ops list");
        ui.say(format!("What reaches the node is recorded in {}. Ctrl-C ends it.", node.log.path().display()));
        tokio::select! {
            ended = server::listen(node, listener) => ended,
            stopped = tokio::signal::ctrl_c() => stopped.context("can not wait for Ctrl-C"),
        }
    })
}
