//! Keys that are not age keys, by the names that sops compares them by, so that a file and its rule can be held
//! against each other: `pgp FINGERPRINT`, `kms ARN`.
//!
//! Their fields are named differently in files (`stores/stores.go` in the sources of sops) and in rules
//! (`config/config.go`); both spellings are known here.

/// The kind of a key as files call it, from either spelling.
fn kind_of(word: &str) -> &str {
    match word {
        "azure_keyvault" => "azure_kv",
        "hc_vault_transit_uri" | "hc_vault_uris" => "hc_vault",
        "aws_kms" => "kms",
        other => other,
    }
}

/// The name of a key from its fields; `None` for a kind whose keys are not told apart here.
pub(crate) fn of_fields(kind: &str, field: impl Fn(&str) -> Option<String>) -> Option<String> {
    let kind = kind_of(kind);
    let text = match kind {
        "pgp" => field("fp")?,
        "kms" => field("arn")?,
        "gcp_kms" => field("resource_id")?,
        "hckms" => field("key_id")?,
        "azure_kv" => {
            let vault = field("vault_url").or_else(|| field("vaultUrl"))?;
            format!("{vault}/keys/{}", field("name").or_else(|| field("key"))?)
        }
        "hc_vault" => {
            let (address, engine) = (field("vault_address")?, field("engine_path")?);
            format!("{}/v1/{engine}/keys/{}", address.trim_end_matches('/'), field("key_name")?)
        }
        _ => return None,
    };
    of_text(kind, &text)
}

/// The name of a key that is written as one text.
pub(crate) fn of_text(kind: &str, text: &str) -> Option<String> {
    let kind = kind_of(kind);
    let text = text.trim();
    let name = match kind {
        "pgp" => text.split_whitespace().collect::<String>().to_ascii_uppercase(),
        // The role behind a plus is how to get at the key, not which key it is.
        "kms" => text.split('+').next().unwrap_or_default().to_owned(),
        "gcp_kms" | "hckms" => text.to_owned(),
        "hc_vault" => text.trim_end_matches('/').to_owned(),
        // Without its version, which a rule may leave out and a file never does.
        "azure_kv" => {
            let (vault, key) = text.split_once("/keys/")?;
            format!("{}/keys/{}", vault.trim_end_matches('/'), key.split('/').next().unwrap_or_default())
        }
        _ => return None,
    };
    (!name.is_empty()).then(|| format!("{kind} {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_of_a_key_have_one_name() {
        let fields = |pairs: &'static [(&str, &str)]| {
            move |name: &str| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        };
        for (kind, file, rule, text) in [
            ("pgp", fields(&[("fp", "AB12")]), "pgp", "ab 12"),
            ("kms", fields(&[("arn", "arn:x")]), "kms", "arn:x+arn:role"),
            ("gcp_kms", fields(&[("resource_id", "p/k")]), "gcp_kms", " p/k "),
            (
                "azure_kv",
                fields(&[("vault_url", "https://v"), ("name", "k"), ("version", "1")]),
                "azure_keyvault",
                "https://v/keys/k/2",
            ),
            (
                "hc_vault",
                fields(&[("vault_address", "https://h:1"), ("engine_path", "e"), ("key_name", "k")]),
                "hc_vault_transit_uri",
                "https://h:1/v1/e/keys/k",
            ),
        ] {
            let name = of_fields(kind, file);
            assert!(name.is_some() && name == of_text(rule, text), "{kind}: {name:?}");
        }
        assert_eq!(of_text("plugins", "x"), None);
    }
}
