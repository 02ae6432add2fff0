//! What differs between the answer recorded and the answer given.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{client::Answer, record::Record};

/// How an exchange came out.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    /// What differs, in words.
    pub(super) differs: Vec<String>,
    /// What differs only in names and numbers that every run makes anew, or in the wording of a task's log.
    pub(super) loosely: Vec<String>,
}

impl Verdict {
    pub(super) fn text(&mut self, what: &str, ours: &str, theirs: &str) {
        let (ours, theirs) = (ours.trim_end(), theirs.trim_end());
        if ours == theirs {
            return;
        }
        let line = format!("{what} {ours:?} instead of {theirs:?}");
        if plain(ours) == plain(theirs) {
            self.loosely.push(line);
        } else {
            self.differs.push(line);
        }
    }

    /// Status, reason, message, faults by parameter, shape of the data.
    pub(super) fn answer(&mut self, record: &Record, answer: &Answer) {
        let body = &record.json["body"];
        let status = record.status();
        if answer.status != status {
            self.differs.push(format!(
                "status {} ({}) instead of {status} ({})",
                answer.status,
                answer.reason,
                record.json["reason"].as_str().unwrap_or_default()
            ));
            return;
        }
        if status == 0 {
            return;
        }
        self.text("reason", &answer.reason, record.json["reason"].as_str().unwrap_or_default());
        self.text(
            "message",
            answer.body["message"].as_str().unwrap_or_default(),
            body["message"].as_str().unwrap_or_default(),
        );
        if answer.body["errors"] != body["errors"] {
            self.differs.push(format!("faults {} instead of {}", answer.body["errors"], body["errors"]));
        }
        // A body that the recorder could not read says nothing about its shape.
        if status == 200 && !body.is_null() {
            let mut faults = Vec::new();
            shape("data", &answer.body["data"], &body["data"], &mut faults);
            self.differs.extend(faults);
        }
    }

    /// A task's log, without the lines that depend on time and hardware.
    pub(super) fn log(&mut self, ours: &[String], theirs: &Value) {
        const NOISE: &[&str] =
            &["transferred ", "trying to acquire", " OK", "mirror", "all 'mirror'", "drive mirror"];
        let telling = |lines: &mut dyn Iterator<Item = &str>| -> Vec<String> {
            lines.filter(|l| !NOISE.iter().any(|n| l.starts_with(n))).map(plain).collect()
        };
        let ours = telling(&mut ours.iter().map(String::as_str));
        let theirs = telling(&mut theirs.as_array().into_iter().flatten().filter_map(Value::as_str));
        if ours != theirs {
            let first = ours.iter().zip(&theirs).find(|(a, b)| a != b);
            self.loosely.push(match first {
                Some((ours, theirs)) => format!("log {ours:?} instead of {theirs:?}"),
                None => format!("log of {} lines instead of {}", ours.len(), theirs.len()),
            });
        }
    }

    /// A VM's configuration file after the exchange.
    pub(super) fn config(&mut self, vmid: u32, ours: Option<String>, theirs: Option<&str>) {
        let (ours, theirs) = (plain(&ours.unwrap_or_default()), plain(theirs.unwrap_or_default()));
        if ours == theirs {
            return;
        }
        let lines = |a: &str, b: &str| {
            a.lines().filter(|l| !b.lines().any(|o| o == *l)).map(str::to_owned).collect::<Vec<_>>()
        };
        let (more, missing) = (lines(&ours, &theirs), lines(&theirs, &ours));
        let line = format!("config of {vmid}: has {more:?}, lacks {missing:?}");
        if more.is_empty() && missing.is_empty() {
            self.loosely.push(format!("config of {vmid} in another order"));
        } else {
            self.differs.push(line);
        }
    }
}

