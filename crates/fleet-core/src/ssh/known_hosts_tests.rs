use proptest::prelude::*;

use super::*;

// Public halves of throw-away keys: nobody has the private ones.
const ED: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEB";
const ED2: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgIC";
const RSA: &str = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAAQE=";

fn key(line: &str) -> PublicKey {
    PublicKey::parse(line).unwrap()
}

fn known(text: &str) -> KnownHosts {
    let mut known = KnownHosts::default();
    known.parse(Path::new("kh"), text);
    known
}

fn at(line: usize) -> At {
    At { file: "kh".into(), line }
}

#[test]
fn a_recorded_key_is_known_under_its_name_and_port() {
    let file = known(&format!("# a comment\n\nprom,10.0.0.1 {ED} root@prom\n[prom]:2222 {ED2}\n"));
    assert_eq!(file.check(&name("prom", 22), &key(ED)), Verdict::Known);
    assert_eq!(file.check(&name("PROM", 22), &key(ED)), Verdict::Known);
    assert_eq!(file.check(&name("10.0.0.1", 22), &key(ED)), Verdict::Known);
    assert_eq!(file.check(&name("prom", 2222), &key(ED2)), Verdict::Known);
    assert_eq!(file.check(&name("prom", 2222), &key(ED)), Verdict::Changed(vec![(at(4), key(ED2))]));
    assert_eq!(
        file.check(&name("prom", 2223), &key(ED)),
        Verdict::Unknown { others: vec![], authorities: vec![] }
    );
}

#[test]
fn another_type_on_record_is_not_a_changed_key() {
    let file = known(&format!("prom {RSA}\n"));
    let others = vec![(at(1), key(RSA))];
    assert_eq!(file.check("prom", &key(ED)), Verdict::Unknown { others, authorities: vec![] });
    assert_eq!(file.types("prom"), ["ssh-rsa"]);
}

#[test]
fn any_of_several_keys_of_one_type_will_do() {
    let file = known(&format!("prom {ED2}\nprom {ED}\n"));
    assert_eq!(file.check("prom", &key(ED)), Verdict::Known);
}

#[test]
fn a_revoked_key_is_refused_even_where_it_is_also_recorded() {
    let file = known(&format!("prom {ED}\n@revoked * {ED}\n"));
    assert_eq!(file.check("prom", &key(ED)), Verdict::Revoked(at(2)));
    let elsewhere = known(&format!("prom {ED}\n@revoked other {ED}\n"));
    assert_eq!(elsewhere.check("prom", &key(ED)), Verdict::Known);
}

#[test]
fn a_certificate_authority_is_no_host_key() {
    let file = known(&format!("@cert-authority *.example.org {ED}\n"));
    let verdict = file.check("a.example.org", &key(ED));
    assert_eq!(verdict, Verdict::Unknown { others: vec![], authorities: vec![at(1)] });
}

#[test]
fn wildcards_and_negation() {
    let file = known(&format!("*.example.org,!bad.example.org {ED}\nh?st {ED2}\n[*]:2222 {RSA}\n"));
    assert_eq!(file.check("a.example.org", &key(ED)), Verdict::Known);
    assert!(matches!(file.check("bad.example.org", &key(ED)), Verdict::Unknown { .. }));
    assert_eq!(file.check("host", &key(ED2)), Verdict::Known);
    assert!(matches!(file.check("hoost", &key(ED2)), Verdict::Unknown { .. }));
    assert_eq!(file.check(&name("any", 2222), &key(RSA)), Verdict::Known);
    // A pattern without a port is not about another port.
    assert!(matches!(file.check(&name("a.example.org", 2222), &key(ED)), Verdict::Unknown { .. }));
}

#[test]
fn a_malformed_line_disables_only_itself() {
    let text = format!(
        "prom\n@odd prom {ED}\nprom ssh-ed25519 !!!\nprom ssh-rsa {}\n|1|x prom\n\u{0}\nprom {ED}\n",
        &ED[12..]
    );
    let file = known(&text);
    assert_eq!(file.check("prom", &key(ED)), Verdict::Known);
    let lines: Vec<usize> = file.odd.iter().map(|(at, _)| at.line).collect();
    assert_eq!(lines, [1, 2, 3, 4, 5, 6]);
}

#[test]
fn names_hashed_by_ssh_keygen_are_found() {
    // Made by `ssh-keygen -H` from `prom` and `[prom]:2222`.
    let file = known(&format!("{HASHED_PROM} {ED}\n{HASHED_PROM_2222} {ED2}\n|1|bad|hash {RSA}\n"));
    assert_eq!(file.check("prom", &key(ED)), Verdict::Known);
    assert_eq!(file.check(&name("prom", 2222), &key(ED2)), Verdict::Known);
    assert!(matches!(file.check("other", &key(ED)), Verdict::Unknown { .. }));
}

#[test]
fn a_line_that_we_write_is_found_again() {
    for hashed in [false, true] {
        let line = line_for("[prom]:2222", &key(ED), hashed).unwrap();
        assert_eq!(line.contains("prom"), !hashed);
        assert_eq!(known(&line).check("[prom]:2222", &key(ED)), Verdict::Known);
    }
}

#[test]
fn appending_makes_the_file_and_mends_a_missing_newline() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("ssh/known_hosts");
    append(&file, "one").unwrap();
    fs::write(&file, "one").unwrap();
    append(&file, "two").unwrap();
    assert_eq!(fs::read_to_string(&file).unwrap(), "one\ntwo\n");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(dir.path().join("ssh")).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn files_that_are_missing_are_empty() {
    let known = KnownHosts::read(&[PathBuf::from("/nonexistent/known_hosts")]).unwrap();
    assert!(matches!(known.check("prom", &key(ED)), Verdict::Unknown { .. }));
}

proptest! {
    #[test]
    fn no_text_makes_it_panic_and_none_hides_a_good_line(text in "(?s).{0,200}", host in "[a-z*?!|\\[\\]:,.0-9]{1,12}") {
        let file = known(&format!("{text}\nprom {ED}\n"));
        let _ = file.check(&host, &key(ED2));
        prop_assert!(matches!(file.check("prom", &key(ED)), Verdict::Known | Verdict::Revoked(_)));
    }

    #[test]
    fn a_pattern_made_from_a_name_matches_it(name in "[a-z.]{1,12}", cut in 0usize..12) {
        let cut = cut.min(name.len());
        let star = format!("{}*", &name[..cut]);
        prop_assert!(glob(&star, &name));
        prop_assert!(glob(&"?".repeat(name.len()), &name));
        prop_assert!(!glob(&"?".repeat(name.len() + 1), &name));
    }
}

const HASHED_PROM: &str = "|1|DuSS7D+3SKZ4r/PXsCIqnQpiC/w=|0lCj3yPOH9nXF5jtx3LB+AAY4/s=";
const HASHED_PROM_2222: &str = "|1|Izt+acsPPnBacu19n5OvwZU3Pas=|IvnZgvZo1FYC+lmgqe5tgVQc590=";
