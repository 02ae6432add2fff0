//! The files of a new host under `hosts/`, in the style of one that is there.

use std::{fs, path::Path};

use fleet_core::{
    Error, Result,
    definitions::{Definitions, nearest},
    disk_layout,
    hosts::Hosts,
    nix::edit::{ModuleText, module_text, quote_name},
    repo::Repo,
    types::DiskSize,
};

/// A host that is taken as the pattern.
pub(super) struct Model {
    /// Its directory under `hosts/`.
    pub(super) name: String,
    /// Its host name, when it is another.
    hostname: Option<String>,
    configuration: Option<ModuleText>,
    disko: Option<String>,
    /// The texts that make its disk layout, shared ones too.
    layout: Option<String>,
    hardware: Option<String>,
    home: Option<String>,
}

/// Attributes of a configuration that every machine of a fleet has; what else a host has is its own business.
const COMMON: &[&str] = &[
    "boot",
    "time",
    "i18n",
    "console",
    "users",
    "security",
    "nix",
    "nixpkgs",
    "system.stateVersion",
    "networking.hostName",
    "networking.useNetworkd",
    "networking.useDHCP",
    "services.openssh",
    "services.qemuGuest",
];

/// What a host gets when no other can be its pattern: what the example has. The crate is built without the example.
const DISKO: &str = include_str!("template/disko.nix");
const HARDWARE: &str = include_str!("template/hardware-configuration.nix");

/// What the new host is called.
#[derive(Debug, Clone, Copy)]
pub(super) struct New<'a> {
    /// As a VM, and in hosts.nix.
    pub(super) name: &'a str,
    /// Under `hosts/`.
    pub(super) config: &'a str,
    /// Inside.
    pub(super) hostname: &'a str,
    /// The size of its disk, where it is made from an image.
    pub(super) image: Option<DiskSize>,
}

/// How large an image is to be, at most: NixOS and what a host usually has fit, and all of it is sent.
const IMAGE: &str = "8G";

/// A disk layout that says how large its image is to be; the same where it does already, or has no place for it.
fn with_image_size(text: &str, disk: DiskSize) -> String {
    const DISK: &str = "type = \"disk\";";
    let known = fleet_core::nix::code_words(text).iter().any(|word| word == "imageSize");
    let Some((before, after)) = text.split_once(DISK).filter(|_| !known) else { return text.to_owned() };
    let usual: Option<DiskSize> = IMAGE.parse().ok();
    let size = usual.filter(|usual| usual.bytes() < disk.bytes()).unwrap_or(disk);
    let indent: String = before.chars().rev().take_while(|c| *c == ' ').collect();
    format!(
        "{before}{DISK}\n{indent}imageSize = \"{size}\"; # of the image; the disk is grown\n{}",
        after.strip_prefix('\n').unwrap_or(after)
    )
}

/// The host to take as the pattern: the named one, or the managed VM whose directory has the most of what is needed,
/// or any host with a configuration.
pub(super) fn model(
    repo: &Repo,
    definitions: &Definitions,
    hosts: &Hosts,
    like: Option<&str>,
) -> Result<Option<Model>> {
    let managed =
        definitions.managed.iter().map(|vm| (vm.nixos_config.clone(), Some(vm.hostname.to_string())));
    let others = hosts.hosts.iter().map(|host| (host.name.clone(), host.hostname.clone()));
    let mut found: Vec<Model> = Vec::new();
    for (name, hostname) in managed.chain(others) {
        let dir = repo.host_dir(&name);
        if dir.join("configuration.nix").is_file() && found.iter().all(|model| model.name != name) {
            found.push(Model::read(repo, &dir, name, hostname));
        }
    }
    if let Some(like) = like {
        let names: Vec<String> = found.iter().map(|model| model.name.clone()).collect();
        return match found.into_iter().find(|model| model.name == like) {
            Some(model) => Ok(Some(model)),
            None => {
                let error = Error::not_found(format!("no host '{like}' with a configuration under hosts/"));
                Err(match nearest(like, names.iter().map(String::as_str)) {
                    Some(near) => error.hint(format!("did you mean '{near}'?")),
                    None => error,
                })
            }
        };
    }
    // Of equally good ones the first: managed VMs come before the others.
    Ok(found.into_iter().rev().max_by_key(Model::worth))
}

