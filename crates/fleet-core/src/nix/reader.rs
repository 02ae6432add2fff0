//! Reading typed fields out of an evaluated file, collecting every fault on the way.

use std::{fmt::Display, path::Path, str::FromStr};

use super::{
    eval::{Attr, Data, Evaluated, Value},
    source::Span,
};
use crate::{definitions::nearest, faults::Fault};

/// Whether a name is another one with a slip of the finger, two in a long one, or in other capitals. A slip in a word of
/// three letters is another word.
pub fn is_slip(name: &str, known: &str) -> bool {
    let slips = match known.len() {
        0..4 => 0,
        4..8 => 1,
        _ => 2,
    };
    name.eq_ignore_ascii_case(known)
        || (name.chars().count().abs_diff(known.len()) <= slips
            && strsim::damerau_levenshtein(name, known) <= slips)
}

/// Collects faults over one evaluated file.
pub(crate) struct Reader<'a> {
    evaluated: &'a Evaluated,
    file: &'a Path,
    base: &'a Path,
    /// What each of the files that were read is called.
    names: Vec<String>,
    /// What was found wrong so far.
    pub(crate) faults: Vec<Fault>,
}

/// A set being read, with its attribute path.
#[derive(Clone)]
pub(crate) struct Fields<'a> {
    attrs: &'a [Attr],
    /// Attribute path, empty at the top.
    pub(crate) path: String,
    /// Where its name is.
    pub(crate) at: Option<Span>,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(evaluated: &'a Evaluated, file: &'a Path, base: &'a Path) -> Reader<'a> {
        let name = |path: &Path| path.strip_prefix(base).unwrap_or(path).display().to_string();
        let names = evaluated.sources.iter().map(|source| name(&source.path)).collect();
        Reader { evaluated, file, base, names, faults: Vec::new() }
    }

    /// A fault at this place, not yet recorded.
    pub(crate) fn fault(&self, at: Option<Span>, path: &str, message: impl Into<String>) -> Fault {
        let at = self.evaluated.locate(at);
        Fault::new(self.file, self.base, at.as_ref(), path, message)
    }

    /// Records that a private key stands where a public one belongs. Nobody is shown it.
    pub(crate) fn private_key(&mut self, at: Option<Span>, path: &str) {
        let message = "a private key, which belongs in no file of the repository";
        let help = "the line of its .pub file; make a new key in place of this one";
        let mut fault = self.fault(at, path, message).help(help);
        // One that is put together in several lines.
        fault.snippet = None;
        self.faults.push(fault);
    }

    /// Records a fault at this place.
    pub(crate) fn add(
        &mut self,
        at: Option<Span>,
        path: &str,
        message: impl Into<String>,
        help: Option<String>,
    ) {
        let mut fault = self.fault(at, path, message);
        fault.help = help;
        self.faults.push(fault);
    }

    /// Records that a value is not what it must be. One that could not be evaluated has its fault already.
    pub(crate) fn not(
        &mut self,
        value: &Value,
        key: Option<Span>,
        path: &str,
        wanted: &str,
        help: Option<String>,
    ) {
        if !matches!(value.data, Data::Failed) {
            self.add(value.at.or(key), path, format!("{wanted}, not {}", value.kind()), help);
        }
    }

    /// The place as `file:line`, to refer to from another fault.
    pub(crate) fn place(&self, at: Option<Span>) -> String {
        let line = |at: Span| Some(self.evaluated.sources.get(at.file)?.line(at.start));
        let name = |at: Span| self.names.get(at.file as usize);
        match at.and_then(|at| Some((name(at)?, line(at)?))) {
            Some((name, line)) => format!("{name}:{line}"),
            None => "another place".to_owned(),
        }
    }

    /// The file's own set.
    pub(crate) fn top(&mut self) -> Option<Fields<'a>> {
        let evaluated = self.evaluated;
        let help = match evaluated.value.data {
            Data::Function => {
                "nobody calls this file: write { … }; what the function is given comes by `let` or `import`"
            }
            Data::List(_) => "write { NAME = { … }; }: each under its name",
            _ => "write { … }",
        };
        self.fields_or(&evaluated.value, String::new(), evaluated.value.at, help)
    }

    /// A value as a set.
    pub(crate) fn fields(&mut self, value: &'a Value, path: String, at: Option<Span>) -> Option<Fields<'a>> {
        self.fields_or(value, path, at, "write { … }")
    }

    /// As [`Reader::fields`], with the help for something else.
    pub(crate) fn fields_or(
        &mut self,
        value: &'a Value,
        path: String,
        at: Option<Span>,
        help: &str,
    ) -> Option<Fields<'a>> {
        let Some(attrs) = value.attrs() else {
            self.not(value, at, &path, "must be a set", Some(help.to_owned()));
            return None;
        };
        Some(Fields { attrs, path, at: at.or(value.at) })
    }

    /// The attributes of a set in the order in which they stand in the file.
    pub(crate) fn in_order(fields: &Fields<'a>) -> Vec<&'a Attr> {
        let mut attrs: Vec<&Attr> = fields.attrs.iter().collect();
        attrs.sort_by_key(|attr| attr.key);
        attrs
    }

    /// Records every field that is not known.
    pub(crate) fn known(&mut self, fields: &Fields<'a>, known: &[&str]) {
        for attr in fields.attrs {
            if !known.contains(&attr.name.as_ref()) {
                let help = match nearest(&attr.name, known.iter().copied()) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("known here: {}", known.join(", ")),
                };
                self.add(attr.key, &fields.join(&attr.name), "unknown field", Some(help));
            }
        }
    }

    /// Records fields that look like a known one misspelt that is not there itself. Others are their owner's own: these
    /// sets document what is there, and nothing acts on them.
    pub(crate) fn known_or_own(&mut self, fields: &Fields<'a>, known: &[&str]) {
        for attr in fields.attrs.iter().filter(|attr| !known.contains(&attr.name.as_ref())) {
            let near = known.iter().find(|known| fields.get(known).is_none() && is_slip(&attr.name, known));
            if let Some(near) = near {
                let help = format!("did you mean `{near}`?");
                self.add(attr.key, &fields.join(&attr.name), "unknown field", Some(help));
            }
        }
    }

    /// Records that a required field is not there.
    pub(crate) fn missing(&mut self, fields: &Fields<'a>, name: &str, help: &str) {
        let path = fields.join(name);
        self.add(fields.at, &path, format!("`{name}` is missing"), Some(help.to_owned()));
    }

    /// A field as a set.
    pub(crate) fn set(&mut self, fields: &Fields<'a>, name: &str) -> Option<Fields<'a>> {
        let attr = fields.get(name)?;
        self.fields(&attr.value, fields.join(name), attr.key)
    }

    fn wrong(&mut self, attr: &Attr, fields: &Fields<'a>, wanted: &str, example: &str) {
        let path = fields.join(&attr.name);
        let help = format!("for example: {} = {example};", attr.name);
        self.not(&attr.value, attr.key, &path, &format!("must be {wanted}"), Some(help));
    }

    /// A field as text.
    pub(crate) fn text(&mut self, fields: &Fields<'a>, name: &str, example: &str) -> Option<&'a str> {
        let attr = fields.get(name)?;
        let text = attr.value.as_str();
        if text.is_none() {
            self.wrong(attr, fields, "a string", example);
        }
        text
    }

    /// A field as a boolean.
    pub(crate) fn boolean(&mut self, fields: &Fields<'a>, name: &str) -> Option<bool> {
        let attr = fields.get(name)?;
        match attr.value.data {
            Data::Bool(value) => Some(value),
            _ => {
                self.wrong(attr, fields, "true or false", "true");
                None
            }
        }
    }

    /// A field as a whole number within a range.
    pub(crate) fn number<T: TryFrom<i64> + Copy>(
        &mut self,
        fields: &Fields<'a>,
        name: &str,
        range: std::ops::RangeInclusive<i64>,
        example: &str,
    ) -> Option<T> {
        let attr = fields.get(name)?;
        let Data::Int(number) = attr.value.data else {
            self.wrong(attr, fields, "a whole number", example);
            return None;
        };
        match T::try_from(number) {
            Ok(value) if range.contains(&number) => Some(value),
            _ => {
                let right = match (range.start(), range.end()) {
                    (low, &i64::MAX) => format!("{low} or more"),
                    (low, high) => format!("from {low} to {high}"),
                };
                let path = fields.join(name);
                self.add(attr.value.at.or(attr.key), &path, format!("{number} is out of range"), Some(right));
                None
            }
        }
    }

    /// A field as text that parses.
    pub(crate) fn parsed<T: FromStr>(&mut self, fields: &Fields<'a>, name: &str, example: &str) -> Option<T>
    where
        T::Err: Display,
    {
        let text = self.text(fields, name, example)?;
        let attr = fields.get(name)?;
        self.parse(text, &fields.join(name), attr.value.at.or(attr.key))
    }

    /// Text that parses.
    pub(crate) fn parse<T: FromStr>(&mut self, text: &str, path: &str, at: Option<Span>) -> Option<T>
    where
        T::Err: Display,
    {
        match text.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                // "'x' is not a valid y: what would be right", where x may be anything.
                let message = error.to_string();
                let given = format!("'{}'", text.escape_debug());
                let said = if message.starts_with(&given) { given.len() } else { 0 };
                let (message, help) = match message[said..].split_once(": ") {
                    Some((wrong, right)) => {
                        (message[..said + wrong.len()].to_owned(), Some(right.to_owned()))
                    }
                    None => (message, None),
                };
                self.add(at, path, message, help);
                None
            }
        }
    }

    /// A field as text that a rule accepts.
    pub(crate) fn checked(
        &mut self,
        fields: &Fields<'a>,
        name: &str,
        example: &str,
        valid: impl Fn(&str) -> bool,
        right: &str,
    ) -> Option<String> {
        let text = self.text(fields, name, example)?;
        if valid(text) {
            return Some(text.to_owned());
        }
        let attr = fields.get(name)?;
        let message = format!("'{}' is not accepted", text.escape_debug());
        self.add(attr.value.at.or(attr.key), &fields.join(name), message, Some(right.to_owned()));
        None
    }

    /// A field as a list of strings; one string alone is not a list.
    pub(crate) fn texts(
        &mut self,
        fields: &Fields<'a>,
        name: &str,
        example: &str,
    ) -> Vec<(&'a str, Option<Span>)> {
        let Some(attr) = fields.get(name) else { return Vec::new() };
        let Data::List(items) = &attr.value.data else {
            self.wrong(attr, fields, "a list of strings", example);
            return Vec::new();
        };
        let mut texts = Vec::new();
        for item in items.iter() {
            match item.as_str() {
                Some(text) => texts.push((text, item.at)),
                None => {
                    self.not(item, attr.key, &fields.join(name), "must hold strings", None);
                }
            }
        }
        texts
    }

    /// A field as a list of strings that parse.
    pub(crate) fn all_parsed<T: FromStr>(&mut self, fields: &Fields<'a>, name: &str, example: &str) -> Vec<T>
    where
        T::Err: Display,
    {
        let path = fields.join(name);
        let texts = self.texts(fields, name, example);
        texts.into_iter().filter_map(|(text, at)| self.parse(text, &path, at)).collect()
    }

    /// A field as one string or a list of them.
    pub(crate) fn one_or_more(&mut self, fields: &Fields<'a>, name: &str) -> Vec<String> {
        if let Some(text) = fields.get(name).and_then(|attr| attr.value.as_str()) {
            return vec![text.to_owned()];
        }
        self.texts(fields, name, "[ \"…\" ]").into_iter().map(|(text, _)| text.to_owned()).collect()
    }
}

impl<'a> Fields<'a> {
    /// The attribute of this name.
    pub(crate) fn get(&self, name: &str) -> Option<&'a Attr> {
        self.attrs
            .binary_search_by(|attr| attr.name.as_ref().cmp(name))
            .ok()
            .and_then(|at| self.attrs.get(at))
    }

    /// Where the value of this field is, else its name, else the set itself.
    pub(crate) fn value_at(&self, name: &str) -> Option<Span> {
        self.get(name).and_then(|attr| attr.value.at.or(attr.key)).or(self.at)
    }

    /// The attribute path of a field.
    pub(crate) fn join(&self, name: &str) -> String {
        let name = quoted(name);
        if self.path.is_empty() { name } else { format!("{}.{name}", self.path) }
    }
}

/// An attribute name as it is written in an attribute path.
pub(crate) fn quoted(name: &str) -> String {
    let plain = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'\''));
    if plain { name.to_owned() } else { format!("\"{}\"", name.escape_debug()) }
}
