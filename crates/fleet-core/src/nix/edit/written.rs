//! How an entry is written among the others of its set.

use rnix::SyntaxKind as K;

use super::{
    entry::quote_name,
    layout::{Layout, indent_at},
    tree::{Set, set_of},
};

/// How long a line `nixfmt` writes, its indentation not counted.
pub(super) const WIDTH: usize = 100;

/// A value of an attribute.
pub(super) enum Written {
    /// As it is to stand there.
    Text(String),
    /// As it stands in another entry, from the equal sign on where it begins a line, else from its first byte on.
    Copied {
        /// Its text there.
        text: String,
        /// What stands before that attribute on its line.
        indent: String,
    },
    /// A list of these elements: on one line where it fits and the file says how, else one on each.
    List(Vec<String>),
}

/// `NAME = { … };`, with what the other entries of its set say of how it is to be written.
pub(super) struct Entry<'l> {
    layout: &'l Layout,
    /// As it stands before the equal sign.
    name: String,
    attrs: Vec<(&'l str, Written)>,
    /// What stands before an attribute on its line.
    inner: String,
    /// Whether the whole entry stands on one line.
    one_line: bool,
    /// How wide the names are written, so that equal signs stand in one column.
    width: usize,
}

/// The entries of a set that are sets themselves.
pub(super) fn sets_in<'a>(set: &Set<'a>) -> Vec<Set<'a>> {
    set.bindings
        .iter()
        .filter(|b| b.path.len() == 1)
        .map(|b| b.value.unparenthesized())
        .filter(|value| value.kind() == K::NODE_ATTR_SET)
        .filter_map(set_of)
        .collect()
}

/// Whether a set of several attributes stands on one line: no formatter's work.
pub(super) fn several_on_one_line(text: &str, sets: &[Set<'_>]) -> bool {
    sets.iter().any(|set| set.items.len() > 1 && !text[set.open..set.close].contains('\n'))
}

/// The set that shows best how the others are written: the last one of those with the most attributes.
pub(super) fn model<'s, 'a>(others: &'s [Set<'a>]) -> Option<&'s Set<'a>> {
    others.iter().rev().max_by_key(|other| other.bindings.len())
}

