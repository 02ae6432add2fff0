//! A new entry in one of a file's sections: a VM under `managed` in `vms/definitions.nix`.

use std::path::Path;

use rnix::SyntaxKind as K;

use super::{
    compare::{Difference, Why, difference},
    edit,
    entry::quote_name,
    evaluator::Evaluator,
    layout::Layout,
    line_of,
    tree::{self, Binding, set_of},
    untouched::untouched_beside,
    written::{Entry, Written, sets_in},
};
use crate::{
    Error, Result,
    nix::{
        NixMode,
        eval::{Attr, Data, Value},
        syntax::Node,
    },
};

/// The text of `file` with `NAME = { … };` added to the set `section` of its top level, in the style of the entries
/// that are there. `attrs` are names and their values as Nix text, in their order. Proven: the file comes to the
/// same value with the entry more, and to no other; by what `mode` says, as for an edit of `hosts.nix`.
pub fn insert_entry(
    text: &str,
    file: &Path,
    section: &str,
    name: &str,
    attrs: &[(&str, String)],
    mode: NixMode,
) -> Result<String> {
    let after = edit(text, |tree| insert(tree.root(), text, section, name, attrs)).map_err(|error| {
        let shown: String = attrs.iter().map(|(attr, value)| format!(" {attr} = {value};")).collect();
        let by_hand = format!("write it into `{section}` by hand: {} = {{{shown} }};", quote_name(name));
        match error.kind() {
            crate::Kind::Conflict => error,
            _ => error.hint(by_hand),
        }
    })?;
    let (old, new) = Evaluator::choose(mode, file, |by| {
        let place = by.place(file);
        Ok((by.value(text, None, &place)?, by.value(&after, None, &place)?))
    })?;
    let odd = || {
        Error::failed(format!("the edit of {} would have changed something else too", file.display()))
            .now("nothing was changed")
    };
    let is_section = |attr: &Attr| attr.name.as_ref() == section;
    let is_first = !old.attrs().ok_or_else(odd)?.iter().any(is_section);
    let without = |value: &Value, inner: bool| -> Option<Value> {
        let mut top = value.attrs()?.to_vec();
        let at = top.iter().position(is_section);
        let mut entries: Vec<Attr> = match at {
            Some(at) => top[at].value.attrs()?.to_vec(),
            None => Vec::new(),
        };
        if inner {
            entries.retain(|attr| attr.name.as_ref() != name);
        }
        match at {
            Some(at) if is_first && entries.is_empty() => drop(top.remove(at)),
            Some(at) => top[at].value.data = Data::Attrs(entries.into()),
            None => {}
        }
        Some(Value { data: Data::Attrs(top.into()), at: None })
    };
    let (old, new) = (without(&old, false).ok_or_else(odd)?, without(&new, true).ok_or_else(odd)?);
    match difference(&old, &new, false) {
        None => Ok(after),
        Some(Difference { why: Why::Function, path }) => {
            let shown = path.iter().map(|name| quote_name(name)).collect::<Vec<_>>().join(".");
            let refused = |why: String| {
                Error::refused(format!(
                    "can not edit {}: {shown} is or holds a function, which can not be compared, and {why}",
                    file.display()
                ))
                .now("nothing was changed")
                .hint("write the entry by hand")
            };
            untouched_beside(text, &after, section, name)?.map_err(refused)?;
            if difference(&old, &new, true).is_none() { Ok(after) } else { Err(odd()) }
        }
        Some(_) => Err(odd()),
    }
}

