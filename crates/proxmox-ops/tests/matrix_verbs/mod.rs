//! The verbs of the matrix, the states that they begin in, and what each of them does when it says that it did.
#![allow(unreachable_pub, reason = "shared by tests")]

use std::time::{Duration, Instant};

use pve_sim::{
    data::{Data, Volume},
    testing::Sim,
};

use crate::common::{Bench, KEY, Ran};

/// What there is before a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Base {
    /// No VM 110.
    None,
    /// VM 110 from the template, stopped.
    Stopped,
    /// The same, with a cloud-init document.
    Documented,
    /// It runs, and its guest is up.
    Running,
    /// Stopped, with the snapshot `before`, and changed since.
    Snapshot,
    /// No template.
    NoTemplate,
    /// VM 9002 is not a template yet.
    Plain,
}

/// One column.
pub struct Verb {
    pub args: &'static [&'static str],
    /// Standard input.
    pub input: &'static str,
    pub base: Base,
    /// Whether what it is for has come about; the second argument is standard output, or nothing where only the node is
    /// looked at.
    pub done: fn(&Sim, &str) -> bool,
    /// Whether this is what it prints when it says that it is done.
    pub prints: fn(&str) -> bool,
    /// Whether it changes anything.
    pub changes: bool,
    /// Whether that is a task of the node.
    pub task: bool,
    /// Whether it needs the VM's lock.
    pub locks: bool,
    /// Whether it needs room on a storage.
    pub allocates: bool,
    /// Whether it sends an image.
    pub uploads: bool,
    /// Whether it asks the guest agent.
    pub agent: bool,
    /// How a second run ends where the first one did it: what is new may not be there yet, what is removed has to.
    pub again: i32,
    /// Whether its output is a stream, not an answer.
    pub streams: bool,
    /// Whether it is run on a terminal.
    pub terminal: bool,
}

const fn read(args: &'static [&'static str], base: Base, done: fn(&Sim, &str) -> bool) -> Verb {
    Verb {
        args,
        input: "",
        base,
        done,
        prints: |_| true,
        changes: false,
        task: false,
        locks: false,
        allocates: false,
        uploads: false,
        agent: false,
        again: 0,
        streams: false,
        terminal: false,
    }
}

const fn change(args: &'static [&'static str], base: Base, done: fn(&Sim, &str) -> bool) -> Verb {
    // What is changed is said to people.
    Verb { prints: str::is_empty, changes: true, task: true, locks: true, ..read(args, base, done) }
}

fn conf(sim: &Sim, vmid: u32, line: &str) -> bool {
    sim.config(vmid).is_some_and(|c| c.to_string().lines().any(|l| l == line))
}

/// A VM of this number that is whole.
fn whole(sim: &Sim, vmid: u32) -> bool {
    sim.config(vmid).is_some_and(|c| c.lock().is_none() && c.get("name").is_some())
}

fn is_template(sim: &Sim) -> bool {
    sim.config(9002).is_some_and(|c| c.is_template())
}

fn has_drive(sim: &Sim, slot: &str) -> bool {
    sim.config(110).is_some_and(|c| c.get(slot).is_some())
}

/// Seconds to wait: what goes wrong for good shall not take longer.
const WAIT: &str = "6";

/// Stands for the address that VM 110 has while it runs.
const RUNNING: &str = "ADDRESS";

/// A backup that the node has.
const BACKUP: &str = "local:backup/vzdump-qemu-110.vma.zst";

/// A cloud image, here.
const IMAGE: &str = "debian.img";

/// Where images are sent to.
const IMAGES: &str = "/var/tmp";

/// A document for cloud-init, here.
const DOCUMENT: &str = "user-data.yaml";

/// Where documents go.
const SNIPPETS: &str = "/var/lib/vz/snippets";

/// The document of VM 110, its setting, and what is in it to begin with.
const SNIPPET: &str = "fleet-110-user.yaml";
const NAMED: &str = "cicustom: user=local:snippets/fleet-110-user.yaml";
const EARLIER: &str = "#cloud-config\n# Of an earlier run.\n";

/// Long enough that a stream can be cut in the middle of it.
fn document() -> String {
    format!("#cloud-config\n{}", "# Nothing is asked of it.\n".repeat(2000))
}

