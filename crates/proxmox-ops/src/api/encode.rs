//! How values travel, both ways, in one place: forms, percent-encoding, the API's booleans and numbers.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use serde::{Deserialize, Deserializer, de::Error as _};
use serde_json::Value;

/// What stays as it is: the unreserved characters of RFC 3986. Everything else is encoded, a space as `%20`.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// Percent-encodes one value or one segment of a path.
pub fn percent(text: &str) -> String {
    percent_encode(text.as_bytes(), RESERVED).to_string()
}

/// A form or a query: `a=b&c=d`, everything encoded. A key may come more than once (a list).
pub fn form<K: AsRef<str>, V: AsRef<str>>(params: &[(K, V)]) -> String {
    let pairs: Vec<String> = params
        .iter()
        .map(|(key, value)| format!("{}={}", percent(key.as_ref()), percent(value.as_ref())))
        .collect();
    pairs.join("&")
}

/// A boolean parameter.
pub fn flag(value: bool) -> &'static str {
    if value { "1" } else { "0" }
}

/// A setting as the API wants it in a parameter: `sshkeys` is percent-encoded once more than everything else.
pub fn setting(key: &str, value: &str) -> String {
    if key == "sshkeys" { percent(value) } else { value.to_owned() }
}

/// A setting as people read it, from the API's JSON: numbers as text, `sshkeys` as plain lines.
pub fn plain_setting(key: &str, value: &Value) -> String {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Bool(flag) => self::flag(*flag).to_owned(),
        Value::Null => String::new(),
        other => other.to_string(),
    };
    if key == "sshkeys" {
        return percent_encoding::percent_decode_str(&text).decode_utf8_lossy().into_owned();
    }
    text
}

/// The list or object that a command printed as JSON: what the start-up files of a login shell print stands before it,
/// with or without a line's end.
pub fn printed<T: serde::de::DeserializeOwned>(output: &[u8]) -> serde_json::Result<T> {
    /// How much that may be.
    const MOST: usize = 64 * 1024;
    let mut begins = (0..output.len().min(MOST)).filter(|at| matches!(output[*at], b'{' | b'['));
    match begins.find_map(|at| serde_json::from_slice(&output[at..]).ok()) {
        Some(read) => Ok(read),
        // Of text that is no JSON at all, its beginning tells more than its end.
        None => serde_json::from_slice(output),
    }
}

/// A boolean of an answer: 1, `"1"` or true; 0, absent or anything else is false.
pub fn truth(value: Option<&Value>) -> bool {
    match value {
        Some(Value::Bool(flag)) => *flag,
        Some(Value::Number(number)) => number.as_f64() != Some(0.0),
        Some(Value::String(text)) => text == "1",
        _ => false,
    }
}

/// A number of an answer, which may be written as a text.
pub fn real(value: Option<&Value>) -> Option<f64> {
    match value? {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.parse().ok(),
        _ => None,
    }
}

/// A whole number of an answer, which is none below 0: as it is, as a text, or with nothing behind the point.
pub fn whole(value: Option<&Value>) -> Option<u64> {
    let value = value?;
    let text = value.as_str().map(str::to_owned).or_else(|| value.is_number().then(|| value.to_string()))?;
    text.strip_suffix(".0").unwrap_or(&text).parse().ok()
}

/// A whole number of a typed answer, read as [`whole`] reads it.
pub fn number<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    some_number(from)?.ok_or_else(|| D::Error::custom("null where a number belongs"))
}

/// The same, where it may be null.
pub fn some_number<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    let value = Value::deserialize(from)?;
    match whole(Some(&value)) {
        None if !value.is_null() => Err(D::Error::custom(format_args!("{value} where a number belongs"))),
        number => Ok(number),
    }
}

