//! An evaluation error in one place hides no fault in another one, and no file that has one is acted on.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test that fails says where")]

mod repo_support;

use std::{fs, path::Path};

use fleet_core::{
    Kind,
    child::{Command, find_program},
    deadline::Deadline,
    definitions::{Definitions, MANAGED},
    faults::{self, Fault},
    hosts::Hosts,
    nix::{
        self, NixMode,
        eval::{Budget, eval_file},
    },
    validate,
};
use repo_support::repo_with;

/// The faults that loading gives, `LINE:COLUMN PATH: MESSAGE`.
fn loaded(definitions: &str) -> Vec<String> {
    let (_dir, repo) = repo_with(definitions, "{ }");
    short(&faults::of(&Definitions::load(&repo, NixMode::Embedded).unwrap_err()))
}

fn short(faults: &[Fault]) -> Vec<String> {
    let shown = |fault: &Fault| {
        let place = fault.line.zip(fault.column).map(|(line, column)| format!("{line}:{column} "));
        format!("{}{}: {}", place.unwrap_or_default(), fault.path, fault.message)
    };
    faults.iter().map(shown).collect()
}

/// Definitions with these managed VMs, their faults on line 2 and after it.
fn managed(vms: &str) -> String {
    format!("{{ proxmox = {{ host = \"prom\"; defaultStorage = \"local\"; }}; managed = {{\n{vms}\n}}; }}\n")
}

/// A managed VM with nothing wrong but what it is given.
fn vm(name: &str, vmid: u32, more: &str) -> String {
    format!("{name} = {{ vmid = {vmid}; disk = \"20G\"; install = \"none\"; {more} }};")
}

const DEFINITIONS: &str = r#"let
  MiB = gib: gib * 1024;
  base = { cores = 2; disk = "20G"; install = "none"; };
in
{
  proxmox = { host = "prom"; defaultStorage = "local-lvm"; };
  imported.old = { vmid = 104; hostname = throw "ask Ann"; status = true; };
  managed = {
    web = base // {
      vmid = 110;
      memory = 4096 + "M";
      ip = "192.0.2.10";
    };
    db = base // {
      vmid = 104;
      memory = Mib 4;
      tags = [ "db" "Data Base" ];
    };
    mail = base // { vmid = 111; memory = MiB 8; memory = 4096; cores = "two"; };
    cache = assert false; base;
    queue = base // { vmid = 112; memory = MiB 4; disk = import ./disk.nix; };
    jump = base // rec { vmid = 113; memory = cores; cores = memory; vlan = 5000; };
  };
}
"#;

