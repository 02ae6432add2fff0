//! What goes wrong, as people read it: exact words and exit codes.

mod common;

use common::{Fleet, KEY_A, program};

#[test]
fn outside_a_repository() {
    let empty = tempfile::tempdir().unwrap();
    let output = program().current_dir(empty.path()).args(["user-data", "web"]).output().unwrap();
    assert_eq!(output.status.code(), Some(5));
    let place = empty.path().canonicalize().unwrap().display().to_string();
    insta::assert_snapshot!(String::from_utf8(output.stderr).unwrap().replace(&place, "HERE"), @r"
    ✗ not inside a fleet repository: HERE
      looked for vms/definitions.nix and hosts.nix there and in every directory above
    hint: run `cloudinit-gen --repo DIR user-data web`, or change into the repository first
    ");
}

#[test]
fn unknown_vm() {
    insta::assert_snapshot!(Fleet::web("").failure(&["user-data", "weeb"]), @r"
    exit 5
    ✗ no VM 'weeb' in REPO/vms/definitions.nix
    hint: did you mean 'web'?
    ");
    insta::assert_snapshot!(Fleet::web("").failure(&["ssh-keys", "$(reboot); x"]), @r"
    exit 5
    ✗ no VM '$(reboot); x' in REPO/vms/definitions.nix
    hint: add it under `managed` in REPO/vms/definitions.nix
    ");
}

#[test]
fn the_template() {
    insta::assert_snapshot!(Fleet::web("").failure(&["user-data", "cloud-template"]), @r"
    exit 5
    ✗ 'cloud-template' is the template (VMID 9002), not a VM
    hint: name a VM that is made from it
    ");
}

#[test]
fn no_key_at_all() {
    let fleet = Fleet::new(
        "    web = { vmid = 110; cores = 1; memory = 512; disk = \"1G\"; };",
        "  laptop = { user = \"me\"; };",
    );
    insta::assert_snapshot!(fleet.failure(&["user-data", "web"]), @r"
    exit 5
    ✗ no key may log in on 'web'
      REPO/hosts.nix has no `authorizedKeys` for it, and its hosts share none
    hint: give web an `authorizedKeys` list in REPO/hosts.nix
    ");
    let fleet = Fleet::new(
        "    web = { vmid = 110; cores = 1; memory = 512; disk = \"1G\"; };",
        "  web = { authorizedKeys = [ ]; };",
    );
    insta::assert_snapshot!(fleet.failure(&["ssh-keys", "web"]), @r"
    exit 5
    ✗ no key may log in on 'web'
      REPO/hosts.nix has no `authorizedKeys` for it, and its hosts share none
    hint: give web an `authorizedKeys` list in REPO/hosts.nix
    ");
}

#[test]
fn a_malformed_key() {
    let fleet = Fleet::new(
        "    web = { vmid = 110; cores = 1; memory = 512; disk = \"1G\"; };",
        &format!(
            "  web = {{\n    authorizedKeys = [\n      \"{KEY_A} a\"\n      \"ssh-ed25519 AAAAC3Nz b\"\n    ];\n  }};"
        ),
    );
    insta::assert_snapshot!(fleet.failure(&["ssh-keys", "web"]), @r"
    exit 2
    ✗ hosts.nix:5: a key for 'web' is not right: it can not be read: Base64 encoding error: invalid Base64 length
      the key reads: ssh-ed25519 AAAAC3Nz b
    hint: a key is one line such as `ssh-ed25519 AAAA… who@where`, as in a .pub file
    ");
}

#[test]
fn mac_address() {
    insta::assert_snapshot!(Fleet::web("").failure(&["network-config", "web"]), @r"
    exit 2
    ✗ the MAC address of 'web' is not known
      the interface is matched by its MAC address, and Proxmox chooses one where the definition has none
    hint: give --mac MAC, which `proxmox-ops config web` shows, or set `mac` in the definition
    ");
    let fleet = Fleet::web("mac = \"bc:24:11:00:00:01\";");
    insta::assert_snapshot!(fleet.failure(&["network-config", "web", "--mac", "bc:24:11:00:00:02"]), @r"
    exit 2
    ✗ managed.web.mac is BC:24:11:00:00:01, but --mac says BC:24:11:00:00:02
    ");
    insta::assert_snapshot!(fleet.failure(&["network-config", "web", "--mac", "x; reboot"]), @r"
    exit 2
    error: invalid value 'x; reboot' for '--mac <MAC>': 'x; reboot' is not a valid MAC address: six bytes such as BC:24:11:00:00:01

    For more information, try '--help'.
    ");
}

#[test]
fn values_that_no_document_should_carry() {
    insta::assert_snapshot!(Fleet::web("timezone = \"UTC; reboot\";").failure(&["user-data", "web"]), @r#"
    exit 1
    ✗ vms/definitions.nix is not valid (1 fault)
    vms/definitions.nix:5:76: managed.web.timezone: 'UTC; reboot' is not accepted
      |
    5 |     web = { vmid = 110; cores = 2; memory = 2048; disk = "20G"; timezone = "UTC; reboot"; };
      |                                                                            ^^^^^^^^^^^^^
      = a name from the time zone database, such as Europe/Amsterdam or UTC
    "#);
    insta::assert_snapshot!(Fleet::web("packages = [ \"--allow\" ];").failure(&["user-data", "web"]), @r#"
    exit 1
    ✗ vms/definitions.nix is not valid (1 fault)
    vms/definitions.nix:5:78: managed.web.packages: '--allow' is not the name of a package
      |
    5 |     web = { vmid = 110; cores = 2; memory = 2048; disk = "20G"; packages = [ "--allow" ]; };
      |                                                                              ^^^^^^^^^
    "#);
    insta::assert_snapshot!(Fleet::web("").failure(&["meta-data", "web", "--instance-id", "../x"]), @r"
    exit 2
    ✗ '../x' is not a valid instance id: letters, digits, '-', '_' and '.'
    ");
}

#[test]
fn a_syntax_error_has_its_place() {
    let fleet = Fleet::web("");
    fleet.write("vms/definitions.nix", "{\n  managed = { web = { vmid = 110 cores = 2; }; };\n}\n");
    insta::assert_snapshot!(fleet.failure(&["user-data", "web"]), @r"
    exit 1
    ✗ vms/definitions.nix:2:40: syntax error: unexpected '=', expected ';'
      |
    2 |   managed = { web = { vmid = 110 cores = 2; }; };
      |                                        ^
    hint: is a `;` missing before `cores`?
    ");
    let fleet = Fleet::web("");
    fleet.write("hosts.nix", "{ web = {\n");
    insta::assert_snapshot!(fleet.failure(&["ssh-keys", "web"]), @r"
    exit 1
    ✗ hosts.nix:1:10: syntax error: unexpected end of the file
      |
    1 | { web = {
      |          ^
    hint: the `{` on line 1 is not closed
    ");
}

#[test]
fn no_name() {
    insta::assert_snapshot!(Fleet::web("").failure(&["user-data"]), @r"
    exit 2
    error: the following required arguments were not provided:
      <NAME>

    Usage: cloudinit-gen user-data <NAME>

    For more information, try '--help'.
    ");
}

#[test]
fn gateways() {
    let fleet = Fleet::web(r#"mac = "bc:24:11:00:00:01"; ip = "192.0.2.10/24";"#);
    insta::assert_snapshot!(fleet.failure(&["network-config", "web"]), @r#"
    exit 2
    ✗ managed.web: the address 192.0.2.10/24 has no gateway
    hint: add `gateway = "…";` to managed.web, or `ip = "dhcp";`
    "#);
    let fleet = Fleet::web(r#"mac = "bc:24:11:00:00:01"; ip = "192.0.2.10/32"; gateway = "198.51.100.1";"#);
    insta::assert_snapshot!(fleet.failure(&["network-config", "web"]), @r"
    exit 2
    ✗ managed.web: the gateway 198.51.100.1 is outside the network of 192.0.2.10/32
      cloud-init's network-config has no way to say that it is reached directly all the same
    hint: give the address with a prefix that takes the gateway in
    ");
    let fleet = Fleet::web(r#"ip = "192.0.2.10/24"; gateway = "198.51.100.1";"#);
    insta::assert_snapshot!(fleet.failure(&["ssh-keys", "web"]), @r#"
    exit 1
    ✗ vms/definitions.nix is not valid (1 fault)
    vms/definitions.nix:5:97: managed.web.gateway: 198.51.100.1 is not in the network of 192.0.2.10/24
      |
    5 |     web = { vmid = 110; cores = 2; memory = 2048; disk = "20G"; ip = "192.0.2.10/24"; gateway = "198.51.100.1"; };
      |                                                                                                 ^^^^^^^^^^^^^^
      = a gateway is reached without a gateway: it is an address of the VM's own network
    "#);
}

#[test]
fn host_keys() {
    let fleet = Fleet::web("");
    fleet.write("not-a-key", "hello\n");
    insta::assert_snapshot!(fleet.failure(&["user-data", "web", "--host-key", "not-a-key"]), @r"
    exit 2
    ✗ not-a-key: not an OpenSSH private key: PEM preamble contains invalid data (NUL byte)
    ");
    insta::assert_snapshot!(fleet.failure(&["user-data", "web", "--host-key", "missing"]), @r"
    exit 5
    ✗ can not read the host key missing: No such file or directory (os error 2)
    ");
}

#[test]
fn errors_are_objects_with_json() {
    let output = Fleet::web("").command(["--json", "ssh-keys", "weeb"]).output().unwrap();
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["error"]["kind"], "not-found");
    assert_eq!(json["error"]["exit_code"], 5);
}

#[test]
fn keys_of_the_definition() {
    let fleet = Fleet::web(
        "\n      authorizedKeys = [\n        \"nonsense\"\n        \"nopty ssh-ed25519 AAAA x\"\n      ];",
    );
    insta::assert_snapshot!(fleet.failure(&["ssh-keys", "web"]), @r#"
    exit 1
    ✗ vms/definitions.nix is not valid (2 faults)
    vms/definitions.nix:7:9: managed.web.authorizedKeys: 'nonsense' is not a public key
      |
    7 |         "nonsense"
      |         ^^^^^^^^^^
      = it does not begin with a type that sshd knows, such as ssh-ed25519
    vms/definitions.nix:8:9: managed.web.authorizedKeys: 'nopty ssh-ed25519 AAAA x' is not a public key
      |
    8 |         "nopty ssh-ed25519 AAAA x"
      |         ^^^^^^^^^^^^^^^^^^^^^^^^^^
      = sshd knows no option 'nopty'
    "#);
}

#[test]
fn certificates() {
    let certificate = include_str!("keys/every-type.pub").lines().last().unwrap();
    let fleet = Fleet::new(
        "    web = { vmid = 110; cores = 1; memory = 512; disk = \"1G\"; };",
        &format!("  web.authorizedKeys = [ \"{certificate}\" ];"),
    );
    insta::assert_snapshot!(fleet.failure(&["ssh-keys", "web"]), @r"
    exit 5
    ✗ only certificates for 'web' in REPO/hosts.nix
      sshd lets nobody in for a certificate that is listed itself
    hint: list a public key; or the key of the authority that signs, as `cert-authority ssh-ed25519 AAAA…`
    ");
    let fleet = Fleet::new(
        "    web = { vmid = 110; cores = 1; memory = 512; disk = \"1G\"; };",
        &format!("  web.authorizedKeys = [ \"{certificate}\" \"{KEY_A}\" ];"),
    );
    let output = fleet.command(["ssh-keys", "web"]).output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("{certificate}\n{KEY_A}\n"));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.starts_with("⚠ 'web' lists a certificate, for which sshd lets nobody in"), "{said}");
}

#[test]
fn addresses() {
    let fleet =
        Fleet::web(r#"ip = "192.0.2.0/24"; gateway = "192.0.2.1"; nameservers = [ "dns.example.org" ];"#);
    insta::assert_snapshot!(fleet.failure(&["network-config", "web"]), @r#"
    exit 1
    ✗ vms/definitions.nix is not valid (2 faults)
    vms/definitions.nix:5:70: managed.web.ip: '192.0.2.0/24' is the network's own address, not a machine's
      |
    5 |     web = { vmid = 110; cores = 2; memory = 2048; disk = "20G"; ip = "192.0.2.0/24"; gateway = "192.0.2.1"; nameservers = [ "dns.example.org" ]; };
      |                                                                      ^^^^^^^^^^^^^^
      = such as 192.0.2.10/24
    vms/definitions.nix:5:125: managed.web.nameservers: 'dns.example.org' is not a valid address
      |
    5 |     web = { vmid = 110; cores = 2; memory = 2048; disk = "20G"; ip = "192.0.2.0/24"; gateway = "192.0.2.1"; nameservers = [ "dns.example.org" ]; };
      |                                                                                                                             ^^^^^^^^^^^^^^^^^
      = an IPv4 or IPv6 address such as 192.0.2.1
    "#);
    let fleet = Fleet::web("mac = \"bc:24:11:00:00:01\";");
    insta::assert_snapshot!(fleet.failure(&["network-config", "web", "--tagged"]), @r"
    exit 2
    ✗ 'web' is in no VLAN that it could tag its packets for
    hint: set `vlan` in managed.web, or leave --tagged out
    ");
}

#[test]
fn a_document_on_standard_input_is_checked() {
    let fleet = Fleet::web("");
    let mut command = program();
    command.current_dir(fleet.path()).args(["check", "-"]).write_stdin("instance-id: web-1\n");
    command.assert().success().stderr("✓ -: meta-data\n");
    let mut command = program();
    command.current_dir(fleet.path()).args(["check", "-"]).write_stdin("hostname: x\n");
    command.assert().code(1);
    // A host key may be in it: it is written nowhere where cloud-init does not look at it, else in memory.
    let (bin, disk) = (fleet.path().join("bin"), fleet.path().join("run"));
    [&bin, &disk].into_iter().for_each(|dir| std::fs::create_dir(dir).unwrap());
    // Where there is such a place at all.
    let shm = std::path::Path::new("/dev/shm");
    let shm = if fleet_core::memory::is_in_memory(shm) { shm } else { &disk };
    let memory = tempfile::tempdir_in(shm).unwrap();
    let memory = memory.path();
    let check = |text: &'static str| {
        let mut command = program();
        command.current_dir(fleet.path()).args(["check", "-"]).write_stdin(text);
        command.env("PATH", &bin).env("XDG_RUNTIME_DIR", memory).env("TMPDIR", fleet.path().join("nowhere"));
        command
    };
    let text = "#cloud-config\nhostname: web\n";
    let unchecked = "✓ -: a cloud-config; its schema was not checked, cloud-init is not installed\n";
    check(text).assert().success().stderr(unchecked);
    // In the place of cloud-init: tells where the copy is, with which mode, and what is in it.
    let script = "#!/bin/sh\nPATH=/usr/bin:/bin\n[ $2 = --help ] && exit\n\
                  stat -c '%a %n' $3; cat $3; exit 1\n";
    std::fs::write(bin.join("cloud-init"), script).unwrap();
    std::fs::set_permissions(bin.join("cloud-init"), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .unwrap();
    let output = check(text).output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains(&format!("schema: 600 {}/", memory.display())), "{told}");
    assert!(told.contains("schema: hostname: web"), "{told}");
    assert_eq!(std::fs::read_dir(memory).unwrap().count(), 0);
    // What is called so and is on a disk is passed over.
    if shm != disk && !fleet_core::memory::is_in_memory(&disk) {
        let output = check(text).env("XDG_RUNTIME_DIR", &disk).output().unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(told.contains("schema: 600 /dev/shm/"), "{told}");
    }
}
