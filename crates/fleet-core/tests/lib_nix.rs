//! `vms/lib.nix` says the same about the definitions as the tools do, by a Nix that is not ours.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "helpers of tests")]

use std::path::Path;

use fleet_core::{
    child::{Command, find_program},
    deadline::Deadline,
    definitions::{Definitions, Entry},
    guard::{Guard, Operation},
    nix::NixMode,
    repo::Repo,
    types::Vmid,
};
use serde_json::{Value, json};

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// The value of a Nix expression in which `vms` is the library over the definitions at `definitions`. Without
/// Nix the test fails in CI and is skipped elsewhere.
fn by_nix(definitions: &Path, expression: &str) -> Option<Value> {
    let Some(nix) = find_program("nix-instantiate") else {
        assert!(
            std::env::var_os("FLEET_REQUIRE_ORACLES").is_none_or(|v| v != "1"),
            "nix-instantiate is not installed, and FLEET_REQUIRE_ORACLES=1 asks for it"
        );
        eprintln!("skipped: nix-instantiate is not installed");
        return None;
    };
    let library = root().join("vms/lib.nix").canonicalize().unwrap();
    let text = format!(
        "let vms = import {} {{ definitions = import {}; }}; in {expression}",
        library.display(),
        definitions.canonicalize().unwrap().display()
    );
    let store = tempfile::tempdir().unwrap();
    let output = Command::new(nix)
        .env("NIX_STATE_DIR", store.path())
        .args(["--eval", "--strict", "--json", "--readonly-mode", "-E", &text])
        .output(Deadline::secs(60))
        .unwrap();
    Some(serde_json::from_str(&output.checked().unwrap().stdout_text()).unwrap())
}

#[test]
fn this_repositorys_definitions() {
    let repo = Repo::at(root()).unwrap();
    let definitions = Definitions::load(&repo, NixMode::Embedded).unwrap();
    let Some(found) = by_nix(
        &repo.definitions(),
        r#"{
          inherit (vms) managedVmids readonlyVmids allVmids faults;
          kinds = map (name: (vms.find name).kind) [ "doc1" "igp" "test-automation" "ubuntu-cloud-template" ];
          nobody = vms.find "nobody";
          names = map (vmid: (vms.findByVmid vmid).name) vms.allVmids;
          allowed = builtins.filter (vmid: (builtins.tryEval (vms.assertVMOperationAllowed vmid)).success) [ 104 109 110 150 9002 ];
          storage = (vms.find "test-automation").vm.storage;
          next = vms.nextVmidIn "production";
        }"#,
    ) else {
        return;
    };
    let managed: Vec<u32> = definitions.managed.iter().map(|vm| vm.vmid.get()).collect();
    let mut readonly: Vec<u32> = definitions.imported.iter().map(|vm| vm.vmid.get()).collect();
    readonly.extend(definitions.managed.iter().filter(|vm| vm.readonly).map(|vm| vm.vmid.get()));
    let kind = |name: &str| match definitions.by_name(name) {
        Some(Entry::Imported(_)) => "imported",
        Some(Entry::Managed(_)) => "managed",
        Some(Entry::Template(_)) => "template",
        None => "none",
    };
    let name = |vmid: u32| match definitions.by_vmid(Vmid::new(vmid).unwrap()) {
        Some(Entry::Imported(vm)) => vm.name.clone(),
        Some(Entry::Managed(vm)) => vm.name.to_string(),
        Some(Entry::Template(template)) => template.name.clone(),
        None => String::new(),
    };
    let guard = Guard::new(&definitions, None);
    let allowed = |vmid: &u32| guard.permit(Vmid::new(*vmid).unwrap(), Operation::Change, "stop").is_ok();
    let all = [104, 109, 110, 9002];
    assert_eq!(
        found,
        json!({
            "managedVmids": managed,
            "readonlyVmids": readonly,
            "allVmids": all,
            "faults": [],
            "kinds": (["doc1", "igp", "test-automation", "ubuntu-cloud-template"].map(kind)),
            "nobody": null,
            "names": (all.map(name)),
            "allowed": Vec::from([104, 109, 110, 150, 9002]).into_iter().filter(allowed).collect::<Vec<u32>>(),
            "storage": definitions.managed[0].storage,
            "next": 100,
        })
    );
}

/// What the library finds wrong, the tools find wrong too: one fault at a time.
#[test]
fn faults_are_faults_in_both() {
    let good = r#"vmid = 110; cores = 1; memory = 512; disk = "1G";"#;
    let cases = [
        ("web", good.replace("vmid = 110;", "")),
        ("web", good.replace("cores = 1;", "")),
        ("web", good.replace("cores = 1;", "cores = 0;")),
        ("web", good.replace("512", "511")),
        ("web", good.replace("1G", "1 G")),
        ("web", good.replace("disk = \"1G\";", "")),
        ("web", good.replace("110", "99")),
        ("web", good.replace("110", "10000")),
        ("web", good.replace("110", "250")),
        ("web", good.replace("110", "104")),
        ("web", good.replace("110", "9002")),
        ("web", good.replace("1G", "0G")),
        ("web", format!("{good} colour = \"red\";")),
        ("web", format!("{good} clone = \"shallow\";")),
        ("web", format!("{good} install = \"by hand\";")),
        ("web", format!("{good} node = \"no node\";")),
        ("web", format!("{good} node = 1;")),
        ("web", format!("{good} antiAffinity = 1;")),
        ("web", good.replace("vmid = 110;", "vmid = \"110\";")),
        ("a_b", good.to_owned()),
        ("plan", good.to_owned()),
        ("\"42\"", good.to_owned()),
        ("template", good.to_owned()),
        ("doc1", good.to_owned()),
    ];
    let right = [good.to_owned(), format!("{good} node = \"auto\"; antiAffinity = [ \"edge\" ];")];
    for (name, attributes) in cases.into_iter().chain(right.iter().map(|right| ("web", right.clone()))) {
        let directory = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = directory.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("hosts.nix", "{ }");
        write(
            "vms/definitions.nix",
            &format!(
                r#"{{
                  proxmox = {{ host = "prom"; defaultStorage = "local"; }};
                  imported.doc1 = {{ vmid = 104; }};
                  managed.{name} = {{ {attributes} }};
                  template = {{ vmid = 9002; name = "template"; }};
                  vmidRanges.containers = {{ start = 200; end = 299; }};
                  vmidRanges.templates = {{ start = 9000; end = 9999; }};
                }}"#
            ),
        );
        let repo = Repo::at(directory.path()).unwrap();
        let loads = Definitions::load(&repo, NixMode::Embedded).is_ok();
        let Some(faults) = by_nix(&repo.definitions(), "vms.faults") else { return };
        let found = faults.as_array().unwrap().len();
        assert_eq!(loads, found == 0, "{name} {{ {attributes} }}: the library says {faults}");
        assert_eq!(loads, right.contains(&attributes) && name == "web");
    }
}
