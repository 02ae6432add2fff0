//! Where a host's disk layout is written, and what its text tells: without evaluating anything, by the paths that its
//! files name.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use crate::nix::code_words;

/// So many imports in a row are followed.
const DEEPEST: usize = 4;

/// The texts of `file` and of the Nix files inside of `root` that it names by relative paths, and these name, and so on.
pub fn reached(root: &Path, file: &Path) -> Vec<String> {
    let Ok(root) = root.canonicalize() else { return Vec::new() };
    let (mut texts, mut seen) = (Vec::new(), BTreeSet::new());
    let mut files = vec![file.to_owned()];
    for _ in 0..=DEEPEST {
        let mut named = Vec::new();
        for file in files {
            let Some(file) = nix_file(&root, &file).filter(|file| seen.insert(file.clone())) else {
                continue;
            };
            let Ok(text) = fs::read_to_string(&file) else { continue };
            let dir = file.parent().unwrap_or(&root);
            let relative =
                code_words(&text).into_iter().filter(|word| word.starts_with('.') && word.contains('/'));
            named.extend(relative.map(|word| dir.join(word)));
            texts.push(text);
        }
        files = named;
    }
    texts
}

/// The Nix file that a path means, if it is inside of `root`.
fn nix_file(root: &Path, path: &Path) -> Option<PathBuf> {
    let path = path.canonicalize().ok()?;
    let path = if path.is_dir() { path.join("default.nix").canonicalize().ok()? } else { path };
    (path.starts_with(root) && path.extension().is_some_and(|end| end == "nix")).then_some(path)
}

/// Whether a text has disko's disks in it.
pub fn lays_out(text: &str) -> bool {
    let words = code_words(text);
    words.iter().zip(words.iter().skip(1)).any(|(a, b)| a == "disko" && b == "devices")
}

/// The texts that make the disk layout of the host in `dir`: its `disko.nix`, or what its configuration imports
/// instead. None where that can not be told.
pub fn of_host(root: &Path, dir: &Path) -> Option<String> {
    let own = dir.join("disko.nix");
    if own.is_file() {
        return Some(reached(root, &own).join("\n"));
    }
    let texts = reached(root, &dir.join("configuration.nix"));
    texts.iter().any(|text| lays_out(text)).then(|| texts.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layout_is_followed_to_where_it_is_written() {
        let root = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| {
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let (web, db) = (root.path().join("hosts/web"), root.path().join("hosts/db"));
        write("modules/disks/default.nix", "{ disko.devices.disk.main = import ./uefi.nix; }");
        write(
            "modules/disks/uefi.nix",
            "{ device }: { type = \"EF00\"; imports = [ ./default.nix ../../../../etc ]; }",
        );
        write("hosts/web/disko.nix", "import ../../modules/disks { device = \"/dev/sda\"; } # ./old.nix");
        write("hosts/web/old.nix", "{ type = \"EF02\"; }");
        let text = of_host(root.path(), &web).unwrap();
        assert!(text.contains("EF00") && !text.contains("EF02") && lays_out(&text), "{text}");
        // Shared, without a file of the host's own.
        write("hosts/db/configuration.nix", "{ imports = [ ../../modules/disks ]; }");
        assert!(of_host(root.path(), &db).unwrap().contains("EF00"));
        write("hosts/db/configuration.nix", "{ imports = [ ../../modules ]; disko.enable = true; }");
        assert_eq!(of_host(root.path(), &db), None);
        assert!(lays_out("{ disko = { devices = { }; }; }"));
    }
}
