//! What will change, as data: shown by `--dry-run`, asked about, then put in place by [`crate::apply`].

use std::path::{Path, PathBuf};

use fleet_core::files::Change;

use crate::secrets::SecretsPlan;

/// One file that people read, and its new text.
#[derive(Debug, Clone)]
pub struct TextChange {
    /// Relative to the repository.
    pub path: PathBuf,
    /// Its text; `None` when it does not exist.
    pub before: Option<String>,
    /// Its new text.
    pub after: String,
    /// The change in a few words.
    pub what: String,
}

/// Everything that one run will change.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// `hosts.nix`, the rules, the inventory; only those that change.
    pub texts: Vec<TextChange>,
    /// The secrets.
    pub secrets: SecretsPlan,
    /// Facts for whoever is asked.
    pub notes: Vec<String>,
    /// What should be looked at.
    pub warnings: Vec<String>,
    /// The commit's message.
    pub message: String,
}

impl AsRef<Plan> for Plan {
    fn as_ref(&self) -> &Plan {
        self
    }
}

impl Plan {
    /// Adds a text if it differs.
    pub fn text(&mut self, path: &Path, before: Option<&str>, after: String, what: impl Into<String>) {
        if before != Some(after.as_str()) {
            let before = before.map(str::to_owned);
            self.texts.push(TextChange { path: path.to_owned(), before, after, what: what.into() });
        }
    }

    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.texts.is_empty() && self.secrets.rewraps.is_empty()
    }

    /// The files that change, relative to the repository.
    pub fn paths(&self) -> Vec<PathBuf> {
        let texts = self.texts.iter().map(|text| text.path.clone());
        texts.chain(self.secrets.rewraps.iter().map(|rewrap| rewrap.path.clone())).collect()
    }

    /// The same for [`fleet_core::files::apply`].
    pub fn changes(&self, root: &Path) -> Vec<Change> {
        let texts = self.texts.iter().map(|text| Change {
            path: root.join(&text.path),
            before: text.before.as_ref().map(|before| before.clone().into_bytes()),
            after: text.after.clone().into_bytes(),
        });
        let secrets = self.secrets.rewraps.iter().map(|rewrap| Change {
            path: root.join(&rewrap.path),
            before: Some(rewrap.before.clone()),
            after: rewrap.after.clone(),
        });
        texts.chain(secrets).collect()
    }

    /// A few lines for a person: every file with what happens to it, then notes.
    pub fn summary(&self) -> Vec<String> {
        let mut lines: Vec<String> =
            self.texts.iter().map(|text| format!("  {}: {}", text.path.display(), text.what)).collect();
        // A few secrets are named, hundreds are counted.
        let shown = if self.secrets.rewraps.len() > 30 { 10 } else { self.secrets.rewraps.len() };
        for rewrap in &self.secrets.rewraps[..shown] {
            lines.push(format!(
                "  {}: {}",
                rewrap.path.display(),
                recipients(rewrap.added.len(), rewrap.removed.len())
            ));
        }
        if self.secrets.rewraps.len() > shown {
            lines.push(format!("  and {} more secrets likewise", self.secrets.rewraps.len() - shown));
        }
        lines.extend(self.notes.iter().map(|note| format!("  {note}")));
        lines
    }

    /// A unified diff of everything that people read; secrets only as counts.
    pub fn diff(&self) -> String {
        let mut out = String::new();
        for text in &self.texts {
            let path = text.path.display();
            let old = if text.before.is_some() { format!("a/{path}") } else { "/dev/null".to_owned() };
            let before = text.before.as_deref().unwrap_or_default();
            let diff = similar::TextDiff::from_lines(before, &text.after);
            out.push_str(
                &diff.unified_diff().context_radius(3).header(&old, &format!("b/{path}")).to_string(),
            );
        }
        for rewrap in &self.secrets.rewraps {
            let counts = recipients(rewrap.added.len(), rewrap.removed.len());
            out.push_str(&format!("# {}: {counts}\n", rewrap.path.display()));
        }
        out
    }
}

/// "wrapped anew, 1 recipient more, 2 fewer".
fn recipients(added: usize, removed: usize) -> String {
    let word = |count: usize| if count == 1 { "recipient" } else { "recipients" };
    match (added, removed) {
        (0, 0) => "wrapped anew, the same keys in other groups".to_owned(),
        (0, removed) => format!("wrapped anew, {removed} {} fewer", word(removed)),
        (added, 0) => format!("wrapped anew, {added} {} more", word(added)),
        (added, removed) => format!("wrapped anew, {added} {} more, {removed} fewer", word(added)),
    }
}
