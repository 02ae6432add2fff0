//! From what the daemon says to what a person can do about it.

use fleet_core::{Error, Kind, again};
use serde_json::Value;

use super::wire::Answer;

/// The words of a refusal: `message` where there is one, else the reason; and `errors` by parameter.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Words {
    /// The whole message, trimmed.
    pub message: String,
    /// Parameter and what is wrong with it, sorted.
    pub parameters: Vec<(String, String)>,
}

impl Words {
    /// What an answer says.
    pub fn of(answer: &Answer) -> Words {
        let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let message = body.get("message").and_then(Value::as_str).unwrap_or_default().trim();
        let message = if message.is_empty() { answer.reason.trim() } else { message };
        let mut parameters: Vec<(String, String)> = body
            .get("errors")
            .and_then(Value::as_object)
            .map(|errors| {
                errors
                    .iter()
                    .map(|(name, text)| {
                        let text = text.as_str().map_or_else(|| text.to_string(), str::to_owned);
                        (name.clone(), text.trim().to_owned())
                    })
                    .collect()
            })
            .unwrap_or_default();
        parameters.sort();
        Words { message: message.to_owned(), parameters }
    }
}

/// The error for an answer of status 400 or more. `what` says what was tried: "start VM 110".
pub fn of_answer(what: &str, answer: &Answer) -> Error {
    let words = Words::of(answer);
    let said = &words.message;
    match answer.status {
        401 => Error::new(Kind::Unreachable, format!("can not {what}: the Proxmox API refused the login ({said})"))
            .hint("with a token: `pveum user token list USER@REALM` on the node shows it and when it expires")
            .hint("with root's ticket: `timedatectl` on the node; its clock or `pvecm updatecerts` may be the reason"),
        403 => forbidden(what, said),
        501 => Error::failed(format!("can not {what}: this node's API does not offer it ({said})"))
            .hint("`pveversion` on the node; Proxmox VE 8 or newer is needed"),
        _ => by_parameter(of_text(what, said), &words),
    }
}

/// Told at once, or by a task that finds it out later.
fn forbidden(what: &str, said: &str) -> Error {
    Error::failed(format!("can not {what}: permission missing: {}", permission(said)))
        .hint("`pveum user permissions USER@REALM` on the node lists what it may do")
}

fn permission(said: &str) -> &str {
    said.trim_start_matches("Permission check failed").trim().trim_matches(['(', ')'])
}

fn by_parameter(error: Error, words: &Words) -> Error {
    let taken = words.parameters.iter().any(|(_, text)| text.contains("already exists"));
    let missing = words.parameters.iter().any(|(_, text)| text.contains("No such storage"));
    let error = match (taken, missing) {
        (true, _) => error.with_kind(Kind::Conflict),
        (_, true) => error.with_kind(Kind::NotFound),
        _ => error,
    };
    let unfit = words.parameters.iter().any(|(_, text)| text.contains("does not support vm images"));
    let error = if unfit {
        error.hint(format!("`{}` shows which storages take images", again::ops("storage")))
    } else {
        error
    };
    words.parameters.iter().fold(error, |error, (name, text)| error.now(format!("{name}: {text}")))
}

