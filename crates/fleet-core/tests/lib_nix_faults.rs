//! `vms/lib.nix` finds wrong what the tools find wrong, by a Nix that is not ours.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test stops at the first surprise")]

mod lib_nix_support;

use std::collections::BTreeSet;

use fleet_core::{
    definitions::Definitions,
    faults::{self, Fault},
    nix::NixMode,
    repo::Repo,
};
use lib_nix_support::{by_nix, definitions, managed, root};
use serde_json::json;

/// Definitions that are right, and ones that are wrong, one fault at a time.
fn cases() -> (Vec<String>, Vec<String>) {
    let mut right = vec![definitions("")];
    let mut wrong = Vec::new();
    let fields: &[(&str, &[&str], &[&str])] = &[
        (
            "storage",
            &["\"local-lvm\"", "\"a1\""],
            &["\"a\"", "\"1a\"", "\"a-\"", "\"ö1\"", "3", "null", "[ ]", "x: x"],
        ),
        ("nixosConfig", &["\"web.1_a\""], &["\".web\"", "\"-w\"", "\"\"", "\"a/b\"", "\"ü\""]),
        (
            "hostname",
            &["\"web\"", "\"web.example\""],
            &["\"a_b\"", "\"-a\"", "\"a..b\"", "\"a.\"", "\"\"", "{ }"],
        ),
        ("sshAlias", &["\"w_1\""], &["\"a b\"", "\"a;b\"", "true"]),
        ("user", &["\"_fleet-1\""], &["\"Fleet\"", "\"1a\"", "\"\"", "\"a b\""]),
        ("node", &["\"auto\"", "\"pve-1\""], &["\"pve_1\"", "\"-\"", "\"no node\"", "1", "1.0"]),
        (
            "template",
            &["100", "999999999"],
            &["99", "1000000000", "-1", "\"9002\"", "9002.0", "{ vmid = 9002; }"],
        ),
        ("clone", &["\"full\"", "\"linked\""], &["\"shallow\"", "\"\"", "true", "null"]),
        ("bridge", &["\"vmbr0\""], &["\"0vmbr\"", "\"averyveryverylongname\"", "\"vm br\"", "0"]),
        ("vlan", &["1", "4094"], &["0", "4095", "-7", "1.5", "\"20\""]),
        (
            "mac",
            &["\"BC:24:11:00:00:01\"", "\"bc:24:11:00:00:01\""],
            &[
                "\"BC:24:11:00:00\"",
                "\"01:00:00:00:00:00\"",
                "\"00:00:00:00:00:00\"",
                "\"BC-24-11-00-00-01\"",
                "\"BG:24:11:00:00:01\"",
                "\"BC:24:11:00:00:01:02\"",
                "7",
            ],
        ),
        ("mtu", &["576", "65520"], &["575", "65521", "\"1400\""]),
        (
            "ip",
            &[
                "\"dhcp\"",
                "\"192.0.2.10/24\"",
                "\"2001:db8::1/64\"",
                "\"192.0.2.10/32\"",
                "\"192.0.2.0/31\"",
                "\"::ffff:192.0.2.1/128\"",
                "\"192.0.2.10/024\"",
                "\"192.0.2.10/+24\"",
            ],
            &[
                "\"192.0.2.10\"",
                "\"192.0.2.0/24\"",
                "\"192.0.2.255/24\"",
                "\"192.0.2.10/0\"",
                "\"192.0.2.10/33\"",
                "\"192.0.2.010/24\"",
                "\"192.0.2.256/24\"",
                "\"192.0.2/24\"",
                "\"2001:db8::1::2/64\"",
                "\"2001:db8:::1/64\"",
                "\"1:2:3:4:5:6:7:8:9/64\"",
                "\"1:2:3:4:5:6:7:8::/64\"",
                "\"fe80::1%eth0/64\"",
                "\"::1/129\"",
                "\"::12345/64\"",
                "\"1.2.3.4::/64\"",
                "\"DHCP\"",
                "\"\"",
                "\"/\"",
                "\"192.0.2.10/ 24\"",
                "3232235777",
                "[ \"dhcp\" ]",
            ],
        ),
        (
            "nameservers",
            &["[ ]", "[ \"192.0.2.1\" \"2001:db8::53\" \"::\" ]"],
            &["[ \"resolver\" ]", "\"192.0.2.1\"", "[ 1 ]", "[ \"192.0.2.1/24\" ]"],
        ),
        ("cpu", &["\"host\"", "\"x86-64-v2-AES,flags=+aes\""], &["\"\"", "\"a b\"", "4"]),
        ("onBoot", &["true", "false"], &["1", "\"true\"", "null"]),
        (
            "tags",
            &["[ \"web\" \"_a+b.c\" ]"],
            &["[ \"Web\" ]", "\"web\"", "[ \"\" ]", "[ \"-a\" ]", "[ null ]"],
        ),
        (
            "disks",
            &["[ ]", "[ \"100G\" { size = \"1T\"; storage = \"tank\"; } { size = \"1.5G\"; } ]"],
            &[
                "[ \"100\" ]",
                "[ { } ]",
                "[ { size = \"1G\"; speed = 3; } ]",
                "[ { size = \"1G\"; storage = \"!\"; } ]",
                "\"100G\"",
                "[ 100 ]",
                "[ [ \"100G\" ] ]",
            ],
        ),
        (
            "timezone",
            &["\"Europe/Amsterdam\"", "\"Etc/GMT+2\""],
            &["\"\"", "\"Europe Amsterdam\"", "\"Zürich\""],
        ),
        ("packages", &["[ \"htop\" \"g++\" ]"], &["[ \"-htop\" ]", "\"htop\"", "[ \"a b\" ]", "[ true ]"]),
        ("authorizedKeys", &["[ ]"], &["[ \"TODO\" ]", "\"ssh-ed25519 AAAA\"", "[ 1 ]", "[ \"\" ]"]),
        ("install", &["\"none\"", "\"image\""], &["\"by hand\"", "false"]),
        ("protection", &["true"], &["\"yes\"", "0"]),
        ("readonly", &["true"], &["\"no\"", "{ }"]),
        ("purpose", &["\"größer ☃\"", "\"\""], &["[ \"a\" ]", "1"]),
        ("services", &["[ ]", "[ \"a\" ]"], &["\"a\"", "[ { } ]", "{ }"]),
        ("notes", &["[ \"\" ]"], &["null", "[ 1.5 ]"]),
        ("secrets", &["[ ]", "\"secrets/a.yaml\""], &["1", "[ 1 ]", "null"]),
        ("antiAffinity", &["[ \"edge\" ]", "\"edge\""], &["1", "[ null ]"]),
        ("colour", &[], &["\"red\"", "null"]),
        ("gateway", &[], &["\"192.0.2.1\""]),
    ];
    for (field, good, bad) in fields {
        let with = |value: &&str| definitions(&managed("web", &format!("{field} = {value};")));
        right.extend(good.iter().map(with));
        wrong.extend(bad.iter().map(with));
    }
    let usual = managed("web", "");
    let required: &[(&str, &str, &[&str], &[&str])] = &[
        (
            "vmid",
            "110",
            &["100", "199", "8999"],
            &[
                "",
                "99",
                "10000",
                "-110",
                "110.0",
                "\"110\"",
                "null",
                "250",
                "200",
                "299",
                "104",
                "9002",
                "9000",
                "9223372036854775807",
            ],
        ),
        ("cores", "1", &["4294967295"], &["", "0", "-1", "4294967296", "1.0", "\"1\"", "[ 1 ]"]),
        ("memory", "512", &["9223372036854775807"], &["", "511", "512.0", "\"4G\"", "-512"]),
        (
            "disk",
            "\"1G\"",
            &[
                "\"1K\"",
                "\"0.5M\"",
                "\"01.50T\"",
                "\"1048576T\"",
                "\"0.001K\"",
                "\"999999999999K\"",
                "\"999999999999M\"",
                "\"1073741824G\"",
                "\"1048575.9T\"",
            ],
            &[
                "",
                "\"1 G\"",
                "\"0G\"",
                "\"0.0T\"",
                "\"1g\"",
                "\"1GB\"",
                "\".5G\"",
                "\"5.G\"",
                "\"G\"",
                "\"\"",
                "\"-1G\"",
                "\"1e3G\"",
                "\"1048577T\"",
                "\"1048576.1T\"",
                "\"1073741825G\"",
                "\"0.0009K\"",
                "\"0.0000000000001G\"",
                "\"1000000000000K\"",
                "20",
                "20.5",
                "null",
                "/dev/sda",
                "[ \"1G\" ]",
            ],
        ),
    ];
    for (field, value, good, bad) in required {
        let with = |other: &&str| {
            let other = if other.is_empty() { String::new() } else { format!("{field} = {other};") };
            definitions(&usual.replace(&format!("{field} = {value};"), &other))
        };
        right.extend(good.iter().map(with));
        wrong.extend(bad.iter().map(with));
    }
    for (name, ok) in [
        ("web-1", true),
        ("Web", true),
        ("\"web.example\"", true),
        ("\"4two\"", true),
        ("a_b", false),
        ("plan", false),
        ("check", false),
        ("\"42\"", false),
        ("\"\"", false),
        ("\"-a\"", false),
        ("\"a-\"", false),
        ("\"ü\"", false),
        ("\"a b\"", false),
        ("\"a..b\"", false),
        ("template", false),
        ("doc1", false),
        ("DOC1", false),
        ("\"${\"doc1\"}\"", false),
    ] {
        if ok { &mut right } else { &mut wrong }.push(definitions(&managed(name, "")));
    }
    let two = |a: &str, b: &str| {
        definitions(&format!("{} {}", managed("web", a), managed("db", b).replace("110", "111")))
    };
    let fixed = |more: &str| definitions(&managed("web", more));
    right.extend([
        two("ip = \"192.0.2.10/24\";", "ip = \"192.0.2.11/24\";"),
        two("ip = \"dhcp\";", "ip = \"dhcp\";"),
        fixed("ip = \"192.0.2.10/24\"; gateway = \"192.0.2.1\";"),
        fixed("ip = \"192.0.2.10/32\"; gateway = \"198.51.100.1\";"),
        fixed("ip = \"2001:db8::2/64\"; gateway = \"fe80::1\";"),
        fixed("ip = \"2001:db8::2/63\"; gateway = \"2001:db8:0:1::1\";"),
        definitions(&format!("imported.a = {{ vmid = 120; ip = \"192.0.2.7\"; mac = \"odd\"; hardware = {{ gpu = 1; }}; }}; {usual}")),
        definitions("").replace("vmid = 9002;", "vmid = 9002; specs = { cores = 8; };"),
        "{ proxmox = { host = \"prom\"; }; }".to_owned(),
        "{ proxmox = { host = \"192.0.2.1\"; user = \"root@pam\"; node = \"pve\"; }; imported = { }; managed = { }; vmidRanges = { }; }".to_owned(),
    ]);
    for host in [
        "prom:2222",
        "192.0.2.7:22",
        "fd00::5",
        "[fd00::5]",
        "[fd00::5]:2222",
        "fe80::1%eth0",
        "my_host-1",
        "a~b+c",
    ] {
        right.push(definitions("").replace("\"prom\"", &format!("\"{host}\"")));
    }
    for host in [
        "https://prom:8006",
        "root@prom",
        "prom:",
        ":22",
        "prom:0",
        "prom:ssh",
        "prom:+22",
        "prom:70000",
        "prom:22:23",
        "a/b",
        "[fd00::5",
        "[prom]:22",
        "[fd00::5]22",
        "[fd00::5]:",
        "fd00::g",
        "$(x)",
        "prom,other",
        "fe80::1%e/x",
        "a;b",
        "a*",
    ] {
        wrong.push(definitions("").replace("\"prom\"", &format!("\"{}\"", host.replace('$', "\\$"))));
    }
    wrong.extend([
        two("ip = \"192.0.2.10/24\";", "ip = \"192.0.2.10/25\";"),
        two("ip = \"2001:db8::1/64\";", "ip = \"2001:DB8:0::0:1/64\";"),
        two("mac = \"BC:24:11:00:00:01\";", "mac = \"bc:24:11:00:00:01\";"),
        definitions(&format!(
            "{usual} managed.db = {{ vmid = 110; cores = 1; memory = 512; disk = \"1G\"; }};"
        )),
        definitions(&format!("{usual} {}", managed("WEB", "").replace("110", "111"))),
        fixed("ip = \"192.0.2.10/24\"; gateway = \"192.0.2.10\";"),
        fixed("ip = \"192.0.2.10/24\"; gateway = \"192.0.3.1\";"),
        fixed("ip = \"192.0.2.10/24\"; gateway = \"2001:db8::1\";"),
        fixed("ip = \"192.0.2.10/24\"; gateway = \"192.0.2.1/24\";"),
        fixed("ip = \"192.0.2.10/24\"; gateway = 1;"),
        fixed("ip = \"dhcp\"; gateway = \"192.0.2.1\";"),
        fixed("ip = \"192.0.2.10/24\"; } // { ip = \"192.0.2.10\";"),
        // Several at once: of three VMs, and in names that have to be quoted.
        definitions(&format!("imported.a = {{ vmid = 110; ip = \"192.0.2.10\"; }}; {}", {
            let address = "ip = \"192.0.2.10/24\";";
            managed("web", address) + &managed("db", address)
        })),
        definitions(&format!("{} {}", managed("\"a b\"", "vlan = 0; onBoot = 1;"), managed("\"c d\"", ""))),
        definitions("managed.web = x: x;"),
        definitions("managed.web = null;"),
        definitions("managed.web = [ ];"),
        definitions("managed.web.vm = { vmid = 110; cores = 1; memory = 512; disk = \"1G\"; };"),
        definitions("managed = [ ];"),
        definitions("managed = 3;"),
        definitions("machines = { };"),
        definitions("imported.a = { };"),
        definitions("imported.a = { vmid = 104; };"),
        definitions("imported.a = { vmid = 9002; };"),
        definitions("imported.a = { vmid = \"105\"; };"),
        definitions("imported.a = { vmid = 99; };"),
        definitions("imported.a = { vmid = 105; ip = \"here\"; };"),
        definitions("imported.a = { vmid = 105; services = \"x\"; };"),
        definitions("imported.a = { vmid = 105; readonly = \"true\"; };"),
        definitions("imported.a = { vmid = 105; specs = 3; };"),
        definitions("imported.a = { vmid = 105; specs = { cores = 0; }; };"),
        definitions("imported.a = { vmid = 105; specs = { disk = 20; }; };"),
        definitions("imported.a = 105;"),
        definitions(&format!(
            "imported.a = {{ vmid = 105; ip = \"192.0.2.10\"; }}; {}",
            managed("web", "ip = \"192.0.2.10/24\";")
        )),
        definitions(&format!("imported.template = {{ vmid = 105; }}; {usual}")),
        definitions("").replace("vmid = 9002; name", "name"),
        definitions("").replace("name = \"template\";", ""),
        definitions("").replace("name = \"template\";", "name = \"a template\";"),
        definitions("").replace("vmid = 9002; name", "vmid = 9002.5; name"),
        definitions("")
            .replace("template = { vmid = 9002; name = \"template\"; };", "template = \"template\";"),
        definitions("vmidRanges.odd = { start = 300; };"),
        definitions("vmidRanges.odd = { start = 300; end = 299; };"),
        definitions("vmidRanges.odd = { start = 99; end = 299; };"),
        definitions("vmidRanges.odd = { start = \"100\"; end = 299; };"),
        definitions("vmidRanges.odd = [ 100 199 ];"),
        definitions("").replace("host = \"prom\";", ""),
        definitions("").replace("\"prom\"", "\"a host\""),
        definitions("").replace("\"prom\"", "\"-oProxyCommand=x\""),
        definitions("").replace("\"prom\";", "\"prom\"; port = 22;"),
        definitions("").replace("\"local\"", "\"!\""),
        definitions("").replace("\"local\"", "null"),
        definitions(&usual).replace("defaultStorage = \"local\";", ""),
        "{ }".to_owned(),
        "{ managed = { }; }".to_owned(),
        "{ proxmox = \"prom\"; }".to_owned(),
        "[ ]".to_owned(),
    ]);
    (right, wrong)
}

