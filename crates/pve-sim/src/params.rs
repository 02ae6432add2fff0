//! Request parameters: decoding of form and JSON bodies, and the check against each endpoint's schema with the
//! texts that the genuine API gives.

use indexmap::IndexMap;
use serde_json::{Map, Value, json};

use crate::api::{Fail, Reply};

/// A decoded value: once, or a key that was repeated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Param {
    /// Given once.
    One(String),
    /// Given several times.
    Many(Vec<String>),
}

/// Decoded parameters in the order given.
#[derive(Debug, Clone, Default)]
pub struct Params(pub IndexMap<String, Param>);

impl Params {
    /// Reads `a=b&c=d` (or `;` between). What follows a second `=` is lost, as in the genuine server.
    pub fn from_form(text: &str) -> Params {
        let mut params = Params::default();
        for pair in text.split(['&', ';']).filter(|p| !p.is_empty()) {
            let mut parts = pair.split('=');
            // Names are taken for bytes, values for UTF-8.
            let key = percent_encoding::percent_decode_str(parts.next().unwrap_or_default())
                .map(char::from)
                .collect();
            let value = decode(parts.next().unwrap_or_default());
            params.push(key, value);
        }
        params
    }

    /// Reads a JSON object.
    pub fn from_json(value: &Value) -> Params {
        let text = |v: &Value| match v {
            Value::Bool(b) => u8::from(*b).to_string(),
            Value::String(s) => s.clone(),
            other => other.to_string(),
        };
        let mut params = Params::default();
        for (key, value) in value.as_object().into_iter().flatten() {
            match value {
                Value::Array(items) => {
                    params.0.insert(key.clone(), Param::Many(items.iter().map(text).collect()));
                }
                Value::Null => {}
                other => params.push(key.clone(), text(other)),
            }
        }
        params
    }

    fn push(&mut self, key: String, value: String) {
        match self.0.get_mut(&key) {
            Some(Param::Many(values)) => values.push(value),
            Some(one) => {
                if let Param::One(first) = one {
                    *one = Param::Many(vec![std::mem::take(first), value]);
                }
            }
            None => {
                self.0.insert(key, Param::One(value));
            }
        }
    }

    /// The value of a parameter that is given once.
    pub fn get(&self, key: &str) -> Option<&str> {
        match self.0.get(key)? {
            Param::One(value) => Some(value),
            Param::Many(_) => None,
        }
    }

    /// All values of a parameter.
    pub fn all(&self, key: &str) -> Vec<String> {
        match self.0.get(key) {
            None => Vec::new(),
            Some(Param::One(value)) => vec![value.clone()],
            Some(Param::Many(values)) => values.clone(),
        }
    }

    /// Whether a boolean parameter is set.
    pub fn flag(&self, key: &str) -> bool {
        self.get(key) == Some("1")
    }

    /// As JSON, for the request log.
    pub fn to_json(&self) -> Value {
        let mut map = Map::new();
        for (key, value) in &self.0 {
            // A ticket renewal carries the ticket as password; a log needs neither.
            let hidden = matches!(key.as_str(), "password" | "cipassword");
            let value = match value {
                _ if hidden => json!("<hidden>"),
                Param::One(value) => json!(value),
                Param::Many(values) => json!(values),
            };
            map.insert(key.clone(), value);
        }
        Value::Object(map)
    }
}

fn decode(text: &str) -> String {
    let text = text.replace('+', " ");
    percent_encoding::percent_decode_str(&text).decode_utf8_lossy().into_owned()
}

/// What a value must look like.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// A whole number from, to.
    Int(i64, i64),
    /// A number from, to.
    Num(f64, f64),
    /// 0 or 1.
    Bool,
    /// Text of at most so many characters.
    Text(usize),
    /// One of these words.
    Enum(&'static [&'static str]),
    /// Text that the function accepts; it gives the reason if not.
    Format(fn(&str) -> Result<(), String>),
    /// Text for which the function is true; else "value does not match the regex pattern".
    Pattern(fn(&str) -> bool),
    /// A comma-separated list of properties.
    Props(&'static [Prop]),
    /// Given once or several times.
    List,
    /// A VMID: a whole number first, then `pve-vmid`.
    Vmid,
    /// A snapshot's name: `pve-configid` of at most 40 characters.
    ConfigId,
}

