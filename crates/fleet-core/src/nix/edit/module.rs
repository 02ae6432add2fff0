//! Looking at a NixOS module as it is written, to write another one like it.

use rnix::SyntaxKind as K;

use super::tree::{self, set_of};
use crate::nix::syntax::{Node, Tree, on_large_stack};

/// Parts of a module's text.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ModuleText {
    /// What stands before its set: comments left out, the function's head as it is, such as `{ lib, ... }:`.
    pub head: String,
    /// The elements of `imports = [ … ]`, each as it is written.
    pub imports: Vec<String>,
    /// Every other attribute with its path and its value, as they are written.
    pub attrs: Vec<(String, String)>,
}

/// The parts of a module; nothing when it is not a plain set, or a function that gives one.
pub fn module_text(text: &str) -> Option<ModuleText> {
    on_large_stack(|| {
        let tree = Tree::parse(text).ok()?;
        parts(tree.root(), text)
    })
    .ok()
    .flatten()
}

fn parts(root: Node<'_>, text: &str) -> Option<ModuleText> {
    let mut node = root.nodes().next()?;
    let start = node.start() as usize;
    let mut head = String::new();
    loop {
        node = match node.kind() {
            K::NODE_LAMBDA => {
                let body = node.nodes().last()?;
                head = text[start..body.start() as usize].trim().to_owned();
                body
            }
            K::NODE_PAREN => node.nodes().next()?,
            K::NODE_LET_IN | K::NODE_WITH => return None,
            K::NODE_ATTR_SET => break,
            _ => return None,
        };
    }
    if tree::has_comment(root) && head.contains('#') {
        return None;
    }
    let set = set_of(node)?;
    let mut found = ModuleText { head, ..ModuleText::default() };
    for binding in &set.bindings {
        let written = |node: Node<'_>| text[node.start() as usize..node.end() as usize].to_owned();
        if binding.path == ["imports"] && binding.value.kind() == K::NODE_LIST {
            found.imports = binding.value.nodes().map(written).collect();
        } else {
            found.attrs.push((binding.path.join("."), written(binding.value)));
        }
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_is_taken_apart_as_it_is_written() {
        let text = "# about it\n{ lib, ... }:\n{\n  imports = [\n    (import ../common.nix \"web\")\n    ./disko.nix\n  ];\n  boot.loader.grub.enable = true;\n  system.stateVersion = \"25.05\";\n}\n";
        let module = module_text(text).unwrap();
        assert_eq!(module.head, "{ lib, ... }:");
        assert_eq!(module.imports, ["(import ../common.nix \"web\")", "./disko.nix"]);
        assert_eq!(module.attrs[1], ("system.stateVersion".to_owned(), "\"25.05\"".to_owned()));
        assert_eq!(module_text("import ./x.nix"), None);
    }
}