/// Attribute paths of what the tools find wrong, as the library tells them: the whole file is `definitions`, a list is
/// wrong as a whole, and what several VMs have is told of each of them, where the tools tell of the later one and name
/// the first.
fn paths_of(faults: &[Fault]) -> BTreeSet<String> {
    let mut paths = BTreeSet::new();
    for fault in faults {
        let path = match fault.path.find(".disks.") {
            Some(end) => &fault.path[..end + ".disks".len()],
            None if fault.path.is_empty() => "definitions",
            None => &fault.path,
        };
        paths.insert(path.to_owned());
        let Some((_, by)) = fault.message.split_once("already taken by ") else { continue };
        let (vm, _) = by.split_once(" (").unwrap();
        let field = match fault.path.rsplit('.').next().unwrap() {
            field @ ("vmid" | "ip" | "mac") => format!(".{field}"),
            _ if vm == "template" => ".name".to_owned(),
            _ => String::new(),
        };
        paths.insert(format!("{vm}{field}"));
    }
    paths
}

/// What the library finds wrong the tools find wrong too, at the same entry and field, and nothing else.
#[test]
fn faults_are_faults_in_both() {
    let (right, wrong) = cases();
    let rights = right.len();
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("hosts.nix"), "{ }").unwrap();
    std::fs::create_dir(directory.path().join("vms")).unwrap();
    let all: Vec<String> = right.into_iter().chain(wrong).collect();
    let mut list = String::new();
    for (at, text) in all.iter().enumerate() {
        let file = directory.path().join(format!("vms/{at}.nix"));
        std::fs::write(&file, text).unwrap();
        list.push_str(&format!(" {}", file.display()));
    }
    let library = root().join("vms/lib.nix").canonicalize().unwrap();
    let expression = format!(
        "map (file: (import {} {{ definitions = import file; }}).faults) [{list} ]",
        library.display()
    );
    let path = directory.path().join("vms/definitions.nix");
    std::fs::write(&path, "{ proxmox.host = \"prom\"; }").unwrap();
    let Some(found) = by_nix(&path, &expression) else { return };
    for (at, (text, says)) in all.iter().zip(found.as_array().unwrap()).enumerate() {
        std::fs::write(&path, text).unwrap();
        let repo = Repo::at(directory.path()).unwrap();
        let loads = Definitions::load(&repo, NixMode::Embedded);
        assert_eq!(loads.is_ok(), at < rights, "{text}: {loads:?}");
        let told = loads.err().map(|error| faults::of(&error)).unwrap_or_default();
        let path = |said: &serde_json::Value| said.as_str().unwrap().split_once(": ").unwrap().0.to_owned();
        let paths: BTreeSet<String> = says.as_array().unwrap().iter().map(path).collect();
        assert_eq!(paths, paths_of(&told), "{text}: the library says {says}");
    }
}

