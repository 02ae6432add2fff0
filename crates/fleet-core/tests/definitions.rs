//! Definitions and hosts as the tools read them.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "a test that fails says where")]

mod repo_support;

use std::{fs, path::Path};

use fleet_core::{Kind, definitions::Definitions, faults::Fault, hosts::Hosts, nix::NixMode, repo::Repo};
use repo_support::repo_with;

fn own_repo() -> Repo {
    Repo::at(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")).unwrap()
}

fn faults(definitions: &str) -> (Kind, String) {
    let (_dir, repo) = repo_with(definitions, "{ }");
    let error = Definitions::load(&repo, NixMode::Embedded).unwrap_err();
    (error.kind(), error.message().to_owned())
}

#[test]
fn reads_this_repository() {
    let definitions = Definitions::load(&own_repo(), NixMode::Embedded).unwrap();
    let imported: Vec<_> = definitions.imported.iter().map(|vm| (vm.name.as_str(), vm.vmid.get())).collect();
    assert_eq!(imported, [("doc1", 104), ("igp", 109)]);
    let vm = definitions.managed("test-automation").unwrap();
    assert_eq!((vm.vmid.get(), vm.cores, vm.memory, vm.disk.to_string()), (110, 2, 4096, "20G".to_owned()));
    assert_eq!(definitions.template.as_ref().unwrap().vmid.get(), 9002);
    let ranges: Vec<_> = definitions.vmid_ranges.iter().map(|range| range.name.as_str()).collect();
    assert_eq!(ranges, ["production", "containers", "templates"], "the file's order");

    let hosts = Hosts::load(&own_repo(), NixMode::Embedded).unwrap();
    let doc1 = hosts.get("doc1").unwrap();
    assert!(doc1.configuration_file.as_ref().unwrap().ends_with("hosts/doc1/configuration.nix"));
    assert_eq!(doc1.authorized_keys.len(), 2);
    assert_eq!(hosts.keys_for("test-automation").unwrap(), doc1.authorized_keys);
    assert_eq!(hosts.common_user(), Some("fleet"));
}

#[test]
fn the_login_of_most_hosts_is_the_fleets() {
    let host =
        |name: &str, user: &str| format!("{name} = {{ configurationFile = ./x.nix; user = \"{user}\"; }};\n");
    let common = |text: String| {
        let (_dir, repo) = repo_with(&format!("{HEAD}}}\n"), &format!("{{ {text} }}"));
        Hosts::load(&repo, NixMode::Embedded).unwrap().common_user().map(str::to_owned)
    };
    let two = host("a", "me") + &host("b", "me");
    assert_eq!(common(two.clone() + &host("wsl", "nixos")).as_deref(), Some("me"));
    assert_eq!(common(two + &host("wsl", "nixos") + &host("c", "you")), None, "half of them are not most");
    assert_eq!(common(host("a", "me") + "b = { user = \"admin\"; };").as_deref(), Some("me"));
}

#[test]
fn what_begins_with_an_underscore_is_no_host() {
    let text = "{ _cluster = { host = \"192.0.2.1\"; user = 3; }; _domain = \"example.org\"; web = { user = \"me\"; proxmox = { vmid = 110; }; }; }";
    let (_dir, repo) = repo_with(&format!("{HEAD}}}\n"), text);
    let hosts = Hosts::load(&repo, NixMode::Embedded).unwrap();
    assert_eq!(hosts.hosts.iter().map(|host| host.name.as_str()).collect::<Vec<_>>(), ["web"]);
}

#[test]
fn hosts_below_an_attribute_are_no_host() {
    let text = "{\n  hosts = {\n    a = { user = \"me\"; };\n    b = { user = \"me\"; };\n  };\n}\n";
    let (_dir, repo) = repo_with(&format!("{HEAD}}}\n"), text);
    let message = Hosts::load(&repo, NixMode::Embedded).unwrap_err().chain();
    assert!(message.contains("hosts.nix:2:3") && message.contains("is no host"), "{message}");
    let (_dir, repo) =
        repo_with(&format!("{HEAD}}}\n"), "{ a = { publicKey = null; user = null; }; b = { }; }");
    let hosts = Hosts::load(&repo, NixMode::Embedded).unwrap();
    assert_eq!((hosts.hosts.len(), &hosts.hosts[0].public_key), (2, &None));
}

/// What would be right is said of what was written, not of sets in general.
#[test]
fn a_file_of_hosts_that_is_no_set_of_sets_is_told_how() {
    let called = "nobody calls this file: write { … }; what the function is given comes by `let` or `import`";
    let own = "a host is a set: write { … }; a name of your own begins with `_`";
    let given = "a host is a set: write what the function gives; a name of your own begins with `_`";
    for (text, help) in [
        ("{ lib, ... }: { a = { }; }", called),
        ("[ { hostname = \"a\"; } ]", "write { NAME = { … }; }: each under its name"),
        ("rec { keys = [ \"k\" ]; a = { authorizedKeys = keys; }; }", own),
        ("{ a = { pkgs, ... }: { }; }", given),
        ("\u{feff}{ a = { }; }", "a byte order mark, which Nix takes for no text: save the file without one"),
    ] {
        let (_dir, repo) = repo_with(&format!("{HEAD}}}\n"), text);
        let message = Hosts::load(&repo, NixMode::Embedded).unwrap_err().chain();
        assert!(message.contains(help), "{message}");
    }
}

#[test]
fn white_space_that_nix_does_not_know_is_a_fault() {
    for space in ["\u{c}", "\u{b}", "\u{a0}", "\u{2028}", "\u{85}", "\u{3000}"] {
        let (_dir, repo) = repo_with(&format!("{HEAD}}}\n"), &format!("{{ a ={space}{{ }}; }}"));
        let message = Hosts::load(&repo, NixMode::Embedded).unwrap_err().chain();
        assert!(message.contains("hosts.nix:1:6") && message.contains("white space"), "{message}");
    }
    let text = "{\r\n\ta = { user = \"\u{a0}\"; /* \u{3000} */ }; # \u{2028}\n}";
    let (_dir, repo) = repo_with(&format!("{HEAD}}}\n"), text);
    Hosts::load(&repo, NixMode::Embedded).unwrap();
}

const HEAD: &str = "{ proxmox = { host = \"prom\"; defaultStorage = \"tank\"; };\n";

#[test]
fn every_fault_at_once() {
    let (kind, message) = faults(&format!(
        "{HEAD}  managed.web = {{\n    vmid = 50;\n    cores = 0;\n    memroy = 4096;\n    disk = \"20 GB\";\n  }};\n}}\n"
    ));
    assert_eq!(kind, Kind::Failed);
    insta::assert_snapshot!(message, @r#"
    vms/definitions.nix is not valid (5 faults)
    vms/definitions.nix:2:11: managed.web.memory: `memory` is missing
      |
    2 |   managed.web = {
      |           ^^^
      = in MiB, for example: memory = 4096;
    vms/definitions.nix:3:12: managed.web.vmid: 50 is out of range
      |
    3 |     vmid = 50;
      |            ^^
      = from 100 to 9999
    vms/definitions.nix:4:13: managed.web.cores: 0 is out of range
      |
    4 |     cores = 0;
      |             ^
      = 1 or more
    vms/definitions.nix:5:5: managed.web.memroy: unknown field
      |
    5 |     memroy = 4096;
      |     ^^^^^^
      = did you mean `memory`?
    vms/definitions.nix:6:12: managed.web.disk: '20 GB' is not a valid disk size
      |
    6 |     disk = "20 GB";
      |            ^^^^^^^
      = a number and a unit, such as 512M, 20G or 1T
    "#);
}

/// Fleets write down more about machines that are there already than these tools know of.
#[test]
fn what_only_documents_may_say_more() {
    let text = format!(
        "{HEAD}  imported.igp = {{
    vmid = 109;
    specs = {{ disk = \"passthrough\"; sockets = 1; }};
    hardware = {{ gpu = \"AMD 9950X\"; notes = [ ]; }};
    monitoring = [ \"radeontop\" ];
  }};
  template = {{ vmid = 9002; name = \"ubuntu\"; specs = {{ cores = 2; disk = \"3584M\"; }}; notes = [ \"agent\" ]; }};
  vmidRanges.production = {{ start = 100; end = 199; owner = \"me\"; }};
}}
"
    );
    let (_dir, repo) = repo_with(&text, "{ }");
    Definitions::load(&repo, NixMode::Embedded).unwrap();

    let (_, message) = faults(&text.replace("monitoring", "servces"));
    insta::assert_snapshot!(message, @r#"
    vms/definitions.nix is not valid (1 fault)
    vms/definitions.nix:6:5: imported.igp.servces: unknown field
      |
    6 |     servces = [ "radeontop" ];
      |     ^^^^^^^
      = did you mean `services`?
    "#);
}

/// Words that only begin like a known field's, or stand beside it, are no slips.
#[test]
fn own_fields_that_resemble_known_ones_are_own() {
    let own = ["networks", "users", "hosts", "host", "names", "state", "ips", "ip6", "node2", "note"];
    let fields: String = own.iter().map(|name| format!("    {name} = \"x\";\n")).collect();
    let text = format!(
        "{HEAD}  imported.old = {{
    vmid = 150; notes = [ ]; node = \"prom\";
{fields}    specs = {{ cores = 1; memory = 512; disk = \"1G\"; storage = \"tank\"; disk2 = \"\"; storage2 = \"\"; mem = 1; core = 1; }};
  }};
}}
"
    );
    let (_dir, repo) = repo_with(&text, "{ }");
    Definitions::load(&repo, NixMode::Embedded).unwrap();
    let (_, message) = faults(&text.replace("notes = [ ];", ""));
    assert!(
        message.contains("imported.old.note: unknown field") && message.contains("(1 fault)"),
        "{message}"
    );
}

#[test]
fn a_vmid_taken_twice_is_a_conflict() {
    let (kind, message) = faults(&format!(
        "{HEAD}  imported.old.vmid = 104;\n  managed.web = {{ vmid = 104; cores = 1; memory = 512; disk = \"1G\"; }};\n}}\n"
    ));
    assert_eq!(kind, Kind::Conflict);
    insta::assert_snapshot!(message, @r#"
    vms/definitions.nix is not valid (1 fault)
    vms/definitions.nix:3:26: managed.web.vmid: VMID 104 is already taken by imported.old (vms/definitions.nix:2)
      |
    3 |   managed.web = { vmid = 104; cores = 1; memory = 512; disk = "1G"; };
      |                          ^^^
      = give each VM its own VMID
    "#);
}

#[test]
fn a_syntax_error_has_its_place() {
    let (kind, message) = faults("{\n  proxmox = { host = \"prom\" };\n}\n");
    assert_eq!(kind, Kind::Failed);
    insta::assert_snapshot!(message, @r#"
    vms/definitions.nix:2:29: syntax error: unexpected '}', expected ';'
      |
    2 |   proxmox = { host = "prom" };
      |                             ^
    "#);
}

#[test]
fn what_nix_itself_would_refuse_is_told_with_what_would_be_right() {
    for (text, told, help) in [
        (
            "{\n  cores = 2;\n  cores = 3;\n}\n",
            "3:3: attribute 'cores' is already defined",
            "the first is on line 2: keep one of them",
        ),
        (
            "{ a.b = 1; a = { b = 2; }; }\n",
            "1:18: attribute 'b' is already defined",
            "the first is on line 1: keep one of them",
        ),
        ("let small = 1; in { a = smal; }\n", "1:25: a: undefined variable 'smal'", "did you mean `small`?"),
        (
            "{ a = 4G; }\n",
            "1:8: undefined variable 'G'",
            "a number has no unit: `memory` is one of MiB, a disk's size is a text such as \"20G\"",
        ),
        (
            "{ a = { memory = 1; }.memroy; }\n",
            "1:23: a: attribute 'memroy' is missing",
            "did you mean `memory`?",
        ),
        (
            "{ a = ({ vmid }: vmid) { vmid = 1; vimd = 2; }; }\n",
            "1:7: a: unexpected argument 'vimd'",
            "did you mean `vmid`?",
        ),
        ("{ a = yes; }\n", "1:7: a: undefined variable 'yes'", "write `true`"),
        (
            "{ a = lib.x; }\n",
            "1:7: a: undefined variable 'lib'",
            "nobody gives this file `lib`: it is read by itself",
        ),
        (
            "{ a = local; }\n",
            "1:7: a: undefined variable 'local'",
            "a text goes in quotes: \"local\"; a name is bound by `let local = …; in`",
        ),
        (
            "{ a = { memory = cores * 2; cores = 2; }; }\n",
            "1:18: a.memory: undefined variable 'cores'",
            "`cores` is an attribute of the set, and `rec { … }` lets these use each other",
        ),
        (
            "{ a = { inherit cores; }; }\n",
            "1:17: a.cores: undefined variable 'cores'",
            "`inherit` takes what a name means around the set: bind it by `let cores = …; in`",
        ),
        (
            "{ a = 20G; }\n",
            "1:7: a: an integer can not be called like a function",
            "a number has no unit: `memory` is one of MiB, a disk's size is a text such as \"20G\"",
        ),
        (
            "{ a = ./my host/a.nix; }\n",
            "1:7: a: a path can not be called like a function",
            "a path ends at a blank: `./. + \"/a b/c.nix\"` is one with a blank in it",
        ),
        (
            "rec { a = b; b = a; }\n",
            "1:11: a: infinite recursion",
            "what a value is made of may not need the value itself",
        ),
        (
            "{ a = 99999999999999999999; }\n",
            "1:7: invalid integer '99999999999999999999'",
            "the largest is 9223372036854775807",
        ),
        (
            "{\n  a = 1\n}\n",
            "3:1: syntax error: unexpected '}', expected ';'",
            "is a `;` missing at the end of line 2?",
        ),
    ] {
        let (_dir, repo) = repo_with(text, "{ }");
        let error = Definitions::load(&repo, NixMode::Embedded).unwrap_err();
        let faults = fleet_core::faults::of(&error);
        let shown = |fault: &&Fault| {
            let path = if fault.path.is_empty() { String::new() } else { format!("{}: ", fault.path) };
            format!("{}:{}: {path}{}", fault.line.unwrap(), fault.column.unwrap(), fault.message) == told
        };
        let found: Vec<_> = faults.iter().filter(shown).collect();
        assert_eq!(found.len(), 1, "{text}: {faults:#?}");
        assert_eq!(found[0].help.as_deref(), Some(help), "{text}");
    }
}

#[test]
fn faults_as_objects() {
    let (_dir, repo) = repo_with(&format!("{HEAD}  managed.web = {{ vmid = \"x\"; }};\n}}\n"), "{ }");
    let error = Definitions::load(&repo, NixMode::Embedded).unwrap_err();
    let details = error.report().details.unwrap();
    let found: Vec<_> = details.as_array().unwrap().iter().map(|f| f["path"].as_str().unwrap()).collect();
    assert_eq!(found, ["managed.web.cores", "managed.web.memory", "managed.web.disk", "managed.web.vmid"]);
    assert_eq!(details[3]["line"], 2);
    assert_eq!(details[3]["column"], 26);
    assert_eq!(details[3]["message"], "must be a whole number, not a string");
}

#[test]
fn the_repository_as_a_whole() {
    fleet_core::validate::repository(&own_repo(), NixMode::Embedded).result().unwrap();

    let vm = "{ vmid = 110; cores = 1; memory = 512; disk = \"1G\"; }";
    let (dir, repo) = repo_with(
        &format!("{HEAD}  managed.web = {vm};\n}}\n"),
        "{ web = { configurationFile = ./hosts/web/configuration.nix; user = 1; }; }",
    );
    fs::create_dir_all(dir.path().join("hosts/webb")).unwrap();
    let report = fleet_core::validate::repository(&repo, NixMode::Embedded);
    insta::assert_snapshot!(report.result().unwrap_err().message(), @r#"
    the fleet repository is not valid (3 faults)
    hosts.nix:1:31: web.configurationFile: hosts/web/configuration.nix does not exist
      |
    1 | { web = { configurationFile = ./hosts/web/configuration.nix; user = 1; }; }
      |                               ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
    hosts.nix:1:69: web.user: must be a string, not an integer
      |
    1 | { web = { configurationFile = ./hosts/web/configuration.nix; user = 1; }; }
      |                                                                     ^
      = for example: user = "…";
    vms/definitions.nix:2:11: managed.web.nixosConfig: hosts/web/ does not exist
      |
    2 |   managed.web = { vmid = 110; cores = 1; memory = 512; disk = "1G"; };
      |           ^^^
      = did you mean `webb`? Else create hosts/web/ with configuration.nix and disko.nix
    "#);
}

/// Paths of all faults that the repository has, sorted.
fn all_faults(definitions: &str, hosts: &str) -> Vec<String> {
    let (_dir, repo) = repo_with(definitions, hosts);
    let report = fleet_core::validate::repository(&repo, NixMode::Embedded);
    let mut paths: Vec<String> =
        report.faults.iter().map(|fault| format!("{} {}", fault.path, fault.message)).collect();
    paths.sort();
    paths
}

#[test]
fn one_fault_hides_no_other() {
    let vm = |vmid: u32, rest: &str| {
        format!("{{ vmid = {vmid}; cores = 1; memory = 512; disk = \"1G\"; {rest} }}")
    };
    let definitions = format!(
        "{HEAD}  managed = {{ web = {}; misspelt = {}; bare = {}; odd = {}; named = {}; plan = {}; elsewhere = {}; }};\n}}\n",
        vm(110, "cpu = 1;"),
        vm(111, "nixosConfg = \"web\";"),
        vm(112, "install = \"none\"; cpu = 1;"),
        vm(113, "install = \"nnone\";"),
        vm(114, "nixosConfig = \"../x\";"),
        vm(115, ""),
        vm(116, "nixosConfig = \"else\";"),
    );
    let key = "publicKey = \"ssh-ed25519 AAAAx\";";
    let hosts = format!("{{ web = {{ user = 1; homeFile = ./gone.nix; {key} }}; old = {{ {key} }}; }}");
    let no_key = "no public key: it can not be read: Base64 encoding error: invalid Base64 encoding";
    let known = [
        "managed.bare.cpu must be a string, not an integer",
        "managed.elsewhere.nixosConfig hosts/else/ does not exist",
        "managed.misspelt.nixosConfg unknown field",
        "managed.named.nixosConfig '../x' is not accepted",
        "managed.odd.install 'nnone' is not one of the choices",
        "managed.plan a VM can not be called 'plan'",
        "managed.web.cpu must be a string, not an integer",
        "managed.web.nixosConfig hosts/web/ does not exist",
        &format!("old.publicKey {no_key}"),
        "web.homeFile gone.nix does not exist",
        "web.user must be a string, not an integer",
    ];
    assert_eq!(all_faults(&definitions, &hosts), known);
    // Nobody knows which machines are still to be made.
    let unknown = all_faults("{ managed = ; }", &hosts);
    assert!(!unknown.iter().any(|fault| fault.contains("publicKey")), "{unknown:?}");
    assert!(unknown.iter().any(|fault| fault.contains("gone.nix")), "{unknown:?}");
}

/// What the tools would refuse to provision a machine with; a list that says what is still to be filled in is none.
#[test]
fn keys_that_may_log_in_are_looked_at_by_a_check() {
    let good = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFgJbGZrsBEeRIA6LPuES08tiHfwujHsftm+n3YYE4pw root@doc1";
    let cut = good.replace("IFgJbGZr", "");
    let hosts = format!(
        "let\n  all = [ \"{good}\" \"{cut}\" ];\nin\n{{\n  a.authorizedKeys = all;\n  b.authorizedKeys = all;\n  \
         c.authorizedKeys = [ \"ssh-ed25519 AAAA... placeholder\" \"restrict {good}\" \"{good}\\n{good}\" ];\n  \
         d.authorizedKeys = [ \"-----BEGIN OPENSSH PRIVATE KEY-----\\nb3Bl\" ];\n  \
         f = {{ sshkeyName = \"-----BEGIN OPENSSH PRIVATE KEY-----\"; }};\n  \
         e.publicKey = \"-----BEGIN OPENSSH PRIVATE KEY-----\\nb3BlbnNzaC1rZXktdjE\";\n}}\n"
    );
    let vm = "{ vmid = 110; cores = 1; memory = 512; disk = \"1G\"; install = \"none\"; \
              authorizedKeys = [ \"-----BEGIN OPENSSH PRIVATE KEY-----\" ]; }";
    let (_dir, repo) = repo_with(&format!("{HEAD}  managed.web = {vm};\n}}\n"), &hosts);
    let report = fleet_core::validate::repository(&repo, NixMode::Embedded);
    let error = report.result().unwrap_err();
    assert!(!error.message().contains("BEGIN"), "{}", error.message());
    let told: Vec<String> = fleet_core::faults::of(&error)
        .iter()
        .map(|fault| {
            format!("{}:{}: {}: {}", fault.line.unwrap(), fault.column.unwrap(), fault.path, fault.message)
        })
        .collect();
    let private = "a private key, which belongs in no file of the repository";
    let cut = "no public key: it can not be read: Base64 encoding error: invalid Base64 length";
    assert_eq!(
        told,
        [
            format!("2:104: a.authorizedKeys: {cut}"),
            "7:160: c.authorizedKeys: a key must be one line of text".to_owned(),
            format!("8:24: d.authorizedKeys: {private}"),
            // Nor is the line shown of a fault that is another one.
            "9:9: f.sshkeyName: unknown field".to_owned(),
            format!("10:17: e.publicKey: {private}"),
            format!("2:106: managed.web.authorizedKeys: {private}"),
        ]
    );
}

#[test]
fn a_value_with_a_colon_is_told_whole() {
    let (_, message) = faults(&format!(
        "{HEAD}  managed.web = {{ vmid = 110; cores = 1; memory = 512; disk = \"20: G\"; mac = \"a': b\"; }};\n}}\n"
    ));
    let wrong: Vec<&str> = message.lines().filter(|line| line.contains("not a valid")).collect();
    let right: Vec<&str> = message.lines().filter(|line| line.contains("  = ")).collect();
    assert_eq!(
        wrong,
        [
            "vms/definitions.nix:2:63: managed.web.disk: '20: G' is not a valid disk size",
            "vms/definitions.nix:2:78: managed.web.mac: 'a\\': b' is not a valid MAC address",
        ]
    );
    assert_eq!(
        right,
        ["  = a number and a unit, such as 512M, 20G or 1T", "  = six bytes such as BC:24:11:00:00:01"]
    );
}

#[test]
fn reserved_ranges_and_addresses() {
    let vm = |rest: &str| format!("{{ cores = 1; memory = 512; disk = \"1G\"; {rest} }}");
    let (kind, message) = faults(&format!(
        "{HEAD}  managed = {{\n    a = {};\n    b = {};\n    c = {};\n    plan = {};\n  }};\n  vmidRanges = {{\n    \
         vms = {{ start = 100; end = 199; }};\n    containers = {{ start = 200; end = 299; }};\n  }};\n}}\n",
        vm("vmid = 250;"),
        vm("vmid = 101; ip = \"192.0.2.7/24\"; gateway = \"198.51.100.1\";"),
        vm("vmid = 102; ip = \"192.0.2.7/24\";"),
        vm("vmid = 103;"),
    ));
    assert_eq!(kind, Kind::Failed);
    insta::assert_snapshot!(message, @r#"
    vms/definitions.nix is not valid (4 faults)
    vms/definitions.nix:3:56: managed.a.vmid: 250 is reserved for containers (200 to 299)
      |
    3 |     a = { cores = 1; memory = 512; disk = "1G"; vmid = 250; };
      |                                                        ^^^
      = take one of 100 to 199 (vms)
    vms/definitions.nix:4:92: managed.b.gateway: 198.51.100.1 is not in the network of 192.0.2.7/24
      |
    4 |     b = { cores = 1; memory = 512; disk = "1G"; vmid = 101; ip = "192.0.2.7/24"; gateway = "198.51.100.1"; };
      |                                                                                            ^^^^^^^^^^^^^^
      = a gateway is reached without a gateway: it is an address of the VM's own network
    vms/definitions.nix:5:66: managed.c.ip: address 192.0.2.7 is already taken by managed.b (vms/definitions.nix:4)
      |
    5 |     c = { cores = 1; memory = 512; disk = "1G"; vmid = 102; ip = "192.0.2.7/24"; };
      |                                                                  ^^^^^^^^^^^^^^
      = give each VM its own address
    vms/definitions.nix:6:5: managed.plan: a VM can not be called 'plan'
      |
    6 |     plan = { cores = 1; memory = 512; disk = "1G"; vmid = 103; };
      |     ^^^^
      = `provision-vm plan` means something else: give the VM another name
    "#);
}

#[test]
fn the_next_vmid() {
    let definitions = Definitions::load(&own_repo(), NixMode::Embedded).unwrap();
    let vmid = |n: u32| fleet_core::types::Vmid::new(n).unwrap();
    let taken = [100, 101, 102, 103, 105].map(vmid).into();
    assert_eq!(definitions.suggest_vmid(None, &taken).unwrap(), vmid(106));
    assert_eq!(definitions.suggest_vmid(Some("containers"), &taken).unwrap(), vmid(200));
    let error = definitions.suggest_vmid(Some("productoin"), &taken).unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    assert_eq!(error.hints(), ["did you mean 'production'?"]);
    let error = definitions.suggest_vmid_between(vmid(100), vmid(105), &taken).unwrap_err();
    assert_eq!(error.kind(), Kind::Conflict);
}

#[test]
fn the_next_vmid_in_odd_ranges() {
    let vmid = |n: u32| fleet_core::types::Vmid::new(n).unwrap();
    let ranges = "managed.a = { vmid = 100; cores = 1; memory = 512; disk = \"1G\"; storage = \"local\"; };
        vmidRanges = { lab = { start = 9998; end = 12000; }; containers = { start = 101; end = 9000; };
        templates = { start = 20000; end = 999999999; }; others = { start = 10000; end = 30100; }; };";
    let text = format!("{{ proxmox.host = \"prom\"; {ranges} }}");
    let definitions = Definitions::of_text(&text, &own_repo(), NixMode::Embedded).unwrap();
    let none = Default::default();
    assert_eq!(definitions.suggest_vmid(None, &none).unwrap(), vmid(9998));
    assert_eq!(definitions.suggest_vmid(None, &[vmid(9998)].into()).unwrap(), vmid(9999));
    let taken = [9998, 9999].map(vmid).into();
    assert_eq!(definitions.suggest_vmid(None, &taken).unwrap_err().kind(), Kind::Conflict);
    assert_eq!(definitions.suggest_vmid(Some("lab"), &taken).unwrap_err().kind(), Kind::Conflict);
    let error = definitions.suggest_vmid(Some("others"), &none).unwrap_err();
    assert_eq!(error.message(), "the range 'others' (10000 to 30100) is above 9999");
    // Over what is reserved, however long that is.
    let between = |start, end| definitions.suggest_vmid_between(vmid(start), vmid(end), &none);
    assert_eq!(between(100, 999_999_999).unwrap(), vmid(9001));
    assert_eq!(between(101, 999_999_999).unwrap(), vmid(101));
    assert_eq!(between(999_999_999, 999_999_999).unwrap(), vmid(999_999_999));
    let many = (12000..20000).map(vmid).collect();
    assert!(definitions.suggest_vmid_between(vmid(12000), vmid(999_999_999), &many).is_err());
}
