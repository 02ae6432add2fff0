//! Formats of single values, each with the text that the genuine API refuses a wrong one with.

/// `dns-name`.
pub(super) fn dns_name(text: &str) -> Result<(), String> {
    let label = |l: &str| {
        !l.is_empty()
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    if text.split('.').all(label) {
        Ok(())
    } else {
        Err("value does not look like a valid DNS name".to_owned())
    }
}

pub(super) fn urlencoded(text: &str) -> Result<(), String> {
    let mut bytes = text.bytes();
    let mut ok = true;
    while let Some(byte) = bytes.next() {
        ok &= match byte {
            b'%' => [bytes.next(), bytes.next()].iter().all(|b| b.is_some_and(|b| b.is_ascii_hexdigit())),
            b'-' | b'_' | b'.' | b'!' | b'~' | b'*' | b'\'' | b'(' | b')' | b'/' => true,
            other => other.is_ascii_alphanumeric(),
        };
    }
    if ok { Ok(()) } else { Err(format!("invalid urlencoded string: {text}")) }
}

pub(super) fn tags(text: &str) -> Result<(), String> {
    let tag = |t: &str| {
        t.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
            && t.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'+' | b'.'))
    };
    let all = text.split([',', ';', ' ']).filter(|t| !t.is_empty()).all(tag);
    if all { Ok(()) } else { Err("invalid characters in tag".to_owned()) }
}

pub(super) fn cpu(text: &str) -> Result<(), String> {
    const TYPES: &[&str] = &[
        "host",
        "max",
        "kvm64",
        "kvm32",
        "qemu64",
        "qemu32",
        "x86-64-v2",
        "x86-64-v2-AES",
        "x86-64-v3",
        "x86-64-v4",
        "Nehalem",
        "Westmere",
        "SandyBridge",
        "IvyBridge",
        "Haswell",
        "Broadwell",
        "EPYC",
        "Skylake-Client",
        "Skylake-Server",
        "Icelake-Server",
    ];
    let name = crate::conf::property(text, "cputype", "cputype").unwrap_or_default();
    if name.starts_with("custom-") || TYPES.contains(&name) {
        Ok(())
    } else {
        Err(format!("Built-in cputype '{name}' is not defined (missing 'custom-' prefix?)"))
    }
}

pub(super) fn ipv4_config(text: &str) -> Result<(), String> {
    let cidr = |t: &str| {
        t.split_once('/').is_some_and(|(a, p)| {
            a.parse::<std::net::Ipv4Addr>().is_ok() && p.parse::<u8>().is_ok_and(|p| (8..=32).contains(&p))
        })
    };
    if text == "dhcp" || text == "manual" || cidr(text) {
        Ok(())
    } else {
        Err("value does not look like a valid ipv4 network configuration".to_owned())
    }
}

pub(super) fn ipv6_config(text: &str) -> Result<(), String> {
    let cidr = |t: &str| {
        t.split_once('/').is_some_and(|(a, p)| {
            a.parse::<std::net::Ipv6Addr>().is_ok() && p.parse::<u8>().is_ok_and(|p| p <= 128)
        })
    };
    if matches!(text, "auto" | "dhcp" | "manual") || cidr(text) {
        Ok(())
    } else {
        Err("value does not look like a valid ipv6 network configuration".to_owned())
    }
}

pub(super) fn ipv4(text: &str) -> Result<(), String> {
    text.parse::<std::net::Ipv4Addr>()
        .map(drop)
        .map_err(|_| "value does not look like a valid IPv4 address".to_owned())
}

pub(super) fn ipv6(text: &str) -> Result<(), String> {
    text.parse::<std::net::Ipv6Addr>()
        .map(drop)
        .map_err(|_| "value does not look like a valid IPv6 address".to_owned())
}

pub(super) fn mac(text: &str) -> Result<(), String> {
    text.parse::<fleet_core::types::MacAddr>()
        .map(drop)
        .map_err(|_| "value does not look like a valid unicast MAC address".to_owned())
}

pub(super) fn volume_id(text: &str) -> Result<(), String> {
    let ok = text.split_once(':').is_some_and(|(s, v)| storage_id(s) && !v.is_empty());
    if ok { Ok(()) } else { Err(format!("unable to parse volume ID '{text}'")) }
}

pub(super) fn storage_id(text: &str) -> bool {
    text.len() >= 2
        && text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

pub(super) fn storage(text: &str) -> Result<(), String> {
    if storage_id(text) { Ok(()) } else { Err(format!("storage ID '{text}' contains illegal characters")) }
}

pub(super) fn content(text: &str) -> Result<(), String> {
    const TYPES: &[&str] = &["images", "rootdir", "vztmpl", "iso", "backup", "snippets", "import", "none"];
    match text.split(',').find(|t| !TYPES.contains(t)) {
        None => Ok(()),
        Some(bad) => Err(format!("invalid content type '{bad}'")),
    }
}

pub(super) fn boot_order(text: &str) -> Result<(), String> {
    let ok = |d: &str| {
        crate::conf::is_drive(d) || numbered(d, "net") || numbered(d, "usb") || numbered(d, "hostpci")
    };
    match text.split(';').find(|d| !d.is_empty() && !ok(d)) {
        None => Ok(()),
        Some(bad) => Err(format!("invalid boot device '{bad}'")),
    }
}

pub(super) fn numbered(text: &str, stem: &str) -> bool {
    text.strip_prefix(stem).is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
}

pub(super) fn legacy_boot(text: &str) -> bool {
    text.len() <= 4 && text.bytes().all(|b| matches!(b, b'a' | b'c' | b'd' | b'n'))
}

pub(super) fn size(text: &str) -> bool {
    let text = text.strip_prefix('+').unwrap_or(text);
    let number = text.strip_suffix(['K', 'M', 'G', 'T']).unwrap_or(text);
    let digits = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit());
    match number.split_once('.') {
        Some((whole, fraction)) => digits(whole) && digits(fraction),
        None => digits(number),
    }
}

pub(super) fn serial(text: &str) -> bool {
    text == "socket" || text.strip_prefix("/dev/").is_some_and(|d| !d.is_empty() && !d.contains(','))
}

pub(super) fn uuid(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    parts.iter().map(|p| p.len()).eq([8, 4, 4, 4, 12])
        && parts.iter().all(|p| p.bytes().all(|b| b.is_ascii_hexdigit()))
}
