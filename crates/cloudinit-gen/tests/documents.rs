//! The documents, as people and cloud-init read them.

mod common;

use common::{Fleet, KEY_A, KEY_B};

const STATIC: &str = r#"hostname = "web.example.org"; mac = "52:54:00:12:34:56"; mtu = 1400; timezone = "Europe/Amsterdam";
    ip = "192.0.2.10/24"; gateway = "192.0.2.1"; nameservers = [ "192.0.2.53" "2001:db8::53" ]; packages = [ "curl" ];"#;

#[test]
fn user_data() {
    let fleet = Fleet::web("");
    insta::assert_snapshot!(fleet.stdout(&["user-data", "web"]), @r"
    #cloud-config
    hostname: web
    fqdn: web
    manage_etc_hosts: true
    user: root
    users:
    - default
    disable_root: false
    ssh_pwauth: false
    ssh_authorized_keys:
    - ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMhYXQSOgHE+oBScuahDN238BE0yAfY11SzzS2QJOHE6 a
    growpart:
      mode: auto
      devices:
      - /
    package_update: false
    package_upgrade: false
    ");
    let fleet = Fleet::web(STATIC);
    insta::assert_snapshot!(fleet.stdout(&["user-data", "web", "--guest-agent"]), @r"
    #cloud-config
    hostname: web
    fqdn: web.example.org
    manage_etc_hosts: true
    timezone: Europe/Amsterdam
    user: root
    users:
    - default
    disable_root: false
    ssh_pwauth: false
    ssh_authorized_keys:
    - ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMhYXQSOgHE+oBScuahDN238BE0yAfY11SzzS2QJOHE6 a
    growpart:
      mode: auto
      devices:
      - /
    package_update: true
    package_upgrade: false
    packages:
    - curl
    - qemu-guest-agent
    runcmd:
    - - systemctl
      - start
      - --no-block
      - qemu-guest-agent
    ");
}

#[test]
fn network_config_by_dhcp() {
    let fleet = Fleet::web("");
    insta::assert_snapshot!(fleet.stdout(&["network-config", "web", "--mac", "BC:24:11:00:00:01"]), @r"
    version: 2
    ethernets:
      eth0:
        match:
          macaddress: bc:24:11:00:00:01
        set-name: eth0
        dhcp4: true
        dhcp-identifier: mac
    ");
}

#[test]
fn network_config_with_a_fixed_address() {
    let fleet = Fleet::web(STATIC);
    insta::assert_snapshot!(fleet.stdout(&["network-config", "web"]), @r"
    version: 2
    ethernets:
      eth0:
        match:
          macaddress: '52:54:00:12:34:56'
        set-name: eth0
        dhcp4: false
        addresses:
        - '192.0.2.10/24'
        routes:
        - to: '0.0.0.0/0'
          via: '192.0.2.1'
        nameservers:
          search:
          - example.org
          addresses:
          - '192.0.2.53'
          - '2001:db8::53'
        mtu: 1400
    ");
    let fleet = Fleet::web(r#"mac = "bc:24:11:00:00:01"; ip = "2001:db8::10/64"; gateway = "fe80::1";"#);
    insta::assert_snapshot!(fleet.stdout(&["network-config", "web"]), @r"
    version: 2
    ethernets:
      eth0:
        match:
          macaddress: bc:24:11:00:00:01
        set-name: eth0
        dhcp4: false
        addresses:
        - '2001:db8::10/64'
        routes:
        - to: ::/0
          via: fe80::1
    ");
}

#[test]
fn meta_data_and_vendor_data() {
    let fleet = Fleet::web("");
    insta::assert_snapshot!(fleet.stdout(&["meta-data", "web"]), @r"
    instance-id: web-110
    local-hostname: web
    ");
    insta::assert_snapshot!(fleet.stdout(&["meta-data", "web", "--instance-id", "i-1"]), @r"
    instance-id: i-1
    local-hostname: web
    ");
    insta::assert_snapshot!(fleet.stdout(&["vendor-data", "web"]), @r"
    #cloud-config
    {}
    ");
}

#[test]
fn an_imported_vm_is_only_printed() {
    let fleet = Fleet::web("");
    assert!(fleet.stdout(&["user-data", "doc1"]).contains("hostname: proxmox-vm\n"));
}

#[test]
fn keys_are_the_hosts_own_else_the_shared_ones() {
    let fleet = Fleet::new(
        "    web = { vmid = 110; cores = 1; memory = 512; disk = \"1G\"; };\n    db = { vmid = 111; cores = 1; memory = 512; disk = \"1G\"; };",
        &format!(
            "  doc1.authorizedKeys = [ \"{KEY_A} a\" \"{KEY_B} b\" \"{KEY_A} again\" ];\n  db.authorizedKeys = [ \"{KEY_B} b: # 'odd'\" \"{KEY_A} a\" ];"
        ),
    );
    assert_eq!(fleet.stdout(&["ssh-keys", "db"]), format!("{KEY_B} b: # 'odd'\n{KEY_A} a\n"));
    assert_eq!(fleet.stdout(&["ssh-keys", "doc1"]), format!("{KEY_A} a\n{KEY_B} b\n"));
    assert!(fleet.stdout(&["ssh-keys", "web"]).contains(KEY_A));
    let json: serde_json::Value = serde_json::from_str(&fleet.stdout(&["--json", "ssh-keys", "db"])).unwrap();
    assert_eq!(
        json,
        serde_json::json!({ "name": "db", "keys": [format!("{KEY_B} b: # 'odd'"), format!("{KEY_A} a")] })
    );
}

#[test]
fn json_is_the_document_itself() {
    let fleet = Fleet::web(STATIC);
    let json: serde_json::Value =
        serde_json::from_str(&fleet.stdout(&["--json", "network-config", "web"])).unwrap();
    assert_eq!(json["ethernets"]["eth0"]["match"]["macaddress"], "52:54:00:12:34:56");
    let json: serde_json::Value =
        serde_json::from_str(&fleet.stdout(&["--json", "user-data", "web"])).unwrap();
    assert_eq!(json["fqdn"], "web.example.org");
}

#[test]
fn a_host_key_is_handed_to_the_machine() {
    let key = include_str!("keys/host-key-TEST-FIXTURE.key");
    let key = key.split_once('\n').unwrap().1;
    let fleet = Fleet::web("");
    fleet.write("key", key);
    let json: serde_json::Value =
        serde_json::from_str(&fleet.stdout(&["--json", "user-data", "web", "--host-key", "key"])).unwrap();
    assert_eq!(json["ssh_keys"]["ed25519_private"], key);
    assert!(json["ssh_keys"]["ed25519_public"].as_str().unwrap().starts_with("ssh-ed25519 AAAA"));
    let from_stdin =
        fleet.command(["--json", "user-data", "web", "--host-key", "-"]).write_stdin(key).output().unwrap();
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&from_stdin.stdout).unwrap(), json);
}

#[test]
fn all_documents_are_written_for_their_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let fleet = Fleet::web(STATIC);
    let printed = fleet.stdout(&["all", "web", "--output-dir", "out/web"]);
    assert_eq!(printed.lines().count(), 5);
    for (file, verb) in [
        ("user-data", "user-data"),
        ("network-config", "network-config"),
        ("meta-data", "meta-data"),
        ("vendor-data", "vendor-data"),
        ("authorized_keys", "ssh-keys"),
    ] {
        let path = fleet.path().join("out/web").join(file);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), fleet.stdout(&[verb, "web"]), "{file}");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "{file}");
    }
}

#[test]
fn nothing_is_written_when_one_document_can_not_be() {
    let fleet = Fleet::web("");
    insta::assert_snapshot!(fleet.failure(&["all", "web", "--output-dir", "out"]), @r"
    exit 2
    ✗ the MAC address of 'web' is not known
      the interface is matched by its MAC address, and Proxmox chooses one where the definition has none
    hint: give --mac MAC, which `proxmox-ops config web` shows, or set `mac` in the definition
    ");
    assert!(!fleet.path().join("out").exists());
}

#[test]
fn a_seed_is_an_image_that_cloud_init_finds() {
    use std::os::unix::fs::PermissionsExt;
    let fleet = Fleet::web(STATIC);
    assert_eq!(fleet.stdout(&["seed", "web", "--output", "web.img"]), "web.img\n");
    let path = fleet.path().join("web.img");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let bytes = std::fs::read(path).unwrap();
    // The label in the boot sector of FAT12, where blkid(8) and cloud-init look for it.
    assert_eq!(&bytes[0x2b..0x36], b"CIDATA     ");
    let user_data = fleet.stdout(&["user-data", "web"]);
    assert!(bytes.windows(user_data.len()).any(|part| part == user_data.as_bytes()));
}

#[test]
fn keys_of_the_definition_are_added() {
    let fleet = Fleet::web(&format!("authorizedKeys = [ \"{KEY_B} guest\" \"{KEY_A} once more\" ];"));
    assert_eq!(fleet.stdout(&["ssh-keys", "web"]), format!("{KEY_A} a\n{KEY_B} guest\n"));
    let managed = format!(
        "    web = {{ vmid = 110; cores = 1; memory = 512; disk = \"1G\"; authorizedKeys = [ \"{KEY_B} guest\" ]; }};"
    );
    let fleet = Fleet::new(&managed, "  laptop = { user = \"me\"; };");
    assert_eq!(fleet.stdout(&["ssh-keys", "web"]), format!("{KEY_B} guest\n"));
}

#[test]
fn a_vlan_is_the_network_cards_business_unless_asked_otherwise() {
    let fleet = Fleet::web(&format!("vlan = 20; {STATIC}"));
    assert!(!fleet.stdout(&["network-config", "web"]).contains("vlan"));
    insta::assert_snapshot!(fleet.stdout(&["network-config", "web", "--tagged"]), @r"
    version: 2
    ethernets:
      eth0:
        match:
          macaddress: '52:54:00:12:34:56'
        set-name: eth0
        dhcp4: false
        mtu: 1400
    vlans:
      vlan20:
        id: 20
        link: eth0
        dhcp4: false
        addresses:
        - '192.0.2.10/24'
        routes:
        - to: '0.0.0.0/0'
          via: '192.0.2.1'
        nameservers:
          search:
          - example.org
          addresses:
          - '192.0.2.53'
          - '2001:db8::53'
        mtu: 1400
    ");
}

#[test]
fn several_machines_get_a_directory_each() {
    let vm = |name: &str, vmid: u32, more: &str| {
        format!("    {name} = {{ vmid = {vmid}; cores = 1; memory = 512; disk = \"1G\"; {more} }};\n")
    };
    let hosts = format!("  doc1.authorizedKeys = [ \"{KEY_A} a\" ];");
    let mac = |n: u32| format!("mac = \"bc:24:11:00:00:{n:02}\";");
    let fleet = Fleet::new(&(vm("web", 110, &mac(1)) + &vm("db", 111, &mac(2))), &hosts);
    let json: serde_json::Value =
        serde_json::from_str(&fleet.stdout(&["--json", "all", "--output-dir", "out"])).unwrap();
    assert_eq!((json[0]["name"].as_str(), json[1]["name"].as_str()), (Some("web"), Some("db")));
    assert_eq!(json[1]["files"][2], "out/db/meta-data");
    for name in ["web", "db"] {
        let written =
            std::fs::read_to_string(fleet.path().join("out").join(name).join("network-config")).unwrap();
        assert_eq!(written, fleet.stdout(&["network-config", name]));
    }
    assert_eq!(
        fleet.stdout(&["all", "db", "web", "--output-dir", "two"]).lines().next(),
        Some("two/db/user-data")
    );
    // One that can not be written keeps all of them from being written.
    let fleet = Fleet::new(&(vm("web", 110, &mac(1)) + &vm("db", 111, "") + &vm("mail", 112, "")), &hosts);
    insta::assert_snapshot!(fleet.failure(&["all", "--output-dir", "out"]), @r"
    exit 2
    ✗ 2 of 3 VMs have no documents; nothing was written
      - the MAC address of 'db' is not known
      - the MAC address of 'mail' is not known
    hint: give --mac MAC, which `proxmox-ops config db` shows, or set `mac` in the definition
    ");
    assert!(!fleet.path().join("out").exists());
}

/// mtools and blkid, which know nothing of us, find what cloud-init's NoCloud datasource looks for.
#[test]
fn other_programs_read_the_seed() {
    let fleet = Fleet::web(STATIC);
    fleet.stdout(&["--quiet", "seed", "web", "--output", "web.img"]);
    let names = ["user-data", "meta-data", "network-config", "vendor-data"];
    if let Some(mut mdir) = common::oracle("mdir") {
        let output = mdir.current_dir(fleet.path()).args(["-i", "web.img", "-b", "::"]).output().unwrap();
        let listed = String::from_utf8(output.stdout).unwrap();
        let mut listed: Vec<&str> = listed.lines().collect();
        listed.sort_unstable();
        assert_eq!(listed, ["::/meta-data", "::/network-config", "::/user-data", "::/vendor-data"]);
    }
    for name in names {
        let Some(mut mtype) = common::oracle("mtype") else { break };
        let output =
            mtype.current_dir(fleet.path()).args(["-i", "web.img", &format!("::{name}")]).output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), fleet.stdout(&[name, "web"]), "{name}");
    }
    if let Some(mut blkid) = common::oracle("blkid") {
        // As cloud-init asks: `blkid -odevice -tLABEL=CIDATA`, of a device.
        let args = ["-p", "-o", "value", "-s", "LABEL", "-s", "TYPE", "web.img"];
        let output = blkid.current_dir(fleet.path()).args(args).output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), "CIDATA\nvfat\n");
    }
}
