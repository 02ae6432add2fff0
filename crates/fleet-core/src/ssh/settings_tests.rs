use proptest::prelude::*;

use super::*;
use crate::ssh::HostKeyPolicy;

fn target(host: &str, user: Option<&str>) -> Target {
    Target {
        host: host.into(),
        user: user.map(str::to_owned),
        host_key: HostKeyPolicy::KnownHosts,
        identities: vec![],
        proxy: None,
    }
}

fn env() -> Environment {
    Environment {
        home: Some("/home/op".into()),
        user: Some("op".into()),
        agent: Some("/run/agent".into()),
        ..Environment::default()
    }
}

fn plain(host: &str) -> Settings {
    Settings::plain(&HostPort::parse(host).unwrap(), &target(host, None), &env())
}

fn applied(printed: &str) -> Settings {
    let mut settings = plain("prom");
    settings.apply(printed, &env());
    settings
}

#[test]
fn without_ssh_the_defaults_are_openssh_s() {
    let settings = plain("prom");
    assert_eq!((settings.hostname.as_str(), settings.port, settings.user.as_str()), ("prom", 22, "op"));
    assert_eq!(settings.identity_files[0], Path::new("/home/op/.ssh/id_ed25519"));
    assert_eq!(settings.user_known_hosts[0], Path::new("/home/op/.ssh/known_hosts"));
    assert_eq!(settings.agent, Agent::At("/run/agent".into()));
    assert_eq!(plain("[fd00::1]:2222").known_as(), "[fd00::1]:2222");
}

#[test]
fn a_jump_host_s_ssh_notices_a_dead_peer() {
    let line = crate::ssh::dial::jump("a,op@b:2222", &plain("prom")).unwrap().to_string();
    assert!(line.contains("-oServerAliveInterval=10") && line.contains("-oServerAliveCountMax=3"), "{line}");
    assert!(line.ends_with("-J a -l op -p 2222 -W '[prom]:22' -- b"), "{line}");
}

#[test]
fn what_ssh_prints_is_taken_over() {
    let settings = applied(
        "host prom\nuser root\nhostname 10.0.0.5\nport 2222\naddressfamily inet\nidentitiesonly yes\n\
         identityfile ~/.ssh/fleet key\nidentityfile /keys/%h_%r\nidentityagent ~/agent.sock\n\
         userknownhostsfile /a/kh ~/kh2\nglobalknownhostsfile none\nhostkeyalias Prom-Alias\n\
         hashknownhosts yes\nproxyjump none\nproxycommand none\nconnecttimeout 7\nunknown thing\n",
    );
    assert_eq!(
        (settings.hostname.as_str(), settings.port, settings.user.as_str()),
        ("10.0.0.5", 2222, "root")
    );
    let files: Vec<_> = settings.identity_files.iter().map(|f| f.to_str().unwrap()).collect();
    assert_eq!(files, ["/home/op/.ssh/fleet key", "/keys/10.0.0.5_root"]);
    assert!(settings.identities_only && settings.hash_known_hosts);
    assert_eq!(settings.agent, Agent::At("/home/op/agent.sock".into()));
    assert_eq!(settings.user_known_hosts, [PathBuf::from("/a/kh"), PathBuf::from("/home/op/kh2")]);
    assert!(settings.global_known_hosts.is_empty());
    assert_eq!(settings.known_as(), "prom-alias");
    assert_eq!((settings.proxy_jump.as_ref(), settings.proxy_command.as_ref()), (None, None));
    assert_eq!(settings.connect_timeout, Some(Duration::from_secs(7)));
    assert_eq!(settings.family, Family::V4);
}

#[test]
fn an_agent_can_be_turned_off_or_be_the_usual_one() {
    assert_eq!(applied("identityagent none\n").agent, Agent::None);
    assert_eq!(applied("identityagent SSH_AUTH_SOCK\n").agent, Agent::At("/run/agent".into()));
    // By a variable, whole or in part.
    let set = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap());
    assert_eq!(applied("identityagent $CARGO_MANIFEST_DIR\n").agent, Agent::At(set.clone()));
    assert_eq!(applied("identityagent ${CARGO_MANIFEST_DIR}/a.sock\n").agent, Agent::At(set.join("a.sock")));
    assert_eq!(applied("identityagent $FLEET_NO_SUCH_VARIABLE\n").agent, Agent::None);
}

#[test]
fn names_of_files_may_have_blanks_and_the_homes_of_others() {
    let settings = applied(
        "userknownhostsfile /a b/known hosts ~/kh2 %d/kh3\nglobalknownhostsfile kh4 kh5\n\
         certificatefile ~/.ssh/my key-cert.pub\nidentityfile ~root/.ssh/id it\nidentityfile ~no-such-user/x\n",
    );
    let known: Vec<_> = settings.user_known_hosts.iter().map(|f| f.to_str().unwrap()).collect();
    assert_eq!(known, ["/a b/known hosts", "/home/op/kh2", "/home/op/kh3"]);
    assert_eq!(settings.global_known_hosts, [PathBuf::from("kh4"), PathBuf::from("kh5")]);
    assert_eq!(settings.certificate_files, [PathBuf::from("/home/op/.ssh/my key-cert.pub")]);
    let root = crate::child::find_program("getent").map_or("~root", |_| "/root");
    assert_eq!(
        settings.identity_files,
        [format!("{root}/.ssh/id it"), "~no-such-user/x".to_owned()].map(PathBuf::from)
    );
}

