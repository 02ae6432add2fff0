//! cloud-init documents of our own on the node, and keys from `cloudinit-gen` in a pipe.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test stops at the first surprise")]

mod common;

use std::os::unix::fs::PermissionsExt;

use common::{Bench, KEY};
use pve_sim::{
    testing::{OPERATOR_PUBLIC, tool},
    world::World,
};

/// Both tools in a real shell, with a pipe between them.
fn shell(bench: &Bench, line: &str) -> std::process::Output {
    let mut shell = std::process::Command::new("sh");
    bench.sim.apply(&mut shell);
    shell.env("GEN", tool("cloudinit-gen")).env("OPS", assert_cmd::cargo::cargo_bin!("proxmox-ops"));
    shell.current_dir(bench.fleet.path()).args(["-e", "-c", line]).output().unwrap()
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let hex: Option<Vec<u8>> = (byte == b'%').then(|| rest.by_ref().take(2).collect());
        bytes.push(hex.map_or(byte, |hex| u8::from_str_radix(&String::from_utf8(hex).unwrap(), 16).unwrap()));
    }
    String::from_utf8(bytes).unwrap()
}

#[test]
fn keys_go_from_one_tool_to_the_other() {
    let bench = Bench::new();
    bench.clone_110();
    let line = "\"$GEN\" ssh-keys test-automation | \"$OPS\" cloudinit-config test-automation -";
    let output = shell(&bench, line);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    let stored = decoded(bench.sim.config(110).unwrap().get("sshkeys").unwrap());
    assert_eq!(stored.split_whitespace().nth(1), OPERATOR_PUBLIC.split_whitespace().nth(1));
    assert_eq!(bench.sim.config(110).unwrap().get("cicustom"), None);
    // Options in front and a second key of the definition arrive as they were written.
    bench.fleet.edit(
        "vms/definitions.nix",
        "vmid = 110;",
        &format!("vmid = 110; authorizedKeys = [ \"command=\\\"echo a b\\\",no-pty {KEY}: # 'odd'\" ];"),
    );
    let output = shell(&bench, line);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let stored = decoded(bench.sim.config(110).unwrap().get("sshkeys").unwrap());
    assert!(stored.contains(&format!("\ncommand=\"echo a b\",no-pty {KEY}: # 'odd'")), "{stored}");
}

#[test]
fn a_host_key_reaches_the_guest_in_a_document_that_only_root_can_read() {
    let bench = Bench::new();
    bench.clone_110();
    bench.ok(&["cloudinit-drive", "110"]);
    let key = pve_sim::keys::generate("root@test-automation").unwrap();
    bench.fleet.write("key", &key);
    let output = shell(
        &bench,
        "\"$GEN\" ssh-keys test-automation >keys; \"$GEN\" user-data test-automation --host-key key | \
         \"$OPS\" cloudinit-config test-automation @keys --user-data -",
    );
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    assert!(said.contains("local:snippets/fleet-110-user.yaml is on the node, for root alone"), "{said}");
    assert!(!said.contains("PRIVATE"), "{said}");
    let custom = || bench.sim.config(110).unwrap().get("cicustom").map(str::to_owned);
    assert_eq!(custom().as_deref(), Some("user=local:snippets/fleet-110-user.yaml"));
    let file = bench.sim.node().file("/var/lib/vz/snippets/fleet-110-user.yaml");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(
        std::fs::read_to_string(&file).unwrap().starts_with("#cloud-config\nhostname: test-automation\n")
    );
    // The private key was in no command and no argument.
    let telling = key.lines().nth(2).unwrap();
    assert!(!bench.sim.requests().iter().any(|r| format!("{:?}", r.what).contains(telling)));

    bench.ok(&["start", "110"]);
    assert_eq!(bench.sim.guest_host_key(110).unwrap(), pve_sim::keys::public_line(&key).unwrap());

    bench.ok(&["cloudinit-config", "110", "@keys", "--no-documents"]);
    assert_eq!(custom(), None);
    assert!(!file.exists());
    assert_eq!(std::fs::read_dir(file.parent().unwrap()).unwrap().count(), 0);
}

/// What is there as it should be is not written, nor asked for.
#[test]
fn documents_that_the_vm_has_are_no_change() {
    let bench = Bench::new();
    bench.clone_110();
    bench.ok(&["cloudinit-drive", "110"]);
    bench.fleet.write("user", "#cloud-config\n{}\n");
    let args = ["--json", "cloudinit-config", "110", KEY, "--user-data", "user"];
    let file = bench.sim.node().file("/var/lib/vz/snippets/fleet-110-user.yaml");
    let changed = || {
        let before = bench.sim.changes().len();
        let ran = bench.run(&args);
        assert_eq!(ran.code, 0, "{}", ran.err);
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        let sent = bench.sim.changes().len() > before;
        assert_eq!(ran.out, format!("{{\"vmid\":110,\"changed\":{sent}}}\n"), "{}", ran.err);
        sent
    };
    assert!(changed());
    assert!(!changed());
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).unwrap();
    assert!(changed());
    bench.fleet.write("user", "#cloud-config\n{ hostname: web }\n");
    assert!(changed());
    assert!(!changed());
    bench.sim.edit(110, |conf| {
        conf.main.remove("sshkeys");
    });
    assert!(changed());
}

