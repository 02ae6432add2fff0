//! A VM taken into a fleet, by the program itself.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use common::{Fleet, fails, fixtures, host_key, identity, recipient};
use post_provision::sops::{SecretFile, decrypt_file};

#[test]
fn the_whole_way() {
    let fleet = Fleet::committed();
    let before = SecretFile::load(&fleet.path("secrets/values.yaml")).unwrap().unwrap();
    fleet.write("unrelated", "mine\n");
    fleet.git(&["add", "unrelated"]);
    let said = fleet.add(&[]);
    insta::assert_snapshot!(said.replace(&fleet.git(&["rev-parse", "--short", "HEAD"])[..7], "COMMIT"), @r"
    ==> Reading the host key of 'nas'...
    ✓ Host key SHA256:5aNeTSzbj2y1Ya8UWlxPtCiMaqyj/IO0TwfI1aQkuR8 (given as a file)
    This will change 7 files:
      hosts.nix: new entry nas
      secrets/.sops.yaml: key of nas, in 1 more rule
      docs/machines.md: brought up to date
      secrets/deep/values.ini: wrapped anew, 1 recipient more
      secrets/plain-name: wrapped anew, 1 recipient more
      secrets/values.json: wrapped anew, 1 recipient more
      secrets/values.yaml: wrapped anew, 1 recipient more
      rule 'hosts/web/.*' (line 5) is web's own: nas does not join it
    ✓ Changed 7 files
    ✓ Committed as COMMIT
    ✓ 'nas' is in the fleet
    ");
    // The VM's own key opens what it may, and nothing else.
    let nas = identity("c");
    assert_eq!(
        decrypt_file(&fleet.path("secrets/values.yaml"), &nas).unwrap().get("db.password"),
        Some("canary-yaml-password")
    );
    assert_eq!(
        decrypt_file(&fleet.path("secrets/plain-name"), &nas).unwrap().get("API_KEY"),
        Some("canary dotenv")
    );
    assert_eq!(
        decrypt_file(&fleet.path("secrets/deep/values.ini"), &nas).unwrap().get("sec.key"),
        Some("canary-ini")
    );
    assert_eq!(decrypt_file(&fleet.path("secrets/values.json"), &nas).unwrap().get("b.4.c"), Some("d"));
    decrypt_file(&fleet.path("secrets/hosts/web/own.yaml"), &nas).unwrap_err();
    let after = SecretFile::load(&fleet.path("secrets/values.yaml")).unwrap().unwrap();
    assert_eq!(before.outside(), after.outside());
    // One commit of exactly these; what the user had staged is still staged.
    let files = fleet.git(&["show", "--format=", "--name-only", "HEAD"]);
    assert_eq!(
        files.lines().collect::<Vec<_>>(),
        [
            "docs/machines.md",
            "hosts.nix",
            "secrets/.sops.yaml",
            "secrets/deep/values.ini",
            "secrets/plain-name",
            "secrets/values.json",
            "secrets/values.yaml"
        ]
    );
    assert_eq!(fleet.git(&["status", "--porcelain"]), "A  unrelated\n");
    insta::assert_snapshot!(fleet.git(&["log", "-1", "--format=%B"]), @r"
    feat(vms): add nas to fleet

    VMID: 110
    Address: 192.0.2.10
    Size: 2 cores, 2048 MiB memory, 20G on local-zfs
    Host key: SHA256:5aNeTSzbj2y1Ya8UWlxPtCiMaqyj/IO0TwfI1aQkuR8 (given as a file)
    Age recipient: age1t4elcwgku9z52swdc05pq64src8n0tpqh0zav4gr46knwwgkvessnuws32
    Secrets wrapped anew: 4
    ");
    insta::assert_snapshot!(fleet.git(&["show", "--format=", "HEAD", "--", "hosts.nix", "secrets/.sops.yaml"]), @r#"
    diff --git a/hosts.nix b/hosts.nix
    index 8816243..c738ccc 100644
    --- a/hosts.nix
    +++ b/hosts.nix
    @@ -9,4 +9,13 @@ in
         publicKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIN+YGiYlad10cykwmD216vctFMbar5gNFSvbl4UgHLYC root@web";
         authorizedKeys = keys;
       };
    +  nas = {
    +    configurationFile = ./hosts/nas/configuration.nix;
    +    user = "fleet";
    +    homeDirectory = "/home/fleet";
    +    hostname = "nas";
    +    sshAlias = "nas";
    +    publicKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA/hW56aZqII9uE1CTr8C+TTC7dPSM9UyjrlgrELSbWQ";
    +    authorizedKeys = keys;
    +  };
     }
    diff --git a/secrets/.sops.yaml b/secrets/.sops.yaml
    index 1c8b0c8..0fec5cc 100644
    --- a/secrets/.sops.yaml
    +++ b/secrets/.sops.yaml
    @@ -1,6 +1,7 @@
     keys:
       - &operator age1xq88grtlr4z409kez75g87t20ma8lftfh5ypqetsxvwl66xfke0s9nqmqa # me
       - &web age1fxhck9733ejghfn8ml3apz07l53rxr7ec8aeqvd8kvf2an5f8gvqdd7t2a
    +  - &nas age1t4elcwgku9z52swdc05pq64src8n0tpqh0zav4gr46knwwgkvessnuws32
     creation_rules:
       - path_regex: hosts/web/.*
         key_groups:
    @@ -10,3 +11,4 @@ creation_rules:
           - age:
               - *operator
               - *web
    +          - *nas
    "#);
    insta::assert_snapshot!(fleet.read("docs/machines.md"), @r#"
    # Ours

    <!-- fleet:machines:begin -->

    ## Managed VMs

    | VMID | Name | Node | Cores | RAM | Disk | Storage | Address | Host key | Purpose | Services |
    | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
    | 110 | nas | prom | 2 | 2 GiB | 20G | local-zfs | DHCP | `SHA256:5aNeTSzbj2y1Ya8UWlxPtCiMaqyj/IO0TwfI1aQkuR8` | Tests \| more | – |
    | 111 | static | prom | 1 | 512 MiB | 8G | local-zfs | 192.0.2.11/24 | – | – | – |

    ## Imported VMs (read-only)

    | VMID | Name | Node | Cores | RAM | Disk | Storage | Address | Host key | Purpose | Services | Notes |
    | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
    | 104 | web | prom | – | – | – | – | – | `SHA256:acbdOl5WFkLA6y7SZ8m88ay/geyeFGDevDLsefZjqd8` | The site | – | – |

    ```mermaid
    graph LR
      node0[("prom")]
      node0 --> vm104(["104 web"])
      node0 --> vm110["110 nas"]
      node0 --> vm111["111 static"]
    ```

    <!-- fleet:machines:end -->

    By hand.
    "#);

    // Nothing to do the second time.
    let head = fleet.git(&["rev-parse", "HEAD"]);
    let snapshot = fleet.snapshot();
    assert!(fleet.add(&[]).contains("✓ Nothing to do: 'nas' is in the fleet"));
    assert_eq!((fleet.snapshot(), fleet.git(&["rev-parse", "HEAD"])), (snapshot, head));
}

#[test]
fn without_git_without_rules_without_inventory() {
    let fleet = Fleet::new();
    std::fs::remove_file(fleet.path("secrets/.sops.yaml")).unwrap();
    std::fs::remove_file(fleet.path("docs/machines.md")).unwrap();
    let said = fleet.add(&[]);
    assert!(said.contains("⚠ there is no .sops.yaml"), "{said}");
    assert!(
        said.contains(
            "⚠ not committed: this is no git repository; the files are kept: hosts.nix, docs/machines.md"
        ),
        "{said}"
    );
    assert!(fleet.read("docs/machines.md").starts_with("# Machines\n\n<!-- fleet:machines:begin -->\n"));
    assert!(fleet.add(&[]).contains("Nothing to do"));
}

#[test]
fn a_dry_run_shows_everything_and_changes_nothing() {
    let fleet = Fleet::committed();
    let before = fleet.snapshot();
    let output =
        fleet.tool(&["nas", "--host-key", "new.pub", "--dry-run"]).assert().success().get_output().clone();
    let diff = String::from_utf8(output.stdout).unwrap();
    for part in [
        "+++ b/hosts.nix\n",
        "+  nas = {\n",
        "+  - &nas age1",
        "# secrets/values.yaml: wrapped anew, 1 recipient more\n",
    ] {
        assert!(diff.contains(part), "{part} in {diff}");
    }
    assert!(!diff.contains("AGE ENCRYPTED"), "{diff}");
    assert_eq!(fleet.snapshot(), before);
    assert_eq!(fleet.git(&["status", "--porcelain"]), "");
}

#[test]
fn json_tells_scripts_what_happened() {
    let fleet = Fleet::committed();
    let args = ["nas", "--host-key", "new.pub", "--yes", "--json", "--quiet"];
    let output = fleet.tool(&args).assert().success().stderr("").get_output().clone();
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["recipient"], recipient("c"));
    assert_eq!(answer["hostKey"], host_key("c"));
    assert_eq!(answer["rewrapped"].as_array().unwrap().len(), 4);
    assert_eq!(answer["commit"], fleet.git(&["rev-parse", "--short", "HEAD"]).trim());
}

#[test]
fn placeholders_are_replaced_and_other_keys_are_not() {
    let fleet = Fleet::committed();
    let entry =
        "  nas = { user = \"fleet\"; publicKey = \"PLACEHOLDER\"; /* soon */ authorizedKeys = keys; };\n";
    fleet.edit("hosts.nix", "\n}\n", &format!("\n{entry}}}\n"));
    fleet.git(&["commit", "-qam", "prepared"]);
    fleet.add(&[]);
    let expected = entry.replace("PLACEHOLDER", &host_key("c"));
    assert!(fleet.read("hosts.nix").contains(&expected), "{}", fleet.read("hosts.nix"));

    // Another key later: refused with both fingerprints, taken with --rotate, the old one retired everywhere.
    let snapshot = fleet.snapshot();
    fleet.write("other.pub", &host_key("a"));
    let said = fails(fleet.tool(&["nas", "--host-key", "other.pub", "--yes"]), 6);
    insta::assert_snapshot!(said, @r"
    ==> Reading the host key of 'nas'...
    ✓ Host key SHA256:eJdNthgrde6FcE6jqX6OJbKkNb/2b21FwCg3MyU9564 (given as a file)
    ✗ the host key of 'nas' is not the one on record
      on record: SHA256:5aNeTSzbj2y1Ya8UWlxPtCiMaqyj/IO0TwfI1aQkuR8
      offered:   SHA256:eJdNthgrde6FcE6jqX6OJbKkNb/2b21FwCg3MyU9564
      nothing was changed
    hint: if the VM was installed anew, accept its key: --rotate
    hint: if not, somebody else may be answering in its place
    ");
    std::fs::remove_file(fleet.path("other.pub")).unwrap();
    assert_eq!(fleet.snapshot(), snapshot);
}

#[test]
fn a_rotated_key_can_read_and_the_old_one_can_not() {
    let fleet = Fleet::committed();
    fleet.add(&[]);
    let path = fleet.path("secrets/values.yaml");
    // As if `nas` had been installed anew with another key: its record is changed to a key that is not c's.
    let other = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGqmBvY8g+/GV17q56UYCmD9jOxIDq0TmSc7K+u4wB7L";
    fleet.write("other.pub", other);
    let output = fleet
        .tool(&["nas", "--host-key", "other.pub", "--yes", "--rotate", "--json"])
        .assert()
        .success()
        .get_output()
        .clone();
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["retired"], serde_json::json!([recipient("c")]));
    decrypt_file(&path, &identity("c")).unwrap_err();
    decrypt_file(&path, &identity("a")).unwrap();
    assert!(!fleet.read("secrets/.sops.yaml").contains(&recipient("c")));
    assert!(fleet.git(&["log", "-1", "--format=%s"]).starts_with("feat(vms): rotate the host key of nas"));
}

/// What people wrote behind the key is about the host, not about the key.
#[test]
fn the_remark_behind_a_rotated_key_stays() {
    let old = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGqmBvY8g+/GV17q56UYCmD9jOxIDq0TmSc7K+u4wB7L";
    for remark in ["root@nas", "the NAS in the cellar (2024)", "  two blanks", ""] {
        let fleet = Fleet::new();
        let entry = |key: &str| {
            let key = format!("{key} {remark}");
            format!(
                "  nas = {{ user = \"fleet\"; publicKey = \"{}\"; authorizedKeys = keys; }};\n",
                key.trim_end()
            )
        };
        fleet.edit("hosts.nix", "\n}\n", &format!("\n{}}}\n", entry(old)));
        let definition = format!("  - &nas {old} {remark}");
        let definition = definition.trim_end();
        fleet.edit("secrets/.sops.yaml", "creation_rules:", &format!("{definition}\ncreation_rules:"));
        let before = fleet.read("hosts.nix");
        fleet.add(&["--rotate", "--no-commit"]);
        assert_eq!(fleet.read("hosts.nix"), before.replace(old, &host_key("c")));
        // An age recipient has no place for it: a comment has.
        let expected = match remark.trim() {
            "" => format!("  - &nas {}\n", recipient("c")),
            remark => format!("  - &nas {} # {remark}\n", recipient("c")),
        };
        let rules = fleet.read("secrets/.sops.yaml");
        assert!(rules.contains(&expected), "{rules}");
        assert!(fleet.add(&["--no-commit"]).contains("Nothing to do"));
    }
}

#[test]
fn refusals_name_what_is_wrong_and_change_nothing() {
    let fleet = Fleet::committed();
    fleet.write(
        "rsa.pub",
        "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAIQDAtNyxaHnuYs0nm0qJJqQ6g3kvVnFlbFq6lXbZkJ7r4w==",
    );
    fleet.write("web.pub", &host_key("b"));
    let secret_key = fixtures().join("../../../pve-sim/fixtures/demo-operator-TEST-FIXTURE.key");
    let snapshot = fleet.snapshot();
    let cases: Vec<(Vec<&str>, i32, &str)> = vec![
        (vec!["web", "--host-key", "new.pub", "--yes"], 3, "'web' (VMID 104) is imported and read-only"),
        (vec!["statci", "--host-key", "new.pub", "--yes"], 5, "did you mean 'static'?"),
        (
            vec!["nas", "192.0.2.10", "111", "--host-key", "new.pub", "--yes"],
            4,
            "VMID 111 is not that of 'nas', which is 110",
        ),
        (vec!["nas", "--host-key", "rsa.pub", "--yes"], 3, "not ssh-ed25519"),
        (vec!["nas", "--host-key", "web.pub", "--yes"], 4, "'web' has the host key SHA256:"),
        (vec!["nas", "--host-key", "missing.pub", "--yes"], 5, "can not read missing.pub"),
        (vec!["nas", "--host-key", secret_key.to_str().unwrap(), "--yes"], 2, "is a private key"),
        (vec!["nas", "--host-key", "new.pub"], 2, "there is no terminal"),
        (vec!["nas", "--host-key", "new.pub", "--trust-network"], 2, "cannot be used with"),
        (vec![], 2, "Usage"),
        (vec!["nas", "not-an-address"], 2, "invalid value 'not-an-address'"),
    ];
    for (args, code, part) in cases {
        let said = fails(fleet.tool(&args), code);
        assert!(said.contains(part), "{args:?}: {said}");
        assert_eq!(fleet.snapshot(), snapshot, "{args:?}");
    }
}

#[test]
fn files_with_changes_of_the_users_own_are_refused_by_name() {
    let fleet = Fleet::committed();
    fleet.edit("docs/machines.md", "By hand.", "By hand, and more.");
    fleet.edit("hosts.nix", "# everybody", "# all");
    fleet.git(&["add", "hosts.nix"]);
    fleet.write("hosts/web/configuration.nix", "{ changed = true; }\n");
    let snapshot = fleet.snapshot();
    let said = fails(fleet.tool(&["nas", "--host-key", "new.pub", "--yes"]), 3);
    assert!(said.contains("refused: docs/machines.md, hosts.nix have uncommitted changes"), "{said}");
    assert_eq!(fleet.snapshot(), snapshot);
    fleet.add(&["--allow-dirty"]);
    assert_eq!(fleet.git(&["status", "--porcelain"]), " M hosts/web/configuration.nix\n");
    assert!(fleet.read("docs/machines.md").contains("By hand, and more."));
}

#[test]
fn nobody_to_open_the_secrets_says_who_could() {
    let fleet = Fleet::committed();
    let snapshot = fleet.snapshot();
    let mut command = fleet.tool(&["nas", "--host-key", "new.pub", "--yes"]);
    command.env("SOPS_AGE_KEY_FILE", fixtures().join("identity-c-TEST-FIXTURE.txt"));
    let said = fails(command, 1);
    for part in [
        "4 secrets can not be wrapped anew",
        "none of your identities",
        &recipient("a"),
        &recipient("b"),
        "nothing was changed",
    ] {
        assert!(said.contains(part), "{part} in {said}");
    }
    let secret = std::fs::read_to_string(fixtures().join("identity-c-TEST-FIXTURE.txt")).unwrap();
    assert!(!said.contains(secret.lines().last().unwrap()));
    assert_eq!(fleet.snapshot(), snapshot);
    // A host that may read them may bring them to the rules as well.
    let mut command = fleet.tool(&["nas", "--host-key", "new.pub", "--yes"]);
    command.env("SOPS_AGE_KEY_FILE", fixtures().join("identity-b-TEST-FIXTURE.txt")).assert().success();
}

#[test]
fn one_bad_secret_and_nothing_changes() {
    let fleet = Fleet::committed();
    fleet.edit(
        "secrets/values.json",
        "\"mac\": \"ENC[AES256_GCM,data:",
        "\"mac\": \"ENC[AES256_GCM,data:AAAA",
    );
    fleet.git(&["commit", "-qam", "damaged"]);
    let snapshot = fleet.snapshot();
    let said = fails(fleet.tool(&["nas", "--host-key", "new.pub", "--yes"]), 1);
    assert!(said.contains("secrets/values.json: its data key does not open its checksum"), "{said}");
    assert_eq!(fleet.snapshot(), snapshot);
}

#[test]
fn a_commit_that_a_hook_refuses_is_made_by_the_next_run() {
    let fleet = Fleet::committed();
    let hook = fleet.path(".git/hooks/pre-commit");
    fleet.write(".git/hooks/pre-commit", "#!/bin/sh\necho not today >&2\nexit 1\n");
    std::fs::set_permissions(&hook, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::remove_file(fleet.path("docs/machines.md")).unwrap();
    fleet.git(&["commit", "--no-verify", "-qam", "no inventory"]);
    let said = fails(fleet.tool(&["nas", "--host-key", "new.pub", "--yes"]), 9);
    assert!(
        said.contains("the files are in place, but git would not commit them") && said.contains("not today"),
        "{said}"
    );
    assert!(fleet.git(&["status", "--porcelain"]).contains("?? docs/"), "the index is as it was");
    std::fs::remove_file(hook).unwrap();
    // As a run leaves it that somebody ended at once.
    fleet.git(&["add", "--intent-to-add", "docs/machines.md"]);
    let said = fleet.add(&[]);
    assert!(
        said.contains("Committing what an earlier run changed") && said.contains("✓ Committed as"),
        "{said}"
    );
    assert_eq!(fleet.git(&["status", "--porcelain"]), "");
    assert!(fleet.add(&[]).contains("Nothing to do"));
}

/// A rerun of `provision-vm` comes with another key: its changes are in the files that are still to be committed.
#[test]
fn what_an_earlier_run_owes_stands_in_the_way_of_no_other_change() {
    for next in
        [["nas", "--host-key", ".git/web.pub", "--rotate", "--yes"].as_slice(), &["remove", "nas", "--yes"]]
    {
        let fleet = Fleet::committed();
        let hook = fleet.path(".git/hooks/pre-commit");
        fleet.write(".git/hooks/pre-commit", "#!/bin/sh\nexit 1\n");
        std::fs::set_permissions(&hook, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        fails(fleet.tool(&["nas", "--host-key", "new.pub", "--yes"]), 9);
        std::fs::remove_file(hook).unwrap();
        fleet.write(".git/web.pub", &host_key("a"));
        // Not before the question: nobody is there to answer it.
        let said = fails(fleet.tool(&next[..next.len() - 1]), 2);
        assert!(said.contains("and commits what an earlier run changed: hosts.nix, "), "{next:?}: {said}");
        assert!(said.contains("there is no terminal"), "{next:?}: {said}");
        assert_eq!(fleet.git(&["rev-list", "--count", "HEAD"]), "1\n", "{next:?}: {said}");
        let output = fleet.tool(&[next, &["--json"]].concat()).assert().success().get_output().clone();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("Committing what an earlier run changed"), "{next:?}: {said}");
        let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(answer["earlierCommit"], fleet.git(&["rev-parse", "--short", "HEAD~"]).trim(), "{answer}");
        assert_eq!(answer["commit"], fleet.git(&["rev-parse", "--short", "HEAD"]).trim(), "{answer}");
        assert_eq!(fleet.git(&["status", "--porcelain"]), "", "{next:?}");
        assert_eq!(
            fleet.git(&["rev-list", "--count", "HEAD"]),
            "3\n",
            "the first, the one owed, and this one: {next:?}"
        );
    }
}

#[test]
fn detached_or_busy_nothing_is_committed_and_the_files_are_kept() {
    for (merging, why) in [(false, "HEAD is detached"), (true, "a merge is in progress")] {
        let fleet = Fleet::committed();
        if merging {
            fleet.write(".git/MERGE_HEAD", &fleet.git(&["rev-parse", "HEAD"]));
        } else {
            fleet.git(&["checkout", "-q", "--detach"]);
        }
        let said = fleet.add(&[]);
        assert!(said.contains(&format!("⚠ not committed: {why}")), "{said}");
        assert!(said.contains("'nas' is in the fleet; not committed"), "{said}");
        assert_eq!(fleet.git(&["rev-list", "--count", "HEAD"]), "1\n");
        assert!(fleet.read("hosts.nix").contains("nas = {"));
        // As long as that is so the next one says so, and is not in its own way: neither is another change.
        let said = fleet.add(&[]);
        assert!(said.contains("Nothing to do: 'nas' is in the fleet; not committed yet"), "{said}");
        fleet.write(".git/web.pub", &host_key("a"));
        let web = ["nas", "--host-key", ".git/web.pub", "--rotate", "--yes"];
        let dry = fleet.tool(&[&web[..4], &["--dry-run", "--json"]].concat()).output().unwrap();
        let answer: serde_json::Value = serde_json::from_slice(&dry.stdout).unwrap();
        assert!(answer["notCommitted"].as_str().unwrap().contains(why), "{answer}");
        fleet.tool(&web).assert().success();
        assert_eq!(fleet.git(&["rev-list", "--count", "HEAD"]), "1\n");
        if merging {
            std::fs::remove_file(fleet.path(".git/MERGE_HEAD")).unwrap();
        } else {
            fleet.git(&["checkout", "-q", "-"]);
        }
        // On a branch again all of it is committed, in one commit that names both.
        let said =
            String::from_utf8(fleet.tool(&web).assert().success().get_output().stderr.clone()).unwrap();
        assert!(said.contains("Committing what an earlier run changed"), "{said}");
        let message = fleet.git(&["log", "-1", "--format=%B"]);
        for subject in ["feat(vms): add nas to fleet", "feat(vms): rotate the host key of nas"] {
            assert!(message.contains(subject), "{message}");
        }
        assert_eq!(fleet.git(&["status", "--porcelain"]), "");
        assert_eq!(fleet.git(&["rev-list", "--count", "HEAD"]), "2\n");
    }
    let fleet = Fleet::committed();
    fleet.add(&["--no-commit"]);
    assert_eq!(fleet.git(&["rev-list", "--count", "HEAD"]), "1\n");
}

#[test]
fn without_secrets_only_the_others_change() {
    let fleet = Fleet::committed();
    fleet.add(&["--no-secrets"]);
    assert_eq!(fleet.git(&["show", "--format=", "--name-only", "HEAD"]), "docs/machines.md\nhosts.nix\n");
    let said = fleet.add(&[]);
    assert!(said.contains("✓ Changed 5 files"), "{said}");
}

#[test]
fn the_login_of_the_new_host_must_be_known() {
    let fleet = Fleet::committed();
    fleet.edit("hosts.nix", "    user = \"fleet\"; # not root\n", "");
    fleet.git(&["commit", "-qam", "no user"]);
    let said = fails(fleet.tool(&["nas", "--host-key", "new.pub", "--yes"]), 2);
    assert!(said.contains("can not tell the login of 'nas'") && said.contains("`user`"), "{said}");
}

#[test]
fn an_interrupted_run_is_finished_first() {
    use fleet_core::files::{Lock, state_dir};
    let fleet = Fleet::committed();
    // What a crash right after everything was staged leaves: the journal, said ready, and the staged file.
    let state = state_dir(fleet.root());
    std::fs::create_dir_all(&state).unwrap();
    let target = fleet.root().canonicalize().unwrap().join("hosts.nix");
    let after = fleet.read("hosts.nix").replace("# everybody", "# all of them");
    let sum = |text: &str| fleet_core::files::checksum(text.as_bytes());
    let staged = target.with_file_name(".hosts.nix.fleet-new");
    std::fs::write(&staged, &after).unwrap();
    let journal = serde_json::json!({ "version": 1, "ready": true, "entries": [
        { "target": target, "staged": staged, "before": sum(&fleet.read("hosts.nix")), "after": sum(&after) } ] });
    std::fs::write(state.join("files.json"), journal.to_string()).unwrap();
    let said = fails(fleet.tool(&["nas", "--host-key", "new.pub", "--dry-run"]), 9);
    assert!(said.contains("an interrupted run has to be finished"), "{said}");
    let said = fleet.add(&["--allow-dirty"]);
    assert!(said.contains("⚠ finished an interrupted run: 1 file"), "{said}");
    assert!(fleet.read("hosts.nix").starts_with("# all of them\n"));
    assert!(!staged.exists());
    // And one at a time: a second run waits.
    let lock = Lock::take(&state).unwrap();
    let (started, holds) = std::sync::mpsc::channel::<()>();
    let waiting = std::thread::scope(|scope| {
        let run = scope.spawn(|| {
            started.send(()).unwrap();
            fleet.tool(&["nas", "--host-key", "new.pub", "--yes"]).output().unwrap()
        });
        holds.recv().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(300));
        drop(lock);
        run.join().unwrap()
    });
    assert!(waiting.status.success());
    assert!(String::from_utf8_lossy(&waiting.stderr).contains("Nothing to do"));
}

#[test]
fn outside_of_a_repository_it_says_what_to_run() {
    let fleet = Fleet::new();
    let nowhere = tempfile::tempdir().unwrap();
    let mut command = fleet.tool(&["nas", "--host-key", "new.pub"]);
    command.current_dir(nowhere.path());
    let said = fails(command, 5);
    assert!(said.contains("not inside a fleet repository"), "{said}");
    assert!(said.contains("hint: run `post-provision-vm --repo DIR nas`"), "{said}");
}

/// What a person at a terminal sees and answers.
#[test]
fn asked_at_a_terminal() {
    let at_terminal = |answer: &str| {
        let fleet = Fleet::committed();
        let before = fleet.snapshot();
        #[expect(clippy::disallowed_methods, reason = "for a terminal of its own")]
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_post-provision-vm"));
        command
            .args(["nas", "--host-key", "new.pub", "--no-commit", "--color", "never"])
            .current_dir(fleet.root())
            .env("HOME", fleet.home())
            .env("SOPS_AGE_KEY_FILE", fixtures().join("identity-a-TEST-FIXTURE.txt"));
        let mut terminal = rexpect::session::spawn_command(command, Some(20_000)).unwrap();
        terminal.exp_string("Continue? (y/N) ").unwrap();
        for line in answer.split(' ') {
            terminal.send_line(line).unwrap();
        }
        let rest = terminal.exp_eof().unwrap();
        let status = terminal.process().wait().unwrap();
        let code = if answer == "y" { 0 } else { 130 };
        assert!(format!("{status:?}").contains(&format!(", {code})")), "{status:?}");
        (rest, fleet.snapshot() == before)
    };
    for no in ["n", "", "nonsense no"] {
        let (rest, same) = at_terminal(no);
        assert!(rest.contains("Nothing was changed.") && same, "{rest}");
        assert_eq!(rest.contains("y or n (Enter alone is n)"), no.contains("nonsense"), "{rest}");
    }
    let (rest, same) = at_terminal("y");
    assert!(rest.contains("'nas' is in the fleet") && !same, "{rest}");
}

#[test]
fn a_vm_named_as_somebody_elses_anchor_does_not_take_their_place() {
    let fleet = Fleet::committed();
    fleet.edit("secrets/.sops.yaml", "&operator", "&nas");
    fleet.edit("secrets/.sops.yaml", "*operator", "*nas");
    fleet.git(&["commit", "-qam", "the operator is called nas"]);
    let snapshot = fleet.snapshot();
    let said = fails(fleet.tool(&["nas", "--host-key", "new.pub", "--yes"]), 4);
    assert!(said.contains("line 2: &nas is the key of a person who may log in on the hosts"), "{said}");
    assert_eq!(fleet.snapshot(), snapshot);
    fleet.edit("secrets/.sops.yaml", "&web", "&static");
    fleet.edit("secrets/.sops.yaml", "*web", "*static");
    fleet.git(&["commit", "-qam", "and web static"]);
    let said = fails(fleet.tool(&["static", "--host-key", "new.pub", "--yes"]), 4);
    assert!(said.contains("&static is the key of host 'web'"), "{said}");
}

#[test]
fn a_fleet_below_the_top_of_its_git_repository() {
    let fleet = Fleet::new();
    // Everything one directory down.
    let below = fleet.path("infra/fleet");
    std::fs::create_dir_all(&below).unwrap();
    for name in ["vms", "hosts.nix", "hosts", "secrets", "docs", "new.pub"] {
        std::fs::rename(fleet.path(name), below.join(name)).unwrap();
    }
    fleet.git(&["init", "-q", "-b", "main"]);
    fleet.git(&["add", "-A"]);
    fleet.git(&["commit", "-q", "-m", "start"]);
    let run = || {
        let mut command = fleet.tool(&["nas", "--host-key", "new.pub", "--yes"]);
        command.current_dir(&below);
        command
    };
    fleet.edit("infra/fleet/hosts.nix", "# everybody", "# all");
    let said = fails(run(), 3);
    assert!(said.contains("refused: hosts.nix has uncommitted changes"), "{said}");
    fleet.git(&["commit", "-qam", "mine"]);
    run().assert().success();
    assert_eq!(fleet.git(&["status", "--porcelain"]), "");
    assert_eq!(fleet.git(&["show", "--format=", "--name-only"]).lines().count(), 7);
    assert!(!below.join(".fleet").exists());
}

#[test]
fn two_vms_at_once_both_get_in() {
    let fleet = Fleet::committed();
    fleet.write(
        "static.pub",
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGqmBvY8g+/GV17q56UYCmD9jOxIDq0TmSc7K+u4wB7L",
    );
    let run = |name: &str| {
        let key = if name == "nas" { "new.pub" } else { "static.pub" };
        fleet.tool(&[name, "--host-key", key, "--yes"]).output().unwrap()
    };
    let (one, two) = std::thread::scope(|scope| {
        let one = scope.spawn(|| run("nas"));
        let two = scope.spawn(|| run("static"));
        (one.join().unwrap(), two.join().unwrap())
    });
    for output in [one, two] {
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let rules = fleet.read("secrets/.sops.yaml");
    assert!(rules.contains("- *nas\n") && rules.contains("- *static\n"), "{rules}");
    assert_eq!(
        SecretFile::load(&fleet.path("secrets/values.yaml")).unwrap().unwrap().recipients().count(),
        4
    );
    assert_eq!(fleet.git(&["rev-list", "--count", "HEAD"]), "3\n");
}

#[test]
fn a_full_disk_and_a_read_only_file_change_nothing() {
    let fleet = Fleet::committed();
    fleet.edit("docs/machines.md", "By hand.", &"By hand, and much of it.\n".repeat(2000));
    fleet.git(&["commit", "-qam", "much"]);
    let snapshot = fleet.snapshot();
    // No file may grow beyond some kilobytes, as if the disk were full then; the signal for that is ignored.
    let mut command = fleet.program(std::path::Path::new("/bin/sh"), &["-c"]);
    command.arg(format!(
        "trap '' XFSZ; ulimit -f 16; exec '{}' nas --host-key new.pub --yes",
        env!("CARGO_BIN_EXE_post-provision-vm")
    ));
    let said = fails(command, 1);
    assert!(said.contains("docs/.machines.md.fleet-new") && said.contains("no file was changed"), "{said}");
    assert_eq!(fleet.snapshot(), snapshot);
    assert_eq!(fleet.git(&["status", "--porcelain"]), "");

    let secret = fleet.path("secrets/values.yaml");
    std::fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o444)).unwrap();
    let said = fails(fleet.tool(&["nas", "--host-key", "new.pub", "--yes"]), 1);
    assert!(said.contains("secrets/values.yaml is read-only") && said.contains("chmod u+w"), "{said}");
    assert_eq!(fleet.snapshot(), snapshot);
    // Nothing is left to be finished or taken back.
    std::fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let said = fleet.add(&[]);
    assert!(!said.contains("interrupted"), "{said}");
    let mode = std::fs::metadata(&secret).unwrap().permissions();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode) & 0o777, 0o600);
}

