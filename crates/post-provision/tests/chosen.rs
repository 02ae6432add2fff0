//! A definition's `secrets` list decides which rules the VM's key joins.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use common::{Fleet, fails, identity};
use post_provision::sops::decrypt_file;

/// A fleet whose definition of `nas` has this list, with one rule for INI files beside the one for everything.
fn fleet(list: &str) -> Fleet {
    let fleet = Fleet::new();
    let rule = "  - path_regex: \\.ini$\n    key_groups:\n      - age: [*operator, *web]\n";
    fleet.edit("secrets/.sops.yaml", "  - path_regex: .*\n", &format!("{rule}  - path_regex: .*\n"));
    fleet.edit("vms/definitions.nix", "nas = {", &format!("nas = {{ secrets = {list};"));
    fleet.git(&["init", "-q", "-b", "main"]);
    fleet.git(&["add", "-A"]);
    fleet.git(&["commit", "-q", "-m", "start"]);
    fleet
}

fn opens(fleet: &Fleet, name: &str) -> bool {
    decrypt_file(&fleet.path(name), &identity("c")).is_ok()
}

#[test]
fn the_key_joins_the_rules_that_the_list_names_and_no_others() {
    let regex = r#"[ "\\.ini$" ]"#;
    for (list, ini, yaml) in [
        (r#"[ "secrets/deep/values.ini" ]"#, true, false),
        (r#"[ "deep" ]"#, true, false),
        (r#""./secrets/deep/""#, true, false),
        (regex, true, false),
        (r#"[ "values.yaml" ]"#, false, true),
        (r#"[ "deep/values.ini" ".*" ]"#, true, true),
        ("[ ]", false, false),
    ] {
        let fleet = fleet(list);
        let said = fleet.add(&[]);
        assert_eq!(opens(&fleet, "secrets/deep/values.ini"), ini, "{list}: {said}");
        assert_eq!(opens(&fleet, "secrets/values.yaml"), yaml, "{list}: {said}");
        assert!(!opens(&fleet, "secrets/hosts/web/own.yaml"), "{list}");
        assert!(!said.contains('⚠'), "{list}: {said}");
        assert!(fleet.add(&[]).contains("Nothing to do"), "{list}");
    }
}

#[test]
fn an_entry_that_names_nothing_is_told_with_the_nearest_that_does() {
    let fleet = fleet(r#"[ "valuse.yaml" "deep/values.ini" "nothing/like it" ]"#);
    let snapshot = fleet.snapshot();
    let said = fails(fleet.tool(&["nas", "--host-key", "new.pub", "--yes"]), 2);
    insta::assert_snapshot!(said, @r"
    ==> Reading the host key of 'nas'...
    ✓ Host key SHA256:5aNeTSzbj2y1Ya8UWlxPtCiMaqyj/IO0TwfI1aQkuR8 (given as a file)
    ✗ managed.nas.secrets names no secret that a rule governs, and no rule: 'valuse.yaml', 'nothing/like it'
      an entry is a secret file or a directory with some, or a rule's path_regex as it is written
      nothing was changed
    hint: did you mean 'secrets/values.yaml'?
    ");
    assert_eq!(fleet.snapshot(), snapshot);
}

#[test]
fn another_hosts_own_secrets_can_not_be_asked_for() {
    for entry in ["hosts/web/own.yaml", "secrets/hosts", "hosts/web/.*"] {
        let fleet = fleet(&format!(r#"[ "{entry}" ]"#));
        let snapshot = fleet.snapshot();
        let said = fails(fleet.tool(&["nas", "--host-key", "new.pub", "--yes"]), 3);
        assert!(said.contains(&format!("'{entry}': rule 'hosts/web/.*' (line 5) is web's own")), "{said}");
        assert_eq!(fleet.snapshot(), snapshot);
    }
}

#[test]
fn rules_that_list_it_already_are_left_and_told() {
    let fleet = fleet(r#"[ "deep" ]"#);
    fleet.edit("vms/definitions.nix", r#" secrets = [ "deep" ];"#, "");
    fleet.git(&["commit", "-qam", "every rule"]);
    fleet.add(&[]);
    fleet.edit("vms/definitions.nix", "nas = {", r#"nas = { secrets = [ "deep" ];"#);
    let said = fleet.add(&[]);
    assert!(
        said.contains("⚠ rule '.*' (line 12) lists nas, which managed.nas.secrets does not name"),
        "{said}"
    );
    assert!(opens(&fleet, "secrets/values.yaml"));
}

/// What a check finds wrong in the definitions, as objects.
fn checked(fleet: &Fleet) -> Vec<serde_json::Value> {
    let output = fleet.tool(&["secrets", "--check", "--json"]).output().unwrap();
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let faults = answer["faults"].as_array().unwrap().clone();
    assert_eq!(output.status.code(), Some(if faults.is_empty() { 0 } else { 2 }), "{answer}");
    faults
}

#[test]
fn a_check_tells_of_lists_that_lead_nowhere() {
    for list in ["[ ]", r#"[ "deep" ".*" ]"#, r#""values.yaml""#] {
        assert!(checked(&fleet(list)).is_empty(), "{list}");
    }
    let fleet = fleet(r#"[ "valuse.yaml" "deep/values.ini" "nothing/like it" ]"#);
    let faults = checked(&fleet);
    let [fault] = faults.as_slice() else { panic!("{faults:?}") };
    assert_eq!(fault["path"], "managed.nas.secrets");
    assert_eq!(fault["file"], "vms/definitions.nix");
    assert!(fault["snippet"].as_str().unwrap().contains("valuse.yaml"), "{fault}");
    assert_eq!(
        fault["message"],
        "names no secret that a rule governs, and no rule: 'valuse.yaml', 'nothing/like it'"
    );
    assert!(fault["help"].as_str().unwrap().starts_with("did you mean 'secrets/values.yaml'?"), "{fault}");

    // All VMs in one run; where there are no rules, there is nothing to look up.
    let other = "nas = { secrets = [ \"hosts/web\" ];";
    let more =
        "two = { vmid = 151; cores = 1; memory = 512; disk = \"1G\"; storage = \"tank\"; secrets = \"x\"; };";
    let list = r#"nas = { secrets = [ "valuse.yaml" "deep/values.ini" "nothing/like it" ];"#;
    fleet.edit("vms/definitions.nix", list, &format!("{more} {other}"));
    let faults = checked(&fleet);
    let told: Vec<String> = faults
        .iter()
        .map(|fault| format!("{}: {}", fault["path"].as_str().unwrap(), fault["message"].as_str().unwrap()))
        .collect();
    assert_eq!(
        told,
        [
            "managed.two.secrets: names no secret that a rule governs, and no rule: 'x'",
            "managed.nas.secrets: leads to secrets that are another host's own: 'hosts/web': rule 'hosts/web/.*' (line 5) is web's own",
        ]
    );
    std::fs::remove_file(fleet.path("secrets/.sops.yaml")).unwrap();
    let faults = fleet.tool(&["secrets", "--check"]).output().unwrap();
    assert!(!String::from_utf8_lossy(&faults.stderr).contains("managed."), "{faults:?}");
}
