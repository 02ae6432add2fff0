//! Tables for people: a header, no lines, numbers to the right.

use fleet_core::ui;

/// The columns of a table, and what becomes of them on a terminal that is too narrow for all.
pub(super) struct Table<'a> {
    /// Their titles.
    pub(super) header: &'a [&'a str],
    /// Which hold numbers.
    pub(super) numbers: &'a [usize],
    /// Which can be left out, the least wanted first.
    pub(super) optional: &'a [usize],
    /// Whether the last one is free text, which is cut short before a column is left out.
    pub(super) text_last: bool,
}

/// No free text is cut shorter than this while there are columns to leave out.
const SHORTEST: usize = 16;
/// Between two columns.
const GAP: &str = "  ";

impl Table<'_> {
    /// The table of these things; with `columns`, no line is wider than that. Cells are made twice, for their widths
    /// and for the table: ten thousand rows of text at once are more than the program itself.
    pub(super) fn of<T>(
        &self,
        rows: &[T],
        cells: impl Fn(&T) -> Vec<String>,
        columns: Option<usize>,
    ) -> String {
        let mut widths: Vec<usize> = self.header.iter().map(|title| ui::width(title)).collect();
        for row in rows {
            for (width, cell) in widths.iter_mut().zip(cells(row)) {
                *width = ui::width(&cell).max(*width);
            }
        }
        let widths = self.fitted(&widths, columns);
        let mut out = String::new();
        let mut line = |cells: &[String]| {
            let start = out.len();
            for (n, (cell, width)) in cells.iter().zip(&widths).enumerate() {
                let Some(width) = *width else { continue };
                let cell = ui::shortened(cell, width);
                let blanks = " ".repeat(width.saturating_sub(ui::width(&cell)));
                let (before, after) = if self.numbers.contains(&n) { (&*blanks, "") } else { ("", &*blanks) };
                out.extend([before, &cell, after, GAP]);
            }
            out.truncate(start + out[start..].trim_end().len());
            out.push('\n');
        };
        line(&self.header.iter().map(|title| (*title).to_owned()).collect::<Vec<_>>());
        rows.iter().for_each(|row| line(&cells(row)));
        out.pop();
        out
    }

    /// The widths that fit; none for a column that is left out.
    fn fitted(&self, widths: &[usize], columns: Option<usize>) -> Vec<Option<usize>> {
        let mut fitted: Vec<Option<usize>> = widths.iter().copied().map(Some).collect();
        let Some(columns) = columns else { return fitted };
        let text = if self.text_last { widths.last().copied() } else { None };
        let last = widths.len().saturating_sub(1);
        if let Some(wanted) = text {
            fitted[last] = Some(wanted.min(SHORTEST));
        }
        for column in self.optional {
            if taken(&fitted) > columns {
                fitted[*column] = None;
            }
        }
        if let Some(wanted) = text {
            let free = columns.saturating_sub(taken(&fitted));
            fitted[last] = fitted[last].map(|width| (width + free).min(wanted));
        }
        // Nothing is left but to cut, a letter at a time, what is widest.
        for _ in 0..taken(&fitted).saturating_sub(columns) {
            let texts = fitted.iter_mut().enumerate().filter(|(n, _)| !self.numbers.contains(n));
            if let Some(width) = texts.filter_map(|(_, width)| width.as_mut()).max().filter(|w| **w > 1) {
                *width -= 1;
            }
        }
        fitted
    }
}

/// How many columns of the terminal these take.
fn taken(widths: &[Option<usize>]) -> usize {
    widths.iter().flatten().map(|width| width + GAP.len()).sum::<usize>().saturating_sub(GAP.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: Table<'_> = Table {
        header: &["VMID", "NAME", "DISK", "NOTES"],
        numbers: &[0, 2],
        optional: &[2],
        text_last: true,
    };

    fn at(columns: Option<usize>) -> String {
        let rows = [
            ["104", "doc1", "1.0 GiB", "what somebody wrote about it, at some length"],
            ["9002", "zw\u{f6}lf", "9 B", "-"],
        ];
        let text = TABLE.of(&rows, |row| row.map(str::to_owned).to_vec(), columns);
        for line in text.lines() {
            assert!(columns.is_none_or(|columns| ui::width(line) <= columns), "{columns:?}: {line}");
            assert_eq!(line, line.trim_end());
        }
        text
    }

    #[test]
    fn columns_are_aligned() {
        insta::assert_snapshot!(at(None), @r"
        VMID  NAME      DISK  NOTES
         104  doc1   1.0 GiB  what somebody wrote about it, at some length
        9002  zwölf      9 B  -
        ");
        assert_eq!(at(Some(200)), at(None));
    }

    #[test]
    fn on_a_narrow_terminal_text_is_cut_then_columns_are_left_out() {
        insta::assert_snapshot!(at(Some(50)), @r"
        VMID  NAME      DISK  NOTES
         104  doc1   1.0 GiB  what somebody wrote about i…
        9002  zwölf      9 B  -
        ");
        insta::assert_snapshot!(at(Some(38)), @r"
        VMID  NAME      DISK  NOTES
         104  doc1   1.0 GiB  what somebody w…
        9002  zwölf      9 B  -
        ");
        insta::assert_snapshot!(at(Some(36)), @r"
        VMID  NAME   NOTES
         104  doc1   what somebody wrote ab…
        9002  zwölf  -
        ");
        insta::assert_snapshot!(at(Some(16)), @r"
        VMID  NAME  NOT…
         104  doc1  wha…
        9002  zwö…  -
        ");
        at(Some(14));
    }
}
