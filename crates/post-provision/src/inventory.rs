//! `docs/machines.md`: tables of the machines and a picture, generated between two markers from the definitions
//! and `hosts.nix` alone, so that anybody can generate the same again.

use std::fmt::Write;

use fleet_core::{
    Error, Result,
    definitions::{Addressing, Definitions},
    hosts::Hosts,
};

use crate::recipient::HostKey;

/// Starts the generated part.
pub const BEGIN: &str = "<!-- fleet:machines:begin -->";
/// Ends the generated part.
pub const END: &str = "<!-- fleet:machines:end -->";

/// What an empty cell shows.
const NOTHING: &str = "–";

/// A file's text with the generated part brought up to date; the flag tells that the markers were missing and
/// were appended.
pub fn refreshed(text: &str, generated: &str) -> Result<(String, bool)> {
    let newline = if text.contains("\r\n") { "\r\n" } else { "\n" };
    let generated = if newline == "\n" { generated.to_owned() } else { generated.replace('\n', newline) };
    let lines = |marker: &str| marker_places(text, marker);
    match (lines(BEGIN).as_slice(), lines(END).as_slice()) {
        ([], []) => {
            let mut out = text.to_owned();
            if !out.is_empty() {
                if !out.ends_with('\n') {
                    out.push_str(newline);
                }
                out.push_str(newline);
            }
            let _ = write!(out, "{BEGIN}{newline}{generated}{END}{newline}");
            Ok((out, true))
        }
        ([begin], [end]) if begin.1 <= end.0 => {
            Ok((format!("{}{generated}{}", &text[..begin.1], &text[end.0..]), false))
        }
        _ => Err(Error::failed("the markers of the generated part are not one pair, begin before end")
            .now(format!("a begin is a line `{BEGIN}`, an end a line `{END}`"))),
    }
}

/// Lines that are a marker and nothing else, outside of code blocks: start and one past the line break.
fn marker_places(text: &str, marker: &str) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let (mut at, mut fence): (usize, Option<&str>) = (0, None);
    for line in text.split_inclusive('\n') {
        let bare = line.trim();
        for mark in ["```", "~~~"] {
            if bare.starts_with(mark) {
                fence = match fence {
                    None => Some(mark),
                    Some(open) if open == mark => None,
                    other => other,
                };
            }
        }
        if fence.is_none() && bare == marker {
            found.push((at, at + line.len()));
        }
        at += line.len();
    }
    found
}

/// The generated part, between the markers, with a line break at its end.
pub fn generate(definitions: &Definitions, hosts: &Hosts) -> String {
    let node = default_node(definitions);
    let mut out = String::from("\n");
    let mut table = |title: &str, head: &[&str], rows: Vec<Vec<String>>| {
        if rows.is_empty() {
            return;
        }
        let _ = writeln!(out, "## {title}\n");
        let row = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        out.push_str(&row(&head.iter().map(|h| (*h).to_owned()).collect::<Vec<_>>()));
        out.push_str(&format!("|{}\n", " --- |".repeat(head.len())));
        for cells in rows {
            out.push_str(&row(&cells));
        }
        out.push('\n');
    };
    let managed = definitions.managed.iter().map(|vm| {
        let address = match vm.addressing {
            Addressing::Dhcp => "DHCP".to_owned(),
            Addressing::Static(cidr) => cidr.to_string(),
        };
        vec![
            vm.vmid.to_string(),
            cell(Some(vm.name.as_str())),
            cell(Some(vm.node.as_str().unwrap_or(&node))),
            vm.cores.to_string(),
            memory(vm.memory),
            vm.disk.to_string(),
            cell(Some(vm.storage.as_str())),
            address,
            host_key(hosts, vm.name.as_str()),
            cell(vm.purpose.as_deref()),
            list(&vm.services),
        ]
    });
    table(
        "Managed VMs",
        &[
            "VMID", "Name", "Node", "Cores", "RAM", "Disk", "Storage", "Address", "Host key", "Purpose",
            "Services",
        ],
        managed.collect(),
    );
    let imported = definitions.imported.iter().map(|vm| {
        vec![
            vm.vmid.to_string(),
            cell(Some(&vm.name)),
            cell(Some(vm.node.as_deref().unwrap_or(&node))),
            vm.cores.map_or(NOTHING.to_owned(), |c| c.to_string()),
            vm.memory.map_or(NOTHING.to_owned(), memory),
            cell(vm.disk.as_deref()),
            cell(vm.storage.as_deref()),
            cell(vm.ip.as_deref()),
            host_key(hosts, &vm.name),
            cell(vm.purpose.as_deref()),
            list(&vm.services),
            list(&vm.notes),
        ]
    });
    table(
        "Imported VMs (read-only)",
        &[
            "VMID", "Name", "Node", "Cores", "RAM", "Disk", "Storage", "Address", "Host key", "Purpose",
            "Services", "Notes",
        ],
        imported.collect(),
    );
    let template = definitions
        .template
        .iter()
        .map(|t| vec![t.vmid.to_string(), cell(Some(&t.name)), cell(t.description.as_deref())]);
    table("Template", &["VMID", "Name", "Description"], template.collect());
    out.push_str(&picture(definitions, &node));
    out.push('\n');
    out
}