/// The files in a directory of the node, with what is in them.
fn files(sim: &Sim, directory: &str) -> Vec<(String, String)> {
    let entries = std::fs::read_dir(sim.node().file(directory)).into_iter().flatten().flatten();
    let mut files: Vec<(String, String)> = entries
        .map(|entry| {
            let text = std::fs::read(entry.path()).unwrap_or_default();
            (entry.file_name().to_string_lossy().into_owned(), String::from_utf8_lossy(&text).into_owned())
        })
        .collect();
    files.sort();
    files
}

pub const VERBS: &[Verb] = &[
    read(&["list"], Base::Stopped, |_, out| out.contains("test-automation") && out.contains("doc1")),
    read(&["status", "110"], Base::Stopped, |_, out| out == "stopped\n"),
    read(&["config", "110"], Base::Stopped, |_, out| out.contains("test-automation")),
    read(&["storage"], Base::None, |_, out| out.contains("nvmeprom")),
    read(&["next-vmid"], Base::None, |_, out| out.trim().parse::<u32>().is_ok()),
    read(&["snapshots", "110"], Base::Snapshot, |_, out| out.contains("before")),
    read(&["ps"], Base::Running, |_, out| out.contains("test-automation")),
    read(&["top"], Base::Running, |_, out| out.contains("test-automation")),
    read(&["get-ip", "110", "--timeout", WAIT], Base::Running, |sim, out| {
        sim.guest(110).is_some_and(|(_, address)| out == format!("{address}\n"))
    }),
    Verb {
        agent: true,
        ..read(&["host-key", "110"], Base::Running, |sim, out| {
            sim.guest_host_key(110).is_some_and(|key| out.starts_with(&key))
        })
    },
    Verb {
        agent: true,
        changes: true,
        ..read(&["exec", "110", "--timeout", WAIT, "--", "hostname"], Base::Running, |_, out| {
            out == "test-automation\n"
        })
    },
    Verb {
        streams: true,
        ..read(&["connect", "110", "--timeout", WAIT], Base::Running, |_, out| out.starts_with("SSH-2.0-"))
    },
    read(&["wait-ssh", RUNNING, WAIT], Base::Running, |sim, out| sim.is_running(110) && out.is_empty()),
    Verb {
        // Ctrl-O leaves it.
        input: "\u{f}",
        streams: true,
        terminal: true,
        ..read(&["console", "110"], Base::Running, |_, out| out.contains("starting serial terminal"))
    },
    Verb {
        input: "{\"v\":1,\"id\":1,\"op\":\"status\",\"vmid\":110}\n",
        streams: true,
        ..read(&["session"], Base::Stopped, |_, out| out.contains("\"stopped\"") || out.contains("\"error\""))
    },
    Verb {
        allocates: true,
        again: 4,
        locks: false,
        ..change(&["clone", "9002", "110", "test-automation", "--wait", WAIT], Base::None, |sim, _| {
            whole(sim, 110) && conf(sim, 110, "name: test-automation")
        })
    },
    change(&["configure", "110", "3", "3072", "--wait", WAIT], Base::Stopped, |sim, _| {
        conf(sim, 110, "cores: 3") && conf(sim, 110, "memory: 3072")
    }),
    Verb {
        allocates: true,
        ..change(&["create-disk", "110", "1G", "--wait", WAIT], Base::Stopped, |sim, _| {
            has_drive(sim, "scsi1")
        })
    },
    Verb {
        allocates: true,
        ..change(&["resize", "110", "scsi0", "20G", "--wait", WAIT], Base::Stopped, |sim, _| {
            sim.config(110).is_some_and(|c| c.get("scsi0").is_some_and(|d| d.contains("size=20G")))
        })
    },
    change(&["cloudinit-drive", "110", "--wait", WAIT], Base::Stopped, |sim, _| has_drive(sim, "ide2")),
    change(&["cloudinit-config", "110", KEY, "--wait", WAIT], Base::Stopped, |sim, _| {
        sim.config(110).is_some_and(|c| c.get("sshkeys").is_some_and(|k| k.contains("alice")))
    }),
    change(
        &["cloudinit-config", "110", KEY, "--user-data", DOCUMENT, "--wait", WAIT],
        Base::Documented,
        |sim, _| {
            conf(sim, 110, NAMED)
                && sim.config(110).is_some_and(|c| c.get("sshkeys").is_some_and(|k| k.contains("alice")))
                && files(sim, SNIPPETS) == [(SNIPPET.to_owned(), document())]
        },
    ),
    change(&["cloudinit-config", "110", "--no-documents", "--wait", WAIT], Base::Documented, |sim, _| {
        sim.config(110).is_some_and(|c| c.get("cicustom").is_none()) && files(sim, SNIPPETS).is_empty()
    }),
    change(&["start", "110", "--wait", WAIT], Base::Stopped, |sim, _| sim.is_running(110)),
    change(&["stop", "110", "--wait", WAIT], Base::Running, |sim, _| !sim.is_running(110)),
    change(&["shutdown", "110", "--timeout", WAIT, "--wait", WAIT], Base::Running, |sim, _| {
        !sim.is_running(110)
    }),
    change(&["reboot", "110", "--wait", WAIT], Base::Running, |sim, _| {
        let boots = |d: &Data| (d.guests.get(&110).and_then(|g| Some(g.running.as_ref()?.boot)), d.boots);
        let (boot, last) = sim.node().read(boots);
        boot == Some(last)
    }),
    Verb {
        again: 5,
        ..change(&["destroy", "110", "yes", "--wait", WAIT], Base::Stopped, |sim, _| {
            sim.config(110).is_none()
        })
    },
    Verb {
        again: 4,
        ..change(&["snapshot", "110", "before", "--wait", WAIT], Base::Stopped, |sim, _| {
            sim.config(110).is_some_and(|c| c.snapshots.contains_key("before"))
        })
    },
    Verb {
        locks: false,
        ..change(&["template", "9002", "--yes", "--wait", WAIT], Base::Plain, |sim, _| is_template(sim))
    },
    Verb {
        allocates: true,
        locks: false,
        ..change(
            &["create-template", "9002", "--import", "nvmeprom:import/debian-13.qcow2", "--wait", WAIT],
            Base::NoTemplate,
            |sim, _| is_template(sim),
        )
    },
    Verb {
        allocates: true,
        uploads: true,
        locks: false,
        ..change(
            &["create-template", "9002", "--image", IMAGE, "--wait", WAIT],
            Base::NoTemplate,
            |sim, _| is_template(sim),
        )
    },
    Verb {
        allocates: true,
        again: 4,
        locks: false,
        ..change(&["restore", BACKUP, "110", "--wait", WAIT], Base::None, |sim, _| whole(sim, 110))
    },
    Verb {
        prints: |out| out.contains(":backup/"),
        ..change(&["backup", "110", "--wait", WAIT], Base::Stopped, |sim, out| {
            sim.node().read(|d| match out.trim_end() {
                "" => !d.backups.is_empty(),
                volume => d.backups.contains_key(volume),
            })
        })
    },
    Verb {
        locks: false,
        ..change(&["rollback", "110", "before", "--yes", "--wait", WAIT], Base::Snapshot, |sim, _| {
            sim.config(110).is_some_and(|c| c.get("cores") != Some("7"))
        })
    },
    Verb {
        locks: false,
        again: 5,
        ..change(&["delete-snapshot", "110", "before", "--wait", WAIT], Base::Snapshot, |sim, _| {
            sim.config(110).is_some_and(|c| c.snapshots.is_empty())
        })
    },
];