/// Nor one that no setting names: what a run wrote that was killed before it could name it.
#[test]
fn a_destroyed_vm_leaves_no_document_of_a_killed_run() {
    let bench = Bench::new();
    bench.clone_110();
    let place = bench.sim.node().file("/var/lib/vz/snippets");
    std::fs::create_dir_all(&place).unwrap();
    for name in ["fleet-110-user.yaml", "fleet-1100-user.yaml", "fleet-111-user.yaml", "mine-110.yaml"] {
        std::fs::write(place.join(name), "#cloud-config\n").unwrap();
    }
    bench.ok(&["destroy", "110", "yes"]);
    let mut left: Vec<_> = std::fs::read_dir(&place).unwrap().map(|e| e.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(
        left,
        ["fleet-110-user.yaml", "fleet-1100-user.yaml", "fleet-111-user.yaml", "mine-110.yaml"][1..]
    );
}

#[test]
fn a_destroyed_vm_leaves_no_document() {
    let bench = Bench::new();
    bench.clone_110();
    bench.fleet.write("user", "#cloud-config\n{}\n");
    bench.ok(&[
        "cloudinit-config",
        "110",
        KEY,
        "--user-data",
        "user",
        "--vendor-data",
        "user",
        "--snippets",
        "nvmeprom",
    ]);
    let place = bench.sim.node().file("/mnt/nvmeprom/snippets");
    assert_eq!(std::fs::read_dir(&place).unwrap().count(), 2);
    bench.ok(&["destroy", "110", "yes"]);
    assert_eq!(std::fs::read_dir(&place).unwrap().count(), 0);
}

/// On a storage that other clusters have too, a file that no setting of this VM names may be of their VM of that number.
#[test]
fn documents_on_a_shared_storage_are_taken_away_only_where_the_vm_names_them() {
    let mut world = World::default();
    world.storages.iter_mut().for_each(|storage| storage.shared = storage.name == "nvmeprom");
    let bench = Bench::with(world);
    bench.clone_110();
    bench.fleet.write("user", "#cloud-config\n{}\n");
    let place = bench.sim.node().file("/mnt/nvmeprom/snippets");
    std::fs::create_dir_all(&place).unwrap();
    std::fs::write(place.join("fleet-110-vendor.yaml"), "theirs").unwrap();
    bench.ok(&["cloudinit-config", "110", KEY, "--user-data", "user", "--snippets", "nvmeprom"]);
    let ran = bench.run(&["cloudinit-config", "110", "--no-documents"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(!place.join("fleet-110-user.yaml").exists());
    assert_eq!(std::fs::read_to_string(place.join("fleet-110-vendor.yaml")).unwrap(), "theirs");
    assert!(ran.err.contains("the storage 'nvmeprom' is shared"), "{}", ran.err);
    assert!(ran.err.contains("rm -f -- /mnt/nvmeprom/snippets/fleet-110-vendor.yaml"), "{}", ran.err);
    // What the node alone has goes, named or not.
    let own = bench.sim.node().file("/var/lib/vz/snippets/fleet-110-user.yaml");
    std::fs::create_dir_all(own.parent().unwrap()).unwrap();
    std::fs::write(&own, "left").unwrap();
    bench.ok(&["cloudinit-config", "110", "--no-documents"]);
    assert!(!own.exists());
}

/// Where there is no document its storage decides nothing, and is not passed over.
#[test]
fn a_storage_for_no_document_is_refused() {
    let bench = Bench::new();
    for args in [
        &["cloudinit-config", "110", KEY, "--snippets", "local"][..],
        &["cloudinit-config", "110", "--no-documents", "--snippets", "local"],
        &["cloudinit-config", "110", "--no-documents", "--user-data", "user"],
    ] {
        assert_eq!((bench.run(args).code, bench.sim.connections()), (2, 0), "{args:?}");
    }
}

/// A storage that can not be written to is no dead end where there is another one.
#[test]
fn the_next_storage_is_taken_where_one_keeps_no_document() {
    let bench = Bench::new();
    bench.clone_110();
    bench.fleet.write("user", "#cloud-config\n{}\n");
    let args = &["cloudinit-config", "110", KEY, "--user-data", "user"];
    let blocked = |place: &str| {
        let place = bench.sim.node().file(place);
        std::fs::create_dir_all(place.parent().unwrap()).unwrap();
        std::fs::write(place, "no directory").unwrap();
    };
    blocked("/var/lib/vz/snippets");
    let ran = bench.run(args);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.err.contains("nvmeprom:snippets/fleet-110-user.yaml is on the node"), "{}", ran.err);
    bench.ok(&["cloudinit-config", "110", KEY, "--no-documents"]);
    let place = "/mnt/nvmeprom/snippets";
    assert_eq!(std::fs::read_dir(bench.sim.node().file(place)).unwrap().count(), 0);
    std::fs::remove_dir(bench.sim.node().file(place)).unwrap();
    blocked(place);
    let before = bench.sim.config(110);
    let ran = bench.run(args);
    assert_eq!(ran.code, 1, "{}", ran.err);
    assert!(
        ran.err.contains("/var/lib/vz/snippets") && ran.err.contains("on storage 'nvmeprom': "),
        "{}",
        ran.err
    );
    assert_eq!(bench.sim.config(110), before);
}

#[test]
fn what_can_not_be_is_said_before_anything_is_changed() {
    let mut world = World::default();
    world.storages.iter_mut().for_each(|s| s.content.retain(|c| c != "snippets"));
    let bench = Bench::with(world);
    bench.clone_110();
    bench.fleet.write("user", "#cloud-config\n{}\n");
    let before = bench.sim.changes();
    let ran = bench.run(&["cloudinit-config", "110", KEY, "--user-data", "user"]);
    insta::assert_snapshot!(ran.err, @r"
    ✗ no storage of the node takes snippets
      nothing was changed
    hint: `pvesm set local --content iso,vztmpl,backup,snippets` on the node 'prom' lets 'local' take them
    ");
    let ran = bench.run(&["cloudinit-config", "110", KEY, "--user-data", "user", "--snippets", "local"]);
    insta::assert_snapshot!(ran.err, @r"
    ✗ storage 'local' takes no snippets (none does)
      nothing was changed
    hint: `pvesm set local --content …,snippets` on the node 'prom' lets it take them
    ");
    let ran = bench.run(&["cloudinit-config", "110", "-", "--user-data", "-"]);
    insta::assert_snapshot!(ran.err, @r"
    ✗ standard input can be one thing only
      nothing was sent to the node
    hint: give the others as files: @FILE for the keys
    ");
    bench.fleet.write("user", " ");
    let ran = bench.run(&["cloudinit-config", "110", KEY, "--user-data", "user"]);
    insta::assert_snapshot!(ran.err, @r"
    ✗ the user document is empty
      nothing was sent to the node
    ");
    // Another's VM gets none.
    let connections = bench.sim.connections();
    let ran = bench.run(&["cloudinit-config", "doc1", KEY, "--user-data", "user"]);
    assert_eq!((ran.code, bench.sim.connections()), (3, connections), "{}", ran.err);
    assert_eq!(bench.sim.changes(), before);
}

/// NixOS is on it, and its drive is gone: other keys would never get there.
#[test]
fn a_vm_with_which_cloud_init_is_done_is_left_as_it_is() {
    let settings = [("name", "test-automation"), ("description", "mine\nfleet-cloud-init: done\n")];
    let bench = Bench::with(World::default().with_vm(110, false, &settings));
    let ran = bench.run(&["cloudinit-config", "110", KEY]);
    assert_eq!(ran.code, 3, "{}", ran.err);
    assert!(ran.err.contains("it has done its part there"), "{}", ran.err);
    let ran = bench.run(&["cloudinit-config", "110", KEY, "--no-documents"]);
    assert_eq!(ran.code, 3, "{}", ran.err);
    assert_eq!(bench.sim.config(110).unwrap().get("sshkeys"), None);
    // To take away what a run left needs no keys, and is always right.
    let snippet = bench.sim.node().file("/mnt/nvmeprom/snippets/fleet-110-user.yaml");
    std::fs::create_dir_all(snippet.parent().unwrap()).unwrap();
    std::fs::write(&snippet, "#cloud-config\n{}\n").unwrap();
    bench.sim.edit(110, |conf| {
        conf.main.insert("cicustom".into(), "user=nvmeprom:snippets/fleet-110-user.yaml".into());
    });
    let dry = bench.ok(&["cloudinit-config", "110", "--no-documents", "--dry-run"]);
    assert!(dry.contains("delete=cicustom") && !dry.contains("ciuser"), "{dry}");
    bench.ok(&["cloudinit-config", "110", "--no-documents"]);
    let config = bench.sim.config(110).unwrap();
    assert_eq!((config.get("cicustom"), config.get("ciuser"), snippet.exists()), (None, None, false));
    assert_eq!(bench.run(&["cloudinit-config", "110"]).code, 2);
    assert_eq!(bench.run(&["cloudinit-config", "110", "--no-documents", "--login", "me"]).code, 2);
    bench.ok(&["cloudinit-drive", "110"]);
    for more in [&[][..], &["--no-documents"]] {
        let ran = bench.run(&[&["cloudinit-config", "110", KEY], more].concat());
        assert_eq!(ran.code, 0, "{}", ran.err);
        assert!(ran.err.contains("new host keys"), "{}", ran.err);
    }
}