fn default_node(definitions: &Definitions) -> String {
    let proxmox = &definitions.proxmox;
    proxmox.node.as_ref().map_or_else(|| proxmox.host.clone(), ToString::to_string)
}

/// Mermaid, which forges render: each node with its VMs.
fn picture(definitions: &Definitions, node: &str) -> String {
    let managed = definitions
        .managed
        .iter()
        .map(|vm| (vm.node.as_str().unwrap_or(node), vm.vmid.get(), vm.name.as_str(), false));
    let imported = definitions
        .imported
        .iter()
        .map(|vm| (vm.node.as_deref().unwrap_or(node), vm.vmid.get(), vm.name.as_str(), true));
    let mut all: Vec<_> = managed.chain(imported).collect();
    all.sort_unstable();
    let mut out = String::from("```mermaid\ngraph LR\n");
    let mut nodes: Vec<&str> = Vec::new();
    for (node, vmid, name, read_only) in all {
        let index = nodes.iter().position(|n| *n == node).unwrap_or_else(|| {
            nodes.push(node);
            let _ = writeln!(out, "  node{}[({})]", nodes.len() - 1, label(node));
            nodes.len() - 1
        });
        let (open, close) = if read_only { ("([", "])") } else { ("[", "]") };
        let _ = writeln!(out, "  node{index} --> vm{vmid}{open}{}{close}", label(&format!("{vmid} {name}")));
    }
    out.push_str("```\n");
    out
}

/// Text in a picture: quoted, on one line; what Mermaid would read is written as its entity codes (`#quot;`, `#35;`).
fn label(text: &str) -> String {
    let mut out = String::from("\"");
    for c in one_line(text).chars() {
        match c {
            '"' => out.push_str("#quot;"),
            '#' | '<' | '>' | '&' | '`' | '\\' | ';' => {
                let _ = write!(out, "#{};", u32::from(c));
            }
            other => out.push(other),
        }
    }
    out.push('"');
    out
}

/// Text in a table: one line, bars escaped, and nothing that is HTML or hides what follows. Emphasis, links and code are
/// whoever wrote them's own.
fn cell(text: Option<&str>) -> String {
    let text = one_line(text.unwrap_or_default());
    if text.is_empty() {
        return NOTHING.to_owned();
    }
    // Code needs both its backticks, and can not hold an escaped backslash before a bar.
    let code_is_code = text.matches('`').count().is_multiple_of(2) && !text.contains("\\|");
    let mut out = String::with_capacity(text.len());
    let mut code = false;
    for c in text.chars() {
        match c {
            // A table is split at its bars before anything else is looked at.
            '|' => out.push_str("\\|"),
            '`' if !code_is_code => out.push_str("\\`"),
            '`' => {
                code = !code;
                out.push(c);
            }
            '\\' if !code => out.push_str("\\\\"),
            '<' if !code => out.push_str("&lt;"),
            other => out.push(other),
        }
    }
    out
}

/// Words with single blanks between, without control characters.
fn one_line(text: &str) -> String {
    let blank = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().map(blank).collect::<String>().split_whitespace().collect::<Vec<_>>().join(" ")
}

fn list(items: &[String]) -> String {
    cell(Some(&items.join(", ")))
}

/// MiB as people say it.
fn memory(mib: u64) -> String {
    match mib {
        whole if whole % 1024 == 0 => format!("{} GiB", whole / 1024),
        other => format!("{other} MiB"),
    }
}

