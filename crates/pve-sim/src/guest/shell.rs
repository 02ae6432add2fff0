//! The commands that a simulated machine knows.

use std::{future::Future, pin::Pin, sync::Arc};

use super::{Os, Outcome, read_file, words};
use crate::{faults::Fault, ledger::Party, log::What, node::Node};

/// Commands that the table below knows, for `command -v` and the guest agent.
const KNOWN: &[&str] = &[
    "true",
    "false",
    ":",
    "exit",
    "echo",
    "printf",
    "hostname",
    "hostnamectl",
    "uname",
    "id",
    "whoami",
    "cat",
    "test",
    "[",
    "systemctl",
    "cloud-init",
    "mkdir",
    "chmod",
    "chown",
    "rm",
    "sync",
    "reboot",
    "shutdown",
    "poweroff",
    "nixos-version",
    "nproc",
    "command",
    "which",
    "grep",
    "head",
    "tail",
    "tr",
    "readlink",
    "sleep",
    "tar",
    "cp",
    "ln",
    "nixos-install",
    "setsid",
    "sh",
    "bash",
    "sudo",
    "env",
    "cpio",
    "wget",
    "curl",
    "set",
    "umask",
    "export",
    "ls",
    "ssh-keygen",
    "nohup",
    "tee",
    "wc",
    "pwd",
    "cd",
    "stat",
    "umount",
    "journalctl",
    "tailscale",
    "date",
];

/// Whether a program exists.
pub fn knows(program: &str) -> bool {
    KNOWN.contains(&program.rsplit('/').next().unwrap_or(program))
}

pub(super) struct Shell {
    pub(super) node: Arc<Node>,
    pub(super) vmid: u32,
    user: String,
    pub(super) stdin: Vec<u8>,
    out: Outcome,
    exited: bool,
}

type Done<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// Runs a command line as a user's shell does.
pub async fn run(node: &Arc<Node>, vmid: u32, user: &str, line: &str, stdin: Vec<u8>) -> Outcome {
    let _at_work = node.ledger.begin(Party::Guest, format!("{vmid}: {line}"));
    let mut shell = new(node, vmid, user, stdin);
    shell.script(line).await;
    node.log.add(What::GuestExec {
        vmid,
        user: user.to_owned(),
        command: line.to_owned(),
        status: shell.out.status,
    });
    shell.out
}

/// Runs one program with arguments, without a shell.
pub async fn run_words(node: &Arc<Node>, vmid: u32, user: &str, words: &[String], stdin: Vec<u8>) -> Outcome {
    let mut shell = new(node, vmid, user, stdin);
    shell.command(words.to_vec()).await;
    node.log.add(What::GuestExec {
        vmid,
        user: "agent".to_owned(),
        command: words.join(" "),
        status: shell.out.status,
    });
    shell.out
}

fn new(node: &Arc<Node>, vmid: u32, user: &str, stdin: Vec<u8>) -> Shell {
    Shell {
        node: Arc::clone(node),
        vmid,
        user: user.to_owned(),
        stdin,
        out: Outcome::default(),
        exited: false,
    }
}

impl Shell {
    fn home(&self) -> String {
        if self.user == "root" { "/root".to_owned() } else { format!("/home/{}", self.user) }
    }

    pub(super) fn say(&mut self, text: impl AsRef<[u8]>) {
        self.out.stdout.extend_from_slice(text.as_ref());
    }

    pub(super) fn complain(&mut self, text: impl AsRef<str>, status: u32) {
        self.out.stderr.extend_from_slice(text.as_ref().as_bytes());
        self.out.stderr.push(b'\n');
        self.out.status = status;
    }