/// What is wrong with ranges is said in the same words.
#[test]
fn ranges_that_can_not_be_right_are_told_alike() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("vms")).unwrap();
    let file = dir.path().join("vms/definitions.nix");
    std::fs::write(dir.path().join("hosts.nix"), "{ }").unwrap();
    type Ranges<'a> = &'a [(&'a str, u32, u32)];
    let cases: &[(Ranges, &[&str])] = &[
        (&[("production", 100, 199), ("containers", 200, 299)], &[]),
        // One within another, one that others keep, and such that no managed VM has a VMID of.
        (&[("production", 150, 250), ("containers", 100, 199)], &[]),
        (&[("lab", 120, 130), ("production", 100, 199), ("all", 100, 9999)], &[]),
        (&[("containers", 100, 199), ("staging", 150, 180)], &[]),
        (&[("production", 20000, 20100), ("templates", 9000, 9000), ("golden", 9000, 9000)], &[]),
        (
            &[("production", 199, 100), ("lab", 150, 160)],
            &["vmidRanges.production: the range ends (100) before it starts (199)"],
        ),
        (&[("production", 100, 100)], &[]),
        (&[("production", 9999, 999_999_999)], &[]),
    ];
    for (ranges, wanted) in cases {
        let ranges: String = ranges
            .iter()
            .map(|(n, start, end)| format!("vmidRanges.{n} = {{ start = {start}; end = {end}; }};\n"))
            .collect();
        let head = "proxmox = { host = \"prom\"; }; imported.doc1 = { vmid = 30050; };";
        std::fs::write(&file, format!("{{ {head} {ranges} }}")).unwrap();
        let loaded = Definitions::load(&Repo::at(dir.path()).unwrap(), NixMode::Embedded);
        let faults = loaded.err().map(|error| faults::of(&error)).unwrap_or_default();
        let mut said: Vec<String> =
            faults.iter().map(|fault| format!("{}: {}", fault.path, fault.message)).collect();
        said.sort();
        assert_eq!(said, *wanted, "{ranges}");
        let Some(mut found) = by_nix(&file, "builtins.sort (a: b: a < b) vms.faults") else { continue };
        assert_eq!(found.take(), json!(wanted), "{ranges}");
    }
}