/// One property of a property string such as `virtio=BC:24:11:00:00:01,bridge=vmbr0`.
pub fn property<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.split(',').find_map(|part| part.split_once('=').filter(|(k, _)| *k == key).map(|(_, v)| v))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_leaves_nothing_that_ends_a_value() {
        let form = form(&[("description", "a=b&c;d e+f%\n"), ("command", "x"), ("command", "y")]);
        assert_eq!(form, "description=a%3Db%26c%3Bd%20e%2Bf%25%0A&command=x&command=y");
    }

    #[test]
    fn keys_are_encoded_twice() {
        let once = setting("sshkeys", "ssh-ed25519 AA+/= me@x\n");
        assert_eq!(once, "ssh-ed25519%20AA%2B%2F%3D%20me%40x%0A");
        assert_eq!(percent(&once), "ssh-ed25519%2520AA%252B%252F%253D%2520me%2540x%250A");
        assert_eq!(plain_setting("sshkeys", &Value::String(once)), "ssh-ed25519 AA+/= me@x\n");
        assert_eq!(setting("description", "50% \u{fc}"), "50% \u{fc}");
    }

    #[test]
    fn answers_are_read_in_all_their_forms() {
        use serde_json::json;
        assert!(truth(Some(&json!(1))) && truth(Some(&json!("1"))) && truth(Some(&json!(true))));
        assert!(!truth(Some(&json!(0))) && !truth(Some(&json!(""))) && !truth(None));
        assert_eq!(plain_setting("memory", &json!("2048")), "2048");
        assert_eq!(plain_setting("cores", &json!(2)), "2");
        for number in [json!(104), json!("104"), json!(104.0), json!("104.0")] {
            assert_eq!((whole(Some(&number)), real(Some(&number))), (Some(104), Some(104.0)), "{number}");
        }
        assert_eq!(whole(Some(&json!(u64::MAX))), Some(u64::MAX));
        for other in [json!(1.5), json!(-1), json!(null), json!("x"), json!([1])] {
            assert_eq!(whole(Some(&other)), None, "{other}");
        }
        assert_eq!((real(Some(&json!("0.25"))), real(None)), (Some(0.25), None));
    }

    #[test]
    fn typed_answers_take_a_number_in_all_its_forms() {
        #[derive(Debug, Deserialize, PartialEq)]
        struct Row {
            #[serde(deserialize_with = "number")]
            n: u64,
            #[serde(default, deserialize_with = "some_number")]
            m: Option<u64>,
        }
        let read = |value| serde_json::from_value::<Row>(value).ok();
        assert_eq!(read(serde_json::json!({"n": "7", "m": 8})), Some(Row { n: 7, m: Some(8) }));
        assert_eq!(read(serde_json::json!({"n": 7, "m": null})), Some(Row { n: 7, m: None }));
        assert_eq!(read(serde_json::json!({"n": 7.0})), Some(Row { n: 7, m: None }));
        assert_eq!(read(serde_json::json!({"n": null})), None);
        assert_eq!(read(serde_json::json!({"n": 7, "m": "later"})), None);
    }

    #[test]
    fn what_a_login_shell_prints_before_the_json_does_no_harm() {
        let read = |text: &str| printed::<Value>(text.as_bytes()).ok();
        let wanted = Some(serde_json::json!([{"dst": "192.0.2.9"}]));
        assert_eq!(read("[{\"dst\": \"192.0.2.9\"}]\n"), wanted);
        assert_eq!(read("Welcome!\n[info] disk is fine\n[{\"dst\":\n \"192.0.2.9\"}]\n"), wanted);
        assert_eq!(read("\u{1b}]0;prom\u{7}\u{1b}[1m[{\"dst\": \"192.0.2.9\"}]\n"), wanted);
        assert_eq!(read("Welcome!\n"), None);
        assert_eq!(read(""), None);
    }

    #[test]
    fn properties_are_found_by_key() {
        assert_eq!(property("virtio=BC:24:11:00:00:01,bridge=vmbr0", "bridge"), Some("vmbr0"));
        assert_eq!(property("nvmeprom:110/x.qcow2,size=20G", "size"), Some("20G"));
        assert_eq!(property("none,media=cdrom", "size"), None);
    }
}
