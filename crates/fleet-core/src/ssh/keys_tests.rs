use super::*;

const ED: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEB";

#[test]
fn a_key_line_is_parsed_and_its_fingerprint_is_openssh_s() {
    let key = PublicKey::parse(&format!("{ED} someone@somewhere with words")).unwrap();
    assert_eq!(key.line(), ED);
    assert_eq!((key.key_type(), key.short_type()), ("ssh-ed25519", "ED25519"));
    let other = ssh_key::PublicKey::from_openssh(ED).unwrap();
    assert_eq!(key.fingerprint(), other.fingerprint(ssh_key::HashAlg::Sha256).to_string());
    assert_eq!(format!("{key:?}"), format!("PublicKey(ssh-ed25519 {})", key.fingerprint()));
}

#[test]
fn what_is_no_key_line_is_said_to_be_none() {
    let err = |line: &str| PublicKey::parse(line).unwrap_err().message().to_owned();
    assert_eq!(err(""), "'' is not an OpenSSH public key line");
    assert_eq!(err("ssh-ed25519"), "'ssh-ed25519' is not an OpenSSH public key line");
    assert!(err(&ED[..52]).ends_with("is not whole"), "{}", err(&ED[..52]));
    assert!(
        err(&ED.replace("ssh-ed25519", "ssh-rsa"))
            .contains("says ssh-rsa but contains a key of type ssh-ed25519")
    );
    assert!(err("ssh-ed25519 ***").contains("base64"));
}

#[test]
fn private_keys_are_told_apart() {
    // Only the frames of keys: there is no secret in any of them.
    let pem = |kind: &str, head: &str| format!("-----BEGIN {kind}-----\n{head}AAAA\n-----END {kind}-----\n");
    let facts = |text: &str| inspect_private(text).map(|f| f.encrypted);
    assert_eq!(facts(&pem("RSA PRIVATE KEY", "")), Some(false));
    assert_eq!(facts(&pem("RSA PRIVATE KEY", "Proc-Type: 4,ENCRYPTED\n\n")), Some(true));
    assert_eq!(facts(&pem("ENCRYPTED PRIVATE KEY", "")), Some(true));
    assert_eq!(facts(&pem("PUBLIC KEY", "")), None);
    assert_eq!(facts(&pem("OPENSSH PRIVATE KEY", "")), None);
    assert_eq!(facts(ED), None);
    assert_eq!(facts(""), None);
}