#[test]
fn links_are_not_followed_out_of_the_repository() {
    let fleet = Fleet::committed();
    let outside = tempfile::tempdir().unwrap();
    std::fs::copy(fleet.path("docs/machines.md"), outside.path().join("machines.md")).unwrap();
    std::fs::remove_file(fleet.path("docs/machines.md")).unwrap();
    std::os::unix::fs::symlink(outside.path().join("machines.md"), fleet.path("docs/machines.md")).unwrap();
    std::fs::copy(fleet.path("secrets/values.yaml"), outside.path().join("far.yaml")).unwrap();
    std::os::unix::fs::symlink(outside.path().join("far.yaml"), fleet.path("secrets/far.yaml")).unwrap();
    fleet.git(&["add", "-A"]);
    fleet.git(&["commit", "-qm", "links"]);
    let far = std::fs::read(outside.path().join("far.yaml")).unwrap();
    let said = fails(fleet.tool(&["nas", "--host-key", "new.pub", "--yes"]), 3);
    assert!(said.contains("leads out of the repository"), "{said}");
    assert_eq!(fleet.git(&["status", "--porcelain"]), "");
    assert_eq!(std::fs::read(outside.path().join("far.yaml")).unwrap(), far);
}

#[test]
fn several_keys_under_its_name_become_one_with_a_warning_that_names_them() {
    let fleet = Fleet::new();
    let [one, two] = ["age1retiredone", "age1retiredtwo"];
    let keys = format!("  - &nas {one}\n  - &nas {two}\ncreation_rules:");
    fleet.edit("secrets/.sops.yaml", "creation_rules:", &keys);
    let said = fleet.add(&[]);
    for key in [one, two] {
        assert!(said.contains(&format!("⚠ retired key of nas: {key}")), "{said}");
        assert!(!fleet.read("secrets/.sops.yaml").contains(key));
    }
}

