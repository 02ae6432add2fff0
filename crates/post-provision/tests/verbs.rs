//! The verbs besides adding: `remove`, `secrets`, `inventory`.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use common::{Fleet, fails, fixtures, host_key, identity, recipient};
use post_provision::sops::{SecretFile, decrypt_file};

fn says(fleet: &Fleet, args: &[&str]) -> (String, String) {
    let output = fleet.tool(args).assert().success().get_output().clone();
    (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn a_host_added_and_removed_leaves_everything_as_it_was_but_the_keys() {
    let fleet = Fleet::committed();
    let before = fleet.snapshot();
    fleet.add(&[]);
    let (_, said) = says(&fleet, &["remove", "nas", "--from-hosts", "--yes"]);
    assert!(said.contains("⚠ 'nas' has seen the values in these files"), "{said}");
    assert!(
        said.contains("  secrets/plain-name\n") && said.contains("✓ 'nas' is out of the fleet"),
        "{said}"
    );
    for (path, content) in before {
        let now = std::fs::read(&path).unwrap();
        if let Some(old) = SecretFile::parse(&content).unwrap() {
            let new = SecretFile::parse(&now).unwrap().unwrap();
            assert_eq!(old.outside(), new.outside(), "{path:?}");
            assert_eq!(
                old.recipients().collect::<Vec<_>>(),
                new.recipients().collect::<Vec<_>>(),
                "{path:?}"
            );
        } else if !path.ends_with("machines.md") {
            assert_eq!(String::from_utf8_lossy(&now), String::from_utf8_lossy(&content), "{path:?}");
        }
    }
    decrypt_file(&fleet.path("secrets/values.yaml"), &identity("c")).unwrap_err();
    insta::assert_snapshot!(fleet.git(&["log", "-1", "--format=%B"]), @r"
    feat(vms): remove nas from fleet

    Retired recipient: age1t4elcwgku9z52swdc05pq64src8n0tpqh0zav4gr46knwwgkvessnuws32
    Secrets wrapped anew: 4
    Values to rotate: secrets/deep/values.ini, secrets/plain-name, secrets/values.json, secrets/values.yaml
    ");
    let (_, said) = says(&fleet, &["remove", "nas", "--yes"]);
    assert!(said.contains("✓ Nothing to do: 'nas' is not in the fleet"), "{said}");
}

#[test]
fn removing_keeps_the_entry_unless_asked_and_refuses_others() {
    let fleet = Fleet::committed();
    fleet.add(&[]);
    let (answer, _) = says(&fleet, &["remove", "nas", "--yes", "--json"]);
    let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
    assert_eq!(answer["retired"], serde_json::json!([recipient("c")]));
    assert_eq!(answer["mustBeRotated"].as_array().unwrap().len(), 4);
    assert!(fleet.read("hosts.nix").contains("nas = {"));
    let said = fails(fleet.tool(&["remove", "web", "--yes"]), 3);
    assert!(said.contains("'web' (VMID 104) is imported and read-only"), "{said}");
    let said = fails(fleet.tool(&["remove", "nwe", "--yes"]), 5);
    assert!(said.contains("is neither in hosts.nix nor in .sops.yaml"), "{said}");
}

#[test]
fn secrets_follow_a_hand_edit_of_the_rules() {
    let fleet = Fleet::committed();
    let (listed, said) = says(&fleet, &["secrets", "--check"]);
    assert_eq!(listed, "");
    assert!(said.contains("✓ All secrets open for whom their rules name: 5"), "{said}");
    fleet.edit("secrets/.sops.yaml", "          - *web\n", &format!("          - {}\n", recipient("c")));
    fleet.git(&["commit", "-qam", "by hand"]);
    let snapshot = fleet.snapshot();
    let output = fleet.tool(&["secrets", "--check"]).assert().code(2).get_output().clone();
    let listed = String::from_utf8(output.stdout).unwrap();
    let expected = format!("secrets/values.yaml\n  + {}\n  - {}\n", recipient("c"), recipient("b"));
    assert!(listed.contains(&expected), "{listed}");
    assert_eq!(fleet.snapshot(), snapshot, "a check changes nothing");
    let output = fleet.tool(&["secrets", "--check", "--json"]).assert().code(2).get_output().clone();
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&answer["fresh"], answer["differs"].as_array().unwrap().len()), (&1.into(), 4));

    let (_, said) = says(&fleet, &["secrets", "--yes"]);
    assert!(said.contains("secrets/values.yaml: wrapped anew, 1 recipient more, 1 fewer"), "{said}");
    decrypt_file(&fleet.path("secrets/values.yaml"), &identity("c")).unwrap();
    decrypt_file(&fleet.path("secrets/values.yaml"), &identity("b")).unwrap_err();
    decrypt_file(&fleet.path("secrets/hosts/web/own.yaml"), &identity("b")).unwrap();
    assert_eq!(fleet.git(&["status", "--porcelain"]), "");
    let (_, said) = says(&fleet, &["secrets"]);
    assert!(said.contains("Nothing to do"), "{said}");
}

#[test]
fn secrets_without_a_rule_do_not_pass_a_check() {
    let fleet = Fleet::committed();
    let rules = fleet.read("secrets/.sops.yaml");
    fleet.write("secrets/.sops.yaml", "creation_rules: []\n");
    let said = fails(fleet.tool(&["secrets", "--check"]), 2);
    assert!(said.contains("secrets/values.yaml: no rule governs it"), "{said}");
    std::fs::remove_file(fleet.path("secrets/.sops.yaml")).unwrap();
    let said = fails(fleet.tool(&["secrets", "--check"]), 2);
    assert!(said.contains("secrets/values.yaml: no rule governs it"), "{said}");
    fleet.write("secrets/.sops.yaml", &rules);
    fleet.write("secrets/plain.yaml", "a: 1\n");
    let said = fails(fleet.tool(&["secrets", "--check"]), 2);
    assert!(said.contains("secrets/plain.yaml: not encrypted, although rule"), "{said}");
    // Also where the secrets are a submodule.
    fleet.write("secrets/.git", "gitdir: ../.git/modules/secrets\n");
    let said = fails(fleet.tool(&["secrets", "--check"]), 2);
    assert!(said.contains("secrets/plain.yaml: not encrypted, although rule"), "{said}");
}

/// A host may read its secrets with an age key of its own: only the key of another one is wrong for certain.
#[test]
fn keys_under_a_hosts_name_that_are_not_its_own() {
    let other = "age1krft2zq7ldcwwg43rkf7s4xygl9m3jxtcvmgh5mm2k65mnd8ufys4080zs";
    for name in [
        format!("  - &host_web {other}\n"),
        format!("  - {other} # web\n"),
        format!("  # web\n  - {other}\n"),
    ] {
        let fleet = Fleet::new();
        fleet.edit("secrets/.sops.yaml", "creation_rules:", &format!("{name}creation_rules:"));
        let (_, said) = says(&fleet, &["secrets", "--check"]);
        let place =
            fleet.read("secrets/.sops.yaml").lines().position(|line| line.contains(other)).unwrap() + 1;
        assert!(said.contains(&format!("⚠ secrets/.sops.yaml:{place}:")), "{said}");
        let told = format!(
            ": not the key that web's publicKey gives (hosts.nix:9): right only if web has an age key of its own; its \
             publicKey gives {}\n",
            recipient("b")
        );
        assert!(said.contains(&told), "{said}");
    }
    // Another host's own, in either form.
    for key in [recipient("c"), format!("{} root@db", host_key("c"))] {
        let fleet = Fleet::new();
        let db = format!("  db = {{ publicKey = \"{}\"; }};\n}}\n", host_key("c"));
        fleet.edit("hosts.nix", "\n}\n", &format!("\n{db}"));
        fleet.edit("secrets/.sops.yaml", "creation_rules:", &format!("  - &host_web {key}\ncreation_rules:"));
        let said = fails(fleet.tool(&["secrets", "--check"]), 2);
        let told =
            "secrets/.sops.yaml:4:15: the key of db, not the key that web's publicKey gives (hosts.nix:9)";
        assert!(said.contains(told), "{said}");
    }
}

#[test]
fn what_a_rule_lists_and_is_no_key_is_told_where_it_is_written() {
    for (key, list, told) in [
        ("  - &op aage1typo\n", "[*operator, *web, *op]", "4:9: 'aage1typo'"),
        ("  - &op aage1typo\n", "*op", "4:9: 'aage1typo'"),
        ("  - &all [*web, typo]\n", "*all", "4:17: 'typo'"),
        ("", "'age1zzz, typo'", "14:10: 'typo'"),
    ] {
        let fleet = Fleet::new();
        fleet.edit("secrets/.sops.yaml", "creation_rules:", &format!("{key}creation_rules:"));
        let rules = fleet.read("secrets/.sops.yaml");
        fleet.write("secrets/.sops.yaml", &format!("{rules}  - path_regex: none\n    age: {list}\n"));
        let said = fails(fleet.tool(&["secrets", "--check"]), 2);
        let told = format!("secrets/.sops.yaml:{told} is no age recipient\n");
        assert_eq!(said.matches(&told).count(), 1, "{list}: {said}");
    }
}

#[test]
fn nobody_locks_himself_out() {
    let fleet = Fleet::committed();
    fleet.edit("secrets/.sops.yaml", "          - *operator\n", "");
    fleet.git(&["commit", "-qam", "by hand"]);
    let snapshot = fleet.snapshot();
    let said = fails(fleet.tool(&["secrets", "--yes"]), 1);
    assert!(said.contains("its rule names none of your keys"), "{said}");
    assert_eq!(fleet.snapshot(), snapshot);
}

#[test]
fn rules_at_the_root_and_secrets_anywhere() {
    let fleet = Fleet::new();
    std::fs::remove_file(fleet.path("secrets/.sops.yaml")).unwrap();
    fleet.write("app/settings.env", &String::from_utf8(common::fixture("values.env")).unwrap());
    fleet.write("app/target/copy.env", &String::from_utf8(common::fixture("values.env")).unwrap());
    fleet.write(
        ".sops.yaml",
        &format!(
            "creation_rules:\n  - path_regex: ^secrets/hosts/web/\n    age: {a},{b}\n  - path_regex: ^(secrets|app)/\n    age: {a},{b}\n",
            a = recipient("a"),
            b = recipient("b")
        ),
    );
    let said = fleet.add(&[]);
    assert!(said.contains("  app/settings.env: wrapped anew, 1 recipient more\n"), "{said}");
    assert!(!said.contains("target/copy.env"), "{said}");
    decrypt_file(&fleet.path("app/settings.env"), &identity("c")).unwrap();
    decrypt_file(&fleet.path("secrets/values.yaml"), &identity("c")).unwrap();
    decrypt_file(&fleet.path("secrets/hosts/web/own.yaml"), &identity("c")).unwrap_err();
}

#[test]
fn paths_as_if_from_the_root_mean_what_they_say() {
    let fleet = Fleet::committed();
    fleet.edit("secrets/.sops.yaml", "path_regex: hosts/web/.*", "path_regex: secrets/hosts/web/.*");
    fleet.edit("secrets/.sops.yaml", "path_regex: .*\n", "path_regex: secrets/.*\n");
    fleet.git(&["commit", "-qam", "by hand"]);
    let said = fleet.add(&[]);
    assert!(said.contains("⚠ rule 'secrets/.*': read as the path from the repository's root"), "{said}");
    decrypt_file(&fleet.path("secrets/values.yaml"), &identity("c")).unwrap();
    decrypt_file(&fleet.path("secrets/hosts/web/own.yaml"), &identity("c")).unwrap_err();
}

#[test]
fn secrets_that_no_rule_governs_are_told_and_left() {
    let fleet = Fleet::committed();
    fleet.edit("secrets/.sops.yaml", "path_regex: .*\n", "path_regex: \\.(yaml|json|ini)$\n");
    fleet.git(&["commit", "-qam", "by hand"]);
    let before = fleet.read("secrets/plain-name");
    let said = fleet.add(&[]);
    assert!(said.contains("⚠ secrets/plain-name: no rule governs it; left as it is"), "{said}");
    assert_eq!(fleet.read("secrets/plain-name"), before);
}

#[test]
fn the_inventory_alone() {
    let fleet = Fleet::committed();
    let output = fleet.tool(&["inventory", "--check"]).assert().code(2).get_output().clone();
    assert!(String::from_utf8(output.stdout).unwrap().contains("+| 110 | nas | prom |"));
    let (_, said) = says(&fleet, &["inventory", "--yes"]);
    assert!(said.contains("✓ The inventory is fresh"), "{said}");
    assert_eq!(fleet.git(&["log", "-1", "--format=%s"]), "docs(machines): bring the inventory up to date\n");
    let (_, said) = says(&fleet, &["inventory", "--check"]);
    assert!(said.contains("✓ The inventory is fresh"), "{said}");
    fleet.edit("docs/machines.md", "| 110 | nas |", "| 110 | other |");
    fleet.tool(&["inventory", "--check"]).assert().code(2);
}

#[test]
fn identities_are_looked_for_in_order_and_a_named_one_must_work() {
    let fleet = Fleet::committed();
    let args = ["nas", "--host-key", "new.pub", "--yes", "--dry-run"];
    let secret = |name: &str| {
        std::fs::read_to_string(fixtures().join(format!("identity-{name}-TEST-FIXTURE.txt"))).unwrap()
    };
    let bare = |fleet: &Fleet| {
        let mut command = fleet.tool(&args);
        command.env_remove("SOPS_AGE_KEY_FILE");
        command
    };
    // Nothing anywhere.
    let said = fails(bare(&fleet), 1);
    assert!(said.contains("no age identity was found") || said.contains("none of your identities"), "{said}");
    // In the environment, from a command, in the XDG file, as the usual SSH key.
    bare(&fleet).env("SOPS_AGE_KEY", secret("a")).assert().success();
    let file = fixtures().join("identity-a-TEST-FIXTURE.txt");
    bare(&fleet).env("SOPS_AGE_KEY_CMD", format!("cat '{}'", file.display())).assert().success();
    fleet.write("config/sops/age/keys.txt", &secret("a"));
    bare(&fleet).env("XDG_CONFIG_HOME", fleet.path("config")).assert().success();
    let usual = fleet.home().join(".config/sops/age");
    std::fs::create_dir_all(&usual).unwrap();
    std::fs::write(usual.join("keys.txt"), secret("a")).unwrap();
    bare(&fleet).assert().success();
    std::fs::remove_dir_all(fleet.home().join(".config")).unwrap();
    // A wrong one first does no harm, one that was named and is not there does.
    bare(&fleet)
        .env("SOPS_AGE_KEY", secret("c"))
        .env("SOPS_AGE_KEY_CMD", format!("cat '{}'", file.display()))
        .assert()
        .success();
    let mut missing = bare(&fleet);
    missing.env("SOPS_AGE_KEY_FILE", "/nowhere/key");
    let said = fails(missing, 5);
    assert!(said.contains("SOPS_AGE_KEY_FILE: can not read /nowhere/key"), "{said}");
    // A command that fails says nothing that may be the key, neither its own text nor what it printed.
    for script in ["echo {} >&2; exit 3", "echo {}; exit 3", ": {}; exit 3"] {
        let mut failing = bare(&fleet);
        let script = script.replace("{}", secret("a").lines().last().unwrap());
        failing.env("SOPS_AGE_KEY_CMD", format!("sh -c '{script}'"));
        let said = fails(failing, 1);
        assert!(said.contains("SOPS_AGE_KEY_CMD: the command exited with 3"), "{said}");
        assert!(!said.contains("AGE-SECRET-KEY"), "{said}");
    }
    let mut broken = bare(&fleet);
    broken.env("SOPS_AGE_KEY", "AGE-SECRET-KEY-1CANARYCANARY");
    let said = fails(broken, 1);
    assert!(said.contains("SOPS_AGE_KEY: not an age identity") && !said.contains("CANARY"), "{said}");
}

#[test]
fn a_directory_with_rules_of_its_own_is_left() {
    let fleet = Fleet::committed();
    fleet.write("secrets/apart/.sops.yaml", &format!("creation_rules:\n  - age: {}\n", recipient("a")));
    fleet.write("secrets/apart/values.env", &String::from_utf8(common::fixture("values.env")).unwrap());
    fleet.git(&["add", "-A"]);
    fleet.git(&["commit", "-qm", "apart"]);
    let before = fleet.read("secrets/apart/values.env");
    let said = fleet.add(&[]);
    assert!(said.contains("⚠ secrets/apart: it has a .sops.yaml of its own; left as it is"), "{said}");
    assert_eq!(fleet.read("secrets/apart/values.env"), before);
    decrypt_file(&fleet.path("secrets/apart/values.env"), &identity("c")).unwrap_err();
}

#[test]
fn the_known_hosts_of_the_fleet_follow() {
    let fleet = Fleet::committed();
    let file = fleet.home().join(".local/state/fleet/known_hosts");
    fleet.tool(&["nas", "--host-key", "new.pub", "--dry-run"]).assert().success();
    assert!(!file.exists());
    fleet.add(&[]);
    let line = format!("nas {}\n", host_key("c"));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), line);
    std::fs::remove_file(&file).unwrap();
    fleet.add(&[]);
    assert_eq!(
        std::fs::read_to_string(&file).unwrap(),
        line,
        "a second run finishes what the first could not"
    );
    std::fs::write(&file, format!("other {}\n{line}192.0.2.10 {}\n", host_key("a"), host_key("c"))).unwrap();
    let own = fleet.home().join(".ssh/known_hosts");
    std::fs::create_dir_all(own.parent().unwrap()).unwrap();
    let text = format!("# mine\n|1|c2FsdA==|aGFzaA== {}\n", host_key("c"));
    std::fs::write(&own, &text).unwrap();
    fleet.tool(&["remove", "nas", "--dry-run"]).assert().success();
    // Before the verb it counts as well.
    fleet.tool(&["--dry-run", "remove", "nas", "--from-hosts", "--yes"]).assert().success();
    let (_, said) = says(&fleet, &["remove", "nas", "--from-hosts", "--yes"]);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), format!("other {}\n", host_key("a")));
    assert!(said.contains(&format!("✓ 'nas' is out of the known hosts in {}", file.display())), "{said}");
    assert!(said.contains(&format!("hint: its key is in {} too, line 2", own.display())), "{said}");
    assert_eq!(std::fs::read_to_string(&own).unwrap(), text);
}

