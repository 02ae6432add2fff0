//! How to reach the node: options over the environment over the definitions, and the ssh_config for what none of them
//! says.

use std::time::Duration;

use fleet_core::{
    Error, Result,
    cli::ConnectionArgs,
    deadline::Deadline,
    definitions::Definitions,
    ssh::{Environment, HostPort, configured_user},
    types::NodeName,
};

/// How long reading the ssh_config may take: a `Match exec` in it may run anything.
const CONFIG: Duration = Duration::from_secs(15);

/// How to reach the node, decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// An ssh_config alias, a name or an address, perhaps with a port.
    pub host: String,
    /// Login on the host; where nobody said it, see [`Settings::decided`].
    pub user: Option<String>,
    /// The node's name in the cluster, when somebody said it.
    pub node: Option<NodeName>,
    /// Where the API daemon listens on the node's loopback address.
    pub port: u16,
    /// How to reach a VM's address.
    pub route: Route,
}

/// How to reach a VM's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// Straight first, through the node when that does not come about quickly.
    Auto,
    /// Straight only.
    Direct,
    /// Through the node only.
    Node,
}

impl Settings {
    /// An error of something that was done on the node that these lead to: its hints say which that is, by its name or by
    /// what it is reached by.
    pub(crate) fn named(&self, error: Error) -> Error {
        crate::node::say_which(error, self.node.as_ref().map_or(&self.host, |node| node.as_str()))
    }

    /// Decides from the options, the environment (`env` looks a variable up) and the definitions.
    pub fn resolve(
        args: &ConnectionArgs,
        env: impl Fn(&str) -> Option<String>,
        definitions: &Definitions,
    ) -> Result<Settings> {
        let proxmox = &definitions.proxmox;
        let path = definitions.path.display();
        let pick = |option: &Option<String>, flag: &str, variable: &str| -> Result<Option<String>> {
            let (value, from) = match (option, env(variable)) {
                (Some(value), _) => (value.clone(), flag.to_owned()),
                (None, Some(value)) => (value, variable.to_owned()),
                (None, None) => return Ok(None),
            };
            if value.trim().is_empty() {
                return Err(Error::usage(format!("{from} is empty"))
                    .now("nothing was sent to the node")
                    .hint(format!("give it a value, or leave it out to use `proxmox` in {path}")));
            }
            Ok(Some(value))
        };
        let given = pick(&args.host, "--host", "PROXMOX_HOST")?;
        let elsewhere = given.as_ref().is_some_and(|host| *host != proxmox.host);
        let host = given.unwrap_or_else(|| proxmox.host.clone());
        check_host(&host)?;
        let user = pick(&args.user, "--user", "PROXMOX_USER")?.or_else(|| proxmox.user.clone());
        user.as_deref().map_or(Ok(()), check_user)?;
        let node = match pick(&args.node, "--node", "PROXMOX_NODE")? {
            Some(node) => Some(node.parse()?),
            // The definitions name the node of their own host; another host says itself what it is.
            None if elsewhere => None,
            None => proxmox.node.clone(),
        };
        let port = match env("PROXMOX_API_PORT") {
            Some(text) => text.trim().parse().ok().filter(|p| *p != 0).ok_or_else(|| {
                Error::usage(format!("PROXMOX_API_PORT is no port: '{}'", text.escape_debug()))
            })?,
            None => crate::api::PORT,
        };
        let route = match env("FLEET_ROUTE").as_deref() {
            None | Some("" | "auto") => Route::Auto,
            Some("direct") => Route::Direct,
            Some("node") => Route::Node,
            Some(other) => {
                return Err(Error::usage(format!("FLEET_ROUTE is '{}'", other.escape_debug()))
                    .hint("it may be auto, direct or node"));
            }
        };
        Ok(Settings { host, user, node, port, route })
    }