fn host_key(hosts: &Hosts, name: &str) -> String {
    let key = hosts
        .get(name)
        .and_then(|host| host.public_key.as_deref())
        .and_then(|line| HostKey::parse(line).ok());
    key.map_or(NOTHING.to_owned(), |key| format!("`{}`", key.fingerprint()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_markers_changes() {
        let text = format!("# Mine\n\n```\n{BEGIN}\n```\n{BEGIN}\nold\n{END}\n\ntail without end");
        let (new, appended) = refreshed(&text, "\nnew\n\n").unwrap();
        assert_eq!(new, format!("# Mine\n\n```\n{BEGIN}\n```\n{BEGIN}\n\nnew\n\n{END}\n\ntail without end"));
        assert!(!appended);
        assert_eq!(refreshed(&new, "\nnew\n\n").unwrap().0, new);
        let dos = refreshed(&format!("a\r\n{BEGIN}\r\n{END}\r\n"), "new\n").unwrap().0;
        assert_eq!(dos, format!("a\r\n{BEGIN}\r\nnew\r\n{END}\r\n"));
    }

    #[test]
    fn missing_markers_are_appended_and_broken_ones_said() {
        assert_eq!(refreshed("# Mine", "x\n").unwrap(), (format!("# Mine\n\n{BEGIN}\nx\n{END}\n"), true));
        assert_eq!(refreshed("", "x\n").unwrap(), (format!("{BEGIN}\nx\n{END}\n"), true));
        for broken in
            [format!("{END}\n{BEGIN}\n"), format!("{BEGIN}\n"), format!("{BEGIN}\n{BEGIN}\n{END}\n")]
        {
            assert!(refreshed(&broken, "x\n").unwrap_err().message().contains("one pair"), "{broken}");
        }
    }

    /// The cells of the rows of a table, as a Markdown parser reads them.
    fn parsed(markdown: &str) -> Vec<Vec<String>> {
        use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};
        let mut rows: Vec<Vec<String>> = Vec::new();
        for event in Parser::new_ext(markdown, Options::ENABLE_TABLES) {
            match event {
                Event::Start(Tag::TableRow | Tag::TableHead) => rows.push(Vec::new()),
                Event::Start(Tag::TableCell) => rows.last_mut().unwrap().push(String::new()),
                Event::Text(text) | Event::Code(text) => {
                    rows.last_mut().unwrap().last_mut().unwrap().push_str(&text);
                }
                Event::Html(html) | Event::InlineHtml(html) => panic!("HTML: {html}"),
                Event::End(TagEnd::Table) => break,
                _ => {}
            }
        }
        rows
    }

    #[test]
    fn a_parser_reads_in_the_cells_what_was_written() {
        for text in [
            "a | b",
            "a\\|b",
            "a\\",
            "\\\\|\\",
            "one ` backtick | and a bar",
            "`a | b` in code",
            "`C:\\temp` and D:\\temp",
            "`\\|`",
            "<b>bold</b> <!-- gone --> <https://example.org>",
            "`<b>`",
            "<!-- fleet:machines:end -->",
            "\"quoted\" 'too' — ünïcode 🦀",
            "a\nb\r\nc\td\u{7}e",
            "| --- |",
            "# no heading",
        ] {
            let table = format!("| h | i |\n| --- | --- |\n| {} | end |\n", cell(Some(text)));
            let rows = parsed(&table);
            assert_eq!(rows.len(), 2, "{text:?}: {table}");
            assert_eq!((rows[1].len(), rows[1][1].as_str()), (2, "end"), "{text:?}: {table}");
            let bare = |text: &str| text.replace('`', "");
            assert_eq!(bare(&rows[1][0]), bare(&one_line(text)), "{table}");
        }
    }

    #[test]
    fn labels_can_not_break_the_picture() {
        assert_eq!(label("104 web"), "\"104 web\"");
        assert_eq!(
            label("a \"b\"\n<c> #1; `d` [e](f)"),
            "\"a #quot;b#quot; #60;c#62; #35;1#59; #96;d#96; [e](f)\""
        );
    }

    #[test]
    fn cells_can_not_break_the_table() {
        assert_eq!(cell(Some("a | b\nc")), "a \\| b c");
        assert_eq!((cell(None), list(&[])), ("–".to_owned(), "–".to_owned()));
        assert_eq!((memory(4096), memory(8096)), ("4 GiB".to_owned(), "8096 MiB".to_owned()));
    }
}