#[test]
fn one_run_shows_every_fault_of_every_vm() {
    let (dir, repo) = repo_with(DEFINITIONS, "{ }");
    let error = Definitions::load(&repo, NixMode::Embedded).unwrap_err();
    assert_eq!(error.kind(), Kind::Failed);
    let root = format!("{}/", repo.root().display());
    let shown = error.message().replace(&root, "").replace(&format!("{}/", dir.path().display()), "");
    insta::assert_snapshot!(shown, @r##"
    vms/definitions.nix is not valid (13 faults)
    vms/definitions.nix:7:43: imported.old.hostname: ask Ann
      |
    7 |   imported.old = { vmid = 104; hostname = throw "ask Ann"; status = true; };
      |                                           ^^^^^^^^^^^^^^^
    vms/definitions.nix:7:69: imported.old.status: must be a string, not a boolean
      |
    7 |   imported.old = { vmid = 104; hostname = throw "ask Ann"; status = true; };
      |                                                                     ^^^^
      = for example: status = "…";
    vms/definitions.nix:11:16: managed.web.memory: expected a number, found a string
       |
    11 |       memory = 4096 + "M";
       |                ^^^^^^^^^^
       = a number has no unit: `memory` is one of MiB, a disk's size is a text such as "20G"
    vms/definitions.nix:12:12: managed.web.ip: '192.0.2.10' is not a valid address
       |
    12 |       ip = "192.0.2.10";
       |            ^^^^^^^^^^^^
       = an address with its prefix, such as 192.0.2.10/24
    vms/definitions.nix:15:14: managed.db.vmid: VMID 104 is already taken by imported.old (vms/definitions.nix:7)
       |
    15 |       vmid = 104;
       |              ^^^
       = give each VM its own VMID
    vms/definitions.nix:16:16: managed.db.memory: undefined variable 'Mib'
       |
    16 |       memory = Mib 4;
       |                ^^^
       = did you mean `MiB`?
    vms/definitions.nix:17:21: managed.db.tags: 'Data Base' is not a valid tag
       |
    17 |       tags = [ "db" "Data Base" ];
       |                     ^^^^^^^^^^^
       = lower-case letters, digits, '_', '-', '+' or '.', starting with a letter, digit or '_'
    vms/definitions.nix:19:50: attribute 'memory' is already defined
       |
    19 |     mail = base // { vmid = 111; memory = MiB 8; memory = 4096; cores = "two"; };
       |                                                  ^^^^^^
       = the first is on line 19: keep one of them
    vms/definitions.nix:19:73: managed.mail.cores: must be a whole number, not a string
       |
    19 |     mail = base // { vmid = 111; memory = MiB 8; memory = 4096; cores = "two"; };
       |                                                                         ^^^^^
       = for example: cores = 2;
    vms/definitions.nix:20:20: managed.cache: assertion failed
       |
    20 |     cache = assert false; base;
       |                    ^^^^^
    vms/definitions.nix:21:58: managed.queue.disk: can not read vms/disk.nix: No such file or directory (os error 2)
       |
    21 |     queue = base // { vmid = 112; memory = MiB 4; disk = import ./disk.nix; };
       |                                                          ^^^^^^^^^^^^^^^^^
       = a relative path begins in the directory of the file that it is in
    vms/definitions.nix:22:62: managed.jump.cores: infinite recursion
       |
    22 |     jump = base // rec { vmid = 113; memory = cores; cores = memory; vlan = 5000; };
       |                                                              ^^^^^^
       = what a value is made of may not need the value itself
    vms/definitions.nix:22:77: managed.jump.vlan: 5000 is out of range
       |
    22 |     jump = base // rec { vmid = 113; memory = cores; cores = memory; vlan = 5000; };
       |                                                                             ^^^^
       = from 1 to 4094
    "##);
    // The same as objects.
    let found = faults::of(&error);
    let report = validate::repository(&repo, NixMode::Embedded);
    assert_eq!(short(&report.faults), short(&found));
    assert!(report.definitions.is_none());
    assert!(found.iter().all(|fault| fault.snippet.is_some() && fault.line.is_some()), "{found:#?}");
}

#[test]
fn one_run_shows_every_fault_of_every_host() {
    let hosts = r#"let user = "me"; in
{
  web = { inherit user; hostname = web; configurationFile = "hosts/web"; };
  doc = import ./hosts/doc;
  igp = { user = 3; sshAlias = "i" + 1; authorizedKeys = [ "" (throw "whose?") ]; };
  nas = { user = "nas"; user = "me"; homeFile = ./nowhere.nix; };
}
"#;
    let (_dir, repo) = repo_with("{ proxmox.host = \"prom\"; }", hosts);
    let report = validate::repository(&repo, NixMode::Embedded);
    assert!(report.hosts.is_none());
    let root = format!("{}/", repo.root().display());
    let shown = report.result().unwrap_err().message().replace(&root, "");
    insta::assert_snapshot!(shown, @r##"
    the fleet repository is not valid (9 faults)
    hosts.nix:3:36: web.hostname: undefined variable 'web'
      |
    3 |   web = { inherit user; hostname = web; configurationFile = "hosts/web"; };
      |                                    ^^^
      = a text goes in quotes: "web"; a name is bound by `let web = …; in`
    hosts.nix:3:61: web.configurationFile: must be a path, not a string
      |
    3 |   web = { inherit user; hostname = web; configurationFile = "hosts/web"; };
      |                                                             ^^^^^^^^^^^
      = for example: configurationFile = ./hosts/NAME/configuration.nix; (without quotes)
    hosts.nix:4:9: doc: can not read hosts/doc: No such file or directory (os error 2)
      |
    4 |   doc = import ./hosts/doc;
      |         ^^^^^^^^^^^^^^^^^^
      = a relative path begins in the directory of the file that it is in
    hosts.nix:5:18: igp.user: must be a string, not an integer
      |
    5 |   igp = { user = 3; sshAlias = "i" + 1; authorizedKeys = [ "" (throw "whose?") ]; };
      |                  ^
      = for example: user = "…";
    hosts.nix:5:38: igp.sshAlias: an integer can not be part of a string
      |
    5 |   igp = { user = 3; sshAlias = "i" + 1; authorizedKeys = [ "" (throw "whose?") ]; };
      |                                      ^
      = `toString` makes a text of a number: "…${toString …}"
    hosts.nix:5:60: igp.authorizedKeys: a key must be one line of text
      |
    5 |   igp = { user = 3; sshAlias = "i" + 1; authorizedKeys = [ "" (throw "whose?") ]; };
      |                                                            ^^
      = the line of a .pub file
    hosts.nix:5:64: igp.authorizedKeys: whose?
      |
    5 |   igp = { user = 3; sshAlias = "i" + 1; authorizedKeys = [ "" (throw "whose?") ]; };
      |                                                                ^^^^^^^^^^^^^^
    hosts.nix:6:25: attribute 'user' is already defined
      |
    6 |   nas = { user = "nas"; user = "me"; homeFile = ./nowhere.nix; };
      |                         ^^^^
      = the first is on line 6: keep one of them
    hosts.nix:6:49: nas.homeFile: nowhere.nix does not exist
      |
    6 |   nas = { user = "nas"; user = "me"; homeFile = ./nowhere.nix; };
      |                                                 ^^^^^^^^^^^^^
    "##);
    let error = Hosts::load(&repo, NixMode::Embedded).unwrap_err();
    // The check also looks whether files are there.
    assert_eq!(faults::of(&error).len(), 8);
}

/// What follows from an error is no second fault.
#[test]
fn what_can_not_be_evaluated_is_neither_missing_nor_of_the_wrong_kind() {
    // The gateway is the other field in each of them.
    for field in MANAGED.iter().copied().filter(|field| *field != "gateway") {
        let rest: String = [("vmid", "110"), ("cores", "1"), ("memory", "512"), ("disk", "\"1G\"")]
            .iter()
            .filter(|(name, _)| *name != field)
            .map(|(name, value)| format!("{name} = {value}; "))
            .collect();
        for (value, column) in [("throw \"no\"", 3), ("[ (throw \"no\") ]", 6)] {
            let text =
                managed(&format!("web = {{ {rest}{field} =\n  {value}; gateway =\n\"192.0.2.1\"; }};"));
            let mut found = loaded(&text);
            // A gateway needs an address, which DHCP does not give.
            found.retain(|fault| field == "ip" || !fault.contains("a gateway without a fixed address"));
            let list = value.starts_with('[')
                && !matches!(
                    field,
                    "nameservers"
                        | "tags"
                        | "disks"
                        | "packages"
                        | "authorizedKeys"
                        | "services"
                        | "notes"
                        | "secrets"
                        | "antiAffinity"
                );
            let own: Vec<_> = found.iter().filter(|fault| !list || !fault.contains(", not a list")).collect();
            assert_eq!(own, [&format!("3:{column} managed.web.{field}: no")], "{text}");
        }
    }
}

/// Slips that people make with operators and calls, each with what would be right.
#[test]
fn a_value_of_another_kind_than_an_operator_takes_says_what_would_be_right() {
    for (value, help) in [
        ("4 * \"1024\"", "without its quotes it is a number: 1024"),
        ("4096 + \"M\"", NO_UNIT),
        ("2 * \"4G\"", NO_UNIT),
        ("1 + \"a\"", "`toString` makes a text of a number: \"…${toString …}\""),
        ("2 * \"a b\"", ""),
        ("2 * null", ""),
        ("if \"true\" then 1 else 2", "without its quotes it is a boolean: true"),
        ("if \"on\" then 1 else 2", ""),
        ("if 1 then 1 else 2", "compare it: `… != 0`"),
        ("[ 1 ] ++ 2", "a list of one is `[ … ]`"),
        ("[ 1 ] ++ { a = 1; }", "`//` joins sets; a list of one is `[ … ]`"),
        ("\"a\" ++ \"b\"", "`+` joins texts"),
        ("null ++ [ 1 ]", "an empty list is `[ ]`"),
        ("{ } // [ 1 ]", "`++` joins lists"),
        ("\"a\" // \"b\"", "`+` joins texts"),
        ("{ } // null", "an empty set is `{ }`"),
        ("{ } // 1", ""),
        ("{ } { }", "`//` joins two sets"),
        ("./nowhere.nix { }", "`import` reads a file, and calls what is in it: `import ./file.nix …`"),
        ("4096 8192", "one value stands behind another: `[ … ]` around them makes a list"),
        ("\"a\" \"b\"", "one value stands behind another: `+` joins texts, `[ … ]` around them makes a list"),
        ("null 1", ""),
    ] {
        let vm = vm("web", 110, &format!("cores = 1; memory = {value};"));
        let (_dir, repo) = repo_with(&managed(&vm), "{ }");
        let faults = faults::of(&Definitions::load(&repo, NixMode::Embedded).unwrap_err());
        assert_eq!(faults.len(), 1, "{value}: {:#?}", short(&faults));
        assert_eq!(faults[0].help.as_deref().unwrap_or_default(), help, "{value}: {}", faults[0].message);
    }
}

const NO_UNIT: &str = "a number has no unit: `memory` is one of MiB, a disk's size is a text such as \"20G\"";

#[test]
fn what_can_not_be_evaluated_higher_up_hides_what_is_in_it_alone() {
    for (broken, fault) in [
        ("proxmox = throw \"no\";", "proxmox: no"),
        ("proxmox.host = throw \"no\"; proxmox.defaultStorage = \"local\";", "proxmox.host: no"),
        ("proxmox = { host = \"a\"; defaultStorage = throw \"no\"; };", "proxmox.defaultStorage: no"),
        ("proxmox.host = \"a\"; imported = throw \"no\";", "imported: no"),
        ("proxmox.host = \"a\"; template = throw \"no\";", "template: no"),
        ("proxmox.host = \"a\"; template = { vmid = throw \"no\"; name = \"t\"; };", "template.vmid: no"),
        ("proxmox.host = \"a\"; vmidRanges.a = throw \"no\";", "vmidRanges.a: no"),
        (
            "proxmox.host = \"a\"; vmidRanges.a = { start = throw \"no\"; end = 200; };",
            "vmidRanges.a.start: no",
        ),
        ("proxmox.host = \"a\"; imported.a = { vmid = 104; specs = throw \"no\"; };", "imported.a.specs: no"),
        ("proxmox.host = \"a\"; imported.a.vmid = throw \"no\";", "imported.a.vmid: no"),
    ] {
        let storage = if broken.contains("proxmox.host = \"a\"") { "storage = \"local\"; " } else { "" };
        let vm = vm("web", 110, &format!("{storage}cores = 1; memory = 256;"));
        let found = loaded(&format!("{{ {broken}\nmanaged.{vm} }}"));
        assert_eq!(found.len(), 2, "{found:#?}");
        assert!(found[0].ends_with(fault), "{found:#?}");
        assert!(found[1].ends_with(" managed.web.memory: 256 is out of range"), "{found:#?}");
    }
}

#[test]
fn what_several_need_is_told_once() {
    let two = |more: &str| vm("a", 110, more) + "\n" + &vm("b", 111, more);
    let text = format!("let bad = 1 + \"a\"; in {}", managed(&two("cores = bad; memory = bad;")));
    assert_eq!(loaded(&text), ["1:11 managed.a.cores: expected a number, found a string"]);
    let text = format!("let gib = n: n * \"1024\"; in {}", managed(&two("cores = 1; memory = gib 4;")));
    assert_eq!(loaded(&text).len(), 1);
    // A circle is one mistake, wherever it is entered.
    let text = format!("let x = y; y = z; z = x; in {}", managed(&two("cores = x; memory = y + z;")));
    let found = loaded(&text);
    assert_eq!(found.len(), 1, "{found:#?}");
    assert!(found[0].ends_with("infinite recursion"), "{found:#?}");
    // A name that nothing binds is told in each place, and also where nobody needs it.
    let text = format!("let unused = one; in {}", managed(&two("cores = two; memory = 512;")));
    let found = loaded(&text);
    assert_eq!(
        found,
        [
            "1:14 : undefined variable 'one'",
            "2:59 managed.a.cores: undefined variable 'two'",
            "3:59 managed.b.cores: undefined variable 'two'",
        ]
    );
}

/// A VM that was copied, and its fields twice.
#[test]
fn a_name_that_is_there_twice_is_told_once_and_hides_nothing() {
    let text = managed(&format!(
        "{}\n{}\n{}",
        vm("web", 110, "cores = 1; memory = 512;"),
        vm("web", 111, "cores = 2; memory = 256; vlan = 0;"),
        vm("db", 112, "cores = 0; memory = 512;")
    ));
    assert_eq!(
        loaded(&text),
        [
            "3:9 : attribute 'vmid' is already defined",
            "3:85 managed.web.vlan: 0 is out of range",
            "4:60 managed.db.cores: 0 is out of range",
        ]
    );
    assert_eq!(
        loaded(
            "{ proxmox.host = \"a\";\nproxmox.host = \"b\"; proxmox = 3;\ninherit (x) proxmox; imported = 3; }"
        ),
        [
            "2:9 : attribute 'host' is already defined",
            "2:21 : attribute 'proxmox' is already defined",
            "3:10 : undefined variable 'x'",
            "3:13 : attribute 'proxmox' is already defined",
            "3:33 imported: must be a set, not an integer",
        ]
    );
}

#[test]
fn a_file_that_fails_as_a_whole_has_its_one_fault() {
    for text in ["throw \"no\"", "let a = 1; in assert a == 2; { }", "{ } // 3", "{ a = ; }", ""] {
        let (_dir, repo) = repo_with(text, text);
        let error = Definitions::load(&repo, NixMode::Embedded).unwrap_err();
        let read = nix::read(&repo.definitions(), repo.root(), NixMode::Embedded).unwrap_err();
        assert_eq!((error.message(), error.hints()), (read.message(), read.hints()));
        let error = Hosts::load(&repo, NixMode::Embedded).unwrap_err();
        assert_eq!(faults::of(&error).len(), 1);
    }
}

#[test]
fn what_needs_nix_or_too_much_is_no_excuse_for_the_rest() {
    // Nix is not asked, for it fails as well: what it would read is left alone.
    let text = managed(&format!(
        "{}\n{}\n{}",
        vm("a", 110, "cores = throw \"no\"; memory = 512;"),
        vm("b", 111, "cores = 1; memory = builtins.currentTime;"),
        vm("c", 112, "cores = 1; memory = 256;")
    ));
    let found = loaded(&text);
    assert_eq!(found, ["2:59 managed.a.cores: no", "4:71 managed.c.memory: 256 is out of range"]);
    // What a budget ends has no rest; what was found before it is told.
    let text = format!("let f = x: f (x + 1); in {}", text.replace("builtins.currentTime", "f 1"));
    let found = loaded(&text);
    assert_eq!(found.len(), 2, "{found:#?}");
    assert!(found.iter().any(|fault| fault.ends_with("managed.a.cores: no")), "{found:#?}");
    assert!(found.iter().any(|fault| fault.contains("managed.b.memory: gave up: ")), "{found:#?}");
}

#[test]
fn errors_in_files_that_are_imported_are_told_too() {
    let text = managed(&format!(
        "{}\n{}\nlost = import ./none.nix;\nodd = import ./odd.nix;",
        vm("a", 110, "cores = (import ./lib.nix).cores; memory = (import ./lib.nix).memory;"),
        vm("b", 111, "cores = 1; memory = 256;"),
    ));
    let (dir, repo) = repo_with(&text, "{ }");
    fs::write(dir.path().join("vms/lib.nix"), "{\n  cores = 1 + [ ];\n  memory = gib;\n}\n").unwrap();
    fs::write(dir.path().join("vms/odd.nix"), "{\n  vmid = 1\n}\n").unwrap();
    let error = Definitions::load(&repo, NixMode::Embedded).unwrap_err();
    let found = faults::of(&error);
    let places: Vec<_> =
        found.iter().map(|fault| format!("{}:{} {}", fault.file, fault.line.unwrap(), fault.path)).collect();
    assert_eq!(
        places,
        [
            "vms/definitions.nix:3 managed.b.memory",
            "vms/definitions.nix:4 managed.lost",
            "vms/lib.nix:2 managed.a.cores",
            "vms/lib.nix:3 managed.a.memory",
            "vms/odd.nix:3 managed.odd",
        ],
        "{found:#?}"
    );
}

/// Files with one evaluation error in a place that the rest does not need: nothing may act on what is right in them.
const BROKEN: &[&str] = &[
    "cores = 1 + \"a\";",
    "cores = throw \"no\";",
    "cores = abort \"no\";",
    "cores = assert 1 == 2; 1;",
    "cores = undefined;",
    "cores = let unused = undefined; in 1;",
    "cores = if true then 1 else undefined;",
    "purpose = (x: \"\") undefined;",
    "cores = (rec { a = b; b = a; }).a;",
    "cores = (import ./none.nix);",
    "cores = { }.cores;",
    "cores = 1; cores = 2;",
    "cores = builtins.head [ ];",
    "cores = 1 / 0;",
    "cores = (1) 2;",
    "cores = ({ a }: a) { };",
    "cores = (builtins.tryEval undefined).success;",
    "tags = [ \"a\" (throw \"no\") ];",
    "purpose = \"a${1}\";",
    "purpose = builtins.readFile ./none;",
    "own = { deep = { deeper = [ (throw \"no\") ]; }; };",
    "inherit cores;",
    "inherit ({ }) cores;",
    "${throw \"no\"} = 1;",
    "\"${\"cores\"}\" = 1; cores = 1;",
];

#[test]
fn no_file_with_an_error_is_acted_on() {
    for broken in BROKEN {
        let rest = if broken.contains("cores") { "" } else { "cores = 1; " };
        let good = vm("good", 111, "cores = 1; memory = 512;");
        let text = managed(&format!("{}\n{good}", vm("web", 110, &format!("memory = 512; {rest}{broken}"))));
        let hosts = format!("{{ web = {{ {broken} }}; good = {{ user = \"me\"; }}; }}");
        let (_dir, repo) = repo_with(&text, &hosts);
        for mode in [NixMode::Embedded, NixMode::Auto] {
            let error = Definitions::load(&repo, mode).unwrap_err();
            assert_eq!(error.kind(), Kind::Failed, "{text}");
            assert!(!faults::of(&error).is_empty(), "{text}");
            let error = Hosts::load(&repo, mode).unwrap_err();
            assert!(!faults::of(&error).is_empty(), "{hosts}");
            let report = validate::repository(&repo, mode);
            assert!(report.definitions.is_none() && report.hosts.is_none(), "{text}");
        }
        for file in [repo.definitions(), repo.hosts()] {
            eval_file(&file, Budget::default()).unwrap_err();
            nix::read(&file, repo.root(), NixMode::Embedded).unwrap_err();
            assert!(!by_nix(&file), "Nix reads this: {}", fs::read_to_string(&file).unwrap());
        }
        Definitions::of_text(&text, &repo, NixMode::Embedded).unwrap_err();
    }
}

/// Whether Nix evaluates a file to the bottom. Without Nix the test fails in CI, and is skipped elsewhere.
fn by_nix(file: &Path) -> bool {
    let Some(nix) = find_program("nix-instantiate") else {
        assert!(
            std::env::var_os("FLEET_REQUIRE_ORACLES").is_none_or(|v| v != "1"),
            "nix-instantiate is not installed, and FLEET_REQUIRE_ORACLES=1 asks for it"
        );
        eprintln!("skipped: nix-instantiate is not installed");
        return false;
    };
    let store = tempfile::tempdir().unwrap();
    Command::new(nix)
        .env("NIX_STATE_DIR", store.path())
        .args(["--eval", "--strict", "--readonly-mode"])
        .arg(file)
        .output(Deadline::secs(60))
        .unwrap()
        .success()
}
