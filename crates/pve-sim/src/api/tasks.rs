//! `/nodes/NODE/tasks`.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::{Call, Fail, Reply};
use crate::{node::Node, schema};

type Beside = (Value, Map<String, Value>);

fn with_total(value: Value, total: usize) -> Beside {
    let mut beside = Map::new();
    beside.insert("total".to_owned(), json!(total));
    (value, beside)
}

pub(super) fn answer(node: &Arc<Node>, call: &Call, rest: &[&str]) -> Reply<Beside> {
    match (call.method.as_str(), rest) {
        ("GET", []) => list(node, call),
        ("GET", [_]) => Ok((json!([{ "name": "log" }, { "name": "status" }]), Map::new())),
        ("GET", [upid, "status"]) => {
            call.check(&[schema::NONE])?;
            check_upid(upid)?;
            node.read(|d| d.tasks.iter().find(|t| t.upid == *upid).map(|t| t.status(node.name())))
                .map(|status| (status, Map::new()))
                .ok_or_else(|| Fail::param("upid", "no such task"))
        }
        ("GET", [upid, "log"]) => {
            call.check(&[schema::TASK_LOG])?;
            check_upid(upid)?;
            Ok(log(node, call, upid))
        }
        ("DELETE", [upid]) => {
            check_upid(upid)?;
            let found = node.change(|d| {
                d.tasks.iter_mut().find(|t| t.upid == *upid).map(|task| task.stop = task.exit.is_none())
            });
            found.map(|()| (Value::Null, Map::new())).ok_or_else(|| Fail::param("upid", "no such task"))
        }
        _ => Err(call.not_implemented()),
    }
}

fn check_upid(upid: &str) -> Reply<()> {
    if upid.starts_with("UPID:") && upid.split(':').count() == 9 {
        Ok(())
    } else {
        Err(Fail::param("upid", "unable to parse worker upid"))
    }
}

fn number(call: &Call, key: &str, otherwise: usize) -> usize {
    call.params.get(key).and_then(|v| v.parse().ok()).unwrap_or(otherwise)
}

fn log(node: &Node, call: &Call, upid: &str) -> Beside {
    let lines = node.read(|d| d.tasks.iter().find(|t| t.upid == upid).map(|t| t.log.clone()));
    let Some(lines) = lines else {
        return with_total(json!([{ "n": 1, "t": "unable to open file - No such file or directory" }]), 1);
    };
    let limit = match number(call, "limit", 50) {
        0 => usize::MAX,
        limit => limit,
    };
    let start = number(call, "start", 0);
    let shown = lines.iter().enumerate().skip(start).take(limit);
    with_total(shown.map(|(n, t)| json!({ "n": n + 1, "t": t })).collect(), lines.len())
}

fn list(node: &Node, call: &Call) -> Reply<Beside> {
    call.check(&[schema::TASKS])?;
    let p = &call.params;
    let source = p.get("source").unwrap_or("archive");
    let errors = p.flag("errors") || p.get("statusfilter") == Some("error");
    let number_of = |key: &str| p.get(key).and_then(|v| v.parse::<u64>().ok());
    let found: Vec<Value> = node.read(|d| {
        d.tasks
            .iter()
            .rev()
            .filter(|t| match source {
                "active" => t.exit.is_none(),
                "all" => true,
                _ => t.exit.is_some(),
            })
            .filter(|t| p.get("vmid").is_none_or(|id| t.id == id))
            .filter(|t| p.get("typefilter").is_none_or(|kind| t.kind == kind))
            .filter(|t| number_of("since").is_none_or(|since| t.start >= since))
            .filter(|t| number_of("until").is_none_or(|until| t.start <= until))
            .filter(|t| !errors || t.exit.as_deref().is_some_and(|e| e != "OK" && !e.starts_with("WARNINGS")))
            .map(|t| t.list_entry(node.name()))
            .collect()
    });
    let total = found.len();
    let limit = match number(call, "limit", 50) {
        0 => usize::MAX,
        limit => limit,
    };
    let shown = found.into_iter().skip(number(call, "start", 0)).take(limit).collect();
    Ok(with_total(shown, total))
}

/// `GET /cluster/tasks`.
pub(super) fn cluster(node: &Node) -> Value {
    node.read(|d| {
        d.tasks
            .iter()
            .rev()
            .take(25)
            .map(|t| {
                let mut entry = t.list_entry(node.name());
                entry["saved"] = json!("1");
                if let Some(map) = entry.as_object_mut() {
                    map.remove("pid");
                    map.remove("pstart");
                }
                entry
            })
            .collect()
    })
}