#[test]
fn files_may_be_named_by_variables() {
    let set = std::env::var("CARGO_MANIFEST_DIR").unwrap();
    let settings =
        applied("identityfile ${CARGO_MANIFEST_DIR}/%r\nidentityfile /k/${FLEET_NO_SUCH_VARIABLE}/${x\n");
    assert_eq!(
        settings.identity_files,
        [PathBuf::from(format!("{set}/op")), "/k/${FLEET_NO_SUCH_VARIABLE}/${x".into()]
    );
}

#[test]
fn a_proxy_command_s_tokens() {
    let settings = applied("hostname 10.0.0.5\nport 2222\nuser root\nproxycommand nc -X 5 %h %p %%\n");
    let safe = |value: &str| Ok(value.to_owned());
    assert_eq!(settings.tokens("nc %h %p %r %n %%", &env(), &safe).unwrap(), "nc 10.0.0.5 2222 root prom %");
    assert!(settings.tokens("x %Z", &env(), &safe).unwrap_err().message().contains("%Z"));
    assert!(settings.tokens("x %", &env(), &safe).is_err());
    let never = |_: &str| Err(Error::usage("no"));
    assert!(settings.tokens("x %r", &env(), &never).is_err());
}

#[test]
fn the_environment_s_known_hosts_stand_for_all_others() {
    let mut env = env();
    env.ssh_config = Some("none".into());
    env.known_hosts = Some("/kh".into());
    env.identity = Some("/id".into());
    let settings = Settings::resolve(&target("prom:23", Some("root")), &env, Deadline::secs(20)).unwrap();
    assert_eq!(settings.user_known_hosts, [PathBuf::from("/kh")]);
    assert!(settings.global_known_hosts.is_empty());
    assert_eq!(settings.chosen_identities, [PathBuf::from("/id")]);
    assert_eq!(
        settings.ssh_command("-v"),
        "ssh -v -F none -p 23 -i /id -o 'IdentitiesOnly=yes' -o 'UserKnownHostsFile=/kh' root@prom"
    );
}

#[test]
fn a_broken_ssh_config_is_an_error_that_shows_what_ssh_said() {
    if crate::child::find_program("ssh").is_none() {
        println!("skipped: no ssh");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("config");
    std::fs::write(&config, "Nonsense yes\n").unwrap();
    let env = Environment { ssh_config: Some(config.into()), ..env() };
    let error = Settings::resolve(&target("prom", None), &env, Deadline::secs(20)).unwrap_err();
    assert!(error.message().contains("Bad configuration option: nonsense"), "{error:?}");
    assert!(error.hints()[0].contains("ssh -G"), "{error:?}");
}

#[test]
fn aliases_of_the_ssh_config_are_followed() {
    if crate::child::find_program("ssh").is_none() {
        println!("skipped: no ssh");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("config");
    std::fs::write(
        &config,
        format!(
            "Include {}/more\nHost prom\n HostName 10.9.8.7\n Port 2200\n User admin\n ProxyJump op@gate:23\n\
             Match originalhost prom user admin\n IdentityFile /keys/matched\n IdentitiesOnly yes\n",
            dir.path().display()
        ),
    )
    .unwrap();
    std::fs::write(
        dir.path().join("more"),
        "Host prom\n IdentityFile ${HOME}/included\n HostKeyAlias of-more\n",
    )
    .unwrap();
    let env = Environment { ssh_config: Some(config.into()), ..env() };
    let settings = Settings::resolve(&target("prom", None), &env, Deadline::secs(20)).unwrap();
    assert_eq!(
        (settings.hostname.as_str(), settings.port, settings.user.as_str()),
        ("10.9.8.7", 2200, "admin")
    );
    assert_eq!(settings.proxy_jump.as_deref(), Some("op@gate:23"));
    // Both files that are named, in their order; `ssh -G` leaves the variable to us.
    let home = std::env::var("HOME").unwrap();
    assert_eq!(settings.identity_files, [format!("{home}/included").into(), PathBuf::from("/keys/matched")]);
    assert!(settings.identities_only);
    assert_eq!(settings.known_as(), "of-more");
    let given = Settings::resolve(&target("prom:24", Some("me")), &env, Deadline::secs(20)).unwrap();
    assert_eq!((given.port, given.user.as_str()), (24, "me"));
}

proptest! {
    #[test]
    fn nothing_that_is_printed_or_typed_makes_it_panic(printed in "(?s).{0,300}", host in ".{0,30}") {
        let _ = applied(&printed);
        let _ = HostPort::parse(&host);
        let _ = plain("prom").tokens(&printed, &env(), &|v| Ok(v.to_owned()));
        let _ = crate::ssh::keys::PublicKey::parse(&printed);
        let _ = crate::ssh::keys::inspect_private(&printed);
    }
}
