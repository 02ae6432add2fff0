//! The documents held against cloud-init itself and against a YAML reader that is not ours.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use cloudinit_gen::{
    meta_data::MetaData, network_config::NetworkConfig, subject::Subject, user_data::UserData, yaml,
};
use common::{Fleet, KEY_A, oracle};
use fleet_core::{authorized_keys::AuthorizedKey, definitions::Addressing};
use proptest::{
    strategy::{Strategy, ValueTree},
    test_runner::TestRunner,
};
use serde_json::json;

const VARIANTS: [&str; 3] = [
    "mac = \"52:54:00:12:34:56\";",
    r#"hostname = "2024-01-01.example.org"; mac = "bc:24:11:00:00:01"; mtu = 1400; timezone = "Europe/Amsterdam"; packages = [ "curl" "vim=2:9.0" ];
       ip = "192.0.2.10/24"; gateway = "192.0.2.1"; nameservers = [ "192.0.2.53" "2001:db8::53" ];"#,
    r#"hostname = "on"; mac = "52:54:00:12:34:56"; ip = "2001:db8::10/64"; gateway = "2001:db8::1";"#,
];

/// `cloud-init schema` of Debian 12 and of Debian 13 finds nothing to say, deprecations included.
#[test]
fn cloud_init_accepts_the_documents() {
    for variant in VARIANTS {
        let fleet = Fleet::web(variant);
        fleet.write("key", include_str!("keys/host-key-TEST-FIXTURE.key").split_once('\n').unwrap().1);
        for args in [
            &["user-data", "web", "--guest-agent", "--host-key", "key"] as &[&str],
            &["user-data", "web"],
            &["vendor-data", "web"],
            &["network-config", "web"],
        ] {
            fleet.write("document", &fleet.stdout(args));
            for (name, modules) in common::cloud_inits() {
                // Debian 12's knows the schema of cloud-configs only.
                let network = args[0] == "network-config";
                if network && modules.is_none() {
                    continue;
                }
                let (success, said) = schema(&fleet, modules.as_deref(), network);
                assert!(success, "{name}: {args:?}: {said}");
                assert!(
                    said.contains("Valid") && !said.to_lowercase().contains("deprecat"),
                    "{name}: {args:?}: {said}"
                );
            }
        }
    }
}

/// Whether `cloud-init schema` takes `document`, and what it says.
fn schema(fleet: &Fleet, modules: Option<&std::ffi::OsStr>, network: bool) -> (bool, String) {
    let mut command = common::python(modules);
    command.current_dir(fleet.path()).args([
        "-m",
        "cloudinit.cmd.main",
        "schema",
        "--config-file",
        "document",
    ]);
    if network {
        command.args(["--schema-type", "network-config"]);
    }
    let output = command.output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

/// The schemas would say so if something were wrong or deprecated: the check above can fail.
#[test]
fn cloud_init_refuses_what_is_wrong() {
    let fleet = Fleet::web("");
    for (name, modules) in common::cloud_inits() {
        fleet.write("document", "#cloud-config\nssh_pwauth: [ 1 ]\n");
        assert!(!schema(&fleet, modules.as_deref(), false).0, "{name}");
        fleet.write("document", "#cloud-config\napt_update: true\n");
        let (_, said) = schema(&fleet, modules.as_deref(), false);
        assert!(said.to_lowercase().contains("deprecat"), "{name}: {said}");
    }
}

/// `check` says what cloud-init's schema says, and nothing of documents that are right; of network-configs where that
/// cloud-init has a schema of them.
#[test]
fn check_asks_the_schema() {
    let fleet = Fleet::web(VARIANTS[1]);
    fleet.stdout(&["--quiet", "all", "web", "--output-dir", "."]);
    fleet.write("wrong", "#cloud-config\nssh_pwauth: [ 1 ]\n");
    let network = fleet.stdout(&["network-config", "web"]);
    fleet.write("wrong-network", &network.replace("mtu: 1400", "mtu: [ 1400 ]"));
    for (name, modules) in common::cloud_inits() {
        let help = common::python(modules.as_deref())
            .args(["-m", "cloudinit.cmd.main", "schema", "--help"])
            .output();
        let knows_networks = String::from_utf8(help.unwrap().stdout).unwrap().contains("--schema-type");
        let check = |files: &[&str]| {
            let mut command = fleet.command(["check"]);
            command.args(files).envs(modules.as_ref().map(|modules| ("PYTHONPATH", modules)));
            let output = command.output().unwrap();
            (output.status.code(), String::from_utf8(output.stderr).unwrap())
        };
        let (code, said) = check(&["user-data", "vendor-data", "network-config", "meta-data"]);
        assert_eq!(code, Some(0), "{name}: {said}");
        assert!(said.contains("✓ user-data: a cloud-config, valid by cloud-init's schema"), "{name}: {said}");
        let asked = said.contains("✓ network-config: a network-config, valid by cloud-init's schema");
        assert_eq!(asked, knows_networks, "{name}: {said}");

        let (code, said) = check(&["user-data", "wrong", "wrong-network"]);
        assert_eq!(code, Some(1), "{name}: {said}");
        assert!(said.contains("✗ wrong: schema:") && said.contains("ssh_pwauth"), "{name}: {said}");
        assert_eq!(said.contains("✗ wrong-network: schema:"), knows_networks, "{name}: {said}");
    }
}

/// Every renderer of cloud-init makes the same network of it.
#[test]
fn cloud_init_renders_the_network_config() {
    for (variant, address, gateway) in [
        (VARIANTS[0], None, None),
        (VARIANTS[1], Some("192.0.2.10/24"), Some("192.0.2.1")),
        (VARIANTS[2], Some("2001:db8::10/64"), Some("2001:db8::1")),
    ] {
        let fleet = Fleet::web(variant);
        fleet.write("network-config", &fleet.stdout(&["network-config", "web"]));
        for renderer in ["netplan", "networkd", "eni", "network-manager"] {
            let Some(mut cloud_init) = oracle("cloud-init") else { return };
            let out = fleet.path().join(renderer);
            let output = cloud_init
                .current_dir(fleet.path())
                .args(["devel", "net-convert", "--network-data", "network-config", "--kind", "yaml"])
                .args(["--distro", "debian", "--output-kind", renderer, "--directory"])
                .arg(&out)
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "{renderer}: {said}");
            let rendered = texts_below(&out);
            for wanted in [address, gateway].into_iter().flatten() {
                assert!(rendered.contains(wanted), "{renderer} lost {wanted}: {rendered}");
            }
            assert!(
                renderer == "eni"
                    || rendered.to_lowercase().contains("bc:24:11")
                    || rendered.contains("52:54:00"),
                "{renderer} lost the MAC address: {rendered}"
            );
            if renderer == "netplan" {
                assert_eq!(address.is_none(), rendered.contains("dhcp-identifier: mac"), "{rendered}");
            }
        }
    }
}