/// A node and its states, each made once.
pub struct Stage {
    pub bench: Bench,
    bases: Vec<(Base, Data)>,
    /// See [`RUNNING`].
    address: String,
}

impl Stage {
    pub fn new() -> Stage {
        let bench = Bench::new();
        bench.fleet.write(DOCUMENT, &document());
        let image = [b"QFI\xfb\0\0\0\x03".as_slice(), &vec![0; 300_000]].concat();
        std::fs::write(bench.fleet.path().join(IMAGE), image).unwrap();
        bench.sim.node().change(|d| {
            let volume = Volume {
                size: 1 << 30,
                format: "vma.zst".to_owned(),
                content: "backup".to_owned(),
                vmid: None,
                parent: None,
                ctime: 0,
            };
            d.volumes.insert(BACKUP.to_owned(), volume);
        });
        let mut bases = Vec::new();
        let mut keep = |bench: &Bench, base: Base| bases.push((base, bench.sim.node().read(Clone::clone)));
        keep(&bench, Base::None);
        bench.clone_110();
        keep(&bench, Base::Stopped);
        let data = bench.sim.node().read(Clone::clone);
        bench.sim.edit(110, |conf| {
            let (key, value) = NAMED.split_once(": ").unwrap();
            conf.main.insert(key.to_owned(), value.to_owned());
        });
        keep(&bench, Base::Documented);
        bench.sim.node().change(|d| *d = data);
        bench.ok(&["cloudinit-drive", "110"]);
        bench.ok(&["start", "110"]);
        bench.ok(&["get-ip", "110", "--timeout", "20"]);
        keep(&bench, Base::Running);
        let address = bench.sim.guest(110).unwrap().1;
        let stage = Stage { bench, bases, address };
        stage.set(Base::Stopped);
        stage.bench.ok(&["snapshot", "110", "before"]);
        let mut stage = stage;
        let mut keep = |base: Base, change: fn(&mut Data)| {
            if base != Base::Snapshot {
                stage.set(Base::None);
            }
            let data = stage.bench.sim.node().change(|d| {
                change(d);
                d.clone()
            });
            stage.bases.push((base, data));
        };
        keep(Base::Snapshot, |d| {
            d.vms.entry(110).or_default().main.insert("cores".to_owned(), "7".to_owned());
        });
        keep(Base::NoTemplate, |d| {
            d.vms.remove(&9002);
            d.volumes.retain(|_, v| v.vmid != Some(9002));
        });
        keep(Base::Plain, |d| {
            d.vms.entry(9002).or_default().main.remove("template");
        });
        stage
    }