    fn script<'a>(&'a mut self, script: &'a str) -> Done<'a> {
        Box::pin(async move {
            let home = self.home();
            let user = self.user.clone();
            let variable = move |name: &str| match name {
                "HOME" => home.clone(),
                "USER" => user.clone(),
                "PATH" => "/run/current-system/sw/bin:/usr/bin:/bin".to_owned(),
                _ => String::new(),
            };
            let commands = words::parse(script, &variable);
            for (index, command) in commands.iter().enumerate() {
                let runs = match command.join {
                    words::Join::Always | words::Join::Pipe => true,
                    words::Join::And => self.out.status == 0,
                    words::Join::Or => self.out.status != 0,
                };
                if !runs || self.exited {
                    continue;
                }
                let piped = commands.get(index + 1).is_some_and(|next| next.join == words::Join::Pipe);
                let stdout = self.out.stdout.len();
                let stderr = self.out.stderr.len();
                self.out.status = 0;
                self.command(command.words.clone()).await;
                if command.quiet {
                    self.out.stderr.truncate(stderr);
                }
                if command.to_stderr {
                    let printed = self.out.stdout.split_off(stdout);
                    self.out.stderr.extend(printed);
                    continue;
                }
                let printed = match (&command.output, piped) {
                    (None, false) => continue,
                    _ => self.out.stdout.split_off(stdout),
                };
                match &command.output {
                    Some(path) if path != "/dev/null" => self.write(path, printed, command.append),
                    Some(_) => {}
                    None => self.stdin = printed,
                }
            }
        })
    }

    pub(super) fn write(&mut self, path: &str, content: Vec<u8>, append: bool) {
        self.node.change(|d| {
            if let Some(run) = d.guests.get_mut(&self.vmid).and_then(|g| g.running.as_mut()) {
                if append && path.ends_with("/.ssh/authorized_keys") {
                    let keys = String::from_utf8_lossy(&content).into_owned();
                    let lines = keys.lines().filter(|line| !line.is_empty()).map(str::to_owned);
                    return run.system.users.entry(self.user.clone()).or_default().extend(lines);
                }
                let file = run.files.entry(path.to_owned()).or_default();
                if !append {
                    file.clear();
                }
                file.extend(content);
            }
        });
    }

    pub(super) fn os(&self) -> Os {
        super::with(&self.node, self.vmid, |r| r.os).unwrap_or(Os::CloudImage)
    }

    fn command(&mut self, mut words: Vec<String>) -> Done<'_> {
        Box::pin(async move {
            // Assignments before a command, and commands that only start another one.
            while words.first().is_some_and(|w| {
                w.split_once('=')
                    .is_some_and(|(name, _)| name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'))
                    || matches!(w.as_str(), "env" | "nohup" | "{" | "}" | "exec" | "then" | "else" | "do")
            }) {
                words.remove(0);
            }
            let Some(program) = words.first().cloned() else { return };
            let args: Vec<&str> = words[1..].iter().map(String::as_str).collect();
            let name = program.rsplit('/').next().unwrap_or(&program).to_owned();
            match (name.as_str(), args.as_slice()) {
                ("sudo" | "doas" | "setsid", rest) => {
                    let rest: Vec<String> =
                        rest.iter().skip_while(|a| a.starts_with('-')).map(|a| (*a).to_owned()).collect();
                    self.command(rest).await;
                }
                ("sh" | "bash", ["-c" | "-lc", script, ..]) => self.script(script).await,
                ("sh" | "bash", []) | ("sh" | "bash", ["-s" | "--", ..]) => {
                    let script = String::from_utf8_lossy(&std::mem::take(&mut self.stdin)).into_owned();
                    self.script(&script).await;
                }
                ("sh" | "bash", [file, ..]) => match read_file(&self.node, self.vmid, file) {
                    Some(script) => self.script(&String::from_utf8_lossy(&script)).await,
                    None => self.complain(format!("sh: 0: cannot open {file}: No such file"), 2),
                },
                ("run", _) if program.ends_with("kexec/run") => {
                    // Unpacked in the home directory; a link leads there too.
                    let there = program.strip_suffix("/kexec/run").unwrap_or_default();
                    let unpacked = there == format!("{}/kexec", self.home())
                        || read_file(&self.node, self.vmid, there).is_some();
                    if unpacked {
                        self.kexec();
                    } else {
                        self.complain(
                            format!("setsid: failed to execute {program}: No such file or directory"),
                            127,
                        );
                    }
                }
                ("nixos-install", args) => {
                    let args: Vec<String> = args.iter().map(|a| (*a).to_owned()).collect();
                    self.nixos_install(&args).await;
                }
                (script, _) if program.starts_with("/nix/store/") && script.contains("disko") => {
                    self.disko().await;
                }
                _ => self.plain(&name, &args),
            }
        })
    }

