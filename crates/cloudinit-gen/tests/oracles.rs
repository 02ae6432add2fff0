//! The documents held against cloud-init itself and against a YAML reader that is not ours.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use common::{Fleet, KEY_A, oracle};
use proptest::{
    strategy::{Strategy, ValueTree},
    test_runner::TestRunner,
};

const VARIANTS: [&str; 3] = [
    "mac = \"52:54:00:12:34:56\";",
    r#"hostname = "2024-01-01.example.org"; mac = "bc:24:11:00:00:01"; mtu = 1400; timezone = "Europe/Amsterdam"; packages = [ "curl" "vim=2:9.0" ];
       ip = "192.0.2.10/24"; gateway = "192.0.2.1"; nameservers = [ "192.0.2.53" "2001:db8::53" ];"#,
    r#"hostname = "on"; mac = "52:54:00:12:34:56"; ip = "2001:db8::10/64"; gateway = "2001:db8::1";"#,
];

/// `cloud-init schema` finds nothing to say, deprecations included.
#[test]
fn cloud_init_accepts_the_user_data() {
    for variant in VARIANTS {
        let fleet = Fleet::web(variant);
        fleet.write("key", include_str!("keys/host-key-TEST-FIXTURE.key").split_once('\n').unwrap().1);
        for args in [
            &["user-data", "web", "--guest-agent", "--host-key", "key"] as &[&str],
            &["user-data", "web"],
            &["vendor-data", "web"],
        ] {
            let Some(mut cloud_init) = oracle("cloud-init") else { return };
            fleet.write("document", &fleet.stdout(args));
            let output = cloud_init
                .current_dir(fleet.path())
                .args(["schema", "--config-file", "document"])
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
            assert!(output.status.success(), "{args:?}: {said}");
            assert!(said.contains("Valid") && !said.to_lowercase().contains("deprecat"), "{args:?}: {said}");
        }
    }
}

/// The schema would say so if something were wrong: the check above can fail.
#[test]
fn cloud_init_refuses_what_is_wrong() {
    let Some(mut cloud_init) = oracle("cloud-init") else { return };
    let fleet = Fleet::web("");
    fleet.write("document", "#cloud-config\nssh_pwauth: [ 1 ]\n");
    let output =
        cloud_init.current_dir(fleet.path()).args(["schema", "--config-file", "document"]).output().unwrap();
    assert!(!output.status.success());
}

/// `check` says what cloud-init's schema says, and nothing of documents that are right.
#[test]
fn check_asks_the_schema() {
    if oracle("cloud-init").is_none() {
        return;
    }
    let fleet = Fleet::web(VARIANTS[1]);
    fleet.stdout(&["--quiet", "all", "web", "--output-dir", "."]);
    fleet.stdout(&["--quiet", "check", "user-data", "vendor-data", "network-config", "meta-data"]);
    fleet.write("wrong", "#cloud-config\nssh_pwauth: [ 1 ]\n");
    let output = fleet.command(["check", "user-data", "wrong"]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("✓ user-data: a cloud-config, valid by cloud-init's schema"), "{said}");
    assert!(said.contains("✗ wrong: schema:") && said.contains("ssh_pwauth"), "{said}");
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

/// What PyYAML, which cloud-init reads with, makes of a document.
fn read_by_pyyaml(document: &str) -> Option<serde_json::Value> {
    // Debian's own Python has the yaml module with cloud-init; another one on PATH may not.
    let python =
        if std::path::Path::new("/usr/bin/python3").is_file() { "/usr/bin/python3" } else { "python3" };
    oracle("cloud-init")?;
    let output = assert_cmd::Command::new(python)
        .args(["-c", "import json, sys, yaml; json.dump(yaml.safe_load(sys.stdin.buffer), sys.stdout)"])
        .write_stdin(document)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

#[test]
fn pyyaml_reads_the_same_documents() {
    for variant in VARIANTS {
        let fleet = Fleet::web(variant);
        for verb in ["user-data", "network-config", "meta-data", "vendor-data"] {
            let Some(read) = read_by_pyyaml(&fleet.stdout(&[verb, "web"])) else { return };
            let meant: serde_json::Value =
                serde_json::from_str(&fleet.stdout(&["--json", verb, "web"])).unwrap();
            assert_eq!(read, meant, "{verb}");
        }
    }
}

/// Any text that a document may carry arrives as it was: 5,000 of them, and the words that YAML 1.1 has its own
/// mind about.
#[test]
fn pyyaml_reads_any_text_as_it_was() {
    let mut runner = TestRunner::deterministic();
    let texts = proptest::prop_oneof![
        "[ -~]{0,12}",
        "[0-9_:.eExXoObB+-]{1,12}",
        "[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}([Tt ][0-9:.]{1,8})?",
        "(ssh-ed25519 )?[A-Za-z0-9+/]{4} [\\PC]{0,16}",
    ];
    let mut texts: Vec<String> = (0..5000).map(|_| texts.new_tree(&mut runner).unwrap().current()).collect();
    texts.extend(
        ["yes", "No", "on", "OFF", "y", "N", "~", "null", "", "=", "<<", "0o7", "007", "1:30"]
            .map(String::from),
    );
    texts.extend([format!("{KEY_A} a: b # c"), "é".to_owned(), "- x".to_owned(), "---".to_owned()]);
    texts.retain(|text| {
        !text.chars().any(|c| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}'))
    });
    assert!(texts.len() > 4900, "only {} texts are left", texts.len());
    let document = cloudinit_gen::yaml::write(None, &texts).unwrap();
    let Some(read) = read_by_pyyaml(&document) else { return };
    let read = read.as_array().unwrap();
    assert_eq!(read.len(), texts.len());
    for (read, meant) in read.iter().zip(&texts) {
        assert_eq!(read.as_str(), Some(&**meant));
    }
}
