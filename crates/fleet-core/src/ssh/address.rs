//! How a host may be written: `prom`, `10.0.0.5`, `prom:2222`, `[fd00::5]:2222`, `fd00::5`.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::{Error, Result};

/// A host and, where it was written, a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    /// An alias, a name, or an address without brackets.
    pub host: String,
    /// The port if one was written.
    pub port: Option<u16>,
}

impl HostPort {
    /// Parses `HOST`, `HOST:PORT`, `[ADDRESS]`, `[ADDRESS]:PORT` or a bare IPv6 address. `ssh -G` puts brackets around
    /// an IPv4 address, too.
    pub fn parse(text: &str) -> Result<HostPort> {
        let bad = |why: &str| {
            Error::usage(format!("'{}' is not a host: {why}", text.escape_debug()))
                .hint("write an ssh_config alias, a name, an address, HOST:PORT or [IPV6]:PORT")
        };
        if text.is_empty() {
            return Err(bad("it is empty").hint("leave PROXMOX_HOST out rather than empty"));
        }
        if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(bad("it has a space or a control character in it"));
        }
        if text.starts_with('-') {
            return Err(bad("it begins with '-' and would be read as an option"));
        }
        if text.contains("://") {
            return Err(bad("it is a URL"));
        }
        if text.contains('@') {
            return Err(
                bad("the user is given apart from it").hint("give the user with --user or PROXMOX_USER")
            );
        }
        let (host, port) = if let Some(rest) = text.strip_prefix('[') {
            let (inner, after) = rest.split_once(']').ok_or_else(|| bad("its ']' is missing"))?;
            if address_of(inner).is_none() && inner.parse::<Ipv4Addr>().is_err() {
                return Err(bad("between [ and ] there must be an address"));
            }
            match after.strip_prefix(':') {
                Some(port) => (inner, Some(port)),
                None if after.is_empty() => (inner, None),
                None => return Err(bad("after ']' there may only be :PORT")),
            }
        } else if address_of(text).is_some() {
            (text, None)
        } else {
            match text.split_once(':') {
                Some((_, rest)) if rest.contains(':') => {
                    return Err(bad("it has several ':' and is no IPv6 address"));
                }
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            }
        };
        if host.is_empty() {
            return Err(bad("there is no host before ':'"));
        }
        if let Some(odd) = host.chars().find(|c| !(c.is_alphanumeric() || "._-:%~+".contains(*c))) {
            return Err(bad(&format!("'{odd}' can not be in a host's name")));
        }
        let port = match port {
            None => None,
            Some("") => return Err(bad("there is no port after ':'")),
            Some(port) => match port.parse::<u16>() {
                Ok(number) if number > 0 && port.bytes().all(|b| b.is_ascii_digit()) => Some(number),
                _ => return Err(bad(&format!("'{port}' is not a port (1 to 65535)"))),
            },
        };
        Ok(HostPort { host: host.to_owned(), port })
    }
}

/// The IPv6 address in `text`, which may have a zone (`fe80::1%eth0`).
fn address_of(text: &str) -> Option<Ipv6Addr> {
    text.split('%').next().unwrap_or(text).parse().ok()
}

/// `host:port` as people write it, an IPv6 address in brackets.
pub(super) fn show(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ok(text: &str) -> (String, Option<u16>) {
        let parsed = HostPort::parse(text).unwrap();
        (parsed.host, parsed.port)
    }

    fn err(text: &str) -> String {
        HostPort::parse(text).unwrap_err().message().to_owned()
    }

    #[test]
    fn all_the_ways_to_write_a_host() {
        assert_eq!(ok("prom"), ("prom".into(), None));
        assert_eq!(ok("prom.example.org:2222"), ("prom.example.org".into(), Some(2222)));
        assert_eq!(ok("192.0.2.7:22"), ("192.0.2.7".into(), Some(22)));
        assert_eq!(ok("[fd00::5]:2222"), ("fd00::5".into(), Some(2222)));
        assert_eq!(ok("[fd00::5]"), ("fd00::5".into(), None));
        assert_eq!(ok("fd00::5"), ("fd00::5".into(), None));
        assert_eq!(ok("[192.0.2.7]:2222"), ("192.0.2.7".into(), Some(2222)));
        assert_eq!(ok("[192.0.2.7]"), ("192.0.2.7".into(), None));
        assert_eq!(ok("fe80::1%eth0"), ("fe80::1%eth0".into(), None));
        assert_eq!(ok("my_host-1"), ("my_host-1".into(), None));
    }

    #[test]
    fn what_can_not_be_a_host_is_said_to_be_none() {
        assert_eq!(err(""), "'' is not a host: it is empty");
        assert_eq!(
            err("-oProxyCommand=x"),
            "'-oProxyCommand=x' is not a host: it begins with '-' and would be read as an option"
        );
        assert_eq!(err("a b"), "'a b' is not a host: it has a space or a control character in it");
        assert_eq!(err("ssh://root@prom"), "'ssh://root@prom' is not a host: it is a URL");
        assert_eq!(err("root@prom"), "'root@prom' is not a host: the user is given apart from it");
        assert_eq!(err("prom:"), "'prom:' is not a host: there is no port after ':'");
        assert_eq!(err(":22"), "':22' is not a host: there is no host before ':'");
        assert_eq!(err("prom:0"), "'prom:0' is not a host: '0' is not a port (1 to 65535)");
        assert_eq!(err("prom:+22"), "'prom:+22' is not a host: '+22' is not a port (1 to 65535)");
        assert_eq!(err("prom:70000"), "'prom:70000' is not a host: '70000' is not a port (1 to 65535)");
        assert_eq!(err("[fd00::5"), "'[fd00::5' is not a host: its ']' is missing");
        assert_eq!(err("[prom]:22"), "'[prom]:22' is not a host: between [ and ] there must be an address");
        assert_eq!(err("a:b:c"), "'a:b:c' is not a host: it has several ':' and is no IPv6 address");
        assert_eq!(err("$(x)"), "'$(x)' is not a host: '$' can not be in a host's name");
    }
}