/// The error for words of the daemon or of a task's exit status. `what` says what was tried.
pub fn of_text(what: &str, said: &str) -> Error {
    let said = said.trim();
    let kind = kind_of(said);
    if let Some((_, rest)) = said.split_once("Permission check failed") {
        return forbidden(what, rest);
    }
    if let Some(vmid) = missing_vm(said) {
        return Error::new(kind, format!("can not {what}: there is no VM {vmid}"))
            .now(format!("the node says: {said}"))
            .hint(format!("`{}` shows what exists", again::ops("list")));
    }
    let error = Error::new(kind, format!("can not {what}: {said}"));
    if said.starts_with("VM is locked") || said.starts_with("CT is locked") {
        return error.now(format!("the lock '{}' is on it", lock_of(said)));
    }
    if is_storage_lock_timeout(said) {
        return error.now("something else on the node held that lock all the time").hint(
            "`pvenode task list --source active` on the node shows what is running; then run this again",
        );
    }
    if is_lock_timeout(said) {
        return error
            .now("something else on the node held the lock for 10 s; nothing was changed")
            .hint(
                "`pvenode task list --source active` on the node shows what is running; then run this again",
            )
            // No task of the list: `qm cleanup` of a run that ended, which takes the new one for it.
            .hint("a VM that was stopped and started at once is kept so for up to 30 s");
    }
    if said.contains("hostname lookup") || said.contains("proxy not allowed") {
        return error
            .hint("a node answers only for itself: connect to the node that owns the VM with --host");
    }
    if said.contains("protection mode enabled") {
        return error.with_kind(Kind::Refused).hint(
            "its `protection` flag is set in Proxmox: `qm set VMID --protection 0` on the node takes it off",
        );
    }
    if said.contains("still in use by linked clone") {
        return error.hint(format!("destroy the clones first; `{}` shows them", again::ops("list")));
    }
    if said.starts_with("MAX ") && said.contains("vcpus allowed") {
        let vmid = what.rsplit_once("VM ").map_or("VMID", |(_, vmid)| vmid);
        let fewer = again::change(format_args!("configure {vmid} CORES MEMORY"));
        return error.hint(format!("give it fewer cores: `{fewer}`"));
    }
    match kind {
        Kind::NotFound if said.contains("storage") => {
            error.hint(format!("`{}` lists the storages", again::ops("storage")))
        }
        Kind::NotFound | Kind::Conflict => error.hint(format!("`{}` shows what exists", again::ops("list"))),
        _ => error,
    }
}

/// The VM whose configuration the node does not find.
fn missing_vm(said: &str) -> Option<&str> {
    let of_file = said.strip_prefix("Configuration file 'nodes/").and_then(|rest| {
        let (_, file) = rest.strip_suffix("' does not exist")?.split_once("/qemu-server/")?;
        file.strip_suffix(".conf")
    });
    of_file.or_else(|| said.strip_prefix("unable to find configuration file for VM ")?.split(' ').next())
}

/// What a VM is locked by, in these words: `VM is locked (backup)`.
pub fn lock_of(said: &str) -> &str {
    let after = said.split_once("is locked (").map_or("", |(_, rest)| rest);
    after.split(')').next().filter(|by| !by.is_empty()).unwrap_or("something")
}

fn kind_of(said: &str) -> Kind {
    let missing_config = said.contains("Configuration file '") && said.contains("does not exist");
    if missing_config
        || said.contains("unable to find configuration file for VM")
        || said.starts_with("storage '") && said.contains("does not exist")
        || said.starts_with("disk '") && said.contains("does not exist")
        || said.starts_with("no such")
    {
        return Kind::NotFound;
    }
    if said.contains("already exists") || said.ends_with("File exists") {
        return Kind::Conflict;
    }
    Kind::Failed
}

/// Whether these words tell that a lock was not had in time: nothing was done, and it may be tried again.
pub fn is_lock_timeout(said: &str) -> bool {
    (said.contains("can't lock file") || said.contains("cfs-lock") || said.contains("can't acquire lock"))
        && said.contains("timeout")
}

/// Whether the lock that was not had is not the VM's own file: a storage's for instance, for which a request may come
/// to wait when some of it is done.
pub fn is_storage_lock_timeout(said: &str) -> bool {
    is_lock_timeout(said) && !said.contains("/qemu-server/lock-")
}

/// Whether an error of ours says that a permission is missing.
pub fn is_forbidden(said: &str) -> bool {
    said.contains("permission missing: ")
}

/// Whether these words tell that the configuration is another one than its digest says.
pub fn is_edited(said: &str) -> bool {
    said.contains("checksum mismatch (file change by other user?)")
        || said.contains("detected modified configuration - file changed by other user?")
}

/// Whether these words tell that the VM has a lock in its configuration.
pub fn is_locked(said: &str) -> bool {
    said.contains("VM is locked (")
}

