//! `--json` for several VMs: one object a line on standard output, each as soon as it is true.

use fleet_core::ui::Ui;
use serde_json::{Value, json};

use super::summary::Row;
use crate::journal::Watch;

/// Where the events go: nowhere without `--json`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Events(Option<Ui>);

impl Events {
    pub(super) fn new(ui: Ui) -> Events {
        Events(ui.json().then_some(ui))
    }

    fn say(self, event: &Value) {
        if let Some(ui) = self.0 {
            // Nobody reads them any more: the work goes on, and the exit code still tells.
            let _ = ui.json_line(event);
        }
    }

    /// Tells of a run's beginning and of its steps what the journal tells, with the VM's name.
    pub(super) fn watch(self, name: &str) -> Option<Watch> {
        let (ui, name) = (self.0?, name.to_owned());
        Some(Watch::new(move |line| {
            if let Ok(mut event) = serde_json::from_str::<Value>(line) {
                event["name"] = Value::from(name.as_str());
                let _ = ui.json_line(&event);
            }
        }))
    }

    /// A VM's part of the run is over.
    pub(super) fn over(self, row: &Row) {
        let mut event = json!({ "event": "vm" });
        merge(&mut event, row.value());
        self.say(&event);
    }

    /// All is over.
    pub(super) fn summary(self, rows: &[Row]) {
        let vms: Vec<Value> = rows.iter().map(Row::value).collect();
        self.say(&json!({ "event": "summary", "vms": vms }));
    }

    /// Whether there are any.
    pub(super) fn wanted(self) -> bool {
        self.0.is_some()
    }
}

fn merge(event: &mut Value, more: Value) {
    if let (Some(event), Value::Object(more)) = (event.as_object_mut(), more) {
        event.extend(more);
    }
}