fn insert(root: Node<'_>, text: &str, section: &str, name: &str, attrs: &[(&str, String)]) -> Result<String> {
    let cannot = |at: usize, why: &str| {
        Error::refused(format!("can not add '{name}' to `{section}` (line {}): {why}", line_of(text, at)))
            .now("nothing was changed")
    };
    let top = tree::host_set(root, text).map_err(|_| cannot(0, "the file is not a plain set"))?;
    let written = || attrs.iter().map(|(attr, value)| (*attr, Written::Text(value.clone()))).collect();
    let bindings: Vec<&Binding<'_>> =
        top.bindings.iter().filter(|b| b.path.first().is_some_and(|n| n == section)).collect();
    let taken =
        |at: usize| Error::conflict(format!("`{section}` has '{name}' already (line {})", line_of(text, at)));
    match bindings.as_slice() {
        [] if top.inherited.iter().any(|n| n == section) => Err(cannot(top.open, "it is inherited")),
        [whole] if whole.path.len() == 1 => {
            let value = whole.value.unparenthesized();
            let inner = (value.kind() == K::NODE_ATTR_SET).then(|| set_of(value)).flatten();
            let inner = inner.ok_or_else(|| cannot(whole.start, "it is not written as a plain set"))?;
            if let Some(there) = inner.bindings.iter().find(|b| b.path.first().is_some_and(|n| n == name)) {
                return Err(taken(there.start));
            }
            let layout = Layout::of(text, &inner, true);
            let entry = Entry::new(text, &layout, &sets_in(&inner), name, written());
            if inner.items.is_empty() && inner.comments.is_empty() {
                return Ok(layout.fill(text, &inner, &entry));
            }
            Ok(layout.insert(text, &inner, layout.place_for(&inner, name), &entry))
        }
        // Also where there is none yet.
        paths => {
            if let Some(there) = paths.iter().find(|b| b.path.get(1).is_some_and(|n| n == name)) {
                return Err(taken(there.start));
            }
            // `managed.web = { … };`, each for itself: the new one goes after the last of them.
            let layout = Layout::of(text, &top, false);
            let last = paths.last().map(|b| b.start);
            let after = top.items.iter().position(|item| Some(item.0) == last).map(|at| at + 1);
            let entry = Entry::new(text, &layout, &[], name, written()).below(section);
            Ok(layout.insert(text, &top, after, &entry))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn insert(text: &str) -> Result<String> {
        let attrs = [("vmid", "111".to_owned()), ("disk", "\"20G\"".to_owned())];
        let file = Path::new("/fleet/vms/definitions.nix");
        insert_entry(text, file, "managed", "web", &attrs, NixMode::Embedded)
    }

    #[test]
    fn a_vm_is_written_as_the_others_are() {
        for (before, after) in [
            (
                "{\n  managed = {\n    # the first\n    a = {\n      vmid = 110; # once 9\n    };\n  };\n}\n",
                "{\n  managed = {\n    # the first\n    a = {\n      vmid = 110; # once 9\n    };\n    web = {\n      vmid = 111;\n      disk = \"20G\";\n    };\n  };\n}\n",
            ),
            (
                "{ managed = {\n    a = { vmid = 110; cores = 2; };\n  };\n}\n",
                "{ managed = {\n    a = { vmid = 110; cores = 2; };\n    web = { vmid = 111; disk = \"20G\"; };\n  };\n}\n",
            ),
            (
                "let d = \"20G\"; in {\n  managed.a = { vmid = 110; disk = d; };\n  template = { vmid = 9002; };\n}\n",
                "let d = \"20G\"; in {\n  managed.a = { vmid = 110; disk = d; };\n  managed.web = {\n    vmid = 111;\n    disk = \"20G\";\n  };\n  template = { vmid = 9002; };\n}\n",
            ),
        ] {
            assert_eq!(insert(before).unwrap(), after);
        }
    }

    /// Nobody takes it out again, so that nothing need tell how the file was.
    #[test]
    fn the_first_vm_is_written_as_people_write_it() {
        let web = "web = {\n      vmid = 111;\n      disk = \"20G\";\n    };";
        let filled = format!("{{\n  proxmox.host = \"prom\";\n  managed = {{\n    {web}\n  }};\n}}\n");
        for empty in ["{ }", "{}", "{\n  }", "{\n\n  }"] {
            let before = format!("{{\n  proxmox.host = \"prom\";\n  managed = {empty};\n}}\n");
            assert_eq!(insert(&before).unwrap(), filled, "{before}");
        }
        let commented = insert("{\n  managed = {\n    # VMs\n  };\n}\n").unwrap();
        assert_eq!(commented, format!("{{\n  managed = {{\n    # VMs\n    {web}\n  }};\n}}\n"));
        assert_eq!(
            insert("{\n  proxmox.host = \"prom\"; # ours\n}\n").unwrap(),
            "{\n  proxmox.host = \"prom\"; # ours\n  managed.web = {\n    vmid = 111;\n    disk = \"20G\";\n  };\n}\n"
        );
        let error = insert("let managed = { }; in { inherit managed; }").unwrap_err();
        assert!(error.message().ends_with("it is inherited"), "{error:?}");
    }

    /// A function can not be compared: it stays where nothing that it may use is changed.
    #[test]
    fn a_function_elsewhere_is_left_as_it_is() {
        for text in [
            "{\n  imported.old = { vmid = 9; own = x: x; list = [ (a: a) ]; };\n  managed = {\n    a = { vmid = 110; cores = 2; };\n  };\n}\n",
            "rec {\n  d = \"20G\";\n  imported.old.own = x: d;\n  managed = { };\n}\n",
            "{\n  imported.old.own = x: x;\n  managed = rec {\n    a = { vmid = 110; };\n  };\n}\n",
        ] {
            let after = insert(text).unwrap();
            assert!(after.contains("web = {"), "{after}");
        }
        let whole =
            "rec {\n  imported.old.own = x: managed;\n  managed = {\n    a = { vmid = 110; };\n  };\n}\n";
        let one = "{\n  managed = rec {\n    a = { vmid = 110; own = x: web; };\n  };\n}\n"
            .replace("web;", "web or 1;");
        for (text, path, line, name) in [
            (whole, "imported.old.own", 2, "managed"),
            (&one.replace("web or 1", "a.web or web"), "managed.a.own", 3, "web"),
        ] {
            let Err(error) = insert(text) else { panic!("{text}") };
            let told = format!(
                "{path} is or holds a function, which can not be compared, and line {line} uses `{name}`"
            );
            assert!(
                error.message().contains(&told) || error.message().contains("undefined variable"),
                "{error:?}"
            );
        }
    }

    #[test]
    fn what_can_not_be_edited_safely_is_left_to_people() {
        let error = insert("{ managed = import ./vms.nix; }").unwrap_err();
        assert_eq!(error.kind(), crate::Kind::Refused);
        assert!(error.hints()[0].ends_with("web = { vmid = 111; disk = \"20G\"; };"), "{error:?}");
        assert_eq!(insert("{ managed.web = { vmid = 1; }; }").unwrap_err().kind(), crate::Kind::Conflict);
        assert_eq!(insert("{ managed = { web = { }; }; }").unwrap_err().kind(), crate::Kind::Conflict);
    }
}
