//! `proxmox-ops session`

mod schedule;
mod serve;

use std::{
    io::{BufRead, Read, Write},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

use clap::Args;
use fleet_core::{
    Error, Kind, Result,
    cli::silent_exit,
    guard::Guard,
    interrupt,
    protocol::{Reply, ReplyBody, Request, VERSION},
    types::{VmRef, Vmid},
};
use serde_json::{Value, value::RawValue};

use self::{
    schedule::{AT_ONCE, Schedule},
    serve::{LOOK, Server, is_lost},
};
use crate::{cluster::Cluster, context::Context, links::Links};

/// Serve requests, JSON lines on standard input, over one connection; answers are JSON lines on standard output
///
/// Several requests may be under way at once: answers come as they are ready, by the request's id. Ends with its
/// input, when everything is answered. What can be asked is in docs/session.md. A failure that belongs to no
/// request (no repository, no connection) is answered with id 0.
#[derive(Debug, Args)]
pub struct Session {
    /// Let requests change this VM although no definition has it: its VMID, or its name if no other VM of the cluster
    /// has that
    #[arg(long, value_name = "VMID")]
    unmanaged: Option<VmRef>,
    /// Seconds that one request may take
    #[arg(long, value_name = "SECONDS", default_value_t = 3600, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    wait: u64,
}

/// What the reader of requests and the workers share.
#[derive(Default)]
struct Desk {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    schedule: Schedule,
    /// No more requests will come.
    ended: bool,
    /// Nobody reads the answers any more.
    unread: bool,
    /// What became of standard input, when it could not be read.
    unreadable: Option<std::io::Error>,
    workers: usize,
    idle: usize,
}

impl Desk {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }

    /// Waits for a change, or a moment.
    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait_timeout(state, LOOK).unwrap_or_else(PoisonError::into_inner).0
    }

    /// Writes an answer. When nobody reads, nothing more is begun, and what waits stops at a safe point.
    fn reply(&self, id: u64, body: ReplyBody<Box<RawValue>>) {
        if reply(id, body).is_err() {
            interrupt::ask();
            self.change(|state| state.unread = true);
        }
    }
}

impl Session {
    /// Runs it. A failure is told to the asking side first, and then by the exit code alone.
    pub fn run(&self, context: Result<Context>) -> Result<()> {
        let outcome = context.and_then(|cx| {
            interrupt::install()?;
            let links = Links::connect(&cx.settings, cx.ui).map_err(|e| cx.settings.named(e))?;
            let links = Arc::new(links);
            let unmanaged =
                self.unmanaged.as_ref().map(|vm| Cluster::over(&links, cx.ui).vmid(vm)).transpose()?;
            Ok((cx, links, unmanaged))
        });
        let (cx, links, unmanaged) = match outcome {
            Ok(both) => both,
            Err(e) => {
                // Nobody reads it any more: the exit code still tells.
                let _ = reply(0, ReplyBody::Error(e.report()));
                return Err(silent_exit(e.kind()));
            }
        };
        let desk = Arc::new(Desk::default());
        let reader = Arc::clone(&desk);
        // It may wait for input for ever; the process ends without it.
        std::thread::spawn(move || read_requests(&reader));
        std::thread::scope(|scope| {
            let mut state = desk.lock();
            while !(state.unread || state.ended && state.schedule.is_idle()) {
                if interrupt::asked() {
                    break;
                }
                if state.idle == 0 && state.workers < AT_ONCE && state.schedule.can_begin() {
                    // Counted as idle until it has looked for work.
                    state.workers += 1;
                    state.idle += 1;
                    let (desk, cx, links) = (&desk, &cx, &links);
                    scope.spawn(move || self.work(desk, cx, links, unmanaged));
                }
                state = desk.wait(state);
            }
            state.ended = true;
            let abandoned = state.schedule.abandon();
            drop(state);
            desk.changed.notify_all();
            for request in abandoned {
                let error = Error::interrupted("stopped by the user").now("it was not begun");
                desk.reply(request.id, ReplyBody::Error(error.report()));
            }
        });
        let state = desk.lock();
        if state.unread {
            // Whoever asked is gone: there is nobody to tell it to.
            return Err(silent_exit(Kind::Failed));
        }
        if interrupt::asked() {
            return Err(silent_exit(Kind::Interrupted));
        }
        match &state.unreadable {
            Some(e) => Err(Error::failed(format!("can not read a request: {e}"))),
            None => Ok(()),
        }
    }