/// One property of a property string.
#[derive(Debug)]
pub struct Prop {
    /// Its key.
    pub name: &'static str,
    /// Its value.
    pub kind: Kind,
    /// Whether a value without a key means this one.
    pub default: bool,
    /// Whether it must be there.
    pub required: bool,
    /// Another property that must be there too.
    pub requires: Option<&'static str>,
}

/// One parameter of an endpoint.
#[derive(Debug)]
pub struct Spec {
    /// Its name; with `last` the stem of `name0` … `nameN`.
    pub name: &'static str,
    /// What it must look like.
    pub kind: Kind,
    /// Whether it must be there.
    pub required: bool,
    /// The last index of a numbered parameter.
    pub last: Option<u32>,
}

/// An optional parameter.
pub const fn opt(name: &'static str, kind: Kind) -> Spec {
    Spec { name, kind, required: false, last: None }
}

/// A required parameter.
pub const fn req(name: &'static str, kind: Kind) -> Spec {
    Spec { name, kind, required: true, last: None }
}

/// Optional parameters `name0` to `nameLAST`.
pub const fn many(name: &'static str, last: u32, kind: Kind) -> Spec {
    Spec { name, kind, required: false, last: Some(last) }
}

/// The parameter that a name stands for.
pub fn find<'a>(specs: &[&'a [Spec]], name: &str) -> Option<&'a Spec> {
    specs.iter().flat_map(|list| list.iter()).find(|spec| match spec.last {
        None => spec.name == name,
        Some(last) => name.strip_prefix(spec.name).is_some_and(|n| {
            n.bytes().all(|b| b.is_ascii_digit())
                && (n == "0" || !n.starts_with('0'))
                && n.parse::<u32>().is_ok_and(|n| n <= last)
        }),
    })
}

/// Checks parameters against a schema; all faults at once.
pub fn check(params: &Params, specs: &[&[Spec]]) -> Reply<()> {
    let mut errors = Map::new();
    for (name, value) in &params.0 {
        let Some(spec) = find(specs, name) else {
            errors.insert(
                name.clone(),
                json!(
                    "property is not defined in schema and the schema does not allow additional properties"
                ),
            );
            continue;
        };
        let fault = match (value, spec.kind) {
            (_, Kind::List) => None,
            (Param::Many(_), kind) => Some(format!("type check ('{}') failed - got ARRAY", type_name(kind))),
            (Param::One(value), kind) => check_value(name, kind, value),
        };
        if let Some(fault) = fault {
            errors.insert(name.clone(), json!(fault));
        }
    }
    for spec in specs.iter().flat_map(|list| list.iter()).filter(|spec| spec.required) {
        if !params.0.contains_key(spec.name) {
            errors.insert(spec.name.to_owned(), json!("property is missing and it is not optional"));
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(Fail::params(errors)) }
}

fn type_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Int(..) | Kind::Vmid => "integer",
        Kind::Num(..) => "number",
        Kind::Bool => "boolean",
        _ => "string",
    }
}

/// What is wrong with one value, as the top level of a request says it.
pub fn check_value(name: &str, kind: Kind, value: &str) -> Option<String> {
    match kind {
        Kind::Props(props) => {
            check_props(name, props, value).map(|fault| format!("invalid format - {fault}"))
        }
        Kind::Format(check) => check(value).err().map(|fault| format!("invalid format - {fault}\n")),
        kind => check_plain(kind, value),
    }
}