    fn plain(&mut self, name: &str, args: &[&str]) {
        match (name, args) {
            (
                "true" | ":" | "sync" | "set" | "umask" | "export" | "cd" | "mkdir" | "chmod" | "chown"
                | "rm" | "umount",
                _,
            ) => {}
            ("sleep", _) => {}
            ("false", _) => self.out.status = 1,
            ("exit", rest) => {
                self.exited = true;
                self.out.status = rest.first().and_then(|c| c.parse().ok()).unwrap_or(self.out.status);
            }
            ("echo", ["-n", rest @ ..]) => self.say(rest.join(" ")),
            ("echo", rest) => self.say(format!("{}\n", rest.join(" "))),
            ("printf", ["%s", rest @ ..]) => self.say(rest.join("")),
            ("printf", [text, ..]) => self.say(text.replace("\\n", "\n")),
            ("pwd", _) => self.say(format!("{}\n", self.home())),
            ("date", _) => self.say(format!("{}\n", crate::node::now())),
            ("hostname", _) | ("uname", ["-n"]) | ("hostnamectl", ["hostname" | "--static"]) => {
                let hostname = super::hostname(&self.node, self.vmid);
                self.say(format!("{hostname}\n"));
            }
            ("uname", ["-m"]) => self.say("x86_64\n"),
            ("uname", ["-r"]) => self.say("6.12.48\n"),
            ("uname", _) => self.say("Linux\n"),
            ("whoami", _) | ("id", ["-un"]) => self.say(format!("{}\n", self.user)),
            ("id", ["-u"]) => self.say(if self.user == "root" { "0\n" } else { "1000\n" }),
            ("id", _) => {
                let (uid, user) = if self.user == "root" { (0, "root") } else { (1000, self.user.as_str()) };
                let line = format!("uid={uid}({user}) gid={uid}({user}) groups={uid}({user})\n");
                self.say(line);
            }
            ("nproc", _) => self.say("2\n"),
            ("nixos-version", _) if self.os() != Os::CloudImage => {
                self.say("25.11.20260101.abcdef (Xantusia)\n");
            }
            ("systemctl", ["is-system-running", ..]) => match self.failed_units() {
                _ if !super::is_settled(&self.node, self.vmid) => {
                    self.say("starting\n");
                    self.out.status = 1;
                }
                units if units.is_empty() => self.say("running\n"),
                _ => {
                    self.say("degraded\n");
                    self.out.status = 1;
                }
            },
            ("systemctl", ["is-active", units @ ..]) => {
                let count = units.iter().filter(|u| !u.starts_with('-')).count().max(1);
                self.say("active\n".repeat(count));
            }
            ("systemctl", ["list-units" | "--failed", ..]) => {
                for unit in self.failed_units() {
                    self.say(format!("{unit} loaded failed failed {unit}\n"));
                }
            }
            ("systemctl", ["reboot", ..]) | ("reboot", _) => self.later(false),
            ("systemctl", ["poweroff", ..]) | ("poweroff" | "shutdown", _) => self.later(true),
            ("systemctl", ["stop", "qemu-guest-agent"]) => self.node.change(|d| {
                if let Some(run) = d.guests.get_mut(&self.vmid).and_then(|g| g.running.as_mut()) {
                    run.agent_stopped = true;
                }
            }),
            ("systemctl", _) => {}
            ("cloud-init", ["status", ..]) if self.os() == Os::CloudImage => self.say("status: done\n"),
            ("tailscale", ["status", ..]) if self.os() == Os::Nixos => {
                self.say("Logged out.\n");
                self.out.status = 1;
            }
            ("journalctl", _) => {}
            ("cat", []) | ("cat", ["-"]) | ("tee", []) => {
                let text = std::mem::take(&mut self.stdin);
                self.say(text);
            }
            ("cat", files) => self.cat(files),
            ("head", ["-c", count, rest @ ..]) => {
                let wanted = count.parse().unwrap_or(0);
                let mut bytes = match rest {
                    ["/dev/zero"] => vec![0; wanted],
                    _ => std::mem::take(&mut self.stdin),
                };
                bytes.truncate(wanted);
                self.say(bytes);
            }
            ("head", _) => {
                let text = String::from_utf8_lossy(&std::mem::take(&mut self.stdin)).into_owned();
                self.say(text.lines().next().map(|l| format!("{l}\n")).unwrap_or_default());
            }
            ("tail" | "tr" | "wc", _) => {
                let text = std::mem::take(&mut self.stdin);
                self.say(text);
            }
            ("grep", args) => self.grep(args),
            ("test" | "[", ["-f" | "-e" | "-r" | "-s", path, ..]) => {
                self.out.status = u32::from(read_file(&self.node, self.vmid, path).is_none());
            }
            ("test" | "[", ["-d", ..]) => {}
            ("test" | "[", ["!", "-f" | "-e", path, ..]) => {
                self.out.status = u32::from(read_file(&self.node, self.vmid, path).is_some());
            }
            ("test" | "[", _) => self.out.status = 1,
            ("command", ["-v", program, ..]) | ("which", [program, ..]) => {
                if knows(program) {
                    self.say(format!("/usr/bin/{program}\n"));
                } else {
                    self.out.status = 1;
                }
            }
            ("readlink", [.., "/run/current-system"]) if self.os() == Os::Nixos => {
                let hostname = super::hostname(&self.node, self.vmid);
                self.say(format!("/nix/store/{}-nixos-system-{hostname}-25.11\n", "0".repeat(32)));
            }
            ("ls", [path, ..]) => self.ls(path),
            ("cp", [.., from, to]) => match read_file(&self.node, self.vmid, from) {
                Some(content) => self.write(to, content, false),
                None => self.complain(format!("cp: cannot stat '{from}': No such file or directory"), 1),
            },
            ("ln", [.., to, name]) => self.write(name, format!("{to}\n").into_bytes(), false),
            ("ssh-keygen", [.., path]) => match read_file(&self.node, self.vmid, path) {
                Some(_) => self.say("256 SHA256:simulated root@simulated (ED25519)\n"),
                None => self.complain(format!("ssh-keygen: {path}: No such file or directory"), 255),
            },
            ("tar", args) if args.iter().any(|a| a.contains('x')) => self.untar(args),
            (_, _) => self.complain(format!("sh: 1: {name}: not found"), 127),
        }
    }