    /// One worker: takes requests as they may begin, until there are no more.
    fn work(&self, desk: &Desk, cx: &Context, links: &Arc<Links>, unmanaged: Option<Vmid>) {
        let mut session = links.first();
        let mut cluster = Cluster::over(links, cx.ui);
        let mut state = desk.lock();
        loop {
            let stopped = state.unread || interrupt::asked();
            let next = if stopped { None } else { state.schedule.begin() };
            if let Some((begun, request)) = next {
                state.idle -= 1;
                drop(state);
                // Another may begin beside it.
                desk.changed.notify_all();
                let mut outcome = self.serve(desk, cx, &cluster, unmanaged, &request);
                if let Err(e) = &outcome
                    && is_lost(e)
                {
                    let reads = !schedule::changes(&request.op);
                    let again = links.first_again(&session).map(|fresh| {
                        session = fresh;
                        cluster = Cluster::over(links, cx.ui);
                    });
                    if again.is_ok() && reads && !interrupt::asked() {
                        outcome = self.serve(desk, cx, &cluster, unmanaged, &request);
                    }
                }
                // First, so that who asks again at once needs no other worker; what waits for this one begins when
                // its answer is written, so that answers about one VM keep their order.
                desk.change(|state| state.idle += 1);
                desk.reply(
                    request.id,
                    match outcome {
                        Ok(value) => ReplyBody::Ok(value),
                        Err(e) => ReplyBody::Error(cx.settings.named(e).report()),
                    },
                );
                desk.change(|state| state.schedule.end(begun));
                state = desk.lock();
            } else if stopped || state.ended && state.schedule.is_idle() {
                state.workers -= 1;
                state.idle -= 1;
                return;
            } else {
                state = desk.wait(state);
            }
        }
    }

    fn serve(
        &self,
        desk: &Desk,
        cx: &Context,
        cluster: &Cluster,
        unmanaged: Option<Vmid>,
        request: &Request,
    ) -> Result<Box<RawValue>> {
        let guard = Guard::new(&cx.definitions, unmanaged);
        let guard = match &self.unmanaged {
            Some(VmRef::Name(name)) => guard.called(name),
            _ => guard,
        };
        let server = Server { cx, cluster, guard, wait: self.wait };
        let mut thinned = crate::tasks::Thinned::default();
        server.serve(&request.op, &mut |line| {
            if thinned.shows(line) {
                desk.reply(request.id, ReplyBody::Progress(line.to_owned()));
            }
        })
    }
}

/// The most bytes that a request may have: four cloud-init documents, each as long as Proxmox reads one (1 MiB) and
/// each byte of them written as JSON's `\u0000`, and room for the rest.
const LONGEST: usize = 32 << 20;

/// Reads requests until there are no more. What is none is answered at once.
fn read_requests(desk: &Desk) {
    let mut input = std::io::stdin().lock();
    loop {
        match next_line(&mut input) {
            Ok(None) => break,
            Ok(Some(line)) => match line.and_then(|line| parse(&line)) {
                Ok(Some(request)) => desk.change(|state| state.schedule.push(request)),
                Ok(None) => {}
                Err((id, e)) => desk.reply(id, ReplyBody::Error(e.report())),
            },
            Err(e) => {
                desk.change(|state| state.unreadable = Some(e));
                break;
            }
        }
    }
    desk.change(|state| state.ended = true);
}

/// What is wrong with a request, and the id that it is told under.
type Wrong = (u64, Error);

/// The next line, which need be no text; one that is too long is passed over.
fn next_line(input: &mut impl BufRead) -> std::io::Result<Option<Result<Vec<u8>, Wrong>>> {
    let mut line = Vec::new();
    let most = u64::try_from(LONGEST).unwrap_or(u64::MAX);
    if input.by_ref().take(most + 1).read_until(b'\n', &mut line)? == 0 {
        return Ok(None);
    }
    if line.len() > LONGEST && !line.ends_with(b"\n") {
        drop(line);
        input.skip_until(b'\n')?;
        let long = Error::usage(format!("a request has more than {LONGEST} bytes")).now("it was passed over");
        return Ok(Some(Err((0, long))));
    }
    Ok(Some(Ok(line)))
}