/// What names an entry of a list, where something does.
fn name(entry: &Value) -> Option<String> {
    let text = |key: &str| entry[key].as_str().map(str::to_owned);
    ["id", "iface", "key", "volid", "subdir", "cmd"]
        .iter()
        .find_map(|key| text(key))
        .or_else(|| entry["vmid"].as_u64().map(|n| n.to_string()))
        .or_else(|| text("storage"))
        .or_else(|| text("name"))
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// The same keys and kinds, all the way down. Of lists, the entries that both have are compared, by their names
/// where they have some, else the first with the first.
fn shape(at: &str, ours: &Value, theirs: &Value, faults: &mut Vec<String>) {
    if kind(ours) != kind(theirs) {
        return faults.push(format!("{at} is {} instead of {}", kind(ours), kind(theirs)));
    }
    match (ours, theirs) {
        (Value::Object(a), Value::Object(b)) => {
            // Counters of load are there or not as the guest's control group goes.
            let keys = |m: &serde_json::Map<String, Value>| -> BTreeSet<String> {
                m.keys().filter(|k| !k.starts_with("pressure")).cloned().collect()
            };
            let (mine, yours) = (keys(a), keys(b));
            let missing: Vec<_> = yours.difference(&mine).collect();
            let more: Vec<_> = mine.difference(&yours).collect();
            // A table by name (network cards, ACL paths) has the names that there are.
            if !missing.is_empty() || !more.is_empty() {
                return faults.push(format!("{at} lacks {missing:?}, has {more:?}"));
            }
            for (key, value) in b {
                if let Some(mine) = a.get(key) {
                    shape(&format!("{at}.{key}"), mine, value, faults);
                }
            }
        }
        (Value::Array(a), Value::Array(b)) => {
            if a.is_empty() != b.is_empty() {
                return faults.push(format!("{at} has {} entries instead of {}", a.len(), b.len()));
            }
            let vms = |list: &[Value]| -> BTreeSet<String> {
                list.iter()
                    .filter(|e| !e["vmid"].is_null() && e["volid"].is_null())
                    .filter_map(name)
                    .collect()
            };
            if vms(a) != vms(b) {
                return faults.push(format!("{at} is of {:?} instead of {:?}", vms(a), vms(b)));
            }
            for (n, theirs) in b.iter().enumerate() {
                let mine = match name(theirs) {
                    Some(wanted) => a.iter().find(|e| name(e).as_ref() == Some(&wanted)),
                    None if n == 0 => a.first(),
                    None => None,
                };
                if let Some(mine) = mine {
                    shape(&format!("{at}[{n}]"), mine, theirs, faults);
                }
            }
        }
        _ => {}
    }
}

/// A text without what is different in every run: hashes, UUIDs, addresses.
pub(super) fn plain(text: &str) -> String {
    let mut out = String::new();
    let lines: Vec<&str> =
        text.lines().map(|l| if l.starts_with("cipassword: $5$") { "cipassword: hash" } else { l }).collect();
    let text = lines.join("\n");
    for word in text.split_inclusive([' ', ',', '\n', '/', '\'', ':', '=']) {
        let core = word.trim_end_matches([' ', ',', '\n', '/', '\'', ':', '=']);
        let hex = core.len() >= 8 && core.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
        let pair = core.len() == 2
            && core.bytes().all(|b| b.is_ascii_hexdigit())
            && core.bytes().any(|b| b.is_ascii_uppercase() || b.is_ascii_digit());
        if hex || pair {
            out.push('*');
            out.push_str(&word[core.len()..]);
        } else {
            out.push_str(word);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn faults(ours: &Value, theirs: &Value) -> Vec<String> {
        let mut found = Vec::new();
        shape("data", ours, theirs, &mut found);
        found
    }

    #[test]
    fn shapes() {
        let vm = |id: u32| json!({"vmid": id, "name": "a"});
        assert!(faults(&json!([vm(100), vm(101)]), &json!([vm(101), vm(100)])).is_empty());
        assert_eq!(faults(&json!([vm(100)]), &json!([vm(100), vm(101)])).len(), 1);
        assert_eq!(
            faults(&json!({"cores": "2"}), &json!({"cores": 2})),
            ["data.cores is a text instead of a number"]
        );
        assert_eq!(faults(&json!({"a": {"b": 1}}), &json!({"a": {"c": 1}})).len(), 1);
        assert_eq!(faults(&json!([]), &json!([1])).len(), 1);
    }

    #[test]
    fn texts() {
        let mut verdict = Verdict::default();
        verdict.text(
            "reason",
            "uuid=0e96cec9-06cb-4407-a818-0d9c3cecad64",
            "uuid=eac58c45-06cb-4407-a818-0d9c3cecad64",
        );
        assert_eq!((verdict.differs.len(), verdict.loosely.len()), (0, 1));
        verdict.text("reason", "VM is locked (clone)", "VM is locked (backup)");
        assert_eq!(verdict.differs.len(), 1);
    }
}