/// Whether the daemon forgot who was asking (a race in it, before anything is done): it may be asked again.
pub fn is_forgotten_user(said: &str) -> bool {
    said.trim() == "user name not set"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, reason: &str, body: &str) -> Answer {
        Answer { status, reason: reason.into(), body: body.into() }
    }

    #[test]
    fn errors_by_parameter_are_all_shown() {
        let body = r#"{"data":null,"message":"Parameter verification failed.\n","errors":{"newid":"type check ('integer') failed - got 'abc'","name":"invalid format - value does not look like a valid DNS name\n"}}"#;
        let error = of_answer("clone VM 9002", &answer(400, "Parameter verification failed.", body));
        assert_eq!(error.kind(), Kind::Failed);
        assert_eq!(error.message(), "can not clone VM 9002: Parameter verification failed.");
        assert_eq!(
            error.facts(),
            [
                "name: invalid format - value does not look like a valid DNS name",
                "newid: type check ('integer') failed - got 'abc'"
            ]
        );
    }

    #[test]
    fn the_words_decide_the_kind() {
        let cases = [
            ("Configuration file 'nodes/prom/qemu-server/999.conf' does not exist", Kind::NotFound),
            ("unable to find configuration file for VM 8999 on node 'prom'", Kind::NotFound),
            ("storage 'nosuch' does not exist", Kind::NotFound),
            ("disk 'scsi9' does not exist", Kind::NotFound),
            ("unable to create VM 110: config file already exists", Kind::Conflict),
            (
                "close (rename) atomic file '/etc/pve/nodes/prom/qemu-server/201.conf' failed: File exists",
                Kind::Conflict,
            ),
            ("VM is locked (backup)", Kind::Failed),
            ("can't remove VM 160 - protection mode enabled", Kind::Refused),
            ("shrinking disks is not supported", Kind::Failed),
            // Not the VM that is missing.
            ("bridge 'vmbr9' does not exist", Kind::Failed),
            ("volume 'nvmeprom:110/vm-110-disk-0.qcow2' does not exist", Kind::Failed),
        ];
        for (said, kind) in cases {
            assert_eq!(of_text("do it", said).kind(), kind, "{said}");
        }
    }

    #[test]
    fn a_daemon_that_is_asked_for_another_node_is_told_with_the_way_there() {
        for said in ["hostname lookup 'b' failed - failed to get address info for: b: x", "proxy not allowed"]
        {
            assert!(of_text("do it", said).hints()[0].contains("--host"), "{said}");
        }
    }

    #[test]
    fn what_may_be_tried_again_is_told_apart() {
        assert!(is_lock_timeout("can't lock file '/var/lock/qemu-server/lock-110.conf' - got timeout"));
        assert!(is_lock_timeout("cfs-lock 'storage-nvmeprom' error: got lock request timeout"));
        assert!(is_storage_lock_timeout("cfs-lock 'storage-nvmeprom' error: got lock request timeout"));
        assert!(is_storage_lock_timeout(
            "can't lock file '/var/lock/pve-manager/pve-storage-a' - got timeout"
        ));
        assert!(!is_storage_lock_timeout(
            "can't lock file '/var/lock/qemu-server/lock-110.conf' - got timeout"
        ));
        assert!(!is_lock_timeout("VM quit/powerdown failed - got timeout"));
        assert!(!is_lock_timeout("VM is locked (backup)"));
        assert!(is_forgotten_user("user name not set\n"));
    }

    #[test]
    fn refused_logins_and_permissions_are_their_own() {
        let error = of_answer("list the VMs", &answer(401, "No ticket", ""));
        assert_eq!(error.kind(), Kind::Unreachable);
        assert!(error.message().contains("No ticket"));
        let body = r#"{"data":null,"message":"Permission check failed (/vms/9002, VM.Clone)\n"}"#;
        let error = of_answer("clone VM 9002", &answer(403, "Permission check failed", body));
        assert_eq!(error.message(), "can not clone VM 9002: permission missing: /vms/9002, VM.Clone");
        let error = of_text("back up VM 110", "403 Permission check failed (/vms/110, VM.Backup)");
        assert_eq!(error.message(), "can not back up VM 110: permission missing: /vms/110, VM.Backup");
        let error = of_answer("x", &answer(501, "Method 'GET /x' not implemented", "{\"data\":null}"));
        assert!(error.message().contains("does not offer it (Method 'GET /x' not implemented)"));
    }
}
