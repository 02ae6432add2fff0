//! One encrypted value: `ENC[AES256_GCM,data:…,iv:…,tag:…,type:…]`, AES-256 in GCM with a 32-byte nonce. What
//! the value belongs to (its path, or the time for the checksum) is authenticated with it.

use aes_gcm::{
    AesGcm, KeyInit,
    aead::{Aead, Payload, array::Array, consts::U32},
    aes::Aes256,
};
use base64ct::{Base64, Encoding};
use fleet_core::{Error, Result};
use zeroize::Zeroizing;

use super::DataKey;

type Cipher = AesGcm<Aes256, U32>;

const START: &str = "ENC[AES256_GCM,";

/// Whether a text is an encrypted value.
pub(super) fn is_encrypted(text: &str) -> bool {
    text.starts_with(START) && text.ends_with(']')
}

/// A decrypted value and the type that sops gave it (`str`, `int`, `float`, `bool`, `bytes`, `comment`, `time`).
pub(super) struct Plain {
    pub(super) bytes: Zeroizing<Vec<u8>>,
    pub(super) kind: String,
}

/// Decrypts one value. The error says nothing about it.
pub(super) fn open(text: &str, key: &DataKey, belongs_to: &str) -> Result<Plain> {
    let bad = || Error::failed("an encrypted value is not as sops writes it");
    let inner = text.strip_prefix(START).and_then(|t| t.strip_suffix(']')).ok_or_else(bad)?;
    let (mut data, mut iv, mut tag, mut kind) = (None, None, None, None);
    for part in inner.split(',') {
        let (name, value) = part.split_once(':').ok_or_else(bad)?;
        match name {
            "data" => data = Some(Base64::decode_vec(value).map_err(|_| bad())?),
            "iv" => iv = Some(Base64::decode_vec(value).map_err(|_| bad())?),
            "tag" => tag = Some(Base64::decode_vec(value).map_err(|_| bad())?),
            "type" => kind = Some(value.to_owned()),
            _ => return Err(bad()),
        }
    }
    let (Some(mut message), Some(iv), Some(tag), Some(kind)) = (data, iv, tag, kind) else {
        return Err(bad());
    };
    if tag.len() != 16 {
        return Err(bad());
    }
    message.extend_from_slice(&tag);
    let cipher = Cipher::new_from_slice(key.bytes()).map_err(|_| bad())?;
    let nonce = Array::<u8, U32>::try_from(iv.as_slice()).map_err(|_| bad())?;
    let bytes =
        cipher.decrypt(&nonce, Payload { msg: &message, aad: belongs_to.as_bytes() }).map_err(|_| {
            Error::failed("an encrypted value does not open with the file's data key: it was tampered with")
        })?;
    Ok(Plain { bytes: Zeroizing::new(bytes), kind })
}
