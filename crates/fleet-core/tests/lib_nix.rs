//! `vms/lib.nix` answers about the definitions as the tools do, by a Nix that is not ours.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test stops at the first surprise")]

mod lib_nix_support;

use std::collections::BTreeSet;

use fleet_core::{
    definitions::{Addressing, Definitions, Entry, ManagedVm},
    guard::{Guard, Operation},
    nix::NixMode,
    repo::Repo,
    types::Vmid,
};
use lib_nix_support::{by_nix, definitions, root};
use serde_json::{Map, Value, json};

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

#[test]
fn the_longest_range_is_looked_through_no_further_than_needed() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("definitions.nix");
    let text = "vmidRanges.production = { start = 100; end = 999999999; }; managed.web.vmid = 100;";
    std::fs::write(&file, definitions(text)).unwrap();
    let expression = "[ (vms.nextVmidIn \"production\") (vms.nextVmid 104 999999999) (vms.nextVmid 104 104) (vms.nextVmid 9 8) ]";
    let Some(found) = by_nix(&file, expression) else { return };
    assert_eq!(found, json!([101, 105, null, null]));
}

/// Definitions about which every helper has something to say.
fn whole() -> String {
    definitions(
        r#"
          imported.igp = { vmid = 109; hostname = "igpu"; specs = { cores = 1; memory = 8096; disk = "passthrough"; }; };
          managed.web = { vmid = 110; cores = 1; memory = 512; disk = "20G"; };
          managed.db = { vmid = 111; cores = 4; memory = 4096; disk = "1T"; storage = "tank"; nixosConfig = "postgres";
                         hostname = "db.example"; sshAlias = "pg"; install = "image"; ip = "192.0.2.7/24"; };
          managed.kept = { vmid = 112; cores = 2; memory = 1024; disk = "8G"; readonly = true; install = "none"; };
          managed.safe = { vmid = 113; cores = 2; memory = 1024; disk = "8G"; protection = true; };
          vmidRanges.production = { start = 100; end = 199; };
        "#,
    )
}

/// What the tools make of a name.
fn found(definitions: &Definitions, name: &str) -> Value {
    match definitions.by_name(name) {
        Some(Entry::Imported(vm)) => json!({ "kind": "imported", "name": name, "vmid": vm.vmid }),
        Some(Entry::Managed(vm)) => json!({
            "kind": "managed", "name": name, "vmid": vm.vmid,
            "filled": {
                "storage": vm.storage, "nixosConfig": vm.nixos_config, "hostname": vm.hostname,
                "sshAlias": vm.ssh_alias, "install": vm.install,
                "ip": match vm.addressing {
                    Addressing::Dhcp => "dhcp".to_owned(),
                    Addressing::Static(cidr) => cidr.to_string(),
                },
            },
        }),
        Some(Entry::Template(template)) => json!({ "kind": "template", "name": name, "vmid": template.vmid }),
        None => Value::Null,
    }
}

