//! Recordings of a genuine node: folders of JSON lines, one exchange a line.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// One line.
#[derive(Debug, Clone)]
pub(super) struct Record {
    /// What it is called in the folder.
    pub(super) id: String,
    /// All of it.
    pub(super) json: Value,
}

impl Record {
    /// The method, if it is an exchange: the rest tells what somebody did by hand.
    pub(super) fn method(&self) -> Option<&str> {
        self.json["path"].as_str().and(self.json["method"].as_str())
    }

    /// The path below `/api2/json`; one that begins with two slashes is a whole path.
    pub(super) fn path(&self) -> &str {
        self.json["path"].as_str().unwrap_or_default()
    }

    /// The status; 0 where the connection was closed without an answer.
    pub(super) fn status(&self) -> u64 {
        self.json["status"].as_u64().unwrap_or(0)
    }

    /// The data of the answer.
    pub(super) fn data(&self) -> &Value {
        &self.json["body"]["data"]
    }

    /// The task that the answer names.
    pub(super) fn upid(&self) -> Option<&str> {
        self.data().as_str().filter(|text| text.starts_with("UPID:"))
    }

    /// The parameters in the order sent; a key may repeat.
    pub(super) fn params(&self) -> Vec<(String, String)> {
        let text = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
        match &self.json["params"] {
            Value::Object(map) => map
                .iter()
                .flat_map(|(key, value)| match value {
                    Value::Array(list) => list.iter().map(|v| (key.clone(), text(v))).collect(),
                    one => vec![(key.clone(), text(one))],
                })
                .collect(),
            Value::Array(list) => list.iter().map(|pair| (text(&pair[0]), text(&pair[1]))).collect(),
            _ => Vec::new(),
        }
    }

    /// The endpoint it belongs to, `METHOD /nodes/N/qemu/ID/config`.
    pub(super) fn endpoint(&self) -> String {
        endpoint(self.method().unwrap_or_default(), self.path())
    }
}

/// The endpoint that a path belongs to: names and numbers of things are replaced by words.
pub fn endpoint(method: &str, path: &str) -> String {
    let parts: Vec<&str> = path
        .split('/')
        .filter(|p| !p.is_empty())
        .scan("", |before, part| {
            let shown = match *before {
                "nodes" => "N",
                "qemu" => "ID",
                "tasks" => "UPID",
                "storage" => "STORAGE",
                "content" => "VOLUME",
                "snapshot" => "NAME",
                _ => part,
            };
            *before = part;
            Some(shown)
        })
        .collect();
    format!("{method} /{}", parts.join("/"))
}

/// The recordings of a folder, file by file in the order in which they were made.
pub(super) fn read_all(dir: &Path) -> Result<Vec<Record>> {
    let entries = std::fs::read_dir(dir).with_context(|| format!("can not read {}", dir.display()))?;
    let mut files: Vec<PathBuf> = Vec::new();
    for entry in entries {
        files.push(entry.context("can not read a directory")?.path());
    }
    files.retain(|f| f.extension().is_some_and(|e| e == "jsonl"));
    files.sort();
    if files.is_empty() {
        bail!("{} holds no recordings (*.jsonl)", dir.display());
    }
    let mut timed = Vec::new();
    let mut last = 0;
    for path in files {
        let text =
            std::fs::read_to_string(&path).with_context(|| format!("can not read {}", path.display()))?;
        // One that does not tell when it was made belongs after the one before it.
        last = made_at(&text).unwrap_or(last);
        timed.push((last, path, text));
    }
    timed.sort_by_key(|(time, ..)| *time);
    let mut records = Vec::new();
    for (_, path, text) in timed {
        for (n, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let json: Value = serde_json::from_str(line)
                .with_context(|| format!("{}, line {}: not JSON", path.display(), n + 1))?;
            let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let id = json["id"].as_str().map_or_else(|| format!("{stem}:{}", n + 1), str::to_owned);
            records.push(Record { id, json });
        }
    }
    Ok(records)
}

/// When a file's last exchange was made, in seconds since 1970: tasks and tickets carry the time in hexadecimal,
/// answers sometimes a date.
fn made_at(text: &str) -> Option<u64> {
    let stamps = text.split(':').filter(|part| part.len() == 8).filter_map(|part| {
        let time = u64::from_str_radix(part, 16).ok()?;
        (0x6000_0000..0x8000_0000).contains(&time).then_some(time)
    });
    let dates = text.split("\"Date\", \"").skip(1).filter_map(|rest| date(rest.split('"').next()?));
    stamps.chain(dates).max()
}

/// `Mon, 23 Nov 2026 03:51:16 GMT` as seconds since 1970.
fn date(text: &str) -> Option<u64> {
    const MONTHS: &str = "JanFebMarAprMayJunJulAugSepOctNovDec";
    let words: Vec<&str> = text.split([' ', ':']).filter(|w| !w.is_empty()).collect();
    let [_, day, month, year, hour, minute, second, _] = words.as_slice() else { return None };
    let number = |t: &str| t.parse::<u64>().ok();
    let month = MONTHS.find(month)? as u64 / 3 + 1;
    // Days from the first of March of the year 0 on, so that a leap day is the last of its year.
    let (y, m) = if month > 2 { (number(year)?, month - 3) } else { (number(year)? - 1, month + 9) };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + number(day)? - 1;
    let days = days.checked_sub(719_468)?;
    Some(((days * 24 + number(hour)?) * 60 + number(minute)?) * 60 + number(second)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        assert_eq!(date("Mon, 23 Nov 2026 03:51:16 GMT"), Some(1_795_405_876));
        assert_eq!(made_at("UPID:prom:00000ED5:000AE788:6B03B82C:qmclone:9002:root@pam:"), Some(0x6B03_B82C));
        assert_eq!(made_at("nothing"), None);
    }

    #[test]
    fn endpoints() {
        assert_eq!(
            endpoint("GET", "/nodes/prom/qemu/110/snapshot/a/config"),
            "GET /nodes/N/qemu/ID/snapshot/NAME/config"
        );
    }
}
