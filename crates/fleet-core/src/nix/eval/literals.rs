//! Literals: numbers, strings with what is interpolated in them, and paths.

use std::path::Path;

use rnix::SyntaxKind as K;

use super::{
    error::{Outcome, Sort, Stop},
    expr::Expr,
    lower::Lowering,
    strings::{self, Part},
};
use crate::nix::syntax::{Child, Node};

impl Lowering<'_> {
    pub(super) fn literal(&mut self, node: Node<'_>) -> Outcome<Expr> {
        let Some(token) = node.tokens().next() else { return Err(self.wrong("no literal", node)) };
        let text = token.text();
        Ok(match token.kind() {
            K::TOKEN_INTEGER => match text.parse() {
                Ok(number) => Expr::Int(number),
                Err(_) => {
                    return Err(Stop::new(
                        Sort::Eval,
                        format!("invalid integer '{text}'"),
                        Some(self.span(node)),
                    )
                    .help(Some(format!("the largest is {}", i64::MAX))));
                }
            },
            K::TOKEN_FLOAT => match text.parse::<f64>() {
                Ok(number) if number.is_finite() && nix_float(text) => Expr::Float(number),
                _ => return Err(self.unsupported("a number in this form", node)),
            },
            K::TOKEN_URI => Expr::Unsupported("a URL without quotes".into()),
            _ => return Err(self.wrong("unexpected literal", node)),
        })
    }

    /// A string in either kind of quotes.
    pub(super) fn string(&mut self, node: Node<'_>) -> Outcome<Expr> {
        let is_indented = node.token(K::TOKEN_STRING_START).is_some_and(|token| token.text() == "''");
        let mut parts = Vec::new();
        for child in node.children() {
            match child {
                Child::Token(token) if token.kind() == K::TOKEN_STRING_CONTENT => {
                    parts.push(Part::Text(token.text()));
                }
                Child::Token(_) => {}
                Child::Node(hole) => parts.push(Part::Hole(hole)),
            }
        }
        if parts.is_empty() {
            return Ok(Expr::Str("".into()));
        }
        if !is_indented {
            if let [Part::Text(text)] = parts.as_slice() {
                return strings::unescape(text).map(Expr::Str).map_err(|what| self.unsupported(what, node));
            }
            let mut ids = Vec::new();
            for part in parts {
                ids.push(match part {
                    Part::Text(text) => {
                        let text = strings::unescape(text).map_err(|what| self.unsupported(what, node))?;
                        self.add(Expr::Str(text), node)
                    }
                    Part::Hole(hole) => self.nth(hole, 0)?,
                });
            }
            return Ok(Expr::Concat(ids.into()));
        }
        let parts = strings::indented(parts).map_err(|what| self.unsupported(what, node))?;
        if parts.iter().all(Result::is_ok) {
            let text: String = parts.into_iter().filter_map(Result::ok).collect();
            return Ok(Expr::Str(text.into()));
        }
        let mut ids = Vec::new();
        for part in parts {
            ids.push(match part {
                Ok(text) => self.add(Expr::Str(text.into()), node),
                Err(hole) => self.nth(hole, 0)?,
            });
        }
        Ok(Expr::Concat(ids.into()))
    }

    pub(super) fn path(&mut self, node: Node<'_>) -> Outcome<Expr> {
        let mut ids = Vec::new();
        let mut first = None;
        for child in node.children() {
            match child {
                Child::Token(token) if first.is_none() => {
                    let text = token.text();
                    let whole = absolute(self.base, text);
                    // The slash before an interpolation is part of the path.
                    let keep = text.ends_with('/') && whole != "/";
                    first = Some(if keep { format!("{whole}/") } else { whole });
                }
                Child::Token(token) => ids.push(self.add(Expr::Str(token.text().into()), node)),
                Child::Node(hole) => ids.push(self.nth(hole, 0)?),
            }
        }
        let Some(first) = first else {
            return Ok(Expr::Unsupported("a path that begins with an interpolation".into()));
        };
        if ids.is_empty() {
            return Ok(Expr::Path(first.into()));
        }
        ids.insert(0, self.add(Expr::Path(first.into()), node));
        Ok(Expr::PathConcat(ids.into()))
    }
}

/// Whether Nix reads this as one floating-point number.
fn nix_float(text: &str) -> bool {
    let mantissa = text.split(['e', 'E']).next().unwrap_or_default();
    match mantissa.split_once('.') {
        Some(("" | "0", fraction)) => !fraction.is_empty(),
        Some((whole, _)) => !whole.starts_with('0'),
        None => false,
    }
}

/// A path made absolute and free of `.`, `..` and double slashes, without looking at the file system.
pub(super) fn absolute(base: &Path, text: &str) -> String {
    if text.starts_with('/') { canonical(text) } else { canonical(&format!("{}/{text}", base.display())) }
}

pub(super) fn canonical(text: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in text.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}