fn texts_below(directory: &std::path::Path) -> String {
    let mut text = String::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            text.push_str(&texts_below(&path));
        } else {
            text.push_str(&std::fs::read_to_string(path).unwrap());
        }
    }
    text
}

/// What PyYAML, which cloud-init reads with, makes of the documents, and what the schema has against them.
fn read_by_cloud_init(modules: Option<&std::ffi::OsStr>, documents: &[String]) -> Vec<serde_json::Value> {
    let mut input = documents.join("\0");
    input.push('\0');
    let output = common::python(modules)
        .args(["-c", include_str!("read_documents.py")])
        .write_stdin(input)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let answers: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answers.len(), documents.len());
    for (answer, document) in answers.iter().zip(documents) {
        assert_eq!(answer["faults"], json!([]), "{document}");
    }
    answers
}

#[test]
fn pyyaml_reads_the_same_documents() {
    for (_, modules) in common::cloud_inits() {
        for variant in VARIANTS {
            let fleet = Fleet::web(variant);
            let verbs = ["user-data", "network-config", "meta-data", "vendor-data"];
            let documents = verbs.map(|verb| fleet.stdout(&[verb, "web"]));
            let read = read_by_cloud_init(modules.as_deref(), &documents);
            for (verb, read) in verbs.into_iter().zip(read) {
                let meant: serde_json::Value =
                    serde_json::from_str(&fleet.stdout(&["--json", verb, "web"])).unwrap();
                assert_eq!(read["value"], meant, "{verb}");
            }
        }
    }
}

/// Text that a YAML reader may take for something else.
fn odd_text() -> impl Strategy<Value = String> {
    proptest::prop_oneof![
        "[ -~]{0,12}",
        "[0-9_:.eExXoObB+-]{1,12}",
        "[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}([Tt ][0-9:.]{1,8})?",
        "(ssh-ed25519 )?[A-Za-z0-9+/]{4} [\\PC]{0,16}",
        "\\PC{0,16}",
        proptest::sample::select(vec![
            "yes", "No", "on", "OFF", "y", "N", "~", "null", "", "=", "<<", "0o7", "007", "1:30", "a: b # c",
            "- x", "---", "...", "%YAML", "&a", "*a", "!!str", "|", ">", "'", "\"", "\\", "{", "[", "?", "@",
            "`", "é", "#", "🐧", "\u{a0}", "\u{85}x", "\u{2028}", "\u{feff}", "\u{fffe}", "\u{7f}", "\u{1}",
            "\t", " a ", "a\nb", "\r",
        ])
        .prop_map(String::from),
    ]
}

