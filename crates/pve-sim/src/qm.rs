//! `qm`, as far as it is measured against: the program's own start, then what the API does.

use std::{sync::Arc, time::Duration};

use indexmap::IndexMap;

use crate::{
    api::{self, Call},
    auth::Who,
    guest::Outcome,
    node::Node,
    params::{Param, Params},
};

/// Runs a line of such commands, one after the other until one fails (`qm … && qm …`). `input` is what the file
/// `/dev/stdin` holds.
pub async fn line(node: &Arc<Node>, line: &str, input: &[u8]) -> Outcome {
    let mut all = Outcome::default();
    for command in line.split(" && ") {
        let words: Vec<&str> = command.split_whitespace().skip(1).collect();
        let one = run(node, &words, input).await;
        all.stdout.extend(one.stdout);
        all.stderr.extend(one.stderr);
        all.status = one.status;
        if all.status != 0 {
            break;
        }
    }
    all
}

/// Runs `qm VERB VMID …`. A task is waited for, as `qm` does.
async fn run(node: &Arc<Node>, words: &[&str], input: &[u8]) -> Outcome {
    node.works(node.latency().qm).await;
    let Some((mut call, shows)) = call(node, words) else {
        return failed(255, format!("the simulated node has no `qm {}`", words.join(" ")));
    };
    if let Some(Param::One(keys)) = call.params.0.get_mut("sshkeys").filter(|file| **file == from_stdin()) {
        *keys = percent_encoding::percent_encode(input, percent_encoding::NON_ALPHANUMERIC).to_string();
    }
    let data = match api::answer(node, &call).await {
        Ok((data, _)) => data,
        Err(fail) => return failed(if fail.status == 400 { 2 } else { 255 }, fail.text()),
    };
    if shows == Some(RESULT) {
        return Outcome { stdout: format!("{:#}\n", data[RESULT]).into_bytes(), ..Outcome::default() };
    }
    if let Some(name) = shows {
        let shown = data[name].as_str().unwrap_or_default();
        return Outcome { stdout: format!("{name}: {shown}\n").into_bytes(), ..Outcome::default() };
    }
    let Some(upid) = data.as_str() else { return Outcome::default() };
    loop {
        let exit = node.read(|d| d.tasks.iter().find(|t| t.upid == upid).and_then(|t| t.exit.clone()));
        match exit.as_deref() {
            Some("OK") => return Outcome::default(),
            Some(other) => return failed(255, other.to_owned()),
            None => tokio::time::sleep(Duration::from_millis(2)).await,
        }
    }
}

/// What an agent's answer is under.
const RESULT: &str = "result";

/// `--sshkeys` names a file.
fn from_stdin() -> Param {
    Param::One("/dev/stdin".to_owned())
}

/// The request that a command line stands for, and the one value of its answer that is printed.
fn call(node: &Node, words: &[&str]) -> Option<(Call, Option<&'static str>)> {
    let (verb, vmid, rest) = match words {
        ["guest", "cmd", vmid, rest @ ..] => ("guest", *vmid, rest),
        [verb, vmid, rest @ ..] => (*verb, *vmid, rest),
        _ => return None,
    };
    let plain: Vec<&str> = rest.iter().copied().take_while(|word| !word.starts_with("--")).collect();
    let mut params: Vec<(&str, &str)> = rest[plain.len()..]
        .chunks(2)
        .map(|pair| Some((pair.first()?.strip_prefix("--")?, *pair.get(1)?)))
        .collect::<Option<_>>()?;
    let (method, below, shows) = match (verb, plain.as_slice()) {
        ("status", []) => ("GET", "status/current", Some("status")),
        ("clone", [newid]) => {
            params.push(("newid", newid));
            ("POST", "clone", None)
        }
        ("set", []) => ("PUT", "config", None),
        ("resize", [disk, size]) => {
            params.extend([("disk", *disk), ("size", *size)]);
            ("PUT", "resize", None)
        }
        ("guest", ["network-get-interfaces"]) => ("GET", "agent/network-get-interfaces", Some(RESULT)),
        ("start", []) => ("POST", "status/start", None),
        _ => return None,
    };
    let path = format!("nodes/{}/qemu/{vmid}/{below}", node.name());
    let params: IndexMap<String, Param> =
        params.into_iter().map(|(key, value)| (key.to_owned(), Param::One(value.to_owned()))).collect();
    let path = path.split('/').map(str::to_owned).collect();
    Some((Call { method: method.to_owned(), path, params: Params(params), who: Who::root() }, shows))
}

fn failed(status: u32, text: String) -> Outcome {
    Outcome { stderr: (text + "\n").into_bytes(), status, ..Outcome::default() }
}