#[test]
fn its_own_key_written_as_an_ssh_key_is_replaced_and_taken_out() {
    let old = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGqmBvY8g+/GV17q56UYCmD9jOxIDq0TmSc7K+u4wB7L";
    // Under its anchor, and without any name but on record in hosts.nix.
    for (definition, element) in [(format!("  - &nas {old} root@nas\n"), "*nas"), (String::new(), old)] {
        let fleet = Fleet::new();
        fleet.edit("secrets/.sops.yaml", "creation_rules:", &format!("{definition}creation_rules:"));
        fleet.edit(
            "secrets/.sops.yaml",
            "          - *web\n",
            &format!("          - *web\n          - {element}\n"),
        );
        let entry =
            format!("  nas = {{ user = \"fleet\"; publicKey = \"{old}\"; authorizedKeys = keys; }};\n");
        fleet.edit("hosts.nix", "\n}\n", &format!("\n{entry}}}\n"));
        let output = fleet
            .tool(&["nas", "--host-key", "new.pub", "--yes", "--rotate", "--json"])
            .assert()
            .success()
            .get_output()
            .clone();
        let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(answer["retired"][0].as_str().unwrap().starts_with(old), "{answer}");
        let rules = fleet.read("secrets/.sops.yaml");
        assert!(!rules.contains(old) && rules.contains(&recipient("c")), "{rules}");
        decrypt_file(&fleet.path("secrets/values.yaml"), &identity("c")).unwrap();
        decrypt_file(&fleet.path("secrets/hosts/web/own.yaml"), &identity("c")).unwrap_err();
        // And `remove` takes such a key out as well.
        fleet.edit("secrets/.sops.yaml", &recipient("c"), &host_key("c"));
        fleet.tool(&["remove", "nas", "--yes"]).assert().success();
        let rules = fleet.read("secrets/.sops.yaml");
        assert!(!rules.contains(&host_key("c")) && !rules.contains("nas"), "{rules}");
        decrypt_file(&fleet.path("secrets/values.yaml"), &identity("c")).unwrap_err();
    }
}

#[test]
fn root_is_at_home_in_its_own_directory() {
    let fleet = Fleet::committed();
    fleet.edit("vms/definitions.nix", "purpose = \"Tests | more\";", "user = \"root\";");
    fleet.add(&["--allow-dirty"]);
    assert!(fleet.read("hosts.nix").contains("homeDirectory = \"/root\";"), "{}", fleet.read("hosts.nix"));
}