impl Model {
    fn read(repo: &Repo, dir: &Path, name: String, hostname: Option<String>) -> Model {
        let read = |file: &str| fs::read_to_string(dir.join(file)).ok();
        Model {
            hostname: hostname.filter(|hostname| *hostname != name),
            name,
            configuration: read("configuration.nix").and_then(|text| module_text(&text)),
            disko: read("disko.nix"),
            layout: disk_layout::of_host(repo.root(), dir),
            hardware: read("hardware-configuration.nix"),
            home: read("home.nix"),
        }
    }

    fn worth(&self) -> u32 {
        u32::from(self.configuration.is_some()) * 4
            + u32::from(self.disko.is_some()) * 2
            + u32::from(self.home.is_some())
    }

    /// A text of this host as the new one has it.
    fn renamed(&self, text: &str, new: New<'_>) -> String {
        match &self.hostname {
            Some(hostname) => {
                replace_word(&replace_word(text, &self.name, new.config), hostname, new.hostname)
            }
            // One name for both: which is meant where can not be told, but the host name counts.
            None => replace_word(text, &self.name, new.hostname),
        }
    }
}

/// Replaces a name where it stands as a whole word.
fn replace_word(text: &str, from: &str, to: &str) -> String {
    let part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || matches!(c, '-' | '_'));
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(from) {
        let after = &rest[at + from.len()..];
        let whole = !part(rest[..at].chars().next_back()) && !part(after.chars().next());
        out.push_str(&rest[..at]);
        out.push_str(if whole { to } else { from });
        rest = after;
    }
    out + rest
}

/// The new host's files and their texts.
pub(super) fn texts(
    new: New<'_>,
    user: &str,
    purpose: Option<&str>,
    model: Option<&Model>,
) -> Vec<(&'static str, String)> {
    let of_model = |text: Option<&String>| text.zip(model).map(|(text, model)| model.renamed(text, new));
    let uefi = |text: &String| {
        fleet_core::nix::string_literals(text).iter().any(|literal| literal.eq_ignore_ascii_case("EF00"))
    };
    // That of a machine that is no VM would not do.
    let fits = model.filter(|model| model.layout.as_ref().is_some_and(uefi));
    let shared = fits.is_some_and(|model| model.disko.is_none());
    let mut texts = vec![("configuration.nix", configuration(new, user, purpose, model, shared))];
    if !shared {
        let disko = of_model(fits.and_then(|model| model.disko.as_ref()));
        let disko = disko.unwrap_or_else(|| DISKO.to_owned());
        texts.push((
            "disko.nix",
            new.image.map_or_else(|| disko.clone(), |disk| with_image_size(&disko, disk)),
        ));
    }
    texts.push((
        "hardware-configuration.nix",
        of_model(fits.and_then(|model| model.hardware.as_ref())).unwrap_or_else(|| HARDWARE.to_owned()),
    ));
    texts.extend(of_model(model.and_then(|model| model.home.as_ref())).map(|text| ("home.nix", text)));
    texts
}

