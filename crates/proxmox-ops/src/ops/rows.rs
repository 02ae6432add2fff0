//! The cluster's VMs and containers for `list`: of ten thousand of them only what is shown is kept.

use std::collections::BTreeMap;

use fleet_core::{Error, Result, deadline::Deadline};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::DeserializeOwned,
    ser::{Error as _, SerializeMap, SerializeSeq},
};
use serde_json::{Value, value::RawValue};

use crate::{api::encode, node::Node};

/// What kind of guest a row is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A VM.
    Qemu,
    /// A container.
    Lxc,
    /// Something else, which is not listed.
    #[serde(other)]
    Other,
}

/// What the table shows of a VM or container; numbers are 0 where the API does not say.
#[derive(Debug, Deserialize)]
pub struct Row {
    /// Its VMID.
    #[serde(default, deserialize_with = "number")]
    pub vmid: u32,
    /// VM or container.
    #[serde(rename = "type")]
    pub kind: Kind,
    /// Its name, if it has one.
    #[serde(default)]
    pub name: Option<Box<str>>,
    /// The node it is on.
    #[serde(default)]
    pub node: Box<str>,
    /// `running`, `stopped` or `unknown`.
    #[serde(default)]
    pub status: Box<str>,
    /// Whether it is a template.
    #[serde(default, deserialize_with = "truth")]
    pub template: bool,
    /// Cores.
    #[serde(default, deserialize_with = "whole")]
    pub maxcpu: u64,
    /// Bytes of memory.
    #[serde(default, deserialize_with = "whole")]
    pub maxmem: u64,
    /// Bytes of its first disk.
    #[serde(default, deserialize_with = "whole")]
    pub maxdisk: u64,
}

fn truth<'de, D: Deserializer<'de>>(from: D) -> Result<bool, D::Error> {
    Ok(encode::truth(Some(&Value::deserialize(from)?)))
}

fn whole<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    Ok(encode::whole(Some(&Value::deserialize(from)?)).unwrap_or_default())
}

fn number<'de, D: Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
    encode::number(from)?.try_into().map_err(serde::de::Error::custom)
}

#[derive(Deserialize)]
struct Body<T> {
    data: Vec<T>,
}

/// The rows, not yet taken apart.
#[derive(Deserialize)]
struct Raw<'a> {
    #[serde(borrow)]
    data: Vec<&'a RawValue>,
}

/// The list as the node gave it.
pub struct Rows {
    body: Vec<u8>,
}

impl Rows {
    /// Asks for it.
    pub fn read(node: &Node, deadline: Deadline) -> Result<Rows> {
        let query = [("type", "vm")];
        Ok(Rows { body: node.api.get_body("list the VMs", "/cluster/resources", &query, deadline)? })
    }

    /// The rows for the table, in order of their VMIDs.
    pub fn table(self) -> Result<Vec<Row>> {
        let Body { data: mut rows } = parse::<Body<Row>>(&self.body)?;
        rows.retain(|row| row.kind != Kind::Other);
        rows.sort_by_key(|row| row.vmid);
        Ok(rows)
    }

    /// Each row by itself, of whatever kind, in the node's order.
    pub fn values(&self) -> Result<impl Iterator<Item = Result<Value>> + '_> {
        let Raw { data } = serde_json::from_slice::<Raw<'_>>(&self.body).map_err(shape)?;
        Ok(data.into_iter().map(|row| serde_json::from_str(row.get()).map_err(shape)))
    }

    /// All that the API says of each, in order of their VMIDs.
    pub fn json(&self) -> Result<impl Serialize + '_> {
        #[derive(Deserialize)]
        struct Head {
            #[serde(default, deserialize_with = "number")]
            vmid: u32,
            #[serde(rename = "type")]
            kind: Kind,
        }
        let Raw { data } = serde_json::from_slice(&self.body).map_err(shape)?;
        let mut rows = Vec::with_capacity(data.len());
        for row in data {
            let head: Head = serde_json::from_str(row.get()).map_err(shape)?;
            if head.kind != Kind::Other {
                rows.push((head.vmid, row));
            }
        }
        rows.sort_by_key(|(vmid, _)| *vmid);
        Ok(Json(rows))
    }
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T> {
    serde_json::from_slice(body).map_err(shape)
}

fn shape(error: serde_json::Error) -> Error {
    Error::failed("the node lists the VMs in another shape")
        .caused_by(error)
        .hint("`pveversion` on the node; this program was written for Proxmox VE 8 and 9")
}

/// Rows that are taken apart one at a time, while they are written.
struct Json<'a>(Vec<(u32, &'a RawValue)>);

impl Serialize for Json<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut list = to.serialize_seq(Some(self.0.len()))?;
        for (_, row) in &self.0 {
            list.serialize_element(&JsonRow(row))?;
        }
        list.end()
    }
}

/// A row as [`fleet_core::protocol::Resource`] has it: the named fields first and always, the others as they came.
struct JsonRow<'a>(&'a RawValue);

impl Serialize for JsonRow<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut fields: BTreeMap<String, &RawValue> =
            serde_json::from_str(self.0.get()).map_err(S::Error::custom)?;
        let mut map = to.serialize_map(None)?;
        for name in ["vmid", "type", "name", "node", "status", "template"] {
            match (name, fields.remove(name)) {
                ("vmid", Some(value)) => {
                    let value = serde_json::from_str(value.get()).map_err(S::Error::custom)?;
                    map.serialize_entry(name, &encode::whole(Some(&value)))?;
                }
                ("template", value) => {
                    let value = value.and_then(|raw| serde_json::from_str(raw.get()).ok());
                    map.serialize_entry(name, &encode::truth(value.as_ref()))?;
                }
                ("status", None) => map.serialize_entry(name, "")?,
                (_, value) => map.serialize_entry(name, &value)?,
            }
        }
        for (name, value) in fields {
            map.serialize_entry(&name, value)?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Fake, node};
    use serde_json::json;

    #[test]
    fn rows_are_what_resources_are() {
        let fake = Fake::new().get("/cluster/resources", json!([
            {"type": "qemu", "vmid": 9002, "name": "tmpl", "node": "prom", "status": "stopped", "template": 1, "maxmem": 5, "cpu": 0.25},
            {"type": "lxc", "vmid": "201", "node": "prom", "id": "lxc/201", "name": "zw\u{f6}lf", "maxcpu": "2"},
            {"type": "storage", "storage": "local", "node": "prom"},
        ]));
        let node = node(&fake);
        let rows = Rows::read(&node, Deadline::secs(5)).unwrap();
        let resources = node.resources(Deadline::secs(5)).unwrap();
        assert_eq!(
            serde_json::to_value(rows.json().unwrap()).unwrap(),
            serde_json::to_value(resources).unwrap()
        );
        let rows = rows.table().unwrap();
        assert_eq!(rows.iter().map(|row| row.vmid).collect::<Vec<_>>(), [201, 9002]);
        assert_eq!((rows[0].kind, rows[0].template, rows[0].maxmem), (Kind::Lxc, false, 0));
        assert_eq!(rows[0].maxcpu, 2);
        assert_eq!((rows[1].kind, rows[1].template, rows[1].maxmem), (Kind::Qemu, true, 5));
    }

    #[test]
    fn another_shape_is_an_error() {
        for data in [json!({}), json!([1]), json!([{"vmid": 1}])] {
            let fake = Fake::new().get("/cluster/resources", data);
            let rows = Rows::read(&node(&fake), Deadline::secs(5)).unwrap();
            assert!(rows.json().is_err());
            assert!(rows.table().unwrap_err().message().contains("another shape"));
        }
    }
}