#[test]
fn what_only_looks_like_a_secret_is_told_and_damaged_secrets_stop_it() {
    let fleet = Fleet::committed();
    let sample = "```yaml\nsops:\n  lastmodified: now\n```\n";
    fleet.write("secrets/README.md", sample);
    fleet.git(&["add", "-A"]);
    fleet.git(&["commit", "-qm", "how to"]);
    let said = fleet.add(&["--no-commit"]);
    assert!(said.contains("⚠ secrets/README.md: no secret that can be read"), "{said}");
    assert_eq!(fleet.read("secrets/README.md"), sample);

    // With the marks of a merge in them: every such file is named, nothing changes.
    let fleet = Fleet::committed();
    let places = [("values.yaml", "22:1: not valid YAML: "), ("values.json", "18:1: not valid JSON\n")];
    for (name, _) in places {
        let name = format!("secrets/{name}");
        let text = fleet.read(&name);
        let half = text[..text.len() / 2].rfind('\n').unwrap() + 1;
        fleet.write(
            &name,
            &format!("{}<<<<<<< HEAD\n=======\n>>>>>>> other\n{}", &text[..half], &text[half..]),
        );
    }
    fleet.git(&["commit", "-qam", "merged badly"]);
    let snapshot = fleet.snapshot();
    let said = fails(fleet.tool(&["nas", "--host-key", "new.pub", "--yes"]), 1);
    assert!(said.contains("2 secrets can not be read"), "{said}");
    for (name, place) in places {
        let told = format!("secrets/{name}:{place}");
        assert!(said.contains(&told), "{told} in {said}");
    }
    assert!(!said.contains("<<<<<<<") && !said.contains("ENC["), "{said}");
    assert!(said.contains("nothing was changed"), "{said}");
    assert_eq!(fleet.snapshot(), snapshot);
}