impl<'l> Entry<'l> {
    /// An entry in a set laid out so, beside these others.
    pub(super) fn new(
        text: &str,
        layout: &'l Layout,
        others: &[Set<'_>],
        name: &str,
        attrs: Vec<(&'l str, Written)>,
    ) -> Self {
        let model = model(others);
        // `alejandra` and `nixfmt` leave no set of several attributes on one line: where no other entry is one,
        // neither is this one.
        let one_line = layout.one_line
            || (others.iter().any(|other| other.items.len() > 1)
                && others.iter().all(|other| !text[other.open..other.close].contains('\n')));
        let inner = match model.filter(|_| !one_line) {
            Some(model) if !model.items.is_empty() => {
                // A comment may stand before the model's brace, which is indented deeper then than its name.
                let inner = Layout::of(text, model, false).indent;
                let step = inner.strip_prefix(brace_indent(text, model));
                step.map_or(inner.clone(), |step| format!("{}{step}", layout.indent))
            }
            _ => format!("{}{}", layout.indent, layout.unit),
        };
        let longest = attrs.iter().map(|(attr, _)| attr.len()).max().unwrap_or(0);
        let width = if aligned(text, model) { longest } else { 0 };
        Entry { layout, name: quote_name(name), attrs, inner, one_line, width }
    }

    /// Under `section.` instead, in a set of sections.
    pub(super) fn below(self, section: &str) -> Self {
        Entry { name: format!("{section}.{}", self.name), ..self }
    }

    /// How many attributes it has.
    pub(super) fn len(&self) -> usize {
        self.attrs.len()
    }

    /// From its name to its semicolon, as the others are written.
    pub(super) fn as_others(&self) -> String {
        if self.one_line { self.on_one_line() } else { self.grouped(&[]) }
    }

    /// With its attributes on a line each, and an empty line after so many of them.
    pub(super) fn grouped(&self, after: &[usize]) -> String {
        let Entry { layout: Layout { newline, indent, .. }, inner, width, .. } = self;
        let mut out = format!("{} = {{", self.name);
        for (at, (attr, value)) in self.attrs.iter().enumerate() {
            if after.contains(&at) {
                out.push_str(newline);
            }
            let value = self.value(value, inner, attr.len(), false);
            out.push_str(&format!("{newline}{inner}{attr:width$} ={value};"));
        }
        format!("{out}{newline}{indent}}};")
    }

    /// On one line.
    pub(super) fn on_one_line(&self) -> String {
        let space = if self.layout.tight == Some(true) { "" } else { " " };
        let attrs: Vec<String> = self
            .attrs
            .iter()
            .map(|(attr, value)| match value {
                Written::Copied { text, .. } => format!("{attr} = {};", text.trim_start()),
                value => format!("{attr} ={};", self.value(value, "", 0, self.one_line)),
            })
            .collect();
        format!("{} = {{{space}{}{space}}};", self.name, attrs.join(" "))
    }

    /// As `NAME.attr = …;`, each on a line; with `set` the first one as `NAME = {attr = …;};`, which must fit one. `None` where
    /// that can not be.
    pub(super) fn as_paths(&self, set: bool) -> Option<String> {
        let Layout { newline, indent, .. } = self.layout;
        self.paths(set).map(|paths| paths.join(&format!("{newline}{indent}")))
    }

    /// Likewise, one by one.
    pub(super) fn paths(&self, set: bool) -> Option<Vec<String>> {
        let Entry { layout: Layout { indent, .. }, name, .. } = self;
        let each = self.attrs.iter().enumerate().map(|(at, (attr, value))| match value {
            Written::Text(text) if set && at == 0 => Some(format!("{name} = {{{attr} = {text};}};")),
            _ if set && at == 0 => None,
            Written::Text(text) => Some(path_binding(self.layout, name, attr, text)),
            value => {
                let value = self.value(value, indent, name.len() + 1 + attr.len(), false);
                Some(format!("{name}.{attr} ={value};"))
            }
        });
        let each: Vec<String> = each.collect::<Option<_>>()?;
        (!each.is_empty()).then_some(each)
    }

    /// What follows the equal sign, on a line that starts with `indent` and a name this long; all `on_one_line`, however
    /// many elements a list has.
    fn value(&self, value: &Written, indent: &str, name: usize, on_one_line: bool) -> String {
        let Layout { newline, unit, tight, .. } = self.layout;
        let elements = match value {
            Written::Text(text) => return format!(" {text}"),
            Written::Copied { text, indent: was } => return moved(text, was, indent),
            Written::List(elements) => elements,
        };
        let space = if *tight == Some(true) { "" } else { " " };
        let fits = |element: &String| name + " = [  ];".len() + element.len() <= WIDTH;
        match elements.as_slice() {
            some if on_one_line => match some {
                [] => format!(" [{space}]"),
                some => format!(" [{space}{}{space}]", some.join(" ")),
            },
            [] if tight.is_some() => format!(" [{space}]"),
            [one] if tight.is_some() && fits(one) => format!(" [{space}{one}{space}]"),
            some => {
                let lines: String =
                    some.iter().map(|element| format!("{newline}{indent}{unit}{element}")).collect();
                format!(" [{lines}{newline}{indent}]")
            }
        }
    }
}

/// `NAME.attr = value;`, which `nixfmt` breaks behind the equal sign where a name is in quotes and the line too long.
pub(super) fn path_binding(layout: &Layout, name: &str, attr: &str, value: &str) -> String {
    let Layout { newline, indent, unit, tight, .. } = layout;
    let line = format!("{name}.{attr} = {value};");
    let quoted = name.starts_with('"') || attr.starts_with('"');
    if quoted && *tight == Some(false) && line.chars().count() > WIDTH {
        return format!("{name}.{attr} ={newline}{indent}{unit}{value};");
    }
    line
}

/// A value on a line of another indentation: its further lines go along.
fn moved(text: &str, was: &str, indent: &str) -> String {
    let mut lines = text.split('\n');
    let first = lines.next().unwrap_or_default();
    let space = if first.trim().is_empty() { "" } else { " " };
    let mut out = format!("{space}{first}");
    for line in lines {
        out.push('\n');
        match line.strip_prefix(was).filter(|rest| !rest.trim().is_empty()) {
            Some(rest) => out.extend([indent, rest]),
            None => out.push_str(line),
        }
    }
    out
}

/// White space before a set's closing brace, or, where that does not begin its line, before the line with the other one.
fn brace_indent<'t>(text: &'t str, set: &Set<'_>) -> &'t str {
    let indent = indent_at(text, set.close);
    if text[..set.close].ends_with(indent) && text[..set.close - indent.len()].ends_with('\n') {
        indent
    } else {
        indent_at(text, set.open)
    }
}

/// Whether another entry has its equal signs in one column that is not the natural one.
fn aligned(text: &str, model: Option<&Set<'_>>) -> bool {
    let Some(model) = model else { return false };
    let mut columns = Vec::new();
    let mut padded = false;
    for binding in model.bindings.iter().filter(|b| b.path.len() == 1) {
        let head = &text[binding.start..binding.value.start() as usize];
        let Some(equal) = head.find('=') else { return false };
        let line = text[..binding.start].rfind('\n').map_or(0, |newline| newline + 1);
        columns.push(binding.start + equal - line);
        padded |= head[..equal].ends_with("  ");
    }
    padded && columns.len() > 1 && columns.windows(2).all(|pair| pair[0] == pair[1])
}