    /// Puts the node into a state.
    pub fn set(&self, base: Base) {
        let found = self.bases.iter().find(|(b, _)| *b == base).map(|(_, data)| data.clone());
        self.bench.sim.node().change(|d| {
            let (pid, boots) = (d.pid, d.boots);
            *d = found.unwrap();
            // What was given out once is not given out again.
            d.pid = d.pid.max(pid);
            d.boots = d.boots.max(boots) + 1;
            d.tasks.clear();
        });
        let snippets = self.bench.sim.node().file(SNIPPETS);
        for (name, _) in files(&self.bench.sim, SNIPPETS) {
            let _ = std::fs::remove_file(snippets.join(name));
        }
        if base == Base::Documented {
            std::fs::create_dir_all(&snippets).unwrap();
            std::fs::write(snippets.join(SNIPPET), EARLIER).unwrap();
        }
    }

    /// What is wrong with the documents: a VM does not start without the one that it names, nor right with half of it.
    pub fn documents_wrong(&self) -> Option<&'static str> {
        let files = files(&self.bench.sim, SNIPPETS);
        match files.iter().find(|(name, _)| name == SNIPPET) {
            Some((_, text)) if *text != EARLIER && *text != document() => Some("half a document is there"),
            None if conf(&self.bench.sim, 110, NAMED) => Some("the document that the VM names is gone"),
            _ => None,
        }
    }

    /// The VMs as they are, configuration and power, and their documents.
    pub fn state(&self) -> String {
        let vms: String = self.bench.sim.node().read(|d| {
            d.vms.iter().map(|(id, conf)| format!("{id} {}\n{conf}\n", d.is_running(*id))).collect()
        });
        let line = |(name, text): (String, String)| format!("{name} ({} bytes)\n", text.len());
        vms + &files(&self.bench.sim, SNIPPETS).into_iter().map(line).collect::<String>()
    }

    /// Waits until no image is on the node any more: one whose VM was never made is kept for ten seconds.
    pub fn no_image_stays(&self) -> bool {
        let limit = Instant::now() + Duration::from_secs(60);
        let images =
            || files(&self.bench.sim, IMAGES).iter().any(|(name, _)| name.starts_with("fleet-image-"));
        while images() && Instant::now() < limit {
            std::thread::sleep(Duration::from_millis(20));
        }
        !images()
    }

    /// VM 110 gets the address again that it had, if it runs.
    pub fn move_back(&self) {
        self.bench.sim.node().change(|d| {
            if let Some(run) = d.guests.get_mut(&110).and_then(|g| g.running.as_mut()) {
                run.address.clone_from(&self.address);
            }
        });
    }

    /// Waits until the node's tasks are over.
    pub fn settle(&self) {
        let limit = Instant::now() + Duration::from_secs(10);
        while self.bench.sim.node().read(|d| d.tasks.iter().any(|t| t.exit.is_none())) {
            assert!(Instant::now() < limit, "a task never ends");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    pub fn run(&self, verb: &Verb) -> Ran {
        let args: Vec<&str> =
            verb.args.iter().map(|arg| if *arg == RUNNING { &self.address } else { *arg }).collect();
        let mut command =
            if verb.terminal { self.bench.on_terminal(&args) } else { self.bench.command(&args) };
        command.timeout(Duration::from_secs(40)).write_stdin(verb.input);
        let ran = self.bench.finish(&mut command);
        // A terminal shows both, and may show what is typed.
        if verb.terminal { Ran { err: ran.out.replace('\r', "").replace("^O", ""), ..ran } } else { ran }
    }
}
