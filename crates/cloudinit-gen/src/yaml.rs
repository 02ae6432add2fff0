//! Writing YAML that reads back the same everywhere, and reading it. The only module that knows serde_yaml.

use fleet_core::{Error, Result};
use saphyr_parser::{Event, Parser, ScalarStyle};
use serde::Serialize;

/// `value` as YAML, under `header` as a first line of its own.
///
/// serde_yaml quotes what YAML 1.2 would take for something else than a string; cloud-init reads with PyYAML,
/// which is YAML 1.1: there `on` is true, `2024-01-01` a date and `52:54:00:12:34:56` a number in base 60. Those
/// are quoted too.
pub fn write(header: Option<&str>, value: &impl Serialize) -> Result<String> {
    let text = serde_yaml::to_string(value)
        .map_err(|e| Error::failed("can not write the document as YAML").caused_by(e))?;
    let text = quote_for_yaml_1_1(&text)?;
    Ok(header.map_or_else(|| text.clone(), |header| format!("{header}\n{text}")))
}

/// What YAML `text` says, or what is wrong with it.
pub fn read(text: &str) -> Result<serde_json::Value, String> {
    serde_yaml::from_str(text).map_err(|e| e.to_string())
}

/// `text` with single quotes around every plain scalar that is a string in YAML 1.2 and might not be in YAML 1.1.
fn quote_for_yaml_1_1(text: &str) -> Result<String> {
    // The parser counts characters.
    let mut byte_of: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
    byte_of.push(text.len());
    let mut quoted = String::with_capacity(text.len() + 16);
    let mut copied = 0;
    for event in Parser::new_from_str(text) {
        let (event, span) =
            event.map_err(|e| Error::failed("can not read back the document").caused_by(e))?;
        let Event::Scalar(scalar, ScalarStyle::Plain, ..) = event else { continue };
        if !is_other_in_yaml_1_1(&scalar) || !is_string(&scalar) {
            continue;
        }
        let place = byte_of.get(span.start.index()).copied().zip(byte_of.get(span.end.index()).copied());
        // A plain scalar that serde_yaml writes stands on one line, as it is.
        let Some((start, end)) = place.filter(|(start, end)| text.get(*start..*end) == Some(&*scalar)) else {
            return Err(Error::failed(format!("can not quote '{}' in the document", scalar.escape_debug())));
        };
        quoted.push_str(&text[copied..start]);
        quoted.push('\'');
        quoted.push_str(&scalar.replace('\'', "''"));
        quoted.push('\'');
        copied = end;
    }
    quoted.push_str(&text[copied..]);
    Ok(quoted)
}

/// Whether YAML 1.1 could take the plain scalar for a boolean, a number, a date, a merge or a default value.
/// Whatever begins like a number counts: a quote too many harms nobody.
fn is_other_in_yaml_1_1(scalar: &str) -> bool {
    const WORDS: [&str; 8] = ["y", "n", "yes", "no", "on", "off", "=", "<<"];
    WORDS.contains(&scalar.to_ascii_lowercase().as_str())
        || scalar.trim_start_matches(['+', '-', '.']).starts_with(|c: char| c.is_ascii_digit())
}

/// Whether YAML 1.2 takes the plain scalar for a string: then serde_yaml wrote it for one.
fn is_string(scalar: &str) -> bool {
    serde_yaml::from_str::<serde_yaml::Value>(scalar).is_ok_and(|value| value.is_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_what_yaml_1_1_takes_for_something_else() {
        let odd = [
            "52:54:00:12:34:56",
            "bc:24:11:00:00:01",
            "2024-01-01",
            "on",
            "No",
            "1_000",
            "=",
            "plain",
            "é: 1 on",
        ];
        insta::assert_snapshot!(write(Some("#cloud-config"), &odd).unwrap(), @r"
        #cloud-config
        - '52:54:00:12:34:56'
        - bc:24:11:00:00:01
        - '2024-01-01'
        - 'on'
        - 'No'
        - '1_000'
        - '='
        - plain
        - 'é: 1 on'
        ");
    }

    #[test]
    fn numbers_and_booleans_stay_what_they_are() {
        let value = serde_json::json!({ "é": "on", "mtu": 1400, "no": false, "text": "1400" });
        insta::assert_snapshot!(write(None, &value).unwrap(), @r"
        é: 'on'
        mtu: 1400
        'no': false
        text: '1400'
        ");
    }
}