/// Writes an answer as it is: a list of ten thousand VMs is not copied once more.
fn reply(id: u64, body: ReplyBody<Box<RawValue>>) -> Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, &Reply { v: VERSION, id, body })
        .map_err(std::io::Error::from)
        .and_then(|()| out.write_all(b"\n"))
        .and_then(|()| out.flush())
        .map_err(|e| Error::failed("nobody reads the answers").caused_by(e))
}

/// Reads a request, if the line has one; what is wrong with it is told under its id where it has one.
fn parse(line: &[u8]) -> Result<Option<Request>, Wrong> {
    if line.trim_ascii().is_empty() {
        return Ok(None);
    }
    let value: Value =
        serde_json::from_slice(line).map_err(|e| (0, Error::usage("a request is no JSON").caused_by(e)))?;
    if !value.is_object() {
        return Err((0, Error::usage("a request is an object with `v`, `id` and `op`")));
    }
    let id = value.get("id").and_then(Value::as_u64).unwrap_or(0);
    match value.get("v") {
        Some(v) if v.as_u64() == Some(u64::from(VERSION)) => {}
        Some(v) => {
            let said = format!("a request of version {v}, and this program speaks version {VERSION}");
            return Err((id, Error::usage(said).hint("install all of the fleet tools together")));
        }
        None => return Err((id, Error::usage(format!("a request without a version: `v` is {VERSION}")))),
    }
    if id == 0 {
        return Err((id, Error::usage("a request without an id: `id` is a whole number from 1")));
    }
    serde_json::from_value(value)
        .map(Some)
        .map_err(|e| (id, Error::usage("a request that this program does not know").caused_by(e)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(line: &[u8]) -> (u64, Error) {
        parse(line).unwrap_err()
    }

    #[test]
    fn requests_that_are_none_are_answered_under_their_id() {
        assert_eq!(parse(br#"{"v":1,"id":7,"op":"start","vmid":110}"#).unwrap().unwrap().id, 7);
        assert!(parse(b" \r\n").unwrap().is_none());
        for (line, id, said) in [
            ("garbage", 0, "no JSON"),
            ("[]", 0, "is an object"),
            ("1", 0, "is an object"),
            (r#"{"v":2,"id":7,"op":"node"}"#, 7, "of version 2,"),
            (r#"{"v":"1","id":7,"op":"node"}"#, 7, "of version \"1\","),
            (r#"{"id":8,"op":"node"}"#, 8, "without a version"),
            (r#"{"v":1,"op":"node"}"#, 0, "without an id"),
            (r#"{"v":1,"id":0,"op":"node"}"#, 0, "a whole number from 1"),
            (r#"{"v":1,"id":-3,"op":"node"}"#, 0, "a whole number from 1"),
            (r#"{"v":1,"id":9,"op":"format-disk","vmid":110}"#, 9, "does not know"),
            (r#"{"v":1,"id":10,"op":"start","vmid":"1;reboot"}"#, 10, "does not know"),
        ] {
            let (told, error) = told(line.as_bytes());
            assert_eq!((told, error.kind()), (id, Kind::Usage), "{line}");
            assert!(error.message().contains(said), "{line}: {error:?}");
        }
        let (id, error) = told(b"\xff\xfe\n");
        assert_eq!((id, error.message()), (0, "a request is no JSON"));
    }

    #[test]
    fn a_line_that_is_too_long_is_passed_over() {
        let lines = |input: &[u8]| {
            let mut input = input;
            std::iter::from_fn(|| next_line(&mut input).unwrap())
                .map(|line| line.map(|line| line.len()))
                .map(|line| line.map_err(|(id, error)| (id, error.kind())))
                .collect::<Vec<_>>()
        };
        let line = |bytes: usize| [vec![b' '; bytes], b"\n".to_vec()].concat();
        assert_eq!(
            lines(&[line(LONGEST), line(LONGEST + 1), line(3)].concat()),
            [Ok(LONGEST + 1), Err((0, Kind::Usage)), Ok(4)]
        );
        assert_eq!(lines(&vec![b' '; LONGEST + 1]), [Err((0, Kind::Usage))]);
        assert_eq!(lines(b"\xff\n{"), [Ok(2), Ok(1)]);
    }
}