/// The same answers by each helper, without nixpkgs' library and with what stands for it.
#[test]
fn every_helper_answers_as_the_tools_do() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("vms")).unwrap();
    std::fs::write(dir.path().join("hosts.nix"), "{ }").unwrap();
    let file = dir.path().join("vms/definitions.nix");
    std::fs::write(&file, whole()).unwrap();
    let definitions = Definitions::load(&Repo::at(dir.path()).unwrap(), NixMode::Embedded).unwrap();
    let names = ["doc1", "igp", "web", "db", "kept", "safe", "template", "nobody", ""];
    let vmids = [100, 104, 109, 110, 111, 112, 113, 114, 200, 299, 300, 9000, 9002, 9999];
    let expression = format!(
        r#"
        let
          probe = vms:
            let
              brief = entry: if entry == null then null else {{ inherit (entry) kind name; inherit (entry.vm) vmid; }}
                // (if entry.kind != "managed" then {{ }} else {{
                  filled = {{ inherit (entry.vm) storage nixosConfig hostname sshAlias install ip; }};
                }});
              names = {names};
              vmids = {vmids};
            in {{
              inherit (vms) managedVmids readonlyVmids allVmids faults suggestedVmid summary;
              byName = map (name: brief (vms.find name)) names;
              byVmid = map (vmid: brief (vms.findByVmid vmid)) vmids;
              ranges = map vms.rangeOf vmids;
              allowed = builtins.filter (vmid: (builtins.tryEval (vms.assertVMOperationAllowed vmid)).success) vmids;
              same = map vms.assertVMOperationAllowed [ 110 111 113 ];
              specs = map (name: vms.formatSpecs (vms.find name).vm) [ "doc1" "igp" "web" "db" ];
              valid = map vms.validate [ "web" "db" "kept" "safe" ];
            }};
          # What the library of nixpkgs has under these names.
          lib = {{
            attrValues = set: map (name: set.${{name}}) (builtins.attrNames set);
            filterAttrs = wanted: set: removeAttrs set (builtins.filter (name: !(wanted name set.${{name}})) (builtins.attrNames set));
            mapAttrsToList = f: set: map (name: f name set.${{name}}) (builtins.attrNames set);
            concatMapStringsSep = sep: f: list: builtins.concatStringsSep sep (map f list);
            optional = wanted: value: if wanted then [ value ] else [ ];
            inherit (builtins) attrNames elem filter foldl' length map;
          }};
          library = import {library};
          here = {{ definitions = import {file}; }};
        in {{
          plain = probe vms;
          inherited = probe (library (here // {{ inherit lib; }}));
          null = probe (library (here // {{ lib = null; }}));
        }}"#,
        names = list(names.map(|name| json!(name))),
        vmids = list(vmids.map(|vmid| json!(vmid))),
        library = root().join("vms/lib.nix").canonicalize().unwrap().display(),
        file = file.display(),
    );
    let Some(answers) = by_nix(&file, &expression) else { return };

    let guard = Guard::new(&definitions, None);
    let allowed = |vmid: &u32| guard.permit(Vmid::new(*vmid).unwrap(), Operation::Change, "stop").is_ok();
    let by_vmid = |vmid: u32| match definitions.by_vmid(Vmid::new(vmid).unwrap()) {
        Some(Entry::Imported(vm)) => found(&definitions, &vm.name),
        Some(Entry::Managed(vm)) => found(&definitions, vm.name.as_str()),
        Some(Entry::Template(template)) => found(&definitions, &template.name),
        None => Value::Null,
    };
    let range = |vmid: u32| {
        let mut ranges = definitions.vmid_ranges.iter();
        ranges.find(|range| range.start.get() <= vmid && vmid <= range.end.get()).map(|range| &range.name)
    };
    let managed = &definitions.managed;
    let all: BTreeSet<Vmid> = definitions.vmids().collect();
    let specs = |vm: &ManagedVm| {
        let cores = if vm.cores == 1 { "core" } else { "cores" };
        format!("{} {cores}, {} MiB, {} on {}", vm.cores, vm.memory, vm.disk, vm.storage)
    };
    let mut vms: Map<String, Value> = managed
        .iter()
        .map(|vm| (vm.name.to_string(), json!(format!("{}: {}", vm.vmid, specs(vm)))))
        .collect();
    vms.insert("doc1".to_owned(), json!("104: , imported"));
    vms.insert("igp".to_owned(), json!("109: 1 core, 8096 MiB, passthrough, imported"));
    let wanted = json!({
        "managedVmids": managed.iter().map(|vm| vm.vmid).collect::<BTreeSet<Vmid>>(),
        "readonlyVmids": all.iter().filter(|vmid| match definitions.by_vmid(**vmid) {
            Some(Entry::Imported(_)) => true,
            Some(Entry::Managed(vm)) => vm.readonly,
            _ => false,
        }).collect::<Vec<_>>(),
        "allVmids": all,
        "faults": [],
        "suggestedVmid": definitions.suggest_vmid(None, &Default::default()).unwrap(),
        "byName": names.map(|name| found(&definitions, name)),
        "byVmid": vmids.map(by_vmid),
        "ranges": vmids.map(range),
        "allowed": vmids.into_iter().filter(allowed).collect::<Vec<u32>>(),
        "same": [110, 111, 113],
        "specs": ["", "1 core, 8096 MiB, passthrough", "1 core, 512 MiB, 20G on local", "4 cores, 4096 MiB, 1T on tank"],
        "valid": [[], [], [], []],
        "summary": {
            "imported": definitions.imported.len(),
            "managed": managed.len(),
            "cores": managed.iter().map(|vm| u64::from(vm.cores)).sum::<u64>(),
            "memory": managed.iter().map(|vm| vm.memory).sum::<u64>(),
            "vms": vms,
        },
    });
    // The guard alone does not decide what the test says of it.
    assert_eq!(wanted["allowed"], json!([110, 111, 113]));
    assert_eq!(wanted["readonlyVmids"], json!([104, 109, 112]));
    for how in ["plain", "inherited", "null"] {
        assert_eq!(answers[how], wanted, "{how}");
    }
}

/// A list in Nix of texts and numbers.
fn list<const N: usize>(items: [Value; N]) -> String {
    format!("[ {} ]", items.map(|item| item.to_string()).join(" "))
}

#[test]
fn one_vm_is_validated_as_all_are() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("definitions.nix");
    let wrong = "managed.web = { vmid = 104; cores = 0; disk = \"1G\"; colour = 1; }; managed.db = { vmid = 111; cores = 1; memory = 512; disk = \"1G\"; };";
    std::fs::write(&file, definitions(wrong)).unwrap();
    let Some(found) =
        by_nix(&file, "{ web = vms.validate \"web\"; db = vms.validate \"db\"; all = vms.faults; }")
    else {
        return;
    };
    let web = json!([
        "managed.web.colour: is not a known field",
        "managed.web.memory: is missing",
        "managed.web.cores: must be a number of at least 1",
        "managed.web.vmid: the vmid is also that of imported.doc1",
    ]);
    assert_eq!(found["web"], web);
    assert_eq!(found["db"], json!([]));
    let of_web = |fault: &&Value| fault.as_str().unwrap().starts_with("managed.web");
    assert_eq!(
        found["all"].as_array().unwrap().iter().filter(of_web).collect::<Vec<_>>(),
        web.as_array().unwrap().iter().collect::<Vec<_>>()
    );
}

/// Where a new VM's VMID is asked for.
type Asked<'a> = (&'a str, Option<u32>);
type Ranges<'a> = &'a [(&'a str, u32, u32)];

/// The next VMID is the same everywhere: the suggested one, in each range, and between bounds.
#[test]
fn a_new_vm_is_offered_the_same_vmid_everywhere() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("vms")).unwrap();
    let file = dir.path().join("vms/definitions.nix");
    std::fs::write(dir.path().join("hosts.nix"), "{ }").unwrap();
    // Ranges, and some of what is asked with its answer; what is not named here is compared all the same.
    let cases: &[(Ranges, &[Asked])] = &[
        (&[], &[("", Some(100)), ("100 999", Some(100)), ("104 104", None), ("104 999999999", Some(105))]),
        (&[("staging", 300, 399)], &[("", Some(300)), ("staging", Some(300))]),
        (&[("staging", 300, 399), ("lab", 250, 260)], &[("", Some(250))]),
        (&[("production", 300, 399), ("lab", 250, 260)], &[("", Some(300)), ("lab", Some(250))]),
        (
            &[("containers", 100, 199)],
            &[("", Some(200)), ("containers", Some(100)), ("100 999", Some(100)), ("99 200", Some(100))],
        ),
        (
            &[("production", 9998, 999_999_999)],
            &[("", Some(9998)), ("production", Some(9998)), ("9999 20000", Some(9999))],
        ),
        (&[("production", 104, 104)], &[("", None), ("production", None)]),
        (
            &[("containers", 100, 199), ("production", 150, 250)],
            &[("", Some(200)), ("production", Some(200)), ("150 250", Some(150)), ("104 250", Some(105))],
        ),
        (&[("production", 20000, 20100)], &[("", None), ("production", None), ("20000 20100", Some(20000))]),
        (&[("containers", 30000, 30100)], &[("containers", Some(30000)), ("29999 30200", Some(29999))]),
        // One after the other, all the way up.
        (
            &[("containers", 100, 199), ("templates", 200, 999_999_999)],
            &[("", None), ("100 999999999", Some(100)), ("200 300", Some(200)), ("templates", Some(200))],
        ),
        (&[("lab", 103, 105), ("templates", 106, 110)], &[("lab", Some(103)), ("104 200", Some(105))]),
        (&[("lab", 104, 112), ("templates", 105, 110)], &[("lab", Some(111)), ("104 110", None)]),
        (&[("lab", 9990, 10100), ("templates", 9000, 9999)], &[("lab", None), ("9990 10100", Some(9990))]),
        (&[("containers", 999_999_999, 999_999_999)], &[("999999999 999999999", Some(999_999_999))]),
    ];
    for (ranges, wanted) in cases {
        let text: String = ranges
            .iter()
            .map(|(name, start, end)| format!("vmidRanges.{name} = {{ start = {start}; end = {end}; }};\n"))
            .collect();
        let head = "proxmox = { host = \"prom\"; }; imported = { doc1.vmid = 104; old.vmid = 30050; };";
        std::fs::write(&file, format!("{{ {head} {text} }}")).unwrap();
        let definitions = Definitions::load(&Repo::at(dir.path()).unwrap(), NixMode::Embedded).unwrap();
        let mut asked: Vec<String> = vec![String::new()];
        asked.extend(ranges.iter().map(|(name, ..)| (*name).to_owned()));
        let bounds: BTreeSet<u32> = [100, 104, 105, 999]
            .into_iter()
            .chain(ranges.iter().flat_map(|(_, start, end)| [*start, *end]))
            .collect();
        asked.extend(bounds.iter().flat_map(|a| bounds.iter().map(move |b| format!("{a} {b}"))));
        asked.extend(wanted.iter().map(|(asked, _)| (*asked).to_owned()));
        let none = Default::default();
        let answers: Vec<Option<u32>> = asked
            .iter()
            .map(|asked| {
                let answer = match asked.split_once(' ') {
                    Some((start, end)) => {
                        let start = start.parse::<u32>().unwrap().max(100);
                        let (start, end) = (Vmid::new(start).unwrap(), end.parse().unwrap());
                        definitions.suggest_vmid_between(start, end, &none)
                    }
                    None => {
                        definitions.suggest_vmid(Some(asked.as_str()).filter(|name| !name.is_empty()), &none)
                    }
                };
                answer.ok().map(Vmid::get)
            })
            .collect();
        for (what, answer) in *wanted {
            let at = asked.iter().position(|asked| asked == what).unwrap();
            assert_eq!(answers[at], *answer, "{what} in {text}");
        }
        let questions: Vec<String> = asked
            .iter()
            .map(|asked| match asked.as_str() {
                "" => "vms.suggestedVmid".to_owned(),
                bounds if bounds.contains(' ') => format!("(vms.nextVmid {bounds})"),
                name => format!("(vms.nextVmidIn \"{name}\")"),
            })
            .collect();
        let Some(found) = by_nix(&file, &format!("[ {} ]", questions.join(" "))) else { return };
        for ((question, ours), theirs) in questions.iter().zip(&answers).zip(found.as_array().unwrap()) {
            assert_eq!(theirs, &json!(ours), "{question} in {text}");
        }
    }
}

#[test]
fn a_range_that_is_none_is_said_with_those_there_are() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("definitions.nix");
    std::fs::write(&file, definitions("")).unwrap();
    let expression = "(builtins.tryEval (vms.nextVmidIn \"lab\")).success";
    let Some(found) = by_nix(&file, expression) else { return };
    assert_eq!(found, json!(false));
}
