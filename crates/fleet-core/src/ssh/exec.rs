//! Running one command and collecting what it leaves.

use std::io::{Read, Write};

use super::{
    ExecOutput, ExecStatus,
    link::{Chan, Link, Opening, Outcome, Trouble, code, code_of},
};
use crate::{Error, Result, deadline::Deadline};

use std::sync::Arc;

/// Runs `command` to its end. See [`super::Transport::exec`].
pub(super) fn exec(
    link: &Arc<Link>,
    command: &str,
    stdin: &[u8],
    deadline: Deadline,
) -> Outcome<Result<ExecOutput>> {
    let chan = match link.open(&Opening::Session, deadline) {
        Ok(chan) => chan,
        Err(trouble @ (Trouble::Busy | Trouble::Lost(_))) => return Err(trouble),
        Err(trouble) => return Ok(Err(not_started(link, command, &trouble, deadline))),
    };
    if let Err(trouble) = link.begin(&chan, command, deadline) {
        return Ok(Err(match trouble {
            Trouble::Busy => return Err(Trouble::Busy),
            Trouble::Said(e) => {
                Error::failed(format!("{} refused to run `{}`: {}", link.host, shown(command), e.message()))
                    .now("the command did not run")
            }
            other => unfinished(link, command, &other, deadline),
        }));
    }
    Ok(pump(&chan, stdin, deadline).map_err(|trouble| unfinished(link, command, &trouble, deadline)))
}

/// A command as errors name it: its beginning, where it is a program of many lines.
pub(super) fn shown(command: &str) -> std::borrow::Cow<'_, str> {
    const MOST: usize = 120;
    let short: String = command.lines().next().unwrap_or_default().chars().take(MOST).collect();
    if short.len() == command.len() { command.into() } else { (short + "…").into() }
}

/// The channel could not be opened: nothing ran.
pub(super) fn not_started(link: &Link, command: &str, trouble: &Trouble, deadline: Deadline) -> Error {
    let (host, command) = (&link.host, shown(command));
    let error = match trouble {
        Trouble::Deadline => deadline.error(format_args!("{host} to open a channel for `{command}`")),
        Trouble::Said(e) if code_of(e) == code::CHANNEL_FAILURE => {
            Error::failed(format!("{host} refused to open a channel for `{command}`: {}", e.message()))
                .hint("its sshd may limit sessions (MaxSessions), or allow this key no commands")
        }
        other => Error::unreachable(format!("the connection to {host} is lost: {other}")),
    };
    error.now("the command did not run")
}

/// The command was sent and its end is not known.
fn unfinished(link: &Link, command: &str, trouble: &Trouble, deadline: Deadline) -> Error {
    let (host, command) = (&link.host, shown(command));
    if matches!(trouble, Trouble::Deadline) {
        link.suspect();
    }
    match trouble {
        Trouble::Deadline => deadline
            .error(format_args!("`{command}` on {host} to end"))
            .now(format!("it may still be running on {host}")),
        other => Error::outcome_unknown(format!(
            "the connection to {host} was lost while running `{command}`: {other}"
        ))
        .now("whether the command ended, and how, is not known"),
    }
}

/// Feeds and empties the command until its channel is closed.
fn pump(chan: &Chan, stdin: &[u8], deadline: Deadline) -> Outcome<ExecOutput> {
    let link = chan.link();
    let mut buffer = vec![0u8; 64 * 1024];
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let (mut sent, mut eof_sent) = (0, false);
    loop {
        let mut state = link.lock();
        let mut channel = chan.handle()?;
        let drain = channel.clone();
        let mut moved = false;
        if sent < stdin.len() {
            match link.attempt(&mut state, deadline, Some(&drain), |state| {
                write(&state.session, &mut channel, &stdin[sent..])
            }) {
                Ok(Some(n @ 1..)) => {
                    sent += n;
                    moved = true;
                }
                Ok(_) => {}
                // It wants no more input: not an error of the command's.
                Err(Trouble::Said(_)) => sent = stdin.len(),
                Err(other) => return Err(other),
            }
        }
        if sent == stdin.len() && !eof_sent {
            match link.attempt(&mut state, deadline, Some(&drain), |_| channel.send_eof()) {
                Ok(None) => {}
                Ok(Some(())) | Err(Trouble::Said(_)) => eof_sent = true,
                Err(other) => return Err(other),
            }
        }
        for (stream, out) in [(0, &mut stdout), (1, &mut stderr)] {
            let mut stream = channel.stream(stream);
            let read = link.attempt(&mut state, deadline, Some(&drain), |state| {
                read(&state.session, &mut stream, &mut buffer)
            })?;
            if let Some(n @ 1..) = read {
                out.extend_from_slice(&buffer[..n]);
                moved = true;
            }
        }
        // The end of the output is not the end of the command: that is the channel's close.
        if channel.eof() && link.attempt(&mut state, deadline, None, |_| channel.wait_close())?.is_some() {
            let status = status(&channel).map_err(Trouble::Said)?;
            return Ok(ExecOutput { stdout, stderr, status });
        }
        drop((channel, drain));
        drop(state);
        if deadline.passed() {
            return Err(Trouble::Deadline);
        }
        if !moved {
            link.wait(deadline)?;
        }
    }
}

/// How a command ended whose channel is closed. libssh2 says 0 for death by signal, so that is looked at first.
pub(super) fn status(channel: &ssh2::Channel) -> std::result::Result<ExecStatus, ssh2::Error> {
    match channel.exit_signal()?.exit_signal {
        Some(signal) => Ok(ExecStatus::Signal(signal)),
        None => channel.exit_status().map(ExecStatus::Code),
    }
}

/// A read with libssh2's own error, which [`std::io::Error`] hides.
pub(super) fn read(
    session: &ssh2::Session,
    stream: &mut ssh2::Stream,
    buffer: &mut [u8],
) -> std::result::Result<usize, ssh2::Error> {
    stream.read(buffer).map_err(|e| own_error(session, &e))
}

/// A write with libssh2's own error.
pub(super) fn write(
    session: &ssh2::Session,
    channel: &mut ssh2::Channel,
    bytes: &[u8],
) -> std::result::Result<usize, ssh2::Error> {
    channel.write(bytes).map_err(|e| own_error(session, &e))
}

fn own_error(session: &ssh2::Session, error: &std::io::Error) -> ssh2::Error {
    if error.kind() == std::io::ErrorKind::WouldBlock {
        return ssh2::Error::from_errno(ssh2::ErrorCode::Session(code::EAGAIN));
    }
    ssh2::Error::last_session_error(session).unwrap_or_else(ssh2::Error::unknown)
}
