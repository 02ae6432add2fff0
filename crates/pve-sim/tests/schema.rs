//! What the genuine API's schema refuses is refused here, and what it takes is not refused for its parameters.
//!
//! The schema is not part of this repository: it is looked for beside the recordings (see `recordings.rs`). From
//! each parameter's type, limits, words, lengths and properties come values on both sides of what is allowed.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may stop and tells what differs")]

mod shared;

use std::sync::Arc;

use pve_sim::{
    api::{self, Call},
    auth::Who,
    node::Node,
    params::{Param, Params},
    world::{Latency, World},
};
use serde_json::{Map, Value};

fn schema() -> Option<Map<String, Value>> {
    let file = shared::pve_api()?.join("schema.json");
    Some(serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap())
}

/// Limits are numbers, or texts that are some.
fn number(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_str()?.parse().ok())
}

/// Values that `spec` allows, and values that it does not.
fn values(spec: &Value) -> (Vec<String>, Vec<String>) {
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    let words: Vec<&str> = spec["enum"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    match spec["type"].as_str().unwrap_or("string") {
        "boolean" => {
            good.extend(["0", "1"].map(str::to_owned));
            bad.extend(["2", "maybe", ""].map(str::to_owned));
        }
        kind @ ("integer" | "number") => {
            bad.extend(["x", ""].map(str::to_owned));
            if kind == "integer" {
                bad.push("1.5".to_owned());
            }
            for (limit, step) in [(number(&spec["minimum"]), -1), (number(&spec["maximum"]), 1)] {
                if let Some(limit) = limit {
                    good.push(limit.to_string());
                    bad.push((limit + step).to_string());
                }
            }
        }
        _ if !words.is_empty() => {
            good.extend(words.iter().map(|w| (*w).to_owned()));
            bad.extend(["no-such-word", ""].map(str::to_owned));
        }
        _ => {
            if let Some(longest) = number(&spec["maxLength"]) {
                bad.push("a".repeat(usize::try_from(longest).unwrap() + 1));
            }
            if spec["pattern"].is_string() {
                bad.push("\u{1}".to_owned());
            }
            if let Some(properties) = spec["format_properties"].as_object() {
                bad.push("no-such-property=1".to_owned());
                bad.extend(of_properties(properties));
            }
        }
    }
    (good, bad)
}

/// Property strings with one bad property each.
fn of_properties(properties: &Map<String, Value>) -> Vec<String> {
    let mut bad = Vec::new();
    for (name, spec) in
        properties.iter().filter(|(name, spec)| spec["alias"].is_null() && !name.contains("[n]"))
    {
        bad.extend(
            values(spec).1.into_iter().filter(|v| !v.is_empty()).map(|value| format!("{name}={value}")),
        );
    }
    bad
}

struct Bench {
    node: Arc<Node>,
    runtime: tokio::runtime::Runtime,
    _dir: tempfile::TempDir,
}

impl Bench {
    /// The fault that the simulated node finds in a parameter; nothing if it finds none.
    fn fault(&self, method: &str, path: &[String], params: &[(&str, &str)], of: &str) -> Option<String> {
        let one = |value: &str| Param::One(value.to_owned());
        let params = Params(params.iter().map(|(k, v)| ((*k).to_owned(), one(v))).collect());
        let call = Call { method: method.to_owned(), path: path.to_vec(), params, who: Who::root() };
        let fail = self.runtime.block_on(api::answer(&self.node, &call)).err()?;
        fail.errors?.get(of).map(ToString::to_string)
    }

    fn is_simulated(&self, method: &str, path: &[String]) -> bool {
        let call = Call {
            method: method.to_owned(),
            path: path.to_vec(),
            params: Params::default(),
            who: Who::root(),
        };
        !matches!(self.runtime.block_on(api::answer(&self.node, &call)), Err(fail) if fail.status == 501)
    }
}

#[test]
fn parameters_are_held_against_the_schema() {
    let Some(schema) = schema() else { return };
    let dir = tempfile::tempdir().unwrap();
    let world = World { latency: Latency::none(), ..World::default() };
    let node = Arc::new(Node::in_memory(dir.path(), world).unwrap());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let bench = Bench { node, runtime, _dir: dir };
    let (mut checked, mut wrong) = (0, Vec::new());
    for (endpoint, entry) in &schema {
        let (method, path) = endpoint.split_once(' ').unwrap();
        let path: Vec<String> = path
            .split('/')
            .filter(|part| !part.is_empty())
            .map(|part| match part {
                "{node}" => "prom",
                // It does not exist: what is wrong with a parameter is said first.
                "{vmid}" => "99999",
                "{storage}" => "nvmeprom",
                "{snapname}" => "before",
                "{upid}" => "UPID:prom:00000001:00000001:6B000000:qmclone:9002:root@pam:",
                other => other,
            })
            .map(str::to_owned)
            .collect();
        if !bench.is_simulated(method, &path) {
            continue;
        }
        let mut say = |ok: bool, words: String| {
            checked += 1;
            if !ok {
                wrong.push(format!("{endpoint}: {words}"));
            }
        };
        if entry["additionalProperties"] == 0 {
            let fault = bench.fault(method, &path, &[("no-such-parameter", "1")], "no-such-parameter");
            say(fault.is_some(), "takes a parameter that there is not".to_owned());
        }
        for (name, spec) in entry["parameters"].as_object().unwrap() {
            if endpoint.contains(&format!("{{{name}}}")) || spec["type"] == "array" {
                continue;
            }
            if spec["optional"] != 1 {
                say(bench.fault(method, &path, &[], name).is_some(), format!("does not need {name}"));
            }
            let shown = match name.strip_suffix("[n]") {
                None => name.clone(),
                Some(stem) => {
                    let last = number(&spec["index_range"][1]).unwrap();
                    let beyond = format!("{stem}{}", last + 1);
                    let fault = bench.fault(method, &path, &[(&beyond, "x")], &beyond);
                    say(
                        fault.is_some_and(|f| f.contains("not defined in schema")),
                        format!("takes {beyond}"),
                    );
                    format!("{stem}{last}")
                }
            };
            let (good, bad) = values(spec);
            for value in bad {
                let fault = bench.fault(method, &path, &[(&shown, &value)], &shown);
                let value: String = value.chars().take(40).collect();
                say(fault.is_some(), format!("takes {shown}={value:?}"));
            }
            for value in good {
                let fault = bench.fault(method, &path, &[(&shown, &value)], &shown);
                say(fault.is_none(), format!("refuses {shown}={value:?}: {fault:?}"));
            }
        }
    }
    println!("{checked} values, {} of them wrong", wrong.len());
    assert!(wrong.is_empty(), "{} of {checked}:\n{}", wrong.len(), wrong.join("\n"));
}