    fn failed_units(&self) -> Vec<String> {
        let of_this = |fault: &mut Fault| match fault {
            Fault::UnitsFailed { vmid, units } if *vmid == self.vmid => Some((units.clone(), false)),
            _ => None,
        };
        self.node.fault(of_this).unwrap_or_default()
    }

    fn cat(&mut self, files: &[&str]) {
        for file in files.iter().filter(|f| !f.starts_with("--")) {
            let private = file.ends_with("_key") && self.user != "root";
            match read_file(&self.node, self.vmid, file).filter(|_| !private) {
                Some(content) => self.say(content),
                None if private => self.complain(format!("cat: {file}: Permission denied"), 1),
                None => self.complain(format!("cat: {file}: No such file or directory"), 1),
            }
        }
    }

    fn grep(&mut self, args: &[&str]) {
        let quiet = args.iter().any(|a| a.starts_with('-') && a.contains('q'));
        let words: Vec<&&str> = args.iter().filter(|a| !a.starts_with('-')).collect();
        let pattern =
            words.first().map(|w| w.trim_start_matches('^').trim_end_matches('$')).unwrap_or_default();
        let text = match words.get(1) {
            Some(file) => read_file(&self.node, self.vmid, file).unwrap_or_default(),
            None => std::mem::take(&mut self.stdin),
        };
        let text = String::from_utf8_lossy(&text).into_owned();
        let found: Vec<&str> = text.lines().filter(|l| l.contains(pattern)).collect();
        self.out.status = u32::from(found.is_empty());
        if !quiet && !found.is_empty() {
            self.say(found.join("\n") + "\n");
        }
    }

    fn ls(&mut self, path: &str) {
        let dir = format!("{}/", path.trim_end_matches('/'));
        let names = super::with(&self.node, self.vmid, |r| {
            let names: Vec<String> = r
                .files
                .keys()
                .filter_map(|f| f.strip_prefix(&dir))
                .filter(|f| !f.contains('/'))
                .map(str::to_owned)
                .collect();
            names
        });
        self.say(names.unwrap_or_default().into_iter().map(|n| n + "\n").collect::<String>());
    }
}
