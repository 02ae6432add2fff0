//! The data key of a file: unwrapped with an operator's identity, wrapped for each recipient.

use fleet_core::{Error, Result};
use zeroize::Zeroizing;

use super::{AgeEntry, SecretFile, cipher};
use crate::{identity::Identity, recipient::Recipient};

/// The 32 bytes that a file's values are encrypted with. Wiped from memory when dropped.
pub struct DataKey(Zeroizing<Vec<u8>>);

impl PartialEq for DataKey {
    fn eq(&self, other: &DataKey) -> bool {
        // Not on any path where the time it takes could tell somebody something; constant all the same.
        self.0.len() == other.0.len()
            && self.0.iter().zip(other.0.iter()).fold(0, |sum, (a, b)| sum | (a ^ b)) == 0
    }
}

impl std::fmt::Debug for DataKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DataKey(…)")
    }
}

impl DataKey {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// A data key for tests and fixtures.
    pub fn from_bytes(bytes: [u8; 32]) -> DataKey {
        DataKey(Zeroizing::new(bytes.to_vec()))
    }

    /// One entry for `recipient`.
    pub fn wrap(&self, recipient: &Recipient) -> Result<AgeEntry> {
        let enc = age::encrypt_and_armor(&recipient.to_age()?, &self.0).map_err(|e| {
            Error::failed(format!("can not encrypt the data key to {recipient}")).caused_by(e)
        })?;
        Ok(AgeEntry { recipient: recipient.to_string(), enc })
    }
}

impl SecretFile {
    /// Proves that `key` is this file's data key: it opens the file's encrypted checksum.
    pub fn prove(&self, key: &DataKey) -> Result<()> {
        cipher::open(&self.metadata.mac, key, &self.metadata.lastmodified).map(drop).map_err(|_| {
            Error::failed("its data key does not open its checksum: it was tampered with or damaged")
        })
    }

    /// The data key, with the first of `identities` that is one of the file's recipients.
    pub fn data_key<'i>(&self, identities: &'i [Identity]) -> Result<(DataKey, &'i Identity)> {
        let mut tried = None;
        for identity in identities {
            for entry in
                self.metadata.age.iter().filter(|entry| entry.recipient == identity.recipient().as_str())
            {
                match age::decrypt(identity.age(), entry.enc.as_bytes()) {
                    Ok(key) if key.len() == 32 => return Ok((DataKey(Zeroizing::new(key)), identity)),
                    Ok(key) => {
                        drop(Zeroizing::new(key));
                        tried = Some(format!("the data key for {} does not have 32 bytes", entry.recipient));
                    }
                    Err(e) => tried = Some(format!("{} does not open its own entry: {e}", identity.source())),
                }
            }
        }
        let recipients = self.recipients().collect::<Vec<_>>().join(", ");
        let error = Error::failed(match tried {
            Some(why) => format!("can not open it: {why}"),
            None => "can not open it: none of your identities is one of its recipients".to_owned(),
        });
        let error = error.now(format!(
            "it opens for: {}",
            if recipients.is_empty() { "no age recipient" } else { &recipients }
        ));
        Err(if identities.is_empty() {
            error.now("no age identity was found")
        } else {
            let own: Vec<String> =
                identities.iter().map(|i| format!("{} ({})", i.recipient(), i.source())).collect();
            error.now(format!("your identities: {}", own.join(", ")))
        }
        .hint("name a key that fits with SOPS_AGE_KEY_FILE or SOPS_AGE_SSH_PRIVATE_KEY_FILE"))
    }
}