/// With `shared_layout`, the disk layout is among what the pattern imports.
fn configuration(
    new: New<'_>,
    user: &str,
    purpose: Option<&str>,
    model: Option<&Model>,
    shared_layout: bool,
) -> String {
    let module = model.and_then(|model| model.configuration.clone()).unwrap_or_default();
    let renamed = |text: &str| model.map_or_else(|| text.to_owned(), |model| model.renamed(text, new));
    // What lies beside the host belongs to all; what lies in its directory is its own.
    let shared: Vec<String> = module
        .imports
        .iter()
        .filter(|import| !import.trim_start().starts_with("./"))
        .map(|i| renamed(i))
        .collect();
    let own = ["./hardware-configuration.nix", "./disko.nix"].map(str::to_owned);
    let own = &own[..if shared_layout { 1 } else { 2 }];
    let common =
        |path: &str| COMMON.iter().any(|root| path == *root || path.starts_with(&format!("{root}.")));
    let mut attrs: Vec<(String, String)> = module
        .attrs
        .iter()
        .filter(|(path, _)| common(path))
        .map(|(path, value)| (path.clone(), renamed(value)))
        .collect();
    let has = |attrs: &[(String, String)], root: &str| {
        attrs.iter().any(|(path, _)| path == root || path.starts_with(&format!("{root}.")))
    };
    if !has(&attrs, "boot") && !has(&attrs, "boot.loader") {
        attrs.insert(0, ("boot.loader.efi.canTouchEfiVariables".into(), "true".into()));
        attrs.insert(0, ("boot.loader.systemd-boot.enable".into(), "true".into()));
    }
    if shared.is_empty() {
        if !has(&attrs, "users") {
            let keys = format!("(import ../../hosts.nix).{}.authorizedKeys or [ ]", quote_name(new.name));
            let value = format!(
                "{{\n    isNormalUser = true;\n    extraGroups = [ \"wheel\" ];\n    openssh.authorizedKeys.keys = {keys};\n  }}"
            );
            attrs.push((format!("users.users.{user}"), value));
            attrs.push(("security.sudo.wheelNeedsPassword".into(), "false".into()));
        }
        for (path, value) in [
            ("networking.hostName", format!("\"{}\"", new.hostname)),
            ("services.openssh.enable", "true".to_owned()),
            ("services.qemuGuest.enable", "true".to_owned()),
        ] {
            let root = path.trim_end_matches(".enable");
            if !has(&attrs, root) {
                attrs.push((path.to_owned(), value));
            }
        }
    }
    if new.image.is_some() {
        // The disk is larger than the image.
        for path in ["boot.growPartition", "fileSystems.\"/\".autoResize"] {
            if !has(&attrs, path) {
                attrs.push((path.into(), "true".into()));
            }
        }
    }
    if !has(&attrs, "system.stateVersion") {
        attrs.push(("system.stateVersion".into(), "\"25.05\"".into()));
    }
    let mut text = String::new();
    if let Some(purpose) = purpose {
        text.push_str(&format!("# {}.\n", purpose.trim_end_matches('.').replace('\n', " ")));
    }
    let head = if module.head.is_empty() { "{ ... }:" } else { module.head.as_str() };
    text.push_str(&format!("{head}\n{{\n  imports = [\n"));
    shared.iter().chain(own).for_each(|import| text.push_str(&format!("    {import}\n")));
    text.push_str("  ];\n\n");
    attrs.iter().for_each(|(path, value)| text.push_str(&format!("  {path} = {value};\n")));
    text + "}\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEB: New<'static> = New { name: "web", config: "web", hostname: "web", image: None };

    #[test]
    fn a_name_is_replaced_where_it_is_one() {
        assert_eq!(
            replace_word("web web-1 \"web\" ../web.nix cobweb", "web", "db"),
            "db web-1 \"db\" ../db.nix cobweb"
        );
    }

    #[test]
    fn the_templates_are_those_of_the_example() {
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../hosts/test-automation");
        for (file, template) in [("disko.nix", DISKO), ("hardware-configuration.nix", HARDWARE)] {
            assert_eq!(fs::read_to_string(example.join(file)).unwrap(), template, "{file}");
        }
    }

    #[test]
    fn a_host_of_its_own_has_all_that_it_needs() {
        let texts = texts(WEB, "fleet", Some("Shop"), None);
        assert_eq!(texts.len(), 3);
        insta::assert_snapshot!(texts[0].1, @r#"
        # Shop.
        { ... }:
        {
          imports = [
            ./hardware-configuration.nix
            ./disko.nix
          ];

          boot.loader.systemd-boot.enable = true;
          boot.loader.efi.canTouchEfiVariables = true;
          users.users.fleet = {
            isNormalUser = true;
            extraGroups = [ "wheel" ];
            openssh.authorizedKeys.keys = (import ../../hosts.nix).web.authorizedKeys or [ ];
          };
          security.sudo.wheelNeedsPassword = false;
          networking.hostName = "web";
          services.openssh.enable = true;
          services.qemuGuest.enable = true;
          system.stateVersion = "25.05";
        }
        "#);
    }

    #[test]
    fn a_host_from_an_image_says_how_large_that_is_and_grows() {
        let of = |disk: &str| texts(New { image: Some(disk.parse().unwrap()), ..WEB }, "fleet", None, None);
        let texts = of("20G");
        assert!(texts[1].1.contains("    type = \"disk\";\n    imageSize = \"8G\"; #"), "{}", texts[1].1);
        assert!(texts[1].1.contains("\n    device = \"/dev/sda\";"), "{}", texts[1].1);
        for line in ["  boot.growPartition = true;\n", "  fileSystems.\"/\".autoResize = true;\n"] {
            assert!(texts[0].1.contains(line), "{}", texts[0].1);
        }
        assert!(of("4G")[1].1.contains("imageSize = \"4G\";"));
        let own = "{ type = \"disk\"; imageSize = \"3G\"; }";
        assert_eq!(with_image_size(own, "20G".parse().unwrap()), own);
    }

    #[test]
    fn a_shared_layout_stays_shared() {
        let text = "{ imports = [ ../../modules/uefi.nix ]; system.stateVersion = \"25.05\"; }";
        let model = Model {
            name: "a".into(),
            hostname: None,
            configuration: module_text(text),
            disko: None,
            layout: Some("{ disko.devices.disk.a.type = \"EF00\"; }".into()),
            hardware: None,
            home: None,
        };
        let texts = texts(WEB, "fleet", None, Some(&model));
        assert_eq!(
            texts.iter().map(|(file, _)| *file).collect::<Vec<_>>(),
            ["configuration.nix", "hardware-configuration.nix"]
        );
        assert!(texts[0].1.contains("../../modules/uefi.nix") && !texts[0].1.contains("./disko.nix"));
    }

    #[test]
    fn what_a_model_has_for_itself_is_not_taken_over() {
        let text = "{ lib, ... }:\n{\n  imports = [ (import ../common.nix \"a\") ./disko.nix ./nginx.nix ];\n  boot.loader.grub.enable = true;\n  services.nginx.enable = true;\n  networking.interfaces.eth0.ipv4.addresses = [ ];\n  system.stateVersion = \"24.11\";\n}\n";
        let model = Model {
            name: "a".into(),
            hostname: None,
            configuration: module_text(text),
            disko: Some("{ type = \"EF00\"; device = \"/dev/vda\"; }".into()),
            layout: Some("{ type = \"EF00\"; device = \"/dev/vda\"; }".into()),
            hardware: None,
            home: Some("{ home.username = \"a\"; }".into()),
        };
        let texts = texts(WEB, "fleet", None, Some(&model));
        insta::assert_snapshot!(texts[0].1, @r#"
        { lib, ... }:
        {
          imports = [
            (import ../common.nix "web")
            ./hardware-configuration.nix
            ./disko.nix
          ];

          boot.loader.grub.enable = true;
          system.stateVersion = "24.11";
        }
        "#);
        assert!(texts[1].1.contains("/dev/vda"));
        assert_eq!(texts[3], ("home.nix", "{ home.username = \"web\"; }".to_owned()));
    }
}