fn check_plain(kind: Kind, value: &str) -> Option<String> {
    let digits = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit());
    match kind {
        Kind::Int(min, max) => {
            if !digits(value.strip_prefix('-').unwrap_or(value)) {
                return Some(format!("type check ('integer') failed - got '{value}'"));
            }
            let number: i64 = value.parse().unwrap_or(i64::MAX);
            if number < min {
                Some(format!("value must have a minimum value of {min}"))
            } else if number > max {
                Some(format!("value must have a maximum value of {max}"))
            } else {
                None
            }
        }
        Kind::Num(min, max) => match value.parse::<f64>() {
            Err(_) => Some(format!("type check ('number') failed - got '{value}'")),
            Ok(n) if n < min => Some(format!("value must have a minimum value of {min}")),
            Ok(n) if n > max => Some(format!("value must have a maximum value of {max}")),
            Ok(_) => None,
        },
        Kind::Bool => {
            (!matches!(value, "0" | "1")).then(|| format!("type check ('boolean') failed - got '{value}'"))
        }
        Kind::Text(max) => {
            (value.chars().count() > max).then(|| format!("value may only be {max} characters long"))
        }
        Kind::Enum(words) => (!words.contains(&value)).then(|| {
            format!("value '{value}' does not have a value in the enumeration '{}'", words.join(", "))
        }),
        Kind::Pattern(ok) => (!ok(value)).then(|| "value does not match the regex pattern".to_owned()),
        Kind::Format(check) => check(value).err().map(|fault| format!("invalid format - {fault}\n")),
        Kind::Vmid => {
            if !digits(value.strip_prefix('-').unwrap_or(value)) {
                return Some(format!("type check ('integer') failed - got '{value}'"));
            }
            let number = value.parse::<u64>().unwrap_or(0);
            let ok = (100..=999_999_999).contains(&number) && !value.starts_with('0');
            (!ok).then(|| "invalid format - value does not look like a valid VM ID\n".to_owned())
        }
        Kind::ConfigId => {
            let ok = value.len() >= 2
                && value.starts_with(|c: char| c.is_ascii_alphabetic())
                && value.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
            if !ok {
                return Some(format!("invalid format - invalid configuration ID '{value}'\n"));
            }
            (value.len() > 40).then(|| "value may only be 40 characters long".to_owned())
        }
        Kind::Props(_) | Kind::List => None,
    }
}

fn check_props(name: &str, props: &[Prop], value: &str) -> Option<String> {
    let mut seen: Vec<(&str, &str)> = Vec::new();
    let mut faults = Vec::new();
    for part in value.split(',').filter(|part| !part.is_empty()) {
        let (key, value) = match part.split_once('=') {
            Some((key, value)) => (key, value),
            None => match props.iter().find(|p| p.default) {
                Some(prop) => (prop.name, part),
                None => {
                    return Some("value without key, but schema does not define a default key\n".to_owned());
                }
            },
        };
        // `virtio=MAC` is short for `model=virtio,macaddr=MAC`.
        let expanded: &[(&str, &str)] = if crate::schema::NET_MODELS.contains(&key) && name.starts_with("net")
        {
            &[("model", key), ("macaddr", value)]
        } else {
            &[(key, value)]
        };
        for (key, value) in expanded {
            if seen.iter().any(|(k, _)| k == key) {
                return Some(format!("duplicate key in comma-separated list property: {key}\n"));
            }
            seen.push((key, value));
        }
    }
    for (key, value) in &seen {
        match props.iter().find(|p| p.name == *key) {
            None => faults.push(format!(
                "{name}.{key}: property is not defined in schema and the schema does not allow additional properties"
            )),
            Some(prop) => {
                if let Some(fault) = check_plain(prop.kind, value) {
                    faults.push(format!("{name}.{key}: {fault}"));
                }
                if let Some(other) = prop.requires.filter(|o| !seen.iter().any(|(k, _)| k == o)) {
                    faults.push(format!("{name}.{other}: missing property required by '{name}.{key}'"));
                }
            }
        }
    }
    for prop in props.iter().filter(|p| p.required && !seen.iter().any(|(k, _)| *k == p.name)) {
        faults.insert(0, format!("{name}.{}: property is missing and it is not optional", prop.name));
    }
    if faults.is_empty() { None } else { Some(format!("format error\n{}\n", faults.join("\n"))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_as_the_genuine_server_reads_them() {
        let params = Params::from_form("a=1&b=x%3Dy+z;c=1=2&d=1&d=2");
        assert_eq!(params.get("b"), Some("x=y z"));
        assert_eq!(params.get("c"), Some("1"));
        assert_eq!(params.all("d"), ["1", "2"]);
    }
}
