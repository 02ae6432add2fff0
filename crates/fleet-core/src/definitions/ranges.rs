//! `vmidRanges`: what VMIDs are for.

use std::collections::HashMap;

use super::{VmidRange, load::owned};
use crate::{
    nix::reader::{Fields, Reader},
    types::Vmid,
};

/// The ranges, in the file's order.
pub(super) fn read<'a>(reader: &mut Reader<'a>, top: &Fields<'a>) -> Vec<VmidRange> {
    let Some(section) = reader.set(top, "vmidRanges") else { return Vec::new() };
    let (mut ranges, mut places) = (Vec::new(), Vec::new());
    for attr in Reader::in_order(&section) {
        let Some(fields) = reader.fields(&attr.value, section.join(&attr.name), attr.key) else { continue };
        reader.known_or_own(&fields, &["start", "end", "description"]);
        let mut bounds = HashMap::new();
        for bound in ["start", "end"] {
            if fields.get(bound).is_none() {
                reader.missing(&fields, bound, "a range has a `start` and an `end`, both included");
            }
            let vmid = reader.number::<u32>(&fields, bound, 100..=999_999_999, "100");
            bounds.extend(vmid.and_then(|n| Vmid::new(n).ok()).map(|vmid| (bound, vmid)));
        }
        let description = owned(reader, &fields, "description");
        if let (Some(start), Some(end)) = (bounds.get("start"), bounds.get("end")) {
            ranges.push(VmidRange { name: attr.name.to_string(), start: *start, end: *end, description });
            places.push(fields);
        }
    }
    for (range, fields) in ranges.iter().zip(&places).filter(|(range, _)| range.start > range.end) {
        let message = format!("the range ends ({}) before it starts ({})", range.end, range.start);
        let help = format!("for example: start = {}; end = {};", range.end, range.start);
        reader.add(fields.value_at("end"), &fields.path, message, Some(help));
    }
    ranges
}
