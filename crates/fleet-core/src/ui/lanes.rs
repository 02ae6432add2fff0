//! Several works side by side: every line says whose it is, and on a terminal each work has one line that changes.

use std::{
    sync::OnceLock,
    time::{Duration, Instant},
};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::Ui;

/// The lines that change, at the bottom of the terminal. There is one terminal, so they are the whole program's:
/// whatever else is printed goes above them.
static BARS: OnceLock<MultiProgress> = OnceLock::new();

/// Columns of a terminal that such a line needs beside its text, or leaves free.
const FREE: usize = 16;

/// How often they change.
const TICK: Duration = Duration::from_millis(200);

/// One of several works side by side.
#[derive(Debug)]
pub struct Lane {
    name: String,
    bar: Option<ProgressBar>,
}

/// Prints without harm to the lines that change.
pub(super) fn aside<T>(print: impl FnOnce() -> T) -> T {
    match BARS.get() {
        Some(bars) => bars.suspend(print),
        None => print(),
    }
}

impl Lane {
    /// The line with the name before it. An empty line stays empty: among other lanes' it parts nothing.
    pub(super) fn named(&self, line: &str, paint: impl FnOnce(&str) -> String) -> String {
        if line.is_empty() { String::new() } else { format!("{} {line}", paint(&format!("{}:", self.name))) }
    }

    /// Shows the text in the lane's own line, where it has one.
    pub(super) fn show(&self, text: &str) -> bool {
        let Some(bar) = &self.bar else { return false };
        let text = text.trim();
        if !text.is_empty() {
            bar.set_message(text.to_owned());
        }
        true
    }
}

impl Ui {
    /// One for each name, whose lines bear it. With `live`, and where messages are seen on a terminal, each has one
    /// line there that changes; warnings, errors and what `--verbose` shows stand above.
    ///
    /// What they need stays until the program ends: they are made once, for the work that it was started for.
    pub fn lanes(&self, names: &[String], live: bool) -> Vec<Ui> {
        let bars = (live && !self.quiet && lines_can_change()).then(bars);
        let width = names.iter().map(|name| console::measure_text_width(name)).max().unwrap_or_default();
        let lane = |name: &String| {
            let bar = bars.map(|bars| dress(bars.add(ProgressBar::new_spinner()), name, width));
            let lane: &'static Lane = Box::leak(Box::new(Lane { name: name.clone(), bar }));
            Ui { lane: Some(lane), ..*self }
        };
        names.iter().map(lane).collect()
    }

    /// The work of this lane begins: its line shows how long it takes from now on.
    pub fn lane_begins(&self) {
        if let Some(bar) = self.lane.and_then(|lane| lane.bar.as_ref()) {
            bar.reset_elapsed();
            bar.enable_steady_tick(TICK);
        }
    }

    /// All works are over: the lines that change are taken away, for what tells the end of all of them instead.
    pub fn lanes_end(&self) {
        if let Some(bars) = BARS.get() {
            // A terminal that can not be written to any more shows nothing anyway.
            let _ = bars.clear();
            bars.set_draw_target(ProgressDrawTarget::hidden());
        }
    }

    /// The work of this lane is over: its line stays as it is, with this text.
    pub fn lane_ends(&self, text: &str) {
        if let Some(bar) = self.lane.and_then(|lane| lane.bar.as_ref()) {
            bar.finish_with_message(text.to_owned());
        }
    }
}

/// A line at the bottom of the terminal that tells that a work goes on. It goes away with this.
#[derive(Debug)]
pub struct Live {
    bar: ProgressBar,
}

impl Live {
    /// Shows the text in it, as far as there is room. The last columns stay free: what the terminal itself writes there
    /// (`^C`) leaves the line a single one, which can be taken away.
    pub fn show(&self, text: &str) {
        let columns = usize::from(console::Term::stderr().size().1).saturating_sub(FREE);
        self.bar.set_message(console::truncate_str(text, columns, "…").into_owned());
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
        if let Some(bars) = BARS.get() {
            bars.remove(&self.bar);
        }
    }
}

impl Ui {
    /// A line for a work that began then, where messages are seen on a terminal and nothing else tells of it.
    pub fn live(&self, began: Instant) -> Option<Live> {
        if self.lane.is_some() || self.quiet || self.verbose || !lines_can_change() {
            return None;
        }
        let style = ProgressStyle::with_template("{spinner} {elapsed} {msg}");
        let bar = ProgressBar::new_spinner().with_elapsed(began.elapsed());
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
        let bar = bars().add(bar);
        bar.enable_steady_tick(TICK);
        Some(Live { bar })
    }
}

/// Whether lines on the terminal can change; where they can not, all of them are printed below each other.
fn lines_can_change() -> bool {
    console::user_attended_stderr() && !console::is_dumb()
}

fn bars() -> &'static MultiProgress {
    BARS.get_or_init(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(10)))
}

/// A line as it is at first. It is among the others already: alone it would draw itself, and stay where it was drawn.
fn dress(bar: ProgressBar, name: &str, width: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("{spinner} {prefix} {elapsed:>4} {wide_msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
    bar.set_prefix(format!("{name:width$}"));
    bar.set_message("waits for its turn");
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_bears_the_name() {
        let lane = Lane { name: "web".to_owned(), bar: None };
        assert_eq!(lane.named("✓ done", str::to_owned), "web: ✓ done");
        assert_eq!(lane.named("", str::to_owned), "");
        assert!(!lane.show("✓ done"));
    }
}
