//! What the genuine API answers, exchange by exchange, in a table of our own; over real SSH and HTTP.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may stop")]

mod common;

use common::Api;
use fleet_core::ssh::Transport;
use pve_sim::testing::Sim;
use serde_json::Value;

type Params = &'static [(&'static str, &'static str)];

/// What is expected.
enum Expect {
    /// 200 with this data.
    Data(&'static str),
    /// 200, whatever the data.
    Ok,
    /// 500 (or the other status) with this message.
    Fails(u16, &'static str),
    /// 400 with one fault.
    Fault(&'static str, &'static str),
    /// A task that ends like this.
    Task(&'static str),
}
use Expect::{Data, Fails, Fault, Ok as Fine, Task};

const VM: &str = "/nodes/prom/qemu/110";
const TEMPLATE: &str = "/nodes/prom/qemu/9002";
const UNKNOWN: &str = "property is not defined in schema and the schema does not allow additional properties";
const MISSING: &str = "property is missing and it is not optional";
const NO_VMID: &str = "invalid format - value does not look like a valid VM ID\n";
const NO_DNS: &str = "invalid format - value does not look like a valid DNS name\n";

fn run(api: &mut Api, table: &[(&str, &str, &str, Params, Expect)]) {
    for (method, base, path, params, expected) in table {
        let path = format!("{base}{path}");
        let shown = format!("{method} {path} {params:?}");
        let answer = api.send(method, &path, params);
        match expected {
            Data(text) => {
                let value: Value = serde_json::from_str(text).unwrap();
                assert_eq!((answer.status, &answer.body["data"]), (200, &value), "{shown}: {answer:?}");
            }
            Fine => assert_eq!(answer.status, 200, "{shown}: {answer:?}"),
            Fails(status, message) => {
                assert_eq!(answer.status, *status, "{shown}: {answer:?}");
                assert_eq!(answer.message().trim_end(), *message, "{shown}");
                assert_eq!(answer.reason, message.lines().next().unwrap(), "{shown}");
                assert!(answer.close, "{shown}");
            }
            Fault(name, fault) => {
                assert_eq!(answer.status, 400, "{shown}: {answer:?}");
                assert_eq!(answer.message(), "Parameter verification failed.\n", "{shown}");
                assert_eq!(answer.body["errors"][name], *fault, "{shown}: {answer:?}");
            }
            Task(exit) => {
                let upid = answer.data().as_str().unwrap_or_else(|| panic!("{shown}: {answer:?}")).to_owned();
                let (ended, log) = api.wait(&upid);
                assert_eq!(ended, *exit, "{shown}: {log:?}");
                let last = if *exit == "OK" { "TASK OK".to_owned() } else { format!("TASK ERROR: {exit}") };
                assert_eq!(log.last(), Some(&last), "{shown}");
            }
        }
    }
}

fn with_clone() -> (Sim, Api) {
    let sim = Sim::start();
    let mut api = Api::new(&sim);
    run(
        &mut api,
        &[("POST", TEMPLATE, "/clone", &[("newid", "110"), ("name", "web"), ("full", "1")], Task("OK"))],
    );
    (sim, api)
}

#[test]
fn reading() {
    let sim = Sim::start();
    let mut api = Api::new(&sim);
    run(
        &mut api,
        &[
            (
                "GET",
                "/version",
                "",
                &[],
                Data(r#"{"version":"9.2.11","release":"9.2","repoid":"14a22df35955d97d"}"#),
            ),
            ("GET", "/version", "", &[("bogus", "1")], Fault("bogus", UNKNOWN)),
            ("POST", "/version", "", &[], Fails(501, "Method 'POST /version' not implemented")),
            (
                "GET",
                TEMPLATE,
                "/clone",
                &[],
                Fails(501, "Method 'GET /nodes/prom/qemu/9002/clone' not implemented"),
            ),
            ("GET", "/cluster/nextid", "", &[], Data(r#""100""#)),
            ("GET", "/cluster/nextid", "", &[("vmid", "300")], Data(r#""300""#)),
            ("GET", "/cluster/nextid", "", &[("vmid", "9002")], Fault("vmid", "VM 9002 already exists")),
            ("GET", "/cluster/nextid", "", &[("vmid", "200")], Fault("vmid", "VM 200 already exists")),
            ("GET", "/cluster/nextid", "", &[("vmid", "99")], Fault("vmid", NO_VMID)),
            (
                "GET",
                "/cluster/nextid",
                "",
                &[("vmid", "abc")],
                Fault("vmid", "type check ('integer') failed - got 'abc'"),
            ),
            (
                "GET",
                "/cluster/resources",
                "",
                &[("type", "bogus")],
                Fault(
                    "type",
                    "value 'bogus' does not have a value in the enumeration 'vm, storage, node, sdn'",
                ),
            ),
            (
                "GET",
                "/nodes/prom/qemu/abc/config",
                "",
                &[],
                Fault("vmid", "type check ('integer') failed - got 'abc'"),
            ),
            (
                "GET",
                "/nodes/prom/qemu/999/config",
                "",
                &[],
                Fails(500, "Configuration file 'nodes/prom/qemu-server/999.conf' does not exist"),
            ),
            (
                "GET",
                "/nodes/prom/qemu/200/config",
                "",
                &[],
                Fails(500, "Configuration file 'nodes/prom/qemu-server/200.conf' does not exist"),
            ),
            (
                "GET",
                TEMPLATE,
                "/config",
                &[("vmid", "104")],
                Fault("vmid", "duplicate parameter (already defined in URI) with conflicting values!"),
            ),
            (
                "GET",
                TEMPLATE,
                "/config",
                &[("snapshot", "x")],
                Fault("snapshot", "invalid format - invalid configuration ID 'x'\n"),
            ),
            (
                "GET",
                "/nodes/prom/storage",
                "",
                &[("content", "bogus")],
                Fault("content", "invalid format - invalid content type 'bogus'\n"),
            ),
            ("GET", "/nodes/prom/storage/nosuch/status", "", &[], Fault("storage", "No such storage.")),
            (
                "GET",
                "/nodes/prom/storage/nosuch/content",
                "",
                &[],
                Fails(500, "storage 'nosuch' does not exist"),
            ),
            ("GET", "/nodes/prom/network/vmbr9", "", &[], Fault("iface", "interface does not exist")),
            (
                "GET",
                "/nodes/other/qemu",
                "",
                &[],
                Fails(
                    500,
                    "hostname lookup 'other' failed - failed to get address info for: other: Temporary failure in name resolution",
                ),
            ),
            (
                "GET",
                "/nodes/prom/tasks/garbage/status",
                "",
                &[],
                Fault("upid", "unable to parse worker upid"),
            ),
            (
                "GET",
                "/nodes/prom/tasks/UPID:prom:00000001:00000001:6B000000:qmclone:9002:root@pam:/status",
                "",
                &[],
                Fault("upid", "no such task"),
            ),
            (
                "GET",
                "/nodes/prom/tasks/UPID:prom:00000001:00000001:6B000000:qmclone:9002:root@pam:/log",
                "",
                &[],
                Data(r#"[{"n":1,"t":"unable to open file - No such file or directory"}]"#),
            ),
        ],
    );
    let resources = api.send("GET", "/cluster/resources", &[("type", "vm")]);
    let ids: Vec<&str> =
        resources.data().as_array().unwrap().iter().map(|r| r["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["qemu/104", "qemu/109", "qemu/9002", "lxc/200"]);
    let template = api.get(&format!("{TEMPLATE}/config"));
    assert_eq!(template.data()["template"], 1);
    assert_eq!(template.data()["memory"], "2048");
    assert_eq!(template.data()["cores"], 2);
}

#[test]
fn cloning() {
    let (sim, mut api) = with_clone();
    run(
        &mut api,
        &[
            (
                "POST",
                TEMPLATE,
                "/clone",
                &[("newid", "110")],
                Fails(500, "unable to create VM 110: config file already exists"),
            ),
            (
                "POST",
                "/nodes/prom/qemu/8999",
                "/clone",
                &[("newid", "115")],
                Fails(500, "unable to find configuration file for VM 8999 on node 'prom'"),
            ),
            (
                "POST",
                TEMPLATE,
                "/clone",
                &[("newid", "200")],
                Task(
                    "close (rename) atomic file '/etc/pve/nodes/prom/qemu-server/200.conf' failed: File exists",
                ),
            ),
            ("POST", TEMPLATE, "/clone", &[("newid", "116"), ("name", "a_b")], Fault("name", NO_DNS)),
            ("POST", TEMPLATE, "/clone", &[("newid", "99")], Fault("newid", NO_VMID)),
            (
                "POST",
                TEMPLATE,
                "/clone",
                &[("newid", "")],
                Fault("newid", "type check ('integer') failed - got ''"),
            ),
            (
                "POST",
                TEMPLATE,
                "/clone",
                &[("newid", "1"), ("newid", "2")],
                Fault("newid", "type check ('integer') failed - got ARRAY"),
            ),
            ("POST", TEMPLATE, "/clone", &[("name", "x")], Fault("newid", MISSING)),
            ("POST", TEMPLATE, "/clone", &[("newid", "117"), ("bogus", "1")], Fault("bogus", UNKNOWN)),
            (
                "POST",
                TEMPLATE,
                "/clone",
                &[("newid", "117"), ("full", "yes")],
                Fault("full", "type check ('boolean') failed - got 'yes'"),
            ),
            (
                "POST",
                TEMPLATE,
                "/clone",
                &[("newid", "117"), ("full", "1"), ("storage", "nosuch")],
                Fails(500, "storage 'nosuch' does not exist"),
            ),
            (
                "POST",
                TEMPLATE,
                "/clone",
                &[("newid", "117"), ("full", "1"), ("storage", "local")],
                Fault("storage", "storage 'local' does not support vm images"),
            ),
            (
                "POST",
                TEMPLATE,
                "/clone",
                &[("newid", "117"), ("storage", "nvmeprom")],
                Fails(500, "parameter 'storage' not allowed for linked clones"),
            ),
            (
                "POST",
                TEMPLATE,
                "/clone",
                &[("newid", "117"), ("target", "other")],
                Fails(500, "no such cluster node 'other'"),
            ),
            ("POST", TEMPLATE, "/clone", &[("newid", "117"), ("description", "two: lines\nü")], Task("OK")),
            (
                "POST",
                VM,
                "/clone",
                &[("newid", "118"), ("full", "0")],
                Fails(
                    500,
                    "Linked clone feature is not supported for 'nvmeprom:110/vm-110-disk-0.qcow2' (efidisk0)",
                ),
            ),
        ],
    );
    assert!(sim.config(116).is_none() && sim.config(200).is_none());
    let linked = sim.config(117).unwrap();
    assert_eq!(linked.get("name"), Some("Copy-of-VM-ubuntu-cloud-template"));
    assert_eq!(
        linked.get("scsi0"),
        Some("nvmeprom:9002/base-9002-disk-1.qcow2/117/vm-117-disk-1.qcow2,size=2G")
    );
    assert!(linked.to_string().starts_with("#two%3A lines\n#%C3%BC\n"), "{linked}");
    assert_ne!(linked.get("net0"), sim.config(9002).unwrap().get("net0"));
    // Two at once: one wins.
    let first = api.send("POST", &format!("{TEMPLATE}/clone"), &[("newid", "119"), ("full", "1")]);
    let second = api.send("POST", &format!("{TEMPLATE}/clone"), &[("newid", "119"), ("full", "1")]);
    assert_eq!(second.message(), "unable to create VM 119: config file already exists\n");
    let during = sim.config(119).unwrap().to_string();
    // With the first of its disks it has all settings, and not yet the other disk.
    let first_disk = during.contains("\nefidisk0: nvmeprom:119/") && !during.contains("\nscsi0: ");
    assert!(during == "# qmclone temporary file\nlock: clone\n" || first_disk, "{during}");
    assert!(during.contains("\nlock: clone\n"), "{during}");
    let changed = api.send("PUT", "/nodes/prom/qemu/119/config", &[("cores", "1")]);
    assert_eq!(changed.message(), "VM is locked (clone)\n");
    let upid = first.data().as_str().unwrap().to_owned();
    assert_eq!(api.wait(&upid).0, "OK");
    // A task that is stopped cleans up after itself.
    let upid = api.send("POST", &format!("{TEMPLATE}/clone"), &[("newid", "120"), ("full", "1")]);
    let upid = upid.data().as_str().unwrap().to_owned();
    let stop = api.send("DELETE", &format!("/nodes/prom/tasks/{upid}"), &[]);
    assert!(stop.data().is_null());
    assert!(api.wait(&upid).0.starts_with("clone failed: copy failed:"));
    assert!(sim.config(120).is_none());
}

#[test]
fn settings() {
    let (sim, mut api) = with_clone();
    let unicast = "invalid format - format error\nnet0.macaddr: invalid format - value does not look like a valid unicast MAC address\n\n";
    let network = "invalid format - format error\nipconfig0.ip: invalid format - value does not look like a valid ipv4 network configuration\n\n";
    run(
        &mut api,
        &[
            ("PUT", VM, "/config", &[("cores", "1"), ("memory", "1024")], Data("null")),
            ("POST", VM, "/config", &[("cores", "2")], Task("OK")),
            ("POST", VM, "/config", &[("cores", "3"), ("background_delay", "5")], Data("null")),
            (
                "POST",
                VM,
                "/config",
                &[("cores", "3"), ("background_delay", "31")],
                Fault("background_delay", "value must have a maximum value of 30"),
            ),
            ("PUT", VM, "/config", &[], Fails(500, "no options specified")),
            (
                "PUT",
                "/nodes/prom/qemu/999",
                "/config",
                &[("cores", "1")],
                Fails(500, "Configuration file 'nodes/prom/qemu-server/999.conf' does not exist"),
            ),
            ("PUT", VM, "/config", &[("cores", "0")], Fault("cores", "value must have a minimum value of 1")),
            (
                "PUT",
                VM,
                "/config",
                &[("cores", "x")],
                Fault("cores", "type check ('integer') failed - got 'x'"),
            ),
            (
                "PUT",
                VM,
                "/config",
                &[("memory", "8")],
                Fault(
                    "memory",
                    "invalid format - format error\nmemory.current: value must have a minimum value of 16\n",
                ),
            ),
            (
                "PUT",
                VM,
                "/config",
                &[("onboot", "true")],
                Fault("onboot", "type check ('boolean') failed - got 'true'"),
            ),
            ("PUT", VM, "/config", &[("ipconfig32", "ip=dhcp")], Fault("ipconfig32", UNKNOWN)),
            (
                "PUT",
                VM,
                "/config",
                &[("ipconfig0", "dhcp")],
                Fault(
                    "ipconfig0",
                    "invalid format - value without key, but schema does not define a default key\n",
                ),
            ),
            ("PUT", VM, "/config", &[("ipconfig0", "ip=10.0.0.5")], Fault("ipconfig0", network)),
            (
                "PUT",
                VM,
                "/config",
                &[("ipconfig0", "gw=10.0.0.1")],
                Fault(
                    "ipconfig0",
                    "invalid format - format error\nipconfig0.ip: missing property required by 'ipconfig0.gw'\n",
                ),
            ),
            (
                "PUT",
                VM,
                "/config",
                &[("net0", "bogus,bridge=vmbr0")],
                Fault(
                    "net0",
                    "invalid format - format error\nnet0.model: value 'bogus' does not have a value in the enumeration 'e1000, e1000-82540em, e1000-82544gc, e1000-82545em, e1000e, i82551, i82557b, i82559er, ne2k_isa, ne2k_pci, pcnet, rtl8139, virtio, vmxnet3'\n",
                ),
            ),
            (
                "PUT",
                VM,
                "/config",
                &[("net0", "virtio=01:24:11:00:00:01,bridge=vmbr0")],
                Fault("net0", unicast),
            ),
            (
                "PUT",
                VM,
                "/config",
                &[("net0", "virtio,bridge=vmbr0,tag=4095")],
                Fault(
                    "net0",
                    "invalid format - format error\nnet0.tag: value must have a maximum value of 4094\n",
                ),
            ),
            ("PUT", VM, "/config", &[("net0", "virtio=BC:24:11:00:00:01,tag=10,bridge=vmbr0")], Data("null")),
            (
                "PUT",
                VM,
                "/config",
                &[("sshkeys", "ssh-ed25519 AAAA x")],
                Fault("sshkeys", "invalid format - invalid urlencoded string: ssh-ed25519 AAAA x\n"),
            ),
            (
                "PUT",
                VM,
                "/config",
                &[("sshkeys", "garbage%20key")],
                Fails(500, "SSH public key validation error"),
            ),
            ("PUT", VM, "/config", &[("name", "a_b")], Fault("name", NO_DNS)),
            ("PUT", VM, "/config", &[("tags", "b;a;b")], Data("null")),
            (
                "PUT",
                VM,
                "/config",
                &[("tags", "-bad")],
                Fault("tags", "invalid format - invalid characters in tag\n"),
            ),
            ("PUT", VM, "/config", &[("delete", "nosuch")], Fault("delete", "unknown option 'nosuch'")),
            (
                "PUT",
                VM,
                "/config",
                &[("delete", "cores"), ("cores", "2")],
                Fault("delete", "you can't use '-cores' and -delete cores' at the same time"),
            ),
            (
                "PUT",
                VM,
                "/config",
                &[("cores", "2"), ("digest", "zz")],
                Fails(500, "checksum mismatch (file change by other user?)"),
            ),
            ("PUT", VM, "/config", &[("cores", "2"), ("digest", "")], Data("null")),
            (
                "PUT",
                VM,
                "/config",
                &[("agent", "bogus=1")],
                Fault(
                    "agent",
                    "invalid format - format error\nagent.enabled: property is missing and it is not optional\nagent.bogus: property is not defined in schema and the schema does not allow additional properties\n",
                ),
            ),
            (
                "PUT",
                VM,
                "/config",
                &[("vmid", "112"), ("cores", "1")],
                Fault("vmid", "duplicate parameter (already defined in URI) with conflicting values!"),
            ),
            ("PUT", VM, "/config", &[("scsi4", "nosuch:1")], Fails(500, "storage 'nosuch' does not exist")),
            (
                "PUT",
                VM,
                "/config",
                &[("scsi4", "local:1")],
                Fault("storage", "storage 'local' does not support vm images"),
            ),
            (
                "PUT",
                VM,
                "/config",
                &[("scsi4", "nvmeprom:x")],
                Fails(500, "unable to parse directory volume name 'x'"),
            ),
            ("POST", VM, "/config", &[("scsi1", "nvmeprom:1")], Task("OK")),
            ("PUT", VM, "/config", &[("delete", "scsi1")], Data("null")),
            ("POST", VM, "/config", &[("ide2", "nvmeprom:cloudinit")], Task("OK")),
            (
                "POST",
                VM,
                "/config",
                &[("ide2", "nvmeprom:cloudinit")],
                Task("disk image '/mnt/nvmeprom/images/110/vm-110-cloudinit.qcow2' already exists"),
            ),
            (
                "PUT",
                VM,
                "/config",
                &[("ide0", "nvmeprom:cloudinit")],
                Fails(500, "ide0 - cloud-init drive is already attached at 'ide2'"),
            ),
            ("PUT", VM, "/config", &[("lock", "backup")], Data("null")),
            ("PUT", VM, "/config", &[("cores", "1")], Fails(500, "VM is locked (backup)")),
            ("POST", VM, "/status/start", &[], Task("VM is locked (backup)")),
            ("PUT", VM, "/resize", &[("disk", "scsi0"), ("size", "+1G")], Task("VM is locked (backup)")),
            ("POST", VM, "/clone", &[("newid", "111")], Fails(500, "VM is locked (backup)")),
            ("PUT", VM, "/config", &[("skiplock", "1"), ("delete", "lock")], Data("null")),
        ],
    );
    let conf = sim.config(110).unwrap();
    assert_eq!(conf.get("net0"), Some("virtio=BC:24:11:00:00:01,bridge=vmbr0,tag=10"));
    assert_eq!(conf.get("tags"), Some("a;b"));
    assert_eq!(conf.get("unused0"), Some("nvmeprom:110/vm-110-disk-2.raw"));
    // The digest is that of the file on disk, which a command on the node can read.
    let shown = api.get(&format!("{VM}/config")).data()["digest"].as_str().unwrap().to_owned();
    assert_eq!(shown, conf.digest());
    let file = api.session.exec("cat /etc/pve/qemu-server/110.conf", b"", common::deadline()).unwrap();
    assert_eq!(String::from_utf8(file.stdout).unwrap(), conf.to_string());
}

#[test]
fn disks_and_power() {
    let (sim, mut api) = with_clone();
    let regex = "value does not match the regex pattern";
    run(
        &mut api,
        &[
            ("PUT", VM, "/resize", &[("disk", "scsi0"), ("size", "3G")], Task("OK")),
            ("PUT", VM, "/resize", &[("disk", "scsi0"), ("size", "3G")], Task("OK")),
            (
                "PUT",
                VM,
                "/resize",
                &[("disk", "scsi0"), ("size", "1G")],
                Task("shrinking disks is not supported"),
            ),
            ("PUT", VM, "/resize", &[("disk", "scsi9"), ("size", "5G")], Task("disk 'scsi9' does not exist")),
            ("PUT", VM, "/resize", &[("disk", "scsi0"), ("size", "5g")], Fault("size", regex)),
            ("PUT", VM, "/resize", &[("disk", "scsi0")], Fault("size", MISSING)),
            ("PUT", VM, "/resize", &[("disk", "scsi0"), ("size", "4.5G")], Task("OK")),
            (
                "PUT",
                VM,
                "/resize",
                &[("disk", "scsi0"), ("size", "9G"), ("digest", "aa")],
                Task("checksum mismatch (file change by other user?)"),
            ),
            (
                "PUT",
                "/nodes/prom/qemu/999",
                "/resize",
                &[("disk", "scsi0"), ("size", "7G")],
                Task("Configuration file 'nodes/prom/qemu-server/999.conf' does not exist"),
            ),
            ("POST", VM, "/status/stop", &[], Task("OK")),
            ("POST", VM, "/status/reboot", &[], Fails(500, "VM 110 not running")),
            ("POST", VM, "/agent/ping", &[], Fails(500, "VM 110 is not running")),
            ("PUT", VM, "/config", &[("net0", "virtio,bridge=vmbr9")], Fine),
            ("POST", VM, "/status/start", &[], Task("bridge 'vmbr9' does not exist")),
            ("PUT", VM, "/config", &[("net0", "virtio,bridge=vmbr0"), ("cores", "64")], Fine),
            ("POST", VM, "/status/start", &[], Task("MAX 16 vcpus allowed per VM on this node")),
            ("PUT", VM, "/config", &[("cores", "2")], Fine),
            ("POST", VM, "/status/start", &[], Task("OK")),
            ("POST", VM, "/status/start", &[], Task("VM 110 already running")),
            ("PUT", VM, "/config", &[("cores", "4"), ("name", "other")], Fine),
            ("DELETE", VM, "", &[], Fails(500, "VM 110 is running - destroy failed")),
            ("POST", VM, "/template", &[], Fails(500, "you can't convert a VM to template if VM is running")),
            ("POST", TEMPLATE, "/status/start", &[], Task("you can't start a vm if it's a template")),
            ("POST", TEMPLATE, "/template", &[], Fails(500, "you can't convert a template to a template")),
            (
                "POST",
                "/nodes/prom/qemu/999",
                "/status/stop",
                &[],
                Task("unable to find configuration file for VM 999 on node 'prom'"),
            ),
            (
                "GET",
                VM,
                "/status/start",
                &[],
                Fails(501, "Method 'GET /nodes/prom/qemu/110/status/start' not implemented"),
            ),
        ],
    );
    // Cores of a running VM are pending; its name changes at once.
    let shown = api.get(&format!("{VM}/config"));
    assert_eq!((&shown.data()["cores"], &shown.data()["name"]), (&Value::from(4), &Value::from("other")));
    let current = api.send("GET", &format!("{VM}/config"), &[("current", "1")]);
    assert_eq!(current.data()["cores"], 2);
    run(
        &mut api,
        &[
            ("POST", VM, "/status/stop", &[], Task("OK")),
            ("POST", VM, "/snapshot", &[("snapname", "before")], Task("OK")),
            ("POST", VM, "/snapshot", &[("snapname", "before")], Task("snapshot name 'before' already used")),
            (
                "POST",
                VM,
                "/snapshot",
                &[("snapname", "current")],
                Fails(500, "unable to use snapshot name 'current' (reserved name)"),
            ),
            ("POST", VM, "/snapshot/nosuch/rollback", &[], Task("snapshot 'nosuch' does not exist")),
            ("DELETE", VM, "/snapshot/before", &[], Task("OK")),
            ("PUT", VM, "/config", &[("protection", "1")], Fine),
            ("DELETE", VM, "", &[], Fails(500, "can't remove VM 110 - protection mode enabled")),
            (
                "PUT",
                VM,
                "/config",
                &[("delete", "scsi0")],
                Fails(500, "can't remove drive 'scsi0' - protection mode enabled"),
            ),
            ("PUT", VM, "/config", &[("delete", "protection")], Fine),
            ("DELETE", VM, "", &[("purge", "1"), ("destroy-unreferenced-disks", "1")], Task("OK")),
            (
                "DELETE",
                VM,
                "",
                &[],
                Fails(500, "Configuration file 'nodes/prom/qemu-server/110.conf' does not exist"),
            ),
            ("POST", TEMPLATE, "/clone", &[("newid", "111")], Task("OK")),
            (
                "DELETE",
                TEMPLATE,
                "",
                &[],
                Task("base volume 'nvmeprom:9002/base-9002-disk-0.qcow2' is still in use by linked cloned"),
            ),
        ],
    );
    assert!(sim.config(9002).is_some());
}
