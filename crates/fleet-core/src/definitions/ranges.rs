//! `vmidRanges`: what VMIDs are for.

use std::collections::HashMap;

use super::{ImportedVm, VmidRange, load::LAST_MANAGED, load::owned, rules::is_reserved};
use crate::{
    nix::reader::{Fields, Reader},
    types::Vmid,
};

/// The ranges, in the file's order.
pub(super) fn read<'a>(reader: &mut Reader<'a>, top: &Fields<'a>, imported: &[ImportedVm]) -> Vec<VmidRange> {
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
    for (range, fields) in ranges.iter().zip(&places) {
        if range.start > range.end {
            let message = format!("the range ends ({}) before it starts ({})", range.end, range.start);
            reader.add(fields.value_at("end"), &fields.path, message, None);
            continue;
        }
        for other in ranges.iter().filter(|other| overlaps(range, other)) {
            let message = format!("the range overlaps '{}' ({} to {})", other.name, other.start, other.end);
            let help = "a VMID is for one thing: let one range end before the other starts".to_owned();
            reader.add(fields.value_at("start"), &fields.path, message, Some(help));
        }
        if !is_reserved(&range.name) && !is_of_use(range, &ranges, imported) {
            let message = "the range has no VMID that a managed VM may have";
            let help =
                format!("they have 100 to {LAST_MANAGED}, without what a range keeps for something else");
            reader.add(fields.value_at("start"), &fields.path, message, Some(help));
        }
    }
    ranges
}

/// Whether `range` begins in `other`, which begins before it (or in alphabetical order where both begin alike).
fn overlaps(range: &VmidRange, other: &VmidRange) -> bool {
    (other.start, &other.name) < (range.start, &range.name) && range.start <= other.end
}

/// Whether a managed VM can have a VMID of the range, or an imported one has.
fn is_of_use(range: &VmidRange, ranges: &[VmidRange], imported: &[ImportedVm]) -> bool {
    let reserved = || ranges.iter().filter(|other| is_reserved(&other.name));
    let within = |range: &VmidRange, number: u32| (range.start.get()..=range.end.get()).contains(&number);
    // The lowest one is where the range begins, or behind a reserved one.
    let mut lowest = std::iter::once(range.start.get()).chain(reserved().map(|other| other.end.get() + 1));
    lowest.any(|number| {
        within(range, number)
            && i64::from(number) <= LAST_MANAGED
            && !reserved().any(|other| within(other, number))
    }) || imported.iter().any(|vm| within(range, vm.vmid.get()))
}