    /// The same with the login decided: where neither option nor environment nor definitions say it, it is the `User`
    /// that the ssh_config has for the host, or else root.
    pub fn decided(&self) -> Result<Settings> {
        let user = match &self.user {
            Some(user) => user.clone(),
            None => {
                let limit = Deadline::after(CONFIG);
                let user = configured_user(&self.host, &Environment::from_process(), limit)?;
                let user = user.unwrap_or_else(|| "root".to_owned());
                check_user(&user)?;
                user
            }
        };
        Ok(Settings { user: Some(user), ..self.clone() })
    }

    /// The login, once it is decided.
    pub fn login(&self) -> &str {
        self.user.as_deref().unwrap_or("root")
    }
}

/// A host may be an alias, a name or an address with a port.
fn check_host(host: &str) -> Result<()> {
    HostPort::parse(host).map_err(|e| e.now("nothing was sent to the node"))?;
    let fits = host
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':' | b'[' | b']' | b'%'));
    if fits {
        return Ok(());
    }
    Err(Error::usage(format!("'{}' is not a valid host", host.escape_debug()))
        .now("nothing was sent to the node")
        .hint("an ssh_config alias, a DNS name, an address, HOST:PORT or [ADDRESS]:PORT"))
}

fn check_user(user: &str) -> Result<()> {
    let fits = !user.starts_with('-')
        && user.len() <= 64
        && user.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
    if fits {
        return Ok(());
    }
    Err(Error::usage(format!("'{}' is not a valid login", user.escape_debug()))
        .now("nothing was sent to the node"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::definitions;

    fn resolve(host: Option<&str>, env: &[(&str, &str)]) -> Result<Settings> {
        let args = ConnectionArgs { host: host.map(str::to_owned), ..ConnectionArgs::default() };
        let look = |name: &str| env.iter().find(|(k, _)| *k == name).map(|(_, v)| (*v).to_owned());
        Settings::resolve(&args, look, &definitions())
    }

    #[test]
    fn options_win_over_the_environment_over_the_definitions() {
        assert_eq!(resolve(None, &[]).unwrap().host, "prom");
        assert_eq!(resolve(None, &[("PROXMOX_HOST", "other")]).unwrap().host, "other");
        assert_eq!(resolve(Some("flag"), &[("PROXMOX_HOST", "other")]).unwrap().host, "flag");
        assert_eq!(
            resolve(None, &[("PROXMOX_HOST", "[2001:db8::1]:2222")]).unwrap().host,
            "[2001:db8::1]:2222"
        );
        let all =
            resolve(None, &[("PROXMOX_USER", "ops"), ("PROXMOX_NODE", "n2"), ("PROXMOX_API_PORT", "8085")])
                .unwrap();
        assert_eq!((all.login(), all.node.as_ref().unwrap().as_str(), all.port), ("ops", "n2", 8085));
        assert_eq!(resolve(None, &[]).unwrap().port, 85);
    }

    #[test]
    fn empty_and_odd_values_are_refused_before_anything_is_sent() {
        let error = resolve(None, &[("PROXMOX_HOST", "")]).unwrap_err();
        assert_eq!((error.kind(), error.message()), (fleet_core::Kind::Usage, "PROXMOX_HOST is empty"));
        assert_eq!(resolve(Some(" "), &[]).unwrap_err().message(), "--host is empty");
        for host in ["-oProxyCommand=x", "a b", "a;reboot", "$(id)", "a\nb", "`id`"] {
            assert_eq!(resolve(Some(host), &[]).unwrap_err().kind(), fleet_core::Kind::Usage, "{host}");
        }
        for (name, value) in [
            ("PROXMOX_USER", "root;id"),
            ("PROXMOX_NODE", "a/b"),
            ("PROXMOX_API_PORT", "0"),
            ("PROXMOX_API_PORT", "x"),
            ("FLEET_ROUTE", "sideways"),
        ] {
            assert_eq!(
                resolve(None, &[(name, value)]).unwrap_err().kind(),
                fleet_core::Kind::Usage,
                "{name}={value}"
            );
        }
    }
}