/// A host name that is a DNS name and that YAML may take for something else.
fn odd_host_name() -> impl Strategy<Value = String> {
    proptest::prop_oneof![
        "[a-z][a-z0-9]{0,8}(\\.[a-z]{2,5}){0,2}",
        "0[0-9]{1,6}",
        "[0-9]{4}-[0-9]{2}-[0-9]{2}",
        "0x[0-9a-f]{1,4}|[0-9]e[0-9]{1,3}|[0-9]{1,3}",
        proptest::sample::select(vec![
            "yes", "no", "on", "off", "y", "n", "null", "true", "false", "nan", "1e3"
        ])
        .prop_map(String::from),
    ]
}

/// 5,000 machines with odd values: every document is what the schema wants and says what was meant.
#[test]
fn any_machine_reaches_the_guest_as_it_was_defined() {
    let cloud_inits = common::cloud_inits();
    let mut runner = TestRunner::deterministic();
    let machines = (
        odd_host_name(),
        proptest::collection::vec(odd_text(), 1..3),
        proptest::option::of("[A-Z][a-z]{2,6}/[A-Z][A-Za-z_+-]{2,8}|UTC|0[0-9]{2}"),
        proptest::collection::vec("[a-z0-9][a-z0-9+.:=~-]{0,8}", 0..3),
        proptest::option::of(576..9000u32),
        proptest::option::of(1..4095u16),
        proptest::prelude::any::<([u8; 4], [u8; 6], bool)>(),
    );
    let (mut documents, mut meant, mut refused) = (Vec::new(), Vec::new(), 0);
    for machine in 0..5000 {
        let (fqdn, comments, timezone, packages, mtu, vlan, (ip, mac, fixed)) =
            machines.new_tree(&mut runner).unwrap().current();
        // What no line of an authorized_keys file carries is refused, by name, before there is a document.
        let mut keys = vec![format!("{KEY_A} a")];
        for comment in comments {
            match format!("{KEY_A} {comment}").parse::<AuthorizedKey>() {
                Ok(key) => keys.push(key.line),
                Err(why) => {
                    refused += 1;
                    assert!(why.starts_with("it contains the character U+"), "{comment:?}: {why}");
                }
            }
        }
        let mac = mac.map(|byte| format!("{byte:02x}")).join(":").replacen(|_: char| true, "0", 2);
        let (addressing, gateway) = if fixed {
            let cidr = format!("10.{}.{}.{}/8", ip[1], ip[2], ip[3]);
            (Addressing::Static(cidr.parse().unwrap()), Some("10.0.0.1".parse().unwrap()))
        } else {
            (Addressing::Dhcp, None)
        };
        let subject = Subject {
            name: "web",
            vmid: "110".parse().unwrap(),
            fqdn: &fqdn,
            mac: None,
            mtu,
            vlan,
            addressing,
            gateway,
            nameservers: &[ip.into()],
            timezone: timezone.as_deref(),
            packages: &packages,
            authorized_keys: &[],
        };
        let user_data = UserData::new(&subject, &keys);
        let network = NetworkConfig::new(&subject, mac.parse().unwrap(), vlan.is_some()).unwrap();
        let meta_data = MetaData::new(&subject, None).unwrap();
        documents.push(yaml::write(Some("#cloud-config"), &user_data).unwrap());
        meant.push(serde_json::to_value(&user_data).unwrap());
        let said = &meant[meant.len() - 1];
        assert_eq!((&said["fqdn"], &said["ssh_authorized_keys"]), (&json!(fqdn), &json!(keys)));
        // The others hold few values of their own: every tenth is enough of them.
        if machine % 10 == 0 {
            documents.push(yaml::write(None, &network).unwrap());
            documents.push(yaml::write(None, &meta_data).unwrap());
            meant.push(serde_json::to_value(&network).unwrap());
            meant.push(serde_json::to_value(&meta_data).unwrap());
        }
    }
    assert!(refused > 50, "only {refused} comments were refused");
    for (name, modules) in cloud_inits {
        // Debian 12's reads them all, for half a minute; Debian 13's a part.
        let count = if modules.is_none() { documents.len() } else { documents.len() / 10 };
        let read = read_by_cloud_init(modules.as_deref(), &documents[..count]);
        for ((read, meant), document) in read.iter().zip(&meant).zip(&documents) {
            assert_eq!(read["value"], *meant, "{name}: {document}");
        }
    }
}

/// Any text at all arrives as it was, 5,000 of them; no YAML reader may be one character off.
#[test]
fn pyyaml_reads_any_text_as_it_was() {
    let mut runner = TestRunner::deterministic();
    let texts: Vec<String> = (0..5000).map(|_| odd_text().new_tree(&mut runner).unwrap().current()).collect();
    let document = yaml::write(None, &texts).unwrap();
    for (name, modules) in common::cloud_inits() {
        let read = read_by_cloud_init(modules.as_deref(), std::slice::from_ref(&document));
        let read = read[0]["value"].as_array().unwrap();
        assert_eq!(read.len(), texts.len());
        for (read, meant) in read.iter().zip(&texts) {
            assert_eq!(read.as_str(), Some(&**meant), "{name}");
        }
    }
}
