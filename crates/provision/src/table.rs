//! Tables for people: a row for each VM, or where a row is too wide for the terminal a few lines for each.

use comfy_table::{CellAlignment, Table, presets};
use fleet_core::ui::width;

/// What stands where there is nothing to say.
pub(crate) const NOTHING: &str = "-";

/// The table; the first column is what a row is about. `right` are the columns of numbers, `columns` is how many the
/// terminal has.
pub(crate) fn fitting(
    head: &[&str],
    rows: &[Vec<String>],
    right: &[usize],
    columns: Option<usize>,
) -> String {
    let table = whole(head, rows, right);
    let wide = columns.is_some_and(|columns| table.lines().any(|line| width(line) > columns));
    if wide { rows.iter().map(|cells| in_lines(head, cells)).collect() } else { table }
}

fn whole(head: &[&str], rows: &[Vec<String>], right: &[usize]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(head).add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
        if right.contains(&column.index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

fn in_lines(head: &[&str], cells: &[String]) -> String {
    let mut both = head.iter().zip(cells);
    let name = both.next().map(|(_, name)| name.as_str()).unwrap_or_default();
    let more = both.filter(|(_, cell)| *cell != NOTHING);
    let more: String = more.map(|(head, cell)| format!("  {}: {cell}\n", head.to_lowercase())).collect();
    format!("{name}\n{more}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_wide_for_the_terminal_is_told_in_lines() {
        let rows = [["web", "110", "-"], ["database", "90", "failed"]];
        let rows = rows.map(|cells| cells.map(str::to_owned).to_vec());
        let fitting = |columns| fitting(&["NAME", "VMID", "OUTCOME"], &rows, &[1], columns);
        let table = "NAME      VMID  OUTCOME\nweb        110  -\ndatabase    90  failed";
        assert_eq!((fitting(None).as_str(), fitting(Some(23)).as_str()), (table, table));
        assert_eq!(fitting(Some(22)), "web\n  vmid: 110\ndatabase\n  vmid: 90\n  outcome: failed\n");
    }
}
